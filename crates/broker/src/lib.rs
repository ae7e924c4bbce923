//! MQTT 3.1.1 and 5 over TCP, mutual TLS and WebSocket; acknowledges when the journal says durable.
//!
//! What it promises:
//!
//! * A PUBACK (PUBREC at QoS 2) is a receipt from stable storage, pipelined: nobody waits for
//!   the disk before sending more.
//! * A full journal holds publishers back; nothing is dropped. A failed journal acknowledges
//!   nothing.
//! * A slow subscriber gets everything, from the log, in bounded memory; nobody else notices.
//! * What a client may do is asked of its [`Rights`]: to connect, for each message in and out, for
//!   each subscription. A change reaches live connections at once, and a refusal says why.
//! * A certificate that is not active gets no MQTT byte interpreted, and a revoked one loses
//!   its live connections.
//!
//! What it does not know: who reads the log, what a rule is, where certificates are kept.
//!
//! ```text
//! listen ─▶ shard: connect ─▶ connection ─append─▶ journal ─▶ hub ─mailbox─▶ feed ─▶ connection
//!            TLS      CONNECT   codec, session         ▲                        │ when behind
//!            identity           acknowledgements       └──────── reads ─────────┘
//! ```
//!
//! Retained messages, shadows, and sessions that outlive the process need a metastore
//! ([`Broker::open`]). Enhanced authentication is not supported, and clients are told so.

mod auth;
pub mod bench;
mod codec;
mod connect;
mod connection;
mod counters;
mod events;
mod feed;
mod hub;
mod kept;
mod listen;
mod publish;
mod rate;
mod refusals;
mod retained;
mod rights;
mod session;
mod sessions;
mod settings;
mod shadows;
mod shard;
mod share;
mod subscription;
mod tap;
mod trie;
mod websocket;

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use base::{Clock, Error, ErrorKind, Extras, Message, MessageRef, Properties, Result, TopicFilter};
use journal::{Appended, Batch, Bell, Journal};
use listen::Entrance;
use metastore::Metastore;
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tracing::{error, info};

pub use auth::{Action, Authenticator, Client, Explanation, Identity, Refusal, Rights};
pub use counters::{Metric, Stats};
pub use publish::Outside;
pub use refusals::{Refusals, Refused};
pub use retained::RetainedSummary;
pub use sessions::SessionInfo;
pub use settings::Settings;
pub use shadows::{ShadowAction, ShadowName, ShadowRefusal};
pub use tap::{Tap, Tapped};

use codec::Will;
use counters::Counters;
use hub::{Hub, lock};
use kept::Keeper;
use sessions::{Departed, Kick, Sessions};
use shadows::Shadows;
use shard::{Lease, Shards};
use share::Groups;

/// How often sessions are looked through for those that expired and wills that are due.
const SWEEP: Duration = Duration::from_millis(500);

/// Sweeps between two looks at what of the log sessions still need: each may be a sync.
const SWEEPS_PER_MOVE: u64 = 10;

/// Why live connections are closed from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disconnect {
    /// The certificate is no longer active: will messages are not published.
    Revoked,
    /// An operator's wish.
    Administrative,
}

/// The broker. One for all listeners of a node.
pub struct Broker {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) auth: Arc<dyn Authenticator>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) settings: Settings,
    pub(crate) counters: Arc<Counters>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) sessions: Sessions,
    pub(crate) groups: Arc<Groups>,
    pub(crate) refusals: refusals::Record,
    pub(crate) handshakes: Semaphore,
    /// How many wait for one.
    pub(crate) handshakes_waiting: AtomicUsize,
    pub(crate) shards: Arc<Shards>,
    /// `None`: nothing is retained, and clients are told so.
    pub(crate) retained: Option<Arc<retained::Retained>>,
    /// `None`: sessions end with the process.
    pub(crate) keeper: Option<Arc<Keeper>>,
    /// `None`: shadows are not kept, and their topics are refused.
    pub(crate) shadows: Option<Arc<Shadows>>,
    /// The identity of the last client without a thing of its own: many share it.
    crowd: Mutex<Option<Arc<Identity>>>,
    taps: AtomicUsize,
    /// The last number given to a connection.
    pub(crate) presences: AtomicU64,
    failed: AtomicBool,
    /// Wills that the full journal did not take; at most one per session.
    wills: Mutex<VecDeque<(Departed, Will)>>,
    threads: Mutex<Option<Threads>>,
}

