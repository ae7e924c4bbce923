//! Access keys: which secret answers for which identity, for how long.
//!
//! Long-lived keys (`AKIA…`) belong to the account's owner. Temporary ones (`ASIA…`) are issued
//! to somebody who proved to hold a key already; they carry a session token, end by themselves
//! and end with the long-lived key that they go back to.
//!
//! A signature can only be verified by one who knows the secret, so the rows hold secrets in
//! plain, in the metastore's file (mode 0600, in a directory of mode 0700). Whoever may read
//! that file may do everything anyway.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use base::{Clock, Error, ErrorKind, Result, Timestamp};
use metastore::{Metastore, Row, Transaction};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Secret;

/// Long-lived keys an owner may have at a time: two, so that one can be changed for another.
pub const KEYS_MAX: usize = 2;

/// Sessions that may be alive at a time; more are refused until some end.
pub const SESSIONS_MAX: usize = 10_000;

/// The role that the owner's keys act as, there from the start.
pub const EXECUTION_ROLE: &str = "ForebayExecutionRole";

/// The path of that role.
pub const EXECUTION_ROLE_PATH: &str = "/service-role/";

/// The session name of the owner's keys.
const OWNER_SESSION: &str = "root";

/// AWS's alphabet of identifiers.
const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Whether a key may sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyStatus {
    /// It may.
    Active,
    /// Not for the time being.
    Inactive,
}

impl fmt::Display for KeyStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeyStatus::Active => "Active",
            KeyStatus::Inactive => "Inactive",
        })
    }
}

/// Whom a key speaks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// `arn:aws:sts::ACCOUNT:assumed-role/ROLE/SESSION`.
    pub arn: String,
    /// `ROLE_ID:SESSION`.
    pub user_id: String,
}

/// A key with everything that is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessKey {
    /// `AKIA…` or `ASIA…`.
    pub id: String,
    /// What signs.
    pub secret: Secret,
    /// Whether it may sign.
    pub status: KeyStatus,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whom it speaks for.
    pub principal: Principal,
    /// What a temporary key has besides.
    pub session: Option<Session>,
}

/// What makes a key temporary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Must come with every request.
    pub token: Secret,
    /// When it ends.
    pub expires_at: Timestamp,
    /// The long-lived key that this goes back to.
    pub parent: String,
}

/// Why a key does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRefusal {
    /// There is no such key, or its session token is not the one presented. The two are one
    /// refusal, so that nobody learns which identifiers exist.
    Unknown,
    /// The key, or the key that its session goes back to, is not active.
    Inactive,
    /// The session has ended.
    Expired,
}

/// A key as it is kept.
#[derive(Clone, Serialize, Deserialize)]
struct KeyRow {
    secret: String,
    status: KeyStatus,
    created_at: Timestamp,
    session: Option<SessionRow>,
}

#[derive(Clone, Serialize, Deserialize)]
struct SessionRow {
    token: String,
    expires_at: Timestamp,
    parent: String,
    principal: Principal,
}

impl Row for KeyRow {
    const TABLE: &'static str = "access-keys";
}

/// The access keys of one data directory.
pub struct Keys {
    store: Metastore,
    clock: Arc<dyn Clock>,
    account_id: String,
    /// Taken around "store, then map".
    changing: Mutex<()>,
    known: RwLock<HashMap<String, Arc<KeyRow>>>,
    listeners: RwLock<Vec<Listener>>,
}

/// Told for whom keys have stopped counting.
type Listener = Box<dyn Fn(&Principal) + Send + Sync>;

impl Keys {
    /// Reads the keys into memory. `account_id` is whom the owner's keys speak for.
    pub fn open(store: Metastore, clock: Arc<dyn Clock>, account_id: &str) -> Result<Arc<Self>> {
        let rows = store.list::<KeyRow>()?;
        let known = rows.into_iter().map(|(id, key)| (id, Arc::new(key.row))).collect();
        Ok(Arc::new(Keys {
            store,
            clock,
            account_id: account_id.to_owned(),
            changing: Mutex::new(()),
            known: RwLock::new(known),
            listeners: RwLock::default(),
        }))
    }

