//! How fast one client may publish, where the operator bounds it. Pure: the caller has the clock.
//!
//! A client may do in one second what it did not do in the last; beyond, its socket is not read
//! until its account is even again. Nothing is refused or dropped.

use std::time::{Duration, Instant};

/// What a client may publish in a second; 0 for as much as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) messages: u32,
    pub(crate) bytes: u64,
}

/// The account of one client.
#[derive(Debug)]
pub(crate) struct Rate {
    limits: Limits,
    /// What it may still do; below zero after a packet that was larger than what was left.
    messages: f64,
    bytes: f64,
    at: Instant,
}

impl Rate {
    /// An account that is full; `None` where nothing is bounded.
    pub(crate) fn new(limits: Limits, now: Instant) -> Option<Rate> {
        let (messages, bytes) = (f64::from(limits.messages), limits.bytes as f64);
        let bounded = limits.messages > 0 || limits.bytes > 0;
        bounded.then_some(Rate { limits, messages, bytes, at: now })
    }

    /// Notes one message.
    pub(crate) fn spend(&mut self, bytes: usize) {
        if self.limits.messages > 0 {
            self.messages -= 1.0;
        }
        if self.limits.bytes > 0 {
            self.bytes -= bytes as f64;
        }
    }

    /// How long it must wait before the next message; zero if it need not.
    pub(crate) fn wait(&mut self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        let Limits { messages, bytes } = self.limits;
        let (messages, bytes) = (f64::from(messages), bytes as f64);
        let mut wait = 0.0_f64;
        if messages > 0.0 {
            self.messages = (self.messages + passed * messages).min(messages);
            wait = wait.max((1.0 - self.messages) / messages);
        }
        if bytes > 0.0 {
            self.bytes = (self.bytes + passed * bytes).min(bytes);
            wait = wait.max(-self.bytes / bytes);
        }
        Duration::from_secs_f64(wait.max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn a_second_s_worth_goes_at_once_and_then_one_by_one() {
        let start = Instant::now();
        let mut rate = Rate::new(Limits { messages: 10, bytes: 0 }, start).unwrap();
        for _ in 0..10 {
            assert_eq!(rate.wait(start), Duration::ZERO);
            rate.spend(1_000_000);
        }
        let wait = rate.wait(start);
        assert!(wait > Duration::from_millis(90) && wait <= Duration::from_millis(100), "{wait:?}");
        assert_eq!(rate.wait(at(start, 101)), Duration::ZERO);
    }

    #[test]
    fn a_packet_larger_than_a_second_s_worth_is_waited_for_afterwards() {
        let start = Instant::now();
        let mut rate = Rate::new(Limits { messages: 0, bytes: 1000 }, start).unwrap();
        rate.spend(3000);
        let wait = rate.wait(start);
        assert_eq!(wait, Duration::from_secs(2));
        assert_eq!(rate.wait(at(start, 2000)), Duration::ZERO);
    }

    #[test]
    fn rest_is_not_saved_beyond_a_second() {
        let start = Instant::now();
        let mut rate = Rate::new(Limits { messages: 2, bytes: 0 }, start).unwrap();
        let later = at(start, 60_000);
        assert_eq!(rate.wait(later), Duration::ZERO);
        rate.spend(1);
        rate.spend(1);
        assert!(rate.wait(later) > Duration::from_millis(400));
        assert!(Rate::new(Limits { messages: 0, bytes: 0 }, start).is_none());
    }
}
