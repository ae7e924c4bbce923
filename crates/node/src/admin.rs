//! What the command line asks of a node: one table of operations, JSON in and out.
//!
//! The same table serves `POST /forebay/call/NAME` and a command that opened the data
//! directory itself, so that both do the same thing.

use std::sync::Arc;
use std::time::Duration;

use base::{Error, Message, MessageRef, Offset, QoS, Result, TopicName};
use delivery::{Compression, NewStream};
use identity::{ApiKey, Endpoint, KitFileKind};
use journal::{Batch, Bell, Journal};
use rules::{Action, NewRule};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{DATABASE, Node, accuracy, trial, upkeep, why};

/// How long a flush may take before the caller is told to ask again.
const FLUSH_LIMIT: Duration = Duration::from_secs(120);
/// The notebook instance that `forebay notebook` stands for.
const NOTEBOOK: &str = "forebay";

/// Carries out one operation. Its input is an object whose keys are the operation's own; an
/// unknown key or operation is refused by name.
pub async fn call(node: &Arc<Node>, operation: &str, input: Value) -> Result<Value> {
    let node = node.clone();
    match operation {
        "device_add" => device_kit(&node, input, true),
        "device_kit" => device_kit(&node, input, false),
        "device_list" => device_list(&node),
        "device_revoke" => device_revoke(&node, input),
        "topic_publish" => topic_publish(&node, input).await,
        "rule_try" => blocking(move || trial::rule_try(&node, input)).await,
        "rule_put" => rule_put(&node, input),
        "rule_list" => Ok(json!({"rules": rule_list(&node)})),
        "rule_enable" => rule_enable(&node, input),
        "rule_delete" => rule_delete(&node, input),
        "stream_create" => stream_create(&node, input),
        "stream_list" => stream_list(&node),
        "stream_flush" => blocking(move || stream_flush(&node, input)).await,
        "stream_delete" => stream_delete(&node, input),
        "lake_sql" => node.lake.sql(read(input)?).await,
        "lake_compare" => {
            crate::compare::compare(&node.lake, &node.data_dir.join("jobs"), read(input)?).await
        }
        "lake_ls" => node.lake.ls(&node.buckets, read(input)?).await,
        "lake_tables" => node.lake.tables(),
        "lake_report" => node.lake.report(read(input)?),
        "lake_crawl" => node.lake.crawl(read(input)?).await,
        "lake_compact" => upkeep::compact(&node, read(input)?).await,
        "lake_retain" => upkeep::retain(&node, read(input)?).await,
        "lake_drop_retired" => upkeep::drop_retired(&node, read(input)?).await,
        "job_create" => node.lake.job_create(read(input)?),
        "job_put" => node.lake.job_put(read(input)?),
        "job_show" => node.lake.job_show(read(input)?),
        "job_preview" => node.lake.job_preview(read(input)?).await,
        "job_trigger" => node.lake.job_trigger(read(input)?),
        "job_run" => node.lake.job_run(&node.program, read(input)?).await,
        "job_status" => node.lake.job_status(read(input)?),
        "endpoint_list" => node.models.list(),
        "endpoint_create" => node.models.create(read(input)?).await,
        "endpoint_delete" => node.models.delete(read(input)?),
        "endpoint_traffic" => node.models.traffic(read(input)?),
        "endpoint_rollback" => node.models.rollback(read(input)?).await,
        "key_create" => key_create(&node, input),
        "key_list" => Ok(json!({"keys": key_list(&node)})),
        "key_delete" => key_delete(&node, input),
        "endpoint_actuals" => accuracy::actuals(&node, read(input)?).await,
        "endpoint_ab" => accuracy::ab(&node, read(input)?).await,
        "sdk" => sdk(&node),
        "why_client" => why::client(&node, input),
        "why_message" => blocking(move || why::message(&node, input)).await,
        "status" => Ok(status(&node)),
        other => Err(Error::not_found(format!("there is no operation {other:?}"))),
    }
}

/// Reads an operation's input.
pub(crate) fn read<T: DeserializeOwned>(input: Value) -> Result<T> {
    serde_json::from_value(input).map_err(|cause| Error::invalid(format!("input: {cause}")))
}

/// Runs waiting or reading work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::internal(format!("the work ended: {e}")))?
}

/// Only a name.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Named {
    pub(crate) name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceKit {
    name: String,
    host: String,
    port: u16,
}

fn device_kit(node: &Node, input: Value, new: bool) -> Result<Value> {
    let DeviceKit { name, host, port } = read(input)?;
    let kit = if new {
        node.registry.add_device(&name)?
    } else {
        node.registry.add_certificate(&name)?
    };
    let files = kit.files(&Endpoint::new(host, port))?;
    let files: Vec<Value> = files
        .iter()
        .map(|file| {
            let kind = match file.kind {
                KitFileKind::PrivateKey => "private_key",
                KitFileKind::Program => "program",
                KitFileKind::Public => "public",
            };
            json!({"name": file.name, "text": file.text.expose(), "kind": kind})
        })
        .collect();
    Ok(json!({"name": name, "certificate_id": kit.certificate.certificate_id, "files": files}))
}

