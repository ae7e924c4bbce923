//! The as-of join: both sides come sorted by device and time, and are read once, side by side.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take};
use arrow::datatypes::{Field, Schema, SchemaRef};
use base::{Error, Result};
use datafusion::common::DataFusionError;
use datafusion::dataframe::DataFrame;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;

use super::combine::beside;
use super::lower::{Graph, names};
use super::series::{Keys, arrow, check_time, checked, millis, places, schema_of};
use crate::error::wrap;
use crate::operator::{Make, Operator};

impl Graph<'_> {
    pub(super) fn asof_join(
        &self,
        (left, right): (DataFrame, DataFrame),
        by: &[String],
        time: &str,
        tolerance_seconds: u64,
    ) -> Result<DataFrame> {
        let on = |which: &str| {
            let which = format!("on the {which}");
            move |error: Error| error.context(which.clone())
        };
        check_time(&left, time).map_err(on("left"))?;
        check_time(&right, time).map_err(on("right"))?;
        let left_by = places(&left, by).map_err(on("left"))?;
        let right_by = places(&right, by).map_err(on("right"))?;
        let (lefts, rights) = (schema_of(&left), schema_of(&right));
        for (one, other) in left_by.iter().zip(&right_by) {
            let (one, other) = (lefts.field(*one), rights.field(*other));
            let texts = one.data_type().is_string() && other.data_type().is_string();
            if !texts && one.data_type() != other.data_type() {
                return Err(Error::invalid(format!(
                    "column {:?} is {} on the left and {} on the right; cast one before",
                    one.name(),
                    one.data_type(),
                    other.data_type()
                )));
            }
        }
        let known: Vec<String> = names(&left).collect();
        let mut fields: Vec<Field> =
            lefts.fields().iter().map(|field| field.as_ref().clone()).collect();
        let mut picked = Vec::new();
        for (place, field) in rights.fields().iter().enumerate() {
            if !right_by.contains(&place) {
                let name = beside(&known, field.name())?;
                fields.push(Field::new(name, field.data_type().clone(), true));
                picked.push(place);
            }
        }
        let schema: SchemaRef = Arc::new(Schema::new(fields));
        Keys::new(&lefts, left_by.clone())?;
        let left = self.by_time(left, by, time)?;
        let right = self.by_time(right, by, time)?;
        let times = (left.sorted_by[by.len()], right.sorted_by[by.len()]);
        let tolerance = i64::try_from(tolerance_seconds.saturating_mul(1000))
            .map_err(|_cause| Error::invalid("tolerance_seconds is too large"))?;
        let of = Arc::clone(&schema);
        let make: Make = Arc::new(move |inputs, _pool| {
            let mut inputs = inputs.into_iter();
            let (left, right) = (inputs.next(), inputs.next());
            let merge = Merge {
                schema: Arc::clone(&of),
                left,
                left_keys: Keys::new(&lefts, left_by.clone()),
                left_time: times.0,
                right: Readings {
                    stream: right,
                    keys: Keys::new(&rights, right_by.clone()),
                    time: times.1,
                    picked: picked.clone(),
                    ahead: VecDeque::new(),
                    read: 0,
                    last: None,
                },
                tolerance,
            };
            let rows = futures::stream::unfold(merge, |mut merge| async move {
                let batch = merge.next().await?;
                Some((batch, merge))
            });
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&of), rows))
        });
        self.table(Operator::new("AsOfJoin", vec![left, right], schema, make))
    }
}

struct Merge {
    schema: SchemaRef,
    left: Option<SendableRecordBatchStream>,
    left_keys: Result<Keys>,
    left_time: usize,
    right: Readings,
    tolerance: i64,
}

/// A right row: its device, its time and where it lies.
struct Reading {
    number: u64,
    key: Vec<u8>,
    at: i64,
    batch: RecordBatch,
    row: usize,
}

/// The right rows, in order.
struct Readings {
    stream: Option<SendableRecordBatchStream>,
    keys: Result<Keys>,
    time: usize,
    picked: Vec<usize>,
    ahead: VecDeque<Reading>,
    read: u64,
    /// The latest that is not after the left row.
    last: Option<Reading>,
}

