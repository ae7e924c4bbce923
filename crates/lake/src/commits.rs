//! The history of a table that jobs write: numbered commits, and the table as of one.
//!
//! Invariants
//! * Every change of a table's list of files is a commit; its number and the list change in one
//!   transaction. Numbers grow by one from 1.
//! * A file knows the commit that added it and the one that removed it, so the files of any
//!   commit are told without a copy of the list.
//! * A commit is readable until files that it had are deleted for good; then it is refused.

use base::{Error, ErrorKind, Result, Timestamp};
use metastore::{Row, Transaction};
use serde::{Deserialize, Serialize};

use crate::catalog::{rows_of, table_key};
use crate::{FileSource, Lake, Table, TableFile, WrittenFile};

/// Commits of a table that are remembered.
const COMMITS_KEPT: u64 = 10_000;

/// What a commit did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CommitKind {
    /// A run added files.
    Append,
    /// Small files gave way to larger ones with the same rows.
    Compact,
    /// Files beyond the table's retention were taken out.
    Expire,
}

impl CommitKind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            CommitKind::Append => "append",
            CommitKind::Compact => "compact",
            CommitKind::Expire => "expire",
        }
    }

    /// The word that Iceberg has for it.
    pub fn as_iceberg(self) -> &'static str {
        match self {
            CommitKind::Append => "append",
            CommitKind::Compact => "replace",
            CommitKind::Expire => "delete",
        }
    }
}

/// A change of a table's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableCommit {
    /// Its number.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// What it did.
    pub kind: CommitKind,
    /// The run, or the swap.
    pub by: String,
    /// The version of the table that it left: its columns.
    pub table_version: u64,
    /// Files it added.
    pub files_added: u64,
    /// Rows in them.
    pub rows_added: u64,
    /// Bytes of them.
    pub bytes_added: u64,
    /// Files it removed.
    pub files_removed: u64,
    /// Rows in them.
    pub rows_removed: u64,
    /// Bytes of them.
    pub bytes_removed: u64,
    /// Why, in a few words, where nobody asked for it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl Row for TableCommit {
    const TABLE: &'static str = "table_commits";
}

/// Where the history of a table stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TableHead {
    /// The newest commit; 0 without any.
    last: u64,
    /// The oldest commit that can be read.
    oldest: u64,
}

impl Row for TableHead {
    const TABLE: &'static str = "table_heads";
}

/// A moment of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AsOf {
    /// A commit by its number.
    Version(u64),
    /// The newest commit at that time.
    Timestamp(Timestamp),
}

/// What a commit is made of, but for what the transaction knows.
pub(crate) struct NewCommit<'a> {
    pub(crate) kind: CommitKind,
    pub(crate) by: &'a str,
    pub(crate) why: &'a str,
    pub(crate) at: Timestamp,
    /// Files that are new; their `commit_added` is set here.
    pub(crate) added: Vec<WrittenFile>,
    /// Keys of live files that are no longer to be.
    pub(crate) removed: Vec<String>,
}

/// Writes a commit and changes the list of files accordingly.
pub(crate) fn commit(
    transaction: &mut Transaction<'_>,
    table: &Table,
    new: NewCommit<'_>,
) -> Result<TableCommit> {
    let rows = rows_of(&table.database, &table.name);
    let key = table_key(&table.database, &table.name);
    let head = transaction.get::<TableHead>(&key)?.map(|found| found.row).unwrap_or_default();
    let number = head.last + 1;
    let mut commit = TableCommit {
        number,
        at: new.at,
        kind: new.kind,
        by: new.by.to_owned(),
        table_version: table.version,
        files_added: new.added.len() as u64,
        rows_added: new.added.iter().map(|file| file.rows).sum(),
        bytes_added: new.added.iter().map(|file| file.bytes).sum(),
        files_removed: new.removed.len() as u64,
        rows_removed: 0,
        bytes_removed: 0,
        why: new.why.to_owned(),
    };
    for file in new.added {
        let file = WrittenFile { commit_added: number, commit_removed: None, ..file };
        transaction.create(&format!("{rows}{}", file.key), &file)?;
    }
    for key in new.removed {
        let row = format!("{rows}{key}");
        let found = transaction.get::<WrittenFile>(&row)?;
        let Some(file) = found.filter(|file| file.commit_removed.is_none()) else {
            return Err(Error::internal(format!("{key:?} is no file of {:?}", table.name)));
        };
        commit.rows_removed += file.rows;
        commit.bytes_removed += file.bytes;
        transaction.put(&row, &WrittenFile { commit_removed: Some(number), ..file.row })?;
    }
    transaction.create(&format!("{rows}{number:020}"), &commit)?;
    let mut oldest = head.oldest.max(1);
    if let Some(forgotten) = number.checked_sub(COMMITS_KEPT).filter(|number| *number > 0) {
        transaction.delete::<TableCommit>(&format!("{rows}{forgotten:020}"))?;
        oldest = oldest.max(forgotten + 1);
    }
    transaction.put(&key, &TableHead { last: number, oldest })?;
    Ok(commit)
}

