//! Buckets that lie elsewhere.
//!
//! What is written there has its CRC-32C among its metadata, so that whoever reads it whole can
//! compare, and so that a put whose answer was lost finds out what became of it.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::{Error, ErrorKind, Result};
use bytes::Bytes;
use object_store::{
    Attribute, AttributeValue, Attributes, GetOptions, ObjectStore, ObjectStoreExt, PutMode,
    PutOptions,
};

use crate::{ObjectMeta, failed, meta_of, names};

/// The metadata's name; S3 shows it as `x-amz-meta-forebay-crc32c`.
const SUM: &str = "forebay-crc32c";

/// A bucket that lies elsewhere. Clones are the same bucket.
#[derive(Clone)]
pub struct Remote {
    /// Its objects, by their keys in the bucket. One attempt a call: whoever asks decides
    /// whether to ask again.
    pub store: Arc<dyn ObjectStore>,
    /// Where it lies, for people.
    pub place: String,
    /// Whether the store takes no condition with a put.
    unconditional: Arc<AtomicBool>,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Remote {
    /// A bucket that lies at `place`.
    pub fn new(store: Arc<dyn ObjectStore>, place: impl Into<String>) -> Remote {
        Remote { store, place: place.into(), unconditional: Arc::default() }
    }

    pub(crate) async fn put(&self, bucket: &str, key: &str, bytes: Bytes) -> Result<()> {
        let crc32c = crc32c::crc32c(&bytes);
        self.write(bucket, key, bytes, crc32c, PutMode::Overwrite).await
    }

    pub(crate) async fn put_once(&self, bucket: &str, key: &str, bytes: Bytes) -> Result<()> {
        let crc32c = crc32c::crc32c(&bytes);
        if !self.unconditional.load(Ordering::Relaxed) {
            match self.write(bucket, key, bytes.clone(), crc32c, PutMode::Create).await {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    if self.holds(bucket, key, bytes.len() as u64, crc32c).await? {
                        tracing::info!(bucket, key, "an object was stored by an earlier attempt");
                        return Ok(());
                    }
                    tracing::warn!(bucket, key, "replacing an object that has other bytes");
                }
                Err(error) if error.kind() == ErrorKind::Unsupported => {
                    tracing::info!(bucket, %error, "the store takes no conditional put");
                    self.unconditional.store(true, Ordering::Relaxed);
                }
                other => return other,
            }
        }
        self.write(bucket, key, bytes, crc32c, PutMode::Overwrite).await
    }

    async fn write(
        &self,
        bucket: &str,
        key: &str,
        bytes: Bytes,
        crc32c: u32,
        mode: PutMode,
    ) -> Result<()> {
        let path = names::check_key(key)?;
        let sum = AttributeValue::from(format!("{crc32c:08x}"));
        let attributes: Attributes = [(Attribute::Metadata(SUM.into()), sum)].into_iter().collect();
        let options = PutOptions { mode, attributes, ..PutOptions::default() };
        let put = self.store.put_opts(&path, bytes.into(), options).await;
        put.map(drop).map_err(|e| failed("write", bucket, key, e))
    }

    /// Whether the object that is there has these bytes, as far as it tells.
    async fn holds(&self, bucket: &str, key: &str, bytes: u64, crc32c: u32) -> Result<bool> {
        let path = names::check_key(key)?;
        let options = GetOptions { head: true, ..GetOptions::default() };
        let found = self.store.get_opts(&path, options).await;
        let found = found.map_err(|e| failed("find", bucket, key, e))?;
        Ok(found.meta.size == bytes && sum_of(&found.attributes) == Some(crc32c))
    }

