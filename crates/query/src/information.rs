//! `information_schema`: what tools ask a catalog with, answered from the lake's.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use base::{Error, Result};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use lake::{Column, Lake};

use crate::error::explain;
use crate::functions::trino_type;
use crate::statement::CATALOG;

/// The schema's name.
pub(crate) const INFORMATION_SCHEMA: &str = "information_schema";

/// One of its tables.
pub(crate) fn table(lake: &Lake, name: &str) -> Result<Arc<dyn TableProvider>> {
    let mut rows = Vec::new();
    let columns: &[&str] = match name {
        "schemata" => {
            for database in lake.catalog().list_databases()? {
                rows.push(vec![Some(CATALOG.into()), Some(database.name)]);
            }
            &["catalog_name", "schema_name"]
        }
        "tables" => {
            for database in lake.catalog().list_databases()? {
                let row = |name: String, kind: &str| {
                    vec![
                        Some(CATALOG.into()),
                        Some(database.name.clone()),
                        Some(name),
                        Some(kind.to_owned()),
                    ]
                };
                for table in lake.catalog().list_tables(&database.name)? {
                    rows.push(row(table.name, "BASE TABLE"));
                }
                for view in lake.list_views(&database.name)? {
                    rows.push(row(view.name, "VIEW"));
                }
            }
            &["table_catalog", "table_schema", "table_name", "table_type"]
        }
        "views" => {
            for database in lake.catalog().list_databases()? {
                for view in lake.list_views(&database.name)? {
                    let all = [CATALOG.into(), view.database, view.name, view.sql];
                    rows.push(all.into_iter().map(Some).collect());
                }
            }
            &["table_catalog", "table_schema", "table_name", "view_definition"]
        }
        "columns" => {
            for database in lake.catalog().list_databases()? {
                for table in lake.catalog().list_tables(&database.name)? {
                    for (index, column) in table.all_columns().enumerate() {
                        rows.push(vec![
                            Some(CATALOG.into()),
                            Some(database.name.clone()),
                            Some(table.name.clone()),
                            Some(column.name.clone()),
                            Some((index + 1).to_string()),
                            None,
                            Some("YES".into()),
                            Some(data_type(column)),
                        ]);
                    }
                }
            }
            &[
                "table_catalog",
                "table_schema",
                "table_name",
                "column_name",
                ORDINAL,
                "column_default",
                "is_nullable",
                "data_type",
            ]
        }
        other => {
            return Err(Error::not_found(format!(
                "{INFORMATION_SCHEMA} has no table {other:?}; it has schemata, tables, views and \
                 columns"
            )));
        }
    };
    memory_table(columns, &rows)
}

/// The one column that is a number.
const ORDINAL: &str = "ordinal_position";

fn data_type(column: &Column) -> String {
    match formats::hive::to_arrow(&column.hive_type) {
        Ok(data_type) => trino_type(&data_type),
        Err(_not_read) => column.hive_type.clone(),
    }
}

fn memory_table(columns: &[&str], rows: &[Vec<Option<String>>]) -> Result<Arc<dyn TableProvider>> {
    let mut fields = Vec::new();
    let mut arrays: Vec<ArrayRef> = Vec::new();
    for (at, name) in columns.iter().enumerate() {
        let cells = rows.iter().map(|row| row.get(at).and_then(Option::as_deref));
        if *name == ORDINAL {
            let numbers = cells.map(|cell| cell.and_then(|text| text.parse().ok()));
            fields.push(Field::new(*name, DataType::Int64, true));
            arrays.push(Arc::new(numbers.collect::<Int64Array>()));
        } else {
            fields.push(Field::new(*name, DataType::Utf8, true));
            arrays.push(Arc::new(cells.collect::<StringArray>()));
        }
    }
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&schema), arrays)
        .map_err(|cause| Error::internal(format!("a table was built wrongly: {cause}")))?;
    Ok(Arc::new(MemTable::try_new(schema, vec![vec![batch]]).map_err(explain)?))
}
