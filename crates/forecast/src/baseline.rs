//! Seasonal naive: the forecast every model must beat.
//!
//! The last season repeats; its quantiles are normal with the root mean square of the
//! seasonal differences of the last 20 seasons, growing with the square root of the seasons
//! ahead. Missing values are filled forward, then backward.

use base::{Error, Result};

use crate::calendar::Frequency;
use crate::predict::{Forecast, Parameters, PredictOptions, Predictor};
use crate::series::TimeSeries;

/// How many seasons the residuals are taken from.
const RESIDUAL_SEASONS: usize = 20;

/// Repeats the last season.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeasonalNaive {
    freq: Frequency,
    season: usize,
    prediction_length: usize,
}

impl SeasonalNaive {
    /// Repeats the last `season` steps for `prediction_length` steps.
    pub fn new(freq: Frequency, season: usize, prediction_length: usize) -> Result<Self> {
        if season == 0 || prediction_length == 0 {
            return Err(Error::invalid(format!(
                "seasonal naive with a season of {season} and a horizon of {prediction_length} steps"
            )));
        }
        Ok(SeasonalNaive { freq, season, prediction_length })
    }

    /// The season of the frequency itself ([`Frequency::season`]).
    pub fn for_freq(freq: Frequency, prediction_length: usize) -> Result<Self> {
        SeasonalNaive::new(freq, freq.season(), prediction_length)
    }

    fn forecast(
        &self,
        series: &TimeSeries,
        index: usize,
        options: &PredictOptions,
    ) -> Result<Forecast> {
        let filled = fill(&series.target)
            .ok_or_else(|| Error::invalid(format!("{}: no observed point", series.label(index))))?;
        // A history shorter than a season repeats its last value.
        let season = if filled.len() >= self.season { self.season } else { 1 };
        let recent = RESIDUAL_SEASONS.saturating_mul(season).saturating_add(self.prediction_length);
        let recent = &filled[filled.len().saturating_sub(recent)..];
        let last = &recent[recent.len() - season..];
        let spread = residual(recent, season);
        let at = |t: usize, z: f64| {
            let seasons_ahead = (t / season + 1) as f64;
            (last[t % season] + z * spread * seasons_ahead.sqrt()) as f32
        };
        let path = |z: f64| (0..self.prediction_length).map(|t| at(t, z)).collect::<Vec<f32>>();
        let samples = options.want_samples.then(|| {
            let mut noise = Noise(options.seed.unwrap_or(0) ^ index as u64);
            (0..options.num_samples)
                .map(|_| (0..self.prediction_length).map(|t| at(t, noise.normal())).collect())
                .collect()
        });
        Ok(Forecast {
            item_id: series.item_id.clone(),
            start: self.freq.advance(series.start, series.target.len() as i64),
            freq: self.freq,
            mean: path(0.0),
            quantiles: options.quantiles.iter().map(|q| (*q, path(normal_quantile(*q)))).collect(),
            samples,
            parameters: options.want_parameters.then(|| {
                let sigma = |t: usize| (spread * ((t / season + 1) as f64).sqrt()) as f32;
                let sigma = (0..self.prediction_length).map(sigma).collect();
                Parameters { law: "gaussian", values: vec![("mean", path(0.0)), ("sigma", sigma)] }
            }),
        })
    }
}

impl Predictor for SeasonalNaive {
    fn freq(&self) -> Frequency {
        self.freq
    }

    fn prediction_length(&self) -> usize {
        self.prediction_length
    }

    /// Quantiles are those of the normal law itself, not of the samples.
    fn predict(&self, series: &[TimeSeries], options: &PredictOptions) -> Result<Vec<Forecast>> {
        options.validate()?;
        series
            .iter()
            .enumerate()
            .map(|(index, series)| self.forecast(series, index, options))
            .collect()
    }
}

fn fill(target: &[f32]) -> Option<Vec<f64>> {
    let first = *target.iter().find(|value| !value.is_nan())?;
    let mut last = first;
    let carry = |value: &f32| {
        last = if value.is_nan() { last } else { *value };
        f64::from(last)
    };
    Some(target.iter().map(carry).collect())
}

fn residual(values: &[f64], season: usize) -> f64 {
    let squares = values.windows(season + 1).map(|pair| (pair[season] - pair[0]).powi(2));
    let (sum, count) = squares.fold((0.0, 0u64), |(sum, count), square| (sum + square, count + 1));
    if count == 0 { 0.0 } else { (sum / count as f64).sqrt() }
}

/// SplitMix64: enough for the samples of a baseline.
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn normal(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let uniform = ((mixed ^ (mixed >> 31)) >> 11) as f64 + 0.5;
        normal_quantile(uniform / (1u64 << 53) as f64)
    }
}

