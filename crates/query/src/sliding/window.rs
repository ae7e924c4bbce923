//! A window on its way through a column, and what is folded in it.
//!
//! Rows enter at one end and leave at the other. What has entered is folded as it comes; when rows
//! are to leave, what is in the window is folded once from its last row back, and each fold on the
//! way kept: with each row that leaves, the next of them is what the rest comes to. So every row is
//! folded twice, whatever the window's length, and nothing has to be taken out of a fold again,
//! which a minimum does not allow and rounding spoils for a sum.

use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, Int64Array, PrimitiveArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    ArrowNativeTypeOp, DataType, Float32Type, Float64Type, Int32Type, Int64Type, TimeUnit,
    TimestampMillisecondType,
};
use datafusion::common::DataFusionError;

type Result<T, E = DataFusionError> = std::result::Result<T, E>;

/// What is asked of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    Count,
    Sum,
    Mean,
    Least,
    Most,
    /// Of a sample, or of all there is.
    Variance {
        sample: bool,
    },
    Deviation {
        sample: bool,
    },
}

impl Measure {
    /// The function of this name, if it is of these types.
    pub(super) fn of(name: &str, input: &DataType, answer: &DataType) -> Option<Measure> {
        let measure = match name {
            "count" => Measure::Count,
            "sum" => Measure::Sum,
            "avg" => Measure::Mean,
            "min" => Measure::Least,
            "max" => Measure::Most,
            "var" => Measure::Variance { sample: true },
            "var_pop" => Measure::Variance { sample: false },
            "stddev" => Measure::Deviation { sample: true },
            "stddev_pop" => Measure::Deviation { sample: false },
            _ => return None,
        };
        let of_answer = if measure == Measure::Count { &DataType::Int64 } else { input };
        let known =
            of_answer == answer && measure.window(input, Span { from: None, to: 0 }).is_ok();
        known.then_some(measure)
    }

    /// A window on its way through a column of a type.
    pub(super) fn window(self, input: &DataType, span: Span) -> Result<Box<dyn Window>> {
        type Times = TimestampMillisecondType;
        const TIMES: DataType = DataType::Timestamp(TimeUnit::Millisecond, None);
        Ok(match (self, input) {
            (Measure::Count, _) => Box::new(Counts(Slider::new(span))),
            (Measure::Sum, DataType::Int64) => answers::<Int64Type, _>(span, sum),
            (Measure::Sum, DataType::Float64) => answers::<Float64Type, _>(span, sum),
            (Measure::Mean, DataType::Float64) => answers::<Float64Type, _>(span, mean),
            (Measure::Least, DataType::Int32) => answers::<Int32Type, _>(span, least),
            (Measure::Least, DataType::Int64) => answers::<Int64Type, _>(span, least),
            (Measure::Least, DataType::Float32) => answers::<Float32Type, _>(span, least),
            (Measure::Least, DataType::Float64) => answers::<Float64Type, _>(span, least),
            (Measure::Least, &TIMES) => answers::<Times, _>(span, least),
            (Measure::Most, DataType::Int32) => answers::<Int32Type, _>(span, most),
            (Measure::Most, DataType::Int64) => answers::<Int64Type, _>(span, most),
            (Measure::Most, DataType::Float32) => answers::<Float32Type, _>(span, most),
            (Measure::Most, DataType::Float64) => answers::<Float64Type, _>(span, most),
            (Measure::Most, &TIMES) => answers::<Times, _>(span, most),
            (Measure::Variance { sample: true }, DataType::Float64) => {
                answers::<Float64Type, _>(span, |it: Moments| it.variance(1))
            }
            (Measure::Variance { sample: false }, DataType::Float64) => {
                answers::<Float64Type, _>(span, |it: Moments| it.variance(0))
            }
            (Measure::Deviation { sample: true }, DataType::Float64) => {
                answers::<Float64Type, _>(span, |it: Moments| it.variance(1).map(f64::sqrt))
            }
            (Measure::Deviation { sample: false }, DataType::Float64) => {
                answers::<Float64Type, _>(span, |it: Moments| it.variance(0).map(f64::sqrt))
            }
            (measure, other) => {
                return Err(DataFusionError::Internal(format!("{measure:?} of {other}")));
            }
        })
    }
}

fn answers<T: ArrowPrimitiveType, F: Fold<T::Native> + 'static>(
    span: Span,
    answer: fn(F) -> Option<T::Native>,
) -> Box<dyn Window> {
    Box::new(Answers::<T, F> { slider: Slider::new(span), answer })
}

/// Which rows are in the window of a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// How many rows before it the first one is; all from the first on without.
    from: Option<usize>,
    /// How many rows before it the last one is.
    to: usize,
}

impl Span {
    /// None if it would end before it begins.
    pub(super) fn new(from: Option<u64>, to: u64) -> Option<Span> {
        let from = from.map(usize::try_from).transpose().ok()?;
        let to = usize::try_from(to).ok()?;
        from.is_none_or(|from| from >= to).then_some(Span { from, to })
    }

