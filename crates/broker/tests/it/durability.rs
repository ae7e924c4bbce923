//! Acknowledgements are receipts from stable storage.

use base::QoS;
use broker::Settings;

use crate::raw::{Hello, Raw, ack, publish, qos1, qos2};
use crate::support::World;

#[tokio::test]
async fn a_puback_waits_for_the_disk_and_the_reading_goes_on() {
    let world = World::new().await;
    let mut raw = Raw::join(world.address, &Hello::v4("dev")).await;
    world.journal.hold();
    raw.send(&qos1("a", 1, "x")).await;
    raw.send(&qos1("a", 2, "y")).await;
    // The ping is answered: the connection is not held by what waits.
    raw.ping().await;
    assert_eq!(world.journal.appended(), 2);
    raw.silence().await;
    assert_eq!(world.broker.stats().acknowledged, 0);
    world.journal.release();
    raw.expect(&ack(0x40, 1)).await;
    raw.expect(&ack(0x40, 2)).await;
    assert_eq!(world.broker.stats().acknowledged, 2);
}

#[tokio::test]
async fn a_pubrec_waits_for_the_disk_and_repeats_are_logged_once() {
    let world = World::new().await;
    let mut raw = Raw::join(world.address, &Hello::v4("dev")).await;
    world.journal.hold();
    raw.send(&qos2("a", 7, "x")).await;
    // Sent again before the first is durable: no early PUBREC, and only one in the end.
    raw.send(&publish(0x3c, "a", 7, None, b"x")).await;
    raw.ping().await;
    raw.silence().await;
    world.journal.release();
    raw.expect(&ack(0x50, 7)).await;
    raw.silence().await;
    // Once more, now that it is durable: acknowledged again, not logged again.
    raw.send(&publish(0x3c, "a", 7, None, b"x")).await;
    raw.expect(&ack(0x50, 7)).await;
    raw.send(&ack(0x62, 7)).await;
    raw.expect(&ack(0x70, 7)).await;
    assert_eq!(world.journal.appended(), 1);
    assert_eq!(world.broker.stats().repeated, 2);
    // After the release the id means a new message.
    raw.send(&qos2("a", 7, "z")).await;
    raw.expect(&ack(0x50, 7)).await;
    assert_eq!(world.journal.appended(), 2);
}

#[tokio::test]
async fn a_pubcomp_does_not_run_ahead_of_the_disk() {
    let world = World::new().await;
    let mut raw = Raw::join(world.address, &Hello::v4("dev")).await;
    world.journal.hold();
    raw.send(&qos2("a", 7, "x")).await;
    raw.send(&ack(0x62, 7)).await;
    raw.ping().await;
    raw.silence().await;
    world.journal.release();
    raw.expect(&ack(0x50, 7)).await;
    raw.expect(&ack(0x70, 7)).await;
}

#[tokio::test]
async fn what_is_logged_is_what_was_sent() {
    let world = World::new().await;
    let mut raw = Raw::join(world.address, &Hello::v4("dev-9")).await;
    raw.send(&publish(0x30, "plant/1", 0, None, b"\x00\xff")).await;
    raw.send(&qos1("plant/2", 1, "")).await;
    raw.expect(&ack(0x40, 1)).await;
    let messages = world.journal.messages();
    assert_eq!(messages[0].topic, "plant/1");
    assert_eq!(&messages[0].payload[..], b"\x00\xff");
    assert_eq!(messages[0].qos, QoS::AtMostOnce);
    assert_eq!(messages[0].client_id, "dev-9");
    assert_eq!(messages[0].principal, "anonymous");
    assert_eq!(messages[0].received_at.millis(), 1_700_000_000_000);
    assert_eq!((messages[1].qos, messages[1].payload.len()), (QoS::AtLeastOnce, 0));
}

