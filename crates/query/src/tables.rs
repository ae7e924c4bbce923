//! Tables of the lake as DataFusion sees them: a fixed list of files, never a folder.
//!
//! Conditions on partition columns are decided here, file by file, before anything is read.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatchOptions;
use async_trait::async_trait;
use base::Result;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DFSchema, DataFusionError, ScalarValue};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::stream::RecordBatchReceiverStream;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::union::UnionExec;
use lake::{Format, Lake, Table, TableFile};

use crate::error::wrap;
use crate::footers::WithIndex;
use crate::meter::Meter;
use crate::parts::Part;
use crate::reach;
use crate::read::{Layout, Picked, read_file};

/// Batches that a reader may be ahead of the query.
const BATCHES_AHEAD: usize = 2;

/// How a table's files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// As fast as can be. A damaged Parquet file fails the plan: who runs it finds out which
    /// ones are, and has them read by our own reader then, which sets aside what it cannot read.
    Query,
    /// In the order of files and rows; a damaged file is set aside.
    InOrder,
}

/// A table of the lake.
#[derive(Debug)]
pub(crate) struct LakeTable {
    layout: Layout,
    files: Vec<TableFile>,
    meter: Arc<Meter>,
    reading: Reading,
    /// Where files are compared with what was stored before they are read. A job's were when it
    /// was planned.
    lake: Option<Lake>,
    /// Files that another reader fails at.
    damaged: Arc<BTreeSet<PathBuf>>,
}

impl LakeTable {
    pub(crate) fn new(
        table: &Table,
        files: Vec<TableFile>,
        meter: Arc<Meter>,
        reading: Reading,
    ) -> Result<Self> {
        let mut layout = Layout::of(table)?;
        if layout.format == Format::Parquet && reading == Reading::Query {
            layout = layout.with_views();
        }
        Ok(LakeTable { layout, files, meter, reading, lake: None, damaged: Arc::default() })
    }

    /// Fails a scan that would read an altered file, since any answer without it would be wrong.
    pub(crate) fn verified_by(self, lake: &Lake) -> Self {
        LakeTable { lake: Some(lake.clone()), ..self }
    }

    /// Reads these files as jobs do.
    pub(crate) fn sparing(self, damaged: &Arc<BTreeSet<PathBuf>>) -> Self {
        LakeTable { damaged: Arc::clone(damaged), ..self }
    }

    async fn verify(&self, files: &[TableFile]) -> Result<()> {
        let Some(lake) = &self.lake else { return Ok(()) };
        let altered = lake.verify(files).await?;
        let more = altered.len().saturating_sub(1);
        match altered.into_iter().next() {
            None => Ok(()),
            Some((_, error)) if more == 0 => Err(error),
            Some((_, error)) => Err(error.context(format_args!("{more} more objects and"))),
        }
    }

    /// The files that may hold rows for which all `filters` on partition columns are true.
    fn prune(
        &self,
        state: &dyn Session,
        filters: &[Expr],
    ) -> Result<Vec<TableFile>, DataFusionError> {
        let on_partitions = filters.iter().filter(|filter| self.is_on_partitions(filter));
        let Some(condition) = conjunction(on_partitions.cloned()) else {
            return Ok(self.files.clone());
        };
        let schema = Arc::new(Schema::new(self.layout.partition.clone()));
        let values = self.partition_batch(&schema)?;
        let condition =
            state.create_physical_expr(condition, &DFSchema::try_from(Arc::clone(&schema))?)?;
        let keep = condition.evaluate(&values)?.into_array(values.num_rows())?;
        let keep = keep
            .as_any()
            .downcast_ref::<BooleanArray>()
            .ok_or_else(|| DataFusionError::Internal("a condition is not true or false".into()))?;
        let kept = self.files.iter().zip(keep).filter(|(_, keep)| *keep == Some(true));
        Ok(kept.map(|(file, _)| file.clone()).collect())
    }

    fn is_on_partitions(&self, filter: &Expr) -> bool {
        let columns = filter.column_refs();
        let known = |name: &str| self.layout.partition.iter().any(|field| field.name() == name);
        !columns.is_empty()
            && columns.iter().all(|column| known(&column.name))
            && !filter.is_volatile()
    }

