//! Results of queries: values as Athena writes them, the CSV object they are kept in, and its
//! pages.
//!
//! The CSV's dialect: every value in double quotes with quotes doubled, records end with a
//! line feed, NULL is an empty field without quotes. That is exact: a NULL and an empty text
//! differ, so the object is all that is needed to answer pages from.

use std::sync::Arc;

use arrow::array::{
    Array, AsArray, BooleanArray, FixedSizeListArray, GenericListArray, MapArray, OffsetSizeTrait,
    RecordBatch, StructArray,
};
use arrow::datatypes::{DataType, Float32Type, Float64Type, Schema, TimeUnit};
use arrow::util::display::array_value_to_string;
use base::{Error, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::execution::{Execution, State, find};
use super::location;
use crate::call::{Call, Outcome};
use crate::fault::Fault;
use crate::rooms::Rooms;

/// Rows of a page at most, Athena's own bound.
const PAGE_ROWS_MAX: usize = 1_000;
/// Bytes of a result that are read at first for a page; doubled until the page is whole.
const PAGE_BYTES: u64 = 256 * 1024;

/// A column of a result, as clients are told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Column {
    pub(crate) name: String,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) precision: i32,
    pub(crate) scale: i32,
}

impl Column {
    pub(crate) fn text(name: &str) -> Column {
        Column { name: name.to_owned(), kind: "string".into(), precision: 0, scale: 0 }
    }

    fn shown(&self) -> Value {
        json!({
            "CatalogName": "hive",
            "SchemaName": "",
            "TableName": "",
            "Name": self.name,
            "Label": self.name,
            "Type": self.kind,
            "Precision": self.precision,
            "Scale": self.scale,
            "Nullable": "UNKNOWN",
            "CaseSensitive": self.kind == "varchar",
        })
    }
}

/// The columns of an answer.
pub(crate) fn columns(schema: &Schema) -> Vec<Column> {
    let column = |(index, field): (usize, &Arc<arrow::datatypes::Field>)| {
        let (kind, precision, scale) = athena_type(field.data_type());
        // What the statement gives no name is called by its place.
        let name = match field.metadata().contains_key(lake::UNNAMED) {
            true => format!("_col{index}"),
            false => field.name().clone(),
        };
        Column { name, kind: kind.into(), precision, scale }
    };
    schema.fields().iter().enumerate().map(column).collect()
}

fn athena_type(data_type: &DataType) -> (&'static str, i32, i32) {
    match data_type {
        DataType::Null => ("unknown", 0, 0),
        DataType::Boolean => ("boolean", 0, 0),
        DataType::Int8 => ("tinyint", 3, 0),
        DataType::Int16 | DataType::UInt8 => ("smallint", 5, 0),
        DataType::Int32 | DataType::UInt16 => ("integer", 10, 0),
        DataType::Int64 | DataType::UInt32 => ("bigint", 19, 0),
        DataType::UInt64 => ("decimal", 20, 0),
        DataType::Float16 | DataType::Float32 => ("float", 17, 0),
        DataType::Float64 => ("double", 17, 0),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => ("varchar", i32::MAX, 0),
        DataType::Date32 | DataType::Date64 => ("date", 0, 0),
        DataType::Time32(_) | DataType::Time64(_) => ("time", 3, 0),
        DataType::Timestamp(_, None) => ("timestamp", 3, 0),
        DataType::Timestamp(_, Some(_)) => ("timestamp with time zone", 3, 0),
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => {
            ("decimal", i32::from(*precision), i32::from(*scale))
        }
        DataType::List(_)
        | DataType::LargeList(_)
        | DataType::FixedSizeList(_, _)
        | DataType::ListView(_)
        | DataType::LargeListView(_) => ("array", 0, 0),
        DataType::Struct(_) => ("row", 0, 0),
        DataType::Map(_, _) => ("map", 0, 0),
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => ("varbinary", 1_073_741_824, 0),
        DataType::Dictionary(_, value) => athena_type(value),
        _ => ("varchar", i32::MAX, 0),
    }
}

/// The names of the columns as a record of CSV.
pub(crate) fn csv_header(columns: &[Column]) -> Vec<u8> {
    let mut out = Vec::new();
    record(&mut out, columns.iter().map(|column| Some(column.name.clone())));
    out
}

/// Rows as CSV.
pub(crate) fn csv_rows(batch: &RecordBatch) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for row in 0..batch.num_rows() {
        let values: Result<Vec<_>> =
            batch.columns().iter().map(|column| cell(column, row)).collect();
        record(&mut out, values?.into_iter());
    }
    Ok(out)
}

