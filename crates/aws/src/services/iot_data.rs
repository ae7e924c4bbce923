//! IoT Core's data plane: publishing over HTTP, what topics retain, and device shadows.

use std::sync::Arc;

use base::{ErrorKind, Properties, QoS};
use broker::{Outside, ShadowAction, ShadowName, ShadowRefusal};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::call::{Call, Kind, Operation, Outcome, Reply, Service, operation, route};
use crate::fault::Fault;
use crate::page::page;
use crate::protocol::Protocol;
use crate::rooms::Rooms;

/// AWS's bounds.
const PAYLOAD_BYTES_MAX: usize = 128 * 1024;
const TOPIC_BYTES_MAX: usize = 256;
const TOPIC_SLASHES_MAX: usize = 7;

/// Most entries of a page of retained topics, AWS's bound.
const RETAINED_PAGE_MAX: usize = 200;

pub(crate) static SERVICE: Service = Service {
    name: "iot-data",
    scopes: &["iotdata", "iotdevicegateway"],
    protocol: Protocol::RestJson,
    codes,
    body_bytes_max: 2 * 1024 * 1024,
    operations: OPERATIONS,
};

/// Most names of a page of named shadows, AWS's bound.
const SHADOWS_PAGE_MAX: usize = 100;

static OPERATIONS: &[Operation] = &[
    operation!(
        "DeleteThingShadow",
        delete_thing_shadow,
        route!("DELETE", "/things/{thingName}/shadow", query: [("name", Kind::Text)])
    ),
    operation!(
        "GetRetainedMessage",
        get_retained_message,
        route!("GET", "/retainedMessage/{topic}")
    ),
    operation!(
        "GetThingShadow",
        get_thing_shadow,
        route!("GET", "/things/{thingName}/shadow", query: [("name", Kind::Text)])
    ),
    operation!(
        "ListNamedShadowsForThing",
        list_named_shadows_for_thing,
        route!("GET", "/api/things/shadow/ListNamedShadowsForThing/{thingName}",
            query: [("nextToken", Kind::Text), ("pageSize", Kind::Integer)])
    ),
    operation!(
        "ListRetainedMessages",
        list_retained_messages,
        route!("GET", "/retainedMessage",
            query: [("nextToken", Kind::Text), ("maxResults", Kind::Integer)])
    ),
    operation!(
        "Publish",
        publish,
        route!("POST", "/topics/{topic}",
        query: [
            ("qos", Kind::Integer),
            ("retain", Kind::Boolean),
            ("contentType", Kind::Text),
            ("responseTopic", Kind::Text),
            ("messageExpiry", Kind::Integer),
        ],
        headers: [
            ("x-amz-mqtt5-user-properties", "userProperties"),
            ("x-amz-mqtt5-payload-format-indicator", "payloadFormatIndicator"),
            ("x-amz-mqtt5-correlation-data", "correlationData"),
        ],
        raw: true)
    ),
    operation!(
        "UpdateThingShadow",
        update_thing_shadow,
        route!("POST", "/things/{thingName}/shadow", query: [("name", Kind::Text)], raw: true)
    ),
];

