//! What a crawl says it did: of each table and each object, and why.

use serde::{Deserialize, Serialize};

/// Objects that a report lists one by one; beyond that it counts.
const REPORT_OBJECTS_MAX: usize = 10_000;

/// What a crawl did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrawlReport {
    /// The crawler.
    pub crawler: String,
    /// Objects found.
    pub found: u64,
    /// Objects that were read, being new or changed.
    pub read: u64,
    /// Their bytes as stored.
    pub bytes_read: u64,
    /// Objects that are known from an earlier crawl.
    pub known: u64,
    /// Objects that are in no table.
    pub left_out: u64,
    /// Of these, objects whose bytes are not those that were stored.
    pub altered: u64,
    /// What became of each table.
    pub tables: Vec<TableReport>,
    /// What became of each object, by key: the first 10,000.
    pub objects: Vec<ObjectReport>,
}

/// What became of a table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableReport {
    /// Its name.
    pub table: String,
    /// What was done.
    pub change: TableChange,
    /// Why, or what to know about it.
    pub why: String,
    /// Its objects.
    pub objects: u64,
    /// Partitions that are new.
    pub partitions_added: u64,
    /// Partitions whose objects are gone.
    pub partitions_removed: u64,
}

/// What was done with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableChange {
    /// It is new.
    Created,
    /// It has a new version.
    Updated,
    /// Its schema is as it was.
    Unchanged,
    /// It is not the crawler's to change.
    LeftAlone,
    /// Its schema has changed, and the crawler is to leave it as it is.
    Logged,
    /// It has no objects any more.
    Deprecated,
    /// It had no objects any more and is gone.
    Deleted,
}

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectReport {
    /// Its key.
    pub key: String,
    /// What was decided.
    pub decision: Decision,
    /// Why: the table it is in, or what keeps it out.
    pub why: String,
}

/// What was decided about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It was read and is in a table.
    Read,
    /// It was read by an earlier crawl and is in a table.
    Known,
    /// It is in no table.
    LeftOut,
    /// It is in no table, since its bytes are not those that were stored. A query of the table
    /// it lies in fails until it is put again or deleted.
    Altered,
}

/// Builds the report; lists a bounded number of objects and counts all.
pub(super) struct Reporter(pub(super) CrawlReport);

impl Reporter {
    pub(super) fn new(crawler: &str) -> Self {
        Reporter(CrawlReport {
            crawler: crawler.to_owned(),
            found: 0,
            read: 0,
            bytes_read: 0,
            known: 0,
            left_out: 0,
            altered: 0,
            tables: Vec::new(),
            objects: Vec::new(),
        })
    }

    pub(super) fn object(&mut self, key: &str, decision: Decision, why: &str) {
        match decision {
            Decision::Read => {}
            Decision::Known => self.0.known += 1,
            Decision::LeftOut | Decision::Altered => self.0.left_out += 1,
        }
        if self.0.objects.len() < REPORT_OBJECTS_MAX {
            let why = why.to_owned();
            self.0.objects.push(ObjectReport { key: key.to_owned(), decision, why });
        }
    }

    pub(super) fn finish(mut self) -> CrawlReport {
        self.0.objects.sort_by(|a, b| a.key.cmp(&b.key));
        self.0.tables.sort_by(|a, b| a.table.cmp(&b.table));
        self.0
    }
}
