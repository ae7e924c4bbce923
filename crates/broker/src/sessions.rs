//! Who is here, and who was: one slot per client id.
//!
//! Invariants
//! * A client id has one session, and at most one connection owns it.
//! * A connection that leaves gives the session back before the next one gets it.
//! * Sessions are counted and bounded; those that expired are removed by `sweep`.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base::{Offset, Timestamp};
use serde::Serialize;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::auth::Identity;
use crate::codec::{Version, Will};
use crate::counters::Counters;
use crate::hub::{Mailbox, lock};
use crate::kept::{Extra, Keeper, Restored, SessionRow};
use crate::session::{Session, same_owner};
use crate::subscription::{self, Subscriptions};

/// How long a new connection waits for the old one of its client id to let go.
const TAKEOVER_TIME_MAX: Duration = Duration::from_secs(5);

/// Why a live connection must end, said from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kick {
    TakenOver = 1,
    Revoked = 2,
    Administrative = 3,
    Shutdown = 4,
    /// A policy no longer lets it connect.
    NotAllowed = 5,
}

/// What a session is subscribed to.
#[derive(Clone, Debug)]
pub(crate) struct Subscribed {
    pub(crate) subscriptions: Subscriptions,
    /// `$share/NAME/FILTER` of each shared one.
    pub(crate) shared: Vec<Arc<str>>,
}

/// The outside handle of one connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) client_id: Arc<str>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) version: Version,
    pub(crate) peer: SocketAddr,
    pub(crate) since: Timestamp,
    /// When its certificate ends.
    pub(crate) until: Option<Timestamp>,
    /// What the connection last said it is subscribed to, for `sessions`.
    pub(crate) subscribed: Mutex<Subscribed>,
    kick: AtomicU8,
    /// Set when its rights may have changed.
    stale: AtomicBool,
    /// Told when the session was given back.
    gone: Notify,
    /// The version of the session that its row holds.
    saved: AtomicU64,
    /// Where the client's messages begin that are in no row.
    unsaved_from: AtomicU64,
}

impl Link {
    pub(crate) fn new(
        client_id: Arc<str>,
        identity: Arc<Identity>,
        version: Version,
        peer: SocketAddr,
        since: Timestamp,
        until: Option<Timestamp>,
    ) -> Arc<Link> {
        Arc::new(Link {
            client_id,
            identity,
            mailbox: Arc::default(),
            version,
            peer,
            since,
            until,
            subscribed: Mutex::new(Subscribed {
                subscriptions: subscription::none(),
                shared: Vec::new(),
            }),
            kick: AtomicU8::new(0),
            // What was decided before the client was known here is decided once more.
            stale: AtomicBool::new(true),
            gone: Notify::new(),
            saved: AtomicU64::new(0),
            unsaved_from: AtomicU64::new(u64::MAX),
        })
    }

    /// Asks the connection to end. The first reason counts.
    pub(crate) fn kick(&self, kick: Kick) {
        if self.kick.compare_exchange(0, kick as u8, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.mailbox.waker.wake();
        }
    }

    /// Has the connection ask for its rights again.
    pub(crate) fn outdate(&self) {
        self.stale.store(true, Ordering::SeqCst);
        self.mailbox.waker.wake();
    }

    /// Whether the rights must be asked for again; says so once.
    pub(crate) fn take_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed) && self.stale.swap(false, Ordering::SeqCst)
    }

    /// The session's row is stable as it was at this version.
    pub(crate) fn saved(&self, version: u64) {
        self.saved.fetch_max(version, Ordering::SeqCst);
    }

    pub(crate) fn saved_version(&self) -> u64 {
        self.saved.load(Ordering::SeqCst)
    }

    /// Notes a message that is about to be logged at or behind `from`, and will be in no row yet.
    pub(crate) fn note_unsaved(&self, from: Offset) {
        self.unsaved_from.fetch_min(from.0, Ordering::SeqCst);
    }

    /// Rows hold what was logged before `from`; `None` for everything. Only for the task that
    /// logs.
    pub(crate) fn set_unsaved(&self, from: Option<Offset>) {
        self.unsaved_from.store(from.map_or(u64::MAX, |from| from.0), Ordering::SeqCst);
    }

    pub(crate) fn kicked(&self) -> Option<Kick> {
        match self.kick.load(Ordering::SeqCst) {
            0 => None,
            1 => Some(Kick::TakenOver),
            2 => Some(Kick::Revoked),
            3 => Some(Kick::Administrative),
            5 => Some(Kick::NotAllowed),
            _ => Some(Kick::Shutdown),
        }
    }
}

