//! Many models behind one variant: loaded when they are first asked for, and kept on one shelf
//! for all endpoints, which has so many bytes. The least recently used give way.
//!
//! A model that is on the shelf is served as it was loaded: an archive replaced meanwhile is
//! read only after its model was put away, as SageMaker does.
//!
//! Invariants
//! * The models on the shelf take no more than its bytes together, but for a single one that
//!   is larger than that.
//! * A model is loaded once however many ask for it at the same time.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use base::{Error, ErrorKind, Result};
use forecast::Predictor;

use crate::counters::Counters;
use crate::models::Models;

/// What a model takes beside what it says itself.
const BOOK_BYTES: u64 = 1024;

/// The shelf.
pub(crate) struct Shelf {
    bytes_max: u64,
    models: Arc<Models>,
    books: Mutex<Books>,
    /// Held by whoever loads the model of a path.
    loading: Mutex<HashMap<PathBuf, Arc<Mutex<()>>>>,
}

#[derive(Default)]
struct Books {
    by_path: HashMap<PathBuf, Book>,
    bytes: u64,
    /// Counts uses.
    turn: u64,
}

struct Book {
    bytes: u64,
    model: Arc<dyn Predictor>,
    /// The turn of its last use.
    used: u64,
}

impl Books {
    fn take(&mut self, path: &Path) -> Option<Arc<dyn Predictor>> {
        self.turn += 1;
        let turn = self.turn;
        let book = self.by_path.get_mut(path)?;
        book.used = turn;
        Some(Arc::clone(&book.model))
    }

    fn put(&mut self, path: PathBuf, model: Arc<dyn Predictor>, bytes_max: u64) {
        self.turn += 1;
        let bytes = model.memory_bytes() as u64 + BOOK_BYTES;
        let book = Book { bytes, model, used: self.turn };
        self.bytes += bytes;
        if let Some(before) = self.by_path.insert(path, book) {
            self.bytes -= before.bytes;
        }
        while self.bytes > bytes_max && self.by_path.len() > 1 {
            let oldest = self.by_path.iter().min_by_key(|(_, book)| book.used);
            let Some(path) = oldest.map(|(path, _)| path.clone()) else { return };
            if let Some(book) = self.by_path.remove(&path) {
                self.bytes -= book.bytes;
            }
        }
    }
}

impl Shelf {
    pub(crate) fn new(bytes_max: u64, models: Arc<Models>) -> Shelf {
        Shelf { bytes_max, models, books: Mutex::default(), loading: Mutex::default() }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many models there are and the bytes they take.
    pub(crate) fn held(&self) -> (usize, u64) {
        let books = self.books();
        (books.by_path.len(), books.bytes)
    }

    /// How many models of a folder there are.
    fn held_of(&self, folder: &Path) -> usize {
        self.books().by_path.keys().filter(|path| path.starts_with(folder)).count()
    }

    fn load(&self, path: &Path, counters: &Counters) -> Result<Arc<dyn Predictor>> {
        let started = Instant::now();
        if !path.is_file() {
            return Err(Error::not_found("no such archive"));
        }
        let model = self.models.load(path)?;
        counters.loaded(started.elapsed());
        Ok(model)
    }

    fn get(&self, path: &Path, counters: &Counters) -> Result<Arc<dyn Predictor>> {
        if let Some(model) = self.books().take(path) {
            counters.hit();
            return Ok(model);
        }
        let locked = || self.loading.lock().unwrap_or_else(PoisonError::into_inner);
        let gate = Arc::clone(locked().entry(path.to_owned()).or_default());
        let entered = gate.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever held the gate before may have brought it.
        if let Some(model) = self.books().take(path) {
            counters.hit();
            return Ok(model);
        }
        let loaded = self.load(path, counters);
        if let Ok(model) = &loaded {
            self.books().put(path.to_owned(), Arc::clone(model), self.bytes_max);
        }
        drop(entered);
        // Those who wait at the gate have it still.
        locked().remove(path);
        loaded
    }
}

/// A variant's folder of archives.
pub(crate) struct Folder {
    path: PathBuf,
    /// Whether models stay for the next request.
    keep: bool,
    shelf: Arc<Shelf>,
}

impl Folder {
    pub(crate) fn new(path: &Path, keep: bool, shelf: Arc<Shelf>) -> Folder {
        Folder { path: path.to_owned(), keep, shelf }
    }

    /// How many of its models are in memory.
    pub(crate) fn held(&self) -> usize {
        self.shelf.held_of(&self.path)
    }

