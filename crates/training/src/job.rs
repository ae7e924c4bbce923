//! One training, from channels to a measured model file.
//!
//! Invariants
//! * The model file is written last and whole: a job that fails leaves none.
//! * The test channel is never shown to the estimator.
//! * A model worse than the seasonal naive says so, in the log and in its card.
//! * While it learns, its state lies beside the model as a checkpoint: the same job started
//!   again goes on from there, and gives the same bytes. It is gone when the job has ended.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use base::{Clock, Error, Result, usage};
use forecast::{
    Dataset, DateTime, EpochReport, PredictOptions, Predictor, Scores, SeasonalNaive, TimeSeries,
    TrainReport, Trained, TrainingObserver, backtest,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::checkpoint::CheckpointFile;
use crate::engine::{Algorithm, Engine};
use crate::{artifact, channel};

/// Where DeepAR's container says that its settings come from; readers of its log look for it.
const DEFAULT_INPUT: &str =
    "/opt/amazon/lib/python3.6/site-packages/algorithm/resources/default-input.json";
const PROVIDED_INPUT: &str = "/opt/ml/input/config/hyperparameters.json";

/// The settings of a job that gives none, as its container writes them.
fn defaults() -> serde_json::Value {
    json!({
        "cardinality": "auto",
        "dropout_rate": "0.10",
        "early_stopping_patience": "",
        "embedding_dimension": "10",
        "learning_rate": "0.001",
        "likelihood": "student-t",
        "mini_batch_size": "128",
        "num_cells": "40",
        "num_dynamic_feat": "auto",
        "num_eval_samples": "100",
        "num_layers": "2",
        "test_quantiles": "[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]",
    })
}

/// What to train on what, and where the model goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainSpec {
    /// File or folder of the series to learn from.
    pub train: PathBuf,
    /// File or folder of the series to score on: whole series, of which the last
    /// `windows * prediction_length` points are forecast.
    #[serde(default)]
    pub test: Option<PathBuf>,
    /// What learns.
    #[serde(default)]
    pub algorithm: Algorithm,
    /// Names and values as SageMaker sends them.
    pub hyperparameters: BTreeMap<String, String>,
    /// Decides every draw; the estimator's own fixed seed if absent.
    #[serde(default)]
    pub seed: Option<u64>,
    /// Threads; as many as there are cores if absent.
    #[serde(default)]
    pub threads: Option<usize>,
    /// Where `model.tar.gz` is written.
    pub model: PathBuf,
    /// Rolling windows scored on the test channel, at least 1.
    #[serde(default = "one")]
    pub windows: usize,
}

fn one() -> usize {
    1
}

/// What a training did and cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainResult {
    /// Training windows seen.
    pub windows: u64,
    /// Epochs finished.
    pub epochs: u32,
    /// The epoch whose weights are in the model.
    pub best_epoch: u32,
    /// The loss of those weights; absent if it was not a number.
    pub final_loss: Option<f64>,
    /// Why it ended before all epochs were done, if it did.
    pub stopped: Option<String>,
    /// CPU seconds of the whole job's process so far.
    pub cpu_seconds: f64,
    /// Seconds the job took.
    pub wall_seconds: f64,
    /// The most memory the job's process had.
    pub peak_rss_bytes: u64,
    /// Size of the model file.
    pub model_bytes: u64,
    /// SHA-256 of the model file.
    pub model_sha256: String,
    /// How good it is, if there was a test channel.
    pub test: Option<TestScores>,
}

/// The model against the rule to beat, on the same points.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TestScores {
    /// What the model scored.
    pub model: Scores,
    /// What repeating the last season scored.
    pub seasonal_naive: Scores,
    /// `1 - model / naive` of the mean weighted quantile loss: 0 is no better, 1 is perfect.
    /// Absent if either could not be measured.
    pub skill: Option<f64>,
    /// The same in words.
    pub verdict: String,
}

