//! Shared subscriptions: each message once, to whoever can take it.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use broker::Settings;
use tokio::time::timeout;

use crate::raw::{A_WHILE, Hello, Raw, ack, packet, publish, qos1, qos2, subscribe, text};
use crate::support::World;

async fn member(world: &World, hello: &Hello<'_>, filter: &str, qos: u8) -> Raw {
    let mut raw = Raw::join(world.address, hello).await;
    raw.send(&subscribe(hello.level, 1, &[(filter, qos)])).await;
    let suback = raw.packet().await.unwrap();
    assert_eq!(suback.last(), Some(&qos), "{suback:02x?}");
    raw
}

/// Publishes `a` to `payloads`, in QoS 1, one after the other.
async fn feed(publisher: &mut Raw, payloads: impl IntoIterator<Item = String>) {
    for payload in payloads {
        publisher.send(&qos1("air/x", 1, &payload)).await;
        publisher.expect(&ack(0x40, 1)).await;
    }
}

fn numbers(range: std::ops::Range<u32>) -> impl Iterator<Item = String> {
    range.map(|number| format!("{number:05}"))
}

/// The number in a PUBLISH to `air/x` in QoS 1 or 2, and its packet id.
fn number(packet: &[u8]) -> (u32, u16) {
    assert_eq!(packet[0] & 0xf0, 0x30, "{packet:02x?}");
    let number = std::str::from_utf8(&packet[packet.len() - 5..]).unwrap().parse().unwrap();
    // Head, length, topic of 5 bytes.
    (number, u16::from_be_bytes([packet[9], packet[10]]))
}

/// Everything that comes within a while, acknowledged.
async fn drain(raw: &mut Raw) -> Vec<u32> {
    let mut found = Vec::new();
    while let Ok(Some(packet)) = timeout(A_WHILE, raw.packet()).await {
        let (number, id) = number(&packet);
        found.push(number);
        raw.send(&ack(0x40, id)).await;
    }
    found
}

#[tokio::test]
async fn members_take_turns_and_other_subscriptions_get_everything() {
    let world = World::new().await;
    let mut one = member(&world, &Hello::v5("one"), "$share/g/air/+", 1).await;
    let mut two = member(&world, &Hello::v4("two"), "$share/g/air/+", 0).await;
    let mut other = member(&world, &Hello::v4("other"), "$share/other/air/+", 1).await;
    let mut plain = member(&world, &Hello::v4("plain"), "air/x", 1).await;
    let mut publisher = Raw::join(world.address, &Hello::v4("pub")).await;
    feed(&mut publisher, numbers(0..4)).await;
    // Each in the quality of service that it was granted.
    one.expect(&publish(0x32, "air/x", 1, Some(&[]), b"00000")).await;
    two.expect(&publish(0x30, "air/x", 0, None, b"00001")).await;
    one.expect(&publish(0x32, "air/x", 2, Some(&[]), b"00002")).await;
    two.expect(&publish(0x30, "air/x", 0, None, b"00003")).await;
    for raw in [&mut one, &mut two] {
        raw.silence().await;
    }
    assert_eq!(drain(&mut other).await, [0, 1, 2, 3]);
    assert_eq!(drain(&mut plain).await, [0, 1, 2, 3]);
    let seen: HashMap<_, _> =
        world.broker.sessions().into_iter().map(|s| (s.client_id, s.subscriptions)).collect();
    assert_eq!(seen["one"], ["$share/g/air/+"]);

    // Who unsubscribes is left out; who subscribed to nothing is told.
    two.send(&packet(0xa2, &[&[0, 2][..], &text("$share/g/air/+")].concat())).await;
    two.expect(&ack(0xb0, 2)).await;
    one.send(&packet(0xa2, &[&[0, 2, 0][..], &text("$share/h/air/+")].concat())).await;
    one.expect(&[0xb0, 4, 0, 2, 0, 0x11]).await;
    feed(&mut publisher, numbers(4..6)).await;
    one.expect(&publish(0x32, "air/x", 3, Some(&[]), b"00004")).await;
    one.expect(&publish(0x32, "air/x", 4, Some(&[]), b"00005")).await;
    two.silence().await;
}

