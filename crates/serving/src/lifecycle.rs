//! What endpoints are, in rows and in memory, and how the one follows the other.
//!
//! Loading happens on a thread of its own, an update on another: it may take hours.
//!
//! ```text
//! loaded ─▶ rehearsed ─▶ shifted, step by step ─▶ settled ─▶ on probation ─▶ the old ones go
//!    └──────────┴───────────────┴─▶ undone               └─▶ undone
//! ```

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use base::{Clock, Error, ErrorKind, Result, Timestamp};
use metastore::Metastore;
use tokio::sync::Notify;

use crate::counters::{Counters, Snapshot};
use crate::endpoint::{Deployed, Endpoint, Holding, Previous, Status};
use crate::fleet::{Fleet, LiveVariant, Source, locked};
use crate::host::Settings;
use crate::models::Models;
use crate::rollout::{Rollout, Watch};
use crate::route::Wheel;
use crate::shelf::{Folder, Shelf};
use crate::trial::Trial;

/// How often a rollout looks after its alarms, and how often a probation looks whether it is still
/// one.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_AFTER: Duration = Duration::from_secs(1);
/// Processes that may begin an update before it is given up.
const STARTS_MAX: u32 = 4;

/// Two sets of variants of one endpoint, to be compared by what came true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// The endpoint.
    pub endpoint: String,
    /// The variants that served it, each with its model, and those that an update brought.
    pub old: Vec<(String, String)>,
    /// See `old`.
    pub new: Vec<(String, String)>,
    /// When the update began.
    pub since: Timestamp,
}

/// Answers why the new models forecast worse than the old ones, if it is sure that they do.
pub type Accuracy = Arc<dyn Fn(&Comparison) -> Option<String> + Send + Sync>;

pub(crate) struct Core {
    pub(crate) store: Metastore,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) models: Arc<Models>,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) settings: Settings,
    pub(crate) watch: OnceLock<Watch>,
    pub(crate) accuracy: OnceLock<Accuracy>,
    live: RwLock<BTreeMap<String, Arc<Live>>>,
    /// By endpoint, configuration and variant; kept while the endpoint serves the configuration or
    /// may go back to it.
    counters: Mutex<BTreeMap<(String, String, String), Arc<Counters>>>,
    /// Held while a row and the memory of an endpoint change together.
    changes: Mutex<()>,
    pub(crate) settled: Notify,
}

/// An endpoint in memory: what answers, and the trial of what shall or of what just began to.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) trial: Option<Arc<Trial>>,
}

impl Live {
    /// The fleets, each once, and whether it is the one on trial.
    fn fleets(&self) -> impl Iterator<Item = (&Arc<Fleet>, bool)> {
        let trial = self.trial.iter();
        let others = trial.flat_map(|trial| [(&trial.new, true), (&trial.old, false)]);
        let own = self.trial.as_ref().is_some_and(|trial| Arc::ptr_eq(&trial.new, &self.fleet));
        let others = others.filter(|(fleet, _)| !Arc::ptr_eq(fleet, &self.fleet));
        std::iter::once((&self.fleet, own)).chain(others)
    }
}

impl Core {
    pub(crate) fn new(
        store: Metastore,
        clock: Arc<dyn Clock>,
        loader: crate::Loader,
        settings: Settings,
    ) -> Core {
        let models = Arc::new(Models::new(loader));
        Core {
            store,
            clock,
            shelf: Arc::new(Shelf::new(settings.models_bytes, Arc::clone(&models))),
            models,
            settings,
            watch: OnceLock::new(),
            accuracy: OnceLock::new(),
            live: RwLock::default(),
            counters: Mutex::default(),
            changes: Mutex::default(),
            settled: Notify::new(),
        }
    }

