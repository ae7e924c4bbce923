//! `x IN (SELECT ...)` where null is not as good as false.
//!
//! `x IN (S)` is null if `x` is null or a null is among `S`, and nothing there equals `x`. For a
//! condition that is as good as false. But where it is negated, by `NOT IN` or from further out,
//! DataFusion 54 takes null for false, so that it comes out true: always but where `NOT IN` is a
//! condition by itself, and there, too, once another condition on `x` has taken the nulls out of `S`.
//! So there the question is put together of others that have no null:
//!
//! ```text
//! CASE WHEN x IN (S) THEN TRUE
//!      WHEN x IS NULL AND S has rows OR S has nulls THEN NULL
//!      ELSE FALSE END
//! ```

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use base::{Error, Result};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, CaseWhen, Expr, GroupByExpr, Ident, ObjectNamePart, Query, Select, SelectItem,
    SetExpr, TableFactor, Value, Visit, VisitMut, Visitor, VisitorMut,
};

/// What the column of a sub-query is called. DataFusion mistakes an aggregate without a name of its
/// own for the one that it makes of it, and a column that is cast to be compared for the same column
/// where that ties the sub-query to the rows around it.
const FOUND: &str = "__found";

/// Rewrites the conditions of a statement's WHERE and HAVING; answers how many expressions more
/// there are.
pub(super) fn conditions(select: &mut Select) -> Result<usize> {
    let mut added = 0;
    for condition in [&mut select.selection, &mut select.having].into_iter().flatten() {
        positive(condition, &mut added)?;
    }
    Ok(added)
}

/// A condition, or a part of it, for which null is as good as false.
fn positive(expr: &mut Expr, added: &mut usize) -> Result<()> {
    match expr {
        Expr::Nested(inner) => positive(inner, added),
        Expr::BinaryOp { left, op: BinaryOperator::And | BinaryOperator::Or, right } => {
            positive(left, added)?;
            positive(right, added)
        }
        Expr::InSubquery { subquery, negated: false, .. } => {
            name(subquery);
            Ok(())
        }
        _ => question(expr, added),
    }
}

/// Anything else: every question in it, but for those within sub-queries.
fn question(expr: &mut Expr, added: &mut usize) -> Result<()> {
    let mut questions = Questions { depth: 0, added: 0 };
    match VisitMut::visit(expr, &mut questions) {
        ControlFlow::Continue(()) => {
            *added += questions.added;
            Ok(())
        }
        ControlFlow::Break(error) => Err(error),
    }
}

struct Questions {
    depth: usize,
    added: usize,
}

impl VisitorMut for Questions {
    type Break = Error;

    fn pre_visit_query(&mut self, _: &mut Query) -> ControlFlow<Error> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &mut Query) -> ControlFlow<Error> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Error> {
        if self.depth > 0 || !matches!(expr, Expr::InSubquery { .. }) {
            return ControlFlow::Continue(());
        }
        let mut size = super::Size(0);
        let ControlFlow::Continue(()) = VisitMut::visit(expr, &mut size);
        self.added += 2 * size.0;
        match case(expr) {
            Ok(case) => {
                *expr = case;
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error),
        }
    }
}

fn case(question: &Expr) -> Result<Expr> {
    let Expr::InSubquery { expr, subquery, negated } = question else {
        return Err(Error::internal("no question"));
    };
    let (expr, negated) = (expr.clone(), *negated);
    let mut subquery = subquery.clone();
    name(&mut subquery);
    let truth = |truth| Expr::value(Value::Boolean(truth));
    let both =
        |left, op, right| Expr::BinaryOp { left: Box::new(left), op, right: Box::new(right) };
    let nothing_to_compare = both(
        Expr::IsNull(Box::new(Expr::Nested(expr.clone()))),
        BinaryOperator::And,
        there_are(&subquery, false)?,
    );
    let unknown = both(
        Expr::Nested(Box::new(nothing_to_compare)),
        BinaryOperator::Or,
        there_are(&subquery, true)?,
    );
    let found = Expr::InSubquery { expr, subquery, negated: false };
    let mut case = super::template("CASE WHEN found THEN unknown ELSE unknown END")?;
    if let Expr::Case { conditions, else_result, .. } = &mut case {
        *conditions = vec![
            CaseWhen { condition: found, result: truth(!negated) },
            CaseWhen { condition: unknown, result: Expr::value(Value::Null) },
        ];
        *else_result = Some(Box::new(truth(negated)));
    }
    Ok(case)
}

