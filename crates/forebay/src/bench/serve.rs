//! `forebay bench serve`: an endpoint under load, side by side with GluonTS behind FastAPI.
//!
//! Each server is a process of its own; the clients are threads of this one. They keep their
//! connections and ask again as soon as they have the answer: one series, its mean and nine
//! quantiles. Ours is asked by each of its routes: `aws` (InvokeEndpoint, signed; the server
//! checks every request, the clients sign once a load), `token` (the command line's) and `plain`
//! (JSON with an API key).
//!
//! With `--json`, one object:
//!
//! * `data`, `points` of the series asked with, `request_bytes`, `seconds`;
//! * `forebay` by route, and `gluonts`, or `absent` and why. Of each `loads`, by the number of
//!   clients: `requests`, `per_second`, `p50_ms`, `p99_ms`, `per_cpu_second` (of the server's
//!   process alone). Beside them `peak_rss_bytes` of the server;
//! * `overhead`: `bare_p50_ms`, the forecast alone, called in this process on the same model, and
//!   by route what a request of one client takes beyond it, `p50_ms`. Measured in turn, so that
//!   both have the same neighbours;
//! * `ratios`, by the number of clients, of the signed route: `p50` and `per_cpu_second`; and
//!   `bars`, as `bench train` has them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base::{Clock, SystemClock, usage};
use forecast::{PredictOptions, Predictor, TimeSeries, jsonl};
use identity::Secret;
use identity::sigv4::{self, Signer};
use serde_json::{Map, Value, json};

use super::Scratch;
use super::gluonts::Peer;
use super::series::{HORIZON, Set};
use super::train::{Bars, Job};
use crate::args::{BenchRequests, BenchServe, Global};
use crate::control::{self, Control};
use crate::output::Printer;

const ENDPOINT: &str = "bench";
/// Requests before what is measured begins.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long a server may take to come up; PyTorch alone takes some seconds.
const START: Duration = Duration::from_secs(180);
/// No request takes longer, also in a long queue.
const PATIENCE: Duration = Duration::from_secs(60);
/// Turns between the bare forecast and requests, and how many of each are in one.
const TURNS: usize = 20;
const IN_A_TURN: usize = 50;

pub(super) async fn run(args: &BenchServe, printer: Printer) -> Result<()> {
    let scratch = Scratch::new("serve")?;
    let folder = scratch.path();
    let set = Set::open(&args.set, folder)?;
    let peer = Peer::find(&args.peer, folder, printer)?;
    // How long it learnt makes no difference to what an answer costs.
    let job = Job { epochs: 1, ..Job::ARTICLE };
    printer.note("training a model of each");
    let model = folder.join("model.tar.gz");
    job.train_in_child(&set, 1, &model)?;
    let samples = args.num_samples;
    let load = BenchRequests { requests: 1, num_samples: samples as usize, bulk: 10 };
    let spec = job.write_spec(&set, folder, 1, &load)?;
    peer.ask("train", &spec, 1, &folder.join("gluonts"))?;

    let series = series(&set, args.points)?;
    let asked = Asked::of(&series, samples);
    let ours = Ours::start(args, folder, &model, printer).await?;
    let routes = ours.routes(&asked).await?;
    let theirs = Theirs::start(&peer, folder, printer)?;

    let mut figures: Vec<Map<String, Value>> = vec![Map::new(); routes.len()];
    let mut beside = Map::new();
    for clients in &args.clients {
        let key = clients.to_string();
        let ask = |address, request: &[u8], pid| {
            measure(address, request, pid, *clients, Duration::from_secs(args.seconds))
        };
        for (route, found) in routes.iter().zip(&mut figures) {
            printer.note(&format!("{clients} clients: forebay, {}", route.name));
            found.insert(key.clone(), ask(ours.address, &route.request, ours.server.pid())?);
        }
        if let Theirs::There { server, address } = &theirs {
            printer.note(&format!("{clients} clients: GluonTS"));
            let request = post(*address, "/invocations", &[], &asked.sagemaker);
            beside.insert(key, ask(*address, &request, server.pid())?);
        }
    }
    printer.note("the bare forecast beside requests");
    let overhead = overhead(&model, &series, samples, ours.address, &routes)?;

    let mut by_route = Map::new();
    for (route, loads) in routes.iter().zip(figures) {
        by_route.insert(route.name.to_owned(), json!({"loads": loads}));
    }
    by_route.insert("peak_rss_bytes".to_owned(), json!(ours.server.peak_rss_bytes()));
    let theirs = match &theirs {
        Theirs::Absent(why) => json!({"absent": why}),
        Theirs::There { server, .. } => {
            json!({"loads": beside, "peak_rss_bytes": server.peak_rss_bytes()})
        }
    };
    let mut figures = json!({
        "data": set.name,
        "points": series.target.len(),
        "request_bytes": asked.sagemaker.len(),
        "seconds": args.seconds,
        "forebay": by_route,
        "gluonts": theirs,
        "overhead": overhead,
    });
    judge(args, &mut figures);
    printer.answer(&figures, || table(args, &figures));
    Ok(())
}

