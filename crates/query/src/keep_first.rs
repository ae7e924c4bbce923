//! The first row of those that agree, in the order of the input.
//!
//! `DISTINCT` keeps some row and no order; a job that is run again must make the same file.
//! What was seen is held in memory within the pool: beyond it the run fails and says so.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanBuilder, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::row::{RowConverter, SortField};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::logical_expr::LogicalPlan;

use crate::error::explain;
use crate::operator::{Input, Operator, Step};

/// A hash set's own cost for one entry, about.
const ENTRY_BYTES: usize = 48;

/// Of the plan's rows that agree in `columns`, the first stays.
pub(crate) fn keep_first(plan: LogicalPlan, columns: Vec<usize>) -> Operator {
    let input = Input { plan, sorted_by: Vec::new() };
    Operator::sieve("DropDuplicates", input, move |pool| FirstRows::new(columns.clone(), pool))
}

struct FirstRows {
    columns: Vec<usize>,
    /// Made for the types of the first batch.
    rows: Option<RowConverter>,
    seen: HashSet<Box<[u8]>>,
    reservation: MemoryReservation,
}

impl FirstRows {
    fn new(columns: Vec<usize>, pool: &Arc<dyn MemoryPool>) -> Self {
        let reservation = MemoryConsumer::new("DropDuplicates").register(pool);
        FirstRows { columns, rows: None, seen: HashSet::new(), reservation }
    }

    fn keep(&mut self, batch: &RecordBatch) -> datafusion::common::Result<RecordBatch> {
        let columns: Vec<ArrayRef> =
            self.columns.iter().map(|&column| Arc::clone(batch.column(column))).collect();
        let converter = match &mut self.rows {
            Some(rows) => rows,
            none => {
                let field = |column: &ArrayRef| SortField::new(column.data_type().clone());
                none.insert(RowConverter::new(columns.iter().map(field).collect())?)
            }
        };
        let rows = converter.convert_columns(&columns)?;
        let mut keep = BooleanBuilder::with_capacity(batch.num_rows());
        let mut grown = 0;
        for row in &rows {
            let bytes = row.as_ref();
            let first = !self.seen.contains(bytes);
            if first {
                grown += bytes.len() + ENTRY_BYTES;
                self.seen.insert(bytes.into());
            }
            keep.append_value(first);
        }
        self.reservation.try_grow(grown)?;
        Ok(filter_record_batch(batch, &keep.finish())?)
    }
}

impl Step for FirstRows {
    fn batch(&mut self, batch: RecordBatch) -> base::Result<Vec<RecordBatch>> {
        self.keep(&batch).map(|kept| vec![kept]).map_err(explain)
    }
}
