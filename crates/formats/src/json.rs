//! JSON objects, newline-delimited or concatenated, as typed columns.
//!
//! # What fits where
//! * `null` and a missing key are null. A key that is no column is checked and ignored.
//! * A column of whole numbers takes numbers whose value is whole and in range, however they
//!   are written: `3`, `3.0`, `30e-1`.
//! * A `float` or `double` column takes every number it can hold, to the nearest.
//! * A `string` column takes strings, and any other value as the JSON text it is written as.
//! * A `timestamp` or `date` column takes ISO 8601 strings.
//! * `boolean`, `array`, `struct` and `map` take only their like; items and fields follow the
//!   same rules.
//!
//! # What is set aside
//! A record that is no JSON object, names a key twice at any level, holds invalid UTF-8, half
//! a surrogate pair or a number beyond a double, is nested deeper than
//! `limits::JSON_DEPTH_MAX` or longer than [`RECORD_BYTES_MAX`], or has a value that does not
//! fit its column. A type conflict inside one file does not arise after [`infer`] has read it,
//! because the column was widened to hold both.

pub(crate) mod columns;
mod infer;
mod items;
mod lex;
mod records;
mod scan;
mod shapes;
mod time;

#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use columns::AS_WRITTEN;
pub use infer::{InferOptions, Inferred, infer, merge};
pub use items::{Items, Path};
pub use scan::{Scan, ScanOptions};

/// Longest record that is read unless told otherwise.
pub const RECORD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A record that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRecord {
    /// Offset of its first byte in the unpacked stream.
    pub position: u64,
    /// Line of its first byte, from one.
    pub line: u64,
    /// Its bytes, without white space at the end.
    pub raw: Bytes,
    /// What is wrong with it.
    pub reason: String,
}
