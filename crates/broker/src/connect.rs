//! From an accepted socket to a connected client: TLS, identity, CONNECT.
//!
//! Invariants
//! * No MQTT byte is looked at before the certificate's fingerprint was looked up.
//! * An unknown peer makes us keep at most `connect_bytes_max` bytes, all of them received, for
//!   at most `connect_secs_max` seconds; a first byte that is not CONNECT's ends it at once.
//! * A revocation that falls between the look-up and the registration is seen: the identity is
//!   checked again once the session is registered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use mqtt_protocol_core::mqtt::result_code::{ConnectReasonCode as Code, DisconnectReasonCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::Broker;
use crate::auth::{Action, Client, Credential, Explanation, Identity, Refusal};
use crate::codec::{self, Connect, ConnectError, Fault, Version, Will, kind};
use crate::connection::{Connection, Opening, Transport, part};
use crate::kept::{Extra, SessionRow};
use crate::listen::Place;
use crate::rights::{Held, refused_connect, told};
use crate::session::Session;
use crate::sessions::{Link, Taken};

/// A client that takes packets of this size takes every CONNACK.
const CONNACK_BYTES_MAX: usize = 256;

/// A peer whose transport stands and who has not said CONNECT.
pub(crate) struct Peer<'a> {
    pub(crate) stream: Box<dyn Transport>,
    pub(crate) address: SocketAddr,
    pub(crate) credential: Credential,
    /// For a plain listener a refusal is said in MQTT, after CONNECT.
    pub(crate) identity: Result<Identity, Refusal>,
    /// Says when its time for CONNECT is over.
    pub(crate) place: Place<'a>,
}

/// A CONNECT that is refused, with the answer due.
struct Refused {
    answer: Vec<u8>,
    why: String,
}

impl Refused {
    fn silently(why: impl Into<String>) -> Refused {
        Refused { answer: Vec::new(), why: why.into() }
    }

    fn with(version: Version, code: Code, why: impl Into<String>) -> Refused {
        Refused { answer: codec::farewell(version, code), why: why.into() }
    }
}

/// Brings a peer to a connection ready to run, or answers why not.
pub(crate) async fn admit(broker: &Arc<Broker>, mut peer: Peer<'_>) -> Option<Box<Connection>> {
    let refused = match read_connect(broker, &mut peer).await {
        Ok((connect, rest)) => match open(broker, &peer, connect).await {
            Ok(accepted) => return Some(accepted.into_connection(broker, peer.stream, rest)),
            Err(refused) => refused,
        },
        Err(refused) => refused,
    };
    broker.counters.refused_connect.one();
    info!(peer = %peer.address, why = %refused.why, "connection refused");
    part(&mut *peer.stream, &refused.answer, !refused.answer.is_empty()).await;
    None
}

impl Broker {
    /// Serves a client without a certificate over a stream that stands already, for instance one
    /// in memory, until it goes or must go. `address` is where it counts as coming from. How many
    /// there are is for the caller to bound: `connections_max` is about sockets.
    pub async fn serve_stream(
        self: &Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Send + Sync + Unpin + 'static,
        address: SocketAddr,
    ) {
        let deadline = Instant::now() + Duration::from_secs(self.settings.connect_secs_max);
        let Some(place) = Place::take(self, deadline).await else {
            return self.counters.refused_limit.one();
        };
        let peer = Peer {
            stream: Box::new(stream),
            address,
            credential: Credential::Anonymous,
            identity: Credential::Anonymous.check(&*self.auth),
            place,
        };
        if let Some(connection) = Box::pin(admit(self, peer)).await {
            connection.run().await;
        }
    }
}

async fn read_connect(broker: &Broker, peer: &mut Peer<'_>) -> Result<(Connect, Vec<u8>), Refused> {
    let bytes_max = broker.settings.connect_bytes_max;
    let mut input = Vec::new();
    loop {
        // Doubling from small, so that what is kept follows what was received.
        input.reserve(256.max(input.len()));
        let read = peer.place.within(peer.stream.read_buf(&mut input)).await;
        match read {
            None => return Err(Refused::silently("no CONNECT in time")),
            Some(Err(cause)) => return Err(Refused::silently(format!("socket failed: {cause}"))),
            Some(Ok(0)) => return Err(Refused::silently("closed before CONNECT")),
            Some(Ok(bytes)) => broker.counters.bytes_in.add(bytes as u64),
        }
        if input[0] != kind::CONNECT << 4 {
            let why = format!("the first byte is {:#04x}, not CONNECT", input[0]);
            return Err(Refused::silently(why));
        }
        let frame = match codec::frame(&input, bytes_max) {
            Ok(Some(frame)) => frame,
            Ok(None) => continue,
            Err(fault) => return Err(Refused::silently(fault.why)),
        };
        let connect = codec::connect(&frame).map_err(refusal)?;
        let used = frame.bytes;
        input.drain(..used);
        return Ok((connect, input));
    }
}

