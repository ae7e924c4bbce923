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
//! * The files that a statement writes become true likewise, all or none ([`Lake::write`]).
//! * An input object feeds a job with a bookmark once, also where it was joined with others.
//! * Files of a folder give way to others at once, for those who list as for SQL, and are kept for
//!   a while for those who listed before ([`Lake::finish_compaction`], [`Lake::retain`]).
//! * A crawl never fails because of an object: what is not understood is reported with why.
//!
//! This crate knows no query engine. It says what is asked of one ([`QueryEngine`]).

mod catalog;
mod commits;
mod compact;
mod crawl;
mod engine;
mod glob;
mod hive_path;
mod job;
mod lake;
mod live;
mod retain;
mod schedule;
mod spec;
mod swap;
mod view;
mod write;

pub use catalog::{
    Catalog, Column, Database, FileSource, Format, Partition, RECORDS_PATH, Table, WrittenFile,
    check_columns,
};
pub use commits::{AsOf, CommitKind, TableCommit};
pub use compact::{
    CompactInput, CompactOptions, CompactPlan, CompactResult, CompactSpec, Compacted, Merged,
    compact,
};
pub use crawl::{
    Classifier, ClassifierKind, Crawl, CrawlOutcome, CrawlPolicy, CrawlReport, CrawlSchedule,
    CrawlState, CrawlTarget, Crawler, Decision, DeleteBehavior, LastCrawl, ObjectReport,
    RecrawlBehavior, TableChange, TableGrouping, TableReport, UpdateBehavior,
};
pub use engine::{BytesCutoff, QueryEngine, QueryResult, RowSink, Scanned, SqlOptions, UNNAMED};
pub use hive_path::{NULL_PARTITION, escape, partition_folder, unescape};
pub use job::graph::Job;
pub use job::node::{
    Aggregate, Choice, ChoiceAction, Derived, Function, JoinKey, JoinKind, Keep, Mapping, NoValue,
    Node, OutlierMethod, QualityOutput, QuarantineRule, Range, TargetCompression, TargetFormat,
};
pub use job::objects::ObjectsAt;
pub use job::quality;
pub use job::{
    Cause, Condition, EVERY_SECS, Firing, INPUTS_PER_RUN_MAX, JobRun, Planned, RETRIES_MAX,
    Recovered, Retry, RunOptions, RunState, Trigger, TriggerAction, TriggerState, When,
};
pub use lake::{Lake, TableFile, partition_values};
pub use live::{LIVE, Tail};
pub use retain::{Expired, Retention};
pub use schedule::Schedule;
pub use spec::{
    EtlResult, EtlSpec, SetAside, SetAsideWriter, SourceInput, StagedFile, StagedSample,
};
pub use swap::{PreparedSwap, RecoveredSwaps};
pub use view::View;
pub use write::{FinishedWrite, Write, WriteFile, WriteInto, write_id};
