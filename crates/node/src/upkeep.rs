//! Upkeep of the lake: small files put together, what is beyond its retention taken out, and what
//! was retired long ago deleted. By order, and by a worker that does little at a time.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::Duration;

use base::{Error, ErrorKind, Result};
use lake::{CompactOptions, CompactResult, CompactSpec, Compacted, Lake, Retention, Table};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::sync::watch;

use crate::lake_ops::{database_and_table, in_child};
use crate::{Node, Settings};

/// The program that starts another one with low priority.
const NICE: &str = "/usr/bin/nice";
/// Folders of one table that the worker compacts in a turn.
const FOLDERS_PER_TURN: usize = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Compact {
    table: String,
    files_min: Option<usize>,
    min_age_secs: Option<u64>,
    small_file_bytes: Option<u64>,
    target_file_bytes: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Retain {
    table: String,
    days: Option<u64>,
    bytes: Option<u64>,
    off: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DropRetired {
    keep_secs: u64,
}

fn options(settings: &Settings) -> CompactOptions {
    let lake = &settings.lake;
    CompactOptions {
        small_file_bytes: lake.small_file_bytes,
        files_min: lake.compact_files_min,
        target_file_bytes: lake.target_file_bytes,
        age_ms_min: millis(lake.compact_age_secs_min),
    }
}

fn millis(secs: u64) -> i64 {
    i64::try_from(secs.saturating_mul(1_000)).unwrap_or(i64::MAX / 2)
}

/// The objects that streams have decided on and may put again.
fn in_flight(node: &Node) -> Result<HashSet<(String, String)>> {
    let mut keys = HashSet::new();
    for row in node.streams.list()? {
        let (_, state) = node.streams.describe(row.name())?;
        for object in state.pending.iter().flat_map(|decision| &decision.objects) {
            keys.insert((object.bucket.clone(), object.key.clone()));
        }
    }
    Ok(keys)
}

fn is_in(keys: &HashSet<(String, String)>) -> impl Fn(&str, &str) -> bool + Send + Sync + '_ {
    |bucket, key| !keys.is_empty() && keys.contains(&(bucket.to_owned(), key.to_owned()))
}

/// Compacts a table now.
pub(crate) async fn compact(node: &Arc<Node>, input: Compact) -> Result<Value> {
    let (database, name) = database_and_table(&input.table);
    let table = node.lake.lake.catalog().get_table(&database, &name)?;
    let given = options(&node.settings);
    let options = CompactOptions {
        // Who asks by hand wants it done, not put off.
        files_min: input.files_min.unwrap_or(2),
        age_ms_min: input.min_age_secs.map_or(given.age_ms_min, millis),
        small_file_bytes: input.small_file_bytes.unwrap_or(given.small_file_bytes),
        target_file_bytes: input.target_file_bytes.unwrap_or(given.target_file_bytes),
    };
    let (done, left) = compact_table(node, &table, &options, usize::MAX).await?;
    Ok(json!({"table": input.table, "folders": done, "left": left
        .iter()
        .map(|(name, why)| json!({"name": name, "why": why}))
        .collect::<Vec<_>>()}))
}

async fn compact_table(
    node: &Arc<Node>,
    table: &Table,
    options: &CompactOptions,
    folders_max: usize,
) -> Result<(Vec<Compacted>, Vec<(String, String)>)> {
    let lake = &node.lake.lake;
    let busy = in_flight(node)?;
    let plan = lake.plan_compaction(table, options, &is_in(&busy)).await?;
    let (mut done, mut left) = (Vec::new(), plan.left);
    for spec in plan.specs.into_iter().take(folders_max) {
        let result = match run(lake, &node.program, &spec).await {
            Ok(result) => result,
            Err(error) => {
                lake.drop_compaction(&spec);
                left.push((spec.folder, error.to_string()));
                continue;
            }
        };
        let named = |name: &str| format!("{}{name}", spec.folder);
        left.extend(result.left.iter().map(|(name, why)| (named(name), why.clone())));
        let busy = in_flight(node)?;
        match lake.finish_compaction(&spec, &result, &is_in(&busy)).await {
            Ok(compacted) => done.extend(compacted),
            Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Unsupported) => {
                left.push((spec.folder, error.to_string()));
            }
            Err(error) => return Err(error),
        }
    }
    Ok((done, left))
}

