//! `forebay bench lake`: a lake of many small objects: crawled, queried, converted, queried again.
//!
//! The objects lie in folders by day and hour, as delivery writes them; all together they have the
//! bytes asked for. Everything is done as a server does it, so a job is a process of its own.
//!
//! With `--json`, one object of:
//!
//! * `objects`, `bytes`, `records`: what was made;
//! * `steps`: by name `crawl`, `crawl_again`, `query_raw`, `query_raw_hour`, `convert`, `compact`,
//!   `query_parquet`, `query_parquet_hour`, `compact_raw`, `query_compacted`; each of
//!   * `cpu_seconds`: user and system, children included; `seconds`: by the clock;
//!   * `rss_bytes_max`, `child_rss_bytes_max`: the most resident memory of this process, and of
//!     its children together, a sample every 20 ms;
//! * `cpu_seconds_per_1000_objects`: of all steps.
//!
//! Queries answer the same before and after; otherwise the bench fails.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base::{SystemClock, usage};
use futures::{StreamExt, TryStreamExt};
use node::{Node, Settings, admin};
use serde_json::{Map, Value, json};

use super::Scratch;
use crate::args::BenchLake;
use crate::control;
use crate::output::Printer;

const BUCKET: &str = "lake";
const JOB: &str = "convert";
/// Objects that are written at the same time.
const PUTS_AT_ONCE: usize = 8;
const DEVICES: u64 = 500;
const SAMPLE_EVERY: Duration = Duration::from_millis(20);
/// 2026-01-01T00:00:00Z, in seconds.
const START: u64 = 1_767_225_600;

const ALL: &str = "SELECT count(*), sum(ozone), min(reading), max(reading), \
                   count(DISTINCT device_id) FROM";

pub(super) async fn run(args: &BenchLake, data_dir: Option<&Path>, printer: Printer) -> Result<()> {
    ensure!(args.objects > 0, "--objects 0 is no lake");
    let scratch = match data_dir {
        None => Some(Scratch::new("lake")?),
        Some(_) => None,
    };
    let folder: PathBuf = match (&scratch, data_dir) {
        (Some(scratch), _) => scratch.path().to_owned(),
        (None, given) => given.map(Path::to_owned).unwrap_or_default(),
    };
    let taken = std::fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_some());
    ensure!(!taken, "{} is not empty: the bench needs a folder of its own", folder.display());
    let clock = Arc::new(SystemClock);
    let node = Node::open(&folder, Settings::default(), control::program()?, clock).await?;
    node.buckets.ensure_bucket(BUCKET)?;

    printer.note(&format!("making {} objects of {} bytes in all", args.objects, args.bytes));
    let made = make(&node, args).await?;
    let mut steps = Map::new();
    let mut bench = Bench { node: &node, steps: &mut steps, printer };
    let crawl = json!({"path": format!("{BUCKET}/raw"), "database": "forebay", "table_prefix": ""});
    let report = bench.step("crawl", "lake_crawl", crawl.clone()).await?;
    let tables = report["tables"].as_array().map_or(0, Vec::len);
    ensure!(tables == 1, "the crawl made {tables} tables of one: {}", report["tables"]);
    ensure!(report["read"] == json!(args.objects), "the crawl read {}", report["read"]);
    bench.step("crawl_again", "lake_crawl", crawl).await?;
    let raw = bench.query("query_raw", "raw", None).await?;
    ensure!(raw[0] == json!(made.records), "{} records were made, {} read", made.records, raw[0]);
    let hour = bench.query("query_raw_hour", "raw", Some(&made.hour)).await?;

    let job = json!({
        "name": JOB, "source": "raw", "target": format!("{BUCKET}/curated"), "table": "curated",
        "sql": null, "compression": "zstd",
        "partition_by": ["partition_0", "partition_1", "partition_2", "partition_3"],
    });
    admin::call(&node, "job_create", job).await?;
    let run = bench.step("convert", "job_run", json!({"name": JOB})).await?;
    ensure!(run["rows_out"] == json!(made.records), "the job wrote {} rows", run["rows_out"]);
    // Small files become few, and nobody gets another answer.
    let compact = |table: &str| json!({"table": table, "min_age_secs": 0});
    bench.step("compact", "lake_compact", compact("forebay.curated")).await?;
    let again = bench.query("query_parquet", "curated", None).await?;
    ensure!(again == raw, "the Parquet says {again}, the objects {raw}");
    let again = bench.query("query_parquet_hour", "curated", Some(&made.hour)).await?;
    ensure!(again == hour, "the Parquet says {again} of one hour, the objects {hour}");
    bench.step("compact_raw", "lake_compact", compact("forebay.raw")).await?;
    let again = bench.query("query_compacted", "raw", None).await?;
    ensure!(again == raw, "the objects say {again} after they were joined, {raw} before");

    let cpu: f64 = steps.values().filter_map(|step| step["cpu_seconds"].as_f64()).sum();
    let figures = json!({
        "objects": args.objects,
        "bytes": made.bytes,
        "records": made.records,
        "steps": steps,
        "cpu_seconds_per_1000_objects": cpu * 1000.0 / args.objects as f64,
    });
    printer.answer(&figures, || table(&figures));
    Ok(())
}

/// What was made.
struct Made {
    bytes: u64,
    records: u64,
    /// The condition that one hour in the middle fulfils.
    hour: String,
}

