//! What a forecast is and who makes one.
//!
//! Invariants
//! * A forecast starts at the step after the last point of the target, observed or not.
//! * The quantiles of one forecast do not cross: they come from one sample set or one law.

use base::{Error, Result};

use crate::calendar::{DateTime, Frequency};
use crate::series::TimeSeries;

/// What is asked of a predictor.
#[derive(Clone, Debug, PartialEq)]
pub struct PredictOptions {
    /// Sample paths drawn per series; quantiles are empirical over them. 1 to 10,000.
    pub num_samples: usize,
    /// Makes the answer repeatable; without one the predictor uses a fixed seed of its own
    /// and mixes in nothing else, so equal requests still get equal answers.
    pub seed: Option<u64>,
    /// The quantile levels wanted, each strictly between 0 and 1.
    pub quantiles: Vec<f64>,
    /// Whether the paths themselves are wanted.
    pub want_samples: bool,
    /// Whether the law's parameters are wanted.
    pub want_parameters: bool,
}

impl Default for PredictOptions {
    /// DeepAR's own defaults: 100 samples, quantiles 0.1 to 0.9, no paths.
    fn default() -> Self {
        let quantiles = (1..10).map(|tenth| f64::from(tenth) / 10.0).collect();
        PredictOptions {
            num_samples: 100,
            seed: None,
            quantiles,
            want_samples: false,
            want_parameters: false,
        }
    }
}

impl PredictOptions {
    /// The most sample paths one request may ask for.
    pub const NUM_SAMPLES_MAX: usize = 10_000;

    /// Checks levels and the number of samples.
    pub fn validate(&self) -> Result<()> {
        if !(1..=Self::NUM_SAMPLES_MAX).contains(&self.num_samples) {
            let (found, max) = (self.num_samples, Self::NUM_SAMPLES_MAX);
            return Err(Error::invalid(format!("num_samples {found} is outside 1..={max}")));
        }
        check_quantiles(&self.quantiles)
    }
}

/// Refuses levels outside (0, 1) and more than a thousand of them.
pub fn check_quantiles(levels: &[f64]) -> Result<()> {
    if levels.len() > 1000 {
        return Err(Error::invalid(format!("{} quantiles asked, at most 1000", levels.len())));
    }
    match levels.iter().find(|level| !(**level > 0.0 && **level < 1.0)) {
        Some(level) => Err(Error::invalid(format!("quantile {level} is not between 0 and 1"))),
        None => Ok(()),
    }
}

/// The future of one series as a law: mean, quantiles and, if asked, sample paths.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// The item it is for.
    pub item_id: Option<String>,
    /// When its first value is due.
    pub start: DateTime,
    /// Its step.
    pub freq: Frequency,
    /// The mean, one value a step.
    pub mean: Vec<f32>,
    /// The levels asked for and their values, one a step.
    pub quantiles: Vec<(f64, Vec<f32>)>,
    /// The paths, `num_samples` of one value a step, if asked for.
    pub samples: Option<Vec<Vec<f32>>>,
    /// The law behind them, if asked for.
    pub parameters: Option<Parameters>,
}

/// The law of each step by its parameters, in the units of the target.
///
/// A predictor that feeds its samples back knows the law of the first step exactly. Further
/// ahead each path has a law of its own; what is given is the mean of their parameters, which
/// tells where and how wide those laws are, and is narrower than the samples: it lacks the
/// spread between paths.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    /// The law's name.
    pub law: &'static str,
    /// Each parameter's name and its values, one a step.
    pub values: Vec<(&'static str, Vec<f32>)>,
}

impl Forecast {
    /// Whether every number of it is finite.
    pub fn is_finite(&self) -> bool {
        let finite = |values: &[f32]| values.iter().all(|value| value.is_finite());
        finite(&self.mean)
            && self.quantiles.iter().all(|(_, values)| finite(values))
            && self.samples.iter().flatten().all(|path| finite(path))
    }