    /// The model in the archive `name`, which is relative to the folder.
    pub(crate) fn get(&self, name: &str, counters: &Counters) -> Result<Arc<dyn Predictor>> {
        let missing =
            || Error::not_found(format!("could not find model {name:.200?} of this endpoint"));
        let inner = Path::new(name);
        let plain = inner.components().all(|part| matches!(part, Component::Normal(_)));
        if name.is_empty() || !plain {
            return Err(missing());
        }
        let path = self.path.join(inner);
        let got = match self.keep {
            true => self.shelf.get(&path, counters),
            false => self.shelf.load(&path, counters),
        };
        got.map_err(|cause| match cause.kind() {
            ErrorKind::NotFound => missing(),
            _ => {
                // The cause names the file's place on this machine.
                tracing::warn!(model = name, error = %cause, "a model does not load");
                Error::internal(format!("model {name:.200?} is not a readable archive"))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use forecast::{Forecast, Frequency, PredictOptions, TimeSeries};

    use super::*;

    /// Takes a hundred thousand bytes, as it says.
    struct Large;

    impl Predictor for Large {
        fn freq(&self) -> Frequency {
            Frequency::HOURLY
        }

        fn prediction_length(&self) -> usize {
            1
        }

        fn predict(&self, _: &[TimeSeries], _: &PredictOptions) -> Result<Vec<Forecast>> {
            Ok(Vec::new())
        }

        fn memory_bytes(&self) -> usize {
            100_000
        }
    }

    fn world(bytes_max: u64) -> (tempfile::TempDir, Arc<Shelf>, Arc<AtomicUsize>) {
        let dir = tempfile::tempdir().unwrap();
        for k in 0..6 {
            std::fs::write(dir.path().join(format!("{k}.tar.gz")), b"x").unwrap();
        }
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        std::fs::write(dir.path().join("bad"), b"x").unwrap();
        let loads = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&loads);
        let models = Models::new(Arc::new(move |path: &Path| match path.ends_with("bad") {
            true => Err(Error::new(ErrorKind::Corrupt, "secret place")),
            false => {
                counted.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_millis(5));
                Ok(Box::new(Large) as Box<dyn Predictor>)
            }
        }));
        let shelf = Arc::new(Shelf::new(bytes_max, Arc::new(models)));
        (dir, shelf, loads)
    }

    #[test]
    fn models_are_loaded_on_demand_and_the_least_recently_used_give_way() {
        let (dir, shelf, loads) = world(350_000);
        let folder = Folder::new(dir.path(), true, Arc::clone(&shelf));
        let counters = Counters::default();
        let get = |k: usize| folder.get(&format!("{k}.tar.gz"), &counters).unwrap();
        for k in [0, 1, 2, 0, 3] {
            get(k);
        }
        assert_eq!((shelf.held(), folder.held()), ((3, 303_072), 3));
        assert_eq!(loads.load(Ordering::SeqCst), 4);
        // 1 was used least recently and gave way; 0 was used again and stayed.
        get(0);
        assert_eq!(loads.load(Ordering::SeqCst), 4);
        get(1);
        assert_eq!(loads.load(Ordering::SeqCst), 5);
        let counts = counters.snapshot();
        assert_eq!((counts.loads, counts.hits), (5, 2));
        assert!(counts.load_micros >= 25_000, "{counts:?}");
        // One that is in use lives on although the shelf lets go of it.
        let used = get(4);
        for k in [0, 1, 2, 3] {
            get(k);
        }
        assert_eq!(used.memory_bytes(), 100_000);
    }

    #[test]
    fn a_model_larger_than_the_shelf_is_served_all_the_same() {
        let (dir, shelf, _) = world(50_000);
        let folder = Folder::new(dir.path(), true, Arc::clone(&shelf));
        for k in 0..3 {
            folder.get(&format!("{k}.tar.gz"), &Counters::default()).unwrap();
            assert_eq!(shelf.held().0, 1);
        }
    }

    #[test]
    fn without_a_cache_nothing_stays() {
        let (dir, shelf, loads) = world(1_000_000);
        let folder = Folder::new(dir.path(), false, Arc::clone(&shelf));
        for _ in 0..3 {
            folder.get("0.tar.gz", &Counters::default()).unwrap();
        }
        assert_eq!((shelf.held(), loads.load(Ordering::SeqCst)), ((0, 0), 3));
    }

    #[test]
    fn many_who_ask_at_once_load_it_once() {
        let (dir, shelf, loads) = world(1_000_000);
        let folder = Folder::new(dir.path(), true, Arc::clone(&shelf));
        let ready = Barrier::new(8);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    ready.wait();
                    folder.get("0.tar.gz", &Counters::default()).unwrap();
                });
            }
        });
        assert_eq!(loads.load(Ordering::SeqCst), 1);
        assert!(shelf.loading.lock().unwrap().is_empty());
    }

    #[test]
    fn names_lead_nowhere_else_and_errors_tell_no_place() {
        let (dir, shelf, _) = world(1_000_000);
        let folder = Folder::new(dir.path(), true, shelf);
        let counters = Counters::default();
        for name in ["", "none", "../0.tar.gz", "/etc/passwd", "./x", "folder"] {
            let error = folder.get(name, &counters).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::NotFound, "{name}: {error}");
        }
        let error = folder.get("bad", &counters).err().unwrap();
        assert!(error.kind() == ErrorKind::Internal && !error.to_string().contains("secret"));
    }
}
