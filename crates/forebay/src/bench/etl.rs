//! `forebay bench etl`: JSON readings to sorted, typed, hour-partitioned Parquet, and five
//! queries on the result, beside other tools that are installed.
//!
//! Ours goes the way of every job: the readings are objects of a bucket, a table is declared over
//! them, and a job of four nodes runs in its child process; what it staged is committed and then
//! asked. Each tool is told the columns' types beforehand and converts in a process of its own,
//! taking turns; the cheapest round counts. Every result is read and must have the same rows,
//! typed, sorted and packed alike.
//!
//! With `--json`, one object:
//!
//! * `readings`: `bytes`, `rows`;
//! * `convert`: by tool `cpu_seconds` of its process, start included, `start_cpu_seconds` of an
//!   empty start, `mb_per_cpu_second` and `mb_per_cpu_second_without_start` of 1,000,000 bytes of
//!   readings, `peak_rss_bytes`, `out_bytes`, `files`, `version`; or `absent` and why;
//! * `queries`: by query, CPU seconds of one run within a process that runs: `forebay`, `duckdb`
//!   and their `ratio`;
//! * `cold`: CPU seconds of a process that starts, asks the first query once and ends;
//! * `ratios`: `convert_to_<tool>`: our MB per CPU second over the tool's.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, Int16Type, TimeUnit, TimestampMillisecondType};
use arrow::util::display::array_value_to_string;
use base::{SystemClock, usage};
use bytes::Bytes;
use lake::{
    Column, EtlResult, Format, Job, Lake, Mapping, Node as Step, QueryEngine, RunOptions,
    SqlOptions, Table, TargetCompression, TargetFormat,
};
use node::{DATABASE, Node, Settings};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::Compression;
use query::{Engine, EngineOptions};
use serde_json::{Map, Value, json};

use super::{Scratch, Spent, measure};
use crate::args::BenchEtl;
use crate::control;
use crate::exit::Exit;
use crate::output::Printer;

const BUCKET: &str = "bench";
const RAW: &str = "raw/readings/";
const TARGET: &str = "curated/readings/";
const JOB: &str = "bench";
const PEERS: [&str; 3] = ["duckdb", "polars", "pyspark"];

/// The peers' part, in Python.
const SCRIPT: &str = include_str!("etl_peers.py");

/// Largest object of readings.
const OBJECT_BYTES_MAX: usize = 512_000_000;

const DEVICES: u64 = 500;
const DAY_MILLIS: u64 = 24 * 3600 * 1000;
/// How late a reading may arrive.
const LATE_MILLIS: u64 = 90_000;
/// 2014-08-01.
const FIRST_DAY: &str = "2014-08-01";

/// Columns of whole numbers, of whom the bench makes `smallint`.
const POLLUTANTS: [&str; 5] =
    ["ozone", "particullate_matter", "carbon_monoxide", "sulfure_dioxide", "nitrogen_dioxide"];

/// Asked of the result, in words that both dialects have. Their answers must agree.
const QUERIES: [(&str, &str); 5] = [
    (
        "filtered_by_device",
        "SELECT device_id, count(*) AS n, avg(ozone) AS mean, max(particullate_matter) AS most \
         FROM readings WHERE carbon_monoxide > 50 GROUP BY device_id ORDER BY device_id",
    ),
    (
        "hourly_means",
        "SELECT hour, count(*) AS n, avg(nitrogen_dioxide) AS mean, min(sulfure_dioxide) AS least \
         FROM readings GROUP BY hour ORDER BY hour",
    ),
    (
        "top_20",
        "SELECT device_id, ozone, sulfure_dioxide, carbon_monoxide FROM readings \
         ORDER BY ozone DESC, sulfure_dioxide DESC, carbon_monoxide DESC, device_id LIMIT 20",
    ),
    (
        "distinct_of_some_hours",
        "SELECT count(DISTINCT device_id) AS devices, count(DISTINCT timestamp) AS moments, \
         median(ozone) AS median FROM readings \
         WHERE hour >= '2014-08-01T06' AND hour < '2014-08-01T12'",
    ),
    (
        "moving_mean_of_devices",
        "SELECT device_id, max(smooth) AS most FROM (SELECT device_id, avg(ozone) OVER \
         (PARTITION BY device_id ORDER BY timestamp, ozone ROWS BETWEEN 11 PRECEDING AND CURRENT \
         ROW) AS smooth FROM readings WHERE device_id >= 'sensor-0100' AND device_id < \
         'sensor-0150') AS windows GROUP BY device_id ORDER BY device_id",
    ),
];

