//! A bucket on another S3 (AWS, MinIO, another Forebay) as an [`ObjectStore`].
//!
//! `object_store` has such a client of its own. It would bring nine crates more and change
//! features that the whole of Arrow and DataFusion is compiled with; and what delivery needs of
//! it is little: one request a call, limits on a peer that stalls, and errors that say what the
//! store said. Requests are `ureq`'s, signatures `identity`'s, both of which are here anyway.
//!
//! Invariants
//! * A call makes one request and is not repeated here; whoever asks knows whether it may be.
//! * An answer counts when it came whole: a body that is shorter than it was announced to be is
//!   an error, as is a listing that says there is more and not where.
//! * No call waits for ever: not for a connection, not for a peer that takes or gives nothing,
//!   and not for one that takes or gives a byte now and then.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base::{Clock, Error, ErrorKind, Result};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use http::{HeaderMap, StatusCode, header};
use identity::{Secret, sigv4};
use object_store::path::Path as Key;
use object_store::prefix::PrefixStore;
use object_store::{
    Attribute, AttributeValue, Attributes, CopyOptions, GetOptions, GetRange, GetResult,
    GetResultPayload, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use ureq::config::Config;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

/// What a key may have unescaped.
const PLAIN: AsciiSet =
    NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
/// What a value of a query may have unescaped.
const PLAIN_VALUE: AsciiSet = PLAIN.add(b'/');
const METADATA: &str = "x-amz-meta-";

/// Longest answer to anything but a GET: a listing of a thousand long keys.
const ANSWER_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Longest object that is read whole.
const OBJECT_BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Pages of one listing: ten million objects.
const PAGES_MAX: usize = 10_000;
/// Longest text of an error that is passed on.
const WHY_CHARS_MAX: usize = 300;
/// Idle connections are closed before most servers close them.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// How long a store is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For the name, the connection and its TLS.
    pub connect: Duration,
    /// For a peer that takes or gives nothing.
    pub stall: Duration,
    /// For the answer once the request is sent.
    pub answer: Duration,
    /// Bytes a second that a body must make on average, beyond `stall`.
    pub bytes_per_sec_min: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Patience {
            connect: Duration::from_secs(10),
            stall: Duration::from_secs(20),
            answer: Duration::from_secs(60),
            bytes_per_sec_min: 64 * 1024,
        }
    }
}

