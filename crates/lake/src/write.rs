//! Rows that a statement puts into a table or a place: all of its files, or none.
//!
//! ```text
//! prepare   sync what is staged; one transaction: the write is PREPARED
//! publish   rename each file to its key (again after a crash: done ones are found there)
//! commit    one transaction: table, partitions, file list, the write is FINISHED
//! ```
//!
//! Invariants
//! * A prepared write is always finished, and never undone; one that is not leaves nothing but
//!   its staging folder, which the next start sweeps.
//! * Keys are made of the write's id: publishing twice makes the same objects.
//! * Who lists a table sees the files of a write all or not at all: those of a prepared one are
//!   left out, and so are those of one that was prepared while the listing went on.
//! * A finished write is remembered until whoever asked for it has been told.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base::{Error, ErrorKind, Result, Timestamp};
use metastore::{Row, Transaction};
use serde::{Deserialize, Serialize};

use crate::catalog::{add_partitions, create_table, no_database, table_key};
use crate::commits::{self, CommitKind, NewCommit};
use crate::job::{refuse_while_written, sync_folder, sync_folders, sync_staged};
use crate::lake::blocking;
use crate::{Database, FileSource, Lake, Partition, StagedFile, Table, WrittenFile};

/// Ids of writes begin so.
pub(crate) const ID_START: &str = "wr_";

/// The write of the statement with this id.
pub fn write_id(statement: &str) -> String {
    format!("{ID_START}{statement}")
}

/// Where the rows of a write go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WriteInto {
    /// A table that is there, as it was when the rows were made.
    Table(Box<Table>),
    /// A table that comes with them.
    New(Box<Table>),
    /// Objects that are no table.
    Place,
}

/// A staged file and the object it becomes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteFile {
    /// Its file, beneath the staging folder.
    pub staged: String,
    /// The object's bucket.
    pub bucket: String,
    /// The object's key.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// Rows in it.
    pub rows: u64,
    /// Values of the table's partition keys; null is [`crate::NULL_PARTITION`].
    pub partition_values: Vec<String>,
}

/// A write, ready to be carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Write {
    /// Its id, see [`write_id`].
    pub id: String,
    /// Where the rows go.
    pub into: WriteInto,
    /// The files with the rows.
    pub files: Vec<WriteFile>,
    /// Objects that come with them and are no part of a table.
    pub beside: Vec<WriteFile>,
    /// Bytes that were read for it, to be told to whoever asked.
    pub bytes_scanned: u64,
}

/// A write that will be finished, come what may.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct PreparedWrite(Write);

impl Row for PreparedWrite {
    const TABLE: &'static str = "prepared_writes";
}

/// What a finished write came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishedWrite {
    /// Rows that it put there.
    pub rows: u64,
    /// Bytes that were read for it.
    pub bytes_scanned: u64,
    /// When.
    pub at: Timestamp,
}

impl Row for FinishedWrite {
    const TABLE: &'static str = "finished_writes";
}

impl Lake {
    /// The folder where a write stages its files; made if absent, swept when it is over.
    pub fn write_staging(&self, id: &str) -> Result<PathBuf> {
        let folder = self.staging(id);
        std::fs::create_dir_all(&folder)
            .map_err(|cause| Error::io("make a folder for rows that are written", cause))?;
        Ok(folder)
    }

    /// Prepares, publishes and commits.
    ///
    /// An error before the write was prepared leaves nothing of it; one after that leaves it to
    /// the next start, see [`Lake::is_prepared_write`].
    pub async fn write(&self, write: Write) -> Result<FinishedWrite> {
        let id = write.id.clone();
        if let Err(error) = self.prepare_write(write).await {
            self.drop_write(&id);
            return Err(error);
        }
        self.resume_write(&id).await
    }