#[tokio::test]
async fn the_filter_within_is_what_counts() {
    let world = World::new().await;
    let mut raw = Raw::join(world.address, &Hello::v5("dev")).await;
    let filters = [("$share/g//", 0), ("$share/g/$aws/x", 0), ("$share/g/$share/h/a", 0)];
    raw.send(&subscribe(5, 1, &filters)).await;
    let suback = raw.packet().await.unwrap();
    assert!(suback.ends_with(&[0, 0x87, 0x87]), "{suback:02x?}");
    let malformed = ["$share/g", "$share//a", "$share/+/a", "$share/g/", "$share/g/a#"];
    let mut old = Raw::join(world.address, &Hello::v4("old")).await;
    let mut new = Raw::join(world.address, &Hello::v5("new")).await;
    for filter in malformed {
        old.send(&subscribe(4, 1, &[(filter, 0)])).await;
        old.expect(&[0x90, 3, 0, 1, 0x80]).await;
        new.send(&subscribe(5, 1, &[(filter, 0)])).await;
        new.expect(&[0x90, 4, 0, 1, 0, 0x8f]).await;
    }
    // No local cannot be meant (MQTT 5, 3.8.3.1).
    raw.send(&subscribe(5, 2, &[("$share/g/a", 4)])).await;
    raw.disconnected(0x82).await;
}

#[tokio::test]
async fn marks_are_those_of_the_members_own_subscription() {
    let store = metastore::Metastore::in_memory().unwrap();
    let world = World::retaining(Settings::default(), std::sync::Arc::default(), &store).await;
    let mut publisher = Raw::join(world.address, &Hello::v5("pub")).await;
    publisher.send(&publish(0x31, "air/x", 0, Some(&[]), b"kept")).await;
    publisher.ping().await;
    let mut raw = Raw::join(world.address, &Hello::v5("dev")).await;
    // Identifier 7, retain as published: and nothing retained comes (4.8.2).
    let body = [&[0, 1, 2, 11, 7][..], &text("$share/g/air/#"), &[0b1000]].concat();
    raw.send(&packet(0x82, &body)).await;
    raw.packet().await;
    raw.silence().await;
    publisher.send(&publish(0x31, "air/x", 0, Some(&[]), b"new")).await;
    raw.expect(&publish(0x31, "air/x", 0, Some(&[11, 7]), b"new")).await;
    // Beside a subscription of its own it gets both, each with its own mark.
    raw.send(&packet(0x82, &[&[0, 2, 2, 11, 8][..], &text("air/+"), &[0]].concat())).await;
    raw.packet().await;
    raw.expect(&publish(0x31, "air/x", 0, Some(&[11, 8]), b"new")).await;
    publisher.send(&publish(0x30, "air/x", 0, Some(&[]), b"both")).await;
    let mut both = [raw.packet().await.unwrap(), raw.packet().await.unwrap()];
    both.sort();
    let expected = [7, 8].map(|id| publish(0x30, "air/x", 0, Some(&[11, id]), b"both"));
    assert_eq!(both, expected);
}

#[tokio::test]
async fn what_a_member_leaves_behind_goes_to_another() {
    let world = World::new().await;
    let mut publisher = Raw::join(world.address, &Hello::v4("pub")).await;
    // Takes two and acknowledges neither; more is waiting for it.
    let limits = vec![33, 0, 2];
    let hello = Hello { properties: limits, ..Hello::v5("stuck") };
    let mut stuck = member(&world, &hello, "$share/g/air/x", 2).await;
    publisher.send(&qos2("air/x", 7, "00000")).await;
    publisher.expect(&ack(0x50, 7)).await;
    feed(&mut publisher, numbers(1..40)).await;
    stuck.expect(&publish(0x34, "air/x", 1, Some(&[]), b"00000")).await;
    stuck.expect(&publish(0x32, "air/x", 2, Some(&[]), b"00001")).await;
    stuck.silence().await;
    // The other gets what the first has no room for, but for the few that wait for it.
    let mut other = member(&world, &Hello::v4("other"), "$share/g/air/x", 1).await;
    let found = drain(&mut other).await;
    assert_eq!(found, (18..40).collect::<Vec<_>>());
    // The session of the first ends: it never sent what waited, nor did it acknowledge the
    // QoS 1 message. The QoS 2 message is nobody else's (MQTT 5, 4.8.2).
    drop(stuck);
    let found = drain(&mut other).await;
    assert_eq!(found.iter().copied().collect::<HashSet<_>>(), (1..18).collect());
    assert_eq!(found.len(), 17);
    assert_eq!(world.broker.stats().dealt_again, 17);
    other.silence().await;
}

