//! Runs the rules over log records and fills a batch.
//!
//! Pure: what a record gives depends on the record, its offset and the rules in force there.

use base::{MessageRef, Offset};
use rules::{Action, Context, Evaluated, InForce, View, json};

use crate::batch::{Batch, Reason};
use crate::stream::{DIRECT_PUT_PREFIX, StreamRow};

/// Most records that one array is split into (AWS's bound on a batch of puts).
const SPLIT_RECORDS_MAX: usize = 500;

/// Codes of records set aside.
const EVALUATION_FAILED: &str = "Rule.EvaluationFailed";
const NOT_AN_ARRAY: &str = "Rule.BatchNotAnArray";
const TOO_MANY: &str = "Rule.BatchTooLarge";

/// What evaluation needs besides the record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Engine<'e> {
    pub(crate) row: &'e StreamRow,
    pub(crate) log_id: &'e str,
    pub(crate) account_id: &'e str,
}

impl Engine<'_> {
    /// Adds to `batch` what the record at `offset` gives this stream. The batch must end at
    /// `offset`, and afterwards covers it.
    pub(crate) fn take(&self, batch: &mut Batch, offset: Offset, record: &[u8], view: &View) {
        batch.next = offset.plus(1);
        batch.tally.read += 1;
        let (message, extras) = match MessageRef::decode_with(record) {
            Ok(decoded) => decoded,
            Err(error) => {
                // The checksum was right, so these bytes were written by something else.
                tracing::error!(stream = self.row.name, %offset, %error, "log record is not a message");
                batch.skip("undecodable", 1);
                return;
            }
        };
        if let Some(stream) = message.topic.strip_prefix(DIRECT_PUT_PREFIX) {
            if stream == self.row.name {
                batch.tally.matched += 1;
                batch.tally.acted += 1;
                let after = [None, self.row.delimiter.as_deref()];
                batch.push_record(message.payload, after, message.received_at);
            }
            return;
        }
        for rule in view.matching(message.topic, offset) {
            let context = Context {
                offset,
                log_id: self.log_id,
                rule_name: &rule.rule,
                rule_version: rule.version,
                account_id: self.account_id,
                properties: extras.properties,
            };
            self.apply(batch, &message, rule, &context);
        }
    }

    /// Evaluates a rule once and hands its output to each of its actions on this stream.
    fn apply(
        &self,
        batch: &mut Batch,
        message: &MessageRef<'_>,
        rule: &InForce,
        context: &Context<'_>,
    ) {
        // A template that fails names no stream; the republisher reports that.
        let is_mine = |index: usize| match rule.constant_stream(index) {
            Some(stream) => stream == self.row.name,
            None => rule.stream(index, message, context).is_ok_and(|name| name == self.row.name),
        };
        let mine = rule.actions.iter().enumerate().filter_map(|(index, action)| {
            let Action::Firehose { separator, batch_mode, .. } = action;
            is_mine(index).then_some((separator.as_deref(), *batch_mode))
        });
        let mut mine = mine.peekable();
        if mine.peek().is_none() {
            return;
        }
        let offset = context.offset;
        let outcome = rule.sql.evaluate(message, context);
        if outcome == Evaluated::NoMatch {
            return;
        }
        for (separator, batch_mode) in mine {
            batch.tally.matched += 1;
            let after = [separator, self.row.delimiter.as_deref()];
            let records = match &outcome {
                Evaluated::Pass(output) if batch_mode => split(output),
                Evaluated::Pass(output) => Ok(vec![output.as_ref()]),
                Evaluated::Failed { reason } => Err((EVALUATION_FAILED, reason.clone())),
                Evaluated::NoMatch => Ok(Vec::new()),
            };
            match records {
                Ok(records) => {
                    batch.tally.acted += 1;
                    for record in records {
                        batch.push_record(record, after, message.received_at);
                    }
                }
                Err((code, why)) => {
                    let reason = Reason { code, message: &why };
                    batch.push_error(offset, message, (&rule.rule, rule.version), reason);
                }
            }
        }
    }
}

/// The elements of an array, each a record.
pub(crate) fn split(output: &[u8]) -> Result<Vec<&[u8]>, (&'static str, String)> {
    let elements = json::elements(output).ok_or_else(|| {
        (NOT_AN_ARRAY, "batch mode needs an array, the output is something else".to_owned())
    })?;
    if elements.len() > SPLIT_RECORDS_MAX {
        let message = format!(
            "batch mode takes at most {SPLIT_RECORDS_MAX} records, the array has {}",
            elements.len()
        );
        return Err((TOO_MANY, message));
    }
    Ok(elements)
}
