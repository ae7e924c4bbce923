//! The segment log: one writer thread, many appenders and readers.
//!
//! ```text
//! append ─▶ pending ─swap─▶ commit thread: seal, write, sync ─▶ watermark ─▶ bells
//!                                              │
//! read ◀─ recent commits in memory ◀───────────┘   or the segment's file, behind
//! ```
//!
//! Invariants
//! * The watermark moves only after the sync that covers it returned.
//! * One commit is one batch: its records are found all or none.
//! * A failed write or sync is final. It is never retried; nothing is acknowledged again.
//! * Opening is a durability event: what a crash left in the last segment may exist only in
//!   the page cache, so it is copied to a fresh segment and synced before it is served.
//! * Offsets are never given twice: not below any cursor, not below any valid batch.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use base::{Error, ErrorKind, Offset, Result};
use bytes::Bytes;

use crate::batch::{Batch, PREFIX_BYTES};
use crate::bell::{Bell, stopped};
use crate::cursors::Cursors;
use crate::disk::{Disk, Folder, SegmentFile};
use crate::segment::{self, BATCH_HEAD_BYTES, BatchHead, Contents, HEAD_BYTES, Head};
use crate::{Appended, Journal, Records, SkipReason, Skipped, Status};

/// Commits kept in memory for readers at the tail.
const RECENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Records that wait for the next commit.
const PENDING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How often a log that cannot grow tries again.
const BLOCKED_RETRY: Duration = Duration::from_millis(100);
/// Trimmed files kept for their next use.
const SPARES_MAX: usize = 2;
const META_FILE: &str = "log.json";
const LOCK_FILE: &str = "lock";

/// How a log is laid out.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes of one segment file.
    pub segment_bytes: u64,
    /// Bound on all segment files together; at least two segments.
    pub bytes_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { segment_bytes: 64 * 1024 * 1024, bytes_max: base::limits::JOURNAL_BYTES_MAX }
    }
}

/// A log in a folder. See the module's documentation.
#[derive(Debug)]
pub struct SegmentLog {
    shared: Arc<Shared>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Held for the life of the log, so that a second process is refused.
    _lock: Option<File>,
}

#[derive(Debug)]
struct Shared {
    id: String,
    options: Options,
    disk: Box<dyn Disk>,
    queue: Mutex<Queue>,
    /// Tells the writer that there is something to do.
    work: Condvar,
    files: Mutex<Files>,
    cursors: Mutex<Cursors>,
    durable: AtomicU64,
    /// Bytes of the log in use, for the high-water mark.
    used: AtomicU64,
    room: AtomicBool,
    watchers: Mutex<Vec<Weak<Bell>>>,
    /// Guards nothing but the sleep of `wait_durable`.
    tide: Mutex<()>,
    rose: Condvar,
    commits: AtomicU64,
    /// Whether a file is being filled with zeros ahead of need.
    filling: AtomicBool,
}

/// What waits for the next commit. Held only for a copy.
#[derive(Debug)]
struct Queue {
    pending: Vec<u8>,
    count: u32,
    first: Offset,
    bells: Vec<Arc<Bell>>,
    epoch: u64,
    failed: Option<String>,
    blocked: Option<String>,
    stop: bool,
}

/// The segments in order; the last is written to.
#[derive(Debug)]
struct Files {
    segments: VecDeque<Segment>,
    recent: VecDeque<Recent>,
    recent_bytes: usize,
    spares: Vec<String>,
    sequence: u64,
    generation: u64,
    corrupt_batches: u64,
    corrupt_records: u64,
    /// The batch read from disk last: readers behind go through it in several reads.
    last_read: Option<(u64, u64, BatchHead, Bytes)>,
}

#[derive(Debug)]
struct Segment {
    name: String,
    head: Head,
    file: Arc<dyn SegmentFile>,
    contents: Contents,
}

#[derive(Debug)]
struct Recent {
    base: Offset,
    next: Offset,
    /// The records, framed.
    framed: Bytes,
}

