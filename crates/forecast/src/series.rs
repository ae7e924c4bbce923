//! What is forecast: a target over time with its categories and known features.

use base::{Error, Result};
use serde::Serialize;

use crate::calendar::{DateTime, Frequency};
use crate::values::Values;

/// One item's history. Made by `training` and by a request; read by estimators and predictors.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TimeSeries {
    /// The caller's name for it.
    pub item_id: Option<String>,
    /// When `target[0]` was observed.
    pub start: DateTime,
    /// One value a step; NaN where none was observed.
    pub target: Values,
    /// Groups the item belongs to, counted from 0 (`cat` on the wire).
    pub feat_static_cat: Vec<u32>,
    /// Features known ahead (`dynamic_feat`), each as long as the target, or as the target
    /// and the horizon when a forecast is asked for. No missing values.
    pub feat_dynamic_real: Vec<Values>,
}

impl TimeSeries {
    /// Points observed.
    pub fn observed(&self) -> usize {
        self.target.iter().filter(|value| !value.is_nan()).count()
    }

    /// The first `len` points, features with `beyond` further ones as far as they go.
    pub fn prefix(&self, len: usize, beyond: usize) -> TimeSeries {
        TimeSeries {
            item_id: self.item_id.clone(),
            start: self.start,
            target: self.target.first(len),
            feat_static_cat: self.feat_static_cat.clone(),
            feat_dynamic_real: self
                .feat_dynamic_real
                .iter()
                .map(|feature| feature.first(len.saturating_add(beyond)))
                .collect(),
        }
    }

    /// How messages name it: its id, else its position.
    pub fn label(&self, index: usize) -> String {
        match &self.item_id {
            Some(id) => format!("series \"{}\"", crate::calendar::shorten(id)),
            None => format!("series {index}"),
        }
    }
}

/// Series of one frequency. Values only, no paths.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// The step of every series.
    pub freq: Frequency,
    /// The items.
    pub series: Vec<TimeSeries>,
}

/// What a data set holds, for logs and for the explanation of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Summary {
    /// Items.
    pub series: usize,
    /// Steps, observed or not.
    pub points: usize,
    /// Observed points.
    pub observed: usize,
    /// The shortest item.
    pub length_min: usize,
    /// The longest item.
    pub length_max: usize,
}

impl Dataset {
    /// Checks what every estimator relies on: all items have the same number of categories
    /// and of features, features are as long as their target and finite, no value is
    /// infinite. The message names the first item that breaks it.
    pub fn validate(&self) -> Result<()> {
        let Some(first) = self.series.first() else { return Ok(()) };
        let (cats, feats) = (first.feat_static_cat.len(), first.feat_dynamic_real.len());
        for (index, series) in self.series.iter().enumerate() {
            let refuse =
                |what: String| Err(Error::invalid(format!("{}: {what}", series.label(index))));
            if series.feat_static_cat.len() != cats {
                let found = series.feat_static_cat.len();
                return refuse(format!(
                    "has {found} values in cat where the first series has {cats}"
                ));
            }
            if series.feat_dynamic_real.len() != feats {
                let found = series.feat_dynamic_real.len();
                return refuse(format!(
                    "has {found} dynamic_feat where the first series has {feats}"
                ));
            }
            if let Some(at) = series.target.iter().position(|value| value.is_infinite()) {
                return refuse(format!("target[{at}] is not finite"));
            }
            for (k, feature) in series.feat_dynamic_real.iter().enumerate() {
                if feature.len() < series.target.len() {
                    let (found, len) = (feature.len(), series.target.len());
                    return refuse(format!(
                        "dynamic_feat[{k}] has {found} values for a target of {len}"
                    ));
                }
                if let Some(at) = feature.iter().position(|value| !value.is_finite()) {
                    return refuse(format!(
                        "dynamic_feat[{k}][{at}] is missing; features must be known"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Counts.
    pub fn summary(&self) -> Summary {
        let lengths = || self.series.iter().map(|series| series.target.len());
        Summary {
            series: self.series.len(),
            points: lengths().sum(),
            observed: self.series.iter().map(TimeSeries::observed).sum(),
            length_min: lengths().min().unwrap_or(0),
            length_max: lengths().max().unwrap_or(0),
        }
    }
}
