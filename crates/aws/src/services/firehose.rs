//! Data Firehose: delivery streams and direct puts.
//!
//! A stream's settings that act are the delivery room's; what AWS gives back besides (roles,
//! options as they were written, tags) is a row of ours beside it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use base::{ErrorKind, MessageRef, QoS, Timestamp};
use delivery::{DIRECT_PUT_PREFIX, StreamRow};
use journal::{Batch, Bell, Journal};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::call::{Call, Outcome, Reply, Service, operation};
use crate::fault::Fault;
use crate::protocol::Protocol;
use crate::rooms::{Rooms, epoch_secs};

mod destination;

pub use destination::CatalogSchemas;
use destination::{destination_of, settings};

/// Most bytes of a record.
const RECORD_BYTES_MAX: usize = 1000 * 1024;
/// Most records and bytes of one batch.
const BATCH_RECORDS_MAX: usize = 500;
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most tags of a stream.
const TAGS_MAX: usize = 50;
/// The one destination of a stream.
const DESTINATION: &str = "destinationId-000000000001";
/// How long a deletion waits for what is still in memory.
const LAST_FLUSH: Duration = Duration::from_secs(5);

pub(crate) static SERVICE: Service = Service {
    name: "firehose",
    scopes: &["firehose"],
    protocol: Protocol::Json { target: "Firehose_20150804", version: "1.1" },
    codes,
    body_bytes_max: 8 * 1024 * 1024,
    operations: &[
        operation!("CreateDeliveryStream", create, differs: "DirectPut to S3; the buckets must exist; processors AppendDelimiterToRecord, MetadataExtraction (jq without now, env and other filters that answer differently when asked again) and RecordDeAggregation; format conversion from JSON to Parquet, packed with Snappy or not; a batch ends by the sum over its partitions, and any size from 1 MiB on is taken; a backup's objects are cut with the others; delivery is retried as long as the log holds, whatever RetryOptions say; CloudWatchLoggingOptions are kept, and delivery errors go to the server's own log"),
        operation!("DescribeDeliveryStream", describe),
        operation!("ListDeliveryStreams", list),
        operation!("PutRecord", put_record),
        operation!("PutRecordBatch", put_record_batch),
        operation!("UpdateDestination", update_destination, differs: "as CreateDeliveryStream; records that wait in the buffer get the new settings"),
        operation!("DeleteDeliveryStream", delete, differs: "refused while a topic rule names the stream; what waits is delivered first, for at most five seconds"),
        operation!("TagDeliveryStream", tag),
        operation!("UntagDeliveryStream", untag),
        operation!("ListTagsForDeliveryStream", list_tags),
    ],
};

fn codes(kind: ErrorKind) -> (&'static str, u16) {
    match kind {
        ErrorKind::NotFound => ("ResourceNotFoundException", 400),
        ErrorKind::AlreadyExists => ("ResourceInUseException", 400),
        ErrorKind::Conflict => ("ConcurrentModificationException", 400),
        ErrorKind::Denied => ("AccessDeniedException", 400),
        ErrorKind::Invalid | ErrorKind::Unsupported => ("InvalidArgumentException", 400),
        ErrorKind::Exhausted | ErrorKind::Unavailable => ("ServiceUnavailableException", 503),
        ErrorKind::Corrupt | ErrorKind::Internal => ("InternalFailure", 500),
    }
}

/// What the delivery room does not know of a stream.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Extra {
    /// Which stream of this name it belongs to.
    created_at: Timestamp,
    updated_at: Option<Timestamp>,
    /// The destination as it was given.
    destination: Map<String, Value>,
    tags: BTreeMap<String, Option<String>>,
}

impl metastore::Row for Extra {
    const TABLE: &'static str = "aws-firehose-streams";
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Tag {
    key: String,
    value: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Create {
    delivery_stream_name: String,
    delivery_stream_type: Option<String>,
    #[serde(rename = "ExtendedS3DestinationConfiguration")]
    extended: Option<Map<String, Value>>,
    #[serde(rename = "S3DestinationConfiguration")]
    plain: Option<Map<String, Value>>,
    #[serde(default)]
    tags: Vec<Tag>,
}

/// A stream and what we know of it besides.
fn find(rooms: &Rooms, name: &str) -> Result<(StreamRow, Extra), Fault> {
    let (row, _) = rooms.streams.describe(name).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Fault::not_found(format!(
            "Firehose {name} under account {} not found.",
            rooms.settings.account_id
        )),
        _ => Fault::from(error),
    })?;
    let kept = rooms.metastore.get::<Extra>(name)?.map(|found| found.row);
    let extra = kept.filter(|extra| extra.created_at == row.created_at).unwrap_or_else(|| Extra {
        created_at: row.created_at,
        destination: destination_of(rooms, &row),
        ..Extra::default()
    });
    Ok((row, extra))
}

