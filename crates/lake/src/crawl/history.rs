//! Crawls as rows: what each run of a crawler came to.

use base::{Error, ErrorKind, Result, Timestamp};
use metastore::{Row, Transaction};
use serde::{Deserialize, Serialize};

use super::settings::no_crawler;
use super::{CrawlReport, CrawlState, Crawler, LastCrawl, TableChange};
use crate::Lake;

/// Crawls of a crawler that are remembered.
const CRAWLS_KEPT: usize = 100;

/// Reports of a crawler that are kept: the long ones take a megabyte.
const REPORTS_KEPT: usize = 10;

/// What a crawl reported, by the key of the crawl.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct CrawlReportRow(CrawlReport);

impl Row for CrawlReportRow {
    const TABLE: &'static str = "crawl_reports";
}

/// One run of a crawler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crawl {
    /// A UUID.
    pub id: String,
    /// Its crawler.
    pub crawler: String,
    /// How it ended.
    pub outcome: CrawlOutcome,
    /// When it began.
    pub started_at: Timestamp,
    /// When it was over.
    pub finished_at: Option<Timestamp>,
    /// Why it failed.
    pub error: Option<String>,
    /// Tables that are new.
    pub tables_created: u64,
    /// Tables that have a new version.
    pub tables_updated: u64,
    /// Tables found to have no objects any more.
    pub tables_deprecated: u64,
    /// Partitions that are new.
    pub partitions_added: u64,
    /// Partitions whose objects are gone.
    pub partitions_removed: u64,
}

/// How a crawl ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum CrawlOutcome {
    /// It did not yet.
    Running,
    /// The catalog says what there is.
    Completed,
    /// It ran into an error.
    Failed,
    /// It was told to stop.
    Stopped,
}

impl Row for Crawl {
    const TABLE: &'static str = "crawls";
}

impl Crawl {
    /// Stores a crawl that begins, and forgets those beyond what is kept.
    pub(super) fn begin(
        transaction: &mut Transaction<'_>,
        crawler: &str,
        started_at: Timestamp,
    ) -> Result<Crawl> {
        let crawl = Crawl {
            id: uuid::Uuid::new_v4().to_string(),
            crawler: crawler.to_owned(),
            outcome: CrawlOutcome::Running,
            started_at,
            finished_at: None,
            error: None,
            tables_created: 0,
            tables_updated: 0,
            tables_deprecated: 0,
            partitions_added: 0,
            partitions_removed: 0,
        };
        let before = transaction.list_prefix::<Crawl>(&format!("{crawler}/"))?;
        let too_many = (before.len() + 1).saturating_sub(CRAWLS_KEPT);
        for (key, _) in before.iter().take(too_many) {
            transaction.delete::<Crawl>(key)?;
        }
        transaction.put(&crawl.key(), &crawl)?;
        Ok(crawl)
    }

    /// Keys sort by the time of the start.
    fn key(&self) -> String {
        format!("{}/{:020}-{}", self.crawler, self.started_at.millis(), self.id)
    }

    fn count(&mut self, report: &CrawlReport) {
        for table in &report.tables {
            match table.change {
                TableChange::Created => self.tables_created += 1,
                TableChange::Updated => self.tables_updated += 1,
                TableChange::Deprecated | TableChange::Deleted => self.tables_deprecated += 1,
                TableChange::Unchanged | TableChange::LeftAlone | TableChange::Logged => {}
            }
            self.partitions_added += table.partitions_added;
            self.partitions_removed += table.partitions_removed;
        }
    }
}

impl Lake {
    /// The crawls of a crawler, newest first: the last hundred.
    pub fn list_crawls(&self, crawler: &str) -> Result<Vec<Crawl>> {
        self.get_crawler(crawler)?;
        let rows = self.store().list_prefix::<Crawl>(&format!("{crawler}/"))?;
        Ok(rows.into_iter().rev().map(|(_, found)| found.row).collect())
    }

    /// What a crawl reported: the last that did, or the one with this id. The last ten are kept.
    pub fn crawl_report(&self, crawler: &str, id: Option<&str>) -> Result<(Crawl, CrawlReport)> {
        for crawl in self.list_crawls(crawler)? {
            if id.is_some_and(|id| id != crawl.id) {
                continue;
            }
            if let Some(found) = self.store().get::<CrawlReportRow>(&crawl.key())? {
                return Ok((crawl, found.row.0));
            }
        }
        let which =
            id.map_or("crawler has".to_owned(), |id| format!("crawl {id:?} of crawler has"));
        Err(Error::not_found(format!(
            "{crawler:?}: the {which} no report; the last {REPORTS_KEPT} of crawls that went to \
             their end are kept"
        )))
    }

    /// Fails once the crawler is told to stop.
    pub(super) fn go_on(&self, crawler: &Crawler) -> Result<()> {
        match self.get_crawler(&crawler.name)?.state {
            CrawlState::Stopping => Err(Error::new(
                ErrorKind::Conflict,
                format!("crawler {:?} was stopped", crawler.name),
            )),
            CrawlState::Ready | CrawlState::Running => Ok(()),
        }
    }

    /// Makes the crawler ready again, and says how its crawl went.
    pub(super) fn end_crawl(
        &self,
        mut crawl: Crawl,
        ended: std::result::Result<&CrawlReport, &Error>,
    ) -> Result<()> {
        let finished_at = self.clock().now();
        self.store().transact(|transaction| {
            let name = crawl.crawler.clone();
            let found = transaction.get::<Crawler>(&name)?.ok_or_else(|| no_crawler(&name))?;
            let stopped = found.state == CrawlState::Stopping && ended.is_err();
            crawl.finished_at = Some(finished_at);
            crawl.outcome = match ended {
                Ok(_) => CrawlOutcome::Completed,
                Err(_) if stopped => CrawlOutcome::Stopped,
                Err(_) => CrawlOutcome::Failed,
            };
            match ended {
                Ok(report) => {
                    crawl.count(report);
                    let before = transaction.list_prefix::<CrawlReportRow>(&format!("{name}/"))?;
                    let too_many = (before.len() + 1).saturating_sub(REPORTS_KEPT);
                    for (key, _) in before.iter().take(too_many) {
                        transaction.delete::<CrawlReportRow>(key)?;
                    }
                    transaction.put(&crawl.key(), &CrawlReportRow(report.clone()))?;
                }
                Err(error) => crawl.error = (!stopped).then(|| error.to_string()),
            }
            transaction.put(&crawl.key(), &crawl)?;
            let started_at = crawl.started_at;
            let error = crawl.error.clone();
            let last = Some(LastCrawl { started_at, finished_at, error, stopped });
            let crawler = Crawler { state: CrawlState::Ready, last, ..found.row };
            transaction.put(&name, &crawler).map(drop)
        })
    }
}
