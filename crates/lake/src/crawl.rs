//! The crawler: looks into objects and keeps the catalog in step with them.
//!
//! ```text
//! list --> look (look.rs: format and schema of each object that is new or changed)
//!      --> layout (layout.rs, pure: which folders are tables, which are partitions)
//!      --> catalog (tables, versions, partitions) + report
//! ```
//!
//! Invariants
//! * What a crawl makes of a prefix depends on the objects that lie there, not on the order in
//!   which they came or on how often it was crawled; only columns keep the place they once had.
//! * An object is read once for as long as its etag stays.
//! * A crawl says of every object what it made of it and why, and fails for none of them.

mod history;
mod layout;
mod look;
mod shape;

pub use history::{Crawl, CrawlOutcome};

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base::{Error, ErrorKind, Result, Timestamp};
use futures::{StreamExt, TryStreamExt};
use metastore::{Metastore, Row};
use objects::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::catalog::{delete_all, rows_of, table_key};
use crate::glob::Globs;
use crate::lake::{blocking, is_hidden, partition_values};
use crate::{Column, FileSource, Format, Lake, Partition, Table};

use layout::{Found, Seen};
use look::Look;

/// Objects that a report lists one by one; beyond that it counts.
const REPORT_OBJECTS_MAX: usize = 10_000;
/// Objects that are looked into at the same time.
const LOOKS_AT_ONCE: usize = 2;
/// Looks that are stored in one transaction.
const LOOKS_PER_TRANSACTION: usize = 500;
/// Longest name of a crawler, Glue's bound.
const NAME_BYTES_MAX: usize = 255;
/// Table parameters that say which crawler keeps it, and since when it has no objects.
const UPDATED_BY: &str = "UPDATED_BY_CRAWLER";
const DEPRECATED_BY: &str = "DEPRECATED_BY_CRAWLER";

/// A crawler: which prefix it looks at, and where its tables go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crawler {
    /// Its name.
    pub name: String,
    /// The bucket it looks at.
    pub bucket: String,
    /// The include path: a folder of the bucket, or empty for all of it.
    pub prefix: String,
    /// Globs on keys beneath the include path that it leaves out.
    pub exclusions: Vec<String>,
    /// The database its tables go to.
    pub database: String,
    /// What the names of its tables begin with.
    pub table_prefix: String,
    /// Whether it runs; set by the crawler.
    pub state: CrawlState,
    /// How it went the last time; set by the crawler.
    pub last: Option<LastCrawl>,
}

impl Row for Crawler {
    const TABLE: &'static str = "crawlers";
}

/// Whether a crawler runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum CrawlState {
    /// It can be started.
    Ready,
    /// It is crawling.
    Running,
    /// It is crawling and was told to stop.
    Stopping,
}

/// How a crawl went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastCrawl {
    /// When it began.
    pub started_at: Timestamp,
    /// When it was over.
    pub finished_at: Timestamp,
    /// Why it failed; `None` if it succeeded or was stopped.
    pub error: Option<String>,
    /// Whether it was stopped before its end.
    #[serde(default)]
    pub stopped: bool,
}

/// What a crawl did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
    /// It has no objects any more.
    Deprecated,
}

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ObjectReport {
    /// Its key.
    pub key: String,
    /// What was decided.
    pub decision: Decision,
    /// Why: the table it is in, or what keeps it out.
    pub why: String,
}

/// What was decided about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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

/// What a crawl found out about an object, whatever crawler it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CrawledObject {
    etag: String,
    look: Look,
}

impl Row for CrawledObject {
    const TABLE: &'static str = "crawled_objects";
}

/// Whether an object can be part of a table, as far as a crawl found out.
pub(crate) enum Fit {
    /// It has this format.
    Format(Format),
    /// It cannot.
    Never,
    /// It was altered, and what it held is not known.
    Altered,
}

