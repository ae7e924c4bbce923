//! What a variant answered, counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::ErrorKind;
use serde::Serialize;

/// Counts of one variant, shared by all its requests.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    invocations: AtomicU64,
    client_errors: AtomicU64,
    model_errors: AtomicU64,
    refused: AtomicU64,
    timed_out: AtomicU64,
    series: AtomicU64,
    latency_micros: AtomicU64,
}

/// A variant's counts at one moment, since the start of the process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// The endpoint.
    pub endpoint: String,
    /// Its variant.
    pub variant: String,
    /// Requests routed here, whatever became of them.
    pub invocations: u64,
    /// Requests that were wrong.
    pub client_errors: u64,
    /// Requests the model failed on.
    pub model_errors: u64,
    /// Requests the full queue refused.
    pub refused: u64,
    /// Requests nobody waited for any more.
    pub timed_out: u64,
    /// Series forecast.
    pub series: u64,
    /// Time from routing to answer, summed over answered requests.
    pub latency_micros: u64,
}

impl Counters {
    pub(crate) fn arrived(&self) {
        self.invocations.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn answered(&self, series: usize, after: Duration) {
        let micros = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        self.series.fetch_add(series as u64, Ordering::Relaxed);
        self.latency_micros.fetch_add(micros, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self, kind: ErrorKind) {
        let counter = match kind {
            ErrorKind::Invalid
            | ErrorKind::Unsupported
            | ErrorKind::NotFound
            | ErrorKind::Conflict => &self.client_errors,
            ErrorKind::Exhausted => &self.refused,
            ErrorKind::Unavailable => &self.timed_out,
            _ => &self.model_errors,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self, endpoint: &str, variant: &str) -> Snapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            endpoint: endpoint.to_owned(),
            variant: variant.to_owned(),
            invocations: read(&self.invocations),
            client_errors: read(&self.client_errors),
            model_errors: read(&self.model_errors),
            refused: read(&self.refused),
            timed_out: read(&self.timed_out),
            series: read(&self.series),
            latency_micros: read(&self.latency_micros),
        }
    }
}
