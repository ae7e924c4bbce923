//! Functions that people bring from Athena and that DataFusion does not have, or has with
//! another meaning. docs/sql.md lists them all.
//!
//! Each is a row of a table: a name, the kinds of its arguments, the kind of its answer, and a
//! body that turns the values of one row into an answer. A null among the arguments makes a
//! null, as in Athena; a body need not know of nulls.
//!
//! Every function has a twin whose name begins with [`TRY`]: where the function fails, its twin
//! answers null. `try(...)` is made of these (`dialect`).
//!
//! Times are timestamps of milliseconds without a zone, in UTC: literals such as
//! `TIMESTAMP '2013-03-01 00:00:00'` then compare as they are.

mod bytes;
mod json;
mod maps;
mod outcome;
mod pairs;
mod reduce;
mod text;
mod time;
mod whole;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Field, Float64Type, Int64Type, TimeUnit, TimestampMillisecondType,
};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, HigherOrderUDF, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use outcome::Column;

pub(crate) use maps::all as aggregates;
pub(crate) use whole::{LAST, ORDINALS, ROUNDED, trino_type};

/// What the name of a function's twin begins with.
pub(crate) const TRY: &str = "__try_";

/// Whether the query that calls a function is wanted no more. The engine stops a query between
/// batches of rows; a function asks at each row, which may be long.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Stops the functions of a query when it goes out of scope: at its end, or when it is dropped.
#[derive(Debug)]
pub(crate) struct StopOnDrop(pub(crate) Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// All of them, for one query.
pub(crate) fn all(stop: &Stop) -> Vec<ScalarUDF> {
    let mut all = whole::all();
    for row in rows() {
        all.push(ScalarUDF::from(Function::new(row, false, stop)));
        all.push(ScalarUDF::from(Function::new(row, true, stop)));
    }
    all
}

/// Those that take functions, for one query.
pub(crate) fn higher(stop: &Stop) -> Vec<HigherOrderUDF> {
    let reduce = HigherOrderUDF::new_from_impl(reduce::Reduce::new(stop));
    pairs::all().chain([reduce]).collect()
}

/// Whether a function has a twin that answers null where it fails.
pub(crate) fn has_twin(name: &str) -> bool {
    rows().any(|row| row.name == name)
}

fn rows() -> impl Iterator<Item = &'static Row> {
    [json::ROWS, time::ROWS, text::ROWS, bytes::ROWS].into_iter().flatten()
}

/// A function.
#[derive(Debug)]
struct Row {
    name: &'static str,
    /// The kinds of its arguments; [`Kind::Optional`] stands before those that may be left out,
    /// [`Kind::More`] behind one that may be repeated.
    takes: &'static [Kind],
    gives: Gives,
    body: Body,
}

type Body = fn(&mut Memory, &[Value<'_>]) -> Outcome;

/// An answer, null, or why there is none.
type Outcome = Result<Option<Out>, String>;

const fn row(name: &'static str, takes: &'static [Kind], gives: Gives, body: Body) -> Row {
    Row { name, takes, gives, body }
}

/// What an argument must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Int,
    Double,
    /// A timestamp or a date.
    Moment,
    /// Binary, or a text's UTF-8.
    Bytes,
    /// A text, a number or a truth value.
    Scalar,
    /// What follows may be left out.
    Optional,
    /// What stands before may come again.
    More,
}

/// What a function answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gives {
    Text,
    Int,
    Double,
    Truth,
    Bytes,
    Moment,
    Date,
    /// What the argument of this number is: a date or a timestamp.
    MomentLike(usize),
    Texts,
}

/// One argument's value.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Value<'a> {
    Text(&'a str),
    Int(i64),
    Double(f64),
    Truth(bool),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    fn text(self) -> &'a str {
        if let Value::Text(text) = self { text } else { "" }
    }

    fn int(self) -> i64 {
        if let Value::Int(int) = self { int } else { 0 }
    }

    fn double(self) -> f64 {
        match self {
            Value::Double(double) => double,
            Value::Int(int) => int as f64,
            _ => f64::NAN,
        }
    }

    fn bytes(self) -> &'a [u8] {
        match self {
            Value::Bytes(bytes) => bytes,
            Value::Text(text) => text.as_bytes(),
            _ => &[],
        }
    }
}

/// An answer's value.
#[derive(Clone, Debug, PartialEq)]
enum Out {
    Text(String),
    Int(i64),
    Double(f64),
    Truth(bool),
    Bytes(Vec<u8>),
    Texts(Vec<String>),
}

/// What was made of the last pattern or path: nearly always the same literal for all rows.
#[derive(Debug, Default)]
struct Memory {
    regex: Option<(String, regex::Regex)>,
    path: Option<(String, Vec<json::Step>)>,
    pattern: Option<(String, rules::sql::TimePattern)>,
}

/// A function as DataFusion calls it.
#[derive(Debug)]
struct Function {
    name: String,
    row: &'static Row,
    /// Answers null where it fails.
    tries: bool,
    signature: Signature,
    stop: Stop,
}

impl Function {
    fn new(row: &'static Row, tries: bool, stop: &Stop) -> Self {
        let name = if tries { format!("{TRY}{}", row.name) } else { row.name.to_owned() };
        let signature = Signature::user_defined(Volatility::Immutable);
        Function { name, row, tries, signature, stop: stop.clone() }
    }
}

// A name stands for one function.
impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Function {}