impl SegmentLog {
    /// Opens the log in `dir`, making it when absent. Refused while another process has it.
    pub fn open(dir: &Path, options: Options) -> Result<Arc<SegmentLog>> {
        std::fs::create_dir_all(dir)
            .map_err(|e| Error::io(format!("make folder {}", dir.display()), e))?;
        let path = dir.join(LOCK_FILE);
        let lock =
            File::create(&path).map_err(|e| Error::io(format!("open {}", path.display()), e))?;
        lock.try_lock().map_err(|_held| {
            Error::new(
                ErrorKind::Conflict,
                format!("another process uses the log in {}", dir.display()),
            )
        })?;
        Self::open_on(Box::new(Folder::new(dir.to_owned())), options, Some(lock))
    }

    pub(crate) fn open_on(
        disk: Box<dyn Disk>,
        options: Options,
        lock: Option<File>,
    ) -> Result<Arc<SegmentLog>> {
        if options.segment_bytes < 2 * HEAD_BYTES || options.segment_bytes > 1 << 30 {
            return Err(Error::invalid(format!(
                "journal.segment_bytes {} is outside 8192..=1073741824",
                options.segment_bytes
            )));
        }
        if options.bytes_max < 2 * options.segment_bytes {
            return Err(Error::invalid(format!(
                "journal.bytes_max {} is less than two segments of {} bytes",
                options.bytes_max, options.segment_bytes
            )));
        }
        let id = load_id(&*disk)?;
        let cursors = Cursors::load(&*disk)?;
        let mut files = recover(&*disk, &id, &options, cursors.max())?;
        let next = files.current().contents.next;
        files.spares.sort();
        let shared = Arc::new(Shared {
            id: hex(&id),
            queue: Mutex::new(Queue {
                pending: vec![0; BATCH_HEAD_BYTES],
                count: 0,
                first: next,
                bells: Vec::new(),
                epoch: 1,
                failed: None,
                blocked: None,
                stop: false,
            }),
            work: Condvar::new(),
            used: AtomicU64::new(files.used(&options)),
            room: AtomicBool::new(true),
            files: Mutex::new(files),
            cursors: Mutex::new(cursors),
            durable: AtomicU64::new(next.0),
            watchers: Mutex::default(),
            tide: Mutex::default(),
            rose: Condvar::new(),
            commits: AtomicU64::new(0),
            filling: AtomicBool::new(false),
            options,
            disk,
        });
        shared.measure_room();
        let writer = std::thread::Builder::new()
            .name("journal".into())
            .spawn({
                let shared = shared.clone();
                move || shared.write_until_stopped()
            })
            .map_err(|e| Error::io("start the journal's writer", e))?;
        Ok(Arc::new(SegmentLog { shared, writer: Mutex::new(Some(writer)), _lock: lock }))
    }
}

impl Drop for SegmentLog {
    /// Commits what is pending, then ends the writer.
    fn drop(&mut self) {
        lock(&self.shared.queue).stop = true;
        self.shared.work.notify_all();
        if let Some(writer) = lock(&self.writer).take() {
            drop(writer.join());
        }
    }
}

impl Journal for SegmentLog {
    fn id(&self) -> &str {
        &self.shared.id
    }

    fn append(&self, batch: &Batch, bell: Option<&Arc<Bell>>) -> Result<Appended> {
        let shared = &*self.shared;
        let count =
            u32::try_from(batch.len()).map_err(|_| Error::invalid("batch of over 4 billion"))?;
        let bytes = batch.framed().len();
        if bytes > shared.batch_bytes_max() {
            return Err(Error::invalid(format!(
                "batch of {bytes} bytes; at most {} fit into a segment",
                shared.batch_bytes_max()
            )));
        }
        let mut queue = lock(&shared.queue);
        if queue.failed.is_some() {
            return Err(stopped());
        }
        let first = queue.first.plus(u64::from(queue.count));
        if count == 0 {
            return Ok(Appended { first, count: 0 });
        }
        shared.check_room(&queue, bytes)?;
        queue.pending.extend_from_slice(batch.framed());
        queue.count =
            queue.count.checked_add(count).ok_or_else(|| Error::internal("too many pending"))?;
        if let Some(bell) = bell
            && bell.enrol(queue.epoch)
        {
            queue.bells.push(bell.clone());
        }
        let was_idle = queue.count == count;
        drop(queue);
        if was_idle {
            shared.work.notify_one();
        }
        Ok(Appended { first, count: u64::from(count) })
    }

    fn durable(&self) -> Offset {
        self.shared.durable()
    }

