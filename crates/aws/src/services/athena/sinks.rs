//! Where the rows of an answer go while it is being made: a file of CSV for a result, files by
//! partition for a table or a place. Nobody holds an answer whole.
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
use formats::Compression;
use formats::parquet::{Codec, WriterOptions, Written};
use formats::text::Lines;
use lake::{Format, NULL_PARTITION, RowSink, Table};

use super::results::{self, Column};
use super::statement::{Packing, Stored};

/// Bytes of a result at most: what an answer may take of the disk.
const RESULT_BYTES_MAX: u64 = 16 * 1024 * 1024 * 1024;
/// Bytes of a file of a table, about.
const FILE_BYTES: u64 = 128 * 1024 * 1024;
/// Bytes of memory that open row groups may hold together.
const BUFFER_BYTES: usize = 128 * 1024 * 1024;
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

/// What the files of an answer hold, and how they are packed.
#[derive(Clone, Debug)]
pub(super) enum Form {
    Parquet(Codec),
    Lines(Lines, Compression),
}

impl Form {
    /// What is written for a statement that may name a packing; Athena's own where it does not,
    /// but for Parquet, where snappy costs a fraction of the time.
    pub(super) fn new(stored: &Stored, packing: Option<Packing>) -> Result<Form> {
        let lines = match stored {
            Stored::Parquet => {
                return Ok(Form::Parquet(match packing.unwrap_or(Packing::Snappy) {
                    Packing::Snappy => Codec::Snappy,
                    Packing::Zstd => Codec::Zstd,
                    Packing::Gzip => Codec::Gzip,
                    Packing::None => Codec::None,
                }));
            }
            Stored::Json => Lines::Json,
            Stored::Text(dialect) => Lines::Csv(dialect.clone()),
        };
        let packing = match packing.unwrap_or(Packing::Gzip) {
            Packing::Gzip => Compression::Gzip,
            Packing::Zstd => Compression::Zstd,
            Packing::None => Compression::None,
            Packing::Snappy => {
                return Err(Error::unsupported(
                    "text is not packed with snappy; use GZIP, ZSTD or NONE",
                ));
            }
        };
        Ok(Form::Lines(lines, packing))
    }

    /// What a table's files hold.
    pub(super) fn of_table(table: &Table) -> Result<Form> {
        if let Some(path) = table.records_path() {
            return Err(Error::unsupported(format!(
                "INSERT INTO {:?} is not supported: its records lie at {path} of documents that \
                 others write",
                table.name
            )));
        }
        let word = ["write.compression", "parquet.compression"];
        let word = word.iter().find_map(|name| table.parameters.get(*name));
        let packing = word.map(|word| {
            Packing::named(word).ok_or_else(|| {
                Error::unsupported(format!(
                    "table {:?} is packed with {word:?}, which is not written; GZIP, SNAPPY, ZSTD \
                     and NONE are",
                    table.name
                ))
            })
        });
        let stored = match (table.format, &table.csv) {
            (Format::Parquet, _) => Stored::Parquet,
            (Format::Json, _) => Stored::Json,
            (Format::Csv, Some(dialect)) => Stored::Text(dialect.clone()),
            (Format::Csv, None) => return Err(Error::internal("a table of CSV has no dialect")),
        };
        Form::new(&stored, packing.transpose()?)
    }
}

/// The files of one partition.
enum Rolling {
    Parquet(formats::parquet::Rolling),
    Lines(formats::text::Rolling),
}

impl Rolling {
    fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        match self {
            Rolling::Parquet(files) => files.write(rows),
            Rolling::Lines(files) => files.write(rows),
        }
    }

    fn memory(&self) -> usize {
        match self {
            Rolling::Parquet(files) => files.memory(),
            Rolling::Lines(_) => 0,
        }
    }

    fn flush(&mut self) -> Result<()> {
        match self {
            Rolling::Parquet(files) => files.flush(),
            Rolling::Lines(_) => Ok(()),
        }
    }

    fn close(self) -> Result<Vec<Written>> {
        match self {
            Rolling::Parquet(files) => files.close(),
            Rolling::Lines(files) => files.close(),
        }
    }
}

/// What has been written of a table.
#[derive(Default)]
pub(super) struct Made {
    files: BTreeMap<Vec<String>, Rolling>,
    layout: Option<Layout>,
    /// The columns of the answer.
    pub(super) schema: Option<SchemaRef>,
    pub(super) rows: u64,
}

/// A file and the partition it belongs to.
pub(super) type InPartition = (Vec<String>, Written);

