//! Kills under load: sessions that outlive their connection outlive the process, too.
//!
//! Devices publish in QoS 1 and 2 and keep, as MQTT wants it, what was not settled; watchers
//! hear all of it. After a kill everybody comes back, is told that there is a session, and sends
//! again what it must. In the end each reading is in the log once, QoS 2 brought each once, QoS 1
//! at least once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e2e::account::{self, Account};
use e2e::row::Row;
use e2e::{Random, Server, mqtt};
use serde_json::Value;

use crate::pipeline;

/// Quality of service and PUBLISHes kept unacknowledged of each device.
const DEVICES: [(u8, usize); 4] = [(1, 100), (2, 60), (1, 7), (2, 3)];

/// What the server may have resident: 64 MiB of log that waits for the disk, twice, mailboxes
/// of a few sessions, and 60 MiB of program.
const BOUND_MIB: u64 = 128;

/// How long a watcher that is to finish waits for more.
const QUIET: Duration = Duration::from_secs(2);

/// A connection with a kept session, by bytes.
struct Wire {
    stream: TcpStream,
    input: Vec<u8>,
    /// Whether the broker said that there was a session.
    present: bool,
}

impl Wire {
    fn open(broker: SocketAddr, client_id: &str) -> std::io::Result<Wire> {
        let mut stream = TcpStream::connect(broker)?;
        stream.set_nodelay(true)?;
        let mut hello = mqtt::connect(client_id);
        // Not a clean session.
        hello[9] = 0;
        stream.write_all(&hello)?;
        let mut connack = [0; 4];
        stream.read_exact(&mut connack)?;
        assert_eq!((connack[0], connack[3]), (0x20, 0), "{client_id}: {connack:02x?}");
        stream.set_read_timeout(Some(Duration::from_millis(2)))?;
        Ok(Wire { stream, input: Vec::new(), present: connack[2] == 1 })
    }

    /// The packets that have come; fails once the broker is gone.
    fn packets(&mut self) -> std::io::Result<Vec<Vec<u8>>> {
        let mut bytes = [0; 16 * 1024];
        match self.stream.read(&mut bytes) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.input.extend_from_slice(&bytes[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
        let mut packets = Vec::new();
        while let Some(bytes) = whole(&self.input) {
            packets.push(self.input.drain(..bytes).collect());
        }
        Ok(packets)
    }
}

fn whole(input: &[u8]) -> Option<usize> {
    let mut length = 0;
    for (at, byte) in input.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 127) << (7 * at);
        if byte & 128 == 0 {
            return (input.len() >= at + 2 + length).then_some(at + 2 + length);
        }
    }
    None
}

fn two(head: u8, id: u16) -> [u8; 4] {
    let [high, low] = id.to_be_bytes();
    [head, 2, high, low]
}

fn id_of(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[2], packet[3]])
}

/// A reading on its way from a device.
#[derive(Clone, Copy)]
struct Sending {
    id: u16,
    seq: u64,
    released: bool,
}

struct Device {
    name: String,
    qos: u8,
    window: usize,
    next: u64,
    last_id: u16,
    in_flight: VecDeque<Sending>,
    acknowledged: u64,
    connects: usize,
}

