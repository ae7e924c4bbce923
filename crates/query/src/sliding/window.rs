//! A window over a column, and what is added up in it.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, Int64Array, PrimitiveArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{ArrowNativeTypeOp, DataType, Float64Type, Int64Type};
use datafusion::common::DataFusionError;
use datafusion::logical_expr::ColumnarValue;

type Result<T, E = DataFusionError> = std::result::Result<T, E>;

/// What is asked of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    Count,
    Sum,
    Mean,
}

impl Measure {
    /// The function of this name, if it is of these types.
    pub(super) fn of(name: &str, input: &DataType, answer: &DataType) -> Option<Measure> {
        match (name, input, answer) {
            ("count", _, DataType::Int64) => Some(Measure::Count),
            ("sum", DataType::Int64 | DataType::Float64, _) if input == answer => {
                Some(Measure::Sum)
            }
            ("avg", DataType::Float64, DataType::Float64) => Some(Measure::Mean),
            _ => None,
        }
    }
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
pub(super) enum Window {
    Count(Sums<Int64Type>),
    Whole(Sums<Int64Type>),
    Real(Sums<Float64Type>),
    Mean(Sums<Float64Type>),
    /// Of a type that is known with the first batch.
    Sum(Span),
}

impl Window {
    pub(super) fn new(measure: Measure, span: Span) -> Window {
        match measure {
            Measure::Count => Window::Count(Sums::new(span)),
            Measure::Mean => Window::Mean(Sums::new(span)),
            Measure::Sum => Window::Sum(span),
        }
    }

    /// Bytes that are kept for later batches.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Window::Count(sums) | Window::Whole(sums) => sums.bytes(),
            Window::Real(sums) | Window::Mean(sums) => sums.bytes(),
            Window::Sum(_) => 0,
        }
    }

    /// The answer for each row. At `starts` a partition begins.
    pub(super) fn slide(
        &mut self,
        argument: &ColumnarValue,
        starts: &[u32],
        rows: usize,
    ) -> Result<ArrayRef> {
        if let Window::Sum(span) = *self {
            *self = match argument.data_type() {
                DataType::Int64 => Window::Whole(Sums::new(span)),
                DataType::Float64 => Window::Real(Sums::new(span)),
                other => return Err(DataFusionError::Internal(format!("a sum of {other}"))),
            };
        }
        let values = argument.to_array(rows)?;
        let column = |nulls| Column { nulls, starts, rows };
        Ok(match self {
            Window::Count(sums) => {
                // What is counted may be of any type: it is the nulls that matter.
                let column = column(values.logical_nulls());
                let mut counts = Vec::with_capacity(rows);
                sums.slide(&vec![0; rows], column, |count, _| counts.push(count as i64));
                Arc::new(Int64Array::from(counts))
            }
            Window::Whole(sums) => Arc::new(sums.answers(&values, &column, |sum, _| sum)),
            Window::Real(sums) => Arc::new(sums.answers(&values, &column, |sum, _| sum)),
            Window::Mean(sums) => {
                Arc::new(sums.answers(&values, &column, |sum, count| sum / count as f64))
            }
            Window::Sum(_) => return Err(DataFusionError::Internal("a sum of nothing".into())),
        })
    }
}

/// What there is to know of a column beside its numbers.
struct Column<'a> {
    nulls: Option<NullBuffer>,
    starts: &'a [u32],
    rows: usize,
}

/// What the rows in a window come to.
pub(super) struct Sums<T: ArrowPrimitiveType> {
    span: Span,
    sum: T::Native,
    count: u64,
    /// Rows of the partition in earlier batches.
    seen: usize,
    /// The last of them that are asked for again.
    past: Vec<Option<T::Native>>,
}

impl<T: ArrowPrimitiveType> Sums<T>
where
    T::Native: ArrowNativeTypeOp,
{
    fn new(span: Span) -> Self {
        Sums { span, sum: T::Native::ZERO, count: 0, seen: 0, past: Vec::new() }
    }

    fn bytes(&self) -> usize {
        self.past.capacity() * size_of::<Option<T::Native>>()
    }

    fn answers<'a>(
        &mut self,
        values: &ArrayRef,
        column: &dyn Fn(Option<NullBuffer>) -> Column<'a>,
        answer: fn(T::Native, u64) -> T::Native,
    ) -> PrimitiveArray<T> {
        let values = values.as_primitive::<T>();
        let nulls = values.nulls().filter(|nulls| nulls.null_count() > 0).cloned();
        let mut answers = Vec::with_capacity(values.len());
        let mut present = Vec::with_capacity(values.len());
        self.slide(values.values(), column(nulls), |count, sum| {
            present.push(count > 0);
            // Of nothing there is none; what stands there instead is not seen.
            answers.push(if count > 0 { answer(sum, count) } else { T::Native::ZERO });
        });
        let nulls = NullBuffer::from(present);
        let nulls = (nulls.null_count() > 0).then_some(nulls);
        PrimitiveArray::new(answers.into(), nulls)
    }

    /// Tells of each row how many values are in its window, and what they come to.
    fn slide(
        &mut self,
        values: &[T::Native],
        column: Column<'_>,
        mut tell: impl FnMut(u64, T::Native),
    ) {
        let Column { nulls, starts, rows } = column;
        let starts = || starts.iter().map(|start| *start as usize);
        let value = |row: usize| match &nulls {
            Some(nulls) if nulls.is_null(row) => None,
            _ => Some(values[row]),
        };
        // What comes before the first start goes on with the batch before.
        let mut last = 0..starts().next().unwrap_or(rows);
        self.partition(&value, last.clone(), &mut tell);
        for (start, end) in starts().zip(starts().skip(1).chain([rows])) {
            *self = Sums::new(self.span);
            last = start..end;
            self.partition(&value, last.clone(), &mut tell);
        }
        self.keep(&value, last);
    }

    fn partition(
        &mut self,
        value: &impl Fn(usize) -> Option<T::Native>,
        rows: Range<usize>,
        tell: &mut impl FnMut(u64, T::Native),
    ) {
        let (seen, first) = (self.seen, rows.start);
        for at in seen..seen + rows.len() {
            if let Some(entering) = at.checked_sub(self.span.to)
                && let Some(number) = self.earlier(entering, first, value)
            {
                self.count += 1;
                self.sum = self.sum.add_wrapping(number);
            }
            // What enters is added first, as DataFusion does, which rounding makes a difference of.
            if let Some(from) = self.span.from
                && let Some(leaving) = at.checked_sub(from).and_then(|at| at.checked_sub(1))
                && let Some(number) = self.earlier(leaving, first, value)
            {
                self.count -= 1;
                self.sum = self.sum.sub_wrapping(number);
            }
            tell(self.count, self.sum);
        }
    }

    /// The value at a place of the partition, whose row `self.seen` is the batch's row `first`.
    #[inline]
    fn earlier(
        &self,
        at: usize,
        first: usize,
        value: &impl Fn(usize) -> Option<T::Native>,
    ) -> Option<T::Native> {
        match at.checked_sub(self.seen) {
            Some(row) => value(first + row),
            None => self.past[self.past.len() - (self.seen - at)],
        }
    }

    /// Keeps what later batches ask for of the partition that may go on there.
    fn keep(&mut self, value: &impl Fn(usize) -> Option<T::Native>, rows: Range<usize>) {
        let behind = self.span.behind();
        self.seen += rows.len();
        let new = rows.len().min(behind);
        let old = self.past.len().saturating_sub(behind - new);
        self.past.drain(..old);
        self.past.extend((rows.end - new..rows.end).map(value));
    }
}
