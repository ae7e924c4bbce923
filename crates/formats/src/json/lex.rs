//! The smallest pieces of JSON: white space, strings, numbers, and whole values to skip.
//!
//! Strict RFC 8259 in place, on a buffer that may end anywhere: a piece that reaches the
//! end of the buffer answers [`Why::End`], and the caller decides whether more can come.
//!
//! Invariants
//! * No recursion deeper than `limits::JSON_DEPTH_MAX`, no allocation for a value skipped
//!   other than the keys of an object.
//! * A string handed out is valid UTF-8.

use base::limits::JSON_DEPTH_MAX;

/// Why a byte could not be read as JSON. None of these has a known end of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// The buffer ends here.
    End,
    /// Something else had to come.
    Expected(&'static str),
    /// Arrays and objects are nested too deeply.
    TooDeep,
}

/// A place where JSON stops making sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) at: usize,
    pub(super) why: Why,
}

/// The position after the piece, or the place where it went wrong.
pub(super) type Step = Result<usize, Fault>;

/// What is wrong with a record whose end is known, as far as it was noticed first.
#[derive(Debug, Default)]
pub(super) struct Misfit(Option<String>);

impl Misfit {
    /// Notes a reason, unless there is one already.
    #[cold]
    pub(super) fn note(&mut self, reason: impl FnOnce() -> String) {
        if self.0.is_none() {
            self.0 = Some(reason());
        }
    }

    pub(super) fn is_none(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn take(&mut self) -> Option<String> {
        self.0.take()
    }
}

/// Refuses at `at`, or asks for more if the buffer ends there.
#[cold]
pub(super) fn fault<T>(buf: &[u8], at: usize, expected: &'static str) -> Result<T, Fault> {
    let why = if at >= buf.len() { Why::End } else { Why::Expected(expected) };
    Err(Fault { at: at.min(buf.len()), why })
}

/// Tells JSON's white space.
#[inline]
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// The first position at or after `at` that is no white space.
#[inline]
pub(super) fn skip_space(buf: &[u8], mut at: usize) -> usize {
    while buf.get(at).is_some_and(|&byte| is_space(byte)) {
        at += 1;
    }
    at
}

/// Checks a word such as `null`.
#[inline]
pub(super) fn word(buf: &[u8], at: usize, word: &'static str) -> Step {
    let end = at + word.len();
    if buf.get(at..end) == Some(word.as_bytes()) {
        return Ok(end);
    }
    let have = &buf[at.min(buf.len())..end.min(buf.len())];
    let same = have.iter().zip(word.as_bytes()).take_while(|(have, want)| have == want).count();
    fault(buf, at + same, word)
}

/// A string as it lies in the buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Text {
    /// After the opening quote.
    pub(super) start: usize,
    /// Of the closing quote.
    pub(super) end: usize,
    /// Holds a backslash.
    pub(super) escaped: bool,
    /// Holds a byte beyond ASCII.
    pub(super) wide: bool,
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The high bit of each byte of `word` that is a quote, a backslash, a control character or
/// beyond ASCII. Bits above the lowest one set may be wrong; the lowest is right.
#[inline]
fn special(word: u64) -> u64 {
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let quote = zero(word ^ (ONES * b'"' as u64));
    let backslash = zero(word ^ (ONES * b'\\' as u64));
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    (quote | backslash | control | word) & HIGHS
}

/// Reads a string whose opening quote is at `at`.
#[inline]
pub(super) fn string(buf: &[u8], at: usize) -> Result<Text, Fault> {
    if buf.get(at) != Some(&b'"') {
        return fault(buf, at, "a string");
    }
    let start = at + 1;
    let mut text = Text { start, end: start, escaped: false, wide: false };
    let mut at = start;
    loop {
        while let Some(chunk) = buf.get(at..at + 8) {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            let found = special(u64::from_le_bytes(word));
            if found != 0 {
                at += (found.trailing_zeros() / 8) as usize;
                break;
            }
            at += 8;
        }
        match buf.get(at) {
            Some(b'"') => {
                text.end = at;
                return Ok(text);
            }
            Some(b'\\') => {
                text.escaped = true;
                at = escape(buf, at + 1)?;
            }
            Some(0..0x20) => return fault(buf, at, "no control character in a string"),
            Some(0x80..) => {
                text.wide = true;
                at += 1;
            }
            Some(_) => at += 1,
            None => return fault(buf, at, "a closing quote"),
        }
    }
}

fn escape(buf: &[u8], at: usize) -> Step {
    match buf.get(at) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 1),
        Some(b'u') => {
            for digit in at + 1..at + 5 {
                if !buf.get(digit).is_some_and(u8::is_ascii_hexdigit) {
                    return fault(buf, digit, "four hexadecimal digits");
                }
            }
            Ok(at + 5)
        }
        _ => fault(buf, at, "an escape"),
    }
}

