//! A statement tried on the newest messages of the log, before it becomes a rule: what came in
//! beside what it makes of it, or the term of WHERE that decided otherwise.

use base::{Error, Extras, Message, MessageRef, Offset, Result};
use journal::Journal;
use rules::{Context, Evaluated, Sql};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::Node;
use crate::admin::{message_as_json, read};

/// Most messages that are looked back at.
const LAST_MAX: u64 = 1_000_000;
/// Bytes of payloads, outputs and explanations in one answer; beyond, the oldest messages are
/// counted and not shown.
const SHOWN_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Bytes of log read at once.
const READ_BYTES: usize = 1 << 20;
/// What `rulename()` says: the statement has no rule yet.
const NAME: &str = "try";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleTry {
    sql: String,
    last: u64,
}

/// What became of the messages.
#[derive(Default)]
struct Tried {
    shown: std::collections::VecDeque<(usize, Value)>,
    shown_bytes: usize,
    left_out: u64,
    tried: u64,
    passed: u64,
    no_match: u64,
    not_selected: u64,
    failed: u64,
    unreadable: u64,
}

/// Evaluates a statement on the newest messages, before and after side by side.
pub(crate) fn rule_try(node: &Node, input: Value) -> Result<Value> {
    let RuleTry { sql, last } = read(input)?;
    if !(1..=LAST_MAX).contains(&last) {
        return Err(Error::invalid(format!(
            "the last {last} messages cannot be tried: give 1 to {LAST_MAX}"
        )));
    }
    let sql = Sql::parse(&sql)?;
    let end = node.journal.durable();
    let mut at = Offset(end.0.saturating_sub(last)).max(node.journal.first());
    let from = at;
    let mut tried = Tried::default();
    while at < end {
        let records = node.journal.read(at, READ_BYTES)?;
        tried.unreadable += records.skipped.iter().map(|gap| gap.to.0 - gap.from.0).sum::<u64>();
        at = records.next;
        for (offset, record) in records.items.iter().filter(|(offset, _)| *offset < end) {
            match (Message::decode(record), MessageRef::decode_with(record)) {
                (Ok(message), Ok((_, extras))) => {
                    tried.look(node, &sql, *offset, &message, &extras);
                }
                _ => tried.unreadable += 1,
            }
        }
    }
    Ok(json!({
        "from_offset": from,
        "tried": tried.tried,
        "passed": tried.passed,
        "no_match": tried.no_match,
        "not_selected": tried.not_selected,
        "failed": tried.failed,
        "unreadable": tried.unreadable,
        "left_out": tried.left_out,
        "results": tried.shown.into_iter().map(|(_, row)| row).collect::<Vec<_>>(),
    }))
}

impl Tried {
    fn look(
        &mut self,
        node: &Node,
        sql: &Sql,
        offset: Offset,
        message: &Message,
        extras: &Extras<'_>,
    ) {
        self.tried += 1;
        // Without FROM any message may come, by way of basic ingest.
        if sql.topic_filter().is_some_and(|filter| !filter.matches(&message.topic)) {
            self.no_match += 1;
            self.not_selected += 1;
            return;
        }
        let context = Context {
            offset,
            log_id: node.journal.id(),
            rule_name: NAME,
            rule_version: 0,
            account_id: &node.settings.aws.account_id,
            properties: extras.properties,
            source: extras.source,
        };
        let mut row = message_as_json(offset, message);
        match sql.evaluate(&message.as_ref(), &context) {
            Evaluated::Pass(output) => {
                self.passed += 1;
                row["outcome"] = json!("pass");
                row["output"] = json!(String::from_utf8_lossy(&output));
            }
            Evaluated::NoMatch => {
                self.no_match += 1;
                row["outcome"] = json!("no_match");
                row["terms"] = json!(sql.blame(&message.as_ref(), &context));
            }
            Evaluated::Failed { reason } => {
                self.failed += 1;
                row["outcome"] = json!("failed");
                row["reason"] = json!(reason);
            }
        }
        self.show(row);
    }

    /// Keeps a row among those shown, and of all the newest.
    fn show(&mut self, row: Value) {
        let bytes = row.to_string().len();
        self.shown_bytes += bytes;
        self.shown.push_back((bytes, row));
        while self.shown_bytes > SHOWN_BYTES_MAX && self.shown.len() > 1 {
            let Some((bytes, _)) = self.shown.pop_front() else { return };
            self.shown_bytes -= bytes;
            self.left_out += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_left_out_from_the_oldest_on() {
        let mut tried = Tried::default();
        let payload = "x".repeat(SHOWN_BYTES_MAX / 3);
        for offset in 0..5 {
            tried.show(json!({"offset": offset, "payload": payload}));
        }
        let shown: Vec<&Value> = tried.shown.iter().map(|(_, row)| &row["offset"]).collect();
        assert_eq!(shown, [&json!(3), &json!(4)]);
        assert_eq!(tried.left_out, 3);
        // One that is longer than everything is shown all the same.
        tried.show(json!({"offset": 5, "payload": "x".repeat(SHOWN_BYTES_MAX)}));
        assert_eq!(tried.shown.len(), 1);
    }
}
