//! Delimited text, one record a line, as typed columns.
//!
//! # What fits where
//! * An empty field is null, but in a `string` column, where it is the empty string. The text
//!   that the [`Dialect`] names as null is null everywhere.
//! * A column of whole numbers takes digits in range; `float` and `double` take every finite
//!   number; `boolean` takes `true` and `false` in any case; `timestamp` and `date` take ISO
//!   8601. White space around such values is passed over, and belongs to a `string`.
//! * A column that a file does not have is null.
//!
//! # What is set aside
//! A line whose number of fields is not that of its file, in which a quote is not closed, that
//! holds invalid UTF-8, that is longer than the bound, or with a value that does not fit its
//! column. A record never spans lines, as in Athena: what is wrong with a line stays with it.

mod infer;
mod lines;

use std::io::Read;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatchOptions;
use base::{Error, ErrorKind, Result};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::json::BadRecord;
use crate::json::columns::Column;
use lines::{Fields, Line, Lines};

pub use crate::json::ScanOptions;
pub use infer::{InferOptions, Inferred, infer};

/// How the fields of a line are told apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Dialect {
    /// The byte between fields.
    pub delimiter: u8,
    /// The byte around fields that may hold the delimiter; doubled, it is itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quote: Option<u8>,
    /// The byte that takes the meaning of the next: within quotes if there are quotes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escape: Option<u8>,
    /// What the first lines are.
    #[serde(default)]
    pub header: Header,
    /// The text that stands for null.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null: Option<String>,
}

/// What the first lines of a file are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Header {
    /// Records.
    #[default]
    None,
    /// The names of the file's columns, by which they are found.
    Names,
    /// So many lines that say nothing: columns are found by their place.
    Skip(u64),
}

impl Dialect {
    /// Fields between `delimiter`s, in double quotes or not, without a header.
    pub fn new(delimiter: u8) -> Self {
        Dialect { delimiter, quote: Some(b'"'), escape: None, header: Header::None, null: None }
    }

    /// Refuses bytes that would mean two things.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] naming the byte.
    pub fn check(&self) -> Result<()> {
        let bytes = [Some(self.delimiter), self.quote, self.escape];
        let given = || bytes.iter().flatten();
        if let Some(end) = given().find(|byte| matches!(byte, b'\n' | b'\r' | 0x80..)) {
            let shown = char::from(*end);
            return Err(Error::invalid(format!(
                "{shown:?} cannot be a delimiter, quote or escape; use one ASCII character that \
                 is no line end"
            )));
        }
        let same = self.quote == Some(self.delimiter) || self.escape == Some(self.delimiter);
        if same {
            let shown = char::from(self.delimiter);
            return Err(Error::invalid(format!("{shown:?} is the delimiter and more than that")));
        }
        Ok(())
    }
}

/// What the start of a file says of all of its lines.
#[derive(Clone, Debug, Default)]
pub struct FileStart {
    /// For each field of a line the column it is.
    places: Vec<Option<usize>>,
    /// Columns that the file does not have.
    absent: Vec<usize>,
    /// Where the lines begin that are records.
    bytes: u64,
}

impl FileStart {
    /// Bytes before the first record.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Reads delimited text as record batches.
///
/// What fits where: see [the module](self).
pub struct Scan<R> {
    lines: Lines<R>,
    fields: Fields,
    dialect: Dialect,
    names: Vec<String>,
    schema: SchemaRef,
    projection: Option<Vec<usize>>,
    columns: Vec<Column>,
    /// Whether the file's start was read, or need not be.
    started: bool,
    start: FileStart,
    options: ScanOptions,
    count: usize,
    bytes_recent: usize,
    good: u64,
    bad: u64,
    failed: Option<Error>,
}

impl<R> std::fmt::Debug for Scan<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scan").field("good", &self.good).field("bad", &self.bad).finish()
    }
}

