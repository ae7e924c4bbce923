//! Texts: regular expressions, pieces, padding, formats and URLs.
//!
//! Regular expressions are those of the `regex` crate: time is linear in the text whatever the
//! pattern, and there is neither look-around nor a back-reference.

use regex::{Captures, Regex, RegexBuilder};

use super::Kind::{Int, More, Optional, Scalar, Text};
use super::{Gives, Memory, Out, Outcome, Row, Value, row};

pub(super) const ROWS: &[Row] = &[
    row("regexp_like", &[Text, Text], Gives::Truth, |memory, args| {
        Ok(Some(Out::Truth(regex(memory, args[1].text())?.is_match(args[0].text()))))
    }),
    row("regexp_extract", &[Text, Text, Optional, Int], Gives::Text, regexp_extract),
    row("regexp_extract_all", &[Text, Text, Optional, Int], Gives::Texts, regexp_extract_all),
    row("regexp_replace", &[Text, Text, Optional, Text], Gives::Text, regexp_replace),
    row("replace", &[Text, Text, Optional, Text], Gives::Text, replace),
    row("regexp_split", &[Text, Text], Gives::Texts, |memory, args| {
        let pieces = regex(memory, args[1].text())?.split(args[0].text());
        Ok(Some(Out::Texts(pieces.map(str::to_owned).collect())))
    }),
    row("regexp_count", &[Text, Text], Gives::Int, |memory, args| {
        let count = regex(memory, args[1].text())?.find_iter(args[0].text()).count();
        Ok(Some(Out::Int(count as i64)))
    }),
    row("split", &[Text, Text, Optional, Int], Gives::Texts, split),
    row("split_part", &[Text, Text, Int], Gives::Text, split_part),
    row("substr", &[Text, Int, Optional, Int], Gives::Text, substr),
    row("substring", &[Text, Int, Optional, Int], Gives::Text, substr),
    row("lpad", &[Text, Int, Text], Gives::Text, |_, args| pad(args, true)),
    row("rpad", &[Text, Int, Text], Gives::Text, |_, args| pad(args, false)),
    row("format", &[Text, Optional, Scalar, More], Gives::Text, format_text),
    row("url_extract_protocol", &[Text], Gives::Text, |_, args| {
        of_url(args, |url| Some(url.scheme().to_owned()))
    }),
    row("url_extract_host", &[Text], Gives::Text, |_, args| {
        of_url(args, |url| url.host_str().map(str::to_owned))
    }),
    row("url_extract_port", &[Text], Gives::Int, |_, args| {
        let port = url::Url::parse(args[0].text()).ok().and_then(|url| url.port());
        Ok(port.map(|port| Out::Int(port.into())))
    }),
    row("url_extract_path", &[Text], Gives::Text, |_, args| {
        of_url(args, |url| Some(url.path().to_owned()))
    }),
    row("url_extract_query", &[Text], Gives::Text, |_, args| {
        of_url(args, |url| url.query().map(str::to_owned))
    }),
    row("url_extract_fragment", &[Text], Gives::Text, |_, args| {
        of_url(args, |url| url.fragment().map(str::to_owned))
    }),
    row("url_extract_parameter", &[Text, Text], Gives::Text, |_, args| {
        let name = args[1].text();
        of_url(args, |url| {
            let mut pairs = url.query_pairs();
            pairs.find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
        })
    }),
    row("url_encode", &[Text], Gives::Text, |_, args| {
        Ok(Some(Out::Text(url::form_urlencoded::byte_serialize(args[0].bytes()).collect())))
    }),
    row("url_decode", &[Text], Gives::Text, |_, args| {
        let spaced = args[0].text().replace('+', " ");
        let decoded = percent_encoding::percent_decode_str(&spaced).decode_utf8();
        let decoded = decoded.map_err(|_not_text| format!("{spaced:?} is no text once decoded"))?;
        Ok(Some(Out::Text(decoded.into_owned())))
    }),
];

/// Bytes of a compiled pattern at most.
const REGEX_BYTES_MAX: usize = 1024 * 1024;

/// Characters of a padded text at most.
const PADDED_MAX: i64 = 100_000;

fn regex<'m>(memory: &'m mut Memory, pattern: &str) -> Result<&'m Regex, String> {
    if memory.regex.as_ref().is_none_or(|(known, _)| known != pattern) {
        let regex = RegexBuilder::new(pattern)
            .size_limit(REGEX_BYTES_MAX)
            .build()
            .map_err(|cause| format!("the pattern {pattern:?} is not supported: {cause}"))?;
        memory.regex = Some((pattern.to_owned(), regex));
    }
    memory.regex.as_ref().map(|(_, regex)| regex).ok_or_else(|| "no pattern".into())
}

