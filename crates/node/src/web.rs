//! The API port: everything HTTP on one address.
//!
//! ```text
//! connection ─▶ TLS or plain, told by its first byte
//!   request  ─▶ signed for a service of AWS?  ─▶ aws       (verifies the signature)
//!            ─▶ signed for S3, or unsigned?   ─▶ aws-s3    (verifies, or answers AccessDenied)
//!            ─▶ CONNECT to a host of AWS's?   ─▶ TLS in the tunnel, then as above
//!            ─▶ a route of our own?           ─▶ http.rs   (health, metrics, plain JSON, the commands' calls)
//! ```
//!
//! The tunnel exists for programs that hard-code an AWS address: set as their proxy, this port
//! answers in that host's name with a certificate of our authority. No other host is reached
//! through it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aws::{Addressee, Front};
use aws_s3::S3Front;
use axum::body::Body;
use base::{Error, Result};
use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

/// Connections at a time; what comes beyond waits in the listener's queue.
const CONNECTIONS_MAX: usize = 1024;
/// How long a connection may take to say its first byte, finish its handshake, or send a head.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long requests under way may take after the server was told to stop.
const FAREWELL: Duration = Duration::from_secs(8);

/// Everything that answers HTTP.
#[derive(Clone)]
pub(crate) struct Web {
    pub(crate) router: axum::Router,
    pub(crate) front: Front,
    pub(crate) s3: S3Front,
    pub(crate) tls: TlsAcceptor,
}

/// Where a request comes from.
#[derive(Clone, Copy)]
struct Peer {
    address: SocketAddr,
    /// Already inside a tunnel: no second one.
    tunnelled: bool,
}

impl Web {
    /// Answers connections until told to stop.
    pub(crate) async fn serve(self, listener: TcpListener, mut stopped: watch::Receiver<bool>) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = tokio::task::JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let Ok(permit) = room.clone().acquire_owned().await else { break };
            let accepted = tokio::select! {
                () = told(&mut stopped) => break,
                accepted = listener.accept() => accepted,
            };
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(cause) => {
                    // Out of descriptors, as a rule: others must end first.
                    tracing::warn!(%cause, "the API cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (web, stopped) = (self.clone(), stopped.clone());
            connections.spawn(async move {
                web.connection(stream, address, stopped).await;
                drop(permit);
            });
        }
        let all = async { while connections.join_next().await.is_some() {} };
        drop(tokio::time::timeout(FAREWELL, all).await);
    }

    async fn connection(self, stream: TcpStream, address: SocketAddr, stop: watch::Receiver<bool>) {
        drop(stream.set_nodelay(true));
        let peer = Peer { address, tunnelled: false };
        let mut first = [0];
        match tokio::time::timeout(PATIENCE, stream.peek(&mut first)).await {
            // A TLS record of type handshake; no method of HTTP begins so.
            Ok(Ok(1)) if first[0] == 0x16 => self.secure(stream, peer, stop).await,
            Ok(Ok(1)) => self.plain(stream, peer, stop).await,
            _ => {}
        }
    }

    async fn secure<S>(self, stream: S, peer: Peer, stop: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match tokio::time::timeout(PATIENCE, self.tls.accept(stream)).await {
            Ok(Ok(stream)) => self.plain(stream, peer, stop).await,
            Ok(Err(cause)) => tracing::debug!(%cause, peer = %peer.address, "no TLS"),
            Err(_late) => {}
        }
    }

    async fn plain<S>(self, stream: S, peer: Peer, mut stop: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let stopped = stop.clone();
        let service = service_fn(move |request| {
            let (web, stopped) = (self.clone(), stopped.clone());
            async move { Ok::<_, Infallible>(web.answer(request, peer, stopped).await) }
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE).max_buf_size(128 * 1024);
        let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = told(&mut stop) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(cause) = result {
            tracing::debug!(%cause, peer = %peer.address, "an API connection ended");
        }
    }

    async fn answer(
        self,
        request: Request<Incoming>,
        peer: Peer,
        stop: watch::Receiver<bool>,
    ) -> Response<Body> {
        if request.method() == Method::CONNECT {
            return self.tunnel(request, peer, stop);
        }
        let (parts, body) = request.into_parts();
        let body = Body::new(body);
        let addressee = Front::addressee(&parts);
        let own = crate::http::is_route(parts.uri.path());
        let targeted = parts.headers.contains_key("x-amz-target");
        let request = Request::from_parts(parts, body);
        match addressee {
            Addressee::Aws => Box::pin(self.front.handle(request)).await,
            Addressee::Other if own && !peer.tunnelled => {
                self.own_route(request, peer.address).await
            }
            Addressee::Other if targeted => Box::pin(self.front.handle(request)).await,
            Addressee::S3 | Addressee::Other => Box::pin(self.s3.handle(request)).await,
        }
    }

    async fn own_route(self, request: Request<Body>, from: SocketAddr) -> Response<Body> {
        if !from.ip().is_loopback() && !crate::http::is_open(request.uri().path()) {
            let message = "the commands' own calls are answered on this machine only; sign the \
                           request for a service of AWS instead\n";
            return refusal(StatusCode::FORBIDDEN, message);
        }
        match self.router.oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }

    /// Answers CONNECT: from here on the client speaks TLS with the host it named.
    fn tunnel(
        self,
        request: Request<Incoming>,
        peer: Peer,
        stop: watch::Receiver<bool>,
    ) -> Response<Body> {
        let target = request.uri().authority().cloned();
        let host = target.as_ref().map(|target| target.host().to_ascii_lowercase());
        let to_aws = host.as_deref().is_some_and(identity::is_aws_host)
            && target.as_ref().and_then(http::uri::Authority::port_u16) == Some(443);
        if peer.tunnelled || !to_aws {
            let named = target.map(|target| target.to_string()).unwrap_or_default();
            let message = format!(
                "Forebay's proxy stands for hosts of AWS on port 443 and carries nothing else; \
                 reach {named:?} without it (NO_PROXY)\n"
            );
            return refusal(StatusCode::FORBIDDEN, message);
        }
        tokio::spawn(async move {
            match hyper::upgrade::on(request).await {
                Ok(upgraded) => {
                    let peer = Peer { tunnelled: true, ..peer };
                    Box::pin(self.secure(TokioIo::new(upgraded), peer, stop)).await;
                }
                Err(cause) => tracing::debug!(%cause, "a tunnel did not open"),
            }
        });
        Response::new(Body::empty())
    }
}

/// Ends when the server is told to stop.
async fn told(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

fn refusal(status: StatusCode, message: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(message.into());
    *response.status_mut() = status;
    let kind = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// TLS for the API port.
pub(crate) fn tls(authority: &Arc<identity::Authority>, names: &[String]) -> Result<TlsAcceptor> {
    let config =
        authority.web_config(names).map_err(|error: Error| error.context("TLS of the API port"))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
