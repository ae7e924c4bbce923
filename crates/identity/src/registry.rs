//! Which certificates are admitted: rows in the metastore, and a map that answers handshakes.
//!
//! Certificates exist on their own; attaching one to a thing says that the thing may use it.
//! A certificate may serve several things, and a thing may have several certificates.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use base::{Clock, Error, ErrorKind, Result, Timestamp};
use metastore::{Metastore, Row, Transaction};
use serde::{Deserialize, Serialize};

use crate::authority::{CLOCK_SLACK, Issued, before, certificate_id};
use crate::issuers::Registered;
use crate::policies::Endowment;
use crate::things::{Thing, check_thing_name};
use crate::{Authority, Kit, Policies, kit};

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
#[serde(from = "StoredCertificate")]
pub struct Certificate {
    /// SHA-256 of the DER, in hex; also the key of the row.
    pub certificate_id: String,
    /// The things it is attached to, in the order in which that happened.
    pub things: Vec<String>,
    /// Whether it admits.
    pub status: Status,
    /// When it was made.
    pub created_at: Timestamp,
    /// When its row last changed.
    pub modified_at: Timestamp,
    /// When its validity begins.
    pub not_before: Timestamp,
    /// When its validity ends.
    pub not_after: Timestamp,
    /// The certificate itself.
    pub pem: String,
    /// How it is registered if it was made elsewhere; `None` for one that our authority signed.
    pub registered: Option<Registered>,
}

/// A certificate's row as it may lie on disk: the first release tied a certificate to one
/// thing and kept less.
#[derive(Deserialize)]
struct StoredCertificate {
    certificate_id: String,
    thing: Option<String>,
    things: Option<Vec<String>>,
    status: Status,
    created_at: Timestamp,
    modified_at: Option<Timestamp>,
    not_before: Option<Timestamp>,
    not_after: Timestamp,
    pem: String,
    registered: Option<Registered>,
}

impl From<StoredCertificate> for Certificate {
    fn from(stored: StoredCertificate) -> Self {
        Certificate {
            things: stored.things.unwrap_or_else(|| stored.thing.into_iter().collect()),
            modified_at: stored.modified_at.unwrap_or(stored.created_at),
            not_before: stored.not_before.unwrap_or_else(|| before(stored.created_at, CLOCK_SLACK)),
            certificate_id: stored.certificate_id,
            status: stored.status,
            created_at: stored.created_at,
            not_after: stored.not_after,
            pem: stored.pem,
            registered: stored.registered,
        }
    }
}

impl Row for Certificate {
    const TABLE: &'static str = "certificates";
}

/// Which of the changes below the rows have seen.
#[derive(Serialize, Deserialize)]
struct Format {
    version: u32,
}

impl Row for Format {
    const TABLE: &'static str = "identity-format";
}

/// Things with attributes, certificates attached to many things, and policies.
const FORMAT: u32 = 2;

/// Whom a certificate belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// SHA-256 of the DER, in hex.
    pub certificate_id: String,
    /// What its sessions are known by: the first thing it is attached to, or the certificate's
    /// id if there is none.
    pub thing_name: String,
    /// Every thing it is attached to.
    pub things: Vec<String>,
    /// When it stops admitting by itself.
    pub not_after: Timestamp,
}

/// A change of status, told to every listener once it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which certificate.
    pub certificate_id: String,
    /// As [`Found::thing_name`].
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
    pub(crate) store: Metastore,
    pub(crate) authority: Arc<Authority>,
    pub(crate) clock: Arc<dyn Clock>,
    policies: Arc<Policies>,
    /// Taken around "store, then map, then listeners", so that all see changes in one order.
    changing: Mutex<()>,
    known: RwLock<HashMap<String, Known>>,
    /// All things, for policy variables and lists.
    pub(crate) things: RwLock<BTreeMap<String, Arc<Thing>>>,
    listeners: RwLock<Vec<Listener>>,
}

