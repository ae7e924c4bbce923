//! A few threads for work that blocks, behind a bounded queue.
//!
//! Invariants
//! * A full queue refuses at once; nothing waits for room.
//! * Where waits are kept short, a queue that was full is a short one until a second has passed in
//!   which nobody was refused. A burst, or clients that each wait for their answer, fill the queue
//!   at most and are all answered; who sends more than can be answered would keep it full, and
//!   everybody let in would wait for all before him.
//! * A task that panics costs its own answer, not the thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base::{Error, ErrorKind, Result};

type Task = Box<dyn FnOnce() + Send>;

/// How long a queue that was full stays a short one after the last refusal.
const SHORT_FOR: Duration = Duration::from_secs(1);

/// How many wait for each thread in a short queue.
const SHORT: usize = 2;

/// What the threads of a pool are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Somebody waits for it. Dropping the pool runs what is queued and waits for the threads.
    Owed,
    /// It may never end, since a model nobody trusts yet does it: dropping the pool leaves the
    /// threads to themselves.
    Doubtful,
    /// Nobody waits for it, and it must take nothing from those who do: the threads run only
    /// when a processor is idle. They are left to themselves too.
    Idle,
}

/// Runs tasks in the order they came, on a fixed number of threads.
#[derive(Debug)]
pub(crate) struct Pool {
    tasks: Option<SyncSender<Task>>,
    threads: Vec<JoinHandle<()>>,
    queue: usize,
    work: Work,
    /// Tasks that no thread has taken yet.
    waiting: Arc<AtomicUsize>,
    /// When the queue last refused a task; none where it may always be filled.
    refused: Option<Mutex<Option<Instant>>>,
}

impl Pool {
    pub(crate) fn new(name: &str, work: Work, threads: usize, queue: usize) -> Result<Pool> {
        if threads == 0 || queue == 0 {
            return Err(Error::invalid(format!(
                "{name} with {threads} threads and a queue of {queue}; both must be at least 1"
            )));
        }
        let (tasks, source) = sync_channel::<Task>(queue);
        let source = Arc::new(Mutex::new(source));
        let start = |k: usize| {
            let source = Arc::clone(&source);
            std::thread::Builder::new()
                .name(format!("{name}-{k}"))
                .spawn(move || {
                    if work == Work::Idle {
                        step_back();
                    }
                    run(&source);
                })
                .map_err(|cause| Error::io(format!("start thread {name}-{k}"), cause))
        };
        let threads = (0..threads).map(start).collect::<Result<_>>()?;
        let waiting = Arc::new(AtomicUsize::new(0));
        Ok(Pool { tasks: Some(tasks), threads, queue, work, waiting, refused: None })
    }

    /// Who is let in shall not wait much longer than usual, however many come.
    pub(crate) fn with_short_waits(mut self) -> Pool {
        self.refused = Some(Mutex::default());
        self
    }

    /// Queues `task`; [`ErrorKind::Exhausted`] when the queue is full.
    pub(crate) fn submit(&self, task: impl FnOnce() + Send + 'static) -> Result<()> {
        let tasks = self.tasks.as_ref().expect("the queue is open until the pool is dropped");
        let mut refused =
            self.refused.as_ref().map(|at| at.lock().unwrap_or_else(PoisonError::into_inner));
        let full = |waiting: usize| {
            Error::new(ErrorKind::Exhausted, format!("{waiting} requests wait already; retry"))
        };
        if let Some(at) = refused.as_mut()
            && at.is_some_and(|at| at.elapsed() < SHORT_FOR)
        {
            let (waiting, short) =
                (self.waiting.load(Ordering::Relaxed), SHORT * self.threads.len());
            if waiting >= short.min(self.queue) {
                **at = Some(Instant::now());
                return Err(full(waiting));
            }
        }
        let waiting = Arc::clone(&self.waiting);
        waiting.fetch_add(1, Ordering::Relaxed);
        let taken = move || {
            waiting.fetch_sub(1, Ordering::Relaxed);
            task();
        };
        tasks.try_send(Box::new(taken)).map_err(|error| {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            if let Some(at) = refused.as_mut() {
                **at = Some(Instant::now());
            }
            match error {
                TrySendError::Full(_) => full(self.queue),
                TrySendError::Disconnected(_) => Error::internal("the threads are gone"),
            }
        })
    }
}

