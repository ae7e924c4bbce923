//! The rights of a client, from its certificate's policies and its thing, as they are now.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use base::Result;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::policies::Attached;
use crate::policy::{Document, Facts, Rights, Source, ThingFacts};
use crate::{Registry, Thing};

/// Documents kept parsed; beyond, all are forgotten and parsed again as they are asked for.
const PARSED_MAX: usize = 1_000;

/// Somebody who connects.
#[derive(Clone, Debug)]
pub struct Visitor<'a> {
    /// The certificate it presented; `None` on the plain port.
    pub certificate_id: Option<&'a str>,
    /// The MQTT client identifier; `None` for a request over HTTP.
    pub client_id: Option<&'a str>,
    /// Where it connects from.
    pub source_ip: Option<IpAddr>,
    /// Whether its session is to outlive the connection.
    pub persistent: bool,
    /// Whether its CONNECT brings a will.
    pub last_will: bool,
}

/// A policy's text and what was made of it.
type Understood = (Arc<str>, Parsed);
type Parsed = Arc<std::result::Result<Document, String>>;

/// Settles what clients may do.
pub struct Gate {
    registry: Arc<Registry>,
    region: String,
    account: String,
    anonymous: Option<Source>,
    /// What was made of each policy's text.
    parsed: Mutex<HashMap<Arc<str>, Understood>>,
}

impl Gate {
    /// A gate that knows the registry's policies; `region` and `account` are those that the ARNs
    /// of policies must name. Clients without a certificate may do everything.
    pub fn new(registry: Arc<Registry>, region: &str, account: &str) -> Gate {
        Gate {
            registry,
            region: region.to_owned(),
            account: account.to_owned(),
            anonymous: None,
            parsed: Mutex::default(),
        }
    }

    /// Binds clients without a certificate to a policy, known as `name` in explanations.
    pub fn with_anonymous_policy(mut self, name: &str, document: &str) -> Result<Gate> {
        let document = Arc::new(Ok(Document::parse(document)?));
        self.anonymous = Some(Source { policy: name.into(), version: 1, document });
        Ok(self)
    }

    /// What `visitor` may do now; `None` for everything.
    pub fn rights(&self, visitor: &Visitor<'_>) -> Option<Rights> {
        let mut attributes = Vec::new();
        if visitor.last_will {
            attributes.push("LastWill");
        }
        if visitor.persistent {
            attributes.push("PersistentConnect");
        }
        let facts = Facts {
            region: &self.region,
            account: &self.account,
            client_id: visitor.client_id,
            source_ip: visitor.source_ip,
            certificate_id: visitor.certificate_id,
            connect_attributes: &attributes,
            ..Facts::default()
        };
        match visitor.certificate_id {
            Some(certificate_id) => Some(self.of_certificate(certificate_id, facts)),
            None => {
                self.anonymous.as_ref().map(|own| Rights::new(std::slice::from_ref(own), &facts))
            }
        }
    }

    fn of_certificate(&self, certificate_id: &str, facts: Facts<'_>) -> Rights {
        let attached = self.registry.policies().attached_documents(certificate_id);
        let sources: Vec<Source> = attached.into_iter().map(|a| self.source(a)).collect();
        let thing = facts.client_id.and_then(|name| self.thing(certificate_id, name));
        let thing = thing.as_ref().map(|thing| ThingFacts {
            name: &thing.name,
            thing_type: thing.thing_type.as_deref(),
            attributes: &thing.attributes,
        });
        let der = sources.iter().any(Source::reads_certificate).then(|| self.der(certificate_id));
        let certificate_der = der.as_ref().and_then(|der| der.as_deref());
        Rights::new(&sources, &Facts { thing, certificate_der, ..facts })
    }

    /// The thing a client is: its id is the thing's name, its certificate attached to it.
    fn thing(&self, certificate_id: &str, client_id: &str) -> Option<Arc<Thing>> {
        let attached = self.registry.is_attached(certificate_id, client_id);
        attached.then(|| self.registry.thing(client_id).ok()).flatten()
    }

    fn der(&self, certificate_id: &str) -> Option<Vec<u8>> {
        let certificate = self.registry.certificate(certificate_id).ok()?;
        let der = CertificateDer::from_pem_slice(certificate.pem.as_bytes()).ok()?;
        Some(der.to_vec())
    }

    fn source(&self, attached: Attached) -> Source {
        let Attached { policy, version, document: text } = attached;
        let mut parsed = self.parsed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, document)) = parsed.get(&policy)
            && Arc::ptr_eq(of, &text)
        {
            return Source { policy, version, document: Arc::clone(document) };
        }
        let document: Parsed = Arc::new(Document::parse(&text).map_err(|cause| cause.to_string()));
        if let Err(cause) = document.as_ref() {
            tracing::warn!(%policy, version, cause, "a policy in force cannot be read; whoever has it may do nothing");
        }
        if parsed.len() >= PARSED_MAX {
            parsed.clear();
        }
        parsed.insert(Arc::clone(&policy), (text, Arc::clone(&document)));
        Source { policy, version, document }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("region", &self.region)
            .field("account", &self.account)
            .field("anonymous", &self.anonymous)
            .finish_non_exhaustive()
    }
}
