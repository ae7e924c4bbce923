//! What was captured of an endpoint, read back: forecasts with what they were made from.
//!
//! Where the lines lie is what the catalog says of the endpoint's table. They are read file by
//! file, so that no more than one is in memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use base::{Error, ErrorKind, Result, Timestamp};
use forecast::{DateTime, Forecast, Frequency, Predictor, TimeSeries};
use objects::{Entry, Listing};
use serde::Deserialize;
use serving::{Configuration, Media, Request, Shape};
use tokio::runtime::Handle;

use crate::{DATABASE, Node};

/// Files that are listed at once.
const PAGE: usize = 1000;
/// Requests that are remembered, so that none counts twice.
const EVENTS_MAX: usize = 4_000_000;
/// The levels by which sample paths are scored.
const LEVELS: [f64; 9] = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9];

/// Quantile levels and their values, one a step.
type Levels = Vec<(f64, Vec<f32>)>;

/// One forecast that was answered.
pub(super) struct Answered<'a> {
    pub(super) variant: &'a str,
    /// As captured: of many models, `model/archive`.
    pub(super) model: &'a str,
    /// What it was made from.
    pub(super) instance: &'a TimeSeries,
    pub(super) made: Forecast,
    /// Levels that it holds; nothing where there is only a mean.
    pub(super) levels: Levels,
}

/// What became of the lines.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(super) struct Counts {
    /// Requests read.
    pub(super) requests: u64,
    /// Requests that were met before.
    pub(super) repeated: u64,
    /// Forecasts in their answers.
    pub(super) forecasts: u64,
    /// Requests that cannot be scored, by reason.
    pub(super) not_scorable: BTreeMap<&'static str, u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    capture_data: Data,
    event_metadata: Meta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    endpoint_input: Option<Side>,
    endpoint_output: Option<Side>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Side {
    #[serde(default)]
    observed_content_type: String,
    data: String,
    encoding: String,
}

impl Side {
    fn bytes(self) -> Option<(Vec<u8>, Media)> {
        let media = Media::of_request(Some(&self.observed_content_type)).ok()?;
        match self.encoding.as_str() {
            "BASE64" => Some((rules::base64::decode(&self.data)?, media)),
            _text => Some((self.data.into_bytes(), media)),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    event_id: String,
    inference_time: String,
    #[serde(default)]
    model_name: String,
    time_freq: Option<String>,
}

#[derive(Deserialize)]
struct Predictions {
    predictions: Vec<Prediction>,
}

/// Numbers that were not finite are null.
#[derive(Deserialize)]
struct Prediction {
    mean: Option<Vec<Option<f32>>>,
    quantiles: Option<BTreeMap<String, Vec<Option<f32>>>>,
    samples: Option<Vec<Vec<Option<f32>>>>,
}

/// The lines of one endpoint.
pub(super) struct Captured<'a> {
    node: &'a Node,
    runtime: Handle,
    bucket: String,
    prefix: String,
    since: Option<Timestamp>,
    steps: HashMap<String, Option<Frequency>>,
    events: HashSet<u64>,
    pub(super) counts: Counts,
}

impl<'a> Captured<'a> {
    /// What was captured of `endpoint` since a moment.
    pub(super) fn find(
        node: &'a Node,
        endpoint: &str,
        since: Option<Timestamp>,
    ) -> Result<Captured<'a>> {
        let name = aws::capture_table(endpoint);
        let table = node.lake.lake.catalog().find_table(DATABASE, &name)?;
        let own = table.filter(|table| aws::captured_endpoint(table) == Some(endpoint));
        let table = own.ok_or_else(|| {
            Error::not_found(format!(
                "nothing was captured of endpoint {endpoint:?} yet (there is no table \
                 {DATABASE}.{name} of it); its configuration has to name a DataCaptureConfig that \
                 captures Input and Output"
            ))
        })?;
        Ok(Captured {
            node,
            runtime: Handle::current(),
            bucket: table.bucket,
            prefix: table.prefix,
            since,
            steps: HashMap::new(),
            events: HashSet::new(),
            counts: Counts::default(),
        })
    }

