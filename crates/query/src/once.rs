//! An input that can be read once.
//!
//! A nested-loop join that runs out of memory for its left side reads that side again, to spill it.
//! DataFusion 54 does so also where it cannot: what was repartitioned panics when it is read again,
//! and a join that tells of rows of the left side without a match (`LEFT`, `NOT EXISTS`, ...) does
//! so once for every partition of the right side. Such a join has to end with its first error.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use datafusion::common::{DataFusionError, JoinType, resources_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, OrderingRequirements};
use datafusion::physical_plan::joins::NestedLoopJoinExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties,
};

use crate::replace::Replace;

type Result<T, E = DataFusionError> = std::result::Result<T, E>;

/// Puts [`Once`] below joins that must not read their left side again.
pub(crate) const RULE: Replace = Replace {
    name: "read_once",
    instead: |plan| {
        let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() else { return Ok(None) };
        let tells_of_left = matches!(
            join.join_type(),
            JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark
        );
        let in_parts = join.right().output_partitioning().partition_count() > 1;
        if !(tells_of_left && in_parts || repartitions(join.left())) {
            return Ok(None);
        }
        let left = Arc::new(Once { input: Arc::clone(join.left()), read: AtomicBool::new(false) });
        let sides: Vec<Arc<dyn ExecutionPlan>> = vec![left, Arc::clone(join.right())];
        Arc::clone(plan).with_new_children(sides).map(Some)
    },
};

fn repartitions(plan: &Arc<dyn ExecutionPlan>) -> bool {
    plan.is::<RepartitionExec>() || plan.children().into_iter().any(repartitions)
}

/// Its input, to whoever asks first.
#[derive(Debug)]
struct Once {
    input: Arc<dyn ExecutionPlan>,
    read: AtomicBool,
}

impl DisplayAs for Once {
    fn fmt_as(&self, _kind: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Once")
    }
}

impl ExecutionPlan for Once {
    fn name(&self) -> &'static str {
        "Once"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn required_input_distribution(&self) -> Vec<Distribution> {
        vec![Distribution::SinglePartition]
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        vec![None]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let [input] = <[_; 1]>::try_from(children).map_err(|children| {
            DataFusionError::Internal(format!("{} inputs to read once", children.len()))
        })?;
        Ok(Arc::new(Once { input, read: AtomicBool::new(false) }))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        // A join's left side has a single partition.
        if self.read.swap(true, Ordering::Relaxed) {
            return resources_err!("a join's left side does not fit and could not be spilled");
        }
        self.input.execute(partition, context)
    }
}