impl Text {
    /// The bytes between the quotes, as they stand.
    #[inline]
    pub(super) fn raw<'a>(&self, buf: &'a [u8]) -> &'a [u8] {
        &buf[self.start..self.end]
    }

    /// Appends what the string means. Invalid UTF-8 and half a surrogate pair are noted and
    /// nothing is appended.
    #[inline]
    pub(super) fn decode(&self, buf: &[u8], out: &mut Vec<u8>, misfit: &mut Misfit) {
        let raw = self.raw(buf);
        if self.wide && std::str::from_utf8(raw).is_err() {
            return misfit.note(|| "a string is not valid UTF-8".into());
        }
        if !self.escaped {
            return out.extend_from_slice(raw);
        }
        let kept = out.len();
        if !unescape(raw, out) {
            out.truncate(kept);
            misfit.note(|| "a string holds half of a surrogate pair".into());
        }
    }

    /// Notes what `decode` would refuse.
    #[inline]
    pub(super) fn check(&self, buf: &[u8], misfit: &mut Misfit) {
        if self.wide || self.escaped {
            self.decode(buf, &mut Vec::new(), misfit);
        }
    }
}

/// Resolves escapes already known to be well formed; false at half a surrogate pair.
fn unescape(mut raw: &[u8], out: &mut Vec<u8>) -> bool {
    while let Some(slash) = raw.iter().position(|&byte| byte == b'\\') {
        out.extend_from_slice(&raw[..slash]);
        let letter = raw[slash + 1];
        raw = &raw[slash + 2..];
        match letter {
            b'b' => out.push(0x08),
            b'f' => out.push(0x0c),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'u' => match code_point(&mut raw) {
                Some(letter) => {
                    out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
                }
                None => return false,
            },
            itself => out.push(itself),
        }
    }
    out.extend_from_slice(raw);
    true
}

fn code_point(raw: &mut &[u8]) -> Option<char> {
    let first = hex4(raw)?;
    if !(0xd800..0xdc00).contains(&first) {
        return char::from_u32(first);
    }
    *raw = raw.strip_prefix(b"\\u")?;
    let second = hex4(raw)?;
    if !(0xdc00..0xe000).contains(&second) {
        return None;
    }
    char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00))
}

fn hex4(raw: &mut &[u8]) -> Option<u32> {
    let (digits, rest) = raw.split_at_checked(4)?;
    *raw = rest;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// A number as it lies in the buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Number {
    pub(super) start: usize,
    pub(super) end: usize,
    negative: bool,
    /// All digits as one whole number, valid while `digits` is at most 19.
    mantissa: u64,
    /// Digits in the mantissa, counting zeros in front unless there are many.
    digits: usize,
    /// The power of ten that the mantissa is to be multiplied with.
    power: i32,
    /// Written without fraction and exponent.
    pub(super) plain: bool,
}

/// Powers of ten that a double holds exactly.
const TENS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
    1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
];

/// Digits that always fit a u64.
const DIGITS_EXACT: usize = 19;

