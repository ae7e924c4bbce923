//! Models in memory: loaded once, shared by every endpoint that serves them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use base::{Error, Result};
use forecast::Predictor;

/// Makes a predictor of a model file; `training::load` in the product.
pub type Loader = Arc<dyn Fn(&Path) -> Result<Box<dyn Predictor>> + Send + Sync>;

type Shared = Arc<dyn Predictor>;

/// Loads models, and remembers those in use. A model leaves memory with its last endpoint;
/// a file replaced under the same path is another model, told by its size and time.
pub(crate) struct Models {
    loader: Loader,
    loaded: Mutex<BTreeMap<PathBuf, Entry>>,
}

struct Entry {
    stamp: Stamp,
    model: Weak<dyn Predictor>,
}

#[derive(Clone, Copy, PartialEq)]
struct Stamp {
    bytes: u64,
    modified: Option<SystemTime>,
}

impl Models {
    pub(crate) fn new(loader: Loader) -> Models {
        Models { loader, loaded: Mutex::default() }
    }

    /// The predictor of the file at `path`.
    pub(crate) fn load(&self, path: &Path) -> Result<Shared> {
        let shown = path.file_name().unwrap_or_default().to_string_lossy();
        let meta = std::fs::metadata(path)
            .map_err(|cause| Error::io(format!("model file {shown}"), cause))?;
        let stamp = Stamp { bytes: meta.len(), modified: meta.modified().ok() };
        if let Some(model) = self.remembered(path, stamp) {
            return Ok(model);
        }
        // Not under the lock: a slow load must not hold up an endpoint that shares nothing.
        let model: Shared = Arc::from((self.loader)(path)?);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|_, entry| entry.model.strong_count() > 0);
        loaded.insert(path.to_owned(), Entry { stamp, model: Arc::downgrade(&model) });
        Ok(model)
    }

    fn remembered(&self, path: &Path, stamp: Stamp) -> Option<Shared> {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = loaded.get(path).filter(|entry| entry.stamp == stamp)?;
        entry.model.upgrade()
    }
}

impl std::fmt::Debug for Models {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Models").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use forecast::{Frequency, SeasonalNaive};

    use super::*;

    #[test]
    fn a_model_is_loaded_once_until_its_file_changes_or_nobody_uses_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.tar.gz");
        std::fs::write(&path, b"1").unwrap();
        let models = Models::new(Arc::new(|_: &Path| {
            Ok(Box::new(SeasonalNaive::for_freq(Frequency::HOURLY, 2)?) as Box<dyn Predictor>)
        }));
        let first = models.load(&path).unwrap();
        assert!(Arc::ptr_eq(&first, &models.load(&path).unwrap()));
        std::fs::write(&path, b"22").unwrap();
        let second = models.load(&path).unwrap();
        assert!(!Arc::ptr_eq(&first, &second));
        let gone = Arc::downgrade(&second);
        drop(second);
        assert!(gone.upgrade().is_none());
        std::fs::remove_file(&path).unwrap();
        let error = models.load(&path).err().unwrap();
        assert_eq!(error.kind(), base::ErrorKind::NotFound);
        assert!(!error.to_string().contains(&*dir.path().to_string_lossy()), "{error}");
    }
}
