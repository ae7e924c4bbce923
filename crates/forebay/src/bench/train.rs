//! `forebay bench train`: learning and forecasting at the article's settings, side by side with
//! GluonTS on the same series, without categories on either side.
//!
//! With `--json`, one object:
//!
//! * `data`, `seeds`, `windows_per_training`, `flops_per_window`: those of the matrix products, from
//!   the shape;
//! * `core`: `fma_gflops` (multiply-adds on registers: the limit), `gemm_gflops` (our products of
//!   the layers alone, batches of 32), both f32 and per CPU second of one core;
//!   `two_threads_fma`: how much more multiply-adds two threads do than one by the clock. Where that
//!   is far from 2, the machine has no second core to give;
//! * `training`: `forebay` and `gluonts`, or `absent` and why. Of either `windows_per_cpu_second`
//!   (ours over the whole of a training on one thread, the best round; GluonTS's over its median
//!   epoch, the best seed), `cpu_seconds` from a process's start to the saved model and
//!   `peak_rss_bytes` (each seed in a process of its own; the cheapest, and the most memory).
//!   `forebay_plus` is the improved recipe at its own number of windows, with categories. Ours
//!   has `two_threads` (`windows_per_cpu_second`, `speed_up` by the clock: the best round of each),
//!   `share_of_fma` and `share_of_gemm`;
//! * `accuracy`: by tool and seed, and of the seasonal naive, by our metrics: `mean_w_quantile_loss`,
//!   `mase`, `coverage_10`, `coverage_90`; and the means over the seeds;
//! * `inference`: as `bench infer`;
//! * `ratios`, and `bars`: each with its `value`, what it must be, and whether it is `met`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use base::usage;
use deepar::limit::{LayerSize, fma_loop, gemm_loop};
use deepar::{Hyperparameters, Isa, Model, TrainOptions};
use forecast::{
    Forecast, Frequency, PredictOptions, Scorer, Scores, SeasonalNaive, Silent, backtest,
};
use serde_json::{Map, Value, json};
use training::channel;

use super::gluonts::Peer;
use super::series::{HORIZON, Set};
use super::{Scratch, infer, measure};
use crate::args::{BenchRequests, BenchTrain};
use crate::control;
use crate::output::Printer;

/// What is trained.
#[derive(Clone, Copy)]
pub(super) struct Job {
    pub(super) epochs: u32,
    pub(super) batches: u32,
    pub(super) batch: u32,
    pub(super) layers: u32,
    pub(super) cells: u32,
    pub(super) context: usize,
    pub(super) dropout: f64,
    pub(super) rate: f64,
}

impl Job {
    /// The article's settings, with GluonTS's 50 batches an epoch.
    pub(super) const ARTICLE: Job = Job {
        epochs: 20,
        batches: 50,
        batch: 32,
        layers: 3,
        cells: 40,
        context: 24,
        dropout: 0.05,
        rate: 1e-3,
    };

