//! Crawlers: what they look at, what they may change, and when they are due.

use base::{Error, ErrorKind, Result, Timestamp};
use metastore::{Row, Versioned};
use serde::{Deserialize, Serialize};

use super::history::{Crawl, CrawlReportRow};
use crate::catalog::delete_all;
use crate::glob::Globs;
use crate::{Lake, Schedule};

/// Longest name of a crawler, Glue's bound.
const NAME_BYTES_MAX: usize = 255;
/// Places of one crawler.
const TARGETS_MAX: usize = 100;

/// A place that a crawler looks at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrawlTarget {
    /// The bucket.
    pub bucket: String,
    /// The include path: a folder of the bucket, or empty for all of it.
    pub prefix: String,
    /// Globs on keys beneath the include path that are left out.
    #[serde(default)]
    pub exclusions: Vec<String>,
}

impl CrawlTarget {
    /// The include path as a prefix of keys.
    pub(super) fn folder(&self) -> String {
        match self.prefix.as_str() {
            "" => String::new(),
            folder if folder.ends_with('/') => folder.to_owned(),
            folder => format!("{folder}/"),
        }
    }

    /// What a table at the include path itself is called after.
    pub(super) fn base_name(&self) -> String {
        let last = self.prefix.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
        if last.is_empty() { self.bucket.clone() } else { last.to_owned() }
    }

    fn check(&self) -> Result<()> {
        if self.prefix.starts_with('/') || self.prefix.split('/').any(|part| part == "..") {
            return Err(Error::invalid(format!("{:?} is not a folder of a bucket", self.prefix)));
        }
        Globs::parse(&self.exclusions).map(drop)
    }
}

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
    /// Further places.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<CrawlTarget>,
    /// What it may do to tables that are there.
    #[serde(default)]
    pub policy: CrawlPolicy,
    /// Names of the classifiers that it asks, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classifiers: Vec<String>,
    /// When it runs by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<CrawlSchedule>,
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

/// When a crawler runs by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CrawlSchedule {
    /// The expression.
    pub expression: Schedule,
    /// Whether it is in force.
    pub on: bool,
    /// Until when it was looked at; what came due before is done with.
    pub seen: Timestamp,
}

/// What a crawler may do to tables that are there. The defaults are Glue's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CrawlPolicy {
    /// When the columns of a table have changed.
    pub update: UpdateBehavior,
    /// When the objects of a table or partition are gone.
    pub delete: DeleteBehavior,
    /// Which objects are looked at again.
    pub recrawl: RecrawlBehavior,
    /// Whether columns that are there keep their types and are never removed: new ones are
    /// added only.
    pub merge_new_columns: bool,
    /// What decides about tables.
    pub grouping: TableGrouping,
}

impl Default for CrawlPolicy {
    fn default() -> Self {
        CrawlPolicy {
            update: UpdateBehavior::UpdateInDatabase,
            delete: DeleteBehavior::DeprecateInDatabase,
            recrawl: RecrawlBehavior::CrawlEverything,
            merge_new_columns: false,
            grouping: TableGrouping::BySimilarity,
        }
    }
}

/// What is done when the columns of a table have changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UpdateBehavior {
    /// The table gets a new version.
    UpdateInDatabase,
    /// The report says so. New tables and partitions are still made.
    Log,
}

/// What is done when the objects of a table or partition are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DeleteBehavior {
    /// The report says so.
    Log,
    /// The table is dropped, with its versions.
    DeleteFromDatabase,
    /// The table is marked, and the partition removed.
    DeprecateInDatabase,
}

/// Which objects a crawl looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RecrawlBehavior {
    /// All that are new or changed.
    CrawlEverything,
    /// After the first crawl, those in folders that no crawl has looked into.
    CrawlNewFoldersOnly,
}

