//! Reads what is asked: SageMaker's DeepAR request, as one JSON object or as JSON Lines.
//!
//! ```text
//! {"instances": [{"start": "2021-02-05 00:00:00", "target": [1, null, "NaN"],
//!                 "cat": [0], "dynamic_feat": [[..]]}],
//!  "configuration": {"num_samples": 100, "output_types": ["mean", "quantiles", "samples"],
//!                    "quantiles": ["0.1", "0.5", "0.9"]}}
//! ```
//!
//! Of our own are the output types `parameters`, the law of each step by its parameters
//! ([`forecast::Parameters`] says what they mean further ahead), and `time`, the moment of each.
//!
//! Invariants
//! * An error names the instance by its place and the field.
//! * Nothing is accepted and ignored, but fields of an instance that DeepAR ignores too.
//! * The cost of a request is known before a model sees it: instances, levels, samples and the
//!   numbers of the answer are bounded.

use std::borrow::Cow;

use base::limits::JSON_DEPTH_MAX;
use base::{Error, Result};
use forecast::{Frequency, PredictOptions, Predictor, TimeSeries, jsonl};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Most instances in one request.
pub const INSTANCES_MAX: usize = 10_000;

/// Most numbers in one answer: about 50 MB of text.
pub const NUMBERS_MAX: usize = 5_000_000;

/// What a model demands of every instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The step of its series.
    pub freq: Frequency,
    /// Steps it forecasts, which dynamic features must reach over.
    pub prediction_length: usize,
}

impl Shape {
    /// The shape `predictor` demands.
    pub fn of(predictor: &dyn Predictor) -> Shape {
        Shape { freq: predictor.freq(), prediction_length: predictor.prediction_length() }
    }
}

/// A quantile level and the key it is answered under: the text it was asked with.
#[derive(Clone, Debug, PartialEq)]
pub struct Level {
    /// As asked, for instance `0.10`.
    pub key: String,
    /// What it means.
    pub value: f64,
}

/// What is wanted of each forecast.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration {
    /// Sample paths behind each forecast.
    pub num_samples: usize,
    /// Whether the mean is answered.
    pub mean: bool,
    /// The levels answered; none if quantiles are not among the output types.
    pub quantiles: Option<Vec<Level>>,
    /// Whether the sample paths are answered.
    pub samples: bool,
    /// Whether the law's parameters are answered.
    pub parameters: bool,
    /// Whether the steps' moments are answered.
    pub time: bool,
}

impl Default for Configuration {
    /// DeepAR's own: 100 samples, mean and quantiles 0.1 to 0.9.
    fn default() -> Self {
        Configuration {
            num_samples: 100,
            mean: true,
            quantiles: Some(default_levels()),
            samples: false,
            parameters: false,
            time: false,
        }
    }
}

fn default_levels() -> Vec<Level> {
    let level = |tenth: u32| {
        let value = f64::from(tenth) / 10.0;
        Level { key: value.to_string(), value }
    };
    (1..10).map(level).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfiguration<'a> {
    #[serde(borrow, default)]
    num_samples: Option<&'a RawValue>,
    #[serde(borrow, default)]
    output_types: Option<&'a RawValue>,
    #[serde(borrow, default)]
    quantiles: Option<&'a RawValue>,
}

impl Configuration {
    /// Reads the `configuration` of a request, or the text of `DEEPAR_INFERENCE_CONFIG`.
    pub fn parse(text: &str) -> Result<Configuration> {
        let text = text.trim();
        must_be_object("configuration", text)?;
        let raw: RawConfiguration<'_> = serde_json::from_str(text)
            .map_err(|cause| Error::invalid(format!("configuration: {cause}")))?;
        let mut made = Configuration::default();
        if let Some(raw) = given(raw.num_samples) {
            made.num_samples = whole_number(raw.get())?;
        }
        let levels = match given(raw.quantiles) {
            Some(raw) => parse_levels(raw.get())?,
            None => default_levels(),
        };
        made.quantiles = Some(levels);
        if let Some(raw) = given(raw.output_types) {
            made.choose(raw.get())?;
        }
        made.options().validate().map_err(|error| error.context("configuration"))?;
        Ok(made)
    }

