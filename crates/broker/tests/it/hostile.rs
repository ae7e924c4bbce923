//! Peers that break the rules: each is answered or closed, and nobody else notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use broker::Settings;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::raw::{Hello, Raw, ack, packet, publish, qos1, qos2, subscribe, text};
use crate::support::World;

/// One packet of each kind that a client may send, after CONNECT.
pub(crate) fn samples(level: u8) -> Vec<Vec<u8>> {
    let properties = (level == 5).then(|| {
        let user = [&[38][..], &text("k"), &text("v")].concat();
        [
            &[35, 0, 1, 1, 1, 2, 0, 0, 0, 9, 3][..],
            &text("c"),
            &[8],
            &text("r"),
            &[9, 0, 1, 7],
            &user,
        ]
        .concat()
    });
    let properties = properties.as_deref();
    let mut samples = vec![
        publish(0x30, "a/b", 0, properties, b"payload"),
        publish(0x32, "a/b", 5, properties, b"payload"),
        publish(0x3c, "a/b", 6, properties, b"payload"),
        ack(0x40, 1),
        ack(0x50, 1),
        ack(0x62, 1),
        ack(0x70, 1),
        subscribe(level, 9, &[("a/+", 1), ("#", 2)]),
        packet(0xc0, &[]),
        packet(0xe0, &[]),
    ];
    let unsubscribe = match level {
        5 => [&[0, 8, 0][..], &text("a/+")].concat(),
        _ => [&[0, 8][..], &text("a/+")].concat(),
    };
    samples.push(packet(0xa2, &unsubscribe));
    if level == 5 {
        let reason = [&[31][..], &text("why")].concat();
        let with_reason =
            |head, start: &[u8]| packet(head, &[start, &[reason.len() as u8], &reason].concat());
        samples.push(with_reason(0x40, &[0, 1, 0x10]));
        samples.push(with_reason(0x50, &[0, 1, 0x80]));
        samples.push(with_reason(0x62, &[0, 1, 0x92]));
        samples.push(with_reason(0x70, &[0, 1, 0]));
        samples.push(with_reason(0xe0, &[4]));
        samples.push(packet(0xf0, &[0x18, 0]));
    }
    samples
}

/// Every truncation, every flipped bit and every off-by-one length of a packet.
pub(crate) fn damaged(sample: &[u8]) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    for cut in 0..sample.len() {
        out.push(sample[..cut].to_vec());
        // Truncated with a length that agrees.
        if cut >= 2 {
            let mut short = sample[..cut].to_vec();
            short[1] = (cut - 2) as u8;
            out.push(short);
        }
    }
    for bit in 0..sample.len() * 8 {
        let mut flipped = sample.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        out.push(flipped);
    }
    for change in [1_u8, 255] {
        let mut length = sample.to_vec();
        length[1] = length[1].wrapping_add(change);
        out.push(length);
    }
    out
}

/// Counts panics of the whole process from now on: those of a connection's task are caught.
pub(crate) fn count_panics() -> Arc<AtomicUsize> {
    let count = Arc::<AtomicUsize>::default();
    let before = std::panic::take_hook();
    let counted = Arc::clone(&count);
    std::panic::set_hook(Box::new(move |panic| {
        counted.fetch_add(1, Ordering::SeqCst);
        before(panic);
    }));
    count
}

/// Sends `bytes` on a fresh connection and waits until the broker has dealt with them.
async fn offer(address: std::net::SocketAddr, hello: Option<Vec<u8>>, bytes: Vec<u8>) {
    let mut raw = Raw::open(address).await;
    if let Some(hello) = hello {
        raw.send(&hello).await;
        raw.packet().await;
    }
    // The broker may close in the middle of it.
    drop(raw.stream.write_all(&bytes).await);
    drop(raw.stream.shutdown().await);
    let all = async { while raw.packet().await.is_some() {} };
    timeout(Duration::from_secs(20), all).await.expect("neither answered nor closed");
}

