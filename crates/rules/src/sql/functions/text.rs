//! Functions of text. Arguments of other types are converted first; null and undefined have no
//! text, so they give Undefined. Characters are Unicode scalar values.

use std::borrow::Cow;

use md2::Md2;
use md5::Md5;
use regex::{Captures, Regex, RegexBuilder};
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use super::Call;
use crate::sql::ast::Prepared;
use crate::sql::eval::Evaluation;
use crate::sql::parse::REGEX_BYTES_MAX;
use crate::value::{Number, Value};

/// Most spaces `lpad` and `rpad` add.
const PAD_MAX: i128 = 1_000;

/// What compiling a pattern found in a message costs, in steps of evaluation.
const REGEX_STEPS: usize = 2_000;

/// A function of one text.
fn map(call: &Call<'_>, compute: impl FnOnce(&str) -> Value) -> Evaluation<Value> {
    let Some(text) = call.text(0) else {
        return Ok(Value::Undefined);
    };
    call.env.spend_bytes(text.len())?;
    Ok(compute(&text))
}

/// A function of two texts.
fn map2(call: &Call<'_>, compute: impl FnOnce(&str, &str) -> Value) -> Evaluation<Value> {
    let (Some(a), Some(b)) = (call.text(0), call.text(1)) else {
        return Ok(Value::Undefined);
    };
    call.env.spend_bytes(a.len() + b.len())?;
    Ok(compute(&a, &b))
}

