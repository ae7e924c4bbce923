//! A disk in memory that fails on demand and forgets what was not synced.
//!
//! It keeps, for each file, what a reader sees and what is on stable storage, by sector. A
//! failed sync behaves as Linux does: the sectors count as clean although they were lost, so
//! that the next sync succeeds and writes none of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Condvar, Mutex};

use super::*;

const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
struct Contents {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// Sectors that the next sync writes.
    dirty: BTreeSet<usize>,
}

impl Contents {
    /// A power cut: of the dirty sectors some were written.
    fn cut(&self, kept: &mut dyn FnMut() -> bool) -> Contents {
        let mut bytes = self.synced.clone();
        for sector in &self.dirty {
            if kept() {
                let range = sector * SECTOR..((sector + 1) * SECTOR).min(bytes.len());
                bytes[range.clone()].copy_from_slice(&self.now[range]);
            }
        }
        Contents { now: bytes.clone(), synced: bytes, dirty: BTreeSet::new() }
    }
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<String, Arc<Mutex<Contents>>>,
    small: BTreeMap<String, Vec<u8>>,
    faults: Faults,
    /// Changes so far, and copies of the disk asked for at some of them.
    changes: u64,
    copy_at: Option<u64>,
    copy: Option<Memory>,
}

/// What goes wrong from now on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) sync_fails: bool,
    /// No file can be made or grow.
    pub(crate) disk_full: bool,
    /// Not even blocks that exist can be written.
    pub(crate) write_full: bool,
    /// The next write stops after so many bytes with an error.
    pub(crate) write_stops_after: Option<usize>,
    /// Syncs wait until this is taken back.
    pub(crate) hold_syncs: bool,
    /// Making a file waits until this is taken back.
    pub(crate) hold_creates: bool,
}

/// See the module. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug)]
struct MemoryFile(Arc<Mutex<Contents>>, Memory);

impl Memory {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.0.lock().unwrap()
    }

    pub(crate) fn faults(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.state().faults);
        self.0.1.notify_all();
    }

    /// The process dies: a copy with the page cache as it is.
    pub(crate) fn after_kill(&self) -> Memory {
        Self::copy(&self.state(), |contents| contents.clone())
    }

    /// The power goes: a copy of what was synced, plus those sectors that were not and for
    /// which `kept` answers yes.
    pub(crate) fn after_power_cut(&self, mut kept: impl FnMut() -> bool) -> Memory {
        Self::copy(&self.state(), |contents| contents.cut(&mut kept))
    }

    /// Asks for a copy with the page cache as it is, taken before the change number `change`.
    pub(crate) fn copy_before(&self, change: u64) {
        self.state().copy_at = Some(change);
    }

    /// The copy asked for, if that change has come.
    pub(crate) fn take_copy(&self) -> Option<Memory> {
        self.state().copy.take()
    }

    /// Changes one file's bytes on the disk itself, as bit rot would.
    pub(crate) fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let state = self.state();
        let mut contents = state.files[name].lock().unwrap();
        change(&mut contents.now);
        contents.synced = contents.now.clone();
        contents.dirty.clear();
    }

    fn copy(state: &State, mut each: impl FnMut(&Contents) -> Contents) -> Memory {
        let files = state.files.iter().map(|(name, contents)| {
            (name.clone(), Arc::new(Mutex::new(each(&contents.lock().unwrap()))))
        });
        let files = files.collect();
        let copy = State { files, small: state.small.clone(), ..State::default() };
        Memory(Arc::new((Mutex::new(copy), Condvar::new())))
    }

    /// Every change of the disk passes here first.
    fn change(&self) -> std::sync::MutexGuard<'_, State> {
        let mut state = self.state();
        state.changes += 1;
        if state.copy_at == Some(state.changes) {
            state.copy = Some(Self::copy(&state, |contents| contents.clone()));
        }
        state
    }
}

impl Disk for Memory {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.state().files.keys().cloned().collect())
    }

    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn SegmentFile>> {
        let mut state = self.change();
        while state.faults.hold_creates {
            state = self.0.1.wait(state).unwrap();
        }
        if state.faults.disk_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let zeros = vec![0; bytes as usize];
        let contents = Contents { now: zeros.clone(), synced: zeros, dirty: BTreeSet::new() };
        let contents = Arc::new(Mutex::new(contents));
        state.files.insert(name.to_owned(), Arc::clone(&contents));
        Ok(Box::new(MemoryFile(contents, self.clone())))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn SegmentFile>> {
        let state = self.state();
        let contents = state.files.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(MemoryFile(Arc::clone(contents), self.clone())))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.change();
        let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let removed = self.change().files.remove(name);
        removed.map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn read_small(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.state().small.get(name).cloned())
    }

    fn write_small(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.change();
        if state.faults.disk_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.small.insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }
}

impl SegmentFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().now.len() as u64)
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let mut state = self.1.change();
        let stops_after = state.faults.write_stops_after.take();
        let full = state.faults.write_full;
        drop(state);
        if full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let bytes = &bytes[..stops_after.unwrap_or(bytes.len()).min(bytes.len())];
        let at = position as usize;
        let mut contents = self.0.lock().unwrap();
        contents.now[at..at + bytes.len()].copy_from_slice(bytes);
        contents.dirty.extend(at / SECTOR..(at + bytes.len()).div_ceil(SECTOR));
        match stops_after {
            Some(_) => Err(io::Error::other("input/output error")),
            None => Ok(()),
        }
    }

    fn read_at(&self, bytes: &mut [u8], position: u64) -> io::Result<()> {
        let contents = self.0.lock().unwrap();
        let at = position as usize;
        let from = contents.now.get(at..at + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        bytes.copy_from_slice(from);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.1.change();
        while state.faults.hold_syncs {
            state = self.1.0.1.wait(state).unwrap();
        }
        let fails = state.faults.sync_fails;
        drop(state);
        let mut contents = self.0.lock().unwrap();
        let dirty = std::mem::take(&mut contents.dirty);
        if fails {
            return Err(io::Error::other("input/output error"));
        }
        for sector in dirty {
            let range = sector * SECTOR..((sector + 1) * SECTOR).min(contents.now.len());
            let Contents { now, synced, .. } = &mut *contents;
            synced[range.clone()].copy_from_slice(&now[range]);
        }
        Ok(())
    }
}
