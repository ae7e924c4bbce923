//! The engine of one lake: answers statements, runs graphs.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use async_trait::async_trait;
use base::{Error, ErrorKind, Result};
use datafusion::catalog::memory::MemorySchemaProvider;
use datafusion::catalog::{CatalogProvider, SchemaProvider, TableProvider};
use datafusion::datasource::ViewTable;
use datafusion::execution::context::SQLOptions;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::Statement;
use futures::{FutureExt, StreamExt};
use lake::{
    AsOf, BytesCutoff, Column, EtlResult, EtlSpec, LIVE, Lake, NULL_PARTITION, QueryEngine,
    QueryResult, RowSink, Scanned, SqlOptions, Table, TableFile, Tail, UNNAMED, View,
};
use tokio::sync::Semaphore;

use crate::as_of::{self, Part};
use crate::dialect::{Unnamed, hidden};
use crate::error::explain;
use crate::functions::{Stop, StopOnDrop};
use crate::information::{self, INFORMATION_SCHEMA};
use crate::lateral;
use crate::meter::Meter;
use crate::pool::{Pool, gave_up};
use crate::reach::Reach;
use crate::read::{Picked, damage};
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
    /// Those who know what is still in the log, for tables whose name ends with [`LIVE`].
    pub tail: Option<Arc<dyn Tail>>,
    /// Bytes of that for a table at most.
    pub tail_bytes_max: u64,
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
            files_max: 1_000_000,
            time_max: Duration::from_secs(30 * 60),
            tail: None,
            tail_bytes_max: 1024 * 1024 * 1024,
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
        Aside::sweep(&options.spill_folder);
        let files: Arc<dyn object_store::ObjectStore> = Arc::new(Reach::new(lake.clone()));
        environment.register_object_store(ObjectStoreUrl::local_filesystem().as_ref(), files);
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

    /// Runs a statement into `sink` on the threads for queries, and makes an answer of both.
    async fn within_time<S: RowSink + 'static, T: Send + 'static>(
        &self,
        sql: &str,
        options: &SqlOptions,
        mut sink: S,
        answer: fn(S, Scanned) -> T,
    ) -> Result<T> {
        let (inner, sql) = (Arc::clone(&self.inner), sql.to_owned());
        let SqlOptions { database, bytes_scanned_max } = options.clone();
        let time_max = inner.options.time_max;
        // Held here and not by the query's own task, which is dropped only where it waits: a plan
        // of one part may work for long before it does.
        let stop = StopOnDrop(Stop::default());
        let wanted = stop.0.clone();
        let run = self.pool.run(async move {
            let scanned = inner.sql(&sql, &database, bytes_scanned_max, &wanted, &mut sink).await?;
            Ok(answer(sink, scanned))
        });
        tokio::time::timeout(time_max, run).await.unwrap_or_else(|_elapsed| {
            Err(Error::new(
                ErrorKind::Exhausted,
                format!("the query took longer than {} seconds", time_max.as_secs()),
            ))
        })
    }
}

#[async_trait]
impl QueryEngine for Engine {
    async fn sql(&self, sql: &str, options: &SqlOptions) -> Result<QueryResult> {
        let bytes_max = self.inner.options.answer_bytes_max;
        self.within_time(sql, options, Held::new(bytes_max), Held::answer).await
    }

    async fn sql_into(
        &self,
        sql: &str,
        options: &SqlOptions,
        sink: Box<dyn RowSink>,
    ) -> Result<Scanned> {
        self.within_time(sql, options, sink, |_sink, scanned| scanned).await
    }

    async fn etl(&self, spec: &EtlSpec) -> Result<EtlResult> {
        crate::etl::run(spec).await
    }
}

impl Inner {
    async fn sql(
        &self,
        sql: &str,
        database: &str,
        bytes_max: Option<u64>,
        stop: &Stop,
        sink: &mut dyn RowSink,
    ) -> Result<Scanned> {
        let closed = |_closed| Error::new(ErrorKind::Unavailable, "the engine is shutting down");
        let _turn = self.turns.acquire().await.map_err(closed)?;
        match statement::parse(sql)? {
            Request::Show(show) => {
                let batch = self.show(&show, database)?;
                sink.begin(&batch.schema())?;
                sink.rows(batch)?;
                Ok(Scanned::default())
            }
            Request::Query { statement, tables, unnamed, moments } => {
                let (tables, unnamed, moments) = (&tables[..], &unnamed, &moments[..]);
                let asked = Asked { tables, unnamed, moments, database, bytes_max, stop };
                self.query(*statement, asked, sink).await
            }
        }
    }

