//! Keeps endpoints and answers for them.
//!
//! Control calls change rows; loading happens on a thread of its own, so that a slow or
//! broken model holds up neither the caller nor the answers of others. Invocations look the
//! endpoint up in memory, never in the store.
//!
//! Invariants
//! * The memory of an endpoint is swapped whole, under one lock, and before its row says so:
//!   whoever reads InService can invoke.
//! * An update that fails leaves the endpoint InService on what it had, with the reason.
//! * After a restart an endpoint serves what its row says; an interrupted creation or update
//!   is carried on.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::{Duration, Instant};

use base::{Clock, Error, ErrorKind, Result};
use bytes::Bytes;
use forecast::Predictor;
use metastore::{Metastore, Row};
use tokio::sync::{Notify, oneshot};

use crate::counters::{Counters, Snapshot};
use crate::endpoint::{
    Deployed, Endpoint, EndpointConfig, Holding, Model, Pending, Status, Variant, check_name,
    check_variants,
};
use crate::media::Media;
use crate::models::{Loader, Models};
use crate::pool::Pool;
use crate::request::{Configuration, Request, Shape};
use crate::rollout::{Rollout, Watch};
use crate::route::Wheel;
use crate::shelf::Shelf;
use crate::{answer, batch};

/// Creations and updates that may wait for the loading thread.
const DEPLOYMENTS_MAX: usize = 256;

/// How much a host takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Threads that answer invocations.
    pub threads: usize,
    /// Invocations that may wait for a thread; more are refused.
    pub queue: usize,
    /// Longest time from arrival to answer. SageMaker gives a model 60 seconds.
    pub timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { threads: 2, queue: 64, timeout: Duration::from_secs(60) }
    }
}

/// One request to an endpoint, as it came.
#[derive(Clone, Debug, Default)]
pub struct Invocation {
    /// The endpoint's name.
    pub endpoint: String,
    /// The request.
    pub body: Bytes,
    /// The `Content-Type` header.
    pub content_type: Option<String>,
    /// The `Accept` header.
    pub accept: Option<String>,
    /// The variant that must answer, whatever the weights.
    pub target_variant: Option<String>,
    /// The model that must answer, of a variant that holds many.
    pub target_model: Option<String>,
}

/// What an endpoint answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The text.
    pub body: Vec<u8>,
    /// Its type.
    pub content_type: &'static str,
    /// Which variant made it.
    pub variant: String,
    /// The model behind that variant.
    pub model: String,
    /// How long that took, from arrival.
    pub latency: Duration,
}

/// All endpoints of a node.
#[derive(Debug)]
pub struct Host {
    core: Arc<Core>,
    invocations: Pool,
    deployments: Pool,
    timeout: Duration,
}

#[derive(Debug)]
struct Core {
    store: Metastore,
    clock: Arc<dyn Clock>,
    models: Arc<Models>,
    watch: OnceLock<Watcher>,
    live: RwLock<BTreeMap<String, Arc<Live>>>,
    /// Held while a row and the memory of an endpoint change together.
    changes: Mutex<()>,
    settled: Notify,
}

struct Watcher(Watch);

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watcher")
    }
}

/// An endpoint in memory: what answers, and during an update what shall.
#[derive(Debug)]
struct Live {
    fleet: Arc<Fleet>,
    next: Option<Next>,
}

/// All variants of a configuration, loaded.
#[derive(Debug)]
struct Fleet {
    variants: Vec<Arc<LiveVariant>>,
    wheel: Mutex<Wheel>,
}

/// The fleet that an update brings, with the turns between the old one and it.
#[derive(Debug)]
struct Next {
    fleet: Arc<Fleet>,
    split: Mutex<Wheel>,
}

impl Live {
    /// The fleet whose turn it is, and the other one.
    fn turn(&self) -> (&Fleet, Option<&Fleet>) {
        match &self.next {
            None => (&self.fleet, None),
            Some(next) => match next.split.lock().unwrap_or_else(PoisonError::into_inner).turn() {
                0 => (&self.fleet, Some(&next.fleet)),
                _ => (&next.fleet, Some(&self.fleet)),
            },
        }
    }

