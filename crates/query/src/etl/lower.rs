//! Nodes of a graph as logical plans.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use base::{Error, Result};
use datafusion::common::ScalarValue;
use datafusion::dataframe::DataFrame;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::functions::core::expr_fn::get_field;
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, lit, try_cast, when};
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::Token;
use lake::{Column, Derived, EtlSpec, Mapping, NoValue, Node, StagedSample};

use super::spigot::{Picked, Sample};
use super::{combine, marks, series, shape};

use crate::error::explain;
use crate::functions::Stop;
use crate::meter::Meter;
use crate::operator::Operator;
use crate::session::session;
use crate::statement::{self, Request, Spelling};
use crate::tables::{LakeTable, Reading};

/// One stream of rows keeps its order without sorting.
const PARTITIONS: usize = 1;

/// The column that says which object a row comes from.
const OBJECT: &str = "_object";

/// Name that unqualified tables of a query would be looked up in; it has none.
const NO_DATABASE: &str = "job";

/// The nodes lowered so far.
pub(super) struct Graph<'a> {
    spec: &'a EtlSpec,
    environment: &'a Arc<RuntimeEnv>,
    meter: &'a Arc<Meter>,
    /// Rows that are taken of each source at most.
    source_rows_max: Option<usize>,
    done: BTreeMap<String, DataFrame>,
    /// The columns of the first collection of each split.
    splits: BTreeMap<String, Vec<String>>,
    samples: Vec<Sample>,
}

impl<'a> Graph<'a> {
    pub(super) fn new(
        spec: &'a EtlSpec,
        environment: &'a Arc<RuntimeEnv>,
        meter: &'a Arc<Meter>,
    ) -> Self {
        Graph {
            spec,
            environment,
            meter,
            source_rows_max: None,
            done: BTreeMap::new(),
            splits: BTreeMap::new(),
            samples: Vec::new(),
        }
    }

    /// The graph over the first rows of its sources.
    pub(super) fn over_first(self, rows: usize) -> Self {
        Graph { source_rows_max: Some(rows), ..self }
    }

    pub(super) fn session(&self) -> Result<SessionContext> {
        session(self.environment, NO_DATABASE, PARTITIONS, &Stop::default())
    }

