//! Nodes of a graph as logical plans.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use base::{Error, Result};
use datafusion::common::{Column, ScalarValue};
use datafusion::dataframe::DataFrame;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::functions::core::expr_fn::get_field;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, lit, try_cast, when};
use datafusion::prelude::SessionContext;
use lake::{EtlSpec, Mapping, NoValue, Node};

use crate::error::explain;
use crate::keep_first::KeepFirst;
use crate::meter::Meter;
use crate::session::session;
use crate::statement::{self, Request, Spelling};
use crate::tables::{LakeTable, Reading};

/// One stream of rows keeps its order without sorting.
const PARTITIONS: usize = 1;

/// Name that unqualified tables of a query would be looked up in; it has none.
const NO_DATABASE: &str = "job";

/// The nodes lowered so far.
pub(super) struct Graph<'a> {
    spec: &'a EtlSpec,
    environment: &'a Arc<RuntimeEnv>,
    meter: &'a Arc<Meter>,
    done: BTreeMap<String, DataFrame>,
}

impl<'a> Graph<'a> {
    pub(super) fn new(
        spec: &'a EtlSpec,
        environment: &'a Arc<RuntimeEnv>,
        meter: &'a Arc<Meter>,
    ) -> Self {
        Graph { spec, environment, meter, done: BTreeMap::new() }
    }

    fn session(&self) -> Result<SessionContext> {
        session(self.environment, NO_DATABASE, PARTITIONS)
    }

    /// Lowers a node whose inputs have been lowered.
    pub(super) async fn add(&mut self, node: &Node) -> Result<()> {
        let rows = match node {
            Node::Source { id, .. } => self.source(id)?,
            Node::ApplyMapping { input, mappings, .. } => {
                apply_mapping(self.rows(input)?, mappings)?
            }
            Node::SelectFields { input, fields, .. } => {
                let rows = self.rows(input)?;
                let picked: Result<Vec<Expr>> =
                    fields.iter().map(|field| column_of(&rows, field)).collect();
                rows.select(picked?).map_err(explain)?
            }
            Node::DropFields { input, fields, .. } => {
                let rows = self.rows(input)?;
                for field in fields {
                    column_of(&rows, field)?;
                }
                let left = names(&rows).filter(|name| !fields.contains(name)).map(column);
                let left: Vec<Expr> = left.collect();
                if left.is_empty() {
                    return Err(Error::invalid("no column would be left"));
                }
                rows.select(left).map_err(explain)?
            }
            Node::RenameField { input, from, to, .. } => rename(self.rows(input)?, from, to)?,
            Node::DropDuplicates { input, columns, .. } => {
                self.drop_duplicates(self.rows(input)?, columns)?
            }
            Node::DropNullFields { input, also, .. } => {
                self.drop_null_fields(self.rows(input)?, also).await?
            }
            Node::Sql { inputs, query, .. } => self.sql(inputs, query).await?,
            Node::Target { .. } => return Err(Error::internal("a target has no rows")),
        };
        self.done.insert(node.id().to_owned(), rows);
        Ok(())
    }

    /// The rows of a node, to run them.
    pub(super) fn take(&self, id: &str) -> Result<(SessionContext, LogicalPlan)> {
        let (state, plan) = self.rows(id)?.into_parts();
        Ok((SessionContext::new_with_state(state), plan))
    }

    fn rows(&self, id: &str) -> Result<DataFrame> {
        let rows = self.done.get(id).cloned();
        rows.ok_or_else(|| {
            Error::internal(format!("node {id:?} was not lowered before its reader"))
        })
    }

    fn source(&self, id: &str) -> Result<DataFrame> {
        let input = self.spec.sources.iter().find(|source| source.node == id).ok_or_else(|| {
            Error::invalid(format!("the run has no files for source {id:?}, not even none"))
        })?;
        let mut files = input.files.clone();
        files.sort_by(|a, b| a.key.cmp(&b.key));
        let table = LakeTable::new(&input.table, files, Arc::clone(self.meter), Reading::InOrder)?;
        self.session()?.read_table(Arc::new(table)).map_err(explain)
    }

    fn drop_duplicates(&self, rows: DataFrame, columns: &[String]) -> Result<DataFrame> {
        for name in columns {
            column_of(&rows, name)?;
        }
        let all: Vec<String> = names(&rows).collect();
        let picked = |(at, name): (usize, &String)| {
            (columns.is_empty() || columns.contains(name)).then_some(at)
        };
        let picked = all.iter().enumerate().filter_map(picked).collect();
        let (_, plan) = rows.into_parts();
        let table = KeepFirst::new(plan, picked);
        self.session()?.read_table(Arc::new(table)).map_err(explain)
    }

    /// The columns that have a value in some row: found by reading the rows once before.
    async fn drop_null_fields(&self, rows: DataFrame, also: &[NoValue]) -> Result<DataFrame> {
        let counts: Result<Vec<Expr>> =
            names(&rows).map(|name| Ok(count(value_of(&rows, &name, also)?).alias(name))).collect();
        let counted = rows.clone().aggregate(Vec::new(), counts?).map_err(explain)?;
        let counted = counted.collect().await.map_err(explain)?;
        let has_values = |at: usize| {
            counted.iter().any(|batch| {
                let counts = batch.column(at).as_primitive_opt::<Int64Type>();
                counts.is_some_and(|counts| counts.iter().flatten().any(|count| count > 0))
            })
        };
        let left: Vec<Expr> = names(&rows)
            .enumerate()
            .filter(|(at, _)| has_values(*at))
            .map(|(_, name)| column(name))
            .collect();
        // No rows at all say nothing about the columns.
        if left.is_empty() {
            return Ok(rows);
        }
        rows.select(left).map_err(explain)
    }

