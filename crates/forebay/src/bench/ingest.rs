//! `forebay bench ingest`: MQTT brokers under the same loads.
//!
//! Each server is a process of its own on a scratch directory, so that its CPU seconds are its
//! own. They take turns: every load is put on each of them before the next load.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base::usage;
use broker::bench::{Load, fan_out, idle, run as run_load};
use clap::ValueEnum;
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
}

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
    }
    lines.join("\n")
}

fn peers(args: &BenchIngest) -> Result<Vec<Peer>> {
    let mut peers = vec![Peer { name: "forebay", start: Box::new(start_forebay) }];
    let usual =
        ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto", "/opt/homebrew/sbin/mosquitto"];
    if let Some(path) = find("--mosquitto", args.mosquitto.as_deref(), &usual)? {
        peers.push(Peer { name: "mosquitto", start: Box::new(move || start_mosquitto(&path)) });
    }
    let usual = ["/usr/sbin/nats-server", "/usr/bin/nats-server", "/usr/local/bin/nats-server"];
    if let Some(path) = find("--nats", args.nats.as_deref(), &usual)? {
        peers.push(Peer { name: "nats", start: Box::new(move || start_nats(&path)) });
    }
    if let Some(path) = find("--rumqttd", args.rumqttd.as_deref(), &[])? {
        peers.push(Peer { name: "rumqttd", start: Box::new(move || start_rumqttd(&path)) });
    }
    Ok(peers)
}

fn find(flag: &str, wanted: Option<&str>, usual: &[&str]) -> Result<Option<PathBuf>> {
    match wanted {
        Some("none") => Ok(None),
        Some(path) if Path::new(path).is_file() => Ok(Some(PathBuf::from(path))),
        Some(path) => Err(Exit::usage(format!("{flag} {path}: no such file")).into()),
        None => Ok(usual.iter().map(PathBuf::from).find(|path| path.is_file())),
    }
}

fn start_forebay() -> Result<Server> {
    let folder = scratch("forebay")?;
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
    wait_for(Server { child, mqtt, folder })
}

/// Defaults, but for what it needs to accept clients at all.
fn start_mosquitto(path: &Path) -> Result<Server> {
    start(path, "mosquitto", "-c", |port, _| {
        format!("listener {port} 127.0.0.1\nallow_anonymous true\n")
    })
}

/// MQTT needs JetStream, which keeps what QoS 1 has in flight in files.
fn start_nats(path: &Path) -> Result<Server> {
    start(path, "nats", "-c", |port, folder| {
        format!(
            "listen: \"127.0.0.1:-1\"\nserver_name: bench\njetstream {{ store_dir: {:?} }}\n\
             mqtt {{ listen: \"127.0.0.1:{port}\" }}\n",
            folder.join("jetstream")
        )
    })
}

/// As its own example has it, with one listener of MQTT 3.1.1.
fn start_rumqttd(path: &Path) -> Result<Server> {
    start(path, "rumqttd", "-c", |port, _| {
        format!(
            "id = 0\n[router]\nid = 0\nmax_connections = 10010\nmax_outgoing_packet_count = 200\n\
             max_segment_size = 104857600\nmax_segment_count = 10\n\
             [v4.1]\nname = \"v4-1\"\nlisten = \"127.0.0.1:{port}\"\nnext_connection_delay_ms = 0\n\
             [v4.1.connections]\nconnection_timeout_ms = 60000\nmax_payload_size = 20480\n\
             max_inflight_count = 100\ndynamic_filters = true\n"
        )
    })
}

/// Starts a peer with a configuration file made for a free port and a scratch folder.
fn start(
    path: &Path,
    name: &str,
    flag: &str,
    config: impl Fn(u16, &Path) -> String,
) -> Result<Server> {
    let folder = scratch(name)?;
    let [mqtt] = free_ports()?;
    let file = folder.join("broker.toml");
    std::fs::write(&file, config(mqtt.port(), &folder))
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