impl Device {
    fn packet(&self, sending: Sending, again: bool) -> Vec<u8> {
        if sending.released {
            return two(0x62, sending.id).to_vec();
        }
        let payload = format!(r#"{{"device":"{}","seq":{}}}"#, self.name, sending.seq);
        let topic = format!("load/{}/readings", self.name);
        let mut packet = mqtt::publish_packet(&topic, sending.id, payload.as_bytes());
        packet[0] = 0x30 | (self.qos << 1) | if again { 8 } else { 0 };
        packet
    }

    /// Publishes until the broker goes, or `finish` is set and everything is settled.
    fn run(&mut self, broker: SocketAddr, finish: &AtomicBool) -> std::io::Result<()> {
        let mut wire = Wire::open(broker, &self.name)?;
        assert_eq!(wire.present, self.connects > 0, "{} at connect {}", self.name, self.connects);
        self.connects += 1;
        let again: Vec<u8> =
            self.in_flight.iter().flat_map(|sending| self.packet(*sending, true)).collect();
        wire.stream.write_all(&again)?;
        loop {
            let mut burst = Vec::new();
            while self.in_flight.len() < self.window && !finish.load(Ordering::SeqCst) {
                self.last_id = self.last_id.checked_add(1).unwrap_or(1);
                let sending = Sending { id: self.last_id, seq: self.next, released: false };
                self.next += 1;
                self.in_flight.push_back(sending);
                burst.extend(self.packet(sending, false));
            }
            wire.stream.write_all(&burst)?;
            for packet in wire.packets()? {
                let id = id_of(&packet);
                let at = self.in_flight.iter().position(|sending| sending.id == id);
                match (packet[0], at) {
                    (0x40, Some(at)) => {
                        self.in_flight.remove(at);
                        self.acknowledged += 1;
                    }
                    (0x50, Some(at)) => {
                        self.in_flight[at].released = true;
                        wire.stream.write_all(&two(0x62, id))?;
                    }
                    (0x70, Some(at)) => {
                        assert!(self.in_flight[at].released, "{}: PUBCOMP too early", self.name);
                        self.in_flight.remove(at);
                        self.acknowledged += 1;
                    }
                    // An answer to what was answered already, after a resend.
                    (0x40 | 0x50 | 0x70, None) => {}
                    _ => panic!("{}: {packet:02x?}", self.name),
                }
            }
            if finish.load(Ordering::SeqCst) && self.in_flight.is_empty() {
                return Ok(());
            }
        }
    }
}

struct Watcher {
    name: &'static str,
    filter: &'static str,
    qos: u8,
    subscribed: bool,
    connects: usize,
    /// QoS 2 packet ids that wait for PUBREL.
    open: BTreeSet<u16>,
    /// What came, by device, in order.
    heard: BTreeMap<String, Vec<u64>>,
}

impl Watcher {
    fn new(name: &'static str, filter: &'static str, qos: u8) -> Watcher {
        let (open, heard) = (BTreeSet::new(), BTreeMap::new());
        Watcher { name, filter, qos, subscribed: false, connects: 0, open, heard }
    }

    /// Listens until the broker goes, or `finish` is set and nothing comes any more.
    fn run(&mut self, broker: SocketAddr, finish: &AtomicBool) -> std::io::Result<()> {
        let mut wire = Wire::open(broker, self.name)?;
        assert_eq!(wire.present, self.connects > 0, "{} at connect {}", self.name, self.connects);
        self.connects += 1;
        if !self.subscribed {
            let mut body = vec![0, 1];
            body.extend(u16::try_from(self.filter.len()).unwrap().to_be_bytes());
            body.extend(self.filter.as_bytes());
            body.push(self.qos);
            let mut packet = vec![0x82, u8::try_from(body.len()).unwrap()];
            packet.extend(body);
            wire.stream.write_all(&packet)?;
        }
        let mut last = Instant::now();
        while !finish.load(Ordering::SeqCst) || last.elapsed() < QUIET {
            for packet in wire.packets()? {
                last = Instant::now();
                match packet[0] & 0xf0 {
                    0x30 => self.hear(&mut wire, &packet)?,
                    0x60 => {
                        self.open.remove(&id_of(&packet));
                        wire.stream.write_all(&two(0x70, id_of(&packet)))?;
                    }
                    0x90 => {
                        assert_eq!(packet.last(), Some(&self.qos), "{}: {packet:02x?}", self.name);
                        self.subscribed = true;
                    }
                    _ => panic!("{}: {packet:02x?}", self.name),
                }
            }
        }
        Ok(())
    }

    fn hear(&mut self, wire: &mut Wire, packet: &[u8]) -> std::io::Result<()> {
        let qos = (packet[0] >> 1) & 3;
        // Head, one byte of length, topic.
        let id_at = 4 + usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        let id = u16::from_be_bytes([packet[id_at], packet[id_at + 1]]);
        let reading: Value = serde_json::from_slice(&packet[id_at + 2..]).unwrap();
        if qos == 2 && !self.open.insert(id) {
            // Sent again: it was taken the first time.
            assert_ne!(packet[0] & 8, 0, "{}: the id of another message: {reading}", self.name);
        } else {
            let device = reading["device"].as_str().unwrap().to_owned();
            self.heard.entry(device).or_default().push(reading["seq"].as_u64().unwrap());
        }
        wire.stream.write_all(&two(if qos == 2 { 0x50 } else { 0x40 }, id))
    }
}

/// Whoever was cut off is silent about it: that is the fault that was asked for.
fn cut(result: std::io::Result<()>) {
    if let Err(error) = result {
        use ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, UnexpectedEof};
        let kinds = [BrokenPipe, ConnectionRefused, ConnectionReset, UnexpectedEof];
        assert!(kinds.contains(&error.kind()), "{error}");
    }
}

