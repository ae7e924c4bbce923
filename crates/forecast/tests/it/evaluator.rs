//! Scores against those of `gluonts.evaluation.Evaluator` 0.17.0 (num_workers = 0) on the same
//! forecasts: four hourly series with gaps, 20 sample paths of 12 steps each. Histories longer and
//! shorter than two seasons are among them.
//!
//! GluonTS takes RMSE and coverage by series and then their mean, DeepAR's documentation and we
//! over all points: they agree where no series has more true values than another.

use forecast::{DateTime, Forecast, Frequency, PredictOptions, Scorer, Scores};

/// The generator of C's `rand`, which is easily written down in Python.
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = (self.0 * 1_103_515_245 + 12_345) % (1 << 31);
        (self.0 >> 16) % bound
    }

    fn value(&mut self) -> f32 {
        self.below(1000) as f32 / 8.0 - 20.0
    }
}

const STEPS: usize = 12;

/// The scores of forecasts made by the generator.
fn scores(gaps_in_truth: bool) -> Scores {
    let options = PredictOptions::default();
    let mut scorer = Scorer::new(&options.quantiles, 24).unwrap();
    let mut draws = Draws(7);
    for history in [60, 90, 40, 30] {
        let mut target: Vec<f32> = (0..history + STEPS).map(|_| draws.value()).collect();
        for (at, value) in target.iter_mut().enumerate() {
            if draws.below(10) == 0 && (gaps_in_truth || at < history) {
                *value = f32::NAN;
            }
        }
        let paths: Vec<Vec<f32>> =
            (0..20).map(|_| (0..STEPS).map(|_| draws.value()).collect()).collect();
        let steps: Vec<Vec<f32>> =
            (0..STEPS).map(|t| paths.iter().map(|path| path[t]).collect()).collect();
        let start = DateTime(history as i64 * 60);
        let made = Forecast::from_steps(None, start, Frequency::HOURLY, &steps, &options);
        scorer.add(&target[..history], &target[history..], &made).unwrap();
    }
    scorer.finish()
}

fn near(name: &str, ours: f64, theirs: f64) {
    assert!((ours / theirs - 1.0).abs() < 1e-6, "{name}: {ours}, GluonTS has {theirs}");
}

#[test]
fn scores_of_gappy_truth_are_those_of_gluonts() {
    let scores = scores(true);
    near("mean_wQuantileLoss", scores.mean_w_quantile_loss, 0.551323959745914);
    near("mean_absolute_QuantileLoss", scores.mean_absolute_quantile_loss, 965.575);
    near("ND", scores.nd, 0.7447719648847334);
    near("MASE", scores.mase, 0.6996531168534569);
    near("sMAPE", scores.smape, 0.8207503839245005);
    let by_level = [
        0.28654628506173724,
        0.4661765755477839,
        0.6346584826207978,
        0.7102134037541931,
        0.7447719648847334,
        0.7135536364285207,
        0.6420526728998645,
        0.48002283919777305,
        0.28391977731782164,
    ];
    for (k, theirs) in by_level.into_iter().enumerate() {
        near(&format!("wQuantileLoss[0.{}]", k + 1), scores.w_quantile_loss[k], theirs);
    }
}

#[test]
fn scores_of_whole_truth_are_those_of_gluonts() {
    let scores = scores(false);
    near("mean_wQuantileLoss", scores.mean_w_quantile_loss, 0.552400303304696);
    near("mean_absolute_QuantileLoss", scores.mean_absolute_quantile_loss, 1042.1722222222224);
    near("ND", scores.nd, 0.7547207314649175);
    near("MASE", scores.mase, 0.6968305541767287);
    near("sMAPE", scores.smape, 0.8104106757535248);
    near("RMSE", scores.rmse, 33.66141649673998);
    let coverage = [6.0, 14.0, 21.0, 23.0, 31.0, 35.0, 38.0, 42.0, 43.0].map(|below| below / 48.0);
    for (k, theirs) in coverage.into_iter().enumerate() {
        near(&format!("Coverage[0.{}]", k + 1), scores.coverage[k], theirs);
    }
}
