//! Taking files of one folder out of a table, and perhaps putting others there: what compaction
//! and retention have in common.
//!
//! ```text
//! prepare   sync what is staged; one transaction: the swap is PREPARED
//! exchange  the folder in the bucket, in one step (`objects`): listing readers see the new files
//! commit    one transaction: file list, bookmarks, what was retired; SQL sees the new files
//! drop      hours later: the rows of what was retired, then its bytes
//! ```
//!
//! Invariants
//! * A prepared swap is carried out or, if its objects have changed before the exchange, given
//!   up without a trace. A crash leads to one of the two at the next start.
//! * Rows that a reader counts are the same before, between and after, unless they are expired.
//! * A run and a swap never have an object in common: a swap leaves out what an unfinished run
//!   reads, and a run does not begin with objects that are being swapped, or were.
//! * What takes the place of objects has been read by the jobs that read all of them. Objects that
//!   some job has read and others not are never put together.
//! * Retired objects are readable by their key and as part of earlier commits until dropped.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base::{Error, ErrorKind, Result, Timestamp};
use metastore::{Row, Transaction};
use serde::{Deserialize, Serialize};

use crate::catalog::{partition_key, table_key};
use crate::commits::{self, CommitKind, NewCommit, TableCommit};
use crate::job::{Reader, Was, inputs_of_runs, mark_read, present_readers, unmark, was_read};
use crate::lake::blocking;
use crate::{FileSource, Lake, Partition, Table, WrittenFile};

/// A file that goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gone {
    /// Its name within the folder.
    pub(crate) name: String,
    /// The etag that it must still have.
    pub(crate) etag: String,
}

/// A file that comes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Come {
    /// Its file, beneath the swap's staging folder.
    pub(crate) staged: String,
    /// Its name within the folder.
    pub(crate) name: String,
    /// Its size.
    pub(crate) bytes: u64,
    /// Its rows.
    pub(crate) rows: u64,
    /// The CRC-32C of its bytes.
    pub(crate) crc32c: u32,
    /// Which of those that go it has the rows of.
    pub(crate) from: Vec<usize>,
}

/// A swap that will be carried out, or given up as if it had never been.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedSwap {
    pub(crate) id: String,
    pub(crate) kind: CommitKind,
    pub(crate) why: String,
    pub(crate) database: String,
    pub(crate) table: String,
    pub(crate) source: FileSource,
    /// Tells the table from a later one of the same name.
    pub(crate) table_created_at: Timestamp,
    pub(crate) bucket: String,
    pub(crate) folder: String,
    pub(crate) partition_values: Vec<String>,
    pub(crate) removed: Vec<Gone>,
    pub(crate) added: Vec<Come>,
    /// Etags of those added: their files keep them on the way to their names.
    pub(crate) etags: Vec<String>,
    /// Who may have read what is removed.
    pub(crate) readers: Vec<Reader>,
}

impl Row for PreparedSwap {
    const TABLE: &'static str = "prepared_swaps";
}

/// A swap that was carried out and whose retired objects are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RetiredSwap {
    database: String,
    table: String,
    table_created_at: Timestamp,
    bucket: String,
    keys: Vec<(String, String)>,
    /// The commit, for a table that has commits.
    commit: Option<u64>,
    readers: Vec<Reader>,
    at: Timestamp,
}

impl Row for RetiredSwap {
    const TABLE: &'static str = "retired_swaps";
}

/// An object that was retired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RetiredObject {
    etag: String,
    /// The key of what has its rows now.
    into: Option<String>,
}

impl Row for RetiredObject {
    const TABLE: &'static str = "retired_objects";
}

/// What a start made of the swaps that it found prepared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredSwaps {
    /// Carried out.
    pub finished: u64,
    /// Given up, since their objects had changed.
    pub given_up: u64,
    /// Neither, with why; the next start tries again.
    pub stuck: Vec<(String, String)>,
}

impl PreparedSwap {
    /// What it is called.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn key_of(&self, name: &str) -> String {
        format!("{}{name}", self.folder)
    }

    fn as_objects(&self, staging: &Path, at: Timestamp) -> objects::Swap {
        let removed = self.removed.iter().map(|gone| (gone.name.clone(), gone.etag.clone()));
        let added = self.added.iter().map(|come| (staging.join(&come.staged), come.name.clone()));
        objects::Swap {
            id: self.id.clone(),
            bucket: self.bucket.clone(),
            folder: self.folder.clone(),
            removed: removed.collect(),
            added: added.collect(),
            at,
        }
    }
}

