//! Data capture: a share of an endpoint's requests and answers, as JSON Lines in a bucket and as
//! a table of the catalog.
//!
//! ```text
//! <DestinationS3Uri>/<endpoint>/<variant>/yyyy/mm/dd/hh/<mm-ss-mmm-uuid>.jsonl
//! table forebay.captured_<endpoint>: captureData, eventMetadata, eventVersion; by variant,
//! year, month, day, hour        view captured_<endpoint>_calls: the same, a column for each fact
//! ```
//!
//! A line is AWS's; of our own are `modelName`, `modelArtifact` and `timeFreq` in `eventMetadata`:
//! which model answered, from which file, and the step of its forecasts. They tie a forecast to what
//! made it when the variant's name has moved on to another model.
//!
//! Invariants
//! * Nobody waits for it. What went by is handed to one task, which makes the lines and writes
//!   them every few seconds; an invocation pays for one copy of its answer.
//! * A line is written once: a file that could not be written is tried again under its own key.
//! * What waits is bounded, in lines and in bytes. What does not fit is dropped and counted: the
//!   newest if the task is behind, the oldest if a place cannot be written to.
//! * A file is there before its table knows its partition; a table that could not be changed is
//!   changed with the next file.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Bytes;
use base::{ErrorKind, Timestamp};
use lake::{Column, Format, Lake, Partition, Table, View};
use objects::Buckets;
use serde::Deserialize;
use serde_json::{Value, json};
use serving::{Answer, Host};
use tokio::sync::{mpsc, oneshot};

use super::s3_place;
use crate::fault::Fault;
use crate::rooms::{DATABASE, Rooms, ensure_database};

/// Most bytes of requests and answers that wait to be written.
const WAITING_BYTES_MAX: u64 = 64 << 20;
/// Of these, bytes that a place may hold up which cannot be written to.
const HELD_BYTES_MAX: u64 = WAITING_BYTES_MAX / 2;
/// Bytes of requests and answers that go into one file.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Exchanges that may wait for the task.
const WAITING_MAX: usize = 4096;
/// How long lines are gathered for one file.
const FLUSH: Duration = Duration::from_secs(2);
/// How long the end of the server waits for what is left.
const CLOSE_LIMIT: Duration = Duration::from_secs(10);

/// The parameter of a table that says whose capture it is.
const OF_ENDPOINT: &str = "capturedEndpoint";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Config {
    #[serde(default)]
    #[expect(dead_code, reason = "asked for before anything is read")]
    enable_capture: bool,
    initial_sampling_percentage: u8,
    destination_s3_uri: String,
    capture_options: Vec<CaptureOption>,
    kms_key_id: Option<String>,
    capture_content_type_header: Option<ContentTypes>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct CaptureOption {
    capture_mode: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields, default)]
struct ContentTypes {
    csv_content_types: Vec<String>,
    json_content_types: Vec<String>,
}

impl Config {
    fn wants(&self, mode: &str) -> bool {
        let either = |option: &CaptureOption| {
            option.capture_mode == mode || option.capture_mode == "InputAndOutput"
        };
        self.capture_options.iter().any(either)
    }
}

fn read(config: &Value) -> Result<Config, Fault> {
    serde_path_to_error::deserialize(config).map_err(|error| {
        let place = format!("DataCaptureConfig.{}", error.path());
        Fault::input(&place, &error.into_inner().to_string())
    })
}

/// Checks a `DataCaptureConfig`.
pub(super) fn check(config: &Value) -> Result<(), Fault> {
    let config = read(config)?;
    if config.initial_sampling_percentage > 100 {
        return Err(Fault::invalid(format!(
            "DataCaptureConfig.InitialSamplingPercentage {} is above 100",
            config.initial_sampling_percentage
        )));
    }
    s3_place("DataCaptureConfig.DestinationS3Uri", &config.destination_s3_uri)?;
    if config.kms_key_id.is_some_and(|key| !key.is_empty()) {
        return Err(Fault::unsupported(
            "DataCaptureConfig.KmsKeyId",
            "nothing is encrypted at rest",
        ));
    }
    if config.capture_options.is_empty() {
        return Err(Fault::invalid("DataCaptureConfig.CaptureOptions is empty"));
    }
    let known = |mode: &str| matches!(mode, "Input" | "Output" | "InputAndOutput");
    match config.capture_options.iter().find(|option| !known(&option.capture_mode)) {
        Some(other) => Err(Fault::invalid(format!(
            "CaptureMode {:?}: use Input, Output or InputAndOutput",
            other.capture_mode
        ))),
        None => Ok(()),
    }
}

