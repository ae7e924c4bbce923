//! The baseline on public data, against figures made with GluonTS's own evaluator on the
//! same files and windows. Skipped, with a line saying so, where the files are absent.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test's helpers are tests")]

mod evaluator;

use std::io::BufReader;
use std::path::{Path, PathBuf};

use forecast::{Dataset, Ets, Frequency, PredictOptions, Scores, SeasonalNaive, backtest, jsonl};

fn data_set(name: &str) -> Option<Dataset> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3).map(Path::to_path_buf);
    let file: PathBuf = root?.join("shared/data").join(name).join("test.jsonl.gz");
    let Ok(open) = std::fs::File::open(&file) else {
        println!("skipped: {} is absent", file.display());
        return None;
    };
    let reader = BufReader::new(flate2::read::GzDecoder::new(open));
    Some(jsonl::read(reader, Frequency::HOURLY).unwrap())
}

fn naive(dataset: &Dataset, windows: usize, horizon: usize) -> Scores {
    let predictor = SeasonalNaive::new(dataset.freq, 24, horizon).unwrap();
    backtest(&predictor, dataset, windows, horizon, &PredictOptions::default()).unwrap()
}

#[track_caller]
fn near(value: f64, expect: f64, tolerance: f64) {
    assert!((value - expect).abs() <= tolerance, "{value} is not {expect}");
}

#[test]
fn m4_hourly_gives_the_published_figures() {
    let Some(dataset) = data_set("m4_hourly") else { return };
    let scores = naive(&dataset, 1, 48);
    near(scores.mase, 1.193, 0.0005);
    near(scores.mean_w_quantile_loss, 0.0374, 0.00005);
    near(scores.smape, 0.139, 0.0005);
    near(scores.nd, 0.0483, 0.00005);
}

#[test]
fn beijing_ozone_gives_the_evaluators_figures() {
    let Some(dataset) = data_set("air_beijing_o3") else { return };
    let summary = dataset.summary();
    assert_eq!((summary.series, summary.points - summary.observed), (12, 11_126));
    let scores = naive(&dataset, 28, 24);
    assert_eq!(scores.windows, 12 * 28);
    near(scores.mase, 1.511, 0.0005);
    // The formula in NumPy gives 0.326160; GluonTS's evaluator, which masks missing points
    // its own way, prints 0.3260.
    near(scores.mean_w_quantile_loss, 0.326_160, 0.000_001);
    near(scores.smape, 0.510, 0.0005);
    near(scores.nd, 0.407, 0.0005);
}

/// Published for AutoETS on M4 hourly: MASE 1.61, mean weighted quantile loss 0.0696 (GIFT-Eval).
#[test]
fn exponential_smoothing_is_about_the_published_one() {
    let Some(dataset) = data_set("m4_hourly") else { return };
    let predictor = Ets::new(dataset.freq, 24, 48).unwrap();
    let scores = backtest(&predictor, &dataset, 1, 48, &PredictOptions::default()).unwrap();
    println!("MASE {:.3}, mean wQL {:.4}", scores.mase, scores.mean_w_quantile_loss);
    assert!(scores.mase < 1.7 && scores.mean_w_quantile_loss < 0.0696, "{scores:?}");
}

#[test]
fn a_backtest_that_cannot_measure_is_refused() {
    let line = r#"{"start":"2021-02-05","target":[1,2,3]}"#;
    let dataset = jsonl::read(line.as_bytes(), Frequency::HOURLY).unwrap();
    let predictor = SeasonalNaive::new(Frequency::HOURLY, 24, 2).unwrap();
    let run = |windows, horizon| {
        backtest(&predictor, &dataset, windows, horizon, &PredictOptions::default())
    };
    assert_eq!(run(1, 2).unwrap().points, 2);
    for (windows, horizon) in [(2, 2), (0, 2), (1, 0), (1, 3), (usize::MAX, 2)] {
        let result = run(windows, horizon);
        assert!(
            result.is_err() || result.is_ok_and(|scores| scores.windows == 1),
            "{windows} x {horizon}"
        );
    }
    let daily = Dataset { freq: Frequency::DAILY, ..dataset.clone() };
    assert!(backtest(&predictor, &daily, 1, 2, &PredictOptions::default()).is_err());
}
