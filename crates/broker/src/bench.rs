//! The load client of `forebay bench ingest`: how fast does a broker acknowledge?
//!
//! Speaks MQTT 3.1.1 over plain TCP to any broker. Frames are encoded once and only their packet
//! ids are patched, several go into one write, so that the client costs little beside the
//! broker it measures.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base::{Error, ErrorKind, Result};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::codec::put_variable;

/// How long to wait for what is on its way when the time is over.
const SETTLE: Duration = Duration::from_secs(15);

/// How long a broker may take to answer CONNECT and SUBSCRIBE.
const ANSWER: Duration = Duration::from_secs(10);

/// A load to put on a broker.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where the broker listens for plain MQTT.
    pub address: SocketAddr,
    /// Connections that publish.
    pub publishers: usize,
    /// Messages each may have unacknowledged.
    pub window: usize,
    /// Messages in one write.
    pub burst: usize,
    /// Bytes of JSON in each message, at least 64.
    pub payload_bytes: usize,
    /// How long to publish.
    pub duration: Duration,
    /// Whether one subscriber takes part, at QoS 1, to count what is delivered.
    pub subscriber: bool,
    /// Messages a second of each publisher, each in a write of its own; as fast as the window
    /// allows if none is said.
    pub rate: Option<u32>,
}

impl Load {
    /// The load that the published figures are measured with.
    pub fn standard(address: SocketAddr) -> Load {
        Load {
            address,
            publishers: 20,
            window: 50,
            burst: 10,
            payload_bytes: 200,
            duration: Duration::from_secs(5),
            subscriber: false,
            rate: None,
        }
    }

    /// Many devices that each say something now and then: 200, 25 messages a second each.
    pub fn paced(address: SocketAddr) -> Load {
        Load { publishers: 200, burst: 1, rate: Some(25), ..Load::standard(address) }
    }

    fn check(&self) -> Result<()> {
        let Load { publishers, window, burst, payload_bytes, rate, .. } = *self;
        if publishers == 0 || publishers > 10_000 {
            return Err(Error::invalid(format!("{publishers} publishers; give 1 to 10000")));
        }
        if window == 0 || window > 30_000 {
            return Err(Error::invalid(format!("window {window}; give 1 to 30000")));
        }
        if burst == 0 || burst > window {
            return Err(Error::invalid(format!("burst {burst}; give 1 to the window, {window}")));
        }
        if rate.is_some_and(|rate| !(1..=1000).contains(&rate)) {
            return Err(Error::invalid("a paced publisher sends 1 to 1000 messages a second"));
        }
        if !(64..=100_000).contains(&payload_bytes) {
            return Err(Error::invalid(format!("payload {payload_bytes}; give 64 to 100000")));
        }
        Ok(())
    }
}

/// What a broker did under a load.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Messages acknowledged.
    pub acknowledged: u64,
    /// From the first message sent to the last acknowledgement.
    pub seconds: f64,
    /// The ratio of the two.
    pub acknowledged_per_second: f64,
    /// From writing a message to reading its PUBACK.
    pub puback_ms: Quantiles,
    /// Messages delivered to the subscriber per message acknowledged, if there was one.
    pub delivered_share: Option<f64>,
}

/// Two quantiles, within 3 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quantiles {
    /// The median.
    pub p50: f64,
    /// The 99th percentile.
    pub p99: f64,
}

