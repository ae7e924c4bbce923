//! Thing types.

use std::sync::Arc;
use std::time::Duration;

use identity::ThingType;
use serde::Deserialize;
use serde_json::{Value, json};

use super::inputs::ThingTypeName;
use super::tags::{self, Tag};
use super::{Page, arn, compact, refuse};
use crate::call::{Call, Outcome};
use crate::fault::Fault;
use crate::rooms::{Rooms, epoch_secs};

/// AWS removes a type at the earliest five minutes after its deprecation.
const DELETE_WAIT: Duration = Duration::from_secs(300);

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Properties {
    #[serde(rename = "thingTypeDescription")]
    description: Option<String>,
    #[serde(rename = "searchableAttributes")]
    searchable: Option<Vec<String>>,
    #[serde(rename = "mqtt5Configuration")]
    mqtt5: Option<Value>,
}

impl Properties {
    fn check(&self) -> Result<(), Fault> {
        let asks = self.mqtt5.as_ref().filter(|given| {
            let propagating = given.get("propagatingAttributes").and_then(Value::as_array);
            given.as_object().is_none_or(|members| !members.is_empty())
                && propagating.is_none_or(|attributes| !attributes.is_empty())
        });
        refuse("mqtt5Configuration", asks, "attributes are not propagated into MQTT 5 messages")
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CreateThingType {
    thing_type_name: String,
    thing_type_properties: Option<Properties>,
    #[serde(default)]
    tags: Vec<Tag>,
}

pub(super) async fn create_thing_type(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: CreateThingType = call.input()?;
    let name = &input.thing_type_name;
    let properties = input.thing_type_properties.unwrap_or_default();
    properties.check()?;
    tags::check(&input.tags)?;
    let made = rooms.registry.create_thing_type(
        name,
        properties.description,
        properties.searchable.unwrap_or_default(),
    )?;
    tags::put(rooms, &format!("thingtype/{name}"), &input.tags)?;
    Ok(json!({
        "thingTypeName": name,
        "thingTypeArn": type_arn(rooms, call, name),
        "thingTypeId": made.id,
    })
    .into())
}

fn type_arn(rooms: &Rooms, call: &Call, name: &str) -> String {
    arn(rooms, call, &format!("thingtype/{name}"))
}

fn properties(row: &ThingType) -> Value {
    json!({ "thingTypeDescription": row.description, "searchableAttributes": row.searchable })
}

fn metadata(row: &ThingType) -> Value {
    json!({
        "deprecated": row.deprecated_at.is_some(),
        "deprecationDate": row.deprecated_at.map(epoch_secs),
        "creationDate": epoch_secs(row.created_at),
    })
}

pub(super) async fn describe_thing_type(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let ThingTypeName { name } = call.input()?;
    let row = rooms.registry.thing_type(&name)?;
    Ok(compact(json!({
        "thingTypeName": row.name,
        "thingTypeId": row.id,
        "thingTypeArn": type_arn(rooms, call, &row.name),
        "thingTypeProperties": properties(&row),
        "thingTypeMetadata": metadata(&row),
    }))
    .into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct UpdateThingType {
    thing_type_name: String,
    thing_type_properties: Option<Properties>,
}

pub(super) async fn update_thing_type(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: UpdateThingType = call.input()?;
    let properties = input.thing_type_properties.unwrap_or_default();
    properties.check()?;
    let (description, searchable) = (properties.description, properties.searchable);
    rooms.registry.update_thing_type(&input.thing_type_name, description, searchable)?;
    Ok(json!({}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ListThingTypes {
    next_token: Option<String>,
    max_results: Option<usize>,
    thing_type_name: Option<String>,
}

pub(super) async fn list_thing_types(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ListThingTypes = call.input()?;
    let mut rows = rooms.registry.thing_types()?;
    rows.retain(|row| input.thing_type_name.as_ref().is_none_or(|name| *name == row.name));
    let page = Page { token: input.next_token, size: input.max_results };
    let (rows, next) = page.of(rows, |row| row.name.clone())?;
    let types: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "thingTypeName": row.name,
                "thingTypeArn": type_arn(rooms, call, &row.name),
                "thingTypeProperties": properties(row),
                "thingTypeMetadata": metadata(row),
            })
        })
        .collect();
    Ok(compact(json!({ "thingTypes": types, "nextToken": next })).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct DeprecateThingType {
    thing_type_name: String,
    #[serde(default)]
    undo_deprecate: bool,
}

pub(super) async fn deprecate_thing_type(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: DeprecateThingType = call.input()?;
    rooms.registry.deprecate_thing_type(&input.thing_type_name, input.undo_deprecate)?;
    Ok(json!({}).into())
}

pub(super) async fn delete_thing_type(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let ThingTypeName { name } = call.input()?;
    rooms.registry.delete_thing_type(&name, DELETE_WAIT)?;
    tags::forget(rooms, &format!("thingtype/{name}"))?;
    Ok(json!({}).into())
}
