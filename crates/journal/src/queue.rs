//! What waits for the next commit, and whether more may come. The hot path: one short lock,
//! one copy.
//!
//! Invariants
//! * Offsets are given in the order of the copies, without gaps.
//! * Records waiting or under way are at most `waiting_max` bytes.
//! * Unless a further segment is there already, nothing is taken that the last one may not hold:
//!   the disk may turn out to be full, and what was taken would wait without an answer.
//! * After a failure nothing is taken.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use base::{Error, ErrorKind, Offset, Result};

use crate::bell::stopped;
use crate::frame::{self, ALIGN};
use crate::segment::PAGE_BYTES;
use crate::sync::{lock, wait};
use crate::{Appended, Batch, Bell};

/// A frame takes further batches until it is this long: damage costs little, and the head is
/// shared by many.
const FRAME_BYTES: usize = 64 * 1024;
/// Commits start at multiples of this, so that no sector of an earlier one is written again.
pub(crate) const SECTOR_BYTES: u64 = 512;
/// Most bytes that wait for the disk.
const WAITING_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Bytes that are worth a commit though their sender has more.
const ENOUGH_BYTES: u64 = 32 * 1024;
/// What a batch may cost on disk beyond its bytes.
const OVERHEAD_BYTES: u64 = frame::HEAD_BYTES as u64 + ALIGN as u64 + SECTOR_BYTES;

/// Commits are told apart across all logs of a process, because a bell may serve several.
static EPOCH: AtomicU64 = AtomicU64::new(1);

/// Where one frame lies in a commit's bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    /// Where its head starts.
    pub(crate) at: usize,
    /// Where its payload ends.
    pub(crate) end: usize,
    pub(crate) base: Offset,
    pub(crate) count: u32,
}

/// What comes after the last segment.
#[derive(Debug)]
enum Ahead {
    /// The helper has not said yet: it makes a file, or finds that it cannot.
    Unknown,
    /// A blank file.
    Ready,
    /// Nothing, because of this.
    Nothing(String),
}

/// Records on their way to the disk, laid out as they will lie there; the frames' heads are
/// blank until the writer knows the segment.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    pub(crate) bytes: Vec<u8>,
    pub(crate) frames: Vec<Mark>,
    pub(crate) bells: Vec<Arc<Bell>>,
    /// When the first of them came.
    pub(crate) since: Option<Instant>,
    /// Bytes counted as waiting, and the most they may cost on disk.
    waiting: u64,
    worst: u64,
    epoch: u64,
}

