//! Messages out: matching, quality of service, slow readers, taps.

use std::time::Duration;

use base::{QoS, TopicFilter};
use broker::Settings;

use crate::raw::{Hello, Raw, SOON, ack, packet, publish, qos1, subscribe, text};
use crate::support::World;

#[tokio::test]
async fn wildcards_select_and_overlaps_deliver_once_at_the_highest_quality() {
    let world = World::new().await;
    let mut sub = Raw::join(world.address, &Hello::v4("sub")).await;
    sub.send(&subscribe(4, 1, &[("a/+", 0), ("a/#", 1), ("b", 0)])).await;
    sub.expect(&[0x90, 5, 0, 1, 0, 1, 0]).await;
    let mut publisher = Raw::join(world.address, &Hello::v4("pub")).await;
    for topic in ["a/x", "c", "a", "b"] {
        publisher.send(&qos1(topic, 1, topic)).await;
        publisher.expect(&ack(0x40, 1)).await;
    }
    sub.expect(&qos1("a/x", 1, "a/x")).await;
    sub.expect(&qos1("a", 2, "a")).await;
    sub.expect(&publish(0x30, "b", 0, None, b"b")).await;
    sub.silence().await;
    sub.send(&packet(0xa2, &[&[0, 9][..], &text("a/#"), &text("never")].concat())).await;
    sub.expect(&ack(0xb0, 9)).await;
    publisher.send(&qos1("a/x", 1, "again")).await;
    sub.expect(&publish(0x30, "a/x", 0, None, b"again")).await;
}

#[tokio::test]
async fn a_message_is_delivered_only_once_it_is_durable() {
    let world = World::new().await;
    let mut sub = Raw::join(world.address, &Hello::v4("sub")).await;
    sub.send(&subscribe(4, 1, &[("a", 0)])).await;
    sub.packet().await;
    let mut publisher = Raw::join(world.address, &Hello::v4("pub")).await;
    world.journal.hold();
    publisher.send(&publish(0x30, "a", 0, None, b"x")).await;
    publisher.ping().await;
    sub.silence().await;
    world.journal.release();
    sub.expect(&publish(0x30, "a", 0, None, b"x")).await;
}

#[tokio::test]
async fn what_was_published_before_the_subscription_stays_away() {
    let world = World::new().await;
    world.journal.hold();
    let mut raw = Raw::join(world.address, &Hello::v4("dev")).await;
    raw.send(&publish(0x30, "a", 0, None, b"before")).await;
    raw.send(&subscribe(4, 1, &[("a", 0)])).await;
    raw.packet().await;
    raw.send(&publish(0x30, "a", 0, None, b"after")).await;
    raw.ping().await;
    world.journal.release();
    raw.expect(&publish(0x30, "a", 0, None, b"after")).await;
    raw.silence().await;
}

#[tokio::test]
async fn mqtt_5_properties_travel_and_expire() {
    let world = World::new().await;
    let mut sub = Raw::join(world.address, &Hello::v5("sub").kept()).await;
    sub.send(&subscribe(5, 1, &[("a", 1)])).await;
    sub.packet().await;
    let mut old = Raw::join(world.address, &Hello::v4("old")).await;
    old.send(&subscribe(4, 1, &[("a", 0)])).await;
    old.packet().await;
    let mut publisher = Raw::join(world.address, &Hello::v5("pub")).await;
    let user = [&[38][..], &text("k"), &text("v")].concat();
    let aliased = [&[35, 0, 1][..], &user].concat();
    publisher.send(&publish(0x32, "a", 1, Some(&aliased), b"x")).await;
    publisher.send(&publish(0x32, "", 2, Some(&[35, 0, 1, 2, 0, 0, 0, 9]), b"y")).await;
    sub.expect(&publish(0x32, "a", 1, Some(&user), b"x")).await;
    sub.expect(&publish(0x32, "a", 2, Some(&[2, 0, 0, 0, 9]), b"y")).await;
    // MQTT 3.1.1 has no properties.
    old.expect(&publish(0x30, "a", 0, None, b"x")).await;
    old.expect(&publish(0x30, "a", 0, None, b"y")).await;
    // Not acknowledged, so sent again, with what is left of its time; then not at all.
    drop(sub);
    world.clock.advance(Duration::from_secs(5));
    let mut sub = Raw::join(world.address, &Hello::v5("sub").kept()).await;
    sub.expect(&publish(0x3a, "a", 1, Some(&user), b"x")).await;
    sub.expect(&publish(0x3a, "a", 2, Some(&[2, 0, 0, 0, 4]), b"y")).await;
    sub.send(&ack(0x40, 1)).await;
    drop(sub);
    world.clock.advance(Duration::from_secs(5));
    let mut sub = Raw::join(world.address, &Hello::v5("sub").kept()).await;
    sub.silence().await;
    assert_eq!(world.broker.stats().undelivered_expired, 1);
}