    /// Rows behind it that are asked for again.
    fn behind(self) -> usize {
        self.from.map_or(self.to, |from| from.saturating_add(1))
    }
}

/// A window on its way through a column.
pub(super) trait Window: Send {
    /// The answer for each row. At `starts` a partition begins.
    fn slide(&mut self, values: &ArrayRef, starts: &[u32]) -> Result<ArrayRef>;

    /// Bytes that are kept for later batches.
    fn bytes(&self) -> usize;
}

/// What values come to; in which order they are folded makes no difference but for rounding.
trait Fold<V>: Copy + Send {
    /// What none come to.
    const NONE: Self;

    fn with(self, value: V) -> Self;

    fn and(self, other: Self) -> Self;
}

#[derive(Clone, Copy)]
struct Count(i64);

impl<V> Fold<V> for Count {
    const NONE: Self = Count(0);

    fn with(self, _: V) -> Self {
        Count(self.0 + 1)
    }

    fn and(self, other: Self) -> Self {
        Count(self.0 + other.0)
    }
}

#[derive(Clone, Copy)]
struct Sum<V> {
    count: u64,
    sum: V,
}

impl<V: ArrowNativeTypeOp> Fold<V> for Sum<V> {
    const NONE: Self = Sum { count: 0, sum: V::ZERO };

    fn with(self, value: V) -> Self {
        Sum { count: self.count + 1, sum: self.sum.add_wrapping(value) }
    }

    fn and(self, other: Self) -> Self {
        Sum { count: self.count + other.count, sum: self.sum.add_wrapping(other.sum) }
    }
}

fn sum<V>(it: Sum<V>) -> Option<V> {
    (it.count > 0).then_some(it.sum)
}

fn mean(it: Sum<f64>) -> Option<f64> {
    sum(it).map(|sum| sum / it.count as f64)
}

/// The least or the greatest; what is no number is greater than all that are, as in a sort.
#[derive(Clone, Copy)]
struct Extreme<V, const GREATEST: bool>(Option<V>);

impl<V: ArrowNativeTypeOp, const GREATEST: bool> Fold<V> for Extreme<V, GREATEST> {
    const NONE: Self = Extreme(None);

    fn with(self, value: V) -> Self {
        let wins = if GREATEST { Ordering::Less } else { Ordering::Greater };
        match self.0 {
            Some(own) if own.compare(value) != wins => self,
            _ => Extreme(Some(value)),
        }
    }

    fn and(self, other: Self) -> Self {
        other.0.map_or(self, |value| self.with(value))
    }
}

fn least<V>(it: Extreme<V, false>) -> Option<V> {
    it.0
}

fn most<V>(it: Extreme<V, true>) -> Option<V> {
    it.0
}

/// Mean and squared distances from it, by Welford; two are put together by Chan.
#[derive(Clone, Copy)]
struct Moments {
    count: f64,
    mean: f64,
    squares: f64,
}

impl Moments {
    fn variance(self, less: u8) -> Option<f64> {
        let count = self.count - f64::from(less);
        // One value is no way off itself, though it be infinite.
        let squares = if self.count > 1.0 { self.squares } else { 0.0 };
        (count > 0.0).then(|| squares / count)
    }
}

impl Fold<f64> for Moments {
    const NONE: Self = Moments { count: 0.0, mean: 0.0, squares: 0.0 };

    fn with(self, value: f64) -> Self {
        let count = self.count + 1.0;
        let away = value - self.mean;
        let mean = self.mean + away / count;
        Moments { count, mean, squares: self.squares + away * (value - mean) }
    }

    fn and(self, other: Self) -> Self {
        if self.count == 0.0 {
            return other;
        }
        if other.count == 0.0 {
            return self;
        }
        let count = self.count + other.count;
        let away = other.mean - self.mean;
        let share = other.count / count;
        Moments {
            count,
            mean: self.mean + away * share,
            squares: self.squares + other.squares + away * away * self.count * share,
        }
    }
}

/// Of what is counted the nulls alone matter, and it may be of any type.
struct Counts(Slider<(), Count>);

