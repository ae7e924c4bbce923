//! The database's file, and why it failed if it did.
//!
//! The database refuses all work after any failed write. Where the disk was merely full, nothing
//! that was stored is in doubt: every earlier transaction was synced, and the one under way is
//! not part of the file. Such a file may be opened again once there is space. After anything else,
//! above all a failed sync, what the file shows may not be on the disk, and only a restart looks.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

const WELL: u8 = 0;
const FULL: u8 = 1;
const FAILED: u8 = 2;

/// What became of a file.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fate(Arc<AtomicU8>);

impl Fate {
    /// Whether it failed because the disk was full, and for nothing worse.
    pub(crate) fn is_full(&self) -> bool {
        self.0.load(Ordering::SeqCst) == FULL
    }

    /// It is about to be opened again.
    pub(crate) fn forget(&self) {
        self.0.store(WELL, Ordering::SeqCst);
    }

    /// It could not be opened again for want of space.
    pub(crate) fn stays_full(&self) {
        self.0.fetch_max(FULL, Ordering::SeqCst);
    }

    pub(crate) fn wrote<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(cause) = &result {
            let fate = if disk_full(cause) { FULL } else { FAILED };
            self.0.fetch_max(fate, Ordering::SeqCst);
        }
        result
    }

    pub(crate) fn synced(&self, result: io::Result<()>) -> io::Result<()> {
        if result.is_err() {
            self.0.store(FAILED, Ordering::SeqCst);
        }
        result
    }
}

/// Whether an error says that there is no space.
pub(crate) fn disk_full(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A file that notes its fate.
#[derive(Debug)]
pub(crate) struct Watched<B> {
    file: B,
    fate: Fate,
}

impl Watched<FileBackend> {
    pub(crate) fn new(file: File, fate: Fate) -> Result<Self, DatabaseError> {
        Ok(Watched { file: FileBackend::new(file)?, fate })
    }
}

impl<B: StorageBackend> StorageBackend for Watched<B> {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.fate.wrote(self.file.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.fate.synced(self.file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.fate.wrote(self.file.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
