//! Making what a run wrote part of its table.
//!
//! ```text
//! prepare   sync the staged files; one transaction: the run is PREPARED
//! publish   rename each file to its final key (again after a crash: done ones are found there)
//! commit    one transaction: table, partitions, file list, bookmark, run SUCCEEDED
//! ```
//!
//! Invariants
//! * A PREPARED row exists only while its files are whole and durable, in the staging folder
//!   or at their keys. So a prepared run can always be finished, and is never undone.
//! * Keys are made of the run's id: publishing twice makes the same objects.
//! * The file list changes in one transaction. A reader that goes by the catalog sees the table
//!   before the run or after it.

use std::path::{Component, Path};

use arrow::datatypes::{Field, Schema};
use base::{Error, ErrorKind, Result, Timestamp};
use formats::csv::Header;
use metastore::{Row, Transaction};
use serde::{Deserialize, Serialize};

use super::bookmark::{self, Input};
use super::plan::{RunPlan, TargetOf, check_same_place, error_prefix, target_of};
use super::run::{Active, JobRun, RunState, free, run_key, unfinished};
use crate::catalog::{add_partitions, create_table, no_database, table_key, update_table};
use crate::commits::{self, CommitKind, NewCommit};
use crate::lake::blocking;
use crate::{
    Column, Database, EtlResult, FileSource, Job, Lake, Node, Partition, RecoveredSwaps,
    SetAsideWriter, StagedFile, StagedSample, Table, WrittenFile, check_columns, escape,
    partition_folder,
};

/// A run that will be finished, come what may.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct PreparedRun {
    job: String,
    run_id: String,
    bookmark: bool,
    table: Table,
    files: Vec<Publish>,
    errors: Option<Publish>,
    /// What spigots let out.
    #[serde(default)]
    samples: Vec<Sample>,
    inputs: Vec<Input>,
    rows_in: u64,
    bytes_in: u64,
    set_aside: u64,
}

impl Row for PreparedRun {
    const TABLE: &'static str = "job_commits";
}

/// A staged file and the key it gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Publish {
    staged: String,
    key: String,
    bytes: u64,
    rows: u64,
    partition_values: Vec<String>,
}

/// A sample and where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sample {
    bucket: String,
    file: Publish,
}

/// What a start found unfinished.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Prepared runs that were finished.
    pub finished: Vec<JobRun>,
    /// Runs that a crash ended.
    pub failed: Vec<JobRun>,
    /// Prepared runs and writes that could not be finished, with why. Their files are kept, and their job
    /// waits; the next start tries again.
    pub stuck: Vec<(String, String)>,
    /// Staging folders that were removed.
    pub swept: u64,
    /// Writes of statements that were finished.
    pub writes: Vec<String>,
    /// Compactions and retentions that were under way.
    pub swaps: RecoveredSwaps,
}

