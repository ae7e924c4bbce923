//! `forebay bench infer`: what a forecast costs, side by side with GluonTS.
//!
//! With `--json`, one object: `data`, and by tool, `forebay` and `gluonts` (or `absent` and why),
//!
//! * `cold_wall_ms`, `cold_cpu_ms`: a process that starts, loads a saved model, forecasts one
//!   series and ends: ours the median of ten, GluonTS once;
//! * `one`: `p50_ms` and more of forecasting one series at a time;
//! * `series_per_cpu_second`, over `series` of them forecast in bulk;
//!
//! then `ratios` and `bars`. All on one thread.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result};
use base::usage;
use forecast::{PredictOptions, Predictor};
use serde_json::{Value, json};

use super::gluonts::Peer;
use super::series::{Set, write};
use super::train::{Bars, Job};
use super::{Scratch, measure};
use crate::args::{BenchInfer, BenchRequests};
use crate::output::Printer;
use crate::{control, models};

/// Series handed over in one call in bulk: what fits a cache, and more than a block.
const BULK_CALL: usize = 256;

pub(super) fn run(args: &BenchInfer, printer: Printer) -> Result<()> {
    if let (Some(model), Some(input)) = (&args.model, &args.input) {
        let (model, dataset) = models::load(model, input)?;
        let figures = one(&*model, &dataset, &args.load)?;
        printer.answer(&figures, || figures.to_string());
        return Ok(());
    }
    let scratch = Scratch::new("infer")?;
    let set = Set::open(&args.set, scratch.path())?;
    let peer = Peer::find(&args.peer, scratch.path(), printer)?;
    // How long it learnt makes no difference to what a forecast costs.
    let job = Job { epochs: 1, ..Job::ARTICLE };
    printer.note("training a model of each");
    let model = scratch.path().join("model.tar.gz");
    job.train_in_child(&set, 1, &model)?;
    let spec = job.write_spec(&set, scratch.path(), 1, &args.load)?;
    peer.ask("train", &spec, 1, &scratch.path().join("gluonts"))?;
    let mut bars = Bars::default();
    let mut figures = side_by_side(&set, &peer, scratch.path(), &spec, &args.load, printer)?;
    judge(&figures, &mut bars);
    figures["data"] = json!(set.name);
    figures["bars"] = bars.into_json();
    printer.answer(&figures, || table(&figures));
    Ok(())
}

/// Our figures and the peer's on the models `model.tar.gz` and `gluonts` in `folder`.
pub(super) fn side_by_side(
    set: &Set,
    peer: &Peer,
    folder: &Path,
    spec: &Path,
    load: &BenchRequests,
    printer: Printer,
) -> Result<Value> {
    printer.note("forecasting");
    let (alone, many) = set.requests(load.bulk as usize);
    let path = folder.join("model.tar.gz");
    let model = training::load(&path)?;
    let mut ours = json!({"one": one(&*model, &alone, load)?});
    let options = PredictOptions { num_samples: load.num_samples, ..PredictOptions::default() };
    let before = usage::cpu_seconds();
    for call in many.series.chunks(BULK_CALL) {
        model.predict(call, &options)?;
    }
    let took = usage::cpu_seconds() - before;
    ours["series"] = json!(many.series.len());
    ours["series_per_cpu_second"] = json!(many.series.len() as f64 / took.max(0.01));
    let (wall, cpu) = cold(&path, &folder.join("one.jsonl"), load)?;
    (ours["cold_wall_ms"], ours["cold_cpu_ms"]) = (json!(wall), json!(cpu));

    let theirs = match peer {
        Peer::Absent(why) => json!({"absent": why}),
        Peer::There { .. } => {
            printer.note("forecasting with GluonTS");
            let model = folder.join("gluonts");
            let (_, mut said) = peer.ask("infer", spec, 1, &model)?.context("it has gone")?;
            let (spent, _) = peer.ask("cold", spec, 1, &model)?.context("it has gone")?;
            let one = json!({"p50_ms": said["p50_ms"].take(), "min_ms": said["min_ms"].take()});
            json!({
                "one": one,
                "series": said["series"],
                "series_per_cpu_second": said["series_per_cpu_second"],
                "peak_rss_bytes": said["peak_rss_bytes"],
                "cold_wall_ms": spent.wall_seconds * 1e3,
                "cold_cpu_ms": spent.cpu_seconds * 1e3,
            })
        }
    };
    let ratio = |a: &Value, b: &Value| a.as_f64().zip(b.as_f64()).map(|(a, b)| a / b);
    let ratios = json!({
        "one_p50": ratio(&theirs["one"]["p50_ms"], &ours["one"]["p50_ms"]),
        "series_per_cpu_second":
            ratio(&ours["series_per_cpu_second"], &theirs["series_per_cpu_second"]),
        "cold_wall": ratio(&theirs["cold_wall_ms"], &ours["cold_wall_ms"]),
        "cold_cpu": ratio(&theirs["cold_cpu_ms"], &ours["cold_cpu_ms"]),
    });
    Ok(json!({"forebay": ours, "gluonts": theirs, "ratios": ratios}))
}

