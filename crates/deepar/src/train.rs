//! Learning: draws windows, follows the gradient, keeps the best weights.
//!
//! Invariants
//! * Every draw is a function of (seed, step, position in the batch). Threads divide the
//!   lanes of a batch; their gradients are added in lane order. So data, settings, seed,
//!   thread count and instruction set decide every bit of the result, and the last two change
//!   rounding only.
//! * A model is only returned if its loss and its weights are finite.
//! * What a step reads is in [`Run::fields`], so that a training that goes on from a checkpoint
//!   gives the bytes of one that was never interrupted.

use std::sync::Arc;

use base::{Error, Result};
use forecast::{
    Dataset, EpochReport, Estimator, PredictOptions, TimeSeries, TrainReport, Trained,
    TrainingObserver,
};
use sha2::{Digest, Sha256};

use crate::calibration::{Calibration, Misses};
use crate::checkpoint::{self, Fields};
use crate::crew::{Crew, Task};
use crate::features::{Framing, Item, Plan, Scaling};
use crate::hyper::{Cardinality, DynamicFeat, Hyperparameters, Recipe, Schedule};
use crate::kernels::{Isa, LANES, Loops};
use crate::model::{ARITHMETIC, Model, Parts, Provenance};
use crate::network::{Chance, Layout, Loss, Net, Packed, Shape, Window, Workspace, Zoneout, init};
use crate::rng::{Stream, purpose};

/// DeepAR refuses to learn from fewer observed points than this.
pub const OBSERVATIONS_MIN: usize = 300;

/// The norm a gradient is cut down to.
const GRADIENT_NORM_MAX: f64 = 10.0;

/// Windows that a calibration looks at: this many, as far as they take no more than
/// [`CALIBRATION_SHARE`] of the training's, and at least [`CALIBRATION_WINDOWS_MIN`], below which
/// there is none.
const CALIBRATION_WINDOWS: usize = 256;
const CALIBRATION_WINDOWS_MIN: usize = 32;
const CALIBRATION_SHARE: f64 = 0.05;

/// How to run; what is learned is in [`Hyperparameters`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrainOptions {
    /// Decides every draw.
    pub seed: u64,
    /// Threads, at least 1. More than half the batch's blocks of 16 windows do not help.
    pub threads: usize,
    /// The vector instructions to use.
    pub isa: Isa,
}

impl Default for TrainOptions {
    /// Seed 0, one thread, the best instructions there are.
    fn default() -> Self {
        TrainOptions { seed: 0, threads: 1, isa: Isa::detect() }
    }
}

/// DeepAR as an [`Estimator`].
#[derive(Clone, Debug)]
pub struct DeepAr {
    /// What to learn.
    pub hyper: Hyperparameters,
    /// How to run.
    pub options: TrainOptions,
}

impl Estimator for DeepAr {
    fn train(&self, data: &Dataset, observer: &mut dyn TrainingObserver) -> Result<Trained> {
        let model = train(&self.hyper, data, &self.options, observer)?;
        let files = model.to_files()?;
        let report = model.report().clone();
        Ok(Trained { predictor: Box::new(model), files, report })
    }
}

/// Learns a model from `data`.
///
/// Refuses data of another frequency, with fewer than [`OBSERVATIONS_MIN`] observed points,
/// with values the likelihood cannot produce, or whose series are all shorter than the
/// horizon.
///
/// ```
/// use deepar::{Hyperparameters, TrainOptions, train};
/// use forecast::{Dataset, EpochReport, Frequency, TimeSeries, TrainingObserver};
///
/// /// Sees each epoch, and has had enough after some.
/// struct Enough(u32);
/// impl TrainingObserver for Enough {
///     fn epoch(&mut self, report: &EpochReport) {
///         assert!(report.loss.is_finite());
///         self.0 -= 1;
///     }
///     fn should_stop(&mut self) -> bool {
///         self.0 == 0
///     }
/// }
///
/// let target = (0..400).map(|t| (t % 24) as f32 + 5.0).collect();
/// let series = TimeSeries { target, ..TimeSeries::default() };
/// let data = Dataset { freq: Frequency::HOURLY, series: vec![series] };
/// let hyper = Hyperparameters::parse([
///     ("time_freq", "H"),
///     ("context_length", "24"),
///     ("prediction_length", "6"),
///     ("epochs", "50"),
///     ("num_cells", "16"),
///     ("windows_per_epoch", "256"),
/// ])?;
/// let options = TrainOptions { seed: 7, threads: 2, ..TrainOptions::default() };
/// let model = train(&hyper, &data, &options, &mut Enough(3))?;
/// assert_eq!(model.report().epochs, 3);
/// # Ok::<(), base::Error>(())
/// ```
pub fn train(
    hyper: &Hyperparameters,
    data: &Dataset,
    options: &TrainOptions,
    observer: &mut dyn TrainingObserver,
) -> Result<Model> {
    if options.threads == 0 {
        return Err(Error::invalid("training on 0 threads"));
    }
    let prepared = Prepared::new(hyper, data, options.seed)?;
    let data_sha256 = data_sha256(data);
    let tag = checkpoint::tag(hyper, options, &data_sha256);
    let mut run = Run::new(hyper, &prepared, options);
    if let Some(bytes) = observer.resume() {
        match checkpoint::read(&bytes, &tag, |fields| run.fields(fields)) {
            Ok(()) => observer.note(&format!(
                "Going on from a checkpoint: {} epochs and {} steps are done",
                run.report.log.len(),
                run.step
            )),
            Err(error) => {
                observer.note(&format!("A checkpoint is left aside: {error}"));
                run = Run::new(hyper, &prepared, options);
            }
        }
    }
    let report = std::thread::scope(|scope| {
        let mut crew = Crew::start(scope, run.workers.len() - 1);
        run.epochs(&tag, &mut crew, observer)
    })?;
    let params = std::mem::take(&mut run.finished);
    let mut hyper = hyper.clone();
    // Fewer than asked for if somebody stopped it.
    hyper.ensemble_size = params.len() as u32;
    let parts = Parts {
        shape: prepared.shape.clone(),
        plan: prepared.plan.clone(),
        params,
        calibration: Calibration::default(),
        nonnegative: prepared.nonnegative,
        provenance: Provenance {
            seed: options.seed,
            threads: options.threads,
            instructions: options.isa.to_string(),
            data_sha256,
            code_version: env!("CARGO_PKG_VERSION").to_owned(),
            arithmetic: ARITHMETIC,
            series: prepared.items.len(),
            series_skipped: data.series.len() - prepared.items.len(),
            observations: data.series.iter().map(TimeSeries::observed).sum(),
        },
        report,
        hyper,
    };
    let mut model = Model::new(parts, options.isa)?;
    if model.hyper.calibrate {
        model.calibration = calibrate(&model, data, &prepared)?;
    }
    Ok(model)
}

