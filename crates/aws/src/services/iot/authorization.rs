//! Trying out what a certificate's policies permit.

use std::collections::BTreeSet;
use std::sync::Arc;

use identity::policies::Attached;
use identity::policy::{Action, Document, Facts, Source, ThingFacts, Verdict, evaluate};
use serde::Deserialize;
use serde_json::{Value, json};

use super::policies::name_and_arn;
use super::{certificate_of, refuse, resource};
use crate::call::{Call, Outcome};
use crate::fault::Fault;
use crate::rooms::Rooms;

/// AWS's bound on one call.
const INFOS_MAX: usize = 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct TestAuthorization {
    principal: Option<String>,
    cognito_identity_pool_id: Option<String>,
    auth_infos: Vec<AuthInfo>,
    client_id: Option<String>,
    #[serde(default)]
    policy_names_to_add: Vec<String>,
    #[serde(default)]
    policy_names_to_skip: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct AuthInfo {
    action_type: Option<String>,
    resources: Vec<String>,
}

impl AuthInfo {
    /// The action and what an ARN of it begins with.
    fn action(&self) -> Result<(Action, &'static str), Fault> {
        match self.action_type.as_deref().unwrap_or_default() {
            "CONNECT" => Ok((Action::Connect, "client")),
            "PUBLISH" => Ok((Action::Publish, "topic")),
            "RECEIVE" => Ok((Action::Receive, "topic")),
            "SUBSCRIBE" => Ok((Action::Subscribe, "topicfilter")),
            other => Err(Fault::invalid(format!(
                "actionType {other:?} is not one of PUBLISH, SUBSCRIBE, RECEIVE and CONNECT"
            ))),
        }
    }
}

pub(super) async fn test_authorization(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: TestAuthorization = call.input()?;
    let pool = input.cognito_identity_pool_id.as_ref();
    refuse("cognitoIdentityPoolId", pool, "there are no Cognito identities")?;
    if input.auth_infos.is_empty() || input.auth_infos.len() > INFOS_MAX {
        let count = input.auth_infos.len();
        return Err(Fault::invalid(format!("authInfos has {count} entries; 1 to {INFOS_MAX} fit")));
    }
    let principal = input.principal.as_deref();
    let id = principal.map(|arn| certificate_of(rooms, "principal", arn)).transpose()?;
    if let Some(id) = id {
        rooms.registry.certificate(id)?;
    }
    let sources = sources(rooms, id, &input)?;
    let client = input.client_id.as_deref();
    let thing = match (id, client) {
        (Some(id), Some(client)) if rooms.registry.is_attached(id, client) => {
            rooms.registry.thing(client).ok()
        }
        _ => None,
    };
    let facts = Facts {
        account: &rooms.settings.account_id,
        region: &call.region,
        client_id: client,
        certificate_id: id,
        thing: thing.as_ref().map(|thing| ThingFacts {
            name: &thing.name,
            thing_type: thing.thing_type.as_deref(),
            attributes: &thing.attributes,
        }),
        ..Facts::default()
    };
    let results: Result<Vec<Value>, Fault> =
        input.auth_infos.iter().map(|info| result(rooms, call, &sources, &facts, info)).collect();
    Ok(json!({ "authResults": results? }).into())
}

/// The policies in force, less those to skip, and those to add.
fn sources(
    rooms: &Rooms,
    id: Option<&str>,
    input: &TestAuthorization,
) -> Result<Vec<Source>, Fault> {
    let policies = rooms.registry.policies();
    let mut attached = id.map(|id| policies.attached_documents(id)).unwrap_or_default();
    attached.retain(|one| !input.policy_names_to_skip.iter().any(|name| **name == *one.policy));
    for name in &input.policy_names_to_add {
        let policy = policies.get(name)?;
        attached.push(Attached {
            policy: policy.name.as_str().into(),
            version: policy.default_version,
            document: policy.document().into(),
        });
    }
    let source = |one: Attached| Source {
        document: Arc::new(Document::parse(&one.document).map_err(|error| error.to_string())),
        policy: one.policy,
        version: one.version,
    };
    Ok(attached.into_iter().map(source).collect())
}

/// The answer about one action: all its resources must be permitted.
fn result(
    rooms: &Rooms,
    call: &Call,
    sources: &[Source],
    facts: &Facts<'_>,
    info: &AuthInfo,
) -> Result<Value, Fault> {
    let (action, kind) = info.action()?;
    let (mut allowing, mut denying) = (BTreeSet::new(), BTreeSet::new());
    let (mut denied, mut not_allowed) = (false, false);
    for arn in &info.resources {
        let name = resource(rooms, arn, kind).ok_or_else(|| {
            Fault::invalid(format!(
                "resource {arn:?} is not the ARN of a {kind} of account {}",
                rooms.settings.account_id
            ))
        })?;
        let region = arn.split(':').nth(3).unwrap_or_default();
        let decision = evaluate(sources, &Facts { region, ..facts.clone() }, action, name);
        let by = decision.by.map(|statement| statement.policy);
        match decision.verdict {
            Verdict::Allowed => allowing.extend(by),
            Verdict::Denied => {
                denied = true;
                denying.extend(by);
            }
            Verdict::NotAllowed => not_allowed = true,
        }
    }
    let word = match (denied, not_allowed) {
        (true, _) => "EXPLICIT_DENY",
        (false, true) => "IMPLICIT_DENY",
        (false, false) => "ALLOWED",
    };
    let named = |names: &BTreeSet<String>| -> Vec<Value> {
        names.iter().map(|name| name_and_arn(rooms, call, name)).collect()
    };
    Ok(json!({
        "authInfo": { "actionType": info.action_type, "resources": info.resources },
        "allowed": { "policies": named(&allowing) },
        "denied": {
            "implicitDeny": { "policies": [] },
            "explicitDeny": { "policies": named(&denying) },
        },
        "authDecision": word,
        "missingContextValues": [],
    }))
}