#[tokio::test]
async fn a_failed_journal_acknowledges_nothing_and_says_so() {
    let world = World::new().await;
    let mut old = Raw::join(world.address, &Hello::v4("old")).await;
    let mut new = Raw::join(world.address, &Hello::v5("new")).await;
    world.journal.hold();
    old.send(&qos1("a", 1, "x")).await;
    new.send(&publish(0x32, "a", 1, Some(&[]), b"x")).await;
    world.until("both are appended", |w| w.journal.appended() == 2).await;
    world.journal.fail();
    assert_eq!(old.closed().await, None);
    new.disconnected(0x83).await;
    assert_eq!(world.broker.stats().acknowledged, 0);
    assert_eq!(world.broker.stats().closed_journal, 2);
    // Whoever comes now is told at the door.
    let (_, connack) = Raw::hello(world.address, &Hello::v5("later")).await;
    assert_eq!(connack[3], 0x88);
    let (_, connack) = Raw::hello(world.address, &Hello::v4("later")).await;
    assert_eq!(connack[3], 3);
}

#[tokio::test]
async fn a_full_journal_holds_publishers_back_and_loses_nothing() {
    let world = World::new().await;
    let mut raw = Raw::join(world.address, &Hello::v4("dev")).await;
    world.journal.set_full(true);
    for id in 1..=100 {
        raw.send(&qos1("a", id, "x")).await;
    }
    raw.silence().await;
    assert_eq!(world.journal.appended(), 0);
    assert!(world.broker.stats().held_back > 0);
    world.journal.set_full(false);
    for id in 1..=100 {
        raw.expect(&ack(0x40, id)).await;
    }
    assert_eq!(world.journal.appended(), 100);
    assert_eq!(world.broker.stats().refused_journal, 0);
}

#[tokio::test]
async fn a_window_of_unacknowledged_messages_stops_the_reading_of_an_old_client() {
    let world = World::start(Settings { receive_maximum: 10, ..Settings::default() }).await;
    let mut raw = Raw::join(world.address, &Hello::v4("dev")).await;
    world.journal.hold();
    for id in 1..=50 {
        raw.send(&qos1("a", id, "x")).await;
    }
    world.until("the window is full", |w| w.journal.appended() == 10).await;
    raw.silence().await;
    assert_eq!(world.journal.appended(), 10);
    world.journal.release();
    for id in 1..=50 {
        raw.expect(&ack(0x40, id)).await;
    }
    assert_eq!(world.journal.appended(), 50);
}

#[tokio::test]
async fn a_new_client_that_exceeds_the_receive_maximum_is_disconnected() {
    let world = World::start(Settings { receive_maximum: 10, ..Settings::default() }).await;
    let mut raw = Raw::join(world.address, &Hello::v5("dev")).await;
    world.journal.hold();
    for id in 1..=11 {
        raw.send(&publish(0x32, "a", id, Some(&[]), b"x")).await;
    }
    raw.disconnected(0x93).await;
    assert_eq!(world.journal.appended(), 10);
}

#[tokio::test]
async fn shutdown_lets_pending_acknowledgements_out() {
    let mut world = World::new().await;
    let mut raw = Raw::join(world.address, &Hello::v5("dev")).await;
    world.journal.hold();
    raw.send(&publish(0x32, "a", 1, Some(&[]), b"x")).await;
    world.until("it is appended", |w| w.journal.appended() == 1).await;
    let journal = world.journal.clone();
    let (stopped, ()) = tokio::join!(world.stop(), async {
        raw.silence().await;
        journal.release();
        raw.expect(&ack(0x40, 1)).await;
        raw.disconnected(0x8b).await;
    });
    stopped.unwrap();
}

#[tokio::test]
async fn shutdown_cuts_what_the_disk_does_not_finish() {
    let mut world = World::start(Settings { drain_secs_max: 1, ..Settings::default() }).await;
    let mut raw = Raw::join(world.address, &Hello::v4("dev")).await;
    world.journal.hold();
    raw.send(&qos1("a", 1, "x")).await;
    world.until("it is appended", |w| w.journal.appended() == 1).await;
    let cut = world.stop().await.unwrap_err();
    assert!(cut.to_string().contains("1 connections"), "{cut}");
    assert_eq!(raw.closed().await, None);
}
