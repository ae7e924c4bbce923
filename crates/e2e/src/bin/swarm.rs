//! Thousands of MQTT clients in one process, well-behaved or not; see `e2e::swarm`.
//!
//! `swarm MODE BROKER COUNT [KEY=VALUE ...]`

#![expect(clippy::unwrap_used, reason = "a harness that cannot go on should stop where it is")]
#![expect(clippy::print_stdout, reason = "it answers on its output")]

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use e2e::mqtt;
use rustls::ClientConnection;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_rustls::TlsConnector;

/// How long one answer may take before a client tries again.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);
/// How long a client tries.
const TRIES_LIMIT: Duration = Duration::from_secs(120);
/// Sequence numbers of one attempt: a reading that was sent is never sent again.
const ATTEMPT: u64 = 1_000_000;

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What was asked for.
#[derive(Clone)]
struct Asked {
    broker: SocketAddr,
    count: u64,
    settings: BTreeMap<String, String>,
    tls: Option<TlsConnector>,
}

impl Asked {
    fn text(&self, key: &str) -> &str {
        self.settings.get(key).map_or("", String::as_str)
    }

    fn number(&self, key: &str) -> u64 {
        let text = self.text(key);
        text.parse().unwrap_or_else(|error| panic!("{key}={text}: {error}"))
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [mode, broker, count, settings @ ..] = words.as_slice() else {
        panic!("swarm MODE BROKER COUNT [KEY=VALUE ...]");
    };
    let pairs = settings.iter().map(|setting| setting.split_once('=').unwrap());
    let settings: BTreeMap<_, _> = pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let tls = settings.get("kit").map(|kit| {
        let kit = Path::new(kit);
        let root = mqtt::file_ending(kit, "root-CA.crt");
        TlsConnector::from(Arc::new(mqtt::tls_config(&root, Some(kit))))
    });
    let (broker, count) = (broker.parse().unwrap(), count.parse().unwrap());
    let asked = Asked { broker, count, settings, tls };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let last = runtime.block_on(async {
        match mode.as_str() {
            "crowd" => crowd(asked).await,
            "storm" => storm(asked).await,
            "deaf" => deaf(asked).await,
            "audience" => audience(asked).await,
            "mourned" => mourned(asked).await,
            "slow" => slow(asked).await,
            other => panic!("no mode {other}"),
        }
    });
    println!("{last}");
    // Whoever is still there is dropped as it is.
    std::process::exit(0);
}

/// Says that everybody is where they should be.
fn say(what: &Value) {
    println!("{what}");
}

/// Holds everything as it is until the input ends.
async fn hold() {
    let read = tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new()));
    read.await.unwrap().unwrap();
}

async fn open(asked: &Asked) -> std::io::Result<Box<dyn Stream>> {
    let socket = TcpStream::connect(asked.broker).await?;
    socket.set_nodelay(true)?;
    match &asked.tls {
        None => Ok(Box::new(socket)),
        Some(tls) => {
            let name = "localhost".try_into().unwrap();
            Ok(Box::new(tls.connect(name, socket).await?))
        }
    }
}

async fn expect(stream: &mut dyn Stream, wanted: &[u8]) -> std::io::Result<()> {
    let mut answer = vec![0; wanted.len()];
    let read = timeout(ANSWER_LIMIT, stream.read_exact(&mut answer)).await;
    read.map_err(|_late| ErrorKind::TimedOut)??;
    if answer != wanted {
        return Err(std::io::Error::other(format!("{answer:02x?} instead of {wanted:02x?}")));
    }
    Ok(())
}

async fn join(asked: &Asked, hello: &[u8]) -> std::io::Result<Box<dyn Stream>> {
    let opened = timeout(ANSWER_LIMIT, open(asked)).await;
    let mut stream = opened.map_err(|_late| ErrorKind::TimedOut)??;
    stream.write_all(hello).await?;
    expect(&mut *stream, &[0x20, 2, 0, 0]).await?;
    Ok(stream)
}

