//! Marks: a boolean column that says whether a row is suspect, and a text column that says why.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, RecordBatch, StringArray,
};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef};
use base::{Error, Result};
use datafusion::dataframe::DataFrame;
use lake::{OutlierMethod, Range};

use super::lower::Graph;
use super::series::{
    KeyRows, Keys, and, arrow, checked, places, schema_of, with_columns, without_row,
};
use crate::operator::{Input, Operator, Step};

/// Makes a median absolute deviation the standard deviation of values that are normal.
const NORMAL: f64 = 1.4826;

/// A distance of which nothing is left of the unit it is measured in.
const NONE: f64 = 1e-12;

/// Rows that are judged at a time, beside those their windows reach.
const ROWS: usize = 8192;

/// How outliers are judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Judge {
    pub(super) method: OutlierMethod,
    pub(super) window: usize,
    pub(super) threshold: f64,
}

fn marked(schema: &Schema, mark: &str, reason: &str) -> Result<SchemaRef> {
    for new in [mark, reason] {
        if schema.fields().iter().any(|field| field.name() == new) {
            return Err(Error::invalid(format!("there is a column {new:?} already")));
        }
    }
    let mark = Field::new(mark, DataType::Boolean, true);
    Ok(and(schema, [mark, Field::new(reason, DataType::Utf8, true)]))
}

fn number_place(rows: &DataFrame, name: &str) -> Result<usize> {
    let place = places(rows, &[name.to_owned()])?[0];
    let kind = rows.schema().field(place).data_type();
    match kind.is_numeric() {
        true => Ok(place),
        false => Err(Error::invalid(format!("column {name:?} is {kind} and no number"))),
    }
}

fn numbers(array: &ArrayRef) -> Result<Float64Array> {
    Ok(cast(array, &DataType::Float64).map_err(arrow)?.as_primitive::<Float64Type>().clone())
}

impl Graph<'_> {
    pub(super) fn mark_range(
        &self,
        rows: DataFrame,
        ranges: &[Range],
        (mark, reason): (&str, &str),
    ) -> Result<DataFrame> {
        let schema = marked(&schema_of(&rows), mark, reason)?;
        let ranges: Result<Vec<(usize, Range)>> = ranges
            .iter()
            .map(|range| Ok((number_place(&rows, &range.column)?, range.clone())))
            .collect();
        let (of, ranges) = (Arc::clone(&schema), ranges?);
        let input = Input { plan: rows.into_parts().1, sorted_by: Vec::new() };
        self.table(Operator::step("MarkRange", input, schema, move || MarkRange {
            schema: Arc::clone(&of),
            ranges: ranges.clone(),
        }))
    }

    pub(super) fn mark_outliers(
        &self,
        rows: DataFrame,
        (by, time): (&[String], &str),
        column: &str,
        judge: Judge,
        (mark, reason): (&str, &str),
    ) -> Result<DataFrame> {
        let before = schema_of(&rows);
        let schema = marked(&before, mark, reason)?;
        let place = number_place(&rows, column)?;
        let device = places(&rows, by)?;
        Keys::new(&before, device.clone())?;
        let input = self.by_time(rows, by, time)?;
        let (of, name) = (Arc::clone(&schema), column.to_owned());
        self.table(Operator::step("MarkOutliers", input, schema, move || MarkOutliers {
            schema: Arc::clone(&of),
            keys: Keys::new(&before, device.clone()),
            place,
            name: name.clone(),
            judge,
            held: None,
            judged: 0,
        }))
    }
}

struct MarkRange {
    schema: SchemaRef,
    ranges: Vec<(usize, Range)>,
}

