//! Reads a payload as JSON (RFC 8259), strictly, naming the byte where it stops being JSON.
//!
//! One parser serves two uses: [`parse`] builds a [`Value`], [`check`] only says yes or no and
//! allocates nothing but an object's list of keys.
//!
//! Invariants
//! * Nesting is bounded by [`limits::JSON_DEPTH_MAX`] before the parser descends.
//! * A duplicate key is refused: taking either of the two would silently drop a reading.
//! * A number that a double cannot hold is refused, not made infinite.

use std::borrow::Cow;
use std::collections::HashSet;

use base::limits;

use crate::value::{Object, Value};

/// Up to here an object's keys are compared one by one; beyond, a set is faster.
const KEYS_LINEAR_MAX: usize = 16;

/// Room made at once for the members of an object: most readings have no more.
const MEMBERS_USUAL: usize = 16;

/// A number without an exponent that is no longer than this fits a double, whatever its digits.
const PLAIN_NUMBER_BYTES_MAX: usize = 300;

/// How much of an offending word a message quotes.
const QUOTED_CHARS_MAX: usize = 40;

/// Reads `payload` as one JSON value. The error says why it is none and at which byte.
pub fn parse(payload: &[u8]) -> Result<Value, String> {
    read::<Tree>(payload)
}

/// Whether `payload` is one JSON value. The error says why it is none and at which byte.
pub fn check(payload: &[u8]) -> Result<(), String> {
    read::<Nothing>(payload)
}

/// The elements of `json`, which must be valid JSON, if it is an array: each as it is written,
/// without the spaces around it.
pub fn elements(json: &[u8]) -> Option<Vec<&[u8]>> {
    let inner = json.trim_ascii().strip_prefix(b"[")?.strip_suffix(b"]")?.trim_ascii();
    if inner.is_empty() {
        return Some(Vec::new());
    }
    let (mut found, mut start, mut depth, mut quoted, mut escaped) =
        (Vec::new(), 0, 0, false, false);
    for (at, byte) in inner.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            b',' if depth == 0 => {
                found.push(inner[start..at].trim_ascii());
                start = at + 1;
            }
            _ => {}
        }
    }
    found.push(inner[start..].trim_ascii());
    Some(found)
}

fn read<B: Build>(payload: &[u8]) -> Result<B::Node, String> {
    let text = std::str::from_utf8(payload)
        .map_err(|bad| format!("invalid UTF-8 at byte {}", bad.valid_up_to()))?;
    let mut reader = Reader { text, bytes: payload, at: 0 };
    reader.skip_space();
    let node = reader.value::<B>(0)?;
    reader.skip_space();
    if reader.at < payload.len() {
        return Err(format!(
            "{} follows the JSON value at byte {}",
            reader.quoted(reader.at),
            reader.at
        ));
    }
    Ok(node)
}

