//! The hyperparameters, as SageMaker names them: one table of names, defaults and ranges.
//!
//! All values arrive as text. What is not in the table is refused, so that a misspelt name
//! does not silently train something else.

use std::collections::BTreeMap;

use base::{Error, Result};
use forecast::{Frequency, Unit, check_quantiles};
use serde::{Deserialize, Serialize};

use crate::likelihood::Likelihood;

/// Everything that decides what is learned, apart from data and seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hyperparameters {
    /// The step of the series.
    pub time_freq: Frequency,
    /// Steps the network reads before it forecasts; lags reach further back.
    pub context_length: usize,
    /// Steps it forecasts.
    pub prediction_length: usize,
    /// Passes; how long one is, `windows_per_epoch` says.
    pub epochs: u32,
    /// The law of the target.
    pub likelihood: Likelihood,
    /// Hidden units a layer.
    pub num_cells: usize,
    /// LSTM layers.
    pub num_layers: usize,
    /// Share of units that keep their state at a step while training (zoneout).
    pub dropout_rate: f64,
    /// Adam's step size, at its highest.
    pub learning_rate: f64,
    /// Windows a step.
    pub mini_batch_size: usize,
    /// Epochs without progress on the held-back last horizon before stopping.
    pub early_stopping_patience: Option<u32>,
    /// Sizes of the categories.
    pub cardinality: Cardinality,
    /// Numbers that stand for one category.
    pub embedding_dimension: usize,
    /// Known features.
    pub num_dynamic_feat: DynamicFeat,
    /// Sample paths when the test data are scored.
    pub num_eval_samples: usize,
    /// Levels at which the test data are scored.
    pub test_quantiles: Vec<f64>,
    /// How the step size moves. Ours, not SageMaker's.
    pub learning_rate_schedule: Schedule,
    /// Training windows an epoch, over all members; `None` decides by the data. Ours, not
    /// SageMaker's, like all that follow.
    pub windows_per_epoch: Option<u64>,
    /// What the settings below are where none is given.
    #[serde(default)]
    pub recipe: Recipe,
    /// How a window's values are brought near one.
    #[serde(default)]
    pub scaling: ScalingMethod,
    /// Steps before the horizon that decide a window's scale; the context at least.
    #[serde(default)]
    pub scaling_length: usize,
    /// Whether lagged values reach the forecast's location past the LSTM as well, by weights of
    /// their own.
    #[serde(default)]
    pub autoregressive_skip: bool,
    /// Networks that are learnt apart and draw a share of the sample paths each.
    #[serde(default = "one")]
    pub ensemble_size: u32,
    /// Whether paths are stretched so that the 80 % band holds as often as it says, on windows
    /// kept from training.
    #[serde(default)]
    pub calibrate: bool,
}

fn one() -> u32 {
    1
}

/// A set of defaults for what SageMaker does not name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recipe {
    /// The algorithm as SageMaker documents it.
    #[default]
    #[serde(rename = "deepar")]
    DeepAr,
    /// What proved more accurate on public data, at a reference implementation's cost: windows
    /// centred and scaled over a week or so, lags that reach the location directly, four members,
    /// calibrated bands, more windows an epoch. `BENCHMARKS.md` has each one's share.
    #[serde(rename = "deepar-plus")]
    DeepArPlus,
}

/// How a window's values are brought near one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ScalingMethod {
    /// Divided by their mean absolute value (Salinas et al.).
    #[default]
    Mean,
    /// Less their mean, divided by the mean absolute deviation from it.
    Standard,
}

/// Where the sizes of the categories come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cardinality {
    /// From the training data.
    Auto,
    /// Categories are not used, even if the data have some.
    Ignore,
    /// Given, one a category.
    #[serde(untagged)]
    Given(Vec<u32>),
}

/// How many known features there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DynamicFeat {
    /// As many as the training data have.
    Auto,
    /// They are not used, even if the data have some.
    Ignore,
    /// This many.
    #[serde(untagged)]
    Given(usize),
}

