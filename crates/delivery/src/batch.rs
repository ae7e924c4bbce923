//! A batch on its way to an object.
//!
//! Invariants
//! * It covers consecutive offsets `first..next`, also those that gave nothing.
//! * Its bytes are a function of these offsets' records and the rules in force at them.
//! * `tally.matched = tally.acted + tally.set_aside`, where a match of which any part was set
//!   aside counts as set aside, once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use base::{MessageRef, Offset, Result, Timestamp};
use bytes::Bytes;
use flate2::Crc;
use rules::base64;
use serde_json::{Value, json};

use crate::convert;
use crate::pack::pack;
use crate::prefix::{Failure, Kind, Prefixes};
use crate::stream::{Column, Compression, Conversion, StreamRow, Tally};

/// The code of a record whose values do not fit the table's columns.
const DOES_NOT_FIT: &str = "DataFormatConversion.MalformedData";

/// Records and errors of a range of offsets.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) first: Offset,
    pub(crate) next: Offset,
    pub(crate) tally: Tally,
    piles: BTreeMap<Kind, Pile>,
    /// Bytes in all piles.
    held_bytes: u64,
    /// Piles of records.
    partitions: usize,
    /// Matches, by their number, of which something was set aside.
    failed: BTreeSet<u64>,
    /// When the first record or error was put in, by the clock that does not jump.
    since: Option<Instant>,
    /// A buffer that was used before, for the next pile of records.
    spare: Vec<u8>,
}

/// Bytes of one object to be.
#[derive(Debug)]
struct Pile {
    bytes: Vec<u8>,
    oldest: Timestamp,
    /// Where each record begins and whence it came, where records are to be converted.
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    start: usize,
    source: Source,
}

/// Whence a record came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source {
    /// The log record.
    pub(crate) offset: Offset,
    /// When it arrived.
    pub(crate) at: Timestamp,
    /// Which match it is of, counted within the batch.
    pub(crate) matched: u64,
    /// Which record of the match.
    pub(crate) part: u32,
}

/// Bytes ready to be uploaded, and where.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    pub(crate) kind: Kind,
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) bytes: Bytes,
    pub(crate) crc32: u32,
}

/// What packing needs besides the batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packing<'p> {
    pub(crate) row: &'p StreamRow,
    pub(crate) prefixes: &'p Prefixes,
    pub(crate) log_id: &'p str,
    /// The columns, where records are converted.
    pub(crate) columns: Option<&'p [Column]>,
}