/// Trains, scores and writes the model. `log` receives the lines DeepAR's container writes.
pub fn run(spec: &TrainSpec, clock: &dyn Clock, log: &mut dyn FnMut(&str)) -> Result<TrainResult> {
    let started = Instant::now();
    let engine = Engine::new(spec)?;
    let mut log = Log { clock, sink: log, checkpoint: Some(CheckpointFile::beside(&spec.model)) };
    let made = learn(&engine, spec, &mut log).and_then(|(report, scores, files)| {
        let packed = artifact::pack(&files)?;
        artifact::replace(&spec.model, &packed)?;
        Ok((report, scores, packed))
    });
    if let Some(checkpoint) = &log.checkpoint {
        checkpoint.end(made.is_ok());
    }
    let (report, scores, packed) = made?;
    Ok(TrainResult {
        windows: report.windows,
        epochs: report.epochs,
        best_epoch: report.best_epoch,
        final_loss: finite(report.final_loss),
        stopped: report.stopped,
        cpu_seconds: usage::cpu_seconds(),
        wall_seconds: started.elapsed().as_secs_f64(),
        peak_rss_bytes: usage::peak_rss_bytes(),
        model_bytes: packed.len() as u64,
        model_sha256: Sha256::digest(&packed).iter().map(|byte| format!("{byte:02x}")).collect(),
        test: scores,
    })
}

/// A model's files, by name.
pub(crate) type Files = Vec<(String, Vec<u8>)>;

/// Reads the channels, trains and scores.
pub(crate) fn learn(
    engine: &Engine,
    spec: &TrainSpec,
    log: &mut Log<'_>,
) -> Result<(TrainReport, Option<TestScores>, Files)> {
    if spec.windows == 0 {
        return Err(Error::invalid("windows is 0; at least one window is scored"));
    }
    (log.sink)("Docker entrypoint called with argument(s): train");
    if engine.algorithm.is_deepar() {
        log.info(&format!("Reading default configuration from {DEFAULT_INPUT}: {}", defaults()));
        log.info(&format!(
            "Merging with provided configuration from {PROVIDED_INPUT}: {}",
            json!(spec.hyperparameters)
        ));
    }
    log.info(&format!("Final configuration: {}", engine.hyperparameters));
    let (train, test) = read(spec, engine, log)?;

    let mut trained = engine.estimator.train(&train, log)?;
    let report = trained.report.clone();
    if let Some(reason) = &report.stopped {
        log.info(&format!("Training stopped early: {reason}"));
    }
    // A rule that learns nothing loses nothing.
    if report.epochs > 0 {
        let (loss, epoch) = (report.final_loss, report.best_epoch);
        log.info(&format!("Final loss: {loss} (occurred at epoch {epoch})"));
        log.info(&format!("#quality_metric: host=algo-1, train final_loss <loss>={loss}"));
    }
    log.info("All workers finished. Serializing model for prediction.");

    let scores = match &test {
        Some(test) => Some(score(spec, engine, &*trained.predictor, test, log)?),
        None => None,
    };
    let card = card(engine, spec, &train, &trained, scores.as_ref())?;
    let mut files = std::mem::take(&mut trained.files);
    files.push((artifact::CARD.to_owned(), card));
    Ok((report, scores, files))
}