/// Puts `load` on its broker and reports. Fails if a connection does.
pub async fn run(load: &Load) -> Result<Report> {
    load.check()?;
    let run = uuid::Uuid::new_v4().simple().to_string();
    let root = format!("bench/{run}");
    // Turns to the number of acknowledged messages once that is known.
    let (total, total_seen) = watch::channel(None);
    let subscriber = if load.subscriber {
        let stream = connect(load.address, &format!("bench-sub-{run}")).await?;
        let stream = subscribe(stream, &format!("{root}/#"), 1).await?;
        Some(tokio::spawn(count_deliveries(stream, total_seen)))
    } else {
        None
    };
    let mut streams = Vec::new();
    for at in 0..load.publishers {
        streams.push(connect(load.address, &format!("bench-{at}-{run}")).await?);
    }
    let started = Instant::now();
    let mut publishers = JoinSet::new();
    for (at, stream) in streams.into_iter().enumerate() {
        let topic = format!("{root}/dev-{at:05}/telemetry");
        let publisher = Publisher::new(&topic, load);
        let until = started + load.duration;
        match load.rate {
            None => publishers.spawn(publish(stream, publisher, until)),
            Some(rate) => {
                let every = Duration::from_secs(1) / rate;
                // Evenly over the interval, as devices that know nothing of each other.
                let first = started + every * at as u32 / load.publishers as u32;
                publishers.spawn(publish_paced(stream, publisher, first, every, until))
            }
        };
    }
    let mut latency = Histogram::default();
    let mut finished = started;
    while let Some(result) = publishers.join_next().await {
        let (part, at) =
            result.map_err(|cause| Error::internal(format!("a publisher died: {cause}")))??;
        latency.add(&part);
        finished = finished.max(at);
    }
    let acknowledged = latency.count();
    total.send_replace(Some(acknowledged));
    let delivered_share = match subscriber {
        None => None,
        Some(task) => {
            let delivered = task
                .await
                .map_err(|cause| Error::internal(format!("the subscriber died: {cause}")))??;
            Some(delivered as f64 / acknowledged.max(1) as f64)
        }
    };
    let seconds = (finished - started).as_secs_f64();
    Ok(Report {
        acknowledged,
        seconds,
        acknowledged_per_second: acknowledged as f64 / seconds.max(1e-9),
        puback_ms: Quantiles { p50: latency.millis(0.5), p99: latency.millis(0.99) },
        delivered_share,
    })
}

/// Opens `count` connections that say CONNECT and then nothing; they live as long as what is
/// returned. For measuring what an idle connection costs a broker.
pub async fn idle(address: SocketAddr, count: usize) -> Result<Vec<TcpStream>> {
    let run = uuid::Uuid::new_v4().simple().to_string();
    let mut streams = Vec::with_capacity(count);
    for at in 0..count {
        streams.push(connect(address, &format!("idle-{at}-{run}")).await?);
    }
    Ok(streams)
}

/// As [`idle`], over mutual TLS. The server must be known to `config` as `localhost`.
pub async fn idle_tls(
    address: SocketAddr,
    config: Arc<ClientConfig>,
    count: usize,
) -> Result<Vec<TlsStream<TcpStream>>> {
    let run = uuid::Uuid::new_v4().simple().to_string();
    let connector = TlsConnector::from(config);
    let name = ServerName::try_from("localhost")
        .map_err(|cause| Error::internal(format!("localhost is no server's name: {cause}")))?;
    let mut streams = Vec::with_capacity(count);
    for at in 0..count {
        let stream = open(address).await?;
        let handshake = timeout(ANSWER, connector.connect(name.clone(), stream));
        let mut stream =
            handshake.await.map_err(|_elapsed| late("its part of a TLS handshake"))?.map_err(
                |cause| io(&format!("failed in the TLS handshake with {address}"), cause),
            )?;
        greet(&mut stream, address, &format!("idle-{at}-{run}")).await?;
        streams.push(stream);
    }
    Ok(streams)
}

/// One publisher's frames and what it waits for.
struct Publisher {
    /// `burst` frames, each `frame_bytes` long.
    frames: Vec<u8>,
    frame_bytes: usize,
    /// Where in a frame its packet id stands.
    id_at: usize,
    burst: usize,
    window: usize,
    next_id: u16,
    outstanding: usize,
    /// When each outstanding message was written, by the low bits of its packet id.
    sent_at: Vec<Instant>,
    latency: Histogram,
}

