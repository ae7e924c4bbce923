//! Sessions over a restart of the broker: the same log, the same rows, nothing in memory.

use std::sync::Arc;
use std::time::Duration;

use base::{Clock, ManualClock, Timestamp};
use broker::Settings;
use metastore::Metastore;
use tokio::time::timeout;

use crate::raw::{A_WHILE, Hello, Raw, ack, packet, publish, qos1, qos2, subscribe, text};
use crate::support::{MemoryJournal, World, clock};

struct Plant {
    journal: Arc<MemoryJournal>,
    store: Metastore,
    clock: Arc<ManualClock>,
}

impl Plant {
    fn new() -> Plant {
        let store = Metastore::in_memory().unwrap();
        Plant { journal: Arc::default(), store, clock: clock() }
    }

    async fn open(&self) -> World {
        self.open_with(Settings::default()).await
    }

    async fn open_with(&self, settings: Settings) -> World {
        World::reopen(settings, Arc::clone(&self.journal), &self.store, Arc::clone(&self.clock))
            .await
    }
}

async fn returns(world: &World, hello: &Hello<'_>) -> Raw {
    let (raw, connack) = Raw::hello(world.address, hello).await;
    assert_eq!((connack[2], connack[3]), (1, 0), "no session: {connack:02x?}");
    raw
}

async fn is_new(world: &World, hello: &Hello<'_>) -> Raw {
    let (raw, connack) = Raw::hello(world.address, hello).await;
    assert_eq!((connack[2], connack[3]), (0, 0), "a session: {connack:02x?}");
    raw
}

async fn feed(world: &World, topic: &str, payloads: &[&str]) {
    let mut publisher = Raw::join(world.address, &Hello::v4("pub")).await;
    for payload in payloads {
        publisher.send(&qos1(topic, 1, payload)).await;
        publisher.expect(&ack(0x40, 1)).await;
    }
}

#[tokio::test]
async fn an_absent_session_gets_what_came_before_and_after_the_restart() {
    let plant = Plant::new();
    let hello = Hello::v5("dev").kept();
    let world = plant.open().await;
    let mut dev = is_new(&world, &hello).await;
    // With an identifier; without the client's own messages.
    let body = [&[0, 1, 2, 11, 9][..], &text("air/+"), &[0b101]].concat();
    dev.send(&packet(0x82, &body)).await;
    dev.packet().await;
    dev.send(&subscribe(5, 2, &[("gone", 2), ("water", 0)])).await;
    dev.packet().await;
    dev.send(&packet(0xa2, &[&[0, 3, 0][..], &text("gone")].concat())).await;
    dev.packet().await;
    drop(dev);
    feed(&world, "air/x", &["one"]).await;
    world.close().await;

    let world = plant.open().await;
    let seen = &world.broker.sessions()[0];
    assert_eq!((seen.client_id.as_str(), seen.connected), ("dev", false));
    assert_eq!(seen.subscriptions, ["air/+", "water"]);
    feed(&world, "air/x", &["two"]).await;
    feed(&world, "gone", &["x"]).await;
    // QoS 0 is for those who are there.
    feed(&world, "water", &["x"]).await;
    let mut dev = returns(&world, &hello).await;
    dev.expect(&publish(0x32, "air/x", 1, Some(&[11, 9]), b"one")).await;
    dev.expect(&publish(0x32, "air/x", 2, Some(&[11, 9]), b"two")).await;
    dev.send(&publish(0x32, "air/x", 1, Some(&[]), b"own")).await;
    dev.expect(&ack(0x40, 1)).await;
    feed(&world, "water", &["three"]).await;
    dev.expect(&publish(0x30, "water", 0, Some(&[]), b"three")).await;
    dev.silence().await;
}

