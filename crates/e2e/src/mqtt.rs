//! The smallest MQTT 3.1.1 client that can keep an honest ledger: it pipelines QoS 1
//! PUBLISHes on a plain socket and notes exactly which were acknowledged.
//!
//! It never resends. A reading without its PUBACK is nobody's promise, and leaving it out
//! keeps the ledger sharp: acknowledged means once in the lake, anything else at most once.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// What one run of a publisher came to.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Sequence numbers handed to the socket.
    pub sent: Vec<u64>,
    /// Those a PUBACK came for.
    pub acknowledged: Vec<u64>,
}

/// Publishes `{"device":..,"seq":N,"timestamp":..,"note":..}` with rising N from `first` until `limit`
/// is over, `count` are sent and acknowledged, or the broker goes away.
pub fn publish(
    broker: SocketAddr,
    client_id: &str,
    topic: &str,
    first: u64,
    count: u64,
    window: usize,
    limit: Duration,
) -> Ledger {
    let packet =
        |packet_id, seq| publish_packet(topic, packet_id, reading(client_id, seq).as_bytes());
    publish_by(broker, client_id, first..first + count, window, limit, packet)
}

/// As [`publish`], with a packet of the caller's making for each packet id and sequence number.
pub fn publish_by(
    broker: SocketAddr,
    client_id: &str,
    numbers: Range<u64>,
    window: usize,
    limit: Duration,
    packet: impl Fn(u16, u64) -> Vec<u8>,
) -> Ledger {
    let mut ledger = Ledger::default();
    drop(run(broker, client_id, numbers, window, limit, packet, &mut ledger));
    ledger
}

fn run(
    broker: SocketAddr,
    client_id: &str,
    numbers: Range<u64>,
    window: usize,
    limit: Duration,
    packet: impl Fn(u16, u64) -> Vec<u8>,
    ledger: &mut Ledger,
) -> std::io::Result<()> {
    let deadline = Instant::now() + limit;
    let mut stream = TcpStream::connect(broker)?;
    stream.set_nodelay(true)?;
    stream.write_all(&connect(client_id))?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack)?;
    if connack != [0x20, 2, 0, 0] {
        return Err(std::io::Error::other(format!("CONNACK {connack:?}")));
    }
    stream.set_read_timeout(Some(Duration::from_millis(2)))?;
    let count = numbers.end - numbers.start;
    let (mut next, mut packet_id, mut in_flight) = (numbers.start, 0u16, HashMap::new());
    let mut input = Vec::new();
    while Instant::now() < deadline && (ledger.acknowledged.len() as u64) < count {
        let mut burst = Vec::new();
        while in_flight.len() < window && next < numbers.end {
            packet_id = packet_id.checked_add(1).unwrap_or(1);
            burst.extend(packet(packet_id, next));
            in_flight.insert(packet_id, next);
            ledger.sent.push(next);
            next += 1;
        }
        stream.write_all(&burst)?;
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => input.extend_from_slice(&bytes[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
        while let [0x40, 2, high, low, ..] = input[..] {
            if let Some(seq) = in_flight.remove(&u16::from_be_bytes([high, low])) {
                ledger.acknowledged.push(seq);
            }
            input.drain(..4);
        }
    }
    Ok(())
}

/// A publisher that goes on, however long it is held back, until it is told to stop; then it
/// waits until everything is settled. It never resends.
#[derive(Clone, Copy, Debug)]
pub struct Load<'a> {
    /// The plain port.
    pub broker: SocketAddr,
    /// Its client id, and the device of its readings.
    pub client_id: &'a str,
    /// Where it publishes.
    pub topic: &'a str,
    /// The first sequence number.
    pub first: u64,
    /// 0 or 1.
    pub qos: u8,
    /// Messages on their way at one time.
    pub window: usize,
    /// Messages a second; as many as the window lets for `None`.
    pub rate: Option<u32>,
    /// Bytes that each reading has at least.
    pub bytes: usize,
}

/// What a [`Load`] is told, and what others see of it meanwhile.
#[derive(Debug, Default)]
pub struct Told {
    /// Set to end it.
    pub stop: AtomicBool,
    /// PUBACKs so far.
    pub acknowledged: AtomicU64,
}

impl Told {
    /// Ends the load.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    /// PUBACKs so far.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }
}