    fn first(&self) -> Offset {
        lock(&self.shared.files).first()
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
        // A commit may have passed before the bell was in the list.
        bell.ring(self.durable());
        if lock(&self.shared.queue).failed.is_some() {
            bell.fail();
        }
        bell
    }

    fn wait_durable(&self, past: Offset, timeout: Duration) -> Offset {
        let deadline = Instant::now() + timeout;
        let mut tide = lock(&self.shared.tide);
        loop {
            let durable = self.durable();
            let left = deadline.saturating_duration_since(Instant::now());
            if durable > past || left.is_zero() || lock(&self.shared.queue).failed.is_some() {
                return durable;
            }
            let (guard, _timed_out) = self
                .shared
                .rose
                .wait_timeout(tide, left)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            tide = guard;
        }
    }

    fn has_room(&self) -> bool {
        self.shared.room.load(Ordering::Relaxed)
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
            _ => cursors.set(&*self.shared.disk, consumer, next),
        }
    }

    fn committed(&self, consumer: &str) -> Result<Option<Offset>> {
        Ok(lock(&self.shared.cursors).get(consumer))
    }

    fn forget(&self, consumer: &str) -> Result<()> {
        lock(&self.shared.cursors).remove(&*self.shared.disk, consumer)
    }

    fn trim(&self) -> Result<Offset> {
        self.shared.trim()
    }

    fn status(&self) -> Status {
        let shared = &*self.shared;
        let cursors = lock(&shared.cursors).all();
        let queue = lock(&shared.queue);
        let next = queue.first.plus(u64::from(queue.count));
        let (failed, blocked) = (queue.failed.clone(), queue.blocked.clone());
        drop(queue);
        let files = lock(&shared.files);
        Status {
            id: shared.id.clone(),
            first: files.first(),
            durable: shared.durable(),
            next,
            bytes: files.used(&shared.options),
            bytes_max: shared.options.bytes_max,
            segments: files.segments.len(),
            failed,
            blocked,
            corrupt_batches: files.corrupt_batches,
            corrupt_records: files.corrupt_records,
            commits: shared.commits.load(Ordering::Relaxed),
            cursors,
        }
    }
}

impl Shared {
    fn durable(&self) -> Offset {
        Offset(self.durable.load(Ordering::SeqCst))
    }

    fn batch_bytes_max(&self) -> usize {
        let segment = (self.options.segment_bytes - HEAD_BYTES) as usize - BATCH_HEAD_BYTES;
        segment.min(PENDING_BYTES_MAX)
    }

    fn check_room(&self, queue: &Queue, bytes: usize) -> Result<()> {
        let full = |why: String| Err(Error::new(ErrorKind::Exhausted, why));
        if queue.pending.len() - BATCH_HEAD_BYTES + bytes > self.batch_bytes_max() {
            let why = queue.blocked.as_deref().unwrap_or("the disk does not keep up");
            return full(format!("the journal takes no more for now: {why}"));
        }
        let after = self.used.load(Ordering::Relaxed) + (queue.pending.len() + bytes) as u64;
        if after > self.options.bytes_max {
            return full(format!(
                "the journal is full: {after} of {} bytes; it takes more when what is in it has \
                 been delivered, or with a higher journal.bytes_max",
                self.options.bytes_max
            ));
        }
        Ok(())
    }

    /// Above fifteen sixteenths publishers are held back, so that what is under way still fits.
    fn measure_room(&self) {
        let mark = self.options.bytes_max - self.options.bytes_max / 16;
        self.room.store(self.used.load(Ordering::Relaxed) < mark, Ordering::Relaxed);
    }

    fn write_until_stopped(self: &Arc<Self>) {
        loop {
            let Some(mut commit) = self.next_commit() else { return };
            let bells = std::mem::take(&mut commit.bells);
            match self.commit(commit) {
                Ok(Some(durable)) => bells.iter().for_each(|bell| bell.ring(durable)),
                Ok(None) => bells.iter().for_each(|bell| bell.fail()),
                Err(cause) => {
                    self.fail(&cause, &bells);
                    return;
                }
            }
        }
    }

