//! Columns that grow a value at a time from JSON text and can take values back.
//!
//! Invariants
//! * `append` adds exactly one value to its column, a null if the value does not fit, unless
//!   it answers a fault; then `truncate` brings the column back.
//! * A value is null in a column's data exactly where `present` says so.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Float32Array, Float64Array, Int8Array, Int16Array,
    Int32Array, Int64Array, ListArray, MapArray, StringArray, StructArray,
    TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray,
    TimestampSecondArray,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};
use base::{Error, Result};

use super::lex::{self, Keys, Misfit, Step, shorten};
use super::time;

/// Metadata of a `string` field whose values are kept as the JSON text they are written as, so
/// that `"5"` and `5` can be told apart: what resolves a choice of types needs.
pub const AS_WRITTEN: &str = "forebay.as-written";

/// One column, or one field or item of a nested one.
#[derive(Debug)]
pub(crate) struct Column {
    /// How errors name it: `a.b[]`.
    path: String,
    data: Data,
    /// Empty while no value is null.
    present: Vec<bool>,
}

#[derive(Debug)]
enum Data {
    Boolean(Vec<bool>),
    Whole {
        values: Vec<i64>,
        kind: Whole,
    },
    Real {
        values: Vec<f64>,
        single: bool,
    },
    Text(Texts),
    /// Text as it is written: see [`AS_WRITTEN`].
    Written(Texts),
    List {
        offsets: Vec<i32>,
        items: Box<Column>,
        item: FieldRef,
    },
    Struct {
        rows: usize,
        fields: Fields,
        columns: Vec<Column>,
    },
    Map {
        offsets: Vec<i32>,
        keys: Texts,
        values: Box<Column>,
        entries: FieldRef,
    },
}

/// What a column of whole numbers becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whole {
    Int8,
    Int16,
    Int32,
    Int64,
    Date,
    Time(TimeUnit),
}

#[derive(Debug)]
struct Texts {
    offsets: Vec<i32>,
    bytes: Vec<u8>,
}

impl Texts {
    fn new() -> Self {
        Texts { offsets: vec![0], bytes: Vec::new() }
    }

    fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    fn close(&mut self) {
        // A batch is cut long before 2 GiB, see `Scan`.
        self.offsets.push(i32::try_from(self.bytes.len()).expect("batches stay below 2 GiB"));
    }

    fn truncate(&mut self, len: usize) {
        if len < self.len() {
            self.offsets.truncate(len + 1);
            self.bytes.truncate(self.offsets[len] as usize);
        }
    }

    fn finish(&mut self, nulls: Option<NullBuffer>) -> Result<ArrayRef> {
        let done = std::mem::replace(self, Texts::new());
        self.offsets.reserve(done.len());
        self.bytes.reserve(done.bytes.len());
        let text = StringArray::try_new(offsets(done.offsets), Buffer::from_vec(done.bytes), nulls);
        Ok(Arc::new(text.map_err(bug)?))
    }
}

fn offsets(offsets: Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(offsets))
}

fn bug(cause: arrow::error::ArrowError) -> Error {
    Error::internal(format!("a column was built wrongly: {cause}")).with_source(cause)
}

impl Column {
    /// An empty column for `field`.
    pub(crate) fn new(field: &Field) -> Result<Column> {
        let mut column = Column::at(field.name().clone(), field.data_type())?;
        if field.metadata().contains_key(AS_WRITTEN)
            && let Data::Text(texts) = column.data
        {
            column.data = Data::Written(texts);
        }
        Ok(column)
    }