    async fn sql(&self, inputs: &BTreeMap<String, String>, query: &str) -> Result<DataFrame> {
        let session = self.session()?;
        let mut spelling = Spelling::default();
        for (alias, id) in inputs {
            let rows = self.rows(id)?;
            let columns: Vec<String> = names(&rows).collect();
            spelling.add(alias, columns.iter().map(String::as_str));
            let name = datafusion::sql::TableReference::bare(alias.clone());
            session.register_table(name, rows.into_view()).map_err(explain)?;
        }
        let Request::Query { mut statement, .. } = statement::parse(query)? else {
            return Err(Error::invalid("the query must be a SELECT"));
        };
        if !matches!(*statement, datafusion::sql::parser::Statement::Statement(_)) {
            return Err(Error::invalid("the query must be a SELECT"));
        }
        spelling.apply(&mut statement);
        let plan = session.state().statement_to_plan(*statement).await.map_err(explain)?;
        let plan = crate::lateral::unnested(plan).map_err(explain)?;
        Ok(DataFrame::new(session.state(), plan))
    }
}

fn names(rows: &DataFrame) -> impl Iterator<Item = String> + use<> {
    let names: Vec<String> = rows.schema().fields().iter().map(|f| f.name().clone()).collect();
    names.into_iter()
}

/// A column by its exact name; SQL's rules for case and dots do not apply to a graph's fields.
fn column(name: impl Into<String>) -> Expr {
    Expr::Column(Column::new_unqualified(name))
}

fn column_of(rows: &DataFrame, name: &str) -> Result<Expr> {
    if rows.schema().fields().iter().any(|field| field.name() == name) {
        return Ok(column(name));
    }
    let known: Vec<String> = names(rows).collect();
    Err(Error::invalid(format!("there is no column {name:?}; there are {}", known.join(", "))))
}

/// A column, null where it holds what counts as no value.
fn value_of(rows: &DataFrame, name: &str, also: &[NoValue]) -> Result<Expr> {
    let found = column_of(rows, name)?;
    let has = found.get_type(rows.schema()).map_err(explain)?;
    let mut value = found.clone();
    for one in also {
        let same = match one {
            NoValue::Text(text) if has.is_string() => found.clone().eq(lit(text.as_str())),
            NoValue::Number(number) if has.is_numeric() => {
                found.clone().eq(try_cast(lit(number.as_str()), has.clone()))
            }
            NoValue::Text(_) | NoValue::Number(_) => continue,
        };
        value = when(same, lit(ScalarValue::Null)).otherwise(value).map_err(explain)?;
    }
    Ok(value)
}

fn rename(rows: DataFrame, from: &str, to: &str) -> Result<DataFrame> {
    column_of(&rows, from)?;
    if from != to && column_of(&rows, to).is_ok() {
        return Err(Error::invalid(format!("there is a column {to:?} already")));
    }
    let renamed = names(&rows)
        .map(|name| if name == from { column(name).alias(to) } else { column(name) })
        .collect::<Vec<_>>();
    rows.select(renamed).map_err(explain)
}

fn apply_mapping(rows: DataFrame, mappings: &[Mapping]) -> Result<DataFrame> {
    let kept = mappings.iter().filter(|mapping| !mapping.drop);
    let columns: Result<Vec<Expr>> = kept.map(|mapping| map_one(&rows, mapping)).collect();
    rows.select(columns?).map_err(explain)
}

/// One column cast to what it shall be; what cannot be cast is null.
fn map_one(rows: &DataFrame, mapping: &Mapping) -> Result<Expr> {
    let found = path_of(rows, &mapping.from)?;
    let wanted = formats::hive::to_arrow(&mapping.to_type)?;
    let has = found.get_type(rows.schema()).map_err(explain)?;
    let cast = if has == wanted {
        found
    } else if arrow::compute::can_cast_types(&has, &wanted) {
        try_cast(found, wanted)
    } else {
        return Err(Error::unsupported(format!(
            "column {:?} is {} and cannot become {}",
            mapping.from,
            formats::hive::from_arrow(&has)?,
            mapping.to_type
        )));
    };
    Ok(cast.alias(&mapping.to))
}

/// A column, or a field within structs: `a.b` is the column of that name if there is one.
fn path_of(rows: &DataFrame, path: &str) -> Result<Expr> {
    if column_of(rows, path).is_ok() {
        return Ok(column(path));
    }
    let mut ends: Vec<usize> = path.match_indices('.').map(|(at, _)| at).collect();
    ends.reverse();
    for end in ends {
        if column_of(rows, &path[..end]).is_ok() {
            let fields = path[end + 1..].split('.');
            return Ok(fields.fold(column(&path[..end]), get_field));
        }
    }
    column_of(rows, path)
}
