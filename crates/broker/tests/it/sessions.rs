//! Sessions between connections: kept, taken over, expired, resent.

use std::time::Duration;

use broker::{Disconnect, Settings};

use crate::raw::{Hello, Raw, ack, packet, publish, qos1, qos2, subscribe};
use crate::support::World;

async fn resend(hello: Hello<'_>, properties: Option<&[u8]>) -> (World, Raw) {
    let world = World::new().await;
    let mut raw = Raw::join(world.address, &hello).await;
    world.journal.hold();
    raw.send(&publish(0x32, "a", 5, properties, b"one")).await;
    world.until("it is appended", |w| w.journal.appended() == 1).await;
    drop(raw);
    let (mut raw, connack) = Raw::hello(world.address, &hello).await;
    assert_eq!(connack[2], 1, "session present");
    raw.send(&publish(0x3a, "a", 5, properties, b"one")).await;
    raw.ping().await;
    raw.silence().await;
    (world, raw)
}

#[tokio::test]
async fn a_resend_in_a_resumed_session_is_acknowledged_and_logged_once() {
    for (hello, properties) in
        [(Hello::v4("dev").kept(), None), (Hello::v5("dev").kept(), Some(&[][..]))]
    {
        let (world, mut raw) = resend(hello, properties).await;
        assert_eq!(world.journal.appended(), 1);
        world.journal.release();
        raw.expect(&ack(0x40, 5)).await;
        // Another payload under the same id is another message, DUP or not.
        raw.send(&publish(0x3a, "a", 5, properties, b"two")).await;
        raw.expect(&ack(0x40, 5)).await;
        assert_eq!(world.journal.appended(), 2);
        // And so is the same message sent anew.
        raw.send(&publish(0x32, "a", 5, properties, b"two")).await;
        raw.expect(&ack(0x40, 5)).await;
        assert_eq!(world.journal.appended(), 3);
    }
}

#[tokio::test]
async fn a_qos_2_id_stays_open_over_a_reconnect() {
    let world = World::new().await;
    let hello = Hello::v4("dev").kept();
    let mut raw = Raw::join(world.address, &hello).await;
    raw.send(&qos2("a", 3, "x")).await;
    raw.expect(&ack(0x50, 3)).await;
    drop(raw);
    let mut raw = Raw::join(world.address, &hello).await;
    raw.send(&publish(0x3c, "a", 3, None, b"x")).await;
    raw.expect(&ack(0x50, 3)).await;
    raw.send(&ack(0x62, 3)).await;
    raw.expect(&ack(0x70, 3)).await;
    assert_eq!(world.journal.appended(), 1);
}

#[tokio::test]
async fn session_present_is_honest() {
    let world = World::new().await;
    let kept = Hello::v4("dev").kept();
    let present = async |hello: &Hello<'_>| Raw::hello(world.address, hello).await.1[2];
    assert_eq!(present(&kept).await, 0);
    assert_eq!(present(&kept).await, 1);
    assert_eq!(present(&Hello::v4("dev")).await, 0);
    // The clean one left nothing behind.
    world.until("it is gone", |w| w.broker.stats().sessions == 0).await;
    assert_eq!(present(&kept).await, 0);
}

#[tokio::test]
async fn an_offline_session_gets_what_it_missed_from_the_log() {
    let world = World::new().await;
    let hello = Hello::v4("sub").kept();
    let mut sub = Raw::join(world.address, &hello).await;
    sub.send(&subscribe(4, 1, &[("a/#", 1)])).await;
    sub.expect(&[0x90, 3, 0, 1, 1]).await;
    drop(sub);
    let mut publisher = Raw::join(world.address, &Hello::v4("pub")).await;
    world.until("it is offline", |w| !w.broker.sessions()[1].connected).await;
    for id in 1..=20_u16 {
        publisher.send(&qos1("a/b", id, &id.to_string())).await;
        publisher.expect(&ack(0x40, id)).await;
    }
    // Nobody was there to hear these.
    publisher.send(&publish(0x30, "a/b", 0, None, b"unheard")).await;
    publisher.ping().await;
    let (mut sub, connack) = Raw::hello(world.address, &hello).await;
    assert_eq!(connack[2], 1);
    for id in 1..=20_u16 {
        sub.expect(&qos1("a/b", id, &id.to_string())).await;
        sub.send(&ack(0x40, id)).await;
    }
    publisher.send(&publish(0x30, "a/b", 0, None, b"heard")).await;
    sub.expect(&publish(0x30, "a/b", 0, None, b"heard")).await;
}

