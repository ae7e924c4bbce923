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
    /// Bytes of objects that may be read for it; [`BytesCutoff`] once there are more.
    pub bytes_scanned_max: Option<u64>,
}

impl SqlOptions {
    /// A statement in a database, with no bound on what is read for it.
    pub fn in_database(database: impl Into<String>) -> Self {
        SqlOptions { database: database.into(), bytes_scanned_max: None }
    }
}

/// The cause of the error of a query that has read more than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BytesCutoff {
    /// Bytes that it had read by then.
    pub bytes: u64,
}

impl std::fmt::Display for BytesCutoff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes were scanned", self.bytes)
    }
}

impl std::error::Error for BytesCutoff {}

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

/// Metadata of a field whose column the statement gives no name; the field is called as the
/// statement writes it.
pub const UNNAMED: &str = "unnamed";

/// Takes an answer as it comes, so that nobody holds it whole.
pub trait RowSink: Send {
    /// Is told the columns before any rows. Told again, it forgets what it took: a damaged file
    /// was met, and the rest is asked anew.
    fn begin(&mut self, schema: &SchemaRef) -> Result<()>;

    /// Takes rows; an error ends the query.
    fn rows(&mut self, batch: RecordBatch) -> Result<()>;
}

impl<S: RowSink + ?Sized> RowSink for Box<S> {
    fn begin(&mut self, schema: &SchemaRef) -> Result<()> {
        (**self).begin(schema)
    }

    fn rows(&mut self, batch: RecordBatch) -> Result<()> {
        (**self).rows(batch)
    }
}

/// What a query that has ended read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scanned {
    /// Bytes of objects that were read for it.
    pub bytes: u64,
    /// Records that could not be read as rows and were left out.
    pub set_aside: u64,
}

/// Runs SQL over tables, and the graph of a job.
#[async_trait]
pub trait QueryEngine: Send + Sync + std::fmt::Debug {
    /// Answers one read-only statement.
    async fn sql(&self, sql: &str, options: &SqlOptions) -> Result<QueryResult>;

    /// Answers one read-only statement into a sink. Dropping the future stops the query.
    async fn sql_into(
        &self,
        sql: &str,
        options: &SqlOptions,
        mut sink: Box<dyn RowSink>,
    ) -> Result<Scanned> {
        let answer = self.sql(sql, options).await?;
        sink.begin(&answer.schema)?;
        answer.batches.into_iter().try_for_each(|batch| sink.rows(batch))?;
        Ok(Scanned { bytes: answer.bytes_scanned, set_aside: answer.set_aside })
    }

    /// Runs a job's graph: reads the files that `spec` names and writes files beneath its
    /// staging folder. Publishes nothing and decides nothing about the table.
    async fn etl(&self, spec: &EtlSpec) -> Result<EtlResult>;
}
