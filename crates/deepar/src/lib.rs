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
//! What differs from GluonTS, and why: categories, ln scale and known features are
//! standardised; a missing value repeats the last observed one as an input (GluonTS: 0), and
//! counts neither in the loss nor in the scale; zoneout instead of dropout, as SageMaker
//! documents; forget gates start open.

mod artifact;
mod features;
mod hyper;
mod kernels;
mod likelihood;
mod model;
mod network;
mod rng;
mod sample;
mod train;

pub use hyper::{Cardinality, DynamicFeat, Hyperparameters, Schedule, TABLE};
pub use kernels::Isa;
pub use likelihood::Likelihood;
pub use model::{Model, Provenance};
pub use train::{DeepAr, OBSERVATIONS_MIN, TrainOptions, train};
