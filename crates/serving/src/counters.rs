//! What a variant answered, counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::ErrorKind;
use serde::Serialize;

/// Upper bounds, in microseconds, of the classes that latencies are counted in. What is longer
/// is in the last class, which has no bound.
pub const LATENCY_BOUNDS_MICROS: [u64; 13] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    5_000_000, 30_000_000,
];

/// Counts of one variant of one configuration, shared by all its requests.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    invocations: AtomicU64,
    client_errors: AtomicU64,
    model_errors: AtomicU64,
    refused: AtomicU64,
    timed_out: AtomicU64,
    not_finite: AtomicU64,
    stood_in: AtomicU64,
    series: AtomicU64,
    latency_micros: AtomicU64,
    model_micros: AtomicU64,
    latencies: [AtomicU64; LATENCY_BOUNDS_MICROS.len() + 1],
    loads: AtomicU64,
    load_micros: AtomicU64,
    hits: AtomicU64,
}

/// A variant's counts at one moment, since the start of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// The endpoint.
    pub endpoint: String,
    /// The configuration that the variant is of.
    pub config: String,
    /// The variant.
    pub variant: String,
    /// Whether it only gets copies.
    pub shadow: bool,
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
    /// Answers with a number that is not finite.
    pub not_finite: u64,
    /// Requests that a variant of the configuration before answered in this one's stead, while
    /// this one was on trial.
    pub stood_in: u64,
    /// Series forecast.
    pub series: u64,
    /// Time from arrival to answer, summed over answered requests.
    pub latency_micros: u64,
    /// The part of it that the model took.
    pub model_micros: u64,
    /// Answered requests by latency: one class a bound, and one above them.
    pub latencies: Vec<u64>,
    /// Models loaded on demand, where there are many.
    pub loads: u64,
    /// Time that took.
    pub load_micros: u64,
    /// Requests whose model was in memory already.
    pub hits: u64,
    /// Its models in memory: one, or as many as the shelf holds of them.
    pub models_held: usize,
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn add(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn arrived(&self) {
        add(&self.invocations, 1);
    }

    pub(crate) fn answered(&self, series: usize, latency: Duration, model: Duration) {
        let latency = micros(latency);
        add(&self.series, series as u64);
        add(&self.latency_micros, latency);
        add(&self.model_micros, micros(model));
        let class = LATENCY_BOUNDS_MICROS.partition_point(|bound| *bound < latency);
        add(&self.latencies[class], 1);
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
        add(counter, 1);
    }

    pub(crate) fn was_not_finite(&self) {
        add(&self.not_finite, 1);
    }

    pub(crate) fn was_stood_in_for(&self) {
        add(&self.stood_in, 1);
    }

    pub(crate) fn loaded(&self, took: Duration) {
        add(&self.loads, 1);
        add(&self.load_micros, micros(took));
    }

    pub(crate) fn hit(&self) {
        add(&self.hits, 1);
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            endpoint: String::new(),
            config: String::new(),
            variant: String::new(),
            shadow: false,
            invocations: read(&self.invocations),
            client_errors: read(&self.client_errors),
            model_errors: read(&self.model_errors),
            refused: read(&self.refused),
            timed_out: read(&self.timed_out),
            not_finite: read(&self.not_finite),
            stood_in: read(&self.stood_in),
            series: read(&self.series),
            latency_micros: read(&self.latency_micros),
            model_micros: read(&self.model_micros),
            latencies: self.latencies.iter().map(read).collect(),
            loads: read(&self.loads),
            load_micros: read(&self.load_micros),
            hits: read(&self.hits),
            models_held: 0,
        }
    }
}
