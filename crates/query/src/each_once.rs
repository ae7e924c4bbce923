//! What a row is looked for among, each value once.
//!
//! `x IN (SELECT y ...)`, EXISTS, EXCEPT and INTERSECT ask whether there is a match, not how many. The
//! hash join that DataFusion makes of them goes through all of them nevertheless: of readings, where
//! a device has thousands of rows on both sides, through the square of that. So the side that is only
//! looked at is made distinct first, which costs one pass over it.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{DataFusionError, JoinType};
use datafusion::logical_expr::{Expr, Join, LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};

type Result<T, E = DataFusionError> = std::result::Result<T, E>;

#[derive(Debug)]
pub(crate) struct EachOnce;

impl OptimizerRule for EachOnce {
    fn name(&self) -> &'static str {
        "each_once"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn supports_rewrite(&self) -> bool {
        true
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Join(join) = plan else { return Ok(Transformed::no(plan)) };
        Ok(match distinct(&join)? {
            Some(join) => Transformed::yes(LogicalPlan::Join(join)),
            None => Transformed::no(LogicalPlan::Join(join)),
        })
    }
}

/// The join with a right side that has each of its keys once, if that is all that is asked of it.
fn distinct(join: &Join) -> Result<Option<Join>> {
    let asks =
        matches!(join.join_type, JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark);
    // A condition beside the keys looks at more than them.
    if !asks || join.on.is_empty() || join.filter.is_some() || is_distinct(&join.right) {
        return Ok(None);
    }
    let is_key = |column: &_| join.on.iter().any(|(_, key)| key.column_refs().contains(column));
    let keys: Vec<Expr> =
        join.right.schema().columns().into_iter().filter(is_key).map(Expr::Column).collect();
    if keys.is_empty() {
        return Ok(None);
    }
    // Grouped, not `distinct`: the rule that makes a group of that comes before this one, and the
    // last time this one finds something may be after the last time that one looks.
    let none = Vec::<Expr>::new();
    let right = LogicalPlanBuilder::from(Arc::clone(&join.right)).aggregate(keys, none)?;
    let once = Join::try_new(
        Arc::clone(&join.left),
        Arc::new(right.build()?),
        join.on.clone(),
        None,
        join.join_type,
        join.join_constraint,
        join.null_equality,
        join.null_aware,
    )?;
    // The column that tells of a match may be named by the right side's tables.
    Ok((once.schema == join.schema).then_some(once))
}

/// Whether it was made distinct, or needs not be.
fn is_distinct(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Distinct(_) | LogicalPlan::EmptyRelation(_) => true,
        LogicalPlan::Aggregate(aggregate) => aggregate.aggr_expr.is_empty(),
        LogicalPlan::Projection(_)
        | LogicalPlan::SubqueryAlias(_)
        | LogicalPlan::Filter(_)
        | LogicalPlan::Sort(_)
        | LogicalPlan::Limit(_) => plan.inputs().into_iter().all(is_distinct),
        _ => false,
    }
}