/// Reads a number that starts at `at`.
#[inline]
pub(super) fn number(buf: &[u8], at: usize) -> Result<Number, Fault> {
    let negative = buf.get(at) == Some(&b'-');
    let whole = at + usize::from(negative);
    let (mut mantissa, mut end) = digits(buf, whole, 0);
    let mut count = end - whole;
    if count == 0 {
        return fault(buf, end, if negative { "a digit" } else { "a value" });
    }
    if buf[whole] == b'0' && count > 1 {
        return fault(buf, whole + 1, "no digit after a leading zero");
    }
    let (mut power, mut plain) = (0, true);
    if buf.get(end) == Some(&b'.') {
        let fraction = end + 1;
        (mantissa, end) = digits(buf, fraction, mantissa);
        if end == fraction {
            return fault(buf, end, "a digit after the point");
        }
        count += end - fraction;
        power = -i32::try_from(end - fraction).unwrap_or(i32::MAX);
        plain = false;
    }
    let mut number = Number { start: at, end, negative, mantissa, digits: count, power, plain };
    if let Some(b'e' | b'E') = buf.get(end) {
        number.end = number.take_exponent(buf, end + 1)?;
    }
    if count > DIGITS_EXACT {
        let zeros = buf[whole..end].iter().take_while(|byte| matches!(byte, b'0' | b'.'));
        number.digits -= zeros.filter(|byte| **byte == b'0').count();
    }
    if number.end >= buf.len() {
        return fault(buf, number.end, "the rest of a number");
    }
    Ok(number)
}

/// A plain whole number of few digits and where it ends; `None` sends the caller to
/// [`number`], which knows all of the grammar.
#[inline]
pub(super) fn few_digits(buf: &[u8], at: usize) -> Option<(i64, usize)> {
    let negative = *buf.get(at)? == b'-';
    let whole = at + usize::from(negative);
    let (mantissa, end) = digits(buf, whole, 0);
    let count = end - whole;
    let fits = count > 0 && count < DIGITS_EXACT && (buf[whole] != b'0' || count == 1);
    if !fits || matches!(*buf.get(end)?, b'.' | b'e' | b'E') {
        return None;
    }
    let size = mantissa as i64;
    Some((if negative { -size } else { size }, end))
}

/// A number of few digits with a point and no exponent, likewise.
#[inline]
pub(super) fn few_decimals(buf: &[u8], at: usize) -> Option<(f64, usize)> {
    let negative = *buf.get(at)? == b'-';
    let whole = at + usize::from(negative);
    let (mantissa, point) = digits(buf, whole, 0);
    let before = point - whole;
    let (mantissa, end, after) = if buf.get(point) == Some(&b'.') {
        let (mantissa, end) = digits(buf, point + 1, mantissa);
        (mantissa, end, end - point - 1)
    } else {
        (mantissa, point, 0)
    };
    // Fifteen digits are below 2^53 and every power they need is exact, see `as_f64`.
    let plain = before > 0
        && (buf[whole] != b'0' || before == 1)
        && (end == point || after > 0)
        && before + after <= 15;
    if !plain || matches!(*buf.get(end)?, b'e' | b'E') {
        return None;
    }
    let size = mantissa as f64 / TENS[after];
    Some((if negative { -size } else { size }, end))
}

/// Reads digits on into `mantissa`, which wraps around when there are too many.
#[inline]
fn digits(buf: &[u8], mut at: usize, mut mantissa: u64) -> (u64, usize) {
    while let Some(&byte) = buf.get(at) {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            break;
        }
        mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    (mantissa, at)
}

impl Number {
    #[cold]
    fn take_exponent(&mut self, buf: &[u8], mut at: usize) -> Step {
        self.plain = false;
        let down = buf.get(at) == Some(&b'-');
        at += usize::from(down || buf.get(at) == Some(&b'+'));
        let start = at;
        let mut exponent = 0i32;
        while let Some(digit) = buf.get(at).filter(|byte| byte.is_ascii_digit()) {
            exponent = exponent.saturating_mul(10).saturating_add(i32::from(digit - b'0'));
            at += 1;
        }
        if at == start {
            return fault(buf, at, "a digit in the exponent");
        }
        self.power = self.power.saturating_add(if down { -exponent } else { exponent });
        Ok(at)
    }

