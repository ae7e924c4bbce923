//! Files of a table as batches, whatever state they are in.
//!
//! A file that is damaged never fails a table: what lies before the damage is read, and the
//! rest counts as one record set aside, with the place and the reason. A file that cannot be
//! *reached* is an error, because retrying may bring its rows.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatchOptions;
use arrow::util::display::FormatOptions;
use base::{Error, ErrorKind, Result};
use datafusion::common::ScalarValue;
use formats::csv::{Dialect, FileStart};
use formats::json::{BadRecord, ScanOptions};
use formats::parquet::Reader;
use formats::{csv, json};
use lake::{Column, Format, NULL_PARTITION, Table, TableFile};

use crate::meter::Meter;
use crate::parts::Part;

/// Rows of a batch.
const BATCH_ROWS: usize = 8192;

/// A table's columns as Arrow knows them.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub(crate) format: Format,
    /// How the fields of CSV are told apart.
    csv: Option<Dialect>,
    /// Where records of JSON lie, if they are not the documents themselves.
    pub(crate) records: Option<json::Path>,
    /// Columns in the files.
    pub(crate) data: SchemaRef,
    /// Columns that folders give.
    pub(crate) partition: Vec<Arc<Field>>,
    /// Both, in this order.
    pub(crate) all: SchemaRef,
}

impl Layout {
    pub(crate) fn of(table: &Table) -> Result<Self> {
        let data = fields(&table.columns)?;
        let partition = fields(&table.partition_keys)?;
        let all = data.iter().chain(&partition).cloned().collect::<Vec<_>>();
        let data = Arc::new(Schema::new(data));
        let all = Arc::new(Schema::new(all));
        let (format, csv) = (table.format, table.csv.clone());
        let records = table.records_path().map(str::parse).transpose()?;
        let layout = Layout { format, csv, records, data, partition, all };
        if format != Format::Parquet {
            // A column that cannot be read is the table's fault and not that of every file.
            let options = ScanOptions { record_bytes_max: 1, ..ScanOptions::default() };
            layout
                .scan(None, std::io::empty(), options)
                .map_err(|error| error.context(format!("table {:?}", table.name)))?;
        }
        Ok(layout)
    }

    /// A scan of text that was unpacked.
    fn scan<R: Read>(
        &self,
        projection: Option<&[usize]>,
        input: R,
        options: ScanOptions,
    ) -> Result<TextScan<R>> {
        Ok(match self.format {
            Format::Csv => TextScan::Csv(Box::new(self.csv_scan(projection, input, options)?)),
            _ => {
                let scan = json::Scan::new(&self.data, projection, input, options)?;
                TextScan::Json(Box::new(scan))
            }
        })
    }

    /// A scan of delimited text.
    pub(crate) fn csv_scan<R: Read>(
        &self,
        projection: Option<&[usize]>,
        input: R,
        options: ScanOptions,
    ) -> Result<csv::Scan<R>> {
        let dialect = self.csv.as_ref();
        let dialect =
            dialect.ok_or_else(|| Error::internal("delimited by nothing that is known"))?;
        csv::Scan::new(&self.data, projection, input, dialect, options)
    }

    /// The same with texts as views, which DataFusion's reader of Parquet makes of a dictionary
    /// without copying them.
    pub(crate) fn with_views(self) -> Self {
        let view = |field: &Arc<Field>| match field.data_type() {
            DataType::Utf8 => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View)),
            _ => Arc::clone(field),
        };
        let data: Vec<Arc<Field>> = self.data.fields().iter().map(view).collect();
        let partition: Vec<Arc<Field>> = self.partition.iter().map(view).collect();
        let all: Vec<Arc<Field>> = data.iter().chain(&partition).cloned().collect();
        let (data, all) = (Arc::new(Schema::new(data)), Arc::new(Schema::new(all)));
        Layout { data, partition, all, ..self }
    }

    /// The values that a file's folders give to the partition columns. What is no value of
    /// the column's type is null.
    pub(crate) fn partition_values(&self, file: &TableFile) -> Vec<ScalarValue> {
        let value = |(field, text): (&Arc<Field>, &String)| {
            let null = || ScalarValue::try_from(field.data_type()).unwrap_or(ScalarValue::Null);
            if text == NULL_PARTITION {
                return null();
            }
            let text = ScalarValue::Utf8(Some(text.clone()));
            text.cast_to(field.data_type()).unwrap_or_else(|_not_of_this_type| null())
        };
        self.partition.iter().zip(&file.partition_values).map(value).collect()
    }
}

fn fields(columns: &[Column]) -> Result<Vec<Arc<Field>>> {
    let field = |column: &Column| {
        let data_type = formats::hive::to_arrow(&column.hive_type)
            .map_err(|error| error.context(format!("column {:?}", column.name)))?;
        Ok(Arc::new(Field::new(&column.name, data_type, true)))
    };
    columns.iter().map(field).collect()
}