impl Lake {
    /// Takes what a run's process answered and makes the run one that will be finished: from
    /// here on a crash leads forwards.
    ///
    /// An error leaves the run unprepared; [`Lake::fail_run`] ends it.
    pub async fn prepare(&self, job: &str, run_id: &str, result: &EtlResult) -> Result<()> {
        let plan = match self.store().get::<RunPlan>(run_id)? {
            Some(plan) => plan.row,
            None => {
                let run = self.get_run(job, run_id)?;
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("run {run_id} of {job:?} has nothing to prepare: it is {}", run.state),
                ));
            }
        };
        self.check_inputs(&plan.inputs).await?;
        let prepared = self.prepared(&plan, run_id, result)?;
        let staging = self.staging(run_id);
        let result = result.clone();
        let (folder, run) = (staging.clone(), run_id.to_owned());
        let errors = blocking(move || {
            let errors = write_set_aside(&folder, &run, &result)?;
            for file in &result.files {
                sync_staged(&folder, file)?;
            }
            for sample in &result.samples {
                let StagedSample { path, rows, bytes, .. } = sample.clone();
                let partition_values = Vec::new();
                sync_staged(&folder, &StagedFile { path, partition_values, rows, bytes })?;
            }
            sync_folders(&folder)?;
            Ok(errors)
        })
        .await?;
        let prepared = PreparedRun {
            errors: errors.map(|(staged, bytes)| Publish {
                staged,
                key: format!("{}{run_id}.jsonl", error_prefix(&plan.job)),
                bytes,
                rows: 0,
                partition_values: Vec::new(),
            }),
            ..prepared
        };
        self.store().transact(|transaction| {
            let mut run = unfinished(transaction, job, run_id)?;
            run.state = RunState::Running;
            transaction.put(&run_key(job, run_id), &run)?;
            reserve(transaction, &prepared.table)?;
            transaction.create(run_id, &prepared).map(drop)
        })
    }

    /// An input that was replaced while the run read it may have been read in either version,
    /// so the run must not count.
    async fn check_inputs(&self, inputs: &[Input]) -> Result<()> {
        for input in inputs {
            let found = self.buckets().head(&input.bucket, &input.key).await?;
            if found.etag != input.etag {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    format!("object {:?} changed while the run read it; run again", input.key),
                ));
            }
        }
        Ok(())
    }

    /// Everything of the row but the records set aside; checks the answer on the way.
    fn prepared(&self, plan: &RunPlan, run_id: &str, result: &EtlResult) -> Result<PreparedRun> {
        let bad = |why: String| Error::internal(format!("the result of run {run_id}: {why}"));
        let target = target_of(&plan.job)?;
        let keys: Vec<&str> = result.partition_keys.iter().map(|key| key.name.as_str()).collect();
        if keys != target.partition_keys {
            return Err(bad(format!("it is partitioned by {keys:?}")));
        }
        check_columns(result.columns.iter().chain(&result.partition_keys))?;
        let rows: u64 = result.files.iter().map(|file| file.rows).sum();
        if rows != result.rows_out {
            return Err(bad(format!("its files have {rows} rows of {}", result.rows_out)));
        }

        let mut table = Table::new(
            (target.database, target.table),
            (target.bucket, target.prefix),
            target.format,
        );
        table.source = FileSource::Committed;
        if let (Some(csv), true) = (&mut table.csv, target.header) {
            csv.header = Header::Names;
        }
        table.columns = result.columns.clone();
        table.partition_keys = result.partition_keys.clone();
        let classification = target.format.as_str();
        table.parameters.insert("classification".into(), classification.into());
        table.parameters.insert("typeOfData".into(), "file".into());
        table.parameters.insert("writtenBy".into(), plan.job.name.clone());

        let mut files = Vec::with_capacity(result.files.len());
        for (index, file) in result.files.iter().enumerate() {
            if file.partition_values.len() != keys.len() {
                return Err(bad(format!("file {:?} lacks partition values", file.path)));
            }
            let pairs = keys.iter().copied().zip(file.partition_values.iter().map(String::as_str));
            let folder = partition_folder(pairs);
            files.push(Publish {
                staged: file.path.clone(),
                key: format!(
                    "{}{folder}part-{run_id}-{index:05}{}",
                    target.prefix,
                    ending(&file.path)
                ),
                bytes: file.bytes,
                rows: file.rows,
                partition_values: file.partition_values.clone(),
            });
        }
        Ok(PreparedRun {
            job: plan.job.name.clone(),
            run_id: run_id.to_owned(),
            bookmark: plan.job.bookmark,
            table,
            files,
            errors: None,
            samples: samples(&plan.job, run_id, result)?,
            inputs: plan.inputs.clone(),
            rows_in: result.rows_in,
            bytes_in: result.bytes_in,
            set_aside: result.set_aside_count,
        })
    }

    /// Moves the files of a prepared run to their keys. May be called again.
    pub async fn publish(&self, run_id: &str) -> Result<()> {
        let prepared = self.find_prepared(run_id)?;
        let staging = self.staging(&prepared.run_id);
        let files = prepared.files.iter().chain(&prepared.errors);
        let files = files.map(|file| (&prepared.table.bucket, file));
        let samples = prepared.samples.iter().map(|sample| (&sample.bucket, &sample.file));
        for (bucket, file) in files.chain(samples) {
            let staged = staging.join(&file.staged);
            if staged.exists() {
                self.buckets().publish_file(&staged, bucket, &file.key).await?;
                continue;
            }
            // Renamed before a crash, which may have come before the folder was synced.
            let found = self
                .buckets()
                .head(bucket, &file.key)
                .await
                .map_err(|error| lost(&prepared.run_id, &file.key).with_source(error))?;
            if found.bytes != file.bytes {
                return Err(lost(&prepared.run_id, &file.key));
            }
            let path = self.buckets().local_path(bucket, &file.key)?;
            blocking(move || sync_folder(path.parent().unwrap_or(&path))).await?;
        }
        Ok(())
    }

    /// Makes a published run part of its table.
    pub fn commit(&self, run_id: &str) -> Result<JobRun> {
        let prepared = self.find_prepared(run_id)?;
        let now = self.clock().now();
        let run = self.store().transact(|transaction| commit(transaction, &prepared, now))?;
        self.sweep_run(run_id);
        tracing::info!(
            job = %run.job,
            run_id = %run.run_id,
            rows = run.rows_out,
            files = run.files_out,
            set_aside = run.set_aside,
            "committed a job run"
        );
        Ok(run)
    }

    /// Prepare, publish and commit. A run that cannot be prepared is failed. One that is
    /// prepared and then meets an error stays so, and [`Lake::resume`] or the next start
    /// finishes it.
    pub async fn finish_run(&self, job: &str, run_id: &str, result: &EtlResult) -> Result<JobRun> {
        if let Err(error) = self.prepare(job, run_id, result).await {
            self.fail_run(job, run_id, &error.to_string())?;
            return Err(error);
        }
        self.publish(run_id).await?;
        self.commit(run_id)
    }

    /// Finishes a run that is prepared.
    pub async fn resume(&self, run_id: &str) -> Result<JobRun> {
        self.publish(run_id).await?;
        self.commit(run_id)
    }

    /// To be called once at the start, before any run: finishes what is prepared, fails what a
    /// crash ended, and sweeps the staging folders.
    pub async fn recover(&self) -> Result<Recovered> {
        self.reset_crawlers()?;
        let mut recovered = Recovered { swaps: self.recover_swaps().await?, ..Default::default() };
        for (run_id, _) in self.store().list::<PreparedRun>()? {
            match self.resume(&run_id).await {
                Ok(run) => recovered.finished.push(run),
                Err(error) => {
                    tracing::error!(%run_id, %error, "a prepared run cannot be finished");
                    recovered.stuck.push((run_id, error.to_string()));
                }
            }
        }
        for (job, active) in self.store().list::<Active>()? {
            if !recovered.is_stuck(&active.run_id) {
                let why = "the server ended while the job ran";
                recovered.failed.push(self.fail_run(&job, &active.run_id, why)?);
            }
        }
        let (finished, stuck) = self.recover_writes().await?;
        recovered.writes = finished;
        recovered.stuck.extend(stuck);
        recovered.swept += self.sweep_all(&recovered)?;
        Ok(recovered)
    }

    fn find_prepared(&self, run_id: &str) -> Result<PreparedRun> {
        match self.store().get::<PreparedRun>(run_id)? {
            Some(found) => Ok(found.row),
            None => Err(Error::not_found(format!("run {run_id:?} is not prepared"))),
        }
    }

    /// Removes what is left of a run's folder. Failing at that costs disk space until the next
    /// start and nothing else.
    pub(crate) fn sweep_run(&self, run_id: &str) {
        let folder = self.run_folder(run_id);
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(folder = %folder.display(), %error, "failed to sweep a run's folder");
            }
            _ => {}
        }
    }

    fn sweep_all(&self, recovered: &Recovered) -> Result<u64> {
        let folder = self.jobs_folder();
        let failed = |cause| Error::io(format_args!("failed to read {}", folder.display()), cause);
        let mut swept = 0;
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let ours = ["jr_", crate::compact::ID_START, crate::write::ID_START];
            let run_id = name.to_str().filter(|name| ours.iter().any(|id| name.starts_with(id)));
            if let Some(run_id) = run_id.filter(|run_id| !recovered.is_stuck(run_id)) {
                self.sweep_run(run_id);
                swept += 1;
            }
        }
        Ok(swept)
    }
}

