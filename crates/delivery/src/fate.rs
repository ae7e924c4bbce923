//! What became of one record of the log in one stream, for people who ask.
//!
//! A stream remembers its last deliveries, each with the range it covered and its objects. The
//! rest is worked out again from the record, by the same code that delivered it.

use base::{Offset, Result};
use metastore::{Metastore, Row, Transaction};
use rules::View;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::batch::{Batch, Packing};
use crate::engine::Engine;
use crate::prefix::Kind;
use crate::stream::{Decision, ObjectPlan};
use crate::streams::Streams;
use crate::worker::route;

/// Deliveries that a stream remembers, and objects of all of them together.
const DELIVERIES_MAX: usize = 256;
const OBJECTS_MAX: usize = 2_000;

/// What became of a record that concerns a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fate {
    /// The stream.
    pub stream: String,
    /// How often an action or a put handed it to the stream.
    pub matched: u64,
    /// Records it became in objects.
    pub records: u64,
    /// Why it, or a part of it, is in the error prefix instead.
    pub set_aside: Vec<String>,
    /// How far it has come.
    pub state: FateState,
    /// The objects it is in, as `s3://BUCKET/KEY`; empty where they are no longer known.
    pub objects: Vec<String>,
    /// What keeps the stream from delivering at the moment.
    pub retrying: Option<String>,
}

/// How far a record has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FateState {
    /// Its batch has not ended yet.
    Waiting,
    /// Its batch has ended, and its objects are being uploaded.
    Decided,
    /// It is in the lake.
    Delivered,
}

/// A delivery that is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Delivery {
    first: Offset,
    next: Offset,
    objects: Vec<ObjectPlan>,
}

impl Row for Delivery {
    const TABLE: &'static str = "deliveries";
}

/// Sorted as their offsets are; no stream has a slash in its name.
fn key(stream: &str, first: Offset) -> String {
    format!("{stream}/{:020}", first.0)
}

/// The deliveries that a stream's worker remembers: their first offsets and how many objects
/// each made.
#[derive(Debug, Default)]
pub(crate) struct Remembered(std::collections::VecDeque<(Offset, usize)>);

impl Remembered {
    pub(crate) fn load(store: &Metastore, stream: &str) -> Result<Remembered> {
        let rows = store.list_prefix::<Delivery>(&format!("{stream}/"))?;
        Ok(Remembered(rows.iter().map(|(_, row)| (row.row.first, row.row.objects.len())).collect()))
    }

    /// Writes a delivery down and drops the oldest that are too many.
    pub(crate) fn write(
        &self,
        transaction: &mut Transaction<'_>,
        stream: &str,
        decision: &Decision,
    ) -> Result<()> {
        let Decision { first, next, objects, .. } = decision;
        let delivery = Delivery { first: *first, next: *next, objects: objects.clone() };
        transaction.put(&key(stream, *first), &delivery)?;
        for (old, _) in self.0.iter().take(self.too_many(objects.len())) {
            transaction.delete::<Delivery>(&key(stream, *old))?;
        }
        Ok(())
    }

    /// After [`write`](Self::write) has been committed.
    pub(crate) fn written(&mut self, decision: &Decision) {
        self.0.drain(..self.too_many(decision.objects.len()));
        self.0.push_back((decision.first, decision.objects.len()));
    }

    /// How many of the oldest have to go for a delivery of `more` objects.
    fn too_many(&self, more: usize) -> usize {
        let mut objects = more + self.0.iter().map(|(_, count)| count).sum::<usize>();
        let mut gone = 0;
        for (_, count) in &self.0 {
            if self.0.len() - gone < DELIVERIES_MAX && objects <= OBJECTS_MAX {
                break;
            }
            objects -= count;
            gone += 1;
        }
        gone
    }
}

/// Forgets a stream's deliveries.
pub(crate) fn forget(transaction: &mut Transaction<'_>, stream: &str) -> Result<()> {
    for (key, _) in transaction.list_prefix::<Delivery>(&format!("{stream}/"))? {
        transaction.delete::<Delivery>(&key)?;
    }
    Ok(())
}

impl Streams {
    /// What becomes of the log record at `offset` in the stream `name`; nothing if the record
    /// does not concern it.
    pub fn fate(
        &self,
        name: &str,
        offset: Offset,
        record: &[u8],
        view: &View,
    ) -> Result<Option<Fate>> {
        let (row, state) = self.describe(name)?;
        if offset < row.created_from {
            return Ok(None);
        }
        let (prefixes, query) = route(&row)?;
        let log_id = self.shared.journal.id();
        let engine = Engine {
            row: &row,
            prefixes: &prefixes,
            query: query.as_ref(),
            log_id,
            account_id: &self.shared.account_id,
        };
        let mut batch = Batch::new(offset);
        engine.take(&mut batch, offset, record, view);
        if batch.tally.matched == 0 {
            return Ok(None);
        }
        let columns = self.shared.columns(&row)?;
        let packing =
            Packing { row: &row, prefixes: &prefixes, log_id, columns: columns.as_deref() };
        let packed = batch.pack(&packing)?;
        let errors = packed.iter().filter(|object| matches!(object.kind, Kind::Errors(_)));
        let set_aside = errors.flat_map(|object| reasons(&object.bytes)).collect();
        let (state, objects) = if offset < state.next {
            (FateState::Delivered, self.delivered(name, offset)?)
        } else {
            let pending = state.pending.filter(|decision| offset < decision.next);
            let objects = pending.map(|decision| decision.objects);
            (
                objects.as_ref().map_or(FateState::Waiting, |_| FateState::Decided),
                objects.unwrap_or_default(),
            )
        };
        let of_it =
            |plan: &&ObjectPlan| packed.iter().any(|object| object.kind.identity() == plan.what);
        let mut places: Vec<String> = objects.iter().filter(of_it).map(place).collect();
        if places.is_empty() {
            // The settings have changed since; one of these.
            places = objects.iter().map(place).collect();
        }
        Ok(Some(Fate {
            stream: name.to_owned(),
            matched: batch.tally.matched,
            records: batch.tally.records,
            set_aside,
            state,
            objects: places,
            retrying: self.status(name)?.retrying,
        }))
    }

    /// The objects of the remembered delivery that covered `offset`, as `s3://BUCKET/KEY`.
    pub fn objects_around(&self, name: &str, offset: Offset) -> Result<Vec<String>> {
        Ok(self.delivered(name, offset)?.iter().map(place).collect())
    }

    fn delivered(&self, name: &str, offset: Offset) -> Result<Vec<ObjectPlan>> {
        let rows = self.shared.store.list_prefix::<Delivery>(&format!("{name}/"))?;
        let covers = |row: &Delivery| (row.first..row.next).contains(&offset);
        let found = rows.into_iter().map(|(_, row)| row.row).find(covers);
        Ok(found.map(|delivery| delivery.objects).unwrap_or_default())
    }
}

fn place(plan: &ObjectPlan) -> String {
    format!("s3://{}/{}", plan.bucket, plan.key)
}

/// What the lines of an object of errors say.
fn reasons(lines: &[u8]) -> Vec<String> {
    let lines = lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let line = |line| serde_json::from_slice::<Value>(line).ok();
    let text = |line: Value| {
        let member = |names: [&str; 2]| {
            names.iter().find_map(|name| line[name].as_str()).unwrap_or_default().to_owned()
        };
        let code = member(["errorCode", "lastErrorCode"]);
        format!("{code}: {}", member(["errorMessage", "lastErrorMessage"]))
    };
    lines.filter_map(line).map(text).collect()
}