    /// The text of the number.
    pub(super) fn text<'a>(&self, buf: &'a [u8]) -> &'a str {
        std::str::from_utf8(&buf[self.start..self.end]).unwrap_or_default()
    }

    /// The nearest double; `None` where none is near, as for `1e400`.
    #[inline]
    pub(super) fn as_f64(&self, buf: &[u8]) -> Option<f64> {
        let power = self.power.unsigned_abs() as usize;
        // Both factors exact, so one correctly rounded operation gives the nearest double.
        if self.digits <= DIGITS_EXACT && self.mantissa < (1 << 53) && power < TENS.len() {
            let mantissa = self.mantissa as f64;
            let size = if self.power < 0 { mantissa / TENS[power] } else { mantissa * TENS[power] };
            return Some(if self.negative { -size } else { size });
        }
        self.text(buf).parse().ok().filter(|value: &f64| value.is_finite())
    }

    /// The whole number this is, however it is written: `3`, `3.0` and `30e-1` are 3.
    #[inline]
    pub(super) fn as_i64(&self) -> Option<i64> {
        if self.plain && self.digits < DIGITS_EXACT {
            // At most 18 digits, far from the bounds.
            let size = self.mantissa as i64;
            return Some(if self.negative { -size } else { size });
        }
        self.as_i64_slow()
    }

    #[cold]
    fn as_i64_slow(&self) -> Option<i64> {
        if self.digits > DIGITS_EXACT {
            return None;
        }
        let mut size = i128::from(self.mantissa);
        if size != 0 {
            for _ in 0..self.power.unsigned_abs().min(20) {
                if self.power < 0 {
                    if size % 10 != 0 {
                        return None;
                    }
                    size /= 10;
                } else {
                    size = size.checked_mul(10).filter(|size| *size < 1 << 100)?;
                }
            }
            if self.power.unsigned_abs() > 20 {
                return None;
            }
        }
        i64::try_from(if self.negative { -size } else { size }).ok()
    }

    /// Notes a number that no double can hold: it is refused wherever it stands.
    #[inline]
    pub(super) fn check(&self, buf: &[u8], misfit: &mut Misfit) {
        let small = self.digits < 300 && (self.power < 0 || self.plain);
        if !small && self.as_f64(buf).is_none() {
            misfit.note(|| format!("number {} is beyond a double", shorten(self.text(buf))));
        }
    }
}

/// At most the first 64 bytes of `text`, for a message.
pub(super) fn shorten(text: &str) -> String {
    const SHOWN: usize = 64;
    if text.len() <= SHOWN {
        return text.to_owned();
    }
    let end = (0..=SHOWN).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    format!("{}...", &text[..end])
}

/// Skips one whole value at `at`, which lies inside `depth` arrays and objects, checking all
/// of it.
pub(super) fn skip_value(buf: &[u8], at: usize, depth: usize, misfit: &mut Misfit) -> Step {
    match buf.get(at) {
        Some(b'"') => {
            let text = string(buf, at)?;
            text.check(buf, misfit);
            Ok(text.end + 1)
        }
        Some(b'{') => {
            let mut keys = Keys::default();
            let end = object(buf, at, depth, |buf, key, at, depth| {
                keys.add(buf, key, misfit);
                skip_value(buf, at, depth, misfit)
            })?;
            keys.check(misfit);
            Ok(end)
        }
        Some(b'[') => array(buf, at, depth, |buf, at, depth| skip_value(buf, at, depth, misfit)),
        Some(b't') => word(buf, at, "true"),
        Some(b'f') => word(buf, at, "false"),
        Some(b'n') => word(buf, at, "null"),
        _ => {
            let number = number(buf, at)?;
            number.check(buf, misfit);
            Ok(number.end)
        }
    }
}

