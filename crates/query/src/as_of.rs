//! A table as it was: `t FOR VERSION AS OF 3`, `t FOR TIMESTAMP AS OF timestamp '...'`, and what
//! is known of its files as tables of their own, `"t$history"` and others.
//!
//! The parser knows these clauses in other dialects than the one all else is written in. They are
//! found among the tokens, taken out, and the table gets a name that says which moment is meant;
//! no table of the catalog has a `$` in its name. So one query may name two moments of a table.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Int32Array, Int64Array, StringArray, TimestampMillisecondArray,
};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::record_batch::RecordBatch;
use base::{Error, Result, Timestamp};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Word};
use lake::{AsOf, FileSource, Lake, Table};

use crate::error::explain;

/// What a table's name in a statement stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The table as it is.
    Now,
    /// The same, and what is still in the log.
    Live,
    /// As of a commit.
    Version(u64),
    /// As of the time that this expression of the statement gives.
    Moment(usize),
    /// Its commits, as Iceberg's history.
    History,
    /// Its commits, as Iceberg's snapshots.
    Snapshots,
    /// Its files.
    Files,
    /// Its partitions.
    Partitions,
}

/// Takes a name apart.
pub(crate) fn part(name: &str) -> Result<(&str, Part)> {
    let Some((table, part)) = name.split_once('$') else { return Ok((name, Part::Now)) };
    let number = |digits: &str| digits.parse().ok();
    let known = match part {
        "live" => Some(Part::Live),
        "history" => Some(Part::History),
        "snapshots" => Some(Part::Snapshots),
        "files" => Some(Part::Files),
        "partitions" => Some(Part::Partitions),
        _ => match part.split_at_checked(1) {
            Some(("v", digits)) => number(digits).map(Part::Version),
            Some(("m", digits)) => {
                number(digits).and_then(|at| usize::try_from(at).ok()).map(Part::Moment)
            }
            _ => None,
        },
    };
    known.map(|part| (table, part)).ok_or_else(|| {
        Error::unsupported(format!(
            "{name:?}: there are \"{table}$live\", \"{table}$history\", \"{table}$snapshots\", \"{table}$files\" and \
             \"{table}$partitions\""
        ))
    })
}

/// The statement without its AS OF clauses, and the expressions of those that name a time.
/// Their numbers go on from `first_moment`.
pub(crate) fn rewrite(sql: &str, first_moment: usize) -> Result<(String, Vec<String>)> {
    let tokens = Tokenizer::new(&GenericDialect {}, sql)
        .tokenize_with_location()
        .map_err(|cause| Error::invalid(format!("the statement cannot be read: {cause}")))?;
    let tokens: Vec<&TokenWithSpan> =
        tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_))).collect();
    let places = Places::of(sql);
    let (mut out, mut moments, mut done) = (String::new(), Vec::new(), 0);
    let mut at = 0;
    while at < tokens.len() {
        let Some(clause) = clause(&tokens, at)? else {
            at += 1;
            continue;
        };
        let of = |index: usize| tokens.get(index).copied();
        let name = at.checked_sub(1).and_then(of);
        let Some((TokenWithSpan { token: Token::Word(word), span }, first, last)) = name
            .zip(of(clause.first))
            .zip(of(clause.end - 1))
            .map(|((name, first), last)| (name, first, last))
        else {
            return Err(Error::invalid("AS OF must follow the name of a table"));
        };
        let (begin, end) = (places.start(first), places.end(last));
        let text = sql.get(begin..end).unwrap_or_default();
        let part = match clause.version {
            true => format!("v{}", version(text)?),
            false => {
                moments.push(text.to_owned());
                format!("m{}", first_moment + moments.len() - 1)
            }
        };
        let table = match word.quote_style {
            Some(_) => word.value.clone(),
            None => word.value.to_lowercase(),
        };
        let from = places.at(span.start.line, span.start.column);
        out.push_str(sql.get(done..from).unwrap_or_default());
        out.push_str(&format!("\"{}${part}\"", table.replace('"', "\"\"")));
        if !is_alias(of(clause.end)) {
            out.push_str(&format!(" AS {word}"));
        }
        done = end;
        at = clause.end;
    }
    out.push_str(sql.get(done..).unwrap_or_default());
    Ok((out, moments))
}