impl Lake {
    /// The folder of a swap, swept when it is over.
    pub fn swap_folder(&self, id: &str) -> PathBuf {
        self.jobs_folder().join(id)
    }

    pub(crate) fn swap_staging(&self, id: &str) -> PathBuf {
        self.swap_folder(id).join("staging")
    }

    /// Makes a swap one that will be carried out.
    ///
    /// [`ErrorKind::Conflict`] if a run reads its objects or was about to, if another swap has the
    /// folder, or if the table no longer has the files.
    pub async fn prepare_swap(&self, swap: PreparedSwap) -> Result<()> {
        let staging = self.swap_staging(&swap.id);
        let names: Vec<(PathBuf, u64)> =
            swap.added.iter().map(|come| (staging.join(&come.staged), come.bytes)).collect();
        let etags = blocking(move || {
            let etags = names.iter().map(|(path, bytes)| sync_staged(path, *bytes));
            let etags = etags.collect::<Result<Vec<_>>>()?;
            if !etags.is_empty() {
                crate::job::sync_folders(&staging)?;
            }
            Ok(etags)
        })
        .await?;
        let mut swap = PreparedSwap { etags, ..swap };
        self.store().transact(|transaction| {
            // A job may have been made since this was planned.
            swap.readers.extend(present_readers(transaction)?);
            swap.readers.sort();
            swap.readers.dedup();
            self.check_free(transaction, &swap)?;
            transaction.create(&swap.id, &swap).map(drop)
        })
    }

    fn check_free(&self, transaction: &Transaction<'_>, swap: &PreparedSwap) -> Result<()> {
        let conflict = |why: String| {
            let (folder, bucket) = (&swap.folder, &swap.bucket);
            Err(Error::new(
                ErrorKind::Conflict,
                format!("{bucket}/{folder} is left as it is: {why}"),
            ))
        };
        let table = transaction.get::<Table>(&table_key(&swap.database, &swap.table))?;
        let same = table.as_ref().is_some_and(|table| {
            table.created_at == swap.table_created_at && table.source == swap.source
        });
        let Some(table) = table.filter(|_| same) else {
            return conflict(format!("there is no table {:?} any more", swap.table));
        };
        for (id, other) in transaction.list::<PreparedSwap>()? {
            if other.bucket == swap.bucket && other.folder == swap.folder {
                return conflict(format!("swap {id} is under way"));
            }
        }
        let gone: HashSet<String> =
            swap.removed.iter().map(|gone| swap.key_of(&gone.name)).collect();
        if let Some(run) = inputs_of_runs(transaction, &swap.bucket, &gone)? {
            return conflict(format!("run {run} reads it"));
        }
        if swap.source == FileSource::Committed {
            let rows = crate::catalog::rows_of(&table.database, &table.name);
            for gone in &swap.removed {
                let key = swap.key_of(&gone.name);
                let found = transaction.get::<WrittenFile>(&format!("{rows}{key}"))?;
                if found.is_none_or(|file| file.commit_removed.is_some()) {
                    return conflict(format!("{key:?} is no file of the table any more"));
                }
            }
        }
        for come in &swap.added {
            for reader in &swap.readers {
                let mut read = BTreeSet::new();
                for at in &come.from {
                    let gone = swap.removed.get(*at).ok_or_else(|| out_of_range(&swap.id))?;
                    let key = swap.key_of(&gone.name);
                    read.insert(was_read(transaction, reader, &swap.bucket, &key, &gone.etag)?);
                }
                if read.len() > 1 || read.contains(&Was::Unsure) {
                    return conflict(format!("job {:?} has read a part of it", reader.job));
                }
            }
        }
        Ok(())
    }

    /// Exchanges the folder of a prepared swap. May be called again.
    pub async fn exchange_swap(&self, id: &str) -> Result<()> {
        let swap = self.find_swap(id)?;
        let swap = swap.as_objects(&self.swap_staging(id), self.clock().now());
        let buckets = self.buckets().clone();
        blocking(move || buckets.swap(&swap)).await
    }

    /// Makes an exchanged swap true for the catalog.
    pub fn commit_swap(&self, id: &str) -> Result<Option<TableCommit>> {
        let swap = self.find_swap(id)?;
        let now = self.clock().now();
        let commit = self.store().transact(|transaction| commit_swap(transaction, &swap, now))?;
        self.sweep_run(id);
        tracing::info!(
            database = swap.database,
            table = swap.table,
            folder = swap.folder,
            kind = swap.kind.as_str(),
            removed = swap.removed.len(),
            added = swap.added.len(),
            why = swap.why,
            "swapped files of a table"
        );
        Ok(commit)
    }

