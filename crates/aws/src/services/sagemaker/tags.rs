//! Tags of anything that has an ARN.

use std::collections::BTreeMap;
use std::sync::Arc;

use metastore::Row;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::call::{Call, Outcome, Reply};
use crate::fault::Fault;
use crate::rooms::Rooms;

/// Most tags of one thing.
const TAGS_MAX: usize = 50;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Tags(BTreeMap<String, String>);

impl Row for Tags {
    const TABLE: &'static str = "aws-sagemaker-tags";
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

/// Gives a thing tags, beside those it has.
pub(super) fn put(
    rooms: &Rooms,
    arn: &str,
    tags: &[Tag],
) -> Result<BTreeMap<String, String>, Fault> {
    let kept = rooms.metastore.transact(|rows| {
        let mut all = rows.get::<Tags>(arn)?.map(|seen| seen.row).unwrap_or_default();
        for tag in tags {
            let good = (1..=128).contains(&tag.key.len()) && tag.value.len() <= 256;
            if !good {
                return Err(base::Error::invalid(format!(
                    "tag {:?}: a key has 1 to 128 characters, a value up to 256",
                    tag.key
                )));
            }
            all.0.insert(tag.key.clone(), tag.value.clone());
        }
        if all.0.len() > TAGS_MAX {
            let message = format!("{} tags; a resource has at most {TAGS_MAX}", all.0.len());
            return Err(base::Error::invalid(message));
        }
        if !all.0.is_empty() {
            rows.put(arn, &all)?;
        }
        Ok(all.0)
    })?;
    Ok(kept)
}

/// Forgets the tags of a thing that is deleted.
pub(super) fn forget(rooms: &Rooms, arn: &str) -> Result<(), Fault> {
    rooms.metastore.delete::<Tags>(arn)?;
    Ok(())
}

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

fn shown(tags: &BTreeMap<String, String>) -> serde_json::Value {
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
    let tags = rooms.metastore.get::<Tags>(&input.resource_arn)?.map(|seen| seen.row);
    Ok(json!({"Tags": shown(&tags.unwrap_or_default().0)}).into())
}

pub(super) async fn delete(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Delete = call.input()?;
    check_arn(&input.resource_arn)?;
    rooms.metastore.transact(|rows| {
        if let Some(seen) = rows.get::<Tags>(&input.resource_arn)? {
            let mut all = seen.row;
            all.0.retain(|key, _| !input.tag_keys.contains(key));
            rows.put(&input.resource_arn, &all)?;
        }
        Ok(())
    })?;
    Ok(Reply::from(json!({})))
}
