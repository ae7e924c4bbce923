//! Parquet files, written whole and read warily.
//!
//! Invariants
//! * A writer's memory is bounded by its row group, which is flushed at a stated size.
//! * A file that `close` answered for is on stable storage; its name is the publisher's care.
//! * A reader answers corrupt bytes with an error: the decoder's panics are caught.

use std::fs::File;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ::parquet::arrow::ArrowWriter;
use ::parquet::arrow::ProjectionMask;
use ::parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use ::parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use ::parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use ::parquet::basic::{Compression, GzipLevel, ZstdLevel};
use ::parquet::errors::ParquetError;
use ::parquet::file::metadata::{KeyValue, ParquetMetaData, RowGroupMetaData};
use ::parquet::file::properties::{EnabledStatistics, WriterProperties};
use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::{SortOptions, sort_to_indices};
use arrow::datatypes::SchemaRef;
use arrow::util::display::array_value_to_string;
use base::{Error, ErrorKind, Result};

/// How pages are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// Zstandard at level 3: a third smaller than snappy on readings, for about as much time.
    #[default]
    Zstd,
    /// Snappy, what Glue writes.
    Snappy,
    /// RFC 1952, what Athena writes where it is told nothing.
    Gzip,
    /// Plain pages.
    None,
}

/// How a file is written.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// How pages are packed.
    pub codec: Codec,
    /// Encoded bytes held in memory before a row group is flushed.
    pub row_group_bytes: usize,
    /// Rows of a row group at most.
    pub row_group_rows: usize,
    /// Notes kept in the footer.
    pub metadata: Vec<(String, String)>,
}

impl Default for WriterOptions {
    fn default() -> Self {
        WriterOptions {
            codec: Codec::Zstd,
            row_group_bytes: 32 * 1024 * 1024,
            row_group_rows: 1024 * 1024,
            metadata: Vec::new(),
        }
    }
}

impl WriterOptions {
    fn properties(&self) -> Result<WriterProperties> {
        let compression = match self.codec {
            Codec::Zstd => Compression::ZSTD(
                ZstdLevel::try_new(3)
                    .map_err(|cause| Error::internal(format!("zstd has no level 3: {cause}")))?,
            ),
            Codec::Snappy => Compression::SNAPPY,
            Codec::Gzip => Compression::GZIP(GzipLevel::default()),
            Codec::None => Compression::UNCOMPRESSED,
        };
        let note = |(key, value): &(String, String)| KeyValue::new(key.clone(), value.clone());
        let notes: Vec<KeyValue> = self.metadata.iter().map(note).collect();
        Ok(WriterProperties::builder()
            .set_compression(compression)
            .set_created_by(format!("forebay version {}", env!("CARGO_PKG_VERSION")))
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_max_row_group_row_count(Some(self.row_group_rows.max(1)))
            .set_key_value_metadata((!notes.is_empty()).then_some(notes))
            .build())
    }
}

/// What a writer left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// Rows in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
}

/// Writes one file, or one object in memory.
#[derive(Debug)]
pub struct Writer<W: Write + Send = File> {
    path: PathBuf,
    inner: ArrowWriter<W>,
    row_group_bytes: usize,
    rows: u64,
}

impl Writer<Vec<u8>> {
    /// Writes into memory.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for types that Parquet cannot hold.
    pub fn in_memory(schema: SchemaRef, options: &WriterOptions) -> Result<Self> {
        Writer::start(Path::new("an object in memory"), Vec::new(), schema, options)
    }

    /// Writes the footer and gives the object.
    ///
    /// # Errors
    /// What kept the last row group from being encoded.
    pub fn into_bytes(self) -> Result<Vec<u8>> {
        self.inner.into_inner().map_err(|cause| failed(&self.path, "closing", cause))
    }
}

impl Writer {
    /// Creates the file at `path`, which must not exist yet.
    ///
    /// # Errors
    /// I/O errors, and [`ErrorKind::Unsupported`] for types that Parquet cannot hold.
    pub fn create(path: &Path, schema: SchemaRef, options: &WriterOptions) -> Result<Self> {
        let file = File::create_new(path)
            .map_err(|cause| Error::io(format!("creating {}", path.display()), cause))?;
        Writer::start(path, file, schema, options)
    }

