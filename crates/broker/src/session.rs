//! What the broker remembers of one client between and during connections. Pure: no I/O.
//!
//! Invariants
//! * A message that was handed to the journal is recognised when it is sent again: QoS 2 by its
//!   packet id until PUBREL, QoS 1 with DUP by packet id, topic and payload (kept sessions only).
//! * What is on its way to the client is kept as offsets, never as copies.

use std::collections::{HashMap, VecDeque};
use std::hash::Hasher;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use base::{Offset, QoS};
use siphasher::sip::SipHasher13;

use crate::auth::Identity;
use crate::share::{GroupId, Share};
use crate::subscription::{self, Subscriptions};

/// A client's session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) identity: Arc<Identity>,
    /// Where its client connected from last.
    pub(crate) address: Option<IpAddr>,
    /// How long it outlives its connection; `None` for not at all.
    pub(crate) kept_for: Option<Duration>,
    /// Filled while no connection owns the session; a connection has them in its feed.
    pub(crate) subscriptions: Subscriptions,
    /// Its parts in shared subscriptions.
    pub(crate) shares: Vec<Share>,
    /// The first offset not yet given to the client; meaningful while disconnected.
    pub(crate) cursor: Offset,
    pub(crate) outgoing: Outgoing,
    pub(crate) incoming: Incoming,
    /// The offset behind the last record of the client that `incoming` knows.
    pub(crate) until: Offset,
}

impl Session {
    pub(crate) fn new(identity: Arc<Identity>) -> Session {
        Session {
            identity,
            address: None,
            kept_for: None,
            subscriptions: subscription::none(),
            shares: Vec::new(),
            cursor: Offset::default(),
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
            until: Offset::default(),
        }
    }

    /// Whether `identity` may go on with this session.
    pub(crate) fn belongs_to(&self, identity: &Identity) -> bool {
        same_owner(&self.identity, identity)
    }
}

/// What others of a shared subscription may still get when the session ends is theirs.
impl Drop for Session {
    fn drop(&mut self) {
        for share in &self.shares {
            let group = Origin::Shared(share.id());
            let unsettled = self
                .outgoing
                .iter()
                .filter(|sent| sent.origin == group && sent.qos == QoS::AtLeastOnce);
            share.give_back(unsettled.map(|sent| sent.offset));
        }
    }
}

/// The same certificate, or another certificate of the same thing.
pub(crate) fn same_owner(owner: &Identity, other: &Identity) -> bool {
    owner.principal == other.principal
        || (owner.thing_name.is_some() && owner.thing_name == other.thing_name)
}

/// QoS 1 and 2 messages sent to the client and not yet settled, oldest first. A pointer until
/// the first.
#[derive(Debug, Default)]
pub(crate) struct Outgoing(Option<Box<Sent>>);

#[derive(Debug, Default)]
struct Sent {
    in_flight: VecDeque<InFlight>,
    last_packet_id: u16,
}

/// One message on its way to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InFlight {
    pub(crate) packet_id: u16,
    pub(crate) offset: Offset,
    pub(crate) qos: QoS,
    /// PUBREC came, PUBREL was sent, PUBCOMP is awaited.
    pub(crate) released: bool,
    /// The connection ended before it was sent: the next time is the first.
    pub(crate) unsent: bool,
    pub(crate) origin: Origin,
}

/// Why a message is sent to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It was published, and subscriptions select it.
    Live,
    /// It was retained when the client subscribed, with this identifier.
    Retained(Option<NonZeroU32>),
    /// It fell to this member of a shared subscription.
    Shared(GroupId),
}

impl Outgoing {
    pub(crate) fn restore(in_flight: VecDeque<InFlight>, last_packet_id: u16) -> Outgoing {
        Outgoing(Some(Box::new(Sent { in_flight, last_packet_id })))
    }

    pub(crate) fn last_packet_id(&self) -> u16 {
        self.0.as_ref().map_or(0, |sent| sent.last_packet_id)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |sent| sent.in_flight.len())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &InFlight> {
        self.0.iter().flat_map(|sent| &sent.in_flight)
    }

    /// Notes that the record at `offset` is sent; gives its packet id. The caller bounds how
    /// many are in flight, far below 65,535, so that there is a free one.
    pub(crate) fn send(&mut self, offset: Offset, qos: QoS, origin: Origin) -> u16 {
        // Ids are given in a circle and `in_flight` is in the order of giving, so the next id
        // can only be taken by the oldest ones.
        let sent = self.0.get_or_insert_default();
        let mut id = sent.last_packet_id;
        let mut oldest = sent.in_flight.iter();
        loop {
            id = if id == u16::MAX { 1 } else { id + 1 };
            if oldest.next().is_none_or(|in_flight| in_flight.packet_id != id) {
                break;
            }
        }
        sent.last_packet_id = id;
        let (released, unsent) = (false, false);
        sent.in_flight.push_back(InFlight { packet_id: id, offset, qos, released, unsent, origin });
        id
    }

