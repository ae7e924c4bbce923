//! What a run is to read, and whether it may.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::LazyLock;

use base::{Error, ErrorKind, Result};
use metastore::{Row, Transaction};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::bookmark::{self, Input};
use super::run::{JobRun, RunState, free, run_key, take, unfinished};
use super::trigger::Cause;
use crate::lake::blocking;
use crate::{
    EtlSpec, FileSource, Format, Job, Lake, Node, SourceInput, Table, TableFile, TargetFormat,
    escape,
};

/// Input objects that one run reads at most; the rest is left to the next run.
pub const INPUTS_PER_RUN_MAX: usize = 20_000;

/// How often a run is planned anew because files that it was to read are being swapped, and how
/// long it waits each time. A swap takes a fraction of a second.
const PLAN_TRIES: u32 = 100;
const PLAN_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// Objects of each source that a preview reads at most.
const PREVIEW_FILES: usize = 500;

/// Altered objects that a run names; beyond that it counts.
const ALTERED_NAMED_MAX: usize = 100;

/// Bounds of a run.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions {
    /// A file is closed once it is about so large.
    pub target_file_bytes: u64,
    /// Memory that operators may use together.
    pub memory_bytes: u64,
}

impl Default for RunOptions {
    fn default() -> Self {
        RunOptions { target_file_bytes: 128 * 1024 * 1024, memory_bytes: 256 * 1024 * 1024 }
    }
}

/// A run that was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// Its row: STARTING, or SUCCEEDED if there was nothing new.
    pub run: JobRun,
    /// What its process is to do; `None` if there was nothing new.
    pub spec: Option<EtlSpec>,
}

/// What a run began with, kept until it is over.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct RunPlan {
    pub(super) job: Job,
    pub(super) inputs: Vec<Input>,
}

impl Row for RunPlan {
    const TABLE: &'static str = "job_run_plans";
}

/// Where a job writes.
#[derive(Clone, Copy, Debug)]
pub(super) struct TargetOf<'a> {
    pub(super) bucket: &'a str,
    pub(super) prefix: &'a str,
    pub(super) database: &'a str,
    pub(super) table: &'a str,
    pub(super) partition_keys: &'a [String],
    pub(super) format: Format,
    /// Whether the first line of its files of CSV has the names of the columns.
    pub(super) header: bool,
}

/// The folders of an export: each run makes its own, so that what a model learned from stays.
static DEEPAR_KEYS: LazyLock<Vec<String>> =
    LazyLock::new(|| vec!["export".to_owned(), "channel".to_owned()]);
static CSV_KEYS: LazyLock<Vec<String>> = LazyLock::new(|| vec!["export".to_owned()]);

pub(super) fn target_of(job: &Job) -> Result<TargetOf<'_>> {
    match job.target()? {
        Node::Target { bucket, prefix, database, table, partition_keys, format, .. } => {
            let format = match format {
                TargetFormat::Parquet => Format::Parquet,
                TargetFormat::Json => Format::Json,
                TargetFormat::Csv => Format::Csv,
            };
            let header = format == Format::Csv;
            Ok(TargetOf { bucket, prefix, database, table, partition_keys, format, header })
        }
        Node::ExportDeepAr { bucket, prefix, database, table, .. } => {
            let (partition_keys, format) = (&DEEPAR_KEYS, Format::Json);
            Ok(TargetOf { bucket, prefix, database, table, partition_keys, format, header: false })
        }
        Node::ExportCsv { bucket, prefix, database, table, .. } => {
            let (partition_keys, format) = (&CSV_KEYS, Format::Csv);
            Ok(TargetOf { bucket, prefix, database, table, partition_keys, format, header: false })
        }
        other => Err(Error::internal(format!("node {:?} is no target", other.id()))),
    }
}

/// Where a job's records that cannot be read go.
pub(super) fn error_prefix(job: &Job) -> String {
    job.error_prefix.clone().unwrap_or_else(|| format!("errors/{}/", escape(&job.name)))
}

