//! Rows as lines of text, JSON or delimited: what the scans of this crate read as the same rows.
//!
//! What has no such form is an error and never written otherwise: a nested or binary value in
//! delimited text, a line end in a field, or a delimiter where nothing can be put around it.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base::{Error, Result};

use crate::csv::{Dialect, Header};
use crate::parquet::Written;
use crate::{Compression, Encoder};

/// How a row is a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lines {
    /// An object of JSON; a column that is null is left out.
    Json,
    /// Fields between delimiters.
    Csv(Dialect),
}

impl Lines {
    /// Refuses columns that have no form as such lines, and headers that are not written.
    ///
    /// # Errors
    /// [`base::ErrorKind::Unsupported`] naming the column.
    pub fn check(&self, schema: &Schema) -> Result<()> {
        if let Some(field) = schema.fields().iter().find(|field| holds_decimal(field.data_type())) {
            return Err(Error::unsupported(format!(
                "column {:?} is a decimal, which scans do not read back from text; cast it to double \
                 or varchar, or write Parquet",
                field.name()
            )));
        }
        let Lines::Csv(dialect) = self else {
            return match schema.fields().iter().find(|field| holds_binary(field.data_type())) {
                None => Ok(()),
                Some(field) => Err(Error::unsupported(format!(
                    "column {:?} holds bytes, which have no form in JSON; write them with \
                     to_base64 or to_hex",
                    field.name()
                ))),
            };
        };
        dialect.check()?;
        if let Header::Skip(lines @ 2..) = dialect.header {
            return Err(Error::unsupported(format!(
                "a table whose files begin with {lines} lines that are no records is not written; \
                 with one it is"
            )));
        }
        let odd = |kind: &DataType| kind.is_nested() || holds_binary(kind);
        match schema.fields().iter().find(|field| odd(field.data_type())) {
            None => Ok(()),
            Some(field) => Err(Error::unsupported(format!(
                "column {:?} is {} and has no form in delimited text; cast it to varchar, or write \
                 JSON or Parquet",
                field.name(),
                crate::hive::from_arrow(field.data_type())?
            ))),
        }
    }

    fn ending(&self) -> &'static str {
        match self {
            Lines::Json => "jsonl",
            Lines::Csv(_) => "csv",
        }
    }

    fn header(&self, schema: &Schema) -> Result<Vec<u8>> {
        let Lines::Csv(dialect) = self else { return Ok(Vec::new()) };
        if dialect.header == Header::None {
            return Ok(Vec::new());
        }
        let names: Vec<Option<&str>> = schema.fields().iter().map(|f| Some(&**f.name())).collect();
        let mut line = Vec::new();
        delimited(&mut line, dialect, &names, schema)?;
        Ok(line)
    }

    /// The rows as lines.
    ///
    /// # Errors
    /// [`base::ErrorKind::Invalid`] for a value that cannot be said in such a line, naming its
    /// column.
    pub fn of(&self, rows: &RecordBatch) -> Result<Vec<u8>> {
        match self {
            Lines::Json => {
                let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
                writer
                    .write(rows)
                    .and_then(|()| writer.finish())
                    .map_err(|cause| Error::internal(format!("rows have no JSON: {cause}")))?;
                Ok(writer.into_inner())
            }
            Lines::Csv(dialect) => as_delimited(rows, dialect),
        }
    }
}

fn holds_binary(kind: &DataType) -> bool {
    holds(kind, |kind| {
        matches!(
            kind,
            DataType::Binary
                | DataType::LargeBinary
                | DataType::BinaryView
                | DataType::FixedSizeBinary(_)
        )
    })
}

fn holds_decimal(kind: &DataType) -> bool {
    holds(kind, DataType::is_decimal)
}

/// Whether a type or one within it is such.
fn holds(kind: &DataType, such: fn(&DataType) -> bool) -> bool {
    let within = |kind: &DataType| holds(kind, such);
    such(kind)
        || match kind {
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
                within(item.data_type())
            }
            DataType::Map(entries, _) => within(entries.data_type()),
            DataType::Struct(fields) => fields.iter().any(|field| within(field.data_type())),
            _ => false,
        }
}