/// Ends the files.
pub(super) fn close(made: &Mutex<Made>) -> Result<Vec<InPartition>> {
    let mut all = Vec::new();
    for (values, files) in std::mem::take(&mut lock(made).files) {
        all.extend(files.close()?.into_iter().map(|file| (values.clone(), file)));
    }
    Ok(all)
}

/// The columns of what was made.
pub(super) fn schema_of(made: &Mutex<Made>) -> Option<SchemaRef> {
    lock(made).schema.clone()
}

/// Which rows are wanted.
pub(super) enum Shape {
    /// Those of the answer; its last columns, named here, are folders.
    AsAsked(Vec<String>),
    /// Those that a table has a place for.
    OfTable(Box<Table>),
    /// None, but the columns.
    NoRows(Vec<String>),
}

/// How rows become files.
pub(super) struct Files {
    folder: PathBuf,
    stem: String,
    form: Form,
    shape: Shape,
    made: Arc<Mutex<Made>>,
}

impl Files {
    /// Files in `folder`, which is there.
    pub(super) fn create(
        folder: &Path,
        stem: &str,
        form: Form,
        shape: Shape,
    ) -> (Files, Arc<Mutex<Made>>) {
        let made: Arc<Mutex<Made>> = Arc::default();
        let (folder, stem) = (folder.to_owned(), stem.to_owned());
        (Files { folder, stem, form, shape, made: Arc::clone(&made) }, made)
    }

    fn write(&self, made: &mut Made, values: Vec<String>, batch: &RecordBatch) -> Result<()> {
        let count = made.files.len();
        if count >= PARTITIONS_MAX && !made.files.contains_key(&values) {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!(
                    "HIVE_TOO_MANY_OPEN_PARTITIONS: the rows belong to more than {PARTITIONS_MAX} \
                     partitions; write fewer with one statement"
                ),
            ));
        }
        let files = made.files.entry(values).or_insert_with(|| {
            let stem = format!("{}-{count}", self.stem);
            match &self.form {
                Form::Parquet(codec) => {
                    let options = WriterOptions { codec: *codec, ..WriterOptions::default() };
                    let (folder, schema) = (&self.folder, batch.schema());
                    Rolling::Parquet(formats::parquet::Rolling::new(
                        folder, stem, schema, options, FILE_BYTES,
                    ))
                }
                Form::Lines(lines, packing) => Rolling::Lines(formats::text::Rolling::new(
                    &self.folder,
                    stem,
                    lines.clone(),
                    *packing,
                    FILE_BYTES,
                )),
            }
        });
        files.write(batch)?;
        give_memory_back(made)
    }
}

/// Ends row groups, the largest first, until those that are open fit their bound.
fn give_memory_back(made: &mut Made) -> Result<()> {
    while made.files.values().map(Rolling::memory).sum::<usize>() > BUFFER_BYTES {
        let Some(largest) = made.files.values_mut().max_by_key(|files| files.memory()) else {
            return Ok(());
        };
        let before = largest.memory();
        largest.flush()?;
        if largest.memory() >= before {
            return Ok(());
        }
    }
    Ok(())
}

impl RowSink for Files {
    fn begin(&mut self, schema: &SchemaRef) -> Result<()> {
        let layout = match &self.shape {
            Shape::OfTable(table) => Layout::of_table(table, schema)?,
            Shape::AsAsked(keys) | Shape::NoRows(keys) => Layout::as_asked(schema, keys)?,
        };
        if let Form::Lines(lines, _) = &self.form {
            lines.check(&layout.schema)?;
        }
        let mut made = lock(&self.made);
        if !std::mem::take(&mut made.files).is_empty() {
            std::fs::remove_dir_all(&self.folder)
                .and_then(|()| std::fs::create_dir(&self.folder))
                .map_err(|cause| Error::io("begin a table's files again", cause))?;
        }
        let schema = Some(Arc::clone(schema));
        *made = Made { schema, layout: Some(layout), ..Made::default() };
        Ok(())
    }

    fn rows(&mut self, batch: RecordBatch) -> Result<()> {
        let made = Arc::clone(&self.made);
        let mut made = lock(&made);
        if matches!(self.shape, Shape::NoRows(_)) {
            return Ok(());
        }
        made.rows += batch.num_rows() as u64;
        let layout = made.layout.as_ref().ok_or_else(|| Error::internal("rows before columns"))?;
        for (values, rows) in layout.apart(&batch)? {
            self.write(&mut made, values, &rows)?;
        }
        Ok(())
    }
}

