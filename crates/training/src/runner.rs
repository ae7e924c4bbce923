//! A training in a process of its own: the parent's side and the child's.
//!
//! The parent writes `spec.json` into the job's folder and starts
//! `PROGRAM worker train --spec FOLDER/spec.json`. The child logs to standard error and leaves
//! `result.json`, or `failure.json` with the kind and the message of what went wrong.
//!
//! Invariants
//! * The child gives way to the server: it runs at a lower priority where `nice` exists.
//! * No orphans: the parent holds the child's standard input, and the child ends when it is
//!   closed, which the system does even for a parent killed outright.
//! * Every line of the child's log is in `log.txt`, whoever listens.
//! * A child that a signal ends (somebody's kill, or the system's for memory) is started again
//!   from its checkpoint, a few times; what it left unfinished is then finished.

use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind as Io, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::{Clock, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::job::{self, TrainResult, TrainSpec};
use crate::{artifact, checkpoint};

const SPEC: &str = "spec.json";
const RESULT: &str = "result.json";
const FAILURE: &str = "failure.json";
const LOG: &str = "log.txt";

/// How often a killed child is started again. What kills it each time will go on to.
const RESTARTS: u32 = 2;

/// A training under way in a child process. Dropping it kills the child.
#[derive(Debug)]
pub struct Running {
    child: Stopper,
    /// Held open for as long as the child shall live.
    _stdin: Option<ChildStdin>,
    stderr: Option<ChildStderr>,
    program: PathBuf,
    folder: PathBuf,
    /// Where the training keeps its state.
    checkpoint: PathBuf,
    restarts: u32,
}

/// Stops a training from another thread.
#[derive(Clone, Debug)]
pub struct Stopper {
    child: Arc<Mutex<Child>>,
    /// Whether somebody asked; a child that dies meanwhile is not started again.
    wanted: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
}

impl Stopper {
    /// Ends the training now; its model is not written. Nothing happens if it has ended.
    pub fn stop(&self) {
        self.wanted.store(true, Ordering::SeqCst);
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ok(None) = child.try_wait() {
            self.stopped.store(true, Ordering::SeqCst);
            // It can fail only for a child that just ended by itself.
            drop(child.kill());
        }
    }

    /// Whether [`Stopper::stop`] ended it.
    pub fn was_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    fn try_wait(&self) -> std::io::Result<Option<ExitStatus>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).try_wait()
    }
}

/// Starts the training of `spec`; `folder` is made if need be and must be the job's own.
pub fn start(program: &Path, spec: &TrainSpec, folder: &Path) -> Result<Running> {
    let failed = |cause| Error::io(format!("preparing {}", folder.display()), cause);
    std::fs::create_dir_all(folder).map_err(failed)?;
    for old in [RESULT, FAILURE] {
        match std::fs::remove_file(folder.join(old)) {
            Err(cause) if cause.kind() != Io::NotFound => return Err(failed(cause)),
            _ => {}
        }
    }
    if !program.is_file() {
        return Err(Error::not_found(format!("no program at {}", program.display())));
    }
    let path = folder.join(SPEC);
    artifact::replace(&path, &to_json(spec)?)?;
    // Of a training that goes on, the log goes on as well.
    let checkpoint = checkpoint::path_beside(&spec.model);
    if !checkpoint.exists() {
        File::create(folder.join(LOG)).map_err(failed)?;
    }
    let mut child = spawn_politely(program, &path)?;
    Ok(Running {
        _stdin: child.stdin.take(),
        stderr: child.stderr.take(),
        child: Stopper {
            child: Arc::new(Mutex::new(child)),
            wanted: Arc::default(),
            stopped: Arc::default(),
        },
        program: program.to_owned(),
        folder: folder.to_owned(),
        checkpoint,
        restarts: 0,
    })
}

fn spawn_politely(program: &Path, spec: &Path) -> Result<Child> {
    let mut polite = Command::new("nice");
    polite.args(["-n", "10"]).arg(program);
    let spawned = match spawn(polite, spec) {
        Err(cause) if cause.kind() == Io::NotFound => spawn(Command::new(program), spec),
        other => other,
    };
    spawned.map_err(|cause| Error::io(format!("starting {}", program.display()), cause))
}

