//! An S3 that can be trusted, and a way to it that cannot: a proxy that deals out faults from a
//! seed and counts them, so that a test can show that each of them happened.
//!
//! ```text
//! stream ──▶ proxy (faults) ──▶ our own S3 over a folder ◀── reader (no faults)
//! ```

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_s3::{Credentials, Patience, RemoteSettings, S3Front, SecretKeys};
use base::SystemClock;
use e2e::Random;
use hyper_util::rt::TokioIo;
use identity::{KeyRefusal, Secret};
use objects::{Buckets, Remote};
use tokio::runtime::Runtime;

const KEY: &str = "AKIAEXAMPLE";

/// What can become of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// 500 without having stored anything.
    Failed,
    /// 503 SlowDown.
    SlowDown,
    /// 429.
    TooMany,
    /// The connection is gone before the request was read.
    Refused,
    /// The connection is gone in the middle of the body, and the store never heard of it.
    ResetInBody,
    /// The body reaches the store half.
    Cut,
    /// Stored, and the answer is 500.
    StoredThenFailed,
    /// Stored, and no answer comes.
    StoredThenSilent,
    /// Stored, and the connection is gone.
    StoredThenReset,
    /// Stored, and half of the answer's head comes.
    StoredThenTorn,
    /// Nothing is read and nothing is said.
    Silent,
    /// The body is read a byte at a time.
    Trickle,
    /// 403.
    Forbidden,
    /// 501 for a put under a condition.
    NoConditions,
}

/// The trustworthy S3: what was stored lies in a folder.
pub(crate) struct Store {
    pub(crate) buckets: Buckets,
    pub(crate) folder: PathBuf,
    addr: SocketAddr,
    secret: Arc<Mutex<String>>,
}

struct One(Arc<Mutex<String>>);

impl SecretKeys for One {
    fn secret(&self, id: &str, _: Option<&str>) -> Result<Secret, KeyRefusal> {
        match id == KEY {
            true => Ok(Secret::new(self.0.lock().unwrap().clone())),
            false => Err(KeyRefusal::Unknown),
        }
    }
}

impl Store {
    /// Serves `folder` with an empty bucket `there` until `runtime` ends.
    pub(crate) fn start(folder: &Path, runtime: &Runtime) -> Store {
        let buckets = Buckets::open(folder).unwrap();
        buckets.create_bucket("there").unwrap();
        let settings = aws_s3::Settings {
            region: "us-east-1".to_owned(),
            account_id: "000000000000".to_owned(),
            host_suffixes: vec!["localhost".to_owned()],
        };
        let secret = Arc::new(Mutex::new("secret".to_owned()));
        let front = S3Front::new(Arc::new(One(Arc::clone(&secret))), buckets.clone(), settings);
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let addr = listener.local_addr().unwrap();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let front = front.clone();
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request: http::Request<_>| {
                        let front = front.clone();
                        async move {
                            let request = request.map(axum::body::Body::new);
                            Ok::<_, std::convert::Infallible>(front.handle(request).await)
                        }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    // Requests that are cut off are what this is for.
                    http.serve_connection(TokioIo::new(stream), service).await.ok();
                });
            }
        });
        Store { buckets, folder: folder.to_owned(), addr, secret }
    }

    /// Has requests signed with another secret from now on.
    pub(crate) fn rotate(&self, secret: &str) {
        *self.secret.lock().unwrap() = secret.to_owned();
    }

    /// The bucket by a straight way.
    pub(crate) fn straight(&self) -> Remote {
        bucket_at(self.addr, Patience::default(), "secret")
    }
}

/// The bucket `there` of the S3 at `addr`.
pub(crate) fn bucket_at(addr: SocketAddr, patience: Patience, secret: &str) -> Remote {
    let secret = Secret::new(secret);
    let settings = RemoteSettings {
        endpoint: Some(format!("http://{addr}")),
        region: "us-east-1".to_owned(),
        bucket: "there".to_owned(),
        prefix: "from/forebay".to_owned(),
        allow_http: true,
        virtual_host: None,
        patience,
        credentials: Arc::new(move || {
            let secret = secret.clone();
            Ok(Credentials { access_key_id: KEY.to_owned(), secret, token: None })
        }),
    };
    aws_s3::remote(settings, Arc::new(SystemClock)).unwrap()
}

