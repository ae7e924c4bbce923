//! MQTT over WebSocket, frame by frame: what is granted, what is refused, and that the borders
//! of frames mean nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use broker::{Authenticator, Identity, Refusal, Settings};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::raw::{Hello, Raw, SOON, publish, qos1, subscribe};
use crate::support::{Everybody, World};

const ASKS: &str = "GET /mqtt HTTP/1.1\r\nHost: here\r\nConnection: keep-alive, Upgrade\r\n\
                    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

const BINARY: u8 = 2;
const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

fn asks(more: &str) -> String {
    format!("{ASKS}Sec-WebSocket-Protocol: mqtt\r\n{more}\r\n")
}

/// A frame as clients send it, masked with zeros.
fn frame(opcode: u8, is_last: bool, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![opcode | if is_last { 0x80 } else { 0 }];
    match payload.len() {
        short @ 0..126 => frame.push(0x80 | short as u8),
        long => {
            frame.push(0x80 | 126);
            frame.extend((long as u16).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

fn binary(payload: &[u8]) -> Vec<u8> {
    frame(BINARY, true, payload)
}

struct Page {
    stream: TcpStream,
    /// MQTT's bytes that came and were not looked at.
    input: Vec<u8>,
}

impl Page {
    async fn ask(address: SocketAddr, request: &str) -> (Page, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match timeout(SOON, stream.read_u8()).await.expect("no answer") {
                Ok(byte) => head.push(byte),
                Err(_closed) => break,
            }
        }
        (Page { stream, input: Vec::new() }, String::from_utf8(head).unwrap())
    }

    async fn open(address: SocketAddr) -> Page {
        let (page, head) = Page::ask(address, &asks("")).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        let head = head.to_ascii_lowercase();
        assert!(head.contains("sec-websocket-protocol: mqtt\r\n"), "{head}");
        page
    }

    async fn join(address: SocketAddr, hello: &Hello<'_>) -> Page {
        let mut page = Page::open(address).await;
        page.send(&binary(&hello.bytes())).await;
        assert_eq!(page.bytes(4).await, [0x20, 2, 0, 0]);
        page
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next frame of the broker; `None` once it has closed.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let read = async {
            let head = self.stream.read_u8().await.ok()?;
            assert_eq!(head & 0xf0, 0x80, "whole frames, nothing reserved");
            let length = match self.stream.read_u8().await.ok()? {
                126 => usize::from(self.stream.read_u16().await.ok()?),
                short => {
                    assert!(short < 126, "unmasked and short, {short}");
                    usize::from(short)
                }
            };
            let mut payload = vec![0; length];
            self.stream.read_exact(&mut payload).await.ok()?;
            Some((head & 15, payload))
        };
        timeout(SOON, read).await.expect("nothing came")
    }

    /// The next bytes of MQTT, however they are framed.
    async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.input.len() < count {
            let (opcode, payload) = self.frame().await.expect("closed");
            assert_eq!(opcode, BINARY);
            self.input.extend(payload);
        }
        self.input.drain(..count).collect()
    }

    async fn closed(&mut self) {
        while let Some((opcode, payload)) = self.frame().await {
            assert_eq!(opcode, CLOSE, "{payload:02x?}");
        }
    }
}

/// The WebSocket listener of a broker; TLS is not what is tested here.
async fn listen(world: &World) -> (SocketAddr, watch::Sender<bool>) {
    let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let secret = PrivateKeyDer::Pkcs8(key.signing_key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], secret)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (shutdown, stop) = watch::channel(false);
    let broker = Arc::clone(&world.broker);
    tokio::spawn(async move { broker.serve_websocket(listener, Arc::new(tls), stop).await });
    (address, shutdown)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_borders_of_frames_mean_nothing() {
    let world = World::new().await;
    let (address, _stop) = listen(&world).await;
    let mut page = Page::open(address).await;
    // A byte a frame, a byte a fragment, then three packets in one message with a ping between.
    for byte in Hello::v4("page").bytes() {
        page.send(&binary(&[byte])).await;
    }
    assert_eq!(page.bytes(4).await, [0x20, 2, 0, 0]);
    let packet = subscribe(4, 1, &[("a/#", 1)]);
    let (last, rest) = packet.split_last().unwrap();
    for (at, byte) in rest.iter().enumerate() {
        page.send(&frame(if at == 0 { BINARY } else { 0 }, false, &[*byte])).await;
        page.send(&frame(PING, true, b"there?")).await;
        assert_eq!(page.frame().await.unwrap(), (PONG, b"there?".to_vec()));
    }
    page.send(&frame(0, true, &[*last])).await;
    assert_eq!(page.bytes(5).await, [0x90, 3, 0, 1, 1]);
    let three = [qos1("b", 1, "1"), qos1("b", 2, "2"), qos1("b", 3, "3")].concat();
    page.send(&binary(&three)).await;
    assert_eq!(page.bytes(12).await, [0x40, 2, 0, 1, 0x40, 2, 0, 2, 0x40, 2, 0, 3]);
    assert_eq!(world.journal.messages().len(), 3);

    // What is longer than a frame of ours arrives whole.
    let long = vec![b'x'; 100_000];
    let mut other = Raw::join(world.address, &Hello::v4("other")).await;
    other.send(&publish(0x30, "a/long", 0, None, &long)).await;
    let expected = publish(0x30, "a/long", 0, None, &long);
    assert!(page.bytes(expected.len()).await == expected);
    page.send(&binary(&[0xe0, 0])).await;
    page.closed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_asks_for_no_mqtt_is_answered_in_http() {
    let world = World::new().await;
    let (address, _stop) = listen(&world).await;
    let cases = [
        (asks("").replace("/mqtt", "/other"), "404", "/mqtt"),
        (format!("{ASKS}\r\n"), "400", "Sec-WebSocket-Protocol"),
        (format!("{ASKS}Sec-WebSocket-Protocol: chat\r\n\r\n"), "400", "Sec-WebSocket-Protocol"),
        ("GET / HTTP/1.1\r\nHost: here\r\n\r\n".to_owned(), "400", "MQTT over WebSocket"),
        ("POST /mqtt HTTP/1.1\r\nHost: here\r\n\r\n".to_owned(), "400", "MQTT over WebSocket"),
        (asks("").replace("13", "12"), "400", "MQTT over WebSocket"),
        (asks("Origin: https://evil.example\r\n"), "403", "websocket_origins"),
        (asks("Origin: null\r\n"), "403", "websocket_origins"),
        ("\u{10}\u{e}\0\u{4}MQTT\u{4}\u{2}\0<\0\u{2}id\r\n\r\n".to_owned(), "400", "MQTT over"),
    ];
    for (request, status, word) in cases {
        let (mut page, head) = Page::ask(address, &request).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {head}");
        let mut body = String::new();
        timeout(SOON, page.stream.read_to_string(&mut body)).await.unwrap().unwrap();
        assert!(body.contains(word), "{request}: {body}");
    }
    // The last frame of each of these is not MQTT's.
    let connect = Hello::v4("page").bytes();
    let broken = [
        frame(TEXT, true, b"hello"),
        frame(BINARY, true, b"hello"),
        [&[0x82, connect.len() as u8][..], &connect].concat(),
        vec![0xff; 16],
        frame(CLOSE, true, &[]),
    ];
    for bytes in broken {
        let mut page = Page::open(address).await;
        page.send(&bytes).await;
        page.closed().await;
    }
    drop(Page::join(address, &Hello::v4("page")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_needs_its_origin_listed() {
    let websocket_origins = vec!["https://Plant.example".to_owned()];
    let world = World::start(Settings { websocket_origins, ..Settings::default() }).await;
    let (address, _stop) = listen(&world).await;
    let cases = [
        ("here", "https://plant.example", "101"),
        ("here", "http://plant.example", "403"),
        // As paho says it, and as a page would whose name was turned to our address.
        ("localhost:8083", "http://localhost:8083", "101"),
        ("127.0.0.1:8083", "http://127.0.0.1:8083", "101"),
        ("[::1]:8083", "http://[::1]:8083", "101"),
        ("localhost:8083", "https://localhost:8083", "403"),
        ("localhost:8083", "http://localhost:3000", "403"),
        ("evil.example:8083", "http://evil.example:8083", "403"),
    ];
    for (host, origin, status) in cases {
        let request = asks(&format!("Origin: {origin}\r\n"));
        let request = request.replace("Host: here", &format!("Host: {host}"));
        let (_page, head) = Page::ask(address, &request).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{host} {origin}: {head}");
    }
}

/// Who asks for nothing, or asks without end, is cut at the deadline of CONNECT or before; a
/// client that is there goes on.
#[tokio::test(flavor = "multi_thread")]
async fn an_endless_request_ends() {
    let settings = Settings { connect_secs_max: 1, ..Settings::default() };
    let world = World::start(settings).await;
    let (address, _stop) = listen(&world).await;
    let mut there = Page::join(address, &Hello::v4("there")).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET /mqtt HTTP/1.1\r\n").await.unwrap();
    let mut upgraded = Page::open(address).await;
    let mut large = TcpStream::connect(address).await.unwrap();
    let endless = async {
        large.write_all(b"GET /mqtt HTTP/1.1\r\n").await?;
        loop {
            large.write_all(&[b'a'; 1024]).await?;
        }
    };
    let cut: std::io::Result<()> = timeout(SOON, endless).await.expect("64 KiB of header");
    cut.unwrap_err();
    for stream in [&mut silent, &mut slow] {
        let end = timeout(SOON, stream.read(&mut [0; 8])).await.expect("it was not cut");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
    upgraded.closed().await;
    there.send(&binary(&[0xc0, 0])).await;
    assert_eq!(there.bytes(2).await, [0xd0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_page_leaves_its_will() {
    let world = World::new().await;
    let (address, _stop) = listen(&world).await;
    let mut witness = Raw::join(world.address, &Hello::v4("witness")).await;
    witness.send(&subscribe(4, 1, &[("gone", 0)])).await;
    witness.expect(&[0x90, 3, 0, 1, 0]).await;
    for (close, name) in [(true, "closes"), (false, "is cut")] {
        let hello = Hello { will: Some(("gone", name, 0)), ..Hello::v4(name) };
        let mut page = Page::join(address, &hello).await;
        if close {
            page.send(&frame(CLOSE, true, &1000_u16.to_be_bytes())).await;
            page.closed().await;
        }
        drop(page);
        witness.expect(&publish(0x30, "gone", 0, None, name.as_bytes())).await;
    }
}

/// Knows one signature.
struct Signatures;

impl Authenticator for Signatures {
    fn certificate(&self, der: &[u8]) -> Result<Identity, Refusal> {
        Everybody.certificate(der)
    }

    fn anonymous(&self) -> Result<Identity, Refusal> {
        Err(Refusal { reason: "anonymous", message: "nobody is anonymous here".into() })
    }

    fn signed(&self, request: &http::Request<()>) -> Option<Result<Identity, Refusal>> {
        Some(match request.uri().query()? {
            "sign=right" => Ok(Identity { principal: "role:root".into(), thing_name: None }),
            _ => Err(Refusal { reason: "signature", message: "the signature is wrong".into() }),
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_says_who_it_is() {
    let world = World::start_with(Settings::default(), Arc::new(Signatures)).await;
    let (address, _stop) = listen(&world).await;
    let signed = |sign: &str| asks("Origin: https://any.example\r\n").replace("/mqtt", sign);
    let (mut signer, head) = Page::ask(address, &signed("/mqtt?sign=right")).await;
    assert!(head.starts_with("HTTP/1.1 101 "), "signing needs no listed origin: {head}");
    signer.send(&binary(&Hello::v4("page").bytes())).await;
    assert_eq!(signer.bytes(4).await, [0x20, 2, 0, 0]);
    let session = world.broker.why("page").0.unwrap();
    assert_eq!(session.principal, "role:root");

    // A wrong one is refused; it does not make its bearer somebody else.
    let (mut page, head) = Page::ask(address, &signed("/mqtt?sign=wrong")).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    let mut body = String::new();
    timeout(SOON, page.stream.read_to_string(&mut body)).await.unwrap().unwrap();
    assert!(body.contains("the signature is wrong"), "{body}");
    // None at all is told so in MQTT.
    let mut page = Page::open(address).await;
    page.send(&binary(&Hello::v4("page-2").bytes())).await;
    assert_eq!(page.bytes(4).await, [0x20, 2, 0, 5]);

    let closed = world.broker.disconnect_principal("role:root", broker::Disconnect::Revoked);
    assert_eq!(closed, 1);
    signer.closed().await;
}
