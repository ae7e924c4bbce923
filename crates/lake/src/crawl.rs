//! The crawler.

use std::collections::HashMap;

use base::Result;
use metastore::{Metastore, Row};
use serde::{Deserialize, Serialize};

use crate::Format;

/// What a crawl found out about an object, whatever crawler it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct CrawledObject {
    pub(crate) etag: String,
    pub(crate) format: Option<Format>,
}

impl Row for CrawledObject {
    const TABLE: &'static str = "crawled_objects";
}

/// What is known of the formats of the objects beneath `prefix`: etag and format by key.
pub(crate) fn known_formats(
    store: &Metastore,
    bucket: &str,
    prefix: &str,
) -> Result<HashMap<String, (String, Option<Format>)>> {
    let rows = store.list_prefix::<CrawledObject>(&format!("{bucket}/{prefix}"))?;
    let key = |row: &str| row[bucket.len() + 1..].to_owned();
    Ok(rows
        .into_iter()
        .map(|(row, found)| (key(&row), (found.row.etag, found.row.format)))
        .collect())
}
