//! Which columns a stream of JSON objects has, and of which type.
//!
//! Every record is checked whole before it may say anything about the schema, so a bad
//! record leaves no trace in it.

use std::collections::HashMap;
use std::io::Read;

use arrow::datatypes::{DataType, Field, Fields, Schema};
use base::{Error, Result};

use super::RECORD_BYTES_MAX;
use super::lex::{self, Misfit, Step};
use super::records::{Next, Parsed, Records};
use super::shapes::{Shapes, Then, Trace};
use crate::hive;

/// How much is read, and how wide a schema may become.
#[derive(Clone, Copy, Debug)]
pub struct InferOptions {
    /// Stop at the first record beyond so many bytes; `None` reads everything.
    pub bytes_max: Option<u64>,
    /// Columns and nested fields together; a record that would bring more is bad.
    pub fields_max: usize,
    /// Longest record that is read.
    pub record_bytes_max: usize,
}

impl Default for InferOptions {
    fn default() -> Self {
        InferOptions { bytes_max: None, fields_max: 4096, record_bytes_max: RECORD_BYTES_MAX }
    }
}

/// What a stream looks like.
#[derive(Debug)]
pub struct Inferred {
    /// Columns in the order of their first appearance, all nullable. One that was null in
    /// every record has the type `Null`, which gives way in [`merge`] and is a `string` in
    /// Hive's language, and so has a struct in which no field was ever seen.
    pub schema: Schema,
    /// Good records.
    pub records: u64,
    /// Bytes of the unpacked stream that were read.
    pub bytes: u64,
    /// Bad records.
    pub bad: u64,
    /// Why the stream was not read to its end, if there were good records before.
    pub damage: Option<Error>,
}

/// Reads plain bytes (see [`crate::decode`]) and tells their schema.
///
/// # Errors
/// When the stream cannot be read or unpacked, and nothing good came before that.
pub fn infer(input: impl Read, options: &InferOptions) -> Result<Inferred> {
    let mut records = Records::new(input, options.record_bytes_max);
    let mut root = Object::default();
    let (mut shapes, mut trace) = (Shapes::default(), Trace::new());
    let mut room = options.fields_max;
    let (mut good, mut bad) = (0, 0);
    let mut damage = None;
    loop {
        if options.bytes_max.is_some_and(|most| records.bytes() >= most) {
            break;
        }
        let next = records.next(|buf, start| {
            let known = |field: Option<usize>, at| root.fields.get(field?)?.1.covers(buf, at);
            if let Some((end, _)) = shapes.follow(buf, start, known) {
                return Ok(Parsed { end, misfit: None });
            }
            let mut misfit = Misfit::default();
            if buf[start] != b'{' {
                return lex::fault(buf, start, "an object");
            }
            let end = lex::skip_value(buf, start, 0, &mut misfit)?;
            if misfit.is_none() {
                // Counted first: a record that is refused must not have changed anything.
                let mut fresh = 0;
                root.count_new(buf, start, 0, &mut fresh)?;
                if fresh <= room {
                    trace.clear();
                    root.learn(buf, start, 0, Some(&mut trace))?;
                    shapes.remember(buf, &trace, Vec::new);
                    room -= fresh;
                } else {
                    misfit.note(|| {
                        format!("the record brings more than {} fields", options.fields_max)
                    });
                }
            }
            Ok(Parsed { end, misfit: misfit.take() })
        });
        match next {
            Ok(Next::Good) => good += 1,
            Ok(Next::Bad(_)) => bad += 1,
            Ok(Next::End) => break,
            Err(failed) if good == 0 => return Err(failed),
            Err(failed) => {
                damage = Some(failed);
                break;
            }
        }
    }
    let schema = Schema::new(root.fields());
    Ok(Inferred { schema, records: good, bytes: records.bytes(), bad, damage })
}

/// The schema that holds what either holds: columns of `first`, then those only in `second`.
///
/// Equal types stay. `Null` gives way to anything. Of two whole-number types the wider wins;
/// with a float or double the result is `double`. Structs join their fields, arrays and maps
/// their items. Everything else meets as `string`.
pub fn merge(first: &Schema, second: &Schema) -> Schema {
    Schema::new(merge_fields(first.fields(), second.fields()))
}

