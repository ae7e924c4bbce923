//! Readings to publish: the simulator's, or a file's.
//!
//! A source hands out readings in order, a few thousand at a time, so that the demo's
//! memory does not grow with the file. Each reading is a JSON object with the file's
//! columns in the file's order; a missing value is `null`, never left out.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::{Context, Result, bail};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type, SchemaRef};
use chrono::{DateTime, Duration, NaiveDateTime, TimeZone, Utc};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value, json};

use crate::exit::Exit;
use crate::simulate::{self, Station};

/// One reading: who measured, when, and the JSON that is published.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) device: String,
    /// The timestamp's text as it stands in the payload.
    pub(crate) timestamp: String,
    pub(crate) payload: String,
}

const DEVICE_NAMES: [&str; 6] =
    ["device", "device_id", "station", "station_id", "item_id", "sensor"];
const TIMESTAMP_NAMES: [&str; 5] = ["timestamp", "time", "datetime", "date", "ts"];
const BATCH_ROWS: usize = 4096;

/// Where readings come from.
pub(crate) struct Source {
    rows: Rows,
    /// Names of the two key columns.
    pub(crate) device_column: String,
    pub(crate) timestamp_column: String,
    /// Numeric columns in order: what can be forecast.
    pub(crate) numeric_columns: Vec<String>,
    /// Readings in all, where known beforehand.
    pub(crate) count: Option<u64>,
}

enum Rows {
    Simulated { stations: Vec<Station>, next: DateTime<Utc>, end: DateTime<Utc> },
    Batches(Box<dyn Iterator<Item = Result<RecordBatch>> + Send>),
    Lines { lines: std::io::Lines<BufReader<File>>, number: u64 },
}

impl Source {
    /// `days` of hourly readings that end at `end`.
    pub(crate) fn simulated(seed: u64, devices: u32, days: u32, end: DateTime<Utc>) -> Source {
        let hour = end.timestamp().div_euclid(3600) * 3600;
        let end = Utc.timestamp_opt(hour, 0).single().unwrap_or(end);
        let start = end - Duration::days(i64::from(days));
        Source {
            rows: Rows::Simulated { stations: simulate::stations(seed, devices), next: start, end },
            device_column: "device".into(),
            timestamp_column: "timestamp".into(),
            numeric_columns: [
                "ozone",
                "particulate_matter",
                "carbon_monoxide",
                "sulfur_dioxide",
                "nitrogen_dioxide",
                "temperature",
            ]
            .map(String::from)
            .to_vec(),
            count: None,
        }
    }

    /// Opens a CSV, Parquet or JSON Lines file by its extension.
    pub(crate) fn open(path: &Path) -> Result<Source> {
        let name = path.display();
        let extension =
            path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase();
        let open = || File::open(path).map_err(|e| base::Error::io(format!("open {name}"), e));
        match extension.as_str() {
            "parquet" => {
                let builder = ParquetRecordBatchReaderBuilder::try_new(open()?)
                    .with_context(|| format!("{name} is not readable as Parquet"))?;
                let schema = builder.schema().clone();
                let count = u64::try_from(builder.metadata().file_metadata().num_rows()).ok();
                let reader = builder.with_batch_size(BATCH_ROWS).build()?;
                let batches = reader.map(|batch| batch.context("reading Parquet"));
                Source::from_batches(&schema, Box::new(batches), count, &name.to_string())
            }
            "csv" => {
                let format = arrow::csv::reader::Format::default().with_header(true);
                let (schema, rows) = format
                    .infer_schema(BufReader::new(open()?), None)
                    .with_context(|| format!("{name} is not readable as CSV with a header"))?;
                // Timestamps stay the text they are: a reading is published as it stands.
                let fields: Vec<_> = schema
                    .fields()
                    .iter()
                    .map(|field| match field.data_type() {
                        DataType::Timestamp(..)
                        | DataType::Date32
                        | DataType::Date64
                        | DataType::Null => field.as_ref().clone().with_data_type(DataType::Utf8),
                        _ => field.as_ref().clone(),
                    })
                    .collect();
                let schema: SchemaRef = arrow::datatypes::Schema::new(fields).into();
                let reader = arrow::csv::ReaderBuilder::new(schema.clone())
                    .with_header(true)
                    .with_batch_size(BATCH_ROWS)
                    .build(open()?)?;
                let batches = reader.map(|batch| batch.context("reading CSV"));
                Source::from_batches(
                    &schema,
                    Box::new(batches),
                    Some(rows as u64),
                    &name.to_string(),
                )
            }
            "jsonl" | "ndjson" | "json" => Source::from_lines(open()?, open()?, &name.to_string()),
            other => Err(Exit::usage(format!(
                "{name}: extension {other:?} is not known; --from takes .csv, .parquet or .jsonl"
            ))
            .into()),
        }
    }

    fn from_batches(
        schema: &SchemaRef,
        batches: Box<dyn Iterator<Item = Result<RecordBatch>> + Send>,
        count: Option<u64>,
        name: &str,
    ) -> Result<Source> {
        let columns: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
        let (device_column, timestamp_column) = key_columns(&columns, name)?;
        let numeric_columns = schema
            .fields()
            .iter()
            .filter(|f| f.data_type().is_numeric() && *f.name() != device_column)
            .map(|f| f.name().clone())
            .collect();
        Ok(Source {
            rows: Rows::Batches(batches),
            device_column,
            timestamp_column,
            numeric_columns,
            count,
        })
    }