/// A clause among the tokens: its expression from `first` up to `end`.
struct Clause {
    version: bool,
    first: usize,
    end: usize,
}

fn word(token: Option<&&TokenWithSpan>) -> Option<String> {
    match &token?.token {
        Token::Word(Word { value, quote_style: None, .. }) => Some(value.to_ascii_uppercase()),
        _ => None,
    }
}

/// The clause that begins at a token, if one does.
fn clause(tokens: &[&TokenWithSpan], at: usize) -> Result<Option<Clause>> {
    let words = [0, 1, 2, 3].map(|offset| word(tokens.get(at + offset)));
    let [Some(of), Some(kind), Some(r#as), Some(last)] = &words else { return Ok(None) };
    if of != "FOR" || r#as != "AS" || last != "OF" {
        return Ok(None);
    }
    let version = match kind.as_str() {
        "VERSION" | "SYSTEM_VERSION" => true,
        "TIMESTAMP" | "SYSTEM_TIME" => false,
        _ => return Ok(None),
    };
    let first = at + 4;
    let mut end = first;
    let kind = |at: usize| tokens.get(at).map(|token| &token.token);
    match kind(end) {
        Some(Token::LParen) => {
            end = closing(tokens, end).ok_or_else(|| Error::invalid("a bracket is not closed"))?;
        }
        Some(Token::Number(..)) if version => end += 1,
        Some(_) if version => {}
        Some(Token::SingleQuotedString(_)) => end += 1,
        Some(Token::Word(_)) => {
            let name = word(tokens.get(end)).unwrap_or_default();
            end += 1;
            match (name.as_str(), kind(end)) {
                ("TIMESTAMP" | "DATE", Some(Token::SingleQuotedString(_))) => end += 1,
                ("NOW", Some(Token::LParen)) => end = closing(tokens, end).unwrap_or(end),
                ("CURRENT_TIMESTAMP" | "CURRENT_DATE", _) => {}
                _ => end = first,
            }
            let signed = matches!(kind(end), Some(Token::Minus | Token::Plus));
            if end > first && signed && word(tokens.get(end + 1)).as_deref() == Some("INTERVAL") {
                end += 3;
                let unit = word(tokens.get(end)).unwrap_or_default();
                let units = ["SECOND", "MINUTE", "HOUR", "DAY", "WEEK", "MONTH", "YEAR"];
                if units.contains(&unit.trim_end_matches('S')) {
                    end += 1;
                }
            }
        }
        _ => {}
    }
    if end == first || end > tokens.len() {
        return Err(Error::invalid(match version {
            true => "VERSION AS OF needs the number of a commit, as \"t$history\" lists them",
            false => {
                "TIMESTAMP AS OF needs a time: timestamp '2026-11-29 10:00:00', \
                 current_timestamp - interval '1' hour, or an expression in brackets"
            }
        }));
    }
    Ok(Some(Clause { version, first, end }))
}

/// The token after the bracket that closes the one at `at`.
fn closing(tokens: &[&TokenWithSpan], at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(index + 1);
        }
    }
    None
}

/// Whether a table's alias follows.
fn is_alias(token: Option<&TokenWithSpan>) -> bool {
    use Keyword as K;
    let Some(TokenWithSpan { token: Token::Word(word), .. }) = token else { return false };
    word.quote_style.is_some()
        || !matches!(
            word.keyword,
            K::WHERE
                | K::JOIN
                | K::INNER
                | K::LEFT
                | K::RIGHT
                | K::FULL
                | K::CROSS
                | K::NATURAL
                | K::ON
                | K::USING
                | K::GROUP
                | K::ORDER
                | K::HAVING
                | K::LIMIT
                | K::OFFSET
                | K::FETCH
                | K::UNION
                | K::INTERSECT
                | K::EXCEPT
                | K::WINDOW
                | K::QUALIFY
                | K::FOR
                | K::TABLESAMPLE
        )
}

