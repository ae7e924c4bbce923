//! Functions of values of any type: of arrays and maps, and of types themselves.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, Int64Builder, ListBuilder};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type, Int64Type, TimeUnit};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// Elements of a sequence at most, Athena's own bound.
const SEQUENCE_MAX: u64 = 10_000;

/// The numbers 1 to the length of an array: what `WITH ORDINALITY` adds.
pub(crate) const ORDINALS: &str = "__ordinals";

/// A number without its fraction, as Athena casts to integers; anything else as it is.
pub(crate) const ROUNDED: &str = "__rounded";

/// The last of its arguments. The others are there to be named: of a lambda, DataFusion looks for
/// parameters at the wrong place if one before them is not.
pub(crate) const LAST: &str = "__last";

pub(super) fn all() -> Vec<ScalarUDF> {
    [Which::TypeOf, Which::ElementAt, Which::Ordinals, Which::Sequence, Which::Rounded, Which::Last]
        .map(|which| {
            let signature = Signature::user_defined(Volatility::Immutable);
            ScalarUDF::from(Whole { which, signature })
        })
        .to_vec()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Which {
    TypeOf,
    ElementAt,
    Ordinals,
    Sequence,
    Rounded,
    Last,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Whole {
    which: Which,
    signature: Signature,
}

fn item(data_type: &DataType) -> Option<&DataType> {
    match data_type {
        DataType::List(item) => Some(item.data_type()),
        _ => None,
    }
}

/// The key and the value of a map.
fn entry(data_type: &DataType) -> Option<(&DataType, &DataType)> {
    let DataType::Map(entries, _) = data_type else { return None };
    match entries.data_type() {
        DataType::Struct(fields) => Some((fields.first()?.data_type(), fields.get(1)?.data_type())),
        _ => None,
    }
}

fn plan(text: String) -> DataFusionError {
    DataFusionError::Plan(text)
}

impl ScalarUDFImpl for Whole {
    fn name(&self) -> &str {
        match self.which {
            Which::TypeOf => "typeof",
            Which::ElementAt => "element_at",
            Which::Ordinals => ORDINALS,
            Which::Sequence => "sequence",
            Which::Rounded => ROUNDED,
            Which::Last => LAST,
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>, DataFusionError> {
        match (self.which, given) {
            (Which::TypeOf | Which::Rounded, [one]) => Ok(vec![one.clone()]),
            (Which::Last, [_, ..]) => Ok(given.to_vec()),
            (Which::ElementAt, [of, at]) => match (plain_list(of), entry(of)) {
                (Some(list), _) if at.is_integer() => Ok(vec![list, DataType::Int64]),
                (_, Some((key, _))) => Ok(vec![of.clone(), key.clone()]),
                _ => Err(plan(format!(
                    "element_at takes an array and an index, or a map and a key, and not {} and {}",
                    trino_type(of),
                    trino_type(at)
                ))),
            },
            (Which::Ordinals, [of]) => plain_list(of)
                .map(|list| vec![list])
                .ok_or_else(|| plan(format!("UNNEST of {}; it takes an array", trino_type(of)))),
            (Which::Sequence, given)
                if matches!(given.len(), 2 | 3) && given.iter().all(DataType::is_integer) =>
            {
                Ok(vec![DataType::Int64; given.len()])
            }
            (Which::Sequence, _) => Err(plan(
                "sequence takes a first and a last integer, and perhaps a step; for dates unnest \
                 sequence(0, n) and use date_add"
                    .into(),
            )),
            (_, given) => Err(plan(format!("{} was given {} arguments", self.name(), given.len()))),
        }
    }

    fn return_type(&self, given: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(match self.which {
            Which::TypeOf => DataType::Utf8,
            Which::Last => given.last().cloned().unwrap_or(DataType::Null),
            Which::Rounded => given.first().cloned().unwrap_or(DataType::Null),
            Which::ElementAt => {
                let of = given.first().unwrap_or(&DataType::Null);
                let value = item(of).or_else(|| entry(of).map(|(_, value)| value));
                value.cloned().unwrap_or(DataType::Null)
            }
            Which::Ordinals | Which::Sequence => {
                DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true)))
            }
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        if self.which == Which::TypeOf {
            let name = args.arg_fields.first().map(|field| trino_type(field.data_type()));
            return Ok(ColumnarValue::Scalar(ScalarValue::Utf8(name)));
        }
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let answer = match (self.which, arrays.as_slice()) {
            (Which::ElementAt, [of, at]) => element_at(of, at)?,
            (Which::Rounded, [of]) => rounded(of),
            (Which::Last, [.., last]) => Arc::clone(last),
            (Which::Ordinals, [of]) => ordinals(of),
            (_, numbers) => sequence(numbers)?,
        };
        if constant && answer.len() == 1 {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&answer, 0)?));
        }
        Ok(ColumnarValue::Array(answer))
    }
}

/// A list as our functions read it.
fn plain_list(of: &DataType) -> Option<DataType> {
    match of {
        DataType::List(_) => Some(of.clone()),
        DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            Some(DataType::List(Arc::clone(item)))
        }
        _ => None,
    }
}

