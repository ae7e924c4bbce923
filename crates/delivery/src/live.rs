//! What a running worker shares with those who watch and steer it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base::{Offset, Timestamp};

/// Shared by a worker and its stream's handle.
#[derive(Debug, Default)]
pub(crate) struct Live {
    state: Mutex<LiveState>,
    changed: Condvar,
}

/// The worker's state as others see it.
#[derive(Clone, Debug, Default)]
pub(crate) struct LiveState {
    /// The worker should end.
    pub(crate) stop: bool,
    /// The worker has ended.
    pub(crate) stopped: bool,
    /// Everything below should be delivered without waiting for size or age.
    pub(crate) flush_to: Offset,
    /// Everything below is delivered.
    pub(crate) next: Offset,
    /// Everything below is looked at.
    pub(crate) position: Offset,
    /// Records and errors held in memory.
    pub(crate) held_bytes: u64,
    /// What fails at the moment, and why; it is tried again.
    pub(crate) retrying: Option<String>,
    /// Since when it fails.
    pub(crate) retrying_since: Option<Timestamp>,
    /// How often it failed since then.
    pub(crate) attempts: u32,
    /// Attempts of any step that failed since the worker started.
    pub(crate) failures: u64,
}

impl LiveState {
    /// An attempt failed.
    pub(crate) fn failed(&mut self, why: String, now: Timestamp) {
        self.retrying = Some(why);
        self.retrying_since.get_or_insert(now);
        self.attempts = self.attempts.saturating_add(1);
        self.failures += 1;
    }

    /// What failed works again.
    pub(crate) fn works(&mut self) {
        (self.retrying, self.retrying_since, self.attempts) = (None, None, 0);
    }
}

impl Live {
    pub(crate) fn lock(&self) -> MutexGuard<'_, LiveState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes everybody who waits for a change.
    pub(crate) fn change<T>(&self, edit: impl FnOnce(&mut LiveState) -> T) -> T {
        let result = edit(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// Waits until `done`, at most `timeout`; returns the state then.
    pub(crate) fn wait(&self, timeout: Duration, done: impl Fn(&LiveState) -> bool) -> LiveState {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        while !done(&state) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.clone()
    }
}
