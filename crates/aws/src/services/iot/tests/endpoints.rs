//! HTTP actions and the endpoints that confirm that they want them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::*;

/// An endpoint that takes everything and tells what it got: the head and the body.
fn endpoint() -> (String, Receiver<(String, String)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut reader = BufReader::new(stream);
            let (mut head, mut line) = (String::new(), String::new());
            while reader.read_line(&mut line).is_ok_and(|bytes| bytes > 2) {
                head.push_str(&std::mem::take(&mut line));
            }
            let length = head.lines().find_map(|line| {
                let (name, value) = line.split_once(": ")?;
                name.eq_ignore_ascii_case("content-length").then(|| value.parse().ok())?
            });
            let mut body = vec![0; length.unwrap_or(0)];
            drop(reader.read_exact(&mut body));
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            drop(reader.into_inner().write_all(answer));
            drop(tell.send((head, String::from_utf8_lossy(&body).into_owned())));
        }
    });
    (url, told)
}

fn rule(url: &str, more: Value) -> Value {
    let mut http = json!({ "url": url });
    if let (Some(http), Value::Object(more)) = (http.as_object_mut(), more) {
        http.extend(more);
    }
    json!({ "sql": "SELECT * FROM 'a'", "actions": [{ "http": http }] })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_confirms_before_it_is_posted_to() {
    let world = World::new();
    let w = &world;
    let (base, told) = endpoint();
    let url = format!("{base}/in");
    let headers = json!({ "headers": [{ "key": "x-key", "value": "${topic()}" }] });
    let made = rule(&url, headers);
    call(w, "POST", "/rules/post", made.clone()).await.unwrap();
    let (head, body) = told.recv_timeout(Duration::from_secs(5)).unwrap();
    let asked: Value = serde_json::from_str(&body).unwrap();
    let token = asked["confirmationToken"].as_str().unwrap();
    assert!(head.starts_with(&format!("POST /in?confirmationToken={token} ")), "{head}");
    assert!(head.to_lowercase().contains("x-amz-rules-engine-message-type: destinationconf"));
    assert!(
        asked["enableUrl"].as_str().unwrap().ends_with(&format!("/confirmdestination/{token}"))
    );

    let listed = call(w, "GET", "/destinations", Value::Null).await.unwrap();
    let summary = &listed["destinationSummaries"][0];
    assert_eq!(summary["httpUrlSummary"]["confirmationUrl"], url);
    assert_eq!(summary["arn"], asked["arn"]);
    let path = format!("/destinations/{}", asked["arn"].as_str().unwrap());
    let status = async || {
        let got = call(w, "GET", &path, Value::Null).await.unwrap();
        got["topicRuleDestination"]["status"].as_str().unwrap().to_owned()
    };
    assert_eq!(status().await, "IN_PROGRESS");
    let post = |url: String| {
        let destinations = w.rooms.destinations.clone();
        tokio::task::spawn_blocking(move || destinations.post(&url, &[], b"{\"n\":1}"))
    };
    let error = post(url.clone()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("IN_PROGRESS"), "{error}");
    let enabled = json!({ "arn": asked["arn"], "status": "ENABLED" });
    refused(
        call(w, "PATCH", "/destinations", enabled.clone()).await,
        400,
        "InvalidRequestException",
    );
    let wrong = call(w, "GET", "/confirmdestination/guess", Value::Null).await;
    refused(wrong, 400, "InvalidRequestException");
    let confirm = format!("/confirmdestination/{token}");
    call(w, "GET", &confirm, Value::Null).await.unwrap();
    assert_eq!(status().await, "ENABLED");
    assert_eq!(
        call(w, "GET", "/rules/post", Value::Null).await.unwrap()["rule"]["actions"],
        made["actions"]
    );

    // What was confirmed, and what lies below it; nothing else.
    for path in ["", "/below?a=b"] {
        post(format!("{url}{path}")).await.unwrap().unwrap();
        let (head, body) = told.recv_timeout(Duration::from_secs(5)).unwrap();
        assert!(head.starts_with(&format!("POST /in{path} ")), "{head}");
        assert!(head.to_lowercase().contains("content-type: application/octet-stream"), "{head}");
        assert_eq!(body, "{\"n\":1}");
    }
    for other in [format!("{base}/other"), format!("{url}/../other"), format!("{url}side")] {
        assert!(post(other.clone()).await.unwrap().is_err(), "{other}");
    }

    // Its owner switches it off, and the link in the endpoint's log does not switch it on.
    let disabled = json!({ "arn": asked["arn"], "status": "DISABLED" });
    call(w, "PATCH", "/destinations", disabled).await.unwrap();
    call(w, "GET", &confirm, Value::Null).await.unwrap();
    assert_eq!(status().await, "DISABLED");
    assert!(post(url.clone()).await.unwrap().is_err());
    call(w, "PATCH", "/destinations", enabled).await.unwrap();
    assert_eq!(status().await, "ENABLED");
    let again = json!({ "destinationConfiguration": {
        "httpUrlConfiguration": { "confirmationUrl": url } } });
    refused(call(w, "POST", "/destinations", again).await, 409, "ResourceAlreadyExistsException");
    // A second rule with the same endpoint asks nobody.
    call(
        w,
        "POST",
        "/rules/second",
        rule(&format!("{url}/${{n}}"), json!({ "confirmationUrl": url })),
    )
    .await
    .unwrap();
    assert!(told.try_recv().is_err());
    call(w, "DELETE", &path, Value::Null).await.unwrap();
    refused(call(w, "GET", &path, Value::Null).await, 401, "UnauthorizedException");
    assert!(post(url).await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_does_not_answer_is_in_error() {
    let world = World::new();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{closed}/in");
    let made = call(
        &world,
        "POST",
        "/destinations",
        json!({ "destinationConfiguration": {
        "httpUrlConfiguration": { "confirmationUrl": url } } }),
    );
    let made = made.await.unwrap();
    assert_eq!(made["topicRuleDestination"]["status"], "ERROR");
    let reason = made["topicRuleDestination"]["statusReason"].as_str().unwrap();
    assert!(
        reason.contains(&closed.to_string()) && reason.contains("confirmationToken=..."),
        "{reason}"
    );
}

#[tokio::test]
async fn http_actions_that_cannot_be_are_refused() {
    let world = World::new();
    let cases = [
        // A name is judged by where it leads, once something is posted; an address at once.
        (rule("http://10.0.0.1/in", json!({})), "add \"10.0.0.1\" to rules.http_allowed"),
        (rule("ftp://127.0.0.1/in", json!({})), "http://"),
        (rule("http://127.0.0.1/${n}", json!({})), "confirmationUrl"),
        (
            rule("http://127.0.0.1/out", json!({ "confirmationUrl": "http://127.0.0.1/in" })),
            "does not lie under",
        ),
        (rule("http://127.0.0.1/", json!({ "auth": { "sigv4": {} } })), "auth"),
        (rule("http://127.0.0.1/", json!({ "enableBatching": true })), "enableBatching"),
        (
            rule("http://127.0.0.1/", json!({ "headers": [{ "key": "Host", "value": "a" }] })),
            "headers[0]",
        ),
        (
            json!({ "sql": "SELECT * FROM 'a'",
                "actions": [{ "http": { "url": "http://127.0.0.1/" } }],
                "errorAction": { "http": { "url": "http://127.0.0.1/" } } }),
            "error action cannot be http",
        ),
    ];
    for (given, word) in cases {
        let answer = call(&world, "POST", "/rules/r", given.clone()).await;
        assert!(answer.is_err(), "{given} was taken");
        let message = refused(answer, 400, "InvalidRequestException");
        assert!(message.contains(word), "{given}: {message}");
    }
    assert!(world.rooms.rules.list().is_empty());
    assert!(world.rooms.destinations.list().unwrap().is_empty());
}

#[tokio::test]
async fn a_kinesis_action_goes_into_the_delivery_stream_of_that_name() {
    let world = World::new();
    let kinesis = json!({ "roleArn": "arn:aws:iam::123456789012:role/r", "streamName": "s",
        "partitionKey": "${newuuid()}" });
    let given = json!({ "sql": "SELECT * FROM 'a'", "actions": [{ "kinesis": kinesis }] });
    call(&world, "POST", "/rules/k", given.clone()).await.unwrap();
    let row = world.rooms.rules.get("k").unwrap();
    let action = rules::Action::Firehose { stream: "s".into(), separator: None, batch_mode: false };
    assert_eq!(row.current().unwrap().actions, [action]);
    let shown = call(&world, "GET", "/rules/k", Value::Null).await.unwrap();
    assert_eq!(shown["rule"]["actions"], given["actions"]);
}
