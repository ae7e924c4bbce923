//! What is known of an object besides its bytes, kept with the very file it belongs to.
//!
//! Attributes lie in an extended attribute of the object's file: they are written before the
//! file gets its name and travel with it, so there is no moment in which an object has
//! another's attributes, and no further sync. Where the file system keeps none, or they are
//! too long for it, they lie in a file of their own whose name holds the object's inode, size
//! and time of change: a replaced object never finds its predecessor's.

use std::fs::{File, Metadata};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base::{Error, Result};

use crate::durable;

/// The extended attributes' names: what a front keeps with an object, and its checksum.
pub(crate) const RECORD: &str = "user.forebay";
pub(crate) const SUM: &str = "user.forebay.crc32c";
/// What an extended attribute may hold at most in our care; ext4 gives a block for all.
const INLINE_BYTES: usize = 3 * 1024;

/// The object as its file tells: inode, time of change, size. As `object_store` writes it.
pub(crate) fn identity(meta: &Metadata) -> String {
    let micros = i128::from(meta.mtime()) * 1_000_000 + i128::from(meta.mtime_nsec() / 1_000);
    format!("{:x}-{micros:x}-{:x}", meta.ino(), meta.len())
}

/// One kind of attributes, and where long ones lie.
#[derive(Clone, Debug)]
pub(crate) struct Attributes {
    name: &'static str,
    beside: PathBuf,
}

impl Attributes {
    pub(crate) fn new(name: &'static str, beside: PathBuf) -> Self {
        Attributes { name, beside }
    }

    fn beside(&self, meta: &Metadata) -> PathBuf {
        self.beside.join(identity(meta))
    }

    /// Gives `file` its attributes, durable once the file is synced.
    pub(crate) fn write(&self, file: &File, bytes: &[u8]) -> Result<()> {
        let failed = |cause: std::io::Error| Error::io("write an object's attributes", cause);
        let meta = file.metadata().map_err(failed)?;
        let beside = self.beside(&meta);
        let flags = rustix::fs::XattrFlags::empty();
        if bytes.len() <= INLINE_BYTES
            && rustix::fs::fsetxattr(file, self.name, bytes, flags).is_ok()
        {
            // Long ones of before give way; a crash before this leaves them unread.
            return durable::remove_if_there(&beside);
        }
        durable::create_folders(&self.beside)?;
        let staged = beside.with_extension("new");
        let mut target = File::create(&staged).map_err(failed)?;
        target.write_all(bytes).and_then(|()| target.sync_all()).map_err(failed)?;
        std::fs::rename(&staged, &beside).map_err(failed)?;
        durable::sync_folder(&self.beside)?;
        // Absent in most cases, and then there is nothing to do.
        rustix::fs::fremovexattr(file, self.name).ok();
        Ok(())
    }

    /// The attributes of `file`, if it has any.
    pub(crate) fn read(&self, file: &File, meta: &Metadata) -> Option<Vec<u8>> {
        let mut bytes = vec![0_u8; INLINE_BYTES];
        match rustix::fs::fgetxattr(file, self.name, &mut bytes[..]) {
            Ok(length) => {
                bytes.truncate(length);
                Some(bytes)
            }
            Err(_) => std::fs::read(self.beside(meta)).ok(),
        }
    }

    /// As [`read`](Self::read), of a file by its path.
    pub(crate) fn read_path(&self, path: &Path, meta: &Metadata) -> Option<Vec<u8>> {
        let mut bytes = vec![0_u8; INLINE_BYTES];
        match rustix::fs::getxattr(path, self.name, &mut bytes[..]) {
            Ok(length) => {
                bytes.truncate(length);
                Some(bytes)
            }
            Err(_) => std::fs::read(self.beside(meta)).ok(),
        }
    }

    /// Forgets what lay beside an object that is gone.
    pub(crate) fn forget(&self, meta: &Metadata) -> Result<()> {
        durable::remove_if_there(&self.beside(meta))
    }
}