fn refusal(error: ConnectError) -> Refused {
    match error {
        ConnectError::Noise(why) => Refused::silently(why),
        ConnectError::Level(level) => {
            let version = if level > 5 { Version::V5 } else { Version::V4 };
            let why = format!("protocol level {level}; 4 and 5 are spoken");
            Refused::with(version, Code::UnsupportedProtocolVersion, why)
        }
        ConnectError::Fault(version, Fault { code, why }) => {
            let code = match code {
                DisconnectReasonCode::ProtocolError => Code::ProtocolError,
                _ => Code::MalformedPacket,
            };
            Refused::with(version, code, why)
        }
    }
}

/// All of a connection but its socket.
struct Accepted {
    version: Version,
    link: Arc<Link>,
    session: Session,
    connect: Connect,
    rights: Held,
    keep_alive: Duration,
    connack: Vec<u8>,
}

impl Accepted {
    fn into_connection(
        self,
        broker: &Arc<Broker>,
        stream: Box<dyn Transport>,
        rest: Vec<u8>,
    ) -> Box<Connection> {
        let opening = Opening {
            stream,
            version: self.version,
            link: self.link,
            session: self.session,
            will: self.connect.will,
            rights: self.rights,
            packet_bytes_max: self.connect.packet_bytes_max,
            topic_alias_max: self.connect.topic_alias_max,
            problem_information: self.connect.problem_information,
            receive_maximum: self.connect.receive_maximum,
            keep_alive: self.keep_alive,
            rest,
            connack: self.connack,
        };
        Connection::new(Arc::clone(broker), opening)
    }
}

async fn open(
    broker: &Arc<Broker>,
    peer: &Peer<'_>,
    mut connect: Connect,
) -> Result<Accepted, Refused> {
    let version = connect.version;
    let identity = peer.identity.as_ref().map_err(|refusal| {
        broker.counters.refused_identity.one();
        note(broker, &connect, None, "certificate", &refusal.message);
        Refused::with(version, Code::NotAuthorized, refusal.message.clone())
    })?;
    let principal = Some(identity.principal.as_str());
    check(broker, &connect).inspect_err(|refused| {
        note(broker, &connect, principal, "limit", &refused.why);
    })?;
    let assigned = connect.client_id.is_empty();
    if assigned {
        connect.client_id = format!("auto-{}", uuid::Uuid::new_v4().simple());
    }
    let rights = rights(broker, peer, identity, &connect)?;
    let until = broker.auth.standing(identity).map_err(|refusal| {
        broker.counters.refused_identity.one();
        note(broker, &connect, principal, "certificate", &refusal.message);
        Refused::with(version, Code::NotAuthorized, refusal.message)
    })?;
    let (keep_alive_secs, imposed) = keep_alive(broker, connect.keep_alive_secs);
    let welcome = |session_present, topic_alias_max| {
        let expiry_secs_max = broker.settings.session_expiry_secs_max;
        codec::welcome(
            version,
            &codec::Welcome {
                session_present,
                receive_maximum: broker.settings.receive_maximum,
                packet_bytes_max: broker.settings.packet_bytes_max(),
                topic_alias_max,
                retain_available: broker.retained.is_some(),
                assigned_client_id: assigned.then(|| connect.client_id.clone()),
                keep_alive_secs: imposed.then_some(keep_alive_secs),
                session_expiry_secs: (connect.session_expiry_secs > expiry_secs_max)
                    .then_some(expiry_secs_max),
            },
        )
        .map_err(|fault| Refused::silently(fault.why))
    };
    let mut topic_alias_max = broker.settings.topic_alias_max;
    if connect.packet_bytes_max < CONNACK_BYTES_MAX {
        // Aliases are an offer, and the only one that may be left out for want of room.
        if welcome(false, topic_alias_max)?.len() > connect.packet_bytes_max {
            topic_alias_max = 0;
        }
        check_size(welcome(false, topic_alias_max)?.len(), connect.packet_bytes_max)?;
    }
    let link = Link::new(
        connect.client_id.as_str().into(),
        broker.same_for_all(identity),
        version,
        peer.address,
        broker.clock.now(),
        until,
    );
    let claimed = broker.sessions.claim(&link, connect.clean_start).await;
    let (kept, will) = claimed.map_err(|taken| {
        let refused = refuse_taken(version, &link, &taken);
        note(broker, &connect, principal, "taken", &refused.why);
        refused
    })?;
    if let Some((departed, will)) = will {
        broker.publish_will(departed, will);
    }
    if let Err(refusal) = peer.credential.check(&*broker.auth) {
        // Nothing of it is kept: its owner may not come back.
        broker.sessions.release(&link, None, None, Duration::ZERO, broker.clock.now());
        broker.counters.refused_identity.one();
        note(broker, &connect, principal, "certificate", &refusal.message);
        return Err(Refused::with(version, Code::NotAuthorized, refusal.message));
    }
    let session_present = kept.is_some();
    let mut session = kept.unwrap_or_else(|| new_session(broker, &link));
    session.identity = Arc::clone(&link.identity);
    session.address = Some(peer.address.ip());
    session.kept_for = broker.kept_for(connect.session_expiry_secs);
    // One and a half times the keep-alive (MQTT 5, 3.1.2.10).
    let keep_alive = Duration::from_millis(u64::from(keep_alive_secs) * 1500);
    if let Err(cause) = settle(broker, &link, &session, connect.will.as_ref(), keep_alive).await {
        let now = broker.clock.now();
        broker.sessions.release(&link, Some(session), None, Duration::ZERO, now);
        let answer = Refused::with(version, Code::ServerUnavailable, cause.to_string());
        note(broker, &connect, principal, "session", &answer.why);
        return Err(answer);
    }
    let connack = match welcome(session_present, topic_alias_max) {
        Ok(connack) => connack,
        Err(refused) => {
            let now = broker.clock.now();
            broker.sessions.release(&link, Some(session), None, Duration::ZERO, now);
            return Err(refused);
        }
    };
    debug!(
        client_id = %link.client_id, principal = %link.identity.principal, peer = %peer.address,
        ?version, session_present, "client connected"
    );
    broker.refusals.accepted(&link.client_id, link.since);
    Ok(Accepted { version, link, session, connect, rights, keep_alive, connack })
}

