//! API keys: for programs that ask for forecasts and know nothing of AWS's signatures.
//!
//! A key is 256 random bits behind a prefix by which scanners of leaked secrets find it. It is
//! shown once, when it is made; what is kept is its SHA-256, which is enough, since nobody
//! guesses 256 bits and a slow hash would only cost every request. It opens endpoints and
//! nothing else: all of them, or those it is bound to.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use base::{Clock, Error, ErrorKind, Result, Timestamp};
use metastore::{Metastore, Row};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Secret;

/// What every key begins with.
pub const API_KEY_PREFIX: &str = "forebay_";

/// Keys there may be; each request is compared with all of them.
pub const API_KEYS_MAX: usize = 1000;

/// A key without its secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApiKey {
    /// What its owner calls it.
    pub name: String,
    /// The endpoints it opens; every one where none is named.
    pub endpoints: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
}

impl ApiKey {
    /// Whether it opens an endpoint.
    pub fn opens(&self, endpoint: &str) -> bool {
        self.endpoints.is_empty() || self.endpoints.iter().any(|name| name == endpoint)
    }
}

/// Why what was presented is no key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiKeyRefusal {
    /// There is no such key, or none any more.
    Unknown,
    /// It was one, under this name, until it ended.
    Expired(String),
}

#[derive(Serialize, Deserialize)]
struct ApiKeyRow {
    sha256: String,
    endpoints: Vec<String>,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
}

impl Row for ApiKeyRow {
    const TABLE: &'static str = "api-keys";
}

/// A key as requests are compared with it.
struct Known {
    sha256: String,
    key: ApiKey,
}

impl Known {
    fn of(name: String, row: ApiKeyRow) -> Known {
        let ApiKeyRow { sha256, endpoints, created_at, expires_at } = row;
        Known { sha256, key: ApiKey { name, endpoints, created_at, expires_at } }
    }
}

/// The API keys of one data directory.
pub struct ApiKeys {
    store: Metastore,
    clock: Arc<dyn Clock>,
    /// Taken around "store, then memory".
    changing: Mutex<()>,
    known: RwLock<Vec<Known>>,
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("ApiKeys").field("keys", &known.len()).finish_non_exhaustive()
    }
}

impl ApiKeys {
    /// Reads the keys into memory.
    pub fn open(store: Metastore, clock: Arc<dyn Clock>) -> Result<Arc<ApiKeys>> {
        let rows = store.list::<ApiKeyRow>()?;
        let known = rows.into_iter().map(|(name, seen)| Known::of(name, seen.row)).collect();
        let (changing, known) = (Mutex::new(()), RwLock::new(known));
        Ok(Arc::new(ApiKeys { store, clock, changing, known }))
    }

    /// Makes a key under a name that no other has, for `endpoints` or, without any, for all. The
    /// secret is never seen again.
    pub fn create(
        &self,
        name: &str,
        mut endpoints: Vec<String>,
        lasting: Option<Duration>,
    ) -> Result<(ApiKey, Secret)> {
        check("API key", name)?;
        for endpoint in &endpoints {
            check("endpoint", endpoint)?;
        }
        endpoints.sort();
        endpoints.dedup();
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.list().len() >= API_KEYS_MAX {
            let message = format!("there are {API_KEYS_MAX} API keys; delete one that is not used");
            return Err(Error::new(ErrorKind::Exhausted, message));
        }
        let now = self.clock.now();
        let until = |lasting: Duration| {
            let millis = i64::try_from(lasting.as_millis()).unwrap_or(i64::MAX);
            Timestamp(now.millis().saturating_add(millis))
        };
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(|failed| {
            Error::new(ErrorKind::Unavailable, "the system gave no random bytes")
                .with_source(failed)
        })?;
        let secret = format!("{API_KEY_PREFIX}{}", hex(&bytes));
        let row = ApiKeyRow {
            sha256: hex(&Sha256::digest(&secret)),
            endpoints,
            created_at: now,
            expires_at: lasting.map(until),
        };
        self.store.create(name, &row).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => Error::new(
                ErrorKind::AlreadyExists,
                format!("there is an API key {name:?} already; delete it first"),
            ),
            _ => error,
        })?;
        tracing::info!(name, "an API key was made");
        let known = Known::of(name.to_owned(), row);
        let key = known.key.clone();
        self.known.write().unwrap_or_else(PoisonError::into_inner).push(known);
        Ok((key, Secret::new(secret)))
    }

    /// Removes a key; the next request that brings it is refused.
    pub fn delete(&self, name: &str) -> Result<()> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.store.delete::<ApiKeyRow>(name)? {
            return Err(Error::not_found(format!("there is no API key {name:.80?}")));
        }
        tracing::info!(name, "an API key was deleted");
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|known| known.key.name != name);
        Ok(())
    }

    /// All keys by name, those that ended too.
    pub fn list(&self) -> Vec<ApiKey> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut keys: Vec<ApiKey> = known.iter().map(|known| known.key.clone()).collect();
        keys.sort_by(|a, b| a.name.cmp(&b.name));
        keys
    }

    /// The key whose secret was presented. Takes as long for a wrong secret as for a right one.
    pub fn admit(&self, presented: &str) -> Result<ApiKey, ApiKeyRefusal> {
        let sha256 = hex(&Sha256::digest(presented));
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut found = None;
        for candidate in &*known {
            if same(&candidate.sha256, &sha256) {
                found = Some(&candidate.key);
            }
        }
        let key = found.ok_or(ApiKeyRefusal::Unknown)?;
        match key.expires_at {
            Some(end) if self.clock.now() >= end => Err(ApiKeyRefusal::Expired(key.name.clone())),
            _ => Ok(key.clone()),
        }
    }
}

