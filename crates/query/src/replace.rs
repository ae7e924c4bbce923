//! Operators of ours in the place of DataFusion's, as the last thing that is done to a plan.

use std::sync::Arc;

use datafusion::common::DataFusionError;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;

/// Which operator takes the place of one; none if that one stays.
type Instead = fn(&Arc<dyn ExecutionPlan>) -> Result<Option<Arc<dyn ExecutionPlan>>>;

type Result<T, E = DataFusionError> = std::result::Result<T, E>;

/// Goes through a plan from its leaves up.
#[derive(Debug)]
pub(crate) struct Replace {
    pub(crate) name: &'static str,
    pub(crate) instead: Instead,
}

impl PhysicalOptimizerRule for Replace {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        _options: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let replace = |plan: Arc<dyn ExecutionPlan>| {
            Ok(match (self.instead)(&plan)? {
                Some(other) => Transformed::yes(other),
                None => Transformed::no(plan),
            })
        };
        plan.transform_up(replace).data()
    }

    fn name(&self) -> &str {
        self.name
    }

    fn schema_check(&self) -> bool {
        true
    }
}
