//! Sessions on disk: what a client that comes back after a restart, or a kill, finds again.
//!
//! A session is one row of the metastore. One thread writes all rows that wait, together: what
//! must be stable before it is answered (a new session, a subscription, a step of QoS 2) waits
//! for its row, everything else follows within a second. Messages the client sent are not in
//! rows while it is connected: they lie in the log with their packet ids, and are read again
//! when the broker opens, from where all rows are complete.
//!
//! Invariants
//! * What was answered from a row is in it, or in the log from the cursor on.
//! * A row that names offsets the log never made durable is corrected before anything is served:
//!   those offsets are given anew.
//! * The log keeps what the sessions still need, up to `session_log_bytes_max`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use base::{Error, ErrorKind, MessageRef, Offset, QoS, Result, Timestamp, TopicFilter};
use journal::Journal;
use metastore::{Metastore, Row};
use serde::{Deserialize, Serialize};
use tracing::{error, warn};

use crate::auth::Identity;
use crate::codec::Will;
use crate::counters::Counters;
use crate::hub::lock;
use crate::retained::{hex, unhex};
use crate::session::{InFlight, Incoming, Origin, Outgoing, Session};
use crate::sessions::Link;
use crate::share::{self, Groups};
use crate::subscription::{Options, Subscription};

/// Our names among the log's readers: whose messages may come again, and who still reads.
const RESENDS: &str = "broker-sessions";
const QUEUES: &str = "broker-queues";

/// Bytes of log read at once when the broker opens.
const READ_BYTES: usize = 1024 * 1024;

/// How soon a full disk is tried again.
const RETRY: Duration = Duration::from_millis(250);