impl Patience {
    /// How long a body of so many bytes may take.
    fn body(&self, bytes: u64) -> Duration {
        self.stall + Duration::from_secs(bytes / self.bytes_per_sec_min.max(1))
    }
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Credentials {
    /// The access key.
    pub access_key_id: String,
    /// Its secret.
    pub secret: Secret,
    /// The session token of a temporary key.
    pub token: Option<String>,
}

/// Gives the credentials at each request, so that new ones are taken up by themselves.
pub type CredentialsOf = Arc<dyn Fn() -> Result<Credentials> + Send + Sync>;

/// Where a bucket lies.
#[derive(Clone)]
pub struct RemoteSettings {
    /// `https://host:port`; AWS's own if there is none.
    pub endpoint: Option<String>,
    /// The region that requests are signed for.
    pub region: String,
    /// The bucket's name there.
    pub bucket: String,
    /// What all its keys begin with there, without a slash at the end.
    pub prefix: String,
    /// Whether a connection without TLS will do.
    pub allow_http: bool,
    /// Whether the bucket is named in the host. Where that is not said: at AWS, and nowhere else.
    pub virtual_host: Option<bool>,
    /// How long to wait.
    pub patience: Patience,
    /// Who asks.
    pub credentials: CredentialsOf,
}

impl fmt::Debug for RemoteSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteSettings")
            .field("endpoint", &self.endpoint)
            .field("bucket", &self.bucket)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

/// The bucket that `settings` tell of. Nothing is asked of it yet.
pub fn remote(settings: RemoteSettings, clock: Arc<dyn Clock>) -> Result<objects::Remote> {
    let bad =
        |why: String| Error::invalid(format!("bucket {:?} elsewhere: {why}", settings.bucket));
    let region = &settings.region;
    let bucket = &settings.bucket;
    if bucket.is_empty() || bucket.contains('/') {
        return Err(bad("it needs a name".to_owned()));
    }
    let at_aws = settings.endpoint.is_none();
    let endpoint =
        settings.endpoint.clone().unwrap_or_else(|| format!("https://s3.{region}.amazonaws.com"));
    let uri: http::Uri = endpoint
        .parse()
        .map_err(|cause| bad(format!("endpoint {endpoint:?} is not an address: {cause}")))?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(bad(format!(
            "endpoint {endpoint:?} must be https://HOST or https://HOST:PORT"
        )));
    };
    match scheme {
        "https" => {}
        "http" if settings.allow_http => {}
        "http" => {
            return Err(bad(format!(
                "endpoint {endpoint:?} has no TLS, so anybody on the way could read and change \
                 what is sent; use https, or say allow_http = true"
            )));
        }
        _ => {
            return Err(bad(format!(
                "endpoint {endpoint:?} begins neither with https:// nor http://"
            )));
        }
    }
    if authority.as_str().contains('@') || !matches!(uri.path(), "" | "/") || uri.query().is_some()
    {
        return Err(bad(format!(
            "endpoint {endpoint:?} must be a scheme, a host and a port, no more"
        )));
    }
    // A certificate for *.s3.REGION covers one label, and a dot would make two of the name.
    let in_host = settings.virtual_host.unwrap_or(at_aws && !bucket.contains('.'));
    let (host, root) = match in_host {
        true => (format!("{bucket}.{authority}"), String::new()),
        false => (authority.to_string(), format!("/{bucket}")),
    };
    let prefix = settings.prefix.trim_matches('/').to_owned();
    let place = match prefix.as_str() {
        "" => format!("{scheme}://{authority}/{bucket}"),
        prefix => format!("{scheme}://{authority}/{bucket}/{prefix}"),
    };
    let store = S3 {
        inner: Arc::new(Inner {
            base: format!("{scheme}://{host}"),
            host,
            root,
            settings: settings.clone(),
            clock,
            agent: OnceLock::new(),
        }),
    };
    let store: Arc<dyn ObjectStore> = match prefix.as_str() {
        "" => Arc::new(store),
        prefix => {
            let prefix = Key::parse(prefix)
                .map_err(|cause| bad(format!("prefix {prefix:?} is no key: {cause}")))?;
            Arc::new(PrefixStore::new(store, prefix))
        }
    };
    Ok(objects::Remote::new(store, place))
}

/// The store. Clones share its connections.
#[derive(Clone, Debug)]
struct S3 {
    inner: Arc<Inner>,
}

struct Inner {
    base: String,
    host: String,
    root: String,
    settings: RemoteSettings,
    clock: Arc<dyn Clock>,
    agent: OnceLock<ureq::Agent>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("base", &self.base).field("root", &self.root).finish()
    }
}

impl fmt::Display for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3({}{})", self.inner.base, self.inner.root)
    }
}

/// A request to be signed.
struct Ask<'a> {
    method: &'static str,
    /// Unescaped, below the bucket.
    key: &'a str,
    query: Vec<(&'static str, String)>,
    headers: Vec<(String, String)>,
    body: &'a [u8],
    answer_bytes_max: u64,
}

impl<'a> Ask<'a> {
    fn new(method: &'static str, key: &'a str) -> Self {
        Ask {
            method,
            key,
            query: Vec::new(),
            headers: Vec::new(),
            body: &[],
            answer_bytes_max: ANSWER_BYTES_MAX,
        }
    }
}

