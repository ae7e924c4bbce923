//! Reads a channel of series from a file or a folder: DeepAR JSON Lines, plain or gzip, or
//! Parquet with one series a row.
//!
//! Invariants
//! * Files are taken in the order of their paths, so the same folder gives the same data set.
//! * A channel is either JSON Lines or Parquet. A mixture is more likely a wrong folder than
//!   a wish, so it is refused.
//! * Every error names the file, and the line or row in it.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float32Type, Int64Type, TimeUnit, TimestampSecondType};
use base::{Error, Result};
use flate2::bufread::MultiGzDecoder;
use forecast::{Dataset, DateTime, Frequency, TimeSeries, Values, jsonl};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};

use crate::spool::{self, Spool};

/// Folders deeper than this are taken for a loop.
const DEPTH_MAX: usize = 32;

/// Reads every file of the channel at `path`, a file or a folder with its subfolders. Names
/// that start with `.` and `_SUCCESS` are skipped.
pub fn read(path: &Path, freq: Frequency) -> Result<Dataset> {
    read_into(path, freq, Spool::in_memory())
}

/// As [`read`], but of more than [`ABOVE_BYTES`](crate::ABOVE_BYTES) of values the rest is
/// kept in a file in `folder` (made if it is not there) that goes with the data set. So a channel
/// may be larger than memory; one series, as it is read, may not.
pub fn read_large(path: &Path, freq: Frequency, folder: &Path) -> Result<Dataset> {
    read_into(path, freq, Spool::in_folder(folder, spool::ABOVE_BYTES))
}

pub(crate) fn read_into(path: &Path, freq: Frequency, mut spool: Spool) -> Result<Dataset> {
    let mut files = Vec::new();
    let meta = std::fs::metadata(path).map_err(|cause| Error::io("opening", cause))?;
    match meta.is_dir() {
        true => list(path, 0, &mut files)?,
        false => files.push(path.to_owned()),
    }
    let mut first: Option<(Kind, String)> = None;
    let mut ends = Vec::with_capacity(files.len());
    for file in &files {
        let name = inside(path, file);
        let kind = kind_of(file).map_err(|error| error.context(&name))?;
        let (expected, earlier) = first.get_or_insert_with(|| (kind, name.clone()));
        if kind != *expected {
            return Err(Error::invalid(format!(
                "{name} is {kind:?} but {earlier} is {expected:?}; a channel holds one type of file"
            )));
        }
        let read = match kind {
            Kind::JsonLines => read_json(file, freq, &mut spool),
            Kind::Parquet => read_parquet(file, freq, &mut spool),
        };
        read.map_err(|error| error.context(&name))?;
        ends.push((name, spool.len()));
    }
    if spool.len() == 0 {
        return Err(Error::invalid("no series found"));
    }
    validate(Dataset { freq, series: spool.finish()? }, ends)
}

/// How messages name a file: by its path inside the channel, since they reach clients who
/// know nothing of this machine's folders.
fn inside(channel: &Path, file: &Path) -> String {
    let inner = file.strip_prefix(channel).ok().filter(|inner| !inner.as_os_str().is_empty());
    let inner = inner.or(file.file_name().map(Path::new)).unwrap_or(file);
    inner.display().to_string()
}

/// Checks the whole; an error names the first file whose series break it.
fn validate(mut dataset: Dataset, ends: Vec<(String, usize)>) -> Result<Dataset> {
    let Err(error) = dataset.validate() else { return Ok(dataset) };
    let all = std::mem::take(&mut dataset.series);
    let mut rest = all.into_iter();
    for (name, end) in ends {
        let begin = dataset.series.len();
        dataset.series.extend(rest.by_ref().take(end - begin));
        if let Err(error) = dataset.validate() {
            return Err(error.context(name));
        }
    }
    Err(error)
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    JsonLines,
    Parquet,
}