    /// Takes all that is pending; `None` when the log is closing and nothing is.
    fn next_commit(&self) -> Option<Commit> {
        let mut queue = lock(&self.queue);
        while queue.count == 0 {
            if queue.stop {
                return None;
            }
            queue = self.work.wait(queue).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        let commit = Commit {
            base: queue.first,
            count: queue.count,
            batch: std::mem::replace(&mut queue.pending, vec![0; BATCH_HEAD_BYTES]),
            bells: std::mem::take(&mut queue.bells),
        };
        queue.first = commit.base.plus(u64::from(commit.count));
        queue.count = 0;
        queue.epoch += 1;
        Some(commit)
    }

    /// Puts a commit on stable storage and gives the new watermark; `None` when the log closed
    /// while the disk was full: those records were never acknowledged.
    fn commit(self: &Arc<Self>, commit: Commit) -> io::Result<Option<Offset>> {
        let Commit { base, count, mut batch, .. } = commit;
        let Some((file, generation, position)) = self.place_for(batch.len() as u64)? else {
            return Ok(None);
        };
        segment::seal(&mut batch, generation, base, count);
        file.write_at(&batch, position)?;
        file.sync()?;
        let next = base.plus(u64::from(count));
        let framed = Bytes::from(batch);
        {
            let mut files = lock(&self.files);
            files.note(base, next, position, framed);
            self.used.store(files.used(&self.options), Ordering::Relaxed);
        }
        self.measure_room();
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.durable.store(next.0, Ordering::SeqCst);
        for watcher in lock(&self.watchers).iter().filter_map(Weak::upgrade) {
            watcher.ring(next);
        }
        // Taking the lock orders this after a waiter's look at the watermark.
        drop(lock(&self.tide));
        self.rose.notify_all();
        self.fill_ahead(position);
        Ok(Some(next))
    }

    /// Has the next segment's file filled with zeros once this one is half full, so that a
    /// roll does not wait for it. A failure shows when the file is needed.
    fn fill_ahead(self: &Arc<Self>, position: u64) {
        if position < self.options.segment_bytes / 2 || self.filling.load(Ordering::Relaxed) {
            return;
        }
        let name = {
            let mut files = lock(&self.files);
            let segments = files.segments.len() as u64;
            if !files.spares.is_empty()
                || segments >= self.options.bytes_max / self.options.segment_bytes
            {
                return;
            }
            files.sequence += 1;
            spare_name(files.sequence)
        };
        self.filling.store(true, Ordering::Relaxed);
        let shared = self.clone();
        let spawned = std::thread::Builder::new().name("journal-fill".into()).spawn(move || {
            if shared.disk.create(&name, shared.options.segment_bytes).is_ok() {
                lock(&shared.files).spares.push(name);
            }
            shared.filling.store(false, Ordering::Relaxed);
        });
        if spawned.is_err() {
            self.filling.store(false, Ordering::Relaxed);
        }
    }

    /// Where a batch of `bytes` goes, rolling to a new segment when it does not fit. Waits
    /// while there is no room for one; `None` when the log closes meanwhile.
    fn place_for(&self, bytes: u64) -> io::Result<Option<(Arc<dyn SegmentFile>, u64, u64)>> {
        loop {
            let mut files = lock(&self.files);
            let current = files.current();
            if current.contents.end + bytes <= self.options.segment_bytes {
                return Ok(Some((
                    current.file.clone(),
                    current.head.generation,
                    current.contents.end,
                )));
            }
            let base = current.contents.next;
            let why = if files.segments.len() as u64
                >= self.options.bytes_max / self.options.segment_bytes
            {
                "every segment the bound allows is in use".to_owned()
            } else {
                // Usually a file is at hand, trimmed or filled ahead; else it is filled here,
                // under the lock, and readers wait some milliseconds.
                match files.grow(&*self.disk, &self.id, &self.options, base) {
                    Ok(()) => {
                        drop(files);
                        lock(&self.queue).blocked = None;
                        continue;
                    }
                    Err(cause) if cause.kind() == io::ErrorKind::StorageFull => {
                        format!("no space for a new segment: {cause}")
                    }
                    Err(cause) => return Err(cause),
                }
            };
            drop(files);
            let mut queue = lock(&self.queue);
            if queue.blocked.is_none() {
                tracing::warn!(%why, "the journal cannot grow; publishers are held back");
            }
            queue.blocked = Some(why);
            if queue.stop {
                return Ok(None);
            }
            drop(queue);
            self.room.store(false, Ordering::Relaxed);
            std::thread::sleep(BLOCKED_RETRY);
        }
    }

    /// The end of acknowledging: a failed sync says nothing about what is on the disk.
    fn fail(&self, cause: &io::Error, under_way: &[Arc<Bell>]) {
        tracing::error!(%cause, "the journal's storage failed; nothing is acknowledged any more");
        let mut queue = lock(&self.queue);
        queue.failed = Some(cause.to_string());
        let bells = std::mem::take(&mut queue.bells);
        drop(queue);
        self.room.store(false, Ordering::Relaxed);
        bells.iter().chain(under_way).for_each(|bell| bell.fail());
        for watcher in lock(&self.watchers).iter().filter_map(Weak::upgrade) {
            watcher.fail();
        }
        drop(lock(&self.tide));
        self.rose.notify_all();
    }

    fn read(&self, from: Offset, bytes_max: usize) -> Result<Records> {
        let durable = self.durable();
        if from > durable {
            return Err(Error::invalid(format!(
                "offset {from} was never given; the log ends at {durable}"
            )));
        }
        let mut records = Records { items: Vec::new(), next: from, skipped: Vec::new() };
        let mut bytes_left = bytes_max;
        while records.next < durable && (bytes_left > 0 || records.items.is_empty()) {
            let (base, next, framed) = match self.batch_at(records.next)? {
                Found::Batch { base, next, framed } => (base, next, framed),
                Found::Gap { to, reason } => {
                    let to = to.min(durable);
                    records.skipped.push(Skipped { from: records.next, to, reason });
                    records.next = to;
                    continue;
                }
            };
            let wanted = records.next;
            let mut at = base;
            for record in framed_records(&framed) {
                if at >= wanted {
                    bytes_left = bytes_left.saturating_sub(record.len() + PREFIX_BYTES);
                    records.items.push((at, record));
                    records.next = at.plus(1);
                    if bytes_left == 0 {
                        break;
                    }
                }
                at = at.plus(1);
            }
            if bytes_left > 0 {
                records.next = next;
            }
        }
        Ok(records)
    }

    /// The batch that holds `offset`, from memory or disk.
    fn batch_at(&self, offset: Offset) -> Result<Found> {
        let files = lock(&self.files);
        if let Some(recent) = files.recent_at(offset) {
            return Ok(recent);
        }
        let first = files.first();
        if offset < first {
            return Ok(Found::Gap { to: first, reason: SkipReason::Trimmed });
        }
        let index = files.segments.partition_point(|segment| segment.head.base <= offset);
        let Some(segment) = index.checked_sub(1).and_then(|index| files.segments.get(index)) else {
            return Ok(Found::Gap { to: first, reason: SkipReason::Trimmed });
        };
        if offset >= segment.contents.next {
            let to = files.segments.get(index).map_or(self.durable(), |next| next.head.base);
            return Ok(Found::Gap { to, reason: SkipReason::Missing });
        }
        let generation = segment.head.generation;
        if let Some((last, _, head, framed)) = &files.last_read
            && *last == generation
            && (head.base..head.next()).contains(&offset)
        {
            return Ok(Found::Batch { base: head.base, next: head.next(), framed: framed.clone() });
        }
        let (file, from, end) =
            (segment.file.clone(), segment.contents.seek(offset), segment.contents.end);
        let segment_next = segment.contents.next;
        drop(files);
        let found = walk(&*file, generation, from, end, offset, segment_next)
            .map_err(|e| Error::io("read the journal", e))?;
        let mut files = lock(&self.files);
        match found {
            Walked::Batch(position, head, framed) => {
                // The file may have been trimmed and used again while it was read.
                files.last_read = Some((generation, position, head, framed.clone()));
                Ok(Found::Batch { base: head.base, next: head.next(), framed })
            }
            Walked::Damaged { to } => {
                if offset < files.first() {
                    return Ok(Found::Gap { to: files.first(), reason: SkipReason::Trimmed });
                }
                files.corrupt_batches += 1;
                files.corrupt_records += to.0 - offset.0;
                tracing::error!(from = offset.0, to = to.0, "log records are damaged and skipped");
                Ok(Found::Gap { to, reason: SkipReason::Corrupt })
            }
        }
    }

    fn trim(&self) -> Result<Offset> {
        let Some(passed) = lock(&self.cursors).min() else { return Ok(lock(&self.files).first()) };
        let mut files = lock(&self.files);
        while files.segments.len() > 1
            && files.segments.get(1).is_some_and(|second| second.head.base <= passed)
        {
            let Some(dropped) = files.segments.pop_front() else { break };
            files
                .retire(&*self.disk, &dropped.name)
                .map_err(|e| Error::io("trim the journal", e))?;
        }
        let first = files.first();
        self.used.store(files.used(&self.options), Ordering::Relaxed);
        drop(files);
        self.measure_room();
        Ok(first)
    }
}

struct Commit {
    base: Offset,
    count: u32,
    batch: Vec<u8>,
    bells: Vec<Arc<Bell>>,
}

enum Found {
    Batch { base: Offset, next: Offset, framed: Bytes },
    Gap { to: Offset, reason: SkipReason },
}

enum Walked {
    Batch(u64, BatchHead, Bytes),
    Damaged { to: Offset },
}

/// Goes from batch to batch until the one that holds `offset`; past damage it looks for the
/// next whole batch and says what is lost.
fn walk(
    file: &dyn SegmentFile,
    generation: u64,
    from: u64,
    end: u64,
    offset: Offset,
    segment_next: Offset,
) -> io::Result<Walked> {
    // From the index entry to the batch wanted is 64 KiB and one batch at most, so the span
    // is read once and searched in memory.
    let mut window = 256 * 1024;
    loop {
        let span = window.min(end - from);
        let mut bytes = vec![0; span as usize];
        file.read_at(&mut bytes, from)?;
        let bytes = Bytes::from(bytes);
        let (mut at, mut expected) = (0usize, Offset(0));
        while let Some((found, head)) = segment::next_batch(&bytes, at, generation, expected) {
            let whole = found + head.batch_bytes() as usize;
            if head.next() > offset {
                if head.base > offset {
                    return Ok(Walked::Damaged { to: head.base });
                }
                let framed = bytes.slice(found + BATCH_HEAD_BYTES..whole);
                return Ok(Walked::Batch(from + found as u64, head, framed));
            }
            (at, expected) = (whole, head.next());
        }
        if span == end - from {
            return Ok(Walked::Damaged { to: segment_next });
        }
        window *= 4;
    }
}

fn framed_records(framed: &Bytes) -> impl Iterator<Item = Bytes> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let prefix = framed.get(at..at + PREFIX_BYTES)?;
        let bytes = u32::from_le_bytes(prefix.try_into().ok()?) as usize;
        let start = at + PREFIX_BYTES;
        at = start + bytes;
        (at <= framed.len()).then(|| framed.slice(start..at))
    })
}

