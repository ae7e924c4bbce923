//! Rows to Parquet files, one set of files for each combination of partition values.
//!
//! Rows of one partition keep their order. Files open at a time and bytes they hold are
//! bounded: the least recently used file is closed, the largest row group flushed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Schema, SchemaRef};
use base::{Error, Result};
use formats::parquet::{Codec, Rolling, WriterOptions, Written};
use lake::{Column, EtlResult, EtlSpec, StagedFile, TargetCompression};

use super::folders;

/// Files open at a time.
const OPEN_MAX: usize = 128;

/// Partitions that one run may write.
const PARTITIONS_MAX: usize = 10_000;

/// Folder of the files, beneath the staging folder.
const FOLDER: &str = "files";

/// Smallest share of memory that open row groups get.
const BUFFER_BYTES_MIN: usize = 16 * 1024 * 1024;

/// The files of a run's target.
pub(super) struct PartitionWriter {
    staging: PathBuf,
    /// Columns of the files.
    schema: SchemaRef,
    /// Where they are in what is written.
    columns: Vec<usize>,
    keys: Vec<usize>,
    result: EtlResult,
    options: WriterOptions,
    file_bytes: u64,
    buffer_bytes: usize,
    partitions: BTreeMap<Vec<String>, Partition>,
    open: usize,
    /// Grows with each batch written to a partition.
    clock: u64,
}

struct Partition {
    number: usize,
    /// Writers made for it before.
    generation: usize,
    writer: Option<Rolling>,
    used: u64,
    written: Vec<Written>,
}

impl PartitionWriter {
    pub(super) fn new(
        spec: &EtlSpec,
        schema: &SchemaRef,
        partition_keys: &[String],
        compression: TargetCompression,
    ) -> Result<Self> {
        let keys: Vec<usize> = partition_keys
            .iter()
            .map(|key| {
                let found = schema.fields().iter().position(|field| field.name() == key);
                found.ok_or_else(|| {
                    Error::invalid(format!("there is no column {key:?} to partition by"))
                })
            })
            .collect::<Result<_>>()?;
        let columns: Vec<usize> =
            (0..schema.fields().len()).filter(|column| !keys.contains(column)).collect();
        if columns.is_empty() {
            return Err(Error::invalid(
                "every column is a partition key; the files would be empty",
            ));
        }
        let of = |picked: &[usize]| -> Result<Vec<Column>> {
            picked
                .iter()
                .map(|&column| {
                    let field = schema.field(column);
                    Ok(Column::new(field.name(), formats::hive::from_arrow(field.data_type())?))
                })
                .collect()
        };
        let (result_columns, result_keys) = (of(&columns)?, of(&keys)?);
        lake::check_columns(result_columns.iter().chain(&result_keys))?;
        let fields: Vec<_> = columns.iter().map(|&c| Arc::clone(&schema.fields()[c])).collect();
        let folder = spec.staging.join(FOLDER);
        std::fs::create_dir(&folder)
            .map_err(|cause| Error::io(format!("making {}", folder.display()), cause))?;
        let buffer_bytes = usize::try_from(spec.memory_bytes / 4).unwrap_or(usize::MAX);
        let codec = match compression {
            TargetCompression::Zstd => Codec::Zstd,
            TargetCompression::Snappy => Codec::Snappy,
            TargetCompression::Gzip | TargetCompression::None => {
                return Err(Error::unsupported("Parquet is packed by zstd or snappy"));
            }
        };
        let metadata = vec![
            ("forebay.job".to_owned(), spec.job.name.clone()),
            ("forebay.run".to_owned(), spec.run_id.clone()),
        ];
        Ok(PartitionWriter {
            staging: spec.staging.clone(),
            schema: Arc::new(Schema::new(fields)),
            columns,
            keys,
            result: EtlResult {
                columns: result_columns,
                partition_keys: result_keys,
                ..EtlResult::default()
            },
            options: WriterOptions { codec, metadata, ..WriterOptions::default() },
            file_bytes: spec.target_file_bytes,
            buffer_bytes: buffer_bytes.max(BUFFER_BYTES_MIN),
            partitions: BTreeMap::new(),
            open: 0,
            clock: 0,
        })
    }

