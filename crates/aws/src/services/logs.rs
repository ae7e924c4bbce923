//! CloudWatch Logs: what trainings, jobs and users say.

use std::sync::Arc;

use base::ErrorKind;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::{Call, Outcome, Reply, Service, operation};
use crate::fault::Fault;
use crate::logs::Event;
use crate::page::page;
use crate::protocol::Protocol;
use crate::rooms::Rooms;

/// Most events of one GetLogEvents.
const EVENTS_MAX: usize = 10_000;

pub(crate) static SERVICE: Service = Service {
    name: "logs",
    scopes: &["logs"],
    protocol: Protocol::Json { target: "Logs_20140328", version: "1.1" },
    codes,
    body_bytes_max: 2 * 1024 * 1024,
    operations: &[
        operation!("CreateLogGroup", create_group),
        operation!("CreateLogStream", create_stream),
        operation!("DeleteLogGroup", delete_group),
        operation!("DeleteLogStream", delete_stream),
        operation!("DescribeLogGroups", describe_groups),
        operation!("DescribeLogStreams", describe_streams),
        operation!("FilterLogEvents", filter_events, differs: "filterPattern takes plain words and quoted texts; no JSON or space-delimited patterns"),
        operation!("GetLogEvents", get_events),
        operation!("PutLogEvents", put_events),
    ],
};

fn codes(kind: ErrorKind) -> (&'static str, u16) {
    match kind {
        ErrorKind::NotFound => ("ResourceNotFoundException", 400),
        ErrorKind::AlreadyExists => ("ResourceAlreadyExistsException", 400),
        ErrorKind::Conflict => ("OperationAbortedException", 400),
        ErrorKind::Denied => ("AccessDeniedException", 400),
        ErrorKind::Invalid | ErrorKind::Unsupported => ("InvalidParameterException", 400),
        ErrorKind::Exhausted | ErrorKind::Unavailable => ("ServiceUnavailableException", 503),
        ErrorKind::Corrupt | ErrorKind::Internal => ("InternalFailure", 500),
    }
}

fn check_name(what: &str, name: &str) -> Result<(), Fault> {
    let good = (1..=512).contains(&name.len()) && !name.contains([':', '*']);
    if good {
        return Ok(());
    }
    Err(Fault::invalid(format!("{what} {name:?}: use 1 to 512 characters without ':' and '*'")))
}

