//! The open file: who may use it, reading, and the one-transaction conveniences.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use base::{Error, ErrorKind, Result};
use redb::{ReadTransaction, ReadableDatabase, TableDefinition, TableError};

use crate::transaction::{decode, prefix_end};
use crate::watched::{Fate, Watched};
use crate::{Row, Transaction, Versioned, cause};

/// What a row is on disk: its version and its JSON.
type Stored = (u64, &'static [u8]);

/// A table of rows by key.
pub(crate) const fn rows(table: &str) -> TableDefinition<'_, &'static str, Stored> {
    TableDefinition::new(table)
}

/// Facts about the file itself; its name cannot clash with a room's table.
const FILE: TableDefinition<'static, &'static str, u64> = TableDefinition::new("metastore!file");
/// What this program writes and the newest it can read.
const LAYOUT: u64 = 1;
/// Pages kept in memory; the database would take a gigabyte by default.
const CACHE_BYTES: usize = 16 * 1024 * 1024;
/// How often a file is opened again whose disk was full, and what must fit on it then.
const RETRY: Duration = Duration::from_millis(250);
const SPACE_BYTES: usize = 1024 * 1024;

/// The rows of every room. Cheap to clone; all clones are one store.
#[derive(Clone, Debug)]
pub struct Metastore(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// `None` while it cannot be opened again for want of space.
    database: RwLock<Option<redb::Database>>,
    /// `None` for one in memory.
    file: Option<Reopened>,
    /// The thread inside `transact`. A second transaction on that thread would wait for itself.
    writing: Mutex<Option<ThreadId>>,
}

/// A file that is opened again after its disk was full.
#[derive(Debug)]
struct Reopened {
    path: PathBuf,
    fate: Fate,
    /// When it was last tried.
    tried: Mutex<Option<Instant>>,
}

impl Reopened {
    /// Whether it is time to try, and there is space.
    fn is_due(&self) -> bool {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if tried.is_some_and(|tried| tried.elapsed() < RETRY) {
            return false;
        }
        *tried = Some(Instant::now());
        let probe = self.path.with_extension("space");
        let fits = std::fs::write(&probe, vec![0x5a; SPACE_BYTES]).is_ok();
        drop(std::fs::remove_file(&probe));
        fits
    }
}

/// The database for as long as somebody works with it.
struct Opened<'a>(RwLockReadGuard<'a, Option<redb::Database>>);

impl Opened<'_> {
    fn get(&self) -> Result<&redb::Database> {
        self.0.as_ref().ok_or_else(cause::full)
    }
}