    /// Hands over every forecast, variant by variant, from the oldest on. Blocks on files.
    pub(super) fn each(&mut self, take: &mut dyn FnMut(Answered<'_>)) -> Result<()> {
        self.events.clear();
        self.counts = Counts::default();
        for folder in self.variants()? {
            let variant = folder[self.prefix.len()..].trim_end_matches('/').to_owned();
            let mut listing = Listing {
                prefix: folder.clone(),
                after: self.first(&folder),
                max: PAGE,
                ..Listing::default()
            };
            loop {
                let page = self.node.buckets.page(&self.bucket, &listing)?;
                for entry in &page.entries {
                    let Entry::Object(found) = entry else { continue };
                    if found.meta.key.ends_with(".jsonl") {
                        self.file(&found.meta.key, &variant, take)?;
                    }
                }
                let Some(last) = page.entries.last().filter(|_| page.more) else { break };
                last.name().clone_into(&mut listing.after);
                listing.as_of = Some(page.generation);
            }
        }
        Ok(())
    }

    fn variants(&self) -> Result<Vec<String>> {
        let mut listing = Listing {
            prefix: self.prefix.clone(),
            delimiter: Some("/".to_owned()),
            max: PAGE,
            ..Listing::default()
        };
        let mut folders = Vec::new();
        loop {
            let page = self.node.buckets.page(&self.bucket, &listing)?;
            folders.extend(page.entries.iter().filter_map(|entry| match entry {
                Entry::Prefix(folder) => Some(folder.clone()),
                Entry::Object(_) => None,
            }));
            let Some(last) = page.entries.last().filter(|_| page.more) else { break };
            last.name().clone_into(&mut listing.after);
            listing.as_of = Some(page.generation);
        }
        Ok(folders)
    }

    /// Where the files of a variant begin that may have lines since the moment asked for.
    fn first(&self, folder: &str) -> String {
        let Some(since) = self.since else { return String::new() };
        let at = DateTime(since.millis().div_euclid(60_000)).parts();
        format!("{folder}{:04}/{:02}/{:02}/{:02}/", at.year, at.month, at.day, at.hour)
    }

    fn file(&mut self, key: &str, variant: &str, take: &mut dyn FnMut(Answered<'_>)) -> Result<()> {
        let bytes = match self.runtime.block_on(self.node.buckets.get(&self.bucket, key)) {
            Ok(bytes) => bytes,
            // Somebody removed it since it was listed.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            if let Err(why) = self.line(line, variant, take) {
                *self.counts.not_scorable.entry(why).or_default() += 1;
            }
        }
        Ok(())
    }

    fn line(
        &mut self,
        line: &[u8],
        variant: &str,
        take: &mut dyn FnMut(Answered<'_>),
    ) -> std::result::Result<(), &'static str> {
        let line: Line = serde_json::from_slice(line).map_err(|_cause| "it is no captured line")?;
        let meta = line.event_metadata;
        let second = seconds(&meta.inference_time).ok_or("its time is not readable")?;
        if self.since.is_some_and(|since| second < since.millis().div_euclid(1000)) {
            return Ok(());
        }
        self.counts.requests += 1;
        let mut hasher = DefaultHasher::new();
        meta.event_id.hash(&mut hasher);
        if self.events.len() < EVENTS_MAX && !self.events.insert(hasher.finish()) {
            self.counts.repeated += 1;
            return Ok(());
        }
        let (Some(input), Some(output)) =
            (line.capture_data.endpoint_input, line.capture_data.endpoint_output)
        else {
            return Err("its request or its answer was not captured");
        };
        let freq = self.step_of(&meta).ok_or("the step of its model is not known")?;
        let (body, media) = input.bytes().ok_or("its request is not readable")?;
        let (answer, answer_media) = output.bytes().ok_or("its answer is not readable")?;
        let predictions = read_answer(&answer, answer_media).ok_or("its answer is not readable")?;
        let prediction_length = predictions.first().map_or(0, Prediction::steps);
        let shape = Shape { freq, prediction_length };
        let request = match media {
            Media::Json => Request::parse(&body, shape),
            Media::JsonLines => Request::parse_lines(&body, Configuration::default(), shape),
        };
        let request = request.map_err(|_cause| "its request is not readable")?;
        if request.series.len() != predictions.len() {
            return Err("its answer is not one of its request");
        }
        for (instance, prediction) in request.series.iter().zip(predictions) {
            self.counts.forecasts += 1;
            let steps = i64::try_from(instance.target.len()).unwrap_or(i64::MAX);
            let start = freq.advance(instance.start, steps);
            let (made, levels) = prediction
                .forecast(start, freq)
                .ok_or("its answer has neither quantiles nor samples nor a mean")?;
            take(Answered { variant, model: &meta.model_name, instance, made, levels });
        }
        Ok(())
    }

    /// The step that a model forecasts at: as the line says, else as the model does.
    fn step_of(&mut self, meta: &Meta) -> Option<Frequency> {
        if let Some(step) = meta.time_freq.as_ref().and_then(|step| step.parse().ok()) {
            return Some(step);
        }
        let host = &self.node.models.host;
        *self.steps.entry(meta.model_name.clone()).or_insert_with(|| {
            host.load(&meta.model_name)
                .ok()
                .map(|model: std::sync::Arc<dyn Predictor>| model.freq())
        })
    }
}

/// A time as captured lines have it, in seconds since 1970.
pub(super) fn seconds(text: &str) -> Option<i64> {
    let minute: DateTime = text.parse().ok()?;
    let second: i64 = match text.get(17..19) {
        Some(digits) => digits.parse().ok()?,
        None => 0,
    };
    Some(minute.0 * 60 + second)
}

fn read_answer(answer: &[u8], media: Media) -> Option<Vec<Prediction>> {
    match media {
        Media::Json => {
            let all: Predictions = serde_json::from_slice(answer).ok()?;
            Some(all.predictions)
        }
        Media::JsonLines => {
            let lines = answer.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
            lines.map(|line| serde_json::from_slice(line).ok()).collect()
        }
    }
}

fn numbers(values: Vec<Option<f32>>) -> Vec<f32> {
    values.into_iter().map(|value| value.unwrap_or(f32::NAN)).collect()
}

impl Prediction {
    fn steps(&self) -> usize {
        let of_levels = || self.quantiles.as_ref()?.values().next().map(Vec::len);
        let of_samples = || self.samples.as_ref()?.first().map(Vec::len);
        self.mean.as_ref().map(Vec::len).or_else(of_levels).or_else(of_samples).unwrap_or(0)
    }