fn as_delimited(rows: &RecordBatch, dialect: &Dialect) -> Result<Vec<u8>> {
    let bug = |cause| Error::internal(format!("a column has no text: {cause}"));
    let options = FormatOptions::default();
    let columns = rows
        .columns()
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).map_err(bug))
        .collect::<Result<Vec<_>>>()?;
    let schema = rows.schema_ref();
    let mut text = Vec::new();
    for row in 0..rows.num_rows() {
        let fields: Vec<Option<String>> = columns
            .iter()
            .zip(rows.columns())
            .map(|(column, values)| values.is_valid(row).then(|| column.value(row).to_string()))
            .collect();
        let fields: Vec<Option<&str>> = fields.iter().map(Option::as_deref).collect();
        delimited(&mut text, dialect, &fields, schema)?;
    }
    Ok(text)
}

/// Adds a line.
fn delimited(
    text: &mut Vec<u8>,
    dialect: &Dialect,
    fields: &[Option<&str>],
    schema: &Schema,
) -> Result<()> {
    let start = text.len();
    for (at, field) in fields.iter().enumerate() {
        if at > 0 {
            text.push(dialect.delimiter);
        }
        let of_column = |why: &str| {
            let name = schema.fields().get(at).map_or("", |field| field.name());
            Error::invalid(format!("column {name:?}: a value {why}"))
        };
        match field {
            None => text.extend(dialect.null.iter().flat_map(|null| null.as_bytes())),
            Some(field) => put(text, dialect, field).map_err(of_column)?,
        }
    }
    // What is nothing but white space is no record for those who read it.
    let is_blank = |line: &[u8]| line.iter().all(u8::is_ascii_whitespace) && !line.contains(&b'\t');
    if is_blank(&text[start..]) {
        let Some(quote) = dialect.quote else {
            return Err(Error::invalid(
                "a row of nothing but white space is no line of text without quotes; write JSON or \
                 Parquet",
            ));
        };
        text.splice(start..start, [quote, quote]);
    }
    text.push(b'\n');
    Ok(())
}

/// Adds a field that is not null.
fn put(
    text: &mut Vec<u8>,
    dialect: &Dialect,
    field: &str,
) -> std::result::Result<(), &'static str> {
    let bytes = field.as_bytes();
    if bytes.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return Err("has a line end, and a record of delimited text is one line; replace it, or \
                    write JSON or Parquet");
    }
    let is_null = dialect.null.as_deref() == Some(field);
    match (dialect.quote, dialect.escape) {
        (Some(quote), escape) => {
            let special =
                |byte: &u8| [Some(dialect.delimiter), Some(quote), escape].contains(&Some(*byte));
            let padded = field.trim_ascii().len() != field.len();
            if !is_null && !padded && !bytes.iter().any(special) {
                text.extend_from_slice(bytes);
                return Ok(());
            }
            text.push(quote);
            for byte in bytes {
                if *byte == quote {
                    text.push(quote);
                } else if Some(*byte) == escape {
                    text.push(*byte);
                }
                text.push(*byte);
            }
            text.push(quote);
        }
        _ if is_null => {
            return Err("is the text that stands for null there; write JSON or Parquet");
        }
        (None, Some(escape)) => {
            for byte in bytes {
                if *byte == dialect.delimiter || *byte == escape {
                    text.push(escape);
                }
                text.push(*byte);
            }
        }
        (None, None) if bytes.contains(&dialect.delimiter) => {
            return Err(
                "has the delimiter, which cannot be said without quotes or an escape; use \
                        another delimiter, or write JSON or Parquet",
            );
        }
        (None, None) => text.extend_from_slice(bytes),
    }
    Ok(())
}

/// Writes rows to one file after another, each of about so many bytes before it is packed.
pub struct Rolling {
    dir: PathBuf,
    stem: String,
    lines: Lines,
    packing: Compression,
    file_bytes: u64,
    open: Option<Open>,
    written: Vec<Written>,
}

struct Open {
    path: PathBuf,
    file: Encoder<BufWriter<File>>,
    rows: u64,
    bytes: u64,
}

impl std::fmt::Debug for Rolling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rolling").field("stem", &self.stem).finish_non_exhaustive()
    }
}

