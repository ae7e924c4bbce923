//! Accepts sockets, and goes on accepting whatever happens.
//!
//! Invariants
//! * Every connection is a task of its listener; none outlives `serve` by more than the drain.
//! * A handshake never holds up the accept loop, and there are at most `handshakes_max`.
//! * When accept fails, for instance for want of descriptors, it is tried again after a pause.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::{Error, ErrorKind, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, warn};

use crate::Broker;
use crate::auth::{Action, Credential, Explanation};
use crate::connect::{Peer, admit};
use crate::connection::{Connection, Transport};
use crate::sessions::Kick;
use crate::websocket::{self, Below};

/// Pause after a failed accept; doubled while it goes on failing.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

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

/// One place at the table; free again when dropped.
struct Seat(Arc<Broker>);

impl Seat {
    fn take(broker: &Arc<Broker>) -> Option<Seat> {
        let counters = &broker.counters;
        counters.connections.one();
        let seat = Seat(Arc::clone(broker));
        // Counted first, so that two racing for the last seat cannot both get it.
        if counters.connections.get() > broker.settings.connections_max as u64 {
            counters.refused_limit.one();
            return None;
        }
        counters.connections_total.one();
        Some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.counters.connections.less();
    }
}

pub(crate) async fn serve(
    broker: &Arc<Broker>,
    listener: TcpListener,
    entrance: Entrance,
    mut shutdown: watch::Receiver<bool>,
) -> Result<()> {
    let mut tasks = JoinSet::new();
    let mut pause = PAUSE_MIN;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                note_end(ended);
                continue;
            }
            // A sender that is gone means shutdown as well.
            _ = shutdown.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, address)) => {
                pause = PAUSE_MIN;
                let Some(seat) = Seat::take(broker) else {
                    debug!(peer = %address, "connection refused: connections_max is reached");
                    continue;
                };
                tasks.spawn(serve_one(seat, stream, address, entrance.clone(), shutdown.clone()));
            }
            Err(cause) => {
                broker.counters.accept_failed.one();
                warn!(%cause, "failed to accept a connection; trying again");
                sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
    drop(listener);
    drain(broker, tasks).await
}

/// Lets pending acknowledgements out, then ends what is left.
async fn drain(broker: &Arc<Broker>, mut tasks: JoinSet<()>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(broker.settings.drain_secs_max);
    broker.sessions.kick_all(Kick::Shutdown);
    while let Ok(Some(ended)) = timeout_at(deadline, tasks.join_next()).await {
        note_end(ended);
    }
    if tasks.is_empty() {
        return Ok(());
    }
    let left = tasks.len();
    tasks.shutdown().await;
    Err(Error::new(
        ErrorKind::Unavailable,
        format!("{left} connections did not end within the drain time and were cut"),
    ))
}

fn note_end(ended: Result<(), tokio::task::JoinError>) {
    if let Err(cause) = ended
        && cause.is_panic()
    {
        error!(%cause, "a connection's task panicked; the others go on");
    }
}

async fn serve_one(
    seat: Seat,
    stream: TcpStream,
    address: SocketAddr,
    entrance: Entrance,
    mut shutdown: watch::Receiver<bool>,
) {
    let broker = &seat.0;
    let connection = tokio::select! {
        // Boxed: what it needs is gone before the connection's long life begins.
        connection = Box::pin(begin(broker, stream, address, entrance)) => connection,
        // Whoever has not finished CONNECT has nothing to lose.
        _ = shutdown.wait_for(|stop| *stop) => return,
    };
    let Some(connection) = connection else { return };
    if *shutdown.borrow() {
        connection.shut_down();
    }
    connection.run().await;
}

/// TLS, WebSocket and CONNECT, under one deadline.
async fn begin(
    broker: &Arc<Broker>,
    stream: TcpStream,
    address: SocketAddr,
    entrance: Entrance,
) -> Option<Box<Connection>> {
    // Without it an acknowledgement waits for Nagle, 40 ms at a time.
    if let Err(cause) = stream.set_nodelay(true) {
        debug!(peer = %address, %cause, "TCP_NODELAY refused");
    }
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
            let mut first = [0];
            let looked = timeout_at(deadline, stream.peek(&mut first)).await;
            if !matches!(looked, Ok(Ok(1))) {
                broker.counters.refused_handshake.one();
                return None;
            }
            let is_tls = first[0] == TLS_HANDSHAKE;
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
    stream: TcpStream,
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