impl Publisher {
    fn new(topic: &str, load: &Load) -> Publisher {
        let mut frame = vec![0x32];
        put_variable(&mut frame, 2 + topic.len() + 2 + load.payload_bytes);
        frame.extend_from_slice(&(topic.len() as u16).to_be_bytes());
        frame.extend_from_slice(topic.as_bytes());
        let id_at = frame.len();
        frame.extend_from_slice(&[0, 0]);
        frame.extend_from_slice(&reading(load.payload_bytes));
        Publisher {
            frame_bytes: frame.len(),
            frames: frame.repeat(load.burst),
            id_at,
            burst: load.burst,
            window: load.window,
            next_id: 1,
            outstanding: 0,
            sent_at: vec![Instant::now(); (load.window + 1).next_power_of_two()],
            latency: Histogram::default(),
        }
    }

    /// The next burst, with fresh packet ids.
    fn fill(&mut self, now: Instant) -> &[u8] {
        let mask = self.sent_at.len() - 1;
        for at in 0..self.burst {
            let id = self.next_id;
            self.next_id = if id == u16::MAX { 1 } else { id + 1 };
            let start = at * self.frame_bytes + self.id_at;
            self.frames[start..start + 2].copy_from_slice(&id.to_be_bytes());
            self.sent_at[usize::from(id) & mask] = now;
        }
        self.outstanding += self.burst;
        &self.frames
    }

    /// Takes whole PUBACKs; gives the bytes used.
    fn settle(&mut self, input: &[u8], now: Instant) -> Result<usize> {
        let mask = self.sent_at.len() - 1;
        let mut acks = input.chunks_exact(4);
        for ack in &mut acks {
            if ack[0] != 0x40 || ack[1] != 2 {
                return Err(Error::invalid(format!("the broker sent {ack:02x?}, not a PUBACK")));
            }
            if self.outstanding == 0 {
                return Err(Error::invalid("the broker acknowledged what was not sent"));
            }
            self.outstanding -= 1;
            let id = u16::from_be_bytes([ack[2], ack[3]]);
            self.latency.record(now - self.sent_at[usize::from(id) & mask]);
        }
        Ok(input.len() - acks.remainder().len())
    }
}

/// A reading of `bytes` bytes, as a device would send it.
fn reading(bytes: usize) -> Vec<u8> {
    let mut text = br#"{"ts":1760000000000,"pm25":12.5,"o3":41.0,"t":18.25,"pad":""#.to_vec();
    text.resize(bytes - 2, b'x');
    text.extend_from_slice(br#""}"#);
    text
}

async fn publish(
    stream: TcpStream,
    mut publisher: Publisher,
    until: Instant,
) -> Result<(Histogram, Instant)> {
    let (mut reader, mut writer) = stream.into_split();
    let mut input = vec![0; 16 * 1024];
    let mut kept = 0;
    let mut last = Instant::now();
    loop {
        let now = Instant::now();
        while now < until && publisher.outstanding + publisher.burst <= publisher.window {
            let burst = publisher.fill(now);
            writer.write_all(burst).await.map_err(|cause| io("failed to publish", cause))?;
        }
        if publisher.outstanding == 0 && Instant::now() >= until {
            return Ok((publisher.latency, last));
        }
        let bytes = timeout(SETTLE, reader.read(&mut input[kept..]))
            .await
            .map_err(|_elapsed| late("an acknowledgement"))?
            .map_err(|cause| io("failed to read acknowledgements", cause))?;
        if bytes == 0 {
            return Err(closed());
        }
        last = Instant::now();
        let filled = kept + bytes;
        let used = publisher.settle(&input[..filled], last)?;
        input.copy_within(used..filled, 0);
        kept = filled - used;
    }
}

/// One message every `every`, unless the window is full.
async fn publish_paced(
    stream: TcpStream,
    mut publisher: Publisher,
    mut next: Instant,
    every: Duration,
    until: Instant,
) -> Result<(Histogram, Instant)> {
    let (mut reader, mut writer) = stream.into_split();
    let mut input = vec![0; 4 * 1024];
    let mut kept = 0;
    let mut last = Instant::now();
    loop {
        if next >= until && publisher.outstanding == 0 {
            return Ok((publisher.latency, last));
        }
        let may_send = next < until && publisher.outstanding < publisher.window;
        tokio::select! {
            () = tokio::time::sleep_until(next), if may_send => {
                let frame = publisher.fill(Instant::now());
                writer.write_all(frame).await.map_err(|cause| io("failed to publish", cause))?;
                next += every;
            }
            read = timeout(SETTLE, reader.read(&mut input[kept..])) => {
                let bytes = read
                    .map_err(|_elapsed| late("an acknowledgement"))?
                    .map_err(|cause| io("failed to read acknowledgements", cause))?;
                if bytes == 0 {
                    return Err(closed());
                }
                last = Instant::now();
                let filled = kept + bytes;
                let used = publisher.settle(&input[..filled], last)?;
                input.copy_within(used..filled, 0);
                kept = filled - used;
            }
        }
    }
}

/// What QoS 0 came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FanOutReport {
    /// Messages published.
    pub sent: u64,
    /// Messages that arrived, all subscribers together.
    pub delivered: u64,
    /// Of those that should have arrived.
    pub delivered_share: f64,
    /// From the first message to the last arrival.
    pub seconds: f64,
    /// The ratio of arrivals and seconds.
    pub delivered_per_second: f64,
}