/// The newest `points` of the set's first series, without a category.
fn series(set: &Set, points: Option<u32>) -> Result<TimeSeries> {
    let (one, _) = set.requests(0);
    let (freq, whole) = (one.freq, one.series.into_iter().next());
    let whole = whole.context("the set has no series")?;
    let len = whole.target.len();
    let from = points.map_or(0, |points| len.saturating_sub(points as usize));
    Ok(TimeSeries {
        start: freq.advance(whole.start, from as i64),
        target: whole.target[from..].to_vec().into(),
        ..TimeSeries::default()
    })
}

/// The same question in SageMaker's words and in plain ones.
struct Asked {
    sagemaker: String,
    plain: String,
}

impl Asked {
    fn of(series: &TimeSeries, num_samples: u32) -> Asked {
        let mut text = String::new();
        jsonl::write_series(series, &mut text);
        let levels = PredictOptions::default().quantiles;
        let quoted: Vec<String> = levels.iter().map(ToString::to_string).collect();
        let wanted = json!({
            "num_samples": num_samples, "output_types": ["mean", "quantiles"], "quantiles": quoted,
        });
        Asked {
            sagemaker: format!("{{\"instances\":[{text}],\"configuration\":{wanted}}}"),
            plain: format!(
                "{{\"series\":[{text}],\"num_samples\":{num_samples},\"quantiles\":[{}]}}",
                quoted.join(",")
            ),
        }
    }
}

/// A request with its head, as it goes over the wire.
fn post(address: SocketAddr, path: &str, more: &[(&str, String)], body: &str) -> Vec<u8> {
    let mut head = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n",
        body.len()
    );
    for (name, value) in more {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    format!("{head}\r\n{body}").into_bytes()
}

/// A server that goes with the bench.
struct Server(Child);

impl Server {
    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn peak_rss_bytes(&self) -> u64 {
        usage::peak_rss_bytes_of(self.pid())
    }

