//! `forebay lake compare`: what a table's own rows come to as JSON, CSV and Parquet.
//!
//! The rows (or the first of them, up to a bound) are written once in each format into a folder
//! that is gone afterwards. Then each file is read: whole, and for one column. Bytes are those
//! that the reading thread asked the system for, seconds of processor are that thread's: other
//! work of the server counts for neither.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use base::{Error, ErrorKind, Result};
use formats::json::{Scan, ScanOptions};
use formats::parquet::{Codec, Reader, Rolling, WriterOptions};
use lake::{QueryEngine, RowSink, SqlOptions};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::lake_ops::{LakeRoom, cell_as_json};

/// Rows of a batch that is read.
const BATCH_ROWS: usize = 8192;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Compare {
    table: String,
    database: String,
    /// Bytes of JSON after which no more rows are taken.
    bytes_max: u64,
}

/// Runs the comparison in a folder beneath `above`.
pub(crate) async fn compare(room: &LakeRoom, above: &Path, input: Compare) -> Result<Value> {
    let (database, table) = match input.table.split_once('.') {
        Some((database, table)) => (database.to_owned(), table.to_owned()),
        None => (input.database, input.table),
    };
    room.lake.catalog().get_table(&database, &table)?;
    let folder = Folder::new(above)?;
    let written: Arc<Mutex<Option<Written>>> = Arc::default();
    let sink = Sink {
        folder: folder.0.clone(),
        bytes_max: input.bytes_max,
        written: Arc::clone(&written),
    };
    let sql = format!("SELECT * FROM \"{}\"", table.replace('"', "\"\""));
    let asked =
        room.engine.sql_into(&sql, &SqlOptions::in_database(database), Box::new(sink)).await;
    let written = lock(&written).take();
    // The sink itself ends a query of which it has enough.
    match (&asked, &written) {
        (Err(_), Some(Written { full: true, .. })) | (Ok(_), _) => {}
        (Err(_), _) => drop(asked?),
    }
    let written = written.filter(|written| written.rows > 0).ok_or_else(|| {
        Error::invalid(format!("table {table:?} has no rows that could be compared"))
    })?;
    tokio::task::spawn_blocking(move || {
        let answer = measure(&folder.0, written, &table);
        drop(folder);
        answer
    })
    .await
    .map_err(|cause| Error::internal(format!("the comparison ended early: {cause}")))?
}

/// Where the files lie; gone when this is.
struct Folder(PathBuf);

