//! A trained model: what it forecasts with, and how it came about.

use base::{Error, Result};
use forecast::{Forecast, Frequency, PredictOptions, Predictor, TimeSeries, TrainReport};
use serde::{Deserialize, Serialize};

use crate::calibration::Calibration;
use crate::features::Plan;
use crate::hyper::Hyperparameters;
use crate::kernels::Isa;
use crate::network::{Layout, Packed, Shape};

/// What a training comes to with the same data, settings, seed, threads and instructions. Raised
/// with every change of draws, kernels or formulas that gives other bytes, also between two
/// versions: models say it, and a checkpoint of another is not gone on from.
pub const ARITHMETIC: u32 = 1;

/// How the model came about; travels with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The seed of the training.
    pub seed: u64,
    /// Threads it ran on; another number rounds differently.
    pub threads: usize,
    /// The vector instructions it ran on; others round differently.
    pub instructions: String,
    /// SHA-256 over the values it learnt from, hexadecimal.
    pub data_sha256: String,
    /// The version of this crate.
    pub code_version: String,
    /// [`ARITHMETIC`] of the program; 0 if it is from before that was said.
    #[serde(default)]
    pub arithmetic: u32,
    /// Series learnt from, and those left out as shorter than the horizon.
    pub series: usize,
    /// See `series`.
    pub series_skipped: usize,
    /// Observed points.
    pub observations: usize,
}

/// A trained DeepAR model. It is a [`Predictor`].
///
/// [`Model::to_files`] and [`Model::from_files`] are how it travels. Forecasts depend on the
/// series, the options and the instruction set, not on what was asked before, so one model may
/// serve many threads.
#[derive(Clone, Debug)]
pub struct Model {
    pub(crate) hyper: Hyperparameters,
    pub(crate) shape: Shape,
    pub(crate) layout: Layout,
    pub(crate) plan: Plan,
    pub(crate) members: Vec<Member>,
    pub(crate) calibration: Calibration,
    pub(crate) nonnegative: bool,
    pub(crate) provenance: Provenance,
    pub(crate) report: TrainReport,
    pub(crate) isa: Isa,
}

/// One network of the ensemble; most models have one.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) params: Vec<f32>,
    pub(crate) packed: Packed,
}

/// The parts a model is made of, before they are checked and packed.
pub(crate) struct Parts {
    pub(crate) hyper: Hyperparameters,
    pub(crate) shape: Shape,
    pub(crate) plan: Plan,
    /// Of each member.
    pub(crate) params: Vec<Vec<f32>>,
    pub(crate) calibration: Calibration,
    pub(crate) nonnegative: bool,
    pub(crate) provenance: Provenance,
    pub(crate) report: TrainReport,
}

impl Model {
    pub(crate) fn new(parts: Parts, isa: Isa) -> Result<Model> {
        let layout = parts.shape.layout();
        let fits = |params: &Vec<f32>| params.len() == layout.len;
        if parts.params.is_empty() || !parts.params.iter().all(fits) {
            return Err(Error::internal("parameters do not fit the network"));
        }
        if !parts.params.iter().flatten().all(|p| p.is_finite()) {
            return Err(Error::invalid("the model has weights that are not finite numbers"));
        }
        let member = |params: Vec<f32>| Member {
            packed: Packed::new(isa, &parts.shape, &layout, &params),
            params,
        };
        let members = parts.params.into_iter().map(member).collect();
        Ok(Model {
            hyper: parts.hyper,
            shape: parts.shape,
            layout,
            plan: parts.plan,
            members,
            calibration: parts.calibration,
            nonnegative: parts.nonnegative,
            provenance: parts.provenance,
            report: parts.report,
            isa,
        })
    }

    /// The settings it was trained with.
    pub fn hyperparameters(&self) -> &Hyperparameters {
        &self.hyper
    }

    /// Where it comes from.
    pub fn provenance(&self) -> &Provenance {
        &self.provenance
    }

