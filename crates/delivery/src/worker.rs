//! One stream's worker: reads, fills, cuts, decides, uploads, advances.
//!
//! It runs on a thread of its own and may block. Each step is tried until it succeeds, with
//! growing pauses; only a stop ends that.
//!
//! Invariants
//! * At most one decision is pending, and no batch is begun while one is.
//! * The steps of a delivery happen in the order of [`Step`]; each is durable before the next.
//! * A batch begins where the last one ended.

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use base::{Clock, Error, ErrorKind, Offset, Result, Timestamp};
use journal::{Appended, Journal, Records};
use metastore::Metastore;
use rules::{Filled, RuleBook, View};

use crate::batch::{Batch, Packed, Packing};
use crate::convert::Schemas;
use crate::cut::{Cut, Waiting, cut};
use crate::engine::Engine;
use crate::fate::Remembered;
use crate::live::{Live, LiveState};
use crate::partition::Query;
use crate::prefix::{Kind, Prefixes};
use crate::shelf::Shelf;
use crate::stream::{Column, Decision, ObjectPlan, StreamRow, StreamState};

/// Bytes of log read at once: with the size hint, the bound on a worker's memory.
pub(crate) const READ_BYTES: usize = 1024 * 1024;

/// How long an idle worker sleeps before it looks at stop and flush again.
const IDLE_WAIT: Duration = Duration::from_millis(100);

/// How long records come together before an idle worker looks at them.
const GATHER: Duration = Duration::from_millis(20);

/// A cursor that passed only records of others is stored this often, not at every read.
const ADVANCE_EVERY: Duration = Duration::from_secs(10);
const ADVANCE_OFFSETS: u64 = 100_000;

/// A batch with records of this many partitions ends (AWS's bound on active partitions, over
/// which it sets records aside).
pub(crate) const PARTITIONS_MAX: usize = 500;

/// What all workers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Metastore,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) shelf: Arc<dyn Shelf>,
    pub(crate) rules: Arc<RuleBook>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) account_id: String,
    pub(crate) schemas: Option<Arc<dyn Schemas>>,
    pub(crate) backoff: Backoff,
    /// Whoever republished messages go through; the log itself where nobody wants to know.
    pub(crate) publisher: OnceLock<Arc<dyn Publisher>>,
    /// Tests stop a worker here as a crash would.
    #[cfg(test)]
    pub(crate) crash_after: std::sync::Mutex<Option<Step>>,
}

/// Takes messages that rules make back into the log.
pub trait Publisher: Debug + Send + Sync {
    /// Why nothing may be published on a topic.
    fn refuses(&self, topic: &str) -> Option<String>;

    /// Appends a batch of messages to the log.
    fn append(&self, batch: &journal::Batch) -> Result<Appended>;

    /// Puts what a rule made into a log group or a metric.
    fn put(&self, rule: &str, to: &Filled, records: &[&[u8]], at: Timestamp) -> Result<()>;
}

/// The log alone, where reserved topics mean nothing.
#[derive(Debug)]
struct Plain(Arc<dyn Journal>);

impl Publisher for Plain {
    fn refuses(&self, topic: &str) -> Option<String> {
        topic.starts_with('$').then(|| format!("{topic:?} is a reserved topic"))
    }

    fn append(&self, batch: &journal::Batch) -> Result<Appended> {
        self.0.append(batch, None)
    }

    fn put(&self, _: &str, _: &Filled, _: &[&[u8]], _: Timestamp) -> Result<()> {
        Err(Error::unsupported("there are neither log groups nor metrics here"))
    }
}

impl Shared {
    /// The columns that a stream's records are converted to, as the catalog has them now.
    pub(crate) fn columns(&self, row: &StreamRow) -> Result<Option<Vec<Column>>> {
        let Some(conversion) = &row.settings.conversion else { return Ok(None) };
        let schemas = self.schemas.as_ref().ok_or_else(|| {
            Error::unsupported("there is no catalog whose tables records could be converted to")
        })?;
        let table = &conversion.table;
        schemas.columns(&conversion.database, table, conversion.version).map(Some)
    }