/// Writes the objects, an hour's folder after the other.
async fn make(node: &Arc<Node>, args: &BenchLake) -> Result<Made> {
    let each = args.bytes.div_ceil(args.objects);
    let hours = args.objects.div_ceil(100).max(1);
    let folder = |object: u64| {
        let at = START + object * hours / args.objects * 3600;
        chrono::DateTime::from_timestamp(i64::try_from(at).unwrap_or(0), 0)
            .unwrap_or_default()
            .format("%Y/%m/%d/%H")
            .to_string()
    };
    let records = AtomicU64::new(0);
    let bytes = AtomicU64::new(0);
    let puts = futures::stream::iter(0..args.objects).map(|object| {
        let (records, bytes) = (&records, &bytes);
        let key = format!("raw/{}/readings-{object:09}.json", folder(object));
        async move {
            let (text, count) = readings(object, each);
            records.fetch_add(count, Ordering::Relaxed);
            bytes.fetch_add(text.len() as u64, Ordering::Relaxed);
            node.buckets.put(BUCKET, &key, text.into()).await.map(drop)
        }
    });
    puts.buffer_unordered(PUTS_AT_ONCE).try_collect::<()>().await?;
    let middle = folder(args.objects / 2);
    let levels = middle.split('/').enumerate();
    let hour: Vec<String> =
        levels.map(|(level, value)| format!("partition_{level} = '{value}'")).collect();
    Ok(Made { bytes: bytes.into_inner(), records: records.into_inner(), hour: hour.join(" AND ") })
}

/// Lines of one object, at least as many bytes as asked for.
fn readings(object: u64, bytes: u64) -> (String, u64) {
    let mut text = String::new();
    let mut count = 0;
    while (text.len() as u64) < bytes || count == 0 {
        let reading = object * 1_000_000 + count;
        let noise = reading.wrapping_mul(6_364_136_223_846_793_005).rotate_left(23);
        // Writing to a string cannot fail.
        _ = writeln!(
            text,
            "{{\"reading\":{reading},\"device_id\":\"sensor-{:04}\",\"timestamp\":{},\"ozone\":{},\
             \"particullate_matter\":{},\"carbon_monoxide\":{},\"sulfure_dioxide\":{},\
             \"nitrogen_dioxide\":{},\"longitude\":10.1047{:04},\"latitude\":56.2317{:04}}}",
            noise % DEVICES,
            START + reading % 86_400,
            noise % 101,
            noise / 7 % 150,
            noise / 11 % 90,
            noise / 13 % 80,
            noise / 17 % 120,
            noise / 19 % 10_000,
            noise / 23 % 10_000,
        );
        count += 1;
    }
    (text, count)
}

struct Bench<'a> {
    node: &'a Arc<Node>,
    steps: &'a mut Map<String, Value>,
    printer: Printer,
}

impl Bench<'_> {
    /// Has the node do something, and keeps what it cost.
    async fn step(&mut self, name: &str, operation: &str, input: Value) -> Result<Value> {
        self.printer.note(name);
        let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(Most::default()));
        let sampler = std::thread::spawn({
            let (stop, most) = (stop.clone(), most.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    most.sample();
                    std::thread::sleep(SAMPLE_EVERY);
                }
            }
        });
        let (cpu, started) = (usage::cpu_seconds_with_children(), Instant::now());
        let answer = admin::call(self.node, operation, input).await;
        let (cpu, seconds) = (usage::cpu_seconds_with_children() - cpu, started.elapsed());
        most.sample();
        stop.store(true, Ordering::Relaxed);
        drop(sampler.join());
        let answer = answer.map_err(anyhow::Error::from)?;
        let figures = json!({
            "cpu_seconds": cpu,
            "seconds": seconds.as_secs_f64(),
            "rss_bytes_max": most.own.load(Ordering::Relaxed),
            "child_rss_bytes_max": most.children.load(Ordering::Relaxed),
        });
        self.steps.insert(name.to_owned(), figures);
        Ok(answer)
    }

    /// The one row that a table answers.
    async fn query(&mut self, name: &str, table: &str, only: Option<&str>) -> Result<Value> {
        let condition = only.map(|only| format!(" WHERE {only}")).unwrap_or_default();
        let sql = format!("{ALL} {table}{condition}");
        let input = json!({"sql": sql, "database": "forebay"});
        let mut answer = self.step(name, "lake_sql", input).await?;
        if let Some(step) = self.steps.get_mut(name) {
            step["bytes_scanned"] = answer["bytes_scanned"].take();
        }
        ensure!(answer["set_aside"] == json!(0), "{sql}: {} set aside", answer["set_aside"]);
        answer["rows"].get_mut(0).map(Value::take).with_context(|| format!("{sql}: no answer"))
    }
}

#[derive(Default)]
struct Most {
    own: AtomicU64,
    children: AtomicU64,
}

impl Most {
    fn sample(&self) {
        let own = usage::rss_bytes();
        let children = usage::rss_bytes_with_children().saturating_sub(own);
        self.own.fetch_max(own, Ordering::Relaxed);
        self.children.fetch_max(children, Ordering::Relaxed);
    }
}

fn table(figures: &Value) -> String {
    let mut shown = charts::Table::new(["step", "CPU s", "RSS MiB", "children MiB"]);
    let mebibytes = |value: &Value| format!("{:.0}", value.as_f64().unwrap_or(0.0) / 1_048_576.0);
    for (name, step) in figures["steps"].as_object().into_iter().flatten() {
        shown.row(match step["cpu_seconds"].as_f64() {
            Some(cpu) => vec![
                name.clone(),
                format!("{cpu:.2}"),
                mebibytes(&step["rss_bytes_max"]),
                mebibytes(&step["child_rss_bytes_max"]),
            ],
            None => vec![name.clone(), "-".into(), "-".into(), "-".into()],
        });
    }
    format!(
        "{} objects, {} records, {} bytes\n{}",
        figures["objects"],
        figures["records"],
        figures["bytes"],
        shown.render()
    )
}
