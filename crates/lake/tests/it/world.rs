//! A lake in a folder, and an engine small enough to be understood at a glance: it reads the
//! JSON of one source and writes a Parquet file for each input object.

use std::path::Path;
use std::sync::Arc;

use base::{ErrorKind, ManualClock, Timestamp};
use bytes::Bytes;
use formats::json::{Scan, ScanOptions};
use formats::parquet::{Reader, Writer, WriterOptions};
use lake::{
    Column, Crawler, EtlResult, EtlSpec, Job, JobRun, Lake, Node, SetAside, SetAsideWriter,
    StagedFile, Table, TargetCompression,
};
use metastore::Metastore;
use objects::Buckets;

pub(crate) struct World {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) lake: Lake,
}

fn open(folder: &Path, clock: &Arc<ManualClock>) -> Lake {
    let store = Metastore::open(&folder.join("forebay.db")).unwrap();
    let buckets = Buckets::open(&folder.join("lake")).unwrap();
    Lake::open(store, buckets, &folder.join("jobs"), clock.clone()).unwrap()
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(Timestamp(1_795_392_000_000)));
        let lake = open(folder.path(), &clock);
        lake.buckets().create_bucket("bkt").unwrap();
        lake.catalog().create_database("air", "").unwrap();
        World { folder, clock, lake }
    }

    /// What a restart after kill -9 is: everything in memory is gone.
    pub(crate) fn restart(self) -> Self {
        let World { folder, clock, lake } = self;
        drop(lake);
        let lake = open(folder.path(), &clock);
        World { folder, clock, lake }
    }

    /// The same folder under another clock.
    pub(crate) fn over(folder: tempfile::TempDir, clock: Arc<ManualClock>) -> Self {
        let lake = open(folder.path(), &clock);
        World { folder, clock, lake }
    }

    pub(crate) async fn put(&self, key: &str, text: &str) {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        self.lake.buckets().put("bkt", key, bytes).await.unwrap();
    }

    /// A crawler on `raw/`, run once.
    pub(crate) async fn crawl(&self) -> lake::CrawlReport {
        match self.lake.create_crawler(&Crawler::new("c", ("bkt", "raw"), "air")) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => panic!("{error}"),
            _ => {}
        }
        self.lake.run_crawler("c").await.unwrap()
    }

    pub(crate) fn table(&self, name: &str) -> Table {
        self.lake.catalog().get_table("air", name).unwrap()
    }

    /// Two readings an object, under `raw/`, crawled.
    pub(crate) async fn readings(&self, keys: &[&str]) {
        for key in keys {
            let n: u32 = key.bytes().map(u32::from).sum();
            self.put(&format!("raw/{key}"), &format!("{{\"n\":{n}}}\n{{\"n\":{}}}\n", n + 1000))
                .await;
        }
        self.crawl().await;
    }

    /// Runs the job to its end; `None` for the spec when nothing was new.
    pub(crate) async fn run(&self) -> JobRun {
        let planned = self.lake.start_run("j", &Default::default()).await.unwrap();
        let Some(spec) = planned.spec else { return planned.run };
        let result = engine(&spec);
        self.lake.finish_run("j", &spec.run_id, &result).await.unwrap()
    }

    /// The values of column `n` in a committed table, sorted; empty without a table.
    pub(crate) async fn rows(&self, name: &str) -> Vec<i64> {
        let Some(table) = self.lake.catalog().find_table("air", name).unwrap() else {
            return Vec::new();
        };
        let mut rows = Vec::new();
        for file in self.lake.files(&table).await.unwrap() {
            rows.extend(column_n(&file.path));
        }
        rows.sort_unstable();
        rows
    }

    pub(crate) fn staging_folders(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("jobs")).unwrap().count()
    }
}

/// Source, mapping, target: `raw` to `curated`.
pub(crate) fn job() -> Job {
    Job {
        name: "j".into(),
        nodes: vec![
            Node::Target {
                id: "write".into(),
                input: "map".into(),
                bucket: "bkt".into(),
                prefix: "curated/".into(),
                format: lake::TargetFormat::Parquet,
                compression: TargetCompression::Zstd,
                partition_keys: vec![],
                database: "air".into(),
                table: "curated".into(),
            },
            Node::SelectFields { id: "map".into(), input: "read".into(), fields: vec!["n".into()] },
            Node::Source {
                id: "read".into(),
                database: "air".into(),
                table: "raw".into(),
                lineage: false,
            },
        ],
        bookmark: true,
        error_prefix: None,
        max_retries: 0,
    }
}

pub(crate) fn engine(spec: &EtlSpec) -> EtlResult {
    let source = &spec.sources[0];
    let field = |column: &Column| {
        let data_type = formats::hive::to_arrow(&column.hive_type).unwrap();
        arrow::datatypes::Field::new(&column.name, data_type, true)
    };
    let schema =
        arrow::datatypes::Schema::new(source.table.columns.iter().map(field).collect::<Vec<_>>());
    let mut result = EtlResult { columns: source.table.columns.clone(), ..Default::default() };
    for (index, file) in source.files.iter().enumerate() {
        let input = formats::decode(std::fs::File::open(&file.path).unwrap()).unwrap();
        let mut scan = Scan::new(&schema, None, input, ScanOptions::default()).unwrap();
        let path = format!("{index}.parquet");
        let metadata = vec![("forebay.run".to_owned(), spec.run_id.clone())];
        let options = WriterOptions { metadata, ..WriterOptions::default() };
        let mut writer =
            Writer::create(&spec.staging.join(&path), scan.schema(), &options).unwrap();
        let mut bad = Vec::new();
        while let Some(batch) = scan.next_batch(&mut |record| bad.push(record)).unwrap() {
            writer.write(&batch).unwrap();
        }
        result.set_aside.extend(bad.into_iter().map(|record| SetAside {
            bucket: file.bucket.clone(),
            key: file.key.clone(),
            position: record.position,
            reason: record.reason,
            raw_base64: format!("<{} bytes>", record.raw.len()),
        }));
        let written = writer.close().unwrap();
        result.rows_in += scan.good();
        result.rows_out += written.rows;
        result.bytes_in += file.bytes;
        result.files.push(StagedFile {
            path,
            partition_values: vec![],
            rows: written.rows,
            bytes: written.bytes,
        });
    }
    result.set_aside_count = result.set_aside.len() as u64;
    result
}

/// As the engine does when it sets more aside than a result carries.
pub(crate) fn move_set_aside_to_file(spec: &EtlSpec, result: &mut EtlResult) {
    let mut writer = SetAsideWriter::create(&spec.staging, &spec.run_id).unwrap();
    for record in result.set_aside.drain(..) {
        writer.push(&record).unwrap();
    }
    result.set_aside_count = writer.finish().unwrap();
    result.set_aside_file = Some(SetAsideWriter::NAME.to_owned());
}

/// The values of column `n` of a Parquet file; panics unless the file is whole.
pub(crate) fn column_n(path: &Path) -> Vec<i64> {
    rows_of(&Reader::open(path).unwrap())
}

/// The same of a file that is open, and may be gone from where it was.
pub(crate) fn rows_of(reader: &Reader) -> Vec<i64> {
    use arrow::array::AsArray;
    use arrow::datatypes::Int32Type;
    let at = reader.schema().index_of("n").unwrap();
    let mut rows = Vec::new();
    for batch in reader.batches(None, 1024).unwrap() {
        let batch = batch.unwrap();
        rows.extend(batch.column(at).as_primitive::<Int32Type>().iter().flatten().map(i64::from));
    }
    rows
}
