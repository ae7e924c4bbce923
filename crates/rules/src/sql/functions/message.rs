//! Functions that tell about the message, its place in the log, and the rule.
//!
//! Invariant: nothing here asks a clock or a random source. What AWS draws at random is derived
//! from (log id, offset, rule, rule version, number of the call), so that evaluating a record
//! again gives the same bytes.

use base::Properties;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Call;
use crate::base64;
use crate::sql::eval::{Env, Evaluation};
use crate::value::{Number, Object, Value};

/// Forebay's own namespace for derived UUIDs (RFC 9562 section 5.5); drawn once at random.
const NAMESPACE: Uuid = Uuid::from_u128(0x6f0e_bd1b_52a5_4a66_9b0c_2f55_c1c3_70a9);

pub(super) fn account_id(call: &Call<'_>) -> Evaluation<Value> {
    Ok(Value::String(call.env.context.account_id.to_owned()))
}

/// The client identifier, `n/a` when the message did not come over MQTT.
pub(super) fn client_id(call: &Call<'_>) -> Evaluation<Value> {
    let client_id = call.env.message.client_id;
    Ok(Value::String(if client_id.is_empty() { "n/a" } else { client_id }.to_owned()))
}

/// The address that the device connects from; what came another way has none.
pub(super) fn source_ip(call: &Call<'_>) -> Evaluation<Value> {
    let source = call.env.context.source;
    Ok(source.map_or(Value::Undefined, |address| Value::String(address.to_string())))
}

pub(super) fn principal(call: &Call<'_>) -> Evaluation<Value> {
    Ok(Value::String(call.env.message.principal.to_owned()))
}

/// The message's MQTT 5 properties; a message without any has none.
fn properties(call: &Call<'_>) -> Evaluation<Properties> {
    let wire = call.env.context.properties;
    call.env.spend_bytes(wire.len())?;
    Ok(Properties::decode(wire).unwrap_or_default())
}

/// One of the properties that MQTT 5 itself has, by AWS's name for it.
pub(super) fn get_mqtt_property(call: &Call<'_>) -> Evaluation<Value> {
    let properties = properties(call)?;
    let found = match call.text(0).as_deref() {
        Some("format_indicator") => Some(match properties.utf8 {
            Some(true) => "UTF8_DATA".to_owned(),
            _ => "UNSPECIFIED_BYTES".to_owned(),
        }),
        Some("content_type") => properties.content_type,
        Some("response_topic") => properties.response_topic,
        Some("correlation_data") => properties.correlation_data.map(|data| base64::encode(&data)),
        _ => None,
    };
    found.map_or(Ok(Value::Undefined), |text| call.env.text(text))
}

/// The values of a user property, in an array since a name may come more than once; without a
/// name all of them, each an object of one member.
pub(super) fn get_user_properties(call: &Call<'_>) -> Evaluation<Value> {
    let user = properties(call)?.user;
    call.env.spend(user.len())?;
    if call.args.is_empty() {
        let pairs = user.into_iter().map(|(name, value)| {
            let mut pair = Object::default();
            pair.insert(&name, Value::String(value));
            Value::Object(pair)
        });
        return Ok(Value::Array(pairs.collect()));
    }
    let Some(wanted) = call.text(0) else { return Ok(Value::Undefined) };
    let values = user.into_iter().filter(|(name, _)| *name == wanted);
    let values: Vec<Value> = values.map(|(_, value)| Value::String(value)).collect();
    Ok(if values.is_empty() { Value::Undefined } else { Value::Array(values) })
}

pub(super) fn timestamp(call: &Call<'_>) -> Evaluation<Value> {
    Ok(Value::Int(call.env.message.received_at.millis().into()))
}

pub(super) fn sql_version(_: &Call<'_>) -> Evaluation<Value> {
    Ok(Value::String("2016-03-23".to_owned()))
}

/// The topic or, counted from 1, one of its levels; the basic-ingest prefix is not part of it.
pub(super) fn topic(call: &Call<'_>) -> Evaluation<Value> {
    let topic = crate::book::without_basic_ingest(call.env.message.topic);
    if call.args.is_empty() {
        return Ok(Value::String(topic.to_owned()));
    }
    let level = call.number(0).and_then(Number::trunc).and_then(|n| usize::try_from(n - 1).ok());
    let level = level.and_then(|index| topic.split('/').nth(index));
    Ok(level.map_or(Value::Undefined, |level| Value::String(level.to_owned())))
}

pub(super) fn new_uuid(call: &Call<'_>) -> Evaluation<Value> {
    let name = format!("uuid/{}", identity(call.env));
    Ok(Value::String(Uuid::new_v5(&NAMESPACE, name.as_bytes()).to_string()))
}

/// One per message, the same for every rule; undefined when it did not come over MQTT.
pub(super) fn trace_id(call: &Call<'_>) -> Evaluation<Value> {
    if call.env.message.client_id.is_empty() {
        return Ok(Value::Undefined);
    }
    Ok(Value::String(trace_id_of(call.env.context.log_id, call.env.context.offset)))
}

/// The trace id of the record at an offset of a log.
pub fn trace_id_of(log_id: &str, offset: base::Offset) -> String {
    let name = format!("trace/{log_id}/{offset}");
    Uuid::new_v5(&NAMESPACE, name.as_bytes()).to_string()
}

/// A number in 0..1 with 53 bits, drawn from the record's identity.
pub(super) fn rand(call: &Call<'_>) -> Evaluation<Value> {
    let digest = Sha256::digest(format!("rand/{}", identity(call.env)));
    let bits = digest.iter().take(8).fold(0_u64, |bits, byte| (bits << 8) | u64::from(*byte));
    Ok(Value::decimal((bits >> 11) as f64 / (1_u64 << 53) as f64))
}

/// What makes this call of this evaluation different from every other.
fn identity(env: &Env<'_>) -> String {
    let context = env.context;
    format!(
        "{}/{}/{}/{}/{}",
        context.log_id,
        context.offset,
        context.rule_name,
        context.rule_version,
        env.next_draw()
    )
}