pub(super) async fn run(args: &BenchEtl, printer: Printer) -> Result<()> {
    let (_scratch, folder) = match &args.keep {
        Some(folder) => (None, std::path::absolute(folder)?),
        None => {
            let scratch = Scratch::new("etl")?;
            let folder = scratch.path().to_owned();
            (Some(scratch), folder)
        }
    };
    let asked = asked(&args.queries)?;
    let world = World::open(&folder).await?;
    let script = folder.join("peers.py");
    std::fs::write(&script, SCRIPT).context("writing the peers' script")?;
    let peers = Peers { python: find_python(args)?, script, scratch: folder };
    let mut figures = match world.is_converted() {
        true => Map::new(),
        false => convert(args, &world, &peers, printer).await?,
    };
    printer.note("queries");
    let with_duckdb =
        !args.without.iter().any(|name| name == "duckdb") && peers.command("duckdb").is_some();
    let ours = world.queries(&asked, args.repetitions).await?;
    let cold_ours = world.close_and_start_cold()?;
    let theirs = match with_duckdb {
        true => Some(peers.queries(&asked, args.repetitions)?),
        false => None,
    };
    figures.insert("queries".to_owned(), compare(&asked, &ours, theirs.as_ref())?);
    let cold_theirs = match with_duckdb {
        true => json!(peers.cold()?),
        false => Value::Null,
    };
    figures.insert("cold".to_owned(), json!({"forebay": cold_ours, "duckdb": cold_theirs}));
    let figures = Value::Object(figures);
    printer.answer(&figures, || table(&figures));
    Ok(())
}

/// The queries of these names, or all.
fn asked(names: &[String]) -> Result<Vec<(&'static str, &'static str)>> {
    for name in names {
        if !QUERIES.iter().any(|(known, _)| known == name) {
            let known = QUERIES.map(|(known, _)| known).join(", ");
            return Err(Exit::usage(format!("--query {name}: there are {known}")).into());
        }
    }
    let is_asked = |name: &str| names.is_empty() || names.iter().any(|asked| asked == name);
    Ok(QUERIES.into_iter().filter(|(name, _)| is_asked(name)).collect())
}

/// Makes the readings and has every tool convert them.
async fn convert(
    args: &BenchEtl,
    world: &World,
    peers: &Peers,
    printer: Printer,
) -> Result<Map<String, Value>> {
    printer.note("making the readings");
    let readings = world.fill(args).await?;
    world.prepare()?;
    let sources = world.sources();
    let mut best: Map<String, Value> = Map::new();
    for round in 0..args.rounds {
        printer.note(&format!("round {}: forebay", round + 1));
        let found = world.convert(round + 1 == args.rounds, &readings).await?;
        keep_cheapest(&mut best, "forebay", found);
        for tool in PEERS {
            // It takes half a minute, and its start makes no difference to what is shown.
            if args.without.iter().any(|name| name == tool) || (tool == "pyspark" && round > 0) {
                continue;
            }
            printer.note(&format!("round {}: {tool}", round + 1));
            let found = peers.convert(tool, &sources, &readings)?;
            keep_cheapest(&mut best, tool, found);
        }
    }
    let mut ratios = Map::new();
    let rate = |tool: &str| best[tool]["mb_per_cpu_second"].as_f64();
    for tool in PEERS {
        if let Some(theirs) = best.get(tool).and_then(|_| rate(tool)) {
            let ours = rate("forebay").unwrap_or(f64::NAN);
            ratios.insert(format!("convert_to_{tool}"), json!(ours / theirs));
        }
    }
    let readings = json!({"bytes": readings.bytes, "rows": readings.rows});
    let figures = json!({"readings": readings, "convert": best, "ratios": ratios});
    Ok(figures.as_object().cloned().unwrap_or_default())
}