/// Does the work of a compaction in a process of its own, which gives way to all others.
async fn run(lake: &Lake, program: &Path, spec: &CompactSpec) -> Result<CompactResult> {
    let command = match Path::new(NICE).exists() {
        true => {
            let mut nice = Command::new(NICE);
            nice.args(["-n", "19"]).arg(program);
            nice
        }
        false => Command::new(program),
    };
    in_child(command, "compact", &lake.swap_folder(&spec.id), &spec.staging, spec).await
}

/// Says what of a table is kept, and takes the rest out now.
pub(crate) async fn retain(node: &Arc<Node>, input: Retain) -> Result<Value> {
    let lake = &node.lake.lake;
    let (database, name) = database_and_table(&input.table);
    let table = lake.catalog().get_table(&database, &name)?;
    let asked = Retention { days: input.days, bytes: input.bytes };
    if input.off && asked != Retention::default() {
        return Err(Error::invalid("--off takes neither --days nor --bytes"));
    }
    if input.off || asked != Retention::default() {
        lake.set_retention(&table, asked)?;
    }
    let busy = in_flight(node)?;
    let folders = lake.retain(&table, &is_in(&busy)).await?;
    let kept = lake.retention(&table)?;
    Ok(json!({
        "table": input.table, "days": kept.days, "bytes": kept.bytes, "folders": folders,
    }))
}

/// Deletes what was retired.
pub(crate) async fn drop_retired(node: &Arc<Node>, input: DropRetired) -> Result<Value> {
    let dropped = node.lake.lake.drop_retired_files(Duration::from_secs(input.keep_secs)).await?;
    Ok(json!({"objects": dropped}))
}

/// Goes through all tables again and again.
pub(crate) async fn worker(node: Weak<Node>, mut stopped: watch::Receiver<bool>) {
    loop {
        let Some(pause) = node.upgrade().map(|node| node.settings.lake.upkeep_secs) else { return };
        tokio::select! {
            _ = stopped.changed() => return,
            () = tokio::time::sleep(Duration::from_secs(pause)) => {}
        }
        let Some(node) = node.upgrade() else { return };
        tokio::select! {
            _ = stopped.changed() => return,
            () = turn(&node) => {}
        }
    }
}

async fn turn(node: &Arc<Node>) {
    let lake = &node.lake.lake;
    let keep = Duration::from_secs(node.settings.lake.retired_secs);
    if let Err(error) = lake.drop_retired_files(keep).await {
        tracing::error!(%error, "deleting retired objects failed; it is tried again");
    }
    let tables = || -> Result<Vec<Table>> {
        let mut tables = Vec::new();
        for database in lake.catalog().list_databases()? {
            tables.extend(lake.catalog().list_tables(&database.name)?);
        }
        Ok(tables)
    };
    let tables = match tables() {
        Ok(tables) => tables,
        Err(error) => return tracing::error!(%error, "upkeep cannot read the catalog"),
    };
    for table in tables {
        if let Err(error) = look_after(node, &table).await {
            tracing::warn!(
                database = table.database,
                table = table.name,
                %error,
                "upkeep of a table failed; it is tried again"
            );
        }
    }
}

async fn look_after(node: &Arc<Node>, table: &Table) -> Result<()> {
    if node.buckets.remote_place(&table.bucket).is_some() {
        return Ok(());
    }
    if node.lake.lake.retention(table)? != Retention::default() {
        let busy = in_flight(node)?;
        node.lake.lake.retain(table, &is_in(&busy)).await?;
    }
    let ours = table.source == lake::FileSource::Committed || table.format == lake::Format::Json;
    if !node.settings.lake.compact || !ours || !is_quiet(node.settings.lake.compact_load_max) {
        return Ok(());
    }
    let (done, left) =
        compact_table(node, table, &options(&node.settings), FOLDERS_PER_TURN).await?;
    for (name, why) in left {
        tracing::debug!(database = table.database, table = table.name, name, why, "not compacted");
    }
    if !done.is_empty() {
        tracing::info!(
            database = table.database,
            table = table.name,
            folders = done.len(),
            files_before = done.iter().map(|one| one.files_before).sum::<u64>(),
            files_after = done.iter().map(|one| one.files_after).sum::<u64>(),
            "compacted a table"
        );
    }
    Ok(())
}

/// Whether the machine has been no busier in the last minute than `load_max`, or than it has
/// processors if that is 0.
fn is_quiet(load_max: u64) -> bool {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().and_then(|load| load.parse::<f64>().ok()).unwrap_or(0.0);
    let load_max = match load_max {
        0 => std::thread::available_parallelism().map_or(1, usize::from) as f64,
        given => given as f64,
    };
    load <= load_max
}
