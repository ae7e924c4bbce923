//! The improved recipe taken apart: trains each variant on each data set with each seed and
//! prints one row of means a variant, in Markdown.
//!
//! `cargo run --release -p deepar --example ablations -- [--seeds N] [--only WORD] [name=value ...]
//! DIR[:STEPS:WINDOWS] ...`
//!
//! A DIR holds `train.jsonl.gz` and `test.jsonl.gz`, hourly; STEPS are forecast from each of
//! WINDOWS origins at the end of the test series (24 and 28 if not given). Settings are the
//! article's but for what is given and what the variant says.

#![expect(clippy::print_stdout, reason = "a program whose output is its purpose")]

use std::collections::BTreeMap;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use base::{Error, Result, usage};
use deepar::{Hyperparameters, TrainOptions, train};
use forecast::{Dataset, Frequency, PredictOptions, SeasonalNaive, Silent, backtest, jsonl};

const ARTICLE: [(&str, &str); 8] = [
    ("time_freq", "H"),
    ("context_length", "24"),
    ("epochs", "20"),
    ("num_layers", "3"),
    ("num_cells", "40"),
    ("likelihood", "gaussian"),
    ("dropout_rate", "0.05"),
    ("mini_batch_size", "32"),
];

/// A name and what differs from the settings that all have.
type Variant = (&'static str, &'static [(&'static str, &'static str)]);

const PLUS: (&str, &str) = ("recipe", "deepar-plus");

const VARIANTS: &[Variant] = &[
    ("`deepar`", &[]),
    ("`deepar`, centred", &[("scaling", "standard")]),
    ("`deepar`, centred over a week", &[("scaling", "standard"), ("scaling_length", "168")]),
    ("`deepar`, skip", &[("autoregressive_skip", "true")]),
    ("`deepar`, four members", &[("ensemble_size", "4")]),
    ("`deepar`, calibrated", &[("calibrate", "true")]),
    ("`deepar-plus`", &[PLUS]),
    ("`deepar-plus`, mean scaling", &[PLUS, ("scaling", "mean")]),
    ("`deepar-plus`, centred over the context", &[PLUS, ("scaling_length", "24")]),
    ("`deepar-plus`, no skip", &[PLUS, ("autoregressive_skip", "false")]),
    ("`deepar-plus`, one member", &[PLUS, ("ensemble_size", "1")]),
    ("`deepar-plus`, not calibrated", &[PLUS, ("calibrate", "false")]),
    ("`deepar-plus`, student-T", &[PLUS, ("likelihood", "student-T")]),
];

struct Set {
    train: Dataset,
    test: Dataset,
    steps: usize,
    windows: usize,
}

/// Sums over seeds.
#[derive(Default)]
struct Cell {
    count: f64,
    loss: f64,
    mase: f64,
    inside: f64,
    cpu: f64,
}

fn main() -> Result<()> {
    let (mut seeds, mut only, mut dirs, mut more) = (3, String::new(), Vec::new(), Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--seeds" => seeds = args.next().and_then(|text| text.parse().ok()).unwrap_or(3),
            "--only" => only = args.next().unwrap_or_default(),
            _ => match arg.split_once('=') {
                Some((name, value)) => more.push((name.to_owned(), value.to_owned())),
                None => dirs.push(arg),
            },
        }
    }
    if dirs.is_empty() {
        return Err(Error::invalid("name at least one folder with train.jsonl.gz"));
    }
    let sets = dirs.iter().map(|dir| read(dir)).collect::<Result<Vec<_>>>()?;
    let heads = sets.iter().map(|(name, _)| format!(" {name} mwQL | MASE | in 80 % | CPU s |"));
    println!("| variant |{}", heads.collect::<String>());
    println!("| --- |{}", " --- | --- | --- | --- |".repeat(sets.len()));
    for (name, settings) in VARIANTS.iter().filter(|(name, _)| name.contains(&only)) {
        let mut row = format!("| {name} |");
        for (_, set) in &sets {
            let mut cell = Cell::default();
            for seed in 0..seeds {
                measure(set, &more, settings, seed, &mut cell)?;
            }
            row += &cell.show();
        }
        println!("{row}");
    }
    let mut row = "| seasonal naive |".to_owned();
    for (_, set) in &sets {
        let naive = SeasonalNaive::for_freq(Frequency::HOURLY, set.steps)?;
        let mut cell = Cell::default();
        cell.add(&backtest(&naive, &set.test, set.windows, set.steps, &asked())?, 0.0);
        row += &cell.show();
    }
    println!("{row}");
    Ok(())
}

fn read(arg: &str) -> Result<(String, Set)> {
    let mut parts = arg.split(':');
    let dir = PathBuf::from(parts.next().unwrap_or_default());
    let mut number = |default| parts.next().and_then(|text| text.parse().ok()).unwrap_or(default);
    let (steps, windows) = (number(24), number(28));
    let set = Set {
        train: load(&dir.join("train.jsonl.gz"))?,
        test: load(&dir.join("test.jsonl.gz"))?,
        steps,
        windows,
    };
    Ok((dir.file_name().unwrap_or_default().to_string_lossy().into_owned(), set))
}

fn load(path: &Path) -> Result<Dataset> {
    let file = std::fs::File::open(path)
        .map_err(|cause| Error::io(format!("opening {}", path.display()), cause))?;
    jsonl::read(BufReader::new(flate2::read::GzDecoder::new(file)), Frequency::HOURLY)
}

fn asked() -> PredictOptions {
    PredictOptions { seed: Some(1), ..PredictOptions::default() }
}

fn measure(
    set: &Set,
    more: &[(String, String)],
    settings: &[(&str, &str)],
    seed: u64,
    cell: &mut Cell,
) -> Result<()> {
    let steps = set.steps.to_string();
    let mut given: BTreeMap<&str, &str> = ARTICLE.into();
    given.insert("prediction_length", &steps);
    given.extend(more.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    given.extend(settings.iter().copied());
    let hyper = Hyperparameters::parse(given)?;
    let options = TrainOptions { seed, ..TrainOptions::default() };
    let before = usage::cpu_seconds();
    let model = train(&hyper, &set.train, &options, &mut Silent)?;
    let cpu = usage::cpu_seconds() - before;
    cell.add(&backtest(&model, &set.test, set.windows, set.steps, &asked())?, cpu);
    Ok(())
}

impl Cell {
    fn add(&mut self, scores: &forecast::Scores, cpu: f64) {
        self.count += 1.0;
        self.loss += scores.mean_w_quantile_loss;
        self.mase += scores.mase;
        self.inside += scores.coverage[8] - scores.coverage[0];
        self.cpu += cpu;
    }

    fn show(&self) -> String {
        let [loss, mase, inside, cpu] =
            [self.loss, self.mase, self.inside, self.cpu].map(|sum| sum / self.count);
        format!(" {loss:.4} | {mase:.3} | {inside:.3} | {cpu:.1} |")
    }
}