    pub(crate) fn publisher(&self) -> &dyn Publisher {
        &**self.publisher.get_or_init(|| Arc::new(Plain(Arc::clone(&self.journal))))
    }
}

/// Pauses between attempts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    pub(crate) first: Duration,
    pub(crate) max: Duration,
}

impl Backoff {
    /// The pause after attempt `attempt`, between half and all of its doubled length, so that
    /// streams that failed together do not come back together.
    pub(crate) fn pause(&self, attempt: u32, seed: u64) -> Duration {
        let doubled = self.first.saturating_mul(1 << attempt.min(16)).min(self.max);
        let mixed = (seed ^ u64::from(attempt)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let share = (mixed >> 40) as f64 / (1_u64 << 24) as f64;
        doubled.mul_f64(0.5 + share / 2.0)
    }
}

/// The durable steps of a delivery, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The decision is recorded.
    Decided,
    /// The object of records is uploaded.
    Uploaded,
    /// The object of errors is uploaded.
    ErrorsUploaded,
    /// The cursor is moved in the store.
    Advanced,
    /// The cursor is moved in the journal.
    Committed,
}

/// The worker was told to stop.
#[derive(Debug)]
pub(crate) struct Stopped;

/// A worker, driven by [`run`](Worker::run) on its thread or step by step in tests.
#[derive(Debug)]
pub(crate) struct Worker {
    shared: Arc<Shared>,
    live: Arc<Live>,
    row: StreamRow,
    prefixes: Prefixes,
    query: Option<Query>,
    consumer: String,
    batch: Batch,
    remembered: Remembered,
    advanced_at: Instant,
}

impl Worker {
    /// A worker for the stream, which must exist.
    pub(crate) fn new(shared: Arc<Shared>, live: Arc<Live>, name: &str) -> Result<Worker> {
        let row = shared
            .store
            .get::<StreamRow>(name)?
            .ok_or_else(|| Error::not_found(format!("there is no stream {name:?}")))?
            .row;
        let state = state_of(&shared.store, name)?;
        expect_log(&state, name, &*shared.journal)?;
        let next = state.next;
        live.change(|state| {
            state.next = next;
            state.position = next;
        });
        let (prefixes, query) = route(&row)?;
        Ok(Worker {
            prefixes,
            query,
            consumer: consumer(name),
            batch: Batch::new(next),
            remembered: Remembered::load(&shared.store, name)?,
            advanced_at: Instant::now(),
            shared,
            live,
            row,
        })
    }

    /// Works until told to stop.
    pub(crate) fn run(mut self) {
        let name = self.row.name().to_owned();
        tracing::debug!(stream = name, from = %self.batch.first, "delivery started");
        let Err(Stopped) = self.work();
        self.live.change(|state| state.stopped = true);
        tracing::debug!(stream = name, next = %self.live.lock().next, "delivery stopped");
    }

    fn work(&mut self) -> Result<std::convert::Infallible, Stopped> {
        self.recover()?;
        loop {
            if !self.turn()? {
                self.idle();
            }
        }
    }

    /// Carries out a decision that an earlier run recorded, and tells the journal where the
    /// stream stands.
    pub(crate) fn recover(&mut self) -> Result<(), Stopped> {
        let state = self
            .insist("read its state", |worker| state_of(&worker.shared.store, worker.row.name()))?;
        if let Some(decision) = state.pending {
            let now = self.settings(state.pending_under)?;
            let replayed = self.replay(decision);
            self.settings(Some(now))?;
            replayed?;
        }
        self.commit_to_journal();
        Ok(())
    }

    /// Works under other settings; gives those before.
    fn settings(&mut self, row: Option<StreamRow>) -> Result<StreamRow, Stopped> {
        let row = row.unwrap_or_else(|| self.row.clone());
        (self.prefixes, self.query) = self.insist("read its prefixes", |_| route(&row))?;
        Ok(std::mem::replace(&mut self.row, row))
    }

