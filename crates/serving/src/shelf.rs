//! Many models behind one variant: loaded when they are first asked for, the least used put
//! away when there are too many.
//!
//! A model that is on the shelf is served as it was loaded: an archive replaced meanwhile is
//! read only after its model was put away, as SageMaker does.

use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base::{Error, ErrorKind, Result};
use forecast::Predictor;

use crate::models::Models;

/// Most models of one variant in memory.
const MODELS_MAX: usize = 16;
/// Most bytes their archives may have together.
const BYTES_MAX: u64 = 512 << 20;

pub(crate) struct Shelf {
    folder: PathBuf,
    /// Whether models stay for the next request.
    keep: bool,
    models: Arc<Models>,
    /// The one used last stands last.
    loaded: Mutex<Vec<Book>>,
}

struct Book {
    name: String,
    bytes: u64,
    model: Arc<dyn Predictor>,
}

impl Shelf {
    pub(crate) fn new(folder: &Path, keep: bool, models: Arc<Models>) -> Shelf {
        Shelf { folder: folder.to_owned(), keep, models, loaded: Mutex::default() }
    }

    /// The model in the archive `name`, which is relative to the folder.
    pub(crate) fn get(&self, name: &str) -> Result<Arc<dyn Predictor>> {
        if let Some(model) = self.known(name) {
            return Ok(model);
        }
        let missing =
            || Error::not_found(format!("could not find model {name:.200?} of this endpoint"));
        let inner = Path::new(name);
        let plain = inner.components().all(|part| matches!(part, Component::Normal(_)));
        if name.is_empty() || !plain {
            return Err(missing());
        }
        let path = self.folder.join(inner);
        let bytes = match std::fs::metadata(&path) {
            Ok(meta) if meta.is_file() => meta.len(),
            _ => return Err(missing()),
        };
        let model = self.models.load(&path).map_err(|cause| match cause.kind() {
            ErrorKind::NotFound => missing(),
            _ => {
                // The cause names the file's place on this machine.
                tracing::warn!(model = name, error = %cause, "a model does not load");
                Error::internal(format!("model {name:.200?} is not a readable archive"))
            }
        })?;
        if self.keep {
            self.put(Book { name: name.to_owned(), bytes, model: Arc::clone(&model) });
        }
        Ok(model)
    }

    fn known(&self, name: &str) -> Option<Arc<dyn Predictor>> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let at = loaded.iter().position(|book| book.name == name)?;
        let book = loaded.remove(at);
        let model = Arc::clone(&book.model);
        loaded.push(book);
        Some(model)
    }

    fn put(&self, book: Book) {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|have| have.name != book.name);
        loaded.push(book);
        while loaded.len() > MODELS_MAX
            || (loaded.len() > 1 && loaded.iter().map(|book| book.bytes).sum::<u64>() > BYTES_MAX)
        {
            loaded.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use forecast::{Frequency, SeasonalNaive};

    use super::*;

    #[test]
    fn models_are_loaded_on_demand_and_the_least_used_is_put_away() {
        let dir = tempfile::tempdir().unwrap();
        for k in 0..MODELS_MAX + 2 {
            std::fs::write(dir.path().join(format!("{k}.tar.gz")), b"x").unwrap();
        }
        std::fs::write(dir.path().join("bad"), b"x").unwrap();
        let models = Models::new(Arc::new(|path: &Path| match path.ends_with("bad") {
            true => Err(Error::new(ErrorKind::Corrupt, "secret place")),
            false => {
                Ok(Box::new(SeasonalNaive::for_freq(Frequency::HOURLY, 2)?) as Box<dyn Predictor>)
            }
        }));
        let shelf = Shelf::new(dir.path(), true, Arc::new(models));
        let first = Arc::downgrade(&shelf.get("0.tar.gz").unwrap());
        for k in 1..MODELS_MAX {
            shelf.get(&format!("{k}.tar.gz")).unwrap();
        }
        shelf.get("0.tar.gz").unwrap();
        shelf.get(&format!("{MODELS_MAX}.tar.gz")).unwrap();
        assert!(first.upgrade().is_some(), "it was used last");
        assert!(!shelf.loaded.lock().unwrap().iter().any(|book| book.name == "1.tar.gz"));
        for name in ["", "none", "../0.tar.gz", "/etc/passwd", "./x"] {
            assert_eq!(shelf.get(name).err().unwrap().kind(), ErrorKind::NotFound, "{name}");
        }
        let error = shelf.get("bad").err().unwrap();
        assert!(error.kind() == ErrorKind::Internal && !error.to_string().contains("secret"));
    }
}
