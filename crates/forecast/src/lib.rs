//! The words and measures of forecasting: series, calendar, quantiles, metrics, backtest,
//! baselines.
//!
//! Pure: no I/O, no clock, no async. Whoever reads data hands in a [`Dataset`], whoever
//! forecasts implements [`Predictor`], whoever learns implements [`Estimator`]; the names
//! follow GluonTS. It does not know DeepAR, objects or HTTP.
//!
//! ```
//! use forecast::{Frequency, PredictOptions, Predictor, SeasonalNaive, jsonl};
//!
//! let lines = r#"{"start": "2021-02-05 00:00:00", "target": [3, 1, null, 3, 1, 2, 3, 1, 2]}"#;
//! let data = jsonl::read(lines.as_bytes(), "H".parse()?)?;
//! let naive = SeasonalNaive::new(Frequency::HOURLY, 3, 2)?;
//! let forecasts = naive.predict(&data.series, &PredictOptions::default())?;
//! assert_eq!(forecasts[0].mean, [3.0, 1.0]);
//! assert_eq!(forecasts[0].start.to_string(), "2021-02-05 09:00:00");
//! # Ok::<(), base::Error>(())
//! ```
//!
//! Values are `f32` in the caller's units, NaN where nothing was observed; times are minutes since
//! 1970 without a zone. Metrics are those of GluonTS's evaluator (arXiv 1906.05264), whose numbers
//! the tests pin.

#![deny(missing_docs)]

mod backtest;
mod baseline;
mod calendar;
pub mod compare;
mod ets;
pub mod jsonl;
mod metrics;
mod predict;
mod reference;
mod series;
mod train;
mod values;

pub use backtest::backtest;
pub use baseline::{SeasonalNaive, normal_quantile};
pub use calendar::{DateTime, Frequency, Parts, Unit};
pub use ets::Ets;
pub use metrics::{Scorer, Scores, seasonal_error};
pub use predict::{Forecast, Parameters, PredictOptions, Predictor, check_quantiles};
pub use reference::{REFERENCE_TABLE, Reference, Rule};
pub use series::{Dataset, Summary, TimeSeries};
pub use train::{EpochReport, Estimator, Silent, TrainReport, Trained, TrainingObserver};
pub use values::{Block, Values};
