//! Keeps endpoints and answers for them: the calls, and the way of a request.
//!
//! Control calls change rows; what follows from that is the [lifecycle](crate::lifecycle)'s. Invocations
//! look the endpoint up in memory, never in the store.
//!
//! Invariants
//! * The memory of an endpoint is swapped whole, under one lock, and before its row says so:
//!   whoever reads InService can invoke.
//! * An update that fails leaves the endpoint InService on what it had, with the reason.
//! * After a restart an endpoint serves what its row says; an interrupted creation or update
//!   is carried on.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{Clock, Error, ErrorKind, Result};
use bytes::Bytes;
use forecast::{Frequency, Predictor};
use metastore::{Metastore, Row};
use tokio::sync::oneshot;

use crate::counters::Snapshot;
use crate::endpoint::{
    Deployed, Endpoint, EndpointConfig, Holding, Model, Pending, Status, Variant, check_name,
    check_variants,
};
use crate::fleet::{Asked, Fleet, LiveVariant, Made};
use crate::lifecycle::{Accuracy, Core, at_rest, find, not_in_service, wheel_of};
use crate::media::Media;
use crate::models::Loader;
use crate::pool::{Pool, Work};
use crate::rollout::{Rollout, Watch};
use crate::trial::{Guard, Trial};

/// Creations and updates that may wait for the loading thread.
const DEPLOYMENTS_MAX: usize = 256;
/// Copies that may wait for the shadows' thread; more are left out.
const COPIES_MAX: usize = 8;

/// How much a host takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Threads that answer invocations.
    pub threads: usize,
    /// Invocations that may wait for a thread; more are refused.
    pub queue: usize,
    /// Longest time from arrival to answer. SageMaker gives a model 60 seconds.
    pub timeout: Duration,
    /// Bytes of memory for the models of multi-model endpoints together.
    pub models_bytes: u64,
    /// How an update is judged.
    pub guard: Guard,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            threads: 2,
            queue: 64,
            timeout: Duration::from_secs(60),
            models_bytes: 256 << 20,
            guard: Guard::default(),
        }
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
    /// The name of the model's file: with [`Answer::model`] it tells a model from a later one of
    /// the same name. Where there are many, the target model.
    pub artifact: String,
    /// The model that the request named, where there are many.
    pub target_model: Option<String>,
    /// The step of its forecasts.
    pub freq: Frequency,
    /// How long that took, from arrival.
    pub latency: Duration,
}

/// All endpoints of a node.
pub struct Host {
    core: Arc<Core>,
    invocations: Pool,
    copies: Pool,
    deployments: Pool,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

/// Who answers a request.
struct Route {
    live: Arc<Fleet>,
    variant: Arc<LiveVariant>,
    /// The trial that the variant is in, and the old one that answers if it fails.
    trial: Option<(Arc<Trial>, Option<Arc<LiveVariant>>)>,
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
        let core = Arc::new(Core::new(store, clock, loader, settings));
        let host = Host {
            core,
            invocations: Pool::new("serve", Work::Owed, settings.threads, settings.queue)?
                .with_short_waits(),
            copies: Pool::new("shadow", Work::Idle, 1, COPIES_MAX)?,
            deployments: Pool::new("deploy", Work::Owed, 1, DEPLOYMENTS_MAX)?,
        };
        for (name, row) in host.core.store.list::<Endpoint>()? {
            let row = host.core.resume(&name, &row)?;
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
        if self.core.watch.set(watch).is_err() {
            tracing::warn!("alarms are watched already");
        }
    }

    /// Says whom to ask whether an update's models forecast worse than those before. The first
    /// one stays.
    pub fn judge_accuracy_with(&self, accuracy: Accuracy) {
        if self.core.accuracy.set(accuracy).is_err() {
            tracing::warn!("accuracy is judged already");
        }
    }

    /// Whether there is somebody to ask for alarms.
    pub fn has_watch(&self) -> bool {
        self.core.watch.get().is_some()
    }

