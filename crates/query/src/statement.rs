//! Which SQL is let in: one statement that only reads tables of the catalog.
//!
//! Everything is decided on the parsed statement, before a plan exists. Its size is bounded
//! on the flat list of tokens first, because what a parser, a planner and an optimiser do
//! with a deep tree is recursion.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::ops::ControlFlow;

use arrow::datatypes::{DataType, Schema};
use base::{Error, Result};
use datafusion::sql::parser::{DFParserBuilder, Statement as Parsed};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, ObjectName, ObjectNamePart, Query, Select, SelectItem, SetExpr, ShowStatementIn,
    ShowStatementOptions, Statement as Ast, TableFactor, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::dialect;

/// Longest statement, Athena's own bound.
const SQL_BYTES_MAX: usize = 262_144;

/// Operators, brackets of types and set operations: what can make a tree deep without nesting
/// brackets. Planning such a tree needs some tens of KiB of stack each, see `STACK_BYTES`.
const OPERATORS_MAX: usize = 1_000;

/// Tables and sub-queries named in FROM clauses.
const TABLES_MAX: usize = 100;

/// Brackets within brackets.
const NESTING_MAX: usize = 50;

/// Words within words after which the parser, when it fails further in, goes back and tries
/// another reading: each level doubles its work.
const RETRIED_MAX: usize = 10;

/// What a statement asks for.
#[derive(Debug)]
pub(crate) enum Request {
    /// Rows of a query, or how it would be run.
    Query {
        /// The statement.
        statement: Box<Parsed>,
        /// The tables it reads.
        tables: Vec<TableName>,
        /// The columns that it gives no name.
        unnamed: dialect::Unnamed,
        /// Expressions that give the times as of which it reads some of them.
        moments: Vec<String>,
    },
    /// Something that the catalog knows.
    Show(Show),
}

/// A question about the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Show {
    /// The databases.
    Databases,
    /// The tables of a database, or of the one in use.
    Tables(Option<String>),
    /// The columns of a table.
    Columns(TableName),
    /// The partitions of a table.
    Partitions(TableName),
}

/// A table as a statement names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TableName {
    /// If the statement says.
    pub(crate) database: Option<String>,
    /// Within the database.
    pub(crate) name: String,
}

/// Reads a statement and refuses what is not let in.
pub(crate) fn parse(sql: &str) -> Result<Request> {
    parse_within(sql, 0)
}

/// As [`parse`], for a statement within one that has so many moments already.
pub(crate) fn parse_within(sql: &str, moments_before: usize) -> Result<Request> {
    if sql.len() > SQL_BYTES_MAX {
        return Err(Error::invalid(format!(
            "the statement has {} bytes; at most {SQL_BYTES_MAX} are read",
            sql.len()
        )));
    }
    check_tokens(sql)?;
    if let Some(show) = show_partitions(sql) {
        return show.map(Request::Show);
    }
    let (sql, moments) = crate::as_of::rewrite(sql, moments_before)?;
    let dialect = GenericDialect {};
    let spelled = dialect::spelled(&sql);
    let mut statements = DFParserBuilder::new(spelled.as_deref().unwrap_or(&sql))
        .with_dialect(&dialect)
        .with_recursion_limit(NESTING_MAX)
        .build()
        .and_then(|mut parser| parser.parse_statements())
        .map_err(crate::error::explain)?;
    let (Some(mut statement), None) = (statements.pop_front(), statements.pop_front()) else {
        return Err(Error::invalid("give one statement at a time"));
    };
    if let Parsed::Statement(ast) = &statement
        && let Some(show) = show(ast)?
    {
        return Ok(Request::Show(show));
    }
    check_reads_only(&mut statement)?;
    let unnamed = dialect::Unnamed::of(&statement);
    dialect::rewrite(&mut statement)?;
    let tables = tables(&statement)?;
    Ok(Request::Query { statement: Box::new(statement), tables, unnamed, moments })
}

