//! Finds the records of a stream, good and bad, in bounded memory.
//!
//! A record is one JSON object. Between records white space may stand or nothing at all, so
//! newline-delimited and concatenated streams are one case, and an object may span lines.
//!
//! Where a bad record ends
//! * If it is well formed and only does not fit (a key twice, a string in a column of
//!   numbers, invalid UTF-8 within a string), it ends where it ends.
//! * If it makes no sense as JSON, it ends at the first of: a newline after its start; a `}`
//!   and a `{` with at most white space between, which no valid object contains outside a
//!   string; the byte where reading failed, if that byte is a `{`; the end of the stream.
//!   Reading goes on there. One torn record can so take a neighbour with it in a stream
//!   without newlines; its bytes are in the sink and not lost.
//! * A record longer than the bound ends by the same rule, and only its first bytes are kept.

use std::io::{ErrorKind as Io, Read};
use std::ops::Range;

use base::{Error, ErrorKind, Result};
use bytes::Bytes;

use super::BadRecord;
use super::lex::{Fault, Why, is_space, skip_space};

/// First size of the buffer; it doubles while one record needs more.
const BUFFER_BYTES: usize = 1024 * 1024;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A record whose end is known.
#[derive(Debug)]
pub(super) struct Parsed {
    /// One past its last byte.
    pub(super) end: usize,
    /// Why it is set aside all the same.
    pub(super) misfit: Option<String>,
}

/// What comes next in a stream.
#[derive(Debug)]
pub(super) enum Next {
    Good,
    Bad(BadRecord),
    End,
}

/// A stream of records.
pub(super) struct Records<R> {
    input: R,
    buf: Vec<u8>,
    /// Where the next record is looked for.
    at: usize,
    /// Valid bytes in `buf`.
    len: usize,
    /// Bytes of the stream that were dropped from the buffer's front.
    dropped: u64,
    /// Newlines of the stream before `buf[counted]`.
    lines: u64,
    counted: usize,
    started: bool,
    ended: bool,
    failed: Option<Error>,
    /// The rest of a record that was too long is still to be passed over.
    passing: Option<Boundary>,
    record_bytes_max: usize,
}

impl<R: Read> Records<R> {
    pub(super) fn new(input: R, record_bytes_max: usize) -> Self {
        Records {
            input,
            buf: vec![0; BUFFER_BYTES.min(record_bytes_max.max(64))],
            at: 0,
            len: 0,
            dropped: 0,
            lines: 0,
            counted: 0,
            started: false,
            ended: false,
            failed: None,
            passing: None,
            record_bytes_max,
        }
    }

    /// Bytes of the stream passed so far.
    pub(super) fn bytes(&self) -> u64 {
        self.dropped + self.at as u64
    }

    /// Hands the next record to `parse(buffer, start)`.
    ///
    /// # Errors
    /// When the stream itself cannot be read or unpacked; what was read before it counts, and
    /// a record cut off by the failure comes first, as bad.
    #[inline]
    pub(super) fn next(
        &mut self,
        mut parse: impl FnMut(&[u8], usize) -> Result<Parsed, Fault>,
    ) -> Result<Next> {
        loop {
            self.at = skip_space(&self.buf[..self.len], self.at);
            if self.at < self.len && self.passing.is_none() && self.started {
                let buf = &self.buf[..self.len];
                match parse(buf, self.at) {
                    Ok(Parsed { end, misfit: None }) => {
                        self.at = end;
                        return Ok(Next::Good);
                    }
                    Ok(Parsed { end, misfit: Some(reason) }) => {
                        return Ok(Next::Bad(self.set_aside(end, reason)));
                    }
                    Err(fault) => {
                        if let Some(bad) = self.recover(fault) {
                            return Ok(Next::Bad(bad));
                        }
                    }
                }
            } else if !self.started {
                self.start();
            } else if self.passing.is_some() {
                self.pass();
            } else if self.ended {
                return self.failed.take().map_or(Ok(Next::End), Err);
            } else {
                self.fill();
            }
        }
    }

    fn start(&mut self) {
        while self.len < BYTE_ORDER_MARK.len() && !self.ended {
            self.fill();
        }
        if self.buf[..self.len].starts_with(BYTE_ORDER_MARK) {
            self.at = BYTE_ORDER_MARK.len();
        }
        self.started = true;
    }