    fn choose(&mut self, raw: &str) -> Result<()> {
        let types: Vec<String> = serde_json::from_str(raw)
            .map_err(|cause| Error::invalid(format!("configuration: output_types: {cause}")))?;
        let known = |name: &String| {
            matches!(name.as_str(), "mean" | "quantiles" | "samples" | "parameters" | "time")
        };
        if let Some(other) = types.iter().find(|name| !known(name)) {
            return Err(Error::invalid(format!(
                "configuration: output_types: {other:.40?} is not mean, quantiles, samples, parameters or time"
            )));
        }
        if types.is_empty() {
            return Err(Error::invalid(
                "configuration: output_types is empty; name mean, quantiles, samples, parameters or time",
            ));
        }
        let wants = |name: &str| types.iter().any(|wanted| wanted == name);
        self.mean = wants("mean");
        self.samples = wants("samples");
        self.parameters = wants("parameters");
        self.time = wants("time");
        if !wants("quantiles") {
            self.quantiles = None;
        }
        Ok(())
    }

    /// What a predictor is asked for.
    pub fn options(&self) -> PredictOptions {
        let levels = self.quantiles.iter().flatten();
        PredictOptions {
            num_samples: self.num_samples,
            seed: None,
            quantiles: levels.map(|level| level.value).collect(),
            want_samples: self.samples,
            want_parameters: self.parameters,
        }
    }

    /// Numbers one forecast of `steps` puts into the answer.
    pub(crate) fn numbers(&self, steps: usize) -> usize {
        let levels = self.quantiles.as_ref().map_or(0, Vec::len);
        let paths = if self.samples { self.num_samples } else { 0 };
        // No law has more than three parameters.
        let law = if self.parameters { 3 } else { 0 };
        let time = usize::from(self.time);
        steps.saturating_mul(usize::from(self.mean) + levels + paths + law + time)
    }
}

fn given(raw: Option<&RawValue>) -> Option<&RawValue> {
    raw.filter(|raw| raw.get() != "null")
}

fn whole_number(raw: &str) -> Result<usize> {
    raw.parse().map_err(|cause| {
        let shown: String = raw.chars().take(40).collect();
        Error::invalid(format!("configuration: num_samples {shown} is not a whole number"))
            .with_source(cause)
    })
}

/// Levels as strings or numbers; each key once, in the order asked.
fn parse_levels(raw: &str) -> Result<Vec<Level>> {
    let refuse = |what: String| Error::invalid(format!("configuration: quantiles{what}"));
    let items: Vec<&RawValue> =
        serde_json::from_str(raw).map_err(|cause| refuse(format!(": {cause}")))?;
    let mut levels: Vec<Level> = Vec::with_capacity(items.len().min(1000));
    for (k, item) in items.iter().enumerate() {
        let key = match serde_json::from_str::<Cow<'_, str>>(item.get()) {
            Ok(text) => text.into_owned(),
            // A number: its own text is the key.
            Err(_) => item.get().to_owned(),
        };
        let value: f64 = key.parse().map_err(|cause| {
            refuse(format!("[{k}]: {key:.40?} is no number")).with_source(cause)
        })?;
        forecast::check_quantiles(&[value]).map_err(|error| refuse(format!("[{k}]: {error}")))?;
        if levels.iter().all(|level| level.key != key) {
            levels.push(Level { key, value });
        }
        if levels.len() > 1000 {
            return Err(refuse(": more than 1000 levels".into()));
        }
    }
    Ok(levels)
}

/// Everything one invocation asks for.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// The instances, in their order.
    pub series: Vec<TimeSeries>,
    /// What is wanted of each.
    pub configuration: Configuration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRequest<'a> {
    #[serde(borrow)]
    instances: Option<&'a RawValue>,
    #[serde(borrow, default)]
    configuration: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StrictRequest<'a> {
    #[serde(borrow)]
    instances: Vec<jsonl::Strict<'a>>,
    #[serde(borrow, default)]
    configuration: Option<&'a RawValue>,
}

impl Request {
    /// Reads one JSON object.
    pub fn parse(body: &[u8], shape: Shape) -> Result<Request> {
        let text = readable(body)?;
        let text = text.trim();
        must_be_object("the body", text)?;
        if let Some(request) = Request::read_strictly(text, shape) {
            return Ok(request);
        }
        let raw: RawRequest<'_> = serde_json::from_str(text)
            .map_err(|cause| Error::invalid(format!("the body is not a request: {cause}")))?;
        let configuration = match given(raw.configuration) {
            Some(raw) => Configuration::parse(raw.get())?,
            None => Configuration::default(),
        };
        let instances = given(raw.instances)
            .ok_or_else(|| Error::invalid("\"instances\" is missing; it holds the series"))?;
        let instances: Vec<&RawValue> = serde_json::from_str(instances.get())
            .map_err(|cause| Error::invalid(format!("instances: {cause}")))?;
        let texts = instances.iter().map(|raw| raw.get());
        Request::of(texts, configuration, shape, |k| format!("instances[{k}]"))
    }