/// What is made of the values read.
trait Build {
    type Node;
    /// Whether values are wanted, or only that they are good.
    const KEEPS: bool;
    fn scalar(value: impl FnOnce() -> Value) -> Self::Node;
    fn array(items: Vec<Self::Node>) -> Self::Node;
    fn object(members: Vec<(Cow<'_, str>, Self::Node)>) -> Self::Node;
}

struct Tree;

impl Build for Tree {
    type Node = Value;
    const KEEPS: bool = true;

    fn scalar(value: impl FnOnce() -> Value) -> Value {
        value()
    }

    fn array(items: Vec<Value>) -> Value {
        Value::Array(items)
    }

    fn object(members: Vec<(Cow<'_, str>, Value)>) -> Value {
        let members = members.into_iter().map(|(key, value)| (key.into_owned(), value));
        Value::Object(Object::from_distinct(members.collect()))
    }
}

struct Nothing;

impl Build for Nothing {
    type Node = ();
    const KEEPS: bool = false;

    fn scalar(_: impl FnOnce() -> Value) {}

    fn array(_: Vec<()>) {}

    fn object(_: Vec<(Cow<'_, str>, ())>) {}
}

struct Reader<'p> {
    text: &'p str,
    bytes: &'p [u8],
    at: usize,
}

impl<'p> Reader<'p> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// The word at `at`, for a message.
    fn quoted(&self, at: usize) -> String {
        let rest = self.text.get(at..).unwrap_or_default();
        let word: String = rest
            .chars()
            .take(QUOTED_CHARS_MAX)
            .enumerate()
            .take_while(|(index, c)| *index == 0 || c.is_alphanumeric() || "_+-.".contains(*c))
            .map(|(_, c)| c)
            .collect();
        format!("{word:?}")
    }

    fn unexpected(&self, expected: &str) -> String {
        match self.peek() {
            None => format!("the payload ends at byte {} where {expected} should be", self.at),
            Some(_) => format!("{} at byte {} is not {expected}", self.quoted(self.at), self.at),
        }
    }

    fn value<B: Build>(&mut self, depth: usize) -> Result<B::Node, String> {
        match self.peek() {
            Some(b'{') => self.object::<B>(depth),
            Some(b'[') => self.array::<B>(depth),
            Some(b'"') => {
                let text = self.string()?;
                Ok(B::scalar(|| Value::String(text.into_owned())))
            }
            Some(b'-' | b'0'..=b'9') => {
                let number = self.number(B::KEEPS)?;
                Ok(B::scalar(|| number))
            }
            Some(b't') => self.word::<B>("true", Value::Bool(true)),
            Some(b'f') => self.word::<B>("false", Value::Bool(false)),
            Some(b'n') => self.word::<B>("null", Value::Null),
            _ => Err(self.unexpected("a JSON value")),
        }
    }

    fn word<B: Build>(&mut self, word: &str, value: Value) -> Result<B::Node, String> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(self.unexpected("a JSON value"));
        }
        self.at += word.len();
        Ok(B::scalar(|| value))
    }

    fn descend(&self, depth: usize) -> Result<usize, String> {
        if depth >= limits::JSON_DEPTH_MAX {
            return Err(format!(
                "nested deeper than {} levels at byte {}",
                limits::JSON_DEPTH_MAX,
                self.at
            ));
        }
        Ok(depth + 1)
    }

    fn array<B: Build>(&mut self, depth: usize) -> Result<B::Node, String> {
        let depth = self.descend(depth)?;
        self.at += 1;
        self.skip_space();
        let mut items = Vec::new();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(B::array(items));
        }
        loop {
            self.skip_space();
            items.push(self.value::<B>(depth)?);
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => {
                    self.at += 1;
                    return Ok(B::array(items));
                }
                _ => return Err(self.unexpected("a comma or the end of the array")),
            }
        }
    }

    fn object<B: Build>(&mut self, depth: usize) -> Result<B::Node, String> {
        let depth = self.descend(depth)?;
        self.at += 1;
        self.skip_space();
        let mut seen = HashSet::new();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(B::object(Vec::new()));
        }
        let mut members = Vec::with_capacity(MEMBERS_USUAL);
        loop {
            self.skip_space();
            let key_at = self.at;
            if self.peek() != Some(b'"') {
                return Err(self.unexpected("a key in double quotes"));
            }
            let key = self.string()?;
            if !is_new(&key, &members, &mut seen) {
                let key: String = key.chars().take(QUOTED_CHARS_MAX).collect();
                return Err(format!("duplicate key {key:?} at byte {key_at}"));
            }
            self.skip_space();
            if self.peek() != Some(b':') {
                return Err(self.unexpected("a colon"));
            }
            self.at += 1;
            self.skip_space();
            let value = self.value::<B>(depth)?;
            members.push((key, value));
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(B::object(members));
                }
                _ => return Err(self.unexpected("a comma or the end of the object")),
            }
        }
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        self.at - start
    }

    /// Reads a number; one that is not to be kept is looked at as far as it takes to see that it
    /// is good, and comes back as null.
    fn number(&mut self, keep: bool) -> Result<Value, String> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        let leading_zero = self.peek() == Some(b'0');
        let digits = self.digits();
        if digits == 0 {
            self.at = start;
            return Err(self.unexpected("a number"));
        }
        if leading_zero && digits > 1 {
            return Err(format!("{} at byte {start} has a leading zero", self.quoted(start)));
        }
        let (mut whole, mut exponent) = (true, false);
        if self.peek() == Some(b'.') {
            self.at += 1;
            whole = false;
            if self.digits() == 0 {
                return Err(format!("{} at byte {start} is not a number", self.quoted(start)));
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            (whole, exponent) = (false, true);
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if self.digits() == 0 {
                return Err(format!("{} at byte {start} is not a number", self.quoted(start)));
            }
        }
        let text = &self.text[start..self.at];
        if !keep && !exponent && text.len() <= PLAIN_NUMBER_BYTES_MAX {
            return Ok(Value::Null);
        }
        if whole && let Ok(int) = text.parse() {
            return Ok(Value::Int(int));
        }
        match text.parse::<f64>() {
            Ok(decimal) if decimal.is_finite() => Ok(Value::decimal(decimal)),
            _ => Err(format!(
                "number {} at byte {start} is outside the range of a double",
                self.quoted(start)
            )),
        }
    }

    /// Reads a string; `at` is on its opening quote.
    fn string(&mut self) -> Result<Cow<'p, str>, String> {
        let opened = self.at;
        self.at += 1;
        let mut plain_from = self.at;
        let mut owned: Option<String> = None;
        loop {
            match self.peek() {
                None => {
                    return Err(format!("the string that starts at byte {opened} does not end"));
                }
                Some(b'"') => {
                    let plain = &self.text[plain_from..self.at];
                    self.at += 1;
                    return Ok(match owned {
                        None => Cow::Borrowed(plain),
                        Some(mut text) => {
                            text.push_str(plain);
                            Cow::Owned(text)
                        }
                    });
                }
                Some(b'\\') => {
                    let text = owned.get_or_insert_default();
                    text.push_str(&self.text[plain_from..self.at]);
                    let c = self.escape()?;
                    owned.get_or_insert_default().push(c);
                    plain_from = self.at;
                }
                Some(control @ 0..0x20) => {
                    return Err(format!(
                        "control character U+{control:04X} at byte {} must be escaped",
                        self.at
                    ));
                }
                Some(_) => {
                    let plain = |byte: &u8| !matches!(byte, b'"' | b'\\' | 0..0x20);
                    let rest = &self.bytes[self.at..];
                    self.at += rest.iter().take_while(|byte| plain(byte)).count();
                }
            }
        }
    }

    /// Reads an escape; `at` is on its backslash.
    fn escape(&mut self) -> Result<char, String> {
        let start = self.at;
        let bad = || format!("bad escape in a string at byte {start}");
        self.at += 2;
        match self.bytes.get(start + 1) {
            Some(b'"') => Ok('"'),
            Some(b'\\') => Ok('\\'),
            Some(b'/') => Ok('/'),
            Some(b'b') => Ok('\u{8}'),
            Some(b'f') => Ok('\u{c}'),
            Some(b'n') => Ok('\n'),
            Some(b'r') => Ok('\r'),
            Some(b't') => Ok('\t'),
            Some(b'u') => {
                let first = self.hex4().ok_or_else(bad)?;
                let code = if (0xD800..0xDC00).contains(&first) {
                    let lone = || format!("lone surrogate in a string at byte {start}");
                    if !self.bytes[self.at..].starts_with(b"\\u") {
                        return Err(lone());
                    }
                    self.at += 2;
                    let second = self.hex4().ok_or_else(bad)?;
                    if !(0xDC00..0xE000).contains(&second) {
                        return Err(lone());
                    }
                    0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00)
                } else {
                    first
                };
                char::from_u32(code)
                    .ok_or_else(|| format!("lone surrogate in a string at byte {start}"))
            }
            _ => Err(bad()),
        }
    }

    fn hex4(&mut self) -> Option<u32> {
        let digits = self.bytes.get(self.at..self.at + 4)?;
        self.at += 4;
        digits.iter().try_fold(0, |code, digit| Some(code * 16 + char::from(*digit).to_digit(16)?))
    }
}

