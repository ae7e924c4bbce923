//! The main job: devices in, forecasts out, in one process, with a closing account.
//!
//! Every step goes the way a user's would: kits and mutual TLS, QoS 1, a rule, a stream, a
//! crawl, a job in a child process, SQL, training in a child process, an endpoint over HTTP.
//! Nothing is handed around the back, so the account is about the product.

mod account;
mod publish;
mod report;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use arrow::array::{Array, AsArray};
use arrow::datatypes::{Float64Type, Int64Type};
use base::{Clock, ErrorKind, SystemClock};
use chrono::{DateTime, TimeZone, Utc};
use forecast::{Dataset, Frequency, TimeSeries};
use node::{Addresses, DATABASE, Node, admin};
use serde_json::{Value, json};

use crate::args::{Demo, Global};
use crate::control::{self, data_dir};
use crate::exit::{FAILED, OK};
use crate::output::Printer;
use crate::readings::{self, Source};
use account::{Ledger, MemoryWatch, Stage, Timer, Verdict};
use publish::Fleet;

/// Steps forecast: the next day.
const PREDICTION_LENGTH: usize = 24;
/// Bucket of everything the demo writes.
const BUCKET: &str = "lake";
/// Seconds after which a stream's object ends at the latest.
const STREAM_INTERVAL_SECS: u64 = 5;
/// Days at the end of the data that training does not see and the backtest scores.
const TEST_DAYS: usize = 7;
/// Points of history sent with a request: the longest lag of hourly data and the context.
const REQUEST_POINTS: usize = 1000;

/// Names of one run. A second run on the same data directory gets names of its own, so that
/// its account is its own.
struct Names {
    stream: String,
    topic_root: String,
    raw_table: String,
    table: String,
    job: String,
    /// Endpoints take hyphens where tables take underscores.
    endpoint: String,
}

impl Names {
    fn of_run(run: usize) -> Names {
        let suffix = if run == 1 { String::new() } else { format!("_{run}") };
        Names {
            stream: format!("readings{suffix}"),
            topic_root: if run == 1 { "air".to_owned() } else { format!("air-{run}") },
            raw_table: format!("raw_readings{suffix}"),
            table: format!("readings{suffix}"),
            job: format!("readings{suffix}"),
            endpoint: format!("readings{suffix}").replace('_', "-"),
        }
    }
}

/// What one run found out, for the report.
struct Outcome {
    names: Names,
    target: String,
    sent: u64,
    acknowledged: u64,
    in_lake: u64,
    set_aside: u64,
    verdict: Verdict,
    stages: Vec<Stage>,
    training: training::TrainResult,
    stations: Vec<Station>,
    peak_rss_bytes: u64,
}

/// One station's history, scores and forecast.
struct Station {
    name: String,
    history: TimeSeries,
    model_loss: f64,
    naive_loss: f64,
    forecast: Value,
}

/// Runs the demo; exit code 0 only if the account balances.
pub(crate) async fn run(global: &Global, args: Demo, printer: Printer) -> Result<u8> {
    let memory = MemoryWatch::start();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let source = open_source(&args, &*clock)?;
    let (node, addresses, start) = start_node(global, &args, clock.clone()).await?;
    printer.note(&format!(
        "data in {}   API http://{}   MQTT over mutual TLS {}",
        data_dir(global).display(),
        addresses.http,
        addresses.mqtts
    ));
    let outcome = pipeline(&node, addresses, source, &args, &memory, start, printer).await;
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            node.stop().await;
            return Err(error);
        }
    };
    let balanced = outcome.balances();
    report::print(&outcome, &data_dir(global), addresses, !args.exit, printer);
    if !args.exit {
        stay_up(&node, addresses, &outcome, &args, &*clock, printer).await?;
    }
    node.stop().await;
    Ok(if balanced { OK } else { FAILED })
}

fn open_source(args: &Demo, clock: &dyn Clock) -> Result<Source> {
    match &args.from {
        Some(path) => Source::open(path),
        None => Ok(Source::simulated(args.seed, args.devices, args.days, now(clock))),
    }
}

fn now(clock: &dyn Clock) -> DateTime<Utc> {
    Utc.timestamp_millis_opt(clock.now().millis()).single().unwrap_or_default()
}

