//! One segment: a file of fixed size that holds consecutive batches.
//!
//! ```text
//! segment = head (4096 bytes) | batch* | whatever was there before
//! head    = magic 8 | generation u64 | base offset u64 | log id 16 | crc32c u32 | zeros
//! batch   = magic u32 | count u32 | bytes u32 | crc32c u32 | base offset u64 | records
//! ```
//! All integers are little-endian. A file is used again after its records are trimmed, each
//! use under a new generation. The generation seeds every batch's checksum, so that a batch
//! of an earlier use never reads as one of this use. The end of a segment is where the chain
//! of valid batches breaks; a break with a valid batch of this use behind it is damage.

use std::io;

use base::Offset;

use crate::disk::SegmentFile;

pub(crate) const HEAD_BYTES: u64 = 4096;
pub(crate) const BATCH_HEAD_BYTES: usize = 24;
const SEGMENT_MAGIC: &[u8; 8] = b"FBAYLOG1";
const BATCH_MAGIC: u32 = 0x4842_4146;
/// Between two entries of the sparse index.
const INDEX_EVERY_BYTES: u64 = 64 * 1024;

/// Who a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) generation: u64,
    pub(crate) base: Offset,
    pub(crate) log_id: [u8; 16],
}

impl Head {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEAD_BYTES as usize);
        out.extend_from_slice(SEGMENT_MAGIC);
        out.extend_from_slice(&self.generation.to_le_bytes());
        out.extend_from_slice(&self.base.0.to_le_bytes());
        out.extend_from_slice(&self.log_id);
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out.resize(HEAD_BYTES as usize, 0);
        out
    }

    /// `None` when the bytes are not a head.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Head> {
        let (body, rest) = bytes.split_at_checked(40)?;
        if !body.starts_with(SEGMENT_MAGIC) || u32_at(rest, 0)? != crc32c::crc32c(body) {
            return None;
        }
        let log_id = body[24..40].try_into().ok()?;
        Some(Head { generation: u64_at(body, 8)?, base: Offset(u64_at(body, 16)?), log_id })
    }
}

/// The head of one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchHead {
    pub(crate) count: u32,
    pub(crate) bytes: u32,
    crc: u32,
    pub(crate) base: Offset,
}

impl BatchHead {
    pub(crate) fn next(&self) -> Offset {
        self.base.plus(u64::from(self.count))
    }

    pub(crate) fn batch_bytes(&self) -> u64 {
        BATCH_HEAD_BYTES as u64 + u64::from(self.bytes)
    }

    fn decode(bytes: &[u8]) -> Option<BatchHead> {
        if u32_at(bytes, 0)? != BATCH_MAGIC {
            return None;
        }
        let head = BatchHead {
            count: u32_at(bytes, 4)?,
            bytes: u32_at(bytes, 8)?,
            crc: u32_at(bytes, 12)?,
            base: Offset(u64_at(bytes, 16)?),
        };
        (head.count > 0).then_some(head)
    }

    /// The batch at the start of `bytes`, if it is whole and of this generation.
    pub(crate) fn read(bytes: &[u8], generation: u64) -> Option<BatchHead> {
        let head = BatchHead::decode(bytes)?;
        let end = BATCH_HEAD_BYTES.checked_add(head.bytes as usize)?;
        let payload = bytes.get(BATCH_HEAD_BYTES..end)?;
        let crc = checksum(generation, head.count, head.bytes, head.base, payload);
        (crc == head.crc).then_some(head)
    }
}

/// Fills in the first [`BATCH_HEAD_BYTES`] of `batch`, whose records follow them.
pub(crate) fn seal(batch: &mut [u8], generation: u64, base: Offset, count: u32) {
    let (head, payload) = batch.split_at_mut(BATCH_HEAD_BYTES);
    let bytes = u32::try_from(payload.len()).expect("a batch is smaller than its segment");
    let crc = checksum(generation, count, bytes, base, payload);
    head[0..4].copy_from_slice(&BATCH_MAGIC.to_le_bytes());
    head[4..8].copy_from_slice(&count.to_le_bytes());
    head[8..12].copy_from_slice(&bytes.to_le_bytes());
    head[12..16].copy_from_slice(&crc.to_le_bytes());
    head[16..24].copy_from_slice(&base.0.to_le_bytes());
}

fn checksum(generation: u64, count: u32, bytes: u32, base: Offset, payload: &[u8]) -> u32 {
    let mut fields = [0u8; 24];
    fields[0..8].copy_from_slice(&generation.to_le_bytes());
    fields[8..12].copy_from_slice(&count.to_le_bytes());
    fields[12..16].copy_from_slice(&bytes.to_le_bytes());
    fields[16..24].copy_from_slice(&base.0.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&fields), payload)
}

/// What a segment holds, without its bytes.
#[derive(Debug)]
pub(crate) struct Contents {
    /// The offset after the last valid batch.
    pub(crate) next: Offset,
    /// Where the next batch goes.
    pub(crate) end: u64,
    /// Some batches: the first offset and position, at least every 64 KiB.
    pub(crate) index: Vec<(Offset, u64)>,
    /// Offsets lost between valid batches.
    pub(crate) damaged: Vec<(Offset, Offset)>,
}

impl Contents {
    pub(crate) fn empty(base: Offset) -> Self {
        Contents { next: base, end: HEAD_BYTES, index: Vec::new(), damaged: Vec::new() }
    }

    /// Notes a batch written or found at `position`.
    pub(crate) fn add(&mut self, base: Offset, next: Offset, position: u64, bytes: u64) {
        let due = self.index.last().is_none_or(|(_, at)| position - at >= INDEX_EVERY_BYTES);
        if due {
            self.index.push((base, position));
        }
        self.next = next;
        self.end = position + bytes;
    }

    /// Where to start looking for `offset`.
    pub(crate) fn seek(&self, offset: Offset) -> u64 {
        let after = self.index.partition_point(|(first, _)| *first <= offset);
        after.checked_sub(1).map_or(HEAD_BYTES, |at| self.index[at].1)
    }
}

/// Reads a whole segment and finds its valid batches.
pub(crate) fn scan(file: &dyn SegmentFile, head: &Head) -> io::Result<Contents> {
    let mut bytes = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
    file.read_at(&mut bytes, 0)?;
    let mut contents = Contents::empty(head.base);
    let mut position = HEAD_BYTES as usize;
    while let Some((at, batch)) = next_batch(&bytes, position, head.generation, contents.next) {
        if batch.base > contents.next {
            contents.damaged.push((contents.next, batch.base));
        }
        contents.add(batch.base, batch.next(), at as u64, batch.batch_bytes());
        position = at + batch.batch_bytes() as usize;
    }
    Ok(contents)
}

/// The batch at `position`, or the first valid one behind it.
pub(crate) fn next_batch(
    bytes: &[u8],
    position: usize,
    generation: u64,
    expected: Offset,
) -> Option<(usize, BatchHead)> {
    let magic = BATCH_MAGIC.to_le_bytes();
    let mut from = position;
    loop {
        let rest = bytes.get(from..)?;
        if let Some(batch) = BatchHead::read(rest, generation)
            && batch.base >= expected
        {
            return Some((from, batch));
        }
        // Records may hold the magic by chance; the checksum decides.
        let found = rest.get(1..)?.windows(4).position(|window| window == magic)?;
        from += 1 + found;
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
