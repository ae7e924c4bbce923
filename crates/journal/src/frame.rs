//! A frame: some consecutive records under one checksum, the unit that is whole or damaged.
//!
//! ```text
//! frame   = magic u32 | head crc u32 | payload crc u32 | payload bytes u32
//!         | span u32 | count u32 | base offset u64 | stable offset u64 | payload | padding
//! payload = (bytes u32 | record)*          span = from here to the next frame
//! ```
//! All integers are little-endian. The head's checksum covers the payload's, and starts from
//! a seed that is random for every use of a file. So neither a frame of an earlier use of the
//! file, nor bytes that a publisher made look like a frame, are ever taken for one.
//!
//! `stable` says what was on stable storage when the frame was written. A gap below it is
//! therefore damage; a gap above may be a commit that a crash cut short.

use base::Offset;
use bytes::Bytes;

use crate::batch::PREFIX_BYTES;

/// Bytes in front of the payload.
pub(crate) const HEAD_BYTES: usize = 40;
/// Frames start at multiples of this.
pub(crate) const ALIGN: usize = 8;
pub(crate) const MAGIC: [u8; 4] = *b"FBf1";

/// The head of one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    payload_crc: u32,
    pub(crate) payload_bytes: u32,
    pub(crate) span: u32,
    pub(crate) count: u32,
    pub(crate) base: Offset,
    pub(crate) stable: Offset,
}

impl Frame {
    /// The head for `payload`, `span` bytes before the next frame.
    pub(crate) fn new(
        payload: &[u8],
        span: usize,
        count: u32,
        base: Offset,
        stable: Offset,
    ) -> Self {
        let narrow = |bytes| u32::try_from(bytes).expect("a segment is at most 1 GiB long");
        assert!(span >= HEAD_BYTES + payload.len() && span.is_multiple_of(ALIGN));
        Frame {
            payload_crc: crc32c::crc32c(payload),
            payload_bytes: narrow(payload.len()),
            span: narrow(span),
            count,
            base,
            stable,
        }
    }

    pub(crate) fn encode(&self, seed: u32) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        out[0..4].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&self.payload_crc.to_le_bytes());
        out[12..16].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out[16..20].copy_from_slice(&self.span.to_le_bytes());
        out[20..24].copy_from_slice(&self.count.to_le_bytes());
        out[24..32].copy_from_slice(&self.base.0.to_le_bytes());
        out[32..40].copy_from_slice(&self.stable.0.to_le_bytes());
        let crc = crc32c::crc32c_append(seed, &out[8..]);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// The head at the start of `bytes`, if there is one written under `seed`.
    pub(crate) fn decode(bytes: &[u8], seed: u32) -> Option<Frame> {
        let head: &[u8; HEAD_BYTES] = bytes.first_chunk()?;
        if head[0..4] != MAGIC || u32_at(head, 4)? != crc32c::crc32c_append(seed, &head[8..]) {
            return None;
        }
        let frame = Frame {
            payload_crc: u32_at(head, 8)?,
            payload_bytes: u32_at(head, 12)?,
            span: u32_at(head, 16)?,
            count: u32_at(head, 20)?,
            base: Offset(u64_at(head, 24)?),
            stable: Offset(u64_at(head, 32)?),
        };
        let shaped = u64::from(frame.span) >= frame.payload_end() as u64
            && (frame.span as usize).is_multiple_of(ALIGN);
        shaped.then_some(frame)
    }

    /// The offset after the last record.
    pub(crate) fn next(&self) -> Offset {
        self.base.plus(u64::from(self.count))
    }

    /// Where the payload ends, counted from the frame's start.
    pub(crate) fn payload_end(&self) -> usize {
        HEAD_BYTES + self.payload_bytes as usize
    }

    pub(crate) fn holds(&self, payload: &[u8]) -> bool {
        payload.len() == self.payload_bytes as usize && crc32c::crc32c(payload) == self.payload_crc
    }
}

/// The records of a payload, sharing its memory. Ends early if the payload is malformed.
pub(crate) fn records(payload: &Bytes) -> impl Iterator<Item = Bytes> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let bytes = u32_at(payload, at)? as usize;
        let start = at + PREFIX_BYTES;
        at = start + bytes;
        (at <= payload.len()).then(|| payload.slice(start..at))
    })
}

pub(crate) fn align_up(bytes: u64, to: u64) -> u64 {
    bytes.div_ceil(to) * to
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Frame, [u8; HEAD_BYTES]) {
        let frame = Frame::new(b"\x01\0\0\0x", 48, 1, Offset(7), Offset(5));
        (frame, frame.encode(99))
    }

    #[test]
    fn a_head_reads_back_only_under_its_seed() {
        let (frame, bytes) = sample();
        assert_eq!(Frame::decode(&bytes, 99), Some(frame));
        assert_eq!(Frame::decode(&bytes, 98), None);
        assert!(frame.holds(b"\x01\0\0\0x") && !frame.holds(b"\x01\0\0\0y"));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_of_a_head_is_noticed() {
        let (_, bytes) = sample();
        for bit in 0..HEAD_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Frame::decode(&flipped, 99), None, "bit {bit}");
        }
        for cut in 0..HEAD_BYTES {
            assert_eq!(Frame::decode(&bytes[..cut], 99), None, "cut {cut}");
        }
    }

    #[test]
    fn a_malformed_payload_ends_early_and_never_panics() {
        for payload in [&b"\x05\0\0\0abc"[..], b"\xff\xff\xff\xff", b"\x01\0", b""] {
            assert_eq!(records(&Bytes::copy_from_slice(payload)).count(), 0, "{payload:?}");
        }
    }
}
