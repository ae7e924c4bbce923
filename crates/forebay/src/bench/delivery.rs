//! `forebay bench delivery`: from the log to objects, as the server does it.
//!
//! One thread appends readings to a real log in a scratch folder, as fast as the stream under
//! test follows; another removes what was delivered, so that ten minutes fit on any disk. Each
//! load has a process of its own, so that its memory is its own. What the log, the appending and
//! the removing cost is left out of the figure: it is measured by thread.
//!
//! With `--json`, one object by load of:
//!
//! * `seconds`: how long was measured, after a warm-up of a fifth;
//! * `payload_bytes`, `records`: what came into the stream;
//! * `objects`, `object_bytes`: what was made of it;
//! * `cpu_seconds`: what that cost, uploads included; `log_cpu_seconds`: what was left out;
//! * `payload_mb_per_second`, `payload_mb_per_cpu_second`: of 1,000,000 bytes;
//! * `rss_bytes_start`, `rss_bytes_end`: resident memory, the mean of the first fifth and of the
//!   last; `rss_bytes_max`: the most ever; `rss_bytes_per_minute`: the slope of the line through
//!   all of it, a sample a second.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base::{Clock, ErrorKind, MessageRef, Offset, QoS, SystemClock, usage};
use clap::ValueEnum;
use delivery::{Compression, Conversion, NewStream, Partitioning};
use journal::{Batch, Journal};
use lake::{Catalog, Column, Format, Table};
use node::{Node, Settings};
use rules::{Action, NewRule};
use serde_json::{Map, Value, json};

use super::Scratch;
use crate::args::{BenchDelivery, DeliveryLoad};
use crate::control;
use crate::output::Printer;

const STREAM: &str = "bench";
const BUCKET: &str = "bench";

/// Different readings, sent in turn: longer than any packer looks back.
const READINGS: usize = 20_000;
const STATIONS: u64 = 20;
/// Messages appended at once, as a socket's read would bring.
const TOGETHER: usize = 250;
/// Bytes of log that the stream may be behind: it always has something to do, and the log does
/// not fill the disk.
const BEHIND_BYTES_MAX: u64 = 64 << 20;

/// Records that wait for the disk at a time, about a mebibyte: as many as clients with windows
/// have under way. Without a bound, commits of 32 MiB would come and go beside the stream's memory.
const UNDER_WAY_MAX: u64 = 4_000;

/// Threads whose cost is not the delivery's.
const APPEND: &str = "bench-append";
const SWEEP: &str = "bench-sweep";
const NOT_DELIVERY: [&str; 4] = [APPEND, SWEEP, "journal", "journal-supply"];

/// How often delivered objects are removed.
const SWEEP_EVERY: Duration = Duration::from_millis(500);

const FLUSH_LIMIT: Duration = Duration::from_secs(120);

pub(super) async fn run(args: &BenchDelivery, printer: Printer) -> Result<()> {
    let loads = match args.loads.as_slice() {
        [] => DeliveryLoad::value_variants().to_vec(),
        named => named.to_vec(),
    };
    let mut figures = Map::new();
    for load in &loads {
        let name = name_of(*load);
        printer.note(&format!("{name}: {} s", args.seconds));
        let measured = match loads.len() {
            1 => measure(args, *load).await?,
            _ => in_a_process(args, &name)?[&name].take(),
        };
        figures.insert(name, measured);
    }
    let figures = Value::Object(figures);
    printer.answer(&figures, || table(&figures));
    Ok(())
}

