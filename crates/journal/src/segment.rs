//! One segment: a file of fixed size that holds consecutive frames.
//!
//! ```text
//! segment = head (4096 bytes) | frame* | whatever was there before
//! head    = copy at 0 | copy at 2048       copy = magic 8 | generation u64 | salt u64
//!         | base offset u64 | file bytes u64 | log id 16 | crc32c u32
//! ```
//! A file is used again after its records are trimmed, each use under a higher generation and
//! a new random salt; both seed the checksum of every frame (see [`crate::frame`]).
//!
//! Frames form a chain: each starts where the one before ends and at the offset that follows.
//! Where the chain breaks, the next frame of this use further on is looked for, and what lies
//! between is damage. Without one the chain has ended.

use std::io;
use std::sync::{Arc, Mutex};

use base::Offset;
use bytes::Bytes;

use crate::batch::PREFIX_BYTES;
use crate::disk::SegmentFile;
use crate::frame::{self, Frame, MAGIC, u32_at, u64_at};
use crate::sync::lock;
use crate::{Records, SkipReason, Skipped};

/// Where the first frame starts, and the unit of writing.
pub(crate) const PAGE_BYTES: u64 = 4096;
const SEGMENT_MAGIC: &[u8; 8] = b"FBAYLOG2";
/// The second copy of a head lies in another sector than the first.
const COPY_AT: usize = 2048;
const HEAD_BODY_BYTES: usize = 56;
/// Between two entries of the sparse index.
const INDEX_EVERY_BYTES: u64 = 256 * 1024;
/// Most bytes read from the file at once, unless one frame is longer.
const CHUNK_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Bytes looked through at once behind a break.
const SEARCH_BYTES: usize = 1024 * 1024;

/// Who a segment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) generation: u64,
    pub(crate) salt: u64,
    pub(crate) base: Offset,
    pub(crate) bytes: u64,
    pub(crate) log_id: [u8; 16],
}

impl Head {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut copy = Vec::with_capacity(PAGE_BYTES as usize);
        copy.extend_from_slice(SEGMENT_MAGIC);
        for field in [self.generation, self.salt, self.base.0, self.bytes] {
            copy.extend_from_slice(&field.to_le_bytes());
        }
        copy.extend_from_slice(&self.log_id);
        copy.extend_from_slice(&crc32c::crc32c(&copy).to_le_bytes());
        copy.resize(COPY_AT, 0);
        copy.extend_from_within(..);
        assert_eq!(copy.len(), PAGE_BYTES as usize);
        copy
    }

    /// `None` when neither copy is whole.
    pub(crate) fn decode(page: &[u8]) -> Option<Head> {
        let copies = [Some(page), page.get(COPY_AT..)];
        copies.into_iter().flatten().find_map(Head::decode_copy)
    }

    fn decode_copy(bytes: &[u8]) -> Option<Head> {
        let (body, rest) = bytes.split_at_checked(HEAD_BODY_BYTES)?;
        if !body.starts_with(SEGMENT_MAGIC) || u32_at(rest, 0)? != crc32c::crc32c(body) {
            return None;
        }
        Some(Head {
            generation: u64_at(body, 8)?,
            salt: u64_at(body, 16)?,
            base: Offset(u64_at(body, 24)?),
            bytes: u64_at(body, 32)?,
            log_id: *body.get(40..)?.first_chunk()?,
        })
    }

    /// What the checksums of this use of the file start from.
    fn seed(&self) -> u32 {
        let generation =
            crc32c::crc32c_append(crc32c::crc32c(&self.log_id), &self.generation.to_le_bytes());
        crc32c::crc32c_append(generation, &self.salt.to_le_bytes())
    }
}

/// A segment that is read by many and written by the one writer.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) name: String,
    pub(crate) head: Head,
    pub(crate) seed: u32,
    /// The length of its file.
    pub(crate) bytes: u64,
    pub(crate) file: Box<dyn SegmentFile>,
    /// Some frames, by offset and position; grows as the segment is written or walked.
    index: Mutex<Vec<(Offset, u64)>>,
}

/// What lies at an offset.
enum Place {
    Frame(u64, Frame),
    /// Nothing from `from` to `to`.
    Gap(Skipped),
}

impl Segment {
    pub(crate) fn new(name: String, head: Head, bytes: u64, file: Box<dyn SegmentFile>) -> Self {
        Segment { name, head, seed: head.seed(), bytes, file, index: Mutex::default() }
    }

