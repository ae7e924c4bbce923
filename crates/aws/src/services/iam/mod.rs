//! IAM: roles and their policies, and the owner's access keys.
//!
//! Everything is kept and given back, and nothing is enforced: every valid key may do
//! everything. Policies are checked for their form, so that a mistake shows here and not when
//! the same program meets AWS.

use base::ErrorKind;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use crate::call::{Service, operation};
use crate::fault::Fault;
use crate::protocol::Protocol;

mod access_keys;
mod document;
mod managed;
mod role_policies;
pub(crate) mod roles;
mod tags;
#[cfg(test)]
mod tests;

pub(crate) static SERVICE: Service = Service {
    name: "iam",
    scopes: &["iam"],
    protocol: Protocol::Query {
        version: "2010-05-08",
        namespace: "https://iam.amazonaws.com/doc/2010-05-08/",
    },
    codes,
    body_bytes_max: 2 * 1024 * 1024,
    operations: &[
        operation!("AttachRolePolicy", role_policies::attach, differs: "Policies are kept, not enforced. A policy of AWS itself (arn:aws:iam::aws:policy/…) is taken by its name, without knowing it"),
        operation!("CreateAccessKey", access_keys::create, differs: "For the account's owner, the only user there is"),
        operation!("CreatePolicy", managed::create, differs: "Policies are kept, not enforced"),
        operation!("CreatePolicyVersion", managed::create_version, differs: "Policies are kept, not enforced"),
        operation!("CreateRole", roles::create, differs: "Trust policies are kept, not enforced. PermissionsBoundary is refused"),
        operation!("DeleteAccessKey", access_keys::delete, differs: "The key's sessions end with it"),
        operation!("DeletePolicy", managed::delete),
        operation!("DeletePolicyVersion", managed::delete_version),
        operation!("DeleteRole", roles::delete, differs: "The role ForebayExecutionRole stays"),
        operation!("DeleteRolePolicy", role_policies::delete_inline),
        operation!("DetachRolePolicy", role_policies::detach),
        operation!("GetPolicy", managed::get, differs: "Knows no policies of AWS itself"),
        operation!("GetPolicyVersion", managed::get_version, differs: "Knows no policies of AWS itself"),
        operation!("GetRole", roles::get, differs: "RoleLastUsed is not kept"),
        operation!("GetRolePolicy", role_policies::get_inline),
        operation!("GetUser", access_keys::get_user, differs: "The account's owner is the only user, named root"),
        operation!("ListAccessKeys", access_keys::list, differs: "Of the account's owner, the only user there is"),
        operation!("ListAttachedRolePolicies", role_policies::list_attached),
        operation!("ListPolicies", managed::list, differs: "Knows no policies of AWS itself"),
        operation!("ListPolicyTags", managed::list_tags),
        operation!("ListPolicyVersions", managed::list_versions),
        operation!("ListRolePolicies", role_policies::list_inline),
        operation!("ListRoles", roles::list),
        operation!("ListRoleTags", roles::list_tags),
        operation!("PutRolePolicy", role_policies::put_inline, differs: "Policies are kept, not enforced"),
        operation!("SetDefaultPolicyVersion", managed::set_default_version),
        operation!("TagPolicy", managed::tag),
        operation!("TagRole", roles::tag),
        operation!("UntagPolicy", managed::untag),
        operation!("UntagRole", roles::untag),
        operation!("UpdateAccessKey", access_keys::update, differs: "The key's sessions follow it"),
        operation!("UpdateAssumeRolePolicy", roles::update_trust, differs: "Trust policies are kept, not enforced"),
        operation!("UpdateRole", roles::update),
    ],
};

fn codes(kind: ErrorKind) -> (&'static str, u16) {
    match kind {
        ErrorKind::NotFound => ("NoSuchEntity", 404),
        ErrorKind::AlreadyExists => ("EntityAlreadyExists", 409),
        ErrorKind::Conflict => ("ConcurrentModification", 409),
        ErrorKind::Denied => ("AccessDenied", 403),
        ErrorKind::Invalid | ErrorKind::Unsupported => ("ValidationError", 400),
        ErrorKind::Exhausted | ErrorKind::Unavailable => ("ServiceUnavailable", 503),
        ErrorKind::Corrupt | ErrorKind::Internal => ("ServiceFailure", 500),
    }
}

/// What names of IAM are made of.
pub(crate) fn is_name_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || "_+=,.@-".contains(character)
}

fn check_name(member: &str, name: &str, most: usize) -> Result<(), Fault> {
    if name.is_empty() || name.len() > most || !name.chars().all(is_name_character) {
        return Err(Fault::invalid(format!(
            "The specified value for {member} is invalid: {name:?}. It must be 1 to {most} \
             letters, digits and characters of _+=,.@-"
        )));
    }
    Ok(())
}

/// The path of an entity, `/` where none is given.
fn path(given: Option<String>) -> Result<String, Fault> {
    let path = given.unwrap_or_else(|| "/".to_owned());
    let whole = path.starts_with('/') && path.ends_with('/') && path.len() <= 512;
    if !whole || !path.chars().all(|character| character.is_ascii_graphic()) {
        return Err(Fault::invalid(format!(
            "The specified value for path is invalid: {path:?}. It must begin and end with / and \
             contain only printable characters, 512 at most"
        )));
    }
    Ok(path)
}

fn limit_exceeded(message: impl Into<String>) -> Fault {
    Fault::named("LimitExceeded", 409, message)
}

fn delete_conflict(message: impl Into<String>) -> Fault {
    Fault::named("DeleteConflict", 409, message)
}

/// Documents are percent-encoded in IAM's answers, everything but RFC 3986's unreserved.
fn encoded(document: &str) -> String {
    const KEPT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
    utf8_percent_encode(document, KEPT).to_string()
}

/// The answer of a list: the part of it that was asked for, and how to go on.
fn page<T>(
    (marker, max_items): (Option<String>, Option<i64>),
    member: &str,
    items: Vec<T>,
    key: impl Fn(&T) -> String,
    write: impl Fn(T) -> Value,
) -> Result<Value, Fault> {
    let wish = max_items.map_or(100, |wish| usize::try_from(wish).unwrap_or_default());
    let (given, next) = crate::page::page(items, key, marker.as_deref(), Some(wish), 1_000)?;
    let given: Vec<Value> = given.into_iter().map(write).collect();
    let mut answer = json!({member: given, "IsTruncated": next.is_some()});
    if let Some(next) = next {
        answer["Marker"] = next.into();
    }
    Ok(answer)
}