/// One publisher at QoS 0, as fast as the connection takes it, to `subscribers` subscribers.
pub async fn fan_out(
    address: SocketAddr,
    subscribers: usize,
    duration: Duration,
) -> Result<FanOutReport> {
    let run = uuid::Uuid::new_v4().simple().to_string();
    let topic = format!("bench/{run}/telemetry");
    let payload = reading(200);
    let mut frame = vec![0x30];
    put_variable(&mut frame, 2 + topic.len() + payload.len());
    frame.extend_from_slice(&(topic.len() as u16).to_be_bytes());
    frame.extend_from_slice(topic.as_bytes());
    frame.extend_from_slice(&payload);
    let (total, total_seen) = watch::channel(None);
    let mut counting = JoinSet::new();
    for at in 0..subscribers {
        let stream = connect(address, &format!("bench-fan-{at}-{run}")).await?;
        let stream = subscribe(stream, &topic, 0).await?;
        counting.spawn(count_frames(stream, frame.len(), total_seen.clone()));
    }
    let mut publisher = connect(address, &format!("bench-pub-{run}")).await?;
    let frames = frame.repeat(10);
    let (started, mut sent) = (Instant::now(), 0);
    while started.elapsed() < duration {
        publisher.write_all(&frames).await.map_err(|cause| io("failed to publish", cause))?;
        sent += 10;
    }
    total.send_replace(Some(sent));
    let (mut delivered, mut finished) = (0, started);
    while let Some(result) = counting.join_next().await {
        let (count, last) =
            result.map_err(|cause| Error::internal(format!("a subscriber died: {cause}")))??;
        delivered += count;
        finished = finished.max(last);
    }
    let seconds = (finished - started).as_secs_f64();
    Ok(FanOutReport {
        sent,
        delivered,
        delivered_share: delivered as f64 / (sent * subscribers as u64).max(1) as f64,
        seconds,
        delivered_per_second: delivered as f64 / seconds.max(1e-9),
    })
}

/// How long a subscriber waits for more when the publisher is done.
const QUIET: Duration = Duration::from_secs(2);

/// Counts frames, all of one length, until as many came as were sent or none comes any more.
async fn count_frames(
    mut stream: TcpStream,
    frame_bytes: usize,
    mut total: watch::Receiver<Option<u64>>,
) -> Result<(u64, Instant)> {
    let mut input = vec![0; 256 * 1024];
    let (mut bytes, mut last) = (0_u64, Instant::now());
    loop {
        let known = *total.borrow_and_update();
        let count = bytes / frame_bytes as u64;
        if known.is_some_and(|total| count >= total) {
            return Ok((count, last));
        }
        let wait = if known.is_some() { QUIET } else { SETTLE };
        tokio::select! {
            read = timeout(wait, stream.read(&mut input)) => match read {
                Err(_elapsed) => return Ok((count, last)),
                // A broker that drops a slow subscriber has delivered what it has.
                Ok(Ok(0) | Err(_)) => return Ok((count, last)),
                Ok(Ok(more)) => {
                    bytes += more as u64;
                    last = Instant::now();
                }
            },
            Ok(()) = total.changed() => {}
        }
    }
}

