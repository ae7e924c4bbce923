//! What must not be said before the session is on disk, and the session's way there.
//!
//! A session that outlives its connection changes with every subscription and every step of
//! QoS 2. The answer to such a change is a promise: it is kept here, in order, until the row
//! that holds the change is stable. What may be repeated after a kill (the progress of QoS 1)
//! waits for nothing and is written a moment later.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use base::{Offset, QoS};
use tracing::debug;

use super::{Connection, Ending};
use crate::codec::{self, ack};
use crate::hub::Delivery;
use crate::kept::{Extra, SessionRow};
use crate::session::Origin;

/// How soon the progress of QoS 1 towards the client is written, and after how many steps at
/// most: what was sent since comes again after a kill.
const PROGRESS: Duration = Duration::from_secs(1);
const PROGRESS_MAX: u32 = 1000;

/// How soon the row has what the client sent: until then the log is read again after a kill.
const RECEIVED: Duration = Duration::from_secs(60);

/// How old the row of an idle session may be: from there its feed reads after a kill.
const IDLE: Duration = Duration::from_secs(600);

/// Promises beyond which nothing more is delivered.
const PROMISES_MAX: usize = 1024;

/// What is said once the session is stable.
#[derive(Debug)]
pub(super) enum Promise {
    /// SUBACK or UNSUBACK.
    Packet(Vec<u8>),
    /// A message, its packet id and why it is sent.
    Message(Delivery, u16, Origin),
    Pubrel(u16),
    /// PUBCOMP, which must not run ahead of the record either.
    Pubcomp(u16, Offset),
}

/// A session on its way to the disk.
#[derive(Debug)]
pub(super) struct Stable {
    /// Counts the changes, and is that of the last row handed over.
    version: u64,
    handed: u64,
    promises: VecDeque<(u64, Promise)>,
    /// How many of the promises are messages.
    messages: usize,
    /// When the next row is due, if nothing is waiting for it.
    save_by: Instant,
    /// Steps of progress since the last one.
    steps: u32,
    /// How far the row goes that is on its way: its version, and what the client had sent.
    until: Option<(u64, Offset)>,
}

impl Stable {
    /// The session as it was written with the CONNECT, version 1.
    pub(super) fn new() -> Stable {
        Stable {
            version: 1,
            handed: 1,
            promises: VecDeque::new(),
            messages: 0,
            save_by: Instant::now() + IDLE,
            steps: 0,
            until: None,
        }
    }

    fn within(&mut self, time: Duration) {
        self.save_by = self.save_by.min(Instant::now() + time);
    }

    fn queue(&mut self, promise: Promise) {
        self.messages += usize::from(matches!(promise, Promise::Message(..)));
        self.promises.push_back((self.version, promise));
    }

    /// The next promise that a row of version `saved` lets us keep.
    fn kept_by(&mut self, saved: u64) -> Option<Promise> {
        let (_, promise) = self.promises.pop_front_if(|(version, _)| *version <= saved)?;
        self.messages -= usize::from(matches!(promise, Promise::Message(..)));
        if self.promises.is_empty() {
            self.promises.shrink_to(0);
        }
        Some(promise)
    }
}

impl Connection {
    /// Whether the session outlives connection and process.
    pub(super) fn keeps(&self) -> bool {
        self.session.kept_for.is_some() && self.stable.is_some()
    }

    /// Says something once the session is stable as it is now; at once if it is not kept.
    pub(super) fn promise(&mut self, promise: Promise) {
        match &mut self.stable {
            Some(stable) if self.session.kept_for.is_some() => {
                stable.version += 1;
                stable.queue(promise);
            }
            _ => self.perform(promise),
        }
    }

    /// Has the session written for a change that nobody is told of.
    pub(super) fn changed(&mut self) {
        if self.keeps()
            && let Some(stable) = &mut self.stable
        {
            stable.version += 1;
        }
    }

    /// Sends a message: of QoS 2 once its packet id is stable, others at once unless they would
    /// overtake one.
    pub(super) fn send(&mut self, delivery: Delivery, packet_id: u16, origin: Origin) {
        if delivery.qos != QoS::AtMostOnce {
            self.progressed();
        }
        let message = Promise::Message(delivery, packet_id, origin);
        match (&message, &mut self.stable) {
            (Promise::Message(delivery, ..), _) if delivery.qos == QoS::ExactlyOnce => {
                self.promise(message);
            }
            (_, Some(stable)) if stable.messages > 0 => stable.queue(message),
            _ => self.perform(message),
        }
    }

    pub(super) fn promises_much(&self) -> bool {
        self.stable.as_ref().is_some_and(|stable| stable.promises.len() >= PROMISES_MAX)
    }

    /// Notes that the client took something, or was sent it.
    pub(super) fn progressed(&mut self) {
        let Some(stable) = &mut self.stable else { return };
        stable.steps = stable.steps.saturating_add(1);
        match stable.steps {
            1 => stable.within(PROGRESS),
            PROGRESS_MAX => stable.within(Duration::ZERO),
            _ => {}
        }
    }

