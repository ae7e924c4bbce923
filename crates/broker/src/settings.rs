//! Every bound of the broker, in one place, with its default.

use base::{Error, Result, limits};
use serde::{Deserialize, Serialize};

use crate::rate::Limits;
use crate::subscription::FILTER_LEVELS_MAX;

/// Longest topic plus the properties allowed beside a payload of full size.
const HEAD_BYTES_MAX: usize = 80 * 1024;

/// The broker's settings, the `broker` table of `forebay.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Longest keep-alive in seconds. MQTT 5 clients that ask for more, or for none, are told
    /// this one; for MQTT 3.1.1 clients, who cannot be told, it applies silently (as on AWS).
    pub keep_alive_secs_max: u16,
    /// Shortest keep-alive in seconds: clients that ask for less are given this one. 0 takes what
    /// they ask for; AWS has 30.
    pub keep_alive_secs_min: u16,
    /// Topic aliases that one MQTT 5 connection may use, in each direction.
    pub topic_alias_max: u16,
    /// QoS 1 and 2 messages of one publisher that may await their acknowledgement. Announced
    /// to MQTT 5 clients; the socket of an MQTT 3.1.1 client is not read beyond it.
    pub receive_maximum: u16,
    /// QoS 2 messages of one publisher that may await their PUBREL; more end the connection.
    pub qos2_open_max: usize,
    /// Largest payload of a PUBLISH, in bytes.
    pub payload_bytes_max: usize,
    /// Messages a second of one connection; beyond, its socket is not read. 0 for any number; AWS
    /// has 100.
    pub publish_per_second_max: u32,
    /// Their bytes a second, likewise; AWS has 524288.
    pub publish_bytes_per_second_max: u64,
    /// Longest topic or filter, in bytes. MQTT has 65535, AWS 256.
    pub topic_bytes_max: usize,
    /// Levels of a topic or filter; 0 for any number in a topic and 128 in a filter. AWS has 8.
    pub topic_levels_max: usize,
    /// Longest client id, in bytes.
    pub client_id_bytes_max: usize,
    /// Largest CONNECT, in bytes: all that an unknown peer may make us keep.
    pub connect_bytes_max: usize,
    /// Connections at one time, over all listeners.
    pub connections_max: usize,
    /// Threads that serve connections; 0 for one for every two cores: the log, the subscribers
    /// and what is behind them need the others.
    pub connection_threads: usize,
    /// TLS handshakes and unfinished CONNECTs at one time.
    pub handshakes_max: usize,
    /// Seconds a peer has for its TLS handshake and CONNECT together.
    pub connect_secs_max: u64,
    /// Sessions kept, connected or not.
    pub sessions_max: usize,
    /// Seconds a disconnected session is kept at most; MQTT 3.1.1 sessions get all of it.
    pub session_expiry_secs_max: u32,
    /// Bytes of log beyond which it is not kept for sessions that are absent or slow: they then
    /// miss the oldest messages.
    pub session_log_bytes_max: u64,
    /// Subscriptions of one session.
    pub subscriptions_per_session_max: usize,
    /// Subscriptions asked for in one SUBSCRIBE; 0 for any number, AWS has 8.
    pub subscriptions_per_request_max: usize,
    /// QoS 1 and 2 messages sent to one subscriber and not acknowledged by it.
    pub in_flight_max: u16,
    /// Messages waiting in memory for one subscriber; a slower one reads from the log.
    pub mailbox_messages_max: usize,
    /// Bytes waiting in memory for one subscriber.
    pub mailbox_bytes_max: usize,
    /// Messages retained.
    pub retained_count_max: usize,
    /// Bytes of all retained messages, kept in memory.
    pub retained_bytes_max: usize,
    /// Whether a filter with wildcards brings the retained messages it selects, as MQTT has it;
    /// on AWS only a filter without wildcards does.
    pub retained_wildcards: bool,
    /// Whether a client that a policy refuses something is told so: the reason code "not
    /// authorized" and, on MQTT 5, which statement it was. If not, it gets "unspecified error";
    /// `forebay why client` and the log say it all the same.
    pub refusals_explained: bool,
    /// Whether connects, disconnects and subscriptions are published below `$aws/events/`.
    pub lifecycle_events: bool,
    /// Origins of web pages whose scripts may open a WebSocket without signing the request, as
    /// `https://example.org`; `*` for any. A browser lends every page the certificate of its
    /// user and the way to loopback, so there are none unless somebody names them. What calls
    /// itself a page of this very server, as some clients do, needs no entry over TLS, nor where
    /// it is addressed by number or as localhost.
    pub websocket_origins: Vec<String>,
    /// Bytes of the state of a device shadow, without its metadata.
    pub shadow_bytes_max: usize,
    /// Live taps (`forebay topic tail`) at one time.
    pub taps_max: usize,
    /// Seconds that pending acknowledgements get to leave at shutdown.
    pub drain_secs_max: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            keep_alive_secs_max: 1200,
            keep_alive_secs_min: 0,
            topic_alias_max: 16,
            receive_maximum: 1024,
            qos2_open_max: 4096,
            payload_bytes_max: limits::PAYLOAD_BYTES_MAX,
            publish_per_second_max: 0,
            publish_bytes_per_second_max: 0,
            topic_bytes_max: limits::TOPIC_BYTES_MAX,
            topic_levels_max: 0,
            client_id_bytes_max: limits::CLIENT_ID_BYTES_MAX,
            connect_bytes_max: 16 * 1024,
            connections_max: 18_000,
            connection_threads: 0,
            handshakes_max: 256,
            connect_secs_max: 10,
            sessions_max: 100_000,
            session_expiry_secs_max: 7 * 24 * 3600,
            session_log_bytes_max: 1024 * 1024 * 1024,
            subscriptions_per_session_max: 1000,
            subscriptions_per_request_max: 0,
            in_flight_max: 256,
            mailbox_messages_max: 1024,
            mailbox_bytes_max: 256 * 1024,
            retained_count_max: 100_000,
            retained_bytes_max: 64 * 1024 * 1024,
            retained_wildcards: true,
            refusals_explained: true,
            lifecycle_events: true,
            websocket_origins: Vec::new(),
            shadow_bytes_max: 8192,
            taps_max: 64,
            drain_secs_max: 5,
        }
    }
}

