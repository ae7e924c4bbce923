//! Transform jobs: every record of the objects below a prefix, forecast by a model, the answers as
//! `KEY.out`.
//!
//! A record is a line (`SplitType` Line, or JSON Lines that are not split), or a whole object of
//! JSON, which is a request as an endpoint gets it. [`reshape`](super::reshape) says what of it the
//! model gets and what is kept.
//!
//! The work is done here, on threads that answer no invocation; a job takes one place beside the
//! trainings, whatever its `MaxConcurrentTransforms`.
//!
//! Invariants
//! * An output appears whole, under its own name, after all of its records were answered.
//! * Objects are worked in the order of their keys, a few at a time. The job's row says up to which
//!   key all outputs are there; a job that was under way when the server ended goes on after that
//!   key when it comes back, and makes what it may have made once more: the same bytes.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base::{Error, ErrorKind, Result, Timestamp};
use forecast::Predictor;
use formats::{Compression, decode_object};
use futures::StreamExt;
use metastore::{Row, Versioned};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use serving::request::parse_instance;
use serving::{Configuration, Media, Request, Shape, answer, batch};

use super::hosting::{self, Entry, List, listed};
use super::reshape::{DataProcessing, Reshape};
use super::tags::{self, Tag};
use super::{asked, check_name, refuse, s3_place};
use crate::call::{Call, Outcome, Reply};
use crate::fault::Fault;
use crate::rooms::{Rooms, epoch_secs};

/// Objects of one job worked at a time, however many it asks for.
const CONCURRENT_MAX: usize = 4;
/// SageMaker's bounds on a payload, alone and times those at a time.
const PAYLOAD_MB_MAX: u64 = 100;
/// SageMaker's payload where none is named.
const PAYLOAD_MB: u64 = 6;
/// How often a job writes down how far it is.
const NOTE_EVERY: Duration = Duration::from_secs(1);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Job {
    request: Value,
    status: String,
    failure: Option<String>,
    created_at: Timestamp,
    modified_at: Timestamp,
    started_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
    /// The outputs of all objects up to this key are there.
    #[serde(default)]
    done: Option<String>,
}

impl Row for Job {
    const TABLE: &'static str = "aws-sagemaker-transform-jobs";
}

impl Job {
    fn has_ended(&self) -> bool {
        !matches!(self.status.as_str(), "InProgress" | "Stopping")
    }

    fn end(&mut self, status: &str, failure: Option<String>, now: Timestamp) {
        status.clone_into(&mut self.status);
        self.failure = failure;
        self.modified_at = now;
        self.ended_at = Some(now);
    }
}

