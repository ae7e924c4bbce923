//! What training promises of models: F4, under hostile archives; and that whose mistake it was
//! is said in the first word.

#![expect(clippy::unwrap_used, reason = "a test's helpers are tests")]

mod archives;
mod mistakes;
mod page;

use std::collections::BTreeMap;
use std::path::Path;

use base::{Result, SystemClock};
use training::{Algorithm, TrainResult, TrainSpec};

/// Three sites of a daily cycle as JSON Lines.
fn lines(hours: usize) -> String {
    let line = |site: usize| {
        let value = |hour: usize| ((hour % 24) * (site + 1) + hour * 7 % 5).to_string();
        let target: Vec<String> = (0..hours).map(value).collect();
        let target = target.join(",");
        format!("{{\"item_id\":\"site{site}\",\"start\":\"2021-02-05\",\"target\":[{target}]}}\n")
    };
    (0..3).map(line).collect()
}

/// A quick job on `folder/train`, which it writes if there is none.
fn spec(algorithm: Algorithm, folder: &Path) -> TrainSpec {
    let train = folder.join("train");
    if !train.exists() {
        std::fs::create_dir_all(&train).unwrap();
        std::fs::write(train.join("data.json"), lines(200)).unwrap();
    }
    let mut hyper = BTreeMap::from([("time_freq", "H"), ("prediction_length", "6")]);
    if algorithm.is_deepar() {
        hyper.extend([
            ("context_length", "6"),
            ("epochs", "1"),
            ("num_cells", "4"),
            ("num_layers", "1"),
            ("mini_batch_size", "32"),
            ("windows_per_epoch", "64"),
        ]);
    }
    TrainSpec {
        train,
        test: None,
        algorithm,
        hyperparameters: hyper
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        seed: None,
        threads: Some(1),
        model: folder.join("model.tar.gz"),
        windows: 1,
    }
}

fn run(spec: &TrainSpec) -> Result<TrainResult> {
    training::job::run(spec, &SystemClock, &mut |_| ())
}
