//! Lines of a stream, and the fields of a line, in bounded memory.

use std::io::Read;

use base::Result;
use csv_core::{ReadRecordResult, Reader, ReaderBuilder, Terminator};

use super::Dialect;
use crate::ahead::Ahead;

/// Fields of a line at most.
const FIELDS_MAX: usize = 4096;

/// A line: where its text lies in the buffer, without its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub(super) start: usize,
    pub(super) end: usize,
    /// Offset of its first byte in the stream.
    pub(super) position: u64,
    /// Counted from one.
    pub(super) number: u64,
    /// There is more of it than is kept.
    pub(super) too_long: bool,
}

/// The lines of a stream that are not blank.
pub(super) struct Lines<R> {
    ahead: Ahead<R>,
    number: u64,
    line_bytes_max: usize,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(input: R, line_bytes_max: usize) -> Self {
        let line_bytes_max = line_bytes_max.max(1);
        Lines { ahead: Ahead::new(input, line_bytes_max), number: 0, line_bytes_max }
    }

    /// Bytes of the stream passed so far.
    pub(super) fn bytes(&self) -> u64 {
        self.ahead.passed()
    }

    pub(super) fn text(&self, line: &Line) -> &[u8] {
        &self.ahead.bytes()[line.start..line.end]
    }

    /// The next line that is not blank.
    ///
    /// # Errors
    /// When the stream cannot be read or unpacked on; what was read before it comes first, a
    /// line that was cut off by the failure does not.
    pub(super) fn next(&mut self) -> Result<Option<Line>> {
        self.start();
        loop {
            let (start, len) = (self.ahead.at, self.ahead.bytes().len());
            let found = newline(self.ahead.rest()).map(|found| start + found);
            let full = len - start > self.line_bytes_max;
            let (end, next) = match found {
                Some(end) => (end, end + 1),
                None if full => (start + self.line_bytes_max, len),
                None if !self.ahead.has_ended() => {
                    self.ahead.more();
                    continue;
                }
                None => {
                    if let Some(failed) = self.ahead.take_failure() {
                        self.ahead.at = len;
                        return Err(failed);
                    }
                    if start == len {
                        return Ok(None);
                    }
                    (len, len)
                }
            };
            self.number += 1;
            let position = self.bytes();
            let too_long = end - start > self.line_bytes_max || (found.is_none() && full);
            let end = end.min(start + self.line_bytes_max);
            self.ahead.at = next;
            let mut text = &self.ahead.bytes()[start..end];
            if let [rest @ .., b'\r'] = text {
                text = rest;
            }
            let line =
                Line { start, end: start + text.len(), position, number: self.number, too_long };
            if found.is_none() && full {
                return Ok(Some(self.pass_over(line)));
            }
            if !text.iter().all(u8::is_ascii_whitespace) || text.contains(&b'\t') {
                return Ok(Some(line));
            }
        }
    }

    /// Whole lines that come next, as many as there are in the buffer.
    pub(super) fn ahead(&mut self) -> Result<&[u8]> {
        self.start();
        while !self.ahead.has_ended() && newline(self.ahead.rest()).is_none() {
            if self.ahead.rest().len() > self.line_bytes_max {
                break;
            }
            self.ahead.more();
        }
        let there = self.ahead.rest();
        let whole = match there.iter().rposition(|byte| *byte == b'\n') {
            Some(last) if !self.ahead.has_ended() => last + 1,
            _ => there.len(),
        };
        Ok(&there[..whole])
    }

    /// Drops the rest of a line that is too long; what is kept of it moves to the front.
    fn pass_over(&mut self, line: Line) -> Line {
        let kept = self.text(&line).to_vec();
        loop {
            self.ahead.at = self.ahead.bytes().len();
            if self.ahead.has_ended() {
                break;
            }
            self.ahead.more();
            if let Some(found) = newline(self.ahead.rest()) {
                self.ahead.at += found + 1;
                break;
            }
        }
        self.ahead.put_back(&kept);
        Line { start: 0, end: kept.len(), ..line }
    }

    fn start(&mut self) {
        if !self.ahead.has_started() {
            self.ahead.start();
        }
    }
}

fn newline(bytes: &[u8]) -> Option<usize> {
    memchr::memchr(b'\n', bytes)
}

/// The lines of a text that are not blank, without their ends.
pub(super) fn whole(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = text.split(|byte| *byte == b'\n');
    lines
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.iter().all(u8::is_ascii_whitespace) || line.contains(&b'\t'))
}

/// Cuts lines into fields.
pub(super) struct Fields {
    delimiter: u8,
    quote: Option<u8>,
    escape: Option<u8>,
    reader: Reader,
    text: Vec<u8>,
    ends: Vec<usize>,
    quoted: Vec<bool>,
    count: usize,
}

