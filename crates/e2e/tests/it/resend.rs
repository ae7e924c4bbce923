//! Foreign clients that lose their server again and again and send again what was not settled:
//! within a session each reading is recorded once.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use e2e::account::{self, Account};
use e2e::row::Row;
use e2e::{Random, Server};
use serde_json::Value;

use crate::pipeline;

/// As for sessions under kill -9.
const BOUND_MIB: u64 = 128;

/// A client of paho, or of AWS's device SDK, that publishes until it is told to finish.
const PROGRAM: &str = include_str!("../py/resend.py");

/// `client` is `paho-3.1.1`, `paho-5`, `awscrt-3.1.1` or `awscrt-5`.
fn resend(client: &str, qos: u8, rounds: u64) {
    let Some(python) = e2e::python(client) else { return };
    let seed = e2e::seed(7);
    let mut random = Random(seed);
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let mut server = Server::start(&data_dir);
    pipeline::prepare(&server);
    let kit = folder.path().join("kit");
    server.forebay(&["device", "add", "resender", "--kit", &kit.to_string_lossy()]);
    let program = folder.path().join("resend.py");
    std::fs::write(&program, PROGRAM).unwrap();
    let port = match client.starts_with("paho") {
        true => server.mqtt.port(),
        false => server.mqtts.port(),
    };
    let mut child = Command::new(&python)
        .arg(&program)
        .args([client, &port.to_string(), &qos.to_string()])
        .arg(&kit)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = || {
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    };
    assert_eq!(line(), "publishing", "{client}");
    let (mut slowest, mut peak_kib) = (Duration::ZERO, 0);
    for _ in 0..rounds {
        std::thread::sleep(Duration::from_millis(300 + random.below(900)));
        server.kill();
        let killed = Instant::now();
        server.restart();
        // Counters begin at nought with the process.
        e2e::wait_for("the client to come back", Duration::from_secs(60), || {
            server.metric("broker_messages_acknowledged_total") > 0.0
        });
        slowest = slowest.max(killed.elapsed());
        peak_kib = peak_kib.max(server.peak_kib());
    }
    child.stdin.take().unwrap().write_all(b"finish\n").unwrap();
    let said: Value = serde_json::from_str(&line()).unwrap();
    assert!(child.wait().unwrap().success(), "{client}");
    let sent = said["sent"].as_u64().unwrap();
    assert_eq!(said["acknowledged"], sent, "{client}: {said}");
    server.forebay(&pipeline::FLUSH);
    let ledger = e2e::mqtt::Ledger { sent: (0..sent).collect(), acknowledged: (0..sent).collect() };
    let account: Account = account::of_objects(&data_dir.join("lake"), [("resender", &ledger)]);
    let under_way = said["under_way"].as_u64().unwrap();
    assert!(under_way > 0, "{client}: nothing was under way when the server went: {said}");
    let again = match said["again"].as_u64() {
        Some(again) => {
            assert!(again > 0, "{client} sent nothing again: {said}");
            format!(", {again} marked as sent again")
        }
        // The library does not tell.
        None => String::new(),
    };
    Row {
        fault: &format!("kill -9, {client} sends again at QoS {qos}"),
        rounds,
        account: &account,
        peak_kib,
        bound_mib: BOUND_MIB,
        recovered: Some(slowest),
        control: &format!("{under_way} under way at the kills{again}"),
    }
    .settle();
}

#[test]
fn d1_paho_3_1_1_sends_again_at_qos_1_and_each_reading_is_recorded_once() {
    resend("paho-3.1.1", 1, 3);
}

#[test]
fn d1_paho_5_sends_again_at_qos_2_and_each_reading_is_recorded_once() {
    resend("paho-5", 2, 3);
}

#[test]
fn d1_awss_device_sdk_sends_again_and_each_reading_is_recorded_once() {
    resend("awscrt-3.1.1", 1, 2);
    resend("awscrt-5", 1, 2);
}

#[test]
#[ignore = "long: 20 kills for each client"]
fn d1_long_foreign_clients_send_again() {
    for (client, qos) in [
        ("paho-3.1.1", 1),
        ("paho-3.1.1", 2),
        ("paho-5", 1),
        ("paho-5", 2),
        ("awscrt-3.1.1", 1),
        ("awscrt-5", 1),
    ] {
        resend(client, qos, 20);
    }
}