/// Starts the whole server in this process. A run that ends takes any free ports; one that
/// stays up takes the usual ones where they are free.
async fn start_node(
    global: &Global,
    args: &Demo,
    clock: Arc<dyn Clock>,
) -> Result<(Arc<Node>, Addresses, Stage)> {
    let timer = Timer::start("start");
    let mut settings = control::settings(global, &[])?;
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let mqtt = &mut settings.mqtt;
    let own = [&mut mqtt.addr, &mut mqtt.tls_addr, &mut mqtt.websocket_addr];
    for addr in own.into_iter().chain([&mut settings.http.addr]) {
        if args.exit || std::net::TcpListener::bind(*addr).is_err() {
            *addr = loopback;
        }
    }
    let node = Node::open(&data_dir(global), settings, control::program()?, clock).await?;
    let addresses = node.serve().await?;
    Ok((node, addresses, timer.stop(0)))
}

async fn pipeline(
    node: &Arc<Node>,
    addresses: Addresses,
    mut source: Source,
    args: &Demo,
    memory: &MemoryWatch,
    start: Stage,
    printer: Printer,
) -> Result<Outcome> {
    let target = choose_target(args, &source)?;
    let names = prepare(node).await?;
    let mut stages = vec![start];
    let mut ledger = Ledger::new();

    let timer = Timer::start("publish");
    let mut fleet = Fleet::new(addresses.mqtts, &names.topic_root);
    let bytes = send(node, &mut fleet, &mut source, &mut ledger, printer).await?;
    let (sent, acknowledged) = (fleet.sent(), fleet.acknowledged());
    fleet.disconnect().await?;
    stages.push(timer.stop(bytes));

    let timer = Timer::start("deliver");
    admin::call(node, "stream_flush", json!({"name": names.stream})).await?;
    let stream = stream_of(node, &names.stream).await?;
    stages.push(timer.stop(stream["object_bytes"].as_u64().unwrap_or(0)));

    let timer = Timer::start("crawl");
    let path = format!("{BUCKET}/raw/{}/", names.stream);
    let input = json!({"path": path, "database": DATABASE, "table_prefix": "raw_"});
    admin::call(node, "lake_crawl", input).await?;
    stages.push(timer.stop(0));

    let timer = Timer::start("job");
    let run = run_job(node, &names).await?;
    stages.push(timer.stop(run["bytes_out"].as_u64().unwrap_or(0)));
    let set_aside =
        stream["set_aside"].as_u64().unwrap_or(0) + run["set_aside"].as_u64().unwrap_or(0);

    let timer = Timer::start("verify");
    let in_lake = count_rows(node, &names, &source, &mut ledger).await?;
    stages.push(timer.stop(0));

    let timer = Timer::start("training set");
    let series = read_series(node, &names, &source, &target).await?;
    let set = TrainingSet::write(node, &names, &series)?;
    stages.push(timer.stop(set.bytes));

    let timer = Timer::start("train");
    let result = train(node, &set, args.seed, printer).await?;
    stages.push(timer.stop(std::fs::metadata(&set.model).map_or(0, |meta| meta.len())));

    let timer = Timer::start("deploy");
    admin::call(node, "endpoint_create", json!({"name": names.endpoint, "model": set.model}))
        .await?;
    stages.push(timer.stop(0));

    let timer = Timer::start("forecast");
    let stations = forecast_all(node, addresses, &names, &set, &series).await?;
    stages.push(timer.stop(0));

    Ok(Outcome {
        names,
        target,
        sent,
        acknowledged,
        in_lake,
        set_aside,
        verdict: ledger.verdict(),
        stages,
        training: result,
        stations,
        peak_rss_bytes: memory.peak_bytes(),
    })
}

impl Outcome {
    /// Sent = acknowledged = in the lake, nothing lost, nothing doubled.
    fn balances(&self) -> bool {
        self.sent == self.acknowledged
            && self.acknowledged == self.in_lake
            && self.verdict == Verdict::default()
    }
}

fn choose_target(args: &Demo, source: &Source) -> Result<String> {
    let columns = &source.numeric_columns;
    let wanted = args.target.as_deref().unwrap_or("ozone");
    if let Some(found) = columns.iter().find(|column| column.as_str() == wanted) {
        return Ok(found.clone());
    }
    match (&args.target, columns.first()) {
        (Some(target), _) => Err(crate::exit::Exit::usage(format!(
            "--target {target}: the numeric columns are {}",
            columns.join(", ")
        ))
        .into()),
        (None, Some(first)) => Ok(first.clone()),
        (None, None) => bail!("the readings have no numeric column to forecast"),
    }
}