    /// Looks at the records there are, at most one read of them, and delivers what is due.
    /// Says whether there were any.
    pub(crate) fn turn(&mut self) -> Result<bool, Stopped> {
        if self.live.lock().stop {
            self.put_down()?;
            return Err(Stopped);
        }
        let view = {
            let journal = &self.shared.journal;
            self.shared.rules.view(|| journal.durable())
        };
        let any = self.batch.next < view.until;
        if any {
            let records = self.read(self.batch.next, view.until)?;
            self.take(&records, &view)?;
        }
        self.settle()?;
        Ok(any)
    }

    fn read(&mut self, from: Offset, until: Offset) -> Result<Records, Stopped> {
        let mut records = self.insist("read the log", |worker| {
            let records = worker.shared.journal.read(from, READ_BYTES)?;
            if records.next <= from {
                return Err(Error::internal(format!("the log gave nothing from offset {from} on")));
            }
            Ok(records)
        })?;
        // Above `until` newer rules may apply.
        records.items.retain(|(offset, _)| *offset < until);
        records.skipped.retain(|skipped| skipped.from < until);
        records.next = records.next.min(until);
        Ok(records)
    }

    /// Fills the batch, delivering it whenever it is full.
    fn take(&mut self, records: &Records, view: &View) -> Result<(), Stopped> {
        let size_bytes = self.row.settings.size_bytes;
        let mut skipped = records.skipped.iter().peekable();
        for (offset, record) in &records.items {
            while let Some(gap) = skipped.next_if(|gap| gap.from < *offset) {
                self.skip(gap, view.until);
            }
            self.engine_take(*offset, record, view);
            let full = self.batch.held_bytes() >= size_bytes;
            if full || self.batch.partitions() >= PARTITIONS_MAX {
                self.deliver(Cut::Size)?;
            }
        }
        for gap in skipped {
            self.skip(gap, view.until);
        }
        self.batch.next = records.next;
        self.live.change(|state| {
            state.position = self.batch.next;
            state.held_bytes = self.batch.held_bytes();
        });
        Ok(())
    }

    fn engine_take(&mut self, offset: Offset, record: &[u8], view: &View) {
        let engine = Engine {
            row: &self.row,
            prefixes: &self.prefixes,
            query: self.query.as_ref(),
            log_id: self.shared.journal.id(),
            account_id: &self.shared.account_id,
        };
        engine.take(&mut self.batch, offset, record, view);
    }

    fn skip(&mut self, gap: &journal::Skipped, until: Offset) {
        let to = gap.to.min(until);
        let count = to.0.saturating_sub(gap.from.0);
        let reason = format!("{:?}", gap.reason).to_lowercase();
        tracing::error!(
            stream = self.row.name(), from = %gap.from, to = %to, reason,
            "log records are lost to this stream"
        );
        self.batch.skip(&reason, count);
    }

    /// Ends the batch if it is time, or moves the cursor over records of others.
    fn settle(&mut self) -> Result<(), Stopped> {
        let flush = {
            let state = self.live.lock();
            state.flush_to > state.next && self.batch.next >= state.flush_to
        };
        if self.batch.is_empty() {
            let passed = self.batch.next.0 - self.batch.first.0;
            let long = passed >= ADVANCE_OFFSETS || self.advanced_at.elapsed() >= ADVANCE_EVERY;
            let wanted = flush || long || !self.shared.journal.has_room();
            return if passed > 0 && wanted { self.advance() } else { Ok(()) };
        }
        let waiting = Waiting {
            bytes: self.batch.held_bytes(),
            since_first: self.batch.since().map(|since| since.elapsed()).unwrap_or_default(),
            flush,
            log_is_full: !self.shared.journal.has_room(),
        };
        match cut(&waiting, &self.row.settings.hints()) {
            Some(why) => self.deliver(why),
            None => Ok(()),
        }
    }

    /// Waits for new records: until the batch is due, but never long.
    fn idle(&self) {
        let age = self.row.settings.hints().age;
        let due = self.batch.since().map(|since| age.saturating_sub(since.elapsed()));
        let wait = due.unwrap_or(IDLE_WAIT).clamp(Duration::from_millis(1), IDLE_WAIT);
        let started = Instant::now();
        let durable = self.shared.journal.wait_durable(self.batch.next, wait);
        if durable <= self.batch.next {
            // A log that failed answers at once; do not spin on it.
            let left = wait.saturating_sub(started.elapsed());
            self.live.wait(left, |state| state.stop);
        } else if age > GATHER * 10 {
            // A record that waits for its batch anyway need not be looked at at once: one look
            // at a hundred of them is cheaper than a hundred.
            self.live.wait(GATHER, |state| state.stop || state.flush_to > state.next);
        }
    }

