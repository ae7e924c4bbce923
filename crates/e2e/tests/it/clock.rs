//! Steps of the wall clock under a running server, by faketime: it moves the wall clock of one
//! process and leaves its monotonic clock and everybody else's alone.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use e2e::{Server, mqtt};
use serde_json::Value;

const DAY_MILLIS: i64 = 86_400_000;
const HOUR_MILLIS: i64 = 3_600_000;
const LIMIT: Duration = Duration::from_secs(30);
/// As short as clients set it; the server waits half as long again.
const KEEP_ALIVE_SECS: u8 = 2;

/// The wall clock of servers started with it.
struct WallClock {
    library: String,
    file: PathBuf,
}

impl WallClock {
    /// `None` after saying SKIPPED.
    fn new(folder: &Path) -> Option<WallClock> {
        let folders = std::fs::read_dir("/usr/lib").ok()?.map_while(Result::ok);
        let places = folders.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
        let Some(library) = places.into_iter().find(|path| path.exists()) else {
            e2e::skip("steps of the wall clock: libfaketime is not installed");
            return None;
        };
        let library = library.to_string_lossy().into_owned();
        let clock = WallClock { library, file: folder.join("wall-clock") };
        clock.set("+0");
        Some(clock)
    }

    /// Sets it, as an offset to the true time. The file is there whole or as it was.
    fn set(&self, offset: &str) {
        let draft = self.file.with_extension("draft");
        std::fs::write(&draft, format!("{offset}\n")).unwrap();
        std::fs::rename(draft, &self.file).unwrap();
    }