impl Folder {
    fn new(above: &Path) -> Result<Folder> {
        // What a process that was killed left; one comparison at a time has the place.
        let folder = above.join("compare");
        drop(std::fs::remove_dir_all(&folder));
        std::fs::create_dir_all(&folder)
            .map_err(|cause| Error::io("make a folder for a comparison", cause))?;
        Ok(Folder(folder))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The rows in all three formats, so far.
struct Written {
    schema: SchemaRef,
    json: BufWriter<File>,
    csv: BufWriter<File>,
    parquet: Rolling,
    rows: u64,
    json_bytes: u64,
    full: bool,
}

struct Sink {
    folder: PathBuf,
    bytes_max: u64,
    written: Arc<Mutex<Option<Written>>>,
}

fn create(path: &Path) -> Result<BufWriter<File>> {
    let file = File::create(path).map_err(|cause| Error::io("make a file", cause))?;
    Ok(BufWriter::new(file))
}

impl RowSink for Sink {
    fn begin(&mut self, schema: &SchemaRef) -> Result<()> {
        let options = WriterOptions { codec: Codec::Zstd, ..WriterOptions::default() };
        let parquet = Rolling::new(&self.folder, "rows", Arc::clone(schema), options, u64::MAX / 2);
        let mut csv = create(&self.folder.join("rows.csv"))?;
        let names = schema.fields().iter().map(|field| quoted(field.name()));
        let header = names.collect::<Vec<_>>().join(",");
        writeln!(csv, "{header}").map_err(|cause| Error::io("write CSV", cause))?;
        // Whoever begins again leaves a Parquet file behind.
        if lock(&self.written).take().is_some() {
            for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
                drop(std::fs::remove_file(entry.path()));
            }
        }
        *lock(&self.written) = Some(Written {
            schema: Arc::clone(schema),
            json: create(&self.folder.join("rows.json"))?,
            csv,
            parquet,
            rows: 0,
            json_bytes: 0,
            full: false,
        });
        Ok(())
    }

    fn rows(&mut self, batch: RecordBatch) -> Result<()> {
        let mut written = lock(&self.written);
        let Some(written) = written.as_mut() else {
            return Err(Error::internal("rows without columns"));
        };
        written.take(&batch)?;
        if written.json_bytes >= self.bytes_max {
            written.full = true;
            return Err(Error::new(ErrorKind::Exhausted, "enough rows for a comparison"));
        }
        Ok(())
    }
}

impl Written {
    fn take(&mut self, batch: &RecordBatch) -> Result<()> {
        self.parquet.write(batch)?;
        let io = |cause| Error::io("write rows for a comparison", cause);
        let schema = batch.schema();
        for row in 0..batch.num_rows() {
            let (mut object, mut record) = (Map::new(), Vec::new());
            for (field, column) in schema.fields().iter().zip(batch.columns()) {
                let cell = cell_as_json(column, row)?;
                record.push(match &cell {
                    Value::Null => String::new(),
                    Value::String(text) => quoted(text),
                    other => quoted(&other.to_string()),
                });
                object.insert(field.name().clone(), cell);
            }
            let line = Value::Object(object).to_string();
            self.json_bytes += line.len() as u64 + 1;
            writeln!(self.json, "{line}").map_err(io)?;
            writeln!(self.csv, "{}", record.join(",")).map_err(io)?;
        }
        self.rows += batch.num_rows() as u64;
        Ok(())
    }
}

/// A field of CSV (RFC 4180).
fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

fn measure(folder: &Path, mut written: Written, table: &str) -> Result<Value> {
    let io = |cause| Error::io("write rows for a comparison", cause);
    written.json.flush().map_err(io)?;
    written.csv.flush().map_err(io)?;
    let Written { schema, parquet, rows, full, .. } = written;
    let parquet = parquet.close()?;
    let parquet = parquet.first().ok_or_else(|| Error::internal("no file of Parquet"))?;
    let column = typical(&schema);
    let mut formats = Vec::new();
    for (name, path) in [
        ("json", folder.join("rows.json")),
        ("csv", folder.join("rows.csv")),
        ("parquet", parquet.path.clone()),
    ] {
        let size = path.metadata().map_err(|cause| Error::io("measure a file", cause))?.len();
        let read = |only: Option<usize>| match name {
            "json" => read_json(&path, &schema, only),
            "csv" => read_csv(&path, &schema, only),
            _ => read_parquet(&path, only),
        };
        let (load, loaded) = cost(|| read(None))?;
        let (query, _) = cost(|| read(Some(column)))?;
        if loaded != rows {
            return Err(Error::internal(format!("{loaded} of {rows} rows were read as {name}")));
        }
        formats.push(json!({
            "format": name,
            "bytes": size,
            "load_cpu_seconds": load.cpu_seconds,
            "load_wall_seconds": load.wall_seconds,
            "query_bytes": query.bytes,
            "query_cpu_seconds": query.cpu_seconds,
        }));
    }
    Ok(json!({
        "table": table,
        "rows": rows,
        "whole": !full,
        "column": schema.field(column).name(),
        "formats": formats,
    }))
}

/// The column that a question is about: the first that is a number.
fn typical(schema: &Schema) -> usize {
    let number = |field: &Arc<Field>| field.data_type().is_floating();
    let fields = schema.fields();
    fields
        .iter()
        .position(number)
        .or_else(|| fields.iter().position(|field| field.data_type().is_numeric()))
        .unwrap_or(0)
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|cause| Error::io("open a file of a comparison", cause))
}

