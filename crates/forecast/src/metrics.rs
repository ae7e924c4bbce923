//! How good a forecast was, by the formulas of the GluonTS evaluator and of DeepAR's test
//! report.
//!
//! For true values z, the value zq at level q, the median m and the mean forecast f, over all
//! observed points of all windows:
//!
//! * wQuantileLoss(q) = 2 sum |(z - zq)(1[z <= zq] - q)| / sum |z|
//! * ND = sum |z - m| / sum |z|, which is wQuantileLoss(0.5)
//! * RMSE = sqrt(mean (z - f)^2)
//! * coverage(q) = share of z below zq
//!
//! and per window, then averaged over windows:
//!
//! * MASE = mean |z - m| / mean |h_t - h_(t - season)| over the window's history h
//! * sMAPE = mean 2 |z - m| / (|z| + |m|)
//!
//! Missing points count nowhere. A window whose history has no season, or does not move, has
//! no MASE and is left out of that mean only. Ratios without a denominator are NaN, never
//! zero: nothing measured must not look like a perfect score.

use base::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::predict::{Forecast, check_quantiles};

/// The measures of a set of forecasts. NaN (null in JSON) where nothing could be measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// The levels scored.
    pub quantiles: Vec<f64>,
    /// Weighted quantile loss at each level.
    #[serde(deserialize_with = "nan_for_null_list")]
    pub w_quantile_loss: Vec<f64>,
    /// Share of points below the forecast at each level; a calibrated level q has q.
    #[serde(deserialize_with = "nan_for_null_list")]
    pub coverage: Vec<f64>,
    /// Mean of `w_quantile_loss`.
    #[serde(deserialize_with = "nan_for_null")]
    pub mean_w_quantile_loss: f64,
    /// Mean over levels of the quantile loss summed over points, not divided by sum |z|.
    #[serde(deserialize_with = "nan_for_null")]
    pub mean_absolute_quantile_loss: f64,
    /// Normalised deviation of the median.
    #[serde(deserialize_with = "nan_for_null")]
    pub nd: f64,
    /// Mean absolute error of the median, in units of the seasonal naive's in-sample error.
    #[serde(deserialize_with = "nan_for_null")]
    pub mase: f64,
    /// Symmetric relative error of the median, 0 to 2.
    #[serde(deserialize_with = "nan_for_null")]
    pub smape: f64,
    /// Root mean squared error of the mean.
    #[serde(deserialize_with = "nan_for_null")]
    pub rmse: f64,
    /// Forecasts scored.
    pub windows: u64,
    /// Observed points scored.
    pub points: u64,
}

fn nan_for_null<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

fn nan_for_null_list<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<f64>, D::Error> {
    let list = Vec::<Option<f64>>::deserialize(deserializer)?;
    Ok(list.into_iter().map(|value| value.unwrap_or(f64::NAN)).collect())
}

/// Adds windows up into [`Scores`].
///
/// ```
/// use forecast::{DateTime, Forecast, Frequency, PredictOptions, Scorer};
///
/// let options = PredictOptions { quantiles: vec![0.1, 0.5, 0.9], ..PredictOptions::default() };
/// // One step, five paths.
/// let paths = [vec![1.0, 2.0, 3.0, 4.0, 5.0]];
/// let made = Forecast::from_steps(None, DateTime(0), Frequency::HOURLY, &paths, &options);
/// let mut scorer = Scorer::new(&options.quantiles, 24)?;
/// scorer.add(&[2.0, 3.0, 2.0], &[4.0], &made)?;
/// let scores = scorer.finish();
/// assert_eq!(scores.coverage, [0.0, 0.0, 1.0]);
/// assert_eq!(scores.mase, 1.0);
/// # Ok::<(), base::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Scorer {
    quantiles: Vec<f64>,
    season: usize,
    quantile_loss: Vec<f64>,
    below: Vec<u64>,
    abs_error: f64,
    abs_target: f64,
    squared_error: f64,
    mase: Mean,
    smape: Mean,
    windows: u64,
    points: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    fn add(&mut self, value: f64) {
        if value.is_finite() {
            self.sum += value;
            self.count += 1;
        }
    }

    fn get(self) -> f64 {
        self.sum / self.count as f64
    }
}

impl Scorer {
    /// Scores the given levels; `season` is [`crate::Frequency::season`] unless you know better.
    pub fn new(quantiles: &[f64], season: usize) -> Result<Self> {
        check_quantiles(quantiles)?;
        if season == 0 {
            return Err(Error::invalid("a season of 0 steps"));
        }
        Ok(Scorer {
            quantiles: quantiles.to_vec(),
            season,
            quantile_loss: vec![0.0; quantiles.len()],
            below: vec![0; quantiles.len()],
            abs_error: 0.0,
            abs_target: 0.0,
            squared_error: 0.0,
            mase: Mean::default(),
            smape: Mean::default(),
            windows: 0,
            points: 0,
        })
    }