    /// Ends the record at `self.at`, which makes no sense, or reads more to find out how.
    #[cold]
    fn recover(&mut self, fault: Fault) -> Option<BadRecord> {
        let full = self.len - self.at >= self.record_bytes_max;
        if fault.why == Why::End && !self.ended && !full {
            self.fill();
            return None;
        }
        let buf = &self.buf[..self.len];
        let mut end = Boundary::default().find(&buf[self.at..]).map(|found| self.at + found);
        if matches!(fault.why, Why::Expected(_)) && fault.at > self.at && buf[fault.at] == b'{' {
            end = Some(end.map_or(fault.at, |end| end.min(fault.at)));
        }
        let reason = match fault.why {
            Why::End if !self.ended => {
                format!("the record is longer than {} bytes", self.record_bytes_max)
            }
            Why::End => "the record is cut off".into(),
            Why::TooDeep => {
                format!("nested deeper than {} levels", base::limits::JSON_DEPTH_MAX)
            }
            Why::Expected(what) => format!("expected {what} at byte {}", fault.at - self.at),
        };
        match end {
            Some(end) => Some(self.set_aside(end, reason)),
            None if self.ended => Some(self.set_aside(self.len, reason)),
            None if full => {
                self.passing = Some(Boundary::default());
                let kept = self.at + self.record_bytes_max;
                let cut =
                    format!("{reason}; only its first {} bytes are kept", self.record_bytes_max);
                Some(self.set_aside(kept, cut))
            }
            None => {
                self.fill();
                None
            }
        }
    }

    /// Passes over the rest of a record that was too long.
    fn pass(&mut self) {
        let Some(boundary) = &mut self.passing else { return };
        match boundary.find(&self.buf[self.at..self.len]) {
            Some(found) => {
                self.at += found;
                self.passing = None;
            }
            None => {
                self.at = self.len;
                if self.ended {
                    self.passing = None;
                } else {
                    self.fill();
                }
            }
        }
    }

    #[cold]
    fn set_aside(&mut self, end: usize, reason: String) -> BadRecord {
        self.count_lines();
        let mut raw = &self.buf[self.at..end];
        while let [rest @ .., last] = raw
            && is_space(*last)
        {
            raw = rest;
        }
        let bad = BadRecord {
            position: self.bytes(),
            line: 1 + self.lines,
            raw: Bytes::copy_from_slice(raw),
            reason,
        };
        self.at = end;
        bad
    }

    fn count_lines(&mut self) {
        self.lines += newlines(&self.buf[self.counted..self.at]);
        self.counted = self.at;
    }

    /// Reads more, keeping everything from `self.at` on.
    fn fill(&mut self) {
        self.count_lines();
        self.counted = 0;
        let kept = self.at..self.len;
        self.dropped += self.at as u64;
        self.at = 0;
        let (input, buf) = (&mut self.input, &mut self.buf);
        let (len, end) = fill(input, buf, kept, self.record_bytes_max, self.dropped);
        self.len = len;
        self.ended |= end.is_some();
        self.failed = end.and_then(Result::err);
    }
}

/// Moves what is kept of a buffer to its front and reads more behind it, with more room where
/// that is needed: how much there is then, and whether the stream ended there, and how.
/// `dropped` bytes of the stream came before what is kept.
pub(crate) fn fill(
    input: &mut impl Read,
    buf: &mut Vec<u8>,
    kept: Range<usize>,
    record_bytes_max: usize,
    dropped: u64,
) -> (usize, Option<Result<()>>) {
    let len = kept.len();
    buf.copy_within(kept, 0);
    if len == buf.len() {
        // One more than a record may have, so that a full buffer means too long.
        let most = record_bytes_max.saturating_add(1).max(len + 1);
        buf.resize((len * 2).min(most), 0);
    }
    loop {
        return match input.read(&mut buf[len..]) {
            Ok(0) => (len, Some(Ok(()))),
            Ok(count) => (len + count, None),
            Err(cause) if cause.kind() == Io::Interrupted => continue,
            Err(cause) => (len, Some(Err(unreadable(dropped + len as u64, cause)))),
        };
    }
}

pub(crate) fn unreadable(position: u64, cause: std::io::Error) -> Error {
    let doing = format!("reading on from byte {position}");
    match cause.kind() {
        // What decoders answer to damaged bytes.
        Io::InvalidData | Io::InvalidInput | Io::UnexpectedEof | Io::Other => {
            Error::new(ErrorKind::Corrupt, format!("{doing}: {cause}")).with_source(cause)
        }
        _ => Error::io(doing, cause),
    }
}

fn newlines(bytes: &[u8]) -> u64 {
    // Blocks short enough for a byte-wide counter, which the compiler turns into vectors.
    let count = |block: &[u8]| {
        block.iter().fold(0u8, |count, &byte| count.wrapping_add(u8::from(byte == b'\n')))
    };
    bytes.chunks(255).map(|block| u64::from(count(block))).sum()
}

/// Looks for the end of a bad record, across buffers.
#[derive(Debug, Default)]
struct Boundary {
    closed: bool,
}

impl Boundary {
    /// Where the next record may start: after a newline, or at a `{` that follows a `}`.
    fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        for (at, &byte) in bytes.iter().enumerate() {
            match byte {
                b'\n' => return Some(at + 1),
                b'{' if self.closed => return Some(at),
                _ if is_space(byte) => {}
                _ => self.closed = byte == b'}',
            }
        }
        None
    }
}