#[tokio::test]
async fn what_was_in_flight_goes_on_under_its_packet_ids() {
    let plant = Plant::new();
    let hello = Hello::v4("dev").kept();
    let world = plant.open().await;
    let mut dev = is_new(&world, &hello).await;
    dev.send(&subscribe(4, 1, &[("a", 2)])).await;
    dev.packet().await;
    let mut publisher = Raw::join(world.address, &Hello::v4("pub")).await;
    for (id, payload) in [(1, "released"), (2, "sent"), (3, "done")] {
        publisher.send(&qos2("a", id, payload)).await;
        publisher.expect(&ack(0x50, id)).await;
        dev.expect(&qos2("a", id, payload)).await;
    }
    publisher.send(&qos1("a", 4, "one")).await;
    dev.expect(&qos1("a", 4, "one")).await;
    for (packet, answer) in [
        (ack(0x50, 1), Some(ack(0x62, 1))),
        (ack(0x50, 3), Some(ack(0x62, 3))),
        (ack(0x70, 3), None),
    ] {
        dev.send(&packet).await;
        if let Some(answer) = answer {
            dev.expect(&answer).await;
        }
    }
    dev.ping().await;
    world.close().await;

    let world = plant.open().await;
    let mut dev = returns(&world, &hello).await;
    dev.expect(&ack(0x62, 1)).await;
    dev.expect(&publish(0x3c, "a", 2, None, b"sent")).await;
    dev.expect(&publish(0x3a, "a", 4, None, b"one")).await;
    for packet in [ack(0x70, 1), ack(0x50, 2), ack(0x40, 4)] {
        dev.send(&packet).await;
    }
    dev.expect(&ack(0x62, 2)).await;
    dev.send(&ack(0x70, 2)).await;
    feed(&world, "a", &["new"]).await;
    // Ids go on where they were.
    dev.expect(&qos1("a", 5, "new")).await;
}

#[tokio::test]
async fn what_a_client_sends_again_is_not_logged_again() {
    let plant = Plant::new();
    let hello = Hello::v4("dev").kept();
    let world = plant.open().await;
    let mut dev = is_new(&world, &hello).await;
    dev.send(&qos2("a", 1, "open")).await;
    dev.expect(&ack(0x50, 1)).await;
    dev.send(&qos2("a", 2, "released")).await;
    dev.expect(&ack(0x50, 2)).await;
    dev.send(&ack(0x62, 2)).await;
    dev.expect(&ack(0x70, 2)).await;
    dev.send(&qos1("a", 3, "one")).await;
    dev.expect(&ack(0x40, 3)).await;
    drop(dev);
    // Twice: what was read from the log is in the row as well.
    world.close().await;
    plant.open().await.close().await;
    let world = plant.open().await;
    let mut dev = returns(&world, &hello).await;
    for _ in 0..2 {
        dev.send(&publish(0x3c, "a", 1, None, b"open")).await;
        dev.expect(&ack(0x50, 1)).await;
    }
    dev.send(&ack(0x62, 1)).await;
    dev.expect(&ack(0x70, 1)).await;
    dev.send(&publish(0x3a, "a", 3, None, b"one")).await;
    dev.expect(&ack(0x40, 3)).await;
    assert_eq!(plant.journal.appended(), 3);
    // A released id is free again.
    for id in [1, 2] {
        dev.send(&qos2("a", id, "new")).await;
        dev.expect(&ack(0x50, id)).await;
    }
    assert_eq!(plant.journal.appended(), 5);
}

