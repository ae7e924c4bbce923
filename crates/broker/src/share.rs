//! Shared subscriptions: many readers of one queue (MQTT 5, 4.8.2).
//!
//! A group is all sessions subscribed to one `$share/NAME/FILTER`. It reads the log with one
//! feed of its own, in a task of its own, and deals the messages out one by one to the members
//! that are connected. A member that goes gives back what it did not send; a session that ends
//! gives back what was not acknowledged; what a member may not receive it turns down. While nobody is connected the group is an offset. Where
//! sessions are kept over a restart, so is the group: its offset, and what is not settled below.
//!
//! Invariants
//! * Each message is in the hands of one member at a time.
//! * A message sent in QoS 2 is never sent to another member, whatever becomes of its session.
//! * At most `INBOX_MAX` messages wait for one member; the rest waits in the log.
//! * A message that members turn down is lost once each that is connected has, not before.
//! * Lock order: names, one group, hub.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll};

use atomic_waker::AtomicWaker;
use base::{MessageRef, Offset, QoS, TopicFilter};
use bytes::Bytes;
use tokio::task::JoinHandle;
use tracing::warn;

use crate::feed::{Feed, read_one};
use crate::hub::{Delivery, Hub, Mailbox, lock};
use crate::kept::{GroupRow, Keeper};
use crate::subscription::{Options, Subscription};

/// What the filter of a shared subscription begins with.
pub(crate) const PREFIX: &str = "$share/";

/// Messages that wait for one member. Few, so that a member which stops reading keeps few from
/// the others.
const INBOX_MAX: usize = 16;

/// Messages that some turned down and that wait until another has room: they are in memory, so with
/// that many nothing new is dealt out.
const TURNED_DOWN_MAX: usize = 64;

/// Turns of a group's task before other tasks get theirs.
const TURNS_MAX: usize = 64;

/// The filter within `$share/NAME/FILTER`, and whether all of it is well-formed.
pub(crate) fn filter(full: &str) -> Option<TopicFilter> {
    let (name, filter) = full.strip_prefix(PREFIX)?.split_once('/')?;
    if name.is_empty() || name.contains(['+', '#']) {
        return None;
    }
    TopicFilter::parse(filter).ok()
}

/// Names a group, for as long as the broker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupId(u32);

/// All groups by `$share/NAME/FILTER`.
#[derive(Debug)]
pub(crate) struct Groups {
    hub: Arc<Hub>,
    by_name: Mutex<HashMap<Arc<str>, Arc<Group>>>,
    next: AtomicU32,
    /// Unset: groups end with the process.
    keeper: OnceLock<Arc<Keeper>>,
}

#[derive(Debug)]
struct Group {
    id: GroupId,
    name: Arc<str>,
    filter: TopicFilter,
    state: Mutex<State>,
    /// Wakes the task: a member came, went, or made room.
    waker: AtomicWaker,
}

#[derive(Debug)]
struct State {
    members: Vec<Member>,
    next_key: u64,
    /// Who comes first when the next message is dealt out.
    turn: usize,
    /// What is below was dealt out.
    cursor: Offset,
    /// Of that, what was not acknowledged yet, nor sent in QoS 2.
    unsettled: BTreeSet<Offset>,
    /// Of what is behind, what members were sent before a restart.
    held: BTreeSet<Offset>,
    /// Whether the row is older than this.
    dirty: bool,
    /// QoS 0 messages before this are not given out: nobody was there to hear them.
    quiet_until: Offset,
    /// What came back: dealt out first, oldest first. Without a record it is read again.
    returned: BTreeMap<Offset, Option<Dealt>>,
}

/// A message dealt to a member.
#[derive(Debug)]
pub(crate) struct Dealt {
    pub(crate) delivery: Delivery,
    /// The members that may not receive it.
    turned_down: Vec<u64>,
}

impl Dealt {
    /// A message for whoever comes first.
    fn new(delivery: Delivery) -> Dealt {
        Dealt { delivery, turned_down: Vec::new() }
    }

    /// As it came from the publisher: what a member may make of it is asked for each again.
    fn back(mut self) -> Dealt {
        let delivery = &mut self.delivery;
        delivery.qos = MessageRef::decode(&delivery.record).map_or(delivery.qos, |m| m.qos);
        self
    }
}