/// Whether a sub-query of one column has rows, or such as are null. They are counted: a count is taken
/// once for all rows around it, or once for each key, where EXISTS without a key would be a join that
/// holds all of them.
fn there_are(query: &Query, nulls: bool) -> Result<Expr> {
    let condition = if nulls { format!(" WHERE {FOUND} IS NULL") } else { String::new() };
    let text = format!("(SELECT count(*) FROM (SELECT 1) AS {FOUND}({FOUND}){condition}) > 0");
    let mut there_are = super::template(&text)?;
    let counting = match &mut there_are {
        Expr::BinaryOp { left, .. } => match &mut **left {
            Expr::Subquery(count) => match &mut *count.body {
                SetExpr::Select(counting) => Some(counting),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    };
    let counting = counting.ok_or_else(|| Error::internal(format!("the meaning {text:?}")))?;
    if let SetExpr::Select(select) = &*query.body
        && let Some(column) = plain_column(query, select)
    {
        let is_null = Expr::IsNull(Box::new(Expr::Nested(Box::new(column.clone()))));
        counting.from.clone_from(&select.from);
        counting.selection = match (select.selection.clone(), nulls) {
            (Some(condition), true) => Some(Expr::BinaryOp {
                left: Box::new(Expr::Nested(Box::new(condition))),
                op: BinaryOperator::And,
                right: Box::new(is_null),
            }),
            (None, true) => Some(is_null),
            (condition, false) => condition,
        };
    } else if names_others(query) {
        return Err(Error::unsupported(
            "NOT IN, or IN within a larger condition, of a sub-query that names a table around it and \
             is more than SELECT column FROM ... WHERE is not supported: use EXISTS or NOT EXISTS",
        ));
    } else if let Some(TableFactor::Derived { subquery, .. }) =
        counting.from.first_mut().map(|from| &mut from.relation)
    {
        **subquery = query.clone();
    }
    Ok(there_are)
}

/// The column of a query whose rows are those of its FROM and WHERE.
fn plain_column<'a>(query: &Query, select: &'a Select) -> Option<&'a Expr> {
    let [SelectItem::UnnamedExpr(column) | SelectItem::ExprWithAlias { expr: column, .. }] =
        &select.projection[..]
    else {
        return None;
    };
    let groups = match &select.group_by {
        GroupByExpr::Expressions(groups, _) => !groups.is_empty(),
        GroupByExpr::All(_) => true,
    };
    let is_plain = query.with.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
        && query.order_by.is_none()
        && select.distinct.is_none()
        && select.having.is_none()
        && select.qualify.is_none()
        && !groups;
    let is_field = matches!(column, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
    (is_plain && is_field).then_some(column)
}

/// Gives the column of a sub-query a name that nothing else has.
fn name(query: &mut Query) {
    if let SetExpr::Select(select) = &mut *query.body
        && let [item] = &mut select.projection[..]
        && let SelectItem::UnnamedExpr(expr) = item
        // What rows are ordered by may have to be what is selected, by its name.
        && !(query.order_by.is_some() && super::is_named(expr))
    {
        let expr = std::mem::replace(expr, Expr::value(Value::Null));
        *item = SelectItem::ExprWithAlias { expr, alias: Ident::new(FOUND) };
    }
}

/// Whether a sub-query speaks of tables that are none of its own, as far as they are named.
fn names_others(query: &Query) -> bool {
    let mut names = Names::default();
    let ControlFlow::Continue(()) = Visit::visit(query, &mut names);
    !names.used.is_subset(&names.own)
}

#[derive(Default)]
struct Names {
    own: BTreeSet<String>,
    used: BTreeSet<String>,
}

impl Visitor for Names {
    type Break = std::convert::Infallible;

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        let alias = match factor {
            TableFactor::Table { name, alias, .. } => {
                let last = match name.0.last() {
                    Some(ObjectNamePart::Identifier(name)) => Some(name),
                    _ => None,
                };
                self.own.extend(last.map(|name| name.value.to_lowercase()));
                alias
            }
            TableFactor::Derived { alias, .. }
            | TableFactor::UNNEST { alias, .. }
            | TableFactor::NestedJoin { alias, .. } => alias,
            _ => &None,
        };
        self.own.extend(alias.as_ref().map(|alias| alias.name.value.to_lowercase()));
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Self::Break> {
        if let Expr::CompoundIdentifier(parts) = expr
            && let [.., table, _] = &parts[..]
        {
            self.used.insert(table.value.to_lowercase());
        }
        ControlFlow::Continue(())
    }
}
