//! A lake in a folder with an engine over it.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::util::display::array_value_to_string;
use base::{ManualClock, Result, Timestamp};
use bytes::Bytes;
use lake::{
    Column, Crawler, EtlResult, Format, Job, JobRun, Lake, Node, QueryEngine, QueryResult,
    SqlOptions, Table, TargetCompression,
};
use metastore::Metastore;
use objects::Buckets;
use query::{Engine, EngineOptions};

pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) lake: Lake,
    pub(crate) engine: Engine,
}

impl World {
    pub(crate) fn new() -> Self {
        World::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut EngineOptions)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp(1_795_392_000_000)));
        let store = Metastore::in_memory().unwrap();
        let buckets = Buckets::open(&folder.path().join("lake")).unwrap();
        buckets.create_bucket("bkt").unwrap();
        let lake = Lake::open(store, buckets, &folder.path().join("jobs"), clock.clone()).unwrap();
        lake.catalog().create_database("air", "").unwrap();
        let mut options = EngineOptions::new(folder.path().join("spill"));
        change(&mut options);
        let engine = Engine::new(lake.clone(), options).unwrap();
        World { folder, clock, lake, engine }
    }

    pub(crate) async fn put(&self, key: &str, bytes: impl Into<Vec<u8>>) {
        self.lake.buckets().put("bkt", key, Bytes::from(bytes.into())).await.unwrap();
    }

    pub(crate) async fn crawl(&self) {
        let crawler = Crawler::new("c", ("bkt", "raw/readings"), "air");
        if self.lake.get_crawler("c").is_err() {
            self.lake.create_crawler(&crawler).unwrap();
        }
        self.lake.run_crawler("c").await.unwrap();
    }

    /// A table that is declared and not crawled: `a int; b string` and partition keys.
    pub(crate) fn declare(&self, name: &str, format: Format, columns: &str, keys: &str) -> Table {
        let prefix = format!("raw/{name}/");
        let mut table = Table::new(("air", name), ("bkt", prefix), format);
        table.columns = parse_columns(columns);
        table.partition_keys = parse_columns(keys);
        self.lake.catalog().create_table(table).unwrap()
    }

    pub(crate) async fn sql(&self, sql: &str) -> Result<QueryResult> {
        self.engine.sql(sql, &SqlOptions::in_database("air")).await
    }

    /// The rows of an answer as `1|x`, nulls as `-`.
    pub(crate) async fn rows(&self, sql: &str) -> Vec<String> {
        let answer = self.sql(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
        shown(&answer.batches)
    }

    /// Runs a job to the end and commits it; the answer of the run too.
    pub(crate) async fn run(&self, job: &Job) -> (JobRun, Option<EtlResult>) {
        if self.lake.get_job(&job.name).is_err() {
            self.lake.create_job(job).unwrap();
        }
        let planned = self.lake.start_run(&job.name, &Default::default()).await.unwrap();
        let Some(spec) = planned.spec else { return (planned.run, None) };
        let result = self.engine.etl(&spec).await.unwrap();
        let run = self.lake.finish_run(&job.name, &spec.run_id, &result).await.unwrap();
        (run, Some(result))
    }
}

pub(crate) fn parse_columns(columns: &str) -> Vec<Column> {
    let parse = |column: &str| {
        let (name, hive_type) = column.trim().split_once(' ').unwrap();
        Column::new(name, hive_type)
    };
    columns.split(';').filter(|column| !column.trim().is_empty()).map(parse).collect()
}

pub(crate) fn shown(batches: &[RecordBatch]) -> Vec<String> {
    let row = |batch: &RecordBatch, row: usize| {
        let cell = |column: &arrow::array::ArrayRef| match column.is_null(row) {
            true => "-".to_owned(),
            false => array_value_to_string(column, row).unwrap(),
        };
        batch.columns().iter().map(cell).collect::<Vec<_>>().join("|")
    };
    batches.iter().flat_map(|batch| (0..batch.num_rows()).map(move |at| row(batch, at))).collect()
}

/// `source -> nodes -> target`, the nodes already chained: the last is called `last`.
pub(crate) fn job(table: &str, middle: Vec<Node>, last: &str, partition_keys: &[&str]) -> Job {
    let mut nodes = vec![Node::Source {
        id: "source".into(),
        database: "air".into(),
        table: table.into(),
        lineage: false,
    }];
    nodes.extend(middle);
    nodes.push(Node::Target {
        id: "target".into(),
        input: last.into(),
        bucket: "bkt".into(),
        prefix: "curated/".into(),
        format: lake::TargetFormat::Parquet,
        compression: TargetCompression::Zstd,
        partition_keys: partition_keys.iter().map(|key| (*key).to_owned()).collect(),
        database: "air".into(),
        table: "curated".into(),
    });
    Job { name: "job".into(), nodes, bookmark: true, error_prefix: None, max_retries: 0 }
}

pub(crate) fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}
