//! The checksum every object is written with, and compared with when it is read whole.
//!
//! A disk that turns a bit, a tool that writes into a file it should not touch: what is read
//! then is no longer what was stored, and a wrong number looks like any other. So each object
//! carries the CRC-32C of its bytes in an extended attribute of its file, set before the file
//! gets its name.
//!
//! Invariants
//! * An object whose bytes do not fit its checksum is never handed out as if it were whole:
//!   [`ErrorKind::Corrupt`] names it. It stays where it is, so that somebody can look at it; a
//!   put or a delete of its key ends the matter.
//! * A file is read for this once, until its inode, size or one of its times changes.
//! * Files that others put into a bucket's folder have no checksum and pass.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use base::{Error, ErrorKind, Result};

use crate::attributes::{Attributes, SUM};
use crate::{Buckets, durable};

/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;

/// Files whose verdict is remembered, some 100 bytes each; when there are more, all are forgotten.
const SEEN_MAX: usize = 65_536;

/// The checksums of a store. Clones share what was seen.
#[derive(Clone, Debug)]
pub(crate) struct Sums {
    kept: Attributes,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    verdicts: Mutex<HashMap<Mark, Verdict>>,
    verified: AtomicU64,
    altered: AtomicU64,
}

/// A file as it was when it was read: its device, inode, size, and times of change of bytes and
/// of the rest. The last one cannot be set by programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Mark {
    file: (u64, u64, u64),
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What reading a file showed: its checksum, and the one that it was written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdict {
    found: u32,
    written: u32,
}

/// An object's file that was compared with what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sound {
    /// Where the bytes are.
    pub path: PathBuf,
    /// Their CRC-32C; `None` where somebody else wrote them and none was kept.
    pub crc32c: Option<u32>,
}

/// How many objects were compared with their checksums since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SumTotals {
    /// Read and compared.
    pub verified: u64,
    /// Of these, altered since they were written.
    pub altered: u64,
}

impl Sums {
    pub(crate) fn new(beside: PathBuf) -> Sums {
        Sums { kept: Attributes::new(SUM, beside), seen: Arc::default() }
    }

    /// Gives a file the checksum of its bytes; durable once the file is synced.
    pub(crate) fn keep(&self, file: &File, crc32c: u32) -> Result<()> {
        self.kept.write(file, format!("{crc32c:08x}").as_bytes())
    }

    /// Reads a file and gives it the checksum of what it holds.
    pub(crate) fn seal(&self, file: &File) -> Result<()> {
        let crc32c = read_sum(file).map_err(|e| Error::io("read an object back", e))?;
        self.keep(file, crc32c)
    }

    /// Forgets what lay beside an object that is gone.
    pub(crate) fn forget(&self, meta: &Metadata) -> Result<()> {
        // A retired object still has that file.
        if meta.nlink() > 1 {
            return Ok(());
        }
        self.kept.forget(meta)
    }

    /// The checksum that a file was written with.
    fn written(&self, file: &File, meta: &Metadata) -> Option<u32> {
        let text = String::from_utf8(self.kept.read(file, meta)?).ok()?;
        u32::from_str_radix(&text, 16).ok()
    }

    /// Compares bytes that were read from a file anyway.
    pub(crate) fn compare(&self, name: &str, file: &File, bytes: &[u8]) -> Result<()> {
        let meta = file.metadata().map_err(|e| Error::io("measure an object", e))?;
        let Some(written) = self.written(file, &meta) else { return Ok(()) };
        let verdict = Verdict { found: crc32c::crc32c(bytes), written };
        self.remember(Mark::of(&meta), verdict, name);
        verdict.judge(name).map(drop)
    }

    /// Reads a file and compares it, unless that was done since it last changed.
    fn verify(&self, name: &str, file: &File) -> Result<Option<u32>> {
        let failed = |cause| Error::io(format!("read object {name}"), cause);
        let meta = file.metadata().map_err(failed)?;
        let mark = Mark::of(&meta);
        if let Some(verdict) = self.verdicts().get(&mark) {
            return verdict.judge(name).map(Some);
        }
        let Some(written) = self.written(file, &meta) else { return Ok(None) };
        let verdict = Verdict { found: read_sum(file).map_err(failed)?, written };
        // Written to meanwhile: what was read is of no moment in particular.
        let after = file.metadata().map_err(failed)?;
        if Mark::of(&after) == mark {
            self.remember(mark, verdict, name);
        }
        verdict.judge(name).map(Some)
    }

