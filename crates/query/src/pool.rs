//! The threads that queries run on.

use std::any::Any;
use std::future::Future;

use base::{Error, ErrorKind, Result};
use tokio::runtime::{Builder, Runtime};

/// Stack of each thread. Reserved, not used: planning a statement of the largest size allowed
/// recurses through some dozens of functions for each of its operators.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// Threads that read files. A reader holds its thread until the query has taken its rows, and
/// a query may need the rows of a late reader first, so this must exceed what the statements
/// that run at a time can name: tables of a statement x partitions x statements.
const READERS_MAX: usize = 2_048;

/// A runtime for queries alone.
#[derive(Debug)]
pub(crate) struct Pool(Option<Runtime>);

impl Pool {
    pub(crate) fn new(threads: usize) -> Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads.max(1))
            .max_blocking_threads(READERS_MAX)
            .thread_stack_size(STACK_BYTES)
            .thread_name("query")
            .enable_all()
            .build()
            .map_err(|cause| Error::io("starting threads for queries", cause))?;
        Ok(Pool(Some(runtime)))
    }

    /// Runs `work` to its end. Dropping the answer stops it; a panic in it is an error.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        let Some(runtime) = &self.0 else { return Err(Error::internal("no threads for queries")) };
        let mut task = Stopped(runtime.spawn(work));
        (&mut task.0).await.unwrap_or_else(|failed| {
            Err(match failed.try_into_panic() {
                Ok(panic) => gave_up(&*panic),
                Err(_stopped) => Error::new(ErrorKind::Unavailable, "the query was stopped"),
            })
        })
    }
}

pub(crate) fn gave_up(panic: &(dyn Any + Send)) -> Error {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let said = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
    Error::new(ErrorKind::Internal, format!("the query gave up: {said}"))
}

/// A task that ends with its handle.
struct Stopped<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for Stopped<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Waiting for threads is not allowed inside another runtime, where engines live.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
