//! Which certificates are admitted: rows in the metastore, and a map that answers handshakes.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use base::{Clock, Error, ErrorKind, Result, Timestamp};
use metastore::{Metastore, Row, Transaction};
use serde::{Deserialize, Serialize};

use crate::authority::{Issued, certificate_id};
use crate::{Authority, Kit, Policies};

/// Longest thing name, AWS's bound.
const THING_NAME_BYTES_MAX: usize = 128;

/// A device, known by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thing {
    /// Its name; also the key of the row.
    pub name: String,
    /// When it was added.
    pub created_at: Timestamp,
}

impl Row for Thing {
    const TABLE: &'static str = "things";
}

/// Whether a certificate admits its bearer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Status {
    /// It does.
    Active,
    /// Not for the time being.
    Inactive,
    /// Never again.
    Revoked,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Active => "ACTIVE",
            Status::Inactive => "INACTIVE",
            Status::Revoked => "REVOKED",
        })
    }
}

/// A registered certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// SHA-256 of the DER, in hex; also the key of the row.
    pub certificate_id: String,
    /// The thing it was made for.
    pub thing: String,
    /// Whether it admits.
    pub status: Status,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its validity ends.
    pub not_after: Timestamp,
    /// The certificate itself.
    pub pem: String,
}

impl Row for Certificate {
    const TABLE: &'static str = "certificates";
}

/// Whom a certificate belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// SHA-256 of the DER, in hex.
    pub certificate_id: String,
    /// The thing's name.
    pub thing_name: String,
}

/// A change of status, told to every listener once it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which certificate.
    pub certificate_id: String,
    /// Its thing.
    pub thing_name: String,
    /// The status from now on.
    pub status: Status,
}

type Listener = Box<dyn Fn(&Change) + Send + Sync>;

/// The devices and certificates of one data directory.
///
/// There is a moment between a handshake's [`lookup`](Registry::lookup) and the session being
/// known to the listener that would end it. Whoever keeps sessions closes it by asking
/// [`is_active`](Registry::is_active) once more after the session is known.
pub struct Registry {
    store: Metastore,
    authority: Arc<Authority>,
    clock: Arc<dyn Clock>,
    policies: Arc<Policies>,
    /// Taken around "store, then map, then listeners", so that all see changes in one order.
    changing: Mutex<()>,
    known: RwLock<HashMap<String, Known>>,
    listeners: RwLock<Vec<Listener>>,
}

/// What a handshake asks for.
#[derive(Clone, Debug)]
struct Known {
    thing: String,
    status: Status,
    not_after: Timestamp,
}

impl Registry {
    /// Reads the registered certificates into memory.
    pub fn open(
        store: Metastore,
        authority: Arc<Authority>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>> {
        let mut known = HashMap::new();
        for (id, certificate) in store.list::<Certificate>()? {
            known.insert(id, Known::of(&certificate.row));
        }
        let policies = Policies::open(store.clone(), Arc::clone(&clock))?;
        Ok(Arc::new(Registry {
            store,
            authority,
            clock,
            policies,
            changing: Mutex::new(()),
            known: RwLock::new(known),
            listeners: RwLock::new(Vec::new()),
        }))
    }

    /// The authority that signs.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// The policies, and which certificates they are attached to.
    pub fn policies(&self) -> &Arc<Policies> {
        &self.policies
    }

    /// Whose certificate `der` is. [`ErrorKind::Denied`] with the reason unless it is
    /// registered, ACTIVE and in date. Whether it is signed by us is for TLS to check.
    pub fn lookup(&self, der: &[u8]) -> Result<Found> {
        let certificate_id = certificate_id(der);
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let denied = |why: String| Error::new(ErrorKind::Denied, why);
        let Some(found) = known.get(&certificate_id) else {
            return Err(denied(format!("certificate {certificate_id} is not registered")));
        };
        let thing = &found.thing;
        if found.status != Status::Active {
            let status = found.status;
            return Err(denied(format!(
                "certificate {certificate_id} of {thing:?} is {status}, not ACTIVE"
            )));
        }
        if self.clock.now() > found.not_after {
            return Err(denied(format!("certificate {certificate_id} of {thing:?} has expired")));
        }
        Ok(Found { certificate_id, thing_name: thing.clone() })
    }

    /// Whether the certificate admits at this moment.
    pub fn is_active(&self, certificate_id: &str) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(certificate_id).is_some_and(|found| {
            found.status == Status::Active && self.clock.now() <= found.not_after
        })
    }

    /// Calls `listener` after each change of status, on the thread that made it. It must be
    /// quick and must not change the registry.
    pub fn on_change(&self, listener: impl Fn(&Change) + Send + Sync + 'static) {
        let mut listeners = self.listeners.write().unwrap_or_else(PoisonError::into_inner);
        listeners.push(Box::new(listener));
    }

    /// Registers a new thing with a new, active certificate.
    pub fn add_device(&self, name: &str) -> Result<Kit> {
        check_thing_name(name)?;
        let thing = Thing { name: name.to_owned(), created_at: self.clock.now() };
        self.register(name, |transaction| transaction.create(name, &thing).map(drop))
    }

