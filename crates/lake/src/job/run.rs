//! Jobs and their runs as rows.
//!
//! A job has at most one run that is not over. Everything that ends a run also frees its job,
//! in the same transaction.

use std::fmt;

use base::{Error, ErrorKind, Result, Timestamp};
use metastore::{Row, Transaction};
use serde::{Deserialize, Serialize};

use super::bookmark::Bookmark;
use super::commit::PreparedRun;
use super::plan::RunPlan;
use super::trigger::{Cause, RETRIES_MAX, Retry, retry_later};
use crate::catalog::delete_all;
use crate::{Job, Lake};

/// Runs of a job that are remembered.
const RUNS_KEPT: usize = 500;
/// Longest name of a job, Glue's bound.
const NAME_BYTES_MAX: usize = 255;

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RunState {
    /// It is planned; its process is not there yet.
    Starting,
    /// Its process runs, or its files are being published.
    Running,
    /// Its rows are in the table.
    Succeeded,
    /// It ended without a trace in the table.
    Failed,
    /// It was ended on request, without a trace in the table.
    Stopped,
}

impl RunState {
    /// Whether the run is over.
    pub fn is_final(self) -> bool {
        matches!(self, RunState::Succeeded | RunState::Failed | RunState::Stopped)
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RunState::Starting => "STARTING",
            RunState::Running => "RUNNING",
            RunState::Succeeded => "SUCCEEDED",
            RunState::Failed => "FAILED",
            RunState::Stopped => "STOPPED",
        })
    }
}

/// One run of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobRun {
    /// `jr_` and 64 hex digits.
    pub run_id: String,
    /// The job.
    pub job: String,
    /// Where it stands.
    pub state: RunState,
    /// When it was asked for.
    pub started_at: Timestamp,
    /// When it was over.
    pub finished_at: Option<Timestamp>,
    /// Why it failed.
    pub error: Option<String>,
    /// Input objects it reads.
    pub files_in: u64,
    /// New input objects beyond the bound of one run, left to the next.
    pub files_left: u64,
    /// Input objects it left out because their bytes are not those that were stored. A later
    /// run reads them once they have been put again.
    #[serde(default)]
    pub files_altered: u64,
    /// Their names, `BUCKET/KEY`: the first hundred.
    #[serde(default)]
    pub altered: Vec<String>,
    /// Bytes it read.
    pub bytes_in: u64,
    /// Rows it read.
    pub rows_in: u64,
    /// Files it added to the table.
    pub files_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Their rows.
    pub rows_out: u64,
    /// Records that could not be read as rows.
    pub set_aside: u64,
    /// The object that has those records, in the target's bucket.
    pub set_aside_key: Option<String>,
    /// Which attempt it is: 0 is the first.
    #[serde(default)]
    pub attempt: u32,
    /// The run that failed before it.
    #[serde(default)]
    pub previous: Option<String>,
    /// The trigger that started it.
    #[serde(default)]
    pub trigger: Option<String>,
}

impl Row for JobRun {
    const TABLE: &'static str = "job_runs";
}

impl JobRun {
    pub(super) fn new(run_id: String, job: &str, started_at: Timestamp) -> Self {
        JobRun {
            run_id,
            job: job.to_owned(),
            state: RunState::Starting,
            started_at,
            finished_at: None,
            error: None,
            files_in: 0,
            files_left: 0,
            files_altered: 0,
            altered: Vec::new(),
            bytes_in: 0,
            rows_in: 0,
            files_out: 0,
            bytes_out: 0,
            rows_out: 0,
            set_aside: 0,
            set_aside_key: None,
            attempt: 0,
            previous: None,
            trigger: None,
        }
    }
}

/// The run of a job that is not over.
#[derive(Serialize, Deserialize)]
pub(super) struct Active {
    pub(super) run_id: String,
}

impl Row for Active {
    const TABLE: &'static str = "job_active";
}

pub(super) fn run_key(job: &str, run_id: &str) -> String {
    format!("{job}/{run_id}")
}

impl Lake {
    /// Stores a new job.
    pub fn create_job(&self, job: &Job) -> Result<()> {
        check_job(job)?;
        self.store().create(&job.name, job).map(drop)
    }

    /// Replaces a job's graph. A run under way goes on with the graph it began with.
    pub fn update_job(&self, job: &Job) -> Result<()> {
        check_job(job)?;
        self.store().transact(|transaction| match transaction.get::<Job>(&job.name)? {
            Some(_) => transaction.put(&job.name, job).map(drop),
            None => Err(no_job(&job.name)),
        })
    }

    /// A job.
    pub fn get_job(&self, name: &str) -> Result<Job> {
        match self.store().get::<Job>(name)? {
            Some(found) => Ok(found.row),
            None => Err(no_job(name)),
        }
    }

    /// All jobs by name.
    pub fn list_jobs(&self) -> Result<Vec<Job>> {
        Ok(self.store().list::<Job>()?.into_iter().map(|(_, found)| found.row).collect())
    }

    /// Forgets a job, its runs and its bookmark. What it wrote stays.
    pub fn delete_job(&self, name: &str) -> Result<()> {
        self.store().transact(|transaction| {
            refuse_while_active(transaction, name)?;
            if !transaction.delete::<Job>(name)? {
                return Err(no_job(name));
            }
            let rows = format!("{name}/");
            delete_all::<JobRun>(transaction, &rows)?;
            transaction.delete::<Retry>(name)?;
            delete_all::<Bookmark>(transaction, &rows)
        })
    }

    /// Forgets which objects a job has read: its next run reads everything again and appends
    /// it to what is there.
    pub fn reset_bookmark(&self, name: &str) -> Result<()> {
        self.store().transact(|transaction| {
            refuse_while_active(transaction, name)?;
            if transaction.get::<Job>(name)?.is_none() {
                return Err(no_job(name));
            }
            delete_all::<Bookmark>(transaction, &format!("{name}/"))
        })
    }

