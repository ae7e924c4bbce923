//! The reference forecasters as algorithms of their own: trained, kept as a model and served
//! as DeepAR is.
//!
//! They learn nothing across series: a model holds its settings, and a series is fitted when
//! it is forecast. Training checks data and settings, so that what is wrong is said then.

use std::collections::BTreeMap;

use base::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::baseline::SeasonalNaive;
use crate::calendar::Frequency;
use crate::ets::Ets;
use crate::predict::{Predictor, check_quantiles};
use crate::series::Dataset;
use crate::train::{Estimator, TrainReport, Trained, TrainingObserver};

/// Which rule forecasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// [`SeasonalNaive`].
    SeasonalNaive,
    /// [`Ets`].
    Ets,
}

/// A rule with its settings: what a model of it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// The rule.
    pub rule: Rule,
    /// The step of the series.
    pub time_freq: Frequency,
    /// Steps it forecasts.
    pub prediction_length: usize,
    /// Steps of a season.
    pub season: usize,
    /// Sample paths when the test data are scored.
    pub num_eval_samples: usize,
    /// Levels at which the test data are scored.
    pub test_quantiles: Vec<f64>,
}

/// Names, defaults, ranges, as in DeepAR's own table. `None` marks a required one.
pub const REFERENCE_TABLE: &[(&str, Option<&str>, &str)] = &[
    ("time_freq", None, "[n]min, [n]H, [n]D, [n]W or [n]M"),
    ("prediction_length", None, "1..=10000"),
    (
        "season",
        Some("auto"),
        "auto (a day of minutes or hours, a year of months, else 1) or 1..=10000",
    ),
    ("num_eval_samples", Some("100"), "1..=10000"),
    (
        "test_quantiles",
        Some("[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]"),
        "a JSON array of numbers between 0 and 1",
    ),
];

const DESCRIPTION: &str = "model.json";
const FORMAT: &str = "forebay-reference";
const FORMAT_VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Description {
    format: String,
    format_version: u32,
    settings: Reference,
}

