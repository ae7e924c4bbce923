//! Republishing: outputs of rules, and reports of failed actions, back into the log; and putting
//! them elsewhere, as an object, a log event or a measurement, or with an HTTP request.
//!
//! Two workers follow the log for all rules, each with a cursor of its own: one for what stays
//! on this machine and one for what waits for other people's, so that these delay nothing here.
//! A cursor moves once what its worker appended is durable. What it appends names rule, origin
//! and action in its principal (`rule/NAME/ORIGIN/ACTION/HOPS`), so that after a crash it finds
//! what it had appended beyond its cursor and does not append it twice.
//!
//! What is put elsewhere is put before the cursor moves, so after a crash it may be put again.
//!
//! A message that was republished may match again. After [`HOPS_MAX`] rounds it is dropped with
//! a warning, so that a rule that feeds itself ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base::{Error, ErrorKind, Extras, MessageRef, Offset, QoS, Result};
use bytes::Bytes;
use journal::Batch;
use metastore::Row;
use rules::{
    Action, Context, ErrorTarget, Evaluated, Filled, InForce, Put, PutTarget, Target, View, base64,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::engine::split;
use crate::live::Live;
use crate::stream::{DIRECT_PUT_PREFIX, StreamRow};
use crate::worker::Shared;

/// How often one message may be republished in a chain.
pub const HOPS_MAX: u32 = 8;

/// Largest payload of a message, AWS's bound.
const PAYLOAD_BYTES_MAX: usize = 128 * 1024;

/// How many HTTP requests are sent between two moves of the cursor, and how many at a time.
const POSTS_MAX: usize = 64;
const POSTS_AT_ONCE: usize = 16;

/// How often something that may pass is tried before the action has failed.
const ATTEMPTS_MAX: u32 = 4;

const IDLE_WAIT: Duration = Duration::from_millis(100);

/// How long it looks away while no rule asks for anything.
const GATHER: Duration = Duration::from_millis(20);

/// A cursor that passed nothing of its own is stored this often.
const ADVANCE_EVERY: Duration = Duration::from_secs(10);
const ADVANCE_OFFSETS: u64 = 100_000;

const PRINCIPAL: &str = "rule/";

/// The action's place in a principal for reports of failures, by the worker that saw them.
const REPORT: usize = usize::MAX;
const FAR_REPORT: usize = usize::MAX - 1;

/// Which actions a worker carries out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Those that this machine carries out alone.
    Near,
    /// Those that wait for another one.
    Far,
}

impl Lane {
    pub(crate) const ALL: [Lane; 2] = [Lane::Near, Lane::Far];

    /// The worker's name, as a consumer of the log and as the key of its state.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Lane::Near => "republish",
            Lane::Far => "http",
        }
    }

    fn report(self) -> usize {
        match self {
            Lane::Near => REPORT,
            Lane::Far => FAR_REPORT,
        }
    }

    /// Bytes of log read at once.
    fn read_bytes(self) -> usize {
        match self {
            Lane::Near => 256 * 1024,
            Lane::Far => 32 * 1024,
        }
    }

    /// Whether a rule may have something for it, or an action that fails.
    fn concerns(self, rule: &InForce, streams: &BTreeMap<String, Offset>) -> bool {
        if self == Lane::Far {
            return rule.puts.iter().any(|put| put.given.is_far());
        }
        let missing = |action| {
            rule.constant_stream(action).is_none_or(|stream| !streams.contains_key(stream))
        };
        !rule.republish.is_empty()
            || rule.puts.iter().any(|put| !put.given.is_far())
            || rule.on_error.is_some()
            || (0..rule.actions.len()).any(missing)
    }
}

/// What republishing did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepublishTotals {
    /// Outputs published.
    pub outputs: u64,
    /// Reports of failed actions published.
    pub reports: u64,
    /// Actions that failed, with or without a report.
    pub failures: u64,
    /// Messages dropped because they went round too often.
    pub looped: u64,
    /// Log records that were gone or damaged when a worker came to them. Each worker counts.
    #[serde(default)]
    pub lost: u64,
}

