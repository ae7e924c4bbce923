//! How many bytes of disk each kind of data takes.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a walk through the lake is good for, and how many times as long as it took: a lake of
/// millions of objects is not walked for every look at the metrics.
const GOOD_FOR: Duration = Duration::from_secs(30);
const GOOD_FOR_TIMES: u32 = 100;

/// The unit of `st_blocks`, whatever the file system's own is.
const BLOCK_BYTES: u64 = 512;

/// Bytes on disk, by what they are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DiskUse {
    pub(crate) journal: u64,
    pub(crate) lake: u64,
    pub(crate) database: u64,
}

/// The last walk through the lake.
#[derive(Debug, Default)]
pub(crate) struct Walked(Mutex<Option<Walk>>);

#[derive(Clone, Copy, Debug)]
struct Walk {
    at: Instant,
    took: Duration,
    bytes: u64,
}

impl Walked {
    /// Measures a data directory. Waits for the disk.
    pub(crate) fn measure(&self, data_dir: &Path) -> DiskUse {
        // Held meanwhile, so that two who ask at once walk once.
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_good = |walk: &Walk| walk.at.elapsed() < GOOD_FOR.max(walk.took * GOOD_FOR_TIMES);
        let walk = last.filter(is_good).unwrap_or_else(|| {
            let started = Instant::now();
            let bytes = bytes_below(&data_dir.join(crate::LAKE_FOLDER));
            Walk { at: Instant::now(), took: started.elapsed(), bytes }
        });
        *last = Some(walk);
        DiskUse {
            journal: bytes_below(&data_dir.join(crate::JOURNAL_FOLDER)),
            lake: walk.bytes,
            database: bytes_below(&data_dir.join(crate::DATABASE_FILE)),
        }
    }
}

/// Bytes that the files at and below a path take. What goes meanwhile takes none; links are
/// looked at and not followed.
fn bytes_below(path: &Path) -> u64 {
    let Ok(meta) = path.symlink_metadata() else { return 0 };
    let own = meta.blocks() * BLOCK_BYTES;
    if !meta.is_dir() {
        return own;
    }
    let Ok(entries) = std::fs::read_dir(path) else { return own };
    own + entries.flatten().map(|entry| bytes_below(&entry.path())).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_on_disk_is_measured_by_its_blocks() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join(crate::LAKE_FOLDER).join("bucket/a/b");
        std::fs::create_dir_all(&deep).unwrap();
        std::fs::write(deep.join("object"), vec![7; 100_000]).unwrap();
        std::os::unix::fs::symlink("/", deep.join("out")).unwrap();
        std::fs::write(folder.path().join(crate::DATABASE_FILE), vec![7; 10_000]).unwrap();
        let walked = Walked::default();
        let found = walked.measure(folder.path());
        assert!((100_000..200_000).contains(&found.lake), "{found:?}");
        assert!((10_000..20_000).contains(&found.database), "{found:?}");
        assert_eq!(found.journal, 0);
        // The lake is not walked again at once, the rest is looked at.
        std::fs::write(deep.join("more"), vec![7; 100_000]).unwrap();
        std::fs::remove_file(folder.path().join(crate::DATABASE_FILE)).unwrap();
        assert_eq!(walked.measure(folder.path()), DiskUse { database: 0, ..found });
    }
}
