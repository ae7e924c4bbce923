//! Rows that survive: one transactional file with compare-and-swap.
//!
//! * A write that answered is on stable storage; one that failed left nothing.
//! * A transaction is all or nothing, and writers take turns.
//! * Every row has a version that grows with each change, so that "replace what I read" is
//!   one call and a lost race is [`ErrorKind::Conflict`].
//!
//! The store keeps rows as JSON and does not know what they mean; rooms do. It is redb:
//! one file, pure Rust, a lock that refuses a second process, and it refuses to go on after
//! a failed sync instead of retrying it. PostgreSQL would stand behind the same calls.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use base::{Error, ErrorKind, Result};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Something that survives, and the table it lies in.
pub trait Row: Serialize + DeserializeOwned {
    /// The table's name; never changed once rows exist.
    const TABLE: &'static str;
}

/// A row with the number of changes it has seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<R> {
    /// Grows with each change, from 1.
    pub version: u64,
    /// The row.
    pub row: R,
}

impl<R> Deref for Versioned<R> {
    type Target = R;

    fn deref(&self) -> &R {
        &self.row
    }
}

/// The store. Clones share one file.
#[derive(Clone)]
pub struct Metastore {
    database: Arc<Database>,
}

impl std::fmt::Debug for Metastore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metastore")
    }
}

#[derive(Serialize)]
struct StoredRef<'a, R> {
    v: u64,
    row: &'a R,
}

#[derive(Deserialize)]
struct Stored<'a> {
    v: u64,
    #[serde(borrow)]
    row: &'a RawValue,
}

impl Metastore {
    /// Opens the file, making it when absent. Refused while another process holds it.
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let database = Database::create(path).map_err(|cause| {
            let (kind, why) = match &cause {
                redb::DatabaseError::DatabaseAlreadyOpen => (
                    ErrorKind::Conflict,
                    "another forebay process uses this data directory".to_owned(),
                ),
                redb::DatabaseError::Storage(redb::StorageError::Corrupted(what)) => {
                    (ErrorKind::Corrupt, format!("the file is damaged: {what}"))
                }
                redb::DatabaseError::UpgradeRequired(version) => (
                    ErrorKind::Unsupported,
                    format!("the file has format {version} of another Forebay version"),
                ),
                other => (ErrorKind::Unavailable, other.to_string()),
            };
            Error::new(kind, format!("open {shown}: {why}")).with_source(cause)
        })?;
        Ok(Metastore { database: Arc::new(database) })
    }

    /// A store that forgets everything when it is dropped, for tests.
    pub fn in_memory() -> Result<Self> {
        let backend = redb::backends::InMemoryBackend::new();
        let database =
            Database::builder().create_with_backend(backend).map_err(|e| storage(e.into()))?;
        Ok(Metastore { database: Arc::new(database) })
    }

    /// One row.
    pub fn get<R: Row>(&self, key: &str) -> Result<Option<Versioned<R>>> {
        let transaction = self.database.begin_read().map_err(|e| storage(e.into()))?;
        let table = match transaction.open_table(table::<R>()) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            Err(cause) => return Err(storage(cause.into())),
        };
        get_in(&table, key)
    }

    /// All rows of a table, by key.
    pub fn list<R: Row>(&self) -> Result<Vec<(String, Versioned<R>)>> {
        self.list_prefix("")
    }

    /// The rows whose key starts with `prefix`, by key.
    pub fn list_prefix<R: Row>(&self, prefix: &str) -> Result<Vec<(String, Versioned<R>)>> {
        let transaction = self.database.begin_read().map_err(|e| storage(e.into()))?;
        let table = match transaction.open_table(table::<R>()) {
            Ok(table) => table,
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
            Err(cause) => return Err(storage(cause.into())),
        };
        list_in(&table, prefix)
    }

    /// Runs `work` as one transaction: durable when this answers `Ok`, undone otherwise.
    pub fn transact<T>(&self, work: impl FnOnce(&mut Transaction<'_>) -> Result<T>) -> Result<T> {
        let transaction = self.database.begin_write().map_err(|e| storage(e.into()))?;
        let result = work(&mut Transaction { inner: &transaction })?;
        transaction.commit().map_err(|e| storage(e.into()))?;
        Ok(result)
    }

    /// Writes a row, whether or not it exists; its new version.
    pub fn put<R: Row>(&self, key: &str, row: &R) -> Result<u64> {
        self.transact(|t| t.put(key, row))
    }

    /// Writes a row that must not exist.
    pub fn create<R: Row>(&self, key: &str, row: &R) -> Result<u64> {
        self.transact(|t| t.create(key, row))
    }

    /// Writes a row that must still have `version`.
    pub fn replace<R: Row>(&self, key: &str, version: u64, row: &R) -> Result<u64> {
        self.transact(|t| t.replace(key, version, row))
    }

    /// Removes a row; whether there was one.
    pub fn delete<R: Row>(&self, key: &str) -> Result<bool> {
        self.transact(|t| t.delete::<R>(key))
    }
}

