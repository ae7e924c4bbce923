//! IoT policies as rows: names, versions, and which certificates they are attached to.
//!
//! What a document permits is not decided here. This module keeps the texts, answers
//! [`Policies::attached_documents`] from memory for every decision on a connection, and tells
//! its listeners whose permissions may have changed.
//!
//! Invariants
//! * A change is stored before it is believed, and believed before anyone is told.
//! * A policy has one to five versions, one of which is the default; only the default counts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use base::{Clock, Error, ErrorKind, Result, Timestamp};
use metastore::{Metastore, Row, Transaction};
use serde::{Deserialize, Serialize};

use crate::Certificate;
use crate::authority::{hex, random};

/// Most versions of a policy, AWS's bound.
pub const VERSIONS_MAX: usize = 5;

/// Most policies attached to one certificate, AWS's bound.
pub const ATTACHED_MAX: usize = 10;

/// Longest policy name, AWS's bound.
const NAME_BYTES_MAX: usize = 128;

/// A policy with all its versions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its name; also the key of the row.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When a version was last added or made the default.
    pub modified_at: Timestamp,
    /// Changes with every change: the hex that AWS calls the generation id.
    pub generation: String,
    /// The version in force.
    pub default_version: u32,
    /// The number of the newest version ever made; numbers are not used twice.
    pub last_version: u32,
    /// The versions kept, oldest first.
    pub versions: Vec<PolicyVersion>,
}

/// One version of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyVersion {
    /// Counts up from 1.
    pub id: u32,
    /// The document as it was given.
    pub document: String,
    /// When it was made.
    pub created_at: Timestamp,
}

impl Row for Policy {
    const TABLE: &'static str = "iot-policies";
}

impl Policy {
    /// The version with this number.
    pub fn version(&self, id: u32) -> Result<&PolicyVersion> {
        self.versions
            .iter()
            .find(|version| version.id == id)
            .ok_or_else(|| Error::not_found(format!("policy {:?} has no version {id}", self.name)))
    }

    /// The document in force.
    pub fn document(&self) -> &str {
        let found = self.versions.iter().find(|version| version.id == self.default_version);
        found.map_or("", |version| version.document.as_str())
    }
}

/// A policy attached to a certificate; the key is `CERTIFICATE/POLICY`.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Attachment {
    certificate_id: String,
    policy: String,
    attached_at: Timestamp,
}

impl Row for Attachment {
    const TABLE: &'static str = "iot-policy-attachments";
}

fn attachment_key(certificate_id: &str, policy: &str) -> String {
    format!("{certificate_id}/{policy}")
}

/// A document in force for a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The policy's name.
    pub policy: Arc<str>,
    /// The version in force.
    pub version: u32,
    /// Its text. The same `Arc` while the version stays in force, so that a reader may keep
    /// what it made of it.
    pub document: Arc<str>,
}

/// Told to every listener once it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyChange {
    /// The certificates whose documents changed.
    pub certificates: Vec<String>,
}

type Listener = Box<dyn Fn(&PolicyChange) + Send + Sync>;

/// All policies of one data directory.
pub struct Policies {
    store: Metastore,
    clock: Arc<dyn Clock>,
    /// Taken around "store, then map, then listeners", so that all see changes in one order.
    changing: Mutex<()>,
    known: RwLock<Known>,
    listeners: RwLock<Vec<Listener>>,
}

#[derive(Default)]
struct Known {
    policies: BTreeMap<String, Believed>,
    by_certificate: HashMap<String, BTreeSet<String>>,
}

struct Believed {
    policy: Policy,
    in_force: Attached,
    certificates: BTreeSet<String>,
}

impl Policies {
    /// Reads all policies and attachments into memory.
    pub fn open(store: Metastore, clock: Arc<dyn Clock>) -> Result<Arc<Policies>> {
        let mut known = Known::default();
        for (_, policy) in store.list::<Policy>()? {
            known.believe(policy.row);
        }
        for (_, attachment) in store.list::<Attachment>()? {
            known.attach(&attachment.policy, &attachment.certificate_id);
        }
        Ok(Arc::new(Policies {
            store,
            clock,
            changing: Mutex::new(()),
            known: RwLock::new(known),
            listeners: RwLock::new(Vec::new()),
        }))
    }

