//! Prepared statements, and the values that are put into a statement's `?`.
//!
//! A value is a literal as SQL writes it: `42`, `'text'`, `DATE '2020-01-01'`. It is put in as
//! it stands, so that it can be nothing but a value.

use std::sync::Arc;

use base::{Error, ErrorKind, Result, Timestamp};
use metastore::Row;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::statement::{self, Statement};
use super::workgroups;
use crate::call::{Call, Outcome};
use crate::fault::Fault;
use crate::page::page;
use crate::rooms::{Rooms, epoch_secs};

/// A statement of a workgroup that waits for its values.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Prepared {
    name: String,
    workgroup: String,
    sql: String,
    description: String,
    changed_at: Timestamp,
}

impl Row for Prepared {
    const TABLE: &'static str = "aws-athena-prepared";
}

fn key(workgroup: &str, name: &str) -> String {
    format!("{workgroup}/{name}")
}

fn unknown(name: &str, workgroup: &str) -> Error {
    Error::not_found(format!("PreparedStatement {name} was not found in workGroup {workgroup}"))
}

/// Understands a statement with its values: of an EXECUTE, those of its USING; else those that
/// came beside it.
pub(super) fn understood(
    rooms: &Rooms,
    workgroup: &str,
    sql: &str,
    given: &[String],
) -> Result<Statement> {
    let executed = statement::executed(sql)?;
    let (sql, values) = match executed {
        None => (sql.to_owned(), given.to_vec()),
        Some((name, using)) => {
            let found = rooms.metastore.get::<Prepared>(&key(workgroup, &name))?;
            let found = found.ok_or_else(|| unknown(&name, workgroup))?;
            if !using.is_empty() && !given.is_empty() {
                return Err(Error::invalid("give USING or ExecutionParameters, and not both"));
            }
            (found.row.sql, if using.is_empty() { given.to_vec() } else { using })
        }
    };
    // What waits for its values keeps its places for them.
    match statement::parse(&sql) {
        Ok(Statement::Prepare { name, sql }) if values.is_empty() => {
            Ok(Statement::Prepare { name, sql })
        }
        _ => statement::parse(&statement::bound(&sql, &values)?),
    }
}

/// Keeps a statement of `PREPARE`.
pub(super) fn prepare(rooms: &Rooms, workgroup: &str, name: &str, sql: &str) -> Result<()> {
    let prepared = Prepared {
        name: name.to_owned(),
        workgroup: workgroup.to_owned(),
        sql: sql.to_owned(),
        description: String::new(),
        changed_at: rooms.clock.now(),
    };
    rooms.metastore.put(&key(workgroup, name), &prepared).map(drop)
}

/// Forgets one, of `DEALLOCATE PREPARE`.
pub(super) fn deallocate(rooms: &Rooms, workgroup: &str, name: &str) -> Result<()> {
    match rooms.metastore.delete::<Prepared>(&key(workgroup, name))? {
        true => Ok(()),
        false => Err(unknown(name, workgroup)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Put {
    statement_name: String,
    work_group: String,
    query_statement: String,
    #[serde(default)]
    description: String,
}

fn put(rooms: &Rooms, input: Put, replaces: bool) -> Outcome {
    let workgroup = workgroups::find(rooms, &input.work_group)?.name;
    let key = key(&workgroup, &input.statement_name);
    let there = rooms.metastore.get::<Prepared>(&key)?.is_some();
    match (there, replaces) {
        (true, false) => {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("PreparedStatement {} already exists", input.statement_name),
            )
            .into());
        }
        (false, true) => return Err(unknown(&input.statement_name, &workgroup).into()),
        _ => {}
    }
    let prepared = Prepared {
        name: input.statement_name,
        workgroup,
        sql: input.query_statement,
        description: input.description,
        changed_at: rooms.clock.now(),
    };
    rooms.metastore.put(&key, &prepared)?;
    Ok(json!({}).into())
}

/// CreatePreparedStatement.
pub(super) async fn create(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    put(rooms, call.input()?, false)
}

/// UpdatePreparedStatement.
pub(super) async fn update(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    put(rooms, call.input()?, true)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct One {
    statement_name: String,
    work_group: String,
}

/// GetPreparedStatement.
pub(super) async fn get(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: One = call.input()?;
    let found = rooms.metastore.get::<Prepared>(&key(&input.work_group, &input.statement_name))?;
    let found = found.ok_or_else(|| {
        let error = unknown(&input.statement_name, &input.work_group);
        Fault::named("ResourceNotFoundException", 400, error.to_string())
    })?;
    Ok(json!({"PreparedStatement": {
        "StatementName": found.row.name,
        "QueryStatement": found.row.sql,
        "WorkGroupName": found.row.workgroup,
        "Description": found.row.description,
        "LastModifiedTime": epoch_secs(found.row.changed_at),
    }})
    .into())
}

/// DeletePreparedStatement.
pub(super) async fn delete(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: One = call.input()?;
    deallocate(rooms, &input.work_group, &input.statement_name)
        .map_err(|error| Fault::named("ResourceNotFoundException", 400, error.to_string()))?;
    Ok(json!({}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct List {
    work_group: String,
    next_token: Option<String>,
    max_results: Option<usize>,
}

/// ListPreparedStatements.
pub(super) async fn list(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: List = call.input()?;
    let all = rooms.metastore.list_prefix::<Prepared>(&format!("{}/", input.work_group))?;
    let all: Vec<Prepared> = all.into_iter().map(|(_, found)| found.row).collect();
    let name = |found: &Prepared| found.name.clone();
    let (some, next) = page(all, name, input.next_token.as_deref(), input.max_results, 50)?;
    let shown = |found: &Prepared| json!({"StatementName": found.name, "LastModifiedTime": epoch_secs(found.changed_at)});
    let mut answer = json!({"PreparedStatements": some.iter().map(shown).collect::<Vec<_>>()});
    if let Some(next) = next {
        answer["NextToken"] = json!(next);
    }
    Ok(answer.into())
}
