//! The values IoT SQL computes with, and the conversions between them.
//!
//! Invariants
//! * A `Decimal` is finite, and never an integer that an `Int` could hold exactly: `10.0` is
//!   the `Int` 10, as in SQL version 2016-03-23. Build numbers with [`Value::decimal`].
//! * An `Object` keeps the order in which its members came, and holds each key once.
//! * `Undefined` is never a member of an `Array` or `Object`.

use std::borrow::Cow;

/// One value.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Value {
    /// What a missing member, or an operation without a result, evaluates to.
    #[default]
    Undefined,
    /// JSON's null.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number of up to 38 digits.
    Int(i128),
    /// Any other number, as a finite double.
    Decimal(f64),
    /// Text.
    String(String),
    /// A list.
    Array(Vec<Value>),
    /// Members in order.
    Object(Object),
}

/// A number in the middle of a computation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// A whole number.
    Int(i128),
    /// Any other.
    Decimal(f64),
}

impl Number {
    /// As a double, rounded to the nearest.
    pub fn as_f64(self) -> f64 {
        match self {
            Number::Int(int) => int as f64,
            Number::Decimal(decimal) => decimal,
        }
    }

    /// The next whole number below.
    pub fn floor(self) -> Option<i128> {
        match self {
            Number::Int(int) => Some(int),
            Number::Decimal(decimal) => whole(decimal.floor()),
        }
    }

    /// The nearest whole number, halves away from zero.
    pub fn round(self) -> Option<i128> {
        match self {
            Number::Int(int) => Some(int),
            Number::Decimal(decimal) => whole(decimal.round()),
        }
    }

    /// The whole part.
    pub fn trunc(self) -> Option<i128> {
        match self {
            Number::Int(int) => Some(int),
            Number::Decimal(decimal) => whole(decimal.trunc()),
        }
    }
}

impl From<Number> for Value {
    fn from(number: Number) -> Value {
        match number {
            Number::Int(int) => Value::Int(int),
            Number::Decimal(decimal) => Value::decimal(decimal),
        }
    }
}

/// A whole double as an integer, if it is small enough to be one.
fn whole(decimal: f64) -> Option<i128> {
    (decimal.abs() < 1e38).then_some(decimal as i128)
}

/// Doubles of at least this size are all whole; only below does being whole say something.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

impl Value {
    /// The value of a computed double: whole ones are `Int`, infinities and NaN `Undefined`.
    pub fn decimal(decimal: f64) -> Value {
        if !decimal.is_finite() {
            return Value::Undefined;
        }
        if decimal.fract() == 0.0 && decimal.abs() < EXACT_MAX {
            return Value::Int(decimal as i128);
        }
        Value::Decimal(decimal)
    }

    /// What messages call this kind of value.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Undefined => "undefined",
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Int(_) | Value::Decimal(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        }
    }

    /// As a number: numbers, and strings that read as one. No other value converts.
    pub fn to_number(&self) -> Option<Number> {
        match self {
            Value::Int(int) => Some(Number::Int(*int)),
            Value::Decimal(decimal) => Some(Number::Decimal(*decimal)),
            Value::String(text) => parse_number(text),
            _ => None,
        }
    }

    /// As a boolean: booleans, and the strings "true" and "false" in any case.
    pub fn to_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(bool) => Some(*bool),
            Value::String(text) if text.eq_ignore_ascii_case("true") => Some(true),
            Value::String(text) if text.eq_ignore_ascii_case("false") => Some(false),
            _ => None,
        }
    }

    /// As text: everything but null and undefined. Arrays and objects become JSON.
    pub fn to_text(&self) -> Option<Cow<'_, str>> {
        match self {
            Value::Undefined | Value::Null => None,
            Value::String(text) => Some(Cow::Borrowed(text)),
            other => {
                let mut json = String::new();
                other.write_json(&mut json);
                Some(Cow::Owned(json))
            }
        }
    }

    /// Whether this is a number.
    pub fn is_number(&self) -> bool {
        matches!(self, Value::Int(_) | Value::Decimal(_))
    }

    /// The member `key`, if this is an object that has it.
    pub fn member(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Object(object) => object.get(key),
            _ => None,
        }
    }

    /// Values inside, this one included: what a copy costs.
    pub fn node_count(&self) -> usize {
        match self {
            Value::Array(items) => 1 + items.iter().map(Value::node_count).sum::<usize>(),
            Value::Object(object) => {
                1 + object.iter().map(|(_, value)| value.node_count()).sum::<usize>()
            }
            Value::String(text) => 1 + text.len() / 64,
            _ => 1,
        }
    }

    /// Appends the value as JSON. Undefined, which JSON has no word for, becomes null; it can
    /// only stand alone.
    pub fn write_json(&self, out: &mut String) {
        match self {
            Value::Undefined | Value::Null => out.push_str("null"),
            Value::Bool(bool) => out.push_str(if *bool { "true" } else { "false" }),
            Value::Int(int) => out.push_str(&int.to_string()),
            Value::Decimal(decimal) => out.push_str(&format!("{decimal:?}")),
            Value::String(text) => write_json_string(text, out),
            Value::Array(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    item.write_json(out);
                }
                out.push(']');
            }
            Value::Object(object) => {
                out.push('{');
                for (index, (key, value)) in object.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    write_json_string(key, out);
                    out.push(':');
                    value.write_json(out);
                }
                out.push('}');
            }
        }
    }
}