    /// Makes a write one that will be finished: from here on a crash leads forwards.
    pub async fn prepare_write(&self, write: Write) -> Result<()> {
        for file in write.files.iter().chain(&write.beside) {
            // A key that is none, or lies elsewhere, is found out while there is a way back.
            self.buckets().local_path(&file.bucket, &file.key)?;
        }
        let keys = match &write.into {
            WriteInto::Table(table) | WriteInto::New(table) => table.partition_keys.len(),
            WriteInto::Place => write.files.first().map_or(0, |file| file.partition_values.len()),
        };
        if let Some(file) = write.files.iter().find(|file| file.partition_values.len() != keys) {
            return Err(Error::internal(format!("file {:?} lacks partition values", file.staged)));
        }
        let staging = self.staging(&write.id);
        let staged: Vec<StagedFile> = write.files.iter().chain(&write.beside).map(staged).collect();
        blocking(move || {
            staged.iter().try_for_each(|file| sync_staged(&staging, file))?;
            sync_folders(&staging)
        })
        .await?;
        let keys = write.files.iter().map(|file| (file.bucket.clone(), file.key.clone()));
        let keys = keys.collect();
        let now = self.clock().now();
        self.store().transact(|transaction| {
            reserve(transaction, &write.into, now)?;
            transaction.create(&write.id, &PreparedWrite(write.clone())).map(drop)
        })?;
        self.arrivals().begin(keys);
        Ok(())
    }

    /// Moves the files of a prepared write to their keys. May be called again.
    pub async fn publish_write(&self, id: &str) -> Result<()> {
        let write = self.find_write(id)?;
        let staging = self.staging(id);
        for file in write.files.iter().chain(&write.beside) {
            let from = staging.join(&file.staged);
            if from.exists() {
                self.buckets().publish_file(&from, &file.bucket, &file.key).await?;
                continue;
            }
            // Renamed before a crash, which may have come before the folder was synced.
            let lost = || {
                Error::new(
                    ErrorKind::Corrupt,
                    format!(
                        "object {:?} of prepared write {id} is neither staged nor whole at its key",
                        file.key
                    ),
                )
            };
            let found = self.buckets().head(&file.bucket, &file.key).await;
            let found = found.map_err(|error| lost().with_source(error))?;
            if found.bytes != file.bytes {
                return Err(lost());
            }
            let path = self.buckets().local_path(&file.bucket, &file.key)?;
            blocking(move || sync_folder(path.parent().unwrap_or(&path))).await?;
        }
        Ok(())
    }

    /// Makes a published write part of the catalog.
    pub fn commit_write(&self, id: &str) -> Result<FinishedWrite> {
        let write = self.find_write(id)?;
        let now = self.clock().now();
        let finished = self.store().transact(|transaction| commit(transaction, &write, now))?;
        self.sweep_run(id);
        tracing::info!(id, rows = finished.rows, files = write.files.len(), "committed a write");
        Ok(finished)
    }

    /// Finishes a prepared write.
    pub async fn resume_write(&self, id: &str) -> Result<FinishedWrite> {
        self.publish_write(id).await?;
        self.commit_write(id)
    }

    /// Removes what a write has staged, unless it is to be finished.
    pub fn drop_write(&self, id: &str) {
        match self.is_prepared_write(id) {
            Ok(false) => self.sweep_run(id),
            Ok(true) => {}
            // Swept at the next start, if it should be.
            Err(error) => tracing::warn!(id, %error, "what a write has staged stays"),
        }
    }

    /// Whether a write waits to be finished, which the next start does.
    pub fn is_prepared_write(&self, id: &str) -> Result<bool> {
        Ok(self.store().get::<PreparedWrite>(id)?.is_some())
    }

    /// What a write came to, if it is finished and not forgotten.
    pub fn finished_write(&self, id: &str) -> Result<Option<FinishedWrite>> {
        Ok(self.store().get::<FinishedWrite>(id)?.map(|found| found.row))
    }

    /// Forgets a finished write, once whoever asked for it has been told.
    pub fn forget_write(&self, id: &str) -> Result<()> {
        self.store().delete::<FinishedWrite>(id).map(drop)
    }

    /// Finishes what a crash left prepared; the ids of those that were, and of those that could
    /// not be, with why.
    pub(crate) async fn recover_writes(&self) -> Result<(Vec<String>, Vec<(String, String)>)> {
        let (mut finished, mut stuck) = (Vec::new(), Vec::new());
        for (id, _) in self.store().list::<PreparedWrite>()? {
            match self.resume_write(&id).await {
                Ok(_) => finished.push(id),
                Err(error) => {
                    tracing::error!(%id, %error, "a prepared write cannot be finished");
                    stuck.push((id, error.to_string()));
                }
            }
        }
        Ok((finished, stuck))
    }

