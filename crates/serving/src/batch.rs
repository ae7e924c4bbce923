//! Forecasts many series a few at a time: bounded memory, and a place to stop.

use std::io::{BufRead, Read, Write};

use base::{Error, ErrorKind, Result};
use forecast::{Forecast, PredictOptions, Predictor, TimeSeries, jsonl};

use crate::answer;
use crate::request::{Configuration, Shape, parse_instance};

/// Sampled values held at once: 8 MB.
const VALUES_AT_ONCE: usize = 2_000_000;

/// Most series handed to a predictor at once; more would not make it faster.
const SERIES_AT_ONCE: usize = 64;

/// How many series of a request are worth handing over at once, within a bound of memory.
pub fn series_at_once(prediction_length: usize, num_samples: usize) -> usize {
    let each = prediction_length.saturating_mul(num_samples).max(1);
    (VALUES_AT_ONCE / each).clamp(1, SERIES_AT_ONCE)
}

/// One forecast a series, in their order. `place` names a series in errors; `go_on` is asked
/// between groups, and a `false` ends with [`ErrorKind::Unavailable`].
pub fn predict(
    predictor: &dyn Predictor,
    series: &[TimeSeries],
    options: &PredictOptions,
    place: impl Fn(usize) -> String,
    go_on: impl Fn() -> bool,
) -> Result<Vec<Forecast>> {
    let mut forecasts = Vec::with_capacity(series.len());
    let at_once = series_at_once(predictor.prediction_length(), options.num_samples);
    for (group, part) in series.chunks(at_once).enumerate() {
        if !go_on() {
            return Err(Error::new(ErrorKind::Unavailable, "nobody waits for the answer any more"));
        }
        let made = predictor
            .predict(part, options)
            .map_err(|error| blame(predictor, part, error, |k| place(group * at_once + k)))?;
        if made.len() != part.len() {
            let (made, asked) = (made.len(), part.len());
            return Err(Error::internal(format!("the model made {made} forecasts of {asked}")));
        }
        let length = predictor.prediction_length();
        if let Some(odd) = made.iter().find(|forecast| forecast.prediction_length() != length) {
            let found = odd.prediction_length();
            return Err(Error::internal(format!(
                "the model made a forecast of {found} steps where its own length is {length}"
            )));
        }
        forecasts.extend(made);
    }
    Ok(forecasts)
}

/// Says which series a predictor refused: the first that it refuses alone.
fn blame(
    predictor: &dyn Predictor,
    part: &[TimeSeries],
    error: Error,
    place: impl Fn(usize) -> String,
) -> Error {
    if error.kind() != ErrorKind::Invalid {
        // Anything else is not the request's fault.
        return Error::internal(format!("the model failed: {error}")).with_source(error);
    }
    let options = PredictOptions { num_samples: 1, ..PredictOptions::default() };
    let refused =
        |series: &TimeSeries| predictor.predict(std::slice::from_ref(series), &options).err();
    let culprit = part.iter().enumerate().find_map(|(k, series)| Some((k, refused(series)?)));
    match culprit {
        Some((k, alone)) if alone.kind() == ErrorKind::Invalid => {
            // Alone it is series 0, which is not what the client calls it.
            let text = alone.to_string();
            let text = text.strip_prefix("series 0: ").unwrap_or(&text).to_owned();
            Error::invalid(format!("{}: {text}", place(k))).with_source(alone)
        }
        _ => error,
    }
}

/// What a batch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchCounts {
    /// Series read and forecasts written.
    pub series: u64,
}

