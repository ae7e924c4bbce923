//! The record of training jobs, in the metastore.
//!
//! Invariants
//! * A name is used once; a job that ended never changes again.
//! * A job is in progress only while its process lives: [`reconcile`] finds those whose
//!   process went away with the server that watched it.

use std::path::{Path, PathBuf};

use base::{Error, ErrorKind, Result, Timestamp};
use metastore::{Metastore, Row};
use serde::{Deserialize, Serialize};

use crate::job::{TrainResult, TrainSpec};
use crate::runner;

/// Where a job is; the words of SageMaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobStatus {
    /// Its process runs.
    InProgress,
    /// The model is written.
    Completed,
    /// It failed; the row says why.
    Failed,
    /// It was stopped on request.
    Stopped,
}

/// One training job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainingJob {
    /// Its name, also the row's key.
    pub name: String,
    /// Where it is.
    pub status: JobStatus,
    /// Why it failed.
    pub failure_reason: Option<String>,
    /// What was asked.
    pub spec: TrainSpec,
    /// Where its log and its result lie.
    pub folder: PathBuf,
    /// What came out.
    pub result: Option<TrainResult>,
    /// Its process, once started.
    pub process: Option<Process>,
    /// When it was started.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
}

impl Row for TrainingJob {
    const TABLE: &'static str = "training_jobs";
}

/// A process, told apart from a later one with the same id by when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// Clock ticks from the machine's start to its own.
    pub began: u64,
}

impl Process {
    /// The process `pid` as it runs now; `None` when there is none.
    pub fn running(pid: u32) -> Option<Process> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name may hold brackets and spaces; what follows the last bracket does not.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let alive = !matches!(fields.next()?, "Z" | "X");
        let began = fields.nth(18)?.parse().ok()?;
        alive.then_some(Process { pid, began })
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        Process::running(self.pid) == Some(self)
    }
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// With a model.
    Completed(Box<TrainResult>),
    /// Without one, for this reason.
    Failed(String),
    /// On request.
    Stopped,
}

impl Outcome {
    /// The outcome of a run, its reason in SageMaker's words.
    pub fn of(run: Result<TrainResult>) -> Outcome {
        match run {
            Ok(result) => Outcome::Completed(Box::new(result)),
            Err(error) => Outcome::Failed(failure_reason(&error)),
        }
    }
}

/// A failure as SageMaker's `FailureReason`: whose fault, then what.
pub fn failure_reason(error: &Error) -> String {
    let whose = match error.kind() {
        ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Unsupported => "ClientError",
        _ => "AlgorithmError",
    };
    format!("{whose}: {error}")
}

/// Records a job about to start. A name that was ever used is refused.
pub fn start(
    store: &Metastore,
    name: &str,
    spec: &TrainSpec,
    folder: &Path,
    now: Timestamp,
) -> Result<()> {
    let job = TrainingJob {
        name: name.to_owned(),
        status: JobStatus::InProgress,
        failure_reason: None,
        spec: spec.clone(),
        folder: folder.to_owned(),
        result: None,
        process: None,
        started: now,
        ended: None,
    };
    store.create(name, &job).map(|_| ())
}

/// Records the process that works on the job.
pub fn set_process(store: &Metastore, name: &str, pid: u32) -> Result<()> {
    change(store, name, |job| job.process = Process::running(pid))
}

/// Records the end of a job in progress.
pub fn finish(store: &Metastore, name: &str, outcome: Outcome, now: Timestamp) -> Result<()> {
    change(store, name, |job| {
        job.process = None;
        job.ended = Some(now);
        match outcome {
            Outcome::Completed(result) => {
                job.status = JobStatus::Completed;
                job.result = Some(*result);
            }
            Outcome::Failed(reason) => {
                job.status = JobStatus::Failed;
                job.failure_reason = Some(reason);
            }
            Outcome::Stopped => job.status = JobStatus::Stopped,
        }
    })
}

fn change(store: &Metastore, name: &str, edit: impl FnOnce(&mut TrainingJob)) -> Result<()> {
    store.transact(|transaction| {
        let found = transaction.get::<TrainingJob>(name)?;
        let mut job =
            found.ok_or_else(|| Error::not_found(format!("there is no training job {name}")))?.row;
        if job.status != JobStatus::InProgress {
            let status = job.status;
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("training job {name} is {status:?} already"),
            ));
        }
        edit(&mut job);
        transaction.put(name, &job).map(|_| ())
    })
}