fn new_session(broker: &Broker, link: &Link) -> Session {
    let mut session = Session::new(Arc::clone(&link.identity));
    if broker.keeper.is_some() {
        // What an earlier session of the same client id sent is not this one's.
        session.until = broker.journal.status().next;
    }
    session
}

/// Waits until the session's row says what CONNACK is about to say: that there is a session, as
/// it is, or that there is none.
async fn settle(
    broker: &Broker,
    link: &Arc<Link>,
    session: &Session,
    will: Option<&Will>,
    silence: Duration,
) -> base::Result<()> {
    /// The first version; the connection counts on from it.
    const VERSION: u64 = 1;
    let Some(keeper) = &broker.keeper else { return Ok(()) };
    let row = session.kept_for.map(|_| {
        let extra = Extra {
            subscriptions: &session.subscriptions,
            cursor: session.cursor,
            silence,
            will: will.map(|will| (will, None)),
            left_at: None,
        };
        SessionRow::new(session, &extra)
    });
    if row.is_none() && !keeper.knows(&link.client_id) {
        return Ok(());
    }
    keeper.put(&link.client_id, row, Some((link, VERSION)));
    std::future::poll_fn(|cx| {
        link.mailbox.waker.register(cx.waker());
        if link.saved_version() >= VERSION {
            return Poll::Ready(Ok(()));
        }
        keeper.failure().map_or(Poll::Pending, |failure| Poll::Ready(Err(failure)))
    })
    .await
}

/// A client that does not take our CONNACK is told so as briefly as MQTT can (3.1.2-24).
fn check_size(bytes: usize, bytes_max: usize) -> Result<(), Refused> {
    if bytes <= bytes_max {
        return Ok(());
    }
    let why = format!("the client takes packets of {bytes_max} bytes; our CONNACK has {bytes}");
    let answer = codec::farewell(Version::V5, Code::PacketTooLarge);
    Err(if answer.len() <= bytes_max { Refused { answer, why } } else { Refused::silently(why) })
}

fn keep_alive(broker: &Broker, asked_secs: u16) -> (u16, bool) {
    let (least, most) = (broker.settings.keep_alive_secs_min, broker.settings.keep_alive_secs_max);
    match asked_secs {
        0 => (most, true),
        asked_secs => (asked_secs.clamp(least, most), !(least..=most).contains(&asked_secs)),
    }
}

