//! What the lake asks of a query engine.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use base::Result;

use crate::{EtlResult, EtlSpec};

/// How a statement is to be understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlOptions {
    /// The database that unqualified table names belong to.
    pub database: String,
}

/// An answer to a statement, whole in memory.
#[derive(Clone, Debug)]
pub struct QueryResult {
    /// Columns of every batch.
    pub schema: SchemaRef,
    /// Rows.
    pub batches: Vec<RecordBatch>,
    /// Bytes of objects that were read for it.
    pub bytes_scanned: u64,
    /// Records that could not be read as rows and were left out.
    pub set_aside: u64,
}

/// Runs SQL over tables, and the graph of a job.
#[async_trait]
pub trait QueryEngine: Send + Sync + std::fmt::Debug {
    /// Answers one read-only statement.
    async fn sql(&self, sql: &str, options: &SqlOptions) -> Result<QueryResult>;

    /// Runs a job's graph: reads the files that `spec` names and writes files beneath its
    /// staging folder. Publishes nothing and decides nothing about the table.
    async fn etl(&self, spec: &EtlSpec) -> Result<EtlResult>;
}
