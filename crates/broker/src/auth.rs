//! The seam to whoever knows the devices: a certificate becomes an identity, or is refused.

use std::fmt;
use std::sync::Arc;

/// Who is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Hex SHA-256 of the certificate's DER, or `anonymous`.
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
    /// The identity behind a certificate that TLS has already verified against our authority.
    fn certificate(&self, der: &[u8]) -> Result<Identity, Refusal>;

    /// The identity of a client on a plain listener, if those are allowed.
    fn anonymous(&self) -> Result<Identity, Refusal>;
}

/// How a peer arrived; kept until its session is registered.
#[derive(Clone)]
pub(crate) enum Credential {
    Anonymous,
    Certificate(Arc<[u8]>),
}

impl Credential {
    pub(crate) fn check(&self, auth: &dyn Authenticator) -> Result<Identity, Refusal> {
        match self {
            Credential::Anonymous => auth.anonymous(),
            Credential::Certificate(der) => auth.certificate(der),
        }
    }
}