#[tokio::test]
async fn sessions_that_are_over_stay_over() {
    let plant = Plant::new();
    let kept = |id| Hello::v5(id).kept();
    let world = plant.open().await;
    for id in ["cleaned", "unkept", "expired", "expires", "stays"] {
        is_new(&world, &kept(id)).await;
    }
    let clean = Hello { clean: true, ..Hello::v5("cleaned") };
    is_new(&world, &clean).await;
    // Session expiry 0 on DISCONNECT.
    let mut unkept = returns(&world, &kept("unkept")).await;
    unkept.send(&packet(0xe0, &[0, 5, 17, 0, 0, 0, 0])).await;
    assert_eq!(unkept.closed().await, None);
    let briefly = |id| Hello { clean: false, properties: vec![17, 0, 0, 0, 30], ..Hello::v5(id) };
    returns(&world, &briefly("expired")).await;
    world.until("all are gone", |w| w.broker.sessions().iter().all(|s| !s.connected)).await;
    world.close().await;
    plant.clock.advance(Duration::from_secs(60));
    let world = plant.open().await;
    world.until("it expires", |w| w.broker.sessions().len() == 2).await;
    for (id, present) in
        [("cleaned", 0), ("unkept", 0), ("expired", 0), ("expires", 1), ("stays", 1)]
    {
        assert_eq!(Raw::hello(world.address, &kept(id)).await.1[2], present, "{id}");
    }
}

