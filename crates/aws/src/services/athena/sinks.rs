//! Where the rows of an answer go while it is being made: a file of CSV for a result, files of
//! Parquet for a table or a place, files by partition for rows that are put into a table. Nobody
//! holds an answer whole.
//!
//! The engine owns a sink while it works; what the sink has come to is shared with whoever gave
//! it away, and is whole once the engine has answered.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt32Array};
use arrow::compute::{CastOptions, cast, cast_with_options, take_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::FormatOptions;
use base::{Error, ErrorKind, Result};
use formats::parquet::{Codec, Rolling, WriterOptions};
use lake::{NULL_PARTITION, RowSink, Table};

use super::results::{self, Column};

/// Bytes of a result at most: what an answer may take of the disk.
const RESULT_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// Bytes of a file of a table, about.
const FILE_BYTES: u64 = 128 * 1024 * 1024;
/// Partitions that one statement may write, Athena's own bound.
const PARTITIONS_MAX: usize = 100;

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A result as CSV in a file.
pub(super) struct CsvFile {
    file: File,
    bytes: u64,
    columns: Arc<Mutex<Vec<Column>>>,
}

impl CsvFile {
    /// Begins the file; the columns are known when the engine has answered.
    pub(super) fn create(path: &Path) -> Result<(CsvFile, Arc<Mutex<Vec<Column>>>)> {
        let file =
            File::create_new(path).map_err(|cause| Error::io("make a file for a result", cause))?;
        let columns = Arc::default();
        Ok((CsvFile { file, bytes: 0, columns: Arc::clone(&columns) }, columns))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes += bytes.len() as u64;
        if self.bytes > RESULT_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!(
                    "the result has more than {RESULT_BYTES_MAX} bytes; aggregate, or UNLOAD it"
                ),
            ));
        }
        self.file.write_all(bytes).map_err(|cause| Error::io("write a result", cause))
    }
}

impl RowSink for CsvFile {
    fn begin(&mut self, schema: &SchemaRef) -> Result<()> {
        let columns = results::columns(schema);
        self.bytes = 0;
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .map_err(|cause| Error::io("begin a result", cause))?;
        self.write(&results::csv_header(&columns))?;
        *lock(&self.columns) = columns;
        Ok(())
    }

    fn rows(&mut self, batch: RecordBatch) -> Result<()> {
        self.write(&results::csv_rows(&batch)?)
    }
}

/// What has been written of a table.
#[derive(Default)]
pub(super) struct Made {
    files: BTreeMap<Vec<String>, Rolling>,
    /// The columns of the answer.
    pub(super) schema: Option<SchemaRef>,
    pub(super) rows: u64,
}

/// A file and the partition it belongs to.
pub(super) type InPartition = (Vec<String>, PathBuf);

/// Ends the files.
pub(super) fn close(made: &Mutex<Made>) -> Result<Vec<InPartition>> {
    let mut all = Vec::new();
    for (values, files) in std::mem::take(&mut lock(made).files) {
        all.extend(files.close()?.into_iter().map(|file| (values.clone(), file.path)));
    }
    Ok(all)
}

/// Rows and columns of what was made.
pub(super) fn summary(made: &Mutex<Made>) -> (u64, Option<SchemaRef>) {
    let made = lock(made);
    (made.rows, made.schema.clone())
}

/// How rows become files of Parquet.
pub(super) struct Files {
    folder: PathBuf,
    stem: String,
    codec: Codec,
    /// The table that the rows are for, where there is one already.
    into: Option<Table>,
    with_data: bool,
    made: Arc<Mutex<Made>>,
}

impl Files {
    /// Files of the rows as they come, or of those that `into` has a place for. `folder` is made.
    pub(super) fn create(
        folder: &Path,
        stem: &str,
        codec: Codec,
        into: Option<Table>,
        with_data: bool,
    ) -> Result<(Files, Arc<Mutex<Made>>)> {
        std::fs::create_dir_all(folder)
            .map_err(|cause| Error::io("make a folder for a table's files", cause))?;
        let made: Arc<Mutex<Made>> = Arc::default();
        let (folder, stem) = (folder.to_owned(), stem.to_owned());
        let files = Files { folder, stem, codec, into, with_data, made: Arc::clone(&made) };
        Ok((files, made))
    }

    fn write(&self, made: &mut Made, values: Vec<String>, batch: &RecordBatch) -> Result<()> {
        let count = made.files.len();
        if count >= PARTITIONS_MAX && !made.files.contains_key(&values) {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!("the rows belong to more than {PARTITIONS_MAX} partitions; insert fewer"),
            ));
        }
        let files = made.files.entry(values).or_insert_with(|| {
            let options = WriterOptions { codec: self.codec, ..WriterOptions::default() };
            let stem = format!("{}-{count}", self.stem);
            Rolling::new(&self.folder, stem, batch.schema(), options, FILE_BYTES)
        });
        files.write(batch)
    }
}

