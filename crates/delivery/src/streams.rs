//! All streams: making, describing and deleting them, and their workers.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base::{Clock, Error, ErrorKind, Offset, Result, Timestamp};
use journal::Journal;
use metastore::Metastore;
use objects::Buckets;
use rules::RuleBook;
use serde::Serialize;
use tokio::runtime::Handle;

use crate::convert::{self, Schemas};
use crate::fate;
use crate::live::Live;
use crate::prefix::{Failure, Kind};
use crate::republish::{self, Lane, RepublishTotals, Republisher};
use crate::shelf::{BucketShelf, Shelf};
use crate::stream::{Balance, NewStream, StreamRow, StreamState, Tally};
use crate::worker::{Backoff, Publisher, Shared, Worker, consumer, route, state_of};

/// Most streams (AWS's bound per account and region).
const STREAMS_MAX: usize = 50;

/// Settings of the room.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The account, for IoT SQL's `accountid()`.
    pub account_id: String,
    /// The catalog whose tables records are converted to.
    pub schemas: Option<Arc<dyn Schemas>>,
    /// The pause after a first failure; it doubles with each further one.
    pub retry_first: Duration,
    /// The longest pause.
    pub retry_max: Duration,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            account_id: "000000000000".to_owned(),
            schemas: None,
            retry_first: Duration::from_millis(200),
            retry_max: Duration::from_secs(30),
        }
    }
}

/// How a stream is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StreamStatus {
    /// Whether its worker runs.
    pub running: bool,
    /// Everything below is delivered.
    pub next: Offset,
    /// Durable log records that are not delivered yet.
    pub lag: u64,
    /// Whether every offset so far was looked at once.
    pub balance: Balance,
    /// Bytes waiting in memory for the batch to end.
    pub held_bytes: u64,
    /// What fails at the moment, and why; it is tried again.
    pub retrying: Option<String>,
    /// Since when it fails.
    pub retrying_since: Option<Timestamp>,
    /// How often it was tried since then.
    pub attempts: u32,
    /// Attempts of any step that failed since the worker started.
    pub failures: u64,
    /// What was delivered, set aside and skipped so far.
    pub totals: Tally,
}

/// The streams. Cheap to share in an `Arc`; dropping it stops the workers.
#[derive(Debug)]
pub struct Streams {
    pub(crate) shared: Arc<Shared>,
    buckets: Buckets,
    running: Mutex<BTreeMap<String, Running>>,
    /// By the name of their lane.
    republishers: Mutex<BTreeMap<&'static str, Running>>,
}

#[derive(Debug)]
struct Running {
    live: Arc<Live>,
    thread: JoinHandle<()>,
}

impl Streams {
    /// The streams of the store. No worker runs yet. Uploads run on `runtime`, which must
    /// outlive the workers.
    pub fn new(
        store: Metastore,
        journal: Arc<dyn Journal>,
        buckets: Buckets,
        rules: Arc<RuleBook>,
        clock: Arc<dyn Clock>,
        runtime: Handle,
        settings: Settings,
    ) -> Streams {
        let shelf = Arc::new(BucketShelf { buckets: buckets.clone(), runtime });
        Streams::with_shelf(store, journal, buckets, shelf, rules, clock, settings)
    }

    pub(crate) fn with_shelf(
        store: Metastore,
        journal: Arc<dyn Journal>,
        buckets: Buckets,
        shelf: Arc<dyn Shelf>,
        rules: Arc<RuleBook>,
        clock: Arc<dyn Clock>,
        settings: Settings,
    ) -> Streams {
        let shared = Shared {
            store,
            journal,
            shelf,
            rules,
            clock,
            account_id: settings.account_id,
            schemas: settings.schemas,
            backoff: Backoff { first: settings.retry_first, max: settings.retry_max },
            publisher: OnceLock::new(),
            #[cfg(test)]
            crash_after: Mutex::new(None),
        };
        Streams {
            shared: Arc::new(shared),
            buckets,
            running: Mutex::default(),
            republishers: Mutex::default(),
        }
    }

    /// Makes a stream that looks at records from the journal's watermark on. It does not run
    /// until it is started.
    pub fn create(&self, new: &NewStream) -> Result<StreamRow> {
        new.check()?;
        self.expect_bucket(new)?;
        let now = self.shared.clock.now();
        self.insert(&StreamRow::new(new, now, self.shared.journal.durable()))
    }