/// The tables that a statement reads.
pub(crate) fn tables(statement: &Parsed) -> Result<Vec<TableName>> {
    let (references, _ctes) =
        resolve_table_references(statement, true).map_err(crate::error::explain)?;
    let tables: Result<BTreeSet<TableName>> = references
        .iter()
        .map(|reference| {
            let parts = [reference.catalog(), reference.schema(), Some(reference.table())];
            table_name(parts.into_iter().flatten().map(str::to_owned).collect())
        })
        .collect();
    Ok(tables?.into_iter().collect())
}

fn refused(what: &str) -> Error {
    Error::unsupported(format!(
        "{what} is not supported: only SELECT, EXPLAIN, SHOW and DESCRIBE are"
    ))
}

fn check_tokens(sql: &str) -> Result<()> {
    let dialect = GenericDialect {};
    let tokens = Tokenizer::new(&dialect, sql)
        .tokenize()
        .map_err(|cause| Error::invalid(format!("the statement cannot be read: {cause}")))?;
    let operators = tokens.iter().filter(|token| is_operator(token)).count();
    if operators > OPERATORS_MAX {
        return Err(Error::new(
            base::ErrorKind::Exhausted,
            format!(
                "the statement has {operators} operators; at most {OPERATORS_MAX} are planned \
                 (a list IN (...) may be longer)"
            ),
        ));
    }
    check_retried(&tokens)
}

/// Bounds how deep constructs lie in each other whose reading the parser tries twice.
fn check_retried(tokens: &[Token]) -> Result<()> {
    let significant = tokens.iter().filter(|token| !matches!(token, Token::Whitespace(_)));
    // Of each open bracket, whether it counts.
    let mut open: Vec<bool> = Vec::new();
    let (mut depth, mut deepest, mut cases) = (0_usize, 0_usize, 0_usize);
    let mut before: Option<&Token> = None;
    for token in significant {
        let keyword = |token: Option<&Token>| match token {
            Some(Token::Word(word)) if word.quote_style.is_none() => word.keyword,
            _ => Keyword::NoKeyword,
        };
        match token {
            Token::LParen => {
                let counts = is_retried(keyword(before));
                depth += usize::from(counts);
                open.push(counts);
            }
            Token::LBracket | Token::LBrace => {
                depth += 1;
                open.push(true);
            }
            Token::RParen | Token::RBracket | Token::RBrace => {
                depth -= usize::from(open.pop().unwrap_or(false));
            }
            Token::Word(_) => match keyword(Some(token)) {
                Keyword::CASE => cases += 1,
                // Only what ends a CASE: elsewhere it is a name, which would hide one.
                Keyword::END if ends_expression(before) => cases = cases.saturating_sub(1),
                Keyword::INTERVAL if keyword(before) == Keyword::INTERVAL => {
                    return Err(Error::invalid("INTERVAL is not followed by a literal"));
                }
                _ => {}
            },
            Token::Minus | Token::Plus if keyword(before) == Keyword::INTERVAL => {
                return Err(Error::invalid(
                    "INTERVAL is not followed by a literal: write its sign before it, or within",
                ));
            }
            _ => {}
        }
        deepest = deepest.max(depth + cases);
        before = Some(token);
    }
    if deepest > RETRIED_MAX {
        return Err(Error::new(
            base::ErrorKind::Exhausted,
            format!(
                "CASE, CAST, brackets [ ] and their like lie {deepest} deep in each other; at most \
                 {RETRIED_MAX} are read"
            ),
        ));
    }
    Ok(())
}

/// Words that the parser takes for a name and a call when what they begin cannot be read.
fn is_retried(word: Keyword) -> bool {
    matches!(
        word,
        Keyword::CAST
            | Keyword::TRY_CAST
            | Keyword::SAFE_CAST
            | Keyword::CONVERT
            | Keyword::TRY_CONVERT
            | Keyword::SUBSTRING
            | Keyword::SUBSTR
            | Keyword::POSITION
            | Keyword::CEIL
            | Keyword::FLOOR
            | Keyword::OVERLAY
            | Keyword::STRUCT
            | Keyword::INTERVAL
            | Keyword::ARRAY
            | Keyword::MAP
            | Keyword::EXTRACT
            | Keyword::TRIM
            | Keyword::EXISTS
            | Keyword::MATCH
    )
}

