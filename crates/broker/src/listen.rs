//! Accepts sockets, and goes on accepting whatever happens.
//!
//! Invariants
//! * Every connection is a task of its listener; none outlives `serve` by more than the drain.
//! * A handshake never holds up the accept loop, and there are at most `handshakes_max`. Whoever
//!   says nothing is not counted among them, and whoever is slow gives way to who waits.
//! * When accept fails, for instance for want of descriptors, it is tried again after a pause.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base::{Error, ErrorKind, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{SemaphorePermit, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, error, info, warn};

use crate::Broker;
use crate::auth::Credential;
use crate::connect::{Peer, admit};
use crate::connection::{Connection, Transport};
use crate::sessions::Kick;
use crate::websocket::{self, Below};

/// Pause after a failed accept; doubled while it goes on failing.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long a handshake or a CONNECT takes before it gives way to somebody who waits: longer than
/// by satellite. All of `handshakes_max` at once take one processor half a second; with more than
/// that many waiting, slowness is no excuse.
const PATIENCE: Duration = Duration::from_secs(2);
const PATIENCE_MIN: Duration = Duration::from_millis(500);

/// How often one that took longer looks whether somebody waits.
const LOOK: Duration = Duration::from_millis(100);

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

/// A place among those who are not in yet, `handshakes_max` of them.
pub(crate) struct Place<'a> {
    broker: &'a Broker,
    since: Instant,
    deadline: Instant,
    _permit: SemaphorePermit<'a>,
}

impl<'a> Place<'a> {
    /// Waits for one until `deadline`.
    async fn take(broker: &'a Broker, deadline: Instant) -> Option<Place<'a>> {
        let waiting = Waiting::one(&broker.handshakes_waiting);
        let permit = timeout_at(deadline, broker.handshakes.acquire()).await;
        drop(waiting);
        let Ok(Ok(_permit)) = permit else { return None };
        Some(Place { broker, since: Instant::now(), deadline, _permit })
    }

    /// What `work` gives; `None` when its time is over: at the deadline, or earlier if it has been
    /// slow and somebody else waits.
    pub(crate) async fn within<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let over = async {
            sleep_until(self.deadline.min(self.since + PATIENCE_MIN)).await;
            while Instant::now() < self.deadline && !self.is_wanted() {
                sleep_until(self.deadline.min(Instant::now() + LOOK)).await;
            }
        };
        tokio::select! {
            done = work => Some(done),
            () = over => None,
        }
    }

    /// Whether it was held for long, compared with how many wait for it.
    fn is_wanted(&self) -> bool {
        let waiting = self.broker.handshakes_waiting.load(Ordering::Relaxed);
        waiting > self.broker.settings.handshakes_max
            || (waiting > 0 && self.since.elapsed() >= PATIENCE)
    }
}

/// One who waits, counted as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl Waiting<'_> {
    fn one(count: &AtomicUsize) -> Waiting<'_> {
        count.fetch_add(1, Ordering::Relaxed);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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
    if !matches!(timeout_at(deadline, stream.readable()).await, Ok(Ok(()))) {
        broker.counters.refused_handshake.one();
        debug!(peer = %address, "nothing was said in time");
        return None;
    }
    let Some(place) = Place::take(broker, deadline).await else {
        broker.counters.refused_limit.one();
        return None;
    };
    let (stream, credential) = match entrance {
        Entrance::Tcp => {
            let stream: Box<dyn Transport> = Box::new(stream);
            (stream, Credential::Anonymous)
        }
        Entrance::Tls(acceptor) => {
            let (stream, credential) = secure(&place, stream, address, acceptor).await?;
            let Some(credential) = credential else {
                broker.counters.refused_identity.one();
                error!(peer = %address, "the TLS configuration does not demand client certificates");
                return None;
            };
            (stream, credential)
        }
        Entrance::WebSocket(acceptor) => {
            let mut first = [0];
            let looked = place.within(stream.peek(&mut first)).await;
            if !matches!(looked, Some(Ok(1))) {
                broker.counters.refused_handshake.one();
                return None;
            }
            let is_tls = first[0] == TLS_HANDSHAKE;
            let (stream, certificate) = if is_tls {
                secure(&place, stream, address, acceptor).await?
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
        warn!(peer = %address, reason = refusal.reason, why = %refusal, "a client was refused");
        return None;
    }
    admit(broker, Peer { stream, address, credential, identity, place }).await
}

/// The TLS handshake, and the certificate that the peer showed.
async fn secure(
    place: &Place<'_>,
    stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
) -> Option<(Box<dyn Transport>, Option<Credential>)> {
    let counters = &place.broker.counters;
    let stream = match place.within(acceptor.accept(stream)).await {
        Some(Ok(stream)) => stream,
        Some(Err(cause)) => {
            counters.refused_handshake.one();
            info!(peer = %address, %cause, "TLS handshake refused");
            return None;
        }
        None => {
            counters.refused_handshake.one();
            debug!(peer = %address, "no TLS handshake in time");
            return None;
        }
    };
    let leaf = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let credential = leaf.map(|leaf| Credential::Certificate(leaf.as_ref().into()));
    Some((Box::new(stream), credential))
}
