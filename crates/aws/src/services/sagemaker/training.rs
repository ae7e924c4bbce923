//! Training jobs: a request becomes a child process, its log and its model an object.
//!
//! ```text
//! CreateTrainingJob ─▶ row InProgress ─▶ a thread of its own:
//!   the channels' objects are linked into the job's folder ─▶ training::runner ─▶ log lines
//!   ─▶ model.tar.gz is published at OutputDataConfig ─▶ row Completed
//! ```
//!
//! Links, not copies: an object that is replaced later is another file, so the job reads what
//! was there when it began. A job that was under way when the server ended goes on when it
//! comes back: with the links it had, from the checkpoint that the child left, and with all of
//! `MaxRuntimeInSeconds` again, since the time away was not the job's.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base::{Error, ErrorKind, Result};
use metastore::{Metastore, Row};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use training::runner::{self, Stopper};
use training::{TrainResult, TrainSpec, jobs};

use super::tags::{self, Tag};
use super::{asked, check_image, check_name, check_role, refuse, s3_place};
use crate::call::{Call, Outcome, Reply};
use crate::fault::Fault;
use crate::page::page;
use crate::rooms::{Rooms, epoch_secs};

/// Where SageMaker's clients look for a training's log.
const LOG_GROUP: &str = "/aws/sagemaker/TrainingJobs";
/// Trainings at a time; the others wait, Starting.
const AT_A_TIME: usize = 2;

/// A job as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Job {
    name: String,
    /// The request as it came.
    request: Value,
    status: Status,
    secondary: String,
    transitions: Vec<Transition>,
    failure_reason: Option<String>,
    model_uri: Option<String>,
    created_at: i64,
    started_at: Option<i64>,
    ended_at: Option<i64>,
    modified_at: i64,
    metrics: Vec<Metric>,
}

