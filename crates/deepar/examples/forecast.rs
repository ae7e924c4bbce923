//! DeepAR as a library: learns from values made here, says how good it is beside the seasonal
//! naive, travels through files, forecasts.
//!
//! `cargo run --release -p deepar --example forecast`

#![expect(clippy::print_stdout, reason = "a program whose output is its purpose")]

use base::Result;
use deepar::{Hyperparameters, Model, TrainOptions, train};
use forecast::{
    Dataset, EpochReport, Frequency, PredictOptions, Predictor, SeasonalNaive, TimeSeries,
    TrainingObserver, backtest,
};

/// Eight weeks of hours at six sites, each with a level and a day of its own.
fn sites() -> Vec<TimeSeries> {
    let site = |k: u32| TimeSeries {
        item_id: Some(format!("site {k}")),
        start: "2021-02-05 00:00:00".parse().unwrap_or_default(),
        target: (0..24 * 56)
            .map(|hour| {
                let day = (hour as f32 / 24.0 * std::f32::consts::TAU + k as f32).sin();
                let noise = (hour * 7919 + k as usize * 104_729) % 1009;
                10.0 * (1.0 + k as f32) * (1.0 + 0.4 * day + 0.1 * noise as f32 / 1009.0)
            })
            .collect(),
        feat_static_cat: vec![k],
        ..TimeSeries::default()
    };
    (0..6).map(site).collect()
}

struct Print;

impl TrainingObserver for Print {
    fn epoch(&mut self, report: &EpochReport) {
        println!("epoch {}: loss {:.4}", report.epoch, report.loss);
    }
}

fn main() -> Result<()> {
    const HORIZON: usize = 24;
    let freq = Frequency::HOURLY;
    let whole = Dataset { freq, series: sites() };
    // The last week is for scoring.
    let past = |series: &TimeSeries| series.prefix(series.target.len() - 7 * HORIZON, 0);
    let history = Dataset { freq, series: whole.series.iter().map(past).collect() };

    let mut hyper = Hyperparameters::new(freq, 48, HORIZON, 5)?;
    hyper.mini_batch_size = 32;
    let model = train(&hyper, &history, &TrainOptions::default(), &mut Print)?;

    let options = PredictOptions::default();
    let ours = backtest(&model, &whole, 7, HORIZON, &options)?;
    let naive = SeasonalNaive::for_freq(freq, HORIZON)?;
    let naive = backtest(&naive, &whole, 7, HORIZON, &options)?;
    println!(
        "mean weighted quantile loss {:.4}, seasonal naive {:.4}",
        ours.mean_w_quantile_loss, naive.mean_w_quantile_loss
    );

    // Names and bytes; where they are kept is the caller's.
    let files = model.to_files()?;
    let again = Model::from_files(&files)?;
    let made = &again.predict(&whole.series[..1], &options)?[0];
    println!("from {}: mean {:?}", made.start, made.mean);
    println!("ninth decile {:?}", made.quantile(0.9)?);
    Ok(())
}