/// Makes the stream, the rule and the job of this run.
async fn prepare(node: &Arc<Node>) -> Result<Names> {
    let mut run = 1;
    let names = loop {
        let names = Names::of_run(run);
        let input = json!({
            "name": names.stream, "bucket": BUCKET, "prefix": format!("raw/{}/", names.stream),
            "error_prefix": format!("errors/{}/", names.stream), "size_bytes": 5 << 20,
            "interval_secs": STREAM_INTERVAL_SECS, "gzip": true,
        });
        match admin::call(node, "stream_create", input).await {
            Ok(_) => break names,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => run += 1,
            Err(error) => return Err(error.into()),
        }
    };
    let sql = format!("SELECT * FROM '{}/+/readings'", names.topic_root);
    let rule = json!({"name": names.stream, "sql": sql, "stream": names.stream, "separator": "\n"});
    admin::call(node, "rule_put", rule).await?;
    let job = json!({
        "name": names.job,
        "source": format!("{DATABASE}.{}", names.raw_table),
        "target": format!("{BUCKET}/tables/{}/", names.table),
        "table": format!("{DATABASE}.{}", names.table),
        "sql": null, "compression": "zstd", "partition_by": [],
    });
    admin::call(node, "job_create", job).await?;
    Ok(names)
}

/// Publishes every reading, each by its own device; payload bytes sent.
async fn send(
    node: &Arc<Node>,
    fleet: &mut Fleet,
    source: &mut Source,
    ledger: &mut Ledger,
    printer: Printer,
) -> Result<u64> {
    let bar = printer.bar("publishing", source.count.unwrap_or(0));
    let mut bytes = 0;
    let fleet_port = fleet.port();
    let mut enroll = |thing: &str| enroll(node, fleet_port, thing);
    loop {
        let readings = source.next_readings()?;
        if readings.is_empty() {
            break;
        }
        for reading in readings {
            ledger.sent(&reading.device, &reading.timestamp);
            bytes += reading.payload.len() as u64;
            fleet.publish(reading, &mut enroll).await?;
        }
        if source.count.is_none() {
            bar.set_length(fleet.sent());
        }
        bar.set_position(fleet.acknowledged());
    }
    fleet.wait_acknowledged(|acknowledged| bar.set_position(acknowledged)).await?;
    bar.finish_and_clear();
    printer.note(&format!("{} devices sent {} readings", fleet.len(), fleet.sent()));
    Ok(bytes)
}

/// A device's kit: registered, written to the data directory, and used to connect.
fn enroll(node: &Arc<Node>, port: u16, thing: &str) -> Result<Arc<rustls::ClientConfig>> {
    let kit = match node.registry.add_device(thing) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            node.registry.add_certificate(thing)?
        }
        other => other?,
    };
    let folder = node.data_dir.join("kits").join(thing);
    if !folder.exists() {
        kit.write(&folder, &identity::Endpoint::new("localhost", port))?;
    }
    Ok(Arc::new(kit.client_config(&[])?))
}

async fn stream_of(node: &Arc<Node>, name: &str) -> Result<Value> {
    let streams = admin::call(node, "stream_list", json!({})).await?;
    let found = streams["streams"].as_array().into_iter().flatten().find(|s| s["name"] == name);
    found.cloned().context("the stream just made")
}

async fn run_job(node: &Arc<Node>, names: &Names) -> Result<Value> {
    let run = admin::call(node, "job_run", json!({"name": names.job})).await?;
    if run["state"] != "SUCCEEDED" {
        bail!("job {} ended {}: {}", names.job, run["state"], run["error"]);
    }
    Ok(run)
}