/// What is promised of inference.
pub(super) fn judge(figures: &Value, bars: &mut Bars) {
    let ours = &figures["forebay"];
    bars.at_most("process start to first forecast, ms", &ours["cold_wall_ms"], 50.0);
    bars.at_most("one series, p50 ms", &ours["one"]["p50_ms"], 2.5);
    bars.at_least("bulk series per CPU second", &ours["series_per_cpu_second"], 450.0);
}

/// One series at a time, in the order of the data set.
fn one(model: &dyn Predictor, dataset: &forecast::Dataset, load: &BenchRequests) -> Result<Value> {
    let options = PredictOptions { num_samples: load.num_samples, ..PredictOptions::default() };
    let mut millis = Vec::with_capacity(load.requests as usize);
    let cpu = usage::cpu_seconds();
    for request in 0..load.requests as usize {
        let series = &dataset.series[request % dataset.series.len()];
        let started = Instant::now();
        model.predict(std::slice::from_ref(series), &options)?;
        millis.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let cpu = usage::cpu_seconds() - cpu;
    millis.sort_by(f64::total_cmp);
    let at = |share: f64| millis.get(((millis.len() - 1) as f64 * share) as usize).copied();
    Ok(json!({
        "requests": load.requests,
        "num_samples": load.num_samples,
        "p50_ms": at(0.5),
        "p99_ms": at(0.99),
        "min_ms": at(0.0),
        "series_per_cpu_second": f64::from(load.requests) / cpu.max(0.01),
    }))
}

/// Milliseconds, of a clock and of the processor, from a process's start to its end with one
/// forecast: the median of ten.
fn cold(model: &Path, input: &Path, load: &BenchRequests) -> Result<(f64, f64)> {
    let mut runs = Vec::new();
    for _ in 0..10 {
        let mut command = Command::new(control::program()?);
        command.args(["forecast", "--json", "--model"]).arg(model).arg("--input").arg(input);
        command.args(["--num-samples", &load.num_samples.to_string()]);
        let spent = measure(&mut command)?;
        runs.push((spent.wall_seconds * 1e3, spent.cpu_seconds * 1e3));
    }
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (wall, cpu) = runs.into_iter().unzip();
    Ok((median(wall), median(cpu)))
}

/// The files of [`Set::requests`] that processes read.
pub(super) fn write_requests(set: &Set, folder: &Path, load: &BenchRequests) -> Result<()> {
    let (one, mut many) = set.requests(load.bulk as usize);
    many.series.truncate(load.bulk as usize / 10);
    write(&folder.join("one.jsonl"), &one)?;
    write(&folder.join("many.jsonl"), &many)
}

/// For people.
pub(super) fn table(figures: &Value) -> String {
    let header = ["inference", "cold start ms", "one series p50 ms", "bulk series/CPU s"];
    let mut tools = charts::Table::new(header);
    for tool in ["forebay", "gluonts"] {
        let found = &figures[tool];
        if let Some(why) = found["absent"].as_str() {
            tools.row([tool, why, "", ""]);
            continue;
        }
        let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
        tools.row([
            tool.to_owned(),
            format!("{:.1}", number(&found["cold_wall_ms"])),
            format!("{:.2}", number(&found["one"]["p50_ms"])),
            format!("{:.0}", number(&found["series_per_cpu_second"])),
        ]);
    }
    tools.render()
}
