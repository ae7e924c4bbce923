//! Accepts sockets, and goes on accepting whatever happens.
//!
//! Invariants
//! * No connection outlives `serve` by more than the drain.
//! * A handshake never holds up the accept loop, and there are at most `handshakes_max`. Whoever
//!   says nothing is not counted among them, and whoever is slow gives way to who waits.
//! * When accept fails, for instance for want of descriptors, it is tried again after a pause.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base::{Error, ErrorKind, Result};
use tokio::net::TcpListener;
use tokio::sync::{SemaphorePermit, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
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

/// A place among those who are not in yet, `handshakes_max` of them.
pub(crate) struct Place<'a> {
    broker: &'a Broker,
    since: Instant,
    deadline: Instant,
    _permit: SemaphorePermit<'a>,
}

impl<'a> Place<'a> {
    /// Waits for one until `deadline`.
    pub(crate) async fn take(broker: &'a Broker, deadline: Instant) -> Option<Place<'a>> {
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
    if timeout_at(deadline, stream.readable()).await.is_err() {
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
            let Some(Ok(Some(first))) = place.within(stream.first_byte()).await else {
                broker.counters.refused_handshake.one();
                return None;
            };
            let is_tls = first == TLS_HANDSHAKE;
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
        note(broker, address, refusal.reason, refusal.message.clone());
        return None;
    }
    admit(broker, Peer { stream, address, credential, identity, place }).await
}

/// Puts on record why a peer was refused that had not said who it is.
fn note(broker: &Broker, address: SocketAddr, reason: &'static str, text: String) {
    let why = Explanation { text, ..Explanation::default() };
    let asked = (Some(Action::Connect), &*address.ip().to_string());
    broker.note_refusal(NAMELESS, None, reason, asked, why);
}

/// The TLS handshake, and the certificate that the peer showed.
async fn secure(
    place: &Place<'_>,
    stream: Socket,
    address: SocketAddr,
    acceptor: TlsAcceptor,
) -> Option<(Box<dyn Transport>, Option<Credential>)> {
    let counters = &place.broker.counters;
    let stream = match place.within(acceptor.accept(stream)).await {
        Some(Ok(stream)) => stream,
        Some(Err(cause)) => {
            counters.refused_handshake.one();
            note(place.broker, address, "handshake", cause.to_string());
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
