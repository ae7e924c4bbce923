//! Rows to files of text: JSON lines, or CSV with a header.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use base::{Error, ErrorKind, Result};
use formats::{Compression, Encoder};
use lake::{Column, EtlResult, EtlSpec, StagedFile, TargetCompression, TargetFormat};

use super::folders;
use super::series::arrow;
use super::write::PartitionWriter;

/// Folder of the files, beneath the staging folder.
const FOLDER: &str = "files";

/// Files open at a time, and so partitions of one run.
const OPEN_MAX: usize = 500;

/// The files of a run's target, whatever they are.
pub(super) enum TableWriter {
    Parquet(PartitionWriter),
    Text(TextWriter),
}

impl TableWriter {
    pub(super) fn new(
        spec: &EtlSpec,
        schema: &SchemaRef,
        partition_keys: &[String],
        (format, compression): (TargetFormat, TargetCompression),
    ) -> Result<Self> {
        Ok(match format {
            TargetFormat::Parquet => TableWriter::Parquet(PartitionWriter::new(
                spec,
                schema,
                partition_keys,
                compression,
            )?),
            TargetFormat::Json | TargetFormat::Csv => {
                let csv = format == TargetFormat::Csv;
                TableWriter::Text(TextWriter::new(spec, schema, partition_keys, csv, compression)?)
            }
        })
    }

    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        match self {
            TableWriter::Parquet(writer) => writer.write(batch),
            TableWriter::Text(writer) => writer.write(batch),
        }
    }

    pub(super) fn close(self) -> Result<EtlResult> {
        match self {
            TableWriter::Parquet(writer) => writer.close(),
            TableWriter::Text(writer) => writer.close(),
        }
    }
}

/// The columns of a table, as a result says them.
pub(super) fn columns_of(schema: &Schema) -> Result<Vec<Column>> {
    schema
        .fields()
        .iter()
        .map(|field| Ok(Column::new(field.name(), formats::hive::from_arrow(field.data_type())?)))
        .collect()
}

/// A staged file that is being written.
pub(super) struct Staged {
    /// Beneath the staging folder.
    path: String,
    file: Encoder<BufWriter<File>>,
    at: PathBuf,
    rows: u64,
    /// Before packing.
    bytes: u64,
}

impl Staged {
    /// Begins `files/<name>`.
    pub(super) fn create(spec: &EtlSpec, name: &str, packing: Compression) -> Result<Self> {
        let folder = spec.staging.join(FOLDER);
        let at = folder.join(name);
        let file = std::fs::create_dir_all(&folder)
            .and_then(|()| File::create(&at))
            .map_err(|cause| Error::io(format!("making {}", at.display()), cause))?;
        let file = Encoder::new(BufWriter::new(file), packing)?;
        Ok(Staged { path: format!("{FOLDER}/{name}"), file, at, rows: 0, bytes: 0 })
    }

    pub(super) fn write(&mut self, text: &[u8], rows: usize) -> Result<()> {
        self.rows += rows as u64;
        self.bytes += text.len() as u64;
        let failed = |cause| Error::io(format!("writing {}", self.at.display()), cause);
        self.file.write_all(text).map_err(failed)
    }

    pub(super) fn rows(&self) -> u64 {
        self.rows
    }

    /// Ends the file.
    pub(super) fn close(self, partition_values: Vec<String>) -> Result<StagedFile> {
        let at = self.at;
        let failed = |cause| Error::io(format!("writing {}", at.display()), cause);
        self.file.finish().and_then(|mut file| file.flush()).map_err(failed)?;
        let bytes = std::fs::metadata(&at).map_err(failed)?.len();
        Ok(StagedFile { path: self.path, partition_values, rows: self.rows, bytes })
    }
}

pub(super) struct TextWriter {
    spec: EtlSpec,
    csv: bool,
    packing: Compression,
    columns: Vec<usize>,
    keys: Vec<usize>,
    open: BTreeMap<Vec<String>, Staged>,
    files: u64,
    result: EtlResult,
}

