//! Who learns, and who watches.

use base::Result;
use serde::{Deserialize, Serialize};

use crate::predict::Predictor;
use crate::series::Dataset;

/// One epoch of a training, as it ends.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochReport {
    /// Counted from 0.
    pub epoch: u32,
    /// How many were asked for.
    pub epochs: u32,
    /// Mean training loss of the epoch.
    pub loss: f64,
    /// Mean loss on held-back data, if some was held back.
    pub validation_loss: Option<f64>,
    /// The step size at the epoch's end.
    pub learning_rate: f64,
    /// Training windows seen so far.
    pub windows: u64,
}

/// What a training did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainReport {
    /// Training windows seen.
    pub windows: u64,
    /// Epochs finished.
    pub epochs: u32,
    /// The epoch whose weights are in the model.
    pub best_epoch: u32,
    /// The loss of those weights: on held-back data if there was some, else in training.
    pub final_loss: f64,
    /// Why it ended before all epochs were done, if it did.
    pub stopped: Option<String>,
    /// Every epoch.
    pub log: Vec<EpochReport>,
}

/// Watches a training; called on the training thread between steps, so it must be quick.
pub trait TrainingObserver {
    /// An epoch ended.
    fn epoch(&mut self, report: &EpochReport) {
        let _ = report;
    }

    /// `done` of `total` windows are through; called a few times an epoch.
    fn progress(&mut self, done: u64, total: u64) {
        let _ = (done, total);
    }

    /// Asked between steps; true ends the training with the best weights so far.
    fn should_stop(&mut self) -> bool {
        false
    }

    /// Something worth a line in the log.
    fn note(&mut self, text: &str) {
        let _ = text;
    }

    /// What an earlier, interrupted training handed to [`checkpoint`](Self::checkpoint) last.
    /// Asked once, before the first step. The estimator goes on from it if it is its own.
    fn resume(&mut self) -> Option<Vec<u8>> {
        None
    }

    /// Asked between steps and at the end of an epoch; true asks for a checkpoint now.
    fn wants_checkpoint(&mut self) -> bool {
        false
    }

    /// Takes the state of the training, to be kept until the training ends.
    fn checkpoint(&mut self, state: &[u8]) {
        let _ = state;
    }
}

/// Watches nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl TrainingObserver for Silent {}

/// What an estimator hands over: the predictor, the files it can be loaded from again, and
/// what happened.
pub struct Trained {
    /// Forecasts.
    pub predictor: Box<dyn Predictor>,
    /// The artifact: names without directories, and their bytes.
    pub files: Vec<(String, Vec<u8>)>,
    /// What the training did.
    pub report: TrainReport,
}

/// An algorithm with its settings.
pub trait Estimator {
    /// Learns from `train`. Same data, settings and machine give the same bytes.
    fn train(&self, train: &Dataset, observer: &mut dyn TrainingObserver) -> Result<Trained>;
}
