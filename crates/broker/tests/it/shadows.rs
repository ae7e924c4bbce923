//! Device shadows over MQTT and from outside, over restarts, and both at the same time.

use std::collections::BTreeSet;
use std::sync::Arc;

use base::Offset;
use broker::{Broker, Settings, ShadowAction, ShadowName};
use journal::Journal;
use metastore::Metastore;
use serde_json::{Value, json};

use crate::raw::{Hello, Raw, publish, qos1, subscribe};
use crate::support::{MemoryJournal, World};

const LAMP: ShadowName<'_> = ShadowName { thing: "lamp", name: None };

fn store() -> Metastore {
    Metastore::in_memory().unwrap()
}

async fn world(journal: &Arc<MemoryJournal>, store: &Metastore) -> World {
    World::retaining(Settings::default(), Arc::clone(journal), store).await
}

/// A client that hears all about the shadows of one thing.
async fn listener(world: &World, thing: &str) -> Raw {
    let mut raw = Raw::join(world.address, &Hello::v4("app")).await;
    raw.send(&subscribe(4, 1, &[(&format!("$aws/things/{thing}/shadow/#"), 0)])).await;
    raw.expect(&[0x90, 3, 0, 1, 0]).await;
    raw
}

/// Topic, without the prefix, and document of the next message that is no request.
async fn news(raw: &mut Raw, thing: &str) -> (String, Value) {
    loop {
        let packet = raw.packet().await.expect("closed");
        if packet[0] != 0x30 {
            continue;
        }
        let start = 1 + packet[1..].iter().position(|byte| *byte < 128).unwrap() + 1;
        let length = usize::from(u16::from_be_bytes([packet[start], packet[start + 1]]));
        let (topic, payload) = packet[start + 2..].split_at(length);
        let topic = std::str::from_utf8(topic).unwrap();
        let rest = topic.strip_prefix(&format!("$aws/things/{thing}/shadow/")).unwrap();
        if !matches!(rest.rsplit('/').next().unwrap(), "get" | "update" | "delete") {
            return (rest.to_owned(), serde_json::from_slice(payload).unwrap());
        }
    }
}

async fn ask(raw: &mut Raw, topic: &str, id: u16, payload: &str) {
    raw.send(&qos1(topic, id, payload)).await;
}

