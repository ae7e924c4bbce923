//! Glue's jobs: definitions as AWS has them beside the lake's own, and their runs.
//!
//! A run is the lake's: planned here, worked by a child process that the node starts, and
//! committed once. What the lake does not know of it (arguments, a time limit) is a row of ours.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base::{ErrorKind, Result as Outcomes, Timestamp};
use futures::FutureExt;
use futures::future::BoxFuture;
use lake::{Cause, EtlSpec, Job, JobRun, RETRIES_MAX, RunOptions, RunState};
use metastore::Row;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{graph, tags};
use crate::call::{Call, Outcome};
use crate::fault::{Code, Fault};
use crate::page::page;
use crate::rooms::{Rooms, ensure_database, epoch_secs};
use crate::tags::Tags;

/// Where Glue's users look for what a run said.
const LOG_GROUP: &str = "/aws-glue/jobs/output";
/// The argument that decides about bookmarks.
const BOOKMARK: &str = "--job-bookmark-option";
/// The code for a job that runs already.
const CONCURRENT: &str = "ConcurrentRunsExceededException";
/// Minutes a run may take where nothing else is said: AWS's two days.
const TIMEOUT_MINUTES: u64 = 2880;

/// Works one planned run to its end; the second argument resolves when it shall stop.
pub type RunJob = Arc<
    dyn Fn(EtlSpec, BoxFuture<'static, ()>) -> BoxFuture<'static, Outcomes<JobRun>> + Send + Sync,
>;

/// Runs under way, and how each is told to stop.
#[derive(Debug, Default)]
pub struct JobRuns(Mutex<HashMap<String, oneshot::Sender<()>>>);

impl JobRuns {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, oneshot::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a job is beyond its graph.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    definition: Definition,
    created_at: Timestamp,
    modified_at: Timestamp,
    /// Since when runs count for the bookmark.
    reset_at: Option<Timestamp>,
}

impl Row for Kept {
    const TABLE: &'static str = "aws-glue-jobs";
}

/// What a run is beyond what the lake counts.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct KeptRun {
    arguments: BTreeMap<String, String>,
    timeout_minutes: u64,
    timed_out: bool,
}

