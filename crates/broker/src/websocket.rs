//! MQTT over WebSocket: the request that asks for one, and the stream that it becomes.
//!
//! MQTT's bytes travel in binary messages whose borders mean nothing (MQTT 5, 6.0).
//!
//! Invariants
//! * Who a client is, is settled before the upgrade is granted: by its certificate, by the
//!   signature of its request, or it is anonymous. A signature that does not hold is refused; it
//!   does not make its bearer anonymous.
//! * A page of the web gets no further than its visitor allowed: browsers name its origin, and
//!   one that did not sign, is not listed in `websocket_origins` and is not this very server is
//!   refused.
//! * An unknown peer makes us keep at most 64 KiB of request, the library's bound, until the
//!   deadline of its CONNECT.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::{Sink, Stream};
use http::{HeaderValue, Request, Response, StatusCode, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};
use tracing::{debug, info, warn};

use crate::Broker;
use crate::auth::Credential;
use crate::connection::{Transport, part};

/// Where AWS has it.
const PATH: &str = "/mqtt";

/// What MQTT is called in the handshake: by the standard, and by clients older than it.
const SUBPROTOCOLS: [&str; 2] = ["mqtt", "mqttv3.1"];

/// Kept for as long as the connection lives, so small.
const READ_BUFFER_BYTES: usize = 4 * 1024;

/// Longest message that we send; the buffer of the longest one stays.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// Why there is no WebSocket, as HTTP says it.
struct Refused(StatusCode, String);

/// What is below a WebSocket.
pub(crate) struct Below {
    pub(crate) stream: Box<dyn Transport>,
    pub(crate) is_tls: bool,
    pub(crate) certificate: Option<Credential>,
}

/// Takes the request for a WebSocket.
pub(crate) async fn upgrade(
    broker: &Broker,
    Below { mut stream, is_tls, certificate }: Below,
    address: SocketAddr,
    deadline: Instant,
) -> Option<(Box<dyn Transport>, Credential)> {
    // Before CONNECT a message is held to the bound of any packet: it cannot be changed later.
    let longest = Some(broker.settings.packet_bytes_max());
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(longest)
        .max_frame_size(longest);
    let mut settled = None;
    #[expect(clippy::result_large_err, reason = "the library's own type")]
    let answer = |request: &Request<()>, response| match settle(broker, request, is_tls) {
        Ok((signed, subprotocol)) => {
            settled = Some(signed.or(certificate).unwrap_or(Credential::Anonymous));
            Ok(granted(response, subprotocol))
        }
        Err(refused) => {
            info!(peer = %address, why = %refused.1, "WebSocket refused");
            Err(response_of(&refused))
        }
    };
    // The stream is lent, so that a request the library refuses can still be answered.
    let accepted = accept_hdr_async_with_config(&mut stream, answer, Some(config));
    let why = match timeout_at(deadline, accepted).await {
        Ok(Ok(_lent)) => {
            // Nothing was read beyond the request: the library refuses one with a tail.
            let inner = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
            return Some((Box::new(Socket { inner, unread: Bytes::new() }), settled?));
        }
        Ok(Err(cause)) => cause,
        Err(_elapsed) => {
            broker.counters.refused_handshake.one();
            debug!(peer = %address, "no WebSocket was asked for in time");
            return None;
        }
    };
    broker.counters.refused_handshake.one();
    match why {
        // It has been answered.
        Error::Http(_) => part(&mut *stream, &[], true).await,
        Error::Io(cause) => debug!(peer = %address, %cause, "closed before a WebSocket"),
        cause => {
            info!(peer = %address, %cause, "no request for a WebSocket");
            let text = format!("this port speaks MQTT over WebSocket at {PATH}: {cause}\n");
            let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close";
            let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{text}", text.len());
            part(&mut *stream, answer.as_bytes(), true).await;
        }
    }
    None
}