/// Goes on with the jobs that a dead server left under way, and ends those that were to stop.
pub(super) fn resume(rooms: &Arc<Rooms>) -> Result<()> {
    let now = rooms.clock.now();
    for (name, seen) in rooms.metastore.list::<Job>()? {
        let mut job = seen.row;
        match job.status.as_str() {
            "Stopping" => {
                change(rooms, &name, |job| job.end("Stopped", None, now))?;
                continue;
            }
            "InProgress" => {}
            _ended => continue,
        }
        // It was taken once, so it fails only if what it needs is gone since.
        let planned = serde_json::from_value::<Create>(std::mem::take(&mut job.request))
            .map_err(|cause| Fault::invalid(format!("its request is not readable: {cause}")))
            .and_then(|input| input.plan(rooms));
        match planned {
            Ok(plan) => launch(rooms, plan),
            Err(fault) => {
                let why =
                    format!("ClientError: it cannot go on after a restart: {}", fault.message);
                change(rooms, &name, |job| job.end("Failed", Some(why), now))?;
            }
        }
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Create {
    transform_job_name: String,
    model_name: String,
    max_concurrent_transforms: Option<u64>,
    #[expect(dead_code, reason = "refused unless empty")]
    model_client_config: Option<Value>,
    #[serde(rename = "MaxPayloadInMB")]
    max_payload: Option<u64>,
    batch_strategy: Option<String>,
    environment: Option<std::collections::BTreeMap<String, String>>,
    transform_input: Input,
    transform_output: Output,
    #[expect(dead_code, reason = "refused unless empty")]
    data_capture_config: Option<Value>,
    #[expect(dead_code, reason = "labels")]
    transform_resources: Value,
    data_processing: Option<DataProcessing>,
    #[expect(dead_code, reason = "refused unless empty")]
    experiment_config: Option<Value>,
    #[serde(default)]
    tags: Vec<Tag>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Input {
    data_source: DataSource,
    content_type: Option<String>,
    compression_type: Option<String>,
    split_type: Option<String>,
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
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Output {
    #[serde(rename = "S3OutputPath")]
    path: String,
    #[serde(rename = "Accept")]
    accept: Option<String>,
    #[serde(rename = "AssembleWith")]
    assemble_with: Option<String>,
    #[serde(rename = "KmsKeyId")]
    kms_key_id: Option<String>,
}

/// What a job needs to run.
struct Plan {
    name: String,
    model: String,
    from: (String, String),
    to: (String, String),
    at_a_time: usize,
    work: Work,
}

/// What is done to each object.
#[derive(Clone, Debug)]
struct Work {
    configuration: Configuration,
    reshape: Reshape,
    /// Whether an object is one request rather than lines.
    whole: bool,
    /// What the answer to such a request is written as.
    accept: Media,
    gzip: bool,
    /// Most bytes of a record, and what they are a bound of.
    bytes_max: u64,
    bound_of: &'static str,
}

fn only(
    member: &str,
    value: Option<&str>,
    values: &[&str],
    why: &str,
) -> std::result::Result<(), Fault> {
    match value {
        Some(value) if !values.contains(&value) => {
            Err(Fault::unsupported(&format!("{member} {value:?}"), why))
        }
        _ => Ok(()),
    }
}

impl Create {
    fn plan(&self, rooms: &Rooms) -> std::result::Result<Plan, Fault> {
        check_name("transformJobName", &self.transform_job_name)?;
        let lines = ["application/jsonlines", "application/json", "application/x-jsonlines"];
        let (input, output) = (&self.transform_input, &self.transform_output);
        // One record after another or many together: the answers are the same.
        let strategies = ["SingleRecord", "MultiRecord"];
        let why = "use SingleRecord or MultiRecord";
        only("BatchStrategy", self.batch_strategy.as_deref(), &strategies, why)?;
        let why = "DeepAR reads JSON Lines and JSON: use application/jsonlines or application/json";
        only("TransformInput.ContentType", input.content_type.as_deref(), &lines, why)?;
        let packings = ["None", "Gzip"];
        let why = "use None or Gzip";
        only("TransformInput.CompressionType", input.compression_type.as_deref(), &packings, why)?;
        let splits = ["None", "Line"];
        let why = "DeepAR takes a series a line, or a whole object: use Line or None";
        only("TransformInput.SplitType", input.split_type.as_deref(), &splits, why)?;
        let why = "DeepAR answers JSON Lines and JSON: use application/jsonlines";
        only("TransformOutput.Accept", output.accept.as_deref(), &lines, why)?;
        let why = "an answer ends with its line: use Line or None";
        only("TransformOutput.AssembleWith", output.assemble_with.as_deref(), &splits, why)?;
        let source = &input.data_source.s3_data_source;
        only("TransformInput S3DataType", Some(&source.data_type), &["S3Prefix"], "use S3Prefix")?;
        if output.kms_key_id.as_deref().is_some_and(|key| !key.is_empty()) {
            return Err(Fault::unsupported(
                "TransformOutput.KmsKeyId",
                "nothing is encrypted at rest",
            ));
        }
        let to = s3_place("TransformOutput.S3OutputPath", &output.path)?;
        rooms.buckets.store(&to.0).map_err(|_absent| {
            Fault::invalid(format!(
                "TransformOutput.S3OutputPath: bucket {:?} does not exist",
                to.0
            ))
        })?;
        Ok(Plan {
            name: self.transform_job_name.clone(),
            model: self.model_name.clone(),
            from: s3_place("TransformInput S3Uri", &source.uri)?,
            to,
            at_a_time: self.at_a_time()?,
            work: self.work(rooms)?,
        })
    }

    fn at_a_time(&self) -> std::result::Result<usize, Fault> {
        // 0 lets SageMaker choose; its own algorithms take 1.
        let asked = self.max_concurrent_transforms.unwrap_or(1).max(1);
        let payload = self.max_payload.unwrap_or(PAYLOAD_MB);
        if payload > PAYLOAD_MB_MAX || payload.saturating_mul(asked) > PAYLOAD_MB_MAX {
            return Err(Fault::invalid(format!(
                "MaxPayloadInMB {payload} times MaxConcurrentTransforms {asked} is above {PAYLOAD_MB_MAX}"
            )));
        }
        Ok(usize::try_from(asked).map_or(CONCURRENT_MAX, |asked| asked.min(CONCURRENT_MAX)))
    }

    fn work(&self, rooms: &Rooms) -> std::result::Result<Work, Fault> {
        let input = &self.transform_input;
        let split = input.split_type.as_deref() == Some("Line");
        let json = input.content_type.as_deref() == Some("application/json");
        let accept = self.transform_output.accept.as_deref();
        let payload = match self.max_payload.unwrap_or(PAYLOAD_MB) {
            // SageMaker's word for no bound; ours is that of every reader of lines.
            0 => forecast::jsonl::LINE_BYTES_MAX as u64,
            megabytes => megabytes << 20,
        };
        Ok(Work {
            configuration: self.configuration(rooms)?,
            reshape: Reshape::new(self.data_processing.as_ref())?,
            whole: json && !split,
            accept: Media::of_answer(accept, Media::Json)?,
            gzip: input.compression_type.as_deref() == Some("Gzip"),
            bytes_max: payload,
            bound_of: if split { "a line" } else { "an object" },
        })
    }

    /// What is wanted of each forecast: the job's environment says it, else the model's.
    fn configuration(&self, rooms: &Rooms) -> std::result::Result<Configuration, Fault> {
        const NAME: &str = "DEEPAR_INFERENCE_CONFIG";
        let known = |name: &str| matches!(name, NAME | "MODEL_SERVER_WORKERS");
        let own = self.environment.as_ref();
        if let Some(other) = own.and_then(|all| all.keys().find(|name| !known(name))) {
            return Err(Fault::unsupported(
                &format!("Environment {other:?}"),
                "DeepAR's container does not read it",
            ));
        }
        let text = match own.and_then(|all| all.get(NAME)) {
            Some(text) => Some(text.clone()),
            None => hosting::environment(rooms, &self.model_name, NAME)?,
        };
        match text {
            Some(text) => Configuration::parse(&text)
                .map_err(|error| Fault::invalid(format!("Environment {NAME}: {error}"))),
            None => Ok(Configuration::default()),
        }
    }
}

fn arn(rooms: &Rooms, call: &Call, name: &str) -> String {
    rooms.arn("sagemaker", &call.region, &format!("transform-job/{name}"))
}

pub(super) async fn create(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let (input, request) = asked::<Create>(call)?;
    refuse(
        &request,
        &[
            ("ModelClientConfig", "the model is asked directly and never in vain"),
            ("DataCaptureConfig", "a transform's inputs and outputs are objects already"),
            ("ExperimentConfig", "there are no experiments here"),
        ],
    )?;
    let plan = input.plan(rooms)?;
    let model_arn = rooms.arn("sagemaker", &call.region, &format!("model/{}", plan.model));
    let model = rooms.host.model(&plan.model).map_err(hosting::missing("model", &model_arn))?;
    if model.holding != serving::Holding::One {
        return Err(Fault::unsupported("ModelName of a multi-model", "a transform has one model"));
    }
    let arn = arn(rooms, call, &plan.name);
    let now = rooms.clock.now();
    let job = Job {
        request,
        status: "InProgress".to_owned(),
        failure: None,
        created_at: now,
        modified_at: now,
        started_at: None,
        ended_at: None,
        done: None,
    };
    rooms.metastore.create(&plan.name, &job).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Fault::named(
            "ResourceInUse",
            400,
            format!("Job name must be unique within an AWS account and region, and a job with this name already exists ({arn})"),
        ),
        _ => error.into(),
    })?;
    tags::put(rooms, &arn, &input.tags)?;
    launch(rooms, plan);
    Ok(json!({"TransformJobArn": arn}).into())
}

/// Starts a job's work, once there is a place for it.
fn launch(rooms: &Arc<Rooms>, plan: Plan) {
    let rooms = Arc::clone(rooms);
    tokio::spawn(async move {
        let slots = rooms.trainings.slots();
        let Ok(_slot) = slots.acquire_owned().await else { return };
        let outcome = run(&rooms, &plan).await;
        if let Err(error) = finish(&rooms, &plan.name, outcome) {
            tracing::error!(?error, name = plan.name, "a transform's row could not be kept");
        }
    });
}

fn change(rooms: &Rooms, name: &str, edit: impl FnOnce(&mut Job)) -> Result<Job> {
    rooms.metastore.transact(|rows| {
        let seen = rows.get::<Job>(name)?;
        let mut job = seen.ok_or_else(|| Error::not_found("the job's row is gone"))?.row;
        edit(&mut job);
        rows.put(name, &job)?;
        Ok(job)
    })
}

fn finish(rooms: &Rooms, name: &str, outcome: Result<()>) -> Result<()> {
    let now = rooms.clock.now();
    drop(std::fs::remove_dir_all(rooms.data_dir.join("transform").join(name)));
    change(rooms, name, |job| match outcome {
        _ if job.status == "Stopping" => job.end("Stopped", None, now),
        Ok(()) => job.end("Completed", None, now),
        Err(error) => job.end("Failed", Some(training::jobs::failure_reason(&error)), now),
    })
    .map(drop)
}

async fn run(rooms: &Arc<Rooms>, plan: &Plan) -> Result<()> {
    let now = rooms.clock.now();
    let job = change(rooms, &plan.name, |job| {
        job.started_at.get_or_insert(now);
    })?;
    if job.status != "InProgress" {
        return Ok(());
    }
    let (bucket, prefix) = &plan.from;
    let mut objects = rooms.buckets.list(bucket, prefix).await?;
    objects.retain(|object| !object.key.ends_with('/'));
    if objects.is_empty() {
        return Err(Error::invalid(format!("no object lies below s3://{bucket}/{prefix}")));
    }
    objects.retain(|object| job.done.as_ref().is_none_or(|done| object.key > *done));
    let folder = rooms.data_dir.join("transform").join(&plan.name);
    // What was half written before a restart.
    drop(std::fs::remove_dir_all(&folder));
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("make the job's folder", e))?;
    let abandoned = Arc::new(AtomicBool::new(false));
    let works = objects.into_iter().enumerate().map(|(at, object)| {
        let staged = folder.join(format!("out-{at}"));
        work(rooms, plan, object.key, staged, Arc::clone(&abandoned))
    });
    // In order, so that what is done is done up to a key.
    let mut works = futures::stream::iter(works).buffered(plan.at_a_time);
    let (mut failed, mut noted) = (None, Instant::now());
    while let Some(worked) = works.next().await {
        match worked {
            Ok(key) if failed.is_none() && noted.elapsed() >= NOTE_EVERY => {
                noted = Instant::now();
                change(rooms, &plan.name, |job| job.done = Some(key))?;
            }
            Ok(_key) => {}
            Err(error) => {
                // The others are waited for: they write into the job's folder.
                abandoned.store(true, Ordering::Relaxed);
                failed.get_or_insert(error);
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Answers one object and puts its output in place; its key.
async fn work(
    rooms: &Arc<Rooms>,
    plan: &Plan,
    key: String,
    staged: std::path::PathBuf,
    abandoned: Arc<AtomicBool>,
) -> Result<String> {
    let answering = {
        let rooms = Arc::clone(rooms);
        let (bucket, key, staged) = (plan.from.0.clone(), key.clone(), staged.clone());
        let (name, model, work) = (plan.name.clone(), plan.model.clone(), plan.work.clone());
        move || {
            let go_on = || {
                let job = rooms.metastore.get::<Job>(&name);
                !abandoned.load(Ordering::Relaxed)
                    && matches!(job, Ok(Some(job)) if job.row.status == "InProgress")
            };
            let predictor = rooms.host.load(&model)?;
            let from = rooms.buckets.verify(&bucket, &key)?.path;
            work.answer(&*predictor, &from, &staged, &go_on)
        }
    };
    tokio::task::spawn_blocking(answering)
        .await
        .map_err(|panic| Error::internal("the model panicked").with_source(panic))?
        .map_err(|error| error.context(&key))?;
    let (to, path) = &plan.to;
    let path = path.trim_end_matches('/');
    let slash = if path.is_empty() { "" } else { "/" };
    let output = format!("{path}{slash}{}.out", relative(&plan.from.1, &key));
    rooms.buckets.publish_file(&staged, to, &output).await?;
    Ok(key)
}

/// A key below a prefix, as its output is named.
fn relative<'a>(prefix: &str, key: &'a str) -> &'a str {
    let rest = key.strip_prefix(prefix).unwrap_or(key);
    if !rest.is_empty() && (prefix.is_empty() || prefix.ends_with('/')) {
        return rest;
    }
    match rest.strip_prefix('/') {
        Some(inner) if !inner.is_empty() => inner,
        // The prefix ends within a name, or is the whole key.
        _ => prefix.rfind('/').and_then(|slash| key.get(slash + 1..)).unwrap_or(key),
    }
}

impl Work {
    /// Answers every record of a file. `go_on` is asked between groups of them.
    fn answer(
        &self,
        predictor: &dyn Predictor,
        from: &Path,
        to: &Path,
        go_on: &dyn Fn() -> bool,
    ) -> Result<()> {
        let mut input = BufReader::new(self.open(from)?);
        let output = File::create(to).map_err(|e| Error::io("make the answer's file", e))?;
        let mut output = BufWriter::new(output);
        match self.whole {
            true => self.answer_whole(predictor, &mut input, &mut output, go_on)?,
            false => self.answer_lines(predictor, &mut input, &mut output, go_on)?,
        }
        output.flush().map_err(|e| Error::io("write the answers", e))
    }

    fn open(&self, from: &Path) -> Result<Box<dyn Read + Send>> {
        let failed = |cause| Error::io("read the object", cause);
        let mut file = File::open(from).map_err(failed)?;
        if !self.gzip {
            return Ok(Box::new(file));
        }
        let mut start = Vec::new();
        (&mut file).take(2).read_to_end(&mut start).map_err(failed)?;
        file.rewind().map_err(failed)?;
        if Compression::of_bytes(&start) != Compression::Gzip {
            return Err(Error::invalid("it is not packed with gzip, as CompressionType says"));
        }
        decode_object(file, "")
    }

    /// One request, as an endpoint gets it.
    fn answer_whole(
        &self,
        predictor: &dyn Predictor,
        input: &mut dyn BufRead,
        output: &mut dyn Write,
        go_on: &dyn Fn() -> bool,
    ) -> Result<()> {
        let mut record = String::new();
        input
            .take(self.bytes_max + 1)
            .read_to_string(&mut record)
            .map_err(|cause| Error::io("read the object", cause))?;
        self.bound(record.len() as u64)?;
        let request = self.reshape.before(&record)?;
        let request = Request::parse(request.as_bytes(), Shape::of(predictor))?;
        let options = request.configuration.options();
        let place = |k: usize| format!("instances[{k}]");
        let forecasts = batch::predict(predictor, &request.series, &options, place, go_on)?;
        let answer = answer::write(&forecasts, &request.configuration, self.accept)?;
        let answer = String::from_utf8(answer)
            .map_err(|cause| Error::internal("an answer is no text").with_source(cause))?;
        let kept = self.reshape.after(&record, answer.trim_end())?;
        writeln!(output, "{kept}").map_err(|cause| Error::io("write the answers", cause))
    }

    /// A series a line.
    fn answer_lines(
        &self,
        predictor: &dyn Predictor,
        input: &mut dyn BufRead,
        output: &mut dyn Write,
        go_on: &dyn Fn() -> bool,
    ) -> Result<()> {
        let shape = Shape::of(predictor);
        let samples = self.configuration.num_samples;
        let at_once = batch::series_at_once(shape.prediction_length, samples);
        let (mut records, mut series, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
        let (mut number, mut bytes) = (0_u64, 0_u64);
        loop {
            number += 1;
            let of_line = |error: Error| error.context(format_args!("line {number}"));
            let line = self.line(input).map_err(of_line)?;
            let ended = line.is_none();
            if let Some(line) = line {
                bytes = if self.bound_of == "a line" { 0 } else { bytes + line.len() as u64 };
                self.bound(bytes).map_err(of_line)?;
                let record = line.trim();
                if !record.is_empty() {
                    let instance = self.reshape.before(record).map_err(of_line)?;
                    series.push(parse_instance(&instance, shape).map_err(of_line)?);
                    numbers.push(number);
                    records.push(record.to_owned());
                }
            }
            if series.len() >= at_once || (ended && !series.is_empty()) {
                let options = self.configuration.options();
                let place = |k: usize| format!("line {}", numbers.get(k).copied().unwrap_or(0));
                let made = batch::predict(predictor, &series, &options, place, go_on)?;
                for (at, (record, forecast)) in records.iter().zip(&made).enumerate() {
                    let mut answer = String::new();
                    answer::write_prediction(forecast, &self.configuration, &mut answer)?;
                    let kept = self.reshape.after(record, &answer);
                    let kept = kept.map_err(|error| error.context(place(at)))?;
                    writeln!(output, "{kept}")
                        .map_err(|cause| Error::io("write the answers", cause))?;
                }
                records.clear();
                series.clear();
                numbers.clear();
            }
            if ended {
                return Ok(());
            }
        }
    }

    /// The next line; nothing at the end.
    fn line(&self, input: &mut dyn BufRead) -> Result<Option<String>> {
        let mut line = Vec::new();
        input
            .take(self.bytes_max + 2)
            .read_until(b'\n', &mut line)
            .map_err(|cause| Error::io("read it", cause))?;
        if line.is_empty() {
            return Ok(None);
        }
        let own = line.strip_suffix(b"\n").unwrap_or(&line);
        self.bound(own.len() as u64)?;
        let text = String::from_utf8(line)
            .map_err(|cause| Error::invalid("it is not UTF-8 text").with_source(cause))?;
        Ok(Some(text))
    }

    fn bound(&self, bytes: u64) -> Result<()> {
        match bytes <= self.bytes_max {
            true => Ok(()),
            false => Err(Error::invalid(format!(
                "{} has more than the {} MB of MaxPayloadInMB",
                self.bound_of,
                self.bytes_max >> 20
            ))),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Named {
    transform_job_name: String,
}

fn find(rooms: &Rooms, name: &str) -> std::result::Result<Job, Fault> {
    let seen = rooms.metastore.get::<Job>(name)?;
    Ok(seen.ok_or_else(|| Fault::invalid("Requested resource not found."))?.row)
}

pub(super) async fn describe(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Named = call.input()?;
    let job = find(rooms, &input.transform_job_name)?;
    let mut answer = job.request.clone();
    if let Some(members) = answer.as_object_mut() {
        members.remove("Tags");
    }
    answer["TransformJobArn"] = json!(arn(rooms, call, &input.transform_job_name));
    answer["TransformJobStatus"] = json!(job.status);
    answer["CreationTime"] = json!(epoch_secs(job.created_at));
    for (member, value) in
        [("TransformStartTime", job.started_at), ("TransformEndTime", job.ended_at)]
    {
        if let Some(at) = value {
            answer[member] = json!(epoch_secs(at));
        }
    }
    if let Some(reason) = &job.failure {
        answer["FailureReason"] = json!(reason);
    }
    Ok(answer.into())
}

pub(super) async fn list(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: List = call.input()?;
    let one = |(name, seen): (String, Versioned<Job>)| {
        let job = seen.row;
        let mut shown = json!({
            "TransformJobName": name,
            "TransformJobArn": arn(rooms, call, &name),
            "CreationTime": epoch_secs(job.created_at),
            "LastModifiedTime": epoch_secs(job.modified_at),
            "TransformJobStatus": job.status,
        });
        if let Some(at) = job.ended_at {
            shown["TransformEndTime"] = json!(epoch_secs(at));
        }
        if let Some(reason) = &job.failure {
            shown["FailureReason"] = json!(reason);
        }
        let status = match job.status.as_str() {
            "Completed" => "Completed",
            "Failed" => "Failed",
            "Stopped" => "Stopped",
            "Stopping" => "Stopping",
            _ => "InProgress",
        };
        let (created_at, modified_at) = (job.created_at, job.modified_at);
        Entry { name, created_at, modified_at, status: Some(status), shown }
    };
    let entries = rooms.metastore.list::<Job>()?.into_iter().map(one).collect();
    listed(input, entries, "TransformJobSummaries")
}

pub(super) async fn stop(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Named = call.input()?;
    let job = find(rooms, &input.transform_job_name)?;
    if job.has_ended() {
        return Err(Fault::invalid(format!(
            "The request was rejected because the transform job is in status {}.",
            job.status
        )));
    }
    let now = rooms.clock.now();
    change(rooms, &input.transform_job_name, |job| {
        if job.status == "InProgress" {
            "Stopping".clone_into(&mut job.status);
            job.modified_at = now;
        }
    })?;
    Ok(Reply::empty())
}

#[cfg(test)]
mod tests {
    use super::relative;

    #[test]
    fn outputs_are_named_by_what_follows_the_prefix() {
        for (prefix, key, expect) in [
            ("model/test", "model/test/a.json", "a.json"),
            ("model/test/", "model/test/b/a.json", "b/a.json"),
            ("model/te", "model/test/a.json", "test/a.json"),
            ("model/a.json", "model/a.json", "a.json"),
            ("a.json", "a.json", "a.json"),
            ("", "a.json", "a.json"),
        ] {
            assert_eq!(relative(prefix, key), expect, "{prefix} {key}");
        }
    }
}