/// Walks the object at `at`: `each(buf, key, value position, depth of the value)` reads one
/// value and answers where it ends.
#[inline]
pub(super) fn object(
    buf: &[u8],
    at: usize,
    depth: usize,
    mut each: impl FnMut(&[u8], Text, usize, usize) -> Step,
) -> Step {
    if buf.get(at) != Some(&b'{') {
        return fault(buf, at, "an object");
    }
    let depth = deeper(at, depth)?;
    let mut at = skip_space(buf, at + 1);
    if buf.get(at) == Some(&b'}') {
        return Ok(at + 1);
    }
    loop {
        if buf.get(at) != Some(&b'"') {
            return fault(buf, at, "a key");
        }
        let key = string(buf, at)?;
        at = skip_space(buf, key.end + 1);
        if buf.get(at) != Some(&b':') {
            return fault(buf, at, "':' after a key");
        }
        at = skip_space(buf, at + 1);
        at = each(buf, key, at, depth)?;
        at = skip_space(buf, at);
        match buf.get(at) {
            Some(b',') => at = skip_space(buf, at + 1),
            Some(b'}') => return Ok(at + 1),
            _ => return fault(buf, at, "',' or '}'"),
        }
    }
}

/// Walks the array at `at`: `each(buf, item position, depth of the item)`.
#[inline]
pub(super) fn array(
    buf: &[u8],
    at: usize,
    depth: usize,
    mut each: impl FnMut(&[u8], usize, usize) -> Step,
) -> Step {
    if buf.get(at) != Some(&b'[') {
        return fault(buf, at, "an array");
    }
    let depth = deeper(at, depth)?;
    let mut at = skip_space(buf, at + 1);
    if buf.get(at) == Some(&b']') {
        return Ok(at + 1);
    }
    loop {
        at = each(buf, at, depth)?;
        at = skip_space(buf, at);
        match buf.get(at) {
            Some(b',') => at = skip_space(buf, at + 1),
            Some(b']') => return Ok(at + 1),
            _ => return fault(buf, at, "',' or ']'"),
        }
    }
}

fn deeper(at: usize, depth: usize) -> Result<usize, Fault> {
    if depth >= JSON_DEPTH_MAX {
        return Err(Fault { at, why: Why::TooDeep });
    }
    Ok(depth + 1)
}

/// Keys compared pair by pair before sorting is the better way.
const FEW: usize = 16;

/// The keys of one object, to notice one that comes twice.
#[derive(Debug, Default)]
pub(super) struct Keys {
    few: [(usize, usize); FEW],
    count: usize,
    /// Takes over when keys are many or escaped: what they mean, not how they are written.
    many: Vec<Vec<u8>>,
}

impl Keys {
    /// Remembers a key of the object.
    #[inline]
    pub(super) fn add(&mut self, buf: &[u8], key: Text, misfit: &mut Misfit) {
        if key.escaped || self.count == FEW || !self.many.is_empty() {
            return self.add_to_many(buf, key, misfit);
        }
        key.check(buf, misfit);
        let name = key.raw(buf);
        if self.few[..self.count].iter().any(|&(start, end)| &buf[start..end] == name) {
            misfit.note(|| twice(name));
        }
        self.few[self.count] = (key.start, key.end);
        self.count += 1;
    }

    #[cold]
    fn add_to_many(&mut self, buf: &[u8], key: Text, misfit: &mut Misfit) {
        for &(start, end) in &self.few[..self.count] {
            self.many.push(buf[start..end].to_vec());
        }
        self.count = 0;
        let mut name = Vec::with_capacity(key.end - key.start);
        key.decode(buf, &mut name, misfit);
        self.many.push(name);
    }

    /// Notes a key that came twice among many. Sorting, because a table of hashes would let
    /// a sender choose colliding keys.
    pub(super) fn check(&mut self, misfit: &mut Misfit) {
        self.many.sort_unstable();
        if let Some(pair) = self.many.windows(2).find(|pair| pair[0] == pair[1]) {
            misfit.note(|| twice(&pair[0]));
        }
        self.many.clear();
        self.count = 0;
    }
}

