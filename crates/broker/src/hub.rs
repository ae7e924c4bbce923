//! Hands durable messages to those who subscribed, straight from the log.
//!
//! One thread tails the journal while anybody listens live, matches each record against a trie
//! of all live subscriptions and puts it into the mailboxes of those it matches.
//!
//! Invariants
//! * Only durable records are handed out, in offset order, each at most once per mailbox.
//! * The hub never waits for a subscriber. A mailbox without room is marked as behind from the
//!   first record it did not take; its owner reads on from the log (see `feed`).
//! * A mailbox holds copies of its own records only, so that its bytes are what it costs.
//! * Lock order: hub state, then one mailbox.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use atomic_waker::AtomicWaker;
use base::{MessageRef, Offset, QoS};
use bytes::Bytes;
use journal::{Journal, Records};
use tracing::{error, warn};

use crate::counters::Counters;
use crate::settings::Settings;
use crate::subscription::Options;
use crate::trie::Trie;

/// Bytes of log the hub reads at once.
const READ_BYTES: usize = 256 * 1024;

/// How often the hub looks up from waiting, to see whether it should stop.
const LOOK_UP: Duration = Duration::from_millis(250);

/// A record on its way to one subscriber.
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    pub(crate) offset: Offset,
    pub(crate) qos: QoS,
    pub(crate) record: Bytes,
}

/// Where the hub puts records for one subscriber.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    inner: Mutex<Slots>,
    /// Wakes the owner: something arrived, or it was kicked.
    pub(crate) waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct Slots {
    queue: VecDeque<Delivery>,
    bytes: usize,
    state: State,
}

/// Whether the hub feeds a mailbox.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Not attached.
    #[default]
    Away,
    /// Fed with records from this offset on.
    Live(Offset),
    /// Had no room for the record at this offset.
    Behind(Offset),
}

/// What a subscriber finds in its mailbox.
pub(crate) enum Post {
    /// Records, now in the caller's queue.
    Some,
    /// Nothing yet.
    Nothing,
    /// Nothing, and nothing will come: read the log from here.
    Behind(Offset),
}

impl Mailbox {
    /// Moves everything into `queue`, which must be empty.
    pub(crate) fn take(&self, queue: &mut VecDeque<Delivery>) -> Post {
        let mut slots = lock(&self.inner);
        if slots.queue.is_empty() {
            return match slots.state {
                State::Behind(from) => Post::Behind(from),
                State::Live(_) | State::Away => Post::Nothing,
            };
        }
        slots.bytes = 0;
        std::mem::swap(&mut slots.queue, queue);
        Post::Some
    }
}

/// One subscriber in the hub.
#[derive(Debug)]
struct Member {
    mailbox: Arc<Mailbox>,
    client_id: Arc<str>,
    /// Records of the read at hand, before they are copied into the mailbox.
    staged: Vec<(usize, QoS)>,
}

/// Names a member of the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MemberId(usize);

#[derive(Debug, Default)]
struct Members {
    trie: Trie<MemberId, Options>,
    slots: Vec<Option<Member>>,
    free: Vec<usize>,
    /// How many mailboxes are live; the hub rests while there is none.
    live: usize,
    /// The next offset to hand out.
    position: Offset,
}

/// The fan-out from the log.
#[derive(Debug)]
pub(crate) struct Hub {
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) counters: Arc<Counters>,
    messages_max: usize,
    bytes_max: usize,
    members: Mutex<Members>,
    work: Condvar,
    stopping: AtomicBool,
}

impl Hub {
    pub(crate) fn new(
        journal: Arc<dyn Journal>,
        counters: Arc<Counters>,
        settings: &Settings,
    ) -> Arc<Hub> {
        Arc::new(Hub {
            journal,
            counters,
            messages_max: settings.mailbox_messages_max,
            bytes_max: settings.mailbox_bytes_max,
            members: Mutex::default(),
            work: Condvar::new(),
            stopping: AtomicBool::new(false),
        })
    }