    fn expect_bucket(&self, new: &NewStream) -> Result<()> {
        let there = self.buckets.list_buckets()?;
        let backup = new.backup.as_ref().map(|backup| &backup.bucket);
        match [Some(&new.bucket), backup].into_iter().flatten().find(|name| !there.contains(name)) {
            None => Ok(()),
            Some(missing) => Err(Error::not_found(format!(
                "stream {:?}: bucket {missing:?} does not exist; create it first",
                new.name
            ))),
        }
    }

    /// Refuses settings that no record could be delivered with.
    fn check(&self, row: &StreamRow) -> Result<()> {
        let (prefixes, _) = route(row)?;
        let records = Kind::Records(vec!["x".to_owned(); prefixes.keys().len()]);
        let mut kinds = vec![(&row.settings.bucket, records)];
        kinds.push((&row.settings.bucket, Kind::Errors(Failure::Processing)));
        kinds.extend(row.settings.backup.as_ref().map(|backup| (&backup.bucket, Kind::Backup)));
        for (bucket, kind) in kinds {
            let range = (row.created_from, row.created_from);
            let key = prefixes.key(row, self.shared.journal.id(), &kind, range, Timestamp(0));
            let possible = match self.buckets.remote_place(bucket) {
                Some(_) => objects::check_key(&key),
                None => self.buckets.local_path(bucket, &key).map(drop),
            };
            possible.map_err(|error| error.context(format!("stream {:?}", row.name())))?;
        }
        if let Some(conversion) = &row.settings.conversion
            && let Some(columns) = self.shared.columns(row)?
        {
            convert::check(conversion, &columns)
                .map_err(|error| error.context(format!("stream {:?}", row.name())))?;
        }
        Ok(())
    }

    /// Stores a stream whose settings were checked, if its keys are possible.
    pub(crate) fn insert(&self, row: &StreamRow) -> Result<StreamRow> {
        self.check(row)?;
        self.shared.store.transact(|transaction| {
            if transaction.get::<StreamRow>(row.name())?.is_some() {
                let message = format!("stream {:?} exists already", row.name());
                return Err(Error::new(ErrorKind::AlreadyExists, message));
            }
            if transaction.list::<StreamRow>()?.len() >= STREAMS_MAX {
                let message = format!("there are {STREAMS_MAX} streams, and no more are allowed");
                return Err(Error::new(ErrorKind::Exhausted, message));
            }
            let state = StreamState {
                log_id: self.shared.journal.id().to_owned(),
                next: row.created_from,
                ..StreamState::default()
            };
            transaction.create(row.name(), row)?;
            transaction.create(row.name(), &state)?;
            Ok(())
        })?;
        self.shared.journal.commit(&consumer(row.name()), row.created_from)?;
        Ok(row.clone())
    }

    /// All streams by name.
    pub fn list(&self) -> Result<Vec<StreamRow>> {
        let rows = self.shared.store.list::<StreamRow>()?;
        Ok(rows.into_iter().map(|(_, versioned)| versioned.row).collect())
    }

    /// A stream's settings and how far it has come.
    pub fn describe(&self, name: &str) -> Result<(StreamRow, StreamState)> {
        let row = self.shared.store.get::<StreamRow>(name)?.ok_or_else(|| unknown(name))?.row;
        Ok((row, state_of(&self.shared.store, name)?))
    }

    /// Changes a stream's settings, if it still has version `expected`; `Conflict` otherwise.
    ///
    /// The records that no decision covers yet get the new settings; what was decided before is
    /// carried out as it was decided. So none is lost and none delivered twice. Blocks until the
    /// worker has put down the step it is at.
    pub fn update(&self, expected: u64, new: &NewStream) -> Result<StreamRow> {
        new.check()?;
        let name = &new.name;
        self.expect_bucket(new)?;
        self.check(&self.describe(name)?.0.changed(new))?;
        // Held throughout, so that nobody starts the worker in between.
        let mut running = self.running();
        let ran = running.remove(name);
        let runs = ran.is_some();
        ran.into_iter().for_each(Running::stop);
        let changed = self.replace(expected, new);
        if runs {
            self.start_in(&mut running, name)?;
        }
        changed
    }