/// Whether two digests agree, in a time that does not tell how far.
fn same(a: &str, b: &str) -> bool {
    let differing = a.bytes().zip(b.bytes()).fold(0, |differing, (a, b)| differing | (a ^ b));
    a.len() == b.len() && std::hint::black_box(differing) == 0
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn check(what: &str, name: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match (1..=63).contains(&name.len()) && name.bytes().all(allowed) {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "{what} {name:.80?}: use 1 to 63 letters, digits, dots, dashes and underscores"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use base::ManualClock;

    use super::*;

    fn keys() -> (Metastore, Arc<ManualClock>, Arc<ApiKeys>) {
        let store = Metastore::in_memory().unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
        let keys = ApiKeys::open(store.clone(), clock.clone()).unwrap();
        (store, clock, keys)
    }

    #[test]
    fn a_key_opens_what_it_is_bound_to_and_survives() {
        let (store, clock, keys) = keys();
        let (key, secret) = keys.create("shop", vec!["b".into(), "a".into()], None).unwrap();
        assert_eq!(key.endpoints, ["a", "b"]);
        assert_eq!(secret.expose().len(), API_KEY_PREFIX.len() + 64);
        let again = ApiKeys::open(store, clock).unwrap();
        for keys in [keys, again] {
            let admitted = keys.admit(secret.expose()).unwrap();
            assert_eq!(admitted, key);
            assert!(admitted.opens("a") && !admitted.opens("c") && !admitted.opens(""));
        }
    }

    #[test]
    fn a_key_bound_to_nothing_opens_every_endpoint() {
        let (_, _, keys) = keys();
        let (key, _) = keys.create("all", Vec::new(), None).unwrap();
        assert!(key.opens("a") && key.opens("b"));
    }

    #[test]
    fn what_is_not_a_key_is_refused() {
        let (_, _, keys) = keys();
        let (_, secret) = keys.create("one", Vec::new(), None).unwrap();
        let (_, other) = keys.create("two", Vec::new(), None).unwrap();
        assert_ne!(secret, other);
        let short = &secret.expose()[..secret.expose().len() - 1];
        let sha256 = hex(&Sha256::digest(secret.expose()));
        for wrong in ["", short, "forebay_", sha256.as_str(), &format!("{}0", secret.expose())] {
            assert_eq!(keys.admit(wrong), Err(ApiKeyRefusal::Unknown), "{wrong:?}");
        }
        assert!(same("ab", "ab") && !same("ab", "ac") && !same("ab", "a") && !same("ab", "b"));
    }

    #[test]
    fn a_key_ends_by_itself_or_is_deleted() {
        let (store, clock, keys) = keys();
        let day = Duration::from_secs(86_400);
        let (key, secret) = keys.create("trial", Vec::new(), Some(day)).unwrap();
        assert_eq!(key.expires_at, Some(Timestamp(1_700_086_400_000)));
        assert!(keys.admit(secret.expose()).is_ok());
        clock.advance(day);
        assert_eq!(keys.admit(secret.expose()), Err(ApiKeyRefusal::Expired("trial".into())));
        assert_eq!(keys.list(), [key]);
        keys.delete("trial").unwrap();
        assert_eq!(keys.admit(secret.expose()), Err(ApiKeyRefusal::Unknown));
        assert_eq!(keys.delete("trial").unwrap_err().kind(), ErrorKind::NotFound);
        assert!(store.list::<ApiKeyRow>().unwrap().is_empty());
    }

    #[test]
    fn names_are_checked_and_taken_once() {
        let (_, _, keys) = keys();
        for name in ["", "a b", "../x", &"n".repeat(64)] {
            assert_eq!(keys.create(name, Vec::new(), None).unwrap_err().kind(), ErrorKind::Invalid);
            let bound = keys.create("good", vec![name.to_owned()], None).unwrap_err();
            assert_eq!(bound.kind(), ErrorKind::Invalid);
        }
        keys.create("good", Vec::new(), None).unwrap();
        let error = keys.create("good", Vec::new(), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert!(error.to_string().contains("delete it first"), "{error}");
    }

    #[test]
    fn the_secret_is_neither_shown_nor_kept() {
        let (store, _, keys) = keys();
        let (key, secret) = keys.create("one", Vec::new(), None).unwrap();
        let kept = store.list::<ApiKeyRow>().unwrap();
        let kept = serde_json::to_string(&kept[0].1.row).unwrap();
        for shown in [format!("{keys:?} {key:?} {secret:?}"), kept] {
            assert!(!shown.contains(&secret.expose()[API_KEY_PREFIX.len()..]), "{shown}");
        }
    }
}