fn read_json(path: &Path, schema: &SchemaRef, only: Option<usize>) -> Result<u64> {
    let picked = only.map(|column| vec![column]);
    let options = ScanOptions { batch_rows: BATCH_ROWS, ..ScanOptions::default() };
    let mut scan = Scan::new(schema, picked.as_deref(), open(path)?, options)?;
    let mut rows = 0;
    let mut bad = None;
    while let Some(batch) = scan.next_batch(&mut |record| bad = Some(record.reason))? {
        rows += batch.num_rows() as u64;
    }
    match bad {
        None => Ok(rows),
        Some(why) => Err(Error::internal(format!("a row was not read again as JSON: {why}"))),
    }
}

fn read_csv(path: &Path, schema: &SchemaRef, only: Option<usize>) -> Result<u64> {
    let plain = |field: &Arc<Field>| {
        let kept = field.data_type().is_numeric() || *field.data_type() == DataType::Boolean;
        let data_type = if kept { field.data_type().clone() } else { DataType::Utf8 };
        Field::new(field.name(), data_type, true)
    };
    let schema = Schema::new(schema.fields().iter().map(plain).collect::<Vec<_>>());
    let mut builder = arrow::csv::ReaderBuilder::new(Arc::new(schema))
        .with_header(true)
        .with_batch_size(BATCH_ROWS);
    if let Some(column) = only {
        builder = builder.with_projection(vec![column]);
    }
    let wrong = |cause| Error::internal(format!("a row was not read again as CSV: {cause}"));
    let mut rows = 0;
    for batch in builder.build(BufReader::new(open(path)?)).map_err(wrong)? {
        rows += batch.map_err(wrong)?.num_rows() as u64;
    }
    Ok(rows)
}

fn read_parquet(path: &Path, only: Option<usize>) -> Result<u64> {
    let picked = only.map(|column| vec![column]);
    let mut rows = 0;
    for batch in Reader::open(path)?.batches(picked.as_deref(), BATCH_ROWS)? {
        let batch = batch?;
        rows += batch.num_rows() as u64;
        // Touched, as a sum would.
        std::hint::black_box(
            batch.columns().iter().map(|column| column.null_count()).sum::<usize>(),
        );
    }
    Ok(rows)
}

/// What a piece of work cost this thread. What takes no time is done again until it takes some:
/// the kernel counts in milliseconds.
struct Cost {
    bytes: u64,
    cpu_seconds: f64,
    wall_seconds: f64,
}

const TIME_MIN: Duration = Duration::from_millis(200);
const TIMES_MAX: u32 = 100;

fn cost<T>(work: impl Fn() -> Result<T>) -> Result<(Cost, T)> {
    let (bytes, cpu) = (bytes_asked_for()?, processor_nanos()?);
    let started = Instant::now();
    let mut done = work()?;
    let mut times = 1_u32;
    while started.elapsed() < TIME_MIN && times < TIMES_MAX {
        done = work()?;
        times += 1;
    }
    let wall_seconds = started.elapsed().as_secs_f64() / f64::from(times);
    let bytes = bytes_asked_for()?.saturating_sub(bytes) / u64::from(times);
    let nanos = processor_nanos()?.saturating_sub(cpu) as f64;
    Ok((Cost { bytes, cpu_seconds: nanos / 1e9 / f64::from(times), wall_seconds }, done))
}

fn proc_number(file: &str, find: impl Fn(&str) -> Option<u64>) -> Result<u64> {
    let path = format!("/proc/thread-self/{file}");
    let text = std::fs::read_to_string(&path)
        .map_err(|cause| Error::io(format!("read {path}, which Linux has"), cause))?;
    find(&text).ok_or_else(|| Error::internal(format!("{path} says {text:?}")))
}

fn bytes_asked_for() -> Result<u64> {
    proc_number("io", |text| {
        text.lines().find_map(|line| line.strip_prefix("rchar:")?.trim().parse().ok())
    })
}

fn processor_nanos() -> Result<u64> {
    proc_number("schedstat", |text| text.split_whitespace().next()?.parse().ok())
}