    fn replace(&self, expected: u64, new: &NewStream) -> Result<StreamRow> {
        let name = &new.name;
        self.shared.store.transact(|transaction| {
            let before = transaction.get::<StreamRow>(name)?.ok_or_else(|| unknown(name))?.row;
            let state = transaction.get::<StreamState>(name)?.ok_or_else(|| unknown(name))?;
            if before.version != expected {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "stream {name:?} has version {}, and not {expected}; read it again",
                        before.version
                    ),
                ));
            }
            if before.settings.partitioning.is_some() != new.partitioning.is_some() {
                return Err(Error::invalid(format!(
                    "stream {name:?}: dynamic partitioning is switched on or left off when a \
                     stream is made; make another stream"
                )));
            }
            let row = before.changed(new);
            transaction.put(name, &row)?;
            if state.pending.is_some() && state.pending_under.is_none() {
                let state = StreamState { pending_under: Some(before), ..state.row };
                transaction.put(name, &state)?;
            }
            Ok(row)
        })
    }

    /// Deletes a stream. Refused while a rule names it. What it has not delivered yet stays
    /// undelivered: flush it first. Its objects stay.
    pub fn delete(&self, name: &str) -> Result<()> {
        self.describe(name)?;
        if let Some(rule) = self.shared.rules.naming_stream(name).first() {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "stream {name:?} is named by rule {rule:?}; change or delete the rule first"
                ),
            ));
        }
        self.stop(name);
        self.shared.store.transact(|transaction| {
            transaction.delete::<StreamRow>(name)?;
            transaction.delete::<StreamState>(name)?;
            fate::forget(transaction, name)?;
            Ok(())
        })?;
        self.shared.journal.forget(&consumer(name))
    }

    /// Starts a stream's worker; nothing happens if it runs.
    pub fn start(&self, name: &str) -> Result<()> {
        self.start_in(&mut self.running(), name)
    }

    fn start_in(&self, running: &mut BTreeMap<String, Running>, name: &str) -> Result<()> {
        if running.get(name).is_some_and(|running| !running.thread.is_finished()) {
            return Ok(());
        }
        if self.shared.store.get::<StreamRow>(name)?.is_none() {
            return Err(unknown(name));
        }
        let live = Arc::new(Live::default());
        let worker = Worker::new(Arc::clone(&self.shared), Arc::clone(&live), name)?;
        let thread = std::thread::Builder::new()
            .name(format!("stream {name}"))
            .spawn(move || worker.run())
            .map_err(|cause| Error::io(format!("failed to start stream {name:?}"), cause))?;
        running.insert(name.to_owned(), Running { live, thread });
        Ok(())
    }

    /// Has what is republished go through `publisher`. To be said before republishing starts.
    pub fn publish_through(&self, publisher: Arc<dyn Publisher>) {
        if self.shared.publisher.set(publisher).is_err() {
            tracing::error!("republished messages go another way already");
        }
    }

    /// Starts the workers that republish, but not those that run.
    pub fn start_republishing(&self) -> Result<()> {
        let mut republishers = self.republishers();
        for lane in Lane::ALL {
            let name = lane.name();
            if republishers.get(name).is_some_and(|running| !running.thread.is_finished()) {
                continue;
            }
            let live = Arc::new(Live::default());
            let worker = Republisher::new(lane, Arc::clone(&self.shared), Arc::clone(&live))?;
            let thread = std::thread::Builder::new()
                .name(name.to_owned())
                .spawn(move || worker.run())
                .map_err(|cause| Error::io("failed to start republishing", cause))?;
            republishers.insert(name, Running { live, thread });
        }
        Ok(())
    }

    /// Everything below this offset has been republished, or put elsewhere, where rules say so.
    pub fn republished_below(&self) -> Result<Offset> {
        Ok(self.republish_states()?.iter().map(|state| state.next).min().unwrap_or_default())
    }

    /// What republishing did so far.
    pub fn republished(&self) -> Result<RepublishTotals> {
        let mut totals = RepublishTotals::default();
        self.republish_states()?.iter().for_each(|state| totals.add(state.totals));
        Ok(totals)
    }

    fn republish_states(&self) -> Result<Vec<republish::RepublishState>> {
        let states = Lane::ALL.map(|lane| republish::state_of(&self.shared, lane));
        states.into_iter().filter_map(Result::transpose).collect()
    }

    /// Waits until everything that is durable now has been republished where rules say so.
    pub fn settle_republishing(&self, timeout: Duration) -> Result<()> {
        let lives: Vec<_> =
            self.republishers().values().map(|running| Arc::clone(&running.live)).collect();
        if lives.is_empty() {
            return Err(Error::new(ErrorKind::Unavailable, "republishing is not running"));
        }
        let target = self.shared.journal.durable();
        let deadline = Instant::now() + timeout;
        for live in lives {
            let left = deadline.saturating_duration_since(Instant::now());
            let state = live.wait(left, |state| state.next >= target || state.stopped);
            if state.next < target {
                let why = state.retrying.unwrap_or_else(|| format!("no answer within {timeout:?}"));
                let message =
                    format!("republishing stands at offset {} of {target}: {why}", state.next);
                return Err(Error::new(ErrorKind::Unavailable, message));
            }
        }
        Ok(())
    }

    fn republishers(&self) -> MutexGuard<'_, BTreeMap<&'static str, Running>> {
        self.republishers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts republishing and every stream's worker. One that cannot start does not keep the
    /// others from it; the first error is returned.
    pub fn start_all(&self) -> Result<()> {
        let mut started = vec![self.start_republishing()];
        started.extend(self.list()?.iter().map(|row| self.start(row.name())));
        started.into_iter().collect()
    }

    /// Stops a stream's worker and waits for it; a step that is under way is finished first,
    /// one that fails is not tried again. What is not delivered stays in the log.
    pub fn stop(&self, name: &str) {
        let stopped = self.running().remove(name);
        stopped.into_iter().for_each(Running::stop);
    }

    /// Stops every worker and waits for them.
    pub fn stop_all(&self) {
        let all = std::mem::take(&mut *self.running());
        for running in all.values() {
            running.live.change(|state| state.stop = true);
        }
        all.into_values().for_each(Running::stop);
        let republishers = std::mem::take(&mut *self.republishers());
        for running in republishers.values() {
            running.live.change(|state| state.stop = true);
        }
        republishers.into_values().for_each(Running::stop);
    }

    /// Delivers everything that is durable now without waiting for size or age. Blocks until
    /// it is done and returns the cursor; `Unavailable` if that takes longer than `timeout`.
    pub fn flush(&self, name: &str, timeout: Duration) -> Result<Offset> {
        let live = self.live(name).ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, format!("stream {name:?} is not running"))
        })?;
        let target = self.shared.journal.durable();
        live.change(|state| state.flush_to = state.flush_to.max(target));
        let state = live.wait(timeout, |state| state.next >= target || state.stopped);
        if state.next >= target {
            return Ok(state.next);
        }
        let why = state.retrying.unwrap_or_else(|| format!("no answer within {timeout:?}"));
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("stream {name:?} stands at offset {} of {target}: {why}", state.next),
        ))
    }

    /// How a stream is doing.
    pub fn status(&self, name: &str) -> Result<StreamStatus> {
        let (row, stored) = self.describe(name)?;
        let live = self.live(name).map(|live| live.lock().clone());
        let running = live.as_ref().is_some_and(|state| !state.stopped);
        let lag = self.shared.journal.durable().0.saturating_sub(stored.next.0);
        Ok(StreamStatus {
            running,
            next: stored.next,
            lag,
            balance: stored.balance(row.created_from),
            held_bytes: live.as_ref().map_or(0, |state| state.held_bytes),
            retrying_since: live.as_ref().and_then(|state| state.retrying_since),
            attempts: live.as_ref().map_or(0, |state| state.attempts),
            failures: live.as_ref().map_or(0, |state| state.failures),
            retrying: live.and_then(|state| state.retrying),
            totals: stored.totals,
        })
    }

    /// Lets the rule book forget versions that no stream will ask for again. To be called now
    /// and then; returns how many were forgotten.
    pub fn prune_rules(&self) -> Result<usize> {
        let states = self.shared.store.list::<StreamState>()?;
        let republished = self.republish_states()?;
        let republished = republished.iter().map(|state| state.next);
        match states.iter().map(|(_, state)| state.next).chain(republished).min() {
            Some(passed) => self.shared.rules.prune(passed),
            None => Ok(0),
        }
    }

    fn live(&self, name: &str) -> Option<Arc<Live>> {
        self.running().get(name).map(|running| Arc::clone(&running.live))
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Running {
    fn stop(self) {
        self.live.change(|state| state.stop = true);
        if self.thread.join().is_err() {
            tracing::error!("a delivery worker panicked");
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        self.stop_all();
    }
}

fn unknown(name: &str) -> Error {
    Error::not_found(format!("there is no stream {name:?}"))
}