/// Null where there is none. A negative index counts from the end.
fn element_at(of: &ArrayRef, at: &ArrayRef) -> Result<ArrayRef, DataFusionError> {
    let mut places: Vec<Option<u64>> = Vec::with_capacity(of.len());
    if let Some(lists) = of.as_list_opt::<i32>() {
        let indices = at.as_primitive::<Int64Type>();
        for row in 0..lists.len() {
            if lists.is_null(row) || indices.is_null(row) {
                places.push(None);
                continue;
            }
            let (start, end) = (lists.value_offsets()[row], lists.value_offsets()[row + 1]);
            let (index, count) = (indices.value(row), i64::from(end - start));
            let place = match index {
                0 => {
                    return Err(DataFusionError::Execution(
                        "element_at: the index is 0; elements are counted from 1".into(),
                    ));
                }
                index if index > 0 => index - 1,
                index => count + index,
            };
            let inside = (0..count).contains(&place);
            places.push(inside.then(|| (i64::from(start) + place) as u64));
        }
        return Ok(take(lists.values(), &arrow::array::UInt64Array::from(places), None)?);
    }
    let maps = of.as_map();
    let keys = ArrayRef::clone(maps.keys());
    for row in 0..maps.len() {
        let (start, end) = (maps.value_offsets()[row], maps.value_offsets()[row + 1]);
        let wanted = ScalarValue::try_from_array(at, row)?;
        let mut found = None;
        if !maps.is_null(row) && !wanted.is_null() {
            for place in start..end {
                if ScalarValue::try_from_array(&keys, place as usize)? == wanted {
                    found = Some(place as u64);
                    break;
                }
            }
        }
        places.push(found);
    }
    Ok(take(maps.values(), &arrow::array::UInt64Array::from(places), None)?)
}

/// Half away from zero.
fn rounded(of: &ArrayRef) -> ArrayRef {
    match of.data_type() {
        DataType::Float64 => {
            Arc::new(of.as_primitive::<Float64Type>().unary::<_, Float64Type>(f64::round))
        }
        DataType::Float32 => {
            Arc::new(of.as_primitive::<Float32Type>().unary::<_, Float32Type>(f32::round))
        }
        _ => Arc::clone(of),
    }
}

fn ordinals(of: &ArrayRef) -> ArrayRef {
    let lists = of.as_list::<i32>();
    let mut out = ListBuilder::new(Int64Builder::new());
    for row in 0..lists.len() {
        if lists.is_valid(row) {
            (1..=i64::from(lists.value_length(row))).for_each(|n| out.values().append_value(n));
        }
        out.append(lists.is_valid(row));
    }
    Arc::new(out.finish())
}

fn sequence(numbers: &[ArrayRef]) -> Result<ArrayRef, DataFusionError> {
    let columns: Vec<&Int64Array> =
        numbers.iter().map(|column| column.as_primitive::<Int64Type>()).collect();
    let fail = |why: String| Err(DataFusionError::Execution(format!("sequence: {why}")));
    let mut out = ListBuilder::new(Int64Builder::new());
    for row in 0..numbers.first().map_or(0, |column| column.len()) {
        if columns.iter().any(|column| column.is_null(row)) {
            out.append(false);
            continue;
        }
        let (first, last) = (columns[0].value(row), columns[1].value(row));
        let step = match columns.get(2) {
            Some(column) => column.value(row),
            None if first > last => -1,
            None => 1,
        };
        if step == 0 || (step > 0) != (last >= first) && first != last {
            return fail(format!("from {first} to {last} by {step} never ends"));
        }
        if first.abs_diff(last) / step.unsigned_abs() >= SEQUENCE_MAX {
            return fail(format!("it must not have more than {SEQUENCE_MAX} entries"));
        }
        let count = first.abs_diff(last) / step.unsigned_abs();
        (0..=count as i64).for_each(|n| out.values().append_value(first + n * step));
        out.append(true);
    }
    Ok(Arc::new(out.finish()))
}

/// What Athena calls a type.
pub(crate) fn trino_type(data_type: &DataType) -> String {
    match data_type {
        DataType::Null => "unknown".into(),
        DataType::Boolean => "boolean".into(),
        DataType::Int8 => "tinyint".into(),
        DataType::Int16 | DataType::UInt8 => "smallint".into(),
        DataType::Int32 | DataType::UInt16 => "integer".into(),
        DataType::Int64 | DataType::UInt32 | DataType::UInt64 => "bigint".into(),
        DataType::Float16 | DataType::Float32 => "real".into(),
        DataType::Float64 => "double".into(),
        DataType::Date32 | DataType::Date64 => "date".into(),
        DataType::Time32(_) | DataType::Time64(_) => "time".into(),
        DataType::Timestamp(unit, zone) => {
            let digits = match unit {
                TimeUnit::Second => 0,
                TimeUnit::Millisecond => 3,
                TimeUnit::Microsecond => 6,
                TimeUnit::Nanosecond => 9,
            };
            let zone = if zone.is_some() { " with time zone" } else { "" };
            format!("timestamp({digits}){zone}")
        }
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => format!("decimal({precision},{scale})"),
        DataType::Interval(_) | DataType::Duration(_) => "interval".into(),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "varbinary".into(),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            format!("array({})", trino_type(item.data_type()))
        }
        DataType::Struct(fields) => {
            let field =
                |field: &Arc<Field>| format!("{} {}", field.name(), trino_type(field.data_type()));
            format!("row({})", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        DataType::Dictionary(_, value) => trino_type(value),
        other => match entry(other) {
            Some((key, value)) => format!("map({}, {})", trino_type(key), trino_type(value)),
            None => "varchar".into(),
        },
    }
}