fn ends_expression(token: Option<&Token>) -> bool {
    match token {
        Some(Token::Word(word)) => {
            !matches!(
                word.keyword,
                Keyword::CASE
                    | Keyword::WHEN
                    | Keyword::THEN
                    | Keyword::ELSE
                    | Keyword::AND
                    | Keyword::OR
                    | Keyword::NOT
                    | Keyword::IS
                    | Keyword::LIKE
                    | Keyword::IN
                    | Keyword::BETWEEN
                    | Keyword::SELECT
            ) || word.quote_style.is_some()
        }
        Some(
            Token::Number(_, _)
            | Token::SingleQuotedString(_)
            | Token::RParen
            | Token::RBracket
            | Token::RBrace,
        ) => true,
        _ => false,
    }
}

fn is_operator(token: &Token) -> bool {
    match token {
        Token::Word(word) => matches!(
            word.keyword,
            Keyword::AND
                | Keyword::OR
                | Keyword::NOT
                | Keyword::UNION
                | Keyword::INTERSECT
                | Keyword::EXCEPT
                | Keyword::JOIN
                | Keyword::IS
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::SIMILAR
                | Keyword::BETWEEN
                | Keyword::IN
                | Keyword::COLLATE
                | Keyword::AT
                | Keyword::OVER
                | Keyword::WITH
        ),
        Token::Number(_, _)
        | Token::SingleQuotedString(_)
        | Token::DoubleQuotedString(_)
        | Token::Comma
        | Token::Period
        | Token::Whitespace(_)
        // Brackets nest, and nesting has its own bound in the parser.
        | Token::LParen
        | Token::RParen
        | Token::SemiColon
        | Token::EOF => false,
        _ => true,
    }
}

/// `SHOW PARTITIONS t`, which the parser takes for a variable.
fn show_partitions(sql: &str) -> Option<Result<Show>> {
    let mut words = sql.trim().trim_end_matches(';').split_whitespace();
    let is =
        |word: Option<&str>, expect: &str| word.is_some_and(|w| w.eq_ignore_ascii_case(expect));
    if !is(words.next(), "show") || !is(words.next(), "partitions") {
        return None;
    }
    let name = words.next().unwrap_or_default();
    let parts = name.split('.').map(|part| part.trim_matches(['"', '`']).to_lowercase()).collect();
    Some(match words.next() {
        Some(more) => {
            Err(Error::invalid(format!("expected nothing after the table, not {more:?}")))
        }
        None => table_name(parts).map(Show::Partitions),
    })
}

/// The name of the only catalog, as Athena calls it.
pub(crate) const CATALOG: &str = "awsdatacatalog";

fn table_name(mut parts: Vec<String>) -> Result<TableName> {
    let named = parts.join(".");
    let name = parts.pop().filter(|name| !name.is_empty());
    let database = parts.pop();
    match (parts.pop(), parts.is_empty(), name) {
        (None, true, Some(name)) => Ok(TableName { database, name }),
        (Some(catalog), true, Some(name)) if catalog == CATALOG => Ok(TableName { database, name }),
        _ => Err(Error::invalid(format!("{named:?} is no table: write it as database.table"))),
    }
}

pub(crate) fn object_name(name: &ObjectName) -> Result<TableName> {
    let part = |part: &ObjectNamePart| match part.as_ident() {
        Some(ident) if ident.quote_style.is_some() => Ok(ident.value.clone()),
        Some(ident) => Ok(ident.value.to_lowercase()),
        None => Err(Error::invalid(format!("{name} is no table"))),
    };
    table_name(name.0.iter().map(part).collect::<Result<_>>()?)
}

fn show(ast: &Ast) -> Result<Option<Show>> {
    Ok(Some(match ast {
        Ast::ShowTables { show_options, extended: false, full: false, external: false, .. } => {
            Show::Tables(shown_in(show_options)?.map(|name| name.name))
        }
        Ast::ShowDatabases { show_options, .. } | Ast::ShowSchemas { show_options, .. } => {
            shown_in(show_options)?.map_or(Ok(Show::Databases), |_| Err(refused("SHOW ... IN")))?
        }
        Ast::ShowColumns { show_options, extended: false, full: false } => {
            let table = shown_in(show_options)?;
            Show::Columns(table.ok_or_else(|| Error::invalid("SHOW COLUMNS needs FROM table"))?)
        }
        Ast::ExplainTable { table_name, .. } => Show::Columns(object_name(table_name)?),
        _ => return Ok(None),
    }))
}