fn list(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<()> {
    if depth > DEPTH_MAX {
        return Err(Error::invalid(format!("folders nest deeper than {DEPTH_MAX}")));
    }
    let failed = |cause| Error::io("listing the folder", cause);
    let mut entries = std::fs::read_dir(folder)
        .and_then(Iterator::collect::<std::io::Result<Vec<_>>>)
        .map_err(failed)?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        if name.as_encoded_bytes().starts_with(b".") || name == "_SUCCESS" {
            continue;
        }
        let path = entry.path();
        match std::fs::metadata(&path).map_err(failed)?.is_dir() {
            true => list(&path, depth + 1, files)?,
            false => files.push(path),
        }
    }
    Ok(())
}

/// By extension; a file with another name is recognised by how it begins.
fn kind_of(path: &Path) -> Result<Kind> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    if name.ends_with(".parquet") {
        return Ok(Kind::Parquet);
    }
    if [".json", ".jsonl", ".json.gz", ".jsonl.gz"].iter().any(|end| name.ends_with(end)) {
        return Ok(Kind::JsonLines);
    }
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(64).read_to_end(&mut head))
        .map_err(|cause| Error::io("reading", cause))?;
    match head.trim_ascii_start() {
        [b'P', b'A', b'R', b'1', ..] => Ok(Kind::Parquet),
        [0x1f, 0x8b, ..] | [b'{', ..] => Ok(Kind::JsonLines),
        _ => Err(Error::invalid(
            "neither JSON Lines nor Parquet; expected .json, .json.gz or .parquet",
        )),
    }
}

fn read_json(path: &Path, freq: Frequency, spool: &mut Spool) -> Result<()> {
    let file = File::open(path).map_err(|cause| Error::io("opening", cause))?;
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let head = reader.fill_buf().map_err(|cause| Error::io("reading", cause))?;
    // JSON never begins with gzip's magic, so the bytes decide and not the name.
    match head.starts_with(&[0x1f, 0x8b]) {
        true => {
            let reader = BufReader::new(MultiGzDecoder::new(reader));
            jsonl::each(reader, freq, |series| spool.push(series)).map_err(gzip)
        }
        false => jsonl::each(reader, freq, |series| spool.push(series)),
    }
}

/// Gzip data that end early or are bent are the file's fault, not this machine's.
fn gzip(error: Error) -> Error {
    use std::io::ErrorKind as Io;
    let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref());
    let damaged = cause.is_some_and(|cause: &std::io::Error| {
        matches!(cause.kind(), Io::UnexpectedEof | Io::InvalidData | Io::InvalidInput)
    });
    match damaged {
        true => Error::invalid(format!(
            "{error}; the gzip data are cut off or damaged: write or upload the file again"
        )),
        false => error,
    }
}

fn read_parquet(path: &Path, freq: Frequency, spool: &mut Spool) -> Result<()> {
    let damaged = |cause| Error::invalid(format!("not readable as Parquet: {cause}"));
    let file = File::open(path).map_err(|cause| Error::io("opening", cause))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|builder| {
            let rows = rows_at_once(builder.metadata());
            builder.with_batch_size(rows).build()
        })
        .map_err(|cause| damaged(cause.to_string()))?;
    let mut row = 0;
    for batch in reader {
        let batch = batch.map_err(|cause| damaged(cause.to_string()))?;
        append_batch(&batch, row, freq, spool)?;
        row += batch.num_rows();
    }
    Ok(())
}

/// Rows of a batch: a row is a whole series, and a batch of them is in memory several times over,
/// as it was stored and as floats.
fn rows_at_once(metadata: &ParquetMetaData) -> usize {
    const BYTES: i64 = 8 << 20;
    let rows = |group: &RowGroupMetaData| {
        BYTES / (group.total_byte_size() / group.num_rows().max(1)).max(1)
    };
    let fewest = metadata.row_groups().iter().map(rows).min().unwrap_or(1);
    usize::try_from(fewest.clamp(1, 256)).unwrap_or(1)
}