#[tokio::test]
async fn what_was_in_flight_is_sent_again_with_dup() {
    let world = World::new().await;
    let hello = Hello::v4("sub").kept();
    let mut sub = Raw::join(world.address, &hello).await;
    sub.send(&subscribe(4, 1, &[("a", 2)])).await;
    sub.packet().await;
    let mut publisher = Raw::join(world.address, &Hello::v4("pub")).await;
    publisher.send(&qos1("a", 1, "one")).await;
    publisher.send(&qos2("a", 2, "two")).await;
    publisher.send(&qos2("a", 3, "three")).await;
    sub.expect(&qos1("a", 1, "one")).await;
    sub.expect(&qos2("a", 2, "two")).await;
    sub.expect(&qos2("a", 3, "three")).await;
    sub.send(&ack(0x50, 3)).await;
    sub.expect(&ack(0x62, 3)).await;
    drop(sub);
    let mut sub = Raw::join(world.address, &hello).await;
    sub.expect(&publish(0x3a, "a", 1, None, b"one")).await;
    sub.expect(&publish(0x3c, "a", 2, None, b"two")).await;
    sub.expect(&ack(0x62, 3)).await;
    sub.send(&ack(0x40, 1)).await;
    sub.send(&ack(0x50, 2)).await;
    sub.expect(&ack(0x62, 2)).await;
    sub.send(&ack(0x70, 2)).await;
    sub.send(&ack(0x70, 3)).await;
    sub.ping().await;
    drop(sub);
    let mut sub = Raw::join(world.address, &hello).await;
    sub.silence().await;
}

/// Found by fuzzing: what was acknowledged before it was sent again was still counted as waiting,
/// and the connection got nothing more.
#[tokio::test]
async fn a_client_may_acknowledge_what_it_got_before_at_once() {
    let world = World::new().await;
    let hello = Hello::v4("sub").kept();
    let mut sub = Raw::join(world.address, &hello).await;
    sub.send(&subscribe(4, 1, &[("a", 2)])).await;
    sub.packet().await;
    let mut publisher = Raw::join(world.address, &Hello::v4("pub")).await;
    for (id, payload) in [(1, "one"), (2, "two"), (3, "three")] {
        publisher.send(&qos1("a", id, payload)).await;
        sub.expect(&qos1("a", id, payload)).await;
    }
    publisher.send(&qos2("a", 4, "four")).await;
    sub.expect(&qos2("a", 4, "four")).await;
    drop(sub);
    // In one piece with its CONNECT, so that it comes before anything is sent again.
    let mut sub = Raw::open(world.address).await;
    let early = [ack(0x40, 1), ack(0x40, 2), ack(0x40, 3), ack(0x50, 4)].concat();
    sub.send(&[hello.bytes(), early].concat()).await;
    sub.expect(&[0x20, 2, 1, 0]).await;
    sub.expect(&ack(0x62, 4)).await;
    publisher.send(&qos1("a", 5, "five")).await;
    sub.expect(&qos1("a", 5, "five")).await;
    sub.send(&ack(0x70, 4)).await;
    sub.send(&ack(0x40, 5)).await;
    sub.ping().await;
    drop(sub);
    let mut sub = Raw::join(world.address, &hello).await;
    sub.silence().await;
}

#[tokio::test]
async fn a_session_whose_log_was_trimmed_goes_on_and_is_counted() {
    let world = World::new().await;
    let hello = Hello::v4("sub").kept();
    let mut sub = Raw::join(world.address, &hello).await;
    sub.send(&subscribe(4, 1, &[("a", 1)])).await;
    sub.packet().await;
    drop(sub);
    let mut publisher = Raw::join(world.address, &Hello::v4("pub")).await;
    world.until("it is offline", |w| !w.broker.sessions()[1].connected).await;
    for id in 1..=10_u16 {
        publisher.send(&qos1("a", id, &id.to_string())).await;
        publisher.expect(&ack(0x40, id)).await;
    }
    world.journal.trim_to(6);
    let mut sub = Raw::join(world.address, &hello).await;
    for id in 1..=4 {
        sub.expect(&qos1("a", id, &(id + 6).to_string())).await;
    }
    assert_eq!(world.broker.stats().undelivered_trimmed, 6);
}

#[tokio::test]
async fn takeover_ends_the_old_connection_with_its_reason() {
    let world = World::new().await;
    let mut old = Raw::join(world.address, &Hello::v5("dev").kept()).await;
    let mut new = Raw::join(world.address, &Hello::v5("dev").kept()).await;
    old.disconnected(0x8e).await;
    new.ping().await;
    let mut newest = Raw::join(world.address, &Hello::v4("dev")).await;
    new.disconnected(0x8e).await;
    newest.ping().await;
    assert_eq!(world.broker.stats().closed_taken_over, 2);
    assert_eq!(world.broker.sessions().len(), 1);
}

#[tokio::test]
async fn many_connections_of_one_client_id_leave_one() {
    let world = World::new().await;
    let mut joins = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let address = world.address;
        joins.spawn(async move { Raw::join(address, &Hello::v4("dev").kept()).await });
    }
    let all = joins.join_all().await;
    world.until("one is left", |w| w.broker.stats().connections == 1).await;
    assert_eq!(world.broker.stats().closed_taken_over, 19);
    drop(all);
}

#[tokio::test]
async fn a_silent_client_is_gone_after_one_and_a_half_keep_alives() {
    let world = World::new().await;
    let started = std::time::Instant::now();
    let mut new = Raw::join(world.address, &Hello { keep_alive: 1, ..Hello::v5("new") }).await;
    let mut old = Raw::join(world.address, &Hello { keep_alive: 1, ..Hello::v4("old") }).await;
    new.disconnected(0x8d).await;
    assert_eq!(old.closed().await, None);
    let took = started.elapsed();
    assert!(took >= Duration::from_millis(1500) && took < Duration::from_secs(4), "{took:?}");
    assert_eq!(world.broker.stats().closed_keep_alive, 2);
}