impl Recovered {
    fn is_stuck(&self, run_id: &str) -> bool {
        let mut stuck = self.stuck.iter().chain(&self.swaps.stuck);
        stuck.any(|(stuck, _)| stuck == run_id)
    }
}

/// Refuses to prepare for a table that could not take the files later. Together with
/// [`refuse_while_written`] this makes sure that a prepared run can be committed.
fn reserve(transaction: &Transaction<'_>, wanted: &Table) -> Result<()> {
    if transaction.get::<Database>(&wanted.database)?.is_none() {
        return Err(no_database(&wanted.database));
    }
    if let Some(found) = transaction.get::<Table>(&table_key(&wanted.database, &wanted.name))? {
        check_fits(&found, wanted)?;
    }
    crate::write::refuse_while_filled(transaction, &wanted.database, Some(&wanted.name))?;
    for (_, other) in transaction.list::<PreparedRun>()? {
        if other.table.database == wanted.database && other.table.name == wanted.name {
            check_fits(&other.table, wanted)?;
        }
    }
    Ok(())
}

fn check_fits(found: &Table, wanted: &Table) -> Result<()> {
    let keys: Vec<String> = wanted.partition_keys.iter().map(|key| key.name.clone()).collect();
    let target = TargetOf {
        bucket: &wanted.bucket,
        prefix: &wanted.prefix,
        database: &wanted.database,
        table: &wanted.name,
        partition_keys: &keys,
        format: wanted.format,
        header: wanted.csv.as_ref().is_some_and(|csv| csv.header == Header::Names),
    };
    check_same_place(found, &target)
}

