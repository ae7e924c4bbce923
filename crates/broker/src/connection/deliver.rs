//! What a client gets: messages from its feed, and again those in flight from before.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use base::{MessageRef, QoS, Timestamp};
use bytes::Bytes;
use tracing::warn;

use super::{BACKLOG_BYTES_MAX, Connection, Ending};
use crate::codec::{self, ack};
use crate::hub::Delivery;
use crate::session::InFlight;

impl Connection {
    pub(super) fn poll_deliver(&mut self, cx: &mut Context<'_>) -> Result<bool, Ending> {
        let mut moved = false;
        while !self.closing && self.backlog() < BACKLOG_BYTES_MAX {
            if self.resending.is_some() || !self.resend.is_empty() {
                if !self.poll_resend(cx)? {
                    break;
                }
                moved = true;
                continue;
            }
            let fits = self.session.outgoing.len() < self.window;
            if let Some(front) = self.welcome.front() {
                if front.qos != QoS::AtMostOnce && !fits {
                    break;
                }
                if let Some(delivery) = self.welcome.pop_front() {
                    self.deliver(&delivery, true);
                    moved = true;
                }
                continue;
            }
            if self.feed.poll(cx).is_pending() {
                break;
            }
            if self.feed.front().is_some_and(|front| front.qos != QoS::AtMostOnce && !fits) {
                break;
            }
            if let Some(delivery) = self.feed.pop() {
                self.deliver(&delivery, false);
                moved = true;
            }
        }
        Ok(moved)
    }

    fn deliver(&mut self, delivery: &Delivery, retained: bool) {
        let packet_id = match delivery.qos {
            QoS::AtMostOnce => 0,
            qos => self.session.outgoing.send(delivery.offset, qos, retained),
        };
        let sent = self.put_record(&delivery.record, delivery.qos, packet_id, (false, retained));
        let counters = &self.broker.counters;
        match (sent, delivery.qos) {
            (false, QoS::AtMostOnce) => {}
            (false, QoS::AtLeastOnce) => {
                self.session.outgoing.acknowledge(packet_id);
            }
            (false, QoS::ExactlyOnce) => {
                self.session.outgoing.complete(packet_id);
            }
            (true, QoS::AtMostOnce) => counters.delivered_qos0.one(),
            (true, QoS::AtLeastOnce) => counters.delivered_qos1.one(),
            (true, QoS::ExactlyOnce) => counters.delivered_qos2.one(),
        }
    }

    /// Writes a logged message, sent before (`dup`) or because it was retained; false if the
    /// client must not get it.
    fn put_record(
        &mut self,
        record: &[u8],
        qos: QoS,
        packet_id: u16,
        (dup, retained): (bool, bool),
    ) -> bool {
        let Ok((message, properties)) = MessageRef::decode_with_properties(record) else {
            self.broker.counters.undelivered_corrupt.one();
            return false;
        };
        if !self.may_receive(message.topic) {
            return false;
        }
        let counters = &self.broker.counters;
        let mut rest = Vec::new();
        let mut properties = properties;
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
        let outgoing = codec::Outgoing {
            topic: message.topic,
            payload: message.payload,
            properties,
            qos,
            dup,
            retain: retained || (message.retain && self.keeps_retain(message.topic)),
            packet_id,
        };
        let sent =
            codec::put_publish(&mut self.out, self.version, &outgoing, self.packet_bytes_max);
        if !sent {
            counters.undelivered_size.one();
        }
        sent
    }

    /// Whether a subscription to this topic keeps the publisher's retain flag.
    fn keeps_retain(&self, topic: &str) -> bool {
        let subscriptions = self.feed.subscriptions();
        subscriptions.iter().any(|s| s.options.retain_as_published && s.filter.matches(topic))
    }

    /// Sends again what was in flight when the last connection ended; false while waiting.
    fn poll_resend(&mut self, cx: &mut Context<'_>) -> Result<bool, Ending> {
        if let Some((in_flight, read)) = &mut self.resending {
            let Poll::Ready(record) = Pin::new(read).poll(cx) else { return Ok(false) };
            let in_flight = *in_flight;
            self.resending = None;
            self.resend_record(in_flight, record.ok().flatten());
            return Ok(true);
        }
        let sent = self.session.outgoing.len() - self.resend.len();
        if sent >= self.window {
            return Ok(false);
        }
        let Some(in_flight) = self.resend.pop_front() else { return Ok(true) };
        if in_flight.released {
            codec::put_ack(&mut self.out, ack::PUBREL, in_flight.packet_id, 0);
            return Ok(true);
        }
        let journal = Arc::clone(&self.broker.journal);
        let kept = self.broker.retained.clone().filter(|_| in_flight.retained);
        let read = tokio::task::spawn_blocking(move || {
            if let Some(record) = kept.and_then(|retained| retained.at(in_flight.offset)) {
                return Some(record);
            }
            let records = journal.read(in_flight.offset, 1).ok()?;
            let (offset, record) = records.items.into_iter().next()?;
            (offset == in_flight.offset).then(|| Bytes::copy_from_slice(&record))
        });
        self.resending = Some((in_flight, read));
        Ok(true)
    }

    fn resend_record(&mut self, in_flight: InFlight, record: Option<Bytes>) {
        let InFlight { packet_id, qos, offset, retained, .. } = in_flight;
        let sent = match &record {
            Some(record) => self.put_record(record, qos, packet_id, (true, retained)),
            None => {
                warn!(client_id = %self.link.client_id, %offset, "a message in flight left the log");
                self.broker.counters.undelivered_trimmed.one();
                false
            }
        };
        if !sent && !self.session.outgoing.acknowledge(packet_id) {
            self.session.outgoing.complete(packet_id);
        }
    }
}

/// Seconds left of a message's life, or `None` once it is over.
fn left(secs: u32, since: Timestamp, now: Timestamp) -> Option<u32> {
    let waited = u32::try_from(now.since(since).as_secs()).unwrap_or(u32::MAX);
    secs.checked_sub(waited).filter(|left| *left > 0)
}