    /// Prepares, exchanges and commits. What cannot be done is given up; an error of the disk
    /// after it was prepared leaves it to the next start.
    pub(crate) async fn carry_out(&self, swap: PreparedSwap) -> Result<Option<TableCommit>> {
        let id = swap.id.clone();
        if let Err(error) = self.prepare_swap(swap).await {
            self.sweep_run(&id);
            return Err(error);
        }
        self.resume_swap(&id).await
    }

    /// Carries out a prepared swap.
    pub(crate) async fn resume_swap(&self, id: &str) -> Result<Option<TableCommit>> {
        match self.exchange_swap(id).await {
            Ok(()) => self.commit_swap(id),
            Err(error) if gives_up(&error) => {
                self.store().delete::<PreparedSwap>(id)?;
                self.sweep_run(id);
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// What [`Lake::recover`] does about swaps.
    pub(crate) async fn recover_swaps(&self) -> Result<RecoveredSwaps> {
        let mut recovered = RecoveredSwaps::default();
        for (id, _) in self.store().list::<PreparedSwap>()? {
            match self.resume_swap(&id).await {
                Ok(_) => recovered.finished += 1,
                Err(error) if gives_up(&error) => recovered.given_up += 1,
                Err(error) => {
                    tracing::error!(%id, %error, "a prepared swap cannot be finished");
                    recovered.stuck.push((id, error.to_string()));
                }
            }
        }
        let mut known: HashSet<String> =
            self.store().list::<RetiredSwap>()?.into_iter().map(|(id, _)| id).collect();
        known.extend(recovered.stuck.iter().map(|(id, _)| id.clone()));
        let buckets = self.buckets().clone();
        blocking(move || buckets.sweep_swaps(&|id| known.contains(id))).await?;
        Ok(recovered)
    }

    fn find_swap(&self, id: &str) -> Result<PreparedSwap> {
        match self.store().get::<PreparedSwap>(id)? {
            Some(found) => Ok(found.row),
            None => Err(Error::not_found(format!("swap {id:?} is not prepared"))),
        }
    }

    /// Deletes for good what was retired longer than `keep` ago; how many objects.
    pub async fn drop_retired_files(&self, keep: Duration) -> Result<u64> {
        let now = self.clock().now();
        let mut dropped = 0;
        for (id, swap) in self.store().list::<RetiredSwap>()? {
            if now.since(swap.at) < keep || swap.at > now {
                continue;
            }
            self.store().transact(|transaction| {
                if let Some(number) = swap.commit
                    && same_table(transaction, &swap)?
                {
                    let keys: Vec<String> = swap.keys.iter().map(|(key, _)| key.clone()).collect();
                    commits::expire(transaction, (&swap.database, &swap.table), number, &keys)?;
                }
                for (key, etag) in &swap.keys {
                    let row = format!("{}/{key}", swap.bucket);
                    if transaction.get::<RetiredObject>(&row)?.is_some_and(|o| o.etag == *etag) {
                        transaction.delete::<RetiredObject>(&row)?;
                    }
                    for reader in &swap.readers {
                        unmark(transaction, reader, &swap.bucket, key, etag)?;
                    }
                }
                transaction.delete::<RetiredSwap>(&id).map(drop)
            })?;
            dropped += swap.keys.len() as u64;
            // A crash from here on leaves bytes that the next start sweeps.
            let (buckets, bucket) = (self.buckets().clone(), swap.bucket.clone());
            blocking(move || buckets.drop_retired(&bucket, &id)).await?;
        }
        Ok(dropped)
    }

    /// The key of the object that has the records of a retired one, if it was joined with
    /// others.
    pub fn joined_into(&self, bucket: &str, key: &str) -> Result<Option<String>> {
        let found = self.store().get::<RetiredObject>(&format!("{bucket}/{key}"))?;
        Ok(found.and_then(|found| found.row.into))
    }
}

/// Whether the objects are in the way, and not the disk: then nothing was done.
fn gives_up(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Conflict | ErrorKind::Unsupported | ErrorKind::Invalid | ErrorKind::NotFound
    )
}

fn same_table(transaction: &Transaction<'_>, swap: &RetiredSwap) -> Result<bool> {
    let table = transaction.get::<Table>(&table_key(&swap.database, &swap.table))?;
    Ok(table.is_some_and(|table| table.created_at == swap.table_created_at))
}

/// Whether one of these objects is being swapped or was: a run must not begin with it.
pub(crate) fn is_moving(
    transaction: &Transaction<'_>,
    inputs: &[(String, String, String)],
) -> Result<bool> {
    let mut moving = HashSet::new();
    for (_, swap) in transaction.list::<PreparedSwap>()? {
        for gone in &swap.removed {
            moving.insert((swap.bucket.clone(), swap.key_of(&gone.name)));
        }
    }
    for (bucket, key, etag) in inputs {
        if moving.contains(&(bucket.clone(), key.clone())) {
            return Ok(true);
        }
        let retired = transaction.get::<RetiredObject>(&format!("{bucket}/{key}"))?;
        if retired.is_some_and(|retired| retired.etag == *etag) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn commit_swap(
    transaction: &mut Transaction<'_>,
    swap: &PreparedSwap,
    now: Timestamp,
) -> Result<Option<TableCommit>> {
    let table = transaction.get::<Table>(&table_key(&swap.database, &swap.table))?;
    let table = table
        .map(|found| found.row)
        .filter(|table| table.created_at == swap.table_created_at && table.source == swap.source);
    let mut committed = None;
    if let Some(table) = table.filter(|_| swap.source == FileSource::Committed) {
        let file = |come: &Come| WrittenFile {
            key: swap.key_of(&come.name),
            bytes: come.bytes,
            rows: come.rows,
            partition_values: swap.partition_values.clone(),
            run_id: swap.id.clone(),
            commit_added: 0,
            commit_removed: None,
        };
        let new = NewCommit {
            kind: swap.kind,
            by: &swap.id,
            why: &swap.why,
            at: now,
            added: swap.added.iter().map(file).collect(),
            removed: swap.removed.iter().map(|gone| swap.key_of(&gone.name)).collect(),
        };
        committed = Some(commits::commit(transaction, &table, new)?);
        if swap.added.is_empty() && !table.partition_keys.is_empty() {
            forget_partition_if_empty(transaction, &table, &swap.partition_values)?;
        }
    }
    for (come, etag) in swap.added.iter().zip(&swap.etags) {
        for reader in &swap.readers {
            let mut read = true;
            for at in &come.from {
                let gone = swap.removed.get(*at).ok_or_else(|| out_of_range(&swap.id))?;
                let key = swap.key_of(&gone.name);
                let was = was_read(transaction, reader, &swap.bucket, &key, &gone.etag)?;
                read &= was == Was::Read;
            }
            if read {
                let object = (swap.bucket.as_str(), swap.key_of(&come.name));
                mark_read(transaction, reader, &object, (etag, come.bytes, come.crc32c), &swap.id)?;
            }
        }
    }
    let mut into: HashMap<usize, String> = HashMap::new();
    for come in &swap.added {
        into.extend(come.from.iter().map(|at| (*at, swap.key_of(&come.name))));
    }
    let mut keys = Vec::with_capacity(swap.removed.len());
    for (at, gone) in swap.removed.iter().enumerate() {
        let key = swap.key_of(&gone.name);
        let retired = RetiredObject { etag: gone.etag.clone(), into: into.remove(&at) };
        transaction.put(&format!("{}/{key}", swap.bucket), &retired)?;
        keys.push((key, gone.etag.clone()));
    }
    let retired = RetiredSwap {
        database: swap.database.clone(),
        table: swap.table.clone(),
        table_created_at: swap.table_created_at,
        bucket: swap.bucket.clone(),
        keys,
        commit: committed.as_ref().map(|commit| commit.number),
        readers: swap.readers.clone(),
        at: now,
    };
    transaction.put(&swap.id, &retired)?;
    transaction.delete::<PreparedSwap>(&swap.id)?;
    Ok(committed)
}

fn forget_partition_if_empty(
    transaction: &mut Transaction<'_>,
    table: &Table,
    values: &[String],
) -> Result<()> {
    let rows = crate::catalog::rows_of(&table.database, &table.name);
    let live = transaction.list_prefix::<WrittenFile>(&rows)?.into_iter().any(|(_, file)| {
        file.commit_removed.is_none() && file.partition_values.as_slice() == values
    });
    if !live {
        let key = partition_key(&table.database, &table.name, values);
        transaction.delete::<Partition>(&key)?;
    }
    Ok(())
}

fn out_of_range(id: &str) -> Error {
    Error::internal(format!("swap {id} is made of files it does not remove"))
}

/// Syncs a staged file; its etag, which it keeps under its name.
fn sync_staged(path: &Path, bytes: u64) -> Result<String> {
    let failed = |cause| Error::io(format_args!("failed to sync {}", path.display()), cause);
    let file = std::fs::File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if meta.len() != bytes {
        return Err(Error::internal(format!("{} has not {bytes} bytes", path.display())));
    }
    file.sync_all().map_err(failed)?;
    Ok(objects::etag_of(&meta))
}
