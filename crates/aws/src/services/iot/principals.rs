//! What certificates are attached to: things and policies, in the newer and the older forms.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};

use super::certificates::certificate_arn;
use super::policies::{name_and_arn, policy_arn};
use super::{Page, certificate_of, compact, refuse};
use crate::call::{Call, Outcome, Reply};
use crate::fault::Fault;
use crate::rooms::Rooms;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ThingPrincipal {
    thing_name: String,
    principal: String,
    thing_principal_type: Option<String>,
}

pub(super) async fn attach_thing_principal(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ThingPrincipal = call.input()?;
    match input.thing_principal_type.as_deref() {
        None | Some("NON_EXCLUSIVE_THING") => {}
        Some("EXCLUSIVE_THING") => {
            let why = "a certificate may be attached to several things";
            return Err(Fault::unsupported("thingPrincipalType EXCLUSIVE_THING", why));
        }
        Some(other) => {
            return Err(Fault::invalid(format!("thingPrincipalType {other:?} is not known")));
        }
    }
    let id = certificate_of(rooms, "principal", &input.principal)?;
    rooms.registry.attach(&input.thing_name, id)?;
    Ok(json!({}).into())
}

pub(super) async fn detach_thing_principal(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ThingPrincipal = call.input()?;
    let id = certificate_of(rooms, "principal", &input.principal)?;
    rooms.registry.detach(&input.thing_name, id)?;
    Ok(json!({}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ListThingPrincipals {
    thing_name: String,
    next_token: Option<String>,
    max_results: Option<usize>,
}

pub(super) async fn list_thing_principals(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ListThingPrincipals = call.input()?;
    rooms.registry.thing(&input.thing_name)?;
    let ids = rooms.registry.certificates_of(&input.thing_name);
    let page = Page { token: input.next_token, size: input.max_results };
    let (ids, next) = page.of(ids, Clone::clone)?;
    let principals: Vec<String> = ids.iter().map(|id| certificate_arn(rooms, call, id)).collect();
    Ok(compact(json!({ "principals": principals, "nextToken": next })).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ListPrincipalThings {
    principal: String,
    next_token: Option<String>,
    max_results: Option<usize>,
}

pub(super) async fn list_principal_things(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ListPrincipalThings = call.input()?;
    let id = certificate_of(rooms, "principal", &input.principal)?;
    let things = rooms.registry.certificate(id)?.things;
    let page = Page { token: input.next_token, size: input.max_results };
    let (things, next) = page.of(things, Clone::clone)?;
    Ok(compact(json!({ "things": things, "nextToken": next })).into())
}

// ---- policies ----

/// `target` in the body, or `principal` in a header.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct PolicyTarget {
    policy_name: String,
    #[serde(alias = "principal")]
    target: String,
}

fn attach(rooms: &Rooms, call: &Call, member: &str) -> Outcome {
    let input: PolicyTarget = call.input()?;
    let id = certificate_of(rooms, member, &input.target)?;
    rooms.registry.policies().attach(&input.policy_name, id)?;
    Ok(Reply::empty())
}

fn detach(rooms: &Rooms, call: &Call, member: &str) -> Outcome {
    let input: PolicyTarget = call.input()?;
    let id = certificate_of(rooms, member, &input.target)?;
    rooms.registry.policies().detach(&input.policy_name, id)?;
    Ok(Reply::empty())
}

pub(super) async fn attach_policy(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    attach(rooms, call, "target")
}

pub(super) async fn detach_policy(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    detach(rooms, call, "target")
}

pub(super) async fn attach_principal_policy(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    attach(rooms, call, "principal")
}

pub(super) async fn detach_principal_policy(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    detach(rooms, call, "principal")
}

/// A certificate or a policy whose other side is listed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Listed {
    #[serde(alias = "principal")]
    target: Option<String>,
    policy_name: Option<String>,
    /// Policies of groups would follow, if groups had any.
    #[serde(default)]
    recursive: bool,
    marker: Option<String>,
    page_size: Option<usize>,
    #[serde(default = "super::yes")]
    is_ascending_order: bool,
}

impl Listed {
    /// A page of names, in ascending or descending order.
    fn page(&self, names: Vec<String>) -> Result<(Vec<String>, Option<String>), Fault> {
        let page = Page { token: self.marker.clone(), size: self.page_size };
        match self.is_ascending_order {
            true => page.of(names, Clone::clone),
            // The complement of each byte, so that the greatest name comes first.
            false => page.of(names, |name| {
                let mut key: String =
                    name.bytes().map(|byte| format!("{:02x}", u8::MAX - byte)).collect();
                key.push('~');
                key
            }),
        }
    }
}

fn policies_of(rooms: &Rooms, call: &Call, member: &str) -> Outcome {
    let input: Listed = call.input()?;
    let _groups_have_no_policies = input.recursive;
    let target = input.target.as_deref().unwrap_or_default();
    let id = certificate_of(rooms, member, target)?;
    rooms.registry.certificate(id)?;
    let (names, next) = input.page(rooms.registry.policies().attached_to(id))?;
    let policies: Vec<Value> = names.iter().map(|name| name_and_arn(rooms, call, name)).collect();
    Ok(compact(json!({ "policies": policies, "nextMarker": next })).into())
}

pub(super) async fn list_attached_policies(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    policies_of(rooms, call, "target")
}

pub(super) async fn list_principal_policies(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    policies_of(rooms, call, "principal")
}

fn targets_of(rooms: &Rooms, call: &Call, answer: &str) -> Outcome {
    let input: Listed = call.input()?;
    let name = input.policy_name.as_deref().unwrap_or_default();
    let (ids, next) = input.page(rooms.registry.policies().targets(name)?)?;
    let targets: Vec<String> = ids.iter().map(|id| certificate_arn(rooms, call, id)).collect();
    Ok(compact(json!({ answer: targets, "nextMarker": next })).into())
}

pub(super) async fn list_targets_for_policy(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    targets_of(rooms, call, "targets")
}

pub(super) async fn list_policy_principals(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    targets_of(rooms, call, "principals")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct GetEffectivePolicies {
    principal: Option<String>,
    cognito_identity_pool_id: Option<String>,
    thing_name: Option<String>,
}

/// The documents in force for a certificate, or for every certificate of a thing.
pub(super) async fn get_effective_policies(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: GetEffectivePolicies = call.input()?;
    let pool = input.cognito_identity_pool_id.as_ref();
    refuse("cognitoIdentityPoolId", pool, "there are no Cognito identities")?;
    let ids = match (&input.principal, &input.thing_name) {
        (Some(principal), _) => {
            let id = certificate_of(rooms, "principal", principal)?;
            rooms.registry.certificate(id)?;
            vec![id.to_owned()]
        }
        (None, Some(thing)) => {
            rooms.registry.thing(thing)?;
            rooms.registry.certificates_of(thing)
        }
        (None, None) => return Err(Fault::invalid("principal or thingName is missing")),
    };
    let mut attached: Vec<_> =
        ids.iter().flat_map(|id| rooms.registry.policies().attached_documents(id)).collect();
    attached.sort_by(|a, b| a.policy.cmp(&b.policy));
    attached.dedup_by(|a, b| a.policy == b.policy);
    let policies: Vec<Value> = attached
        .iter()
        .map(|attached| {
            json!({
                "policyName": &*attached.policy,
                "policyArn": policy_arn(rooms, call, &attached.policy),
                "policyDocument": &*attached.document,
            })
        })
        .collect();
    Ok(json!({ "effectivePolicies": policies }).into())
}
