//! Consumers' cursors: one small file, replaced whole at every change.

use std::collections::BTreeMap;
use std::io;

use base::{Error, ErrorKind, Offset, Result};
use serde::{Deserialize, Serialize};

use crate::disk::Disk;

const FILE: &str = "cursors.json";

#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cursors {
    cursors: BTreeMap<String, Offset>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    crc32c: u32,
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
        if checksum(&stored.cursors)? != stored.crc32c {
            return Err(corrupt("does not match its checksum"));
        }
        Ok(Cursors { cursors: stored.cursors })
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

    pub(crate) fn max(&self) -> Option<Offset> {
        self.cursors.values().max().copied()
    }

    /// Moves a cursor and writes the file; on failure nothing has moved.
    pub(crate) fn set(&mut self, disk: &dyn Disk, consumer: &str, next: Offset) -> Result<()> {
        let before = self.cursors.insert(consumer.to_owned(), next);
        self.store(disk).inspect_err(|_failed| match before {
            Some(before) => drop(self.cursors.insert(consumer.to_owned(), before)),
            None => drop(self.cursors.remove(consumer)),
        })
    }

    pub(crate) fn remove(&mut self, disk: &dyn Disk, consumer: &str) -> Result<()> {
        let Some(before) = self.cursors.remove(consumer) else { return Ok(()) };
        self.store(disk).inspect_err(|_failed| {
            self.cursors.insert(consumer.to_owned(), before);
        })
    }

    fn store(&self, disk: &dyn Disk) -> Result<()> {
        let stored = Stored { crc32c: checksum(&self.cursors)?, cursors: self.cursors.clone() };
        let write = |cause: io::Error| Error::io(format!("write {FILE}"), cause);
        let bytes = serde_json::to_vec(&stored).map_err(|e| write(e.into()))?;
        disk.write_small(FILE, &bytes).map_err(write)
    }
}

fn checksum(cursors: &BTreeMap<String, Offset>) -> Result<u32> {
    let bytes = serde_json::to_vec(cursors).map_err(|e| Error::internal(e.to_string()))?;
    Ok(crc32c::crc32c(&bytes))
}
