//! `"$path"`: the object that a row lies in, as `s3://bucket/key`.
//!
//! The column is hidden: a statement that does not name it never meets it. In one that does, tables are
//! read under names of their own, as `t$$path`, of which it is the last column, and every `*` leaves
//! it out. Views have no such column. It has one value an object, as a partition column has, so a condition on it is decided
//! before anything is read.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::ops::ControlFlow;

use base::{Error, Result};
use datafusion::sql::parser::Statement as Parsed;
use datafusion::sql::sqlparser::ast::{
    ExceptSelectItem, Expr, Ident, JoinConstraint, JoinOperator, ObjectName, ObjectNamePart, Query,
    Select, SelectItem, SelectItemQualifiedWildcardKind, Statement as Ast, TableAlias, TableFactor,
    TableWithJoins, Visit, VisitMut, Visitor, VisitorMut, WildcardAdditionalOptions,
};

/// The column.
pub(crate) const PATH: &str = "$path";

/// What ends the name of a table that shows it.
pub(crate) const SHOWN: &str = "$$path";

/// Shows the column of every table that `has_it`, if the statement names it, and says whether.
pub(crate) fn show(
    statement: &mut Parsed,
    has_it: &mut dyn FnMut(&ObjectName) -> Result<bool>,
) -> Result<bool> {
    let ast: &mut Ast = match statement {
        Parsed::Statement(ast) => ast,
        Parsed::Explain(explain) => return show(&mut explain.statement, has_it),
        _ => return Ok(false),
    };
    let mut names = Names::default();
    let ControlFlow::Continue(()) = Visit::visit(ast, &mut names);
    if !names.asked {
        return Ok(false);
    }
    match VisitMut::visit(ast, &mut Show { within: names.within, has_it }) {
        ControlFlow::Continue(()) => Ok(true),
        ControlFlow::Break(error) => Err(error),
    }
}

#[derive(Default)]
struct Names {
    asked: bool,
    /// Those that WITH gives, which are no tables.
    within: BTreeSet<String>,
}

impl Visitor for Names {
    type Break = Infallible;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Infallible> {
        let given = query.with.iter().flat_map(|with| &with.cte_tables);
        self.within.extend(given.map(|given| given.alias.name.value.to_lowercase()));
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Infallible> {
        let name = match expr {
            Expr::Identifier(name) => Some(name),
            Expr::CompoundIdentifier(names) => names.last(),
            _ => None,
        };
        self.asked |= name.is_some_and(|name| name.value == PATH);
        ControlFlow::Continue(())
    }
}

struct Show<'a> {
    within: BTreeSet<String>,
    has_it: &'a mut dyn FnMut(&ObjectName) -> Result<bool>,
}

impl VisitorMut for Show<'_> {
    type Break = Error;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        match self.select(select) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    }
}