fn record(out: &mut Vec<u8>, values: impl Iterator<Item = Option<String>>) {
    for (index, value) in values.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        if let Some(value) = value {
            out.push(b'"');
            out.extend_from_slice(value.replace('"', "\"\"").as_bytes());
            out.push(b'"');
        }
    }
    out.push(b'\n');
}

/// A value as Athena writes it; `None` is NULL.
fn cell(array: &dyn Array, row: usize) -> Result<Option<String>> {
    if array.is_null(row) || *array.data_type() == DataType::Null {
        return Ok(None);
    }
    let text = match array.data_type() {
        DataType::Boolean => as_type::<BooleanArray>(array)?.value(row).to_string(),
        DataType::Float32 => {
            float(&format!("{:e}", array.as_primitive::<Float32Type>().value(row)))
        }
        DataType::Float64 => {
            float(&format!("{:e}", array.as_primitive::<Float64Type>().value(row)))
        }
        DataType::Timestamp(unit, zone) => moment(array, row, *unit, zone.is_some())?,
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => hex(&plain(array, row)?),
        DataType::List(_) => list::<i32>(array, row)?,
        DataType::LargeList(_) => list::<i64>(array, row)?,
        DataType::FixedSizeList(_, _) => items(&*as_type::<FixedSizeListArray>(array)?.value(row))?,
        DataType::Struct(_) => {
            let array = as_type::<StructArray>(array)?;
            let mut parts = Vec::new();
            for (name, column) in array.column_names().iter().zip(array.columns()) {
                parts.push(format!("{name}={}", inner(column, row)?));
            }
            format!("{{{}}}", parts.join(", "))
        }
        DataType::Map(_, _) => {
            let entries = as_type::<MapArray>(array)?.value(row);
            let mut parts = Vec::new();
            for at in 0..entries.len() {
                let (key, value) = (inner(entries.column(0), at)?, inner(entries.column(1), at)?);
                parts.push(format!("{key}={value}"));
            }
            format!("{{{}}}", parts.join(", "))
        }
        _ => plain(array, row)?,
    };
    Ok(Some(text))
}

fn as_type<T: 'static>(array: &dyn Array) -> Result<&T> {
    array
        .as_any()
        .downcast_ref()
        .ok_or_else(|| Error::internal(format!("a column of {} is none", array.data_type())))
}

fn plain(array: &dyn Array, row: usize) -> Result<String> {
    array_value_to_string(array, row)
        .map_err(|cause| Error::internal(format!("a value cannot be written: {cause}")))
}

fn inner(array: &dyn Array, row: usize) -> Result<String> {
    Ok(cell(array, row)?.unwrap_or_else(|| "null".into()))
}

fn list<O: OffsetSizeTrait>(array: &dyn Array, row: usize) -> Result<String> {
    items(&*as_type::<GenericListArray<O>>(array)?.value(row))
}

fn items(values: &dyn Array) -> Result<String> {
    let parts: Result<Vec<String>> = (0..values.len()).map(|at| inner(values, at)).collect();
    Ok(format!("[{}]", parts?.join(", ")))
}

/// Pairs of hexadecimal digits with spaces between.
fn hex(digits: &str) -> String {
    let pair = |pair: &[u8]| String::from_utf8_lossy(pair).into_owned();
    digits.as_bytes().chunks(2).map(pair).collect::<Vec<_>>().join(" ")
}

/// A floating point number from Rust's `d.ddde-7` to Java's manner: always a point, an
/// exponent from 10^7 up and below 10^-3.
fn float(scientific: &str) -> String {
    let Some((digits, exponent)) = scientific.split_once('e') else {
        return scientific.replace("inf", "Infinity");
    };
    let Ok(exponent) = exponent.parse::<i32>() else { return scientific.to_owned() };
    let (sign, digits) = match digits.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", digits),
    };
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let all = format!("{whole}{part}");
    let or_zero = |text: &str| if text.is_empty() { "0".to_owned() } else { text.to_owned() };
    match usize::try_from(exponent) {
        Ok(exponent) if exponent < 7 => {
            let padded = format!("{all:0<width$}", width = exponent + 1);
            format!("{sign}{}.{}", &padded[..=exponent], or_zero(&padded[exponent + 1..]))
        }
        Err(_) if exponent >= -3 => {
            let zeros = usize::try_from(-exponent - 1).unwrap_or(0);
            format!("{sign}0.{}{all}", "0".repeat(zeros))
        }
        _ => format!("{sign}{whole}.{}E{exponent}", or_zero(part)),
    }
}

