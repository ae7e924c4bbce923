//! Bytes to and from Arrow batches: the scans of JSON and CSV, schema inference, Parquet, and
//! rows as lines of text.
//!
//! What a reader of this crate may count on:
//! * A scan never stops at a bad record: it goes to the sink with its place, its bytes and
//!   the reason, and records kept plus records set aside is records found.
//! * Memory is bounded by a stated record size and batch size, whatever the input is.
//! * Bad bytes are errors. Decoders of others that panic on corrupt files are caught here.
//!
//! No query engine, no catalog, no object store: files and `Read` in, Arrow out.

mod ahead;
mod compression;
pub mod csv;
pub mod hive;
pub mod json;
pub mod parquet;
pub mod text;

pub use compression::{Compression, Encoder, decode, decode_object};
