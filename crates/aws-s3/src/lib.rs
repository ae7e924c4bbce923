//! S3 onto the buckets, through the protocol crate `s3s`.
//!
//! ```text
//! request ─▶ guard (who signed, what is signed, XML bodies' digests) ─▶ s3s (signature,
//!            protocol) ─▶ service (one function an operation) ─▶ objects::Buckets
//! ```
//!
//! The other way round, `remote` makes a bucket of another S3 one of the buckets.
//!
//! Bodies stream both ways; an answered write is on stable storage. The lake's own objects
//! and the user's are the same objects.

mod acl;
mod attributes;
mod base64;
mod bucket;
mod coverage;
mod fail;
mod guard;
mod multipart;
mod object;
mod receive;
mod record;
mod remote;
mod service;
mod tags;
mod unread;

use std::sync::Arc;

use axum::body::Body;
use http::{HeaderValue, Request, Response, StatusCode, header};
use identity::{KeyRefusal, Keys, Secret};
use objects::Buckets;
use s3s::service::{S3Service, S3ServiceBuilder};

pub use coverage::OPERATIONS;
pub use multipart::IDLE_DAYS_MAX as UPLOAD_IDLE_DAYS_MAX;
pub use remote::{Credentials, CredentialsOf, Patience, RemoteSettings, remote};

/// What S3 answers about the place it runs in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The region's name, as in `us-east-1`.
    pub region: String,
    /// The account all buckets belong to.
    pub account_id: String,
    /// Host names under which `bucket.NAME` names a bucket, as `localhost` or
    /// `s3.us-east-1.amazonaws.com`. Any other host is asked by path.
    pub host_suffixes: Vec<String>,
}

/// Who may sign, and with which secret.
pub trait SecretKeys: Send + Sync + 'static {
    /// The secret of an access key that may sign at this moment with the session token it
    /// brought, or why it may not.
    fn secret(&self, access_key_id: &str, token: Option<&str>) -> Result<Secret, KeyRefusal>;
}

impl SecretKeys for Keys {
    fn secret(&self, access_key_id: &str, token: Option<&str>) -> Result<Secret, KeyRefusal> {
        self.admit(access_key_id, token)?;
        Keys::secret(self, access_key_id).ok_or(KeyRefusal::Unknown)
    }
}

/// The front of S3. Clones share it.
#[derive(Clone)]
pub struct S3Front {
    service: S3Service,
    rooms: service::Rooms,
    keys: Arc<dyn SecretKeys>,
}

impl S3Front {
    /// A front over `buckets` for whom `keys` knows.
    pub fn new(keys: Arc<dyn SecretKeys>, buckets: Buckets, settings: Settings) -> Self {
        let settings = Arc::new(settings);
        let uploads = multipart::Locks::new();
        let rooms = service::Rooms { buckets, settings: settings.clone(), uploads };
        let mut builder = S3ServiceBuilder::new(rooms.clone());
        builder.set_auth(guard::Admitted);
        builder.set_host(guard::Hosts(settings));
        S3Front { service: builder.build(), rooms, keys }
    }

    /// Removes uploads in parts that rested for [`UPLOAD_IDLE_DAYS_MAX`] days before `now`; how
    /// many. Blocks on files.
    ///
    /// # Errors
    /// What kept the parts from being removed; it may be tried again.
    pub fn sweep_uploads(&self, now: base::Timestamp) -> base::Result<usize> {
        multipart::sweep(&self.rooms, now)
    }