fn keep_cheapest(best: &mut Map<String, Value>, tool: &str, found: Value) {
    let cost = |figures: &Value| figures["cpu_seconds"].as_f64().unwrap_or(f64::INFINITY);
    let before = best.get(tool).map_or(f64::INFINITY, cost);
    let peak = |figures: &Value| figures["peak_rss_bytes"].as_u64().unwrap_or(0);
    // Memory is promised of every round.
    let most = best.get(tool).map_or(0, peak).max(peak(&found));
    if cost(&found) < before || !best.contains_key(tool) {
        best.insert(tool.to_owned(), found);
    }
    if most > 0 {
        best[tool]["peak_rss_bytes"] = json!(most);
    }
}

/// What was made, to check results by.
struct Readings {
    bytes: u64,
    rows: u64,
    ozone: i64,
    latitude_micros: i64,
}

/// Readings of stations that stand where they stand, by the time at which they arrive.
struct Generator {
    state: u64,
    rows: u64,
    row: u64,
}

impl Generator {
    fn next(&mut self, bound: u64) -> u64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 33) % bound
    }

    fn line(&mut self, out: &mut String, sums: &mut Readings) -> Result<()> {
        use std::fmt::Write;
        let device = self.next(DEVICES);
        let arrived = self.row * DAY_MILLIS / self.rows.max(1);
        self.row += 1;
        let taken = arrived.saturating_sub(self.next(LATE_MILLIS)) / 1000;
        let [ozone, matter, carbon, sulfure, nitrogen] = [(); 5].map(|()| self.next(101));
        let (longitude, latitude) = (device * 7_919 % 100_000, device * 104_729 % 1_000_000);
        writeln!(
            out,
            "{{\"device_id\":\"sensor-{device:04}\",\"ozone\":{ozone},\"particullate_matter\":\
             {matter},\"carbon_monoxide\":{carbon},\"sulfure_dioxide\":{sulfure},\
             \"nitrogen_dioxide\":{nitrogen},\"longitude\":10.{longitude:05},\"latitude\":\
             56.{latitude:06},\"timestamp\":\"{FIRST_DAY}T{:02}:{:02}:{:02}\"}}",
            taken / 3600,
            taken / 60 % 60,
            taken % 60,
        )
        .context("writing a reading")?;
        sums.rows += 1;
        sums.ozone += i64::try_from(ozone)?;
        sums.latitude_micros += 56_000_000 + i64::try_from(latitude)?;
        Ok(())
    }
}

/// A data directory with the readings in a bucket, as a server's.
struct World {
    data: PathBuf,
    node: Arc<Node>,
    lake: Lake,
}

impl World {
    async fn open(scratch: &Path) -> Result<World> {
        let data = scratch.join("data");
        let clock = Arc::new(SystemClock);
        let settings = Settings::default();
        let node = Node::open(&data, settings, control::program()?, clock.clone()).await?;
        node.buckets.ensure_bucket(BUCKET)?;
        let (store, buckets) = (node.metastore.clone(), node.buckets.clone());
        let lake = Lake::open(store, buckets, &data.join("jobs"), clock)?;
        Ok(World { data, node, lake })
    }

    async fn fill(&self, args: &BenchEtl) -> Result<Readings> {
        let mut sums = Readings { bytes: 0, rows: 0, ozone: 0, latitude_micros: 0 };
        // A line has about so many bytes, and the day is to be full.
        let rows = (args.bytes / 206).max(1);
        let mut generator = Generator { state: args.seed, rows, row: 0 };
        for object in 0.. {
            let mut text = String::new();
            while generator.row < rows && text.len() < OBJECT_BYTES_MAX {
                generator.line(&mut text, &mut sums)?;
            }
            if text.is_empty() {
                break;
            }
            sums.bytes += text.len() as u64;
            let key = format!("{RAW}part-{object:04}.json");
            self.lake.buckets().put(BUCKET, &key, Bytes::from(text)).await?;
        }
        Ok(sums)
    }

