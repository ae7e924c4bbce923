//! The catalog as Athena shows it: one data catalog with the lake's databases and tables.

use std::sync::Arc;

use base::{Error, ErrorKind};
use lake::{Database, Format, Table};
use serde::Deserialize;
use serde_json::{Value, json};

use super::execution::refuse;
use super::statement;
use crate::call::{Call, Outcome};
use crate::fault::Fault;
use crate::page::page;
use crate::rooms::{Rooms, epoch_secs};
use crate::services::text_serde;

const CATALOG: &str = "AwsDataCatalog";

/// Refuses every catalog but the one there is.
pub(super) fn check_catalog(name: &str) -> Result<(), Fault> {
    match name.eq_ignore_ascii_case(statement::CATALOG) {
        true => Ok(()),
        false => Err(Fault::invalid(format!(
            "DataCatalog {name} was not found; the only one is {CATALOG}"
        ))),
    }
}

/// Athena's word for what the catalog refuses. Clients look for the catalog's own word behind it to
/// tell what is not there from what went wrong.
fn metadata(error: Error) -> Fault {
    match error.kind() {
        ErrorKind::NotFound => Fault::named(
            "MetadataException",
            400,
            format!(
                "{error} (Service: AmazonDataCatalog; Status Code: 400; Error Code: \
                 EntityNotFoundException; Proxy: null)"
            ),
        ),
        _ => error.into(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct List {
    next_token: Option<String>,
    max_results: Option<usize>,
    #[serde(rename = "WorkGroup")]
    _work_group: Option<String>,
}

fn listed(member: &str, list: Vec<Value>, next: Option<String>) -> Outcome {
    let mut answer = json!({member: list});
    if let Some(next) = next {
        answer["NextToken"] = json!(next);
    }
    Ok(answer.into())
}

/// ListDataCatalogs.
pub(super) async fn list_catalogs(_rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: List = call.input()?;
    let all = vec![CATALOG.to_owned()];
    let (some, next) =
        page(all, String::clone, input.next_token.as_deref(), input.max_results, 50)?;
    let shown = |name: &String| json!({"CatalogName": name, "Type": "GLUE"});
    listed("DataCatalogsSummary", some.iter().map(shown).collect(), next)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct OneCatalog {
    name: String,
    #[serde(rename = "WorkGroup")]
    _work_group: Option<String>,
}

/// GetDataCatalog.
pub(super) async fn get_catalog(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    check_catalog(&call.input::<OneCatalog>()?.name)?;
    let parameters = json!({"catalog-id": rooms.settings.account_id});
    let shown = json!({"Name": CATALOG, "Type": "GLUE", "Parameters": parameters});
    Ok(json!({"DataCatalog": shown}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct InCatalog {
    catalog_name: String,
    next_token: Option<String>,
    max_results: Option<usize>,
    #[serde(rename = "WorkGroup")]
    _work_group: Option<String>,
}

fn shown_database(found: &Database) -> Value {
    json!({"Name": found.name, "Description": found.description, "Parameters": {}})
}

/// ListDatabases.
pub(super) async fn list_databases(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: InCatalog = call.input()?;
    check_catalog(&input.catalog_name)?;
    let all = rooms.lake.catalog().list_databases()?;
    let key = |found: &Database| found.name.clone();
    let (some, next) = page(all, key, input.next_token.as_deref(), input.max_results, 50)?;
    listed("DatabaseList", some.iter().map(shown_database).collect(), next)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct OneDatabase {
    catalog_name: String,
    database_name: String,
    #[serde(rename = "WorkGroup")]
    _work_group: Option<String>,
}

/// GetDatabase.
pub(super) async fn get_database(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: OneDatabase = call.input()?;
    check_catalog(&input.catalog_name)?;
    let name = input.database_name.to_lowercase();
    let found = rooms.lake.catalog().get_database(&name).map_err(metadata)?;
    Ok(json!({"Database": shown_database(&found)}).into())
}

fn shown_columns(columns: &[lake::Column]) -> Vec<Value> {
    let shown = |column: &lake::Column| {
        let mut shown = json!({"Name": column.name, "Type": column.hive_type});
        if let Some(comment) = &column.comment {
            shown["Comment"] = json!(comment);
        }
        shown
    };
    columns.iter().map(shown).collect()
}

fn shown_table(table: &Table) -> Value {
    const PARQUET: &str = "org.apache.hadoop.hive.ql.io.parquet";
    let (input, output, serde) = match table.format {
        Format::Parquet => (
            format!("{PARQUET}.MapredParquetInputFormat"),
            format!("{PARQUET}.MapredParquetOutputFormat"),
            format!("{PARQUET}.serde.ParquetHiveSerDe"),
        ),
        Format::Csv => {
            let dialect = table.csv.clone().unwrap_or_else(text_serde::hive);
            let (library, _) = text_serde::of(&dialect);
            (
                "org.apache.hadoop.mapred.TextInputFormat".to_owned(),
                "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat".to_owned(),
                library.to_owned(),
            )
        }
        Format::Json => (
            "org.apache.hadoop.mapred.TextInputFormat".to_owned(),
            "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat".to_owned(),
            "org.openx.data.jsonserde.JsonSerDe".to_owned(),
        ),
    };
    let mut parameters = table.parameters.clone();
    for (name, value) in [
        ("location", format!("s3://{}/{}", table.bucket, table.prefix)),
        ("inputformat", input),
        ("outputformat", output),
        ("serde.serialization.lib", serde),
    ] {
        parameters.insert(name.to_owned(), value);
    }
    json!({
        "Name": table.name,
        "CreateTime": epoch_secs(table.created_at),
        "TableType": "EXTERNAL_TABLE",
        "Columns": shown_columns(&table.columns),
        "PartitionKeys": shown_columns(&table.partition_keys),
        "Parameters": parameters,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct InDatabase {
    catalog_name: String,
    database_name: String,
    expression: Option<Value>,
    next_token: Option<String>,
    max_results: Option<usize>,
    #[serde(rename = "WorkGroup")]
    _work_group: Option<String>,
}

/// ListTableMetadata.
pub(super) async fn list_tables(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: InDatabase = call.input()?;
    check_catalog(&input.catalog_name)?;
    let expression = input.expression.filter(|text| *text != json!(""));
    refuse(&expression, "Expression", "list all tables and choose among them")?;
    let name = input.database_name.to_lowercase();
    let all = rooms.lake.catalog().list_tables(&name).map_err(metadata)?;
    let key = |table: &Table| table.name.clone();
    let (some, next) = page(all, key, input.next_token.as_deref(), input.max_results, 50)?;
    listed("TableMetadataList", some.iter().map(shown_table).collect(), next)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct OneTable {
    catalog_name: String,
    database_name: String,
    table_name: String,
    #[serde(rename = "WorkGroup")]
    _work_group: Option<String>,
}

/// GetTableMetadata.
pub(super) async fn get_table(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: OneTable = call.input()?;
    check_catalog(&input.catalog_name)?;
    let (database, name) = (input.database_name.to_lowercase(), input.table_name.to_lowercase());
    let found = rooms.lake.catalog().get_table(&database, &name).map_err(metadata)?;
    Ok(json!({"TableMetadata": shown_table(&found)}).into())
}