    /// Before a stop: stores a cursor that passed only records of others. A batch that holds
    /// something is left; the log still has it.
    fn put_down(&mut self) -> Result<(), Stopped> {
        if self.batch.is_empty() && self.batch.next > self.batch.first {
            return self.advance();
        }
        Ok(())
    }

    /// Moves the cursor over a range that gave nothing.
    fn advance(&mut self) -> Result<(), Stopped> {
        let batch = self.begin_next_batch();
        let decision = Decision {
            first: batch.first,
            next: batch.next,
            objects: Vec::new(),
            columns: None,
            tally: batch.tally,
            decided_at: self.shared.clock.now(),
        };
        self.finish(&decision)
    }

    /// Delivers the batch: decides, uploads, advances.
    fn deliver(&mut self, why: Cut) -> Result<(), Stopped> {
        let mut batch = self.begin_next_batch();
        let columns = self
            .insist("read the table to convert to", |worker| worker.shared.columns(&worker.row))?;
        let packed = self.pack(&mut batch, columns.as_deref())?;
        let spare = batch.take_spare();
        let decision = Decision {
            first: batch.first,
            next: batch.next,
            objects: packed.iter().map(plan).collect(),
            columns,
            tally: batch.tally,
            decided_at: self.shared.clock.now(),
        };
        self.insist("record its decision", |worker| {
            worker.edit_state(|state| {
                expect_cursor(state, decision.first)?;
                state.pending = Some(decision.clone());
                Ok(())
            })
        })?;
        self.passed(Step::Decided)?;
        let (records, rest) = split_at_records(&packed);
        self.upload_all(records)?;
        self.passed(Step::Uploaded)?;
        self.upload_all(rest)?;
        // A stream that fills batches fills the next one, too; any other would only hold the
        // memory.
        if why == Cut::Size {
            self.batch.recycle(spare, packed);
        }
        self.passed(Step::ErrorsUploaded)?;
        self.finish(&decision)?;
        tracing::debug!(
            stream = self.row.name(), first = %decision.first, next = %decision.next, ?why,
            records = decision.tally.records, bytes = decision.tally.object_bytes, "batch delivered"
        );
        Ok(())
    }

    fn begin_next_batch(&mut self) -> Batch {
        let next = Batch::new(self.batch.next);
        std::mem::replace(&mut self.batch, next)
    }

    fn pack(&self, batch: &mut Batch, columns: Option<&[Column]>) -> Result<Vec<Packed>, Stopped> {
        let packing = Packing {
            row: &self.row,
            prefixes: &self.prefixes,
            log_id: self.shared.journal.id(),
            columns,
        };
        // Packing into memory does not fail; if it ever did, taking the bytes twice would
        // lose them, so the answer is final. The log still has them.
        batch.pack(&packing).map_err(|error| {
            tracing::error!(stream = self.row.name(), %error, "failed to pack a batch");
            self.live.change(|state| {
                state.retrying = Some(format!("failed to pack a batch, stopped: {error}"));
            });
            Stopped
        })
    }

    fn upload_all(&mut self, objects: &[Packed]) -> Result<(), Stopped> {
        objects.iter().try_for_each(|object| self.upload(object))
    }

    fn upload(&mut self, object: &Packed) -> Result<(), Stopped> {
        self.insist("upload an object", |worker| {
            worker.shared.shelf.put(&object.bucket, &object.key, object.bytes.clone())
        })
    }