fn merge_fields(first: &Fields, second: &Fields) -> Fields {
    let at: HashMap<&str, usize> =
        first.iter().enumerate().map(|(index, field)| (field.name().as_str(), index)).collect();
    let mut fields: Vec<Field> = first.iter().map(|field| Field::clone(field)).collect();
    for field in second {
        match at.get(field.name().as_str()) {
            Some(&index) => {
                let wider = widen(fields[index].data_type(), field.data_type());
                fields[index] = Field::new(field.name(), wider, true);
            }
            None => fields.push(Field::clone(field)),
        }
    }
    fields.into()
}

fn widen(first: &DataType, second: &DataType) -> DataType {
    use DataType::{Float32, Float64, Int8, Int16, Int32, Int64, List, Map, Null, Struct, Utf8};
    let whole = |data_type: &DataType| {
        [Int8, Int16, Int32, Int64].iter().position(|known| known == data_type)
    };
    let number =
        |data_type: &DataType| whole(data_type).is_some() || matches!(data_type, Float32 | Float64);
    match (first, second) {
        (same, other) if same == other => same.clone(),
        (Null, other) | (other, Null) => other.clone(),
        (a, b) if whole(a).is_some() && whole(b).is_some() => {
            if whole(a) > whole(b) {
                a.clone()
            } else {
                b.clone()
            }
        }
        (a, b) if number(a) && number(b) => Float64,
        (List(a), List(b)) => hive::list_of(widen(a.data_type(), b.data_type())),
        (Struct(a), Struct(b)) => Struct(merge_fields(a, b)),
        (Map(a, _), Map(b, _)) => match (a.data_type(), b.data_type()) {
            (Struct(a), Struct(b)) if a.len() == 2 && b.len() == 2 => hive::map_of(
                widen(a[0].data_type(), b[0].data_type()),
                widen(a[1].data_type(), b[1].data_type()),
            ),
            _ => Utf8,
        },
        _ => Utf8,
    }
}

/// What is known about the values of one column.
#[derive(Debug, Default)]
enum Kind {
    #[default]
    Null,
    Boolean,
    Int,
    BigInt,
    Double,
    /// Strings, or values that agree on nothing else.
    Text,
    Array(Box<Kind>),
    Object(Object),
}

/// The fields of a struct, or the columns of the stream.
#[derive(Debug, Default)]
struct Object {
    fields: Vec<(Vec<u8>, Kind)>,
    by_name: HashMap<Vec<u8>, usize>,
}

impl Object {
    /// Widens the fields by the object at `at`, which was checked already, and notes where
    /// its literals lie.
    fn learn(
        &mut self,
        buf: &[u8],
        start: usize,
        depth: usize,
        mut trace: Option<&mut Trace>,
    ) -> Step {
        let mut expected = 0;
        let mut literal = start;
        let mut name = Vec::new();
        let end = lex::object(buf, start, depth, |buf, key, at, depth| {
            name.clear();
            key.decode(buf, &mut name, &mut Misfit::default());
            let index = match self.find(&name, expected) {
                Some(index) => index,
                None => {
                    self.fields.push((name.clone(), Kind::Null));
                    self.by_name.insert(name.clone(), self.fields.len() - 1);
                    self.fields.len() - 1
                }
            };
            expected = index + 1;
            if let Some(trace) = &mut trace {
                trace.push((literal, at, Then::Value(index)));
            }
            literal = self.fields[index].1.learn(buf, at, depth)?;
            Ok(literal)
        })?;
        if let Some(trace) = trace {
            trace.push((literal, end, Then::End));
        }
        Ok(end)
    }

    /// Counts the fields that the object at `at` would add.
    fn count_new(&self, buf: &[u8], at: usize, depth: usize, fresh: &mut usize) -> Step {
        let mut expected = 0;
        let mut name = Vec::new();
        lex::object(buf, at, depth, |buf, key, at, depth| {
            name.clear();
            key.decode(buf, &mut name, &mut Misfit::default());
            match self.find(&name, expected) {
                Some(index) => {
                    expected = index + 1;
                    self.fields[index].1.count_new(buf, at, depth, fresh)
                }
                None => {
                    *fresh += 1;
                    Kind::Null.count_new(buf, at, depth, fresh)
                }
            }
        })
    }

    fn find(&self, name: &[u8], expected: usize) -> Option<usize> {
        match self.fields.get(expected) {
            Some((next, _)) if next == name => Some(expected),
            _ => self.by_name.get(name).copied(),
        }
    }

    fn fields(&self) -> Fields {
        let field = |(name, kind): &(Vec<u8>, Kind)| {
            Field::new(String::from_utf8_lossy(name), kind.data_type(), true)
        };
        self.fields.iter().map(field).collect()
    }
}