/// What is known of the objects beneath `prefix`: etag and fit by key.
pub(crate) fn known_fits(
    store: &Metastore,
    bucket: &str,
    prefix: &str,
) -> Result<HashMap<String, (String, Fit)>> {
    let known = known_objects(store, bucket, prefix)?.into_iter();
    let fit = |look: &Look| match look {
        Look::Understood { format, .. } => Fit::Format(*format),
        Look::NotUnderstood { .. } => Fit::Never,
        Look::Altered { .. } => Fit::Altered,
    };
    Ok(known.map(|(key, found)| (key, (found.etag, fit(&found.look)))).collect())
}

fn known_objects(
    store: &Metastore,
    bucket: &str,
    prefix: &str,
) -> Result<HashMap<String, CrawledObject>> {
    let rows = store.list_prefix::<CrawledObject>(&format!("{bucket}/{prefix}"))?;
    // A bucket's name has no slash, so what follows the first one is the key.
    Ok(rows
        .into_iter()
        .map(|(row, found)| (row[bucket.len() + 1..].to_owned(), found.row))
        .collect())
}

impl Crawler {
    /// A crawler that was not run yet.
    pub fn new(
        name: impl Into<String>,
        (bucket, prefix): (impl Into<String>, impl Into<String>),
        database: impl Into<String>,
    ) -> Self {
        Crawler {
            name: name.into(),
            bucket: bucket.into(),
            prefix: prefix.into(),
            exclusions: Vec::new(),
            database: database.into(),
            table_prefix: String::new(),
            state: CrawlState::Ready,
            last: None,
        }
    }

    fn check(&self) -> Result<()> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || " _.-".contains(c);
        let name = &self.name;
        if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.chars().all(allowed) {
            return Err(Error::invalid(format!(
                "{name:?} is not a crawler name; use 1 to {NAME_BYTES_MAX} letters, digits, ' ', \
                 '_', '.' and '-'"
            )));
        }
        if self.prefix.starts_with('/') || self.prefix.split('/').any(|part| part == "..") {
            return Err(Error::invalid(format!("{:?} is not a folder of a bucket", self.prefix)));
        }
        Globs::parse(&self.exclusions).map(drop)
    }

    /// The include path as a prefix of keys.
    fn folder(&self) -> String {
        match self.prefix.as_str() {
            "" => String::new(),
            folder if folder.ends_with('/') => folder.to_owned(),
            folder => format!("{folder}/"),
        }
    }
}

impl Lake {
    /// Stores a new crawler.
    pub fn create_crawler(&self, crawler: &Crawler) -> Result<()> {
        crawler.check()?;
        let crawler = Crawler { state: CrawlState::Ready, last: None, ..crawler.clone() };
        self.store().create(&crawler.name, &crawler).map(drop)
    }

    /// Changes what a crawler looks at, unless it runs.
    pub fn update_crawler(&self, crawler: &Crawler) -> Result<()> {
        crawler.check()?;
        self.store().transact(|transaction| {
            let found = idle(transaction.get::<Crawler>(&crawler.name)?, &crawler.name)?;
            let crawler = Crawler { state: CrawlState::Ready, last: found.last, ..crawler.clone() };
            transaction.put(&crawler.name, &crawler).map(drop)
        })
    }

    /// A crawler.
    pub fn get_crawler(&self, name: &str) -> Result<Crawler> {
        match self.store().get::<Crawler>(name)? {
            Some(found) => Ok(found.row),
            None => Err(no_crawler(name)),
        }
    }

    /// All crawlers by name.
    pub fn list_crawlers(&self) -> Result<Vec<Crawler>> {
        Ok(self.store().list::<Crawler>()?.into_iter().map(|(_, found)| found.row).collect())
    }

    /// Forgets a crawler and its crawls, unless it runs. Its tables stay.
    pub fn delete_crawler(&self, name: &str) -> Result<()> {
        self.store().transact(|transaction| {
            idle(transaction.get::<Crawler>(name)?, name)?;
            delete_all::<Crawl>(transaction, &format!("{name}/"))?;
            transaction.delete::<Crawler>(name).map(drop)
        })
    }