fn shown_in(options: &ShowStatementOptions) -> Result<Option<TableName>> {
    if options.starts_with.is_some()
        || options.limit.is_some()
        || options.limit_from.is_some()
        || options.filter_position.is_some()
    {
        return Err(refused("a filter on SHOW"));
    }
    match &options.show_in {
        None => Ok(None),
        Some(ShowStatementIn { parent_name: Some(name), .. }) => object_name(name).map(Some),
        Some(_) => Err(refused("this form of SHOW")),
    }
}

fn check_reads_only(statement: &mut Parsed) -> Result<()> {
    match statement {
        Parsed::Statement(ast) => match &mut **ast {
            Ast::Query(query) => check_query(query),
            other => Err(refused(&first_words(&other.to_string()))),
        },
        Parsed::Explain(explain) => match &mut *explain.statement {
            Parsed::Statement(ast) => match &mut **ast {
                Ast::Query(query) => check_query(query),
                other => Err(refused(&first_words(&format!("EXPLAIN {other}")))),
            },
            _ => Err(refused("EXPLAIN of anything but a SELECT")),
        },
        Parsed::CreateExternalTable(_) => Err(refused("CREATE EXTERNAL TABLE")),
        Parsed::CopyTo(_) => Err(refused("COPY")),
        Parsed::Reset(_) => Err(refused("RESET")),
    }
}

/// The verb of a statement, for a message.
fn first_words(text: &str) -> String {
    text.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
}

