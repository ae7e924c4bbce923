//! Tags of Glue's resources, by ARN.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use crate::call::{Call, Outcome};
use crate::fault::Fault;
use crate::rooms::Rooms;
use crate::tags::{self, Tags};

/// What has tags, as the ARN names it.
const KINDS: [&str; 4] = ["database", "crawler", "job", "trigger"];

fn key(kind: &str, name: &str) -> String {
    format!("glue/{kind}/{name}")
}

pub(super) fn add(rooms: &Rooms, kind: &str, name: &str, given: Tags) -> Result<(), Fault> {
    tags::add(rooms, &key(kind, name), given).map(drop)
}

pub(super) fn forget(rooms: &Rooms, kind: &str, name: &str) -> Result<(), Fault> {
    tags::forget(rooms, &key(kind, name))
}

/// Keeps the names whose tags have all of `wanted`.
pub(super) fn keep_tagged(
    rooms: &Rooms,
    kind: &str,
    wanted: &Tags,
    names: &mut Vec<String>,
) -> Result<(), Fault> {
    if wanted.is_empty() {
        return Ok(());
    }
    let mut kept = Vec::new();
    for name in names.drain(..) {
        let has = tags::of(rooms, &key(kind, &name))?;
        if wanted.iter().all(|(tag, value)| has.get(tag) == Some(value)) {
            kept.push(name);
        }
    }
    *names = kept;
    Ok(())
}

/// The key of an ARN whose resource exists.
fn tagged(rooms: &Rooms, arn: &str) -> Result<String, Fault> {
    let resource = arn.strip_prefix("arn:aws:glue:").and_then(|rest| rest.splitn(3, ':').nth(2));
    let Some((kind, name)) = resource.and_then(|resource| resource.split_once('/')) else {
        return Err(Fault::invalid(format!(
            "ResourceArn {arn:?} is not the ARN of anything in Glue"
        )));
    };
    match kind {
        "database" => drop(rooms.lake.catalog().get_database(name)?),
        "crawler" => drop(rooms.lake.get_crawler(name)?),
        "job" => drop(rooms.lake.get_job(name)?),
        "trigger" => drop(rooms.lake.get_trigger(name)?),
        _ => {
            let why = format!("{arn:?}; tags have {}", KINDS.join(", "));
            return Err(Fault::unsupported("ResourceArn", &why));
        }
    }
    Ok(key(kind, name))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct TagResource {
    resource_arn: String,
    tags_to_add: Tags,
}

pub(super) async fn tag_resource(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: TagResource = call.input()?;
    tags::add(rooms, &tagged(rooms, &input.resource_arn)?, input.tags_to_add)?;
    Ok(json!({}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct UntagResource {
    resource_arn: String,
    tags_to_remove: Vec<String>,
}

pub(super) async fn untag_resource(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: UntagResource = call.input()?;
    tags::remove(rooms, &tagged(rooms, &input.resource_arn)?, &input.tags_to_remove)?;
    Ok(json!({}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct GetTags {
    resource_arn: String,
}

pub(super) async fn get_tags(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: GetTags = call.input()?;
    Ok(json!({"Tags": tags::of(rooms, &tagged(rooms, &input.resource_arn)?)?}).into())
}