    /// Answers one request. Bodies stream both ways.
    pub async fn handle(&self, request: Request<Body>) -> Response<Body> {
        let id = request_id();
        let resource = request.uri().path().to_owned();
        let is_head = request.method() == http::Method::HEAD;
        let asks_attributes = request.method() == http::Method::GET
            && request
                .uri()
                .query()
                .unwrap_or_default()
                .split('&')
                .any(|pair| pair.split('=').next() == Some("attributes"));
        let waits = request.headers().contains_key(header::EXPECT);
        let (request, unread) = unread::share(request);
        let mut response = match guard::admit(&*self.keys, request).await {
            Err(error) => fault(error),
            Ok((request, secret)) => {
                let call = guard::SECRET.scope(secret, self.service.call(request));
                match Box::pin(call).await {
                    Ok(response) => response.map(Body::new),
                    Err(cause) => {
                        tracing::error!(?cause, "an S3 request could not be answered");
                        fault(s3s::s3_error!(InternalError))
                    }
                }
            }
        };
        let status = response.status();
        // Who waits to be told to go on sends nothing until then.
        let says_nothing = waits && unread.is_untouched();
        if !status.is_success() && !says_nothing {
            unread.drain().await;
        }
        if is_head || status == StatusCode::NOT_MODIFIED {
            if status.is_client_error() || status.is_redirection() || status.is_server_error() {
                response.headers_mut().remove(header::CONTENT_LENGTH);
                *response.body_mut() = Body::empty();
            }
        } else if asks_attributes && status.is_success() {
            response = without_quotes(response).await;
        } else if status.is_client_error() || status.is_server_error() {
            response = with_resource(response, &resource, &id).await;
        }
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert("x-amz-id-2", id.clone());
            response.headers_mut().insert("x-amz-request-id", id);
        }
        response.headers_mut().insert(header::SERVER, HeaderValue::from_static("AmazonS3"));
        response
    }
}

fn fault(error: s3s::S3Error) -> Response<Body> {
    match error.to_http_response() {
        Ok(response) => response.map(Body::new),
        Err(_cause) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    }
}

/// Errors are small; anything larger than this is none of ours.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// A page of 1,000 parts with their checksums is far below this.
const ATTRIBUTES_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What an error is that the protocol crate leaves without a word.
fn meaning(code: &str) -> &'static str {
    match code {
        "IncompleteBody" => {
            "You did not provide the number of bytes specified by the Content-Length header."
        }
        "InternalError" => "We encountered an internal error. Please try again.",
        "InvalidAccessKeyId" => "The access key ID you provided does not exist in our records.",
        "InvalidBucketName" => {
            "The specified bucket is not valid: a name has 3 to 63 lower-case letters, digits, '.' \
             and '-', and begins and ends with a letter or digit."
        }
        "InvalidURI" => "Couldn't parse the specified URI.",
        "KeyTooLongError" => "Your key is too long.",
        "MethodNotAllowed" => "The specified method is not allowed against this resource.",
        "NotImplemented" => {
            "A header or parameter you provided implies functionality that is not implemented."
        }
        "SignatureDoesNotMatch" => {
            "The request signature we calculated does not match the signature you provided. Check \
             your key and signing method."
        }
        _ => "The request is refused.",
    }
}

/// Adds to an error what it was about and the request's id, and what it means if it does not say.
async fn with_resource(response: Response<Body>, resource: &str, id: &str) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, ERROR_BYTES_MAX).await.unwrap_or_default();
    let mut text = String::from_utf8_lossy(&bytes);
    // A form that its policy does not allow: the policy itself is sound, says S3.
    if text.contains("<Code>InvalidPolicyDocument</Code>") && !text.contains("failed to parse") {
        parts.status = StatusCode::FORBIDDEN;
        text = text.replace("InvalidPolicyDocument", "AccessDenied").into();
    }
    if let Some((before, rest)) = text.split_once("<Code>")
        && let Some((code, after)) = rest.split_once("</Code>")
        && !after.contains("<Message>")
    {
        let message = meaning(code);
        text = format!("{before}<Code>{code}</Code><Message>{message}</Message>{after}").into();
    }
    let told = match text.strip_suffix("</Error>") {
        Some(before) => format!(
            "{before}<Resource>{}</Resource><RequestId>{id}</RequestId></Error>",
            escaped(resource)
        ),
        None => text.into_owned(),
    };
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(told))
}

/// In the attributes of an object the ETag stands without the quotes it has anywhere else, which
/// the protocol crate cannot say.
async fn without_quotes(response: Response<Body>) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, ATTRIBUTES_BYTES_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes)
        .replace("<ETag>&quot;", "<ETag>")
        .replace("&quot;</ETag>", "</ETag>")
        .replace("<ETag>\"", "<ETag>")
        .replace("\"</ETag>", "</ETag>");
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(text))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// An id that no other request of this process has.
fn request_id() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u64(NEXT.fetch_add(1, Ordering::Relaxed));
    format!("{:016X}", hasher.finish())
}
