//! Topic rules.

use std::sync::Arc;

use base::{Error, ErrorKind, TopicFilter};
use metastore::Row;
use rules::{
    Action, ErrorAction, Headers, NewRule, Put, Republish, Republishing, RuleRow, RuleState,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::inputs::RuleName;
use super::tags::{self, Tag};
use super::{Page, arn, compact, destinations};
use crate::call::{Call, Outcome, Reply};
use crate::fault::Fault;
use crate::rooms::{Rooms, epoch_secs};

/// Actions that AWS has and Forebay has not.
const OTHER_ACTIONS: [&str; 16] = [
    "dynamoDB",
    "dynamoDBv2",
    "lambda",
    "sns",
    "sqs",
    "cloudwatchAlarm",
    "elasticsearch",
    "salesforce",
    "iotAnalytics",
    "iotEvents",
    "iotSiteWise",
    "stepFunctions",
    "timestream",
    "kafka",
    "openSearch",
    "location",
];

/// What AWS says of a rule and the room does not know: its actions with their roles, in the
/// order they were given.
#[derive(Serialize, Deserialize)]
struct Wire {
    actions: Vec<Value>,
    error_action: Option<Value>,
    sql_version: String,
}

impl Row for Wire {
    const TABLE: &'static str = "aws-iot-rules";
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Payload {
    sql: String,
    description: Option<String>,
    actions: Vec<Value>,
    #[serde(default)]
    rule_disabled: bool,
    aws_iot_sql_version: Option<String>,
    error_action: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct FirehoseAction {
    role_arn: String,
    delivery_stream_name: String,
    separator: Option<String>,
    #[serde(default)]
    batch_mode: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RepublishAction {
    role_arn: String,
    topic: String,
    #[serde(default)]
    qos: u8,
    headers: Option<WireHeaders>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WireHeaders {
    payload_format_indicator: Option<String>,
    content_type: Option<String>,
    response_topic: Option<String>,
    correlation_data: Option<String>,
    message_expiry: Option<String>,
    #[serde(default)]
    user_properties: Vec<UserProperty>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserProperty {
    key: String,
    value: String,
}

impl From<WireHeaders> for Headers {
    fn from(wire: WireHeaders) -> Headers {
        let user = wire.user_properties.into_iter();
        Headers {
            payload_format_indicator: wire.payload_format_indicator,
            content_type: wire.content_type,
            response_topic: wire.response_topic,
            correlation_data: wire.correlation_data,
            message_expiry: wire.message_expiry,
            user_properties: user.map(|property| (property.key, property.value)).collect(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct S3Action {
    role_arn: String,
    bucket_name: String,
    key: String,
    canned_acl: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CloudwatchLogsAction {
    role_arn: String,
    log_group_name: String,
    #[serde(default)]
    batch_mode: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CloudwatchMetricAction {
    role_arn: String,
    metric_namespace: String,
    metric_name: String,
    metric_value: String,
    metric_unit: String,
    metric_timestamp: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct KinesisAction {
    role_arn: String,
    stream_name: String,
    partition_key: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct HttpAction {
    url: String,
    confirmation_url: Option<String>,
    #[serde(default)]
    headers: Vec<UserProperty>,
    auth: Option<Value>,
    #[serde(default)]
    enable_batching: bool,
    batch_config: Option<Value>,
}

/// Most headers of an HTTP action, as on AWS.
const HEADERS_MAX: usize = 100;

enum Read {
    Firehose(Action),
    /// With the URL whose endpoint must confirm.
    Http(Put, String),
    Republish(Republish),
    Put(Put),
}

/// Reads one action; `place` says where it stands.
fn action(place: &str, given: &Value) -> Result<Read, Fault> {
    let members = given.as_object().filter(|members| members.len() == 1);
    let Some((kind, body)) = members.and_then(|members| members.iter().next()) else {
        return Err(Fault::invalid(format!(
            "{place} must be an object with one member that names the action, such as firehose"
        )));
    };
    let place = format!("{place}.{kind}");
    match kind.as_str() {
        "firehose" => {
            let read: FirehoseAction = member(&place, body)?;
            check_role(&place, &read.role_arn)?;
            Ok(Read::Firehose(Action::Firehose {
                stream: read.delivery_stream_name,
                separator: read.separator,
                batch_mode: read.batch_mode,
            }))
        }
        "republish" => {
            let read: RepublishAction = member(&place, body)?;
            check_role(&place, &read.role_arn)?;
            let headers = read.headers.map(Headers::from).unwrap_or_default();
            Ok(Read::Republish(Republish { topic: read.topic, qos: read.qos, headers }))
        }
        "s3" => {
            let read: S3Action = member(&place, body)?;
            check_role(&place, &read.role_arn)?;
            if let Some(acl) = read.canned_acl.filter(|acl| acl != "private") {
                let place = format!("{place}.cannedAcl {acl:?}");
                return Err(Fault::unsupported(&place, "objects here are private"));
            }
            Ok(Read::Put(Put::Object { bucket: read.bucket_name, key: read.key }))
        }
        "cloudwatchLogs" => {
            let read: CloudwatchLogsAction = member(&place, body)?;
            check_role(&place, &read.role_arn)?;
            let (group, batch_mode) = (read.log_group_name, read.batch_mode);
            Ok(Read::Put(Put::LogEvent { group, batch_mode }))
        }
        "cloudwatchMetric" => {
            let read: CloudwatchMetricAction = member(&place, body)?;
            check_role(&place, &read.role_arn)?;
            Ok(Read::Put(Put::Metric {
                namespace: read.metric_namespace,
                name: read.metric_name,
                value: read.metric_value,
                unit: read.metric_unit,
                timestamp: read.metric_timestamp,
            }))
        }
        "kinesis" => {
            let read: KinesisAction = member(&place, body)?;
            check_role(&place, &read.role_arn)?;
            // A delivery stream has no shards that a key could choose from.
            if read.partition_key.is_some_and(|key| key.is_empty()) {
                return Err(Fault::invalid(format!("{place}.partitionKey is empty")));
            }
            let stream = read.stream_name;
            Ok(Read::Firehose(Action::Firehose { stream, separator: None, batch_mode: false }))
        }
        "http" => http(&place, member(&place, body)?),
        other if OTHER_ACTIONS.contains(&other) => {
            let why = "the actions here are firehose, kinesis, republish, s3, cloudwatchLogs, \
                       cloudwatchMetric and http";
            Err(Fault::unsupported(&place, why))
        }
        other => Err(Fault::invalid(format!("{place}: there is no action {other:?}"))),
    }
}

fn http(place: &str, read: HttpAction) -> Result<Read, Fault> {
    if read.auth.is_some() {
        let why = "nothing is signed for AWS here; send a secret in a header";
        return Err(Fault::unsupported(&format!("{place}.auth"), why));
    }
    if read.enable_batching || read.batch_config.is_some() {
        let why = "each output is a request of its own";
        return Err(Fault::unsupported(&format!("{place}.enableBatching"), why));
    }
    if read.headers.len() > HEADERS_MAX {
        return Err(Fault::invalid(format!(
            "{place}.headers has {} entries; at most {HEADERS_MAX} are allowed",
            read.headers.len()
        )));
    }
    let filled = |text: &str| text.contains("${");
    for (index, UserProperty { key, value }) in read.headers.iter().enumerate() {
        let value = if filled(value) { "" } else { value };
        egress::check_header(key, value)
            .map_err(|error| Fault::invalid(format!("{place}.headers[{index}]: {error}")))?;
    }
    let confirmation = read.confirmation_url.filter(|url| !url.is_empty());
    let confirmation = match confirmation {
        Some(url) if filled(&url) => {
            return Err(Fault::invalid(format!("{place}.confirmationUrl holds a template")));
        }
        Some(url) => url,
        None if filled(&read.url) => {
            return Err(Fault::invalid(format!(
                "{place}.url holds a template; name the part that does not change in \
                 confirmationUrl"
            )));
        }
        None => read.url.clone(),
    };
    if !filled(&read.url)
        && let (Ok(url), Ok(above)) = (url::Url::parse(&read.url), url::Url::parse(&confirmation))
        && !egress::lies_under(&url, &above)
    {
        return Err(Fault::invalid(format!(
            "{place}.url {url} does not lie under confirmationUrl {above}"
        )));
    }
    let headers = read.headers.into_iter().map(|header| (header.key, header.value)).collect();
    Ok(Read::Http(Put::Http { url: read.url, headers }, confirmation))
}

fn member<T: serde::de::DeserializeOwned>(place: &str, body: &Value) -> Result<T, Fault> {
    serde_path_to_error::deserialize(body).map_err(|error| {
        let inner = error.path().to_string();
        Fault::input(&format!("{place}.{inner}"), &error.into_inner().to_string())
    })
}

/// A role is a label; it must still look like one.
fn check_role(place: &str, role: &str) -> Result<(), Fault> {
    if role.starts_with("arn:aws") && role.contains(":iam:") && role.contains(":role/") {
        return Ok(());
    }
    Err(Fault::invalid(format!("{place}.roleArn {role:?} is not the ARN of a role")))
}

struct Given {
    rule: NewRule,
    republishing: Republishing,
    wire: Wire,
    tags: Vec<Tag>,
    /// URLs whose endpoints must confirm.
    confirm: Vec<String>,
}

/// The body is the payload; the file form of the command line wraps it once more.
fn given(call: &Call) -> Result<Given, Fault> {
    let mut input = match &call.input {
        Value::Object(members) => members.clone(),
        _ => Map::new(),
    };
    let name = match input.remove("ruleName") {
        Some(Value::String(name)) => name,
        _ => return Err(Fault::invalid("ruleName is missing")),
    };
    let tags = match input.remove("tagging") {
        Some(Value::String(text)) => read_tagging(&text)?,
        _ => Vec::new(),
    };
    let payload = match input.remove("topicRulePayload") {
        Some(inner) if input.is_empty() => inner,
        Some(_) => return Err(Fault::invalid("topicRulePayload must stand alone")),
        None => Value::Object(input),
    };
    let payload: Payload = serde_path_to_error::deserialize(&payload).map_err(|error| {
        let place = error.path().to_string();
        Fault::input(&place, &error.into_inner().to_string())
    })?;
    let sql_version = payload.aws_iot_sql_version.unwrap_or_else(|| "2015-10-08".to_owned());
    match sql_version.as_str() {
        "2015-10-08" | "2016-03-23" => {}
        "beta" => {
            let why = "\"beta\" stands for no particular behaviour; use 2016-03-23";
            return Err(Fault::unsupported("awsIotSqlVersion", why));
        }
        other => {
            return Err(Fault::invalid(format!(
                "awsIotSqlVersion {other:?} is neither 2015-10-08 nor 2016-03-23"
            )));
        }
    }
    let (mut actions, mut republishing) = (Vec::new(), Republishing::default());
    let mut confirm = Vec::new();
    for (index, given) in payload.actions.iter().enumerate() {
        match action(&format!("actions[{index}]"), given)? {
            Read::Firehose(action) => actions.push(action),
            Read::Republish(republish) => republishing.output.push(republish),
            Read::Put(put) => republishing.puts.push(put),
            Read::Http(put, url) => {
                republishing.puts.push(put);
                confirm.push(url);
            }
        }
    }
    let on_error = payload.error_action.as_ref().map(|given| action("errorAction", given));
    republishing.on_error = on_error.transpose()?.map(error_action);
    let rule = NewRule {
        name,
        description: payload.description.unwrap_or_default(),
        sql: payload.sql,
        actions,
        enabled: !payload.rule_disabled,
    };
    rules::Sql::parse(&rule.sql)
        .map_err(|error| Fault::named("SqlParseException", 400, error.to_string()))?;
    let (actions, error_action) = (payload.actions, payload.error_action);
    let wire = Wire { actions, error_action, sql_version };
    Ok(Given { rule, republishing, wire, tags, confirm })
}

fn error_action(read: Read) -> ErrorAction {
    match read {
        Read::Republish(republish) => ErrorAction::Republish(republish),
        Read::Put(put) | Read::Http(put, _) => ErrorAction::Put(put),
        Read::Firehose(Action::Firehose { stream, separator, .. }) => {
            ErrorAction::Firehose { stream, separator }
        }
    }
}

/// `Key=Value&Key2=Value2`, encoded as in an address.
fn read_tagging(text: &str) -> Result<Vec<Tag>, Fault> {
    let decoded = |text: &str| {
        let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
        decoded
            .map(|text| text.into_owned())
            .map_err(|_not_utf8| Fault::invalid(format!("x-amz-tagging: {text:?} is not UTF-8")))
    };
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    let tags: Result<Vec<Tag>, Fault> = pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok(Tag { key: decoded(key)?, value: decoded(value)? })
        })
        .collect();
    let tags = tags?;
    tags::check(&tags)?;
    Ok(tags)
}

/// The model of rules has no ResourceNotFoundException: AWS answers a rule that is not there
/// as one that the caller may not see.
pub(super) fn rule_fault(error: Error) -> Fault {
    match error.kind() {
        ErrorKind::NotFound => Fault::named("UnauthorizedException", 401, error.to_string()),
        ErrorKind::Conflict => {
            Fault::named("ConflictingResourceUpdateException", 409, error.to_string())
        }
        ErrorKind::Internal | ErrorKind::Corrupt => {
            let mut fault = Fault::from(error);
            fault.code = crate::fault::Code::Named("InternalException", 500);
            fault
        }
        _ => error.into(),
    }
}

pub(super) async fn create_topic_rule(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let Given { rule, republishing, wire, tags, confirm } = given(call)?;
    check_endpoints(rooms, &confirm)?;
    let durable = || journal::Journal::durable(&*rooms.journal);
    let now = rooms.clock.now();
    rooms.rules.create_with(&rule, &republishing, now, durable).map_err(|error| {
        let taken = error.kind() == ErrorKind::AlreadyExists;
        let mut fault = rule_fault(error);
        if taken {
            fault.members.push(("resourceId", json!(rule.name)));
            fault.members.push(("resourceArn", json!(rule_arn(rooms, call, &rule.name))));
        }
        fault
    })?;
    rooms.metastore.put(&rule.name, &wire)?;
    tags::put(rooms, &format!("rule/{}", rule.name), &tags)?;
    destinations::ensure(rooms, call, &confirm).await?;
    Ok(Reply::empty())
}

pub(super) async fn replace_topic_rule(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let Given { rule, republishing, wire, confirm, .. } = given(call)?;
    check_endpoints(rooms, &confirm)?;
    let (now, durable) = (rooms.clock.now(), || journal::Journal::durable(&*rooms.journal));
    rooms.rules.replace_with(&rule, &republishing, now, durable).map_err(rule_fault)?;
    rooms.metastore.put(&rule.name, &wire)?;
    destinations::ensure(rooms, call, &confirm).await?;
    Ok(Reply::empty())
}

/// Refuses endpoints that the settings do not open, before anything is made.
fn check_endpoints(rooms: &Rooms, urls: &[String]) -> Result<(), Fault> {
    for url in urls {
        rooms.destinations.check(url).map_err(|error| Fault::invalid(error.to_string()))?;
    }
    Ok(())
}

fn rule_arn(rooms: &Rooms, call: &Call, name: &str) -> String {
    arn(rooms, call, &format!("rule/{name}"))
}

pub(super) async fn get_topic_rule(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let RuleName { name } = call.input()?;
    let row = rooms.rules.get(&name).map_err(rule_fault)?;
    let Some(version) = row.current() else {
        return Err(rule_fault(Error::not_found(format!("there is no rule {name:?}"))));
    };
    let wire = match rooms.metastore.get::<Wire>(&name)? {
        Some(found) if fits(&found.row, &row) => found.row,
        _ => wire_of(rooms, &row),
    };
    let rule = compact(json!({
        "ruleName": row.name,
        "sql": version.sql,
        "description": row.description,
        "createdAt": epoch_secs(row.created_at),
        "ruleDisabled": version.state == RuleState::Disabled,
        "awsIotSqlVersion": wire.sql_version,
    }));
    let mut rule = match rule {
        Value::Object(members) => members,
        _ => Map::new(),
    };
    // As they were given, null members and all.
    rule.insert("actions".to_owned(), Value::Array(wire.actions));
    if let Some(error_action) = wire.error_action {
        rule.insert("errorAction".to_owned(), error_action);
    }
    Ok(json!({ "ruleArn": rule_arn(rooms, call, &row.name), "rule": rule }).into())
}

/// Whether what was given still says what the rule does: the command line changes rules too.
fn fits(wire: &Wire, row: &RuleRow) -> bool {
    let Some(version) = row.current() else { return false };
    let (mut actions, mut republish, mut puts) = (Vec::new(), Vec::new(), Vec::new());
    for given in &wire.actions {
        match action("actions", given) {
            Ok(Read::Firehose(action)) => actions.push(action),
            Ok(Read::Republish(target)) => republish.push(target),
            Ok(Read::Put(put) | Read::Http(put, _)) => puts.push(put),
            Err(_) => return false,
        }
    }
    let on_error = match wire.error_action.as_ref().map(|given| action("errorAction", given)) {
        Some(Ok(read)) => Some(error_action(read)),
        Some(Err(_)) => return false,
        None => None,
    };
    actions == version.actions
        && republish == version.republish
        && puts == version.puts
        && on_error == version.on_error
}

/// How a rule that was made elsewhere looks here.
fn wire_of(rooms: &Rooms, row: &RuleRow) -> Wire {
    let role = format!("arn:aws:iam::{}:role/forebay", rooms.settings.account_id);
    let version = row.current();
    let firehose = version.iter().flat_map(|version| &version.actions).map(|action| {
        let Action::Firehose { stream, separator, batch_mode } = action;
        wire_firehose(&role, stream, separator.as_deref(), Some(*batch_mode))
    });
    let targets = version.iter().flat_map(|version| &version.republish);
    let targets = targets.map(|target| wire_republish(&role, target));
    let puts = version.iter().flat_map(|version| &version.puts).map(|put| wire_put(&role, put));
    let on_error = version.and_then(|version| version.on_error.as_ref());
    Wire {
        actions: firehose.chain(targets).chain(puts).collect(),
        error_action: on_error.map(|on_error| match on_error {
            ErrorAction::Republish(target) => wire_republish(&role, target),
            ErrorAction::Put(put) => wire_put(&role, put),
            ErrorAction::Firehose { stream, separator } => {
                wire_firehose(&role, stream, separator.as_deref(), None)
            }
        }),
        sql_version: "2016-03-23".to_owned(),
    }
}

fn wire_firehose(
    role: &str,
    stream: &str,
    separator: Option<&str>,
    batch_mode: Option<bool>,
) -> Value {
    compact(json!({ "firehose": {
        "roleArn": role,
        "deliveryStreamName": stream,
        "separator": separator,
        "batchMode": batch_mode,
    }}))
}

fn wire_republish(role: &str, target: &Republish) -> Value {
    let mut action = json!({"roleArn": role, "topic": target.topic, "qos": target.qos});
    if !target.headers.is_empty() {
        action["headers"] = wire_headers(&target.headers);
    }
    json!({ "republish": action })
}

fn wire_put(role: &str, put: &Put) -> Value {
    match put {
        Put::Object { bucket, key } => {
            json!({ "s3": {"roleArn": role, "bucketName": bucket, "key": key} })
        }
        Put::LogEvent { group, batch_mode } => json!({ "cloudwatchLogs": {
            "roleArn": role,
            "logGroupName": group,
            "batchMode": batch_mode,
        }}),
        Put::Http { url, headers } => {
            let headers = headers.iter().map(|(key, value)| json!({"key": key, "value": value}));
            json!({ "http": {"url": url, "headers": headers.collect::<Vec<_>>()} })
        }
        Put::Metric { namespace, name, value, unit, timestamp } => {
            compact(json!({ "cloudwatchMetric": {
                "roleArn": role,
                "metricNamespace": namespace,
                "metricName": name,
                "metricValue": value,
                "metricUnit": unit,
                "metricTimestamp": timestamp,
            }}))
        }
    }
}

fn wire_headers(headers: &Headers) -> Value {
    let user = headers.user_properties.iter();
    let user: Vec<Value> = user.map(|(key, value)| json!({"key": key, "value": value})).collect();
    compact(json!({
        "payloadFormatIndicator": headers.payload_format_indicator,
        "contentType": headers.content_type,
        "responseTopic": headers.response_topic,
        "correlationData": headers.correlation_data,
        "messageExpiry": headers.message_expiry,
        "userProperties": if user.is_empty() { Value::Null } else { Value::Array(user) },
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ListTopicRules {
    topic: Option<String>,
    max_results: Option<usize>,
    next_token: Option<String>,
    rule_disabled: Option<bool>,
}

fn filter_of(row: &RuleRow) -> Option<TopicFilter> {
    let sql = rules::Sql::parse(&row.current()?.sql).ok()?;
    sql.topic_filter().cloned()
}

/// `topic` lists the rules that a message on it would reach, or whose pattern it is.
pub(super) async fn list_topic_rules(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ListTopicRules = call.input()?;
    let disabled =
        |row: &RuleRow| row.current().is_some_and(|version| version.state == RuleState::Disabled);
    let mut rows: Vec<(RuleRow, Option<TopicFilter>)> =
        rooms.rules.list().into_iter().map(|row| (row.clone(), filter_of(&row))).collect();
    rows.retain(|(row, filter)| {
        let of_state = input.rule_disabled.is_none_or(|wanted| wanted == disabled(row));
        let of_topic = input.topic.as_deref().is_none_or(|topic| {
            filter.as_ref().is_some_and(|f| f.as_str() == topic || f.matches(topic))
        });
        of_state && of_topic
    });
    let page = Page { token: input.next_token, size: input.max_results };
    let (rows, next) = page.of(rows, |(row, _)| row.name.clone())?;
    let rules: Vec<Value> = rows
        .iter()
        .map(|(row, filter)| {
            json!({
                "ruleArn": rule_arn(rooms, call, &row.name),
                "ruleName": row.name,
                "topicPattern": filter.as_ref().map(TopicFilter::as_str),
                "createdAt": epoch_secs(row.created_at),
                "ruleDisabled": disabled(row),
            })
        })
        .collect();
    Ok(compact(json!({ "rules": rules, "nextToken": next })).into())
}

fn set_enabled(rooms: &Rooms, call: &Call, enabled: bool) -> Outcome {
    let RuleName { name } = call.input()?;
    let (now, durable) = (rooms.clock.now(), || journal::Journal::durable(&*rooms.journal));
    rooms.rules.set_enabled(&name, enabled, now, durable).map_err(rule_fault)?;
    Ok(Reply::empty())
}

pub(super) async fn enable_topic_rule(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    set_enabled(rooms, call, true)
}

pub(super) async fn disable_topic_rule(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    set_enabled(rooms, call, false)
}

/// As on AWS, a rule that is not there is deleted with success.
pub(super) async fn delete_topic_rule(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let RuleName { name } = call.input()?;
    let (now, durable) = (rooms.clock.now(), || journal::Journal::durable(&*rooms.journal));
    match rooms.rules.delete(&name, now, durable) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(rule_fault(error)),
        _ => {}
    }
    rooms.metastore.transact(|transaction| transaction.delete::<Wire>(&name))?;
    tags::forget(rooms, &format!("rule/{name}"))?;
    Ok(Reply::empty())
}