impl RowSink for Files {
    fn begin(&mut self, schema: &SchemaRef) -> Result<()> {
        if let Some(table) = &self.into {
            let (wanted, given) = (table.all_columns().count(), schema.fields().len());
            if wanted != given {
                return Err(Error::invalid(format!(
                    "table {:?} has {wanted} columns, partition keys included, and the rows have \
                     {given}",
                    table.name
                )));
            }
        }
        let mut made = lock(&self.made);
        if !std::mem::take(&mut made.files).is_empty() {
            std::fs::remove_dir_all(&self.folder)
                .and_then(|()| std::fs::create_dir(&self.folder))
                .map_err(|cause| Error::io("begin a table's files again", cause))?;
        }
        *made = Made { schema: Some(Arc::clone(schema)), ..Made::default() };
        Ok(())
    }

    fn rows(&mut self, batch: RecordBatch) -> Result<()> {
        let made = Arc::clone(&self.made);
        let mut made = lock(&made);
        if !self.with_data {
            return Ok(());
        }
        made.rows += batch.num_rows() as u64;
        let Some(table) = &self.into else {
            return self.write(&mut made, Vec::new(), &batch);
        };
        for (values, rows) in by_partition(table, &batch)? {
            self.write(&mut made, values, &rows)?;
        }
        Ok(())
    }
}

/// The rows in the table's types, apart by the values of its partition keys.
fn by_partition(table: &Table, batch: &RecordBatch) -> Result<BTreeMap<Vec<String>, RecordBatch>> {
    let options = CastOptions { safe: false, format_options: FormatOptions::default() };
    let (mut fields, mut arrays) = (Vec::new(), Vec::new());
    for (column, array) in table.columns.iter().zip(batch.columns()) {
        let data_type = formats::hive::to_arrow(&column.hive_type)?;
        let array = cast_with_options(array, &data_type, &options).map_err(|cause| {
            Error::invalid(format!(
                "a value does not fit column {:?}, which is {}: {cause}",
                column.name, column.hive_type
            ))
        })?;
        fields.push(Field::new(&column.name, data_type, true));
        arrays.push(array);
    }
    let wrong = |cause| Error::internal(format!("rows were put together wrongly: {cause}"));
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).map_err(wrong)?;
    if table.partition_keys.is_empty() {
        return Ok([(Vec::new(), rows)].into());
    }
    let keys: Result<Vec<ArrayRef>, _> = batch.columns()[table.columns.len()..]
        .iter()
        .map(|key| cast(key, &DataType::Utf8))
        .collect();
    let keys = keys.map_err(wrong)?;
    let mut places: BTreeMap<Vec<String>, Vec<u32>> = BTreeMap::new();
    for row in 0..batch.num_rows() {
        let value = |key: &ArrayRef| match key.is_null(row) {
            true => NULL_PARTITION.to_owned(),
            false => key.as_string::<i32>().value(row).to_owned(),
        };
        places.entry(keys.iter().map(value).collect()).or_default().push(row as u32);
    }
    places
        .into_iter()
        .map(|(values, rows_of)| {
            let some = take_record_batch(&rows, &UInt32Array::from(rows_of)).map_err(wrong)?;
            Ok((values, some))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, StringArray};

    use super::*;

    #[test]
    fn rows_go_to_the_partition_that_their_last_columns_name() {
        let mut table = Table::new(("d", "t"), ("bkt", "t/"), lake::Format::Parquet);
        table.columns = vec![lake::Column::new("n", "bigint")];
        table.partition_keys =
            vec![lake::Column::new("day", "string"), lake::Column::new("k", "int")];
        let columns: [(&str, ArrayRef); 3] = [
            ("a", Arc::new(Int32Array::from(vec![1, 2, 3, 4]))),
            ("b", Arc::new(StringArray::from(vec![Some("x"), None, Some("x"), Some("y")]))),
            ("c", Arc::new(Int32Array::from(vec![7, 7, 7, 8]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let found: Vec<(String, usize, DataType)> = by_partition(&table, &batch)
            .unwrap()
            .into_iter()
            .map(|(values, rows)| {
                (values.join("/"), rows.num_rows(), rows.column(0).data_type().clone())
            })
            .collect();
        let nowhere = format!("{NULL_PARTITION}/7");
        assert_eq!(
            found,
            [
                (nowhere, 1, DataType::Int64),
                ("x/7".into(), 2, DataType::Int64),
                ("y/8".into(), 1, DataType::Int64)
            ]
        );
    }
}