    /// Tells a crawler that runs to stop. What it has understood by then it need not look into
    /// again; the catalog stays as it was.
    pub fn stop_crawler(&self, name: &str) -> Result<()> {
        self.store().transact(|transaction| {
            let found = transaction.get::<Crawler>(name)?.ok_or_else(|| no_crawler(name))?;
            if found.state != CrawlState::Running {
                let why = format!("crawler {name:?} is not running");
                return Err(Error::new(ErrorKind::Conflict, why));
            }
            let crawler = Crawler { state: CrawlState::Stopping, ..found.row };
            transaction.put(name, &crawler).map(drop)
        })
    }

    /// Crawls now. [`ErrorKind::Conflict`] while the crawler runs, and when it is stopped.
    pub async fn run_crawler(&self, name: &str) -> Result<CrawlReport> {
        let started_at = self.clock().now();
        let (crawler, crawl) = self.store().transact(|transaction| {
            let mut found = idle(transaction.get::<Crawler>(name)?, name)?;
            found.state = CrawlState::Running;
            transaction.put(name, &found)?;
            let crawl = Crawl::begin(transaction, name, started_at)?;
            Ok((found, crawl))
        })?;
        let report = self.crawl(&crawler).await;
        self.end_crawl(crawl, report.as_ref())?;
        report
    }

    /// Crawlers that a crash left running are ready again.
    pub(crate) fn reset_crawlers(&self) -> Result<()> {
        for crawler in self.list_crawlers()? {
            if crawler.state == CrawlState::Ready {
                continue;
            }
            let running = |crawl: &Crawl| crawl.outcome == CrawlOutcome::Running;
            match self.list_crawls(&crawler.name)?.into_iter().find(running) {
                Some(crawl) => {
                    let why = "the server ended while the crawler ran";
                    self.end_crawl(crawl, Err(&Error::new(ErrorKind::Unavailable, why)))?;
                }
                None => {
                    let name = crawler.name.clone();
                    let ready = Crawler { state: CrawlState::Ready, ..crawler };
                    self.store().put(&name, &ready).map(drop)?;
                }
            }
        }
        Ok(())
    }

    async fn crawl(&self, crawler: &Crawler) -> Result<CrawlReport> {
        self.catalog().get_database(&crawler.database)?;
        self.buckets().expect_here(&crawler.bucket)?;
        let folder = crawler.folder();
        let exclusions = Globs::parse(&crawler.exclusions)?;
        let listed = self.buckets().list(&crawler.bucket, &folder).await?;
        let mut known = known_objects(self.store(), &crawler.bucket, &folder)?;
        self.forget_gone(crawler, &listed, &known)?;

        let mut report = Reporter::new(&crawler.name, listed.len());
        let mut wanted = Vec::new();
        for object in listed {
            let below = &object.key[folder.len()..];
            let why = match () {
                () if object.bytes == 0 => Some("it is empty"),
                () if is_hidden(below) => Some("its name starts with '_' or '.'"),
                () if exclusions.matches(below) => Some("an exclusion matches it"),
                () => None,
            };
            match why {
                Some(why) => report.object(&object.key, Decision::LeftOut, why),
                None => wanted.push(object),
            }
        }
        known.retain(|key, found| {
            wanted
                .binary_search_by(|object| object.key.as_str().cmp(key))
                .is_ok_and(|index| wanted[index].etag == found.etag)
                // It may have been put right since.
                && !matches!(found.look, Look::Altered { .. })
        });
        let fresh: BTreeSet<String> = wanted
            .iter()
            .filter(|object| !known.contains_key(&object.key))
            .map(|object| object.key.clone())
            .collect();
        let unknown: Vec<ObjectMeta> =
            wanted.iter().filter(|object| fresh.contains(&object.key)).cloned().collect();
        report.0.read = unknown.len() as u64;
        report.0.bytes_read = unknown.iter().map(|object| object.bytes).sum();
        self.look_into(crawler, unknown, &mut known).await?;

        let mut seen = Vec::new();
        for object in &wanted {
            let Some(found) = known.get(&object.key) else { continue };
            match &found.look {
                Look::Understood { format, shape, records, .. } => seen.push(Seen {
                    below: &object.key[folder.len()..],
                    format: *format,
                    shape,
                    records: *records,
                    bytes: object.bytes,
                }),
                Look::NotUnderstood { why } => {
                    report.object(&object.key, Decision::LeftOut, why);
                }
                Look::Altered { why } => {
                    report.0.altered += 1;
                    report.object(&object.key, Decision::Altered, why);
                }
            }
        }
        self.go_on(crawler)?;
        for found in layout::layout(&seen, &base_name(crawler, &folder)) {
            self.keep_table(crawler, &folder, &seen, &fresh, found, &mut report)?;
        }
        self.deprecate_others(crawler, &mut report)?;
        Ok(report.finish())
    }

