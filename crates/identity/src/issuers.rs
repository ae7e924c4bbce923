//! Certificates made elsewhere in the registry, and the authorities that may answer for them.
//!
//! An issuer is asked for when a device's certificate is registered, and at no other time: what
//! admits a device is its own certificate's fingerprint. An issuer that is made INACTIVE or is
//! forgotten takes nobody's admission away, as on AWS.

use base::{Error, ErrorKind, Result, Timestamp};
use metastore::Row;
use serde::{Deserialize, Serialize};

use crate::{Certificate, Foreign, Registry, Status};

/// Issuers of one subject; AWS's bound.
const SAME_SUBJECT_MAX: usize = 10;

/// How a certificate made elsewhere came to be believed; AWS's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Mode {
    /// By an authority that showed to hold its key.
    Default,
    /// By the word of who registered it.
    SniOnly,
}

/// How a certificate that we did not sign is registered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    /// The id of the issuer's certificate, if one was asked.
    pub issuer: Option<String>,
    /// That issuer's mode; without an issuer [`Mode::SniOnly`].
    pub mode: Mode,
}

/// The certificate of an authority that is not ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuer {
    /// SHA-256 of the DER, in hex; also the key of the row.
    pub certificate_id: String,
    /// Whether certificates that it signed may be registered.
    pub active: bool,
    /// How it was registered.
    pub mode: Mode,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When its row last changed.
    pub modified_at: Timestamp,
    /// When its validity begins.
    pub not_before: Timestamp,
    /// When its validity ends.
    pub not_after: Timestamp,
    /// The certificate itself.
    pub pem: String,
}

impl Row for Issuer {
    const TABLE: &'static str = "issuers";
}

impl Registry {
    /// Registers a certificate made elsewhere. Its fingerprint alone admits from then on, while
    /// it is ACTIVE and in date. [`ErrorKind::AlreadyExists`] if it is registered,
    /// [`ErrorKind::Denied`] if its issuer no longer answers for it.
    pub fn register_certificate(
        &self,
        foreign: &Foreign,
        status: Status,
        issuer: Option<&Issuer>,
    ) -> Result<Certificate> {
        let _turn = self.turn();
        let now = self.clock.now();
        let certificate = Certificate {
            certificate_id: foreign.certificate_id.clone(),
            things: Vec::new(),
            status,
            created_at: now,
            modified_at: now,
            not_before: foreign.not_before,
            not_after: foreign.not_after,
            pem: foreign.pem.clone(),
            registered: Some(Registered {
                issuer: issuer.map(|issuer| issuer.certificate_id.clone()),
                mode: issuer.map_or(Mode::SniOnly, |issuer| issuer.mode),
            }),
        };
        self.store.transact(|transaction| {
            if let Some(issuer) = issuer {
                let id = &issuer.certificate_id;
                let found = transaction.get::<Issuer>(id)?.ok_or_else(|| no_issuer(id))?;
                check_answers(&found.row, now)?;
            }
            transaction.create(&certificate.certificate_id, &certificate)
        })?;
        self.believe(&certificate);
        Ok(certificate)
    }

    /// The registered issuer that signed `foreign`: the `given` one, or the only one.
    ///
    /// [`ErrorKind::NotFound`] if none did, [`ErrorKind::Denied`] if it is not active or has expired,
    /// [`ErrorKind::Conflict`] if several did and none was given.
    pub fn issuer_of(&self, foreign: &Foreign, given: Option<&Foreign>) -> Result<Issuer> {
        let (id, now) = (&foreign.certificate_id, self.clock.now());
        if let Some(given) = given {
            let issuer = self.issuer(&given.certificate_id)?;
            if !foreign.is_signed_by(given) {
                return Err(Error::not_found(format!(
                    "certificate {id} is not signed by CA certificate {}",
                    given.certificate_id
                )));
            }
            check_answers(&issuer, now)?;
            return Ok(issuer);
        }
        let mut signed = Vec::new();
        for issuer in self.issuers()? {
            if foreign.is_signed_by(&Foreign::stored(&issuer.pem)?) {
                signed.push(issuer);
            }
        }
        // Of several certificates of one subject and key, those that may not answer do not count.
        if signed.iter().any(|issuer| check_answers(issuer, now).is_ok()) {
            signed.retain(|issuer| check_answers(issuer, now).is_ok());
        }
        match signed.as_slice() {
            [] => Err(Error::not_found(format!(
                "no registered CA certificate signed certificate {id}"
            ))),
            [issuer] => {
                check_answers(issuer, now)?;
                Ok(issuer.clone())
            }
            several => {
                let ids: Vec<&str> = several.iter().map(|i| i.certificate_id.as_str()).collect();
                Err(Error::new(
                    ErrorKind::Conflict,
                    format!("CA certificates {ids:?} all answer for {id}; say which one is meant"),
                ))
            }
        }
    }

