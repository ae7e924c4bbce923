//! A broker on port 0 with a journal in memory whose durability the test decides.

use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use base::{Clock, Error, ErrorKind, ManualClock, Message, Offset, Result, Timestamp};
use broker::{Authenticator, Broker, Identity, Refusal, Settings};
use bytes::Bytes;
use journal::{Appended, Batch, Bell, Journal, Records, SkipReason, Skipped, Status};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

#[derive(Debug, Default)]
struct State {
    cursors: std::collections::HashMap<String, Offset>,
    records: Vec<Bytes>,
    first: u64,
    durable: u64,
    bells: Vec<Arc<Bell>>,
    watchers: Vec<Arc<Bell>>,
    held: bool,
    full: bool,
    failed: bool,
}

/// Durable at once, or when the test says so; full or failed when the test says so.
#[derive(Debug, Default)]
pub(crate) struct MemoryJournal {
    state: Mutex<State>,
    moved: Condvar,
}

impl MemoryJournal {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn settle(&self, state: &mut State) {
        if state.held || state.failed {
            return;
        }
        state.durable = state.records.len() as u64;
        let durable = Offset(state.durable);
        state.bells.drain(..).for_each(|bell| bell.ring(durable));
        state.watchers.iter().for_each(|bell| bell.ring(durable));
        self.moved.notify_all();
    }

    /// From now on nothing becomes durable.
    pub(crate) fn hold(&self) {
        self.state().held = true;
    }

    /// Everything appended becomes durable.
    pub(crate) fn release(&self) {
        let mut state = self.state();
        state.held = false;
        self.settle(&mut state);
    }

    /// As after a failed sync.
    pub(crate) fn fail(&self) {
        let mut state = self.state();
        state.failed = true;
        state.bells.drain(..).for_each(|bell| bell.fail());
        self.moved.notify_all();
    }

    pub(crate) fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// Loses everything from `next` on, as a power cut does with what was not durable.
    pub(crate) fn lose_from(&self, next: usize) {
        let mut state = self.state();
        state.records.truncate(next);
        state.durable = state.durable.min(next as u64);
    }

    /// Drops everything below `first`.
    pub(crate) fn trim_to(&self, first: u64) {
        self.state().first = first;
    }

    pub(crate) fn messages(&self) -> Vec<Message> {
        self.state().records.iter().map(|record| Message::decode(record).unwrap()).collect()
    }

    pub(crate) fn appended(&self) -> usize {
        self.state().records.len()
    }
}

impl Journal for MemoryJournal {
    fn id(&self) -> &str {
        "0123"
    }

    fn append(&self, batch: &Batch, bell: Option<&Arc<Bell>>) -> Result<Appended> {
        let mut state = self.state();
        if state.failed {
            return Err(Error::new(ErrorKind::Unavailable, "the journal failed"));
        }
        if state.full {
            return Err(Error::new(ErrorKind::Exhausted, "the journal is full"));
        }
        let first = Offset(state.records.len() as u64);
        state.records.extend(batch.records().map(Bytes::copy_from_slice));
        state.bells.extend(bell.cloned());
        self.settle(&mut state);
        Ok(Appended { first, count: batch.len() as u64 })
    }

    fn durable(&self) -> Offset {
        Offset(self.state().durable)
    }

    fn first(&self) -> Offset {
        Offset(self.state().first)
    }

    fn read(&self, from: Offset, bytes_max: usize) -> Result<Records> {
        let state = self.state();
        let mut records = Records { items: Vec::new(), next: from, skipped: Vec::new() };
        if from.0 < state.first {
            let to = Offset(state.first);
            records.skipped.push(Skipped { from, to, reason: SkipReason::Trimmed });
            records.next = to;
        }
        let mut bytes = 0;
        while records.next.0 < state.durable && (records.items.is_empty() || bytes < bytes_max) {
            let record = state.records[records.next.0 as usize].clone();
            bytes += record.len();
            records.items.push((records.next, record));
            records.next = records.next.plus(1);
        }
        Ok(records)
    }

    fn watch(&self) -> Arc<Bell> {
        let bell = Bell::new();
        self.state().watchers.push(Arc::clone(&bell));
        bell
    }

    fn wait_durable(&self, past: Offset, timeout: Duration) -> Offset {
        let state = self.state();
        let waiting = |state: &mut State| state.durable <= past.0 && !state.failed;
        let (state, _) = self.moved.wait_timeout_while(state, timeout, waiting).unwrap();
        Offset(state.durable)
    }

    fn has_room(&self) -> bool {
        !self.state().full
    }

    fn commit(&self, consumer: &str, next: Offset) -> Result<()> {
        self.state().cursors.insert(consumer.to_owned(), next);
        Ok(())
    }