    /// Waits until `is_up`; an error once it has ended.
    fn until_up(&mut self, what: &str, mut is_up: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + START;
        while !is_up() {
            let ended = self.0.try_wait().context("watching a server")?;
            ensure!(ended.is_none(), "{what} ended as it came up: {ended:?}");
            ensure!(Instant::now() < deadline, "{what} is not up after {START:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// `forebay serve`, with the model behind an endpoint.
struct Ours {
    server: Server,
    control: Control,
    address: SocketAddr,
}

/// One way to ask it.
struct Route {
    name: &'static str,
    request: Vec<u8>,
}

impl Ours {
    async fn start(
        args: &BenchServe,
        folder: &Path,
        model: &Path,
        printer: Printer,
    ) -> Result<Ours> {
        printer.note("starting the servers");
        let data_dir = folder.join("data");
        let mut command = Command::new(control::program()?);
        command.env_remove("FOREBAY_CONFIG").arg("serve").arg("--data-dir").arg(&data_dir);
        for flag in ["--http", "--mqtt", "--mqtts", "--mqtt-ws"] {
            command.args([flag, "127.0.0.1:0"]);
        }
        if let Some(threads) = args.threads {
            command.arg("--set").arg(format!("serving.threads={threads}"));
        }
        let mut server = Server(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .spawn()
                .context("starting forebay serve")?,
        );
        let global =
            Global { data_dir: Some(data_dir), json: false, set: Vec::new(), config: None };
        server.until_up("forebay serve", || Control::server(&global).is_ok())?;
        let control = Control::server(&global)?;
        let address = control.addresses().context("the server has no address")?.http;
        control.call("endpoint_create", json!({"name": ENDPOINT, "model": model})).await?;
        Ok(Ours { server, control, address })
    }

    async fn routes(&self, asked: &Asked) -> Result<[Route; 3]> {
        let Control::Server { token, .. } = &self.control else {
            anyhow::bail!("the server is not a process of its own");
        };
        let invocations = format!("/endpoints/{ENDPOINT}/invocations");
        let bearer = |secret: &str| [("authorization", format!("Bearer {secret}"))];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let sdk = self.control.call("sdk", json!({})).await?;
        let signed = self.signed(&sdk, &invocations, &asked.sagemaker);
        let key = self.control.call("key_create", json!({"name": "bench"})).await?;
        let key = text(&key["key"]);
        let forecast = format!("/v1/endpoints/{ENDPOINT}/forecast");
        let token = post(self.address, &invocations, &bearer(token), &asked.sagemaker);
        let plain = post(self.address, &forecast, &bearer(&key), &asked.plain);
        Ok([
            Route { name: "aws", request: signed },
            Route { name: "token", request: token },
            Route { name: "plain", request: plain },
        ])
    }

    /// An InvokeEndpoint. Its signature is good for a quarter of an hour, longer than the bench.
    fn signed(&self, sdk: &Value, path: &str, body: &str) -> Vec<u8> {
        let text = |member: &str| sdk[member].as_str().unwrap_or_default();
        let secret = Secret::new(text("secret_access_key"));
        let signer = Signer {
            access_key_id: text("access_key_id"),
            secret: &secret,
            token: None,
            region: text("region"),
            service: "sagemaker",
            rules: sigv4::SERVICE,
        };
        let host = self.address.to_string();
        let request = sigv4::Request {
            method: "POST",
            path,
            query: "",
            headers: vec![("host", host.as_bytes()), ("content-type", b"application/json")],
            body: body.as_bytes(),
        };
        post(self.address, path, &signer.headers(&request, SystemClock.now()), body)
    }
}

/// GluonTS behind FastAPI.
enum Theirs {
    There { server: Server, address: SocketAddr },
    Absent(String),
}

impl Theirs {
    fn start(peer: &Peer, folder: &Path, printer: Printer) -> Result<Theirs> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut server = match peer.server(&folder.join("gluonts"), address.port())? {
            Ok(child) => Server(child),
            Err(why) => return Ok(Theirs::Absent(why)),
        };
        printer.note("waiting for GluonTS to come up");
        let ping = format!("GET /ping HTTP/1.1\r\nhost: {address}\r\n\r\n").into_bytes();
        server.until_up("GluonTS", || {
            Client::connect(address).and_then(|mut client| client.ask(&ping).map(drop)).is_ok()
        })?;
        Ok(Theirs::There { server, address })
    }
}

/// A connection that is kept.
struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    fn connect(address: SocketAddr) -> Result<Client> {
        let stream = TcpStream::connect(address).context("connecting")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Client { stream, received: Vec::new() })
    }

    /// Sends a request and reads its whole answer, whose body it returns.
    fn ask(&mut self, request: &[u8]) -> Result<&[u8]> {
        self.stream.write_all(request).context("sending a request")?;
        self.received.clear();
        let mut whole = usize::MAX;
        let mut body = 0;
        let mut part = [0; 16 * 1024];
        while self.received.len() < whole {
            let count = self.stream.read(&mut part).context("reading an answer")?;
            ensure!(count > 0, "the server closed the connection");
            self.received.extend_from_slice(&part[..count]);
            if body == 0
                && let Some(end) = self.received.windows(4).position(|four| four == b"\r\n\r\n")
            {
                body = end + 4;
                let head = String::from_utf8_lossy(&self.received[..end]).into_owned();
                ensure!(head.split(' ').nth(1) == Some("200"), "the server answered {head}");
                let length = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse())?.ok()
                });
                whole = body + length.unwrap_or(0usize);
            }
        }
        Ok(&self.received[body..])
    }
}

