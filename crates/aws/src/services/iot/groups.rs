//! Thing groups and who is in them.

use std::collections::BTreeSet;
use std::sync::Arc;

use identity::ThingGroup;
use serde::Deserialize;
use serde_json::{Value, json};

use super::inputs::ThingGroupName;
use super::tags::{self, Tag};
use super::things::AttributePayload;
use super::{Page, arn, compact, resource};
use crate::call::{Call, Outcome};
use crate::fault::Fault;
use crate::rooms::{Rooms, epoch_secs};

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Properties {
    #[serde(rename = "thingGroupDescription")]
    description: Option<String>,
    #[serde(rename = "attributePayload")]
    attributes: Option<AttributePayload>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CreateThingGroup {
    thing_group_name: String,
    parent_group_name: Option<String>,
    thing_group_properties: Option<Properties>,
    #[serde(default)]
    tags: Vec<Tag>,
}

pub(super) async fn create_thing_group(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: CreateThingGroup = call.input()?;
    let name = &input.thing_group_name;
    let properties = input.thing_group_properties.unwrap_or_default();
    tags::check(&input.tags)?;
    let made = rooms.registry.create_thing_group(
        name,
        properties.description,
        properties.attributes.unwrap_or_default().values(),
        input.parent_group_name,
    )?;
    tags::put(rooms, &format!("thinggroup/{name}"), &input.tags)?;
    Ok(json!({
        "thingGroupName": name,
        "thingGroupArn": group_arn(rooms, call, name),
        "thingGroupId": made.id,
    })
    .into())
}

fn group_arn(rooms: &Rooms, call: &Call, name: &str) -> String {
    arn(rooms, call, &format!("thinggroup/{name}"))
}

fn name_and_arn(rooms: &Rooms, call: &Call, name: &str) -> Value {
    json!({ "groupName": name, "groupArn": group_arn(rooms, call, name) })
}

/// The groups above one, the root first.
fn ancestors(all: &[ThingGroup], group: &ThingGroup) -> Vec<String> {
    let mut above = Vec::new();
    let mut parent = group.parent.clone();
    while let Some(name) = parent {
        parent = all.iter().find(|row| row.name == name).and_then(|row| row.parent.clone());
        above.insert(0, name);
    }
    above
}

pub(super) async fn describe_thing_group(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let ThingGroupName { name } = call.input()?;
    let row = rooms.registry.thing_group(&name)?;
    let above = ancestors(&rooms.registry.thing_groups()?, &row);
    let path: Vec<Value> = above.iter().map(|name| name_and_arn(rooms, call, name)).collect();
    Ok(compact(json!({
        "thingGroupName": row.name,
        "thingGroupId": row.id,
        "thingGroupArn": group_arn(rooms, call, &row.name),
        "version": row.version,
        "thingGroupProperties": {
            "thingGroupDescription": row.description,
            "attributePayload": { "attributes": row.attributes },
        },
        "thingGroupMetadata": {
            "parentGroupName": row.parent,
            "rootToParentThingGroups": path,
            "creationDate": epoch_secs(row.created_at),
        },
    }))
    .into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct UpdateThingGroup {
    thing_group_name: String,
    thing_group_properties: Properties,
    expected_version: Option<u64>,
}

pub(super) async fn update_thing_group(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: UpdateThingGroup = call.input()?;
    let Properties { description, attributes } = input.thing_group_properties;
    let version = rooms.registry.update_thing_group(
        &input.thing_group_name,
        description,
        attributes.map(AttributePayload::new_attributes),
        input.expected_version,
    )?;
    Ok(json!({ "version": version }).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ListThingGroups {
    next_token: Option<String>,
    max_results: Option<usize>,
    parent_group: Option<String>,
    name_prefix_filter: Option<String>,
    #[serde(default = "super::yes")]
    recursive: bool,
}

/// As on AWS, groups below groups are listed too unless `recursive` is false.
pub(super) async fn list_thing_groups(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ListThingGroups = call.input()?;
    if let Some(parent) = &input.parent_group {
        rooms.registry.thing_group(parent)?;
    }
    let all = rooms.registry.thing_groups()?;
    let below = |row: &&ThingGroup| match (&input.parent_group, input.recursive) {
        (None, true) => true,
        (Some(parent), true) => ancestors(&all, row).contains(parent),
        (parent, false) => row.parent == *parent,
    };
    let prefix = input.name_prefix_filter.as_deref().unwrap_or_default();
    let names = all.iter().filter(below).map(|row| row.name.clone());
    let names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    let page = Page { token: input.next_token, size: input.max_results };
    let (names, next) = page.of(names, Clone::clone)?;
    let groups: Vec<Value> = names.iter().map(|name| name_and_arn(rooms, call, name)).collect();
    Ok(compact(json!({ "thingGroups": groups, "nextToken": next })).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct DeleteThingGroup {
    thing_group_name: String,
    expected_version: Option<u64>,
}

pub(super) async fn delete_thing_group(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: DeleteThingGroup = call.input()?;
    rooms.registry.delete_thing_group(&input.thing_group_name, input.expected_version)?;
    tags::forget(rooms, &format!("thinggroup/{}", input.thing_group_name))?;
    Ok(json!({}).into())
}

/// A thing and a group, each by its name or its ARN.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Membership {
    thing_group_name: Option<String>,
    thing_group_arn: Option<String>,
    thing_name: Option<String>,
    thing_arn: Option<String>,
    /// There are no dynamic groups to override.
    override_dynamic_groups: Option<bool>,
}

fn one_of(
    rooms: &Rooms,
    what: &str,
    kind: &str,
    name: Option<String>,
    arn: Option<&str>,
) -> Result<String, Fault> {
    match (name, arn) {
        (Some(name), None) => Ok(name),
        (name, Some(arn)) => {
            let named = resource(rooms, arn, kind).ok_or_else(|| {
                Fault::invalid(format!("{what}Arn {arn:?} is not the ARN of a {kind} here"))
            })?;
            match name {
                Some(name) if name != named => Err(Fault::invalid(format!(
                    "{what}Name {name:?} and {what}Arn {arn:?} are not the same"
                ))),
                _ => Ok(named.to_owned()),
            }
        }
        (None, None) => Err(Fault::invalid(format!("{what}Name or {what}Arn is missing"))),
    }
}

fn set_membership(rooms: &Rooms, call: &Call, member: bool) -> Outcome {
    let input: Membership = call.input()?;
    let _nothing_to_override = input.override_dynamic_groups;
    let thing = one_of(rooms, "thing", "thing", input.thing_name, input.thing_arn.as_deref())?;
    let group = one_of(
        rooms,
        "thingGroup",
        "thinggroup",
        input.thing_group_name,
        input.thing_group_arn.as_deref(),
    )?;
    rooms.registry.set_membership(&thing, &group, member)?;
    Ok(json!({}).into())
}

pub(super) async fn add_thing_to_thing_group(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    set_membership(rooms, call, true)
}

pub(super) async fn remove_thing_from_thing_group(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    set_membership(rooms, call, false)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ListThingsInThingGroup {
    thing_group_name: String,
    next_token: Option<String>,
    max_results: Option<usize>,
    #[serde(default)]
    recursive: bool,
}

pub(super) async fn list_things_in_thing_group(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ListThingsInThingGroup = call.input()?;
    let group = rooms.registry.thing_group(&input.thing_group_name)?.name;
    let mut wanted = BTreeSet::from([group.clone()]);
    if input.recursive {
        let all = rooms.registry.thing_groups()?;
        let below = all.iter().filter(|row| ancestors(&all, row).contains(&group));
        wanted.extend(below.map(|row| row.name.clone()));
    }
    let things = rooms.registry.things().into_iter();
    let within = things.filter(|thing| !thing.groups.is_disjoint(&wanted));
    let page = Page { token: input.next_token, size: input.max_results };
    let (names, next) = page.of(within.map(|t| t.name.clone()).collect(), Clone::clone)?;
    Ok(compact(json!({ "things": names, "nextToken": next })).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ListThingGroupsForThing {
    thing_name: String,
    next_token: Option<String>,
    max_results: Option<usize>,
}

pub(super) async fn list_thing_groups_for_thing(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ListThingGroupsForThing = call.input()?;
    let thing = rooms.registry.thing(&input.thing_name)?;
    let page = Page { token: input.next_token, size: input.max_results };
    let (names, next) = page.of(thing.groups.iter().cloned().collect(), Clone::clone)?;
    let groups: Vec<Value> = names.iter().map(|name| name_and_arn(rooms, call, name)).collect();
    Ok(compact(json!({ "thingGroups": groups, "nextToken": next })).into())
}
