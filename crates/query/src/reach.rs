//! Files of tables, also those that were moved out of sight while a query was about to read them.

use std::fmt;
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

    fn refuse<T>(&self, operation: &str) -> Result<T> {
        let (operation, implementer) = (operation.to_owned(), self.to_string());
        Err(Error::NotImplemented { operation, implementer })
    }
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
        match self.files.get_ranges(location, ranges).await {
            Err(Error::NotFound { path, source }) => match self.moved(location) {
                Some(moved) => self.files.get_ranges(&moved, ranges).await,
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
