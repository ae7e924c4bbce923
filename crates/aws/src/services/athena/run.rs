//! Running one statement: its turn, its result object, its end.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use base::{Error, ErrorKind, Result};
use bytes::Bytes;
use lake::{
    BytesCutoff, FinishedWrite, Format, Lake, RowSink, Scanned, SqlOptions, Table, View, Write,
    WriteFile, WriteInto,
};

use super::execution::{Execution, State};
use super::results::Column;
use super::sinks::{self, CsvFile, Files, Form, Made, Shape};
use super::statement::{
    CreateTableAs, CreateView, Insert, Name, Output, Packing, Statement, Stored, Unload,
};
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
    /// It read more than its workgroup allows.
    CutOff(BytesCutoff),
    Failed(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> End {
        let cause = std::error::Error::source(&error);
        match cause.and_then(|cause| cause.downcast_ref::<BytesCutoff>()) {
            Some(cutoff) => End::CutOff(*cutoff),
            None => End::Failed(error),
        }
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
        Err(End::CutOff(cutoff)) => {
            execution.state = State::Cancelled;
            execution.reason = Some("Bytes scanned limit was exceeded".into());
            execution.bytes_scanned = cutoff.bytes;
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
    let told = keep(&rooms, &execution);
    if told && execution.writes() {
        forget_write(&rooms, &execution.id);
    }
}

/// Has the lake forget what a statement wrote, once its row says it.
pub(super) fn forget_write(rooms: &Rooms, id: &str) {
    if let Err(error) = rooms.lake.forget_write(&lake::write_id(id)) {
        tracing::warn!(%error, id, "the note of a statement's write stays");
    }
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
/// Whether that could be done.
fn keep(rooms: &Rooms, execution: &Execution) -> bool {
    let kept = rooms.metastore.transact(|rows| {
        if rows.get::<Execution>(&execution.id)?.is_some() {
            rows.put(&execution.id, execution)?;
        }
        Ok(())
    });
    if let Err(error) = &kept {
        tracing::error!(?error, id = execution.id, "the state of a query could not be kept");
    }
    kept.is_ok()
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
            let scanned = ask(rooms, execution, &sql, &database, Box::new(sink), task).await?;
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
            ask(rooms, execution, &probe, &of, Box::new(Nowhere), task).await?;
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
    execution: &Execution,
    sql: &str,
    database: &str,
    sink: Box<dyn RowSink>,
    task: &mut Task,
) -> Result<Scanned, End> {
    let options = SqlOptions {
        database: database.to_owned(),
        bytes_scanned_max: execution.bytes_scanned_max,
    };
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
    let Output { stored, packing, partitioned_by } = &wanted.output;
    let staging = Staging::new(rooms, &execution.id)?;
    let shape = match wanted.with_data {
        true => Shape::AsAsked(partitioned_by.clone()),
        false => Shape::NoRows(partitioned_by.clone()),
    };
    let form = Form::new(stored, *packing)?;
    let (sink, made) = Files::create(&staging.rows, &execution.id, form, shape);
    let scanned = ask(rooms, execution, &wanted.query, database, Box::new(sink), task).await?;
    let schema = sinks::schema_of(&made);
    let schema = schema.ok_or_else(|| Error::internal("an answer without columns"))?;
    let table = table_of(&schema, (database_of, table), (&bucket, &prefix), &wanted.output)?;
    let keys = table.partition_keys.iter().map(|key| key.name.clone()).collect();
    let files = staging.files(made, &bucket, &prefix, keys).await?;
    let into = WriteInto::New(Box::new(table));
    write(rooms, execution, &staging, into, files, scanned).await
}

/// Puts rows into a table.
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
    let all: Vec<String> = table.all_columns().map(|column| column.name.to_lowercase()).collect();
    if !wanted.columns.is_empty() && wanted.columns != all {
        return Err(End::Failed(Error::unsupported(format!(
            "INSERT INTO {:?} is not supported: name all columns in their order: {}",
            table.name,
            all.join(", ")
        ))));
    }
    let staging = Staging::new(rooms, &execution.id)?;
    let shape = Shape::OfTable(Box::new(table.clone()));
    let form = Form::of_table(&table)?;
    let (sink, made) = Files::create(&staging.rows, &execution.id, form, shape);
    let scanned = ask(rooms, execution, &wanted.query, database, Box::new(sink), task).await?;
    let keys = table.partition_keys.iter().map(|key| key.name.clone()).collect();
    let files = staging.files(made, &table.bucket, &table.prefix, keys).await?;
    let into = WriteInto::Table(Box::new(table));
    write(rooms, execution, &staging, into, files, scanned).await
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
    let Output { stored, packing, partitioned_by } = wanted.output;
    let staging = Staging::new(rooms, &execution.id)?;
    let shape = Shape::AsAsked(partitioned_by.clone());
    let form = Form::new(&stored, packing)?;
    let (sink, made) = Files::create(&staging.rows, &execution.id, form, shape);
    let scanned = ask(rooms, execution, &wanted.query, database, Box::new(sink), task).await?;
    let files = staging.files(made, &bucket, &prefix, partitioned_by).await?;
    write(rooms, execution, &staging, WriteInto::Place, files, scanned).await
}

/// Puts the files of a statement where they belong, with their list by which clients find them:
/// all of it, or nothing.
async fn write(
    rooms: &Rooms,
    execution: &Execution,
    staging: &Staging<'_>,
    into: WriteInto,
    files: Vec<WriteFile>,
    scanned: Scanned,
) -> Result<Done, End> {
    let names = files.iter().map(|file| format!("s3://{}/{}\n", file.bucket, file.key));
    let manifest: String = names.collect();
    let (bucket, key) = location(&format!("{}-manifest.csv", execution.output))?;
    let bytes = manifest.len() as u64;
    std::fs::write(staging.folder.join(MANIFEST), manifest)
        .map_err(|cause| Error::io("write the list of a statement's files", cause))?;
    let (staged, partition_values) = (MANIFEST.to_owned(), Vec::new());
    let manifest = WriteFile { staged, bucket, key, bytes, rows: 0, partition_values };
    let write = Write {
        id: staging.id.clone(),
        into,
        files,
        beside: vec![manifest],
        bytes_scanned: scanned.bytes,
    };
    let finished = rooms.lake.write(write).await.map_err(|error| {
        match rooms.lake.is_prepared_write(&staging.id) {
            Ok(false) => error,
            _ => error.context(COMES_LATER),
        }
    })?;
    let FinishedWrite { rows, bytes_scanned, .. } = finished;
    Ok(Done { columns: vec![rows_column()], bytes_scanned, update_count: rows })
}

/// What is to be known of a statement whose rows wait for the next start.
pub(super) const COMES_LATER: &str = "its rows are written and will be in their place once the \
     server has been started again; do not run the statement again";

/// The column of how many rows a statement wrote.
pub(super) fn rows_column() -> Column {
    Column { name: "rows".into(), kind: "bigint".into(), precision: 19, scale: 0 }
}

fn table_of(
    schema: &SchemaRef,
    names: (&str, &str),
    place: (&str, &str),
    output: &Output,
) -> Result<Table> {
    let format = match output.stored {
        Stored::Parquet => Format::Parquet,
        Stored::Json => Format::Json,
        Stored::Text(_) => Format::Csv,
    };
    let mut table = Table::new(names, place, format);
    if let Stored::Text(dialect) = &output.stored {
        table.csv = Some(dialect.clone());
    }
    let mut columns = Vec::new();
    for field in schema.fields() {
        if field.metadata().contains_key(lake::UNNAMED) {
            return Err(Error::invalid(format!(
                "column {} has no name: give it one with AS",
                field.name()
            )));
        }
        let hive_type = formats::hive::from_arrow(field.data_type())
            .map_err(|error| error.context(format_args!("column {:?}", field.name())))?;
        columns.push(lake::Column::new(field.name().clone(), hive_type));
    }
    table.partition_keys =
        columns.split_off(columns.len().saturating_sub(output.partitioned_by.len()));
    table.columns = columns;
    lake::check_columns(table.all_columns())?;
    let mut set = |name: &str, value: &str| table.parameters.insert(name.into(), value.into());
    set("EXTERNAL", "TRUE");
    set("classification", format.as_str());
    match (format, output.packing) {
        (Format::Parquet, packing) => {
            set("parquet.compression", packing.unwrap_or(Packing::Snappy).as_str())
        }
        (_, packing) => set("write.compression", packing.unwrap_or(Packing::Gzip).as_str()),
    };
    Ok(table)
}

/// The file of a statement's list, beneath its staging folder.
const MANIFEST: &str = "manifest.csv";
/// The folder of its rows, likewise.
const ROWS: &str = "rows";

/// Where the files of a statement lie until they are whole; gone when this is, unless they are on
/// their way.
struct Staging<'a> {
    lake: &'a Lake,
    id: String,
    folder: PathBuf,
    rows: PathBuf,
}

impl<'a> Staging<'a> {
    fn new(rooms: &'a Rooms, statement: &str) -> Result<Staging<'a>> {
        let id = lake::write_id(statement);
        let folder = rooms.lake.write_staging(&id)?;
        let rows = folder.join(ROWS);
        std::fs::create_dir_all(&rows)
            .map_err(|cause| Error::io("make a folder for a table's files", cause))?;
        Ok(Staging { lake: &rooms.lake, id, folder, rows })
    }

    /// Ends the files that were made; each with the key it gets below `prefix`.
    async fn files(
        &self,
        made: Arc<Mutex<Made>>,
        bucket: &str,
        prefix: &str,
        keys: Vec<String>,
    ) -> Result<Vec<WriteFile>> {
        let files = blocking(move || sinks::close(&made)).await?;
        let place = |(values, file): sinks::InPartition| {
            let pairs = keys.iter().map(String::as_str).zip(values.iter().map(String::as_str));
            let folder = lake::partition_folder(pairs);
            let name = file.path.file_name().unwrap_or_default().to_string_lossy();
            WriteFile {
                staged: format!("{ROWS}/{name}"),
                bucket: bucket.to_owned(),
                key: format!("{prefix}{folder}{name}"),
                bytes: file.bytes,
                rows: file.rows,
                partition_values: values,
            }
        };
        Ok(files.into_iter().map(place).collect())
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        self.lake.drop_write(&self.id);
    }
}

/// Where a result lies until it is whole; gone when this is.
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
