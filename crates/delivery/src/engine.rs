//! Runs the rules over log records and fills a batch.
//!
//! Pure: what a record gives depends on the record, its offset and the rules in force there.

use base::{MessageRef, Offset};
use rules::{Action, Context, Evaluated, InForce, View, json};

use crate::batch::{Batch, Reason, Source};
use crate::lineage;
use crate::partition::{Query, apart, json_values};
use crate::prefix::{Failure, Kind, Prefixes};
use crate::stream::{DIRECT_PUT_PREFIX, StreamRow, UNDECODABLE};

/// Most records that one array is split into (AWS's bound on a batch of puts).
const SPLIT_RECORDS_MAX: usize = 500;

/// Codes of records set aside.
const EVALUATION_FAILED: &str = "Rule.EvaluationFailed";
const NOT_AN_ARRAY: &str = "Rule.BatchNotAnArray";
const TOO_MANY: &str = "Rule.BatchTooLarge";
const NOT_APART: &str = "DynamicPartitioning.DeaggregationFailed";
const NO_KEYS: &str = "DynamicPartitioning.MetadataExtractionFailed";
const NO_FOLDER: &str = "DynamicPartitioning.InvalidS3Prefix";
const NOT_JSON: &str = "DataFormatConversion.ParseError";

/// What evaluation needs besides the record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Engine<'e> {
    pub(crate) row: &'e StreamRow,
    pub(crate) prefixes: &'e Prefixes,
    /// The query of partition keys, where records are partitioned.
    pub(crate) query: Option<&'e Query>,
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
                tracing::error!(stream = self.row.name(), %offset, %error, "log record is not a message");
                batch.skip(UNDECODABLE, 1);
                return;
            }
        };
        if let Some(stream) = message.topic.strip_prefix(DIRECT_PUT_PREFIX) {
            if stream == self.row.name() {
                let origin = Origin { message: &message, rule: None, separator: None };
                let matched = batch.begin_match();
                let source = Source { offset, at: message.received_at, matched, part: 0 };
                self.deliver(batch, message.payload, &origin, source);
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
                source: extras.source,
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
            Some(stream) => stream == self.row.name(),
            None => rule.stream(index, message, context).is_ok_and(|name| name == self.row.name()),
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
            let matched = batch.begin_match();
            let mut source = Source { offset, at: message.received_at, matched, part: 0 };
            let origin = Origin { message, rule: Some((&rule.rule, rule.version)), separator };
            let records = match &outcome {
                Evaluated::Pass(output) if batch_mode => split(output),
                Evaluated::Pass(output) => Ok(vec![output.as_ref()]),
                Evaluated::Failed { reason } => Err((EVALUATION_FAILED, reason.clone())),
                Evaluated::NoMatch => Ok(Vec::new()),
            };
            match records {
                Ok(records) => {
                    for record in records {
                        self.deliver(batch, record, &origin, source);
                        source.part += 1;
                    }
                }
                Err((code, why)) => {
                    let reason = Reason { failure: Failure::Processing, code, message: &why };
                    batch.push_error(message.payload, message, origin.rule, source, reason);
                }
            }
        }
    }

    /// Takes a record through what the stream does with it, in Firehose's order: it is kept as
    /// it came, taken apart, partitioned, and made ready for conversion.
    fn deliver(&self, batch: &mut Batch, record: &[u8], origin: &Origin<'_>, source: Source) {
        let settings = &self.row.settings;
        if settings.backup.is_some() {
            batch.push_backup(record, origin.separator, source.at);
        }
        let set_aside = |batch: &mut Batch, raw: &[u8], (code, why): (&'static str, String)| {
            let reason = Reason { failure: Failure::Partitioning, code, message: &why };
            batch.push_error(raw, origin.message, origin.rule, source, reason);
        };
        let pieces = match apart(settings.deaggregation.as_ref(), record) {
            Ok(pieces) => pieces,
            Err(why) => return set_aside(batch, record, (NOT_APART, why)),
        };
        for piece in pieces {
            match self.partition(batch, piece) {
                Ok(values) => self.place(batch, values, piece, origin, source),
                Err(why) => set_aside(batch, piece, why),
            }
        }
    }

    /// The values of the partition keys, if they make a key that a bucket takes.
    fn partition(
        &self,
        batch: &Batch,
        piece: &[u8],
    ) -> Result<Vec<String>, (&'static str, String)> {
        let Some(query) = self.query else { return Ok(Vec::new()) };
        let values = query.values(piece).map_err(|why| (NO_KEYS, why))?;
        let kind = Kind::Records(values);
        if !batch.has(&kind) {
            let folder = self.prefixes.folder(&kind);
            // What is appended has no slash, so the folder decides.
            let checked = folder.and_then(|folder| objects::check_key(&format!("{folder}x")));
            checked.map_err(|error| (NO_FOLDER, error.to_string()))?;
        }
        let Kind::Records(values) = kind else { return Ok(Vec::new()) };
        Ok(values)
    }

    fn place(
        &self,
        batch: &mut Batch,
        values: Vec<String>,
        piece: &[u8],
        origin: &Origin<'_>,
        source: Source,
    ) {
        let settings = &self.row.settings;
        let with_lineage;
        let piece = if settings.lineage {
            with_lineage = lineage::added(piece, origin.message, source.offset);
            with_lineage.as_ref()
        } else {
            piece
        };
        let Some(conversion) = &settings.conversion else {
            let after = [origin.separator, settings.delimiter.as_deref()];
            return batch.push_record(values, piece, after, source);
        };
        let objects = json_values(piece).and_then(|objects| {
            match objects.iter().find(|object| !object.starts_with(b"{")) {
                Some(_) => Err("only JSON objects become rows".to_owned()),
                None => Ok(objects),
            }
        });
        match objects {
            Ok(objects) => {
                for object in objects {
                    batch.push_row(values.clone(), object, source);
                }
            }
            Err(why) => batch.push_unconverted(piece, source, conversion, (NOT_JSON, &why)),
        }
    }
}

/// What a record came from, as far as records have it in common.
#[derive(Clone, Copy, Debug)]
struct Origin<'m> {
    message: &'m MessageRef<'m>,
    rule: Option<(&'m str, u64)>,
    separator: Option<&'m str>,
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