/// What becomes of a message that came back.
enum Heir {
    Member(usize),
    /// Those that may still want it have no room at the moment.
    Later,
    /// All turned it down.
    Nobody,
}

#[derive(Debug)]
struct Member {
    key: u64,
    qos: QoS,
    /// `None` while it is not connected.
    mailbox: Option<Arc<Mailbox>>,
    inbox: VecDeque<Dealt>,
}

/// A session's part in a group. Dropping it leaves the group.
#[derive(Debug)]
pub(crate) struct Share {
    groups: Arc<Groups>,
    group: Arc<Group>,
    key: u64,
    pub(crate) options: Options,
}

impl Groups {
    pub(crate) fn new(hub: Arc<Hub>) -> Arc<Groups> {
        Arc::new(Groups {
            hub,
            by_name: Mutex::default(),
            next: AtomicU32::new(0),
            keeper: OnceLock::new(),
        })
    }

    /// From now on groups are kept.
    pub(crate) fn keep(&self, keeper: &Arc<Keeper>) {
        // Set once, by the broker that made both.
        let _already = self.keeper.set(Arc::clone(keeper));
    }

    /// Has the rows written of the groups that changed.
    pub(crate) fn save(&self) {
        let Some(keeper) = self.keeper.get() else { return };
        #[expect(clippy::iter_over_hash_type, reason = "the order of groups does not matter")]
        for group in lock(&self.by_name).values() {
            let mut state = lock(&group.state);
            if std::mem::take(&mut state.dirty) {
                let unsettled = state.unsettled.iter().map(|offset| offset.0).collect();
                let row = GroupRow { cursor: state.cursor.0, unsettled };
                keeper.put_group(&group.name, Some(row));
            }
        }
    }

    /// Makes a group of the last run, without members: `held` is what those are about to send
    /// again.
    pub(crate) fn restore(&self, full: &str, row: &GroupRow, held: Vec<Offset>) {
        let Some(filter) = filter(full) else { return };
        let held: BTreeSet<Offset> = held.into_iter().collect();
        let mut state = State::new(Offset(row.cursor));
        state.unsettled = row.unsettled.iter().map(|offset| Offset(*offset)).collect();
        let free = state.unsettled.iter().filter(|offset| !held.contains(offset));
        state.returned = free.map(|offset| (*offset, None)).collect();
        state.held = held;
        self.insert(&mut lock(&self.by_name), full, filter, state);
    }

    /// Makes a session of the last run a member again, which is not connected.
    pub(crate) fn rejoin(self: &Arc<Self>, full: &str, options: Options) -> Option<Share> {
        let by_name = lock(&self.by_name);
        let group = Arc::clone(by_name.get(full)?);
        Some(self.admit(group, options, None))
    }

    fn insert(
        &self,
        by_name: &mut HashMap<Arc<str>, Arc<Group>>,
        full: &str,
        filter: TopicFilter,
        state: State,
    ) -> Arc<Group> {
        let name: Arc<str> = full.into();
        let group = Arc::new(Group {
            id: GroupId(self.next.fetch_add(1, Ordering::Relaxed)),
            name: Arc::clone(&name),
            filter,
            state: Mutex::new(state),
            waker: AtomicWaker::new(),
        });
        by_name.insert(name, Arc::clone(&group));
        group
    }

    fn admit(
        self: &Arc<Self>,
        group: Arc<Group>,
        options: Options,
        mailbox: Option<Arc<Mailbox>>,
    ) -> Share {
        let (key, first) = group.admit(options.qos, mailbox, self.hub.journal.durable());
        if first {
            tokio::spawn(Reader::new(Arc::clone(&group), Arc::clone(&self.hub)).run());
        }
        Share { groups: Arc::clone(self), group, key, options }
    }

    /// Makes a connected session a member. A group that is new begins where `options` say.
    pub(crate) fn join(
        self: &Arc<Self>,
        full: &str,
        filter: TopicFilter,
        options: Options,
        mailbox: &Arc<Mailbox>,
    ) -> Share {
        let mut by_name = lock(&self.by_name);
        let found = by_name.get(full).map(Arc::clone);
        let group = found
            .unwrap_or_else(|| self.insert(&mut by_name, full, filter, State::new(options.from)));
        self.admit(group, options, Some(Arc::clone(mailbox)))
    }
}