/// Whether an answer holds a forecast, of either route.
fn is_forecast(answer: &[u8]) -> bool {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_default();
    let made = answer.get("predictions").or_else(|| answer.get("forecasts"));
    let mean = made.and_then(|made| made[0]["mean"].as_array().cloned()).unwrap_or_default();
    mean.len() == HORIZON && mean.iter().all(Value::is_number)
}

const WARMING: u8 = 0;
const MEASURING: u8 = 1;
const STOPPED: u8 = 2;

/// Many clients for a while: what they saw, and what it cost the server.
fn measure(
    address: SocketAddr,
    request: &[u8],
    server: u32,
    clients: u32,
    lasting: Duration,
) -> Result<Value> {
    let phase = AtomicU8::new(WARMING);
    let ready = Arc::new(Barrier::new(clients as usize + 1));
    let client = || -> Result<Vec<f64>> {
        let connected = Client::connect(address);
        ready.wait();
        let mut client = connected?;
        ensure!(is_forecast(client.ask(request)?), "an answer without a forecast");
        let mut millis = Vec::new();
        loop {
            let began = Instant::now();
            client.ask(request)?;
            match phase.load(Ordering::Relaxed) {
                WARMING => {}
                MEASURING => millis.push(began.elapsed().as_secs_f64() * 1e3),
                _ => return Ok(millis),
            }
        }
    };
    let (all, spent, took) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients).map(|_| scope.spawn(client)).collect();
        ready.wait();
        std::thread::sleep(WARM_UP);
        let (cpu, began) = (usage::cpu_seconds_of(server), Instant::now());
        phase.store(MEASURING, Ordering::Relaxed);
        std::thread::sleep(lasting);
        phase.store(STOPPED, Ordering::Relaxed);
        let (after, took) = (usage::cpu_seconds_of(server), began.elapsed().as_secs_f64());
        let all: Result<Vec<Vec<f64>>> = threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_panic| anyhow::anyhow!("a client panicked"))?)
            .collect();
        (all, after.zip(cpu).map(|(after, before)| after - before), took)
    });
    let mut millis: Vec<f64> = all?.into_iter().flatten().collect();
    ensure!(!millis.is_empty(), "not one request was answered within {lasting:?}");
    let spent = spent.context("the server has gone")?;
    millis.sort_by(f64::total_cmp);
    let count = millis.len();
    Ok(json!({
        "requests": count,
        "per_second": count as f64 / took,
        "p50_ms": at(&millis, 0.5),
        "p99_ms": at(&millis, 0.99),
        "cpu_seconds": spent,
        "per_cpu_second": count as f64 / spent.max(0.01),
    }))
}

/// The value that a share of sorted ones lies below.
fn at(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share) as usize).copied().unwrap_or(f64::NAN)
}