/// Everybody comes at once, publishes one reading, and stays. `id` begins their names.
async fn crowd(asked: Asked) -> Value {
    let began = Instant::now();
    let attempts = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for number in 0..asked.count {
        let (asked, attempts) = (asked.clone(), Arc::clone(&attempts));
        clients.spawn(async move {
            let device = asked.text("id").to_owned();
            let (topic, id) = (format!("load/{device}/readings"), format!("{device}-{number}"));
            let mut sent = Vec::new();
            for attempt in 0.. {
                attempts.fetch_add(1, Ordering::Relaxed);
                let seq = attempt * ATTEMPT + number;
                let publish = async {
                    let mut stream = join(&asked, &mqtt::connect(&id)).await?;
                    sent.push(seq);
                    let payload = mqtt::reading(&device, seq);
                    stream.write_all(&mqtt::publish_packet(&topic, 1, payload.as_bytes())).await?;
                    expect(&mut *stream, &[0x40, 2, 0, 1]).await?;
                    Ok::<_, std::io::Error>(stream)
                };
                match publish.await {
                    Ok(stream) => return (Some((stream, seq, began.elapsed())), sent),
                    Err(_) if began.elapsed() < TRIES_LIMIT => {
                        // Not all of them at the same time again.
                        sleep(Duration::from_millis(200 + number % 800)).await;
                    }
                    Err(_) => break,
                }
            }
            (None, sent)
        });
    }
    let (mut kept, mut sent, mut acknowledged) = (Vec::new(), Vec::new(), Vec::new());
    let mut waits = Vec::new();
    while let Some(client) = clients.join_next().await {
        let (arrived, tried) = client.unwrap();
        sent.extend(tried);
        if let Some((stream, seq, waited)) = arrived {
            kept.push(stream);
            acknowledged.push(seq);
            waits.push(waited.as_millis() as u64);
        }
    }
    waits.sort_unstable();
    say(&json!({
        "arrived": kept.len(),
        "attempts": attempts.load(Ordering::Relaxed),
        "half_ms": waits.get(waits.len() / 2),
        "slowest_ms": waits.last(),
        "sent": sent,
        "acknowledged": acknowledged,
    }));
    hold().await;
    json!({"held": kept.len()})
}

/// Connections that come at `rate` a second for `secs`, and go as soon as they are in: every
/// other one with a DISCONNECT, the rest by a reset.
async fn storm(asked: Asked) -> Value {
    let (rate, secs) = (asked.number("rate"), asked.number("secs"));
    let began = tokio::time::Instant::now();
    let mut clients = JoinSet::new();
    let (mut done, mut failed) = (0_u64, 0_u64);
    for number in 0..rate * secs {
        sleep_until(began + Duration::from_secs_f64(number as f64 / rate as f64)).await;
        let asked = asked.clone();
        clients.spawn(async move {
            let mut stream = TcpStream::connect(asked.broker).await?;
            stream.write_all(&mqtt::connect(&format!("storm-{number}"))).await?;
            expect(&mut stream, &[0x20, 2, 0, 0]).await?;
            if number.is_multiple_of(2) {
                stream.write_all(&[0xe0, 0]).await?;
            } else {
                stream.set_zero_linger()?;
            }
            Ok::<_, std::io::Error>(())
        });
        while let Some(client) = clients.try_join_next() {
            *(if client.unwrap().is_ok() { &mut done } else { &mut failed }) += 1;
        }
    }
    let took = began.elapsed();
    while let Some(client) = clients.join_next().await {
        *(if client.unwrap().is_ok() { &mut done } else { &mut failed }) += 1;
    }
    json!({"done": done, "failed": failed, "took_ms": took.as_millis() as u64})
}

