//! `forebay bench ingest`: MQTT brokers under the same loads.
//!
//! Each server is a process of its own on a scratch directory, so that its CPU seconds are its
//! own. They take turns: every load is put on each of them before the next load.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base::{SystemClock, usage};
use broker::bench::{Load, fan_out, idle, idle_tls, run as run_load};
use clap::ValueEnum;
use identity::Issued;
use node::{Node, Settings};
use rustls::ClientConfig;
use serde_json::{Map, Value, json};

use crate::args::{BenchIngest, BenchLoad};
use crate::control;
use crate::exit::Exit;
use crate::output::Printer;

/// How long a server may take to accept connections.
const START_LIMIT: Duration = Duration::from_secs(30);

/// A broker to measure.
struct Peer {
    name: &'static str,
    start: Box<dyn Fn() -> Result<Server>>,
    /// With mutual TLS, where we know how.
    start_tls: Option<StartTls>,
}

type StartTls = Box<dyn Fn(&Secured) -> Result<Server>>;

impl Peer {
    fn plain(name: &'static str, start: impl Fn() -> Result<Server> + 'static) -> Peer {
        Peer { name, start: Box::new(start), start_tls: None }
    }
}

/// An authority, a server it vouches for, and a device that may connect under any client id.
struct Secured {
    /// A data directory that knows them.
    folder: PathBuf,
    root_pem: String,
    server: Issued,
    device: Arc<ClientConfig>,
}

impl Drop for Secured {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

/// What the device of the TLS figures may do.
const EVERYTHING: &str = r#"{"Version":"2012-10-17",
    "Statement":[{"Effect":"Allow","Action":"iot:*","Resource":"*"}]}"#;

/// A server process that ends with this value.
struct Server {
    child: Child,
    mqtt: SocketAddr,
    folder: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        drop(std::fs::remove_dir_all(&self.folder));
    }
}

pub(super) async fn run(args: &BenchIngest, printer: Printer) -> Result<()> {
    let peers = peers(args)?;
    let loads: Vec<BenchLoad> = match args.loads.as_slice() {
        [] => BenchLoad::value_variants().to_vec(),
        named => named.to_vec(),
    };
    let mut figures: Map<String, Value> =
        peers.iter().map(|peer| (peer.name.to_owned(), json!({}))).collect();
    for load in loads {
        let name = load_name(load);
        for peer in &peers {
            printer.note(&format!("{name}: {}", peer.name));
            let server = (peer.start)()?;
            let measured = measure(&server, load, Duration::from_secs(args.seconds)).await;
            // A broker that breaks under a load is a figure, too.
            let measured = measured.unwrap_or_else(|error| json!({"failed": format!("{error:#}")}));
            figures[peer.name][&name] = measured;
        }
    }
    if args.idle > 0 {
        for peer in &peers {
            printer.note(&format!("idle connections: {}", peer.name));
            // A server of its own: after a load, connections would be served from freed memory.
            let server = (peer.start)()?;
            figures[peer.name]["idle_bytes_per_connection"] =
                json!(idle_bytes(&server, args.idle).await?);
        }
        let secured = secure().await?;
        for peer in &peers {
            let Some(start) = &peer.start_tls else { continue };
            printer.note(&format!("idle connections over mutual TLS: {}", peer.name));
            let (bytes, millis) = idle_tls_cost(&start(&secured)?, &secured, args.idle).await?;
            figures[peer.name]["idle_tls_bytes_per_connection"] = json!(bytes);
            figures[peer.name]["handshake_cpu_ms"] = json!(millis);
        }
    }
    let figures = Value::Object(figures);
    printer.answer(&figures, || table(&figures));
    Ok(())
}

fn load_name(load: BenchLoad) -> String {
    let value = load.to_possible_value();
    value.map(|value| value.get_name().replace('-', "_")).unwrap_or_default()
}