/// What a request costs its one client beyond the forecast.
fn overhead(
    model: &Path,
    series: &TimeSeries,
    samples: u32,
    address: SocketAddr,
    routes: &[Route],
) -> Result<Value> {
    let model: Box<dyn Predictor> = training::load(model)?;
    let options = PredictOptions { num_samples: samples as usize, ..PredictOptions::default() };
    let mut bare = Vec::new();
    let mut asked = vec![Vec::new(); routes.len()];
    let mut client = Client::connect(address)?;
    let time = |into: &mut Vec<f64>, work: &mut dyn FnMut() -> Result<()>| -> Result<()> {
        let began = Instant::now();
        work()?;
        into.push(began.elapsed().as_secs_f64() * 1e3);
        Ok(())
    };
    for _ in 0..TURNS {
        for _ in 0..IN_A_TURN {
            time(&mut bare, &mut || {
                Ok(model.predict(std::slice::from_ref(series), &options).map(drop)?)
            })?;
        }
        for (route, into) in routes.iter().zip(&mut asked) {
            for _ in 0..IN_A_TURN {
                time(into, &mut || client.ask(&route.request).map(drop))?;
            }
        }
    }
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        at(values, 0.5)
    };
    let bare = median(&mut bare);
    let mut figures = Map::from_iter([("bare_p50_ms".to_owned(), json!(bare))]);
    for (route, values) in routes.iter().zip(&mut asked) {
        figures.insert(route.name.to_owned(), json!({"p50_ms": median(values) - bare}));
    }
    Ok(Value::Object(figures))
}

/// What is promised of endpoints.
fn judge(args: &BenchServe, figures: &mut Value) {
    let ratio = |a: &Value, b: &Value| a.as_f64().zip(b.as_f64()).map(|(a, b)| a / b);
    let mut bars = Bars::default();
    let mut ratios = Map::new();
    for clients in &args.clients {
        let key = clients.to_string();
        let (ours, theirs) =
            (&figures["forebay"]["aws"]["loads"][&key], &figures["gluonts"]["loads"][&key]);
        let p50 = json!(ratio(&theirs["p50_ms"], &ours["p50_ms"]));
        let per_cpu = json!(ratio(&ours["per_cpu_second"], &theirs["per_cpu_second"]));
        bars.at_least(&format!("{key} clients: GluonTS's p50 to ours"), &p50, 15.0);
        let name = format!("{key} clients: requests per CPU second to GluonTS's");
        bars.at_least(&name, &per_cpu, 15.0);
        ratios.insert(key, json!({"p50": p50, "per_cpu_second": per_cpu}));
    }
    for route in ["aws", "token", "plain"] {
        let found = &figures["overhead"][route]["p50_ms"];
        bars.at_most(&format!("{route}: p50 beyond the bare forecast, ms"), found, 0.3);
    }
    figures["ratios"] = Value::Object(ratios);
    figures["bars"] = bars.into_json();
}

/// For people.
fn table(args: &BenchServe, figures: &Value) -> String {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let header = ["server", "clients", "p50 ms", "p99 ms", "requests/s", "requests/CPU s"];
    let mut loads = charts::Table::new(header);
    for clients in &args.clients {
        let key = clients.to_string();
        for server in ["aws", "token", "plain", "gluonts"] {
            let whole = figures["forebay"].get(server).unwrap_or(&figures["gluonts"]);
            if let Some(why) = whole["absent"].as_str() {
                loads.row([server, &key, why, "", "", ""]);
                continue;
            }
            let found = &whole["loads"][&key];
            loads.row([
                server.to_owned(),
                key.clone(),
                format!("{:.2}", number(&found["p50_ms"])),
                format!("{:.2}", number(&found["p99_ms"])),
                format!("{:.0}", number(&found["per_second"])),
                format!("{:.0}", number(&found["per_cpu_second"])),
            ]);
        }
    }
    let megabytes = |server: &str| number(&figures[server]["peak_rss_bytes"]) / 1e6;
    let mut out = loads.render();
    out += &format!(
        "\npeak memory: forebay {:.0} MB, GluonTS {:.0} MB; the bare forecast {:.2} ms\n\n",
        megabytes("forebay"),
        megabytes("gluonts"),
        number(&figures["overhead"]["bare_p50_ms"])
    );
    out.push_str(&Bars::table(&figures["bars"]));
    out
}
