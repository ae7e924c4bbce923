//! Values as clients really send them: the query protocol has text only, and some senders
//! write numbers and booleans as text in JSON too. For `#[serde(deserialize_with = "...")]`.

use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// A number, or a text that is one; absent or null gives `None`.
pub fn number<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    match Value::deserialize(from)? {
        Value::Null => Ok(None),
        Value::Number(number) => Ok(number.as_f64()),
        Value::String(text) => match text.trim().parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(D::Error::custom(format!("{text:?} is not a number"))),
        },
        other => Err(D::Error::custom(format!("{other} is not a number"))),
    }
}

/// A whole number, or a text that is one; absent or null gives `None`.
pub fn integer<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i64>, D::Error> {
    let value = Value::deserialize(from)?;
    match &value {
        Value::Null => return Ok(None),
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
    .map(Some)
    .ok_or_else(|| D::Error::custom(format!("{value} is not a whole number")))
}

/// A boolean, or `"true"` or `"false"`; absent or null gives `None`.
pub fn boolean<'de, D: Deserializer<'de>>(from: D) -> Result<Option<bool>, D::Error> {
    match Value::deserialize(from)? {
        Value::Null => Ok(None),
        Value::Bool(given) => Ok(Some(given)),
        Value::String(text) if text.eq_ignore_ascii_case("true") => Ok(Some(true)),
        Value::String(text) if text.eq_ignore_ascii_case("false") => Ok(Some(false)),
        other => Err(D::Error::custom(format!("{other} is neither true nor false"))),
    }
}
