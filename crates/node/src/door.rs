//! Who may connect, and what they may do: the registry and its policies, as the broker asks.

use std::sync::Arc;

use base::{Clock, Error, Result, Timestamp};
use broker::{Action, Client, Explanation, Identity, Refusal};
use identity::sigv4::{self, Claim};
use identity::{Gate, KeyRefusal, Keys, Registry, Visitor, policy};

use crate::Settings;

/// The principal of clients without a certificate.
const ANONYMOUS: &str = "anonymous";

/// Registered active certificates under their policies, whoever signs with an access key, and
/// without either whom the settings allow.
pub(crate) struct Door {
    registry: Arc<Registry>,
    keys: Arc<Keys>,
    clock: Arc<dyn Clock>,
    gate: Gate,
    anonymous: bool,
}

impl Door {
    /// The door that the settings ask for. A policy file that cannot be read or is malformed
    /// refuses the start: guessing would open or lock it.
    pub(crate) fn new(
        registry: Arc<Registry>,
        keys: Arc<Keys>,
        clock: Arc<dyn Clock>,
        settings: &Settings,
    ) -> Result<Door> {
        let aws = &settings.aws;
        let mut gate = Gate::new(registry.clone(), &aws.region, &aws.account_id);
        if let Some(path) = &settings.mqtt.anonymous_policy {
            let shown = path.display().to_string();
            let text = std::fs::read_to_string(path)
                .map_err(|e| Error::io(format!("read mqtt.anonymous_policy {shown}"), e))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            gate = gate
                .with_anonymous_policy(&name, &text)
                .map_err(|error| error.context(format!("mqtt.anonymous_policy {shown}")))?;
        }
        Ok(Door { registry, keys, clock, gate, anonymous: settings.mqtt.anonymous })
    }

    /// Who signed a request, or why nobody did; in words for the log and the client alike.
    fn signer(&self, request: &sigv4::Request<'_>) -> Result<Identity, String> {
        let claim = Claim::read(request).map_err(|refusal| refusal.to_string())?;
        let service = &claim.scope.service;
        if service != sigv4::MQTT_SERVICE {
            return Err(format!(
                "Credential should be scoped to correct service: {:?}, not {service:?}.",
                sigv4::MQTT_SERVICE
            ));
        }
        let id = &claim.scope.access_key_id;
        let key = self.keys.admit(id, claim.token.as_deref()).map_err(|refusal| match refusal {
            KeyRefusal::Unknown | KeyRefusal::Inactive => {
                "The security token included in the request is invalid.".to_owned()
            }
            KeyRefusal::Expired => {
                "The security token included in the request is expired.".to_owned()
            }
        })?;
        claim
            .verify(request, &key.secret, self.clock.now(), sigv4::SERVICE)
            .map_err(|refusal| refusal.to_string())?;
        Ok(Identity { principal: key.principal.user_id, thing_name: None })
    }
}

/// Whether a principal is known by an access key: its user id is `ROLE:SESSION`, while
/// certificates have hexadecimal names.
fn signs(principal: &str) -> bool {
    principal.contains(':')
}

impl broker::Authenticator for Door {
    fn certificate(&self, der: &[u8]) -> Result<Identity, Refusal> {
        match self.registry.lookup(der) {
            Ok(found) => {
                let thing_name = Some(found.thing_name);
                Ok(Identity { principal: found.certificate_id, thing_name })
            }
            Err(error) => Err(Refusal { reason: "certificate", message: error.to_string() }),
        }
    }

    fn standing(&self, identity: &Identity) -> Result<Option<Timestamp>, Refusal> {
        let principal = identity.principal.as_str();
        if principal == ANONYMOUS || signs(principal) {
            // The settings hold for as long as the program runs, and `Keys::on_end` tells of keys.
            return Ok(None);
        }
        match self.registry.lookup_id(principal) {
            Ok(found) => Ok(Some(found.not_after)),
            Err(error) => Err(Refusal { reason: "certificate", message: error.to_string() }),
        }
    }

    fn anonymous(&self) -> Result<Identity, Refusal> {
        if self.anonymous {
            return Ok(Identity { principal: ANONYMOUS.to_owned(), thing_name: None });
        }
        let message =
            "clients without a certificate are not allowed (mqtt.anonymous = false)".to_owned();
        Err(Refusal { reason: "anonymous", message })
    }

    fn signed(&self, request: &http::Request<()>) -> Option<Result<Identity, Refusal>> {
        let query = request.uri().query().unwrap_or_default();
        if !sigv4::presigned(query) && !request.headers().contains_key("authorization") {
            return None;
        }
        let headers = request.headers().iter();
        let request = sigv4::Request {
            method: request.method().as_str(),
            path: request.uri().path(),
            query,
            headers: headers.map(|(name, value)| (name.as_str(), value.as_bytes())).collect(),
            body: &[],
        };
        let refused = |message| Refusal { reason: "signature", message };
        Some(self.signer(&request).map_err(refused))
    }

    fn rights(&self, client: &Client<'_>) -> Option<Arc<dyn broker::Rights>> {
        let principal = client.identity.principal.as_str();
        if signs(principal) {
            // The account's own; its IAM policies are kept and not enforced, here as anywhere.
            return None;
        }
        let visitor = Visitor {
            certificate_id: (principal != ANONYMOUS).then_some(principal),
            client_id: Some(client.client_id),
            source_ip: client.address,
            persistent: client.persistent,
            last_will: client.last_will,
        };
        Some(Arc::new(Settled(self.gate.rights(&visitor)?)))
    }
}

/// One client's rights, in the broker's words.
#[derive(Debug)]
struct Settled(policy::Rights);

fn wanted(action: Action) -> policy::Action {
    match action {
        Action::Connect => policy::Action::Connect,
        Action::Publish => policy::Action::Publish,
        Action::RetainPublish => policy::Action::RetainPublish,
        Action::Subscribe => policy::Action::Subscribe,
        Action::Receive => policy::Action::Receive,
    }
}

impl broker::Rights for Settled {
    fn allows(&self, action: Action, name: &str) -> bool {
        self.0.allows(wanted(action), name)
    }

    fn explain(&self, action: Action, name: &str) -> Explanation {
        let decision = self.0.decide(wanted(action), name);
        let by = decision.by.as_ref().or(decision.near.first().map(|miss| &miss.statement));
        Explanation {
            text: decision.to_string(),
            policy: by.map(|by| by.policy.clone()),
            version: by.map(|by| by.version),
            statement: by.map(|by| by.statement),
            sid: by.and_then(|by| by.sid.clone()),
            resource: decision.resource,
        }
    }
}
