//! Records on their way into the log, framed as the log stores them.
//!
//! ```text
//! batch = record*        record = bytes u32 (little-endian) | bytes
//! ```
//! A batch is filled outside any lock; appending it is one copy.

use base::{Error, Result};

/// Bytes in front of each record.
pub(crate) const PREFIX_BYTES: usize = 4;

/// Records framed for one append. Its owner clears and fills it again, so that the hot path
/// allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    framed: Vec<u8>,
    count: u32,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Batch::default()
    }

    /// Forgets all records and keeps the memory.
    pub fn clear(&mut self) {
        self.framed.clear();
        self.count = 0;
    }

    /// Adds the record that `write` appends to the buffer it is given. If `write` fails, the
    /// batch is as before.
    pub fn push(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<()> {
        let start = self.framed.len();
        let body = start + PREFIX_BYTES;
        self.framed.extend_from_slice(&[0; PREFIX_BYTES]);
        let written = write(&mut self.framed);
        if self.framed.len() < body {
            self.clear();
            return Err(Error::internal("a record writer removed bytes it had not written"));
        }
        let bytes = self.framed.len() - body;
        let checked = written.and_then(|()| self.count_one_more(bytes));
        match checked {
            Ok(prefix) => self.framed[start..body].copy_from_slice(&prefix),
            Err(refused) => {
                self.framed.truncate(start);
                return Err(refused);
            }
        }
        Ok(())
    }

    /// Records held.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The records in order.
    pub fn records(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.framed.as_slice();
        std::iter::from_fn(move || {
            let (prefix, tail) = rest.split_first_chunk::<PREFIX_BYTES>()?;
            let (record, tail) = tail.split_at_checked(u32::from_le_bytes(*prefix) as usize)?;
            rest = tail;
            Some(record)
        })
    }

    /// The bytes as the log stores them.
    pub(crate) fn framed(&self) -> &[u8] {
        &self.framed
    }

    /// Counts a record of `bytes` and returns its prefix.
    fn count_one_more(&mut self, bytes: usize) -> Result<[u8; PREFIX_BYTES]> {
        let prefix = u32::try_from(bytes).map_err(|_too_long| {
            Error::invalid(format!("record is {bytes} bytes long; at most {} fit", u32::MAX))
        })?;
        self.count = self
            .count
            .checked_add(1)
            .ok_or_else(|| Error::invalid("a batch holds at most 4294967295 records"))?;
        Ok(prefix.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_and_a_refused_one_leaves_no_trace() {
        let mut batch = Batch::new();
        let put = |batch: &mut Batch, text: &str| {
            batch.push(|out| {
                out.extend_from_slice(text.as_bytes());
                if text == "bad" { Err(Error::invalid("bad")) } else { Ok(()) }
            })
        };
        put(&mut batch, "a").unwrap();
        assert!(put(&mut batch, "bad").is_err());
        put(&mut batch, "").unwrap();
        put(&mut batch, "bcd").unwrap();
        let records: Vec<&[u8]> = batch.records().collect();
        assert_eq!(records, [b"a".as_slice(), b"", b"bcd"]);
        assert_eq!(batch.len(), 3);
        batch.clear();
        assert!(batch.is_empty() && batch.records().next().is_none());
    }

    #[test]
    fn a_writer_that_takes_bytes_away_is_refused() {
        let mut batch = Batch::new();
        batch
            .push(|out| {
                out.push(1);
                Ok(())
            })
            .unwrap();
        assert!(
            batch
                .push(|out| {
                    out.clear();
                    Ok(())
                })
                .is_err()
        );
        assert!(batch.is_empty() && batch.framed().is_empty());
    }
}