/// QoS 1 messages of one client in its row, of those that it may send again.
const RECENT_MAX: usize = 256;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionRow {
    principal: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    thing_name: Option<String>,
    /// Where its client connected from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    /// Seconds the session outlives its connection.
    expiry_secs: u64,
    /// When the last connection ended; absent while there is one, and after a kill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left_at: Option<i64>,
    /// After how many milliseconds of silence the client counts as gone.
    silence_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    will: Option<WillRow>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    subscriptions: Vec<SubscriptionRow>,
    /// The first offset not yet given to the client.
    cursor: u64,
    last_packet_id: u16,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    in_flight: Vec<InFlightRow>,
    /// QoS 2 messages that await PUBREL: packet id and the offset behind the record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    open: Vec<(u16, u64)>,
    /// The last QoS 1 messages: packet id, fingerprint, and the offset behind the record.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    recent: Vec<(u16, u64, u64)>,
    /// What the client sent is in this row up to here, and in the log from here on.
    until: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct WillRow {
    topic: String,
    /// In hex, as are the properties.
    payload: String,
    qos: u8,
    retain: bool,
    properties: String,
    delay_secs: u32,
    /// When it is due, once the connection has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    due_at: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SubscriptionRow {
    filter: String,
    qos: u8,
    no_local: bool,
    retain_as_published: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identifier: Option<NonZeroU32>,
    from: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct InFlightRow {
    id: u16,
    offset: u64,
    qos: u8,
    released: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    unsent: bool,
    origin: OriginRow,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum OriginRow {
    Live,
    Retained(Option<NonZeroU32>),
    /// `$share/NAME/FILTER`.
    Shared(String),
}

impl Row for SessionRow {
    const TABLE: &'static str = "broker-sessions";
}

/// A shared subscription; the key is `$share/NAME/FILTER`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupRow {
    /// What is below was dealt out.
    pub(crate) cursor: u64,
    /// Below the cursor, what was not settled with a member.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) unsettled: Vec<u64>,
}

impl Row for GroupRow {
    const TABLE: &'static str = "broker-shares";
}

fn qos(level: u8) -> QoS {
    match level {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}

/// What a row takes from a session beside the session itself.
pub(crate) struct Extra<'a> {
    pub(crate) subscriptions: &'a [Subscription],
    pub(crate) cursor: Offset,
    pub(crate) silence: Duration,
    /// With the time it is due, once the connection has ended.
    pub(crate) will: Option<(&'a Will, Option<Timestamp>)>,
    pub(crate) left_at: Option<Timestamp>,
}

impl SessionRow {
    pub(crate) fn new(session: &Session, extra: &Extra<'_>) -> SessionRow {
        let plain = extra.subscriptions.iter().map(|s| (s.filter.as_str(), s.options));
        let shared = session.shares.iter().map(|share| (&**share.name(), share.options));
        let name_of = |id| {
            let share = session.shares.iter().find(|share| share.id() == id);
            share.map(|share| share.name().to_string())
        };
        SessionRow {
            principal: session.identity.principal.clone(),
            thing_name: session.identity.thing_name.clone(),
            address: session.address,
            expiry_secs: session.kept_for.unwrap_or_default().as_secs(),
            left_at: extra.left_at.map(|at| at.0),
            silence_ms: u64::try_from(extra.silence.as_millis()).unwrap_or(u64::MAX),
            will: extra.will.map(|(will, due_at)| WillRow {
                topic: will.topic.clone(),
                payload: hex(&will.payload),
                qos: will.qos as u8,
                retain: will.retain,
                properties: hex(&will.properties),
                delay_secs: will.delay_secs,
                due_at: due_at.map(|at| at.0),
            }),
            subscriptions: plain
                .chain(shared)
                .map(|(filter, options)| SubscriptionRow {
                    filter: filter.to_owned(),
                    qos: options.qos as u8,
                    no_local: options.no_local,
                    retain_as_published: options.retain_as_published,
                    identifier: options.identifier,
                    from: options.from.0,
                })
                .collect(),
            cursor: extra.cursor.0,
            last_packet_id: session.outgoing.last_packet_id(),
            in_flight: session
                .outgoing
                .iter()
                .map(|sent| InFlightRow {
                    id: sent.packet_id,
                    offset: sent.offset.0,
                    qos: sent.qos as u8,
                    released: sent.released,
                    // While there is a connection it may be sent at any time.
                    unsent: sent.unsent && extra.left_at.is_some(),
                    origin: match sent.origin {
                        Origin::Live => OriginRow::Live,
                        Origin::Retained(identifier) => OriginRow::Retained(identifier),
                        // Unsubscribed since: it is sent again as any other.
                        Origin::Shared(id) => {
                            name_of(id).map_or(OriginRow::Live, OriginRow::Shared)
                        }
                    },
                })
                .collect(),
            open: session.incoming.open().map(|(id, next)| (id, next.0)).collect(),
            recent: session.incoming.recent(RECENT_MAX),
            until: session.until.0,
        }
    }

    /// The lowest offset that the session may still want to read.
    fn floor(&self) -> u64 {
        let in_flight = self.in_flight.iter().map(|sent| sent.offset).min();
        let cursor = (!self.subscriptions.is_empty()).then_some(self.cursor);
        in_flight.into_iter().chain(cursor).min().unwrap_or(u64::MAX)
    }

    /// Forgets what the log never made durable; true if there was something.
    fn correct(&mut self, durable: u64) -> bool {
        let before = self.clone();
        self.open.retain(|(_, next)| *next <= durable);
        self.recent.retain(|(_, _, next)| *next <= durable);
        self.in_flight.retain(|sent| sent.offset < durable);
        self.cursor = self.cursor.min(durable);
        self.until = self.until.min(durable);
        for subscription in &mut self.subscriptions {
            subscription.from = subscription.from.min(durable);
        }
        *self != before
    }
}

/// A session as the broker goes on with it after a restart.
pub(crate) struct Restored {
    pub(crate) client_id: Arc<str>,
    pub(crate) session: Session,
    pub(crate) left_at: Option<Timestamp>,
    pub(crate) silence: Duration,
    /// With the time it is due; without, the connection had not ended.
    pub(crate) will: Option<(Will, Option<Timestamp>)>,
    /// Whether the log holds what its row does not.
    pub(crate) grown: bool,
}

/// Writes the rows.
#[derive(Debug)]
pub(crate) struct Keeper {
    store: Metastore,
    journal: Arc<dyn Journal>,
    counters: Arc<Counters>,
    queue: Mutex<Queue>,
    work: Condvar,
    written: Condvar,
    broken: AtomicBool,
}

#[derive(Debug, Default)]
struct Queue {
    sessions: HashMap<Arc<str>, Change>,
    groups: HashMap<Arc<str>, Option<GroupRow>>,
    /// The lowest offset that each row needs; every row has an entry.
    floors: HashMap<Arc<str>, u64>,
    /// Changes handed in, and how many of them are stable.
    handed: u64,
    stable: u64,
    failed: Option<String>,
    stopping: bool,
}

#[derive(Debug)]
struct Change {
    /// `None`: the row is to go.
    row: Option<SessionRow>,
    /// Who waits for which version.
    waiting: Option<(Arc<Link>, u64)>,
}

impl Queue {
    /// Takes back what could not be written, unless something newer came meanwhile.
    fn take_back(
        &mut self,
        sessions: HashMap<Arc<str>, Change>,
        groups: HashMap<Arc<str>, Option<GroupRow>>,
    ) {
        #[expect(clippy::iter_over_hash_type, reason = "the order does not matter")]
        for (client_id, change) in sessions {
            match self.sessions.entry(client_id) {
                Entry::Vacant(place) => {
                    place.insert(change);
                }
                Entry::Occupied(newer) => {
                    let newer = newer.into_mut();
                    newer.waiting = newer.waiting.take().or(change.waiting);
                }
            }
        }
        #[expect(clippy::iter_over_hash_type, reason = "the order does not matter")]
        for (name, row) in groups {
            self.groups.entry(name).or_insert(row);
        }
    }
}

impl Keeper {
    /// Reads the sessions of the last run, and what the log says of them since.
    pub(crate) fn open(
        store: Metastore,
        journal: Arc<dyn Journal>,
        counters: Arc<Counters>,
        groups: &Arc<Groups>,
    ) -> Result<(Arc<Keeper>, Vec<Restored>)> {
        let durable = journal.durable();
        let mut rows = HashMap::new();
        let mut queue = Queue::default();
        let mut corrected = Vec::new();
        for (client_id, row) in store.list::<SessionRow>()? {
            let mut row = row.row;
            if row.correct(durable.0) {
                corrected.push((client_id.clone(), row.clone()));
            }
            let client_id: Arc<str> = client_id.into();
            queue.floors.insert(Arc::clone(&client_id), row.floor());
            rows.insert(client_id, row);
        }
        let named = |name: &str| {
            rows.values().any(|row| row.subscriptions.iter().any(|s| s.filter == name))
        };
        let mut shares = HashMap::new();
        let mut orphans = Vec::new();
        for (name, mut row) in store.list::<GroupRow>()? {
            if named(&name) {
                row.row.cursor = row.row.cursor.min(durable.0);
                row.row.unsettled.retain(|offset| *offset < durable.0);
                shares.insert(name, row.row);
            } else {
                orphans.push(name);
            }
        }
        store.transact(|transaction| {
            for (client_id, row) in &corrected {
                transaction.put(client_id, row)?;
            }
            for name in &orphans {
                transaction.delete::<GroupRow>(name)?;
            }
            Ok(())
        })?;
        restore_groups(groups, &rows, shares);
        let mut restored: HashMap<Arc<str>, Restored> = rows
            .into_iter()
            .map(|(client_id, row)| (Arc::clone(&client_id), restore(groups, client_id, row)))
            .collect();
        read_resends(&*journal, durable, &mut restored)?;
        let keeper = Keeper {
            store,
            journal,
            counters,
            queue: Mutex::new(queue),
            work: Condvar::new(),
            written: Condvar::new(),
            broken: AtomicBool::new(false),
        };
        Ok((Arc::new(keeper), restored.into_values().collect()))
    }

    /// Whether there is a row of this client, or will be.
    pub(crate) fn knows(&self, client_id: &str) -> bool {
        let queue = lock(&self.queue);
        match queue.sessions.get(client_id) {
            Some(change) => change.row.is_some(),
            None => queue.floors.contains_key(client_id),
        }
    }

    /// Writes a session's row soon, or removes it. `waiting` is told once it is stable.
    pub(crate) fn put(
        &self,
        client_id: &Arc<str>,
        row: Option<SessionRow>,
        waiting: Option<(&Arc<Link>, u64)>,
    ) {
        let mut queue = lock(&self.queue);
        if queue.stopping {
            // What ends with the process is not over.
            return;
        }
        queue.handed += 1;
        let waiting = waiting.map(|(link, version)| (Arc::clone(link), version));
        let older = queue.sessions.remove(client_id);
        // An older version of the same connection is contained in the newer one.
        let waiting = waiting.or_else(|| older.and_then(|change| change.waiting));
        queue.sessions.insert(Arc::clone(client_id), Change { row, waiting });
        drop(queue);
        self.work.notify_one();
    }

    /// Writes the row of a shared subscription soon, or removes it.
    pub(crate) fn put_group(&self, name: &Arc<str>, row: Option<GroupRow>) {
        let mut queue = lock(&self.queue);
        if queue.stopping {
            return;
        }
        queue.handed += 1;
        queue.groups.insert(Arc::clone(name), row);
        drop(queue);
        self.work.notify_one();
    }

    /// Why nothing can be kept any more.
    pub(crate) fn failure(&self) -> Option<Error> {
        if !self.broken.load(Ordering::SeqCst) {
            return None;
        }
        let failed = lock(&self.queue).failed.clone();
        failed.map(|why| Error::new(ErrorKind::Unavailable, why))
    }

    /// Writes until [`stop`](Self::stop), and then what is left. Runs on a thread of its own.
    pub(crate) fn run(&self) {
        loop {
            let mut queue = lock(&self.queue);
            while queue.sessions.is_empty() && queue.groups.is_empty() {
                if queue.stopping {
                    return;
                }
                queue = self.work.wait(queue).unwrap_or_else(|poisoned| poisoned.into_inner());
            }
            let sessions = std::mem::take(&mut queue.sessions);
            let groups = std::mem::take(&mut queue.groups);
            let handed = queue.handed;
            // Known from now on, so that whoever asks meanwhile is not told otherwise.
            #[expect(clippy::iter_over_hash_type, reason = "the order does not matter")]
            for (client_id, change) in &sessions {
                match &change.row {
                    Some(row) => queue.floors.insert(Arc::clone(client_id), row.floor()),
                    None => queue.floors.remove(client_id),
                };
            }
            drop(queue);
            let result = self.write(&sessions, &groups);
            let mut queue = lock(&self.queue);
            match &result {
                Ok(()) => queue.stable = handed,
                Err(full) if full.kind() == ErrorKind::Exhausted && !queue.stopping => {
                    // What waits for a row goes on waiting: a full disk has lost nothing.
                    warn!(cause = %full, "sessions are not kept; trying again");
                    queue.take_back(sessions, groups);
                    drop(queue);
                    std::thread::sleep(RETRY);
                    continue;
                }
                Err(cause) => {
                    error!(%cause, "sessions cannot be kept any more; restart after checking the disk");
                    queue.failed = Some(format!("sessions cannot be kept: {cause}"));
                    queue.stopping = true;
                    self.broken.store(true, Ordering::SeqCst);
                }
            }
            drop(queue);
            self.written.notify_all();
            self.counters.session_rows.add(sessions.len() as u64);
            for (link, version) in sessions.into_values().filter_map(|change| change.waiting) {
                if result.is_ok() {
                    link.saved(version);
                }
                link.mailbox.waker.wake();
            }
        }
    }

    fn write(
        &self,
        sessions: &HashMap<Arc<str>, Change>,
        groups: &HashMap<Arc<str>, Option<GroupRow>>,
    ) -> Result<()> {
        self.store.transact(|transaction| {
            #[expect(clippy::iter_over_hash_type, reason = "the order of rows does not matter")]
            for (client_id, change) in sessions {
                match &change.row {
                    Some(row) => transaction.put(client_id, row).map(drop)?,
                    None => transaction.delete::<SessionRow>(client_id).map(drop)?,
                }
            }
            #[expect(clippy::iter_over_hash_type, reason = "the order of rows does not matter")]
            for (name, row) in groups {
                match row {
                    Some(row) => transaction.put(name, row).map(drop)?,
                    None => transaction.delete::<GroupRow>(name).map(drop)?,
                }
            }
            Ok(())
        })
    }

    /// Ends [`run`](Self::run).
    pub(crate) fn stop(&self) {
        lock(&self.queue).stopping = true;
        self.work.notify_all();
        self.written.notify_all();
    }

    /// Lets the log drop what no session needs: `complete` is where the messages of connected
    /// clients begin that are in no row. Waits for the disk.
    pub(crate) fn move_cursors(&self, complete: Offset, bytes_max: u64) -> Result<()> {
        let floor = {
            let mut queue = lock(&self.queue);
            let handed = queue.handed;
            while queue.stable < handed {
                if queue.stopping {
                    return Ok(());
                }
                queue = self.written.wait(queue).unwrap_or_else(|poisoned| poisoned.into_inner());
            }
            queue.floors.values().copied().min().unwrap_or(u64::MAX)
        };
        let status = self.journal.status();
        let mut queues = Offset(floor.min(complete.0));
        if status.bytes > bytes_max && queues < complete {
            warn!(
                bytes = status.bytes,
                bytes_max,
                from = %queues,
                to = %complete,
                "the log lets go of messages that slow or absent sessions have not read; \
                 raise broker.session_log_bytes_max to keep more"
            );
            queues = complete;
        }
        for (consumer, next) in [(RESENDS, complete), (QUEUES, queues)] {
            if self.journal.committed(consumer)?.is_none_or(|at| at < next) {
                self.journal.commit(consumer, next)?;
            }
        }
        Ok(())
    }
}

fn options(row: &SubscriptionRow) -> Options {
    Options {
        no_local: row.no_local,
        retain_as_published: row.retain_as_published,
        identifier: row.identifier,
        ..Options::plain(qos(row.qos), Offset(row.from))
    }
}

/// Makes the groups, each with what is in nobody's hands.
fn restore_groups(
    groups: &Arc<Groups>,
    rows: &HashMap<Arc<str>, SessionRow>,
    shares: HashMap<String, GroupRow>,
) {
    let mut begins: HashMap<&str, (GroupRow, Vec<Offset>)> = HashMap::new();
    let subscriptions = rows.values().flat_map(|row| &row.subscriptions);
    for row in subscriptions.filter(|row| row.filter.starts_with(share::PREFIX)) {
        // A group that was never saved begins with its first member.
        let saved = shares.get(&row.filter).cloned();
        let fresh = GroupRow { cursor: row.from, unsettled: Vec::new() };
        let (begin, _) = begins
            .entry(&row.filter)
            .or_insert_with(|| (saved.clone().unwrap_or_else(|| fresh.clone()), Vec::new()));
        if saved.is_none() {
            begin.cursor = begin.cursor.min(row.from);
        }
    }
    for sent in rows.values().flat_map(|row| &row.in_flight) {
        let OriginRow::Shared(name) = &sent.origin else { continue };
        if let Some((_, held)) = begins.get_mut(name.as_str()) {
            held.push(Offset(sent.offset));
        }
    }
    #[expect(clippy::iter_over_hash_type, reason = "the order of groups does not matter")]
    for (name, (row, held)) in begins {
        groups.restore(name, &row, held);
    }
}

fn restore(groups: &Arc<Groups>, client_id: Arc<str>, row: SessionRow) -> Restored {
    let identity = Identity { principal: row.principal, thing_name: row.thing_name };
    let mut session = Session::new(Arc::new(identity));
    session.address = row.address;
    session.kept_for = Some(Duration::from_secs(row.expiry_secs));
    session.cursor = Offset(row.cursor);
    session.until = Offset(row.until);
    let mut plain = Vec::new();
    for subscription in &row.subscriptions {
        let options = options(subscription);
        if subscription.filter.starts_with(share::PREFIX) {
            session.shares.extend(groups.rejoin(&subscription.filter, options));
        } else if let Ok(filter) = TopicFilter::parse(&subscription.filter) {
            plain.push(Subscription { filter, options });
        }
    }
    session.subscriptions = Arc::new(plain);
    let shares = &session.shares;
    let in_flight = row.in_flight.into_iter().map(|sent| InFlight {
        packet_id: sent.id,
        offset: Offset(sent.offset),
        qos: qos(sent.qos),
        released: sent.released,
        unsent: sent.unsent,
        origin: match sent.origin {
            OriginRow::Live => Origin::Live,
            OriginRow::Retained(identifier) => Origin::Retained(identifier),
            OriginRow::Shared(name) => {
                let share = shares.iter().find(|share| **share.name() == *name);
                share.map_or(Origin::Live, |share| Origin::Shared(share.id()))
            }
        },
    });
    session.outgoing = Outgoing::restore(in_flight.collect(), row.last_packet_id);
    let open = row.open.into_iter().map(|(id, next)| (id, Offset(next)));
    session.incoming = Incoming::restore(open, row.recent);
    let will = row.will.and_then(|will| {
        let due_at = will.due_at.map(Timestamp);
        let will = Will {
            topic: will.topic,
            payload: unhex(&will.payload)?,
            qos: qos(will.qos),
            retain: will.retain,
            properties: unhex(&will.properties)?,
            delay_secs: will.delay_secs,
        };
        Some((will, due_at))
    });
    Restored {
        client_id,
        session,
        left_at: row.left_at.map(Timestamp),
        silence: Duration::from_millis(row.silence_ms),
        will,
        grown: false,
    }
}

/// What clients sent since their rows were written: they may send it again.
fn read_resends(
    journal: &dyn Journal,
    durable: Offset,
    sessions: &mut HashMap<Arc<str>, Restored>,
) -> Result<()> {
    // A log of before this file has no packet ids.
    let Some(mut at) = journal.committed(RESENDS)? else {
        return journal.commit(RESENDS, durable);
    };
    while at < durable && !sessions.is_empty() {
        let records = journal.read(at, READ_BYTES)?;
        for (offset, record) in &records.items {
            let Ok((message, extras)) = MessageRef::decode_with(record) else { continue };
            let Some(packet_id) = extras.packet_id else { continue };
            let Some(restored) = sessions.get_mut(message.client_id) else { continue };
            let (session, next) = (&mut restored.session, offset.plus(1));
            if next <= session.until {
                continue;
            }
            restored.grown = true;
            match message.qos {
                QoS::AtMostOnce => {}
                QoS::AtLeastOnce => {
                    let fingerprint = Incoming::fingerprint(message.topic, message.payload);
                    session.incoming.logged(packet_id, fingerprint, next, RECENT_MAX);
                }
                QoS::ExactlyOnce => session.incoming.opened(packet_id, next),
            }
        }
        if records.next <= at {
            break;
        }
        at = records.next;
    }
    #[expect(clippy::iter_over_hash_type, reason = "the order of sessions does not matter")]
    for restored in sessions.values_mut() {
        restored.session.until = restored.session.until.max(durable);
    }
    Ok(())
}
