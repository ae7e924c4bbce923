//! Objects with attributes, written piece by piece and published under a condition.
//!
//! Keys that are no path below their bucket (`a//b`, `../x`, `folder/`) are objects here as
//! well: they lie in the bucket's side folder under an escaped name, so that nothing is
//! refused that S3 accepts and no key reaches outside. There lies, too, what came second of `k`
//! and `k/sub`, since a path cannot be a file and a folder. Engines that read the bucket's folder
//! see the plain ones only.

use std::fs::File;
use std::hash::BuildHasher;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base::{Error, ErrorKind, Result, Timestamp};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::attributes::{Attributes, RECORD, identity};
use crate::sums::Sums;
use crate::{Buckets, ObjectMeta, durable, names};

/// The folder of everything beside the buckets' objects; no bucket can have this name.
pub(crate) const SIDE: &str = ".s3";
const ODD: &str = "odd";
const BESIDE: &str = ".attributes";
pub(crate) const SUMS: &str = ".sums";
const PLAIN: AsciiSet = NON_ALPHANUMERIC.remove(b'-').remove(b'_');
/// What a file system allows a name.
const NAME_BYTES_MAX: usize = 255;
const LOCKS: usize = 64;

/// One writer at a time for each key, so that a condition holds until its write is done.
#[derive(Debug)]
pub(crate) struct Locks {
    stripes: [Mutex<()>; LOCKS],
    hasher: std::hash::RandomState,
}

impl Locks {
    pub(crate) fn new() -> Arc<Self> {
        let stripes = std::array::from_fn(|_| Mutex::new(()));
        Arc::new(Locks { stripes, hasher: std::hash::RandomState::new() })
    }

    fn of(&self, bucket: &str, key: &str) -> &Mutex<()> {
        &self.stripes[(self.hasher.hash_one((bucket, key)) % LOCKS as u64) as usize]
    }
}

/// An object being written; dropped unpublished it leaves nothing.
#[derive(Debug)]
pub struct Draft {
    path: PathBuf,
    file: File,
    /// The checksum of what was written, unless somebody wrote to the file himself.
    crc32c: Option<u32>,
}

impl Draft {
    /// The file to write to.
    pub fn file(&mut self) -> &mut File {
        self.crc32c = None;
        &mut self.file
    }

    /// Adds bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.crc32c = self.crc32c.map(|crc| crc32c::crc32c_append(crc, bytes));
        self.file.write_all(bytes).map_err(|e| Error::io("write an object", e))
    }

    /// Gives the file the checksum of what it holds.
    fn seal(&self, sums: &Sums) -> Result<()> {
        match self.crc32c {
            Some(crc32c) => sums.keep(&self.file, crc32c),
            None => sums.seal(&self.file),
        }
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Gone already if it was published.
        drop(std::fs::remove_file(&self.path));
    }
}

/// An object that is there: what is known, and its attributes if it was given any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Key, size, time and the file's own mark.
    pub meta: ObjectMeta,
    /// What [`Buckets::publish`] was given, or nothing for objects of engines.
    pub attributes: Option<Vec<u8>>,
}

/// How an object is asked about under its key's lock.
pub type Look<'a> = &'a dyn Fn() -> Result<Option<Found>>;

