//! Says who comes, goes and subscribes, as AWS IoT's lifecycle events do: messages of ours in
//! the log, below `$aws/events/`, for rules and subscribers. They are news and no record: when
//! the log takes nothing they are left out, and a kill says nothing at all.

use std::sync::atomic::Ordering;

use base::{MessageRef, QoS, TopicName};
use journal::Batch;
use mqtt_protocol_core::mqtt::result_code::DisconnectReasonCode as Code;
use serde::Serialize;
use tracing::debug;
use uuid::Uuid;

use crate::connection::Ending;
use crate::sessions::{Kick, Link};
use crate::{Broker, Concern};

/// Below this clients may subscribe.
pub(crate) const EVENTS: &str = "$aws/events/";

/// Who the log says published them.
const PRINCIPAL: &str = "aws-iot";

/// One connection, by the names that its events have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Presence {
    session: Uuid,
    /// Grows from connection to connection.
    version: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Event<'a> {
    client_id: &'a str,
    timestamp: i64,
    event_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_initiated_disconnect: Option<bool>,
    session_identifier: String,
    principal_identifier: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    disconnect_reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ip_address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_number: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topics: Option<&'a [String]>,
}

/// AWS's word for the end of a connection, and whether it was the client's doing.
fn reason(ending: &Ending) -> (&'static str, bool) {
    match ending {
        Ending::Left { .. } => ("CLIENT_INITIATED_DISCONNECT", true),
        Ending::Lost => ("CONNECTION_LOST", false),
        Ending::Fault(fault) if fault.code == Code::NotAuthorized => ("FORBIDDEN_ACCESS", false),
        Ending::Fault(_) => ("CLIENT_ERROR", false),
        Ending::KeepAlive => ("MQTT_KEEP_ALIVE_TIMEOUT", false),
        Ending::Kicked(Kick::TakenOver) => ("DUPLICATE_CLIENTID", false),
        Ending::Kicked(Kick::Revoked) => ("AUTH_ERROR", false),
        Ending::Kicked(Kick::NotAllowed) => ("FORBIDDEN_ACCESS", false),
        Ending::Kicked(Kick::Administrative | Kick::Shutdown) => {
            ("SERVER_INITIATED_DISCONNECT", false)
        }
        Ending::Journal(_) | Ending::Unkept(_) => ("SERVER_ERROR", false),
    }
}

impl Broker {
    /// Names a new connection.
    pub(crate) fn presence(&self) -> Presence {
        // Of time, so that it grows over restarts, too.
        let now = u64::try_from(self.clock.now().0).unwrap_or_default();
        let next = |last: u64| Some(now.max(last + 1));
        let last = self.presences.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next);
        let last = last.unwrap_or_else(|last| last);
        Presence { session: Uuid::new_v4(), version: now.max(last + 1) }
    }

    pub(crate) fn say_connected(&self, link: &Link, presence: Presence) {
        self.say("presence", link, presence, |event| {
            event.event_type = "connected";
            event.ip_address = Some(link.peer.ip().to_string());
            event.version_number = Some(presence.version);
        });
    }

    pub(crate) fn say_disconnected(&self, link: &Link, presence: Presence, ending: &Ending) {
        self.say("presence", link, presence, |event| {
            let (reason, by_client) = reason(ending);
            event.event_type = "disconnected";
            event.client_initiated_disconnect = Some(by_client);
            event.disconnect_reason = Some(reason);
            event.version_number = Some(presence.version);
        });
    }

    /// `event_type` is `subscribed` or `unsubscribed`.
    pub(crate) fn say_subscribed(
        &self,
        link: &Link,
        presence: Presence,
        event_type: &'static str,
        topics: &[String],
    ) {
        if topics.is_empty() {
            return;
        }
        self.say("subscriptions", link, presence, |event| {
            event.event_type = event_type;
            event.topics = Some(topics);
        });
    }

    fn say<'a>(
        &self,
        family: &str,
        link: &'a Link,
        presence: Presence,
        fill: impl FnOnce(&mut Event<'a>),
    ) where
        Self: 'a,
    {
        if !self.settings.lifecycle_events {
            return;
        }
        let now = self.clock.now();
        let mut event = Event {
            client_id: &link.client_id,
            timestamp: now.0,
            event_type: "",
            client_initiated_disconnect: None,
            session_identifier: presence.session.to_string(),
            principal_identifier: &link.identity.principal,
            disconnect_reason: None,
            ip_address: None,
            version_number: None,
            topics: None,
        };
        fill(&mut event);
        let topic = format!("{EVENTS}{family}/{}/{}", event.event_type, link.client_id);
        let payload = match serde_json::to_vec(&event) {
            Ok(payload) if TopicName::parse(&topic).is_ok() => payload,
            // A client id with a wildcard, for instance.
            _ => return debug!(topic, "an event without a topic is left out"),
        };
        let message = MessageRef {
            topic: &topic,
            payload: &payload,
            client_id: "",
            principal: PRINCIPAL,
            received_at: now,
            qos: QoS::AtLeastOnce,
            retain: false,
        };
        let mut batch = Batch::new();
        let said = batch
            .push(|out| message.encode_into(out))
            .and_then(|()| self.append(&batch, None, Concern::default()));
        match said {
            Ok(_) => self.counters.events.one(),
            Err(cause) => {
                self.counters.events_left_out.one();
                debug!(topic, %cause, "an event is left out");
            }
        }
    }
}
