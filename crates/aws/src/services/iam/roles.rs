//! Roles. One is there from the start: the one that the owner's keys act as.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::Timestamp;
use identity::keys::{EXECUTION_ROLE, EXECUTION_ROLE_PATH};
use metastore::Row;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::document::{self, Use};
use super::tags::{self, Tag};
use super::{check_name, delete_conflict, encoded, page, path};
use crate::call::{Call, Outcome, Reply};
use crate::fault::Fault;
use crate::lenient;
use crate::rooms::{Rooms, iso_date};

const TRUST_MAX: usize = 2_048;
const DESCRIPTION_MAX: usize = 1_000;
const SESSION_SECS: i64 = 3_600;
const NAME_MAX: usize = 64;

/// A role with everything that hangs on it, so that it changes as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Role {
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) id: String,
    pub(crate) created_at: Timestamp,
    /// Who may assume it, as it was given.
    pub(crate) trust: String,
    pub(crate) description: String,
    /// Longest session, in seconds.
    pub(crate) max_session_secs: i64,
    pub(super) tags: Vec<Tag>,
    /// ARNs of attached policies, in their order.
    pub(super) attached: Vec<String>,
    /// Policies of its own, by name.
    pub(super) inline: BTreeMap<String, String>,
}

impl Row for Role {
    const TABLE: &'static str = "aws-iam-roles";
}

impl Role {
    fn arn(&self, rooms: &Rooms) -> String {
        format!("arn:aws:iam::{}:role{}{}", rooms.keys.account_id(), self.path, self.name)
    }

    /// As Get gives it; a list leaves out the tags.
    fn json(&self, rooms: &Rooms, whole: bool) -> Value {
        let mut role = json!({
            "Path": self.path,
            "RoleName": self.name,
            "RoleId": self.id,
            "Arn": self.arn(rooms),
            "CreateDate": iso_date(self.created_at),
            "AssumeRolePolicyDocument": encoded(&self.trust),
            "MaxSessionDuration": self.max_session_secs,
        });
        if !self.description.is_empty() {
            role["Description"] = self.description.clone().into();
        }
        if whole && !self.tags.is_empty() {
            role["Tags"] = self.tags.iter().map(Tag::json).collect();
        }
        role
    }
}

/// The role that is there from the start becomes a row with the first question about roles.
fn first(rooms: &Rooms) -> Result<(), Fault> {
    if rooms.metastore.get::<Role>(EXECUTION_ROLE)?.is_some() {
        return Ok(());
    }
    let services = ["sagemaker", "glue", "firehose", "iot"].map(|s| format!("{s}.amazonaws.com"));
    let trust = json!({
        "Version": "2012-10-17",
        "Statement": [{
            "Effect": "Allow",
            "Principal": {"Service": services},
            "Action": "sts:AssumeRole",
        }],
    });
    let role = Role {
        name: EXECUTION_ROLE.to_owned(),
        path: EXECUTION_ROLE_PATH.to_owned(),
        id: rooms.keys.execution_role_id(),
        created_at: rooms.clock.now(),
        trust: trust.to_string(),
        description: "What Forebay's own keys act as; there from the start".to_owned(),
        max_session_secs: 43_200,
        tags: Vec::new(),
        attached: Vec::new(),
        inline: BTreeMap::new(),
    };
    match rooms.metastore.create(EXECUTION_ROLE, &role) {
        Err(error) if error.kind() != base::ErrorKind::AlreadyExists => Err(error.into()),
        _ => Ok(()),
    }
}

fn missing(name: &str) -> Fault {
    Fault::not_found(format!("The role with name {name} cannot be found."))
}

/// The role of this name.
pub(super) fn find(rooms: &Rooms, name: &str) -> Result<Role, Fault> {
    check_name("roleName", name, NAME_MAX)?;
    first(rooms)?;
    let found = rooms.metastore.get::<Role>(name)?;
    found.map(|found| found.row).ok_or_else(|| missing(name))
}