/// Says that a key came twice.
pub(super) fn twice(key: &[u8]) -> String {
    format!("key {:?} comes twice", shorten(&String::from_utf8_lossy(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Number {
        number(format!("{text},").as_bytes(), 0).unwrap()
    }

    #[test]
    fn a_number_is_the_nearest_double() {
        for text in [
            "0",
            "-0",
            "1",
            "-17",
            "0.1",
            "3.14",
            "1e22",
            "1e23",
            "123456789012345678",
            "9007199254740993",
            "0.000001",
            "1.7976931348623157e308",
            "5e-324",
            "1e-400",
            "2.5E+3",
            "12345678901234567890123",
            "0.30000000000000004",
        ] {
            let buf = format!("{text},");
            let expect: f64 = text.parse().unwrap();
            let found = parse(text).as_f64(buf.as_bytes()).unwrap();
            assert_eq!(found.to_bits(), expect.to_bits(), "{text}");
            if let Some((quick, end)) = few_decimals(buf.as_bytes(), 0) {
                assert_eq!((quick.to_bits(), end), (expect.to_bits(), text.len()), "{text}");
            }
        }
        assert_eq!(parse("1e400").as_f64(b"1e400,"), None);
        assert_eq!(parse("-1e999").as_f64(b"-1e999,"), None);
    }

    #[test]
    fn a_whole_number_is_whole_however_it_is_written() {
        for (text, expect) in [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("3.0", Some(3)),
            ("30e-1", Some(3)),
            ("1e3", Some(1000)),
            ("0e999999999999", Some(0)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("18446744073709551616", None),
            ("3.5", None),
            ("1e19", None),
            ("1e-1", None),
        ] {
            assert_eq!(parse(text).as_i64(), expect, "{text}");
        }
    }

    #[test]
    fn what_is_no_number_is_refused_with_its_place() {
        for (text, at) in
            [("01,", 1), ("-,", 1), ("1.,", 2), (".5,", 0), ("1e,", 2), ("1e+,", 3), ("+1,", 0)]
        {
            let fault = number(text.as_bytes(), 0).unwrap_err();
            assert!(matches!(fault.why, Why::Expected(_)), "{text}");
            assert_eq!(few_digits(text.as_bytes(), 0), None, "{text}");
            assert_eq!(few_decimals(text.as_bytes(), 0), None, "{text}");
            assert_eq!(fault.at, at, "{text}");
        }
        assert_eq!(number(b"12", 0).unwrap_err().why, Why::End);
    }

    #[test]
    fn escapes_mean_what_the_standard_says() {
        let read = |text: &str| {
            let buf = format!("\"{text}\"");
            let mut out = Vec::new();
            let mut misfit = Misfit::default();
            let found = string(buf.as_bytes(), 0).unwrap();
            found.decode(buf.as_bytes(), &mut out, &mut misfit);
            misfit.take().map_or_else(|| Ok(String::from_utf8(out).unwrap()), Err)
        };
        assert_eq!(
            read("plain text, longer than a word").unwrap(),
            "plain text, longer than a word"
        );
        assert_eq!(read(r#"\"\\\/\b\f\n\r\t"#).unwrap(), "\"\\/\u{8}\u{c}\n\r\t");
        assert_eq!(read(r"\u00e9 \ud83d\ude00 é").unwrap(), "é 😀 é");
        assert!(read(r"\ud83d").unwrap_err().contains("surrogate"));
        assert!(read(r"\ude00\ud83d").unwrap_err().contains("surrogate"));
        assert!(read(r"\ud83d\n").unwrap_err().contains("surrogate"));
    }

    #[test]
    fn every_special_byte_is_seen_at_every_place() {
        for byte in (0..0x20).chain([b'"', b'\\', 0x80, 0xff]) {
            for place in 0..8 {
                let mut word = [b'a'; 8];
                word[place] = byte;
                let found = special(u64::from_le_bytes(word));
                assert_eq!(found.trailing_zeros() / 8, place as u32, "{byte:#x} at {place}");
            }
        }
        assert_eq!(special(u64::from_le_bytes(*b"az!#[]~\x7f")), 0);
    }
}
