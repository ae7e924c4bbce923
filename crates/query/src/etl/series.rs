//! Time-series nodes: steps of time, gaps, doubled readings.
//!
//! They see rows sorted by device, time and place in the input, so equal times keep the order
//! they came in and a run that is repeated makes the same rows. Times are wall-clock minutes
//! as in DeepAR's series: a step is never shorter than a minute.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, TimestampMillisecondArray, UInt32Array,
    UInt64Array,
};
use arrow::compute::{cast, concat_batches, filter_record_batch, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit, TimestampMillisecondType};
use arrow::row::{RowConverter, Rows, SortField};
use base::{Error, ErrorKind, Result};
use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::expr_fn::ident;
use forecast::{DateTime, Frequency};
use lake::{Aggregate, Keep};

use super::aggregate;
use super::lower::{Graph, column, column_of, names};
use crate::error::explain;
use crate::operator::{Input, Operator, Step};

/// The place of a row in the input, while rows are sorted.
const ROW: &str = "__forebay_row";
/// The beginning of a row's step, while rows are grouped.
const STEP: &str = "__forebay_step";

/// Steps of one gap at most: two years of minutes.
const GAP_STEPS_MAX: i64 = 1_054_080;
/// Rows added for one batch at most, since they are held together.
const FILLED_ROWS_MAX: usize = 2_000_000;

const MILLIS_PER_MINUTE: i64 = 60_000;

/// An error of Arrow's that well-typed columns do not give.
pub(super) fn arrow(cause: arrow::error::ArrowError) -> Error {
    explain(cause.into())
}

/// A column that has times, or why it has none.
pub(super) fn check_time(rows: &DataFrame, time: &str) -> Result<()> {
    column_of(rows, time)?;
    let field = rows.schema().fields().iter().find(|field| field.name() == time);
    match field.map(|field| field.data_type()) {
        Some(DataType::Timestamp(_, _) | DataType::Date32 | DataType::Date64) => Ok(()),
        Some(other) => Err(Error::invalid(format!(
            "column {time:?} is {} and no timestamp; make it one before, by apply_mapping or by \
             derive_columns with from_iso8601_timestamp(..) or to_timestamp_millis(..)",
            formats::hive::from_arrow(other).unwrap_or_else(|_unnamed| other.to_string())
        ))),
        None => Err(Error::internal(format!("column {time:?} has no field"))),
    }
}

/// Times of a column in wall-clock milliseconds.
pub(super) fn millis(array: &ArrayRef) -> Result<TimestampMillisecondArray> {
    let plain = cast(array, &DataType::Timestamp(TimeUnit::Millisecond, None)).map_err(arrow)?;
    Ok(plain.as_primitive::<TimestampMillisecondType>().clone())
}

pub(super) fn minute(millis: i64) -> DateTime {
    DateTime(millis.div_euclid(MILLIS_PER_MINUTE))
}

pub(super) fn shown(millis: i64) -> String {
    chrono::DateTime::from_timestamp_millis(millis)
        .map_or_else(|| millis.to_string(), |at| at.naive_utc().to_string())
}

/// Refuses a time that lies between steps, where one was promised.
pub(super) fn on_step(millis: i64, freq: Frequency) -> Result<DateTime> {
    let at = minute(millis);
    if millis.rem_euclid(MILLIS_PER_MINUTE) != 0 || freq.align(at) != at {
        return Err(Error::invalid(format!(
            "{} is not the beginning of a step of {freq}; resample before",
            shown(millis)
        )));
    }
    Ok(at)
}

/// What makes rows belong together, as bytes that are equal if the values are.
pub(super) struct Keys {
    columns: Vec<usize>,
    converter: Option<RowConverter>,
}

impl Keys {
    pub(super) fn new(schema: &Schema, columns: Vec<usize>) -> Result<Self> {
        let fields: Vec<SortField> = columns
            .iter()
            .map(|&at| SortField::new(schema.field(at).data_type().clone()))
            .collect();
        let converter = match fields.is_empty() {
            true => None,
            false => Some(RowConverter::new(fields).map_err(arrow)?),
        };
        Ok(Keys { columns, converter })
    }

    pub(super) fn columns(&self) -> &[usize] {
        &self.columns
    }

    pub(super) fn of(&self, batch: &RecordBatch) -> Result<KeyRows> {
        let Some(converter) = &self.converter else { return Ok(KeyRows(None)) };
        let columns: Vec<ArrayRef> =
            self.columns.iter().map(|&at| Arc::clone(batch.column(at))).collect();
        Ok(KeyRows(Some(converter.convert_columns(&columns).map_err(arrow)?)))
    }
}