async fn measure(server: &Server, load: BenchLoad, duration: Duration) -> Result<Value> {
    let pid = server.child.id();
    let cpu_now = || usage::cpu_seconds_of(pid).context("the server's CPU time");
    let address = server.mqtt;
    let before = cpu_now()?;
    let subscriber = matches!(load, BenchLoad::BurstSubscriber | BenchLoad::PacedSubscriber);
    let (mut figures, messages) = match load {
        BenchLoad::FanOut1 | BenchLoad::FanOut100 => {
            let subscribers = if load == BenchLoad::FanOut1 { 1 } else { 100 };
            let report = fan_out(address, subscribers, duration).await?;
            (serde_json::to_value(&report)?, report.delivered)
        }
        BenchLoad::Burst | BenchLoad::BurstSubscriber => {
            let load = Load { duration, subscriber, ..Load::standard(address) };
            let report = run_load(&load).await?;
            (serde_json::to_value(&report)?, report.acknowledged)
        }
        BenchLoad::Paced | BenchLoad::PacedSubscriber => {
            let load = Load { duration, subscriber, ..Load::paced(address) };
            let report = run_load(&load).await?;
            (serde_json::to_value(&report)?, report.acknowledged)
        }
    };
    let cpu = cpu_now()? - before;
    figures["server_cpu_seconds_per_million"] = json!(cpu / messages.max(1) as f64 * 1e6);
    figures["server_rss_bytes"] = json!(usage::rss_bytes_of(pid));
    Ok(figures)
}

/// Growth of the server's resident memory per connection that is open and silent.
async fn idle_bytes(server: &Server, count: usize) -> Result<f64> {
    let pid = server.child.id();
    // The first connections pay for what is made once.
    drop(idle(server.mqtt, 50).await?);
    let before = usage::rss_bytes_of(pid);
    let connections = idle(server.mqtt, count).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = usage::rss_bytes_of(pid);
    drop(connections);
    Ok(after.saturating_sub(before) as f64 / count as f64)
}

/// As [`idle_bytes`], over mutual TLS, and the milliseconds of CPU that each connection took the
/// server to open.
async fn idle_tls_cost(server: &Server, secured: &Secured, count: usize) -> Result<(f64, f64)> {
    let pid = server.child.id();
    let open = |count| idle_tls(server.mqtt, Arc::clone(&secured.device), count);
    drop(open(50).await?);
    let cpu_now = || usage::cpu_seconds_of(pid).context("the server's CPU time");
    let (before, cpu) = (usage::rss_bytes_of(pid), cpu_now()?);
    let connections = open(count).await?;
    let cpu = cpu_now()? - cpu;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = usage::rss_bytes_of(pid);
    drop(connections);
    Ok((after.saturating_sub(before) as f64 / count as f64, cpu * 1000.0 / count as f64))
}

/// Makes the certificates for connections over mutual TLS.
async fn secure() -> Result<Secured> {
    let folder = scratch("forebay-tls")?;
    let (settings, clock) = (Settings::default(), Arc::new(SystemClock));
    let node = Node::open(&folder, settings, control::program()?, clock).await?;
    let kit = node.registry.add_device_with("bench", Some(EVERYTHING))?;
    let server = node.registry.authority().issue_server(&["localhost".to_owned()])?;
    let device = Arc::new(kit.client_config(&[])?);
    Ok(Secured { folder, root_pem: kit.root_pem, server, device })
}