    pub(crate) fn changing(&self) -> MutexGuard<'_, ()> {
        locked(&self.changes)
    }

    pub(crate) fn row(&self, name: &str) -> Result<Endpoint> {
        find(self.store.get(name)?, "endpoint", name).map(|seen| seen.row)
    }

    pub(crate) fn live(&self, name: &str) -> Option<Arc<Live>> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub(crate) fn find_live(&self, name: &str) -> Result<Arc<Live>> {
        match self.live(name) {
            Some(live) => Ok(live),
            None => Err(not_in_service(name, self.store.get::<Endpoint>(name)?.as_deref())),
        }
    }

    fn put_live(&self, name: &str, fleet: Arc<Fleet>, trial: Option<Arc<Trial>>) {
        let live = Arc::new(Live { fleet, trial });
        self.live.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), live);
    }

    pub(crate) fn forget(&self, name: &str) {
        self.live.write().unwrap_or_else(PoisonError::into_inner).remove(name);
        locked(&self.counters).retain(|(endpoint, ..), _| endpoint != name);
        self.settled.notify_waiters();
    }

    /// Whether a trial is still the one that its endpoint is in.
    fn is_current(&self, name: &str, trial: &Arc<Trial>) -> bool {
        let live = self.live(name);
        live.and_then(|live| live.trial.clone()).is_some_and(|now| Arc::ptr_eq(&now, trial))
    }

    /// Counts of every variant in memory.
    pub(crate) fn snapshots(&self) -> Vec<Snapshot> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner);
        let mut all = Vec::new();
        for (name, live) in &*live {
            for (fleet, _) in live.fleets() {
                let shadows = fleet.shadows.iter().map(|shadow| (&shadow.variant, true));
                let answering = fleet.variants.iter().map(|variant| (variant, false));
                for (variant, shadow) in answering.chain(shadows) {
                    all.push(Snapshot {
                        endpoint: name.clone(),
                        config: fleet.config.clone(),
                        variant: variant.name.clone(),
                        shadow,
                        models_held: match &variant.source {
                            Source::One(_) => 1,
                            Source::Many(folder) => folder.held(),
                        },
                        ..variant.counters.snapshot()
                    });
                }
            }
        }
        // An update to the configuration that is served has its variants twice.
        let key = |one: &Snapshot| (one.endpoint.clone(), one.config.clone(), one.variant.clone());
        all.sort_by_key(key);
        all.dedup_by_key(|one| key(one));
        all
    }

    fn counters(&self, endpoint: &str, config: &str, variant: &str) -> Arc<Counters> {
        let key = (endpoint.to_owned(), config.to_owned(), variant.to_owned());
        Arc::clone(locked(&self.counters).entry(key).or_default())
    }

    /// Lets the counts go of configurations that an endpoint neither serves nor may go back to: who
    /// updates every minute must not gather them for ever.
    fn forget_counters(&self, row: &Endpoint) {
        let previous = row.previous.as_ref().map(|previous| &previous.config);
        locked(&self.counters).retain(|(endpoint, config, _), _| {
            *endpoint != row.name || *config == row.config || Some(config) == previous
        });
    }

    /// Loads what a row is on its way to, or what it has.
    pub(crate) fn load(&self, row: &Endpoint) -> Result<Fleet> {
        match &row.pending {
            Some(pending) => self.load_variants(&row.name, &pending.config, &pending.variants),
            None => self.load_variants(&row.name, &row.config, &row.variants),
        }
    }

    pub(crate) fn load_variants(
        &self,
        endpoint: &str,
        config: &str,
        variants: &[Deployed],
    ) -> Result<Fleet> {
        let (mut answering, mut shadows) = (Vec::new(), Vec::new());
        for variant in variants {
            let loaded = Arc::new(LiveVariant {
                name: variant.name.clone(),
                model: variant.model.clone(),
                artifact: variant
                    .artifact
                    .file_name()
                    .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
                source: self.source(variant)?,
                counters: self.counters(endpoint, config, &variant.name),
            });
            match variant.shadow {
                None => answering.push(loaded),
                Some(share) => shadows.push((loaded, share)),
            }
        }
        Fleet::new(config, answering, wheel_of(variants)?, shadows)
    }

    fn source(&self, variant: &Deployed) -> Result<Source> {
        match variant.holding {
            Holding::Many { keep } => {
                let shelf = Arc::clone(&self.shelf);
                Ok(Source::Many(Folder::new(&variant.artifact, keep, shelf)))
            }
            // A loader that panics must not leave the endpoint Creating for ever.
            Holding::One => catch_unwind(AssertUnwindSafe(|| self.models.load(&variant.artifact)))
                .unwrap_or_else(|_| Err(Error::internal("loading panicked")))
                .map(Source::One)
                .map_err(|error| {
                    // Where it lies on this machine is nobody's business.
                    let (folder, text) = (variant.artifact.parent(), error.to_string());
                    let place = folder.map_or_else(String::new, |at| format!("{}/", at.display()));
                    let text = if place.len() > 1 { text.replace(&place, "") } else { text };
                    Error::new(error.kind(), format!("model \"{}\": {text}", variant.model))
                        .with_source(error)
                }),
        }
    }

    /// Brings an endpoint back as its row has it, at the start of the process.
    pub(crate) fn resume(&self, name: &str, row: &Endpoint) -> Result<Endpoint> {
        let loaded = self.load_variants(name, &row.config, &row.variants);
        let mut row = row.clone();
        match loaded {
            Ok(fleet) => {
                self.put_live(name, Arc::new(fleet), None);
                // A file that is back repairs an endpoint that failed for want of it.
                if matches!(row.status, Status::Creating | Status::Failed) {
                    row.status = Status::InService;
                    row.failure_reason = None;
                }
            }
            Err(error) => {
                tracing::warn!(endpoint = name, %error, "endpoint does not load");
                if row.status != Status::Updating {
                    row.status = Status::Failed;
                }
                row.failure_reason = Some(error.to_string());
            }
        }
        if let Some(pending) = &mut row.pending {
            pending.starts += 1;
        }
        self.store.put(name, &row)?;
        Ok(row)
    }

    /// Ends a creation or an update with what loading gave.
    pub(crate) fn settle(&self, name: &str, loaded: Result<Arc<Fleet>>) {
        self.settle_with(name, loaded, None);
    }

    fn settle_with(&self, name: &str, loaded: Result<Arc<Fleet>>, trial: Option<Arc<Trial>>) {
        let changing = self.changing();
        if let Err(error) = self.try_settle(name, loaded, trial) {
            tracing::error!(endpoint = name, %error, "failed to record an endpoint's state");
        }
        drop(changing);
        self.settled.notify_waiters();
    }

    fn try_settle(
        &self,
        name: &str,
        loaded: Result<Arc<Fleet>>,
        trial: Option<Arc<Trial>>,
    ) -> Result<()> {
        let mut row = self.row(name)?;
        let pending = row.pending.take();
        row.modified_at = self.clock.now();
        match loaded {
            Ok(fleet) => {
                if let Some(pending) = pending {
                    let config = std::mem::replace(&mut row.config, pending.config);
                    let variants = std::mem::replace(&mut row.variants, pending.variants);
                    // One that failed is nothing to go back to.
                    let served = self.live(name).is_some();
                    row.previous = served.then_some(Previous { config, variants });
                }
                row.status = Status::InService;
                row.failure_reason = None;
                self.put_live(name, fleet, trial);
                self.forget_counters(&row);
            }
            Err(error) => {
                let old = self.live(name);
                row.status = if old.is_some() { Status::InService } else { Status::Failed };
                row.failure_reason = Some(match pending {
                    Some(pending) => format!("update to \"{}\" undone: {error}", pending.config),
                    None => error.to_string(),
                });
                if let Some(old) = old {
                    self.put_live(name, Arc::clone(&old.fleet), None);
                }
            }
        }
        self.store.put(name, &row)?;
        Ok(())
    }

    /// Goes back to the configuration before the last update, at once where it is still loaded: by
    /// hand, or because of the trial that condemned it. One that a later update took the place of
    /// has nothing to say any more.
    pub(crate) fn go_back(
        &self,
        name: &str,
        why: &str,
        condemned: Option<&Arc<Trial>>,
    ) -> Result<Endpoint> {
        let changing = self.changing();
        let mut row = self.row(name)?;
        if condemned.is_some_and(|trial| !self.is_current(name, trial)) {
            return Ok(row);
        }
        at_rest(&row, "roll back")?;
        let Some(previous) = row.previous.take() else {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "endpoint \"{name}\" has nothing to go back to: it served nothing before \"{}\"",
                    row.config
                ),
            ));
        };
        let trial = self.live(name).and_then(|live| live.trial.clone());
        let loaded = trial.filter(|trial| trial.old.config == previous.config);
        let fleet = match loaded {
            Some(trial) => Arc::clone(&trial.old),
            None => Arc::new(self.load_variants(name, &previous.config, &previous.variants)?),
        };
        let left = Previous { config: row.config, variants: row.variants };
        row.failure_reason = Some(format!("update to \"{}\" undone: {why}", left.config));
        (row.config, row.variants) = (previous.config, previous.variants);
        row.previous = Some(left);
        if condemned.is_none() {
            row.wanted = Some(row.config.clone());
        }
        row.status = Status::InService;
        row.modified_at = self.clock.now();
        self.put_live(name, fleet, None);
        self.store.put(name, &row)?;
        drop(changing);
        self.settled.notify_waiters();
        Ok(row)
    }

    /// Takes a loaded fleet into service: at once where there is nothing to take the place of,
    /// else on trial, on a thread of its own.
    pub(crate) fn begin(core: &Arc<Core>, row: &Endpoint, fleet: Fleet) {
        let name = row.name.clone();
        let fleet = Arc::new(fleet);
        let Some((old, pending)) = core.live(&name).zip(row.pending.as_ref()) else {
            return core.settle(&name, Ok(fleet));
        };
        if pending.starts > STARTS_MAX {
            let starts = pending.starts - 1;
            return core.settle(
                &name,
                Err(Error::internal(format!(
                    "the server ended {starts} times while the update was under way"
                ))),
            );
        }
        let Settings { threads, queue, guard, .. } = core.settings;
        let trial = Trial::new(fleet, Arc::clone(&old.fleet), guard, threads, queue);
        let trial = match trial {
            Ok(trial) => Arc::new(trial),
            Err(error) => return core.settle(&name, Err(error)),
        };
        core.put_live(&name, Arc::clone(&old.fleet), Some(Arc::clone(&trial)));
        let update = Update {
            core: Arc::downgrade(core),
            comparison: Comparison {
                endpoint: name.clone(),
                old: members(&row.variants),
                new: members(&pending.variants),
                since: row.modified_at,
            },
            rollout: pending.rollout.clone().unwrap_or_else(Rollout::at_once),
            trial,
            began: Instant::now(),
        };
        let started =
            std::thread::Builder::new().name("update".to_owned()).spawn(move || update.run());
        if let Err(cause) = started {
            core.settle(&name, Err(Error::io("starting the update", cause)));
        }
    }
}