/// How far republishing has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RepublishState {
    pub(crate) log_id: String,
    /// Everything below is done.
    pub(crate) next: Offset,
    pub(crate) totals: RepublishTotals,
}

impl Row for RepublishState {
    const TABLE: &'static str = "republish_state";
}

pub(crate) fn state_of(shared: &Shared, lane: Lane) -> Result<Option<RepublishState>> {
    Ok(shared.store.get::<RepublishState>(lane.name())?.map(|versioned| versioned.row))
}

/// An action that failed on one message.
struct Failure {
    action: &'static str,
    resource: String,
    message: String,
}

/// What one read of the log gives.
#[derive(Default)]
struct Output {
    batch: Batch,
    totals: RepublishTotals,
}

/// An output that is to be posted.
struct Job<'a> {
    at: At<'a>,
    result: Bytes,
    hops: u32,
}

/// A worker. At most one of a lane runs on a log.
pub(crate) struct Republisher {
    lane: Lane,
    shared: Arc<Shared>,
    live: Arc<Live>,
    state: RepublishState,
    position: Offset,
    /// Found beyond the cursor at the start: appended by an earlier run.
    done: BTreeSet<(String, u64, usize)>,
    advanced_at: Instant,
    holds_log: bool,
}

impl Republisher {
    /// Finds out where an earlier run ended. A log that is another one begins at its end.
    pub(crate) fn new(lane: Lane, shared: Arc<Shared>, live: Arc<Live>) -> Result<Republisher> {
        let (log_id, durable) = (shared.journal.id().to_owned(), shared.journal.durable());
        let state = match state_of(&shared, lane)? {
            Some(state) if state.log_id == log_id && state.next <= durable => state,
            found => {
                if let Some(found) = &found {
                    tracing::error!(
                        log = found.log_id, next = %found.next,
                        "republishing stood in a log that is gone; it begins at this one's end"
                    );
                }
                let totals = found.map(|found| found.totals).unwrap_or_default();
                RepublishState { log_id, next: durable, totals }
            }
        };
        let holds_log = shared.journal.committed(lane.name())?.is_some();
        live.change(|live| live.next = state.next);
        let mut republisher = Republisher {
            lane,
            position: state.next,
            shared,
            live,
            state,
            done: BTreeSet::new(),
            advanced_at: Instant::now(),
            holds_log,
        };
        republisher.look_ahead(durable)?;
        republisher.store(RepublishTotals::default())?;
        Ok(republisher)
    }

    /// Notes what an earlier run appended and did not come to count.
    fn look_ahead(&mut self, until: Offset) -> Result<()> {
        let mut at = self.state.next;
        while at < until {
            let records = self.shared.journal.read(at, self.lane.read_bytes())?;
            if records.next <= at {
                break;
            }
            at = records.next;
            for (_, record) in &records.items {
                if let Ok(message) = MessageRef::decode(record)
                    && let Some(origin) = Origin::read(message.principal)
                    && origin.offset >= self.state.next
                {
                    self.done.insert((origin.rule.to_owned(), origin.offset.0, origin.action));
                }
            }
        }
        Ok(())
    }

    /// Works until told to stop.
    pub(crate) fn run(mut self) {
        let mut attempts = 0;
        while !self.live.lock().stop {
            match self.turn() {
                Ok(any) => {
                    if attempts > 0 {
                        attempts = 0;
                        self.live.change(|state| state.retrying = None);
                    }
                    if !any {
                        self.idle();
                    }
                }
                Err(error) => {
                    let pause = self.shared.backoff.pause(attempts, 0);
                    attempts += 1;
                    tracing::warn!(attempts, %error, ?pause, "failed to republish; tried again");
                    self.live.change(|state| state.retrying = Some(error.to_string()));
                    self.live.wait(pause, |state| state.stop);
                }
            }
        }
        if self.position > self.state.next
            && let Err(error) = self.store(RepublishTotals::default())
        {
            tracing::warn!(%error, "failed to store how far republishing came");
        }
        self.live.change(|state| state.stopped = true);
    }

