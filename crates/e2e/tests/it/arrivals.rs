//! Many at once: ten thousand that arrive together, a storm that comes and goes, and no
//! descriptors left. Everybody gets in, and whoever was there before notices nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use e2e::account;
use e2e::mqtt::Ledger;
use e2e::row::Row;
use e2e::swarm::{self, Swarm};
use e2e::{Server, wait_for};

use crate::peers::{BASE_MIB, Bystander, newcomer};
use crate::pipeline;

fn audit(server: &Server, bystander: &Bystander, crowd: &Ledger) -> account::Account {
    server.forebay(&pipeline::FLUSH);
    let ledgers = [bystander.ledger(), ("crowd", crowd)];
    account::of_objects(&server.data_dir.join("lake"), ledgers)
}

/// Everybody connects at once, with a certificate or without, and publishes one reading.
fn arrive(count: usize, kit: bool, each_kib: u64) {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    pipeline::prepare(&server);
    if !server.allow_descriptors(count + 500) {
        return;
    }
    let kit = kit.then(|| folder.path().join("kit"));
    let mut settings = vec!["id=crowd".to_owned()];
    let mut broker = server.mqtt;
    if let Some(kit) = &kit {
        let kit = kit.to_string_lossy();
        server.forebay(&["device", "add", "crowd", "--kit", &kit]);
        settings.push(format!("kit={kit}"));
        broker = server.mqtts;
    }
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let mut bystander = Bystander::new(&server, 100);
    let (said, crowd, open) = bystander.during(&server, |_| {
        let mut crowd = Swarm::start("crowd", broker, count, &settings);
        let said = crowd.said();
        let open = server.descriptors();
        (said, crowd, open)
    });
    assert_eq!(said["arrived"], count, "not everybody got in: {} attempts", said["attempts"]);
    assert!(open >= count, "{open} descriptors for {count} connections");
    assert!(server.metric("broker_connections") >= count as f64);
    assert_eq!(crowd.finish()["held"], count);
    wait_for("everybody to be gone", Duration::from_secs(30), || {
        server.metric("broker_connections") == 0.0
    });
    let account = audit(&server, &bystander, &swarm::ledger(&said));
    let slowest = Duration::from_millis(said["slowest_ms"].as_u64().unwrap());
    let over = if kit.is_some() { "mutual TLS" } else { "TCP" };
    Row {
        fault: &format!("{count} connections at once over {over}"),
        rounds: 1,
        account: &account,
        peak_kib: server.peak_kib(),
        bound_mib: BASE_MIB + (count as u64 * each_kib).div_ceil(1024),
        recovered: Some(slowest),
        control: &format!(
            "{open} descriptors, {} attempts, half in after {} ms; {}",
            said["attempts"], said["half_ms"], bystander.told
        ),
    }
    .settle();
}

/// What an arrival may cost at its worst, reading and record included: CONNECT's buffer, the task
/// and the session; over TLS 256 of them, in the midst of a handshake, more for a moment (K2).
const TCP_KIB: u64 = 8;
const TLS_KIB: u64 = 64;

#[test]
fn k1_ten_thousand_connections_at_once_all_get_in() {
    arrive(10_000, false, TCP_KIB);
}

#[test]
fn k1_five_hundred_connections_over_mutual_tls_at_once_all_get_in() {
    arrive(500, true, TLS_KIB);
}

#[test]
#[ignore = "long: 18,000 and 5,000 connections"]
fn k1_long_connections_at_once() {
    arrive(17_500, false, TCP_KIB);
    arrive(5_000, true, TLS_KIB);
}