/// Counts every (device, timestamp) of the table against the ledger; rows in all.
async fn count_rows(
    node: &Arc<Node>,
    names: &Names,
    source: &Source,
    ledger: &mut Ledger,
) -> Result<u64> {
    let sql = format!(
        "SELECT CAST({device} AS VARCHAR), CAST({time} AS VARCHAR), count(*) FROM {table} GROUP BY 1, 2",
        device = quoted(&source.device_column),
        time = quoted(&source.timestamp_column),
        table = quoted(&names.table),
    );
    let mut rows = 0;
    for batch in node.lake.query(&sql, DATABASE).await?.batches {
        let batch = as_plain_text(&batch)?;
        let (devices, times) =
            (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
        let counts = batch.column(2).as_primitive::<Int64Type>();
        for row in 0..batch.num_rows() {
            let count = counts.value(row).unsigned_abs();
            ledger.found(devices.value(row), times.value(row), count);
            rows += count;
        }
    }
    Ok(rows)
}

/// The target of every station as a regular hourly series, read from the table by SQL.
async fn read_series(
    node: &Arc<Node>,
    names: &Names,
    source: &Source,
    target: &str,
) -> Result<Dataset> {
    let sql = format!(
        "SELECT CAST({device} AS VARCHAR), CAST({time} AS VARCHAR), CAST({target} AS DOUBLE) FROM {table}",
        device = quoted(&source.device_column),
        time = quoted(&source.timestamp_column),
        target = quoted(target),
        table = quoted(&names.table),
    );
    let mut series = training::table::Collector::new(Frequency::HOURLY);
    for batch in node.lake.query(&sql, DATABASE).await?.batches {
        let batch = as_plain_text(&batch)?;
        let (devices, times) =
            (batch.column(0).as_string::<i32>(), batch.column(1).as_string::<i32>());
        let values = batch.column(2).as_primitive::<Float64Type>();
        for row in 0..batch.num_rows() {
            let time = times.value(row);
            let minutes = readings::parse_time(time)
                .with_context(|| {
                    format!("timestamp {time:?} of {} is not a time", devices.value(row))
                })?
                .and_utc()
                .timestamp()
                .div_euclid(60);
            let value = if values.is_null(row) { f32::NAN } else { values.value(row) as f32 };
            series.add(devices.value(row), forecast::DateTime(minutes), value);
        }
    }
    let (dataset, _duplicates) = series.finish()?;
    Ok(dataset)
}

/// Text columns as plain strings, whatever layout the engine gave them.
fn as_plain_text(batch: &arrow::array::RecordBatch) -> Result<arrow::array::RecordBatch> {
    use arrow::datatypes::{DataType, Field, Schema};
    let plain = |kind: &DataType| match kind {
        DataType::Utf8View | DataType::LargeUtf8 | DataType::Dictionary(..) => DataType::Utf8,
        other => other.clone(),
    };
    let schema = batch.schema();
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|f| f.as_ref().clone().with_data_type(plain(f.data_type())))
        .collect();
    let columns = batch
        .columns()
        .iter()
        .map(|column| arrow::compute::cast(column, &plain(column.data_type())))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(arrow::array::RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?)
}

/// An identifier of SQL.
fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Training and test channel on disk, split in time.
struct TrainingSet {
    train: PathBuf,
    test: PathBuf,
    model: PathBuf,
    folder: PathBuf,
    windows: usize,
    bytes: u64,
}

impl TrainingSet {
    fn write(node: &Node, names: &Names, series: &Dataset) -> Result<TrainingSet> {
        let folder = node.data_dir.join("jobs").join(format!("train-{}", names.stream));
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let shortest = series.series.iter().map(|s| s.target.len()).min().unwrap_or(0);
        let windows = TEST_DAYS.min(shortest / PREDICTION_LENGTH / 4).max(1);
        let (train, _rest) = training::table::split(series, windows * PREDICTION_LENGTH);
        let set = TrainingSet {
            train: folder.join("train.jsonl"),
            test: folder.join("test.jsonl"),
            model: node.data_dir.join("models").join(format!("{}.tar.gz", names.stream)),
            folder,
            windows,
            bytes: 0,
        };
        let mut bytes = 0;
        for (path, data) in [(&set.train, &train), (&set.test, series)] {
            let text = forecast::jsonl::write(data);
            bytes += text.len() as u64;
            std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
        }
        Ok(TrainingSet { bytes, ..set })
    }
}

