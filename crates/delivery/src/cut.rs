//! Decides when a batch ends.
//!
//! Pure: no clock, no I/O. The worker asks, then acts. Asking again after a crash may give
//! another answer; that is why the answer is recorded before it is acted on.

use std::time::Duration;

/// How large and how old a batch should become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hints {
    /// Bytes before compression.
    pub(crate) size_bytes: u64,
    /// How long the oldest record waits.
    pub(crate) age: Duration,
}

/// Why a batch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// It is as large as it should be.
    Size,
    /// Its oldest record has waited long enough.
    Age,
    /// Somebody asked for what there is.
    Flush,
    /// The log is full, and waits for this stream to pass.
    Room,
}

/// A batch as far as its end is concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// Bytes held, before compression.
    pub(crate) bytes: u64,
    /// Since the first record was put in, by a clock that does not jump. Not since it arrived:
    /// a stream that catches up would otherwise cut every record by itself.
    pub(crate) since_first: Duration,
    /// Somebody asked for what there is.
    pub(crate) flush: bool,
    /// The log is full.
    pub(crate) log_is_full: bool,
}

/// With a full log, batches still get this long to fill: another consumer may hold the log,
/// and a lake of tiny objects would not help.
const ROOM_AGE: Duration = Duration::from_secs(1);

/// Returns why a batch that holds something should end now, or `None` while it may still grow.
///
/// Size wins over age: a full batch never waits for the clock.
pub(crate) fn cut(waiting: &Waiting, hints: &Hints) -> Option<Cut> {
    if waiting.bytes >= hints.size_bytes {
        return Some(Cut::Size);
    }
    if waiting.flush {
        return Some(Cut::Flush);
    }
    if waiting.since_first >= hints.age {
        return Some(Cut::Age);
    }
    (waiting.log_is_full && waiting.since_first >= ROOM_AGE).then_some(Cut::Room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_by_size_then_flush_then_age_then_room() {
        let hints = Hints { size_bytes: 10, age: Duration::from_secs(60) };
        let check = |bytes, secs, flush, log_is_full, expect| {
            let since_first = Duration::from_secs(secs);
            let waiting = Waiting { bytes, since_first, flush, log_is_full };
            assert_eq!(cut(&waiting, &hints), expect, "{waiting:?}");
        };
        check(9, 59, false, false, None);
        check(10, 0, false, false, Some(Cut::Size));
        check(11, 60, true, true, Some(Cut::Size));
        check(0, 60, false, false, Some(Cut::Age));
        check(1, 0, true, false, Some(Cut::Flush));
        check(1, 0, false, true, None);
        check(1, 1, false, true, Some(Cut::Room));
    }
}