fn members(variants: &[Deployed]) -> Vec<(String, String)> {
    variants.iter().map(|variant| (variant.name.clone(), variant.model.clone())).collect()
}

/// An update under way. It ends without a word when the host is gone: its row begins it anew.
struct Update {
    core: Weak<Core>,
    comparison: Comparison,
    rollout: Rollout,
    trial: Arc<Trial>,
    began: Instant,
}

/// How a wait ended.
enum Waited {
    /// The time is over.
    Passed,
    /// There is nothing left to do.
    Ended,
}

impl Update {
    fn run(&self) {
        let name = &self.comparison.endpoint;
        let passed = self.steps();
        let Some(core) = self.core.upgrade() else { return };
        match passed {
            Ok(Waited::Passed) => {
                let trial = self.trial.guard.on.then(|| Arc::clone(&self.trial));
                core.settle_with(name, Ok(Arc::clone(&self.trial.new)), trial);
            }
            Ok(Waited::Ended) => return,
            Err(error) => {
                self.trial.condemn(error.to_string());
                return core.settle(name, Err(error));
            }
        }
        drop(core);
        if !self.trial.guard.on {
            return;
        }
        let verdict = self.wait(self.trial.guard.probation, None);
        let Some(core) = self.core.upgrade() else { return };
        match verdict {
            Ok(Waited::Passed) => core.end_probation(name, &self.trial),
            Ok(Waited::Ended) => {}
            Err(error) => {
                tracing::warn!(endpoint = name, %error, "an update is undone");
                if let Err(error) = core.go_back(name, &error.to_string(), Some(&self.trial)) {
                    tracing::error!(endpoint = name, %error, "an update could not be undone");
                }
            }
        }
    }