/// Ends a load when it goes out of scope, also by a panic: whoever joins the load's thread would
/// wait for ever.
#[derive(Debug)]
pub struct Ends<'a>(pub &'a Told);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// What a [`Load`] came to.
#[derive(Debug, Default)]
pub struct Carried {
    /// What was sent and acknowledged.
    pub ledger: Ledger,
    /// From each message's way into the socket to its PUBACK, shortest first.
    pub latencies: Vec<Duration>,
    /// Why it ended before it was told to, if it did.
    pub ended: Option<std::io::Error>,
}

impl Carried {
    /// The latency that this share of messages did not exceed.
    pub fn latency(&self, share: f64) -> Duration {
        let last = self.latencies.len() - 1;
        self.latencies[(last as f64 * share).round() as usize]
    }
}

/// How long what is under way may take to settle once a load was told to stop.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

impl Load<'_> {
    /// Publishes until it is told to stop and all is settled, or the broker goes away.
    pub fn carry(&self, told: &Told) -> Carried {
        let mut carried = Carried::default();
        carried.ended = self.run(told, &mut carried).err();
        carried.latencies.sort_unstable();
        carried
    }

    fn run(&self, told: &Told, carried: &mut Carried) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(self.broker)?;
        stream.set_nodelay(true)?;
        stream.write_all(&connect(self.client_id))?;
        let mut connack = [0; 4];
        stream.read_exact(&mut connack)?;
        stream.set_read_timeout(Some(Duration::from_millis(1)))?;
        stream.set_write_timeout(Some(Duration::from_millis(1)))?;
        let began = Instant::now();
        let (mut next, mut packet_id, mut in_flight) = (self.first, 0u16, HashMap::new());
        let (mut output, mut written, mut input) = (Vec::new(), 0, Vec::new());
        let mut stopped_at = None;
        loop {
            if stopped_at.is_none() && told.stop.load(Ordering::SeqCst) {
                stopped_at = Some(Instant::now());
            }
            let due = self.rate.map_or(u64::MAX, |rate| {
                self.first + (began.elapsed().as_secs_f64() * f64::from(rate)) as u64
            });
            if written == output.len() {
                (written, output) = (0, Vec::new());
                while stopped_at.is_none()
                    && next < due
                    && in_flight.len() < self.window
                    && output.len() < 64 * 1024
                {
                    packet_id = packet_id.checked_add(1).unwrap_or(1);
                    let mut payload = reading(self.client_id, next);
                    // Spaces after a document are none of its business.
                    payload
                        .extend(std::iter::repeat_n(' ', self.bytes.saturating_sub(payload.len())));
                    let mut packet = publish_packet(self.topic, packet_id, payload.as_bytes());
                    if self.qos == 0 {
                        packet = publish_packet_0(self.topic, payload.as_bytes());
                    } else {
                        in_flight.insert(packet_id, (next, Instant::now()));
                    }
                    output.extend(packet);
                    carried.ledger.sent.push(next);
                    next += 1;
                }
            }
            if written < output.len() {
                written += quiet(stream.write(&output[written..]))?;
            }
            let mut bytes = [0; 16 * 1024];
            match stream.read(&mut bytes) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                other => input.extend_from_slice(&bytes[..quiet(other)?]),
            }
            let mut taken = 0;
            while let [0x40, 2, high, low, ..] = input[taken..] {
                if let Some((seq, sent_at)) = in_flight.remove(&u16::from_be_bytes([high, low])) {
                    carried.ledger.acknowledged.push(seq);
                    carried.latencies.push(sent_at.elapsed());
                    told.acknowledged.fetch_add(1, Ordering::SeqCst);
                }
                taken += 4;
            }
            input.drain(..taken);
            if let Some(at) = stopped_at {
                if in_flight.is_empty() && written == output.len() {
                    return self.hear_out(stream);
                }
                if at.elapsed() > SETTLE_LIMIT {
                    let why = format!("{} PUBACKs never came", in_flight.len());
                    return Err(std::io::Error::other(why));
                }
            }
        }
    }

    /// Says goodbye and waits until the broker has read all of it.
    fn hear_out(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.write_all(&[0xe0, 0])?;
        stream.shutdown(std::net::Shutdown::Write)?;
        stream.set_read_timeout(Some(SETTLE_LIMIT))?;
        let mut rest = [0; 256];
        while stream.read(&mut rest)? > 0 {}
        Ok(())
    }
}

