//! A client that sends exactly the bytes it is told to.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long something that must come may take.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// How long to look for something that must not come.
pub(crate) const A_WHILE: Duration = Duration::from_millis(150);

pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    input: Vec<u8>,
}

/// What a CONNECT says.
#[derive(Clone)]
pub(crate) struct Hello<'a> {
    pub(crate) level: u8,
    pub(crate) id: &'a str,
    pub(crate) clean: bool,
    pub(crate) keep_alive: u16,
    /// Topic, payload, quality of service.
    pub(crate) will: Option<(&'a str, &'a str, u8)>,
    pub(crate) properties: Vec<u8>,
    pub(crate) will_properties: Vec<u8>,
}

impl<'a> Hello<'a> {
    pub(crate) fn v4(id: &'a str) -> Self {
        Hello {
            level: 4,
            id,
            clean: true,
            keep_alive: 60,
            will: None,
            properties: Vec::new(),
            will_properties: Vec::new(),
        }
    }

    pub(crate) fn v5(id: &'a str) -> Self {
        Hello { level: 5, ..Hello::v4(id) }
    }

    pub(crate) fn kept(mut self) -> Self {
        self.clean = false;
        if self.level == 5 {
            self.properties.extend([17, 0, 0, 1, 0]);
        }
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut body = b"\x00\x04MQTT".to_vec();
        let will = self.will.map_or(0, |(_, _, qos)| 4 | (qos << 3));
        body.extend([self.level, if self.clean { 2 } else { 0 } | will]);
        body.extend(self.keep_alive.to_be_bytes());
        if self.level == 5 {
            body.extend(varint(self.properties.len()));
            body.extend(&self.properties);
        }
        body.extend(text(self.id));
        if let Some((topic, payload, _)) = self.will {
            if self.level == 5 {
                body.extend(varint(self.will_properties.len()));
                body.extend(&self.will_properties);
            }
            body.extend(text(topic));
            body.extend(text(payload));
        }
        packet(0x10, &body)
    }
}

pub(crate) fn varint(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = (value % 128) as u8;
        value /= 128;
        out.push(if value > 0 { low | 128 } else { low });
        if value == 0 {
            return out;
        }
    }
}

pub(crate) fn text(text: &str) -> Vec<u8> {
    let mut out = (text.len() as u16).to_be_bytes().to_vec();
    out.extend(text.as_bytes());
    out
}

pub(crate) fn packet(head: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![head];
    out.extend(varint(body.len()));
    out.extend(body);
    out
}

/// A PUBLISH; `properties` is `None` for MQTT 3.1.1.
pub(crate) fn publish(
    head: u8,
    topic: &str,
    id: u16,
    properties: Option<&[u8]>,
    payload: &[u8],
) -> Vec<u8> {
    let mut body = text(topic);
    if head & 0b110 != 0 {
        body.extend(id.to_be_bytes());
    }
    if let Some(properties) = properties {
        body.extend(varint(properties.len()));
        body.extend(properties);
    }
    body.extend(payload);
    packet(head, &body)
}

pub(crate) fn qos1(topic: &str, id: u16, payload: &str) -> Vec<u8> {
    publish(0x32, topic, id, None, payload.as_bytes())
}

pub(crate) fn qos2(topic: &str, id: u16, payload: &str) -> Vec<u8> {
    publish(0x34, topic, id, None, payload.as_bytes())
}

pub(crate) fn subscribe(level: u8, id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if level == 5 {
        body.push(0);
    }
    for (filter, options) in filters {
        body.extend(text(filter));
        body.push(*options);
    }
    packet(0x82, &body)
}

pub(crate) fn ack(head: u8, id: u16) -> Vec<u8> {
    packet(head, &id.to_be_bytes())
}

impl Raw {
    pub(crate) async fn open(address: SocketAddr) -> Raw {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Raw { stream, input: Vec::new() }
    }

    /// Connects and gives the CONNACK.
    pub(crate) async fn hello(address: SocketAddr, hello: &Hello<'_>) -> (Raw, Vec<u8>) {
        let mut raw = Raw::open(address).await;
        raw.send(&hello.bytes()).await;
        let connack = raw.packet().await.expect("closed instead of CONNACK");
        assert_eq!(connack[0], 0x20, "{connack:02x?}");
        (raw, connack)
    }

    /// Connects and is accepted.
    pub(crate) async fn join(address: SocketAddr, hello: &Hello<'_>) -> Raw {
        let (raw, connack) = Raw::hello(address, hello).await;
        assert_eq!(connack[3], 0, "refused: {connack:02x?}");
        raw
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Sends to a broker that may have closed by now.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) {
        drop(self.stream.write_all(bytes).await);
    }

    /// The next packet, or `None` once the broker has closed.
    pub(crate) async fn packet(&mut self) -> Option<Vec<u8>> {
        timeout(SOON, self.read_packet()).await.expect("no packet in time")
    }

    /// Asserts the next packet.
    pub(crate) async fn expect(&mut self, packet: &[u8]) {
        let found = self.packet().await.expect("closed");
        assert_eq!(found, packet, "{found:02x?}");
    }

    /// Asserts that nothing comes for a while.
    pub(crate) async fn silence(&mut self) {
        if let Ok(packet) = timeout(A_WHILE, self.read_packet()).await {
            panic!("expected silence, got {packet:02x?}");
        }
    }

    /// Asserts that the broker closes, and gives its last packet if it said one.
    pub(crate) async fn closed(&mut self) -> Option<Vec<u8>> {
        let last = self.packet().await;
        if last.is_some() {
            assert_eq!(self.packet().await, None, "after {last:02x?}");
        }
        last
    }

    /// Asserts a DISCONNECT with this reason, then the end.
    pub(crate) async fn disconnected(&mut self, code: u8) {
        let last = self.closed().await.expect("no DISCONNECT");
        assert_eq!((last[0], last[2]), (0xe0, code), "{last:02x?}");
    }

    /// Sends a PING and waits for its answer: everything before it was processed.
    pub(crate) async fn ping(&mut self) {
        self.send(&[0xc0, 0]).await;
        self.expect(&[0xd0, 0]).await;
    }

    async fn read_packet(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(bytes) = whole(&self.input) {
                return Some(self.input.drain(..bytes).collect());
            }
            match self.stream.read_buf(&mut self.input).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}

fn whole(input: &[u8]) -> Option<usize> {
    let mut length = 0;
    for (at, byte) in input.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 127) << (7 * at);
        if byte & 128 == 0 {
            let bytes = at + 2 + length;
            return (input.len() >= bytes).then_some(bytes);
        }
    }
    None
}
