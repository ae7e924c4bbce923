//! Rows of the control plane: models, endpoint configurations, endpoints.
//!
//! An endpoint keeps what it serves, not only the names of it: its configuration and its
//! models may be deleted while it lives, as notebooks do when they clean up in any order.

use std::path::{Path, PathBuf};

use base::{Error, Result, Timestamp};
use metastore::Row;
use serde::{Deserialize, Serialize};

use crate::rollout::Rollout;
use crate::route::Wheel;

/// Most variants of one endpoint, as SageMaker has it.
pub(crate) const VARIANTS_MAX: usize = 10;

/// A model file under a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// The `model.tar.gz`, or the folder of many.
    pub artifact: PathBuf,
    /// Which of the two.
    #[serde(default)]
    pub holding: Holding,
    /// When it was created.
    pub created_at: Timestamp,
}

/// What the artifact of a model is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Holding {
    /// One archive.
    #[default]
    One,
    /// A folder of archives; each request names one, which is loaded then.
    Many {
        /// Whether a model stays in memory for the next request.
        keep: bool,
    },
}

impl Row for Model {
    const TABLE: &'static str = "models";
}

/// A share of an endpoint's traffic.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Variant {
    /// Its name within the endpoint.
    pub name: String,
    /// The model that answers.
    pub model: String,
    /// Its share is its weight over the sum of all.
    pub weight: f64,
    /// A shadow: it answers nobody, and gets a copy of this share of the requests.
    #[serde(default)]
    pub shadow: Option<f64>,
}

/// Variants under a name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndpointConfig {
    /// Its name.
    pub name: String,
    /// One to ten that answer, and up to ten shadows.
    pub variants: Vec<Variant>,
    /// When it was created.
    pub created_at: Timestamp,
}

impl Row for EndpointConfig {
    const TABLE: &'static str = "endpoint_configs";
}

/// Where an endpoint is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Its models are being loaded for the first time.
    Creating,
    /// It answers.
    InService,
    /// It answers with what it has while the next configuration is being loaded.
    Updating,
    /// A model did not load; it answers nothing.
    Failed,
}

impl Status {
    /// SageMaker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Creating => "Creating",
            Status::InService => "InService",
            Status::Updating => "Updating",
            Status::Failed => "Failed",
        }
    }
}

/// A variant as an endpoint serves it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deployed {
    /// Its name within the endpoint.
    pub name: String,
    /// The model's name.
    pub model: String,
    /// The model's file or folder.
    pub artifact: PathBuf,
    /// Which of the two.
    #[serde(default)]
    pub holding: Holding,
    /// Its weight now.
    pub weight: f64,
    /// The share of the requests of which it gets copies, if it is a shadow.
    #[serde(default)]
    pub shadow: Option<f64>,
}

/// The configuration an endpoint is on its way to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pending {
    /// Its name.
    pub config: String,
    /// Its variants.
    pub variants: Vec<Deployed>,
    /// How traffic gets there; at once if absent.
    #[serde(default)]
    pub rollout: Option<Rollout>,
    /// How many processes began it. One that ends whatever process serves it must not be
    /// begun for ever.
    #[serde(default)]
    pub starts: u32,
}

/// The configuration an endpoint served before its last update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Previous {
    /// Its name.
    pub config: String,
    /// Its variants.
    pub variants: Vec<Deployed>,
}

/// A name that answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Its name.
    pub name: String,
    /// The configuration it serves.
    pub config: String,
    /// What that is.
    pub variants: Vec<Deployed>,
    /// What it is being updated to.
    pub pending: Option<Pending>,
    /// What it served before, which a rollback goes back to.
    #[serde(default)]
    pub previous: Option<Previous>,
    /// The configuration that was asked for last. It is not the one that is served where the
    /// update was undone.
    #[serde(default)]
    pub wanted: Option<String>,
    /// Where it is in its life.
    pub status: Status,
    /// Why it failed, or why its last update was undone.
    pub failure_reason: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub modified_at: Timestamp,
}

impl Row for Endpoint {
    const TABLE: &'static str = "endpoints";
}

impl Endpoint {
    /// Whether it serves a model file, or may go back to it.
    pub fn needs(&self, artifact: &Path) -> bool {
        let pending = self.pending.iter().flat_map(|pending| &pending.variants);
        let previous = self.previous.iter().flat_map(|previous| &previous.variants);
        self.variants.iter().chain(pending).chain(previous).any(|one| one.artifact == artifact)
    }
}

/// Checks a name as SageMaker does: letters, digits and inner hyphens, at most 63.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    let signs = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let ends = !name.starts_with('-') && !name.ends_with('-');
    if signs && ends && (1..=63).contains(&name.len()) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{what} name {name:.80?} must be 1 to 63 letters, digits and inner hyphens"
    )))
}

/// Checks the variants of a configuration among themselves.
pub(crate) fn check_variants(variants: &[Variant]) -> Result<()> {
    let shadows = variants.iter().filter(|variant| variant.shadow.is_some()).count();
    let found = variants.len() - shadows;
    if !(1..=VARIANTS_MAX).contains(&found) {
        return Err(Error::invalid(format!("{found} variants, expected 1 to {VARIANTS_MAX}")));
    }
    if shadows > VARIANTS_MAX {
        return Err(Error::invalid(format!("{shadows} shadows, at most {VARIANTS_MAX}")));
    }
    for (k, variant) in variants.iter().enumerate() {
        check_name("variant", &variant.name)?;
        if variants[..k].iter().any(|earlier| earlier.name == variant.name) {
            return Err(Error::invalid(format!("variant \"{}\" is named twice", variant.name)));
        }
        if let Some(share) = variant.shadow.filter(|share| !(0.0..=1.0).contains(share)) {
            return Err(Error::invalid(format!(
                "shadow variant \"{}\" gets copies of {share} of the requests; use 0 to 1",
                variant.name
            )));
        }
    }
    let answering = variants.iter().filter(|variant| variant.shadow.is_none());
    Wheel::new(answering.map(|variant| variant.weight).collect())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sagemakers() {
        for good in ["a", "DEMO-deepar-2024-01-01", &"x".repeat(63)] {
            check_name("model", good).unwrap();
        }
        for bad in ["", "-a", "a-", "a b", "a/b", "ä", "../x", &"x".repeat(64)] {
            assert!(check_name("model", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn variants_are_checked_together() {
        let made = |name: &str, weight, shadow| {
            let (name, model) = (name.into(), "m".into());
            Variant { name, model, weight, shadow }
        };
        let variant = |name: &str, weight| made(name, weight, None);
        check_variants(&[variant("a", 1.0), variant("b", 0.0)]).unwrap();
        let shadow = |name: &str, share| made(name, 0.0, Some(share));
        check_variants(&[variant("a", 1.0), shadow("s", 0.5), shadow("t", 1.0)]).unwrap();
        for (variants, expect) in [
            (vec![], "0 variants"),
            (vec![variant("a", 1.0); 11], "11 variants"),
            (vec![variant("a", 1.0), variant("a", 1.0)], "named twice"),
            (vec![variant("a", 0.0)], "no traffic"),
            (vec![variant("a b", 1.0)], "variant name"),
            (vec![shadow("s", 1.0)], "0 variants"),
            (vec![variant("a", 1.0), shadow("a", 1.0)], "named twice"),
            (vec![variant("a", 1.0), shadow("s", 1.5)], "use 0 to 1"),
            (vec![variant("a", 1.0), shadow("s", f64::NAN)], "use 0 to 1"),
        ] {
            let error = check_variants(&variants).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        }
    }
}
