//! STS: who am I, and credentials that end.
//!
//! Rights are not narrowed anywhere in Forebay: every valid key may do everything, a role's
//! session included. So whatever would only narrow a session (policies, tags, MFA) is refused,
//! and a role's trust policy is kept but not asked.

use std::sync::Arc;
use std::time::Duration;

use base::ErrorKind;
use identity::{AccessKey, Principal};
use serde::Deserialize;
use serde_json::{Value, json};

use super::iam;
use crate::call::{Call, Outcome, Reply, Service, operation};
use crate::fault::Fault;
use crate::lenient;
use crate::protocol::Protocol;
use crate::rooms::{Rooms, iso_date};

pub(crate) static SERVICE: Service = Service {
    name: "sts",
    scopes: &["sts"],
    protocol: Protocol::Query {
        version: "2011-06-15",
        namespace: "https://sts.amazonaws.com/doc/2011-06-15/",
    },
    codes,
    body_bytes_max: 2 * 1024 * 1024,
    operations: &[
        operation!("AssumeRole", assume_role, differs: "The role must exist; its trust policy is not asked. A session ends with the long-lived key that it goes back to. Policy, PolicyArns, Tags, TransitiveTagKeys, ExternalId, SerialNumber, TokenCode and ProvidedContexts are refused, since rights are not narrowed"),
        operation!("GetAccessKeyInfo", get_access_key_info, differs: "Knows this account's keys only"),
        operation!("GetCallerIdentity", get_caller_identity, differs: "The owner's keys answer as a session of the role ForebayExecutionRole, which is what notebooks need"),
        operation!("GetSessionToken", get_session_token, differs: "A session ends with the key that it was made from. SerialNumber and TokenCode are refused"),
    ],
};

