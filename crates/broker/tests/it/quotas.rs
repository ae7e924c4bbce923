//! AWS's quotas, where an operator sets them: what is too fast waits, what is too large is refused.

use std::time::{Duration, Instant};

use broker::Settings;

use crate::raw::{Hello, Raw, ack, publish, qos1, subscribe};
use crate::support::{World, quiet};

#[tokio::test]
async fn a_client_that_publishes_too_fast_is_read_more_slowly_and_loses_nothing() {
    let world = World::start(Settings { publish_per_second_max: 50, ..quiet() }).await;
    let mut fast = Raw::join(world.address, &Hello::v4("fast")).await;
    let started = Instant::now();
    let all: Vec<u8> = (1..=150).flat_map(|id| qos1("a/b", id, "x")).collect();
    fast.send(&all).await;
    for id in 1..=150 {
        fast.expect(&ack(0x40, id)).await;
    }
    // A second's worth goes at once.
    assert!(started.elapsed() > Duration::from_millis(1900), "{:?}", started.elapsed());
    assert_eq!(world.journal.appended(), 150);
    // Who keeps to it is not slowed by who does not.
    let mut other = Raw::join(world.address, &Hello::v4("other")).await;
    fast.send(&all).await;
    let started = Instant::now();
    other.send(&qos1("a/b", 1, "x")).await;
    other.expect(&ack(0x40, 1)).await;
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
}

#[tokio::test]
async fn bytes_are_counted_as_well() {
    let settings = Settings { publish_bytes_per_second_max: 10_000, ..quiet() };
    let world = World::start(settings).await;
    let mut client = Raw::join(world.address, &Hello::v4("large")).await;
    let started = Instant::now();
    let payload = "x".repeat(15_000);
    for id in 1..=2 {
        client.send(&qos1("a/b", id, &payload)).await;
        client.expect(&ack(0x40, id)).await;
    }
    assert!(started.elapsed() > Duration::from_millis(450), "{:?}", started.elapsed());
}

#[tokio::test]
async fn topics_longer_or_deeper_than_the_quota_end_the_connection() {
    let settings = Settings { topic_bytes_max: 20, topic_levels_max: 3, ..quiet() };
    let world = World::start(settings).await;
    for topic in ["a/b/c/d", "a-topic-of-21-bytes-xx"] {
        let mut client = Raw::join(world.address, &Hello::v5("deep")).await;
        client.send(&publish(0x32, "a/b/c", 1, Some(&[]), b"x")).await;
        // Nobody hears it: success, or that there were no subscribers.
        assert_eq!(client.packet().await.unwrap()[0], 0x40);
        client.send(&publish(0x32, topic, 2, Some(&[]), b"x")).await;
        client.disconnected(0x90).await;
        world.until("its id is free", |w| w.broker.stats().connections == 0).await;
    }
    let mut client = Raw::join(world.address, &Hello::v4("filters")).await;
    client.send(&subscribe(4, 7, &[("a/+/c", 1), ("a/+/c/#", 1)])).await;
    client.expect(&[0x90, 4, 0, 7, 1, 0x80]).await;
}

#[tokio::test]
async fn a_subscribe_of_more_than_the_quota_is_refused_whole() {
    let settings = Settings { subscriptions_per_request_max: 2, ..quiet() };
    let world = World::start(settings).await;
    let mut client = Raw::join(world.address, &Hello::v5("many")).await;
    client.send(&subscribe(5, 7, &[("a", 0), ("b", 0), ("c", 0)])).await;
    client.disconnected(0x97).await;
}

#[tokio::test]
async fn a_client_id_longer_than_the_quota_is_refused() {
    let world = World::start(Settings { client_id_bytes_max: 4, ..quiet() }).await;
    let (_open, connack) = Raw::hello(world.address, &Hello::v4("four")).await;
    assert_eq!(connack, [0x20, 2, 0, 0]);
    let (_refused, connack) = Raw::hello(world.address, &Hello::v4("fives")).await;
    assert_eq!(connack, [0x20, 2, 0, 2]);
}

#[tokio::test]
async fn settings_that_contradict_themselves_are_refused_by_name() {
    let refused = |settings: Settings| settings.check().unwrap_err().to_string();
    let least = Settings { keep_alive_secs_min: 30, keep_alive_secs_max: 20, ..quiet() };
    assert!(refused(least).contains("keep_alive_secs_min"));
    let long = Settings { topic_bytes_max: 70_000, ..quiet() };
    assert!(refused(long).contains("topic_bytes_max"));
}