/// Whom messages concern beside the log's readers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Concern {
    /// Some of them are to be retained.
    pub(crate) retained: bool,
    /// Some of them ask something of shadows.
    pub(crate) shadows: bool,
}

struct Threads {
    hub: std::thread::JoinHandle<()>,
    keeper: Option<std::thread::JoinHandle<()>>,
    shadows: Option<std::thread::JoinHandle<()>>,
    sweeper: JoinHandle<()>,
}

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Broker {
    /// Makes a broker and starts its threads and its sweeping task. To be called within a tokio
    /// runtime, which must outlive the broker's connections; [`close`](Self::close) ends all of
    /// them. Refuses settings that cannot work.
    pub fn new(
        journal: Arc<dyn Journal>,
        auth: Arc<dyn Authenticator>,
        clock: Arc<dyn Clock>,
        settings: Settings,
    ) -> Result<Arc<Broker>> {
        Broker::start(journal, auth, clock, settings, None)
    }

    /// As [`new`](Self::new), with retained messages, whose rows are kept in `store`. Reads what
    /// the rows lack from the log. Blocks on the disk.
    pub fn open(
        journal: Arc<dyn Journal>,
        auth: Arc<dyn Authenticator>,
        clock: Arc<dyn Clock>,
        settings: Settings,
        store: Metastore,
    ) -> Result<Arc<Broker>> {
        let retained = retained::Retained::open(store.clone(), Arc::clone(&journal), &settings)?;
        Broker::start(journal, auth, clock, settings, Some((Arc::new(retained), store)))
    }

    fn start(
        journal: Arc<dyn Journal>,
        auth: Arc<dyn Authenticator>,
        clock: Arc<dyn Clock>,
        settings: Settings,
        kept: Option<(Arc<retained::Retained>, Metastore)>,
    ) -> Result<Arc<Broker>> {
        settings.check()?;
        let counters = Arc::<Counters>::default();
        let hub = Hub::new(Arc::clone(&journal), Arc::clone(&counters), &settings);
        let groups = Groups::new(Arc::clone(&hub));
        let (retained, store) = kept.unzip();
        let shadows = store.clone().map(|store| {
            let (journal, clock) = (Arc::clone(&journal), Arc::clone(&clock));
            let (counters, most) = (Arc::clone(&counters), settings.shadow_bytes_max);
            Shadows::open(store, journal, clock, counters, most)
        });
        let shadows = shadows.transpose()?;
        let opened = store
            .map(|store| Keeper::open(store, Arc::clone(&journal), Arc::clone(&counters), &groups));
        let (keeper, restored) = opened.transpose()?.unzip();
        if let Some(keeper) = &keeper {
            groups.keep(keeper);
        }
        let broker = Arc::new(Broker {
            auth,
            clock,
            sessions: Sessions::new(settings.sessions_max, Arc::clone(&counters), keeper.clone()),
            groups,
            keeper: keeper.clone(),
            shadows: shadows.clone(),
            refusals: refusals::Record::default(),
            retained,
            handshakes: Semaphore::new(settings.handshakes_max),
            handshakes_waiting: AtomicUsize::new(0),
            shards: Arc::new(Shards::start(settings.threads(), &journal)?),
            settings,
            journal,
            counters,
            hub: Arc::clone(&hub),
            crowd: Mutex::default(),
            taps: AtomicUsize::new(0),
            presences: AtomicU64::new(0),
            failed: AtomicBool::new(false),
            wills: Mutex::default(),
            threads: Mutex::default(),
        });
        let hub = std::thread::Builder::new()
            .name("broker-hub".into())
            .spawn(move || hub.run())
            .map_err(|cause| Error::io("failed to start the broker's hub thread", cause))?;
        let keeper = keeper.map(|keeper| {
            std::thread::Builder::new()
                .name("broker-keeper".into())
                .spawn(move || keeper.run())
                .map_err(|cause| Error::io("failed to start the broker's keeper thread", cause))
        });
        let shadows = shadows.map(|shadows| {
            std::thread::Builder::new()
                .name("broker-shadows".into())
                .spawn(move || shadows.run())
                .map_err(|cause| Error::io("failed to start the broker's shadow thread", cause))
        });
        let now = broker.clock.now();
        for session in restored.into_iter().flatten() {
            broker.sessions.restore(session, now);
        }
        let sweeper =
            tokio::spawn(sweep(Arc::downgrade(&broker), Lease(Arc::clone(&broker.shards))));
        let (keeper, shadows) = (keeper.transpose()?, shadows.transpose()?);
        *lock(&broker.threads) = Some(Threads { hub, keeper, shadows, sweeper });
        Ok(broker)
    }

    /// Serves plain MQTT until `shutdown` turns true (or its sender is gone), then lets pending
    /// acknowledgements out. An error means that connections had to be cut.
    pub async fn serve_tcp(
        self: &Arc<Self>,
        listener: TcpListener,
        shutdown: watch::Receiver<bool>,
    ) -> Result<()> {
        self.serve(listener, Entrance::Tcp, shutdown).await
    }

    /// Serves MQTT over TLS. `tls` must demand client certificates of our authority.
    pub async fn serve_tls(
        self: &Arc<Self>,
        listener: TcpListener,
        tls: Arc<ServerConfig>,
        shutdown: watch::Receiver<bool>,
    ) -> Result<()> {
        self.serve(listener, Entrance::Tls(tls.into()), shutdown).await
    }

    /// Serves MQTT over WebSocket, plain and over TLS on one port: the first byte tells. `tls`
    /// must check the client certificates that it is shown, and may do without. Clients are known
    /// by their certificate, by the signature of their request, or are anonymous.
    pub async fn serve_websocket(
        self: &Arc<Self>,
        listener: TcpListener,
        tls: Arc<ServerConfig>,
        shutdown: watch::Receiver<bool>,
    ) -> Result<()> {
        self.serve(listener, Entrance::WebSocket(tls.into()), shutdown).await
    }

    async fn serve(
        self: &Arc<Self>,
        listener: TcpListener,
        entrance: Entrance,
        shutdown: watch::Receiver<bool>,
    ) -> Result<()> {
        if let Ok(address) = listener.local_addr() {
            info!(%address, over = entrance.name(), "listening for MQTT");
        }
        listen::serve(self, listener, entrance, shutdown).await
    }

    /// Ends the hub and the sweeper, after the listeners have ended. Messages are no longer
    /// delivered; nothing that was acknowledged depends on it.
    pub async fn close(&self) {
        let threads = lock(&self.threads).take();
        let Some(Threads { hub, keeper, shadows, sweeper }) = threads else { return };
        sweeper.abort();
        self.shards.stop();
        self.hub.stop();
        self.groups.save();
        if let Some(keeper) = &self.keeper {
            keeper.stop();
        }
        if let Some(shadows) = &self.shadows {
            shadows.stop();
        }
        let mut threads = self.shards.take_threads();
        threads.extend([Some(hub), keeper, shadows].into_iter().flatten());
        let joined = tokio::task::spawn_blocking(move || {
            threads.into_iter().map(std::thread::JoinHandle::join).all(|j| j.is_ok())
        });
        if !matches!(joined.await, Ok(true)) {
            error!("a thread of the broker panicked; subscribers missed messages");
        }
    }

    /// The counters now.
    pub fn stats(&self) -> Stats {
        self.counters.stats()
    }

    /// Every session, connected or kept, by client id.
    pub fn sessions(&self) -> Vec<SessionInfo> {
        self.sessions.list()
    }

    /// How many sessions have a connection, and how many are kept without one.
    pub fn session_counts(&self) -> (usize, usize) {
        self.sessions.counts()
    }

    /// Closes every live connection of `principal`; gives how many. Each ends as soon as its
    /// task runs. To be called after the registry refuses the principal, so that it cannot
    /// come back.
    pub fn disconnect_principal(&self, principal: &str, reason: Disconnect) -> usize {
        let kick = match reason {
            Disconnect::Revoked => Kick::Revoked,
            Disconnect::Administrative => Kick::Administrative,
        };
        self.sessions.kick_principal(principal, kick, self.clock.now())
    }

    /// Has the live connections of these principals (of everybody, for `None`) ask for their
    /// rights again, each as soon as its task runs. A client that may no longer connect is
    /// closed. To be called after the [`Authenticator`] answers anew.
    pub fn rights_changed(&self, principals: Option<&[String]>) {
        self.sessions.outdate(|identity| match principals {
            Some(principals) => principals.contains(&identity.principal),
            None => true,
        });
    }

    /// What is known about one client's session, if there is one, and what it was refused.
    pub fn why(&self, client_id: &str) -> (Option<SessionInfo>, Refusals) {
        (self.sessions.get(client_id), self.refusals.of(client_id))
    }

    /// Everything that `filter` selects from now on.
    pub fn tap(self: &Arc<Self>, filter: TopicFilter) -> Result<Tap> {
        if self.taps.fetch_add(1, Ordering::SeqCst) >= self.settings.taps_max {
            self.tap_closed();
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!("{} taps are open already; close one first", self.settings.taps_max),
            ));
        }
        Ok(Tap::open(Arc::clone(self), filter))
    }

    /// The identity, as one copy for all who are the same.
    pub(crate) fn same_for_all(&self, identity: &Identity) -> Arc<Identity> {
        if identity.thing_name.is_some() {
            return Arc::new(identity.clone());
        }
        let mut crowd = lock(&self.crowd);
        match &*crowd {
            Some(known) if **known == *identity => Arc::clone(known),
            _ => Arc::clone(crowd.insert(Arc::new(identity.clone()))),
        }
    }

    pub(crate) fn tap_closed(&self) {
        self.taps.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether the journal was seen to have failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn note_failure(&self) {
        self.failed.store(true, Ordering::Relaxed);
    }

    /// How long a session that asks for `secs` is kept; `None` for not at all.
    pub(crate) fn kept_for(&self, secs: u32) -> Option<Duration> {
        let secs = secs.min(self.settings.session_expiry_secs_max);
        (secs > 0).then(|| Duration::from_secs(u64::from(secs)))
    }

    /// Logs a will if its client might still say it; one that the full journal does not take is
    /// tried again by the sweeper.
    pub(crate) fn publish_will(&self, departed: Departed, will: Will) {
        if !self.may_leave(&departed, &will) {
            return;
        }
        let client_id = &*departed.client_id;
        match self.log_will(client_id, &departed.identity.principal, &will) {
            Ok(()) => self.counters.wills.one(),
            Err(full) if full.kind() == ErrorKind::Exhausted => {
                let mut wills = lock(&self.wills);
                if wills.len() < self.settings.sessions_max {
                    wills.push_back((departed, will));
                } else {
                    self.counters.refused_journal.one();
                    error!(client_id, "a will is lost: the journal is full and so is the queue");
                }
            }
            Err(cause) => {
                self.counters.refused_journal.one();
                error!(client_id, %cause, "a will is lost");
            }
        }
    }

    fn log_will(&self, client_id: &str, principal: &str, will: &Will) -> Result<()> {
        let message = MessageRef {
            topic: &will.topic,
            payload: &will.payload,
            client_id,
            principal,
            received_at: self.clock.now(),
            qos: will.qos,
            retain: will.retain,
        };
        let mut batch = Batch::new();
        let extras = Extras { properties: &will.properties, ..Extras::default() };
        batch.push(|out| message.encode_with(&extras, out))?;
        self.append(&batch, None, Concern { retained: will.retain, shadows: false })?;
        self.counters.logged.one();
        Ok(())
    }

    /// Hands messages to the journal, and to those whom they concern.
    pub(crate) fn append(
        &self,
        batch: &Batch,
        bell: Option<&Arc<Bell>>,
        concern: Concern,
    ) -> Result<Appended> {
        let appended = self.append_some(batch, bell, concern);
        self.journal.nudge();
        appended
    }

    /// As [`append`](Self::append), for a shard, which nudges the journal when its pass is over.
    pub(crate) fn append_some(
        &self,
        batch: &Batch,
        bell: Option<&Arc<Bell>>,
        concern: Concern,
    ) -> Result<Appended> {
        let Some(shadows) = self.shadows.as_ref().filter(|_| concern.shadows) else {
            return self.append_retained(batch, bell, concern.retained);
        };
        let mut queue = shadows.hold();
        let appended = self.append_retained(batch, bell, concern.retained)?;
        queue.push(appended.first, appended.next());
        drop(queue);
        shadows.wake();
        Ok(appended)
    }

    fn append_retained(
        &self,
        batch: &Batch,
        bell: Option<&Arc<Bell>>,
        retains: bool,
    ) -> Result<Appended> {
        let Some(retained) = self.retained.as_ref().filter(|_| retains) else {
            return self.journal.append_some(batch, bell);
        };
        let mut index = retained.hold();
        let appended = self.journal.append_some(batch, bell)?;
        for (at, record) in batch.records().enumerate() {
            index.note(appended.first.plus(at as u64), record);
        }
        Ok(appended)
    }

    /// Whether messages are retained here.
    pub fn retains(&self) -> bool {
        self.retained.is_some()
    }

    /// The message retained under a topic, with its properties.
    pub fn retained_get(&self, topic: &str) -> Option<(Message, Properties)> {
        let entry = self.retained.as_ref()?.get(topic, self.clock.now())?;
        retained::message(&entry)
    }

    /// All retained messages by topic.
    pub fn retained_list(&self) -> Vec<RetainedSummary> {
        let now = self.clock.now();
        self.retained.as_ref().map(|retained| retained.list(now)).unwrap_or_default()
    }

    fn retry_wills(&self) {
        let waiting = std::mem::take(&mut *lock(&self.wills));
        for (departed, will) in waiting {
            self.publish_will(departed, will);
        }
    }
}

