//! What is left of a body that was refused unread.
//!
//! A client still sending sees its connection reset instead of the refusal, unless what it
//! sends is read. A bounded amount is, for a bounded time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use futures::{Stream, StreamExt};
use http::Request;

const BYTES_MAX: usize = 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(2);

/// A body that can be taken up again where its reader stopped.
pub(crate) struct Unread(Option<Arc<Shared>>);

struct Shared {
    body: Mutex<BodyDataStream>,
    /// Whether anybody asked for bytes.
    touched: AtomicBool,
}

/// The request with a body that leaves what is unread to us.
pub(crate) fn share(request: Request<Body>) -> (Request<Body>, Unread) {
    if axum::body::HttpBody::is_end_stream(request.body()) {
        return (request, Unread(None));
    }
    let (parts, body) = request.into_parts();
    let body = Mutex::new(body.into_data_stream());
    let shared = Arc::new(Shared { body, touched: AtomicBool::new(false) });
    let body = Body::from_stream(pieces(shared.clone()));
    (Request::from_parts(parts, body), Unread(Some(shared)))
}

fn pieces(shared: Arc<Shared>) -> impl Stream<Item = Result<bytes::Bytes, axum::Error>> {
    futures::stream::poll_fn(move |context| {
        shared.touched.store(true, Ordering::Relaxed);
        shared.body.lock().unwrap_or_else(PoisonError::into_inner).poll_next_unpin(context)
    })
}

impl Unread {
    /// Whether the body was left alone, so that a client that waits was not told to go on.
    pub(crate) fn is_untouched(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| !shared.touched.load(Ordering::Relaxed))
    }

    /// Reads on, within bounds, and throws it away.
    pub(crate) async fn drain(self) {
        let Some(shared) = self.0 else { return };
        let mut rest = pieces(shared);
        let reading = async {
            let mut read = 0;
            while let Some(Ok(piece)) = rest.next().await {
                read += piece.len();
                if read > BYTES_MAX {
                    break;
                }
            }
        };
        // Slower than that it may as well see the reset.
        drop(tokio::time::timeout(PATIENCE, reading).await);
    }
}