impl State {
    fn new(from: Offset) -> State {
        State {
            members: Vec::new(),
            next_key: 0,
            turn: 0,
            cursor: from,
            quiet_until: from,
            returned: BTreeMap::new(),
            unsettled: BTreeSet::new(),
            held: BTreeSet::new(),
            dirty: true,
        }
    }

    fn is_attended(&self) -> bool {
        self.members.iter().any(|member| member.mailbox.is_some())
    }

    fn member(&mut self, key: u64) -> Option<&mut Member> {
        self.members.iter_mut().find(|member| member.key == key)
    }

    /// Whose turn it is, among those that are connected and have room.
    fn next_member(&self, turned_down: &[u64]) -> Option<usize> {
        let count = self.members.len();
        (0..count).map(|step| (self.turn + step) % count).find(|at| {
            let member = &self.members[*at];
            member.wants(turned_down) && member.inbox.len() < INBOX_MAX
        })
    }

    /// The oldest message that came back and for which something can be done now. Without one,
    /// whether anything else may be dealt out meanwhile.
    fn next_returned(&self) -> Result<(Offset, Heir), bool> {
        let mut waiting = 0;
        for (offset, dealt) in &self.returned {
            let turned_down = dealt.as_ref().map_or(&[][..], |dealt| &dealt.turned_down);
            match self.heir(turned_down) {
                Heir::Later => waiting += 1,
                heir => return Ok((*offset, heir)),
            }
            if waiting >= TURNED_DOWN_MAX {
                return Err(false);
            }
        }
        Err(true)
    }

    fn heir(&self, turned_down: &[u64]) -> Heir {
        match self.next_member(turned_down) {
            Some(at) => Heir::Member(at),
            None if self.members.iter().any(|member| member.wants(turned_down)) => Heir::Later,
            None => Heir::Nobody,
        }
    }

    fn deal(&mut self, to: usize, dealt: Dealt) {
        let Dealt { delivery, turned_down } = dealt;
        let member = &mut self.members[to];
        let qos = delivery.qos.min(member.qos);
        if qos == QoS::AtMostOnce {
            self.unsettled.remove(&delivery.offset);
        } else {
            self.unsettled.insert(delivery.offset);
        }
        self.dirty = true;
        member.inbox.push_back(Dealt { delivery: Delivery { qos, ..delivery }, turned_down });
        if let Some(mailbox) = &member.mailbox {
            mailbox.waker.wake();
        }
        self.turn = to + 1;
    }

    /// Takes back what waits for a member.
    fn take_back(&mut self, key: u64) {
        let Some(member) = self.member(key) else { return };
        let inbox = std::mem::take(&mut member.inbox);
        let dealt = inbox.into_iter().map(|dealt| (dealt.delivery.offset, Some(dealt.back())));
        self.returned.extend(dealt);
    }

    /// Nobody is connected any more: QoS 0 messages that nobody got are not kept.
    fn desert(&mut self) {
        self.returned.retain(|_offset, dealt| {
            dealt.as_ref().is_none_or(|dealt| dealt.delivery.qos != QoS::AtMostOnce)
        });
    }
}

impl Member {
    /// Whether it is connected and not one of those who turned a message down.
    fn wants(&self, turned_down: &[u64]) -> bool {
        self.mailbox.is_some() && !turned_down.contains(&self.key)
    }
}

impl Group {
    /// A key for a new member, and whether it is the first.
    fn admit(&self, qos: QoS, mailbox: Option<Arc<Mailbox>>, durable: Offset) -> (u64, bool) {
        let mut state = lock(&self.state);
        let first = state.members.is_empty();
        if !first && !state.is_attended() {
            state.quiet_until = durable;
        }
        let key = state.next_key;
        state.next_key += 1;
        state.members.push(Member { key, qos, mailbox, inbox: VecDeque::new() });
        drop(state);
        self.waker.wake();
        (key, first)
    }
}

