//! Accuracy on public data, where they are at hand. `examples/measure.rs` prints more.

use std::io::BufReader;
use std::path::Path;

use deepar::{Hyperparameters, TrainOptions, train};
use forecast::{Dataset, Frequency, PredictOptions, SeasonalNaive, Silent, backtest, jsonl};

fn read(set: &str, file: &str) -> Option<Dataset> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(3)?;
    let path = root.join("shared/data").join(set).join(file);
    let Ok(open) = std::fs::File::open(&path) else {
        println!("skipped: {} is absent", path.display());
        return None;
    };
    let reader = BufReader::new(flate2::read::GzDecoder::new(open));
    Some(jsonl::read(reader, Frequency::HOURLY).unwrap())
}

/// The settings of the article, 1,000 steps. GluonTS: 0.254 to 0.285 over three seeds.
#[test]
fn ozone_beats_seasonal_naive_at_the_articles_settings() {
    let set = "air_beijing_o3";
    let (Some(data), Some(test)) = (read(set, "train.jsonl.gz"), read(set, "test.jsonl.gz")) else {
        return;
    };
    let hyper = Hyperparameters::parse([
        ("time_freq", "H"),
        ("context_length", "24"),
        ("prediction_length", "24"),
        ("epochs", "20"),
        ("num_layers", "3"),
        ("likelihood", "gaussian"),
        ("dropout_rate", "0.05"),
        ("mini_batch_size", "32"),
        ("early_stopping_patience", "10"),
        ("windows_per_epoch", "1600"),
    ])
    .unwrap();
    let model = train(&hyper, &data, &TrainOptions::default(), &mut Silent).unwrap();
    let options = PredictOptions::default();
    let ours = backtest(&model, &test, 28, 24, &options).unwrap();
    let naive = SeasonalNaive::new(Frequency::HOURLY, 24, 24).unwrap();
    let naive = backtest(&naive, &test, 28, 24, &options).unwrap();
    println!(
        "mean wQL {:.4}, seasonal naive {:.4}",
        ours.mean_w_quantile_loss, naive.mean_w_quantile_loss
    );
    assert!(ours.mean_w_quantile_loss < 0.28, "{ours:?}");
    assert!(
        ours.mean_w_quantile_loss < 0.85 * naive.mean_w_quantile_loss && ours.mase < naive.mase
    );
}
