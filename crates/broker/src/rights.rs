//! Where a connection asks what its client may do, and what happens when it may not.

use std::sync::Arc;

use base::QoS;
use mqtt_protocol_core::mqtt::result_code::DisconnectReasonCode as Code;

use crate::Broker;
use crate::auth::{Action, Client, Explanation, Remembered, Rights};
use crate::codec::{Fault, Publish, Version, Will, ack};
use crate::connection::{Connection, Ending, Work};
use crate::refusals::Refused;
use crate::sessions::{Departed, Kick};

/// Bytes of an explanation that are told to a client.
const TOLD_BYTES_MAX: usize = 400;

/// What a connection may do, and the topics it asked for last; `None` for everything, so that
/// it costs a pointer where there are no policies.
#[derive(Debug, Default)]
pub(crate) struct Held(Option<Box<Bound>>);

#[derive(Debug)]
struct Bound {
    rights: Arc<dyn Rights>,
    published: Remembered,
    retained: Remembered,
    received: Remembered,
    /// Deliveries withheld, so that the record is not asked for each.
    withheld: Remembered,
}

impl Held {
    pub(crate) fn new(rights: Option<Arc<dyn Rights>>) -> Held {
        Held(rights.map(|rights| {
            Box::new(Bound {
                rights,
                published: Remembered::default(),
                retained: Remembered::default(),
                received: Remembered::default(),
                withheld: Remembered::default(),
            })
        }))
    }

    fn allows(&mut self, action: Action, name: &str) -> bool {
        let Some(bound) = &mut self.0 else { return true };
        let rights = &bound.rights;
        let remembered = match action {
            Action::Publish => &mut bound.published,
            Action::RetainPublish => &mut bound.retained,
            Action::Receive => &mut bound.received,
            Action::Connect | Action::Subscribe => return rights.allows(action, name),
        };
        if remembered.holds(name) {
            return true;
        }
        let allowed = rights.allows(action, name);
        if allowed {
            remembered.note(name);
        }
        allowed
    }

    fn explain(&self, action: Action, name: &str) -> Explanation {
        self.0.as_ref().map(|bound| bound.rights.explain(action, name)).unwrap_or_default()
    }

    /// True the first time that a delivery of this topic is withheld, within the last few.
    fn withhold(&mut self, topic: &str) -> bool {
        let Some(bound) = &mut self.0 else { return false };
        let first = !bound.withheld.holds(topic);
        if first {
            bound.withheld.note(topic);
        }
        first
    }
}

/// What a CONNECT asks for that its client may not do.
pub(crate) fn refused_connect(
    rights: &dyn Rights,
    client_id: &str,
    will: Option<&Will>,
) -> Option<(Action, String)> {
    let mut asks = vec![(Action::Connect, client_id)];
    if let Some(will) = will {
        asks.push((Action::Publish, will.topic.as_str()));
        if will.retain {
            asks.push((Action::RetainPublish, will.topic.as_str()));
        }
    }
    let refused = asks.into_iter().find(|(action, name)| !rights.allows(*action, name));
    refused.map(|(action, name)| (action, name.to_owned()))
}

impl Broker {
    /// Whether a will may be published: by the rights that its client would have now, wherever
    /// they stood when it left.
    pub(crate) fn may_leave(&self, departed: &Departed, will: &Will) -> bool {
        let Departed { client_id, identity, address, persistent } = departed;
        let principal = Some(identity.principal.as_str());
        if let Err(refusal) = self.auth.standing(identity) {
            let why = Explanation { text: refusal.message, ..Explanation::default() };
            let asked = (Some(Action::Publish), will.topic.as_str());
            self.note_refusal(client_id, principal, "certificate", asked, why);
            return false;
        }
        let rights = self.auth.rights(&Client {
            identity,
            client_id,
            address: *address,
            persistent: *persistent,
            last_will: true,
        });
        let Some(rights) = rights else { return true };
        let Some((action, name)) = refused_connect(&*rights, client_id, Some(will)) else {
            return true;
        };
        self.counters.refused_policy.one();
        let why = rights.explain(action, &name);
        self.note_refusal(client_id, principal, "policy", (Some(action), &name), why);
        false
    }