/// An answer that came whole.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Inner {
    /// Asks once. Blocks.
    fn ask(&self, ask: Ask<'_>) -> Result<Answer> {
        let path = format!("{}/{}", self.root, utf8_percent_encode(ask.key, &PLAIN));
        let mut query = ask.query;
        query.sort();
        let query: Vec<String> = query
            .iter()
            .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, &PLAIN_VALUE)))
            .collect();
        let query = query.join("&");
        let mut headers = ask.headers;
        headers.push(("host".to_owned(), self.host.clone()));
        let credentials = (self.settings.credentials)()?;
        let signer = sigv4::Signer {
            access_key_id: &credentials.access_key_id,
            secret: &credentials.secret,
            token: credentials.token.as_deref(),
            region: &self.settings.region,
            service: "s3",
            rules: sigv4::S3,
        };
        let given = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let request = sigv4::Request {
            method: ask.method,
            path: &path,
            query: &query,
            headers: given.collect(),
            body: ask.body,
        };
        let signed = signer.headers(&request, self.clock.now());
        headers.extend(signed.into_iter().map(|(name, value)| (name.to_owned(), value)));

        let url = match query.as_str() {
            "" => format!("{}{path}", self.base),
            query => format!("{}{path}?{query}", self.base),
        };
        let what = format!("{} {}{path}", ask.method, self.base);
        let unavailable =
            |why: String| Error::new(ErrorKind::Unavailable, format!("{what}: {why}"));
        let mut request = http::Request::builder().method(ask.method).uri(&url);
        for (name, value) in &headers {
            request = request.header(name, value);
        }
        let bad = |cause: http::Error| Error::invalid(format!("{what}: {cause}"));
        let agent = self.agent();
        let patience = &self.settings.patience;
        let limit = Some(patience.body(ask.body.len() as u64));
        let answer = match ask.method {
            "PUT" => {
                let request = request.body(ask.body).map_err(bad)?;
                let request = agent.configure_request(request).timeout_send_body(limit).build();
                agent.run(request)
            }
            _ => agent.run(request.body(()).map_err(bad)?),
        };
        let mut answer = answer.map_err(|cause| unavailable(said(&cause)))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let announced = match ask.method {
            "HEAD" => Some(0),
            _ => answer.body().content_length(),
        };
        if announced.is_some_and(|bytes| bytes > ask.answer_bytes_max) {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!("{what}: the answer is longer than {} bytes", ask.answer_bytes_max),
            ));
        }
        let body = match ask.method {
            "HEAD" => Vec::new(),
            _ => read(answer.body_mut().as_reader(), announced, ask.answer_bytes_max, patience)
                .map_err(|why| unavailable(format!("reading its answer ({status}): {why}")))?,
        };
        Ok(Answer { status, headers, body })
    }

    /// Made when it is first needed: reading the system's certificates takes a while.
    fn agent(&self) -> &ureq::Agent {
        self.agent.get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::warn!(%error, "one of the system's root certificates cannot be read");
            }
            let roots: Vec<_> =
                found.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let tls = TlsConfig::builder()
                .root_certs(RootCerts::Specific(Arc::new(roots)))
                .unversioned_rustls_crypto_provider(provider)
                .build();
            let patience = &self.settings.patience;
            let config = Config::builder()
                .http_status_as_error(false)
                .max_redirects(0)
                .max_redirects_will_error(false)
                .max_idle_age(IDLE_MAX)
                .proxy(None)
                .tls_config(tls)
                .user_agent("forebay")
                .timeout_resolve(Some(patience.connect))
                .timeout_connect(Some(patience.connect))
                .timeout_send_request(Some(patience.stall))
                .timeout_recv_response(Some(patience.answer))
                .timeout_per_read(Some(patience.stall.max(patience.answer)))
                .timeout_per_write(Some(patience.stall))
                .build();
            ureq::Agent::new_with_config(config)
        })
    }

    /// What an answer that is no success means.
    fn refused(&self, doing: &'static str, key: &str, answer: &Answer) -> object_store::Error {
        let text = std::str::from_utf8(&answer.body).unwrap_or_default();
        let code = element(text, "Code").unwrap_or_default();
        let mut why: String =
            element(text, "Message").unwrap_or_default().chars().take(WHY_CHARS_MAX).collect();
        if why.is_empty() {
            why = answer.status.canonical_reason().unwrap_or_default().to_owned();
        }
        let status = answer.status.as_u16();
        let bucket = &self.settings.bucket;
        let said = match code.as_str() {
            "" => format!("{doing} answered {status} ({why})"),
            code => format!("{doing} answered {status} {code} ({why})"),
        };
        let source = || said.clone().into();
        match (status, code.as_str()) {
            (404, "NoSuchBucket") => {
                generic(Error::not_found(format!("bucket {bucket:?} does not exist there: {said}")))
            }
            (404, _) => object_store::Error::NotFound { path: key.to_owned(), source: source() },
            (412, _) => {
                object_store::Error::AlreadyExists { path: key.to_owned(), source: source() }
            }
            (401 | 403, _) => generic(Error::new(ErrorKind::Denied, said)),
            (501, _) => generic(Error::unsupported(said)),
            (300..=399, _) => generic(Error::invalid(format!(
                "{said}: is the bucket in another region than {:?}?",
                self.settings.region
            ))),
            (408 | 409 | 425 | 429 | 500.., _) => generic(Error::new(ErrorKind::Unavailable, said)),
            // What S3 says when a body came torn or late, and then a second attempt helps.
            (_, "RequestTimeout" | "IncompleteBody" | "BadDigest" | "InternalError") => {
                generic(Error::new(ErrorKind::Unavailable, said))
            }
            _ => generic(Error::invalid(said)),
        }
    }

    fn put(
        &self,
        key: &str,
        bytes: &[u8],
        headers: Vec<(String, String)>,
    ) -> object_store::Result<PutResult> {
        let answer = self.ask(Ask { headers, body: bytes, ..Ask::new("PUT", key) });
        let answer = answer.map_err(generic)?;
        match answer.status.is_success() {
            true => Ok(PutResult { e_tag: etag(&answer), version: None }),
            false => Err(self.refused("PUT", key, &answer)),
        }
    }

    fn get(
        &self,
        key: &str,
        range: Option<&GetRange>,
        head: bool,
    ) -> object_store::Result<GetResult> {
        let method = if head { "HEAD" } else { "GET" };
        let mut ask = Ask { answer_bytes_max: OBJECT_BYTES_MAX, ..Ask::new(method, key) };
        if let Some(range) = range {
            let text = match range {
                GetRange::Bounded(range) => {
                    format!("bytes={}-{}", range.start, range.end.saturating_sub(1))
                }
                GetRange::Offset(from) => format!("bytes={from}-"),
                GetRange::Suffix(last) => format!("bytes=-{last}"),
            };
            ask.headers.push(("range".to_owned(), text));
        }
        let answer = self.ask(ask).map_err(generic)?;
        if !answer.status.is_success() {
            return Err(self.refused(method, key, &answer));
        }
        let odd = |what: &str| {
            generic(Error::new(ErrorKind::Unavailable, format!("{method} {key:?}: {what}")))
        };
        let length = answer.header("content-length").and_then(|text| text.parse::<u64>().ok());
        let (range, size) = match answer.header("content-range").map(content_range) {
            Some(Some(found)) => found,
            Some(None) => return Err(odd("it answered an unreadable Content-Range")),
            None if range.is_some() => return Err(odd("it did not answer the range asked for")),
            None => {
                let size = length.unwrap_or(answer.body.len() as u64);
                (0..size, size)
            }
        };
        if !head && answer.body.len() as u64 != range.end - range.start {
            return Err(odd("the answer has another length than it says"));
        }
        let modified = answer.header("last-modified");
        let modified = modified.and_then(|text| chrono::DateTime::parse_from_rfc2822(text).ok());
        let meta = ObjectMeta {
            location: Key::parse(key)?,
            last_modified: modified.unwrap_or_default().to_utc(),
            size,
            e_tag: etag(&answer),
            version: None,
        };
        let mut attributes = Attributes::new();
        for (name, value) in &answer.headers {
            let kept = name.as_str().strip_prefix(METADATA);
            if let (Some(name), Ok(value)) = (kept, value.to_str()) {
                let value = AttributeValue::from(value.to_owned());
                attributes.insert(Attribute::Metadata(name.to_owned().into()), value);
            }
        }
        let body = Bytes::from(answer.body);
        let payload =
            GetResultPayload::Stream(futures::stream::once(std::future::ready(Ok(body))).boxed());
        Ok(GetResult { payload, meta, range, attributes })
    }

    fn remove(&self, key: &str) -> object_store::Result<()> {
        let answer = self.ask(Ask::new("DELETE", key)).map_err(generic)?;
        match answer.status.is_success() || answer.status == StatusCode::NOT_FOUND {
            true => Ok(()),
            false => Err(self.refused("DELETE", key, &answer)),
        }
    }

    fn page(
        &self,
        prefix: &str,
        delimiter: bool,
        token: Option<String>,
    ) -> object_store::Result<ListedPage> {
        let mut ask = Ask::new("GET", "");
        ask.query.push(("list-type", "2".to_owned()));
        ask.query.push(("encoding-type", "url".to_owned()));
        ask.query.push(("prefix", prefix.to_owned()));
        ask.query.extend(delimiter.then(|| ("delimiter", "/".to_owned())));
        ask.query.extend(token.clone().map(|token| ("continuation-token", token)));
        let answer = self.ask(ask).map_err(generic)?;
        if !answer.status.is_success() {
            return Err(self.refused("a listing", prefix, &answer));
        }
        let odd = |what: String| {
            generic(Error::new(ErrorKind::Unavailable, format!("a listing of {prefix:?}: {what}")))
        };
        let text = std::str::from_utf8(&answer.body).map_err(|cause| odd(cause.to_string()))?;
        let page = ListedPage::read(text).map_err(odd)?;
        if page.next.is_some() && page.next == token {
            return Err(odd("its next page is this one again".to_owned()));
        }
        Ok(page)
    }
}