/// Counts and acknowledges until as many came as were acknowledged to the publishers, or none
/// comes any more.
async fn count_deliveries(
    mut stream: TcpStream,
    mut total: watch::Receiver<Option<u64>>,
) -> Result<u64> {
    let mut input = Vec::with_capacity(256 * 1024);
    let mut acks = Vec::new();
    let mut delivered = 0;
    loop {
        let known = *total.borrow_and_update();
        if known.is_some_and(|total| delivered >= total) {
            return Ok(delivered);
        }
        let read = tokio::select! {
            read = timeout(SETTLE, stream.read_buf(&mut input)) => read,
            Ok(()) = total.changed() => continue,
        };
        let Ok(read) = read else { return Ok(delivered) };
        if read.map_err(|cause| io("failed to read deliveries", cause))? == 0 {
            return Err(closed());
        }
        acks.clear();
        let mut used = 0;
        while let Some((publish, bytes)) = next_packet(&input[used..]) {
            if publish[0] >> 4 == 3 {
                delivered += 1;
                put_ack(publish, &mut acks);
            }
            used += bytes;
        }
        input.drain(..used);
        stream.write_all(&acks).await.map_err(|cause| io("failed to acknowledge", cause))?;
    }
}

/// The first whole packet of `input` and its length.
fn next_packet(input: &[u8]) -> Option<(&[u8], usize)> {
    let mut length = 0;
    for (at, byte) in input.get(1..)?.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            let bytes = at + 2 + length;
            return input.get(..bytes).map(|packet| (packet, bytes));
        }
    }
    None
}

/// Appends the PUBACK that a QoS 1 PUBLISH wants.
fn put_ack(publish: &[u8], acks: &mut Vec<u8>) {
    let head = publish.iter().skip(1).take_while(|byte| *byte & 0x80 != 0).count() + 2;
    let is_qos_1 = publish[0] & 0b110 == 0b010;
    let topic = publish.get(head..head + 2).map(|two| u16::from_be_bytes([two[0], two[1]]));
    if let Some(topic) = topic.filter(|_| is_qos_1) {
        let id_at = head + 2 + usize::from(topic);
        acks.extend_from_slice(&[0x40, 2]);
        acks.extend_from_slice(publish.get(id_at..id_at + 2).unwrap_or(&[0, 0]));
    }
}

async fn connect(address: SocketAddr, client_id: &str) -> Result<TcpStream> {
    let mut stream = open(address).await?;
    greet(&mut stream, address, client_id).await?;
    Ok(stream)
}

async fn open(address: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|cause| io(&format!("failed to connect to {address}"), cause))?;
    stream.set_nodelay(true).map_err(|cause| io("failed to set TCP_NODELAY", cause))?;
    Ok(stream)
}

async fn greet(stream: &mut impl Stream, address: SocketAddr, client_id: &str) -> Result<()> {
    let mut packet = vec![0x10];
    put_variable(&mut packet, 10 + 2 + client_id.len());
    // Clean session, keep-alive 600 s.
    packet.extend_from_slice(b"\x00\x04MQTT\x04\x02\x02\x58");
    packet.extend_from_slice(&(client_id.len() as u16).to_be_bytes());
    packet.extend_from_slice(client_id.as_bytes());
    let answer: [u8; 4] = ask(stream, &packet, "CONNACK").await?;
    if answer != [0x20, 2, 0, 0] {
        return Err(Error::new(
            ErrorKind::Denied,
            format!("the broker at {address} refused CONNECT: {answer:02x?}"),
        ));
    }
    Ok(())
}