    pub(crate) async fn get(&self, bucket: &str, key: &str) -> Result<Bytes> {
        let path = names::check_key(key)?;
        let found = self.store.get(&path).await;
        let found = found.map_err(|e| failed("read", bucket, key, e))?;
        let (written, size) = (sum_of(&found.attributes), found.meta.size);
        let bytes = found.bytes().await.map_err(|e| failed("read", bucket, key, e))?;
        if bytes.len() as u64 != size {
            let message = format!("read {bucket}/{key}: {} of {size} bytes came", bytes.len());
            return Err(Error::new(ErrorKind::Unavailable, message));
        }
        match written {
            Some(written) if written != crc32c::crc32c(&bytes) => Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "object {bucket}/{key} is not what was stored at {}: its bytes have the \
                     CRC-32C {:08x}, those that were stored had {written:08x}",
                    self.place,
                    crc32c::crc32c(&bytes)
                ),
            )),
            _ => Ok(bytes),
        }
    }

    pub(crate) async fn get_range(
        &self,
        bucket: &str,
        key: &str,
        range: Range<u64>,
    ) -> Result<Bytes> {
        let path = names::check_key(key)?;
        let read = self.store.get_range(&path, range).await;
        read.map_err(|e| failed("read", bucket, key, e))
    }

    pub(crate) async fn head(&self, bucket: &str, key: &str) -> Result<ObjectMeta> {
        let path = names::check_key(key)?;
        let found = self.store.head(&path).await;
        found.map(meta_of).map_err(|e| failed("find", bucket, key, e))
    }

    pub(crate) async fn delete(&self, bucket: &str, key: &str) -> Result<bool> {
        let path = names::check_key(key)?;
        match self.store.head(&path).await {
            Err(object_store::Error::NotFound { .. }) => return Ok(false),
            found => found.map_err(|e| failed("find", bucket, key, e))?,
        };
        let deleted = self.store.delete(&path).await;
        deleted.map(|()| true).map_err(|e| failed("delete", bucket, key, e))
    }
}

fn sum_of(attributes: &Attributes) -> Option<u32> {
    let text = attributes.get(&Attribute::Metadata(SUM.into()))?;
    u32::from_str_radix(text.as_ref(), 16).ok()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use object_store::memory::InMemory;

    use super::*;
    use crate::Buckets;

    #[tokio::test]
    async fn a_bucket_elsewhere_is_written_read_and_listed_there_and_refused_where_files_are_needed()
     {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(InMemory::new());
        let remotes = || {
            BTreeMap::from([("far".to_owned(), Remote::new(store.clone(), "https://s3.test/far"))])
        };
        let buckets = Buckets::open_with(folder.path(), remotes()).unwrap();
        buckets.create_bucket("near").unwrap();
        assert_eq!(buckets.list_buckets().unwrap(), ["far", "near"]);
        assert_eq!(buckets.create_bucket("far").unwrap_err().kind(), ErrorKind::AlreadyExists);
        buckets.put_once("far", "a/b", "one".into()).await.unwrap();
        buckets.put_once("far", "a/b", "one".into()).await.unwrap();
        assert_eq!(&buckets.get("far", "a/b").await.unwrap()[..], b"one");
        assert_eq!(&buckets.get_range("far", "a/b", 1..2).await.unwrap()[..], b"n");
        assert_eq!(buckets.head("far", "a/b").await.unwrap().bytes, 3);
        // Something else under that key gives way.
        buckets.put_once("far", "a/b", "other".into()).await.unwrap();
        assert_eq!(&buckets.get("far", "a/b").await.unwrap()[..], b"other");
        assert_eq!(buckets.list("far", "a/").await.unwrap().len(), 1);
        let sum = AttributeValue::from("00000000");
        let sum = [(Attribute::Metadata(SUM.into()), sum)].into_iter().collect();
        let options = PutOptions { attributes: sum, ..PutOptions::default() };
        let key = object_store::path::Path::from("altered");
        store.put_opts(&key, "bytes".into(), options).await.unwrap();
        let error = buckets.get("far", "altered").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(buckets.delete("far", "altered").await.unwrap());
        assert!(!buckets.delete("far", "altered").await.unwrap());
        assert!(
            std::fs::read_dir(folder.path()).unwrap().flatten().all(|e| e.file_name() != "far")
        );

        let refusals = [
            buckets.local_path("far", "a/b").unwrap_err(),
            buckets.page("far", &crate::Listing::default()).unwrap_err(),
            buckets.publish_file(folder.path(), "far", "x").await.unwrap_err(),
            buckets.verify("far", "a/b").unwrap_err(),
            buckets.delete_bucket("far").await.unwrap_err(),
        ];
        for error in refusals {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains("\"far\" lies at https://s3.test/far"), "{error}");
        }
        std::fs::create_dir(folder.path().join("far")).unwrap();
        let error = Buckets::open_with(folder.path(), remotes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    }
}
