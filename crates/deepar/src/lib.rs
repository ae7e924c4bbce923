//! DeepAR (Salinas, Flunkert, Gasthaus, Januschowski 2017): one recurrent network learnt over
//! many related series, which forecasts by sampling paths.
//!
//! Pure: values in, values out; no I/O, no clock, no async. It does not know where series
//! come from or where a model is kept. The same data, settings, seed, thread count and
//! instruction set give the same bytes.
//!
//! ```text
//! Dataset ──▶ features ──▶ network (kernels) ──▶ likelihood ──▶ train ──▶ Model ──▶ artifact
//!                                                                          │
//!                                                              sample ◀────┘──▶ Forecast
//! ```
//!
//! ```
//! use deepar::{Hyperparameters, Model, TrainOptions, train};
//! use forecast::{Dataset, Frequency, PredictOptions, Predictor, Silent, TimeSeries};
//!
//! let day = |t: usize| 10.0 + (t as f32 / 24.0 * std::f32::consts::TAU).sin();
//! let series = TimeSeries { target: (0..400).map(day).collect(), ..TimeSeries::default() };
//! let data = Dataset { freq: Frequency::HOURLY, series: vec![series] };
//!
//! let mut hyper = Hyperparameters::new(Frequency::HOURLY, 24, 6, 2)?;
//! hyper.windows_per_epoch = Some(256);
//! let model = train(&hyper, &data, &TrainOptions::default(), &mut Silent)?;
//! let model = Model::from_files(&model.to_files()?)?;
//! let forecasts = model.predict(&data.series, &PredictOptions::default())?;
//! assert_eq!(forecasts[0].quantile(0.9)?.len(), 6);
//! # Ok::<(), base::Error>(())
//! ```
//!
//! # Shapes and units
//!
//! A series is one value a step ([`forecast::TimeSeries`]), NaN where none was observed, in units
//! of the caller's. A forecast has `prediction_length` values for its mean and for each level, and
//! `num_samples` paths of as many if they are asked for, in the same units. Inside, values are
//! divided by their window's scale; losses are in nats a point, in the units of the target for the
//! continuous laws. Weights are `f32`, files little-endian.
//!
//! Memory is that of the values, which may lie in a file ([`forecast::Values`]), and of one batch:
//! about `4 steps (inputs + 7 layers cells) mini_batch_size` bytes, 5 MB at 47 steps, 3 layers of
//! 40 cells and batches of 32.
//!
//! # Sources
//!
//! * Salinas, Flunkert, Gasthaus, Januschowski: DeepAR (2017), arXiv 1704.04110: the network, the
//!   scale, the negative-binomial law;
//! * GluonTS 0.17's `DeepAREstimator`: lags, calendar, sampling of windows, Student's t;
//! * Amazon SageMaker's documentation of DeepAR: hyperparameters, zoneout, missing values;
//! * Krueger et al.: Zoneout (2016), arXiv 1606.01305; Kingma, Ba: Adam (2015), arXiv 1412.6980.
//!
//! What differs from GluonTS, and why: categories, ln scale and known features are
//! standardised; a missing value repeats the last observed one as an input (GluonTS: 0), and
//! counts neither in the loss nor in the scale; zoneout instead of dropout, as SageMaker
//! documents; forget gates start open.
//!
//! [`Recipe::DeepArPlus`] is the same network learnt more carefully, at what a reference
//! implementation costs: windows are centred and scaled over a week or so instead of the context
//! alone, lagged values reach the law's location past the LSTM as well, four networks draw the
//! paths together, bands are calibrated on windows kept from training, and an epoch has more
//! windows. Each is a hyperparameter of its own.

#![deny(missing_docs)]

mod artifact;
mod calibration;
mod checkpoint;
mod crew;
mod features;
mod hyper;
mod kernels;
mod likelihood;
mod model;
mod network;
mod rng;
mod sample;
mod train;

pub use hyper::{
    Cardinality, DynamicFeat, Hyperparameters, Recipe, ScalingMethod, Schedule, TABLE,
};
pub use kernels::{Isa, limit};
pub use likelihood::Likelihood;
pub use model::{ARITHMETIC, Model, Provenance};
pub use train::{DeepAr, OBSERVATIONS_MIN, TrainOptions, data_sha256, train};
