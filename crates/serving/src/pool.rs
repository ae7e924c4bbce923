//! A few threads for work that blocks, behind a bounded queue.
//!
//! Invariants
//! * A full queue refuses at once; nothing waits for room.
//! * A task that panics costs its own answer, not the thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use base::{Error, ErrorKind, Result};

type Task = Box<dyn FnOnce() + Send>;

/// Runs tasks in the order they came, on a fixed number of threads. Dropping it runs what is
/// queued and waits for the threads.
#[derive(Debug)]
pub(crate) struct Pool {
    tasks: Option<SyncSender<Task>>,
    threads: Vec<JoinHandle<()>>,
    queue: usize,
}

impl Pool {
    pub(crate) fn new(name: &str, threads: usize, queue: usize) -> Result<Pool> {
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
                .spawn(move || work(&source))
                .map_err(|cause| Error::io(format!("start thread {name}-{k}"), cause))
        };
        let threads = (0..threads).map(start).collect::<Result<_>>()?;
        Ok(Pool { tasks: Some(tasks), threads, queue })
    }

    /// Queues `task`; [`ErrorKind::Exhausted`] when the queue is full.
    pub(crate) fn submit(&self, task: impl FnOnce() + Send + 'static) -> Result<()> {
        let tasks = self.tasks.as_ref().expect("the queue is open until the pool is dropped");
        tasks.try_send(Box::new(task)).map_err(|refused| match refused {
            TrySendError::Full(_) => {
                let queue = self.queue;
                Error::new(ErrorKind::Exhausted, format!("{queue} requests wait already; retry"))
            }
            TrySendError::Disconnected(_) => Error::internal("the threads are gone"),
        })
    }
}

fn work(source: &Mutex<Receiver<Task>>) {
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

    #[test]
    fn a_full_queue_refuses_and_recovers() {
        let pool = Pool::new("test", 1, 2).unwrap();
        let (go, wait) = channel::<()>();
        let (started, start) = channel();
        pool.submit(move || {
            started.send(()).unwrap();
            wait.recv().unwrap();
        })
        .unwrap();
        start.recv().unwrap();
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
    fn a_panic_costs_its_own_task_only() {
        let pool = Pool::new("test", 1, 4).unwrap();
        pool.submit(|| panic!("told to")).unwrap();
        let (done, results) = channel();
        pool.submit(move || done.send(1).unwrap()).unwrap();
        assert_eq!(results.recv().unwrap(), 1);
        assert!(Pool::new("test", 0, 1).is_err());
    }
}