fn name_of(load: DeliveryLoad) -> String {
    let value = load.to_possible_value();
    value.map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Has this very command run for one load.
fn in_a_process(args: &BenchDelivery, load: &str) -> Result<Value> {
    let output = Command::new(control::program()?)
        .args(["bench", "delivery", "--json", "--load", load, "--sql", &args.sql])
        .args(["--seconds", &args.seconds.to_string(), "--size-mb", &args.size_mb.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("starting the bench of one load")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "load {load} ended with {}: {text}", output.status);
    serde_json::from_str(&text).with_context(|| format!("the figures of load {load}: {text:?}"))
}

async fn measure(args: &BenchDelivery, load: DeliveryLoad) -> Result<Value> {
    let folder = Scratch::new("delivery")?;
    let world = World::open(folder.path(), args, load).await?;
    let sent = Arc::new(Sent::new());
    let stop = Arc::new(AtomicBool::new(false));
    let threads = [
        spawn(APPEND, {
            let (node, sent, stop) = (world.node.clone(), sent.clone(), stop.clone());
            move || append(&node, &sent, &stop)
        })?,
        spawn(SWEEP, {
            let (lake, stop) = (folder.path().join("lake").join(BUCKET), stop.clone());
            move || {
                let mut seen = BTreeSet::new();
                while !stop.load(Ordering::Relaxed) {
                    seen = sweep(&lake, &seen);
                    std::thread::sleep(SWEEP_EVERY);
                }
                Ok(())
            }
        })?,
    ];
    let watched = watch(&world, args.seconds).await;
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        let ended = tokio::task::spawn_blocking(move || thread.join()).await?;
        ended.map_err(|_panic| anyhow::anyhow!("a thread of the bench panicked"))??;
    }
    let (begin, end, samples) = watched?;
    let seconds = (end.at - begin.at).as_secs_f64();
    let cpu = (end.cpu - begin.cpu) - (end.other_cpu - begin.other_cpu);
    let payload = sent.bytes_between(begin.next, end.next);
    ensure!(payload > 0, "the stream delivered nothing within {seconds:.1} s");
    world.settle().await?;
    let megabytes = payload as f64 / 1e6;
    let (start, last, per_minute) = trend(&samples);
    Ok(json!({
        "seconds": seconds,
        "payload_bytes": payload,
        "records": end.next.0 - begin.next.0,
        "objects": end.objects - begin.objects,
        "object_bytes": end.object_bytes - begin.object_bytes,
        "cpu_seconds": cpu,
        "log_cpu_seconds": end.other_cpu - begin.other_cpu,
        "payload_mb_per_second": megabytes / seconds,
        "payload_mb_per_cpu_second": megabytes / cpu.max(0.01),
        "rss_bytes_start": start,
        "rss_bytes_end": last,
        "rss_bytes_max": usage::peak_rss_bytes(),
        "rss_bytes_per_minute": per_minute,
    }))
}

/// The measured time: how things stood at its begin and end, and a sample of memory a second.
async fn watch(world: &World, seconds: u64) -> Result<(Mark, Mark, Vec<u64>)> {
    let all = Duration::from_secs(seconds.max(2));
    let started = Instant::now();
    tokio::time::sleep(all / 5).await;
    let begin = world.mark()?;
    let mut samples = vec![usage::rss_bytes()];
    while started.elapsed() < all {
        tokio::time::sleep(Duration::from_secs(1).min(all.saturating_sub(started.elapsed()))).await;
        samples.push(usage::rss_bytes());
    }
    Ok((begin, world.mark()?, samples))
}

/// The means of the first and the last fifth, and the slope of the line through all by minute.
fn trend(samples: &[u64]) -> (u64, u64, i64) {
    let fifth = samples.len().div_ceil(5);
    let mean = |of: &[u64]| of.iter().sum::<u64>() / (of.len() as u64).max(1);
    let count = samples.len() as f64;
    let (mean_x, mean_y) =
        ((count - 1.0) / 2.0, samples.iter().map(|y| *y as f64).sum::<f64>() / count);
    let (mut up, mut down) = (0.0, 0.0);
    for (x, y) in samples.iter().enumerate() {
        let x = x as f64 - mean_x;
        up += x * (*y as f64 - mean_y);
        down += x * x;
    }
    let slope = if down > 0.0 { up / down * 60.0 } else { 0.0 };
    (mean(&samples[..fifth]), mean(&samples[samples.len() - fifth..]), slope as i64)
}

/// How far the stream has come at a moment, and what it cost until then.
struct Mark {
    at: Instant,
    next: Offset,
    objects: u64,
    object_bytes: u64,
    cpu: f64,
    other_cpu: f64,
}

/// A node without a server, and the stream under test.
struct World {
    node: Arc<Node>,
}

impl World {
    async fn open(folder: &Path, args: &BenchDelivery, load: DeliveryLoad) -> Result<World> {
        let mut settings = Settings::default();
        settings.journal.bytes_max = 8 * settings.journal.segment_bytes;
        let clock = Arc::new(SystemClock);
        let node = Node::open(folder, settings, control::program()?, clock.clone()).await?;
        node.buckets.ensure_bucket(BUCKET)?;
        if load == DeliveryLoad::Parquet {
            let catalog = Catalog::new(node.metastore.clone(), clock.clone());
            catalog.create_database(STREAM, "")?;
            catalog.create_table(readings_table())?;
        }
        node.streams.create(&stream(args, load))?;
        let separator = Some("\n".to_owned());
        let action = Action::Firehose { stream: STREAM.to_owned(), separator, batch_mode: false };
        let rule = NewRule {
            name: STREAM.to_owned(),
            description: String::new(),
            sql: args.sql.clone(),
            actions: vec![action],
            enabled: true,
        };
        node.rules.create(&rule, clock.now(), || node.journal.durable())?;
        node.streams.start(STREAM)?;
        Ok(World { node })
    }

    fn mark(&self) -> Result<Mark> {
        let status = self.node.streams.status(STREAM)?;
        if let Some(why) = status.retrying {
            bail!("the delivery fails: {why}");
        }
        Ok(Mark {
            at: Instant::now(),
            next: status.next,
            objects: status.totals.objects,
            object_bytes: status.totals.object_bytes,
            cpu: usage::cpu_seconds(),
            other_cpu: usage::cpu_seconds_of_threads(&NOT_DELIVERY),
        })
    }

    /// Delivers the rest, and makes sure that the figures are of work that was done.
    async fn settle(&self) -> Result<()> {
        let node = self.node.clone();
        let flushed = tokio::task::spawn_blocking(move || {
            let end = node.journal.status().next;
            while node.journal.durable() < end && node.journal.status().failed.is_none() {
                node.journal.wait_durable(node.journal.durable(), FLUSH_LIMIT);
            }
            let flushed = node.streams.flush(STREAM, FLUSH_LIMIT);
            let status = node.streams.status(STREAM);
            node.streams.stop_all();
            flushed.and(status)
        });
        let status = flushed.await??;
        let totals = &status.totals;
        let all = self.node.journal.durable().0;
        let whole = status.lag == 0
            && (status.balance.lost, status.balance.doubled) == (0, 0)
            && totals.matched == all
            && totals.acted == all;
        ensure!(
            whole,
            "of {all} records {} matched and {} were delivered whole; set aside: {:?}, lost: {:?}",
            totals.matched,
            totals.acted,
            totals.set_aside,
            totals.skipped
        );
        Ok(())
    }
}

fn stream(args: &BenchDelivery, load: DeliveryLoad) -> NewStream {
    let mut new = NewStream {
        prefix: "readings/".to_owned(),
        error_prefix: Some("errors/".to_owned()),
        size_bytes: args.size_mb << 20,
        // So long that the size ends a batch, as it does under load.
        interval_secs: 60,
        ..NewStream::new(STREAM, BUCKET)
    };
    match load {
        DeliveryLoad::Json => {}
        DeliveryLoad::Gzip => new.compression = Compression::Gzip,
        DeliveryLoad::Parquet => {
            new.conversion = Some(Conversion {
                database: STREAM.to_owned(),
                table: "readings".to_owned(),
                version: None,
                snappy: true,
                ignore_case: true,
                keys: [].into(),
            });
        }
        DeliveryLoad::Partitioned => {
            let station = "station=!{partitionKeyFromQuery:station}";
            new.prefix = format!("readings/{station}/!{{timestamp:yyyy/MM/dd/HH}}/");
            new.error_prefix = Some("errors/!{firehose:error-output-type}/".to_owned());
            new.partitioning = Some(Partitioning { query: "{station: .station}".to_owned() });
        }
    }
    new
}

/// The table that [`reading`]s are rows of.
fn readings_table() -> Table {
    let columns = [("station", "string"), ("timestamp", "timestamp"), ("seq", "bigint")];
    let numbers = NUMBERS.map(|name| (name, "double"));
    let columns = columns.into_iter().chain(numbers).chain([("wind", "string")]);
    let columns = columns.map(|(name, hive_type)| Column::new(name, hive_type)).collect();
    Table { columns, ..Table::new((STREAM, "readings"), (BUCKET, "readings/"), Format::Parquet) }
}

const NUMBERS: [&str; 10] =
    ["pm25", "pm10", "so2", "no2", "co", "ozone", "temperature", "pressure", "dewpoint", "rain"];

/// A reading of one of the stations, about 230 bytes.
fn reading(at: u64, random: &mut impl FnMut(u64) -> u64) -> (String, String) {
    const WINDS: [&str; 8] = ["N", "NE", "E", "SE", "S", "SW", "W", "NW"];
    let station = format!("station-{:02}", at % STATIONS);
    let (hour, day) = (at / STATIONS % 24, at / STATIONS / 24 % 28 + 1);
    let mut payload = format!(
        r#"{{"station":"{station}","timestamp":"2026-01-{day:02}T{hour:02}:00:00Z","seq":{at}"#
    );
    for name in NUMBERS {
        payload += &format!(r#","{name}":{}.{}"#, random(300), random(10));
    }
    payload += &format!(r#","wind":"{}"}}"#, WINDS[random(8) as usize]);
    (format!("air/{station}/readings"), payload)
}

/// What is appended, again and again: topics and payloads, and the bytes up to each.
struct Sent {
    readings: Vec<(String, String)>,
    bytes_before: Vec<u64>,
    round_bytes: u64,
}

impl Sent {
    fn new() -> Sent {
        let mut state = 1_u64;
        let mut random = |bound: u64| {
            state =
                state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
            (state >> 33) % bound
        };
        let readings: Vec<_> = (0..READINGS as u64).map(|at| reading(at, &mut random)).collect();
        let mut round_bytes = 0;
        let bytes_before = readings
            .iter()
            .map(|(_, payload)| {
                let before = round_bytes;
                round_bytes += payload.len() as u64;
                before
            })
            .collect();
        Sent { readings, bytes_before, round_bytes }
    }

    /// Bytes of payload of the offsets from `from` on, below `to`: the log holds nothing else.
    fn bytes_between(&self, from: Offset, to: Offset) -> u64 {
        let before = |offset: Offset| {
            let (rounds, at) = (offset.0 / READINGS as u64, offset.0 % READINGS as u64);
            rounds * self.round_bytes + self.bytes_before[at as usize]
        };
        before(to) - before(from)
    }
}

/// Appends until told to stop, never further ahead of the stream than the bound.
fn append(node: &Node, sent: &Sent, stop: &AtomicBool) -> Result<()> {
    let mut batch = Batch::new();
    let mut rounds = sent.readings.chunks(TOGETHER).cycle();
    let consumer = format!("stream/{STREAM}");
    let mut appended = Offset(0);
    while !stop.load(Ordering::Relaxed) {
        let next = node.journal.committed(&consumer)?.unwrap_or_default();
        if node.journal.bytes_from(next) > BEHIND_BYTES_MAX {
            std::thread::sleep(Duration::from_millis(1));
            continue;
        }
        if appended.0 > node.journal.durable().0 + UNDER_WAY_MAX {
            node.journal.wait_durable(node.journal.durable(), Duration::from_millis(10));
            continue;
        }
        let Some(readings) = rounds.next() else { return Ok(()) };
        batch.clear();
        let received_at = SystemClock.now();
        for (topic, payload) in readings {
            let message = MessageRef {
                topic,
                payload: payload.as_bytes(),
                client_id: "bench",
                principal: "anonymous",
                received_at,
                qos: QoS::AtLeastOnce,
                retain: false,
            };
            batch.push(|out| message.encode_into(out))?;
        }
        appended = loop {
            match node.journal.append(&batch, None) {
                Ok(done) => break done.next(),
                Err(error) => {
                    ensure!(error.kind() == ErrorKind::Exhausted, "appending: {error}");
                }
            }
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        };
    }
    Ok(())
}

/// Removes the objects below a folder that were there at the last turn, too: a put looks once
/// more at what it wrote. Gives those that are left.
fn sweep(folder: &Path, seen: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let mut left = BTreeSet::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            left.append(&mut sweep(&path, seen));
        } else if !seen.contains(&path) || std::fs::remove_file(&path).is_err() {
            left.insert(path);
        }
    }
    left
}

fn spawn(
    name: &str,
    work: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<JoinHandle<Result<()>>> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(work).with_context(|| format!("starting thread {name}"))
}

/// A folder that goes with this value.
fn table(figures: &Value) -> String {
    let mut shown = charts::Table::new([
        "load",
        "MB/s",
        "MB/CPU s",
        "objects",
        "packed to",
        "RSS start MiB",
        "end",
        "most",
        "KiB/minute",
    ]);
    for (load, found) in figures.as_object().into_iter().flatten() {
        let number = |member: &str| found[member].as_f64().unwrap_or(f64::NAN);
        let mebibytes = |member: &str| format!("{:.1}", number(member) / f64::from(1 << 20));
        shown.row([
            load.clone(),
            format!("{:.1}", number("payload_mb_per_second")),
            format!("{:.1}", number("payload_mb_per_cpu_second")),
            format!("{:.0}", number("objects")),
            format!("{:.0}%", 100.0 * number("object_bytes") / number("payload_bytes")),
            mebibytes("rss_bytes_start"),
            mebibytes("rss_bytes_end"),
            mebibytes("rss_bytes_max"),
            format!("{:.0}", number("rss_bytes_per_minute") / 1024.0),
        ]);
    }
    shown.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_bytes_follow_the_offsets_round_after_round() {
        let sent = Sent::new();
        let one = |at: usize| sent.readings[at % READINGS].1.len() as u64;
        let last = READINGS as u64 - 1;
        assert_eq!(sent.bytes_between(Offset(0), Offset(2)), one(0) + one(1));
        assert_eq!(sent.bytes_between(Offset(last), Offset(last + 2)), one(READINGS - 1) + one(0));
        let round = sent.bytes_between(Offset(7), Offset(7 + READINGS as u64));
        assert_eq!(round, sent.round_bytes);
        assert!((150..300).contains(&(round / READINGS as u64)), "{round}");
    }

    #[test]
    fn memory_that_grows_has_a_slope_and_flat_memory_none() {
        let flat = [1000; 60];
        assert_eq!(trend(&flat), (1000, 1000, 0));
        let growing: Vec<u64> = (0..60).map(|second| 1_000_000 + second * 100).collect();
        let (start, end, per_minute) = trend(&growing);
        assert!(start < end, "{start} {end}");
        assert!((5_990..=6_010).contains(&per_minute), "{per_minute}");
        assert_eq!(trend(&[5]), (5, 5, 0));
    }
}