/// Compares forecasts of the windows kept from training with what came true.
fn calibrate(model: &Model, data: &Dataset, prepared: &Prepared<'_>) -> Result<Calibration> {
    let horizon = model.hyper.prediction_length;
    let options = PredictOptions { seed: Some(model.provenance.seed), ..PredictOptions::default() };
    let long_enough = |series: &&TimeSeries| series.target.len() >= horizon;
    let series: Vec<&TimeSeries> = data.series.iter().filter(long_enough).collect();
    let mut misses = Misses::new(horizon);
    let apart = prepared.apart.iter().enumerate();
    let apart = apart.flat_map(|(item, splits)| splits.iter().map(move |split| (item, *split)));
    let apart: Vec<Window> = apart.map(|(item, split)| Window { item, split }).collect();
    for windows in apart.chunks(2 * LANES) {
        let history = |window: &Window| series[window.item].prefix(window.split, horizon);
        let histories: Vec<TimeSeries> = windows.iter().map(history).collect();
        let paths = model.paths(&histories, &options)?;
        for (mut paths, window) in paths.into_iter().zip(windows) {
            misses.add(&mut paths, &series[window.item].target[window.split..][..horizon]);
        }
    }
    Ok(misses.calibration())
}

/// SHA-256 over everything that is learnt from, lengths included, as a model's
/// [`Provenance`] names it.
pub fn data_sha256(data: &Dataset) -> String {
    let mut hash = Sha256::new();
    hash.update(data.freq.to_string());
    let floats = |hash: &mut Sha256, values: &[f32]| {
        hash.update((values.len() as u64).to_le_bytes());
        for value in values {
            // All missing values are the same.
            let bits = if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() };
            hash.update(bits.to_le_bytes());
        }
    };
    for series in &data.series {
        hash.update(series.start.0.to_le_bytes());
        floats(&mut hash, &series.target);
        hash.update((series.feat_static_cat.len() as u64).to_le_bytes());
        series.feat_static_cat.iter().for_each(|cat| hash.update(cat.to_le_bytes()));
        series.feat_dynamic_real.iter().for_each(|feature| floats(&mut hash, feature));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The data, checked and in the form passes read.
struct Prepared<'d> {
    items: Vec<Item<'d>>,
    plan: Plan,
    shape: Shape,
    layout: Layout,
    nonnegative: bool,
    /// Steps at the end of each series kept from training.
    held: Vec<usize>,
    /// Splits of each series whose horizons are kept from training for the calibration.
    apart: Vec<Vec<usize>>,
}

