//! The segment log: many appenders and readers, one writer, one helper.
//!
//! ```text
//! append ─▶ queue ─swap─▶ writer: seal, write, sync ─▶ watermark ─▶ bells
//!                            │  ▲
//!                            ▼  └ blank files ◀─ helper ◀─ trimmed segments
//! read ◀─ recent commits, or the segment's file
//! ```
//! [`crate::queue`] gives offsets, [`crate::commit`] makes them durable, [`crate::supply`]
//! keeps files ready, [`crate::recover`] opens what an earlier process left.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base::{Error, ErrorKind, Offset, Result};

use crate::bell::Bell;
use crate::commit::Writer;
use crate::cursors::Cursors;
use crate::disk::{Disk, Folder};
use crate::latency::{Latency, Receipts};
use crate::queue::Queue;
use crate::recent::Recents;
use crate::recover::{Recovered, hex, recover};
use crate::segment::{PAGE_BYTES, SharedSegment, skip};
use crate::supply::Supply;
use crate::sync::{lock, wait_for};
use crate::{Appended, Batch, Journal, Records, SkipReason, Skipped, Status};

const LOCK_FILE: &str = "lock";
/// Damaged ranges remembered, so that each is counted and reported once.
const DAMAGE_MAX: usize = 4096;
/// The shortest segment: one that holds a few messages of the default size is useless, but
/// tests roll often.
const SEGMENT_BYTES_MIN: u64 = 16 * 1024;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// How a log is laid out.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of one segment file: a multiple of 4096 from 16 KiB to 1 GiB. A batch may take
    /// almost half of it, at most 32 MiB.
    pub segment_bytes: u64,
    /// Bound on all segment files together, blank ones included; at least two segments.
    pub bytes_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { segment_bytes: 64 * 1024 * 1024, bytes_max: base::limits::JOURNAL_BYTES_MAX }
    }
}

impl Options {
    fn check(&self) -> Result<()> {
        let Options { segment_bytes, bytes_max } = *self;
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes)
            || !segment_bytes.is_multiple_of(PAGE_BYTES)
        {
            return Err(Error::invalid(format!(
                "journal.segment_bytes {segment_bytes} is not a multiple of {PAGE_BYTES} from \
                 {SEGMENT_BYTES_MIN} to {SEGMENT_BYTES_MAX}"
            )));
        }
        if bytes_max < 2 * segment_bytes {
            return Err(Error::invalid(format!(
                "journal.bytes_max {bytes_max} is less than two segments of {segment_bytes} bytes"
            )));
        }
        Ok(())
    }
}

/// A log in a folder. Dropping it commits what waits.
#[derive(Debug)]
pub struct SegmentLog {
    pub(crate) shared: Arc<Shared>,
    /// The writer, then the helper.
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Held for the life of the log, so that a second process is refused.
    _lock: Option<File>,
}

/// What the log's threads and callers share.
#[derive(Debug)]
pub(crate) struct Shared {
    id: String,
    pub(crate) log_id: [u8; 16],
    bytes_max: u64,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) supply: Supply,
    /// In order; the last is written to. Never empty.
    segments: RwLock<VecDeque<SharedSegment>>,
    first: AtomicU64,
    pub(crate) recents: Mutex<Recents>,
    cursors: Mutex<Cursors>,
    durable: AtomicU64,
    /// Where the last segment's next frame goes.
    pub(crate) position: AtomicU64,
    watchers: Mutex<Vec<Weak<Bell>>>,
    /// How many threads sleep in `wait_durable`.
    sleepers: Mutex<usize>,
    rose: Condvar,
    commits: AtomicU64,
    pub(crate) latency: Latency,
    damage: Mutex<Damage>,
}

/// What was found damaged since the log was opened.
#[derive(Debug, Default)]
struct Damage {
    known: BTreeMap<Offset, Offset>,
    batches: u64,
    records: u64,
}

impl SegmentLog {
    /// Opens the log in `dir`, making it when absent. Refused while another process has it.
    pub fn open(dir: &Path, options: Options) -> Result<Arc<SegmentLog>> {
        let place = dir.display();
        std::fs::create_dir_all(dir).map_err(|e| Error::io(format!("make folder {place}"), e))?;
        let path = dir.join(LOCK_FILE);
        let lock = File::options().create(true).append(true).open(&path);
        let lock = lock.map_err(|e| Error::io(format!("open {}", path.display()), e))?;
        lock.try_lock().map_err(|cause| match cause {
            std::fs::TryLockError::WouldBlock => Error::new(
                ErrorKind::Conflict,
                format!("another process uses the journal in {place}; stop it first"),
            ),
            std::fs::TryLockError::Error(cause) => Error::io(format!("lock {place}"), cause),
        })?;
        Self::open_on(Arc::new(Folder::new(dir.to_owned())), options, Some(lock))
    }