/// A socket that had nothing to do in time did nothing.
fn quiet(done: std::io::Result<usize>) -> std::io::Result<usize> {
    match done {
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(0),
        other => other,
    }
}

/// A reading. Some carry a long note, so that records straddle whatever blocks the log has.
pub fn reading(device: &str, seq: u64) -> String {
    let note = if seq.is_multiple_of(50) { seq.wrapping_mul(7919) % 4000 } else { 0 };
    let note = "x".repeat(usize::try_from(note).unwrap());
    format!(
        r#"{{"device":"{device}","seq":{seq},"timestamp":"2026-01-01T00:00:00Z","note":"{note}"}}"#
    )
}

/// A CONNECT of MQTT 3.1.1 with a clean session.
pub fn connect(client_id: &str) -> Vec<u8> {
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60];
    body.extend(string(client_id));
    packet(0x10, &body)
}

/// A QoS 1 PUBLISH.
pub fn publish_packet(topic: &str, packet_id: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = string(topic);
    body.extend(packet_id.to_be_bytes());
    body.extend(payload);
    packet(0x32, &body)
}

/// A QoS 0 PUBLISH.
pub fn publish_packet_0(topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut body = string(topic);
    body.extend(payload);
    packet(0x30, &body)
}

/// A QoS 1 PUBLISH that is to be retained; without a payload it ends that.
pub fn retain_packet(topic: &str, packet_id: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = publish_packet(topic, packet_id, payload);
    packet[0] |= 1;
    packet
}

/// What a new subscriber at QoS 0 is given as retained, in the order in which it comes.
pub fn retained(
    broker: SocketAddr,
    client_id: &str,
    filter: &str,
) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut session = Session::plain(broker, client_id)?;
    session.send(&subscribe_packet(filter))?;
    session.send(&[0xc0, 0])?;
    let (mut found, mut heard) = (Vec::new(), false);
    loop {
        match session.packet() {
            Ok((0x31, body)) => found.push(message(&body)),
            Ok((0x90, body)) if body == [0, 1, 0] => {}
            // Messages may be lined up behind it: what is silent from here on has said all.
            Ok((0xd0, _)) => {
                session.socket.set_read_timeout(Some(SILENCE))?;
                heard = true;
            }
            Ok((first, body)) => {
                return Err(std::io::Error::other(format!("packet {first:#x} of {body:?}")));
            }
            Err(error)
                if heard && matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
            {
                return Ok(found);
            }
            Err(error) => return Err(error),
        }
    }
}

/// The first message under `filter` once `payload` was published to `topic`.
pub fn answer(
    broker: SocketAddr,
    client_id: &str,
    filter: &str,
    (topic, payload): (&str, &[u8]),
) -> std::io::Result<(String, Vec<u8>)> {
    let mut session = Session::plain(broker, client_id)?;
    session.send(&subscribe_packet(filter))?;
    session.send(&publish_packet(topic, 1, payload))?;
    loop {
        match session.packet()? {
            (0x30, body) => return Ok(message(&body)),
            (0x90 | 0x40, _) => {}
            (first, body) => {
                return Err(std::io::Error::other(format!("packet {first:#x} of {body:?}")));
            }
        }
    }
}

/// A SUBSCRIBE at QoS 0.
fn subscribe_packet(filter: &str) -> Vec<u8> {
    subscribe_to(&[filter], 0)
}

/// A SUBSCRIBE to some filters, all at one quality of service; its packet id is 1.
pub fn subscribe_to(filters: &[&str], qos: u8) -> Vec<u8> {
    let mut body = vec![0, 1];
    for filter in filters {
        body.extend(string(filter));
        body.push(qos);
    }
    packet(0x82, &body)
}

/// Topic and payload of a QoS 0 PUBLISH.
fn message(body: &[u8]) -> (String, Vec<u8>) {
    let (len, rest) = body.split_at(2);
    let len = usize::from(u16::from_be_bytes([len[0], len[1]]));
    (String::from_utf8_lossy(&rest[..len]).into_owned(), rest[len..].to_vec())
}

/// A string as MQTT writes it.
pub fn string(text: &str) -> Vec<u8> {
    let mut out = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    out.extend(text.as_bytes());
    out
}

