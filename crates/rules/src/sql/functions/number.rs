//! Functions of numbers. What does not convert to a number, and what has no finite result, is
//! Undefined.

use super::Call;
use crate::sql::eval::Evaluation;
use crate::value::{Number, Value};

/// A function of doubles.
fn real(call: &Call<'_>, compute: impl FnOnce(f64) -> f64) -> Evaluation<Value> {
    Ok(call.number(0).map_or(Value::Undefined, |number| Value::decimal(compute(number.as_f64()))))
}

pub(super) fn abs(call: &Call<'_>) -> Evaluation<Value> {
    Ok(match call.number(0) {
        None => Value::Undefined,
        Some(Number::Int(int)) => int.checked_abs().map_or(Value::Undefined, Value::Int),
        Some(Number::Decimal(decimal)) => Value::decimal(decimal.abs()),
    })
}

pub(super) fn acos(call: &Call<'_>) -> Evaluation<Value> {
    real(call, f64::acos)
}

pub(super) fn asin(call: &Call<'_>) -> Evaluation<Value> {
    real(call, f64::asin)
}

pub(super) fn atan(call: &Call<'_>) -> Evaluation<Value> {
    real(call, f64::atan)
}

pub(super) fn cos(call: &Call<'_>) -> Evaluation<Value> {
    real(call, f64::cos)
}

pub(super) fn cosh(call: &Call<'_>) -> Evaluation<Value> {
    real(call, f64::cosh)
}

pub(super) fn exp(call: &Call<'_>) -> Evaluation<Value> {
    real(call, f64::exp)
}

pub(super) fn ln(call: &Call<'_>) -> Evaluation<Value> {
    real(call, f64::ln)
}

pub(super) fn log(call: &Call<'_>) -> Evaluation<Value> {
    real(call, f64::log10)
}

pub(super) fn sin(call: &Call<'_>) -> Evaluation<Value> {
    real(call, f64::sin)
}

pub(super) fn sinh(call: &Call<'_>) -> Evaluation<Value> {
    real(call, f64::sinh)
}

pub(super) fn sqrt(call: &Call<'_>) -> Evaluation<Value> {
    real(call, f64::sqrt)
}

pub(super) fn tan(call: &Call<'_>) -> Evaluation<Value> {
    real(call, f64::tan)
}

pub(super) fn tanh(call: &Call<'_>) -> Evaluation<Value> {
    real(call, f64::tanh)
}

pub(super) fn atan2(call: &Call<'_>) -> Evaluation<Value> {
    Ok(match (call.number(0), call.number(1)) {
        (Some(y), Some(x)) => Value::decimal(y.as_f64().atan2(x.as_f64())),
        _ => Value::Undefined,
    })
}

pub(super) fn power(call: &Call<'_>) -> Evaluation<Value> {
    let (Some(base), Some(exponent)) = (call.number(0), call.number(1)) else {
        return Ok(Value::Undefined);
    };
    if let (Number::Int(base), Number::Int(exponent)) = (base, exponent)
        && let Some(exact) = u32::try_from(exponent).ok().and_then(|by| base.checked_pow(by))
    {
        return Ok(Value::Int(exact));
    }
    Ok(Value::decimal(base.as_f64().powf(exponent.as_f64())))
}

/// The remainder, with the sign of the dividend.
pub(super) fn modulo(call: &Call<'_>) -> Evaluation<Value> {
    Ok(match (call.number(0), call.number(1)) {
        (Some(dividend), Some(divisor)) => remainder(dividend, divisor),
        _ => Value::Undefined,
    })
}

/// `dividend % divisor`; Undefined for a divisor of zero.
pub(crate) fn remainder(dividend: Number, divisor: Number) -> Value {
    match (dividend, divisor) {
        (Number::Int(_), Number::Int(0)) => Value::Undefined,
        // The one pair that overflows divides evenly.
        (Number::Int(a), Number::Int(b)) => Value::Int(a.checked_rem(b).unwrap_or(0)),
        (a, b) => Value::decimal(a.as_f64() % b.as_f64()),
    }
}

fn to_whole(call: &Call<'_>, whole: fn(f64) -> f64) -> Evaluation<Value> {
    Ok(match call.number(0) {
        None => Value::Undefined,
        Some(Number::Int(int)) => Value::Int(int),
        Some(Number::Decimal(decimal)) => Value::decimal(whole(decimal)),
    })
}

pub(super) fn ceil(call: &Call<'_>) -> Evaluation<Value> {
    to_whole(call, f64::ceil)
}

pub(super) fn floor(call: &Call<'_>) -> Evaluation<Value> {
    to_whole(call, f64::floor)
}

/// Halves away from zero, as the guide's example of -1.5 shows.
pub(super) fn round(call: &Call<'_>) -> Evaluation<Value> {
    to_whole(call, f64::round)
}

pub(super) fn sign(call: &Call<'_>) -> Evaluation<Value> {
    Ok(match call.number(0) {
        None => Value::Undefined,
        Some(Number::Int(int)) => Value::Int(int.signum()),
        Some(Number::Decimal(decimal)) => Value::decimal(decimal.signum()),
    })
}

/// The most decimal places `trunc` keeps.
const TRUNC_PLACES_MAX: i128 = 34;

/// Cuts after the given number of decimal places, on the digits rather than on the binary
/// fraction, so that `trunc(2.29, 2)` is 2.29.
pub(super) fn trunc(call: &Call<'_>) -> Evaluation<Value> {
    let (Some(number), Some(places)) = (call.number(0), call.number(1).and_then(Number::trunc))
    else {
        return Ok(Value::Undefined);
    };
    let Number::Decimal(decimal) = number else {
        return Ok(number.into());
    };
    let digits = format!("{decimal}");
    let places = places.clamp(0, TRUNC_PLACES_MAX) as usize;
    let kept = match digits.split_once('.') {
        None => digits,
        Some((whole, fraction)) => format!("{whole}.{:.places$}", fraction),
    };
    Ok(kept.trim_end_matches('.').parse().map_or(Value::Undefined, Value::decimal))
}

/// The first argument unless it is no value at all, else the second.
pub(super) fn nanvl(call: &Call<'_>) -> Evaluation<Value> {
    Ok(match call.arg(0) {
        Value::Undefined | Value::Null => call.arg(1).clone(),
        value => value.clone(),
    })
}

fn bits(call: &Call<'_>, compute: fn(i128, i128) -> i128) -> Evaluation<Value> {
    let whole = |index| call.number(index).and_then(Number::floor);
    Ok(match (whole(0), whole(1)) {
        (Some(a), Some(b)) => Value::Int(compute(a, b)),
        _ => Value::Undefined,
    })
}

pub(super) fn bit_and(call: &Call<'_>) -> Evaluation<Value> {
    bits(call, |a, b| a & b)
}

pub(super) fn bit_or(call: &Call<'_>) -> Evaluation<Value> {
    bits(call, |a, b| a | b)
}

pub(super) fn bit_xor(call: &Call<'_>) -> Evaluation<Value> {
    bits(call, |a, b| a ^ b)
}

pub(super) fn bit_not(call: &Call<'_>) -> Evaluation<Value> {
    Ok(call.number(0).and_then(Number::floor).map_or(Value::Undefined, |int| Value::Int(!int)))
}
