//! Lifecycle events and basic ingest: what lies below `$aws/`.

use std::sync::Arc;
use std::time::Duration;

use base::QoS;
use broker::{Disconnect, Settings};
use serde_json::{Value, json};

use crate::raw::{Hello, Raw, ack, packet, publish, qos1, qos2, subscribe, text};
use crate::support::{Everybody, World};

/// Everything in the log that the broker said, in order: topic and event.
fn said(world: &World) -> Vec<(String, Value)> {
    let messages = world.journal.messages().into_iter();
    messages
        .filter(|message| message.topic.starts_with("$aws/events/"))
        .map(|message| {
            assert_eq!((message.client_id.as_str(), message.principal.as_str()), ("", "aws-iot"));
            assert_eq!((message.qos, message.retain), (QoS::AtLeastOnce, false));
            let event: Value = serde_json::from_slice(&message.payload).unwrap();
            (message.topic["$aws/events/".len()..].to_owned(), event)
        })
        .collect()
}

#[tokio::test]
async fn a_connection_is_announced_from_its_beginning_to_its_end() {
    let world = World::announcing(Arc::new(Everybody)).await;
    let mut dev = Raw::join(world.address, &Hello::v5("dev")).await;
    dev.send(&subscribe(5, 1, &[("a", 1), ("b/#/c", 1), ("$share/g/b", 0)])).await;
    dev.packet().await;
    dev.send(&packet(0xa2, &[&[0, 2, 0][..], &text("a")].concat())).await;
    dev.packet().await;
    world.clock.advance(Duration::from_secs(5));
    dev.send(&[0xe0, 0]).await;
    dev.closed().await;
    world.until("it is gone", |w| said(w).len() == 4).await;
    let said = said(&world);
    let (started, session) = (1_700_000_000_000_i64, said[0].1["sessionIdentifier"].clone());
    assert_eq!(session.as_str().map(str::len), Some(36));
    let version = said[0].1["versionNumber"].clone();
    assert!(version.is_u64(), "{version}");
    let event = |at: i64, kind: &str, more: Value| {
        let mut event = json!({
            "clientId": "dev", "timestamp": at, "eventType": kind,
            "sessionIdentifier": session, "principalIdentifier": "anonymous",
        });
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    };
    let expected = [
        (
            "presence/connected/dev",
            event(
                started,
                "connected",
                json!({ "ipAddress": "127.0.0.1", "versionNumber": version }),
            ),
        ),
        // Only what was granted.
        (
            "subscriptions/subscribed/dev",
            event(started, "subscribed", json!({ "topics": ["a", "$share/g/b"] })),
        ),
        (
            "subscriptions/unsubscribed/dev",
            event(started, "unsubscribed", json!({ "topics": ["a"] })),
        ),
        (
            "presence/disconnected/dev",
            event(
                started + 5000,
                "disconnected",
                json!({
                    "clientInitiatedDisconnect": true, "versionNumber": version,
                    "disconnectReason": "CLIENT_INITIATED_DISCONNECT",
                }),
            ),
        ),
    ];
    assert_eq!(said, expected.map(|(topic, event)| (topic.to_owned(), event)));
}

#[tokio::test]
async fn every_end_has_its_reason() {
    let world = World::announcing(Arc::new(Everybody)).await;
    let mut versions = Vec::new();
    for (reason, end) in [
        ("CONNECTION_LOST", 0),
        ("CLIENT_ERROR", 1),
        ("DUPLICATE_CLIENTID", 2),
        ("AUTH_ERROR", 3),
        ("SERVER_INITIATED_DISCONNECT", 4),
        ("MQTT_KEEP_ALIVE_TIMEOUT", 5),
    ] {
        let keep_alive = if end == 5 { 1 } else { 60 };
        let mut dev = Raw::join(world.address, &Hello { keep_alive, ..Hello::v4("dev") }).await;
        let before = said(&world).len();
        let mut other = None;
        match end {
            0 => drop(dev),
            1 => dev.send(&[0xf0, 0]).await,
            2 => other = Some(Raw::join(world.address, &Hello::v4("dev")).await),
            3 => drop(world.broker.disconnect_principal("anonymous", Disconnect::Revoked)),
            4 => drop(world.broker.disconnect_principal("anonymous", Disconnect::Administrative)),
            _ => {}
        }
        world.until(reason, |w| said(w).len() > before).await;
        let (topic, event) = said(&world)[before].clone();
        assert_eq!(topic, "presence/disconnected/dev");
        assert_eq!(event["disconnectReason"], reason);
        assert_eq!(event["clientInitiatedDisconnect"], false);
        versions.push(event["versionNumber"].as_u64().unwrap());
        if let Some(mut other) = other {
            other.send(&[0xe0, 0]).await;
            other.closed().await;
            world.until("it is gone", |w| w.broker.sessions().is_empty()).await;
        }
    }
    assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
}

#[tokio::test]
async fn events_are_heard_by_those_who_ask_for_them_by_name() {
    let world = World::announcing(Arc::new(Everybody)).await;
    let mut watcher = Raw::join(world.address, &Hello::v4("watcher")).await;
    let filters = [("$aws/events/presence/+/dev", 1), ("#", 0), ("$aws/#", 0), ("$aws/rules/r", 0)];
    watcher.send(&subscribe(4, 1, &filters)).await;
    watcher.expect(&[0x90, 6, 0, 1, 1, 0, 0x80, 0x80]).await;
    let mut dev = Raw::join(world.address, &Hello::v4("dev")).await;
    let heard = watcher.packet().await.unwrap();
    assert!(String::from_utf8_lossy(&heard).contains("presence/connected/dev"), "{heard:02x?}");
    // Nobody else may say such things.
    dev.send(&publish(0x30, "$aws/events/presence/connected/x", 0, None, b"")).await;
    dev.ping().await;
    watcher.silence().await;
}

#[tokio::test]
async fn basic_ingest_reaches_the_log_and_no_subscriber() {
    let store = metastore::Metastore::in_memory().unwrap();
    let world = World::retaining(Settings::default(), Arc::default(), &store).await;
    let mut watcher = Raw::join(world.address, &Hello::v4("watcher")).await;
    watcher.send(&subscribe(4, 1, &[("#", 1)])).await;
    watcher.packet().await;
    let mut dev = Raw::join(world.address, &Hello::v4("dev")).await;
    dev.send(&qos1("$aws/rules/ozone", 1, "one")).await;
    dev.expect(&ack(0x40, 1)).await;
    dev.send(&qos2("$aws/rules/ozone/station/1", 2, "two")).await;
    dev.expect(&ack(0x50, 2)).await;
    // Nothing is retained where nobody can subscribe; the reading is taken all the same.
    dev.send(&publish(0x33, "$aws/rules/ozone", 3, None, b"three")).await;
    dev.expect(&ack(0x40, 3)).await;
    assert!(world.broker.retained_list().is_empty());
    let (topics, payloads): (Vec<_>, Vec<_>) =
        world.journal.messages().into_iter().map(|m| (m.topic, m.payload)).unzip();
    let (to_rule, below) = ("$aws/rules/ozone", "$aws/rules/ozone/station/1");
    assert_eq!(topics, [to_rule, below, to_rule]);
    assert_eq!(payloads, ["one", "two", "three"]);
    watcher.silence().await;
    for topic in ["$aws/rules/", "$aws/rules//x", "$aws/rules"] {
        let mut dev = Raw::join(world.address, &Hello::v4("other")).await;
        dev.send(&qos1(topic, 1, "x")).await;
        assert_eq!(dev.closed().await, None, "{topic}");
    }
}