impl Show<'_> {
    fn select(&mut self, select: &mut Select) -> Result<()> {
        let mut from = From::default();
        for tables in &mut select.from {
            self.tables(tables, &mut from)?;
        }
        if from.relations.iter().any(|relation| relation.shows) {
            let items: Result<Vec<_>> = std::mem::take(&mut select.projection)
                .into_iter()
                .map(|item| from.leave_out(item))
                .collect();
            select.projection = items?.into_iter().flatten().collect();
        }
        Ok(())
    }

    fn tables(&mut self, tables: &mut TableWithJoins, from: &mut From) -> Result<()> {
        self.relation(&mut tables.relation, from)?;
        for join in &mut tables.joins {
            self.relation(&mut join.relation, from)?;
            from.merges |= merges(&join.join_operator);
        }
        Ok(())
    }

    fn relation(&mut self, factor: &mut TableFactor, from: &mut From) -> Result<()> {
        let (name, shows) = match factor {
            TableFactor::NestedJoin { table_with_joins, .. } => {
                return self.tables(table_with_joins, from);
            }
            TableFactor::Table { name, alias, .. } => {
                let given = match &name.0[..] {
                    [ObjectNamePart::Identifier(own)] => {
                        self.within.contains(&own.value.to_lowercase())
                    }
                    _ => false,
                };
                let shows = !given && (self.has_it)(name)?;
                let Some(ObjectNamePart::Identifier(own)) = name.0.last_mut() else {
                    return Err(Error::internal("a table without a name"));
                };
                let called = alias.as_ref().map_or(&*own, |alias| &alias.name).clone();
                if shows {
                    own.value.push_str(SHOWN);
                    alias.get_or_insert_with(|| TableAlias {
                        explicit: true,
                        name: called.clone(),
                        columns: Vec::new(),
                        at: None,
                    });
                }
                (Some(called), shows)
            }
            TableFactor::Derived { alias, .. } | TableFactor::UNNEST { alias, .. } => {
                (alias.as_ref().map(|alias| alias.name.clone()), false)
            }
            _ => (None, false),
        };
        from.relations.push(Relation { name, shows });
        Ok(())
    }
}

/// What a SELECT reads from.
#[derive(Default)]
struct From {
    relations: Vec<Relation>,
    /// Whether a join makes one column of two.
    merges: bool,
}

struct Relation {
    name: Option<Ident>,
    shows: bool,
}

impl From {
    /// What stands for an item so that the column is not among the columns of a `*`.
    fn leave_out(&self, item: SelectItem) -> Result<Vec<SelectItem>> {
        Ok(match item {
            SelectItem::Wildcard(options) if self.relations.len() == 1 => {
                vec![SelectItem::Wildcard(without(options))]
            }
            SelectItem::Wildcard(options) => {
                let each = |relation: &Relation| {
                    let name = relation.name.clone().filter(|_| !self.merges)?;
                    let name = ObjectName(vec![ObjectNamePart::Identifier(name)]);
                    let kind = SelectItemQualifiedWildcardKind::ObjectName(name);
                    let options = options.clone();
                    let options = if relation.shows { without(options) } else { options };
                    Some(SelectItem::QualifiedWildcard(kind, options))
                };
                let each: Option<Vec<SelectItem>> = self.relations.iter().map(each).collect();
                each.ok_or_else(|| {
                    Error::unsupported(
                        "\"$path\" beside * over a join with USING, or over a sub-query without a \
                         name, is not supported: name the columns instead of *",
                    )
                })?
            }
            SelectItem::QualifiedWildcard(
                SelectItemQualifiedWildcardKind::ObjectName(name),
                options,
            ) => {
                let called = match name.0.last() {
                    Some(ObjectNamePart::Identifier(called)) => called.value.to_lowercase(),
                    _ => String::new(),
                };
                let is = |relation: &&Relation| {
                    relation.name.as_ref().is_some_and(|name| name.value.to_lowercase() == called)
                };
                let shows = self.relations.iter().find(is).is_some_and(|relation| relation.shows);
                let options = if shows { without(options) } else { options };
                let kind = SelectItemQualifiedWildcardKind::ObjectName(name);
                vec![SelectItem::QualifiedWildcard(kind, options)]
            }
            other => vec![other],
        })
    }
}

fn merges(join: &JoinOperator) -> bool {
    let constraint = match join {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::FullOuter(constraint) => constraint,
        _ => return false,
    };
    matches!(constraint, JoinConstraint::Using(_) | JoinConstraint::Natural)
}

fn without(options: WildcardAdditionalOptions) -> WildcardAdditionalOptions {
    let path = Ident::with_quote('"', PATH);
    let except = match options.opt_except.clone() {
        Some(mut except) => {
            except.additional_elements.push(path);
            except
        }
        None => ExceptSelectItem { first_element: path, additional_elements: Vec::new() },
    };
    WildcardAdditionalOptions { opt_except: Some(except), ..options }
}
