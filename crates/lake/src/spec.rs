//! One run of a job, as it is handed to a child process and answered: JSON files both.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use base::{Error, Result, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{Column, Job, Table, TableFile};

/// What one run is to do. Complete: the child needs neither the catalog nor the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EtlSpec {
    /// The run.
    pub run_id: String,
    /// The graph.
    pub job: Job,
    /// What each source node reads.
    pub sources: Vec<SourceInput>,
    /// Folder to write into. It exists and is empty.
    pub staging: PathBuf,
    /// A file is closed once it is about so large.
    pub target_file_bytes: u64,
    /// Memory that operators may use together.
    pub memory_bytes: u64,
    /// The run's beginning: what "now" means in the graph.
    pub started_at: Timestamp,
}

/// A source node's table and the files of it that this run reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceInput {
    /// The source node.
    pub node: String,
    /// The table as it was when the run was planned.
    pub table: Table,
    /// The files to read, by key.
    pub files: Vec<TableFile>,
}

/// What a run made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EtlResult {
    /// Files of the target, beneath the staging folder.
    pub files: Vec<StagedFile>,
    /// Columns of every file, in the file's order, without the target's partition keys.
    pub columns: Vec<Column>,
    /// Columns that the target is partitioned by, in the order of its keys.
    pub partition_keys: Vec<Column>,
    /// Rows read from all sources.
    pub rows_in: u64,
    /// Rows in all files.
    pub rows_out: u64,
    /// Bytes of objects read.
    pub bytes_in: u64,
    /// Records that could not be read as rows: all of them, or the first
    /// [`EtlResult::SET_ASIDE_MAX`] if [`set_aside_file`](Self::set_aside_file) has the rest.
    pub set_aside: Vec<SetAside>,
    /// How many records were set aside in all.
    pub set_aside_count: u64,
    /// All records set aside, written by a [`SetAsideWriter`]; relative to the staging folder.
    pub set_aside_file: Option<String>,
    /// What spigots let out.
    #[serde(default)]
    pub samples: Vec<StagedSample>,
}

impl EtlResult {
    /// How many records are carried in the result itself.
    pub const SET_ASIDE_MAX: usize = 1_000;
}

/// A file to publish.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedFile {
    /// Relative to the staging folder, with `/` between components.
    pub path: String,
    /// Values of the target's partition keys; null is [`crate::NULL_PARTITION`].
    pub partition_values: Vec<String>,
    /// Rows in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
}

/// Rows that a node let out to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StagedSample {
    /// The node.
    pub node: String,
    /// Relative to the staging folder.
    pub path: String,
    /// Rows in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
}

/// A record that could not be read as a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAside {
    /// The bucket of the object it lies in; empty for a row that a node set aside.
    pub bucket: String,
    /// The object's key, or the node.
    pub key: String,
    /// Offset of its first byte in the unpacked object, or the row's place at the node.
    pub position: u64,
    /// What is wrong with it.
    pub reason: String,
    /// Its bytes in base64; a row is a JSON object.
    pub raw_base64: String,
}

/// One line of the error prefix.
#[derive(Serialize)]
struct Line<'a> {
    #[serde(rename = "rawData")]
    raw_data: &'a str,
    reason: &'a str,
    bucket: &'a str,
    key: &'a str,
    position: u64,
    #[serde(rename = "runId")]
    run_id: &'a str,
}

/// Writes records set aside as JSON lines, in a file beneath the staging folder.
#[derive(Debug)]
pub struct SetAsideWriter {
    run_id: String,
    path: PathBuf,
    file: BufWriter<File>,
    count: u64,
}

impl SetAsideWriter {
    /// Name of the file.
    pub const NAME: &'static str = "set-aside.jsonl";

    /// Starts the file of a run.
    pub fn create(staging: &Path, run_id: &str) -> Result<Self> {
        let path = staging.join(Self::NAME);
        let file = File::create(&path)
            .map_err(|cause| Error::io(format_args!("failed to make {}", path.display()), cause))?;
        Ok(SetAsideWriter { run_id: run_id.to_owned(), path, file: BufWriter::new(file), count: 0 })
    }

    /// Adds a record.
    pub fn push(&mut self, record: &SetAside) -> Result<()> {
        let line = Line {
            raw_data: &record.raw_base64,
            reason: &record.reason,
            bucket: &record.bucket,
            key: &record.key,
            position: record.position,
            run_id: &self.run_id,
        };
        let mut json = serde_json::to_vec(&line)
            .map_err(|cause| Error::internal("failed to write a record").with_source(cause))?;
        json.push(b'\n');
        self.count += 1;
        self.file.write_all(&json).map_err(|cause| self.failed(cause))
    }

    /// Ends the file; how many records it has.
    pub fn finish(mut self) -> Result<u64> {
        self.file.flush().map_err(|cause| self.failed(cause))?;
        Ok(self.count)
    }

    fn failed(&self, cause: std::io::Error) -> Error {
        Error::io(format_args!("failed to write {}", self.path.display()), cause)
    }
}