/// Appends `text` as a JSON string.
pub(crate) fn write_json_string(text: &str, out: &mut String) {
    out.push('"');
    let mut plain_from = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..0x20 => "",
            _ => continue,
        };
        out.push_str(&text[plain_from..at]);
        plain_from = at + 1;
        if escape.is_empty() {
            out.push_str(&format!("\\u{byte:04x}"));
        } else {
            out.push_str(escape);
        }
    }
    out.push_str(&text[plain_from..]);
    out.push('"');
}

/// Reads a numeric string: digits, an optional fraction, an optional exponent without a plus.
fn parse_number(text: &str) -> Option<Number> {
    let digits_end = |from: usize| {
        let bytes = text.as_bytes().get(from..).unwrap_or_default();
        from + bytes.iter().take_while(|byte| byte.is_ascii_digit()).count()
    };
    let next_is = |at: usize, set: &[u8]| text.as_bytes().get(at).is_some_and(|b| set.contains(b));
    let start = usize::from(text.starts_with('-'));
    let mut end = digits_end(start);
    if end == start {
        return None;
    }
    let mut whole = true;
    if next_is(end, b".") {
        let fraction_end = digits_end(end + 1);
        if fraction_end == end + 1 {
            return None;
        }
        (end, whole) = (fraction_end, false);
    }
    if next_is(end, b"eE") {
        let exponent = end + 1 + usize::from(next_is(end + 1, b"-"));
        let exponent_end = digits_end(exponent);
        if exponent_end == exponent {
            return None;
        }
        (end, whole) = (exponent_end, false);
    }
    if end != text.len() {
        return None;
    }
    if whole && let Ok(int) = text.parse() {
        return Some(Number::Int(int));
    }
    match Value::decimal(text.parse().ok()?) {
        Value::Int(int) => Some(Number::Int(int)),
        Value::Decimal(decimal) => Some(Number::Decimal(decimal)),
        _ => None,
    }
}

/// The members of an object, in order.
#[derive(Clone, Debug, Default)]
pub struct Object(Vec<(String, Value)>);

impl Object {
    /// Members that are known to have distinct keys.
    pub(crate) fn from_distinct(members: Vec<(String, Value)>) -> Object {
        Object(members)
    }

    /// The member `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The member `key`, made undefined and last if it is absent.
    pub(crate) fn entry(&mut self, key: &str) -> &mut Value {
        let index = self.0.iter().position(|(name, _)| name == key).unwrap_or_else(|| {
            self.0.push((key.to_owned(), Value::Undefined));
            self.0.len() - 1
        });
        &mut self.0[index].1
    }

    /// Sets the member `key` where it stands, or adds it at the end. Undefined is not kept.
    pub fn insert(&mut self, key: &str, value: Value) {
        if value != Value::Undefined {
            *self.entry(key) = value;
        }
    }

    /// The members in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Members held.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn sorted(&self) -> Vec<(&str, &Value)> {
        let mut members: Vec<(&str, &Value)> = self.iter().collect();
        members.sort_by_key(|(key, _)| *key);
        members
    }
}

/// Order does not tell objects apart.
impl PartialEq for Object {
    fn eq(&self, other: &Object) -> bool {
        self.len() == other.len() && self.sorted() == other.sorted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numeric_strings_are_those_of_the_documented_pattern() {
        let check = |text: &str, expect: Option<Number>| {
            assert_eq!(Value::String(text.into()).to_number(), expect, "{text}");
        };
        check("10", Some(Number::Int(10)));
        check("-3", Some(Number::Int(-3)));
        check("10.0", Some(Number::Int(10)));
        check("2.5", Some(Number::Decimal(2.5)));
        check("25E-1", Some(Number::Decimal(2.5)));
        check("1e3", Some(Number::Int(1000)));
        check("1e400", None);
        for text in ["", "-", "+1", "1.", ".5", "1e", "1e+3", "1 ", "0x1", "NaN", "é"] {
            check(text, None);
        }
    }

    #[test]
    fn json_escapes_what_it_must_and_keeps_the_rest() {
        let mut out = String::new();
        write_json_string("a\"\\\n\u{1}é\u{1f600}", &mut out);
        assert_eq!(out, "\"a\\\"\\\\\\n\\u0001é\u{1f600}\"");
        assert_eq!(
            serde_json::from_str::<String>(&out).unwrap(),
            "a\"\\\n\u{1}é\u{1f600}",
            "another reader agrees"
        );
    }

    #[test]
    fn objects_are_equal_in_any_order() {
        let one = crate::json::parse(br#"{"a":1,"b":[2]}"#).unwrap();
        let two = crate::json::parse(br#"{"b":[2.0],"a":1}"#).unwrap();
        assert_eq!(one, two);
    }
}
