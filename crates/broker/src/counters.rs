//! What the broker counts. The whole list, with names and help, is the table below.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// One figure for the metrics page.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The Prometheus name; `_total` names count up, others are gauges.
    pub name: &'static str,
    /// The label pair, already written, or empty.
    pub labels: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// The figure.
    pub value: u64,
}

macro_rules! counters {
    ($($field:ident: $name:literal, $labels:literal, $help:literal;)*) => {
        /// The live counters.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $field: Counter,)*
        }

        /// The counters at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Stats {
            $(#[doc = $help] pub $field: u64,)*
        }

        impl Counters {
            pub(crate) fn stats(&self) -> Stats {
                Stats { $($field: self.$field.get(),)* }
            }
        }

        impl Stats {
            /// Every figure with its name, labels and help.
            pub fn metrics(&self) -> Vec<Metric> {
                vec![$(Metric { name: $name, labels: $labels, help: $help, value: self.$field },)*]
            }
        }
    };
}

counters! {
    // Read first, so that no page shows more answers than messages.
    acknowledged: "broker_messages_acknowledged_total", "", "PUBACKs and PUBRECs sent for messages on stable storage. Of QoS 1 and 2, received = acknowledged + refused + unanswered + under way.";
    received_qos0: "broker_messages_received_total", "qos=\"0\"", "Messages received, by quality of service.";
    received_qos1: "broker_messages_received_total", "qos=\"1\"", "Messages received, by quality of service.";
    received_qos2: "broker_messages_received_total", "qos=\"2\"", "Messages received, by quality of service.";
    logged: "broker_messages_logged_total", "", "Messages handed to the journal.";
    repeated: "broker_messages_repeated_total", "", "Resent messages recognised and not logged again.";
    delivered_qos0: "broker_messages_delivered_total", "qos=\"0\"", "Messages sent to subscribers, by quality of service.";
    delivered_qos1: "broker_messages_delivered_total", "qos=\"1\"", "Messages sent to subscribers, by quality of service.";
    delivered_qos2: "broker_messages_delivered_total", "qos=\"2\"", "Messages sent to subscribers, by quality of service.";
    refused_topic: "broker_messages_refused_total", "reason=\"topic\"", "Messages refused, by reason.";
    refused_retain: "broker_messages_refused_total", "reason=\"retain\"", "Messages refused, by reason.";
    refused_policy: "broker_messages_refused_total", "reason=\"policy\"", "Messages refused, by reason.";
    refused_size: "broker_messages_refused_total", "reason=\"size\"", "Messages refused, by reason.";
    refused_quota: "broker_messages_refused_total", "reason=\"quota\"", "Messages refused, by reason.";
    refused_alias: "broker_messages_refused_total", "reason=\"alias\"", "Messages refused, by reason.";
    unanswered: "broker_messages_unanswered_total", "", "Messages of QoS 1 and 2 whose connection ended before their acknowledgement could leave; the client sends them again.";
    refused_journal: "broker_messages_refused_total", "reason=\"journal\"", "Messages refused, by reason.";
    undelivered_policy: "broker_deliveries_skipped_total", "reason=\"policy\"", "Messages not sent to a subscriber, by reason.";
    undelivered_size: "broker_deliveries_skipped_total", "reason=\"size\"", "Messages not sent to a subscriber, by reason.";
    undelivered_expired: "broker_deliveries_skipped_total", "reason=\"expired\"", "Messages not sent to a subscriber, by reason.";
    undelivered_trimmed: "broker_deliveries_skipped_total", "reason=\"trimmed\"", "Messages not sent to a subscriber, by reason.";
    undelivered_corrupt: "broker_deliveries_skipped_total", "reason=\"corrupt\"", "Messages not sent to a subscriber, by reason.";
    dealt_again: "broker_shared_messages_dealt_again_total", "", "Messages of shared subscriptions that a member gave back for another.";
    fell_behind: "broker_subscribers_behind_total", "", "Times a subscriber was too slow for its mailbox and went on from the log.";
    bytes_in: "broker_bytes_received_total", "", "Bytes read from sockets.";
    bytes_out: "broker_bytes_sent_total", "", "Bytes written to sockets.";
    connections: "broker_connections", "", "Connections now, before and after CONNECT.";
    connections_total: "broker_connections_accepted_total", "", "Connections accepted.";
    refused_limit: "broker_connections_refused_total", "reason=\"limit\"", "Connections refused, by reason.";
    refused_handshake: "broker_connections_refused_total", "reason=\"handshake\"", "Connections refused, by reason.";
    refused_identity: "broker_connections_refused_total", "reason=\"identity\"", "Connections refused, by reason.";
    refused_connect: "broker_connections_refused_total", "reason=\"connect\"", "Connections refused, by reason.";
    refused_connect_policy: "broker_connections_refused_total", "reason=\"policy\"", "Connections refused, by reason.";
    refused_subscribe: "broker_subscriptions_refused_total", "reason=\"policy\"", "Subscriptions refused by a policy.";
    closed_policy: "broker_connections_closed_total", "reason=\"policy\"", "Connections closed by us, by reason.";
    closed_protocol: "broker_connections_closed_total", "reason=\"protocol\"", "Connections closed by us, by reason.";
    closed_keep_alive: "broker_connections_closed_total", "reason=\"keep_alive\"", "Connections closed by us, by reason.";
    closed_taken_over: "broker_connections_closed_total", "reason=\"taken_over\"", "Connections closed by us, by reason.";
    closed_revoked: "broker_connections_closed_total", "reason=\"revoked\"", "Connections closed by us, by reason.";
    closed_journal: "broker_connections_closed_total", "reason=\"journal\"", "Connections closed by us, by reason.";
    held_back: "broker_connections_held_back_total", "", "Times a socket was not read because the journal was full.";
    sessions: "broker_sessions", "", "Sessions now, connected or kept.";
    sessions_expired: "broker_sessions_expired_total", "", "Kept sessions that reached their expiry.";
    session_rows: "broker_session_rows_written_total", "", "Rows written of sessions that outlive their connection.";
    shadows_accepted: "broker_shadow_requests_total", "outcome=\"accepted\"", "Requests to device shadows, by outcome.";
    shadows_rejected: "broker_shadow_requests_total", "outcome=\"rejected\"", "Requests to device shadows, by outcome.";
    shadows_said: "broker_shadow_messages_total", "", "Messages published about device shadows.";
    events: "broker_events_total", "outcome=\"published\"", "Lifecycle events, by outcome.";
    events_left_out: "broker_events_total", "outcome=\"left_out\"", "Lifecycle events, by outcome.";
    wills: "broker_wills_published_total", "", "Will messages published.";
    accept_failed: "broker_accepts_failed_total", "", "Accepts that failed, for instance for want of descriptors.";
}

/// A figure that many tasks add to.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn one(&self) {
        self.add(1);
    }

    pub(crate) fn less(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_template_and_pairs_are_unique() {
        let mut seen = std::collections::BTreeSet::new();
        for metric in Stats::default().metrics() {
            assert!(metric.name.starts_with("broker_"), "{}", metric.name);
            assert!(seen.insert((metric.name, metric.labels)), "{} twice", metric.name);
        }
    }
}
