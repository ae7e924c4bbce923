//! Jobs: graphs as data, their runs, and the commit of what a run made.
//!
//! ```text
//! start_run --spec--> child process --result--> prepare --> publish --> commit
//!    |  nothing new: SUCCEEDED, 0 files           |
//!    |                          before: a crash fails the run, nothing remains
//!    v                          after:  a crash is finished forwards by recover
//! one run of a job at a time
//! ```

mod bookmark;
mod check;
mod commit;
pub(crate) mod graph;
pub(crate) mod node;
pub(crate) mod objects;
mod plan;
pub mod quality;
mod run;
mod trigger;

pub(crate) use bookmark::{
    Reader, Readers, Was, checksum, mark_read, present_readers, readers, unmark, was_read,
};
pub use commit::Recovered;
pub(crate) use commit::{refuse_while_written, sync_folder, sync_folders, sync_staged};
pub(crate) use objects::ObjectsAt;
pub(crate) use plan::inputs_of_runs;
pub use plan::{INPUTS_PER_RUN_MAX, Planned, RunOptions};
pub use run::{JobRun, RunState};
pub use trigger::{
    Cause, Condition, EVERY_SECS, Firing, RETRIES_MAX, Retry, Trigger, TriggerAction, TriggerState,
    When,
};