    /// Notes whether a message in flight is yet to be sent for the first time.
    pub(crate) fn note_unsent(&mut self, packet_id: u16, unsent: bool) {
        let sent = self.0.iter_mut().flat_map(|sent| &mut sent.in_flight);
        sent.filter(|found| found.packet_id == packet_id).for_each(|found| found.unsent = unsent);
    }

    /// Makes what a member of a group was sent its own; gives the offsets.
    pub(crate) fn disown(&mut self, group: GroupId) -> Vec<Offset> {
        let sent = self.0.iter_mut().flat_map(|sent| &mut sent.in_flight);
        let of_group = sent.filter(|found| found.origin == Origin::Shared(group));
        let own = of_group.map(|found| {
            found.origin = Origin::Live;
            found.offset
        });
        own.collect()
    }

    /// PUBACK: the message is settled. `None` if the id is not in flight at QoS 1.
    pub(crate) fn acknowledge(&mut self, packet_id: u16) -> Option<InFlight> {
        self.settle(packet_id, |found| found.qos == QoS::AtLeastOnce)
    }

    /// PUBREC with an error, or PUBCOMP: the message is settled. `None` if unknown.
    pub(crate) fn complete(&mut self, packet_id: u16) -> Option<InFlight> {
        self.settle(packet_id, |found| found.qos == QoS::ExactlyOnce)
    }

    /// Whether a message of this quality of service is in flight under the id.
    pub(crate) fn is(&self, packet_id: u16, qos: QoS) -> bool {
        self.iter().any(|found| found.packet_id == packet_id && found.qos == qos)
    }

    /// Whether the client has yet to say that it has the message under the id.
    pub(crate) fn awaits_receipt(&self, packet_id: u16) -> bool {
        self.iter().any(|found| found.packet_id == packet_id && !found.released)
    }

    /// PUBREC: a PUBREL is due. False if the id is not in flight at QoS 2.
    pub(crate) fn release(&mut self, packet_id: u16) -> bool {
        let found = self
            .0
            .iter_mut()
            .flat_map(|sent| &mut sent.in_flight)
            .find(|found| found.packet_id == packet_id && found.qos == QoS::ExactlyOnce);
        found.map(|found| found.released = true).is_some()
    }

    fn settle(&mut self, packet_id: u16, matches: impl Fn(&InFlight) -> bool) -> Option<InFlight> {
        let in_flight = &mut self.0.as_mut()?.in_flight;
        let position =
            in_flight.iter().position(|found| found.packet_id == packet_id && matches(found));
        match position {
            Some(0) => in_flight.pop_front(),
            Some(at) => in_flight.remove(at),
            None => None,
        }
    }
}

/// What was received and may come again. A pointer until there is something.
#[derive(Debug, Default)]
pub(crate) struct Incoming(Option<Box<Received>>);

#[derive(Debug, Default)]
struct Received {
    /// QoS 2 packet ids awaiting PUBREL, with the offset behind their record.
    open: HashMap<u16, Offset>,
    /// The last QoS 1 messages logged, oldest first.
    recent: VecDeque<Logged>,
}

/// A QoS 1 message that was handed to the journal.
#[derive(Clone, Copy, Debug)]
struct Logged {
    packet_id: u16,
    fingerprint: u64,
    next: Offset,
}

impl Incoming {
    pub(crate) fn restore(
        open: impl Iterator<Item = (u16, Offset)>,
        recent: Vec<(u16, u64, u64)>,
    ) -> Incoming {
        let logged =
            |(packet_id, fingerprint, next)| Logged { packet_id, fingerprint, next: Offset(next) };
        let recent = recent.into_iter().map(logged).collect();
        Incoming(Some(Box::new(Received { open: open.collect(), recent })))
    }

    /// The open QoS 2 messages, with the offsets behind them.
    pub(crate) fn open(&self) -> impl Iterator<Item = (u16, Offset)> {
        self.0.iter().flat_map(|known| known.open.iter().map(|(id, next)| (*id, *next)))
    }

    /// The last QoS 1 messages: packet id, fingerprint and the offset behind each.
    pub(crate) fn recent(&self, count_max: usize) -> Vec<(u16, u64, u64)> {
        let Some(known) = &self.0 else { return Vec::new() };
        let skipped = known.recent.len().saturating_sub(count_max);
        let last = known.recent.iter().skip(skipped);
        last.map(|logged| (logged.packet_id, logged.fingerprint, logged.next.0)).collect()
    }

    /// How many QoS 2 messages await their PUBREL.
    pub(crate) fn open_count(&self) -> usize {
        self.0.as_ref().map_or(0, |known| known.open.len())
    }

    /// The offset behind an open QoS 2 message: it is acknowledged again once that is durable.
    pub(crate) fn open_until(&self, packet_id: u16) -> Option<Offset> {
        self.0.as_ref()?.open.get(&packet_id).copied()
    }

