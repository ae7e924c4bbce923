//! A query's last ORDER BY, done partition by partition.
//!
//! The order is asked of rows that then part into files, so rows of different partitions never
//! need comparing. What comes in is kept by partition; each is sorted by itself at the end and
//! written at once. What does not fit in memory goes to disk as it came, the largest partition
//! first; one that is too large to be sorted in memory is sorted by DataFusion's external sort,
//! with the row's place as its last key.
//!
//! Invariants
//! * Rows that agree in all keys keep the order they came in, whatever was spilled.
//! * Files of a partition depend on its rows alone, and not on how many are written at a time.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt64Array};
use arrow::compute::{SortOptions, interleave_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use base::{Error, Result};
use datafusion::common::DataFusionError;
use datafusion::execution::disk_manager::RefCountedTempFile;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{LexOrdering, PhysicalSortExpr};
use datafusion::physical_plan::expressions::Column;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, SpillMetrics};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::spill::SpillManager;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use formats::parquet::{Rolling, Written};
use futures::{StreamExt, TryStreamExt};
use lake::EtlResult;

use super::order::{Key, order};
use super::write::PartitionWriter;
use crate::error::explain;

/// Partitions sorted and written at a time.
const AT_A_TIME: usize = 2;

/// What sorting needs for a row beside it, about: its number, its place, where it goes.
const ROW_BYTES: usize = 24;

/// Rows handed to a file at a time.
const WRITE_ROWS: usize = 16 * 1024;

/// A column of a plan's rows to sort by.
#[derive(Clone, Copy, Debug)]
pub(super) struct SortKey {
    column: usize,
    options: SortOptions,
}

/// The input and the keys of a plan that ends in a sort of all its rows by columns.
pub(super) fn of(plan: &Arc<dyn ExecutionPlan>) -> Option<(Arc<dyn ExecutionPlan>, Vec<SortKey>)> {
    let sort = plan.downcast_ref::<SortExec>()?;
    let one = sort.input().properties().partitioning.partition_count() == 1;
    if sort.fetch().is_some() || !one {
        return None;
    }
    let key = |by: &PhysicalSortExpr| {
        let column = by.expr.downcast_ref::<Column>()?.index();
        Some(SortKey { column, options: by.options })
    };
    let keys: Option<Vec<SortKey>> = sort.expr().iter().map(key).collect();
    Some((Arc::clone(sort.input()), keys?))
}

/// Rows on their way into sorted files.
pub(super) struct Sorter {
    writer: PartitionWriter,
    /// In the columns of the files.
    keys: Vec<SortKey>,
    buckets: Vec<Bucket>,
    memory: MemoryReservation,
    /// Of memory, for the rows that wait.
    held_max: usize,
    /// Of memory, for a partition that is sorted at once.
    sorted_max: usize,
    spills: SpillManager,
    context: Arc<TaskContext>,
}

/// The rows of a partition.
#[derive(Default)]
struct Bucket {
    batches: Vec<RecordBatch>,
    /// Of memory, for the batches and for sorting them.
    bytes: usize,
    /// What came before the batches, in order.
    spilled: Vec<RefCountedTempFile>,
    /// Of memory, were it read back.
    spilled_bytes: usize,
    rows: u64,
}

impl Sorter {
    pub(super) fn new(
        writer: PartitionWriter,
        keys: &[SortKey],
        memory_bytes: u64,
        context: &Arc<TaskContext>,
    ) -> Self {
        let writer = writer.with_nulls_apart();
        // All rows of a partition agree in its keys.
        let within = |key: &SortKey| Some(SortKey { column: writer.place(key.column)?, ..*key });
        let keys = keys.iter().filter_map(within).collect();
        let metrics = SpillMetrics::new(&ExecutionPlanMetricsSet::new(), 0);
        let runtime = context.runtime_env();
        let spills = SpillManager::new(runtime, metrics, Arc::clone(writer.schema()));
        let consumer = MemoryConsumer::new("Sort").with_can_spill(true);
        let memory_bytes = usize::try_from(memory_bytes).unwrap_or(usize::MAX);
        Sorter {
            keys,
            buckets: Vec::new(),
            memory: consumer.register(context.memory_pool()),
            // The rest is for what is read, sorted and packed meanwhile.
            held_max: memory_bytes / 8 * 5,
            sorted_max: memory_bytes / (2 * AT_A_TIME),
            spills,
            context: Arc::clone(context),
            writer,
        }
    }

