//! Questions to an aggregate without GROUP BY that names a table around it.
//!
//! Such a sub-query always has one row: of no rows, a count is 0 and a sum is null. DataFusion 54
//! makes a join of the question, with the aggregate grouped by what ties it to the rows around it, so
//! that there is no row where nothing matches. So `EXISTS` is answered here, `IN` becomes a comparison
//! with the one value, which DataFusion knows how to make for no rows, and where the row may be taken
//! away again (HAVING, OFFSET) the question is refused. So is one to any sub-query that names a table
//! around it and skips rows of its own by OFFSET, which is passed over.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, not_impl_err};
use datafusion::logical_expr::expr::{Exists, InSubquery};
use datafusion::logical_expr::{
    Aggregate, Expr, Filter, Limit, LogicalPlan, Operator, Projection, Sort, Subquery,
    SubqueryAlias, binary_expr, lit,
};
use datafusion::optimizer::AnalyzerRule;

type Result<T, E = DataFusionError> = std::result::Result<T, E>;

#[derive(Debug)]
pub(crate) struct OneGroup;

impl AnalyzerRule for OneGroup {
    fn name(&self) -> &'static str {
        "one_group"
    }

    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> Result<LogicalPlan> {
        let rewritten = plan.transform_up_with_subqueries(|plan| {
            plan.map_expressions(|expr| expr.transform_up(answer))
        })?;
        Ok(rewritten.data)
    }
}

fn answer(expr: Expr) -> Result<Transformed<Expr>> {
    match expr {
        Expr::Exists(Exists { subquery, negated }) if has_one_row(&subquery)? => {
            Ok(Transformed::yes(lit(!negated)))
        }
        Expr::InSubquery(InSubquery { expr, subquery, negated }) if has_one_row(&subquery)? => {
            let compares = if negated { Operator::NotEq } else { Operator::Eq };
            let row = Expr::ScalarSubquery(subquery);
            Ok(Transformed::yes(binary_expr(*expr, compares, row)))
        }
        other => Ok(Transformed::no(other)),
    }
}

/// Whether it names a table around it and has one row whatever that holds.
fn has_one_row(subquery: &Subquery) -> Result<bool> {
    if subquery.outer_ref_columns.is_empty() {
        return Ok(false);
    }
    let mut plan = &subquery.subquery;
    let mut taken_away = false;
    loop {
        plan = match &**plan {
            LogicalPlan::Projection(Projection { input, .. })
            | LogicalPlan::SubqueryAlias(SubqueryAlias { input, .. })
            | LogicalPlan::Sort(Sort { input, fetch: None, .. }) => input,
            LogicalPlan::Filter(Filter { input, .. }) => {
                taken_away = true;
                input
            }
            LogicalPlan::Limit(Limit { input, skip, fetch }) => {
                if skip.is_some() && names_others(input)? {
                    return not_impl_err!(
                        "OFFSET in a sub-query that names a table around it is not supported: number \
                         its rows with row_number() and take those beyond"
                    );
                }
                let one =
                    |fetch: &Expr| matches!(fetch, Expr::Literal(n, _) if n.to_string() != "0");
                taken_away |= skip.is_some() || !fetch.as_deref().is_none_or(one);
                input
            }
            LogicalPlan::Aggregate(Aggregate { input, group_expr, .. }) => {
                if !group_expr.is_empty() || !names_others(input)? {
                    return Ok(false);
                }
                if taken_away {
                    return not_impl_err!(
                        "HAVING, LIMIT or a condition on an aggregate without GROUP BY that names a \
                         table around it, in IN or EXISTS, is not supported: compare the aggregate \
                         itself, as (SELECT count(*) FROM u WHERE u.k = t.k) > 1"
                    );
                }
                return Ok(true);
            }
            _ => return Ok(false),
        };
    }
}

/// Whether a plan below speaks of columns from around it.
fn names_others(plan: &Arc<LogicalPlan>) -> Result<bool> {
    let mut found = false;
    plan.apply(|plan| {
        found |= plan.contains_outer_reference();
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}