fn codes(kind: ErrorKind) -> (&'static str, u16) {
    match kind {
        ErrorKind::NotFound => ("ValidationError", 400),
        ErrorKind::AlreadyExists => ("ValidationError", 400),
        ErrorKind::Conflict => ("ValidationError", 400),
        ErrorKind::Denied => ("AccessDenied", 403),
        ErrorKind::Invalid | ErrorKind::Unsupported => ("ValidationError", 400),
        ErrorKind::Exhausted | ErrorKind::Unavailable => ("ServiceUnavailable", 503),
        ErrorKind::Corrupt | ErrorKind::Internal => ("InternalFailure", 500),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

async fn get_caller_identity(_rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let Nothing {} = call.input()?;
    let caller = &call.caller;
    let (arn, user_id, account) = (&caller.arn, &caller.user_id, &caller.account_id);
    Ok(json!({"Arn": arn, "UserId": user_id, "Account": account}).into())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct AssumeRole {
    role_arn: String,
    role_session_name: String,
    #[serde(default, deserialize_with = "lenient::integer")]
    duration_seconds: Option<i64>,
    source_identity: Option<String>,
    policy: Option<Value>,
    policy_arns: Option<Value>,
    tags: Option<Value>,
    transitive_tag_keys: Option<Value>,
    external_id: Option<Value>,
    serial_number: Option<Value>,
    token_code: Option<Value>,
    provided_contexts: Option<Value>,
}

async fn assume_role(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: AssumeRole = call.input()?;
    refuse(&[
        ("Policy", &input.policy),
        ("PolicyArns", &input.policy_arns),
        ("Tags", &input.tags),
        ("TransitiveTagKeys", &input.transitive_tag_keys),
        ("ExternalId", &input.external_id),
        ("SerialNumber", &input.serial_number),
        ("TokenCode", &input.token_code),
        ("ProvidedContexts", &input.provided_contexts),
    ])?;
    session_name("RoleSessionName", &input.role_session_name)?;
    if let Some(identity) = &input.source_identity {
        session_name("SourceIdentity", identity)?;
    }
    let lasting = seconds(input.duration_seconds, 3_600, 43_200)?;
    let role = iam::roles::by_arn(rooms, &input.role_arn)?.ok_or_else(|| {
        Fault::named(
            "AccessDenied",
            403,
            format!(
                "User: {} is not authorized to perform: sts:AssumeRole on resource: {}. Forebay \
                 has no such role; make it with iam CreateRole, or use {}",
                call.caller.arn,
                input.role_arn,
                rooms.keys.role_arn(),
            ),
        )
    })?;
    if lasting > role.max_session_secs {
        return Err(Fault::invalid(
            "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
        ));
    }
    let chained =
        rooms.keys.lookup(&call.caller.access_key_id).is_some_and(|k| k.session.is_some());
    if chained && lasting > 3_600 {
        return Err(Fault::invalid(
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by \
             role chaining",
        ));
    }
    let (account, session) = (rooms.keys.account_id(), &input.role_session_name);
    let principal = Principal {
        arn: format!("arn:aws:sts::{account}:assumed-role/{}/{session}", role.name),
        user_id: format!("{}:{session}", role.id),
    };
    let key = issue(rooms, call, principal, lasting)?;
    let mut answer = json!({
        "Credentials": credentials(&key),
        "AssumedRoleUser": {"AssumedRoleId": key.principal.user_id, "Arn": key.principal.arn},
    });
    if let Some(identity) = input.source_identity {
        answer["SourceIdentity"] = identity.into();
    }
    Ok(answer.into())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct GetSessionToken {
    #[serde(default, deserialize_with = "lenient::integer")]
    duration_seconds: Option<i64>,
    serial_number: Option<Value>,
    token_code: Option<Value>,
}

async fn get_session_token(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: GetSessionToken = call.input()?;
    refuse(&[("SerialNumber", &input.serial_number), ("TokenCode", &input.token_code)])?;
    let lasting = seconds(input.duration_seconds, 43_200, 129_600)?;
    if rooms.keys.lookup(&call.caller.access_key_id).is_some_and(|key| key.session.is_some()) {
        let message = "Cannot call GetSessionToken with session credentials";
        return Err(Fault::named("AccessDenied", 403, message));
    }
    let principal =
        Principal { arn: call.caller.arn.clone(), user_id: call.caller.user_id.clone() };
    let key = issue(rooms, call, principal, lasting)?;
    Ok(json!({"Credentials": credentials(&key)}).into())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct GetAccessKeyInfo {
    access_key_id: String,
}

async fn get_access_key_info(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: GetAccessKeyInfo = call.input()?;
    match rooms.keys.lookup(&input.access_key_id) {
        Some(_) => Ok(Reply::from(json!({"Account": rooms.keys.account_id()}))),
        None => Err(Fault::not_found(format!(
            "{:?} is no access key of account {}, the only one that Forebay knows",
            input.access_key_id,
            rooms.keys.account_id(),
        ))),
    }
}

/// Refuses what would narrow a session, unless it asks for nothing.
fn refuse(members: &[(&str, &Option<Value>)]) -> Result<(), Fault> {
    for (name, value) in members {
        let asks = match value {
            None | Some(Value::Null) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(entries)) => !entries.is_empty(),
            Some(_) => true,
        };
        if asks {
            let why = "a session has every right that its key has, and nothing narrows it";
            return Err(Fault::unsupported(name, why));
        }
    }
    Ok(())
}

fn session_name(member: &str, name: &str) -> Result<(), Fault> {
    if !(2..=64).contains(&name.len()) || !name.chars().all(iam::is_name_character) {
        return Err(Fault::invalid(format!(
            "{member} {name:?} must be 2 to 64 letters, digits and characters of _+=,.@-"
        )));
    }
    Ok(())
}

fn seconds(wish: Option<i64>, usual: i64, most: i64) -> Result<i64, Fault> {
    let lasting = wish.unwrap_or(usual);
    if !(900..=most).contains(&lasting) {
        return Err(Fault::invalid(format!(
            "DurationSeconds {lasting} must be a value between 900 and {most}"
        )));
    }
    Ok(lasting)
}

fn issue(
    rooms: &Rooms,
    call: &Call,
    principal: Principal,
    lasting: i64,
) -> Result<AccessKey, Fault> {
    let lasting = Duration::from_secs(u64::try_from(lasting).unwrap_or_default());
    Ok(rooms.keys.issue(&call.caller.access_key_id, principal, lasting)?)
}

fn credentials(key: &AccessKey) -> Value {
    let session = key.session.as_ref();
    json!({
        "AccessKeyId": key.id,
        "SecretAccessKey": key.secret.expose(),
        "SessionToken": session.map(|session| session.token.expose()),
        "Expiration": session.map(|session| iso_date(session.expires_at)),
    })
}

#[cfg(test)]
mod tests;
