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
    /// of one that also has to record the file's growth (measured, see ARCHITECTURE.md).
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
pub(crate) mod faulty {
    //! A disk in memory that fails on demand and forgets what was not synced.

    use std::collections::BTreeMap;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Debug, Default)]
    struct Contents {
        now: Vec<u8>,
        synced: Vec<u8>,
    }

    #[derive(Debug, Default)]
    struct State {
        files: BTreeMap<String, Arc<Mutex<Contents>>>,
        small: BTreeMap<String, Vec<u8>>,
        faults: Faults,
    }

    /// What goes wrong from now on.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Faults {
        pub(crate) sync_fails: bool,
        pub(crate) disk_full: bool,
    }

    #[derive(Clone, Debug, Default)]
    pub(crate) struct Memory(Arc<Mutex<State>>);

    #[derive(Debug)]
    struct MemoryFile(Arc<Mutex<Contents>>, Memory);

    impl Memory {
        pub(crate) fn faults(&self, change: impl FnOnce(&mut Faults)) {
            change(&mut self.0.lock().unwrap().faults);
        }

        /// The power goes: a copy of what was synced, plus `kept` of the bytes that were not,
        /// as a disk may have written some of them.
        pub(crate) fn after_power_cut(&self, mut kept: impl FnMut() -> bool) -> Memory {
            let state = self.0.lock().unwrap();
            let files = state.files.iter().map(|(name, contents)| {
                let contents = contents.lock().unwrap();
                let mut bytes = contents.synced.clone();
                for (block, new) in contents.now.chunks(512).enumerate() {
                    let at = block * 512;
                    if bytes[at..at + new.len()] != *new && kept() {
                        bytes[at..at + new.len()].copy_from_slice(new);
                    }
                }
                let contents = Contents { now: bytes.clone(), synced: bytes };
                (name.clone(), Arc::new(Mutex::new(contents)))
            });
            let files = files.collect();
            let small = state.small.clone();
            Memory(Arc::new(Mutex::new(State { files, small, faults: Faults::default() })))
        }

        /// Changes one file's bytes, as bit rot would.
        pub(crate) fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
            let state = self.0.lock().unwrap();
            let mut contents = state.files[name].lock().unwrap();
            change(&mut contents.now);
            contents.synced = contents.now.clone();
        }
    }

    impl Disk for Memory {
        fn list(&self) -> io::Result<Vec<String>> {
            Ok(self.0.lock().unwrap().files.keys().cloned().collect())
        }

        fn create(&self, name: &str, bytes: u64) -> io::Result<Box<dyn SegmentFile>> {
            let mut state = self.0.lock().unwrap();
            if state.faults.disk_full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let zeros = vec![0; bytes as usize];
            let contents = Arc::new(Mutex::new(Contents { now: zeros.clone(), synced: zeros }));
            state.files.insert(name.to_owned(), contents.clone());
            Ok(Box::new(MemoryFile(contents, self.clone())))
        }

        fn open(&self, name: &str) -> io::Result<Box<dyn SegmentFile>> {
            let state = self.0.lock().unwrap();
            let contents = state.files.get(name).ok_or(io::ErrorKind::NotFound)?;
            Ok(Box::new(MemoryFile(contents.clone(), self.clone())))
        }

        fn rename(&self, from: &str, to: &str) -> io::Result<()> {
            let mut state = self.0.lock().unwrap();
            let file = state.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
            state.files.insert(to.to_owned(), file);
            Ok(())
        }

        fn remove(&self, name: &str) -> io::Result<()> {
            let removed = self.0.lock().unwrap().files.remove(name);
            removed.map(drop).ok_or(io::ErrorKind::NotFound.into())
        }

        fn read_small(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
            Ok(self.0.lock().unwrap().small.get(name).cloned())
        }

        fn write_small(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
            self.0.lock().unwrap().small.insert(name.to_owned(), bytes.to_vec());
            Ok(())
        }
    }

    impl SegmentFile for MemoryFile {
        fn len(&self) -> io::Result<u64> {
            Ok(self.0.lock().unwrap().now.len() as u64)
        }

        fn write_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
            let at = position as usize;
            self.0.lock().unwrap().now[at..at + bytes.len()].copy_from_slice(bytes);
            Ok(())
        }

        fn read_at(&self, bytes: &mut [u8], position: u64) -> io::Result<()> {
            let contents = self.0.lock().unwrap();
            let at = position as usize;
            let from =
                contents.now.get(at..at + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            bytes.copy_from_slice(from);
            Ok(())
        }

        fn sync(&self) -> io::Result<()> {
            if self.1.0.lock().unwrap().faults.sync_fails {
                return Err(io::Error::other("input/output error"));
            }
            let mut contents = self.0.lock().unwrap();
            contents.synced = contents.now.clone();
            Ok(())
        }
    }
}