    fn find_write(&self, id: &str) -> Result<Write> {
        match self.store().get::<PreparedWrite>(id)? {
            Some(found) => Ok(found.row.0),
            None => Err(Error::not_found(format!("write {id:?} is not prepared"))),
        }
    }

    /// Keys below a prefix that writes are about to fill.
    pub(crate) fn unfinished_keys(&self, bucket: &str, prefix: &str) -> Result<HashSet<String>> {
        let mut keys = HashSet::new();
        for (_, write) in self.store().list::<PreparedWrite>()? {
            let here = write.row.0.files.into_iter().filter(|file| file.bucket == bucket);
            keys.extend(here.map(|file| file.key).filter(|key| key.starts_with(prefix)));
        }
        Ok(keys)
    }
}

fn staged(file: &WriteFile) -> StagedFile {
    StagedFile {
        path: file.staged.clone(),
        partition_values: file.partition_values.clone(),
        rows: file.rows,
        bytes: file.bytes,
    }
}

/// Refuses to prepare for a table that has changed, or could not be made later.
fn reserve(transaction: &mut Transaction<'_>, into: &WriteInto, now: Timestamp) -> Result<()> {
    let conflict = |why: String| Err(Error::new(ErrorKind::Conflict, why));
    match into {
        WriteInto::Place => Ok(()),
        WriteInto::Table(table) => {
            let found = transaction.get::<Table>(&table_key(&table.database, &table.name))?;
            match found {
                Some(found) if is_same(&found, table) && found.row.version == table.version => {
                    Ok(())
                }
                _ => conflict(format!(
                    "table {:?} changed while the statement ran; run it again",
                    table.name
                )),
            }
        }
        WriteInto::New(table) => {
            if transaction.get::<Database>(&table.database)?.is_none() {
                return Err(no_database(&table.database));
            }
            refuse_while_written(transaction, &table.database, Some(&table.name))?;
            // Made and taken back: whatever forbids the table forbids it now.
            create_table(transaction, (**table).clone(), now)?;
            transaction.delete::<Table>(&table_key(&table.database, &table.name)).map(drop)
        }
    }
}

fn is_same(found: &Table, table: &Table) -> bool {
    found.created_at == table.created_at
        && found.source == table.source
        && (&found.bucket, &found.prefix) == (&table.bucket, &table.prefix)
}

/// Refuses changes to a table, or of a database, that rows are about to be put into.
pub(crate) fn refuse_while_filled(
    transaction: &Transaction<'_>,
    database: &str,
    name: Option<&str>,
) -> Result<()> {
    for (id, write) in transaction.list::<PreparedWrite>()? {
        let (WriteInto::Table(table) | WriteInto::New(table)) = &write.row.0.into else { continue };
        if table.database == database && name.is_none_or(|name| table.name == name) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("write {id} is about to change {database:?}; try again"),
            ));
        }
    }
    Ok(())
}

/// The transaction that makes a write true.
fn commit(
    transaction: &mut Transaction<'_>,
    write: &Write,
    now: Timestamp,
) -> Result<FinishedWrite> {
    let table = match &write.into {
        WriteInto::Place => None,
        WriteInto::New(table) => Some(create_table(transaction, (**table).clone(), now)?),
        // One that was dropped meanwhile was dropped with these rows.
        WriteInto::Table(table) => transaction
            .get::<Table>(&table_key(&table.database, &table.name))?
            .map(|found| found.row)
            .filter(|found| is_same(found, table)),
    };
    if let Some(table) = table {
        fill(transaction, &table, write, now)?;
    }
    let rows = write.files.iter().map(|file| file.rows).sum();
    let finished = FinishedWrite { rows, bytes_scanned: write.bytes_scanned, at: now };
    transaction.put(&write.id, &finished)?;
    transaction.delete::<PreparedWrite>(&write.id)?;
    Ok(finished)
}

