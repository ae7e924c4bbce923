//! The first row of those that agree, in the order of the input.
//!
//! `DISTINCT` keeps some row and no order; a job that is run again must make the same file.
//! What was seen is held in memory within the pool: beyond it the run fails and says so.

use std::collections::HashSet;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use arrow::array::{ArrayRef, BooleanBuilder, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::row::{RowConverter, SortField};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan, TableType};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, PlanProperties,
};
use futures::{Stream, StreamExt};

/// A hash set's own cost for one entry, about.
const ENTRY_BYTES: usize = 48;

type Result<T, E = DataFusionError> = std::result::Result<T, E>;

/// The rows of a plan without later copies.
#[derive(Debug)]
pub(crate) struct KeepFirst {
    input: LogicalPlan,
    columns: Vec<usize>,
}

impl KeepFirst {
    /// Of rows that agree in `columns`, the first stays.
    pub(crate) fn new(input: LogicalPlan, columns: Vec<usize>) -> Self {
        KeepFirst { input, columns }
    }
}

#[async_trait]
impl TableProvider for KeepFirst {
    fn schema(&self) -> SchemaRef {
        Arc::clone(self.input.schema().inner())
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut input = state.create_physical_plan(&self.input).await?;
        if input.properties().partitioning.partition_count() > 1 {
            input = Arc::new(CoalescePartitionsExec::new(input));
        }
        let plan: Arc<dyn ExecutionPlan> =
            Arc::new(KeepFirstExec::new(input, self.columns.clone()));
        let Some(projection) = projection else { return Ok(plan) };
        let schema = plan.schema();
        let column = |&index: &usize| {
            let name = schema.field(index).name();
            let column = datafusion::physical_expr::expressions::Column::new(name, index);
            let expr: Arc<dyn datafusion::physical_plan::PhysicalExpr> = Arc::new(column);
            (expr, name.clone())
        };
        let columns: Vec<_> = projection.iter().map(column).collect();
        Ok(Arc::new(ProjectionExec::try_new(columns, plan)?))
    }
}

#[derive(Debug)]
struct KeepFirstExec {
    input: Arc<dyn ExecutionPlan>,
    columns: Vec<usize>,
    properties: Arc<PlanProperties>,
}

impl KeepFirstExec {
    fn new(input: Arc<dyn ExecutionPlan>, columns: Vec<usize>) -> Self {
        let properties = Arc::clone(input.properties());
        KeepFirstExec { input, columns, properties }
    }
}

impl DisplayAs for KeepFirstExec {
    fn fmt_as(&self, _as: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeepFirstExec: columns={:?}", self.columns)
    }
}

impl ExecutionPlan for KeepFirstExec {
    fn name(&self) -> &'static str {
        "KeepFirstExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        vec![Distribution::SinglePartition]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn with_new_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match (children.pop(), children.is_empty()) {
            (Some(input), true) => Ok(Arc::new(KeepFirstExec::new(input, self.columns.clone()))),
            _ => Err(DataFusionError::Internal("KeepFirstExec has one input".into())),
        }
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let schema = self.schema();
        let fields = self
            .columns
            .iter()
            .map(|&column| SortField::new(schema.field(column).data_type().clone()));
        let rows = RowConverter::new(fields.collect())?;
        let reservation = MemoryConsumer::new("DropDuplicates").register(context.memory_pool());
        Ok(Box::pin(FirstRows {
            input: self.input.execute(partition, context)?,
            columns: self.columns.clone(),
            rows,
            seen: HashSet::new(),
            reservation,
        }))
    }
}

struct FirstRows {
    input: SendableRecordBatchStream,
    columns: Vec<usize>,
    rows: RowConverter,
    seen: HashSet<Box<[u8]>>,
    reservation: MemoryReservation,
}

impl FirstRows {
    fn keep(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let columns: Vec<ArrayRef> =
            self.columns.iter().map(|&column| Arc::clone(batch.column(column))).collect();
        let rows = self.rows.convert_columns(&columns)?;
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

impl Stream for FirstRows {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(match ready!(self.input.poll_next_unpin(cx)) {
            Some(Ok(batch)) => Some(self.keep(&batch)),
            end => end,
        })
    }
}

impl RecordBatchStream for FirstRows {
    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }
}