impl Rolling {
    /// Files `<stem>-00000.jsonl.gz`, or as lines and packing have it, in `dir`.
    pub fn new(
        dir: &Path,
        stem: impl Into<String>,
        lines: Lines,
        packing: Compression,
        file_bytes: u64,
    ) -> Self {
        let (dir, stem) = (dir.to_owned(), stem.into());
        Rolling { dir, stem, lines, packing, file_bytes, open: None, written: Vec::new() }
    }

    /// Adds rows in their order.
    ///
    /// # Errors
    /// As [`Lines::of`], and I/O errors.
    pub fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.begin(rows.schema_ref())?,
        };
        open.write(&self.lines.of(rows)?)?;
        open.rows += rows.num_rows() as u64;
        if open.bytes >= self.file_bytes.max(1) {
            self.written.push(open.close()?);
        } else {
            self.open = Some(open);
        }
        Ok(())
    }

    fn begin(&self, schema: &Schema) -> Result<Open> {
        let packed = match self.packing {
            Compression::Gzip => ".gz",
            Compression::Zstd => ".zst",
            _ => "",
        };
        let (stem, at, ending) = (&self.stem, self.written.len(), self.lines.ending());
        let path = self.dir.join(format!("{stem}-{at:05}.{ending}{packed}"));
        let file = File::create_new(&path)
            .map_err(|cause| Error::io(format!("creating {}", path.display()), cause))?;
        let file = Encoder::new(BufWriter::new(file), self.packing)?;
        let mut open = Open { path, file, rows: 0, bytes: 0 };
        open.write(&self.lines.header(schema)?)?;
        Ok(open)
    }

    /// Closes the last file and lists all of them; none if there were no rows.
    ///
    /// # Errors
    /// I/O errors; the files are then not to be used.
    pub fn close(mut self) -> Result<Vec<Written>> {
        if let Some(open) = self.open.take() {
            self.written.push(open.close()?);
        }
        Ok(self.written)
    }
}

impl Open {
    fn write(&mut self, text: &[u8]) -> Result<()> {
        self.bytes += text.len() as u64;
        let failed = |cause| Error::io(format!("writing {}", self.path.display()), cause);
        self.file.write_all(text).map_err(failed)
    }

    fn close(self) -> Result<Written> {
        let Open { path, file, rows, .. } = self;
        let failed = |cause| Error::io(format!("writing {}", path.display()), cause);
        let file = file.finish().map_err(failed)?;
        let file = file.into_inner().map_err(|cause| failed(cause.into_error()))?;
        let meta = file.sync_all().and_then(|()| file.metadata()).map_err(failed)?;
        Ok(Written { path, rows, bytes: meta.len() })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array,
        Int64Array, StringArray, TimestampMicrosecondArray,
    };
    use arrow::util::pretty::pretty_format_batches;

    use super::*;
    use crate::csv;
    use crate::json::{self, ScanOptions};

    fn rows(texts: Vec<Option<&str>>) -> RecordBatch {
        let count = texts.len() as i64;
        let columns: [(&str, ArrayRef); 6] = [
            ("n", Arc::new((0..count).map(|n| (n != 1).then_some(n - 1)).collect::<Int64Array>())),
            ("s", Arc::new(StringArray::from(texts))),
            (
                "x",
                Arc::new((0..count).map(|n| Some(n as f64 * 1e17 + 0.1)).collect::<Float64Array>()),
            ),
            (
                "ok",
                Arc::new((0..count).map(|n| (n != 3).then_some(n > 1)).collect::<BooleanArray>()),
            ),
            (
                "at",
                Arc::new(
                    (0..count)
                        .map(|n| (n != 0).then_some(n * 1_500_001))
                        .collect::<TimestampMicrosecondArray>(),
                ),
            ),
            ("day", Arc::new((0..count).map(|n| Some(n as i32 * 9000)).collect::<Date32Array>())),
        ];
        RecordBatch::try_from_iter_with_nullable(columns.map(|(n, c)| (n, c, true))).unwrap()
    }