/// Patience that a test can afford.
pub(crate) fn hasty() -> Patience {
    Patience {
        connect: Duration::from_secs(2),
        stall: Duration::from_millis(700),
        answer: Duration::from_millis(1_500),
        bytes_per_sec_min: 1024 * 1024,
    }
}

/// The way that cannot be trusted.
pub(crate) struct Way {
    pub(crate) addr: SocketAddr,
    state: Arc<State>,
}

struct State {
    store: SocketAddr,
    /// No connection leads anywhere.
    down: AtomicBool,
    over: AtomicBool,
    deck: Mutex<Deck>,
    fired: Mutex<BTreeMap<Fault, u64>>,
}

/// Faults in an order that a seed decides: every one comes before any comes again.
struct Deck {
    random: Random,
    cards: Vec<Option<Fault>>,
    left: Vec<Option<Fault>>,
}

impl Deck {
    fn deal(&mut self) -> Option<Fault> {
        if self.left.is_empty() {
            self.left.clone_from(&self.cards);
        }
        if self.left.is_empty() {
            return None;
        }
        let at = self.random.below(self.left.len() as u64) as usize;
        self.left.swap_remove(at)
    }
}

impl Way {
    /// A way to `store` on which all is well until it is told otherwise.
    pub(crate) fn start(store: &Store, seed: u64) -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let deck = Deck { random: Random(seed), cards: Vec::new(), left: Vec::new() };
        let state = Arc::new(State {
            store: store.addr,
            down: AtomicBool::new(false),
            over: AtomicBool::new(false),
            deck: Mutex::new(deck),
            fired: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.over.load(Ordering::SeqCst) {
                    break;
                }
                let shared = Arc::clone(&shared);
                // Either side may go away at any moment; that is not this thread's to report.
                std::thread::spawn(move || shared.carry(client).ok());
            }
        });
        Way { addr, state }
    }

    /// Deals out these faults with `calm` undisturbed requests among them, over and over.
    pub(crate) fn deal(&self, faults: &[Fault], calm: usize) {
        let mut deck = self.state.deck.lock().unwrap();
        deck.cards = faults.iter().copied().map(Some).collect();
        deck.cards.extend(std::iter::repeat_n(None, calm));
        deck.left.clear();
    }

    /// Whether connections lead nowhere.
    pub(crate) fn set_down(&self, down: bool) {
        self.state.down.store(down, Ordering::SeqCst);
    }

    /// How often each fault happened.
    pub(crate) fn fired(&self) -> BTreeMap<Fault, u64> {
        self.state.fired.lock().unwrap().clone()
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.state.over.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        TcpStream::connect(self.addr).ok();
    }
}

impl State {
    fn fire(&self, fault: Fault) {
        *self.fired.lock().unwrap().entry(fault).or_default() += 1;
    }

