//! Buckets and objects on a local directory; a put is durable when it answers.
//!
//! A bucket may also lie elsewhere, in any `object_store`: then objects are put, read, listed and
//! deleted there, and whatever needs files refuses it by name.
//!
//! ```text
//! <root>/<bucket>/<key>       one file an object, key components are folders
//! <root>/.tmp/                objects being written; never listed
//! <root>/.s3/<bucket>/        what belongs to a bucket and is no plain object
//! ```
//!
//! Invariants
//! * An object is listed whole or not at all: it is written aside, synced, then renamed.
//! * `Ok` from a put, publish or delete means stable storage: the file was synced before its
//!   name existed, and every folder whose entries changed was synced after.
//! * No key reaches outside its bucket.
//! * Objects may be replaced by others at once, in one folder (`generations`).
//! * Bytes that are not those that were stored are not handed out for them (`sums`).

mod attributes;
mod drafts;
mod durable;
mod generations;
mod names;
mod pages;
mod remote;
mod sums;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{Error, ErrorKind, Result, Timestamp};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path as Key;
use object_store::{ObjectStore, ObjectStoreExt};

pub use drafts::{Draft, Found, Look};
pub use durable::DurableLocal;
pub use generations::{Retired, Swap};
pub use pages::{Entry, Listing, Page};
pub use remote::Remote;
pub use sums::{Sound, SumTotals};

/// The store of all buckets. Clones share it.
#[derive(Clone, Debug)]
pub struct Buckets {
    root: Arc<PathBuf>,
    locks: Arc<drafts::Locks>,
    sums: sums::Sums,
    generations: Arc<generations::Generations>,
    /// The buckets that lie elsewhere, by the names they have here.
    remotes: Arc<BTreeMap<String, Remote>>,
}

/// What is known of an object without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The whole key.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// When it was written.
    pub modified_at: Timestamp,
    /// Changes whenever the object does.
    pub etag: String,
}

impl Buckets {
    /// Opens the store below `root`, making the folder when absent, and sweeps what a
    /// crash left half written.
    pub fn open(root: &Path) -> Result<Self> {
        Buckets::open_with(root, BTreeMap::new())
    }