fn kills(count: u64) {
    let seed = e2e::seed(4);
    let mut random = Random(seed);
    let what = format!("seed {seed} (replay with FOREBAY_TEST_SEED={seed})");
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let mut devices: Vec<Device> = (0..)
        .zip(DEVICES)
        .map(|(number, (qos, window))| Device {
            name: format!("device-{number}-qos-{qos}"),
            qos,
            window,
            next: 0,
            last_id: 0,
            in_flight: VecDeque::new(),
            acknowledged: 0,
            connects: 0,
        })
        .collect();
    let mut watchers = [
        Watcher::new("watch-1", "load/#", 1),
        Watcher::new("watch-2", "load/#", 2),
        Watcher::new("crew-a", "$share/crew/load/+/readings", 1),
        Watcher::new("crew-b", "$share/crew/load/+/readings", 1),
    ];
    let mut server = Server::start(&data_dir);
    pipeline::prepare(&server);
    let (mut hits, mut peak_kib, mut slowest) = (0, 0, Duration::ZERO);
    for round in 0..=count {
        let (broker, last) = (server.mqtt, round == count);
        let finish = AtomicBool::new(false);
        let moment =
            Duration::from_millis(if round == 0 { 1500 } else { 100 + random.below(1500) });
        std::thread::scope(|scope| {
            let finish = &finish;
            let listening: Vec<_> = watchers
                .iter_mut()
                .map(|w| scope.spawn(move || cut(w.run(broker, finish))))
                .collect();
            // The first time everybody listens before anything is said.
            std::thread::sleep(Duration::from_millis(if round == 0 { 500 } else { 0 }));
            let publishing: Vec<_> = devices
                .iter_mut()
                .map(|d| scope.spawn(move || cut(d.run(broker, finish))))
                .collect();
            std::thread::sleep(moment);
            if last {
                finish.store(true, Ordering::SeqCst);
            } else {
                server.kill();
            }
            for thread in publishing.into_iter().chain(listening) {
                thread.join().unwrap();
            }
        });
        hits += usize::from(devices.iter().any(|device| !device.in_flight.is_empty()));
        peak_kib = peak_kib.max(server.peak_kib());
        if !last {
            drop(server);
            let started = Instant::now();
            server = Server::start(&data_dir);
            slowest = slowest.max(started.elapsed());
        }
    }
    server.forebay(&pipeline::FLUSH);
    let sent: u64 = devices.iter().map(|device| device.next).sum();
    let lake = account::delivered(&data_dir.join("lake"));
    let mut doubled = 0;
    for device in &devices {
        assert_eq!(device.acknowledged, device.next, "{what}: {} is not done", device.name);
        for seq in 0..device.next {
            let times = lake.get(&(device.name.clone(), seq)).copied().unwrap_or(0);
            assert_eq!(times, 1, "{what}: {} {seq} in the lake", device.name);
        }
        let crew: BTreeSet<u64> = watchers[2..]
            .iter()
            .flat_map(|member| member.heard.get(&device.name).into_iter().flatten().copied())
            .collect();
        assert_eq!(
            crew.len() as u64,
            device.next,
            "{what}: the crew missed some of {}",
            device.name
        );
        for watcher in &watchers[..2] {
            let heard = &watcher.heard[&device.name];
            let different: BTreeSet<u64> = heard.iter().copied().collect();
            let lost: Vec<u64> = (0..device.next).filter(|seq| !different.contains(seq)).collect();
            assert!(lost.is_empty(), "{what}: {} of {}: {lost:?}", watcher.name, device.name);
            if watcher.qos == 2 && device.qos == 2 {
                let in_order: Vec<u64> = (0..device.next).collect();
                assert!(*heard == in_order, "{what}: {} heard {heard:?}", watcher.name);
            }
            doubled += heard.len() - different.len();
        }
    }
    assert_eq!(lake.len() as u64, sent, "{what}: invented");
    println!(
        "sessions under kill -9: {count} rounds, {sent} readings, {hits} hit some under way, \
         {doubled} repeated in QoS 1, {what}"
    );
    let acknowledged = devices.iter().map(|device| device.acknowledged).sum();
    let account = Account { sent, acknowledged, rows: lake.values().sum(), ..Account::default() };
    Row {
        fault: "kill -9, sessions kept, QoS 1 and 2 sent again",
        rounds: count,
        account: &account,
        peak_kib,
        bound_mib: BOUND_MIB,
        recovered: Some(slowest),
        control: &format!("{hits} hit readings under way, seed {seed}"),
    }
    .settle();
    assert!(sent > 1_000, "hardly anything was under load: {sent}");
    assert!(hits as u64 * 10 >= count * 8, "{hits} of {count} kills hit readings under way");
}

#[test]
fn a6_kill_9_under_load_keeps_sessions_and_what_is_in_flight() {
    kills(5);
}

#[test]
#[ignore = "long: 100 rounds"]
fn a6_long_100_kills_keep_sessions() {
    kills(100);
}
