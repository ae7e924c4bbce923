//! The lake as the command line sees it: SQL, listings, crawls and jobs.
//!
//! A job run is a child process of the same binary: this module hands it the plan as a file,
//! waits, and carries the result through the lake's commit.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::util::display::array_value_to_string;
use base::{Clock, Error, ErrorKind, Result};
use bytes::Bytes;
use delivery::Streams;
use lake::{
    Crawler, EtlResult, EtlSpec, Job, JobRun, Lake, Node as Step, QueryEngine, QueryResult,
    RunOptions, SqlOptions, TargetCompression, TargetFormat, Trigger, TriggerAction, When,
};
use metastore::Metastore;
use objects::Buckets;
use query::{Engine, EngineOptions};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::process::Command;

use crate::admin::Named;
use crate::{DATABASE, Settings};

/// The child's answer, beside the plan it was given.
pub const ETL_RESULT_FILE: &str = "result.json";
/// Most rows of a query that are answered as JSON.
const ROWS_MAX: usize = 100_000;
/// Rows of a preview.
const PREVIEW_ROWS: usize = 50;

/// Catalog, jobs and the engine.
pub struct LakeRoom {
    pub(crate) lake: Lake,
    pub(crate) engine: Arc<Engine>,
    memory_bytes: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Sql {
    sql: String,
    database: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Ls {
    path: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Crawl {
    path: String,
    database: String,
    table_prefix: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Report {
    crawler: Option<String>,
    crawl: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobCreate {
    name: String,
    source: String,
    target: String,
    table: String,
    sql: Option<String>,
    compression: String,
    partition_by: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobPut {
    toml: String,
    replace: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobPreview {
    /// A job that is stored, or
    name: Option<String>,
    /// one that is not yet.
    toml: Option<String>,
    /// The node; the target without it.
    node: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobTrigger {
    name: String,
    cron: Option<String>,
    new_data_secs: Option<u64>,
    off: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JobStatus {
    name: Option<String>,
}

impl LakeRoom {
    /// Opens the lake and finishes what a crash interrupted.
    pub(crate) async fn open(
        metastore: &Metastore,
        buckets: &Buckets,
        data_dir: &Path,
        settings: &Settings,
        clock: Arc<dyn Clock>,
        streams: &Arc<Streams>,
    ) -> Result<LakeRoom> {
        let lake = Lake::open(metastore.clone(), buckets.clone(), &data_dir.join("jobs"), clock)?;
        let recovered = lake.recover().await?;
        for run in &recovered.finished {
            tracing::info!(job = %run.job, run = %run.run_id, "finished a job run that was interrupted");
        }
        aws::ensure_database(&lake)?;
        let options = EngineOptions {
            memory_bytes: settings.query.memory_bytes,
            tail: Some(Arc::new(Undelivered(Arc::clone(streams)))),
            ..EngineOptions::new(data_dir.join("jobs").join("spill"))
        };
        let engine = Engine::new(lake.clone(), options)?;
        Ok(LakeRoom { lake, engine: Arc::new(engine), memory_bytes: settings.query.memory_bytes })
    }

    /// Runs one SELECT; the answer as Arrow.
    pub async fn query(&self, sql: &str, database: &str) -> Result<QueryResult> {
        self.engine.sql(sql, &SqlOptions::in_database(database)).await
    }

    pub(crate) async fn sql(&self, input: Sql) -> Result<Value> {
        answer(&self.query(&input.sql, &input.database).await?)
    }

    /// Stores the job of a TOML file.
    pub(crate) fn job_put(&self, input: JobPut) -> Result<Value> {
        let job = job_of_toml(&input.toml)?;
        match self.lake.create_job(&job) {
            Err(error) if input.replace && error.kind() == ErrorKind::AlreadyExists => {
                self.lake.update_job(&job)?;
            }
            other => other?,
        }
        Ok(json!({"name": job.name, "nodes": job.nodes.len()}))
    }

    /// A job as TOML, which makes the same job again.
    pub(crate) fn job_show(&self, input: Named) -> Result<Value> {
        let job = self.lake.get_job(&input.name)?;
        let text = toml::to_string_pretty(&job)
            .map_err(|cause| Error::internal(format!("a job has no TOML: {cause}")))?;
        Ok(json!({"name": job.name, "toml": text}))
    }

    /// The first rows of a node.
    pub(crate) async fn job_preview(&self, input: JobPreview) -> Result<Value> {
        let job = match (input.name, input.toml) {
            (Some(name), None) => self.lake.get_job(&name)?,
            (None, Some(text)) => job_of_toml(&text)?,
            _ => return Err(Error::invalid("give the name of a job or a file, and one of them")),
        };
        let node = match input.node {
            Some(node) => node,
            None => job.target()?.id().to_owned(),
        };
        let spec = self.lake.plan_preview(&job).await?;
        answer(&self.engine.preview(&spec, &node, PREVIEW_ROWS).await?)
    }

    /// Makes a job run by the clock or on new data, or no more.
    pub(crate) fn job_trigger(&self, input: JobTrigger) -> Result<Value> {
        let name = input.name;
        let when = match (input.cron, input.new_data_secs, input.off) {
            (Some(cron), None, false) => When::Scheduled(cron.parse()?),
            (None, Some(every_secs), false) => When::NewData { every_secs },
            (None, None, true) => {
                let there = self.lake.delete_trigger(&name)?;
                return Ok(json!({"name": name, "trigger": Value::Null, "was": there}));
            }
            _ => {
                return Err(Error::invalid("give one of a schedule, seconds for new data, or off"));
            }
        };
        let job = name.clone();
        let (arguments, timeout_minutes) = (BTreeMap::new(), None);
        let actions = vec![TriggerAction::Job { job, arguments, timeout_minutes }];
        let trigger = Trigger { name, when, actions, active: true };
        match self.lake.create_trigger(&trigger) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                self.lake.update_trigger(&trigger)?;
            }
            other => other?,
        }
        let trigger = serde_json::to_value(&trigger);
        trigger.map_err(|cause| Error::internal(format!("a trigger has no JSON: {cause}")))
    }

    pub(crate) async fn ls(&self, buckets: &Buckets, input: Ls) -> Result<Value> {
        let Some(path) = input.path else {
            let names: Vec<Value> =
                buckets.list_buckets()?.into_iter().map(|name| json!({"name": name})).collect();
            return Ok(json!({"buckets": names}));
        };
        let (bucket, prefix) = path.split_once('/').unwrap_or((&path, ""));
        let objects: Vec<Value> = buckets
            .list(bucket, prefix)
            .await?
            .into_iter()
            .map(|o| json!({"key": o.key, "bytes": o.bytes, "modified_at": o.modified_at, "etag": o.etag}))
            .collect();
        Ok(json!({"bucket": bucket, "objects": objects}))
    }

    pub(crate) fn tables(&self) -> Result<Value> {
        let mut tables = Vec::new();
        for database in self.lake.catalog().list_databases()? {
            for table in self.lake.catalog().list_tables(&database.name)? {
                let columns: Vec<String> =
                    table.all_columns().map(|c| format!("{} {}", c.name, c.hive_type)).collect();
                tables.push(json!({
                    "database": table.database,
                    "name": table.name,
                    "format": table.format.as_str(),
                    "location": format!("{}/{}", table.bucket, table.prefix),
                    "columns": columns.join(", "),
                    "version": table.version,
                }));
            }
        }
        Ok(json!({"tables": tables}))
    }

    pub(crate) async fn crawl(&self, input: Crawl) -> Result<Value> {
        let (bucket, prefix) = bucket_and_prefix(&input.path)?;
        // One crawler a place: its memory of what it has read makes the next crawl quick.
        let name = format!("{bucket}/{prefix}{}", input.table_prefix).replace('/', "-");
        let crawler = Crawler {
            table_prefix: input.table_prefix,
            ..Crawler::new(name, (bucket, prefix), input.database)
        };
        match self.lake.create_crawler(&crawler) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let Crawler { database, table_prefix, .. } = crawler.clone();
                let there = self.lake.get_crawler(&crawler.name)?;
                self.lake.update_crawler(&Crawler { database, table_prefix, ..there })?;
            }
            other => other?,
        }
        let report = self.lake.run_crawler(&crawler.name).await?;
        serde_json::to_value(&report).map_err(|e| Error::internal(e.to_string()))
    }

    /// What a crawl said of each table and object; without a name, the crawlers there are.
    pub(crate) fn report(&self, input: Report) -> Result<Value> {
        let Some(name) = input.crawler else {
            let mut crawlers = Vec::new();
            for crawler in self.lake.list_crawlers()? {
                let crawls = self.lake.list_crawls(&crawler.name)?;
                let places: Vec<String> = crawler
                    .targets()
                    .iter()
                    .map(|target| format!("{}/{}", target.bucket, target.prefix))
                    .collect();
                crawlers.push(json!({
                    "crawler": crawler.name,
                    "state": crawler.state,
                    "places": places.join(", "),
                    "schedule": crawler.schedule.as_ref().map(|found| found.expression.as_str()),
                    "crawls": crawls.len(),
                    "last": crawls.first().map(|crawl| crawl.outcome),
                    "error": crawls.first().and_then(|crawl| crawl.error.as_deref()),
                }));
            }
            return Ok(json!({"crawlers": crawlers}));
        };
        let (crawl, report) = self.lake.crawl_report(&name, input.crawl.as_deref())?;
        let mut shown =
            serde_json::to_value(&report).map_err(|e| Error::internal(e.to_string()))?;
        shown["crawl"] = json!(crawl.id);
        shown["started_at"] = json!(crawl.started_at);
        shown["finished_at"] = json!(crawl.finished_at);
        Ok(shown)
    }

    pub(crate) fn job_create(&self, input: JobCreate) -> Result<Value> {
        let (database, table) = database_and_table(&input.source);
        let source = Step::Source { id: "source".into(), database, table, lineage: false };
        let (bucket, prefix) = bucket_and_prefix(&input.target)?;
        let compression = match input.compression.as_str() {
            "zstd" => TargetCompression::Zstd,
            "snappy" => TargetCompression::Snappy,
            other => {
                return Err(Error::invalid(format!("compression {other:?}: use zstd or snappy")));
            }
        };
        let transform = Step::Sql {
            id: "transform".into(),
            inputs: BTreeMap::from([("input".to_owned(), "source".to_owned())]),
            query: input.sql.unwrap_or_else(|| "SELECT * FROM input".to_owned()),
        };
        let (database, table) = database_and_table(&input.table);
        let target = Step::Target {
            id: "target".into(),
            input: "transform".into(),
            bucket,
            prefix,
            format: TargetFormat::Parquet,
            compression,
            partition_keys: input.partition_by,
            database,
            table,
        };
        let job = Job {
            name: input.name,
            nodes: vec![source, transform, target],
            bookmark: true,
            error_prefix: None,
            max_retries: 0,
        };
        self.lake.create_job(&job)?;
        Ok(json!({"name": job.name}))
    }

    /// Runs a job until no new input is left; the sums over its runs.
    pub(crate) async fn job_run(&self, program: &Path, input: Named) -> Result<Value> {
        let options = RunOptions { memory_bytes: self.memory_bytes, ..RunOptions::default() };
        let mut total: Option<JobRun> = None;
        loop {
            let planned = self.lake.start_run(&input.name, &options).await?;
            let run = match planned.spec {
                None => planned.run,
                Some(spec) => {
                    run_in_child(&self.lake, program, &spec, std::future::pending()).await?
                }
            };
            let left = run.files_left;
            total = Some(match total {
                None => run,
                Some(before) => added(before, run),
            });
            if left == 0 {
                break;
            }
        }
        let run = total.ok_or_else(|| Error::internal("a job ran without a run"))?;
        Ok(run_as_json(&run))
    }

    /// What others start runs with that they have planned.
    pub(crate) fn runner(&self, program: PathBuf) -> aws::RunJob {
        let lake = self.lake.clone();
        Arc::new(move |spec, stop| {
            let (lake, program) = (lake.clone(), program.clone());
            Box::pin(async move { run_in_child(&lake, &program, &spec, stop).await })
        })
    }

    pub(crate) fn job_status(&self, input: JobStatus) -> Result<Value> {
        let jobs = match input.name {
            Some(name) => vec![self.lake.get_job(&name)?],
            None => self.lake.list_jobs()?,
        };
        let mut runs = Vec::new();
        for job in &jobs {
            runs.extend(self.lake.list_runs(&job.name)?.iter().map(run_as_json));
        }
        let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
        Ok(json!({"jobs": names, "runs": runs}))
    }
}

/// The streams, as the lake asks them what is still in the log.
#[derive(Debug)]
struct Undelivered(Arc<Streams>);

impl lake::Tail for Undelivered {
    fn look(
        &self,
        bucket: &str,
        prefix: &str,
        list: &mut dyn FnMut() -> Result<()>,
        take: &mut dyn FnMut(&str, &str, Bytes) -> Result<()>,
    ) -> Result<Option<BTreeSet<(String, String)>>> {
        let marks = self.0.marks(bucket, prefix)?;
        list()?;
        if !self.0.stand_still(&marks, bucket, prefix)? {
            return Ok(None);
        }
        let mut on_their_way = BTreeSet::new();
        for mark in &marks {
            let whole = self
                .0
                .undelivered(mark, &mut |object| take(&object.bucket, &object.key, object.bytes))?;
            if !whole {
                return Ok(None);
            }
            on_their_way.append(&mut mark.on_their_way());
        }
        Ok(Some(on_their_way))
    }
}

/// Carries a planned run to its end. Once the child has answered, `stop` comes too late: then
/// the run is finished.
async fn run_in_child(
    lake: &Lake,
    program: &Path,
    spec: &EtlSpec,
    stop: impl Future<Output = ()>,
) -> Result<JobRun> {
    let (job, run_id) = (spec.job.name.clone(), spec.run_id.clone());
    lake.run_started(&job, &run_id)?;
    let folder = lake.run_folder(&run_id);
    let result: Result<EtlResult> = tokio::select! {
        result = in_child(Command::new(program), "etl", &folder, &spec.staging, spec) => result,
        () = stop => return lake.stop_run(&job, &run_id),
    };
    match result {
        Ok(result) => lake.finish_run(&job, &run_id, &result).await,
        Err(error) => {
            lake.fail_run(&job, &run_id, &error.to_string())?;
            Err(error.context(format!("job {job:?}")))
        }
    }
}

/// Runs the child and reads its answer. It is killed when this is dropped, and ends by itself
/// when this process does.
pub(crate) async fn in_child<R: DeserializeOwned>(
    mut command: Command,
    kind: &str,
    folder: &Path,
    staging: &Path,
    spec: &impl Serialize,
) -> Result<R> {
    let path = folder.join("spec.json");
    let text = serde_json::to_vec(spec).map_err(|e| Error::internal(e.to_string()))?;
    std::fs::create_dir_all(staging)
        .and_then(|()| std::fs::write(&path, text))
        .map_err(|e| Error::io(format!("write {}", path.display()), e))?;
    let mut child = command
        .args(["worker", kind, "--spec"])
        .arg(&path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| Error::io("start the job's process", e))?;
    // Held until the child has ended: it ends when this closes, so that none outlives us.
    let lifeline = child.stdin.take();
    let output =
        child.wait_with_output().await.map_err(|e| Error::io("wait for the job's process", e))?;
    drop(lifeline);
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or("it said nothing").to_owned();
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!("the job's process ended with {}: {last}", output.status),
        ));
    }
    let answer = folder.join(ETL_RESULT_FILE);
    let bytes =
        std::fs::read(&answer).map_err(|e| Error::io(format!("read {}", answer.display()), e))?;
    serde_json::from_slice(&bytes)
        .map_err(|e| Error::internal(format!("the job's process answered badly: {e}")))
}

fn added(before: JobRun, run: JobRun) -> JobRun {
    JobRun {
        files_in: before.files_in + run.files_in,
        bytes_in: before.bytes_in + run.bytes_in,
        rows_in: before.rows_in + run.rows_in,
        files_out: before.files_out + run.files_out,
        bytes_out: before.bytes_out + run.bytes_out,
        rows_out: before.rows_out + run.rows_out,
        set_aside: before.set_aside + run.set_aside,
        started_at: before.started_at,
        ..run
    }
}

fn run_as_json(run: &JobRun) -> Value {
    json!({
        "job": run.job,
        "run_id": run.run_id,
        "state": run.state,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "error": run.error,
        "attempt": run.attempt,
        "trigger": run.trigger,
        "inputs": run.files_in,
        "rows_in": run.rows_in,
        "bytes_in": run.bytes_in,
        "files_out": run.files_out,
        "rows_out": run.rows_out,
        "bytes_out": run.bytes_out,
        "set_aside": run.set_aside,
        "altered_count": run.files_altered,
        "altered": run.altered,
    })
}

/// `BUCKET/PREFIX`, the prefix ending with a slash.
fn bucket_and_prefix(path: &str) -> Result<(String, String)> {
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    if prefix.trim_matches('/').is_empty() {
        return Err(Error::invalid(format!("{path:?} names no prefix; use BUCKET/PREFIX")));
    }
    Ok((bucket.to_owned(), format!("{}/", prefix.trim_matches('/'))))
}

/// `[DATABASE.]TABLE`.
pub(crate) fn database_and_table(name: &str) -> (String, String) {
    match name.split_once('.') {
        Some((database, table)) => (database.to_owned(), table.to_owned()),
        None => (DATABASE.to_owned(), name.to_owned()),
    }
}

/// A job as its author wrote it.
fn job_of_toml(text: &str) -> Result<Job> {
    let job: Job = toml::from_str(text)
        .map_err(|cause| Error::invalid(format!("the job's TOML: {}", cause.to_string().trim())))?;
    job.check()?;
    Ok(job)
}

/// Columns and rows of an answer.
fn answer(result: &QueryResult) -> Result<Value> {
    let columns: Vec<&str> =
        result.schema.fields().iter().map(|field| field.name().as_str()).collect();
    let mut rows = Vec::new();
    for batch in &result.batches {
        for row in 0..batch.num_rows() {
            if rows.len() >= ROWS_MAX {
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    format!("the answer has more than {ROWS_MAX} rows; add a LIMIT or aggregate"),
                ));
            }
            rows.push(row_as_json(batch, row)?);
        }
    }
    Ok(json!({
        "columns": columns,
        "rows": rows,
        "bytes_scanned": result.bytes_scanned,
        "set_aside": result.set_aside,
    }))
}