impl<'d> Prepared<'d> {
    fn new(hyper: &Hyperparameters, data: &'d Dataset, seed: u64) -> Result<Prepared<'d>> {
        check(hyper, data)?;
        let cardinality = cardinality(hyper, data)?;
        let features = num_features(hyper, data)?;
        let horizon = hyper.prediction_length;
        let items: Vec<Item<'_>> = data
            .series
            .iter()
            .filter(|series| series.target.len() >= horizon)
            .map(|series| {
                let mut item = Item::new(series);
                item.cats.truncate(cardinality.len());
                item.features.truncate(features);
                item
            })
            .collect();
        if !items.iter().any(|item| item.target.iter().any(|z| !z.is_nan())) {
            return Err(Error::invalid(format!(
                "every series is shorter than prediction_length {horizon} or has no observed point"
            )));
        }
        let plan = Plan::new(hyper, features, Scaling::fit(&items, Framing::of(hyper)));
        let shape = Shape::new(hyper, &plan, cardinality);
        shape.check_size(hyper.context_length + horizon)?;
        let observed = || items.iter().flat_map(|item| item.target).filter(|z| !z.is_nan());
        let nonnegative = observed().all(|z| *z >= 0.0);
        let held = match hyper.early_stopping_patience {
            Some(_) => hold_back(&items, horizon),
            None => vec![0; items.len()],
        };
        let apart = match hyper.calibrate {
            true => set_apart(&items, &held, (hyper.context_length, horizon), seed),
            false => vec![Vec::new(); items.len()],
        };
        let layout = shape.layout();
        Ok(Prepared { nonnegative, items, plan, shape, layout, held, apart })
    }

    /// Splits at which a training window may begin its horizon: 0 to this, a series.
    fn splits(&self, horizon: usize) -> Vec<u64> {
        let count = |(item, held): (&Item<'_>, &usize)| {
            (item.target.len() - held).checked_sub(horizon).map_or(0, |last| last as u64 + 1)
        };
        self.items.iter().zip(&self.held).map(count).collect()
    }

    /// The windows whose horizons are held back.
    fn held_windows(&self, horizon: usize) -> Vec<Window> {
        let windows = |(item, held): (usize, &usize)| {
            let len = self.items[item].target.len();
            (1..=held / horizon).map(move |back| Window { item, split: len - back * horizon })
        };
        self.held.iter().enumerate().flat_map(windows).collect()
    }
}

fn check(hyper: &Hyperparameters, data: &Dataset) -> Result<()> {
    data.validate()?;
    if data.freq != hyper.time_freq {
        let (data, asked) = (data.freq, hyper.time_freq);
        return Err(Error::invalid(format!("the data are at {data}, time_freq is {asked}")));
    }
    let observed: usize = data.series.iter().map(TimeSeries::observed).sum();
    if observed < OBSERVATIONS_MIN {
        return Err(Error::invalid(format!(
            "the training data have {observed} observed points in {} series; DeepAR needs at least {OBSERVATIONS_MIN}",
            data.series.len()
        )));
    }
    for (index, series) in data.series.iter().enumerate() {
        for z in series.target.iter().filter(|z| !z.is_nan()) {
            hyper.likelihood.check(*z).map_err(|error| error.context(series.label(index)))?;
            if z.abs() > 1e30 {
                return Err(Error::invalid(format!(
                    "{}: target {z:e} is too large; rescale the data",
                    series.label(index)
                )));
            }
        }
    }
    Ok(())
}

fn cardinality(hyper: &Hyperparameters, data: &Dataset) -> Result<Vec<u32>> {
    let found = data.series.first().map_or(0, |series| series.feat_static_cat.len());
    let largest =
        |k: usize| data.series.iter().map(|series| series.feat_static_cat[k]).max().unwrap_or(0);
    match &hyper.cardinality {
        Cardinality::Ignore => Ok(Vec::new()),
        Cardinality::Auto => (0..found)
            .map(|k| match largest(k) {
                large @ 1_000_000.. => Err(Error::invalid(format!(
                    "cat[{k}] is as large as {large}; categories count from 0 to 999999"
                ))),
                largest => Ok(largest + 1),
            })
            .collect(),
        Cardinality::Given(sizes) if sizes.len() != found => Err(Error::invalid(format!(
            "cardinality names {} categories, the series have {found} in cat",
            sizes.len()
        ))),
        Cardinality::Given(sizes) => {
            for (k, size) in sizes.iter().enumerate() {
                let mut series = data.series.iter().enumerate();
                let beyond = series.find(|(_, series)| series.feat_static_cat[k] >= *size);
                if let Some((index, series)) = beyond {
                    return Err(Error::invalid(format!(
                        "{}: cat[{k}] is {}, cardinality allows 0 to {}; raise it to {} or leave cardinality at auto",
                        series.label(index),
                        series.feat_static_cat[k],
                        size - 1,
                        largest(k).saturating_add(1)
                    )));
                }
            }
            Ok(sizes.clone())
        }
    }
}

fn num_features(hyper: &Hyperparameters, data: &Dataset) -> Result<usize> {
    let found = data.series.first().map_or(0, |series| series.feat_dynamic_real.len());
    match hyper.num_dynamic_feat {
        DynamicFeat::Ignore => Ok(0),
        DynamicFeat::Given(count) if count != found => Err(Error::invalid(format!(
            "num_dynamic_feat is {count}, the series have {found} dynamic_feat"
        ))),
        _ => Ok(found),
    }
}

/// Windows for the calibration, by chance from the later half of the series: whole histories are
/// behind them, as behind what will be forecast, and they lie at many times of the year, which
/// the last weeks of a few neighbouring sensors do not.
fn set_apart(
    items: &[Item<'_>],
    held: &[usize],
    (context, horizon): (usize, usize),
    seed: u64,
) -> Vec<Vec<usize>> {
    let mut apart = vec![Vec::new(); items.len()];
    // Where the horizon may begin, for each series.
    let range = |(item, held): (&Item<'_>, &usize)| {
        let len = item.target.len() - held;
        len.div_ceil(2)..(len + 1).saturating_sub(horizon)
    };
    let ranges: Vec<_> = items.iter().zip(held).map(range).collect();
    let lengths = items.iter().zip(held).map(|(item, held)| item.target.len() - held);
    let splits: usize = lengths.map(|len| (len + 1).saturating_sub(horizon)).sum();
    let share = CALIBRATION_SHARE * splits as f64 / (context + 2 * horizon) as f64;
    let wanted = CALIBRATION_WINDOWS.min(share as usize);
    if wanted < CALIBRATION_WINDOWS_MIN {
        return apart;
    }
    let mut random = Stream::new(seed, purpose::APART, 0);
    let total: u64 = ranges.iter().map(|range| range.len() as u64).sum();
    for _ in 0..if total > 0 { wanted } else { 0 } {
        let mut at = random.below(total) as usize;
        for (range, taken) in ranges.iter().zip(&mut apart) {
            if at < range.len() {
                let split = range.start + at;
                if taken.iter().all(|other: &usize| other.abs_diff(split) >= horizon) {
                    taken.push(split);
                }
                break;
            }
            at -= range.len();
        }
    }
    apart
}

/// The last horizon of every series; several if there are few series, as far as they take no
/// more than a tenth of it: twelve windows alone would choose the best epoch by luck.
fn hold_back(items: &[Item<'_>], horizon: usize) -> Vec<usize> {
    const WINDOWS_WANTED: usize = 64;
    let wanted = WINDOWS_WANTED.div_ceil(items.len().max(1));
    let held = |item: &Item<'_>| {
        let len = item.target.len();
        // At least one window must be left to learn from.
        let most = (len / 10 / horizon).max(usize::from(len >= 2 * horizon));
        wanted.min(most) * horizon
    };
    items.iter().map(held).collect()
}

/// The weights to return.
struct Best {
    params: Vec<f32>,
    loss: f64,
    epoch: u32,
}

/// One training under way: the members of the ensemble, one after the other.
struct Run<'a> {
    /// Of the members that are done.
    finished: Vec<Vec<f32>>,
    /// The lowest loss of each of them.
    losses: Vec<f64>,
    hyper: &'a Hyperparameters,
    data: &'a Prepared<'a>,
    options: &'a TrainOptions,
    layout: &'a Layout,
    params: Vec<f32>,
    /// The parameters of the step under way, as the kernels read them.
    packed: Packed,
    adam: Adam,
    workers: Vec<Worker>,
    best: Best,
    /// Splits of each series, summed up: a draw below the last finds series and split.
    splits: Vec<u64>,
    held: Vec<Window>,
    /// Steps of the member under way.
    step: u64,
    /// Windows seen in the epochs that have ended, of all members.
    seen: u64,
    rate: Rate,
    report: TrainReport,
    /// Of the epoch under way: steps done and what they lost.
    steps_done: u64,
    epoch_loss: Loss,
}

/// One thread's room.
#[derive(Default)]
struct Worker {
    work: Workspace,
    grad: Vec<f32>,
    loss: Loss,
}

impl<'a> Run<'a> {
    fn new(
        hyper: &'a Hyperparameters,
        data: &'a Prepared<'a>,
        options: &'a TrainOptions,
    ) -> Run<'a> {
        let layout = &data.layout;
        let params = init(&data.shape, member_seed(options.seed, 0));
        let mut total = 0;
        let splits = data.splits(hyper.prediction_length).into_iter().map(|count| {
            total += count;
            total
        });
        let worker = |_| Worker {
            work: Workspace::default(),
            grad: vec![0.0; layout.len],
            loss: Loss::default(),
        };
        // A thread takes at least 16 windows.
        let threads = options.threads.min(hyper.mini_batch_size.div_ceil(LANES));
        let splits: Vec<u64> = splits.collect();
        Run {
            finished: Vec::new(),
            losses: Vec::new(),
            hyper,
            data,
            options,
            adam: Adam::new(layout.len),
            workers: (0..threads).map(worker).collect(),
            best: Best { params: params.clone(), loss: f64::INFINITY, epoch: 0 },
            rate: Rate::new(hyper, steps_per_epoch(hyper, &splits)),
            splits,
            held: data.held_windows(hyper.prediction_length),
            layout,
            params,
            packed: Packed::default(),
            step: 0,
            seen: 0,
            report: TrainReport::default(),
            steps_done: 0,
            epoch_loss: Loss::default(),
        }
    }