/// The least priority there is, for the calling thread.
fn step_back() {
    // Linux takes "this process" as the calling thread.
    if let Err(cause) = rustix::process::setpriority_process(None, 19) {
        tracing::warn!(%cause, "copies for shadow variants run at everybody's priority");
    }
}

fn run(source: &Mutex<Receiver<Task>>) {
    loop {
        // Only the wait happens under the lock; the task runs outside of it.
        let next = source.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(task) = next else { return };
        if catch_unwind(AssertUnwindSafe(task)).is_err() {
            tracing::error!("a task panicked; its request was answered with an error");
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(self.tasks.take());
        if self.work != Work::Owed {
            return;
        }
        let own = std::thread::current().id();
        for thread in self.threads.drain(..) {
            // The last owner may be one of the threads themselves.
            if thread.thread().id() != own && thread.join().is_err() {
                tracing::error!("a thread of the pool ended by a panic");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    /// Occupies the one thread of a pool until told to go on.
    fn occupy(pool: &Pool) -> std::sync::mpsc::Sender<()> {
        let (go, wait) = channel::<()>();
        let (started, start) = channel();
        pool.submit(move || {
            started.send(()).unwrap();
            wait.recv().unwrap();
        })
        .unwrap();
        start.recv().unwrap();
        go
    }

    #[test]
    fn a_full_queue_refuses_and_recovers() {
        let pool = Pool::new("test", Work::Owed, 1, 2).unwrap();
        let go = occupy(&pool);
        let (done, results) = channel();
        for k in 0..2 {
            let done = done.clone();
            pool.submit(move || done.send(k).unwrap()).unwrap();
        }
        let error = pool.submit(|| {}).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted);
        go.send(()).unwrap();
        assert_eq!((results.recv().unwrap(), results.recv().unwrap()), (0, 1));
        pool.submit(move || done.send(9).unwrap()).unwrap();
        assert_eq!(results.recv().unwrap(), 9);
    }

    #[test]
    fn a_queue_that_was_full_is_short_until_nobody_was_refused_for_a_while() {
        let pool = Pool::new("test", Work::Owed, 1, 5).unwrap().with_short_waits();
        let takes = || {
            let go = occupy(&pool);
            let taken = (0..9).filter(|_| pool.submit(|| {}).is_ok()).count();
            go.send(()).unwrap();
            while pool.waiting.load(Ordering::Relaxed) > 0 {
                std::thread::yield_now();
            }
            taken
        };
        assert_eq!(takes(), 5);
        assert_eq!(takes(), SHORT);
        // That was refused as well.
        std::thread::sleep(SHORT_FOR / 2);
        assert_eq!(takes(), SHORT);
        std::thread::sleep(SHORT_FOR + SHORT_FOR / 4);
        assert_eq!(takes(), 5);
    }

    #[test]
    fn a_panic_costs_its_own_task_only() {
        let pool = Pool::new("test", Work::Owed, 1, 4).unwrap();
        pool.submit(|| panic!("told to")).unwrap();
        let (done, results) = channel();
        pool.submit(move || done.send(1).unwrap()).unwrap();
        assert_eq!(results.recv().unwrap(), 1);
        assert!(Pool::new("test", Work::Owed, 0, 1).is_err());
    }

    #[test]
    fn a_task_without_an_end_holds_nobody_who_drops_its_pool() {
        let pool = Pool::new("test", Work::Doubtful, 1, 1).unwrap();
        let (go, wait) = channel::<()>();
        let (ended, end) = channel();
        pool.submit(move || {
            wait.recv().unwrap();
            ended.send(()).unwrap();
        })
        .unwrap();
        drop(pool);
        go.send(()).unwrap();
        end.recv().unwrap();
    }

    #[test]
    fn idle_work_has_the_least_priority_and_no_other_has() {
        let nice = |work| {
            let pool = Pool::new("test", work, 1, 1).unwrap();
            let (done, results) = channel();
            pool.submit(move || {
                let own = rustix::process::getpriority_process(None);
                done.send(own.unwrap()).unwrap();
            })
            .unwrap();
            results.recv().unwrap()
        };
        let own = rustix::process::getpriority_process(None).unwrap();
        assert_eq!(nice(Work::Owed), own);
        assert_eq!(nice(Work::Idle), 19);
        // It is the thread that steps back, not the process.
        assert_eq!(rustix::process::getpriority_process(None).unwrap(), own);
    }
}
