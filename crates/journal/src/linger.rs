//! Whether to wait a little before a commit.
//!
//! Each commit costs a sync and a round of wake-ups, whatever it holds. Many devices that each
//! say something now and then arrive one by one, and each would get a commit of its own: waiting
//! three milliseconds makes one of a dozen. Whoever waits for its acknowledgement before it goes
//! on would only be slowed down. The two are told apart by trying: of those who wait for us
//! nobody comes any more in the last of the three milliseconds. Then the next tries are left
//! out, more of them each time it was in vain.
//!
//! Pure; the queue does the waiting.

use std::time::Duration;

/// What is waited before anybody is counted.
pub(crate) const GATHER: Duration = Duration::from_millis(2);

/// Then, whether anybody still comes.
pub(crate) const WATCH: Duration = Duration::from_millis(1);

/// Bytes that are worth a commit without waiting.
pub(crate) const ENOUGH_BYTES: u64 = 32 * 1024;

/// Commits without a try after one in vain; doubles up to the other.
const REST_MIN: u32 = 32;
const REST_MAX: u32 = 16_384;

/// See the module.
#[derive(Debug)]
pub(crate) struct Linger {
    /// Commits until the next try.
    rest: u32,
    /// How many to leave out after the next try in vain.
    next_rest: u32,
}

impl Default for Linger {
    fn default() -> Linger {
        // The first commits of a log are somebody's first impression.
        Linger { rest: REST_MIN, next_rest: REST_MIN }
    }
}

impl Linger {
    /// Whether to wait before a commit for which `bytes` are there already.
    pub(crate) fn tries(&mut self, bytes: u64) -> bool {
        if bytes >= ENOUGH_BYTES {
            return false;
        }
        if self.rest > 0 {
            self.rest -= 1;
            return false;
        }
        true
    }

    /// What came of a try: how many records there were before, and were after, and how many of
    /// them came while it watched.
    pub(crate) fn tried(&mut self, before: u64, after: u64, watched: u64) {
        if watched > 0 && after >= 2 * before {
            self.next_rest = REST_MIN;
            return;
        }
        self.rest = self.next_rest;
        self.next_rest = (self.next_rest * 2).min(REST_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `commits` commits wait, if a try finds what `found` says.
    fn waits(commits: u32, found: (u64, u64, u64)) -> u32 {
        let mut linger = Linger::default();
        let mut waits = 0;
        for _ in 0..commits {
            if linger.tries(100) {
                waits += 1;
                linger.tried(found.0, found.1, found.2);
            }
        }
        waits
    }

    #[test]
    fn those_who_wait_for_us_are_hardly_ever_waited_for() {
        assert!(waits(100_000, (20, 20, 0)) < 20);
        assert!(waits(100_000, (1, 1, 0)) < 20);
        // Two that take turns, and one that comes alone.
        assert!(waits(100_000, (20, 21, 1)) < 20);
    }

    #[test]
    fn those_who_come_anyway_are_gathered() {
        assert_eq!(waits(1_000, (1, 15, 5)), 1_000 - REST_MIN);
        assert!(!Linger { rest: 0, next_rest: 1 }.tries(ENOUGH_BYTES));
    }
}
