use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base::ErrorKind;
use url::Url;

use crate::allowed::Allowed;
use crate::{Egress, lies_under};

fn egress(allowed: &[&str]) -> Egress {
    let allowed: Vec<String> = allowed.iter().map(|entry| (*entry).to_owned()).collect();
    Egress::new(&allowed).expect("a list of hosts")
}

/// A server that answers each request in turn as it is told, the last way from then on.
struct Server {
    address: SocketAddr,
    hits: Arc<AtomicUsize>,
    heads: Arc<Mutex<Vec<String>>>,
}

fn server(answers: &[&str]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
    let (hits, heads) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (counted, seen) = (hits.clone(), heads.clone());
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let at = counted.fetch_add(1, Ordering::SeqCst);
            let answer = answers.get(at).or(answers.last()).cloned().unwrap_or_default();
            let head = serve(stream, &answer);
            seen.lock().expect("no panic").push(head);
        }
    });
    Server { address, hits, heads }
}

fn serve(stream: TcpStream, answer: &str) -> String {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    let mut bytes = 0;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) <= 2 {
            break;
        }
        if let Some(length) = line.to_lowercase().strip_prefix("content-length:") {
            bytes = length.trim().parse().unwrap_or(0);
        }
        head.push_str(&line);
    }
    let mut body = vec![0; bytes];
    drop(reader.read_exact(&mut body));
    head.push_str(&String::from_utf8_lossy(&body));
    let mut stream = reader.into_inner();
    if answer == "silence" {
        std::thread::sleep(Duration::from_secs(5));
        return head;
    }
    drop(stream.write_all(answer.as_bytes()));
    head
}

fn answer(status: &str, body: &str) -> String {
    let bytes = body.len();
    format!("HTTP/1.1 {status}\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n{body}")
}

impl Server {
    fn url(&self) -> String {
        format!("http://{}/in", self.address)
    }

    fn hits(&self) -> usize {
        self.hits.load(Ordering::SeqCst)
    }
}

/// C4: what an HTTP action cannot reach, in every way of writing it that a parser knows.
#[test]
fn c4_no_name_or_number_leads_inside() {
    let egress = egress(&["hooks.example.com", "*.example.org", "*.nip.example"]);
    let hostile = [
        "http://127.0.0.1/",
        "http://127.1/",
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://017700000001/",
        "http://127.0.0.1.:80/",
        "http://0/",
        "http://0.0.0.0/",
        "http://[::]/",
        "http://[::1]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[::ffff:7f00:1]/",
        "http://[::127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/",
        "http://[2002:7f00:1::]/",
        "http://[fe80::1]/",
        "http://[fd00:ec2::254]/latest/meta-data/",
        "http://169.254.169.254/latest/meta-data/",
        "http://2852039166/",
        "http://0xa9fea9fe/",
        "http://[::ffff:a9fe:a9fe]/",
        "http://10.0.0.1/",
        "http://172.16.0.1/",
        "http://192.168.1.1/",
        "http://100.64.0.1/",
        "http://224.0.0.1/",
        "http://255.255.255.255/",
        "http://8.8.8.8/",
        "http://localhost/",
        "http://LOCALHOST/",
        "http://ⓛocalhost/",
        "http://127。0。0。1/",
        "http://metadata.google.internal/",
        "http://hooks.example.com.evil.test/",
        "http://evilexample.org/",
        "http://example.org/",
        "http://hooks.example.com@127.0.0.1/",
        "http://user:secret@hooks.example.com/",
        "http://127.0.0.1#@hooks.example.com/",
        "http://127.0.0.1\\@hooks.example.com/",
        "http:///127.0.0.1/",
        "https:127.0.0.1",
        "file:///etc/passwd",
        "ftp://hooks.example.com/",
        "gopher://hooks.example.com/",
        "unix:/run/docker.sock",
        "data:text/plain,x",
        "//hooks.example.com/",
        "hooks.example.com",
        "http://",
        "",
    ];
    for url in hostile {
        let refused = egress.check(url).expect_err(url);
        assert!(matches!(refused.kind(), ErrorKind::Denied | ErrorKind::Invalid), "{url}");
        assert!(!refused.to_string().contains("secret"), "{refused}");
        assert!(egress.post(url, &[], b"").is_err(), "{url}");
    }
    for url in [
        "https://hooks.example.com/x?y=1",
        "http://A.Example.org:8080/",
        "https://hooks.example.com./",
    ] {
        assert!(egress.check(url).is_ok(), "{url}");
    }
}

/// C4: a name that is listed and leads inside, whoever answers for it.
#[test]
fn c4_a_listed_name_opens_only_addresses_of_the_internet() {
    let listed: Vec<String> = ["hooks.example.com".to_owned(), "10.1.2.0/24".to_owned()].into();
    let allowed = Allowed::read(&listed).expect("a list");
    let permitted = |host: &str, address: &str| {
        let found = SocketAddr::new(address.parse().expect("an address"), 443);
        allowed.filter(host, &[found]).is_ok()
    };
    let inner = [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "10.0.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "169.254.169.254",
        "100.100.100.200",
        "192.0.0.192",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001::1",
        "2001:db8::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fec0::1",
        "ff02::1",
    ];
    for address in inner {
        assert!(!permitted("hooks.example.com", address), "{address}");
    }
    for address in ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "10.1.2.9"]
    {
        assert!(permitted("hooks.example.com", address), "{address}");
    }
    // A name that nobody listed leads to what is listed by its address, and nowhere else.
    assert!(permitted("other.test", "10.1.2.9"));
    assert!(!permitted("other.test", "8.8.8.8"));
    // Of several addresses only those that are permitted are called.
    let found = ["127.0.0.1:80", "8.8.8.8:80"].map(|text| text.parse().expect("an address"));
    assert_eq!(allowed.filter("hooks.example.com", &found).expect("one is left"), [found[1]]);
}