/// What went by.
pub(crate) struct Exchange<'a> {
    pub(crate) endpoint: &'a str,
    /// The request and its content type.
    pub(crate) input: (&'a Bytes, &'a str),
    pub(crate) answer: &'a Answer,
    pub(crate) inference_id: Option<&'a str>,
    pub(crate) custom_attributes: Option<&'a str>,
}

/// What was captured and waits to be written.
#[derive(Debug, Default)]
pub(crate) struct Captures {
    sender: OnceLock<mpsc::Sender<Order>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    waiting_bytes: AtomicU64,
    written: AtomicU64,
    dropped: AtomicU64,
}

impl Counts {
    fn drop_some(&self, lines: u64, why: &str) {
        let before = self.dropped.fetch_add(lines, Ordering::Relaxed);
        // A line in the log each time that the count doubles.
        if (before + lines).ilog2() > before.checked_ilog2().unwrap_or(0) || before == 0 {
            tracing::warn!(dropped = before + lines, why, "captured requests were dropped");
        }
    }
}

#[derive(Debug)]
enum Order {
    Keep(Box<Captured>),
    /// Write all that came before, then say so.
    Flush(oneshot::Sender<()>),
}

/// An exchange as it waits.
#[derive(Debug)]
struct Captured {
    at: Timestamp,
    config: Value,
    endpoint: String,
    input: (Bytes, String),
    answer: Answer,
    inference_id: Option<String>,
    custom_attributes: Option<String>,
}

impl Captured {
    fn bytes(&self) -> u64 {
        // Beside the texts: names, the configuration and the line's own words.
        (self.input.0.len() + self.answer.body.len() + 1024) as u64
    }
}

/// Captures an exchange if `config` asks for it and the draw falls on it.
pub(crate) fn capture(rooms: &Rooms, config: &Value, exchange: &Exchange<'_>) {
    let percent = config["InitialSamplingPercentage"].as_u64().unwrap_or(0).min(100);
    // At most 100.
    if config["EnableCapture"] != json!(true) || !drawn(percent as u8) {
        return;
    }
    let captures = &rooms.trainings.captures;
    let captured = Box::new(Captured {
        at: rooms.clock.now(),
        config: config.clone(),
        endpoint: exchange.endpoint.to_owned(),
        input: (exchange.input.0.clone(), exchange.input.1.to_owned()),
        answer: exchange.answer.clone(),
        inference_id: exchange.inference_id.map(str::to_owned),
        custom_attributes: exchange.custom_attributes.map(str::to_owned),
    });
    let counts = &captures.counts;
    let bytes = captured.bytes();
    let waiting = counts.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
    let sender = captures.sender.get_or_init(|| Writer::start(rooms, counts));
    if waiting + bytes > WAITING_BYTES_MAX || sender.try_send(Order::Keep(captured)).is_err() {
        counts.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        counts.drop_some(1, "writing them is too slow");
    }
}

/// Whether a draw with this chance in a hundred falls.
pub(crate) fn drawn(percent: u8) -> bool {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => u32::from_le_bytes(bytes) % 100 < u32::from(percent),
        Err(_) => percent == 100,
    }
}

impl Captures {
    /// Writes what waits, as far as it can be written now; gives up after a while.
    pub(crate) async fn flush(&self) {
        let Some(sender) = self.sender.get() else { return };
        let (done, told) = oneshot::channel();
        let flushed = async {
            if sender.send(Order::Flush(done)).await.is_ok() {
                drop(told.await);
            }
        };
        if tokio::time::timeout(CLOSE_LIMIT, flushed).await.is_err() {
            tracing::warn!("captured requests are not all written yet");
        }
    }

    /// Lines written and lines dropped since the start.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.counts.written), read(&self.counts.dropped))
    }
}