/// The role with this ARN, path and account included.
pub(crate) fn by_arn(rooms: &Rooms, arn: &str) -> Result<Option<Role>, Fault> {
    let name = arn.rsplit('/').next().filter(|name| !name.is_empty());
    let Some(name) = name else { return Ok(None) };
    first(rooms)?;
    let found = rooms.metastore.get::<Role>(name)?.map(|found| found.row);
    Ok(found.filter(|role| role.arn(rooms) == arn))
}

/// Every role.
pub(super) fn all(rooms: &Rooms) -> Result<Vec<Role>, Fault> {
    first(rooms)?;
    let rows = rooms.metastore.list::<Role>()?;
    Ok(rows.into_iter().map(|(_, role)| role.row).collect())
}

/// Changes a role in one transaction; what `change` refuses leaves no trace.
pub(super) fn alter<T>(
    rooms: &Rooms,
    name: &str,
    change: impl FnOnce(&mut Role) -> Result<T, Fault>,
) -> Result<T, Fault> {
    check_name("roleName", name, NAME_MAX)?;
    first(rooms)?;
    rooms.metastore.transact(|transaction| {
        let Some(found) = transaction.get::<Role>(name)? else { return Ok(Err(missing(name))) };
        let mut role = found.row;
        let outcome = change(&mut role);
        if outcome.is_ok() {
            transaction.put(name, &role)?;
        }
        Ok(outcome)
    })?
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Create {
    role_name: String,
    path: Option<String>,
    assume_role_policy_document: String,
    description: Option<String>,
    #[serde(default, deserialize_with = "lenient::integer")]
    max_session_duration: Option<i64>,
    permissions_boundary: Option<String>,
    #[serde(default)]
    tags: Vec<Tag>,
}

pub(super) async fn create(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Create = call.input()?;
    check_name("roleName", &input.role_name, NAME_MAX)?;
    if input.permissions_boundary.is_some_and(|arn| !arn.is_empty()) {
        let why = "policies are kept and not enforced, so a boundary would hold nothing back";
        return Err(Fault::unsupported("PermissionsBoundary", why));
    }
    document::check(&input.assume_role_policy_document, Use::Trust, TRUST_MAX)?;
    let mut given = Vec::new();
    tags::merge(&mut given, input.tags)?;
    let role = Role {
        path: path(input.path)?,
        id: identity::keys::unique_id("AROA")?,
        created_at: rooms.clock.now(),
        trust: input.assume_role_policy_document,
        description: description(input.description)?.unwrap_or_default(),
        max_session_secs: session_secs(input.max_session_duration)?.unwrap_or(SESSION_SECS),
        tags: given,
        attached: Vec::new(),
        inline: BTreeMap::new(),
        name: input.role_name,
    };
    first(rooms)?;
    rooms.metastore.transact(|transaction| {
        let taken = transaction
            .list::<Role>()?
            .into_iter()
            .any(|(name, _)| name.eq_ignore_ascii_case(&role.name));
        if taken {
            let message = format!("Role with name {} already exists.", role.name);
            return Err(base::Error::new(base::ErrorKind::AlreadyExists, message));
        }
        transaction.create(&role.name, &role)
    })?;
    Ok(json!({"Role": role.json(rooms, true)}).into())
}

fn description(given: Option<String>) -> Result<Option<String>, Fault> {
    match given {
        Some(text) if text.chars().count() > DESCRIPTION_MAX => Err(Fault::invalid(format!(
            "Description has {} characters; {DESCRIPTION_MAX} are allowed",
            text.chars().count()
        ))),
        given => Ok(given),
    }
}

fn session_secs(given: Option<i64>) -> Result<Option<i64>, Fault> {
    match given {
        Some(secs) if !(3_600..=43_200).contains(&secs) => Err(Fault::invalid(format!(
            "MaxSessionDuration {secs} must be a value between 3600 and 43200"
        ))),
        given => Ok(given),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Named {
    role_name: String,
}

pub(super) async fn get(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Named = call.input()?;
    let role = find(rooms, &input.role_name)?;
    Ok(json!({"Role": role.json(rooms, true)}).into())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct List {
    path_prefix: Option<String>,
    marker: Option<String>,
    #[serde(default, deserialize_with = "lenient::integer")]
    max_items: Option<i64>,
}

pub(super) async fn list(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: List = call.input()?;
    let mut roles = all(rooms)?;
    if let Some(prefix) = &input.path_prefix {
        roles.retain(|role| role.path.starts_with(prefix));
    }
    let key = |role: &Role| role.name.clone();
    let write = |role: Role| role.json(rooms, false);
    Ok(page((input.marker, input.max_items), "Roles", roles, key, write)?.into())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Update {
    role_name: String,
    description: Option<String>,
    #[serde(default, deserialize_with = "lenient::integer")]
    max_session_duration: Option<i64>,
}

pub(super) async fn update(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Update = call.input()?;
    let description = description(input.description)?;
    let session_secs = session_secs(input.max_session_duration)?;
    alter(rooms, &input.role_name, |role| {
        if let Some(description) = description {
            role.description = description;
        }
        if let Some(secs) = session_secs {
            role.max_session_secs = secs;
        }
        Ok(())
    })?;
    // The one answer of IAM whose result has a name and no members.
    Ok(json!({}).into())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct UpdateTrust {
    role_name: String,
    policy_document: String,
}

pub(super) async fn update_trust(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: UpdateTrust = call.input()?;
    document::check(&input.policy_document, Use::Trust, TRUST_MAX)?;
    alter(rooms, &input.role_name, |role| {
        role.trust = input.policy_document;
        Ok(())
    })?;
    Ok(Reply::empty())
}

pub(super) async fn delete(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Named = call.input()?;
    let name = &input.role_name;
    let role = find(rooms, name)?;
    if name == EXECUTION_ROLE {
        let message = format!("The role {name} cannot be deleted: Forebay's own keys act as it");
        return Err(Fault::named("UnmodifiableEntity", 400, message));
    }
    refuse_used(&role)?;
    rooms.metastore.transact(|transaction| {
        let Some(found) = transaction.get::<Role>(name)? else { return Ok(Err(missing(name))) };
        if let Err(fault) = refuse_used(&found.row) {
            return Ok(Err(fault));
        }
        transaction.delete::<Role>(name)?;
        Ok(Ok(()))
    })??;
    Ok(Reply::empty())
}

fn refuse_used(role: &Role) -> Result<(), Fault> {
    if !role.attached.is_empty() {
        return Err(delete_conflict("Cannot delete entity, must detach all policies first."));
    }
    if !role.inline.is_empty() {
        return Err(delete_conflict("Cannot delete entity, must delete policies first."));
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct TagRole {
    role_name: String,
    tags: Vec<Tag>,
}

pub(super) async fn tag(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: TagRole = call.input()?;
    alter(rooms, &input.role_name, |role| tags::merge(&mut role.tags, input.tags))?;
    Ok(Reply::empty())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct UntagRole {
    role_name: String,
    tag_keys: Vec<String>,
}

pub(super) async fn untag(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: UntagRole = call.input()?;
    alter(rooms, &input.role_name, |role| {
        tags::remove(&mut role.tags, &input.tag_keys);
        Ok(())
    })?;
    Ok(Reply::empty())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ListOf {
    role_name: String,
    marker: Option<String>,
    #[serde(default, deserialize_with = "lenient::integer")]
    max_items: Option<i64>,
}

pub(super) async fn list_tags(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ListOf = call.input()?;
    let role = find(rooms, &input.role_name)?;
    let key = |tag: &Tag| tag.key.clone();
    let wanted = (input.marker, input.max_items);
    Ok(page(wanted, "Tags", role.tags, key, |tag| tag.json())?.into())
}