impl Settings {
    /// Refuses values under which the broker could not work.
    pub fn check(&self) -> Result<()> {
        let positive = [
            ("keep_alive_secs_max", usize::from(self.keep_alive_secs_max)),
            ("receive_maximum", usize::from(self.receive_maximum)),
            ("qos2_open_max", self.qos2_open_max),
            ("payload_bytes_max", self.payload_bytes_max),
            ("connections_max", self.connections_max),
            ("handshakes_max", self.handshakes_max),
            ("sessions_max", self.sessions_max),
            ("subscriptions_per_session_max", self.subscriptions_per_session_max),
            ("in_flight_max", usize::from(self.in_flight_max)),
            ("topic_bytes_max", self.topic_bytes_max),
            ("client_id_bytes_max", self.client_id_bytes_max),
            ("mailbox_messages_max", self.mailbox_messages_max),
            ("mailbox_bytes_max", self.mailbox_bytes_max),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(Error::invalid(format!("broker.{name} is 0; give at least 1")));
        }
        let bounded = [
            ("topic_bytes_max", self.topic_bytes_max, limits::TOPIC_BYTES_MAX),
            ("topic_levels_max", self.topic_levels_max, FILTER_LEVELS_MAX),
            ("client_id_bytes_max", self.client_id_bytes_max, limits::CLIENT_ID_BYTES_MAX),
        ];
        if let Some((name, value, most)) = bounded.iter().find(|(_, value, most)| value > most) {
            return Err(Error::invalid(format!(
                "broker.{name} is {value}; at most {most} are taken"
            )));
        }
        if self.keep_alive_secs_min > self.keep_alive_secs_max {
            return Err(Error::invalid(format!(
                "broker.keep_alive_secs_min is {}, more than keep_alive_secs_max, {}",
                self.keep_alive_secs_min, self.keep_alive_secs_max
            )));
        }
        if self.connect_secs_max == 0 {
            return Err(Error::invalid("broker.connect_secs_max is 0; give at least 1"));
        }
        if self.connect_bytes_max < 256 {
            return Err(Error::invalid(format!(
                "broker.connect_bytes_max is {}; a CONNECT needs at least 256",
                self.connect_bytes_max
            )));
        }
        if !(1..=64 * 1024).contains(&self.shadow_bytes_max) {
            return Err(Error::invalid(format!(
                "broker.shadow_bytes_max is {}; give 1 to 65536",
                self.shadow_bytes_max
            )));
        }
        if self.connection_threads > 256 {
            return Err(Error::invalid(format!(
                "broker.connection_threads is {}; give 1 to 256, or 0 to have it chosen",
                self.connection_threads
            )));
        }
        // MQTT's own bound on a packet is 256 MiB.
        if self.payload_bytes_max > 128 * 1024 * 1024 {
            return Err(Error::invalid(format!(
                "broker.payload_bytes_max is {}; at most 134217728 is possible",
                self.payload_bytes_max
            )));
        }
        Ok(())
    }

    /// How many threads serve connections.
    pub(crate) fn threads(&self) -> usize {
        match self.connection_threads {
            0 => std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2)),
            count => count,
        }
    }

    /// Why a topic or filter is longer or deeper than is taken.
    pub(crate) fn refuses_topic(&self, topic: &str) -> Option<String> {
        let (bytes, most) = (topic.len(), self.topic_bytes_max);
        if bytes > most {
            return Some(format!("a topic of {bytes} bytes; at most {most} are taken"));
        }
        let most = self.topic_levels_max;
        let levels = if most > 0 { topic.split('/').count() } else { 0 };
        (levels > most).then(|| format!("a topic of {levels} levels; at most {most} are taken"))
    }

    /// What one client may publish.
    pub(crate) fn rate(&self) -> Limits {
        Limits { messages: self.publish_per_second_max, bytes: self.publish_bytes_per_second_max }
    }

    /// The reason code of what a policy refuses (MQTT 5, 2.4).
    pub(crate) fn refusal_code(&self) -> u8 {
        if self.refusals_explained { 0x87 } else { 0x80 }
    }

    /// Largest packet a connected client may send: what MQTT 5 announces.
    pub fn packet_bytes_max(&self) -> usize {
        self.payload_bytes_max + HEAD_BYTES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_may_name_some_settings_but_no_unknown_ones() {
        let some: Settings = toml::from_str("receive_maximum = 7").unwrap();
        assert_eq!(some, Settings { receive_maximum: 7, ..Settings::default() });
        let unknown = toml::from_str::<Settings>("recieve_maximum = 7").unwrap_err();
        assert!(unknown.to_string().contains("recieve_maximum"));
    }

    #[test]
    fn the_defaults_pass_and_zeros_do_not() {
        Settings::default().check().unwrap();
        let broken = Settings { receive_maximum: 0, ..Settings::default() };
        assert!(broken.check().unwrap_err().to_string().contains("receive_maximum"));
    }
}