async fn offer_all(world: &World, offers: Vec<(Option<Vec<u8>>, Vec<u8>)>) {
    let mut running = JoinSet::new();
    for (hello, bytes) in offers {
        if running.len() >= 64 {
            running.join_next().await.unwrap().unwrap();
        }
        running.spawn(offer(world.address, hello, bytes));
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_packets_end_their_connection_and_no_other() {
    let world = World::new().await;
    let mut witness = Raw::join(world.address, &Hello::v5("witness")).await;
    let mut offers = Vec::new();
    for level in [4, 5] {
        for sample in samples(level) {
            for bytes in damaged(&sample) {
                let id = format!("c{}", offers.len());
                let hello = Hello { level, ..Hello::v4(&id) }.bytes();
                offers.push((Some(hello), bytes));
            }
        }
    }
    let count = offers.len();
    assert!(count > 3_000, "{count}");
    let panics = count_panics();
    let mut served = world.broker.stats().connections_total;
    for part in offers.chunks(1_000) {
        offer_all(&world, part.to_vec()).await;
        witness.ping().await;
        served += part.len() as u64;
        assert_eq!(world.broker.stats().connections_total, served);
    }
    world.until("they are gone", |w| w.broker.stats().connections == 1).await;
    assert_eq!(world.broker.stats().sessions, 1);
    assert_eq!(panics.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_connects_are_refused() {
    let world = World::new().await;
    let mut witness = Raw::join(world.address, &Hello::v4("witness")).await;
    let mut offers = Vec::new();
    for level in [4, 5] {
        let full = Hello {
            will: Some(("w/t", "bye", 1)),
            properties: if level == 5 {
                [&[17, 0, 0, 0, 9, 33, 0, 9, 39, 0, 0, 9, 9, 34, 0, 9, 25, 0, 23, 1][..]].concat()
            } else {
                Vec::new()
            },
            will_properties: vec![24, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 9],
            level,
            ..Hello::v4("dev")
        };
        offers.extend(damaged(&full.bytes()).into_iter().map(|bytes| (None, bytes)));
    }
    let panics = count_panics();
    offer_all(&world, offers).await;
    witness.ping().await;
    assert_eq!(panics.load(Ordering::SeqCst), 0);
    world.until("they are gone", |w| w.broker.stats().connections == 1).await;
}

#[tokio::test]
async fn rules_of_order_are_kept() {
    let world = World::new().await;
    let cases: Vec<(&str, Vec<u8>, u8)> = vec![
        ("a second CONNECT", Hello::v5("dev").bytes(), 0x82),
        ("AUTH out of turn", packet(0xf0, &[0x18, 0]), 0x82),
        ("a CONNACK from a client", packet(0x20, &[0, 0, 0]), 0x81),
        ("packet id 0", publish(0x32, "a", 0, Some(&[]), b""), 0x81),
        ("QoS 3", publish(0x36, "a", 1, Some(&[]), b""), 0x81),
        ("DUP on QoS 0", publish(0x38, "a", 1, Some(&[]), b""), 0x81),
        ("SUBSCRIBE without filters", packet(0x82, &[0, 1, 0]), 0x82),
        ("UNSUBSCRIBE without filters", packet(0xa2, &[0, 1, 0]), 0x82),
        ("SUBSCRIBE with packet id 0", subscribe(5, 0, &[("a", 0)]), 0x81),
        ("a wildcard topic", publish(0x30, "a/+", 0, Some(&[]), b""), 0x90),
        ("U+0000 in a topic", publish(0x30, "a\0", 0, Some(&[]), b""), 0x81),
        ("U+0000 in a filter", subscribe(5, 1, &[("a\0", 0)]), 0x81),
        ("retain", publish(0x31, "a", 0, Some(&[]), b""), 0x9a),
        ("alias 0", publish(0x30, "a", 0, Some(&[35, 0, 0]), b""), 0x94),
        ("alias beyond the maximum", publish(0x30, "a", 0, Some(&[35, 0, 17]), b""), 0x94),
        ("an alias never set", publish(0x30, "", 0, Some(&[35, 0, 3]), b""), 0x94),
        ("neither topic nor alias", publish(0x30, "", 0, Some(&[]), b""), 0x82),
        ("a property twice", publish(0x30, "a", 0, Some(&[1, 0, 1, 0]), b""), 0x82),
        ("a subscription id", publish(0x30, "a", 0, Some(&[11, 1]), b""), 0x82),
        ("a CONNACK property", publish(0x30, "a", 0, Some(&[18, 0, 0]), b""), 0x81),
        ("a wildcard response topic", publish(0x30, "a", 0, Some(&[8, 0, 1, b'#']), b""), 0x82),
        ("expiry out of nothing", packet(0xe0, &[0, 5, 17, 0, 0, 0, 9]), 0x82),
        ("flags on PINGREQ", vec![0xc1, 0], 0x81),
        ("a five-digit length", vec![0x30, 255, 255, 255, 255, 1], 0x81),
    ];
    for (what, bytes, code) in cases {
        let mut raw = Raw::join(world.address, &Hello::v5("dev")).await;
        raw.send(&bytes).await;
        let last = raw.closed().await.unwrap_or_else(|| panic!("{what}: no DISCONNECT"));
        assert_eq!((last[0], last[2]), (0xe0, code), "{what}: {last:02x?}");
    }
    assert_eq!(world.journal.appended(), 0);
}

#[tokio::test]
async fn answers_to_unknown_ids_are_harmless() {
    let world = World::new().await;
    let mut new = Raw::join(world.address, &Hello::v5("new")).await;
    let mut old = Raw::join(world.address, &Hello::v4("old")).await;
    for raw in [&mut new, &mut old] {
        raw.send(&ack(0x40, 7)).await;
        raw.send(&ack(0x70, 7)).await;
        raw.ping().await;
    }
    new.send(&ack(0x50, 7)).await;
    new.expect(&packet(0x62, &[0, 7, 0x92])).await;
    new.send(&ack(0x62, 7)).await;
    new.expect(&packet(0x70, &[0, 7, 0x92])).await;
    old.send(&ack(0x50, 7)).await;
    old.expect(&ack(0x62, 7)).await;
    old.send(&ack(0x62, 7)).await;
    old.expect(&ack(0x70, 7)).await;
}

#[tokio::test]
async fn reserved_topics_are_refused_by_the_means_of_each_version() {
    let world = World::new().await;
    let mut new = Raw::join(world.address, &Hello::v5("new")).await;
    new.send(&publish(0x30, "$aws/things/t", 0, Some(&[]), b"")).await;
    new.send(&publish(0x32, "$aws/things/t", 1, Some(&[]), b"")).await;
    new.expect(&packet(0x40, &[0, 1, 0x90])).await;
    new.send(&publish(0x34, "$SYS/x", 2, Some(&[]), b"")).await;
    new.expect(&packet(0x50, &[0, 2, 0x90])).await;
    // The id is free again.
    new.send(&publish(0x34, "x", 2, Some(&[]), b"")).await;
    new.expect(&ack(0x50, 2)).await;
    let mut old = Raw::join(world.address, &Hello::v4("old")).await;
    old.send(&publish(0x30, "$aws/x", 0, None, b"")).await;
    old.ping().await;
    old.send(&qos1("$aws/x", 1, "")).await;
    assert_eq!(old.closed().await, None);
    // Beyond AWS's own topics 3.1.1 is answered by the rules of its quality of service (3.3.5);
    // the record says what became of it.
    let mut old = Raw::join(world.address, &Hello::v4("old")).await;
    old.send(&qos1("$topic/a", 1, "")).await;
    old.expect(&ack(0x40, 1)).await;
    old.send(&qos2("$topic/a", 2, "")).await;
    old.expect(&ack(0x50, 2)).await;
    old.send(&ack(0x62, 2)).await;
    old.expect(&ack(0x70, 2)).await;
    let (_, refusals) = world.broker.why("old");
    let why = serde_json::to_string(&refusals).unwrap();
    assert!(why.contains("$topic/a") && why.contains("reserved"), "{why}");
    let stats = world.broker.stats();
    assert_eq!((stats.refused_topic, stats.acknowledged), (7, 1));
    assert_eq!(world.journal.appended(), 1);
}

#[tokio::test]
async fn refusals_stay_in_order_behind_what_waits() {
    let world = World::new().await;
    let mut raw = Raw::join(world.address, &Hello::v5("dev")).await;
    world.journal.hold();
    raw.send(&publish(0x32, "a", 1, Some(&[]), b"")).await;
    raw.send(&publish(0x32, "$a", 2, Some(&[]), b"")).await;
    raw.send(&publish(0x32, "a", 3, Some(&[]), b"")).await;
    raw.ping().await;
    raw.silence().await;
    world.journal.release();
    raw.expect(&ack(0x40, 1)).await;
    raw.expect(&packet(0x40, &[0, 2, 0x90])).await;
    raw.expect(&ack(0x40, 3)).await;
}

#[tokio::test]
async fn payloads_have_an_exact_limit() {
    let world = World::start(Settings { payload_bytes_max: 1000, ..Settings::default() }).await;
    let mut raw = Raw::join(world.address, &Hello::v5("dev")).await;
    raw.send(&publish(0x32, "a", 1, Some(&[]), &[b'x'; 1000])).await;
    raw.expect(&ack(0x40, 1)).await;
    raw.send(&publish(0x32, "a", 2, Some(&[]), &[b'x'; 1001])).await;
    raw.disconnected(0x95).await;
    let mut old = Raw::join(world.address, &Hello::v4("old")).await;
    old.send(&publish(0x32, "a", 2, None, &[b'x'; 1001])).await;
    assert_eq!(old.closed().await, None);
    assert_eq!(world.broker.stats().refused_size, 2);
    // A length beyond the packet limit is refused before the packet is sent.
    let mut raw = Raw::join(world.address, &Hello::v5("dev")).await;
    raw.send(&[0x30, 0xff, 0xff, 0xff, 0x7f]).await;
    raw.disconnected(0x95).await;
    assert_eq!(world.journal.appended(), 1);
}

#[tokio::test]
async fn a_payload_of_the_full_size_arrives_in_single_bytes_and_in_one() {
    let world = World::new().await;
    let mut raw = Raw::join(world.address, &Hello::v4("dev")).await;
    let payload: Vec<u8> = (0..128 * 1024).map(|at| (at % 251) as u8).collect();
    raw.send(&publish(0x32, &"t".repeat(65_535), 1, None, &payload)).await;
    raw.expect(&ack(0x40, 1)).await;
    for byte in publish(0x32, "small", 2, None, b"abc") {
        raw.send(&[byte]).await;
    }
    raw.expect(&ack(0x40, 2)).await;
    let messages = world.journal.messages();
    assert_eq!(messages[0].topic.len(), 65_535);
    assert!(messages[0].payload == payload);
    assert_eq!(&messages[1].payload[..], b"abc");
}

#[tokio::test]
async fn what_is_not_connect_is_closed_at_once() {
    let world = World::new().await;
    for first in (0..=255_u8).filter(|first| *first != 0x10) {
        let mut raw = Raw::open(world.address).await;
        raw.send(&[first]).await;
        let started = Instant::now();
        assert_eq!(raw.closed().await, None);
        assert!(started.elapsed() < Duration::from_secs(2));
    }
    assert_eq!(world.broker.stats().refused_connect, 255);
}

#[tokio::test]
async fn a_connect_that_claims_much_is_closed_at_its_length() {
    let world = World::new().await;
    let mut raw = Raw::open(world.address).await;
    raw.send(&[0x10, 0xff, 0xff, 0xff, 0x7f]).await;
    assert_eq!(raw.closed().await, None);
    let mut raw = Raw::open(world.address).await;
    raw.send(&packet(0x10, &vec![0; 16 * 1024])[..3]).await;
    raw.silence().await;
}

#[tokio::test]
async fn connect_has_a_time_limit_and_crowds_do_not_lock_others_out() {
    let settings = Settings { connect_secs_max: 1, handshakes_max: 8, ..Settings::default() };
    let world = World::start(settings).await;
    let mut crowd = Vec::new();
    for _ in 0..8 {
        crowd.push(Raw::open(world.address).await);
    }
    let started = Instant::now();
    // Waits for a place, within its own time.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut raw = Raw::join(world.address, &Hello::v4("dev")).await;
    raw.ping().await;
    for mut silent in crowd {
        assert_eq!(silent.closed().await, None);
    }
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn k2_whoever_is_slow_gives_way_and_whoever_is_silent_takes_no_place() {
    let settings = Settings { connect_secs_max: 30, handshakes_max: 8, ..Settings::default() };
    let world = World::start(settings).await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        silent.push(Raw::open(world.address).await);
    }
    let started = Instant::now();
    Raw::join(world.address, &Hello::v4("first")).await.ping().await;
    assert!(started.elapsed() < Duration::from_secs(1), "the silent ones held it up");
    let mut slow = Vec::new();
    for _ in 0..8 {
        let mut raw = Raw::open(world.address).await;
        raw.send(&[0x10]).await;
        slow.push(raw);
    }
    // Only whoever has begun takes a place, and what they sent must have been read for that.
    tokio::time::sleep(Duration::from_millis(200)).await;
    Raw::join(world.address, &Hello::v4("second")).await.ping().await;
    assert!(started.elapsed() < Duration::from_secs(10), "the slow ones held it up");
    // As many as were in the way, and no more.
    let closed = world.broker.stats().refused_connect;
    assert!((1..=8).contains(&closed), "{closed} slow ones were closed");
    silent.swap_remove(0).silence().await;
}

#[tokio::test]
async fn connections_are_bounded() {
    let world = World::start(Settings { connections_max: 2, ..Settings::default() }).await;
    let one = Raw::join(world.address, &Hello::v4("one")).await;
    let mut two = Raw::join(world.address, &Hello::v4("two")).await;
    let mut three = Raw::open(world.address).await;
    assert_eq!(three.closed().await, None);
    assert_eq!(world.broker.stats().refused_limit, 1);
    drop(one);
    world.until("one left", |w| w.broker.stats().connections == 1).await;
    Raw::join(world.address, &Hello::v4("three")).await;
    two.ping().await;
}

#[tokio::test]
async fn connects_that_cannot_be_kept_are_refused_with_their_reason() {
    let world = World::new().await;
    let cases = [
        (Hello { properties: [&[21][..], &text("m")].concat(), ..Hello::v5("dev") }, 0x8c),
        (Hello { will: Some(("a/#", "", 0)), ..Hello::v5("dev") }, 0x90),
        (Hello { will: Some(("$aws/x", "", 0)), ..Hello::v5("dev") }, 0x90),
        (Hello { will: Some(("a", "", 4)), ..Hello::v5("dev") }, 0x9a),
        (Hello { properties: vec![33, 0, 0], ..Hello::v5("dev") }, 0x82),
        (Hello { level: 6, ..Hello::v4("dev") }, 0x84),
        (Hello { level: 3, ..Hello::v4("dev") }, 1),
    ];
    for (hello, code) in cases {
        let (mut raw, connack) = Raw::hello(world.address, &hello).await;
        assert_eq!(connack[3], code, "{connack:02x?}");
        assert_eq!(raw.closed().await, None);
    }
    assert_eq!(world.broker.stats().sessions, 0);
}

#[tokio::test]
async fn a_peer_that_does_not_read_is_not_read_either() {
    let world = World::new().await;
    let mut raw = Raw::join(world.address, &Hello::v4("dev")).await;
    // Pings whose answers are never read.
    let pings = [0xc0, 0].repeat(64 * 1024);
    let flood = async {
        for _ in 0..1000 {
            raw.stream.write_all(&pings).await.unwrap();
        }
    };
    assert!(timeout(Duration::from_secs(3), flood).await.is_err(), "128 MB were swallowed");
    let mut other = Raw::join(world.address, &Hello::v4("other")).await;
    other.ping().await;
}

#[tokio::test]
async fn unreleased_qos_2_messages_are_bounded() {
    let world = World::start(Settings { qos2_open_max: 5, ..Settings::default() }).await;
    let mut raw = Raw::join(world.address, &Hello::v4("dev")).await;
    for id in 1..=5 {
        raw.send(&publish(0x34, "a", id, None, b"")).await;
        raw.expect(&ack(0x50, id)).await;
    }
    raw.send(&publish(0x34, "a", 6, None, b"")).await;
    assert_eq!(raw.closed().await, None);
}
