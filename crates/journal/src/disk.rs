//! The files a log lies in, behind two small traits, so that a test can make a disk that
//! fails, fills, or loses its power.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// A folder of log files. Every change of a name is durable when it answers.
pub(crate) trait Disk: Send + Sync + std::fmt::Debug {
    /// Names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes a file of `bytes` zeros, all on stable storage.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn SegmentFile>>;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str) -> io::Result<Box<dyn SegmentFile>>;
    /// Renames a file, replacing the target.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Reads a small file whole.
    fn read_small(&self, name: &str) -> io::Result<Option<Vec<u8>>>;
    /// Replaces a small file: afterwards it is the old or the new one, durably.
    fn write_small(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
}

/// One file, read and written at positions.
pub(crate) trait SegmentFile: Send + Sync + std::fmt::Debug {
    /// Its length.
    fn len(&self) -> io::Result<u64>;
    /// Writes all of `bytes` at `position`.
    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()>;
    /// Fills `bytes` from `position`; `UnexpectedEof` when the file is shorter.
    fn read_at(&self, bytes: &mut [u8], position: u64) -> io::Result<()>;
    /// Puts what was written on stable storage.
    fn sync(&self) -> io::Result<()>;
}

/// A real folder.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

const ZEROS: usize = 1024 * 1024;
/// Parts of zeros between two syncs.
const SYNC_EVERY: u64 = 8;

impl Folder {
    pub(crate) fn new(path: PathBuf) -> Self {
        Folder { path }
    }

    fn sync_names(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    fn open_file(&self, name: &str) -> io::Result<File> {
        OpenOptions::new().read(true).write(true).open(self.path.join(name))
    }
}

impl Disk for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        std::fs::read_dir(&self.path)?
            .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect()
    }

    /// Zeros are written, not merely reserved: a sync of an overwritten block costs a third
    /// or less of one that also has to record the file's growth. They are synced in parts, so
    /// that a commit at the same time does not queue behind all of them.
    fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn SegmentFile>> {
        let path = self.path.join(name);
        let fill = || {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(&path)?;
            let zeros = vec![0u8; ZEROS];
            let mut left = bytes;
            while left > 0 {
                let part = left.min(ZEROS as u64);
                file.write_all(&zeros[..part as usize])?;
                left -= part;
                if (left / ZEROS as u64).is_multiple_of(SYNC_EVERY) {
                    file.sync_data()?;
                }
            }
            file.sync_all()?;
            self.sync_names()?;
            Ok(file)
        };
        match fill() {
            Ok(file) => Ok(Box::new(file)),
            Err(cause) => {
                // Half a segment on a full disk would keep it full.
                drop(std::fs::remove_file(&path));
                Err(cause)
            }
        }
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn SegmentFile>> {
        Ok(Box::new(self.open_file(name)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))?;
        self.sync_names()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))?;
        self.sync_names()
    }

    fn read_small(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        match File::open(self.path.join(name)) {
            Ok(mut file) => file.read_to_end(&mut bytes).map(|_| Some(bytes)),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(cause),
        }
    }

    fn write_small(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let aside = self.path.join(format!("{name}.new"));
        let mut file = File::create(&aside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&aside, self.path.join(name))?;
        self.sync_names()
    }
}

impl SegmentFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        self.write_all_at(bytes, position)
    }

    fn read_at(&self, bytes: &mut [u8], position: u64) -> io::Result<()> {
        self.read_exact_at(bytes, position)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(test)]
pub(crate) mod faulty;
