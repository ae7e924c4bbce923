//! What the runs of a column come to, as the states that DataFusion's own functions merge.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Int64Array, PrimitiveArray, UInt64Array,
};
use arrow::datatypes::{
    ArrowNativeTypeOp, DataType, Date32Type, Date64Type, Float32Type, Float64Type, Int8Type,
    Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use datafusion::common::DataFusionError;
use datafusion::logical_expr::ColumnarValue;

type Result<T, E = DataFusionError> = std::result::Result<T, E>;

/// Sums that are carried on side by side, since one after the other they wait for each other.
const LANES: usize = 8;

/// A function that can be added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    Count,
    Sum,
    /// A count and a sum.
    Mean,
    Least,
    Most,
}

impl Measure {
    /// The function of this name and of columns of this type, if its states are those we make.
    pub(super) fn of(name: &str, input: &DataType, states: &[&DataType]) -> Option<Measure> {
        let adds = matches!(input, DataType::Int64 | DataType::Float64);
        match (name, states) {
            ("count", [DataType::Int64]) => Some(Measure::Count),
            ("sum", [sum]) if adds && *sum == input => Some(Measure::Sum),
            ("avg", [DataType::UInt64, DataType::Float64]) if *input == DataType::Float64 => {
                Some(Measure::Mean)
            }
            ("min", [least]) if *least == input && is_ordered(input) => Some(Measure::Least),
            ("max", [most]) if *most == input && is_ordered(input) => Some(Measure::Most),
            _ => None,
        }
    }

    /// Adds the states of the runs that begin at `starts`, one row each.
    pub(super) fn add_up(
        self,
        argument: &ColumnarValue,
        starts: &[u32],
        rows: usize,
        states: &mut Vec<ArrayRef>,
    ) -> Result<()> {
        let runs = Runs { starts, rows };
        if self == Measure::Count {
            states.push(Arc::new(count(argument, runs)?));
            return Ok(());
        }
        let values = argument.to_array(rows)?;
        match (self, values.data_type()) {
            (Measure::Sum, DataType::Int64) => {
                states.push(Arc::new(sum::<Int64Type>(values.as_primitive(), runs)));
            }
            (Measure::Sum, DataType::Float64) => {
                states.push(Arc::new(sum::<Float64Type>(values.as_primitive(), runs)));
            }
            (Measure::Mean, DataType::Float64) => {
                let sums = sum::<Float64Type>(values.as_primitive(), runs);
                let counts = counts_of(&values, runs).map(|count| count as u64);
                // Of nothing there is no count, as there is no sum.
                let counts = UInt64Array::new(counts.collect(), sums.nulls().cloned());
                states.extend([Arc::new(counts) as ArrayRef, Arc::new(sums)]);
            }
            (Measure::Least | Measure::Most, _) => {
                states.push(extreme(&values, runs, self == Measure::Most)?);
            }
            (_, other) => {
                return Err(DataFusionError::Internal(format!("{self:?} of {other}")));
            }
        }
        Ok(())
    }
}

#[derive(Clone, Copy)]
struct Runs<'a> {
    starts: &'a [u32],
    rows: usize,
}

impl<'a> Runs<'a> {
    fn ranges(self) -> impl Iterator<Item = (usize, usize)> + 'a {
        let ends = self.starts.iter().skip(1).map(|start| *start as usize);
        let ends = ends.chain(std::iter::once(self.rows));
        self.starts.iter().map(|start| *start as usize).zip(ends)
    }
}

fn counts_of<'a>(values: &'a ArrayRef, runs: Runs<'a>) -> impl Iterator<Item = usize> + 'a {
    let nulls = values.logical_nulls().filter(|nulls| nulls.null_count() > 0);
    runs.ranges().map(move |(from, to)| match &nulls {
        None => to - from,
        Some(nulls) => to - from - nulls.slice(from, to - from).null_count(),
    })
}

fn count(argument: &ColumnarValue, runs: Runs<'_>) -> Result<Int64Array> {
    let counts = match argument {
        ColumnarValue::Scalar(value) => {
            let each = usize::from(!value.is_null());
            runs.ranges().map(|(from, to)| ((to - from) * each) as i64).collect::<Vec<_>>()
        }
        ColumnarValue::Array(values) => counts_of(values, runs).map(|count| count as i64).collect(),
    };
    Ok(Int64Array::from(counts))
}