impl Metastore {
    /// Opens the file at `path`, creating it (mode 0600) if it does not exist.
    ///
    /// Fails with [`ErrorKind::Conflict`] while another process holds the file, and refuses a
    /// file of a newer release untouched.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let made = create_private(path)
            .map_err(|failed| Error::io(format_args!("failed to open {shown}"), failed))?;
        let fate = Fate::default();
        let database = open_file(path, &fate)?;
        let file = Reopened { path: path.to_owned(), fate, tried: Mutex::new(None) };
        let store = Metastore::from_database(database, Some(file))
            .map_err(|failed| failed.context(format_args!("failed to open {shown}")))?;
        if made {
            sync_parent(path).map_err(|failed| {
                Error::io(format_args!("failed to sync the directory of {shown}"), failed)
            })?;
        }
        Ok(store)
    }

    /// A store that dies with its last clone, for tests and one-shot commands.
    pub fn in_memory() -> Result<Self> {
        Metastore::with_backend(redb::backends::InMemoryBackend::new())
    }

    pub(crate) fn with_backend(backend: impl redb::StorageBackend) -> Result<Self> {
        let database = builder()
            .create_with_backend(backend)
            .map_err(|failed| opening(Path::new("the metastore"), failed))?;
        Metastore::from_database(database, None)
    }

    fn from_database(database: redb::Database, file: Option<Reopened>) -> Result<Self> {
        let database = RwLock::new(Some(database));
        let store = Metastore(Arc::new(Shared { database, file, writing: Mutex::new(None) }));
        match store.layout()? {
            Some(LAYOUT) => Ok(store),
            Some(newer) => Err(Error::unsupported(format!(
                "the file has layout {newer}, this release reads {LAYOUT}; use the newer release"
            ))),
            None => store.write_layout().map(|()| store),
        }
    }

    /// The database, opened again first if a full disk had ended it and has space now.
    fn database(&self) -> Result<Opened<'_>> {
        if let Some(file) = self.0.file.as_ref().filter(|file| file.fate.is_full()) {
            self.reopen(file)?;
        }
        Ok(Opened(self.0.database.read().unwrap_or_else(PoisonError::into_inner)))
    }

    fn reopen(&self, file: &Reopened) -> Result<()> {
        // Whoever is at work with it will find out; waiting for him here could be for ourselves.
        let Ok(mut database) = self.0.database.try_write() else { return Err(cause::full()) };
        if !file.fate.is_full() {
            return Ok(());
        }
        if !file.is_due() {
            return Err(cause::full());
        }
        // The lock on the file goes with it.
        drop(database.take());
        file.fate.forget();
        match open_file(&file.path, &file.fate) {
            Ok(opened) => *database = Some(opened),
            Err(_) => {
                file.fate.stays_full();
                return Err(cause::full());
            }
        }
        Ok(())
    }

    fn layout(&self) -> Result<Option<u64>> {
        let doing = "failed to read the layout";
        let read = self.begin_read()?;
        let table = match read.open_table(FILE) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(failed) => return Err(cause::error(doing, failed)),
        };
        let layout = table.get("layout").map_err(|failed| cause::error(doing, failed))?;
        Ok(layout.map(|layout| layout.value()))
    }

    fn write_layout(&self) -> Result<()> {
        let doing = "failed to write the layout";
        let database = self.database()?;
        let write = database.get()?.begin_write().map_err(|failed| cause::error(doing, failed))?;
        {
            let mut table = write.open_table(FILE).map_err(|failed| cause::error(doing, failed))?;
            table.insert("layout", LAYOUT).map_err(|failed| cause::error(doing, failed))?;
        }
        write.commit().map_err(|failed| cause::error(doing, failed))
    }

    fn begin_read(&self) -> Result<ReadTransaction> {
        self.database()?
            .get()?
            .begin_read()
            .map_err(|failed| cause::error("failed to read the metastore", failed))
    }

    /// The row at `key`, if there is one.
    pub fn get<R: Row>(&self, key: &str) -> Result<Option<Versioned<R>>> {
        let doing = format_args!("failed to read {} {key:?}", R::TABLE);
        let Some(table) = self.read_table::<R>()? else { return Ok(None) };
        let found = table.get(key).map_err(|failed| cause::error(doing, failed))?;
        found.map(|found| decode::<R>(key, found.value())).transpose()
    }

    /// All rows, by key order.
    pub fn list<R: Row>(&self) -> Result<Vec<(String, Versioned<R>)>> {
        self.list_prefix("")
    }

    /// The rows whose key starts with `prefix`, by key order.
    pub fn list_prefix<R: Row>(&self, prefix: &str) -> Result<Vec<(String, Versioned<R>)>> {
        let doing = format_args!("failed to list {} {prefix:?}", R::TABLE);
        let Some(table) = self.read_table::<R>()? else { return Ok(Vec::new()) };
        let range = table.range(prefix..).map_err(|failed| cause::error(doing, failed))?;
        let mut rows = Vec::new();
        for entry in range {
            let (key, value) = entry.map_err(|failed| cause::error(doing, failed))?;
            if prefix_end(key.value(), prefix) {
                break;
            }
            rows.push((key.value().to_owned(), decode::<R>(key.value(), value.value())?));
        }
        Ok(rows)
    }

    /// The table of `R`, or `None` before its first row.
    fn read_table<R: Row>(&self) -> Result<Option<redb::ReadOnlyTable<&'static str, Stored>>> {
        match self.begin_read()?.open_table(rows(R::TABLE)) {
            Ok(table) => Ok(Some(table)),
            Err(TableError::TableDoesNotExist(_)) => Ok(None),
            Err(failed) => {
                Err(cause::error(format_args!("failed to open table {}", R::TABLE), failed))
            }
        }
    }

    /// Runs `f` as one transaction: durable when this returns `Ok`, no trace when `f` fails.
    ///
    /// Writers wait for each other, so `f` should compute nothing it could have computed
    /// before. A transaction that wrote nothing touches no disk. `f` must use its argument and
    /// not the store: a transaction inside a transaction is refused.
    pub fn transact<T>(&self, f: impl FnOnce(&mut Transaction<'_>) -> Result<T>) -> Result<T> {
        self.refuse_nesting()?;
        let database = self.database()?;
        self.transact_in(database.get()?, f).map_err(|failed| {
            let full = self.0.file.as_ref().is_some_and(|file| file.fate.is_full());
            let by_disk = failed.kind() == ErrorKind::Unavailable;
            // Somebody else may have met the full disk first; then this one was told less.
            if full && by_disk { cause::full().with_source(failed) } else { failed }
        })
    }

    fn transact_in<T>(
        &self,
        database: &redb::Database,
        f: impl FnOnce(&mut Transaction<'_>) -> Result<T>,
    ) -> Result<T> {
        let doing = "failed to begin a transaction";
        let write = database.begin_write().map_err(|failed| cause::error(doing, failed))?;
        let _turn = Turn::take(&self.0.writing);
        let mut transaction = Transaction::new(&write);
        let answer = f(&mut transaction)?;
        if !transaction.finish()? {
            return Ok(answer);
        }
        write.commit().map_err(|failed| {
            cause::error("failed to commit; whether it is stored is known after a restart", failed)
        })?;
        Ok(answer)
    }

    fn refuse_nesting(&self) -> Result<()> {
        let writing = *self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if writing == Some(std::thread::current().id()) {
            return Err(Error::internal("a transaction may not begin inside a transaction"));
        }
        Ok(())
    }

    /// Writes `row` at `key` whether or not there was one; answers its version.
    pub fn put<R: Row>(&self, key: &str, row: &R) -> Result<u64> {
        self.transact(|transaction| transaction.put(key, row))
    }

    /// Writes `row` at `key`; [`ErrorKind::AlreadyExists`] if there is one.
    pub fn create<R: Row>(&self, key: &str, row: &R) -> Result<u64> {
        self.transact(|transaction| transaction.create(key, row))
    }

    /// Writes `row` at `key` if the row there still has version `expected`;
    /// [`ErrorKind::Conflict`] if it changed, [`ErrorKind::NotFound`] if it is gone.
    pub fn replace<R: Row>(&self, key: &str, expected: u64, row: &R) -> Result<u64> {
        self.transact(|transaction| transaction.replace(key, expected, row))
    }

    /// Removes the row at `key`; `false` if there was none.
    pub fn delete<R: Row>(&self, key: &str) -> Result<bool> {
        self.transact(|transaction| transaction.delete::<R>(key))
    }
}

/// Marks this thread as the writer until dropped, also when the closure panics.
struct Turn<'a>(&'a Mutex<Option<ThreadId>>);