    async fn query(
        &self,
        statement: Statement,
        asked: Asked<'_>,
        sink: &mut dyn RowSink,
    ) -> Result<Scanned> {
        let mut damaged = Arc::new(BTreeSet::new());
        loop {
            let meter = Arc::new(Meter::default());
            let run = self.attempt(statement.clone(), asked, &meter, &damaged, sink);
            match run.await {
                Ok(scanned) => return Ok(scanned),
                Err(Failed::Early(error)) => return Err(error),
                // One bad file never fails a table: once it is known which one it is, the rest
                // is asked again.
                Err(Failed::Late(error)) => {
                    let more = find_damaged(meter.take_foreign(), error.kind()).await?;
                    let before = damaged.len();
                    damaged = Arc::new(damaged.iter().cloned().chain(more).collect());
                    if damaged.len() == before {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Plans a statement and runs it into the sink.
    async fn attempt(
        &self,
        statement: Statement,
        asked: Asked<'_>,
        meter: &Arc<Meter>,
        damaged: &Arc<BTreeSet<PathBuf>>,
        sink: &mut dyn RowSink,
    ) -> std::result::Result<Scanned, Failed> {
        // What is still in the log lies there until the answer is whole.
        let aside = Aside::new(&self.options.spill_folder);
        let (environment, partitions) = (&self.environment, self.options.partitions);
        let session = crate::session::session(environment, asked.database, partitions, asked.stop)?;
        let moments = asked.moments.to_vec();
        let mut loading =
            Loading { meter, damaged, aside: &aside, moments, file_count: 0, depth: 0 };
        let plan =
            self.plan(&session, statement, asked.tables, asked.database, &mut loading).await?;
        let state = session.state();
        let plan = state.create_physical_plan(&plan).await.map_err(explain)?;
        // A decoder that panics on damaged bytes is one more way to fail.
        let run = AssertUnwindSafe(self.run(&session, &plan, asked.unnamed, sink)).catch_unwind();
        let outcome = match asked.bytes_max {
            None => run.await,
            Some(bytes_max) => tokio::select! {
                biased;
                cutoff = cutoff(meter, &plan, bytes_max) => return Err(Failed::Early(cutoff)),
                outcome = run => outcome,
            },
        };
        outcome.unwrap_or_else(|panic| Err(gave_up(&*panic))).map_err(Failed::Late)?;
        let (bytes, set_aside) = meter.seen();
        let bytes = bytes + parquet_bytes(&plan);
        if let Some(bytes_max) = asked.bytes_max.filter(|bytes_max| bytes > *bytes_max) {
            return Err(Failed::Early(over(bytes, bytes_max)));
        }
        Ok(Scanned { bytes, set_aside })
    }

    /// Gives the session the tables that a statement names, and plans it.
    async fn plan(
        &self,
        session: &SessionContext,
        mut statement: Statement,
        tables: &[TableName],
        database: &str,
        loading: &mut Loading<'_>,
    ) -> Result<LogicalPlan> {
        let mut has_paths = |name: &_| self.has_paths(statement::object_name(name)?, database);
        let shown = match hidden::show(&mut statement, &mut has_paths)? {
            true => Some(statement::tables(&statement)?),
            false => None,
        };
        let tables = shown.as_deref().unwrap_or(tables);
        let spelling = Box::pin(self.load(session, tables, database, loading)).await?;
        spelling.apply(&mut statement);
        let mut state = session.state();
        database.clone_into(&mut state.config_mut().options_mut().catalog.default_schema);
        let plan = state.statement_to_plan(statement).await.map_err(explain)?;
        // The statement was checked already; a plan that does more would be a bug here.
        SQLOptions::new()
            .with_allow_ddl(false)
            .with_allow_dml(false)
            .with_allow_statements(false)
            .verify_plan(&plan)
            .map_err(explain)?;
        lateral::unnested(plan).map_err(explain)
    }

    /// Whether a table's rows lie in objects of their own, and not in those of what it stands on.
    fn has_paths(&self, name: TableName, database: &str) -> Result<bool> {
        let within = name.database.as_deref().unwrap_or(database);
        if within == INFORMATION_SCHEMA || self.lake.find_view(within, &name.name)?.is_some() {
            return Ok(false);
        }
        let (_, part) = as_of::part(&name.name)?;
        Ok(matches!(part, Part::Now | Part::Live | Part::Version(_) | Part::Moment(_)))
    }

    /// Gives the session the tables named, and tells the spellings of their columns.
    async fn load(
        &self,
        session: &SessionContext,
        tables: &[TableName],
        database: &str,
        loading: &mut Loading<'_>,
    ) -> Result<Spelling> {
        let catalog = session
            .catalog(CATALOG)
            .ok_or_else(|| Error::internal("a session without a catalog"))?;
        let mut spelling = Spelling::default();
        for name in tables {
            let within = name.database.as_deref().unwrap_or(database);
            // A view and the statement around it may name the same table.
            if let Some(known) = catalog.schema(within)
                && let Some(known) = known.table(&name.name).await.map_err(explain)?
            {
                spelling.add_schema(&name.name, &known.schema());
                continue;
            }
            let (shown, own) = match name.name.strip_suffix(hidden::SHOWN) {
                Some(own) => (true, own),
                None => (false, name.name.as_str()),
            };
            if within == INFORMATION_SCHEMA {
                let provider = information::table(&self.lake, own)?;
                register(&*catalog, within, &name.name, provider)?;
                continue;
            }
            if let Some(view) = self.lake.find_view(within, own)? {
                let provider = self.view(session, &view, loading).await?;
                spelling.add_schema(&name.name, &provider.schema());
                register(&*catalog, within, &name.name, provider)?;
                continue;
            }
            let (own, part) = as_of::part(own)?;
            let table = self.lake.catalog().get_table(within, own)?;
            if matches!(part, Part::History | Part::Snapshots | Part::Files | Part::Partitions) {
                let provider = as_of::known(&self.lake, &table, part).await?;
                spelling.add_schema(&name.name, &provider.schema());
                register(&*catalog, within, &name.name, provider)?;
                continue;
            }
            let (mut table, mut files) = self.files(session, table, part, loading).await?;
            if shown {
                show_paths(&mut table, &mut files);
            }
            loading.file_count += files.len();
            if loading.file_count > self.options.files_max {
                return Err(Error::new(
                    ErrorKind::Exhausted,
                    format!("the query would read more than {} files", self.options.files_max),
                ));
            }
            let provider =
                LakeTable::new(&table, files, Arc::clone(loading.meter), Reading::Query)?
                    .verified_by(&self.lake)
                    .sparing(loading.damaged);
            spelling.add_schema(&name.name, &provider.schema());
            register(&*catalog, within, &name.name, Arc::new(provider))?;
        }
        Ok(spelling)
    }

    /// A view as a table: its statement, planned in its database.
    async fn view(
        &self,
        session: &SessionContext,
        view: &View,
        loading: &mut Loading<'_>,
    ) -> Result<Arc<dyn TableProvider>> {
        if loading.depth == VIEWS_MAX {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!(
                    "view {:?} stands on more than {VIEWS_MAX} others, or on itself",
                    view.name
                ),
            ));
        }
        let of_view = |error: Error| error.context(format_args!("view {:?}", view.name));
        let parsed = statement::parse_within(&view.sql, loading.moments.len());
        let Request::Query { statement, tables, moments, .. } = parsed.map_err(of_view)? else {
            return Err(Error::invalid(format!("view {:?} is no SELECT", view.name)));
        };
        loading.moments.extend(moments);
        loading.depth += 1;
        let plan = self.plan(session, *statement, &tables, &view.database, loading);
        let plan = Box::pin(plan).await.map_err(of_view)?;
        loading.depth -= 1;
        Ok(Arc::new(ViewTable::new(plan, Some(view.sql.clone()))))
    }

    /// A table as it was at a moment, and its files then.
    async fn files(
        &self,
        session: &SessionContext,
        table: Table,
        part: Part,
        loading: &Loading<'_>,
    ) -> Result<(Table, Vec<TableFile>)> {
        match part {
            Part::Version(number) => self.lake.files_as_of(&table, AsOf::Version(number)).await,
            Part::Moment(at) => {
                let expression = loading.moments.get(at).map(String::as_str).unwrap_or_default();
                let moment = as_of::moment(session, expression).await?;
                self.lake.files_as_of(&table, moment).await
            }
            Part::Live => {
                let Some(tail) = &self.options.tail else {
                    return Err(Error::unsupported(format!(
                        "table {:?}: there is no log here that {LIVE} could read; leave it out",
                        table.name
                    )));
                };
                if let Some(path) = table.records_path() {
                    return Err(Error::unsupported(format!(
                        "table {:?}: its records lie at {path} of its objects, and those in the log \
                         do not; leave {LIVE} out",
                        table.name
                    )));
                }
                let folder = loading.aside.folder(&format!("{}.{}", table.database, table.name))?;
                let (tail, bytes_max) = (Arc::clone(tail), self.options.tail_bytes_max);
                let files = self.lake.live_files(&table, tail, &folder, bytes_max).await?;
                Ok((table, files))
            }
            Part::Now | Part::History | Part::Snapshots | Part::Files | Part::Partitions => {
                let files = self.lake.candidates(&table).await?;
                Ok((table, files))
            }
        }
    }

    fn table(&self, name: &TableName, database: &str) -> Result<Table> {
        let database = name.database.as_deref().unwrap_or(database);
        self.lake.catalog().get_table(database, &name.name)
    }

    async fn run(
        &self,
        session: &SessionContext,
        plan: &Arc<dyn ExecutionPlan>,
        unnamed: &Unnamed,
        sink: &mut dyn RowSink,
    ) -> Result<()> {
        let schema = marked(&settle::schema(&plan.schema()), unnamed);
        sink.begin(&schema)?;
        let mut stream = execute_stream(Arc::clone(plan), session.task_ctx()).map_err(explain)?;
        while let Some(batch) = stream.next().await {
            let batch = settle::batch(&batch.map_err(explain)?, &schema)?;
            if batch.num_rows() > 0 {
                sink.rows(batch)?;
            }
        }
        Ok(())
    }

    fn show(&self, show: &Show, database: &str) -> Result<RecordBatch> {
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

/// What is asked beside the statement itself.
#[derive(Clone, Copy)]
struct Asked<'a> {
    tables: &'a [TableName],
    unnamed: &'a Unnamed,
    moments: &'a [String],
    database: &'a str,
    bytes_max: Option<u64>,
    stop: &'a Stop,
}

/// How far a statement came.
enum Failed {
    /// It was not run.
    Early(Error),
    /// It was running.
    Late(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed::Early(error)
    }
}

/// Those of the files that cannot be read to their end; none is read if the error cannot come
/// of it. Where all can be read and the error may still be of one, the damage may lie in what only
/// DataFusion's reader looks at, the index of pages: then it is all of them.
async fn find_damaged(files: Vec<(TableFile, Picked)>, error: ErrorKind) -> Result<Vec<PathBuf>> {
    // What a file holds may not fit its column, which is like any other value that does not.
    let kinds = [
        ErrorKind::Corrupt,
        ErrorKind::Internal,
        ErrorKind::Invalid,
        ErrorKind::Unavailable,
        ErrorKind::Unsupported,
    ];
    if !kinds.contains(&error) {
        return Ok(Vec::new());
    }
    // What a value does to a statement is mostly the statement's fault; that of a file only where
    // the value was not of the column's type.
    let types_only = error == ErrorKind::Invalid;
    let look = move || {
        let mut damaged = Vec::new();
        for (file, picked) in &files {
            if let Some(error) = damage(file, picked, types_only) {
                tracing::warn!(key = file.key, %error, "a query goes on without a damaged object");
                damaged.push(file.path.clone());
            }
        }
        match damaged.is_empty() && matches!(error, ErrorKind::Corrupt | ErrorKind::Internal) {
            true => files.into_iter().map(|(file, _)| file.path).collect(),
            false => damaged,
        }
    };
    tokio::task::spawn_blocking(look).await.map_err(|cause| {
        Error::internal("looking for damaged files ended early").with_source(cause)
    })
}

/// What is gathered while the tables of a statement and of its views are loaded.
struct Loading<'a> {
    meter: &'a Arc<Meter>,
    /// Files that another reader fails at.
    damaged: &'a Arc<BTreeSet<PathBuf>>,
    aside: &'a Aside,
    /// The times as of which tables are read, by number.
    moments: Vec<String>,
    file_count: usize,
    /// Views within views.
    depth: usize,
}

/// How often it is looked whether a query has read more than it may.
const CUTOFF_EVERY: Duration = Duration::from_millis(20);

/// Views within views at most: also the end of one that stands on itself.
const VIEWS_MAX: usize = 16;

/// The schema with a mark on each field that the statement gives no name.
fn marked(schema: &SchemaRef, unnamed: &Unnamed) -> SchemaRef {
    let count = schema.fields().len();
    let mark = |(index, field): (usize, &Arc<Field>)| match unnamed.has(index, count) {
        true => {
            let mark = [(UNNAMED.to_owned(), String::new())].into();
            Arc::new(field.as_ref().clone().with_metadata(mark))
        }
        false => Arc::clone(field),
    };
    Arc::new(Schema::new(schema.fields().iter().enumerate().map(mark).collect::<Fields>()))
}

/// An answer held in memory, within its bound.
struct Held {
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
    bytes: usize,
    bytes_max: usize,
}

impl Held {
    fn new(bytes_max: usize) -> Held {
        Held { schema: Arc::new(Schema::empty()), batches: Vec::new(), bytes: 0, bytes_max }
    }

    fn answer(self, scanned: Scanned) -> QueryResult {
        QueryResult {
            schema: self.schema,
            batches: self.batches,
            bytes_scanned: scanned.bytes,
            set_aside: scanned.set_aside,
        }
    }
}

impl RowSink for Held {
    fn begin(&mut self, schema: &SchemaRef) -> Result<()> {
        *self = Held { schema: Arc::clone(schema), ..Held::new(self.bytes_max) };
        Ok(())
    }

    fn rows(&mut self, batch: RecordBatch) -> Result<()> {
        self.bytes += batch.get_array_memory_size();
        if self.bytes > self.bytes_max {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!(
                    "the answer is larger than {} bytes; aggregate, or add LIMIT",
                    self.bytes_max
                ),
            ));
        }
        self.batches.push(batch);
        Ok(())
    }
}

/// Gives a table the column that tells of each row's object, as one more that its files decide.
fn show_paths(table: &mut Table, files: &mut [TableFile]) {
    let keys = table.partition_keys.len();
    table.partition_keys.push(Column::new(hidden::PATH, "string"));
    for file in files {
        file.partition_values.resize(keys, NULL_PARTITION.to_owned());
        file.partition_values.push(format!("s3://{}/{}", file.bucket, file.key));
    }
}

fn register(
    catalog: &dyn CatalogProvider,
    database: &str,
    name: &str,
    provider: Arc<dyn TableProvider>,
) -> Result<()> {
    let schema = match catalog.schema(database) {
        Some(schema) => schema,
        None => {
            let schema: Arc<dyn SchemaProvider> = Arc::new(MemorySchemaProvider::new());
            catalog.register_schema(database, Arc::clone(&schema)).map_err(explain)?;
            schema
        }
    };
    schema.register_table(name.to_owned(), provider).map_err(explain)?;
    Ok(())
}

/// A query's folder for what it brings along; gone when the query is.
struct Aside(PathBuf);

/// What such folders' names begin with.
const ASIDE: &str = "live-";

impl Aside {
    fn new(above: &Path) -> Aside {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        Aside(above.join(format!("{ASIDE}{}", COUNT.fetch_add(1, Ordering::Relaxed))))
    }

    fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.0.join(name);
        std::fs::create_dir_all(&folder)
            .map_err(|cause| Error::io("making a folder for what is still in the log", cause))?;
        Ok(folder)
    }

    /// Removes what a process that was killed left.
    fn sweep(above: &Path) {
        for entry in std::fs::read_dir(above).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(ASIDE) {
                drop(std::fs::remove_dir_all(entry.path()));
            }
        }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Most queries never made it.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Ends once a plan has read more than it may, as far as is known while it runs.
async fn cutoff(meter: &Meter, plan: &Arc<dyn ExecutionPlan>, bytes_max: u64) -> Error {
    loop {
        tokio::time::sleep(CUTOFF_EVERY).await;
        let bytes = meter.seen().0 + parquet_bytes(plan);
        if bytes > bytes_max {
            return over(bytes, bytes_max);
        }
    }
}

fn over(bytes: u64, bytes_max: u64) -> Error {
    let why = format!("the query has read {bytes} bytes and may read {bytes_max}");
    Error::new(ErrorKind::Exhausted, why).with_source(BytesCutoff { bytes })
}

/// Bytes that DataFusion's own readers have fetched for a plan.
fn parquet_bytes(plan: &Arc<dyn ExecutionPlan>) -> u64 {
    let own = plan.metrics().and_then(|metrics| metrics.sum_by_name("bytes_scanned"));
    let own = own.map_or(0, |bytes| bytes.as_usize() as u64);
    own + plan.children().into_iter().map(parquet_bytes).sum::<u64>()
}

/// A small answer of strings.
fn answer(names: &[&str], rows: Vec<Vec<String>>) -> Result<RecordBatch> {
    let fields: Vec<Field> =
        names.iter().map(|name| Field::new(*name, DataType::Utf8, true)).collect();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let column = |at: usize| -> ArrayRef {
        Arc::new(rows.iter().map(|row| row.get(at).map(String::as_str)).collect::<StringArray>())
    };
    let columns = (0..names.len()).map(column).collect();
    RecordBatch::try_new(schema, columns)
        .map_err(|cause| Error::internal(format!("an answer was built wrongly: {cause}")))
}