    fn steps(&self) -> Result<Waited> {
        self.trial.rehearse()?;
        for (step, share) in self.rollout.shares.iter().enumerate() {
            let last = step + 1 == self.rollout.shares.len();
            self.trial.shift(*share)?;
            let wait =
                self.rollout.wait() + if last { self.rollout.keep() } else { Duration::ZERO };
            if let Waited::Ended = self.wait(wait, Some(&self.rollout))? {
                return Ok(Waited::Ended);
            }
        }
        Ok(Waited::Passed)
    }

    /// Waits, while everybody who may condemn the new variants is heard: during a rollout, or
    /// after it.
    fn wait(&self, wait: Duration, rollout: Option<&Rollout>) -> Result<Waited> {
        let until = Instant::now() + wait;
        let alarms = rollout.map(|rollout| &rollout.alarms).filter(|alarms| !alarms.is_empty());
        let limit_secs = rollout.and_then(|rollout| rollout.limit_secs);
        let look = if rollout.is_some() { LOOK } else { LOOK_AFTER };
        let guard = self.trial.guard;
        let mut asked = Instant::now();
        loop {
            if let Some(why) = self.trial.verdict() {
                return Err(Error::new(ErrorKind::Conflict, why));
            }
            let Some(core) = self.core.upgrade() else { return Ok(Waited::Ended) };
            if !core.is_current(&self.comparison.endpoint, &self.trial) {
                return Ok(Waited::Ended);
            }
            let rings = alarms.zip(core.watch.get()).and_then(|(alarms, watch)| watch(alarms));
            let accuracy =
                core.accuracy.get().filter(|_| guard.on && asked.elapsed() >= guard.accuracy_every);
            let worse = accuracy.and_then(|accuracy| {
                asked = Instant::now();
                accuracy(&self.comparison)
            });
            drop(core);
            if let Some(why) = rings.or(worse) {
                return Err(Error::new(ErrorKind::Conflict, why));
            }
            if limit_secs.is_some_and(|limit| self.began.elapsed().as_secs() >= limit) {
                return Err(Error::new(ErrorKind::Unavailable, "it took longer than it was given"));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Waited::Passed);
            }
            self.trial.wait(left.min(look));
        }
    }
}