/// What a handshake asks for.
#[derive(Clone, Debug)]
struct Known {
    things: Vec<String>,
    status: Status,
    not_before: Timestamp,
    not_after: Timestamp,
    /// Whether it was made elsewhere.
    foreign: bool,
}

impl Registry {
    /// Reads the registered things and certificates into memory.
    pub fn open(
        store: Metastore,
        authority: Arc<Authority>,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<Self>> {
        let policies = Policies::open(store.clone(), Arc::clone(&clock))?;
        migrate(&store, &policies)?;
        let (mut known, mut things) = (HashMap::new(), BTreeMap::new());
        for (id, certificate) in store.list::<Certificate>()? {
            known.insert(id, Known::of(&certificate.row));
        }
        for (name, thing) in store.list::<Thing>()? {
            things.insert(name, Arc::new(thing.row));
        }
        Ok(Arc::new(Registry {
            store,
            authority,
            clock,
            policies,
            changing: Mutex::new(()),
            known: RwLock::new(known),
            things: RwLock::new(things),
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
    /// registered, ACTIVE and in date. Whether the peer holds its key, and whether it is signed
    /// by us if it was not made elsewhere, is for TLS to check.
    pub fn lookup(&self, der: &[u8]) -> Result<Found> {
        self.lookup_id(&certificate_id(der))
    }

    /// The same for a certificate that was looked at before: whether it still admits.
    pub fn lookup_id(&self, certificate_id: &str) -> Result<Found> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let denied = |why: String| Error::new(ErrorKind::Denied, why);
        let Some(found) = known.get(certificate_id) else {
            return Err(denied(format!("certificate {certificate_id} is not registered")));
        };
        let of = found.things.first().map(|thing| format!(" of {thing:?}")).unwrap_or_default();
        if found.status != Status::Active {
            let status = found.status;
            return Err(denied(format!(
                "certificate {certificate_id}{of} is {status}, not ACTIVE"
            )));
        }
        let now = self.clock.now();
        if now > found.not_after {
            return Err(denied(format!("certificate {certificate_id}{of} has expired")));
        }
        if now < found.not_before {
            return Err(denied(format!("certificate {certificate_id}{of} is not valid yet")));
        }
        Ok(Found {
            certificate_id: certificate_id.to_owned(),
            thing_name: known_by(certificate_id, &found.things),
            things: found.things.clone(),
            not_after: found.not_after,
        })
    }

    /// As [`Registry::lookup`] for a certificate that is registered and was made elsewhere;
    /// `None` for every other one.
    pub(crate) fn lookup_foreign(&self, der: &[u8]) -> Option<Result<Found>> {
        let foreign = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            known.get(&certificate_id(der)).is_some_and(|found| found.foreign)
        };
        // One that is deleted between the two is refused by the second.
        foreign.then(|| self.lookup(der))
    }

    /// Whether the certificate admits at this moment.
    pub fn is_active(&self, certificate_id: &str) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(certificate_id).is_some_and(|found| {
            let now = self.clock.now();
            let in_date = found.not_before <= now && now <= found.not_after;
            found.status == Status::Active && in_date
        })
    }

    /// Whether a thing is attached to a certificate, from memory.
    pub fn is_attached(&self, certificate_id: &str, thing: &str) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(certificate_id).is_some_and(|found| found.things.iter().any(|t| t == thing))
    }

    /// Calls `listener` after each change of status, on the thread that made it. It must be
    /// quick and must not change the registry.
    pub fn on_change(&self, listener: impl Fn(&Change) + Send + Sync + 'static) {
        let mut listeners = self.listeners.write().unwrap_or_else(PoisonError::into_inner);
        listeners.push(Box::new(listener));
    }

    /// Registers a new thing with a new, active certificate and the policy of its kit.
    pub fn add_device(&self, name: &str) -> Result<Kit> {
        self.add_device_with(name, None)
    }

    /// As [`Registry::add_device`], with a policy document of the caller's instead of the
    /// kit's own.
    pub fn add_device_with(&self, name: &str, policy: Option<&str>) -> Result<Kit> {
        check_thing_name(name)?;
        if let Some(document) = policy {
            crate::policies::check_document(document)?;
        }
        let thing = Thing::new(name, self.clock.now())?;
        let kit =
            self.register(name, policy, |transaction| transaction.create(name, &thing).map(drop))?;
        self.believe_thing(&Arc::new(thing));
        Ok(kit)
    }

    /// Registers a further active certificate for a thing, for a device whose key is lost or
    /// due for a change. The old ones stay as they are.
    pub fn add_certificate(&self, name: &str) -> Result<Kit> {
        self.register(name, None, |transaction| match transaction.get::<Thing>(name)? {
            Some(_) => Ok(()),
            None => Err(Error::not_found(format!("there is no thing {name:?}"))),
        })
    }

    fn register(
        &self,
        name: &str,
        policy: Option<&str>,
        check: impl FnOnce(&mut Transaction<'_>) -> Result<()>,
    ) -> Result<Kit> {
        let _turn = self.turn();
        let issued = self.authority.issue_device(name)?;
        let mut certificate = self.row(&issued, Status::Active);
        certificate.things.push(name.to_owned());
        let id = certificate.certificate_id.clone();
        let policy_name = kit::policy_name(name);
        let own;
        let document = match policy {
            Some(document) => document,
            None => {
                own = kit::policy(name);
                &own
            }
        };
        let policies_turn = self.policies.turn();
        let endowment = self.store.transact(|transaction| {
            check(transaction)?;
            transaction.create(&id, &certificate)?;
            self.policies.endow(transaction, &policy_name, document, &id)
        })?;
        self.believe(&certificate);
        self.policies.believe(endowment);
        drop(policies_turn);
        let document = self.policies.get(&policy_name)?.document().to_owned();
        Ok(Kit::new(name, issued, certificate, self.authority.root_pem(), document))
    }

    /// Makes a key and a certificate that is attached to nothing yet.
    pub fn create_certificate(
        &self,
        common_name: &str,
        status: Status,
    ) -> Result<(Issued, Certificate)> {
        let issued = self.authority.issue_device(common_name)?;
        let certificate = self.admit(&issued, status)?;
        Ok((issued, certificate))
    }

    /// Certifies the key and subject of a signing request (PEM).
    pub fn create_certificate_from_request(
        &self,
        request: &str,
        status: Status,
    ) -> Result<Certificate> {
        let issued = self.authority.issue_requested(request)?;
        self.admit(&issued, status)
    }

    fn admit(&self, issued: &Issued, status: Status) -> Result<Certificate> {
        let _turn = self.turn();
        let certificate = self.row(issued, status);
        self.store.create(&certificate.certificate_id, &certificate)?;
        self.believe(&certificate);
        Ok(certificate)
    }

    fn row(&self, issued: &Issued, status: Status) -> Certificate {
        let now = self.clock.now();
        Certificate {
            certificate_id: issued.certificate_id.clone(),
            things: Vec::new(),
            status,
            created_at: now,
            modified_at: now,
            not_before: issued.not_before,
            not_after: issued.not_after,
            pem: issued.certificate_pem.clone(),
            registered: None,
        }
    }

    /// One certificate.
    pub fn certificate(&self, certificate_id: &str) -> Result<Certificate> {
        let found = self.store.get::<Certificate>(certificate_id)?;
        found.map(|found| found.row).ok_or_else(|| no_certificate(certificate_id))
    }

    /// All certificates, by id.
    pub fn certificates(&self) -> Result<Vec<Certificate>> {
        let rows = self.store.list::<Certificate>()?;
        Ok(rows.into_iter().map(|(_, certificate)| certificate.row).collect())
    }

    /// Forgets a certificate. [`ErrorKind::Invalid`] while it is ACTIVE,
    /// [`ErrorKind::Conflict`] while a thing or a policy is attached, unless `force`.
    pub fn delete_certificate(&self, certificate_id: &str, force: bool) -> Result<()> {
        let _turn = self.turn();
        let _policies_turn = self.policies.turn();
        let gone = self.store.transact(|transaction| {
            let found = transaction
                .get::<Certificate>(certificate_id)?
                .ok_or_else(|| no_certificate(certificate_id))?;
            if found.status == Status::Active {
                return Err(Error::invalid(format!(
                    "certificate {certificate_id} is ACTIVE; make it INACTIVE first"
                )));
            }
            let attached = self.policies.attached_to(certificate_id);
            let free = attached.is_empty() && found.things.is_empty();
            if !(force || free) {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!(
                        "certificate {certificate_id} has things {:?} and policies {attached:?} \
                         attached; detach them first",
                        found.things
                    ),
                ));
            }
            transaction.delete::<Certificate>(certificate_id)?;
            Policies::strip(transaction, certificate_id)?;
            Ok(found.row)
        })?;
        {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            known.remove(certificate_id);
        }
        self.policies.stripped(certificate_id);
        self.tell(&Certificate { status: Status::Revoked, ..gone }, false);
        Ok(())
    }