    /// Moves the cursor past a decision that has been carried out, in the store and then in
    /// the journal.
    fn finish(&mut self, decision: &Decision) -> Result<(), Stopped> {
        let delivered = !decision.objects.is_empty();
        self.insist("move its cursor", |worker| {
            let name = worker.row.name();
            worker.shared.store.transact(|transaction| {
                let stored = transaction.get::<StreamState>(name)?;
                let mut state = stored.ok_or_else(|| gone(name))?.row;
                // An attempt whose answer was lost has done it already.
                if state.next == decision.next {
                    return Ok(());
                }
                expect_cursor(&state, decision.first)?;
                state.next = decision.next;
                state.pending = None;
                state.pending_under = None;
                state.totals.add(&decision.tally);
                transaction.put(name, &state)?;
                if delivered {
                    worker.remembered.write(transaction, name, decision)?;
                }
                Ok(())
            })
        })?;
        if delivered {
            self.remembered.written(decision);
        }
        self.passed(Step::Advanced)?;
        self.advanced_at = Instant::now();
        self.live.change(|state| {
            state.next = decision.next;
            state.position = state.position.max(decision.next);
            state.held_bytes = 0;
        });
        self.commit_to_journal();
        self.passed(Step::Committed)
    }

    /// Lets the log forget what the stream has passed. Not tried again: the cursor in the
    /// store is what counts, and the next delivery or start commits again.
    fn commit_to_journal(&self) {
        let next = self.live.lock().next;
        let committed = self
            .shared
            .journal
            .commit(&self.consumer, next)
            .and_then(|()| self.shared.journal.trim().map(drop));
        if let Err(error) = committed {
            tracing::warn!(stream = self.row.name(), %next, %error, "failed to let the log forget");
        }
    }

    /// Carries out a recorded decision from the log.
    fn replay(&mut self, mut decision: Decision) -> Result<(), Stopped> {
        tracing::info!(
            stream = self.row.name(), first = %decision.first, next = %decision.next,
            "carrying out a decision of an earlier run"
        );
        self.batch = Batch::new(decision.first);
        while self.batch.next < decision.next {
            let view = self.shared.rules.view(|| decision.next);
            let records = self.read(self.batch.next, decision.next)?;
            let mut gaps = records.skipped.iter().peekable();
            for (offset, record) in &records.items {
                while let Some(gap) = gaps.next_if(|gap| gap.from < *offset) {
                    self.skip(gap, decision.next);
                }
                self.engine_take(*offset, record, &view);
            }
            for gap in gaps {
                self.skip(gap, decision.next);
            }
            self.batch.next = records.next;
        }
        let mut batch = self.begin_next_batch();
        let packed = self.pack(&mut batch, decision.columns.as_deref())?;
        // In the order of the kinds, as it was decided; an object that only one of the two knows
        // is a damaged log's.
        let mut as_decided = true;
        for plan in &decision.objects {
            let made = packed.iter().find(|object| object.kind.identity() == plan.what);
            as_decided &= self.put_again(plan, made)?;
        }
        for object in &packed {
            let what = object.kind.identity();
            if !decision.objects.iter().any(|plan| plan.what == what) {
                as_decided = false;
                self.upload(object)?;
            }
        }
        self.passed(Step::ErrorsUploaded)?;
        if !as_decided {
            decision.tally = batch.tally;
        }
        self.finish(&decision)
    }

    /// Uploads an object of an earlier decision; says whether what is there is as it was
    /// decided. If the log does not give the same bytes any more (it was damaged meanwhile), an
    /// object that is there already is the better copy, else what the log still gives is
    /// uploaded.
    fn put_again(&mut self, plan: &ObjectPlan, made: Option<&Packed>) -> Result<bool, Stopped> {
        if let Some(object) = made.filter(|object| object.crc32 == plan.crc32) {
            self.upload(object)?;
            return Ok(true);
        }
        let (bucket, key) = (&plan.bucket, &plan.key);
        tracing::error!(
            stream = self.row.name(),
            bucket,
            key,
            "the log does not give the bytes that were decided on"
        );
        let there =
            self.insist("look for an object", |worker| worker.shared.shelf.size(bucket, key))?;
        if there == Some(plan.bytes) {
            return Ok(true);
        }
        if let Some(object) = made {
            self.upload(&Packed { key: key.clone(), ..object.clone() })?;
        }
        Ok(false)
    }

