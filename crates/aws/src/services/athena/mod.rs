//! Athena: SQL over the catalog.
//!
//! ```text
//! StartQueryExecution ─▶ a row (QUEUED) ─▶ a task: its turn ─▶ RUNNING ─▶ engine or catalog
//!                                              │                           │
//! StopQueryExecution ─▶ its signal ────────────┘     result object ◀───────┘ ─▶ row (final)
//! ```
//!
//! Invariants
//! * A row that is not final belongs to a task of this process; one that does not (the server
//!   was restarted) is FAILED as soon as anybody looks, or SUCCEEDED if what it wrote was as good
//!   as there.
//! * The result object is durable before its row says SUCCEEDED.
//! * At most [`AT_ONCE`] queries run; the others are QUEUED.

mod catalog;
mod definition;
mod execution;
mod prepared;
mod results;
mod run;
mod sinks;
mod statement;
mod workgroups;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use base::{Error, ErrorKind, Result};
use tokio::sync::{Semaphore, watch};

use crate::call::{Service, operation};
use crate::protocol::Protocol;

pub(crate) static SERVICE: Service = Service {
    name: "athena",
    scopes: &["athena"],
    protocol: Protocol::Json { target: "AmazonAthena", version: "1.1" },
    codes,
    body_bytes_max: 2 * 1024 * 1024,
    operations: &[
        operation!("StartQueryExecution", execution::start, differs: "no encryption, ACL or reuse of results; Iceberg tables, and what docs/sql.md lists as absent, end FAILED; no .metadata object"),
        operation!("GetQueryExecution", execution::get),
        operation!("BatchGetQueryExecution", execution::batch_get),
        operation!("ListQueryExecutions", execution::list),
        operation!("StopQueryExecution", execution::stop),
        operation!("GetQueryResults", results::get_query_results, differs: "SchemaName and TableName are empty"),
        operation!("CreatePreparedStatement", prepared::create),
        operation!("UpdatePreparedStatement", prepared::update),
        operation!("GetPreparedStatement", prepared::get),
        operation!("ListPreparedStatements", prepared::list),
        operation!("DeletePreparedStatement", prepared::delete),
        operation!("CreateWorkGroup", workgroups::create, differs: "of Configuration only the output location, EnforceWorkGroupConfiguration, BytesScannedCutoffPerQuery and the engine version"),
        operation!("GetWorkGroup", workgroups::get),
        operation!("ListWorkGroups", workgroups::list),
        operation!("UpdateWorkGroup", workgroups::update, differs: "as CreateWorkGroup"),
        operation!("DeleteWorkGroup", workgroups::delete),
        operation!("TagResource", workgroups::tag, differs: "workgroups only"),
        operation!("UntagResource", workgroups::untag, differs: "workgroups only"),
        operation!("ListTagsForResource", workgroups::list_tags, differs: "workgroups only"),
        operation!("ListDataCatalogs", catalog::list_catalogs, differs: "AwsDataCatalog only"),
        operation!("GetDataCatalog", catalog::get_catalog, differs: "AwsDataCatalog only"),
        operation!("ListDatabases", catalog::list_databases),
        operation!("GetDatabase", catalog::get_database),
        operation!("ListTableMetadata", catalog::list_tables, differs: "no Expression"),
        operation!("GetTableMetadata", catalog::get_table),
    ],
};

fn codes(kind: ErrorKind) -> (&'static str, u16) {
    match kind {
        ErrorKind::NotFound => ("InvalidRequestException", 400),
        ErrorKind::AlreadyExists => ("InvalidRequestException", 400),
        ErrorKind::Conflict => ("InvalidRequestException", 400),
        ErrorKind::Denied => ("InvalidRequestException", 400),
        ErrorKind::Invalid | ErrorKind::Unsupported => ("InvalidRequestException", 400),
        ErrorKind::Exhausted | ErrorKind::Unavailable => ("ServiceUnavailable", 503),
        ErrorKind::Corrupt | ErrorKind::Internal => ("InternalServerException", 500),
    }
}

/// Queries that run at once: more would only share the same processors and memory.
const AT_ONCE: usize = 4;

/// Athena's queries of this process that have not ended.
#[derive(Debug)]
pub struct Queries {
    turns: Arc<Semaphore>,
    running: Mutex<HashMap<String, Handle>>,
    /// Sweeps once what a killed process left where files are staged.
    swept: Once,
}

/// How one query's task is told to stop, and tells that it has ended.
#[derive(Clone, Debug)]
struct Handle {
    stop: Arc<watch::Sender<bool>>,
    ended: watch::Receiver<()>,
}

/// Held by a query's task; dropping it takes the query off the list, also after a panic.
struct Task {
    queries: Arc<Queries>,
    id: String,
    stopped: watch::Receiver<bool>,
    /// Its end is what [`Handle::ended`] waits for.
    _ended: watch::Sender<()>,
}

impl Default for Queries {
    fn default() -> Queries {
        Queries {
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            running: Mutex::new(HashMap::new()),
            swept: Once::new(),
        }
    }
}

impl Queries {
    fn running(&self) -> MutexGuard<'_, HashMap<String, Handle>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_running(&self, id: &str) -> bool {
        self.running().contains_key(id)
    }

    fn handle(&self, id: &str) -> Option<Handle> {
        self.running().get(id).cloned()
    }

    fn enter(self: &Arc<Self>, id: &str) -> Task {
        let (stop, stopped) = watch::channel(false);
        let (ending, ended) = watch::channel(());
        let handle = Handle { stop: Arc::new(stop), ended };
        self.running().insert(id.to_owned(), handle);
        Task { queries: Arc::clone(self), id: id.to_owned(), stopped, _ended: ending }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.queries.running().remove(&self.id);
    }
}

impl Task {
    /// Waits until somebody wants the query stopped.
    async fn stopped(&mut self) {
        if self.stopped.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Bucket and key of `s3://bucket/key`.
fn location(uri: &str) -> Result<(String, String)> {
    let (bucket, key) = match uri.strip_prefix("s3://") {
        Some(rest) => rest.split_once('/').unwrap_or((rest, "")),
        None => ("", ""),
    };
    match bucket.is_empty() {
        false => Ok((bucket.to_owned(), key.to_owned())),
        true => Err(Error::invalid(format!(
            "{uri:?} is not a location; write it as s3://bucket/prefix/"
        ))),
    }
}

/// A location with the `/` that what lies beneath it is joined to.
fn folder(uri: &str) -> Result<String> {
    let (bucket, key) = location(uri)?;
    let key = key.trim_matches('/');
    Ok(if key.is_empty() { format!("s3://{bucket}/") } else { format!("s3://{bucket}/{key}/") })
}