    fn idle(&self) {
        let started = Instant::now();
        let durable = self.shared.journal.wait_durable(self.position, IDLE_WAIT);
        if durable <= self.position {
            // A log that failed answers at once; do not spin on it.
            let left = IDLE_WAIT.saturating_sub(started.elapsed());
            self.live.wait(left, |state| state.stop);
        }
    }

    /// Looks at the records there are, at most one read of them. Says whether there were any.
    fn turn(&mut self) -> Result<bool> {
        let view = {
            let journal = &self.shared.journal;
            self.shared.rules.view(|| journal.durable())
        };
        if self.position >= view.until {
            return Ok(false);
        }
        let streams = self.streams()?;
        let concerned = view.rules().any(|rule| self.lane.concerns(rule, &streams));
        self.hold_log(concerned)?;
        if !concerned {
            self.position = view.until;
            self.settle()?;
            // Nobody waits for this: look again when more has come together.
            self.live.wait(GATHER, |state| state.stop);
            return Ok(true);
        }
        let records = self.shared.journal.read(self.position, self.lane.read_bytes())?;
        if records.next <= self.position {
            let message = format!("the log gave nothing from offset {} on", self.position);
            return Err(Error::internal(message));
        }
        let mut output = Output::default();
        let mut next = records.next.min(view.until);
        let mut jobs = Vec::new();
        for (offset, record) in records.items.iter().filter(|(offset, _)| *offset < view.until) {
            for at in self.concerned(*offset, record, &view, &streams) {
                let Some((result, hops)) = self.passes(&at, &mut output)? else { continue };
                match self.lane {
                    Lane::Near => self.apply(&at, &result, hops, &mut output)?,
                    Lane::Far => jobs.push(Job { at, result, hops }),
                }
            }
            if jobs.len() >= POSTS_MAX {
                next = Offset(offset.0 + 1);
                break;
            }
        }
        self.post(&jobs, &mut output)?;
        for gap in records.skipped.iter().filter(|gap| gap.from < next) {
            let to = gap.to.min(next);
            tracing::error!(
                worker = self.lane.name(), from = %gap.from, %to, reason = ?gap.reason,
                "log records are lost to rules that republish or put"
            );
            output.totals.lost += to.0 - gap.from.0;
        }
        self.finish(&output, next)?;
        Ok(true)
    }

    /// Every stream with the first offset it looks at.
    fn streams(&self) -> Result<BTreeMap<String, Offset>> {
        let rows = self.shared.store.list::<StreamRow>()?;
        Ok(rows.into_iter().map(|(name, row)| (name, row.created_from)).collect())
    }

    /// The log keeps what this has not passed only while a rule asks for it.
    fn hold_log(&mut self, hold: bool) -> Result<()> {
        if hold && !self.holds_log {
            self.shared.journal.commit(self.lane.name(), self.position)?;
        } else if !hold && self.holds_log {
            self.shared.journal.forget(self.lane.name())?;
        }
        self.holds_log = hold;
        Ok(())
    }

