//! How long records waited for stable storage.
//!
//! Only the writer adds, once a commit, so that the hot path pays for one look at the clock in a
//! commit and for nothing in an append.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets, in microseconds.
const BOUNDS_MICROS: [u64; 14] = [
    250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 10_000_000,
];

/// How long records waited from their append to stable storage, since the log was opened.
///
/// Each record counts with the wait of the first one of its commit, so none waited longer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipts {
    /// Records that waited at most so long, by rising bounds; each bucket holds those before it.
    pub buckets: Vec<(Duration, u64)>,
    /// All records.
    pub records: u64,
    /// The sum of their waits.
    pub waited: Duration,
}

/// The counters behind [`Receipts`].
#[derive(Debug, Default)]
pub(crate) struct Latency {
    /// Records by bucket; the last one has no bound.
    counts: [AtomicU64; BOUNDS_MICROS.len() + 1],
    waited_micros: AtomicU64,
}

impl Latency {
    /// Adds a commit of `records`, the first of which waited for `wait`.
    pub(crate) fn add(&self, wait: Duration, records: u64) {
        let micros = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_MICROS.partition_point(|bound| *bound < micros);
        self.counts[bucket].fetch_add(records, Ordering::Relaxed);
        self.waited_micros.fetch_add(micros.saturating_mul(records), Ordering::Relaxed);
    }

    pub(crate) fn read(&self) -> Receipts {
        let mut records = 0;
        let mut up_to = |count: &AtomicU64| {
            records += count.load(Ordering::Relaxed);
            records
        };
        let counts = self.counts.each_ref().map(&mut up_to);
        let bounds = BOUNDS_MICROS.map(Duration::from_micros);
        Receipts {
            buckets: bounds.into_iter().zip(counts).collect(),
            records,
            waited: Duration::from_micros(self.waited_micros.load(Ordering::Relaxed)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_falls_into_the_first_bucket_that_holds_it() {
        let latency = Latency::default();
        latency.add(Duration::from_micros(1_000), 3);
        latency.add(Duration::from_micros(1_001), 2);
        latency.add(Duration::from_secs(60), 1);
        let receipts = latency.read();
        let at_most = |micros| {
            let bound = Duration::from_micros(micros);
            receipts.buckets.iter().find(|(of, _)| *of == bound).unwrap().1
        };
        assert_eq!([at_most(500), at_most(1_000), at_most(2_500)], [0, 3, 5]);
        assert_eq!(at_most(10_000_000), 5);
        assert_eq!(receipts.records, 6);
        assert_eq!(receipts.waited, Duration::from_micros(3_000 + 2_002 + 60_000_000));
    }
}