    /// Reads in one pass what is written without liberties and without mistakes; the long way
    /// looks at each of the numbers of a request four times.
    fn read_strictly(text: &str, shape: Shape) -> Option<Request> {
        let asked: StrictRequest<'_> = serde_json::from_str(text).ok()?;
        if asked.instances.is_empty() || asked.instances.len() > INSTANCES_MAX {
            return None;
        }
        let configuration = match given(asked.configuration) {
            Some(raw) => Configuration::parse(raw.get()).ok()?,
            None => Configuration::default(),
        };
        let read = |one: jsonl::Strict<'_>| check_instance(one.read(shape.freq)?, shape).ok();
        let series = asked.instances.into_iter().map(read).collect::<Option<Vec<TimeSeries>>>()?;
        let numbers = series.len().saturating_mul(configuration.numbers(shape.prediction_length));
        (numbers <= NUMBERS_MAX).then_some(Request { series, configuration })
    }

    /// Reads one instance a line, as the training format has them; blank lines are skipped.
    pub fn parse_lines(body: &[u8], configuration: Configuration, shape: Shape) -> Result<Request> {
        let text = readable(body)?;
        let lines = || text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let numbers: Vec<usize> = lines().map(|(number, _)| number + 1).collect();
        let place = |k: usize| format!("line {}", numbers.get(k).copied().unwrap_or(0));
        Request::of(lines().map(|(_, line)| line), configuration, shape, place)
    }

    fn of<'a>(
        texts: impl Iterator<Item = &'a str>,
        configuration: Configuration,
        shape: Shape,
        place: impl Fn(usize) -> String,
    ) -> Result<Request> {
        let mut series = Vec::new();
        for (k, text) in texts.enumerate() {
            if k == INSTANCES_MAX {
                return Err(Error::invalid(format!("more than {INSTANCES_MAX} instances")));
            }
            let instance = parse_instance(text, shape).map_err(|error| error.context(place(k)))?;
            series.push(instance);
        }
        if series.is_empty() {
            return Err(Error::invalid("no instances; the request holds no series"));
        }
        let numbers = series.len().saturating_mul(configuration.numbers(shape.prediction_length));
        if numbers > NUMBERS_MAX {
            return Err(Error::invalid(format!(
                "the answer would hold {numbers} numbers, at most {NUMBERS_MAX}; ask for fewer instances or samples at a time"
            )));
        }
        Ok(Request { series, configuration })
    }
}

/// Reads one instance and checks what needs no model.
pub fn parse_instance(text: &str, shape: Shape) -> Result<TimeSeries> {
    check_instance(jsonl::parse_series(text, shape.freq)?, shape)
}

fn check_instance(series: TimeSeries, shape: Shape) -> Result<TimeSeries> {
    let needed = series.target.len() + shape.prediction_length;
    for (k, feature) in series.feat_dynamic_real.iter().enumerate() {
        if feature.len() != needed {
            let (found, target, ahead) =
                (feature.len(), series.target.len(), shape.prediction_length);
            return Err(Error::invalid(format!(
                "dynamic_feat[{k}] has {found} values, expected {needed}: {target} of target and {ahead} ahead"
            )));
        }
        if let Some(at) = feature.iter().position(|value| value.is_nan()) {
            return Err(Error::invalid(format!(
                "dynamic_feat[{k}][{at}] is missing; features must be known"
            )));
        }
    }
    Ok(series)
}

fn must_be_object(what: &str, text: &str) -> Result<()> {
    // serde would take an array as the fields in their order.
    match text.starts_with('{') {
        true => Ok(()),
        false => Err(Error::invalid(format!("{what} is not a JSON object"))),
    }
}

/// Bytes looked at together.
const STRIDE: usize = 32;

/// Whether none of these is a quote, a bracket or a letter.
fn is_plain(bytes: &[u8]) -> bool {
    let special = |byte: &u8| u8::from(*byte == b'"') | u8::from(*byte >= b'A');
    bytes.iter().fold(0, |found, byte| found | special(byte)) == 0
}