    /// Notes that a frame that starts with `base` is at `position`.
    pub(crate) fn note(&self, base: Offset, position: u64) {
        let mut index = lock(&self.index);
        if index.last().is_none_or(|(_, last)| position >= last + INDEX_EVERY_BYTES) {
            index.push((base, position));
        }
    }

    /// The frame at `position`, if the chain goes on there.
    pub(crate) fn frame_at(&self, position: u64, expected: Offset) -> io::Result<Option<Frame>> {
        let mut head = [0; frame::HEAD_BYTES];
        if position + head.len() as u64 > self.bytes {
            return Ok(None);
        }
        self.file.read_at(&mut head, position)?;
        let frame = Frame::decode(&head, self.seed);
        Ok(frame.filter(|frame| {
            frame.base == expected && position + u64::from(frame.span) <= self.bytes
        }))
    }

    /// The first whole frame behind a break at `position`, where `expected` should have come,
    /// with nothing in it at or beyond `limit`.
    pub(crate) fn search(
        &self,
        position: u64,
        expected: Offset,
        limit: Offset,
    ) -> io::Result<Option<(u64, Frame)>> {
        let mut window = vec![0; SEARCH_BYTES];
        let mut start = position;
        while start + (frame::HEAD_BYTES as u64) <= self.bytes {
            let length = (self.bytes - start).min(SEARCH_BYTES as u64) as usize;
            let bytes = &mut window[..length];
            self.file.read_at(bytes, start)?;
            let last = length.saturating_sub(frame::HEAD_BYTES);
            for at in (0..=last).step_by(frame::ALIGN) {
                if bytes[at..at + 4] != MAGIC {
                    continue;
                }
                let found = start + at as u64;
                // What was lost had at least a length before each record.
                let lost_max = (found - position) / PREFIX_BYTES as u64;
                if let Some(frame) = Frame::decode(&bytes[at..], self.seed)
                    && (expected..=expected.plus(lost_max)).contains(&frame.base)
                    && frame.next() <= limit
                    && self.is_whole(found, &frame)?
                {
                    return Ok(Some((found, frame)));
                }
            }
            // Heads lie at multiples of eight, so the next window starts at the first that
            // this one did not hold.
            start += (last / frame::ALIGN * frame::ALIGN + frame::ALIGN) as u64;
        }
        Ok(None)
    }

    /// Whether the payload is what the head at `position` says.
    pub(crate) fn is_whole(&self, position: u64, frame: &Frame) -> io::Result<bool> {
        if position + u64::from(frame.span) > self.bytes {
            return Ok(false);
        }
        let mut payload = vec![0; frame.payload_bytes as usize];
        self.file.read_at(&mut payload, position + frame::HEAD_BYTES as u64)?;
        Ok(frame.holds(&payload))
    }

    /// Adds records from `records.next` on, below `limit`, until `room` bytes are used. One
    /// call makes one step: some records, or one gap.
    pub(crate) fn read(
        &self,
        limit: Offset,
        room: &mut usize,
        records: &mut Records,
        damage: &mut Vec<Skipped>,
    ) -> io::Result<()> {
        match self.find(records.next, limit)? {
            Place::Gap(gap) => {
                skip(records, gap);
                damage.push(gap);
                Ok(())
            }
            Place::Frame(position, first) => {
                let wanted = u64::from(first.span).max(CHUNK_BYTES_MAX.min(*room as u64));
                let mut chunk = vec![0; wanted.min(self.bytes - position) as usize];
                self.file.read_at(&mut chunk, position)?;
                self.take(position, first, &chunk.into(), limit, room, records, damage);
                Ok(())
            }
        }
    }

    /// Takes records from the frames in `chunk`, the first of which is `frame`.
    #[expect(clippy::too_many_arguments, reason = "one step of `read`, split for its length")]
    fn take(
        &self,
        position: u64,
        mut frame: Frame,
        chunk: &Bytes,
        limit: Offset,
        room: &mut usize,
        records: &mut Records,
        damage: &mut Vec<Skipped>,
    ) {
        let mut at = 0;
        loop {
            self.note(frame.base, position + at as u64);
            let payload = chunk.slice(at + frame::HEAD_BYTES..at + frame.payload_end());
            let whole = frame.holds(&payload);
            if !whole || !take_records(&payload, &frame, room, records) {
                let gap =
                    Skipped { from: frame.base, to: frame.next(), reason: SkipReason::Corrupt };
                skip(records, gap);
                damage.push(gap);
            }
            at += frame.span as usize;
            let following = chunk
                .get(at..)
                .and_then(|rest| Some((Frame::decode(rest, self.seed)?, rest.len())))
                .filter(|(following, left)| {
                    following.base == frame.next() && following.span as usize <= *left
                });
            match following {
                Some((following, _)) if *room > 0 && following.next() <= limit => {
                    frame = following;
                }
                _ => return,
            }
        }
    }