async fn outside(broker: &Broker, action: ShadowAction, payload: &Value) -> Value {
    broker.shadow(LAMP, action, payload.to_string().as_bytes()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_and_an_app_meet_in_a_shadow() {
    let (journal, store) = (Arc::default(), store());
    let world = world(&journal, &store).await;
    let mut app = listener(&world, "lamp").await;
    let base = "$aws/things/lamp/shadow";
    for (prefix, name) in [("", "lamp"), ("name/colour/", "lamp~colour")] {
        let topic = |word: &str| format!("{base}/{prefix}{word}");
        ask(&mut app, &topic("get"), 1, r#"{"clientToken": "g"}"#).await;
        let (rest, refused) = news(&mut app, "lamp").await;
        assert_eq!(rest, format!("{prefix}get/rejected"));
        assert_eq!((&refused["code"], &refused["clientToken"]), (&json!(404), &json!("g")));
        assert_eq!(refused["message"], format!("No shadow exists with name: '{name}'"));

        ask(&mut app, &topic("update"), 2, r#"{"state": {"reported": {"on": false}}}"#).await;
        ask(&mut app, &topic("update"), 3, r#"{"state": {"desired": {"on": true}}}"#).await;
        let mut heard = Vec::new();
        for _ in 0..5 {
            let (rest, document) = news(&mut app, "lamp").await;
            heard.push((rest.strip_prefix(prefix).unwrap().to_owned(), document));
        }
        let words: Vec<&str> = heard.iter().map(|(rest, _)| rest.as_str()).collect();
        let first = ["update/accepted", "update/documents"];
        let second = ["update/accepted", "update/delta", "update/documents"];
        assert_eq!(words, [&first[..], &second].concat());
        assert_eq!(heard[3].1["state"], json!({"on": true}));
        assert_eq!(heard[3].1["timestamp"], 1_700_000_000);
        assert_eq!(heard[4].1["previous"]["version"], 1);
        assert_eq!(heard[4].1["current"]["version"], 2);

        ask(&mut app, &topic("update"), 4, r#"{"state": {}, "version": 1}"#).await;
        let (rest, refused) = news(&mut app, "lamp").await;
        assert_eq!((rest, &refused["code"]), (format!("{prefix}update/rejected"), &json!(409)));
        ask(&mut app, &topic("get"), 5, "").await;
        let (_, document) = news(&mut app, "lamp").await;
        assert_eq!(document["state"]["delta"], json!({"on": true}));
    }
    assert_eq!(world.broker.shadow_names("lamp").await.unwrap(), ["colour"]);

    // The version number goes on after a deletion, for two days.
    for (deleted, days, version) in [(2, 1, 3), (3, 3, 1)] {
        ask(&mut app, &format!("{base}/delete"), 6, "").await;
        let (rest, document) = news(&mut app, "lamp").await;
        assert_eq!((rest.as_str(), &document["version"]), ("delete/accepted", &json!(deleted)));
        world.clock.advance(std::time::Duration::from_secs(days * 24 * 3600));
        ask(&mut app, &format!("{base}/update"), 7, r#"{"state": {"desired": {"a": 1}}}"#).await;
        let (_, document) = news(&mut app, "lamp").await;
        assert_eq!(document["version"], version);
        news(&mut app, "lamp").await;
        news(&mut app, "lamp").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_mqtt_and_http_take_turns() {
    let (journal, store) = (Arc::default(), store());
    let world = world(&journal, &store).await;
    let mut app = listener(&world, "lamp").await;
    let broker = Arc::clone(&world.broker);
    let by_http = tokio::spawn(async move {
        for number in 0..100 {
            let update = json!({"state": {"desired": {"http": number}}});
            outside(&broker, ShadowAction::Update, &update).await;
        }
    });
    let mut device = Raw::join(world.address, &Hello::v4("lamp")).await;
    for number in 1..=200_u16 {
        let update = json!({"state": {"reported": {"mqtt": number}}}).to_string();
        ask(&mut device, "$aws/things/lamp/shadow/update", number, &update).await;
        device.expect(&[0x40, 2, (number >> 8) as u8, number as u8]).await;
    }
    by_http.await.unwrap();
    let mut versions = BTreeSet::new();
    while versions.len() < 300 {
        let (rest, document) = news(&mut app, "lamp").await;
        if rest == "update/accepted" {
            let version = document["version"].as_u64().unwrap();
            assert!(versions.insert(version), "version {version} twice");
        }
    }
    assert_eq!((versions.first(), versions.last()), (Some(&1), Some(&300)));
    let whole = outside(&world.broker, ShadowAction::Get, &json!({})).await;
    assert_eq!(whole["state"]["reported"], json!({"mqtt": 200}));
    assert_eq!(whole["state"]["desired"], json!({"http": 99}));
}

/// What was acknowledged before a kill is in the shadow after it, once.
#[tokio::test(flavor = "multi_thread")]
async fn requests_are_taken_from_the_log_once_whatever_was_lost() {
    let (journal, first_store): (Arc<MemoryJournal>, _) = (Arc::default(), store());
    let updates = |from: u16, to: u16| {
        (from..to).map(|number| {
            let update = json!({"state": {"reported": {"n": number}}}).to_string();
            qos1("$aws/things/lamp/shadow/update", number + 1, &update)
        })
    };
    let run = |store: Metastore, journal: Arc<MemoryJournal>, from: u16, to: u16| async move {
        let world = world(&journal, &store).await;
        let mut device = Raw::join(world.address, &Hello::v4("lamp")).await;
        for update in updates(from, to) {
            device.send(&update).await;
            device.packet().await.expect("no PUBACK");
        }
        // The turn of a request from outside comes after those in the log that are taken.
        let deadline = std::time::Instant::now() + crate::raw::SOON;
        loop {
            let whole = world.broker.shadow(LAMP, ShadowAction::Get, b"").await.unwrap();
            if whole.as_ref().is_ok_and(|whole| whole["version"] == u64::from(to)) {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "{whole:?}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        drop(device);
        world.close().await;
    };
    run(first_store.clone(), Arc::clone(&journal), 0, 10).await;
    let answers = |journal: &MemoryJournal| -> Vec<(String, Vec<u8>)> {
        let messages = journal.messages().into_iter();
        let accepted = messages.filter(|message| message.topic.ends_with("update/accepted"));
        accepted.map(|message| (message.topic.to_string(), message.payload.to_vec())).collect()
    };
    assert_eq!(answers(&journal).len(), 10);
    // The cursor was lost: the shadow knows what it has.
    journal.commit("broker-shadows", Offset(0)).unwrap();
    run(first_store, Arc::clone(&journal), 10, 12).await;
    let said = answers(&journal);
    assert_eq!(said.len(), 12, "nothing was answered twice");
    // The shadows were lost: they are made again, and the same answers said.
    journal.commit("broker-shadows", Offset(0)).unwrap();
    run(store(), Arc::clone(&journal), 12, 13).await;
    let all = answers(&journal);
    assert_eq!(all[12..24], said[..], "answers after a kill are those before it");
    assert_eq!(all.len(), 25);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_requests_may_be_published() {
    let (journal, store) = (Arc::default(), store());
    let world = world(&journal, &store).await;
    let long = "x".repeat(129);
    for topic in [
        "$aws/things/lamp/shadow/update/accepted",
        "$aws/things/lamp/shadow/update/delta",
        "$aws/things/lamp/shadow/set",
        "$aws/things/lamp/shadow",
        "$aws/things/l mp/shadow/update",
        "$aws/things/lamp/shadow/name//update",
        "$aws/things/lamp/shadow/name/a b/update",
        "$aws/things//shadow/update",
        &format!("$aws/things/{long}/shadow/update"),
    ] {
        let mut raw = Raw::join(world.address, &Hello::v5("lamp")).await;
        raw.send(&publish(0x32, topic, 1, Some(&[]), b"{}")).await;
        let answer = raw.packet().await.unwrap();
        assert_eq!((answer[0], answer[4]), (0x40, 0x90), "{topic}: {answer:02x?}");
    }
    assert_eq!(journal.appended(), 0);
    // A retained request is a request all the same.
    let mut app = listener(&world, "lamp").await;
    app.send(&publish(0x33, "$aws/things/lamp/shadow/update", 1, None, b"{\"state\": {}}")).await;
    assert_eq!(news(&mut app, "lamp").await.0, "update/accepted");
    assert!(world.broker.retained_list().is_empty());
}
