//! Why something happened, or did not: what every stage decided about a message, in order, and
//! what a client was refused.

use base::{Error, ErrorKind, MessageRef, Offset, Result};
use journal::Journal;
use rules::{Context, Evaluated, InForce, RuleState, View};
use serde_json::{Value, json};

use crate::Node;
use crate::admin::{Named, read};

/// Bytes of log read to find one record.
const READ_BYTES: usize = 1;

/// A client's session, if it has one, and what it was refused, newest last.
pub(crate) fn client(node: &Node, input: Value) -> Result<Value> {
    let Named { name } = read(input)?;
    let (session, refusals) = node.broker()?.why(&name);
    Ok(json!({"client_id": name, "session": session, "refusals": refusals}))
}

/// What became of the message at an offset of the log: which rules looked at it and what they
/// decided, which streams took it and where it lies.
pub(crate) fn message(node: &Node, input: Value) -> Result<Value> {
    let Named { name } = read(input)?;
    let offset = offset_of(node, &name)?;
    let log = &node.journal;
    let durable = log.durable();
    if offset >= durable {
        return Err(Error::not_found(format!(
            "there is no message {offset} yet; the next one will be message {durable}"
        )));
    }
    if offset < log.first() {
        return passed(node, offset);
    }
    let records = log.read(offset, READ_BYTES)?;
    let record = records.items.first().filter(|(found, _)| *found == offset);
    let Some((_, record)) = record else {
        let reason = records.skipped.first().map(|gap| format!("{:?}", gap.reason).to_lowercase());
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("message {offset} cannot be read any more: {}", reason.unwrap_or_default()),
        ));
    };
    let (message, extras) = MessageRef::decode_with(record)?;
    // The view that a stream would take now: every rule version that may still apply.
    let view = node.rules.view(|| durable);
    let context = |rule: &InForce| -> (String, u64) { (rule.rule.clone(), rule.version) };
    let matching = view.matching(message.topic, offset);
    let mut rules = Vec::new();
    for rule in view.rules().filter(|rule| rule.applies_at(offset)) {
        let (name, version) = context(rule);
        let mut shown = json!({"rule": name, "version": version, "sql": rule.sql.text()});
        if matching.iter().any(|found| found.rule == rule.rule) {
            let context = Context {
                offset,
                log_id: log.id(),
                rule_name: &name,
                rule_version: version,
                account_id: &node.settings.aws.account_id,
                properties: extras.properties,
                source: extras.source,
            };
            decide(&mut shown, rule, &message, &context);
        } else {
            let filter = rule.sql.topic_filter().map(ToString::to_string);
            shown["decision"] = json!("not_selected");
            shown["why"] = json!(match filter {
                Some(filter) => format!("topic {:?} does not match FROM {filter:?}", message.topic),
                None => format!("without FROM it takes only $aws/rules/{name}"),
            });
        }
        rules.push(shown);
    }
    rules.extend(disabled(node, offset));
    let done = node.streams.republished_below()? > offset;
    Ok(json!({
        "offset": offset,
        "message": {
            "topic": message.topic,
            "client_id": message.client_id,
            "principal": message.principal,
            "received_at": message.received_at,
            "qos": message.qos as u8,
            "retain": message.retain,
            "payload_bytes": message.payload.len(),
        },
        "in_log": true,
        "rules": rules,
        "streams": fates(node, offset, record, &view)?,
        "other_actions": if done { "done" } else { "waiting" },
    }))
}

/// An offset, or the record id that a put was answered with.
fn offset_of(node: &Node, id: &str) -> Result<Offset> {
    let (log, digits) = match id.rsplit_once('-') {
        Some((log, digits)) => (Some(log), digits),
        None => (None, id),
    };
    if let Some(other) = log.filter(|log| *log != node.journal.id()) {
        return Err(Error::not_found(format!(
            "{id:?} is of log {other:?}; this server's log is {:?}",
            node.journal.id()
        )));
    }
    digits.parse().map(Offset).map_err(|_not_a_number| {
        Error::invalid(format!(
            "message {id:?}: give its offset, as `forebay tail` and error records show it, or \
             the RecordId of a put"
        ))
    })
}

/// The log has let go of it, since every stream had passed it: only where it lies is known.
fn passed(node: &Node, offset: Offset) -> Result<Value> {
    let mut streams = Vec::new();
    for row in node.streams.list()? {
        let objects = now_in(node, node.streams.objects_around(row.name(), offset)?)?;
        if !objects.is_empty() {
            streams.push(json!({"stream": row.name(), "state": "delivered", "objects": objects}));
        }
    }
    Ok(json!({
        "offset": offset,
        "in_log": false,
        "log_begins_at": node.journal.first(),
        "streams": streams,
    }))
}

/// What a rule that selects the topic makes of the message.
fn decide(shown: &mut Value, rule: &InForce, message: &MessageRef<'_>, context: &Context<'_>) {
    match rule.sql.evaluate(message, context) {
        Evaluated::Pass(output) => {
            shown["decision"] = json!("matched");
            shown["output"] = json!(String::from_utf8_lossy(&output));
        }
        Evaluated::NoMatch => {
            shown["decision"] = json!("where_not_true");
            shown["terms"] = json!(rule.sql.blame(message, context));
        }
        Evaluated::Failed { reason } => {
            shown["decision"] = json!("failed");
            shown["why"] = json!(reason);
        }
    }
    let streams = (0..rule.actions.len()).map(|index| match rule.stream(index, message, context) {
        Ok(stream) => json!({"firehose": stream}),
        Err(why) => json!({"firehose": null, "why": why}),
    });
    let topics = rule.republish.iter().map(|target| json!({"republish": target.given.topic}));
    let puts = rule.puts.iter().map(|target| json!({"put": target.given}));
    shown["actions"] = streams.chain(topics).chain(puts).collect();
}

/// Rules that were switched off when the message came.
fn disabled(node: &Node, offset: Offset) -> Vec<Value> {
    let mut shown = Vec::new();
    for row in node.rules.list() {
        let version = row.versions.iter().rfind(|version| version.from_offset <= offset);
        if let Some(version) = version.filter(|version| version.state == RuleState::Disabled) {
            shown.push(json!({
                "rule": row.name,
                "version": version.version,
                "sql": version.sql,
                "decision": "disabled",
            }));
        }
    }
    shown
}

/// Objects by the names they have now: small ones are joined into larger ones.
fn now_in(node: &Node, objects: Vec<String>) -> Result<Vec<String>> {
    let mut now = Vec::with_capacity(objects.len());
    for object in objects {
        let place = object.strip_prefix("s3://").and_then(|place| place.split_once('/'));
        let Some((bucket, key)) = place else {
            now.push(object);
            continue;
        };
        let mut key = key.to_owned();
        // What was joined may have been joined again.
        while let Some(into) = node.lake.lake.joined_into(bucket, &key)? {
            key = into;
        }
        let joined = format!("s3://{bucket}/{key}");
        if !now.contains(&joined) {
            now.push(joined);
        }
    }
    Ok(now)
}

fn fates(node: &Node, offset: Offset, record: &[u8], view: &View) -> Result<Vec<Value>> {
    let mut fates = Vec::new();
    for row in node.streams.list()? {
        if let Some(mut fate) = node.streams.fate(row.name(), offset, record, view)? {
            fate.objects = now_in(node, fate.objects)?;
            fates.push(json!(fate));
        }
    }
    Ok(fates)
}
