//! Policies of roles: attached ones and their own.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use super::document::{self, Use};
use super::{check_name, encoded, limit_exceeded, managed, page, roles};
use crate::call::{Call, Outcome, Reply};
use crate::fault::Fault;
use crate::lenient;
use crate::rooms::Rooms;

const ATTACHED_MAX: usize = 10;
/// Characters of all policies of a role's own together.
const INLINE_MAX: usize = 10_240;
const NAME_MAX: usize = 128;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Attachment {
    role_name: String,
    policy_arn: String,
}

pub(super) async fn attach(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Attachment = call.input()?;
    if !managed::is_of_aws(&input.policy_arn) && managed::find(rooms, &input.policy_arn).is_err() {
        return Err(Fault::not_found(format!(
            "Policy {} does not exist or is not attachable.",
            input.policy_arn
        )));
    }
    roles::alter(rooms, &input.role_name, |role| {
        if role.attached.contains(&input.policy_arn) {
            return Ok(());
        }
        if role.attached.len() >= ATTACHED_MAX {
            let message = format!("Cannot exceed quota for PoliciesPerRole: {ATTACHED_MAX}");
            return Err(limit_exceeded(message));
        }
        role.attached.push(input.policy_arn);
        Ok(())
    })?;
    Ok(Reply::empty())
}

pub(super) async fn detach(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Attachment = call.input()?;
    roles::alter(rooms, &input.role_name, |role| {
        let before = role.attached.len();
        role.attached.retain(|arn| *arn != input.policy_arn);
        if role.attached.len() == before {
            return Err(Fault::not_found(format!("Policy {} was not found.", input.policy_arn)));
        }
        Ok(())
    })?;
    Ok(Reply::empty())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ListAttached {
    role_name: String,
    path_prefix: Option<String>,
    marker: Option<String>,
    #[serde(default, deserialize_with = "lenient::integer")]
    max_items: Option<i64>,
}

pub(super) async fn list_attached(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ListAttached = call.input()?;
    let mut attached = roles::find(rooms, &input.role_name)?.attached;
    if let Some(prefix) = &input.path_prefix {
        attached.retain(|arn| managed::path_and_name(arn).0.starts_with(prefix));
    }
    attached.sort();
    let wanted = (input.marker, input.max_items);
    let answer = page(
        wanted,
        "AttachedPolicies",
        attached,
        String::clone,
        |arn| json!({"PolicyName": managed::path_and_name(&arn).1, "PolicyArn": arn}),
    );
    Ok(answer?.into())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct PutInline {
    role_name: String,
    policy_name: String,
    policy_document: String,
}

pub(super) async fn put_inline(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: PutInline = call.input()?;
    check_name("policyName", &input.policy_name, NAME_MAX)?;
    document::check(&input.policy_document, Use::Rights, INLINE_MAX)?;
    roles::alter(rooms, &input.role_name, |role| {
        role.inline.insert(input.policy_name, input.policy_document);
        let size: usize = role
            .inline
            .values()
            .map(|text| text.chars().filter(|character| !character.is_whitespace()).count())
            .sum();
        if size > INLINE_MAX {
            let message = format!(
                "Maximum policy size of {INLINE_MAX} bytes exceeded for role {}",
                role.name
            );
            return Err(limit_exceeded(message));
        }
        Ok(())
    })?;
    Ok(Reply::empty())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Inline {
    role_name: String,
    policy_name: String,
}

fn missing(name: &str) -> Fault {
    Fault::not_found(format!("The role policy with name {name} cannot be found."))
}

pub(super) async fn get_inline(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Inline = call.input()?;
    let role = roles::find(rooms, &input.role_name)?;
    let Some(document) = role.inline.get(&input.policy_name) else {
        return Err(missing(&input.policy_name));
    };
    Ok(json!({
        "RoleName": role.name,
        "PolicyName": input.policy_name,
        "PolicyDocument": encoded(document),
    })
    .into())
}

pub(super) async fn delete_inline(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Inline = call.input()?;
    roles::alter(rooms, &input.role_name, |role| {
        let removed = role.inline.remove(&input.policy_name);
        removed.map(drop).ok_or_else(|| missing(&input.policy_name))
    })?;
    Ok(Reply::empty())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ListInline {
    role_name: String,
    marker: Option<String>,
    #[serde(default, deserialize_with = "lenient::integer")]
    max_items: Option<i64>,
}

pub(super) async fn list_inline(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ListInline = call.input()?;
    let role = roles::find(rooms, &input.role_name)?;
    let names: Vec<String> = role.inline.into_keys().collect();
    let wanted = (input.marker, input.max_items);
    Ok(page(wanted, "PolicyNames", names, String::clone, Into::into)?.into())
}
