//! Threads that stay for a whole training: a step is about a millisecond, and starting threads
//! for each of them would take a twentieth of it.
//!
//! A task is handed over whole and comes back whole, so nothing is shared but what the task
//! itself holds, and which thread runs it decides nothing. Who waits spins for a moment, since
//! the other side is rarely late, and then sleeps.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Scope, Thread};

/// Looks at a seat before going to sleep: some tens of microseconds, which is about what lies
/// between two batches.
const SPINS: u32 = 3000;

/// Whose turn it is at a seat.
const IDLE: u8 = 0;
const POSTED: u8 = 1;
const DONE: u8 = 2;
const BROKEN: u8 = 3;
const CLOSED: u8 = 4;

/// What the threads do.
pub(crate) trait Task: Send {
    /// Does the work; the outcome stays in the task.
    fn run(&mut self);
}

/// Some threads, each with one task at a time. They end with this value.
pub(crate) struct Crew<T> {
    members: Vec<(Arc<Seat<T>>, Thread)>,
}

/// Where one thread and the crew's owner meet.
struct Seat<T> {
    turn: AtomicU8,
    task: Mutex<Option<T>>,
    owner: Thread,
}

impl<T: Task> Crew<T> {
    /// Starts `count` threads.
    pub(crate) fn start<'scope, 'env>(scope: &'scope Scope<'scope, 'env>, count: usize) -> Crew<T>
    where
        T: 'scope,
    {
        let owner = std::thread::current();
        let member = |_| {
            let turn = AtomicU8::new(IDLE);
            let seat = Arc::new(Seat { turn, task: Mutex::new(None), owner: owner.clone() });
            let theirs = seat.clone();
            let thread = scope.spawn(move || theirs.work()).thread().clone();
            (seat, thread)
        };
        Crew { members: (0..count).map(member).collect() }
    }

    /// Runs `own` here and `others` on the threads, one each, and returns all in order, `own`
    /// first.
    ///
    /// # Panics
    ///
    /// If there are more tasks than threads, or a task panicked.
    pub(crate) fn run(&mut self, mut own: T, others: Vec<T>) -> Vec<T> {
        let count = others.len();
        assert!(count <= self.members.len(), "{count} tasks for {} threads", self.members.len());
        for ((seat, thread), task) in self.members.iter().zip(others) {
            seat.put(task);
            seat.turn.store(POSTED, Ordering::Release);
            thread.unpark();
        }
        own.run();
        let mut all = vec![own];
        for (seat, _) in &self.members[..count] {
            let turn = wait(&seat.turn, |turn| turn == DONE || turn == BROKEN);
            assert!(turn == DONE, "a thread of the training panicked");
            seat.turn.store(IDLE, Ordering::Relaxed);
            all.extend(seat.take());
        }
        all
    }
}

impl<T> Drop for Crew<T> {
    fn drop(&mut self) {
        for (seat, thread) in &self.members {
            seat.turn.store(CLOSED, Ordering::Release);
            thread.unpark();
        }
    }
}

impl<T: Task> Seat<T> {
    fn work(&self) {
        let _told = TellOnPanic(self);
        while wait(&self.turn, |turn| turn == POSTED || turn == CLOSED) == POSTED {
            let Some(mut task) = self.take() else { return };
            task.run();
            self.put(task);
            // The owner may have closed the crew while this ran; that must stay.
            let done =
                self.turn.compare_exchange(POSTED, DONE, Ordering::Release, Ordering::Relaxed);
            if done.is_err() {
                return;
            }
            self.owner.unpark();
        }
    }
}

impl<T> Seat<T> {
    fn put(&self, task: T) {
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }

    fn take(&self) -> Option<T> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Tells the owner of a panic, who would wait for ever.
struct TellOnPanic<'a, T>(&'a Seat<T>);

impl<T> Drop for TellOnPanic<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.turn.store(BROKEN, Ordering::Release);
            self.0.owner.unpark();
        }
    }
}

/// Waits until `turn` is one that is `wanted`: first awake, then asleep.
fn wait(turn: &AtomicU8, wanted: impl Fn(u8) -> bool) -> u8 {
    for _ in 0..SPINS {
        let found = turn.load(Ordering::Acquire);
        if wanted(found) {
            return found;
        }
        std::hint::spin_loop();
    }
    loop {
        let found = turn.load(Ordering::Acquire);
        if wanted(found) {
            return found;
        }
        // Whoever changes the turn unparks after it; one that came before is kept.
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Count {
        pause: Duration,
        number: u64,
        by: Option<std::thread::ThreadId>,
    }

    impl Task for Count {
        fn run(&mut self) {
            std::thread::sleep(self.pause);
            assert!(self.number != 13, "an unlucky number");
            self.number += 1;
            self.by = Some(std::thread::current().id());
        }
    }

    fn count(number: u64, micros: u64) -> Count {
        Count { pause: Duration::from_micros(micros), number, by: None }
    }

    #[test]
    fn tasks_come_back_in_order_from_the_same_threads() {
        std::thread::scope(|scope| {
            let mut crew = Crew::start(scope, 3);
            let mut threads = None;
            for round in 0..200 {
                // Long enough now and then that somebody sleeps.
                let micros = if round % 20 == 0 { 2000 } else { 0 };
                let others = vec![count(20, micros), count(30, 0), count(40, micros / 2)];
                let done = crew.run(count(10, 0), others);
                let numbers: Vec<u64> = done.iter().map(|task| task.number).collect();
                assert_eq!(numbers, [11, 21, 31, 41]);
                let by: Vec<_> = done.iter().map(|task| task.by).collect();
                assert_eq!(by[0], Some(std::thread::current().id()));
                assert_eq!(*threads.get_or_insert_with(|| by.clone()), by);
                assert_eq!(crew.run(count(1, 0), Vec::new())[0].number, 2);
            }
        });
    }

    #[test]
    fn a_panic_on_either_side_ends_both() {
        for (own, other) in [(1, 13), (13, 1)] {
            let ended = std::panic::catch_unwind(|| {
                std::thread::scope(|scope| {
                    let mut crew = Crew::start(scope, 2);
                    crew.run(count(own, 100), vec![count(other, 3000)]);
                });
            });
            assert!(ended.is_err());
        }
    }
}