    fn variants(&self) -> impl Iterator<Item = &Arc<LiveVariant>> {
        let next = self.next.iter().flat_map(|next| &next.fleet.variants);
        self.fleet.variants.iter().chain(next)
    }
}

/// Where a variant's models come from.
enum Source {
    One(Arc<dyn Predictor>),
    Many(Shelf),
}

struct LiveVariant {
    name: String,
    model: String,
    source: Source,
    counters: Arc<Counters>,
}

impl std::fmt::Debug for LiveVariant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveVariant").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Host {
    /// Opens the endpoints kept in `store`, with every one that can be in service when this
    /// returns; `loader` makes predictors of model files.
    pub fn open(
        store: Metastore,
        clock: Arc<dyn Clock>,
        loader: Loader,
        settings: Settings,
    ) -> Result<Host> {
        let core = Arc::new(Core {
            store,
            clock,
            models: Arc::new(Models::new(loader)),
            watch: OnceLock::new(),
            live: RwLock::default(),
            changes: Mutex::default(),
            settled: Notify::new(),
        });
        let host = Host {
            core,
            invocations: Pool::new("serve", settings.threads, settings.queue)?,
            deployments: Pool::new("deploy", 1, DEPLOYMENTS_MAX)?,
            timeout: settings.timeout,
        };
        for (name, row) in host.core.store.list::<Endpoint>()? {
            host.core.resume(&name, &row)?;
            if row.pending.is_some() {
                host.deploy(&name);
            }
        }
        Ok(host)
    }

    /// Gives a model file a name. The file is read when an endpoint needs it.
    pub fn create_model(&self, name: &str, artifact: &Path) -> Result<Model> {
        check_name("model", name)?;
        if !artifact.is_file() {
            let shown = artifact.file_name().unwrap_or_default().to_string_lossy();
            return Err(Error::not_found(format!("model \"{name}\": there is no file {shown}")));
        }
        let created_at = self.core.clock.now();
        let holding = Holding::One;
        let row =
            Model { name: name.to_owned(), artifact: artifact.to_owned(), holding, created_at };
        self.core.store.create(name, &row)?;
        Ok(row)
    }

    /// Gives a folder of model files a name; each request names the file that answers. With
    /// `keep`, a model stays in memory for the next request.
    pub fn create_many(&self, name: &str, folder: &Path, keep: bool) -> Result<Model> {
        check_name("model", name)?;
        let row = Model {
            name: name.to_owned(),
            artifact: folder.to_owned(),
            holding: Holding::Many { keep },
            created_at: self.core.clock.now(),
        };
        self.core.store.create(name, &row)?;
        Ok(row)
    }

    /// The model of a name, loaded: for work that needs no endpoint.
    pub fn load(&self, name: &str) -> Result<Arc<dyn Predictor>> {
        let model = self.model(name)?;
        if model.holding != Holding::One {
            return Err(Error::unsupported(format!("model \"{name}\" holds many archives")));
        }
        self.core.models.load(&model.artifact)
    }

    /// Says whom to ask whether an alarm rings. The first watch stays.
    pub fn watch_with(&self, watch: Watch) {
        if self.core.watch.set(Watcher(watch)).is_err() {
            tracing::warn!("alarms are watched already");
        }
    }

    /// Whether there is somebody to ask for alarms.
    pub fn has_watch(&self) -> bool {
        self.core.watch.get().is_some()
    }

    /// Which of these alarms rings now, if one does.
    pub fn ringing(&self, alarms: &[String]) -> Option<String> {
        self.core.watch.get().and_then(|watch| (watch.0)(alarms))
    }

    /// Names a set of variants, whose models must exist.
    pub fn create_config(&self, name: &str, variants: Vec<Variant>) -> Result<EndpointConfig> {
        check_name("endpoint configuration", name)?;
        check_variants(&variants)?;
        let created_at = self.core.clock.now();
        let row = EndpointConfig { name: name.to_owned(), variants, created_at };
        self.core.store.transact(|rows| {
            for variant in &row.variants {
                find::<Model>(rows.get(&variant.model)?, "model", &variant.model)?;
            }
            rows.create(name, &row)
        })?;
        Ok(row)
    }

    /// Creates an endpoint. It is Creating on return; [`Host::settled`] waits for the outcome.
    pub fn create_endpoint(&self, name: &str, config: &str) -> Result<Endpoint> {
        check_name("endpoint", name)?;
        let now = self.core.clock.now();
        let row = self.core.store.transact(|rows| {
            let row = Endpoint {
                name: name.to_owned(),
                config: config.to_owned(),
                variants: resolve(rows, config)?,
                pending: None,
                status: Status::Creating,
                failure_reason: None,
                created_at: now,
                modified_at: now,
            };
            rows.create(name, &row)?;
            Ok(row)
        })?;
        self.deploy(name);
        Ok(row)
    }

    /// Moves an endpoint to another configuration; it answers with the old one until the new
    /// one is loaded. A failed endpoint may be repaired this way.
    pub fn update_endpoint(&self, name: &str, config: &str) -> Result<Endpoint> {
        self.update_endpoint_by(name, config, None, &[])
    }

    /// As [`Host::update_endpoint`], by the steps of a rollout, with other weights than the
    /// configuration's for the variants named. What is undone on the way is as it was before.
    pub fn update_endpoint_by(
        &self,
        name: &str,
        config: &str,
        rollout: Option<Rollout>,
        weights: &[(String, f64)],
    ) -> Result<Endpoint> {
        if let Some(rollout) = &rollout {
            rollout.check()?;
        }
        let now = self.core.clock.now();
        let row = self.core.store.transact(|rows| {
            let seen = find::<Endpoint>(rows.get(name)?, "endpoint", name)?;
            let mut row = at_rest(&seen.row, "update")?.clone();
            let mut variants = resolve(rows, config)?;
            for (variant, weight) in weights {
                if let Some(found) = variants.iter_mut().find(|have| have.name == *variant) {
                    found.weight = *weight;
                }
            }
            wheel_of(&variants)?;
            let rollout = rollout.clone();
            row.pending = Some(Pending { config: config.to_owned(), variants, rollout });
            row.status = Status::Updating;
            row.failure_reason = None;
            row.modified_at = now;
            rows.replace(name, seen.version, &row)?;
            Ok(row)
        })?;
        self.deploy(name);
        Ok(row)
    }

    /// Changes weights of an endpoint in service at once; variants not named keep theirs.
    pub fn update_weights(&self, name: &str, weights: &[(String, f64)]) -> Result<Endpoint> {
        let core = &self.core;
        let now = core.clock.now();
        let _changing = core.changing();
        let row = core.store.transact(|rows| {
            let seen = find::<Endpoint>(rows.get(name)?, "endpoint", name)?;
            let mut row = at_rest(&seen.row, "update")?.clone();
            if row.status != Status::InService {
                return Err(not_in_service(name, Some(&row)));
            }
            for (variant, weight) in weights {
                let found = row.variants.iter_mut().find(|have| have.name == *variant);
                found.ok_or_else(|| no_variant(name, variant))?.weight = *weight;
            }
            wheel_of(&row.variants)?;
            row.modified_at = now;
            rows.replace(name, seen.version, &row)?;
            Ok(row)
        })?;
        let live = core.find_live(name)?;
        let wheel = Mutex::new(wheel_of(&row.variants)?);
        let fleet = Fleet { variants: live.fleet.variants.clone(), wheel };
        core.put_live(name, fleet);
        Ok(row)
    }

    /// Takes an endpoint out of service. Requests already accepted are still answered.
    pub fn delete_endpoint(&self, name: &str) -> Result<()> {
        let _changing = self.core.changing();
        self.core.store.transact(|rows| {
            let seen = find::<Endpoint>(rows.get(name)?, "endpoint", name)?;
            at_rest(&seen.row, "delete")?;
            rows.delete::<Endpoint>(name)
        })?;
        self.core.write_live().remove(name);
        self.core.settled.notify_waiters();
        Ok(())
    }

    /// Forgets a configuration; endpoints that serve it go on.
    pub fn delete_config(&self, name: &str) -> Result<()> {
        self.delete::<EndpointConfig>("endpoint configuration", name)
    }

    /// Forgets a model; endpoints that serve it go on, and its file stays.
    pub fn delete_model(&self, name: &str) -> Result<()> {
        self.delete::<Model>("model", name)
    }

    fn delete<R: Row>(&self, what: &str, name: &str) -> Result<()> {
        match self.core.store.delete::<R>(name)? {
            true => Ok(()),
            false => Err(Error::not_found(format!("could not find {what} \"{name}\""))),
        }
    }

    /// A model.
    pub fn model(&self, name: &str) -> Result<Model> {
        find(self.core.store.get(name)?, "model", name).map(|seen| seen.row)
    }

    /// A configuration.
    pub fn config(&self, name: &str) -> Result<EndpointConfig> {
        find(self.core.store.get(name)?, "endpoint configuration", name).map(|seen| seen.row)
    }

    /// An endpoint.
    pub fn endpoint(&self, name: &str) -> Result<Endpoint> {
        self.core.row(name)
    }

    /// All models, by name.
    pub fn models(&self) -> Result<Vec<Model>> {
        self.list()
    }

    /// All configurations, by name.
    pub fn configs(&self) -> Result<Vec<EndpointConfig>> {
        self.list()
    }

    /// All endpoints, by name.
    pub fn endpoints(&self) -> Result<Vec<Endpoint>> {
        self.list()
    }

    fn list<R: Row>(&self) -> Result<Vec<R>> {
        let rows = self.core.store.list::<R>()?;
        Ok(rows.into_iter().map(|(_, seen)| seen.row).collect())
    }

    /// Waits until an endpoint is neither Creating nor Updating.
    pub async fn settled(&self, name: &str) -> Result<Endpoint> {
        loop {
            let changed = self.core.settled.notified();
            tokio::pin!(changed);
            // Registered before the row is read, so that no change falls in between.
            changed.as_mut().enable();
            let row = self.core.row(name)?;
            if !matches!(row.status, Status::Creating | Status::Updating) {
                return Ok(row);
            }
            changed.await;
        }
    }

    /// Counts of every variant in service.
    pub fn counters(&self) -> Vec<Snapshot> {
        let live = self.core.live.read().unwrap_or_else(PoisonError::into_inner);
        let variants = live.iter().flat_map(|(name, live)| {
            live.variants().map(move |variant| variant.counters.snapshot(name, &variant.name))
        });
        let mut all: Vec<Snapshot> = variants.collect();
        // During an update both fleets count for a variant that stays.
        all.dedup_by(|a, b| a.endpoint == b.endpoint && a.variant == b.variant);
        all
    }

    /// Answers one request. The crate's documentation says what each kind of error means.
    pub async fn invoke(&self, invocation: Invocation) -> Result<Answer> {
        let arrived = Instant::now();
        let request_media = Media::of_request(invocation.content_type.as_deref())?;
        let answer_media = Media::of_answer(invocation.accept.as_deref(), request_media)?;
        let variant = self.route(&invocation)?;
        variant.counters.arrived();
        let (reply, answer) = oneshot::channel();
        let task = Task {
            variant: Arc::clone(&variant),
            target_model: invocation.target_model,
            body: invocation.body,
            request_media,
            answer_media,
            arrived,
        };
        if let Err(error) = self.invocations.submit(move || task.run(reply)) {
            variant.counters.failed(error.kind());
            return Err(error.context(format_args!("endpoint \"{}\"", invocation.endpoint)));
        }
        match tokio::time::timeout(self.timeout, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::internal("the thread that answers ended")),
            Err(_) => Err(Error::new(
                ErrorKind::Unavailable,
                format!("no answer within {} s; ask for fewer instances", self.timeout.as_secs()),
            )),
        }
    }

    fn route(&self, invocation: &Invocation) -> Result<Arc<LiveVariant>> {
        let name = &invocation.endpoint;
        let live = self.core.find_live(name)?;
        let (fleet, other) = live.turn();
        let variant = match &invocation.target_variant {
            None => {
                let turn = fleet.wheel.lock().unwrap_or_else(PoisonError::into_inner).turn();
                Arc::clone(&fleet.variants[turn])
            }
            Some(target) => {
                let mut all = fleet.variants.iter().chain(other.iter().flat_map(|f| &f.variants));
                let found = all.find(|variant| variant.name == *target);
                found.cloned().ok_or_else(|| no_variant(name, target))?
            }
        };
        match (&variant.source, invocation.target_model.is_some()) {
            (Source::One(_), true) => Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "endpoint \"{name}\" is not a multi-model endpoint: leave out the target model"
                ),
            )),
            (Source::Many(_), false) => Err(Error::new(
                ErrorKind::Conflict,
                format!("endpoint \"{name}\" is a multi-model endpoint: name a target model"),
            )),
            _ => Ok(variant),
        }
    }

    fn deploy(&self, name: &str) {
        let (core, own) = (Arc::clone(&self.core), name.to_owned());
        let queued = self.deployments.submit(move || {
            let row = core.row(&own);
            let rollout = row.as_ref().ok().and_then(|row| row.pending.as_ref()?.rollout.clone());
            let loaded = row.and_then(|row| core.load(&row));
            match (loaded, rollout) {
                (Ok(fleet), Some(rollout)) => Core::begin_rollout(&core, own, fleet, rollout),
                (loaded, _) => core.settle(&own, loaded),
            }
        });
        if let Err(refused) = queued {
            self.core.settle(name, Err(refused));
        }
    }
}