type Step<T> = std::result::Result<T, DataFusionError>;

impl Readings {
    /// Goes on to the last row that is not after `(key, at)`.
    async fn advance(&mut self, key: &[u8], at: i64) -> Step<()> {
        loop {
            while let Some(next) = self.ahead.front() {
                if (next.key.as_slice(), next.at) > (key, at) {
                    return Ok(());
                }
                self.last = self.ahead.pop_front();
            }
            let Some(stream) = &mut self.stream else { return Ok(()) };
            match stream.next().await {
                None => self.stream = None,
                Some(batch) => self.take(batch?).map_err(wrap)?,
            }
        }
    }

    fn take(&mut self, batch: RecordBatch) -> Result<()> {
        let keys = checked(&self.keys)?.of(&batch)?;
        let times = millis(batch.column(self.time))?;
        for row in 0..batch.num_rows() {
            // A reading without a time or device is before nothing.
            let known = !times.is_null(row)
                && checked(&self.keys)?.columns().iter().all(|&at| batch.column(at).is_valid(row));
            if known {
                let key = keys.get(row).to_vec();
                self.read += 1;
                let (number, at) = (self.read, times.value(row));
                self.ahead.push_back(Reading { number, key, at, batch: batch.clone(), row });
            }
        }
        Ok(())
    }
}

impl Merge {
    async fn next(&mut self) -> Option<Step<RecordBatch>> {
        let batch = match self.left.as_mut()?.next().await? {
            Ok(batch) => self.join(batch).await,
            Err(error) => Err(error),
        };
        if batch.is_err() {
            self.left = None;
        }
        Some(batch)
    }

    async fn join(&mut self, batch: RecordBatch) -> Step<RecordBatch> {
        let keys = checked(&self.left_keys).and_then(|keys| keys.of(&batch)).map_err(wrap)?;
        let by = checked(&self.left_keys).map_err(wrap)?.columns().to_vec();
        let times = millis(batch.column(self.left_time)).map_err(wrap)?;
        // Right rows in use, each once, and which of them each left row gets.
        let mut used: Vec<RecordBatch> = Vec::new();
        let mut newest = None;
        let mut indices: Vec<Option<u32>> = Vec::with_capacity(batch.num_rows());
        for row in 0..batch.num_rows() {
            if times.is_null(row) || by.iter().any(|&at| batch.column(at).is_null(row)) {
                indices.push(None);
                continue;
            }
            let (key, at) = (keys.get(row), times.value(row));
            self.right.advance(key, at).await?;
            let last = self.right.last.as_ref();
            let found =
                last.filter(|last| last.key == key && at.saturating_sub(last.at) <= self.tolerance);
            let Some(found) = found else {
                indices.push(None);
                continue;
            };
            if newest != Some(found.number) {
                used.push(found.batch.slice(found.row, 1));
                newest = Some(found.number);
            }
            let index = u32::try_from(used.len() - 1)
                .map_err(|_cause| wrap(Error::internal("a batch of more than 2^32 rows")))?;
            indices.push(Some(index));
        }
        self.beside(&batch, &used, UInt32Array::from(indices)).map_err(wrap)
    }

    fn beside(
        &self,
        batch: &RecordBatch,
        used: &[RecordBatch],
        indices: UInt32Array,
    ) -> Result<RecordBatch> {
        // The left's last column is the place that it was sorted by.
        let mut columns: Vec<ArrayRef> = batch.columns()[..batch.num_columns() - 1].to_vec();
        let right = match used.first() {
            Some(first) => Some(concat_batches(&first.schema(), used).map_err(arrow)?),
            None => None,
        };
        let first_right = columns.len();
        for (index, &place) in self.right.picked.iter().enumerate() {
            columns.push(match &right {
                Some(right) => take(right.column(place), &indices, None).map_err(arrow)?,
                None => {
                    let kind = self.schema.field(first_right + index).data_type();
                    arrow::array::new_null_array(kind, batch.num_rows())
                }
            });
        }
        RecordBatch::try_new(Arc::clone(&self.schema), columns).map_err(arrow)
    }
}