/// Both channels, with a line for what they hold and one for what is left out.
fn read(
    spec: &TrainSpec,
    engine: &Engine,
    log: &mut Log<'_>,
) -> Result<(Dataset, Option<Dataset>)> {
    // Values that memory should not hold lie beside the model while they are needed.
    let beside = spec.model.parent().filter(|folder| !folder.as_os_str().is_empty());
    let beside = beside.unwrap_or(Path::new("."));
    let read = |path: &Path| channel::read_large(path, engine.time_freq, beside);
    let train = read(&spec.train).map_err(|error| error.context("channel train"))?;
    let test = spec.test.as_deref().map(read).transpose();
    let test = test.map_err(|error| error.context("channel test"))?;
    for (name, data) in [("train", Some(&train)), ("test", test.as_ref())] {
        if let Some(data) = data {
            log.info(&format!("Channel {name}: {}", json!(data.summary())));
        }
    }
    let length = engine.prediction_length;
    if engine.algorithm.is_deepar() {
        let short = |series: &TimeSeries| series.target.len() < length;
        let why = format!("shorter than prediction_length {length} and not learnt from");
        log.left_out(&train, short, &why);
    }
    let silent = |series: &TimeSeries| !series.target.is_empty() && series.observed() == 0;
    log.left_out(&train, silent, "without a single observed value and teach nothing");
    Ok((train, test))
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

fn score(
    spec: &TrainSpec,
    engine: &Engine,
    model: &dyn Predictor,
    test: &Dataset,
    log: &mut Log<'_>,
) -> Result<TestScores> {
    let options = PredictOptions {
        num_samples: engine.num_eval_samples,
        seed: spec.seed,
        quantiles: engine.test_quantiles.clone(),
        ..PredictOptions::default()
    };
    let horizon = engine.prediction_length;
    log.info(&format!(
        "Evaluating model accuracy on testset using {} samples",
        options.num_samples
    ));
    let scored = |predictor| {
        backtest(predictor, test, spec.windows, horizon, &options)
            .map_err(|error| error.context("channel test"))
    };
    let made = scored(model)?;
    let naive = SeasonalNaive::for_freq(engine.time_freq, horizon)?;
    let naive = scored(&naive)?;
    log.scores(&made);
    let skill = 1.0 - made.mean_w_quantile_loss / naive.mean_w_quantile_loss;
    let skill = finite(skill);
    let verdict = verdict(skill, &made, &naive);
    log.info(&format!("Seasonal naive mean_wQuantileLoss: {}", naive.mean_w_quantile_loss));
    log.info(&verdict);
    Ok(TestScores { model: made, seasonal_naive: naive, skill, verdict })
}

fn verdict(skill: Option<f64>, model: &Scores, naive: &Scores) -> String {
    let (ours, theirs) = (model.mean_w_quantile_loss, naive.mean_w_quantile_loss);
    match skill {
        None => "The test channel does not let the model be compared with the seasonal naive: \
                 there is too little history or every value is zero."
            .to_owned(),
        Some(skill) if skill > 0.0 => format!(
            "The model's mean weighted quantile loss of {ours:.4} is {:.1} % below the {theirs:.4} \
             of repeating the last season.",
            100.0 * skill
        ),
        Some(_) => format!(
            "This model is no better than repeating the last season: its mean weighted quantile \
             loss is {ours:.4} against {theirs:.4}. Use the seasonal naive instead, or train \
             longer or on more history."
        ),
    }
}

/// What the model learnt from and how good it is. No times, so that the bytes repeat.
fn card(
    engine: &Engine,
    spec: &TrainSpec,
    train: &Dataset,
    trained: &Trained,
    scores: Option<&TestScores>,
) -> Result<Vec<u8>> {
    let untested = "There was no test channel: how good this model is was not measured.";
    let card = json!({
        "algorithm": engine.algorithm.short_name(),
        "hyperparameters": engine.hyperparameters,
        "seed": engine.seed,
        "train": train.summary(),
        "epochs": trained.report.epochs,
        "best_epoch": trained.report.best_epoch,
        "final_loss": finite(trained.report.final_loss),
        "stopped": trained.report.stopped,
        "windows": spec.windows,
        "test": scores,
        "verdict": scores.map_or(untested, |scores| &scores.verdict),
    });
    serde_json::to_vec_pretty(&card)
        .map_err(|cause| Error::internal("describing the model's scores").with_source(cause))
}

/// Writes lines as DeepAR's container does, and keeps the training's state.
pub(crate) struct Log<'a> {
    pub(crate) clock: &'a dyn Clock,
    pub(crate) sink: &'a mut dyn FnMut(&str),
    pub(crate) checkpoint: Option<CheckpointFile>,
}

impl Log<'_> {
    fn info(&mut self, text: &str) {
        let seconds = self.clock.now().millis().div_euclid(1000);
        let at = DateTime(seconds.div_euclid(60)).parts();
        let line = format!(
            "[{:02}/{:02}/{:04} {:02}:{:02}:{:02} INFO {}] {text}",
            at.month,
            at.day,
            at.year,
            at.hour,
            at.minute,
            seconds.rem_euclid(60),
            std::process::id()
        );
        (self.sink)(&line);
    }

    /// Says how many series are left out and which is the first of them.
    fn left_out(&mut self, data: &Dataset, out: impl Fn(&TimeSeries) -> bool, why: &str) {
        let mut found = data.series.iter().enumerate().filter(|(_, series)| out(series));
        let Some((index, first)) = found.next() else { return };
        let (count, all) = (1 + found.count(), data.series.len());
        let first = first.label(index);
        self.info(&format!("{count} of {all} series are {why}; the first is {first}"));
    }

    fn scores(&mut self, scores: &Scores) {
        self.info(&format!("Number of test batches scored: {}", scores.windows));
        let (rmse, loss) = (scores.rmse, scores.mean_w_quantile_loss);
        self.info(&format!("#test_score (algo-1, RMSE): {rmse}"));
        self.info(&format!(
            "#test_score (algo-1, mean_absolute_QuantileLoss): {}",
            scores.mean_absolute_quantile_loss
        ));
        self.info(&format!("#test_score (algo-1, mean_wQuantileLoss): {loss}"));
        for (level, loss) in scores.quantiles.iter().zip(&scores.w_quantile_loss) {
            self.info(&format!("#test_score (algo-1, wQuantileLoss[{level}]): {loss}"));
        }
        self.info(&format!("#quality_metric: host=algo-1, test RMSE <loss>={rmse}"));
        self.info(&format!("#quality_metric: host=algo-1, test mean_wQuantileLoss <loss>={loss}"));
    }
}