    /// What its training did.
    pub fn report(&self) -> &TrainReport {
        &self.report
    }

    /// Whether samples are kept from falling below zero, because no training value was.
    pub fn is_nonnegative(&self) -> bool {
        self.nonnegative
    }

    /// The sizes of the categories each series must bring; empty if none are used.
    pub fn cardinality(&self) -> &[u32] {
        &self.shape.cardinality
    }

    /// How many known features each series must bring.
    pub fn num_dynamic_feat(&self) -> usize {
        self.plan.features
    }

    /// Floating-point operations of the matrix products that learning from one window takes,
    /// forward and back: its steps times what [`limit`](crate::limit) counts for each layer.
    /// At the article's shape (24 + 24 hours, 3 layers of 40 cells) 10.4 million.
    pub fn training_flops_per_window(&self) -> f64 {
        let steps = self.hyper.context_length - 1 + self.hyper.prediction_length;
        let layer = |l: usize| {
            let inputs = if l == 0 { self.shape.inputs } else { self.shape.cells };
            crate::limit::layer_flops(inputs, self.shape.cells, l > 0)
        };
        steps as f64 * (0..self.shape.layers).map(layer).sum::<f64>()
    }

    /// Checks that the model can forecast `series`, and says what is wrong if not.
    pub fn check(&self, series: &TimeSeries, index: usize) -> Result<()> {
        let refuse = |what: String| Err(Error::invalid(format!("{}: {what}", series.label(index))));
        let cats = self.shape.cardinality.len();
        // A model trained with `ignore` takes series with or without.
        let ignores_cats = self.hyper.cardinality == crate::Cardinality::Ignore;
        if !ignores_cats && series.feat_static_cat.len() != cats {
            let found = series.feat_static_cat.len();
            return refuse(format!("has {found} values in cat, the model was trained with {cats}"));
        }
        for (k, (cat, size)) in
            series.feat_static_cat.iter().zip(&self.shape.cardinality).enumerate()
        {
            if cat >= size {
                return refuse(format!("cat[{k}] is {cat}, the model knows 0 to {}", size - 1));
            }
        }
        let ignores_features = self.hyper.num_dynamic_feat == crate::DynamicFeat::Ignore;
        if !ignores_features {
            self.check_features(series).or_else(refuse)?;
        }
        if let Some(at) = series.target.iter().position(|value| value.is_infinite()) {
            return refuse(format!("target[{at}] is not finite"));
        }
        Ok(())
    }

    fn check_features(&self, series: &TimeSeries) -> Result<(), String> {
        let (found, wanted) = (series.feat_dynamic_real.len(), self.plan.features);
        if found != wanted {
            return Err(format!("has {found} dynamic_feat, the model was trained with {wanted}"));
        }
        let needed = series.target.len() + self.hyper.prediction_length;
        for (k, feature) in series.feat_dynamic_real.iter().enumerate() {
            if feature.len() < needed {
                let (found, target) = (feature.len(), series.target.len());
                return Err(format!(
                    "dynamic_feat[{k}] has {found} values; a target of {target} and {} steps ahead need {needed}",
                    self.hyper.prediction_length
                ));
            }
            if let Some(at) = feature[..needed].iter().position(|value| !value.is_finite()) {
                return Err(format!("dynamic_feat[{k}][{at}] is missing"));
            }
        }
        Ok(())
    }
}

impl Predictor for Model {
    fn freq(&self) -> Frequency {
        self.plan.freq
    }

    fn prediction_length(&self) -> usize {
        self.hyper.prediction_length
    }

    fn predict(&self, series: &[TimeSeries], options: &PredictOptions) -> Result<Vec<Forecast>> {
        crate::sample::predict(self, series, options)
    }

    fn memory_bytes(&self) -> usize {
        let numbers = |member: &Member| member.params.len() + member.packed.numbers();
        let numbers: usize = self.members.iter().map(numbers).sum();
        size_of::<Model>() + numbers * size_of::<f32>()
    }
}