impl Files {
    fn current(&self) -> &Segment {
        self.segments.back().expect("a log always has a segment: recover makes one, trim keeps one")
    }

    fn first(&self) -> Offset {
        self.segments.front().map_or(Offset(0), |segment| segment.head.base)
    }

    fn used(&self, options: &Options) -> u64 {
        let sealed = self.segments.len().saturating_sub(1) as u64;
        sealed * options.segment_bytes + self.current().contents.end
    }

    fn note(&mut self, base: Offset, next: Offset, position: u64, batch: Bytes) {
        let bytes = batch.len();
        if let Some(current) = self.segments.back_mut() {
            current.contents.add(base, next, position, bytes as u64);
        }
        self.recent.push_back(Recent { base, next, framed: batch.slice(BATCH_HEAD_BYTES..) });
        self.recent_bytes += bytes;
        while self.recent_bytes > RECENT_BYTES_MAX && self.recent.len() > 1 {
            if let Some(old) = self.recent.pop_front() {
                self.recent_bytes -= old.framed.len() + BATCH_HEAD_BYTES;
            }
        }
    }

    fn recent_at(&self, offset: Offset) -> Option<Found> {
        let after = self.recent.partition_point(|recent| recent.base <= offset);
        let recent = self.recent.get(after.checked_sub(1)?)?;
        (offset < recent.next).then(|| Found::Batch {
            base: recent.base,
            next: recent.next,
            framed: recent.framed.clone(),
        })
    }