impl Share {
    /// The group's id, by which messages in flight are known as its.
    pub(crate) fn id(&self) -> GroupId {
        self.group.id
    }

    /// `$share/NAME/FILTER`.
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.group.name
    }

    /// Renews the subscription.
    pub(crate) fn renew(&mut self, options: Options) {
        self.options = options;
        if let Some(member) = lock(&self.group.state).member(self.key) {
            member.qos = options.qos;
        }
        self.group.waker.wake();
    }

    /// The session is connected again.
    pub(crate) fn attend(&self, mailbox: &Arc<Mailbox>) {
        let mut state = lock(&self.group.state);
        if !state.is_attended() {
            state.quiet_until = self.groups.hub.journal.durable();
        }
        if let Some(member) = state.member(self.key) {
            member.mailbox = Some(Arc::clone(mailbox));
        }
        drop(state);
        self.group.waker.wake();
    }

    /// The session is no longer connected: what it did not send goes back.
    pub(crate) fn pause(&self) {
        let mut state = lock(&self.group.state);
        state.take_back(self.key);
        if let Some(member) = state.member(self.key) {
            member.mailbox = None;
        }
        drop(state);
        self.group.waker.wake();
    }

    /// The next message for this member, if it is one it may send: one of QoS 1 or 2 only if
    /// another fits into the window.
    pub(crate) fn take(&self, fits: bool) -> Option<Dealt> {
        let mut state = lock(&self.group.state);
        let inbox = &mut state.member(self.key)?.inbox;
        let dealt = inbox.pop_front_if(|next| fits || next.delivery.qos == QoS::AtMostOnce)?;
        if dealt.delivery.qos == QoS::ExactlyOnce {
            // Nobody else's any more, whatever becomes of it, unless it is turned down.
            state.unsettled.remove(&dealt.delivery.offset);
            state.dirty = true;
        }
        drop(state);
        self.group.waker.wake();
        Some(dealt)
    }

    /// The member may not receive what it has taken: another one may.
    pub(crate) fn turn_down(&self, dealt: Dealt) {
        let mut dealt = dealt.back();
        dealt.turned_down.push(self.key);
        let Delivery { offset, qos, .. } = dealt.delivery;
        let mut state = lock(&self.group.state);
        if qos != QoS::AtMostOnce {
            state.dirty |= state.unsettled.insert(offset);
        }
        state.returned.insert(offset, Some(dealt));
        drop(state);
        self.group.waker.wake();
    }

    /// The member is done with a message.
    pub(crate) fn settle(&self, offset: Offset) {
        let mut state = lock(&self.group.state);
        state.dirty |= state.unsettled.remove(&offset);
    }

    /// Has other members send what this session was sent in QoS 1 and did not acknowledge: when it
    /// ends, or may no longer receive it.
    pub(crate) fn give_back(&self, offsets: impl Iterator<Item = Offset>) {
        lock(&self.group.state).returned.extend(offsets.map(|offset| (offset, None)));
        self.group.waker.wake();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut by_name = lock(&self.groups.by_name);
        let mut state = lock(&self.group.state);
        state.take_back(self.key);
        state.members.retain(|member| member.key != self.key);
        if state.members.is_empty() {
            by_name.remove(&self.group.name);
            if let Some(keeper) = self.groups.keeper.get() {
                keeper.put_group(&self.group.name, None);
            }
        }
        drop(state);
        drop(by_name);
        self.group.waker.wake();
    }
}

/// The task of a group.
struct Reader {
    group: Arc<Group>,
    hub: Arc<Hub>,
    mailbox: Arc<Mailbox>,
    /// `None` while nobody is connected.
    feed: Option<Feed>,
    /// A message that came back without its record.
    fetching: Option<(Offset, JoinHandle<Option<Bytes>>)>,
}

enum Turn {
    Moved,
    /// Nothing to do until woken.
    Waits,
    /// The group has no members left.
    Over,
}

impl Reader {
    fn new(group: Arc<Group>, hub: Arc<Hub>) -> Reader {
        Reader { group, hub, mailbox: Arc::default(), feed: None, fetching: None }
    }

