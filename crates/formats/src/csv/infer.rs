//! Which dialect a text is written in, and which columns it has.
//!
//! As Glue's classifier decides: the delimiter is the one of comma, bar, tab, semicolon and
//! Ctrl-A that gives most lines the same number of fields, at least two. The first line is a
//! header if each of its fields is a text that could be a name and the lines after it hold
//! something that is none. Columns without a header are called `col0` and so on. A column is a
//! `bigint`, a `double`, a `boolean`, or else a `string`.

use std::io::Read;

use arrow::datatypes::{DataType, Field, Schema};
use base::{Error, Result};

use super::lines::{self, Fields, Lines};
use super::{Dialect, Header};
use crate::json::RECORD_BYTES_MAX;

const DELIMITERS: [u8; 5] = [b',', b'|', b'\t', b';', 1];
/// Hundredths of the first lines that must have the same number of fields.
const SAME_HUNDREDTHS: usize = 80;
/// Longest name in a header, Glue's bound.
const NAME_CHARS_MAX: usize = 150;

/// What is known of the text beforehand.
#[derive(Clone, Debug)]
pub struct InferOptions {
    /// The delimiter, if it is not to be found out.
    pub delimiter: Option<u8>,
    /// The quote; none if fields are never quoted.
    pub quote: Option<u8>,
    /// Whether there is a header, if it is not to be found out.
    pub header: Option<bool>,
    /// Whether a text of one column is one.
    pub single_column: bool,
    /// Longest line that is read.
    pub record_bytes_max: usize,
}

impl Default for InferOptions {
    fn default() -> Self {
        InferOptions {
            delimiter: None,
            quote: Some(b'"'),
            header: None,
            single_column: false,
            record_bytes_max: RECORD_BYTES_MAX,
        }
    }
}

/// What a text looks like.
#[derive(Debug)]
pub struct Inferred {
    /// How its fields are told apart.
    pub dialect: Dialect,
    /// Columns in the order of the file, all nullable; one without any value has the type
    /// `Null`.
    pub schema: Schema,
    /// Good lines, without the header.
    pub records: u64,
    /// Bytes of the unpacked stream.
    pub bytes: u64,
    /// Bad lines.
    pub bad: u64,
    /// Why the stream was not read to its end, if there were good lines before.
    pub damage: Option<Error>,
}

/// Reads plain bytes (see [`crate::decode`]) to their end and tells what they hold, if it is
/// delimited text.
///
/// # Errors
/// When the stream cannot be read or unpacked, and nothing good came before that.
pub fn infer(input: impl Read, options: &InferOptions) -> Result<Option<Inferred>> {
    let mut lines = Lines::new(input, options.record_bytes_max);
    let Some((mut dialect, width)) = recognise(lines.ahead()?, options) else { return Ok(None) };
    let mut fields = Fields::new(&dialect);
    let mut first: Option<Vec<String>> = None;
    let mut kinds = vec![Kind::Null; width];
    let (mut records, mut bad) = (0, 0);
    let mut damage = None;
    loop {
        let line = match lines.next() {
            Ok(Some(line)) => line,
            Ok(None) => break,
            Err(failed) if records == 0 => return Err(failed),
            Err(failed) => {
                damage = Some(failed);
                break;
            }
        };
        let split = match fields.split(lines.text(&line)) {
            Ok(split) if split.len() == width && !line.too_long => split,
            _ => {
                bad += 1;
                continue;
            }
        };
        if split.iter().any(|(text, _)| std::str::from_utf8(text).is_err()) {
            bad += 1;
            continue;
        }
        if first.is_none() {
            let names = split.iter().map(|(text, _)| String::from_utf8_lossy(text).into_owned());
            first = Some(names.collect());
            continue;
        }
        records += 1;
        for (kind, (text, _)) in kinds.iter_mut().zip(split.iter()) {
            *kind = kind.with(Kind::of(text));
        }
    }
    let Some(first) = first else { return Ok(None) };
    let header = match options.header {
        Some(known) => known,
        None => {
            let distinct = kinds.iter().any(|kind| !matches!(kind, Kind::Null | Kind::Text));
            distinct && could_be_names(&first)
        }
    };
    let names: Vec<String> = if header {
        dialect.header = Header::Names;
        unique(first)
    } else {
        records += 1;
        for (kind, text) in kinds.iter_mut().zip(&first) {
            *kind = kind.with(Kind::of(text.as_bytes()));
        }
        (0..width).map(|at| format!("col{at}")).collect()
    };
    let field = |(name, kind): (String, &Kind)| Field::new(name, kind.data_type(), true);
    let schema = Schema::new(names.into_iter().zip(&kinds).map(field).collect::<Vec<_>>());
    Ok(Some(Inferred { dialect, schema, records, bytes: lines.bytes(), bad, damage }))
}