/// Subscribers of `filter` that never read again, or (the first `trickling`) a byte a second.
async fn deaf(asked: Asked) -> Value {
    let trickling = asked.number("trickling") as usize;
    let mut listeners = Vec::new();
    for number in 0..asked.count {
        let socket = TcpSocket::new_v4().unwrap();
        // What the kernel takes for it is not the broker's to bound.
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(asked.broker).await.unwrap();
        stream.write_all(&mqtt::connect(&format!("deaf-{number}"))).await.unwrap();
        expect(&mut stream, &[0x20, 2, 0, 0]).await.unwrap();
        // At QoS 0 the kernel takes megabytes before the broker notices, at QoS 1 a window.
        let qos = u8::from(!number.is_multiple_of(10));
        stream.write_all(&mqtt::subscribe_to(&[asked.text("filter")], qos)).await.unwrap();
        let mut suback = [0; 5];
        stream.read_exact(&mut suback).await.unwrap();
        assert_eq!(suback, [0x90, 3, 0, 1, qos]);
        listeners.push(stream);
    }
    say(&json!({"listening": listeners.len()}));
    let trickle = async {
        loop {
            sleep(Duration::from_secs(1)).await;
            for stream in &mut listeners[..trickling] {
                let mut byte = [0];
                // Nothing may have come yet.
                drop(stream.try_read(&mut byte));
            }
        }
    };
    tokio::select! {
        () = hold() => {}
        () = trickle => {}
    }
    json!({"held": listeners.len()})
}

/// Subscribers of `each` filters, `load/N/readings`, no two alike, that count what they hear.
async fn audience(asked: Asked) -> Value {
    let each = asked.number("each");
    let heard = Arc::new(AtomicU64::new(0));
    let mut listeners = JoinSet::new();
    for number in 0..asked.count {
        let mut stream = join(&asked, &mqtt::connect(&format!("audience-{number}"))).await.unwrap();
        let own = number * each..(number + 1) * each;
        let filters: Vec<String> = own.map(|n| format!("load/{n}/readings")).collect();
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        stream.write_all(&mqtt::subscribe_to(&filters, 0)).await.unwrap();
        let (kind, granted) = packet(&mut *stream).await.unwrap();
        assert_eq!(kind, 0x90);
        assert!(granted[2..].iter().all(|code| *code == 0) && granted.len() as u64 == each + 2);
        let heard = Arc::clone(&heard);
        listeners.spawn(async move {
            while let Ok((0x30, _)) = packet(&mut *stream).await {
                heard.fetch_add(1, Ordering::SeqCst);
            }
        });
    }
    say(&json!({"subscriptions": asked.count * each}));
    hold().await;
    // What is on its way arrives as long as it arrives.
    let mut before = u64::MAX;
    while before != heard.load(Ordering::SeqCst) {
        before = heard.load(Ordering::SeqCst);
        sleep(Duration::from_secs(1)).await;
    }
    json!({"heard": before, "listening": listeners.len()})
}