impl Step for MarkRange {
    fn batch(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>> {
        let mut reasons: Vec<Option<String>> = vec![None; batch.num_rows()];
        for (place, range) in &self.ranges {
            let values = numbers(batch.column(*place))?;
            for (row, reason) in reasons.iter_mut().enumerate() {
                if values.is_null(row) {
                    continue;
                }
                if let Some(why) = outside(values.value(row), range) {
                    *reason = Some(match reason.take() {
                        Some(before) => format!("{before}; {why}"),
                        None => why,
                    });
                }
            }
        }
        with_marks(&self.schema, &batch, reasons).map(|batch| vec![batch])
    }
}

fn with_marks(
    schema: &SchemaRef,
    batch: &RecordBatch,
    reasons: Vec<Option<String>>,
) -> Result<RecordBatch> {
    let mark: BooleanArray = reasons.iter().map(|reason| Some(reason.is_some())).collect();
    let reasons: StringArray = reasons.into_iter().collect();
    with_columns(schema, batch, [Arc::new(mark) as ArrayRef, Arc::new(reasons) as ArrayRef])
}

fn outside(value: f64, range: &Range) -> Option<String> {
    let unit = range.unit.as_ref().map_or(String::new(), |unit| format!(" {unit}"));
    let column = &range.column;
    if value.is_nan() {
        return Some(format!("{column} is NaN"));
    }
    if let Some(min) = range.min.filter(|min| value < *min) {
        return Some(format!("{column} {value}{unit} is below {min}{unit}"));
    }
    let max = range.max.filter(|max| value > *max)?;
    Some(format!("{column} {value}{unit} is above {max}{unit}"))
}

/// Judges each row among its neighbours. Rows stay here until their windows are complete.
struct MarkOutliers {
    schema: SchemaRef,
    keys: Result<Keys>,
    place: usize,
    name: String,
    judge: Judge,
    held: Option<RecordBatch>,
    /// Rows of `held` that are only there for the windows of those after them.
    judged: usize,
}

impl Step for MarkOutliers {
    fn batch(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>> {
        let held = match self.held.take() {
            Some(held) => concat_batches(&batch.schema(), [&held, &batch]).map_err(arrow)?,
            None => batch,
        };
        let half = self.judge.window / 2;
        let end = held.num_rows().saturating_sub(half);
        if end < self.judged + ROWS.min(half * 8).max(1) {
            self.held = Some(held);
            return Ok(Vec::new());
        }
        let made = self.judge(&held, end)?;
        let first = end.saturating_sub(half);
        self.judged = end - first;
        self.held = Some(held.slice(first, held.num_rows() - first));
        Ok(vec![made])
    }

    fn end(&mut self) -> Result<Vec<RecordBatch>> {
        let Some(held) = self.held.take() else { return Ok(Vec::new()) };
        self.judge(&held, held.num_rows()).map(|made| vec![made])
    }
}

impl MarkOutliers {
    /// Judges the rows up to `end`, which have their whole window.
    fn judge(&self, held: &RecordBatch, end: usize) -> Result<RecordBatch> {
        let keys = checked(&self.keys)?.of(held)?;
        let values = numbers(held.column(self.place))?;
        let half = self.judge.window / 2;
        let mut reasons = Vec::with_capacity(end - self.judged);
        let mut window = Vec::with_capacity(self.judge.window);
        let (mut first, mut last) = (0, 0);
        for row in self.judged..end {
            // The window lies within the rows of the device.
            first = device_start(&keys, row, first.max(row.saturating_sub(half)));
            last = last.max(row);
            while last + 1 < held.num_rows()
                && last < row + half
                && keys.get(last + 1) == keys.get(row)
            {
                last += 1;
            }
            if values.is_null(row) {
                reasons.push(None);
                continue;
            }
            window.clear();
            let near = (first..=last).filter(|&at| values.is_valid(at));
            window.extend(near.map(|at| values.value(at)).filter(|value| !value.is_nan()));
            reasons.push(self.reason(values.value(row), &mut window));
        }
        let rows = without_row(&held.slice(self.judged, end - self.judged))?;
        with_marks(&self.schema, &rows, reasons)
    }

    fn reason(&self, value: f64, window: &mut [f64]) -> Option<String> {
        let Judge { method, threshold, .. } = self.judge;
        let name = &self.name;
        if value.is_nan() {
            return Some(format!("{name} is NaN"));
        }
        window.sort_unstable_by(f64::total_cmp);
        match method {
            OutlierMethod::Hampel => {
                let middle = quantile(window, 0.5);
                window.iter_mut().for_each(|near| *near = (*near - middle).abs());
                window.sort_unstable_by(f64::total_cmp);
                let scale = NORMAL * quantile(window, 0.5);
                let off = (value - middle).abs();
                if scale <= NONE * middle.abs().max(1.0) {
                    return (off > NONE * middle.abs().max(1.0)).then(|| {
                        format!("{name} {value} differs from the median {middle}, which half of its neighbours have")
                    });
                }
                let off = off / scale;
                (off > threshold).then(|| {
                    format!("{name} {value} is {off:.1} deviations from the median {middle}")
                })
            }
            OutlierMethod::Iqr => {
                let (low, high) = (quantile(window, 0.25), quantile(window, 0.75));
                let reach = threshold * (high - low);
                (value < low - reach || value > high + reach).then(|| {
                    let (from, to) = (low - reach, high + reach);
                    format!("{name} {value} is not within {from} and {to}")
                })
            }
        }
    }
}

/// The first row at or after `from` that is of the device of `row`.
fn device_start(keys: &KeyRows, row: usize, from: usize) -> usize {
    let key = keys.get(row);
    (from..=row).find(|&at| keys.get(at) == key).unwrap_or(row)
}

/// A quantile of sorted values, linear between them, as numpy's default has it.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = share * last as f64;
    let (low, part) = (place.floor() as usize, place.fract());
    let high = (low + 1).min(last);
    sorted[low] + (sorted[high] - sorted[low]) * part
}