    /// Attaches a certificate to a thing; nothing changes if it is attached already.
    pub fn attach(&self, thing: &str, certificate_id: &str) -> Result<()> {
        self.edit_things(thing, certificate_id, |things| {
            let attached = things.iter().any(|attached| attached == thing);
            if !attached {
                things.push(thing.to_owned());
            }
            Ok(!attached)
        })
    }

    /// Detaches a certificate from a thing; [`ErrorKind::NotFound`] if it is not attached.
    pub fn detach(&self, thing: &str, certificate_id: &str) -> Result<()> {
        self.edit_things(thing, certificate_id, |things| {
            let before = things.len();
            things.retain(|attached| attached != thing);
            if things.len() == before {
                return Err(Error::not_found(format!(
                    "certificate {certificate_id} is not attached to thing {thing:?}"
                )));
            }
            Ok(true)
        })
    }

    fn edit_things(
        &self,
        thing: &str,
        certificate_id: &str,
        edit: impl FnOnce(&mut Vec<String>) -> Result<bool>,
    ) -> Result<()> {
        let _turn = self.turn();
        let now = self.clock.now();
        let changed = self.store.transact(|transaction| {
            if transaction.get::<Thing>(thing)?.is_none() {
                return Err(Error::not_found(format!("there is no thing {thing:?}")));
            }
            let mut found = transaction
                .get::<Certificate>(certificate_id)?
                .ok_or_else(|| no_certificate(certificate_id))?;
            if !edit(&mut found.row.things)? {
                return Ok(None);
            }
            found.row.modified_at = now;
            transaction.replace(certificate_id, found.version, &found.row)?;
            Ok(Some(found.row))
        })?;
        if let Some(certificate) = changed {
            self.believe(&certificate);
            // What a policy's variables give has changed.
            self.policies.tell(vec![certificate_id.to_owned()]);
        }
        Ok(())
    }

