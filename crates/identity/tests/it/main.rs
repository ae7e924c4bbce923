//! Identity at its border: folders, kits, handshakes, changes of status.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod folder;
mod foreign;
mod handshake;
mod kit;
mod policies;
mod reference;
mod registry;
mod things;

use std::path::Path;
use std::sync::Arc;

use base::{ManualClock, Timestamp};
use identity::{Authority, Registry};
use metastore::Metastore;

/// 2026-11-23, when the tests take place.
pub(crate) const NOW: Timestamp = Timestamp(1_795_392_000_000);

/// A registry in a folder that can be opened again.
pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) authority: Arc<Authority>,
    pub(crate) registry: Arc<Registry>,
}

pub(crate) fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW));
    let (authority, registry) = open(folder.path(), &clock);
    World { folder, clock, authority, registry }
}

impl World {
    pub(crate) fn reopen(self) -> World {
        let World { folder, clock, authority, registry } = self;
        drop((authority, registry));
        let (authority, registry) = open(folder.path(), &clock);
        World { folder, clock, authority, registry }
    }
}

fn open(folder: &Path, clock: &Arc<ManualClock>) -> (Arc<Authority>, Arc<Registry>) {
    let authority = Authority::open(&folder.join("ca"), clock.clone()).unwrap();
    let store = Metastore::open(&folder.join("forebay.db")).unwrap();
    let registry = Registry::open(store, Arc::clone(&authority), clock.clone()).unwrap();
    (authority, registry)
}
