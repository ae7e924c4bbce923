//! The durable log: what arrives is a record here before anybody is told that it arrived.
//!
//! One trait, [`Journal`], and what it promises:
//!
//! * An offset below [`Journal::durable`] is on stable storage: a sync that covers it returned
//!   without an error. Nothing else may be acknowledged.
//! * Offsets are dense and never given twice, across any number of restarts.
//! * A reader sees durable records only, unaltered, or is told which offsets it skipped and why.
//! * The log is bounded in bytes. When it is full it refuses; it never drops.
//! * After a failed sync nothing is acknowledged again until the log is opened anew.
//!
//! [`SegmentLog`] keeps it in a folder:
//!
//! ```
//! use std::time::Duration;
//! use journal::{Batch, Journal, Options, SegmentLog};
//!
//! # fn main() -> base::Result<()> {
//! # let folder = tempfile::tempdir().expect("a temporary folder can be made");
//! let log = SegmentLog::open(folder.path(), Options::default())?;
//! let mut batch = Batch::new();
//! batch.push(|out| {
//!     out.extend_from_slice(b"a reading");
//!     Ok(())
//! })?;
//! let appended = log.append(&batch, None)?;
//! log.wait_durable(appended.first, Duration::from_secs(5));
//! assert_eq!(log.read(appended.first, 1024)?.items[0].1, "a reading");
//! # Ok(())
//! # }
//! ```
//!
//! What it does not do: it keeps no copy elsewhere, so a disk that loses whole files loses
//! records (they are then reported as skipped); and it trusts the disk to write a sector of
//! 512 bytes whole or not at all, and to have written what a sync answered for.

mod batch;
mod bell;
mod commit;
mod cursors;
mod disk;
mod frame;
mod latency;
mod log;
mod queue;
mod recent;
mod recover;
mod segment;
mod supply;
mod sync;

use std::sync::Arc;
use std::time::Duration;

use base::{Offset, Result};
use bytes::Bytes;
use serde::Serialize;

pub use batch::Batch;
pub use bell::Bell;
pub use latency::Receipts;
pub use log::{Options, SegmentLog};

/// The offsets given to one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The offset of the first record.
    pub first: Offset,
    /// How many records.
    pub count: u64,
}

impl Appended {
    /// The offset after the last record: durable once the watermark is here or further.
    pub fn next(&self) -> Offset {
        self.first.plus(self.count)
    }
}

/// What a read found.
#[derive(Clone, Debug)]
pub struct Records {
    /// Durable records in order. They share the memory of whole commits: copy what is kept
    /// for long.
    pub items: Vec<(Offset, Bytes)>,
    /// Where to read on.
    pub next: Offset,
    /// Ranges between the asked offset and `next` that hold no record any more.
    pub skipped: Vec<Skipped>,
}

/// Offsets `from..to` that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The first offset skipped.
    pub from: Offset,
    /// The first offset after the gap.
    pub to: Offset,
    /// Why.
    pub reason: SkipReason,
}

/// Why offsets cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SkipReason {
    /// Every consumer had passed them and they were dropped.
    Trimmed,
    /// Their bytes on disk are not what was written.
    Corrupt,
    /// No trace of them is left: a segment file is gone, or the end of one.
    Missing,
}

/// The state of a log, for health checks and people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// See [`Journal::id`].
    pub id: String,
    /// The oldest offset kept.
    pub first: Offset,
    /// Everything below is on stable storage.
    pub durable: Offset,
    /// The offset the next record will get.
    pub next: Offset,
    /// Bytes of log in use: whole segments, and the written part of the last.
    pub bytes: u64,
    /// The bound on all segment files together.
    pub bytes_max: u64,
    /// Segments that hold records.
    pub segments: usize,
    /// Why the log stopped acknowledging, if it did.
    pub failed: Option<String>,
    /// Why the log cannot grow at the moment, if it cannot.
    pub blocked: Option<String>,
    /// Damaged places met since the log was opened, each counted once; what nobody reads is
    /// not looked at.
    pub corrupt_batches: u64,
    /// Records lost in them.
    pub corrupt_records: u64,
    /// Syncs since the log was opened.
    pub commits: u64,
    /// Each consumer's durable cursor, by name.
    pub cursors: Vec<(String, Offset)>,
}

/// A durable log of records. See the crate's documentation for its promises.
pub trait Journal: Send + Sync + std::fmt::Debug {
    /// A random name made when the log was created (hexadecimal).
    fn id(&self) -> &str;

    /// Gives the batch its offsets and queues it for the next commit; never waits for the disk.
    /// `bell` is rung at the commit that covers the batch. An empty batch gets no offset and
    /// rings nothing.
    ///
    /// `Exhausted`: the log is full and nothing was appended. `Unavailable`: its storage failed.
    /// `Invalid`: the batch is longer than the log takes at once.
    fn append(&self, batch: &Batch, bell: Option<&Arc<Bell>>) -> Result<Appended>;

    /// As [`append`](Self::append), for a caller who has more to append at once: a commit need
    /// not begin before [`nudge`](Self::nudge), which the caller owes.
    fn append_some(&self, batch: &Batch, bell: Option<&Arc<Bell>>) -> Result<Appended> {
        self.append(batch, bell)
    }

    /// Begins a commit of what [`append_some`](Self::append_some) took, if none has begun.
    fn nudge(&self) {}

    /// Exclusive: everything below is on stable storage.
    fn durable(&self) -> Offset;

    /// The oldest offset still kept.
    fn first(&self) -> Offset;

    /// Reads durable records from `from` on, about `bytes_max` bytes of them, but at least one
    /// if there is one. From below [`first`](Self::first), and over damage, it reports what it
    /// skipped and goes on. An offset that was never given is `Invalid`.
    fn read(&self, from: Offset, bytes_max: usize) -> Result<Records>;

    /// A bell that is rung at every commit until it is dropped, for tailing readers.
    fn watch(&self) -> Arc<Bell>;

    /// Blocks until the watermark is beyond `past`, the log failed, or `timeout` is over;
    /// returns the watermark.
    fn wait_durable(&self, past: Offset, timeout: Duration) -> Offset;

    /// False above the high-water mark: sockets should then not be read.
    fn has_room(&self) -> bool;

    /// Moves a consumer's cursor to `next`, durably. A cursor moves only forward, and never
    /// beyond the watermark.
    fn commit(&self, consumer: &str, next: Offset) -> Result<()>;

    /// A consumer's cursor, if it has one.
    fn committed(&self, consumer: &str) -> Result<Option<Offset>>;

    /// Removes a consumer's cursor, so that it holds nothing back any more.
    fn forget(&self, consumer: &str) -> Result<()>;

    /// Drops whole segments that every consumer has passed, and returns the oldest offset kept.
    /// Without consumers nothing is dropped.
    fn trim(&self) -> Result<Offset>;

    /// The state, for health checks and people.
    fn status(&self) -> Status;
}
