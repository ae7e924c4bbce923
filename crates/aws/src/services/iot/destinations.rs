//! Topic rule destinations: the endpoints of HTTP actions.

use std::sync::Arc;

use base::{Error, ErrorKind};
use serde::Deserialize;
use serde_json::{Value, json};

use super::rules::rule_fault;
use super::{Page, arn, compact, resource};
use crate::call::{Call, Outcome, Reply};
use crate::destinations::{Destination, Status};
use crate::fault::Fault;
use crate::rooms::{Rooms, epoch_secs};

const KIND: &str = "ruledestination/http";

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Create {
    destination_configuration: Configuration,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Configuration {
    http_url_configuration: Option<HttpUrl>,
    vpc_configuration: Option<Value>,
    #[serde(rename = "influxDBConfiguration")]
    influx_db_configuration: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct HttpUrl {
    confirmation_url: String,
}

pub(super) async fn create_destination(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let given: Create = call.input()?;
    let given = given.destination_configuration;
    for (name, other) in [
        ("vpcConfiguration", &given.vpc_configuration),
        ("influxDBConfiguration", &given.influx_db_configuration),
    ] {
        if other.is_some() {
            let place = format!("destinationConfiguration.{name}");
            return Err(Fault::unsupported(&place, "destinations here are HTTP endpoints"));
        }
    }
    let http = given.http_url_configuration.ok_or_else(|| {
        Fault::invalid("destinationConfiguration.httpUrlConfiguration is missing")
    })?;
    let id = make(rooms, call, http.confirmation_url).await.map_err(rule_fault)?;
    Ok(json!({ "topicRuleDestination": shown(rooms, call, &id, &found(rooms, &id)?) }).into())
}

/// Makes a destination and has its endpoint asked, which takes as long as that takes to answer.
async fn make(rooms: &Arc<Rooms>, call: &Call, url: String) -> base::Result<String> {
    let (name, destinations) = (arn(rooms, call, KIND), rooms.destinations.clone());
    blocking(move || destinations.make(&url, |id| format!("{name}/{id}"))).await
}

/// Makes the destinations of a rule's HTTP actions that nobody made yet.
pub(super) async fn ensure(rooms: &Arc<Rooms>, call: &Call, urls: &[String]) -> Result<(), Fault> {
    for url in urls {
        match make(rooms, call, url.clone()).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            made => {
                made.map_err(rule_fault)?;
            }
        }
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> base::Result<T> + Send + 'static,
) -> base::Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_ended| Error::internal("asking the endpoint to confirm broke off"))?
}

fn id_of<'a>(rooms: &Rooms, given: &'a str) -> Result<&'a str, Fault> {
    resource(rooms, given, KIND).ok_or_else(|| {
        Fault::invalid(format!("{given:?} is not the ARN of a topic rule destination"))
    })
}

fn found(rooms: &Rooms, id: &str) -> Result<Destination, Fault> {
    let gone = || rule_fault(Error::not_found(format!("there is no destination {id:?}")));
    rooms.destinations.get(id)?.ok_or_else(gone)
}

fn shown(rooms: &Rooms, call: &Call, id: &str, row: &Destination) -> Value {
    let mut shown = summary(rooms, call, id, row);
    if let Some(members) = shown.as_object_mut()
        && let Some(http) = members.remove("httpUrlSummary")
    {
        members.insert("httpUrlProperties".to_owned(), http);
    }
    shown
}

fn summary(rooms: &Rooms, call: &Call, id: &str, row: &Destination) -> Value {
    json!({
        "arn": arn(rooms, call, &format!("{KIND}/{id}")),
        "status": row.status,
        "statusReason": row.reason,
        "createdAt": epoch_secs(row.created_at),
        "lastUpdatedAt": epoch_secs(row.updated_at),
        "httpUrlSummary": {"confirmationUrl": row.url},
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ByArn {
    arn: String,
}

pub(super) async fn get_destination(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let given: ByArn = call.input()?;
    let id = id_of(rooms, &given.arn)?;
    Ok(json!({ "topicRuleDestination": shown(rooms, call, id, &found(rooms, id)?) }).into())
}

pub(super) async fn list_destinations(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let page: Page = call.input()?;
    let (rows, next) = page.of(rooms.destinations.list()?, |(id, _)| id.clone())?;
    let rows: Vec<Value> = rows.iter().map(|(id, row)| summary(rooms, call, id, row)).collect();
    Ok(compact(json!({ "destinationSummaries": rows, "nextToken": next })).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    arn: String,
    status: Status,
}

pub(super) async fn update_destination(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let given: Update = call.input()?;
    let id = id_of(rooms, &given.arn)?.to_owned();
    let destinations = rooms.destinations.clone();
    let arn = given.arn.clone();
    match given.status {
        Status::Enabled => destinations.switch(&id, true).map_err(rule_fault)?,
        Status::Disabled => destinations.switch(&id, false).map_err(rule_fault)?,
        Status::InProgress => {
            blocking(move || destinations.ask(&id, &arn)).await.map_err(rule_fault)?;
        }
        Status::Error => {
            let message = "status ERROR cannot be set; use ENABLED, DISABLED or IN_PROGRESS";
            return Err(Fault::invalid(message));
        }
    }
    Ok(Reply::empty())
}

pub(super) async fn delete_destination(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let given: ByArn = call.input()?;
    let id = id_of(rooms, &given.arn)?;
    if !rooms.destinations.delete(id)? {
        found(rooms, id)?;
    }
    Ok(Reply::empty())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Confirm {
    confirmation_token: String,
}

pub(super) async fn confirm_destination(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let given: Confirm = call.input()?;
    rooms.destinations.confirm(&given.confirmation_token).map_err(rule_fault)?;
    Ok(Reply::empty())
}