/// A packet of any kind.
pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    let mut left = body.len();
    loop {
        let digit = u8::try_from(left % 128).unwrap();
        left /= 128;
        out.push(if left > 0 { digit | 0x80 } else { digit });
        if left == 0 {
            break;
        }
    }
    out.extend(body);
    out
}

/// How long a session waits for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// How long nothing comes after the last of what is lined up.
const SILENCE: Duration = Duration::from_millis(500);

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

/// One connected client that publishes one message at a time and waits for its PUBACK.
pub struct Session {
    stream: Box<dyn Stream>,
    socket: TcpStream,
    packet_id: u16,
}

impl Session {
    /// Connects to the plain port.
    pub fn plain(broker: SocketAddr, client_id: &str) -> std::io::Result<Session> {
        let socket = TcpStream::connect(broker)?;
        Session::over(Box::new(socket.try_clone()?), socket, client_id)
    }

    /// Connects over TLS, as `localhost`.
    pub fn tls(
        broker: SocketAddr,
        client_id: &str,
        config: ClientConfig,
    ) -> std::io::Result<Session> {
        let socket = TcpStream::connect(broker)?;
        let name = "localhost".try_into().unwrap();
        let connection =
            ClientConnection::new(Arc::new(config), name).map_err(std::io::Error::other)?;
        Session::over(
            Box::new(StreamOwned::new(connection, socket.try_clone()?)),
            socket,
            client_id,
        )
    }

    fn over(
        stream: Box<dyn Stream>,
        socket: TcpStream,
        client_id: &str,
    ) -> std::io::Result<Session> {
        socket.set_read_timeout(Some(ANSWER_LIMIT))?;
        let mut session = Session { stream, socket, packet_id: 0 };
        session.send(&connect(client_id))?;
        session.expect(&[0x20, 2, 0, 0], "CONNACK")?;
        Ok(session)
    }

    /// Publishes at QoS 1; an error means that no PUBACK came.
    pub fn publish(&mut self, topic: &str, payload: &[u8]) -> std::io::Result<()> {
        self.packet_id += 1;
        self.send(&publish_packet(topic, self.packet_id, payload))?;
        let [high, low] = self.packet_id.to_be_bytes();
        self.expect(&[0x40, 2, high, low], "PUBACK")
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// How long the broker took to end this session; `None` when it did not within `limit`.
    pub fn ended_within(&mut self, limit: Duration) -> Option<Duration> {
        let started = Instant::now();
        self.socket.set_read_timeout(Some(limit)).unwrap();
        let mut bytes = [0; 256];
        loop {
            match self.stream.read(&mut bytes) {
                Ok(1..) => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return None;
                }
                Ok(0) | Err(_) => return Some(started.elapsed()),
            }
        }
    }

    /// The next packet: its first byte and its body.
    pub fn packet(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        let mut byte = [0];
        self.stream.read_exact(&mut byte)?;
        let first = byte[0];
        let (mut len, mut shift) = (0usize, 0);
        loop {
            self.stream.read_exact(&mut byte)?;
            len |= usize::from(byte[0] & 0x7f) << shift;
            shift += 7;
            if byte[0] & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; len];
        self.stream.read_exact(&mut body)?;
        Ok((first, body))
    }

    fn expect(&mut self, wanted: &[u8; 4], name: &str) -> std::io::Result<()> {
        let mut answer = [0; 4];
        self.stream.read_exact(&mut answer)?;
        if answer != *wanted {
            return Err(std::io::Error::other(format!("{answer:?} instead of {name}")));
        }
        Ok(())
    }
}

/// What a client trusts and shows: the root of `trusted` and, where given, the certificate
/// and key of a kit folder.
pub fn tls_config(trusted: &Path, identity: Option<&Path>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(trusted).unwrap()).unwrap();
    let builder =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
    let Some(kit) = identity else { return builder.with_no_client_auth() };
    let certificate = CertificateDer::from_pem_file(file_ending(kit, ".cert.pem")).unwrap();
    let key = PrivateKeyDer::from_pem_file(file_ending(kit, ".private.key")).unwrap();
    builder.with_client_auth_cert(vec![certificate], key).unwrap()
}

/// The one file of a folder with this ending.
pub fn file_ending(folder: &Path, ending: &str) -> std::path::PathBuf {
    let found = crate::files_below(folder)
        .into_iter()
        .find(|path| path.to_string_lossy().ends_with(ending));
    found.unwrap_or_else(|| panic!("{} holds no file *{ending}", folder.display()))
}
