//! What leaves this machine because a user's rule says so: HTTP requests to hosts that the
//! settings list, and to nobody else.
//!
//! * Nothing is listed unless the user lists it; an error names the entry that is missing.
//! * A name that is listed opens only addresses of the internet. This machine, its network and
//!   the metadata services of clouds are reached only where their addresses are listed too.
//! * The address that was checked is the address that is connected to: names are resolved once.
//!   Redirects are not followed and no proxy is asked.
//! * An endpoint that fails again and again is left alone for a while, so that waiting for it
//!   does not hold up what goes elsewhere.

mod allowed;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use base::{Error, ErrorKind, Result};
use ureq::config::Config;
use ureq::http::{HeaderName, HeaderValue, Uri, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};
use url::Url;

use crate::allowed::Allowed;

/// How long one delivery may take with all its attempts, as on AWS.
pub const DELIVERY_MAX: Duration = Duration::from_secs(3);

/// How often one delivery is attempted, as on AWS.
pub const ATTEMPTS_MAX: u32 = 3;

/// The longest answer that is read, as on AWS; after a longer one there is no further attempt.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;

/// The pause before another attempt.
const PAUSE: Duration = Duration::from_millis(100);

/// So many failures in a row, and an endpoint is left alone for [`REST`].
const FAILURES_MAX: u32 = 5;
const REST: Duration = Duration::from_secs(10);

/// Idle connections are closed before most servers close them.
const IDLE_MAX: Duration = Duration::from_secs(2);

/// Headers that say how a request is carried and are not the user's to set.
const CARRIAGE: [HeaderName; 8] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The way out.
#[derive(Debug)]
pub struct Egress {
    allowed: Arc<Allowed>,
    agent: OnceLock<ureq::Agent>,
    /// By scheme, host and port.
    failing: Mutex<BTreeMap<String, Failing>>,
}

/// An endpoint that failed last time.
#[derive(Clone, Copy, Debug)]
struct Failing {
    in_a_row: u32,
    until: Instant,
}

impl Egress {
    /// A way out to what `allowed` lists: host names, `*.suffix`es, addresses and networks.
    pub fn new(allowed: &[String]) -> Result<Egress> {
        let allowed = Arc::new(Allowed::read(allowed)?);
        Ok(Egress { allowed, agent: OnceLock::new(), failing: Mutex::default() })
    }