    fn remember(&self, mark: Mark, verdict: Verdict, name: &str) {
        let mut verdicts = self.verdicts();
        if verdicts.len() >= SEEN_MAX {
            verdicts.clear();
        }
        if verdicts.insert(mark, verdict) == Some(verdict) {
            return;
        }
        drop(verdicts);
        self.seen.verified.fetch_add(1, Ordering::Relaxed);
        if verdict.found != verdict.written {
            self.seen.altered.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                object = name,
                found = format!("{:08x}", verdict.found),
                written = format!("{:08x}", verdict.written),
                "a stored object was altered; it is set aside until it is put again or deleted"
            );
        }
    }

    fn verdicts(&self) -> std::sync::MutexGuard<'_, HashMap<Mark, Verdict>> {
        self.seen.verdicts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mark {
    fn of(meta: &Metadata) -> Mark {
        Mark {
            file: (meta.dev(), meta.ino(), meta.size()),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

impl Verdict {
    fn judge(self, name: &str) -> Result<u32> {
        let Verdict { found, written } = self;
        if found == written {
            return Ok(found);
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            format!(
                "object {name} was altered after it was written: its bytes have the CRC-32C \
                 {found:08x}, those that were stored had {written:08x}; put it again or delete it"
            ),
        ))
    }
}

/// The CRC-32C of a file's bytes, wherever its cursor stands.
fn read_sum(file: &File) -> std::io::Result<u32> {
    let mut buffer = vec![0; READ_BYTES];
    let (mut crc, mut at) = (0, 0);
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok(crc),
            Ok(count) => {
                crc = crc32c::crc32c_append(crc, &buffer[..count]);
                at += count as u64;
            }
            Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
}

impl Buckets {
    /// The object's file, after its bytes were compared with what was written:
    /// [`ErrorKind::Corrupt`] if they differ. Blocks on files; reads one only once for as long
    /// as it stays as it is.
    pub fn verify(&self, bucket: &str, key: &str) -> Result<Sound> {
        let path = self.file_of(bucket, key)?;
        let name = format!("{bucket}/{key}");
        let (path, file) = self.open_readable(path, bucket, key);
        let file = file.map_err(|cause| match durable::is_absent(&cause) {
            true => Error::not_found(format!("read {name}: no such object")),
            false => Error::io(format!("read {name}"), cause),
        })?;
        let crc32c = self.sums.verify(&name, &file)?;
        Ok(Sound { path, crc32c })
    }

    /// What comparing objects with their checksums found since the start.
    pub fn sum_totals(&self) -> SumTotals {
        SumTotals {
            verified: self.sums.seen.verified.load(Ordering::Relaxed),
            altered: self.sums.seen.altered.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bytes::Bytes;

    use super::*;

    /// Turns one bit of a file round without changing its times.
    fn flip(path: &Path, bit: u64) {
        let file = File::options().read(true).write(true).open(path).unwrap();
        let modified = file.metadata().unwrap().modified().unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, bit / 8).unwrap();
        file.write_all_at(&[byte[0] ^ (1 << (bit % 8))], bit / 8).unwrap();
        file.set_modified(modified).unwrap();
    }

    #[tokio::test]
    async fn a_turned_bit_is_noticed_whichever_way_the_object_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let buckets = Buckets::open(folder.path()).unwrap();
        buckets.create_bucket("lake").unwrap();
        let body = Bytes::from(vec![9_u8; 300_000]);
        let staged = folder.path().join("staged");
        std::fs::write(&staged, &body).unwrap();
        buckets.put("lake", "put", body.clone()).await.unwrap();
        buckets.publish_file(&staged, "lake", "published").await.unwrap();
        let mut draft = buckets.draft().unwrap();
        draft.write(&body[..100]).unwrap();
        draft.write(&body[100..]).unwrap();
        buckets.publish::<Error>(draft, "lake", "draft", b"{}", |_| Ok(())).unwrap();
        let mut draft = buckets.draft().unwrap();
        std::io::Write::write_all(draft.file(), &body).unwrap();
        buckets.publish::<Error>(draft, "lake", "draft-file", b"{}", |_| Ok(())).unwrap();
        let store = buckets.store("lake").unwrap();
        let key = object_store::path::Path::from("parts");
        let mut upload = store.put_multipart_opts(&key, Default::default()).await.unwrap();
        upload.put_part(body.clone().into()).await.unwrap();
        upload.complete().await.unwrap();

        let all = ["put", "published", "draft", "draft-file", "parts"];
        for key in all {
            let sound = buckets.verify("lake", key).unwrap();
            assert_eq!(sound.crc32c, Some(crc32c::crc32c(&body)), "{key}");
            assert_eq!(buckets.get("lake", key).await.unwrap(), body);
        }
        assert_eq!(buckets.sum_totals(), SumTotals { verified: 5, altered: 0 });
        for (index, key) in all.into_iter().enumerate() {
            flip(&buckets.local_path("lake", key).unwrap(), 8 * 299_999 - index as u64 * 50_000);
            for error in [
                buckets.verify("lake", key).unwrap_err(),
                buckets.verify("lake", key).unwrap_err(),
                buckets.get("lake", key).await.unwrap_err(),
            ] {
                assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
                assert!(error.to_string().contains(&format!("object lake/{key} was altered")));
            }
        }
        assert_eq!(buckets.sum_totals().altered, 5, "each is counted once");
        // Put again it is sound, and turned back as well.
        buckets.put("lake", "put", body.clone()).await.unwrap();
        buckets.verify("lake", "put").unwrap();
        flip(&buckets.local_path("lake", "parts").unwrap(), 8 * 299_999 - 4 * 50_000);
        buckets.verify("lake", "parts").unwrap();
    }

    #[tokio::test]
    async fn files_of_others_have_no_checksum_and_pass() {
        let folder = tempfile::tempdir().unwrap();
        let buckets = Buckets::open(folder.path()).unwrap();
        buckets.create_bucket("lake").unwrap();
        std::fs::write(folder.path().join("lake/theirs"), b"whatever").unwrap();
        assert_eq!(buckets.verify("lake", "theirs").unwrap().crc32c, None);
        assert_eq!(&buckets.get("lake", "theirs").await.unwrap()[..], b"whatever");
        let absent = buckets.verify("lake", "absent").unwrap_err();
        assert_eq!(absent.kind(), ErrorKind::NotFound, "{absent}");
        assert_eq!(buckets.sum_totals(), SumTotals::default());
    }
}