    /// Lowers a node whose inputs have been lowered.
    pub(super) async fn add(&mut self, node: &Node) -> Result<()> {
        let rows = match node {
            Node::Source { id, lineage, .. } | Node::Objects { id, lineage, .. } => {
                self.source(id, *lineage)?
            }
            // A preview shows rows and writes none.
            Node::Spigot { input, .. } if self.source_rows_max.is_some() => self.rows(input)?,
            Node::Spigot { id, input, rows, fraction, .. } => {
                let sample = Sample::create(self.spec, id, self.samples.len())?;
                let picked = Picked { rows: *rows, fraction: *fraction };
                let handed_on = self.spigot(self.rows(input)?, picked, &sample)?;
                self.samples.push(sample);
                handed_on
            }
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
            Node::Filter { input, condition, .. } => {
                let query = format!("SELECT * FROM input WHERE {}", expression(condition)?);
                self.query_over(input, &query).await?
            }
            Node::DeriveColumns { input, columns, .. } => {
                let query = derived(&self.rows(input)?, columns)?;
                self.query_over(input, &query).await?
            }
            Node::DropDuplicates { input, columns, .. } => {
                let rows = self.rows(input)?;
                let picked = match columns.is_empty() {
                    true => (0..rows.schema().fields().len()).collect(),
                    false => series::places(&rows, columns)?,
                };
                self.keep_first(rows, picked)?
            }
            Node::DropNullFields { input, also, .. } => {
                self.drop_null_fields(self.rows(input)?, also).await?
            }
            Node::ResolveChoice { input, choices, .. } => {
                shape::resolve_choice(self.rows(input)?, choices)?
            }
            Node::Flatten { input, columns, separator, .. } => {
                shape::flatten(self.rows(input)?, columns, separator)?
            }
            Node::Explode { input, column, keep_empty, .. } => {
                shape::explode(self.rows(input)?, column, *keep_empty)?
            }
            Node::Pivot { input, group_by, column, values, value, function, .. } => {
                self.pivot(self.rows(input)?, group_by, (column, value), (values, *function))?
            }
            Node::Unpivot { input, columns, name_to, value_to, .. } => {
                self.unpivot(self.rows(input)?, columns, name_to, value_to)?
            }
            Node::Aggregate { input, group_by, aggregates, .. } => {
                self.aggregate(self.rows(input)?, group_by, aggregates)?
            }
            Node::Join { left, right, kind, on, .. } => {
                combine::join(self.rows(left)?, self.rows(right)?, *kind, on)?
            }
            Node::AsOfJoin { left, right, by, time, tolerance_seconds, .. } => {
                let sides = (self.rows(left)?, self.rows(right)?);
                self.asof_join(sides, by, time, *tolerance_seconds)?
            }
            Node::Union { inputs, distinct, .. } => {
                let inputs: Result<Vec<DataFrame>> =
                    inputs.iter().map(|input| self.rows(input)).collect();
                self.union(inputs?, *distinct)?
            }
            Node::Intersect { left, right, .. } => {
                self.set_operation(self.rows(left)?, self.rows(right)?, true)?
            }
            Node::Except { left, right, .. } => {
                self.set_operation(self.rows(left)?, self.rows(right)?, false)?
            }
            Node::Merge { source, staging, keys, .. } => {
                self.merge(self.rows(source)?, self.rows(staging)?, keys)?
            }
            // The rows themselves; what is picked of them says which columns.
            Node::SplitFields { id, input, fields } => {
                let rows = self.rows(input)?;
                series::places(&rows, fields)?;
                self.splits.insert(id.clone(), fields.clone());
                rows
            }
            Node::SelectFromCollection { input, index, .. } => {
                let rows = self.rows(input)?;
                let first = self.splits.get(input).cloned().unwrap_or_default();
                let rest: Vec<String> = names(&rows).filter(|one| !first.contains(one)).collect();
                let picked = if *index == 0 { first } else { rest };
                if picked.is_empty() {
                    return Err(Error::invalid("no column would be left"));
                }
                rows.select(picked.iter().map(column).collect::<Vec<_>>()).map_err(explain)?
            }
            Node::Sample { input, fraction, seed, .. } => {
                self.sample(self.rows(input)?, *fraction, *seed)?
            }
            Node::Limit { input, rows, .. } => {
                self.rows(input)?.limit(0, Some(*rows)).map_err(explain)?
            }
            Node::Sql { inputs, query, .. } => self.sql(inputs, query).await?,
            Node::Resample { input, by, time, freq, aggregates, .. } => {
                self.resample(self.rows(input)?, (by, time), *freq, aggregates)?
            }
            Node::FillGaps { id, input, by, time, freq } => {
                self.fill_gaps(id, self.rows(input)?, by, time, *freq)?
            }
            Node::DropDuplicatesByTime { input, by, time, keep, .. } => {
                self.drop_duplicates_by_time(self.rows(input)?, by, time, *keep)?
            }
            Node::MarkRange { input, ranges, mark, reason, .. } => {
                self.mark_range(self.rows(input)?, ranges, (mark, reason))?
            }
            Node::MarkOutliers {
                input,
                by,
                time,
                column,
                method,
                window,
                threshold,
                mark,
                reason,
                ..
            } => {
                let threshold = threshold.unwrap_or_else(|| method.threshold());
                let judge = marks::Judge { method: *method, window: *window, threshold };
                let rows = self.rows(input)?;
                self.mark_outliers(rows, (by, time), column, judge, (mark, reason))?
            }
            Node::EvaluateDataQuality { input, ruleset, output, stop, .. } => {
                self.evaluate_quality(self.rows(input)?, ruleset, *output, *stop).await?
            }
            Node::Quarantine { id, input, rules } => self.quarantine(id, input, rules).await?,
            Node::Target { .. } | Node::ExportDeepAr { .. } | Node::ExportCsv { .. } => {
                return Err(Error::internal("a target has no rows"));
            }
        };
        self.done.insert(node.id().to_owned(), rows);
        Ok(())
    }

    /// The rows of a node, to run them.
    pub(super) fn take(&self, id: &str) -> Result<(SessionContext, LogicalPlan)> {
        let (state, plan) = self.rows(id)?.into_parts();
        Ok((SessionContext::new_with_state(state), plan))
    }