    fn hyperparameters(self) -> BTreeMap<String, String> {
        [
            ("time_freq", "H".to_owned()),
            ("context_length", self.context.to_string()),
            ("prediction_length", HORIZON.to_string()),
            ("epochs", self.epochs.to_string()),
            ("windows_per_epoch", (self.batches * self.batch).to_string()),
            ("mini_batch_size", self.batch.to_string()),
            ("num_layers", self.layers.to_string()),
            ("num_cells", self.cells.to_string()),
            ("likelihood", "gaussian".to_owned()),
            ("dropout_rate", self.dropout.to_string()),
            ("learning_rate", self.rate.to_string()),
            ("cardinality", "ignore".to_owned()),
            ("num_dynamic_feat", "ignore".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into()
    }

    fn windows(self) -> u64 {
        u64::from(self.epochs * self.batches * self.batch)
    }

    /// One training in a process, as a user starts it.
    pub(super) fn train_in_child(self, set: &Set, seed: u64, model: &Path) -> Result<super::Spent> {
        in_child("deepar", &self.hyperparameters(), set, seed, model)
    }

    /// The same settings by the improved recipe, which decides itself how many windows it sees and
    /// uses categories.
    fn plus_in_child(self, set: &Set, seed: u64, model: &Path) -> Result<super::Spent> {
        let mut given = self.hyperparameters();
        given.retain(|name, _| name != "windows_per_epoch" && name != "cardinality");
        in_child("deepar-plus", &given, set, seed, model)
    }

    /// What GluonTS is told.
    pub(super) fn write_spec(
        self,
        set: &Set,
        folder: &Path,
        windows: usize,
        load: &BenchRequests,
    ) -> Result<PathBuf> {
        infer::write_requests(set, folder, load)?;
        let spec = json!({
            "train": set.train,
            "test": set.test,
            "freq": "h",
            "prediction_length": HORIZON,
            "context_length": self.context,
            "num_layers": self.layers,
            "num_cells": self.cells,
            "dropout_rate": self.dropout,
            "learning_rate": self.rate,
            "mini_batch_size": self.batch,
            "batches_per_epoch": self.batches,
            "epochs": self.epochs,
            "origins": set.origins(windows),
            "forecasts": folder.join("forecasts.f32"),
            "quantiles": PredictOptions::default().quantiles,
            "num_samples": load.num_samples,
            "one": folder.join("one.jsonl"),
            "many": folder.join("many.jsonl"),
            // It takes some fifty times as long.
            "requests": load.requests.div_ceil(10),
        });
        let path = folder.join("spec.json");
        std::fs::write(&path, spec.to_string()).context("writing the peer's task")?;
        Ok(path)
    }
}

fn in_child(
    algorithm: &str,
    given: &BTreeMap<String, String>,
    set: &Set,
    seed: u64,
    model: &Path,
) -> Result<super::Spent> {
    let mut command = Command::new(control::program()?);
    command.args(["train", "--json", "--threads", "1", "--seed", &seed.to_string()]);
    command.args(["--algorithm", algorithm]);
    command.arg("--train").arg(&set.train).arg("--model").arg(model).arg("--hyperparameters");
    command.args(given.iter().map(|(name, value)| format!("{name}={value}")));
    measure(&mut command)
}

pub(super) fn run(args: &BenchTrain, printer: Printer) -> Result<()> {
    let scratch = Scratch::new("train")?;
    let folder = scratch.path();
    let set = Set::open(&args.set, folder)?;
    let peer = Peer::find(&args.peer, folder, printer)?;
    let job = Job { epochs: args.epochs, ..Job::ARTICLE };
    let windows = usize::try_from(args.windows)?;
    let spec = job.write_spec(&set, folder, windows, &args.load)?;

    let speed = Speed::measure(job, &set, args.rounds, printer)?;
    let mut ours = speed.figures();
    let mut plus = json!({});
    let mut theirs = match &peer {
        Peer::Absent(why) => json!({"absent": why}),
        Peer::There { .. } => json!({}),
    };
    let mut accuracy = Accuracy::default();
    for seed in &args.seeds {
        printer.note(&format!("seed {seed}: forebay"));
        let path = folder.join("model.tar.gz");
        let spent = job.train_in_child(&set, *seed, &path)?;
        keep(&mut ours, spent.cpu_seconds, spent.peak_rss_bytes);
        let model = training::load(&path)?;
        let asked = options(&args.load);
        let scores = backtest(&*model, &set.tests, windows, HORIZON, &asked)?;
        accuracy.add("forebay", *seed, &scores);
        printer.note(&format!("seed {seed}: forebay, deepar-plus"));
        let path = folder.join("plus.tar.gz");
        let spent = job.plus_in_child(&set, *seed, &path)?;
        keep(&mut plus, spent.cpu_seconds, spent.peak_rss_bytes);
        let scores = backtest(&*training::load(&path)?, &set.tests, windows, HORIZON, &asked)?;
        accuracy.add("forebay_plus", *seed, &scores);
        if let Peer::There { .. } = peer {
            printer.note(&format!("seed {seed}: GluonTS"));
            let model = folder.join("gluonts");
            let (spent, said) = peer.ask("train", &spec, *seed, &model)?.context("it has gone")?;
            ensure!(said["windows"] == job.windows(), "GluonTS saw {} windows", said["windows"]);
            // Its process goes on for a moment once the model is saved.
            let cpu = said["cpu_seconds"].as_f64().unwrap_or(spent.cpu_seconds);
            keep(&mut theirs, cpu, spent.peak_rss_bytes);
            most(&mut theirs, "windows_per_cpu_second", &said["windows_per_cpu_second"]);
            theirs["import_cpu_seconds"] = said["import_cpu_seconds"].clone();
            theirs["versions"] = said["versions"].clone();
            peer.ask("score", &spec, *seed, &model)?;
            accuracy.add("gluonts", *seed, &score(&set, windows, &folder.join("forecasts.f32"))?);
        }
    }
    let naive = SeasonalNaive::for_freq(Frequency::HOURLY, HORIZON)?;
    let naive = backtest(&naive, &set.tests, windows, HORIZON, &options(&args.load))?;
    accuracy.add("seasonal_naive", 0, &naive);
    let inference = infer::side_by_side(&set, &peer, folder, &spec, &args.load, printer)?;

    let ratio = |a: &Value, b: &Value| a.as_f64().zip(b.as_f64()).map(|(a, b)| a / b);
    let ratios = json!({
        "windows_per_cpu_second":
            ratio(&ours["windows_per_cpu_second"], &theirs["windows_per_cpu_second"]),
        "cpu_seconds": ratio(&theirs["cpu_seconds"], &ours["cpu_seconds"]),
        "cpu_seconds_of_plus": ratio(&theirs["cpu_seconds"], &plus["cpu_seconds"]),
        "peak_rss_bytes": ratio(&theirs["peak_rss_bytes"], &ours["peak_rss_bytes"]),
    });
    let mut bars = Bars::default();
    bars.at_least("windows per CPU second to GluonTS's", &ratios["windows_per_cpu_second"], 5.0);
    bars.at_least("share of the core's f32 limit", &ours["share_of_fma"], 0.6);
    bars.at_least("two threads to one", &ours["two_threads"]["speed_up"], 1.8);
    bars.at_most("peak memory of training, bytes", &ours["peak_rss_bytes"], 150e6);
    infer::judge(&inference, &mut bars);
    let figures = json!({
        "data": set.name,
        "seeds": args.seeds,
        "windows_per_training": job.windows(),
        "flops_per_window": speed.flops,
        "core": speed.core(),
        "training": {"forebay": ours, "forebay_plus": plus, "gluonts": theirs},
        "accuracy": accuracy.into_json(),
        "inference": inference,
        "ratios": ratios,
        "bars": bars.into_json(),
    });
    printer.answer(&figures, || table(&figures));
    Ok(())
}

fn options(load: &BenchRequests) -> PredictOptions {
    PredictOptions { num_samples: load.num_samples, ..PredictOptions::default() }
}

/// The cheapest run, and the most memory of any.
fn keep(figures: &mut Value, cpu_seconds: f64, peak_rss_bytes: u64) {
    let before = figures["cpu_seconds"].as_f64().unwrap_or(f64::INFINITY);
    figures["cpu_seconds"] = json!(before.min(cpu_seconds));
    most(figures, "peak_rss_bytes", &json!(peak_rss_bytes));
}

fn most(figures: &mut Value, member: &str, value: &Value) {
    let before = figures[member].as_f64().unwrap_or(f64::NEG_INFINITY);
    if value.as_f64().is_some_and(|value| value > before) {
        figures[member] = value.clone();
    }
}

/// How fast this machine learns, and what its cores can do at the time.
struct Speed {
    flops: f64,
    isa: Isa,
    fma_gflops: f64,
    gemm_gflops: f64,
    fma_speed_up: f64,
    /// Windows a CPU second, and a second, the best round of one thread and of two.
    one: (f64, f64),
    two: (f64, f64),
}

impl Speed {
    fn measure(job: Job, set: &Set, rounds: u32, printer: Printer) -> Result<Speed> {
        let hyper = Hyperparameters::parse(&job.hyperparameters())?;
        let data = channel::read(&set.train, Frequency::HOURLY)?;
        let isa = Isa::detect();
        let mut speed = Speed {
            flops: 0.0,
            isa,
            fma_gflops: 0.0,
            gemm_gflops: 0.0,
            fma_speed_up: 0.0,
            one: (0.0, 0.0),
            two: (0.0, 0.0),
        };
        let mut fma_wall = (0.0f64, 0.0f64);
        for round in 0..rounds {
            printer.note(&format!(
                "round {}: the core, and training on one thread and two",
                round + 1
            ));
            let (cpu, wall) = rate(|| fma_loop(isa, FMA_ROUNDS));
            speed.fma_gflops = speed.fma_gflops.max(cpu / 1e9);
            fma_wall.0 = fma_wall.0.max(wall);
            let (_, wall) = rate(|| {
                std::thread::scope(|scope| {
                    let other = scope.spawn(|| fma_loop(isa, FMA_ROUNDS));
                    fma_loop(isa, FMA_ROUNDS) + other.join().unwrap_or(0.0)
                })
            });
            fma_wall.1 = fma_wall.1.max(wall);
            let (cpu, _) = rate(|| gemm(job, isa));
            speed.gemm_gflops = speed.gemm_gflops.max(cpu / 1e9);
            for (threads, best) in [(1, &mut speed.one), (2, &mut speed.two)] {
                let options = TrainOptions { seed: u64::from(round), threads, isa };
                let mut trained: Option<base::Result<Model>> = None;
                let (cpu, wall) = rate(|| {
                    let model = deepar::train(&hyper, &data, &options, &mut Silent);
                    let windows = model.as_ref().map_or(0, |model| model.report().windows);
                    trained = Some(model);
                    windows as f64
                });
                let model = trained.context("no training ran")??;
                speed.flops = model.training_flops_per_window();
                *best = (best.0.max(cpu), best.1.max(wall));
            }
        }
        speed.fma_speed_up = fma_wall.1 / fma_wall.0;
        Ok(speed)
    }

    fn core(&self) -> Value {
        json!({
            "instructions": self.isa.to_string(),
            "fma_gflops": self.fma_gflops,
            "gemm_gflops": self.gemm_gflops,
            "two_threads_fma": self.fma_speed_up,
        })
    }

    fn figures(&self) -> Value {
        let gflops = self.one.0 * self.flops / 1e9;
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "windows_per_cpu_second": self.one.0,
            "gflops": gflops,
            "share_of_fma": gflops / self.fma_gflops,
            "share_of_gemm": gflops / self.gemm_gflops,
            "two_threads": {
                "windows_per_cpu_second": self.two.0,
                "speed_up": self.two.1 / self.one.1,
            },
        })
    }
}

