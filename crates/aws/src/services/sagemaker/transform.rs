//! Transform jobs: every line of the objects below a prefix, forecast by a model, one answer a
//! line, as `KEY.out`.
//!
//! The work is done here, on a thread that answers no invocation; it takes a place beside the
//! trainings. A job that was under way when the server ended is Failed when it comes back.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use base::{Error, ErrorKind, Result, Timestamp};
use metastore::{Metastore, Row, Versioned};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use serving::{Configuration, batch};

use super::hosting::{self, Entry, List, listed};
use super::tags::{self, Tag};
use super::{asked, check_name, refuse, s3_place};
use crate::call::{Call, Outcome, Reply};
use crate::fault::Fault;
use crate::rooms::{Rooms, epoch_secs};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Job {
    request: Value,
    status: String,
    failure: Option<String>,
    created_at: Timestamp,
    modified_at: Timestamp,
    started_at: Option<Timestamp>,
    ended_at: Option<Timestamp>,
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

/// Ends the jobs that a dead server left under way.
pub(super) fn reconcile(store: &Metastore, now: Timestamp) -> Result<()> {
    for (name, seen) in store.list::<Job>()? {
        let mut job = seen.row;
        if !job.has_ended() {
            let reason = "InternalServerError: the server ended while the job ran; start it again under another name";
            job.end("Failed", Some(reason.to_owned()), now);
            store.put(&name, &job)?;
        }
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Create {
    transform_job_name: String,
    model_name: String,
    #[expect(dead_code, reason = "a bound that one machine keeps to")]
    max_concurrent_transforms: Option<u32>,
    #[expect(dead_code, reason = "refused unless empty")]
    model_client_config: Option<Value>,
    #[serde(rename = "MaxPayloadInMB")]
    #[expect(dead_code, reason = "lines are read one by one")]
    max_payload: Option<u32>,
    batch_strategy: Option<String>,
    environment: Option<std::collections::BTreeMap<String, String>>,
    transform_input: Input,
    transform_output: Output,
    #[expect(dead_code, reason = "refused unless empty")]
    data_capture_config: Option<Value>,
    #[expect(dead_code, reason = "labels")]
    transform_resources: Value,
    #[expect(dead_code, reason = "refused unless empty")]
    data_processing: Option<Value>,
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
    configuration: Configuration,
    from: (String, String),
    to: (String, String),
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
        let why = "DeepAR takes one series a line: use SingleRecord";
        only("BatchStrategy", self.batch_strategy.as_deref(), &["SingleRecord"], why)?;
        let why = "DeepAR reads JSON Lines: use application/jsonlines";
        only("TransformInput.ContentType", input.content_type.as_deref(), &lines, why)?;
        only(
            "TransformInput.CompressionType",
            input.compression_type.as_deref(),
            &["None"],
            "use None",
        )?;
        let why = "DeepAR takes one series a line: use Line";
        only("TransformInput.SplitType", input.split_type.as_deref(), &["Line"], why)?;
        let why = "DeepAR answers JSON Lines: use application/jsonlines";
        only("TransformOutput.Accept", output.accept.as_deref(), &lines, why)?;
        let why = "one answer a line: use Line";
        only("TransformOutput.AssembleWith", output.assemble_with.as_deref(), &["Line"], why)?;
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
            configuration: self.configuration(rooms)?,
            from: s3_place("TransformInput S3Uri", &source.uri)?,
            to,
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
            ("DataProcessing", "whole lines go in and come out"),
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
    let rooms = Arc::clone(rooms);
    tokio::spawn(async move {
        let slots = rooms.trainings.slots();
        let Ok(_slot) = slots.acquire_owned().await else { return };
        let outcome = run(&rooms, &plan).await;
        if let Err(error) = finish(&rooms, &plan.name, outcome) {
            tracing::error!(?error, name = plan.name, "a transform's row could not be kept");
        }
    });
    Ok(json!({"TransformJobArn": arn}).into())
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
    let job = change(rooms, &plan.name, |job| job.started_at = Some(now))?;
    if job.status != "InProgress" {
        return Ok(());
    }
    let (bucket, prefix) = &plan.from;
    let mut objects = rooms.buckets.list(bucket, prefix).await?;
    objects.retain(|object| !object.key.ends_with('/'));
    if objects.is_empty() {
        return Err(Error::invalid(format!("no object lies below s3://{bucket}/{prefix}")));
    }
    let folder = rooms.data_dir.join("transform").join(&plan.name);
    std::fs::create_dir_all(&folder).map_err(|e| Error::io("make the job's folder", e))?;
    for object in objects {
        let staged = folder.join("out");
        let work = {
            let (rooms, staged) = (Arc::clone(rooms), staged.clone());
            let (bucket, key) = (bucket.clone(), object.key.clone());
            let (name, model) = (plan.name.clone(), plan.model.clone());
            let configuration = plan.configuration.clone();
            move || {
                let from = rooms.buckets.verify(&bucket, &key)?.path;
                answer(&rooms, &name, &model, &configuration, &from, &staged)
            }
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|panic| Error::internal("the model panicked").with_source(panic))?
            .map_err(|error| error.context(&object.key))?;
        let (to, path) = &plan.to;
        let path = path.trim_end_matches('/');
        let slash = if path.is_empty() { "" } else { "/" };
        let key = format!("{path}{slash}{}.out", relative(prefix, &object.key));
        rooms.buckets.publish_file(&staged, to, &key).await?;
    }
    Ok(())
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

fn answer(
    rooms: &Rooms,
    name: &str,
    model: &str,
    configuration: &Configuration,
    from: &Path,
    to: &Path,
) -> Result<()> {
    let model = rooms.host.load(model)?;
    let input = File::open(from).map_err(|e| Error::io("open the object", e))?;
    let out = File::create(to).map_err(|e| Error::io("make the answer's file", e))?;
    let mut output = Stoppable { rooms, name, inner: BufWriter::new(out) };
    batch::lines(&*model, &mut BufReader::new(input), &mut output, configuration)?;
    output.flush().map_err(|e| Error::io("write the answers", e))
}

/// Ends a transform between two groups of lines when it is to stop.
struct Stoppable<'a, W> {
    rooms: &'a Rooms,
    name: &'a str,
    inner: W,
}

impl<W: Write> Write for Stoppable<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let job = self.rooms.metastore.get::<Job>(self.name);
        match job {
            Ok(Some(job)) if job.status == "InProgress" => self.inner.write(bytes),
            _ => Err(std::io::Error::other("the job was stopped")),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
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
