//! What a client gets: messages from its feed, and again those in flight from before.

use std::collections::HashMap;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use base::{MessageRef, Offset, QoS, Timestamp};
use bytes::Bytes;
use tracing::warn;

use super::{BACKLOG_BYTES_MAX, Connection, Ending, Greeting, Owed};
use crate::Broker;
use crate::codec::{self, ack};
use crate::feed::read_one;
use crate::hub::Delivery;
use crate::session::{InFlight, Origin};
use crate::sessions::Link;
use crate::subscription::Options;

/// Topics that have an alias towards a client: the first ones keep theirs, since a client that
/// hears many topics would gain nothing from aliases that change hands.
#[derive(Debug)]
pub(super) struct Aliases {
    count_max: u16,
    given: HashMap<Box<str>, u16>,
}

enum Alias {
    None,
    /// Stands for the topic.
    Known(u16),
    /// Stands for the topic from the next message on.
    New(u16),
}

impl Aliases {
    pub(super) fn new(count_max: u16) -> Aliases {
        Aliases { count_max, given: HashMap::new() }
    }

    fn of(&self, topic: &str) -> Alias {
        /// Bytes of the property: a topic no longer than this saves nothing.
        const ALIAS_BYTES: usize = 3;
        if let Some(alias) = self.given.get(topic) {
            return Alias::Known(*alias);
        }
        let next = u16::try_from(self.given.len()).ok().and_then(|count| count.checked_add(1));
        let next = next.filter(|next| *next <= self.count_max && topic.len() > ALIAS_BYTES);
        next.map_or(Alias::None, Alias::New)
    }
}

impl Connection {
    pub(super) fn poll_deliver(&mut self, cx: &mut Context<'_>) -> Result<bool, Ending> {
        let mut moved = false;
        while !self.closing && self.backlog() < BACKLOG_BYTES_MAX && !self.promises_much() {
            if self.owed.is_some() {
                if !self.poll_owed(cx)? {
                    break;
                }
                moved = true;
                continue;
            }
            // Own and shared subscriptions take turns.
            let shared = self.deliver_shared();
            if !self.deliver_own(cx) && !shared {
                break;
            }
            moved = true;
        }
        Ok(moved)
    }

    /// Whether another QoS 1 or 2 message may be on its way to the client.
    fn fits(&self) -> bool {
        self.session.outgoing.len() < self.window
    }

    fn deliver_own(&mut self, cx: &mut Context<'_>) -> bool {
        if self.feed.poll(cx).is_pending() {
            return false;
        }
        if self.feed.front().is_some_and(|front| front.qos != QoS::AtMostOnce && !self.fits()) {
            return false;
        }
        let Some(delivery) = self.feed.pop() else { return false };
        self.deliver(delivery, Origin::Live);
        true
    }

    fn deliver_shared(&mut self) -> bool {
        let shares = &self.session.shares;
        let count = shares.len();
        let fits = self.fits();
        let taken = (0..count)
            .map(|step| (self.share_turn + step) % count)
            .find_map(|at| Some((at, shares[at].take(fits)?, Origin::Shared(shares[at].id()))));
        let Some((at, dealt, origin)) = taken else { return false };
        self.share_turn = at + 1;
        // A message that says nothing is dealt with where it is put together.
        let topic = MessageRef::decode(&dealt.delivery.record).map(|message| message.topic);
        if topic.is_ok_and(|topic| !self.receives(topic)) {
            self.session.shares[at].turn_down(dealt);
        } else {
            self.deliver(dealt.delivery, origin);
        }
        true
    }

    fn deliver(&mut self, delivery: Delivery, origin: Origin) {
        let packet_id = match delivery.qos {
            QoS::AtMostOnce => 0,
            qos => self.session.outgoing.send(delivery.offset, qos, origin),
        };
        self.send(delivery, packet_id, origin);
    }