    /// Declares the table of the readings, as every tool here is told their types, and makes the
    /// job.
    fn prepare(&self) -> Result<()> {
        let pollutants = POLLUTANTS.map(|name| (name, "smallint"));
        let places = [("longitude", "double"), ("latitude", "double"), ("timestamp", "timestamp")];
        let columns = [("device_id", "string")].into_iter().chain(pollutants).chain(places);
        let columns: Vec<Column> = columns.map(|(name, of)| Column::new(name, of)).collect();
        let table = Table::new((DATABASE, "raw"), (BUCKET, RAW), Format::Json);
        let table = self.lake.catalog().create_table(Table { columns, ..table })?;
        let mapping = |column: &Column| Mapping {
            from: column.name.clone(),
            from_type: column.hive_type.clone(),
            to: column.name.clone(),
            to_type: column.hive_type.clone(),
            drop: false,
        };
        let nodes = vec![
            Step::Source {
                id: "source".into(),
                database: DATABASE.into(),
                table: table.name.clone(),
                lineage: false,
            },
            Step::ApplyMapping {
                id: "types".into(),
                input: "source".into(),
                mappings: table.columns.iter().map(mapping).collect(),
            },
            Step::Sql {
                id: "sort".into(),
                inputs: [("typed".to_owned(), "types".to_owned())].into(),
                query: "SELECT *, to_char(date_trunc('hour', timestamp), '%Y-%m-%dT%H') AS hour \
                        FROM typed ORDER BY hour, device_id, timestamp"
                    .into(),
            },
            Step::Target {
                id: "target".into(),
                input: "sort".into(),
                bucket: BUCKET.into(),
                prefix: TARGET.into(),
                format: TargetFormat::Parquet,
                compression: TargetCompression::Zstd,
                partition_keys: vec!["hour".into()],
                database: DATABASE.into(),
                table: "curated".into(),
            },
        ];
        // Without a bookmark every round reads everything.
        self.lake.create_job(&Job {
            name: JOB.into(),
            nodes,
            bookmark: false,
            error_prefix: None,
            max_retries: 0,
        })?;
        Ok(())
    }

    /// Where the readings are, for everybody.
    fn sources(&self) -> String {
        format!("{}/lake/{BUCKET}/{RAW}part-*.json", self.data.display())
    }

    /// Whether an earlier run left its result here.
    fn is_converted(&self) -> bool {
        self.lake.catalog().get_table(DATABASE, "curated").is_ok()
    }

    /// One run of the job in its process; the last is committed.
    async fn convert(&self, last: bool, readings: &Readings) -> Result<Value> {
        let planned = self.lake.start_run(JOB, &RunOptions::default()).await?;
        let spec = planned.spec.context("the job found nothing to read")?;
        self.lake.run_started(JOB, &spec.run_id)?;
        let path = self.lake.run_folder(&spec.run_id).join("spec.json");
        std::fs::create_dir_all(&spec.staging).context("making the staging folder")?;
        std::fs::write(&path, serde_json::to_vec(&spec)?).context("writing the run")?;
        let mut command = Command::new(control::program()?);
        command.args(["worker", "etl", "--spec"]).arg(&path);
        let spent = measure(&mut command)?;
        let answer = path.with_file_name(node::ETL_RESULT_FILE);
        let result: EtlResult = serde_json::from_slice(&std::fs::read(&answer)?)?;
        ensure!(result.set_aside_count == 0, "{} readings set aside", result.set_aside_count);
        let files: Vec<PathBuf> =
            result.files.iter().map(|file| spec.staging.join(&file.path)).collect();
        let out = check(&files, readings)?;
        match last {
            true => drop(self.lake.finish_run(JOB, &spec.run_id, &result).await?),
            false => drop(self.lake.fail_run(JOB, &spec.run_id, "it was only measured")?),
        }
        let start = measure(Command::new(control::program()?).arg("--version"))?.cpu_seconds;
        let mut figures = figures_of(&spent, readings, start);
        figures["version"] = json!(env!("CARGO_PKG_VERSION"));
        Ok(out.into(figures))
    }

