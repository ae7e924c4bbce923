//! Statements about the catalog itself: definitions, and questions answered with text.

mod changes;

use std::collections::BTreeSet;

use base::{Error, ErrorKind, Result};
use lake::{Format, Partition, Table};

use super::results::Column;
use super::statement::{self, CreateTable, Name, Statement, matches};
use super::{folder, location};
use crate::rooms::Rooms;
use crate::services::text_serde;

/// Lines of text, and what they are.
#[derive(Default)]
pub(super) struct Answer {
    pub(super) columns: Vec<Column>,
    pub(super) lines: Vec<String>,
}

impl Answer {
    fn of(column: &str, lines: impl IntoIterator<Item = String>) -> Answer {
        Answer { columns: vec![Column::text(column)], lines: lines.into_iter().collect() }
    }
}

/// Acts on the catalog.
pub(super) async fn run(rooms: &Rooms, database: &str, statement: Statement) -> Result<Answer> {
    let catalog = rooms.lake.catalog();
    let found = |name: &Name| {
        let database = name.database.as_deref().unwrap_or(database);
        catalog.get_table(database, &name.table)
    };
    Ok(match statement {
        Statement::CreateDatabase { name, if_not_exists, comment } => {
            let made = catalog.create_database(&name, &comment).map(|_| ());
            unless(if_not_exists, ErrorKind::AlreadyExists, made)?
        }
        Statement::DropDatabase { name, if_exists, cascade } => {
            unless(if_exists, ErrorKind::NotFound, drop_database(rooms, &name, cascade))?
        }
        Statement::ShowDatabases { like } => {
            let names = catalog.list_databases()?.into_iter().map(|found| found.name);
            Answer::of("database_name", names.filter(|name| wanted(like.as_deref(), name)))
        }
        Statement::ShowTables { database: named, like } => {
            let tables = catalog.list_tables(named.as_deref().unwrap_or(database))?;
            let names = tables.into_iter().map(|found| found.name);
            Answer::of("tab_name", names.filter(|name| wanted(like.as_deref(), name)))
        }
        Statement::ShowColumns(name) => {
            let table = found(&name)?;
            Answer::of("field", table.all_columns().map(|column| column.name.clone()))
        }
        Statement::ShowPartitions(name) => {
            Answer::of("partition", partitions(rooms, &found(&name)?).await?)
        }
        Statement::Describe(name) => describe(&found(&name)?),
        Statement::DropTable { name, if_exists } => {
            let database = name.database.as_deref().unwrap_or(database);
            unless(if_exists, ErrorKind::NotFound, catalog.drop_table(database, &name.table))?
        }
        Statement::CreateTable(wanted) => {
            let exists = wanted.if_not_exists;
            let made = create_table(rooms, database, *wanted);
            unless(exists, ErrorKind::AlreadyExists, made)?
        }
        Statement::Repair(name) => repair(rooms, &found(&name)?).await?,
        Statement::DropView { name, if_exists } => {
            let database = name.database.as_deref().unwrap_or(database);
            let gone = rooms.lake.drop_view(database, &name.table);
            unless(if_exists, ErrorKind::NotFound, gone)?
        }
        Statement::ShowViews { database: named, like } => {
            let views = rooms.lake.list_views(named.as_deref().unwrap_or(database))?;
            let names = views.into_iter().map(|found| found.name);
            Answer::of("views", names.filter(|name| wanted(like.as_deref(), name)))
        }
        Statement::ShowCreateView(name) => {
            let database = name.database.as_deref().unwrap_or(database);
            let view = rooms.lake.find_view(database, &name.table)?.ok_or_else(|| {
                Error::not_found(format!("there is no view {:?} in {database:?}", name.table))
            })?;
            let written = format!("CREATE VIEW {}.{} AS\n{}", view.database, view.name, view.sql);
            Answer::of("Create View", written.lines().map(str::to_owned))
        }
        Statement::ShowCreateTable(name) => changes::show_create(&found(&name)?),
        Statement::ShowProperties(name) => {
            let table = found(&name)?;
            let line = |(name, value): (&String, &String)| format!("{name}\t{value}");
            Answer::of("prpt_name", table.parameters.iter().map(line))
        }
        Statement::AddColumns { name, columns } => {
            changes::add_columns(rooms, found(&name)?, columns)?
        }
        Statement::AddPartitions { name, if_not_exists, partitions } => {
            changes::add_partitions(rooms, &found(&name)?, if_not_exists, partitions)?
        }
        Statement::DropPartitions { name, if_exists, partitions } => {
            changes::drop_partitions(rooms, &found(&name)?, if_exists, partitions).await?
        }
        Statement::Query(_)
        | Statement::Explain(_)
        | Statement::CreateTableAs(_)
        | Statement::Insert(_)
        | Statement::Unload(_)
        | Statement::CreateView(_)
        | Statement::Prepare { .. }
        | Statement::Deallocate(_) => {
            return Err(Error::internal("this statement is not about the catalog"));
        }
    })
}

/// An error of the kind that IF [NOT] EXISTS asks to pass over is none.
fn unless(passed_over: bool, kind: ErrorKind, outcome: Result<()>) -> Result<Answer> {
    match outcome {
        Err(error) if passed_over && error.kind() == kind => Ok(Answer::default()),
        other => other.map(|()| Answer::default()),
    }
}

fn wanted(like: Option<&str>, name: &str) -> bool {
    like.is_none_or(|pattern| matches(pattern, name))
}

fn drop_database(rooms: &Rooms, name: &str, cascade: bool) -> Result<()> {
    let catalog = rooms.lake.catalog();
    if cascade {
        for table in catalog.list_tables(name)? {
            catalog.drop_table(name, &table.name)?;
        }
    }
    catalog.drop_database(name)
}