#[tokio::test]
async fn no_local_keeps_own_messages_away() {
    let world = World::new().await;
    let mut raw = Raw::join(world.address, &Hello::v5("dev")).await;
    raw.send(&subscribe(5, 1, &[("a", 4)])).await;
    raw.packet().await;
    raw.send(&publish(0x30, "a", 0, Some(&[]), b"own")).await;
    let mut other = Raw::join(world.address, &Hello::v5("other")).await;
    other.send(&publish(0x30, "a", 0, Some(&[]), b"other")).await;
    raw.expect(&publish(0x30, "a", 0, Some(&[]), b"other")).await;
}

#[tokio::test]
async fn the_clients_receive_maximum_and_packet_size_are_honoured() {
    let world = World::new().await;
    let limits = vec![33, 0, 2, 39, 0, 0, 0, 40];
    let mut sub = Raw::join(world.address, &Hello { properties: limits, ..Hello::v5("sub") }).await;
    sub.send(&subscribe(5, 1, &[("a", 1)])).await;
    sub.packet().await;
    let mut publisher = Raw::join(world.address, &Hello::v5("pub")).await;
    for id in 1..=4 {
        publisher.send(&publish(0x32, "a", id, Some(&[]), &[b'x'; 10])).await;
    }
    publisher.send(&publish(0x32, "a", 5, Some(&[]), &[b'x'; 100])).await;
    publisher.send(&publish(0x32, "a", 6, Some(&[]), b"last")).await;
    for id in 1..=2 {
        sub.expect(&publish(0x32, "a", id, Some(&[]), &[b'x'; 10])).await;
    }
    sub.silence().await;
    sub.send(&ack(0x40, 1)).await;
    sub.expect(&publish(0x32, "a", 3, Some(&[]), &[b'x'; 10])).await;
    sub.send(&ack(0x40, 3)).await;
    sub.expect(&publish(0x32, "a", 4, Some(&[]), &[b'x'; 10])).await;
    sub.send(&ack(0x40, 2)).await;
    let last = sub.packet().await.unwrap();
    assert!(last.ends_with(b"last"), "{last:02x?}");
    assert_eq!(world.broker.stats().undelivered_size, 1);
}

#[tokio::test]
async fn filters_are_refused_one_by_one_with_a_reason() {
    let world =
        World::start(Settings { subscriptions_per_session_max: 1, ..Settings::default() }).await;
    let deep = "a/".repeat(200);
    let filters =
        [("a", 1), ("a", 2), ("b", 0), ("a/#/b", 0), ("$share/g/a", 0), ("$aws/x", 0), (&deep, 0)];
    let mut new = Raw::join(world.address, &Hello::v5("new")).await;
    new.send(&subscribe(5, 1, &filters)).await;
    let suback = new.packet().await.unwrap();
    assert!(suback.ends_with(&[1, 2, 0x97, 0x8f, 0x97, 0x87, 0x97]), "{suback:02x?}");
    assert!(String::from_utf8_lossy(&suback).contains("$aws/x is reserved"), "{suback:02x?}");
    let mut old = Raw::join(world.address, &Hello::v4("old")).await;
    old.send(&subscribe(4, 1, &filters)).await;
    old.expect(&[0x90, 9, 0, 1, 1, 2, 0x80, 0x80, 0x80, 0x80, 0x80]).await;
}

/// A SUBSCRIBE with an identifier below 128.
fn identified(id: u16, identifier: u8, filter: &str, options: u8) -> Vec<u8> {
    let [high, low] = id.to_be_bytes();
    packet(0x82, &[&[high, low, 2, 11, identifier][..], &text(filter), &[options]].concat())
}