    /// Looks into objects, a few at a time, and remembers what was found.
    async fn look_into(
        &self,
        crawler: &Crawler,
        objects: Vec<ObjectMeta>,
        known: &mut HashMap<String, CrawledObject>,
    ) -> Result<()> {
        let bucket = crawler.bucket.as_str();
        let looks = futures::stream::iter(objects)
            .map(|object| async move {
                self.go_on(crawler)?;
                let (buckets, bucket) = (self.buckets().clone(), bucket.to_owned());
                let looked = blocking(move || {
                    let look = look::look(&buckets, &bucket, &object.key);
                    Ok((object.key, CrawledObject { etag: object.etag, look }))
                });
                looked.await
            })
            .buffered(LOOKS_AT_ONCE);
        let mut batches = looks.try_chunks(LOOKS_PER_TRANSACTION);
        loop {
            // An error hands back what came before it; that is worth keeping, but not here.
            let batch = batches.try_next().await.map_err(|failed| failed.1)?;
            let Some(batch) = batch else { return Ok(()) };
            self.store().transact(|transaction| {
                for (key, found) in &batch {
                    transaction.put(&format!("{bucket}/{key}"), found)?;
                }
                Ok(())
            })?;
            known.extend(batch);
        }
    }

    fn forget_gone(
        &self,
        crawler: &Crawler,
        listed: &[ObjectMeta],
        known: &HashMap<String, CrawledObject>,
    ) -> Result<()> {
        let there: BTreeSet<&str> = listed.iter().map(|object| object.key.as_str()).collect();
        let mut gone: Vec<&String> =
            known.keys().filter(|key| !there.contains(key.as_str())).collect();
        gone.sort();
        self.store().transact(|transaction| {
            for key in gone {
                transaction.delete::<CrawledObject>(&format!("{}/{key}", crawler.bucket))?;
            }
            Ok(())
        })
    }

