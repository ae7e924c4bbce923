//! Query executions: their rows, and what is asked about them.

use std::sync::Arc;

use base::Timestamp;
use metastore::Row;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::results::Column;
use super::{folder, prepared, run, workgroups};
use crate::call::{Call, Outcome};
use crate::fault::Fault;
use crate::lenient;
use crate::page::page;
use crate::rooms::{Rooms, epoch_secs};

/// Longest statement, Athena's own bound.
const QUERY_BYTES_MAX: usize = 262_144;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

impl State {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            State::Queued => "QUEUED",
            State::Running => "RUNNING",
            State::Succeeded => "SUCCEEDED",
            State::Failed => "FAILED",
            State::Cancelled => "CANCELLED",
        }
    }

    pub(super) fn is_final(self) -> bool {
        !matches!(self, State::Queued | State::Running)
    }
}

/// One run of a statement.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Execution {
    pub(super) id: String,
    pub(super) query: String,
    pub(super) kind: String,
    pub(super) workgroup: String,
    pub(super) database: Option<String>,
    pub(super) catalog: Option<String>,
    /// The folder that results go to.
    pub(super) folder: String,
    /// The result object.
    pub(super) output: String,
    pub(super) state: State,
    pub(super) reason: Option<String>,
    /// Whether the failure was ours, not the statement's.
    pub(super) our_fault: bool,
    pub(super) submitted_at: Timestamp,
    pub(super) ended_at: Option<Timestamp>,
    pub(super) queued_millis: u64,
    pub(super) engine_millis: u64,
    pub(super) total_millis: u64,
    pub(super) bytes_scanned: u64,
    pub(super) columns: Vec<Column>,
    pub(super) update_count: u64,
    /// Bytes that it may read, as its workgroup had it.
    #[serde(default)]
    pub(super) bytes_scanned_max: Option<u64>,
}

impl Row for Execution {
    const TABLE: &'static str = "aws-athena-executions";
}

impl Execution {
    /// Whether the result is CSV, with a header.
    pub(super) fn is_table(&self) -> bool {
        self.output.ends_with(".csv") && self.kind != "DDL"
    }

    /// Whether the result is lines of text.
    pub(super) fn is_text(&self) -> bool {
        self.output.ends_with(".txt")
    }

    /// Whether the statement writes files of its own: then it has no result object but the list
    /// of those, by which clients find them.
    pub(super) fn writes(&self) -> bool {
        self.output.ends_with(&self.id)
    }

    fn shown(&self) -> Value {
        let mut status = json!({
            "State": self.state.as_str(),
            "SubmissionDateTime": epoch_secs(self.submitted_at),
        });
        if let Some(at) = self.ended_at {
            status["CompletionDateTime"] = json!(epoch_secs(at));
        }
        if let Some(reason) = &self.reason {
            status["StateChangeReason"] = json!(reason);
            if self.state == State::Failed {
                status["AthenaError"] = json!({
                    "ErrorCategory": if self.our_fault { 1 } else { 2 },
                    "Retryable": self.our_fault,
                    "ErrorMessage": reason,
                });
            }
        }
        let mut context = json!({});
        if let Some(database) = &self.database {
            context["Database"] = json!(database);
        }
        if let Some(catalog) = &self.catalog {
            context["Catalog"] = json!(catalog);
        }
        let service =
            self.total_millis.saturating_sub(self.queued_millis).saturating_sub(self.engine_millis);
        let mut statistics = json!({
            "EngineExecutionTimeInMillis": self.engine_millis,
            "DataScannedInBytes": self.bytes_scanned,
            "TotalExecutionTimeInMillis": self.total_millis,
            "QueryQueueTimeInMillis": self.queued_millis,
            "ServiceProcessingTimeInMillis": service,
            "ResultReuseInformation": {"ReusedPreviousResult": false},
        });
        if self.state == State::Succeeded && self.writes() {
            statistics["DataManifestLocation"] = json!(format!("{}-manifest.csv", self.output));
        }
        json!({
            "QueryExecutionId": self.id,
            "Query": self.query,
            "StatementType": self.kind,
            "ResultConfiguration": {"OutputLocation": self.output},
            "ResultReuseConfiguration": {"ResultReuseByAgeConfiguration": {"Enabled": false}},
            "QueryExecutionContext": context,
            "Status": status,
            "Statistics": statistics,
            "WorkGroup": self.workgroup,
            "EngineVersion": workgroups::engine_version("AUTO"),
        })
    }
}