    /// Writes a logged message, again (`dup`) or for the first time; false if the client must
    /// not get it.
    pub(super) fn put_record(
        &mut self,
        delivery: &Delivery,
        packet_id: u16,
        dup: bool,
        origin: Origin,
    ) -> bool {
        let Ok((message, extras)) = MessageRef::decode_with(&delivery.record) else {
            self.broker.counters.undelivered_corrupt.one();
            return false;
        };
        if !self.receives(message.topic) {
            self.broker.counters.undelivered_policy.one();
            return false;
        }
        let counters = &self.broker.counters;
        let mut rest = Vec::new();
        let mut properties = extras.properties;
        if !properties.is_empty()
            && let Some(secs) = codec::without_expiry(properties, &mut rest)
        {
            // What is left of its time (MQTT 5, 3.3.2.3.3).
            let Some(left) = left(secs, message.received_at, self.broker.clock.now()) else {
                counters.undelivered_expired.one();
                return false;
            };
            codec::put_expiry(&mut rest, left);
            properties = &rest;
        }
        let (retain, identifiers) = self.marks(delivery.offset, &message, origin);
        let aliases = self.aliases_out.as_deref();
        let alias = aliases.map_or(Alias::None, |aliases| aliases.of(message.topic));
        let mut outgoing = codec::Outgoing {
            topic: if matches!(alias, Alias::Known(_)) { "" } else { message.topic },
            alias: match alias {
                Alias::None => None,
                Alias::Known(alias) | Alias::New(alias) => Some(alias),
            },
            identifiers: &identifiers,
            payload: message.payload,
            properties,
            qos: delivery.qos,
            dup,
            retain,
            packet_id,
        };
        let (version, bytes_max) = (self.version, self.packet_bytes_max);
        if codec::put_publish(&mut self.out, version, &outgoing, bytes_max) {
            if let (Alias::New(alias), Some(aliases)) = (alias, &mut self.aliases_out) {
                aliases.given.insert(message.topic.into(), alias);
            }
            return true;
        }
        // The alias may be what does not fit.
        outgoing.alias = None;
        let sent = matches!(alias, Alias::New(_))
            && codec::put_publish(&mut self.out, version, &outgoing, bytes_max);
        if !sent {
            counters.undelivered_size.one();
        }
        sent
    }

    /// Whether a message is sent as retained, and the identifiers of the subscriptions that
    /// select it.
    fn marks(
        &self,
        offset: Offset,
        message: &MessageRef<'_>,
        origin: Origin,
    ) -> (bool, Vec<NonZeroU32>) {
        let (mut retain, mut identifiers) = (false, Vec::new());
        let mut note = |options: &Options| {
            retain |= message.retain && options.retain_as_published;
            identifiers.extend(options.identifier);
        };
        match origin {
            Origin::Retained(identifier) => return (true, identifier.into_iter().collect()),
            Origin::Shared(group) => {
                let share = self.session.shares.iter().find(|share| share.id() == group);
                share.iter().for_each(|share| note(&share.options));
            }
            Origin::Live if message.retain || self.identified => {
                let client_id = &self.link.client_id;
                let subscriptions = self.feed.subscriptions().iter();
                subscriptions
                    .filter(|s| s.filter.matches(message.topic))
                    .filter(|s| s.options.select(offset, message, client_id).is_some())
                    .for_each(|s| note(&s.options));
            }
            Origin::Live => {}
        }
        (retain, identifiers)
    }

