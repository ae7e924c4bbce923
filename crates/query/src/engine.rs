//! The engine of one lake: answers statements, runs graphs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use base::{Error, ErrorKind, Result};
use datafusion::catalog::memory::MemorySchemaProvider;
use datafusion::catalog::{CatalogProvider, SchemaProvider};
use datafusion::execution::context::SQLOptions;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use futures::StreamExt;
use lake::{Column, EtlResult, EtlSpec, Lake, QueryEngine, QueryResult, SqlOptions, Table};
use tokio::sync::Semaphore;

use crate::error::explain;
use crate::meter::Meter;
use crate::pool::Pool;
use crate::settle;
use crate::statement::{self, CATALOG, Request, Show, Spelling, TableName};
use crate::tables::{LakeTable, Reading};

/// Bounds of an engine and of each query in it.
#[derive(Clone, Debug)]
pub struct EngineOptions {
    /// Memory that operators of all queries may use together.
    pub memory_bytes: u64,
    /// Where operators put what does not fit; the folder is made if absent.
    pub spill_folder: PathBuf,
    /// Bytes in that folder at most.
    pub spill_bytes_max: u64,
    /// Threads, and parts that a query is cut into.
    pub partitions: usize,
    /// Queries that run at the same time; others wait.
    pub queries_max: usize,
    /// Bytes of an answer, which is held in memory whole.
    pub answer_bytes_max: usize,
    /// Files that a query may read.
    pub files_max: usize,
    /// How long a query may take, waiting included: Athena's half hour.
    pub time_max: Duration,
}

impl EngineOptions {
    /// The defaults: 256 MiB for operators, two partitions.
    pub fn new(spill_folder: impl Into<PathBuf>) -> Self {
        EngineOptions {
            memory_bytes: 256 * 1024 * 1024,
            spill_folder: spill_folder.into(),
            spill_bytes_max: 16 * 1024 * 1024 * 1024,
            partitions: 2,
            queries_max: 4,
            answer_bytes_max: 128 * 1024 * 1024,
            files_max: 100_000,
            time_max: Duration::from_secs(30 * 60),
        }
    }
}

/// Runs SQL over the tables of a lake.
#[derive(Debug)]
pub struct Engine {
    inner: Arc<Inner>,
    pool: Pool,
}

#[derive(Debug)]
struct Inner {
    lake: Lake,
    options: EngineOptions,
    environment: Arc<RuntimeEnv>,
    turns: Semaphore,
}

impl Engine {
    /// An engine over `lake`.
    ///
    /// # Errors
    /// I/O errors at the folder for what does not fit in memory.
    pub fn new(lake: Lake, options: EngineOptions) -> Result<Self> {
        let environment = crate::session::environment(
            options.memory_bytes,
            options.spill_folder.clone(),
            options.spill_bytes_max,
        )?;
        let pool = Pool::new(options.partitions)?;
        let turns = Semaphore::new(options.queries_max.max(1));
        Ok(Engine { inner: Arc::new(Inner { lake, options, environment, turns }), pool })
    }
}

impl Engine {
    /// The first `rows` of a node of a job's graph, computed from the first rows of its
    /// sources. Nothing is written.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] for a node that is not there, else as for a run.
    pub async fn preview(&self, spec: &EtlSpec, node: &str, rows: usize) -> Result<QueryResult> {
        let (inner, spec, node) = (Arc::clone(&self.inner), spec.clone(), node.to_owned());
        self.pool
            .run(async move {
                let work = crate::etl::preview(&spec, &node, rows, &inner.environment);
                let time_max = inner.options.time_max;
                tokio::time::timeout(time_max, work).await.unwrap_or_else(|_elapsed| {
                    let why = format!("the preview took longer than {} s", time_max.as_secs());
                    Err(Error::new(ErrorKind::Exhausted, why))
                })
            })
            .await
    }
}

#[async_trait]
impl QueryEngine for Engine {
    async fn sql(&self, sql: &str, options: &SqlOptions) -> Result<QueryResult> {
        let (inner, sql) = (Arc::clone(&self.inner), sql.to_owned());
        let database = options.database.clone();
        self.pool
            .run(async move {
                let time_max = inner.options.time_max;
                let answer = tokio::time::timeout(time_max, inner.sql(&sql, &database)).await;
                answer.unwrap_or_else(|_elapsed| {
                    Err(Error::new(
                        ErrorKind::Exhausted,
                        format!("the query took longer than {} seconds", time_max.as_secs()),
                    ))
                })
            })
            .await
    }

    async fn etl(&self, spec: &EtlSpec) -> Result<EtlResult> {
        crate::etl::run(spec).await
    }
}

impl Inner {
    async fn sql(&self, sql: &str, database: &str) -> Result<QueryResult> {
        let closed = |_closed| Error::new(ErrorKind::Unavailable, "the engine is shutting down");
        let _turn = self.turns.acquire().await.map_err(closed)?;
        match statement::parse(sql)? {
            Request::Show(show) => self.show(&show, database),
            Request::Query { statement, tables } => self.query(*statement, &tables, database).await,
        }
    }