fn codes(kind: ErrorKind) -> (&'static str, u16) {
    match kind {
        ErrorKind::NotFound => ("ResourceNotFoundException", 404),
        ErrorKind::AlreadyExists => ("ConflictException", 409),
        ErrorKind::Conflict => ("ConflictException", 409),
        ErrorKind::Denied => ("UnauthorizedException", 401),
        ErrorKind::Invalid | ErrorKind::Unsupported => ("InvalidRequestException", 400),
        ErrorKind::Exhausted | ErrorKind::Unavailable => ("ServiceUnavailableException", 503),
        ErrorKind::Corrupt | ErrorKind::Internal => ("InternalFailureException", 500),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Publish {
    topic: String,
    #[serde(default)]
    qos: i64,
    #[serde(default)]
    retain: bool,
    content_type: Option<String>,
    response_topic: Option<String>,
    message_expiry: Option<u32>,
    user_properties: Option<String>,
    payload_format_indicator: Option<String>,
    correlation_data: Option<String>,
}

async fn publish(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Publish = call.input()?;
    check_topic(&input.topic)?;
    let bytes = call.body.len();
    if bytes > PAYLOAD_BYTES_MAX {
        let message =
            format!("the payload has {bytes} bytes; at most {PAYLOAD_BYTES_MAX} are allowed");
        return Err(Fault::named("RequestEntityTooLargeException", 413, message));
    }
    let qos = match input.qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        other => return Err(Fault::invalid(format!("qos {other} is neither 0 nor 1"))),
    };
    let message = Outside {
        topic: &input.topic,
        payload: &call.body,
        principal: &call.caller.user_id,
        qos,
        retain: input.retain,
        properties: properties(&input)?,
    };
    rooms.broker.publish_outside(&message).await?;
    Ok(Reply::empty())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct GetRetainedMessage {
    topic: String,
}

async fn get_retained_message(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let GetRetainedMessage { topic } = call.input()?;
    let (message, properties) = rooms.broker.retained_get(&topic).ok_or_else(|| {
        Fault::not_found(format!("no message is retained under the topic {topic:?}"))
    })?;
    let mut answer = json!({
        "topic": message.topic,
        "payload": rules::base64::encode(&message.payload),
        "qos": message.qos as u8,
        "lastModifiedTime": message.received_at.millis(),
    });
    if !properties.user.is_empty() {
        let user = properties.user.into_iter();
        let user: Vec<Map<String, Value>> =
            user.map(|(name, value)| Map::from_iter([(name, Value::String(value))])).collect();
        let text = json!(user).to_string();
        answer["userProperties"] = json!(rules::base64::encode(text.as_bytes()));
    }
    Ok(answer.into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ListRetainedMessages {
    next_token: Option<String>,
    max_results: Option<usize>,
}

async fn list_retained_messages(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ListRetainedMessages = call.input()?;
    let mut all = rooms.broker.retained_list();
    all.sort_by(|a, b| a.topic.cmp(&b.topic));
    let token = input.next_token.as_deref();
    let (rows, next) =
        page(all, |row| row.topic.clone(), token, input.max_results, RETAINED_PAGE_MAX)?;
    let topics: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "topic": row.topic,
                "payloadSize": row.payload_bytes,
                "qos": row.qos as u8,
                "lastModifiedTime": row.modified_at.millis(),
            })
        })
        .collect();
    let mut answer = json!({ "retainedTopics": topics });
    if let Some(next) = next {
        answer["nextToken"] = json!(next);
    }
    Ok(answer.into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Shadow {
    thing_name: String,
    name: Option<String>,
}

async fn get_thing_shadow(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    shadow(rooms, call, ShadowAction::Get, &[]).await
}

async fn update_thing_shadow(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    shadow(rooms, call, ShadowAction::Update, &call.body).await
}

async fn delete_thing_shadow(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    shadow(rooms, call, ShadowAction::Delete, &[]).await
}

async fn shadow(rooms: &Arc<Rooms>, call: &Call, action: ShadowAction, payload: &[u8]) -> Outcome {
    let Shadow { thing_name, name } = call.input()?;
    let shadow = ShadowName { thing: &thing_name, name: name.as_deref() };
    let document = rooms.broker.shadow(shadow, action, payload).await?.map_err(refused)?;
    Ok(Reply::raw(document.to_string(), "application/json"))
}

fn refused(refusal: ShadowRefusal) -> Fault {
    let code = match refusal.code {
        404 => "ResourceNotFoundException",
        409 => "ConflictException",
        413 => "RequestEntityTooLargeException",
        415 => "UnsupportedDocumentEncodingException",
        _ => "InvalidRequestException",
    };
    Fault::named(code, refusal.code, refusal.message)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ListNamedShadows {
    thing_name: String,
    next_token: Option<String>,
    page_size: Option<usize>,
}

async fn list_named_shadows_for_thing(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ListNamedShadows = call.input()?;
    ShadowName { thing: &input.thing_name, name: None }.check().map_err(refused)?;
    let names = rooms.broker.shadow_names(&input.thing_name).await?;
    let token = input.next_token.as_deref();
    let (names, next) = page(names, String::clone, token, input.page_size, SHADOWS_PAGE_MAX)?;
    let timestamp = rooms.clock.now().millis().div_euclid(1000);
    let mut answer = json!({"results": names, "timestamp": timestamp});
    if let Some(next) = next {
        answer["nextToken"] = json!(next);
    }
    Ok(answer.into())
}

/// AWS's bounds on topics; the prefix of basic ingest does not count.
fn check_topic(topic: &str) -> Result<(), Fault> {
    let counted = rules::without_basic_ingest(topic);
    let slashes = counted.matches('/').count();
    if counted.len() > TOPIC_BYTES_MAX || slashes > TOPIC_SLASHES_MAX {
        return Err(Fault::invalid(format!(
            "topic {topic:?} has {} bytes and {slashes} slashes; at most {TOPIC_BYTES_MAX} bytes \
             and {TOPIC_SLASHES_MAX} slashes are allowed",
            counted.len()
        )));
    }
    Ok(())
}

fn properties(input: &Publish) -> Result<Properties, Fault> {
    let utf8 = match input.payload_format_indicator.as_deref() {
        None => None,
        Some("UNSPECIFIED_BYTES") => Some(false),
        Some("UTF8_DATA") => Some(true),
        Some(other) => {
            return Err(Fault::invalid(format!(
                "payloadFormatIndicator {other:?} is neither UNSPECIFIED_BYTES nor UTF8_DATA"
            )));
        }
    };
    let base64 = |member: &str, text: &str| {
        rules::base64::decode(text)
            .ok_or_else(|| Fault::invalid(format!("{member} {text:?} is not base64")))
    };
    let data = input.correlation_data.as_deref();
    let correlation_data = data.map(|text| base64("correlationData", text)).transpose()?;
    let user = match input.user_properties.as_deref() {
        None => Vec::new(),
        Some(text) => user_properties(&base64("userProperties", text)?)?,
    };
    Ok(Properties {
        utf8,
        expiry_secs: input.message_expiry,
        content_type: input.content_type.clone(),
        response_topic: input.response_topic.clone(),
        correlation_data,
        user,
    })
}

/// `[{"name": "value"}, ..]`, in this order.
fn user_properties(json: &[u8]) -> Result<Vec<(String, String)>, Fault> {
    let wrong = || {
        Fault::invalid(
            "userProperties is not a JSON list of objects such as [{\"name\": \"value\"}]",
        )
    };
    let list: Vec<Map<String, Value>> =
        serde_json::from_slice(json).map_err(|_not_a_list| wrong())?;
    list.into_iter()
        .flatten()
        .map(|(name, value)| match value {
            Value::String(value) => Ok((name, value)),
            _ => Err(wrong()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes;
    use base::{MessageRef, Offset};
    use http::Request;
    use journal::Journal;

    use crate::testing::World;

    fn publish(path: &str) -> http::request::Builder {
        Request::post(format!("/topics/{path}"))
    }

    #[tokio::test]
    async fn a_message_is_in_the_log_when_the_call_answers() {
        let world = World::new();
        let user = rules::base64::encode(br#"[{"a": "1"}, {"a": "2"}]"#);
        let request = publish("pollution%2Fdata?qos=1&contentType=application%2Fjson")
            .header("x-amz-mqtt5-user-properties", user)
            .header("x-amz-mqtt5-payload-format-indicator", "UTF8_DATA")
            .body(Bytes::from_static(b"{\"ozone\":1}"))
            .unwrap();
        world.http("iot-data", request).await.unwrap();
        let journal = &world.rooms.journal;
        let records = journal.read(Offset(journal.durable().0 - 1), 1024).unwrap();
        let (message, extras) = MessageRef::decode_with(&records.items[0].1).unwrap();
        assert_eq!((message.topic, message.payload), ("pollution/data", &b"{\"ozone\":1}"[..]));
        assert_eq!(message.principal, "AROATEST:test");
        let mut expected = vec![1, 1, 3, 0, 16];
        expected.extend(b"application/json");
        expected.extend(b"\x26\x00\x01a\x00\x011\x26\x00\x01a\x00\x012");
        assert_eq!(extras.properties, expected);
        let ingest = publish("$aws%2Frules%2FR%2Fx").body(Bytes::new()).unwrap();
        world.http("iot-data", ingest).await.unwrap();
    }

    #[tokio::test]
    async fn a_topic_keeps_what_is_retained_until_nothing_is() {
        let world = World::new();
        let get = |path: &'static str| {
            let request = Request::get(path).body(Bytes::new()).unwrap();
            world.http("iot-data", request)
        };
        for topic in ["a%2Fb", "c"] {
            let user = rules::base64::encode(br#"[{"a":"1"},{"a":"2"}]"#);
            let request = publish(&format!("{topic}?retain=true&qos=1"))
                .header("x-amz-mqtt5-user-properties", user);
            world.http("iot-data", request.body(Bytes::from_static(b"x")).unwrap()).await.unwrap();
        }
        let seen = get("/retainedMessage/a%2Fb").await.unwrap();
        assert_eq!((&seen["topic"], &seen["payload"]), (&"a/b".into(), &"eA==".into()));
        assert_eq!(seen["qos"], 1);
        let user = rules::base64::decode(seen["userProperties"].as_str().unwrap()).unwrap();
        assert_eq!(user, br#"[{"a":"1"},{"a":"2"}]"#);
        let page = get("/retainedMessage?maxResults=1").await.unwrap();
        assert_eq!(page["retainedTopics"][0]["topic"], "a/b");
        assert!(page["nextToken"].is_string());
        let request = publish("c?retain=true").body(Bytes::new()).unwrap();
        world.http("iot-data", request).await.unwrap();
        assert_eq!(get("/retainedMessage/c").await.unwrap_err().0, 404);
    }

    #[tokio::test]
    async fn shadows_are_made_told_listed_and_deleted() {
        let world = World::new();
        let call = |method: &str, path: &str, body: &'static [u8]| {
            let request = Request::builder().method(method).uri(path);
            world.http("iot-data", request.body(Bytes::from_static(body)).unwrap())
        };
        let path = "/things/lamp/shadow";
        let (status, code, message) = call("GET", path, b"").await.unwrap_err();
        assert_eq!((status, code.as_str()), (404, "ResourceNotFoundException"));
        assert_eq!(message, "No shadow exists with name: 'lamp'");
        let wish = br#"{"state": {"desired": {"on": true}}}"#;
        for path in [path, "/things/lamp/shadow?name=b", "/things/lamp/shadow?name=a"] {
            let accepted = call("POST", path, wish).await.unwrap();
            assert_eq!(accepted["version"], 1, "{path}");
        }
        let told = call("GET", path, b"").await.unwrap();
        assert_eq!(told["state"]["delta"]["on"], true);
        let list = "/api/things/shadow/ListNamedShadowsForThing/lamp";
        let first = call("GET", &format!("{list}?pageSize=1"), b"").await.unwrap();
        assert_eq!(first["results"], serde_json::json!(["a"]));
        let token = first["nextToken"].as_str().unwrap();
        let rest = call("GET", &format!("{list}?nextToken={token}"), b"").await.unwrap();
        assert_eq!(rest["results"], serde_json::json!(["b"]));
        assert_eq!(call("DELETE", path, b"").await.unwrap()["version"], 1);
        for (path, body, expected) in [
            (path, &b"{"[..], (400, "InvalidRequestException")),
            (path, br#"{"state": {}, "version": 9}"#, (409, "ConflictException")),
            (path, b"\xff", (415, "UnsupportedDocumentEncodingException")),
            ("/things/l%20mp/shadow", wish, (400, "InvalidRequestException")),
            ("/things/lamp/shadow?name=a%2Fb", wish, (400, "InvalidRequestException")),
        ] {
            let (status, code, message) = call("POST", path, body).await.unwrap_err();
            assert_eq!((status, code.as_str()), expected, "{path}: {message}");
        }
        assert_eq!(call("DELETE", path, b"").await.unwrap_err().0, 404);
    }

    #[tokio::test]
    async fn what_cannot_be_published_is_refused_by_name() {
        let world = World::new();
        let long = "x".repeat(257);
        for (path, part) in [
            ("$aws%2Fthings%2Ft", "reserved"),
            ("a?qos=2", "qos 2"),
            ("a?qoss=1", "qoss"),
            ("a%2F%2B", "wildcards"),
            ("a%2Fb%2Fc%2Fd%2Fe%2Ff%2Fg%2Fh%2Fi", "8 slashes"),
            (long.as_str(), "257 bytes"),
            ("a?responseTopic=%23", "response topic"),
        ] {
            let request = publish(path).body(Bytes::new()).unwrap();
            let (status, code, message) = world.http("iot-data", request).await.unwrap_err();
            assert_eq!((status, code.as_str()), (400, "InvalidRequestException"), "{path}");
            assert!(message.contains(part), "{path}: {message}");
        }
        for (header, value) in [
            ("x-amz-mqtt5-user-properties", "?"),
            ("x-amz-mqtt5-user-properties", "e30="),
            ("x-amz-mqtt5-payload-format-indicator", "UTF9"),
            ("x-amz-mqtt5-correlation-data", "?"),
        ] {
            let request = publish("a").header(header, value).body(Bytes::new()).unwrap();
            assert_eq!(world.http("iot-data", request).await.unwrap_err().0, 400, "{header}");
        }
        let request = publish("a").body(Bytes::from(vec![b'x'; 128 * 1024 + 1])).unwrap();
        let (status, code, _) = world.http("iot-data", request).await.unwrap_err();
        assert_eq!((status, code.as_str()), (413, "RequestEntityTooLargeException"));
    }
}
