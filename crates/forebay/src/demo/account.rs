//! The closing account: what was sent, acknowledged and found, and what each stage cost.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

/// One stage's cost.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    pub(crate) seconds: f64,
    /// Of this process and its children.
    pub(crate) cpu_seconds: f64,
    /// Bytes the stage left behind, or moved where it leaves nothing.
    pub(crate) bytes: u64,
}

/// Measures one stage from [`Timer::start`] to [`Timer::stop`].
pub(crate) struct Timer {
    name: &'static str,
    started: Instant,
    cpu: f64,
}

impl Timer {
    pub(crate) fn start(name: &'static str) -> Self {
        Timer { name, started: Instant::now(), cpu: base::usage::cpu_seconds_with_children() }
    }

    pub(crate) fn stop(self, bytes: u64) -> Stage {
        Stage {
            name: self.name,
            seconds: self.started.elapsed().as_secs_f64(),
            cpu_seconds: (base::usage::cpu_seconds_with_children() - self.cpu).max(0.0),
            bytes,
        }
    }
}

/// Watches the resident memory of this process and its children together.
pub(crate) struct MemoryWatch {
    peak: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl MemoryWatch {
    pub(crate) fn start() -> Self {
        let peak = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (peak, stop) = (peak.clone(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    peak.fetch_max(base::usage::rss_bytes_with_children(), Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(50));
                }
            })
        };
        MemoryWatch { peak, stop, thread: Some(thread) }
    }

    /// The most seen so far; never less than this process's own high-water mark.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.peak.load(Ordering::Relaxed).max(base::usage::peak_rss_bytes())
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// What was acknowledged against what is in the table, reading by reading.
///
/// Keys are 64-bit hashes of (device, timestamp) under this process's random key: half a
/// million readings cost some 20 MB, and two of them share a hash about once in two hundred million runs.
pub(crate) struct Ledger {
    hasher: RandomState,
    /// Times sent, minus times found.
    open: BTreeMap<u64, i64>,
}

/// The ledger's verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Verdict {
    /// Sent and not found.
    pub(crate) lost: u64,
    /// Found more often than sent.
    pub(crate) doubled: u64,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Ledger { hasher: RandomState::new(), open: BTreeMap::new() }
    }

    pub(crate) fn sent(&mut self, device: &str, timestamp: &str) {
        *self.open.entry(self.hasher.hash_one((device, timestamp))).or_default() += 1;
    }

    pub(crate) fn found(&mut self, device: &str, timestamp: &str, times: u64) {
        let times = i64::try_from(times).unwrap_or(i64::MAX);
        *self.open.entry(self.hasher.hash_one((device, timestamp))).or_default() -= times;
    }

    pub(crate) fn verdict(&self) -> Verdict {
        let mut verdict = Verdict::default();
        for open in self.open.values() {
            match open {
                1.. => verdict.lost += open.unsigned_abs(),
                _ => verdict.doubled += open.unsigned_abs(),
            }
        }
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planted_losses_and_doubles_are_seen() {
        let mut ledger = Ledger::new();
        for time in ["1", "2", "3", "4"] {
            ledger.sent("a", time);
        }
        ledger.sent("b", "1");
        ledger.found("a", "1", 1);
        ledger.found("a", "2", 3);
        ledger.found("b", "1", 1);
        ledger.found("c", "1", 1);
        // a/3 and a/4 are missing, a/2 came twice too often, c/1 was never sent.
        assert_eq!(ledger.verdict(), Verdict { lost: 2, doubled: 3 });
    }

    #[test]
    fn a_balanced_account_is_clean() {
        let mut ledger = Ledger::new();
        ledger.sent("a", "1");
        ledger.sent("a", "1");
        ledger.found("a", "1", 2);
        assert_eq!(ledger.verdict(), Verdict::default());
    }
}
