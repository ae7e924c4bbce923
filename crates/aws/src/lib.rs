//! The wire of every AWS service but S3: a coat over the rooms, worn nowhere else.
//!
//! ```text
//! request ─▶ front (which service?) ─▶ auth (who?) ─▶ service's table (which operation?)
//!         ─▶ protocol reads the input ─▶ services::X acts on the rooms ─▶ protocol writes the answer
//! ```
//!
//! Invariants
//! * Nothing unsigned is served: [`auth`] stands before every operation, never inside one.
//! * An operation that is not in its service's table answers that service's own word for an
//!   unknown operation; a member that an operation does not know is refused by name. No call
//!   answers success and does nothing.
//! * The tables are the truth: `docs/coverage.md` is written from them, and a test compares.
//! * Wire names, error codes and page tokens end here; the rooms speak plain words.

pub mod auth;
mod call;
pub mod coverage;
mod destinations;
mod fault;
mod front;
pub mod lenient;
pub mod logs;
pub mod metrics;
mod page;
mod protocol;
mod rooms;
mod services;
mod tags;
#[cfg(test)]
mod testing;

pub use auth::Caller;
pub use destinations::Destinations;
pub use front::{Addressee, Front};
pub use rooms::{DATABASE, Rooms, Settings, ensure_database};
pub use services::{
    CatalogSchemas, InvocationLabels, JobRuns, Queries, RunJob, Trainings, answer_invocation,
    capture_table, captured_endpoint, crawl_as_scheduled, start_job_for,
};