fn row_as_json(batch: &RecordBatch, row: usize) -> Result<Value> {
    batch
        .columns()
        .iter()
        .map(|column| cell_as_json(column, row))
        .collect::<Result<Vec<_>>>()
        .map(Value::Array)
}

/// One cell: numbers, booleans, lists and structs as JSON has them, the rest as text.
pub(crate) fn cell_as_json(column: &ArrayRef, row: usize) -> Result<Value> {
    if column.is_null(row) {
        return Ok(Value::Null);
    }
    let shown = || {
        array_value_to_string(column, row)
            .map_err(|e| Error::internal(format!("show a value: {e}")))
    };
    Ok(match column.data_type() {
        DataType::Boolean => json!(column.as_boolean().value(row)),
        DataType::Float64 => json!(column.as_primitive::<Float64Type>().value(row)),
        DataType::Float32 => json!(column.as_primitive::<Float32Type>().value(row)),
        kind if kind.is_integer() => {
            let text = shown()?;
            serde_json::from_str(&text).unwrap_or(Value::String(text))
        }
        DataType::List(_) => {
            let values = column.as_list::<i32>().value(row);
            let cells = (0..values.len()).map(|at| cell_as_json(&values, at));
            Value::Array(cells.collect::<Result<Vec<_>>>()?)
        }
        DataType::Struct(fields) => {
            let columns = column.as_struct();
            let mut object = Map::new();
            for (field, column) in fields.iter().zip(columns.columns()) {
                object.insert(field.name().clone(), cell_as_json(column, row)?);
            }
            Value::Object(object)
        }
        _ => json!(shown()?),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What the fences of the page hold.
    fn examples() -> Vec<&'static str> {
        let page = include_str!("../../../docs/jobs.md");
        page.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect()
    }

    #[derive(Deserialize)]
    struct Part {
        nodes: Vec<Step>,
    }

    #[test]
    fn every_node_has_an_example_that_is_read() {
        let mut shown = BTreeSet::new();
        for text in examples() {
            let part: Part = toml::from_str(text).unwrap_or_else(|cause| panic!("{cause}\n{text}"));
            for node in part.nodes {
                let json = serde_json::to_value(&node).expect("a node is JSON");
                shown.insert(json["node"].as_str().expect("its kind").to_owned());
            }
        }
        let refused = serde_json::from_value::<Step>(json!({"node": "?"})).expect_err("no node");
        let refused = refused.to_string();
        let known = refused.split('`').skip(3).step_by(2).map(str::to_owned);
        assert_eq!(shown, known.collect(), "{refused}");
    }

    #[test]
    fn a_job_that_is_shown_makes_the_same_job() {
        let job = job_of_toml(examples()[0]).expect("the first example is a whole job");
        assert_eq!((job.name.as_str(), job.max_retries, job.bookmark), ("hourly", 2, true));
        let text = toml::to_string_pretty(&job).expect("TOML");
        assert_eq!(job_of_toml(&text).expect("again"), job, "{text}");
        // A map before a text in the same node, and numbers of both kinds.
        for text in &examples()[1..] {
            let part: Part = toml::from_str(text).expect("read above");
            let job = Job { nodes: part.nodes, ..job.clone() };
            let again: Job =
                toml::from_str(&toml::to_string_pretty(&job).expect("TOML")).expect("again");
            assert_eq!(again, job);
        }
        let broken = job_of_toml("name = \"x\"\n[[nodes]]\nnode = \"filter\"\nid = 1\n");
        let said = broken.expect_err("an id is text").to_string();
        // A node is read as a whole, so the place is where its list of them begins.
        assert!(said.contains("line ") && said.contains("integer `1`"), "{said}");
    }
}