impl Row for KeptRun {
    const TABLE: &'static str = "aws-glue-job-runs";
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Definition {
    #[serde(default)]
    description: String,
    role: String,
    command: Command,
    #[serde(default)]
    default_arguments: BTreeMap<String, String>,
    execution_property: Option<ExecutionProperty>,
    max_retries: Option<u64>,
    timeout: Option<u64>,
    // One machine runs every job, so these are only kept and shown.
    glue_version: Option<String>,
    worker_type: Option<String>,
    number_of_workers: Option<u64>,
    max_capacity: Option<f64>,
    execution_class: Option<String>,
    #[serde(default)]
    code_gen_configuration_nodes: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Command {
    name: String,
    script_location: Option<String>,
    python_version: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct ExecutionProperty {
    max_concurrent_runs: u64,
}

impl Definition {
    /// The job as the lake runs it; what this definition asks for in vain is refused.
    fn job(&self, rooms: &Rooms, name: &str) -> Result<Job, Fault> {
        if self.command.name != "glueetl" {
            let why = format!("{:?}; only glueetl", self.command.name);
            return Err(Fault::unsupported("Command.Name", &why));
        }
        if self.code_gen_configuration_nodes.is_empty() {
            return Err(Fault::invalid(
                "CodeGenConfigurationNodes is missing: Forebay runs a job's graph as Glue Studio saves it, and no script",
            ));
        }
        if let Some(runs) = self.execution_property.as_ref().map(|p| p.max_concurrent_runs)
            && runs != 1
        {
            let why = format!("{runs}; a job has one run at a time");
            return Err(Fault::unsupported("ExecutionProperty.MaxConcurrentRuns", &why));
        }
        let max_retries = u32::try_from(self.max_retries.unwrap_or_default());
        let Ok(max_retries) = max_retries.map_err(drop).and_then(|retries| match retries {
            0..=RETRIES_MAX => Ok(retries),
            _ => Err(()),
        }) else {
            return Err(Fault::invalid(format!("MaxRetries is above {RETRIES_MAX}")));
        };
        if self.timeout == Some(0) {
            return Err(Fault::invalid("Timeout is 0; give minutes from 1"));
        }
        let job = Job {
            name: name.to_owned(),
            nodes: graph::nodes(&self.code_gen_configuration_nodes, &|database, table| {
                rooms.lake.catalog().get_table(database, table)
            })?,
            bookmark: bookmark(&self.default_arguments)?,
            error_prefix: None,
            max_retries,
        };
        Ok(job)
    }
}

fn bookmark(arguments: &BTreeMap<String, String>) -> Result<bool, Fault> {
    match arguments.get(BOOKMARK).map(String::as_str) {
        Some("job-bookmark-enable") => Ok(true),
        None | Some("job-bookmark-disable") => Ok(false),
        Some(other) => {
            let why = format!("{other:?}; use job-bookmark-enable or job-bookmark-disable");
            Err(Fault::unsupported(BOOKMARK, &why))
        }
    }
}

/// A request whose other members are a definition.
fn named_definition(call: &Call) -> Result<(String, Tags, Definition), Fault> {
    let mut input = call.input.clone();
    let mut take = |member| input.as_object_mut().and_then(|members| members.remove(member));
    let Some(Value::String(name)) = take("Name") else {
        return Err(Fault::invalid("Name is missing"));
    };
    let tags = take("Tags").map(serde_json::from_value).transpose();
    let tags = tags.map_err(|error| Fault::input("Tags", &error.to_string()))?;
    Ok((name, tags.unwrap_or_default(), definition(input)?))
}

fn definition(input: Value) -> Result<Definition, Fault> {
    serde_path_to_error::deserialize(&input)
        .map_err(|error| Fault::input(&error.path().to_string(), &error.into_inner().to_string()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct OneJob {
    job_name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct UpdateJob {
    job_name: String,
    job_update: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct StartJobRun {
    job_name: String,
    #[serde(default)]
    arguments: BTreeMap<String, String>,
    timeout: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct OneRun {
    job_name: String,
    run_id: String,
    #[serde(default)]
    #[expect(dead_code, reason = "no job has predecessors, so there are none to leave out")]
    predecessors_included: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Runs {
    job_name: String,
    next_token: Option<String>,
    max_results: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct StopRuns {
    job_name: String,
    job_run_ids: Vec<String>,
}

pub(super) async fn create_job(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let (name, given, definition) = named_definition(call)?;
    rooms.lake.create_job(&definition.job(rooms, &name)?)?;
    let now = rooms.clock.now();
    let kept = Kept { definition, created_at: now, modified_at: now, reset_at: None };
    rooms.metastore.put(&name, &kept)?;
    tags::add(rooms, "job", &name, given)?;
    Ok(json!({"Name": name}).into())
}

pub(super) async fn update_job(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let UpdateJob { job_name, job_update } = call.input()?;
    let definition = definition(job_update)?;
    rooms.lake.update_job(&definition.job(rooms, &job_name)?)?;
    let now = rooms.clock.now();
    let before = rooms.metastore.get::<Kept>(&job_name)?.map(|seen| seen.row);
    let kept = Kept {
        definition,
        created_at: before.as_ref().map_or(now, |kept| kept.created_at),
        modified_at: now,
        reset_at: before.and_then(|kept| kept.reset_at),
    };
    rooms.metastore.put(&job_name, &kept)?;
    Ok(json!({"JobName": job_name}).into())
}

fn shown(rooms: &Rooms, job: &Job) -> Result<Value, Fault> {
    let Some(kept) = rooms.metastore.get::<Kept>(&job.name)?.map(|seen| seen.row) else {
        // Made by `forebay job create`.
        return Ok(json!({"Name": job.name, "Command": {"Name": "glueetl"}}));
    };
    let mut shown = serde_json::to_value(&kept.definition)
        .map_err(|cause| base::Error::internal(cause.to_string()))?;
    if let Some(members) = shown.as_object_mut() {
        members.retain(|_, value| !value.is_null());
        members.entry("ExecutionProperty").or_insert(json!({"MaxConcurrentRuns": 1}));
        members.entry("MaxRetries").or_insert(json!(0));
        members.entry("Timeout").or_insert(json!(TIMEOUT_MINUTES));
    }
    shown["Name"] = json!(job.name);
    shown["CreatedOn"] = json!(epoch_secs(kept.created_at));
    shown["LastModifiedOn"] = json!(epoch_secs(kept.modified_at));
    Ok(shown)
}

pub(super) async fn get_job(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let job = rooms.lake.get_job(&call.input::<OneJob>()?.job_name)?;
    Ok(json!({"Job": shown(rooms, &job)?}).into())
}

pub(super) async fn get_jobs(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: super::Page = call.input()?;
    let key = |job: &Job| job.name.clone();
    let all = rooms.lake.list_jobs()?;
    let (some, next) = page(all, key, input.next_token.as_deref(), input.max_results, 1000)?;
    let shown = some.iter().map(|job| shown(rooms, job)).collect::<Result<_, Fault>>()?;
    super::listed("Jobs", shown, next)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct ListJobs {
    next_token: Option<String>,
    max_results: Option<usize>,
    #[serde(default)]
    tags: Tags,
}

pub(super) async fn list_jobs(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ListJobs = call.input()?;
    let mut all: Vec<String> = rooms.lake.list_jobs()?.into_iter().map(|job| job.name).collect();
    tags::keep_tagged(rooms, "job", &input.tags, &mut all)?;
    let token = input.next_token.as_deref();
    let (some, next) = page(all, Clone::clone, token, input.max_results, 1000)?;
    super::listed("JobNames", some.into_iter().map(Value::from).collect(), next)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct BatchGetJobs {
    job_names: Vec<String>,
}

pub(super) async fn batch_get_jobs(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for name in call.input::<BatchGetJobs>()?.job_names {
        match rooms.lake.get_job(&name) {
            Ok(job) => found.push(shown(rooms, &job)?),
            Err(error) if error.kind() == ErrorKind::NotFound => missing.push(name),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(json!({"Jobs": found, "JobsNotFound": missing}).into())
}

pub(super) async fn delete_job(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let name = call.input::<OneJob>()?.job_name;
    match rooms.lake.delete_job(&name) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
        // As on AWS, it is no error to delete a job that is not there.
        _gone => {}
    }
    rooms.metastore.delete::<Kept>(&name)?;
    tags::forget(rooms, "job", &name)?;
    for (run, _) in rooms.metastore.list_prefix::<KeptRun>(&format!("{name}/"))? {
        rooms.metastore.delete::<KeptRun>(&run)?;
    }
    Ok(json!({"JobName": name}).into())
}

pub(super) async fn start_job_run(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let StartJobRun { job_name, arguments, timeout } = call.input()?;
    let run_id = start(rooms, &job_name, arguments, timeout, &Cause::Asked).await?;
    Ok(json!({"JobRunId": run_id}).into())
}

/// Starts a run that a trigger's action or a failed run calls for, and crosses that off. A retry
/// is told what the run before it was told.
///
/// # Errors
/// [`ErrorKind::Conflict`] while the job runs, or if the cause was crossed off before.
pub async fn start_for(
    rooms: &Arc<Rooms>,
    job: &str,
    arguments: BTreeMap<String, String>,
    timeout_minutes: Option<u64>,
    cause: &Cause,
) -> Outcomes<String> {
    let (mut arguments, mut timeout_minutes) = (arguments, timeout_minutes);
    if let Cause::Retry(retry) = cause {
        let key = format!("{job}/{}", retry.run_id);
        if let Some(before) = rooms.metastore.get::<KeptRun>(&key)?.map(|seen| seen.row) {
            arguments = before.arguments;
            timeout_minutes = Some(before.timeout_minutes);
        }
    }
    start(rooms, job, arguments, timeout_minutes, cause).await.map_err(|fault| {
        let kind = match fault.code {
            Code::Kind(kind) => kind,
            Code::Named(_, _) => ErrorKind::Conflict,
        };
        base::Error::new(kind, fault.message)
    })
}

async fn start(
    rooms: &Arc<Rooms>,
    job_name: &str,
    arguments: BTreeMap<String, String>,
    timeout: Option<u64>,
    cause: &Cause,
) -> Result<String, Fault> {
    let job = rooms.lake.get_job(job_name)?;
    if arguments.contains_key(BOOKMARK) && bookmark(&arguments)? != job.bookmark {
        let why = format!("{:?} for one run; update the job", arguments[BOOKMARK]);
        return Err(Fault::unsupported(BOOKMARK, &why));
    }
    if timeout == Some(0) {
        return Err(Fault::invalid("Timeout is 0; give minutes from 1"));
    }
    let kept = rooms.metastore.get::<Kept>(job_name)?.map(|seen| seen.row);
    let of_job = kept.and_then(|kept| kept.definition.timeout);
    let extra = KeptRun {
        arguments,
        timeout_minutes: timeout.or(of_job).unwrap_or(TIMEOUT_MINUTES),
        timed_out: false,
    };
    let options =
        RunOptions { memory_bytes: rooms.settings.query_memory_bytes, ..RunOptions::default() };
    ensure_database(&rooms.lake)?;
    let asked_at = rooms.clock.now();
    let (run_id, spec) = match rooms.lake.start_run_for(job_name, &options, cause).await {
        Ok(planned) => (planned.run.run_id, planned.spec),
        Err(error) => match rooms.lake.list_runs(job_name)?.into_iter().next() {
            // What fails after the run was taken fails the run, and its state says why.
            Some(run) if run.state == RunState::Failed && run.started_at >= asked_at => {
                (run.run_id, None)
            }
            _ if error.kind() == ErrorKind::Conflict => {
                let message = format!("Concurrent runs exceeded for {job_name}: {error}");
                return Err(Fault::named(CONCURRENT, 400, message));
            }
            _ => return Err(error.into()),
        },
    };
    let limit = Duration::from_secs(extra.timeout_minutes.saturating_mul(60));
    rooms.metastore.put(&format!("{job_name}/{run_id}"), &extra)?;
    if let Some(spec) = spec {
        let (stop, stopped) = oneshot::channel();
        rooms.job_runs.lock().insert(run_id.clone(), stop);
        tokio::spawn(work(rooms.clone(), spec, extra, (limit, stopped)));
    }
    Ok(run_id)
}

async fn work(
    rooms: Arc<Rooms>,
    spec: EtlSpec,
    mut extra: KeptRun,
    (limit, stopped): (Duration, oneshot::Receiver<()>),
) {
    let (run_id, key) = (spec.run_id.clone(), format!("{}/{}", spec.job.name, spec.run_id));
    let (late, is_late) = oneshot::channel();
    let stop = async move {
        tokio::select! {
            // The sender goes when the run is over; that is no wish to stop it.
            Ok(()) = stopped => {}
            () = tokio::time::sleep(limit) => drop(late.send(())),
        }
    };
    let ended = (rooms.run_job)(spec, stop.boxed()).await;
    rooms.job_runs.lock().remove(&run_id);
    if is_late.await.is_ok() && matches!(&ended, Ok(run) if run.state == RunState::Stopped) {
        extra.timed_out = true;
        if let Err(error) = rooms.metastore.put(&key, &extra) {
            tracing::warn!(%error, run = run_id, "failed to say that a run timed out");
        }
    }
    let said = match ended {
        Ok(run) => format!(
            "{}: read {} objects with {} rows, wrote {} files with {} rows, set {} records aside",
            run.state, run.files_in, run.rows_in, run.files_out, run.rows_out, run.set_aside
        ),
        Err(error) => format!("FAILED: {error}"),
    };
    if let Err(error) = rooms.logs.append(LOG_GROUP, &run_id, rooms.clock.now(), &said) {
        tracing::warn!(%error, run = run_id, "failed to write a run's log");
    }
}

fn run_shown(rooms: &Rooms, run: &JobRun) -> Result<Value, Fault> {
    let extra = rooms.metastore.get::<KeptRun>(&format!("{}/{}", run.job, run.run_id))?;
    let extra = extra.map(|seen| seen.row);
    let timed_out = extra.as_ref().is_some_and(|extra| extra.timed_out);
    let state = if timed_out { "TIMEOUT".to_owned() } else { run.state.to_string() };
    let end = run.finished_at.unwrap_or_else(|| rooms.clock.now());
    let mut shown = json!({
        "Id": run.run_id,
        "JobName": run.job,
        "Attempt": run.attempt,
        "JobRunState": state,
        "StartedOn": epoch_secs(run.started_at),
        "LastModifiedOn": epoch_secs(end),
        "ExecutionTime": end.millis().saturating_sub(run.started_at.millis()) / 1000,
        "PredecessorRuns": [],
        "LogGroupName": LOG_GROUP,
    });
    if let Some(previous) = &run.previous {
        shown["PreviousRunId"] = json!(previous);
    }
    if let Some(trigger) = &run.trigger {
        shown["TriggerName"] = json!(trigger);
    }
    if let Some(at) = run.finished_at {
        shown["CompletedOn"] = json!(epoch_secs(at));
    }
    if let Some(error) = &run.error {
        shown["ErrorMessage"] = json!(error);
    }
    if let Some(extra) = extra {
        shown["Arguments"] = json!(extra.arguments);
        shown["Timeout"] = json!(extra.timeout_minutes);
    }
    Ok(shown)
}

pub(super) async fn get_job_run(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: OneRun = call.input()?;
    let run = rooms.lake.get_run(&input.job_name, &input.run_id)?;
    Ok(json!({"JobRun": run_shown(rooms, &run)?}).into())
}

pub(super) async fn get_job_runs(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Runs = call.input()?;
    let all = rooms.lake.list_runs(&input.job_name)?;
    // Newest first, so the keys of the pages count downwards.
    let key = |run: &JobRun| format!("{:020}{}", i64::MAX - run.started_at.millis(), run.run_id);
    let mut all = all;
    all.sort_by_key(key);
    let (some, next) = page(all, key, input.next_token.as_deref(), input.max_results, 1000)?;
    let shown = some.iter().map(|run| run_shown(rooms, run)).collect::<Result<_, Fault>>()?;
    super::listed("JobRuns", shown, next)
}

pub(super) async fn batch_stop_job_run(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let StopRuns { job_name, job_run_ids } = call.input()?;
    let (mut accepted, mut errors) = (Vec::new(), Vec::new());
    for run_id in job_run_ids {
        let found = rooms.lake.get_run(&job_name, &run_id);
        let refused = match found {
            Err(error) => Some(("EntityNotFoundException", error.to_string())),
            Ok(run) if run.state.is_final() => {
                let why = format!("run {run_id} is over: {}", run.state);
                Some(("InvalidInputException", why))
            }
            Ok(_) => match rooms.job_runs.lock().remove(&run_id) {
                Some(stop) => {
                    // Its end may come first; then there is nothing left to stop.
                    let _ended = stop.send(());
                    None
                }
                None => {
                    let why = format!("run {run_id} was not started by StartJobRun, or is ending");
                    Some(("InvalidInputException", why))
                }
            },
        };
        match refused {
            None => accepted.push(json!({"JobName": job_name, "JobRunId": run_id})),
            Some((code, why)) => errors.push(json!({"JobName": job_name, "JobRunId": run_id,
                "ErrorDetail": {"ErrorCode": code, "ErrorMessage": why}})),
        }
    }
    Ok(json!({"SuccessfulSubmissions": accepted, "Errors": errors}).into())
}

pub(super) async fn get_job_bookmark(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let name = call.input::<OneJob>()?.job_name;
    let runs = rooms.lake.list_runs(&name)?;
    let kept = rooms.metastore.get::<Kept>(&name)?.map(|seen| seen.row);
    let since = kept.and_then(|kept| kept.reset_at);
    let counted: Vec<&JobRun> = runs
        .iter()
        .filter(|run| run.state == RunState::Succeeded)
        .filter(|run| since.is_none_or(|since| run.started_at > since))
        .collect();
    let mut entry =
        json!({"JobName": name, "Version": counted.len(), "Run": counted.len(), "Attempt": 0});
    if let Some(last) = counted.first() {
        entry["RunId"] = json!(last.run_id);
    }
    if let Some(previous) = counted.get(1) {
        entry["PreviousRunId"] = json!(previous.run_id);
    }
    Ok(json!({"JobBookmarkEntry": entry}).into())
}

pub(super) async fn reset_job_bookmark(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let name = call.input::<OneJob>()?.job_name;
    rooms.lake.reset_bookmark(&name)?;
    if let Some(seen) = rooms.metastore.get::<Kept>(&name)? {
        let kept = Kept { reset_at: Some(rooms.clock.now()), ..seen.row };
        rooms.metastore.put(&name, &kept)?;
    }
    let entry = json!({"JobName": name, "Version": 0, "Run": 0, "Attempt": 0});
    Ok(json!({"JobBookmarkEntry": entry}).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    /// A job whose runs go on until they are stopped, and one object for it to read.
    async fn endless() -> World {
        let mut world = World::new();
        let lake = world.rooms.lake.clone();
        Arc::get_mut(&mut world.rooms).unwrap().run_job = Arc::new(move |spec, stop| {
            let lake = lake.clone();
            Box::pin(async move {
                lake.run_started(&spec.job.name, &spec.run_id)?;
                stop.await;
                lake.stop_run(&spec.job.name, &spec.run_id)
            })
        });
        let buckets = &world.rooms.buckets;
        buckets.create_bucket("lake").unwrap();
        buckets.put("lake", "raw/x", "{\"ozone\":1}".into()).await.unwrap();
        world.rooms.lake.catalog().create_database("air", "").unwrap();
        let crawler = lake::Crawler::new("c", ("lake", "raw"), "air");
        world.rooms.lake.create_crawler(&crawler).unwrap();
        world.rooms.lake.run_crawler("c").await.unwrap();
        let nodes = json!({
            "in": {"CatalogSource": {"Name": "in", "Database": "air", "Table": "raw"}},
            "out": {"S3GlueParquetTarget": {"Name": "out", "Inputs": ["in"], "Path": "s3://lake/out/"}},
        });
        let job = json!({"Name": "endless", "Role": "r", "Command": {"Name": "glueetl"},
            "Timeout": 5, "CodeGenConfigurationNodes": nodes});
        world.call("glue", "CreateJob", job).await.unwrap();
        world
    }

    async fn start(world: &World) -> Value {
        let started = world.call("glue", "StartJobRun", json!({"JobName": "endless"})).await;
        started.unwrap()["JobRunId"].take()
    }

    async fn ended(world: &World, run: &Value) -> Value {
        let of = json!({"JobName": "endless", "RunId": run});
        loop {
            let found = world.call("glue", "GetJobRun", of.clone()).await.unwrap();
            let state = found["JobRun"]["JobRunState"].clone();
            if state != "RUNNING" && state != "STARTING" {
                assert_ne!(state, "FAILED", "{found}");
                return state;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_run_ends_when_it_is_stopped_and_the_next_may_start() {
        let world = endless().await;
        let run = start(&world).await;
        let again = world.call("glue", "StartJobRun", json!({"JobName": "endless"})).await;
        assert_eq!(again.unwrap_err().1, "ConcurrentRunsExceededException");
        let stop = json!({"JobName": "endless", "JobRunIds": [run, "jr_0"]});
        let answer = world.call("glue", "BatchStopJobRun", stop.clone()).await.unwrap();
        assert_eq!(answer["SuccessfulSubmissions"][0]["JobRunId"], run);
        assert_eq!(answer["Errors"][0]["ErrorDetail"]["ErrorCode"], "EntityNotFoundException");
        assert_eq!(ended(&world, &run).await, "STOPPED");
        let answer = world.call("glue", "BatchStopJobRun", stop).await.unwrap();
        assert_eq!(answer["Errors"].as_array().unwrap().len(), 2, "{answer}");
        start(&world).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_run_beyond_its_time_is_ended_and_says_so() {
        let world = endless().await;
        ensure_database(&world.rooms.lake).unwrap();
        let planned = world.rooms.lake.start_run("endless", &RunOptions::default()).await.unwrap();
        let (run, spec) = (json!(planned.run.run_id), planned.spec.unwrap());
        let extra = KeptRun { arguments: BTreeMap::new(), timeout_minutes: 5, timed_out: false };
        // Held: nobody asks the run to stop. Minutes are the least that a client can give.
        let (_stop, stopped) = oneshot::channel();
        work(world.rooms.clone(), spec, extra, (Duration::from_millis(50), stopped)).await;
        assert_eq!(ended(&world, &run).await, "TIMEOUT");
        let runs = world.call("glue", "GetJobRuns", json!({"JobName": "endless"})).await.unwrap();
        assert_eq!(runs["JobRuns"][0]["Timeout"], 5);
        start(&world).await;
    }
}
