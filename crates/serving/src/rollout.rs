//! How an update moves traffic from what serves to what comes: in steps of the requests' share,
//! with waits between them in which alarms are watched.

use std::sync::Arc;
use std::time::Duration;

use base::{Error, Result};
use serde::{Deserialize, Serialize};

/// The steps of an update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// The share of requests that the new variants answer after each step; the last is 1.
    pub shares: Vec<f64>,
    /// Seconds after each step.
    pub wait_secs: u64,
    /// Seconds for which the old variants are kept after the last.
    pub keep_secs: u64,
    /// Seconds the whole may take; beyond, it is undone.
    pub limit_secs: Option<u64>,
    /// Alarms that undo it while they ring.
    pub alarms: Vec<String>,
}

/// Answers which of these alarms rings, and why, if one does.
pub type Watch = Arc<dyn Fn(&[String]) -> Option<String> + Send + Sync>;

impl Rollout {
    /// One step, without a wait.
    pub(crate) fn at_once() -> Rollout {
        let (shares, alarms) = (vec![1.0], Vec::new());
        Rollout { shares, wait_secs: 0, keep_secs: 0, limit_secs: None, alarms }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let rising = self.shares.windows(2).all(|two| two[0] < two[1]);
        let within = self.shares.iter().all(|share| *share > 0.0 && *share <= 1.0);
        match rising && within && self.shares.last() == Some(&1.0) {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "the shares {:?} of an update do not rise from above 0 to 1",
                self.shares
            ))),
        }
    }

    pub(crate) fn wait(&self) -> Duration {
        Duration::from_secs(self.wait_secs)
    }

    pub(crate) fn keep(&self) -> Duration {
        Duration::from_secs(self.keep_secs)
    }
}