    pub(crate) fn open_on(
        disk: Arc<dyn Disk>,
        options: Options,
        lock: Option<File>,
    ) -> Result<Arc<SegmentLog>> {
        options.check()?;
        let cursors = Cursors::load(&*disk)?;
        let recovered = recover(&*disk, &options, cursors.promised())?;
        let Recovered { log_id, segments, spares, next, position, number, corrupt } = recovered;
        let last = segments.back().cloned().ok_or_else(|| Error::internal("log of no segment"))?;
        let free = last.bytes - position;
        let queue = Arc::new(Queue::new(options.segment_bytes, next, free, last.bytes));
        let total = segments.iter().map(|segment| segment.bytes).sum::<u64>()
            + spares.iter().map(|spare| spare.bytes).sum::<u64>();
        let bytes_max = options.bytes_max;
        let supply = Supply::new(
            Arc::clone(&disk),
            Arc::clone(&queue),
            options,
            spares,
            (total, last.bytes, number),
        );
        let shared = Arc::new(Shared {
            id: hex(&log_id),
            log_id,
            bytes_max,
            disk,
            queue,
            supply,
            first: AtomicU64::new(segments.front().map_or(0, |first| first.head.base.0)),
            segments: RwLock::new(segments),
            recents: Mutex::default(),
            cursors: Mutex::new(cursors),
            durable: AtomicU64::new(next.0),
            position: AtomicU64::new(position),
            watchers: Mutex::default(),
            sleepers: Mutex::default(),
            rose: Condvar::new(),
            commits: AtomicU64::new(0),
            latency: Latency::default(),
            damage: Mutex::new(Damage { batches: corrupt, ..Damage::default() }),
        });
        // What every consumer had passed may have outlived a crash in the middle of a trim.
        shared.trim();
        let log = Arc::new(SegmentLog { shared, threads: Mutex::default(), _lock: lock });
        let writer = Writer::new(Arc::clone(&log.shared), last, position);
        log.spawn("journal", move || writer.run())?;
        let shared = Arc::clone(&log.shared);
        log.spawn("journal-supply", move || shared.supply.run())?;
        Ok(log)
    }

    /// How long records waited for stable storage since the log was opened.
    pub fn receipts(&self) -> Receipts {
        self.shared.latency.read()
    }

    /// About how many bytes of log are kept from `from` on: what a reader that stands there has
    /// before it, damage and what frames add included.
    pub fn bytes_from(&self, from: Offset) -> u64 {
        self.shared.bytes_from(from)
    }

    /// Trims a log that is full. The consumer that held it back may be one that never trims, and
    /// those that do have nothing to read as long as nothing more is taken.
    fn go_on(&self) {
        if !self.shared.queue.has_room() {
            self.shared.trim();
        }
    }

    fn spawn(&self, name: &str, life: impl FnOnce() + Send + 'static) -> Result<()> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(life);
        lock(&self.threads).push(thread.map_err(|e| Error::io(format!("start {name}"), e))?);
        Ok(())
    }
}

impl Drop for SegmentLog {
    /// Commits what waits, then ends the threads.
    fn drop(&mut self) {
        self.shared.queue.stop();
        let mut threads = std::mem::take(&mut *lock(&self.threads)).into_iter();
        // The writer may still need the helper, or wait for it in vain.
        self.shared.supply.look_again();
        if let Some(writer) = threads.next() {
            drop(writer.join());
        }
        self.shared.supply.stop();
        threads.for_each(|helper| drop(helper.join()));
        // What a failed sync left is not known to be durable.
        if !self.shared.queue.has_failed() {
            let durable = self.shared.durable();
            let closed = lock(&self.shared.cursors).close(&*self.shared.disk, durable);
            if let Err(error) = closed {
                tracing::warn!(%error, "the end of the log could not be written down");
            }
        }
    }
}

impl Journal for SegmentLog {
    fn id(&self) -> &str {
        &self.shared.id
    }

    fn append(&self, batch: &Batch, bell: Option<&Arc<Bell>>) -> Result<Appended> {
        self.shared.queue.append(batch, bell, false)
    }