impl<R: Read> Scan<R> {
    /// A scan of plain bytes (see [`crate::decode`]) for the columns of `schema`.
    ///
    /// `projection` picks the columns handed out; the others are read all the same, so that
    /// a record counts as good or bad whatever is asked of it.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a type that is not read from text, such as an array;
    /// [`ErrorKind::Invalid`] for a dialect that means nothing, or a projection beyond the
    /// schema.
    pub fn new(
        schema: &Schema,
        projection: Option<&[usize]>,
        input: R,
        dialect: &Dialect,
        options: ScanOptions,
    ) -> Result<Self> {
        dialect.check()?;
        for field in schema.fields() {
            if field.data_type().is_nested() {
                return Err(Error::unsupported(format!(
                    "column {:?}: {} is not read from CSV; declare it as string and use the JSON \
                     functions",
                    field.name(),
                    field.data_type()
                )));
            }
        }
        let columns = schema.fields().iter().map(|f| Column::new(f)).collect::<Result<_>>()?;
        let picked = match projection {
            Some(picked) => schema.project(picked).map_err(|cause| {
                Error::invalid(format!("a projection beyond the schema: {cause}"))
            })?,
            None => schema.clone(),
        };
        Ok(Scan {
            lines: Lines::new(input, options.record_bytes_max),
            fields: Fields::new(dialect),
            dialect: dialect.clone(),
            names: schema.fields().iter().map(|field| field.name().clone()).collect(),
            schema: Arc::new(picked),
            projection: projection.map(<[usize]>::to_vec),
            columns,
            started: false,
            start: FileStart::default(),
            options,
            count: 0,
            bytes_recent: 0,
            good: 0,
            bad: 0,
            failed: None,
        })
    }

    /// Tells that the input begins within a file of which `start` is known, with any of its lines
    /// but those before its records.
    pub fn go_on(&mut self, start: FileStart) {
        (self.started, self.start) = (true, start);
    }

    /// What the file's start says, or `None` of a file without lines.
    ///
    /// # Errors
    /// Those of [`Scan::next_batch`] at the start of a file.
    pub fn file_start(&mut self) -> Result<Option<FileStart>> {
        if !self.started {
            self.started = true;
            if !self.start()? {
                return Ok(None);
            }
        }
        Ok(Some(self.start.clone()))
    }

    /// The schema of the batches.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Records handed out as rows so far.
    pub fn good(&self) -> u64 {
        self.good
    }

    /// Records set aside so far.
    pub fn bad(&self) -> u64 {
        self.bad
    }

    /// Bytes of the unpacked stream passed so far.
    pub fn bytes(&self) -> u64 {
        self.lines.bytes()
    }

    /// The next rows, or `None` at the end; bad records on the way go to `sink`.
    ///
    /// # Errors
    /// When the stream cannot be read on, once, after everything before that place was handed
    /// out; [`ErrorKind::Corrupt`] at the start for a file whose header is not that of its lines.
    pub fn next_batch(&mut self, sink: &mut dyn FnMut(BadRecord)) -> Result<Option<RecordBatch>> {
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        if !self.started {
            self.started = true;
            if !self.start()? {
                return Ok(None);
            }
        }
        while self.count < self.options.batch_rows && self.bytes_recent < self.options.batch_bytes {
            match self.lines.next() {
                Ok(None) => break,
                Ok(Some(line)) => match self.take(&line) {
                    Ok(()) => {
                        self.good += 1;
                        self.count += 1;
                        self.bytes_recent += line.end - line.start;
                    }
                    Err(reason) => {
                        self.bad += 1;
                        sink(BadRecord {
                            position: line.position,
                            line: line.number,
                            raw: Bytes::copy_from_slice(self.lines.text(&line)),
                            reason,
                        });
                    }
                },
                Err(failed) if self.count == 0 => return Err(failed),
                Err(failed) => {
                    self.failed = Some(failed);
                    break;
                }
            }
        }
        if self.count == 0 { Ok(None) } else { self.finish().map(Some) }
    }

