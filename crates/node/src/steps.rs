//! Notices when somebody sets the wall clock: it is held beside the clock that does not jump.
//!
//! Nothing here depends on it but stamps; what waits, waits by the other clock. But stamps are
//! what people read and what objects are filed under, so a step is said.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base::{Clock, Timestamp};

/// A smaller difference is a clock that is being slewed, or the grain of its milliseconds.
const STEP_MIN_MILLIS: i64 = 250;

/// The two clocks are compared only if they could be read this close together.
const READ_TIME_MAX: Duration = Duration::from_millis(50);

/// What was noticed so far.
#[derive(Debug, Default)]
pub(crate) struct Steps {
    last: Mutex<Option<Reading>>,
    forward: AtomicU64,
    backward: AtomicU64,
    millis: AtomicU64,
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    wall: Timestamp,
    steady: Instant,
}

impl Steps {
    /// Compares the clocks with the last time; to be called about once a second.
    pub(crate) fn look(&self, clock: &dyn Clock) {
        let before = Instant::now();
        let wall = clock.now();
        let steady = Instant::now();
        if steady - before > READ_TIME_MAX {
            return;
        }
        let now = Reading { wall, steady };
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        let Some(step) = last.and_then(|last| step(&last, &now)) else { return };
        let counter = if step > 0 { &self.forward } else { &self.backward };
        counter.fetch_add(1, Ordering::Relaxed);
        self.millis.fetch_add(step.unsigned_abs(), Ordering::Relaxed);
        tracing::warn!(
            step_seconds = step as f64 / 1000.0,
            "the wall clock was set: stamps jump, nothing else does"
        );
    }

    /// Steps forward and backward, and the length of all of them in seconds.
    pub(crate) fn seen(&self) -> (u64, u64, f64) {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (read(&self.forward), read(&self.backward), read(&self.millis) as f64 / 1000.0)
    }
}

/// By how many milliseconds the wall clock went further than the other, if it was set.
fn step(last: &Reading, now: &Reading) -> Option<i64> {
    let passed = i64::try_from((now.steady - last.steady).as_millis()).ok()?;
    let step = now.wall.0.saturating_sub(last.wall.0).saturating_sub(passed);
    (step.unsigned_abs() >= STEP_MIN_MILLIS.unsigned_abs()).then_some(step)
}

#[cfg(test)]
mod tests {
    use base::ManualClock;

    use super::*;

    #[test]
    fn a_clock_that_runs_is_not_set_and_one_that_jumps_is() {
        let begin = Instant::now();
        let after = |wall, steady_millis| Reading {
            wall: Timestamp(wall),
            steady: begin + Duration::from_millis(steady_millis),
        };
        let check = |from, to, expect| assert_eq!(step(&from, &to), expect, "{from:?} {to:?}");
        check(after(5_000, 0), after(6_000, 1_000), None);
        // A second that took long, and one that a slewing clock made longer.
        check(after(5_000, 0), after(95_000, 90_000), None);
        check(after(5_000, 0), after(6_100, 1_000), None);
        check(after(5_000, 0), after(86_406_000, 1_000), Some(86_400_000));
        check(after(5_000_000, 0), after(1_401_000, 1_000), Some(-3_600_000));
        check(after(5_000, 0), after(5_000, 1_000), Some(-1_000));
    }

    #[test]
    fn steps_are_counted_by_direction() {
        let (clock, steps) = (ManualClock::at(Timestamp(0)), Steps::default());
        steps.look(&clock);
        assert_eq!(steps.seen(), (0, 0, 0.0));
        clock.advance(Duration::from_secs(3600));
        steps.look(&clock);
        let (forward, backward, seconds) = steps.seen();
        assert_eq!((forward, backward), (1, 0));
        assert!((3500.0..3600.1).contains(&seconds), "{seconds}");
        steps.look(&clock);
        assert_eq!(steps.seen().0, 1, "a step is counted once");
    }
}