impl Reference {
    /// Reads names and values as SageMaker sends them.
    pub fn parse<K: AsRef<str>, V: AsRef<str>>(
        rule: Rule,
        given: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Reference> {
        let mut values: BTreeMap<&str, Option<String>> = REFERENCE_TABLE
            .iter()
            .map(|(name, default, _)| (*name, default.map(str::to_owned)))
            .collect();
        for (name, value) in given {
            let name = name.as_ref();
            let Some(slot) = values.get_mut(name) else {
                let known: Vec<&str> = REFERENCE_TABLE.iter().map(|(name, ..)| *name).collect();
                return Err(Error::invalid(format!(
                    "unknown hyperparameter {name}; this algorithm knows {}",
                    known.join(", ")
                )));
            };
            *slot = Some(value.as_ref().trim().to_owned());
        }
        let values = Values(values);
        let time_freq: Frequency = values.with("time_freq", |text| text.parse().ok())?;
        Ok(Reference {
            rule,
            time_freq,
            prediction_length: values.count("prediction_length")?,
            season: match values.get("season")? {
                "auto" => time_freq.season(),
                _ => values.count("season")?,
            },
            num_eval_samples: values.count("num_eval_samples")?,
            test_quantiles: values.with("test_quantiles", |text| {
                let levels: Vec<f64> = serde_json::from_str(text).ok()?;
                (!levels.is_empty() && check_quantiles(&levels).is_ok()).then_some(levels)
            })?,
        })
    }

    /// The rule, ready to forecast.
    pub fn predictor(&self) -> Result<Box<dyn Predictor>> {
        let (freq, season, length) = (self.time_freq, self.season, self.prediction_length);
        Ok(match self.rule {
            Rule::SeasonalNaive => Box::new(SeasonalNaive::new(freq, season, length)?),
            Rule::Ets => Box::new(Ets::new(freq, season, length)?),
        })
    }

    /// Reads a model from its files; `None` if they are another algorithm's.
    pub fn from_files(files: &[(String, Vec<u8>)]) -> Result<Option<Reference>> {
        #[derive(Deserialize)]
        struct Head {
            format: String,
            format_version: u32,
        }
        let Some((_, bytes)) = files.iter().find(|(name, _)| name == DESCRIPTION) else {
            return Ok(None);
        };
        let head = match serde_json::from_slice::<Head>(bytes) {
            Ok(head) if head.format == FORMAT => head,
            _ => return Ok(None),
        };
        if head.format_version != FORMAT_VERSION {
            return Err(Error::unsupported(format!(
                "model format {} was written by another version; this one reads {FORMAT_VERSION}",
                head.format_version
            )));
        }
        let corrupt = |message: String| Error::new(ErrorKind::Corrupt, message);
        let read: Description = serde_json::from_slice(bytes)
            .map_err(|cause| corrupt(format!("{DESCRIPTION}: {cause}")).with_source(cause))?;
        let settings = read.settings;
        let counts = [settings.prediction_length, settings.season, settings.num_eval_samples];
        if counts.iter().any(|count| !(1..=10_000).contains(count)) {
            return Err(corrupt(format!("{DESCRIPTION}: a number is out of range")));
        }
        check_quantiles(&settings.test_quantiles)?;
        Ok(Some(settings))
    }
}

impl Estimator for Reference {
    fn train(&self, data: &Dataset, _observer: &mut dyn TrainingObserver) -> Result<Trained> {
        data.validate()?;
        if data.freq != self.time_freq {
            let (data, asked) = (data.freq, self.time_freq);
            return Err(Error::invalid(format!("the data are at {data}, time_freq is {asked}")));
        }
        if !data.series.iter().any(|series| series.observed() > 0) {
            return Err(Error::invalid(format!(
                "none of the {} training series has an observed point",
                data.series.len()
            )));
        }
        let description = Description {
            format: FORMAT.to_owned(),
            format_version: FORMAT_VERSION,
            settings: self.clone(),
        };
        let text = serde_json::to_vec_pretty(&description)
            .map_err(|cause| Error::internal("describing the model").with_source(cause))?;
        Ok(Trained {
            predictor: self.predictor()?,
            files: vec![(DESCRIPTION.to_owned(), text)],
            report: TrainReport { final_loss: f64::NAN, ..TrainReport::default() },
        })
    }
}

/// The values given, by known names.
struct Values<'a>(BTreeMap<&'a str, Option<String>>);

impl Values<'_> {
    fn get(&self, name: &str) -> Result<&str> {
        let value = self.0.get(name).and_then(Option::as_deref);
        value.ok_or_else(|| {
            Error::invalid(format!("hyperparameter {name} is required: {}", range_of(name)))
        })
    }

    fn with<T>(&self, name: &str, read: impl FnOnce(&str) -> Option<T>) -> Result<T> {
        let text = self.get(name)?;
        read(text).ok_or_else(|| {
            let shown: String = text.chars().take(60).collect();
            let allowed = range_of(name);
            Error::invalid(format!("hyperparameter {name} is \"{shown}\"; allowed: {allowed}"))
        })
    }

    fn count(&self, name: &str) -> Result<usize> {
        self.with(name, |text| text.parse().ok().filter(|count| (1..=10_000).contains(count)))
    }
}

