//! Accepts sockets, and goes on accepting whatever happens.
//!
//! Invariants
//! * No connection outlives `serve` by more than the drain.
//! * A handshake never holds up the accept loop, and there are at most `handshakes_max`.
//! * When accept fails, for instance for want of descriptors, it is tried again after a pause.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::{Error, ErrorKind, Result};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, warn};

use crate::Broker;
use crate::auth::{Action, Credential, Explanation};
use crate::connect::{Peer, admit};
use crate::connection::{Connection, Transport};
use crate::sessions::Kick;
use crate::shard::{Arrival, Listening, Seat, Socket};
use crate::websocket::{self, Below};

/// Pause after a failed accept; doubled while it goes on failing.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long cutting connections may take.
const CUT_TIME_MAX: Duration = Duration::from_secs(2);

/// Whom refusals are on record for that came before a client id: nobody can have an empty one.
const NAMELESS: &str = "";

/// TLS's first byte: a handshake record. Nothing that HTTP begins with.
const TLS_HANDSHAKE: u8 = 0x16;

/// What a listener speaks.
#[derive(Clone)]
pub(crate) enum Entrance {
    /// MQTT itself.
    Tcp,
    /// MQTT over mutual TLS.
    Tls(TlsAcceptor),
    /// MQTT over WebSocket, over TLS or not.
    WebSocket(TlsAcceptor),
}

impl Entrance {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Entrance::Tcp => "TCP",
            Entrance::Tls(_) => "mutual TLS",
            Entrance::WebSocket(_) => "WebSocket",
        }
    }
}

pub(crate) async fn serve(
    broker: &Arc<Broker>,
    listener: TcpListener,
    entrance: Entrance,
    mut shutdown: watch::Receiver<bool>,
) -> Result<()> {
    let table = Table { broker: Arc::clone(broker), listening: Arc::default() };
    let mut pause = PAUSE_MIN;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // A sender that is gone means shutdown as well.
            _ = shutdown.wait_for(|stop| *stop) => break,
        };
        let accepted = accepted.and_then(|(stream, address)| {
            let Some(seat) = Seat::take(broker, &table.listening) else {
                debug!(peer = %address, "connection refused: connections_max is reached");
                return Ok(());
            };
            // Without it an acknowledgement waits for Nagle, 40 ms at a time.
            if let Err(cause) = stream.set_nodelay(true) {
                debug!(peer = %address, %cause, "TCP_NODELAY refused");
            }
            let (stream, entrance) = (stream.into_std()?, entrance.clone());
            broker.shards.seat(Arrival { seat, stream, address, entrance });
            Ok(())
        });
        match accepted {
            Ok(()) => pause = PAUSE_MIN,
            Err(cause) => {
                broker.counters.accept_failed.one();
                warn!(%cause, "failed to accept a connection; trying again");
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
    drop(listener);
    table.drain().await
}

/// The connections of one listener; none is left when it is dropped.
struct Table {
    broker: Arc<Broker>,
    listening: Arc<Listening>,
}

impl Table {
    /// Lets pending acknowledgements out, then ends what is left.
    async fn drain(self) -> Result<()> {
        let Table { broker, listening } = &self;
        let drain_time = Duration::from_secs(broker.settings.drain_secs_max);
        listening.stop();
        broker.sessions.kick_all(Kick::Shutdown);
        // Whoever has not finished CONNECT has nothing to lose.
        broker.shards.end_handshakes(listening);
        if timeout(drain_time, listening.all_gone()).await.is_ok() {
            return Ok(());
        }
        let left = listening.open();
        broker.shards.end_all(listening);
        if timeout(CUT_TIME_MAX, listening.all_gone()).await.is_err() {
            error!(left = listening.open(), "connections cannot be cut: their thread is stuck");
        }
        Err(Error::new(
            ErrorKind::Unavailable,
            format!("{left} connections did not end within the drain time and were cut"),
        ))
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.broker.shards.end_all(&self.listening);
    }
}

/// TLS, WebSocket and CONNECT, under one deadline.
pub(crate) async fn begin(
    broker: &Arc<Broker>,
    stream: Socket,
    address: SocketAddr,
    entrance: Entrance,
) -> Option<Box<Connection>> {
    let deadline = Instant::now() + Duration::from_secs(broker.settings.connect_secs_max);
    let handshake = timeout_at(deadline, broker.handshakes.acquire()).await;
    let Ok(Ok(_permit)) = handshake else {
        broker.counters.refused_limit.one();
        return None;
    };
    let (stream, credential) = match entrance {
        Entrance::Tcp => {
            let stream: Box<dyn Transport> = Box::new(stream);
            (stream, Credential::Anonymous)
        }
        Entrance::Tls(acceptor) => {
            let (stream, credential) = secure(broker, stream, address, acceptor, deadline).await?;
            let Some(credential) = credential else {
                broker.counters.refused_identity.one();
                error!(peer = %address, "the TLS configuration does not demand client certificates");
                return None;
            };
            (stream, credential)
        }
        Entrance::WebSocket(acceptor) => {
            let first = timeout_at(deadline, stream.first_byte()).await;
            let Ok(Ok(Some(first))) = first else {
                broker.counters.refused_handshake.one();
                return None;
            };
            let is_tls = first == TLS_HANDSHAKE;
            let (stream, certificate) = if is_tls {
                secure(broker, stream, address, acceptor, deadline).await?
            } else {
                let stream: Box<dyn Transport> = Box::new(stream);
                (stream, None)
            };
            let below = Below { stream, is_tls, certificate };
            websocket::upgrade(broker, below, address, deadline).await?
        }
    };
    let identity = credential.check(&*broker.auth);
    if let (Err(refusal), false) = (&identity, matches!(credential, Credential::Anonymous)) {
        broker.counters.refused_identity.one();
        note(broker, address, refusal.reason, refusal.message.clone());
        return None;
    }
    admit(broker, Peer { stream, address, credential, identity, deadline }).await
}

/// Puts on record why a peer was refused that had not said who it is.
fn note(broker: &Broker, address: SocketAddr, reason: &'static str, text: String) {
    let why = Explanation { text, ..Explanation::default() };
    let asked = (Some(Action::Connect), &*address.ip().to_string());
    broker.note_refusal(NAMELESS, None, reason, asked, why);
}

/// The TLS handshake, and the certificate that the peer showed.
async fn secure(
    broker: &Arc<Broker>,
    stream: Socket,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    deadline: Instant,
) -> Option<(Box<dyn Transport>, Option<Credential>)> {
    let stream = match timeout_at(deadline, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(cause)) => {
            broker.counters.refused_handshake.one();
            note(broker, address, "handshake", cause.to_string());
            return None;
        }
        Err(_elapsed) => {
            broker.counters.refused_handshake.one();
            debug!(peer = %address, "no TLS handshake in time");
            return None;
        }
    };
    let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let credential = leaf.map(|leaf| Credential::Certificate(leaf.as_ref().into()));
    Some((Box::new(stream), credential))
}