    /// Each query warm: CPU seconds of one run, and its rows.
    async fn queries(
        &self,
        asked: &[(&str, &str)],
        repetitions: u32,
    ) -> Result<Vec<(f64, Vec<Vec<String>>)>> {
        let engine =
            Engine::new(self.lake.clone(), EngineOptions::new(self.data.join("jobs/spill")))?;
        let options = SqlOptions::in_database(DATABASE);
        let mut answers = Vec::new();
        for (_, sql) in asked {
            let sql = ours(sql);
            let answer = engine.sql(&sql, &options).await?;
            let started = usage::cpu_seconds();
            for _ in 0..repetitions {
                engine.sql(&sql, &options).await?;
            }
            let took = (usage::cpu_seconds() - started) / f64::from(repetitions.max(1));
            answers.push((took, shown(&answer.batches)?));
        }
        Ok(answers)
    }

    /// CPU seconds of a process that opens the data directory and asks one query.
    fn close_and_start_cold(self) -> Result<f64> {
        let World { data, node, lake } = self;
        drop((lake, node));
        let mut command = Command::new(control::program()?);
        command.args(["lake", "sql", "--json", &ours(QUERIES[0].1), "--data-dir"]).arg(&data);
        Ok(measure(&mut command)?.cpu_seconds)
    }
}

/// Our name of the table.
fn ours(sql: &str) -> String {
    sql.replace("FROM readings", "FROM curated")
}

fn shown(batches: &[RecordBatch]) -> Result<Vec<Vec<String>>> {
    let mut rows = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let cells = batch.columns().iter().map(|column| array_value_to_string(column, row));
            rows.push(cells.collect::<Result<_, _>>()?);
        }
    }
    Ok(rows)
}

/// Figures by query; fails where the answers differ.
fn compare(
    asked: &[(&str, &str)],
    ours: &[(f64, Vec<Vec<String>>)],
    theirs: Option<&Value>,
) -> Result<Value> {
    let mut figures = Map::new();
    for (at, ((name, _), (seconds, rows))) in asked.iter().zip(ours).enumerate() {
        let mut figure = json!({"forebay": seconds, "rows": rows.len()});
        if let Some(theirs) = theirs {
            let answer = &theirs["answers"][at];
            let other: Vec<Vec<String>> = serde_json::from_value(answer["rows"].clone())?;
            if let Some((a, b)) = differing(rows, &other) {
                bail!("query {name}: forebay says {a:?}, DuckDB says {b:?}");
            }
            let their_seconds = answer["cpu_seconds"].as_f64().context("a figure is missing")?;
            figure["duckdb"] = json!(their_seconds);
            figure["ratio"] = json!(seconds / their_seconds.max(1e-6));
        }
        figures.insert((*name).to_owned(), figure);
    }
    Ok(Value::Object(figures))
}

/// The first rows that are not the same, numbers to nine digits.
fn differing(ours: &[Vec<String>], theirs: &[Vec<String>]) -> Option<(Vec<String>, Vec<String>)> {
    let same = |a: &String, b: &String| match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(a), Ok(b)) => (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0),
        _ => a == b,
    };
    let none = Vec::new();
    (0..ours.len().max(theirs.len())).find_map(|row| {
        let (a, b) = (ours.get(row).unwrap_or(&none), theirs.get(row).unwrap_or(&none));
        let agree = a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b));
        (!agree || a.is_empty()).then(|| (a.clone(), b.clone()))
    })
}

/// Other tools, in a Python that has some of them.
struct Peers {
    python: Option<PathBuf>,
    script: PathBuf,
    scratch: PathBuf,
}

