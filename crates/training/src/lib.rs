//! Training jobs around an estimator: data channels in, a child process, a model file out.
//!
//! Invariants
//! * A model file appears whole or not at all, and the same data, settings and machine give
//!   the same bytes.
//! * A model file is read as a stream of declared members with bounds; nothing is unpacked.
//! * A model never goes without its measure: what it scored on held-back data, and what the
//!   seasonal naive scored there, are inside the file.
//! * A training that crashes takes no server with it: it runs in a process of its own.

pub mod artifact;
pub mod channel;
mod checkpoint;
mod engine;
pub mod job;
pub mod jobs;
mod reproduce;
pub mod runner;
mod spool;
pub mod table;

pub use engine::{Algorithm, load};
pub use job::{TestScores, TrainResult, TrainSpec};
pub use jobs::{JobStatus, TrainingJob};
pub use reproduce::{Change, Reproduction, reproduce};
pub use spool::ABOVE_BYTES;