impl Core {
    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn row(&self, name: &str) -> Result<Endpoint> {
        find(self.store.get(name)?, "endpoint", name).map(|seen| seen.row)
    }

    fn write_live(&self) -> std::sync::RwLockWriteGuard<'_, BTreeMap<String, Arc<Live>>> {
        self.live.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn put_live(&self, name: &str, fleet: Fleet) {
        self.put_fleets(name, Arc::new(fleet), None);
    }

    fn put_fleets(&self, name: &str, fleet: Arc<Fleet>, next: Option<Next>) {
        self.write_live().insert(name.to_owned(), Arc::new(Live { fleet, next }));
    }

    /// Takes the fleet that an update brought out of the turns.
    fn drop_next(&self, name: &str) {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some(live) = live.filter(|live| live.next.is_some()) {
            self.put_fleets(name, Arc::clone(&live.fleet), None);
        }
    }

    /// Starts a rollout on a thread of its own: it may wait for hours.
    fn begin_rollout(core: &Arc<Core>, name: String, fleet: Fleet, rollout: Rollout) {
        // An endpoint that failed has nothing to share its traffic with.
        if !core.write_live().contains_key(&name) {
            return core.settle(&name, Ok(fleet));
        }
        let (weak, own) = (Arc::downgrade(core), name.clone());
        let started = std::thread::Builder::new()
            .name("rollout".to_owned())
            .spawn(move || roll(&weak, &own, fleet, &rollout));
        if let Err(cause) = started {
            core.settle(&name, Err(Error::io("starting the rollout", cause)));
        }
    }

