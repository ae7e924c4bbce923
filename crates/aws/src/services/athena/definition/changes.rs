//! Changes to a table that is there, and the statement that would make it anew.

use base::{Error, ErrorKind, Result};
use lake::{Column, Format, Partition, Table};

use super::Answer;
use crate::rooms::Rooms;
use crate::services::athena::folder;
use crate::services::athena::statement::{self, NewPartition};

/// ALTER TABLE ADD COLUMNS: behind those there are, before the partition keys.
pub(super) fn add_columns(
    rooms: &Rooms,
    mut table: Table,
    columns: Vec<statement::Column>,
) -> Result<Answer> {
    for (name, hive_type, comment) in columns {
        table.columns.push(Column { comment, ..Column::new(name, hive_type) });
    }
    rooms.lake.catalog().update_table(table)?;
    Ok(Answer::default())
}

/// The values of a partition in the order of the table's keys.
fn values(table: &Table, given: &[(String, String)]) -> Result<Vec<String>> {
    let value = |key: &Column| {
        let found = given.iter().find(|(name, _)| *name == key.name.to_lowercase());
        found.map(|(_, value)| value.clone())
    };
    let values: Option<Vec<String>> = table.partition_keys.iter().map(value).collect();
    values.filter(|values| values.len() == given.len() && !values.is_empty()).ok_or_else(|| {
        let keys: Vec<&str> = table.partition_keys.iter().map(|key| key.name.as_str()).collect();
        Error::invalid(format!(
            "a partition of {:?} needs a value for each of its keys: {}",
            table.name,
            if keys.is_empty() { "it has none".to_owned() } else { keys.join(", ") }
        ))
    })
}

fn prefix(table: &Table, values: &[String]) -> String {
    let keys = table.partition_keys.iter().map(|key| key.name.as_str());
    let below = lake::partition_folder(keys.zip(values.iter().map(String::as_str)));
    format!("{}{below}", table.prefix)
}

/// ALTER TABLE ADD PARTITION.
pub(super) fn add_partitions(
    rooms: &Rooms,
    table: &Table,
    if_not_exists: bool,
    partitions: Vec<NewPartition>,
) -> Result<Answer> {
    let catalog = rooms.lake.catalog();
    let known = catalog.list_partitions(&table.database, &table.name)?;
    let mut missing = Vec::new();
    for NewPartition { values: given, location } in partitions {
        let values = values(table, &given)?;
        let prefix = prefix(table, &values);
        let own = format!("s3://{}/{prefix}", table.bucket);
        if let Some(location) = location
            && folder(&location)? != own
        {
            return Err(Error::unsupported(format!(
                "LOCATION {location:?} of a partition is not supported: the table finds it at \
                 {own}; leave LOCATION out, or put the objects there"
            )));
        }
        if known.iter().any(|found| found.values == values) {
            if if_not_exists {
                continue;
            }
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("partition {values:?} of table {:?} exists already", table.name),
            ));
        }
        let (bucket, created_at) = (table.bucket.clone(), base::Timestamp(0));
        missing.push(Partition { values, bucket, prefix, created_at });
    }
    catalog.add_partitions(&table.database, &table.name, missing)?;
    Ok(Answer::default())
}

/// ALTER TABLE DROP PARTITION: where objects lie a query finds them, so these have to go first.
pub(super) async fn drop_partitions(
    rooms: &Rooms,
    table: &Table,
    if_exists: bool,
    partitions: Vec<Vec<(String, String)>>,
) -> Result<Answer> {
    let catalog = rooms.lake.catalog();
    let files = rooms.lake.files(table).await?;
    for given in partitions {
        let values = values(table, &given)?;
        if let Some(file) = files.iter().find(|file| file.partition_values == values) {
            return Err(Error::unsupported(format!(
                "DROP PARTITION {values:?} of table {:?} is not supported while objects lie there, \
                 which a query would still read: delete s3://{}/{} and its like first",
                table.name, file.bucket, file.key
            )));
        }
        let gone = catalog.drop_partition(&table.database, &table.name, &values)?;
        if !gone && !if_exists {
            return Err(Error::not_found(format!(
                "table {:?} has no partition {values:?}",
                table.name
            )));
        }
    }
    Ok(Answer::default())
}

/// The statement that would make the table.
pub(super) fn show_create(table: &Table) -> Answer {
    let column = |column: &Column| {
        let comment = column.comment.as_ref().map(|text| format!(" COMMENT {}", text_of(text)));
        format!("  `{}` {}{}", column.name, column.hive_type, comment.unwrap_or_default())
    };
    let list = |columns: &[Column]| {
        let last = columns.len().saturating_sub(1);
        let comma = |at: usize| if at == last { ")" } else { "," };
        let line = |(at, one): (usize, &Column)| format!("{}{}", column(one), comma(at));
        columns.iter().enumerate().map(line).collect::<Vec<_>>()
    };
    let mut lines = vec![format!("CREATE EXTERNAL TABLE `{}`.`{}`(", table.database, table.name)];
    lines.extend(list(&table.columns));
    if !table.partition_keys.is_empty() {
        lines.push("PARTITIONED BY (".into());
        lines.extend(list(&table.partition_keys));
    }
    match table.format {
        Format::Parquet => lines.push("STORED AS PARQUET".into()),
        Format::Json => {
            lines.push("ROW FORMAT SERDE".into());
            lines.push("  'org.openx.data.jsonserde.JsonSerDe'".into());
        }
        Format::Csv => {
            lines.push("ROW FORMAT SERDE".into());
            lines.push("  'org.apache.hadoop.hive.serde2.OpenCSVSerde'".into());
        }
    }
    lines.push("LOCATION".into());
    lines.push(format!("  's3://{}/{}'", table.bucket, table.prefix));
    let properties: Vec<String> = table
        .parameters
        .iter()
        .map(|(name, value)| format!("  {}={}", text_of(name), text_of(value)))
        .collect();
    if !properties.is_empty() {
        lines.push(format!("TBLPROPERTIES (\n{})", properties.join(",\n")));
    }
    let lines = lines.iter().flat_map(|line| line.lines().map(str::to_owned));
    Answer::of("createtab_stmt", lines.collect::<Vec<_>>())
}

fn text_of(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