/// Says that files which commit `number` removed are deleted for good, and forgets them.
pub(crate) fn expire(
    transaction: &mut Transaction<'_>,
    (database, name): (&str, &str),
    number: u64,
    keys: &[String],
) -> Result<()> {
    let rows = rows_of(database, name);
    for key in keys {
        let row = format!("{rows}{key}");
        let found = transaction.get::<WrittenFile>(&row)?;
        if found.is_some_and(|file| file.commit_removed == Some(number)) {
            transaction.delete::<WrittenFile>(&row)?;
        }
    }
    let key = table_key(database, name);
    if let Some(head) = transaction.get::<TableHead>(&key)? {
        let oldest = head.oldest.max(number);
        transaction.put(&key, &TableHead { oldest, ..head.row })?;
    }
    Ok(())
}

impl Lake {
    /// The commits of a table, oldest first.
    pub fn commits(&self, table: &Table) -> Result<Vec<TableCommit>> {
        let found =
            self.store().list_prefix::<TableCommit>(&rows_of(&table.database, &table.name))?;
        Ok(found.into_iter().map(|(_, found)| found.row).collect())
    }

    /// The oldest commit of a table that can still be read.
    pub fn oldest_commit(&self, table: &Table) -> Result<u64> {
        Ok(self.head(table)?.oldest.max(1))
    }

    fn head(&self, table: &Table) -> Result<TableHead> {
        let key = table_key(&table.database, &table.name);
        Ok(self.store().get::<TableHead>(&key)?.map(|found| found.row).unwrap_or_default())
    }

    /// The table as it was: with the columns it had, and the files.
    ///
    /// [`ErrorKind::Unsupported`] for a table that is known by listing, which has no commits;
    /// [`ErrorKind::NotFound`] for a commit that is not there yet, or no more.
    pub async fn files_as_of(&self, table: &Table, as_of: AsOf) -> Result<(Table, Vec<TableFile>)> {
        self.buckets().expect_here(&table.bucket)?;
        let name = format!("{}.{}", table.database, table.name);
        if table.source != FileSource::Committed {
            return Err(Error::unsupported(format!(
                "table {name:?} is known by listing its objects and has no commits to read AS OF; \
                 only tables that jobs write have"
            )));
        }
        let commits = self.commits(table)?;
        let number = match as_of {
            AsOf::Version(number) => number,
            AsOf::Timestamp(at) => {
                let before = commits.iter().filter(|commit| commit.at <= at);
                before.map(|commit| commit.number).max().ok_or_else(|| {
                    Error::not_found(format!("table {name:?} has no commit as early as {at}"))
                })?
            }
        };
        let rows = rows_of(&table.database, &table.name);
        let rows = self.store().list_prefix::<WrittenFile>(&rows)?;
        // Asked after the list was read: what was deleted by then may be missing in it.
        let head = self.head(table)?;
        if number < head.oldest.max(1) {
            return Err(Error::not_found(format!(
                "files of commit {number} of table {name:?} are deleted; the oldest that can be \
                 read is {}",
                head.oldest.max(1)
            )));
        }
        if number > head.last {
            return Err(Error::not_found(format!(
                "table {name:?} has no commit {number}; the newest is {}",
                head.last
            )));
        }
        let there = |file: &WrittenFile| {
            file.commit_added <= number
                && file.commit_removed.is_none_or(|removed| removed > number)
        };
        let files = rows.into_iter().map(|(_, found)| found.row).filter(there).collect();
        let version = commits.iter().find(|commit| commit.number == number);
        let version = version.map_or(table.version, |commit| commit.table_version);
        let of_then = match version == table.version {
            true => None,
            false => self
                .catalog()
                .table_versions(&table.database, &table.name)?
                .into_iter()
                .find(|kept| kept.version == version),
        };
        // The place is the present one; only what the columns were belongs to the commit.
        let as_was = match of_then {
            Some(then) => Table {
                columns: then.columns,
                partition_keys: then.partition_keys,
                ..table.clone()
            },
            None => table.clone(),
        };
        let files = self.located(table, files).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => error.context(format!("commit {number}")),
            _ => error,
        })?;
        Ok((as_was, files))
    }
}