fn range_of(name: &str) -> &'static str {
    REFERENCE_TABLE.iter().find(|(known, ..)| *known == name).map_or("", |(.., range)| range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::predict::PredictOptions;
    use crate::series::TimeSeries;
    use crate::train::Silent;

    const GIVEN: [(&str, &str); 2] = [("time_freq", "H"), ("prediction_length", "4")];

    fn data() -> Dataset {
        let target = (0..100).map(|t| (t % 24) as f32).collect();
        let series = vec![TimeSeries { target, ..TimeSeries::default() }];
        Dataset { freq: Frequency::HOURLY, series }
    }

    #[test]
    fn a_model_of_each_rule_travels_and_forecasts_the_same() {
        for rule in [Rule::SeasonalNaive, Rule::Ets] {
            let reference = Reference::parse(rule, GIVEN).unwrap();
            assert_eq!(reference.season, 24);
            let trained = reference.train(&data(), &mut Silent).unwrap();
            let read = Reference::from_files(&trained.files).unwrap().unwrap();
            assert_eq!(read, reference);
            let options = PredictOptions {
                want_samples: true,
                want_parameters: true,
                ..PredictOptions::default()
            };
            let forecast =
                |predictor: &dyn Predictor| predictor.predict(&data().series, &options).unwrap();
            let made = forecast(&*trained.predictor);
            assert_eq!(made, forecast(&*read.predictor().unwrap()));
            assert_eq!((made[0].mean.len(), made[0].quantiles.len()), (4, 9));
            assert_eq!(made[0].samples.as_ref().unwrap().len(), 100);
            assert_eq!(made[0].parameters.as_ref().unwrap().law, "gaussian");
            for (z, expect) in made[0].mean.iter().zip([4.0, 5.0, 6.0, 7.0]) {
                assert!((z - expect).abs() < 0.5, "{rule:?}: {:?}", made[0].mean);
            }
        }
    }

    #[test]
    fn every_setting_out_of_range_is_refused_by_name() {
        for (name, default, range) in REFERENCE_TABLE {
            for bad in ["", "-1", "0", "10001", "x", "NaN", "[0]", "[]"] {
                let mut given: BTreeMap<&str, &str> = GIVEN.into();
                given.insert(*name, bad);
                let error = Reference::parse(Rule::Ets, given).unwrap_err().to_string();
                let expect = format!("hyperparameter {name} is \"{bad}\"; allowed: {range}");
                assert_eq!(error, expect);
            }
            if default.is_none() {
                let given = GIVEN.into_iter().filter(|(given, _)| given != name);
                let error = Reference::parse(Rule::Ets, given).unwrap_err().to_string();
                assert!(error.contains(&format!("{name} is required")), "{error}");
            }
        }
        let error = Reference::parse(Rule::Ets, [("epochs", "1")]).unwrap_err().to_string();
        assert!(error.contains("unknown hyperparameter epochs; this algorithm knows"), "{error}");
    }

    #[test]
    fn data_nothing_can_be_forecast_from_are_refused() {
        let reference = Reference::parse(Rule::Ets, GIVEN).unwrap();
        let refusal =
            |data: &Dataset| reference.train(data, &mut Silent).err().unwrap().to_string();
        let mut silent = data();
        silent.series[0].target.fill(f32::NAN);
        assert!(refusal(&silent).contains("none of the 1 training series"));
        let daily = Dataset { freq: "D".parse().unwrap(), ..data() };
        assert!(refusal(&daily).contains("the data are at 1D, time_freq is 1H"));
    }

    #[test]
    fn files_of_others_and_broken_ones() {
        let file = |text: &str| [(DESCRIPTION.to_owned(), text.as_bytes().to_vec())];
        assert_eq!(Reference::from_files(&[]).unwrap(), None);
        assert_eq!(Reference::from_files(&file("{}")).unwrap(), None);
        let reference = Reference::parse(Rule::Ets, GIVEN).unwrap();
        let files = reference.train(&data(), &mut Silent).unwrap().files;
        let text = String::from_utf8(files[0].1.clone()).unwrap();
        for (from, to) in [
            ("\"format_version\": 1", "\"format_version\": 2"),
            ("\"prediction_length\": 4", "\"prediction_length\": 4000000000"),
            ("\"season\": 24", "\"season\": 0"),
            ("\"ets\"", "\"prophet\""),
        ] {
            let bent = text.replacen(from, to, 1);
            assert_ne!(bent, text);
            assert!(Reference::from_files(&file(&bent)).is_err(), "{to}");
        }
    }
}