    /// Everything that changes from step to step, in the order it is kept.
    fn fields(&mut self, io: &mut dyn Fields) {
        let mut finished = self.finished.len() as u64;
        io.whole(&mut finished);
        let finished = (finished as usize).min(self.hyper.ensemble_size as usize);
        self.finished.resize_with(finished, || vec![0.0; self.layout.len]);
        self.losses.resize(finished, 0.0);
        self.finished.iter_mut().for_each(|params| io.floats(params));
        self.losses.iter_mut().for_each(|loss| io.real(loss));
        io.floats(&mut self.params);
        io.floats(&mut self.adam.mean);
        io.floats(&mut self.adam.square);
        io.whole(&mut self.adam.steps);
        io.floats(&mut self.best.params);
        io.real(&mut self.best.loss);
        checkpoint::small(io, &mut self.best.epoch);
        io.whole(&mut self.step);
        io.whole(&mut self.seen);
        io.real(&mut self.rate.halved);
        io.real(&mut self.rate.best);
        checkpoint::small(io, &mut self.rate.waited);
        io.whole(&mut self.steps_done);
        io.real(&mut self.epoch_loss.sum);
        io.whole(&mut self.epoch_loss.count);
        checkpoint::log(io, &mut self.report.log);
    }

    fn epochs(
        &mut self,
        tag: &str,
        crew: &mut Crew<Share<'a>>,
        observer: &mut dyn TrainingObserver,
    ) -> Result<TrainReport> {
        let members = self.hyper.ensemble_size;
        while self.finished.len() < members as usize {
            if !self.member(tag, crew, observer)? {
                break;
            }
            self.next_member();
        }
        self.finish()
    }

