//! A hundred thousand of a thing: topics, subscriptions, retained messages. Each costs a bounded
//! amount, finding one does not get slow, and one too many is refused.

use std::time::{Duration, Instant};

use e2e::Server;
use e2e::account;
use e2e::mqtt::{self, Ledger, Session};
use e2e::row::Row;
use e2e::swarm::Swarm;

use crate::peers::{BASE_MIB, newcomer};
use crate::pipeline;

const LIMIT: Duration = Duration::from_secs(120);

/// Publishes one reading on each of `count` topics; with how many a second.
fn publish(server: &Server, device: &str, count: u64) -> (Ledger, f64) {
    let began = Instant::now();
    let packet = |id, seq| {
        let topic = format!("load/{seq}/readings");
        mqtt::publish_packet(&topic, id, mqtt::reading(device, seq).as_bytes())
    };
    let ledger = mqtt::publish_by(server.mqtt, device, 0..count, 200, LIMIT, packet);
    assert_eq!(ledger.acknowledged.len() as u64, count);
    (ledger, count as f64 / began.elapsed().as_secs_f64())
}

fn topics_and_subscriptions(clients: u64, each: u64) {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    pipeline::prepare(&server);
    let count = clients * each;
    let (before, alone) = publish(&server, "before", count);
    let own = format!("each={each}");
    let mut audience = Swarm::start("audience", server.mqtt, clients as usize, &[&own]);
    assert_eq!(audience.said()["subscriptions"], count);
    let (during, heard) = publish(&server, "during", count);
    // One message finds its one subscriber among all of them.
    let last = audience.finish();
    assert_eq!(last["heard"], count, "{last}");
    server.forebay(&pipeline::FLUSH);
    let ledgers = [("before", &before), ("during", &during)];
    let account = account::of_objects(&server.data_dir.join("lake"), ledgers);
    Row {
        fault: &format!("{count} topics, {count} subscriptions of {clients} clients"),
        rounds: 1,
        account: &account,
        peak_kib: server.peak_kib(),
        // A subscription is a place in a tree: a few words, its filter, its client; 1 KiB.
        bound_mib: BASE_MIB + count.div_ceil(1024),
        recovered: None,
        control: &format!(
            "{count} heard; {alone:.0} messages a second without subscriptions, {heard:.0} with"
        ),
    }
    .settle();
    assert!(heard * 10.0 > alone, "{heard:.0} a second, {alone:.0} without subscriptions");
}

#[test]
fn n9_a_hundred_thousand_topics_and_subscriptions_are_found_quickly() {
    topics_and_subscriptions(100, 1000);
}

/// N9: as many retained messages as there may be, and one more.
#[test]
fn k4_n9_a_flood_of_retained_messages_ends_at_its_bound() {
    /// `retained_count_max`.
    const COUNT: u64 = 100_000;
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(&folder.path().join("data"));
    pipeline::prepare(&server);
    let packet = |id, seq| {
        let topic = format!("load/{seq}/readings");
        mqtt::retain_packet(&topic, id, mqtt::reading("kept", seq).as_bytes())
    };
    let ledger = mqtt::publish_by(server.mqtt, "kept", 0..COUNT, 200, LIMIT, packet);
    assert_eq!(ledger.acknowledged.len() as u64, COUNT);
    // One more is refused, and closed over, for MQTT 3.1.1 has no other way to say it.
    let one_more = |server: &Server, topic: &str, payload: &[u8]| {
        let mut session = Session::plain(server.mqtt, "one-more").unwrap();
        session.send(&mqtt::retain_packet(topic, 1, payload)).unwrap();
        session.packet().ok()
    };
    let taken = Some((0x40, vec![0, 1]));
    assert_eq!(one_more(&server, "one/more", b"x"), None);
    // What is there may be replaced, and whoever ends one makes room.
    assert_eq!(
        one_more(&server, "load/7/readings", b"{\"device\":\"kept\",\"seq\":7000000}"),
        taken
    );
    assert_eq!(one_more(&server, "load/8/readings", b""), taken);
    assert_eq!(one_more(&server, "one/more", b"x"), taken);
    assert_eq!(one_more(&server, "two/more", b"x"), None);
    let recovered = newcomer(&server);
    // All of them are there for whoever comes, after a restart as well.
    let given = mqtt::retained(server.mqtt, "reader", "#").unwrap().len() as u64;
    assert_eq!(given, COUNT);
    server.kill();
    let killed = Instant::now();
    server.restart();
    let restart = killed.elapsed();
    let given = mqtt::retained(server.mqtt, "reader", "#").unwrap().len() as u64;
    assert_eq!(given, COUNT);
    server.forebay(&pipeline::FLUSH);
    let mut ledger = ledger;
    ledger.sent.push(7_000_000);
    ledger.acknowledged.push(7_000_000);
    let set_aside = server.metric("delivery_records_set_aside_total");
    assert_eq!(set_aside, 1.0, "the empty message is no reading");
    let account = account::of_objects(&server.data_dir.join("lake/lake/raw"), [("kept", &ledger)]);
    Row {
        fault: &format!("{COUNT} retained messages, and one more"),
        rounds: 1,
        account: &account,
        peak_kib: server.peak_kib(),
        // `retained_bytes_max`, and 1 KiB for what surrounds each: twice, for a reader's queue.
        bound_mib: BASE_MIB + 64 + 2 * COUNT.div_ceil(1024),
        recovered: Some(recovered),
        control: &format!(
            "the {}st refused; all there after kill -9, {} ms to be back",
            COUNT + 1,
            restart.as_millis()
        ),
    }
    .settle();
}
