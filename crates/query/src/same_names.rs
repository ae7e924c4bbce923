//! Filters that find their column by its name, where two columns have it.
//!
//! DataFusion 54 hands a filter down a finished plan by the names of columns. Behind a projection of
//! `t.id` and `u.id`, which are both called `id` there, the one on `t.id` went to `u`: `SELECT t.id,
//! u.id FROM t RIGHT JOIN u ON t.id = u.id AND u.x > 1 WHERE t.id IS NULL` had no rows. What a sort
//! with a LIMIT learns goes the same way. So a plan in which two columns of one step have the same name
//! is left as it is; its filters were pushed down before by names that say the table as well.

use std::collections::HashSet;
use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::{DataFusionError, tree_node::TreeNode, tree_node::TreeNodeRecursion};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_optimizer::optimizer::PhysicalOptimizer;
use datafusion::physical_plan::ExecutionPlan;

type Result<T, E = DataFusionError> = std::result::Result<T, E>;
type Rule = Arc<dyn PhysicalOptimizerRule + Send + Sync>;

/// DataFusion's own rules for finished plans, those among them that go by names with care.
pub(crate) fn rules() -> Vec<Rule> {
    let with_care = |rule: Rule| match rule.name().starts_with("FilterPushdown") {
        true => Arc::new(WithCare(rule)) as Rule,
        false => rule,
    };
    PhysicalOptimizer::new().rules.into_iter().map(with_care).collect()
}

#[derive(Debug)]
struct WithCare(Rule);

impl PhysicalOptimizerRule for WithCare {
    fn optimize(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        config: &ConfigOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if has_same_names(&plan)? { Ok(plan) } else { self.0.optimize(plan, config) }
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

fn has_same_names(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let mut found = false;
    plan.apply(|step| {
        let schema = step.schema();
        let mut names = HashSet::new();
        found |= !schema.fields().iter().all(|field| names.insert(field.name()));
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}