/// What the planning found, before it is stored.
struct Work {
    job: Job,
    sources: Vec<SourceInput>,
    inputs: Vec<Input>,
    refreshed: Vec<(String, bookmark::Bookmark)>,
    left: u64,
    altered: Vec<String>,
}

impl Lake {
    /// Begins a run: takes the job, finds the input objects it has not read, and says what its
    /// process is to do. Without anything new the run has succeeded already.
    ///
    /// [`ErrorKind::Conflict`] while another run of the job is not over.
    pub async fn start_run(&self, job: &str, options: &RunOptions) -> Result<Planned> {
        self.start_run_for(job, options, &Cause::Asked).await
    }

    /// As [`Lake::start_run`], for a cause that is crossed off in the transaction that takes the
    /// job.
    pub async fn start_run_for(
        &self,
        job: &str,
        options: &RunOptions,
        cause: &Cause,
    ) -> Result<Planned> {
        let job = self.get_job(job)?;
        let run_id = format!("jr_{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let run = JobRun::new(run_id, &job.name, self.clock().now());
        let run = self.store().transact(|transaction| take(transaction, &run, cause))?;
        let name = job.name.clone();
        let mut planned = Ok(None);
        for _ in 0..PLAN_TRIES {
            planned = match self.find_work(job.clone()).await {
                Ok(work) => self.store_plan(&run.run_id, work, options),
                Err(error) => Err(error),
            };
            if !matches!(planned, Ok(None)) {
                break;
            }
            tokio::time::sleep(PLAN_PAUSE).await;
        }
        let planned = planned.and_then(|planned| {
            planned.ok_or_else(|| {
                Error::new(
                    ErrorKind::Conflict,
                    format!("objects that job {name:?} is to read are being swapped; run it again"),
                )
            })
        });
        planned.or_else(|error| {
            self.fail_run(&name, &run.run_id, &error.to_string())?;
            Err(error)
        })
    }

    /// What a preview of a job's graph reads: the first objects of each source, whether or not
    /// a run has read them. The job need not be stored, nor its target exist.
    pub async fn plan_preview(&self, job: &Job) -> Result<EtlSpec> {
        job.check()?;
        let mut sources = Vec::new();
        for node in &job.nodes {
            let Some((table, mut files)) = self.read_by_node(node).await? else { continue };
            files.sort_by(|a, b| a.key.cmp(&b.key));
            files.truncate(PREVIEW_FILES);
            for (index, error) in self.verify(&files).await?.iter().rev() {
                let file = files.remove(*index);
                tracing::error!(job = job.name, key = file.key, %error, "a preview leaves an object out");
            }
            sources.push(SourceInput { node: node.id().to_owned(), table, files });
        }
        let options = RunOptions::default();
        Ok(EtlSpec {
            run_id: "preview".to_owned(),
            job: job.clone(),
            sources,
            staging: PathBuf::new(),
            target_file_bytes: options.target_file_bytes,
            memory_bytes: options.memory_bytes,
            started_at: self.clock().now(),
        })
    }

    /// The table that a node reads and all files of it; none of a node that reads other nodes.
    pub(super) async fn read_by_node(
        &self,
        node: &Node,
    ) -> Result<Option<(Table, Vec<TableFile>)>> {
        match node {
            Node::Source { database, table, .. } => {
                let table = self.catalog().get_table(database, table)?;
                let files = self.files(&table).await?;
                Ok(Some((table, files)))
            }
            Node::Objects { id, at, .. } => {
                let found = self.at_path(at).await;
                found.map(Some).map_err(|error| error.context(format_args!("node {id:?}")))
            }
            _ => Ok(None),
        }
    }

    async fn find_work(&self, job: Job) -> Result<Work> {
        self.check_target(&job)?;
        let mut work = Work {
            job: job.clone(),
            sources: Vec::new(),
            inputs: Vec::new(),
            refreshed: Vec::new(),
            left: 0,
            altered: Vec::new(),
        };
        let mut room = INPUTS_PER_RUN_MAX;
        for node in &job.nodes {
            let Some((table, mut files)) = self.read_by_node(node).await? else { continue };
            check_apart(&job, &table)?;
            if job.bookmark {
                let (store, name, node) =
                    (self.store().clone(), job.name.clone(), node.id().to_owned());
                let sorted = blocking(move || bookmark::sort(&store, &name, &node, files)).await?;
                work.refreshed.extend(sorted.refreshed);
                files = sorted.new;
            }
            // An altered object is left to a later run, for when it has been put again.
            let altered = self.verify(&files).await?;
            for (index, error) in altered.iter().rev() {
                let file = files.remove(*index);
                tracing::error!(job = job.name, key = file.key, %error, "a run leaves an object out");
                work.altered.push(format!("{}/{}", file.bucket, file.key));
            }
            work.left += files.len().saturating_sub(room) as u64;
            files.truncate(room);
            room -= files.len();
            let (id, read) = (node.id().to_owned(), files.clone());
            let checked = job.bookmark;
            work.inputs.extend(blocking(move || inputs(&id, &read, checked)).await?);
            work.sources.push(SourceInput { node: node.id().to_owned(), table, files });
        }
        Ok(work)
    }

    /// Refuses a target that cannot be written, before any work is done for it.
    fn check_target(&self, job: &Job) -> Result<()> {
        let target = target_of(job)?;
        self.buckets().expect_here(target.bucket)?;
        self.buckets().store(target.bucket)?;
        self.catalog().get_database(target.database)?;
        let errors = error_prefix(job);
        if errors.len() < 2 || !errors.ends_with('/') || errors.starts_with('/') {
            return Err(Error::invalid(format!(
                "error prefix {errors:?} must name a folder, as in \"errors/\""
            )));
        }
        if overlap(&errors, target.prefix) {
            return Err(Error::invalid(format!(
                "error prefix {errors:?} lies in the target {:?}; set another",
                target.prefix
            )));
        }
        for (bucket, prefix) in samples(job) {
            self.buckets().expect_here(bucket)?;
            self.buckets().store(bucket)?;
            if bucket != target.bucket {
                continue;
            }
            if overlap(prefix, target.prefix) || overlap(prefix, &errors) {
                return Err(Error::invalid(format!(
                    "a spigot's prefix {prefix:?} lies in the target {:?} or the error prefix \
                     {errors:?}; set another",
                    target.prefix
                )));
            }
        }
        match self.catalog().find_table(target.database, target.table)? {
            None => Ok(()),
            Some(table) => check_same_place(&table, &target),
        }
    }

    /// `None` if an object was swapped since it was listed, or is about to be.
    fn store_plan(
        &self,
        run_id: &str,
        work: Work,
        options: &RunOptions,
    ) -> Result<Option<Planned>> {
        let Work { job, sources, inputs, refreshed, left, mut altered } = work;
        altered.sort();
        let altered_count = altered.len() as u64;
        altered.truncate(ALTERED_NAMED_MAX);
        let nothing = inputs.is_empty();
        let now = self.clock().now();
        let staging = self.staging(run_id);
        if !nothing {
            std::fs::create_dir_all(&staging).map_err(|cause| {
                Error::io(format_args!("failed to make {}", staging.display()), cause)
            })?;
        }
        let plan = RunPlan { job: job.clone(), inputs };
        let objects = plan
            .inputs
            .iter()
            .map(|input| (input.bucket.clone(), input.key.clone(), input.etag.clone()));
        let objects: Vec<_> = objects.collect();
        let run = self.store().transact(|transaction| {
            if crate::swap::is_moving(transaction, &objects)? {
                return Ok(None);
            }
            for (key, row) in &refreshed {
                transaction.put(key, row)?;
            }
            let mut run = unfinished(transaction, &job.name, run_id)?;
            run.files_in = plan.inputs.len() as u64;
            run.files_left = left;
            run.files_altered = altered_count;
            run.altered.clone_from(&altered);
            if nothing {
                run.state = RunState::Succeeded;
                run.finished_at = Some(now);
                free(transaction, &job.name, run_id)?;
            } else {
                transaction.put(run_id, &plan)?;
            }
            transaction.put(&run_key(&job.name, run_id), &run)?;
            Ok(Some(run))
        })?;
        let Some(run) = run else { return Ok(None) };
        let spec = (!nothing).then(|| EtlSpec {
            run_id: run_id.to_owned(),
            job,
            sources,
            staging,
            target_file_bytes: options.target_file_bytes,
            memory_bytes: options.memory_bytes,
            started_at: run.started_at,
        });
        Ok(Some(Planned { run, spec }))
    }

    /// The folder of a run: its staging folder lies in it, and whoever runs its process may
    /// keep files beside that. It is swept when the run is over.
    pub fn run_folder(&self, run_id: &str) -> PathBuf {
        self.jobs_folder().join(run_id)
    }

    pub(crate) fn staging(&self, run_id: &str) -> PathBuf {
        self.run_folder(run_id).join("staging")
    }
}

/// A run that is not over and reads one of these objects.
pub(crate) fn inputs_of_runs(
    transaction: &Transaction<'_>,
    bucket: &str,
    keys: &HashSet<String>,
) -> Result<Option<String>> {
    for (run_id, plan) in transaction.list::<RunPlan>()? {
        if plan.inputs.iter().any(|input| input.bucket == bucket && keys.contains(&input.key)) {
            return Ok(Some(run_id));
        }
    }
    Ok(None)
}

/// The files as inputs; checksums only where a bookmark will need them.
fn inputs(node: &str, files: &[TableFile], checked: bool) -> Result<Vec<Input>> {
    let input = |file: &TableFile| {
        let crc32c = if checked { bookmark::checksum(&file.path)? } else { 0 };
        Ok(Input {
            node: node.to_owned(),
            bucket: file.bucket.clone(),
            key: file.key.clone(),
            etag: file.etag.clone(),
            bytes: file.bytes,
            crc32c,
        })
    };
    files.iter().map(input).collect()
}

/// Refuses a job that would read what it writes.
fn check_apart(job: &Job, source: &Table) -> Result<()> {
    let target = target_of(job)?;
    let errors = error_prefix(job);
    let written = [(target.bucket, target.prefix), (target.bucket, errors.as_str())];
    for (bucket, written) in written.into_iter().chain(samples(job)) {
        if source.bucket == bucket && overlap(&source.prefix, written) {
            return Err(Error::invalid(format!(
                "job {:?} writes {written:?}, and would read that in table {:?} at {:?}",
                job.name, source.name, source.prefix
            )));
        }
    }
    Ok(())
}

/// The buckets and folders of a job's samples.
fn samples(job: &Job) -> impl Iterator<Item = (&str, &str)> {
    job.nodes.iter().filter_map(|node| match node {
        Node::Spigot { bucket, prefix, .. } => Some((bucket.as_str(), prefix.as_str())),
        _ => None,
    })
}

fn overlap(one: &str, other: &str) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// Refuses to add files to a table that is not the job's kind.
pub(super) fn check_same_place(table: &Table, target: &TargetOf<'_>) -> Result<()> {
    let conflict = |why: String| {
        let name = format!("{}.{}", table.database, table.name);
        Err(Error::new(ErrorKind::Conflict, format!("table {name:?} {why}; choose another table")))
    };
    if table.source != FileSource::Committed {
        return conflict("exists and is not written by jobs".into());
    }
    if table.format != target.format {
        return conflict(format!("has {} files", table.format.as_str()));
    }
    if table.bucket != target.bucket || table.prefix != target.prefix {
        return conflict(format!("lies at {}/{}", table.bucket, table.prefix));
    }
    let keys: Vec<&str> = table.partition_keys.iter().map(|key| key.name.as_str()).collect();
    if keys != target.partition_keys {
        return conflict(format!("is partitioned by {keys:?}"));
    }
    Ok(())
}