    fn find_live(&self, name: &str) -> Result<Arc<Live>> {
        let live = self.live.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        match live {
            Some(live) => Ok(live),
            None => Err(not_in_service(name, self.store.get::<Endpoint>(name)?.as_deref())),
        }
    }

    /// Loads what a row is on its way to, or what it has.
    fn load(&self, row: &Endpoint) -> Result<Fleet> {
        let variants = row.pending.as_ref().map_or(&row.variants, |pending| &pending.variants);
        self.load_variants(&row.name, variants)
    }

    fn load_variants(&self, name: &str, variants: &[Deployed]) -> Result<Fleet> {
        let before = self.live.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let load = |variant: &Deployed| {
            let source = match variant.holding {
                Holding::Many { keep } => {
                    Source::Many(Shelf::new(&variant.artifact, keep, Arc::clone(&self.models)))
                }
                // A loader that panics must not leave the endpoint Creating for ever.
                Holding::One => {
                    catch_unwind(AssertUnwindSafe(|| self.models.load(&variant.artifact)))
                        .unwrap_or_else(|_| Err(Error::internal("loading panicked")))
                        .map(Source::One)
                        .map_err(|error| {
                            error.context(format_args!("model \"{}\"", variant.model))
                        })?
                }
            };
            let known = before.iter().flat_map(|live| live.variants());
            let counters = known
                .filter(|have| have.name == variant.name)
                .map(|have| Arc::clone(&have.counters))
                .next()
                .unwrap_or_default();
            let (name, model) = (variant.name.clone(), variant.model.clone());
            Ok(Arc::new(LiveVariant { name, model, source, counters }))
        };
        let loaded = variants.iter().map(load).collect::<Result<_>>()?;
        Ok(Fleet { variants: loaded, wheel: Mutex::new(wheel_of(variants)?) })
    }