    /// A run.
    pub fn get_run(&self, job: &str, run_id: &str) -> Result<JobRun> {
        match self.store().get::<JobRun>(&run_key(job, run_id))? {
            Some(found) => Ok(found.row),
            None => Err(no_run(job, run_id)),
        }
    }

    /// The runs of a job, newest first.
    pub fn list_runs(&self, job: &str) -> Result<Vec<JobRun>> {
        self.get_job(job)?;
        let found = self.store().list_prefix::<JobRun>(&format!("{job}/"))?;
        let mut runs: Vec<JobRun> = found.into_iter().map(|(_, found)| found.row).collect();
        runs.sort_by(|a, b| (b.started_at, &b.run_id).cmp(&(a.started_at, &a.run_id)));
        Ok(runs)
    }

    /// Says that the run's process is there.
    pub fn run_started(&self, job: &str, run_id: &str) -> Result<()> {
        self.store().transact(|transaction| {
            let mut run = unfinished(transaction, job, run_id)?;
            run.state = RunState::Running;
            transaction.put(&run_key(job, run_id), &run).map(drop)
        })
    }

    /// Ends a run that failed. Refused once it is prepared: then it is finished instead.
    pub fn fail_run(&self, job: &str, run_id: &str, why: &str) -> Result<JobRun> {
        self.end_run(job, run_id, RunState::Failed, Some(why.to_owned()))
    }

    /// Ends a run whose process was ended on request. Refused once it is prepared.
    pub fn stop_run(&self, job: &str, run_id: &str) -> Result<JobRun> {
        self.end_run(job, run_id, RunState::Stopped, None)
    }

    fn end_run(
        &self,
        job: &str,
        run_id: &str,
        state: RunState,
        error: Option<String>,
    ) -> Result<JobRun> {
        let now = self.clock().now();
        let ended = self.store().transact(|transaction| {
            let mut run = unfinished(transaction, job, run_id)?;
            if transaction.get::<PreparedRun>(run_id)?.is_some() {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("run {run_id} of {job:?} is being committed and can only be finished"),
                ));
            }
            run.state = state;
            run.error = error;
            run.finished_at = Some(now);
            transaction.put(&run_key(job, run_id), &run)?;
            free(transaction, job, run_id)?;
            if state == RunState::Failed {
                retry_later(transaction, &run, now)?;
            }
            Ok(run)
        })?;
        self.sweep_run(run_id);
        Ok(ended)
    }
}

/// Takes the job for a new run; [`ErrorKind::Conflict`] while another is not over.
pub(super) fn take(
    transaction: &mut Transaction<'_>,
    run: &JobRun,
    cause: &Cause,
) -> Result<JobRun> {
    refuse_while_active(transaction, &run.job)?;
    let mut run = run.clone();
    cause.cross_off(transaction, &mut run)?;
    transaction.put(&run.job, &Active { run_id: run.run_id.clone() })?;
    transaction.create(&run_key(&run.job, &run.run_id), &run)?;
    forget_oldest(transaction, &run.job)?;
    Ok(run)
}

/// Lets the job go, and with it what was kept for the run only.
pub(super) fn free(transaction: &mut Transaction<'_>, job: &str, run_id: &str) -> Result<()> {
    transaction.delete::<Active>(job)?;
    transaction.delete::<RunPlan>(run_id)?;
    Ok(())
}

/// The run, if it is not over.
pub(super) fn unfinished(transaction: &Transaction<'_>, job: &str, run_id: &str) -> Result<JobRun> {
    match transaction.get::<JobRun>(&run_key(job, run_id))? {
        None => Err(no_run(job, run_id)),
        Some(run) if run.state.is_final() => Err(Error::new(
            ErrorKind::Conflict,
            format!("run {run_id} of {job:?} is over: {}", run.state),
        )),
        Some(run) => Ok(run.row),
    }
}

fn refuse_while_active(transaction: &Transaction<'_>, job: &str) -> Result<()> {
    match transaction.get::<Active>(job)? {
        None => Ok(()),
        Some(active) => Err(Error::new(
            ErrorKind::Conflict,
            format!("job {job:?} is running ({}); wait for it or stop it", active.run_id),
        )),
    }
}

fn forget_oldest(transaction: &mut Transaction<'_>, job: &str) -> Result<()> {
    let mut runs = transaction.list_prefix::<JobRun>(&format!("{job}/"))?;
    runs.retain(|(_, run)| run.state.is_final());
    runs.sort_by_key(|(_, run)| run.started_at);
    for (key, _) in runs.iter().take(runs.len().saturating_sub(RUNS_KEPT)) {
        transaction.delete::<JobRun>(key)?;
    }
    Ok(())
}

fn check_job(job: &Job) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || " _.-".contains(c);
    let name = &job.name;
    let odd = name.starts_with(['.', ' ']) || !name.chars().all(allowed);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || odd {
        return Err(Error::invalid(format!(
            "{name:?} is not a job name; use 1 to {NAME_BYTES_MAX} letters, digits, ' ', '_', \
             '.' and '-', not beginning with '.' or ' '"
        )));
    }
    if job.max_retries > RETRIES_MAX {
        return Err(Error::invalid(format!(
            "job {name:?} has max_retries {}; at most {RETRIES_MAX}",
            job.max_retries
        )));
    }
    job.check().map(drop)
}

fn no_job(name: &str) -> Error {
    Error::not_found(format!("there is no job {name:?}"))
}

pub(super) fn no_run(job: &str, run_id: &str) -> Error {
    Error::not_found(format!("job {job:?} has no run {run_id:?}"))
}