/// Refuses changes to a table, or of a database, while a prepared run or write is about to be
/// committed to it.
pub(crate) fn refuse_while_written(
    transaction: &Transaction<'_>,
    database: &str,
    table: Option<&str>,
) -> Result<()> {
    crate::write::refuse_while_filled(transaction, database, table)?;
    for (run_id, run) in transaction.list::<PreparedRun>()? {
        if run.table.database == database && table.is_none_or(|name| run.table.name == name) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("run {run_id} is about to change {database:?}; try again"),
            ));
        }
    }
    Ok(())
}

/// What says the kind of a file: `.parquet`, `.jsonl.gz`.
fn ending(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.find('.').map_or("", |dot| &name[dot..])
}

fn lost(run_id: &str, key: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("object {key:?} of prepared run {run_id} is neither staged nor whole at its key"),
    )
}

/// The transaction that makes a run true.
fn commit(
    transaction: &mut Transaction<'_>,
    prepared: &PreparedRun,
    now: Timestamp,
) -> Result<JobRun> {
    let mut run = unfinished(transaction, &prepared.job, &prepared.run_id)?;
    let table = commit_table(transaction, &prepared.table, now)?;
    let partition = |file: &Publish| Partition {
        values: file.partition_values.clone(),
        bucket: table.bucket.clone(),
        prefix: file.key[..=file.key.rfind('/').unwrap_or(0)].to_owned(),
        created_at: now,
    };
    if !table.partition_keys.is_empty() {
        let partitions = prepared.files.iter().map(partition).collect();
        add_partitions(transaction, &table, partitions, now)?;
    }
    let written = |file: &Publish| WrittenFile {
        key: file.key.clone(),
        bytes: file.bytes,
        rows: file.rows,
        partition_values: file.partition_values.clone(),
        run_id: prepared.run_id.clone(),
        commit_added: 0,
        commit_removed: None,
    };
    if !prepared.files.is_empty() {
        let new = NewCommit {
            kind: CommitKind::Append,
            by: &prepared.run_id,
            why: "",
            at: now,
            added: prepared.files.iter().map(written).collect(),
            removed: Vec::new(),
        };
        commits::commit(transaction, &table, new)?;
    }
    if prepared.bookmark {
        bookmark::mark(transaction, &prepared.job, &prepared.run_id, &prepared.inputs)?;
    }
    run.state = RunState::Succeeded;
    run.finished_at = Some(now);
    run.rows_in = prepared.rows_in;
    run.bytes_in = prepared.bytes_in;
    run.files_out = prepared.files.len() as u64;
    run.bytes_out = prepared.files.iter().map(|file| file.bytes).sum();
    run.rows_out = prepared.files.iter().map(|file| file.rows).sum();
    run.set_aside = prepared.set_aside;
    run.set_aside_key = prepared.errors.as_ref().map(|errors| errors.key.clone());
    transaction.put(&run_key(&run.job, &run.run_id), &run)?;
    transaction.delete::<PreparedRun>(&prepared.run_id)?;
    free(transaction, &run.job, &run.run_id)?;
    Ok(run)
}

/// The table with room for the run's columns: made, widened, or as it was.
fn commit_table(
    transaction: &mut Transaction<'_>,
    wanted: &Table,
    now: Timestamp,
) -> Result<Table> {
    let Some(found) = transaction.get::<Table>(&table_key(&wanted.database, &wanted.name))? else {
        return create_table(transaction, wanted.clone(), now);
    };
    check_fits(&found, wanted)?;
    let mut table = found.row.clone();
    table.columns = widened(&table.columns, &wanted.columns)?;
    table.partition_keys = widened(&table.partition_keys, &wanted.partition_keys)?;
    match found.means_the_same(&table) {
        true => Ok(table),
        false => update_table(transaction, table, now),
    }
}