fn no_group(rooms: &Rooms, group: &str) -> Result<(), Fault> {
    if rooms.logs.has_group(group) {
        return Ok(());
    }
    Err(Fault::not_found("The specified log group does not exist."))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Group {
    log_group_name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Stream {
    log_group_name: String,
    log_stream_name: String,
}

async fn create_group(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Group = call.input()?;
    check_name("logGroupName", &input.log_group_name)?;
    match rooms.logs.create_group(&input.log_group_name)? {
        true => Ok(Reply::empty()),
        false => {
            Err(Fault::kind(ErrorKind::AlreadyExists, "The specified log group already exists"))
        }
    }
}

async fn delete_group(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Group = call.input()?;
    match rooms.logs.delete_group(&input.log_group_name)? {
        true => Ok(Reply::empty()),
        false => Err(Fault::not_found("The specified log group does not exist.")),
    }
}

async fn create_stream(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Stream = call.input()?;
    no_group(rooms, &input.log_group_name)?;
    check_name("logStreamName", &input.log_stream_name)?;
    match rooms.logs.create_stream(&input.log_group_name, &input.log_stream_name)? {
        true => Ok(Reply::empty()),
        false => {
            Err(Fault::kind(ErrorKind::AlreadyExists, "The specified log stream already exists"))
        }
    }
}

async fn delete_stream(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Stream = call.input()?;
    no_group(rooms, &input.log_group_name)?;
    match rooms.logs.delete_stream(&input.log_group_name, &input.log_stream_name)? {
        true => Ok(Reply::empty()),
        false => Err(Fault::not_found("The specified log stream does not exist.")),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Groups {
    log_group_name_prefix: Option<String>,
    log_group_name_pattern: Option<String>,
    limit: Option<usize>,
    next_token: Option<String>,
}

async fn describe_groups(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Groups = call.input()?;
    let mut names = rooms.logs.groups()?;
    let prefix = input.log_group_name_prefix.unwrap_or_default();
    let pattern = input.log_group_name_pattern.unwrap_or_default();
    names.retain(|name| name.starts_with(&prefix) && name.contains(&pattern));
    let token = input.next_token.as_deref();
    let (names, next) = page(names, Clone::clone, token, input.limit, 50)?;
    let shown = |name: &String| {
        let arn = rooms.arn("logs", &call.region, &format!("log-group:{name}"));
        json!({
            "logGroupName": name,
            "arn": format!("{arn}:*"),
            "logGroupArn": arn,
            "creationTime": rooms.logs.created_at(name, None),
            "storedBytes": 0,
            "metricFilterCount": 0,
        })
    };
    let mut answer = json!({"logGroups": names.iter().map(shown).collect::<Vec<_>>()});
    if let Some(next) = next {
        answer["nextToken"] = json!(next);
    }
    Ok(answer.into())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Streams {
    log_group_name: Option<String>,
    log_group_identifier: Option<String>,
    log_stream_name_prefix: Option<String>,
    order_by: Option<String>,
    descending: Option<bool>,
    limit: Option<usize>,
    next_token: Option<String>,
}

async fn describe_streams(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Streams = call.input()?;
    let group = group_of(input.log_group_name, input.log_group_identifier)?;
    no_group(rooms, &group)?;
    let prefix = input.log_stream_name_prefix.unwrap_or_default();
    let mut names = rooms.logs.streams(&group)?;
    names.retain(|name| name.starts_with(&prefix));
    let mut shown = Vec::new();
    for name in names {
        let events = rooms.logs.events(&group, &name)?.unwrap_or_default();
        shown.push((name, events));
    }
    match input.order_by.as_deref() {
        None | Some("LogStreamName") => {}
        Some("LastEventTime") if prefix.is_empty() => {
            shown.sort_by_key(|(_, events)| events.last().map(|event| event.at));
        }
        Some("LastEventTime") => {
            return Err(Fault::invalid(
                "Cannot order by LastEventTime with a logStreamNamePrefix.",
            ));
        }
        Some(other) => {
            return Err(Fault::invalid(format!(
                "orderBy {other:?}: use LogStreamName or LastEventTime"
            )));
        }
    }
    if input.descending == Some(true) {
        shown.reverse();
    }
    let numbered: Vec<_> = shown.into_iter().enumerate().collect();
    let key = |(at, _): &(usize, (String, Vec<Event>))| format!("{at:08}");
    let (given, next) = page(numbered, key, input.next_token.as_deref(), input.limit, 50)?;
    let shown: Vec<Value> = given
        .into_iter()
        .map(|(_, (name, events))| {
            let arn =
                rooms.arn("logs", &call.region, &format!("log-group:{group}:log-stream:{name}"));
            let mut one = json!({
                "logStreamName": name,
                "creationTime": rooms.logs.created_at(&group, Some(&name)),
                "arn": arn,
                "storedBytes": 0,
                "uploadSequenceToken": events.len().to_string(),
            });
            if let (Some(first), Some(last)) = (events.first(), events.last()) {
                one["firstEventTimestamp"] = json!(first.at);
                one["lastEventTimestamp"] = json!(last.at);
                one["lastIngestionTime"] = json!(last.arrived_at);
            }
            one
        })
        .collect();
    let mut answer = json!({"logStreams": shown});
    if let Some(next) = next {
        answer["nextToken"] = json!(next);
    }
    Ok(answer.into())
}

/// A group is named, or given by its ARN.
fn group_of(name: Option<String>, identifier: Option<String>) -> Result<String, Fault> {
    match (name, identifier) {
        (Some(name), None) => Ok(name),
        (None, Some(id)) => {
            let name = id.split(":log-group:").last().unwrap_or_default();
            Ok(name.trim_end_matches(":*").to_owned())
        }
        _ => Err(Fault::invalid("name one of logGroupName and logGroupIdentifier")),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GetEvents {
    log_group_name: Option<String>,
    log_group_identifier: Option<String>,
    log_stream_name: String,
    start_time: Option<i64>,
    end_time: Option<i64>,
    next_token: Option<String>,
    limit: Option<usize>,
    start_from_head: Option<bool>,
    #[expect(dead_code, reason = "nothing is masked")]
    unmask: Option<bool>,
}

/// Where a page begins: forwards from a place, or backwards to it.
enum From {
    Forward(usize),
    Backward(usize),
}

fn token_of(token: &str) -> Result<From, Fault> {
    let wrong = || Fault::invalid(format!("The specified nextToken is invalid: {token:?}"));
    let (way, place) = token.split_once('/').ok_or_else(wrong)?;
    let place = place.parse().map_err(|_cause| wrong())?;
    match way {
        "f" => Ok(From::Forward(place)),
        "b" => Ok(From::Backward(place)),
        _ => Err(wrong()),
    }
}

async fn get_events(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: GetEvents = call.input()?;
    let group = group_of(input.log_group_name, input.log_group_identifier)?;
    no_group(rooms, &group)?;
    let all = rooms
        .logs
        .events(&group, &input.log_stream_name)?
        .ok_or_else(|| Fault::not_found("The specified log stream does not exist."))?;
    let most = input.limit.unwrap_or(EVENTS_MAX);
    if !(1..=EVENTS_MAX).contains(&most) {
        return Err(Fault::invalid(format!("limit {most}: use 1 to {EVENTS_MAX}")));
    }
    let wanted = |event: &Event| {
        input.start_time.is_none_or(|start| event.at >= start)
            && input.end_time.is_none_or(|end| event.at < end)
    };
    let from = match &input.next_token {
        Some(token) => token_of(token)?,
        None if input.start_from_head == Some(true) => From::Forward(0),
        None => From::Backward(all.len()),
    };
    // Places count all events of the stream, so that a token stays right as it grows.
    let numbered = all.iter().enumerate().filter(|(_, event)| wanted(event));
    let given: Vec<(usize, &Event)> = match from {
        From::Forward(place) => numbered.filter(|(at, _)| *at >= place).take(most).collect(),
        From::Backward(place) => {
            let before: Vec<_> = numbered.filter(|(at, _)| *at < place).collect();
            before[before.len().saturating_sub(most)..].to_vec()
        }
    };
    let (first, last) = match (given.first(), given.last()) {
        (Some((first, _)), Some((last, _))) => (*first, last + 1),
        _ => match from {
            From::Forward(place) | From::Backward(place) => (place, place),
        },
    };
    let shown = |(_, event): &(usize, &Event)| json!({"timestamp": event.at, "message": event.message, "ingestionTime": event.arrived_at});
    Ok(json!({
        "events": given.iter().map(shown).collect::<Vec<_>>(),
        "nextForwardToken": format!("f/{last}"),
        "nextBackwardToken": format!("b/{first}"),
    })
    .into())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Filter {
    log_group_name: Option<String>,
    log_group_identifier: Option<String>,
    log_stream_names: Option<Vec<String>>,
    log_stream_name_prefix: Option<String>,
    start_time: Option<i64>,
    end_time: Option<i64>,
    filter_pattern: Option<String>,
    next_token: Option<String>,
    limit: Option<usize>,
    #[expect(dead_code, reason = "events of all streams are always given in the order of time")]
    interleaved: Option<bool>,
}

async fn filter_events(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Filter = call.input()?;
    let group = group_of(input.log_group_name, input.log_group_identifier)?;
    no_group(rooms, &group)?;
    let terms = terms_of(input.filter_pattern.as_deref().unwrap_or_default())?;
    let prefix = input.log_stream_name_prefix.unwrap_or_default();
    let mut found = Vec::new();
    for stream in rooms.logs.streams(&group)? {
        let named = input.log_stream_names.as_ref().is_none_or(|names| names.contains(&stream));
        if !named || !stream.starts_with(&prefix) {
            continue;
        }
        let events = rooms.logs.events(&group, &stream)?.unwrap_or_default();
        for (at, event) in events.into_iter().enumerate() {
            if input.start_time.is_none_or(|start| event.at >= start)
                && input.end_time.is_none_or(|end| event.at < end)
                && terms.iter().all(|term| event.message.contains(term))
            {
                found.push((event.at, stream.clone(), at, event));
            }
        }
    }
    found.sort_by(|a, b| (a.0, &a.1, a.2).cmp(&(b.0, &b.1, b.2)));
    let key = |(time, stream, at, _): &(i64, String, usize, Event)| {
        format!("{time:020}/{stream}/{at:012}")
    };
    let (given, next) = page(found, key, input.next_token.as_deref(), input.limit, EVENTS_MAX)?;
    let shown: Vec<Value> = given
        .into_iter()
        .map(|(time, stream, at, event)| {
            json!({
                "logStreamName": stream,
                "timestamp": time,
                "message": event.message,
                "ingestionTime": event.arrived_at,
                "eventId": format!("{time:020}{at:012}"),
            })
        })
        .collect();
    let mut answer = json!({"events": shown, "searchedLogStreams": []});
    if let Some(next) = next {
        answer["nextToken"] = json!(next);
    }
    Ok(answer.into())
}

/// The terms that an event must contain, all of them.
fn terms_of(pattern: &str) -> Result<Vec<String>, Fault> {
    let pattern = pattern.trim();
    if pattern.starts_with(['{', '[', '%']) || pattern.contains(['?', '-']) {
        return Err(Fault::unsupported(
            "filterPattern",
            &format!("{pattern:?} is more than plain words and quoted texts"),
        ));
    }
    let mut terms = Vec::new();
    for (at, piece) in pattern.split('"').enumerate() {
        if at % 2 == 1 {
            terms.push(piece.to_owned());
        } else {
            terms.extend(piece.split_whitespace().map(str::to_owned));
        }
    }
    Ok(terms)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PutEvents {
    log_group_name: String,
    log_stream_name: String,
    log_events: Vec<PutEvent>,
    #[expect(dead_code, reason = "AWS ignores it since 2023, and so do we")]
    sequence_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PutEvent {
    timestamp: i64,
    message: String,
}

async fn put_events(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: PutEvents = call.input()?;
    no_group(rooms, &input.log_group_name)?;
    let streams = rooms.logs.streams(&input.log_group_name)?;
    if !streams.contains(&input.log_stream_name) {
        return Err(Fault::not_found("The specified log stream does not exist."));
    }
    let bytes: usize = input.log_events.iter().map(|event| event.message.len() + 26).sum();
    if input.log_events.is_empty() || input.log_events.len() > 10_000 || bytes > 1_048_576 {
        let count = input.log_events.len();
        return Err(Fault::invalid(format!(
            "{count} events of {bytes} bytes; a batch has 1 to 10000 events and 1048576 bytes"
        )));
    }
    if !input.log_events.is_sorted_by_key(|event| event.timestamp) {
        return Err(Fault::invalid(
            "Log events in a single PutLogEvents request must be in chronological order.",
        ));
    }
    let events: Vec<(i64, String)> =
        input.log_events.into_iter().map(|event| (event.timestamp, event.message)).collect();
    let now = rooms.clock.now().millis();
    rooms.logs.append_all(&input.log_group_name, &input.log_stream_name, &events, now)?;
    let count = rooms
        .logs
        .events(&input.log_group_name, &input.log_stream_name)?
        .map_or(0, |events| events.len());
    Ok(json!({"nextSequenceToken": count.to_string()}).into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::World;

    #[tokio::test]
    async fn what_is_put_is_read_in_pages_and_the_end_stays_the_end() {
        let world = World::new();
        let call = |operation: &'static str, input| world.call("logs", operation, input);
        let name = |stream: &str| json!({"logGroupName": "/aws/x", "logStreamName": stream});
        let missing = call("CreateLogStream", name("a/b")).await.unwrap_err();
        assert_eq!(missing.1, "ResourceNotFoundException");
        call("CreateLogGroup", json!({"logGroupName": "/aws/x"})).await.unwrap();
        let again = call("CreateLogGroup", json!({"logGroupName": "/aws/x"})).await.unwrap_err();
        assert_eq!(again.1, "ResourceAlreadyExistsException");
        call("CreateLogStream", name("a/b")).await.unwrap();
        let mut put = name("a/b");
        put["logEvents"] = json!([{"timestamp": 1, "message": "one"}, {"timestamp": 2, "message": "two"}, {"timestamp": 3, "message": "three"}]);
        call("PutLogEvents", put).await.unwrap();
        let mut get = name("a/b");
        get["startFromHead"] = json!(true);
        get["limit"] = json!(2);
        let first = call("GetLogEvents", get.clone()).await.unwrap();
        assert_eq!(first["events"][1]["message"], "two");
        get["nextToken"] = first["nextForwardToken"].clone();
        let second = call("GetLogEvents", get.clone()).await.unwrap();
        assert_eq!(second["events"].as_array().unwrap().len(), 1);
        get["nextToken"] = second["nextForwardToken"].clone();
        let end = call("GetLogEvents", get).await.unwrap();
        assert_eq!(end["events"], json!([]));
        assert_eq!(end["nextForwardToken"], second["nextForwardToken"]);
        let found =
            call("FilterLogEvents", json!({"logGroupName": "/aws/x", "filterPattern": "tw"}))
                .await
                .unwrap();
        assert_eq!(found["events"][0]["logStreamName"], "a/b");
        let streams = call("DescribeLogStreams", json!({"logGroupName": "/aws/x", "logStreamNamePrefix": "a/", "limit": 1, "orderBy": "LogStreamName"})).await.unwrap();
        assert_eq!(streams["logStreams"][0]["lastEventTimestamp"], 3);
        assert!(streams.get("nextToken").is_none());
    }

    #[tokio::test]
    async fn no_name_reaches_outside_the_folder() {
        let world = World::new();
        let name = json!({"logGroupName": "../../x"});
        world.call("logs", "CreateLogGroup", name.clone()).await.unwrap();
        assert!(!world.folder.path().join("x").exists());
        let groups = world.call("logs", "DescribeLogGroups", json!({})).await.unwrap();
        assert_eq!(groups["logGroups"][0]["logGroupName"], "../../x");
    }
}