#[tokio::test]
async fn the_keep_alive_has_a_maximum_and_mqtt_5_is_told() {
    let world = World::start(Settings { keep_alive_secs_max: 1, ..Settings::default() }).await;
    let (mut raw, connack) = Raw::hello(world.address, &Hello::v5("dev")).await;
    assert!(connack.windows(3).any(|found| found == [19, 0, 1]), "{connack:02x?}");
    raw.disconnected(0x8d).await;
}

#[tokio::test]
async fn a_will_is_published_when_its_client_is_lost_and_not_when_it_leaves() {
    let world = World::new().await;
    let with_will = |id| Hello { will: Some(("state/dev", "gone", 1)), ..Hello::v4(id) };
    let mut polite = Raw::join(world.address, &with_will("polite")).await;
    polite.send(&[0xe0, 0]).await;
    assert_eq!(polite.closed().await, None);
    let rude = Raw::join(world.address, &with_will("rude")).await;
    drop(rude);
    world.until("the will is logged", |w| w.journal.appended() == 1).await;
    let will = &world.journal.messages()[0];
    assert_eq!((will.topic.as_str(), &will.payload[..]), ("state/dev", &b"gone"[..]));
    assert_eq!(will.client_id, "rude");
    // MQTT 5: DISCONNECT with 0x04 asks for it.
    let mut asked = Raw::join(
        world.address,
        &Hello { will: Some(("state/dev", "asked", 0)), ..Hello::v5("asked") },
    )
    .await;
    asked.send(&packet(0xe0, &[4, 0])).await;
    world.until("the will is logged", |w| w.journal.appended() == 2).await;
}

#[tokio::test]
async fn a_delayed_will_is_dropped_when_its_client_returns() {
    let world = World::new().await;
    let hello = Hello {
        will: Some(("state/dev", "gone", 1)),
        will_properties: vec![24, 0, 0, 0, 1],
        ..Hello::v5("dev").kept()
    };
    drop(Raw::join(world.address, &hello).await);
    world.until("it is offline", |w| !w.broker.sessions()[0].connected).await;
    let back = Raw::join(world.address, &hello).await;
    tokio::time::sleep(Duration::from_millis(1700)).await;
    assert_eq!(world.journal.appended(), 0);
    drop(back);
    world.until("the will is logged", |w| w.journal.appended() == 1).await;
}

#[tokio::test]
async fn sessions_expire_and_are_counted() {
    let world = World::new().await;
    let hello = Hello { clean: false, properties: vec![17, 0, 0, 0, 1], ..Hello::v5("dev") };
    drop(Raw::join(world.address, &hello).await);
    assert_eq!(world.broker.stats().sessions, 1);
    world.until("it expired", |w| w.broker.stats().sessions_expired == 1).await;
    assert_eq!(world.broker.stats().sessions, 0);
    let (_, connack) = Raw::hello(world.address, &hello).await;
    assert_eq!(connack[2], 0);
}

#[tokio::test]
async fn sessions_are_bounded() {
    let world = World::start(Settings { sessions_max: 2, ..Settings::default() }).await;
    let _one = Raw::join(world.address, &Hello::v4("one")).await;
    drop(Raw::join(world.address, &Hello::v4("two").kept()).await);
    let (_, connack) = Raw::hello(world.address, &Hello::v5("three")).await;
    assert_eq!(connack[3], 0x97);
    let (_, connack) = Raw::hello(world.address, &Hello::v4("three")).await;
    assert_eq!(connack[3], 3);
    Raw::join(world.address, &Hello::v4("two").kept()).await;
}

#[tokio::test]
async fn client_ids_are_assigned_or_refused() {
    let world = World::new().await;
    let (_raw, connack) = Raw::hello(world.address, &Hello::v5("")).await;
    let text = String::from_utf8_lossy(&connack);
    let sessions = world.broker.sessions();
    assert!(text.contains(&sessions[0].client_id), "{text}");
    let (_, connack) = Raw::hello(world.address, &Hello::v4("").kept()).await;
    assert_eq!(connack[3], 2);
    Raw::join(world.address, &Hello::v4("")).await;
    let (_, connack) = Raw::hello(world.address, &Hello::v5(&"x".repeat(129))).await;
    assert_eq!(connack[3], 0x85);
}

#[tokio::test]
async fn a_principal_is_disconnected_at_once_and_its_will_is_silent() {
    let world = World::new().await;
    let hello = Hello { will: Some(("state", "gone", 1)), ..Hello::v5("dev") };
    let mut raw = Raw::join(world.address, &hello).await;
    let started = std::time::Instant::now();
    assert_eq!(world.broker.disconnect_principal("somebody else", Disconnect::Revoked), 0);
    assert_eq!(world.broker.disconnect_principal("anonymous", Disconnect::Revoked), 1);
    raw.disconnected(0x87).await;
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(world.journal.appended(), 0);
}