    /// Starts a new segment at `base`, in a trimmed file if there is one.
    fn grow(
        &mut self,
        disk: &dyn Disk,
        id: &str,
        options: &Options,
        base: Offset,
    ) -> io::Result<()> {
        let (spare, file) = self.blank(disk, options)?;
        let generation = self.generation + 1;
        let head = Head { generation, base, log_id: unhex(id) };
        file.write_at(&head.encode(), 0)?;
        file.sync()?;
        self.generation = generation;
        self.adopt(disk, &spare, head, file.into(), Contents::empty(base))
    }

    /// A file of the right length that belongs to no segment.
    fn blank(
        &mut self,
        disk: &dyn Disk,
        options: &Options,
    ) -> io::Result<(String, Box<dyn SegmentFile>)> {
        while let Some(spare) = self.spares.pop() {
            let file = disk.open(&spare)?;
            if file.len()? == options.segment_bytes {
                return Ok((spare, file));
            }
            disk.remove(&spare)?;
        }
        self.sequence += 1;
        let spare = spare_name(self.sequence);
        let file = disk.create(&spare, options.segment_bytes)?;
        Ok((spare, file))
    }

    /// Gives a finished file its name in the log.
    fn adopt(
        &mut self,
        disk: &dyn Disk,
        spare: &str,
        head: Head,
        file: Arc<dyn SegmentFile>,
        contents: Contents,
    ) -> io::Result<()> {
        self.sequence += 1;
        let name = segment_name(self.sequence);
        disk.rename(spare, &name)?;
        self.segments.push_back(Segment { name, head, file, contents });
        Ok(())
    }

