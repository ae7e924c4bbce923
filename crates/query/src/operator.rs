//! Steps of a graph that DataFusion has no operator for: rows in, rows out, in order.
//!
//! A step sees batches one after another and keeps what it must from one to the next. What it
//! needs sorted it says, and the planner sorts below it, on disk if memory is short.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DataFusionError;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, LogicalPlan, TableType};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{
    EquivalenceProperties, LexOrdering, OrderingRequirements, PhysicalSortExpr,
};
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, Partitioning, PhysicalExpr,
    PlanProperties,
};
use futures::StreamExt;

type Result<T, E = DataFusionError> = std::result::Result<T, E>;

/// Rows of one input on their way to the output.
pub(crate) trait Step: Send {
    /// Takes a batch; what can be handed on.
    fn batch(&mut self, batch: RecordBatch) -> base::Result<Vec<RecordBatch>>;

    /// The input has ended; what is left.
    fn end(&mut self) -> base::Result<Vec<RecordBatch>> {
        Ok(Vec::new())
    }
}

/// Makes the output stream of the input streams, within a pool of memory. Called for each
/// execution of the plan.
pub(crate) type Make = Arc<
    dyn Fn(Vec<SendableRecordBatchStream>, &Arc<dyn MemoryPool>) -> SendableRecordBatchStream
        + Send
        + Sync,
>;

/// One input: its rows, and the columns it must be sorted by.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    pub(crate) plan: LogicalPlan,
    pub(crate) sorted_by: Vec<usize>,
}

/// The rows that a step makes, as a table.
pub(crate) struct Operator {
    name: &'static str,
    inputs: Vec<Input>,
    schema: SchemaRef,
    make: Make,
    /// Rows are left out and nothing else, so what is known of the input's order stays true.
    sieves: bool,
}

impl Operator {
    pub(crate) fn new(
        name: &'static str,
        inputs: Vec<Input>,
        schema: SchemaRef,
        make: Make,
    ) -> Self {
        Operator { name, inputs, schema, make, sieves: false }
    }

    /// A step over one input.
    pub(crate) fn step<S: Step + 'static>(
        name: &'static str,
        input: Input,
        schema: SchemaRef,
        step: impl Fn() -> S + Send + Sync + 'static,
    ) -> Self {
        let of = Arc::clone(&schema);
        let make: Make = Arc::new(move |inputs, _pool| {
            let input = inputs.into_iter().next();
            drive(input, Arc::clone(&of), step())
        });
        Operator::new(name, vec![input], schema, make)
    }

    /// A step that leaves rows of its input out, and keeps what it remembers within the pool.
    pub(crate) fn sieve<S: Step + 'static>(
        name: &'static str,
        input: Input,
        step: impl Fn(&Arc<dyn MemoryPool>) -> S + Send + Sync + 'static,
    ) -> Self {
        let schema = Arc::clone(input.plan.schema().inner());
        let of = Arc::clone(&schema);
        let make: Make = Arc::new(move |inputs, pool| {
            let input = inputs.into_iter().next();
            drive(input, Arc::clone(&of), step(pool))
        });
        Operator { sieves: true, ..Operator::new(name, vec![input], schema, make) }
    }
}

/// Pulls the input through the step.
fn drive(
    input: Option<SendableRecordBatchStream>,
    schema: SchemaRef,
    step: impl Step + 'static,
) -> SendableRecordBatchStream {
    let rows = futures::stream::unfold((input, step), |(mut input, mut step)| async move {
        let rows = match input.as_mut()?.next().await {
            Some(Ok(batch)) => step.batch(batch),
            Some(Err(error)) => return Some((vec![Err(error)], (None, step))),
            None => {
                input = None;
                step.end()
            }
        };
        match rows {
            Ok(rows) => Some((rows.into_iter().map(Ok).collect(), (input, step))),
            Err(error) => Some((vec![Err(crate::error::wrap(error))], (None, step))),
        }
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, rows.flat_map(futures::stream::iter)))
}

impl fmt::Debug for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)
    }
}

#[async_trait]
impl TableProvider for Operator {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
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
        let mut children = Vec::with_capacity(self.inputs.len());
        let mut orders = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let mut plan = state.create_physical_plan(&input.plan).await?;
            if plan.properties().partitioning.partition_count() > 1 {
                plan = Arc::new(CoalescePartitionsExec::new(plan));
            }
            let schema = plan.schema();
            let by = input.sorted_by.iter().map(|&column| {
                let name = schema.field(column).name();
                PhysicalSortExpr::new_default(Arc::new(Column::new(name, column)))
            });
            orders.push(LexOrdering::new(by));
            children.push(plan);
        }
        let properties = properties(&self.schema, &children, self.sieves);
        let plan: Arc<dyn ExecutionPlan> = Arc::new(OperatorExec {
            name: self.name,
            children,
            orders,
            make: Arc::clone(&self.make),
            sieves: self.sieves,
            properties,
        });
        let Some(projection) = projection else { return Ok(plan) };
        let column = |&index: &usize| {
            let name = self.schema.field(index).name();
            let expr: Arc<dyn PhysicalExpr> = Arc::new(Column::new(name, index));
            (expr, name.clone())
        };
        let columns: Vec<_> = projection.iter().map(column).collect();
        Ok(Arc::new(ProjectionExec::try_new(columns, plan)?))
    }
}

fn properties(
    schema: &SchemaRef,
    children: &[Arc<dyn ExecutionPlan>],
    sieves: bool,
) -> Arc<PlanProperties> {
    let known = match children {
        [input] if sieves => input.properties().eq_properties.clone(),
        _ => EquivalenceProperties::new(Arc::clone(schema)),
    };
    Arc::new(PlanProperties::new(
        known,
        Partitioning::UnknownPartitioning(1),
        EmissionType::Incremental,
        Boundedness::Bounded,
    ))
}

struct OperatorExec {
    name: &'static str,
    children: Vec<Arc<dyn ExecutionPlan>>,
    orders: Vec<Option<LexOrdering>>,
    make: Make,
    sieves: bool,
    properties: Arc<PlanProperties>,
}

impl fmt::Debug for OperatorExec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)
    }
}

impl DisplayAs for OperatorExec {
    fn fmt_as(&self, _as: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)
    }
}

impl ExecutionPlan for OperatorExec {
    fn name(&self) -> &'static str {
        self.name
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        vec![Distribution::SinglePartition; self.children.len()]
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        self.orders.iter().map(|order| order.clone().map(OrderingRequirements::from)).collect()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true; self.children.len()]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.children.iter().collect()
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if children.len() != self.children.len() {
            return Err(DataFusionError::Internal("a step has other inputs than planned".into()));
        }
        // A child may be sorted otherwise than it was, or no longer.
        let properties = properties(&self.schema(), &children, self.sieves);
        Ok(Arc::new(OperatorExec {
            name: self.name,
            children,
            orders: self.orders.clone(),
            make: Arc::clone(&self.make),
            sieves: self.sieves,
            properties,
        }))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        if partition != 0 {
            return Err(DataFusionError::Internal(format!("a step has no part {partition}")));
        }
        let inputs: Result<Vec<_>> =
            self.children.iter().map(|child| child.execute(0, Arc::clone(&context))).collect();
        Ok((self.make)(inputs?, context.memory_pool()))
    }
}
