//! `forebay bench`: one part measured, one JSON object of figures.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use base::{Error, usage};
use serde_json::json;

use crate::args::{Bench, BenchInfer};
use crate::exit::Exit;
use crate::models;
use crate::output::Printer;

mod delivery;
mod etl;
mod ingest;
mod lake;

/// Runs one bench.
pub(crate) async fn run(command: Bench, data_dir: Option<&Path>, printer: Printer) -> Result<()> {
    match command {
        Bench::Ingest(args) => ingest::run(&args, printer).await,
        Bench::Infer(args) => infer(&args, printer),
        Bench::Delivery(args) => delivery::run(&args, printer).await,
        Bench::Lake(args) => lake::run(&args, data_dir, printer).await,
        Bench::Etl(args) => etl::run(&args, printer).await,
        Bench::Train => not_yet("bench train"),
    }
}

/// A folder that goes with the bench.
struct Scratch(PathBuf);

impl Scratch {
    fn new(bench: &str) -> Result<Scratch> {
        let name = format!("forebay-bench-{bench}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Scratch(folder))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn not_yet(what: &str) -> Result<()> {
    Err(Error::unsupported(format!("not supported yet: {what}")).into())
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
