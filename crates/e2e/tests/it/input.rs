//! Bad input and unwelcome clients: each gets a clear answer or lands in the error prefix with
//! its reason, the counts add up, and the server stays well.

use std::collections::HashMap;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::Server;
use e2e::mqtt::{Session, file_ending, tls_config};
use serde_json::Value;

/// Payloads that no rule can read, and a word of the reason each must get.
fn unreadable() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let nested = [b"[".repeat(5000), b"]".repeat(5000)].concat();
    vec![
        ("cut-off", br#"{"seq": 1, "ozone": "#.to_vec(), ""),
        ("not-json", b"ozone=41.5".to_vec(), ""),
        ("two-values", br#"{"seq":1}{"seq":2}"#.to_vec(), ""),
        ("nan", br#"{"ozone": NaN}"#.to_vec(), ""),
        ("too-large", br#"{"ozone": 1e400}"#.to_vec(), "1e400"),
        ("duplicate-key", br#"{"ozone": 1, "ozone": 2}"#.to_vec(), "ozone"),
        ("not-utf8", b"{\"device\": \"\xff\xfe\"}".to_vec(), ""),
        ("empty", Vec::new(), ""),
        ("deep", nested, ""),
        ("zero-bytes", vec![0; 64], ""),
    ]
}

#[test]
fn bad_payloads_are_set_aside_with_their_reason_and_their_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    server.forebay(&[
        "stream",
        "create",
        "bad",
        "--prefix",
        "raw/bad/",
        "--error-prefix",
        "errors/bad/",
        "--interval-secs",
        "1",
    ]);
    let sql = "SELECT *, topic() AS topic FROM 'bad/#'";
    server.forebay(&["rule", "create", "bad", "--sql", sql, "--stream", "bad"]);
    let mut session = Session::plain(server.mqtt, "sender").unwrap();
    let mut fine = HashMap::new();
    let battery = unreadable();
    for (index, (name, payload, _)) in battery.iter().enumerate() {
        let (topic, reading) =
            (format!("bad/fine/{index}"), format!(r#"{{"seq":{index},"ozone":41.5,"gap":null}}"#));
        session.publish(&topic, reading.as_bytes()).unwrap();
        fine.insert(topic, reading);
        session.publish(&format!("bad/{name}"), payload).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    session.publish("nobody/asked", b"{}").unwrap();
    let acknowledged = battery.len() + fine.len();

    server.forebay(&["stream", "flush", "bad"]);
    let rows = lines_below(&server.data_dir.join("lake/lake/raw/bad"));
    let errors = lines_below(&server.data_dir.join("lake/lake/errors/bad"));
    assert_eq!(rows.len() + errors.len(), acknowledged, "delivered {rows:?}\nset aside {errors:?}");
    for mut row in rows {
        let topic = row.as_object_mut().unwrap().remove("topic").unwrap();
        let sent = fine
            .remove(topic.as_str().unwrap())
            .unwrap_or_else(|| panic!("{topic} was delivered: {row}"));
        assert_eq!(row, serde_json::from_str::<Value>(&sent).unwrap());
    }
    assert!(fine.is_empty(), "not delivered: {fine:?}");
    for (name, payload, word) in &battery {
        let topic = format!("bad/{name}");
        let of_topic: Vec<&Value> =
            errors.iter().filter(|error| error["topic"] == topic.as_str()).collect();
        assert_eq!(of_topic.len(), 1, "{name}: {of_topic:?}");
        let error = of_topic[0];
        let reason = error["errorMessage"].as_str().unwrap();
        assert!(!reason.is_empty() && reason.contains(word), "{name}: {reason:?}");
        assert_eq!(
            &base64(error["rawData"].as_str().unwrap()),
            payload,
            "{name}: the bytes changed"
        );
    }

    // The counts add up, and the reading nobody asked for counts as received only.
    let streams = server.forebay(&["stream", "list"]);
    let stream = &streams["streams"][0];
    assert_eq!(stream["matched"], acknowledged, "{stream}");
    assert_eq!(
        stream["delivered"].as_u64().unwrap() + stream["set_aside"].as_u64().unwrap(),
        acknowledged as u64
    );
    let all = (acknowledged + 1) as f64;
    assert!((server.metric("broker_messages_received_total") - all).abs() < 0.5);
    assert!((server.metric("broker_messages_acknowledged_total") - all).abs() < 0.5);
    assert_well(&server);
}

#[test]
fn an_oversized_payload_is_refused_and_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut other = Session::plain(server.mqtt, "other").unwrap();
    let mut large = Session::plain(server.mqtt, "large").unwrap();
    large.publish("size/limit", &vec![b'x'; 128 * 1024]).expect("128 KiB are allowed");
    let refused = large.publish("size/over", &vec![b'x'; 1024 * 1024]);
    assert!(refused.is_err(), "1 MiB was acknowledged");
    other.publish("size/other", b"{}").expect("another client goes on");
    Session::plain(server.mqtt, "large")
        .expect("the same client may come back")
        .publish("size/again", b"{}")
        .unwrap();
    // None of the payloads is JSON, so every logged one counts as failed.
    let logged = |filter: &str| {
        let sql = format!("SELECT * FROM '{filter}'");
        server.forebay(&["rule", "try", "--sql", &sql, "--last", "1000"])["failed"].clone()
    };
    assert_eq!(logged("size/over"), 0, "a refused message is in the log");
    assert_eq!(logged("size/limit"), 1);
    assert!(
        server.metric("broker_messages_refused_total")
            + server.metric("broker_connections_closed_total")
            > 0.5
    );
    assert_well(&server);
}

#[test]
fn bytes_that_are_no_mqtt_close_one_connection_only() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut other = Session::plain(server.mqtt, "other").unwrap();
    let after_connect: [(&str, &[u8]); 6] = [
        ("reserved type", &[0x00, 0x00]),
        ("endless length", &[0x32, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("topic longer than the packet", &[0x32, 4, 0xff, 0xff, b'a', b'b']),
        ("topic is no UTF-8", &[0x32, 6, 0, 2, 0xff, 0xfe, 0, 1]),
        ("wildcard in a topic", &[0x32, 7, 0, 3, b'a', b'/', b'#', 0, 1]),
        ("quality of service 3", &[0x36, 5, 0, 1, b'a', 0, 1]),
    ];
    for (what, bytes) in after_connect {
        let mut session = Session::plain(server.mqtt, "bad").unwrap();
        session.send(bytes).unwrap();
        assert!(
            session.ended_within(Duration::from_secs(5)).is_some(),
            "{what}: the connection stays open"
        );
        other.publish("fine", b"{}").unwrap_or_else(|e| panic!("after {what}: {e}"));
    }
    let http = std::net::TcpStream::connect(server.mqtt).unwrap();
    std::io::Write::write_all(&mut &http, b"GET / HTTP/1.1\r\n\r\n").unwrap();
    other.publish("fine", b"{}").unwrap();
    assert_well(&server);
}

#[test]
fn only_active_certificates_connect_and_revocation_is_quick() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    let [kit, second, foreign] = ["kit", "second", "foreign"].map(|name| folder.path().join(name));
    let path = |folder: &Path| folder.to_string_lossy().into_owned();
    let port = server.mqtts.port().to_string();
    server.forebay(&["device", "add", "roof-1", "--kit", &path(&kit), "--port", &port]);
    server.forebay(&["device", "add", "roof-2", "--kit", &path(&second), "--port", &port]);
    // Another Forebay's CA: as good a certificate as any, but not ours.
    e2e::forebay(
        &folder.path().join("elsewhere"),
        &["device", "add", "roof-1", "--kit", &path(&foreign)],
    );
    let root = file_ending(&kit, "oot-CA.crt");
    let connect = |id: &str, identity: Option<&Path>| {
        Session::tls(server.mqtts, id, tls_config(&root, identity))
    };

    for (who, identity) in [("no certificate", None), ("another CA", Some(foreign.as_path()))] {
        let refused =
            connect("roof-1", identity).err().unwrap_or_else(|| panic!("{who}: connected"));
        println!("{who}: {refused}");
        assert!(refused.to_string().contains("alert"), "{who} gets no TLS alert: {refused}");
    }
    let mut live = connect("roof-1", Some(&kit)).unwrap();
    let mut other = connect("roof-2", Some(&second)).unwrap();
    live.publish("air/roof-1", b"{}").unwrap();

    let (asked, waiting) =
        (Instant::now(), std::thread::spawn(move || live.ended_within(Duration::from_secs(5))));
    server.forebay(&["device", "revoke", "roof-1"]);
    let ended = waiting.join().unwrap();
    println!(
        "revoked: the live session ended {} ms after the command was started",
        asked.elapsed().as_millis()
    );
    assert!(
        ended.is_some() && asked.elapsed() < Duration::from_secs(1),
        "the live session went on: {ended:?}"
    );
    let refused = connect("roof-1", Some(&kit)).err().expect("a revoked certificate connected");
    println!("revoked: {refused}");
    other.publish("air/roof-2", b"{}").expect("the other device goes on");

    // A fresh certificate for the same device works at once.
    let fresh = folder.path().join("fresh");
    server.forebay(&["device", "kit", "roof-1", "--kit", &path(&fresh), "--port", &port]);
    connect("roof-1", Some(&fresh)).unwrap().publish("air/roof-1", b"{}").unwrap();
    assert!(
        (server.metric("broker_connections_closed_total") - 1.0).abs() < 0.5,
        "one session was closed by us"
    );
    assert_well(&server);
}

fn assert_well(server: &Server) {
    let (status, body) = e2e::http_get(server.http, "/healthz").unwrap();
    assert_eq!(status, 200, "{body}");
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

/// The JSON lines of all objects below a folder, in the order of their keys.
fn lines_below(folder: &Path) -> Vec<Value> {
    let mut lines = Vec::new();
    for file in e2e::files_below(folder) {
        let text = std::fs::read_to_string(&file).unwrap();
        lines.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
    }
    lines
}

/// Decodes base64 with its padding.
fn base64(text: &str) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut held, mut out) = (0u32, 0, Vec::new());
    for digit in text.bytes().filter(|digit| *digit != b'=') {
        let value = DIGITS.iter().position(|known| *known == digit).expect("a base64 digit");
        bits = bits << 6 | u32::try_from(value).unwrap();
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push(u8::try_from(bits >> held & 0xff).unwrap());
        }
    }
    out
}