    /// Writes the footer and waits until the file is on stable storage.
    ///
    /// # Errors
    /// I/O errors; the file is then not to be used.
    pub fn close(self) -> Result<Written> {
        let Writer { path, inner, rows, .. } = self;
        let file = inner.into_inner().map_err(|cause| failed(&path, "closing", cause))?;
        let synced = file.sync_all().and_then(|()| file.metadata());
        let meta =
            synced.map_err(|cause| Error::io(format!("syncing {}", path.display()), cause))?;
        Ok(Written { path, rows, bytes: meta.len() })
    }
}

impl<W: Write + Send> Writer<W> {
    fn start(path: &Path, to: W, schema: SchemaRef, options: &WriterOptions) -> Result<Self> {
        let inner = ArrowWriter::try_new(to, schema, Some(options.properties()?))
            .map_err(|cause| failed(path, "starting", cause))?;
        let row_group_bytes = options.row_group_bytes.max(1);
        Ok(Writer { path: path.to_owned(), inner, row_group_bytes, rows: 0 })
    }

    /// Adds rows in their order.
    ///
    /// # Errors
    /// I/O errors; a batch of another schema is [`ErrorKind::Internal`].
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.inner.write(batch).map_err(|cause| failed(&self.path, "writing", cause))?;
        self.rows += batch.num_rows() as u64;
        if self.memory() >= self.row_group_bytes {
            self.inner.flush().map_err(|cause| failed(&self.path, "flushing", cause))?;
        }
        Ok(())
    }

    /// Rows written so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes of memory held for the row group that is being built.
    pub fn memory(&self) -> usize {
        self.inner.memory_size()
    }

    /// Size of the file if it were closed now, about.
    pub fn bytes(&self) -> u64 {
        (self.inner.bytes_written() + self.inner.in_progress_size()) as u64
    }

    /// Ends the row group, to give its memory back.
    ///
    /// # Errors
    /// I/O errors.
    pub fn flush(&mut self) -> Result<()> {
        self.inner.flush().map_err(|cause| failed(&self.path, "flushing", cause))
    }
}

/// Writes rows to one file after another, each about as large as asked.
#[derive(Debug)]
pub struct Rolling {
    dir: PathBuf,
    stem: String,
    schema: SchemaRef,
    options: WriterOptions,
    file_bytes: u64,
    open: Option<Writer>,
    written: Vec<Written>,
}

impl Rolling {
    /// Files `<stem>-00000.parquet` and on in `dir`, a new one once one has `file_bytes`.
    pub fn new(
        dir: &Path,
        stem: impl Into<String>,
        schema: SchemaRef,
        options: WriterOptions,
        file_bytes: u64,
    ) -> Self {
        Rolling {
            dir: dir.to_owned(),
            stem: stem.into(),
            schema,
            options,
            file_bytes: file_bytes.max(1),
            open: None,
            written: Vec::new(),
        }
    }

    /// Adds rows in their order.
    ///
    /// # Errors
    /// As [`Writer::write`].
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let mut writer = match self.open.take() {
            Some(writer) => writer,
            None => {
                let name = format!("{}-{:05}.parquet", self.stem, self.written.len());
                Writer::create(&self.dir.join(name), self.schema.clone(), &self.options)?
            }
        };
        writer.write(batch)?;
        if writer.bytes() >= self.file_bytes {
            self.written.push(writer.close()?);
        } else {
            self.open = Some(writer);
        }
        Ok(())
    }

    /// Bytes of memory held.
    pub fn memory(&self) -> usize {
        self.open.as_ref().map_or(0, Writer::memory)
    }

    /// Ends the row group, to give its memory back.
    ///
    /// # Errors
    /// I/O errors.
    pub fn flush(&mut self) -> Result<()> {
        self.open.as_mut().map_or(Ok(()), Writer::flush)
    }

    /// Closes the last file and lists all of them; none if there were no rows.
    ///
    /// # Errors
    /// As [`Writer::close`].
    pub fn close(mut self) -> Result<Vec<Written>> {
        if let Some(writer) = self.open.take() {
            self.written.push(writer.close()?);
        }
        Ok(self.written)
    }
}

