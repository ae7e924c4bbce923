//! Rows to Parquet files, one set of files for each combination of partition values.
//!
//! Rows of one partition keep their order. Files open at a time and bytes they hold are
//! bounded: the least recently used file is closed, the largest row group flushed.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{cast, partition, take, take_record_batch};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use base::{Error, Result};
use formats::parquet::{Codec, Rolling, WriterOptions, Written};
use lake::{Column, EtlResult, EtlSpec, NULL_PARTITION, StagedFile, TargetCompression};

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
    /// By the order of their first rows.
    partitions: Vec<Partition>,
    /// Their places in that order by their values, see [`PartitionWriter::number`].
    numbers: HashMap<Vec<u8>, usize>,
    /// Whether null and the texts that stand for it are partitions of their own, in one folder.
    nulls_apart: bool,
    open: usize,
    /// Grows with each batch written to a partition.
    clock: u64,
}

struct Partition {
    values: Vec<String>,
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
        std::fs::create_dir_all(&folder)
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
            partitions: Vec::new(),
            numbers: HashMap::new(),
            nulls_apart: false,
            open: 0,
            clock: 0,
        })
    }

    /// Makes each partition one of equal values, so that rows sorted by a partition key need
    /// not be compared by it.
    pub(super) fn with_nulls_apart(self) -> Self {
        PartitionWriter { nulls_apart: true, ..self }
    }

    /// The columns of the files.
    pub(super) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Where a column of what is written is in the files; `None` for a partition key.
    pub(super) fn place(&self, column: usize) -> Option<usize> {
        self.columns.iter().position(|&other| other == column)
    }

    /// Adds rows in their order.
    pub(super) fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        for (number, rows) in self.split(batch)? {
            self.write_to(number, &rows)?;
        }
        self.give_memory_back()
    }

    /// The rows of each partition in a batch, in the files' columns.
    pub(super) fn split(&mut self, batch: &RecordBatch) -> Result<Vec<(usize, RecordBatch)>> {
        if batch.num_rows() == 0 {
            return Ok(Vec::new());
        }
        let bug = |cause: ArrowError| {
            Error::internal(format!("a batch has other columns than planned: {cause}"))
        };
        let rows = batch.project(&self.columns).map_err(bug)?;
        if self.keys.is_empty() {
            return Ok(vec![(self.number(&[], 0)?, rows)]);
        }
        // Neighbours mostly belong together, and only the first of them is looked at.
        let keys: Vec<ArrayRef> =
            self.keys.iter().map(|&key| Arc::clone(batch.column(key))).collect();
        let runs = partition(&keys).map_err(bug)?.ranges();
        let firsts: UInt32Array = runs.iter().map(|run| run.start as u32).collect();
        let mut texts = Vec::with_capacity(keys.len());
        for (&at, key) in self.keys.iter().zip(&keys) {
            let firsts = take(key, &firsts, None).map_err(bug)?;
            let text = cast(&firsts, &DataType::Utf8).map_err(|cause| {
                let name = batch.schema_ref().field(at).name();
                Error::invalid(format!("column {name:?} cannot be a folder: {cause}"))
            })?;
            texts.push(text.as_string::<i32>().clone());
        }
        let mut parts: BTreeMap<usize, Vec<Range<usize>>> = BTreeMap::new();
        for (at, run) in runs.into_iter().enumerate() {
            parts.entry(self.number(&texts, at)?).or_default().push(run);
        }
        if let (1, Some((&number, _))) = (parts.len(), parts.first_key_value()) {
            return Ok(vec![(number, rows)]);
        }
        let of = |(number, runs): (usize, Vec<Range<usize>>)| {
            let places: UInt32Array = runs.into_iter().flatten().map(|row| row as u32).collect();
            Ok((number, take_record_batch(&rows, &places).map_err(bug)?))
        };
        parts.into_iter().map(of).collect()
    }

    /// The number of the partition with the values in row `at` of `texts`.
    fn number(&mut self, texts: &[StringArray], at: usize) -> Result<usize> {
        let is_none = |text: &StringArray| text.is_null(at) || text.value(at).is_empty();
        let value = |text: &StringArray| match is_none(text) {
            true => NULL_PARTITION.to_owned(),
            false => text.value(at).to_owned(),
        };
        // Each text behind its length, which no length can be for a null.
        let mut key = Vec::new();
        for text in texts {
            let (length, bytes) = match (self.nulls_apart, text.is_null(at), is_none(text)) {
                (true, true, _) => (usize::MAX, ""),
                (false, _, true) => (NULL_PARTITION.len(), NULL_PARTITION),
                _ => (text.value(at).len(), text.value(at)),
            };
            key.extend_from_slice(&length.to_le_bytes());
            key.extend_from_slice(bytes.as_bytes());
        }
        if let Some(number) = self.numbers.get(&key) {
            return Ok(*number);
        }
        let number = self.partitions.len();
        if number >= PARTITIONS_MAX {
            return Err(Error::new(
                base::ErrorKind::Exhausted,
                format!("the run would write more than {PARTITIONS_MAX} partitions"),
            ));
        }
        self.numbers.insert(key, number);
        self.partitions.push(Partition {
            values: texts.iter().map(value).collect(),
            generation: 0,
            writer: None,
            used: 0,
            written: Vec::new(),
        });
        Ok(number)
    }

    /// A new writer for the files of a partition; they count once given to [`Self::add`].
    pub(super) fn files(&mut self, number: usize) -> Rolling {
        let generation = self.partitions[number].generation;
        self.partitions[number].generation += 1;
        Rolling::new(
            &self.staging.join(FOLDER),
            format!("p{number:05}-g{generation:03}"),
            Arc::clone(&self.schema),
            self.options.clone(),
            self.file_bytes,
        )
    }

    /// Takes the files that were written for a partition, and the rows that they should have.
    pub(super) fn add(&mut self, number: usize, written: Vec<Written>, rows: u64) {
        self.partitions[number].written.extend(written);
        self.result.rows_out += rows;
    }

    fn write_to(&mut self, number: usize, rows: &RecordBatch) -> Result<()> {
        self.clock += 1;
        let mut writer = match self.partitions[number].writer.take() {
            Some(writer) => writer,
            None => {
                self.open += 1;
                self.files(number)
            }
        };
        writer.write(rows)?;
        self.result.rows_out += rows.num_rows() as u64;
        let partition = &mut self.partitions[number];
        partition.used = self.clock;
        partition.writer = Some(writer);
        if self.open > OPEN_MAX {
            self.close_oldest()?;
        }
        Ok(())
    }

    fn close_oldest(&mut self) -> Result<()> {
        let open = self.partitions.iter_mut().filter(|partition| partition.writer.is_some());
        let Some(oldest) = open.min_by_key(|partition| partition.used) else { return Ok(()) };
        if let Some(writer) = oldest.writer.take() {
            self.open -= 1;
            oldest.written.extend(writer.close()?);
        }
        Ok(())
    }

    fn give_memory_back(&mut self) -> Result<()> {
        loop {
            let writers = || self.partitions.iter().filter_map(|p| p.writer.as_ref());
            if writers().map(Rolling::memory).sum::<usize>() <= self.buffer_bytes {
                return Ok(());
            }
            let writers = self.partitions.iter_mut().filter_map(|p| p.writer.as_mut());
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
        self.partitions.sort_by(|a, b| a.values.cmp(&b.values));
        for mut partition in self.partitions {
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
                    partition_values: partition.values.clone(),
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