impl<'a> Turn<'a> {
    fn take(writing: &'a Mutex<Option<ThreadId>>) -> Self {
        *writing.lock().unwrap_or_else(PoisonError::into_inner) = Some(std::thread::current().id());
        Turn(writing)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Opens a file whose fate is noted. An empty one is initialised, any other must be a metastore.
fn open_file(path: &Path, fate: &Fate) -> Result<redb::Database> {
    let failed = |failed: redb::DatabaseError| opening(path, failed);
    let file = OpenOptions::new().read(true).write(true).open(path);
    let file = file.map_err(|cause| failed(redb::StorageError::Io(cause).into()))?;
    let file = Watched::new(file, fate.clone()).map_err(failed)?;
    builder().create_with_backend(file).map_err(failed)
}

fn builder() -> redb::Builder {
    let mut builder = redb::Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Makes an empty file only its owner may read; `false` if it was there already.
fn create_private(path: &Path) -> io::Result<bool> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(_) => Ok(true),
        Err(failed) if failed.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(failed) => Err(failed),
    }
}

/// A new name is durable only once its directory is synced.
fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

fn opening(path: &Path, failed: redb::DatabaseError) -> Error {
    let shown = path.display();
    match failed {
        redb::DatabaseError::DatabaseAlreadyOpen | redb::DatabaseError::LockProtocolMismatch => {
            Error::new(
                ErrorKind::Conflict,
                format!(
                    "{shown} is held by another running process; stop it or use another directory"
                ),
            )
            .with_source(failed)
        }
        redb::DatabaseError::UpgradeRequired(found) => Error::unsupported(format!(
            "{shown} has database format {found}, which this release does not read"
        ))
        .with_source(failed),
        redb::DatabaseError::Storage(redb::StorageError::Io(failed))
            if failed.kind() == io::ErrorKind::InvalidData =>
        {
            Error::new(
                ErrorKind::Corrupt,
                format!("{shown} is not a metastore file ({failed}); restore a backup"),
            )
            .with_source(failed)
        }
        other => cause::error(format_args!("failed to open {shown}"), other),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use redb::StorageBackend;
    use redb::backends::InMemoryBackend;
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct Note(String);

    impl Row for Note {
        const TABLE: &'static str = "notes";
    }

    #[derive(Debug)]
    struct FailingDisk {
        memory: InMemoryBackend,
        broken: Arc<AtomicBool>,
    }

    impl FailingDisk {
        fn check(&self) -> io::Result<()> {
            match self.broken.load(Ordering::SeqCst) {
                true => Err(io::Error::other("the cable is out")),
                false => Ok(()),
            }
        }
    }

    impl StorageBackend for FailingDisk {
        fn len(&self) -> io::Result<u64> {
            self.memory.len()
        }
        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.memory.read(offset, out)
        }
        fn set_len(&self, len: u64) -> io::Result<()> {
            self.check()?;
            self.memory.set_len(len)
        }
        fn sync_data(&self) -> io::Result<()> {
            self.check()?;
            self.memory.sync_data()
        }
        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            self.check()?;
            self.memory.write(offset, data)
        }
    }