impl Core {
    /// The old variants may go.
    fn end_probation(&self, name: &str, trial: &Arc<Trial>) {
        let _changing = self.changing();
        if let Some(live) = self.live(name).filter(|_| self.is_current(name, trial)) {
            self.put_live(name, Arc::clone(&live.fleet), None);
        }
    }
}

pub(crate) fn find<R>(
    row: Option<metastore::Versioned<R>>,
    what: &str,
    name: &str,
) -> Result<metastore::Versioned<R>> {
    row.ok_or_else(|| Error::not_found(format!("could not find {what} \"{name:.80}\"")))
}

/// Turns by the weights of those that answer.
pub(crate) fn wheel_of(variants: &[Deployed]) -> Result<Wheel> {
    let answering = variants.iter().filter(|variant| variant.shadow.is_none());
    Ok(Wheel::new(answering.map(|variant| variant.weight).collect())?.shuffled())
}

pub(crate) fn not_in_service(name: &str, row: Option<&Endpoint>) -> Error {
    let Some(row) = row else {
        return Error::not_found(format!("could not find endpoint \"{name:.80}\""));
    };
    let why = row.failure_reason.as_deref().unwrap_or("its models are not loaded");
    let status = row.status.as_str();
    Error::new(ErrorKind::Unavailable, format!("endpoint \"{name}\" is {status}: {why}"))
}

pub(crate) fn at_rest<'a>(row: &'a Endpoint, doing: &str) -> Result<&'a Endpoint> {
    match row.status {
        Status::InService | Status::Failed => Ok(row),
        Status::Creating | Status::Updating => Err(Error::new(
            ErrorKind::Conflict,
            format!("cannot {doing} in-progress endpoint \"{}\", wait for it", row.name),
        )),
    }
}