    /// Brings an endpoint back as its row has it, at the start of the process.
    fn resume(&self, name: &str, row: &Endpoint) -> Result<()> {
        let loaded = self.load_variants(name, &row.variants);
        let mut row = row.clone();
        match loaded {
            Ok(live) => {
                self.put_live(name, live);
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
        self.store.put(name, &row)?;
        Ok(())
    }

    /// Ends a creation or an update with what loading gave.
    fn settle(&self, name: &str, loaded: Result<Fleet>) {
        let changing = self.changing();
        if let Err(error) = self.try_settle(name, loaded) {
            tracing::error!(endpoint = name, %error, "failed to record an endpoint's state");
        }
        drop(changing);
        self.settled.notify_waiters();
    }

    fn try_settle(&self, name: &str, loaded: Result<Fleet>) -> Result<()> {
        let mut row = self.row(name)?;
        let pending = row.pending.take();
        row.modified_at = self.clock.now();
        match loaded {
            Ok(live) => {
                if let Some(pending) = pending {
                    (row.config, row.variants) = (pending.config, pending.variants);
                }
                row.status = Status::InService;
                row.failure_reason = None;
                self.put_live(name, live);
            }
            Err(error) => {
                self.drop_next(name);
                let has_old = self.write_live().contains_key(name);
                row.status = if has_old { Status::InService } else { Status::Failed };
                row.failure_reason = Some(match pending {
                    Some(pending) => format!("update to \"{}\" undone: {error}", pending.config),
                    None => error.to_string(),
                });
            }
        }
        self.store.put(name, &row)?;
        Ok(())
    }
}

/// How often a rollout looks after its alarms.
const LOOK: Duration = Duration::from_millis(100);

/// Moves an endpoint's traffic step by step, and undoes it when an alarm rings or the time is
/// out. Ends without a word when the host is gone: its row begins the update anew.
fn roll(core: &Weak<Core>, name: &str, fleet: Fleet, rollout: &Rollout) {
    let began = Instant::now();
    let fleet = Arc::new(fleet);
    for (step, share) in rollout.shares.iter().enumerate() {
        let last = step + 1 == rollout.shares.len();
        let Some(owner) = core.upgrade() else { return };
        let shifted = owner.shift(name, &fleet, *share);
        drop(owner);
        let wait = rollout.wait() + if last { rollout.keep() } else { Duration::ZERO };
        let outcome = shifted.and_then(|()| bake(core, rollout, began, wait));
        match outcome {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                if let Some(owner) = core.upgrade() {
                    owner.settle(name, Err(error));
                }
                return;
            }
        }
    }
    let Some(owner) = core.upgrade() else { return };
    let wheel = fleet.wheel.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let all = Fleet { variants: fleet.variants.clone(), wheel: Mutex::new(wheel) };
    owner.settle(name, Ok(all));
}

/// Waits under the eyes of the alarms; `false` when the host is gone.
fn bake(core: &Weak<Core>, rollout: &Rollout, began: Instant, wait: Duration) -> Result<bool> {
    let until = Instant::now() + wait;
    loop {
        let Some(owner) = core.upgrade() else { return Ok(false) };
        let watch = owner.watch.get().filter(|_| !rollout.alarms.is_empty());
        if let Some(why) = watch.and_then(|watch| (watch.0)(&rollout.alarms)) {
            return Err(Error::new(ErrorKind::Conflict, why));
        }
        drop(owner);
        if rollout.limit_secs.is_some_and(|limit| began.elapsed().as_secs() >= limit) {
            return Err(Error::new(ErrorKind::Unavailable, "it took longer than it was given"));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(true);
        }
        std::thread::sleep(left.min(LOOK));
    }
}

impl Core {
    /// Gives the new fleet its share of the requests.
    fn shift(&self, name: &str, fleet: &Arc<Fleet>, share: f64) -> Result<()> {
        let _changing = self.changing();
        let old = Arc::clone(&self.find_live(name)?.fleet);
        let split = Mutex::new(Wheel::new(vec![1.0 - share, share])?);
        self.put_fleets(name, old, Some(Next { fleet: Arc::clone(fleet), split }));
        Ok(())
    }
}

/// One invocation on its way through a thread.
struct Task {
    variant: Arc<LiveVariant>,
    target_model: Option<String>,
    body: Bytes,
    request_media: Media,
    answer_media: Media,
    arrived: Instant,
}

impl Task {
    fn run(self, reply: oneshot::Sender<Result<Answer>>) {
        let made = catch_unwind(AssertUnwindSafe(|| self.answer(|| !reply.is_closed())))
            .unwrap_or_else(|_| Err(Error::internal("the model panicked")));
        let counters = &self.variant.counters;
        let latency = self.arrived.elapsed();
        if reply.is_closed() {
            return counters.failed(ErrorKind::Unavailable);
        }
        match &made {
            Ok((_, series)) => counters.answered(*series, latency),
            Err(error) => counters.failed(error.kind()),
        }
        let answer = made.map(|(body, _)| Answer {
            body,
            content_type: self.answer_media.as_str(),
            variant: self.variant.name.clone(),
            model: self.variant.model.clone(),
            latency,
        });
        if reply.send(answer).is_err() {
            tracing::debug!("the client left while its answer was on the way");
        }
    }