fn spawn(mut command: Command, spec: &Path) -> std::io::Result<Child> {
    command.args(["worker", "train", "--spec"]).arg(spec);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()
}

impl Running {
    /// The child's process id.
    pub fn pid(&self) -> u32 {
        self.child.child.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// A handle that stops it.
    pub fn stopper(&self) -> Stopper {
        self.child.clone()
    }

    /// Follows the training to its end. `on_line` gets every line of its log.
    pub fn wait(mut self, mut on_line: impl FnMut(&str)) -> Result<TrainResult> {
        let (last, status) = loop {
            let last = self.follow(&mut on_line)?;
            let status = self.ended()?;
            if !self.start_again(status)? {
                break (last, status);
            }
            on_line("The training process was killed; it goes on from its checkpoint");
        };
        if self.child.was_stopped() {
            return Err(Error::new(ErrorKind::Unavailable, "the training was stopped on request"));
        }
        match left_behind(&self.folder)? {
            Some(result) if status.success() => Ok(result),
            _ => {
                let said =
                    if last.is_empty() { String::new() } else { format!("; it last said: {last}") };
                Err(Error::internal(format!("the training process ended with {status}{said}")))
            }
        }
    }

    fn ended(&self) -> Result<ExitStatus> {
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                Err(cause) => return Err(Error::io("waiting for the training", cause)),
            }
        }
    }

    /// Starts a killed child again if it left a checkpoint and nobody wanted it stopped.
    fn start_again(&mut self, status: ExitStatus) -> Result<bool> {
        // A signal leaves no exit code.
        let killed = status.code().is_none();
        if !killed || self.restarts == RESTARTS || !self.checkpoint.exists() {
            return Ok(false);
        }
        let mut place = self.child.child.lock().unwrap_or_else(PoisonError::into_inner);
        // Asked under the lock: a stop that comes now finds the new child, and one that found
        // the old one dead has left its wish.
        if self.child.wanted.load(Ordering::SeqCst) {
            self.child.stopped.store(true, Ordering::SeqCst);
            return Ok(false);
        }
        let mut child = spawn_politely(&self.program, &self.folder.join(SPEC))?;
        self._stdin = child.stdin.take();
        self.stderr = child.stderr.take();
        *place = child;
        self.restarts += 1;
        Ok(true)
    }

    /// Copies the child's log until it closes it; returns the last line.
    fn follow(&mut self, on_line: &mut dyn FnMut(&str)) -> Result<String> {
        let failed = |cause| Error::io("following the training's log", cause);
        let log = File::options().append(true).create(true).open(self.folder.join(LOG));
        let mut log = log.map_err(failed)?;
        let Some(stderr) = self.stderr.take() else { return Ok(String::new()) };
        let (mut reader, mut bytes, mut last) = (BufReader::new(stderr), Vec::new(), String::new());
        loop {
            bytes.clear();
            if reader.read_until(b'\n', &mut bytes).map_err(failed)? == 0 {
                return Ok(last);
            }
            log.write_all(&bytes).map_err(failed)?;
            last = String::from_utf8_lossy(&bytes).trim_end().to_owned();
            on_line(&last);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.stop();
        // A killed child is gone at once; collecting it leaves no zombie.
        let mut child = self.child.child.lock().unwrap_or_else(PoisonError::into_inner);
        drop(child.wait());
    }
}

/// Trains in a child process and waits for it: [`start`], then [`Running::wait`].
pub fn run_in_child(
    program: &Path,
    spec: &TrainSpec,
    folder: &Path,
    on_line: impl FnMut(&str),
) -> Result<TrainResult> {
    start(program, spec, folder)?.wait(on_line)
}

/// What a training process left in its folder: a result, nothing, or, as the error, why it
/// failed.
pub fn left_behind(folder: &Path) -> Result<Option<TrainResult>> {
    if let Some(failure) = from_json::<Failure>(&folder.join(FAILURE))? {
        return Err(failure.into());
    }
    from_json(&folder.join(RESULT))
}