    /// The rules that a record concerns, each with what there was when it arrived.
    fn concerned<'a>(
        &'a self,
        offset: Offset,
        record: &'a [u8],
        view: &'a View,
        streams: &'a BTreeMap<String, Offset>,
    ) -> Vec<At<'a>> {
        let Ok((message, extras)) = MessageRef::decode_with(record) else { return Vec::new() };
        if message.topic.starts_with(DIRECT_PUT_PREFIX) {
            return Vec::new();
        }
        let matching = view.matching(message.topic, offset).into_iter();
        let all = matching.map(|rule| {
            let context = Context {
                offset,
                log_id: self.shared.journal.id(),
                rule_name: &rule.rule,
                rule_version: rule.version,
                account_id: &self.shared.account_id,
                properties: extras.properties,
                source: extras.source,
            };
            At { message, streams, rule, context }
        });
        let misses = |at: &At<'_>| (0..at.rule.actions.len()).any(|a| at.miss(a).is_some());
        all.filter(|at| {
            self.lane.concerns(at.rule, streams) || (self.lane == Lane::Near && misses(at))
        })
        .collect()
    }

    /// What a rule makes of a record, and how often that has been round then.
    fn passes(&self, at: &At<'_>, output: &mut Output) -> Result<Option<(Bytes, u32)>> {
        let hops = Origin::read(at.message.principal).map_or(0, |origin| origin.hops) + 1;
        let result = match at.rule.sql.evaluate(&at.message, &at.context) {
            Evaluated::Pass(result) => result,
            Evaluated::NoMatch => return Ok(None),
            Evaluated::Failed { reason } if hops <= HOPS_MAX => {
                self.set_aside(at, hops, reason, output)?;
                return Ok(None);
            }
            Evaluated::Failed { .. } => return Ok(None),
        };
        if hops <= HOPS_MAX {
            return Ok(Some((result, hops)));
        }
        if self.lane == Lane::Near {
            tracing::warn!(
                rule = at.rule.rule, offset = %at.context.offset, topic = at.message.topic,
                "a message was republished {HOPS_MAX} times and is not any more"
            );
            output.totals.looped += 1;
        }
        Ok(None)
    }

    /// A statement that fails on a message: a stream of the rule sets it aside, with the reason.
    /// Where there is none it is reported as a failed action would be, which AWS does not do: here
    /// nothing disappears.
    fn set_aside(&self, at: &At<'_>, hops: u32, reason: String, output: &mut Output) -> Result<()> {
        let rule = at.rule;
        let missed = (0..rule.actions.len()).filter(|action| at.miss(*action).is_some()).count();
        let near = Lane::Near.concerns(rule, at.streams) || missed > 0;
        // One of the two workers says it.
        if missed < rule.actions.len() || (near && self.lane == Lane::Far) {
            return Ok(());
        }
        let resource = rule.rule.clone();
        let failure = Failure { action: "RuleEvaluation", resource, message: reason };
        self.tell(at, hops, &[failure], output)
    }

    /// Carries out what this machine does alone.
    fn apply(&self, at: &At<'_>, result: &[u8], hops: u32, output: &mut Output) -> Result<()> {
        let (rule, offset) = (at.rule, at.context.offset);
        let mut failures = at.failures(result);
        for put in rule.puts.iter().filter(|put| !put.given.is_far()) {
            match self.put(at, put, result) {
                Ok(()) => output.totals.outputs += 1,
                Err(failure) => failures.push(failure),
            }
        }
        for (index, target) in rule.republish.iter().enumerate() {
            let origin = Origin { rule: &rule.rule, offset, action: index, hops };
            match self.push(&origin, (at, target), result, output)? {
                Ok(pushed) => output.totals.outputs += u64::from(pushed),
                Err(failure) => failures.push(failure),
            }
        }
        self.tell(at, hops, &failures, output)
    }

    /// Posts what is to be posted, several at a time, and waits for all of it.
    fn post(&self, jobs: &[Job<'_>], output: &mut Output) -> Result<()> {
        let (next, outcomes) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = || {
            while let Some((at, job)) = {
                let at = next.fetch_add(1, Ordering::Relaxed);
                jobs.get(at).map(|job| (at, job))
            } {
                let far = job.at.rule.puts.iter().filter(|put| put.given.is_far());
                let failed: Vec<Option<Failure>> =
                    far.map(|put| self.put(&job.at, put, &job.result).err()).collect();
                outcomes.lock().unwrap_or_else(PoisonError::into_inner).push((at, failed));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..jobs.len().min(POSTS_AT_ONCE) {
                scope.spawn(work);
            }
            work();
        });
        let mut outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
        outcomes.sort_by_key(|(at, _)| *at);
        for (job, (_, failed)) in jobs.iter().zip(outcomes) {
            output.totals.outputs += failed.iter().filter(|failed| failed.is_none()).count() as u64;
            let failures: Vec<Failure> = failed.into_iter().flatten().collect();
            self.tell(&job.at, job.hops, &failures, output)?;
        }
        Ok(())
    }

    /// Counts what failed and has it reported.
    fn tell(
        &self,
        at: &At<'_>,
        hops: u32,
        failures: &[Failure],
        output: &mut Output,
    ) -> Result<()> {
        let (rule, offset) = (at.rule, at.context.offset);
        if failures.is_empty() {
            return Ok(());
        }
        output.totals.failures += failures.len() as u64;
        for failure in failures {
            tracing::debug!(
                rule = rule.rule, %offset, resource = failure.resource,
                message = failure.message, "an action failed"
            );
        }
        if let Some(target) = &rule.on_error {
            let report = self.report(at, failures).to_string();
            let action = self.lane.report();
            let origin = Origin { rule: &rule.rule, offset, action, hops };
            match self.push_report(&origin, (at, target), &report, output)? {
                Ok(pushed) => output.totals.reports += u64::from(pushed),
                Err(Failure { resource, message, .. }) => {
                    tracing::warn!(
                        rule = rule.rule, %offset, resource, message,
                        "a failed action cannot be reported"
                    );
                }
            }
        }
        Ok(())
    }

    /// Hands a report to the rule's error action; says whether it was not handed before.
    fn push_report(
        &self,
        origin: &Origin<'_>,
        (at, target): (&At<'_>, &ErrorTarget),
        report: &str,
        output: &mut Output,
    ) -> Result<std::result::Result<bool, Failure>> {
        match target {
            ErrorTarget::Republish(target) => {
                self.push(origin, (at, target), report.as_bytes(), output)
            }
            ErrorTarget::Put(put) => Ok(self.put(at, put, report.as_bytes()).map(|()| true)),
            ErrorTarget::Firehose { stream, separator } => {
                let fail = |resource: &str, message| {
                    let resource = resource.to_owned();
                    Ok(Err(Failure { action: "FirehoseAction", resource, message }))
                };
                let stream = match stream.fill(&at.rule.sql, &at.message, &at.context) {
                    Ok(stream) => stream,
                    Err(why) => return fail("", why),
                };
                if !at.streams.contains_key(&stream) {
                    let why = format!("delivery stream {stream} does not exist");
                    return fail(&stream, why);
                }
                // As a record put to the stream directly: that goes by way of the log.
                let topic = format!("{DIRECT_PUT_PREFIX}{stream}");
                let record = format!("{report}{}", separator.as_deref().unwrap_or_default());
                self.add(origin, (&topic, QoS::AtLeastOnce, &[]), record.as_bytes(), output).map(Ok)
            }
        }
    }

    /// Puts something outside the log. What may pass is tried a few times.
    fn put(
        &self,
        at: &At<'_>,
        put: &PutTarget,
        payload: &[u8],
    ) -> std::result::Result<(), Failure> {
        let failure = |message: String| Failure {
            action: put.given.action(),
            resource: put.given.resource().to_owned(),
            message,
        };
        let filled = put.fill(&at.rule.sql, &at.message, &at.context).map_err(failure)?;
        let records = match &put.given {
            Put::LogEvent { batch_mode: true, .. } => {
                split(payload).map_err(|(_, why)| failure(why))?
            }
            _ => vec![payload],
        };
        // What is far away is tried again by whoever knows the way there.
        let attempts_max = if put.given.is_far() { 1 } else { ATTEMPTS_MAX };
        let mut attempts = 0;
        loop {
            let error = match self.put_once(at, &filled, &records) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let may_pass = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Internal);
            attempts += 1;
            if !may_pass || attempts >= attempts_max || self.live.lock().stop {
                return Err(failure(error.to_string()));
            }
            let pause = self.shared.backoff.pause(attempts, at.context.offset.0);
            self.live.wait(pause, |state| state.stop);
        }
    }

    fn put_once(&self, at: &At<'_>, filled: &Filled, records: &[&[u8]]) -> Result<()> {
        if let (Filled::Object { bucket, key }, [record]) = (filled, records) {
            return self.shared.shelf.put(bucket, key, Bytes::copy_from_slice(record));
        }
        self.shared.publisher().put(&at.rule.rule, filled, records, at.message.received_at)
    }

    /// AWS's document about failed actions.
    fn report(&self, at: &At<'_>, failures: &[Failure]) -> Value {
        let failures: Vec<Value> = failures
            .iter()
            .map(|failure| {
                json!({
                    "failedAction": failure.action,
                    "failedResource": failure.resource,
                    "errorMessage": failure.message,
                })
            })
            .collect();
        let client = match at.message.client_id {
            "" => "N/A",
            client => client,
        };
        json!({
            "ruleName": at.rule.rule,
            "topic": rules::without_basic_ingest(at.message.topic),
            "cloudwatchTraceId": rules::sql::trace_id(self.shared.journal.id(), at.context.offset),
            "clientId": client,
            "base64OriginalPayload": base64::encode(at.message.payload),
            "failures": failures,
        })
    }

    /// Adds a message to the batch, unless an earlier run appended it; or says why it cannot be.
    fn push(
        &self,
        origin: &Origin<'_>,
        (at, target): (&At<'_>, &Target),
        payload: &[u8],
        output: &mut Output,
    ) -> Result<std::result::Result<bool, Failure>> {
        let failure = |resource: &str, message: String| {
            let (action, resource) = ("RepublishAction", resource.to_owned());
            Ok(Err(Failure { action, resource, message }))
        };
        if payload.len() > PAYLOAD_BYTES_MAX {
            let bytes = payload.len();
            let message =
                format!("the output has {bytes} bytes; at most {PAYLOAD_BYTES_MAX} are allowed");
            return failure(&target.given.topic, message);
        }
        let (topic, properties) = match target.fill(&at.rule.sql, &at.message, &at.context) {
            Ok(filled) => filled,
            Err(why) => return failure(&target.given.topic, why),
        };
        if let Some(why) = self.shared.publisher().refuses(&topic) {
            return failure(&topic, why);
        }
        let properties = match properties.encode() {
            Ok(properties) => properties,
            Err(error) => return failure(&topic, error.to_string()),
        };
        self.add(origin, (&topic, target.given.qos(), &properties), payload, output).map(Ok)
    }

    /// Adds a message to the batch; false if an earlier run appended it.
    fn add(
        &self,
        origin: &Origin<'_>,
        (topic, qos, properties): (&str, QoS, &[u8]),
        payload: &[u8],
        output: &mut Output,
    ) -> Result<bool> {
        let key = (origin.rule.to_owned(), origin.offset.0, origin.action);
        if self.done.contains(&key) {
            return Ok(false);
        }
        let principal = origin.to_string();
        let message = MessageRef {
            topic,
            payload,
            client_id: "",
            principal: &principal,
            received_at: self.shared.clock.now(),
            qos,
            retain: false,
        };
        let extras = Extras { properties, ..Extras::default() };
        output.batch.push(|out| message.encode_with(&extras, out))?;
        Ok(true)
    }

    /// Appends, waits until that is durable, and moves the cursor.
    fn finish(&mut self, output: &Output, next: Offset) -> Result<()> {
        if output.batch.is_empty() {
            self.position = next;
            self.state.totals.add(output.totals);
            return self.settle();
        }
        let appended = self.shared.publisher().append(&output.batch)?;
        let end = appended.next();
        let last = Offset(end.0.saturating_sub(1));
        while self.shared.journal.wait_durable(last, IDLE_WAIT) < end {
            if let Some(why) = self.shared.journal.status().failed {
                return Err(Error::new(ErrorKind::Unavailable, format!("the log failed: {why}")));
            }
            if self.live.lock().stop {
                return Ok(());
            }
        }
        self.position = next;
        self.store(output.totals)
    }

    /// Stores a cursor that passed only what concerns nobody, now and then.
    fn settle(&mut self) -> Result<()> {
        let passed = self.position.0.saturating_sub(self.state.next.0);
        let due = passed >= ADVANCE_OFFSETS
            || self.advanced_at.elapsed() >= ADVANCE_EVERY
            || !self.shared.journal.has_room();
        if due && passed > 0 {
            return self.store(RepublishTotals::default());
        }
        let position = self.position;
        self.live.change(|state| state.next = position);
        Ok(())
    }

    fn store(&mut self, more: RepublishTotals) -> Result<()> {
        let mut state = self.state.clone();
        state.next = self.position;
        state.totals.add(more);
        self.shared.store.put(self.lane.name(), &state)?;
        self.state = state;
        self.advanced_at = Instant::now();
        let next = self.position.0;
        self.done.retain(|(_, origin, _)| *origin >= next);
        if self.holds_log {
            self.shared.journal.commit(self.lane.name(), self.position)?;
            self.shared.journal.trim()?;
        }
        let position = self.position;
        self.live.change(|state| state.next = position);
        Ok(())
    }
}

impl RepublishTotals {
    pub(crate) fn add(&mut self, more: RepublishTotals) {
        self.outputs += more.outputs;
        self.reports += more.reports;
        self.failures += more.failures;
        self.looped += more.looped;
        self.lost += more.lost;
    }
}

/// A record, what there was when it arrived, and a rule that looks at it.
struct At<'a> {
    message: MessageRef<'a>,
    streams: &'a BTreeMap<String, Offset>,
    rule: &'a InForce,
    context: Context<'a>,
}