    fn answer(&self, go_on: impl Fn() -> bool) -> Result<(Vec<u8>, usize)> {
        let named;
        let predictor = match &self.variant.source {
            Source::One(predictor) => &**predictor,
            Source::Many(shelf) => {
                named = shelf.get(self.target_model.as_deref().unwrap_or_default())?;
                &*named
            }
        };
        let shape = Shape::of(predictor);
        let request = match self.request_media {
            Media::Json => Request::parse(&self.body, shape)?,
            Media::JsonLines => Request::parse_lines(&self.body, Configuration::default(), shape)?,
        };
        let place = |k: usize| format!("instances[{k}]");
        let options = request.configuration.options();
        let forecasts = batch::predict(predictor, &request.series, &options, place, go_on)?;
        let body = answer::write(&forecasts, &request.configuration, self.answer_media)?;
        Ok((body, forecasts.len()))
    }
}

fn find<R>(
    row: Option<metastore::Versioned<R>>,
    what: &str,
    name: &str,
) -> Result<metastore::Versioned<R>> {
    row.ok_or_else(|| Error::not_found(format!("could not find {what} \"{name:.80}\"")))
}

/// The variants of a configuration with the files of their models.
fn resolve(rows: &metastore::Transaction<'_>, config: &str) -> Result<Vec<Deployed>> {
    let config = find::<EndpointConfig>(rows.get(config)?, "endpoint configuration", config)?;
    let deployed = |variant: &Variant| {
        let model = find::<Model>(rows.get(&variant.model)?, "model", &variant.model)?;
        Ok(Deployed {
            name: variant.name.clone(),
            model: variant.model.clone(),
            artifact: model.row.artifact,
            holding: model.row.holding,
            weight: variant.weight,
        })
    };
    config.row.variants.iter().map(deployed).collect()
}

fn wheel_of(variants: &[Deployed]) -> Result<Wheel> {
    Wheel::new(variants.iter().map(|variant| variant.weight).collect())
}

fn at_rest<'a>(row: &'a Endpoint, doing: &str) -> Result<&'a Endpoint> {
    match row.status {
        Status::InService | Status::Failed => Ok(row),
        Status::Creating | Status::Updating => Err(Error::new(
            ErrorKind::Conflict,
            format!("cannot {doing} in-progress endpoint \"{}\", wait for it", row.name),
        )),
    }
}

fn not_in_service(name: &str, row: Option<&Endpoint>) -> Error {
    let Some(row) = row else {
        return Error::not_found(format!("could not find endpoint \"{name:.80}\""));
    };
    let why = row.failure_reason.as_deref().unwrap_or("its models are not loaded");
    let status = row.status.as_str();
    Error::new(ErrorKind::Unavailable, format!("endpoint \"{name}\" is {status}: {why}"))
}

fn no_variant(endpoint: &str, variant: &str) -> Error {
    Error::not_found(format!("endpoint \"{endpoint}\" has no variant \"{variant:.80}\""))
}