impl Window for Counts {
    fn slide(&mut self, values: &ArrayRef, starts: &[u32]) -> Result<ArrayRef> {
        let nulls = values.logical_nulls();
        let mut counts = Vec::with_capacity(values.len());
        let value = |row| nulls.as_ref().is_none_or(|nulls| nulls.is_valid(row)).then_some(());
        self.0.slide(value, values.len(), starts, |Count(count)| counts.push(count));
        Ok(Arc::new(Int64Array::from(counts)))
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

struct Answers<T: ArrowPrimitiveType, F> {
    slider: Slider<T::Native, F>,
    answer: fn(F) -> Option<T::Native>,
}

impl<T: ArrowPrimitiveType, F: Fold<T::Native>> Window for Answers<T, F> {
    fn slide(&mut self, values: &ArrayRef, starts: &[u32]) -> Result<ArrayRef> {
        let values = values.as_primitive_opt::<T>().ok_or_else(|| {
            DataFusionError::Internal(format!(
                "{} in a window of {}",
                values.data_type(),
                T::DATA_TYPE
            ))
        })?;
        let nulls = values.nulls().filter(|nulls| nulls.null_count() > 0);
        let numbers = values.values();
        let mut answers = Vec::with_capacity(values.len());
        let mut present = Vec::with_capacity(values.len());
        let answer = self.answer;
        let tell = |fold| {
            let answer = answer(fold);
            present.push(answer.is_some());
            // Of nothing there is none; what stands there instead is not seen.
            answers.push(answer.unwrap_or_default());
        };
        match nulls {
            None => self.slider.slide(|row| Some(numbers[row]), values.len(), starts, tell),
            Some(nulls) => {
                let value = |row| nulls.is_valid(row).then(|| numbers[row]);
                self.slider.slide(value, values.len(), starts, tell);
            }
        }
        let nulls = NullBuffer::from(present);
        let nulls = (nulls.null_count() > 0).then_some(nulls);
        Ok(Arc::new(PrimitiveArray::<T>::new(answers.into(), nulls)))
    }

    fn bytes(&self) -> usize {
        self.slider.bytes()
    }
}

/// A window within the rows of a partition.
struct Slider<V, F> {
    span: Span,
    /// What rows come to that have entered since the window was last folded back.
    entered: F,
    /// What the window's other rows come to, from each of them on; the first row's is the last.
    leaving: Vec<F>,
    /// Rows of the partition in earlier batches.
    seen: usize,
    /// The last of them that are asked for again.
    past: Vec<Option<V>>,
}

impl<V: Copy, F: Fold<V>> Slider<V, F> {
    fn new(span: Span) -> Self {
        Slider { span, entered: F::NONE, leaving: Vec::new(), seen: 0, past: Vec::new() }
    }

    fn bytes(&self) -> usize {
        self.past.capacity() * size_of::<Option<V>>() + self.leaving.capacity() * size_of::<F>()
    }

    /// Tells of each row what its window comes to.
    fn slide(
        &mut self,
        value: impl Fn(usize) -> Option<V>,
        rows: usize,
        starts: &[u32],
        mut tell: impl FnMut(F),
    ) {
        let starts = || starts.iter().map(|start| *start as usize);
        // What comes before the first start goes on with the batch before.
        let mut last = 0..starts().next().unwrap_or(rows);
        self.partition(&value, last.clone(), &mut tell);
        for (start, end) in starts().zip(starts().skip(1).chain([rows])) {
            self.entered = F::NONE;
            self.leaving.clear();
            self.past.clear();
            self.seen = 0;
            last = start..end;
            self.partition(&value, last.clone(), &mut tell);
        }
        self.keep(&value, last);
    }

    fn partition(
        &mut self,
        value: &impl Fn(usize) -> Option<V>,
        rows: Range<usize>,
        tell: &mut impl FnMut(F),
    ) {
        let (seen, first) = (self.seen, rows.start);
        for at in seen..seen + rows.len() {
            if let Some(entering) = at.checked_sub(self.span.to)
                && let Some(number) = self.earlier(entering, first, value)
            {
                self.entered = self.entered.with(number);
            }
            if let Some(from) = self.span.from
                && let Some(leaving) = at.checked_sub(from).and_then(|at| at.checked_sub(1))
                && self.leaving.pop().is_none()
            {
                self.fold_back(leaving + 1, at - self.span.to, first, value);
            }
            let rest = self.leaving.last().copied();
            tell(rest.map_or(self.entered, |rest| rest.and(self.entered)));
        }
    }

    /// Folds the rows of the window from its last back to its first.
    #[inline(never)]
    fn fold_back(
        &mut self,
        from: usize,
        to: usize,
        first: usize,
        value: &impl Fn(usize) -> Option<V>,
    ) {
        let mut fold = F::NONE;
        for at in (from..=to).rev() {
            if let Some(number) = self.earlier(at, first, value) {
                fold = fold.with(number);
            }
            self.leaving.push(fold);
        }
        self.entered = F::NONE;
    }

    /// The value at a place of the partition, whose row `self.seen` is the batch's row `first`.
    #[inline]
    fn earlier(&self, at: usize, first: usize, value: &impl Fn(usize) -> Option<V>) -> Option<V> {
        match at.checked_sub(self.seen) {
            Some(row) => value(first + row),
            None => self.past[self.past.len() - (self.seen - at)],
        }
    }

    /// Keeps what later batches ask for of the partition that may go on there.
    fn keep(&mut self, value: &impl Fn(usize) -> Option<V>, rows: Range<usize>) {
        let behind = self.span.behind();
        self.seen += rows.len();
        let new = rows.len().min(behind);
        let old = self.past.len().saturating_sub(behind - new);
        self.past.drain(..old);
        self.past.extend((rows.end - new..rows.end).map(value));
    }
}
