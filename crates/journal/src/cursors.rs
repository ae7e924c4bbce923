//! Consumers' cursors: one small file, replaced whole at every change.
//!
//! It also notes what was durable when it was written: records below that were promised, so
//! an end of the log before it is damage, and their offsets are not given again.

use std::collections::BTreeMap;
use std::io;

use base::{Error, ErrorKind, Offset, Result};
use serde::{Deserialize, Serialize};

use crate::disk::Disk;

const FILE: &str = "cursors.json";
/// The file is written whole, so what it holds is bounded.
const CONSUMERS_MAX: usize = 10_000;
const NAME_BYTES_MAX: usize = 256;

#[derive(Debug, Default)]
pub(crate) struct Cursors {
    cursors: BTreeMap<String, Offset>,
    durable: Offset,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    crc32c: u32,
    durable: Offset,
    cursors: BTreeMap<String, Offset>,
}

impl Cursors {
    pub(crate) fn load(disk: &dyn Disk) -> Result<Cursors> {
        let bytes = disk.read_small(FILE).map_err(|e| Error::io(format!("read {FILE}"), e))?;
        let Some(bytes) = bytes else { return Ok(Cursors::default()) };
        let corrupt = |why: &str| {
            Error::new(
                ErrorKind::Corrupt,
                format!(
                    "journal/{FILE} {why}; remove it to have every consumer start from what its \
                     own store remembers"
                ),
            )
        };
        let stored: Stored = serde_json::from_slice(&bytes)
            .map_err(|e| corrupt("is not readable").with_source(e))?;
        let cursors = Cursors { cursors: stored.cursors, durable: stored.durable };
        if cursors.checksum()? != stored.crc32c {
            return Err(corrupt("does not match its checksum"));
        }
        Ok(cursors)
    }

    pub(crate) fn get(&self, consumer: &str) -> Option<Offset> {
        self.cursors.get(consumer).copied()
    }

    pub(crate) fn all(&self) -> Vec<(String, Offset)> {
        self.cursors.iter().map(|(name, offset)| (name.clone(), *offset)).collect()
    }

    pub(crate) fn min(&self) -> Option<Offset> {
        self.cursors.values().min().copied()
    }

    /// Everything below was promised to somebody.
    pub(crate) fn promised(&self) -> Offset {
        self.cursors.values().copied().fold(self.durable, Offset::max)
    }

    /// Moves a cursor and writes the file, which also notes `durable`; on failure nothing has
    /// moved.
    pub(crate) fn set(
        &mut self,
        disk: &dyn Disk,
        consumer: &str,
        next: Offset,
        durable: Offset,
    ) -> Result<()> {
        if consumer.len() > NAME_BYTES_MAX {
            return Err(Error::invalid(format!(
                "consumer name of {} bytes; at most {NAME_BYTES_MAX} are allowed",
                consumer.len()
            )));
        }
        if self.cursors.len() >= CONSUMERS_MAX && !self.cursors.contains_key(consumer) {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!("the journal keeps at most {CONSUMERS_MAX} cursors"),
            ));
        }
        let before = self.cursors.insert(consumer.to_owned(), next);
        let durable_before = std::mem::replace(&mut self.durable, durable);
        self.store(disk).inspect_err(|_failed| {
            self.durable = durable_before;
            match before {
                Some(before) => drop(self.cursors.insert(consumer.to_owned(), before)),
                None => drop(self.cursors.remove(consumer)),
            }
        })
    }

    /// Writes down what is durable when the log is closed, wherever the consumers stand: an end
    /// of the log before it is then known for damage.
    pub(crate) fn close(&mut self, disk: &dyn Disk, durable: Offset) -> Result<()> {
        if durable <= self.promised() {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.durable, durable);
        self.store(disk).inspect_err(|_failed| self.durable = before)
    }

    pub(crate) fn remove(&mut self, disk: &dyn Disk, consumer: &str) -> Result<()> {
        let Some(before) = self.cursors.remove(consumer) else { return Ok(()) };
        self.store(disk).inspect_err(|_failed| {
            self.cursors.insert(consumer.to_owned(), before);
        })
    }

    fn store(&self, disk: &dyn Disk) -> Result<()> {
        let write = |cause: io::Error| Error::io(format!("write {FILE}"), cause);
        let stored = Stored {
            crc32c: self.checksum()?,
            durable: self.durable,
            cursors: self.cursors.clone(),
        };
        let bytes = serde_json::to_vec(&stored).map_err(|e| write(e.into()))?;
        disk.write_small(FILE, &bytes).map_err(write)
    }

    fn checksum(&self) -> Result<u32> {
        let bytes = serde_json::to_vec(&(self.durable, &self.cursors))
            .map_err(|e| Error::internal("encode cursors").with_source(e))?;
        Ok(crc32c::crc32c(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::faulty::Memory;

    #[test]
    fn cursors_read_back_and_damage_is_refused_with_the_way_out() {
        let disk = Memory::default();
        let mut cursors = Cursors::load(&disk).unwrap();
        cursors.set(&disk, "a", Offset(3), Offset(9)).unwrap();
        cursors.set(&disk, "b", Offset(2), Offset(9)).unwrap();
        let again = Cursors::load(&disk).unwrap();
        assert_eq!((again.min(), again.promised()), (Some(Offset(2)), Offset(9)));
        let bytes = disk.read_small(FILE).unwrap().unwrap();
        let text = String::from_utf8(bytes).unwrap();
        disk.write_small(FILE, text.replace("\"a\":3", "\"a\":4").as_bytes()).unwrap();
        let refused = Cursors::load(&disk).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corrupt);
        assert!(refused.to_string().contains("remove it"), "{refused}");
    }

    #[test]
    fn a_cursor_that_cannot_be_written_has_not_moved() {
        let disk = Memory::default();
        let mut cursors = Cursors::default();
        cursors.set(&disk, "a", Offset(3), Offset(9)).unwrap();
        disk.faults(|faults| faults.disk_full = true);
        assert!(cursors.set(&disk, "a", Offset(4), Offset(9)).is_err());
        assert!(cursors.set(&disk, "b", Offset(4), Offset(9)).is_err());
        assert!(cursors.remove(&disk, "a").is_err());
        assert_eq!((cursors.get("a"), cursors.get("b")), (Some(Offset(3)), None));
    }
}
