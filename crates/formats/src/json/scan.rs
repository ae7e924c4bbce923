//! The scan: records of a stream straight into typed columns.
//!
//! Devices write the same keys in the same order for ever, so what lies between two values
//! is compared with what lay there before (a *shape*), and only the values are read. A
//! record with other bytes there is read key by key, and its shape is remembered. Both ways
//! read a value with the same code, so they cannot disagree about it.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatchOptions;
use base::{Error, Result};

use super::BadRecord;
use super::columns::Column;
use super::lex::{self, Fault, Keys, Misfit};
use super::records::{Next, Parsed, Records};
use super::shapes::{Shapes, Then, Trace};

/// Memory that a scan may use.
#[derive(Clone, Copy, Debug)]
pub struct ScanOptions {
    /// Rows of a batch.
    pub batch_rows: usize,
    /// Bytes after which a batch is handed out although it has fewer rows.
    pub batch_bytes: usize,
    /// Longest record that is read; a longer one is set aside.
    pub record_bytes_max: usize,
    /// Whether a key finds its column whatever the case of its ASCII letters.
    pub ignore_case: bool,
}

impl Default for ScanOptions {
    fn default() -> Self {
        ScanOptions {
            batch_rows: 8192,
            batch_bytes: 32 * 1024 * 1024,
            record_bytes_max: super::RECORD_BYTES_MAX,
            ignore_case: false,
        }
    }
}

/// Reads newline-delimited or concatenated JSON objects as record batches.
///
/// What fits where: see [the module](super).
pub struct Scan<R> {
    records: Records<R>,
    rows: Rows,
    options: ScanOptions,
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
    /// [`base::ErrorKind::Unsupported`] for a type that is not read from JSON,
    /// [`base::ErrorKind::Invalid`] for a column that may not be null, comes twice, or a
    /// projection beyond the schema.
    pub fn new(
        schema: &Schema,
        projection: Option<&[usize]>,
        input: R,
        options: ScanOptions,
    ) -> Result<Self> {
        Ok(Scan {
            records: Records::new(input, options.record_bytes_max),
            rows: Rows::new(schema, projection, options.ignore_case)?,
            options,
            good: 0,
            bad: 0,
            failed: None,
        })
    }

    /// The schema of the batches.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.rows.schema)
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
        self.records.bytes()
    }

    /// The next rows, or `None` at the end; bad records on the way go to `sink`.
    ///
    /// # Errors
    /// When the stream cannot be read on, once, after everything before that place was
    /// handed out.
    pub fn next_batch(&mut self, sink: &mut dyn FnMut(BadRecord)) -> Result<Option<RecordBatch>> {
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        while self.rows.count < self.options.batch_rows {
            // Measured now and then, since a sum over columns costs more than a row.
            if self.rows.count.is_multiple_of(64) && self.rows.bytes() >= self.options.batch_bytes {
                break;
            }
            if self.rows.bytes_recent >= self.options.batch_bytes {
                break;
            }
            let rows = &mut self.rows;
            match self.records.next(|buf, start| rows.parse(buf, start)) {
                Ok(Next::Good) => self.good += 1,
                Ok(Next::Bad(bad)) => {
                    self.bad += 1;
                    sink(bad);
                }
                Ok(Next::End) => break,
                Err(failed) if self.rows.count == 0 => return Err(failed),
                Err(failed) => {
                    self.failed = Some(failed);
                    break;
                }
            }
        }
        if self.rows.count == 0 { Ok(None) } else { self.rows.finish().map(Some) }
    }
}

/// The rows of the batch that is being built.
struct Rows {
    schema: SchemaRef,
    projection: Option<Vec<usize>>,
    columns: Vec<Column>,
    by_name: HashMap<Vec<u8>, usize>,
    count: usize,
    /// Bytes of input since the batch was begun: bounds what the columns can hold.
    bytes_recent: usize,
    shapes: Shapes,
    names: Vec<Vec<u8>>,
    ignore_case: bool,
    /// Reused: where the literals lie in the record being read key by key.
    trace: Trace,
    name: Vec<u8>,
}

impl Rows {
    fn new(schema: &Schema, projection: Option<&[usize]>, ignore_case: bool) -> Result<Self> {
        let key = |name: &str| match ignore_case {
            true => name.to_ascii_lowercase().into_bytes(),
            false => name.as_bytes().to_vec(),
        };
        let mut by_name = HashMap::new();
        for (index, field) in schema.fields().iter().enumerate() {
            if !field.is_nullable() {
                return Err(Error::invalid(format!(
                    "column {:?} may not be null, but any JSON value may be missing",
                    field.name()
                )));
            }
            if by_name.insert(key(field.name()), index).is_some() {
                return Err(Error::invalid(format!("column {:?} comes twice", field.name())));
            }
        }
        let columns = schema.fields().iter().map(|f| Column::new(f)).collect::<Result<_>>()?;
        let names = schema.fields().iter().map(|f| key(f.name())).collect();
        let schema = match projection {
            Some(picked) => schema.project(picked).map_err(|cause| {
                Error::invalid(format!("a projection beyond the schema: {cause}"))
            })?,
            None => schema.clone(),
        };
        Ok(Rows {
            schema: Arc::new(schema),
            projection: projection.map(<[usize]>::to_vec),
            columns,
            by_name,
            count: 0,
            bytes_recent: 0,
            shapes: Shapes::default(),
            names,
            ignore_case,
            trace: Trace::new(),
            name: Vec::new(),
        })
    }