/// Columns that hold what either holds: those of `first`, then those only in `second`.
fn widened(first: &[Column], second: &[Column]) -> Result<Vec<Column>> {
    let schema = |columns: &[Column]| -> Result<Schema> {
        let field = |column: &Column| {
            Ok(Field::new(&column.name, formats::hive::to_arrow(&column.hive_type)?, true))
        };
        Ok(Schema::new(columns.iter().map(field).collect::<Result<Vec<_>>>()?))
    };
    let merged = formats::json::merge(&schema(first)?, &schema(second)?);
    let column = |field: &std::sync::Arc<Field>| {
        let known = first.iter().chain(second).find(|column| column.name == *field.name());
        Ok(Column {
            name: field.name().clone(),
            hive_type: formats::hive::from_arrow(field.data_type())?,
            comment: known.and_then(|column| column.comment.clone()),
        })
    };
    merged.fields().iter().map(column).collect()
}

/// Gives the run's records that could not be read a staged file; its name and size.
/// Where the samples of a run's spigots go.
fn samples(job: &Job, run_id: &str, result: &EtlResult) -> Result<Vec<Sample>> {
    let place = |sample: &StagedSample| {
        let place = job.nodes.iter().find_map(|node| match node {
            Node::Spigot { id, bucket, prefix, .. } if *id == sample.node => Some((bucket, prefix)),
            _ => None,
        });
        let Some((bucket, prefix)) = place else {
            let node = &sample.node;
            return Err(Error::internal(format!(
                "run {run_id} has a sample of no spigot {node:?}"
            )));
        };
        let file = Publish {
            staged: sample.path.clone(),
            key: format!("{prefix}{}-{run_id}.jsonl", escape(&sample.node)),
            bytes: sample.bytes,
            rows: sample.rows,
            partition_values: Vec::new(),
        };
        Ok(Sample { bucket: bucket.clone(), file })
    };
    result.samples.iter().map(place).collect()
}

fn write_set_aside(
    staging: &Path,
    run_id: &str,
    result: &EtlResult,
) -> Result<Option<(String, u64)>> {
    let name = match &result.set_aside_file {
        Some(name) => name.clone(),
        None if result.set_aside_count == 0 => return Ok(None),
        None => {
            let mut writer = SetAsideWriter::create(staging, run_id)?;
            for record in &result.set_aside {
                writer.push(record)?;
            }
            let written = writer.finish()?;
            if written != result.set_aside_count {
                let count = result.set_aside_count;
                return Err(Error::internal(format!(
                    "run {run_id} set {count} records aside and handed over {written}"
                )));
            }
            SetAsideWriter::NAME.to_owned()
        }
    };
    let path = staging.join(&name);
    let bytes = std::fs::metadata(&path)
        .map_err(|cause| Error::io(format_args!("failed to find {}", path.display()), cause))?
        .len();
    let file = StagedFile { path: name, partition_values: Vec::new(), rows: 0, bytes };
    sync_staged(staging, &file)?;
    Ok(Some((file.path, bytes)))
}

/// Checks that a staged file lies in the staging folder and has its size, and syncs it.
pub(crate) fn sync_staged(staging: &Path, file: &StagedFile) -> Result<()> {
    let relative = Path::new(&file.path);
    let inside = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if !inside || file.path.is_empty() {
        return Err(Error::internal(format!("{:?} is not in the staging folder", file.path)));
    }
    let path = staging.join(relative);
    let failed = |cause| Error::io(format_args!("failed to sync {}", path.display()), cause);
    let opened = std::fs::File::open(&path).map_err(failed)?;
    let bytes = opened.metadata().map_err(failed)?.len();
    if bytes != file.bytes {
        let claimed = file.bytes;
        return Err(Error::internal(format!("{:?} has {bytes} of {claimed} bytes", file.path)));
    }
    opened.sync_all().map_err(failed)
}

/// Syncs the staging folder with all folders in it, the run's folder and the one above: the
/// names of the staged files must survive as their bytes do.
pub(crate) fn sync_folders(staging: &Path) -> Result<()> {
    let failed = |cause| Error::io(format_args!("failed to read {}", staging.display()), cause);
    let mut waiting = vec![staging.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_dir() {
                waiting.push(entry.path());
            }
        }
        sync_folder(&folder)?;
    }
    for above in staging.ancestors().skip(1).take(2) {
        sync_folder(above)?;
    }
    Ok(())
}

pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    std::fs::File::open(folder)
        .and_then(|opened| opened.sync_all())
        .map_err(|cause| Error::io(format_args!("failed to sync {}", folder.display()), cause))
}