    /// Calls `listener` for everybody one of whose keys was deleted or made inactive, on the
    /// thread that did it. It must be quick and must not change the keys.
    pub fn on_end(&self, listener: impl Fn(&Principal) + Send + Sync + 'static) {
        self.listeners.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(listener));
    }

    /// Tells whoever wants to know that these keys no longer count.
    fn announce_end(&self, mut principals: Vec<Principal>) {
        principals.sort_by(|a, b| a.user_id.cmp(&b.user_id));
        principals.dedup();
        for listener in &*self.listeners.read().unwrap_or_else(PoisonError::into_inner) {
            principals.iter().for_each(listener);
        }
    }

    /// One of the owner's keys and the sessions that go back to it, with whom they speak for.
    fn family(&self, id: &str) -> Vec<(String, Principal)> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let sessions = known.iter().filter_map(|(child, row)| {
            let session = row.session.as_ref().filter(|session| session.parent == id)?;
            Some((child.clone(), session.principal.clone()))
        });
        std::iter::once((id.to_owned(), self.owner())).chain(sessions).collect()
    }

    /// The account.
    pub fn account_id(&self) -> &str {
        &self.account_id
    }

    /// Whom the owner's keys speak for: a session of the role that is there from the start.
    /// Notebooks ask for a role's name, which a user would not have.
    pub fn owner(&self) -> Principal {
        let account_id = &self.account_id;
        Principal {
            arn: format!("arn:aws:sts::{account_id}:assumed-role/{EXECUTION_ROLE}/{OWNER_SESSION}"),
            user_id: format!("{}:{OWNER_SESSION}", self.execution_role_id()),
        }
    }

    /// The ARN of the role that the owner's keys act as.
    pub fn role_arn(&self) -> String {
        format!("arn:aws:iam::{}:role{EXECUTION_ROLE_PATH}{EXECUTION_ROLE}", self.account_id)
    }

    /// The identifier of the role that is there from the start; always the same for an account.
    pub fn execution_role_id(&self) -> String {
        let digest = Sha256::digest(format!("{}/{EXECUTION_ROLE}", self.account_id));
        written("AROA", BASE32, &digest[..17])
    }

    /// The owner's oldest active key; makes one where there is none, so that the owner of the
    /// data directory can never be locked out.
    pub fn root(&self) -> Result<(String, Secret)> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let active = self.list().into_iter().find(|key| key.status == KeyStatus::Active);
        let key = match active {
            Some(key) => key,
            None => self.make()?,
        };
        Ok((key.id, key.secret))
    }

    /// Makes a further key for the owner; [`ErrorKind::Exhausted`] beyond [`KEYS_MAX`].
    pub fn create(&self) -> Result<AccessKey> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.list().len() >= KEYS_MAX {
            let message = format!("Cannot exceed quota for AccessKeysPerUser: {KEYS_MAX}");
            return Err(Error::new(ErrorKind::Exhausted, message));
        }
        self.make()
    }

    fn make(&self) -> Result<AccessKey> {
        let row = KeyRow {
            secret: random(BASE64, 40)?,
            status: KeyStatus::Active,
            created_at: self.clock.now(),
            session: None,
        };
        let id = format!("AKIA{}", random(BASE32, 16)?);
        self.store.create(&id, &row)?;
        tracing::info!(access_key_id = %id, "an access key was made");
        Ok(self.believe(id, row))
    }

    /// Issues a temporary key that speaks for `principal`, to the holder of the key `to`.
    pub fn issue(&self, to: &str, principal: Principal, lasting: Duration) -> Result<AccessKey> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(holder) = self.row(to) else {
            return Err(Error::not_found(format!("there is no access key {to:?}")));
        };
        let parent = holder.session.as_ref().map_or(to, |session| &session.parent).to_owned();
        let now = self.clock.now();
        let millis = i64::try_from(lasting.as_millis()).unwrap_or(i64::MAX);
        let row = KeyRow {
            secret: random(BASE64, 40)?,
            status: KeyStatus::Active,
            created_at: now,
            session: Some(SessionRow {
                token: random(BASE64, 160)?,
                expires_at: Timestamp(now.millis().saturating_add(millis)),
                parent,
                principal,
            }),
        };
        let id = format!("ASIA{}", random(BASE32, 16)?);
        let ended = self.ended(now)?;
        self.store.transact(|transaction| {
            remove(transaction, &ended)?;
            transaction.create(&id, &row)
        })?;
        self.forget(&ended);
        Ok(self.believe(id, row))
    }

    /// The sessions that can go; [`ErrorKind::Exhausted`] where too many would stay.
    fn ended(&self, now: Timestamp) -> Result<Vec<String>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let sessions = known.iter().filter_map(|(id, row)| Some((id, row.session.as_ref()?)));
        let (ended, alive): (Vec<_>, Vec<_>) =
            sessions.partition(|(_, session)| session.expires_at <= now);
        if alive.len() >= SESSIONS_MAX {
            let message = format!("{SESSIONS_MAX} sessions are alive; wait until some have ended");
            return Err(Error::new(ErrorKind::Exhausted, message));
        }
        Ok(ended.into_iter().map(|(id, _)| id.clone()).collect())
    }

    /// The owner's keys, oldest first.
    pub fn list(&self) -> Vec<AccessKey> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let lasting = known.iter().filter(|(_, row)| row.session.is_none());
        let mut keys: Vec<_> = lasting.map(|(id, row)| self.key(id.clone(), row)).collect();
        keys.sort_by(|a, b| (a.created_at, &a.id).cmp(&(b.created_at, &b.id)));
        keys
    }

    /// Changes whether one of the owner's keys may sign. Its sessions follow it.
    pub fn set_status(&self, id: &str, status: KeyStatus) -> Result<()> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let row = KeyRow { status, ..self.lasting(id)? };
        self.store.put(id, &row)?;
        tracing::info!(access_key_id = %id, %status, "an access key's status changed");
        self.believe(id.to_owned(), row);
        if status != KeyStatus::Active {
            self.announce_end(
                self.family(id).into_iter().map(|(_, principal)| principal).collect(),
            );
        }
        Ok(())
    }

    /// Removes one of the owner's keys, and with it the sessions that go back to it.
    pub fn delete(&self, id: &str) -> Result<()> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.lasting(id)?;
        let (gone, principals): (Vec<String>, Vec<Principal>) = self.family(id).into_iter().unzip();
        self.store.transact(|transaction| remove(transaction, &gone))?;
        tracing::info!(access_key_id = %id, "an access key was deleted");
        self.forget(&gone);
        self.announce_end(principals);
        Ok(())
    }

    /// The row of one of the owner's keys.
    fn lasting(&self, id: &str) -> Result<KeyRow> {
        match self.row(id).filter(|row| row.session.is_none()) {
            Some(row) => Ok((*row).clone()),
            None => {
                let message = format!("The Access Key with id {id} cannot be found.");
                Err(Error::not_found(message))
            }
        }
    }

    /// A key by its identifier, whether or not it may sign.
    pub fn lookup(&self, id: &str) -> Option<AccessKey> {
        let row = self.row(id)?;
        Some(self.key(id.to_owned(), &row))
    }

    /// The secret of a key that may sign at this moment. The session token of a temporary key
    /// is another question: ask [`admit`](Keys::admit).
    pub fn secret(&self, id: &str) -> Option<Secret> {
        let row = self.row(id)?;
        self.counts(&row).ok()?;
        Some(Secret::new(row.secret.clone()))
    }

    /// The key of a request that names `id` and brings `token`, if it may sign at this moment.
    /// Whether it did sign is for the signature to show.
    pub fn admit(&self, id: &str, token: Option<&str>) -> Result<AccessKey, KeyRefusal> {
        let row = self.row(id).ok_or(KeyRefusal::Unknown)?;
        let right = match (&row.session, token) {
            (Some(session), Some(token)) => same(&session.token, token),
            (Some(_), None) => false,
            // A long-lived key has no token; one that comes all the same is not ours.
            (None, Some(token)) => token.is_empty(),
            (None, None) => true,
        };
        if !right {
            return Err(KeyRefusal::Unknown);
        }
        self.counts(&row)?;
        Ok(self.key(id.to_owned(), &row))
    }

    fn counts(&self, row: &KeyRow) -> Result<(), KeyRefusal> {
        if row.status != KeyStatus::Active {
            return Err(KeyRefusal::Inactive);
        }
        let Some(session) = &row.session else { return Ok(()) };
        if self.clock.now() >= session.expires_at {
            return Err(KeyRefusal::Expired);
        }
        match self.row(&session.parent) {
            Some(parent) if parent.status == KeyStatus::Active => Ok(()),
            _ => Err(KeyRefusal::Inactive),
        }
    }

    fn row(&self, id: &str) -> Option<Arc<KeyRow>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    fn believe(&self, id: String, row: KeyRow) -> AccessKey {
        let key = self.key(id.clone(), &row);
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(id, Arc::new(row));
        key
    }

    fn forget(&self, ids: &[String]) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            known.remove(id);
        }
    }

    fn key(&self, id: String, row: &KeyRow) -> AccessKey {
        let (principal, session) = match &row.session {
            None => (self.owner(), None),
            Some(session) => {
                let token = Secret::new(session.token.clone());
                let (expires_at, parent) = (session.expires_at, session.parent.clone());
                (session.principal.clone(), Some(Session { token, expires_at, parent }))
            }
        };
        AccessKey {
            id,
            secret: Secret::new(row.secret.clone()),
            status: row.status,
            created_at: row.created_at,
            principal,
            session,
        }
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Keys").field("keys", &known.len()).finish_non_exhaustive()
    }
}