fn moment(array: &dyn Array, row: usize, unit: TimeUnit, zoned: bool) -> Result<String> {
    use arrow::datatypes::{
        TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
        TimestampSecondType,
    };
    let millis = match unit {
        TimeUnit::Second => {
            array.as_primitive::<TimestampSecondType>().value(row).saturating_mul(1000)
        }
        TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().value(row),
        TimeUnit::Microsecond => {
            array.as_primitive::<TimestampMicrosecondType>().value(row).div_euclid(1000)
        }
        TimeUnit::Nanosecond => {
            array.as_primitive::<TimestampNanosecondType>().value(row).div_euclid(1_000_000)
        }
    };
    let Some(moment) = chrono::DateTime::from_timestamp_millis(millis) else {
        return plain(array, row);
    };
    let text = moment.format("%Y-%m-%d %H:%M:%S%.3f").to_string();
    // The instant is kept in UTC, whatever zone its type names.
    Ok(if zoned { format!("{text} UTC") } else { text })
}

/// Reads up to `most` records; answers them and where the next one starts. A record that the
/// bytes do not hold whole is left.
pub(crate) fn read_csv(bytes: &[u8], most: usize) -> Result<(Vec<Vec<Option<String>>>, usize)> {
    let (mut records, mut done) = (Vec::new(), 0);
    while records.len() < most {
        match read_record(&bytes[done..])? {
            Some((record, length)) => {
                records.push(record);
                done += length;
            }
            None => break,
        }
    }
    Ok((records, done))
}

fn read_record(bytes: &[u8]) -> Result<Option<(Vec<Option<String>>, usize)>> {
    let damaged =
        || Error::new(base::ErrorKind::Corrupt, "the result object was changed by others");
    let (mut record, mut at) = (Vec::new(), 0);
    loop {
        let value = if bytes.get(at) == Some(&b'"') {
            let mut value = Vec::new();
            at += 1;
            loop {
                match (bytes.get(at), bytes.get(at + 1)) {
                    (Some(b'"'), Some(b'"')) => {
                        value.push(b'"');
                        at += 2;
                    }
                    (Some(b'"'), Some(_)) => break,
                    (Some(b'"') | None, None) => return Ok(None),
                    (Some(byte), _) => {
                        value.push(*byte);
                        at += 1;
                    }
                    (None, Some(_)) => return Err(damaged()),
                }
            }
            at += 1;
            Some(String::from_utf8(value).map_err(|cause| damaged().with_source(cause))?)
        } else {
            None
        };
        record.push(value);
        match bytes.get(at) {
            Some(b',') => at += 1,
            Some(b'\n') => return Ok(Some((record, at + 1))),
            None => return Ok(None),
            Some(_) => return Err(damaged()),
        }
    }
}