    /// Which of these alarms rings now, if one does.
    pub fn ringing(&self, alarms: &[String]) -> Option<String> {
        self.core.watch.get().and_then(|watch| watch(alarms))
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
    /// A name is taken also by one that differs in letter case only, as SageMaker has it; who asks
    /// an endpoint writes its name as its creator did.
    pub fn create_endpoint(&self, name: &str, config: &str) -> Result<Endpoint> {
        check_name("endpoint", name)?;
        let now = self.core.clock.now();
        let row = self.core.store.transact(|rows| {
            if let Some(other) = like(rows.list()?, name)
                && other.name != name
            {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!(
                        "endpoint \"{name}\" differs from endpoint \"{}\" in letter case only; \
                         choose another name, or update that one",
                        other.name
                    ),
                ));
            }
            let row = Endpoint {
                name: name.to_owned(),
                config: config.to_owned(),
                variants: resolve(rows, config)?,
                pending: None,
                previous: None,
                wanted: Some(config.to_owned()),
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
            row.pending = Some(Pending { config: config.to_owned(), variants, rollout, starts: 1 });
            row.wanted = Some(config.to_owned());
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
                let mut answering = row.variants.iter_mut().filter(|have| have.shadow.is_none());
                let found = answering.find(|have| have.name == *variant);
                found.ok_or_else(|| no_variant(name, variant))?.weight = *weight;
            }
            wheel_of(&row.variants)?;
            row.modified_at = now;
            rows.replace(name, seen.version, &row)?;
            Ok(row)
        })?;
        core.find_live(name)?.fleet.share_by(wheel_of(&row.variants)?);
        Ok(row)
    }