fn tags_of(given: Vec<Tag>, tags: &mut BTreeMap<String, Option<String>>) -> Result<(), Fault> {
    for Tag { key, value } in given {
        if key.is_empty() || key.chars().count() > 128 || key.starts_with("aws:") {
            let message = format!("tag key {key:?} must be 1 to 128 characters, not aws:...");
            return Err(Fault::invalid(message));
        }
        if value.as_ref().is_some_and(|value| value.chars().count() > 256) {
            return Err(Fault::invalid(format!("the value of tag {key:?} is longer than 256")));
        }
        tags.insert(key, value);
    }
    if tags.len() > TAGS_MAX {
        let message =
            format!("a stream has at most {TAGS_MAX} tags; these would be {}", tags.len());
        return Err(Fault::named("LimitExceededException", 400, message));
    }
    Ok(())
}

/// Runs what waits for a worker off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> base::Result<T> + Send + 'static,
) -> base::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|cause| base::Error::internal("the work ended early").with_source(cause))?
}

async fn create(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Create = call.input()?;
    if input.delivery_stream_type.as_deref().is_some_and(|kind| kind != "DirectPut") {
        return Err(Fault::unsupported("DeliveryStreamType", "only DirectPut"));
    }
    let destination = match (input.extended, input.plain) {
        (Some(given), None) | (None, Some(given)) => given,
        _ => {
            return Err(Fault::invalid(
                "give one destination: ExtendedS3DestinationConfiguration or \
                 S3DestinationConfiguration",
            ));
        }
    };
    let name = input.delivery_stream_name;
    let new = settings(&name, &destination, &rooms.settings.account_id)?;
    let mut tags = BTreeMap::new();
    tags_of(input.tags, &mut tags)?;
    let row = rooms.streams.create(&new).map_err(|error| match error.kind() {
        // What is not found is the bucket: the request is wrong.
        ErrorKind::NotFound => Fault::invalid(error.to_string()),
        ErrorKind::Exhausted => Fault::named("LimitExceededException", 400, error.to_string()),
        _ => Fault::from(error),
    })?;
    let extra = Extra { created_at: row.created_at, updated_at: None, destination, tags };
    rooms.metastore.put(&name, &extra)?;
    rooms.streams.start(&name)?;
    Ok(json!({"DeliveryStreamARN": arn(rooms, call, &name)}).into())
}

