//! Writing the catalog: tables and partitions as clients describe them.
//!
//! The lake keeps what it acts on (place, format, columns, parameters). The rest of what the
//! caller said (SerDe details, owner, description) is a row of ours beside it, shown only while
//! it still belongs to the table it was written for.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::Timestamp;
use formats::csv::Dialect;
use lake::{Format, Partition, Table};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::codes;
use crate::call::{Call, Outcome};
use crate::fault::{Code, Fault};
use crate::rooms::Rooms;
use crate::services::text_serde;

/// Most tables or partitions of one batch, Glue's bound.
const BATCH_MAX: usize = 100;

/// What a table's input said beyond what the lake knows.
#[derive(Serialize, Deserialize)]
struct TableWords {
    /// When the table was made that these belong to.
    created_at: Timestamp,
    /// The version they came with.
    version: u64,
    format: Format,
    place: (String, String),
    /// Members of the table itself.
    table: Map<String, Value>,
    /// Members of its storage descriptor.
    storage: Map<String, Value>,
}

impl metastore::Row for TableWords {
    const TABLE: &'static str = "aws-glue-tables";
}

/// What a partition's input said beyond what the lake knows.
#[derive(Serialize, Deserialize)]
struct PartitionWords {
    created_at: Timestamp,
    parameters: BTreeMap<String, String>,
    storage: Map<String, Value>,
}

