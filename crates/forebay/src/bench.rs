//! `forebay bench`: one part measured, one JSON object of figures.
//!
//! The server under load is a process of its own, started here on a scratch directory, so
//! that its CPU seconds are its own. Peers run beside it, one after the other, under the
//! same load from the same client code.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base::{Error, usage};
use broker::bench::{Load, Report, idle, run as run_load};
use serde_json::{Value, json};

use crate::args::{Bench, BenchInfer, BenchIngest};
use crate::control;
use crate::exit::Exit;
use crate::models;
use crate::output::Printer;

/// How long the run takes that counts deliveries.
const DELIVERY_RUN: Duration = Duration::from_secs(2);
/// How long a server may take to accept connections.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Runs one bench.
pub(crate) async fn run(command: Bench, printer: Printer) -> Result<()> {
    match command {
        Bench::Ingest(args) => ingest(args, printer).await,
        Bench::Infer(args) => infer(&args, printer),
        Bench::Delivery => not_yet("bench delivery"),
        Bench::Etl => not_yet("bench etl"),
        Bench::Train => not_yet("bench train"),
    }
}

fn not_yet(what: &str) -> Result<()> {
    Err(Error::unsupported(format!("not supported yet: {what}")).into())
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

async fn ingest(args: BenchIngest, printer: Printer) -> Result<()> {
    printer.note("forebay: durable acknowledgements");
    let ours = measure(&start_forebay()?, &args).await?;
    let mosquitto = match find_mosquitto(args.mosquitto.as_deref())? {
        None => Value::Null,
        Some(path) => {
            printer.note("mosquitto: default settings, acknowledgements from memory");
            measure(&start_mosquitto(&path)?, &args).await?
        }
    };
    let mut figures = ours;
    let cpu = "server_cpu_seconds_per_million";
    let ratio =
        figures[cpu].as_f64().zip(mosquitto[cpu].as_f64()).map(|(ours, theirs)| ours / theirs);
    figures["mosquitto"] = mosquitto;
    figures["cpu_ratio_to_mosquitto"] = json!(ratio);
    printer.answer(&figures, || {
        let line = |name: &str, f: &Value| {
            format!(
                "{name:<10} {:>8.0} acknowledged/s   {:.2} CPU s per million   PUBACK p50 {:.1} ms, p99 {:.1} ms   {:.0} % delivered   {:.0} bytes an idle connection",
                f["acknowledged_per_second"].as_f64().unwrap_or(f64::NAN),
                f[cpu].as_f64().unwrap_or(f64::NAN),
                f["puback_ms"]["p50"].as_f64().unwrap_or(f64::NAN),
                f["puback_ms"]["p99"].as_f64().unwrap_or(f64::NAN),
                100.0 * f["delivered_share"].as_f64().unwrap_or(f64::NAN),
                f["idle_bytes_per_connection"].as_f64().unwrap_or(f64::NAN),
            )
        };
        let mut text = line("forebay", &figures);
        if !figures["mosquitto"].is_null() {
            text += &format!("\n{}", line("mosquitto", &figures["mosquitto"]));
        }
        if let Some(ratio) = ratio {
            text += &format!("\nCPU per message: {ratio:.2} of mosquitto's");
        }
        text
    });
    Ok(())
}

async fn measure(server: &Server, args: &BenchIngest) -> Result<Value> {
    let pid = server.child.id();
    // Before the load: afterwards idle connections would be served from memory it freed.
    let idle_bytes = idle_bytes(server, args.idle).await?;
    let load = Load {
        address: server.mqtt,
        publishers: args.publishers,
        window: args.window,
        burst: args.burst,
        payload_bytes: args.payload_bytes,
        duration: Duration::from_secs(args.seconds),
        subscriber: false,
    };
    let before = usage::cpu_seconds_of(pid).context("the server's CPU time")?;
    let report: Report = run_load(&load).await?;
    let cpu = usage::cpu_seconds_of(pid).context("the server's CPU time")? - before;
    let mut figures = serde_json::to_value(&report)?;
    figures["server_cpu_seconds_per_million"] = json!(cpu / report.acknowledged as f64 * 1e6);
    // With a subscriber, in a run of its own: its cost is not the publishers'.
    let with_subscriber = Load { duration: DELIVERY_RUN, subscriber: true, ..load };
    figures["delivered_share"] = json!(run_load(&with_subscriber).await?.delivered_share);
    figures["server_rss_bytes"] = json!(usage::rss_bytes_of(pid));
    figures["idle_bytes_per_connection"] = json!(idle_bytes);
    Ok(figures)
}

/// Growth of the server's resident memory per connection that is open and silent.
async fn idle_bytes(server: &Server, count: usize) -> Result<Option<f64>> {
    if count == 0 {
        return Ok(None);
    }
    let pid = server.child.id();
    let before = usage::rss_bytes_of(pid);
    let connections = idle(server.mqtt, count).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = usage::rss_bytes_of(pid);
    drop(connections);
    Ok(Some(after.saturating_sub(before) as f64 / count as f64))
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

fn start_mosquitto(path: &Path) -> Result<Server> {
    let folder = scratch("mosquitto")?;
    let [mqtt] = free_ports()?;
    let config = folder.join("mosquitto.conf");
    // Defaults, but for what it needs to accept clients at all.
    let text = format!("listener {} 127.0.0.1\nallow_anonymous true\n", mqtt.port());
    std::fs::write(&config, text).with_context(|| format!("writing {}", config.display()))?;
    let child = Command::new(path)
        .arg("-c")
        .arg(&config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("starting {}", path.display()))?;
    wait_for(Server { child, mqtt, folder })
}

fn find_mosquitto(wanted: Option<&str>) -> Result<Option<PathBuf>> {
    match wanted {
        Some("none") => Ok(None),
        Some(path) if Path::new(path).is_file() => Ok(Some(PathBuf::from(path))),
        Some(path) => Err(Exit::usage(format!("--mosquitto {path}: no such file")).into()),
        None => {
            let usual = [
                "/usr/sbin/mosquitto",
                "/usr/local/sbin/mosquitto",
                "/opt/homebrew/sbin/mosquitto",
            ];
            Ok(usual.iter().map(PathBuf::from).find(|path| path.is_file()))
        }
    }
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

fn infer(args: &BenchInfer, printer: Printer) -> Result<()> {
    let (model, dataset) = models::load(&args.model, &args.input)?;
    let options = forecast::PredictOptions { num_samples: args.num_samples, ..Default::default() };
    let mut millis = Vec::with_capacity(args.requests);
    let cpu = usage::cpu_seconds();
    for request in 0..args.requests {
        let series = &dataset.series[request % dataset.series.len()];
        let started = Instant::now();
        model.predict(std::slice::from_ref(series), &options)?;
        millis.push(started.elapsed().as_secs_f64() * 1000.0);
    }
    let cpu = usage::cpu_seconds() - cpu;
    millis.sort_by(f64::total_cmp);
    let at = |share: f64| millis.get(((millis.len() - 1) as f64 * share) as usize).copied();
    if millis.is_empty() {
        return Err(Exit::usage("--requests 0 measures nothing").into());
    }
    let figures = json!({
        "requests": args.requests,
        "num_samples": args.num_samples,
        "p50_ms": at(0.5),
        "p99_ms": at(0.99),
        "series_per_cpu_second": args.requests as f64 / cpu.max(0.01),
    });
    printer.answer(&figures, || figures.to_string());
    Ok(())
}
