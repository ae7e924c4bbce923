//! Policies that stand on their own, with their versions.

use std::sync::Arc;

use base::{ErrorKind, Timestamp};
use metastore::Row;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::document::{self, Use};
use super::tags::{self, Tag};
use super::{check_name, delete_conflict, encoded, limit_exceeded, page, path, roles};
use crate::call::{Call, Outcome, Reply};
use crate::fault::Fault;
use crate::lenient;
use crate::rooms::{Rooms, iso_date};

const VERSIONS_MAX: usize = 5;
const SIZE_MAX: usize = 6_144;
const NAME_MAX: usize = 128;
const OF_AWS: &str = "arn:aws:iam::aws:policy/";

/// A policy.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Policy {
    name: String,
    path: String,
    id: String,
    description: String,
    created_at: Timestamp,
    updated_at: Timestamp,
    /// Number of the version in force.
    default: u32,
    /// Oldest first.
    versions: Vec<Version>,
    /// Number of the last version there ever was.
    last: u32,
    tags: Vec<Tag>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Version {
    number: u32,
    document: String,
    created_at: Timestamp,
}

impl Row for Policy {
    const TABLE: &'static str = "aws-iam-policies";
}

impl Policy {
    fn json(&self, arn: &str, attached: usize, whole: bool) -> Value {
        let mut policy = json!({
            "PolicyName": self.name,
            "PolicyId": self.id,
            "Arn": arn,
            "Path": self.path,
            "DefaultVersionId": format!("v{}", self.default),
            "AttachmentCount": attached,
            "PermissionsBoundaryUsageCount": 0,
            "IsAttachable": true,
            "CreateDate": iso_date(self.created_at),
            "UpdateDate": iso_date(self.updated_at),
        });
        if whole && !self.description.is_empty() {
            policy["Description"] = self.description.clone().into();
        }
        if whole && !self.tags.is_empty() {
            policy["Tags"] = self.tags.iter().map(Tag::json).collect();
        }
        policy
    }

    fn version(&self, arn: &str, id: &str) -> Result<&Version, Fault> {
        let found = self.versions.iter().find(|version| version.id() == id);
        found.ok_or_else(|| {
            Fault::not_found(format!(
                "Policy {arn} version {id} does not exist or is not attachable."
            ))
        })
    }
}

impl Version {
    fn id(&self) -> String {
        format!("v{}", self.number)
    }

    fn json(&self, policy: &Policy, with_document: bool) -> Value {
        let mut version = json!({
            "VersionId": self.id(),
            "IsDefaultVersion": self.number == policy.default,
            "CreateDate": iso_date(self.created_at),
        });
        if with_document {
            version["Document"] = encoded(&self.document).into();
        }
        version
    }
}

/// Whether an ARN names a policy of AWS itself. Which there are is not known here.
pub(super) fn is_of_aws(arn: &str) -> bool {
    arn.strip_prefix(OF_AWS).is_some_and(|rest| {
        !rest.is_empty()
            && rest
                .split('/')
                .all(|part| !part.is_empty() && part.chars().all(super::is_name_character))
    })
}

/// `/service-role/` and `AWSGlueServiceRole` of a policy's ARN.
pub(super) fn path_and_name(arn: &str) -> (&str, &str) {
    let rest = arn.split_once(":policy").map_or(arn, |(_, rest)| rest);
    rest.split_at(rest.rfind('/').map_or(0, |slash| slash + 1))
}

fn missing(arn: &str) -> Fault {
    let why = match is_of_aws(arn) {
        true => " Forebay keeps AWS's own policies by name only",
        false => "",
    };
    Fault::not_found(format!("Policy {arn} was not found.{why}"))
}

pub(super) fn find(rooms: &Rooms, arn: &str) -> Result<Policy, Fault> {
    check_arn(arn)?;
    let found = rooms.metastore.get::<Policy>(arn)?;
    found.map(|found| found.row).ok_or_else(|| missing(arn))
}

fn check_arn(arn: &str) -> Result<(), Fault> {
    if !arn.starts_with("arn:aws:iam::") || !(20..=2_048).contains(&arn.len()) {
        return Err(Fault::invalid(format!("ARN {arn} is not valid.")));
    }
    Ok(())
}

