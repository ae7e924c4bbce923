//! One run of a job's graph, from its input files to staged Parquet files.
//!
//! Rows keep the order of the input (files by key, rows by place) through every node but a
//! query that says otherwise. Nothing is published here: see the `lake` crate's commit.

mod aggregate;
mod asof;
mod combine;
mod export;
mod folders;
mod lower;
mod marks;
mod order;
mod quality;
mod series;
mod shape;
mod sort;
mod spigot;
mod text;
mod write;

use std::collections::BTreeSet;
use std::sync::Arc;

use base::{Error, Result};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::execute_stream;
use futures::StreamExt;
use lake::{EtlResult, EtlSpec, Node, QueryResult, SetAsideWriter};

use crate::error::explain;
use crate::meter::Meter;
use crate::pool::Pool;
use crate::settle;

/// Threads of a run: one plans and writes, readers have their own.
const THREADS: usize = 2;

/// Folder beneath the staging folder for what does not fit in memory; gone after the run.
const SPILL_FOLDER: &str = "spill";

/// Bytes of spilled rows at most.
const SPILL_BYTES_MAX: u64 = 64 * 1024 * 1024 * 1024;

/// Rows of each source that a preview computes from.
const PREVIEW_ROWS_READ: usize = 10_000;

/// Runs the graph of `spec`, reading the files it names and writing beneath its staging
/// folder.
///
/// # Errors
/// [`base::ErrorKind::Invalid`] for a graph or column that is not there,
/// [`base::ErrorKind::Exhausted`] beyond the run's memory or a full disk, I/O errors. What
/// was staged is then not to be used.
pub async fn run(spec: &EtlSpec) -> Result<EtlResult> {
    let spec = spec.clone();
    Pool::new(THREADS)?.run(async move { run_here(&spec).await }).await
}

/// The first rows of a node, from the first rows of the sources: nothing is written, and what
/// a large table has beyond them is not read.
pub(crate) async fn preview(
    spec: &EtlSpec,
    node: &str,
    rows: usize,
    environment: &Arc<RuntimeEnv>,
) -> Result<QueryResult> {
    let nodes = spec.job.check()?;
    let Some(asked) = nodes.iter().find(|one| one.id() == node) else {
        let known: Vec<&str> = nodes.iter().map(|one| one.id()).collect();
        let known = known.join(", ");
        return Err(Error::not_found(format!("there is no node {node:?}; there are {known}")));
    };
    let wanted = match (asked.is_target(), asked.inputs().first()) {
        (true, Some(input)) => (*input).to_owned(),
        _ => node.to_owned(),
    };
    let mut needed = BTreeSet::from([wanted.as_str()]);
    for one in nodes.iter().rev() {
        if needed.contains(one.id()) {
            needed.extend(one.inputs());
        }
    }
    let meter = Arc::new(Meter::default());
    let mut graph = lower::Graph::new(spec, environment, &meter).over_first(PREVIEW_ROWS_READ);
    for one in nodes.iter().filter(|one| needed.contains(one.id())) {
        graph.add(one).await.map_err(|e| e.context(format!("node {:?}", one.id())))?;
    }
    let first = graph.rows(&wanted)?.limit(0, Some(rows)).map_err(explain)?;
    let schema = settle::schema(first.schema().as_arrow());
    let batches = first.collect().await.map_err(explain)?;
    let batches = batches.iter().map(|batch| settle::batch(batch, &schema));
    let batches = batches.collect::<Result<_>>()?;
    let (bytes_scanned, set_aside) = meter.seen();
    Ok(QueryResult { schema, batches, bytes_scanned, set_aside })
}

/// The files of the target, staged.
async fn write_target(graph: &lower::Graph<'_>, spec: &EtlSpec, node: &Node) -> Result<EtlResult> {
    match node {
        Node::Target { input, partition_keys, compression, format, .. } => {
            let (session, plan) = graph.take(input)?;
            let plan = session.state().create_physical_plan(&plan).await.map_err(explain)?;
            let schema = settle::schema(&plan.schema());
            let context = session.task_ctx();
            let writer =
                text::TableWriter::new(spec, &schema, partition_keys, (*format, *compression))?;
            let (mut writer, plan) = match (writer, sort::of(&plan)) {
                // Sorted partition by partition, so that each is a small sort.
                (text::TableWriter::Parquet(writer), Some((input, keys))) => {
                    let mut sorter = sort::Sorter::new(writer, &keys, spec.memory_bytes, &context);
                    let mut stream =
                        execute_stream(input, Arc::clone(&context)).map_err(explain)?;
                    while let Some(batch) = stream.next().await {
                        sorter.add(&settle::batch(&batch.map_err(explain)?, &schema)?)?;
                    }
                    drop(stream);
                    return sorter.close().await;
                }
                (writer, _) => (writer, plan),
            };
            let mut stream = execute_stream(plan, context).map_err(explain)?;
            while let Some(batch) = stream.next().await {
                writer.write(&settle::batch(&batch.map_err(explain)?, &schema)?)?;
            }
            drop(stream);
            writer.close()
        }
        Node::ExportDeepAr { .. } => export::deepar(graph, spec, node).await,
        Node::ExportCsv { .. } => export::csv(graph, spec, node).await,
        other => Err(Error::internal(format!("node {:?} is no target", other.id()))),
    }
}

async fn run_here(spec: &EtlSpec) -> Result<EtlResult> {
    let nodes = spec.job.check()?;
    let spill = spec.staging.join(SPILL_FOLDER);
    let environment =
        crate::session::environment(spec.memory_bytes, spill.clone(), SPILL_BYTES_MAX)?;
    let meter = Arc::new(Meter::keeping(SetAsideWriter::create(&spec.staging, &spec.run_id)?));
    let mut graph = lower::Graph::new(spec, &environment, &meter);
    for node in nodes {
        let in_node = |error: Error| error.context(format!("node {:?}", node.id()));
        if !node.is_target() {
            graph.add(node).await.map_err(in_node)?;
            continue;
        }
        let mut result = write_target(&graph, spec, node).await.map_err(in_node)?;
        let totals = meter.finish()?;
        result.rows_in = totals.rows;
        result.bytes_in = totals.bytes;
        result.set_aside = totals.set_aside;
        result.set_aside_count = totals.set_aside_count;
        result.set_aside_file =
            (totals.set_aside_count > 0).then(|| SetAsideWriter::NAME.to_owned());
        std::fs::remove_dir_all(&spill)
            .map_err(|e| Error::io(format!("removing {}", spill.display()), e))?;
        result.samples = graph.samples()?;
        return Ok(result);
    }
    Err(Error::internal("a checked graph has a target"))
}