    /// One row a file: the values of its partition columns.
    fn partition_batch(&self, schema: &SchemaRef) -> Result<RecordBatch, DataFusionError> {
        let rows: Vec<Vec<ScalarValue>> =
            self.files.iter().map(|file| self.layout.partition_values(file)).collect();
        let mut arrays = Vec::with_capacity(self.layout.partition.len());
        for (column, field) in self.layout.partition.iter().enumerate() {
            let null = ScalarValue::try_from(field.data_type())?;
            let value = |row: &Vec<ScalarValue>| row.get(column).unwrap_or(&null).clone();
            arrays.push(match rows.is_empty() {
                true => null.to_array_of_size(0)?,
                false => ScalarValue::iter_to_array(rows.iter().map(value))?,
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        Ok(RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options)?)
    }

    /// Our own reader over `files`, in one stream or in as many as there are partitions.
    fn streams(
        &self,
        partitions: usize,
        files: Vec<TableFile>,
        projection: Option<&Vec<usize>>,
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let picked = Picked::new(&self.layout, projection).map_err(wrap)?;
        let schema = Arc::clone(&picked.schema);
        let groups = match self.reading {
            Reading::InOrder => vec![files.into_iter().map(Part::whole).collect()],
            Reading::Query => {
                let parts = files.into_iter().flat_map(|file| Part::of(file, &self.layout));
                balance(parts.collect(), partitions, |part| (part.bytes(), &part.file.key))
            }
        };
        let stream = |parts: Vec<Part>| -> Arc<dyn PartitionStream> {
            let (picked, meter) = (picked.clone(), Arc::clone(&self.meter));
            Arc::new(FilesStream { parts: parts.into(), picked, meter, lake: self.lake.clone() })
        };
        let streams = groups.into_iter().map(stream).collect();
        Ok(Arc::new(StreamingTableExec::try_new(schema, streams, None, [], false, limit)?))
    }

    /// DataFusion's reader, which skips row groups and pages that a filter rules out.
    fn parquet(
        &self,
        state: &dyn Session,
        files: Vec<TableFile>,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let schema = TableSchema::new(Arc::clone(&self.layout.data), self.layout.partition.clone());
        let picked = Picked::new(&self.layout, projection).map_err(wrap)?;
        files.iter().for_each(|file| self.meter.foreign(file, &picked));
        // Footers of files that were asked before are not read again.
        let environment = state.runtime_env();
        let store = environment.object_store(ObjectStoreUrl::local_filesystem())?;
        let footers = environment.cache_manager.get_file_metadata_cache();
        let mut source = ParquetSource::new(schema)
            .with_table_parquet_options(state.table_options().parquet.clone())
            .with_parquet_file_reader_factory(Arc::new(WithIndex(
                CachedParquetFileReaderFactory::new(store, footers),
            )));
        let on_rows = filters.iter().filter(|filter| !self.is_on_partitions(filter));
        if let Some(condition) = conjunction(on_rows.cloned()) {
            let schema = DFSchema::try_from(Arc::clone(&self.layout.all))?;
            source = source.with_predicate(state.create_physical_expr(condition, &schema)?);
        }
        let group = |files: Vec<TableFile>| -> Result<FileGroup, DataFusionError> {
            let files: Result<Vec<_>, DataFusionError> =
                files.iter().map(|file| self.partitioned(file)).collect();
            Ok(FileGroup::new(files?))
        };
        let partitions = state.config().target_partitions();
        let groups = balance(files, partitions, |file| (file.bytes, &file.key));
        let config =
            FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::new(source))
                .with_file_groups(groups.into_iter().map(group).collect::<Result<_, _>>()?)
                .with_projection_indices(projection.cloned())?
                .with_limit(limit)
                .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    fn partitioned(&self, file: &TableFile) -> Result<PartitionedFile, DataFusionError> {
        let moved = match file.path.exists() {
            true => None,
            false => self.lake.as_ref().and_then(|lake| reach::located(lake, file)),
        };
        let file = moved.as_ref().unwrap_or(file);
        let meta = file.path.metadata().map_err(|cause| {
            wrap(base::Error::io(format!("opening {}/{}", file.bucket, file.key), cause))
        })?;
        let location = object_store::path::Path::from_absolute_path(&file.path)
            .map_err(|cause| DataFusionError::ObjectStore(Box::new(cause.into())))?;
        let modified = meta.modified().map_err(DataFusionError::IoError)?;
        let mut partitioned = PartitionedFile::new_from_meta(object_store::ObjectMeta {
            location,
            last_modified: modified.into(),
            size: meta.len(),
            e_tag: Some(file.etag.clone()),
            version: None,
        });
        partitioned.partition_values = self.layout.partition_values(file);
        Ok(partitioned)
    }
}

#[async_trait]
impl TableProvider for LakeTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.layout.all)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        let support = |filter: &&Expr| {
            if self.is_on_partitions(filter) {
                TableProviderFilterPushDown::Exact
            } else if self.layout.format == Format::Parquet && self.reading == Reading::Query {
                TableProviderFilterPushDown::Inexact
            } else {
                TableProviderFilterPushDown::Unsupported
            }
        };
        Ok(filters.iter().map(support).collect())
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let files = self.prune(state, filters)?;
        self.verify(&files).await.map_err(wrap)?;
        if files.is_empty() {
            let picked = Picked::new(&self.layout, projection).map_err(wrap)?;
            return Ok(Arc::new(EmptyExec::new(picked.schema)));
        }
        if self.layout.format == Format::Parquet && self.reading == Reading::Query {
            let (damaged, sound): (Vec<_>, Vec<_>) =
                files.into_iter().partition(|file| self.damaged.contains(&file.path));
            if damaged.is_empty() {
                return self.parquet(state, sound, projection, filters, limit);
            }
            let damaged = self.streams(1, damaged, projection, limit)?;
            if sound.is_empty() {
                return Ok(damaged);
            }
            let sound = self.parquet(state, sound, projection, filters, limit)?;
            return UnionExec::try_new(vec![sound, damaged]);
        }
        self.streams(state.config().target_partitions(), files, projection, limit)
    }
}