/// W2: clients that come and go.
fn storm(secs: u64) {
    const RATE: u64 = 2000;
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    pipeline::prepare(&server);
    let open = server.descriptors();
    let mut bystander = Bystander::new(&server, 100);
    let settings = [format!("rate={RATE}"), format!("secs={secs}")];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let (said, ended) = bystander.during(&server, |_| {
        let said = Swarm::start("storm", server.mqtt, 18_000, &settings).finish();
        (said, Instant::now())
    });
    wait_for("the descriptors", Duration::from_secs(10), || server.descriptors() <= open + 5);
    let recovered = ended.elapsed() + newcomer(&server);
    let (done, failed) = (said["done"].as_u64().unwrap(), said["failed"].as_u64().unwrap());
    assert_eq!(done + failed, RATE * secs);
    assert_eq!(failed, 0, "{said}");
    let accepted = server.metric("broker_connections_accepted_total");
    assert!(accepted >= done as f64, "{accepted} accepted of {done}");
    let account = audit(&server, &bystander, &Ledger::default());
    Row {
        fault: &format!("{RATE} connects and closes a second for {secs} s"),
        rounds: done,
        account: &account,
        peak_kib: server.peak_kib(),
        bound_mib: BASE_MIB + 64,
        recovered: Some(recovered),
        control: &format!("{accepted} accepted in {} ms; {}", said["took_ms"], bystander.told),
    }
    .settle();
}

#[test]
fn w2_a_storm_of_connections_that_come_and_go_harms_nobody() {
    storm(3);
}

#[test]
#[ignore = "long: 30 seconds"]
fn w2_long_a_storm_of_connections() {
    storm(30);
}

/// More clients than descriptors: the rest wait outside, and nothing spins.
fn exhausted(data_dir: &Path, rounds: u64) {
    const SPARE: usize = 40;
    const CROWD: usize = 120;
    const HELD: Duration = Duration::from_secs(3);
    let server = Server::start(data_dir);
    pipeline::prepare(&server);
    let mut bystander = Bystander::new(&server, 200);
    let (mut slowest, mut used) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..rounds {
        let limit = server.descriptors() + SPARE;
        if !server.allow_descriptors(limit) {
            return;
        }
        bystander.during(&server, |told| {
            let crowd = Swarm::start("crowd", server.mqtt, CROWD, &["id=lost"]);
            wait_for("the descriptors to run out", Duration::from_secs(20), || {
                server.descriptors() >= limit
            });
            let (before, cpu) = (told.acknowledged(), server.cpu_time());
            std::thread::sleep(HELD);
            used = used.max(server.cpu_time() - cpu);
            assert!(server.descriptors() >= limit - 2, "they are free again");
            let acknowledged = told.acknowledged() - before;
            assert!(acknowledged >= 100, "whoever is in is not served: {acknowledged}");
            let ended = Instant::now();
            drop(crowd);
            newcomer(&server);
            slowest = slowest.max(ended.elapsed());
        });
    }
    assert!(used < HELD / 2, "accepting spins: {used:?} of processor time in {HELD:?}");
    let failed = server.metric("broker_accepts_failed_total");
    assert!(failed >= 1.0, "no accept failed");
    server.forebay(&pipeline::FLUSH);
    // The crowd's readings are nobody's promise here: it was cut off in the middle.
    let found = account::delivered(&server.data_dir.join("lake"));
    let mut lost: Vec<u64> = found.keys().filter(|(d, _)| d == "lost").map(|(_, s)| *s).collect();
    lost.sort_unstable();
    let crowd = Ledger { sent: lost, acknowledged: Vec::new() };
    let ledgers = [bystander.ledger(), ("lost", &crowd)];
    let account = account::of_objects(&server.data_dir.join("lake"), ledgers);
    Row {
        fault: "no descriptors left",
        rounds,
        account: &account,
        peak_kib: server.peak_kib(),
        bound_mib: BASE_MIB,
        recovered: Some(slowest),
        control: &format!(
            "{failed} accepts failed, {} ms of processor in {} s; {}",
            used.as_millis(),
            HELD.as_secs(),
            bystander.told
        ),
    }
    .settle();
}

#[test]
fn w2_without_descriptors_accepting_waits_and_does_not_spin() {
    let folder = tempfile::tempdir().unwrap();
    exhausted(&folder.path().join("data"), 1);
}

#[test]
#[ignore = "long: 10 rounds"]
fn w2_long_without_descriptors() {
    let folder = tempfile::tempdir().unwrap();
    exhausted(&folder.path().join("data"), 10);
}
