//! How the rows of CREATE TABLE AS and UNLOAD are to be written.

use base::{Error, Result};
use formats::csv::Dialect;

use super::{Kind, Reader};
use crate::services::text_serde;

/// What files hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stored {
    #[default]
    Parquet,
    Json,
    /// Lines of text in this dialect.
    Text(Dialect),
}

/// How files are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Snappy,
    Zstd,
    Gzip,
    None,
}

impl Packing {
    /// By the word that properties have for it.
    pub(crate) fn named(word: &str) -> Option<Packing> {
        Some(match word.to_ascii_uppercase().as_str() {
            "SNAPPY" => Packing::Snappy,
            "ZSTD" => Packing::Zstd,
            "GZIP" => Packing::Gzip,
            "NONE" | "UNCOMPRESSED" => Packing::None,
            _ => return None,
        })
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Packing::Snappy => "SNAPPY",
            Packing::Zstd => "ZSTD",
            Packing::Gzip => "GZIP",
            Packing::None => "NONE",
        }
    }
}

/// Files as a statement wants them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) stored: Stored,
    pub(crate) packing: Option<Packing>,
    /// The last columns of the rows, which name folders.
    pub(crate) partitioned_by: Vec<String>,
}

/// Options as they are read.
#[derive(Default)]
pub(super) struct Options {
    format: Option<String>,
    packing: Option<(String, Packing)>,
    delimiter: Option<String>,
    partitioned_by: Vec<String>,
}

fn refused(name: &str, of: &str, why: &str) -> Error {
    Error::unsupported(format!("{name} of {of}: {why}"))
}

impl Reader<'_> {
    /// Reads the value of an option that says how files are written, if it is one.
    pub(super) fn output_option(
        &mut self,
        name: &str,
        of: &str,
        options: &mut Options,
    ) -> Result<bool> {
        match name {
            "format" => options.format = Some(self.text()?.to_ascii_uppercase()),
            "compression" | "write_compression" | "parquet_compression" => {
                let word = self.text()?;
                let packing = Packing::named(&word).ok_or_else(|| {
                    let known = "use 'GZIP', 'SNAPPY', 'ZSTD' or 'NONE'";
                    refused(name, of, &format!("{word:?} is not supported; {known}"))
                })?;
                options.packing = Some((name.to_owned(), packing));
            }
            "field_delimiter" => options.delimiter = Some(self.text()?),
            "partitioned_by" => options.partitioned_by = self.names()?,
            "bucketed_by" | "bucket_count" => {
                return Err(refused(name, of, "no buckets are made; leave it out"));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// `ARRAY['a', 'b']`.
    fn names(&mut self) -> Result<Vec<String>> {
        self.need("array")?;
        self.need_mark('[')?;
        let mut names = Vec::new();
        if self.peek().is_some_and(|token| token.kind == Kind::Mark(']')) {
            return Err(self.expected("a column's name in single quotes"));
        }
        loop {
            names.push(self.text()?.to_lowercase());
            if !self.take_mark(',') {
                self.need_mark(']')?;
                return Ok(names);
            }
        }
    }
}

impl Options {
    /// Whether they name a format.
    pub(super) fn have_format(&self) -> bool {
        self.format.is_some()
    }

    /// What they mean together.
    pub(super) fn output(self, of: &str) -> Result<Output> {
        let stored = match self.format.as_deref() {
            None | Some("PARQUET") => Stored::Parquet,
            Some("JSON") => Stored::Json,
            Some("TEXTFILE") => {
                let mut dialect = text_serde::hive();
                if let Some(text) = &self.delimiter {
                    dialect.delimiter = text_serde::one_byte("field_delimiter", text)?;
                    dialect.check()?;
                }
                Stored::Text(dialect)
            }
            Some(other @ ("ORC" | "AVRO")) => {
                let why = format!("{other:?} is not written; use 'PARQUET', 'JSON' or 'TEXTFILE'");
                return Err(refused("format", of, &why));
            }
            Some(other) => {
                let known = "use 'PARQUET', 'JSON', or 'TEXTFILE' with field_delimiter = ','";
                return Err(refused("format", of, &format!("{other:?} is not known; {known}")));
            }
        };
        if self.delimiter.is_some() && !matches!(stored, Stored::Text(_)) {
            return Err(refused("field_delimiter", of, "only format = 'TEXTFILE' has one"));
        }
        if let Some((name, packing)) = &self.packing {
            let is_text = stored != Stored::Parquet;
            if is_text && *packing == Packing::Snappy {
                let why = "'SNAPPY' is for Parquet; use 'GZIP', 'ZSTD' or 'NONE'";
                return Err(refused(name, of, why));
            }
            if is_text && name == "parquet_compression" {
                return Err(refused(
                    name,
                    of,
                    "the format is not 'PARQUET'; use write_compression",
                ));
            }
        }
        let packing = self.packing.map(|(_, packing)| packing);
        Ok(Output { stored, packing, partitioned_by: self.partitioned_by })
    }
}
