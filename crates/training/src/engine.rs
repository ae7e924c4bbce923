//! The one place that knows which estimator trains and which model is loaded.

use std::path::Path;
use std::str::FromStr;

use base::{Error, Result};
use deepar::{DeepAr, Hyperparameters, Isa, Model, Recipe, TrainOptions};
use forecast::{Estimator, Frequency, Predictor, Reference, Rule};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::artifact;
use crate::job::TrainSpec;

/// What can be trained. Its name is that of its training image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Algorithm {
    /// DeepAR as SageMaker documents it.
    #[default]
    DeepAr,
    /// DeepAR by the improved recipe.
    DeepArPlus,
    /// Repeats the last season.
    SeasonalNaive,
    /// Automatic exponential smoothing.
    Ets,
}

impl Algorithm {
    /// Whether it is DeepAR, by whichever recipe.
    pub fn is_deepar(self) -> bool {
        matches!(self, Algorithm::DeepAr | Algorithm::DeepArPlus)
    }

    /// All of them.
    pub const ALL: [Algorithm; 4] =
        [Algorithm::DeepAr, Algorithm::DeepArPlus, Algorithm::SeasonalNaive, Algorithm::Ets];

    /// The name of its image.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::DeepAr => "forecasting-deepar",
            Algorithm::DeepArPlus => "forecasting-deepar-plus",
            Algorithm::SeasonalNaive => "forecasting-seasonal-naive",
            Algorithm::Ets => "forecasting-ets",
        }
    }

    /// The name without what all have in common.
    pub fn short_name(self) -> &'static str {
        self.name().trim_start_matches("forecasting-")
    }
}

impl FromStr for Algorithm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Algorithm> {
        let known =
            |algorithm: &Algorithm| [algorithm.name(), algorithm.short_name()].contains(&text);
        Algorithm::ALL.into_iter().find(known).ok_or_else(|| {
            let names = Algorithm::ALL.map(Algorithm::name).join(", ");
            Error::invalid(format!("algorithm {text:?} is not known; there are {names}"))
        })
    }
}

impl From<Algorithm> for String {
    fn from(algorithm: Algorithm) -> String {
        algorithm.name().to_owned()
    }
}

impl TryFrom<String> for Algorithm {
    type Error = Error;

    fn try_from(text: String) -> Result<Algorithm> {
        text.parse()
    }
}

/// Loads the model in the archive at `path`, ready to forecast.
pub fn load(path: &Path) -> Result<Box<dyn Predictor>> {
    let files = artifact::read(path)?;
    from_files(&files).map_err(|error| error.context(path.display()))
}

/// The predictor that a model's files are of.
pub(crate) fn from_files(files: &[(String, Vec<u8>)]) -> Result<Box<dyn Predictor>> {
    match Reference::from_files(files)? {
        Some(reference) => reference.predictor(),
        None => Ok(Box::new(Model::from_files(files)?)),
    }
}

/// The estimator a job asks for, and what the job has to know of its settings.
pub(crate) struct Engine {
    pub(crate) algorithm: Algorithm,
    pub(crate) estimator: Box<dyn Estimator>,
    pub(crate) time_freq: Frequency,
    pub(crate) prediction_length: usize,
    pub(crate) num_eval_samples: usize,
    pub(crate) test_quantiles: Vec<f64>,
    /// All settings, defaults included.
    pub(crate) hyperparameters: serde_json::Value,
    pub(crate) seed: u64,
}

impl Engine {
    pub(crate) fn new(spec: &TrainSpec) -> Result<Engine> {
        let mut options = TrainOptions::default();
        if let Some(seed) = spec.seed {
            options.seed = seed;
        }
        options.threads = match spec.threads {
            Some(0) => return Err(Error::invalid("threads is 0; at least 1 is needed")),
            Some(threads) => threads,
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        let rule = match spec.algorithm {
            Algorithm::DeepAr => {
                let hyper = Hyperparameters::parse(&spec.hyperparameters)?;
                return Ok(Engine::deepar(hyper, options));
            }
            Algorithm::DeepArPlus => {
                // A name for a recipe; each of its settings may still be given.
                let mut given = spec.hyperparameters.clone();
                given.entry("recipe".to_owned()).or_insert_with(|| "deepar-plus".to_owned());
                return Ok(Engine::deepar(Hyperparameters::parse(&given)?, options));
            }
            Algorithm::SeasonalNaive => Rule::SeasonalNaive,
            Algorithm::Ets => Rule::Ets,
        };
        let reference = Reference::parse(rule, &spec.hyperparameters)?;
        Ok(Engine::reference(reference, options.seed))
    }

    fn deepar(hyper: Hyperparameters, options: TrainOptions) -> Engine {
        Engine {
            algorithm: match hyper.recipe {
                Recipe::DeepAr => Algorithm::DeepAr,
                Recipe::DeepArPlus => Algorithm::DeepArPlus,
            },
            time_freq: hyper.time_freq,
            prediction_length: hyper.prediction_length,
            num_eval_samples: hyper.num_eval_samples,
            test_quantiles: hyper.test_quantiles.clone(),
            hyperparameters: json!(hyper),
            seed: options.seed,
            estimator: Box::new(DeepAr { hyper, options }),
        }
    }

    fn reference(reference: Reference, seed: u64) -> Engine {
        Engine {
            algorithm: match reference.rule {
                Rule::SeasonalNaive => Algorithm::SeasonalNaive,
                Rule::Ets => Algorithm::Ets,
            },
            time_freq: reference.time_freq,
            prediction_length: reference.prediction_length,
            num_eval_samples: reference.num_eval_samples,
            test_quantiles: reference.test_quantiles.clone(),
            hyperparameters: json!(reference),
            seed,
            estimator: Box::new(reference),
        }
    }

    /// The engine that made a model, and what keeps this machine from being the same: the
    /// instructions, if it lacks them.
    pub(crate) fn of_model(files: &[(String, Vec<u8>)]) -> Result<Made> {
        if let Some(reference) = Reference::from_files(files)? {
            return Ok(Made { engine: Engine::reference(reference, 0), deepar: None });
        }
        let model = Model::from_files(files)?;
        let provenance = model.provenance().clone();
        let named = |isa: &Isa| isa.to_string() == provenance.instructions;
        let isa = Isa::available().into_iter().find(named);
        let options = TrainOptions {
            seed: provenance.seed,
            threads: provenance.threads.max(1),
            isa: isa.unwrap_or_else(Isa::detect),
        };
        let engine = Engine::deepar(model.hyperparameters().clone(), options);
        Ok(Made { engine, deepar: Some((provenance, isa.is_some())) })
    }
}

/// How a model was made.
pub(crate) struct Made {
    pub(crate) engine: Engine,
    /// Where a DeepAR model comes from, and whether this machine has its instructions.
    pub(crate) deepar: Option<(deepar::Provenance, bool)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn algorithms_are_known_by_both_names() {
        for algorithm in Algorithm::ALL {
            assert_eq!(algorithm.name().parse::<Algorithm>().unwrap(), algorithm);
            assert_eq!(algorithm.short_name().parse::<Algorithm>().unwrap(), algorithm);
            let text = serde_json::to_string(&algorithm).unwrap();
            assert_eq!(serde_json::from_str::<Algorithm>(&text).unwrap(), algorithm);
        }
        let error = "prophet".parse::<Algorithm>().unwrap_err().to_string();
        assert!(error.contains("forecasting-ets"), "{error}");
    }
}