/// One line a broker and load, with the CPU per message beside the first broker's.
fn table(figures: &Value) -> String {
    let Some(all) = figures.as_object() else { return String::new() };
    let ours = &figures["forebay"];
    let mut lines = vec![format!(
        "{:<17} {:<10} {:>10} {:>12} {:>9} {:>9} {:>10} {:>8}",
        "load",
        "broker",
        "messages/s",
        "CPU s/million",
        "forebay's",
        "p50 ms",
        "p99 ms",
        "delivered"
    )];
    let loads: Vec<String> =
        ours.as_object().map(|loads| loads.keys().cloned().collect()).unwrap_or_default();
    for load in loads.iter().filter(|load| ours[*load].is_object()) {
        for (name, broker) in all {
            let found = &broker[load];
            if let Some(why) = found["failed"].as_str() {
                lines.push(format!("{load:<17} {name:<10} failed: {why}"));
                continue;
            }
            let number = |member: &str| found[member].as_f64().unwrap_or(f64::NAN);
            let rate = found["acknowledged_per_second"].as_f64();
            let cpu = "server_cpu_seconds_per_million";
            let share = ours[load][cpu].as_f64().unwrap_or(f64::NAN) / number(cpu);
            lines.push(format!(
                "{load:<17} {name:<10} {:>10.0} {:>12.2} {share:>9.2} {:>9.1} {:>10.1} {:>8.0}%",
                rate.unwrap_or(number("delivered_per_second")),
                number(cpu),
                found["puback_ms"]["p50"].as_f64().unwrap_or(f64::NAN),
                found["puback_ms"]["p99"].as_f64().unwrap_or(f64::NAN),
                100.0 * number("delivered_share"),
            ));
        }
    }
    for (name, broker) in all {
        if let Some(bytes) = broker["idle_bytes_per_connection"].as_f64() {
            lines.push(format!("an idle connection of {name}: {bytes:.0} bytes"));
        }
        if let Some(bytes) = broker["idle_tls_bytes_per_connection"].as_f64() {
            let millis = broker["handshake_cpu_ms"].as_f64().unwrap_or(f64::NAN);
            lines.push(format!(
                "one over mutual TLS: {bytes:.0} bytes, {millis:.2} ms of CPU to open"
            ));
        }
    }
    lines.join("\n")
}

fn peers(args: &BenchIngest) -> Result<Vec<Peer>> {
    let mut peers = vec![Peer {
        start_tls: Some(Box::new(|secured| {
            // It removes the folder when it ends.
            start_forebay(copy_of(&secured.folder)?, true)
        })),
        ..Peer::plain("forebay", || start_forebay(scratch("forebay")?, false))
    }];
    let usual =
        ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/opt/homebrew/sbin/mosquitto"];
    if let Some(path) = find("--mosquitto", args.mosquitto.as_deref(), &usual)? {
        let (plain, tls, all) = (path.clone(), path.clone(), path);
        peers.push(Peer {
            start_tls: Some(Box::new(move |secured| start_mosquitto_tls(&tls, secured))),
            ..Peer::plain("mosquitto", move || start_mosquitto(&plain, ""))
        });
        // Its default queue drops what a subscriber does not take at once; this one delivers.
        peers.push(Peer::plain("mosquitto_all", move || {
            start_mosquitto(&all, "max_queued_messages 0\nset_tcp_nodelay true\n")
        }));
    }
    let usual = ["/usr/sbin/nats-server", "/usr/bin/nats-server", "/usr/local/bin/nats-server"];
    if let Some(path) = find("--nats", args.nats.as_deref(), &usual)? {
        peers.push(Peer::plain("nats", move || start_nats(&path)));
    }
    if let Some(path) = find("--rumqttd", args.rumqttd.as_deref(), &[])? {
        peers.push(Peer::plain("rumqttd", move || start_rumqttd(&path)));
    }
    Ok(peers)
}

fn find(flag: &str, wanted: Option<&str>, usual: &[&str]) -> Result<Option<PathBuf>> {
    match wanted {
        Some("none") => Ok(None),
        // Absolute, since each runs in a folder of its own.
        Some(path) if Path::new(path).is_file() => Ok(Some(std::path::absolute(path)?)),
        Some(path) => Err(Exit::usage(format!("{flag} {path}: no such file")).into()),
        None => Ok(usual.iter().map(PathBuf::from).find(|path| path.is_file())),
    }
}

