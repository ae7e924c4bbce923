//! What a query read: bytes, rows, and the records that were set aside.
//!
//! A plan may read a file twice (a table joined with itself), and it may stop early. Rows and
//! bad records are therefore accounted by file, part and place, so that each counts once.

use std::collections::BTreeMap;
use std::sync::Mutex;

use base::{Error, Result};
use lake::{EtlResult, SetAside, SetAsideWriter, TableFile};

use crate::parts::Part;
use crate::read::Picked;

/// The account of one query or run.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    inner: Mutex<Account>,
}

#[derive(Debug, Default)]
struct Account {
    /// By bucket, key and the first byte of the part.
    files: BTreeMap<(String, String, u64), FileAccount>,
    bytes: u64,
    set_aside: u64,
    keep: Option<Kept>,
    foreign: Vec<(TableFile, Picked)>,
}

#[derive(Debug, Default)]
struct FileAccount {
    rows: u64,
    /// Bad records before this place are in the account.
    next: u64,
}

/// Bad records that are handed on with their bytes.
#[derive(Debug)]
struct Kept {
    first: Vec<SetAside>,
    writer: SetAsideWriter,
}

/// The totals of a finished run.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) set_aside_count: u64,
    pub(crate) set_aside: Vec<SetAside>,
}

impl Meter {
    /// A meter that also hands every bad record to `writer`.
    pub(crate) fn keeping(writer: SetAsideWriter) -> Self {
        let keep = Some(Kept { first: Vec::new(), writer });
        Meter { inner: Mutex::new(Account { keep, ..Account::default() }) }
    }

    fn account(&self) -> std::sync::MutexGuard<'_, Account> {
        // Counters stay whole if a holder panicked, and the query then fails anyway.
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Bytes of an object were read.
    pub(crate) fn bytes(&self, count: u64) {
        self.account().bytes += count;
    }

    /// So many rows of `part` have been handed out by one reader of it.
    pub(crate) fn rows(&self, part: &Part, count: u64) {
        let mut account = self.account();
        let known = account.of(part.place());
        known.rows = known.rows.max(count);
    }

    /// A record was set aside, the first of its part at or after `position`.
    pub(crate) fn set_aside(
        &self,
        part: &Part,
        position: u64,
        reason: &str,
        raw: &[u8],
    ) -> Result<()> {
        self.keep(part.place(), position, reason, raw)
    }

    /// A row was set aside by a node: its place among the rows that the node saw, and the row.
    pub(crate) fn quarantine(
        &self,
        node: &str,
        place: u64,
        reason: &str,
        row: &[u8],
    ) -> Result<()> {
        self.keep(("", node, 0), place, reason, row)
    }

    fn keep(&self, part: (&str, &str, u64), position: u64, reason: &str, raw: &[u8]) -> Result<()> {
        let mut account = self.account();
        let known = account.of(part);
        if position < known.next {
            return Ok(());
        }
        known.next = position + 1;
        account.set_aside += 1;
        let Some(keep) = &mut account.keep else { return Ok(()) };
        let record = SetAside {
            bucket: part.0.to_owned(),
            key: part.1.to_owned(),
            position,
            reason: reason.to_owned(),
            raw_base64: rules::base64::encode(raw),
        };
        keep.writer.push(&record)?;
        if keep.first.len() < EtlResult::SET_ASIDE_MAX {
            keep.first.push(record);
        }
        Ok(())
    }

    /// `file` is handed to a reader that is not ours, and fails the query if it is damaged.
    pub(crate) fn foreign(&self, file: &TableFile, picked: &Picked) {
        self.account().foreign.push((file.clone(), picked.clone()));
    }

    /// The files that other readers were given.
    pub(crate) fn take_foreign(&self) -> Vec<(TableFile, Picked)> {
        std::mem::take(&mut self.account().foreign)
    }

    /// Bytes read and records set aside so far.
    pub(crate) fn seen(&self) -> (u64, u64) {
        let account = self.account();
        (account.bytes, account.set_aside)
    }

    /// Ends the account.
    pub(crate) fn finish(&self) -> Result<Totals> {
        let account = std::mem::take(&mut *self.account());
        let mut totals = Totals {
            rows: account.files.values().map(|file| file.rows).sum(),
            bytes: account.bytes,
            set_aside_count: account.set_aside,
            ..Totals::default()
        };
        if let Some(keep) = account.keep {
            let written = keep.writer.finish()?;
            if written != account.set_aside {
                return Err(Error::internal(format!(
                    "{} records were set aside but {written} were written",
                    account.set_aside
                )));
            }
            totals.set_aside = keep.first;
        }
        Ok(totals)
    }
}

impl Account {
    fn of(&mut self, (bucket, key, from): (&str, &str, u64)) -> &mut FileAccount {
        self.files.entry((bucket.to_owned(), key.to_owned(), from)).or_default()
    }
}
