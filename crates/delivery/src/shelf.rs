//! Where objects are put: the one border to the object store, blocking, so that a worker's
//! thread waits and no other.

use base::{ErrorKind, Result};
use bytes::Bytes;
use objects::Buckets;
use tokio::runtime::Handle;

/// Puts objects. A put that answered Ok is durable; putting the same object again is harmless.
pub(crate) trait Shelf: Send + Sync + std::fmt::Debug {
    /// Writes an object, replacing one of that key.
    fn put(&self, bucket: &str, key: &str, bytes: Bytes) -> Result<()>;

    /// The size of an object, if it exists.
    fn size(&self, bucket: &str, key: &str) -> Result<Option<u64>>;
}

/// The lake's buckets.
#[derive(Clone, Debug)]
pub(crate) struct BucketShelf {
    pub(crate) buckets: Buckets,
    pub(crate) runtime: Handle,
}

impl Shelf for BucketShelf {
    fn put(&self, bucket: &str, key: &str, bytes: Bytes) -> Result<()> {
        self.runtime.block_on(self.buckets.put_once(bucket, key, bytes))
    }

    fn size(&self, bucket: &str, key: &str) -> Result<Option<u64>> {
        match self.runtime.block_on(self.buckets.head(bucket, key)) {
            Ok(meta) => Ok(Some(meta.bytes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}