impl Commit {
    fn add(&mut self, batch: &Batch, count: u32, base: Offset) {
        self.since.get_or_insert_with(Instant::now);
        let framed = batch.framed();
        match self.frames.last_mut() {
            Some(frame)
                if frame.end - frame.at + framed.len() <= FRAME_BYTES
                    && frame.count.checked_add(count).is_some() =>
            {
                self.bytes.extend_from_slice(framed);
                frame.end = self.bytes.len();
                frame.count += count;
            }
            _ => {
                let at = self.bytes.len().next_multiple_of(ALIGN);
                self.bytes.resize(at + frame::HEAD_BYTES, 0);
                self.bytes.extend_from_slice(framed);
                self.frames.push(Mark { at, end: self.bytes.len(), base, count });
            }
        }
        self.waiting += framed.len() as u64;
        self.worst += framed.len() as u64 + OVERHEAD_BYTES;
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Queue {
    state: Mutex<State>,
    /// Tells the writer that there is something to do.
    work: Condvar,
    room: AtomicBool,
    /// Set while something waits that a sleeping writer was not told of.
    untold: AtomicBool,
    waiting_max: u64,
    /// Room kept for what is under way when publishers are held back.
    reserve_max: u64,
}

#[derive(Debug)]
struct State {
    next: Offset,
    pending: Commit,
    /// Sums over what is pending and what the writer has taken.
    waiting: u64,
    worst: u64,
    /// What the last segment still holds beyond what was committed.
    free: u64,
    /// Room kept in the last segment while it is not known whether there is a next one.
    reserve: u64,
    ahead: Ahead,
    /// Why the writer cannot go on with this one for the moment.
    stalled: Option<String>,
    failed: Option<String>,
    idle: bool,
    stop: bool,
}

impl Queue {
    /// The first record gets the offset `next`; the last segment holds `free` bytes more of its
    /// `last_bytes`.
    pub(crate) fn new(segment_bytes: u64, next: Offset, free: u64, last_bytes: u64) -> Queue {
        let reserve_max = segment_bytes / 4;
        let waiting_max = WAITING_BYTES_MAX.min((segment_bytes - PAGE_BYTES) / 2 - OVERHEAD_BYTES);
        let state = State {
            next,
            pending: Commit { epoch: EPOCH.fetch_add(1, Ordering::Relaxed), ..Commit::default() },
            waiting: 0,
            worst: 0,
            free,
            reserve: reserve_max.min(last_bytes / 4),
            ahead: Ahead::Unknown,
            stalled: None,
            failed: None,
            idle: false,
            stop: false,
        };
        let queue = Queue {
            state: Mutex::new(state),
            work: Condvar::new(),
            room: AtomicBool::new(true),
            untold: AtomicBool::new(false),
            waiting_max,
            reserve_max,
        };
        queue.measure(&lock(&queue.state));
        queue
    }

    /// Queues a batch. The writer is woken, unless `more` is about to come and this alone is not
    /// worth a commit: then [`nudge`](Self::nudge) does.
    pub(crate) fn append(
        &self,
        batch: &Batch,
        bell: Option<&Arc<Bell>>,
        more: bool,
    ) -> Result<Appended> {
        let bytes = batch.framed().len() as u64;
        if bytes > self.waiting_max {
            return Err(Error::invalid(format!(
                "batch of {bytes} bytes; the journal takes at most {} at once",
                self.waiting_max
            )));
        }
        let count = u32::try_from(batch.len())
            .map_err(|_too_many| Error::invalid("a batch holds at most 4294967295 records"))?;
        let mut state = lock(&self.state);
        let first = state.next;
        let appended = Appended { first, count: u64::from(count) };
        if state.failed.is_some() {
            return Err(stopped());
        }
        if count == 0 {
            return Ok(appended);
        }
        self.check_room(&state, bytes)?;
        state.pending.add(batch, count, first);
        state.waiting += bytes;
        state.worst += bytes + OVERHEAD_BYTES;
        state.next = appended.next();
        if let Some(bell) = bell
            && bell.enrol(state.pending.epoch)
        {
            state.pending.bells.push(Arc::clone(bell));
        }
        self.measure(&state);
        if more && state.idle && state.pending.waiting < ENOUGH_BYTES {
            self.untold.store(true, Ordering::SeqCst);
            return Ok(appended);
        }
        // Only a writer that sleeps needs the call that wakes it.
        let wake = std::mem::take(&mut state.idle);
        drop(state);
        if wake {
            self.work.notify_one();
        }
        Ok(appended)
    }

    /// Wakes the writer for what it was not told of.
    pub(crate) fn nudge(&self) {
        if !self.untold.swap(false, Ordering::SeqCst) {
            return;
        }
        // A writer that is at work looks for more before it sleeps.
        if std::mem::take(&mut lock(&self.state).idle) {
            self.work.notify_one();
        }
    }

    /// Gives back the `done` commit's account and memory, then waits for records and swaps
    /// them out; `None` when the log closes and none are left.
    pub(crate) fn next_commit(&self, done: Commit, free: u64) -> Option<Commit> {
        let mut state = lock(&self.state);
        self.settle(&mut state, &done, free);
        while state.pending.frames.is_empty() {
            if state.stop {
                return None;
            }
            state.idle = true;
            state = wait(&self.work, state);
        }
        state.idle = false;
        let epoch = EPOCH.fetch_add(1, Ordering::Relaxed);
        let fresh = Commit { waiting: 0, worst: 0, since: None, epoch, ..done };
        Some(std::mem::replace(&mut state.pending, fresh))
    }

    fn settle(&self, state: &mut State, done: &Commit, free: u64) {
        assert!(done.frames.is_empty() && done.bytes.is_empty() && done.bells.is_empty());
        state.waiting -= done.waiting;
        state.worst -= done.worst;
        state.free = free;
        self.measure(state);
    }

    /// The writer takes the blank file, which has room for `bytes`, in the middle of a commit.
    /// Whether there is `another` must be heard together with that: between the two, all that
    /// comes would be taken.
    pub(crate) fn roll(&self, bytes: u64, another: bool) {
        let mut state = lock(&self.state);
        state.free = bytes;
        state.reserve = self.reserve_max.min(bytes / 4);
        state.ahead = if another { Ahead::Ready } else { Ahead::Unknown };
        self.measure(&state);
    }

    /// The blank file was too short and is gone; a longer one is made.
    pub(crate) fn wait_for_longer(&self) {
        let mut state = lock(&self.state);
        state.ahead = Ahead::Unknown;
        self.measure(&state);
    }

    /// There is no next segment, because `why`.
    pub(crate) fn block(&self, why: String) {
        let mut state = lock(&self.state);
        if !matches!(state.ahead, Ahead::Nothing(_)) {
            tracing::warn!(%why, "the journal cannot grow");
        }
        state.ahead = Ahead::Nothing(why);
        self.measure(&state);
    }

    /// There is a next segment.
    pub(crate) fn unblock(&self) {
        let mut state = lock(&self.state);
        if let Ahead::Nothing(_) = std::mem::replace(&mut state.ahead, Ahead::Ready) {
            tracing::info!("the journal can grow again");
        }
        self.measure(&state);
    }

    /// The writer waits, because `why`; or goes on.
    pub(crate) fn stall(&self, why: Option<String>) {
        let mut state = lock(&self.state);
        state.stalled = why;
        self.measure(&state);
    }

    /// Takes nothing more; returns the bells that wait in vain.
    pub(crate) fn fail(&self, why: String) -> Vec<Arc<Bell>> {
        let mut state = lock(&self.state);
        state.failed.get_or_insert(why);
        self.measure(&state);
        std::mem::take(&mut state.pending.bells)
    }

    /// Lets the writer end when all is committed.
    pub(crate) fn stop(&self) {
        lock(&self.state).stop = true;
        self.work.notify_all();
    }

    pub(crate) fn stopping(&self) -> bool {
        lock(&self.state).stop
    }

    pub(crate) fn next(&self) -> Offset {
        lock(&self.state).next
    }

    pub(crate) fn failed(&self) -> Option<String> {
        lock(&self.state).failed.clone()
    }

    pub(crate) fn blocked(&self) -> Option<String> {
        let state = lock(&self.state);
        let nothing = match &state.ahead {
            Ahead::Nothing(why) => Some(why),
            Ahead::Unknown | Ahead::Ready => None,
        };
        state.stalled.as_ref().or(nothing).cloned()
    }

    pub(crate) fn has_failed(&self) -> bool {
        lock(&self.state).failed.is_some()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.room.load(Ordering::Relaxed)
    }

    /// Whether it is known that there is a next segment.
    #[cfg(test)]
    pub(crate) fn is_ahead(&self) -> bool {
        matches!(lock(&self.state).ahead, Ahead::Ready)
    }

    fn check_room(&self, state: &State, bytes: u64) -> Result<()> {
        let refuse = |why: String| Err(Error::new(ErrorKind::Exhausted, why));
        if let Some(why) = &state.stalled {
            return refuse(format!("the journal is full: {why}"));
        }
        let fits = state.worst + bytes + OVERHEAD_BYTES <= state.free;
        match &state.ahead {
            Ahead::Nothing(why) if !fits => {
                return refuse(format!("the journal is full: {why}"));
            }
            Ahead::Unknown if !fits => {
                return refuse("the journal is full until its next segment is made".to_owned());
            }
            _ => {}
        }
        if state.waiting + bytes > self.waiting_max {
            return refuse(format!(
                "the journal's disk does not keep up: {} bytes wait for it already",
                state.waiting
            ));
        }
        Ok(())
    }

    /// Publishers are held back before the end is reached, so that what is under way fits.
    fn measure(&self, state: &State) {
        let fits = match &state.ahead {
            Ahead::Ready => true,
            // Most often it is there in a moment, so a segment that is short because the log is
            // new does not hold anybody back from its first byte.
            Ahead::Unknown => state.worst + state.reserve <= state.free,
            Ahead::Nothing(_) => state.worst + self.reserve_max <= state.free,
        };
        let room = state.failed.is_none()
            && state.stalled.is_none()
            && fits
            && state.waiting <= self.waiting_max / 2;
        if self.room.load(Ordering::Relaxed) != room {
            self.room.store(room, Ordering::Relaxed);
        }
    }
}