    /// Makes the catalog's table what was found.
    fn keep_table(
        &self,
        crawler: &Crawler,
        folder: &str,
        seen: &[Seen<'_>],
        fresh: &BTreeSet<String>,
        found: Found,
        report: &mut Reporter,
    ) -> Result<()> {
        let key_of = |index: usize| format!("{folder}{}", seen[index].below);
        for (index, why) in &found.odd {
            report.object(&key_of(*index), Decision::LeftOut, why);
        }
        let table = wanted_table(crawler, folder, seen, &found);
        let (name, existing) = self.place_of(crawler, &table)?;
        let mut table = Table { name, ..table };
        for index in &found.members {
            let key = key_of(*index);
            let read = if fresh.contains(&key) { Decision::Read } else { Decision::Known };
            report.object(&key, read, &format!("it is in table {:?}", table.name));
        }
        let objects = found.members.len() as u64;
        let mut line = TableReport {
            table: table.name.clone(),
            change: TableChange::Unchanged,
            why: found.why,
            objects,
            partitions_added: 0,
            partitions_removed: 0,
        };
        table = match existing {
            Some(existing) if existing.source == FileSource::Committed => {
                line.change = TableChange::LeftAlone;
                line.why = "it is written by jobs, which know its files".into();
                report.0.tables.push(line);
                return Ok(());
            }
            None => {
                line.change = TableChange::Created;
                self.catalog().create_table(table)?
            }
            Some(existing) => {
                keep_order(&mut table.columns, &existing.columns);
                keep_comments(&mut table, &existing);
                table.version = existing.version;
                if existing.means_the_same(&table) {
                    self.set_parameters(&table)?
                } else {
                    line.change = TableChange::Updated;
                    self.catalog().update_table(table)?
                }
            }
        };
        let below: Vec<&str> = found.members.iter().map(|index| seen[*index].below).collect();
        let partitions = partitions(&table, &below, folder, &found.root);
        line.partitions_removed = self.drop_gone_partitions(&table, &partitions)?;
        line.partitions_added =
            self.catalog().add_partitions(&table.database, &table.name, partitions)?;
        report.0.tables.push(line);
        Ok(())
    }

    /// The name the table gets, and the table that has it. A name that another place has is
    /// told apart by a suffix made of the place.
    fn place_of(&self, crawler: &Crawler, table: &Table) -> Result<(String, Option<Table>)> {
        let same_place =
            |other: &Table| other.bucket == table.bucket && other.prefix == table.prefix;
        let tables = self.catalog().list_tables(&crawler.database)?;
        let ours = |other: &&Table| {
            same_place(other) && other.parameters.get(UPDATED_BY) == Some(&crawler.name)
        };
        if let Some(kept) = tables.iter().find(ours) {
            return Ok((kept.name.clone(), Some(kept.clone())));
        }
        match tables.iter().find(|other| other.name == table.name) {
            None => Ok((table.name.clone(), None)),
            Some(other) if same_place(other) => Ok((other.name.clone(), Some(other.clone()))),
            Some(_) => {
                let place = format!("{}/{}", table.bucket, table.prefix);
                let suffix = format!("_{:08x}", crc32c::crc32c(place.as_bytes()));
                let name = format!("{}{suffix}", table.name);
                let found = tables.into_iter().find(|other| other.name == name);
                Ok((name, found))
            }
        }
    }

    /// Stores counts and the like; the schema is as it was, so the version stays.
    fn set_parameters(&self, table: &Table) -> Result<Table> {
        self.store().transact(|transaction| {
            let key = table_key(&table.database, &table.name);
            let Some(mut found) = transaction.get::<Table>(&key)? else {
                return Err(Error::not_found(format!("table {:?} is gone", table.name)));
            };
            found.row.parameters.clone_from(&table.parameters);
            transaction.put(&key, &found.row)?;
            Ok(found.row)
        })
    }

    fn drop_gone_partitions(&self, table: &Table, partitions: &[Partition]) -> Result<u64> {
        let there: BTreeSet<&[String]> =
            partitions.iter().map(|partition| partition.values.as_slice()).collect();
        self.store().transact(|transaction| {
            let mut removed = 0;
            let rows = rows_of(&table.database, &table.name);
            for (key, partition) in transaction.list_prefix::<Partition>(&rows)? {
                if !there.contains(partition.values.as_slice()) {
                    transaction.delete::<Partition>(&key)?;
                    removed += 1;
                }
            }
            Ok(removed)
        })
    }

    /// Marks this crawler's tables that have no objects any more.
    fn deprecate_others(&self, crawler: &Crawler, report: &mut Reporter) -> Result<()> {
        let folder = crawler.folder();
        let kept: BTreeSet<String> =
            report.0.tables.iter().map(|table| table.table.clone()).collect();
        for mut table in self.catalog().list_tables(&crawler.database)? {
            let ours = table.parameters.get(UPDATED_BY) == Some(&crawler.name)
                && table.bucket == crawler.bucket
                && table.prefix.starts_with(&folder);
            if !ours || kept.contains(&table.name) || table.parameters.contains_key(DEPRECATED_BY) {
                continue;
            }
            let now = self.clock().now().millis().to_string();
            table.parameters.insert(DEPRECATED_BY.into(), now);
            self.set_parameters(&table)?;
            report.0.tables.push(TableReport {
                table: table.name,
                change: TableChange::Deprecated,
                why: "it has no objects any more".into(),
                objects: 0,
                partitions_added: 0,
                partitions_removed: 0,
            });
        }
        Ok(())
    }
}

/// Builds the report; lists a bounded number of objects and counts all.
struct Reporter(CrawlReport);

impl Reporter {
    fn new(crawler: &str, found: usize) -> Self {
        Reporter(CrawlReport {
            crawler: crawler.to_owned(),
            found: found as u64,
            read: 0,
            bytes_read: 0,
            known: 0,
            left_out: 0,
            altered: 0,
            tables: Vec::new(),
            objects: Vec::new(),
        })
    }