    fn at(path: String, data_type: &DataType) -> Result<Column> {
        let whole = |kind| Data::Whole { values: Vec::new(), kind };
        let data = match data_type {
            DataType::Boolean => Data::Boolean(Vec::new()),
            DataType::Int8 => whole(Whole::Int8),
            DataType::Int16 => whole(Whole::Int16),
            DataType::Int32 => whole(Whole::Int32),
            DataType::Int64 => whole(Whole::Int64),
            DataType::Date32 => whole(Whole::Date),
            DataType::Timestamp(unit, None) => whole(Whole::Time(*unit)),
            DataType::Float32 => Data::Real { values: Vec::new(), single: true },
            DataType::Float64 => Data::Real { values: Vec::new(), single: false },
            DataType::Utf8 => Data::Text(Texts::new()),
            DataType::List(item) => Data::List {
                offsets: vec![0],
                items: Box::new(Column::at(format!("{path}[]"), item.data_type())?),
                item: Arc::clone(item),
            },
            DataType::Struct(fields) => Data::Struct {
                rows: 0,
                fields: fields.clone(),
                columns: fields
                    .iter()
                    .map(|field| Column::at(format!("{path}.{}", field.name()), field.data_type()))
                    .collect::<Result<_>>()?,
            },
            DataType::Map(entries, false) => match entries.data_type() {
                DataType::Struct(pair)
                    if pair.len() == 2 && *pair[0].data_type() == DataType::Utf8 =>
                {
                    Data::Map {
                        offsets: vec![0],
                        keys: Texts::new(),
                        values: Box::new(Column::at(format!("{path}[]"), pair[1].data_type())?),
                        entries: Arc::clone(entries),
                    }
                }
                _ => return Err(refused(&path, data_type)),
            },
            other => return Err(refused(&path, other)),
        };
        Ok(Column { path, data, present: Vec::new() })
    }

    /// Values held.
    pub(crate) fn len(&self) -> usize {
        match &self.data {
            Data::Boolean(values) => values.len(),
            Data::Whole { values, .. } => values.len(),
            Data::Real { values, .. } => values.len(),
            Data::Text(texts) | Data::Written(texts) => texts.len(),
            Data::List { offsets, .. } | Data::Map { offsets, .. } => offsets.len() - 1,
            Data::Struct { rows, .. } => *rows,
        }
    }

