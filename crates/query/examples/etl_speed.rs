//! How fast a job turns JSON into Parquet: `cargo run --release -p query --example etl_speed`.
//!
//! Prints one JSON object a line. An argument sets the megabytes generated.

#![expect(clippy::print_stdout, reason = "a program that prints its figures")]

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use base::usage::{cpu_seconds, peak_rss_bytes};
use base::{Error, Result, SystemClock};
use bytes::Bytes;
use lake::{Crawler, Job, Lake, Node, QueryEngine, SqlOptions, TargetCompression};
use metastore::Metastore;
use objects::Buckets;
use query::{Engine, EngineOptions};

/// Readings of an air-quality station from `first` on, about `bytes` of them.
fn generate(first: u64, bytes: usize) -> Result<(String, u64)> {
    let mut text = String::with_capacity(bytes + 1024);
    let mut seed: u64 = 42 + first;
    let mut next = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 33
    };
    let mut row = first;
    while text.len() < bytes {
        writeln!(
            text,
            "{{\"device_id\":\"sensor-{:04}\",\"ozone\":{},\"particullate_matter\":{},\
             \"carbon_monoxide\":{},\"sulfure_dioxide\":{},\"nitrogen_dioxide\":{},\
             \"longitude\":10.{:05},\"latitude\":56.{:06},\
             \"timestamp\":\"2014-08-01T{:02}:{:02}:{:02}\"}}",
            next() % 500,
            next() % 215,
            next() % 215,
            next() % 215,
            next() % 215,
            next() % 215,
            next() % 100_000,
            next() % 1_000_000,
            row / 3600 % 24,
            row / 60 % 60,
            row % 60,
        )
        .map_err(|cause| Error::internal(cause.to_string()))?;
        row += 1;
    }
    Ok((text, row))
}

fn job(name: &str, last: &str, middle: Vec<Node>, compression: TargetCompression) -> Job {
    let mut nodes = vec![Node::Source {
        id: "source".into(),
        database: "air".into(),
        table: "readings".into(),
        lineage: false,
    }];
    nodes.extend(middle);
    nodes.push(Node::Target {
        id: "target".into(),
        input: last.into(),
        bucket: "bkt".into(),
        prefix: format!("{name}/"),
        format: lake::TargetFormat::Parquet,
        compression,
        partition_keys: Vec::new(),
        database: "air".into(),
        table: name.into(),
    });
    Job { name: name.into(), nodes, bookmark: true, error_prefix: None, max_retries: 0 }
}

fn report(what: &str, bytes: usize, started: f64, rows: u64, out: u64) {
    let seconds = cpu_seconds() - started;
    println!(
        "{{\"what\":\"{what}\",\"rows\":{rows},\"mb_in\":{:.0},\"mb_out\":{:.1},\
         \"cpu_seconds\":{seconds:.2},\"mb_per_cpu_second\":{:.0},\"peak_rss_mb\":{:.0}}}",
        bytes as f64 / 1e6,
        out as f64 / 1e6,
        bytes as f64 / 1e6 / seconds,
        peak_rss_bytes() as f64 / 1e6,
    );
}

async fn fill(lake: &Lake, megabytes: usize) -> Result<usize> {
    let (mut bytes, mut row) = (0, 0);
    for file in 0..megabytes.div_ceil(25) {
        let (text, next) = generate(row, 25_000_000)?;
        row = next;
        bytes += text.len();
        let key = format!("raw/readings/part-{file:04}");
        lake.buckets().put("bkt", &key, Bytes::from(text)).await?;
    }
    Ok(bytes)
}

async fn measure(folder: &Path, megabytes: usize) -> Result<()> {
    let buckets = Buckets::open(&folder.join("lake"))?;
    buckets.create_bucket("bkt")?;
    let clock = Arc::new(SystemClock);
    let lake = Lake::open(Metastore::in_memory()?, buckets, &folder.join("jobs"), clock)?;
    lake.catalog().create_database("air", "")?;
    let bytes = fill(&lake, megabytes).await?;
    let started = cpu_seconds();
    lake.create_crawler(&Crawler::new("c", ("bkt", "raw/readings"), "air"))?;
    lake.run_crawler("c").await?;
    report("crawl", bytes, started, 0, 0);

    let engine = Engine::new(lake.clone(), EngineOptions::new(folder.join("spill")))?;
    let started = cpu_seconds();
    let sql =
        "SELECT device_id, count(*), avg(ozone), max(latitude) FROM readings GROUP BY device_id";
    let options = SqlOptions::in_database("air");
    let answer = engine.sql(sql, &options).await?;
    let rows: usize = answer.batches.iter().map(|batch| batch.num_rows()).sum();
    report("sql over json", bytes, started, rows as u64, 0);

    let sort = Node::Sql {
        id: "sort".into(),
        inputs: [("t".to_owned(), "source".to_owned())].into(),
        query: "SELECT * FROM t ORDER BY device_id, timestamp".into(),
    };
    for (name, last, middle, compression) in [
        ("zstd", "source", vec![], TargetCompression::Zstd),
        ("snappy", "source", vec![], TargetCompression::Snappy),
        ("sorted", "sort", vec![sort], TargetCompression::Zstd),
    ] {
        lake.create_job(&job(name, last, middle, compression))?;
        let planned = lake.start_run(name, &lake::RunOptions::default()).await?;
        let spec = planned.spec.ok_or_else(|| Error::internal("nothing to read"))?;
        let started = cpu_seconds();
        let result = query::run_etl(&spec).await?;
        let out = result.files.iter().map(|file| file.bytes).sum();
        report(&format!("json to parquet, {name}"), bytes, started, result.rows_out, out);
        lake.finish_run(name, &spec.run_id, &result).await?;
    }
    let started = cpu_seconds();
    engine.sql(&sql.replace("readings", "zstd"), &options).await?;
    report("sql over parquet", bytes, started, rows as u64, 0);
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let megabytes: usize = std::env::args().nth(1).and_then(|arg| arg.parse().ok()).unwrap_or(250);
    let folder = tempfile::tempdir().map_err(|cause| Error::io("making a folder", cause))?;
    measure(folder.path(), megabytes).await
}