    /// Finds `offset`, which is below `limit`.
    fn find(&self, offset: Offset, limit: Offset) -> io::Result<Place> {
        let (mut expected, mut position) = self.nearest(offset);
        loop {
            match self.frame_at(position, expected)? {
                Some(frame) if frame.next() > offset => return Ok(Place::Frame(position, frame)),
                Some(frame) => {
                    self.note(expected, position);
                    position += u64::from(frame.span);
                    expected = frame.next();
                }
                None => match self.search(position, expected, limit)? {
                    Some((found, frame)) if frame.base <= offset => {
                        position = found;
                        expected = frame.base;
                    }
                    Some((_, frame)) => {
                        let reason = SkipReason::Corrupt;
                        return Ok(Place::Gap(Skipped { from: expected, to: frame.base, reason }));
                    }
                    None => {
                        let reason = SkipReason::Missing;
                        return Ok(Place::Gap(Skipped { from: expected, to: limit, reason }));
                    }
                },
            }
        }
    }

    /// Where to start looking for `offset`.
    fn nearest(&self, offset: Offset) -> (Offset, u64) {
        let index = lock(&self.index);
        let after = index.partition_point(|(first, _)| *first <= offset);
        let entry = after.checked_sub(1).and_then(|at| index.get(at));
        entry.copied().unwrap_or((self.head.base, PAGE_BYTES))
    }
}

impl Segment {
    /// About where `offset` lies, between what the index knows around it; the segment's records
    /// end with `next` at `end`.
    pub(crate) fn place_of(&self, offset: Offset, next: Offset, end: u64) -> u64 {
        let (low, low_at) = self.nearest(offset);
        let (high, high_at) = {
            let index = lock(&self.index);
            let after = index.partition_point(|(first, _)| *first <= offset);
            index.get(after).copied().unwrap_or((next, end))
        };
        let (span, into) = (high.0.saturating_sub(low.0), offset.0.saturating_sub(low.0));
        let bytes = u128::from(high_at.saturating_sub(low_at)) * u128::from(into.min(span));
        low_at + u64::try_from(bytes / u128::from(span.max(1))).unwrap_or_default()
    }
}

/// A segment shared between the list, the writer and readers under way.
pub(crate) type SharedSegment = Arc<Segment>;

/// Adds a payload's records from `records.next` on; false if it does not hold what its head
/// says, and then nothing is added.
fn take_records(payload: &Bytes, frame: &Frame, room: &mut usize, records: &mut Records) -> bool {
    let before = (records.items.len(), records.next, *room);
    let next = take_payload(payload, frame.base, room, records);
    if *room == 0 || next == frame.next() {
        return true;
    }
    records.items.truncate(before.0);
    (records.next, *room) = (before.1, before.2);
    false
}

/// Adds the records of a payload that starts at `base`, from `records.next` on, until `room`
/// is used; returns the offset after the last record looked at.
pub(crate) fn take_payload(
    payload: &Bytes,
    base: Offset,
    room: &mut usize,
    records: &mut Records,
) -> Offset {
    let mut at = base;
    for record in frame::records(payload) {
        if at >= records.next {
            *room = room.saturating_sub(record.len() + PREFIX_BYTES);
            records.items.push((at, record));
            records.next = at.plus(1);
        }
        at = at.plus(1);
        if *room == 0 && !records.items.is_empty() {
            break;
        }
    }
    at
}

/// Moves over `gap`, reporting the part of it that was asked for.
pub(crate) fn skip(records: &mut Records, gap: Skipped) {
    let from = gap.from.max(records.next);
    if from >= gap.to {
        return;
    }
    records.skipped.push(Skipped { from, ..gap });
    records.next = gap.to;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_survives_damage_to_either_copy() {
        let head =
            Head { generation: 3, salt: 4, base: Offset(5), bytes: 1 << 20, log_id: [7; 16] };
        let page = head.encode();
        assert_eq!(Head::decode(&page), Some(head));
        for (from, to) in [(0, 512), (2048, 2560), (0, 2048), (2048, 4096)] {
            let mut torn = page.clone();
            torn[from..to].fill(0xee);
            assert_eq!(Head::decode(&torn), Some(head), "bytes {from}..{to}");
        }
        let mut lost = page.clone();
        lost[9] ^= 1;
        lost[2048 + 30] ^= 1;
        assert_eq!(Head::decode(&lost), None);
        assert_eq!(Head::decode(&page[..40]), None);
    }
}
