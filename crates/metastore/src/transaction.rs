//! Reading and writing inside one transaction.

use std::marker::PhantomData;

use base::{Error, ErrorKind, Result};
use redb::{ReadableTable, TableDefinition, WriteTransaction};

use crate::store::rows;
use crate::{KEY_BYTES_MAX, ROW_BYTES_MAX, Row, Versioned, cause};

/// The last version handed out; its own table, so that rooms' tables hold rows only.
const LAST: TableDefinition<'static, &'static str, u64> = TableDefinition::new("metastore!version");

/// What the closure of [`crate::Metastore::transact`] reads and writes. It sees its own writes.
pub struct Transaction<'a> {
    write: &'a WriteTransaction,
    /// The last version handed out, once this transaction needed one.
    last: Option<u64>,
    dirty: bool,
    /// Bound to the closure's thread, like the turn of its writer.
    _here: PhantomData<*const ()>,
}

impl<'a> Transaction<'a> {
    pub(crate) fn new(write: &'a WriteTransaction) -> Self {
        Transaction { write, last: None, dirty: false, _here: PhantomData }
    }

    /// Stores the version counter; `false` if nothing was written at all.
    pub(crate) fn finish(&mut self) -> Result<bool> {
        if let Some(last) = self.last {
            let doing = "failed to store the version";
            let mut table =
                self.write.open_table(LAST).map_err(|failed| cause::error(doing, failed))?;
            table.insert("last", last).map_err(|failed| cause::error(doing, failed))?;
        }
        Ok(self.dirty)
    }

    fn next_version(&mut self) -> Result<u64> {
        let last = match self.last {
            Some(last) => last,
            None => {
                let doing = "failed to read the version";
                let table =
                    self.write.open_table(LAST).map_err(|failed| cause::error(doing, failed))?;
                let last = table.get("last").map_err(|failed| cause::error(doing, failed))?;
                last.map_or(0, |last| last.value())
            }
        };
        self.last = Some(last + 1);
        Ok(last + 1)
    }

    /// The row at `key`, if there is one.
    pub fn get<R: Row>(&self, key: &str) -> Result<Option<Versioned<R>>> {
        let doing = format_args!("failed to read {} {key:?}", R::TABLE);
        let table =
            self.write.open_table(rows(R::TABLE)).map_err(|failed| cause::error(doing, failed))?;
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
        let table =
            self.write.open_table(rows(R::TABLE)).map_err(|failed| cause::error(doing, failed))?;
        let range = table.range(prefix..).map_err(|failed| cause::error(doing, failed))?;
        let mut listed = Vec::new();
        for entry in range {
            let (key, value) = entry.map_err(|failed| cause::error(doing, failed))?;
            if prefix_end(key.value(), prefix) {
                break;
            }
            listed.push((key.value().to_owned(), decode::<R>(key.value(), value.value())?));
        }
        Ok(listed)
    }

    /// Writes `row` at `key` whether or not there was one; answers its version.
    pub fn put<R: Row>(&mut self, key: &str, row: &R) -> Result<u64> {
        let json = encode(key, row)?;
        let doing = format_args!("failed to write {} {key:?}", R::TABLE);
        let version = self.next_version()?;
        let mut table =
            self.write.open_table(rows(R::TABLE)).map_err(|failed| cause::error(doing, failed))?;
        table
            .insert(key, (version, json.as_slice()))
            .map_err(|failed| cause::error(doing, failed))?;
        self.dirty = true;
        Ok(version)
    }

    /// Writes `row` at `key`; [`ErrorKind::AlreadyExists`] if there is one.
    pub fn create<R: Row>(&mut self, key: &str, row: &R) -> Result<u64> {
        if self.version::<R>(key)?.is_some() {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("{} {key:?} exists already", R::TABLE),
            ));
        }
        self.put(key, row)
    }

    /// Writes `row` at `key` if the row there still has version `expected`;
    /// [`ErrorKind::Conflict`] if it changed, [`ErrorKind::NotFound`] if it is gone.
    pub fn replace<R: Row>(&mut self, key: &str, expected: u64, row: &R) -> Result<u64> {
        match self.version::<R>(key)? {
            Some(found) if found == expected => self.put(key, row),
            Some(found) => Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "{} {key:?} changed meanwhile (version {found}, expected {expected}); read it again",
                    R::TABLE
                ),
            )),
            None => Err(Error::not_found(format!("{} {key:?} does not exist", R::TABLE))),
        }
    }

    /// Removes the row at `key`; `false` if there was none.
    pub fn delete<R: Row>(&mut self, key: &str) -> Result<bool> {
        let doing = format_args!("failed to delete {} {key:?}", R::TABLE);
        let mut table =
            self.write.open_table(rows(R::TABLE)).map_err(|failed| cause::error(doing, failed))?;
        let removed = table.remove(key).map_err(|failed| cause::error(doing, failed))?.is_some();
        self.dirty |= removed;
        Ok(removed)
    }

    /// The version at `key`, without reading the row as JSON.
    fn version<R: Row>(&self, key: &str) -> Result<Option<u64>> {
        let doing = format_args!("failed to read {} {key:?}", R::TABLE);
        let table =
            self.write.open_table(rows(R::TABLE)).map_err(|failed| cause::error(doing, failed))?;
        let found = table.get(key).map_err(|failed| cause::error(doing, failed))?;
        Ok(found.map(|found| found.value().0))
    }
}

/// Whether `key`, met while walking on from `prefix`, lies past the keys that start with it.
pub(crate) fn prefix_end(key: &str, prefix: &str) -> bool {
    !key.starts_with(prefix)
}

pub(crate) fn decode<R: Row>(key: &str, (version, json): (u64, &[u8])) -> Result<Versioned<R>> {
    let row = serde_json::from_slice(json).map_err(|failed| {
        Error::new(ErrorKind::Corrupt, format!("{} {key:?} cannot be read back", R::TABLE))
            .with_source(failed)
    })?;
    Ok(Versioned { version, row })
}

fn encode<R: Row>(key: &str, row: &R) -> Result<Vec<u8>> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err(Error::invalid(format!(
            "a key of {} has {} bytes; 1 to {KEY_BYTES_MAX} are allowed",
            R::TABLE,
            key.len()
        )));
    }
    let json = serde_json::to_vec(row).map_err(|failed| {
        Error::invalid(format!("{} {key:?} cannot be written as JSON", R::TABLE))
            .with_source(failed)
    })?;
    if json.len() > ROW_BYTES_MAX {
        return Err(Error::new(
            ErrorKind::Exhausted,
            format!(
                "{} {key:?} has {} bytes; a row holds at most {ROW_BYTES_MAX}",
                R::TABLE,
                json.len()
            ),
        ));
    }
    Ok(json)
}
