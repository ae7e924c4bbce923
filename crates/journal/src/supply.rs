//! Keeps one blank file ready ahead of need, and takes back files whose records were trimmed.
//!
//! A helper thread fills files with zeros, so that neither an append nor a commit waits for
//! it, and a full disk is met here, where no reading is at risk.
//!
//! Invariants
//! * All files together, segments and blanks, are at most `bytes_max` bytes long.
//! * A file is used again only when nobody reads it any more; otherwise it is removed.
//! * When no file can be had, the queue is told why at once; the helper tries again when
//!   files come back, and from time to time while the disk is full.

use std::io;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use crate::Options;
use crate::disk::{Disk, SegmentFile};
use crate::queue::Queue;
use crate::segment::{PAGE_BYTES, SharedSegment};
use crate::sync::{lock, wait, wait_for};

/// How often a full disk is asked again.
pub(crate) const RETRY: Duration = Duration::from_millis(200);
/// Trimmed files kept for their next use.
const SPARES_MAX: usize = 2;
/// The first segment is short, so that a new log opens at once; each next one is twice as
/// long, until they have their full length.
pub(crate) const FIRST_BYTES: u64 = 1024 * 1024;

/// A file without records.
#[derive(Debug)]
pub(crate) struct Blank {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) file: Box<dyn SegmentFile>,
}

/// The blank files, and the thread that makes them.
#[derive(Debug)]
pub(crate) struct Supply {
    state: Mutex<State>,
    /// Tells the helper that something changed.
    work: Condvar,
    /// Tells the writer that a file is ready.
    ready: Condvar,
    disk: Arc<dyn Disk>,
    queue: Arc<Queue>,
    options: Options,
}

#[derive(Debug)]
struct State {
    ready: Option<Blank>,
    spares: Vec<Blank>,
    retired: Vec<SharedSegment>,
    /// Bytes of all files.
    total: u64,
    /// The length of the next new file.
    size: u64,
    /// The number in the next file's name; also a segment's generation.
    number: u64,
    stop: bool,
}