/// A file that is to be written.
struct File {
    bucket: String,
    key: String,
    text: Bytes,
    lines: u64,
    /// What its exchanges count among those that wait.
    waiting_bytes: u64,
    endpoint: String,
    /// The key's part before the endpoint's folder's end.
    table_prefix: String,
    /// Values of the table's partition keys.
    partition: Vec<String>,
}

/// The task that makes lines and writes them.
struct Writer {
    buckets: Buckets,
    lake: Lake,
    host: Arc<Host>,
    counts: Arc<Counts>,
    /// Files that could not be written yet, oldest first.
    held: VecDeque<File>,
    /// Partitions that their table knows.
    known: BTreeSet<(String, Vec<String>)>,
    failures: u64,
}

impl Writer {
    fn start(rooms: &Rooms, counts: &Arc<Counts>) -> mpsc::Sender<Order> {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let writer = Writer {
            buckets: rooms.buckets.clone(),
            lake: rooms.lake.clone(),
            host: Arc::clone(&rooms.host),
            counts: Arc::clone(counts),
            held: VecDeque::new(),
            known: BTreeSet::new(),
            failures: 0,
        };
        tokio::spawn(writer.run(receiver));
        sender
    }

    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            let first = match self.held.is_empty() {
                true => orders.recv().await,
                // What is held is tried again also when nothing comes.
                false => match tokio::time::timeout(FLUSH, orders.recv()).await {
                    Ok(order) => order,
                    Err(_nothing_came) => {
                        self.write(Vec::new()).await;
                        continue;
                    }
                },
            };
            let Some(first) = first else { return };
            let (mut gathered, mut asked) = (Vec::new(), Vec::new());
            let mut take = |order: Order| match order {
                Order::Keep(captured) => gathered.push(*captured),
                Order::Flush(done) => asked.push(done),
            };
            let mut waits = matches!(first, Order::Keep(_));
            take(first);
            let until = tokio::time::Instant::now() + FLUSH;
            while waits {
                match tokio::time::timeout_at(until, orders.recv()).await {
                    Ok(Some(order)) => {
                        waits = matches!(order, Order::Keep(_));
                        take(order);
                    }
                    _time_or_end => waits = false,
                }
            }
            while let Ok(order) = orders.try_recv() {
                take(order);
            }
            self.write(gathered).await;
            for done in asked {
                // Whoever asked may have given up.
                let _gone = done.send(());
            }
        }
    }

    async fn write(&mut self, gathered: Vec<Captured>) {
        // Making the lines is work, and may be much of it.
        let counts = Arc::clone(&self.counts);
        let making = tokio::task::spawn_blocking(move || files(&counts, gathered));
        self.held.extend(making.await.unwrap_or_default());
        let (mut left, mut refusing) = (VecDeque::new(), BTreeSet::new());
        while let Some(file) = self.held.pop_front() {
            // Asked once in a turn, not for every file that waits for it.
            if refusing.contains(&file.bucket) {
                left.push_back(file);
                continue;
            }
            match self.buckets.put(&file.bucket, &file.key, file.text.clone()).await {
                Ok(_meta) => {
                    self.counts.written.fetch_add(file.lines, Ordering::Relaxed);
                    self.counts.waiting_bytes.fetch_sub(file.waiting_bytes, Ordering::Relaxed);
                    self.enlist(&file).await;
                }
                Err(error) => {
                    self.failures += 1;
                    if self.failures.is_power_of_two() {
                        let File { bucket, key, .. } = &file;
                        tracing::warn!(bucket, key, %error, "captured requests cannot be written; it is tried again");
                    }
                    refusing.insert(file.bucket.clone());
                    left.push_back(file);
                }
            }
        }
        self.held = left;
        let mut held: u64 = self.held.iter().map(|file| file.waiting_bytes).sum();
        while held > HELD_BYTES_MAX {
            let Some(oldest) = self.held.pop_front() else { break };
            held -= oldest.waiting_bytes;
            self.counts.waiting_bytes.fetch_sub(oldest.waiting_bytes, Ordering::Relaxed);
            self.counts.drop_some(oldest.lines, "their place cannot be written to");
        }
    }

    /// Has the catalog know the partition of a file.
    async fn enlist(&mut self, file: &File) {
        let own = (file.table_prefix.clone(), file.partition.clone());
        if self.known.contains(&own) {
            return;
        }
        let (lake, host) = (self.lake.clone(), Arc::clone(&self.host));
        let endpoint = file.endpoint.clone();
        let (bucket, prefix) = (file.bucket.clone(), file.table_prefix.clone());
        let values = file.partition.clone();
        let enlisted = tokio::task::spawn_blocking(move || {
            enlist(&lake, &host, &endpoint, (&bucket, &prefix), values)
        });
        match enlisted.await {
            Ok(Ok(())) => {
                // Partitions are hours: older ones get no files any more.
                if self.known.len() >= 10_000 {
                    self.known.clear();
                }
                self.known.insert(own);
            }
            Ok(Err(error)) => {
                tracing::warn!(endpoint = file.endpoint, %error, "the table of captured requests was not changed");
            }
            Err(_ended) => {}
        }
    }
}

