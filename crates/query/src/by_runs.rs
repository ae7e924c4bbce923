//! Groups that come in runs, added up run by run.
//!
//! What lies in a lake is sorted more often than not: a folder has one hour, a file one device after
//! the other. DataFusion looks every row's group up in a hash table all the same, and adds row by
//! row into the group's place. Here a batch is cut where a key changes, each run is added up as a
//! slice, and the run's state goes on as one row to the final aggregation, which merges states by
//! their keys wherever they come from. So a run that is cut in two changes nothing, nothing is kept
//! from batch to batch, and where runs turn out short the original operator takes over.

mod kernels;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Mutex};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringViewArray, UInt32Array};
use arrow::compute::{concat_batches, partition, take};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::{Distribution, PhysicalExpr};
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, InputOrderMode, PlanProperties,
};
use futures::StreamExt;
use futures::stream::try_unfold;

use self::kernels::Measure;
use crate::replace::Replace;

type Result<T, E = DataFusionError> = std::result::Result<T, E>;

/// Rows of a run below which a hash table is as cheap.
const RUN_ROWS_MIN: usize = 16;

/// Runs that may be short before that counts: a filter makes small batches.
const SHORT_RUNS_MAX: usize = 1024;

/// Rows of states that are handed on together.
const STATES: usize = 8192;

/// Puts [`ByRuns`] in the place of first aggregations that it knows how to do.
pub(crate) const RULE: Replace = Replace {
    name: "aggregate_runs",
    instead: |plan| {
        let found = plan.downcast_ref::<AggregateExec>().and_then(ByRuns::around);
        Ok(found.map(|by_runs| Arc::new(by_runs) as Arc<dyn ExecutionPlan>))
    },
};

/// A first aggregation, run by run.
#[derive(Clone, Debug)]
struct ByRuns {
    /// The operator that this one stands for.
    rows: Arc<AggregateExec>,
    keys: Arc<[Arc<dyn PhysicalExpr>]>,
    measures: Arc<[(Measure, Arc<dyn PhysicalExpr>)]>,
}

impl ByRuns {
    fn around(plan: &AggregateExec) -> Option<ByRuns> {
        let by = plan.group_expr();
        let is_plain = *plan.mode() == AggregateMode::Partial
            && by.is_single()
            && !by.is_empty()
            && *plan.input_order_mode() == InputOrderMode::Linear
            && plan.limit_options().is_none()
            && plan.filter_expr().iter().all(Option::is_none);
        if !is_plain {
            return None;
        }
        let keys = by.expr().iter().map(|(key, _)| Arc::clone(key)).collect();
        let measures: Option<Arc<[_]>> =
            plan.aggr_expr().iter().map(|of| measure(of, plan)).collect();
        Some(ByRuns { rows: Arc::new(plan.clone()), keys, measures: measures? })
    }

    /// The states of the batch's runs; none if there are too many runs to be worth it.
    fn states(&self, batch: &RecordBatch, seen: &mut Seen) -> Result<Option<RecordBatch>> {
        let rows = batch.num_rows();
        let array = |expr: &Arc<dyn PhysicalExpr>| expr.evaluate(batch)?.into_array(rows);
        let keys: Vec<ArrayRef> = self.keys.iter().map(array).collect::<Result<_>>()?;
        let starts = starts(&keys)?;
        seen.rows += rows;
        seen.runs += starts.len();
        if seen.runs * RUN_ROWS_MIN > seen.rows + SHORT_RUNS_MAX * RUN_ROWS_MIN {
            return Ok(None);
        }
        let at = UInt32Array::from(starts.clone());
        let mut columns = Vec::with_capacity(keys.len() + 2 * self.measures.len());
        for key in &keys {
            let values = take(key, &at, None)?;
            // A view would hold on to the whole page that it points into.
            columns.push(match values.data_type() {
                DataType::Utf8View => Arc::new(values.as_string_view().gc()),
                _ => values,
            });
        }
        for (measure, argument) in self.measures.iter() {
            measure.add_up(&argument.evaluate(batch)?, &starts, rows, &mut columns)?;
        }
        Ok(Some(RecordBatch::try_new(self.rows.schema(), columns)?))
    }

    /// The original operator over what is left of its input.
    fn hand_over(
        &self,
        first: RecordBatch,
        rest: SendableRecordBatchStream,
        context: &Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let schema = rest.schema();
        let left = futures::stream::iter([Ok(first)]).chain(rest);
        let left: SendableRecordBatchStream =
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&schema), left));
        let left = Arc::new(Left { schema: Arc::clone(&schema), stream: Mutex::new(Some(left)) });
        let left = StreamingTableExec::try_new(schema, vec![left], None, [], false, None)?;
        let rows = Arc::clone(&self.rows) as Arc<dyn ExecutionPlan>;
        rows.with_new_children(vec![Arc::new(left)])?.execute(0, Arc::clone(context))
    }
}

