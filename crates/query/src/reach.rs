//! Files of tables, also those that were moved out of sight while a query was about to read them.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use lake::{Lake, TableFile};
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// The file where its bytes are now.
pub(crate) fn located(lake: &Lake, file: &TableFile) -> Option<TableFile> {
    let path = lake.moved_to(&file.path)?;
    Some(TableFile { path, ..file.clone() })
}

/// The local files as DataFusion's readers ask for them: to be read, and nothing else.
#[derive(Debug)]
pub(crate) struct Reach {
    files: LocalFileSystem,
    lake: Lake,
}

impl Reach {
    pub(crate) fn new(lake: Lake) -> Self {
        Reach { files: LocalFileSystem::new(), lake }
    }

    fn moved(&self, location: &Key) -> Option<Key> {
        let path = PathBuf::from("/").join(percent_free(location)?);
        Key::from_absolute_path(self.lake.moved_to(&path)?).ok()
    }

    async fn ranges(&self, location: &Key, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if let Ok(file) = File::open(self.files.path_to_filesystem(location)?) {
            let length = file.metadata().map_or(0, |meta| meta.len());
            // Room is made for all that is asked for, and a footer may lie by any number.
            if let Some(beyond) = ranges.iter().find(|range| range.end > length) {
                let why = format!(
                    "bytes {} to {} of {location}, which has {length}",
                    beyond.start, beyond.end
                );
                return Err(Error::Generic { store: "files of tables", source: why.into() });
            }
            if let Some(read) = at_once(&file, ranges) {
                return Ok(read);
            }
        }
        self.files.get_ranges(location, ranges).await
    }

    fn refuse<T>(&self, operation: &str) -> Result<T> {
        let (operation, implementer) = (operation.to_owned(), self.to_string());
        Err(Error::NotImplemented { operation, implementer })
    }
}

/// What of a file the system holds in memory, if that is all that is asked for. It is read where the
/// query runs: handing it to a thread that may wait for a disk costs more than to copy it.
#[cfg(target_os = "linux")]
fn at_once(file: &File, ranges: &[Range<u64>]) -> Option<Vec<Bytes>> {
    use rustix::io::{Errno, ReadWriteFlags, preadv2};

    let read = |range: &Range<u64>| {
        let length = usize::try_from(range.end.checked_sub(range.start)?).ok()?;
        let mut bytes = vec![0; length];
        let mut done = 0;
        while done < length {
            let mut rest = [std::io::IoSliceMut::new(&mut bytes[done..])];
            match preadv2(file, &mut rest, range.start + done as u64, ReadWriteFlags::NOWAIT) {
                Err(Errno::INTR) => {}
                Ok(0) | Err(_) => return None,
                Ok(more) => done += more,
            }
        }
        Some(Bytes::from(bytes))
    };
    ranges.iter().map(read).collect()
}

#[cfg(not(target_os = "linux"))]
fn at_once(_: &File, _: &[Range<u64>]) -> Option<Vec<Bytes>> {
    None
}

/// The path that a location was made of.
fn percent_free(location: &Key) -> Option<String> {
    let path = LocalFileSystem::new().path_to_filesystem(location).ok()?;
    Some(path.to_str()?.trim_start_matches('/').to_owned())
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("files of tables")
    }
}

#[async_trait]
impl ObjectStore for Reach {
    async fn get_opts(&self, location: &Key, options: GetOptions) -> Result<GetResult> {
        match self.files.get_opts(location, options.clone()).await {
            Err(Error::NotFound { path, source }) => match self.moved(location) {
                Some(moved) => self.files.get_opts(&moved, options).await,
                None => Err(Error::NotFound { path, source }),
            },
            other => other,
        }
    }

    async fn get_ranges(&self, location: &Key, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        match self.ranges(location, ranges).await {
            Err(Error::NotFound { path, source }) => match self.moved(location) {
                Some(moved) => self.ranges(&moved, ranges).await,
                None => Err(Error::NotFound { path, source }),
            },
            other => other,
        }
    }

    async fn put_opts(&self, _: &Key, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        self.refuse("put")
    }

    async fn put_multipart_opts(
        &self,
        _: &Key,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.refuse("upload")
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Key>>) -> BoxStream<'static, Result<Key>> {
        let refused = self.refuse("delete");
        Box::pin(futures::stream::once(futures::future::ready(refused)))
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> Result<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, _: &Key, _: &Key, _: CopyOptions) -> Result<()> {
        self.refuse("copy")
    }
}