    /// Learns the member under way to its end; false if somebody asked to stop.
    fn member(
        &mut self,
        tag: &str,
        crew: &mut Crew<Share<'a>>,
        observer: &mut dyn TrainingObserver,
    ) -> Result<bool> {
        let batch = self.hyper.mini_batch_size as u64;
        let steps = steps_per_epoch(self.hyper, &self.splits);
        let epochs = self.hyper.epochs * self.hyper.ensemble_size;
        let first = self.hyper.epochs * self.finished.len() as u32;
        let windows_before: u64 = u64::from(first) * steps * batch;
        let done = self.report.log.iter().filter(|epoch| epoch.epoch >= first).count() as u32;
        for epoch in done..self.hyper.epochs {
            while self.steps_done < steps {
                if observer.should_stop() {
                    self.report.stopped = Some("asked to stop".to_owned());
                    return Ok(false);
                }
                let loss = self.train_step(crew, self.rate.at(self.step));
                self.epoch_loss.add(loss);
                if self.steps_done.is_multiple_of(16) {
                    let total = u64::from(epochs) * steps * batch;
                    observer.progress(windows_before + self.step * batch, total);
                }
                self.steps_done += 1;
                self.keep(tag, observer);
            }
            let held = (!self.held.is_empty()).then(|| self.held_loss());
            self.seen += self.steps_done * batch;
            let ended = EpochReport {
                epoch: first + epoch,
                epochs,
                loss: self.epoch_loss.mean(),
                validation_loss: held,
                learning_rate: self.rate.at(self.step.saturating_sub(1)),
                windows: self.seen,
            };
            self.judge(&ended)?;
            self.rate.epoch(held.unwrap_or(ended.loss));
            observer.epoch(&ended);
            self.report.log.push(ended);
            (self.steps_done, self.epoch_loss) = (0, Loss::default());
            let waited = first + epoch - self.best.epoch;
            if self.hyper.early_stopping_patience.is_some_and(|patience| waited >= patience) {
                break;
            }
        }
        Ok(true)
    }

    /// Puts the member under way aside and begins the next.
    fn next_member(&mut self) {
        self.finished.push(std::mem::take(&mut self.best.params));
        self.losses.push(self.best.loss);
        let member = self.finished.len();
        self.params = init(&self.data.shape, member_seed(self.options.seed, member));
        self.adam = Adam::new(self.layout.len);
        self.best = Best {
            params: self.params.clone(),
            loss: f64::INFINITY,
            epoch: member as u32 * self.hyper.epochs,
        };
        self.rate = Rate::new(self.hyper, steps_per_epoch(self.hyper, &self.splits));
        self.step = 0;
    }

    /// The seed of the member under way.
    fn seed(&self) -> u64 {
        member_seed(self.options.seed, self.finished.len())
    }

    /// Hands the state to the observer if it wants it.
    fn keep(&mut self, tag: &str, observer: &mut dyn TrainingObserver) {
        if observer.wants_checkpoint() {
            let bytes = checkpoint::write(tag, |fields| self.fields(fields));
            observer.checkpoint(&bytes);
        }
    }