/// The group that is asked for, the whole match if none is.
fn group(regex: &Regex, args: &[Value<'_>]) -> Result<usize, String> {
    let wanted = args.get(2).map_or(0, |group| group.int());
    let count = regex.captures_len();
    usize::try_from(wanted)
        .ok()
        .filter(|group| *group < count)
        .ok_or_else(|| format!("the pattern has {} groups and not group {wanted}", count - 1))
}

fn regexp_extract(memory: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let regex = regex(memory, args[1].text())?;
    let group = group(regex, args)?;
    let found = regex.captures(args[0].text()).and_then(|found| found.get(group));
    Ok(found.map(|found| Out::Text(found.as_str().to_owned())))
}

fn regexp_extract_all(memory: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let regex = regex(memory, args[1].text())?;
    let group = group(regex, args)?;
    let text = |found: Captures<'_>| {
        found.get(group).map_or_else(String::new, |found| found.as_str().to_owned())
    };
    Ok(Some(Out::Texts(regex.captures_iter(args[0].text()).map(text).collect())))
}

/// All matches, with `$1`, `${name}` and `\$` in what takes their place.
fn regexp_replace(memory: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let regex = regex(memory, args[1].text())?;
    let by = java_replacement(args.get(2).map_or("", |by| by.text()));
    let text = args[0].text();
    let (mut out, mut from) = (String::new(), 0);
    for found in regex.captures_iter(text) {
        let Some(whole) = found.get(0) else { continue };
        out.push_str(&text[from..whole.start()]);
        found.expand(&by, &mut out);
        from = whole.end();
        check_length(&out)?;
    }
    out.push_str(&text[from..]);
    Ok(Some(Out::Text(out)))
}

/// Bytes of one text that a replacement makes.
const REPLACED_MAX: usize = 16 * 1024 * 1024;

fn check_length(out: &str) -> Result<(), String> {
    match out.len() <= REPLACED_MAX {
        true => Ok(()),
        false => Err(format!("the text becomes longer than {REPLACED_MAX} bytes")),
    }
}

/// Of an empty text, what is put in stands before each letter and at the end.
fn replace(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let (text, what) = (args[0].text(), args[1].text());
    let by = args.get(2).map_or("", |by| by.text());
    let (mut out, mut from) = (String::new(), 0);
    for (at, found) in text.match_indices(what) {
        out.push_str(&text[from..at]);
        out.push_str(by);
        from = at + found.len();
        check_length(&out)?;
    }
    out.push_str(&text[from..]);
    Ok(Some(Out::Text(out)))
}

/// Java ends the number of a group at the first letter, `regex` only at what no name can have.
fn java_replacement(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars().peekable();
    while let Some(letter) = chars.next() {
        match letter {
            '\\' => match chars.next() {
                Some('$') => out.push_str("$$"),
                Some(other) => out.push(other),
                None => out.push('\\'),
            },
            '$' if chars.peek().is_some_and(char::is_ascii_digit) => {
                out.push_str("${");
                out.extend(chars.next());
                out.push('}');
            }
            letter => out.push(letter),
        }
    }
    out
}

fn split(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let (text, by) = (args[0].text(), args[1].text());
    if by.is_empty() {
        return Err("the delimiter is empty".into());
    }
    let most = match args.get(2).map(|most| most.int()) {
        None => usize::MAX,
        Some(most) if most > 0 => usize::try_from(most).unwrap_or(usize::MAX),
        Some(most) => return Err(format!("the limit is {most}; it must be positive")),
    };
    Ok(Some(Out::Texts(text.splitn(most, by).map(str::to_owned).collect())))
}

/// From 1 on; null beyond the last.
fn split_part(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let (text, by, index) = (args[0].text(), args[1].text(), args[2].int());
    if by.is_empty() {
        return Err("the delimiter is empty".into());
    }
    if index < 1 {
        return Err(format!("the index is {index}; parts are counted from 1"));
    }
    let part = usize::try_from(index - 1).ok().and_then(|index| text.split(by).nth(index));
    Ok(part.map(|part| Out::Text(part.to_owned())))
}

/// From 1 on; a negative start counts from the end.
fn substr(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let (text, start) = (args[0].text(), args[1].int());
    let count = text.chars().count() as i64;
    let first = match start {
        0 => return Ok(Some(Out::Text(String::new()))),
        start if start > 0 => start - 1,
        start => count.saturating_add(start),
    };
    let length = args.get(2).map_or(i64::MAX, |length| length.int());
    if first < 0 || first >= count || length <= 0 {
        return Ok(Some(Out::Text(String::new())));
    }
    let (first, length) = (first as usize, usize::try_from(length).unwrap_or(usize::MAX));
    Ok(Some(Out::Text(text.chars().skip(first).take(length).collect())))
}