    async fn run(mut self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.group.waker.register(cx.waker());
        self.mailbox.waker.register(cx.waker());
        for _ in 0..TURNS_MAX {
            match self.turn(cx) {
                Turn::Moved => {}
                Turn::Waits => return Poll::Pending,
                Turn::Over => return Poll::Ready(()),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn turn(&mut self, cx: &mut Context<'_>) -> Turn {
        let group = Arc::clone(&self.group);
        let mut state = lock(&group.state);
        if state.members.is_empty() {
            return Turn::Over;
        }
        if !state.is_attended() {
            if let Some(mut feed) = self.feed.take() {
                state.cursor = feed.close();
                state.dirty = true;
                state.desert();
            }
            return Turn::Waits;
        }
        self.attend(&state);
        let Some(to) = state.next_member(&[]) else { return Turn::Waits };
        if let Some((offset, read)) = &mut self.fetching {
            let Poll::Ready(record) = Pin::new(read).poll(cx) else { return Turn::Waits };
            let offset = *offset;
            self.fetching = None;
            match record.ok().flatten() {
                Some(record) => {
                    let delivery = Delivery { offset, qos: QoS::AtLeastOnce, record };
                    state.deal(to, Dealt::new(delivery).back());
                }
                None => {
                    warn!(group = %group.name, %offset, "a message given back left the log");
                    state.dirty |= state.unsettled.remove(&offset);
                    self.hub.counters.undelivered_trimmed.one();
                }
            }
            return Turn::Moved;
        }
        let returned = state.next_returned().map(|(offset, heir)| {
            let dealt = state.returned.remove(&offset).flatten();
            (offset, heir, dealt)
        });
        match returned {
            Ok((offset, Heir::Nobody, _)) => {
                self.hub.counters.undelivered_policy.one();
                state.dirty |= state.unsettled.remove(&offset);
                return Turn::Moved;
            }
            Ok((_, Heir::Member(heir), Some(dealt))) => {
                self.hub.counters.dealt_again.one();
                state.deal(heir, dealt);
                return Turn::Moved;
            }
            Ok((offset, ..)) => {
                self.hub.counters.dealt_again.one();
                let journal = Arc::clone(&self.hub.journal);
                let read = tokio::task::spawn_blocking(move || read_one(&*journal, offset));
                self.fetching = Some((offset, read));
                return Turn::Moved;
            }
            Err(false) => return Turn::Waits,
            Err(true) => {}
        }
        let Some(feed) = &mut self.feed else { return Turn::Waits };
        if feed.poll(cx).is_pending() {
            return Turn::Waits;
        }
        if let Some(delivery) = feed.pop() {
            state.cursor = delivery.offset.plus(1);
            // What a member was sent before a restart it sends again itself.
            if !state.held.remove(&delivery.offset) {
                state.deal(to, Dealt::new(delivery));
            }
        }
        Turn::Moved
    }

    /// Reads on, for the highest quality of service among the members.
    fn attend(&mut self, state: &State) {
        let qos = state.members.iter().map(|member| member.qos).max().unwrap_or(QoS::AtMostOnce);
        let wanted = || Subscription {
            filter: self.group.filter.clone(),
            options: Options::plain(qos, state.cursor),
        };
        match &mut self.feed {
            None => {
                self.feed = Some(Feed::open(
                    Arc::clone(&self.hub),
                    Arc::clone(&self.mailbox),
                    "".into(),
                    Arc::new(vec![wanted()]),
                    state.cursor,
                    state.quiet_until,
                ));
            }
            Some(feed) => {
                if feed.subscriptions().first().is_none_or(|s| s.options.qos != qos) {
                    feed.subscribe(wanted());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_has_a_name_and_a_filter() {
        for (full, inner) in [
            ("$share/g/a", Some("a")),
            ("$share/g/a/+/#", Some("a/+/#")),
            ("$share/g//", Some("/")),
            ("$share/g/$aws/x", Some("$aws/x")),
            ("$share/g/", None),
            ("$share/g", None),
            ("$share//a", None),
            ("$share/+/a", None),
            ("$share/g#/a", None),
            ("$share/g/a#", None),
            ("share/g/a", None),
        ] {
            assert_eq!(filter(full).as_ref().map(TopicFilter::as_str), inner, "{full}");
        }
    }
}
