//! Running one statement: its turn, its result object, its end.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use base::{Error, ErrorKind, Result};
use bytes::Bytes;
use lake::{Format, QueryResult, SqlOptions, Table};

use super::execution::{Execution, State};
use super::results::{self, Column};
use super::statement::{CreateTableAs, Name, Statement};
use super::{Task, definition, folder, location};
use crate::rooms::Rooms;

/// Bytes of a file that CREATE TABLE AS writes, about.
const FILE_BYTES: u64 = 128 * 1024 * 1024;
/// The database of a statement that names none.
const DATABASE: &str = "default";

/// What a statement that succeeded leaves to be said.
#[derive(Default)]
struct Done {
    columns: Vec<Column>,
    bytes_scanned: u64,
    update_count: u64,
}

/// Why one did not.
enum End {
    Stopped,
    Failed(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> End {
        End::Failed(error)
    }
}

/// Brings an execution from QUEUED to its end.
pub(super) async fn drive(
    rooms: Arc<Rooms>,
    mut execution: Execution,
    statement: Result<Statement>,
    mut task: Task,
) {
    let submitted = Instant::now();
    let turns = Arc::clone(&rooms.athena.turns);
    let turn = tokio::select! {
        biased;
        () = task.stopped() => None,
        turn = turns.acquire_owned() => turn.ok(),
    };
    execution.queued_millis = millis(submitted);
    let mut outcome = Err(End::Stopped);
    if turn.is_some() {
        execution.state = State::Running;
        keep(&rooms, &execution);
        let started = Instant::now();
        outcome = match statement {
            Ok(statement) => run(&rooms, &execution, statement, &mut task).await,
            Err(error) => Err(End::Failed(error)),
        };
        execution.engine_millis = millis(started);
    }
    match outcome {
        Ok(done) => {
            execution.state = State::Succeeded;
            execution.columns = done.columns;
            execution.bytes_scanned = done.bytes_scanned;
            execution.update_count = done.update_count;
        }
        Err(End::Stopped) => {
            execution.state = State::Cancelled;
            execution.reason = Some("Query cancelled by user".into());
        }
        Err(End::Failed(error)) => {
            execution.state = State::Failed;
            execution.our_fault = matches!(
                error.kind(),
                ErrorKind::Internal | ErrorKind::Corrupt | ErrorKind::Unavailable
            );
            if execution.our_fault {
                tracing::error!(?error, id = execution.id, "a query failed");
            }
            execution.reason = Some(reason(&error));
        }
    }
    execution.total_millis = millis(submitted);
    execution.ended_at = Some(rooms.clock.now());
    keep(&rooms, &execution);
}

/// Athena puts a word for the kind before what happened.
fn reason(error: &Error) -> String {
    let word = match error.kind() {
        ErrorKind::Unsupported => "NOT_SUPPORTED",
        ErrorKind::Exhausted => "EXCEEDED_LIMIT",
        ErrorKind::NotFound => "NOT_FOUND",
        ErrorKind::AlreadyExists => "ALREADY_EXISTS",
        ErrorKind::Invalid | ErrorKind::Conflict | ErrorKind::Denied => "INVALID_REQUEST",
        ErrorKind::Unavailable | ErrorKind::Internal | ErrorKind::Corrupt => {
            "GENERIC_INTERNAL_ERROR"
        }
    };
    format!("{word}: {error}")
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Writes a row that still is there: a workgroup may have been deleted with its executions.
fn keep(rooms: &Rooms, execution: &Execution) {
    let kept = rooms.metastore.transact(|rows| {
        if rows.get::<Execution>(&execution.id)?.is_some() {
            rows.put(&execution.id, execution)?;
        }
        Ok(())
    });
    if let Err(error) = kept {
        tracing::error!(?error, id = execution.id, "the state of a query could not be kept");
    }
}

async fn run(
    rooms: &Arc<Rooms>,
    execution: &Execution,
    statement: Statement,
    task: &mut Task,
) -> Result<Done, End> {
    let (bucket, key) = location(&execution.output)?;
    // Before the work, not after it: the bucket must be there, and the key must be one.
    rooms.buckets.local_path(&bucket, &key)?;
    let database = execution.database.as_deref().unwrap_or(DATABASE).to_lowercase();
    match statement {
        Statement::Query(sql) | Statement::Explain(sql) => {
            let answer = ask(rooms, &sql, &database, task).await?;
            let done = Done {
                columns: results::columns(&answer.schema),
                bytes_scanned: answer.bytes_scanned,
                update_count: 0,
            };
            let csv = blocking(move || results::csv(&answer.schema, &answer.batches)).await?;
            rooms.buckets.put(&bucket, &key, csv.into()).await?;
            Ok(done)
        }
        Statement::CreateTableAs(wanted) => {
            create_table_as(rooms, execution, *wanted, &database, task).await
        }
        other => {
            let answer = definition::run(rooms, &database, other).await?;
            let mut text = answer.lines.join("\n");
            if !text.is_empty() {
                text.push('\n');
            }
            rooms.buckets.put(&bucket, &key, text.into()).await?;
            Ok(Done { columns: answer.columns, ..Done::default() })
        }
    }
}

/// The engine's answer; dropping the question on a stop is what ends the work.
async fn ask(
    rooms: &Rooms,
    sql: &str,
    database: &str,
    task: &mut Task,
) -> Result<QueryResult, End> {
    let options = SqlOptions { database: database.to_owned() };
    tokio::select! {
        biased;
        () = task.stopped() => Err(End::Stopped),
        answer = rooms.engine.sql(sql, &options) => Ok(answer?),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|cause| Error::internal(format!("work on a result ended early: {cause}")))?
}

async fn create_table_as(
    rooms: &Arc<Rooms>,
    execution: &Execution,
    wanted: CreateTableAs,
    database: &str,
    task: &mut Task,
) -> Result<Done, End> {
    let Name { database: named, table } = &wanted.name;
    let database_of = named.as_deref().unwrap_or(database);
    let catalog = rooms.lake.catalog();
    catalog.get_database(database_of)?;
    if catalog.find_table(database_of, table)?.is_some() {
        return match wanted.if_not_exists {
            true => Ok(Done::default()),
            false => Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("table \"{database_of}\".\"{table}\" exists already"),
            )
            .into()),
        };
    }
    let place = match &wanted.location {
        Some(uri) => folder(uri)?,
        None => format!("{}tables/{}/", execution.folder, execution.id),
    };
    let (bucket, prefix) = location(&place)?;
    if let Some(found) = rooms.buckets.list(&bucket, &prefix).await?.first() {
        return Err(Error::new(
            ErrorKind::AlreadyExists,
            format!(
                "target directory for table \"{database_of}\".\"{table}\" is not empty: it holds \
                 s3://{bucket}/{}; delete what is there or give another external_location",
                found.key
            ),
        )
        .into());
    }
    let answer = ask(rooms, &wanted.query, database, task).await?;
    let made = table_of(&answer, (database_of, table), (&bucket, &prefix), wanted.zstd)?;
    let rows: usize = answer.batches.iter().map(arrow::array::RecordBatch::num_rows).sum();
    let rows = if wanted.with_data { rows } else { 0 };
    let bytes_scanned = answer.bytes_scanned;

