//! The smallest MQTT 3.1.1 client that can keep an honest ledger: it pipelines QoS 1
//! PUBLISHes on a plain socket and notes exactly which were acknowledged.
//!
//! It never resends. A reading without its PUBACK is nobody's promise, and leaving it out
//! keeps the ledger sharp: acknowledged means once in the lake, anything else at most once.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// What one run of a publisher came to.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Sequence numbers handed to the socket.
    pub sent: Vec<u64>,
    /// Those a PUBACK came for.
    pub acknowledged: Vec<u64>,
}

/// Publishes `{"device":..,"seq":N,"timestamp":..}` with rising N from `first` until `limit`
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
    let mut ledger = Ledger::default();
    drop(run(broker, client_id, topic, first, count, window, limit, &mut ledger));
    ledger
}

#[expect(clippy::too_many_arguments, reason = "one caller, and each is a different thing")]
fn run(
    broker: SocketAddr,
    client_id: &str,
    topic: &str,
    first: u64,
    count: u64,
    window: usize,
    limit: Duration,
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
    let (mut next, mut packet_id, mut in_flight) = (first, 0u16, HashMap::new());
    let mut input = Vec::new();
    while Instant::now() < deadline && (ledger.acknowledged.len() as u64) < count {
        let mut burst = Vec::new();
        while in_flight.len() < window && next < first + count {
            packet_id = packet_id.checked_add(1).unwrap_or(1);
            let payload = format!(
                r#"{{"device":"{client_id}","seq":{next},"timestamp":"2026-01-01T00:00:00Z"}}"#
            );
            burst.extend(publish_packet(topic, packet_id, payload.as_bytes()));
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

fn string(text: &str) -> Vec<u8> {
    let mut out = u16::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    out.extend(text.as_bytes());
    out
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
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
