//! IoT policies and their versions.

use std::sync::Arc;

use base::{Error, ErrorKind};
use identity::policies::Policy;
use serde::Deserialize;
use serde_json::{Value, json};

use super::inputs::PolicyName;
use super::tags::{self, Tag};
use super::{Marked, arn, by_creation, compact};
use crate::call::{Call, Outcome, Reply};
use crate::fault::Fault;
use crate::rooms::{Rooms, epoch_secs};

pub(super) fn policy_arn(rooms: &Rooms, call: &Call, name: &str) -> String {
    arn(rooms, call, &format!("policy/{name}"))
}

fn policy_fault(error: Error) -> Fault {
    match error.kind() {
        ErrorKind::Conflict => Fault::named("DeleteConflictException", 409, error.to_string()),
        ErrorKind::Exhausted => {
            Fault::named("VersionsLimitExceededException", 409, error.to_string())
        }
        _ => error.into(),
    }
}

/// A document that cannot be a policy has a code of its own.
fn check_document(document: &str) -> Result<(), Fault> {
    identity::policy::Document::parse(document)
        .map(drop)
        .map_err(|error| Fault::named("MalformedPolicyException", 400, error.to_string()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CreatePolicy {
    policy_name: String,
    policy_document: String,
    #[serde(default)]
    tags: Vec<Tag>,
}

pub(super) async fn create_policy(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: CreatePolicy = call.input()?;
    check_document(&input.policy_document)?;
    tags::check(&input.tags)?;
    let name = &input.policy_name;
    let made = rooms.registry.policies().create(name, &input.policy_document);
    let made = made.map_err(|error| {
        let taken = error.kind() == ErrorKind::AlreadyExists;
        let mut fault = Fault::from(error);
        if taken {
            fault.members.push(("resourceId", json!(name)));
            fault.members.push(("resourceArn", json!(policy_arn(rooms, call, name))));
        }
        fault
    })?;
    tags::put(rooms, &format!("policy/{name}"), &input.tags)?;
    Ok(json!({
        "policyName": made.name,
        "policyArn": policy_arn(rooms, call, &made.name),
        "policyDocument": made.document(),
        "policyVersionId": made.default_version.to_string(),
    })
    .into())
}

pub(super) async fn get_policy(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let PolicyName { name } = call.input()?;
    let policy = rooms.registry.policies().get(&name)?;
    Ok(json!({
        "policyName": policy.name,
        "policyArn": policy_arn(rooms, call, &policy.name),
        "policyDocument": policy.document(),
        "defaultVersionId": policy.default_version.to_string(),
        "creationDate": epoch_secs(policy.created_at),
        "lastModifiedDate": epoch_secs(policy.modified_at),
        "generationId": policy.generation,
    })
    .into())
}

pub(super) fn name_and_arn(rooms: &Rooms, call: &Call, name: &str) -> Value {
    json!({ "policyName": name, "policyArn": policy_arn(rooms, call, name) })
}

pub(super) async fn list_policies(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let marked: Marked = call.input()?;
    let all = rooms.registry.policies().list();
    let created = |policy: &Policy| (policy.created_at, policy.name.clone());
    let (rows, next) = by_creation(all, created, &marked)?;
    let policies: Vec<Value> =
        rows.iter().map(|policy| name_and_arn(rooms, call, &policy.name)).collect();
    Ok(compact(json!({ "policies": policies, "nextMarker": next })).into())
}

pub(super) async fn delete_policy(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let PolicyName { name } = call.input()?;
    rooms.registry.policies().delete(&name).map_err(policy_fault)?;
    tags::forget(rooms, &format!("policy/{name}"))?;
    Ok(Reply::empty())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CreateVersion {
    policy_name: String,
    policy_document: String,
    #[serde(default)]
    set_as_default: bool,
}

pub(super) async fn create_policy_version(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: CreateVersion = call.input()?;
    check_document(&input.policy_document)?;
    let policies = rooms.registry.policies();
    let (policy, id) = policies
        .create_version(&input.policy_name, &input.policy_document, input.set_as_default)
        .map_err(policy_fault)?;
    Ok(json!({
        "policyArn": policy_arn(rooms, call, &policy.name),
        "policyDocument": input.policy_document,
        "policyVersionId": id.to_string(),
        "isDefaultVersion": policy.default_version == id,
    })
    .into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Version {
    policy_name: String,
    policy_version_id: String,
}

impl Version {
    fn id(&self) -> Result<u32, Fault> {
        let digits = !self.policy_version_id.is_empty()
            && self.policy_version_id.bytes().all(|byte| byte.is_ascii_digit());
        self.policy_version_id.parse().ok().filter(|_| digits).ok_or_else(|| {
            Fault::invalid(format!(
                "policyVersionId {:?} is not a version number",
                self.policy_version_id
            ))
        })
    }
}

pub(super) async fn get_policy_version(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Version = call.input()?;
    let policy = rooms.registry.policies().get(&input.policy_name)?;
    let version = policy.version(input.id()?)?;
    Ok(json!({
        "policyArn": policy_arn(rooms, call, &policy.name),
        "policyName": policy.name,
        "policyDocument": version.document,
        "policyVersionId": version.id.to_string(),
        "isDefaultVersion": policy.default_version == version.id,
        "creationDate": epoch_secs(version.created_at),
        "lastModifiedDate": epoch_secs(version.created_at),
        "generationId": policy.generation,
    })
    .into())
}

pub(super) async fn list_policy_versions(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let PolicyName { name } = call.input()?;
    let policy = rooms.registry.policies().get(&name)?;
    let versions: Vec<Value> = policy
        .versions
        .iter()
        .map(|version| {
            json!({
                "versionId": version.id.to_string(),
                "isDefaultVersion": policy.default_version == version.id,
                "createDate": epoch_secs(version.created_at),
            })
        })
        .collect();
    Ok(json!({ "policyVersions": versions }).into())
}

pub(super) async fn set_default_policy_version(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Version = call.input()?;
    rooms.registry.policies().set_default(&input.policy_name, input.id()?)?;
    Ok(Reply::empty())
}

pub(super) async fn delete_policy_version(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Version = call.input()?;
    let policies = rooms.registry.policies();
    policies.delete_version(&input.policy_name, input.id()?).map_err(policy_fault)?;
    Ok(Reply::empty())
}