/// Which columns of an answer are in the files, in what types, and which name folders: the last
/// ones.
struct Layout {
    schema: SchemaRef,
    /// What the columns are called in messages, where they are cast.
    table: Option<Vec<lake::Column>>,
}

impl Layout {
    fn of_table(table: &Table, schema: &SchemaRef) -> Result<Layout> {
        let (wanted, given) = (table.all_columns().count(), schema.fields().len());
        if wanted != given {
            return Err(Error::invalid(format!(
                "table {:?} has {wanted} columns, partition keys included, and the rows have \
                 {given}",
                table.name
            )));
        }
        let field = |column: &lake::Column| {
            Ok(Field::new(&column.name, formats::hive::to_arrow(&column.hive_type)?, true))
        };
        let fields = table.columns.iter().map(field).collect::<Result<Vec<_>>>()?;
        Ok(Layout { schema: Arc::new(Schema::new(fields)), table: Some(table.columns.clone()) })
    }

    fn as_asked(schema: &SchemaRef, keys: &[String]) -> Result<Layout> {
        let names: Vec<String> = schema.fields().iter().map(|f| f.name().to_lowercase()).collect();
        let Some(columns) = names.len().checked_sub(keys.len()).filter(|left| *left > 0) else {
            return Err(Error::invalid(format!(
                "partitioned_by names {} of {} columns; files need one at least",
                keys.len(),
                names.len()
            )));
        };
        if names[columns..] != *keys {
            return Err(Error::invalid(format!(
                "HIVE_COLUMN_ORDER_MISMATCH: partition keys must be the last columns in the SELECT \
                 and in the same order as in partitioned_by: {}",
                keys.join(", ")
            )));
        }
        let fields: Vec<_> = schema.fields()[..columns].to_vec();
        Ok(Layout { schema: Arc::new(Schema::new(fields)), table: None })
    }

    /// The rows as they are written, apart by the values of the partition keys.
    fn apart(&self, batch: &RecordBatch) -> Result<BTreeMap<Vec<String>, RecordBatch>> {
        let wrong = |cause| Error::internal(format!("rows were put together wrongly: {cause}"));
        let count = self.schema.fields().len();
        let mut arrays = batch.columns()[..count].to_vec();
        let options = CastOptions { safe: false, format_options: FormatOptions::default() };
        for (array, column) in arrays.iter_mut().zip(self.table.iter().flatten()) {
            let data_type = formats::hive::to_arrow(&column.hive_type)?;
            *array = cast_with_options(array, &data_type, &options).map_err(|cause| {
                Error::invalid(format!(
                    "a value does not fit column {:?}, which is {}: {cause}",
                    column.name, column.hive_type
                ))
            })?;
        }
        let rows = RecordBatch::try_new(Arc::clone(&self.schema), arrays).map_err(wrong)?;
        if batch.num_columns() == count {
            return Ok([(Vec::new(), rows)].into());
        }
        let keys: Result<Vec<ArrayRef>> = batch.columns()[count..]
            .iter()
            .zip(&batch.schema_ref().fields()[count..])
            .map(|(key, field)| {
                cast(key, &DataType::Utf8).map_err(|cause| {
                    Error::invalid(format!("column {:?} cannot be a folder: {cause}", field.name()))
                })
            })
            .collect();
        let keys = keys?;
        let mut places: BTreeMap<Vec<String>, Vec<u32>> = BTreeMap::new();
        for row in 0..batch.num_rows() {
            let value = |key: &ArrayRef| {
                let text = key.as_string::<i32>();
                match text.is_null(row) || text.value(row).is_empty() {
                    true => NULL_PARTITION.to_owned(),
                    false => text.value(row).to_owned(),
                }
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
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int32Array, StringArray};

    use super::*;

    #[test]
    fn rows_go_to_the_partition_that_their_last_columns_name() {
        let mut table = Table::new(("d", "t"), ("bkt", "t/"), Format::Parquet);
        table.columns = vec![lake::Column::new("n", "bigint")];
        table.partition_keys =
            vec![lake::Column::new("day", "string"), lake::Column::new("k", "int")];
        let columns: [(&str, ArrayRef); 3] = [
            ("a", Arc::new(Int32Array::from(vec![1, 2, 3, 4]))),
            ("b", Arc::new(StringArray::from(vec![Some("x"), None, Some("x"), Some("y")]))),
            ("c", Arc::new(Int32Array::from(vec![7, 7, 7, 8]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let layout = Layout::of_table(&table, &batch.schema()).unwrap();
        let found: Vec<(String, usize, DataType)> = layout
            .apart(&batch)
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