impl At<'_> {
    /// Why no stream looked at this record for an action, with the name that the action gives.
    fn miss(&self, action: usize) -> Option<(String, String)> {
        let stream = match self.rule.stream(action, &self.message, &self.context) {
            Ok(stream) => stream,
            Err(why) => {
                let Action::Firehose { stream, .. } = self.rule.actions.get(action)?;
                return Some((stream.clone(), why));
            }
        };
        if self.streams.get(&stream).is_some_and(|from| *from <= self.context.offset) {
            return None;
        }
        let why = format!("delivery stream {stream} does not exist");
        Some((stream, why))
    }

    /// The actions on streams that failed.
    fn failures(&self, result: &[u8]) -> Vec<Failure> {
        let of_action = |(index, action): (usize, &Action)| {
            let Action::Firehose { stream, batch_mode, .. } = action;
            let (resource, message) = match self.miss(index) {
                Some(missed) => missed,
                None if *batch_mode => (stream.clone(), split(result).err()?.1),
                None => return None,
            };
            Some(Failure { action: "FirehoseAction", resource, message })
        };
        self.rule.actions.iter().enumerate().filter_map(of_action).collect()
    }
}

/// Where a republished message comes from.
struct Origin<'a> {
    rule: &'a str,
    offset: Offset,
    action: usize,
    hops: u32,
}

impl<'a> Origin<'a> {
    /// Reads a principal. No device can have one that begins so: certificates are hexadecimal.
    fn read(principal: &'a str) -> Option<Origin<'a>> {
        let mut parts = principal.strip_prefix(PRINCIPAL)?.split('/');
        let rule = parts.next()?;
        let offset = Offset(parts.next()?.parse().ok()?);
        let action = match parts.next()? {
            "error" => REPORT,
            "http-error" => FAR_REPORT,
            index => index.parse().ok()?,
        };
        Some(Origin { rule, offset, action, hops: parts.next()?.parse().ok()? })
    }
}

impl std::fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{PRINCIPAL}{}/{}/", self.rule, self.offset.0)?;
        match self.action {
            REPORT => write!(f, "error/{}", self.hops),
            FAR_REPORT => write!(f, "http-error/{}", self.hops),
            index => write!(f, "{index}/{}", self.hops),
        }
    }
}
