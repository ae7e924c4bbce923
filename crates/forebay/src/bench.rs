//! `forebay bench`: one part measured, one JSON object of figures.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base::usage;

use crate::args::Bench;
use crate::output::Printer;

mod delivery;
mod etl;
mod gluonts;
mod infer;
mod ingest;
mod lake;
mod series;
mod serve;
mod train;

/// Runs one bench.
pub(crate) async fn run(command: Bench, data_dir: Option<&Path>, printer: Printer) -> Result<()> {
    match command {
        Bench::Ingest(args) => ingest::run(&args, printer).await,
        Bench::Infer(args) => infer::run(&args, printer),
        Bench::Delivery(args) => delivery::run(&args, printer).await,
        Bench::Lake(args) => lake::run(&args, data_dir, printer).await,
        Bench::Etl(args) => etl::run(&args, printer).await,
        Bench::Train(args) => train::run(&args, printer),
        Bench::Serve(args) => serve::run(&args, printer).await,
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

/// What a process cost.
struct Spent {
    cpu_seconds: f64,
    wall_seconds: f64,
    peak_rss_bytes: u64,
    said: String,
}

/// Runs a process to its end and reads what it cost just before it is gone.
fn measure(command: &mut Command) -> Result<Spent> {
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .with_context(|| format!("starting {:?}", command.get_program()))?;
    let mut stdout = child.stdout.take().context("a process without an output")?;
    let said = std::thread::spawn(move || {
        let mut said = String::new();
        std::io::Read::read_to_string(&mut stdout, &mut said).map(|_| said)
    });
    // A worker ends when its input does.
    let input = child.stdin.take();
    let pid = child.id();
    let mut peak_rss_bytes = 0;
    while !usage::has_ended(pid) {
        peak_rss_bytes = usage::peak_rss_bytes_of(pid).max(peak_rss_bytes);
        std::thread::sleep(Duration::from_millis(2));
    }
    let wall_seconds = started.elapsed().as_secs_f64();
    let cpu_seconds = usage::cpu_seconds_of(pid).unwrap_or(0.0);
    let status = child.wait().context("waiting for a process")?;
    drop(input);
    let said = said.join().map_err(|_panic| anyhow::anyhow!("a reader panicked"))??;
    ensure!(status.success(), "{:?} ended with {status}", command.get_program());
    Ok(Spent { cpu_seconds, wall_seconds, peak_rss_bytes, said })
}
