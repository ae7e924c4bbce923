//! Retained messages: kept, replaced, deleted, delivered, and there after a restart.

use std::sync::Arc;
use std::time::Duration;

use broker::Settings;
use metastore::Metastore;

use tokio::time::timeout;

use crate::raw::{A_WHILE, Hello, Raw, ack, publish, subscribe};
use crate::support::{MemoryJournal, World, until};

async fn world(settings: Settings) -> (World, Arc<MemoryJournal>, Metastore) {
    let (journal, store) = (Arc::<MemoryJournal>::default(), Metastore::in_memory().unwrap());
    let world = World::retaining(settings, Arc::clone(&journal), &store).await;
    (world, journal, store)
}

/// Publishes at QoS 1 with RETAIN and waits for the receipt.
async fn retain(raw: &mut Raw, topic: &str, payload: &str) {
    raw.send(&publish(0x33, topic, 7, None, payload.as_bytes())).await;
    raw.expect(&[0x40, 2, 0, 7]).await;
}

/// Subscribes at QoS 0 on a new connection and gives what is retained, as topic and payload.
async fn retained(world: &World, id: &str, filter: &str) -> Vec<String> {
    let mut raw = Raw::join(world.address, &Hello::v4(id)).await;
    raw.send(&subscribe(4, 1, &[(filter, 0)])).await;
    raw.expect(&[0x90, 3, 0, 1, 0]).await;
    raw.send(&[0xc0, 0]).await;
    let mut found = Vec::new();
    loop {
        let packet = raw.packet().await.unwrap();
        match packet[0] {
            0x31 => found.push(String::from_utf8_lossy(&packet[4..]).into_owned()),
            0xd0 => {}
            other => panic!("{other:#x}"),
        }
        if packet[0] == 0xd0 {
            // What is lined up behind the PINGRESP.
            while let Ok(Some(packet)) = timeout(Duration::from_millis(100), raw.packet()).await {
                assert_eq!(packet[0], 0x31);
                found.push(String::from_utf8_lossy(&packet[4..]).into_owned());
            }
            return found;
        }
    }
}

#[tokio::test]
async fn the_last_one_of_each_topic_is_delivered_with_the_flag_and_survives_a_restart() {
    let (mut world, journal, store) = world(Settings::default()).await;
    let mut device = Raw::join(world.address, &Hello::v4("dev")).await;
    for (topic, payload) in
        [("a", "0"), ("a/x", "1"), ("a/x", "2"), ("a/y", "3"), ("ab", "4"), ("b", "5")]
    {
        retain(&mut device, topic, payload).await;
    }
    retain(&mut device, "b", "").await;
    for round in 0..3 {
        assert_eq!(retained(&world, "s1", "a/#").await, ["a0", "a/x2", "a/y3"], "round {round}");
        assert_eq!(retained(&world, "s2", "+/x").await, ["a/x2"]);
        assert_eq!(retained(&world, "s3", "ab").await, ["ab4"]);
        assert!(retained(&world, "s4", "b").await.is_empty());
        assert_eq!(&world.broker.retained_get("a/x").unwrap().0.payload[..], b"2");
        assert!(world.broker.retained_get("b").is_none());
        assert_eq!(world.broker.retained_list().len(), 4);
        if round == 1 {
            // The second restart finds rows and a cursor, the first one nothing but the log or both.
            until("saved", || store.list_len() == 4).await;
        }
        world.stop().await.unwrap();
        world = World::retaining(Settings::default(), Arc::clone(&journal), &store).await;
    }
}

#[tokio::test]
async fn what_was_still_to_come_when_a_client_went_comes_when_it_is_back() {
    for restarts in [false, true] {
        comes_when_it_is_back(restarts).await;
    }
}

/// A PUBLISH in QoS 1: its topic, the bytes of its packet id, and whether it may be a repetition.
fn taken_apart(publish: &[u8]) -> (Vec<u8>, [u8; 2], bool) {
    assert_eq!(publish[0] & 0xf7, 0x33, "{publish:02x?}");
    let topic = 4 + usize::from(publish[3]);
    let id = [publish[topic], publish[topic + 1]];
    (publish[4..topic].to_vec(), id, publish[0] & 8 != 0)
}