fn version(text: &str) -> Result<u64> {
    let number = text.trim_matches(['(', ')', ' ']);
    number.parse().map_err(|_not_one| {
        Error::invalid(format!(
            "VERSION AS OF {text}: give the number of a commit, as \"t$history\" lists them"
        ))
    })
}

/// Where lines and columns of a text are among its bytes.
struct Places(Vec<Vec<usize>>);

impl Places {
    fn of(text: &str) -> Places {
        let mut lines = vec![Vec::new()];
        for (at, c) in text.char_indices() {
            if let Some(line) = lines.last_mut() {
                line.push(at);
            }
            if c == '\n' {
                lines.push(Vec::new());
            }
        }
        if let Some(line) = lines.last_mut() {
            line.push(text.len());
        }
        Places(lines)
    }

    /// Lines and columns count from 1.
    fn at(&self, line: u64, column: u64) -> usize {
        let index = |number: u64| usize::try_from(number.saturating_sub(1)).unwrap_or(usize::MAX);
        let line = self.0.get(index(line));
        line.and_then(|line| line.get(index(column)).or(line.last()).copied()).unwrap_or(0)
    }

    fn start(&self, token: &TokenWithSpan) -> usize {
        self.at(token.span.start.line, token.span.start.column)
    }

    fn end(&self, token: &TokenWithSpan) -> usize {
        self.at(token.span.end.line, token.span.end.column)
    }
}