/// Why a record was set aside.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reason<'r> {
    /// Under which part of the error prefix.
    pub(crate) failure: Failure,
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
            piles: BTreeMap::new(),
            held_bytes: 0,
            partitions: 0,
            failed: BTreeSet::new(),
            since: None,
            spare: Vec::new(),
        }
    }

    /// Takes over the largest buffer of a batch that was delivered. Grown from nothing for each
    /// batch, they leave holes of all sizes behind, and the allocator keeps those.
    pub(crate) fn recycle(&mut self, spare: Vec<u8>, objects: Vec<Packed>) {
        let unused = objects.into_iter().filter(|object| object.bytes.is_unique());
        let buffers = unused.map(|object| Vec::from(object.bytes)).chain([spare]);
        self.keep(buffers.max_by_key(Vec::capacity).unwrap_or_default());
    }

    /// Of the buffer and the one that is kept, keeps the larger.
    fn keep(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() > self.spare.capacity() {
            buffer.clear();
            self.spare = buffer;
        }
    }

    /// The buffer that packing left over.
    pub(crate) fn take_spare(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.spare)
    }

    /// Whether it holds neither records nor errors. It may still cover offsets.
    pub(crate) fn is_empty(&self) -> bool {
        self.piles.is_empty()
    }

    /// Bytes held in memory.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// Partitions that have records in it.
    pub(crate) fn partitions(&self) -> usize {
        self.partitions
    }

    /// When the first record or error was put in.
    pub(crate) fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Counts a match and gives its number.
    pub(crate) fn begin_match(&mut self) -> u64 {
        self.tally.matched += 1;
        self.tally.acted += 1;
        self.tally.matched
    }

    fn fail(&mut self, matched: u64, code: &str) {
        if self.failed.insert(matched) {
            self.tally.acted -= 1;
            *self.tally.set_aside.entry(code.to_owned()).or_default() += 1;
        }
    }

    /// Whether a pile of this kind is there already.
    pub(crate) fn has(&self, kind: &Kind) -> bool {
        self.piles.contains_key(kind)
    }

    /// Adds a record and what comes after it to the partition with these values.
    pub(crate) fn push_record(
        &mut self,
        values: Vec<String>,
        record: &[u8],
        after: [Option<&str>; 2],
        source: Source,
    ) {
        let kind = Kind::Records(values);
        self.partitions += usize::from(!self.has(&kind));
        self.tally.records += 1;
        self.tally.record_bytes += self.push(kind, source.at, record, after);
    }

    /// Adds a JSON object that is to become a row.
    pub(crate) fn push_row(&mut self, values: Vec<String>, object: &[u8], source: Source) {
        let kind = Kind::Records(values.clone());
        let start = self.piles.get(&kind).map_or(0, |pile| pile.bytes.len());
        self.push_record(values, object, [Some("\n"), None], source);
        if let Some(pile) = self.piles.get_mut(&kind) {
            pile.rows.push(Row { start, source });
        }
    }

    /// Adds a record as it came.
    pub(crate) fn push_backup(&mut self, record: &[u8], after: Option<&str>, at: Timestamp) {
        self.push(Kind::Backup, at, record, [after, None]);
    }

    fn push(&mut self, kind: Kind, at: Timestamp, bytes: &[u8], after: [Option<&str>; 2]) -> u64 {
        let large = matches!(kind, Kind::Records(_));
        let spare = &mut self.spare;
        let empty = || {
            let bytes = if large { std::mem::take(spare) } else { Vec::new() };
            Pile { bytes, oldest: at, rows: Vec::new() }
        };
        let pile = self.piles.entry(kind).or_insert_with(empty);
        let before = pile.bytes.len();
        pile.bytes.extend_from_slice(bytes);
        for text in after.into_iter().flatten() {
            pile.bytes.extend_from_slice(text.as_bytes());
        }
        pile.oldest = pile.oldest.min(at);
        let added = (pile.bytes.len() - before) as u64;
        self.held_bytes += added;
        self.since.get_or_insert_with(Instant::now);
        added
    }

    /// Sets a record aside: a line with its raw bytes, in the shape of Firehose's error
    /// records and with what traces it to the log.
    pub(crate) fn push_error(
        &mut self,
        raw: &[u8],
        message: &MessageRef<'_>,
        rule: Option<(&str, u64)>,
        source: Source,
        reason: Reason<'_>,
    ) {
        let mut line = json!({
            "attemptsMade": 1,
            "arrivalTimestamp": source.at.millis(),
            "errorCode": reason.code,
            "errorMessage": reason.message,
            "rawData": base64::encode(raw),
            "offset": source.offset.0,
            "topic": message.topic,
            "clientId": message.client_id,
        });
        if let Some((rule, version)) = rule {
            line["rule"] = json!(rule);
            line["ruleVersion"] = json!(version);
        }
        self.push_line(&line, source, reason);
    }

    fn push_line(&mut self, line: &Value, source: Source, reason: Reason<'_>) {
        let line = line.to_string();
        self.push(Kind::Errors(reason.failure), source.at, line.as_bytes(), [Some("\n"), None]);
        self.fail(source.matched, reason.code);
    }

    /// Counts log records that cannot be read any more.
    pub(crate) fn skip(&mut self, reason: &str, count: u64) {
        *self.tally.skipped.entry(reason.to_owned()).or_default() += count;
    }

    /// The objects it makes, in the order of their upload. The batch is empty then, and its
    /// tally says what the objects hold.
    pub(crate) fn pack(&mut self, packing: &Packing<'_>) -> Result<Vec<Packed>> {
        let settings = &packing.row.settings;
        if let (Some(conversion), Some(columns)) = (&settings.conversion, packing.columns) {
            self.convert(conversion, columns)?;
        }
        let mut objects = Vec::with_capacity(self.piles.len());
        for (kind, pile) in std::mem::take(&mut self.piles) {
            let (bucket, compression) = match (&kind, &settings.backup) {
                (Kind::Records(_), _) => (&settings.bucket, settings.compression),
                (Kind::Backup, Some(backup)) => (&backup.bucket, backup.compression),
                (Kind::Errors(_) | Kind::Backup, _) => (&settings.bucket, Compression::None),
            };
            let range = (self.first, self.next);
            let prefixes = packing.prefixes;
            let key = prefixes.key(packing.row, packing.log_id, &kind, range, pile.oldest);
            let bytes = match compression {
                Compression::None => pile.bytes,
                _ => {
                    let packed = pack(&pile.bytes, compression, &key)?;
                    self.keep(pile.bytes);
                    packed
                }
            };
            let mut crc = Crc::new();
            crc.update(&bytes);
            match &kind {
                Kind::Records(_) => {
                    self.tally.objects += 1;
                    self.tally.object_bytes += bytes.len() as u64;
                }
                Kind::Errors(_) => self.tally.error_objects += 1,
                Kind::Backup => self.tally.backup_objects += 1,
            }
            objects.push(Packed {
                kind,
                bucket: bucket.clone(),
                key,
                crc32: crc.sum(),
                bytes: Bytes::from(bytes),
            });
        }
        Ok(objects)
    }

    /// Makes Parquet of every pile of records, and errors of what does not fit.
    fn convert(&mut self, conversion: &Conversion, columns: &[Column]) -> Result<()> {
        for (kind, mut pile) in std::mem::take(&mut self.piles) {
            if !matches!(kind, Kind::Records(_)) {
                // A pile of errors may have been begun by an earlier one of these.
                self.piles.entry(kind).and_modify(|begun| begun.join(&pile)).or_insert(pile);
                continue;
            }
            let mut misfits = Vec::new();
            let rows = &pile.rows;
            let converted =
                convert::to_parquet(conversion, columns, &pile.bytes, &mut |place, why| {
                    let index = rows.partition_point(|row| row.start <= place).max(1) - 1;
                    misfits.push((index, why));
                })?;
            for (index, why) in misfits {
                let Some(row) = pile.rows.get(index) else { continue };
                let end = pile.rows.get(index + 1).map_or(pile.bytes.len(), |next| next.start);
                let raw = pile.bytes[row.start..end].trim_ascii_end();
                self.tally.records -= 1;
                self.push_unconverted(raw, row.source, conversion, (DOES_NOT_FIT, &why));
            }
            if let Some(bytes) = converted {
                self.keep(std::mem::replace(&mut pile.bytes, bytes));
                pile.rows = Vec::new();
                self.piles.insert(kind, pile);
            }
        }
        Ok(())
    }

    /// Sets aside what could not be converted, in the shape that Firehose documents for it.
    pub(crate) fn push_unconverted(
        &mut self,
        raw: &[u8],
        source: Source,
        conversion: &Conversion,
        (code, why): (&'static str, &str),
    ) {
        let line = json!({
            "attemptsMade": 1,
            "arrivalTimestamp": source.at.millis(),
            "lastErrorCode": code,
            "lastErrorMessage": why,
            // Not the clock's: made again, the line must be the same.
            "attemptEndingTimestamp": source.at.millis(),
            "rawData": base64::encode(raw),
            "sequenceNumber": source.offset.to_string(),
            "subSequenceNumber": source.part,
            "dataCatalogTable": {
                "databaseName": conversion.database,
                "tableName": conversion.table,
                "versionId": conversion.version.map_or("LATEST".to_owned(), |n| n.to_string()),
            },
        });
        let reason = Reason { failure: Failure::Conversion, code, message: why };
        self.push_line(&line, source, reason);
    }
}