fn arn(rooms: &Rooms, call: &Call, name: &str) -> String {
    rooms.arn("firehose", &call.region, &format!("deliverystream/{name}"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Describe {
    delivery_stream_name: String,
    #[serde(rename = "Limit")]
    _limit: Option<u64>,
    exclusive_start_destination_id: Option<String>,
}

async fn describe(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Describe = call.input()?;
    let name = input.delivery_stream_name;
    let (row, extra) = find(rooms, &name)?;
    let mut full = extra.destination;
    if let Some(backup) = full.remove("S3BackupConfiguration") {
        full.insert("S3BackupDescription".to_owned(), backup);
    }
    for (member, default) in [
        ("BufferingHints", json!({"SizeInMBs": 5, "IntervalInSeconds": 300})),
        ("CompressionFormat", json!("UNCOMPRESSED")),
        ("EncryptionConfiguration", json!({"NoEncryptionConfig": "NoEncryption"})),
        ("CloudWatchLoggingOptions", json!({"Enabled": false})),
        ("S3BackupMode", json!("Disabled")),
        ("Prefix", json!("")),
    ] {
        full.entry(member).or_insert(default);
    }
    const PLAIN: [&str; 8] = [
        "RoleARN",
        "BucketARN",
        "Prefix",
        "ErrorOutputPrefix",
        "BufferingHints",
        "CompressionFormat",
        "EncryptionConfiguration",
        "CloudWatchLoggingOptions",
    ];
    let plain: Map<String, Value> = full
        .iter()
        .filter(|(member, _)| PLAIN.contains(&member.as_str()))
        .map(|(member, value)| (member.clone(), value.clone()))
        .collect();
    let mut destinations = vec![json!({
        "DestinationId": DESTINATION,
        "S3DestinationDescription": plain,
        "ExtendedS3DestinationDescription": full,
    })];
    if input.exclusive_start_destination_id.is_some_and(|after| after.as_str() >= DESTINATION) {
        destinations.clear();
    }
    let mut description = json!({
        "DeliveryStreamName": name,
        "DeliveryStreamARN": arn(rooms, call, &name),
        "DeliveryStreamStatus": "ACTIVE",
        "DeliveryStreamType": "DirectPut",
        "DeliveryStreamEncryptionConfiguration": {"Status": "DISABLED"},
        "VersionId": row.version.to_string(),
        "CreateTimestamp": epoch_secs(row.created_at),
        "Destinations": destinations,
        "HasMoreDestinations": false,
    });
    if let Some(at) = extra.updated_at {
        description["LastUpdateTimestamp"] = json!(epoch_secs(at));
    }
    Ok(json!({"DeliveryStreamDescription": description}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct List {
    limit: Option<usize>,
    delivery_stream_type: Option<String>,
    exclusive_start_delivery_stream_name: Option<String>,
}

async fn list(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: List = call.input()?;
    let limit = input.limit.unwrap_or(10);
    if limit == 0 || limit > 10_000 {
        return Err(Fault::invalid(format!("Limit {limit} is not between 1 and 10000")));
    }
    let after = input.exclusive_start_delivery_stream_name;
    let wanted = input.delivery_stream_type.is_none_or(|kind| kind == "DirectPut");
    let mut names: Vec<String> = rooms
        .streams
        .list()?
        .into_iter()
        .map(|row| row.settings.name)
        .filter(|name| wanted && after.as_ref().is_none_or(|after| name > after))
        .collect();
    let more = names.len() > limit;
    names.truncate(limit);
    Ok(json!({"DeliveryStreamNames": names, "HasMoreDeliveryStreams": more}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Record {
    data: String,
}

impl Record {
    fn bytes(&self) -> Result<Vec<u8>, Fault> {
        let bytes = rules::base64::decode(&self.data)
            .ok_or_else(|| Fault::named("SerializationException", 400, "Data is not base64"))?;
        if bytes.len() > RECORD_BYTES_MAX {
            let message = format!("a record of {} bytes; at most {RECORD_BYTES_MAX}", bytes.len());
            return Err(Fault::invalid(message));
        }
        Ok(bytes)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Put {
    delivery_stream_name: String,
    record: Record,
}

/// Queues a record for the next commit; the bell rings when it is durable.
fn append(
    rooms: &Rooms,
    call: &Call,
    stream: &str,
    payload: &[u8],
    bell: &Arc<Bell>,
) -> base::Result<journal::Appended> {
    let topic = format!("{DIRECT_PUT_PREFIX}{stream}");
    let message = MessageRef {
        topic: &topic,
        payload,
        client_id: "",
        principal: &call.caller.access_key_id,
        received_at: rooms.clock.now(),
        qos: QoS::AtLeastOnce,
        retain: false,
    };
    let mut batch = Batch::new();
    batch.push(|out| message.encode_into(out))?;
    rooms.journal.append(&batch, Some(bell))
}

/// The log and the place in it: no two records share them.
fn record_id(rooms: &Rooms, appended: &journal::Appended) -> String {
    format!("{}-{:020}", rooms.journal.id(), appended.first.0)
}

async fn put_record(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Put = call.input()?;
    find(rooms, &input.delivery_stream_name)?;
    let bytes = input.record.bytes()?;
    let bell = Bell::new();
    let appended = append(rooms, call, &input.delivery_stream_name, &bytes, &bell)?;
    bell.past(appended.next()).await?;
    Ok(json!({"RecordId": record_id(rooms, &appended), "Encrypted": false}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct PutBatch {
    delivery_stream_name: String,
    records: Vec<Record>,
}

async fn put_record_batch(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: PutBatch = call.input()?;
    let name = &input.delivery_stream_name;
    find(rooms, name)?;
    let count = input.records.len();
    if count == 0 || count > BATCH_RECORDS_MAX {
        let message = format!("{count} records; a batch has 1 to {BATCH_RECORDS_MAX}");
        return Err(Fault::invalid(message));
    }
    let records: Vec<Vec<u8>> =
        input.records.iter().map(Record::bytes).collect::<Result<_, Fault>>()?;
    let bytes: usize = records.iter().map(Vec::len).sum();
    if bytes > BATCH_BYTES_MAX {
        let message = format!("a batch of {bytes} bytes; at most {BATCH_BYTES_MAX}");
        return Err(Fault::invalid(message));
    }
    let bell = Bell::new();
    let appended: Vec<_> =
        records.iter().map(|record| append(rooms, call, name, record, &bell)).collect();
    let mut failed = 0;
    let mut responses = Vec::with_capacity(count);
    for appended in appended {
        let durable = match appended {
            Ok(appended) => bell.past(appended.next()).await.map(|_| appended),
            Err(error) => Err(error),
        };
        responses.push(match durable {
            Ok(appended) => json!({"RecordId": record_id(rooms, &appended)}),
            Err(error) => {
                failed += 1;
                let (code, _) = codes(error.kind());
                json!({"ErrorCode": code, "ErrorMessage": error.to_string()})
            }
        });
    }
    let answer =
        json!({"FailedPutCount": failed, "Encrypted": false, "RequestResponses": responses});
    Ok(answer.into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Update {
    delivery_stream_name: String,
    current_delivery_stream_version_id: String,
    destination_id: String,
    #[serde(rename = "ExtendedS3DestinationUpdate")]
    extended: Option<Map<String, Value>>,
    #[serde(rename = "S3DestinationUpdate")]
    plain: Option<Map<String, Value>>,
}

async fn update_destination(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Update = call.input()?;
    let name = input.delivery_stream_name;
    let (_, extra) = find(rooms, &name)?;
    if input.destination_id != DESTINATION {
        let message = format!("{:?} is no destination; use {DESTINATION}", input.destination_id);
        return Err(Fault::invalid(message));
    }
    let ((Some(change), None) | (None, Some(change))) = (input.extended, input.plain) else {
        return Err(Fault::invalid(
            "give one of ExtendedS3DestinationUpdate and S3DestinationUpdate",
        ));
    };
    let expected = input.current_delivery_stream_version_id;
    let expected: u64 = expected.parse().map_err(|_not_a_number| {
        Fault::invalid(format!("{expected:?} is no CurrentDeliveryStreamVersionId"))
    })?;
    // What is not mentioned stays.
    let mut destination = extra.destination;
    for (member, value) in change {
        if member != "S3BackupUpdate" {
            destination.insert(member, value);
            continue;
        }
        let backup = destination.entry("S3BackupConfiguration").or_insert_with(|| json!({}));
        match (backup, value) {
            (Value::Object(backup), Value::Object(change)) => backup.extend(change),
            (backup, value) => *backup = value,
        }
    }
    let new = settings(&name, &destination, &rooms.settings.account_id)?;
    let streams = rooms.streams.clone();
    let row =
        blocking(move || streams.update(expected, &new)).await.map_err(|error| {
            match error.kind() {
                ErrorKind::NotFound => Fault::invalid(error.to_string()),
                _ => Fault::from(error),
            }
        })?;
    let extra = Extra {
        created_at: row.created_at,
        updated_at: Some(rooms.clock.now()),
        destination,
        tags: extra.tags,
    };
    rooms.metastore.put(&name, &extra)?;
    Ok(json!({}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Delete {
    delivery_stream_name: String,
    /// It matters where a key cannot be reached; here there is none.
    #[serde(rename = "AllowForceDelete")]
    _force: Option<bool>,
}

async fn delete(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Delete = call.input()?;
    let name = input.delivery_stream_name;
    find(rooms, &name)?;
    let (streams, stream) = (rooms.streams.clone(), name.clone());
    let deleted = blocking(move || {
        if let Err(error) = streams.flush(&stream, LAST_FLUSH) {
            tracing::warn!(stream, %error, "deleted with records that were not delivered");
        }
        streams.delete(&stream)
    });
    deleted.await.map_err(|error| match error.kind() {
        ErrorKind::Conflict => Fault::named("ResourceInUseException", 400, error.to_string()),
        _ => Fault::from(error),
    })?;
    rooms.metastore.delete::<Extra>(&name)?;
    Ok(json!({}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct TagInput {
    delivery_stream_name: String,
    tags: Vec<Tag>,
}

async fn tag(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: TagInput = call.input()?;
    let (_, mut extra) = find(rooms, &input.delivery_stream_name)?;
    tags_of(input.tags, &mut extra.tags)?;
    rooms.metastore.put(&input.delivery_stream_name, &extra)?;
    Ok(json!({}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct UntagInput {
    delivery_stream_name: String,
    tag_keys: Vec<String>,
}

async fn untag(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: UntagInput = call.input()?;
    let (_, mut extra) = find(rooms, &input.delivery_stream_name)?;
    extra.tags.retain(|key, _| !input.tag_keys.contains(key));
    rooms.metastore.put(&input.delivery_stream_name, &extra)?;
    Ok(json!({}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct ListTags {
    delivery_stream_name: String,
    exclusive_start_tag_key: Option<String>,
    limit: Option<usize>,
}

async fn list_tags(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ListTags = call.input()?;
    let (_, extra) = find(rooms, &input.delivery_stream_name)?;
    let limit = input.limit.unwrap_or(TAGS_MAX);
    if limit == 0 || limit > TAGS_MAX {
        return Err(Fault::invalid(format!("Limit {limit} is not between 1 and {TAGS_MAX}")));
    }
    let after = input.exclusive_start_tag_key;
    let mut tags: Vec<Value> = extra
        .tags
        .into_iter()
        .filter(|(key, _)| after.as_ref().is_none_or(|after| key > after))
        .map(|(key, value)| match value {
            Some(value) => json!({"Key": key, "Value": value}),
            None => json!({"Key": key}),
        })
        .collect();
    let more = tags.len() > limit;
    tags.truncate(limit);
    Ok(Reply::from(json!({"Tags": tags, "HasMoreTags": more})))
}

#[cfg(test)]
#[path = "firehose_tests.rs"]
mod tests;
