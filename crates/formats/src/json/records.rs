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

use std::io::Read;

use base::Result;
use bytes::Bytes;

use super::BadRecord;
use super::lex::{Fault, Why, is_space, skip_space};
use crate::ahead::Ahead;

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
    /// What is not yet passed begins where the next record is looked for.
    ahead: Ahead<R>,
    /// Newlines of the stream before `counted`, a place in the buffer.
    lines: u64,
    counted: usize,
    /// The rest of a record that was too long is still to be passed over.
    passing: Option<Boundary>,
    record_bytes_max: usize,
}

impl<R: Read> Records<R> {
    pub(super) fn new(input: R, record_bytes_max: usize) -> Self {
        let ahead = Ahead::new(input, record_bytes_max);
        Records { ahead, lines: 0, counted: 0, passing: None, record_bytes_max }
    }

    /// Bytes of the stream passed so far.
    pub(super) fn bytes(&self) -> u64 {
        self.ahead.passed()
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
            let at = skip_space(self.ahead.bytes(), self.ahead.at);
            self.ahead.at = at;
            let buf = self.ahead.bytes();
            if at < buf.len() && self.passing.is_none() && self.ahead.has_started() {
                match parse(buf, at) {
                    Ok(Parsed { end, misfit: None }) => {
                        self.ahead.at = end;
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
            } else if !self.ahead.has_started() {
                self.ahead.start();
            } else if self.passing.is_some() {
                self.pass();
            } else if self.ahead.has_ended() {
                return self.ahead.take_failure().map_or(Ok(Next::End), Err);
            } else {
                self.fill();
            }
        }
    }

    /// Ends the record at `self.at`, which makes no sense, or reads more to find out how.
    #[cold]
    fn recover(&mut self, fault: Fault) -> Option<BadRecord> {
        let (buf, at, ended) = (self.ahead.bytes(), self.ahead.at, self.ahead.has_ended());
        let full = buf.len() - at >= self.record_bytes_max;
        if fault.why == Why::End && !ended && !full {
            self.fill();
            return None;
        }
        let mut end = Boundary::default().find(&buf[at..]).map(|found| at + found);
        if matches!(fault.why, Why::Expected(_)) && fault.at > at && buf[fault.at] == b'{' {
            end = Some(end.map_or(fault.at, |end| end.min(fault.at)));
        }
        let len = buf.len();
        let reason = match fault.why {
            Why::End if !ended => {
                format!("the record is longer than {} bytes", self.record_bytes_max)
            }
            Why::End => "the record is cut off".into(),
            Why::TooDeep => {
                format!("nested deeper than {} levels", base::limits::JSON_DEPTH_MAX)
            }
            Why::Expected(what) => format!("expected {what} at byte {}", fault.at - at),
        };
        match end {
            Some(end) => Some(self.set_aside(end, reason)),
            None if ended => Some(self.set_aside(len, reason)),
            None if full => {
                self.passing = Some(Boundary::default());
                let kept = at + self.record_bytes_max;
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
        match boundary.find(self.ahead.rest()) {
            Some(found) => {
                self.ahead.at += found;
                self.passing = None;
            }
            None => {
                self.ahead.at = self.ahead.bytes().len();
                if self.ahead.has_ended() {
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
        let mut raw = &self.ahead.bytes()[self.ahead.at..end];
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
        self.ahead.at = end;
        bad
    }

    fn count_lines(&mut self) {
        self.lines += newlines(&self.ahead.bytes()[self.counted..self.ahead.at]);
        self.counted = self.ahead.at;
    }

    /// Reads more. What is passed leaves the buffer, so its lines are counted before.
    fn fill(&mut self) {
        self.count_lines();
        self.counted = 0;
        self.ahead.more();
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