/// The dialect that fits the first lines, and how many fields they have.
fn recognise(start: &[u8], options: &InferOptions) -> Option<(Dialect, usize)> {
    let count = lines::whole(start).count();
    // One line alone may be anything.
    if count < 2 && !(options.delimiter.is_some() && count == 1) {
        return None;
    }
    // Text has no such bytes.
    if start.contains(&0) {
        return None;
    }
    let candidates = options.delimiter.map_or_else(|| DELIMITERS.to_vec(), |known| vec![known]);
    let mut best: Option<(usize, usize, Dialect)> = None;
    for delimiter in candidates {
        let dialect = Dialect { quote: options.quote, ..Dialect::new(delimiter) };
        let mut fields = Fields::new(&dialect);
        let Some(width) = super::usual_width(start, &mut fields) else { continue };
        let same = lines::whole(start)
            .filter(|line| fields.split(line).is_ok_and(|found| found.len() == width))
            .count();
        let wide = width > 1 || options.single_column;
        let fits = wide && same * 100 >= count * SAME_HUNDREDTHS;
        if fits && best.as_ref().is_none_or(|(most, widest, _)| (same, width) > (*most, *widest)) {
            best = Some((same, width, dialect));
        }
    }
    best.map(|(_, width, dialect)| (dialect, width))
}

/// Whether a line could name columns, as Glue asks it.
fn could_be_names(fields: &[String]) -> bool {
    let last = fields.len() - 1;
    let mut seen = std::collections::BTreeSet::new();
    fields.iter().enumerate().all(|(at, field)| {
        let name = field.trim();
        let short = at == last || name.chars().count() < NAME_CHARS_MAX;
        let plain = !name.chars().any(char::is_control);
        let text = matches!(Kind::of(name.as_bytes()), Kind::Text);
        !name.is_empty() && short && plain && text && seen.insert(name.to_owned())
    })
}

/// Names that are all there and differ, where a header that was promised has others.
fn unique(names: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    let name = |(at, name): (usize, String)| {
        let mut name = name.trim().to_owned();
        if name.is_empty() {
            name = format!("col{at}");
        }
        while !seen.insert(name.clone()) {
            name.push('_');
        }
        name
    };
    names.into_iter().enumerate().map(name).collect()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Null,
    Boolean,
    BigInt,
    Double,
    Text,
}

impl Kind {
    fn of(text: &[u8]) -> Kind {
        let text = text.trim_ascii();
        match text.first() {
            None => Kind::Null,
            Some(b'-' | b'+' | b'.' | b'0'..=b'9') => match std::str::from_utf8(text) {
                Ok(text) if text.parse::<i64>().is_ok() => Kind::BigInt,
                Ok(text) if text.parse::<f64>().is_ok_and(f64::is_finite) => Kind::Double,
                _ => Kind::Text,
            },
            Some(b't' | b'T') if text.eq_ignore_ascii_case(b"true") => Kind::Boolean,
            Some(b'f' | b'F') if text.eq_ignore_ascii_case(b"false") => Kind::Boolean,
            Some(_) => Kind::Text,
        }
    }

    fn with(self, other: Kind) -> Kind {
        match (self, other) {
            (same, other) if same == other => same,
            (Kind::Null, other) | (other, Kind::Null) => other,
            (Kind::BigInt, Kind::Double) | (Kind::Double, Kind::BigInt) => Kind::Double,
            _ => Kind::Text,
        }
    }

    fn data_type(self) -> DataType {
        match self {
            Kind::Null => DataType::Null,
            Kind::Boolean => DataType::Boolean,
            Kind::BigInt => DataType::Int64,
            Kind::Double => DataType::Float64,
            Kind::Text => DataType::Utf8,
        }
    }
}