/// The quantile of the standard normal law, by Acklam's rational approximation (relative
/// error below 1.2e-9). NaN outside (0, 1).
pub fn normal_quantile(p: f64) -> f64 {
    const A: [f64; 6] = [
        -3.969683028665376e1,
        2.209460984245205e2,
        -2.759285104469687e2,
        1.38357751867269e2,
        -3.066479806614716e1,
        2.506628277459239,
    ];
    const B: [f64; 6] = [
        -5.447609879822406e1,
        1.615858368580409e2,
        -1.556989798598866e2,
        6.680131188771972e1,
        -1.328068155288572e1,
        1.0,
    ];
    const C: [f64; 6] = [
        -7.784894002430293e-3,
        -3.223964580411365e-1,
        -2.400758277161838,
        -2.549732539343734,
        4.374664141464968,
        2.938163982698783,
    ];
    const D: [f64; 5] =
        [7.784695709041462e-3, 3.224671290700398e-1, 2.445134137142996, 3.754408661907416, 1.0];
    const TAIL: f64 = 0.02425;
    let horner = |c: &[f64], x: f64| c.iter().fold(0.0, |sum, c| sum * x + c);
    if !(p > 0.0 && p < 1.0) {
        f64::NAN
    } else if p < TAIL {
        let x = (-2.0 * p.ln()).sqrt();
        horner(&C, x) / horner(&D, x)
    } else if p > 1.0 - TAIL {
        -normal_quantile(1.0 - p)
    } else {
        let x = p - 0.5;
        x * horner(&A, x * x) / horner(&B, x * x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn naive(season: usize, horizon: usize) -> SeasonalNaive {
        SeasonalNaive::new(Frequency::HOURLY, season, horizon).unwrap()
    }

    fn series(target: &[f32]) -> TimeSeries {
        TimeSeries { target: target.to_vec().into(), ..TimeSeries::default() }
    }

    #[test]
    fn normal_quantiles_match_the_tables() {
        for (p, z) in [
            (0.1, -1.2815515655),
            (0.4, -0.2533471031),
            (0.5, 0.0),
            (0.975, 1.9599639845),
            (0.001, -3.0902323062),
        ] {
            assert!((normal_quantile(p) - z).abs() < 1e-8, "{p}");
        }
        assert!(normal_quantile(0.0).is_nan() && normal_quantile(f64::NAN).is_nan());
    }

    #[test]
    fn repeats_the_season_and_fills_gaps() {
        let options = PredictOptions::default();
        let target = [f32::NAN, 1.0, 5.0, f32::NAN, 3.0];
        let forecast = &naive(2, 5).predict(&[series(&target)], &options).unwrap()[0];
        assert_eq!(forecast.mean, [5.0, 3.0, 5.0, 3.0, 5.0]);
        // Filled: 1 1 5 5 3; seasonal differences 4, 4, -2: rms sqrt(12).
        let high = forecast.quantile(0.9).unwrap();
        let expect = |seasons: f64| normal_quantile(0.9) * (12.0 * seasons).sqrt();
        assert!((f64::from(high[1]) - 3.0 - expect(1.0)).abs() < 1e-5);
        assert!((f64::from(high[4]) - 5.0 - expect(3.0)).abs() < 1e-5);
    }

    #[test]
    fn short_and_empty_histories() {
        let options = PredictOptions::default();
        let forecast = &naive(24, 2).predict(&[series(&[7.0])], &options).unwrap()[0];
        assert_eq!(forecast.quantile(0.9).unwrap(), [7.0, 7.0]);
        for target in [&[][..], &[f32::NAN]] {
            let error = naive(24, 2).predict(&[series(target)], &options).unwrap_err();
            assert!(error.to_string().contains("series 0: no observed point"));
        }
    }

    #[test]
    fn samples_follow_the_law_and_the_seed() {
        let options = PredictOptions {
            num_samples: 4000,
            seed: Some(5),
            want_samples: true,
            ..PredictOptions::default()
        };
        let target: Vec<f32> = (0..40).map(|t| (t * t % 17) as f32).collect();
        let history = [series(&target)];
        let forecast = &naive(1, 1).predict(&history, &options).unwrap()[0];
        let again = &naive(1, 1).predict(&history, &options).unwrap()[0];
        assert_eq!(forecast, again);
        let samples = forecast.samples.as_ref().unwrap();
        let below = samples.iter().filter(|path| path[0] < forecast.quantiles[8].1[0]).count();
        assert!((3500..3700).contains(&below), "{below}");
    }
}