    fn append_some(&self, batch: &Batch, bell: Option<&Arc<Bell>>) -> Result<Appended> {
        self.shared.queue.append(batch, bell, true)
    }

    fn nudge(&self) {
        self.shared.queue.nudge();
    }

    fn durable(&self) -> Offset {
        self.shared.durable()
    }

    fn first(&self) -> Offset {
        self.shared.first()
    }

    fn read(&self, from: Offset, bytes_max: usize) -> Result<Records> {
        self.shared.read(from, bytes_max)
    }

    fn watch(&self) -> Arc<Bell> {
        let bell = Bell::new();
        let mut watchers = lock(&self.shared.watchers);
        watchers.retain(|watcher| watcher.strong_count() > 0);
        watchers.push(Arc::downgrade(&bell));
        drop(watchers);
        // A commit, or the end, may have passed before the bell was in the list.
        bell.ring(self.durable());
        if self.shared.queue.has_failed() {
            bell.fail();
        }
        bell
    }

    fn wait_durable(&self, past: Offset, timeout: Duration) -> Offset {
        let shared = &*self.shared;
        let deadline = Instant::now() + timeout;
        let mut sleepers = lock(&shared.sleepers);
        loop {
            let durable = shared.durable();
            let left = deadline.saturating_duration_since(Instant::now());
            if durable > past || left.is_zero() || shared.queue.has_failed() {
                return durable;
            }
            *sleepers += 1;
            sleepers = wait_for(&shared.rose, sleepers, left);
            *sleepers -= 1;
        }
    }

    fn has_room(&self) -> bool {
        self.shared.queue.has_room()
    }

    fn commit(&self, consumer: &str, next: Offset) -> Result<()> {
        let durable = self.durable();
        if next > durable {
            return Err(Error::invalid(format!(
                "cursor {consumer:?} to {next}, beyond the durable offset {durable}"
            )));
        }
        let mut cursors = lock(&self.shared.cursors);
        match cursors.get(consumer) {
            Some(before) if before > next => Err(Error::invalid(format!(
                "cursor {consumer:?} is at {before} and cannot go back to {next}"
            ))),
            Some(before) if before == next => Ok(()),
            _ => {
                cursors.set(&*self.shared.disk, consumer, next, durable)?;
                drop(cursors);
                self.go_on();
                Ok(())
            }
        }
    }

    fn committed(&self, consumer: &str) -> Result<Option<Offset>> {
        Ok(lock(&self.shared.cursors).get(consumer))
    }

    fn forget(&self, consumer: &str) -> Result<()> {
        lock(&self.shared.cursors).remove(&*self.shared.disk, consumer)?;
        self.go_on();
        Ok(())
    }

    fn trim(&self) -> Result<Offset> {
        self.shared.trim();
        Ok(self.shared.first())
    }

    fn status(&self) -> Status {
        let shared = &*self.shared;
        let (segments, sealed) = {
            let segments = shared.segments();
            let sealed = segments.iter().rev().skip(1).map(|segment| segment.bytes).sum::<u64>();
            (segments.len(), sealed)
        };
        let (corrupt_batches, corrupt_records) = {
            let damage = lock(&shared.damage);
            (damage.batches, damage.records)
        };
        Status {
            id: shared.id.clone(),
            first: shared.first(),
            durable: shared.durable(),
            next: shared.queue.next(),
            bytes: sealed + shared.position.load(Ordering::Relaxed),
            bytes_max: shared.bytes_max,
            segments,
            failed: shared.queue.failed(),
            blocked: shared.queue.blocked(),
            corrupt_batches,
            corrupt_records,
            commits: shared.commits.load(Ordering::Relaxed),
            cursors: lock(&shared.cursors).all(),
        }
    }
}

impl Shared {
    pub(crate) fn durable(&self) -> Offset {
        Offset(self.durable.load(Ordering::SeqCst))
    }

    fn first(&self) -> Offset {
        Offset(self.first.load(Ordering::SeqCst))
    }