    /// Calls `listener` after every change that touches certificates, from the thread that made
    /// it; it must be quick and must not change a policy.
    pub fn on_change(&self, listener: impl Fn(&PolicyChange) + Send + Sync + 'static) {
        let mut listeners = self.listeners.write().unwrap_or_else(PoisonError::into_inner);
        listeners.push(Box::new(listener));
    }

    /// The documents in force for a certificate, by policy name: a map look-up and a few
    /// counters.
    pub fn attached_documents(&self, certificate_id: &str) -> Vec<Attached> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let names = known.by_certificate.get(certificate_id).into_iter().flatten();
        let policies = names.filter_map(|name| known.policies.get(name));
        policies.map(|believed| believed.in_force.clone()).collect()
    }

    /// All policies by name.
    pub fn list(&self) -> Vec<Policy> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.policies.values().map(|believed| believed.policy.clone()).collect()
    }

    /// One policy.
    pub fn get(&self, name: &str) -> Result<Policy> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.policies.get(name).map(|b| b.policy.clone()).ok_or_else(|| absent(name))
    }

    /// The names of the policies attached to a certificate.
    pub fn attached_to(&self, certificate_id: &str) -> Vec<String> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.by_certificate.get(certificate_id).into_iter().flatten().cloned().collect()
    }

    /// The certificates a policy is attached to.
    pub fn targets(&self, name: &str) -> Result<Vec<String>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let believed = known.policies.get(name).ok_or_else(|| absent(name))?;
        Ok(believed.certificates.iter().cloned().collect())
    }

    /// Makes a policy whose first version is in force.
    pub fn create(&self, name: &str, document: &str) -> Result<Policy> {
        check_name(name)?;
        check_document(document)?;
        let _turn = self.turn();
        let policy = self.first_version(name, document)?;
        self.store.transact(|transaction| {
            if transaction.get::<Policy>(name)?.is_some() {
                let message = format!("policy {name:?} exists already");
                return Err(Error::new(ErrorKind::AlreadyExists, message));
            }
            transaction.put(name, &policy)
        })?;
        self.write().believe(policy.clone());
        Ok(policy)
    }

    /// Removes a policy with all its versions; [`ErrorKind::Conflict`] while it is attached.
    pub fn delete(&self, name: &str) -> Result<()> {
        let _turn = self.turn();
        self.get(name)?;
        let targets = self.targets(name)?;
        if let Some(first) = targets.first() {
            return Err(conflict(format!(
                "policy {name:?} is attached to {} certificates, {first} among them; detach it first",
                targets.len()
            )));
        }
        self.store.delete::<Policy>(name)?;
        self.write().policies.remove(name);
        Ok(())
    }

    /// Adds a version; [`ErrorKind::Exhausted`] when there are five. Answers its number too.
    pub fn create_version(
        &self,
        name: &str,
        document: &str,
        as_default: bool,
    ) -> Result<(Policy, u32)> {
        check_document(document)?;
        let now = self.clock.now();
        let policy = self.edit(name, |policy| {
            if policy.versions.len() >= VERSIONS_MAX {
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    format!(
                        "policy {name:?} has {VERSIONS_MAX} versions, the most allowed; delete one first"
                    ),
                ));
            }
            policy.last_version += 1;
            let id = policy.last_version;
            policy.versions.push(PolicyVersion {
                id,
                document: document.to_owned(),
                created_at: now,
            });
            if as_default {
                policy.default_version = id;
            }
            Ok(())
        })?;
        let id = policy.last_version;
        Ok((policy, id))
    }

    /// Puts another version in force.
    pub fn set_default(&self, name: &str, id: u32) -> Result<Policy> {
        self.edit(name, |policy| {
            policy.version(id)?;
            policy.default_version = id;
            Ok(())
        })
    }

    /// Removes a version that is not in force; [`ErrorKind::Conflict`] if it is.
    pub fn delete_version(&self, name: &str, id: u32) -> Result<Policy> {
        self.edit(name, |policy| {
            policy.version(id)?;
            if policy.default_version == id {
                return Err(conflict(format!(
                    "version {id} of policy {name:?} is the default; make another one the default first"
                )));
            }
            policy.versions.retain(|version| version.id != id);
            Ok(())
        })
    }

    /// Attaches a policy to a certificate; nothing changes if it is attached already.
    pub fn attach(&self, name: &str, certificate_id: &str) -> Result<()> {
        let _turn = self.turn();
        let now = self.clock.now();
        let attached = self.store.transact(|transaction| {
            if transaction.get::<Policy>(name)?.is_none() {
                return Err(absent(name));
            }
            if transaction.get::<Certificate>(certificate_id)?.is_none() {
                let message = format!("there is no certificate {certificate_id:?}");
                return Err(Error::not_found(message));
            }
            let key = attachment_key(certificate_id, name);
            if transaction.get::<Attachment>(&key)?.is_some() {
                return Ok(false);
            }
            let prefix = format!("{certificate_id}/");
            if transaction.list_prefix::<Attachment>(&prefix)?.len() >= ATTACHED_MAX {
                let message = format!(
                    "certificate {certificate_id} has {ATTACHED_MAX} policies, the most allowed"
                );
                return Err(Error::new(ErrorKind::Exhausted, message));
            }
            put_attachment(transaction, name, certificate_id, now)?;
            Ok(true)
        })?;
        if attached {
            self.write().attach(name, certificate_id);
            self.tell(vec![certificate_id.to_owned()]);
        }
        Ok(())
    }

    /// Detaches a policy from a certificate; nothing changes if it is not attached.
    pub fn detach(&self, name: &str, certificate_id: &str) -> Result<()> {
        let _turn = self.turn();
        self.get(name)?;
        let key = attachment_key(certificate_id, name);
        if self.store.delete::<Attachment>(&key)? {
            self.write().detach(name, certificate_id);
            self.tell(vec![certificate_id.to_owned()]);
        }
        Ok(())
    }

    /// Within the transaction that registers a certificate: the policy `name` attached to it,
    /// made with `document` if there is none. The answer is for [`Policies::believe`].
    pub(crate) fn endow(
        &self,
        transaction: &mut Transaction<'_>,
        name: &str,
        document: &str,
        certificate_id: &str,
    ) -> Result<Endowment> {
        let policy = match transaction.get::<Policy>(name)? {
            Some(_) => None,
            None => {
                let policy = self.first_version(name, document)?;
                transaction.put(name, &policy)?;
                Some(policy)
            }
        };
        put_attachment(transaction, name, certificate_id, self.clock.now())?;
        Ok(Endowment { policy, name: name.to_owned(), certificate_id: certificate_id.to_owned() })
    }

    /// Believes what [`Policies::endow`] stored, once the transaction is durable.
    pub(crate) fn believe(&self, endowment: Endowment) {
        {
            let mut known = self.write();
            if let Some(policy) = endowment.policy {
                known.believe(policy);
            }
            known.attach(&endowment.name, &endowment.certificate_id);
        }
        self.tell(vec![endowment.certificate_id]);
    }

    /// Within the transaction that deletes a certificate: forgets its attachments.
    pub(crate) fn strip(transaction: &mut Transaction<'_>, certificate_id: &str) -> Result<()> {
        for (key, _) in transaction.list_prefix::<Attachment>(&format!("{certificate_id}/"))? {
            transaction.delete::<Attachment>(&key)?;
        }
        Ok(())
    }

    /// Believes what [`Policies::strip`] stored.
    pub(crate) fn stripped(&self, certificate_id: &str) {
        {
            let mut known = self.write();
            let names = known.by_certificate.remove(certificate_id).unwrap_or_default();
            for name in names {
                known.detach(&name, certificate_id);
            }
        }
        self.tell(vec![certificate_id.to_owned()]);
    }

    /// Held while policies are changed together with another room's rows.
    pub(crate) fn turn(&self) -> std::sync::MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn first_version(&self, name: &str, document: &str) -> Result<Policy> {
        let now = self.clock.now();
        Ok(Policy {
            name: name.to_owned(),
            created_at: now,
            modified_at: now,
            generation: generation()?,
            default_version: 1,
            last_version: 1,
            versions: vec![PolicyVersion { id: 1, document: document.to_owned(), created_at: now }],
        })
    }

    fn edit(&self, name: &str, change: impl FnOnce(&mut Policy) -> Result<()>) -> Result<Policy> {
        let _turn = self.turn();
        let generation = generation()?;
        let now = self.clock.now();
        let (policy, affects) = self.store.transact(|transaction| {
            let found = transaction.get::<Policy>(name)?.ok_or_else(|| absent(name))?;
            let mut policy = found.row.clone();
            change(&mut policy)?;
            policy.generation = generation;
            policy.modified_at = now;
            transaction.replace(name, found.version, &policy)?;
            let affects = policy.default_version != found.row.default_version;
            Ok((policy, affects))
        })?;
        self.write().believe(policy.clone());
        if affects {
            self.tell(self.targets(name)?);
        }
        Ok(policy)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the listeners that what these certificates may do can have changed.
    pub(crate) fn tell(&self, certificates: Vec<String>) {
        if certificates.is_empty() {
            return;
        }
        let change = PolicyChange { certificates };
        for listener in self.listeners.read().unwrap_or_else(PoisonError::into_inner).iter() {
            listener(&change);
        }
    }
}

