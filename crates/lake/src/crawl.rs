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

mod by_path;
mod classifier;
mod history;
mod layout;
mod look;
mod report;
mod settings;
mod shape;

pub use classifier::{Classifier, ClassifierKind};
pub use history::{Crawl, CrawlOutcome};
pub use report::{CrawlReport, Decision, ObjectReport, TableChange, TableReport};
pub use settings::{
    CrawlPolicy, CrawlSchedule, CrawlState, CrawlTarget, Crawler, DeleteBehavior, LastCrawl,
    RecrawlBehavior, TableGrouping, UpdateBehavior,
};

use std::collections::{BTreeMap, BTreeSet, HashMap};

use base::{Error, ErrorKind, Result, Timestamp};
use formats::csv::{Dialect, Header};
use futures::{StreamExt, TryStreamExt};
use metastore::{Metastore, Row};
use objects::ObjectMeta;
use serde::{Deserialize, Serialize};

use crate::catalog::{rows_of, table_key};
use crate::glob::Globs;
use crate::lake::{blocking, is_hidden, partition_values};
use crate::{Column, FileSource, Format, Lake, Partition, RECORDS_PATH, Table};

use layout::{Found, Grouping, Seen};
use look::Look;
use report::Reporter;
use settings::idle;

/// Objects that are looked into at the same time.
const LOOKS_AT_ONCE: usize = 2;
/// Looks that are stored in one transaction.
const LOOKS_PER_TRANSACTION: usize = 500;
/// What [`look`] understands. An object that it did not, when it understood less, is looked at
/// again.
const LOOK_VERSION: u32 = 1;
/// Table parameters that say which crawler keeps it, and since when it has no objects.
const UPDATED_BY: &str = "UPDATED_BY_CRAWLER";
const DEPRECATED_BY: &str = "DEPRECATED_BY_CRAWLER";

/// What a crawl found out about an object, whatever crawler it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CrawledObject {
    etag: String,
    /// [`LOOK_VERSION`] of the time.
    #[serde(default)]
    version: u32,
    /// [`classifier::fingerprint`] of those that it was looked at with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    classifiers: String,
    look: Look,
}

impl Row for CrawledObject {
    const TABLE: &'static str = "crawled_objects";
}

/// Whether an object can be part of a table, as far as a crawl found out.
pub(crate) enum Fit {
    /// It has this format, CSV this dialect, and JSON its records at this path.
    Format(Format, Option<Dialect>, Option<String>),
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
    let rows = store.list_prefix::<FitRow>(&format!("{bucket}/{prefix}"))?;
    let fit = |look: FitLook| match look {
        FitLook::Understood { format, csv, path } => Fit::Format(format, csv, path),
        FitLook::NotUnderstood {} => Fit::Never,
        FitLook::Altered {} => Fit::Altered,
    };
    // A bucket's name has no slash, so what follows the first one is the key.
    let key = |row: &str| row[bucket.len() + 1..].to_owned();
    let known = |found: FitRow| (found.etag, fit(found.look));
    Ok(rows.into_iter().map(|(row, found)| (key(&row), known(found.row))).collect())
}