/// Makes the files of a write a table's.
fn fill(
    transaction: &mut Transaction<'_>,
    table: &Table,
    write: &Write,
    now: Timestamp,
) -> Result<()> {
    let partition = |file: &WriteFile| Partition {
        values: file.partition_values.clone(),
        bucket: file.bucket.clone(),
        prefix: file.key[..=file.key.rfind('/').unwrap_or(0)].to_owned(),
        created_at: now,
    };
    if !table.partition_keys.is_empty() {
        add_partitions(transaction, table, write.files.iter().map(partition).collect(), now)?;
    }
    if table.source != FileSource::Committed || write.files.is_empty() {
        return Ok(());
    }
    let written = |file: &WriteFile| WrittenFile {
        key: file.key.clone(),
        bytes: file.bytes,
        rows: file.rows,
        partition_values: file.partition_values.clone(),
        run_id: write.id.clone(),
        commit_added: 0,
        commit_removed: None,
    };
    let new = NewCommit {
        kind: CommitKind::Append,
        by: &write.id,
        why: "",
        at: now,
        added: write.files.iter().map(written).collect(),
        removed: Vec::new(),
    };
    commits::commit(transaction, table, new).map(drop)
}

/// Keys of an object: bucket and key.
type Keys = HashSet<(String, String)>;

/// The writes that were prepared while somebody lists. What one of them publishes may be half in
/// the listing, and the write may be over before the listing is: then no row tells of it.
///
/// Bounded by the writes that begin during the longest listing.
#[derive(Debug, Default)]
pub(crate) struct Arrivals(Mutex<Arriving>);

#[derive(Debug, Default)]
struct Arriving {
    /// How many were forgotten.
    forgotten: u64,
    begun: VecDeque<Keys>,
    /// Listings under way: how many began when so many writes had.
    listings: BTreeMap<u64, usize>,
}

impl Arrivals {
    fn lock(&self) -> MutexGuard<'_, Arriving> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A write is prepared; it publishes nothing before this.
    fn begin(&self, keys: Keys) {
        let mut arriving = self.lock();
        match arriving.listings.is_empty() {
            true => arriving.forgotten += 1,
            false => arriving.begun.push_back(keys),
        }
    }

    /// A listing begins; it asks for the rows of prepared writes after this.
    pub(crate) fn listing(&self) -> Listing<'_> {
        let mut arriving = self.lock();
        let since = arriving.forgotten + arriving.begun.len() as u64;
        *arriving.listings.entry(since).or_default() += 1;
        Listing { arrivals: self, since }
    }
}

/// A listing under way.
pub(crate) struct Listing<'a> {
    arrivals: &'a Arrivals,
    since: u64,
}

impl Listing<'_> {
    /// Whether an object belongs to a write that was prepared since the listing began.
    pub(crate) fn arrived(&self) -> Keys {
        let arriving = self.arrivals.lock();
        let skip = usize::try_from(self.since - arriving.forgotten).unwrap_or(usize::MAX);
        arriving.begun.iter().skip(skip).flatten().cloned().collect()
    }
}

impl Drop for Listing<'_> {
    fn drop(&mut self) {
        let mut arriving = self.arrivals.lock();
        if let Some(count) = arriving.listings.get_mut(&self.since) {
            *count -= 1;
            if *count == 0 {
                arriving.listings.remove(&self.since);
            }
        }
        let known = arriving.forgotten + arriving.begun.len() as u64;
        let needed = arriving.listings.keys().next().copied().unwrap_or(known);
        while arriving.forgotten < needed {
            arriving.begun.pop_front();
            arriving.forgotten += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(key: &str) -> Keys {
        [("b".to_owned(), key.to_owned())].into()
    }

    #[test]
    fn a_listing_knows_what_began_after_it_and_no_more_is_kept() {
        let arrivals = Arrivals::default();
        arrivals.begin(keys("before"));
        let first = arrivals.listing();
        arrivals.begin(keys("one"));
        let second = arrivals.listing();
        arrivals.begin(keys("two"));
        assert_eq!(first.arrived().len(), 2);
        assert_eq!(second.arrived(), keys("two"));
        drop(first);
        assert_eq!(arrivals.lock().begun.len(), 1);
        assert_eq!(second.arrived(), keys("two"));
        drop(second);
        assert!(arrivals.lock().begun.is_empty());
        assert_eq!(arrivals.lock().forgotten, 3);
        assert!(arrivals.listing().arrived().is_empty());
    }
}