    /// Tails the log until [`stop`](Self::stop). Runs on a thread of its own.
    pub(crate) fn run(&self) {
        while let Some(from) = self.wait_for_members() {
            if self.journal.wait_durable(from, LOOK_UP) <= from {
                // A log that failed answers at once, and for ever the same.
                if self.journal.status().failed.is_some() {
                    std::thread::sleep(LOOK_UP);
                }
                continue;
            }
            match self.journal.read(from, READ_BYTES) {
                Ok(records) => self.hand_out(from, &records),
                Err(cause) => {
                    error!(%cause, offset = %from, "failed to read the log for subscribers");
                    std::thread::sleep(LOOK_UP);
                }
            }
        }
    }

    /// Ends [`run`](Self::run).
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        drop(lock(&self.members));
        self.work.notify_all();
    }

    fn wait_for_members(&self) -> Option<Offset> {
        let mut members = lock(&self.members);
        while members.live == 0 && !self.stopping.load(Ordering::SeqCst) {
            members = self.work.wait(members).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        (!self.stopping.load(Ordering::SeqCst)).then_some(members.position)
    }

    fn hand_out(&self, from: Offset, records: &Records) {
        let mut woken = Vec::new();
        let mut members = lock(&self.members);
        // Everybody left and others came while we read: what was read is not theirs.
        if members.position != from || members.live == 0 {
            return;
        }
        for skipped in &records.skipped {
            warn!(from = %skipped.from, to = %skipped.to, "the log has a gap; subscribers miss it");
            self.counters.undelivered_trimmed.add(skipped.to.0 - skipped.from.0);
        }
        let touched = members.stage(records, &self.counters);
        for id in touched {
            if members.deliver(id, records, self) {
                woken.extend(members.slots[id.0].as_ref().map(|m| Arc::clone(&m.mailbox)));
            }
        }
        members.position = records.next;
        drop(members);
        woken.iter().for_each(|mailbox| mailbox.waker.wake());
    }

    /// Makes a subscriber known, without subscriptions and not live.
    pub(crate) fn join(&self, mailbox: Arc<Mailbox>, client_id: Arc<str>) -> MemberId {
        let mut members = lock(&self.members);
        let member = Member { mailbox, client_id, staged: Vec::new() };
        match members.free.pop() {
            Some(at) => {
                members.slots[at] = Some(member);
                MemberId(at)
            }
            None => {
                members.slots.push(Some(member));
                MemberId(members.slots.len() - 1)
            }
        }
    }

    /// Adds or replaces a subscription.
    pub(crate) fn subscribe(&self, id: MemberId, filter: &str, options: Options) {
        lock(&self.members).trie.insert(filter, id, options);
    }

    /// Removes a subscription.
    pub(crate) fn unsubscribe(&self, id: MemberId, filter: &str) {
        lock(&self.members).trie.remove(filter, &id);
    }

    /// Feeds the mailbox from `from` on, if the hub has not handed that out already. False:
    /// the log must be read on first.
    pub(crate) fn go_live(&self, id: MemberId, from: Offset) -> bool {
        let mut members = lock(&self.members);
        if members.live == 0 {
            members.position = from;
        }
        if from < members.position {
            return false;
        }
        let Some(member) = &members.slots[id.0] else { return false };
        lock(&member.mailbox.inner).state = State::Live(from);
        members.live += 1;
        drop(members);
        self.work.notify_one();
        true
    }

    /// The first offset that was not put into the hands of a subscriber that is fed.
    pub(crate) fn position(&self, id: MemberId) -> Offset {
        let members = lock(&self.members);
        let Some(member) = &members.slots[id.0] else { return members.position };
        let slots = lock(&member.mailbox.inner);
        let first = slots.queue.front().map(|delivery| delivery.offset);
        first.unwrap_or(match slots.state {
            State::Away => members.position,
            State::Live(from) => members.position.max(from),
            State::Behind(from) => from,
        })
    }

    /// Forgets a subscriber and its subscriptions; gives the first offset that was not put into
    /// the caller's hands, if the mailbox was fed.
    pub(crate) fn leave<'f>(
        &self,
        id: MemberId,
        filters: impl Iterator<Item = &'f str>,
    ) -> Option<Offset> {
        let mut members = lock(&self.members);
        for filter in filters {
            members.trie.remove(filter, &id);
        }
        let member = members.slots[id.0].take()?;
        members.free.push(id.0);
        let mut slots = lock(&member.mailbox.inner);
        let next = match slots.state {
            State::Away => None,
            State::Live(from) => {
                members.live -= 1;
                Some(members.position.max(from))
            }
            State::Behind(from) => Some(from),
        };
        let first = slots.queue.front().map(|delivery| delivery.offset);
        *slots = Slots::default();
        first.or(next)
    }
}