    /// Keeps a trimmed file for its next use, or removes it.
    fn retire(&mut self, disk: &dyn Disk, name: &str) -> io::Result<()> {
        if self.spares.len() >= SPARES_MAX {
            return disk.remove(name);
        }
        self.sequence += 1;
        let spare = spare_name(self.sequence);
        disk.rename(name, &spare)?;
        self.spares.push(spare);
        Ok(())
    }
}

/// Reads every segment, repairs the tail, and leaves a log whose last segment is fresh.
fn recover(
    disk: &dyn Disk,
    id: &[u8; 16],
    options: &Options,
    cursor: Option<Offset>,
) -> Result<Files> {
    let failed = |e: io::Error| Error::io("open the journal", e);
    let mut files = Files {
        segments: VecDeque::new(),
        recent: VecDeque::new(),
        recent_bytes: 0,
        spares: Vec::new(),
        sequence: 0,
        generation: 0,
        corrupt_batches: 0,
        corrupt_records: 0,
        last_read: None,
    };
    let mut names = disk.list().map_err(failed)?;
    names.sort();
    for name in names {
        let Some((kind, sequence)) = parse_name(&name) else { continue };
        files.sequence = files.sequence.max(sequence);
        match kind {
            Kind::Spare => files.spares.push(name),
            Kind::Segment => files.load(disk, id, name).map_err(failed)?,
        }
    }
    files.count_gaps();
    files.refresh_tail(disk, id, options, cursor).map_err(failed)?;
    Ok(files)
}

impl Files {
    fn load(&mut self, disk: &dyn Disk, id: &[u8; 16], name: String) -> io::Result<()> {
        let file: Arc<dyn SegmentFile> = disk.open(&name)?.into();
        let mut bytes = vec![0; HEAD_BYTES as usize];
        let head = match file.read_at(&mut bytes, 0) {
            Ok(()) => Head::decode(&bytes).filter(|head| head.log_id == *id),
            Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(cause) => return Err(cause),
        };
        let Some(head) = head else {
            // Its records show as a gap; the file stays, under a name we do not read.
            tracing::error!(%name, "a log segment's head is damaged; it is set aside");
            self.corrupt_batches += 1;
            return disk.rename(&name, &format!("damaged-{name}"));
        };
        self.generation = self.generation.max(head.generation);
        // A tail copied at an earlier opening, whose original was not yet removed.
        if self.segments.back().is_some_and(|before| before.head.base == head.base)
            && let Some(original) = self.segments.pop_back()
        {
            disk.remove(&original.name)?;
        }
        let contents = segment::scan(&*file, &head)?;
        self.segments.push_back(Segment { name, head, file, contents });
        Ok(())
    }

