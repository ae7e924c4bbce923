//! Format conversion: records as rows of a Parquet object, with the columns of a table.
//!
//! Pure: which columns there are is said by the caller, who keeps it with the decision, so
//! that a table that is changed meanwhile does not change a batch that is made again.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema};
use base::{Error, Result};
use formats::hive;
use formats::json::{Scan, ScanOptions};
use formats::parquet::{Codec, Writer, WriterOptions};

use crate::stream::{Column, Conversion};

/// Says which columns the tables of a catalog have.
pub trait Schemas: std::fmt::Debug + Send + Sync {
    /// The columns within the objects of a table, in their order; of its newest version if
    /// none is named.
    fn columns(&self, database: &str, table: &str, version: Option<u64>) -> Result<Vec<Column>>;
}

/// Refuses columns that no record could fill.
pub(crate) fn check(conversion: &Conversion, columns: &[Column]) -> Result<()> {
    let what = format!("table {}.{}", conversion.database, conversion.table);
    if columns.is_empty() {
        return Err(Error::invalid(format!("{what} has no columns to convert to")));
    }
    for name in conversion.keys.keys() {
        if !columns.iter().any(|column| column.name == *name) {
            return Err(Error::invalid(format!("{what} has no column {name:?} to map a key to")));
        }
    }
    to_parquet(conversion, columns, b"", &mut |_, _| {}).map(drop).map_err(|e| e.context(what))
}

/// The object of `records`, JSON objects one after another; `None` if none of them fits the
/// columns. Those that do not fit are handed to `bad` by their place, with the reason.
pub(crate) fn to_parquet(
    conversion: &Conversion,
    columns: &[Column],
    records: &[u8],
    bad: &mut dyn FnMut(usize, String),
) -> Result<Option<Vec<u8>>> {
    let mut keys = Vec::with_capacity(columns.len());
    let mut named = Vec::with_capacity(columns.len());
    for column in columns {
        let data_type = hive::to_arrow(&column.hive_type)
            .map_err(|error| error.context(format!("column {:?}", column.name)))?;
        let key = conversion.keys.get(&column.name).unwrap_or(&column.name);
        keys.push(Field::new(key, data_type.clone(), true));
        named.push(Field::new(&column.name, data_type, true));
    }
    let options = ScanOptions { ignore_case: conversion.ignore_case, ..ScanOptions::default() };
    let mut scan = Scan::new(&Schema::new(keys), None, records, options)?;
    let schema = Arc::new(Schema::new(named));
    let codec = if conversion.snappy { Codec::Snappy } else { Codec::None };
    let options = WriterOptions { codec, ..WriterOptions::default() };
    let mut writer = Writer::in_memory(Arc::clone(&schema), &options)?;
    let mut sink = |record: formats::json::BadRecord| {
        let place = usize::try_from(record.position).unwrap_or(usize::MAX);
        bad(place, record.reason);
    };
    while let Some(rows) = scan.next_batch(&mut sink)? {
        let (_, arrays, _) = rows.into_parts();
        let rows = RecordBatch::try_new(Arc::clone(&schema), arrays)
            .map_err(|cause| Error::internal(format!("a batch was renamed wrongly: {cause}")))?;
        writer.write(&rows)?;
    }
    if writer.rows() == 0 {
        return Ok(None);
    }
    writer.into_bytes().map(Some)
}
