//! A batch on its way to an object.
//!
//! Invariants
//! * It covers consecutive offsets `first..next`, also those that gave nothing.
//! * Its bytes are a function of these offsets' records and the rules in force at them.
//! * `tally.matched = tally.acted + tally.set_aside`.

use std::io::Write;
use std::time::Instant;

use base::{Error, MessageRef, Offset, Result, Timestamp};
use bytes::Bytes;
use flate2::{Compression as Level, Crc, GzBuilder};
use rules::base64;
use serde_json::json;

use crate::stream::{Compression, Tally};

/// Records and errors of a range of offsets.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) first: Offset,
    pub(crate) next: Offset,
    pub(crate) tally: Tally,
    records: Pile,
    errors: Pile,
    /// When the first record or error was put in, by the clock that does not jump.
    since: Option<Instant>,
}

/// Bytes of one object to be.
#[derive(Debug, Default)]
struct Pile {
    bytes: Vec<u8>,
    oldest: Option<Timestamp>,
}

/// Bytes ready to be uploaded.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    pub(crate) bytes: Bytes,
    pub(crate) crc32: u32,
    /// When the oldest record in it arrived.
    pub(crate) oldest: Timestamp,
}

/// Why a record was set aside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reason<'r> {
    /// One of a few words, counted by.
    pub(crate) code: &'static str,
    /// For people.
    pub(crate) message: &'r str,
}

impl Batch {
    /// An empty batch from `first` on.
    pub(crate) fn new(first: Offset) -> Batch {
        Batch {
            first,
            next: first,
            tally: Tally::default(),
            records: Pile::default(),
            errors: Pile::default(),
            since: None,
        }
    }

    /// Whether it holds neither records nor errors. It may still cover offsets.
    pub(crate) fn is_empty(&self) -> bool {
        self.records.oldest.is_none() && self.errors.oldest.is_none()
    }

    /// Bytes held in memory.
    pub(crate) fn held_bytes(&self) -> u64 {
        (self.records.bytes.len() + self.errors.bytes.len()) as u64
    }

    /// When the first record or error was put in.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Adds a record and what comes after it.
    pub(crate) fn push_record(&mut self, record: &[u8], after: [Option<&str>; 2], at: Timestamp) {
        let before = self.records.bytes.len();
        self.records.bytes.extend_from_slice(record);
        for text in after.into_iter().flatten() {
            self.records.bytes.extend_from_slice(text.as_bytes());
        }
        self.tally.records += 1;
        self.tally.record_bytes += (self.records.bytes.len() - before) as u64;
        self.records.note(at);
        self.since.get_or_insert_with(Instant::now);
    }

    /// Sets a message aside: a line with its raw bytes, in the shape of Firehose's error
    /// records and with what traces it to the log.
    pub(crate) fn push_error(
        &mut self,
        offset: Offset,
        message: &MessageRef<'_>,
        rule: (&str, u64),
        reason: Reason<'_>,
    ) {
        let line = json!({
            "attemptsMade": 1,
            "arrivalTimestamp": message.received_at.millis(),
            "errorCode": reason.code,
            "errorMessage": reason.message,
            "rawData": base64::encode(message.payload),
            "offset": offset.0,
            "topic": message.topic,
            "clientId": message.client_id,
            "rule": rule.0,
            "ruleVersion": rule.1,
        });
        self.errors.bytes.extend_from_slice(line.to_string().as_bytes());
        self.errors.bytes.push(b'\n');
        *self.tally.set_aside.entry(reason.code.to_owned()).or_default() += 1;
        self.errors.note(message.received_at);
        self.since.get_or_insert_with(Instant::now);
    }

    /// Counts log records that cannot be read any more.
    pub(crate) fn skip(&mut self, reason: &str, count: u64) {
        *self.tally.skipped.entry(reason.to_owned()).or_default() += count;
    }

    /// The object of records, packed; `None` if there are no records.
    pub(crate) fn pack_records(&mut self, compression: Compression) -> Result<Option<Packed>> {
        let bytes = std::mem::take(&mut self.records.bytes);
        match self.records.oldest {
            None => Ok(None),
            Some(oldest) => Ok(Some(pack(compress(bytes, compression)?, oldest))),
        }
    }

    /// The object of errors, as lines; `None` if there are no errors.
    pub(crate) fn pack_errors(&mut self) -> Option<Packed> {
        let bytes = std::mem::take(&mut self.errors.bytes);
        self.errors.oldest.map(|oldest| pack(bytes, oldest))
    }
}

impl Pile {
    fn note(&mut self, at: Timestamp) {
        self.oldest = Some(self.oldest.map_or(at, |oldest| oldest.min(at)));
    }
}

fn pack(bytes: Vec<u8>, oldest: Timestamp) -> Packed {
    let mut crc = Crc::new();
    crc.update(&bytes);
    Packed { crc32: crc.sum(), bytes: Bytes::from(bytes), oldest }
}

fn compress(bytes: Vec<u8>, compression: Compression) -> Result<Vec<u8>> {
    if compression == Compression::None {
        return Ok(bytes);
    }
    let failed = |cause: std::io::Error| Error::io("failed to compress a batch", cause);
    let packed = Vec::with_capacity(bytes.len() / 4);
    let mut gzip = GzBuilder::new().mtime(0).write(packed, Level::default());
    gzip.write_all(&bytes).map_err(failed)?;
    gzip.finish().map_err(failed)
}
