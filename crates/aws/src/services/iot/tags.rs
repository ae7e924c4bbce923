//! Tags of thing types, thing groups, policies, rules and CA certificates: labels, kept and given back.

use std::collections::BTreeMap;
use std::sync::Arc;

use metastore::Row;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{compact, resource};
use crate::call::{Call, Outcome};
use crate::fault::Fault;
use crate::rooms::Rooms;

/// AWS's bounds.
const TAGS_MAX: usize = 50;
const KEY_CHARS_MAX: usize = 128;
const VALUE_CHARS_MAX: usize = 256;

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(super) struct Tag {
    pub(super) key: String,
    #[serde(default)]
    pub(super) value: String,
}

/// The tags of one resource; the key is `KIND/NAME`.
#[derive(Serialize, Deserialize, Default)]
struct Tags {
    tags: BTreeMap<String, String>,
}

impl Row for Tags {
    const TABLE: &'static str = "aws-iot-tags";
}

pub(super) fn check(tags: &[Tag]) -> Result<(), Fault> {
    for Tag { key, value } in tags {
        let (keys, values) = (key.chars().count(), value.chars().count());
        if keys == 0 || keys > KEY_CHARS_MAX || key.starts_with("aws:") || values > VALUE_CHARS_MAX
        {
            return Err(Fault::invalid(format!(
                "tag {key:?}: a key has 1 to {KEY_CHARS_MAX} characters and does not begin with \
                 aws:, a value has at most {VALUE_CHARS_MAX}"
            )));
        }
    }
    if tags.len() > TAGS_MAX {
        let message = format!("{} tags are too many; at most {TAGS_MAX} are allowed", tags.len());
        return Err(Fault::named("LimitExceededException", 410, message));
    }
    Ok(())
}

pub(super) fn put(rooms: &Rooms, key: &str, tags: &[Tag]) -> Result<(), Fault> {
    if tags.is_empty() {
        return Ok(());
    }
    check(tags)?;
    let full = rooms.metastore.transact(|transaction| {
        let mut row = transaction.get::<Tags>(key)?.map(|found| found.row).unwrap_or_default();
        row.tags.extend(tags.iter().map(|tag| (tag.key.clone(), tag.value.clone())));
        let full = row.tags.len() > TAGS_MAX;
        if !full {
            transaction.put(key, &row)?;
        }
        Ok(full)
    })?;
    if full {
        let message = format!("a resource has at most {TAGS_MAX} tags");
        return Err(Fault::named("LimitExceededException", 410, message));
    }
    Ok(())
}

pub(super) fn forget(rooms: &Rooms, key: &str) -> Result<(), Fault> {
    rooms.metastore.transact(|transaction| transaction.delete::<Tags>(key))?;
    Ok(())
}

/// The row's key of an ARN whose resource exists.
fn tagged(rooms: &Rooms, arn: &str) -> Result<String, Fault> {
    for kind in ["thingtype", "thinggroup", "policy", "rule", "cacert"] {
        let Some(name) = resource(rooms, arn, kind) else { continue };
        match kind {
            "thingtype" => drop(rooms.registry.thing_type(name)?),
            "thinggroup" => drop(rooms.registry.thing_group(name)?),
            "policy" => drop(rooms.registry.policies().get(name)?),
            "cacert" => drop(rooms.registry.issuer(name)?),
            _ => drop(rooms.rules.get(name)?),
        }
        return Ok(format!("{kind}/{name}"));
    }
    Err(Fault::invalid(format!(
        "resourceArn {arn:?} is not the ARN of a thing type, thing group, policy, rule or CA \
         certificate; other resources have no tags"
    )))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct TagResource {
    resource_arn: String,
    tags: Vec<Tag>,
}

pub(super) async fn tag_resource(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: TagResource = call.input()?;
    put(rooms, &tagged(rooms, &input.resource_arn)?, &input.tags)?;
    Ok(json!({}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct UntagResource {
    resource_arn: String,
    tag_keys: Vec<String>,
}

pub(super) async fn untag_resource(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: UntagResource = call.input()?;
    let key = tagged(rooms, &input.resource_arn)?;
    rooms.metastore.transact(|transaction| {
        let Some(mut found) = transaction.get::<Tags>(&key)? else { return Ok(()) };
        found.row.tags.retain(|name, _| !input.tag_keys.contains(name));
        transaction.put(&key, &found.row).map(drop)
    })?;
    Ok(json!({}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ListTags {
    resource_arn: String,
    next_token: Option<String>,
}

pub(super) async fn list_tags_for_resource(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ListTags = call.input()?;
    let key = tagged(rooms, &input.resource_arn)?;
    let tags = rooms.metastore.get::<Tags>(&key)?.map(|found| found.row.tags).unwrap_or_default();
    let page = super::Page { token: input.next_token, size: None };
    let (tags, next) = page.of(tags.into_iter().collect(), |(key, _)| key.clone())?;
    let tags: Vec<Value> =
        tags.iter().map(|(key, value)| json!({ "Key": key, "Value": value })).collect();
    Ok(compact(json!({ "tags": tags, "nextToken": next })).into())
}