    fn judge(&mut self, ended: &EpochReport) -> Result<()> {
        let loss = judged(ended);
        if !loss.is_finite() {
            return Err(Error::invalid(format!(
                "the loss is not finite in epoch {}; lower learning_rate {}",
                ended.epoch, self.hyper.learning_rate
            )));
        }
        if loss < self.best.loss {
            self.best = Best { params: self.params.clone(), loss, epoch: ended.epoch };
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<TrainReport> {
        let mut report = std::mem::take(&mut self.report);
        let epochs = report.log.len() as u32;
        if report.stopped.is_none() {
            report.stopped = self.ended_early(&report.log);
        }
        // A member that was stopped counts if it has learnt anything.
        if self.best.loss.is_finite() {
            self.next_member();
        }
        if self.finished.is_empty() {
            return Err(Error::new(
                base::ErrorKind::Unavailable,
                "training was stopped before its first epoch ended",
            ));
        }
        report.windows = self.seen;
        report.epochs = epochs;
        report.final_loss = self.losses.iter().sum::<f64>() / self.losses.len() as f64;
        let lowest = report.log.iter().min_by(|a, b| judged(a).total_cmp(&judged(b)));
        report.best_epoch = lowest.map_or(0, |epoch| epoch.epoch);
        Ok(report)
    }

    /// What early stopping did, told from the epochs alone, so that a training that goes on from
    /// a checkpoint tells the same.
    fn ended_early(&self, log: &[EpochReport]) -> Option<String> {
        let patience = self.hyper.early_stopping_patience?;
        let (epochs, members) = (self.hyper.epochs, self.hyper.ensemble_size);
        let ended = |member: &u32| log.iter().filter(|e| e.epoch / epochs == *member).count();
        let early = (0..members).filter(|member| ended(member) < epochs as usize).count();
        let of =
            if members > 1 { format!(" of {early} of {members} members") } else { String::new() };
        (early > 0).then(|| format!("no progress in {patience} epochs{of}"))
    }

    /// One batch, one step down.
    fn train_step(&mut self, crew: &mut Crew<Share<'a>>, learning_rate: f64) -> Loss {
        let batch = self.hyper.mini_batch_size;
        let windows = self.draw_windows(batch);
        self.packed.pack(self.options.isa, &self.data.shape, self.layout, &self.params, true);
        // Lent to the threads for this batch.
        let weights =
            Arc::new((std::mem::take(&mut self.params), std::mem::take(&mut self.packed)));
        let shares = share_out(batch, self.workers.len());
        let seed = self.seed();
        let share = |(worker, share): (&mut Worker, std::ops::Range<usize>)| Share {
            worker: std::mem::take(worker),
            data: self.data,
            weights: Some(weights.clone()),
            windows: windows[share.clone()].to_vec(),
            lengths: (self.hyper.context_length, self.hyper.prediction_length),
            chance: Chance {
                rate: self.hyper.dropout_rate,
                seed,
                step: self.step,
                first: share.start,
            },
            isa: self.options.isa,
        };
        let mut tasks = self.workers.iter_mut().zip(shares).map(share);
        if let Some(own) = tasks.next() {
            let done = crew.run(own, tasks.collect());
            self.workers = done.into_iter().map(|share| share.worker).collect();
        }
        let weights = Arc::into_inner(weights).expect("every share has given them back");
        (self.params, self.packed) = weights;
        let loss = self.reduce();
        self.step += 1;
        // The mean over observed points, whatever was missing in this batch.
        let scale = 1.0 / loss.count.max(1) as f64;
        let grad = &self.workers[0].grad;
        self.adam.step(self.options.isa, &mut self.params, grad, scale, learning_rate);
        loss
    }

    /// Adds all gradients into the first worker's, in order.
    fn reduce(&mut self) -> Loss {
        let mut loss = Loss::default();
        let Some((first, others)) = self.workers.split_first_mut() else { return loss };
        loss.add(first.loss);
        for other in others {
            loss.add(other.loss);
            self.options.isa.run(AddInto { to: &mut first.grad, from: &other.grad });
        }
        loss
    }

    fn draw_windows(&self, count: usize) -> Vec<Window> {
        let total = self.splits.last().copied().unwrap_or(0);
        let mut random = Stream::new(self.seed(), purpose::WINDOWS, self.step);
        let (context, horizon) = (self.hyper.context_length, self.hyper.prediction_length);
        // Whether a step that the window would be scored at is one the calibration looks at.
        let is_apart = |window: &Window| {
            let clear = |split: &usize| {
                window.split + horizon <= *split || window.split + 1 >= split + horizon + context
            };
            !self.data.apart[window.item].iter().all(clear)
        };
        let mut draw = || {
            let at = random.below(total);
            let item = self.splits.partition_point(|end| *end <= at);
            let before = if item == 0 { 0 } else { self.splits[item - 1] };
            Window { item, split: (at - before) as usize }
        };
        // Few are apart, so one that a hundred tries do not avoid is as good as never there.
        let mut draw = || {
            let first = draw();
            (0..100).fold(first, |window, _| if is_apart(&window) { draw() } else { window })
        };
        (0..count).map(|_| draw()).collect()
    }

    fn held_loss(&mut self) -> f64 {
        let packed = Packed::new(self.options.isa, &self.data.shape, self.layout, &self.params);
        let net = Net {
            shape: &self.data.shape,
            layout: self.layout,
            params: &self.params,
            packed: &packed,
            plan: &self.data.plan,
            isa: self.options.isa,
        };
        let lengths = (self.hyper.context_length, self.hyper.prediction_length);
        let zone = Zoneout::Mean(self.hyper.dropout_rate);
        let mut loss = Loss::default();
        for windows in self.held.chunks(2 * LANES) {
            let windows = with_items(&self.data.items, windows);
            loss.add(net.pass(&mut self.workers[0].work, 2 * LANES, lengths, &windows, zone, None));
        }
        loss.mean()
    }
}

/// The loss that an epoch is judged by.
fn judged(epoch: &EpochReport) -> f64 {
    epoch.validation_loss.unwrap_or(epoch.loss)
}

/// The first member has the training's own seed, so that a model of one is what it always was.
fn member_seed(seed: u64, member: usize) -> u64 {
    match member {
        0 => seed,
        _ => Stream::new(seed, purpose::MEMBERS, member as u64).next_u64(),
    }
}

/// Steps an epoch. Its windows are as many as asked, else as many as there are, from 1,600
/// (GluonTS's 50 batches of 32) to 4,000 (which gives the article's 20 epochs 2,500 steps), or
/// 6,000 to 15,000 for the improved recipe. The members of an ensemble share them.
fn steps_per_epoch(hyper: &Hyperparameters, splits: &[u64]) -> u64 {
    let there_are = splits.last().copied().unwrap_or(0);
    let (least, most) = match hyper.recipe {
        Recipe::DeepAr => (1600, 4000),
        Recipe::DeepArPlus => (6000, 15_000),
    };
    let windows = hyper.windows_per_epoch.unwrap_or(there_are.clamp(least, most));
    windows.div_ceil(u64::from(hyper.ensemble_size)).div_ceil(hyper.mini_batch_size as u64)
}

fn with_items<'i>(items: &'i [Item<'i>], windows: &[Window]) -> Vec<(&'i Item<'i>, Window)> {
    windows.iter().map(|window| (&items[window.item], *window)).collect()
}

/// One thread's share of a batch.
struct Share<'a> {
    worker: Worker,
    data: &'a Prepared<'a>,
    /// Given back when the share is done.
    weights: Option<Arc<(Vec<f32>, Packed)>>,
    windows: Vec<Window>,
    lengths: (usize, usize),
    chance: Chance,
    isa: Isa,
}

impl Task for Share<'_> {
    fn run(&mut self) {
        let Some(weights) = self.weights.take() else { return };
        let (params, packed) = &*weights;
        let (shape, layout, plan) = (&self.data.shape, &self.data.layout, &self.data.plan);
        let net = Net { shape, layout, params, packed, plan, isa: self.isa };
        let (items, windows) = (&self.data.items, &self.windows);
        self.worker.run(net, items, windows, self.lengths, self.chance);
    }
}