fn check_query(query: &mut Query) -> Result<()> {
    let mut check = Check { tables: 0 };
    match VisitMut::visit(query, &mut check) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

/// Refuses what the engine would do silently otherwise than asked, or should not do.
struct Check {
    tables: usize,
}

impl Check {
    fn refuse_if(found: bool, what: &str) -> ControlFlow<Error> {
        match found {
            true => ControlFlow::Break(Error::unsupported(format!("{what} is not supported"))),
            false => ControlFlow::Continue(()),
        }
    }
}

impl VisitorMut for Check {
    type Break = Error;

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<Error> {
        Self::refuse_if(!query.locks.is_empty(), "FOR UPDATE")?;
        Self::refuse_if(query.for_clause.is_some(), "a FOR clause")?;
        Self::refuse_if(query.settings.is_some(), "SETTINGS")?;
        Self::refuse_if(query.format_clause.is_some(), "FORMAT")?;
        Self::refuse_if(!query.pipe_operators.is_empty(), "the pipe syntax")?;
        let recursive = query.with.as_ref().is_some_and(|with| with.recursive);
        Self::refuse_if(recursive, "WITH RECURSIVE")?;
        check_body(&query.body)
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Error> {
        Self::refuse_if(select.into.is_some(), "SELECT INTO")?;
        Self::refuse_if(select.top.is_some(), "TOP")?;
        Self::refuse_if(select.prewhere.is_some(), "PREWHERE")?;
        Self::refuse_if(!select.lateral_views.is_empty(), "LATERAL VIEW")?;
        Self::refuse_if(!select.connect_by.is_empty(), "CONNECT BY")?;
        Self::refuse_if(!select.cluster_by.is_empty(), "CLUSTER BY")?;
        Self::refuse_if(!select.distribute_by.is_empty(), "DISTRIBUTE BY")?;
        Self::refuse_if(!select.sort_by.is_empty(), "SORT BY")?;
        Self::refuse_if(!select.optimizer_hints.is_empty(), "an optimizer hint")?;
        Self::refuse_if(select.value_table_mode.is_some(), "SELECT AS")
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Error> {
        self.tables += 1;
        if self.tables > TABLES_MAX {
            return ControlFlow::Break(Error::new(
                base::ErrorKind::Exhausted,
                format!("the statement names more than {TABLES_MAX} tables"),
            ));
        }
        match factor {
            TableFactor::Table {
                args,
                with_hints,
                version,
                with_ordinality,
                partitions,
                json_path,
                sample,
                index_hints,
                ..
            } => {
                // The engine parses a sample and then reads everything.
                Self::refuse_if(sample.is_some(), "TABLESAMPLE")?;
                Self::refuse_if(args.is_some(), "a table function")?;
                Self::refuse_if(version.is_some(), "a table's version")?;
                Self::refuse_if(*with_ordinality, "WITH ORDINALITY of anything but UNNEST")?;
                let hints = !with_hints.is_empty() || !index_hints.is_empty();
                Self::refuse_if(hints, "a hint on a table")?;
                Self::refuse_if(!partitions.is_empty(), "PARTITION")?;
                Self::refuse_if(json_path.is_some(), "a path on a table")
            }
            TableFactor::Derived { sample, .. } => Self::refuse_if(sample.is_some(), "TABLESAMPLE"),
            TableFactor::NestedJoin { .. } | TableFactor::UNNEST { .. } => {
                ControlFlow::Continue(())
            }
            other => Self::refuse_if(true, &first_words(&other.to_string())),
        }
    }
}

fn check_body(body: &SetExpr) -> ControlFlow<Error> {
    match body {
        SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::Values(_) => ControlFlow::Continue(()),
        SetExpr::SetOperation { left, right, .. } => {
            check_body(left)?;
            check_body(right)
        }
        other => ControlFlow::Break(refused(&first_words(&other.to_string()))),
    }
}

/// Spellings of names by what they are in lower case.
#[derive(Clone, Debug, Default)]
struct Names(BTreeMap<String, BTreeSet<String>>);

impl Names {
    fn add(&mut self, name: &str) {
        self.0.entry(name.to_lowercase()).or_default().insert(name.to_owned());
    }

    /// Spells an unquoted name as the one known name that it can mean.
    fn spell(&self, ident: &mut Ident) {
        if ident.quote_style.is_some() {
            return;
        }
        let Some(spellings) = self.0.get(&ident.value.to_lowercase()) else { return };
        if spellings.contains(&ident.value) {
            ident.quote_style = Some('"');
        } else if let (Some(only), 1) = (spellings.first(), spellings.len()) {
            ident.value.clone_from(only);
            ident.quote_style = Some('"');
        }
    }
}

/// The tables of a statement and how their columns are spelled.
///
/// Devices spell their keys as they like, and SQL does not mind case: an unquoted name that
/// can only mean one column, or one field within a column, is spelled as that one.
#[derive(Debug, Default)]
pub(crate) struct Spelling {
    columns: Names,
    /// Fields within columns, whatever column they are in.
    fields: Names,
    tables: Names,
    /// Columns by the table's name, and once a statement is known, by its aliases.
    by_table: BTreeMap<String, Names>,
}

impl Spelling {
    /// Adds a table and its columns.
    pub(crate) fn add<'a>(&mut self, table: &str, columns: impl IntoIterator<Item = &'a str>) {
        self.tables.add(table);
        let own = self.by_table.entry(table.to_lowercase()).or_default();
        for column in columns {
            self.columns.add(column);
            own.add(column);
        }
    }

    /// Adds a table, its columns and the fields within them.
    pub(crate) fn add_schema(&mut self, table: &str, schema: &Schema) {
        self.add(table, schema.fields().iter().map(|field| field.name().as_str()));
        schema.fields().iter().for_each(|field| self.add_fields(field.data_type()));
    }

    fn add_fields(&mut self, kind: &DataType) {
        let DataType::Struct(fields) = kind else { return };
        for field in fields {
            self.fields.add(field.name());
            self.add_fields(field.data_type());
        }
    }

    /// Spells the names of a statement.
    pub(crate) fn apply(mut self, statement: &mut Parsed) {
        let ast = match statement {
            Parsed::Statement(ast) => ast,
            Parsed::Explain(explain) => match &mut *explain.statement {
                Parsed::Statement(ast) => ast,
                _ => return,
            },
            _ => return,
        };
        let mut aliases = Aliases { of_table: &self.by_table, found: BTreeMap::new() };
        let ControlFlow::Continue(()) = VisitMut::visit(ast, &mut aliases);
        self.by_table = aliases.found;
        let ControlFlow::Continue(()) = VisitMut::visit(ast, &mut self);
    }
}

struct Aliases<'a> {
    of_table: &'a BTreeMap<String, Names>,
    found: BTreeMap<String, Names>,
}

impl VisitorMut for Aliases<'_> {
    type Break = Infallible;

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Infallible> {
        if let TableFactor::Table { name, alias, .. } = factor
            && let Some(ident) = name.0.last().and_then(ObjectNamePart::as_ident)
            && let Some(columns) = self.of_table.get(&ident.value.to_lowercase())
        {
            let called = alias.as_ref().map_or(ident, |alias| &alias.name);
            let known = self.found.entry(called.value.to_lowercase()).or_default();
            // One alias for two tables, in two sub-queries: it may mean either.
            for (lower, spellings) in &columns.0 {
                known.0.entry(lower.clone()).or_default().extend(spellings.iter().cloned());
            }
        }
        ControlFlow::Continue(())
    }
}