/// Reads DeepAR JSON Lines and writes one prediction a line, in their order, holding a group
/// of series at a time. Stops at the first bad line, which the error names; what stood before
/// it in full groups has been written.
pub fn lines(
    predictor: &dyn Predictor,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
    configuration: &Configuration,
) -> Result<BatchCounts> {
    let shape = Shape::of(predictor);
    let options = configuration.options();
    let at_once = series_at_once(shape.prediction_length, configuration.num_samples);
    let mut counts = BatchCounts::default();
    let (mut group, mut numbers, mut number) = (Vec::new(), Vec::new(), 0);
    loop {
        number += 1;
        let line = read_line(input, number)?;
        if let Some(text) = line.as_deref().map(str::trim).filter(|text| !text.is_empty()) {
            let series = parse_instance(text, shape)
                .map_err(|error| error.context(format_args!("line {number}")))?;
            group.push(series);
            numbers.push(number);
        }
        if group.len() == at_once || (line.is_none() && !group.is_empty()) {
            let place = |k: usize| format!("line {}", numbers.get(k).copied().unwrap_or(0));
            let forecasts = predict(predictor, &group, &options, place, || true)?;
            let mut text = String::new();
            for forecast in &forecasts {
                answer::write_prediction(forecast, configuration, &mut text)?;
                text.push('\n');
            }
            output
                .write_all(text.as_bytes())
                .map_err(|cause| Error::io("write predictions", cause))?;
            counts.series += group.len() as u64;
            group.clear();
            numbers.clear();
        }
        if line.is_none() {
            return Ok(counts);
        }
    }
}

fn read_line(input: &mut dyn BufRead, number: u64) -> Result<Option<String>> {
    let mut line = Vec::new();
    input
        .take(jsonl::LINE_BYTES_MAX as u64 + 1)
        .read_until(b'\n', &mut line)
        .map_err(|cause| Error::io(format!("read line {number}"), cause))?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.len() > jsonl::LINE_BYTES_MAX {
        let max = jsonl::LINE_BYTES_MAX;
        return Err(Error::invalid(format!("line {number} is longer than {max} bytes")));
    }
    let text = String::from_utf8(line).map_err(|cause| {
        Error::invalid(format!("line {number} is not UTF-8 text")).with_source(cause)
    })?;
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use forecast::{Frequency, SeasonalNaive};

    use super::*;

    fn naive() -> SeasonalNaive {
        SeasonalNaive::new(Frequency::HOURLY, 1, 2).unwrap()
    }

    fn line(value: usize) -> String {
        format!("{{\"start\":\"2021-02-05\",\"target\":[{value}]}}\n")
    }

    #[test]
    fn a_batch_keeps_order_across_groups() {
        let input: String = (0..200).map(line).collect();
        let wanted = Configuration::parse(r#"{"output_types": ["mean"]}"#).unwrap();
        let mut output = Vec::new();
        let counts = lines(&naive(), &mut input.as_bytes(), &mut output, &wanted).unwrap();
        let expect: String = (0..200).map(|k| format!("{{\"mean\":[{k}.0,{k}.0]}}\n")).collect();
        assert_eq!(String::from_utf8(output).unwrap(), expect);
        assert_eq!(counts.series, 200);
    }

    #[test]
    fn the_refused_series_is_named_by_its_place() {
        let empty = "{\"start\":\"2021-02-05\",\"target\":[]}\n";
        let input = format!("{}\n{}{empty}", line(1), line(2));
        let wanted = Configuration::default();
        let error = lines(&naive(), &mut input.as_bytes(), &mut Vec::new(), &wanted).unwrap_err();
        assert_eq!(error.to_string(), "line 4: no observed point");
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let error = lines(&naive(), &mut &b"{\n"[..], &mut Vec::new(), &wanted).unwrap_err();
        assert!(error.to_string().starts_with("line 1: "), "{error}");
    }

    #[test]
    fn an_abandoned_request_stops_between_groups() {
        let series = vec![TimeSeries { target: vec![1.0].into(), ..TimeSeries::default() }; 200];
        let asked = std::cell::Cell::new(0);
        let go_on = || asked.replace(asked.get() + 1) < 2;
        let options = PredictOptions::default();
        let error = predict(&naive(), &series, &options, |k| k.to_string(), go_on).unwrap_err();
        assert_eq!((error.kind(), asked.get()), (ErrorKind::Unavailable, 3));
    }
}