    /// Registers an authority's certificate. Whether its holder has shown to have the key is for
    /// the caller to know.
    pub fn register_issuer(&self, foreign: &Foreign, active: bool, mode: Mode) -> Result<Issuer> {
        let now = self.clock.now();
        let issuer = Issuer {
            certificate_id: foreign.certificate_id.clone(),
            active,
            mode,
            created_at: now,
            modified_at: now,
            not_before: foreign.not_before,
            not_after: foreign.not_after,
            pem: foreign.pem.clone(),
        };
        self.store.transact(|transaction| {
            let mut same = 0;
            for (_, known) in transaction.list::<Issuer>()? {
                same += usize::from(Foreign::stored(&known.row.pem)?.is_same_subject(foreign));
            }
            transaction.create(&issuer.certificate_id, &issuer)?;
            if same >= SAME_SUBJECT_MAX {
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    format!(
                        "{same} CA certificates of this subject are registered, the most allowed"
                    ),
                ));
            }
            Ok(())
        })?;
        Ok(issuer)
    }

    /// One issuer.
    pub fn issuer(&self, certificate_id: &str) -> Result<Issuer> {
        let found = self.store.get::<Issuer>(certificate_id)?;
        found.map(|found| found.row).ok_or_else(|| no_issuer(certificate_id))
    }

    /// All issuers, by id.
    pub fn issuers(&self) -> Result<Vec<Issuer>> {
        Ok(self.store.list::<Issuer>()?.into_iter().map(|(_, issuer)| issuer.row).collect())
    }

    /// Says whether certificates that an issuer signed may be registered from now on.
    pub fn set_issuer_active(&self, certificate_id: &str, active: bool) -> Result<()> {
        let now = self.clock.now();
        self.store.transact(|transaction| {
            let found = transaction.get::<Issuer>(certificate_id)?;
            let mut found = found.ok_or_else(|| no_issuer(certificate_id))?;
            if found.active == active {
                return Ok(());
            }
            found.row.active = active;
            found.row.modified_at = now;
            transaction.replace(certificate_id, found.version, &found.row).map(drop)
        })
    }

    /// Forgets an issuer; [`ErrorKind::Denied`] while it is active.
    pub fn delete_issuer(&self, certificate_id: &str) -> Result<()> {
        self.store.transact(|transaction| {
            let found = transaction.get::<Issuer>(certificate_id)?;
            if found.ok_or_else(|| no_issuer(certificate_id))?.active {
                return Err(Error::new(
                    ErrorKind::Denied,
                    format!("CA certificate {certificate_id} is ACTIVE; make it INACTIVE first"),
                ));
            }
            transaction.delete::<Issuer>(certificate_id).map(drop)
        })
    }
}

fn check_answers(issuer: &Issuer, now: Timestamp) -> Result<()> {
    let why = match () {
        () if !issuer.active => "is INACTIVE",
        () if now > issuer.not_after => "has expired",
        () => return Ok(()),
    };
    let id = &issuer.certificate_id;
    Err(Error::new(ErrorKind::Denied, format!("CA certificate {id} {why}")))
}

fn no_issuer(certificate_id: &str) -> Error {
    Error::not_found(format!("there is no CA certificate {certificate_id:?}"))
}