fn pad(args: &[Value<'_>], left: bool) -> Outcome {
    let (text, size, with) = (args[0].text(), args[1].int(), args[2].text());
    if !(0..=PADDED_MAX).contains(&size) {
        return Err(format!("the size is {size}; it must be between 0 and {PADDED_MAX}"));
    }
    if with.is_empty() {
        return Err("what is to be padded with is empty".into());
    }
    let (size, count) = (size as usize, text.chars().count());
    let filled = || with.chars().cycle().take(size.saturating_sub(count));
    let own = || text.chars().take(size);
    Ok(Some(Out::Text(match left {
        true => filled().chain(own()).collect(),
        false => own().chain(filled()).collect(),
    })))
}

/// Java's `%` formats: `%s %d %f %e %x %c %b %n %%` with a width, `-`, `0`, `,` and a precision.
fn format_text(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let mut out = String::new();
    let mut given = args[1..].iter();
    let pattern = args[0].text();
    let mut chars = pattern.chars().peekable();
    while let Some(letter) = chars.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let mut flags = String::new();
        while let Some(flag) = chars.next_if(|letter| "-0,+".contains(*letter)) {
            flags.push(flag);
        }
        let mut number = || {
            let mut digits = String::new();
            while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            digits.parse::<usize>().ok()
        };
        let width = number().unwrap_or(0);
        let precision = match chars.next_if_eq(&'.') {
            None => None,
            Some(_) => {
                let mut digits = String::new();
                while let Some(digit) = chars.next_if(char::is_ascii_digit) {
                    digits.push(digit);
                }
                digits.parse::<usize>().ok()
            }
        };
        let conversion = chars.next();
        if width > 1_000 || precision.is_some_and(|digits| digits > 100) {
            return Err(format!("{pattern:?} asks for too wide a field"));
        }
        let mut next = || given.next().copied().ok_or_else(|| format!("{pattern:?} lacks a value"));
        let shown = match conversion {
            Some('%') => "%".to_owned(),
            Some('n') => "\n".to_owned(),
            Some('s') => {
                let text = shown(next()?);
                precision.map_or(text.clone(), |most| text.chars().take(most).collect())
            }
            Some('b') => shown(next()?),
            Some('c') => shown(next()?).chars().take(1).collect(),
            Some('d') => match next()? {
                Value::Int(int) => signed(&flags, grouped(&flags, int.to_string())),
                other => return Err(format!("%d of {other:?}, which is no integer")),
            },
            Some('x') => match next()? {
                Value::Int(int) => format!("{int:x}"),
                other => return Err(format!("%x of {other:?}, which is no integer")),
            },
            Some(letter @ ('f' | 'e')) => match next()? {
                value @ (Value::Double(_) | Value::Int(_)) => {
                    let digits = precision.unwrap_or(6);
                    let text = match letter {
                        'f' => grouped(&flags, format!("{:.digits$}", value.double())),
                        _ => exponent(&format!("{:.digits$e}", value.double())),
                    };
                    signed(&flags, text)
                }
                other => return Err(format!("%{letter} of {other:?}, which is no number")),
            },
            other => {
                let other = other.map(String::from).unwrap_or_default();
                return Err(format!("{pattern:?} has %{other}, which is not supported"));
            }
        };
        out.push_str(&widened(&flags, width, shown));
    }
    Ok(Some(Out::Text(out)))
}

fn shown(value: Value<'_>) -> String {
    match value {
        Value::Text(text) => text.to_owned(),
        Value::Int(int) => int.to_string(),
        Value::Double(double) => format!("{double:?}"),
        Value::Truth(truth) => truth.to_string(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

fn signed(flags: &str, text: String) -> String {
    if flags.contains('+') && !text.starts_with('-') { format!("+{text}") } else { text }
}

/// Java writes at least two digits of an exponent, and its sign.
fn exponent(text: &str) -> String {
    let Some((digits, power)) = text.split_once('e') else { return text.to_owned() };
    match power.strip_prefix('-') {
        Some(power) => format!("{digits}e-{power:0>2}"),
        None => format!("{digits}e+{power:0>2}"),
    }
}

/// Commas between thousands, if asked for.
fn grouped(flags: &str, text: String) -> String {
    if !flags.contains(',') {
        return text;
    }
    let (sign, digits) = text.split_at(usize::from(text.starts_with('-')));
    let (whole, rest) = digits.split_at(digits.find('.').unwrap_or(digits.len()));
    let mut out = sign.to_owned();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out + rest
}

fn widened(flags: &str, width: usize, text: String) -> String {
    let missing = width.saturating_sub(text.chars().count());
    if flags.contains('-') {
        return format!("{text}{}", " ".repeat(missing));
    }
    if flags.contains('0') {
        let (sign, digits) = text.split_at(usize::from(text.starts_with(['-', '+'])));
        return format!("{sign}{}{digits}", "0".repeat(missing));
    }
    format!("{}{text}", " ".repeat(missing))
}

/// A part of a URL; null where there is no such part, or no URL.
fn of_url(args: &[Value<'_>], part: impl Fn(&url::Url) -> Option<String>) -> Outcome {
    let url = url::Url::parse(args[0].text()).ok();
    Ok(url.as_ref().and_then(part).map(Out::Text))
}