/// A body that may take so long and be so long.
fn read(
    mut body: impl Read,
    announced: Option<u64>,
    most: u64,
    patience: &Patience,
) -> std::result::Result<Vec<u8>, String> {
    let deadline = Instant::now() + patience.body(announced.unwrap_or(most));
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let count = body.read(&mut buffer).map_err(|cause| said(&cause))?;
        if count == 0 {
            break;
        }
        bytes.extend_from_slice(&buffer[..count]);
        if bytes.len() as u64 > most {
            return Err(format!("it is longer than {most} bytes"));
        }
        if Instant::now() > deadline {
            return Err(format!("only {} bytes came in time", bytes.len()));
        }
    }
    match announced {
        Some(announced) if announced != bytes.len() as u64 => {
            Err(format!("{} bytes came of {announced}", bytes.len()))
        }
        _ => Ok(bytes),
    }
}

/// An error with what caused it.
fn said(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

fn etag(answer: &Answer) -> Option<String> {
    answer.header(header::ETAG.as_str()).map(|text| text.trim_matches('"').to_owned())
}

/// `bytes 0-9/100`.
fn content_range(text: &str) -> Option<(std::ops::Range<u64>, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (from, to) = range.split_once('-')?;
    let (from, to, size) = (from.parse().ok()?, to.parse::<u64>().ok()?, size.parse().ok()?);
    (from <= to && to < size).then_some((from..to + 1, size))
}

/// A part of a listing.
#[derive(Debug, Default)]
struct ListedPage {
    objects: Vec<ObjectMeta>,
    prefixes: Vec<Key>,
    next: Option<String>,
}

impl ListedPage {
    fn read(text: &str) -> std::result::Result<ListedPage, String> {
        use quick_xml::events::Event;
        let mut page = ListedPage::default();
        let mut reader = quick_xml::Reader::from_str(text);
        let mut open: Vec<String> = Vec::new();
        let mut found: BTreeMap<String, String> = BTreeMap::new();
        let mut truncated = false;
        let mut ended = false;
        loop {
            match reader.read_event().map_err(|cause| format!("it is not XML: {cause}"))? {
                Event::Start(start) => {
                    open.push(String::from_utf8_lossy(start.local_name().as_ref()).into_owned());
                }
                Event::Text(piece) => {
                    let piece = piece.decode().map_err(|cause| cause.to_string())?;
                    if let Some(name) = open.last() {
                        found.entry(name.clone()).or_default().push_str(&piece);
                    }
                }
                Event::GeneralRef(reference) => {
                    let name = String::from_utf8_lossy(&reference).into_owned();
                    let piece = character(&name).ok_or_else(|| format!("unknown &{name};"))?;
                    if let Some(name) = open.last() {
                        found.entry(name.clone()).or_default().push(piece);
                    }
                }
                Event::End(_) => match (open.pop().as_deref(), open.len()) {
                    (Some("Contents"), 1) => page.add_object(&std::mem::take(&mut found))?,
                    (Some("CommonPrefixes"), 1) => {
                        let prefix = std::mem::take(&mut found).remove("Prefix");
                        let prefix = decoded(&prefix.unwrap_or_default());
                        page.prefixes.extend(Key::parse(prefix.trim_end_matches('/')).ok());
                    }
                    (Some(name), 1) => {
                        let value = found.remove(name).unwrap_or_default();
                        match name {
                            "IsTruncated" => truncated = value.trim() == "true",
                            "NextContinuationToken" => page.next = Some(value),
                            _ => {}
                        }
                    }
                    (Some("ListBucketResult"), 0) => ended = true,
                    _ => {}
                },
                Event::Eof => break,
                _ => {}
            }
        }
        match () {
            () if !ended => Err("it is no whole ListBucketResult".to_owned()),
            () if truncated && page.next.is_none() => {
                Err("it says that there is more, and not where".to_owned())
            }
            () => {
                page.next = page.next.filter(|_| truncated);
                Ok(page)
            }
        }
    }

    fn add_object(&mut self, found: &BTreeMap<String, String>) -> std::result::Result<(), String> {
        let field = |name: &str| found.get(name).map(|text| text.trim()).unwrap_or_default();
        let key = decoded(found.get("Key").map(String::as_str).unwrap_or_default());
        // A key that is no path was written by somebody else and cannot be named here.
        let Ok(location) = Key::parse(&key) else {
            tracing::debug!(key, "a key that is no path is left out of a listing");
            return Ok(());
        };
        let modified = chrono::DateTime::parse_from_rfc3339(field("LastModified"))
            .map_err(|cause| format!("the time of {key:?}: {cause}"))?;
        self.objects.push(ObjectMeta {
            location,
            last_modified: modified.to_utc(),
            size: field("Size").parse().map_err(|cause| format!("the size of {key:?}: {cause}"))?,
            e_tag: Some(field("ETag").trim_matches('"').to_owned()),
            version: None,
        });
        Ok(())
    }
}

/// Listings are asked for with escaped keys, since XML cannot carry every character.
fn decoded(text: &str) -> String {
    let text = text.replace('+', " ");
    percent_decode_str(&text).decode_utf8_lossy().into_owned()
}

/// The character that `&name;` stands for.
fn character(name: &str) -> Option<char> {
    match name {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = name.strip_prefix('#')?;
            let code = match number.strip_prefix('x') {
                Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                None => number.parse().ok()?,
            };
            char::from_u32(code)
        }
    }
}