/// Puts an execution into its workgroup's list, newest first: the key is all it says.
#[derive(Serialize, Deserialize)]
pub(super) struct Listed {}

impl Row for Listed {
    const TABLE: &'static str = "aws-athena-history";
}

/// Which execution a ClientRequestToken made.
#[derive(Serialize, Deserialize)]
struct Requested {
    id: String,
    query: String,
}

impl Row for Requested {
    const TABLE: &'static str = "aws-athena-requests";
}

fn history_key(execution: &Execution) -> String {
    let age = i64::MAX.saturating_sub(execution.submitted_at.millis());
    format!("{}/{age:020}/{}", execution.workgroup, execution.id)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Start {
    query_string: String,
    client_request_token: Option<String>,
    query_execution_context: Option<Context>,
    result_configuration: Option<ResultConfiguration>,
    work_group: Option<String>,
    #[serde(default)]
    execution_parameters: Vec<String>,
    result_reuse_configuration: Option<Reuse>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Context {
    database: Option<String>,
    catalog: Option<String>,
}

/// Where results go.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
pub(super) struct ResultConfiguration {
    pub(super) output_location: Option<String>,
    encryption_configuration: Option<Value>,
    expected_bucket_owner: Option<String>,
    acl_configuration: Option<Value>,
}

impl ResultConfiguration {
    /// Refuses what is not acted on; answers the folder.
    pub(super) fn checked(self, rooms: &Rooms) -> Result<Option<String>, Fault> {
        refuse(
            &self.encryption_configuration,
            "EncryptionConfiguration",
            "results are kept plain",
        )?;
        refuse(&self.acl_configuration, "AclConfiguration", "objects have no lists of their own")?;
        check_owner(rooms, self.expected_bucket_owner)?;
        self.output_location.map(|uri| Ok(folder(&uri)?)).transpose()
    }
}

pub(super) fn check_owner(rooms: &Rooms, owner: Option<String>) -> Result<(), Fault> {
    match owner.filter(|owner| *owner != rooms.settings.account_id) {
        None => Ok(()),
        Some(owner) => Err(Fault::invalid(format!(
            "ExpectedBucketOwner {owner:?} is not the account of this server, {}",
            rooms.settings.account_id
        ))),
    }
}

pub(super) fn refuse(given: &Option<Value>, member: &str, why: &str) -> Result<(), Fault> {
    match given {
        None | Some(Value::Null) => Ok(()),
        Some(_) => Err(Fault::unsupported(member, why)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Reuse {
    result_reuse_by_age_configuration: Option<ReuseByAge>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct ReuseByAge {
    #[serde(default, deserialize_with = "lenient::boolean")]
    enabled: Option<bool>,
    #[serde(rename = "MaxAgeInMinutes")]
    _max_age_in_minutes: Option<i64>,
}

/// StartQueryExecution.
pub(super) async fn start(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Start = call.input()?;
    if input.query_string.trim().is_empty() || input.query_string.len() > QUERY_BYTES_MAX {
        return Err(Fault::invalid(format!(
            "QueryString has {} bytes; give 1 to {QUERY_BYTES_MAX}",
            input.query_string.len()
        )));
    }
    let reused = input
        .result_reuse_configuration
        .and_then(|reuse| reuse.result_reuse_by_age_configuration)
        .and_then(|by_age| by_age.enabled);
    if reused == Some(true) {
        return Err(Fault::unsupported(
            "ResultReuseConfiguration",
            "every query is run anew; leave it out",
        ));
    }
    let context = input.query_execution_context.unwrap_or_default();
    if let Some(catalog) = &context.catalog {
        super::catalog::check_catalog(catalog)?;
    }
    let group = workgroups::find(rooms, input.work_group.as_deref().unwrap_or("primary"))?;
    if group.state != "ENABLED" {
        return Err(Fault::invalid(format!("WorkGroup {} is disabled", group.name)));
    }
    let own = input.result_configuration.unwrap_or_default().checked(rooms)?;
    let folder = match group.enforced {
        true => group.output_location.clone().or(own),
        false => own.or_else(|| group.output_location.clone()),
    };
    let folder = folder.ok_or_else(|| {
        Fault::invalid(
            "No output location provided. An output location is required either through the \
             Workgroup result configuration setting or as an API input.",
        )
    })?;
    let id = uuid::Uuid::new_v4().to_string();
    let given = &input.execution_parameters;
    let parsed = prepared::understood(rooms, &group.name, &input.query_string, given);
    let (kind, extension) = match &parsed {
        Ok(parsed) => (parsed.kind(), parsed.extension()),
        Err(_) => ("DML", ".csv"),
    };
    let execution = Execution {
        output: format!("{folder}{id}{extension}"),
        id,
        query: input.query_string,
        kind: kind.to_owned(),
        workgroup: group.name,
        database: context.database,
        catalog: context.catalog,
        folder,
        state: State::Queued,
        reason: None,
        our_fault: false,
        submitted_at: rooms.clock.now(),
        ended_at: None,
        queued_millis: 0,
        engine_millis: 0,
        total_millis: 0,
        bytes_scanned: 0,
        columns: Vec::new(),
        update_count: 0,
        bytes_scanned_max: group.bytes_scanned_max,
    };
    // On the list before there is a row: who finds the row knows that it is not forgotten.
    let task = rooms.athena.enter(&execution.id);
    let id = enqueue(rooms, &execution, input.client_request_token.as_deref())?;
    if id == execution.id {
        tokio::spawn(run::drive(Arc::clone(rooms), execution, parsed, task));
    }
    Ok(json!({"QueryExecutionId": id}).into())
}

/// Writes the row; or answers the execution that this token has made before.
fn enqueue(rooms: &Rooms, execution: &Execution, token: Option<&str>) -> Result<String, Fault> {
    if let Some(token) = token.filter(|token| !(32..=128).contains(&token.len())) {
        return Err(Fault::invalid(format!(
            "ClientRequestToken has {} characters; give 32 to 128",
            token.len()
        )));
    }
    Ok(rooms.metastore.transact(|rows| {
        if let Some(token) = token {
            if let Some(found) = rows.get::<Requested>(token)? {
                return match found.query == execution.query {
                    true => Ok(found.row.id),
                    false => Err(base::Error::invalid(
                        "Idempotent parameters do not match: this ClientRequestToken was used \
                         with another QueryString",
                    )),
                };
            }
            let made = Requested { id: execution.id.clone(), query: execution.query.clone() };
            rows.create(token, &made)?;
        }
        rows.create(&execution.id, execution)?;
        rows.create(&history_key(execution), &Listed {})?;
        Ok(execution.id.clone())
    })?)
}

/// An execution by its id. One whose task is gone ended with the server that ran it: what it was
/// about to write is there if that was prepared, and nothing of it otherwise.
pub(super) fn find(rooms: &Rooms, id: &str) -> Result<Execution, Fault> {
    let missing = || Fault::invalid(format!("QueryExecution {id} was not found"));
    let found = rooms.metastore.get::<Execution>(id)?.ok_or_else(missing)?.row;
    if found.state.is_final() || rooms.athena.is_running(id) {
        return Ok(found);
    }
    let write = lake::write_id(id);
    let finished = rooms.lake.finished_write(&write)?;
    let comes_later = rooms.lake.is_prepared_write(&write)?;
    let ended_at = rooms.clock.now();
    let settled = rooms.metastore.transact(|rows| {
        let Some(found) = rows.get::<Execution>(id)? else { return Ok(None) };
        let mut found = found.row;
        // A task writes its end before it leaves the list, so nothing can have come between.
        if found.state.is_final() || rooms.athena.is_running(id) {
            return Ok(Some(found));
        }
        if let Some(finished) = finished {
            found.state = State::Succeeded;
            found.columns = vec![run::rows_column()];
            found.update_count = finished.rows;
            found.bytes_scanned = finished.bytes_scanned;
            found.ended_at = Some(finished.at);
        } else {
            found.state = State::Failed;
            found.our_fault = true;
            found.ended_at = Some(ended_at);
            let again = if comes_later { run::COMES_LATER } else { "start it again" };
            found.reason = Some(format!("the server was restarted while the query ran; {again}"));
        }
        rows.put(id, &found)?;
        Ok(Some(found))
    })?;
    if finished.is_some() {
        run::forget_write(rooms, id);
    }
    settled.ok_or_else(missing)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct One {
    query_execution_id: String,
}

/// GetQueryExecution.
pub(super) async fn get(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let found = find(rooms, &call.input::<One>()?.query_execution_id)?;
    Ok(json!({"QueryExecution": found.shown()}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Several {
    query_execution_ids: Vec<String>,
}

/// BatchGetQueryExecution.
pub(super) async fn batch_get(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let ids = call.input::<Several>()?.query_execution_ids;
    if ids.is_empty() || ids.len() > 50 {
        return Err(Fault::invalid(format!("give 1 to 50 QueryExecutionIds, not {}", ids.len())));
    }
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for id in ids {
        match find(rooms, &id) {
            Ok(execution) => found.push(execution.shown()),
            Err(_) => missing.push(json!({
                "QueryExecutionId": id,
                "ErrorCode": "INVALID_INPUT",
                "ErrorMessage": format!("QueryExecution {id} was not found"),
            })),
        }
    }
    Ok(json!({"QueryExecutions": found, "UnprocessedQueryExecutionIds": missing}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct List {
    next_token: Option<String>,
    max_results: Option<usize>,
    work_group: Option<String>,
}

/// ListQueryExecutions, newest first.
pub(super) async fn list(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: List = call.input()?;
    let group = workgroups::find(rooms, input.work_group.as_deref().unwrap_or("primary"))?;
    let all = rooms.metastore.list_prefix::<Listed>(&format!("{}/", group.name))?;
    let keys: Vec<String> = all.into_iter().map(|(key, _)| key).collect();
    let (some, next) =
        page(keys, String::clone, input.next_token.as_deref(), input.max_results, 50)?;
    let ids: Vec<&str> = some.iter().filter_map(|key| key.rsplit('/').next()).collect();
    let mut answer = json!({"QueryExecutionIds": ids});
    if let Some(next) = next {
        answer["NextToken"] = json!(next);
    }
    Ok(answer.into())
}

/// Forgets all executions of a workgroup; their results stay.
pub(super) fn forget(rows: &mut metastore::Transaction<'_>, group: &str) -> base::Result<()> {
    for (key, _) in rows.list_prefix::<Listed>(&format!("{group}/"))? {
        rows.delete::<Listed>(&key)?;
        if let Some(id) = key.rsplit('/').next() {
            rows.delete::<Execution>(id)?;
        }
    }
    Ok(())
}

/// StopQueryExecution: answers once the query has stopped.
pub(super) async fn stop(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let found = find(rooms, &call.input::<One>()?.query_execution_id)?;
    if let Some(mut handle) = rooms.athena.handle(&found.id) {
        handle.stop.send_replace(true);
        // Ends with an error when the task has let go of its end, which is what is awaited.
        _ = handle.ended.changed().await;
    }
    Ok(json!({}).into())
}