impl Peers {
    fn command(&self, tool: &str) -> Option<Command> {
        let python = self.python.as_ref()?;
        let there = Command::new(python)
            .args(["-c", &format!("import {tool}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if !there.is_ok_and(|status| status.success()) {
            return None;
        }
        let mut command = Command::new(python);
        command.arg(&self.script).arg(tool).current_dir(&self.scratch);
        // Two threads for everybody.
        command.env("POLARS_MAX_THREADS", "2");
        Some(command)
    }

    fn convert(&self, tool: &str, sources: &str, readings: &Readings) -> Result<Value> {
        let Some(mut command) = self.command(tool) else {
            let why = match &self.python {
                Some(python) => format!("{} has no {tool}", python.display()),
                None => "no Python was named; use --peers".to_owned(),
            };
            return Ok(json!({"absent": why}));
        };
        let folder = self.scratch.join(tool);
        drop(std::fs::remove_dir_all(&folder));
        let spent = measure(command.args(["convert", sources]).arg(&folder))
            .with_context(|| format!("{tool}'s conversion"))?;
        let said: Value = serde_json::from_str(spent.said.trim())
            .with_context(|| format!("{tool} said {:?}", spent.said))?;
        let more = |member: &str| said[member].as_f64().unwrap_or(0.0);
        let spent = Spent {
            cpu_seconds: spent.cpu_seconds + more("other_cpu_seconds"),
            peak_rss_bytes: spent.peak_rss_bytes
                + said["other_peak_rss_bytes"].as_u64().unwrap_or(0),
            ..spent
        };
        let mut files = Vec::new();
        find_parquet(&folder, &mut files)?;
        let out = check(&files, readings).with_context(|| format!("{tool}'s result"))?;
        std::fs::remove_dir_all(&folder).context("removing a result")?;
        let mut figures = figures_of(&spent, readings, more("start_cpu_seconds"));
        figures["version"] = said["version"].clone();
        Ok(out.into(figures))
    }

    fn ask(&self, queries: &[&str], repetitions: u32) -> Result<Spent> {
        let folder = self.scratch.join("data/lake").join(BUCKET).join(TARGET);
        let path = self.scratch.join("queries.json");
        std::fs::write(&path, serde_json::to_vec(queries)?).context("writing the queries")?;
        let mut command = self.command("duckdb").context("DuckDB has gone")?;
        command.arg("queries").arg(folder).arg(path).arg(repetitions.to_string());
        measure(&mut command)
    }

    /// DuckDB's answers on our files.
    fn queries(&self, asked: &[(&str, &str)], repetitions: u32) -> Result<Value> {
        let queries: Vec<&str> = asked.iter().map(|(_, sql)| *sql).collect();
        let said = self.ask(&queries, repetitions)?.said;
        serde_json::from_str(said.trim()).with_context(|| format!("DuckDB said {said:?}"))
    }

    fn cold(&self) -> Result<f64> {
        Ok(self.ask(&[QUERIES[0].1], 0)?.cpu_seconds)
    }
}

fn find_python(args: &BenchEtl) -> Result<Option<PathBuf>> {
    match (&args.peers, &args.test_tools) {
        (Some(path), _) if path.is_file() => Ok(Some(std::path::absolute(path)?)),
        (Some(path), _) => {
            Err(Exit::usage(format!("--peers {}: no such file", path.display())).into())
        }
        (None, Some(tools)) => {
            let path = std::path::absolute(tools.join("venv/bin/python"))?;
            Ok(path.is_file().then_some(path))
        }
        (None, None) => Ok(None),
    }
}

fn find_parquet(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            find_parquet(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "parquet") {
            found.push(path);
        }
    }
    Ok(())
}

/// Files of a result, found to be what was asked for.
struct Checked {
    files: usize,
    bytes: u64,
}

impl Checked {
    fn into(self, mut figures: Value) -> Value {
        figures["files"] = json!(self.files);
        figures["out_bytes"] = json!(self.bytes);
        figures
    }
}

/// Reads a result: types, packing, order within files, rows and sums.
fn check(files: &[PathBuf], readings: &Readings) -> Result<Checked> {
    let (mut rows, mut ozone, mut latitude, mut bytes) = (0, 0, 0.0, 0);
    for path in files {
        bytes += path.metadata()?.len();
        let builder = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(path)?)?;
        for group in builder.metadata().row_groups() {
            let packed = group.columns().iter().map(|column| column.compression());
            ensure!(
                packed.into_iter().all(|with| matches!(with, Compression::ZSTD(_))),
                "{} is not packed with zstd",
                path.display()
            );
        }
        let mut last: Option<(String, i64)> = None;
        for batch in builder.build()? {
            let batch = batch?;
            let column = |name: &str| {
                batch.column_by_name(name).with_context(|| format!("there is no column {name}"))
            };
            rows += batch.num_rows() as u64;
            for name in POLLUTANTS {
                let is = column(name)?.data_type();
                ensure!(*is == DataType::Int16, "column {name} is {is}");
            }
            ozone += column("ozone")?
                .as_primitive::<Int16Type>()
                .values()
                .iter()
                .map(|v| i64::from(*v))
                .sum::<i64>();
            latitude +=
                column("latitude")?.as_primitive::<Float64Type>().values().iter().sum::<f64>();
            ensure!(
                matches!(column("timestamp")?.data_type(), DataType::Timestamp(_, _)),
                "column timestamp is {}",
                column("timestamp")?.data_type()
            );
            let moments = arrow::compute::cast(
                column("timestamp")?,
                &DataType::Timestamp(TimeUnit::Millisecond, None),
            )?;
            let moments = moments.as_primitive::<TimestampMillisecondType>();
            let devices = arrow::compute::cast(column("device_id")?, &DataType::Utf8)?;
            let devices = devices.as_string::<i32>();
            for row in 0..batch.num_rows() {
                let (device, moment) = (devices.value(row), moments.value(row));
                if let Some((last_device, last_moment)) = &last {
                    ensure!(
                        (last_device.as_str(), *last_moment) <= (device, moment),
                        "{} is not sorted",
                        path.display()
                    );
                }
                match &mut last {
                    Some((held, at)) if held == device => *at = moment,
                    other => *other = Some((device.to_owned(), moment)),
                }
            }
        }
    }
    ensure!(rows == readings.rows, "{rows} rows of {}", readings.rows);
    ensure!(ozone == readings.ozone, "ozone adds up to {ozone}, not {}", readings.ozone);
    let expected = readings.latitude_micros as f64 / 1e6;
    ensure!((latitude - expected).abs() < expected * 1e-9, "latitudes add up to {latitude}");
    Ok(Checked { files: files.len(), bytes })
}

