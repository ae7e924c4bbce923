//! JSON in texts.
//!
//! Athena has a type for JSON; here JSON is the text it was written as, so functions that
//! Athena gives JSON to take a varchar.

use serde_json::Value as Json;

use super::Kind::{Int, Scalar, Text};
use super::{Gives, Memory, Out, Outcome, Row, Value, row};

pub(super) const ROWS: &[Row] = &[
    row("json_extract", &[Text, Text], Gives::Text, extract),
    row("json_extract_scalar", &[Text, Text], Gives::Text, extract_scalar),
    row("json_value", &[Text, Text], Gives::Text, extract_scalar),
    row("json_query", &[Text, Text], Gives::Text, query),
    row("json_exists", &[Text, Text], Gives::Truth, exists),
    row("json_parse", &[Text], Gives::Text, parse),
    row("json_format", &[Text], Gives::Text, parse),
    row("json_array_length", &[Text], Gives::Int, array_length),
    row("json_array_get", &[Text, Int], Gives::Text, array_get),
    row("json_array_contains", &[Text, Scalar], Gives::Truth, array_contains),
    row("json_size", &[Text, Text], Gives::Int, size),
    row("json_object_keys", &[Text], Gives::Texts, object_keys),
    row("is_json_scalar", &[Text], Gives::Truth, is_scalar),
    row(AS_TEXT, &[Text], Gives::Text, as_text),
    row(AS_TEXTS, &[Text], Gives::Texts, as_texts),
];

/// What `CAST(json AS varchar)` is.
const AS_TEXT: &str = "__json_as_varchar";
/// What `CAST(json AS array(varchar))` is.
const AS_TEXTS: &str = "__json_as_varchars";

/// As in Athena, text that is no JSON has nothing at any path.
fn read(text: &str) -> Option<Json> {
    serde_json::from_str(text).ok()
}

fn found<'a>(
    memory: &mut Memory,
    document: &'a mut Option<Json>,
    path: &str,
) -> Result<Option<&'a Json>, String> {
    if memory.path.as_ref().is_none_or(|(known, _)| known != path) {
        let steps = steps(path).ok_or_else(|| {
            format!(
                "{path:?} is no JSON path that is understood: write it as $.key.other[0] or \
                 $[\"key\"]"
            )
        })?;
        memory.path = Some((path.to_owned(), steps));
    }
    let steps = memory.path.as_ref().map_or(&[][..], |(_, steps)| steps);
    Ok(document.as_ref().and_then(|document| walk(document, steps)))
}

fn extract(memory: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let mut document = read(args[0].text());
    Ok(found(memory, &mut document, args[1].text())?.map(|json| Out::Text(json.to_string())))
}

fn extract_scalar(memory: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let mut document = read(args[0].text());
    Ok(found(memory, &mut document, args[1].text())?.and_then(scalar).map(Out::Text))
}

/// Objects and arrays only: a scalar is for `json_value`.
fn query(memory: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let mut document = read(args[0].text());
    let found = found(memory, &mut document, args[1].text())?;
    let found = found.filter(|json| json.is_array() || json.is_object());
    Ok(found.map(|json| Out::Text(json.to_string())))
}

fn exists(memory: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let mut document = read(args[0].text());
    Ok(Some(Out::Truth(found(memory, &mut document, args[1].text())?.is_some())))
}

fn parse(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let text = args[0].text();
    match serde_json::from_str::<Json>(text) {
        Ok(json) => Ok(Some(Out::Text(json.to_string()))),
        Err(cause) => {
            let start: String = text.chars().take(100).collect();
            Err(format!("cannot convert {start:?} to JSON: {cause}"))
        }
    }
}

fn array_length(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let document = read(args[0].text());
    Ok(document.as_ref().and_then(Json::as_array).map(|array| Out::Int(array.len() as i64)))
}

/// From 0 on; a negative index counts from the end.
fn array_get(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let document = read(args[0].text());
    let Some(array) = document.as_ref().and_then(Json::as_array) else { return Ok(None) };
    let index = args[1].int();
    let index = if index < 0 { index + array.len() as i64 } else { index };
    let element = usize::try_from(index).ok().and_then(|index| array.get(index));
    Ok(element.filter(|json| !json.is_null()).map(|json| Out::Text(json.to_string())))
}

fn array_contains(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let document = read(args[0].text());
    let Some(array) = document.as_ref().and_then(Json::as_array) else { return Ok(None) };
    let is = |json: &Json| match args[1] {
        Value::Text(text) => json.as_str() == Some(text),
        Value::Int(int) => json.as_i64() == Some(int),
        Value::Double(double) => json.as_f64() == Some(double),
        Value::Truth(truth) => json.as_bool() == Some(truth),
        Value::Bytes(_) => false,
    };
    Ok(Some(Out::Truth(array.iter().any(is))))
}