    fn from_lines(first: File, all: File, name: &str) -> Result<Source> {
        let mut line = String::new();
        BufReader::new(first).read_line(&mut line).with_context(|| format!("reading {name}"))?;
        let object: Map<String, Value> = serde_json::from_str(&line)
            .with_context(|| format!("{name} line 1 is not a JSON object"))?;
        let columns: Vec<&str> = object.keys().map(String::as_str).collect();
        let (device_column, timestamp_column) = key_columns(&columns, name)?;
        let numeric_columns = object
            .iter()
            .filter(|(_, value)| value.is_number() || value.is_null())
            .map(|(key, _)| key.clone())
            .filter(|key| *key != device_column && *key != timestamp_column)
            .collect();
        Ok(Source {
            rows: Rows::Lines { lines: BufReader::new(all).lines(), number: 0 },
            device_column,
            timestamp_column,
            numeric_columns,
            count: None,
        })
    }

    /// The next readings in order; empty at the end.
    pub(crate) fn next_readings(&mut self) -> Result<Vec<Reading>> {
        match &mut self.rows {
            Rows::Simulated { stations, next, end } => {
                let mut out = Vec::new();
                while out.len() < BATCH_ROWS && *next < *end {
                    out.extend(stations.iter().filter_map(|s| simulated_reading(s, *next)));
                    *next += Duration::hours(1);
                }
                Ok(out)
            }
            Rows::Batches(batches) => match batches.next() {
                None => Ok(Vec::new()),
                Some(batch) => rows_of(&batch?, &self.device_column, &self.timestamp_column),
            },
            Rows::Lines { lines, number } => {
                let mut out = Vec::new();
                for line in lines.by_ref().take(BATCH_ROWS) {
                    *number += 1;
                    let line = line.with_context(|| format!("line {number}"))?;
                    if line.trim().is_empty() {
                        continue;
                    }
                    let object: Map<String, Value> = serde_json::from_str(&line)
                        .with_context(|| format!("line {number} is not a JSON object"))?;
                    let text = |column: &str| {
                        object
                            .get(column)
                            .map(plain_text)
                            .with_context(|| format!("line {number} has no {column:?}"))
                    };
                    let (device, timestamp) =
                        (text(&self.device_column)?, text(&self.timestamp_column)?);
                    out.push(Reading { device, timestamp, payload: line });
                }
                Ok(out)
            }
        }
    }
}

/// The reading a station sends for the hour `time`.
pub(crate) fn simulated_reading(station: &Station, time: DateTime<Utc>) -> Option<Reading> {
    let object = station.reading(time)?;
    Some(Reading {
        device: station.name.clone(),
        timestamp: plain_text(&object["timestamp"]),
        payload: Value::Object(object).to_string(),
    })
}

/// The time of a reading as text people write: with or without T, zone and fraction.
pub(crate) fn parse_time(text: &str) -> Option<NaiveDateTime> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.naive_utc());
    }
    ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
}

fn plain_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn key_columns(columns: &[&str], name: &str) -> Result<(String, String)> {
    let find = |names: &[&str], what: &str| {
        let found =
            names.iter().find_map(|wanted| columns.iter().find(|c| c.eq_ignore_ascii_case(wanted)));
        found.map(|column| (*column).to_owned()).ok_or_else(|| {
            Exit::usage(format!(
                "{name} has no {what} column: one of {} is needed, its columns are {}",
                names.join(", "),
                columns.join(", ")
            ))
        })
    };
    Ok((find(&DEVICE_NAMES, "device")?, find(&TIMESTAMP_NAMES, "timestamp")?))
}

fn rows_of(
    batch: &RecordBatch,
    device_column: &str,
    timestamp_column: &str,
) -> Result<Vec<Reading>> {
    let schema = batch.schema();
    let mut out = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        let mut object = Map::new();
        for (field, column) in schema.fields().iter().zip(batch.columns()) {
            object.insert(field.name().clone(), json_value(column, row)?);
        }
        let key = |column: &str| match &object[column] {
            Value::Null => bail!("row {row} of a batch has no {column:?}"),
            value => Ok(plain_text(value)),
        };
        let (device, timestamp) = (key(device_column)?, key(timestamp_column)?);
        out.push(Reading { device, timestamp, payload: Value::Object(object).to_string() });
    }
    Ok(out)
}

/// One cell as JSON. 32-bit floats keep their own shortest text (1020.8, not 1020.799988).
fn json_value(column: &ArrayRef, row: usize) -> Result<Value> {
    if column.is_null(row) {
        return Ok(Value::Null);
    }
    Ok(match column.data_type() {
        DataType::Float32 => {
            let value = column.as_primitive::<Float32Type>().value(row);
            value
                .to_string()
                .parse::<f64>()
                .ok()
                .filter(|v| v.is_finite())
                .map_or(Value::Null, |v| json!(v))
        }
        DataType::Float64 => json!(column.as_primitive::<Float64Type>().value(row)),
        DataType::Boolean => json!(column.as_boolean().value(row)),
        DataType::Utf8 => json!(column.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => json!(column.as_string::<i64>().value(row)),
        kind if kind.is_integer() => {
            let text = arrow::util::display::array_value_to_string(column, row)?;
            serde_json::from_str(&text).with_context(|| format!("number {text:?}"))?
        }
        DataType::Timestamp(..) => {
            let shown = arrow::util::display::array_value_to_string(column, row)?;
            let text = if shown.ends_with('Z') { shown } else { format!("{shown}Z") };
            json!(text)
        }
        _ => json!(arrow::util::display::array_value_to_string(column, row)?),
    })
}