async fn comes_when_it_is_back(restarts: bool) {
    let (mut world, journal, store) = world(Settings::default()).await;
    let mut device = Raw::join(world.address, &Hello::v4("dev")).await;
    for n in 0..20 {
        retain(&mut device, &format!("a/{n}"), "x").await;
    }
    // It takes three at once, acknowledges none, and goes.
    let mut hello = Hello::v5("late").kept();
    hello.properties.extend([33, 0, 3]);
    let mut late = Raw::join(world.address, &hello).await;
    late.send(&subscribe(5, 1, &[("a/+", 1)])).await;
    // The SUBACK waits for the session's row, retained messages do not.
    let mut sent = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let packet = late.packet().await.unwrap();
        if packet[0] != 0x90 {
            let (topic, _, again) = taken_apart(&packet);
            assert!(sent.insert(topic) && !again);
        }
    }
    assert_eq!(sent.len(), 3);
    late.silence().await;
    drop(late);
    world.until("it is away", |w| w.broker.sessions().iter().any(|s| !s.connected)).await;
    if restarts {
        world.close().await;
        world = World::retaining(Settings::default(), journal, &store).await;
    }
    let (mut late, connack) = Raw::hello(world.address, &hello).await;
    assert_eq!(connack[2..4], [1, 0], "{connack:02x?}");
    let mut topics = std::collections::BTreeSet::new();
    while topics.len() < 20 {
        let publish = late.packet().await.expect("retained messages are missing");
        let (topic, id, again) = taken_apart(&publish);
        // DUP is for what was sent before (MQTT 5, 3.3.1.1).
        assert_eq!(again, sent.contains(&topic), "restarts {restarts}: {publish:02x?}");
        assert!(topics.insert(topic), "twice: {publish:02x?}");
        late.send(&[0x40, 2, id[0], id[1]]).await;
    }
    late.silence().await;
}

/// More than are lined up at once, and one that is replaced before its turn.
#[tokio::test]
async fn many_come_once_each_and_what_is_replaced_meanwhile_comes_as_it_is_published() {
    let (world, ..) = world(Settings::default()).await;
    let mut device = Raw::join(world.address, &Hello::v4("dev")).await;
    for n in 0..600 {
        retain(&mut device, &format!("a/{n:03}"), "old").await;
    }
    let mut hello = Hello::v5("sub");
    hello.properties.extend([33, 0, 1]);
    let mut sub = Raw::join(world.address, &hello).await;
    sub.send(&subscribe(5, 1, &[("a/+", 1)])).await;
    let mut found = std::collections::BTreeMap::new();
    while found.len() < 600 {
        let packet = sub.packet().await.expect("closed");
        if packet[0] == 0x90 {
            continue;
        }
        let topic = 4 + usize::from(packet[3]);
        let name = String::from_utf8_lossy(&packet[4..topic]).into_owned();
        let older = found.insert(name, (packet[0] & 1, packet[packet.len() - 3..].to_vec()));
        assert_eq!(older, None, "twice");
        if found.len() == 10 {
            retain(&mut device, "a/590", "new").await;
        }
        sub.send(&[0x40, 2, packet[topic], packet[topic + 1]]).await;
    }
    sub.silence().await;
    let new = found.remove("a/590").unwrap();
    assert_eq!(new, (0, b"new".to_vec()));
    assert!(found.values().all(|found| *found == (1, b"old".to_vec())));
}

/// Who asks for all of it again and again and reads nothing has it lined up once.
#[tokio::test]
async fn what_is_asked_for_many_times_over_is_not_kept_as_often() {
    const TIMES: u16 = 40;
    let (world, ..) = world(Settings::default()).await;
    let mut device = Raw::join(world.address, &Hello::v4("dev")).await;
    for n in 0..300 {
        retain(&mut device, &format!("a/{n:03}"), &"x".repeat(4000)).await;
    }
    let mut sub = Raw::join(world.address, &Hello::v4("sub")).await;
    for id in 1..=TIMES {
        sub.send(&subscribe(4, id, &[("a/#", 0)])).await;
    }
    let (mut retained, mut answers) = (0, 0);
    while let Ok(Some(packet)) = timeout(A_WHILE * 4, sub.packet()).await {
        match packet[0] {
            0x90 => answers += 1,
            0x31 => retained += 1,
            other => panic!("{other:#x}"),
        }
    }
    assert_eq!(answers, TIMES);
    // What the sockets hold was sent before; of the rest, the last one's.
    assert!((300..300 * 20).contains(&retained), "{retained} messages for {TIMES} requests");
}