    fn committed(&self, consumer: &str) -> Result<Option<Offset>> {
        Ok(self.state().cursors.get(consumer).copied())
    }

    fn forget(&self, _consumer: &str) -> Result<()> {
        Ok(())
    }

    fn trim(&self) -> Result<Offset> {
        Ok(self.first())
    }

    fn status(&self) -> Status {
        let state = self.state();
        Status {
            id: "0123".into(),
            first: Offset(state.first),
            durable: Offset(state.durable),
            next: Offset(state.records.len() as u64),
            bytes: state.records.iter().map(|record| record.len() as u64).sum(),
            bytes_max: u64::MAX,
            segments: 1,
            failed: state.failed.then(|| "told to".into()),
            blocked: None,
            corrupt_batches: 0,
            corrupt_records: 0,
            commits: 0,
            cursors: Vec::new(),
        }
    }
}

/// Anonymous clients only, unless told otherwise.
pub(crate) struct Everybody;

impl Authenticator for Everybody {
    fn certificate(&self, _der: &[u8]) -> std::result::Result<Identity, Refusal> {
        Err(Refusal { reason: "unknown", message: "no certificates here".into() })
    }

    fn anonymous(&self) -> std::result::Result<Identity, Refusal> {
        Ok(Identity { principal: "anonymous".into(), thing_name: None })
    }
}

/// Says nothing of its own, so that the log holds what the test put there.
pub(crate) fn quiet() -> Settings {
    Settings { lifecycle_events: false, ..Settings::default() }
}

pub(crate) fn clock() -> Arc<ManualClock> {
    Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)))
}

/// A running broker.
pub(crate) struct World {
    pub(crate) journal: Arc<MemoryJournal>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) broker: Arc<Broker>,
    pub(crate) address: SocketAddr,
    shutdown: watch::Sender<bool>,
    serving: Option<JoinHandle<Result<()>>>,
}

impl World {
    pub(crate) async fn start(settings: Settings) -> World {
        World::start_with(settings, Arc::new(Everybody)).await
    }

    pub(crate) async fn start_with(settings: Settings, auth: Arc<dyn Authenticator>) -> World {
        let settings = Settings { lifecycle_events: false, ..settings };
        World::build(settings, auth, Arc::default(), None, clock()).await
    }

    /// A broker that says who comes and goes; the others keep quiet, so that the log holds what
    /// the test put there.
    pub(crate) async fn announcing(auth: Arc<dyn Authenticator>) -> World {
        World::build(Settings::default(), auth, Arc::default(), None, clock()).await
    }

    /// A broker that retains, over a log and a store that may have served another one.
    pub(crate) async fn retaining(
        settings: Settings,
        journal: Arc<MemoryJournal>,
        store: &metastore::Metastore,
    ) -> World {
        World::reopen(settings, journal, store, clock()).await
    }

    /// The same, at a time that goes on.
    pub(crate) async fn reopen(
        settings: Settings,
        journal: Arc<MemoryJournal>,
        store: &metastore::Metastore,
        clock: Arc<ManualClock>,
    ) -> World {
        let settings = Settings { lifecycle_events: false, ..settings };
        World::build(settings, Arc::new(Everybody), journal, Some(store.clone()), clock).await
    }

    async fn build(
        settings: Settings,
        auth: Arc<dyn Authenticator>,
        journal: Arc<MemoryJournal>,
        store: Option<metastore::Metastore>,
        clock: Arc<ManualClock>,
    ) -> World {
        let as_clock: Arc<dyn Clock> = clock.clone();
        let broker = match store {
            None => Broker::new(journal.clone(), auth, as_clock, settings),
            Some(store) => Broker::open(journal.clone(), auth, as_clock, settings, store),
        }
        .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, stop) = watch::channel(false);
        let serving = tokio::spawn({
            let broker = Arc::clone(&broker);
            async move { broker.serve_tcp(listener, stop).await }
        });
        World { journal, clock, broker, address, shutdown, serving: Some(serving) }
    }

    pub(crate) async fn new() -> World {
        World::start(Settings::default()).await
    }

    /// Stops the listener and waits for it.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.shutdown.send_replace(true);
        self.serving.take().unwrap().await.unwrap()
    }

    /// Stops it all, as a clean shutdown does.
    pub(crate) async fn close(mut self) {
        self.stop().await.unwrap();
        self.broker.close().await;
    }

    /// Waits until `done` holds; panics after ten seconds.
    pub(crate) async fn until(&self, what: &str, done: impl Fn(&World) -> bool) {
        until(what, || done(self)).await;
    }
}

pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(tokio::time::Instant::now() < deadline, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