    /// Adds rows in their order.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.result.rows_out += batch.num_rows() as u64;
        let project = |batch: &RecordBatch| {
            batch.project(&self.columns).map_err(|cause| {
                Error::internal(format!("a batch has other columns than planned: {cause}"))
            })
        };
        if self.keys.is_empty() {
            let rows = project(batch)?;
            self.write_to(Vec::new(), &rows)?;
        } else {
            let mut parts = Vec::new();
            for (values, rows) in folders::split(batch, &self.keys)? {
                let rows = take_record_batch(batch, &UInt32Array::from(rows)).map_err(|cause| {
                    Error::internal(format!("rows of a partition are not there: {cause}"))
                })?;
                parts.push((values, project(&rows)?));
            }
            for (values, rows) in parts {
                self.write_to(values, &rows)?;
            }
        }
        self.give_memory_back()
    }

    fn write_to(&mut self, values: Vec<String>, rows: &RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        self.clock += 1;
        let number = self.partitions.len();
        if number >= PARTITIONS_MAX && !self.partitions.contains_key(&values) {
            return Err(Error::new(
                base::ErrorKind::Exhausted,
                format!("the run would write more than {PARTITIONS_MAX} partitions"),
            ));
        }
        let partition = self.partitions.entry(values).or_insert_with(|| Partition {
            number,
            generation: 0,
            writer: None,
            used: 0,
            written: Vec::new(),
        });
        partition.used = self.clock;
        let mut writer = match partition.writer.take() {
            Some(writer) => writer,
            None => {
                self.open += 1;
                let stem = format!("p{:05}-g{:03}", partition.number, partition.generation);
                partition.generation += 1;
                Rolling::new(
                    &self.staging.join(FOLDER),
                    stem,
                    Arc::clone(&self.schema),
                    self.options.clone(),
                    self.file_bytes,
                )
            }
        };
        writer.write(rows)?;
        partition.writer = Some(writer);
        if self.open > OPEN_MAX {
            self.close_oldest()?;
        }
        Ok(())
    }

    fn close_oldest(&mut self) -> Result<()> {
        let open = self.partitions.values_mut().filter(|partition| partition.writer.is_some());
        let Some(oldest) = open.min_by_key(|partition| partition.used) else { return Ok(()) };
        if let Some(writer) = oldest.writer.take() {
            self.open -= 1;
            oldest.written.extend(writer.close()?);
        }
        Ok(())
    }

    fn give_memory_back(&mut self) -> Result<()> {
        loop {
            let writers = || self.partitions.values().filter_map(|p| p.writer.as_ref());
            if writers().map(Rolling::memory).sum::<usize>() <= self.buffer_bytes {
                return Ok(());
            }
            let writers = self.partitions.values_mut().filter_map(|p| p.writer.as_mut());
            let Some(largest) = writers.max_by_key(|writer| writer.memory()) else { return Ok(()) };
            let before = largest.memory();
            largest.flush()?;
            if largest.memory() >= before {
                return Ok(());
            }
        }
    }

    /// Closes all files and lists them, by partition and place.
    pub(super) fn close(mut self) -> Result<EtlResult> {
        for (values, mut partition) in self.partitions {
            if let Some(writer) = partition.writer.take() {
                partition.written.extend(writer.close()?);
            }
            for file in partition.written {
                let path = file.path.strip_prefix(&self.staging).ok().and_then(|p| p.to_str());
                let path = path.ok_or_else(|| {
                    Error::internal(format!("{} is not staged", file.path.display()))
                })?;
                self.result.files.push(StagedFile {
                    path: path.to_owned(),
                    partition_values: values.clone(),
                    rows: file.rows,
                    bytes: file.bytes,
                });
            }
        }
        let rows: u64 = self.result.files.iter().map(|file| file.rows).sum();
        if rows != self.result.rows_out {
            return Err(Error::internal(format!(
                "{} rows were written but the files have {rows}",
                self.result.rows_out
            )));
        }
        Ok(self.result)
    }
}