    /// One transaction on the stream's state.
    fn edit_state(&self, edit: impl FnOnce(&mut StreamState) -> Result<()>) -> Result<()> {
        let name = self.row.name();
        self.shared.store.transact(|transaction| {
            let stored = transaction.get::<StreamState>(name)?;
            let mut state = stored.ok_or_else(|| gone(name))?.row;
            edit(&mut state)?;
            transaction.put(name, &state).map(drop)
        })
    }

    /// Does something until it succeeds or the worker is told to stop.
    fn insist<T>(
        &mut self,
        doing: &str,
        mut attempt: impl FnMut(&mut Self) -> Result<T>,
    ) -> Result<T, Stopped> {
        let seed = self
            .row
            .name()
            .bytes()
            .fold(0, |hash: u64, byte| hash * 31 % (1 << 56) + u64::from(byte));
        for attempts in 0.. {
            let error = match attempt(self) {
                Ok(done) => {
                    if attempts > 0 {
                        self.live.change(LiveState::works);
                        tracing::info!(stream = self.row.name(), attempts, "{doing}: works again");
                    }
                    return Ok(done);
                }
                Err(error) => error,
            };
            let pause = self.shared.backoff.pause(attempts, seed);
            tracing::warn!(stream = self.row.name(), attempts, %error, ?pause, "failed to {doing}");
            let now = self.shared.clock.now();
            self.live.change(|state| state.failed(format!("failed to {doing}: {error}"), now));
            if self.live.wait(pause, |state| state.stop).stop {
                break;
            }
        }
        Err(Stopped)
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "the test build stops here")]
    fn passed(&self, _: Step) -> Result<(), Stopped> {
        Ok(())
    }

    #[cfg(test)]
    fn passed(&self, step: Step) -> Result<(), Stopped> {
        let crash = *self.shared.crash_after.lock().unwrap() == Some(step);
        if crash { Err(Stopped) } else { Ok(()) }
    }
}

/// How a stream tells where records go.
pub(crate) fn route(row: &StreamRow) -> Result<(Prefixes, Option<Query>)> {
    let prefixes = Prefixes::of(row)?;
    let query = row.settings.partitioning.as_ref();
    let compile = |query: &str| Query::compile(query, prefixes.keys().to_vec());
    let query = query.map(|partitioning| compile(&partitioning.query)).transpose()?;
    Ok((prefixes, query))
}

fn plan(object: &Packed) -> ObjectPlan {
    ObjectPlan {
        what: object.kind.identity(),
        bucket: object.bucket.clone(),
        key: object.key.clone(),
        bytes: object.bytes.len() as u64,
        crc32: object.crc32,
    }
}

/// Objects of records, which come first, and the others.
fn split_at_records(objects: &[Packed]) -> (&[Packed], &[Packed]) {
    objects.split_at(objects.partition_point(|object| matches!(object.kind, Kind::Records(_))))
}

/// The stream's name among the journal's consumers.
pub(crate) fn consumer(stream: &str) -> String {
    format!("stream/{stream}")
}

/// The state of a stream, which must exist.
pub(crate) fn state_of(store: &Metastore, name: &str) -> Result<StreamState> {
    Ok(store.get::<StreamState>(name)?.ok_or_else(|| gone(name))?.row)
}

fn gone(name: &str) -> Error {
    Error::not_found(format!("there is no state of stream {name:?}"))
}

/// A log that was replaced would leave a gap, or deliver other records under known offsets.
fn expect_log(state: &StreamState, name: &str, journal: &dyn Journal) -> Result<()> {
    if state.log_id == journal.id() && state.next <= journal.durable() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        format!(
            "stream {name:?} stands at offset {} of log {:?}, the journal is log {:?} up to offset \
             {}; restore its journal, or delete the stream and make it anew",
            state.next,
            state.log_id,
            journal.id(),
            journal.durable()
        ),
    ))
}

/// Two workers on one stream would be a bug that loses or doubles; rather do nothing.
fn expect_cursor(state: &StreamState, first: Offset) -> Result<()> {
    if state.next == first {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Internal,
        format!("the batch begins at offset {first}, the cursor stands at {}", state.next),
    ))
}