    fn read(lines: &Lines, schema: &Schema, text: &[u8]) -> String {
        let mut bad = Vec::new();
        let mut sink = |record: json::BadRecord| bad.push(record);
        let mut batches = Vec::new();
        let options = ScanOptions::default();
        match lines {
            Lines::Json => {
                let mut scan = json::Scan::new(schema, None, text, options).unwrap();
                while let Some(batch) = scan.next_batch(&mut sink).unwrap() {
                    batches.push(batch);
                }
            }
            Lines::Csv(dialect) => {
                let mut scan = csv::Scan::new(schema, None, text, dialect, options).unwrap();
                while let Some(batch) = scan.next_batch(&mut sink).unwrap() {
                    batches.push(batch);
                }
            }
        }
        assert!(bad.is_empty(), "{bad:?} of {}", String::from_utf8_lossy(text));
        pretty_format_batches(&batches).unwrap().to_string()
    }

    #[test]
    fn what_is_written_is_read_as_the_same_rows() {
        let nasty = vec![
            Some("a,b"),
            Some("say \"so\""),
            Some("back\\slash"),
            Some(" padded "),
            Some("é\u{1}\t|"),
            Some("N"),
            Some("\\N x"),
        ];
        let quoted = Dialect::new(b',');
        let escaped = Dialect { escape: Some(b'\\'), ..Dialect::new(b',') };
        let lazy = Dialect {
            quote: None,
            escape: Some(b'\\'),
            null: Some("\\N".into()),
            ..Dialect::new(b'\t')
        };
        for dialect in [quoted, escaped, lazy] {
            for header in [Header::None, Header::Names, Header::Skip(1)] {
                let lines = Lines::Csv(Dialect { header, ..dialect.clone() });
                let rows = rows(nasty.clone());
                lines.check(rows.schema_ref()).unwrap();
                let mut text = lines.header(rows.schema_ref()).unwrap();
                text.extend(lines.of(&rows).unwrap());
                let back = read(&lines, rows.schema_ref(), &text);
                assert_eq!(back, pretty_format_batches(&[rows]).unwrap().to_string(), "{lines:?}");
            }
        }
        let rows = rows(vec![Some("line\nend \"é\""), None, Some(""), Some("\u{0}")]);
        let text = Lines::Json.of(&rows).unwrap();
        let back = read(&Lines::Json, rows.schema_ref(), &text);
        assert_eq!(back, pretty_format_batches(&[rows]).unwrap().to_string());
    }

    #[test]
    fn what_has_no_form_is_refused_and_never_written_otherwise() {
        let hive = Dialect { quote: None, null: Some("\\N".into()), ..Dialect::new(b',') };
        let lines = Lines::Csv(hive);
        for (value, part) in
            [("a,b", "has the delimiter"), ("a\nb", "has a line end"), ("\\N", "stands for null")]
        {
            let why = lines.of(&rows(vec![Some(value)])).unwrap_err().to_string();
            assert!(why.contains(part) && why.contains("\"s\""), "{why}");
        }
        let one = |text: Option<&str>| {
            let column: ArrayRef = Arc::new(StringArray::from(vec![text]));
            RecordBatch::try_from_iter_with_nullable([("s", column, true)]).unwrap()
        };
        assert!(lines.of(&one(Some(" "))).unwrap_err().to_string().contains("white space"));
        assert_eq!(lines.of(&one(None)).unwrap(), b"\\N\n");
        assert_eq!(Lines::Csv(Dialect::new(b',')).of(&one(None)).unwrap(), b"\"\"\n");
        let money = Decimal128Array::from_iter([Some(105)]).with_precision_and_scale(9, 2).unwrap();
        let money = RecordBatch::try_from_iter([("money", Arc::new(money) as ArrayRef)]).unwrap();
        let bytes: ArrayRef = Arc::new(BinaryArray::from_vec(vec![b"x"]));
        let bytes = RecordBatch::try_from_iter([("raw", bytes)]).unwrap();
        for lines in [Lines::Json, lines] {
            assert!(lines.check(money.schema_ref()).unwrap_err().to_string().contains("money"));
            assert!(lines.check(bytes.schema_ref()).unwrap_err().to_string().contains("raw"));
        }
        let skipping = Dialect { header: Header::Skip(2), ..Dialect::new(b',') };
        assert!(Lines::Csv(skipping).check(&Schema::empty()).is_err());
    }
}
