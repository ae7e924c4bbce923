//! Writes what is answered: only the asked types, valid JSON whatever the model computed.
//!
//! A number that is not finite becomes `null`: one broken step must not cost a client the
//! other stations' forecasts, and it must not make the text unreadable.

use base::Result;
use forecast::Forecast;

use crate::media::Media;
use crate::request::Configuration;

/// The answer for `forecasts` in `media`.
pub fn write(
    forecasts: &[Forecast],
    configuration: &Configuration,
    media: Media,
) -> Result<Vec<u8>> {
    let steps = forecasts.first().map_or(0, Forecast::prediction_length);
    // About nine signs a number.
    let numbers = forecasts.len().saturating_mul(configuration.numbers(steps));
    let mut out = String::with_capacity(numbers.saturating_mul(9).min(64 << 20) + 64);
    match media {
        Media::Json => {
            out.push_str("{\"predictions\":[");
            for (k, forecast) in forecasts.iter().enumerate() {
                out.push_str(if k > 0 { "," } else { "" });
                write_prediction(forecast, configuration, &mut out)?;
            }
            out.push_str("]}");
        }
        Media::JsonLines => {
            for forecast in forecasts {
                write_prediction(forecast, configuration, &mut out)?;
                out.push('\n');
            }
        }
    }
    Ok(out.into_bytes())
}

/// One prediction as a JSON object.
pub fn write_prediction(
    forecast: &Forecast,
    configuration: &Configuration,
    out: &mut String,
) -> Result<()> {
    let mut separator = "{";
    let mut name = |out: &mut String, name: &str| {
        out.extend([separator, "\"", name, "\":"]);
        separator = ",";
    };
    if configuration.mean {
        name(out, "mean");
        write_numbers(&forecast.mean, out);
    }
    if let Some(levels) = &configuration.quantiles {
        name(out, "quantiles");
        out.push('{');
        for (k, level) in levels.iter().enumerate() {
            out.push_str(if k > 0 { "," } else { "" });
            out.push_str(&serde_json::Value::from(level.key.as_str()).to_string());
            out.push(':');
            write_numbers(&forecast.quantile(level.value)?, out);
        }
        out.push('}');
    }
    if configuration.samples {
        name(out, "samples");
        out.push('[');
        for (k, path) in forecast.samples.iter().flatten().enumerate() {
            out.push_str(if k > 0 { "," } else { "" });
            write_numbers(path, out);
        }
        out.push(']');
    }
    if let Some(law) = forecast.parameters.as_ref().filter(|_| configuration.parameters) {
        name(out, "parameters");
        out.extend(["{\"distribution\":\"", law.law, "\""]);
        for (parameter, values) in &law.values {
            out.extend([",\"", parameter, "\":"]);
            write_numbers(values, out);
        }
        out.push('}');
    }
    if configuration.time {
        name(out, "freq");
        push(out, format_args!("\"{}\"", forecast.freq));
        name(out, "timestamps");
        out.push('[');
        for step in 0..forecast.prediction_length() {
            let at = forecast.freq.advance(forecast.start, step as i64);
            push(out, format_args!("{}\"{at}\"", if step > 0 { "," } else { "" }));
        }
        out.push(']');
    }
    out.push('}');
    Ok(())
}

fn push(out: &mut String, text: std::fmt::Arguments<'_>) {
    use std::fmt::Write as _;
    out.write_fmt(text).expect("writing to a String cannot fail");
}

fn write_numbers(values: &[f32], out: &mut String) {
    // The shortest digits that read back, in half the time of `format!`; null where it is not finite.
    out.push_str(&serde_json::to_string(values).expect("a list of numbers is JSON"));
}

#[cfg(test)]
mod tests {
    use forecast::{DateTime, Frequency};
    use serde_json::{Value, json};

    use super::*;

    fn forecast() -> Forecast {
        Forecast {
            item_id: None,
            start: DateTime(0),
            freq: Frequency::HOURLY,
            mean: vec![1.0, f32::NAN],
            quantiles: vec![(0.1, vec![-0.5, 1e30]), (0.9, vec![f32::INFINITY, 1e-7])],
            samples: Some(vec![vec![1.25, 2.0], vec![f32::NEG_INFINITY, 4.0]]),
            parameters: Some(forecast::Parameters {
                law: "gaussian",
                values: vec![("mean", vec![1.0, 2.0]), ("sigma", vec![0.5, f32::NAN])],
            }),
        }
    }

    fn read(configuration: &str) -> Value {
        let configuration = Configuration::parse(configuration).unwrap();
        let text = write(&[forecast()], &configuration, Media::Json).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()["predictions"][0].clone()
    }

    #[test]
    fn only_what_was_asked_for_under_the_keys_it_was_asked_with() {
        assert_eq!(read(r#"{"output_types": ["mean"]}"#), json!({"mean": [1.0, null]}));
        assert_eq!(
            read(r#"{"output_types": ["quantiles"], "quantiles": ["0.10", 0.9]}"#),
            json!({"quantiles": {"0.10": [-0.5, 1e30], "0.9": [null, 1e-7]}})
        );
        assert_eq!(
            read(r#"{"output_types": ["samples"]}"#),
            json!({"samples": [[1.25, 2.0], [null, 4.0]]})
        );
        let law = json!({"distribution": "gaussian", "mean": [1.0, 2.0], "sigma": [0.5, null]});
        assert_eq!(read(r#"{"output_types": ["parameters"]}"#), json!({ "parameters": law }));
        let timestamps = ["1970-01-01 00:00:00", "1970-01-01 01:00:00"];
        assert_eq!(
            read(r#"{"output_types": ["time"]}"#),
            json!({"freq": "1H", "timestamps": timestamps})
        );
    }

    #[test]
    fn every_float_makes_valid_json() {
        let mut bits = 1u32;
        for _ in 0..20_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = f32::from_bits(bits);
            let mut text = String::new();
            write_numbers(&[value], &mut text);
            let back: Vec<Option<f32>> = serde_json::from_str(&text).unwrap();
            assert_eq!(back[0], value.is_finite().then_some(value), "{text}");
        }
    }

    #[test]
    fn lines_hold_one_prediction_each() {
        let wanted = Configuration::parse(r#"{"output_types": ["mean"]}"#).unwrap();
        let text = write(&[forecast(), forecast()], &wanted, Media::JsonLines).unwrap();
        assert_eq!(text, b"{\"mean\":[1.0,null]}\n{\"mean\":[1.0,null]}\n");
    }
}