/// Somebody whose will is due.
#[derive(Clone, Debug)]
pub(crate) struct Departed {
    pub(crate) client_id: Arc<str>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) address: Option<IpAddr>,
    /// Whether the session outlived the connection.
    pub(crate) persistent: bool,
}

impl Departed {
    pub(crate) fn of(client_id: &Arc<str>, session: &Session) -> Departed {
        Departed {
            client_id: Arc::clone(client_id),
            identity: Arc::clone(&session.identity),
            address: session.address,
            persistent: session.kept_for.is_some(),
        }
    }
}

/// A session without a connection.
#[derive(Debug)]
pub(crate) struct Parked {
    pub(crate) session: Session,
    /// `None`: never by itself.
    expires_at: Option<Instant>,
    /// A will that waits for its delay.
    will: Option<(Instant, Will)>,
    since: Timestamp,
    /// After how much silence its client counted as gone.
    silence: Duration,
}

impl Parked {
    fn is_over(&self) -> bool {
        self.expires_at.is_some_and(|at| at <= Instant::now())
    }
}

#[derive(Debug)]
enum Slot {
    Online(Arc<Link>),
    Offline(Box<Parked>),
}

/// Why a client id is not to be had.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It belongs to another identity.
    NotYours,
    /// No room for another session.
    Full,
    /// The old connection does not let go.
    Stuck,
}

/// All sessions by client id.
#[derive(Debug)]
pub(crate) struct Sessions {
    slots: Mutex<HashMap<Arc<str>, Slot>>,
    count_max: usize,
    counters: Arc<Counters>,
    /// `None`: sessions end with the process.
    keeper: Option<Arc<Keeper>>,
}

/// What is known of one session, for the console and the command line.
#[derive(Clone, Debug, Serialize)]
pub struct SessionInfo {
    /// The MQTT client identifier.
    pub client_id: String,
    /// Certificate id or `anonymous`.
    pub principal: String,
    /// The thing behind the certificate.
    pub thing_name: Option<String>,
    /// Whether a connection owns it now.
    pub connected: bool,
    /// `3.1.1` or `5`; `None` while disconnected.
    pub protocol: Option<&'static str>,
    /// The peer's address while connected.
    pub peer: Option<String>,
    /// Since when it is connected, or disconnected.
    pub since: Timestamp,
    /// Topic filters.
    pub subscriptions: Vec<String>,
}

impl Sessions {
    pub(crate) fn new(
        count_max: usize,
        counters: Arc<Counters>,
        keeper: Option<Arc<Keeper>>,
    ) -> Sessions {
        Sessions { slots: Mutex::default(), count_max, counters, keeper }
    }

    /// Takes up a session of the last run. Its client is away: a connection that a kill cut
    /// ends now, and its will is due when the client could have been found silent.
    pub(crate) fn restore(&self, restored: Restored, now: Timestamp) {
        let Restored { client_id, session, left_at, silence, will, grown } = restored;
        let gone_at = Instant::now();
        let kept_for = session.kept_for.unwrap_or_default();
        let left = |time: Duration| {
            let gone = left_at.map_or(Duration::ZERO, |at| now.since(at));
            time.saturating_sub(gone)
        };
        let expires_at = gone_at.checked_add(left(kept_for));
        let will = will.map(|(will, due_at)| {
            let delay = match due_at {
                // A clock that was set back meanwhile makes it wait no longer than was asked.
                Some(at) => at.since(now).min(Duration::from_secs(u64::from(will.delay_secs))),
                None => silence.max(Duration::from_secs(u64::from(will.delay_secs))).min(kept_for),
            };
            (gone_at + delay, will)
        });
        let since = left_at.unwrap_or(now);
        let parked = Parked { session, expires_at, will, since, silence };
        if grown || left_at.is_none() {
            self.keep(&client_id, &parked, now);
        }
        self.counters.sessions.one();
        lock(&self.slots).insert(client_id, Slot::Offline(Box::new(parked)));
    }

    /// Has a parked session written.
    fn keep(&self, client_id: &Arc<str>, parked: &Parked, now: Timestamp) {
        let Some(keeper) = &self.keeper else { return };
        let due_at = |at: Instant| {
            let wait = at.saturating_duration_since(Instant::now());
            let millis = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
            Timestamp(now.0.saturating_add(millis))
        };
        let row = SessionRow::new(
            &parked.session,
            &Extra {
                subscriptions: &parked.session.subscriptions,
                cursor: parked.session.cursor,
                silence: parked.silence,
                will: parked.will.as_ref().map(|(at, will)| (will, Some(due_at(*at)))),
                left_at: Some(parked.since),
            },
        );
        keeper.put(client_id, Some(row), None);
    }