/// The text of an element of an error, which has no elements within.
fn element(text: &str, name: &str) -> Option<String> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    let (value, _) = rest.split_once(&format!("</{name}>"))?;
    let plain = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&amp;", "&")];
    Some(plain.iter().fold(value.to_owned(), |text, (from, to)| text.replace(from, to)))
}

fn generic(error: Error) -> object_store::Error {
    object_store::Error::Generic { store: "S3", source: error.into() }
}

impl S3 {
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> object_store::Result<T> + Send + 'static,
    ) -> object_store::Result<T> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || work(&inner))
            .await
            .map_err(|source| object_store::Error::JoinError { source })?
    }

    fn refuse(&self, operation: &str) -> object_store::Error {
        object_store::Error::NotImplemented {
            operation: operation.to_owned(),
            implementer: self.to_string(),
        }
    }

    fn pages(
        &self,
        prefix: Option<&Key>,
        delimiter: bool,
    ) -> BoxStream<'static, object_store::Result<ListedPage>> {
        let prefix = prefix.map(|prefix| format!("{prefix}/")).filter(|prefix| prefix != "/");
        let prefix = prefix.unwrap_or_default();
        let this = self.clone();
        let begin = Some((None::<String>, 0_usize));
        let pages = futures::stream::try_unfold(begin, move |state| {
            let (this, prefix) = (this.clone(), prefix.clone());
            async move {
                let Some((token, number)) = state else { return Ok(None) };
                if number >= PAGES_MAX {
                    let message = format!("a listing of {prefix:?} has no end");
                    return Err(generic(Error::new(ErrorKind::Exhausted, message)));
                }
                let page =
                    this.blocking(move |inner| inner.page(&prefix, delimiter, token)).await?;
                let next = page.next.clone().map(|token| (Some(token), number + 1));
                Ok(Some((page, next)))
            }
        });
        pages.boxed()
    }
}

