//! The command line as clap sees it: names, flags and help. Meaning is given in the
//! modules beside this one.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Devices in, forecasts out: one program from MQTT to DeepAR.
#[derive(Debug, Parser)]
#[command(
    name = "forebay",
    version,
    max_term_width = 100,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// Where everything is kept; deleting it forgets everything.
    #[arg(long, global = true, env = "FOREBAY_DATA_DIR", value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// One JSON object on stdout instead of text (JSON lines when streaming).
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Sets one setting of forebay.toml, as room.key=value. May be repeated.
    #[arg(long = "set", global = true, value_name = "ROOM.KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Settings file; forebay.toml in the data directory by default.
    #[arg(long, global = true, env = "FOREBAY_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs the whole pipeline on simulated or given readings, then stays up.
    Demo(Demo),
    /// Starts the server.
    Serve(Serve),
    /// Prints the environment that points AWS SDKs here, for `eval`.
    Env,
    /// Writes what SageMaker's Python SDK looks for on a notebook instance.
    Notebook {
        /// Folder the files are written to.
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// Devices and their connection kits.
    #[command(subcommand)]
    Device(Device),
    /// Watch and publish MQTT messages.
    #[command(subcommand)]
    Topic(Topic),
    /// IoT rules.
    #[command(subcommand)]
    Rule(Rule),
    /// Delivery streams.
    #[command(subcommand)]
    Stream(Stream),
    /// The data lake: SQL, objects, crawls.
    #[command(subcommand)]
    Lake(Lake),
    /// ETL jobs.
    #[command(subcommand)]
    Job(Job),
    /// Trains a DeepAR model from files; no server needed.
    Train(Train),
    /// Forecasts with a trained model; no server needed.
    Forecast(Forecast),
    /// Measures a model over rolling windows; no server needed.
    Backtest(Backtest),
    /// Endpoints that answer forecasts.
    #[command(subcommand)]
    Endpoint(Endpoint),
    /// API keys, which open the forecasts in plain JSON.
    #[command(subcommand)]
    Key(Key),
    /// Explains what happened to a message or a client.
    #[command(subcommand)]
    Why(Why),
    /// Measures a part of Forebay and prints one JSON object.
    #[command(subcommand)]
    Bench(Bench),
    /// Checks this machine and the data directory.
    Doctor,
    /// Runs one job in a process of its own (started by the server).
    #[command(subcommand, hide = true)]
    Worker(Worker),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Demo {
    /// Real readings instead of simulated ones: CSV, Parquet or JSON Lines with a device
    /// and a timestamp column.
    #[arg(long, value_name = "FILE")]
    pub(crate) from: Option<PathBuf>,
    /// Stations to simulate.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) devices: u32,
    /// Days to simulate, one reading an hour.
    #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u32).range(14..=3650))]
    pub(crate) days: u32,
    /// Seed of the simulator and of training.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Column to forecast: ozone if there is one, else the first numeric column.
    #[arg(long, value_name = "COLUMN")]
    pub(crate) target: Option<String>,
    /// Ends after the account; exit code 0 only if it balances.
    #[arg(long)]
    pub(crate) exit: bool,
}

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Serve {
    /// API address (default 127.0.0.1:9000).
    #[arg(long, value_name = "ADDR")]
    pub(crate) http: Option<SocketAddr>,
    /// Console address; the console is not supported yet.
    #[arg(long, value_name = "ADDR")]
    pub(crate) console: Option<SocketAddr>,
    /// Plain MQTT address (default 127.0.0.1:1883).
    #[arg(long, value_name = "ADDR")]
    pub(crate) mqtt: Option<SocketAddr>,
    /// MQTT over mutual TLS (default 0.0.0.0:8883).
    #[arg(long, value_name = "ADDR")]
    pub(crate) mqtts: Option<SocketAddr>,
    /// MQTT over WebSocket, plain and over TLS (default 127.0.0.1:8083).
    #[arg(long, value_name = "ADDR")]
    pub(crate) mqtt_ws: Option<SocketAddr>,
    /// Most bytes the log keeps before publishers are held back.
    #[arg(long, value_name = "N")]
    pub(crate) journal_max_bytes: Option<u64>,
    /// Binds clients without a certificate on the plain port to an IoT policy; `none` refuses
    /// them.
    #[arg(long, value_name = "FILE|none")]
    pub(crate) mqtt_anonymous_policy: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Device {
    /// Registers a device, makes its certificate and writes its connection kit.
    Add {
        /// Name of the thing.
        name: String,
        /// Folder the kit is written to.
        #[arg(long, value_name = "DIR")]
        kit: PathBuf,
        /// Host name the device will connect to.
        #[arg(long, default_value = "localhost")]
        host: String,
        /// Port the device will connect to.
        #[arg(long, default_value_t = 8883)]
        port: u16,
    },
    /// Lists devices and their certificates.
    List,
    /// Makes a fresh certificate for a known device and writes a kit; older ones stay valid.
    Kit {
        /// Name of the thing.
        name: String,
        /// Folder the kit is written to.
        #[arg(long, value_name = "DIR")]
        kit: PathBuf,
        /// Host name the device will connect to.
        #[arg(long, default_value = "localhost")]
        host: String,
        /// Port the device will connect to.
        #[arg(long, default_value_t = 8883)]
        port: u16,
    },
    /// Revokes every certificate of a device; live sessions end within a second.
    Revoke {
        /// Name of the thing.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Topic {
    /// Prints messages as they arrive.
    Tail {
        /// MQTT topic filter, for instance 'air/+/readings'.
        filter: String,
        /// Ends after so many messages.
        #[arg(long, short = 'n')]
        count: Option<u64>,
    },
    /// Publishes one message; answers when it is on stable storage.
    Publish {
        /// Topic.
        topic: String,
        /// Payload, as it is.
        payload: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Rule {
    /// Runs a statement on logged messages, before it is enabled: each before and after, or the
    /// term of WHERE that decided.
    Try {
        /// IoT SQL.
        #[arg(long)]
        sql: String,
        /// How many of the newest messages to run it on.
        #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
        last: u64,
    },
    /// Makes or replaces a rule that feeds a stream.
    Create {
        /// Name.
        name: String,
        /// IoT SQL, for instance "SELECT * FROM 'air/+/readings'".
        #[arg(long)]
        sql: String,
        /// Delivery stream the result goes to.
        #[arg(long)]
        stream: String,
        /// Appended to each record: newline (default), none, tab, crlf or comma.
        #[arg(long, default_value = "newline")]
        separator: String,
    },
    /// Lists rules.
    List,
    /// Lets a rule act again.
    Enable {
        /// Name.
        name: String,
    },
    /// Stops a rule from acting.
    Disable {
        /// Name.
        name: String,
    },
    /// Deletes a rule.
    Delete {
        /// Name.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Stream {
    /// Makes a delivery stream.
    Create {
        /// Name.
        name: String,
        /// Bucket; made when absent.
        #[arg(long, default_value = "lake")]
        bucket: String,
        /// Key prefix of delivered objects.
        #[arg(long, default_value = "raw/")]
        prefix: String,
        /// Key prefix of records set aside.
        #[arg(long, default_value = "errors/")]
        error_prefix: String,
        /// Ends an object at this size, in MiB.
        #[arg(long, default_value_t = 5)]
        size_mb: u32,
        /// Ends an object at this age, in seconds.
        #[arg(long, default_value_t = 5)]
        interval_secs: u32,
        /// Compresses objects.
        #[arg(long)]
        gzip: bool,
        /// Has JSON objects say whence they come: adds _log_offset, _device and _arrived_at.
        #[arg(long)]
        lineage: bool,
    },
    /// Lists streams with their cursors and counts.
    List,
    /// Delivers what is buffered now.
    Flush {
        /// Name.
        name: String,
    },
    /// Deletes a stream; delivered objects stay.
    Delete {
        /// Name.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Lake {
    /// Runs one SELECT over the catalog's tables.
    Sql {
        /// The statement.
        sql: String,
        /// Database for unqualified table names.
        #[arg(long, default_value = "forebay")]
        database: String,
    },
    /// Measures what a table's rows come to as JSON, CSV and Parquet: bytes, time to load, and
    /// bytes read for a question about one column.
    Compare {
        /// [DATABASE.]TABLE.
        table: String,
        /// Database for an unqualified table name.
        #[arg(long, default_value = "forebay")]
        database: String,
        /// Takes the first rows only, until they have so many megabytes as JSON.
        #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=65_536))]
        max_mb: u64,
    },
    /// Lists buckets, objects below BUCKET[/PREFIX], or with --tables the catalog.
    Ls {
        /// BUCKET[/PREFIX]; all buckets without it.
        path: Option<String>,
        /// Lists databases and tables instead.
        #[arg(long)]
        tables: bool,
    },
    /// Reads objects below BUCKET/PREFIX and writes the table they make into the catalog.
    Crawl {
        /// BUCKET/PREFIX.
        path: String,
        /// Database the table goes to.
        #[arg(long, default_value = "forebay")]
        database: String,
        /// Put before the table's name.
        #[arg(long, default_value = "")]
        table_prefix: String,
    },
    /// What a crawl decided about each table and each object, and why; lists crawlers without a
    /// name.
    Report {
        /// The crawler.
        crawler: Option<String>,
        /// One of its earlier crawls, by its id; the last ten are kept.
        #[arg(long)]
        crawl: Option<String>,
    },
    /// Puts the small files of a table together; whoever lists or queries it meets the same rows.
    Compact {
        /// [DATABASE.]TABLE: one that jobs write, or one of JSON objects.
        table: String,
        /// Only folders with so many small files.
        #[arg(long, default_value_t = 2)]
        files_min: usize,
        /// Leaves younger files alone; lake.compact_age_secs_min without it.
        #[arg(long)]
        min_age_secs: Option<u64>,
        /// Files smaller than this are small; lake.small_file_bytes without it.
        #[arg(long)]
        small_file_bytes: Option<u64>,
        /// What files put together come to, about; lake.target_file_bytes without it.
        #[arg(long)]
        target_file_bytes: Option<u64>,
    },
    /// Says what of a table is kept and takes the rest out, now and from now on.
    Retain {
        /// [DATABASE.]TABLE.
        table: String,
        /// Files older than this go.
        #[arg(long)]
        days: Option<u64>,
        /// The oldest files go until the table is no larger than this.
        #[arg(long)]
        bytes: Option<u64>,
        /// Keeps everything from now on.
        #[arg(long)]
        off: bool,
    },
    /// Deletes for good the files that gave way to others or were beyond retention.
    DropRetired {
        /// But not those of the last so many seconds.
        #[arg(long, default_value_t = 14_400)]
        keep_secs: u64,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Job {
    /// Makes a job: of a TOML file, or of three nodes (source table, transform, Parquet target).
    Create {
        /// Name of the job of three nodes.
        #[arg(required_unless_present = "file", requires_all = ["source", "target", "table"])]
        name: Option<String>,
        /// The job as TOML; docs/jobs.md has every node.
        #[arg(long, value_name = "F", conflicts_with_all = ["name", "source", "target", "table", "sql"])]
        file: Option<PathBuf>,
        /// Replace a job of that name.
        #[arg(long, requires = "file")]
        replace: bool,
        /// Source table, as [DATABASE.]TABLE.
        #[arg(long)]
        source: Option<String>,
        /// Target, as BUCKET/PREFIX.
        #[arg(long)]
        target: Option<String>,
        /// Catalog table of the target, as [DATABASE.]TABLE.
        #[arg(long)]
        table: Option<String>,
        /// Transform: a SELECT over `input`; every column as it is without it.
        #[arg(long)]
        sql: Option<String>,
        /// zstd or snappy.
        #[arg(long, default_value = "zstd")]
        compression: String,
        /// Partition keys of the target.
        #[arg(long, value_delimiter = ',')]
        partition_by: Vec<String>,
    },
    /// Prints a job as TOML.
    Show {
        /// Name.
        name: String,
        /// As TOML, which makes the same job again; there is no other form.
        #[arg(long)]
        toml: bool,
    },
    /// Shows the first 50 rows of a node, computed from the first 10,000 rows of each source.
    Preview {
        /// Name.
        #[arg(required_unless_present = "file")]
        name: Option<String>,
        /// A job that is not made yet, as TOML.
        #[arg(long, value_name = "F", conflicts_with = "name")]
        file: Option<PathBuf>,
        /// The node; what the target gets without it.
        #[arg(long)]
        node: Option<String>,
    },
    /// Runs a job by the clock or on new data.
    #[command(group = clap::ArgGroup::new("when").required(true))]
    Trigger {
        /// Name.
        name: String,
        /// By the clock, in UTC: "cron(0 12 * * ? *)" is every noon.
        #[arg(long, group = "when")]
        cron: Option<String>,
        /// When there are objects that it has not read, looked for every so many seconds.
        #[arg(long, value_name = "SECONDS", group = "when")]
        on_new_data: Option<u64>,
        /// No more.
        #[arg(long, group = "when")]
        off: bool,
    },
    /// Runs a job on the inputs it has not taken yet.
    Run {
        /// Name.
        name: String,
    },
    /// Shows jobs and their runs.
    Status {
        /// Name; all jobs without it.
        name: Option<String>,
    },
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Train {
    /// Training series: DeepAR JSON Lines (plain or gzip) or Parquet; a file or a folder.
    #[arg(long, value_name = "F")]
    pub(crate) train: PathBuf,
    /// Test series, scored on their last prediction_length points.
    #[arg(long, value_name = "F")]
    pub(crate) test: Option<PathBuf>,
    /// What learns: deepar, deepar-plus, seasonal-naive or ets; a training image's name is one, too.
    #[arg(long, value_name = "NAME", default_value = "deepar", conflicts_with = "reproduce")]
    pub(crate) algorithm: String,
    /// Hyperparameters as SageMaker names them, k=v ...
    #[arg(
        long,
        value_name = "K=V",
        num_args = 0..,
        action = clap::ArgAction::Append,
        conflicts_with = "reproduce"
    )]
    pub(crate) hyperparameters: Vec<String>,
    /// Seed; the same data, seed, version and threads give the same bytes.
    #[arg(long, conflicts_with = "reproduce")]
    pub(crate) seed: Option<u64>,
    /// Threads.
    #[arg(long, conflicts_with = "reproduce")]
    pub(crate) threads: Option<usize>,
    /// Where the model goes. A training that was killed goes on from OUT.tar.gz.checkpoint.
    #[arg(
        long,
        value_name = "OUT.tar.gz",
        conflicts_with = "reproduce",
        required_unless_present = "reproduce"
    )]
    pub(crate) model: Option<PathBuf>,
    /// Makes this model again and proves that every byte is the same, or names what changed.
    #[arg(long, value_name = "MODEL.tar.gz")]
    pub(crate) reproduce: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Forecast {
    /// The model.
    #[arg(long, value_name = "M.tar.gz")]
    pub(crate) model: PathBuf,
    /// Series to continue: DeepAR JSON Lines (plain or gzip) or Parquet.
    #[arg(long, value_name = "F")]
    pub(crate) input: PathBuf,
    /// Sample paths behind each quantile.
    #[arg(long, default_value_t = 100)]
    pub(crate) num_samples: usize,
    /// Quantiles, for instance 0.1,0.5,0.9.
    #[arg(long, value_delimiter = ',', default_value = "0.1,0.5,0.9")]
    pub(crate) quantiles: Vec<String>,
    /// Seed of the samples.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Backtest {
    /// The model.
    #[arg(long, value_name = "M.tar.gz")]
    pub(crate) model: PathBuf,
    /// Series with the true values.
    #[arg(long, value_name = "F")]
    pub(crate) test: PathBuf,
    /// Rolling windows of prediction_length points at the end of each series.
    #[arg(long, default_value_t = 1)]
    pub(crate) windows: usize,
    /// Sample paths behind each quantile.
    #[arg(long, default_value_t = 100)]
    pub(crate) num_samples: usize,
    /// Seed of the samples.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Endpoint {
    /// Lists endpoints.
    List,
    /// Deploys a model file under a name.
    Create {
        /// Name of the endpoint.
        name: String,
        /// The model.
        #[arg(long, value_name = "M.tar.gz")]
        model: PathBuf,
    },
    /// Deletes an endpoint.
    Delete {
        /// Name of the endpoint.
        name: String,
    },
    /// Sends one request.
    Invoke {
        /// Name of the endpoint.
        name: String,
        /// File with the SageMaker request; `-` for standard input.
        #[arg(long, default_value = "-")]
        input: String,
        /// Variant to ask; by weight without it.
        #[arg(long)]
        target_variant: Option<String>,
    },
    /// Keeps the query that gives the readings an endpoint's forecasts are measured by.
    Actuals {
        /// Name of the endpoint.
        name: String,
        /// A SELECT that gives timestamp, value and, where there are several series, item_id; shows
        /// the one that is kept without it.
        #[arg(long)]
        sql: Option<String>,
        /// Database for unqualified table names.
        #[arg(long, default_value = "forebay")]
        database: String,
        /// Forgets the query.
        #[arg(long, conflicts_with = "sql")]
        clear: bool,
    },
    /// Scores captured forecasts against the readings that came since, variant by variant, and says
    /// which leads and how sure that is.
    Ab {
        /// Name of the endpoint.
        name: String,
        /// Only what was answered since then: a time, or how long ago, as 36h or 7d.
        #[arg(long)]
        since: Option<String>,
    },
    /// Shifts traffic between variants, at once; shows their shares when no weights are given.
    Traffic {
        /// Name of the endpoint.
        name: String,
        /// Weights, as VARIANT=N; variants not named keep theirs.
        weights: Vec<String>,
    },
    /// Goes back to the variants before the last update, or calls off the one under way.
    Rollback {
        /// Name of the endpoint.
        name: String,
        /// What to note as the reason.
        #[arg(long)]
        why: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Makes a key and shows it, this once.
    Create {
        /// What it is called from now on.
        name: String,
        /// An endpoint that it opens; every one if none is named. May be repeated.
        #[arg(long = "endpoint", value_name = "NAME")]
        endpoints: Vec<String>,
        /// Days after which it opens nothing any more.
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=36_500))]
        expires_days: Option<u32>,
    },
    /// Lists keys: what they open and until when.
    List,
    /// Deletes a key; requests that bring it are refused from now on.
    Delete {
        /// Its name.
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Why {
    /// Explains each stage's decision about a message, with the term of WHERE that decided.
    Message {
        /// Its offset in the log (`forebay tail`, error records), or the RecordId of a put.
        id: String,
    },
    /// Explains what a client was refused, and which statement decided.
    Client {
        /// MQTT client identifier.
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Bench {
    /// MQTT under several loads, side by side with other brokers that are installed.
    Ingest(BenchIngest),
    /// From the log to objects: what a megabyte of readings costs, and whether memory stays flat.
    Delivery(BenchDelivery),
    /// A lake of many small objects: crawled, queried, converted, queried again.
    Lake(BenchLake),
    /// JSON to sorted, partitioned Parquet and queries on it, side by side with other tools.
    Etl(BenchEtl),
    /// Training: speed, memory and accuracy, and inference after it, side by side with GluonTS.
    Train(BenchTrain),
    /// Inference: a cold start, one series, many series, side by side with GluonTS.
    Infer(BenchInfer),
    /// An endpoint under load: latency, CPU and memory, side by side with GluonTS behind FastAPI.
    Serve(BenchServe),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchLake {
    /// Objects of the lake, a hundred for each hour. It is made in the folder that --data-dir
    /// names, which must be empty and is kept; without it, in one that is removed.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) objects: u64,
    /// Their bytes in all.
    #[arg(long, default_value_t = 500_000_000)]
    pub(crate) bytes: u64,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchIngest {
    /// Seconds of each load.
    #[arg(long, default_value_t = 4)]
    pub(crate) seconds: u64,
    /// Idle connections opened to measure memory; 0 leaves it out.
    #[arg(long, default_value_t = 5000)]
    pub(crate) idle: usize,
    /// Loads to run; all if none is named.
    #[arg(long = "load", value_name = "LOAD")]
    pub(crate) loads: Vec<BenchLoad>,
    /// Path of a mosquitto binary to run beside, `none` to leave it out; found where Debian puts
    /// it by default.
    #[arg(long)]
    pub(crate) mosquitto: Option<String>,
    /// As --mosquitto, for nats-server.
    #[arg(long)]
    pub(crate) nats: Option<String>,
    /// Path of a rumqttd binary to run beside.
    #[arg(long)]
    pub(crate) rumqttd: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchDelivery {
    /// Seconds of each load, the first fifth of them to warm up.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(2..=86_400))]
    pub(crate) seconds: u64,
    /// Loads to run, each in a process of its own; all if none is named.
    #[arg(long = "load", value_name = "LOAD")]
    pub(crate) loads: Vec<DeliveryLoad>,
    /// Ends an object at this size before it is packed, in MiB.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=128))]
    pub(crate) size_mb: u64,
    /// The rule's statement; it must take every message.
    #[arg(long, default_value = "SELECT * FROM 'air/+/readings'")]
    pub(crate) sql: String,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchEtl {
    /// Bytes of readings to make, about.
    #[arg(long, default_value_t = 500_000_000, value_parser = clap::value_parser!(u64).range(1_000..=100_000_000_000))]
    pub(crate) bytes: u64,
    /// Of what is random about them.
    #[arg(long, default_value_t = 42)]
    pub(crate) seed: u64,
    /// Conversions of each tool but PySpark, which has one; the cheapest counts.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Times that each query is asked, after once to warm up.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) repetitions: u32,
    /// Queries to ask; all if none is named.
    #[arg(long = "query", value_name = "NAME")]
    pub(crate) queries: Vec<String>,
    /// A folder that the readings and the result are made in and that is kept. Where one is there
    /// already, only the queries are asked.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) keep: Option<PathBuf>,
    /// A Python with DuckDB, Polars or PySpark to run beside; what it lacks is said to be absent.
    #[arg(long, value_name = "PYTHON")]
    pub(crate) peers: Option<PathBuf>,
    /// Tools to leave out: duckdb, polars, pyspark.
    #[arg(long, value_name = "TOOL", value_parser = ["duckdb", "polars", "pyspark"])]
    pub(crate) without: Vec<String>,
    /// Where the peers of the project's own tests are.
    #[arg(long, env = "FOREBAY_TEST_TOOLS", hide = true)]
    pub(crate) test_tools: Option<PathBuf>,
}

/// A load of `bench delivery`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DeliveryLoad {
    /// JSON objects as they came, a line each.
    Json,
    /// The same packed with GZIP.
    Gzip,
    /// Parquet with the columns of a table.
    Parquet,
    /// JSON by dynamic partitioning: a jq query sends each record to one of twenty folders.
    Partitioned,
}

/// A load of `bench ingest`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum BenchLoad {
    /// QoS 1: 20 publishers, 10 messages in a write, 50 under way each.
    Burst,
    /// The same with one subscriber.
    BurstSubscriber,
    /// QoS 1: 200 publishers, 25 messages a second each, one in a write.
    Paced,
    /// The same with one subscriber.
    PacedSubscriber,
    /// QoS 0: one publisher to one subscriber.
    FanOut1,
    /// QoS 0: one publisher to a hundred subscribers.
    FanOut100,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchTrain {
    #[command(flatten)]
    pub(crate) set: BenchSet,
    /// Seeds, each trained and scored.
    #[arg(long, value_delimiter = ',', default_value = "1,2,3", value_parser = clap::value_parser!(u64).range(..u64::from(u32::MAX)))]
    pub(crate) seeds: Vec<u64>,
    /// Epochs of 50 batches of 32 windows.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) epochs: u32,
    /// Trainings by which speed is measured, on one thread and on two in turn; the best counts.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Rolling windows at the end of each test series that are scored.
    #[arg(long, default_value_t = 28, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) windows: u64,
    #[command(flatten)]
    pub(crate) load: BenchRequests,
    #[command(flatten)]
    pub(crate) peer: BenchPeer,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchInfer {
    #[command(flatten)]
    pub(crate) set: BenchSet,
    /// A model to ask instead of one trained here; needs --input, and has no peer beside it.
    #[arg(long, value_name = "M.tar.gz", requires = "input", conflicts_with = "data")]
    pub(crate) model: Option<PathBuf>,
    /// Series to continue.
    #[arg(long, value_name = "F", requires = "model")]
    pub(crate) input: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) load: BenchRequests,
    #[command(flatten)]
    pub(crate) peer: BenchPeer,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchServe {
    #[command(flatten)]
    pub(crate) set: BenchSet,
    /// Clients at a time, each asking again as soon as it has its answer.
    #[arg(long, value_delimiter = ',', default_value = "1,8,32", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) clients: Vec<u32>,
    /// Seconds of each load, after a second to warm up.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) seconds: u64,
    /// Threads that answer at our endpoint; the server's own default without it.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) threads: Option<u32>,
    /// Sample paths behind each quantile.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) num_samples: u32,
    /// Points of the series in a request: its newest. All of it without this, as the article
    /// sends it; the model looks at the last thousand at most.
    #[arg(long, value_parser = clap::value_parser!(u32).range(48..=1_000_000))]
    pub(crate) points: Option<u32>,
    #[command(flatten)]
    pub(crate) peer: BenchPeer,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchSet {
    /// Folder with train.jsonl.gz and test.jsonl.gz, hourly DeepAR JSON Lines, of which the test
    /// has the training series and what came after; without it a set is made.
    #[arg(value_name = "DATA_DIR")]
    pub(crate) data: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchRequests {
    /// Requests of one series.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) requests: u32,
    /// Sample paths behind each quantile.
    #[arg(long, default_value_t = 100)]
    pub(crate) num_samples: usize,
    /// Series forecast in bulk; the peer gets a tenth of them.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    pub(crate) bulk: u32,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct BenchPeer {
    /// A Python that has GluonTS with PyTorch. Without it one is made with pip in a folder of the
    /// user's cache, once; that takes several GB.
    #[arg(long, value_name = "PYTHON")]
    pub(crate) peers: Option<PathBuf>,
    /// Leaves GluonTS out.
    #[arg(long, conflicts_with = "peers")]
    pub(crate) without_peers: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Worker {
    /// Runs one ETL run.
    Etl {
        /// The run, as JSON.
        #[arg(long)]
        spec: PathBuf,
    },
    /// Puts the files of one folder together.
    Compact {
        /// The folder and its files, as JSON.
        #[arg(long)]
        spec: PathBuf,
    },
    /// Runs one training job.
    Train {
        /// The job, as JSON.
        #[arg(long)]
        spec: PathBuf,
    },
}
