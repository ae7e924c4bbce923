//! DeepAR at its border: learns, forecasts, travels as files, and refuses what it must.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test's helpers are tests")]

mod artifact;
mod data;
mod forecasting;
mod plus;
mod promises;
mod training;

use deepar::{Hyperparameters, Model, TrainOptions, train};
use forecast::{Dataset, Frequency, Silent, TimeSeries};

/// Small and quick unless `more` says otherwise.
fn hyper(more: &[(&str, &str)]) -> Hyperparameters {
    let mut given = vec![
        ("time_freq", "H"),
        ("context_length", "12"),
        ("prediction_length", "6"),
        ("epochs", "3"),
        ("num_cells", "10"),
        ("mini_batch_size", "40"),
        ("windows_per_epoch", "200"),
    ];
    given.extend_from_slice(more);
    Hyperparameters::parse(given).unwrap()
}

/// `count` noisy sines of a day, each on its own level.
fn sines(count: usize, len: usize) -> Dataset {
    let mut noise = 12345u32;
    let mut series = |k: usize| TimeSeries {
        item_id: Some(format!("sensor {k}")),
        start: "2021-02-05 00:00:00".parse().unwrap(),
        target: (0..len)
            .map(|t| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let random = f64::from(noise >> 8) / f64::from(1 << 24) - 0.5;
                let day = (t as f64 / 24.0 * std::f64::consts::TAU).sin();
                ((10.0 + 3.0 * day + 0.5 * random) * (1.0 + k as f64)) as f32
            })
            .collect(),
        ..TimeSeries::default()
    };
    Dataset { freq: Frequency::HOURLY, series: (0..count).map(&mut series).collect() }
}

fn trained(hyper: &Hyperparameters, data: &Dataset) -> Model {
    train(hyper, data, &TrainOptions::default(), &mut Silent).unwrap()
}