    /// Adds one forecast, the truth it met (NaN where missing; may be shorter than the
    /// forecast) and the history it was made from. The forecast must hold the scored levels
    /// and the median, or samples.
    pub fn add(&mut self, history: &[f32], truth: &[f32], forecast: &Forecast) -> Result<()> {
        if truth.len() > forecast.mean.len() {
            let (found, len) = (truth.len(), forecast.mean.len());
            return Err(Error::invalid(format!(
                "{found} true values for a forecast of {len} steps"
            )));
        }
        let median = forecast.quantile(0.5)?;
        let levels: Vec<Vec<f32>> =
            self.quantiles.iter().map(|q| forecast.quantile(*q)).collect::<Result<_>>()?;
        let (mut abs_error, mut relative, mut points) = (0.0, 0.0, 0u64);
        for (t, z) in truth.iter().enumerate().filter(|(_, z)| !z.is_nan()) {
            let z = f64::from(*z);
            let m = f64::from(median[t]);
            points += 1;
            abs_error += (z - m).abs();
            // Zero forecast as zero is right, not undefined.
            let size = z.abs() + m.abs();
            relative += if size > 0.0 { 2.0 * (z - m).abs() / size } else { 0.0 };
            self.abs_target += z.abs();
            self.squared_error += (z - f64::from(forecast.mean[t])).powi(2);
            for (k, (q, values)) in self.quantiles.iter().zip(&levels).enumerate() {
                let zq = f64::from(values[t]);
                let indicator = if z <= zq { 1.0 } else { 0.0 };
                self.quantile_loss[k] += 2.0 * ((z - zq) * (indicator - q)).abs();
                self.below[k] += u64::from(z < zq);
            }
        }
        if points > 0 {
            self.abs_error += abs_error;
            self.smape.add(relative / points as f64);
            let naive = seasonal_error(history, self.season);
            self.mase.add(abs_error / points as f64 / naive);
        }
        self.windows += 1;
        self.points += points;
        Ok(())
    }

    /// The measures so far.
    pub fn finish(&self) -> Scores {
        let weighted: Vec<f64> =
            self.quantile_loss.iter().map(|sum| sum / self.abs_target).collect();
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        Scores {
            quantiles: self.quantiles.clone(),
            mean_w_quantile_loss: mean(&weighted),
            w_quantile_loss: weighted,
            coverage: self.below.iter().map(|n| *n as f64 / self.points as f64).collect(),
            mean_absolute_quantile_loss: mean(&self.quantile_loss),
            nd: self.abs_error / self.abs_target,
            mase: self.mase.get(),
            smape: self.smape.get(),
            rmse: (self.squared_error / self.points as f64).sqrt(),
            windows: self.windows,
            points: self.points,
        }
    }
}

/// The in-sample error of seasonal naive: mean |h_t - h_(t - season)| over observed pairs.
/// A history no longer than a season is measured step against step, as GluonTS does; NaN if
/// no pair was observed.
pub fn seasonal_error(history: &[f32], season: usize) -> f64 {
    let lag = if season < history.len() { season } else { 1 };
    let mut mean = Mean::default();
    for pair in history.windows(lag + 1) {
        mean.add((f64::from(pair[lag]) - f64::from(pair[0])).abs());
    }
    mean.get()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::{DateTime, Frequency};

    fn forecast(median: &[f32], low: &[f32]) -> Forecast {
        Forecast {
            item_id: None,
            start: DateTime(0),
            freq: Frequency::HOURLY,
            mean: median.to_vec(),
            quantiles: vec![(0.1, low.to_vec()), (0.5, median.to_vec())],
            samples: None,
            parameters: None,
        }
    }

    #[test]
    fn formulas_by_hand() {
        let mut scorer = Scorer::new(&[0.1, 0.5], 2).unwrap();
        let history = [1.0, 2.0, 3.0, f32::NAN, 4.0];
        // Observed seasonal pairs: |3 - 1| and |4 - 3|: mean 1.5.
        assert_eq!(seasonal_error(&history, 2), 1.5);
        scorer
            .add(&history, &[4.0, f32::NAN, -2.0], &forecast(&[5.0, 9.0, -1.0], &[4.5, 9.0, -3.0]))
            .unwrap();
        let scores = scorer.finish();
        assert_eq!((scores.windows, scores.points), (1, 2));
        // Level 0.1: |4 - 4.5| 0.9 + |-2 + 3| 0.1, doubled, over 6.
        assert!((scores.w_quantile_loss[0] - 2.0 * (0.45 + 0.1) / 6.0).abs() < 1e-12);
        assert!((scores.w_quantile_loss[1] - 2.0 / 6.0).abs() < 1e-12);
        assert_eq!(scores.nd, scores.w_quantile_loss[1]);
        assert_eq!(scores.coverage, [0.5, 1.0]);
        assert!((scores.mase - 1.0 / 1.5).abs() < 1e-12);
        assert!((scores.smape - (2.0 / 9.0 + 2.0 / 3.0) / 2.0).abs() < 1e-12);
        assert_eq!(scores.rmse, 1.0);
        assert!((scores.mean_absolute_quantile_loss - (1.1 + 2.0) / 2.0).abs() < 1e-12);
    }

    #[test]
    fn nothing_measured_is_nan_and_survives_json() {
        let mut scorer = Scorer::new(&[0.5], 24).unwrap();
        scorer.add(&[], &[f32::NAN], &forecast(&[1.0], &[1.0])).unwrap();
        let scores = scorer.finish();
        assert!(scores.mase.is_nan() && scores.nd.is_nan() && scores.rmse.is_nan());
        let text = serde_json::to_string(&scores).unwrap();
        let back: Scores = serde_json::from_str(&text).unwrap();
        assert!(back.mase.is_nan() && back.w_quantile_loss[0].is_nan());
    }

    #[test]
    fn a_constant_history_has_no_mase_but_the_rest() {
        let mut scorer = Scorer::new(&[0.5], 1).unwrap();
        scorer.add(&[2.0, 2.0], &[2.0], &forecast(&[3.0], &[3.0])).unwrap();
        let scores = scorer.finish();
        assert!(scores.mase.is_nan());
        assert_eq!(scores.nd, 0.5);
    }

    #[test]
    fn truth_longer_than_the_forecast_is_refused() {
        let mut scorer = Scorer::new(&[0.5], 1).unwrap();
        assert!(scorer.add(&[], &[1.0, 2.0], &forecast(&[3.0], &[3.0])).is_err());
        assert!(Scorer::new(&[0.5], 0).is_err());
    }
}