fn remove(transaction: &mut Transaction<'_>, ids: &[String]) -> Result<()> {
    for id in ids {
        transaction.delete::<KeyRow>(id)?;
    }
    Ok(())
}

/// Compares secrets by their digests: how far two digests agree says nothing about the texts.
fn same(a: &str, b: &str) -> bool {
    Sha256::digest(a) == Sha256::digest(b)
}

/// An identifier as AWS writes them, like `AROA` and 17 characters.
pub fn unique_id(prefix: &str) -> Result<String> {
    Ok(format!("{prefix}{}", random(BASE32, 17)?))
}

/// `length` characters of an alphabet whose size divides 256, each equally likely.
fn random(alphabet: &[u8], length: usize) -> Result<String> {
    let mut bytes = vec![0; length];
    getrandom::fill(&mut bytes).map_err(|failed| {
        Error::new(ErrorKind::Unavailable, "the system gave no random bytes").with_source(failed)
    })?;
    Ok(written("", alphabet, &bytes))
}

fn written(prefix: &str, alphabet: &[u8], bytes: &[u8]) -> String {
    let characters = bytes.iter().map(|byte| alphabet[usize::from(*byte) % alphabet.len()]);
    prefix.chars().chain(characters.map(char::from)).collect()
}

#[cfg(test)]
mod tests {
    use base::ManualClock;

