//! Delivery: batches of records to objects, exactly once.
//!
//! ```text
//! log --read--> rules --record--> batch --cut--> decide --> upload --> advance
//!      from the cursor                     |       |           |          |
//!                                          |   one row in   bucket   one row in the
//!                                          |   the store             store, then the
//!                                          +-- by size or age        journal's cursor
//! ```
//!
//! A stream is a cursor into the log. What it promises:
//!
//! * Every offset from the stream's first on is looked at exactly once: the ranges of its
//!   objects neither overlap nor leave gaps.
//! * A batch `first..next` is decided once, durably, before anything is uploaded. Its objects'
//!   names and bytes follow from the log and the decision, so that carrying it out again after a
//!   crash, or after an answer that was lost, overwrites the same objects with the same bytes.
//! * The cursor moves only when the objects are on stable storage; the log keeps what the
//!   cursor has not passed.
//! * Every record that a rule matched becomes a record in an object or a line in the error
//!   prefix with its reason and its raw bytes: matched = acted + set aside.
//! * An object store that fails is tried again for ever; other streams and the log go on.
//!
//! Between the rule and the batch a stream may take records apart, send each to the partition
//! that a jq query names, turn it into a row of Parquet, and keep it as it came. All of that
//! follows from the log and the decision as well; the columns of a conversion are part of it.
//!
//! Besides the streams, one worker republishes rules' outputs and reports of failed actions
//! into the log (`republish`).
//!
//! This room does not know who published or who reads the lake.

mod batch;
mod convert;
mod cut;
mod engine;
mod fate;
mod lineage;
mod live;
mod pack;
mod partition;
mod prefix;
mod republish;
mod shelf;
mod stream;
mod streams;
mod tail;
mod worker;

#[cfg(test)]
mod tests;

pub use convert::Schemas;
pub use fate::{Fate, FateState};
pub use republish::{HOPS_MAX, RepublishTotals};
pub use stream::{
    Backup, Balance, Column, Compression, Conversion, DIRECT_PUT_PREFIX, Deaggregation, Decision,
    NewStream, ObjectPlan, Partitioning, StreamRow, StreamState, Tally,
};
pub use streams::{Settings, StreamStatus, Streams};
pub use tail::{Mark, Undelivered};
pub use worker::Publisher;