    async fn query(
        &self,
        mut statement: Statement,
        tables: &[TableName],
        database: &str,
    ) -> Result<QueryResult> {
        let meter = Arc::new(Meter::default());
        let (session, spelling) = self.session(tables, database, &meter).await?;
        spelling.apply(&mut statement);
        let state = session.state();
        let plan = state.statement_to_plan(statement).await.map_err(explain)?;
        // The statement was checked already; a plan that does more would be a bug here.
        SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false)
            .verify_plan(&plan)
            .map_err(explain)?;
        let plan = state.create_physical_plan(&plan).await.map_err(explain)?;
        let (schema, batches) = self.collect(&session, &plan).await?;
        let (bytes, set_aside) = meter.seen();
        let bytes_scanned = bytes + parquet_bytes(&plan);
        Ok(QueryResult { schema, batches, bytes_scanned, set_aside })
    }

    /// A session that has just the tables named, and the spellings of their columns.
    async fn session(
        &self,
        tables: &[TableName],
        database: &str,
        meter: &Arc<Meter>,
    ) -> Result<(SessionContext, Spelling)> {
        let session =
            crate::session::session(&self.environment, database, self.options.partitions)?;
        let catalog = session
            .catalog(CATALOG)
            .ok_or_else(|| Error::internal("a session without a catalog"))?;
        let mut spelling = Spelling::default();
        let mut file_count = 0;
        for name in tables {
            let table = self.table(name, database)?;
            spelling.add(&table.name, table.all_columns().map(|column| column.name.as_str()));
            let files = self.lake.files(&table).await?;
            file_count += files.len();
            if file_count > self.options.files_max {
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    format!("the query would read more than {} files", self.options.files_max),
                ));
            }
            let provider = LakeTable::new(&table, files, Arc::clone(meter), Reading::Query)?
                .verified_by(&self.lake);
            register(&*catalog, &table, provider)?;
        }
        Ok((session, spelling))
    }

    fn table(&self, name: &TableName, database: &str) -> Result<Table> {
        let database = name.database.as_deref().unwrap_or(database);
        self.lake.catalog().get_table(database, &name.name)
    }

    async fn collect(
        &self,
        session: &SessionContext,
        plan: &Arc<dyn ExecutionPlan>,
    ) -> Result<(SchemaRef, Vec<RecordBatch>)> {
        let schema = settle::schema(&plan.schema());
        let mut stream = execute_stream(Arc::clone(plan), session.task_ctx()).map_err(explain)?;
        let (mut batches, mut bytes) = (Vec::new(), 0);
        while let Some(batch) = stream.next().await {
            let batch = settle::batch(&batch.map_err(explain)?, &schema)?;
            bytes += batch.get_array_memory_size();
            if bytes > self.options.answer_bytes_max {
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    format!(
                        "the answer is larger than {} bytes; aggregate, or add LIMIT",
                        self.options.answer_bytes_max
                    ),
                ));
            }
            if batch.num_rows() > 0 {
                batches.push(batch);
            }
        }
        Ok((schema, batches))
    }

    fn show(&self, show: &Show, database: &str) -> Result<QueryResult> {
        let catalog = self.lake.catalog();
        match show {
            Show::Databases => {
                let databases = catalog.list_databases()?;
                let names = databases.into_iter().map(|database| vec![database.name]);
                answer(&["database_name"], names.collect())
            }
            Show::Tables(of) => {
                let tables = catalog.list_tables(of.as_deref().unwrap_or(database))?;
                answer(&["tab_name"], tables.into_iter().map(|table| vec![table.name]).collect())
            }
            Show::Columns(name) => {
                let table = self.table(name, database)?;
                let row = |column: &Column| vec![column.name.clone(), column.hive_type.clone()];
                answer(&["col_name", "data_type"], table.all_columns().map(row).collect())
            }
            Show::Partitions(name) => {
                let table = self.table(name, database)?;
                let partitions = catalog.list_partitions(&table.database, &table.name)?;
                let keys = &table.partition_keys;
                let folder = |values: &[String]| {
                    let pairs = keys.iter().map(|key| key.name.as_str());
                    lake::partition_folder(pairs.zip(values.iter().map(String::as_str)))
                };
                let rows = partitions.iter().map(|partition| {
                    vec![folder(&partition.values).trim_end_matches('/').to_owned()]
                });
                answer(&["partition"], rows.collect())
            }
        }
    }
}

fn register(catalog: &dyn CatalogProvider, table: &Table, provider: LakeTable) -> Result<()> {
    let schema = match catalog.schema(&table.database) {
        Some(schema) => schema,
        None => {
            let schema: Arc<dyn SchemaProvider> = Arc::new(MemorySchemaProvider::new());
            catalog.register_schema(&table.database, Arc::clone(&schema)).map_err(explain)?;
            schema
        }
    };
    schema.register_table(table.name.clone(), Arc::new(provider)).map_err(explain)?;
    Ok(())
}

/// Bytes that DataFusion's own readers fetched for a plan that has run.
fn parquet_bytes(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let own = plan.metrics().and_then(|metrics| metrics.sum_by_name("bytes_scanned"));
    let own = own.map_or(0, |bytes| bytes.as_usize() as u64);
    own + plan.children().into_iter().map(parquet_bytes).sum::<u64>()
}

/// A small answer of strings.
fn answer(names: &[&str], rows: Vec<Vec<String>>) -> Result<QueryResult> {
    let fields: Vec<Field> =
        names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let column = |at: usize| -> ArrayRef {
        Arc::new(rows.iter().map(|row| row.get(at).map(String::as_str)).collect::<StringArray>())
    };
    let columns = (0..names.len()).map(column).collect();
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns)
        .map_err(|cause| Error::internal(format!("an answer was built wrongly: {cause}")))?;
    Ok(QueryResult { schema, batches: vec![batch], bytes_scanned: 0, set_aside: 0 })
}