/// What decides which folders are tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableGrouping {
    /// What their objects have in common.
    BySimilarity,
    /// Each include path is one table.
    CombineCompatibleSchemas,
    /// Each folder at this depth is a table; the bucket has the depth 1.
    Level(u32),
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
            also: Vec::new(),
            policy: CrawlPolicy::default(),
            classifiers: Vec::new(),
            schedule: None,
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
        if self.also.len() >= TARGETS_MAX {
            let count = self.also.len() + 1;
            return Err(Error::invalid(format!("{count} places; at most {TARGETS_MAX}")));
        }
        for target in self.targets() {
            target.check()?;
            if let TableGrouping::Level(level) = self.policy.grouping {
                table_depth(level, &target)?;
            }
        }
        let logs =
            self.policy.update == UpdateBehavior::Log && self.policy.delete == DeleteBehavior::Log;
        if self.policy.recrawl == RecrawlBehavior::CrawlNewFoldersOnly && !logs {
            return Err(Error::invalid(
                "a crawler that looks at new folders only cannot tell what changed elsewhere: \
                 its UpdateBehavior and DeleteBehavior have to be LOG",
            ));
        }
        Ok(())
    }

    /// The places it looks at.
    pub fn targets(&self) -> Vec<CrawlTarget> {
        let first = CrawlTarget {
            bucket: self.bucket.clone(),
            prefix: self.prefix.clone(),
            exclusions: self.exclusions.clone(),
        };
        std::iter::once(first).chain(self.also.iter().cloned()).collect()
    }
}

/// How many folders beneath a target's include path its tables lie.
pub(super) fn table_depth(level: u32, target: &CrawlTarget) -> Result<usize> {
    let folders = target.folder().matches('/').count();
    let above = folders + 1;
    (level as usize).checked_sub(above).ok_or_else(|| {
        Error::invalid(format!(
            "table level {level} lies above the include path {:?}, which has the level {above}",
            target.prefix
        ))
    })
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
            delete_all::<CrawlReportRow>(transaction, &format!("{name}/"))?;
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

    /// Puts a crawler's schedule in force or out of it, also while it runs.
    pub fn set_crawler_schedule(
        &self,
        name: &str,
        change: impl FnOnce(Option<CrawlSchedule>) -> Result<Option<CrawlSchedule>>,
    ) -> Result<Crawler> {
        self.store().transact(|transaction| {
            let mut found = transaction.get::<Crawler>(name)?.ok_or_else(|| no_crawler(name))?.row;
            found.schedule = change(found.schedule.take())?;
            transaction.put(name, &found)?;
            Ok(found)
        })
    }

    /// The crawlers that have come due by `now`; each is said once. One that came due several
    /// times while nobody asked, is due once.
    pub fn take_due_crawlers(&self, now: Timestamp) -> Result<Vec<String>> {
        let is_due = |crawler: &Crawler| {
            let on = crawler.schedule.as_ref().filter(|schedule| schedule.on);
            on.is_some_and(|schedule| schedule.expression.was_due(schedule.seen, now))
        };
        // Mostly none is, and then nothing needs to be written.
        if !self.list_crawlers()?.iter().any(is_due) {
            return Ok(Vec::new());
        }
        self.store().transact(|transaction| {
            let mut due = Vec::new();
            for (name, found) in transaction.list::<Crawler>()? {
                let mut crawler = found.row;
                if !is_due(&crawler) {
                    continue;
                }
                if let Some(schedule) = &mut crawler.schedule {
                    schedule.seen = now;
                }
                transaction.put(&name, &crawler)?;
                due.push(name);
            }
            Ok(due)
        })
    }
}

/// The crawler if it does not run.
pub(super) fn idle(found: Option<Versioned<Crawler>>, name: &str) -> Result<Crawler> {
    match found {
        None => Err(no_crawler(name)),
        Some(found) if found.state != CrawlState::Ready => Err(Error::new(
            ErrorKind::Conflict,
            format!("crawler {name:?} is running; wait for it"),
        )),
        Some(found) => Ok(found.row),
    }
}

pub(super) fn no_crawler(name: &str) -> Error {
    Error::not_found(format!("there is no crawler {name:?}"))
}