/// The calls inside [`Metastore::transact`]. It sees its own writes.
pub struct Transaction<'a> {
    inner: &'a WriteTransaction,
}

impl Transaction<'_> {
    /// One row.
    pub fn get<R: Row>(&self, key: &str) -> Result<Option<Versioned<R>>> {
        get_in(&self.open::<R>()?, key)
    }

    /// All rows of a table, by key.
    pub fn list<R: Row>(&self) -> Result<Vec<(String, Versioned<R>)>> {
        self.list_prefix("")
    }

    /// The rows whose key starts with `prefix`, by key.
    pub fn list_prefix<R: Row>(&self, prefix: &str) -> Result<Vec<(String, Versioned<R>)>> {
        list_in(&self.open::<R>()?, prefix)
    }

    /// Writes a row, whether or not it exists; its new version.
    pub fn put<R: Row>(&mut self, key: &str, row: &R) -> Result<u64> {
        let version = self.version::<R>(key)?.unwrap_or(0) + 1;
        self.write(key, version, row)
    }

    /// Writes a row that must not exist.
    pub fn create<R: Row>(&mut self, key: &str, row: &R) -> Result<u64> {
        if self.version::<R>(key)?.is_some() {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("{} {key:?} exists already", R::TABLE),
            ));
        }
        self.write(key, 1, row)
    }

    /// Writes a row that must still have `version`.
    pub fn replace<R: Row>(&mut self, key: &str, version: u64, row: &R) -> Result<u64> {
        match self.version::<R>(key)? {
            Some(found) if found == version => self.write(key, version + 1, row),
            Some(found) => Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "{} {key:?} was changed meanwhile (version {found}, not {version})",
                    R::TABLE
                ),
            )),
            None => Err(Error::not_found(format!("{} {key:?} does not exist", R::TABLE))),
        }
    }

    /// Removes a row; whether there was one.
    pub fn delete<R: Row>(&mut self, key: &str) -> Result<bool> {
        let mut table = self.open::<R>()?;
        let removed = table.remove(key).map_err(|e| storage(e.into()))?;
        Ok(removed.is_some())
    }

    fn open<R: Row>(&self) -> Result<redb::Table<'_, &'static str, &'static [u8]>> {
        self.inner.open_table(table::<R>()).map_err(|e| storage(e.into()))
    }

    fn version<R: Row>(&self, key: &str) -> Result<Option<u64>> {
        let table = self.open::<R>()?;
        let Some(bytes) = table.get(key).map_err(|e| storage(e.into()))? else { return Ok(None) };
        Ok(Some(stored::<R>(key, bytes.value())?.v))
    }

    fn write<R: Row>(&mut self, key: &str, version: u64, row: &R) -> Result<u64> {
        let bytes = serde_json::to_vec(&StoredRef { v: version, row }).map_err(|cause| {
            Error::internal(format!("write {} {key:?}: {cause}", R::TABLE)).with_source(cause)
        })?;
        let mut table = self.open::<R>()?;
        table.insert(key, bytes.as_slice()).map_err(|e| storage(e.into()))?;
        Ok(version)
    }
}

fn table<R: Row>() -> TableDefinition<'static, &'static str, &'static [u8]> {
    TableDefinition::new(R::TABLE)
}

fn get_in<R: Row>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<Versioned<R>>> {
    match table.get(key).map_err(|e| storage(e.into()))? {
        None => Ok(None),
        Some(bytes) => read(key, bytes.value()).map(Some),
    }
}

fn list_in<R: Row>(
    table: &impl ReadableTable<&'static str, &'static [u8]>,
    prefix: &str,
) -> Result<Vec<(String, Versioned<R>)>> {
    let mut rows = BTreeMap::new();
    for entry in table.range(prefix..).map_err(|e| storage(e.into()))? {
        let (key, bytes) = entry.map_err(|e| storage(e.into()))?;
        let key = key.value();
        if !key.starts_with(prefix) {
            break;
        }
        rows.insert(key.to_owned(), read(key, bytes.value())?);
    }
    Ok(rows.into_iter().collect())
}

fn read<R: Row>(key: &str, bytes: &[u8]) -> Result<Versioned<R>> {
    let stored = stored::<R>(key, bytes)?;
    let row =
        serde_json::from_str(stored.row.get()).map_err(|cause| unreadable::<R>(key, cause))?;
    Ok(Versioned { version: stored.v, row })
}

