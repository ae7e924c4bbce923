//! The bytes of a stream that were read and not yet passed, in bounded memory.
//!
//! What a scan looks at lies in one buffer, whole: it asks for more until the end of its record
//! or line is there, and passes over what it is done with.

use std::io::{ErrorKind as Io, Read};

use base::{Error, ErrorKind};

/// First size of the buffer; it doubles while one record needs more.
const BUFFER_BYTES: usize = 1024 * 1024;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A stream, read ahead as far as is needed.
pub(crate) struct Ahead<R> {
    input: R,
    buf: Vec<u8>,
    /// Where what is not yet passed begins in the buffer.
    pub(crate) at: usize,
    /// Where what was read ends in it.
    len: usize,
    /// Bytes of the stream that were dropped from the buffer's front.
    dropped: u64,
    started: bool,
    ended: bool,
    failed: Option<Error>,
    record_bytes_max: usize,
}

impl<R: Read> Ahead<R> {
    pub(crate) fn new(input: R, record_bytes_max: usize) -> Self {
        Ahead {
            input,
            buf: vec![0; BUFFER_BYTES.min(record_bytes_max.max(64))],
            at: 0,
            len: 0,
            dropped: 0,
            started: false,
            ended: false,
            failed: None,
            record_bytes_max,
        }
    }

    /// What there is of the stream, passed or not; it is whole if [`Ahead::has_ended`].
    #[inline]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buf[..self.len]
    }

    /// What is not yet passed.
    pub(crate) fn rest(&self) -> &[u8] {
        &self.buf[self.at..self.len]
    }

    /// Bytes of the stream passed so far.
    pub(crate) fn passed(&self) -> u64 {
        self.dropped + self.at as u64
    }

    /// Nothing comes behind what is there.
    #[inline]
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Why the stream ended, if it was not at its end. Told once.
    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        self.failed.take()
    }

    #[inline]
    pub(crate) fn has_started(&self) -> bool {
        self.started
    }

    /// Begins to read, and passes over a byte order mark.
    pub(crate) fn start(&mut self) {
        while self.len < BYTE_ORDER_MARK.len() && !self.ended {
            self.more();
        }
        if self.bytes().starts_with(BYTE_ORDER_MARK) {
            self.at = BYTE_ORDER_MARK.len();
        }
        self.started = true;
    }

    /// Reads more. What is not yet passed moves to the buffer's front, with more room behind it
    /// where that is needed.
    pub(crate) fn more(&mut self) {
        self.buf.copy_within(self.at..self.len, 0);
        self.dropped += self.at as u64;
        self.len -= self.at;
        self.at = 0;
        if self.len == self.buf.len() {
            // One more than a record may have, so that a full buffer means too long.
            let most = self.record_bytes_max.saturating_add(1).max(self.len + 1);
            self.buf.resize((self.len * 2).min(most), 0);
        }
        loop {
            match self.input.read(&mut self.buf[self.len..]) {
                Ok(0) => self.ended = true,
                Ok(count) => self.len += count,
                Err(cause) if cause.kind() == Io::Interrupted => continue,
                Err(cause) => {
                    self.ended = true;
                    self.failed = Some(unreadable(self.dropped + self.len as u64, cause));
                }
            }
            return;
        }
    }

    /// Puts `kept`, which was passed already, in front of what is not yet passed. It is then all
    /// that the buffer has before it.
    pub(crate) fn put_back(&mut self, kept: &[u8]) {
        let rest = self.rest().to_vec();
        self.dropped += self.at as u64;
        self.dropped -= kept.len() as u64;
        self.at = kept.len();
        self.len = kept.len() + rest.len();
        if self.buf.len() < self.len {
            self.buf.resize(self.len, 0);
        }
        self.buf[..self.at].copy_from_slice(kept);
        self.buf[self.at..self.len].copy_from_slice(&rest);
    }
}

/// Why a stream cannot be read on.
fn unreadable(position: u64, cause: std::io::Error) -> Error {
    let doing = format!("reading on from byte {position}");
    match cause.kind() {
        // What decoders answer to damaged bytes.
        Io::InvalidData | Io::InvalidInput | Io::UnexpectedEof | Io::Other => {
            Error::new(ErrorKind::Corrupt, format!("{doing}: {cause}")).with_source(cause)
        }
        _ => Error::io(doing, cause),
    }
}
