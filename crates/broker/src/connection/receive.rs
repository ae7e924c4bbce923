//! What a client sends beside CONNECT: messages, acknowledgements, subscriptions.

use std::mem;
use std::sync::Arc;

use base::{ErrorKind, Extras, MessageRef, Offset, QoS, TopicFilter};
use journal::{Batch, Bell};
use mqtt_protocol_core::mqtt::result_code::{DisconnectReasonCode as Code, SubackReasonCode};
use tracing::debug;

use super::stable::Promise;
use super::{Connection, Due, Ending, Greeting, Says, Staged, Work};
use crate::Broker;
use crate::auth::Explanation;
use crate::codec::{self, Fault, Publish, Version, Wanted, ack, kind};
use crate::events::EVENTS;
use crate::hub::lock;
use crate::publish::is_basic_ingest;
use crate::retained::Retained;
use crate::session::Incoming;
use crate::sessions::Subscribed;
use crate::shard::{self, BULK_BYTES, EAGER};
use crate::subscription::{FILTER_BYTES_MAX, FILTER_LEVELS_MAX, Options, Subscription};
use crate::{shadows, share};

impl Connection {
    // ---- messages in ----

    pub(super) fn receive(&mut self, publish: &Publish<'_>, work: &mut Work) -> Result<(), Ending> {
        let counters = &self.broker.counters;
        match publish.qos {
            QoS::AtMostOnce => counters.received_qos0.one(),
            QoS::AtLeastOnce => counters.received_qos1.one(),
            QoS::ExactlyOnce => counters.received_qos2.one(),
        }
        self.check_limits(publish, work)?;
        let aliased = self.resolve_alias(publish)?;
        let topic = aliased.as_deref().unwrap_or(publish.topic);
        if let Some(at) = topic.find(['+', '#']) {
            self.broker.counters.refused_topic.one();
            let why = format!("topic name {topic:?} holds a wildcard at byte {at}");
            return Err(Fault::new(Code::TopicNameInvalid, why).into());
        }
        if let Some(why) = self.broker.settings.refuses_topic(topic) {
            self.broker.counters.refused_topic.one();
            return Err(Fault::new(Code::TopicNameInvalid, why).into());
        }
        if topic.starts_with('$') && !is_basic_ingest(topic) && !self.asks_shadow(topic) {
            return self.refuse_topic(topic, publish, work);
        }
        if !self.may_publish(topic, publish, work)? {
            return Ok(());
        }
        if publish.retain && self.cannot_retain(topic, publish, work)? {
            return Ok(());
        }
        if publish.qos != QoS::AtMostOnce && self.recognise(topic, publish, work)? {
            return Ok(());
        }
        self.stage(topic, publish, work)
    }

    fn check_limits(&self, publish: &Publish<'_>, work: &Work) -> Result<(), Ending> {
        let Broker { settings, counters, .. } = &*self.broker;
        if publish.retain && self.broker.retained.is_none() {
            counters.refused_retain.one();
            let why = "retained messages are announced as unavailable; publish without retain";
            return Err(Fault::new(Code::RetainNotSupported, why).into());
        }
        if publish.payload.len() > settings.payload_bytes_max {
            counters.refused_size.one();
            let (bytes, most) = (publish.payload.len(), settings.payload_bytes_max);
            let why = format!("payload of {bytes} bytes; at most {most} are taken");
            return Err(Fault::new(Code::PacketTooLarge, why).into());
        }
        let open = self.session.incoming.open_count();
        let repeated = || self.session.incoming.open_until(publish.packet_id).is_some();
        if self.version == Version::V5 && publish.qos != QoS::AtMostOnce {
            let unsettled = self.due_pubacks + open + work.acknowledged;
            if unsettled >= usize::from(settings.receive_maximum) && !repeated() {
                counters.refused_quota.one();
                let why = format!("more than {} messages in flight", settings.receive_maximum);
                return Err(Fault::new(Code::ReceiveMaximumExceeded, why).into());
            }
        }
        let open = open + work.exact;
        if publish.qos == QoS::ExactlyOnce && open >= settings.qos2_open_max && !repeated() {
            counters.refused_quota.one();
            let why = format!("{open} QoS 2 messages are not released");
            return Err(Fault::new(Code::QuotaExceeded, why).into());
        }
        Ok(())
    }