impl Pile {
    fn join(&mut self, other: &Pile) {
        self.bytes.extend_from_slice(&other.bytes);
        self.oldest = self.oldest.min(other.oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_a_mebibyte(batch: &mut Batch) -> (*const u8, usize) {
        let source = Source { offset: Offset(0), at: Timestamp(0), matched: 1, part: 0 };
        for _ in 0..1024 {
            batch.push_record(Vec::new(), &[b'x'; 1024], [None, None], source);
        }
        let bytes = &batch.piles.values().next().unwrap().bytes;
        (bytes.as_ptr(), bytes.capacity())
    }

    #[test]
    fn the_largest_buffer_of_a_batch_is_the_next_ones() {
        let mut batch = Batch::new(Offset(0));
        let first = of_a_mebibyte(&mut batch);
        let (_, pile) = batch.piles.pop_first().unwrap();
        let object = |bytes: Bytes| Packed {
            kind: Kind::Records(Vec::new()),
            bucket: String::new(),
            key: String::new(),
            bytes,
            crc32: 0,
        };
        let large = object(Bytes::from(pile.bytes));
        let small = object(Bytes::from_static(b"errors"));
        let mut next = Batch::new(Offset(1));
        // What somebody still reads is theirs.
        let reader = large.clone();
        next.recycle(Vec::new(), vec![large]);
        assert_eq!(next.spare.capacity(), 0);
        next.recycle(vec![1, 2, 3], vec![reader, small]);
        assert!(next.spare.is_empty());
        assert_eq!(of_a_mebibyte(&mut next), first);
        // Packing leaves the larger one over.
        next.keep(vec![0; 10]);
        assert_eq!(next.take_spare().capacity(), 10);
    }
}