    /// Finds out which field is which column; whether there is anything at all.
    fn start(&mut self) -> Result<bool> {
        if let Header::Skip(lines) = self.dialect.header {
            for _ in 0..lines {
                if self.lines.next()?.is_none() {
                    return Ok(false);
                }
            }
        }
        let header = match self.dialect.header {
            Header::Names => match self.lines.next()? {
                None => return Ok(false),
                Some(line) => Some(self.names_of(&line)?),
            },
            Header::None | Header::Skip(_) => None,
        };
        let bytes = self.lines.bytes();
        let usual = usual_width(self.lines.ahead()?, &mut self.fields);
        let width = match (header.as_ref().map(Vec::len), usual) {
            (Some(named), Some(usual)) if named != usual => {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("the header names {named} columns but most lines have {usual} fields"),
                ));
            }
            // No line, or none that is sound, says how many there should be.
            (named, usual) => named.or(usual).unwrap_or(self.columns.len()),
        };
        let places = match header {
            None => (0..width).map(|at| (at < self.columns.len()).then_some(at)).collect(),
            Some(names) => {
                let mut free: Vec<bool> = vec![true; self.names.len()];
                let mut places = Vec::with_capacity(names.len());
                for name in &names {
                    let found = find(&self.names, &free, name);
                    if let Some(at) = found {
                        free[at] = false;
                    }
                    places.push(found);
                }
                if places.iter().all(Option::is_none) && !self.columns.is_empty() {
                    return Err(Error::new(
                        ErrorKind::Corrupt,
                        format!("the header {names:?} names no column of the table"),
                    ));
                }
                places
            }
        };
        let absent = (0..self.columns.len()).filter(|at| !places.contains(&Some(*at))).collect();
        self.start = FileStart { places, absent, bytes };
        Ok(true)
    }

    fn names_of(&mut self, line: &Line) -> Result<Vec<String>> {
        let bad = |why: String| Error::new(ErrorKind::Corrupt, format!("the header: {why}"));
        let fields = self.fields.split(self.lines.text(line)).map_err(bad)?;
        Ok(fields.iter().map(|(text, _)| String::from_utf8_lossy(text).trim().to_owned()).collect())
    }

    /// Adds a line as a row, or leaves the rows as they were.
    fn take(&mut self, line: &Line) -> std::result::Result<(), String> {
        if line.too_long {
            return Err(format!(
                "the line is longer than {} bytes; only its first are kept",
                self.options.record_bytes_max
            ));
        }
        let fields = self.fields.split(self.lines.text(line))?;
        let (found, usual) = (fields.len(), self.start.places.len());
        if found != usual {
            return Err(format!("the line has {found} fields, its file has {usual}"));
        }
        let null = self.dialect.null.as_deref().map(str::as_bytes);
        let mut refused = None;
        for ((text, quoted), place) in fields.iter().zip(&self.start.places) {
            let Some(place) = *place else {
                // Whatever is asked of a file, the same lines of it are good.
                if std::str::from_utf8(text).is_err() {
                    refused = Some("a field holds invalid UTF-8".to_owned());
                    break;
                }
                continue;
            };
            if !quoted && null == Some(text) {
                self.columns[place].push_null();
            } else if let Err(reason) = self.columns[place].append_text(text) {
                refused = Some(reason);
                break;
            }
        }
        match refused {
            None => {
                for at in &self.start.absent {
                    self.columns[*at].push_null();
                }
                Ok(())
            }
            Some(reason) => {
                for column in &mut self.columns {
                    column.truncate(self.count);
                }
                Err(reason)
            }
        }
    }

    fn finish(&mut self) -> Result<RecordBatch> {
        let mut arrays = Vec::with_capacity(self.columns.len());
        match &self.projection {
            None => {
                for column in &mut self.columns {
                    arrays.push(column.finish()?);
                }
            }
            Some(picked) => {
                for &index in picked {
                    arrays.push(self.columns[index].finish()?);
                }
                self.columns.iter_mut().for_each(Column::clear);
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(self.count));
        self.count = 0;
        self.bytes_recent = 0;
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map_err(|cause| Error::internal(format!("a batch was built wrongly: {cause}")))
    }
}

/// The column that a header names: as it is spelled, else in any case.
fn find(names: &[String], free: &[bool], name: &str) -> Option<usize> {
    let open = || names.iter().enumerate().filter(|(at, _)| free[*at]);
    open()
        .find(|(_, other)| *other == name)
        .or_else(|| open().find(|(_, other)| other.eq_ignore_ascii_case(name)))
        .map(|(at, _)| at)
}

/// How many fields most of the lines have; of equals, the more. None without lines.
fn usual_width(text: &[u8], fields: &mut Fields) -> Option<usize> {
    let mut counts = std::collections::BTreeMap::new();
    for line in lines::whole(text) {
        // A line in which a quote is not closed says nothing of the others.
        if let Ok(found) = fields.split(line) {
            *counts.entry(found.len()).or_insert(0_usize) += 1;
        }
    }
    counts.into_iter().max_by_key(|(width, count)| (*count, *width)).map(|(width, _)| width)
}

#[cfg(test)]
mod tests;