    /// Takes values back until `len` are left.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.present.truncate(len);
        match &mut self.data {
            Data::Boolean(values) => values.truncate(len),
            Data::Whole { values, .. } => values.truncate(len),
            Data::Real { values, .. } => values.truncate(len),
            Data::Text(texts) | Data::Written(texts) => texts.truncate(len),
            Data::List { offsets, items, .. } => {
                offsets.truncate(len + 1);
                items.truncate(last(offsets));
            }
            Data::Map { offsets, keys, values, .. } => {
                offsets.truncate(len + 1);
                keys.truncate(last(offsets));
                values.truncate(last(offsets));
            }
            Data::Struct { rows, columns, .. } => {
                *rows = len.min(*rows);
                for column in columns {
                    column.truncate(len);
                }
            }
        }
    }

    /// Adds a null.
    pub(crate) fn push_null(&mut self) {
        let len = self.len();
        self.present.resize(len, true);
        self.present.push(false);
        match &mut self.data {
            Data::Boolean(values) => values.push(false),
            Data::Whole { values, .. } => values.push(0),
            Data::Real { values, .. } => values.push(0.0),
            Data::Text(texts) | Data::Written(texts) => texts.close(),
            Data::List { offsets, .. } | Data::Map { offsets, .. } => {
                offsets.push(last(offsets) as i32);
            }
            Data::Struct { rows, columns, .. } => {
                *rows += 1;
                for column in columns {
                    column.push_null();
                }
            }
        }
    }

    /// Remembers that a value is there.
    #[inline]
    fn mark(&mut self) {
        if !self.present.is_empty() {
            self.present.push(true);
        }
    }

    /// Adds the JSON value at `at`, which lies inside `depth` arrays and objects.
    #[inline]
    pub(in crate::json) fn append(
        &mut self,
        buf: &[u8],
        at: usize,
        depth: usize,
        misfit: &mut Misfit,
    ) -> Step {
        let Some(&first) = buf.get(at) else { return lex::fault(buf, at, "a value") };
        if first == b'n' {
            let end = lex::word(buf, at, "null")?;
            self.push_null();
            return Ok(end);
        }
        match &mut self.data {
            Data::Text(texts) => {
                let end = if first == b'"' {
                    let text = lex::string(buf, at)?;
                    text.decode(buf, &mut texts.bytes, misfit);
                    text.end + 1
                } else {
                    verbatim(buf, at, depth, &mut texts.bytes, misfit)?
                };
                texts.close();
                self.mark();
                Ok(end)
            }
            Data::Written(texts) => {
                let end = verbatim(buf, at, depth, &mut texts.bytes, misfit)?;
                texts.close();
                self.mark();
                Ok(end)
            }
            Data::Real { values, single } if first == b'-' || first.is_ascii_digit() => {
                if let Some((value, end)) = lex::few_decimals(buf, at) {
                    values.push(value);
                    self.mark();
                    return Ok(end);
                }
                let number = lex::number(buf, at)?;
                let value = number.as_f64(buf).filter(|value| !*single || single_holds(*value));
                values.push(value.unwrap_or(0.0));
                self.mark();
                match value {
                    Some(_) => Ok(number.end),
                    None => self.refuse(buf, at, depth, misfit),
                }
            }
            Data::Whole { values, kind } if first == b'-' || first.is_ascii_digit() => {
                if let Some((value, end)) = lex::few_digits(buf, at)
                    && kind.holds(value)
                {
                    values.push(value);
                    self.mark();
                    return Ok(end);
                }
                let number = lex::number(buf, at)?;
                let value = number.as_i64().filter(|value| kind.holds(*value));
                values.push(value.unwrap_or(0));
                self.mark();
                match value {
                    Some(_) => Ok(number.end),
                    None => self.refuse(buf, at, depth, misfit),
                }
            }
            _ => self.append_rare(buf, at, depth, misfit),
        }
    }

    fn append_rare(&mut self, buf: &[u8], at: usize, depth: usize, misfit: &mut Misfit) -> Step {
        let first = buf[at];
        match &mut self.data {
            Data::Boolean(values) if matches!(first, b't' | b'f') => {
                let value = first == b't';
                let end = lex::word(buf, at, if value { "true" } else { "false" })?;
                values.push(value);
                self.mark();
                Ok(end)
            }
            Data::Whole { values, kind } if first == b'"' && kind.is_calendar() => {
                let text = lex::string(buf, at)?;
                let value = kind.of_calendar(text.raw(buf));
                values.push(value.unwrap_or(0));
                self.mark();
                match value {
                    Some(_) => Ok(text.end + 1),
                    None => self.refuse(buf, at, depth, misfit),
                }
            }
            Data::List { offsets, items, .. } if first == b'[' => {
                let end = lex::array(buf, at, depth, |buf, at, depth| {
                    items.append(buf, at, depth, misfit)
                })?;
                offsets.push(items.len() as i32);
                self.mark();
                Ok(end)
            }
            Data::Struct { rows, columns, fields } if first == b'{' => {
                let end = append_struct(buf, at, depth, *rows, fields, columns, misfit)?;
                *rows += 1;
                self.mark();
                Ok(end)
            }
            Data::Map { offsets, keys, values, .. } if first == b'{' => {
                let mut seen = Keys::default();
                let end = lex::object(buf, at, depth, |buf, key, at, depth| {
                    seen.add(buf, key, misfit);
                    key.decode(buf, &mut keys.bytes, misfit);
                    keys.close();
                    values.append(buf, at, depth, misfit)
                })?;
                seen.check(misfit);
                offsets.push(values.len() as i32);
                self.mark();
                Ok(end)
            }
            _ => {
                self.push_null();
                self.refuse(buf, at, depth, misfit)
            }
        }
    }

    /// Adds a value that is given as text, as CSV has it; a null if it does not fit, and why.
    pub(crate) fn append_text(&mut self, text: &[u8]) -> std::result::Result<(), String> {
        let value = text.trim_ascii();
        let fits = match &mut self.data {
            Data::Text(texts) | Data::Written(texts) => {
                let fits = std::str::from_utf8(text).is_ok();
                if fits {
                    texts.bytes.extend_from_slice(text);
                    texts.close();
                }
                fits
            }
            _ if value.is_empty() => {
                self.push_null();
                return Ok(());
            }
            Data::Boolean(values) => {
                let known = [&b"true"[..], b"false"];
                let at = known.iter().position(|word| value.eq_ignore_ascii_case(word));
                at.is_some_and(|at| {
                    values.push(at == 0);
                    true
                })
            }
            Data::Whole { values, kind } => {
                let number = match kind.is_calendar() {
                    true => kind.of_calendar(value),
                    false => whole_text(value).filter(|value| kind.holds(*value)),
                };
                number.is_some_and(|number| {
                    values.push(number);
                    true
                })
            }
            Data::Real { values, single } => {
                let number = real_text(value).filter(|value| !*single || single_holds(*value));
                number.is_some_and(|number| {
                    values.push(number);
                    true
                })
            }
            Data::List { .. } | Data::Struct { .. } | Data::Map { .. } => false,
        };
        if fits {
            self.mark();
            return Ok(());
        }
        self.push_null();
        let shown = shorten(&String::from_utf8_lossy(value));
        Err(format!("column {:?} is {} and cannot hold {shown:?}", self.path, self.kind_name()))
    }

    /// Notes that the value at `at` does not fit and skips it.
    #[cold]
    fn refuse(&self, buf: &[u8], at: usize, depth: usize, misfit: &mut Misfit) -> Step {
        let end = lex::skip_value(buf, at, depth, misfit)?;
        misfit.note(|| {
            let value = shorten(&String::from_utf8_lossy(&buf[at..end]));
            format!("column {:?} is {} and cannot hold {value}", self.path, self.kind_name())
        });
        Ok(end)
    }

    fn kind_name(&self) -> &'static str {
        match &self.data {
            Data::Boolean(_) => "boolean",
            Data::Whole { kind, .. } => kind.name(),
            Data::Real { single: true, .. } => "float",
            Data::Real { single: false, .. } => "double",
            Data::Text(_) | Data::Written(_) => "string",
            Data::List { .. } => "an array",
            Data::Struct { .. } => "a struct",
            Data::Map { .. } => "a map",
        }
    }

    /// Bytes held, about.
    pub(crate) fn bytes(&self) -> usize {
        let data = match &self.data {
            Data::Boolean(values) => values.len(),
            Data::Whole { values, .. } => values.len() * 8,
            Data::Real { values, .. } => values.len() * 8,
            Data::Text(texts) | Data::Written(texts) => texts.bytes.len() + texts.offsets.len() * 4,
            Data::List { offsets, items, .. } => items.bytes() + offsets.len() * 4,
            Data::Struct { columns, .. } => columns.iter().map(Column::bytes).sum(),
            Data::Map { keys, values, .. } => {
                keys.bytes.len() + keys.offsets.len() * 8 + values.bytes()
            }
        };
        data + self.present.len()
    }

    /// Forgets everything without making an array.
    pub(crate) fn clear(&mut self) {
        self.truncate(0);
    }

    /// Hands out the values as an array and starts anew.
    pub(crate) fn finish(&mut self) -> Result<ArrayRef> {
        let len = self.len();
        let nulls = (!self.present.is_empty()).then(|| {
            let nulls = NullBuffer::from(BooleanBuffer::from(self.present.as_slice()));
            self.present.clear();
            nulls
        });
        Ok(match &mut self.data {
            Data::Boolean(values) => {
                let bits = BooleanBuffer::from(values.as_slice());
                values.clear();
                Arc::new(BooleanArray::new(bits, nulls))
            }
            Data::Whole { values, kind } => kind.array(renew(values), nulls),
            Data::Real { values, single: false } => {
                Arc::new(Float64Array::new(ScalarBuffer::from(renew(values)), nulls))
            }
            Data::Real { values, single: true } => {
                let narrow: Vec<f32> = values.drain(..).map(|value| value as f32).collect();
                Arc::new(Float32Array::new(ScalarBuffer::from(narrow), nulls))
            }
            Data::Text(texts) | Data::Written(texts) => texts.finish(nulls)?,
            Data::List { offsets: ends, items, item } => {
                let ends = offsets(std::mem::replace(ends, vec![0]));
                let list = ListArray::try_new(Arc::clone(item), ends, items.finish()?, nulls);
                Arc::new(list.map_err(bug)?)
            }
            Data::Struct { rows, fields, columns } => {
                *rows = 0;
                let arrays: Vec<ArrayRef> =
                    columns.iter_mut().map(Column::finish).collect::<Result<_>>()?;
                let made = StructArray::try_new_with_length(fields.clone(), arrays, nulls, len);
                Arc::new(made.map_err(bug)?)
            }
            Data::Map { offsets: ends, keys, values, entries } => {
                let ends = offsets(std::mem::replace(ends, vec![0]));
                let DataType::Struct(pair) = entries.data_type() else {
                    return Err(Error::internal("a map without entries"));
                };
                let columns = vec![keys.finish(None)?, values.finish()?];
                let pairs = StructArray::try_new(pair.clone(), columns, None).map_err(bug)?;
                let map = MapArray::try_new(Arc::clone(entries), ends, pairs, nulls, false);
                Arc::new(map.map_err(bug)?)
            }
        })
    }
}