fn stored<'a, R: Row>(key: &str, bytes: &'a [u8]) -> Result<Stored<'a>> {
    serde_json::from_slice(bytes).map_err(|cause| unreadable::<R>(key, cause))
}

fn unreadable<R: Row>(key: &str, cause: serde_json::Error) -> Error {
    let message = format!("read {} {key:?}: {cause}", R::TABLE);
    Error::new(ErrorKind::Corrupt, message).with_source(cause)
}

/// After an I/O error the file stays closed to us: what is on the disk is unknown until it is
/// opened anew.
fn storage(cause: redb::Error) -> Error {
    let kind = match &cause {
        redb::Error::Corrupted(_) => ErrorKind::Corrupt,
        redb::Error::Io(io) if io.kind() == std::io::ErrorKind::StorageFull => ErrorKind::Exhausted,
        _ => ErrorKind::Unavailable,
    };
    let advice = match kind {
        ErrorKind::Exhausted => "; free space and restart",
        ErrorKind::Corrupt => "; restore the data directory from a backup",
        _ => "; check the disk and restart",
    };
    Error::new(kind, format!("the metastore failed: {cause}{advice}")).with_source(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Thing {
        count: u64,
    }

    impl Row for Thing {
        const TABLE: &'static str = "thing";
    }

    /// What every store must do.
    fn check_store(store: &Metastore) {
        assert_eq!(store.get::<Thing>("a").unwrap(), None);
        assert!(store.list::<Thing>().unwrap().is_empty());
        assert_eq!(store.create("a", &Thing { count: 1 }).unwrap(), 1);
        let twice = store.create("a", &Thing { count: 2 }).unwrap_err();
        assert_eq!(twice.kind(), ErrorKind::AlreadyExists);
        assert_eq!(store.replace("a", 1, &Thing { count: 3 }).unwrap(), 2);
        let stale = store.replace("a", 1, &Thing { count: 4 }).unwrap_err();
        assert_eq!(stale.kind(), ErrorKind::Conflict);
        let absent = store.replace("b", 1, &Thing { count: 4 }).unwrap_err();
        assert_eq!(absent.kind(), ErrorKind::NotFound);
        assert_eq!(store.put("b/1", &Thing { count: 5 }).unwrap(), 1);
        assert_eq!(store.put("b/2", &Thing { count: 6 }).unwrap(), 1);
        let keys = |rows: Vec<(String, Versioned<Thing>)>| {
            rows.into_iter().map(|(k, _)| k).collect::<Vec<_>>()
        };
        assert_eq!(keys(store.list_prefix("b/").unwrap()), ["b/1", "b/2"]);
        assert_eq!(keys(store.list().unwrap()), ["a", "b/1", "b/2"]);
        assert!(store.delete::<Thing>("b/1").unwrap());
        assert!(!store.delete::<Thing>("b/1").unwrap());
        let undone: Result<()> = store.transact(|t| {
            t.put("c", &Thing { count: 7 })?;
            assert!(t.get::<Thing>("c")?.is_some());
            Err(Error::invalid("changed my mind"))
        });
        assert!(undone.is_err());
        assert_eq!(store.get::<Thing>("c").unwrap(), None);
    }

    #[test]
    fn a_store_in_memory_does_what_a_store_must() {
        check_store(&Metastore::in_memory().unwrap());
    }

    #[test]
    fn a_store_in_a_file_does_too_and_remembers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("forebay.db");
        let store = Metastore::open(&path).unwrap();
        check_store(&store);
        let second = Metastore::open(&path).unwrap_err();
        assert_eq!(second.kind(), ErrorKind::Conflict);
        assert!(second.to_string().contains("another forebay process"), "{second}");
        drop(store);
        let store = Metastore::open(&path).unwrap();
        assert_eq!(store.get::<Thing>("a").unwrap().unwrap().row, Thing { count: 3 });
    }

    #[test]
    fn a_hundred_equal_creates_make_one_row_and_no_increment_is_lost() {
        let store = Metastore::in_memory().unwrap();
        let made: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..100)
                .map(|_| scope.spawn(|| store.create("x", &Thing { count: 0 }).is_ok()))
                .collect();
            threads.into_iter().map(|t| usize::from(t.join().unwrap())).sum()
        });
        assert_eq!(made, 1);
        std::thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| {
                    loop {
                        let thing = store.get::<Thing>("x").unwrap().unwrap();
                        let next = Thing { count: thing.count + 1 };
                        match store.replace("x", thing.version, &next) {
                            Ok(_) => break,
                            Err(e) => assert_eq!(e.kind(), ErrorKind::Conflict),
                        }
                    }
                });
            }
        });
        assert_eq!(store.get::<Thing>("x").unwrap().unwrap().count, 20);
    }
}