impl Supply {
    /// `total` bytes of files exist, `last` of them in the newest segment; numbers from
    /// `number` on are free.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        queue: Arc<Queue>,
        options: Options,
        spares: Vec<Blank>,
        (total, last, number): (u64, u64, u64),
    ) -> Supply {
        let size = (2 * last).min(options.segment_bytes);
        let state =
            State { ready: None, spares, retired: Vec::new(), total, size, number, stop: false };
        Supply {
            state: Mutex::new(state),
            work: Condvar::new(),
            ready: Condvar::new(),
            disk,
            queue,
            options,
        }
    }

    /// A number never given before.
    pub(crate) fn number(&self) -> u64 {
        let mut state = lock(&self.state);
        state.number += 1;
        state.number - 1
    }

    /// Takes the blank file, which holds at least `bytes` behind its head. Waits until there
    /// is one; `None` when the log closes meanwhile.
    pub(crate) fn take(&self, bytes: u64) -> Option<Blank> {
        let mut state = lock(&self.state);
        loop {
            // A segment that still grows may be too short for one long batch.
            if bytes > state.size - PAGE_BYTES {
                state.size = self.options.segment_bytes;
            }
            if let Some(blank) = state.ready.take() {
                if blank.bytes - PAGE_BYTES >= bytes {
                    state.size = (2 * blank.bytes).min(self.options.segment_bytes);
                    self.queue.roll(blank.bytes - PAGE_BYTES, !state.spares.is_empty());
                    self.look_ahead(&state);
                    self.work.notify_one();
                    return Some(blank);
                }
                state.total -= if self.remove(&blank.name) { blank.bytes } else { 0 };
                self.queue.wait_for_longer();
            }
            if state.stop {
                return None;
            }
            self.work.notify_one();
            state = wait(&self.ready, state);
        }
    }

    /// Takes segments whose records are no longer needed.
    pub(crate) fn retire(&self, segments: Vec<SharedSegment>) {
        if segments.is_empty() {
            return;
        }
        lock(&self.state).retired.extend(segments);
        self.work.notify_one();
    }

    /// Ends the helper and whoever waits for a file.
    pub(crate) fn stop(&self) {
        self.end(&mut lock(&self.state));
    }

    /// Has the helper look again, because the queue closes: a writer that waits for a file
    /// then gets it, or is told that there is none.
    pub(crate) fn look_again(&self) {
        let _state = lock(&self.state);
        self.work.notify_all();
    }

    fn end(&self, state: &mut State) {
        state.stop = true;
        self.work.notify_all();
        self.ready.notify_all();
    }

    /// The helper's life.
    pub(crate) fn run(&self) {
        let mut state = lock(&self.state);
        while !state.stop {
            if !state.retired.is_empty() {
                let retired = std::mem::take(&mut state.retired);
                drop(state);
                retired.into_iter().for_each(|segment| self.dispose(segment));
                state = lock(&self.state);
            } else if state.ready.is_some() {
                state = wait(&self.work, state);
            } else if let Some(spare) = state.spares.pop() {
                state.ready = Some(spare);
                self.arrived();
            } else if self.full(&state) {
                self.look_ahead(&state);
                if self.queue.stopping() {
                    return self.end(&mut state);
                }
                state = wait(&self.work, state);
            } else {
                let bytes = state.size;
                let name = spare_name(state.number);
                state.number += 1;
                drop(state);
                let made = self.disk.create(&name, bytes);
                state = lock(&self.state);
                match made {
                    Ok(file) => {
                        state.total += bytes;
                        state.ready = Some(Blank { name, bytes, file });
                        self.arrived();
                    }
                    Err(cause) => {
                        self.queue.block(format!("no new segment could be made: {cause}"));
                        if self.queue.stopping() {
                            return self.end(&mut state);
                        }
                        state = wait_for(&self.work, state, RETRY);
                    }
                }
            }
        }
    }

    fn arrived(&self) {
        self.queue.unblock();
        self.ready.notify_all();
    }

    fn full(&self, state: &State) -> bool {
        state.total + state.size > self.options.bytes_max
    }

    /// Tells the queue if there will be no next file. Called with the state locked, so that
    /// what the queue hears is in the order of what happened.
    fn look_ahead(&self, state: &State) {
        if state.ready.is_none()
            && state.spares.is_empty()
            && state.retired.is_empty()
            && self.full(state)
        {
            self.queue.block(format!(
                "{} of {} bytes are in use; it takes more when what is in it was delivered, or \
                 with a larger bound",
                state.total, self.options.bytes_max
            ));
        }
    }

    /// Keeps a trimmed file for its next use, or removes it.
    fn dispose(&self, segment: SharedSegment) {
        let (spare, wanted) = {
            let mut state = lock(&self.state);
            state.number += 1;
            let spares = state.spares.len() + usize::from(state.ready.is_some());
            (spare_name(state.number - 1), spares < SPARES_MAX)
        };
        let (name, bytes) = (segment.name.clone(), segment.bytes);
        // A reader under way keeps its file: it would find frames of another use in it.
        let reusable = (wanted && bytes == self.options.segment_bytes)
            .then(|| Arc::into_inner(segment))
            .flatten();
        let Some(segment) = reusable else {
            let removed = self.remove(&name);
            lock(&self.state).total -= if removed { bytes } else { 0 };
            return;
        };
        match self.disk.rename(&name, &spare) {
            Ok(()) => {
                lock(&self.state).spares.push(Blank { name: spare, bytes, file: segment.file });
            }
            Err(cause) => tracing::warn!(%cause, %name, "a trimmed segment stays"),
        }
    }

    /// Removes a file. One that cannot be removed still counts; the next opening tries again.
    fn remove(&self, name: &str) -> bool {
        match self.disk.remove(name) {
            Ok(()) => true,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => true,
            Err(cause) => {
                tracing::warn!(%cause, %name, "a file of the log cannot be removed");
                false
            }
        }
    }
}

pub(crate) fn segment_name(number: u64) -> String {
    format!("segment-{number:016}.log")
}

pub(crate) fn spare_name(number: u64) -> String {
    format!("spare-{number:016}.log")
}