impl Worker {
    /// Runs its share of a batch, from `chance.first` on, in blocks of 32 lanes that begin at
    /// multiples of 32, and of 16 lanes at the ends.
    fn run(
        &mut self,
        net: Net<'_>,
        items: &[Item<'_>],
        windows: &[Window],
        lengths: (usize, usize),
        chance: Chance,
    ) {
        self.grad.fill(0.0);
        self.loss = Loss::default();
        let mut done = 0;
        while done < windows.len() {
            let first = chance.first + done;
            let whole = first.is_multiple_of(2 * LANES) && windows.len() - done > LANES;
            let lanes = if whole { 2 * LANES } else { LANES };
            let block = with_items(items, &windows[done..windows.len().min(done + lanes)]);
            let zone = Zoneout::Random(Chance { first, ..chance });
            let grad = Some(&mut self.grad[..]);
            self.loss.add(net.pass(&mut self.work, lanes, lengths, &block, zone, grad));
            done += lanes;
        }
    }
}

/// Consecutive parts of `0..count`, all but the last multiples of 16 and nearly equal.
fn share_out(count: usize, parts: usize) -> Vec<std::ops::Range<usize>> {
    let blocks = count.div_ceil(LANES);
    let bound = |part: usize| (part * blocks / parts * LANES).min(count);
    (0..parts).map(|part| bound(part)..bound(part + 1)).collect()
}

/// Adam (Kingma and Ba 2015) with the gradient's norm cut.
struct Adam {
    mean: Vec<f32>,
    square: Vec<f32>,
    steps: u64,
}

impl Adam {
    const BETA: (f64, f64) = (0.9, 0.999);

    fn new(len: usize) -> Adam {
        Adam { mean: vec![0.0; len], square: vec![0.0; len], steps: 0 }
    }