/// The keys of a batch's rows.
pub(super) struct KeyRows(Option<Rows>);

impl KeyRows {
    pub(super) fn get(&self, row: usize) -> &[u8] {
        self.0.as_ref().map_or(&[], |rows| rows.row(row).data())
    }
}

/// The batch without what was added to sort it.
pub(super) fn without_row(batch: &RecordBatch) -> Result<RecordBatch> {
    let columns: Vec<usize> = (0..batch.num_columns() - 1).collect();
    batch.project(&columns).map_err(arrow)
}

pub(super) fn schema_of(rows: &DataFrame) -> SchemaRef {
    let fields: Vec<Field> = rows
        .schema()
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_nullable(true))
        .collect();
    Arc::new(Schema::new(fields))
}

/// The schema with a column more.
pub(super) fn and(schema: &Schema, more: impl IntoIterator<Item = Field>) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| field.as_ref().clone());
    Arc::new(Schema::new(fields.chain(more).collect::<Vec<_>>()))
}

/// Where columns are in rows.
pub(super) fn places(rows: &DataFrame, columns: &[String]) -> Result<Vec<usize>> {
    columns
        .iter()
        .map(|name| {
            column_of(rows, name)?;
            let place = names(rows).position(|known| known == *name);
            place.ok_or_else(|| Error::internal(format!("column {name:?} has no place")))
        })
        .collect()
}

impl Graph<'_> {
    /// The rows with their place in the input as the last column.
    fn numbered(&self, rows: DataFrame) -> Result<DataFrame> {
        let schema = and(&schema_of(&rows), [Field::new(ROW, DataType::UInt64, false)]);
        let plan = rows.into_parts().1;
        let of = Arc::clone(&schema);
        let input = Input { plan, sorted_by: Vec::new() };
        self.table(Operator::step("Number", input, schema, move || Number {
            schema: Arc::clone(&of),
            next: 0,
        }))
    }

    /// The rows with their place as the last column, sorted by device and time.
    pub(super) fn by_time(&self, rows: DataFrame, by: &[String], time: &str) -> Result<Input> {
        check_time(&rows, time)?;
        let mut sorted_by = places(&rows, by)?;
        sorted_by.extend(places(&rows, &[time.to_owned()])?);
        sorted_by.push(rows.schema().fields().len());
        Ok(Input { plan: self.numbered(rows)?.into_parts().1, sorted_by })
    }

    /// The rows by device and time, equal times in the order they came in, and nothing added.
    pub(super) fn sorted_by_time(
        &self,
        rows: DataFrame,
        by: &[String],
        time: &str,
    ) -> Result<DataFrame> {
        let schema = schema_of(&rows);
        let input = self.by_time(rows, by, time)?;
        self.table(Operator::step("ByTime", input, schema, || Unnumbered))
    }

    pub(super) fn resample(
        &self,
        rows: DataFrame,
        (by, time): (&[String], &str),
        freq: Frequency,
        aggregates: &[Aggregate],
    ) -> Result<DataFrame> {
        check_time(&rows, time)?;
        places(&rows, by)?;
        let rows = rows.filter(column(time).is_not_null()).map_err(explain)?;
        let rows = self.numbered(rows)?;
        let [place] = <[usize; 1]>::try_from(places(&rows, &[time.to_owned()])?)
            .map_err(|_cause| Error::internal("a time has one place"))?;
        let kind = rows.schema().field(place).data_type().clone();
        let schema = and(&schema_of(&rows), [Field::new(STEP, kind, true)]);
        let of = Arc::clone(&schema);
        let input = Input { plan: rows.into_parts().1, sorted_by: Vec::new() };
        let rows = self.table(Operator::step("Align", input, schema, move || Align {
            schema: Arc::clone(&of),
            place,
            freq,
        }))?;
        let order = vec![column(time).sort(true, true), column(ROW).sort(true, true)];
        let made: Result<Vec<_>> = aggregates
            .iter()
            .map(|one| {
                let to = one.to.as_deref().unwrap_or(&one.column);
                Ok(aggregate::of(&rows, one, &order)?.alias(format!("__made_{to}")))
            })
            .collect();
        let group = by.iter().map(column).chain([column(STEP)]).collect();
        let rows = rows.aggregate(group, made?).map_err(explain)?;
        // Names that were columns before are free only now.
        let mut picked: Vec<_> = by.iter().map(column).collect();
        picked.push(ident(STEP).alias(time));
        picked.extend(aggregates.iter().map(|one| {
            let to = one.to.as_deref().unwrap_or(&one.column);
            ident(format!("__made_{to}")).alias(to)
        }));
        let rows = rows.select(picked).map_err(explain)?;
        self.sorted(rows, by.len() + 1)
    }

    /// The rows sorted by their first columns, whatever is done with them later.
    pub(super) fn sorted(&self, rows: DataFrame, columns: usize) -> Result<DataFrame> {
        let schema = schema_of(&rows);
        let input = Input { plan: rows.into_parts().1, sorted_by: (0..columns).collect() };
        self.table(Operator::step("Sorted", input, schema, || AsTheyAre))
    }

    pub(super) fn fill_gaps(
        &self,
        id: &str,
        rows: DataFrame,
        by: &[String],
        time: &str,
        freq: Frequency,
    ) -> Result<DataFrame> {
        let schema = schema_of(&rows);
        let by_places = places(&rows, by)?;
        let input = self.by_time(rows, by, time)?;
        let place = input.sorted_by[by.len()];
        Keys::new(&schema, by_places.clone())?;
        let (of, device, node) = (Arc::clone(&schema), by_places, id.to_owned());
        self.table(Operator::step("FillGaps", input, schema, move || FillGaps {
            node: node.clone(),
            schema: Arc::clone(&of),
            keys: Keys::new(&of, device.clone()),
            by: device.clone(),
            place,
            freq,
            last: None,
        }))
    }

    pub(super) fn drop_duplicates_by_time(
        &self,
        rows: DataFrame,
        by: &[String],
        time: &str,
        keep: Keep,
    ) -> Result<DataFrame> {
        let schema = schema_of(&rows);
        let mut key = places(&rows, by)?;
        let input = self.by_time(rows, by, time)?;
        let place = input.sorted_by[by.len()];
        key.push(place);
        Keys::new(&schema, key.clone())?;
        let of = Arc::clone(&schema);
        self.table(Operator::step("DropDuplicatesByTime", input, schema, move || Once {
            keys: Keys::new(&of, key.clone()),
            place,
            keep,
            held: None,
            last: None,
        }))
    }
}