/// All of these block on files; call them off the async threads.
impl Buckets {
    /// Begins an object.
    pub fn draft(&self) -> Result<Draft> {
        let path = self.root.join(durable::ASIDE).join(durable::unique_name());
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|e| Error::io("begin an object", e))?;
        Ok(Draft { path, file, crc32c: Some(0) })
    }

    /// Gives a draft its attributes and its key, replacing what is there, unless `check`
    /// refuses what it sees. Durable when it answers. Nobody else publishes, changes or
    /// removes the key between the check and the end.
    pub fn publish<E: From<Error>>(
        &self,
        draft: Draft,
        bucket: &str,
        key: &str,
        attributes: &[u8],
        check: impl FnOnce(Look<'_>) -> Result<(), E>,
    ) -> Result<ObjectMeta, E> {
        let target = self.file_of(bucket, key)?;
        self.attributes().write(&draft.file, attributes)?;
        draft.seal(&self.sums)?;
        draft.file.sync_all().map_err(|e| Error::io("sync an object", e))?;
        let meta = draft.file.metadata().map_err(|e| Error::io("measure an object", e))?;
        let _held = self.locks.of(bucket, key).lock().unwrap_or_else(PoisonError::into_inner);
        check(&|| Ok(self.open_here(bucket, key)?.map(|(_, found)| found)))?;
        // A bucket removed meanwhile must not come back as a folder.
        self.bucket_folder(bucket)?;
        let before = std::fs::symlink_metadata(&target).ok().filter(std::fs::Metadata::is_file);
        let rename_to = |target: &Path| std::fs::rename(&draft.path, target);
        match durable::into_place(&target, || rename_to(&target)) {
            Err(error) if error.kind() == ErrorKind::Conflict => {
                let target = self.odd_file(bucket, key)?;
                durable::into_place(&target, || rename_to(&target))?;
            }
            other => other?,
        }
        if let Some(before) = before {
            self.attributes().forget(&before)?;
            self.sums.forget(&before)?;
        }
        Ok(meta_of(key.to_owned(), &meta))
    }

    /// The object's file to read from, and what is known of it; a retired object's too.
    pub fn open_object(&self, bucket: &str, key: &str) -> Result<Option<(File, Found)>> {
        match self.open_here(bucket, key)? {
            Some(found) => Ok(Some(found)),
            None => match self.retired_path(bucket, key) {
                Some(path) => self.open_file(&path, key),
                None => Ok(None),
            },
        }
    }

    /// The object that has the key now.
    fn open_here(&self, bucket: &str, key: &str) -> Result<Option<(File, Found)>> {
        let path = self.file_of(bucket, key)?;
        self.open_file(&path, key)
    }

    fn open_file(&self, path: &Path, key: &str) -> Result<Option<(File, Found)>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(cause) if durable::is_absent(&cause) => return Ok(None),
            Err(cause) => return Err(Error::io("open an object", cause)),
        };
        let meta = file.metadata().map_err(|e| Error::io("measure an object", e))?;
        if !meta.is_file() {
            return Ok(None);
        }
        let attributes = self.attributes().read(&file, &meta);
        Ok(Some((file, Found { meta: meta_of(key.to_owned(), &meta), attributes })))
    }

    /// What is known of an object.
    pub fn find(&self, bucket: &str, key: &str) -> Result<Option<Found>> {
        Ok(self.open_object(bucket, key)?.map(|(_, found)| found))
    }

    /// Gives an object other attributes, derived from those it has; `None` if it is absent.
    pub fn change_attributes<E: From<Error>>(
        &self,
        bucket: &str,
        key: &str,
        change: impl FnOnce(&Found) -> Result<Vec<u8>, E>,
    ) -> Result<Option<()>, E> {
        let _held = self.locks.of(bucket, key).lock().unwrap_or_else(PoisonError::into_inner);
        let Some((file, found)) = self.open_here(bucket, key)? else { return Ok(None) };
        let bytes = change(&found)?;
        self.attributes().write(&file, &bytes)?;
        file.sync_all().map_err(|e| Error::io("sync an object", e))?;
        Ok(Some(()))
    }

    /// Removes an object durably unless `check` refuses what is there; whether there was one.
    pub fn remove<E: From<Error>>(
        &self,
        bucket: &str,
        key: &str,
        check: impl FnOnce(Look<'_>) -> Result<(), E>,
    ) -> Result<bool, E> {
        let path = self.file_of(bucket, key)?;
        let _held = self.locks.of(bucket, key).lock().unwrap_or_else(PoisonError::into_inner);
        check(&|| Ok(self.open_here(bucket, key)?.map(|(_, found)| found)))?;
        let before = std::fs::symlink_metadata(&path).ok();
        let removed = durable::remove(&path)?;
        if let Some(before) = before.filter(|_| removed) {
            self.attributes().forget(&before)?;
            self.sums.forget(&before)?;
        }
        Ok(removed)
    }

    /// When the bucket was made, as far as the file system remembers.
    pub fn bucket_created(&self, bucket: &str) -> Result<Timestamp> {
        let folder = self.bucket_folder(bucket)?;
        let meta = folder.metadata().map_err(|e| Error::io("measure a bucket", e))?;
        let made = meta.created().or_else(|_| meta.modified());
        let made = made.map_err(|e| Error::io("measure a bucket", e))?;
        let since = made.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Ok(Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
    }

    /// The bucket's folder for what belongs to it and is no object. It goes with the bucket.
    pub fn side_folder(&self, bucket: &str) -> Result<PathBuf> {
        self.bucket_folder(bucket)?;
        Ok(self.side(bucket))
    }

    /// Writes a small file below a side folder, durably and all at once.
    pub fn write_side(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let mut draft = self.draft()?;
        draft.write(bytes)?;
        durable::publish(&draft.path, path)
    }

    /// Moves a draft to a file below a side folder with attributes, durably.
    pub fn publish_side(&self, draft: &Draft, path: &Path, attributes: &[u8]) -> Result<()> {
        self.attributes().write(&draft.file, attributes)?;
        durable::publish(&draft.path, path)
    }

    /// Opens a file of [`publish_side`](Self::publish_side) with its attributes.
    pub fn open_side(&self, path: &Path) -> Result<Option<(File, Found)>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(cause) if durable::is_absent(&cause) => return Ok(None),
            Err(cause) => return Err(Error::io("open a part", cause)),
        };
        let meta = file.metadata().map_err(|e| Error::io("measure a part", e))?;
        let attributes = self.attributes().read(&file, &meta);
        Ok(Some((file, Found { meta: meta_of(String::new(), &meta), attributes })))
    }

    pub(crate) fn side(&self, bucket: &str) -> PathBuf {
        self.root.join(SIDE).join(bucket)
    }

    pub(crate) fn odd_folder(&self, bucket: &str) -> PathBuf {
        self.side(bucket).join(ODD)
    }

    pub(crate) fn attributes(&self) -> Attributes {
        Attributes::new(RECORD, self.root.join(SIDE).join(BESIDE))
    }

    pub(crate) fn bucket_folder(&self, bucket: &str) -> Result<PathBuf> {
        names::check_bucket(bucket)?;
        self.expect_here(bucket)?;
        let folder = self.root.join(bucket);
        match folder.is_dir() {
            true => Ok(folder),
            false => Err(Error::not_found(format!("bucket {bucket:?} does not exist"))),
        }
    }

    /// Where an object of any key lies.
    pub(crate) fn file_of(&self, bucket: &str, key: &str) -> Result<PathBuf> {
        let folder = self.bucket_folder(bucket)?;
        names::check_any_key(key)?;
        if names::check_key(key).is_ok() && !names::is_reserved(key) {
            if key.split('/').any(|component| component.len() > NAME_BYTES_MAX) {
                return Err(Error::invalid(format!(
                    "object key: a component between slashes is longer than {NAME_BYTES_MAX} \
                     bytes, which the file system does not take"
                )));
            }
            let plain = folder.join(key);
            let odd = if plain.is_file() { None } else { self.odd_file(bucket, key).ok() };
            return Ok(odd.filter(|odd| odd.is_file()).unwrap_or(plain));
        }
        self.odd_file(bucket, key)
    }

    /// Where an object lies whose key is no path, or whose path is taken.
    fn odd_file(&self, bucket: &str, key: &str) -> Result<PathBuf> {
        let name = utf8_percent_encode(key, &PLAIN).to_string();
        if name.len() > NAME_BYTES_MAX {
            return Err(Error::invalid(format!(
                "object key: a key with empty, '.' or '..' components, a slash at either end, or \
                 beside another that it begins with (k and k/sub), may be {NAME_BYTES_MAX} bytes \
                 long once escaped"
            )));
        }
        Ok(self.odd_folder(bucket).join(name))
    }
}

