//! How fast JSON is read and Parquet written: `cargo run --release --example scan_speed`.
//!
//! Prints one JSON object a line. An argument sets the megabytes generated.

#![expect(clippy::print_stdout, reason = "a program that prints its figures")]

use std::fmt::Write;

use base::usage::{cpu_seconds, peak_rss_bytes};
use base::{Error, Result};
use formats::json::{InferOptions, Scan, ScanOptions, infer};
use formats::parquet::{Codec, Rolling, WriterOptions};

/// Readings of an air-quality station; `odd` of a hundred lack a key or add one.
fn generate(bytes: usize, odd: u64) -> Result<String> {
    let mut text = String::with_capacity(bytes + 1024);
    let mut seed: u64 = 42;
    let mut next = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        seed >> 33
    };
    let mut row = 0u64;
    while text.len() < bytes {
        let (minute, second) = (row / 60 % 60, row % 60);
        let extra = match next() % 100 {
            draw if draw >= odd => "",
            draw if draw % 2 == 0 => "\"battery\":3.7,",
            _ => "\"note\":\"r\\u00e9sum\\u00e9\",",
        };
        writeln!(
            text,
            "{{\"device_id\":\"sensor-{:04}\",{extra}\"ozone\":{},\"particullate_matter\":{},\
             \"carbon_monoxide\":{},\"sulfure_dioxide\":{},\"nitrogen_dioxide\":{},\
             \"longitude\":10.{:05},\"latitude\":56.{:06},\
             \"timestamp\":\"2014-08-01T{:02}:{minute:02}:{second:02}\"}}",
            next() % 500,
            next() % 215,
            next() % 215,
            next() % 215,
            next() % 215,
            next() % 215,
            next() % 100_000,
            next() % 1_000_000,
            row / 3600 % 24,
        )
        .map_err(|cause| Error::internal(cause.to_string()))?;
        row += 1;
    }
    Ok(text)
}

fn report(what: &str, bytes: usize, started: f64, rows: u64) {
    let seconds = cpu_seconds() - started;
    println!(
        "{{\"what\":\"{what}\",\"rows\":{rows},\"mb\":{:.0},\"cpu_seconds\":{seconds:.2},\
         \"mb_per_cpu_second\":{:.0},\"peak_rss_mb\":{:.0}}}",
        bytes as f64 / 1e6,
        bytes as f64 / 1e6 / seconds,
        peak_rss_bytes() as f64 / 1e6,
    );
}

fn main() -> Result<()> {
    let megabytes: usize = std::env::args().nth(1).and_then(|arg| arg.parse().ok()).unwrap_or(250);
    for (name, odd) in [("one shape", 0), ("a third of three shapes", 33)] {
        let text = generate(megabytes * 1_000_000, odd)?;
        let started = cpu_seconds();
        let inferred = infer(text.as_bytes(), &InferOptions::default())?;
        report(&format!("infer, {name}"), text.len(), started, inferred.records);

        let started = cpu_seconds();
        let mut scan = Scan::new(&inferred.schema, None, text.as_bytes(), ScanOptions::default())?;
        while scan.next_batch(&mut |_| {})?.is_some() {}
        report(&format!("scan, {name}"), text.len(), started, scan.good());

        for codec in [Codec::Zstd, Codec::Snappy] {
            let dir = tempfile::tempdir().map_err(|cause| Error::io("making a folder", cause))?;
            let started = cpu_seconds();
            let mut scan =
                Scan::new(&inferred.schema, None, text.as_bytes(), ScanOptions::default())?;
            let options = WriterOptions { codec, ..WriterOptions::default() };
            let mut writer = Rolling::new(dir.path(), "part", scan.schema(), options, 128 << 20);
            while let Some(batch) = scan.next_batch(&mut |_| {})? {
                writer.write(&batch)?;
            }
            let bytes: u64 = writer.close()?.iter().map(|file| file.bytes).sum();
            let what = format!("scan and write {codec:?} ({:.1} MB), {name}", bytes as f64 / 1e6);
            report(&what, text.len(), started, scan.good());
        }
    }
    Ok(())
}