#[tokio::test]
async fn messages_carry_the_identifiers_of_all_subscriptions_that_select_them() {
    let world = World::new().await;
    let mut sub = Raw::join(world.address, &Hello::v5("sub").kept()).await;
    for (id, identifier, filter) in [(1, 2, "a/+"), (2, 3, "a/#"), (3, 3, "+/b"), (4, 9, "c")] {
        sub.send(&identified(id, identifier, filter, 1)).await;
        sub.packet().await;
    }
    let mut publisher = Raw::join(world.address, &Hello::v5("pub")).await;
    let user = [&[38][..], &text("k"), &text("v")].concat();
    publisher.send(&publish(0x32, "a/b", 1, Some(&user), b"x")).await;
    let marked = |identifiers: &[u8]| -> Vec<u8> {
        identifiers.iter().flat_map(|identifier| [11, *identifier]).collect()
    };
    let all = [marked(&[2, 3, 3]), user].concat();
    sub.expect(&publish(0x32, "a/b", 1, Some(&all), b"x")).await;
    // Again after a reconnect, by what is subscribed then.
    drop(sub);
    let mut sub = Raw::join(world.address, &Hello::v5("sub").kept()).await;
    sub.expect(&publish(0x3a, "a/b", 1, Some(&all), b"x")).await;
    sub.send(&ack(0x40, 1)).await;
    // Renewed with another identifier, and without one.
    sub.send(&identified(5, 127, "c", 0)).await;
    sub.packet().await;
    sub.send(&subscribe(5, 6, &[("a/#", 0)])).await;
    sub.packet().await;
    publisher.send(&publish(0x30, "c", 0, Some(&[]), b"y")).await;
    sub.expect(&publish(0x30, "c", 0, Some(&marked(&[127])), b"y")).await;
    publisher.send(&publish(0x30, "a", 0, Some(&[]), b"z")).await;
    sub.expect(&publish(0x30, "a", 0, Some(&[]), b"z")).await;
    // Up to 268,435,455.
    let most = [&[0, 7, 5, 11, 0xff, 0xff, 0xff, 0x7f][..], &text("d"), &[0]].concat();
    sub.send(&packet(0x82, &most)).await;
    sub.packet().await;
    publisher.send(&publish(0x30, "d", 0, Some(&[]), b"d")).await;
    sub.expect(&publish(0x30, "d", 0, Some(&[11, 0xff, 0xff, 0xff, 0x7f]), b"d")).await;
}

#[tokio::test]
async fn an_identifier_of_0_or_a_second_one_is_a_protocol_error() {
    let world = World::new().await;
    for properties in [&[2, 11, 0][..], &[4, 11, 1, 11, 2]] {
        let mut raw = Raw::join(world.address, &Hello::v5("dev")).await;
        raw.send(&packet(0x82, &[&[0, 1][..], properties, &text("a"), &[0]].concat())).await;
        raw.disconnected(0x82).await;
    }
}

#[tokio::test]
async fn topics_get_aliases_where_the_client_takes_them() {
    let world = World::start(Settings { topic_alias_max: 2, ..Settings::default() }).await;
    let mut publisher = Raw::join(world.address, &Hello::v5("pub")).await;
    // The client's maximum, and ours, is never exceeded; without one there are none.
    for (takes, aliases) in [(0, 0), (1, 1), (9, 2)] {
        let hello = Hello { properties: vec![34, 0, takes], ..Hello::v5("sub") };
        let mut sub = Raw::join(world.address, &hello).await;
        sub.send(&subscribe(5, 1, &[("#", 0)])).await;
        sub.packet().await;
        let mut known = Vec::new();
        for topic in ["room/1", "room/2", "room/1", "a", "room/3", "room/2", "room/3"] {
            publisher.send(&publish(0x30, topic, 0, Some(&[]), b"x")).await;
            let at = known.iter().position(|other| *other == topic);
            let new = at.is_none() && topic != "a" && known.len() < aliases;
            if new {
                known.push(topic);
            }
            let alias = at.or(new.then(|| known.len() - 1)).map(|at| [35, 0, at as u8 + 1]);
            let properties = alias.as_ref().map_or(&[][..], |alias| &alias[..]);
            let said = if at.is_some() { "" } else { topic };
            sub.expect(&publish(0x30, said, 0, Some(properties), b"x")).await;
        }
        // They end with the connection.
        drop(sub);
    }
    // An alias that makes a packet too large is left out.
    let limits = vec![34, 0, 9, 39, 0, 0, 0, 16];
    let mut sub = Raw::join(world.address, &Hello { properties: limits, ..Hello::v5("sub") }).await;
    sub.send(&subscribe(5, 1, &[("#", 0)])).await;
    sub.packet().await;
    for _ in 0..2 {
        publisher.send(&publish(0x30, "room/1", 0, Some(&[]), b"xxxx")).await;
        sub.expect(&publish(0x30, "room/1", 0, Some(&[]), b"xxxx")).await;
    }
    publisher.send(&publish(0x30, "room", 0, Some(&[]), b"xxxx")).await;
    sub.expect(&publish(0x30, "room", 0, Some(&[35, 0, 1]), b"xxxx")).await;
    publisher.send(&publish(0x30, "room", 0, Some(&[]), b"xxxxxxxx")).await;
    sub.expect(&publish(0x30, "", 0, Some(&[35, 0, 1]), b"xxxxxxxx")).await;
}