/// C4: the address is checked when it is connected to, not only when it is read.
#[test]
fn c4_a_name_that_leads_here_is_refused_when_it_is_resolved() {
    let server = server(&[&answer("200 OK", "")]);
    let url = format!("http://localhost:{}/", server.address.port());
    let error = egress(&["localhost"]).post(&url, &[], b"x").expect_err("localhost is inside");
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("leads to"), "{error}");
    assert_eq!(server.hits(), 0);
    let listed = egress(&["localhost", "127.0.0.1", "::1"]);
    assert!(listed.post(&url, &[], b"x").is_ok());
    assert_eq!(server.hits(), 1);
}

/// C4: an answer cannot send the request elsewhere.
#[test]
fn c4_redirects_are_not_followed() {
    let target = server(&[&answer("200 OK", "")]);
    for status in ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"] {
        let head = format!(
            "HTTP/1.1 {status}\r\nLocation: {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            target.url()
        );
        let first = server(&[&head]);
        let error = egress(&["127.0.0.1"]).post(&first.url(), &[], b"x").expect_err(status);
        assert!(error.to_string().contains(&status[..3]), "{error}");
        assert_eq!(first.hits(), 1, "{status}");
    }
    assert_eq!(target.hits(), 0);
}

#[test]
fn what_is_posted_arrives_with_its_headers() {
    let server = server(&[&answer("204 No Content", "")]);
    let headers = [("x-site".to_owned(), "trento 1".to_owned())];
    egress(&["127.0.0.0/8"]).post(&server.url(), &headers, b"{\"ozone\":1}").expect("taken");
    // The server notes a request after it has answered it.
    let mut heads: Vec<String> = Vec::new();
    for _ in 0..1000 {
        heads.clone_from(&server.heads.lock().expect("no panic"));
        if !heads.is_empty() {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(heads[0].starts_with("POST /in HTTP/1.1\r\n"), "{}", heads[0]);
    assert!(heads[0].contains("x-site: trento 1\r\n") && heads[0].ends_with("{\"ozone\":1}"));
    for (name, value) in [("Host", "a"), ("Content-Length", "1"), ("x y", "a"), ("x", "a\r\nb: c")]
    {
        let headers = [(name.to_owned(), value.to_owned())];
        let error = egress(&["127.0.0.1"]).post(&server.url(), &headers, b"").expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[test]
fn only_429_and_5xx_are_tried_again_and_three_times_at_most() {
    let (ok, busy, broken) =
        (answer("200 OK", ""), answer("429 Too Many", ""), answer("503 Down", "later"));
    let cases: [(&[&str], usize, Option<ErrorKind>); 6] = [
        (&[&busy, &broken, &ok], 3, None),
        (&[&broken], 3, Some(ErrorKind::Unavailable)),
        (&[&answer("400 Bad", "no such field")], 1, Some(ErrorKind::Invalid)),
        (&[&answer("404 Not Found", "")], 1, Some(ErrorKind::Invalid)),
        // A long answer, and a connection that closes without one.
        (&[&answer("500 Broken", &"x".repeat(20_000))], 1, Some(ErrorKind::Unavailable)),
        (&[""], 1, Some(ErrorKind::Unavailable)),
    ];
    for (answers, hits, kind) in cases {
        let server = server(answers);
        let outcome = egress(&["127.0.0.1"]).post(&server.url(), &[], b"x");
        assert_eq!(outcome.as_ref().err().map(base::Error::kind), kind, "{outcome:?}");
        assert_eq!(server.hits(), hits, "{outcome:?}");
    }
}

#[test]
fn a_silent_endpoint_costs_three_seconds_and_is_then_left_alone() {
    let silent = server(&["silence"]);
    let egress = egress(&["127.0.0.1"]);
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| {
                let error = egress.post(&silent.url(), &[], b"x").expect_err("nobody answers");
                assert_eq!(error.kind(), ErrorKind::Unavailable);
            });
        }
    });
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let started = Instant::now();
    let error = egress.post(&silent.url(), &[], b"x").expect_err("it is left alone");
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(started.elapsed() < Duration::from_secs(1), "{error}");
    // Another one is not concerned.
    let other = server(&[&answer("200 OK", "")]);
    assert!(egress.post(&other.url(), &[], b"x").is_ok());
}

#[test]
fn entries_that_are_no_hosts_are_refused() {
    for entry in ["", "http://a.example/", "a b", "*", "*.*.example", "10.0.0.0/33", "0x7f.1"] {
        let error = Egress::new(&[entry.to_owned()]).expect_err(entry);
        assert!(error.to_string().contains("rules.http_allowed"), "{error}");
    }
}

#[test]
fn a_destination_covers_its_own_path_and_what_is_below() {
    let under = |url: &str, confirmed: &str| {
        lies_under(&Url::parse(url).expect(url), &Url::parse(confirmed).expect(confirmed))
    };
    let confirmed = "https://hooks.example.com/in";
    for url in ["https://hooks.example.com/in", "https://hooks.example.com:443/in/a?b=c"] {
        assert!(under(url, confirmed), "{url}");
    }
    for url in [
        "https://hooks.example.com/inner",
        "https://hooks.example.com/in/../out",
        "https://hooks.example.com/in/%2e%2e/out",
        "https://hooks.example.com/",
        "http://hooks.example.com/in",
        "https://hooks.example.com:8443/in",
        "https://hooks.example.com.evil.test/in",
        "https://evil.test/in",
    ] {
        assert!(!under(url, confirmed), "{url}");
    }
    assert!(under("https://hooks.example.com/anything", "https://hooks.example.com"));
}