    fn start(&self, data_dir: &Path) -> Server {
        let file = self.file.to_string_lossy();
        let environment = [
            ("LD_PRELOAD", self.library.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", &file),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        let server = Server::start_with(data_dir, &[], &environment);
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", server.pid())).unwrap();
        assert!(maps.contains("libfaketime"), "the server has the true clock: {}", server.log());
        server
    }
}

/// A connection that is looked after as clients do: PINGREQ, and whatever comes is read.
struct Client {
    stream: TcpStream,
}

impl Client {
    /// Connects with these bytes behind the protocol's name; gives the CONNACK's flags, too.
    fn connect(server: &Server, packet: &[u8]) -> (Client, u8) {
        let mut stream = TcpStream::connect(server.mqtt).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(packet).unwrap();
        let mut head = [0; 4];
        stream.read_exact(&mut head).unwrap();
        assert_eq!((head[0], head[3]), (0x20, 0), "no CONNACK that accepts: {head:?}");
        // The properties of MQTT 5.
        let mut rest = vec![0; usize::from(head[1]) - 2];
        stream.read_exact(&mut rest).unwrap();
        (Client { stream }, head[2])
    }

    fn plain(server: &Server, id: &str) -> Client {
        let mut packet = mqtt::connect(id);
        // Fixed header 2, protocol name 6, level, flags, then the keep-alive.
        packet[10..12].copy_from_slice(&[0, KEEP_ALIVE_SECS]);
        Client::connect(server, &packet).0
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the server ended a connection");
    }

    /// How long the server keeps it while it says nothing.
    fn silent_for(mut self) -> Duration {
        let started = Instant::now();
        let mut bytes = [0; 256];
        while self.stream.read(&mut bytes).is_ok_and(|count| count > 0) {}
        started.elapsed()
    }
}

/// CONNECT of MQTT 5 for a session that is kept for ten minutes, with a will after five.
fn connect_with_delayed_will(id: &str) -> Vec<u8> {
    let string = |text: &str| {
        let mut out = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
        out.extend(text.as_bytes());
        out
    };
    // Will at QoS 0; not a clean start.
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 5, 0b100, 0, KEEP_ALIVE_SECS];
    body.extend([5, 0x11]);
    body.extend(600_u32.to_be_bytes());
    body.extend(string(id));
    body.extend([5, 0x18]);
    body.extend(300_u32.to_be_bytes());
    body.extend(string("load/will"));
    body.extend(string(r#"{"will":true}"#));
    let mut packet = vec![0x10, u8::try_from(body.len()).unwrap()];
    packet.extend(body);
    packet
}

/// Publishes readings with rising numbers, one every twenty milliseconds, each after the PUBACK
/// of the one before; ends with how many were acknowledged.
fn publish(server: &Server, id: &str, count: &AtomicU64, stop: &AtomicBool) {
    let mut client = Client::plain(server, id);
    while !stop.load(Ordering::SeqCst) {
        let seq = count.load(Ordering::SeqCst);
        let packet_id = u16::try_from(seq % 60_000).unwrap() + 1;
        let payload = format!(r#"{{"seq":{seq}}}"#);
        client.send(&mqtt::publish_packet("load/readings", packet_id, payload.as_bytes()));
        let mut puback = [0; 4];
        client.stream.read_exact(&mut puback).expect("the publisher was disconnected");
        assert_eq!(puback[..2], [0x40, 2]);
        count.store(seq + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Pings once a second until told to stop.
fn stay(server: &Server, id: &str, stop: &AtomicBool) {
    let mut client = Client::plain(server, id);
    while !stop.load(Ordering::SeqCst) {
        client.send(&[0xc0, 0]);
        let mut pong = [0; 2];
        client.stream.read_exact(&mut pong).expect("a client that pings was disconnected");
        assert_eq!(pong, [0xd0, 0]);
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Waits until so many more readings were acknowledged and an object was delivered.
fn go_on(server: &Server, count: &AtomicU64, what: &str) {
    let (sent, delivered) = (count.load(Ordering::SeqCst), server.metric("delivery_objects_total"));
    e2e::wait_for(&format!("readings and an object {what}"), LIMIT, || {
        count.load(Ordering::SeqCst) >= sent + 50
            && server.metric("delivery_objects_total") > delivered
    });
}

/// Sequence number and stamp of every reading in the log, in the order of their offsets, which
/// must be dense.
fn logged(server: &Server) -> Vec<(u64, i64)> {
    let sql = "SELECT seq FROM 'load/readings'";
    let tried = server.forebay(&["rule", "try", "--sql", sql, "--last", "1000000"]);
    let durable = server.metric("journal_durable_offset");
    assert!(tried["tried"].as_f64().unwrap() <= durable);
    assert_eq!((&tried["unreadable"], &tried["left_out"]), (&0.into(), &0.into()));
    let rows = tried["results"].as_array().unwrap();
    let offset = |row: &Value| row["offset"].as_u64().unwrap();
    assert!(rows.windows(2).all(|pair| offset(&pair[0]) < offset(&pair[1])), "out of order");
    let seq = |row: &Value| {
        let output: Value = serde_json::from_str(row["output"].as_str().unwrap()).unwrap();
        output["seq"].as_u64().unwrap()
    };
    rows.iter().map(|row| (seq(row), row["received_at"].as_i64().unwrap())).collect()
}

#[test]
fn a8_a_clock_that_jumps_ends_no_session_and_reorders_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let Some(clock) = WallClock::new(folder.path()) else { return };
    let data_dir = folder.path().join("data");
    let mut server = clock.start(&data_dir);
    // A log that keeps everything, and a stream whose batches end by age.
    server.forebay(&["stream", "create", "all", "--interval-secs", "900", "--size-mb", "128"]);
    server.forebay(&["stream", "create", "s", "--prefix", "raw/s/", "--interval-secs", "1"]);
    let sql = "SELECT * FROM 'load/#'";
    for stream in ["all", "s"] {
        server.forebay(&["rule", "create", stream, "--sql", sql, "--stream", stream]);
    }
    // Gone without a word: its session waits for ten minutes, its will for five.
    drop(Client::connect(&server, &connect_with_delayed_will("away")));
    e2e::wait_for("the session to be kept", LIMIT, || server.metric("broker_sessions_kept") > 0.5);

    let (count, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let mut jumps = Vec::new();
    std::thread::scope(|scope| {
        // However the jumps end, the clients must.
        let _stop = Stop(&stop);
        scope.spawn(|| publish(&server, "publisher", &count, &stop));
        scope.spawn(|| stay(&server, "pings", &stop));
        go_on(&server, &count, "before any step");
        for (offset, direction) in [("+1d", "forward"), ("-1h", "backward"), ("+0", "forward")] {
            let seen = server.metric("node_clock_steps_total");
            let warned = server.log().matches("the wall clock was set").count();
            jumps.push(count.load(Ordering::SeqCst));
            clock.set(offset);
            e2e::wait_for("the step to be noticed", LIMIT, || {
                server.metric("node_clock_steps_total") > seen + 0.5
                    && server.log().matches("the wall clock was set").count() > warned
            });
            // Longer than every keep-alive, and than a batch's age.
            go_on(&server, &count, &format!("after a step {direction} to {offset}"));
            let patience = Duration::from_millis(u64::from(KEEP_ALIVE_SECS) * 1500 + 500);
            std::thread::sleep(patience);
            assert!(server.metric("broker_connections_closed_total") < 0.5, "{}", server.log());
            assert!(server.metric("broker_sessions_connected") > 1.5, "{}", server.log());
        }
        // The control: keep-alive still ends who is silent, and no sooner.
        let silent = Client::plain(&server, "silent").silent_for();
        let due = Duration::from_millis(u64::from(KEEP_ALIVE_SECS) * 1500);
        assert!(silent >= due - Duration::from_millis(50), "closed after {silent:?}");
        assert!(silent < due * 3, "a silent client is kept for {silent:?}");
    });
    assert!(server.metric("broker_sessions_expired_total") < 0.5, "a session expired early");
    assert!(server.metric("broker_wills_published_total") < 0.5, "a will came early");
    assert!(server.metric("broker_sessions_kept") > 0.5);
    assert!(server.metric("node_clock_steps_total") > 2.5);
    let stepped = server.metric("node_clock_step_seconds_total");
    assert!(stepped > 49.9 * 3600.0, "steps of a day, 25 hours and an hour: {stepped} s");
    assert!(server.log().contains("step_seconds=86"), "{}", server.log());

    // The log: every reading once, in the order of its sender, with stamps that jumped.
    let sent = count.load(Ordering::SeqCst);
    let readings = logged(&server);
    assert_eq!(readings.len() as u64, sent);
    assert!((0..).zip(&readings).all(|(seq, (found, _))| seq == *found), "readings are missing");
    let jumped = |by: &dyn Fn(i64) -> bool| {
        readings.windows(2).filter(|pair| by(pair[1].1 - pair[0].1)).count()
    };
    let long = HOUR_MILLIS / 2;
    assert_eq!(jumped(&|by| by > DAY_MILLIS - long), 1, "no step of a day in the log");
    assert_eq!(jumped(&|by| by < -DAY_MILLIS), 1, "no step back of 25 hours in the log");
    assert_eq!(jumped(&|by| by.abs() > long), 3);
    println!(
        "clock: {sent} readings through steps of +1 day, -25 hours and +1 hour (at {jumps:?}), \
         0 disconnected, 0 expired, 0 out of order"
    );

    // S14: across a restart, from a day ahead to an hour behind.
    clock.set("+1d");
    let mut early = Client::plain(&server, "early");
    early.send(&mqtt::publish_packet("load/readings", 1, br#"{"seq":1000000}"#));
    let mut puback = [0; 4];
    early.stream.read_exact(&mut puback).unwrap();
    server.kill();
    drop(server);
    clock.set("-1h");
    let server = clock.start(&data_dir);
    let (away, present) = Client::connect(&server, &connect_with_delayed_will("away"));
    assert_eq!(present & 1, 1, "the session did not survive a restart with the clock set back");
    let mut late = Client::plain(&server, "late");
    late.send(&mqtt::publish_packet("load/readings", 1, br#"{"seq":1000001}"#));
    late.stream.read_exact(&mut puback).unwrap();
    let readings = logged(&server);
    let last = &readings[readings.len() - 2..];
    assert_eq!((last[0].0, last[1].0), (1_000_000, 1_000_001));
    assert!(last[1].1 < last[0].1 - DAY_MILLIS, "the stamps do not show the step: {last:?}");
    let delivered = server.metric("delivery_objects_total");
    let of_stream = |server: &Server| server.metric("delivery_objects_total") > delivered;
    e2e::wait_for("a batch to end by its age", LIMIT, || of_stream(&server));
    drop((away, late));
    server.forebay(&["stream", "flush", "s"]);
    let mut delivered: Vec<u64> = e2e::files_below(&data_dir.join("lake/lake/raw/s"))
        .iter()
        .flat_map(|file| {
            let text = std::fs::read_to_string(file).unwrap();
            let seq = |line: &str| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64();
            text.lines().filter_map(seq).collect::<Vec<_>>()
        })
        .collect();
    delivered.sort_unstable();
    let expect: Vec<u64> = (0..sent).chain([1_000_000, 1_000_001]).collect();
    assert_eq!(delivered, expect, "not every reading is delivered once");
    assert!(server.metric("delivery_records_doubled_total") < 0.5);
    assert_eq!(e2e::http_get(server.http, "/healthz").unwrap().0, 200);
}

/// Tells threads to stop, also when a check fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}
