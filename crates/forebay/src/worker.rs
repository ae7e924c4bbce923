//! `forebay worker`: one job in a process of its own, so that a crash or an out-of-memory
//! costs one job and never the broker. The parent hands over a JSON file and reads one back.

use std::path::Path;

use anyhow::{Context, Result};
use lake::{CompactSpec, EtlSpec};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::args::Worker;

/// Runs the job of a specification.
pub(crate) async fn run(command: Worker) -> Result<()> {
    match command {
        Worker::Etl { spec } => etl(&spec).await,
        Worker::Compact { spec } => compact(&spec),
        Worker::Train { spec } => Ok(training::runner::work(&spec, &base::SystemClock)?),
    }
}

/// Runs one ETL run. Ends when standard input closes, which the system does even for a parent
/// killed outright: nobody would commit what an orphan writes.
async fn etl(path: &Path) -> Result<()> {
    end_with_parent();
    let spec: EtlSpec = read(path)?;
    answer(path, &query::run_etl(&spec).await?)
}

/// Writes the files of one compaction.
fn compact(path: &Path) -> Result<()> {
    end_with_parent();
    let spec: CompactSpec = read(path)?;
    answer(path, &lake::compact(&spec)?)
}

fn end_with_parent() {
    std::thread::spawn(|| {
        drop(std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
        std::process::exit(1);
    });
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
}

fn answer(path: &Path, result: &impl Serialize) -> Result<()> {
    let answer = path.with_file_name(node::ETL_RESULT_FILE);
    let bytes = serde_json::to_vec(result)?;
    std::fs::write(&answer, bytes).with_context(|| format!("writing {}", answer.display()))
}