#[async_trait]
impl ObjectStore for S3 {
    async fn put_opts(
        &self,
        location: &Key,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        let mut headers = Vec::new();
        match options.mode {
            PutMode::Overwrite => {}
            PutMode::Create => headers.push(("if-none-match".to_owned(), "*".to_owned())),
            PutMode::Update(_) => return Err(self.refuse("put if the version matches")),
        }
        if !options.tags.encoded().is_empty() {
            return Err(self.refuse("put with tags"));
        }
        for (attribute, value) in &options.attributes {
            let name = match attribute {
                Attribute::Metadata(name) => format!("{METADATA}{}", name.to_lowercase()),
                Attribute::ContentType => "content-type".to_owned(),
                other => return Err(self.refuse(&format!("put with {other:?}"))),
            };
            headers.push((name, value.to_string()));
        }
        let (key, bytes) = (location.to_string(), Bytes::from(payload));
        self.blocking(move |inner| inner.put(&key, &bytes, headers)).await
    }

    async fn put_multipart_opts(
        &self,
        _: &Key,
        _: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        Err(self.refuse("upload in parts"))
    }

    async fn get_opts(
        &self,
        location: &Key,
        options: GetOptions,
    ) -> object_store::Result<GetResult> {
        let conditional = options.if_match.is_some()
            || options.if_none_match.is_some()
            || options.if_modified_since.is_some()
            || options.if_unmodified_since.is_some()
            || options.version.is_some();
        if conditional {
            return Err(self.refuse("read under a condition"));
        }
        let key = location.to_string();
        self.blocking(move |inner| inner.get(&key, options.range.as_ref(), options.head)).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, object_store::Result<Key>>,
    ) -> BoxStream<'static, object_store::Result<Key>> {
        let this = self.clone();
        locations
            .and_then(move |key| {
                let (this, name) = (this.clone(), key.to_string());
                async move {
                    this.blocking(move |inner| inner.remove(&name)).await?;
                    Ok(key)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        let pages = self.pages(prefix, false);
        let objects = |page: ListedPage| futures::stream::iter(page.objects.into_iter().map(Ok));
        pages.map_ok(objects).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> object_store::Result<ListResult> {
        let mut all = ListResult { common_prefixes: Vec::new(), objects: Vec::new() };
        let mut pages = self.pages(prefix, true);
        while let Some(page) = pages.try_next().await? {
            all.common_prefixes.extend(page.prefixes);
            all.objects.extend(page.objects);
        }
        Ok(all)
    }

    async fn copy_opts(&self, _: &Key, _: &Key, _: CopyOptions) -> object_store::Result<()> {
        Err(self.refuse("copy"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(endpoint: Option<&str>, bucket: &str) -> RemoteSettings {
        RemoteSettings {
            endpoint: endpoint.map(str::to_owned),
            region: "eu-west-1".to_owned(),
            bucket: bucket.to_owned(),
            prefix: String::new(),
            allow_http: false,
            virtual_host: None,
            patience: Patience::default(),
            credentials: Arc::new(|| Err(Error::internal("nobody is asked"))),
        }
    }

    #[test]
    fn a_place_is_read_and_what_is_none_is_refused() {
        let place = |endpoint: Option<&str>, bucket: &str| {
            remote(settings(endpoint, bucket), Arc::new(base::SystemClock))
                .map(|remote| (remote.place.clone(), remote.store.to_string()))
        };
        assert_eq!(
            place(None, "lake").unwrap(),
            (
                "https://s3.eu-west-1.amazonaws.com/lake".to_owned(),
                "S3(https://lake.s3.eu-west-1.amazonaws.com)".to_owned()
            )
        );
        assert_eq!(
            place(None, "my.lake").unwrap().1,
            "S3(https://s3.eu-west-1.amazonaws.com/my.lake)"
        );
        assert_eq!(
            place(Some("https://minio:9000"), "lake").unwrap().1,
            "S3(https://minio:9000/lake)"
        );
        for (endpoint, part) in [
            ("http://minio:9000", "allow_http"),
            ("minio:9000", "must be https://HOST"),
            ("ftp://minio", "begins neither"),
            ("https://u:p@minio", "no more"),
            ("https://minio/lake", "no more"),
            ("", "is not an address"),
        ] {
            let error = place(Some(endpoint), "lake").unwrap_err().to_string();
            assert!(error.contains(part), "{endpoint}: {error}");
        }
    }

    #[test]
    fn a_listing_is_read_whole_or_refused() {
        let object = "<Contents><Key>a%2Fb+c%26</Key><LastModified>2026-11-23T04:05:06.000Z\
                      </LastModified><ETag>&quot;abc&quot;</ETag><Size>7</Size><Owner><ID>x</ID>\
                      </Owner></Contents>";
        let whole = |inside: &str| {
            format!(
                "<?xml version=\"1.0\"?><ListBucketResult xmlns=\"u\">{inside}</ListBucketResult>"
            )
        };
        let page = ListedPage::read(&whole(&format!(
            "<Name>lake</Name><IsTruncated>true</IsTruncated><NextContinuationToken>t&amp;1\
             </NextContinuationToken>{object}<CommonPrefixes><Prefix>d/</Prefix></CommonPrefixes>"
        )))
        .unwrap();
        let found = &page.objects[0];
        assert_eq!((found.location.as_ref(), found.size), ("a/b c&", 7));
        assert_eq!(found.e_tag.as_deref(), Some("abc"));
        assert_eq!((page.next.as_deref(), page.prefixes[0].as_ref()), (Some("t&1"), "d"));
        let last = ListedPage::read(&whole("<IsTruncated>false</IsTruncated>")).unwrap();
        assert!(last.next.is_none() && last.objects.is_empty());
        for torn in [
            whole("<IsTruncated>true</IsTruncated>"),
            whole(object).replace("</ListBucketResult>", ""),
            whole(object)[..120].to_owned(),
            whole("<Contents><Key>a</Key></Contents>"),
            "<html>down for maintenance</html>".to_owned(),
            String::new(),
        ] {
            assert!(ListedPage::read(&torn).is_err(), "{torn}");
        }
    }
}