/// Deals files or parts of them out to at most `groups` groups of about the same size, by what
/// `weigh` says: bytes, and a key that orders those of the same size.
fn balance<T>(mut dealt: Vec<T>, groups: usize, weigh: fn(&T) -> (u64, &String)) -> Vec<Vec<T>> {
    let groups = groups.clamp(1, dealt.len().max(1));
    dealt.sort_by(|a, b| {
        let ((a_bytes, a_key), (b_bytes, b_key)) = (weigh(a), weigh(b));
        b_bytes.cmp(&a_bytes).then_with(|| a_key.cmp(b_key))
    });
    let mut groups: Vec<(u64, Vec<T>)> = (0..groups).map(|_| (0, Vec::new())).collect();
    for one in dealt {
        if let Some(lightest) = groups.iter_mut().min_by_key(|(bytes, _)| *bytes) {
            lightest.0 += weigh(&one).0;
            lightest.1.push(one);
        }
    }
    groups.into_iter().map(|(_, dealt)| dealt).filter(|dealt| !dealt.is_empty()).collect()
}

/// Files, or parts of them, read one after another by a thread of their own.
#[derive(Debug)]
struct FilesStream {
    parts: Arc<[Part]>,
    picked: Picked,
    meter: Arc<Meter>,
    lake: Option<Lake>,
}

impl PartitionStream for FilesStream {
    fn schema(&self) -> &SchemaRef {
        &self.picked.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let schema = Arc::clone(&self.picked.schema);
        let mut stream = RecordBatchReceiverStream::builder(schema, BATCHES_AHEAD);
        let sender = stream.tx();
        let (parts, picked) = (Arc::clone(&self.parts), self.picked.clone());
        let (meter, lake) = (Arc::clone(&self.meter), self.lake.clone());
        stream.spawn_blocking(move || {
            // A reader that is gone wants no more, which is how a query is cancelled.
            let mut send = |batch| sender.blocking_send(Ok(batch)).is_ok();
            for part in parts.iter() {
                let mut read = read_file(part, &picked, &meter, &mut send);
                // It was moved out of sight after the query was planned; nothing was read yet.
                if read.as_ref().is_err_and(|error| error.kind() == base::ErrorKind::NotFound)
                    && let Some(file) =
                        lake.as_ref().and_then(|lake| reach::located(lake, &part.file))
                {
                    read = read_file(&Part { file, ..part.clone() }, &picked, &meter, &mut send);
                }
                if !read.map_err(wrap)? {
                    break;
                }
            }
            Ok(())
        });
        stream.build()
    }
}