/// How many rows there are.
trait Rows {
    fn list_len(&self) -> usize;
}

#[derive(serde::Serialize, serde::Deserialize)]
struct AnyRow {}

impl metastore::Row for AnyRow {
    const TABLE: &'static str = "broker-retained";
}

impl Rows for Metastore {
    fn list_len(&self) -> usize {
        self.list::<AnyRow>().unwrap().len()
    }
}

#[tokio::test]
async fn live_subscribers_get_it_unmarked_unless_they_ask() {
    let (world, _, _) = world(Settings::default()).await;
    let mut plain = Raw::join(world.address, &Hello::v5("plain")).await;
    plain.send(&subscribe(5, 1, &[("a", 0)])).await;
    plain.expect(&[0x90, 4, 0, 1, 0, 0]).await;
    let mut asks = Raw::join(world.address, &Hello::v5("asks")).await;
    asks.send(&subscribe(5, 1, &[("a", 0b1000)])).await;
    asks.expect(&[0x90, 4, 0, 1, 0, 0]).await;
    let mut device = Raw::join(world.address, &Hello::v4("dev")).await;
    retain(&mut device, "a", "x").await;
    plain.expect(&publish(0x30, "a", 0, Some(&[]), b"x")).await;
    asks.expect(&publish(0x31, "a", 0, Some(&[]), b"x")).await;
    // Renewed: sent again (0), not again (1), never (2).
    for (options, comes) in [(0, true), (0b1_0000, false), (0b10_0000, false)] {
        plain.send(&subscribe(5, 2, &[("a", options)])).await;
        plain.expect(&[0x90, 4, 0, 2, 0, 0]).await;
        if comes {
            plain.expect(&publish(0x31, "a", 0, Some(&[]), b"x")).await;
        } else {
            plain.silence().await;
        }
    }
}

#[tokio::test]
async fn quality_of_service_expiry_and_bounds_hold() {
    let settings = Settings { retained_count_max: 2, ..Settings::default() };
    let (world, journal, _) = world(settings).await;
    let mut device = Raw::join(world.address, &Hello::v5("dev")).await;
    device.send(&publish(0x33, "a", 1, Some(&[2, 0, 0, 0, 10]), b"x")).await;
    device.expect(&[0x40, 2, 0, 1]).await;
    device.send(&publish(0x33, "b", 2, Some(&[]), b"y")).await;
    device.expect(&[0x40, 2, 0, 2]).await;
    device.send(&publish(0x33, "c", 3, Some(&[]), b"z")).await;
    device.expect(&[0x40, 3, 0, 3, 0x97]).await;
    assert_eq!((journal.appended(), world.broker.stats().refused_retain), (2, 1));
    world.clock.advance(Duration::from_secs(4));
    let mut sub = Raw::join(world.address, &Hello::v5("sub")).await;
    sub.send(&subscribe(5, 1, &[("a", 1)])).await;
    sub.expect(&[0x90, 4, 0, 1, 0, 1]).await;
    sub.expect(&publish(0x33, "a", 1, Some(&[2, 0, 0, 0, 6]), b"x")).await;
    sub.send(&ack(0x40, 1)).await;
    world.clock.advance(Duration::from_secs(6));
    assert!(world.broker.retained_get("a").is_none());
    until("expired", || world.broker.retained_list().len() == 1).await;
}

#[tokio::test]
async fn wildcards_may_be_left_out_as_on_aws() {
    let settings = Settings { retained_wildcards: false, ..Settings::default() };
    let (world, _, _) = world(settings).await;
    let mut device = Raw::join(world.address, &Hello::v4("dev")).await;
    retain(&mut device, "a/x", "1").await;
    assert!(retained(&world, "s1", "a/#").await.is_empty());
    assert_eq!(retained(&world, "s2", "a/x").await, ["a/x1"]);
}