    /// Moves `params` against `scale * grad`.
    fn step(&mut self, isa: Isa, params: &mut [f32], grad: &[f32], scale: f64, rate: f64) {
        self.steps += 1;
        let steps = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let norm = isa.run(SquareSum(grad)).sqrt() * scale;
        let cut = if norm > GRADIENT_NORM_MAX { GRADIENT_NORM_MAX / norm } else { 1.0 };
        let (b1, b2) = Adam::BETA;
        let unbias = (1.0 - b2.powi(steps)).sqrt();
        isa.run(AdamLoop {
            params,
            grad,
            mean: &mut self.mean,
            square: &mut self.square,
            scale: (scale * cut) as f32,
            rate: (rate / (1.0 - b1.powi(steps)) * unbias) as f32,
            // Adam's epsilon of 1e-8 is beside the unbiased root.
            epsilon: (1e-8 * unbias) as f32,
        });
    }
}

struct AdamLoop<'a> {
    params: &'a mut [f32],
    grad: &'a [f32],
    mean: &'a mut [f32],
    square: &'a mut [f32],
    scale: f32,
    rate: f32,
    epsilon: f32,
}

impl Loops for AdamLoop<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (b1, b2) = (Adam::BETA.0 as f32, Adam::BETA.1 as f32);
        let moments = self.mean.iter_mut().zip(self.square.iter_mut());
        for ((param, grad), (mean, square)) in self.params.iter_mut().zip(self.grad).zip(moments) {
            let grad = grad * self.scale;
            *mean = b1 * *mean + (1.0 - b1) * grad;
            *square = b2 * *square + (1.0 - b2) * grad * grad;
            *param -= self.rate * *mean / (square.sqrt() + self.epsilon);
        }
    }
}

/// Of f32 squares, summed in 16 lanes of f64.
struct SquareSum<'a>(&'a [f32]);

impl Loops for SquareSum<'_> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        let mut sums = [0.0f64; 16];
        let chunks = self.0.chunks_exact(16);
        let tail: f64 = chunks.remainder().iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        for chunk in chunks {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *sum += f64::from(*x) * f64::from(*x);
            }
        }
        sums.iter().sum::<f64>() + tail
    }
}

struct AddInto<'a> {
    to: &'a mut [f32],
    from: &'a [f32],
}

impl Loops for AddInto<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        for (to, from) in self.to.iter_mut().zip(self.from) {
            *to += from;
        }
    }
}

/// The step size over time.
struct Rate {
    schedule: Schedule,
    base: f64,
    steps: f64,
    warm_up: f64,
    halved: f64,
    best: f64,
    waited: u32,
}

impl Rate {
    const PLATEAU_PATIENCE: u32 = 10;
    const LOWEST: f64 = 0.01;

    fn new(hyper: &Hyperparameters, steps_per_epoch: u64) -> Rate {
        let steps = steps_per_epoch as f64 * f64::from(hyper.epochs);
        Rate {
            schedule: hyper.learning_rate_schedule,
            base: hyper.learning_rate,
            steps,
            warm_up: (steps / 20.0).min(200.0),
            halved: 1.0,
            best: f64::INFINITY,
            waited: 0,
        }
    }

    fn at(&self, step: u64) -> f64 {
        let step = step as f64 + 1.0;
        let factor = match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Plateau => self.halved,
            Schedule::Cosine if step < self.warm_up => step / self.warm_up,
            Schedule::Cosine => {
                let done = ((step - self.warm_up) / (self.steps - self.warm_up).max(1.0)).min(1.0);
                let falling = 0.5 + 0.5 * (std::f64::consts::PI * done).cos();
                Rate::LOWEST + (1.0 - Rate::LOWEST) * falling
            }
        };
        self.base * factor
    }

    fn epoch(&mut self, loss: f64) {
        if loss < self.best {
            self.best = loss;
            self.waited = 0;
            return;
        }
        self.waited += 1;
        if self.waited > Rate::PLATEAU_PATIENCE {
            self.halved /= 2.0;
            self.waited = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use forecast::{Frequency, Silent};

    use super::*;

    #[test]
    fn a_member_is_the_model_that_its_seed_gives() {
        let day = |t: usize| 10.0 + (t as f32 / 24.0 * std::f32::consts::TAU).sin();
        let series = TimeSeries { target: (0..400).map(day).collect(), ..TimeSeries::default() };
        let data = Dataset { freq: Frequency::HOURLY, series: vec![series] };
        let hyper = |members: &str, windows: &str| {
            Hyperparameters::parse([
                ("time_freq", "H"),
                ("context_length", "12"),
                ("prediction_length", "6"),
                ("epochs", "3"),
                ("num_cells", "10"),
                ("mini_batch_size", "32"),
                ("recipe", "deepar-plus"),
                ("calibrate", "false"),
                ("ensemble_size", members),
                ("windows_per_epoch", windows),
            ])
            .unwrap()
        };
        let of = |hyper: &Hyperparameters, seed: u64| {
            let options = TrainOptions { seed, ..TrainOptions::default() };
            train(hyper, &data, &options, &mut Silent).unwrap()
        };
        let together = of(&hyper("3", "192"), 5);
        for (index, member) in together.members.iter().enumerate() {
            let alone = of(&hyper("1", "64"), member_seed(5, index));
            assert!(alone.members[0].params == member.params, "member {index}");
        }
    }
}