    /// Reads an address and refuses what may not be called.
    pub fn check(&self, url: &str) -> Result<Url> {
        let parsed = Url::parse(url)
            .map_err(|error| Error::invalid(format!("{url:?} is not a URL: {error}")))?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(Error::invalid(format!("{url:?}: a URL begins with https:// or http://")));
        }
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(Error::invalid(format!(
                "the URL of host {:?} holds a user name or a password; send them in a header",
                parsed.host_str().unwrap_or_default()
            )));
        }
        self.allowed.check_host(&parsed)?;
        Ok(parsed)
    }

    /// Posts `body`. An answer of 429 or 5xx is tried again, as AWS does it; everything that is
    /// not 2xx in the end is an error. Blocks for at most [`DELIVERY_MAX`].
    pub fn post(&self, url: &str, headers: &[(String, String)], body: &[u8]) -> Result<()> {
        let url = self.check(url)?;
        let headers = headers.iter().map(|(name, value)| check_header(name, value));
        let headers = headers.collect::<Result<Vec<_>>>()?;
        let endpoint = url.origin().ascii_serialization();
        self.may_try(&endpoint)?;
        let outcome = self.attempt(&url, &headers, body);
        self.note(&endpoint, outcome.as_ref().err());
        outcome
    }

    fn attempt(&self, url: &Url, headers: &[(HeaderName, HeaderValue)], body: &[u8]) -> Result<()> {
        let agent = self.agent()?;
        let deadline = Instant::now() + DELIVERY_MAX;
        let unavailable =
            |why: String| Error::new(ErrorKind::Unavailable, format!("POST {url}: {why}"));
        let mut attempts = 0;
        loop {
            attempts += 1;
            let left = deadline.saturating_duration_since(Instant::now());
            let mut request = agent.post(url.as_str());
            for (name, value) in headers {
                request = request.header(name, value);
            }
            let request = request.config().timeout_global(Some(left)).build();
            let mut answer = request.send(body).map_err(|error| match error {
                ureq::Error::Other(refused) => {
                    Error::new(ErrorKind::Denied, format!("POST {url}: {refused}"))
                }
                error => unavailable(error.to_string()),
            })?;
            let status = answer.status();
            let mut text = Vec::new();
            let body = answer.body_mut().as_reader();
            let read = body.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut text);
            if status.is_success() {
                return Ok(());
            }
            let mut why = format!("it answered {status}");
            let said: String = String::from_utf8_lossy(&text).chars().take(200).collect();
            if !said.is_empty() {
                why = format!("{why}: {said}");
            }
            let again = status == 429 || status.is_server_error();
            let whole = read.is_ok_and(|bytes| bytes as u64 <= ANSWER_BYTES_MAX);
            let pause = PAUSE * attempts;
            let in_time = Instant::now() + pause < deadline;
            if !again {
                return Err(Error::invalid(format!("POST {url}: {why}")));
            }
            if !whole || !in_time || attempts >= ATTEMPTS_MAX {
                return Err(unavailable(why));
            }
            std::thread::sleep(pause);
        }
    }

    /// Refuses an endpoint that is left alone.
    fn may_try(&self, endpoint: &str) -> Result<()> {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = failing.get_mut(endpoint) else { return Ok(()) };
        let now = Instant::now();
        if found.in_a_row < FAILURES_MAX {
            return Ok(());
        }
        if found.until > now {
            let message = format!(
                "{endpoint} failed {} times in a row and is left alone for another {} s",
                found.in_a_row,
                (found.until - now).as_secs() + 1
            );
            return Err(Error::new(ErrorKind::Exhausted, message));
        }
        // One goes and sees; the others wait for what it finds.
        found.until = now + REST;
        Ok(())
    }

    /// Remembers how it went. What was refused here says nothing about the endpoint.
    fn note(&self, endpoint: &str, error: Option<&Error>) {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        match error.map(Error::kind) {
            Some(ErrorKind::Unavailable) => {
                let now = Instant::now();
                let found = failing
                    .entry(endpoint.to_owned())
                    .or_insert(Failing { in_a_row: 0, until: now });
                found.in_a_row += 1;
                found.until = now + REST;
                if found.in_a_row == FAILURES_MAX {
                    tracing::warn!(
                        endpoint,
                        "an HTTP endpoint fails and is left alone for {REST:?}"
                    );
                }
            }
            Some(ErrorKind::Denied) => {}
            _ => {
                failing.remove(endpoint);
            }
        }
    }

    /// Made when it is first needed: reading the system's certificates takes a while.
    fn agent(&self) -> Result<&ureq::Agent> {
        if let Some(agent) = self.agent.get() {
            return Ok(agent);
        }
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "one of the system's root certificates cannot be read");
        }
        let roots: Vec<_> =
            found.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
        let tls = TlsConfig::builder()
            .root_certs(RootCerts::Specific(Arc::new(roots)))
            .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .build();
        let config = Config::builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_idle_age(IDLE_MAX)
            .proxy(None)
            .tls_config(tls)
            .user_agent("forebay")
            .build();
        let resolver = Checked { allowed: self.allowed.clone(), inner: DefaultResolver::default() };
        let agent = ureq::Agent::with_parts(config, DefaultConnector::new(), resolver);
        Ok(self.agent.get_or_init(|| agent))
    }
}

/// Whether everything under `confirmed` may go to `url`: the same scheme, host and port, and a
/// path below it.
pub fn lies_under(url: &Url, confirmed: &Url) -> bool {
    let (path, above) = (url.path(), confirmed.path());
    let below = path
        .strip_prefix(above)
        .is_some_and(|rest| rest.is_empty() || above.ends_with('/') || rest.starts_with('/'));
    url.origin() == confirmed.origin() && below
}

/// Refuses a header that HTTP cannot carry or that is not the user's to set.
pub fn check_header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue)> {
    let parsed = HeaderName::try_from(name)
        .map_err(|_not_one| Error::invalid(format!("{name:?} is not the name of a header")))?;
    if CARRIAGE.contains(&parsed) {
        return Err(Error::invalid(format!("the header {name:?} cannot be set; HTTP needs it")));
    }
    let value = HeaderValue::try_from(value).map_err(|_not_one| {
        Error::invalid(format!("the header {name:?} cannot have the value {value:?}"))
    })?;
    Ok((parsed, value))
}

/// Resolves names, and refuses those that lead where nothing may go.
#[derive(Debug)]
struct Checked {
    allowed: Arc<Allowed>,
    inner: DefaultResolver,
}

impl Resolver for Checked {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> std::result::Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.inner.resolve(uri, config, timeout)?;
        let permitted = self.allowed.filter(uri.host().unwrap_or_default(), &found);
        let mut kept = self.empty();
        for address in permitted.map_err(|why| ureq::Error::Other(why.into()))? {
            kept.push(address);
        }
        Ok(kept)
    }
}
