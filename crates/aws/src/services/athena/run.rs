//! Running one statement: its turn, its result object, its end.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use base::{Error, ErrorKind, Result};
use bytes::Bytes;
use formats::parquet::Codec;
use lake::{FileSource, Format, Partition, RowSink, Scanned, SqlOptions, Table, View};

use super::execution::{Execution, State};
use super::results::Column;
use super::sinks::{self, CsvFile, Files};
use super::statement::{CreateTableAs, CreateView, Insert, Name, Statement, Unload};
use super::{Task, definition, folder, location, prepared};
use crate::rooms::Rooms;

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
            let stage = Stage::new(rooms, &execution.id)?;
            let file = stage.folder.join("result.csv");
            let (sink, columns) = CsvFile::create(&file)?;
            let scanned = ask(rooms, &sql, &database, Box::new(sink), task).await?;
            rooms.buckets.publish_file(&file, &bucket, &key).await?;
            let columns =
                std::mem::take(&mut *columns.lock().unwrap_or_else(PoisonError::into_inner));
            Ok(Done { columns, bytes_scanned: scanned.bytes, update_count: 0 })
        }
        Statement::CreateTableAs(wanted) => {
            create_table_as(rooms, execution, *wanted, &database, task).await
        }
        Statement::Insert(wanted) => insert(rooms, execution, wanted, &database, task).await,
        Statement::Unload(wanted) => unload(rooms, execution, wanted, &database, task).await,
        Statement::CreateView(wanted) => {
            let CreateView { name, replace, query } = wanted;
            let of = name.database.as_deref().unwrap_or(&database).to_owned();
            // Asked once, for no rows: a view that cannot be answered is none.
            let probe = format!("SELECT * FROM ({query}) AS v LIMIT 0");
            ask(rooms, &probe, &of, Box::new(Nowhere), task).await?;
            let view = View { database: of, name: name.table, sql: query };
            rooms.lake.put_view(&view, replace)?;
            rooms.buckets.put(&bucket, &key, Bytes::new()).await?;
            Ok(Done::default())
        }
        Statement::Prepare { name, sql } => {
            prepared::prepare(rooms, &execution.workgroup, &name, &sql)?;
            rooms.buckets.put(&bucket, &key, Bytes::new()).await?;
            Ok(Done::default())
        }
        Statement::Deallocate(name) => {
            prepared::deallocate(rooms, &execution.workgroup, &name)?;
            rooms.buckets.put(&bucket, &key, Bytes::new()).await?;
            Ok(Done::default())
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

/// The engine's answer into a sink; dropping the question on a stop is what ends the work.
async fn ask(
    rooms: &Rooms,
    sql: &str,
    database: &str,
    sink: Box<dyn RowSink>,
    task: &mut Task,
) -> Result<Scanned, End> {
    let options = SqlOptions { database: database.to_owned() };
    tokio::select! {
        biased;
        () = task.stopped() => Err(End::Stopped),
        answer = rooms.engine.sql_into(sql, &options, sink) => Ok(answer?),
    }
}

/// For a question of which only the columns are wanted.
struct Nowhere;

impl RowSink for Nowhere {
    fn begin(&mut self, _: &SchemaRef) -> Result<()> {
        Ok(())
    }

    fn rows(&mut self, _: RecordBatch) -> Result<()> {
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|cause| Error::internal(format!("work on a result ended early: {cause}")))?
}

fn codec(zstd: bool) -> Codec {
    if zstd { Codec::Zstd } else { Codec::Snappy }
}

/// Refuses a place where something lies already.
async fn expect_empty(rooms: &Rooms, bucket: &str, prefix: &str, what: &str) -> Result<()> {
    match rooms.buckets.list(bucket, prefix).await?.first() {
        None => Ok(()),
        Some(found) => Err(Error::new(
            ErrorKind::AlreadyExists,
            format!(
                "target directory for {what} is not empty: it holds s3://{bucket}/{}; delete what \
                 is there or give another location",
                found.key
            ),
        )),
    }
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
    let what = format!("table \"{database_of}\".\"{table}\"");
    expect_empty(rooms, &bucket, &prefix, &what).await?;
    let stage = Stage::new(rooms, &execution.id)?;
    let (sink, made) =
        Files::create(&stage.folder, &execution.id, codec(wanted.zstd), None, wanted.with_data)?;
    let scanned = ask(rooms, &wanted.query, database, Box::new(sink), task).await?;
    let (rows, schema) = sinks::summary(&made);
    let schema = schema.ok_or_else(|| Error::internal("an answer without columns"))?;
    let table = table_of(&schema, (database_of, table), (&bucket, &prefix), wanted.zstd)?;
    let files = blocking(move || sinks::close(&made)).await?;
    let files = files.into_iter().map(|(_, path)| (prefix.clone(), path)).collect();
    let keys = publish(rooms, &bucket, files).await?;
    if let Err(error) = catalog.create_table(table) {
        withdraw(rooms, &bucket, &keys).await;
        return Err(error.into());
    }
    written(rooms, execution, &bucket, &keys, scanned, rows).await
}

/// Puts rows into a table of Parquet that lies below a prefix.
async fn insert(
    rooms: &Arc<Rooms>,
    execution: &Execution,
    wanted: Insert,
    database: &str,
    task: &mut Task,
) -> Result<Done, End> {
    let catalog = rooms.lake.catalog();
    let of = wanted.name.database.as_deref().unwrap_or(database);
    let table = catalog.get_table(of, &wanted.name.table)?;
    let refused = |why: &str| {
        Err(End::Failed(Error::unsupported(format!(
            "INSERT INTO {:?} is not supported: {why}",
            table.name
        ))))
    };
    if table.source != FileSource::Listed {
        return refused("its rows are those of its job's runs; run the job");
    }
    if table.format != Format::Parquet {
        return refused("only tables of Parquet are written; CREATE TABLE AS makes one");
    }
    let all: Vec<String> = table.all_columns().map(|column| column.name.to_lowercase()).collect();
    if !wanted.columns.is_empty() && wanted.columns != all {
        return refused(&format!("name all columns in their order: {}", all.join(", ")));
    }
    let stage = Stage::new(rooms, &execution.id)?;
    let (sink, made) =
        Files::create(&stage.folder, &execution.id, Codec::Snappy, Some(table.clone()), true)?;
    let scanned = ask(rooms, &wanted.query, database, Box::new(sink), task).await?;
    let (rows, _) = sinks::summary(&made);
    let (mut files, mut partitions) = (Vec::new(), BTreeMap::new());
    for (values, path) in blocking(move || sinks::close(&made)).await? {
        let keys = table.partition_keys.iter().map(|key| key.name.as_str());
        let below = lake::partition_folder(keys.zip(values.iter().map(String::as_str)));
        let prefix = format!("{}{below}", table.prefix);
        files.push((prefix.clone(), path));
        if !values.is_empty() {
            partitions.insert(values, prefix);
        }
    }
    let keys = publish(rooms, &table.bucket, files).await?;
    let known = catalog.list_partitions(&table.database, &table.name)?;
    let known: BTreeSet<Vec<String>> = known.into_iter().map(|found| found.values).collect();
    let missing = partitions.into_iter().filter(|(values, _)| !known.contains(values));
    let missing = missing.map(|(values, prefix)| Partition {
        values,
        bucket: table.bucket.clone(),
        prefix,
        created_at: base::Timestamp(0),
    });
    catalog.add_partitions(&table.database, &table.name, missing.collect())?;
    written(rooms, execution, &table.bucket, &keys, scanned, rows).await
}

/// Puts rows into files at a place, and makes no table of them.
async fn unload(
    rooms: &Arc<Rooms>,
    execution: &Execution,
    wanted: Unload,
    database: &str,
    task: &mut Task,
) -> Result<Done, End> {
    let (bucket, prefix) = location(&folder(&wanted.location)?)?;
    expect_empty(rooms, &bucket, &prefix, "UNLOAD").await?;
    let stage = Stage::new(rooms, &execution.id)?;
    let (sink, made) = Files::create(&stage.folder, &execution.id, codec(wanted.zstd), None, true)?;
    let scanned = ask(rooms, &wanted.query, database, Box::new(sink), task).await?;
    let (rows, _) = sinks::summary(&made);
    let files = blocking(move || sinks::close(&made)).await?;
    let files = files.into_iter().map(|(_, path)| (prefix.clone(), path)).collect();
    let keys = publish(rooms, &bucket, files).await?;
    written(rooms, execution, &bucket, &keys, scanned, rows).await
}

/// Leaves the list of the files that a statement wrote, by which clients find them.
async fn written(
    rooms: &Rooms,
    execution: &Execution,
    bucket: &str,
    keys: &[String],
    scanned: Scanned,
    rows: u64,
) -> Result<Done, End> {
    let manifest: String = keys.iter().map(|key| format!("s3://{bucket}/{key}\n")).collect();
    let (at, key) = location(&format!("{}-manifest.csv", execution.output))?;
    rooms.buckets.put(&at, &key, Bytes::from(manifest)).await?;
    let column = Column { name: "rows".into(), kind: "bigint".into(), precision: 19, scale: 0 };
    Ok(Done { columns: vec![column], bytes_scanned: scanned.bytes, update_count: rows })
}

fn table_of(
    schema: &SchemaRef,
    names: (&str, &str),
    place: (&str, &str),
    zstd: bool,
) -> Result<Table> {
    let mut table = Table::new(names, place, Format::Parquet);
    for field in schema.fields() {
        if field.metadata().contains_key(lake::UNNAMED) {
            return Err(Error::invalid(format!(
                "column {} has no name: give it one with AS",
                field.name()
            )));
        }
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
    fn new(rooms: &Rooms, id: &str) -> Result<Stage> {
        let above = rooms.data_dir.join("athena");
        // What a killed process left there; nobody of this one has begun yet.
        rooms.athena.swept.call_once(|| drop(std::fs::remove_dir_all(&above)));
        let folder = above.join(id);
        std::fs::create_dir_all(&folder)
            .map_err(|cause| Error::io("make a folder for a result", cause))?;
        Ok(Stage { folder })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// Moves files beneath their prefixes: all of them, or none.
async fn publish(
    rooms: &Rooms,
    bucket: &str,
    files: Vec<(String, PathBuf)>,
) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    for (prefix, file) in files {
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
