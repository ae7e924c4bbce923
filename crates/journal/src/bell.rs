//! Wakes one task when the durable watermark passes what it waits for.
//!
//! A bell belongs to one task (a connection, a tailing reader). The log rings it after a sync
//! returned, never before, so what a bell says is always on stable storage.
//!
//! Invariants
//! * `durable` only grows, and never after `failed` was set.
//! * A task that saw `Pending` is woken by the ring that reaches its offset, or by `fail`.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;
use base::{Error, ErrorKind, Offset, Result};

/// Wakes its owner task when the durable watermark reaches what the task waits for.
#[derive(Debug, Default)]
pub struct Bell {
    durable: AtomicU64,
    /// What the owner waits for; a ring below it stays silent.
    wanted: AtomicU64,
    failed: AtomicBool,
    waker: AtomicWaker,
    /// The commit this bell is already enrolled in, so that a hundred appends enrol it once.
    enrolled: AtomicU64,
}

impl Bell {
    /// A bell that has not rung: its watermark is offset 0.
    pub fn new() -> Arc<Bell> {
        Arc::new(Bell::default())
    }

    /// The watermark of the last ring, exclusive.
    pub fn durable(&self) -> Offset {
        Offset(self.durable.load(Ordering::SeqCst))
    }

    /// Whether the log stopped acknowledging. What [`durable`](Self::durable) covers stays true.
    pub fn failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// Ready with the watermark once it is `offset` or more, ready with an error once the log
    /// failed below it. To be polled by one task.
    pub fn poll_past(&self, offset: Offset, cx: &mut Context<'_>) -> Poll<Result<Offset>> {
        if let Some(answer) = self.answer(offset) {
            return Poll::Ready(answer);
        }
        self.waker.register(cx.waker());
        // The ringer stores the watermark and then loads `wanted`; this stores `wanted` and then
        // loads the watermark. In the one order of SeqCst at least one of them sees the other.
        self.wanted.store(offset.0, Ordering::SeqCst);
        match self.answer(offset) {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        }
    }

    /// Resolves once the watermark is `offset` or more; an error once the log failed below it.
    pub async fn past(&self, offset: Offset) -> Result<Offset> {
        poll_fn(|cx| self.poll_past(offset, cx)).await
    }

    /// Raises the watermark and wakes the owner if that is what it waits for. Called by the log.
    pub fn ring(&self, durable: Offset) {
        self.durable.fetch_max(durable.0, Ordering::SeqCst);
        if durable.0 >= self.wanted.load(Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    /// Tells the owner that the watermark will not move again. Called by the log.
    pub fn fail(&self) {
        self.failed.store(true, Ordering::SeqCst);
        self.waker.wake();
    }

    /// Notes that the commit `epoch` will ring this bell; false if it was noted before.
    pub(crate) fn enrol(&self, epoch: u64) -> bool {
        self.enrolled.swap(epoch, Ordering::Relaxed) != epoch
    }

    fn answer(&self, offset: Offset) -> Option<Result<Offset>> {
        let durable = self.durable();
        if durable >= offset {
            return Some(Ok(durable));
        }
        self.failed().then(|| Err(stopped()))
    }
}

/// The answer to everybody who waits for a log that failed.
pub(crate) fn stopped() -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "the journal stopped acknowledging after its storage failed; check the disk, then restart",
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_ring_below_what_is_wanted_wakes_nobody() {
        let (bell, count) = (Bell::new(), Arc::new(Count::default()));
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        assert!(bell.poll_past(Offset(5), &mut cx).is_pending());
        bell.ring(Offset(4));
        assert_eq!(count.0.load(Ordering::SeqCst), 0);
        bell.ring(Offset(5));
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        let Poll::Ready(Ok(durable)) = bell.poll_past(Offset(5), &mut cx) else {
            panic!("rung but not ready");
        };
        assert_eq!(durable, Offset(5));
    }

    #[test]
    fn a_failure_wakes_and_leaves_the_watermark_true() {
        let (bell, count) = (Bell::new(), Arc::new(Count::default()));
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        bell.ring(Offset(3));
        assert!(bell.poll_past(Offset(4), &mut cx).is_pending());
        bell.fail();
        assert_eq!(count.0.load(Ordering::SeqCst), 1);
        assert!(matches!(bell.poll_past(Offset(4), &mut cx), Poll::Ready(Err(_))));
        assert!(matches!(bell.poll_past(Offset(3), &mut cx), Poll::Ready(Ok(Offset(3)))));
    }

    #[test]
    fn a_bell_enrols_once_per_commit() {
        let bell = Bell::new();
        assert!(bell.enrol(1));
        assert!(!bell.enrol(1));
        assert!(bell.enrol(2));
    }
}