fn string(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn count(n: usize) -> Value {
    Value::Int(n as i128)
}

pub(super) fn lower(call: &Call<'_>) -> Evaluation<Value> {
    map(call, |text| Value::String(text.to_lowercase()))
}

pub(super) fn upper(call: &Call<'_>) -> Evaluation<Value> {
    map(call, |text| Value::String(text.to_uppercase()))
}

pub(super) fn trim(call: &Call<'_>) -> Evaluation<Value> {
    map(call, |text| string(text.trim()))
}

pub(super) fn ltrim(call: &Call<'_>) -> Evaluation<Value> {
    map(call, |text| string(text.trim_start()))
}

pub(super) fn rtrim(call: &Call<'_>) -> Evaluation<Value> {
    map(call, |text| string(text.trim_end()))
}

pub(super) fn length(call: &Call<'_>) -> Evaluation<Value> {
    map(call, |text| count(text.chars().count()))
}

pub(super) fn num_bytes(call: &Call<'_>) -> Evaluation<Value> {
    map(call, |text| count(text.len()))
}

pub(super) fn starts_with(call: &Call<'_>) -> Evaluation<Value> {
    map2(call, |text, start| Value::Bool(text.starts_with(start)))
}

pub(super) fn ends_with(call: &Call<'_>) -> Evaluation<Value> {
    map2(call, |text, end| Value::Bool(text.ends_with(end)))
}

/// Where the second text first stands in the first, from 0; -1 if it does not.
pub(super) fn index_of(call: &Call<'_>) -> Evaluation<Value> {
    map2(call, |text, part| match text.find(part) {
        Some(at) => count(text[..at].chars().count()),
        None => Value::Int(-1),
    })
}

/// The character with this code.
pub(super) fn chr(call: &Call<'_>) -> Evaluation<Value> {
    let code = call.number(0).and_then(Number::floor).and_then(|code| u32::try_from(code).ok());
    let c = code.and_then(char::from_u32);
    Ok(c.map_or(Value::Undefined, |c| Value::String(c.to_string())))
}

pub(super) fn lpad(call: &Call<'_>) -> Evaluation<Value> {
    pad(call, |spaces, text| spaces + text)
}

pub(super) fn rpad(call: &Call<'_>) -> Evaluation<Value> {
    pad(call, |spaces, text| text.to_owned() + &spaces)
}

/// Adds as many spaces as the second argument says, not up to that length (IoT SQL's meaning).
fn pad(call: &Call<'_>, join: impl FnOnce(String, &str) -> String) -> Evaluation<Value> {
    let (Some(text), Some(spaces)) = (call.text(0), call.number(1).and_then(Number::trunc)) else {
        return Ok(Value::Undefined);
    };
    let spaces = " ".repeat(spaces.clamp(0, PAD_MAX) as usize);
    call.env.text(join(spaces, &text))
}

pub(super) fn replace(call: &Call<'_>) -> Evaluation<Value> {
    let (Some(text), Some(part), Some(by)) = (call.text(0), call.text(1), call.text(2)) else {
        return Ok(Value::Undefined);
    };
    let found = text.matches(&*part).count();
    call.env.expect_text_bytes(text.len().saturating_add(found.saturating_mul(by.len())))?;
    call.env.text(text.replace(&*part, &by))
}

/// From the second argument (counted from 0) up to the third, which is not included.
pub(super) fn substring(call: &Call<'_>) -> Evaluation<Value> {
    let Some(text) = call.text(0) else {
        return Ok(Value::Undefined);
    };
    let index = |position: usize| {
        let whole = call.number(position)?;
        // A double beyond any length is still beyond it once clamped.
        Some(whole.as_f64().trunc().clamp(0.0, text.len() as f64) as usize)
    };
    let to = if call.args.len() == 3 { index(2) } else { Some(text.len()) };
    let (Some(from), Some(to)) = (index(1), to) else {
        return Ok(Value::Undefined);
    };
    let part = text.chars().skip(from).take(to.saturating_sub(from)).collect();
    call.env.text(part)
}

/// The pattern of a call: compiled when the rule was made, or now if it comes with the message.
fn pattern<'c>(call: &'c Call<'_>) -> Evaluation<Option<Cow<'c, Regex>>> {
    if let Prepared::Regex(regex) = call.prepared {
        return Ok(Some(Cow::Borrowed(regex)));
    }
    let Some(text) = call.text(1) else {
        return Ok(None);
    };
    call.env.spend(REGEX_STEPS)?;
    call.env.spend_bytes(text.len())?;
    Ok(RegexBuilder::new(&text).size_limit(REGEX_BYTES_MAX / 16).build().ok().map(Cow::Owned))
}

/// Whether the text contains a match.
pub(super) fn regexp_matches(call: &Call<'_>) -> Evaluation<Value> {
    let (Some(text), Some(regex)) = (call.text(0), pattern(call)?) else {
        return Ok(Value::Undefined);
    };
    call.env.spend_bytes(text.len())?;
    Ok(Value::Bool(regex.is_match(&text)))
}

/// The first match.
pub(super) fn regexp_substr(call: &Call<'_>) -> Evaluation<Value> {
    let (Some(text), Some(regex)) = (call.text(0), pattern(call)?) else {
        return Ok(Value::Undefined);
    };
    call.env.spend_bytes(text.len())?;
    Ok(regex.find(&text).map_or(Value::Undefined, |found| string(found.as_str())))
}

/// Every match replaced; in the replacement `$1` is the first group and `\$` a dollar sign.
pub(super) fn regexp_replace(call: &Call<'_>) -> Evaluation<Value> {
    let (Some(text), Some(regex), Some(by)) = (call.text(0), pattern(call)?, call.text(2)) else {
        return Ok(Value::Undefined);
    };
    let mut out = String::new();
    let mut kept_from = 0;
    for captures in regex.captures_iter(&text) {
        let Some(whole) = captures.get(0) else { continue };
        out.push_str(&text[kept_from..whole.start()]);
        expand(&by, &captures, &mut out);
        kept_from = whole.end();
        call.env.expect_text_bytes(out.len())?;
    }
    out.push_str(&text[kept_from..]);
    call.env.text(out)
}

/// Appends a replacement with its groups filled in, as Java reads it: one digit, then more as
/// long as such a group exists.
fn expand(replacement: &str, captures: &Captures<'_>, out: &mut String) {
    let mut rest = replacement.chars().peekable();
    while let Some(c) = rest.next() {
        match (c, rest.peek().copied()) {
            ('\\', Some(literal)) => {
                out.push(literal);
                rest.next();
            }
            ('$', Some(digit)) if digit.is_ascii_digit() => {
                let mut group = 0;
                while let Some(digit) = rest.peek().and_then(|c| c.to_digit(10)) {
                    let longer = group * 10 + digit as usize;
                    if group > 0 && longer >= captures.len() {
                        break;
                    }
                    group = longer;
                    rest.next();
                }
                out.push_str(captures.get(group).map_or("", |found| found.as_str()));
            }
            _ => out.push(c),
        }
    }
}

fn hex(digest: impl AsRef<[u8]>) -> Value {
    Value::String(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
}

pub(super) fn md2(call: &Call<'_>) -> Evaluation<Value> {
    map(call, |text| hex(Md2::digest(text)))
}

pub(super) fn md5(call: &Call<'_>) -> Evaluation<Value> {
    map(call, |text| hex(Md5::digest(text)))
}

pub(super) fn sha1(call: &Call<'_>) -> Evaluation<Value> {
    map(call, |text| hex(Sha1::digest(text)))
}

pub(super) fn sha224(call: &Call<'_>) -> Evaluation<Value> {
    map(call, |text| hex(Sha224::digest(text)))
}

pub(super) fn sha256(call: &Call<'_>) -> Evaluation<Value> {
    map(call, |text| hex(Sha256::digest(text)))
}

pub(super) fn sha384(call: &Call<'_>) -> Evaluation<Value> {
    map(call, |text| hex(Sha384::digest(text)))
}

pub(super) fn sha512(call: &Call<'_>) -> Evaluation<Value> {
    map(call, |text| hex(Sha512::digest(text)))
}