/// Half a second or so.
const FMA_ROUNDS: u64 = 50_000_000;

/// The products of all layers.
fn gemm(job: Job, isa: Isa) -> f64 {
    let steps = job.context - 1 + HORIZON;
    let cells = job.cells as usize;
    // An hour has 40 lags, its age and four of the calendar.
    let layers = std::iter::once(45).chain(std::iter::repeat_n(cells, job.layers as usize - 1));
    layers.map(|inputs| gemm_loop(isa, LayerSize { lanes: 32, cells, inputs, steps }, 500)).sum()
}

/// What `work` returns, for each CPU second of this process and for each second.
fn rate(work: impl FnOnce() -> f64) -> (f64, f64) {
    let (cpu, started) = (usage::cpu_seconds(), Instant::now());
    let done = work();
    let wall = started.elapsed().as_secs_f64();
    (done / (usage::cpu_seconds() - cpu).max(0.01), done / wall)
}

/// Scores forecasts that another program wrote: for each origin of the set the mean, then each
/// level of the default options, [`HORIZON`] values each.
fn score(set: &Set, windows: usize, path: &Path) -> Result<Scores> {
    let levels = PredictOptions::default().quantiles;
    let origins = set.origins(windows);
    let bytes = std::fs::read(path).context("reading the peer's forecasts")?;
    let rows: Vec<Vec<f32>> = bytes
        .chunks(HORIZON * 4)
        .map(|row| row.as_chunks::<4>().0.iter().map(|z| f32::from_le_bytes(*z)).collect())
        .collect();
    let of_each = 1 + levels.len();
    ensure!(
        rows.len() == origins.len() * of_each && rows.iter().all(|row| row.len() == HORIZON),
        "GluonTS wrote {} bytes of forecasts for {} origins",
        bytes.len(),
        origins.len()
    );
    let freq = set.tests.freq;
    let mut scorer = Scorer::new(&levels, freq.season())?;
    for ((at, origin), rows) in origins.into_iter().zip(rows.chunks(of_each)) {
        let series = &set.tests.series[at];
        let forecast = Forecast {
            item_id: None,
            start: freq.advance(series.start, origin as i64),
            freq,
            mean: rows[0].clone(),
            quantiles: levels.iter().copied().zip(rows[1..].iter().cloned()).collect(),
            samples: None,
            parameters: None,
        };
        let truth = &series.target[origin..origin + HORIZON];
        scorer.add(&series.target[..origin], truth, &forecast)?;
    }
    Ok(scorer.finish())
}

