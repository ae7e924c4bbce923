//! Trains on a DeepAR JSON Lines set and prints accuracy and cost.
//!
//! `cargo run --release -p deepar --example measure -- DIR [--windows N] [--seed S]
//! [--threads N] [--isa avx512|avx2|portable] [name=value ...]`, where DIR holds
//! `train.jsonl.gz` and `test.jsonl.gz`; names are hyperparameters. The article's settings
//! are the default.

#![expect(clippy::print_stdout, reason = "a program whose output is its purpose")]

use std::collections::BTreeMap;
use std::io::BufReader;
use std::time::Instant;

use base::{Error, Result};
use deepar::{Hyperparameters, Isa, TrainOptions, train};
use forecast::{
    Dataset, EpochReport, Frequency, PredictOptions, Predictor, SeasonalNaive, TrainingObserver,
    backtest, jsonl,
};

const ARTICLE: [(&str, &str); 9] = [
    ("time_freq", "H"),
    ("context_length", "24"),
    ("prediction_length", "24"),
    ("epochs", "20"),
    ("num_layers", "3"),
    ("num_cells", "40"),
    ("likelihood", "gaussian"),
    ("dropout_rate", "0.05"),
    ("mini_batch_size", "32"),
];

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or_else(|| Error::invalid("name a directory"))?;
    let (mut windows, mut options) = (28, TrainOptions::default());
    let mut names: BTreeMap<String, String> =
        ARTICLE.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|text| text.parse::<u64>().ok()).unwrap_or(1);
        match arg.as_str() {
            "--windows" => windows = number() as usize,
            "--seed" => options.seed = number(),
            "--threads" => options.threads = number() as usize,
            "--isa" => {
                let name = args.next().unwrap_or_default();
                let found = Isa::available().into_iter().find(|isa| isa.to_string() == name);
                options.isa = found.ok_or_else(|| Error::invalid("no such instructions here"))?;
            }
            _ => {
                let (name, value) =
                    arg.split_once('=').ok_or_else(|| Error::invalid(format!("what is {arg}?")))?;
                names.insert(name.to_owned(), value.to_owned());
            }
        }
    }
    let hyper = Hyperparameters::parse(&names)?;
    let read = |name: &str| -> Result<Dataset> {
        let file = std::fs::File::open(format!("{dir}/{name}"))
            .map_err(|cause| Error::io(format!("opening {name}"), cause))?;
        jsonl::read(BufReader::new(flate2::read::GzDecoder::new(file)), hyper.time_freq)
    };
    let (data, test) = (read("train.jsonl.gz")?, read("test.jsonl.gz")?);

    let (wall, cpu) = (Instant::now(), cpu_secs());
    let model = train(&hyper, &data, &options, &mut Print)?;
    let (wall, cpu) = (wall.elapsed().as_secs_f64(), cpu_secs() - cpu);
    let seen = model.report().windows as f64;
    println!(
        "train: {seen} windows, {wall:.2} s wall, {cpu:.2} s CPU, {:.0} windows/s wall, {:.0} per CPU s, \
         final loss {:.7}, {} with {} threads",
        seen / wall,
        seen / cpu,
        model.report().final_loss,
        options.isa,
        options.threads
    );

    let asked = PredictOptions { seed: Some(1), ..PredictOptions::default() };
    let cpu = cpu_secs();
    let scores = backtest(&model, &test, windows, hyper.prediction_length, &asked)?;
    let cpu = cpu_secs() - cpu;
    println!(
        "forecasts: {} in {cpu:.2} CPU s, {:.0} per CPU s",
        scores.windows,
        scores.windows as f64 / cpu
    );
    let naive = SeasonalNaive::for_freq(Frequency::HOURLY, hyper.prediction_length)?;
    let naive = backtest(&naive, &test, windows, hyper.prediction_length, &asked)?;
    for (name, s) in [("deepar", &scores), ("naive ", &naive)] {
        println!(
            "{name} mwQL {:.4}  MASE {:.3}  sMAPE {:.3}  ND {:.4}  RMSE {:.2}  coverage 0.1/0.5/0.9 {:.2} {:.2} {:.2}",
            s.mean_w_quantile_loss,
            s.mase,
            s.smape,
            s.nd,
            s.rmse,
            s.coverage[0],
            s.coverage[4],
            s.coverage[8]
        );
    }
    one_series(&model, &test, &asked)
}

fn one_series(model: &deepar::Model, test: &Dataset, asked: &PredictOptions) -> Result<()> {
    let series = &test.series[..1];
    let mut times: Vec<f64> = (0..200)
        .map(|_| {
            let start = Instant::now();
            model.predict(series, asked).map(|_| start.elapsed().as_secs_f64() * 1e3)
        })
        .collect::<Result<_>>()?;
    times.sort_unstable_by(f64::total_cmp);
    println!(
        "one series, {} samples: p50 {:.2} ms, p99 {:.2} ms",
        asked.num_samples, times[100], times[198]
    );
    Ok(())
}

struct Print;

impl TrainingObserver for Print {
    fn epoch(&mut self, report: &EpochReport) {
        let every = (report.epochs / 10).max(1);
        if report.epoch.is_multiple_of(every) || report.epoch + 1 == report.epochs {
            let held = report
                .validation_loss
                .map(|loss| format!(", held back {loss:.4}"))
                .unwrap_or_default();
            println!("epoch {}: loss {:.4}{held}", report.epoch, report.loss);
        }
    }
}

/// User and system time of this process, from the kernel's own account (Linux).
fn cpu_secs() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: f64 = fields.skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / 100.0
}