fn failed(path: &Path, doing: &str, cause: ParquetError) -> Error {
    let doing = format!("{doing} {}", path.display());
    match cause {
        ParquetError::External(cause) => match cause.downcast::<std::io::Error>() {
            Ok(cause) => Error::io(doing, *cause),
            Err(cause) => Error::internal(format!("{doing}: {cause}")).with_source(cause),
        },
        ParquetError::NYI(what) => Error::unsupported(format!("{doing}: {what}")),
        cause => Error::internal(format!("{doing}: {cause}")).with_source(cause),
    }
}

/// What a file's footer says about one column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnStatistics {
    /// The column.
    pub name: String,
    /// Nulls, if every row group counted them.
    pub nulls: Option<u64>,
    /// A lower bound as text, if every row group that has values names one.
    pub min: Option<String>,
    /// An upper bound as text, likewise.
    pub max: Option<String>,
}

/// Reads one file.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: File,
    metadata: ArrowReaderMetadata,
}

impl Reader {
    /// Opens the file and reads its footer.
    ///
    /// # Errors
    /// I/O errors, [`ErrorKind::Corrupt`] if this is no whole Parquet file,
    /// [`ErrorKind::Unsupported`] if its pages are packed as none are here: said now, and not
    /// where its rows would be missing.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path)
            .map_err(|cause| Error::io(format!("opening {}", path.display()), cause))?;
        let metadata = guarded(path, || {
            ArrowReaderMetadata::load(&file, ArrowReaderOptions::new())
                .map_err(|cause| corrupt(path, cause))
        })?;
        check_codecs(path, metadata.metadata())?;
        Ok(Reader { path: path.to_owned(), file, metadata })
    }

    /// The columns.
    pub fn schema(&self) -> SchemaRef {
        self.metadata.schema().clone()
    }

    /// Rows, as the footer counts them.
    pub fn rows(&self) -> u64 {
        u64::try_from(self.metadata.metadata().file_metadata().num_rows()).unwrap_or(0)
    }

    /// How its pages are packed, if all alike and as a writer here can.
    pub fn codec(&self) -> Option<Codec> {
        let groups = self.metadata.metadata().row_groups().iter();
        let mut codecs =
            groups.flat_map(|group| group.columns()).map(|column| match column.compression() {
                Compression::ZSTD(_) => Some(Codec::Zstd),
                Compression::SNAPPY => Some(Codec::Snappy),
                Compression::GZIP(_) => Some(Codec::Gzip),
                Compression::UNCOMPRESSED => Some(Codec::None),
                _ => None,
            });
        // A file without rows is packed in every way.
        let first = codecs.next().unwrap_or(Some(Codec::Zstd));
        codecs.all(|codec| codec == first).then_some(first).flatten()
    }

    /// Who wrote the file.
    pub fn created_by(&self) -> Option<&str> {
        self.metadata.metadata().file_metadata().created_by()
    }

    /// The rows in batches of at most `batch_rows`, of all columns or of those picked by
    /// `projection` in the order of the file.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a column beyond the schema, [`ErrorKind::Corrupt`].
    pub fn batches(&self, projection: Option<&[usize]>, batch_rows: usize) -> Result<Batches> {
        let file = self
            .file
            .try_clone()
            .map_err(|cause| Error::io(format!("opening {} again", self.path.display()), cause))?;
        if let Some(beyond) = projection
            .and_then(|picked| picked.iter().find(|&&at| at >= self.schema().fields().len()))
        {
            return Err(Error::invalid(format!("there is no column {beyond}")));
        }
        let inner = guarded(&self.path, || {
            let builder =
                ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone());
            let mask = match projection {
                Some(picked) => {
                    ProjectionMask::roots(builder.parquet_schema(), picked.iter().copied())
                }
                None => ProjectionMask::all(),
            };
            builder
                .with_projection(mask)
                .with_batch_size(batch_rows.max(1))
                .build()
                .map_err(|cause| corrupt(&self.path, cause))
        })?;
        Ok(Batches { path: self.path.clone(), inner: Some(inner) })
    }

    /// What the footer says about each column of a plain type.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`].
    pub fn statistics(&self) -> Result<Vec<ColumnStatistics>> {
        guarded(&self.path, || {
            let schema = self.schema();
            let plain = schema.fields().iter().filter(|field| !field.data_type().is_nested());
            plain
                .map(|field| {
                    self.column_statistics(field.name()).map_err(|cause| corrupt(&self.path, cause))
                })
                .collect()
        })
    }

    fn column_statistics(&self, name: &str) -> Result<ColumnStatistics, ParquetError> {
        let groups = self.metadata.metadata().row_groups();
        let converter = StatisticsConverter::try_new(
            name,
            self.metadata.schema(),
            self.metadata.parquet_schema(),
        )?;
        let counts = converter.row_group_null_counts(groups)?;
        let nulls = (counts.null_count() == 0).then(|| counts.values().iter().sum());
        // A row group of only nulls has no bounds and needs none.
        let valued: Vec<_> = groups
            .iter()
            .zip(counts.iter())
            .filter(|(group, nulls)| *nulls != u64::try_from(group.num_rows()).ok())
            .map(|(group, _)| group)
            .collect();
        let least = extreme(&converter.row_group_mins(valued.iter().copied())?, false)?;
        let most = extreme(&converter.row_group_maxes(valued.iter().copied())?, true)?;
        Ok(ColumnStatistics { name: name.to_owned(), nulls, min: least, max: most })
    }
}