/// Members of an object, elements of an array, 0 for a scalar.
fn size(memory: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let mut document = read(args[0].text());
    Ok(found(memory, &mut document, args[1].text())?.map(|json| {
        Out::Int(match json {
            Json::Array(array) => array.len() as i64,
            Json::Object(object) => object.len() as i64,
            _ => 0,
        })
    }))
}

fn object_keys(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let document = read(args[0].text());
    let object = document.as_ref().and_then(Json::as_object);
    Ok(object.map(|object| Out::Texts(object.keys().cloned().collect())))
}

fn is_scalar(memory: &mut Memory, args: &[Value<'_>]) -> Outcome {
    parse(memory, args)?;
    let document = read(args[0].text());
    let is = document.is_some_and(|json| !json.is_array() && !json.is_object());
    Ok(Some(Out::Truth(is)))
}

fn as_text(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let text = args[0].text();
    match read(text) {
        Some(Json::Null) => Ok(None),
        Some(json) => match scalar(&json) {
            Some(text) => Ok(Some(Out::Text(text))),
            None => Err(format!("cannot cast the JSON {text:?} to varchar: use json_format")),
        },
        None => Err(format!("{text:?} is no JSON")),
    }
}

fn as_texts(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let text = args[0].text();
    match read(text) {
        Some(Json::Null) => Ok(None),
        Some(Json::Array(array)) => {
            let text = |json: &Json| scalar(json).unwrap_or_else(|| json.to_string());
            Ok(Some(Out::Texts(array.iter().map(text).collect())))
        }
        _ => Err(format!("cannot cast {text:?} to an array: it is no JSON array")),
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// Reads `$.a.b[0]["c d"]`, also after SQL's `lax`; `None` for anything else.
fn steps(path: &str) -> Option<Vec<Step>> {
    let path = path.trim();
    let path = path.strip_prefix("lax ").map_or(path, str::trim_start);
    let mut rest = path.strip_prefix('$')?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            if let Some(quoted) = after.strip_prefix('"') {
                let (key, others) = quoted.split_once('"')?;
                steps.push(Step::Key(key.to_owned()));
                rest = others;
                continue;
            }
            let end = after.find(['.', '[']).unwrap_or(after.len());
            let (key, others) = after.split_at(end);
            if key.is_empty() || key.contains(['*', '?', '(', '"']) {
                return None;
            }
            steps.push(Step::Key(key.to_owned()));
            rest = others;
        } else {
            let after = rest.strip_prefix('[')?;
            if let Some(quoted) = after.strip_prefix('"') {
                let (key, others) = quoted.split_once("\"]")?;
                steps.push(Step::Key(key.to_owned()));
                rest = others;
            } else {
                let (index, others) = after.split_once(']')?;
                steps.push(Step::Index(index.trim().parse().ok()?));
                rest = others;
            }
        }
    }
    Some(steps)
}

fn walk<'a>(value: &'a Json, steps: &[Step]) -> Option<&'a Json> {
    steps.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get(key),
        Step::Index(index) => value.get(index),
    })
}

/// The text of a string, number or boolean; nothing for null, arrays and objects.
fn scalar(value: &Json) -> Option<String> {
    match value {
        Json::String(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::Bool(truth) => Some(truth.to_string()),
        Json::Null | Json::Array(_) | Json::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_scalars() {
        let document = r#"{"a":{"b":[10,{"c d":"x","e":null}]},"t":true,"n":1.50}"#;
        for (path, expect) in [
            ("$.a.b[0]", Some("10")),
            (r#"$.a.b[1]["c d"]"#, Some("x")),
            (r#"lax $.a.b[1]."c d""#, Some("x")),
            ("$.t", Some("true")),
            ("$.n", Some("1.5")),
            ("$.a", None),
            ("$.a.b[1].e", None),
            ("$.zz.y", None),
            ("$.a.b[9]", None),
        ] {
            let value: Json = serde_json::from_str(document).unwrap();
            let found = walk(&value, &steps(path).unwrap()).and_then(scalar);
            assert_eq!(found.as_deref(), expect, "{path}");
        }
        for bad in ["", "a", "$.", "$..a", "$.*", "$[", "$[x]", "$[?(@.a)]", "$a", "strict $.a"] {
            assert_eq!(steps(bad), None, "{bad}");
        }
    }
}