/// How the step size moves over the training.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// Up over the first twentieth, then down a half cosine to a hundredth. The default: at
    /// the article's settings, over three seeds, mean weighted quantile loss is 0.258 (plateau
    /// 0.267) on Beijing's ozone and 0.047 (0.072) on PJM's load; on M4 hourly they are equal.
    Cosine,
    /// Halved when the epoch's loss has not fallen for 10 epochs, as GluonTS does.
    Plateau,
    /// Stays.
    Constant,
}

/// Names, defaults, ranges: for documentation and messages. `None` marks a required one.
pub const TABLE: &[(&str, Option<&str>, &str)] = &[
    ("time_freq", None, "[n]min, [n]H, [n]D, [n]W or [n]M"),
    ("context_length", None, "1..=10000"),
    ("prediction_length", None, "1..=10000"),
    ("epochs", None, "1..=100000"),
    (
        "likelihood",
        Some("student-T"),
        "student-T, gaussian, negative-binomial, beta or deterministic-L1",
    ),
    ("num_cells", Some("40"), "1..=1024"),
    ("num_layers", Some("2"), "1..=16"),
    ("dropout_rate", Some("0.1"), "0 to below 1"),
    ("learning_rate", Some("1e-3"), "above 0 to 1"),
    ("mini_batch_size", Some("128"), "1..=4096"),
    ("early_stopping_patience", Some(""), "empty or 1..=100000"),
    (
        "cardinality",
        Some("auto"),
        "auto, ignore, empty or a JSON array of integers from 1 to 1000000",
    ),
    ("embedding_dimension", Some("10"), "1..=1000"),
    ("num_dynamic_feat", Some("auto"), "auto, ignore, empty or 1..=1000"),
    ("num_eval_samples", Some("100"), "1..=10000"),
    (
        "test_quantiles",
        Some("[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]"),
        "a JSON array of numbers between 0 and 1",
    ),
    ("learning_rate_schedule", Some("cosine"), "cosine, plateau or constant"),
    ("windows_per_epoch", Some("auto"), "auto or 1..=100000000"),
    ("recipe", Some("deepar"), "deepar or deepar-plus"),
    ("scaling", Some("auto"), "auto, mean or standard (not with negative-binomial and beta)"),
    ("scaling_length", Some("auto"), "auto or 1..=100000"),
    (
        "autoregressive_skip",
        Some("auto"),
        "auto, true (not with negative-binomial and beta) or false",
    ),
    ("ensemble_size", Some("auto"), "auto or 1..=32"),
    ("calibrate", Some("auto"), "auto, true (with student-T and gaussian) or false"),
    ("_kvstore", Some("auto"), "auto"),
    ("_num_gpus", Some("auto"), "auto"),
    ("_num_kv_servers", Some("auto"), "auto"),
    (
        "_tuning_objective_metric",
        Some(""),
        "empty, test:RMSE, test:mean_wQuantileLoss or train:final_loss",
    ),
];

impl Hyperparameters {
    /// Settings with all defaults but the four required ones.
    pub fn new(
        time_freq: Frequency,
        context_length: usize,
        prediction_length: usize,
        epochs: u32,
    ) -> Result<Self> {
        let required = [
            ("time_freq", time_freq.to_string()),
            ("context_length", context_length.to_string()),
            ("prediction_length", prediction_length.to_string()),
            ("epochs", epochs.to_string()),
        ];
        Hyperparameters::parse(required)
    }