    /// Registers a further active certificate for a thing, for a device whose key is lost or
    /// due for a change. The old ones stay as they are.
    pub fn add_certificate(&self, name: &str) -> Result<Kit> {
        self.register(name, |transaction| match transaction.get::<Thing>(name)? {
            Some(_) => Ok(()),
            None => Err(Error::not_found(format!("there is no thing {name:?}"))),
        })
    }

    fn register(
        &self,
        name: &str,
        check: impl FnOnce(&mut Transaction<'_>) -> Result<()>,
    ) -> Result<Kit> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let issued = self.authority.issue_device(name)?;
        let certificate = self.row(name, &issued);
        let id = certificate.certificate_id.clone();
        self.store.transact(|transaction| {
            check(transaction)?;
            transaction.create(&id, &certificate)
        })?;
        self.believe(&certificate);
        Ok(Kit::new(issued, certificate, self.authority.root_pem()))
    }

    fn row(&self, thing: &str, issued: &Issued) -> Certificate {
        Certificate {
            certificate_id: issued.certificate_id.clone(),
            thing: thing.to_owned(),
            status: Status::Active,
            created_at: self.clock.now(),
            not_after: issued.not_after,
            pem: issued.certificate_pem.clone(),
        }
    }

    /// Changes a certificate's status and tells the listeners. A revoked certificate stays
    /// revoked.
    pub fn set_status(&self, certificate_id: &str, status: Status) -> Result<()> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = self
            .store
            .transact(|transaction| change_status(transaction, certificate_id, status))?;
        if let Some(certificate) = changed {
            self.tell(&certificate);
        }
        Ok(())
    }

    /// Revokes every certificate of a thing; answers their ids. The thing itself stays.
    pub fn revoke(&self, thing: &str) -> Result<Vec<String>> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let (ids, changed) = self.store.transact(|transaction| {
            if transaction.get::<Thing>(thing)?.is_none() {
                return Err(Error::not_found(format!("there is no thing {thing:?}")));
            }
            let mut ids = Vec::new();
            let mut changed = Vec::new();
            for (id, certificate) in transaction.list::<Certificate>()? {
                if certificate.thing == thing {
                    changed.extend(change_status(transaction, &id, Status::Revoked)?);
                    ids.push(id);
                }
            }
            Ok((ids, changed))
        })?;
        for certificate in &changed {
            self.tell(certificate);
        }
        Ok(ids)
    }

    fn tell(&self, certificate: &Certificate) {
        self.believe(certificate);
        let change = Change {
            certificate_id: certificate.certificate_id.clone(),
            thing_name: certificate.thing.clone(),
            status: certificate.status,
        };
        tracing::info!(
            certificate_id = %change.certificate_id,
            thing = %change.thing_name,
            status = %change.status,
            "a certificate's status changed"
        );
        for listener in self.listeners.read().unwrap_or_else(PoisonError::into_inner).iter() {
            listener(&change);
        }
    }

    fn believe(&self, certificate: &Certificate) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(certificate.certificate_id.clone(), Known::of(certificate));
    }

    /// All things by name, each with its certificates, oldest first.
    pub fn list(&self) -> Result<Vec<(Thing, Vec<Certificate>)>> {
        let (things, certificates) = self
            .store
            .transact(|transaction| Ok((transaction.list::<Thing>()?, transaction.list()?)))?;
        let mut by_thing: HashMap<String, Vec<Certificate>> = HashMap::new();
        for (_, certificate) in certificates {
            let certificate: Certificate = certificate.row;
            by_thing.entry(certificate.thing.clone()).or_default().push(certificate);
        }
        let mut listed = Vec::with_capacity(things.len());
        for (name, thing) in things {
            let mut certificates = by_thing.remove(&name).unwrap_or_default();
            certificates.sort_by(|a, b| {
                (a.created_at, &a.certificate_id).cmp(&(b.created_at, &b.certificate_id))
            });
            listed.push((thing.row, certificates));
        }
        Ok(listed)
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Registry").field("certificates", &known.len()).finish_non_exhaustive()
    }
}

impl Known {
    fn of(certificate: &Certificate) -> Self {
        Known {
            thing: certificate.thing.clone(),
            status: certificate.status,
            not_after: certificate.not_after,
        }
    }
}

/// Stores the status; the changed row, or `None` if it had that status.
fn change_status(
    transaction: &mut Transaction<'_>,
    certificate_id: &str,
    status: Status,
) -> Result<Option<Certificate>> {
    let Some(mut found) = transaction.get::<Certificate>(certificate_id)? else {
        return Err(Error::not_found(format!("there is no certificate {certificate_id:?}")));
    };
    if found.status == status {
        return Ok(None);
    }
    if found.status == Status::Revoked {
        return Err(Error::invalid(format!(
            "certificate {certificate_id} is revoked for good; make a new one for {:?}",
            found.thing
        )));
    }
    found.row.status = status;
    transaction.replace(certificate_id, found.version, &found.row)?;
    Ok(Some(found.row))
}

/// AWS's rule, which also keeps the name fit to start a file's name.
fn check_thing_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '-');
    let plain = !name.starts_with('-') && name.chars().all(allowed);
    if name.is_empty() || name.len() > THING_NAME_BYTES_MAX || !plain {
        return Err(Error::invalid(format!(
            "{name:?} is not a thing name; use 1 to {THING_NAME_BYTES_MAX} letters, digits, \
             ':', '_' and '-', not beginning with '-'"
        )));
    }
    Ok(())
}