fn describe(table: &Table) -> Answer {
    let line = |column: &lake::Column| {
        let comment = column.comment.as_deref().unwrap_or_default().replace(['\n', '\t'], " ");
        format!("{:<20}\t{:<20}\t{comment:<20}", column.name, column.hive_type)
    };
    let mut lines: Vec<String> = table.all_columns().map(line).collect();
    if !table.partition_keys.is_empty() {
        lines.push("\t \t ".into());
        lines.push("# Partition Information\t \t ".into());
        lines.push(format!("{:<20}\t{:<20}\t{:<20}", "# col_name", "data_type", "comment"));
        lines.push("\t \t ".into());
        lines.extend(table.partition_keys.iter().map(line));
    }
    let columns = ["col_name", "data_type", "comment"].map(Column::text).to_vec();
    Answer { columns, lines }
}

/// `key=value/key=value` of every partition, those of the files included that no crawl has
/// entered: a query sees them too.
async fn partitions(rooms: &Rooms, table: &Table) -> Result<Vec<String>> {
    if table.partition_keys.is_empty() {
        return Err(Error::invalid(format!(
            "table {:?} of {:?} is not a partitioned table",
            table.name, table.database
        )));
    }
    let known = rooms.lake.catalog().list_partitions(&table.database, &table.name)?;
    let mut all: BTreeSet<Vec<String>> = known.into_iter().map(|found| found.values).collect();
    all.extend(rooms.lake.files(table).await?.into_iter().map(|file| file.partition_values));
    Ok(all.iter().map(|values| partition_name(table, values)).collect())
}

fn partition_name(table: &Table, values: &[String]) -> String {
    let pairs = table.partition_keys.iter().zip(values);
    let pairs = pairs.map(|(key, value)| (key.name.as_str(), value.as_str()));
    lake::partition_folder(pairs).trim_end_matches('/').to_owned()
}

/// MSCK REPAIR TABLE: enters the partitions that files lie in.
async fn repair(rooms: &Rooms, table: &Table) -> Result<Answer> {
    let catalog = rooms.lake.catalog();
    if table.partition_keys.is_empty() {
        return Err(Error::invalid(format!(
            "table {:?} of {:?} is not a partitioned table",
            table.name, table.database
        )));
    }
    let known = catalog.list_partitions(&table.database, &table.name)?;
    let mut seen: BTreeSet<Vec<String>> = known.into_iter().map(|found| found.values).collect();
    let (mut missing, mut lines) = (Vec::new(), Vec::new());
    for file in rooms.lake.files(table).await? {
        let folders: Vec<&str> = file.key[table.prefix.len()..].split('/').collect();
        let depth = table.partition_keys.len();
        // A file that lies too high belongs to no partition.
        if folders.len() <= depth || !seen.insert(file.partition_values.clone()) {
            continue;
        }
        let name = partition_name(table, &file.partition_values);
        lines.push(format!("Repair: Added partition to metastore {}:{name}", table.name));
        missing.push(Partition {
            values: file.partition_values,
            bucket: table.bucket.clone(),
            prefix: format!("{}{}/", table.prefix, folders[..depth].join("/")),
            created_at: base::Timestamp(0),
        });
    }
    catalog.add_partitions(&table.database, &table.name, missing)?;
    Ok(Answer::of("result", lines))
}

fn create_table(rooms: &Rooms, database: &str, wanted: CreateTable) -> Result<()> {
    let (bucket, prefix) = location(&folder(&wanted.location)?)?;
    let (format, csv) = match wanted.format {
        statement::Format::Parquet => (Format::Parquet, None),
        statement::Format::Json => (Format::Json, None),
        statement::Format::Csv(dialect) => (Format::Csv, Some(dialect)),
    };
    let database = wanted.name.database.as_deref().unwrap_or(database);
    let mut table = Table::new((database, wanted.name.table), (bucket, prefix), format);
    let column = |(name, hive_type, comment): (String, String, Option<String>)| lake::Column {
        comment,
        ..lake::Column::new(name, hive_type)
    };
    table.csv = csv;
    table.columns = wanted.columns.into_iter().map(column).collect();
    table.partition_keys = wanted.partition_keys.into_iter().map(column).collect();
    table.parameters.insert("EXTERNAL".into(), "TRUE".into());
    table.parameters.insert("classification".into(), format.as_str().into());
    if let Some(comment) = wanted.comment {
        table.parameters.insert("comment".into(), comment);
    }
    for (name, value) in wanted.properties {
        check_property(&name, &value, format)?;
        if let (Some(csv), "skip.header.line.count") = (&mut table.csv, name.as_str()) {
            csv.header = text_serde::skipped(&value)?;
        }
        table.parameters.insert(name, value);
    }
    rooms.lake.catalog().create_table(table).map(|_| ())
}

/// Properties are labels, but for those that would change how the table is read.
fn check_property(name: &str, value: &str, format: Format) -> Result<()> {
    let false_or = |fits: bool| fits || value.eq_ignore_ascii_case("false");
    let lower = name.to_ascii_lowercase();
    let fits = match lower.as_str() {
        "classification" => value.eq_ignore_ascii_case(format.as_str()),
        "has_encrypted_data" | "projection.enabled" => false_or(false),
        "skip.header.line.count" => value == "0" || format == Format::Csv,
        "table_type" => false,
        _ => !lower.starts_with("projection.") && lower != "storage.location.template",
    };
    match fits {
        true => Ok(()),
        false => Err(Error::unsupported(format!(
            "TBLPROPERTIES {name:?} = {value:?} is not supported; leave it out (partitions are found \
             from the folders, without a projection)"
        ))),
    }
}
