//! Footers of Parquet files, kept with the index of their pages.
//!
//! DataFusion keeps footers, but asks for them without that index, and where a condition wants it
//! reads and parses it again for each file of each query.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use datafusion::common::DataFusionError;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::ParquetFileReaderFactory;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::FutureExt;
use futures::future::BoxFuture;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::Result;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData};

/// Opens files whose footers are kept.
#[derive(Debug)]
pub(crate) struct WithIndex(pub(crate) CachedParquetFileReaderFactory);

impl ParquetFileReaderFactory for WithIndex {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>, DataFusionError> {
        Ok(Box::new(Reader(self.0.create_reader(partition, file, size_hint, metrics)?)))
    }
}

struct Reader(Box<dyn AsyncFileReader + Send>);

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        self.0.get_bytes(range)
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        self.0.get_byte_ranges(ranges)
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        let options = options.cloned().unwrap_or_default();
        let options = options.with_page_index_policy(PageIndexPolicy::Optional);
        async move { self.0.get_metadata(Some(&options)).await }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, RecordBatch};
    use datafusion::execution::runtime_env::RuntimeEnv;
    use object_store::ObjectStoreExt;
    use object_store::local::LocalFileSystem;
    use parquet::arrow::ArrowWriter;

    use super::*;

    /// A reader that asks for no index is given it, from a file that is read once.
    #[tokio::test]
    async fn footers_are_kept_with_their_index() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        let column = Arc::new(Int64Array::from_iter_values(0..10));
        let rows = RecordBatch::try_from_iter([("n", column as _)]).unwrap();
        let file = std::fs::File::create(&path).unwrap();
        let mut writer = ArrowWriter::try_new(file, rows.schema(), None).unwrap();
        writer.write(&rows).unwrap();
        writer.close().unwrap();

        let location = object_store::path::Path::from_absolute_path(&path).unwrap();
        let store = Arc::new(LocalFileSystem::new());
        let file = PartitionedFile::new_from_meta(store.head(&location).await.unwrap());
        let kept = RuntimeEnv::default().cache_manager.get_file_metadata_cache();
        let opened = WithIndex(CachedParquetFileReaderFactory::new(store, kept));
        let metadata = async || {
            let metrics = ExecutionPlanMetricsSet::new();
            let mut reader = opened.create_reader(0, file.clone(), None, &metrics).unwrap();
            let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Skip);
            reader.get_metadata(Some(&options)).await.unwrap()
        };
        let first = metadata().await;
        assert!(first.column_index().is_some() && first.offset_index().is_some());
        std::fs::remove_file(&path).unwrap();
        assert!(Arc::ptr_eq(&first, &metadata().await));
    }
}