    /// The forecast, and the levels by which it is scored: those it holds, else those of its
    /// sample paths, else none.
    fn forecast(self, start: DateTime, freq: Frequency) -> Option<(Forecast, Levels)> {
        let steps = self.steps();
        let mean = self.mean.map(numbers);
        let samples: Option<Vec<Vec<f32>>> = self
            .samples
            .map(|paths| paths.into_iter().map(numbers).collect())
            .filter(|paths: &Vec<Vec<f32>>| {
                !paths.is_empty() && paths.iter().all(|path| path.len() == steps)
            });
        let held = self.quantiles.unwrap_or_default();
        let mut levels: Levels = held
            .into_iter()
            .filter_map(|(key, values)| Some((key.parse::<f64>().ok()?, numbers(values))))
            .collect();
        levels.sort_by(|a, b| a.0.total_cmp(&b.0));
        let average = |paths: &Vec<Vec<f32>>| -> Vec<f32> {
            let at = |step: usize| paths.iter().map(|path| f64::from(path[step])).sum::<f64>();
            (0..steps).map(|step| (at(step) / paths.len() as f64) as f32).collect()
        };
        let known = mean.is_some() || !levels.is_empty() || samples.is_some();
        let mean = mean.or_else(|| samples.as_ref().map(average));
        let mut made = Forecast {
            item_id: None,
            start,
            freq,
            mean: mean.unwrap_or_else(|| vec![f32::NAN; steps]),
            quantiles: Vec::new(),
            samples,
            parameters: None,
        };
        if levels.is_empty() && made.samples.is_some() {
            let of_paths = LEVELS.map(|level| Some((level, made.quantile(level).ok()?)));
            levels = of_paths.into_iter().collect::<Option<_>>()?;
        }
        // Paths are large, and what they say is in the levels now.
        made.samples = None;
        (known && steps > 0).then_some((made, levels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn levels(text: &str) -> Option<(Vec<f32>, Vec<f64>)> {
        let read = read_answer(text.as_bytes(), Media::Json)?;
        let made = read.into_iter().next()?.forecast(DateTime(0), Frequency::HOURLY)?;
        Some((made.0.mean, made.1.into_iter().map(|(level, _)| level).collect()))
    }

    #[test]
    fn what_an_answer_holds_is_what_is_scored() {
        let both = r#"{"predictions":[{"mean":[1.5,null],"quantiles":{"0.9":[2.0,3.0],"0.10":[1.0,2.0]},"samples":[[1.0,2.0]]}]}"#;
        let (mean, found) = levels(both).unwrap();
        assert!(mean[0] == 1.5 && mean[1].is_nan());
        assert_eq!(found, [0.1, 0.9]);
        let paths = r#"{"predictions":[{"samples":[[1.0,2.0],[3.0,4.0]]}]}"#;
        assert_eq!(levels(paths).unwrap(), (vec![2.0, 3.0], LEVELS.to_vec()));
        let mean = r#"{"predictions":[{"mean":[1.0,2.0]}]}"#;
        assert_eq!(levels(mean).unwrap(), (vec![1.0, 2.0], vec![]));
        for nothing in [r#"{"predictions":[{"parameters":{}}]}"#, "{}", "no json"] {
            assert!(levels(nothing).is_none(), "{nothing}");
        }
    }

    #[test]
    fn times_are_read_to_the_second() {
        let minute: DateTime = "2021-02-05 10:11".parse().unwrap();
        assert_eq!(seconds("2021-02-05T10:11:12Z"), Some(minute.0 * 60 + 12));
        assert_eq!(seconds("2021-02-05"), Some("2021-02-05".parse::<DateTime>().unwrap().0 * 60));
        assert_eq!(seconds("yesterday"), None);
    }
}