/// The lines of what was gathered: a file for each folder, or more where it would be too large,
/// oldest first.
fn files(counts: &Counts, gathered: Vec<Captured>) -> Vec<File> {
    let mut files: Vec<File> = Vec::new();
    let mut texts: Vec<Vec<u8>> = Vec::new();
    let mut open: BTreeMap<(String, String), usize> = BTreeMap::new();
    for captured in gathered {
        let bytes = captured.bytes();
        // It was checked when the configuration was made.
        let place = read(&captured.config).ok().and_then(|config| {
            let place = s3_place("DestinationS3Uri", &config.destination_s3_uri).ok()?;
            Some((config, place))
        });
        let Some((config, (bucket, prefix))) = place else {
            counts.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
            counts.drop_some(1, "their configuration is not readable");
            continue;
        };
        let id = uuid::Uuid::new_v4();
        let at = moment(captured.at);
        let prefix = prefix.trim_end_matches('/');
        let slash = if prefix.is_empty() { "" } else { "/" };
        let table_prefix = format!("{prefix}{slash}{}/", captured.endpoint);
        let folder =
            format!("{table_prefix}{}/{}", captured.answer.variant, at.format("%Y/%m/%d/%H"));
        let line = line(&captured, &config, &id);
        let own = (bucket.clone(), folder.clone());
        let known = open.get(&own).copied().filter(|known| {
            files.get(*known).is_some_and(|file| file.waiting_bytes + bytes <= FILE_BYTES_MAX)
        });
        let known = known.unwrap_or_else(|| {
            let parts = ["%Y", "%m", "%d", "%H"].map(|part| at.format(part).to_string());
            files.push(File {
                bucket,
                key: format!("{folder}/{}-{id}.jsonl", at.format("%M-%S-%3f")),
                text: Bytes::new(),
                lines: 0,
                waiting_bytes: 0,
                endpoint: captured.endpoint.clone(),
                table_prefix,
                partition: [captured.answer.variant.clone()].into_iter().chain(parts).collect(),
            });
            texts.push(Vec::new());
            open.insert(own, files.len() - 1);
            files.len() - 1
        });
        let file = &mut files[known];
        file.lines += 1;
        file.waiting_bytes += bytes;
        texts[known].extend_from_slice(line.as_bytes());
    }
    let whole = |(file, text): (File, Vec<u8>)| File { text: text.into(), ..file };
    files.into_iter().zip(texts).map(whole).collect()
}

fn moment(at: Timestamp) -> chrono::DateTime<chrono::Utc> {
    chrono::DateTime::from_timestamp_millis(at.millis()).unwrap_or_default()
}

