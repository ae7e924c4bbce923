//! Functions of arrays and objects, tests for nothing, encodings, and times.

use base::Timestamp;

use super::Call;
use crate::base64;
use crate::json;
use crate::sql::ast::Prepared;
use crate::sql::eval::{Evaluation, Failure};
use crate::sql::time::{TimePattern, Zone};
use crate::value::{Number, Value};

pub(super) fn is_null(call: &Call<'_>) -> Evaluation<Value> {
    Ok(Value::Bool(*call.arg(0) == Value::Null))
}

pub(super) fn is_undefined(call: &Call<'_>) -> Evaluation<Value> {
    Ok(Value::Bool(*call.arg(0) == Value::Undefined))
}

/// An element of an array or a character of a text by index from 0, a member of an object by key.
pub(super) fn get(call: &Call<'_>) -> Evaluation<Value> {
    let index = || usize::try_from(call.number(1)?.trunc()?).ok();
    let found = match (call.arg(0), call.arg(1)) {
        (Value::Array(items), _) => index().and_then(|index| items.get(index)),
        (Value::String(text), _) => {
            let c = index().and_then(|index| text.chars().nth(index));
            return Ok(c.map_or(Value::Undefined, |c| Value::String(c.to_string())));
        }
        (Value::Object(object), Value::String(key)) => object.get(key),
        _ => None,
    };
    found.map_or(Ok(Value::Undefined), |value| call.env.copy(value))
}

/// The first argument, or the second where that is nothing.
pub(super) fn get_or_default(call: &Call<'_>) -> Evaluation<Value> {
    match call.arg(0) {
        Value::Undefined | Value::Null => call.env.copy(call.arg(1)),
        found => call.env.copy(found),
    }
}

/// `transform('enrichArray', attributes, values)`: each object of an array with the attributes
/// added, which win where both have a member.
pub(super) fn transform(call: &Call<'_>) -> Evaluation<Value> {
    match call.arg(0) {
        Value::String(mode) if mode.eq_ignore_ascii_case("enrichArray") => {}
        other => {
            let mode = other.to_text().unwrap_or_default();
            let why = format!("transform() knows the mode 'enrichArray', not '{mode}'");
            return Err(Failure::new(why));
        }
    }
    let (Value::Object(attributes), Value::Array(values)) = (call.arg(1), call.arg(2)) else {
        return Ok(Value::Undefined);
    };
    let mut enriched = Vec::with_capacity(values.len());
    for value in values {
        let Value::Object(mut object) = call.env.copy(value)? else {
            return Ok(Value::Undefined);
        };
        for (key, attribute) in attributes.iter() {
            call.env.spend(object.len())?;
            object.insert(key, call.env.copy(attribute)?);
        }
        enriched.push(Value::Object(object));
    }
    Ok(Value::Array(enriched))
}

/// Joins texts; if any argument is an array, joins all into one array instead.
pub(super) fn concat(call: &Call<'_>) -> Evaluation<Value> {
    if call.args.len() == 1 {
        return call.env.copy(call.arg(0));
    }
    if call.args.iter().any(|arg| matches!(arg.as_ref(), Value::Array(_))) {
        let mut joined = Vec::new();
        for arg in call.args {
            match call.env.copy(arg)? {
                Value::Array(mut items) => joined.append(&mut items),
                Value::Undefined => {}
                other => joined.push(other),
            }
        }
        return Ok(Value::Array(joined));
    }
    let mut joined = String::new();
    for index in 0..call.args.len() {
        let Some(text) = call.text(index) else {
            return Ok(Value::Undefined);
        };
        joined.push_str(&text);
        call.env.expect_text_bytes(joined.len())?;
    }
    if call.args.is_empty() { Ok(Value::Undefined) } else { call.env.text(joined) }
}

pub(super) fn encode(call: &Call<'_>) -> Evaluation<Value> {
    match call.text(0) {
        None => Ok(Value::Undefined),
        Some(text) => call.env.text(base64::encode(text.as_bytes())),
    }
}

/// The decoded value: JSON if it reads as such, else text; null if it is neither.
pub(super) fn decode(call: &Call<'_>) -> Evaluation<Value> {
    let Some(text) = call.text(0) else {
        return Ok(Value::Undefined);
    };
    call.env.spend_bytes(text.len())?;
    let Some(bytes) = base64::decode(&text) else {
        return Ok(Value::Null);
    };
    if let Ok(value) = json::parse(&bytes) {
        return call.env.copy(&value);
    }
    match String::from_utf8(bytes) {
        Ok(text) => call.env.text(text),
        Err(_not_text) => Ok(Value::Null),
    }
}

/// `parse_time(pattern, milliseconds [, zone])`: a time as text.
pub(super) fn parse_time(call: &Call<'_>) -> Evaluation<Value> {
    let Some(millis) = call.number(1).and_then(Number::trunc) else {
        return Ok(Value::Undefined);
    };
    let zone = match call.args.len() {
        3 => match call.text(2) {
            None => return Ok(Value::Undefined),
            Some(name) => Zone::parse(&name).ok_or_else(|| {
                Failure::new(format!("parse_time() does not know the time zone '{name}'"))
            })?,
        },
        _ => Zone::UTC,
    };
    let computed;
    let pattern = match (call.prepared, call.text(0)) {
        (Prepared::Time(pattern), _) => pattern,
        (_, None) => return Ok(Value::Undefined),
        (_, Some(text)) => {
            computed = TimePattern::parse(&text)
                .map_err(|why| Failure::new(format!("parse_time(): {why}")))?;
            &computed
        }
    };
    let formatted =
        i64::try_from(millis).ok().and_then(|millis| pattern.format_in(Timestamp(millis), zone));
    formatted.map_or(Ok(Value::Undefined), |text| call.env.text(text))
}

/// `time_to_epoch(text, pattern)`: milliseconds since the epoch; undefined if it does not fit.
pub(super) fn time_to_epoch(call: &Call<'_>) -> Evaluation<Value> {
    let (Some(text), Some(pattern_text)) = (call.text(0), call.text(1)) else {
        return Ok(Value::Undefined);
    };
    let read = match call.prepared {
        Prepared::Time(pattern) => pattern.read(&text),
        _ => TimePattern::parse(&pattern_text)
            .map_err(|why| Failure::new(format!("time_to_epoch(): {why}")))?
            .read(&text),
    };
    Ok(read.map_or(Value::Undefined, |at| Value::Int(at.millis().into())))
}