/// The body as JSON text: UTF-8, not nested deeper than any reader of ours follows, and with
/// every bare `NaN` (as Python's `json.dumps` writes it) made `null`.
fn readable(body: &[u8]) -> Result<Cow<'_, str>> {
    let text = std::str::from_utf8(body).map_err(|cause| {
        let at = cause.valid_up_to();
        Error::invalid(format!("the body is not UTF-8 text at byte {at}")).with_source(cause)
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let bytes = text.as_bytes();
    let (mut in_string, mut depth, mut from) = (false, 0usize, 0);
    let mut replaced = String::new();
    let mut at = 0;
    while at < bytes.len() {
        // Most of a request is digits and commas, which a processor passes over by the dozen.
        while !in_string && bytes.get(at..at + STRIDE).is_some_and(is_plain) {
            at += STRIDE;
        }
        let Some(byte) = bytes.get(at) else { break };
        match *byte {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => depth += 1,
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            b'N' if !in_string && bytes[at..].starts_with(b"NaN") => {
                replaced.push_str(&text[from..at]);
                replaced.push_str("null");
                from = at + 3;
                at += 2;
            }
            _ => {}
        }
        if depth > JSON_DEPTH_MAX {
            return Err(Error::invalid(format!("the body nests deeper than {JSON_DEPTH_MAX}")));
        }
        at += 1;
    }
    if from == 0 {
        return Ok(Cow::Borrowed(text));
    }
    replaced.push_str(&text[from..]);
    Ok(Cow::Owned(replaced))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { freq: Frequency::HOURLY, prediction_length: 2 };

    fn parse(body: &str) -> Result<Request> {
        Request::parse(body.as_bytes(), SHAPE)
    }

    fn refusal(body: &str) -> String {
        let error = parse(body).unwrap_err();
        assert_eq!(error.kind(), base::ErrorKind::Invalid, "{error}");
        error.to_string()
    }

    #[test]
    fn reads_what_the_article_sends() {
        let request = parse(
            r#"{"instances": [{"start": "2021-02-05 00:10:00", "target": [1, NaN, null, "NaN"]},
                {"start": "2021-02-05", "target": [2], "cat": [1], "dynamic_feat": [[1, 2, 3]]}],
                "configuration": {"num_samples": 50, "output_types": ["mean", "quantiles", "samples"],
                "quantiles": ["0.1", 0.50, "0.9", "0.9"]}}"#,
        )
        .unwrap();
        assert_eq!(request.series[0].start.to_string(), "2021-02-05 00:00:00");
        assert_eq!(request.series[0].target.iter().filter(|value| value.is_nan()).count(), 3);
        assert_eq!(request.series[1].feat_static_cat, [1]);
        let wanted = request.configuration;
        let keys: Vec<&str> = wanted.quantiles.iter().flatten().map(|l| l.key.as_str()).collect();
        assert_eq!(keys, ["0.1", "0.50", "0.9"]);
        assert_eq!((wanted.num_samples, wanted.mean, wanted.samples), (50, true, true));
    }

    #[test]
    fn what_is_not_said_is_deepars_default() {
        let body = r#"{"instances": [{"start": "2021-02-05", "target": [1]}]}"#;
        assert_eq!(parse(body).unwrap().configuration, Configuration::default());
        let made =
            Configuration::parse(r#"{"output_types": ["mean"], "quantiles": null}"#).unwrap();
        assert_eq!((made.quantiles, made.samples, made.num_samples), (None, false, 100));
        let keys: Vec<String> = default_levels().into_iter().map(|level| level.key).collect();
        assert_eq!(keys, ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9"]);
    }

    #[test]
    fn refusals_name_the_instance_and_the_field() {
        let good = r#"{"start": "2021-02-05", "target": [1]}"#;
        for (instance, expect) in [
            (r#"{"target": [1]}"#, "instances[1]: \"start\" is missing"),
            (r#"{"start": "noon", "target": [1]}"#, "instances[1]: start: \"noon\""),
            (r#"{"start": "2021-02-05"}"#, "instances[1]: \"target\" is missing"),
            (r#"{"start": "2021-02-05", "target": ["x"]}"#, "instances[1]: target: "),
            (r#"{"start": "2021-02-05", "target": [1e39]}"#, "instances[1]: target[0] = 1e39"),
            (r#"{"start": "2021-02-05", "target": [1], "cat": [-1]}"#, "instances[1]: cat: "),
            (
                r#"{"start": "2021-02-05", "target": [1], "dynamic_feat": [[1]]}"#,
                "instances[1]: dynamic_feat[0] has 1 values, expected 3: 1 of target and 2 ahead",
            ),
            (
                r#"{"start": "2021-02-05", "target": [1], "dynamic_feat": [[1, NaN, 1]]}"#,
                "instances[1]: dynamic_feat[0][1] is missing",
            ),
            ("[1]", "instances[1]: not a series"),
        ] {
            let text = refusal(&format!("{{\"instances\": [{good}, {instance}]}}"));
            assert!(text.starts_with(expect), "{text}");
        }
    }

    #[test]
    fn refusals_of_the_rest_say_what_is_known() {
        for (configuration, expect) in [
            (r#"{"num_samples": 0}"#, "num_samples 0 is outside 1..=10000"),
            (r#"{"num_samples": "50"}"#, "num_samples \"50\" is not a whole number"),
            (r#"{"num_samples": 1.5}"#, "num_samples 1.5"),
            (
                r#"{"output_types": ["median"]}"#,
                "\"median\" is not mean, quantiles, samples, parameters or time",
            ),
            (r#"{"output_types": []}"#, "output_types is empty"),
            (r#"{"quantiles": ["1.0"]}"#, "quantiles[0]: quantile 1 is not between"),
            (r#"{"quantiles": ["p50"]}"#, "quantiles[0]: \"p50\" is no number"),
            (r#"{"quantiles": ["NaN"]}"#, "quantiles[0]: "),
            (r#"{"quantiles": 0.5}"#, "quantiles: "),
            (r#"{"temperature": 1}"#, "unknown field `temperature`"),
            ("[]", "configuration is not a JSON object"),
        ] {
            let good = r#"{"start": "2021-02-05", "target": [1]}"#;
            let body = format!("{{\"instances\": [{good}], \"configuration\": {configuration}}}");
            let text = refusal(&body);
            assert!(text.starts_with("configuration") && text.contains(expect), "{text}");
        }
        for (body, expect) in [
            ("", "the body is not a JSON object"),
            ("{}", "\"instances\" is missing"),
            (r#"{"instances": []}"#, "no instances"),
            (r#"{"instances": 1}"#, "instances: "),
            (r#"{"instances": [], "instances": []}"#, "duplicate field"),
            (r#"{"instances": [], "more": 1}"#, "unknown field `more`"),
            (r#"{"instances": ["#, "the body is not a request"),
        ] {
            assert!(refusal(body).contains(expect), "{body}: {}", refusal(body));
        }
        let deep = format!("{{\"instances\": {}1", "[".repeat(100_000));
        assert!(refusal(&deep).contains("nests deeper"));
        assert!(Request::parse(&[b'{', 0xff], SHAPE).is_err());
    }

    #[test]
    fn the_answer_is_bounded_before_it_is_made() {
        let instance = r#"{"start": "2021-02-05", "target": [1]},"#.repeat(300);
        let body = format!(
            "{{\"instances\": [{}], \"configuration\": {{\"num_samples\": 10000, \"output_types\": [\"samples\"]}}}}",
            instance.trim_end_matches(',')
        );
        assert!(refusal(&body).contains("6000000 numbers, at most 5000000"));
    }

    #[test]
    fn what_is_special_is_found_wherever_it_stands() {
        for before in 0..100 {
            let numbers = "1,".repeat(before);
            let blanks = " ".repeat(before);
            let body = format!(
                r#"{{"instances": [{{"start": "2021-02-05", "target": [{numbers}{blanks}NaN,2]}}]}}"#
            );
            let series = &parse(&body).unwrap().series[0];
            let missing: Vec<usize> =
                (0..series.target.len()).filter(|at| series.target[*at].is_nan()).collect();
            assert_eq!(missing, [before], "{body}");
            let deep = format!("{{\"instances\": [{numbers}{blanks}{}", "[".repeat(JSON_DEPTH_MAX));
            assert!(refusal(&deep).contains("nests deeper"), "{deep}");
            let text = format!(r#"{{"x": "{blanks}[NaN\\", "y": [{numbers}1]}}"#);
            assert_eq!(readable(text.as_bytes()).unwrap(), text);
        }
    }

    #[test]
    fn lines_are_named_by_their_number() {
        let good = r#"{"start": "2021-02-05", "target": [1, NaN]}"#;
        let read =
            |text: &str| Request::parse_lines(text.as_bytes(), Configuration::default(), SHAPE);
        assert_eq!(read(&format!("{good}\n\n{good}\n")).unwrap().series.len(), 2);
        let error = read(&format!("{good}\n\n{{}}\n")).unwrap_err().to_string();
        assert!(error.starts_with("line 3: \"start\" is missing"), "{error}");
    }

    #[test]
    fn a_word_that_holds_nan_in_a_string_stays() {
        let body = r#"{"instances": [{"item_id": "a \"NaN\" b", "start": "2021-02-05", "target": [NaN]}]}"#;
        assert_eq!(parse(body).unwrap().series[0].item_id.as_deref(), Some("a \"NaN\" b"));
    }
}