    fn segments(&self) -> std::sync::RwLockReadGuard<'_, VecDeque<SharedSegment>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn segments_mut(&self) -> std::sync::RwLockWriteGuard<'_, VecDeque<SharedSegment>> {
        self.segments.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the segment that is written to from now on.
    pub(crate) fn adopt(&self, segment: SharedSegment) {
        self.segments_mut().push_back(segment);
        self.position.store(PAGE_BYTES, Ordering::Relaxed);
    }

    /// Moves the watermark to `durable` and tells everybody.
    pub(crate) fn announce(&self, durable: Offset, bells: &[Arc<Bell>]) {
        self.durable.store(durable.0, Ordering::SeqCst);
        self.commits.fetch_add(1, Ordering::Relaxed);
        bells.iter().for_each(|bell| bell.ring(durable));
        for watcher in lock(&self.watchers).iter().filter_map(Weak::upgrade) {
            watcher.ring(durable);
        }
        if *lock(&self.sleepers) > 0 {
            self.rose.notify_all();
        }
    }

    /// The end of acknowledging: a failed sync says nothing about what is on the disk.
    pub(crate) fn fail(&self, why: &str, under_way: &[Arc<Bell>]) {
        tracing::error!(why, "the journal acknowledges nothing any more");
        let waiting = self.queue.fail(why.to_owned());
        under_way.iter().chain(&waiting).for_each(|bell| bell.fail());
        for watcher in lock(&self.watchers).iter().filter_map(Weak::upgrade) {
            watcher.fail();
        }
        drop(lock(&self.sleepers));
        self.rose.notify_all();
    }

    fn read(&self, from: Offset, bytes_max: usize) -> Result<Records> {
        let durable = self.durable();
        if from > durable && from > self.queue.next() {
            return Err(Error::invalid(format!(
                "offset {from} was never given; the journal ends at {durable}"
            )));
        }
        let mut records = Records { items: Vec::new(), next: from, skipped: Vec::new() };
        let mut room = bytes_max.max(1);
        while records.next < durable && room > 0 {
            let first = self.first();
            if records.next < first {
                let reason = SkipReason::Trimmed;
                skip(&mut records, Skipped { from, to: first.min(durable), reason });
                continue;
            }
            let recent = lock(&self.recents).find(records.next);
            if let Some(recent) = recent {
                recent.read(&mut room, &mut records);
                continue;
            }
            let Some((segment, limit)) = self.segment_at(records.next, durable) else { continue };
            let mut damage = Vec::new();
            segment.read(limit, &mut room, &mut records, &mut damage).map_err(|e| {
                Error::io(format!("read the journal at offset {}", records.next), e)
            })?;
            damage.into_iter().for_each(|gap| self.note_damage(gap));
        }
        Ok(records)
    }

    /// The segment that holds `offset`, and where it ends; `None` if it was just trimmed.
    fn segment_at(&self, offset: Offset, durable: Offset) -> Option<(SharedSegment, Offset)> {
        let segments = self.segments();
        let after = segments.partition_point(|segment| segment.head.base <= offset);
        let segment = segments.get(after.checked_sub(1)?)?;
        let end = segments.get(after).map_or(durable, |next| next.head.base.min(durable));
        Some((Arc::clone(segment), end))
    }

    fn bytes_from(&self, from: Offset) -> u64 {
        let durable = self.durable();
        let segments = self.segments();
        let mut bytes = 0;
        for (at, segment) in segments.iter().enumerate().rev() {
            let (next, end) = match segments.get(at + 1) {
                Some(following) => (following.head.base, segment.bytes),
                None => (durable, self.position.load(Ordering::Relaxed)),
            };
            if from > segment.head.base {
                if from < next {
                    bytes += end.saturating_sub(segment.place_of(from, next, end));
                }
                break;
            }
            bytes += end.saturating_sub(PAGE_BYTES);
        }
        bytes
    }

    /// Counts and reports a gap the first time it is met.
    fn note_damage(&self, gap: Skipped) {
        let mut damage = lock(&self.damage);
        if damage.known.contains_key(&gap.from) {
            return;
        }
        damage.batches += 1;
        damage.records += gap.to.0.saturating_sub(gap.from.0);
        if damage.known.len() < DAMAGE_MAX {
            damage.known.insert(gap.from, gap.to);
        }
        drop(damage);
        let (from, to) = (gap.from.0, gap.to.0);
        tracing::error!(from, to, reason = ?gap.reason, "records of the journal are damaged");
    }

    fn trim(&self) {
        let Some(passed) = lock(&self.cursors).min() else { return };
        let mut retired = Vec::new();
        let mut segments = self.segments_mut();
        while segments.get(1).is_some_and(|second| second.head.base <= passed) {
            retired.extend(segments.pop_front());
        }
        let first = segments.front().map_or(0, |segment| segment.head.base.0);
        self.first.store(first, Ordering::SeqCst);
        drop(segments);
        self.supply.retire(retired);
    }
}

/// A number nobody can guess, from the seeds of the standard library's hasher.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(0)
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