    use super::*;

    fn keys() -> (Metastore, Arc<ManualClock>, Arc<Keys>) {
        let store = Metastore::in_memory().unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp(1_700_000_000_000)));
        let keys = Keys::open(store.clone(), clock.clone(), "123456789012").unwrap();
        (store, clock, keys)
    }

    fn guest() -> Principal {
        Principal {
            arn: "arn:aws:sts::123456789012:assumed-role/guest/s".into(),
            user_id: "A:s".into(),
        }
    }

    #[test]
    fn the_first_key_is_made_once_and_survives() {
        let (store, clock, keys) = keys();
        let (id, secret) = keys.root().unwrap();
        assert_eq!((id.len(), &id[..4], secret.expose().len()), (20, "AKIA", 40));
        assert_eq!(keys.root().unwrap(), (id.clone(), secret.clone()));
        let again = Keys::open(store, clock, "123456789012").unwrap();
        assert_eq!(again.root().unwrap(), (id.clone(), secret.clone()));
        assert_eq!(again.secret(&id), Some(secret));
        assert!(keys.owner().arn.contains(":assumed-role/ForebayExecutionRole/"));
    }

    #[test]
    fn a_session_needs_its_token_and_ends_by_itself() {
        let (_, clock, keys) = keys();
        let (root, _) = keys.root().unwrap();
        let issued = keys.issue(&root, guest(), Duration::from_secs(900)).unwrap();
        let token = issued.session.as_ref().unwrap().token.expose();
        assert!(issued.id.starts_with("ASIA"));
        assert_eq!(keys.admit(&issued.id, Some(token)).unwrap().principal, guest());
        assert_eq!(keys.admit(&issued.id, None), Err(KeyRefusal::Unknown));
        assert_eq!(keys.admit(&issued.id, Some("x")), Err(KeyRefusal::Unknown));
        assert_eq!(keys.admit(&root, Some(token)), Err(KeyRefusal::Unknown));
        assert_eq!(keys.admit("AKIANOBODY", None), Err(KeyRefusal::Unknown));
        clock.advance(Duration::from_secs(900));
        assert_eq!(keys.admit(&issued.id, Some(token)), Err(KeyRefusal::Expired));
        assert_eq!(keys.secret(&issued.id), None);
        // The next session takes the place of the ended one.
        keys.issue(&root, guest(), Duration::from_secs(900)).unwrap();
        assert_eq!(keys.lookup(&issued.id), None);
    }

    #[test]
    fn sessions_follow_the_key_they_go_back_to() {
        let (store, clock, keys) = keys();
        let (root, _) = keys.root().unwrap();
        let hour = Duration::from_secs(3600);
        let first = keys.issue(&root, guest(), hour).unwrap();
        let second = keys.issue(&first.id, guest(), hour).unwrap();
        let session = second.session.unwrap();
        assert_eq!(session.parent, root);
        let admitted = || keys.admit(&second.id, Some(session.token.expose())).map(|key| key.id);
        let ended = Arc::new(Mutex::new(Vec::new()));
        let note = ended.clone();
        keys.on_end(move |principal| note.lock().unwrap().push(principal.clone()));
        let mut both = [keys.owner(), guest()];
        both.sort_by(|a, b| a.user_id.cmp(&b.user_id));
        keys.set_status(&root, KeyStatus::Inactive).unwrap();
        assert_eq!(*ended.lock().unwrap(), both);
        assert_eq!(admitted(), Err(KeyRefusal::Inactive));
        keys.set_status(&root, KeyStatus::Active).unwrap();
        assert!(admitted().is_ok());
        keys.delete(&root).unwrap();
        assert_eq!(ended.lock().unwrap().len(), 4);
        assert_eq!(admitted(), Err(KeyRefusal::Unknown));
        assert!(Keys::open(store, clock, "1").unwrap().known.read().unwrap().is_empty());
    }

    #[test]
    fn an_owner_has_two_keys_and_is_never_locked_out() {
        let (_, clock, keys) = keys();
        let (first, _) = keys.root().unwrap();
        clock.advance(Duration::from_secs(1));
        let second = keys.create().unwrap().id;
        assert_eq!(keys.create().unwrap_err().kind(), ErrorKind::Exhausted);
        keys.set_status(&first, KeyStatus::Inactive).unwrap();
        assert_eq!(keys.root().unwrap().0, second);
        keys.delete(&second).unwrap();
        let third = keys.root().unwrap().0;
        assert!(![first, second].contains(&third));
        assert_eq!(keys.delete("AKIANOBODY").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn no_secret_is_shown() {
        let (_, _, keys) = keys();
        let (root, secret) = keys.root().unwrap();
        let issued = keys.issue(&root, guest(), Duration::from_secs(900)).unwrap();
        let shown = format!("{keys:?} {:?} {issued:?}", keys.lookup(&root));
        assert!(!shown.contains(secret.expose()), "{shown}");
        assert!(!shown.contains(issued.session.unwrap().token.expose()), "{shown}");
    }
}
