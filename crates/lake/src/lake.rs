//! The lake of one data directory: catalog, buckets, and the folder where runs stage.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Clock, Error, ErrorKind, Result};
use metastore::Metastore;
use objects::Buckets;
use serde::{Deserialize, Serialize};

use crate::crawl::Fit;
use crate::glob::Globs;
use crate::write::Arrivals;
use crate::{Catalog, FileSource, Format, NULL_PARTITION, Table, unescape};

/// A live file of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFile {
    /// The object's bucket.
    pub bucket: String,
    /// The object's key.
    pub key: String,
    /// Where its bytes are.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// Changes whenever the object does.
    pub etag: String,
    /// Values of the table's partition keys; null is [`NULL_PARTITION`].
    pub partition_values: Vec<String>,
}

/// Tables over the objects of one data directory. Clones are one lake.
#[derive(Clone)]
pub struct Lake {
    catalog: Catalog,
    buckets: Buckets,
    jobs_folder: Arc<Path>,
    clock: Arc<dyn Clock>,
    arrivals: Arc<Arrivals>,
}

impl Lake {
    /// The lake whose rows are in `store` and whose objects are in `buckets`. `jobs_folder` is
    /// made if absent; it must lie on the file system of the buckets, and nobody else's folders
    /// in it may be called `jr_...`.
    pub fn open(
        store: Metastore,
        buckets: Buckets,
        jobs_folder: &Path,
        clock: Arc<dyn Clock>,
    ) -> Result<Self> {
        std::fs::create_dir_all(jobs_folder).map_err(|cause| {
            Error::io(format_args!("failed to make {}", jobs_folder.display()), cause)
        })?;
        let catalog = Catalog::new(store, Arc::clone(&clock));
        Ok(Lake {
            catalog,
            buckets,
            jobs_folder: jobs_folder.into(),
            clock,
            arrivals: Arc::default(),
        })
    }

    /// Databases, tables and partitions.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Buckets and objects.
    pub fn buckets(&self) -> &Buckets {
        &self.buckets
    }