fn start_forebay(folder: PathBuf, tls: bool) -> Result<Server> {
    let [http, mqtt, mqtts, ws] = free_ports()?;
    let child = Command::new(control::program()?)
        .arg("serve")
        .arg("--data-dir")
        .arg(&folder)
        .args([
            "--http",
            &http.to_string(),
            "--mqtt",
            &mqtt.to_string(),
            "--mqtts",
            &mqtts.to_string(),
            "--mqtt-ws",
            &ws.to_string(),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()
        .context("starting forebay serve")?;
    wait_for(Server { child, mqtt: if tls { mqtts } else { mqtt }, folder })
}

/// A copy of a data directory without what is in its journal.
fn copy_of(folder: &Path) -> Result<PathBuf> {
    let copy = scratch("forebay-secured")?;
    std::fs::create_dir_all(copy.join("ca")).context("making a copy")?;
    let files = std::fs::read_dir(folder.join("ca")).context("reading the authority")?;
    for file in files {
        let name = Path::new("ca").join(file.context("reading the authority")?.file_name());
        std::fs::copy(folder.join(&name), copy.join(&name)).context("copying the authority")?;
    }
    std::fs::copy(folder.join("forebay.db"), copy.join("forebay.db")).context("copying rows")?;
    Ok(copy)
}

/// Defaults, but for what it needs to accept clients at all.
fn start_mosquitto(path: &Path, more: &str) -> Result<Server> {
    start(path, "mosquitto", "-c", |port, _| {
        Ok(format!("listener {port} 127.0.0.1\nallow_anonymous true\n{more}"))
    })
}

fn start_mosquitto_tls(path: &Path, secured: &Secured) -> Result<Server> {
    start(path, "mosquitto", "-c", |port, folder| {
        let write = |name: &str, text: &str| {
            let file = folder.join(name);
            std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
            anyhow::Ok(file.display().to_string())
        };
        // Started by root it would become a user who may not read these.
        Ok(format!(
            "user root\nlistener {port} 127.0.0.1\nallow_anonymous true\nrequire_certificate true\n\
             cafile {}\ncertfile {}\nkeyfile {}\n",
            write("root.crt", &secured.root_pem)?,
            write("server.crt", &secured.server.certificate_pem)?,
            write("server.key", secured.server.private_key_pem.expose())?,
        ))
    })
}

/// MQTT needs JetStream, which keeps what QoS 1 has in flight in files.
fn start_nats(path: &Path) -> Result<Server> {
    start(path, "nats", "-c", |port, folder| {
        Ok(format!(
            "listen: \"127.0.0.1:-1\"\nserver_name: bench\njetstream {{ store_dir: {:?} }}\n\
             mqtt {{ listen: \"127.0.0.1:{port}\" }}\n",
            folder.join("jetstream")
        ))
    })
}

/// As its own example has it, with one listener of MQTT 3.1.1.
fn start_rumqttd(path: &Path) -> Result<Server> {
    start(path, "rumqttd", "-c", |port, _| {
        Ok(format!(
            "id = 0\n[router]\nid = 0\nmax_connections = 10010\nmax_outgoing_packet_count = 200\n\
             max_segment_size = 104857600\nmax_segment_count = 10\n\
             [v4.1]\nname = \"v4-1\"\nlisten = \"127.0.0.1:{port}\"\nnext_connection_delay_ms = 0\n\
             [v4.1.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 20480\n\
             max_inflight_count = 100\ndynamic_filters = true\n"
        ))
    })
}

/// Starts a peer with a configuration file made for a free port and a scratch folder.
fn start(
    path: &Path,
    name: &str,
    flag: &str,
    config: impl Fn(u16, &Path) -> Result<String>,
) -> Result<Server> {
    let folder = scratch(name)?;
    let [mqtt] = free_ports()?;
    let file = folder.join("broker.toml");
    std::fs::write(&file, config(mqtt.port(), &folder)?)
        .with_context(|| format!("writing {}", file.display()))?;
    let child = Command::new(path)
        .arg(flag)
        .arg(&file)
        .current_dir(&folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {}", path.display()))?;
    wait_for(Server { child, mqtt, folder })
}

fn wait_for(mut server: Server) -> Result<Server> {
    let deadline = Instant::now() + START_LIMIT;
    while TcpStream::connect(server.mqtt).is_err() {
        if let Some(status) = server.child.try_wait()? {
            bail!("the server under test ended at once: {status}");
        }
        if Instant::now() > deadline {
            return Err(Exit::timeout("the server under test does not accept connections").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(server)
}

fn scratch(name: &str) -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("{name}-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}

fn free_ports<const N: usize>() -> Result<[SocketAddr; N]> {
    let listeners =
        (0..N).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<Vec<_>>>()?;
    let ports =
        listeners.iter().map(TcpListener::local_addr).collect::<std::io::Result<Vec<_>>>()?;
    ports
        .try_into()
        .map_err(|ports: Vec<_>| anyhow::anyhow!("{} free ports instead of {N}", ports.len()))
}