/// Expires sessions and publishes wills that are due, for as long as the broker lives.
async fn sweep(broker: Weak<Broker>, _lease: Lease) {
    let mut sweeps = 0_u64;
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(broker) = broker.upgrade() else { return };
        let now = broker.clock.now();
        for (departed, will) in broker.sessions.sweep(Instant::now(), now) {
            broker.publish_will(departed, will);
        }
        broker.groups.save();
        sweeps += 1;
        if sweeps.is_multiple_of(SWEEPS_PER_MOVE)
            && let Some(keeper) = broker.keeper.clone()
        {
            // First the log's end, then who has logged: what comes later is behind it.
            let durable = broker.journal.durable();
            let complete = broker.sessions.unsaved_from().min(durable);
            let bytes_max = broker.settings.session_log_bytes_max;
            let moved =
                tokio::task::spawn_blocking(move || keeper.move_cursors(complete, bytes_max)).await;
            if let Ok(Err(cause)) = moved {
                error!(%cause, "the log is kept longer than sessions need it");
            }
        }
        broker.retry_wills();
        if let Some(retained) = broker.retained.clone() {
            let now = broker.clock.now();
            let saved = tokio::task::spawn_blocking(move || retained.save(now)).await;
            if let Ok(Err(cause)) = saved {
                error!(%cause, "retained messages are not saved; the log keeps them");
            }
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Before the sessions go: they are not over, only the process is.
        if let Some(keeper) = &self.keeper {
            keeper.stop();
        }
        if let Some(shadows) = &self.shadows {
            shadows.stop();
        }
        self.hub.stop();
        self.shards.stop();
    }
}