fn alter<T>(
    rooms: &Rooms,
    arn: &str,
    change: impl FnOnce(&mut Policy) -> Result<T, Fault>,
) -> Result<T, Fault> {
    check_arn(arn)?;
    rooms.metastore.transact(|transaction| {
        let Some(found) = transaction.get::<Policy>(arn)? else { return Ok(Err(missing(arn))) };
        let mut policy = found.row;
        let outcome = change(&mut policy);
        if outcome.is_ok() {
            transaction.put(arn, &policy)?;
        }
        Ok(outcome)
    })?
}

/// To how many roles each policy is attached.
fn attachments(rooms: &Rooms, arn: &str) -> Result<usize, Fault> {
    Ok(roles::all(rooms)?.iter().filter(|role| role.attached.iter().any(|a| a == arn)).count())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Create {
    policy_name: String,
    path: Option<String>,
    policy_document: String,
    description: Option<String>,
    #[serde(default)]
    tags: Vec<Tag>,
}

pub(super) async fn create(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Create = call.input()?;
    check_name("policyName", &input.policy_name, NAME_MAX)?;
    document::check(&input.policy_document, Use::Rights, SIZE_MAX)?;
    let mut given = Vec::new();
    tags::merge(&mut given, input.tags)?;
    let (path, now) = (path(input.path)?, rooms.clock.now());
    let policy = Policy {
        id: identity::keys::unique_id("ANPA")?,
        description: input.description.unwrap_or_default(),
        created_at: now,
        updated_at: now,
        default: 1,
        versions: vec![Version { number: 1, document: input.policy_document, created_at: now }],
        last: 1,
        tags: given,
        name: input.policy_name,
        path,
    };
    let account = rooms.keys.account_id();
    let arn = format!("arn:aws:iam::{account}:policy{}{}", policy.path, policy.name);
    rooms.metastore.transact(|transaction| {
        // A name is taken whatever its path.
        let rows = transaction.list::<Policy>()?;
        if rows.iter().any(|(_, row)| row.name.eq_ignore_ascii_case(&policy.name)) {
            let name = &policy.name;
            let message =
                format!("A policy called {name} already exists. Duplicate names are not allowed.");
            return Err(base::Error::new(ErrorKind::AlreadyExists, message));
        }
        transaction.create(&arn, &policy)
    })?;
    Ok(json!({"Policy": policy.json(&arn, 0, true)}).into())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Named {
    policy_arn: String,
}

pub(super) async fn get(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let Named { policy_arn: arn } = call.input()?;
    let policy = find(rooms, &arn)?;
    Ok(json!({"Policy": policy.json(&arn, attachments(rooms, &arn)?, true)}).into())
}

pub(super) async fn delete(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let Named { policy_arn: arn } = call.input()?;
    check_arn(&arn)?;
    rooms.metastore.transact(|transaction| {
        let Some(policy) = transaction.get::<Policy>(&arn)? else { return Ok(Err(missing(&arn))) };
        let roles = transaction.list::<roles::Role>()?;
        if roles.iter().any(|(_, role)| role.attached.contains(&arn)) {
            let message = "Cannot delete a policy attached to entities.";
            return Ok(Err(delete_conflict(message)));
        }
        if policy.versions.len() > 1 {
            return Ok(Err(delete_conflict(
                "This policy has more than one version. Before you delete a policy, you must \
                 delete the policy's versions. The default version is deleted with the policy.",
            )));
        }
        transaction.delete::<Policy>(&arn)?;
        Ok(Ok(()))
    })??;
    Ok(Reply::empty())
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
enum Whose {
    #[default]
    All,
    #[serde(rename = "AWS")]
    Aws,
    Local,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
enum Purpose {
    PermissionsPolicy,
    PermissionsBoundary,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct List {
    #[serde(default)]
    scope: Whose,
    #[serde(default, deserialize_with = "lenient::boolean")]
    only_attached: Option<bool>,
    path_prefix: Option<String>,
    policy_usage_filter: Option<Purpose>,
    marker: Option<String>,
    #[serde(default, deserialize_with = "lenient::integer")]
    max_items: Option<i64>,
}

pub(super) async fn list(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: List = call.input()?;
    let roles = roles::all(rooms)?;
    let uses = |arn: &String| roles.iter().filter(|role| role.attached.contains(arn)).count();
    let prefix = input.path_prefix.unwrap_or_default();
    // Of AWS's own policies none is known, and no policy serves as a boundary.
    let none = input.scope == Whose::Aws
        || input.policy_usage_filter == Some(Purpose::PermissionsBoundary);
    let mut policies: Vec<(String, Policy, usize)> = Vec::new();
    for (arn, policy) in rooms.metastore.list::<Policy>()? {
        let attached = uses(&arn);
        let wanted = !none
            && policy.path.starts_with(&prefix)
            && (attached > 0 || input.only_attached != Some(true));
        if wanted {
            policies.push((arn, policy.row, attached));
        }
    }
    let wanted = (input.marker, input.max_items);
    let key = |(arn, _, _): &(String, Policy, usize)| arn.clone();
    let answer = page(wanted, "Policies", policies, key, |(arn, policy, attached)| {
        policy.json(&arn, attached, false)
    });
    Ok(answer?.into())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct CreateVersion {
    policy_arn: String,
    policy_document: String,
    #[serde(default, deserialize_with = "lenient::boolean")]
    set_as_default: Option<bool>,
}

pub(super) async fn create_version(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: CreateVersion = call.input()?;
    document::check(&input.policy_document, Use::Rights, SIZE_MAX)?;
    let now = rooms.clock.now();
    let written = alter(rooms, &input.policy_arn, |policy| {
        if policy.versions.len() >= VERSIONS_MAX {
            return Err(limit_exceeded(format!(
                "A managed policy can have up to {VERSIONS_MAX} versions. Before you create a new \
                 version, you must delete an existing version."
            )));
        }
        policy.last += 1;
        policy.updated_at = now;
        let document = input.policy_document;
        let version = Version { number: policy.last, document, created_at: now };
        if input.set_as_default == Some(true) {
            policy.default = version.number;
        }
        policy.versions.push(version.clone());
        Ok(version.json(policy, false))
    })?;
    Ok(json!({"PolicyVersion": written}).into())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct OneVersion {
    policy_arn: String,
    version_id: String,
}

pub(super) async fn get_version(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: OneVersion = call.input()?;
    let policy = find(rooms, &input.policy_arn)?;
    let version = policy.version(&input.policy_arn, &input.version_id)?;
    Ok(json!({"PolicyVersion": version.json(&policy, true)}).into())
}

pub(super) async fn set_default_version(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: OneVersion = call.input()?;
    let now = rooms.clock.now();
    alter(rooms, &input.policy_arn, |policy| {
        policy.default = policy.version(&input.policy_arn, &input.version_id)?.number;
        policy.updated_at = now;
        Ok(())
    })?;
    Ok(Reply::empty())
}

pub(super) async fn delete_version(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: OneVersion = call.input()?;
    alter(rooms, &input.policy_arn, |policy| {
        let number = policy.version(&input.policy_arn, &input.version_id)?.number;
        if number == policy.default {
            let message = "Cannot delete the default version of a policy.";
            return Err(delete_conflict(message));
        }
        policy.versions.retain(|version| version.number != number);
        Ok(())
    })?;
    Ok(Reply::empty())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ListOf {
    policy_arn: String,
    marker: Option<String>,
    #[serde(default, deserialize_with = "lenient::integer")]
    max_items: Option<i64>,
}

pub(super) async fn list_versions(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ListOf = call.input()?;
    let policy = find(rooms, &input.policy_arn)?;
    // Oldest first; the number is written so that its order as text is its order.
    let key = |version: &Version| format!("{:010}", version.number);
    let write = |version: Version| version.json(&policy, false);
    let wanted = (input.marker, input.max_items);
    Ok(page(wanted, "Versions", policy.versions.clone(), key, write)?.into())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct TagPolicy {
    policy_arn: String,
    tags: Vec<Tag>,
}

pub(super) async fn tag(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: TagPolicy = call.input()?;
    alter(rooms, &input.policy_arn, |policy| tags::merge(&mut policy.tags, input.tags))?;
    Ok(Reply::empty())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct UntagPolicy {
    policy_arn: String,
    tag_keys: Vec<String>,
}

pub(super) async fn untag(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: UntagPolicy = call.input()?;
    alter(rooms, &input.policy_arn, |policy| {
        tags::remove(&mut policy.tags, &input.tag_keys);
        Ok(())
    })?;
    Ok(Reply::empty())
}

pub(super) async fn list_tags(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ListOf = call.input()?;
    let policy = find(rooms, &input.policy_arn)?;
    let key = |tag: &Tag| tag.key.clone();
    let wanted = (input.marker, input.max_items);
    Ok(page(wanted, "Tags", policy.tags, key, |tag| tag.json())?.into())
}