fn extreme(bounds: &ArrayRef, descending: bool) -> Result<Option<String>, ParquetError> {
    if bounds.is_empty() || bounds.null_count() > 0 {
        return Ok(None);
    }
    let order = SortOptions { descending, nulls_first: false };
    let first = sort_to_indices(bounds, Some(order), Some(1))?;
    Ok(Some(array_value_to_string(bounds, first.value(0) as usize)?))
}

/// The rows of a file. After an error there are no more.
#[derive(Debug)]
pub struct Batches {
    path: PathBuf,
    inner: Option<ParquetRecordBatchReader>,
}

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut inner = self.inner.take()?;
        let next = guarded(&self.path, || {
            inner.next().transpose().map_err(|cause| corrupt(&self.path, cause))
        });
        match next {
            Ok(Some(batch)) => {
                self.inner = Some(inner);
                Some(Ok(batch))
            }
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

/// Refuses pages that nothing here unpacks.
fn check_codecs(path: &Path, metadata: &ParquetMetaData) -> Result<()> {
    let mut columns = metadata.row_groups().iter().flat_map(RowGroupMetaData::columns);
    match columns.any(|column| column.compression() == Compression::LZO) {
        false => Ok(()),
        true => Err(Error::unsupported(format!(
            "{} holds pages packed with LZO; write it with zstd, snappy or gzip",
            path.display()
        ))),
    }
}

fn corrupt(path: &Path, cause: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::new(ErrorKind::Corrupt, format!("{} is not read: {cause}", path.display()))
        .with_source(cause)
}

/// Runs a decoder on bytes it may panic on. What it was working on is dropped afterwards, so
/// nothing half-changed is seen again.
fn guarded<T>(path: &Path, decode: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|panic| {
        let said = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no reason given");
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("{} is not read: the decoder gave up: {said}", path.display()),
        ))
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int32Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn batch(from: i32, rows: i32) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("seq", DataType::Int32, true),
            Field::new("device", DataType::Utf8, true),
            Field::new("ozone", DataType::Float64, true),
        ]);
        let seq: Int32Array = (from..from + rows).collect();
        let device: StringArray =
            (from..from + rows).map(|row| Some(format!("device-{}", row % 7))).collect();
        let ozone: Float64Array =
            (from..from + rows).map(|row| (row % 3 > 0).then(|| f64::from(row) / 4.0)).collect();
        let columns: Vec<ArrayRef> = vec![Arc::new(seq), Arc::new(device), Arc::new(ozone)];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    fn rows_of(path: &Path) -> Result<Vec<RecordBatch>> {
        Reader::open(path)?.batches(None, 1000)?.collect()
    }

    #[test]
    fn rows_come_back_in_order_with_statistics() {
        let dir = tempfile::tempdir().unwrap();
        for codec in [Codec::Zstd, Codec::Snappy, Codec::None] {
            let path = dir.path().join(format!("{codec:?}.parquet"));
            let options = WriterOptions { codec, row_group_rows: 1500, ..Default::default() };
            let mut writer = Writer::create(&path, batch(0, 1).schema(), &options).unwrap();
            writer.write(&batch(0, 2000)).unwrap();
            writer.write(&batch(2000, 1000)).unwrap();
            let written = writer.close().unwrap();
            assert_eq!(written.rows, 3000);
            assert_eq!(written.bytes, std::fs::metadata(&path).unwrap().len());

            let reader = Reader::open(&path).unwrap();
            assert_eq!(reader.rows(), 3000);
            assert!(reader.created_by().unwrap().starts_with("forebay version"));
            let all: Vec<RecordBatch> =
                reader.batches(None, 1024).unwrap().collect::<Result<_>>().unwrap();
            let all = arrow::compute::concat_batches(&all[0].schema(), &all).unwrap();
            assert_eq!(all, batch(0, 3000));
            let statistics = reader.statistics().unwrap();
            assert_eq!(statistics[0].min.as_deref(), Some("0"));
            assert_eq!(statistics[0].max.as_deref(), Some("2999"));
            assert_eq!(statistics[1].max.as_deref(), Some("device-6"));
            assert_eq!(statistics[2].nulls, Some(1000));
            let one: Vec<RecordBatch> =
                reader.batches(Some(&[1]), 5000).unwrap().collect::<Result<_>>().unwrap();
            assert_eq!(one.iter().map(RecordBatch::num_columns).max(), Some(1));
        }
        assert!(
            Writer::create(
                &dir.path().join("Zstd.parquet"),
                batch(0, 1).schema(),
                &WriterOptions::default()
            )
            .is_err()
        );
    }

    #[test]
    fn a_rolling_writer_starts_new_files_and_loses_no_row() {
        let dir = tempfile::tempdir().unwrap();
        let options = WriterOptions::default();
        let mut rolling = Rolling::new(dir.path(), "part", batch(0, 1).schema(), options, 20_000);
        for from in 0..20 {
            rolling.write(&batch(from * 1000, 1000)).unwrap();
        }
        let written = rolling.close().unwrap();
        assert!(written.len() > 2, "{written:?}");
        let mut all = Vec::new();
        for file in &written {
            all.extend(rows_of(&file.path).unwrap());
        }
        let all = arrow::compute::concat_batches(&all[0].schema(), &all).unwrap();
        assert_eq!(all, batch(0, 20_000));
        let none = Rolling::new(dir.path(), "none", all.schema(), WriterOptions::default(), 1);
        assert!(none.close().unwrap().is_empty());
    }

    #[test]
    fn damaged_files_are_errors_and_never_panics() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("good.parquet");
        let mut writer =
            Writer::create(&path, batch(0, 1).schema(), &WriterOptions::default()).unwrap();
        writer.write(&batch(0, 500)).unwrap();
        writer.close().unwrap();
        let good = std::fs::read(&path).unwrap();
        let bad = dir.path().join("bad.parquet");
        let mut refused = 0;
        // Every byte of the footer and each fifth of the rest, all bits turned.
        for at in (0..good.len()).filter(|at| *at > good.len() - 1200 || at % 5 == 0) {
            let mut bytes = good.clone();
            bytes[at] ^= 0xff;
            std::fs::write(&bad, &bytes).unwrap();
            refused += usize::from(rows_of(&bad).is_err());
        }
        assert!(refused > 100, "{refused}");
        for length in [0, 3, 8, 100, good.len() / 2, good.len() - 1] {
            std::fs::write(&bad, &good[..length]).unwrap();
            assert_eq!(rows_of(&bad).unwrap_err().kind(), ErrorKind::Corrupt, "{length}");
        }
    }
}