fn refused(path: &str, data_type: &DataType) -> Error {
    Error::unsupported(format!("column {path:?}: {data_type} is not read from JSON"))
}

fn last(offsets: &[i32]) -> usize {
    offsets.last().map_or(0, |&end| end as usize)
}

/// Takes the values out and leaves room for as many.
fn renew<T>(values: &mut Vec<T>) -> Vec<T> {
    let room = Vec::with_capacity(values.len());
    std::mem::replace(values, room)
}

/// A whole number; one that is written as `3.0` or `1e3` is one, too.
fn whole_text(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    text.parse().ok().or_else(|| {
        let real = real_text(text.as_bytes())?;
        // Beyond 2^53 a double no longer says which whole number was meant.
        (real.fract() == 0.0 && real.abs() <= 9_007_199_254_740_992.0).then_some(real as i64)
    })
}

/// A finite number; no `inf` or `nan`, which the standard library would take.
fn real_text(text: &[u8]) -> Option<f64> {
    let digits = matches!(text.first()?, b'-' | b'+' | b'.' | b'0'..=b'9');
    let value: f64 = std::str::from_utf8(text).ok().filter(|_| digits)?.parse().ok()?;
    value.is_finite().then_some(value)
}

fn single_holds(value: f64) -> bool {
    (value as f32).is_finite()
}