    /// Puts a refusal on record.
    pub(crate) fn note_refusal(
        &self,
        client_id: &str,
        principal: Option<&str>,
        reason: &'static str,
        asked: (Option<Action>, &str),
        why: Explanation,
    ) {
        let at = self.clock.now();
        let refused = Refused {
            at,
            since: at,
            times: 1,
            principal: principal.map(str::to_owned),
            reason,
            action: asked.0,
            name: asked.1.to_owned(),
            why,
        };
        self.refusals.refused(client_id, refused);
    }
}

/// As much of an explanation as fits a reason string.
pub(crate) fn told(text: &str) -> String {
    let end = text.floor_char_boundary(TOLD_BYTES_MAX);
    if end == text.len() { text.to_owned() } else { format!("{}...", &text[..end]) }
}

impl Connection {
    /// Asks for the rights again if they may have changed.
    pub(crate) fn refresh_rights(&mut self) -> Result<(), Ending> {
        if !self.link.take_stale() {
            return Ok(());
        }
        let rights = self.broker.auth.rights(&Client {
            identity: &self.link.identity,
            client_id: &self.link.client_id,
            address: Some(self.link.peer.ip()),
            persistent: self.session.kept_for.is_some(),
            last_will: self.will.is_some(),
        });
        self.rights = Held::new(rights);
        let client_id = Arc::clone(&self.link.client_id);
        if !self.rights.allows(Action::Connect, &client_id) {
            self.refused(Action::Connect, &client_id);
            return Err(Ending::Kicked(Kick::NotAllowed));
        }
        let forbidden = self.will.as_deref().and_then(|will| {
            let bound = self.rights.0.as_deref()?;
            refused_connect(&*bound.rights, &client_id, Some(will))
        });
        if let Some((action, topic)) = forbidden {
            self.will = None;
            self.refused(action, &topic);
        }
        self.end_forbidden();
        Ok(())
    }

    /// Whether the client may publish this, and if not, tells it. 3.1.1 and QoS 0 have no way
    /// to say no but to close.
    pub(crate) fn may_publish(
        &mut self,
        topic: &str,
        publish: &Publish<'_>,
        work: &mut Work,
    ) -> Result<bool, Ending> {
        let action = if !self.rights.allows(Action::Publish, topic) {
            Action::Publish
        } else if publish.retain && !self.rights.allows(Action::RetainPublish, topic) {
            Action::RetainPublish
        } else {
            return Ok(true);
        };
        self.broker.counters.refused_policy.one();
        let why = told(&self.refused(action, topic));
        if self.version == Version::V4 || publish.qos == QoS::AtMostOnce {
            return Err(Fault::new(Code::NotAuthorized, why).into());
        }
        self.flush(work)?;
        let head = if publish.qos == QoS::AtLeastOnce { ack::PUBACK } else { ack::PUBREC };
        let code = self.broker.settings.refusal_code();
        self.refuse_with(head, publish.packet_id, code, why);
        Ok(false)
    }

    /// Why the client may not subscribe, or `None`.
    pub(crate) fn may_not_subscribe(&mut self, filter: &str) -> Option<String> {
        if self.rights.allows(Action::Subscribe, filter) {
            return None;
        }
        self.broker.counters.refused_subscribe.one();
        Some(told(&self.refused(Action::Subscribe, filter)))
    }

    /// Whether the client may be sent a message of this topic; if not, that is on record.
    pub(crate) fn receives(&mut self, topic: &str) -> bool {
        if self.rights.allows(Action::Receive, topic) {
            return true;
        }
        if self.rights.withhold(topic) {
            self.refused(Action::Receive, topic);
        }
        false
    }

    fn refused(&self, action: Action, name: &str) -> String {
        let why = self.rights.explain(action, name);
        let text = why.text.clone();
        let principal = Some(self.link.identity.principal.as_str());
        let asked = (Some(action), name);
        self.broker.note_refusal(&self.link.client_id, principal, "policy", asked, why);
        text
    }
}