    fn object(&mut self, key: &str, decision: Decision, why: &str) {
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

    fn finish(mut self) -> CrawlReport {
        self.0.objects.sort_by(|a, b| a.key.cmp(&b.key));
        self.0.tables.sort_by(|a, b| a.table.cmp(&b.table));
        self.0
    }
}

/// What a table at the include path itself is called after.
fn base_name(crawler: &Crawler, folder: &str) -> String {
    let last = folder.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    if last.is_empty() { crawler.bucket.clone() } else { last.to_owned() }
}

fn wanted_table(crawler: &Crawler, folder: &str, seen: &[Seen<'_>], found: &Found) -> Table {
    let mut table = Table::new(
        (crawler.database.clone(), layout::table_name(&crawler.table_prefix, &found.base_name)),
        (crawler.bucket.clone(), format!("{folder}{}", found.root)),
        found.format,
    );
    table.columns.clone_from(&found.columns);
    table.partition_keys.clone_from(&found.partition_keys);
    // The crawler's exclusions speak of keys beneath the include path; a table deeper down has
    // them beneath its own, so they are kept only where the two are the same.
    if found.root.is_empty() {
        table.exclusions.clone_from(&crawler.exclusions);
    }
    table.exclusions.extend(found.excluded.iter().cloned());
    let members = || found.members.iter().map(|index| &seen[*index]);
    let records: u64 = members().map(|object| object.records).sum();
    let bytes: u64 = members().map(|object| object.bytes).sum();
    let mut set = |key: &str, value: String| table.parameters.insert(key.to_owned(), value);
    set("classification", found.format.as_str().to_owned());
    set("compressionType", "none".to_owned());
    set("typeOfData", "file".to_owned());
    set("CrawlerSchemaSerializerVersion", "1.0".to_owned());
    set("objectCount", found.members.len().to_string());
    set("recordCount", records.to_string());
    set("averageRecordSize", (bytes / records.max(1)).to_string());
    set("sizeKey", bytes.to_string());
    set(UPDATED_BY, crawler.name.clone());
    table
}

/// Puts columns that were there before first, in the order they had.
fn keep_order(columns: &mut [Column], before: &[Column]) {
    let place: HashMap<&str, usize> =
        before.iter().enumerate().map(|(index, column)| (column.name.as_str(), index)).collect();
    columns.sort_by_key(|column| place.get(column.name.as_str()).copied().unwrap_or(usize::MAX));
}

/// What people wrote about columns stays.
fn keep_comments(table: &mut Table, before: &Table) {
    let comments: BTreeMap<&str, &Option<String>> =
        before.all_columns().map(|column| (column.name.as_str(), &column.comment)).collect();
    for column in table.columns.iter_mut().chain(&mut table.partition_keys) {
        if let Some(comment) = comments.get(column.name.as_str()) {
            column.comment.clone_from(comment);
        }
    }
}

fn partitions(table: &Table, below: &[&str], folder: &str, root: &str) -> Vec<Partition> {
    if table.partition_keys.is_empty() {
        return Vec::new();
    }
    let mut by_values = BTreeMap::new();
    for key in below {
        let inside = &key[root.len()..];
        let end = inside.rfind('/').map_or(0, |slash| slash + 1);
        let prefix = format!("{folder}{root}{}", &inside[..end]);
        by_values.entry(partition_values(table, inside)).or_insert(prefix);
    }
    let partition = |(values, prefix)| Partition {
        values,
        bucket: table.bucket.clone(),
        prefix,
        created_at: Timestamp(0),
    };
    by_values.into_iter().map(partition).collect()
}

fn idle(found: Option<metastore::Versioned<Crawler>>, name: &str) -> Result<Crawler> {
    match found {
        None => Err(no_crawler(name)),
        Some(found) if found.state != CrawlState::Ready => Err(Error::new(
            ErrorKind::Conflict,
            format!("crawler {name:?} is running; wait for it"),
        )),
        Some(found) => Ok(found.row),
    }
}

fn no_crawler(name: &str) -> Error {
    Error::not_found(format!("there is no crawler {name:?}"))
}