/// Appends a value that is no string to a column of text, as it is written.
fn verbatim(buf: &[u8], at: usize, depth: usize, out: &mut Vec<u8>, misfit: &mut Misfit) -> Step {
    let end = lex::skip_value(buf, at, depth, misfit)?;
    if misfit.is_none() {
        // Strings within were checked, and everything else in JSON is ASCII.
        out.extend_from_slice(&buf[at..end]);
    }
    Ok(end)
}

fn append_struct(
    buf: &[u8],
    at: usize,
    depth: usize,
    rows: usize,
    fields: &Fields,
    columns: &mut [Column],
    misfit: &mut Misfit,
) -> Step {
    let mut unknown = Keys::default();
    let mut expected = 0;
    let mut name = Vec::new();
    let end = lex::object(buf, at, depth, |buf, key, at, depth| {
        let found = if key.escaped {
            name.clear();
            key.decode(buf, &mut name, misfit);
            position(fields, &name, expected)
        } else {
            position(fields, key.raw(buf), expected)
        };
        match found {
            Some(index) if columns[index].len() > rows => {
                misfit.note(|| lex::twice(key.raw(buf)));
                lex::skip_value(buf, at, depth, misfit)
            }
            Some(index) => {
                expected = index + 1;
                columns[index].append(buf, at, depth, misfit)
            }
            None => {
                unknown.add(buf, key, misfit);
                lex::skip_value(buf, at, depth, misfit)
            }
        }
    })?;
    unknown.check(misfit);
    for column in columns {
        if column.len() == rows {
            column.push_null();
        }
    }
    Ok(end)
}

