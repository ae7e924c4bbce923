//! Tables over objects: catalog, crawler, jobs, commit.
//!
//! ```text
//! objects --crawl--> catalog --plan--> EtlSpec --engine--> EtlResult --prepare, publish, commit--> table
//! ```
//!
//! Invariants
//! * A table written by a job has exactly the files of its committed runs: a run's files, its
//!   rows in the catalog and its bookmark become true in one transaction, or none of them.
//! * A data object appears beneath a table's prefix whole and final; what is being written
//!   lies in the staging folder, outside every bucket.
//! * A run that is prepared is finished forwards, also after a crash at any step; one that is
//!   not leaves nothing but its staging folder, which the next start sweeps.
//! * An input object feeds a job with a bookmark once.
//! * A crawl never fails because of an object: what is not understood is reported with why.
//!
//! This crate knows no query engine. It says what is asked of one ([`QueryEngine`]).

mod catalog;
mod crawl;
mod engine;
mod glob;
mod hive_path;
mod job;
mod lake;
mod schedule;
mod spec;

pub use catalog::{
    Catalog, Column, Database, FileSource, Format, Partition, Table, WrittenFile, check_columns,
};
pub use crawl::{
    Crawl, CrawlOutcome, CrawlReport, CrawlState, Crawler, Decision, LastCrawl, ObjectReport,
    TableChange, TableReport,
};
pub use engine::{QueryEngine, QueryResult, SqlOptions};
pub use hive_path::{NULL_PARTITION, escape, partition_folder, unescape};
pub use job::graph::Job;
pub use job::node::{
    Aggregate, Choice, ChoiceAction, Derived, Function, JoinKey, JoinKind, Keep, Mapping, NoValue,
    Node, OutlierMethod, QualityOutput, QuarantineRule, Range, TargetCompression, TargetFormat,
};
pub use job::quality;
pub use job::{
    Cause, Condition, EVERY_SECS, Firing, INPUTS_PER_RUN_MAX, JobRun, Planned, RETRIES_MAX,
    Recovered, Retry, RunOptions, RunState, Trigger, TriggerAction, TriggerState, When,
};
pub use lake::{Lake, TableFile, partition_values};
pub use schedule::Schedule;
pub use spec::{EtlResult, EtlSpec, SetAside, SetAsideWriter, SourceInput, StagedFile};