    let stage = Stage::new(rooms, &execution.id);
    let keys = if rows == 0 {
        Vec::new()
    } else {
        let (folder, zstd) = (stage.folder.clone(), wanted.zstd);
        let first = execution.id.clone();
        let swept = Arc::clone(&rooms.athena);
        let files = blocking(move || {
            let above = folder.parent().map(Path::to_owned).unwrap_or_default();
            // What a killed process left there; nobody of this one has begun yet.
            swept.swept.call_once(|| drop(std::fs::remove_dir_all(&above)));
            write(&folder, &first, answer, zstd)
        })
        .await?;
        publish(rooms, &bucket, &prefix, files).await?
    };
    if let Err(error) = catalog.create_table(made) {
        withdraw(rooms, &bucket, &keys).await;
        return Err(error.into());
    }
    let manifest: String = keys.iter().map(|key| format!("s3://{bucket}/{key}\n")).collect();
    let (at, key) = location(&format!("{}-manifest.csv", execution.output))?;
    rooms.buckets.put(&at, &key, Bytes::from(manifest)).await?;
    let column = Column { name: "rows".into(), kind: "bigint".into(), precision: 19, scale: 0 };
    Ok(Done { columns: vec![column], bytes_scanned, update_count: rows as u64 })
}

fn table_of(
    answer: &QueryResult,
    names: (&str, &str),
    place: (&str, &str),
    zstd: bool,
) -> Result<Table> {
    let mut table = Table::new(names, place, Format::Parquet);
    for field in answer.schema.fields() {
        let hive_type = formats::hive::from_arrow(field.data_type())
            .map_err(|error| error.context(format_args!("column {:?}", field.name())))?;
        table.columns.push(lake::Column::new(field.name().clone(), hive_type));
    }
    lake::check_columns(&table.columns)?;
    let compression = if zstd { "ZSTD" } else { "SNAPPY" };
    for (name, value) in
        [("EXTERNAL", "TRUE"), ("classification", "parquet"), ("parquet.compression", compression)]
    {
        table.parameters.insert(name.to_owned(), value.to_owned());
    }
    Ok(table)
}

/// Where files lie until they are whole; gone when this is.
struct Stage {
    folder: PathBuf,
}

impl Stage {
    fn new(rooms: &Rooms, id: &str) -> Stage {
        Stage { folder: rooms.data_dir.join("athena").join(id) }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

fn write(folder: &Path, stem: &str, answer: QueryResult, zstd: bool) -> Result<Vec<PathBuf>> {
    use formats::parquet::{Codec, Rolling, WriterOptions};
    std::fs::create_dir_all(folder)
        .map_err(|cause| Error::io("make a folder for a table's files", cause))?;
    let codec = if zstd { Codec::Zstd } else { Codec::Snappy };
    let options = WriterOptions { codec, ..WriterOptions::default() };
    let mut files = Rolling::new(folder, stem, answer.schema, options, FILE_BYTES);
    for batch in &answer.batches {
        files.write(batch)?;
    }
    Ok(files.close()?.into_iter().map(|file| file.path).collect())
}

/// Moves files beneath a prefix: all of them, or none.
async fn publish(
    rooms: &Rooms,
    bucket: &str,
    prefix: &str,
    files: Vec<PathBuf>,
) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let key = format!("{prefix}{name}");
        let published = rooms.buckets.publish_file(&file, bucket, &key).await;
        keys.push(key);
        if let Err(error) = published {
            withdraw(rooms, bucket, &keys).await;
            return Err(error);
        }
    }
    Ok(keys)
}

async fn withdraw(rooms: &Rooms, bucket: &str, keys: &[String]) {
    for key in keys {
        if let Err(error) = rooms.buckets.delete(bucket, key).await {
            tracing::warn!(?error, key, "a file of a table that was not made stays");
        }
    }
}