/// Finds a field, the expected one first: devices send their keys in one order.
fn position(fields: &Fields, name: &[u8], expected: usize) -> Option<usize> {
    let is = |index: usize| fields.get(index).is_some_and(|field| field.name().as_bytes() == name);
    if is(expected) {
        return Some(expected);
    }
    (0..fields.len()).find(|&index| is(index))
}

impl Whole {
    fn name(self) -> &'static str {
        match self {
            Whole::Int8 => "tinyint",
            Whole::Int16 => "smallint",
            Whole::Int32 => "int",
            Whole::Int64 => "bigint",
            Whole::Date => "date",
            Whole::Time(_) => "timestamp",
        }
    }

    fn is_calendar(self) -> bool {
        matches!(self, Whole::Date | Whole::Time(_))
    }

    /// Tells whether a JSON number may stand in this column. A bare number is no date: its
    /// unit would be a guess.
    #[inline]
    fn holds(self, value: i64) -> bool {
        match self {
            Whole::Int32 => i32::try_from(value).is_ok(),
            Whole::Int64 => true,
            Whole::Int8 => i8::try_from(value).is_ok(),
            Whole::Int16 => i16::try_from(value).is_ok(),
            Whole::Date | Whole::Time(_) => false,
        }
    }

    fn of_calendar(self, text: &[u8]) -> Option<i64> {
        match self {
            Whole::Date => time::date(text),
            Whole::Time(unit) => time::timestamp(text, unit),
            _ => None,
        }
    }

    fn array(self, values: Vec<i64>, nulls: Option<NullBuffer>) -> ArrayRef {
        // Every narrowing was checked by `holds` or follows from the calendar's range.
        let narrow = || values.iter().map(|&value| value as i32).collect::<Vec<i32>>();
        match self {
            Whole::Int8 => {
                let narrow: Vec<i8> = values.iter().map(|&value| value as i8).collect();
                Arc::new(Int8Array::new(narrow.into(), nulls))
            }
            Whole::Int16 => {
                let narrow: Vec<i16> = values.iter().map(|&value| value as i16).collect();
                Arc::new(Int16Array::new(narrow.into(), nulls))
            }
            Whole::Int32 => Arc::new(Int32Array::new(narrow().into(), nulls)),
            Whole::Date => Arc::new(Date32Array::new(narrow().into(), nulls)),
            Whole::Int64 => Arc::new(Int64Array::new(values.into(), nulls)),
            Whole::Time(TimeUnit::Second) => {
                Arc::new(TimestampSecondArray::new(values.into(), nulls))
            }
            Whole::Time(TimeUnit::Millisecond) => {
                Arc::new(TimestampMillisecondArray::new(values.into(), nulls))
            }
            Whole::Time(TimeUnit::Microsecond) => {
                Arc::new(TimestampMicrosecondArray::new(values.into(), nulls))
            }
            Whole::Time(TimeUnit::Nanosecond) => {
                Arc::new(TimestampNanosecondArray::new(values.into(), nulls))
            }
        }
    }
}
