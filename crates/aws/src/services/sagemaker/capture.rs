//! Data capture: a share of an endpoint's requests and answers, as JSON Lines in a bucket.
//!
//! Nobody waits for it: lines go to one task that writes them every few seconds, and what it
//! cannot keep up with is dropped and counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base::Timestamp;
use objects::Buckets;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::s3_place;
use crate::fault::Fault;
use crate::rooms::Rooms;

/// Most bytes of lines that wait to be written.
const WAITING_BYTES_MAX: u64 = 64 << 20;
const LINES_MAX: usize = 4096;
const FLUSH: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Config {
    #[serde(default)]
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
    pub(crate) variant: &'a str,
    pub(crate) input: (&'a [u8], &'a str),
    pub(crate) output: (&'a [u8], &'a str),
    pub(crate) inference_id: Option<&'a str>,
    pub(crate) custom_attributes: Option<&'a str>,
}

/// The lines that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct Captures {
    sender: OnceLock<mpsc::Sender<Line>>,
    waiting_bytes: Arc<AtomicU64>,
    dropped: AtomicU64,
}

#[derive(Debug)]
struct Line {
    bucket: String,
    folder: String,
    stamp: String,
    text: String,
}

/// Captures an exchange if `config` asks for it and the draw falls on it.
pub(crate) fn capture(rooms: &Rooms, config: &Value, exchange: &Exchange<'_>) {
    let Ok(config) = read(config) else { return };
    if !config.enable_capture || !drawn(config.initial_sampling_percentage) {
        return;
    }
    let Ok((bucket, prefix)) = s3_place("DestinationS3Uri", &config.destination_s3_uri) else {
        return;
    };
    let captures = &rooms.trainings.captures;
    let line = line(rooms.clock.now(), &config, bucket, prefix.trim_end_matches('/'), exchange);
    let bytes = line.text.len() as u64;
    let waiting = captures.waiting_bytes.fetch_add(bytes, Ordering::Relaxed);
    let sender = captures.sender.get_or_init(|| start(rooms, &captures.waiting_bytes));
    if waiting + bytes > WAITING_BYTES_MAX || sender.try_send(line).is_err() {
        captures.waiting_bytes.fetch_sub(bytes, Ordering::Relaxed);
        let dropped = captures.dropped.fetch_add(1, Ordering::Relaxed) + 1;
        if dropped.is_power_of_two() {
            tracing::warn!(dropped, "captured requests were dropped: writing them is too slow");
        }
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

fn line(
    now: Timestamp,
    config: &Config,
    bucket: String,
    prefix: &str,
    exchange: &Exchange<'_>,
) -> Line {
    let at = chrono::DateTime::from_timestamp_millis(now.millis()).unwrap_or_default();
    let id = uuid::Uuid::new_v4();
    let wants = |mode: &str| {
        config
            .capture_options
            .iter()
            .any(|option| option.capture_mode == mode || option.capture_mode == "InputAndOutput")
    };
    let none = ContentTypes::default();
    let types = config.capture_content_type_header.as_ref().unwrap_or(&none);
    let mut data = json!({});
    if wants("Input") {
        data["endpointInput"] = side("INPUT", exchange.input, types);
    }
    if wants("Output") {
        data["endpointOutput"] = side("OUTPUT", exchange.output, types);
    }
    let mut meta = json!({
        "eventId": id.to_string(),
        "inferenceTime": at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
    });
    if let Some(inference_id) = exchange.inference_id {
        meta["inferenceId"] = json!(inference_id);
    }
    if let Some(attributes) = exchange.custom_attributes {
        meta["customAttributes"] = json!([attributes]);
    }
    let event = json!({"captureData": data, "eventMetadata": meta, "eventVersion": "0"});
    let slash = if prefix.is_empty() { "" } else { "/" };
    let (endpoint, variant) = (exchange.endpoint, exchange.variant);
    Line {
        bucket,
        folder: format!("{prefix}{slash}{endpoint}/{variant}/{}", at.format("%Y/%m/%d/%H")),
        stamp: format!("{}-{id}", at.format("%M-%S-%3f")),
        text: format!("{event}\n"),
    }
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

/// Starts the task that writes.
fn start(rooms: &Rooms, waiting_bytes: &Arc<AtomicU64>) -> mpsc::Sender<Line> {
    let (sender, receiver) = mpsc::channel(LINES_MAX);
    tokio::spawn(write(rooms.buckets.clone(), receiver, Arc::clone(waiting_bytes)));
    sender
}

async fn write(buckets: Buckets, mut lines: mpsc::Receiver<Line>, waiting: Arc<AtomicU64>) {
    loop {
        let Some(first) = lines.recv().await else { return };
        tokio::time::sleep(FLUSH).await;
        let mut files: BTreeMap<(String, String), (String, Vec<u8>)> = BTreeMap::new();
        let mut next = Some(first);
        while let Some(line) = next {
            let file = files.entry((line.bucket, line.folder));
            let (_, bytes) = file.or_insert_with(|| (line.stamp, Vec::new()));
            bytes.extend_from_slice(line.text.as_bytes());
            next = lines.try_recv().ok();
        }
        for ((bucket, folder), (stamp, bytes)) in files {
            let size = bytes.len() as u64;
            let key = format!("{folder}/{stamp}.jsonl");
            if let Err(error) = buckets.put(&bucket, &key, bytes.into()).await {
                tracing::warn!(bucket, key, %error, "captured requests were lost");
            }
            waiting.fetch_sub(size, Ordering::Relaxed);
        }
    }
}
