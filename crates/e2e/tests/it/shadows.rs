//! Kills under load: a shadow has every acknowledged update once, and in order.
//!
//! Each thing reports 1, 2, 3, ... to its shadow, whose version counts the updates it took. So the
//! two are equal whatever happens in between, and at least what was acknowledged.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use e2e::{Random, Server, mqtt};
use serde_json::Value;

/// Things, and the updates each has unacknowledged at most.
const WINDOWS: [u64; 3] = [50, 7, 1];

/// What one thing knows of its updates.
#[derive(Debug, Default)]
struct Reports {
    sent: u64,
    acknowledged: u64,
}

fn keep_reporting(
    broker: SocketAddr,
    thing: &str,
    window: u64,
    reports: &mut Reports,
) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(broker)?;
    stream.set_nodelay(true)?;
    stream.write_all(&mqtt::connect(thing))?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack)?;
    assert_eq!(connack, [0x20, 2, 0, 0]);
    stream.set_read_timeout(Some(Duration::from_millis(2)))?;
    let topic = format!("$aws/things/{thing}/shadow/update");
    let (mut packet_id, mut input) = (0_u16, Vec::new());
    loop {
        let mut burst = Vec::new();
        while reports.sent - reports.acknowledged < window {
            packet_id = packet_id.checked_add(1).unwrap_or(1);
            reports.sent += 1;
            let update = format!(r#"{{"state":{{"reported":{{"n":{}}}}}}}"#, reports.sent);
            burst.extend(mqtt::publish_packet(&topic, packet_id, update.as_bytes()));
        }
        stream.write_all(&burst)?;
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(count) => input.extend_from_slice(&bytes[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
        while let [0x40, 2, _, _, ..] = input[..] {
            reports.acknowledged += 1;
            input.drain(..4);
        }
    }
}

/// Asks for each shadow, which is told after all that lies in the log before; goes on from there.
fn settle(server: &Server, things: &mut [(String, Reports)], what: &str) -> bool {
    let mut under_way = false;
    for (thing, reports) in things {
        let topic = format!("$aws/things/{thing}/shadow/get");
        let (filter, request) = (format!("{topic}/+"), (topic.as_str(), &b""[..]));
        let (said, payload) = mqtt::answer(server.mqtt, "newcomer", &filter, request).unwrap();
        let shadow: Value = serde_json::from_slice(&payload).unwrap();
        let (version, seen) = match said.ends_with("/accepted") {
            true => (shadow["version"].as_u64(), shadow["state"]["reported"]["n"].as_u64()),
            false => (Some(0), Some(0)),
        };
        assert_eq!(version, seen, "{what}: {thing} took an update twice or out of turn: {shadow}");
        let seen = seen.unwrap();
        assert!(
            (reports.acknowledged..=reports.sent).contains(&seen),
            "{what}: {thing} has {seen}; {reports:?}"
        );
        under_way |= reports.sent > reports.acknowledged;
        *reports = Reports { sent: seen, acknowledged: seen };
    }
    under_way
}

fn kills(count: u64) {
    let seed = e2e::seed(5);
    let mut random = Random(seed);
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let mut things: Vec<(String, Reports)> =
        (0..WINDOWS.len()).map(|thing| (format!("thing-{thing}"), Reports::default())).collect();
    let mut hits = 0;
    let mut server = Server::start(&data_dir);
    for round in 0..count {
        let moment = Duration::from_millis(50 + random.below(600));
        let broker = server.mqtt;
        std::thread::scope(|scope| {
            for ((thing, reports), window) in things.iter_mut().zip(WINDOWS) {
                scope.spawn(move || {
                    // It ends with the broker.
                    drop(keep_reporting(broker, thing, window, reports));
                });
            }
            std::thread::sleep(moment);
            server.kill();
        });
        drop(server);
        server = Server::start(&data_dir);
        let what = format!("round {round}, seed {seed} (replay with FOREBAY_TEST_SEED={seed})");
        hits += u64::from(settle(&server, &mut things, &what));
    }
    let taken: u64 = things.iter().map(|(_, reports)| reports.acknowledged).sum();
    println!("shadows under kill -9: {count} rounds, {hits} hit, {taken} updates, seed {seed}");
    assert!(taken > 1_000, "hardly anything was under load: {things:?}");
    assert!(hits * 10 >= count * 8, "few kills hit updates under way: {hits}");
}

#[test]
fn a6_kill_9_under_load_keeps_every_acknowledged_update_of_a_shadow_once() {
    kills(4);
}

#[test]
#[ignore = "long: 60 rounds"]
fn a6_long_60_kills_keep_shadows() {
    kills(60);
}
