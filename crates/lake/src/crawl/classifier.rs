//! Classifiers: what a crawler is told about objects that do not say it themselves.
//!
//! Those a crawler names are asked in their order; the first that recognises an object decides.
//! What none of them recognises is told by its bytes, as without any.

use std::io::Read;
use std::str::FromStr;

use base::{Error, ErrorKind, Result, Timestamp};
use formats::csv::{Header, InferOptions};
use formats::json::{Items, Path};
use metastore::Row;
use serde::{Deserialize, Serialize};

use super::look::{self, Look};
use crate::Lake;

/// Longest name of a classifier, Glue's bound.
const NAME_BYTES_MAX: usize = 255;

/// What a classifier recognises.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClassifierKind {
    /// Records that lie within documents of JSON, by their path: see [`Path`].
    Json {
        /// The path as it was given.
        path: String,
    },
    /// Delimited text.
    Csv {
        /// The delimiter; found out without one.
        delimiter: Option<u8>,
        /// The quote; none if fields are never quoted.
        quote: Option<u8>,
        /// Whether the first line is a header; found out if it is not said.
        header: Option<bool>,
        /// Names of the columns, in the place of those that the files have.
        names: Vec<String>,
        /// Whether a text of one column is one.
        single_column: bool,
    },
}

/// A classifier by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Classifier {
    /// Its name.
    pub name: String,
    /// What it recognises.
    pub kind: ClassifierKind,
    /// When it was made; set by the lake.
    pub created_at: Timestamp,
    /// When it was changed last; set by the lake.
    pub updated_at: Timestamp,
    /// Grows by one with each change, from 1; set by the lake.
    pub version: u64,
}

impl Row for Classifier {
    const TABLE: &'static str = "classifiers";
}

impl ClassifierKind {
    fn check(&self) -> Result<()> {
        match self {
            ClassifierKind::Json { path } => Path::from_str(path).map(drop),
            ClassifierKind::Csv { delimiter, quote, names, .. } => {
                let dialect = formats::csv::Dialect {
                    quote: *quote,
                    ..formats::csv::Dialect::new(delimiter.unwrap_or(1))
                };
                dialect.check()?;
                let mut seen = std::collections::BTreeSet::new();
                match names.iter().find(|name| name.trim().is_empty() || !seen.insert(*name)) {
                    None => Ok(()),
                    Some(name) => Err(Error::invalid(format!(
                        "the name {name:?} of a column is empty or there twice"
                    ))),
                }
            }
        }
    }

    /// What an object is by this classifier; `None` if it does not recognise it. `open` answers
    /// its bytes, unpacked.
    pub(super) fn look<R: Read>(&self, open: impl FnOnce() -> Result<R>) -> Result<Option<Look>> {
        match self {
            ClassifierKind::Json { path } => {
                let path = Path::from_str(path)?;
                let look = look::infer_json(Items::new(open()?, &path), Some(path.to_string()))?;
                Ok(matches!(look, Look::Understood { .. }).then_some(look))
            }
            ClassifierKind::Csv { delimiter, quote, header, names, single_column } => {
                let options = InferOptions {
                    delimiter: *delimiter,
                    quote: *quote,
                    header: *header,
                    single_column: *single_column,
                    ..InferOptions::default()
                };
                let Some(mut found) = look::infer_csv(open()?, &options)? else { return Ok(None) };
                let Look::Understood { csv: Some(dialect), shape, .. } = &mut found else {
                    return Ok(None);
                };
                if !names.is_empty() {
                    // By their place: the file calls them otherwise, or does not call them at all.
                    if dialect.header == Header::Names {
                        dialect.header = Header::Skip(1);
                    }
                    if !shape.rename(names) {
                        return Ok(None);
                    }
                }
                Ok(Some(found))
            }
        }
    }
}

/// Tells classifiers from others: what was looked at with others is looked at again.
pub(super) fn fingerprint(classifiers: &[ClassifierKind]) -> Result<String> {
    if classifiers.is_empty() {
        return Ok(String::new());
    }
    let text = serde_json::to_string(classifiers)
        .map_err(|cause| Error::internal(format!("a classifier has no JSON: {cause}")))?;
    Ok(format!("{:08x}-{}", crc32c::crc32c(text.as_bytes()), text.len()))
}

impl Lake {
    /// Stores a new classifier.
    pub fn create_classifier(&self, name: &str, kind: ClassifierKind) -> Result<()> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || " _.-".contains(c);
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(allowed) {
            return Err(Error::invalid(format!(
                "{name:?} is not a classifier name; use 1 to {NAME_BYTES_MAX} letters, digits, \
                 ' ', '_', '.' and '-'"
            )));
        }
        kind.check()?;
        let now = self.clock().now();
        let name = name.to_owned();
        let made = Classifier { name, kind, created_at: now, updated_at: now, version: 1 };
        self.store().create(&made.name, &made).map(drop)
    }

    /// Changes what a classifier recognises; its kind stays.
    pub fn update_classifier(&self, name: &str, kind: ClassifierKind) -> Result<()> {
        kind.check()?;
        let now = self.clock().now();
        self.store().transact(|transaction| {
            let Some(found) = transaction.get::<Classifier>(name)? else {
                return Err(no_classifier(name));
            };
            let found = found.row;
            if std::mem::discriminant(&found.kind) != std::mem::discriminant(&kind) {
                return Err(Error::invalid(format!(
                    "classifier {name:?} is of another kind; delete it and make it anew"
                )));
            }
            let version = found.version + 1;
            transaction.put(name, &Classifier { kind, updated_at: now, version, ..found }).map(drop)
        })
    }

    /// A classifier.
    pub fn get_classifier(&self, name: &str) -> Result<Classifier> {
        match self.store().get::<Classifier>(name)? {
            Some(found) => Ok(found.row),
            None => Err(no_classifier(name)),
        }
    }

    /// All classifiers by name.
    pub fn list_classifiers(&self) -> Result<Vec<Classifier>> {
        Ok(self.store().list::<Classifier>()?.into_iter().map(|(_, found)| found.row).collect())
    }

    /// Forgets a classifier. A crawler that still names it fails until it is changed.
    pub fn delete_classifier(&self, name: &str) -> Result<()> {
        match self.store().delete::<Classifier>(name)? {
            true => Ok(()),
            false => Err(no_classifier(name)),
        }
    }

    /// What those of a crawler recognise, in its order.
    pub(super) fn classifiers_of(&self, names: &[String]) -> Result<Vec<ClassifierKind>> {
        names.iter().map(|name| Ok(self.get_classifier(name)?.kind)).collect()
    }
}

fn no_classifier(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no classifier {name:?}"))
}