fn line(captured: &Captured, config: &Config, id: &uuid::Uuid) -> String {
    let none = ContentTypes::default();
    let types = config.capture_content_type_header.as_ref().unwrap_or(&none);
    let mut data = json!({});
    if config.wants("Input") {
        let (body, content_type) = &captured.input;
        data["endpointInput"] = side("INPUT", (body, content_type), types);
    }
    if config.wants("Output") {
        let Answer { body, content_type, .. } = &captured.answer;
        data["endpointOutput"] = side("OUTPUT", (body, content_type), types);
    }
    let Answer { model, artifact, target_model, freq, .. } = &captured.answer;
    // Of many models each is one of its own; the name of a model has no slash.
    let model = match target_model {
        Some(target) => &format!("{model}/{target}"),
        None => model,
    };
    let mut meta = json!({
        "eventId": id.to_string(),
        "inferenceTime": moment(captured.at).to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
        "modelName": model,
        "modelArtifact": artifact,
        "timeFreq": freq.to_string(),
    });
    if let Some(inference_id) = &captured.inference_id {
        meta["inferenceId"] = json!(inference_id);
    }
    if let Some(attributes) = &captured.custom_attributes {
        meta["customAttributes"] = json!([attributes]);
    }
    let event = json!({"captureData": data, "eventMetadata": meta, "eventVersion": "0"});
    format!("{event}\n")
}

fn side(mode: &str, (bytes, content_type): (&[u8], &str), types: &ContentTypes) -> Value {
    let listed = |all: &[String]| all.iter().any(|one| one.eq_ignore_ascii_case(content_type));
    let encoding = match (listed(&types.json_content_types), listed(&types.csv_content_types)) {
        (true, _) => "JSON",
        (_, true) => "CSV",
        _ => "BASE64",
    };
    let (encoding, data) = match std::str::from_utf8(bytes) {
        Ok(text) if encoding != "BASE64" => (encoding, text.to_owned()),
        _ => ("BASE64", rules::base64::encode(bytes)),
    };
    json!({
        "observedContentType": content_type,
        "mode": mode,
        "data": data,
        "encoding": encoding,
    })
}

// ---- the table ----

/// The table in [`DATABASE`] of what is captured of an endpoint.
pub fn capture_table(endpoint: &str) -> String {
    format!("captured_{}", endpoint.to_ascii_lowercase().replace('-', "_"))
}

/// The endpoint whose capture a table is of, if it is of one's.
pub fn captured_endpoint(table: &Table) -> Option<&str> {
    table.parameters.get(OF_ENDPOINT).map(String::as_str)
}

/// Has the catalog know where an endpoint's captured lines lie.
fn enlist(
    lake: &Lake,
    host: &Host,
    endpoint: &str,
    (bucket, prefix): (&str, &str),
    values: Vec<String>,
) -> base::Result<()> {
    let name = capture_table(endpoint);
    let catalog = lake.catalog();
    let table = match catalog.find_table(DATABASE, &name)? {
        None => {
            ensure_database(lake)?;
            match catalog.create_table(captured(endpoint, &name, bucket, prefix)) {
                // Somebody was quicker.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    catalog.get_table(DATABASE, &name)?
                }
                made => made?,
            }
        }
        Some(table) => table,
    };
    let owner = captured_endpoint(&table);
    let is_own = owner == Some(endpoint);
    // Two names that differ in letter case are never there together, but one after the other.
    if !is_own && owner.is_none_or(|owner| host.endpoint(owner).is_ok()) {
        return Err(base::Error::new(
            ErrorKind::Conflict,
            format!(
                "table {DATABASE}.{name} is not the one of endpoint {endpoint:?}; drop it and it is \
                 made anew, or query the files below {bucket}/{prefix} by a table of your own"
            ),
        ));
    }
    if !is_own || (table.bucket.as_str(), table.prefix.as_str()) != (bucket, prefix) {
        // The endpoint is captured elsewhere from now on, and its table goes along.
        let mut moved = Table { bucket: bucket.to_owned(), prefix: prefix.to_owned(), ..table };
        moved.parameters.insert(OF_ENDPOINT.to_owned(), endpoint.to_owned());
        catalog.update_table(moved)?;
    }
    let view =
        View { database: DATABASE.to_owned(), name: format!("{name}_calls"), sql: calls(&name) };
    if lake.find_view(DATABASE, &view.name)?.is_none() {
        match lake.put_view(&view, false) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _there => {}
        }
    }
    let folder = format!("{prefix}{}/", values.join("/"));
    let partition =
        Partition { values, bucket: bucket.to_owned(), prefix: folder, created_at: Timestamp(0) };
    catalog.add_partitions(DATABASE, &name, vec![partition]).map(drop)
}