/// Which columns a reader hands out, data columns and partition columns apart.
#[derive(Clone, Debug)]
pub(crate) struct Picked {
    pub(crate) layout: Layout,
    /// Indices into `layout.all`.
    columns: Vec<usize>,
    pub(crate) schema: SchemaRef,
}

impl Picked {
    pub(crate) fn new(layout: &Layout, projection: Option<&Vec<usize>>) -> Result<Self> {
        let columns = match projection {
            Some(columns) => columns.clone(),
            None => (0..layout.all.fields().len()).collect(),
        };
        let schema = layout
            .all
            .project(&columns)
            .map_err(|cause| Error::internal(format!("no such column: {cause}")))?;
        Ok(Picked { layout: layout.clone(), columns, schema: Arc::new(schema) })
    }

    fn data_columns(&self) -> Vec<usize> {
        let data = self.layout.data.fields().len();
        self.columns.iter().copied().filter(|&column| column < data).collect()
    }

    /// Puts partition columns between the data columns that a file gave.
    fn complete(&self, data: RecordBatch, values: &[ScalarValue]) -> Result<RecordBatch> {
        let rows = data.num_rows();
        let mut given = data.columns().iter();
        let first_partition = self.layout.data.fields().len();
        let mut arrays: Vec<ArrayRef> = Vec::with_capacity(self.columns.len());
        for &column in &self.columns {
            let array = match column.checked_sub(first_partition) {
                None => given.next().map(Arc::clone),
                Some(partition) => values
                    .get(partition)
                    .map(|value| value.to_array_of_size(rows))
                    .transpose()
                    .map_err(crate::error::explain)?,
            };
            arrays.push(array.ok_or_else(|| Error::internal("a file gave too few columns"))?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map_err(|cause| Error::internal(format!("a batch was built wrongly: {cause}")))
    }
}

/// Hands all rows of `part` to `send`, which answers false when it wants no more.
pub(crate) fn read_file(
    part: &Part,
    picked: &Picked,
    meter: &Meter,
    send: &mut dyn FnMut(RecordBatch) -> bool,
) -> Result<bool> {
    let file = &part.file;
    let values = picked.layout.partition_values(file);
    let mut rows = 0;
    let mut goes_on = true;
    let mut hand_out = |batch: RecordBatch| -> Result<bool> {
        rows += batch.num_rows() as u64;
        meter.rows(part, rows);
        goes_on = send(picked.complete(batch, &values)?);
        Ok(goes_on)
    };
    let read = match picked.layout.format {
        Format::Parquet => read_parquet(file, picked, meter, &mut hand_out),
        Format::Json | Format::Csv => read_text(part, picked, meter, &mut hand_out),
    };
    match read {
        Ok(()) => Ok(goes_on),
        Err(Damage { position, error }) => match error.kind() {
            ErrorKind::Corrupt | ErrorKind::Unsupported => {
                let unit = if picked.layout.format == Format::Parquet { "row" } else { "byte" };
                let reason = format!("the object is not read from {unit} {position} on: {error}");
                tracing::warn!(bucket = file.bucket, key = file.key, reason, "damaged object");
                meter.set_aside(part, position, &reason, &[])?;
                Ok(true)
            }
            _ => Err(error.context(format!("reading {}/{}", file.bucket, file.key))),
        },
    }
}

/// An error and how far a file was read before it.
struct Damage {
    position: u64,
    error: Error,
}

impl From<Error> for Damage {
    fn from(error: Error) -> Self {
        Damage { position: 0, error }
    }
}

type Sink<'a> = &'a mut dyn FnMut(RecordBatch) -> Result<bool>;

fn open(file: &TableFile) -> Result<File> {
    File::open(&file.path)
        .map_err(|cause| Error::io(format!("opening {}/{}", file.bucket, file.key), cause))
}

/// A scan of lines or objects, whichever the table has.
enum TextScan<R> {
    Json(Box<json::Scan<R>>),
    Csv(Box<csv::Scan<R>>),
}

impl<R: Read> TextScan<R> {
    fn next_batch(&mut self, sink: &mut dyn FnMut(BadRecord)) -> Result<Option<RecordBatch>> {
        match self {
            TextScan::Json(scan) => scan.next_batch(sink),
            TextScan::Csv(scan) => scan.next_batch(sink),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            TextScan::Json(scan) => scan.bytes(),
            TextScan::Csv(scan) => scan.bytes(),
        }
    }
}

fn read_text(
    part: &Part,
    picked: &Picked,
    meter: &Meter,
    hand_out: Sink<'_>,
) -> Result<(), Damage> {
    let mut counted = Counted { inner: open(&part.file)?, meter, at: 0, counted: 0 };
    let mut from = part.begin();
    let mut input: Box<dyn Read + Send + '_> = match &part.range {
        None => formats::decode_object(counted, &part.file.key)?,
        Some(range) => {
            // A header is passed over by the first part, which it belongs to.
            let header = part.start.as_ref().map_or(0, |start| start.bytes());
            if from < header {
                meter.bytes(header - from);
                from = header;
            }
            let failed = |cause| Error::io("reading on within an object", cause);
            counted.seek(SeekFrom::Start(from)).map_err(failed)?;
            Box::new(counted.take(range.end - from))
        }
    };
    if let Some(path) = &picked.layout.records {
        input = Box::new(json::Items::new(input, path));
    }
    let data = picked.data_columns();
    let options = ScanOptions { batch_rows: BATCH_ROWS, ..ScanOptions::default() };
    let mut scan = picked.layout.scan(Some(&data), input, options)?;
    if let (TextScan::Csv(scan), Some(start)) = (&mut scan, &part.start) {
        scan.go_on(FileStart::clone(start));
    }
    let mut unkept = Ok(());
    loop {
        let next = scan.next_batch(&mut |bad| {
            if unkept.is_ok() {
                unkept = meter.set_aside(part, from + bad.position, &bad.reason, &bad.raw);
            }
        });
        std::mem::replace(&mut unkept, Ok(()))?;
        match next {
            Ok(Some(batch)) => {
                if !hand_out(batch)? {
                    return Ok(());
                }
            }
            Ok(None) => return Ok(()),
            Err(error) => return Err(Damage { position: from + scan.bytes(), error }),
        }
    }
}

/// Counts bytes on their way from the disk, each once: the first ones are read twice, to tell the
/// packing.
struct Counted<'a> {
    inner: File,
    meter: &'a Meter,
    at: u64,
    /// Everything before this place is counted.
    counted: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(out)?;
        let before = self.at;
        self.at += count as u64;
        // An archive is read from its end, which leaves a gap.
        let new = match before <= self.counted {
            true => {
                let from = self.counted;
                self.counted = from.max(self.at);
                self.counted - from
            }
            false => count as u64,
        };
        self.meter.bytes(new);
        Ok(count)
    }
}

