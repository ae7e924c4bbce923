//! The one place that knows which estimator trains and which model is loaded.

use std::path::Path;

use base::{Error, Result};
use deepar::{DeepAr, Hyperparameters, Model, TrainOptions};
use forecast::Predictor;

use crate::artifact;
use crate::job::TrainSpec;

/// Loads the model in the archive at `path`, ready to forecast.
pub fn load(path: &Path) -> Result<Box<dyn Predictor>> {
    let files = artifact::read(path)?;
    let model = Model::from_files(&files).map_err(|error| error.context(path.display()))?;
    Ok(Box::new(model))
}

/// The estimator a job asks for.
pub(crate) fn estimator(spec: &TrainSpec) -> Result<DeepAr> {
    let hyper = Hyperparameters::parse(&spec.hyperparameters)?;
    let mut options = TrainOptions::default();
    if let Some(seed) = spec.seed {
        options.seed = seed;
    }
    options.threads = match spec.threads {
        Some(0) => return Err(Error::invalid("threads is 0; at least 1 is needed")),
        Some(threads) => threads,
        None => std::thread::available_parallelism().map_or(1, usize::from),
    };
    Ok(DeepAr { hyper, options })
}