const COUNT: u32 = 20_000;

/// Publishes numbered messages at QoS 1, pipelined.
async fn flood(world: &World, count: u32) {
    let mut publisher = Raw::join(world.address, &Hello::v4("flood")).await;
    for chunk in (0..count).collect::<Vec<_>>().chunks(100) {
        let mut bytes = Vec::new();
        for (at, number) in chunk.iter().enumerate() {
            bytes.extend(qos1("flood/x", at as u16 + 1, &format!("{number:0200}")));
        }
        publisher.send(&bytes).await;
        for at in 1..=chunk.len() {
            publisher.expect(&ack(0x40, at as u16)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_subscriber_gets_everything_in_order_and_harms_nobody() {
    let world = World::start(Settings { mailbox_messages_max: 64, ..Settings::default() }).await;
    let mut slow = Raw::join(world.address, &Hello::v4("slow")).await;
    slow.send(&subscribe(4, 1, &[("flood/#", 1)])).await;
    slow.packet().await;
    // Nobody reads for the slow one; the flood is acknowledged all the same.
    tokio::time::timeout(SOON, flood(&world, COUNT)).await.expect("held up by a subscriber");
    assert!(world.broker.stats().fell_behind > 0);
    let sent = world.broker.stats().bytes_out;
    for number in 0..COUNT {
        let message = slow.packet().await.unwrap();
        let payload = &message[message.len() - 200..];
        assert_eq!(std::str::from_utf8(payload).unwrap().parse(), Ok(number));
        let id_at = message.len() - 202;
        slow.send(&ack(0x40, u16::from_be_bytes([message[id_at], message[id_at + 1]]))).await;
    }
    // What waited for it was in the log, not in the broker or the socket.
    assert!(sent < u64::from(COUNT) * 200 / 2, "{sent} bytes were written ahead");
    assert_eq!(world.broker.stats().delivered_qos1, u64::from(COUNT));
    slow.silence().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscriber_may_change_its_mind_while_it_catches_up() {
    let world = World::start(Settings { mailbox_messages_max: 16, ..Settings::default() }).await;
    let mut sub = Raw::join(world.address, &Hello::v4("sub")).await;
    sub.send(&subscribe(4, 1, &[("flood/#", 0)])).await;
    sub.packet().await;
    flood(&world, 2_000).await;
    sub.send(&subscribe(4, 2, &[("other", 0)])).await;
    let mut publisher = Raw::join(world.address, &Hello::v4("pub")).await;
    let mut numbers = Vec::new();
    loop {
        let message = sub.packet().await.unwrap();
        if message[0] == 0x90 {
            publisher.send(&publish(0x30, "other", 0, None, b"last")).await;
        } else if message.ends_with(b"last") {
            break;
        } else {
            let payload = &message[message.len() - 200..];
            numbers.push(std::str::from_utf8(payload).unwrap().parse::<u32>().unwrap());
        }
    }
    assert_eq!(numbers, (0..2_000).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tap_sees_what_its_filter_selects() {
    let world =
        World::start(Settings { mailbox_messages_max: 16, taps_max: 1, ..Settings::default() })
            .await;
    let filter = TopicFilter::parse("flood/#").unwrap();
    let mut tap = world.broker.tap(filter.clone()).unwrap();
    assert!(world.broker.tap(filter.clone()).is_err());
    flood(&world, 1_000).await;
    for number in 0..1_000_u64 {
        let tapped = tokio::time::timeout(SOON, tap.next()).await.unwrap();
        assert_eq!(tapped.offset.0, number);
        assert_eq!(tapped.message.qos, QoS::AtLeastOnce);
        assert_eq!(tapped.message.client_id, "flood");
    }
    drop(tap);
    world.broker.tap(filter).unwrap();
}