fn device_list(node: &Node) -> Result<Value> {
    let mut devices = Vec::new();
    for (thing, certificates) in node.registry.list()? {
        if certificates.is_empty() {
            devices.push(json!({"name": thing.name}));
        }
        for certificate in certificates {
            devices.push(json!({
                "name": thing.name,
                "certificate_id": certificate.certificate_id,
                "status": certificate.status,
                "not_after": certificate.not_after,
            }));
        }
    }
    Ok(json!({"devices": devices}))
}

fn device_revoke(node: &Node, input: Value) -> Result<Value> {
    let Named { name } = read(input)?;
    Ok(json!({"name": name, "certificates": node.registry.revoke(&name)?}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish {
    topic: String,
    payload: String,
}

/// Answers when the message is on stable storage, as a PUBACK would.
async fn topic_publish(node: &Node, input: Value) -> Result<Value> {
    let Publish { topic, payload } = read(input)?;
    let topic = TopicName::parse(&topic)?;
    if topic.as_str().starts_with('$') {
        return Err(Error::invalid(format!(
            "topic {topic:?}: topics that start with $ are reserved"
        )));
    }
    let limit = node.settings.broker.payload_bytes_max;
    if payload.len() > limit {
        let bytes = payload.len();
        return Err(Error::invalid(format!(
            "payload of {bytes} bytes; at most {limit} are allowed"
        )));
    }
    let message = MessageRef {
        topic: topic.as_str(),
        payload: payload.as_bytes(),
        client_id: "",
        principal: "admin",
        received_at: node.clock.now(),
        qos: QoS::AtLeastOnce,
        retain: false,
    };
    let mut batch = Batch::new();
    batch.push(|out| message.encode_into(out))?;
    let bell = Bell::new();
    let appended = node.journal.append(&batch, Some(&bell))?;
    bell.past(appended.next()).await?;
    Ok(json!({"offset": appended.first}))
}

/// A message as people read it: text where it is text.
pub fn message_as_json(offset: Offset, message: &Message) -> Value {
    let mut out = json!({
        "offset": offset,
        "topic": message.topic,
        "client_id": message.client_id,
        "received_at": message.received_at,
        "qos": message.qos as u8,
    });
    match std::str::from_utf8(&message.payload) {
        Ok(text) => out["payload"] = json!(text),
        Err(_not_text) => out["payload_base64"] = json!(rules::base64::encode(&message.payload)),
    }
    out
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RulePut {
    name: String,
    sql: String,
    stream: String,
    separator: Option<String>,
}

fn rule_put(node: &Node, input: Value) -> Result<Value> {
    let RulePut { name, sql, stream, separator } = read(input)?;
    node.streams.describe(&stream)?;
    let action = Action::Firehose { stream, separator, batch_mode: false };
    let rule =
        NewRule { name, description: String::new(), sql, actions: vec![action], enabled: true };
    let (now, durable) = (node.clock.now(), || node.journal.durable());
    let row = match node.rules.get(&rule.name) {
        Ok(_exists) => node.rules.replace(&rule, now, durable)?,
        Err(_absent) => node.rules.create(&rule, now, durable)?,
    };
    Ok(json!({"name": row.name, "from_offset": row.current().map(|version| version.from_offset)}))
}

fn rule_list(node: &Node) -> Vec<Value> {
    let rows = node.rules.list();
    let as_json = |row: &rules::RuleRow| {
        let version = row.current()?;
        let streams: Vec<&str> = version
            .actions
            .iter()
            .map(|action| {
                let Action::Firehose { stream, .. } = action;
                stream.as_str()
            })
            .collect();
        Some(json!({
            "name": row.name,
            "state": version.state,
            "stream": streams.join(", "),
            "sql": version.sql,
            "from_offset": version.from_offset,
        }))
    };
    rows.iter().filter_map(as_json).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleEnable {
    name: String,
    enabled: bool,
}

fn rule_enable(node: &Node, input: Value) -> Result<Value> {
    let RuleEnable { name, enabled } = read(input)?;
    node.rules.set_enabled(&name, enabled, node.clock.now(), || node.journal.durable())?;
    Ok(json!({"name": name, "enabled": enabled}))
}

fn rule_delete(node: &Node, input: Value) -> Result<Value> {
    let Named { name } = read(input)?;
    node.rules.delete(&name, node.clock.now(), || node.journal.durable())?;
    Ok(json!({"name": name, "deleted": true}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamCreate {
    name: String,
    bucket: String,
    prefix: String,
    error_prefix: Option<String>,
    size_bytes: u64,
    interval_secs: u64,
    gzip: bool,
    #[serde(default)]
    lineage: bool,
}

fn stream_create(node: &Node, input: Value) -> Result<Value> {
    let input: StreamCreate = read(input)?;
    let StreamCreate {
        name,
        bucket,
        prefix,
        error_prefix,
        size_bytes,
        interval_secs,
        gzip,
        lineage,
    } = input;
    let stream = NewStream {
        prefix,
        error_prefix,
        size_bytes,
        interval_secs,
        compression: if gzip { Compression::Gzip } else { Compression::None },
        lineage,
        ..NewStream::new(name, bucket)
    };
    node.buckets.ensure_bucket(&stream.bucket)?;
    let row = node.streams.create(&stream)?;
    if node.is_ready() {
        node.streams.start(row.name())?;
    }
    Ok(json!({"name": row.name(), "created_from": row.created_from}))
}

fn stream_list(node: &Node) -> Result<Value> {
    let mut streams = Vec::new();
    for row in node.streams.list()? {
        let status = node.streams.status(row.name())?;
        streams.push(json!({
            "name": row.name(),
            "bucket": row.settings.bucket,
            "prefix": row.settings.prefix,
            "error_prefix": row.settings.error_prefix,
            "running": status.running,
            "next": status.next,
            "lag": status.lag,
            "retrying": status.retrying,
            "retrying_since": status.retrying_since.map(|at| at.millis()),
            "attempts": status.attempts,
            "matched": status.totals.matched,
            "delivered": status.totals.records,
            "set_aside": status.totals.set_aside_count(),
            "set_aside_by_reason": status.totals.set_aside,
            "objects": status.totals.objects,
            "object_bytes": status.totals.object_bytes,
        }));
    }
    Ok(json!({"streams": streams}))
}

/// Delivers what is durable. Without a server the worker runs just for this.
fn stream_flush(node: &Node, input: Value) -> Result<Value> {
    let Named { name } = read(input)?;
    let visiting = !node.streams.status(&name)?.running;
    if visiting {
        node.streams.start(&name)?;
    }
    let flushed = node.streams.flush(&name, FLUSH_LIMIT);
    if visiting {
        node.streams.stop(&name);
    }
    Ok(json!({"name": name, "next": flushed?}))
}

fn stream_delete(node: &Node, input: Value) -> Result<Value> {
    let Named { name } = read(input)?;
    node.streams.delete(&name)?;
    Ok(json!({"name": name, "deleted": true}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyCreate {
    name: String,
    #[serde(default)]
    endpoints: Vec<String>,
    expires_days: Option<u32>,
}

/// The key is in this answer and nowhere else.
fn key_create(node: &Node, input: Value) -> Result<Value> {
    let KeyCreate { name, endpoints, expires_days } = read(input)?;
    if expires_days == Some(0) {
        return Err(Error::invalid("a key of 0 days would never open anything; give it 1 or more"));
    }
    let lasting = expires_days.map(|days| Duration::from_secs(u64::from(days) * 86_400));
    let (key, secret) = node.api_keys.create(&name, endpoints, lasting)?;
    let mut shown = key_shown(&key);
    shown["key"] = json!(secret.expose());
    Ok(shown)
}

fn key_shown(key: &ApiKey) -> Value {
    json!({
        "name": key.name,
        "endpoints": key.endpoints,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
    })
}

fn key_list(node: &Node) -> Vec<Value> {
    let now = node.clock.now();
    let one = |key: &ApiKey| {
        let mut shown = key_shown(key);
        shown["expired"] = json!(key.expires_at.is_some_and(|end| end <= now));
        shown
    };
    node.api_keys.list().iter().map(one).collect()
}

fn key_delete(node: &Node, input: Value) -> Result<Value> {
    let Named { name } = read(input)?;
    node.api_keys.delete(&name)?;
    Ok(json!({"name": name, "deleted": true}))
}

/// What an AWS SDK on this machine needs to know, the root key's secret included.
fn sdk(node: &Node) -> Result<Value> {
    let (access_key_id, secret) = node.keys.root()?;
    let region = &node.settings.aws.region;
    let account = &node.settings.aws.account_id;
    Ok(json!({
        "access_key_id": access_key_id,
        "secret_access_key": secret.expose(),
        "region": region,
        "notebook_name": NOTEBOOK,
        "notebook_arn": format!("arn:aws:sagemaker:{region}:{account}:notebook-instance/{NOTEBOOK}"),
        "role_arn": node.keys.role_arn(),
        "root_pem": node.registry.authority().root_pem(),
    }))
}

fn status(node: &Node) -> Value {
    let health = node.health();
    let sessions = node.broker().map(|broker| broker.sessions().len()).unwrap_or_default();
    json!({
        "ok": health.ok,
        "problems": health.problems,
        "journal": node.journal.status(),
        "sessions": sessions,
        "database": DATABASE,
    })
}