    /// Makes a forecast from sample paths that lie step by step: `steps[t]` holds one value
    /// of every path.
    pub fn from_steps(
        item_id: Option<String>,
        start: DateTime,
        freq: Frequency,
        steps: &[Vec<f32>],
        options: &PredictOptions,
    ) -> Forecast {
        let mean = |step: &Vec<f32>| {
            let sum: f64 = step.iter().map(|value| f64::from(*value)).sum();
            (sum / step.len().max(1) as f64) as f32
        };
        let mut quantiles: Vec<(f64, Vec<f32>)> = options
            .quantiles
            .iter()
            .map(|level| (*level, Vec::with_capacity(steps.len())))
            .collect();
        let mut sorted = Vec::new();
        for step in steps {
            sorted.clear();
            sorted.extend_from_slice(step);
            sorted.sort_unstable_by(f32::total_cmp);
            for (level, values) in &mut quantiles {
                values.push(nearest_rank(&sorted, *level));
            }
        }
        let paths = steps.iter().map(Vec::len).min().unwrap_or(0);
        let samples = options.want_samples.then(|| {
            (0..paths).map(|path| steps.iter().map(|step| step[path]).collect()).collect()
        });
        Forecast {
            item_id,
            start,
            freq,
            mean: steps.iter().map(mean).collect(),
            quantiles,
            samples,
            parameters: None,
        }
    }

    /// Steps ahead.
    pub fn prediction_length(&self) -> usize {
        self.mean.len()
    }

    /// The value at level `q` for every step: as asked for, else from the samples.
    pub fn quantile(&self, q: f64) -> Result<Vec<f32>> {
        // Levels travel as decimal text; 0.1 + 0.2 must still find 0.3.
        if let Some((_, values)) = self.quantiles.iter().find(|(level, _)| (level - q).abs() < 1e-9)
        {
            return Ok(values.clone());
        }
        check_quantiles(&[q])?;
        let Some(samples) = self.samples.as_ref().filter(|samples| !samples.is_empty()) else {
            return Err(Error::invalid(format!(
                "quantile {q} was not asked for and the forecast kept no samples"
            )));
        };
        let column = |t: usize| {
            let mut values: Vec<f32> = samples.iter().map(|path| path[t]).collect();
            values.sort_unstable_by(f32::total_cmp);
            nearest_rank(&values, q)
        };
        Ok((0..self.mean.len()).map(column).collect())
    }
}

/// The nearest-rank quantile GluonTS's evaluator uses: the value at `round((n - 1) q)`.
fn nearest_rank(sorted: &[f32], q: f64) -> f32 {
    let rank = ((sorted.len().max(1) - 1) as f64 * q).round_ties_even() as usize;
    sorted.get(rank).copied().unwrap_or(f32::NAN)
}

/// A trained model or a rule that forecasts.
pub trait Predictor: Send + Sync {
    /// The step it forecasts at; series handed in have the same.
    fn freq(&self) -> Frequency;

    /// Steps it forecasts.
    fn prediction_length(&self) -> usize;

    /// One forecast a series, in their order. A series the predictor cannot serve (wrong
    /// number of categories, say) fails the call with a message that names it.
    fn predict(&self, series: &[TimeSeries], options: &PredictOptions) -> Result<Vec<Forecast>>;

    /// About how many bytes of memory it holds between calls. A rule holds next to none.
    fn memory_bytes(&self) -> usize {
        256
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps() -> Vec<Vec<f32>> {
        vec![(0..101).map(|v| v as f32).collect(), (0..101).rev().map(|v| v as f32 * 2.0).collect()]
    }

    fn forecast(want_samples: bool) -> Forecast {
        let options = PredictOptions { want_samples, ..PredictOptions::default() };
        Forecast::from_steps(None, DateTime(0), Frequency::HOURLY, &steps(), &options)
    }

    #[test]
    fn quantiles_are_empirical() {
        let made = forecast(true);
        assert_eq!(made.mean, [50.0, 100.0]);
        assert_eq!(made.quantile(0.1).unwrap(), [10.0, 20.0]);
        assert_eq!(made.quantile(0.1 + 0.2).unwrap(), [30.0, 60.0]);
        assert_eq!(made.quantile(0.95).unwrap(), [95.0, 190.0]);
        assert_eq!(made.samples.as_ref().unwrap()[3], [3.0, 194.0]);
    }

    #[test]
    fn a_level_nobody_asked_for_is_refused_without_samples() {
        let error = forecast(false).quantile(0.95).unwrap_err().to_string();
        assert!(error.contains("0.95"), "{error}");
        assert!(forecast(true).quantile(1.0).is_err());
    }

    #[test]
    fn options_are_checked() {
        let ok = PredictOptions::default();
        ok.validate().unwrap();
        for bad in [
            PredictOptions { num_samples: 0, ..ok.clone() },
            PredictOptions { num_samples: 10_001, ..ok.clone() },
            PredictOptions { quantiles: vec![0.0], ..ok.clone() },
            PredictOptions { quantiles: vec![f64::NAN], ..ok.clone() },
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
    }
}