fn sum<T>(values: &PrimitiveArray<T>, runs: Runs<'_>) -> PrimitiveArray<T>
where
    T: ArrowPrimitiveType,
    T::Native: ArrowNativeTypeOp,
{
    let numbers = values.values();
    if values.null_count() == 0 {
        let sums = runs.ranges().map(|(from, to)| sum_of(&numbers[from..to]));
        return PrimitiveArray::from_iter_values(sums);
    }
    let sums = runs.ranges().map(|(from, to)| {
        let valid = (from..to).filter(|row| values.is_valid(*row));
        valid.map(|row| numbers[row]).reduce(ArrowNativeTypeOp::add_wrapping)
    });
    sums.collect()
}

fn sum_of<N: ArrowNativeTypeOp>(numbers: &[N]) -> N {
    let mut lanes = [N::ZERO; LANES];
    let (chunks, rest) = numbers.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, number) in lanes.iter_mut().zip(chunk) {
            *lane = lane.add_wrapping(*number);
        }
    }
    lanes.iter().chain(rest).fold(N::ZERO, |sum, number| sum.add_wrapping(*number))
}

/// Calls a function with a type of numbers that stands for the data type.
macro_rules! of_type {
    ($data_type:expr, $call:ident, ($($argument:expr),*), $other:expr) => {
        match $data_type {
            DataType::Int8 => $call::<Int8Type>($($argument),*),
            DataType::Int16 => $call::<Int16Type>($($argument),*),
            DataType::Int32 => $call::<Int32Type>($($argument),*),
            DataType::Int64 => $call::<Int64Type>($($argument),*),
            DataType::Float32 => $call::<Float32Type>($($argument),*),
            DataType::Float64 => $call::<Float64Type>($($argument),*),
            DataType::Date32 => $call::<Date32Type>($($argument),*),
            DataType::Date64 => $call::<Date64Type>($($argument),*),
            DataType::Timestamp(TimeUnit::Second, _) => {
                $call::<TimestampSecondType>($($argument),*)
            }
            DataType::Timestamp(TimeUnit::Millisecond, _) => {
                $call::<TimestampMillisecondType>($($argument),*)
            }
            DataType::Timestamp(TimeUnit::Microsecond, _) => {
                $call::<TimestampMicrosecondType>($($argument),*)
            }
            DataType::Timestamp(TimeUnit::Nanosecond, _) => {
                $call::<TimestampNanosecondType>($($argument),*)
            }
            _ => $other,
        }
    };
}

fn is_ordered(data_type: &DataType) -> bool {
    fn native<T: ArrowPrimitiveType>() -> Option<DataType> {
        Some(T::DATA_TYPE)
    }
    of_type!(data_type, native, (), None).is_some()
}

fn extreme(values: &ArrayRef, runs: Runs<'_>, most: bool) -> Result<ArrayRef> {
    let other = values.data_type();
    let unknown = || DataFusionError::Internal(format!("the least or most of {other}"));
    of_type!(values.data_type(), extreme_of, (values, runs, most), Err(unknown()))
}

fn extreme_of<T: ArrowPrimitiveType>(
    values: &ArrayRef,
    runs: Runs<'_>,
    most: bool,
) -> Result<ArrayRef>
where
    T::Native: PartialOrd,
{
    let array = values.as_primitive::<T>();
    let found: PrimitiveArray<T> = match most {
        true => runs.ranges().map(|run| reduce(array, run, Ordering::Greater)).collect(),
        false => runs.ranges().map(|run| reduce(array, run, Ordering::Less)).collect(),
    };
    Ok(Arc::new(found.with_data_type(values.data_type().clone())))
}

/// The value that no other takes the place of. What cannot be compared does, as in DataFusion's.
fn reduce<T: ArrowPrimitiveType>(
    array: &PrimitiveArray<T>,
    (from, to): (usize, usize),
    wanted: Ordering,
) -> Option<T::Native>
where
    T::Native: PartialOrd,
{
    let numbers = &array.values()[from..to];
    let pick = |held: T::Native, new: T::Native| {
        if new.partial_cmp(&held).is_none_or(|order| order == wanted) { new } else { held }
    };
    if array.null_count() == 0 {
        return numbers.iter().copied().reduce(pick);
    }
    let valid = (from..to).filter(|row| array.is_valid(*row));
    valid.map(|row| array.value(row)).reduce(pick)
}