    /// As [`open`](Self::open), with buckets that lie elsewhere. A folder of the same name would
    /// leave in doubt which is meant, and is refused.
    pub fn open_with(root: &Path, remotes: BTreeMap<String, Remote>) -> Result<Self> {
        for (name, remote) in &remotes {
            names::check_bucket(name)?;
            let folder = root.join(name);
            if folder.exists() {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "bucket {name:?} is to lie at {}, but there is one at {} already; use \
                         another name, or move that folder away",
                        remote.place,
                        folder.display()
                    ),
                ));
            }
        }
        let aside = root.join(durable::ASIDE);
        if aside.exists() {
            std::fs::remove_dir_all(&aside)
                .map_err(|e| Error::io(format!("sweep {}", aside.display()), e))?;
        }
        durable::create_folders(&aside)?;
        Ok(Buckets {
            root: Arc::new(root.to_owned()),
            locks: drafts::Locks::new(),
            generations: Arc::new(generations::Generations::load(&root.join(drafts::SIDE))?),
            sums: sums::Sums::new(root.join(drafts::SIDE).join(drafts::SUMS)),
            remotes: Arc::new(remotes),
        })
    }

    /// Makes a bucket; one that exists is [`ErrorKind::AlreadyExists`].
    pub fn create_bucket(&self, name: &str) -> Result<()> {
        names::check_bucket(name)?;
        let path = self.root.join(name);
        if path.exists() || self.remotes.contains_key(name) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("bucket {name:?} exists already"),
            ));
        }
        durable::create_folders(&path)
    }

    /// Makes a bucket unless it exists.
    pub fn ensure_bucket(&self, name: &str) -> Result<()> {
        match self.create_bucket(name) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    /// All buckets by name.
    pub fn list_buckets(&self) -> Result<Vec<String>> {
        let doing = || format!("list {}", self.root.display());
        let mut names: Vec<String> = self.remotes.keys().cloned().collect();
        for entry in std::fs::read_dir(&*self.root).map_err(|e| Error::io(doing(), e))? {
            let entry = entry.map_err(|e| Error::io(doing(), e))?;
            if let Ok(name) = entry.file_name().into_string()
                && names::check_bucket(&name).is_ok()
                && entry.path().is_dir()
            {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Removes an empty bucket.
    pub async fn delete_bucket(&self, name: &str) -> Result<()> {
        let (this, name) = (self.clone(), name.to_owned());
        blocking(move || {
            let folder = this.bucket_folder(&name)?;
            let refused = |what: &str| {
                Error::new(ErrorKind::Conflict, format!("bucket {name:?} is not empty: {what}"))
            };
            if let Some(key) = this.has_objects(&name)? {
                return Err(refused(&format!("it holds {key:?}")));
            }
            // Only empty folders go: an object that came meanwhile stays, and its bucket.
            if !durable::remove_if_empty(&folder) {
                return Err(refused("an object came meanwhile"));
            }
            durable::sync_folder(&this.root)?;
            this.generations.forget_bucket(&name);
            match std::fs::remove_dir_all(this.side(&name)) {
                Err(cause) if !durable::is_absent(&cause) => {
                    Err(Error::io("remove what belonged to a bucket", cause))
                }
                _ => Ok(()),
            }
        })
        .await
    }

    /// The bucket as an [`ObjectStore`] with durable puts, for engines.
    pub fn store(&self, bucket: &str) -> Result<Arc<dyn ObjectStore>> {
        match self.remotes.get(bucket) {
            Some(remote) => Ok(Arc::clone(&remote.store)),
            None => Ok(Arc::new(self.local(bucket)?)),
        }
    }

    /// Writes an object, replacing one of that key.
    pub async fn put(&self, bucket: &str, key: &str, bytes: Bytes) -> Result<ObjectMeta> {
        if let Some(remote) = self.remotes.get(bucket) {
            remote.put(bucket, key, bytes).await?;
            return remote.head(bucket, key).await;
        }
        let (store, path) = self.place(bucket, key)?;
        store.put(&path, bytes.into()).await.map_err(|e| failed("write", bucket, key, e))?;
        self.head(bucket, key).await
    }

    /// Writes an object that nobody else writes, and that may be there already because an
    /// earlier answer was lost: afterwards there is one object of that key with these bytes,
    /// written once if the store can tell.
    pub async fn put_once(&self, bucket: &str, key: &str, bytes: Bytes) -> Result<()> {
        match self.remotes.get(bucket) {
            Some(remote) => remote.put_once(bucket, key, bytes).await,
            None => self.put(bucket, key, bytes).await.map(drop),
        }
    }

    /// Moves a finished local file into place as an object; the file must lie on the same
    /// file system. Replaces an object of that key. Running it again after a crash between
    /// the rename and the answer finds the file gone and the object there: see
    /// [`head`](Self::head).
    pub async fn publish_file(&self, staged: &Path, bucket: &str, key: &str) -> Result<ObjectMeta> {
        let target = self.local_path(bucket, key)?;
        let (staged, sums) = (staged.to_owned(), self.sums.clone());
        blocking(move || durable::publish_sealed(&staged, &target, &sums)).await?;
        self.head(bucket, key).await
    }

    /// The whole object, compared with the checksum it was written with.
    pub async fn get(&self, bucket: &str, key: &str) -> Result<Bytes> {
        if let Some(remote) = self.remotes.get(bucket) {
            return remote.get(bucket, key).await;
        }
        let path = self.local_path(bucket, key)?;
        let (sums, name) = (self.sums.clone(), format!("{bucket}/{key}"));
        let (this, bucket, key) = (self.clone(), bucket.to_owned(), key.to_owned());
        blocking(move || {
            let failed = |cause: std::io::Error| match durable::is_absent(&cause) {
                true => Error::not_found(format!("read {name}: no such object")),
                false => Error::io(format!("read {name}"), cause),
            };
            let (_, file) = this.open_readable(path, &bucket, &key);
            let mut file = file.map_err(failed)?;
            if file.metadata().map_err(failed)?.is_dir() {
                return Err(Error::not_found(format!("read {name}: no such object")));
            }
            let mut bytes = Vec::new();
            std::io::Read::read_to_end(&mut file, &mut bytes).map_err(failed)?;
            sums.compare(&name, &file, &bytes)?;
            Ok(Bytes::from(bytes))
        })
        .await
    }

    /// A part of the object.
    pub async fn get_range(&self, bucket: &str, key: &str, range: Range<u64>) -> Result<Bytes> {
        if let Some(remote) = self.remotes.get(bucket) {
            return remote.get_range(bucket, key, range).await;
        }
        let (store, path) = self.place(bucket, key)?;
        let own = store.get_range(&path, range.clone()).await;
        match (own, self.retired_path(bucket, key)) {
            (Err(object_store::Error::NotFound { .. }), Some(retired)) => {
                let place = format!("read {bucket}/{key}");
                blocking(move || read_range(&retired, &range).map_err(|e| Error::io(place, e)))
                    .await
            }
            (own, _) => own.map_err(|e| failed("read", bucket, key, e)),
        }
    }

    /// What is known of the object without reading it.
    pub async fn head(&self, bucket: &str, key: &str) -> Result<ObjectMeta> {
        if let Some(remote) = self.remotes.get(bucket) {
            return remote.head(bucket, key).await;
        }
        let (store, path) = self.place(bucket, key)?;
        match (store.head(&path).await, self.retired_path(bucket, key)) {
            (Err(object_store::Error::NotFound { .. }), Some(retired)) => {
                let meta = retired
                    .symlink_metadata()
                    .map_err(|e| Error::io(format!("find {bucket}/{key}"), e))?;
                Ok(drafts::meta_of(key.to_owned(), &meta))
            }
            (found, _) => found.map(meta_of).map_err(|e| failed("find", bucket, key, e)),
        }
    }

    /// Removes the object; whether there was one.
    pub async fn delete(&self, bucket: &str, key: &str) -> Result<bool> {
        if let Some(remote) = self.remotes.get(bucket) {
            return remote.delete(bucket, key).await;
        }
        let path = self.local_path(bucket, key)?;
        blocking(move || durable::remove(&path)).await
    }

    /// The objects whose key starts with `prefix` (any string, as in S3), by key.
    pub async fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<ObjectMeta>> {
        if !self.remotes.contains_key(bucket) {
            let (this, bucket, prefix) = (self.clone(), bucket.to_owned(), prefix.to_owned());
            // Others have a turn first: a crawl that was told to stop notices it after a listing.
            tokio::task::yield_now().await;
            return blocking(move || this.plain_objects(&bucket, &prefix)).await;
        }
        let store = self.store(bucket)?;
        // object_store lists whole folders; the rest of the prefix is compared here.
        let folder = prefix.rsplit_once('/').map(|(folder, _)| folder).unwrap_or_default();
        let folder = match folder {
            "" => None,
            folder => Some(
                Key::parse(folder)
                    .map_err(|e| Error::invalid(format!("prefix {prefix:?}: {e}")))?,
            ),
        };
        let mut found: Vec<ObjectMeta> = store
            .list(folder.as_ref())
            .map_ok(meta_of)
            .try_collect()
            .await
            .map_err(|e| failed("list", bucket, prefix, e))?;
        found.retain(|object| object.key.starts_with(prefix));
        found.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// The file an object lies in, whether or not it exists; always below its bucket.
    pub fn local_path(&self, bucket: &str, key: &str) -> Result<PathBuf> {
        let (store, path) = self.place(bucket, key)?;
        store.path_of(&path)
    }

    /// Where the bucket lies, if not on this machine.
    pub fn remote_place(&self, bucket: &str) -> Option<&str> {
        self.remotes.get(bucket).map(|remote| remote.place.as_str())
    }

    /// Refuses a bucket that lies elsewhere, for those who need files.
    pub fn expect_here(&self, bucket: &str) -> Result<()> {
        match self.remote_place(bucket) {
            None => Ok(()),
            Some(place) => Err(Error::unsupported(format!(
                "bucket {bucket:?} lies at {place}: streams deliver there, but tables, jobs and \
                 this server's S3 need a bucket on this machine; ask its own store for its objects"
            ))),
        }
    }

    /// An object's file at `path`, or where it was retired to.
    fn open_readable(
        &self,
        path: PathBuf,
        bucket: &str,
        key: &str,
    ) -> (PathBuf, std::io::Result<std::fs::File>) {
        match std::fs::File::open(&path) {
            Err(cause) if durable::is_absent(&cause) => match self.retired_path(bucket, key) {
                Some(retired) => {
                    let opened = std::fs::File::open(&retired);
                    (retired, opened)
                }
                None => (path, Err(cause)),
            },
            opened => (path, opened),
        }
    }

    fn local(&self, bucket: &str) -> Result<DurableLocal> {
        names::check_bucket(bucket)?;
        self.expect_here(bucket)?;
        let folder = self.root.join(bucket);
        if !folder.is_dir() {
            return Err(Error::not_found(format!("bucket {bucket:?} does not exist")));
        }
        let inner =
            LocalFileSystem::new_with_prefix(&folder).map_err(|e| failed("open", bucket, "", e))?;
        Ok(DurableLocal::new(inner, self.root.join(durable::ASIDE), self.sums.clone()))
    }

    fn place(&self, bucket: &str, key: &str) -> Result<(DurableLocal, Key)> {
        let path = names::check_key(key)?;
        Ok((self.local(bucket)?, path))
    }
}

fn read_range(path: &Path, range: &Range<u64>) -> std::io::Result<Bytes> {
    use std::io::{Read, Seek};
    let mut file = std::fs::File::open(path)?;
    file.seek(std::io::SeekFrom::Start(range.start))?;
    let mut bytes = Vec::new();
    file.take(range.end.saturating_sub(range.start)).read_to_end(&mut bytes)?;
    Ok(Bytes::from(bytes))
}

fn meta_of(meta: object_store::ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        key: meta.location.to_string(),
        bytes: meta.size,
        modified_at: Timestamp(meta.last_modified.timestamp_millis()),
        etag: meta.e_tag.unwrap_or_default(),
    }
}

fn failed(doing: &str, bucket: &str, key: &str, cause: object_store::Error) -> Error {
    if let object_store::Error::Generic { source, .. } = &cause
        && let Some(ours) = source.downcast_ref::<Error>()
    {
        // Said by the durable store in our own words, with the kind that fits.
        let message = format!("{doing} {bucket}/{key}: {ours}");
        return Error::new(ours.kind(), message).with_source(cause);
    }
    let kind = match &cause {
        object_store::Error::NotFound { .. } => ErrorKind::NotFound,
        object_store::Error::AlreadyExists { .. } => ErrorKind::AlreadyExists,
        object_store::Error::PermissionDenied { .. }
        | object_store::Error::Unauthenticated { .. } => ErrorKind::Denied,
        object_store::Error::InvalidPath { .. } => ErrorKind::Invalid,
        object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => {
            ErrorKind::Unsupported
        }
        other => match io_kind(other) {
            // A key beneath an object: there is nothing, and never was.
            Some(std::io::ErrorKind::NotADirectory) => ErrorKind::NotFound,
            Some(std::io::ErrorKind::StorageFull) => ErrorKind::Exhausted,
            _ => ErrorKind::Unavailable,
        },
    };
    let what =
        if kind == ErrorKind::NotFound { "no such object".to_owned() } else { cause.to_string() };
    Error::new(kind, format!("{doing} {bucket}/{key}: {what}")).with_source(cause)
}

/// What the system said, if an error goes back to that.
fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<std::io::ErrorKind> {
    match error.downcast_ref::<std::io::Error>() {
        Some(io) => Some(io.kind()),
        None => error.source().and_then(io_kind),
    }
}

/// Runs file work off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal(format!("file work ended: {e}")))?
}

/// The etag that an object with this file has.
pub fn etag_of(meta: &std::fs::Metadata) -> String {
    attributes::identity(meta)
}

/// Refuses what is no bucket's name.
pub fn check_bucket(name: &str) -> Result<()> {
    names::check_bucket(name)
}

/// Refuses a key that is no path below its bucket.
pub fn check_key(key: &str) -> Result<()> {
    names::check_key(key).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Buckets) {
        let folder = tempfile::tempdir().unwrap();
        let buckets = Buckets::open(folder.path()).unwrap();
        buckets.create_bucket("lake").unwrap();
        (folder, buckets)
    }

    #[tokio::test]
    async fn objects_are_written_read_listed_and_removed() {
        let (_folder, buckets) = store();
        let put = |key: &'static str| buckets.put("lake", key, Bytes::from_static(b"hello"));
        let meta = put("raw/2026/01/a b+ü.json").await.unwrap();
        assert_eq!((meta.key.as_str(), meta.bytes), ("raw/2026/01/a b+ü.json", 5));
        put("raw/2026/02/x").await.unwrap();
        put("rawer").await.unwrap();
        assert_eq!(&buckets.get("lake", &meta.key).await.unwrap()[..], b"hello");
        assert_eq!(&buckets.get_range("lake", &meta.key, 1..3).await.unwrap()[..], b"el");
        let keys = |prefix: &'static str| {
            let buckets = buckets.clone();
            async move {
                let found = buckets.list("lake", prefix).await.unwrap();
                found.into_iter().map(|o| o.key).collect::<Vec<_>>()
            }
        };
        assert_eq!(keys("raw/").await, ["raw/2026/01/a b+ü.json", "raw/2026/02/x"]);
        assert_eq!(keys("raw").await.len(), 3);
        assert_eq!(keys("raw/2026/0").await.len(), 2);
        assert!(keys("nothing/here").await.is_empty());
        assert!(buckets.delete("lake", "rawer").await.unwrap());
        assert!(!buckets.delete("lake", "rawer").await.unwrap());
        assert_eq!(buckets.get("lake", "rawer").await.unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn no_name_leaves_its_bucket() {
        let (folder, buckets) = store();
        let canary = folder.path().join("canary");
        std::fs::write(&canary, b"untouched").unwrap();
        let long = "x".repeat(1025);
        for key in [
            "",
            "/",
            "../canary",
            "a/../../canary",
            "./a",
            "a/.",
            "a//b",
            "a\0b",
            &long,
            "a/",
            "/a",
        ] {
            let refused = buckets.put("lake", key, Bytes::from_static(b"bad")).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Invalid, "{key:?}: {refused}");
        }
        for key in ["%2e%2e/canary", "a%2f..%2fb", "..a", "a..", "C:\\x", "-rf", "~"] {
            buckets.put("lake", key, Bytes::from_static(b"odd")).await.unwrap();
            let path = buckets.local_path("lake", key).unwrap();
            assert!(
                path.starts_with(folder.path().join("lake")),
                "{key:?} is at {}",
                path.display()
            );
            assert_eq!(&buckets.get("lake", key).await.unwrap()[..], b"odd", "{key:?}");
        }
        assert_eq!(buckets.list("lake", "").await.unwrap().len(), 7);
        for bucket in ["", "ab", "Upper", "a/b", "..", ".tmp", "a..b", "-ab", "under_score"] {
            assert_eq!(
                buckets.create_bucket(bucket).unwrap_err().kind(),
                ErrorKind::Invalid,
                "{bucket:?}"
            );
        }
        assert_eq!(std::fs::read(&canary).unwrap(), b"untouched");
    }

    #[tokio::test]
    async fn a_key_beneath_an_object_is_refused_clearly_and_one_above_too() {
        let (folder, buckets) = store();
        buckets.put("lake", "k", Bytes::from_static(b"1")).await.unwrap();
        for key in ["k/sub", "k/sub/deeper"] {
            let error = buckets.put("lake", key, Bytes::from_static(b"2")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
            assert!(error.to_string().contains(key), "{error}");
            assert!(error.to_string().contains("beneath an object"), "{error}");
            let absent = buckets.get("lake", key).await.unwrap_err();
            assert_eq!(absent.kind(), ErrorKind::NotFound, "{absent}");
            assert!(!buckets.delete("lake", key).await.unwrap());
        }
        assert_eq!(&buckets.get("lake", "k").await.unwrap()[..], b"1");

        buckets.put("lake", "d/e/f", Bytes::from_static(b"3")).await.unwrap();
        let staged = folder.path().join("staged");
        for key in ["d", "d/e"] {
            let error = buckets.put("lake", key, Bytes::from_static(b"4")).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
            assert!(error.to_string().contains("objects lie beneath"), "{error}");
            std::fs::write(&staged, b"5").unwrap();
            let error = buckets.publish_file(&staged, "lake", key).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
            assert!(!buckets.delete("lake", key).await.unwrap(), "a folder is no object");
        }
        // Folders that are empty again are in nobody's way.
        buckets.delete("lake", "d/e/f").await.unwrap();
        buckets.put("lake", "d", Bytes::from_static(b"6")).await.unwrap();
        assert_eq!(&buckets.get("lake", "d").await.unwrap()[..], b"6");
        assert_eq!(std::fs::read_dir(folder.path().join(durable::ASIDE)).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn an_upload_in_parts_is_seen_when_it_is_complete() {
        let (folder, buckets) = store();
        let bucket = buckets.store("lake").unwrap();
        let key = Key::parse("big/one").unwrap();
        let mut upload = bucket.put_multipart(&key).await.unwrap();
        let first = upload.put_part(Bytes::from(vec![1u8; 1000]).into());
        let second = upload.put_part(Bytes::from(vec![2u8; 500]).into());
        // The second first: places are given when parts are handed over, not when they land.
        second.await.unwrap();
        first.await.unwrap();
        assert!(buckets.list("lake", "").await.unwrap().is_empty());
        upload.complete().await.unwrap();
        let body = buckets.get("lake", "big/one").await.unwrap();
        assert_eq!((body.len(), body[0], body[999], body[1000]), (1500, 1, 1, 2));
        assert!(upload.complete().await.is_err());
        assert!(upload.put_part(Bytes::new().into()).await.is_err());

        let mut aborted = bucket.put_multipart(&key).await.unwrap();
        aborted.put_part(Bytes::from_static(b"x").into()).await.unwrap();
        aborted.abort().await.unwrap();
        let mut torn = bucket.put_multipart(&key).await.unwrap();
        drop(torn.put_part(Bytes::from_static(b"never awaited").into()));
        assert!(torn.complete().await.is_err(), "a part is missing");
        let dropped = bucket.put_multipart(&key).await.unwrap();
        drop(dropped);
        assert_eq!(buckets.get("lake", "big/one").await.unwrap(), body);
        assert_eq!(std::fs::read_dir(folder.path().join(durable::ASIDE)).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_is_not_kept_is_refused() {
        use object_store::{Attribute, PutMode, PutOptions, UpdateVersion};
        let (_folder, buckets) = store();
        let bucket = buckets.store("lake").unwrap();
        let key = Key::parse("k").unwrap();
        let put = |options: PutOptions| bucket.put_opts(&key, "x".into(), options);
        let typed = [(Attribute::ContentType, "text/plain")].into_iter().collect();
        let typed = put(PutOptions { attributes: typed, ..Default::default() }).await;
        assert!(matches!(typed, Err(object_store::Error::NotImplemented { .. })));
        let version = UpdateVersion { e_tag: Some("1".into()), version: None };
        let update = put(PutMode::Update(version).into()).await;
        assert!(matches!(update, Err(object_store::Error::NotImplemented { .. })));
        put(PutMode::Create.into()).await.unwrap();
        let twice = put(PutMode::Create.into()).await;
        assert!(matches!(twice, Err(object_store::Error::AlreadyExists { .. })));
        let other = Key::parse("dir/other").unwrap();
        bucket.copy(&key, &other).await.unwrap();
        bucket.rename(&other, &Key::parse("dir/third").unwrap()).await.unwrap();
        assert_eq!(buckets.list("lake", "dir/").await.unwrap()[0].key, "dir/third");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn d2_a_lister_racing_puts_sees_only_whole_objects() {
        let (folder, buckets) = store();
        let body = Bytes::from(vec![7u8; 16 * 1024]);
        let writer = tokio::spawn({
            let (buckets, body, staged) =
                (buckets.clone(), body.clone(), folder.path().join("staged"));
            async move {
                for index in 0..1_000 {
                    let key = format!("t/{:03}", index % 50);
                    if index % 3 == 0 {
                        std::fs::write(&staged, &body).unwrap();
                        buckets.publish_file(&staged, "lake", &key).await.unwrap();
                    } else {
                        buckets.put("lake", &key, body.clone()).await.unwrap();
                    }
                }
            }
        });
        let mut seen = 0;
        while !writer.is_finished() {
            for object in buckets.list("lake", "t/").await.unwrap() {
                assert_eq!(object.bytes, body.len() as u64, "{}", object.key);
                assert_eq!(buckets.get("lake", &object.key).await.unwrap(), body);
                seen += 1;
            }
        }
        writer.await.unwrap();
        assert!(seen > 0);
    }

    #[tokio::test]
    async fn buckets_are_listed_and_only_empty_ones_removed() {
        let (_folder, buckets) = store();
        buckets.ensure_bucket("lake").unwrap();
        buckets.create_bucket("other").unwrap();
        assert_eq!(buckets.list_buckets().unwrap(), ["lake", "other"]);
        assert_eq!(buckets.create_bucket("lake").unwrap_err().kind(), ErrorKind::AlreadyExists);
        buckets.put("lake", "a/b", Bytes::new()).await.unwrap();
        assert_eq!(buckets.delete_bucket("lake").await.unwrap_err().kind(), ErrorKind::Conflict);
        buckets.delete("lake", "a/b").await.unwrap();
        buckets.delete_bucket("lake").await.unwrap();
        assert_eq!(buckets.list("lake", "").await.unwrap_err().kind(), ErrorKind::NotFound);
    }
}