fn append_batch(
    batch: &RecordBatch,
    first_row: usize,
    freq: Frequency,
    spool: &mut Spool,
) -> Result<()> {
    let columns = Columns::of(batch)?;
    for row in 0..batch.num_rows() {
        columns
            .series(row, freq)
            .and_then(|series| spool.push(series))
            .map_err(|error| error.context(format_args!("row {}", first_row + row + 1)))?;
    }
    Ok(())
}

/// The columns of a batch in the types the reader works with.
struct Columns {
    start: Start,
    target: ArrayRef,
    cat: Option<ArrayRef>,
    features: Option<ArrayRef>,
    item_id: Option<ArrayRef>,
}

enum Start {
    Text(ArrayRef),
    Seconds(ArrayRef),
}

impl Columns {
    fn of(batch: &RecordBatch) -> Result<Columns> {
        let find = |names: [&str; 2]| names.iter().find_map(|name| batch.column_by_name(name));
        let need = |name: &str| {
            batch
                .column_by_name(name)
                .ok_or_else(|| Error::invalid(format!("there is no column \"{name}\"")))
        };
        let numbers = list_of(DataType::Float32);
        let start = need("start")?;
        let start = match start.data_type() {
            DataType::Timestamp(_, _) | DataType::Date32 | DataType::Date64 => Start::Seconds(
                as_type("start", start, &DataType::Timestamp(TimeUnit::Second, None))?,
            ),
            _ => Start::Text(as_type("start", start, &DataType::Utf8)?),
        };
        let cat = match find(["cat", "feat_static_cat"]) {
            Some(column) => Some(categories(column)?),
            None => None,
        };
        let features = find(["dynamic_feat", "feat_dynamic_real"])
            .map(|column| as_type("dynamic_feat", column, &list_of(numbers.clone())));
        let item_id = batch.column_by_name("item_id");
        Ok(Columns {
            start,
            target: as_type("target", need("target")?, &numbers)?,
            cat,
            features: features.transpose()?,
            item_id: item_id
                .map(|column| as_type("item_id", column, &DataType::Utf8))
                .transpose()?,
        })
    }

    fn series(&self, row: usize, freq: Frequency) -> Result<TimeSeries> {
        let target = list_at(&self.target, row)
            .ok_or_else(|| Error::invalid("target is null; expected a list of numbers"))?;
        let features = self.features.as_ref().and_then(|column| list_at(column, row));
        let features = features.map_or_else(Vec::new, |lists| {
            let lists = lists.as_list::<i32>();
            (0..lists.len()).map(|k| floats(&lists.value(k))).collect()
        });
        let cats = self.cat.as_ref().and_then(|column| list_at(column, row));
        let ids = self.item_id.as_ref().map(|column| column.as_string::<i32>());
        Ok(TimeSeries {
            item_id: ids.filter(|ids| !ids.is_null(row)).map(|ids| ids.value(row).to_owned()),
            start: freq.align(self.start(row)?),
            target: floats(&target),
            feat_static_cat: cats.map(|cats| indices(&cats)).transpose()?.unwrap_or_default(),
            feat_dynamic_real: features,
        })
    }

    fn start(&self, row: usize) -> Result<DateTime> {
        let missing = || Error::invalid("start is null; expected a date and time");
        match &self.start {
            Start::Text(column) => {
                let column = column.as_string::<i32>();
                let text = (!column.is_null(row)).then(|| column.value(row)).ok_or_else(missing)?;
                text.parse().map_err(|error: Error| error.context("start"))
            }
            Start::Seconds(column) => {
                let column = column.as_primitive::<TimestampSecondType>();
                let value =
                    (!column.is_null(row)).then(|| column.value(row)).ok_or_else(missing)?;
                Ok(DateTime(value.div_euclid(60)))
            }
        }
    }
}

fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, true)))
}

fn as_type(name: &str, column: &ArrayRef, wanted: &DataType) -> Result<ArrayRef> {
    cast(column, wanted).map_err(|cause| {
        let found = column.data_type();
        Error::invalid(format!("column \"{name}\" of type {found} is not usable: {cause}"))
    })
}