    /// Damage inside segments, and between the end of one and the start of the next.
    fn count_gaps(&mut self) {
        let mut gaps: Vec<(Offset, Offset)> =
            self.segments.iter().flat_map(|segment| segment.contents.damaged.clone()).collect();
        for (before, after) in self.segments.iter().zip(self.segments.iter().skip(1)) {
            if before.contents.next < after.head.base {
                gaps.push((before.contents.next, after.head.base));
            }
        }
        for (from, to) in gaps {
            tracing::error!(from = from.0, to = to.0, "log records are damaged or missing");
            self.corrupt_batches += 1;
            self.corrupt_records += to.0 - from.0;
        }
    }

    /// Copies the last segment's batches to a fresh file and syncs it, then drops the
    /// original; or starts a first segment.
    fn refresh_tail(
        &mut self,
        disk: &dyn Disk,
        id: &[u8; 16],
        options: &Options,
        cursor: Option<Offset>,
    ) -> io::Result<()> {
        let Some(tail) = self.segments.pop_back() else {
            let base = cursor.unwrap_or(Offset(0));
            return self.grow(disk, &hex(id), options, base);
        };
        let (spare, file) = self.blank(disk, options)?;
        let generation = self.generation + 1;
        self.generation = generation;
        let head = Head { generation, ..tail.head };
        file.write_at(&head.encode(), 0)?;
        let mut bytes = vec![0; tail.contents.end as usize];
        tail.file.read_at(&mut bytes, 0)?;
        let mut contents = Contents::empty(head.base);
        let mut at = HEAD_BYTES as usize;
        while let Some((found, batch)) =
            segment::next_batch(&bytes, at, tail.head.generation, contents.next)
        {
            let whole = found + batch.batch_bytes() as usize;
            let mut copy = bytes[found..whole].to_vec();
            segment::seal(&mut copy, generation, batch.base, batch.count);
            let position = contents.end;
            file.write_at(&copy, position)?;
            contents.add(batch.base, batch.next(), position, batch.batch_bytes());
            at = whole;
        }
        // A consumer has seen offsets that the tail lost: they must not be given again.
        if let Some(cursor) = cursor.filter(|cursor| *cursor > contents.next) {
            tracing::error!(
                from = contents.next.0,
                to = cursor.0,
                "log records a consumer has seen are lost"
            );
            self.corrupt_records += cursor.0 - contents.next.0;
            contents.next = cursor;
        }
        file.sync()?;
        self.adopt(disk, &spare, head, file.into(), contents)?;
        self.retire(disk, &tail.name)
    }
}

enum Kind {
    Segment,
    Spare,
}

fn segment_name(sequence: u64) -> String {
    format!("segment-{sequence:016}.log")
}

fn spare_name(sequence: u64) -> String {
    format!("spare-{sequence:016}.log")
}

fn parse_name(name: &str) -> Option<(Kind, u64)> {
    let stem = name.strip_suffix(".log")?;
    let (kind, number) = stem.split_once('-')?;
    let kind = match kind {
        "segment" => Kind::Segment,
        "spare" => Kind::Spare,
        _ => return None,
    };
    Some((kind, number.parse().ok()?))
}

/// The log's id, made at random when the log is.
fn load_id(disk: &dyn Disk) -> Result<[u8; 16]> {
    let failed = |e: io::Error| Error::io(format!("open the journal's {META_FILE}"), e);
    if let Some(bytes) = disk.read_small(META_FILE).map_err(failed)? {
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let id = value["id"].as_str().filter(|id| id.len() == 32);
        return id.map(unhex).ok_or_else(|| {
            Error::new(
                ErrorKind::Corrupt,
                format!("journal/{META_FILE} is not readable; restore it from a backup"),
            )
        });
    }
    // Two random words of the standard library's hasher seed: unique is enough, secret not.
    use std::hash::{BuildHasher, RandomState};
    let words = [RandomState::new().hash_one(1u8), RandomState::new().hash_one(2u8)];
    let mut id = [0; 16];
    id[..8].copy_from_slice(&words[0].to_le_bytes());
    id[8..].copy_from_slice(&words[1].to_le_bytes());
    let meta = serde_json::json!({"id": hex(&id), "format": 1});
    disk.write_small(META_FILE, meta.to_string().as_bytes()).map_err(failed)?;
    Ok(id)
}

fn hex(id: &[u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> [u8; 16] {
    std::array::from_fn(|at| {
        text.get(2 * at..2 * at + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()).unwrap_or(0)
    })
}

/// A panic elsewhere must not stop the log; its data is consistent between statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