    fn resolve_alias(&mut self, publish: &Publish<'_>) -> Result<Option<Arc<str>>, Ending> {
        let Some(alias) = publish.alias else { return Ok(None) };
        let invalid = |why: &'static str| {
            self.broker.counters.refused_alias.one();
            Err(Fault::new(Code::TopicAliasInvalid, why).into())
        };
        if alias > self.broker.settings.topic_alias_max {
            return invalid("a topic alias beyond the announced maximum");
        }
        let at = usize::from(alias) - 1;
        if publish.topic.is_empty() {
            return match self.aliases.as_ref().and_then(|aliases| aliases.get(at)) {
                Some(Some(topic)) => Ok(Some(Arc::clone(topic))),
                _ => invalid("a topic alias that was never set"),
            };
        }
        let aliases = self.aliases.get_or_insert_default();
        if aliases.len() <= at {
            aliases.resize(at + 1, None);
        }
        aliases[at] = Some(publish.topic.into());
        Ok(None)
    }

    fn asks_shadow(&self, topic: &str) -> bool {
        self.broker.shadows.is_some() && shadows::request(topic).is_some()
    }

    /// `$` topics are the broker's own (MQTT 5, 4.7.2).
    fn refuse_topic(
        &mut self,
        topic: &str,
        publish: &Publish<'_>,
        work: &mut Work,
    ) -> Result<(), Ending> {
        self.broker.counters.refused_topic.one();
        debug!(client_id = %self.link.client_id, topic, "publish to a reserved topic refused");
        if publish.qos == QoS::AtMostOnce {
            return Ok(());
        }
        let why = format!("topic {topic:?} is reserved; clients cannot publish to $ topics");
        let mut code = Code::TopicNameInvalid as u8;
        if self.version == Version::V4 {
            if topic.starts_with("$aws/") {
                // As AWS does, so that a device with a wrong topic is noticed.
                return Err(Fault::new(Code::TopicNameInvalid, why).into());
            }
            // MQTT 3.1.1 has no other way to say no than to acknowledge or to close (3.3.5).
            code = 0;
        }
        let why = Explanation { text: why, ..Explanation::default() };
        let principal = Some(self.link.identity.principal.as_str());
        self.broker.note_refusal(&self.link.client_id, principal, "topic", (None, topic), why);
        self.flush(work)?;
        let head = if publish.qos == QoS::AtLeastOnce { ack::PUBACK } else { ack::PUBREC };
        self.answer(head, publish.packet_id, code);
        Ok(())
    }

    /// Whether there is no room to retain it; then it is refused.
    fn cannot_retain(
        &mut self,
        topic: &str,
        publish: &Publish<'_>,
        work: &mut Work,
    ) -> Result<bool, Ending> {
        let refuses = |retained: &Arc<Retained>| retained.refuses(topic, publish.payload);
        let Some(why) = self.broker.retained.as_ref().and_then(refuses) else { return Ok(false) };
        self.broker.counters.refused_retain.one();
        if self.version == Version::V4 || publish.qos == QoS::AtMostOnce {
            return Err(Fault::new(Code::QuotaExceeded, why).into());
        }
        let why = Explanation { text: why, ..Explanation::default() };
        let principal = Some(self.link.identity.principal.as_str());
        self.broker.note_refusal(&self.link.client_id, principal, "limit", (None, topic), why);
        self.flush(work)?;
        let head = if publish.qos == QoS::AtLeastOnce { ack::PUBACK } else { ack::PUBREC };
        self.answer(head, publish.packet_id, Code::QuotaExceeded as u8);
        Ok(true)
    }

    /// Whether the message was logged before; then it is acknowledged again.
    fn recognise(
        &mut self,
        topic: &str,
        publish: &Publish<'_>,
        work: &mut Work,
    ) -> Result<bool, Ending> {
        let id = publish.packet_id;
        let same = |staged: &Staged| staged.packet_id == id && staged.qos == publish.qos;
        // At QoS 2 the packet id alone says that it is the same, until PUBREL (4.3.3).
        let may_be_same = publish.dup || publish.qos == QoS::ExactlyOnce;
        if may_be_same && work.staged.iter().any(same) {
            self.flush(work)?;
        }
        if self.held.as_ref().is_some_and(|held| held.staged.iter().any(same)) {
            // The full journal has yet to take the first; its acknowledgement answers both.
            self.broker.counters.repeated.one();
            return Ok(true);
        }
        if publish.qos == QoS::ExactlyOnce {
            let Some(next) = self.session.incoming.open_until(id) else { return Ok(false) };
            self.flush(work)?;
            self.broker.counters.repeated.one();
            // The first PUBREC may still be waiting; then it answers both.
            if !self.due.iter().any(|due| due.head == ack::PUBREC && due.packet_id == id) {
                self.answer_after(next, ack::PUBREC, id);
            }
            return Ok(true);
        }
        if !publish.dup || self.session.kept_for.is_none() {
            return Ok(false);
        }
        self.flush(work)?;
        let incoming = &self.session.incoming;
        let fingerprint = Incoming::fingerprint(topic, publish.payload);
        let Some(next) = incoming.logged_before(id, fingerprint) else { return Ok(false) };
        self.broker.counters.repeated.one();
        self.answer_after(next, ack::PUBACK, id);
        Ok(true)
    }

    fn stage(&mut self, topic: &str, publish: &Publish<'_>, work: &mut Work) -> Result<(), Ending> {
        let message = MessageRef {
            topic,
            payload: publish.payload,
            client_id: &self.link.client_id,
            principal: &self.link.identity.principal,
            received_at: work.now,
            qos: publish.qos,
            // What goes to a rule or a shadow is news for nobody who comes later.
            retain: publish.retain && !topic.starts_with('$'),
        };
        work.concern.retained |= message.retain;
        work.concern.shadows |= topic.starts_with(shadows::THINGS);
        work.properties.clear();
        codec::forwarded_properties(publish.properties, &mut work.properties);
        let may_return = publish.qos != QoS::AtMostOnce && self.session.kept_for.is_some();
        let extras = Extras {
            properties: &work.properties,
            packet_id: may_return.then_some(publish.packet_id),
            source: Some(self.link.peer.ip().to_canonical()),
        };
        let batch = work.batch.get_or_insert_with(Batch::new);
        batch.push(|out| message.encode_with(&extras, out)).map_err(Ending::Journal)?;
        let kept = self.session.kept_for.is_some() && publish.qos == QoS::AtLeastOnce;
        let fingerprint = kept.then(|| Incoming::fingerprint(topic, publish.payload));
        work.acknowledged += usize::from(publish.qos != QoS::AtMostOnce);
        work.exact += usize::from(publish.qos == QoS::ExactlyOnce);
        work.staged.push(Staged { packet_id: publish.packet_id, qos: publish.qos, fingerprint });
        Ok(())
    }

    /// Hands the collected messages to the journal. If it is full they are held and tried
    /// again; meanwhile nothing is read.
    pub(crate) fn flush(&mut self, work: &mut Work) -> Result<(), Ending> {
        let Some(batch) = work.batch.as_ref().filter(|_| !work.staged.is_empty()) else {
            return Ok(());
        };
        if work.acknowledged > 0 {
            self.note_received();
        }
        let bell = (work.acknowledged > 0).then(|| self.bell.get_or_insert_with(Bell::new));
        match self.broker.append_some(batch, bell.map(|bell| &*bell), work.concern) {
            Ok(appended) => {
                self.held_back = false;
                self.broker.counters.logged.add(appended.count);
                self.session.until = appended.next();
                let waited = work.acknowledged > 0 && self.answered_at.elapsed() < EAGER;
                shard::note_pace(waited || work.bytes >= BULK_BYTES);
                self.note_logged(work, appended.first);
                work.clear();
                Ok(())
            }
            Err(full) if full.kind() == ErrorKind::Exhausted => {
                if !mem::replace(&mut self.held_back, true) {
                    self.broker.counters.held_back.one();
                }
                self.held = Some(Box::new(mem::take(work)));
                Ok(())
            }
            Err(failed) => {
                self.broker.counters.unanswered.add(work.acknowledged as u64);
                work.clear();
                Err(Ending::Journal(failed))
            }
        }
    }

    fn note_logged(&mut self, work: &Work, first: Offset) {
        let mut next = first;
        let recent_max = usize::from(self.broker.settings.receive_maximum);
        for staged in &work.staged {
            next = next.plus(1);
            let packet_id = staged.packet_id;
            let head = match staged.qos {
                QoS::AtMostOnce => continue,
                QoS::AtLeastOnce => ack::PUBACK,
                QoS::ExactlyOnce => {
                    self.session.incoming.opened(packet_id, next);
                    ack::PUBREC
                }
            };
            if let Some(fingerprint) = staged.fingerprint {
                self.session.incoming.logged(packet_id, fingerprint, next, recent_max);
            }
            self.push_due(Due { next, packet_id, head, code: 0, says: Says::Logged });
        }
    }

    /// Tries again what the full journal did not take.
    pub(super) fn retry(&mut self, mut work: Work) -> Result<bool, Ending> {
        self.flush(&mut work)?;
        Ok(self.held.is_none())
    }

    // ---- messages out ----

    pub(super) fn acknowledged(
        &mut self,
        kind: u8,
        packet_id: u16,
        code: u8,
        work: &mut Work,
    ) -> Result<(), Ending> {
        const NOT_FOUND: u8 = 0x92;
        match kind {
            // An unknown id is a late answer to something settled; nothing hangs on it.
            kind::PUBACK if self.session.outgoing.is(packet_id, QoS::AtLeastOnce) => {
                self.settled(packet_id);
            }
            kind::PUBCOMP if self.session.outgoing.is(packet_id, QoS::ExactlyOnce) => {
                self.settled(packet_id);
            }
            kind::PUBACK | kind::PUBCOMP => {}
            kind::PUBREC if code >= 0x80 => {
                if self.session.outgoing.is(packet_id, QoS::ExactlyOnce) {
                    self.settled(packet_id);
                }
            }
            kind::PUBREC => {
                if self.session.outgoing.release(packet_id) {
                    self.forget_resend(packet_id);
                    self.promise(Promise::Pubrel(packet_id));
                } else {
                    let code = if self.version == Version::V4 { 0 } else { NOT_FOUND };
                    codec::put_ack(&mut self.out, ack::PUBREL, packet_id, code);
                }
            }
            _ => {
                self.flush(work)?;
                match self.session.incoming.released(packet_id) {
                    Some(next) => self.promise(Promise::Pubcomp(packet_id, next)),
                    None => {
                        let code = if self.version == Version::V4 { 0 } else { NOT_FOUND };
                        codec::put_ack(&mut self.out, ack::PUBCOMP, packet_id, code);
                    }
                }
            }
        }
        Ok(())
    }

    pub(super) fn known_durable(&self) -> Offset {
        self.bell
            .as_ref()
            .map_or(Offset::default(), |bell| bell.durable())
            .max(self.broker.journal.durable())
    }

    // ---- subscriptions ----

    pub(super) fn subscribe(&mut self, packet_id: u16, wanted: Vec<Wanted>) -> Result<(), Ending> {
        let most = self.broker.settings.subscriptions_per_request_max;
        if most > 0 && wanted.len() > most {
            let why = format!("{} subscriptions at once; at most {most} are taken", wanted.len());
            return Err(Fault::new(Code::QuotaExceeded, why).into());
        }
        let mut why = None;
        let mut granted = Vec::new();
        let codes: Vec<_> = wanted
            .into_iter()
            .map(|wanted| {
                let filter = wanted.filter.clone();
                let code = self.grant(wanted, &mut why);
                if (code as u8) < 0x80 {
                    granted.push(filter);
                }
                code
            })
            .collect();
        self.broker.say_subscribed(&self.link, self.presence, "subscribed", &granted);
        self.publish_subscriptions();
        let bytes_max = self.packet_bytes_max;
        let why = why.as_deref().filter(|_| self.says_why);
        let suback = codec::suback(self.version, packet_id, &codes, why, bytes_max)?;
        self.promise(Promise::Packet(suback));
        Ok(())
    }

    /// Grants a subscription or says why not; the first refusal by a policy in words, too.
    fn grant(&mut self, wanted: Wanted, why: &mut Option<String>) -> SubackReasonCode {
        let shared = wanted.filter.starts_with(share::PREFIX);
        let filter = match shared {
            true => share::filter(&wanted.filter),
            false => TopicFilter::parse(&wanted.filter).ok(),
        };
        let Some(filter) = filter else { return SubackReasonCode::TopicFilterInvalid };
        // What a shared subscription selects is what its filter selects.
        let text = filter.as_str();
        let open = text.starts_with(EVENTS) || text.starts_with(shadows::THINGS);
        let reserved = text.starts_with('$') && !open;
        let refused = if reserved {
            Some(format!("{filter} is reserved; clients cannot subscribe to $ topics"))
        } else {
            self.may_not_subscribe(filter.as_str())
        };
        if let Some(refused) = refused {
            why.get_or_insert(refused);
            return match self.broker.settings.refusals_explained {
                true => SubackReasonCode::NotAuthorized,
                false => SubackReasonCode::UnspecifiedError,
            };
        }
        let subscriptions = self.feed.subscriptions();
        let shares = &self.session.shares;
        let known = match shared {
            true => shares.iter().any(|share| **share.name() == *wanted.filter),
            false => subscriptions.iter().any(|s| s.filter == filter),
        };
        let count = subscriptions.len() + shares.len();
        let full = count >= self.broker.settings.subscriptions_per_session_max
            || self.filter_bytes + wanted.filter.len() > FILTER_BYTES_MAX;
        let name_max = metastore::KEY_BYTES_MAX;
        let long = shared && wanted.filter.len() > name_max;
        let deep = filter.as_str().split('/').count() > FILTER_LEVELS_MAX
            || self.broker.settings.refuses_topic(filter.as_str()).is_some();
        if deep || (full && !known) || long {
            return SubackReasonCode::QuotaExceeded;
        }
        if shared {
            self.share(&wanted, filter);
        } else {
            let from = self.welcome(&wanted, &filter, known);
            let options = Options { from, ..wanted.options() };
            self.feed.subscribe(Subscription { filter, options });
        }
        match wanted.qos {
            QoS::AtMostOnce => SubackReasonCode::GrantedQos0,
            QoS::AtLeastOnce => SubackReasonCode::GrantedQos1,
            QoS::ExactlyOnce => SubackReasonCode::GrantedQos2,
        }
    }

    /// Joins a shared subscription, or renews it. It brings no retained messages (MQTT 5, 4.8.2).
    fn share(&mut self, wanted: &Wanted, filter: TopicFilter) {
        let from = self.broker.journal.durable().max(self.session.until);
        let options = Options { from, ..wanted.options() };
        let shares = &mut self.session.shares;
        if let Some(share) = shares.iter_mut().find(|share| **share.name() == *wanted.filter) {
            return share.renew(options);
        }
        shares.push(self.broker.groups.join(&wanted.filter, filter, options, &self.link.mailbox));
    }

    /// Removes a subscription; false if there was none.
    pub(super) fn unsubscribe(&mut self, filter: &str) -> bool {
        if !filter.starts_with(share::PREFIX) {
            if let Some(owed) = &mut self.owed {
                owed.greetings.retain(|greeting| greeting.filter.as_str() != filter);
            }
            return self.feed.unsubscribe(filter);
        }
        let shares = &mut self.session.shares;
        let found = shares.iter().position(|share| **share.name() == *filter);
        let Some(share) = found.map(|at| shares.swap_remove(at)) else { return false };
        // What was begun is finished (MQTT 5, 3.10.4), and is the group's no more.
        for offset in self.session.outgoing.disown(share.id()) {
            share.settle(offset);
        }
        true
    }

    /// Ends the subscriptions that the client may not have any more; what it may be sent is asked
    /// for each message besides.
    pub(crate) fn end_forbidden(&mut self) {
        let plain = self.feed.subscriptions().iter().map(|s| s.filter.as_str().to_owned());
        let shared = self.session.shares.iter().map(|share| share.name().to_string());
        let mut forbidden: Vec<String> = plain.chain(shared).collect();
        forbidden.retain(|name| {
            let shared = share::filter(name).filter(|_| name.starts_with(share::PREFIX));
            let filter = shared.as_ref().map_or(name.as_str(), TopicFilter::as_str);
            self.may_not_subscribe(filter).is_some()
        });
        if forbidden.is_empty() {
            return;
        }
        for name in &forbidden {
            self.unsubscribe(name);
        }
        // Retained messages that wait were brought by subscriptions that may be gone.
        let left = Arc::clone(self.feed.subscriptions());
        if let Some(owed) = &mut self.owed {
            owed.greetings.retain(|greeting| left.iter().any(|s| s.filter == greeting.filter));
            owed.welcome.retain(|(delivery, _)| {
                MessageRef::decode(&delivery.record)
                    .is_ok_and(|message| left.iter().any(|s| s.filter.matches(message.topic)))
            });
        }
        self.broker.say_subscribed(&self.link, self.presence, "unsubscribed", &forbidden);
        self.publish_subscriptions();
        self.changed();
    }

    /// Lines up the retained messages that a subscription brings; gives the offset from which it
    /// gets what is published.
    fn welcome(&mut self, wanted: &Wanted, filter: &TopicFilter, known: bool) -> Offset {
        let broker = Arc::clone(&self.broker);
        let logged = self.session.until;
        let from = || broker.journal.durable().max(logged);
        let wild = wanted.filter.contains(['+', '#']);
        let wants = match wanted.retain_handling {
            0 => true,
            1 => !known,
            _ => false,
        };
        let wants = wants && (!wild || broker.settings.retained_wildcards);
        self.forget_greeting(filter);
        let Some(retained) = broker.retained.as_ref().filter(|_| wants) else { return from() };
        let index = retained.hold();
        // While the index is held, what it lacks is not below.
        let from = from();
        if index.matching(filter, from, broker.clock.now(), None).next().is_some() {
            let greeting = Greeting {
                filter: filter.clone(),
                qos: wanted.qos,
                no_local: wanted.no_local,
                identifier: wanted.identifier,
                until: from,
                after: None,
            };
            self.owed.get_or_insert_default().greetings.push_back(greeting);
        }
        from
    }

    /// Retained messages that are not lined up yet are not: the subscription is over, or begins
    /// anew. So there are never more greetings than subscriptions.
    fn forget_greeting(&mut self, filter: &TopicFilter) {
        if let Some(owed) = &mut self.owed {
            owed.greetings.retain(|greeting| greeting.filter != *filter);
        }
    }

    /// Has others see what is subscribed.
    pub(super) fn publish_subscriptions(&mut self) {
        let subscriptions = Arc::clone(self.feed.subscriptions());
        let shares = &self.session.shares;
        self.identified = subscriptions.iter().any(|s| s.options.identifier.is_some());
        let shared: Vec<_> = shares.iter().map(|share| Arc::clone(share.name())).collect();
        self.filter_bytes = subscriptions.iter().map(|s| s.filter.as_str().len()).sum::<usize>()
            + shared.iter().map(|name| name.len()).sum::<usize>();
        *lock(&self.link.subscribed) = Subscribed { subscriptions, shared };
    }
}
