//! Which objects a job has read.
//!
//! An object is the same if its etag is; or, should the etag differ (a folder restored from a
//! backup has new ones), if its size and checksum are. A backup must not double a table.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use base::{Error, Result};
use metastore::{Metastore, Row, Transaction};
use serde::{Deserialize, Serialize};

use crate::{Job, Lake, Node, Table, TableFile};

/// An object that a source node of a job has read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Bookmark {
    pub(super) etag: String,
    pub(super) bytes: u64,
    pub(super) crc32c: u32,
    /// The run that read it.
    pub(super) run_id: String,
}

impl Row for Bookmark {
    const TABLE: &'static str = "bookmarks";
}

/// An object that a run reads, to be bookmarked when the run commits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Input {
    pub(super) node: String,
    pub(super) bucket: String,
    pub(super) key: String,
    pub(super) etag: String,
    pub(super) bytes: u64,
    pub(super) crc32c: u32,
}

/// What the bookmark makes of the files of a source.
pub(super) struct Sorted {
    /// Not read yet, or changed since.
    pub(super) new: Vec<TableFile>,
    /// Read already, under another etag: rows to write anew.
    pub(super) refreshed: Vec<(String, Bookmark)>,
}

fn bookmark_key(job: &str, node: &str, bucket: &str, key: &str) -> String {
    format!("{job}/{node}/{bucket}/{key}")
}

/// Tells which of `files` the source node has not read. Reads a file only where its etag
/// leaves doubt.
pub(super) fn sort(
    store: &Metastore,
    job: &str,
    node: &str,
    files: Vec<TableFile>,
) -> Result<Sorted> {
    let known: HashMap<String, Bookmark> = store
        .list_prefix::<Bookmark>(&format!("{job}/{node}/"))?
        .into_iter()
        .map(|(key, found)| (key, found.row))
        .collect();
    let mut sorted = Sorted { new: Vec::new(), refreshed: Vec::new() };
    for file in files {
        let row = bookmark_key(job, node, &file.bucket, &file.key);
        match known.get(&row) {
            Some(read) if read.etag == file.etag => {}
            Some(read) if read.bytes == file.bytes && read.crc32c == checksum(&file.path)? => {
                sorted.refreshed.push((row, Bookmark { etag: file.etag, ..read.clone() }));
            }
            _ => sorted.new.push(file),
        }
    }
    Ok(sorted)
}

/// Writes the bookmark of a run's inputs.
pub(super) fn mark(
    transaction: &mut Transaction<'_>,
    job: &str,
    run_id: &str,
    inputs: &[Input],
) -> Result<()> {
    for input in inputs {
        let read = Bookmark {
            etag: input.etag.clone(),
            bytes: input.bytes,
            crc32c: input.crc32c,
            run_id: run_id.to_owned(),
        };
        transaction.put(&bookmark_key(job, &input.node, &input.bucket, &input.key), &read)?;
    }
    Ok(())
}

/// A source node of a job, which has read some objects and not others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Reader {
    pub(crate) job: String,
    pub(crate) node: String,
}

/// What the bookmark says of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Was {
    Unread,
    Read,
    /// Its etag is another: the next run finds out whether its bytes are.
    Unsure,
}

/// The source nodes of all jobs with a bookmark, as their graphs are now.
pub(crate) fn present_readers(transaction: &Transaction<'_>) -> Result<Vec<Reader>> {
    let jobs = transaction.list::<Job>()?.into_iter().map(|(_, found)| found.row);
    Ok(jobs.flat_map(|job| sources(&job)).collect())
}

fn sources(job: &Job) -> Vec<Reader> {
    let source = |node: &Node| match node {
        Node::Source { id, .. } | Node::Objects { id, .. } => {
            Some(Reader { job: job.name.clone(), node: id.clone() })
        }
        _ => None,
    };
    job.nodes.iter().filter_map(source).collect()
}

/// As [`present_readers`], with the nodes that graphs once had and bookmarks still know.
pub(crate) fn readers(store: &Metastore) -> Result<Vec<Reader>> {
    let mut readers = BTreeSet::new();
    for (_, job) in store.list::<Job>()? {
        readers.extend(sources(&job));
        for (row, _) in store.list_prefix::<Bookmark>(&format!("{}/", job.name))? {
            // Neither a job's name nor a node's id has a slash.
            if let Some(node) = row.split('/').nth(1) {
                readers.insert(Reader { job: job.name.clone(), node: node.to_owned() });
            }
        }
    }
    Ok(readers.into_iter().collect())
}