impl Fields {
    pub(super) fn new(dialect: &Dialect) -> Self {
        let reader = ReaderBuilder::new()
            .delimiter(dialect.delimiter)
            .quote(dialect.quote.unwrap_or(b'"'))
            .quoting(dialect.quote.is_some())
            .escape(dialect.escape)
            .double_quote(true)
            .terminator(Terminator::Any(b'\n'))
            .build();
        Fields {
            delimiter: dialect.delimiter,
            quote: dialect.quote,
            escape: dialect.escape,
            reader,
            text: Vec::new(),
            ends: vec![0; FIELDS_MAX + 1],
            quoted: Vec::new(),
            count: 0,
        }
    }

    /// The fields of a line: text, and whether it stood in quotes; or what is wrong with it.
    pub(super) fn split(&mut self, line: &[u8]) -> std::result::Result<Split<'_>, String> {
        self.quoted.clear();
        match self.quote {
            // Nothing in the line can mean anything but a delimiter.
            Some(quote) if memchr::memchr(quote, line).is_some() => self.split_quoted(line)?,
            None if self.escape.is_some() => self.split_escaped(line)?,
            _ => self.split_plain(line)?,
        }
        Ok(Split { text: &self.text, ends: &self.ends[..self.count], quoted: &self.quoted })
    }

    fn split_plain(&mut self, line: &[u8]) -> std::result::Result<(), String> {
        self.text.clear();
        self.count = 0;
        let mut from = 0;
        for at in memchr::memchr_iter(self.delimiter, line).chain([line.len()]) {
            self.text.extend_from_slice(&line[from..at]);
            self.end_field()?;
            from = at + 1;
        }
        Ok(())
    }

    fn split_escaped(&mut self, line: &[u8]) -> std::result::Result<(), String> {
        self.text.clear();
        self.count = 0;
        let mut bytes = line.iter();
        while let Some(&byte) = bytes.next() {
            if byte == self.delimiter {
                self.end_field()?;
            } else if Some(byte) == self.escape {
                match bytes.as_slice().first() {
                    // Hive's null is the escape and an N; it stays as it is written.
                    Some(b'N') | None => self.text.push(byte),
                    Some(&next) => {
                        self.text.push(next);
                        bytes.next();
                    }
                }
            } else {
                self.text.push(byte);
            }
        }
        self.end_field()
    }

    fn end_field(&mut self) -> std::result::Result<(), String> {
        if self.count == FIELDS_MAX {
            return Err(too_many());
        }
        self.ends[self.count] = self.text.len();
        self.count += 1;
        Ok(())
    }

    fn split_quoted(&mut self, line: &[u8]) -> std::result::Result<(), String> {
        self.reader.reset();
        self.text.resize(line.len() + 1, 0);
        self.count = 0;
        let (mut read, mut written) = (0, 0);
        loop {
            // The line's end is given apart: within open quotes it would end nothing.
            let input = if read < line.len() { &line[read..] } else { b"\n" };
            let (result, more_read, more_written, fields) = self.reader.read_record(
                input,
                &mut self.text[written..],
                &mut self.ends[self.count..],
            );
            let ending = read >= line.len();
            read += more_read;
            written += more_written;
            self.count += fields;
            match result {
                ReadRecordResult::Record => break,
                ReadRecordResult::InputEmpty if ending => {
                    return Err("a quote is not closed".to_owned());
                }
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputEndsFull => return Err(too_many()),
                ReadRecordResult::OutputFull | ReadRecordResult::End => {
                    return Err("the line cannot be cut into fields".to_owned());
                }
            }
        }
        self.text.truncate(written);
        self.mark_quoted(line);
        Ok(())
    }

    /// Notes which fields begin with a quote, as far as the line tells.
    fn mark_quoted(&mut self, line: &[u8]) {
        let mut at = 0;
        for _ in 0..self.count {
            self.quoted.push(line.get(at).copied() == self.quote);
            // Skips the field as it is written: quotes, doubled quotes and escapes included.
            let mut inside = false;
            while at < line.len() {
                let byte = line[at];
                if byte == self.delimiter && !inside {
                    break;
                }
                if Some(byte) == self.quote {
                    inside = !inside;
                } else if inside && Some(byte) == self.escape {
                    at += 1;
                }
                at += 1;
            }
            at += 1;
        }
    }
}

fn too_many() -> String {
    format!("the line has more than {FIELDS_MAX} fields")
}

/// The fields of one line.
pub(super) struct Split<'a> {
    text: &'a [u8],
    ends: &'a [usize],
    quoted: &'a [bool],
}

impl<'a> Split<'a> {
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&'a [u8], bool)> {
        let (text, ends, quoted) = (self.text, self.ends, self.quoted);
        ends.iter().enumerate().map(move |(at, &end)| {
            let start = if at == 0 { 0 } else { ends[at - 1] };
            (&text[start..end], quoted.get(at).copied().unwrap_or(false))
        })
    }
}