    /// Notes a QoS 2 message handed to the journal.
    pub(crate) fn opened(&mut self, packet_id: u16, next: Offset) {
        self.0.get_or_insert_default().open.insert(packet_id, next);
    }

    /// PUBREL: forgets the message; gives the offset behind it, `None` if it is unknown.
    pub(crate) fn released(&mut self, packet_id: u16) -> Option<Offset> {
        let known = self.0.as_mut()?;
        let next = known.open.remove(&packet_id);
        if known.open.is_empty() {
            known.open = HashMap::new();
        }
        next
    }

    /// What identifies a QoS 1 message beside its packet id, the same in every run: rows hold
    /// it. A client that makes two alike cheats itself.
    pub(crate) fn fingerprint(topic: &str, payload: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new();
        hasher.write(topic.as_bytes());
        // No UTF-8 text holds this byte: it cannot move between topic and payload.
        hasher.write_u8(0xff);
        hasher.write(payload);
        hasher.finish()
    }

    /// Notes a QoS 1 message handed to the journal; keeps the last `count_max`.
    pub(crate) fn logged(
        &mut self,
        packet_id: u16,
        fingerprint: u64,
        next: Offset,
        count_max: usize,
    ) {
        let recent = &mut self.0.get_or_insert_default().recent;
        while recent.len() >= count_max {
            recent.pop_front();
        }
        recent.push_back(Logged { packet_id, fingerprint, next });
    }

    /// Whether a resent QoS 1 message is the last one logged under its packet id; gives the
    /// offset behind it.
    pub(crate) fn logged_before(&self, packet_id: u16, fingerprint: u64) -> Option<Offset> {
        let last =
            self.0.as_ref()?.recent.iter().rev().find(|logged| logged.packet_id == packet_id)?;
        (last.fingerprint == fingerprint).then_some(last.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_ids_go_in_a_circle_around_those_in_flight() {
        let mut outgoing = Outgoing::default();
        assert_eq!(outgoing.send(Offset(0), QoS::AtLeastOnce, Origin::Live), 1);
        assert_eq!(outgoing.send(Offset(1), QoS::ExactlyOnce, Origin::Live), 2);
        assert_eq!(outgoing.send(Offset(2), QoS::AtLeastOnce, Origin::Live), 3);
        assert!(outgoing.acknowledge(3).is_some());
        outgoing.0.as_mut().unwrap().last_packet_id = u16::MAX;
        assert_eq!(outgoing.send(Offset(3), QoS::AtLeastOnce, Origin::Live), 3);
        assert_eq!(outgoing.len(), 3);
    }

    #[test]
    fn qos_2_is_settled_in_two_steps_and_qos_1_in_one() {
        let mut outgoing = Outgoing::default();
        let one = outgoing.send(Offset(7), QoS::AtLeastOnce, Origin::Live);
        let two = outgoing.send(Offset(8), QoS::ExactlyOnce, Origin::Live);
        assert!(outgoing.acknowledge(two).is_none());
        assert!(!outgoing.release(one));
        assert!(outgoing.release(two));
        assert!(outgoing.iter().any(|found| found.released && found.offset == Offset(8)));
        assert!(outgoing.complete(two).is_some());
        assert!(outgoing.complete(two).is_none());
        assert!(outgoing.acknowledge(one).is_some());
        assert!(outgoing.acknowledge(one).is_none());
        assert_eq!(outgoing.len(), 0);
    }

    #[test]
    fn a_resend_is_known_by_id_topic_and_payload() {
        let mut incoming = Incoming::default();
        let first = Incoming::fingerprint("a", b"bc");
        incoming.logged(5, first, Offset(10), 2);
        assert_eq!(incoming.logged_before(5, first), Some(Offset(10)));
        assert_eq!(incoming.logged_before(6, first), None);
        assert_eq!(incoming.logged_before(5, Incoming::fingerprint("ab", b"c")), None);
        // The id was used again: the older message under it is no longer meant.
        let second = Incoming::fingerprint("a", b"other");
        incoming.logged(5, second, Offset(11), 2);
        assert_eq!(incoming.logged_before(5, first), None);
        // Bounded.
        incoming.logged(6, first, Offset(12), 2);
        incoming.logged(7, first, Offset(13), 2);
        assert_eq!(incoming.logged_before(5, second), None);
    }

    #[test]
    fn a_qos_2_id_is_open_until_released() {
        let mut incoming = Incoming::default();
        incoming.opened(9, Offset(4));
        assert_eq!(incoming.open_until(9), Some(Offset(4)));
        assert_eq!(incoming.open_count(), 1);
        assert_eq!(incoming.released(9), Some(Offset(4)));
        assert_eq!(incoming.released(9), None);
        assert_eq!(incoming.open_until(9), None);
    }
}