impl Row for Job {
    const TABLE: &'static str = "aws-sagemaker-training-jobs";
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Status {
    InProgress,
    Completed,
    Failed,
    Stopping,
    Stopped,
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Status::InProgress => "InProgress",
            Status::Completed => "Completed",
            Status::Failed => "Failed",
            Status::Stopping => "Stopping",
            Status::Stopped => "Stopped",
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Transition {
    status: String,
    started_at: i64,
    ended_at: Option<i64>,
    message: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Metric {
    name: String,
    value: f64,
    at: i64,
}

impl Job {
    fn enter(&mut self, secondary: &str, message: &str, now: i64) {
        if let Some(last) = self.transitions.last_mut() {
            last.ended_at.get_or_insert(now);
        }
        let ended = matches!(secondary, "Completed" | "Failed" | "Stopped" | "MaxRuntimeExceeded");
        self.transitions.push(Transition {
            status: secondary.to_owned(),
            started_at: now,
            ended_at: ended.then_some(now),
            message: message.to_owned(),
        });
        self.secondary = secondary.to_owned();
        self.modified_at = now;
    }

    fn end(&mut self, status: Status, secondary: &str, message: &str, now: i64) {
        self.enter(secondary, message, now);
        self.status = status;
        self.ended_at = Some(now);
    }
}

/// The trainings under way.
#[derive(Debug)]
pub struct Trainings {
    slots: Arc<Semaphore>,
    under_way: Mutex<HashMap<String, UnderWay>>,
    /// What was captured of endpoints' traffic and is not yet written.
    pub(crate) captures: super::capture::Captures,
    /// What endpoints do beside answering.
    pub(crate) besides: super::hosting::Besides,
}

#[derive(Clone, Debug, Default)]
struct UnderWay {
    stopper: Option<Stopper>,
    stop_wanted: bool,
}

impl Trainings {
    /// Opens the jobs; [`Trainings::resume`] is to follow.
    pub fn open(store: &Metastore, now: base::Timestamp) -> Result<Trainings> {
        jobs::reconcile(store, now)?;
        Ok(Trainings {
            slots: Arc::new(Semaphore::new(AT_A_TIME)),
            under_way: Mutex::default(),
            captures: super::capture::Captures::default(),
            besides: super::hosting::Besides::default(),
        })
    }

    /// Goes on with the jobs that a dead server left under way. To be called once, on the
    /// runtime, before anybody asks for a job.
    pub fn resume(rooms: &Arc<Rooms>) -> Result<()> {
        super::transform::resume(rooms)?;
        let now = rooms.clock.now().millis();
        for (name, seen) in rooms.metastore.list::<Job>()? {
            let mut job = seen.row;
            match job.status {
                Status::InProgress => {}
                Status::Stopping => {
                    change(rooms, &name, |job| {
                        job.end(Status::Stopped, "Stopped", "Training job stopped", now);
                    })?;
                    continue;
                }
                _ => continue,
            }
            // It was taken once, so it fails only if what it needs is gone since.
            let planned = serde_json::from_value::<Create>(std::mem::take(&mut job.request))
                .map_err(|cause| Fault::invalid(format!("its request is not readable: {cause}")))
                .and_then(|input| input.plan(rooms, job.created_at));
            match planned {
                Ok(plan) => launch(rooms, Plan { left_at: Some(job.secondary), ..plan }),
                Err(fault) => change(rooms, &name, |job| {
                    let why =
                        format!("ClientError: it cannot go on after a restart: {}", fault.message);
                    job.failure_reason = Some(why);
                    job.end(Status::Failed, "Failed", "Training job failed", now);
                })?,
            }
        }
        Ok(())
    }

    /// Writes what was captured of endpoints' traffic and waits, as far as it can be written.
    pub async fn flush_captures(&self) {
        self.captures.flush().await;
    }

    /// Captured lines written and dropped since the start.
    pub fn captured(&self) -> (u64, u64) {
        self.captures.totals()
    }

    /// The places for jobs at work.
    pub(super) fn slots(&self) -> Arc<Semaphore> {
        Arc::clone(&self.slots)
    }

    fn under_way(&self) -> std::sync::MutexGuard<'_, HashMap<String, UnderWay>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Create {
    training_job_name: String,
    role_arn: String,
    algorithm_specification: Algorithm,
    #[serde(default)]
    hyper_parameters: BTreeMap<String, String>,
    #[serde(default)]
    input_data_config: Vec<Channel>,
    output_data_config: Output,
    resource_config: Resources,
    stopping_condition: Stopping,
    #[serde(default)]
    tags: Vec<Tag>,
    // Kept and given back; see `create` for what each may ask.
    #[expect(dead_code, reason = "kept with the request")]
    debug_hook_config: Option<Value>,
    #[expect(dead_code, reason = "kept with the request")]
    debug_rule_configurations: Option<Value>,
    #[expect(dead_code, reason = "kept with the request")]
    profiler_config: Option<Value>,
    #[expect(dead_code, reason = "kept with the request")]
    profiler_rule_configurations: Option<Value>,
    #[expect(dead_code, reason = "kept with the request")]
    tensor_board_output_config: Option<Value>,
    #[expect(dead_code, reason = "kept with the request")]
    experiment_config: Option<Value>,
    #[expect(dead_code, reason = "refused unless empty")]
    vpc_config: Option<Value>,
    #[expect(dead_code, reason = "refused unless empty")]
    checkpoint_config: Option<Value>,
    #[expect(dead_code, reason = "refused unless empty")]
    environment: Option<Value>,
    #[expect(dead_code, reason = "refused unless empty")]
    retry_strategy: Option<Value>,
    #[expect(dead_code, reason = "the child reaches no network by itself")]
    enable_network_isolation: Option<bool>,
    #[expect(dead_code, reason = "there is one container, nothing to encrypt between")]
    enable_inter_container_traffic_encryption: Option<bool>,
    #[expect(dead_code, reason = "refused unless false")]
    enable_managed_spot_training: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Algorithm {
    training_image: Option<String>,
    training_input_mode: Option<String>,
    #[expect(dead_code, reason = "the algorithm's metrics are known; kept with the request")]
    metric_definitions: Option<Value>,
    #[expect(dead_code, reason = "kept with the request")]
    enable_sage_maker_metrics_time_series: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Channel {
    channel_name: String,
    data_source: DataSource,
    content_type: Option<String>,
    compression_type: Option<String>,
    record_wrapper_type: Option<String>,
    input_mode: Option<String>,
    shuffle_config: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct DataSource {
    s3_data_source: S3DataSource,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct S3DataSource {
    #[serde(rename = "S3DataType")]
    data_type: String,
    #[serde(rename = "S3Uri")]
    uri: String,
    #[serde(rename = "S3DataDistributionType")]
    distribution: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Output {
    #[serde(rename = "S3OutputPath")]
    path: String,
    #[serde(rename = "KmsKeyId")]
    kms_key_id: Option<String>,
    #[serde(rename = "CompressionType")]
    compression: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Resources {
    instance_count: Option<u32>,
    #[expect(dead_code, reason = "a label")]
    instance_type: Option<String>,
    #[expect(dead_code, reason = "a label")]
    #[serde(rename = "VolumeSizeInGB")]
    volume_size: Option<u32>,
    #[expect(dead_code, reason = "a label")]
    keep_alive_period_in_seconds: Option<u32>,
    volume_kms_key_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Stopping {
    max_runtime_in_seconds: Option<u64>,
    #[expect(dead_code, reason = "for spot training, which is refused")]
    max_wait_time_in_seconds: Option<u64>,
    #[expect(dead_code, reason = "a job that waits for a slot waits as long as it must")]
    max_pending_time_in_seconds: Option<u64>,
}

/// What a job needs to run.
struct Plan {
    name: String,
    /// Channel, bucket and prefix.
    channels: Vec<(String, String, String)>,
    algorithm: ::training::Algorithm,
    hyperparameters: BTreeMap<String, String>,
    bucket: String,
    key: String,
    max_runtime: Duration,
    created_at: i64,
    /// The secondary status a dead server left it in.
    left_at: Option<String>,
}

impl Create {
    fn plan(&self, rooms: &Rooms, created_at: i64) -> std::result::Result<Plan, Fault> {
        check_name("trainingJobName", &self.training_job_name)?;
        check_role(&self.role_arn)?;
        let image = self.algorithm_specification.training_image.as_deref();
        let image = image.ok_or_else(|| {
            Fault::unsupported(
                "AlgorithmSpecification without TrainingImage",
                "name the algorithm's image",
            )
        })?;
        let algorithm = check_image(rooms, image)?;
        only(
            "AlgorithmSpecification.TrainingInputMode",
            self.algorithm_specification.training_input_mode.as_deref(),
            &["File"],
        )?;
        let mut channels = Vec::new();
        for channel in &self.input_data_config {
            channels.push(channel.place()?);
        }
        if !channels.iter().any(|(name, _, _)| name == "train") {
            return Err(Fault::invalid("InputDataConfig has no channel \"train\""));
        }
        if let Some((name, _, _)) =
            channels.iter().find(|(name, _, _)| !matches!(name.as_str(), "train" | "test"))
        {
            return Err(Fault::invalid(format!("channel {name:?}: there are train and test")));
        }
        if self.resource_config.instance_count.unwrap_or(1) != 1 {
            return Err(Fault::unsupported(
                "ResourceConfig.InstanceCount above 1",
                "a training runs on this machine; use 1",
            ));
        }
        let keys = [&self.output_data_config.kms_key_id, &self.resource_config.volume_kms_key_id];
        if keys.iter().any(|key| key.as_deref().is_some_and(|key| !key.is_empty())) {
            return Err(Fault::unsupported(
                "KmsKeyId",
                "nothing is encrypted at rest; leave it out",
            ));
        }
        only(
            "OutputDataConfig.CompressionType",
            self.output_data_config.compression.as_deref(),
            &["GZIP"],
        )?;
        let (bucket, prefix) =
            s3_place("OutputDataConfig.S3OutputPath", &self.output_data_config.path)?;
        rooms.buckets.store(&bucket).map_err(|_absent| {
            Fault::invalid(format!(
                "OutputDataConfig.S3OutputPath: bucket {bucket:?} does not exist"
            ))
        })?;
        let name = &self.training_job_name;
        let prefix = prefix.trim_end_matches('/');
        let slash = if prefix.is_empty() { "" } else { "/" };
        let key = format!("{prefix}{slash}{name}/output/model.tar.gz");
        let max_runtime = self.stopping_condition.max_runtime_in_seconds.unwrap_or(86_400);
        if max_runtime == 0 {
            return Err(Fault::invalid(
                "StoppingCondition.MaxRuntimeInSeconds is 0; it is at least 1",
            ));
        }
        Ok(Plan {
            name: name.clone(),
            channels,
            algorithm,
            hyperparameters: self.hyper_parameters.clone(),
            bucket,
            key,
            max_runtime: Duration::from_secs(max_runtime),
            created_at,
            left_at: None,
        })
    }
}

impl Channel {
    fn place(&self) -> std::result::Result<(String, String, String), Fault> {
        let source = &self.data_source.s3_data_source;
        let at = |member: &str| format!("InputDataConfig.{}.{member}", self.channel_name);
        only(&at("S3DataType"), Some(&source.data_type), &["S3Prefix"])?;
        only(&at("S3DataDistributionType"), source.distribution.as_deref(), &["FullyReplicated"])?;
        // Gzip is told by the files' own first bytes, so both words are true.
        only(&at("CompressionType"), self.compression_type.as_deref(), &["None", "Gzip"])?;
        only(&at("RecordWrapperType"), self.record_wrapper_type.as_deref(), &["None"])?;
        only(&at("InputMode"), self.input_mode.as_deref(), &["File"])?;
        let kinds = [
            "json",
            "json.gz",
            "parquet",
            "auto",
            "application/json",
            "application/jsonlines",
            "application/x-parquet",
        ];
        only(&at("ContentType"), self.content_type.as_deref(), &kinds)?;
        if !super::asks_nothing(self.shuffle_config.as_ref()) {
            return Err(Fault::unsupported(
                &at("ShuffleConfig"),
                "windows are drawn at random anyway",
            ));
        }
        let (bucket, prefix) = s3_place(&at("S3Uri"), &source.uri)?;
        Ok((self.channel_name.clone(), bucket, prefix))
    }
}

/// A member takes one of these values, or is absent.
fn only(member: &str, value: Option<&str>, values: &[&str]) -> std::result::Result<(), Fault> {
    match value {
        None => Ok(()),
        Some(value) if values.contains(&value) => Ok(()),
        Some(value) => {
            let known = values.join(", ");
            Err(Fault::unsupported(&format!("{member} {value:?}"), &format!("use {known}")))
        }
    }
}

pub(super) async fn create(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let (input, request) = asked::<Create>(call)?;
    refuse(
        &request,
        &[
            ("VpcConfig", "everything is on one machine"),
            ("CheckpointConfig", "checkpoints are kept by themselves, beside the job"),
            ("Environment", "DeepAR reads no environment"),
            ("RetryStrategy", "a failure here would only repeat itself"),
            ("EnableManagedSpotTraining", "there are no spot instances"),
        ],
    )?;
    let now = rooms.clock.now().millis();
    let plan = input.plan(rooms, now)?;
    let arn = arn(rooms, call, &plan.name);
    let mut job = Job {
        name: plan.name.clone(),
        request,
        status: Status::InProgress,
        secondary: String::new(),
        transitions: Vec::new(),
        failure_reason: None,
        model_uri: None,
        created_at: now,
        started_at: None,
        ended_at: None,
        modified_at: now,
        metrics: Vec::new(),
    };
    job.enter("Starting", "Starting the training job", now);
    rooms.metastore.create(&plan.name, &job).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Fault::named("ResourceInUse", 400, format!(
            "Training job names must be unique within an AWS account and region, and a training job with this name already exists ({arn})"
        )),
        _ => error.into(),
    })?;
    tags::put(rooms, &arn, &input.tags)?;
    launch(rooms, plan);
    Ok(json!({"TrainingJobArn": arn}).into())
}

/// Works a job as soon as there is a place.
fn launch(rooms: &Arc<Rooms>, plan: Plan) {
    rooms.trainings.under_way().insert(plan.name.clone(), UnderWay::default());
    let rooms = Arc::clone(rooms);
    tokio::spawn(async move {
        let slots = Arc::clone(&rooms.trainings.slots);
        let Ok(slot) = slots.acquire_owned().await else { return };
        let work = tokio::task::spawn_blocking(move || {
            let name = plan.name.clone();
            if let Err(error) = Work::new(&rooms, plan).run() {
                tracing::error!(?error, name, "a training's row could not be kept");
            }
            rooms.trainings.under_way().remove(&name);
        });
        drop(work.await);
        drop(slot);
    });
}

/// One job at work, on a thread of its own.
struct Work<'a> {
    rooms: &'a Rooms,
    plan: Plan,
    folder: PathBuf,
    stream: String,
}

/// How a job ended that gave no model.
enum Ended {
    Stopped,
    TooLong,
    Failed(Error),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Ended {
        Ended::Failed(error)
    }
}

impl<'a> Work<'a> {
    fn new(rooms: &'a Rooms, plan: Plan) -> Work<'a> {
        let folder = rooms.data_dir.join("training").join(&plan.name);
        // One stream, also for a job that goes on after a restart: clients follow the first.
        let stream = format!("{}/algo-1-{}", plan.name, plan.created_at / 1000);
        Work { rooms, plan, folder, stream }
    }

    fn run(&self) -> Result<()> {
        let outcome = self.train();
        let now = self.now();
        // Only once its row says that it has ended may nothing be left to go on from.
        let ended = self.ended(outcome, now);
        drop(std::fs::remove_dir_all(self.folder.join("input")));
        drop(std::fs::remove_file(self.folder.join("model.tar.gz.checkpoint")));
        ended
    }

    fn ended(&self, outcome: std::result::Result<TrainResult, Ended>, now: i64) -> Result<()> {
        match outcome {
            Ok(result) => self.change(|job| {
                job.model_uri = Some(format!("s3://{}/{}", self.plan.bucket, self.plan.key));
                job.metrics = metrics(&result, now);
                job.end(Status::Completed, "Completed", "Training job completed", now);
            }),
            Err(Ended::Stopped) => self.change(|job| {
                job.end(Status::Stopped, "Stopped", "Training job stopped", now);
            }),
            Err(Ended::TooLong) => self.change(|job| {
                let message = "Resource limit MaxRuntimeInSeconds exceeded";
                job.end(Status::Stopped, "MaxRuntimeExceeded", message, now);
            }),
            Err(Ended::Failed(error)) => {
                let reason = jobs::failure_reason(&error);
                self.log(&reason);
                self.change(|job| {
                    job.failure_reason = Some(reason);
                    job.end(Status::Failed, "Failed", "Training job failed", now);
                })
            }
        }
    }

    fn train(&self) -> std::result::Result<TrainResult, Ended> {
        let model = self.folder.join("model.tar.gz");
        let inputs = self.folder.join("input");
        // Whatever a dead server's child still wrote counts: the model comes before its result.
        if self.plan.left_at.is_some()
            && let Some(result) = runner::left_behind(&self.folder)?
        {
            self.enter("Uploading", "Uploading generated training model")?;
            self.publish(&model)?;
            return Ok(result);
        }
        let linked = self.plan.left_at.as_deref() == Some("Training") && inputs.is_dir();
        if !linked {
            self.enter("Downloading", "Downloading input data")?;
            // A half-made folder: an object must never be written to through an old link.
            match std::fs::remove_dir_all(&inputs) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io("clear the job's input", e).into());
                }
                _gone => {}
            }
        }
        let mut folders = BTreeMap::new();
        for (channel, bucket, prefix) in &self.plan.channels {
            let folder = inputs.join(channel);
            if !linked {
                self.link(&folder, bucket, prefix).map_err(|error| {
                    error.context(format!("channel {channel}, s3://{bucket}/{prefix}"))
                })?;
            }
            folders.insert(channel.as_str(), folder);
        }
        let spec = TrainSpec {
            train: folders.remove("train").unwrap_or_default(),
            test: folders.remove("test"),
            algorithm: self.plan.algorithm,
            hyperparameters: self.plan.hyperparameters.clone(),
            seed: None,
            threads: None,
            model: model.clone(),
            windows: 1,
        };
        let message = match linked {
            true => "The server was restarted; training goes on from its last checkpoint.",
            false => "Training image download completed. Training in progress.",
        };
        self.enter("Training", message)?;
        self.change(|job| job.started_at = job.started_at.or(Some(self.now())))?;
        let result = self.child(&spec)?;
        self.enter("Uploading", "Uploading generated training model")?;
        self.publish(&model)?;
        Ok(result)
    }

    /// Gives the job the objects of a channel under their own names.
    fn link(&self, folder: &Path, bucket: &str, prefix: &str) -> Result<()> {
        let buckets = self.rooms.buckets.clone();
        let listed = self.wait(async move { buckets.list(bucket, prefix).await })?;
        let base = prefix.rsplit_once('/').map_or(0, |(parent, _)| parent.len() + 1);
        if listed.is_empty() {
            return Err(Error::not_found("no object lies there"));
        }
        for object in listed {
            let from = self.rooms.buckets.verify(bucket, &object.key)?.path;
            let to = folder.join(&object.key[base..]);
            let failed = |e| Error::io(format!("take {}", object.key), e);
            if let Some(parent) = to.parent() {
                std::fs::create_dir_all(parent).map_err(failed)?;
            }
            match std::fs::hard_link(&from, &to) {
                Ok(()) => {}
                // Another file system below the same data directory.
                Err(_) => drop(std::fs::copy(&from, &to).map_err(failed)?),
            }
        }
        Ok(())
    }

    fn child(&self, spec: &TrainSpec) -> std::result::Result<TrainResult, Ended> {
        let running = runner::start(&self.rooms.program, spec, &self.folder)?;
        let stopper = running.stopper();
        {
            let mut under_way = self.rooms.trainings.under_way();
            let own = under_way.entry(self.plan.name.clone()).or_default();
            if own.stop_wanted {
                return Err(Ended::Stopped);
            }
            own.stopper = Some(stopper.clone());
        }
        let (done, waiting) = std::sync::mpsc::channel::<()>();
        let (limit, watched) = (self.plan.max_runtime, stopper.clone());
        let watch = std::thread::spawn(move || {
            let started = Instant::now();
            let late =
                waiting.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
            if late {
                watched.stop();
            }
            late && started.elapsed() >= limit
        });
        let result = running.wait(|line| self.log(line));
        drop(done);
        let late = watch.join().unwrap_or(false);
        match result {
            Ok(result) => Ok(result),
            Err(_) if late => Err(Ended::TooLong),
            Err(_) if stopper.was_stopped() => Err(Ended::Stopped),
            Err(error) => Err(Ended::Failed(error)),
        }
    }

    fn publish(&self, model: &Path) -> Result<()> {
        let buckets = self.rooms.buckets.clone();
        let (bucket, key) = (self.plan.bucket.clone(), self.plan.key.clone());
        self.wait(async move { buckets.publish_file(model, &bucket, &key).await.map(drop) })
    }

    fn wait<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::runtime::Handle::current().block_on(work)
    }

    fn now(&self) -> i64 {
        self.rooms.clock.now().millis()
    }

    fn log(&self, line: &str) {
        let at = self.rooms.clock.now();
        // A training goes on although nobody can read about it.
        if let Err(error) = self.rooms.logs.append(LOG_GROUP, &self.stream, at, line) {
            tracing::warn!(%error, job = self.plan.name, "a log line was lost");
        }
    }

    fn enter(&self, secondary: &str, message: &str) -> std::result::Result<(), Ended> {
        if self.rooms.trainings.under_way().get(&self.plan.name).is_some_and(|own| own.stop_wanted)
        {
            return Err(Ended::Stopped);
        }
        let now = self.now();
        self.change(|job| job.enter(secondary, message, now))?;
        Ok(())
    }

    fn change(&self, edit: impl FnOnce(&mut Job)) -> Result<()> {
        change(self.rooms, &self.plan.name, edit)
    }
}

fn change(rooms: &Rooms, name: &str, edit: impl FnOnce(&mut Job)) -> Result<()> {
    rooms.metastore.transact(|rows| {
        let seen = rows.get::<Job>(name)?;
        let mut job = seen.ok_or_else(|| Error::not_found("the job's row is gone"))?.row;
        edit(&mut job);
        rows.put(name, &job).map(drop)
    })
}

fn metrics(result: &TrainResult, at: i64) -> Vec<Metric> {
    let mut metrics = Vec::new();
    let mut add = |name: &str, value: f64| {
        if value.is_finite() {
            metrics.push(Metric { name: name.to_owned(), value, at });
        }
    };
    if let Some(loss) = result.final_loss {
        add("train:final_loss", loss);
    }
    if let Some(test) = &result.test {
        add("test:RMSE", test.model.rmse);
        add("test:mean_wQuantileLoss", test.model.mean_w_quantile_loss);
    }
    metrics
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Named {
    training_job_name: String,
}

fn find(rooms: &Rooms, name: &str) -> std::result::Result<Job, Fault> {
    let seen = rooms.metastore.get::<Job>(name)?;
    Ok(seen.ok_or_else(|| Fault::invalid("Requested resource not found."))?.row)
}

fn arn(rooms: &Rooms, call: &Call, name: &str) -> String {
    rooms.arn("sagemaker", &call.region, &format!("training-job/{name}"))
}

fn secs(millis: i64) -> Value {
    json!(epoch_secs(base::Timestamp(millis)))
}

pub(super) async fn describe(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Named = call.input()?;
    let job = find(rooms, &input.training_job_name)?;
    let mut answer = job.request.clone();
    if let Some(members) = answer.as_object_mut() {
        members.remove("Tags");
    }
    let transitions: Vec<Value> = job
        .transitions
        .iter()
        .map(|transition| {
            let mut one = json!({
                "Status": transition.status,
                "StartTime": secs(transition.started_at),
                "StatusMessage": transition.message,
            });
            if let Some(ended) = transition.ended_at {
                one["EndTime"] = secs(ended);
            }
            one
        })
        .collect();
    answer["TrainingJobArn"] = json!(arn(rooms, call, &job.name));
    answer["TrainingJobStatus"] = json!(job.status.as_str());
    answer["SecondaryStatus"] = json!(job.secondary);
    answer["SecondaryStatusTransitions"] = json!(transitions);
    answer["ModelArtifacts"] =
        json!({"S3ModelArtifacts": job.model_uri.clone().unwrap_or_default()});
    answer["CreationTime"] = secs(job.created_at);
    answer["LastModifiedTime"] = secs(job.modified_at);
    if let Some(reason) = &job.failure_reason {
        answer["FailureReason"] = json!(reason);
    }
    if let Some(started) = job.started_at {
        answer["TrainingStartTime"] = secs(started);
        if let Some(ended) = job.ended_at {
            answer["TrainingEndTime"] = secs(ended);
            let seconds = (ended - started).max(0) / 1000 + 1;
            answer["TrainingTimeInSeconds"] = json!(seconds);
            answer["BillableTimeInSeconds"] = json!(seconds);
        }
    }
    if !job.metrics.is_empty() {
        let shown = |metric: &Metric| json!({"MetricName": metric.name, "Value": metric.value, "Timestamp": secs(metric.at)});
        answer["FinalMetricDataList"] = job.metrics.iter().map(shown).collect();
    }
    Ok(answer.into())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct List {
    name_contains: Option<String>,
    status_equals: Option<String>,
    creation_time_after: Option<f64>,
    creation_time_before: Option<f64>,
    last_modified_time_after: Option<f64>,
    last_modified_time_before: Option<f64>,
    sort_by: Option<String>,
    sort_order: Option<String>,
    max_results: Option<usize>,
    next_token: Option<String>,
}

pub(super) async fn list(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: List = call.input()?;
    let mut jobs: Vec<Job> =
        rooms.metastore.list::<Job>()?.into_iter().map(|(_, seen)| seen.row).collect();
    let within = |at: i64, after: Option<f64>, before: Option<f64>| {
        let at = epoch_secs(base::Timestamp(at));
        after.is_none_or(|after| at > after) && before.is_none_or(|before| at < before)
    };
    jobs.retain(|job| {
        input.name_contains.as_ref().is_none_or(|text| job.name.contains(text))
            && input.status_equals.as_ref().is_none_or(|status| job.status.as_str() == status)
            && within(job.created_at, input.creation_time_after, input.creation_time_before)
            && within(
                job.modified_at,
                input.last_modified_time_after,
                input.last_modified_time_before,
            )
    });
    match input.sort_by.as_deref() {
        None | Some("CreationTime") => jobs.sort_by_key(|job| (job.created_at, job.name.clone())),
        Some("Name") => jobs.sort_by_key(|job| job.name.clone()),
        Some("Status") => jobs.sort_by_key(|job| (job.status.as_str(), job.name.clone())),
        Some(other) => {
            return Err(Fault::invalid(format!(
                "SortBy {other:?}: use Name, CreationTime or Status"
            )));
        }
    }
    if input.sort_order.as_deref() != Some("Ascending") {
        jobs.reverse();
    }
    let numbered: Vec<(usize, Job)> = jobs.into_iter().enumerate().collect();
    let key = |(at, _): &(usize, Job)| format!("{at:08}");
    let (given, next) = page(numbered, key, input.next_token.as_deref(), input.max_results, 100)?;
    let shown = |(_, job): &(usize, Job)| {
        let mut one = json!({
            "TrainingJobName": job.name,
            "TrainingJobArn": arn(rooms, call, &job.name),
            "CreationTime": secs(job.created_at),
            "LastModifiedTime": secs(job.modified_at),
            "TrainingJobStatus": job.status.as_str(),
            "SecondaryStatus": job.secondary,
        });
        if let Some(ended) = job.ended_at {
            one["TrainingEndTime"] = secs(ended);
        }
        one
    };
    let mut answer = json!({"TrainingJobSummaries": given.iter().map(shown).collect::<Vec<_>>()});
    if let Some(next) = next {
        answer["NextToken"] = json!(next);
    }
    Ok(answer.into())
}

pub(super) async fn stop(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Named = call.input()?;
    let job = find(rooms, &input.training_job_name)?;
    if job.status != Status::InProgress {
        let status = job.status.as_str();
        return Err(Fault::invalid(format!(
            "The request was rejected because the training job is in status {status}."
        )));
    }
    let now = rooms.clock.now().millis();
    change(rooms, &job.name, |job| {
        if job.status == Status::InProgress {
            job.status = Status::Stopping;
            job.enter("Stopping", "Stopping the training job", now);
        }
    })?;
    let stopper = {
        let mut under_way = rooms.trainings.under_way();
        let own = under_way.get_mut(&job.name);
        own.and_then(|own| {
            own.stop_wanted = true;
            own.stopper.clone()
        })
    };
    if let Some(stopper) = stopper {
        tokio::task::spawn_blocking(move || stopper.stop());
    }
    Ok(Reply::empty())
}

pub(super) async fn delete(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Named = call.input()?;
    let job = find(rooms, &input.training_job_name)?;
    if matches!(job.status, Status::InProgress | Status::Stopping) {
        let message = format!(
            "Training job {:?} is in status {}; stop it and wait for its end before deleting it",
            job.name,
            job.status.as_str()
        );
        return Err(Fault::named("ResourceInUse", 400, message));
    }
    rooms.metastore.delete::<Job>(&job.name)?;
    drop(std::fs::remove_dir_all(rooms.data_dir.join("training").join(&job.name)));
    tags::forget(rooms, &arn(rooms, call, &job.name))?;
    Ok(Reply::empty())
}
