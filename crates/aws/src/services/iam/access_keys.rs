//! The owner's access keys, and the owner.
//!
//! There is one user, the account's owner. Keys act as a session of the role
//! ForebayExecutionRole, yet a call that names no user means the owner, so that keys can be
//! changed with the keys there are.

use std::sync::Arc;

use base::ErrorKind;
use identity::KeyStatus;
use serde::Deserialize;
use serde_json::json;

use super::{limit_exceeded, page};
use crate::call::{Call, Outcome, Reply};
use crate::fault::Fault;
use crate::lenient;
use crate::rooms::{Rooms, iso_date};

const OWNER: &str = "root";

fn check_user(name: Option<&str>) -> Result<(), Fault> {
    match name {
        None | Some(OWNER) => Ok(()),
        Some(other) => {
            Err(Fault::not_found(format!("The user with name {other} cannot be found.")))
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct OfUser {
    user_name: Option<String>,
}

pub(super) async fn get_user(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: OfUser = call.input()?;
    check_user(input.user_name.as_deref())?;
    let account = rooms.keys.account_id();
    let since = rooms.keys.list().first().map_or(rooms.clock.now(), |key| key.created_at);
    Ok(json!({"User": {
        "Path": "/",
        "UserName": OWNER,
        "UserId": account,
        "Arn": format!("arn:aws:iam::{account}:root"),
        "CreateDate": iso_date(since),
    }})
    .into())
}

pub(super) async fn create(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: OfUser = call.input()?;
    check_user(input.user_name.as_deref())?;
    let key = rooms.keys.create().map_err(|error| match error.kind() {
        ErrorKind::Exhausted => limit_exceeded(error.to_string()),
        _ => error.into(),
    })?;
    Ok(json!({"AccessKey": {
        "UserName": OWNER,
        "AccessKeyId": key.id,
        "Status": key.status.to_string(),
        "SecretAccessKey": key.secret.expose(),
        "CreateDate": iso_date(key.created_at),
    }})
    .into())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct List {
    user_name: Option<String>,
    marker: Option<String>,
    #[serde(default, deserialize_with = "lenient::integer")]
    max_items: Option<i64>,
}

pub(super) async fn list(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: List = call.input()?;
    check_user(input.user_name.as_deref())?;
    let mut keys = rooms.keys.list();
    keys.sort_by(|a, b| a.id.cmp(&b.id));
    let wanted = (input.marker, input.max_items);
    let answer = page(
        wanted,
        "AccessKeyMetadata",
        keys,
        |key| key.id.clone(),
        |key| {
            json!({
                "UserName": OWNER,
                "AccessKeyId": key.id,
                "Status": key.status.to_string(),
                "CreateDate": iso_date(key.created_at),
            })
        },
    );
    Ok(answer?.into())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Update {
    user_name: Option<String>,
    access_key_id: String,
    status: KeyStatus,
}

pub(super) async fn update(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Update = call.input()?;
    check_user(input.user_name.as_deref())?;
    rooms.keys.set_status(&input.access_key_id, input.status)?;
    Ok(Reply::empty())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Delete {
    user_name: Option<String>,
    access_key_id: String,
}

pub(super) async fn delete(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Delete = call.input()?;
    check_user(input.user_name.as_deref())?;
    rooms.keys.delete(&input.access_key_id)?;
    Ok(Reply::empty())
}