impl Kind {
    /// Where the value at `at` ends, if it is good and teaches nothing new.
    #[inline]
    fn covers(&self, buf: &[u8], at: usize) -> Option<usize> {
        match (self, buf.get(at)?) {
            (_, b'n') => lex::word(buf, at, "null").ok(),
            (Kind::Text, b'"') => {
                let text = lex::string(buf, at).ok()?;
                let mut misfit = Misfit::default();
                text.check(buf, &mut misfit);
                misfit.is_none().then_some(text.end + 1)
            }
            (Kind::Int | Kind::BigInt | Kind::Double, b'-' | b'0'..=b'9') => {
                let number = lex::number(buf, at).ok()?;
                number.as_f64(buf)?;
                let mut seen = Kind::Null;
                seen.learn_number(&number);
                (seen.rank() <= self.rank()).then_some(number.end)
            }
            (Kind::Boolean, b't') => lex::word(buf, at, "true").ok(),
            (Kind::Boolean, b'f') => lex::word(buf, at, "false").ok(),
            _ => None,
        }
    }

    /// How wide a number is; `None` for what is none.
    fn rank(&self) -> Option<u8> {
        match self {
            Kind::Null => Some(0),
            Kind::Int => Some(1),
            Kind::BigInt => Some(2),
            Kind::Double => Some(3),
            _ => None,
        }
    }

    fn learn(&mut self, buf: &[u8], at: usize, depth: usize) -> Step {
        let mut unchecked = Misfit::default();
        match buf.get(at) {
            Some(b'n') => return lex::word(buf, at, "null"),
            Some(b'{') => {
                if matches!(self, Kind::Null) {
                    *self = Kind::Object(Object::default());
                }
                if let Kind::Object(object) = self {
                    return object.learn(buf, at, depth, None);
                }
                *self = Kind::Text;
            }
            Some(b'[') => {
                if matches!(self, Kind::Null) {
                    *self = Kind::Array(Box::default());
                }
                if let Kind::Array(items) = self {
                    return lex::array(buf, at, depth, |buf, at, depth| {
                        items.learn(buf, at, depth)
                    });
                }
                *self = Kind::Text;
            }
            Some(b't' | b'f') => {
                *self = match self {
                    Kind::Null | Kind::Boolean => Kind::Boolean,
                    _ => Kind::Text,
                };
            }
            Some(b'"') => *self = Kind::Text,
            _ => {
                let number = lex::number(buf, at)?;
                self.learn_number(&number);
                return Ok(number.end);
            }
        }
        lex::skip_value(buf, at, depth, &mut unchecked)
    }

    fn learn_number(&mut self, number: &lex::Number) {
        let value = if number.plain { number.as_i64() } else { None };
        let seen = match value {
            Some(value) if i32::try_from(value).is_ok() => Kind::Int,
            Some(_) => Kind::BigInt,
            // A fraction, an exponent, or digits beyond 64 bits.
            None => Kind::Double,
        };
        match self.rank() {
            None => *self = Kind::Text,
            known if known < seen.rank() => *self = seen,
            Some(_) => {}
        }
    }

    fn count_new(&self, buf: &[u8], at: usize, depth: usize, fresh: &mut usize) -> Step {
        match (buf.get(at), self) {
            (Some(b'{'), Kind::Object(object)) => object.count_new(buf, at, depth, fresh),
            (Some(b'{'), Kind::Null) => Object::default().count_new(buf, at, depth, fresh),
            (Some(b'['), Kind::Array(items)) => {
                lex::array(buf, at, depth, |buf, at, depth| items.count_new(buf, at, depth, fresh))
            }
            (Some(b'['), Kind::Null) => lex::array(buf, at, depth, |buf, at, depth| {
                Kind::Null.count_new(buf, at, depth, fresh)
            }),
            _ => lex::skip_value(buf, at, depth, &mut Misfit::default()),
        }
    }

    fn data_type(&self) -> DataType {
        match self {
            Kind::Null => DataType::Null,
            Kind::Boolean => DataType::Boolean,
            Kind::Int => DataType::Int32,
            Kind::BigInt => DataType::Int64,
            Kind::Double => DataType::Float64,
            Kind::Text => DataType::Utf8,
            Kind::Array(items) => hive::list_of(items.data_type()),
            Kind::Object(object) => DataType::Struct(object.fields()),
        }
    }
}
