//! What streams have not delivered yet, shaped as they would deliver it.
//!
//! A reader who wants the lake's objects and what is still in the log needs one moment at which
//! both are known: it takes the streams' marks, lists the objects, and asks whether the marks
//! still hold. While a stream stands at a mark, what lies in the lake of it is what lies below
//! the mark's cursor, and perhaps some of the objects that the mark names as on their way.
//! Everything from the cursor on is worked out from the log, by the code that delivers it.

use std::collections::BTreeSet;

use base::{Error, ErrorKind, Offset, Result};
use bytes::Bytes;
use journal::SkipReason;
use rules::View;

use crate::batch::{Batch, Packing};
use crate::engine::Engine;
use crate::prefix::Kind;
use crate::stream::{Column, StreamRow, StreamState};
use crate::streams::Streams;
use crate::worker::{PARTITIONS_MAX, READ_BYTES, route};

/// Where a stream stands.
#[derive(Debug)]
pub struct Mark {
    row: StreamRow,
    state: StreamState,
    view: View,
}

impl Mark {
    /// The stream.
    pub fn stream(&self) -> &str {
        self.row.name()
    }

    /// Objects that may be in the lake already though the cursor is not past them: buckets and
    /// keys.
    pub fn on_their_way(&self) -> BTreeSet<(String, String)> {
        let plans = self.state.pending.iter().flat_map(|decision| &decision.objects);
        plans.map(|plan| (plan.bucket.clone(), plan.key.clone())).collect()
    }
}

/// An object as it would be delivered now.
#[derive(Debug)]
pub struct Undelivered {
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// Its bytes, packed.
    pub bytes: Bytes,
}

impl Streams {
    /// Where those streams stand now whose objects may lie below a prefix.
    pub fn marks(&self, bucket: &str, prefix: &str) -> Result<Vec<Mark>> {
        let mut marks = Vec::new();
        for row in self.list()? {
            let (prefixes, _) = route(&row)?;
            let backup = row.settings.backup.as_ref().map(|backup| &backup.bucket);
            let writes_there = row.settings.bucket == bucket && prefixes.may_reach(prefix)
                || backup.is_some_and(|backup| backup == bucket);
            if !writes_there {
                continue;
            }
            let (row, state) = match self.describe(row.name()) {
                // Deleted meanwhile.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                found => found?,
            };
            let view = self.shared.rules.view(|| self.shared.journal.durable());
            marks.push(Mark { row, state, view });
        }
        Ok(marks)
    }

    /// Whether the streams of a prefix still stand where the marks say.
    pub fn stand_still(&self, marks: &[Mark], bucket: &str, prefix: &str) -> Result<bool> {
        let now = self.marks(bucket, prefix)?;
        let same = |(was, is): (&Mark, &Mark)| {
            was.row == is.row
                && was.state.next == is.state.next
                && was.state.pending == is.state.pending
        };
        Ok(now.len() == marks.len() && marks.iter().zip(&now).all(same))
    }

    /// Hands everything from a mark's cursor to the log's end then to `give`, as the objects
    /// that would be made of it. Answers false if the log has forgotten a part of it, because
    /// the stream has moved on and delivered it: then the marks are to be taken anew.
    pub fn undelivered(
        &self,
        mark: &Mark,
        give: &mut dyn FnMut(Undelivered) -> Result<()>,
    ) -> Result<bool> {
        let mut from = mark.state.next;
        if let Some(decision) = &mark.state.pending {
            let row = mark.state.pending_under.as_ref().unwrap_or(&mark.row);
            let tail = Tail { streams: self, row, columns: decision.columns.as_deref() };
            // One batch, which was decided as one.
            if !tail.shape((decision.first, decision.next), &mark.view, None, give)? {
                return Ok(false);
            }
            from = decision.next;
        }
        let columns = self.shared.columns(&mark.row)?;
        let tail = Tail { streams: self, row: &mark.row, columns: columns.as_deref() };
        let size = Some(mark.row.settings.size_bytes);
        tail.shape((from, mark.view.until), &mark.view, size, give)
    }
}

/// The shaping of one stream's records.
struct Tail<'t> {
    streams: &'t Streams,
    row: &'t StreamRow,
    columns: Option<&'t [Column]>,
}

impl Tail<'_> {
    /// Shapes a range of offsets, in batches of about `size` bytes.
    fn shape(
        &self,
        (mut from, until): (Offset, Offset),
        view: &View,
        size: Option<u64>,
        give: &mut dyn FnMut(Undelivered) -> Result<()>,
    ) -> Result<bool> {
        let shared = &self.streams.shared;
        let (prefixes, query) = route(self.row)?;
        let log_id = shared.journal.id();
        let engine = Engine {
            row: self.row,
            prefixes: &prefixes,
            query: query.as_ref(),
            log_id,
            account_id: &shared.account_id,
        };
        let packing = Packing { row: self.row, prefixes: &prefixes, log_id, columns: self.columns };
        let mut batch = Batch::new(from);
        while from < until {
            let records = shared.journal.read(from, READ_BYTES)?;
            if records.next <= from {
                return Err(Error::internal(format!("the log gave nothing from offset {from} on")));
            }
            let trimmed = |gap: &journal::Skipped| gap.reason == SkipReason::Trimmed;
            if records.skipped.iter().any(|gap| trimmed(gap) && gap.from < until) {
                return Ok(false);
            }
            for (offset, record) in records.items.iter().take_while(|(offset, _)| *offset < until) {
                engine.take(&mut batch, *offset, record, view);
                let full = size.is_some_and(|size| {
                    batch.held_bytes() >= size || batch.partitions() >= PARTITIONS_MAX
                });
                if full {
                    let next = Batch::new(batch.next);
                    hand_over(std::mem::replace(&mut batch, next), &packing, give)?;
                }
            }
            from = records.next.min(until);
            batch.next = from;
        }
        hand_over(batch, &packing, give)?;
        Ok(true)
    }
}

fn hand_over(
    mut batch: Batch,
    packing: &Packing<'_>,
    give: &mut dyn FnMut(Undelivered) -> Result<()>,
) -> Result<()> {
    for object in batch.pack(packing)? {
        // Rows of a table are records, also those that were set aside below its prefix.
        debug_assert!(matches!(object.kind, Kind::Records(_) | Kind::Errors(_) | Kind::Backup));
        give(Undelivered { bucket: object.bucket, key: object.key, bytes: object.bytes })?;
    }
    Ok(())
}