#[tokio::test]
async fn a_kept_session_goes_on_with_what_it_was_sent_and_the_others_with_the_rest() {
    let world = World::new().await;
    let mut publisher = Raw::join(world.address, &Hello::v4("pub")).await;
    let hello = Hello::v4("kept").kept();
    let mut kept = member(&world, &hello, "$share/g/air/x", 1).await;
    feed(&mut publisher, numbers(0..1)).await;
    kept.expect(&qos1("air/x", 1, "00000")).await;
    drop(kept);
    world.until("it is gone", |w| w.broker.sessions().iter().any(|s| !s.connected)).await;
    // Nobody is there: the log keeps them, but for QoS 0.
    publisher.send(&publish(0x30, "air/x", 0, None, b"unheard")).await;
    feed(&mut publisher, numbers(1..30)).await;
    let mut other = member(&world, &Hello::v4("other"), "$share/g/air/x", 1).await;
    let found = drain(&mut other).await;
    assert_eq!(found, (1..30).collect::<Vec<_>>());
    let (mut kept, connack) = Raw::hello(world.address, &hello).await;
    assert_eq!(connack, [0x20, 2, 1, 0]);
    kept.expect(&publish(0x3a, "air/x", 1, None, b"00000")).await;
    kept.send(&ack(0x40, 1)).await;
    feed(&mut publisher, numbers(30..40)).await;
    let (kept_got, other_got) = (drain(&mut kept).await, drain(&mut other).await);
    assert_eq!(kept_got.len() + other_got.len(), 10, "{kept_got:?} {other_got:?}");
    assert!(!kept_got.is_empty() && !other_got.is_empty(), "{kept_got:?} {other_got:?}");
    // Once everybody has left for good, the group is forgotten: a new one begins anew.
    drop(other);
    kept.send(&packet(0xa2, &[&[0, 2][..], &text("$share/g/air/x")].concat())).await;
    kept.expect(&ack(0xb0, 2)).await;
    let gone = |w: &World| w.broker.sessions().iter().all(|s| s.client_id != "other");
    world.until("the other is gone", gone).await;
    feed(&mut publisher, numbers(40..45)).await;
    let mut new = member(&world, &Hello::v4("new"), "$share/g/air/x", 1).await;
    new.silence().await;
    feed(&mut publisher, numbers(45..46)).await;
    assert_eq!(drain(&mut new).await, [45]);
}

/// Members come, go at any moment and acknowledge when they like: in the end each message was
/// acknowledged by one of them, and none by two unless it had been sent and not acknowledged.
#[tokio::test(flavor = "multi_thread")]
async fn a_coming_and_going_of_members_loses_nothing() {
    const COUNT: u32 = 3000;
    let world = World::start(Settings { mailbox_messages_max: 32, ..Settings::default() }).await;
    let mut anchor = member(&world, &Hello::v4("anchor"), "$share/g/air/x", 1).await;
    let mut publisher = Raw::join(world.address, &Hello::v4("pub")).await;
    let feeding = async {
        feed(&mut publisher, numbers(0..COUNT)).await;
    };
    let coming = async {
        let mut found = Vec::new();
        let mut unsure = HashSet::new();
        for round in 0..60_u32 {
            let id = format!("guest-{}", round % 7);
            let mut hello = Hello::v4(&id);
            if round % 3 == 0 {
                hello = hello.kept();
            }
            let mut guest = Raw::join(world.address, &hello).await;
            guest.send(&subscribe(4, 1, &[("$share/g/air/x", 1)])).await;
            let mut held = None;
            for _ in 0..round % 23 {
                let next = timeout(Duration::from_millis(50), guest.packet()).await;
                let Ok(Some(packet)) = next else { break };
                if packet[0] & 0xf0 != 0x30 {
                    continue;
                }
                let (number, id) = number(&packet);
                unsure.insert(number);
                if let Some(id) = held.replace(id) {
                    guest.send(&ack(0x40, id)).await;
                    // Whether this arrives before the socket closes is not known.
                }
                found.push(number);
            }
            drop(guest);
        }
        // What kept sessions still hold comes with them.
        for client in 0..7 {
            let id = format!("guest-{client}");
            let mut guest = Raw::join(world.address, &Hello::v4(&id)).await;
            guest.ping().await;
        }
        (found, unsure)
    };
    let anchored = async {
        let mut found = Vec::new();
        while let Ok(Some(packet)) = timeout(Duration::from_secs(2), anchor.packet()).await {
            let (number, id) = number(&packet);
            found.push(number);
            anchor.send(&ack(0x40, id)).await;
        }
        found
    };
    let ((), (guests, unsure), found) = tokio::join!(feeding, coming, anchored);
    let mut all: HashSet<u32> = found.iter().copied().collect();
    assert_eq!(all.len(), found.len(), "the anchor never left, and got something twice");
    let doubled = found.iter().filter(|number| guests.contains(number));
    assert!(doubled.clone().all(|number| unsure.contains(number)));
    assert!(guests.len() > 50 && found.len() > 50, "{} {}", guests.len(), found.len());
    all.extend(guests);
    assert_eq!(all.len() as u32, COUNT, "lost");
}
