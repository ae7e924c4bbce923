//! A training's checkpoint as a file beside its model: whole or not at all, every few seconds.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base::Result;

use crate::artifact;

/// How much work a kill may cost.
const EVERY: Duration = Duration::from_secs(2);
/// Writing takes at most a share of this of the training's time.
const SHARE: u32 = 50;
/// No state is larger; what is, is no checkpoint of ours.
const BYTES_MAX: u64 = 4 << 30;

/// Where one training keeps its state.
#[derive(Debug)]
pub(crate) struct CheckpointFile {
    path: PathBuf,
    due: Instant,
    /// Whether what lies there is this training's.
    own: bool,
}

/// The checkpoint of the training whose model goes to `model`.
pub(crate) fn path_beside(model: &Path) -> PathBuf {
    let mut name = OsString::from(model);
    name.push(".checkpoint");
    name.into()
}

impl CheckpointFile {
    pub(crate) fn beside(model: &Path) -> CheckpointFile {
        CheckpointFile { path: path_beside(model), due: Instant::now() + EVERY, own: false }
    }

    /// What an interrupted training left.
    pub(crate) fn read(&mut self) -> Option<Vec<u8>> {
        let meta = std::fs::metadata(&self.path).ok()?;
        let plain = meta.is_file() && meta.len() <= BYTES_MAX;
        let state = plain.then(|| std::fs::read(&self.path).ok())?;
        self.own |= state.is_some();
        state
    }

    pub(crate) fn is_due(&self) -> bool {
        Instant::now() >= self.due
    }

    /// Puts `state` in the place of the last one.
    pub(crate) fn write(&mut self, state: &[u8]) -> Result<()> {
        let begun = Instant::now();
        let written = artifact::replace(&self.path, state);
        self.own |= written.is_ok();
        self.due = Instant::now() + EVERY.max(begun.elapsed() * SHARE);
        written
    }

    /// Clears up after a training. One that failed would fail again, so its state is of no
    /// use; one that failed before it learnt anything leaves what another left.
    pub(crate) fn end(&self, completed: bool) {
        if completed || self.own {
            // What cannot be removed is told apart from another training's by its tag.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_replaced_whole_and_not_too_often() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = CheckpointFile::beside(&folder.path().join("m.tar.gz"));
        assert!(file.read().is_none() && !file.is_due());
        for state in [&b"one"[..], b"two"] {
            file.write(state).unwrap();
            assert_eq!(file.read().unwrap(), state);
            assert!(!file.is_due());
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        CheckpointFile::beside(&folder.path().join("m.tar.gz")).end(false);
        assert!(file.read().is_some(), "a job that did not begin took another's state");
        file.end(false);
        file.end(true);
        assert!(file.read().is_none());
        let mut nowhere = CheckpointFile::beside(Path::new("/proc/none/m.tar.gz"));
        assert!(nowhere.write(b"x").is_err() && nowhere.read().is_none());
    }
}