/// Scores by tool and seed.
#[derive(Default)]
struct Accuracy(BTreeMap<&'static str, Vec<Value>>);

const MEASURES: [&str; 4] = ["mean_w_quantile_loss", "mase", "coverage_10", "coverage_90"];

impl Accuracy {
    fn add(&mut self, tool: &'static str, seed: u64, scores: &Scores) {
        let coverage = |level: f64| {
            let at = scores.quantiles.iter().position(|q| (q - level).abs() < 1e-9);
            at.map(|at| scores.coverage[at])
        };
        self.0.entry(tool).or_default().push(json!({
            "seed": seed,
            "mean_w_quantile_loss": scores.mean_w_quantile_loss,
            "mase": scores.mase,
            "coverage_10": coverage(0.1),
            "coverage_90": coverage(0.9),
        }));
    }

    fn into_json(self) -> Value {
        let mut by_tool = Map::new();
        for (tool, seeds) in self.0 {
            let mean = |measure: &str| {
                let values = seeds.iter().filter_map(|scores| scores[measure].as_f64());
                values.sum::<f64>() / seeds.len() as f64
            };
            let means: Map<String, Value> =
                MEASURES.iter().map(|name| ((*name).to_owned(), json!(mean(name)))).collect();
            by_tool.insert(tool.to_owned(), json!({"mean": means, "seeds": seeds}));
        }
        Value::Object(by_tool)
    }
}

/// Promises beside what was found.
#[derive(Default)]
pub(super) struct Bars(Vec<Value>);

impl Bars {
    pub(super) fn at_least(&mut self, name: &str, value: &Value, bar: f64) {
        let met = value.as_f64().map(|found| found >= bar);
        self.0.push(json!({"name": name, "value": value, "at_least": bar, "met": met}));
    }

    pub(super) fn at_most(&mut self, name: &str, value: &Value, bar: f64) {
        let met = value.as_f64().map(|found| found <= bar);
        self.0.push(json!({"name": name, "value": value, "at_most": bar, "met": met}));
    }

    pub(super) fn into_json(self) -> Value {
        Value::Array(self.0)
    }

    /// For people, of what [`Bars::into_json`] gave.
    pub(super) fn table(bars: &Value) -> String {
        let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
        let mut table = charts::Table::new(["bar", "found", "must be", ""]);
        for bar in bars.as_array().into_iter().flatten() {
            let must = match bar["at_least"].as_f64() {
                Some(least) => format!("at least {least}"),
                None => format!("at most {}", number(&bar["at_most"])),
            };
            let met = match bar["met"].as_bool() {
                Some(true) => "met",
                Some(false) => "MISSED",
                None => "not measured",
            };
            let name = bar["name"].as_str().unwrap_or_default();
            table.row([name, &format!("{:.4}", number(&bar["value"])), &must, met]);
        }
        table.render()
    }
}

fn table(figures: &Value) -> String {
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    let header = ["training", "windows/CPU s", "CPU s to saved model", "peak MB", "mwQL", "MASE"];
    let mut tools = charts::Table::new(header);
    for tool in ["forebay", "forebay_plus", "gluonts"] {
        let found = &figures["training"][tool];
        if let Some(why) = found["absent"].as_str() {
            tools.row([tool, why, "", "", "", ""]);
            continue;
        }
        let scores = &figures["accuracy"][tool]["mean"];
        tools.row([
            tool.to_owned(),
            format!("{:.0}", number(&found["windows_per_cpu_second"])),
            format!("{:.2}", number(&found["cpu_seconds"])),
            format!("{:.0}", number(&found["peak_rss_bytes"]) / 1e6),
            format!("{:.4}", number(&scores["mean_w_quantile_loss"])),
            format!("{:.3}", number(&scores["mase"])),
        ]);
    }
    let core = &figures["core"];
    let limit = format!(
        "one core: {:.0} GFLOP/s of multiply-adds (the limit), {:.0} in our products alone, {:.0} in training; \
         two cores do {:.2} times the multiply-adds of one",
        number(&core["fma_gflops"]),
        number(&core["gemm_gflops"]),
        number(&figures["training"]["forebay"]["gflops"]),
        number(&core["two_threads_fma"]),
    );
    let inference = infer::table(&figures["inference"]);
    let bars = Bars::table(&figures["bars"]);
    format!("{}\n{inference}\n{limit}\n\n{bars}", tools.render())
}