impl metastore::Row for PartitionWords {
    const TABLE: &'static str = "aws-glue-partitions";
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct CreateTable {
    database_name: String,
    table_input: TableInput,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct UpdateTable {
    database_name: String,
    table_input: TableInput,
    #[serde(default)]
    skip_archive: bool,
    version_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct TableInput {
    name: String,
    #[serde(rename = "Description")]
    _description: Option<String>,
    #[serde(rename = "Owner")]
    _owner: Option<String>,
    #[serde(rename = "Retention")]
    _retention: Option<u32>,
    storage_descriptor: Option<Storage>,
    #[serde(default)]
    partition_keys: Vec<Column>,
    table_type: Option<String>,
    #[serde(default)]
    parameters: BTreeMap<String, String>,
    view_original_text: Option<String>,
    view_expanded_text: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Storage {
    #[serde(default)]
    columns: Vec<Column>,
    location: Option<String>,
    input_format: Option<String>,
    #[serde(rename = "OutputFormat")]
    _output_format: Option<String>,
    #[serde(rename = "Compressed")]
    _compressed: Option<bool>,
    number_of_buckets: Option<i64>,
    serde_info: Option<Serde>,
    #[serde(default)]
    bucket_columns: Vec<String>,
    #[serde(default)]
    sort_columns: Vec<Value>,
    #[serde(default, rename = "Parameters")]
    _parameters: BTreeMap<String, String>,
    #[serde(rename = "StoredAsSubDirectories")]
    _stored_as_sub_directories: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Serde {
    #[serde(rename = "Name")]
    _name: Option<String>,
    serialization_library: Option<String>,
    #[serde(default)]
    parameters: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Column {
    name: String,
    #[serde(default)]
    r#type: String,
    comment: Option<String>,
    #[serde(default)]
    parameters: BTreeMap<String, String>,
}

impl Column {
    fn read(self) -> Result<lake::Column, Fault> {
        if !self.parameters.is_empty() {
            return Err(Fault::unsupported("Columns.Parameters", &format!("on {:?}", self.name)));
        }
        // Glue reads a column without a type as text.
        let hive_type = if self.r#type.is_empty() { "string".to_owned() } else { self.r#type };
        Ok(lake::Column { name: self.name, hive_type, comment: self.comment })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct PartitionInput {
    values: Vec<String>,
    storage_descriptor: Option<Storage>,
    #[serde(default)]
    parameters: BTreeMap<String, String>,
}

/// Bucket and prefix of an `s3://` location; the prefix ends with `/`.
fn place(rooms: &Rooms, location: &str) -> Result<(String, String), Fault> {
    let inside = ["s3://", "s3a://", "s3n://"].iter().find_map(|s| location.strip_prefix(s));
    let (bucket, prefix) = match inside {
        Some(inside) => inside.split_once('/').unwrap_or((inside, "")),
        None => ("", ""),
    };
    if bucket.is_empty() {
        return Err(Fault::invalid(format!("Location {location:?} is not s3://BUCKET/PREFIX/")));
    }
    if !rooms.buckets.list_buckets()?.iter().any(|found| found == bucket) {
        return Err(Fault::invalid(format!(
            "Location {location:?} names bucket {bucket:?}, which does not exist; create it first"
        )));
    }
    let slash = if prefix.is_empty() || prefix.ends_with('/') { "" } else { "/" };
    Ok((bucket.to_owned(), format!("{prefix}{slash}")))
}

/// What the objects hold, by the SerDe, else by the input format, else by the classification;
/// and the dialect of CSV.
fn format(
    storage: &Storage,
    parameters: &BTreeMap<String, String>,
) -> Result<(Format, Option<Dialect>), Fault> {
    let library = storage.serde_info.as_ref().and_then(|s| s.serialization_library.as_deref());
    let says = [
        library,
        storage.input_format.as_deref().filter(|name| !name.ends_with(".TextInputFormat")),
        parameters.get("classification").map(String::as_str),
    ];
    let Some(says) = says.into_iter().flatten().find(|says| !says.is_empty()) else {
        return Err(Fault::invalid(
            "StorageDescriptor says nothing of the format; give SerdeInfo.SerializationLibrary or the parameter classification (parquet, json or csv)",
        ));
    };
    let none = BTreeMap::new();
    let properties = storage.serde_info.as_ref().map_or(&none, |serde| &serde.parameters);
    if let Some(dialect) = text_serde::dialect(says, properties, parameters)? {
        return Ok((Format::Csv, Some(dialect)));
    }
    let lower = says.to_lowercase();
    if lower.contains("parquet") {
        Ok((Format::Parquet, None))
    } else if lower == "json" || lower.contains("jsonserde") {
        Ok((Format::Json, None))
    } else if lower == "csv" {
        // As Glue's own crawler describes it.
        let mut of_serde = BTreeMap::new();
        let delimiter = parameters.get("delimiter").cloned().unwrap_or_else(|| ",".to_owned());
        of_serde.insert("separatorChar".to_owned(), delimiter);
        let dialect = text_serde::dialect(text_serde::OPEN, &of_serde, parameters)?;
        Ok((Format::Csv, dialect))
    } else {
        Err(Fault::unsupported(
            "StorageDescriptor",
            &format!("{says:?}; only Parquet, JSON and CSV objects are read"),
        ))
    }
}

fn no_buckets(storage: &Storage) -> Result<(), Fault> {
    if !storage.bucket_columns.is_empty() || storage.number_of_buckets.is_some_and(|n| n > 0) {
        return Err(Fault::unsupported("BucketColumns", "tables are not bucketed"));
    }
    if !storage.sort_columns.is_empty() {
        return Err(Fault::unsupported("SortColumns", "tables are not sorted"));
    }
    Ok(())
}

/// The table that an input describes.
fn read(rooms: &Rooms, database: &str, input: TableInput) -> Result<Table, Fault> {
    if let Some(kind) = input.table_type.as_deref()
        && !["", "EXTERNAL_TABLE"].contains(&kind)
    {
        return Err(Fault::unsupported("TableType", &format!("{kind:?}; only EXTERNAL_TABLE")));
    }
    for text in [&input.view_original_text, &input.view_expanded_text].into_iter().flatten() {
        if !text.is_empty() {
            return Err(Fault::unsupported("ViewOriginalText", "there are no views"));
        }
    }
    let storage = input
        .storage_descriptor
        .ok_or_else(|| Fault::invalid("TableInput.StorageDescriptor is missing"))?;
    no_buckets(&storage)?;
    let location = storage.location.as_deref().unwrap_or_default();
    let (format, dialect) = format(&storage, &input.parameters)?;
    let name = input.name.to_lowercase();
    let mut table = Table::new((database, name), place(rooms, location)?, format);
    table.csv = dialect;
    table.columns = storage.columns.into_iter().map(Column::read).collect::<Result<_, _>>()?;
    table.partition_keys =
        input.partition_keys.into_iter().map(Column::read).collect::<Result<_, _>>()?;
    table.parameters = input.parameters;
    Ok(table)
}

/// Members that the lake does not keep, as they were written.
fn beyond(given: &Value, known: &[&str]) -> Map<String, Value> {
    let mut members = given.as_object().cloned().unwrap_or_default();
    members.retain(|name, value| !known.contains(&name.as_str()) && !value.is_null());
    members
}

fn key(table: &Table) -> String {
    format!("{}/{}", table.database, table.name)
}

fn remember(rooms: &Rooms, table: &Table, input: &Value) -> Result<(), Fault> {
    let known = ["Name", "StorageDescriptor", "PartitionKeys", "Parameters"];
    let words = TableWords {
        created_at: table.created_at,
        version: table.version,
        format: table.format,
        place: (table.bucket.clone(), table.prefix.clone()),
        table: beyond(input, &known),
        storage: beyond(&input["StorageDescriptor"], &["Columns"]),
    };
    rooms.metastore.put(&key(table), &words)?;
    Ok(())
}

fn overlay(shown: &mut Value, members: Map<String, Value>) {
    for (name, value) in members {
        shown[name] = value;
    }
}

/// Adds what the caller said of a table to what the lake knows.
pub(super) fn add_words(rooms: &Rooms, table: &Table, shown: &mut Value) -> Result<(), Fault> {
    let Some(words) = rooms.metastore.get::<TableWords>(&key(table))? else { return Ok(()) };
    let mut words = words.row;
    if words.created_at != table.created_at || words.version > table.version {
        return Ok(());
    }
    overlay(shown, words.table);
    // A crawler or job that changed the format or the place since knows better.
    if words.format == table.format {
        if words.place != (table.bucket.clone(), table.prefix.clone()) {
            words.storage.remove("Location");
        }
        overlay(&mut shown["StorageDescriptor"], words.storage);
    }
    Ok(())
}

/// Forgets what was said of a table and its partitions.
pub(super) fn forget(rooms: &Rooms, database: &str, name: &str) -> Result<(), Fault> {
    let table = format!("{database}/{name}");
    rooms.metastore.transact(|transaction| {
        transaction.delete::<TableWords>(&table)?;
        for (key, _) in transaction.list_prefix::<PartitionWords>(&format!("{table}/"))? {
            transaction.delete::<PartitionWords>(&key)?;
        }
        Ok(())
    })?;
    Ok(())
}

pub(super) async fn create_table(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let CreateTable { database_name, table_input } = call.input()?;
    let database = database_name.to_lowercase();
    rooms.lake.catalog().get_database(&database)?;
    let made = rooms.lake.catalog().create_table(read(rooms, &database, table_input)?)?;
    remember(rooms, &made, &call.input["TableInput"])?;
    Ok(json!({}).into())
}

pub(super) async fn update_table(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: UpdateTable = call.input()?;
    let catalog = rooms.lake.catalog();
    let database = input.database_name.to_lowercase();
    let found = catalog.get_table(&database, &input.table_input.name.to_lowercase())?;
    if let Some(version) = input.version_id
        && version != found.version.to_string()
    {
        let message =
            format!("table {:?} has version {}, not {version}", found.name, found.version);
        return Err(Fault::named("ConcurrentModificationException", 400, message));
    }
    let mut table = read(rooms, &database, input.table_input)?;
    let moved = (&table.bucket, &table.prefix) != (&found.bucket, &found.prefix);
    if found.source == lake::FileSource::Committed && (moved || table.format != found.format) {
        return Err(Fault::invalid(format!(
            "table {:?} is written by a job; its Location and format cannot be changed",
            found.name
        )));
    }
    if table.partition_keys.len() != found.partition_keys.len()
        && !catalog.list_partitions(&database, &found.name)?.is_empty()
    {
        return Err(Fault::invalid(format!(
            "table {:?} has partitions; delete them before PartitionKeys grow or shrink",
            found.name
        )));
    }
    // A crawler knows more of a dialect than a SerDe can say: who gives back the SerDe that was
    // shown keeps it.
    let shown = &super::storage(&found, &found.bucket, &found.prefix)["SerdeInfo"];
    if table.format == found.format
        && call.input["TableInput"]["StorageDescriptor"]["SerdeInfo"] == *shown
    {
        table.csv.clone_from(&found.csv);
    }
    table.source = found.source;
    table.exclusions = found.exclusions;
    table.version = found.version;
    let made = catalog.update_table(table)?;
    if input.skip_archive {
        catalog.drop_table_version(&database, &made.name, found.version)?;
    }
    remember(rooms, &made, &call.input["TableInput"])?;
    Ok(json!({}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct OneVersion {
    database_name: String,
    table_name: String,
    version_id: Option<String>,
}

fn no_version(table: &str, version: &str) -> Fault {
    Fault::not_found(format!("table {table:?} has no version {version:?}"))
}

pub(super) async fn get_table_version(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: OneVersion = call.input()?;
    let (database, name) = (input.database_name.to_lowercase(), input.table_name.to_lowercase());
    let all = rooms.lake.catalog().table_versions(&database, &name)?;
    let wanted = input.version_id;
    let mut fitting = all
        .iter()
        .filter(|table| wanted.as_ref().is_none_or(|wanted| *wanted == table.version.to_string()));
    let found =
        fitting.next().ok_or_else(|| no_version(&name, wanted.as_deref().unwrap_or_default()))?;
    let version = found.version.to_string();
    let table = super::shown(rooms, found)?;
    Ok(json!({"TableVersion": {"Table": table, "VersionId": version}}).into())
}

pub(super) async fn delete_table_version(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: OneVersion = call.input()?;
    let (database, name) = (input.database_name.to_lowercase(), input.table_name.to_lowercase());
    let table = rooms.lake.catalog().get_table(&database, &name)?;
    let wanted = input.version_id.ok_or_else(|| Fault::invalid("VersionId is missing"))?;
    let version = wanted.parse().map_err(|_not_a_number| no_version(&name, &wanted))?;
    if version == table.version {
        return Err(Fault::invalid(format!("version {wanted} of table {name:?} is in force")));
    }
    match rooms.lake.catalog().drop_table_version(&database, &name, version)? {
        true => Ok(json!({}).into()),
        false => Err(no_version(&name, &wanted)),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct TablesToDelete {
    database_name: String,
    tables_to_delete: Vec<String>,
}

fn detail(fault: &Fault) -> Value {
    let code = match fault.code {
        Code::Kind(kind) => codes(kind).0,
        Code::Named(code, _) => code,
    };
    json!({"ErrorCode": code, "ErrorMessage": fault.message})
}

fn bounded(what: &str, count: usize) -> Result<(), Fault> {
    match count <= BATCH_MAX {
        true => Ok(()),
        false => Err(Fault::invalid(format!("{what} has {count} entries; at most {BATCH_MAX}"))),
    }
}

pub(super) async fn batch_delete_table(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: TablesToDelete = call.input()?;
    bounded("TablesToDelete", input.tables_to_delete.len())?;
    let database = input.database_name.to_lowercase();
    rooms.lake.catalog().get_database(&database)?;
    let mut errors = Vec::new();
    for given in input.tables_to_delete {
        let name = given.to_lowercase();
        let done = rooms.lake.catalog().drop_table(&database, &name).map_err(Fault::from);
        if let Err(fault) = done.and_then(|()| forget(rooms, &database, &name)) {
            errors.push(json!({"TableName": given, "ErrorDetail": detail(&fault)}));
        }
    }
    Ok(json!({"Errors": errors}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct CreatePartition {
    database_name: String,
    table_name: String,
    partition_input: PartitionInput,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct CreatePartitions {
    database_name: String,
    table_name: String,
    partition_input_list: Vec<PartitionInput>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct UpdatePartition {
    database_name: String,
    table_name: String,
    partition_value_list: Vec<String>,
    partition_input: PartitionInput,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct OnePartition {
    database_name: String,
    table_name: String,
    partition_values: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct SomePartitions {
    database_name: String,
    table_name: String,
    #[serde(alias = "PartitionsToDelete")]
    partitions_to_get: Vec<Values>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Values {
    values: Vec<String>,
}

fn table_of(rooms: &Rooms, database: &str, name: &str) -> Result<Table, Fault> {
    Ok(rooms.lake.catalog().get_table(&database.to_lowercase(), &name.to_lowercase())?)
}

fn partition_key(table: &Table, values: &[String]) -> String {
    // JSON keeps values apart whatever they hold.
    format!("{}/{}", key(table), json!(values))
}

/// The partition that an input describes. Readers take a partition's values from its folders,
/// so its place must be the folder that says them.
fn read_partition(
    rooms: &Rooms,
    table: &Table,
    input: &PartitionInput,
) -> Result<Partition, Fault> {
    let values = &input.values;
    if values.len() != table.partition_keys.len() {
        return Err(Fault::invalid(format!(
            "Values {values:?} has {} entries, table {:?} has {} partition keys",
            values.len(),
            table.name,
            table.partition_keys.len()
        )));
    }
    if let Some(storage) = &input.storage_descriptor {
        no_buckets(storage)?;
        if storage.serde_info.is_some() && format(storage, &table.parameters)?.0 != table.format {
            return Err(Fault::unsupported("SerdeInfo", "a partition has its table's format"));
        }
    }
    let given = input.storage_descriptor.as_ref().and_then(|storage| storage.location.as_deref());
    let (bucket, prefix) = match given {
        Some(location) => place(rooms, location)?,
        None => {
            let keys = table.partition_keys.iter().map(|key| key.name.as_str());
            let folder = lake::partition_folder(keys.zip(values.iter().map(String::as_str)));
            (table.bucket.clone(), format!("{}{folder}", table.prefix))
        }
    };
    let below = prefix.strip_prefix(&table.prefix).filter(|_| bucket == table.bucket);
    let fits = below.is_some_and(|below| {
        below.matches('/').count() == values.len()
            && lake::partition_values(table, below) == *values
    });
    if !fits {
        return Err(Fault::unsupported(
            "StorageDescriptor.Location",
            &format!(
                "s3://{bucket}/{prefix} is not the folder of {values:?} below s3://{}/{}",
                table.bucket, table.prefix
            ),
        ));
    }
    Ok(Partition { values: values.clone(), bucket, prefix, created_at: rooms.clock.now() })
}

fn remember_partition(
    rooms: &Rooms,
    table: &Table,
    given: (&PartitionInput, &Value),
) -> Result<(), Fault> {
    let (input, raw) = given;
    let made = rooms.lake.catalog().get_partition(&table.database, &table.name, &input.values)?;
    let words = PartitionWords {
        created_at: made.created_at,
        parameters: input.parameters.clone(),
        storage: beyond(&raw["StorageDescriptor"], &["Columns"]),
    };
    rooms.metastore.put(&partition_key(table, &input.values), &words)?;
    Ok(())
}

/// Adds what the caller said of a partition to what the lake knows.
pub(super) fn add_partition_words(
    rooms: &Rooms,
    (table, found): (&Table, &Partition),
    shown: &mut Value,
) -> Result<(), Fault> {
    let words = rooms.metastore.get::<PartitionWords>(&partition_key(table, &found.values))?;
    if let Some(words) = words.filter(|words| words.created_at == found.created_at) {
        shown["Parameters"] = json!(words.row.parameters);
        overlay(&mut shown["StorageDescriptor"], words.row.storage);
    }
    Ok(())
}

fn add(rooms: &Rooms, table: &Table, given: (&PartitionInput, &Value)) -> Result<(), Fault> {
    let partition = read_partition(rooms, table, given.0)?;
    let added =
        rooms.lake.catalog().add_partitions(&table.database, &table.name, vec![partition])?;
    if added == 0 {
        let values = &given.0.values;
        let message = format!("Partition {values:?} already exists in table {:?}", table.name);
        return Err(Fault::named("AlreadyExistsException", 400, message));
    }
    remember_partition(rooms, table, given)
}

pub(super) async fn create_partition(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: CreatePartition = call.input()?;
    let table = table_of(rooms, &input.database_name, &input.table_name)?;
    add(rooms, &table, (&input.partition_input, &call.input["PartitionInput"]))?;
    Ok(json!({}).into())
}

fn failed(values: &[String], fault: &Fault) -> Value {
    json!({"PartitionValues": values, "ErrorDetail": detail(fault)})
}

pub(super) async fn batch_create_partition(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: CreatePartitions = call.input()?;
    bounded("PartitionInputList", input.partition_input_list.len())?;
    let table = table_of(rooms, &input.database_name, &input.table_name)?;
    let mut errors = Vec::new();
    for (index, one) in input.partition_input_list.iter().enumerate() {
        let raw = &call.input["PartitionInputList"][index];
        if let Err(fault) = add(rooms, &table, (one, raw)) {
            errors.push(failed(&one.values, &fault));
        }
    }
    Ok(json!({"Errors": errors}).into())
}

pub(super) async fn batch_get_partition(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: SomePartitions = call.input()?;
    bounded("PartitionsToGet", input.partitions_to_get.len().div_ceil(10))?;
    let table = table_of(rooms, &input.database_name, &input.table_name)?;
    let mut shown = Vec::new();
    // Those that are not there are simply not among the answers.
    for Values { values } in input.partitions_to_get {
        match rooms.lake.catalog().get_partition(&table.database, &table.name, &values) {
            Ok(found) => shown.push(super::partition(rooms, &table, &found)?),
            Err(error) if error.kind() == base::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(json!({"Partitions": shown, "UnprocessedKeys": []}).into())
}

pub(super) async fn update_partition(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: UpdatePartition = call.input()?;
    let table = table_of(rooms, &input.database_name, &input.table_name)?;
    let partition = read_partition(rooms, &table, &input.partition_input)?;
    let old = &input.partition_value_list;
    rooms.lake.catalog().replace_partition(&table.database, &table.name, old, partition)?;
    rooms.metastore.delete::<PartitionWords>(&partition_key(&table, old))?;
    remember_partition(rooms, &table, (&input.partition_input, &call.input["PartitionInput"]))?;
    Ok(json!({}).into())
}

fn drop_one(rooms: &Rooms, table: &Table, values: &[String]) -> Result<(), Fault> {
    if !rooms.lake.catalog().drop_partition(&table.database, &table.name, values)? {
        let message = format!("table {:?} has no partition {values:?}", table.name);
        return Err(Fault::not_found(message));
    }
    rooms.metastore.delete::<PartitionWords>(&partition_key(table, values))?;
    Ok(())
}

pub(super) async fn delete_partition(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: OnePartition = call.input()?;
    let table = table_of(rooms, &input.database_name, &input.table_name)?;
    drop_one(rooms, &table, &input.partition_values)?;
    Ok(json!({}).into())
}

pub(super) async fn batch_delete_partition(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: SomePartitions = call.input()?;
    bounded("PartitionsToDelete", input.partitions_to_get.len())?;
    let table = table_of(rooms, &input.database_name, &input.table_name)?;
    let mut errors = Vec::new();
    for Values { values } in input.partitions_to_get {
        if let Err(fault) = drop_one(rooms, &table, &values) {
            errors.push(failed(&values, &fault));
        }
    }
    Ok(json!({"Errors": errors}).into())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::World;

    fn input(name: &str, serde: &str) -> Value {
        json!({
            "Name": name, "TableType": "EXTERNAL_TABLE", "Description": "air", "Owner": "me",
            "PartitionKeys": [{"Name": "day", "Type": "string"}],
            "Parameters": {"classification": "parquet", "compressionType": "snappy"},
            "StorageDescriptor": {
                "Columns": [{"Name": "ozone", "Type": "bigint", "Comment": "ppb"}],
                "Location": format!("s3://lake/{name}"), "NumberOfBuckets": -1,
                "Compressed": true, "BucketColumns": [], "SortColumns": [],
                "SerdeInfo": {"SerializationLibrary": serde, "Parameters": {"a": "b"}},
            },
        })
    }

    const PARQUET: &str = "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe";

    async fn world() -> World {
        let world = World::new();
        world.rooms.buckets.create_bucket("lake").unwrap();
        world
            .call("glue", "CreateDatabase", json!({"DatabaseInput": {"Name": "d"}}))
            .await
            .unwrap();
        world
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_table_comes_back_as_it_was_given() {
        let world = world().await;
        let call = |operation: &'static str, input| world.call("glue", operation, input);
        let mut given = input("t", PARQUET);
        let create = json!({"DatabaseName": "d", "TableInput": given});
        call("CreateTable", create.clone()).await.unwrap();
        assert_eq!(call("CreateTable", create).await.unwrap_err().1, "AlreadyExistsException");
        let of = json!({"DatabaseName": "d", "Name": "t"});
        let table = call("GetTable", of.clone()).await.unwrap()["Table"].take();
        for member in ["Name", "Description", "Owner", "PartitionKeys", "Parameters", "TableType"] {
            assert_eq!(table[member], given[member], "{member}");
        }
        for (member, value) in given["StorageDescriptor"].as_object().unwrap() {
            assert_eq!(table["StorageDescriptor"][member], *value, "{member}");
        }
        given["Description"] = json!("new");
        let update = json!({"DatabaseName": "d", "TableInput": given, "SkipArchive": true});
        call("UpdateTable", update).await.unwrap();
        let stale = json!({"DatabaseName": "d", "TableInput": given, "VersionId": "1"});
        let code = call("UpdateTable", stale).await.unwrap_err().1;
        assert_eq!(code, "ConcurrentModificationException");
        let keep = json!({"DatabaseName": "d", "TableInput": given, "VersionId": "2"});
        call("UpdateTable", keep).await.unwrap();
        let version = |id: &str| json!({"DatabaseName": "d", "TableName": "t", "VersionId": id});
        let found = call("GetTableVersion", version("3")).await.unwrap();
        assert_eq!(found["TableVersion"]["Table"]["Description"], "new");
        for id in ["1", "9"] {
            let code = call("GetTableVersion", version(id)).await.unwrap_err().1;
            assert_eq!(code, "EntityNotFoundException", "{id}");
        }
        call("DeleteTableVersion", version("2")).await.unwrap();
        assert!(call("DeleteTableVersion", version("3")).await.is_err());
        let delete = json!({"DatabaseName": "d", "TablesToDelete": ["t", "no"]});
        let errors = call("BatchDeleteTable", delete).await.unwrap()["Errors"].take();
        assert_eq!(errors.as_array().unwrap().len(), 1);
        assert_eq!(errors[0]["ErrorDetail"]["ErrorCode"], "EntityNotFoundException");
        assert_eq!(call("GetTable", of).await.unwrap_err().1, "EntityNotFoundException");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tables_that_could_not_be_read_are_refused() {
        let world = world().await;
        let mut cases = vec![(input("t", "org.apache.hadoop.hive.serde2.RegexSerDe"), "Regex")];
        for (pointer, value, says) in [
            ("/StorageDescriptor/Location", json!("s3://none/x/"), "none"),
            ("/StorageDescriptor/Location", json!("file:///x"), "s3://"),
            ("/StorageDescriptor/Columns/0/Type", json!("nope"), "ozone"),
            ("/StorageDescriptor/BucketColumns", json!(["ozone"]), "BucketColumns"),
            ("/TableType", json!("VIRTUAL_VIEW"), "VIRTUAL_VIEW"),
        ] {
            let mut given = input("t", PARQUET);
            *given.pointer_mut(pointer).unwrap() = value;
            cases.push((given, says));
        }
        for (given, says) in cases {
            let given = json!({"DatabaseName": "d", "TableInput": given});
            let (_, code, message) = world.call("glue", "CreateTable", given).await.unwrap_err();
            assert_eq!(code, "InvalidInputException");
            assert!(message.contains(says), "{says}: {message}");
        }
        let given = json!({"DatabaseName": "no", "TableInput": input("t", PARQUET)});
        let code = world.call("glue", "CreateTable", given).await.unwrap_err().1;
        assert_eq!(code, "EntityNotFoundException");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn partitions_are_made_changed_and_dropped() {
        let world = world().await;
        let call = |operation: &'static str, mut input: Value| {
            input["DatabaseName"] = json!("d");
            world.call("glue", operation, input)
        };
        call("CreateTable", json!({"TableInput": input("t", PARQUET)})).await.unwrap();
        let one = |day: &str, location: &str| {
            json!({"Values": [day], "Parameters": {"rows": "1"},
                "StorageDescriptor": {"Location": location}})
        };
        let list = json!({"TableName": "t", "PartitionInputList": [
            one("1", "s3://lake/t/day=1/"), one("1", "s3://lake/t/day=1/"),
            one("2", "s3://lake/elsewhere/"), {"Values": ["3"]}, {"Values": []},
        ]});
        let errors = call("BatchCreatePartition", list).await.unwrap()["Errors"].take();
        let found: Vec<_> =
            errors.as_array().unwrap().iter().map(|e| &e["ErrorDetail"]["ErrorCode"]).collect();
        assert_eq!(
            found,
            ["AlreadyExistsException", "InvalidInputException", "InvalidInputException"]
        );
        let get = json!({"TableName": "t", "PartitionValues": ["1"]});
        let found = call("GetPartition", get.clone()).await.unwrap()["Partition"].take();
        assert_eq!(found["Parameters"]["rows"], "1");
        assert_eq!(found["StorageDescriptor"]["Location"], "s3://lake/t/day=1/");
        let create = json!({"TableName": "t", "PartitionInput": {"Values": ["1"]}});
        let code = call("CreatePartition", create).await.unwrap_err().1;
        assert_eq!(code, "AlreadyExistsException");
        let update = |old: &str, new: Value| json!({"TableName": "t", "PartitionValueList": [old], "PartitionInput": new});
        call("UpdatePartition", update("1", one("4", "s3://lake/t/day=4"))).await.unwrap();
        let code = call("GetPartition", get).await.unwrap_err().1;
        assert_eq!(code, "EntityNotFoundException");
        let taken = update("4", json!({"Values": ["3"]}));
        assert_eq!(call("UpdatePartition", taken).await.unwrap_err().1, "AlreadyExistsException");
        let some = json!([{"Values": ["4"]}, {"Values": ["none"]}]);
        let get = json!({"TableName": "t", "PartitionsToGet": some});
        let found = call("BatchGetPartition", get).await.unwrap()["Partitions"].take();
        assert_eq!(found.as_array().unwrap().len(), 1);
        let delete = json!({"TableName": "t", "PartitionsToDelete": some});
        let errors = call("BatchDeletePartition", delete).await.unwrap()["Errors"].take();
        assert_eq!(errors[0]["PartitionValues"], json!(["none"]));
        let delete = json!({"TableName": "t", "PartitionValues": ["3"]});
        call("DeletePartition", delete).await.unwrap();
        let found = call("GetPartitions", json!({"TableName": "t"})).await.unwrap();
        assert_eq!(found["Partitions"], json!([]));
    }
}