impl Seek for Counted<'_> {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        self.at = self.inner.seek(to)?;
        Ok(self.at)
    }
}

/// Why a Parquet file that lies there cannot be read to its end, if it cannot. With
/// `types_only` just those are read whose columns have other types than the table's.
pub(crate) fn damage(file: &TableFile, picked: &Picked, types_only: bool) -> Option<Error> {
    if types_only && Reader::open(&file.path).is_ok_and(|reader| fits(&reader.schema(), picked)) {
        return None;
    }
    let unseen = Meter::default();
    let error = read_parquet(file, picked, &unseen, &mut |_batch| Ok(true)).err()?.error;
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported).then_some(error)
}

/// Whether the columns asked for have the table's types in a file that has them.
fn fits(present: &Schema, picked: &Picked) -> bool {
    picked.data_columns().iter().all(|&column| {
        let wanted = picked.layout.data.field(column);
        let found = present.field_with_name(wanted.name());
        found.map_or(true, |found| found.data_type() == wanted.data_type())
    })
}

fn read_parquet(
    file: &TableFile,
    picked: &Picked,
    meter: &Meter,
    hand_out: Sink<'_>,
) -> Result<(), Damage> {
    let reader = Reader::open(&file.path)?;
    meter.bytes(file.bytes);
    let present = reader.schema();
    let wanted: Vec<Option<usize>> = picked
        .data_columns()
        .iter()
        .map(|&column| present.index_of(picked.layout.data.field(column).name()).ok())
        .collect();
    let mut projection: Vec<usize> = wanted.iter().copied().flatten().collect();
    projection.sort_unstable();
    let types: Vec<DataType> = picked
        .data_columns()
        .iter()
        .map(|&column| picked.layout.data.field(column).data_type().clone())
        .collect();
    let mut rows = 0;
    for batch in reader.batches(Some(&projection), BATCH_ROWS)? {
        let batch = batch.map_err(|error| Damage { position: rows, error })?;
        let adapted = adapt(&batch, &projection, &wanted, &types)
            .map_err(|error| Damage { position: rows, error })?;
        rows += batch.num_rows() as u64;
        if !hand_out(adapted)? {
            break;
        }
    }
    Ok(())
}

/// The batch with the columns `wanted` in their order and types; absent ones are null.
fn adapt(
    batch: &RecordBatch,
    projection: &[usize],
    wanted: &[Option<usize>],
    types: &[DataType],
) -> Result<RecordBatch> {
    let options = CastOptions { safe: false, format_options: FormatOptions::default() };
    let mut arrays = Vec::with_capacity(wanted.len());
    let mut fields = Vec::with_capacity(wanted.len());
    for (index, data_type) in wanted.iter().zip(types) {
        let at = index.and_then(|index| projection.iter().position(|&other| other == index));
        arrays.push(match at.map(|at| batch.column(at)) {
            Some(array) if array.data_type() == data_type => Arc::clone(array),
            Some(array) => cast_with_options(array, data_type, &options).map_err(|cause| {
                let from = array.data_type();
                Error::new(ErrorKind::Corrupt, format!("{from} does not fit {data_type}: {cause}"))
            })?,
            None => new_null_array(data_type, batch.num_rows()),
        });
        fields.push(Field::new("", data_type.clone(), true));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options)
        .map_err(|cause| Error::internal(format!("a batch was built wrongly: {cause}")))
}