/// The child's side, behind `worker train --spec FILE`: runs the job and leaves its result or
/// its failure beside the spec. Ends the process when standard input closes.
pub fn work(spec: &Path, clock: &dyn Clock) -> Result<()> {
    end_with_parent();
    let folder = spec.parent().unwrap_or(Path::new("."));
    let outcome = from_json::<TrainSpec>(spec)
        .and_then(|found| found.ok_or_else(|| Error::not_found(format!("no {}", spec.display()))))
        .and_then(|spec| job::run(&spec, clock, &mut to_stderr));
    match outcome {
        Ok(result) => artifact::replace(&folder.join(RESULT), &to_json(&result)?),
        Err(error) => {
            to_stderr(&crate::jobs::failure_reason(&error));
            artifact::replace(&folder.join(FAILURE), &to_json(&Failure::from(&error))?)?;
            Err(error)
        }
    }
}

fn to_stderr(line: &str) {
    // A log nobody reads any more must not end the training; a vanished parent does.
    drop(writeln!(std::io::stderr(), "{line}"));
}

fn end_with_parent() {
    std::thread::spawn(|| {
        drop(std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
        std::process::exit(1);
    });
}

/// An error on its way between processes.
#[derive(Debug, Serialize, Deserialize)]
struct Failure {
    kind: String,
    message: String,
}

impl From<&Error> for Failure {
    fn from(error: &Error) -> Failure {
        Failure { kind: error.kind().as_str().to_owned(), message: error.to_string() }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Error {
        let kinds = [
            ErrorKind::Invalid,
            ErrorKind::NotFound,
            ErrorKind::AlreadyExists,
            ErrorKind::Conflict,
            ErrorKind::Denied,
            ErrorKind::Exhausted,
            ErrorKind::Unavailable,
            ErrorKind::Unsupported,
            ErrorKind::Corrupt,
        ];
        let kind = kinds.into_iter().find(|kind| kind.as_str() == failure.kind);
        Error::new(kind.unwrap_or(ErrorKind::Internal), failure.message)
    }
}

fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_vec_pretty(value)
        .map_err(|cause| Error::internal("writing JSON").with_source(cause))
}

fn from_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(cause) if cause.kind() == Io::NotFound => return Ok(None),
        Err(cause) => return Err(Error::io(path.display(), cause)),
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|cause| {
        Error::new(ErrorKind::Corrupt, format!("{}: {cause}", path.display())).with_source(cause)
    })
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    use super::*;
    use crate::jobs::Process;

    /// A job that never ran left nothing; started by [`worker`], this is the child's side.
    #[test]
    fn child() {
        let Some(spec) = std::env::var_os("TRAINING_TEST_SPEC") else {
            assert_eq!(left_behind(Path::new("no-such-job")).unwrap(), None);
            return;
        };
        let failed = work(Path::new(&spec), &base::SystemClock).is_err();
        std::process::exit(i32::from(failed));
    }

    /// A program at `folder/program` whose body is `script`; `$4` is the spec.
    fn program(folder: &Path, script: &str) -> PathBuf {
        let path = folder.join("program");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    /// A program that trains for real, by way of this test binary.
    fn worker(folder: &Path) -> PathBuf {
        let tests = std::env::current_exe().unwrap();
        let run = "--exact runner::tests::child --nocapture --test-threads 1";
        program(folder, &format!("TRAINING_TEST_SPEC=\"$4\" exec '{}' {run}", tests.display()))
    }

    #[test]
    fn a_child_trains_and_hands_back_result_log_and_model() {
        let folder = tempfile::tempdir().unwrap();
        let spec = job::tests::small(folder.path());
        let mut lines = 0;
        let job = folder.path().join("job");
        let result = run_in_child(&worker(folder.path()), &spec, &job, |_| lines += 1).unwrap();
        assert!(result.epochs == 2 && result.peak_rss_bytes > 0);
        assert!(crate::load(&spec.model).is_ok());
        let log = std::fs::read_to_string(job.join(LOG)).unwrap();
        assert_eq!(log.lines().count(), lines);
        assert!(log.contains("#quality_metric"), "{log}");
    }

    #[test]
    fn a_failure_keeps_its_kind_and_words() {
        let folder = tempfile::tempdir().unwrap();
        let mut spec = job::tests::small(folder.path());
        spec.hyperparameters.insert("epochs".to_owned(), "none".to_owned());
        let job = folder.path().join("job");
        let error = run_in_child(&worker(folder.path()), &spec, &job, |_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("epochs"), "{error}");
        assert!(left_behind(&job).is_err() && !spec.model.exists());
    }

    #[test]
    fn a_crash_is_told_with_how_it_ended_and_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let spec = job::tests::small(folder.path());
        for (script, word) in [
            ("echo out of luck >&2; kill -9 $$", "signal: 9"),
            ("echo out of luck >&2; exit 4", "exit status: 4"),
            ("echo out of luck >&2; exit 0", "exit status: 0"),
        ] {
            let job = folder.path().join("job");
            let made = program(folder.path(), script);
            let error = run_in_child(&made, &spec, &job, |_| ()).unwrap_err().to_string();
            assert!(error.contains(word) && error.contains("out of luck"), "{error}");
        }
        let none = folder.path().join("no-such-program");
        assert!(run_in_child(&none, &spec, folder.path(), |_| ()).is_err());
    }

    /// A few seconds of training, so that a checkpoint is due.
    fn longer(folder: &Path) -> TrainSpec {
        let mut spec = job::tests::small(folder);
        for (name, value) in [("epochs", "30"), ("num_cells", "40"), ("num_layers", "2")] {
            spec.hyperparameters.insert(name.to_owned(), value.to_owned());
        }
        spec
    }

    #[test]
    fn f1_a_killed_child_goes_on_from_its_checkpoint_to_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let spec = longer(folder.path());
        let program = worker(folder.path());
        let job = folder.path().join("job");
        let whole = run_in_child(&program, &spec, &job, |_| ()).unwrap();
        let checkpoint = checkpoint::path_beside(&spec.model);
        assert!(!checkpoint.exists(), "a checkpoint outlives its training");

        let running = start(&program, &spec, &job).unwrap();
        let child = Arc::clone(&running.child.child);
        let (mut kills, mut resumed) = (0, 0);
        let result = running
            .wait(|line| {
                resumed += u32::from(line.contains("Going on from a checkpoint"));
                if kills == resumed && kills < RESTARTS && checkpoint.exists() {
                    kills += 1;
                    child.lock().unwrap().kill().unwrap();
                }
            })
            .unwrap();
        assert_eq!((kills, resumed), (RESTARTS, RESTARTS));
        assert_eq!(result.model_sha256, whole.model_sha256);
        assert!(!checkpoint.exists());

        // Killed once more than is forgiven, it fails and says so.
        let running = start(&program, &spec, &job).unwrap();
        let child = Arc::clone(&running.child.child);
        let error = running.wait(|_| {
            if checkpoint.exists() {
                drop(child.lock().unwrap().kill());
            }
        });
        let error = error.unwrap_err().to_string();
        assert!(error.contains("signal: 9"), "{error}");
    }

    #[test]
    fn a_training_can_be_stopped_and_ends_with_its_parent() {
        let folder = tempfile::tempdir().unwrap();
        let mut spec = job::tests::small(folder.path());
        spec.hyperparameters.insert("epochs".to_owned(), "100000".to_owned());
        let program = worker(folder.path());
        let running = start(&program, &spec, &folder.path().join("job")).unwrap();
        let stopper = running.stopper();
        assert!(Process::running(running.pid()).is_some());
        let error = running.wait(|line| {
            if line.contains("epoch=0") {
                stopper.stop();
            }
        });
        assert!(error.unwrap_err().to_string().contains("stopped on request"));
        assert!(!spec.model.exists());

        let mut running = start(&program, &spec, &folder.path().join("job")).unwrap();
        let stderr = running.stderr.take().unwrap();
        let mut lines = BufReader::new(stderr).lines();
        assert!(lines.any(|line| line.unwrap().contains("epoch=0")));
        // What the system does for a parent that was killed.
        drop(running._stdin.take());
        let begun = Instant::now();
        while running.child.try_wait().unwrap().is_none() {
            assert!(begun.elapsed() < Duration::from_secs(20), "it lives on");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(!running.child.was_stopped());
    }
}