struct Number {
    schema: SchemaRef,
    next: u64,
}

impl Step for Number {
    fn batch(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>> {
        let end = self.next + batch.num_rows() as u64;
        let numbers: ArrayRef = Arc::new(UInt64Array::from_iter_values(self.next..end));
        self.next = end;
        with_columns(&self.schema, &batch, [numbers]).map(|batch| vec![batch])
    }
}

/// The batch with columns more.
pub(super) fn with_columns(
    schema: &SchemaRef,
    batch: &RecordBatch,
    more: impl IntoIterator<Item = ArrayRef>,
) -> Result<RecordBatch> {
    let columns = batch.columns().iter().cloned().chain(more).collect();
    RecordBatch::try_new(Arc::clone(schema), columns).map_err(arrow)
}

struct AsTheyAre;

impl Step for AsTheyAre {
    fn batch(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>> {
        Ok(vec![batch])
    }
}

struct Unnumbered;

impl Step for Unnumbered {
    fn batch(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>> {
        Ok(vec![without_row(&batch)?])
    }
}

/// Adds the beginning of each row's step.
struct Align {
    schema: SchemaRef,
    place: usize,
    freq: Frequency,
}

impl Step for Align {
    fn batch(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>> {
        let times = batch.column(self.place);
        let aligned: TimestampMillisecondArray = millis(times)?
            .unary(|at| self.freq.align(minute(at)).0.saturating_mul(MILLIS_PER_MINUTE));
        let aligned = cast(&aligned, times.data_type()).map_err(arrow)?;
        with_columns(&self.schema, &batch, [aligned]).map(|batch| vec![batch])
    }
}

struct FillGaps {
    node: String,
    schema: SchemaRef,
    keys: Result<Keys>,
    by: Vec<usize>,
    place: usize,
    freq: Frequency,
    /// The device and step of the row before.
    last: Option<(Vec<u8>, DateTime)>,
}

/// Steps see sorted batches one by one, so what was checked when they were planned holds.
pub(super) fn checked<T>(made: &Result<T>) -> Result<&T> {
    made.as_ref().map_err(|error| Error::internal(error.to_string()))
}

impl Step for FillGaps {
    fn batch(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>> {
        // Whether times lie on steps is known only here, long after the graph was planned.
        self.fill(&batch).map_err(|error| error.context(format!("node {:?}", self.node)))
    }
}

impl FillGaps {
    fn fill(&mut self, batch: &RecordBatch) -> Result<Vec<RecordBatch>> {
        let keys = checked(&self.keys)?.of(batch)?;
        let times = millis(batch.column(self.place))?;
        // For each row made: the row it is, or the one whose device it shares.
        let (mut of, mut device, mut at) = (Vec::new(), Vec::new(), Vec::new());
        let mut filled = 0;
        for row in 0..batch.num_rows() {
            if times.is_null(row) {
                return Err(Error::invalid(
                    "a row has no time, so no place among the steps; filter it out before",
                ));
            }
            let step = on_step(times.value(row), self.freq)?;
            let number = u32::try_from(row)
                .map_err(|_cause| Error::internal("a batch of more than 2^32 rows"))?;
            if let Some((key, last)) = &self.last
                && key.as_slice() == keys.get(row)
            {
                let gap = self.freq.steps_between(*last, step) - 1;
                if gap > GAP_STEPS_MAX || filled + gap.max(0) as usize > FILLED_ROWS_MAX {
                    return Err(Error::new(
                        ErrorKind::Exhausted,
                        format!(
                            "between {last} and {step} lie {gap} steps of {} without a row, too \
                             many to fill; split the series or take a longer step",
                            self.freq
                        ),
                    ));
                }
                for missing in 1..=gap {
                    of.push(None);
                    device.push(number);
                    let made = self.freq.advance(*last, missing);
                    at.push(made.0.saturating_mul(MILLIS_PER_MINUTE));
                    filled += 1;
                }
            }
            of.push(Some(number));
            device.push(number);
            at.push(times.value(row));
            if self.last.as_ref().is_none_or(|(key, _)| key.as_slice() != keys.get(row)) {
                self.last = Some((keys.get(row).to_vec(), step));
            } else if let Some((_, last)) = &mut self.last {
                *last = step;
            }
        }
        let (of, device) = (UInt32Array::from(of), UInt32Array::from(device));
        let times: ArrayRef = Arc::new(TimestampMillisecondArray::from(at));
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for (index, field) in self.schema.fields().iter().enumerate() {
            columns.push(if index == self.place {
                cast(&times, field.data_type()).map_err(arrow)?
            } else {
                let rows = if self.by.contains(&index) { &device } else { &of };
                take(batch.column(index), rows, None).map_err(arrow)?
            });
        }
        Ok(vec![RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(arrow)?])
    }
}

/// One row of each device and time.
struct Once {
    keys: Result<Keys>,
    place: usize,
    keep: Keep,
    /// The last row seen, if the last is kept: the next may replace it.
    held: Option<RecordBatch>,
    /// Its key, if the first is kept.
    last: Option<Vec<u8>>,
}

impl Once {
    fn first(&mut self, batch: &RecordBatch) -> Result<Vec<RecordBatch>> {
        let keys = checked(&self.keys)?.of(batch)?;
        let times = batch.column(self.place);
        let mut keep = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            let same = self.last.as_deref() == Some(keys.get(row));
            keep.push(!same || times.is_null(row));
            if !same {
                self.last = Some(keys.get(row).to_vec());
            }
        }
        let kept = filter_record_batch(batch, &BooleanArray::from(keep)).map_err(arrow)?;
        Ok(vec![without_row(&kept)?])
    }

    fn last(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>> {
        let batch = match self.held.take() {
            Some(held) => concat_batches(&batch.schema(), [&held, &batch]).map_err(arrow)?,
            None => batch,
        };
        let Some(last) = batch.num_rows().checked_sub(1) else { return Ok(Vec::new()) };
        let keys = checked(&self.keys)?.of(&batch)?;
        let times = batch.column(self.place);
        let ends = |row: usize| times.is_null(row) || keys.get(row) != keys.get(row + 1);
        let keep: BooleanArray = (0..=last).map(|row| Some(row < last && ends(row))).collect();
        let kept = filter_record_batch(&batch, &keep).map_err(arrow)?;
        self.held = Some(batch.slice(last, 1));
        Ok(vec![without_row(&kept)?])
    }
}

impl Step for Once {
    fn batch(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>> {
        match self.keep {
            Keep::First => self.first(&batch),
            Keep::Last => self.last(batch),
        }
    }

    fn end(&mut self) -> Result<Vec<RecordBatch>> {
        self.held.take().map(|held| without_row(&held)).into_iter().collect()
    }
}
