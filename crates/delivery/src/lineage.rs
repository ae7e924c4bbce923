//! Whence a record comes, written into it for streams that ask for it.
//!
//! ```text
//! {"ozone":3}  -->  {"_log_offset":812,"_device":"station-1","_arrived_at":"2026-11-29T22:10:03.125Z","ozone":3}
//! ```
//!
//! Pure, like all that shapes records: a replay writes the same bytes. What is no JSON object,
//! or has one of these keys already, is delivered as it came: a record is worth more than its
//! lineage, and a key twice would make it unreadable.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base::{MessageRef, Offset, Timestamp};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::partition::json_values;

/// The keys, in their order.
const KEYS: [&str; 3] = ["_log_offset", "_device", "_arrived_at"];

/// The record, each of its JSON objects with the offset and device it came from and when it
/// arrived. `_device` is the client id; it is null for what came by Firehose's own door.
pub(crate) fn added<'r>(
    record: &'r [u8],
    message: &MessageRef<'_>,
    offset: Offset,
) -> Cow<'r, [u8]> {
    let Ok(values) = json_values(record) else { return Cow::Borrowed(record) };
    if !values.iter().all(|value| takes_lineage(value)) {
        return Cow::Borrowed(record);
    }
    let device = match message.client_id {
        "" => Value::Null,
        client => Value::from(client),
    };
    let arrived = Value::from(iso(message.received_at));
    let [offset_key, device_key, arrived_key] = KEYS;
    let stamp = format!(
        "{{\"{offset_key}\":{},\"{device_key}\":{device},\"{arrived_key}\":{arrived}",
        offset.0
    );
    let mut out = Vec::with_capacity(record.len() + values.len() * (stamp.len() + 1));
    for value in values {
        out.extend_from_slice(stamp.as_bytes());
        let rest = &value[1..];
        if !rest.trim_ascii_start().starts_with(b"}") {
            out.push(b',');
        }
        out.extend_from_slice(rest);
    }
    Cow::Owned(out)
}

/// Whether it is an object that has none of the keys yet.
fn takes_lineage(value: &[u8]) -> bool {
    if !value.starts_with(b"{") {
        return false;
    }
    let members = serde_json::from_slice::<BTreeMap<Cow<'_, str>, &RawValue>>(value);
    members.is_ok_and(|members| KEYS.iter().all(|key| !members.contains_key(*key)))
}

/// ISO 8601 in UTC, with milliseconds.
fn iso(at: Timestamp) -> String {
    chrono::DateTime::from_timestamp_millis(at.millis()).map_or_else(
        || at.millis().to_string(),
        |at| at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string(),
    )
}

#[cfg(test)]
mod tests {
    use base::QoS;

    use super::*;

    #[test]
    fn objects_say_whence_they_come_and_all_else_stays() {
        let stamp = "{\"_log_offset\":812,\"_device\":\"s\\\"1\",\"_arrived_at\":\"2026-11-29T00:00:00.005Z\"";
        for (given, expect) in [
            ("{\"a\":1}", format!("{stamp},\"a\":1}}")),
            ("{ }", format!("{stamp} }}")),
            (" {\"a\":{}}\n{\"b\":2}", format!("{stamp},\"a\":{{}}}}{stamp},\"b\":2}}")),
            ("[1]", "[1]".to_owned()),
            ("{\"a\":1} 2", "{\"a\":1} 2".to_owned()),
            ("not json", "not json".to_owned()),
            ("{\"\\u005fdevice\":1}", "{\"\\u005fdevice\":1}".to_owned()),
            ("", String::new()),
        ] {
            let message = MessageRef {
                topic: "t",
                payload: given.as_bytes(),
                client_id: "s\"1",
                principal: "",
                received_at: Timestamp(1_795_910_400_005),
                qos: QoS::AtLeastOnce,
                retain: false,
            };
            let found = added(given.as_bytes(), &message, Offset(812));
            assert_eq!(String::from_utf8_lossy(&found), expect, "{given}");
        }
    }
}
