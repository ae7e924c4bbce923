//! `FROM t CROSS JOIN UNNEST(t.list) AS u(x)`.
//!
//! DataFusion plans the right side as a sub-query that refers to the left one, and then cannot
//! run it. Here such a join becomes what it means: the left rows, beside them the lists, and
//! these taken apart.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DataFusionError, JoinType};
use datafusion::logical_expr::{
    EmptyRelation, Expr, Join, LogicalPlan, LogicalPlanBuilder, Projection, SubqueryAlias, Unnest,
};

type Result<T> = std::result::Result<T, DataFusionError>;

/// The plan without joins of lists of its own rows.
pub(crate) fn unnested(plan: LogicalPlan) -> Result<LogicalPlan> {
    let one = |plan: LogicalPlan| {
        if let LogicalPlan::Join(join) = &plan
            && let Some(other) = without_join(join)?
        {
            return Ok(Transformed::yes(other));
        }
        Ok(Transformed::no(plan))
    };
    Ok(plan.transform_up_with_subqueries(one)?.data)
}

fn without_join(join: &Join) -> Result<Option<LogicalPlan>> {
    // What refers to the left side is a sub-query, beneath its alias if it has one.
    let refers = match &*join.right {
        LogicalPlan::Subquery(_) => true,
        LogicalPlan::SubqueryAlias(alias) => matches!(&*alias.input, LogicalPlan::Subquery(_)),
        _ => false,
    };
    if !refers {
        return Ok(None);
    }
    let crossed = join.join_type == JoinType::Inner && join.on.is_empty() && join.filter.is_none();
    let (left, mut unnests) = ((*join.left).clone(), false);
    let beside = beside(&join.right, &left, &mut unnests)?;
    Ok(beside.filter(|_| crossed && unnests))
}

/// A plan over one row as the same over each row of `left`, whose columns come first; nothing
/// for a plan of another shape.
fn beside(
    plan: &LogicalPlan,
    left: &LogicalPlan,
    unnests: &mut bool,
) -> Result<Option<LogicalPlan>> {
    let columns =
        || left.schema().iter().map(|(table, field)| Expr::Column(Column::from((table, field))));
    Ok(match plan {
        LogicalPlan::EmptyRelation(EmptyRelation { produce_one_row: true, .. }) => {
            Some(left.clone())
        }
        LogicalPlan::Subquery(inner) => beside(&inner.subquery, left, unnests)?,
        LogicalPlan::Projection(Projection { expr, input, .. }) => {
            let Some(input) = beside(input, left, unnests)? else { return Ok(None) };
            let own: Result<Vec<Expr>> = expr.iter().cloned().map(of_the_row).collect();
            let all = columns().chain(own?);
            Some(LogicalPlanBuilder::from(input).project(all)?.build()?)
        }
        LogicalPlan::Unnest(Unnest { input, exec_columns, options, .. }) => {
            let Some(input) = beside(input, left, unnests)? else { return Ok(None) };
            *unnests = true;
            let (columns, options) = (exec_columns.clone(), options.clone());
            let builder = LogicalPlanBuilder::from(input);
            Some(builder.unnest_columns_with_options(columns, options)?.build()?)
        }
        LogicalPlan::SubqueryAlias(SubqueryAlias { input, alias, .. }) => {
            let inner = input.schema().clone();
            let Some(input) = beside(input, left, unnests)? else { return Ok(None) };
            let own = inner.iter().map(|(table, field)| {
                Expr::Column(Column::from((table, field)))
                    .alias_qualified(Some(alias.clone()), field.name().clone())
            });
            Some(LogicalPlanBuilder::from(input).project(columns().chain(own))?.build()?)
        }
        _ => None,
    })
}

/// What a sub-query says of the row outside, said of the row itself. It keeps its name, by which
/// others refer to it.
fn of_the_row(expr: Expr) -> Result<Expr> {
    let name = expr.schema_name().to_string();
    let inner = expr.transform(|expr| {
        Ok(match expr {
            Expr::OuterReferenceColumn(_, column) => Transformed::yes(Expr::Column(column)),
            other => Transformed::no(other),
        })
    })?;
    Ok(match inner.transformed {
        true if !matches!(inner.data, Expr::Alias(_)) => inner.data.alias(name),
        _ => inner.data,
    })
}
