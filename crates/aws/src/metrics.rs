//! Metrics by the minute, in memory: what users put and what endpoints count.
//!
//! The newest three days of each metric are kept, until the process ends. What operators watch
//! for good is at `/metrics`; this is what CloudWatch's calls and alarms read.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base::{Error, ErrorKind, Result, Timestamp};
use serving::{Host, Snapshot};

/// Minutes of one metric that are kept.
const MINUTES_MAX: usize = 3 * 24 * 60;
/// Metrics kept; more are refused.
const METRICS_MAX: usize = 10_000;

/// Which metric: namespace, name, and dimensions in order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Series {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) dimensions: BTreeMap<String, String>,
}

/// What was put within a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Point {
    pub(crate) sum: f64,
    pub(crate) minimum: f64,
    pub(crate) maximum: f64,
    pub(crate) count: f64,
}

impl Point {
    /// One value, `count` times.
    pub(crate) fn of(value: f64, count: f64) -> Point {
        Point { sum: value * count, minimum: value, maximum: value, count }
    }

    fn add(&mut self, other: Point) {
        self.sum += other.sum;
        self.minimum = self.minimum.min(other.minimum);
        self.maximum = self.maximum.max(other.maximum);
        self.count += other.count;
    }

    /// A statistic by CloudWatch's name.
    pub(crate) fn statistic(&self, name: &str) -> Option<f64> {
        Some(match name {
            "Sum" => self.sum,
            "Minimum" => self.minimum,
            "Maximum" => self.maximum,
            "SampleCount" => self.count,
            "Average" => self.sum / self.count,
            _ => return None,
        })
    }
}

/// All metrics of a node.
#[derive(Debug, Default)]
pub struct Metrics {
    series: Mutex<BTreeMap<Series, BTreeMap<i64, Point>>>,
    /// What each variant of a configuration had counted when it was last looked at.
    seen: Mutex<HashMap<(String, String, String), Snapshot>>,
}

impl Metrics {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Series, BTreeMap<i64, Point>>> {
        self.series.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds what was measured at a time.
    pub(crate) fn put(&self, series: Series, at: Timestamp, point: Point) -> Result<()> {
        let mut all = self.all();
        if !all.contains_key(&series) && all.len() >= METRICS_MAX {
            let message = format!("{METRICS_MAX} metrics are kept already");
            return Err(Error::new(ErrorKind::Exhausted, message));
        }
        let minutes = all.entry(series).or_default();
        let minute = at.millis().div_euclid(60_000);
        minutes.entry(minute).and_modify(|there| there.add(point)).or_insert(point);
        while minutes.len() > MINUTES_MAX {
            minutes.pop_first();
        }
        Ok(())
    }

    /// Adds one value without dimensions, as rules measure.
    pub fn measured(&self, namespace: &str, name: &str, value: f64, at: Timestamp) -> Result<()> {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        let series = Series { namespace, name, dimensions: BTreeMap::new() };
        self.put(series, at, Point::of(value, 1.0))
    }

    /// Every metric there is.
    pub(crate) fn list(&self) -> Vec<Series> {
        self.all().keys().cloned().collect()
    }

    /// The periods of `[from, to)`, both in seconds, that have something; each with its start.
    pub(crate) fn periods(
        &self,
        series: &Series,
        from: i64,
        to: i64,
        period: i64,
    ) -> Vec<(i64, Point)> {
        let mut out: BTreeMap<i64, Point> = BTreeMap::new();
        if let Some(minutes) = self.all().get(series) {
            for (minute, point) in minutes {
                let at = minute * 60;
                if at + 60 > from && at < to {
                    let start = at.div_euclid(period) * period;
                    out.entry(start).and_modify(|there| there.add(*point)).or_insert(*point);
                }
            }
        }
        out.into_iter().collect()
    }

    /// Adds what the endpoints' variants counted since the last look, under SageMaker's names:
    /// each once by endpoint and variant, and once more with the configuration, which tells
    /// during an update whose variant it was.
    pub fn look_at(&self, host: &Host, now: Timestamp) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for now_is in host.counters() {
            let key = (now_is.endpoint.clone(), now_is.config.clone(), now_is.variant.clone());
            let before = seen.insert(key, now_is.clone()).unwrap_or_default();
            let since = |pick: fn(&Snapshot) -> u64| {
                // A variant of an endpoint that was deleted and made anew counts from nothing.
                pick(&now_is).checked_sub(pick(&before)).unwrap_or(pick(&now_is))
            };
            let put = |name: &str, total: u64, samples: u64| {
                if samples > 0 {
                    self.count(&now_is, name, total, samples, now);
                }
            };
            let invocations = since(|s| s.invocations);
            let client = since(|s| s.client_errors);
            let server = since(|s| s.model_errors + s.refused + s.timed_out);
            let answered = invocations.saturating_sub(client + server);
            put("Invocations", invocations, invocations);
            put("InvocationsPerInstance", invocations, invocations);
            put("Invocation4XXErrors", client, invocations);
            put("Invocation5XXErrors", server, invocations);
            put("InvocationModelErrors", since(|s| s.model_errors), invocations);
            let model = since(|s| s.model_micros);
            put("ModelLatency", model, answered);
            put("OverheadLatency", since(|s| s.latency_micros).saturating_sub(model), answered);
            let (loads, hits) = (since(|s| s.loads), since(|s| s.hits));
            if loads + hits > 0 {
                put("ModelCacheHit", hits, loads + hits);
                put("ModelLoadingTime", since(|s| s.load_micros), loads);
                put("ModelLoadingWaitTime", since(|s| s.load_micros), loads);
                put("LoadedModelCount", now_is.models_held as u64, 1);
            }
        }
    }

    /// `total` spread over `samples`, since single requests are not told apart here.
    fn count(&self, of: &Snapshot, name: &str, total: u64, samples: u64, now: Timestamp) {
        #[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
        let (total, samples) = (total as f64, samples as f64);
        let mut dimensions = BTreeMap::from([
            ("EndpointName".to_owned(), of.endpoint.clone()),
            ("VariantName".to_owned(), of.variant.clone()),
        ]);
        for config in [None, Some(&of.config)] {
            if let Some(config) = config {
                dimensions.insert("EndpointConfigName".to_owned(), config.clone());
            }
            let series = Series {
                namespace: "AWS/SageMaker".to_owned(),
                name: name.to_owned(),
                dimensions: dimensions.clone(),
            };
            if let Err(error) = self.put(series, now, Point::of(total / samples, samples)) {
                tracing::warn!(%error, "an endpoint's metric was not kept");
            }
        }
    }
}