impl TextWriter {
    fn new(
        spec: &EtlSpec,
        schema: &SchemaRef,
        partition_keys: &[String],
        csv: bool,
        compression: TargetCompression,
    ) -> Result<Self> {
        let place = |key: &String| {
            let found = schema.fields().iter().position(|field| field.name() == key);
            found.ok_or_else(|| {
                let known: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
                let known = known.join(", ");
                Error::invalid(format!(
                    "there is no column {key:?} to partition by; there are {known}"
                ))
            })
        };
        let keys: Vec<usize> = partition_keys.iter().map(place).collect::<Result<_>>()?;
        let columns: Vec<usize> =
            (0..schema.fields().len()).filter(|column| !keys.contains(column)).collect();
        if columns.is_empty() {
            return Err(Error::invalid(
                "every column is a partition key; the files would be empty",
            ));
        }
        let packing = match compression {
            TargetCompression::Zstd => Compression::Zstd,
            TargetCompression::Gzip => Compression::Gzip,
            TargetCompression::None => Compression::None,
            TargetCompression::Snappy => {
                return Err(Error::unsupported("text is packed by zstd, gzip or not at all"));
            }
        };
        let of = |picked: &[usize]| schema.project(picked).map_err(arrow);
        let (files, folders) = (of(&columns)?, of(&keys)?);
        let nested = |kind: &DataType| kind.is_nested() || matches!(kind, DataType::Binary);
        if let (true, Some(field)) = (csv, files.fields().iter().find(|f| nested(f.data_type()))) {
            return Err(Error::unsupported(format!(
                "column {:?} is {} and has no form in CSV; flatten or drop it before, or write JSON",
                field.name(),
                formats::hive::from_arrow(field.data_type())?
            )));
        }
        let result = EtlResult {
            columns: columns_of(&files)?,
            partition_keys: columns_of(&folders)?,
            ..EtlResult::default()
        };
        lake::check_columns(result.columns.iter().chain(&result.partition_keys))?;
        let (spec, open) = (spec.clone(), BTreeMap::new());
        Ok(TextWriter { spec, csv, packing, columns, keys, open, files: 0, result })
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if self.keys.is_empty() {
            return self.write_to(Vec::new(), batch);
        }
        for (values, rows) in folders::split(batch, &self.keys)? {
            let rows = take_record_batch(batch, &UInt32Array::from(rows)).map_err(arrow)?;
            self.write_to(values, &rows)?;
        }
        Ok(())
    }

    fn write_to(&mut self, values: Vec<String>, rows: &RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        if self.open.len() >= OPEN_MAX && !self.open.contains_key(&values) {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!(
                    "the run would write more than {OPEN_MAX} partitions of text; write Parquet"
                ),
            ));
        }
        let mut staged = match self.open.remove(&values) {
            Some(staged) => staged,
            None => self.begin()?,
        };
        let rows = rows.project(&self.columns).map_err(arrow)?;
        let first = staged.rows() == 0;
        let text = if self.csv { as_csv(&rows, first)? } else { as_lines(&rows)? };
        staged.write(&text, rows.num_rows())?;
        self.result.rows_out += rows.num_rows() as u64;
        if staged.bytes < self.spec.target_file_bytes {
            self.open.insert(values, staged);
        } else {
            self.result.files.push(staged.close(values)?);
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<Staged> {
        let packed = match self.packing {
            Compression::Gzip => ".gz",
            Compression::Zstd => ".zst",
            _ => "",
        };
        let kind = if self.csv { "csv" } else { "jsonl" };
        self.files += 1;
        let name = format!("t{:05}.{kind}{packed}", self.files);
        Staged::create(&self.spec, &name, self.packing)
    }

    fn close(mut self) -> Result<EtlResult> {
        for (values, staged) in self.open {
            self.result.files.push(staged.close(values)?);
        }
        self.result.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(self.result)
    }
}

fn as_lines(rows: &RecordBatch) -> Result<Vec<u8>> {
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    writer.write(rows).and_then(|()| writer.finish()).map_err(arrow)?;
    Ok(writer.into_inner())
}

/// Rows as CSV, with a header if asked for.
pub(super) fn as_csv(rows: &RecordBatch, header: bool) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let mut writer = arrow::csv::WriterBuilder::new().with_header(header).build(&mut text);
    writer.write(rows).map_err(arrow)?;
    drop(writer);
    Ok(text)
}
