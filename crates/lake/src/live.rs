//! A table with its hot tail: its objects, and the readings that are still in the log.
//!
//! In SQL this is the table's name with [`LIVE`] behind it. The tail is written as files beside
//! the lake, which the readers of the table take as they take its objects: one way to read, and
//! the same rows as those that delivery will put there.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;

use base::{Error, ErrorKind, Result};
use bytes::Bytes;

use crate::lake::blocking;
use crate::{FileSource, Lake, Table, TableFile};

/// What a table's name ends with where its tail is asked for too.
pub const LIVE: &str = "$live";

/// How often the streams are asked anew because they moved while the table was listed.
const ATTEMPTS_MAX: usize = 200;

/// Those who know what has not been delivered yet.
pub trait Tail: Send + Sync + Debug {
    /// Looks at all that will be delivered below a prefix.
    ///
    /// `list` is called between two looks; if the streams moved meanwhile, all of it is to be
    /// done again, and the answer is `None`. Otherwise `take` is given the bucket, key and bytes
    /// of every object that is still to come, and the answer is the buckets and keys of those
    /// objects that the list may hold though `take` was given them.
    fn look(
        &self,
        bucket: &str,
        prefix: &str,
        list: &mut dyn FnMut() -> Result<()>,
        take: &mut dyn FnMut(&str, &str, Bytes) -> Result<()>,
    ) -> Result<Option<BTreeSet<(String, String)>>>;
}

impl Lake {
    /// The live files of a table and its tail as files in `folder`, which must be empty.
    ///
    /// # Errors
    /// [`ErrorKind::Exhausted`] if the tail has more than `bytes_max` bytes,
    /// [`ErrorKind::Invalid`] for a table that jobs write, which no stream does.
    pub async fn live_files(
        &self,
        table: &Table,
        tail: std::sync::Arc<dyn Tail>,
        folder: &Path,
        bytes_max: u64,
    ) -> Result<Vec<TableFile>> {
        if table.source != FileSource::Listed {
            return Err(Error::invalid(format!(
                "table {:?} is written by jobs, so it has no readings that are still in the log; \
                 ask its source for {LIVE}",
                table.name
            )));
        }
        let (lake, table, folder) = (self.clone(), table.clone(), folder.to_owned());
        let runtime = tokio::runtime::Handle::current();
        blocking(move || {
            for _ in 0..ATTEMPTS_MAX {
                let mut listed = Vec::new();
                let mut coming =
                    Coming { table: &table, folder: &folder, files: Vec::new(), bytes: 0 };
                let on_their_way = tail.look(
                    &table.bucket,
                    &table.prefix,
                    &mut || {
                        listed = runtime.block_on(lake.files(&table))?;
                        Ok(())
                    },
                    &mut |bucket, key, bytes| coming.take(&lake, bucket, key, &bytes, bytes_max),
                )?;
                if let Some(twice) = on_their_way {
                    let once = |file: &TableFile| {
                        !twice.contains(&(file.bucket.clone(), file.key.clone()))
                    };
                    listed.retain(once);
                    listed.append(&mut coming.files);
                    return Ok(listed);
                }
            }
            Err(Error::new(
                ErrorKind::Unavailable,
                format!("the streams of table {:?} deliver too fast; ask again", table.name),
            ))
        })
        .await
    }
}

/// Objects to come, written down.
struct Coming<'t> {
    table: &'t Table,
    folder: &'t Path,
    files: Vec<TableFile>,
    bytes: u64,
}

impl Coming<'_> {
    fn take(
        &mut self,
        lake: &Lake,
        bucket: &str,
        key: &str,
        bytes: &[u8],
        bytes_max: u64,
    ) -> Result<()> {
        let Some(partition_values) = lake.would_list(self.table, bucket, key)? else {
            return Ok(());
        };
        self.bytes += bytes.len() as u64;
        if self.bytes > bytes_max {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!(
                    "more than {bytes_max} bytes of table {:?} are still in the log; flush the \
                     stream, or ask without {LIVE}",
                    self.table.name
                ),
            ));
        }
        let path = self.folder.join(self.files.len().to_string());
        std::fs::write(&path, bytes)
            .map_err(|cause| Error::io("writing what is still in the log", cause))?;
        self.files.push(TableFile {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            path,
            bytes: bytes.len() as u64,
            etag: String::new(),
            partition_values,
        });
        Ok(())
    }
}