impl TrainingObserver for Log<'_> {
    fn note(&mut self, text: &str) {
        self.info(text);
    }

    fn resume(&mut self) -> Option<Vec<u8>> {
        self.checkpoint.as_mut()?.read()
    }

    fn wants_checkpoint(&mut self) -> bool {
        self.checkpoint.as_ref().is_some_and(CheckpointFile::is_due)
    }

    fn checkpoint(&mut self, state: &[u8]) {
        let failed = self.checkpoint.as_mut().and_then(|file| file.write(state).err());
        if let Some(error) = failed {
            // The model may still find room: a lost checkpoint costs time, not the training.
            self.info(&format!("A checkpoint was not written; training goes on: {error}"));
        }
    }

    fn epoch(&mut self, report: &EpochReport) {
        let (epoch, loss) = (report.epoch, report.loss);
        self.info(&format!(
            "#quality_metric: host=algo-1, epoch={epoch}, train loss <loss>={loss}"
        ));
        if let Some(loss) = report.validation_loss {
            self.info(&format!(
                "#quality_metric: host=algo-1, epoch={epoch}, validation loss <loss>={loss}"
            ));
        }
        let done = u64::from(report.epoch) + 1;
        let percent = done * 100 / u64::from(report.epochs.max(1));
        self.info(&format!("#progress_metric: host=algo-1, completed {percent} % of epochs"));
        let now = self.clock.now().millis() as f64 / 1000.0;
        let metrics = json!({
            "StartTime": now,
            "EndTime": now,
            "Dimensions": { "Algorithm": "AWS/DeepAR", "Host": "algo-1", "Operation": "training" },
            "Metrics": { "train.loss": { "sum": finite(loss), "count": 1, "min": finite(loss), "max": finite(loss) } },
        });
        (self.sink)(&format!("#metrics {metrics}"));
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use base::{ManualClock, Timestamp};
    use forecast::{Frequency, jsonl};

    use super::*;
    use crate::table::{Collector, split};

    /// A small job: four sites of a daily cycle, two weeks, the last day held back.
    pub(crate) fn small(folder: &Path) -> TrainSpec {
        let mut made = Collector::new(Frequency::HOURLY);
        for hour in 0..24 * 14 {
            for site in 0..4 {
                let phase = std::f64::consts::TAU * (hour % 24) as f64 / 24.0;
                let value =
                    20.0 + 5.0 * site as f64 + 8.0 * phase.sin() + ((hour * 7 + site) % 5) as f64;
                made.add(&format!("site{site}"), DateTime(hour * 60), value as f32);
            }
        }
        let (train, test) = split(&made.finish().unwrap().0, 24);
        for (name, data) in [("train", train), ("test", test)] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
            std::fs::write(folder.join(name).join("data.json"), jsonl::write(&data)).unwrap();
        }
        let hyper = [
            ("time_freq", "H"),
            ("context_length", "24"),
            ("prediction_length", "24"),
            ("epochs", "2"),
            ("num_cells", "8"),
            ("num_layers", "1"),
            ("mini_batch_size", "32"),
            ("num_eval_samples", "20"),
            ("test_quantiles", "[0.1, 0.5, 0.9]"),
        ];
        TrainSpec {
            train: folder.join("train"),
            test: Some(folder.join("test")),
            algorithm: Algorithm::DeepAr,
            hyperparameters: hyper
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            seed: Some(7),
            threads: Some(1),
            model: folder.join("out/model.tar.gz"),
            windows: 1,
        }
    }

    /// The same job for another algorithm, with the settings that all of them have.
    pub(crate) fn small_of(algorithm: Algorithm, folder: &Path) -> TrainSpec {
        let mut spec = TrainSpec { algorithm, ..small(folder) };
        if !algorithm.is_deepar() {
            spec.hyperparameters.retain(|name, _| {
                ["time_freq", "prediction_length", "num_eval_samples", "test_quantiles"]
                    .contains(&name.as_str())
            });
        }
        spec
    }

    fn clock() -> ManualClock {
        ManualClock::at(Timestamp(1_612_487_405_000))
    }

    #[test]
    fn a_job_trains_scores_logs_and_writes_a_model_that_loads() {
        let folder = tempfile::tempdir().unwrap();
        let spec = small(folder.path());
        let mut lines = Vec::new();
        let result = run(&spec, &clock(), &mut |line| lines.push(line.to_owned())).unwrap();
        assert_eq!((result.epochs, result.test.as_ref().unwrap().model.windows), (2, 4));
        assert!(result.windows > 0 && result.final_loss.is_some() && result.wall_seconds > 0.0);
        let text = lines.join("\n");
        for words in [
            "[02/05/2021 01:10:05 INFO ",
            "#quality_metric: host=algo-1, epoch=0, train loss <loss>=",
            "#progress_metric: host=algo-1, completed 100 % of epochs",
            "#quality_metric: host=algo-1, train final_loss <loss>=",
            "Evaluating model accuracy on testset using 20 samples",
            "#test_score (algo-1, wQuantileLoss[0.9]): ",
            "#quality_metric: host=algo-1, test mean_wQuantileLoss <loss>=",
            "#metrics {\"StartTime\":1612487405",
        ] {
            assert!(text.contains(words), "{words:?} is not in\n{text}");
        }

        let model = crate::load(&spec.model).unwrap();
        let test = channel::read(spec.test.as_ref().unwrap(), Frequency::HOURLY).unwrap();
        let scores = backtest(
            &*model,
            &test,
            1,
            24,
            &PredictOptions {
                num_samples: 20,
                seed: Some(7),
                quantiles: vec![0.1, 0.5, 0.9],
                ..PredictOptions::default()
            },
        );
        assert_eq!(
            scores.unwrap(),
            result.test.as_ref().unwrap().model,
            "the loaded model is another"
        );

        let files = artifact::read(&spec.model).unwrap();
        let card = &files.iter().find(|(name, _)| name == artifact::CARD).unwrap().1;
        let card: serde_json::Value = serde_json::from_slice(card).unwrap();
        assert_eq!(card["verdict"], result.test.as_ref().unwrap().verdict);
        assert_eq!(card["train"]["series"], 4);
        let json = serde_json::to_string(&result).unwrap();
        let back: TrainResult = serde_json::from_str(&json).unwrap();
        let loss = |result: &TrainResult| result.test.as_ref().unwrap().model.mean_w_quantile_loss;
        // serde_json may read a number one unit in the last place off.
        assert!((loss(&back) - loss(&result)).abs() < 1e-12);
        assert_eq!((&back.model_sha256, back.windows), (&result.model_sha256, result.windows));
        let again = run(&spec, &clock(), &mut |_| ()).unwrap();
        assert_eq!(again.model_sha256, result.model_sha256);
    }

    #[test]
    fn a_failed_job_leaves_no_model() {
        let folder = tempfile::tempdir().unwrap();
        let good = small(folder.path());
        let missing = TrainSpec { train: folder.path().join("none"), ..good.clone() };
        let mut unknown = good.clone();
        unknown.hyperparameters.insert("epoches".to_owned(), "1".to_owned());
        let no_windows = TrainSpec { windows: 0, ..good.clone() };
        let too_many = TrainSpec {
            windows: 1000,
            test: Some(folder.path().join("short.json")),
            ..good.clone()
        };
        std::fs::write(
            folder.path().join("short.json"),
            "{\"start\":\"2021-01-01\",\"target\":[1]}",
        )
        .unwrap();
        for (spec, word) in [
            (missing, "channel train"),
            (unknown, "epoches"),
            (no_windows, "windows"),
            (too_many, "channel test"),
            (TrainSpec { threads: Some(0), ..good.clone() }, "threads"),
        ] {
            let error = run(&spec, &clock(), &mut |_| ()).unwrap_err().to_string();
            assert!(error.contains(word), "{word}: {error}");
            assert!(!spec.model.exists());
        }
    }

    #[test]
    fn a_model_worse_than_the_rule_says_so() {
        let scores = |loss| Scores {
            quantiles: vec![0.5],
            w_quantile_loss: vec![loss],
            coverage: vec![0.5],
            mean_w_quantile_loss: loss,
            mean_absolute_quantile_loss: 1.0,
            nd: loss,
            mase: 1.0,
            smape: 0.1,
            rmse: 1.0,
            windows: 1,
            points: 24,
        };
        let (good, bad) = (scores(0.1), scores(0.2));
        assert!(verdict(Some(-1.0), &bad, &good).contains("no better than repeating"));
        assert!(verdict(Some(0.5), &good, &bad).contains("50.0 % below"));
        assert!(verdict(None, &good, &bad).contains("does not let"));
    }
}
