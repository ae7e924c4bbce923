//! The writer: one thread that makes what waits durable, and only then says so.
//!
//! While one commit is synced the next one gathers, so the disk sets the pace and the batch grows
//! with the load.
//!
//! Invariants
//! * The watermark moves, and bells ring, only after the sync that covers them returned.
//! * Sectors of an earlier commit are never written again.
//! * A failed write or sync is final: it is not retried, and nothing is acknowledged after
//!   it. A disk that is merely full has lost nothing and is asked again.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base::Offset;

use crate::frame::{self, Frame, align_up};
use crate::log::{Shared, random};
use crate::queue::{Commit, Mark, SECTOR_BYTES};
use crate::recent::{Pool, Recent};
use crate::segment::{Head, PAGE_BYTES, Segment, SharedSegment};
use crate::supply::{Blank, RETRY, segment_name};
use crate::sync::lock;

/// Why the writer ends before it is asked to.
enum Halt {
    /// The log closes while its disk is full; what waits was never acknowledged.
    Closing,
    Failed(io::Error),
}

impl From<io::Error> for Halt {
    fn from(cause: io::Error) -> Self {
        Halt::Failed(cause)
    }
}

/// See the module.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    segment: SharedSegment,
    /// Where the next frame goes; the segment's length when it takes no more.
    position: u64,
    /// Everything below is synced.
    stable: Offset,
    /// Whether anything was written since the log was opened.
    written: bool,
    pool: Arc<Pool>,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, segment: SharedSegment, position: u64) -> Writer {
        let stable = shared.durable();
        Writer { shared, segment, position, stable, written: false, pool: Arc::default() }
    }

    /// The writer's life.
    pub(crate) fn run(mut self) {
        let _latch = Latch(Arc::clone(&self.shared));
        let mut done = Commit::default();
        while let Some(mut commit) = self.shared.queue.next_commit(done, self.free()) {
            match self.commit(&mut commit) {
                Ok(()) => {}
                Err(Halt::Closing) => {
                    return self.shared.fail("the log was closed while full", &commit.bells);
                }
                Err(Halt::Failed(cause)) => {
                    tracing::error!(%cause, "the journal's storage failed");
                    return self.shared.fail(&cause.to_string(), &commit.bells);
                }
            }
            commit.bells.clear();
            commit.frames.clear();
            commit.bytes = self.pool.take();
            done = commit;
        }
        if let Err(cause) = self.mark_end() {
            tracing::warn!(%cause, "the end of the log could not be marked");
        }
    }

    fn free(&self) -> u64 {
        self.segment.bytes - self.position
    }

    /// Puts a commit on stable storage, in two segments or more if it does not fit into one.
    fn commit(&mut self, commit: &mut Commit) -> Result<(), Halt> {
        let mut bytes = std::mem::take(&mut commit.bytes);
        let mut frames = std::mem::take(&mut commit.frames);
        loop {
            let fitting = self.fitting(&frames);
            if fitting == frames.len() {
                self.put_and_tell(bytes, frames, commit)?;
                return Ok(());
            }
            let mut rest = frames.split_off(fitting);
            if let Some(first) = rest.first().copied() {
                let tail = bytes.split_off(first.at);
                if fitting > 0 {
                    self.put_and_tell(bytes, frames, commit)?;
                }
                for mark in &mut rest {
                    mark.at -= first.at;
                    mark.end -= first.at;
                }
                self.roll(first.base, (first.end - first.at) as u64 + SECTOR_BYTES)?;
                bytes = tail;
            }
            frames = rest;
        }
    }

    /// How many of `frames` fit into the segment.
    fn fitting(&self, frames: &[Mark]) -> usize {
        let fits = |frame: &&Mark| {
            align_up(self.position + frame.end as u64, SECTOR_BYTES) <= self.segment.bytes
        };
        frames.iter().take_while(fits).count()
    }

    /// Writes and syncs frames that fit, and says so to whom it concerns.
    fn put_and_tell(
        &mut self,
        bytes: Vec<u8>,
        frames: Vec<Mark>,
        commit: &Commit,
    ) -> Result<(), Halt> {
        let before = self.stable;
        let next = self.put(bytes, frames)?;
        if let Some(since) = commit.since {
            self.shared.latency.add(since.elapsed(), next.0 - before.0);
        }
        self.shared.announce(next, &commit.bells);
        Ok(())
    }

    /// Writes and syncs frames that fit; returns what is durable now.
    fn put(&mut self, mut bytes: Vec<u8>, frames: Vec<Mark>) -> Result<Offset, Halt> {
        let start = self.position;
        let end = align_up(start + bytes.len() as u64, SECTOR_BYTES);
        // Whole pages are written, for a part of one would first have to be read when the
        // file is an old one that the page cache has forgotten.
        bytes.resize((align_up(end, PAGE_BYTES) - start) as usize, 0);
        let mut next = self.stable;
        for (index, mark) in frames.iter().enumerate() {
            let following = frames.get(index + 1).map_or((end - start) as usize, |mark| mark.at);
            let payload = &bytes[mark.at + frame::HEAD_BYTES..mark.end];
            let head = Frame::new(payload, following - mark.at, mark.count, mark.base, self.stable);
            next = head.next();
            bytes[mark.at..mark.at + frame::HEAD_BYTES]
                .copy_from_slice(&head.encode(self.segment.seed));
        }
        self.write(&bytes, start)?;
        self.segment.file.sync()?;
        self.position = end;
        self.stable = next;
        self.written = true;
        for mark in &frames {
            self.segment.note(mark.base, start + mark.at as u64);
        }
        self.shared.position.store(end, Ordering::Relaxed);
        // Without the zeros up to the end of the page.
        bytes.truncate(frames.last().map_or(0, |last| last.end));
        let bytes = self.pool.share(bytes);
        lock(&self.shared.recents).push(Recent { next, bytes, frames });
        Ok(next)
    }

    /// Writes, waiting while the disk is full: a file system that copies on write may need
    /// room even for blocks that were filled before.
    fn write(&self, bytes: &[u8], position: u64) -> Result<(), Halt> {
        self.when_not_full(|| self.segment.file.write_at(bytes, position))
    }

    /// Starts a new segment at `base` in a blank file that holds `bytes`.
    fn roll(&mut self, base: Offset, bytes: u64) -> Result<(), Halt> {
        let blank = self.shared.supply.take(bytes).ok_or(Halt::Closing)?;
        let head = Head {
            generation: self.shared.supply.number(),
            salt: random(),
            base,
            bytes: blank.bytes,
            log_id: self.shared.log_id,
        };
        let name = segment_name(head.generation);
        self.when_not_full(|| {
            blank.file.write_at(&head.encode(), 0)?;
            blank.file.sync()?;
            self.shared.disk.rename(&blank.name, &name)
        })?;
        let Blank { bytes, file, .. } = blank;
        self.segment = Arc::new(Segment::new(name, head, bytes, file));
        self.position = PAGE_BYTES;
        self.shared.adopt(Arc::clone(&self.segment));
        Ok(())
    }

    fn when_not_full(&self, act: impl Fn() -> io::Result<()>) -> Result<(), Halt> {
        let queue = &self.shared.queue;
        let mut stalled = false;
        loop {
            match act() {
                Err(cause) if cause.kind() == io::ErrorKind::StorageFull => {
                    if queue.stopping() {
                        return Err(Halt::Closing);
                    }
                    queue.stall(Some(format!("the disk takes no bytes: {cause}")));
                    stalled = true;
                    std::thread::sleep(RETRY);
                }
                outcome => {
                    if stalled {
                        queue.stall(None);
                    }
                    return Ok(outcome?);
                }
            }
        }
    }

    /// Writes an empty frame that says that everything before it is durable, so that the next
    /// opening tells a damaged last commit from one that a crash cut short.
    fn mark_end(&mut self) -> io::Result<()> {
        let end = align_up(self.position + frame::HEAD_BYTES as u64, SECTOR_BYTES);
        if !self.written || end > self.segment.bytes {
            return Ok(());
        }
        let span = end - self.position;
        let frame = Frame::new(&[], span as usize, 0, self.stable, self.stable);
        self.segment.file.write_at(&frame.encode(self.segment.seed), self.position)?;
        self.segment.file.sync()
    }
}

/// Fails the log if the writer panics: nobody else would ever answer.
struct Latch(Arc<Shared>);

impl Drop for Latch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("the writer stopped because of a bug", &[]);
        }
    }
}
