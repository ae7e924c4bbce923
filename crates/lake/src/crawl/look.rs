//! What an object is, by its bytes.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use base::{Error, ErrorKind, Result};
use objects::Buckets;
use serde::{Deserialize, Serialize};

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
    Understood { format: Format, shape: Shape, records: u64, bad: u64 },
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
}

/// Reads the whole object and tells what it holds. Whatever goes wrong is the object's fault.
pub(super) fn look(buckets: &Buckets, bucket: &str, key: &str) -> Look {
    let not = |error: Error| Look::not(format!("it cannot be read: {error}"));
    match buckets.verify(bucket, key) {
        Ok(sound) => try_look(&sound.path).unwrap_or_else(not),
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            Look::Altered { why: error.to_string() }
        }
        Err(error) => not(error),
    }
}

fn try_look(path: &Path) -> Result<Look> {
    let failed = |cause| Error::io("failed to read the object", cause);
    let mut magic = Vec::new();
    let mut file = File::open(path).map_err(failed)?;
    file.by_ref().take(PARQUET.len() as u64).read_to_end(&mut magic).map_err(failed)?;
    if magic == PARQUET {
        let reader = formats::parquet::Reader::open(path)?;
        let shape = Shape::of(&reader.schema())?;
        return Ok(Look::Understood {
            format: Format::Parquet,
            shape,
            records: reader.rows(),
            bad: 0,
        });
    }
    let whole = Cursor::new(magic).chain(file);
    look_into_text(formats::decode(whole)?)
}

fn look_into_text(mut text: impl Read) -> Result<Look> {
    let mut start = Vec::new();
    text.by_ref()
        .take(START_BYTES)
        .read_to_end(&mut start)
        .map_err(|cause| Error::io("failed to unpack the object", cause))?;
    let first = start.iter().find(|byte| !byte.is_ascii_whitespace());
    match first {
        // A line before the first object may be damaged; what matters is whether any is found.
        Some(b'[') => Ok(Look::not(
            "it is one JSON array; write its items as JSON objects, one after another",
        )),
        Some(_) if start.contains(&b'{') => infer(Cursor::new(start).chain(text)),
        Some(_) => Ok(Look::not("it holds neither JSON objects nor Parquet")),
        None => Ok(Look::not("it begins with 64 KiB of white space, or has nothing else")),
    }
}

fn infer(text: impl Read) -> Result<Look> {
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
        shape: Shape::of(&found.schema)?,
        records: found.records,
        bad: found.bad,
    })
}
