//! Glue Studio's nodes as the lake's: what the lake cannot do is refused by its name.

mod by_path;

use std::collections::BTreeMap;

use lake::{
    Aggregate, Format, Function, JoinKey, JoinKind, Mapping, NoValue, Node, QualityOutput, Table,
    TargetCompression, TargetFormat,
};
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
struct Join {
    #[serde(rename = "Name")]
    _name: String,
    inputs: Vec<String>,
    join_type: String,
    columns: Vec<JoinColumn>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct JoinColumn {
    from: String,
    keys: Vec<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Union {
    #[serde(rename = "Name")]
    _name: String,
    inputs: Vec<String>,
    union_type: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct SelectFromCollection {
    #[serde(rename = "Name")]
    _name: String,
    inputs: Vec<String>,
    index: usize,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Merge {
    #[serde(rename = "Name")]
    _name: String,
    inputs: Vec<String>,
    source: String,
    primary_keys: Vec<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Aggregated {
    #[serde(rename = "Name")]
    _name: String,
    inputs: Vec<String>,
    #[serde(default)]
    groups: Vec<Vec<String>>,
    aggs: Vec<OneAggregate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct OneAggregate {
    column: Vec<String>,
    agg_func: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Quality {
    #[serde(rename = "Name")]
    _name: String,
    inputs: Vec<String>,
    ruleset: String,
    output: Option<String>,
    publishing_options: Option<Value>,
    stop_job_on_failure_options: Option<StopOnFailure>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct StopOnFailure {
    stop_job_on_failure_timing: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct CatalogTarget {
    #[serde(rename = "Name")]
    _name: String,
    inputs: Vec<String>,
    database: String,
    table: String,
    #[serde(default)]
    partition_keys: Vec<Vec<String>>,
    schema_change_policy: Option<ChangePolicy>,
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

    fn two_inputs(&self, inputs: Vec<String>) -> Result<[String; 2], Fault> {
        <[String; 2]>::try_from(inputs).map_err(|given| {
            Fault::invalid(format!("{}: {} inputs; give two", self.place("Inputs"), given.len()))
        })
    }

    fn one_of(&self, member: &str, given: &str, known: &[&str]) -> Fault {
        let why = format!("{given:?}; there are {}", known.join(", "));
        Fault::unsupported(&self.place(member), &why)
    }
}

/// Finds a table of the catalog.
pub(super) type FindTable<'a> = dyn Fn(&str, &str) -> base::Result<Table> + Sync + 'a;

/// The nodes of `CodeGenConfigurationNodes`.
pub(super) fn nodes(
    given: &BTreeMap<String, Value>,
    find: &FindTable<'_>,
) -> Result<Vec<Node>, Fault> {
    given
        .iter()
        .map(|(id, node)| {
            let kinds = node.as_object().filter(|kinds| kinds.len() == 1);
            match kinds.and_then(|kinds| kinds.iter().next()) {
                Some((kind, body)) => lowered(&Given { id, kind }, body, find),
                None => Err(Fault::invalid(format!(
                    "CodeGenConfigurationNodes.{id}: a node is an object with one member, its kind"
                ))),
            }
        })
        .collect()
}

fn lowered(given: &Given<'_>, body: &Value, find: &FindTable<'_>) -> Result<Node, Fault> {
    let id = given.id.to_owned();
    Ok(match given.kind {
        "CatalogSource" | "S3CatalogSource" => {
            let Catalog { database, table, partition_predicate, .. } = given.read(body)?;
            if let Some(predicate) = partition_predicate.filter(|text| !text.is_empty()) {
                let why = format!("{predicate:?}; filter by a SparkSQL node");
                return Err(Fault::unsupported(&given.place("PartitionPredicate"), &why));
            }
            Node::Source {
                id,
                database: database.to_lowercase(),
                table: table.to_lowercase(),
                lineage: false,
            }
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
            let condition = predicate(given, &filter)?;
            Node::Filter { id, input: given.only_input(filter.inputs)?, condition }
        }
        "Join" => join(given, given.read(body)?)?,
        "Union" => {
            let Union { inputs, union_type, .. } = given.read(body)?;
            let distinct = match union_type.as_str() {
                "ALL" => false,
                "DISTINCT" => true,
                other => return Err(given.one_of("UnionType", other, &["ALL", "DISTINCT"])),
            };
            Node::Union { id, inputs: given.two_inputs(inputs)?.into(), distinct }
        }
        "SplitFields" => {
            let Fields { inputs, paths, .. } = given.read(body)?;
            let fields = given.columns("Paths", paths)?;
            Node::SplitFields { id, input: given.only_input(inputs)?, fields }
        }
        "SelectFromCollection" => {
            let SelectFromCollection { inputs, index, .. } = given.read(body)?;
            Node::SelectFromCollection { id, input: given.only_input(inputs)?, index }
        }
        "Merge" => {
            let Merge { inputs, source, primary_keys, .. } = given.read(body)?;
            let [one, other] = given.two_inputs(inputs)?;
            let staging = match (one == source, other == source) {
                (true, false) => other,
                (false, true) => one,
                _ => {
                    let place = given.place("Source");
                    return Err(Fault::invalid(format!(
                        "{place}: {source:?} is not one of Inputs"
                    )));
                }
            };
            let keys = given.columns("PrimaryKeys", primary_keys)?;
            Node::Merge { id, source, staging, keys }
        }
        "S3CsvSource" => by_path::source(given, body, Format::Csv)?,
        "S3JsonSource" => by_path::source(given, body, Format::Json)?,
        "S3ParquetSource" => by_path::source(given, body, Format::Parquet)?,
        "Spigot" => by_path::spigot(given, body)?,
        "Aggregate" => aggregate(given, given.read(body)?)?,
        "EvaluateDataQuality" => quality(given, given.read(body)?)?,
        "S3GlueParquetTarget" | "S3DirectTarget" => target(given, given.read(body)?)?,
        "S3CatalogTarget" => catalog_target(given, given.read(body)?, find)?,
        other => return Err(unknown(&id, other)),
    })
}

/// What is told to whoever asks for a node that there is not.
fn unknown(id: &str, kind: &str) -> Fault {
    let instead = match kind {
        "FillMissingValues" => "it fills by a model of Glue's; compute values by SparkSQL",
        "CustomCode" | "DynamicTransform" => "no code of others is run; say it by SparkSQL",
        "PIIDetection" => "find and replace by SparkSQL with regexp_replace",
        _ => {
            "there are CatalogSource, S3CatalogSource, S3CsvSource, S3JsonSource, S3ParquetSource, \
             Spigot, ApplyMapping, SelectFields, DropFields, \
             RenameField, DropDuplicates, DropNullFields, Filter, Join, Union, SplitFields, \
             SelectFromCollection, Merge, Aggregate, EvaluateDataQuality, SparkSQL, \
             S3GlueParquetTarget, S3DirectTarget and S3CatalogTarget"
        }
    };
    Fault::unsupported(kind, &format!("node {id:?}; {instead}"))
}

fn join(given: &Given<'_>, join: Join) -> Result<Node, Fault> {
    let kind = match join.join_type.as_str() {
        "equijoin" => JoinKind::Inner,
        "left" => JoinKind::Left,
        "right" => JoinKind::Right,
        "outer" => JoinKind::Full,
        "leftsemi" => JoinKind::LeftSemi,
        "leftanti" => JoinKind::LeftAnti,
        other => {
            let known = ["equijoin", "left", "right", "outer", "leftsemi", "leftanti"];
            return Err(given.one_of("JoinType", other, &known));
        }
    };
    let [left, right] = given.two_inputs(join.inputs)?;
    let mut keys = BTreeMap::new();
    for column in join.columns {
        keys.insert(column.from, given.columns("Columns.Keys", column.keys)?);
    }
    let (Some(lefts), Some(rights)) = (keys.remove(&left), keys.remove(&right)) else {
        let place = given.place("Columns");
        return Err(Fault::invalid(format!("{place}: name keys From {left:?} and {right:?}")));
    };
    if lefts.len() != rights.len() {
        let place = given.place("Columns.Keys");
        let (left, right) = (lefts.len(), rights.len());
        return Err(Fault::invalid(format!(
            "{place}: {left} on the left and {right} on the right"
        )));
    }
    let pairs = lefts.into_iter().zip(rights);
    let on = pairs.map(|(left, right)| JoinKey { left, right }).collect();
    Ok(Node::Join { id: given.id.to_owned(), left, right, kind, on })
}

fn aggregate(given: &Given<'_>, aggregated: Aggregated) -> Result<Node, Fault> {
    let aggregates = aggregated.aggs.into_iter().map(|one| {
        let column = given.column("Aggs.Column", one.column)?;
        let function = match one.agg_func.as_str() {
            "avg" => Function::Avg,
            "count" => Function::Count,
            "countDistinct" => Function::CountDistinct,
            "first" => Function::First,
            "last" => Function::Last,
            "max" => Function::Max,
            "min" => Function::Min,
            "stddev_samp" => Function::StddevSamp,
            "stddev_pop" => Function::StddevPop,
            "sum" => Function::Sum,
            "sumDistinct" => Function::SumDistinct,
            "var_samp" => Function::VarSamp,
            "var_pop" => Function::VarPop,
            other => {
                let known = [
                    "avg",
                    "count",
                    "countDistinct",
                    "first",
                    "last",
                    "max",
                    "min",
                    "stddev_samp",
                    "stddev_pop",
                    "sum",
                    "sumDistinct",
                    "var_samp",
                    "var_pop",
                ];
                return Err(given.one_of("Aggs.AggFunc", other, &known));
            }
        };
        Ok(Aggregate { to: Some(format!("{}({column})", one.agg_func)), column, function })
    });
    Ok(Node::Aggregate {
        id: given.id.to_owned(),
        aggregates: aggregates.collect::<Result<_, Fault>>()?,
        group_by: given.columns("Groups", aggregated.groups)?,
        input: given.only_input(aggregated.inputs)?,
    })
}

fn quality(given: &Given<'_>, quality: Quality) -> Result<Node, Fault> {
    let output = match quality.output.as_deref() {
        None | Some("PrimaryInput") => QualityOutput::Rows,
        Some("EvaluationResults") => QualityOutput::Results,
        Some(other) => {
            return Err(given.one_of("Output", other, &["PrimaryInput", "EvaluationResults"]));
        }
    };
    if quality.publishing_options.is_some_and(|options| !options.is_null()) {
        let why = "results are published nowhere; take them by Output EvaluationResults";
        return Err(Fault::unsupported(&given.place("PublishingOptions"), why));
    }
    let timing = quality.stop_job_on_failure_options.and_then(|o| o.stop_job_on_failure_timing);
    let stop = match timing.as_deref() {
        None => false,
        Some("Immediate") => true,
        Some(other) => {
            let member = "StopJobOnFailureOptions.StopJobOnFailureTiming";
            return Err(given.one_of(member, other, &["Immediate"]));
        }
    };
    let (id, ruleset) = (given.id.to_owned(), quality.ruleset);
    let input = given.only_input(quality.inputs)?;
    Ok(Node::EvaluateDataQuality { id, input, ruleset, output, stop })
}

/// A target that is a table already: what a job made, or the same again.
fn catalog_target(
    given: &Given<'_>,
    target: CatalogTarget,
    find: &FindTable<'_>,
) -> Result<Node, Fault> {
    if let Some(policy) = target.schema_change_policy
        && let Some(behaviour) = policy.update_behavior.filter(|b| b != "UPDATE_IN_DATABASE")
    {
        let member = "SchemaChangePolicy.UpdateBehavior";
        return Err(given.one_of(member, &behaviour, &["UPDATE_IN_DATABASE"]));
    }
    let (database, name) = (target.database.to_lowercase(), target.table.to_lowercase());
    let table = find(&database, &name)?;
    let format = match table.format {
        Format::Parquet => TargetFormat::Parquet,
        Format::Json => TargetFormat::Json,
        Format::Csv => TargetFormat::Csv,
    };
    let compression = match format {
        TargetFormat::Parquet => TargetCompression::Snappy,
        TargetFormat::Json | TargetFormat::Csv => TargetCompression::None,
    };
    Ok(Node::Target {
        id: given.id.to_owned(),
        input: given.only_input(target.inputs)?,
        bucket: table.bucket,
        prefix: table.prefix,
        format,
        compression,
        partition_keys: given.columns("PartitionKeys", target.partition_keys)?,
        database,
        table: name,
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
    let format = match target.format.as_deref() {
        None | Some("parquet" | "glueparquet") => TargetFormat::Parquet,
        Some("json") => TargetFormat::Json,
        Some("csv") => TargetFormat::Csv,
        Some(other) => {
            return Err(given.one_of("Format", other, &["parquet", "glueparquet", "json", "csv"]));
        }
    };
    let text = format != TargetFormat::Parquet;
    let compression = match target.compression.as_deref() {
        None if text => TargetCompression::None,
        None => TargetCompression::Snappy,
        Some("snappy") if !text => TargetCompression::Snappy,
        Some("zstd") => TargetCompression::Zstd,
        Some("gzip") if text => TargetCompression::Gzip,
        Some("none" | "uncompressed") if text => TargetCompression::None,
        Some(other) => {
            let known: &[&str] = if text { &["gzip", "zstd", "none"] } else { &["snappy", "zstd"] };
            return Err(given.one_of("Compression", other, known));
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
        format,
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

#[cfg(test)]
mod tests;