/// Ends the jobs in progress whose process is gone: completed if it left its result, else
/// failed. To be called when nobody watches a job, so at start. Returns their names.
pub fn reconcile(store: &Metastore, now: Timestamp) -> Result<Vec<String>> {
    let mut ended = Vec::new();
    for (name, job) in store.list::<TrainingJob>()? {
        let alive = job.process.is_some_and(Process::is_alive);
        if job.status != JobStatus::InProgress || alive {
            continue;
        }
        let outcome = match runner::left_behind(&job.folder) {
            Ok(Some(result)) => Outcome::Completed(Box::new(result)),
            Ok(None) => Outcome::Failed(
                "AlgorithmError: the training process went away with the server; start it again \
                 under another name"
                    .to_owned(),
            ),
            Err(error) => Outcome::Failed(failure_reason(&error)),
        };
        finish(store, &name, outcome, now)?;
        ended.push(name);
    }
    Ok(ended)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn spec() -> TrainSpec {
        TrainSpec {
            train: "t".into(),
            test: None,
            algorithm: crate::Algorithm::DeepAr,
            hyperparameters: BTreeMap::new(),
            seed: None,
            threads: None,
            model: "m".into(),
            windows: 1,
        }
    }

    pub(crate) fn result() -> TrainResult {
        TrainResult {
            windows: 1,
            epochs: 2,
            best_epoch: 1,
            final_loss: Some(0.5),
            stopped: None,
            cpu_seconds: 1.0,
            wall_seconds: 1.0,
            peak_rss_bytes: 1,
            model_bytes: 1,
            model_sha256: "00".to_owned(),
            test: None,
        }
    }

    fn status(store: &Metastore, name: &str) -> JobStatus {
        store.get::<TrainingJob>(name).unwrap().unwrap().status
    }

    #[test]
    fn a_job_starts_once_and_ends_once() {
        let store = Metastore::in_memory().unwrap();
        let go = || start(&store, "a", &spec(), Path::new("f"), Timestamp(1));
        go().unwrap();
        assert_eq!(go().unwrap_err().kind(), ErrorKind::AlreadyExists);
        finish(&store, "a", Outcome::of(Ok(result())), Timestamp(2)).unwrap();
        let row = store.get::<TrainingJob>("a").unwrap().unwrap().row;
        assert_eq!((row.status, row.ended), (JobStatus::Completed, Some(Timestamp(2))));
        assert_eq!(row.result, Some(result()));
        let again = finish(&store, "a", Outcome::Stopped, Timestamp(3)).unwrap_err();
        assert_eq!(again.kind(), ErrorKind::Conflict);
        let none = finish(&store, "b", Outcome::Stopped, Timestamp(3)).unwrap_err();
        assert_eq!(none.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn reasons_say_whose_fault_it_is() {
        assert_eq!(failure_reason(&Error::invalid("epochs 0")), "ClientError: epochs 0");
        assert_eq!(failure_reason(&Error::internal("x")), "AlgorithmError: x");
    }

    #[test]
    fn jobs_whose_process_is_gone_are_ended() {
        let store = Metastore::in_memory().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let empty = tempfile::tempdir().unwrap();
        for (name, at) in [
            ("dead", empty.path()),
            ("done", folder.path()),
            ("live", empty.path()),
            ("reused", empty.path()),
        ] {
            start(&store, name, &spec(), at, Timestamp(1)).unwrap();
        }
        std::fs::write(folder.path().join("result.json"), serde_json::to_vec(&result()).unwrap())
            .unwrap();
        set_process(&store, "live", std::process::id()).unwrap();
        change(&store, "reused", |job| {
            job.process = Some(Process { pid: std::process::id(), began: 1 });
        })
        .unwrap();
        assert_eq!(reconcile(&store, Timestamp(9)).unwrap(), ["dead", "done", "reused"]);
        assert_eq!(status(&store, "dead"), JobStatus::Failed);
        assert_eq!(status(&store, "done"), JobStatus::Completed);
        assert_eq!(status(&store, "live"), JobStatus::InProgress);
        assert_eq!(status(&store, "reused"), JobStatus::Failed);
        assert!(reconcile(&store, Timestamp(9)).unwrap().is_empty());
    }
}