impl Members {
    /// Matches every record; gives the members that get something.
    fn stage(&mut self, records: &Records, counters: &Counters) -> Vec<MemberId> {
        let mut touched = Vec::new();
        let mut selected: Vec<(MemberId, QoS)> = Vec::new();
        for (at, (offset, record)) in records.items.iter().enumerate() {
            let Ok(message) = MessageRef::decode(record) else {
                error!(%offset, "a log record is not a message; subscribers miss it");
                counters.undelivered_corrupt.one();
                continue;
            };
            let slots = &self.slots;
            self.trie.matches(message.topic, &mut |id, options| {
                let Some(member) = &slots[id.0] else { return };
                if let Some(qos) = options.select(*offset, &message, &member.client_id) {
                    selected.push((*id, qos));
                }
            });
            if selected.len() > 1 {
                // Highest quality of service first, then one per member.
                selected.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
                selected.dedup_by_key(|(id, _)| *id);
            }
            for (id, qos) in selected.drain(..) {
                let Some(member) = &mut self.slots[id.0] else { continue };
                if member.staged.is_empty() {
                    touched.push(id);
                }
                member.staged.push((at, qos));
            }
        }
        touched
    }

    /// Copies a member's staged records into its mailbox; false if none went in.
    fn deliver(&mut self, id: MemberId, records: &Records, hub: &Hub) -> bool {
        let Some(member) = &mut self.slots[id.0] else { return false };
        let mut slots = lock(&member.mailbox.inner);
        let State::Live(from) = slots.state else {
            member.staged.clear();
            return false;
        };
        let offset_of = |at: usize| records.items[at].0;
        member.staged.retain(|(at, _)| offset_of(*at) >= from);
        let room = hub.messages_max.saturating_sub(slots.queue.len());
        let mut taken = 0;
        let mut bytes = 0;
        for (at, _) in member.staged.iter().take(room) {
            let record = records.items[*at].1.len();
            // One record always fits into an empty mailbox, however large.
            let empty = taken == 0 && slots.queue.is_empty();
            if !empty && slots.bytes + bytes + record > hub.bytes_max {
                break;
            }
            bytes += record;
            taken += 1;
        }
        let mut copy = Vec::with_capacity(bytes);
        for (at, _) in &member.staged[..taken] {
            copy.extend_from_slice(&records.items[*at].1);
        }
        let copy = Bytes::from(copy);
        let mut start = 0;
        for (at, qos) in &member.staged[..taken] {
            let (offset, record) = &records.items[*at];
            let record = copy.slice(start..start + record.len());
            start += record.len();
            slots.queue.push_back(Delivery { offset: *offset, qos: *qos, record });
        }
        slots.bytes += bytes;
        let missed = member.staged.get(taken).map(|(at, _)| offset_of(*at));
        if let Some(offset) = missed {
            slots.state = State::Behind(offset);
            self.live -= 1;
            hub.counters.fell_behind.one();
        }
        member.staged.clear();
        // Falling behind with a full mailbox needs no wake of its own: the owner has work.
        taken > 0 || missed.is_some()
    }
}

/// Nothing behind these locks can be left half-done by a panic that matters: queues and
/// counters. So a poisoned lock is used on.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