    /// To be called before messages of the client are logged that it may send again.
    pub(super) fn note_received(&mut self) {
        if self.keeps()
            && let Some(stable) = &mut self.stable
        {
            self.link.note_unsaved(self.broker.journal.durable());
            stable.within(RECEIVED);
        }
    }

    /// When the row is due.
    pub(super) fn save_by(&self) -> Option<Instant> {
        self.stable.as_ref().filter(|_| self.keeps()).map(|stable| stable.save_by)
    }

    /// Has the row written that is due, and keeps the promises that may be kept.
    pub(super) fn poll_stable(&mut self) -> Result<bool, Ending> {
        if !self.keeps() {
            return Ok(false);
        }
        if let Some(failure) = self.broker.keeper.as_ref().and_then(|keeper| keeper.failure()) {
            return Err(Ending::Unkept(failure));
        }
        let mut moved = self.save_if_due();
        let saved = self.link.saved_version();
        if let Some(stable) = &mut self.stable
            && let Some((version, until)) = stable.until
            && version <= saved
        {
            stable.until = None;
            self.link.set_unsaved((self.session.until > until).then_some(until));
        }
        while let Some(promise) = self.stable.as_mut().and_then(|stable| stable.kept_by(saved)) {
            self.perform(promise);
            moved = true;
        }
        Ok(moved)
    }

    fn save_if_due(&mut self) -> bool {
        let (Some(keeper), Some(stable)) = (&self.broker.keeper, &mut self.stable) else {
            return false;
        };
        if stable.version == stable.handed {
            if Instant::now() < stable.save_by {
                return false;
            }
            stable.version += 1;
        }
        let row = SessionRow::new(
            &self.session,
            &Extra {
                subscriptions: self.feed.subscriptions(),
                cursor: self.feed.position(),
                silence: self.keep_alive,
                will: self.will.as_deref().map(|will| (will, None)),
                left_at: None,
            },
        );
        let version = stable.version;
        stable.handed = version;
        stable.until = Some((version, self.session.until));
        stable.save_by = Instant::now() + IDLE;
        stable.steps = 0;
        keeper.put(&self.link.client_id, Some(row), Some((&self.link, version)));
        true
    }

    fn perform(&mut self, promise: Promise) {
        match promise {
            // Behave as if it was sent (MQTT 5, 3.1.2-25).
            Promise::Packet(packet) if packet.len() > self.packet_bytes_max => {
                let (client_id, bytes) = (&self.link.client_id, packet.len());
                debug!(%client_id, bytes, "an answer is larger than its client takes");
            }
            Promise::Packet(packet) => self.out.extend(packet),
            Promise::Message(delivery, packet_id, origin) => {
                let sent = self.put_record(&delivery, packet_id, false, origin);
                self.note_sent(sent, delivery.qos, packet_id);
            }
            Promise::Pubrel(packet_id) => {
                codec::put_ack(&mut self.out, ack::PUBREL, packet_id, 0);
            }
            // A client that releases what was not acknowledged is out of order; even so PUBCOMP
            // must not run ahead of the disk.
            Promise::Pubcomp(packet_id, next) if next > self.known_durable() => {
                self.answer_after(next, ack::PUBCOMP, packet_id);
            }
            Promise::Pubcomp(packet_id, _) => {
                codec::put_ack(&mut self.out, ack::PUBCOMP, packet_id, 0);
            }
        }
    }

    fn note_sent(&mut self, sent: bool, qos: QoS, packet_id: u16) {
        let counters = &self.broker.counters;
        match (sent, qos) {
            (true, QoS::AtMostOnce) => counters.delivered_qos0.one(),
            (true, QoS::AtLeastOnce) => counters.delivered_qos1.one(),
            (true, QoS::ExactlyOnce) => counters.delivered_qos2.one(),
            (false, QoS::AtMostOnce) => {}
            (false, _) => self.settled(packet_id),
        }
    }

    /// The client is done with a message, or must not get it.
    pub(super) fn settled(&mut self, packet_id: u16) {
        let outgoing = &mut self.session.outgoing;
        let settled = outgoing.acknowledge(packet_id).or_else(|| outgoing.complete(packet_id));
        let Some(settled) = settled else { return };
        self.forget_resend(packet_id);
        self.progressed();
        if let Origin::Shared(group) = settled.origin {
            let share = self.session.shares.iter().find(|share| share.id() == group);
            share.iter().for_each(|share| share.settle(settled.offset));
        }
    }

    /// A message from before is not sent again: its client has just said that it has it.
    pub(super) fn forget_resend(&mut self, packet_id: u16) {
        if let Some(owed) = &mut self.owed {
            owed.resend.retain(|sent| sent.packet_id != packet_id);
        }
    }

    /// Forgets what was promised: the connection ends.
    pub(super) fn break_promises(&mut self) {
        let promises = self.stable.take().into_iter().flat_map(|stable| stable.promises);
        for (_, promise) in promises {
            if let Promise::Message(_, packet_id, _) = promise {
                self.session.outgoing.note_unsent(packet_id, true);
            }
        }
    }
}