/// Whether `key` is not among `members`; `seen` takes over when they are many.
fn is_new<N>(key: &str, members: &[(Cow<'_, str>, N)], seen: &mut HashSet<String>) -> bool {
    if members.len() < KEYS_LINEAR_MAX {
        return members.iter().all(|(name, _)| name != key);
    }
    if seen.is_empty() {
        seen.extend(members.iter().map(|(name, _)| name.clone().into_owned()));
    }
    seen.insert(key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(payload: &[u8]) -> String {
        let reason = parse(payload).unwrap_err();
        assert_eq!(check(payload).unwrap_err(), reason, "both uses agree");
        reason
    }

    #[test]
    fn a_number_is_good_or_not_whether_it_is_kept_or_not() {
        for digits in [1, 299, 300, 301, 308, 309, 310, 400] {
            for number in [
                "9".repeat(digits),
                format!("-{}.5", "1".repeat(digits)),
                format!("0.{}", "3".repeat(digits)),
                format!("1e{digits}"),
                format!("1e-{digits}"),
            ] {
                let (kept, checked) = (parse(number.as_bytes()), check(number.as_bytes()));
                assert_eq!(kept.map(drop), checked, "{number}");
            }
        }
        assert!(check("9".repeat(400).as_bytes()).is_err());
    }

    #[test]
    fn each_refusal_names_its_byte() {
        let check = |payload: &[u8], expect: &str| {
            assert_eq!(refused(payload), expect, "{}", String::from_utf8_lossy(payload));
        };
        check(b"", "the payload ends at byte 0 where a JSON value should be");
        check(b"{\"a\":\xff}", "invalid UTF-8 at byte 5");
        check(b"{\"a\":NaN}", "\"NaN\" at byte 5 is not a JSON value");
        check(b"[-Infinity]", "\"-Infinity\" at byte 1 is not a number");
        check(b"{\"a\":1e400}", "number \"1e400\" at byte 5 is outside the range of a double");
        check(b"{\"a\":1,\"a\":2}", "duplicate key \"a\" at byte 7");
        check(b"{\"a\":1,\"\\u0061\":2}", "duplicate key \"a\" at byte 7");
        check(
            b"{\"a\":1",
            "the payload ends at byte 6 where a comma or the end of the object should be",
        );
        check(b"{\"a\":1}}", "\"}\" follows the JSON value at byte 7");
        check(b"{a:1}", "\"a\" at byte 1 is not a key in double quotes");
        check(b"[01]", "\"01\" at byte 1 has a leading zero");
        check(b"[1.]", "\"1.\" at byte 1 is not a number");
        check(b"[1,]", "\"]\" at byte 3 is not a JSON value");
        check(b"\"ab", "the string that starts at byte 0 does not end");
        check(b"\"\n\"", "control character U+000A at byte 1 must be escaped");
        check(b"\"\\x\"", "bad escape in a string at byte 1");
        check(b"\"\\ud800\"", "lone surrogate in a string at byte 1");
        check(b"\"\\ud800\\u0041\"", "lone surrogate in a string at byte 1");
        check("\u{feff}1".as_bytes(), "\"\\u{feff}1\" at byte 0 is not a JSON value");
    }

    #[test]
    fn nesting_is_bounded_before_the_stack_is() {
        let deep = |levels: usize| ["[".repeat(levels), "]".repeat(levels)].concat();
        assert!(parse(deep(limits::JSON_DEPTH_MAX).as_bytes()).is_ok());
        let reason = refused(deep(limits::JSON_DEPTH_MAX + 1).as_bytes());
        assert_eq!(reason, "nested deeper than 64 levels at byte 64");
        refused("[".repeat(1_000_000).as_bytes());
        refused("{\"a\":".repeat(1_000_000).as_bytes());
    }

    #[test]
    fn many_keys_are_checked_in_linear_time() {
        let keys: Vec<String> = (0..20_000).map(|i| format!("\"k{i}\":{i}")).collect();
        let object = |extra: &str| format!("{{{}{extra}}}", keys.join(","));
        assert!(check(object("").as_bytes()).is_ok());
        let reason = refused(object(",\"k19000\":1").as_bytes());
        assert!(reason.starts_with("duplicate key \"k19000\" at byte "), "{reason}");
        let reason = refused(object(",\"k3\":1").as_bytes());
        assert!(reason.starts_with("duplicate key \"k3\" at byte "), "{reason}");
    }

    #[test]
    fn values_agree_with_another_reader() {
        for text in [
            " {\"a\" : [1, -2.5, 1e3, true, false, null, \"x\\n\\u00e9\\ud83d\\ude00\\/\"], \"b\":{}} ",
            "0",
            "-0",
            "1E+2",
            "\"\"",
            "[]",
            "[[],{}]",
            "123456789012345678901234567890",
        ] {
            let ours = parse(text.as_bytes()).unwrap();
            let mut json = String::new();
            ours.write_json(&mut json);
            let theirs: serde_json::Value = serde_json::from_str(text).unwrap();
            let back: serde_json::Value = serde_json::from_str(&json).unwrap();
            let same = |a: &serde_json::Value, b: &serde_json::Value| match (a.as_f64(), b.as_f64())
            {
                (Some(a), Some(b)) => a == b,
                _ => a.is_object() || a.is_array() || a == b,
            };
            assert!(same(&theirs, &back), "{text} -> {json}");
        }
        let value = parse(b"{\"t\":10.0,\"u\":10.5}").unwrap();
        assert_eq!(value.member("t"), Some(&Value::Int(10)));
        assert_eq!(value.member("u"), Some(&Value::Decimal(10.5)));
    }

    #[test]
    fn elements_are_cut_as_written() {
        let cut = |json: &str| {
            elements(json.as_bytes())
                .map(|all| all.iter().map(|e| String::from_utf8_lossy(e).into_owned()).collect())
        };
        assert_eq!(cut(" [ ] "), Some(vec![]));
        assert_eq!(
            cut("[1.0, {\"a\":[1,2]} ,\"],\\\",\"]"),
            Some(vec!["1.0".to_owned(), "{\"a\":[1,2]}".into(), "\"],\\\",\"".into()])
        );
        assert_eq!(cut("{\"a\":[1]}"), None);
    }
}
