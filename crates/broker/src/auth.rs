//! The seam to whoever knows the devices: a certificate becomes an identity, or is refused.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use base::Timestamp;
use serde::Serialize;

/// Who is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Hex SHA-256 of the certificate's DER, the user id of whoever signed, or `anonymous`.
    pub principal: String,
    /// The thing the certificate is attached to.
    pub thing_name: Option<String>,
}

/// Why somebody may not connect. Goes to the log, never to the peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// A bounded word for the metric, for instance `unknown`, `inactive`, `revoked`.
    pub reason: &'static str,
    /// The whole story.
    pub message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Decides who may connect. Called at the end of every handshake and once more after the
/// session is registered, so that a revocation between the two is seen. Must not block on I/O
/// for long: it runs on the connection's task.
pub trait Authenticator: Send + Sync {
    /// The identity behind a certificate that TLS has already verified: its signature by our
    /// authority, or its registration, and in either case that the peer holds its key.
    fn certificate(&self, der: &[u8]) -> Result<Identity, Refusal>;

    /// Whether somebody who was let in would be let in still, and until when if that is known.
    /// Asked before a session is registered, and before a will is published: by then its client
    /// is gone, and nobody told it of a revocation.
    fn standing(&self, _identity: &Identity) -> Result<Option<Timestamp>, Refusal> {
        Ok(None)
    }

    /// The identity of a client without a certificate on a listener that demands none, if those
    /// are allowed.
    fn anonymous(&self) -> Result<Identity, Refusal>;

    /// The identity behind the signature of a request that asks for a WebSocket; `None` if it
    /// bears none.
    fn signed(&self, _request: &http::Request<()>) -> Option<Result<Identity, Refusal>> {
        None
    }

    /// What a client may do; `None` for everything. Asked when it connects and again after
    /// [`Broker::rights_changed`](crate::Broker::rights_changed).
    fn rights(&self, _client: &Client<'_>) -> Option<Arc<dyn Rights>> {
        None
    }
}

/// A client whose rights are asked for.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Who it is.
    pub identity: &'a Identity,
    /// The MQTT client identifier.
    pub client_id: &'a str,
    /// Where it connects from, or did last; `None` if that is not known any more.
    pub address: Option<IpAddr>,
    /// Whether its session outlives the connection.
    pub persistent: bool,
    /// Whether it left a will.
    pub last_will: bool,
}

/// What a client may want to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Connect under a client id.
    Connect,
    /// Publish to a topic.
    Publish,
    /// Have a message retained under a topic, in addition to publishing it.
    RetainPublish,
    /// Subscribe to a topic filter, named as it was sent.
    Subscribe,
    /// Be sent a message of a topic.
    Receive,
}

/// What one client may do. Does not change: after a change there is a new one.
pub trait Rights: Send + Sync + fmt::Debug {
    /// Whether `action` on `name` is permitted. Asked for every message whose topic is not one
    /// of the last few; must not allocate.
    fn allows(&self, action: Action, name: &str) -> bool;

    /// Why it is not permitted, in words that may be told to the client.
    fn explain(&self, action: Action, name: &str) -> Explanation;
}

/// Why something is not permitted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The ARN of what was asked for.
    pub resource: String,
    /// The whole story in one line.
    pub text: String,
    /// The policy that decided, or came nearest.
    pub policy: Option<String>,
    /// Its version.
    pub version: Option<u32>,
    /// Which of its statements, from 1.
    pub statement: Option<usize>,
    /// That statement's `Sid`.
    pub sid: Option<String>,
}

/// Answers for the last few topics, so that a device that keeps to them costs one comparison.
/// The strings are used again: once they have grown, nothing is allocated.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    topics: Vec<String>,
    next: usize,
}

impl Remembered {
    const COUNT_MAX: usize = 4;
    /// Longer ones are decided each time.
    const BYTES_MAX: usize = 256;

    pub(crate) fn holds(&self, topic: &str) -> bool {
        self.topics.iter().any(|known| known == topic)
    }

    pub(crate) fn note(&mut self, topic: &str) {
        if topic.len() > Self::BYTES_MAX {
            return;
        }
        if self.topics.len() < Self::COUNT_MAX {
            self.topics.push(topic.to_owned());
            return;
        }
        self.topics[self.next].clear();
        self.topics[self.next].push_str(topic);
        self.next = (self.next + 1) % Self::COUNT_MAX;
    }
}

/// How a peer arrived; kept until its session is registered.
#[derive(Clone)]
pub(crate) enum Credential {
    Anonymous,
    Certificate(Arc<[u8]>),
    /// The request that asked for the WebSocket.
    Signed(Arc<http::Request<()>>),
}

impl Credential {
    pub(crate) fn check(&self, auth: &dyn Authenticator) -> Result<Identity, Refusal> {
        match self {
            Credential::Anonymous => auth.anonymous(),
            Credential::Certificate(der) => auth.certificate(der),
            Credential::Signed(request) => auth.signed(request).unwrap_or_else(|| auth.anonymous()),
        }
    }
}