fn captured(endpoint: &str, name: &str, bucket: &str, prefix: &str) -> Table {
    let side = "struct<observedContentType:string,mode:string,data:string,encoding:string>";
    let column = |name: &str, kind: &str, comment: &str| Column {
        comment: Some(comment.to_owned()),
        ..Column::new(name, kind)
    };
    let mut table = Table::new((DATABASE, name), (bucket, prefix), Format::Json);
    table.columns = vec![
        column(
            "captureData",
            &format!("struct<endpointInput:{side},endpointOutput:{side}>"),
            "the request and its answer",
        ),
        column(
            "eventMetadata",
            "struct<eventId:string,inferenceTime:string,modelName:string,modelArtifact:string,timeFreq:string,\
             inferenceId:string,customAttributes:array<string>>",
            "which request it was, when, and which model answered",
        ),
        column("eventVersion", "string", "of this format"),
    ];
    table.partition_keys =
        ["variant", "year", "month", "day", "hour"].map(|key| Column::new(key, "string")).into();
    table.parameters = BTreeMap::from([
        (OF_ENDPOINT.to_owned(), endpoint.to_owned()),
        ("classification".to_owned(), "json".to_owned()),
    ]);
    table
}

/// The statement of the view: a column for each fact, texts as they were sent.
fn calls(table: &str) -> String {
    let text = |side: &str| {
        let field = |name: &str| format!("captureData.{side}.{name}");
        let (data, encoding) = (field("data"), field("encoding"));
        format!(
            "CASE WHEN {encoding} = 'BASE64' THEN from_utf8(from_base64({data})) ELSE {data} END"
        )
    };
    format!(
        "SELECT from_iso8601_timestamp(eventMetadata.inferenceTime) AS inference_time, variant, \
         eventMetadata.modelName AS model, eventMetadata.modelArtifact AS artifact, \
         eventMetadata.eventId AS event_id, \
         eventMetadata.inferenceId AS inference_id, {} AS request, {} AS answer, \
         year, month, day, hour FROM {table}",
        text("endpointInput"),
        text("endpointOutput")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_named_after_their_endpoint() {
        for (endpoint, expect) in [
            ("DEMO-deepar-2024", "captured_demo_deepar_2024"),
            ("e", "captured_e"),
            ("a-b--c", "captured_a_b__c"),
        ] {
            assert_eq!(capture_table(endpoint), expect);
        }
    }

    /// What readers of AWS's captures rely on, to the byte where it is ours to choose.
    #[test]
    fn a_line_is_the_one_that_aws_writes() {
        let config = json!({"EnableCapture": true, "InitialSamplingPercentage": 100,
            "DestinationS3Uri": "s3://lake/capture", "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]}});
        let captured = Captured {
            at: Timestamp(1_612_522_800_123),
            config: config.clone(),
            endpoint: "e".into(),
            input: (Bytes::from_static(b"{\"a\":1}"), "application/json".into()),
            answer: Answer {
                body: b"\xff".to_vec(),
                content_type: "application/json",
                variant: "v".into(),
                model: "m".into(),
                artifact: "m-1.tar.gz".into(),
                target_model: None,
                freq: forecast::Frequency::HOURLY,
                latency: Duration::ZERO,
            },
            inference_id: Some("i-1".into()),
            custom_attributes: Some("c".into()),
        };
        let id = uuid::Uuid::nil();
        let Ok(read) = read(&config) else { panic!("it is readable") };
        assert_eq!(
            line(&captured, &read, &id),
            concat!(
                r#"{"captureData":{"endpointInput":{"observedContentType":"application/json","mode":"INPUT","data":"{\"a\":1}","encoding":"JSON"},"#,
                r#""endpointOutput":{"observedContentType":"application/json","mode":"OUTPUT","data":"/w==","encoding":"BASE64"}},"#,
                r#""eventMetadata":{"eventId":"00000000-0000-0000-0000-000000000000","inferenceTime":"2021-02-05T11:00:00Z","modelName":"m","modelArtifact":"m-1.tar.gz","timeFreq":"1H","inferenceId":"i-1","customAttributes":["c"]},"#,
                r#""eventVersion":"0"}"#,
                "\n"
            )
        );
    }
}