#[tokio::test]
async fn a_will_that_waits_is_published_after_the_restart_unless_its_client_returns() {
    let plant = Plant::new();
    let world = plant.open().await;
    let mut watcher = Raw::join(world.address, &Hello::v4("watcher").kept()).await;
    watcher.send(&subscribe(4, 1, &[("will/#", 1)])).await;
    watcher.packet().await;
    let hello = |id, topic| Hello {
        will: Some((topic, "gone", 1)),
        will_properties: vec![24, 0, 0, 0, 2],
        ..Hello::v5(id).kept()
    };
    drop(is_new(&world, &hello("back", "will/back")).await);
    drop(is_new(&world, &hello("away", "will/away")).await);
    world
        .until("both are gone", |w| w.broker.sessions().iter().filter(|s| s.connected).count() == 1)
        .await;
    world.close().await;
    let world = plant.open().await;
    let mut watcher = returns(&world, &Hello::v4("watcher").kept()).await;
    let mut back = returns(&world, &hello("back", "will/back")).await;
    watcher.expect(&qos1("will/away", 1, "gone")).await;
    watcher.silence().await;
    // It was published: not again.
    watcher.send(&ack(0x40, 1)).await;
    watcher.ping().await;
    // A goodbye takes the will with it.
    back.send(&[0xe0, 0]).await;
    assert_eq!(back.closed().await, None);
    world.until("its row is written", |w| w.broker.stats().session_rows > 0).await;
    world.close().await;
    let world = plant.open().await;
    let mut watcher = returns(&world, &Hello::v4("watcher").kept()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    watcher.silence().await;
}

#[tokio::test]
async fn a8_a_clock_set_back_over_a_restart_does_not_hold_a_will_back() {
    let plant = Plant::new();
    let world = plant.open().await;
    let mut watcher = Raw::join(world.address, &Hello::v4("watcher").kept()).await;
    watcher.send(&subscribe(4, 1, &[("will/#", 1)])).await;
    watcher.packet().await;
    let away = Hello {
        will: Some(("will/away", "gone", 1)),
        will_properties: vec![24, 0, 0, 0, 2],
        ..Hello::v5("away").kept()
    };
    drop(is_new(&world, &away).await);
    world
        .until("it is gone", |w| w.broker.sessions().iter().filter(|s| s.connected).count() == 1)
        .await;
    world.close().await;
    let an_hour_before = Timestamp(plant.clock.now().0 - 3_600_000);
    let plant = Plant { clock: Arc::new(ManualClock::at(an_hour_before)), ..plant };
    let world = plant.open().await;
    let mut watcher = returns(&world, &Hello::v4("watcher").kept()).await;
    watcher.expect(&qos1("will/away", 1, "gone")).await;
}

#[tokio::test]
async fn a_shared_subscription_goes_on_with_what_is_nobodys() {
    let plant = Plant::new();
    let world = plant.open().await;
    let filter = [("$share/g/a", 1)];
    let kept = Hello::v4("kept").kept();
    let mut member = is_new(&world, &kept).await;
    member.send(&subscribe(4, 1, &filter)).await;
    member.packet().await;
    feed(&world, "a", &["held"]).await;
    member.expect(&qos1("a", 1, "held")).await;
    // Gone for good with a message in its hands, and others in the group's.
    let mut guest = Raw::join(world.address, &Hello::v4("guest")).await;
    guest.send(&subscribe(4, 1, &filter)).await;
    guest.packet().await;
    drop(member);
    world
        .until("it is gone", |w| {
            !w.broker.sessions().iter().any(|s| s.connected && s.client_id == "kept")
        })
        .await;
    feed(&world, "a", &["one", "two", "three"]).await;
    guest.expect(&qos1("a", 1, "one")).await;
    guest.expect(&qos1("a", 2, "two")).await;
    guest.expect(&qos1("a", 3, "three")).await;
    guest.send(&ack(0x40, 2)).await;
    guest.ping().await;
    world.close().await;

    let world = plant.open().await;
    feed(&world, "a", &["four"]).await;
    let mut other = Raw::join(world.address, &Hello::v4("other")).await;
    other.send(&subscribe(4, 1, &filter)).await;
    other.packet().await;
    let mut found = Vec::new();
    while let Ok(Some(packet)) = timeout(A_WHILE, other.packet()).await {
        found.push(String::from_utf8_lossy(&packet[7..]).into_owned());
    }
    assert_eq!(found, ["one", "three", "four"]);
    let mut member = returns(&world, &kept).await;
    member.expect(&publish(0x3a, "a", 1, None, b"held")).await;
    member.silence().await;
}

/// A row may be on disk before the record it names: what the log lost was never answered, and
/// its offsets are others' now.
#[tokio::test]
async fn rows_do_not_outrun_the_log() {
    let plant = Plant::new();
    let hello = Hello::v4("dev").kept();
    let world = plant.open().await;
    let mut dev = is_new(&world, &hello).await;
    feed(&world, "a", &["durable"]).await;
    plant.journal.hold();
    dev.send(&qos2("a", 1, "lost")).await;
    dev.send(&qos1("a", 2, "lost too")).await;
    dev.ping().await;
    drop(dev);
    world.until("its row is written", |w| !w.broker.sessions()[0].connected).await;
    world.close().await;
    plant.journal.lose_from(1);
    plant.journal.release();
    let world = plant.open().await;
    feed(&world, "a", &["of another", "of another"]).await;
    let mut dev = returns(&world, &hello).await;
    dev.send(&publish(0x3c, "a", 1, None, b"lost")).await;
    dev.expect(&ack(0x50, 1)).await;
    dev.send(&publish(0x3a, "a", 2, None, b"lost too")).await;
    dev.expect(&ack(0x40, 2)).await;
    assert_eq!(plant.journal.appended(), 5);
}

#[tokio::test]
async fn the_log_is_kept_for_absent_sessions_within_its_bound() {
    let plant = Plant::new();
    let world = plant.open().await;
    let mut dev = is_new(&world, &Hello::v4("dev").kept()).await;
    dev.send(&subscribe(4, 1, &[("a", 1)])).await;
    dev.packet().await;
    drop(dev);
    world.until("it is gone", |w| !w.broker.sessions()[0].connected).await;
    feed(&world, "a", &["one", "two"]).await;
    let cursor = |name: &str| journal::Journal::committed(&*plant.journal, name).unwrap();
    let complete = |name: &'static str, at| {
        let journal = Arc::clone(&plant.journal);
        move |_: &World| {
            journal::Journal::committed(&*journal, name).unwrap() == Some(base::Offset(at))
        }
    };
    world.until("resends are not expected", complete("broker-sessions", 2)).await;
    assert_eq!(cursor("broker-queues"), Some(base::Offset(0)));
    world.close().await;
    let world = plant.open_with(Settings { session_log_bytes_max: 0, ..Settings::default() }).await;
    world.until("the log lets go", complete("broker-queues", 2)).await;
}