    /// Sends what was in flight when the last connection ended, again or for the first time, then
    /// what is retained; false while waiting.
    fn poll_owed(&mut self, cx: &mut Context<'_>) -> Result<bool, Ending> {
        let fits = self.fits();
        let Some(owed) = &mut self.owed else { return Ok(true) };
        if let Some((in_flight, read)) = &mut owed.resending {
            let Poll::Ready(record) = Pin::new(read).poll(cx) else { return Ok(false) };
            let in_flight = *in_flight;
            owed.resending = None;
            self.resend_record(in_flight, record.ok().flatten());
            return Ok(true);
        }
        if owed.resend.is_empty() {
            if owed.lines_up_nothing(&self.broker, &self.link) {
                self.owed = None;
                return Ok(true);
            }
            let next = owed.welcome.pop_front_if(|(next, _)| next.qos == QoS::AtMostOnce || fits);
            let Some((delivery, origin)) = next else { return Ok(false) };
            self.deliver(delivery, origin);
            return Ok(true);
        }
        let sent = self.session.outgoing.len() - owed.resend.len();
        if sent >= self.window {
            return Ok(false);
        }
        let Some(in_flight) = owed.resend.pop_front() else { return Ok(true) };
        if in_flight.released {
            codec::put_ack(&mut self.out, ack::PUBREL, in_flight.packet_id, 0);
            return Ok(true);
        }
        let journal = Arc::clone(&self.broker.journal);
        let retained = matches!(in_flight.origin, Origin::Retained(_));
        let kept = self.broker.retained.clone().filter(|_| retained);
        let read = tokio::task::spawn_blocking(move || {
            if let Some(record) = kept.and_then(|retained| retained.at(in_flight.offset)) {
                return Some(record);
            }
            read_one(&*journal, in_flight.offset)
        });
        if let Some(owed) = &mut self.owed {
            owed.resending = Some((in_flight, read));
        }
        Ok(true)
    }

    fn resend_record(&mut self, in_flight: InFlight, record: Option<Bytes>) {
        let InFlight { packet_id, qos, offset, unsent, origin, .. } = in_flight;
        if !self.session.outgoing.awaits_receipt(packet_id) {
            // It came while the record was read.
            return;
        }
        if let (Origin::Shared(group), QoS::AtLeastOnce, Some(record)) = (origin, qos, &record)
            && let Ok(message) = MessageRef::decode(record)
            && !self.receives(message.topic)
        {
            // It may no longer: the message is another member's.
            self.session.outgoing.acknowledge(packet_id);
            self.progressed();
            let share = self.session.shares.iter().find(|share| share.id() == group);
            share.iter().for_each(|share| share.give_back(std::iter::once(offset)));
            return;
        }
        let sent = match record {
            Some(record) => {
                self.session.outgoing.note_unsent(packet_id, false);
                self.put_record(&Delivery { offset, qos, record }, packet_id, !unsent, origin)
            }
            None => {
                warn!(client_id = %self.link.client_id, %offset, "a message in flight left the log");
                self.broker.counters.undelivered_trimmed.one();
                false
            }
        };
        if !sent {
            self.settled(packet_id);
        }
    }
}

impl Owed {
    /// Lines up the next retained messages if none are; true if there are none any more.
    pub(super) fn lines_up_nothing(&mut self, broker: &Broker, link: &Link) -> bool {
        /// Lined up at once, while the index is held.
        const COUNT_MAX: usize = 128;
        let Some(retained) = &broker.retained else { return self.welcome.is_empty() };
        while self.welcome.is_empty() {
            let Some(greeting) = self.greetings.front_mut() else { return true };
            let Greeting { filter, qos, no_local, until, .. } = &*greeting;
            let origin = Origin::Retained(greeting.identifier);
            let after = greeting.after.as_deref();
            let index = retained.hold();
            let now = broker.clock.now();
            let mut last = None;
            for (topic, entry) in index.matching(filter, *until, now, after).take(COUNT_MAX) {
                last = Some(topic);
                let Ok(message) = MessageRef::decode(&entry.record) else { continue };
                if *no_local && message.client_id == &*link.client_id {
                    continue;
                }
                let (offset, record) = (entry.offset, entry.record.clone());
                let delivery = Delivery { offset, qos: message.qos.min(*qos), record };
                self.welcome.push_back((delivery, origin));
            }
            match last.map(str::to_owned) {
                Some(last) => greeting.after = Some(last),
                None => drop(self.greetings.pop_front()),
            }
        }
        false
    }
}

/// Seconds left of a message's life, or `None` once it is over.
fn left(secs: u32, since: Timestamp, now: Timestamp) -> Option<u32> {
    let waited = u32::try_from(now.since(since).as_secs()).unwrap_or(u32::MAX);
    secs.checked_sub(waited).filter(|left| *left > 0)
}
