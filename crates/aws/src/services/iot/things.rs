//! Things.

use std::collections::BTreeMap;
use std::sync::Arc;

use identity::{NewAttributes, Thing, ThingUpdate};
use serde::Deserialize;
use serde_json::{Value, json};

use super::inputs::ThingName;
use super::{Page, arn, compact, refuse};
use crate::call::{Call, Outcome};
use crate::fault::Fault;
use crate::rooms::Rooms;

/// `{"attributes": {..}, "merge": true}`.
#[derive(Clone, Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct AttributePayload {
    attributes: Option<BTreeMap<String, String>>,
    #[serde(default)]
    merge: bool,
}

impl AttributePayload {
    pub(super) fn values(self) -> BTreeMap<String, String> {
        self.attributes.unwrap_or_default()
    }

    pub(super) fn new_attributes(self) -> NewAttributes {
        NewAttributes { merge: self.merge, values: self.values() }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CreateThing {
    thing_name: String,
    thing_type_name: Option<String>,
    attribute_payload: Option<AttributePayload>,
    billing_group_name: Option<String>,
}

pub(super) async fn create_thing(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: CreateThing = call.input()?;
    refuse("billingGroupName", input.billing_group_name.as_ref(), "there are no billing groups")?;
    let attributes = input.attribute_payload.unwrap_or_default().values();
    let name = &input.thing_name;
    let made = rooms.registry.create_thing(name, attributes, input.thing_type_name.as_deref());
    let thing = made.map_err(|error| {
        let taken = error.kind() == base::ErrorKind::AlreadyExists;
        let mut fault = Fault::from(error);
        if taken && let Ok(thing) = rooms.registry.thing(name) {
            fault.members.push(("resourceId", json!(thing.id)));
            fault.members.push(("resourceArn", json!(thing_arn(rooms, call, name))));
        }
        fault
    })?;
    Ok(json!({
        "thingName": thing.name,
        "thingArn": thing_arn(rooms, call, &thing.name),
        "thingId": thing.id,
    })
    .into())
}

pub(super) fn thing_arn(rooms: &Rooms, call: &Call, name: &str) -> String {
    arn(rooms, call, &format!("thing/{name}"))
}

pub(super) async fn describe_thing(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let ThingName { name } = call.input()?;
    let thing = rooms.registry.thing(&name)?;
    Ok(compact(json!({
        "defaultClientId": thing.name,
        "thingName": thing.name,
        "thingId": thing.id,
        "thingArn": thing_arn(rooms, call, &thing.name),
        "thingTypeName": thing.thing_type,
        "attributes": thing.attributes,
        "version": thing.version,
    }))
    .into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct UpdateThing {
    thing_name: String,
    thing_type_name: Option<String>,
    attribute_payload: Option<AttributePayload>,
    expected_version: Option<u64>,
    #[serde(default)]
    remove_thing_type: bool,
}

pub(super) async fn update_thing(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: UpdateThing = call.input()?;
    let update = ThingUpdate {
        attributes: input.attribute_payload.map(AttributePayload::new_attributes),
        thing_type: input.thing_type_name,
        remove_thing_type: input.remove_thing_type,
        expected_version: input.expected_version,
    };
    rooms.registry.update_thing(&input.thing_name, &update)?;
    Ok(json!({}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ListThings {
    next_token: Option<String>,
    max_results: Option<usize>,
    attribute_name: Option<String>,
    attribute_value: Option<String>,
    thing_type_name: Option<String>,
    #[serde(default)]
    use_prefix_attribute_value: bool,
}

impl ListThings {
    fn selects(&self, thing: &Thing) -> bool {
        let of_type = self.thing_type_name.is_none() || thing.thing_type == self.thing_type_name;
        let Some(name) = &self.attribute_name else { return of_type };
        let Some(value) = thing.attributes.get(name) else { return false };
        let wanted = self.attribute_value.as_deref();
        of_type
            && wanted.is_none_or(|wanted| match self.use_prefix_attribute_value {
                true => value.starts_with(wanted),
                false => value == wanted,
            })
    }
}

pub(super) async fn list_things(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ListThings = call.input()?;
    if input.attribute_name.is_none() && input.attribute_value.is_some() {
        return Err(Fault::invalid("attributeValue needs attributeName beside it"));
    }
    let mut things = rooms.registry.things();
    things.retain(|thing| input.selects(thing));
    let page = Page { token: input.next_token, size: input.max_results };
    let (things, next) = page.of(things, |thing| thing.name.clone())?;
    let things: Vec<Value> = things
        .iter()
        .map(|thing| {
            json!({
                "thingName": thing.name,
                "thingTypeName": thing.thing_type,
                "thingArn": thing_arn(rooms, call, &thing.name),
                "attributes": thing.attributes,
                "version": thing.version,
            })
        })
        .collect();
    Ok(compact(json!({ "things": things, "nextToken": next })).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct DeleteThing {
    thing_name: String,
    expected_version: Option<u64>,
}

/// As on AWS, a thing that is not there is deleted with success.
pub(super) async fn delete_thing(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: DeleteThing = call.input()?;
    rooms.registry.delete_thing(&input.thing_name, input.expected_version)?;
    Ok(json!({}).into())
}