    #[test]
    fn a_failed_disk_is_never_believed_again() {
        let broken = Arc::new(AtomicBool::new(false));
        let disk = FailingDisk { memory: InMemoryBackend::new(), broken: Arc::clone(&broken) };
        let store = Metastore::with_backend(disk).unwrap();
        store.put("a", &Note("kept".into())).unwrap();

        broken.store(true, Ordering::SeqCst);
        let first = store.put("b", &Note("lost".into())).unwrap_err();
        assert_eq!(first.kind(), ErrorKind::Unavailable);

        // The disk answers again, but what it holds is unknown: only a restart may look.
        broken.store(false, Ordering::SeqCst);
        let later = store.put("c", &Note("late".into())).unwrap_err();
        assert_eq!(later.kind(), ErrorKind::Unavailable);
        assert!(later.to_string().contains("restart"), "{later}");
    }

    #[test]
    fn k5_a_disk_that_was_full_is_used_again_once_there_is_space() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("forebay.db");
        let store = Metastore::open(&path).unwrap();
        store.put("a", &Note("kept".into())).unwrap();
        let file = store.0.file.as_ref().unwrap();

        // No space: the probe cannot be written where a folder has its name.
        let probe = path.with_extension("space");
        std::fs::create_dir(&probe).unwrap();
        file.fate.stays_full();
        let refused = store.put("b", &Note("lost".into())).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Exhausted, "{refused}");
        assert_eq!(store.get::<Note>("a").unwrap_err().kind(), ErrorKind::Exhausted);

        // Space: it is opened again, and nobody else can have it.
        std::fs::remove_dir(&probe).unwrap();
        std::thread::sleep(RETRY);
        store.put("c", &Note("new".into())).unwrap();
        assert_eq!(store.get::<Note>("a").unwrap().unwrap().row.0, "kept");
        assert!(store.get::<Note>("b").unwrap().is_none());
        assert_eq!(Metastore::open(&path).unwrap_err().kind(), ErrorKind::Conflict);
        drop(store);
        assert_eq!(Metastore::open(&path).unwrap().get::<Note>("c").unwrap().unwrap().row.0, "new");
    }

    #[test]
    fn k5_only_a_full_disk_is_forgiven() {
        let full = || Err(io::Error::from(io::ErrorKind::StorageFull));
        let fate = Fate::default();
        assert!(fate.wrote::<()>(full()).is_err() && fate.is_full());
        assert!(fate.synced(full()).is_err() && !fate.is_full(), "a failed sync says nothing");
        let fate = Fate::default();
        assert!(fate.wrote::<()>(Err(io::Error::other("the cable is out"))).is_err());
        assert!(fate.wrote::<()>(full()).is_err() && !fate.is_full());
    }

    #[test]
    fn a_file_of_a_newer_release_is_refused_untouched() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("forebay.db");
        {
            let store = Metastore::open(&path).unwrap();
            let database = store.database().unwrap();
            let write = database.get().unwrap().begin_write().unwrap();
            write.open_table(FILE).unwrap().insert("layout", LAYOUT + 1).unwrap();
            write.commit().unwrap();
        }
        for _ in 0..2 {
            let refused = Metastore::open(&path).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
        }
    }

    #[test]
    fn a_damaged_row_is_named() {
        let store = Metastore::in_memory().unwrap();
        let database = store.database().unwrap();
        let write = database.get().unwrap().begin_write().unwrap();
        let broken: &[u8] = b"{";
        write.open_table(rows("notes")).unwrap().insert("k", (1, broken)).unwrap();
        write.commit().unwrap();
        let failed = store.get::<Note>("k").unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::Corrupt);
        assert!(failed.to_string().contains("notes \"k\""), "{failed}");
    }
}