    /// The certificates attached to a thing, by id.
    pub fn certificates_of(&self, thing: &str) -> Vec<String> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut ids: Vec<String> = known
            .iter()
            .filter(|(_, found)| found.things.iter().any(|attached| attached == thing))
            .map(|(id, _)| id.clone())
            .collect();
        ids.sort();
        ids
    }

    /// Changes a certificate's status and tells the listeners. A revoked certificate stays
    /// revoked.
    pub fn set_status(&self, certificate_id: &str, status: Status) -> Result<()> {
        let _turn = self.turn();
        let now = self.clock.now();
        let changed = self
            .store
            .transact(|transaction| change_status(transaction, certificate_id, status, now))?;
        if let Some(certificate) = changed {
            self.tell(&certificate, true);
        }
        Ok(())
    }

    /// Revokes every certificate of a thing; answers their ids. The thing itself stays.
    pub fn revoke(&self, thing: &str) -> Result<Vec<String>> {
        let _turn = self.turn();
        let now = self.clock.now();
        let (ids, changed) = self.store.transact(|transaction| {
            if transaction.get::<Thing>(thing)?.is_none() {
                return Err(Error::not_found(format!("there is no thing {thing:?}")));
            }
            let mut ids = Vec::new();
            let mut changed = Vec::new();
            for (id, certificate) in transaction.list::<Certificate>()? {
                if certificate.things.iter().any(|attached| attached == thing) {
                    changed.extend(change_status(transaction, &id, Status::Revoked, now)?);
                    ids.push(id);
                }
            }
            Ok((ids, changed))
        })?;
        for certificate in &changed {
            self.tell(certificate, true);
        }
        Ok(ids)
    }

    fn tell(&self, certificate: &Certificate, believe: bool) {
        if believe {
            self.believe(certificate);
        }
        let change = Change {
            certificate_id: certificate.certificate_id.clone(),
            thing_name: known_by(&certificate.certificate_id, &certificate.things),
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

    pub(crate) fn believe(&self, certificate: &Certificate) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(certificate.certificate_id.clone(), Known::of(certificate));
    }

    pub(crate) fn turn(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All things by name, each with its certificates, oldest first.
    pub fn list(&self) -> Result<Vec<(Thing, Vec<Certificate>)>> {
        let (things, certificates) = self
            .store
            .transact(|transaction| Ok((transaction.list::<Thing>()?, transaction.list()?)))?;
        let mut by_thing: HashMap<String, Vec<Certificate>> = HashMap::new();
        for (_, certificate) in certificates {
            let certificate: Certificate = certificate.row;
            for thing in &certificate.things {
                by_thing.entry(thing.clone()).or_default().push(certificate.clone());
            }
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
            things: certificate.things.clone(),
            status: certificate.status,
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            foreign: certificate.registered.is_some(),
        }
    }
}

/// Gives rows of the first release what later ones need: things an id, and every device the
/// policy that its kit came with, since a certificate without a policy may do nothing.
fn migrate(store: &Metastore, policies: &Policies) -> Result<()> {
    let _turn = policies.turn();
    let endowments = store.transact(|transaction| {
        if transaction.get::<Format>("format")?.is_some_and(|format| format.row.version >= FORMAT) {
            return Ok(Vec::new());
        }
        for (name, thing) in transaction.list::<Thing>()? {
            transaction.put(&name, &thing.row.with_id()?)?;
        }
        let mut endowments: Vec<Endowment> = Vec::new();
        for (id, certificate) in transaction.list::<Certificate>()? {
            transaction.put(&id, &certificate.row)?;
            for thing in &certificate.things {
                let (name, document) = (kit::policy_name(thing), kit::policy(thing));
                endowments.push(policies.endow(transaction, &name, &document, &id)?);
            }
        }
        transaction.put("format", &Format { version: FORMAT })?;
        Ok(endowments)
    })?;
    endowments.into_iter().for_each(|endowment| policies.believe(endowment));
    Ok(())
}

fn known_by(certificate_id: &str, things: &[String]) -> String {
    things.first().map_or(certificate_id, String::as_str).to_owned()
}

fn no_certificate(certificate_id: &str) -> Error {
    Error::not_found(format!("there is no certificate {certificate_id:?}"))
}

/// Stores the status; the changed row, or `None` if it had that status.
fn change_status(
    transaction: &mut Transaction<'_>,
    certificate_id: &str,
    status: Status,
    now: Timestamp,
) -> Result<Option<Certificate>> {
    let Some(mut found) = transaction.get::<Certificate>(certificate_id)? else {
        return Err(no_certificate(certificate_id));
    };
    if found.status == status {
        return Ok(None);
    }
    if found.status == Status::Revoked {
        return Err(Error::invalid(format!(
            "certificate {certificate_id} is revoked for good; make a new one for {:?}",
            known_by(certificate_id, &found.things)
        )));
    }
    found.row.status = status;
    found.row.modified_at = now;
    transaction.replace(certificate_id, found.version, &found.row)?;
    Ok(Some(found.row))
}