/// As `read_csv`, for text: a line is a row with one value.
fn read_lines(bytes: &[u8], most: usize) -> (Vec<Vec<Option<String>>>, usize) {
    let (mut lines, mut done) = (Vec::new(), 0);
    for line in bytes.split_inclusive(|byte| *byte == b'\n').take(most) {
        let Some(text) = line.strip_suffix(b"\n") else { break };
        lines.push(vec![Some(String::from_utf8_lossy(text).into_owned())]);
        done += line.len();
    }
    (lines, done)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct GetQueryResults {
    query_execution_id: String,
    next_token: Option<String>,
    max_results: Option<usize>,
    query_result_type: Option<String>,
}

pub(super) async fn get_query_results(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: GetQueryResults = call.input()?;
    if let Some(kind) = input.query_result_type.filter(|kind| kind != "DATA_ROWS") {
        return Err(Fault::unsupported("QueryResultType", &format!("{kind:?}; use DATA_ROWS")));
    }
    let most = input.max_results.unwrap_or(PAGE_ROWS_MAX);
    if most == 0 || most > PAGE_ROWS_MAX {
        return Err(Fault::invalid(format!(
            "MaxResults is not in the range of 1 to {PAGE_ROWS_MAX}: {most}"
        )));
    }
    let found = find(rooms, &input.query_execution_id)?;
    match found.state {
        State::Queued | State::Running => {
            return Err(Fault::invalid(format!(
                "Query has not yet finished. Current state: {}",
                found.state.as_str()
            )));
        }
        State::Failed | State::Cancelled => {
            return Err(Fault::invalid(format!(
                "Query did not finish successfully. Final query state: {}",
                found.state.as_str()
            )));
        }
        State::Succeeded => {}
    }
    let start = match input.next_token.as_deref() {
        None => 0,
        Some(token) => token_place(token, &found.id)?,
    };
    let (rows, next) = match found.is_table() || found.is_text() {
        true => page(rooms, &found, start, most).await?,
        false => (Vec::new(), None),
    };
    let row = |row: Vec<Option<String>>| {
        let data = |value: Option<String>| match value {
            Some(value) => json!({"VarCharValue": value}),
            None => json!({}),
        };
        json!({"Data": row.into_iter().map(data).collect::<Vec<_>>()})
    };
    let columns: Vec<Value> = found.columns.iter().map(Column::shown).collect();
    let mut answer = json!({
        "UpdateCount": found.update_count,
        "ResultSet": {
            "Rows": rows.into_iter().map(row).collect::<Vec<_>>(),
            "ResultSetMetadata": {"ColumnInfo": columns},
        },
    });
    if let Some(next) = next {
        let token = format!("{}/{next}", found.id);
        answer["NextToken"] = json!(rules::base64::encode(token.as_bytes()));
    }
    Ok(answer.into())
}

/// Where a token's page starts, in bytes: a later page costs no more than the first.
fn token_place(token: &str, id: &str) -> Result<u64, Fault> {
    rules::base64::decode(token)
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .and_then(|text| text.strip_prefix(id)?.strip_prefix('/')?.parse().ok())
        .ok_or_else(|| Fault::invalid(format!("NextToken {token:?} was not given for this query")))
}

type Rows = Vec<Vec<Option<String>>>;

async fn page(
    rooms: &Rooms,
    found: &Execution,
    start: u64,
    most: usize,
) -> Result<(Rows, Option<u64>), Fault> {
    let (bucket, key) = location(&found.output)?;
    let size = match rooms.buckets.head(&bucket, &key).await {
        Ok(meta) => meta.bytes,
        Err(error) => {
            return Err(Fault::invalid(format!(
                "Could not find results of query {}: {error}",
                found.id
            )));
        }
    };
    let mut length = PAGE_BYTES;
    if start >= size {
        return Ok((Vec::new(), None));
    }
    loop {
        let end = size.min(start.saturating_add(length));
        let bytes = rooms.buckets.get_range(&bucket, &key, start..end).await?;
        let (rows, done) = match found.is_table() {
            true => read_csv(&bytes, most)?,
            false => read_lines(&bytes, most),
        };
        let next = start + done as u64;
        if rows.len() == most || end == size {
            if rows.len() < most && next < size {
                return Err(Error::new(
                    base::ErrorKind::Corrupt,
                    "the result object was changed by others",
                )
                .into());
            }
            return Ok((rows, (next < size).then_some(next)));
        }
        length = length.saturating_mul(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_java_does() {
        let cases = [
            (0.0, "0.0"),
            (-0.5, "-0.5"),
            (1.0, "1.0"),
            (21.25, "21.25"),
            (123_456.0, "123456.0"),
            (9_999_999.0, "9999999.0"),
            (1.0e7, "1.0E7"),
            (1.25e-3, "0.00125"),
            (1.0e-4, "1.0E-4"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
            (f64::NAN, "NaN"),
        ];
        for (number, expect) in cases {
            assert_eq!(float(&format!("{number:e}")), expect, "{number}");
        }
    }

    #[test]
    fn csv_is_read_back_exactly() {
        let rows: Rows = vec![
            vec![Some("a\"b".into()), None, Some(String::new())],
            vec![None, None, None],
            vec![Some("line\nbreak, comma".into()), Some("ü".into()), Some("\"".into())],
        ];
        let mut bytes = Vec::new();
        for row in &rows {
            record(&mut bytes, row.clone().into_iter());
        }
        assert_eq!(read_csv(&bytes, 10).unwrap(), (rows.clone(), bytes.len()));
        // Cut anywhere, only whole records are read.
        for cut in 0..bytes.len() {
            let (some, done) = read_csv(&bytes[..cut], 10).unwrap();
            assert_eq!(some[..], rows[..some.len()], "cut at {cut}");
            assert!(done <= cut);
        }
        assert_eq!(read_csv(b"\n\"x\"\n", 10).unwrap().0, vec![vec![None], vec![Some("x".into())]]);
        assert!(read_csv(b"x\n", 1).is_err());
    }
}