/// The key of a file in the folder of odd keys.
pub(crate) fn odd_key(name: &str) -> Option<String> {
    percent_decode_str(name).decode_utf8().ok().map(|key| key.into_owned())
}

pub(crate) fn meta_of(key: String, meta: &std::fs::Metadata) -> ObjectMeta {
    ObjectMeta {
        key,
        bytes: meta.len(),
        modified_at: Timestamp(meta.mtime() * 1_000 + meta.mtime_nsec() / 1_000_000),
        etag: identity(meta),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(buckets: &Buckets, key: &str, attributes: &[u8]) {
        let mut draft = buckets.draft().unwrap();
        draft.write(b"x").unwrap();
        buckets.publish::<Error>(draft, "lake", key, attributes, |_| Ok(())).unwrap();
    }

    #[test]
    fn a_key_may_be_an_object_and_others_folder() {
        let folder = tempfile::tempdir().unwrap();
        let buckets = Buckets::open(folder.path()).unwrap();
        buckets.create_bucket("lake").unwrap();
        let keys = || {
            let page =
                buckets.page("lake", &crate::Listing { max: 9, ..Default::default() }).unwrap();
            page.entries.iter().map(|entry| entry.name().to_owned()).collect::<Vec<_>>()
        };
        let seen = |key: &str| buckets.find("lake", key).unwrap().and_then(|f| f.attributes);
        for key in ["k", "k/sub", "m/sub", "m", "k/sub/deep", "z"] {
            put(&buckets, key, key.as_bytes());
            assert_eq!(seen(key), Some(key.into()), "{key}");
        }
        assert_eq!(keys(), ["k", "k/sub", "k/sub/deep", "m", "m/sub", "z"]);
        put(&buckets, "m", b"again");
        assert_eq!((seen("m"), seen("m/sub")), (Some(b"again".into()), Some(b"m/sub".into())));
        // One that lies aside stays there when its path is free again: it is one object.
        assert!(buckets.remove::<Error>("lake", "k", |_| Ok(())).unwrap());
        put(&buckets, "k/sub", b"third");
        assert_eq!(seen("k/sub"), Some(b"third".into()));
        assert_eq!(keys(), ["k/sub", "k/sub/deep", "m", "m/sub", "z"]);
        for key in keys() {
            assert!(buckets.remove::<Error>("lake", &key, |_| Ok(())).unwrap(), "{key}");
            assert_eq!(seen(&key), None);
        }
        assert_eq!(keys(), Vec::<String>::new());
    }

    #[test]
    fn attributes_short_and_long_belong_to_one_object_only() {
        let folder = tempfile::tempdir().unwrap();
        let buckets = Buckets::open(folder.path()).unwrap();
        buckets.create_bucket("lake").unwrap();
        let long = vec![b'l'; 8_000];
        let seen = || buckets.find("lake", "k").unwrap().unwrap().attributes;
        let beside = || std::fs::read_dir(folder.path().join(SIDE).join(BESIDE)).unwrap().count();
        put(&buckets, "k", &long);
        assert_eq!(seen(), Some(long.clone()));
        // Whoever replaces the file knows nothing of attributes, and leaves none.
        std::fs::write(folder.path().join("aside"), b"y").unwrap();
        std::fs::rename(folder.path().join("aside"), folder.path().join("lake/k")).unwrap();
        assert_eq!(seen(), None);
        put(&buckets, "k", b"short");
        assert_eq!(seen(), Some(b"short".to_vec()));
        let change = |to: Vec<u8>| {
            buckets.change_attributes::<Error>("lake", "k", |_| Ok(to)).unwrap().unwrap();
        };
        let before = beside();
        change(long.clone());
        assert_eq!((seen(), beside()), (Some(long), before + 1));
        change(b"again".to_vec());
        assert_eq!((seen(), beside()), (Some(b"again".to_vec()), before));
        assert!(buckets.remove::<Error>("lake", "k", |_| Ok(())).unwrap());
        assert_eq!(buckets.find("lake", "k").unwrap(), None);
    }
}