    /// Takes rows in any order.
    pub(super) fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        for (number, rows) in self.writer.split(batch)? {
            if self.buckets.len() <= number {
                self.buckets.resize_with(number + 1, Bucket::default);
            }
            let bytes = rows.get_array_memory_size() + rows.num_rows() * ROW_BYTES;
            let full = self.memory.size() + bytes > self.held_max;
            if full || self.memory.try_grow(bytes).is_err() {
                self.spill()?;
                // What one batch needs is had.
                self.memory.grow(bytes);
            }
            let bucket = &mut self.buckets[number];
            bucket.bytes += bytes;
            bucket.rows += rows.num_rows() as u64;
            bucket.batches.push(rows);
        }
        Ok(())
    }

    /// Writes the largest buckets to disk until half the memory is free.
    fn spill(&mut self) -> Result<()> {
        let enough = self.memory.size() / 2;
        let mut largest: Vec<usize> = (0..self.buckets.len()).collect();
        largest.sort_by_key(|&number| std::cmp::Reverse(self.buckets[number].bytes));
        for number in largest {
            if self.memory.size() <= enough || self.buckets[number].bytes == 0 {
                break;
            }
            self.buckets[number].spill(&self.spills)?;
            let held = self.buckets.iter().map(|bucket| bucket.bytes).sum();
            self.memory.resize(held);
        }
        Ok(())
    }

    /// Sorts and writes everything.
    pub(super) async fn close(mut self) -> Result<EtlResult> {
        let buckets = std::mem::take(&mut self.buckets);
        let (held, apart): (Vec<_>, Vec<_>) = buckets
            .into_iter()
            .enumerate()
            .filter(|(_, bucket)| bucket.rows > 0)
            .partition(|(_, bucket)| bucket.spilled.is_empty());
        // Those in memory first, since that gives it back.
        self.sort_in_memory(held).await?;
        let fits = self.sorted_max;
        let (small, large): (Vec<_>, Vec<_>) =
            apart.into_iter().partition(|(_, bucket)| bucket.bytes + bucket.spilled_bytes <= fits);
        self.sort_in_memory(small).await?;
        for (number, mut bucket) in large {
            bucket.spill(&self.spills)?;
            self.sort_outside(number, bucket).await?;
        }
        self.writer.close()
    }

    async fn sort_in_memory(&mut self, buckets: Vec<(usize, Bucket)>) -> Result<()> {
        let work: Vec<_> = buckets
            .into_iter()
            .map(|(number, bucket)| {
                let (files, keys) = (self.writer.files(number), self.keys.clone());
                let (spills, rows, bytes) = (self.spills.clone(), bucket.rows, bucket.bytes);
                async move {
                    let batches = bucket.read(&spills).await?;
                    let written =
                        tokio::task::spawn_blocking(move || write(&batches, &keys, files));
                    let written = written.await.map_err(gave_up)??;
                    Ok::<_, Error>((number, written, rows, bytes))
                }
            })
            .collect();
        let mut done = futures::stream::iter(work).buffer_unordered(AT_A_TIME);
        while let Some(done) = done.next().await {
            let (number, written, rows, bytes) = done?;
            self.writer.add(number, written, rows);
            self.memory.shrink(bytes.min(self.memory.size()));
        }
        Ok(())
    }

    async fn sort_outside(&mut self, number: usize, bucket: Bucket) -> Result<()> {
        self.memory.free();
        let rows = bucket.rows;
        let source = Numbered::new(bucket.spilled, self.spills.clone());
        let schema = Arc::clone(&source.schema);
        let place = schema.fields().len() - 1;
        let by_place = SortKey { column: place, options: SortOptions::default() };
        let by = self.keys.iter().chain([&by_place]).map(|key| {
            let column = Column::new(schema.field(key.column).name(), key.column);
            PhysicalSortExpr::new(Arc::new(column), key.options)
        });
        let by = LexOrdering::new(by).ok_or_else(|| Error::internal("a sort by nothing"))?;
        let source =
            StreamingTableExec::try_new(schema, vec![Arc::new(source)], None, [], false, None)
                .map_err(explain)?;
        let sort = SortExec::new(by, Arc::new(source));
        let mut stream =
            execute_stream(Arc::new(sort), Arc::clone(&self.context)).map_err(explain)?;
        let mut files = self.writer.files(number);
        let columns: Vec<usize> = (0..place).collect();
        while let Some(batch) = stream.next().await {
            let batch = batch.map_err(explain)?.project(&columns).map_err(bug)?;
            files.write(&batch)?;
        }
        self.writer.add(number, files.close()?, rows);
        Ok(())
    }
}