impl fmt::Debug for Policies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        f.debug_struct("Policies").field("policies", &known.policies.len()).finish_non_exhaustive()
    }
}

/// What a new certificate was given, not yet believed.
pub(crate) struct Endowment {
    policy: Option<Policy>,
    name: String,
    certificate_id: String,
}

impl Known {
    fn believe(&mut self, policy: Policy) {
        let before = self.policies.remove(&policy.name);
        let kept = before.as_ref().filter(|b| b.in_force.version == policy.default_version);
        let in_force = match kept {
            Some(before) => before.in_force.clone(),
            None => Attached {
                policy: policy.name.as_str().into(),
                version: policy.default_version,
                document: policy.document().into(),
            },
        };
        let certificates = before.map(|before| before.certificates).unwrap_or_default();
        self.policies.insert(policy.name.clone(), Believed { policy, in_force, certificates });
    }

    fn attach(&mut self, name: &str, certificate_id: &str) {
        if let Some(believed) = self.policies.get_mut(name) {
            believed.certificates.insert(certificate_id.to_owned());
            let of_certificate = self.by_certificate.entry(certificate_id.to_owned());
            of_certificate.or_default().insert(name.to_owned());
        }
    }

    fn detach(&mut self, name: &str, certificate_id: &str) {
        if let Some(believed) = self.policies.get_mut(name) {
            believed.certificates.remove(certificate_id);
        }
        if let Some(names) = self.by_certificate.get_mut(certificate_id) {
            names.remove(name);
            if names.is_empty() {
                self.by_certificate.remove(certificate_id);
            }
        }
    }
}

fn put_attachment(
    transaction: &mut Transaction<'_>,
    policy: &str,
    certificate_id: &str,
    now: Timestamp,
) -> Result<()> {
    let attachment = Attachment {
        certificate_id: certificate_id.to_owned(),
        policy: policy.to_owned(),
        attached_at: now,
    };
    transaction.put(&attachment_key(certificate_id, policy), &attachment)?;
    Ok(())
}

fn generation() -> Result<String> {
    Ok(hex(&random::<16>()?))
}

fn absent(name: &str) -> Error {
    Error::not_found(format!("there is no policy {name:?}"))
}

fn conflict(message: String) -> Error {
    Error::new(ErrorKind::Conflict, message)
}

fn check_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(allowed) {
        return Err(Error::invalid(format!(
            "{name:?} is not a policy name; use 1 to {NAME_BYTES_MAX} letters, digits and any of _+=,.@-"
        )));
    }
    Ok(())
}

pub(crate) fn check_document(document: &str) -> Result<()> {
    crate::policy::Document::parse(document).map(drop)
}
