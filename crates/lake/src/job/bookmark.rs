//! Which objects a job has read.
//!
//! An object is the same if its etag is; or, should the etag differ (a folder restored from a
//! backup has new ones), if its size and checksum are. A backup must not double a table.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use base::{Error, Result};
use metastore::{Metastore, Row, Transaction};
use serde::{Deserialize, Serialize};

use crate::TableFile;

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

/// The CRC-32C of a file.
pub(super) fn checksum(path: &Path) -> Result<u32> {
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