impl Bucket {
    fn spill(&mut self, spills: &SpillManager) -> Result<()> {
        let batches = std::mem::take(&mut self.batches);
        let file = spills.spill_record_batch_and_finish(&batches, "sorting").map_err(explain)?;
        self.spilled.extend(file);
        self.spilled_bytes += self.bytes;
        self.bytes = 0;
        Ok(())
    }

    /// All rows in the order they came.
    async fn read(self, spills: &SpillManager) -> Result<Vec<RecordBatch>> {
        let mut batches = Vec::new();
        for file in self.spilled {
            let stream = spills.read_spill_as_stream_unbuffered(file, None).map_err(explain)?;
            batches.extend(stream.try_collect::<Vec<_>>().await.map_err(explain)?);
        }
        batches.extend(self.batches);
        Ok(batches)
    }
}

/// Writes the rows of a partition in order.
fn write(batches: &[RecordBatch], keys: &[SortKey], mut files: Rolling) -> Result<Vec<Written>> {
    let rows = batches.iter().map(RecordBatch::num_rows).sum();
    let keys: Vec<Key> = keys
        .iter()
        .map(|key| {
            let piece = |batch: &RecordBatch| Arc::clone(batch.column(key.column));
            Key { pieces: batches.iter().map(piece).collect(), options: key.options }
        })
        .collect();
    let places = order(&keys, rows)?;
    let mut whereabouts: Vec<(u32, u32)> = Vec::with_capacity(rows);
    for (at, batch) in batches.iter().enumerate() {
        whereabouts.extend((0..batch.num_rows()).map(|row| (at as u32, row as u32)));
    }
    let all: Vec<&RecordBatch> = batches.iter().collect();
    let mut picked: Vec<(usize, usize)> = Vec::with_capacity(WRITE_ROWS.min(rows));
    for places in places.chunks(WRITE_ROWS) {
        picked.clear();
        picked.extend(places.iter().map(|&place| {
            let (batch, row) = whereabouts[place as usize];
            (batch as usize, row as usize)
        }));
        files.write(&interleave_record_batch(&all, &picked).map_err(bug)?)?;
    }
    files.close()
}

fn bug(cause: arrow::error::ArrowError) -> Error {
    Error::internal(format!("sorted rows were built wrongly: {cause}"))
}

fn gave_up(cause: tokio::task::JoinError) -> Error {
    Error::internal(format!("sorting gave up: {cause}"))
}

/// Spilled rows with their places as a last column.
struct Numbered {
    files: Vec<RefCountedTempFile>,
    spills: SpillManager,
    schema: SchemaRef,
}

impl Numbered {
    fn new(files: Vec<RefCountedTempFile>, spills: SpillManager) -> Self {
        let place = Arc::new(Field::new("place", DataType::UInt64, false));
        let fields: Vec<_> = spills.schema().fields().iter().cloned().chain([place]).collect();
        Numbered { files, spills, schema: Arc::new(Schema::new(fields)) }
    }
}

impl fmt::Debug for Numbered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Numbered").field("files", &self.files.len()).finish()
    }
}

impl PartitionStream for Numbered {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (spills, schema) = (self.spills.clone(), Arc::clone(&self.schema));
        let files = futures::stream::iter(self.files.clone());
        let batches =
            files.map(move |file| spills.read_spill_as_stream_unbuffered(file, None)).try_flatten();
        let mut next = 0_u64;
        let numbered = batches.map(move |batch| {
            let batch = batch?;
            let end = next + batch.num_rows() as u64;
            let places: ArrayRef = Arc::new(UInt64Array::from_iter_values(next..end));
            next = end;
            let columns = batch.columns().iter().cloned().chain([places]).collect();
            Ok::<_, DataFusionError>(RecordBatch::try_new(Arc::clone(&schema), columns)?)
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), numbered))
    }
}