/// The source nodes of jobs with a bookmark.
pub(crate) struct Readers(Vec<(Reader, Node)>);

impl Readers {
    pub(crate) fn all(store: &Metastore) -> Result<Readers> {
        let jobs = store.list::<Job>()?.into_iter().map(|(_, found)| found.row);
        let nodes = jobs.filter(|job| job.bookmark).flat_map(|job| {
            let reader = |id: &str| Reader { job: job.name.clone(), node: id.to_owned() };
            job.nodes.iter().map(|node| (reader(node.id()), node.clone())).collect::<Vec<_>>()
        });
        let is_source =
            |(_, node): &(Reader, Node)| matches!(node, Node::Source { .. } | Node::Objects { .. });
        Ok(Readers(nodes.filter(is_source).collect()))
    }

    /// Those that read an object of a table, by the table or by its path.
    pub(crate) fn of(&self, table: &Table, bucket: &str, key: &str) -> Vec<Reader> {
        let reads = |node: &Node| match node {
            Node::Source { database, table: name, .. } => {
                *database == table.database && *name == table.name
            }
            Node::Objects { at, .. } => at.may_read(bucket, key),
            _ => false,
        };
        let found = self.0.iter().filter(|(_, node)| reads(node));
        found.map(|(reader, _)| reader.clone()).collect()
    }
}

impl Lake {
    /// Which of `readers` have read an object; `None` if one's bookmark is in doubt.
    pub(crate) fn read_by(
        &self,
        readers: &[Reader],
        bucket: &str,
        key: &str,
        etag: &str,
    ) -> Result<Option<BTreeSet<Reader>>> {
        let mut read = BTreeSet::new();
        for reader in readers {
            let row = bookmark_key(&reader.job, &reader.node, bucket, key);
            match self.store().get::<Bookmark>(&row)? {
                None => {}
                Some(found) if found.etag == etag => {
                    read.insert(reader.clone());
                }
                Some(_) => return Ok(None),
            }
        }
        Ok(Some(read))
    }
}

/// Whether a source node has read an object.
pub(crate) fn was_read(
    transaction: &Transaction<'_>,
    reader: &Reader,
    bucket: &str,
    key: &str,
    etag: &str,
) -> Result<Was> {
    let row = bookmark_key(&reader.job, &reader.node, bucket, key);
    Ok(match transaction.get::<Bookmark>(&row)? {
        None => Was::Unread,
        Some(read) if read.etag == etag => Was::Read,
        Some(_) => Was::Unsure,
    })
}

/// Says that a source node has read an object, since it has read what the object was made of.
pub(crate) fn mark_read(
    transaction: &mut Transaction<'_>,
    reader: &Reader,
    (bucket, key): &(&str, String),
    (etag, bytes, crc32c): (&str, u64, u32),
    by: &str,
) -> Result<()> {
    let read = Bookmark { etag: etag.to_owned(), bytes, crc32c, run_id: by.to_owned() };
    transaction.put(&bookmark_key(&reader.job, &reader.node, bucket, key), &read).map(drop)
}

/// Forgets that a source node has read an object that is no more.
pub(crate) fn unmark(
    transaction: &mut Transaction<'_>,
    reader: &Reader,
    bucket: &str,
    key: &str,
    etag: &str,
) -> Result<()> {
    let row = bookmark_key(&reader.job, &reader.node, bucket, key);
    if transaction.get::<Bookmark>(&row)?.is_some_and(|read| read.etag == etag) {
        transaction.delete::<Bookmark>(&row)?;
    }
    Ok(())
}

/// The CRC-32C of a file.
pub(crate) fn checksum(path: &Path) -> Result<u32> {
    let failed = |cause| Error::io(format_args!("failed to read {}", path.display()), cause);
    let mut file = File::open(path).map_err(failed)?;
    let mut buffer = vec![0; 256 * 1024];
    let mut crc = 0;
    loop {
        let count = file.read(&mut buffer).map_err(failed)?;
        if count == 0 {
            return Ok(crc);
        }
        crc = crc32c::crc32c_append(crc, &buffer[..count]);
    }
}