async fn subscribe(mut stream: TcpStream, filter: &str, qos: u8) -> Result<TcpStream> {
    let mut packet = vec![0x82];
    put_variable(&mut packet, 2 + 2 + filter.len() + 1);
    packet.extend_from_slice(&[0, 1]);
    packet.extend_from_slice(&(filter.len() as u16).to_be_bytes());
    packet.extend_from_slice(filter.as_bytes());
    packet.push(qos);
    let answer: [u8; 5] = ask(&mut stream, &packet, "SUBACK").await?;
    if answer != [0x90, 3, 0, 1, qos] {
        return Err(Error::new(
            ErrorKind::Denied,
            format!("the broker refused the subscription to {filter}: {answer:02x?}"),
        ));
    }
    Ok(stream)
}

/// A connection to a broker, encrypted or not.
trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

async fn ask<const N: usize>(
    stream: &mut impl Stream,
    packet: &[u8],
    what: &str,
) -> Result<[u8; N]> {
    let mut answer = [0; N];
    let asked = async {
        stream.write_all(packet).await?;
        stream.read_exact(&mut answer).await
    };
    timeout(ANSWER, asked)
        .await
        .map_err(|_elapsed| late(what))?
        .map_err(|cause| io(&format!("failed to get {what}"), cause))?;
    Ok(answer)
}

fn io(doing: &str, cause: std::io::Error) -> Error {
    Error::io(doing, cause)
}

fn late(what: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the broker did not send {what} in time"))
}

fn closed() -> Error {
    Error::new(ErrorKind::Unavailable, "the broker closed the connection")
}

/// Latencies in buckets of a 32nd of a power of two of microseconds.
#[derive(Clone, Debug)]
struct Histogram {
    buckets: Vec<u64>,
}

const STEPS: u64 = 32;

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: vec![0; 64 * STEPS as usize] }
    }
}

impl Histogram {
    fn record(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(micros)] += 1;
    }

    fn add(&mut self, other: &Histogram) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
    }

    fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The upper edge of the bucket that holds quantile `q`, in milliseconds.
    fn millis(&self, q: f64) -> f64 {
        let rank = (self.count() as f64 * q).ceil().max(1.0) as u64;
        let mut seen = 0;
        for (at, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return edge(at) / 1000.0;
            }
        }
        0.0
    }
}

fn bucket(micros: u64) -> usize {
    if micros < STEPS {
        return micros as usize;
    }
    let power = u64::from(micros.ilog2() - STEPS.ilog2());
    ((power + 1) * STEPS + ((micros >> power) - STEPS)) as usize
}

fn edge(bucket: usize) -> f64 {
    let (power, step) = (bucket as u64 / STEPS, bucket as u64 % STEPS);
    match power {
        0 => step as f64,
        _ => ((STEPS + step + 1) as f64) * 2_f64.powi(power as i32 - 1) - 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_three_percent() {
        let mut histogram = Histogram::default();
        for micros in 1..=100_000 {
            histogram.record(Duration::from_micros(micros));
        }
        assert_eq!(histogram.count(), 100_000);
        for (q, expect) in [(0.5, 50.0), (0.99, 99.0)] {
            let found = histogram.millis(q);
            assert!((found / expect - 1.0).abs() < 0.032, "{q}: {found} for {expect}");
        }
        assert!(bucket(u64::MAX) < histogram.buckets.len());
    }

    #[test]
    fn readings_are_json_of_the_asked_size() {
        for bytes in [64, 200, 1000] {
            let reading = reading(bytes);
            assert_eq!(reading.len(), bytes);
            serde_json::from_slice::<serde_json::Value>(&reading).unwrap();
        }
    }

    #[test]
    fn loads_that_cannot_be_run_are_refused() {
        let load = Load::standard(([127, 0, 0, 1], 1).into());
        load.check().unwrap();
        assert!(Load { burst: 51, ..load.clone() }.check().is_err());
        assert!(Load { publishers: 0, ..load }.check().is_err());
    }
}