    /// Reads names and values as SageMaker sends them ([`TABLE`] has all of them). The error
    /// names the parameter, its value and what is allowed.
    ///
    /// ```
    /// let required = [("time_freq", "H"), ("context_length", "72"), ("prediction_length", "24")];
    /// let hyper = deepar::Hyperparameters::parse(required.into_iter().chain([("epochs", "20")]))?;
    /// assert_eq!((hyper.num_cells, hyper.num_layers), (40, 2));
    ///
    /// let error = deepar::Hyperparameters::parse([("epoch", "20")]).unwrap_err();
    /// assert!(error.to_string().contains("unknown hyperparameter epoch; known are time_freq"));
    /// # Ok::<(), base::Error>(())
    /// ```
    pub fn parse<K: AsRef<str>, V: AsRef<str>>(
        given: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self> {
        let mut values = BTreeMap::new();
        for (name, value) in given {
            let (name, value) = (name.as_ref(), value.as_ref());
            let Some((known, ..)) = TABLE.iter().find(|(known, ..)| *known == name) else {
                let names: Vec<&str> = TABLE
                    .iter()
                    .map(|(name, ..)| *name)
                    .filter(|name| !name.starts_with('_'))
                    .collect();
                return Err(Error::invalid(format!(
                    "unknown hyperparameter {name}; known are {}",
                    names.join(", ")
                )));
            };
            values.insert(*known, value.trim().to_owned());
        }
        let values = Values(values);
        values.check_internal()?;
        let time_freq: Frequency = values.with("time_freq", |text| text.parse().ok())?;
        let context_length = values.integer("context_length", 1, 10_000)? as usize;
        let likelihood = values.with("likelihood", |text| {
            Likelihood::ALL.into_iter().find(|law| law.name().eq_ignore_ascii_case(text))
        })?;
        let recipe = values.with("recipe", |text| match text {
            "deepar" => Some(Recipe::DeepAr),
            "deepar-plus" => Some(Recipe::DeepArPlus),
            _ => None,
        })?;
        let plus = recipe == Recipe::DeepArPlus;
        let movable = likelihood.location().is_some();
        // Stretched counts would be no counts, stretched shares none between 0 and 1.
        let stretches = movable && likelihood != Likelihood::DeterministicL1;
        Ok(Hyperparameters {
            time_freq,
            context_length,
            likelihood,
            recipe,
            scaling: values.with("scaling", |text| match text {
                "auto" if plus && movable => Some(ScalingMethod::Standard),
                "auto" | "mean" => Some(ScalingMethod::Mean),
                "standard" if movable => Some(ScalingMethod::Standard),
                _ => None,
            })?,
            scaling_length: match values.get("scaling_length")? {
                "auto" if plus => context_length.max(long_cycle(time_freq)),
                "auto" => context_length,
                _ => context_length.max(values.integer("scaling_length", 1, 100_000)? as usize),
            },
            autoregressive_skip: values.with("autoregressive_skip", |text| match text {
                "auto" => Some(plus && movable),
                "true" if movable => Some(true),
                "false" => Some(false),
                _ => None,
            })?,
            ensemble_size: match values.get("ensemble_size")? {
                "auto" if plus => 4,
                "auto" => 1,
                _ => values.integer("ensemble_size", 1, 32)? as u32,
            },
            calibrate: values.with("calibrate", |text| match text {
                "auto" => Some(plus && stretches),
                "true" if stretches => Some(true),
                "false" => Some(false),
                _ => None,
            })?,
            prediction_length: values.integer("prediction_length", 1, 10_000)? as usize,
            epochs: values.integer("epochs", 1, 100_000)? as u32,
            num_cells: values.integer("num_cells", 1, 1024)? as usize,
            num_layers: values.integer("num_layers", 1, 16)? as usize,
            dropout_rate: values.number("dropout_rate", |x| (0.0..1.0).contains(&x))?,
            learning_rate: values.number("learning_rate", |x| x > 0.0 && x <= 1.0)?,
            mini_batch_size: values.integer("mini_batch_size", 1, 4096)? as usize,
            early_stopping_patience: match values.get("early_stopping_patience")? {
                "" => None,
                _ => Some(values.integer("early_stopping_patience", 1, 100_000)? as u32),
            },
            cardinality: values.with("cardinality", cardinality)?,
            embedding_dimension: values.integer("embedding_dimension", 1, 1000)? as usize,
            num_dynamic_feat: match values.get("num_dynamic_feat")? {
                "auto" => DynamicFeat::Auto,
                "ignore" | "" => DynamicFeat::Ignore,
                _ => DynamicFeat::Given(values.integer("num_dynamic_feat", 1, 1000)? as usize),
            },
            num_eval_samples: values.integer("num_eval_samples", 1, 10_000)? as usize,
            test_quantiles: values.with("test_quantiles", |text| {
                let levels: Vec<f64> = serde_json::from_str(text).ok()?;
                (!levels.is_empty() && check_quantiles(&levels).is_ok()).then_some(levels)
            })?,
            learning_rate_schedule: values.with("learning_rate_schedule", |text| match text {
                "cosine" => Some(Schedule::Cosine),
                "plateau" => Some(Schedule::Plateau),
                "constant" => Some(Schedule::Constant),
                _ => None,
            })?,
            windows_per_epoch: match values.get("windows_per_epoch")? {
                "auto" => None,
                _ => Some(values.integer("windows_per_epoch", 1, 100_000_000)?),
            },
        })
    }
}

/// The cycle beyond the season that a level should be taken over: a week of hours or minutes,
/// four weeks of days, a year of weeks, two of months.
fn long_cycle(freq: Frequency) -> usize {
    let units = match freq.unit() {
        Unit::Minute => 10_080,
        Unit::Hour => 168,
        Unit::Day => 28,
        Unit::Week => 52,
        Unit::Month => 24,
    };
    (units / freq.count() as usize).max(1)
}

fn cardinality(text: &str) -> Option<Cardinality> {
    match text {
        "auto" => Some(Cardinality::Auto),
        "ignore" | "" => Some(Cardinality::Ignore),
        _ => {
            let sizes: Vec<u32> = serde_json::from_str(text).ok()?;
            let sound =
                sizes.len() <= 100 && sizes.iter().all(|size| (1..=1_000_000).contains(size));
            sound.then_some(Cardinality::Given(sizes))
        }
    }
}

/// The values given, by known names.
struct Values(BTreeMap<&'static str, String>);

impl Values {
    fn get(&self, name: &'static str) -> Result<&str> {
        let default =
            TABLE.iter().find(|(known, ..)| *known == name).and_then(|(_, default, _)| *default);
        match (self.0.get(name), default) {
            (Some(text), _) => Ok(text),
            (None, Some(default)) => Ok(default),
            (None, None) => Err(Error::invalid(format!(
                "hyperparameter {name} is required: {}",
                range_of(name)
            ))),
        }
    }

    fn with<T>(&self, name: &'static str, read: impl FnOnce(&str) -> Option<T>) -> Result<T> {
        let text = self.get(name)?;
        read(text).ok_or_else(|| {
            let shown: String = text.chars().take(60).collect();
            Error::invalid(format!(
                "hyperparameter {name} is \"{shown}\"; allowed: {}",
                range_of(name)
            ))
        })
    }

    fn integer(&self, name: &'static str, min: u64, max: u64) -> Result<u64> {
        self.with(name, |text| text.parse().ok().filter(|value| (min..=max).contains(value)))
    }

    fn number(&self, name: &'static str, allowed: impl Fn(f64) -> bool) -> Result<f64> {
        self.with(name, |text| text.parse().ok().filter(|value| allowed(*value)))
    }

    /// SageMaker's tuner and its container send these; anything but "choose yourself" would
    /// ask for hardware there is not.
    fn check_internal(&self) -> Result<()> {
        for name in ["_kvstore", "_num_gpus", "_num_kv_servers"] {
            self.with(name, |text| (text == "auto").then_some(()))?;
        }
        self.with("_tuning_objective_metric", |text| {
            ["", "test:RMSE", "test:mean_wQuantileLoss", "train:final_loss"]
                .contains(&text)
                .then_some(())
        })
    }
}

fn range_of(name: &str) -> &'static str {
    TABLE.iter().find(|(known, ..)| *known == name).map_or("", |(.., range)| range)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn article() -> Vec<(&'static str, &'static str)> {
        vec![
            ("time_freq", "H"),
            ("context_length", "24"),
            ("prediction_length", "24"),
            ("epochs", "20"),
        ]
    }

    #[test]
    fn defaults_are_sagemakers() {
        let hyper = Hyperparameters::parse(article()).unwrap();
        assert_eq!(hyper.likelihood, Likelihood::StudentT);
        assert_eq!((hyper.num_cells, hyper.num_layers, hyper.mini_batch_size), (40, 2, 128));
        assert_eq!((hyper.dropout_rate, hyper.learning_rate), (0.1, 1e-3));
        assert_eq!((hyper.embedding_dimension, hyper.num_eval_samples), (10, 100));
        assert_eq!(
            (hyper.cardinality, hyper.num_dynamic_feat),
            (Cardinality::Auto, DynamicFeat::Auto)
        );
        assert_eq!(hyper.test_quantiles.len(), 9);
        assert_eq!(hyper.early_stopping_patience, None);
    }

    #[test]
    fn the_recipe_decides_what_is_not_given() {
        let of = |more: &[(&'static str, &'static str)]| {
            let mut given = article();
            given.extend_from_slice(more);
            Hyperparameters::parse(given)
        };
        let plain = of(&[]).unwrap();
        assert_eq!((plain.scaling, plain.scaling_length), (ScalingMethod::Mean, 24));
        assert_eq!(
            (plain.ensemble_size, plain.calibrate, plain.autoregressive_skip),
            (1, false, false)
        );
        let plus = of(&[("recipe", "deepar-plus")]).unwrap();
        assert_eq!((plus.scaling, plus.scaling_length), (ScalingMethod::Standard, 168));
        assert_eq!((plus.ensemble_size, plus.calibrate, plus.autoregressive_skip), (4, true, true));
        let counts = of(&[("recipe", "deepar-plus"), ("likelihood", "negative-binomial")]).unwrap();
        assert_eq!((counts.scaling, counts.autoregressive_skip), (ScalingMethod::Mean, false));
        assert!(!counts.calibrate);
        assert!(of(&[("calibrate", "true"), ("likelihood", "beta")]).is_err());
        let own = of(&[("recipe", "deepar-plus"), ("ensemble_size", "2"), ("scaling_length", "7")]);
        let own = own.unwrap();
        assert_eq!((own.ensemble_size, own.scaling_length), (2, 24));
        for bad in [
            [("scaling", "standard"), ("likelihood", "beta")],
            [("autoregressive_skip", "true"), ("likelihood", "negative-binomial")],
        ] {
            let error = of(&bad).unwrap_err().to_string();
            assert!(error.contains(bad[0].0) && error.contains("not with"), "{error}");
        }
    }

    #[test]
    fn text_is_read_as_sagemaker_sends_it() {
        let mut given = article();
        given.extend([
            ("likelihood", "student-t"),
            ("early_stopping_patience", "40"),
            ("cardinality", "[3, 12]"),
            ("num_dynamic_feat", ""),
            ("dropout_rate", "0.10"),
            ("learning_rate", "1E-3"),
            ("_kvstore", "auto"),
            ("_tuning_objective_metric", "test:RMSE"),
            ("windows_per_epoch", "1600"),
        ]);
        let hyper = Hyperparameters::parse(given).unwrap();
        assert_eq!(hyper.cardinality, Cardinality::Given(vec![3, 12]));
        assert_eq!(hyper.num_dynamic_feat, DynamicFeat::Ignore);
        assert_eq!(hyper.windows_per_epoch, Some(1600));
        let text = serde_json::to_string(&hyper).unwrap();
        assert_eq!(serde_json::from_str::<Hyperparameters>(&text).unwrap(), hyper);
    }

    #[test]
    fn errors_name_parameter_value_and_range() {
        for (name, value, expect) in [
            ("epochs", "0", "hyperparameter epochs is \"0\"; allowed: 1..=100000"),
            ("epochs", "ten", "epochs is \"ten\""),
            ("time_freq", "Q", "time_freq is \"Q\"; allowed: [n]min"),
            ("likelihood", "poisson", "likelihood is \"poisson\"; allowed: student-T"),
            ("dropout_rate", "1", "dropout_rate is \"1\""),
            ("dropout_rate", "NaN", "dropout_rate is \"NaN\""),
            ("learning_rate", "0", "learning_rate is \"0\""),
            ("num_cells", "-4", "num_cells is \"-4\""),
            ("cardinality", "[0]", "cardinality is \"[0]\""),
            ("test_quantiles", "[0.5, 1.0]", "test_quantiles is"),
            ("test_quantiles", "[]", "test_quantiles is"),
            ("_num_gpus", "4", "_num_gpus is \"4\"; allowed: auto"),
            ("num_cell", "40", "unknown hyperparameter num_cell; known are time_freq"),
        ] {
            let mut given = article();
            given.push((name, value));
            let error = Hyperparameters::parse(given).unwrap_err().to_string();
            assert!(error.contains(expect), "{name}={value}: {error}");
        }
        let error = Hyperparameters::parse([("time_freq", "H")]).unwrap_err().to_string();
        assert!(error.contains("context_length is required: 1..=10000"), "{error}");
    }
}