    /// Has the row of a session removed that is over.
    fn forget(&self, client_id: &Arc<str>) {
        if let Some(keeper) = self.keeper.as_ref().filter(|keeper| keeper.knows(client_id)) {
            keeper.put(client_id, None, None);
        }
    }

    /// How many have a connection, and how many are kept without one.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let slots = lock(&self.slots);
        let online = slots.values().filter(|slot| matches!(slot, Slot::Online(_))).count();
        (online, slots.len() - online)
    }

    /// Where the messages of connected clients begin that are in no row.
    pub(crate) fn unsaved_from(&self) -> Offset {
        let slots = lock(&self.slots);
        let online = slots.values().filter_map(|slot| match slot {
            Slot::Online(link) => Some(link.unsaved_from.load(Ordering::SeqCst)),
            Slot::Offline(_) => None,
        });
        Offset(online.min().unwrap_or(u64::MAX))
    }

    /// Makes `link` the owner of its client id and gives the kept session, if there is one and
    /// `clean` does not discard it. An older connection is kicked and waited for. A will that
    /// waited for its delay is dropped with the return of its client, unless the session ends
    /// here (MQTT 5, 3.1.3.2.2): then it is given to publish.
    pub(crate) async fn claim(
        &self,
        link: &Arc<Link>,
        clean: bool,
    ) -> Result<(Option<Session>, Option<(Departed, Will)>), Taken> {
        loop {
            let older = {
                let mut slots = lock(&self.slots);
                match slots.get(&link.client_id) {
                    Some(Slot::Online(older)) => {
                        if !same_owner(&older.identity, &link.identity) {
                            return Err(Taken::NotYours);
                        }
                        Arc::clone(older)
                    }
                    Some(Slot::Offline(parked)) if !parked.session.belongs_to(&link.identity) => {
                        return Err(Taken::NotYours);
                    }
                    None if slots.len() >= self.count_max => return Err(Taken::Full),
                    _ => {
                        let slot = Slot::Online(Arc::clone(link));
                        let before = slots.insert(Arc::clone(&link.client_id), slot);
                        return Ok(match before {
                            Some(Slot::Offline(parked)) if clean || parked.is_over() => {
                                let departed = Departed::of(&link.client_id, &parked.session);
                                (None, parked.will.map(|(_, will)| (departed, will)))
                            }
                            Some(Slot::Offline(parked)) => (Some(parked.session), None),
                            _ => {
                                self.counters.sessions.one();
                                (None, None)
                            }
                        });
                    }
                }
            };
            self.displace(&older).await?;
        }
    }

    async fn displace(&self, older: &Arc<Link>) -> Result<(), Taken> {
        let gone = older.gone.notified();
        tokio::pin!(gone);
        gone.as_mut().enable();
        // It may have gone between the look and the wait.
        if self.is_online(older) {
            older.kick(Kick::TakenOver);
            timeout(TAKEOVER_TIME_MAX, gone).await.map_err(|_elapsed| Taken::Stuck)?;
        }
        Ok(())
    }

    fn is_online(&self, link: &Arc<Link>) -> bool {
        let slots = lock(&self.slots);
        matches!(slots.get(&link.client_id), Some(Slot::Online(owner)) if Arc::ptr_eq(owner, link))
    }

    /// Takes the session back from its connection: keeps it, or forgets it. Gives a will that
    /// is to be published now.
    pub(crate) fn release(
        &self,
        link: &Arc<Link>,
        session: Option<Session>,
        will: Option<Will>,
        silence: Duration,
        now: Timestamp,
    ) -> Option<Will> {
        let mut slots = lock(&self.slots);
        match slots.get(&link.client_id) {
            Some(Slot::Online(owner)) if Arc::ptr_eq(owner, link) => {}
            _ => return will,
        }
        let kept = session.and_then(|session| session.kept_for.map(|time| (session, time)));
        let due = match kept {
            Some((session, time)) => {
                let gone_at = Instant::now();
                let delay = will.as_ref().map_or(0, |will| will.delay_secs);
                let (now_due, later) = if delay == 0 {
                    (will, None)
                } else {
                    let at = gone_at + Duration::from_secs(u64::from(delay)).min(time);
                    (None, will.map(|will| (at, will)))
                };
                let expires_at = gone_at.checked_add(time);
                let parked = Parked { session, expires_at, will: later, since: now, silence };
                self.keep(&link.client_id, &parked, now);
                slots.insert(Arc::clone(&link.client_id), Slot::Offline(Box::new(parked)));
                now_due
            }
            None => {
                slots.remove(&link.client_id);
                self.counters.sessions.less();
                self.forget(&link.client_id);
                will
            }
        };
        drop(slots);
        link.gone.notify_waiters();
        due
    }

    /// Removes expired sessions, and kicks the connections whose certificates have run out; gives
    /// the wills that are due.
    pub(crate) fn sweep(&self, now: Instant, wall: Timestamp) -> Vec<(Departed, Will)> {
        let mut due = Vec::new();
        lock(&self.slots).retain(|client_id, slot| {
            let parked = match slot {
                Slot::Online(link) => {
                    if link.until.is_some_and(|until| until < wall) {
                        link.kick(Kick::Revoked);
                    }
                    return true;
                }
                Slot::Offline(parked) => parked,
            };
            let expired = parked.expires_at.is_some_and(|at| at <= now);
            let will = parked.will.take_if(|(at, _)| expired || *at <= now);
            if let Some((_, will)) = will {
                due.push((Departed::of(client_id, &parked.session), will));
                if !expired {
                    self.keep(client_id, parked, wall);
                }
            }
            if expired {
                self.forget(client_id);
                self.counters.sessions.less();
                self.counters.sessions_expired.one();
            }
            !expired
        });
        due
    }

    /// Kicks every connection of `principal` and drops the wills that wait under it; gives
    /// how many connections that were.
    pub(crate) fn kick_principal(&self, principal: &str, kick: Kick, now: Timestamp) -> usize {
        let mut kicked = 0;
        let mut slots = lock(&self.slots);
        #[expect(clippy::iter_over_hash_type, reason = "the order of kicks does not matter")]
        for (client_id, slot) in slots.iter_mut() {
            match slot {
                Slot::Online(link) if link.identity.principal == principal => {
                    link.kick(kick);
                    kicked += 1;
                }
                Slot::Offline(parked)
                    if parked.session.identity.principal == principal && parked.will.is_some() =>
                {
                    parked.will = None;
                    self.keep(client_id, parked, now);
                }
                _ => {}
            }
        }
        kicked
    }

    /// Outdates the rights of those that `whose` selects.
    pub(crate) fn outdate(&self, whose: impl Fn(&Identity) -> bool) {
        #[expect(clippy::iter_over_hash_type, reason = "the order does not matter")]
        for slot in lock(&self.slots).values() {
            if let Slot::Online(link) = slot
                && whose(&link.identity)
            {
                link.outdate();
            }
        }
    }

    /// What is known of one client.
    pub(crate) fn get(&self, client_id: &str) -> Option<SessionInfo> {
        lock(&self.slots).get_key_value(client_id).map(|(id, slot)| describe(id, slot))
    }

    /// Kicks everybody.
    pub(crate) fn kick_all(&self, kick: Kick) {
        #[expect(clippy::iter_over_hash_type, reason = "the order of kicks does not matter")]
        for slot in lock(&self.slots).values() {
            if let Slot::Online(link) = slot {
                link.kick(kick);
            }
        }
    }

    /// Everything known, by client id.
    pub(crate) fn list(&self) -> Vec<SessionInfo> {
        let mut list: Vec<_> =
            lock(&self.slots).iter().map(|(id, slot)| describe(id, slot)).collect();
        list.sort_by(|a, b| a.client_id.cmp(&b.client_id));
        list
    }
}

