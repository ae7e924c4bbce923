//! Forecasts many series a few at a time: bounded memory, and a place to stop.

use base::{Error, ErrorKind, Result};
use forecast::{Forecast, PredictOptions, Predictor, TimeSeries};

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

#[cfg(test)]
mod tests {
    use forecast::{Frequency, SeasonalNaive};

    use super::*;

    fn naive() -> SeasonalNaive {
        SeasonalNaive::new(Frequency::HOURLY, 1, 2).unwrap()
    }

    fn of(values: &[f32]) -> TimeSeries {
        TimeSeries { target: values.to_vec().into(), ..TimeSeries::default() }
    }

    #[test]
    fn a_batch_keeps_order_across_groups() {
        let series: Vec<TimeSeries> = (0..200).map(|k| of(&[k as f32])).collect();
        let options = PredictOptions::default();
        let made = predict(&naive(), &series, &options, |k| k.to_string(), || true).unwrap();
        assert_eq!(made.len(), 200);
        for (k, forecast) in made.iter().enumerate() {
            assert_eq!(forecast.mean, [k as f32; 2]);
        }
    }

    #[test]
    fn the_refused_series_is_named_by_its_place() {
        let mut series = vec![of(&[1.0]); 130];
        series[100] = of(&[]);
        let place = |k: usize| format!("line {}", k + 1);
        let options = PredictOptions::default();
        let error = predict(&naive(), &series, &options, place, || true).unwrap_err();
        assert_eq!(error.to_string(), "line 101: no observed point");
        assert_eq!(error.kind(), ErrorKind::Invalid);
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