    fn bytes(&self) -> usize {
        self.columns.iter().map(Column::bytes).sum()
    }

    /// Adds the record at `start` as a row, or leaves the rows as they were.
    #[inline]
    fn parse(&mut self, buf: &[u8], start: usize) -> Result<Parsed, Fault> {
        if let Some(end) = self.parse_by_shape(buf, start) {
            self.bytes_recent += end - start;
            self.count += 1;
            return Ok(Parsed { end, misfit: None });
        }
        self.parse_by_key(buf, start)
    }

    #[inline]
    fn parse_by_shape(&mut self, buf: &[u8], start: usize) -> Option<usize> {
        let (shapes, columns) = (&mut self.shapes, &mut self.columns);
        let mut misfit = Misfit::default();
        let followed = shapes.follow(buf, start, |column, at| {
            let end = match column {
                Some(column) => columns[column].append(buf, at, 1, &mut misfit),
                None => lex::skip_value(buf, at, 1, &mut misfit),
            };
            end.ok().filter(|_| misfit.is_none())
        });
        match followed {
            Some((end, absent)) => {
                for &column in absent {
                    columns[column].push_null();
                }
                Some(end)
            }
            None => {
                self.roll_back();
                None
            }
        }
    }

    #[cold]
    fn roll_back(&mut self) {
        for column in &mut self.columns {
            column.truncate(self.count);
        }
    }

    /// Reads a record key by key, and remembers its shape.
    fn parse_by_key(&mut self, buf: &[u8], start: usize) -> Result<Parsed, Fault> {
        let mut misfit = Misfit::default();
        let read = self.walk(buf, start, &mut misfit);
        let reason = misfit.take();
        if let (Ok(end), None) = (read, &reason) {
            let absent = |column: &usize| self.columns[*column].len() == self.count;
            let absent = || (0..self.columns.len()).filter(absent).collect();
            self.shapes.remember(buf, &self.trace, absent);
            for column in &mut self.columns {
                if column.len() == self.count {
                    column.push_null();
                }
            }
            self.bytes_recent += end - start;
            self.count += 1;
        } else {
            self.roll_back();
        }
        Ok(Parsed { end: read?, misfit: reason })
    }

    fn walk(&mut self, buf: &[u8], start: usize, misfit: &mut Misfit) -> lex::Step {
        let mut unknown = Keys::default();
        let mut literal = start;
        let mut expected = 0;
        self.trace.clear();
        let (columns, by_name, count) = (&mut self.columns, &self.by_name, self.count);
        let (trace, name, names) = (&mut self.trace, &mut self.name, &self.names);
        let ignore_case = self.ignore_case;
        let end = lex::object(buf, start, 0, |buf, key, at, depth| {
            name.clear();
            key.decode(buf, name, misfit);
            if ignore_case {
                name.make_ascii_lowercase();
            }
            // Keys mostly come in the order of the columns.
            let column = match names.get(expected) {
                Some(next) if next == name => Some(expected),
                _ => by_name.get(name).copied(),
            };
            expected = column.map_or(expected, |column| column + 1);
            trace.push((literal, at, column.map_or(Then::Skip, Then::Value)));
            literal = match column {
                Some(column) if columns[column].len() > count => {
                    misfit.note(|| lex::twice(name));
                    lex::skip_value(buf, at, depth, misfit)?
                }
                Some(column) => columns[column].append(buf, at, depth, misfit)?,
                None => {
                    unknown.add(buf, key, misfit);
                    lex::skip_value(buf, at, depth, misfit)?
                }
            };
            Ok(literal)
        })?;
        unknown.check(misfit);
        trace.push((literal, end, Then::End));
        Ok(end)
    }

    fn finish(&mut self) -> Result<RecordBatch> {
        let arrays = match &self.projection {
            None => self.columns.iter_mut().map(Column::finish).collect::<Result<Vec<_>>>()?,
            Some(picked) => {
                let mut arrays = Vec::with_capacity(picked.len());
                for &index in picked {
                    arrays.push(self.columns[index].finish()?);
                }
                self.columns.iter_mut().for_each(Column::clear);
                arrays
            }
        };
        let options = RecordBatchOptions::new().with_row_count(Some(self.count));
        self.count = 0;
        self.bytes_recent = 0;
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), arrays, &options)
            .map_err(|cause| Error::internal(format!("a batch was built wrongly: {cause}")))
    }
}