impl VisitorMut for Spelling {
    type Break = Infallible;

    fn pre_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Infallible> {
        match expr {
            Expr::Identifier(ident) => self.columns.spell(ident),
            Expr::CompoundIdentifier(parts) => {
                let table =
                    parts.first().and_then(|first| self.by_table.get(&first.value.to_lowercase()));
                match (table, parts.as_mut_slice()) {
                    (Some(columns), [_, column, fields @ ..]) => {
                        columns.spell(column);
                        fields.iter_mut().for_each(|field| self.fields.spell(field));
                    }
                    (_, parts) => {
                        // A database or a table may stand before the column, its fields after it.
                        let mut is_column = false;
                        for part in parts {
                            if is_column {
                                self.fields.spell(part);
                            }
                            self.columns.spell(part);
                            is_column |= part.quote_style.is_some();
                        }
                    }
                }
            }
            _ => {}
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Infallible> {
        for item in &mut select.projection {
            if let SelectItem::ExprWithAlias { alias, .. } = item {
                self.columns.spell(alias);
            }
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &mut ObjectName) -> ControlFlow<Infallible> {
        if let [ObjectNamePart::Identifier(ident)] = relation.0.as_mut_slice() {
            self.tables.spell(ident);
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use base::ErrorKind;

    use super::*;

    #[test]
    fn only_reading_is_let_in() {
        for sql in [
            "SELECT 1; SELECT 2",
            "",
            "-- nothing",
            "INSERT INTO t VALUES (1)",
            "UPDATE t SET a = 1",
            "DELETE FROM t",
            "DROP TABLE t",
            "CREATE TABLE t (a int)",
            "CREATE VIEW v AS SELECT 1",
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
            "COPY (SELECT 1) TO '/tmp/x.csv'",
            "SET datafusion.execution.target_partitions = 1",
            "RESET datafusion.execution.target_partitions",
            "PREPARE p AS SELECT 1",
            "EXECUTE p",
            "SHOW ALL",
            "SHOW datafusion.execution.time_zone",
            "EXPLAIN INSERT INTO t VALUES (1)",
            "EXPLAIN COPY (SELECT 1) TO 'x'",
            "WITH RECURSIVE r AS (SELECT 1) SELECT * FROM r",
            "SELECT * FROM t TABLESAMPLE BERNOULLI (10)",
            "SELECT * FROM generate_series(1, 1000000000000)",
            "SELECT * INTO u FROM t",
            "SELECT * FROM t FOR UPDATE",
            "SELECT * FROM a.b.c.d",
            "SELECT * FROM other.db.t",
            "WITH x AS (INSERT INTO t VALUES (1)) SELECT * FROM x",
            "CALL f()",
            "USE other",
            "BEGIN",
            "GRANT ALL ON t TO x",
        ] {
            let refused = parse(sql).map(|_| ()).unwrap_err();
            let kind = refused.kind();
            assert!(
                matches!(kind, ErrorKind::Invalid | ErrorKind::Unsupported),
                "{sql}: {refused}"
            );
        }
    }

    #[test]
    fn statements_too_large_to_plan_are_refused_unplanned() {
        let chain = format!("SELECT 1{}", " + 1".repeat(10_000));
        let unions = format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(5_000));
        let deep = format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000));
        let nots = format!("SELECT {} true", "NOT ".repeat(10_000));
        let joins = format!("SELECT 1 FROM t{}", ", t".repeat(5_000));
        let queries = format!("{}SELECT 1{}", "SELECT * FROM (".repeat(1_000), ")".repeat(1_000));
        let types = format!("SELECT CAST(1 AS {}int{})", "array<".repeat(5000), ">".repeat(5000));
        let long = format!("SELECT '{}'", "x".repeat(300_000));
        for sql in [chain, unions, deep, nots, joins, queries, types, long] {
            assert!(parse(&sql).is_err(), "{}", &sql[..40]);
        }
        let list = format!("SELECT 1 IN ({}1)", "1, ".repeat(50_000));
        assert!(parse(&list).is_ok());
        let cases = "CASE WHEN a THEN 1 ELSE 2 END, ".repeat(100);
        assert!(parse(&format!("SELECT {cases} 1 FROM t")).is_ok());
    }

    /// Each of these made the parser try twice at each level: 2^45 readings.
    #[test]
    fn statements_that_the_parser_would_read_for_ever_are_refused_unread() {
        for start in [
            "CASE WHEN true THEN ",
            "CASE WHEN end THEN ",
            "CAST(",
            "TRY_CAST(",
            "POSITION(",
            "SUBSTRING(",
            "CEIL(",
            "OVERLAY(",
            "CONVERT(",
            "STRUCT(",
            "ARRAY[",
            "INTERVAL ",
            "INTERVAL - ",
            "INTERVAL (",
            "MAP {",
            "1 + CAST (",
            "CAST(CASE WHEN x[",
        ] {
            let refused = parse(&format!("SELECT {}@@", start.repeat(45))).unwrap_err();
            assert!(
                matches!(refused.kind(), ErrorKind::Invalid | ErrorKind::Exhausted),
                "{start}: {refused}"
            );
        }
        let legal = "SELECT CASE WHEN a = 1 THEN CAST(substring(b, 1, 2) AS bigint) ELSE \
                     CASE WHEN c[1] IS NULL THEN 0 ELSE position('x' IN d) END END FROM t";
        assert!(parse(legal).is_ok());
    }

    #[test]
    fn tables_and_questions_are_recognised() {
        let Request::Query { tables, .. } = parse(
            "WITH c AS (SELECT * FROM Raw) SELECT * FROM c JOIN db.\"T\" ON true \
             WHERE x IN (SELECT y FROM awsdatacatalog.db.u);",
        )
        .unwrap() else {
            panic!("not a query")
        };
        let names: Vec<String> = tables
            .iter()
            .map(|table| format!("{}.{}", table.database.as_deref().unwrap_or("-"), table.name))
            .collect();
        assert_eq!(names, ["-.raw", "db.T", "db.u"]);

        let table = |database: Option<&str>| TableName {
            database: database.map(str::to_owned),
            name: "t".into(),
        };
        for (sql, expect) in [
            ("SHOW TABLES", Show::Tables(None)),
            ("show tables in Db;", Show::Tables(Some("db".into()))),
            ("SHOW DATABASES", Show::Databases),
            ("SHOW SCHEMAS", Show::Databases),
            ("SHOW COLUMNS FROM db.t", Show::Columns(table(Some("db")))),
            ("DESCRIBE t", Show::Columns(table(None))),
            ("SHOW PARTITIONS db.t", Show::Partitions(table(Some("db")))),
        ] {
            let Request::Show(show) = parse(sql).unwrap() else { panic!("{sql}") };
            assert_eq!(show, expect, "{sql}");
        }
        assert!(parse("SHOW PARTITIONS").is_err());
        assert!(parse("SHOW TABLES LIKE 'x%'").is_err());
    }
}