/// A list of whole numbers, or the old form of one whole number.
fn categories(column: &ArrayRef) -> Result<ArrayRef> {
    let whole = match column.data_type() {
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            item.data_type().is_integer() || *item.data_type() == DataType::Null
        }
        other => other.is_integer(),
    };
    match whole {
        true => as_type("cat", column, &list_of(DataType::Int64)),
        false => Err(Error::invalid(format!(
            "column \"cat\" has type {}; expected a list of whole numbers",
            column.data_type()
        ))),
    }
}

fn list_at(column: &ArrayRef, row: usize) -> Option<ArrayRef> {
    let lists = column.as_list::<i32>();
    (!lists.is_null(row)).then(|| lists.value(row))
}

fn floats(values: &ArrayRef) -> Values {
    let values = values.as_primitive::<Float32Type>();
    values.iter().map(|value| value.unwrap_or(f32::NAN)).collect()
}

fn indices(values: &ArrayRef) -> Result<Vec<u32>> {
    let index = |value: Option<i64>| {
        value.and_then(|value| u32::try_from(value).ok()).ok_or_else(|| {
            let shown = value.map_or_else(|| "null".to_owned(), |value| value.to_string());
            Error::invalid(format!("cat holds {shown}; expected whole numbers from 0"))
        })
    };
    values.as_primitive::<Int64Type>().iter().map(index).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use arrow::array::{
        Float64Builder, Int32Array, Int64Builder, ListBuilder, StringArray,
        TimestampMicrosecondArray,
    };

    use super::*;

    const TWO: &str = "{\"start\":\"2021-02-05 00:30:00\",\"target\":[1,null,\"NaN\",4],\"cat\":[0]}\n\
                       {\"start\":\"2021-02-05\",\"target\":[5],\"cat\":1,\"item_id\":\"b\"}\n";

    fn put(folder: &Path, name: &str, bytes: &[u8]) {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn gzip(text: &str) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(text.as_bytes()).unwrap();
        out.finish().unwrap()
    }

    fn hourly(path: &Path) -> Result<Dataset> {
        read(path, Frequency::HOURLY)
    }

    #[test]
    fn a_folder_of_plain_and_gzip_lines_is_read_in_order() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "a/one.json", TWO.as_bytes());
        put(folder.path(), "b.json.gz", &gzip(TWO));
        put(folder.path(), "c-without-extension", &gzip(TWO));
        put(folder.path(), "_SUCCESS", b"not series");
        put(folder.path(), ".hidden/x.json", b"not series");
        let data = hourly(folder.path()).unwrap();
        assert_eq!(data.series.len(), 6);
        assert_eq!(data.series[0].start, "2021-02-05 00:00:00".parse().unwrap());
        assert_eq!(data.series[0].observed(), 2);
        assert_eq!(data.series[5].feat_static_cat, [1]);
        assert_eq!(hourly(&folder.path().join("b.json.gz")).unwrap().series.len(), 2);
    }

    #[test]
    fn errors_name_file_and_line() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "x.json", format!("{TWO}{{\"start\":\"2021\"}}\n").as_bytes());
        let error = hourly(folder.path()).unwrap_err().to_string();
        assert!(error.contains("x.json") && error.contains("line 3"), "{error}");
        assert!(!error.contains(folder.path().to_str().unwrap()), "{error}");
        assert!(hourly(&folder.path().join("none")).is_err());
        put(folder.path(), "x.json", b"\n");
        assert!(hourly(folder.path()).unwrap_err().to_string().contains("no series"));
        let packed = gzip(&TWO.repeat(100));
        for cut in [packed.len() - 1, packed.len() - 8, packed.len() / 2, 40] {
            put(folder.path(), "x.json", &packed[..cut]);
            let error = hourly(folder.path()).unwrap_err();
            let text = error.to_string();
            assert_eq!(error.kind(), base::ErrorKind::Invalid, "{text}");
            assert!(text.contains("x.json: reading line") && text.contains("cut off"), "{text}");
        }
        put(folder.path(), "x.json", TWO.as_bytes());
        put(folder.path(), "y.csv", b"a,b\n1,2\n");
        assert!(hourly(folder.path()).unwrap_err().to_string().contains("y.csv"));
    }

    #[test]
    fn series_that_do_not_fit_together_name_their_file() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "a.json", TWO.as_bytes());
        put(folder.path(), "sub/b.json", b"{\"start\":\"2021-02-05\",\"target\":[1]}");
        put(folder.path(), "sub/c.json", TWO.as_bytes());
        let error = hourly(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with("sub/b.json: series 2"), "{error}");
    }

    fn parquet(cat: ArrayRef, start: ArrayRef) -> Vec<u8> {
        let mut target = ListBuilder::new(Float64Builder::new());
        target.append_value([Some(1.0), None, Some(f64::NAN), Some(4.5)]);
        target.append_value([Some(7.0)]);
        let mut features = ListBuilder::new(ListBuilder::new(Float64Builder::new()));
        features.values().append_value([Some(1.0); 4]);
        features.append(true);
        features.values().append_value([Some(2.0)]);
        features.append(true);
        let batch = RecordBatch::try_from_iter([
            ("start", start),
            ("target", Arc::new(target.finish()) as ArrayRef),
            ("cat", cat),
            ("dynamic_feat", Arc::new(features.finish())),
            ("item_id", Arc::new(StringArray::from(vec![Some("a"), None]))),
        ])
        .unwrap();
        let mut out = Vec::new();
        let mut writer =
            parquet::arrow::ArrowWriter::try_new(&mut out, batch.schema(), None).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
        out
    }

    fn texts() -> ArrayRef {
        Arc::new(StringArray::from(vec!["2021-02-05 01:10:00", "2021-02-06"]))
    }

    #[test]
    fn parquet_rows_are_series() {
        let folder = tempfile::tempdir().unwrap();
        let mut lists = ListBuilder::new(Int64Builder::new());
        lists.append_value([Some(3)]);
        lists.append_value([Some(0)]);
        let micros = 1_612_487_400_000_000; // 2021-02-05 01:10
        let stamps = Arc::new(TimestampMicrosecondArray::from(vec![micros, micros]));
        for (cat, start) in [
            (Arc::new(lists.finish()) as ArrayRef, texts()),
            (Arc::new(Int32Array::from(vec![3, 0])), stamps as ArrayRef),
        ] {
            put(folder.path(), "x.parquet", &parquet(cat, start));
            let data = hourly(folder.path()).unwrap();
            assert_eq!(data.series[0].start, "2021-02-05 01:00:00".parse().unwrap());
            assert_eq!(data.series[0].feat_static_cat, [3]);
            assert_eq!(data.series[0].item_id.as_deref(), Some("a"));
            assert_eq!(data.series[0].observed(), 2);
            assert_eq!(data.series[0].feat_dynamic_real, [vec![1.0; 4]]);
            assert_eq!(data.series[1].target, [7.0]);
        }
    }

    #[test]
    fn bad_parquet_is_refused_by_row() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "x.parquet", &parquet(Arc::new(Int32Array::from(vec![1, -1])), texts()));
        let error = hourly(folder.path()).unwrap_err().to_string();
        assert!(error.contains("row 2") && error.contains("-1"), "{error}");
        let wrong = Arc::new(StringArray::from(vec!["x", "y"]));
        put(folder.path(), "x.parquet", &parquet(wrong, texts()));
        assert!(hourly(folder.path()).unwrap_err().to_string().contains("whole numbers"));
        put(folder.path(), "x.parquet", b"PAR1 and nothing more");
        assert!(hourly(folder.path()).unwrap_err().to_string().contains("x.parquet"));
    }

    #[test]
    fn a_mixture_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        put(folder.path(), "a.json", TWO.as_bytes());
        put(folder.path(), "b.parquet", &parquet(Arc::new(Int32Array::from(vec![1, 1])), texts()));
        let error = hourly(folder.path()).unwrap_err().to_string();
        assert!(error.contains("a.json") && error.contains("b.parquet"), "{error}");
    }
}
