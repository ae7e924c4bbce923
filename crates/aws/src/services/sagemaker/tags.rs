//! Tags of anything that has an ARN.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use crate::call::{Call, Outcome, Reply};
use crate::fault::Fault;
use crate::rooms::Rooms;
use crate::tags::{self, Tags};

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

/// Gives a thing tags, beside those it has.
pub(super) fn put(rooms: &Rooms, arn: &str, tags: &[Tag]) -> Result<Tags, Fault> {
    tags::add(rooms, arn, tags.iter().map(|tag| (tag.key.clone(), tag.value.clone())))
}

pub(super) use crate::tags::forget;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Add {
    resource_arn: String,
    tags: Vec<Tag>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct List {
    resource_arn: String,
    #[expect(dead_code, reason = "fifty tags are one page")]
    next_token: Option<String>,
    #[expect(dead_code, reason = "fifty tags are one page")]
    max_results: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Delete {
    resource_arn: String,
    tag_keys: Vec<String>,
}

fn check_arn(arn: &str) -> Result<(), Fault> {
    if arn.starts_with("arn:aws:sagemaker:") {
        return Ok(());
    }
    Err(Fault::invalid(format!("ResourceArn {arn:?} is not the ARN of a SageMaker resource")))
}

fn shown(tags: &Tags) -> serde_json::Value {
    tags.iter().map(|(key, value)| json!({"Key": key, "Value": value})).collect()
}

pub(super) async fn add(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Add = call.input()?;
    check_arn(&input.resource_arn)?;
    let tags = put(rooms, &input.resource_arn, &input.tags)?;
    Ok(json!({"Tags": shown(&tags)}).into())
}

pub(super) async fn list(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: List = call.input()?;
    check_arn(&input.resource_arn)?;
    let tags = tags::of(rooms, &input.resource_arn)?;
    Ok(json!({"Tags": shown(&tags)}).into())
}

pub(super) async fn delete(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Delete = call.input()?;
    check_arn(&input.resource_arn)?;
    tags::remove(rooms, &input.resource_arn, &input.tag_keys)?;
    Ok(Reply::from(json!({})))
}
