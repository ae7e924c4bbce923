//! Glue Studio's nodes as the lake's: what the lake cannot do is refused by its name.

use std::collections::BTreeMap;

use lake::{Mapping, NoValue, Node, TargetCompression};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::fault::Fault;
use crate::rooms::DATABASE;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Catalog {
    #[serde(rename = "Name")]
    _name: String,
    database: String,
    table: String,
    partition_predicate: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct ApplyMapping {
    #[serde(rename = "Name")]
    _name: String,
    inputs: Vec<String>,
    mapping: Vec<OneMapping>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct OneMapping {
    to_key: String,
    from_path: Vec<String>,
    from_type: String,
    to_type: String,
    #[serde(default)]
    dropped: bool,
    #[serde(default)]
    children: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Fields {
    #[serde(rename = "Name")]
    _name: String,
    inputs: Vec<String>,
    paths: Vec<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Rename {
    #[serde(rename = "Name")]
    _name: String,
    inputs: Vec<String>,
    source_path: Vec<String>,
    target_path: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct DropDuplicates {
    #[serde(rename = "Name")]
    _name: String,
    inputs: Vec<String>,
    #[serde(default)]
    columns: Vec<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct DropNullFields {
    #[serde(rename = "Name")]
    _name: String,
    inputs: Vec<String>,
    #[serde(default)]
    null_check_box_list: NullChecks,
    #[serde(default)]
    null_text_list: Vec<NullText>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "PascalCase")]
struct NullChecks {
    is_empty: bool,
    is_null_string: bool,
    is_neg_one: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct NullText {
    value: String,
    datatype: Datatype,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Datatype {
    id: String,
    #[serde(rename = "Label")]
    _label: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Sql {
    #[serde(rename = "Name")]
    _name: String,
    inputs: Vec<String>,
    sql_query: String,
    sql_aliases: Vec<Alias>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Alias {
    from: String,
    alias: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Filter {
    #[serde(rename = "Name")]
    _name: String,
    inputs: Vec<String>,
    logical_operator: Logical,
    filters: Vec<Condition>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Logical {
    And,
    Or,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Condition {
    operation: Operation,
    #[serde(default)]
    negated: bool,
    values: Vec<Operand>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Operation {
    Eq,
    Lt,
    Gt,
    Lte,
    Gte,
    Regex,
    IsNull,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Operand {
    r#type: OperandType,
    value: Vec<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum OperandType {
    ColumnExtracted,
    Constant,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Target {
    #[serde(rename = "Name")]
    _name: String,
    inputs: Vec<String>,
    path: String,
    compression: Option<String>,
    format: Option<String>,
    #[serde(default)]
    partition_keys: Vec<Vec<String>>,
    schema_change_policy: Option<ChangePolicy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct ChangePolicy {
    #[serde(default)]
    enable_update_catalog: bool,
    update_behavior: Option<String>,
    table: Option<String>,
    database: Option<String>,
}

/// A node with the place it has in the request, for messages.
struct Given<'a> {
    id: &'a str,
    kind: &'a str,
}

impl Given<'_> {
    fn place(&self, member: &str) -> String {
        format!("CodeGenConfigurationNodes.{}.{}.{member}", self.id, self.kind)
    }

    fn read<T: DeserializeOwned>(&self, body: &Value) -> Result<T, Fault> {
        serde_path_to_error::deserialize(body).map_err(|error| {
            let place = self.place(&error.path().to_string());
            Fault::input(&place, &error.into_inner().to_string())
        })
    }

    fn only_input(&self, inputs: Vec<String>) -> Result<String, Fault> {
        let [input] = <[String; 1]>::try_from(inputs).map_err(|given| {
            Fault::invalid(format!("{}: {} inputs; give one", self.place("Inputs"), given.len()))
        })?;
        Ok(input)
    }

    /// Paths that must each name a column.
    fn columns(&self, member: &str, paths: Vec<Vec<String>>) -> Result<Vec<String>, Fault> {
        paths.into_iter().map(|path| self.column(member, path)).collect()
    }

    fn column(&self, member: &str, path: Vec<String>) -> Result<String, Fault> {
        let [column] = <[String; 1]>::try_from(path).map_err(|path| {
            let why = format!("{path:?}; only a column can be named, not a field within one");
            Fault::unsupported(&self.place(member), &why)
        })?;
        Ok(column)
    }
}

/// The nodes of `CodeGenConfigurationNodes`.
pub(super) fn nodes(given: &BTreeMap<String, Value>) -> Result<Vec<Node>, Fault> {
    given
        .iter()
        .map(|(id, node)| {
            let kinds = node.as_object().filter(|kinds| kinds.len() == 1);
            match kinds.and_then(|kinds| kinds.iter().next()) {
                Some((kind, body)) => lowered(&Given { id, kind }, body),
                None => Err(Fault::invalid(format!(
                    "CodeGenConfigurationNodes.{id}: a node is an object with one member, its kind"
                ))),
            }
        })
        .collect()
}

fn lowered(given: &Given<'_>, body: &Value) -> Result<Node, Fault> {
    let id = given.id.to_owned();
    Ok(match given.kind {
        "CatalogSource" | "S3CatalogSource" => {
            let Catalog { database, table, partition_predicate, .. } = given.read(body)?;
            if let Some(predicate) = partition_predicate.filter(|text| !text.is_empty()) {
                let why = format!("{predicate:?}; filter by a SparkSQL node");
                return Err(Fault::unsupported(&given.place("PartitionPredicate"), &why));
            }
            Node::Source { id, database: database.to_lowercase(), table: table.to_lowercase() }
        }
        "ApplyMapping" => {
            let ApplyMapping { inputs, mapping, .. } = given.read(body)?;
            let mappings = mapping.into_iter().map(|one| {
                if !one.children.is_empty() {
                    let why = format!("of {:?}; map the fields by their paths", one.to_key);
                    return Err(Fault::unsupported(&given.place("Mapping.Children"), &why));
                }
                Ok(Mapping {
                    from: one.from_path.join("."),
                    from_type: hive_type(one.from_type),
                    to: one.to_key,
                    to_type: hive_type(one.to_type),
                    drop: one.dropped,
                })
            });
            let mappings = mappings.collect::<Result<_, Fault>>()?;
            Node::ApplyMapping { id, input: given.only_input(inputs)?, mappings }
        }
        "SelectFields" => {
            let Fields { inputs, paths, .. } = given.read(body)?;
            let fields = given.columns("Paths", paths)?;
            Node::SelectFields { id, input: given.only_input(inputs)?, fields }
        }
        "DropFields" => {
            let Fields { inputs, paths, .. } = given.read(body)?;
            let fields = given.columns("Paths", paths)?;
            Node::DropFields { id, input: given.only_input(inputs)?, fields }
        }
        "RenameField" => {
            let Rename { inputs, source_path, target_path, .. } = given.read(body)?;
            let from = given.column("SourcePath", source_path)?;
            let to = given.column("TargetPath", target_path)?;
            Node::RenameField { id, input: given.only_input(inputs)?, from, to }
        }
        "DropDuplicates" => {
            let DropDuplicates { inputs, columns, .. } = given.read(body)?;
            let columns = given.columns("Columns", columns)?;
            Node::DropDuplicates { id, input: given.only_input(inputs)?, columns }
        }
        "DropNullFields" => {
            let DropNullFields { inputs, null_check_box_list: boxes, null_text_list, .. } =
                given.read(body)?;
            let ticked = [
                (boxes.is_empty, NoValue::Text(String::new())),
                (boxes.is_null_string, NoValue::Text("null".to_owned())),
                (boxes.is_neg_one, NoValue::Number("-1".to_owned())),
            ];
            let ticked = ticked.into_iter().filter(|(is, _)| *is).map(|(_, value)| value);
            let written = null_text_list.into_iter().map(|one| match one.datatype.id.as_str() {
                "string" | "char" | "varchar" => NoValue::Text(one.value),
                _ => NoValue::Number(one.value),
            });
            let also = ticked.chain(written).collect();
            Node::DropNullFields { id, input: given.only_input(inputs)?, also }
        }
        "SparkSQL" => {
            let Sql { inputs, sql_query, sql_aliases, .. } = given.read(body)?;
            let aliases: BTreeMap<String, String> =
                sql_aliases.into_iter().map(|one| (one.alias, one.from)).collect();
            if let Some(odd) = inputs.iter().find(|input| !aliases.values().any(|of| of == *input))
            {
                let place = given.place("SqlAliases");
                return Err(Fault::invalid(format!("{place}: input {odd:?} has no alias")));
            }
            Node::Sql { id, inputs: aliases, query: sql_query }
        }
        "Filter" => {
            let filter: Filter = given.read(body)?;
            let query = format!("SELECT * FROM input WHERE {}", predicate(given, &filter)?);
            let input = given.only_input(filter.inputs)?;
            Node::Sql { id, inputs: BTreeMap::from([("input".to_owned(), input)]), query }
        }
        "S3GlueParquetTarget" | "S3DirectTarget" => target(given, given.read(body)?)?,
        other => {
            let why = format!(
                "node {id:?}; there are CatalogSource, S3CatalogSource, ApplyMapping, SelectFields, DropFields, RenameField, DropDuplicates, DropNullFields, Filter, SparkSQL, S3GlueParquetTarget and S3DirectTarget"
            );
            return Err(Fault::unsupported(other, &why));
        }
    })
}

fn hive_type(glue: String) -> String {
    match glue.as_str() {
        "long" => "bigint".to_owned(),
        "integer" => "int".to_owned(),
        "short" => "smallint".to_owned(),
        "byte" => "tinyint".to_owned(),
        "bool" => "boolean".to_owned(),
        _ => glue,
    }
}

fn predicate(given: &Given<'_>, filter: &Filter) -> Result<String, Fault> {
    if filter.filters.is_empty() {
        return Err(Fault::invalid(format!("{} is empty", given.place("Filters"))));
    }
    let terms = filter.filters.iter().map(|one| term(given, one));
    let terms = terms.collect::<Result<Vec<String>, Fault>>()?;
    Ok(terms.join(match filter.logical_operator {
        Logical::And => " AND ",
        Logical::Or => " OR ",
    }))
}

fn term(given: &Given<'_>, condition: &Condition) -> Result<String, Fault> {
    let operands = condition.values.iter().map(|operand| {
        let place = given.place("Filters.Values.Value");
        let [value] = operand.value.as_slice() else {
            return Err(Fault::unsupported(&place, &format!("{:?}; one element", operand.value)));
        };
        Ok(match operand.r#type {
            OperandType::ColumnExtracted => format!("\"{}\"", value.replace('"', "\"\"")),
            OperandType::Constant if value.parse::<f64>().is_ok_and(f64::is_finite) => {
                value.clone()
            }
            OperandType::Constant => text(value),
        })
    });
    let operands = operands.collect::<Result<Vec<String>, Fault>>()?;
    let between = match condition.operation {
        Operation::Eq => "=",
        Operation::Lt => "<",
        Operation::Gt => ">",
        Operation::Lte => "<=",
        Operation::Gte => ">=",
        Operation::Regex | Operation::IsNull => "",
    };
    let found = match (condition.operation, operands.as_slice()) {
        (Operation::IsNull, [value]) => format!("{value} IS NULL"),
        (Operation::Regex, [value, _]) => {
            // Glue's script matches from the start of the text.
            let pattern = condition.values[1].value.concat();
            format!("regexp_like({value}, {})", text(&format!("^(?:{pattern})")))
        }
        (Operation::IsNull | Operation::Regex, _) | (_, [] | [_] | [_, _, _, ..]) => {
            let place = given.place("Filters.Values");
            let count = operands.len();
            return Err(Fault::invalid(format!(
                "{place}: {count} values do not fit the Operation"
            )));
        }
        (_, [left, right]) => format!("{left} {between} {right}"),
    };
    Ok(if condition.negated { format!("(NOT ({found}))") } else { format!("({found})") })
}

fn text(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

fn target(given: &Given<'_>, target: Target) -> Result<Node, Fault> {
    if let Some(format) = &target.format
        && !["parquet", "glueparquet"].contains(&format.as_str())
    {
        let why = format!("{format:?}; only parquet");
        return Err(Fault::unsupported(&given.place("Format"), &why));
    }
    let compression = match target.compression.as_deref() {
        None | Some("snappy") => TargetCompression::Snappy,
        Some("zstd") => TargetCompression::Zstd,
        Some(other) => {
            let why = format!("{other:?}; use snappy or zstd");
            return Err(Fault::unsupported(&given.place("Compression"), &why));
        }
    };
    let place = target.path.strip_prefix("s3://").and_then(|place| place.split_once('/'));
    let Some((bucket, prefix)) =
        place.filter(|(bucket, prefix)| !bucket.is_empty() && !prefix.trim_matches('/').is_empty())
    else {
        let path = &target.path;
        return Err(Fault::invalid(format!(
            "{}: {path:?} is not s3://BUCKET/FOLDER/",
            given.place("Path")
        )));
    };
    let prefix = format!("{}/", prefix.trim_matches('/'));
    let (database, table) = match target.schema_change_policy {
        Some(policy) if policy.enable_update_catalog => {
            if let Some(behaviour) = policy.update_behavior.filter(|b| b != "UPDATE_IN_DATABASE") {
                let why = format!("{behaviour:?}; only UPDATE_IN_DATABASE");
                let place = given.place("SchemaChangePolicy.UpdateBehavior");
                return Err(Fault::unsupported(&place, &why));
            }
            let (Some(database), Some(table)) = (policy.database, policy.table) else {
                let place = given.place("SchemaChangePolicy");
                return Err(Fault::invalid(format!("{place}: name Database and Table")));
            };
            (database.to_lowercase(), table.to_lowercase())
        }
        _ => (DATABASE.to_owned(), table_name(&format!("{bucket}_{}", prefix.trim_matches('/')))),
    };
    let partition_keys = given.columns("PartitionKeys", target.partition_keys)?;
    Ok(Node::Target {
        id: given.id.to_owned(),
        input: given.only_input(target.inputs)?,
        bucket: bucket.to_owned(),
        prefix,
        format: lake::TargetFormat::Parquet,
        compression,
        partition_keys,
        database,
        table,
    })
}

fn table_name(place: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    place.chars().map(plain).collect()
}