    /// Goes back to the configuration before the last update, or calls off the one under way,
    /// which [`Host::settled`] then waits for.
    pub fn rollback(&self, name: &str, why: &str) -> Result<Endpoint> {
        let row = self.core.row(name)?;
        if row.status != Status::Updating {
            return self.core.go_back(name, why, None);
        }
        let trial = self.core.live(name).and_then(|live| live.trial.clone());
        let pending = row.pending.as_ref().map(|pending| pending.config.as_str());
        match trial.filter(|trial| Some(trial.new.config.as_str()) == pending) {
            Some(trial) => {
                let _changing = self.core.changing();
                self.core.store.transact(|rows| {
                    let seen = find::<Endpoint>(rows.get(name)?, "endpoint", name)?;
                    let mut row = seen.row;
                    row.wanted = Some(row.config.clone());
                    rows.replace(name, seen.version, &row)
                })?;
                trial.condemn(why);
            }
            None => {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!("the models of endpoint \"{name}\" are still being loaded; try again"),
                ));
            }
        }
        Ok(row)
    }

    /// The configuration that an endpoint answers by, from memory where it is in service; none
    /// if there is no such endpoint.
    pub fn config_of(&self, name: &str) -> Result<Option<String>> {
        if let Some(live) = self.core.live(name) {
            return Ok(Some(live.fleet.config.clone()));
        }
        Ok(self.core.store.get::<Endpoint>(name)?.map(|seen| seen.row.config))
    }

    /// The configuration whose variants are on trial beside those that serve, and the share of
    /// the requests that they get.
    pub fn on_trial(&self, name: &str) -> Option<(String, f64)> {
        let live = self.core.live(name)?;
        live.trial.as_ref().map(|trial| (trial.new.config.clone(), trial.share()))
    }

    /// Takes an endpoint out of service. Requests already accepted are still answered.
    pub fn delete_endpoint(&self, name: &str) -> Result<()> {
        let _changing = self.core.changing();
        self.core.store.transact(|rows| {
            let seen = find::<Endpoint>(rows.get(name)?, "endpoint", name)?;
            at_rest(&seen.row, "delete")?;
            rows.delete::<Endpoint>(name)
        })?;
        self.core.forget(name);
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

    /// The endpoint that takes a name: the one of that name, or of one that differs in letter case
    /// only.
    pub fn endpoint_like(&self, name: &str) -> Result<Option<Endpoint>> {
        Ok(like(self.core.store.list()?, name))
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

    /// Counts of every variant in memory.
    pub fn counters(&self) -> Vec<Snapshot> {
        self.core.snapshots()
    }

    /// How many models of multi-model endpoints are in memory, and the bytes they take.
    pub fn models_held(&self) -> (usize, u64) {
        self.core.shelf.held()
    }

    /// Answers one request. The crate's documentation says what each kind of error means.
    pub async fn invoke(&self, invocation: Invocation) -> Result<Answer> {
        let asked = Asked::of(&invocation)?;
        let route = self.route(&invocation)?;
        let (variant, made) = match route.trial {
            None => (Arc::clone(&route.variant), self.ask(&route.variant, &asked).await),
            Some((trial, stand_in)) => {
                self.ask_on_trial(&trial, &route.variant, stand_in.as_ref(), &asked).await
            }
        };
        let made = made.map_err(|error| match error.kind() {
            ErrorKind::Exhausted => {
                error.context(format_args!("endpoint \"{}\"", invocation.endpoint))
            }
            _ => error,
        })?;
        if made.unsound.is_none() {
            route.live.remember(&asked, &made);
        }
        Ok(answer_of(&variant, made, &asked))
    }

    /// The shadow variants that are to get a copy of the next request to an endpoint.
    pub fn shadows_due(&self, endpoint: &str) -> Vec<String> {
        let Some(live) = self.core.live(endpoint) else { return Vec::new() };
        live.fleet.shadows_due().map(|shadow| shadow.variant.name.clone()).collect()
    }

    /// Has a shadow variant answer a copy of a request. It costs those who wait for answers
    /// nothing: it is refused where the last copies are not done with.
    pub async fn copy(&self, invocation: Invocation, shadow: &str) -> Result<Answer> {
        let asked = Asked::of(&invocation)?;
        let name = &invocation.endpoint;
        let live = self.core.find_live(name)?;
        let found = live.fleet.shadows.iter().find(|one| one.variant.name == shadow);
        let variant = &found.ok_or_else(|| no_variant(name, shadow))?.variant;
        fits(variant, &invocation)?;
        let made = self.wait_for(variant.send(&self.copies, &asked)?, &asked).await?;
        Ok(answer_of(variant, made, &asked))
    }

    async fn ask(&self, variant: &Arc<LiveVariant>, asked: &Asked) -> Result<Made> {
        self.wait_for(variant.send(&self.invocations, asked)?, asked).await
    }

    /// Waits as long as a request may take, of which others it was asked of may have had a part.
    async fn wait_for(
        &self,
        answer: oneshot::Receiver<Result<Made>>,
        asked: &Asked,
    ) -> Result<Made> {
        let timeout = self.core.settings.timeout;
        match tokio::time::timeout_at((asked.arrived + timeout).into(), answer).await {
            Ok(answer) => answered(answer),
            Err(_) => Err(Error::new(
                ErrorKind::Unavailable,
                format!("no answer within {} s; ask for fewer instances", timeout.as_secs()),
            )),
        }
    }

    /// Asks a variant on trial, and an old one where it fails or is slow to answer.
    async fn ask_on_trial(
        &self,
        trial: &Trial,
        variant: &Arc<LiveVariant>,
        stand_in: Option<&Arc<LiveVariant>>,
        asked: &Asked,
    ) -> (Arc<LiveVariant>, Result<Made>) {
        let own = |made| (Arc::clone(variant), made);
        let Some(stand_in) = stand_in else {
            return own(match variant.send(&trial.lane, asked) {
                Ok(answer) => self.wait_for(answer, asked).await,
                Err(error) => Err(error),
            });
        };
        let began = Instant::now();
        let mut answer = match variant.send(&trial.lane, asked) {
            Ok(answer) => answer,
            // Its threads are at their limit, which others must not pay for.
            Err(_) => return (Arc::clone(stand_in), self.ask(stand_in, asked).await),
        };
        let first = tokio::time::timeout(trial.guard.patience, &mut answer).await;
        let made = match first.map(answered) {
            Ok(Ok(made)) if made.unsound.is_none() => {
                trial.answered(variant, &made);
                return own(Ok(made));
            }
            Ok(made) => made,
            Err(_) => return self.ask_both(trial, variant, answer, stand_in, asked, began).await,
        };
        match self.ask(stand_in, asked).await {
            Ok(good) if good.unsound.is_none() => {
                trial.failed(variant, &what_is_wrong(&made));
                (Arc::clone(stand_in), Ok(good))
            }
            // What neither can answer is the request's own fault.
            _ => own(made),
        }
    }

    /// Takes the first good answer of a variant on trial that is slow and of an old one.
    async fn ask_both(
        &self,
        trial: &Trial,
        variant: &Arc<LiveVariant>,
        mut answer: oneshot::Receiver<Result<Made>>,
        stand_in: &Arc<LiveVariant>,
        asked: &Asked,
        began: Instant,
    ) -> (Arc<LiveVariant>, Result<Made>) {
        let other = self.ask(stand_in, asked);
        tokio::pin!(other);
        tokio::select! {
            biased;
            made = &mut answer => match answered(made) {
                Ok(made) if made.unsound.is_none() => {
                    trial.answered(variant, &made);
                    (Arc::clone(variant), Ok(made))
                }
                failed => match other.await {
                    Ok(good) if good.unsound.is_none() => {
                        trial.failed(variant, &what_is_wrong(&failed));
                        (Arc::clone(stand_in), Ok(good))
                    }
                    _ => (Arc::clone(variant), failed),
                },
            },
            made = &mut other => {
                if let Ok(good) = &made {
                    trial.was_late(variant, began.elapsed(), good.took);
                    return (Arc::clone(stand_in), made);
                }
                (Arc::clone(variant), self.wait_for(answer, asked).await)
            }
        }
    }

    fn route(&self, invocation: &Invocation) -> Result<Route> {
        let name = &invocation.endpoint;
        let live = self.core.find_live(name)?;
        let (fleet, other) = match &live.trial {
            None => (&live.fleet, None),
            Some(trial) => {
                let (now, other) = trial.turn();
                // After the update the old variants only stand in; they are nobody's to ask for.
                (now, Some(other).filter(|_| Arc::ptr_eq(&trial.old, &live.fleet)))
            }
        };
        let (fleet, variant) = match &invocation.target_variant {
            None => (fleet, fleet.turn()),
            Some(target) => {
                let own = fleet.named(target).map(|found| (fleet, found));
                let found = own.or_else(|| {
                    let other = other?;
                    Some((other, other.named(target)?))
                });
                found.ok_or_else(|| no_variant(name, target))?
            }
        };
        fits(variant, invocation)?;
        let on_trial = live.trial.as_ref().filter(|trial| Arc::ptr_eq(&trial.new, fleet));
        let trial = on_trial.map(|trial| {
            let stand_in = trial.stand_in(variant, invocation.target_variant.is_some());
            (Arc::clone(trial), stand_in.cloned())
        });
        Ok(Route { live: Arc::clone(fleet), variant: Arc::clone(variant), trial })
    }

    fn deploy(&self, name: &str) {
        let (core, own) = (Arc::clone(&self.core), name.to_owned());
        let queued = self.deployments.submit(move || {
            let loaded = core.row(&own).and_then(|row| {
                let fleet = core.load(&row)?;
                Ok((row, fleet))
            });
            match loaded {
                Ok((row, fleet)) => Core::begin(&core, &row, fleet),
                Err(error) => core.settle(&own, Err(error)),
            }
        });
        if let Err(refused) = queued {
            self.core.settle(name, Err(refused));
        }
    }
}

impl Asked {
    fn of(invocation: &Invocation) -> Result<Asked> {
        let request_media = Media::of_request(invocation.content_type.as_deref())?;
        Ok(Asked {
            body: invocation.body.clone(),
            request_media,
            answer_media: Media::of_answer(invocation.accept.as_deref(), request_media)?,
            target_model: invocation.target_model.clone(),
            arrived: Instant::now(),
        })
    }
}

fn answer_of(variant: &LiveVariant, made: Made, asked: &Asked) -> Answer {
    Answer {
        body: made.body,
        content_type: asked.answer_media.as_str(),
        variant: variant.name.clone(),
        model: variant.model.clone(),
        artifact: asked.target_model.as_ref().unwrap_or(&variant.artifact).clone(),
        target_model: asked.target_model.clone(),
        freq: made.freq,
        latency: asked.arrived.elapsed(),
    }
}

fn what_is_wrong(made: &Result<Made>) -> String {
    match made {
        Ok(made) => made.unsound.unwrap_or_default().to_owned(),
        Err(error) => error.to_string(),
    }
}

fn answered(answer: Result<Result<Made>, oneshot::error::RecvError>) -> Result<Made> {
    answer.unwrap_or_else(|_| Err(Error::internal("the thread that answers ended")))
}

/// Whether a request names a model if and only if the variant has many.
fn fits(variant: &LiveVariant, invocation: &Invocation) -> Result<()> {
    let name = &invocation.endpoint;
    match (variant.has_many(), invocation.target_model.is_some()) {
        (false, true) => Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "endpoint \"{name}\" is not a multi-model endpoint: leave out the target model"
            ),
        )),
        (true, false) => Err(Error::new(
            ErrorKind::Conflict,
            format!("endpoint \"{name}\" is a multi-model endpoint: name a target model"),
        )),
        _ => Ok(()),
    }
}

fn like(rows: Vec<(String, metastore::Versioned<Endpoint>)>, name: &str) -> Option<Endpoint> {
    rows.into_iter().map(|(_, seen)| seen.row).find(|row| row.name.eq_ignore_ascii_case(name))
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
            shadow: variant.shadow,
        })
    };
    config.row.variants.iter().map(deployed).collect()
}

fn no_variant(endpoint: &str, variant: &str) -> Error {
    Error::not_found(format!("endpoint \"{endpoint}\" has no variant \"{variant:.80}\""))
}