/// What was found to learn an hourly sensor well in some twenty seconds: see BENCHMARKS.md.
fn hyperparameters() -> BTreeMap<String, String> {
    let pairs = [
        ("time_freq", "H"),
        ("prediction_length", "24"),
        ("context_length", "72"),
        ("likelihood", "student-T"),
        ("num_layers", "1"),
        ("num_cells", "64"),
        ("mini_batch_size", "32"),
        ("learning_rate", "0.003"),
        ("dropout_rate", "0.05"),
        ("epochs", "20"),
        ("windows_per_epoch", "4000"),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

async fn train(
    node: &Arc<Node>,
    set: &TrainingSet,
    seed: u64,
    printer: Printer,
) -> Result<training::TrainResult> {
    let spec = training::TrainSpec {
        train: set.train.clone(),
        test: Some(set.test.clone()),
        algorithm: training::Algorithm::DeepAr,
        hyperparameters: hyperparameters(),
        seed: Some(seed),
        // A fixed number, since another one gives other bytes.
        threads: Some(2),
        model: set.model.clone(),
        windows: set.windows,
    };
    let (program, folder) = (node.program.clone(), set.folder.clone());
    let bar = printer.bar("training", 100);
    let result = tokio::task::spawn_blocking(move || {
        let result = training::runner::run_in_child(&program, &spec, &folder, |line| {
            if let Some(percent) = percent_of(line) {
                bar.set_position(percent);
            }
        });
        bar.finish_and_clear();
        result
    });
    Ok(result.await.context("the training thread")??)
}

/// `#progress_metric: host=algo-1, completed 40 % of epochs`
fn percent_of(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once("#progress_metric")?;
    let (_, rest) = rest.split_once("completed ")?;
    rest.split([' ', '%']).next()?.parse::<f64>().ok().map(|percent| percent as u64)
}

/// Asks the endpoint for every station's next day over HTTP, and scores each station.
async fn forecast_all(
    node: &Node,
    addresses: Addresses,
    names: &Names,
    set: &TrainingSet,
    series: &Dataset,
) -> Result<Vec<Station>> {
    let url = format!("http://{}/endpoints/{}/invocations", addresses.http, names.endpoint);
    let token = node.token().reveal().to_owned();
    let model = training::load(&set.model)?;
    let naive = forecast::SeasonalNaive::for_freq(series.freq, PREDICTION_LENGTH)?;
    let mut stations = Vec::new();
    for one in &series.series {
        let dataset = Dataset { freq: series.freq, series: vec![one.clone()] };
        let score = |predictor: &dyn forecast::Predictor| {
            let options = forecast::PredictOptions::default();
            forecast::backtest(predictor, &dataset, set.windows, PREDICTION_LENGTH, &options)
                .map_or(f64::NAN, |scores| scores.mean_w_quantile_loss)
        };
        let (model_loss, naive_loss) = (score(&*model), score(&naive));
        let (url, token, body) = (url.clone(), token.clone(), request_of(one, series.freq));
        let answer = tokio::task::spawn_blocking(move || ask(&url, &token, &body)).await??;
        stations.push(Station {
            name: one.item_id.clone().unwrap_or_default(),
            history: one.clone(),
            model_loss,
            naive_loss,
            forecast: answer["predictions"][0].clone(),
        });
    }
    Ok(stations)
}

/// The SageMaker request for one station.
fn request_of(series: &TimeSeries, freq: Frequency) -> Value {
    let skip = series.target.len().saturating_sub(REQUEST_POINTS);
    let start = freq.advance(series.start, i64::try_from(skip).unwrap_or(0));
    let target: Vec<Value> = series.target[skip..]
        .iter()
        .map(|value| if value.is_nan() { Value::Null } else { json!(value) })
        .collect();
    json!({
        "instances": [{"start": start.to_string(), "target": target}],
        "configuration": {
            "num_samples": 100,
            "output_types": ["mean", "quantiles"],
            "quantiles": ["0.1", "0.5", "0.9"],
        }
    })
}

fn ask(url: &str, token: &str, body: &Value) -> Result<Value> {
    let agent: ureq::Agent =
        ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut response = agent
        .post(url)
        .header("authorization", format!("Bearer {token}"))
        .send_json(body)
        .context("asking the endpoint")?;
    let answer: Value = response.body_mut().read_json().context("the endpoint's answer")?;
    if !response.status().is_success() {
        bail!("the endpoint answered {}: {}", response.status(), answer["error"]["message"]);
    }
    Ok(answer)
}

/// Goes on publishing, one simulated reading a device and few seconds, until Ctrl-C.
async fn stay_up(
    node: &Arc<Node>,
    addresses: Addresses,
    outcome: &Outcome,
    args: &Demo,
    clock: &dyn Clock,
    printer: Printer,
) -> Result<()> {
    let mut fleet = Fleet::new(addresses.mqtts, &outcome.names.topic_root);
    let stations = crate::simulate::stations(args.seed, args.devices);
    let mut time = now(clock);
    let mut stop = std::pin::pin!(crate::commands::until_told_to_stop());
    let mut enroll = |thing: &str| enroll(node, addresses.mqtts.port(), thing);
    loop {
        tokio::select! {
            told = &mut stop => {
                told?;
                break;
            }
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
        }
        // An hour of readings every two seconds; with real readings the file is over, and
        // simulated ones would only spoil it.
        if args.from.is_none() {
            for station in &stations {
                if let Some(reading) = readings::simulated_reading(station, time) {
                    fleet.publish(reading, &mut enroll).await?;
                }
            }
            time += chrono::Duration::hours(1);
        }
    }
    printer.note("stopping");
    fleet.wait_acknowledged(|_| {}).await?;
    fleet.disconnect().await
}