async fn packet(stream: &mut dyn Stream) -> std::io::Result<(u8, Vec<u8>)> {
    let kind = stream.read_u8().await?;
    let (mut length, mut shift) = (0_usize, 0);
    loop {
        let byte = stream.read_u8().await?;
        length |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    Ok((kind, body))
}

/// Clients with a will that ping as they must, with a keep-alive of `keep_alive` seconds. Their
/// wills are readings from `first` on.
async fn mourned(asked: Asked) -> Value {
    let (keep_alive, first) = (asked.number("keep_alive") as u16, asked.number("first"));
    let mut clients = Vec::new();
    for number in 0..asked.count {
        let mut body = mqtt::string("MQTT");
        // Version 4; a will at QoS 1, a clean session.
        body.extend([4, 0b0000_1110]);
        body.extend(keep_alive.to_be_bytes());
        body.extend(mqtt::string(&format!("mourned-{number}")));
        body.extend(mqtt::string("load/will/readings"));
        let will = mqtt::reading("will", first + number);
        body.extend(mqtt::string(&will));
        clients.push(join(&asked, &mqtt::packet(0x10, &body)).await.unwrap());
    }
    say(&json!({"here": clients.len()}));
    let ping = async {
        loop {
            sleep(Duration::from_secs(u64::from(keep_alive)) / 2).await;
            for stream in &mut clients {
                stream.write_all(&[0xc0, 0]).await?;
                expect(&mut **stream, &[0xd0, 0]).await?;
            }
        }
    };
    let pinging = async {
        let ended: std::io::Result<()> = ping.await;
        ended
    };
    tokio::select! {
        () = hold() => json!({"ended": null}),
        ended = pinging => json!({"ended": ended.unwrap_err().to_string()}),
    }
}

/// The first flight of a TLS client.
fn client_hello() -> Vec<u8> {
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_root_certificates(rustls::RootCertStore::empty())
    .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut hello = Vec::new();
    connection.write_tls(&mut hello).unwrap();
    hello
}

/// How a slow peer behaves: what it says at once, and what it then says byte by byte.
fn manner(kind: &str) -> (Vec<u8>, Vec<u8>) {
    let connect = mqtt::connect("slow");
    match kind {
        "silent" => (Vec::new(), Vec::new()),
        "drip-hello" => (Vec::new(), client_hello()),
        "hello" => (client_hello(), Vec::new()),
        "drip-connect" => (Vec::new(), connect),
        "half-connect" => (connect[..connect.len() / 2].to_vec(), Vec::new()),
        // A CONNECT of 256 MiB, the longest that MQTT can claim, and 64 KiB of it.
        "claim" => {
            let mut claim = vec![0x10, 0xff, 0xff, 0xff, 0x7f, 0, 4, b'M', b'Q', b'T', b'T', 4];
            claim.resize(64 * 1024, 0);
            (claim, Vec::new())
        }
        "first-byte" => (vec![0x30, 2, 0, 0], Vec::new()),
        other => panic!("no kind {other}"),
    }
}

/// Peers that never finish their handshake or CONNECT, by `kind`; `for_ms` each is waited for.
/// Says how long the broker kept them.
async fn slow(asked: Asked) -> Value {
    let (at_once, slowly) = manner(asked.text("kind"));
    let limit = Duration::from_millis(asked.number("for_ms"));
    let here = Arc::new(AtomicU64::new(0));
    let mut peers = JoinSet::new();
    for _ in 0..asked.count {
        let (at_once, slowly) = (at_once.clone(), slowly.clone());
        let here = Arc::clone(&here);
        // One by one: the kernel forgets who comes to a full queue and says nothing.
        let stream = TcpStream::connect(asked.broker).await.unwrap();
        peers.spawn(async move {
            let began = Instant::now();
            let (mut from, mut to) = stream.into_split();
            // The broker may be gone before it is all said.
            drop(to.write_all(&at_once).await);
            here.fetch_add(1, Ordering::SeqCst);
            let drip = async {
                for byte in slowly {
                    sleep(Duration::from_secs(2)).await;
                    if to.write_all(&[byte]).await.is_err() {
                        break;
                    }
                }
                std::future::pending::<()>().await;
            };
            let closed = async {
                let mut bytes = [0; 4096];
                while matches!(from.read(&mut bytes).await, Ok(1..)) {}
                began.elapsed()
            };
            tokio::select! {
                () = drip => None,
                kept = closed => Some(kept),
                () = sleep(limit) => None,
            }
        });
    }
    while here.load(Ordering::SeqCst) < asked.count {
        sleep(Duration::from_millis(5)).await;
    }
    say(&json!({"here": asked.count}));
    let mut kept = Vec::new();
    while let Some(peer) = peers.join_next().await {
        kept.extend(peer.unwrap().map(|kept| kept.as_millis() as u64));
    }
    kept.sort_unstable();
    json!({"closed": kept.len(), "fastest_ms": kept.first(), "slowest_ms": kept.last()})
}