    pub(super) fn rows(&self, id: &str) -> Result<DataFrame> {
        let rows = self.done.get(id).cloned();
        rows.ok_or_else(|| {
            Error::internal(format!("node {id:?} was not lowered before its reader"))
        })
    }

    fn source(&self, id: &str, lineage: bool) -> Result<DataFrame> {
        let input = self.spec.sources.iter().find(|source| source.node == id).ok_or_else(|| {
            Error::invalid(format!("the run has no files for source {id:?}, not even none"))
        })?;
        let mut files = input.files.clone();
        files.sort_by(|a, b| a.key.cmp(&b.key));
        let mut table = input.table.clone();
        if lineage {
            if table.all_columns().any(|column| column.name == OBJECT) {
                return Err(Error::invalid(format!(
                    "the table has a column {OBJECT:?}, so the source cannot add one; leave lineage out"
                )));
            }
            // What an object gives all of its rows is what a folder gives: a partition column.
            table.partition_keys.push(Column::new(OBJECT, "string"));
            for file in &mut files {
                file.partition_values.push(format!("s3://{}/{}", file.bucket, file.key));
            }
        }
        let table = LakeTable::new(&table, files, Arc::clone(self.meter), Reading::InOrder)?;
        let rows = self.session()?.read_table(Arc::new(table)).map_err(explain)?;
        match self.source_rows_max {
            Some(_) => rows.limit(0, self.source_rows_max).map_err(explain),
            None => Ok(rows),
        }
    }

    /// What spigots let out, once the target is written.
    pub(super) fn samples(self) -> Result<Vec<StagedSample>> {
        let closed = self.samples.into_iter().filter_map(|sample| sample.close().transpose());
        closed.collect()
    }

    /// The rows of an operator of ours.
    pub(super) fn table(&self, operator: Operator) -> Result<DataFrame> {
        self.session()?.read_table(Arc::new(operator)).map_err(explain)
    }

    pub(super) fn meter(&self) -> &Arc<Meter> {
        self.meter
    }

    pub(super) fn job(&self) -> &str {
        &self.spec.job.name
    }

    /// A query over one node, which it calls `input`.
    pub(super) async fn query_over(&self, id: &str, query: &str) -> Result<DataFrame> {
        self.sql(&BTreeMap::from([("input".to_owned(), id.to_owned())]), query).await
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

pub(super) fn names(rows: &DataFrame) -> impl Iterator<Item = String> + use<> {
    let names: Vec<String> = rows.schema().fields().iter().map(|f| f.name().clone()).collect();
    names.into_iter()
}

/// A column by its exact name; SQL's rules for case and dots do not apply to a graph's fields.
pub(super) fn column(name: impl Into<String>) -> Expr {
    Expr::Column(datafusion::common::Column::new_unqualified(name))
}

pub(super) fn column_of(rows: &DataFrame, name: &str) -> Result<Expr> {
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

/// An SQL expression by itself, as a part of a query to be made.
pub(super) fn expression(text: &str) -> Result<String> {
    let dialect = GenericDialect {};
    let mut parser =
        Parser::new(&dialect).try_with_sql(text).map_err(|cause| unread(text, cause))?;
    let parsed = parser.parse_expr().map_err(|cause| unread(text, cause))?;
    match parser.peek_token().token {
        Token::EOF => Ok(format!("({parsed})")),
        more => Err(Error::invalid(format!("expression {text:?}: {more} after its end"))),
    }
}

fn unread(text: &str, cause: ParserError) -> Error {
    Error::invalid(format!("expression {text:?} cannot be read: {cause}"))
}

/// A name as a query has it, whatever is in it.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The query that puts computed columns in their place, or behind.
fn derived(rows: &DataFrame, columns: &[Derived]) -> Result<String> {
    let made =
        |one: &Derived| Ok(format!("{} AS {}", expression(&one.expression)?, quoted(&one.name)));
    let mut items = Vec::new();
    for name in names(rows) {
        items.push(match columns.iter().find(|one| one.name == name) {
            Some(one) => made(one)?,
            None => quoted(&name),
        });
    }
    let known: Vec<String> = names(rows).collect();
    for one in columns.iter().filter(|one| !known.contains(&one.name)) {
        items.push(made(one)?);
    }
    Ok(format!("SELECT {} FROM input", items.join(", ")))
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
