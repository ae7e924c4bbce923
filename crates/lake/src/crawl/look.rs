//! What an object is, by its bytes.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use base::{Error, ErrorKind, Result};
use formats::csv::Dialect;
use objects::Buckets;
use serde::{Deserialize, Serialize};

use super::classifier::ClassifierKind;
use super::shape::Shape;
use crate::Format;

/// The bytes at both ends of a Parquet file.
const PARQUET: &[u8] = b"PAR1";
/// Unpacked bytes in which something other than white space must appear.
const START_BYTES: u64 = 64 * 1024;
/// Longest reason that is kept with an object.
const WHY_BYTES_MAX: usize = 300;

/// What was found in an object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Look {
    /// It can be part of a table.
    Understood {
        format: Format,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        csv: Option<Dialect>,
        /// Where its records lie, if a classifier said so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        shape: Shape,
        records: u64,
        bad: u64,
        /// Why it is read only so far.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        damage: Option<String>,
    },
    /// It cannot.
    NotUnderstood { why: String },
    /// Its bytes are not those that were stored. Nobody knows what it would hold, so a query of
    /// the table it lies in must fail rather than do without it.
    Altered { why: String },
}

impl Look {
    fn not(why: impl Into<String>) -> Look {
        let mut why = why.into();
        let mut end = WHY_BYTES_MAX.min(why.len());
        while !why.is_char_boundary(end) {
            end -= 1;
        }
        why.truncate(end);
        Look::NotUnderstood { why }
    }

    /// What to know about an object that is in a table, to be said after that.
    pub(super) fn but(&self) -> String {
        match self {
            Look::Understood { damage: Some(why), .. } => {
                format!("; it is read as far as it is sound: {why}")
            }
            Look::Understood { records, bad: bad @ 1.., .. } => {
                format!("; {bad} of its {} records are set aside", records + bad)
            }
            _ => String::new(),
        }
    }
}

/// Reads the whole object and tells what it holds. Whatever goes wrong is the object's fault.
pub(super) fn look(
    buckets: &Buckets,
    bucket: &str,
    key: &str,
    classifiers: &[ClassifierKind],
) -> Look {
    let not = |error: Error| Look::not(format!("it cannot be read: {error}"));
    match buckets.verify(bucket, key) {
        Ok(sound) => try_look(&sound.path, key, classifiers).unwrap_or_else(not),
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            Look::Altered { why: error.to_string() }
        }
        Err(error) => not(error),
    }
}

fn try_look(path: &Path, key: &str, classifiers: &[ClassifierKind]) -> Result<Look> {
    let failed = |cause| Error::io("failed to read the object", cause);
    let open = || File::open(path).map_err(failed);
    let mut magic = Vec::new();
    open()?.take(PARQUET.len() as u64).read_to_end(&mut magic).map_err(failed)?;
    if magic == PARQUET {
        let reader = formats::parquet::Reader::open(path)?;
        return Ok(Look::Understood {
            format: Format::Parquet,
            csv: None,
            path: None,
            shape: Shape::of(&reader.schema())?,
            records: reader.rows(),
            bad: 0,
            damage: None,
        });
    }
    let mut text = formats::decode_object(open()?, key)?;
    let mut start = Vec::new();
    let unpacked = text.by_ref().take(START_BYTES).read_to_end(&mut start);
    if let (Err(cause), true) = (unpacked, start.is_empty()) {
        return Err(Error::io("failed to unpack the object", cause));
    }
    for classifier in classifiers {
        if let Some(found) = classifier.look(|| formats::decode_object(open()?, key))? {
            return Ok(found);
        }
    }
    let json = match start.iter().find(|byte| !byte.is_ascii_whitespace()) {
        None => return Ok(Look::not("it begins with 64 KiB of white space, or has nothing else")),
        // A line before the first object may be damaged; what matters is whether any is found.
        Some(b'[') => Look::not(
            "it is one JSON array; give the crawler a classifier with the JSON path $[*], or \
                 write its items as JSON objects, one after another",
        ),
        Some(_) if start.contains(&b'{') => {
            infer_json(formats::decode_object(open()?, key)?, None)?
        }
        Some(_) => Look::not("it holds neither JSON objects nor delimited text nor Parquet"),
    };
    if matches!(json, Look::Understood { .. }) {
        return Ok(json);
    }
    let text = formats::decode_object(open()?, key)?;
    Ok(infer_csv(text, &formats::csv::InferOptions::default())?.unwrap_or(json))
}

/// What records of JSON hold; `path` is where they were found.
pub(super) fn infer_json(text: impl Read, path: Option<String>) -> Result<Look> {
    let found = formats::json::infer(text, &formats::json::InferOptions::default())?;
    if found.records == 0 {
        let bad = found.bad;
        return Ok(Look::not(format!("none of its {bad} records is a JSON object")));
    }
    // Text that happens to hold a JSON object here and there is not JSON.
    if found.bad > found.records {
        let (bad, good) = (found.bad, found.records);
        return Ok(Look::not(format!("{bad} of its {} records are no JSON objects", bad + good)));
    }
    Ok(Look::Understood {
        format: Format::Json,
        csv: None,
        path,
        shape: Shape::of(&found.schema)?,
        records: found.records,
        bad: found.bad,
        damage: found.damage.map(|error| error.to_string()),
    })
}

/// What delimited text holds, if it is some.
pub(super) fn infer_csv(
    text: impl Read,
    options: &formats::csv::InferOptions,
) -> Result<Option<Look>> {
    let found = formats::csv::infer(text, options)?;
    let sound = found.filter(|found| found.records > 0 && found.bad <= found.records);
    let Some(found) = sound else { return Ok(None) };
    Ok(Some(Look::Understood {
        format: Format::Csv,
        csv: Some(found.dialect),
        path: None,
        shape: Shape::of(&found.schema)?,
        records: found.records,
        bad: found.bad,
        damage: found.damage.map(|error| error.to_string()),
    }))
}