/// What is known of a table's files, as a table.
pub(crate) async fn known(
    lake: &Lake,
    table: &Table,
    part: Part,
) -> Result<Arc<dyn TableProvider>> {
    let batch = match part {
        Part::Files => files(lake, table).await?,
        Part::Partitions => partitions(lake, table).await?,
        _ => commits(lake, table, part == Part::Snapshots)?,
    };
    let provider = MemTable::try_new(batch.schema(), vec![vec![batch]]).map_err(explain)?;
    Ok(Arc::new(provider))
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
    let field =
        |(name, array): &(&str, ArrayRef)| Field::new(*name, array.data_type().clone(), true);
    let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
    RecordBatch::try_new(schema, columns.into_iter().map(|(_, array)| array).collect())
        .map_err(|cause| Error::internal(format!("a table of metadata was built wrongly: {cause}")))
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn numbers(numbers: impl Iterator<Item = u64>) -> ArrayRef {
    Arc::new(numbers.map(signed).collect::<Int64Array>())
}

fn texts(texts: impl Iterator<Item = String>) -> ArrayRef {
    Arc::new(texts.map(Some).collect::<StringArray>())
}

fn commits(lake: &Lake, table: &Table, snapshots: bool) -> Result<RecordBatch> {
    if table.source != FileSource::Committed {
        return Err(Error::unsupported(format!(
            "table {:?} is known by listing its objects and has no commits; only tables that jobs \
             write have",
            table.name
        )));
    }
    let commits = lake.commits(table)?;
    let at: TimestampMillisecondArray =
        commits.iter().map(|commit| Some(commit.at.millis())).collect();
    let at: ArrayRef = Arc::new(at);
    let ids = numbers(commits.iter().map(|commit| commit.number));
    let parents: ArrayRef = Arc::new(
        commits
            .iter()
            .map(|commit| (commit.number > 1).then(|| signed(commit.number - 1)))
            .collect::<Int64Array>(),
    );
    if !snapshots {
        // A line of commits: each is an ancestor of the present.
        let ancestors: ArrayRef = Arc::new(BooleanArray::from(vec![true; commits.len()]));
        return batch(vec![
            ("made_current_at", at),
            ("snapshot_id", ids),
            ("parent_id", parents),
            ("is_current_ancestor", ancestors),
        ]);
    }
    let count = |of: fn(&lake::TableCommit) -> u64| numbers(commits.iter().map(of));
    batch(vec![
        ("committed_at", at),
        ("snapshot_id", ids),
        ("parent_id", parents),
        ("operation", texts(commits.iter().map(|commit| commit.kind.as_iceberg().to_owned()))),
        ("committed_by", texts(commits.iter().map(|commit| commit.by.clone()))),
        ("why", texts(commits.iter().map(|commit| commit.why.clone()))),
        ("added_data_files", count(|commit| commit.files_added)),
        ("added_records", count(|commit| commit.rows_added)),
        ("added_files_size", count(|commit| commit.bytes_added)),
        ("deleted_data_files", count(|commit| commit.files_removed)),
        ("deleted_records", count(|commit| commit.rows_removed)),
        ("removed_files_size", count(|commit| commit.bytes_removed)),
        ("table_version", count(|commit| commit.table_version)),
    ])
}

/// Rows of each file, where the catalog knows.
fn rows_of(lake: &Lake, table: &Table) -> Result<std::collections::HashMap<String, (u64, u64)>> {
    Ok(lake
        .catalog()
        .written_files(&table.database, &table.name)?
        .into_iter()
        .map(|file| (file.key, (file.rows, file.commit_added)))
        .collect())
}

async fn files(lake: &Lake, table: &Table) -> Result<RecordBatch> {
    let files = lake.files(table).await?;
    let rows = rows_of(lake, table)?;
    let known = |of: fn(&(u64, u64)) -> u64| -> ArrayRef {
        let value = |file: &lake::TableFile| rows.get(&file.key).map(|row| signed(of(row)));
        Arc::new(files.iter().map(value).collect::<Int64Array>())
    };
    let folder = |file: &lake::TableFile| {
        let keys = table.partition_keys.iter().map(|key| key.name.as_str());
        let pairs = keys.zip(file.partition_values.iter().map(String::as_str));
        lake::partition_folder(pairs).trim_end_matches('/').to_owned()
    };
    batch(vec![
        ("content", Arc::new(Int32Array::from(vec![0; files.len()]))),
        ("file_path", texts(files.iter().map(|file| format!("s3://{}/{}", file.bucket, file.key)))),
        ("file_format", texts(files.iter().map(|_| table.format.as_str().to_uppercase()))),
        ("record_count", known(|row| row.0)),
        ("file_size_in_bytes", numbers(files.iter().map(|file| file.bytes))),
        ("partition", texts(files.iter().map(folder))),
        ("snapshot_id", known(|row| row.1)),
    ])
}

async fn partitions(lake: &Lake, table: &Table) -> Result<RecordBatch> {
    if table.partition_keys.is_empty() {
        return Err(Error::invalid(format!("table {:?} is not partitioned", table.name)));
    }
    let rows = rows_of(lake, table)?;
    let mut found: std::collections::BTreeMap<Vec<String>, (u64, u64, Option<u64>)> =
        std::collections::BTreeMap::new();
    for file in lake.files(table).await? {
        let partition = found.entry(file.partition_values).or_insert((0, 0, Some(0)));
        partition.0 += 1;
        partition.1 += file.bytes;
        partition.2 = partition.2.zip(rows.get(&file.key)).map(|(sum, row)| sum + row.0);
    }
    let mut columns: Vec<(&str, ArrayRef)> = Vec::new();
    for (at, key) in table.partition_keys.iter().enumerate() {
        let value = |values: &Vec<String>| {
            values.get(at).filter(|value| *value != lake::NULL_PARTITION).cloned()
        };
        columns.push((&key.name, Arc::new(found.keys().map(value).collect::<StringArray>())));
    }
    let count: Int64Array = found.values().map(|(_, _, rows)| rows.map(signed)).collect();
    columns.push(("record_count", Arc::new(count)));
    columns.push(("file_count", numbers(found.values().map(|(files, _, _)| *files))));
    columns.push(("total_size", numbers(found.values().map(|(_, bytes, _)| *bytes))));
    batch(columns)
}

/// The time that an expression gives.
pub(crate) async fn moment(
    session: &datafusion::prelude::SessionContext,
    expression: &str,
) -> Result<AsOf> {
    let bad = |why: String| Error::invalid(format!("TIMESTAMP AS OF {expression}: {why}"));
    // Athena writes the zone as a word; all times here are in it anyway.
    let text = expression.replace(" UTC'", "'");
    let sql = format!("SELECT CAST(({text}) AS TIMESTAMP)");
    let parsed = match crate::statement::parse(&sql).map_err(|e| bad(e.to_string()))? {
        crate::statement::Request::Query { statement, tables, .. } if tables.is_empty() => {
            statement
        }
        _ => return Err(bad("it must not read tables".into())),
    };
    let state = session.state();
    let plan = state.statement_to_plan(*parsed).await;
    let plan = plan.map_err(|cause| bad(explain(cause).to_string()))?;
    let rows = datafusion::prelude::DataFrame::new(state, plan).collect().await;
    let rows = rows.map_err(|cause| bad(explain(cause).to_string()))?;
    let first = rows.first().filter(|rows| rows.num_rows() == 1).map(|rows| rows.column(0));
    let first = first.ok_or_else(|| bad("it gives no single value".into()))?;
    let millis = arrow::compute::cast(first, &DataType::Timestamp(TimeUnit::Millisecond, None))
        .map_err(|cause| bad(cause.to_string()))?;
    let millis = millis
        .as_any()
        .downcast_ref::<TimestampMillisecondArray>()
        .and_then(|array| array.iter().next().flatten());
    let millis = millis.ok_or_else(|| bad("it is null".into()))?;
    Ok(AsOf::Timestamp(Timestamp(millis)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clauses_are_taken_out_and_tables_get_names_of_their_moment() {
        for (sql, expect, moments) in [
            ("SELECT 1", "SELECT 1", vec![]),
            ("SELECT * FROM t FOR VERSION AS OF 3", "SELECT * FROM \"t$v3\" AS t", vec![]),
            (
                "SELECT * FROM db.T\n for system_version as of 12 old, t WHERE old.a = 'FOR VERSION AS OF 1'",
                "SELECT * FROM db.\"t$v12\" old, t WHERE old.a = 'FOR VERSION AS OF 1'",
                vec![],
            ),
            (
                "SELECT 'é' FROM \"T\" FOR TIMESTAMP AS OF timestamp '2026-11-29 10:00:00 UTC' AS a JOIN t b ON true",
                "SELECT 'é' FROM \"T$m0\" AS a JOIN t b ON true",
                vec!["timestamp '2026-11-29 10:00:00 UTC'"],
            ),
            (
                "SELECT * FROM t FOR TIMESTAMP AS OF current_timestamp - interval '1' hour WHERE x > 1 \
                 UNION SELECT * FROM t FOR TIMESTAMP AS OF (now())",
                "SELECT * FROM \"t$m0\" AS t WHERE x > 1 UNION SELECT * FROM \"t$m1\" AS t",
                vec!["current_timestamp - interval '1' hour", "(now())"],
            ),
        ] {
            let (out, found) = rewrite(sql, 0).unwrap();
            assert_eq!(out.split_whitespace().collect::<Vec<_>>().join(" "), expect, "{sql}");
            assert_eq!(found, moments, "{sql}");
        }
        for bad in [
            "SELECT * FROM t FOR VERSION AS OF",
            "SELECT * FROM t FOR VERSION AS OF x",
            "SELECT * FROM t FOR TIMESTAMP AS OF WHERE",
            "SELECT * FROM t FOR TIMESTAMP AS OF (1",
            "FOR VERSION AS OF 1",
            "SELECT * FROM t FOR VERSION AS OF 1.5",
        ] {
            assert!(rewrite(bad, 0).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_taken_apart() {
        assert_eq!(part("t").unwrap(), ("t", Part::Now));
        assert_eq!(part("t$v7").unwrap(), ("t", Part::Version(7)));
        assert_eq!(part("t$files").unwrap(), ("t", Part::Files));
        for bad in ["t$", "t$v", "t$vx", "t$manifests", "t$é"] {
            assert!(part(bad).is_err(), "{bad}");
        }
    }
}