    /// One request of a client, and what becomes of it.
    fn carry(&self, mut client: TcpStream) -> std::io::Result<()> {
        if self.down.load(Ordering::SeqCst) {
            self.fire(Fault::Refused);
            return Ok(());
        }
        client.set_nodelay(true)?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if client.read(&mut byte)? == 0 {
                return Ok(());
            }
            head.push(byte[0]);
        }
        let text = String::from_utf8_lossy(&head).to_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length = length.map_or(0, |text| text.trim().parse::<usize>().unwrap());
        let is_put = text.starts_with("put ");
        let fault = self.deck.lock().unwrap().deal();
        let fault = match fault {
            // Only writes are ambiguous, have a body or a condition.
            Some(fault) if !is_put && fault > Fault::Refused => None,
            Some(Fault::NoConditions) if !text.contains("if-none-match") => None,
            other => other,
        };
        if let Some(fault) = fault {
            self.fire(fault);
        }
        let answer = |client: &mut TcpStream, status: &str, code: &str| {
            let body = format!("<Error><Code>{code}</Code><Message>as told</Message></Error>");
            let length = body.len();
            write!(
                client,
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            )
        };
        match fault {
            None => self
                .forward(&head, &mut client, length, length)
                .and_then(|said| client.write_all(&said)),
            Some(Fault::Failed) => {
                take(&mut client, length)?;
                answer(&mut client, "500 Internal Server Error", "InternalError")
            }
            Some(Fault::SlowDown) => {
                take(&mut client, length)?;
                answer(&mut client, "503 Slow Down", "SlowDown")
            }
            Some(Fault::TooMany) => {
                take(&mut client, length)?;
                answer(&mut client, "429 Too Many Requests", "TooManyRequests")
            }
            Some(Fault::Forbidden) => {
                take(&mut client, length)?;
                answer(&mut client, "403 Forbidden", "AccessDenied")
            }
            Some(Fault::NoConditions) => {
                take(&mut client, length)?;
                answer(&mut client, "501 Not Implemented", "NotImplemented")
            }
            Some(Fault::Refused) => Ok(()),
            // What is left unread makes the system answer the rest with a reset.
            Some(Fault::ResetInBody) => take(&mut client, length / 2).map(drop),
            Some(Fault::Cut) => self.forward(&head, &mut client, length, length / 2).map(drop),
            Some(Fault::StoredThenFailed) => {
                self.forward(&head, &mut client, length, length)?;
                answer(&mut client, "500 Internal Server Error", "InternalError")
            }
            Some(Fault::StoredThenSilent) => {
                self.forward(&head, &mut client, length, length)?;
                self.wait_until_gone(&mut client)
            }
            Some(Fault::StoredThenReset) => {
                self.forward(&head, &mut client, length, length).map(drop)
            }
            Some(Fault::StoredThenTorn) => {
                let said = self.forward(&head, &mut client, length, length)?;
                client.write_all(&said[..said.len().min(20)])
            }
            Some(Fault::Silent) => self.wait_until_gone(&mut client),
            Some(Fault::Trickle) => {
                for _ in 0..length {
                    take(&mut client, 1)?;
                    std::thread::sleep(Duration::from_millis(20));
                    if self.over.load(Ordering::SeqCst) {
                        break;
                    }
                }
                Ok(())
            }
        }
    }

    /// Passes on the head and `pass` bytes of the body; gives the answer, if all was passed.
    fn forward(
        &self,
        head: &[u8],
        client: &mut TcpStream,
        length: usize,
        pass: usize,
    ) -> std::io::Result<Vec<u8>> {
        let body = take(client, length)?;
        let mut store = TcpStream::connect(self.store)?;
        store.write_all(&head[..head.len() - 2])?;
        // Its answer ends with the connection, so that it need not be understood here.
        store.write_all(b"connection: close\r\n\r\n")?;
        store.write_all(&body[..pass])?;
        let mut said = Vec::new();
        if pass == length {
            store.read_to_end(&mut said)?;
        }
        Ok(said)
    }

    /// Keeps a connection open and says nothing on it until the client has had enough.
    fn wait_until_gone(&self, client: &mut TcpStream) -> std::io::Result<()> {
        client.set_read_timeout(Some(Duration::from_millis(100)))?;
        let mut rest = [0; 64 * 1024];
        while !self.over.load(Ordering::SeqCst) {
            match client.read(&mut rest) {
                Ok(0) => break,
                Err(cause) if !is_timeout(&cause) => break,
                _ => {}
            }
        }
        Ok(())
    }
}

fn is_timeout(cause: &std::io::Error) -> bool {
    matches!(cause.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut)
}

fn take(from: &mut TcpStream, bytes: usize) -> std::io::Result<Vec<u8>> {
    let mut taken = vec![0; bytes];
    from.read_exact(&mut taken)?;
    Ok(taken)
}