/// Puts a refused CONNECT on record.
fn note(
    broker: &Broker,
    connect: &Connect,
    principal: Option<&str>,
    reason: &'static str,
    why: &str,
) {
    let why = Explanation { text: why.to_owned(), ..Explanation::default() };
    let asked = (Some(Action::Connect), connect.client_id.as_str());
    broker.note_refusal(&connect.client_id, principal, reason, asked, why);
}

/// What the client may do; refused if that does not include this CONNECT. Decided before an
/// older connection of the client id is touched.
fn rights(
    broker: &Broker,
    peer: &Peer<'_>,
    identity: &Identity,
    connect: &Connect,
) -> Result<Held, Refused> {
    let rights = broker.auth.rights(&Client {
        identity,
        client_id: &connect.client_id,
        address: Some(peer.address.ip()),
        persistent: broker.kept_for(connect.session_expiry_secs).is_some(),
        last_will: connect.will.is_some(),
    });
    let refused = rights
        .as_deref()
        .and_then(|rights| refused_connect(rights, &connect.client_id, connect.will.as_ref()));
    let (Some((action, name)), Some(rights)) = (refused, &rights) else {
        return Ok(Held::new(rights));
    };
    broker.counters.refused_connect_policy.one();
    let why = rights.explain(action, &name);
    let text = why.text.clone();
    let principal = Some(identity.principal.as_str());
    broker.note_refusal(&connect.client_id, principal, "policy", (Some(action), &name), why);
    let (version, bytes_max) = (connect.version, connect.packet_bytes_max);
    let words = if broker.settings.refusals_explained { told(&text) } else { String::new() };
    let answer = codec::farewell_because(version, Code::NotAuthorized, &words, bytes_max);
    Err(Refused { answer, why: text })
}

/// What is refused before anything is registered.
fn check(broker: &Broker, connect: &Connect) -> Result<(), Refused> {
    let version = connect.version;
    let refuse = |code, why: String| Err(Refused::with(version, code, why));
    if broker.has_failed() {
        let why = "the journal failed; restart after checking the disk".to_owned();
        return refuse(Code::ServerUnavailable, why);
    }
    if connect.wants_authentication {
        let why = "enhanced authentication is not supported".to_owned();
        return refuse(Code::BadAuthenticationMethod, why);
    }
    let client_id_max = broker.settings.client_id_bytes_max;
    if connect.client_id.len() > client_id_max {
        let bytes = connect.client_id.len();
        let why = format!("client id of {bytes} bytes; at most {client_id_max} are taken");
        return refuse(Code::ClientIdentifierNotValid, why);
    }
    // MQTT 3.1.1 cannot be told an assigned id, so a kept session could not be found again
    // (3.1.1, 3.1.3.1).
    if connect.client_id.is_empty() && version == Version::V4 && !connect.clean_start {
        let why = "an empty client id with a kept session".to_owned();
        return refuse(Code::ClientIdentifierNotValid, why);
    }
    let Some(will) = &connect.will else { return Ok(()) };
    if will.retain {
        let Some(retained) = &broker.retained else {
            let why = "the will is retained; retained messages are not kept here".to_owned();
            return refuse(Code::RetainNotSupported, why);
        };
        if let Some(why) = retained.refuses(&will.topic, &will.payload) {
            return refuse(Code::QuotaExceeded, why);
        }
    }
    if will.payload.len() > broker.settings.payload_bytes_max {
        let why = format!("the will has {} bytes", will.payload.len());
        return refuse(Code::PacketTooLarge, why);
    }
    if will.topic.starts_with('$') || base::TopicName::parse(&will.topic).is_err() {
        let why = format!("the will's topic {:?} cannot be published to", will.topic);
        return refuse(Code::TopicNameInvalid, why);
    }
    Ok(())
}

fn refuse_taken(version: Version, link: &Link, taken: &Taken) -> Refused {
    let client_id = &link.client_id;
    match taken {
        Taken::NotYours => {
            warn!(%client_id, principal = %link.identity.principal, "client id of another identity");
            let why = format!("client id {client_id:?} belongs to another identity");
            Refused::with(version, Code::NotAuthorized, why)
        }
        Taken::Full => Refused::with(version, Code::QuotaExceeded, "no room for another session"),
        Taken::Stuck => {
            let why = format!("the older connection of {client_id:?} does not end");
            Refused::with(version, Code::ServerBusy, why)
        }
    }
}
