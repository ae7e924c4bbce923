//! Rows that survive: one transactional file with compare-and-swap.
//!
//! A room describes a row as a plain serde type with a table name ([`Row`]); this crate keeps
//! it as JSON beside a version number and never asks what it means.
//!
//! Invariants
//! * A transaction is durable when [`Metastore::transact`] returns `Ok`, and leaves no trace
//!   when its closure fails.
//! * One writer at a time: what a transaction read is still so when it commits.
//! * A version is handed out once in the life of the file, also across delete and re-create, so
//!   a compare-and-swap can never mistake a new row for the old one.
//! * After the disk failed once, nothing more is promised: every call answers
//!   [`base::ErrorKind::Unavailable`] until the process opens the file again. An error from a
//!   commit means "unknown", never "absent".
//! * A disk that was merely full has failed nothing that was stored: calls answer
//!   [`base::ErrorKind::Exhausted`] until there is space, and then go on.
//!
//! ```
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Station { city: String }
//! impl metastore::Row for Station { const TABLE: &'static str = "stations"; }
//!
//! let store = metastore::Metastore::in_memory()?;
//! store.create("aotizhongxin", &Station { city: "Beijing".into() })?;
//! let seen = store.get::<Station>("aotizhongxin")?.expect("it was just created");
//! let moved = Station { city: "Tianjin".into() };
//! store.replace("aotizhongxin", seen.version, &moved)?;
//! assert!(store.replace("aotizhongxin", seen.version, &moved).is_err());
//! # Ok::<(), base::Error>(())
//! ```

mod cause;
mod store;
mod transaction;
mod watched;

use std::ops::Deref;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use store::Metastore;
pub use transaction::Transaction;

/// Longest key of a row, in bytes.
pub const KEY_BYTES_MAX: usize = 2_048;

/// Largest row as JSON. Rows describe things; readings and files live elsewhere.
pub const ROW_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Something that is kept: a serde type and the name of the table it lives in.
pub trait Row: Serialize + DeserializeOwned {
    /// Name of the table; two row types never share one.
    const TABLE: &'static str;
}

/// A row as it was read, with the version to hand back to `replace`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versioned<R> {
    /// Grows with every write to the store; never used twice.
    pub version: u64,
    /// The row.
    pub row: R,
}

impl<R> Deref for Versioned<R> {
    type Target = R;

    fn deref(&self) -> &R {
        &self.row
    }
}