fn figures_of(spent: &Spent, readings: &Readings, start: f64) -> Value {
    let megabytes = readings.bytes as f64 / 1e6;
    json!({
        "cpu_seconds": spent.cpu_seconds,
        "start_cpu_seconds": start,
        "mb_per_cpu_second": megabytes / spent.cpu_seconds.max(0.01),
        "mb_per_cpu_second_without_start": megabytes / (spent.cpu_seconds - start).max(0.01),
        "peak_rss_bytes": spent.peak_rss_bytes,
    })
}

fn table(figures: &Value) -> String {
    let mut tools = charts::Table::new([
        "tool",
        "CPU s",
        "of them start",
        "MB/CPU s",
        "peak MB",
        "out MB",
        "ours is",
    ]);
    for (tool, found) in figures["convert"].as_object().into_iter().flatten() {
        if let Some(why) = found["absent"].as_str() {
            let mut row = vec![tool.clone(), why.to_owned()];
            row.resize(7, String::new());
            tools.row(row);
            continue;
        }
        let number = |member: &str| found[member].as_f64().unwrap_or(f64::NAN);
        let ratio = figures["ratios"][&format!("convert_to_{tool}")].as_f64();
        tools.row([
            tool.clone(),
            format!("{:.2}", number("cpu_seconds")),
            format!("{:.2}", number("start_cpu_seconds")),
            format!("{:.0}", number("mb_per_cpu_second")),
            format!("{:.0}", number("peak_rss_bytes") / 1e6),
            format!("{:.1}", number("out_bytes") / 1e6),
            ratio.map_or(String::new(), |ratio| format!("{ratio:.2} x")),
        ]);
    }
    let mut queries = charts::Table::new(["query", "forebay CPU ms", "duckdb CPU ms", "ratio"]);
    for (name, found) in figures["queries"].as_object().into_iter().flatten() {
        let millis = |member: &str| {
            found[member].as_f64().map_or(String::new(), |s| format!("{:.1}", s * 1000.0))
        };
        let ratio = found["ratio"].as_f64().map_or(String::new(), |ratio| format!("{ratio:.2}"));
        queries.row([name.clone(), millis("forebay"), millis("duckdb"), ratio]);
    }
    format!("{}\n{}", tools.render(), queries.render())
}