/// How a function is added up, if it is one of those that we know.
fn measure(
    of: &AggregateFunctionExpr,
    plan: &AggregateExec,
) -> Option<(Measure, Arc<dyn PhysicalExpr>)> {
    let arguments = of.expressions();
    let [argument] = &arguments[..] else { return None };
    if of.is_distinct() || !of.order_bys().is_empty() {
        return None;
    }
    let input = argument.data_type(&plan.input_schema()).ok()?;
    let fields = of.state_fields().ok()?;
    let states: Vec<&DataType> = fields.iter().map(|field| field.data_type()).collect();
    let measure = Measure::of(of.fun().name(), &input, &states)?;
    Some((measure, Arc::clone(argument)))
}

/// What was seen so far.
#[derive(Default)]
struct Seen {
    rows: usize,
    runs: usize,
}

/// The rows at which a run begins.
pub(crate) fn starts(keys: &[ArrayRef]) -> Result<Vec<u32>> {
    let (texts, others): (Vec<&ArrayRef>, Vec<&ArrayRef>) = keys
        .iter()
        .partition(|key| *key.data_type() == DataType::Utf8View && key.null_count() == 0);
    let rows = keys.first().map_or(0, |key| key.len());
    let mut begins = vec![false; rows];
    if let Some(first) = begins.first_mut() {
        *first = true;
    }
    if !others.is_empty() {
        let others: Vec<ArrayRef> = others.into_iter().cloned().collect();
        for range in partition(&others)?.ranges() {
            begins[range.start] = true;
        }
    }
    for text in texts {
        mark_texts(text.as_string_view(), &mut begins);
    }
    Ok((0u32..).zip(begins).filter_map(|(row, begins)| begins.then_some(row)).collect())
}

/// Texts that were made of a dictionary are the same where their views are, so that most are
/// compared without a look at their bytes.
fn mark_texts(texts: &StringViewArray, begins: &mut [bool]) {
    let views = texts.views();
    for row in 1..views.len() {
        if views[row] != views[row - 1] && texts.value(row) != texts.value(row - 1) {
            begins[row] = true;
        }
    }
}

enum Step {
    /// States that wait to be handed on together.
    Runs(SendableRecordBatchStream, Vec<RecordBatch>, Seen),
    Rows(SendableRecordBatchStream),
    End,
}

async fn step(
    by_runs: &ByRuns,
    mut step: Step,
    context: &Arc<TaskContext>,
) -> Result<Option<(RecordBatch, Step)>> {
    let schema = by_runs.rows.schema();
    loop {
        match step {
            Step::Runs(mut input, mut waiting, mut seen) => match input.next().await.transpose()? {
                None => {
                    if waiting.is_empty() {
                        return Ok(None);
                    }
                    return Ok(Some((concat_batches(&schema, &waiting)?, Step::End)));
                }
                Some(batch) if batch.num_rows() == 0 => step = Step::Runs(input, waiting, seen),
                Some(batch) => match by_runs.states(&batch, &mut seen)? {
                    Some(states) => {
                        waiting.push(states);
                        if waiting.iter().map(RecordBatch::num_rows).sum::<usize>() < STATES {
                            step = Step::Runs(input, waiting, seen);
                            continue;
                        }
                        let states = concat_batches(&schema, &waiting)?;
                        return Ok(Some((states, Step::Runs(input, Vec::new(), seen))));
                    }
                    None => {
                        step = Step::Rows(by_runs.hand_over(batch, input, context)?);
                        if !waiting.is_empty() {
                            return Ok(Some((concat_batches(&schema, &waiting)?, step)));
                        }
                    }
                },
            },
            Step::Rows(mut rows) => {
                return Ok(rows.next().await.transpose()?.map(|batch| (batch, Step::Rows(rows))));
            }
            Step::End => return Ok(None),
        }
    }
}

impl DisplayAs for ByRuns {
    fn fmt_as(&self, kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ByRuns: ")?;
        self.rows.fmt_as(kind, f)
    }
}

impl ExecutionPlan for ByRuns {
    fn name(&self) -> &'static str {
        "ByRuns"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.rows.properties()
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        self.rows.required_input_distribution()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.rows.children()
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = Arc::clone(&self.rows) as Arc<dyn ExecutionPlan>;
        let rows = rows.with_new_children(children)?;
        Ok(match rows.downcast_ref::<AggregateExec>().and_then(ByRuns::around) {
            Some(by_runs) => Arc::new(by_runs),
            None => rows,
        })
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let input = self.rows.input().execute(partition, Arc::clone(&context))?;
        let by_runs = self.clone();
        let first = Step::Runs(input, Vec::new(), Seen::default());
        let states = try_unfold(first, move |next| {
            let (by_runs, context) = (by_runs.clone(), Arc::clone(&context));
            async move { step(&by_runs, next, &context).await }
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.rows.schema(), states)))
    }
}

/// An input that somebody has begun to read.
struct Left {
    schema: SchemaRef,
    stream: Mutex<Option<SendableRecordBatchStream>>,
}

impl fmt::Debug for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what is left of an input")
    }
}

impl PartitionStream for Left {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let taken = self.stream.lock().ok().and_then(|mut stream| stream.take());
        taken.unwrap_or_else(|| {
            let twice = DataFusionError::Internal("an input was read twice".into());
            let failed = futures::stream::iter([Err(twice)]);
            Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), failed))
        })
    }
}