impl std::hash::Hash for Function {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

const MOMENT: DataType = DataType::Timestamp(TimeUnit::Millisecond, None);

fn texts() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)))
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>, DataFusionError> {
        let name = self.row.name;
        let mut kinds = Vec::with_capacity(given.len());
        let mut least = None;
        for kind in self.row.takes {
            match kind {
                Kind::Optional => least = Some(kinds.len()),
                Kind::More => {
                    let again = kinds.last().copied().unwrap_or(Kind::Scalar);
                    least = least.or(Some(kinds.len() - 1));
                    kinds.resize(given.len().max(kinds.len()), again);
                }
                kind => kinds.push(*kind),
            }
        }
        let least = least.unwrap_or(kinds.len());
        if given.len() < least || given.len() > kinds.len() {
            let count = given.len();
            return Err(DataFusionError::Plan(format!(
                "{name} was given {count} arguments and takes {}",
                if least == kinds.len() { format!("{least}") } else { format!("{least} or more") }
            )));
        }
        let coerce = |(at, (kind, given)): (usize, (&Kind, &DataType))| {
            coerced(*kind, given, self.row.gives == Gives::MomentLike(at)).ok_or_else(|| {
                DataFusionError::Plan(format!(
                    "argument {} of {name} is {}, which must be {}",
                    at + 1,
                    trino_type(given),
                    expected(*kind)
                ))
            })
        };
        kinds.iter().zip(given).enumerate().map(coerce).collect()
    }

    fn return_type(&self, given: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(match self.row.gives {
            Gives::Text => DataType::Utf8,
            Gives::Int => DataType::Int64,
            Gives::Double => DataType::Float64,
            Gives::Truth => DataType::Boolean,
            Gives::Bytes => DataType::Binary,
            Gives::Moment => MOMENT,
            Gives::Date => DataType::Date32,
            Gives::MomentLike(at) => given.get(at).cloned().unwrap_or(MOMENT),
            Gives::Texts => texts(),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let rows = arrays.first().map_or(args.number_rows, |array| array.len());
        let mut column = Column::of(args.return_field.data_type());
        let mut memory = Memory::default();
        let mut values = Vec::with_capacity(arrays.len());
        for at in 0..rows {
            if self.stop.is_set() {
                return Err(DataFusionError::Execution("the query was stopped".into()));
            }
            values.clear();
            values.extend(arrays.iter().map_while(|array| value(array, at)));
            // A null among them.
            if values.len() < arrays.len() {
                column.push(None)?;
                continue;
            }
            match (self.row.body)(&mut memory, &values) {
                Ok(out) => column.push(out)?,
                Err(_) if self.tries => column.push(None)?,
                Err(why) => {
                    return Err(DataFusionError::Execution(format!("{}: {why}", self.row.name)));
                }
            }
        }
        let answer = column.finish();
        if constant && answer.len() == 1 {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&answer, 0)?));
        }
        Ok(ColumnarValue::Array(answer))
    }
}

fn expected(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "a varchar",
        Kind::Int => "an integer",
        Kind::Double => "a number",
        Kind::Moment => "a timestamp or a date (from_iso8601_timestamp reads a text)",
        Kind::Bytes => "a varbinary or a varchar",
        Kind::Scalar | Kind::Optional | Kind::More => "a varchar, a number or a boolean",
    }
}

/// The type that an argument of a type is turned into, if it may be one of this kind.
fn coerced(kind: Kind, given: &DataType, keep_date: bool) -> Option<DataType> {
    let is_text = matches!(given, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let is_null = *given == DataType::Null;
    match kind {
        Kind::Text => (is_text || is_null).then_some(DataType::Utf8),
        Kind::Int => (given.is_integer() || is_null).then_some(DataType::Int64),
        Kind::Double => (given.is_numeric() || is_null).then_some(DataType::Float64),
        Kind::Moment => match given {
            DataType::Date32 if keep_date => Some(DataType::Date32),
            DataType::Date32 | DataType::Date64 | DataType::Timestamp(_, _) | DataType::Null => {
                Some(MOMENT)
            }
            _ => None,
        },
        Kind::Bytes => match given {
            DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::FixedSizeBinary(_) => Some(DataType::Binary),
            _ => (is_text || is_null).then_some(DataType::Utf8),
        },
        Kind::Scalar => match given {
            DataType::Boolean => Some(DataType::Boolean),
            given if given.is_integer() => Some(DataType::Int64),
            given if given.is_numeric() => Some(DataType::Float64),
            _ => (is_text || is_null).then_some(DataType::Utf8),
        },
        Kind::Optional | Kind::More => None,
    }
}

/// The value of a row; nothing for null.
fn value(array: &ArrayRef, at: usize) -> Option<Value<'_>> {
    if array.is_null(at) {
        return None;
    }
    Some(match array.data_type() {
        DataType::Utf8 => Value::Text(array.as_string::<i32>().value(at)),
        DataType::Int64 => Value::Int(array.as_primitive::<Int64Type>().value(at)),
        DataType::Float64 => Value::Double(array.as_primitive::<Float64Type>().value(at)),
        DataType::Boolean => Value::Truth(array.as_boolean().value(at)),
        DataType::Binary => Value::Bytes(array.as_binary::<i32>().value(at)),
        DataType::Date32 => {
            Value::Int(i64::from(array.as_primitive::<Date32Type>().value(at)) * time::DAY)
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            Value::Int(array.as_primitive::<TimestampMillisecondType>().value(at))
        }
        // The planner has turned arguments into these.
        _ => return None,
    })
}
