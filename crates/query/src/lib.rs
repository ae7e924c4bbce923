//! SQL and ETL graphs on DataFusion; the only crate that names it.
//!
//! ```text
//! sql --statement--> one that only reads --tables--> files of the catalog --plan, run--> batches
//! spec --etl/lower--> plan --etl/write--> staged Parquet files
//! ```
//!
//! Invariants
//! * A statement reads tables of the catalog and nothing else: no path, no setting, no
//!   function that opens anything.
//! * A query has bounds: bytes of memory, spill and answer, files, seconds, depth. At a bound
//!   it fails with [`base::ErrorKind::Exhausted`], and alone.
//! * Queries run on threads of their own, with large stacks, so that none can hold up a
//!   connection or overflow into one. A panic in a decoder or operator fails its query.
//! * Dropping the future of a query stops it.

mod as_of;
#[cfg(test)]
mod asked;
mod by_runs;
mod dialect;
mod each_once;
mod engine;
mod error;
mod etl;
mod footers;
mod functions;
mod information;
mod keep_first;
mod late;
mod lateral;
mod meter;
mod moving;
mod once;
mod one_group;
mod operator;
mod parts;
mod pool;
mod reach;
mod read;
mod replace;
mod runs;
mod same_names;
mod session;
mod settle;
mod sliding;
mod statement;
mod tables;
mod zeros;

pub use engine::{Engine, EngineOptions};
pub use etl::run as run_etl;