    pub(crate) fn store(&self) -> &Metastore {
        self.catalog.store()
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    pub(crate) fn arrivals(&self) -> &Arrivals {
        &self.arrivals
    }

    pub(crate) fn jobs_folder(&self) -> &Path {
        &self.jobs_folder
    }

    /// The live files of a table, by key. For a table that our jobs write, those of the
    /// committed runs; for another, what lies beneath its prefix: not what is hidden (`_` or
    /// `.` at the start of a folder or file), empty, excluded, known to hold another format, or
    /// of a statement that has not put all of its files there yet.
    ///
    /// Whether their bytes are still those that were stored is for [`Lake::verify`] to say.
    pub async fn files(&self, table: &Table) -> Result<Vec<TableFile>> {
        self.buckets.expect_here(&table.bucket)?;
        match table.source {
            FileSource::Committed => self.committed_files(table).await,
            FileSource::Listed => self.listed_files(table).await,
        }
    }

    /// The live files of a table as [`Lake::files`] has them, by what is written down of them: a
    /// file of a committed run is not looked at, and its etag is empty. Who chooses among them
    /// before any is opened asks for these.
    pub async fn candidates(&self, table: &Table) -> Result<Vec<TableFile>> {
        if table.source == FileSource::Listed {
            return self.files(table).await;
        }
        self.buckets.expect_here(&table.bucket)?;
        let written = self.catalog.written_files(&table.database, &table.name)?;
        let file = |written: crate::WrittenFile| {
            Ok(TableFile {
                path: self.buckets.local_path(&table.bucket, &written.key)?,
                bucket: table.bucket.clone(),
                key: written.key,
                bytes: written.bytes,
                etag: String::new(),
                partition_values: written.partition_values,
            })
        };
        written.into_iter().map(file).collect()
    }

    /// Compares files with the checksums they were written with, before they are read; returns
    /// those that were altered, each with the error that names it. A file is read for this only
    /// once for as long as it stays as it is.
    pub async fn verify(&self, files: &[TableFile]) -> Result<Vec<(usize, Error)>> {
        let names: Vec<_> =
            files.iter().map(|file| (file.bucket.clone(), file.key.clone())).collect();
        let buckets = self.buckets.clone();
        blocking(move || {
            let mut altered = Vec::new();
            for (index, (bucket, key)) in names.iter().enumerate() {
                match buckets.verify(bucket, key) {
                    Ok(_sound) => {}
                    Err(error) if error.kind() == ErrorKind::Corrupt => {
                        altered.push((index, error));
                    }
                    // Whoever reads it meets the same, and knows what to make of it.
                    Err(error) => tracing::debug!(bucket, key, %error, "cannot be verified"),
                }
            }
            Ok(altered)
        })
        .await
    }

    async fn committed_files(&self, table: &Table) -> Result<Vec<TableFile>> {
        let written = self.catalog.written_files(&table.database, &table.name)?;
        self.located(table, written).await
    }

    /// Where the bytes of files are now.
    pub(crate) async fn located(
        &self,
        table: &Table,
        written: Vec<crate::WrittenFile>,
    ) -> Result<Vec<TableFile>> {
        let mut files = Vec::new();
        for written in written {
            let meta = self.buckets.head(&table.bucket, &written.key).await.map_err(|error| {
                error.context(format_args!("table {:?} has lost a file", table.name))
            })?;
            files.push(TableFile {
                path: self.buckets.readable_path(&table.bucket, &written.key)?,
                bucket: table.bucket.clone(),
                key: written.key,
                bytes: meta.bytes,
                etag: meta.etag,
                partition_values: written.partition_values,
            });
        }
        Ok(files)
    }

    /// Where the bytes of a file are, if they were moved out of sight since it was listed.
    pub fn moved_to(&self, path: &Path) -> Option<PathBuf> {
        self.buckets.moved_to(path)
    }

    async fn listed_files(&self, table: &Table) -> Result<Vec<TableFile>> {
        let exclusions = Globs::parse(&table.exclusions)?;
        let known = crate::crawl::known_fits(self.store(), &table.bucket, &table.prefix)?;
        let listing = self.arrivals.listing();
        let mut coming = self.unfinished_keys(&table.bucket, &table.prefix)?;
        let objects = self.buckets.list(&table.bucket, &table.prefix).await?;
        let arrived = listing.arrived().into_iter().filter(|(bucket, _)| *bucket == table.bucket);
        coming.extend(arrived.map(|(_, key)| key));
        drop(listing);
        let mut files = Vec::new();
        for object in objects {
            let below = &object.key[table.prefix.len()..];
            let hidden = is_hidden(below) || exclusions.matches(below);
            if object.bytes == 0 || hidden || coming.contains(&object.key) {
                continue;
            }
            let fits = match known.get(&object.key) {
                Some((etag, fit)) if *etag == object.etag => match fit {
                    // Who declared the table said how to read it; what a crawler keeps has only
                    // what reads like the rest.
                    Fit::Format(format, csv, path) => {
                        let path = path.as_deref();
                        let alike = *csv == table.csv && path == table.records_path();
                        *format == table.format && (!crate::crawl::is_kept(table) || alike)
                    }
                    // Who declares a table of text, or says where its records lie, knows better
                    // than a guess at them.
                    Fit::Never => {
                        let declared = !crate::crawl::is_kept(table);
                        table.records_path().is_some() || (table.format == Format::Csv && declared)
                    }
                    // Whoever reads the table has to be told.
                    Fit::Altered => true,
                },
                // Not crawled yet. Text takes anything: what is none is set aside by the scan.
                _ => table.format != Format::Parquet || below.ends_with(".parquet"),
            };
            if !fits {
                continue;
            }
            files.push(TableFile {
                path: self.buckets.readable_path(&table.bucket, &object.key)?,
                bucket: table.bucket.clone(),
                partition_values: partition_values(table, below),
                key: object.key,
                bytes: object.bytes,
                etag: object.etag,
            });
        }
        Ok(files)
    }
}

impl Lake {
    /// The partition values of an object that is still to come, if a listing will show it.
    pub(crate) fn would_list(
        &self,
        table: &Table,
        bucket: &str,
        key: &str,
    ) -> Result<Option<Vec<String>>> {
        let Some(below) = key.strip_prefix(&table.prefix).filter(|_| bucket == table.bucket) else {
            return Ok(None);
        };
        let shown = !is_hidden(below)
            && !Globs::parse(&table.exclusions)?.matches(below)
            && (table.format == Format::Json || below.ends_with(".parquet"));
        Ok(shown.then(|| partition_values(table, below)))
    }
}

impl fmt::Debug for Lake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lake").field("buckets", &self.buckets).finish_non_exhaustive()
    }
}

/// Runs file work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|cause| Error::internal("file work ended early").with_source(cause))?
}

/// Whether a folder or the file starts with `_` or `.`, which readers of a lake skip.
pub(crate) fn is_hidden(below: &str) -> bool {
    below.split('/').any(|part| part.starts_with(['_', '.']))
}

/// The values that the folders between a table's prefix and a file give its partition keys. A
/// file that lies too high has nulls for the rest.
pub fn partition_values(table: &Table, below: &str) -> Vec<String> {
    let mut folders: Vec<&str> = below.split('/').collect();
    folders.pop();
    let value = |(index, key): (usize, &crate::Column)| match folders.get(index) {
        None => NULL_PARTITION.to_owned(),
        Some(folder) => match folder.split_once('=') {
            Some((name, value)) if unescape(name) == key.name => unescape(value),
            _ => unescape(folder),
        },
    };
    table.partition_keys.iter().enumerate().map(value).collect()
}