fn describe(client_id: &str, slot: &Slot) -> SessionInfo {
    let (identity, subscribed, since) = match slot {
        Slot::Online(link) => (&link.identity, lock(&link.subscribed).clone(), link.since),
        Slot::Offline(parked) => {
            let Session { identity, subscriptions, shares, .. } = &parked.session;
            let shared = shares.iter().map(|share| Arc::clone(share.name())).collect();
            let subscribed = Subscribed { subscriptions: Arc::clone(subscriptions), shared };
            (identity, subscribed, parked.since)
        }
    };
    let filters = subscribed.subscriptions.iter().map(|s| s.filter.as_str());
    let (protocol, peer) = match slot {
        Slot::Online(link) => {
            let protocol = if link.version == Version::V5 { "5" } else { "3.1.1" };
            (Some(protocol), Some(link.peer.to_string()))
        }
        Slot::Offline(_) => (None, None),
    };
    SessionInfo {
        client_id: client_id.to_owned(),
        principal: identity.principal.clone(),
        thing_name: identity.thing_name.clone(),
        connected: matches!(slot, Slot::Online(_)),
        protocol,
        peer,
        since,
        subscriptions: filters
            .chain(subscribed.shared.iter().map(|name| &**name))
            .map(str::to_owned)
            .collect(),
    }
}