/// The part of a [`CrawledObject`] that a query needs: of a hundred thousand objects it would not
/// do to read the columns of each.
#[derive(Serialize, Deserialize)]
struct FitRow {
    etag: String,
    look: FitLook,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum FitLook {
    Understood {
        format: Format,
        #[serde(default)]
        csv: Option<Dialect>,
        #[serde(default)]
        path: Option<String>,
    },
    NotUnderstood {},
    Altered {},
}

impl Row for FitRow {
    const TABLE: &'static str = CrawledObject::TABLE;
}

/// Whether a crawler keeps the table's schema.
pub(crate) fn is_kept(table: &Table) -> bool {
    table.parameters.contains_key(UPDATED_BY)
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

impl Lake {
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
        let classifiers = self.classifiers_of(&crawler.classifiers)?;
        let mut report = Reporter::new(&crawler.name);
        // Everything is looked at before anything is changed, so that who is stopped, and who
        // finds a bucket gone, leaves the catalog as it was.
        let mut places = Vec::new();
        for target in crawler.targets() {
            places.push(self.look_at(crawler, target, &classifiers, &mut report).await?);
        }
        self.go_on(crawler)?;
        for place in &places {
            self.keep_tables(crawler, place, &mut report)?;
        }
        self.settle_others(crawler, &mut report)?;
        Ok(report.finish())
    }

    /// Finds out what lies at a target.
    async fn look_at(
        &self,
        crawler: &Crawler,
        target: CrawlTarget,
        classifiers: &[ClassifierKind],
        report: &mut Reporter,
    ) -> Result<Place> {
        let fingerprint = classifier::fingerprint(classifiers)?;
        self.buckets().expect_here(&target.bucket)?;
        let folder = target.folder();
        let exclusions = Globs::parse(&target.exclusions)?;
        let listed = self.buckets().list(&target.bucket, &folder).await?;
        let mut known = known_objects(self.store(), &target.bucket, &folder)?;
        self.forget_gone(&target.bucket, &listed, &known)?;

        let old_folders = old_folders(crawler, &known);
        report.0.found += listed.len() as u64;
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
            let is_old = found.version < LOOK_VERSION;
            let likewise = found.classifiers == fingerprint;
            likewise
                && wanted
                    .binary_search_by(|object| object.key.as_str().cmp(key))
                    .is_ok_and(|index| wanted[index].etag == found.etag)
                && match found.look {
                    Look::Understood { .. } => true,
                    Look::NotUnderstood { .. } => !is_old,
                    // It may have been put right since.
                    Look::Altered { .. } => false,
                }
        });
        if let Some(old) = old_folders {
            wanted.retain(|object| {
                let goes_on =
                    known.contains_key(&object.key) || !old.contains(folder_of(&object.key));
                if !goes_on {
                    let why = "its folder was crawled before, and only new folders are";
                    report.object(&object.key, Decision::LeftOut, why);
                }
                goes_on
            });
        }
        let unknown: Vec<ObjectMeta> =
            wanted.iter().filter(|object| !known.contains_key(&object.key)).cloned().collect();
        let fresh = unknown.iter().map(|object| object.key.clone()).collect();
        report.0.read += unknown.len() as u64;
        report.0.bytes_read += unknown.iter().map(|object| object.bytes).sum::<u64>();
        let with = (classifiers, fingerprint.as_str());
        self.look_into(crawler, &target.bucket, unknown, with, &mut known).await?;
        Ok(Place { target, folder, wanted, known, fresh })
    }

    /// Makes the tables of a place what was found there.
    fn keep_tables(&self, crawler: &Crawler, place: &Place, report: &mut Reporter) -> Result<()> {
        let mut seen = Vec::new();
        for object in &place.wanted {
            let Some(found) = place.known.get(&object.key) else { continue };
            match &found.look {
                Look::Understood { format, csv, path, shape, records, .. } => seen.push(Seen {
                    below: &object.key[place.folder.len()..],
                    format: *format,
                    csv: csv.as_ref(),
                    path: path.as_deref(),
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
        let grouping = match crawler.policy.grouping {
            TableGrouping::BySimilarity => Grouping::BySimilarity,
            TableGrouping::CombineCompatibleSchemas => Grouping::Combine,
            TableGrouping::Level(level) => {
                Grouping::Level(settings::table_depth(level, &place.target)?)
            }
        };
        let found = layout::layout(&seen, &place.target.base_name(), grouping);
        for (index, why) in &found.homeless {
            let key = format!("{}{}", place.folder, seen[*index].below);
            report.object(&key, Decision::LeftOut, why);
        }
        for table in found.tables {
            self.keep_table(crawler, place, &seen, table, report)?;
        }
        Ok(())
    }

    /// Looks into objects, a few at a time, and remembers what was found.
    async fn look_into(
        &self,
        crawler: &Crawler,
        bucket: &str,
        objects: Vec<ObjectMeta>,
        (classifiers, fingerprint): (&[ClassifierKind], &str),
        known: &mut HashMap<String, CrawledObject>,
    ) -> Result<()> {
        let looks = futures::stream::iter(objects)
            .map(|object| async move {
                self.go_on(crawler)?;
                let (buckets, bucket) = (self.buckets().clone(), bucket.to_owned());
                let (told, with) = (classifiers.to_vec(), fingerprint.to_owned());
                let looked = blocking(move || {
                    let look = look::look(&buckets, &bucket, &object.key, &told);
                    let (etag, version, classifiers) = (object.etag, LOOK_VERSION, with);
                    let found = CrawledObject { etag, version, classifiers, look };
                    Ok((object.key, found))
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
        bucket: &str,
        listed: &[ObjectMeta],
        known: &HashMap<String, CrawledObject>,
    ) -> Result<()> {
        let there: BTreeSet<&str> = listed.iter().map(|object| object.key.as_str()).collect();
        let mut gone: Vec<&String> =
            known.keys().filter(|key| !there.contains(key.as_str())).collect();
        gone.sort();
        if gone.is_empty() {
            return Ok(());
        }
        self.store().transact(|transaction| {
            for key in gone {
                transaction.delete::<CrawledObject>(&format!("{bucket}/{key}"))?;
            }
            Ok(())
        })
    }

    /// Makes the catalog's table what was found.
    fn keep_table(
        &self,
        crawler: &Crawler,
        place: &Place,
        seen: &[Seen<'_>],
        found: Found,
        report: &mut Reporter,
    ) -> Result<()> {
        let folder = place.folder.as_str();
        let key_of = |index: usize| format!("{folder}{}", seen[index].below);
        for (index, why) in &found.odd {
            report.object(&key_of(*index), Decision::LeftOut, why);
        }
        let table = wanted_table(crawler, place, seen, &found);
        let (name, existing) = self.place_of(crawler, &table)?;
        let mut table = Table { name, ..table };
        for index in &found.members {
            let key = key_of(*index);
            let read = if place.fresh.contains(&key) { Decision::Read } else { Decision::Known };
            let but = place.known.get(&key).map(|found| found.look.but()).unwrap_or_default();
            report.object(&key, read, &format!("it is in table {:?}{but}", table.name));
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
                // What another format held says nothing of this one.
                if crawler.policy.merge_new_columns && existing.format == table.format {
                    merge_new(&mut table.columns, &existing.columns);
                }
                keep_order(&mut table.columns, &existing.columns);
                keep_comments(&mut table, &existing);
                table.version = existing.version;
                if existing.means_the_same(&table) {
                    self.set_parameters(&table)?
                } else if crawler.policy.update == UpdateBehavior::Log {
                    line.change = TableChange::Logged;
                    line.why = format!("it is left as it is: {}", difference(&existing, &table));
                    existing
                } else {
                    line.change = TableChange::Updated;
                    line.why = format!("{}; {}", line.why, difference(&existing, &table));
                    self.catalog().update_table(table)?
                }
            }
        };
        // A table that is left as it is has the partition keys that it has.
        if table.partition_keys.len() != found.partition_keys.len() {
            report.0.tables.push(line);
            return Ok(());
        }
        let below: Vec<&str> = found.members.iter().map(|index| seen[*index].below).collect();
        let partitions = partitions(&table, &below, folder, &found.root);
        if crawler.policy.delete != DeleteBehavior::Log {
            line.partitions_removed = self.drop_gone_partitions(&table, &partitions)?;
        }
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

    /// Does with this crawler's tables that have no objects any more as it is to.
    fn settle_others(&self, crawler: &Crawler, report: &mut Reporter) -> Result<()> {
        let targets: Vec<(String, String)> =
            crawler.targets().iter().map(|t| (t.bucket.clone(), t.folder())).collect();
        let kept: BTreeSet<String> =
            report.0.tables.iter().map(|table| table.table.clone()).collect();
        for mut table in self.catalog().list_tables(&crawler.database)? {
            let ours = table.parameters.get(UPDATED_BY) == Some(&crawler.name)
                && targets.iter().any(|(bucket, folder)| {
                    table.bucket == *bucket && table.prefix.starts_with(folder)
                });
            if !ours || kept.contains(&table.name) || table.parameters.contains_key(DEPRECATED_BY) {
                continue;
            }
            let mut line = TableReport {
                table: table.name.clone(),
                change: TableChange::Deprecated,
                why: "it has no objects any more".into(),
                objects: 0,
                partitions_added: 0,
                partitions_removed: 0,
            };
            match crawler.policy.delete {
                DeleteBehavior::Log => {
                    line.change = TableChange::Logged;
                    line.why = "it has no objects any more, and is left as it is".into();
                }
                DeleteBehavior::DeleteFromDatabase => {
                    line.change = TableChange::Deleted;
                    self.catalog().drop_table(&table.database, &table.name)?;
                }
                DeleteBehavior::DeprecateInDatabase => {
                    let now = self.clock().now().millis().to_string();
                    table.parameters.insert(DEPRECATED_BY.into(), now);
                    self.set_parameters(&table)?;
                }
            }
            report.0.tables.push(line);
        }
        Ok(())
    }
}

/// What lies at a target.
struct Place {
    target: CrawlTarget,
    folder: String,
    /// Objects that are to be in tables, by key.
    wanted: Vec<ObjectMeta>,
    known: HashMap<String, CrawledObject>,
    /// Keys of those that this crawl has read.
    fresh: BTreeSet<String>,
}

fn folder_of(key: &str) -> &str {
    key.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// The folders that a crawler of new folders has been in.
fn old_folders(
    crawler: &Crawler,
    known: &HashMap<String, CrawledObject>,
) -> Option<BTreeSet<String>> {
    let only_new = crawler.policy.recrawl == RecrawlBehavior::CrawlNewFoldersOnly;
    (only_new && crawler.last.is_some())
        .then(|| known.keys().map(|key| folder_of(key).to_owned()).collect())
}

/// Columns that are there as they are, then those that are new.
fn merge_new(columns: &mut Vec<Column>, before: &[Column]) {
    let there: BTreeSet<&str> = before.iter().map(|column| column.name.as_str()).collect();
    columns.retain(|column| !there.contains(column.name.as_str()));
    columns.splice(0..0, before.iter().cloned());
}

/// What the objects have that the table does not say, and the other way round.
fn difference(before: &Table, now: &Table) -> String {
    let types = |table: &Table| -> BTreeMap<String, String> {
        let column = |column: &Column| (column.name.clone(), column.hive_type.clone());
        table.all_columns().map(column).collect()
    };
    let (old, new) = (types(before), types(now));
    let mut said = Vec::new();
    for (name, kind) in &new {
        match old.get(name) {
            None => said.push(format!("{name:?} {kind} is new")),
            Some(was) if was != kind => said.push(format!("{name:?} was {was} and is {kind}")),
            Some(_) => {}
        }
    }
    said.extend(
        old.keys().filter(|name| !new.contains_key(*name)).map(|n| format!("{n:?} is gone")),
    );
    if (before.format, &before.csv) != (now.format, &now.csv) {
        said.push(format!("it was {} and is {}", before.format.as_str(), now.format.as_str()));
    }
    if said.is_empty() {
        said.push("its exclusions or the order of its columns are others".into());
    }
    said.join(", ")
}

fn wanted_table(crawler: &Crawler, place: &Place, seen: &[Seen<'_>], found: &Found) -> Table {
    let folder = place.folder.as_str();
    let mut table = Table::new(
        (crawler.database.clone(), layout::table_name(&crawler.table_prefix, &found.base_name)),
        (place.target.bucket.clone(), format!("{folder}{}", found.root)),
        found.format,
    );
    table.csv.clone_from(&found.csv);
    table.columns.clone_from(&found.columns);
    table.partition_keys.clone_from(&found.partition_keys);
    // The crawler's exclusions speak of keys beneath the include path; a table deeper down has
    // them beneath its own, so they are kept only where the two are the same.
    if found.root.is_empty() {
        table.exclusions.clone_from(&place.target.exclusions);
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
    if let Some(path) = &found.path {
        set(RECORDS_PATH, path.clone());
    }
    if let Some(csv) = &found.csv {
        set("delimiter", char::from(csv.delimiter).to_string());
        set("columnsOrdered", "true".to_owned());
        set("areColumnsQuoted", "false".to_owned());
        if csv.header == Header::Names {
            set("skip.header.line.count", "1".to_owned());
        }
    }
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