/// Who signed, and which of the offered subprotocols it will be.
fn settle(
    broker: &Broker,
    request: &Request<()>,
    is_tls: bool,
) -> Result<(Option<Credential>, &'static str), Refused> {
    let path = request.uri().path();
    if path != PATH {
        let why = format!("there is nothing at {path:?}; MQTT over WebSocket is at {PATH}");
        return Err(Refused(StatusCode::NOT_FOUND, why));
    }
    let Some(subprotocol) = subprotocol(request) else {
        let why = "Sec-WebSocket-Protocol has to offer \"mqtt\"".to_owned();
        return Err(Refused(StatusCode::BAD_REQUEST, why));
    };
    if let Some(signed) = broker.auth.signed(request) {
        signed.map_err(|refusal| {
            broker.counters.refused_identity.one();
            warn!(reason = refusal.reason, why = %refusal, "a signed WebSocket was refused");
            Refused(StatusCode::FORBIDDEN, refusal.message)
        })?;
        return Ok((Some(Credential::Signed(Arc::new(request.clone()))), subprotocol));
    }
    if let Some(origin) = request.headers().get(header::ORIGIN) {
        let allowed = &broker.settings.websocket_origins;
        let listed = |allowed: &String| {
            allowed == "*" || origin.as_bytes().eq_ignore_ascii_case(allowed.as_bytes())
        };
        if !is_ours(origin, request, is_tls) && !allowed.iter().any(listed) {
            let why = format!(
                "pages of {origin:?} may not connect; list the origin in \
                 broker.websocket_origins, or sign the request"
            );
            return Err(Refused(StatusCode::FORBIDDEN, why));
        }
    }
    Ok((None, subprotocol))
}

/// Whether the origin is this server, as clients that are no browsers like to say. A page whose
/// name was turned to our address says the same; but it cannot show our certificate for its name
/// over TLS, nor be named by an address.
fn is_ours(origin: &HeaderValue, request: &Request<()>, is_tls: bool) -> bool {
    let scheme = if is_tls { "https://" } else { "http://" };
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| origin.strip_prefix(scheme));
    let (Some(host), Some(origin)) = (host, origin) else { return false };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let is_address = || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    host == origin && (is_tls || name == "localhost" || is_address())
}

fn subprotocol(request: &Request<()>) -> Option<&'static str> {
    let offers = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let offered: Vec<&str> = offers
        .iter()
        .filter_map(|offer| offer.to_str().ok())
        .flat_map(|offer| offer.split(','))
        .map(str::trim)
        .collect();
    SUBPROTOCOLS.into_iter().find(|ours| offered.contains(ours))
}

fn granted(mut response: Response<()>, subprotocol: &'static str) -> Response<()> {
    let subprotocol = HeaderValue::from_static(subprotocol);
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
    response
}

fn response_of(Refused(status, why): &Refused) -> Response<Option<String>> {
    let mut response = Response::new(Some(format!("{why}\n")));
    *response.status_mut() = *status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(why.len() + 1));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// A WebSocket as a stream of bytes.
struct Socket {
    inner: WebSocketStream<Box<dyn Transport>>,
    /// What is left of the last message.
    unread: Bytes,
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.unread.is_empty() {
            match ready!(Pin::new(&mut this.inner).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => this.unread = bytes,
                Some(Ok(Message::Text(_))) => {
                    let why = "a text message; MQTT is sent in binary ones";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)));
                }
                // Pings are answered by the library. After a close there is nothing more, which
                // it says once its own close has left.
                Some(Ok(_)) => {}
                Some(Err(cause)) => return Poll::Ready(Err(failed(cause))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let bytes = this.unread.len().min(buffer.remaining());
        buffer.put_slice(&this.unread.split_to(bytes));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let inner = &mut self.get_mut().inner;
        ready!(Pin::new(&mut *inner).poll_ready(cx)).map_err(failed)?;
        let bytes = &bytes[..bytes.len().min(MESSAGE_BYTES_MAX)];
        let message = Message::Binary(Bytes::copy_from_slice(bytes));
        Pin::new(inner).start_send(message).map_err(failed)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx).map_err(failed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The peer answers a close with its own, which the reading that follows takes.
        Pin::new(&mut self.get_mut().inner).poll_close(cx).map_err(failed)
    }
}

fn failed(cause: Error) -> io::Error {
    match cause {
        Error::Io(cause) => cause,
        cause => io::Error::new(io::ErrorKind::InvalidData, cause),
    }
}
