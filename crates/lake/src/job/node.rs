//! The nodes of a job's graph as data: what each takes and what it is told.
//!
//! The same words are read from TOML, from the API and from stored rows, so a field that comes
//! later has a default. What a node means in rows is `query::etl`'s; whether it can mean
//! anything is `check.rs`'s.

use std::collections::BTreeMap;

use forecast::Frequency;
use serde::{Deserialize, Serialize};

use super::objects::ObjectsAt;

/// One step of a graph. `id`s are the author's; `input`s name them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "node", rename_all = "snake_case", deny_unknown_fields)]
pub enum Node {
    /// Rows of a catalog table, with its partition keys as the last columns.
    Source {
        /// Its id.
        id: String,
        /// The table's database.
        database: String,
        /// The table.
        table: String,
        /// Whether rows say which object they come from: `_object`, the last column.
        #[serde(default)]
        lineage: bool,
    },
    /// Rows of the objects below a path: their columns are found as a crawler finds them.
    Objects {
        /// Its id.
        id: String,
        /// Where they lie, and how they are read.
        at: ObjectsAt,
        /// As of a table.
        #[serde(default)]
        lineage: bool,
    },
    /// Renames, casts, reorders and drops columns; those not mentioned are dropped.
    ApplyMapping {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// The columns, in the order they shall have.
        mappings: Vec<Mapping>,
    },
    /// Keeps the columns named, in this order.
    SelectFields {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// Which columns.
        fields: Vec<String>,
    },
    /// Leaves the columns named out.
    DropFields {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// Which columns.
        fields: Vec<String>,
    },
    /// Gives a column another name, in its place.
    RenameField {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// The column.
        from: String,
        /// Its new name.
        to: String,
    },
    /// Keeps the rows for which a condition is true.
    Filter {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// An SQL expression over the columns.
        condition: String,
    },
    /// Adds columns computed from others, or replaces them in their place.
    DeriveColumns {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// The columns. None sees another of the same node.
        columns: Vec<Derived>,
    },
    /// Hands all rows on, and writes some of them beside the target, to be looked at: an object
    /// of JSON lines for each run.
    Spigot {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// The bucket of the samples.
        bucket: String,
        /// Their folder.
        prefix: String,
        /// Rows at most; the first of those that are picked.
        #[serde(default)]
        rows: Option<u32>,
        /// The share of rows that is picked, the same ones each time; all of them if absent.
        #[serde(default)]
        fraction: Option<f64>,
    },
    /// Keeps one row of those that agree in `columns`, or in all columns if there are none.
    DropDuplicates {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// What makes rows the same.
        #[serde(default)]
        columns: Vec<String>,
    },
    /// Leaves out columns that have no value in any row. The input is read twice.
    DropNullFields {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// What counts as no value, beside null.
        #[serde(default)]
        also: Vec<NoValue>,
    },
    /// Settles text columns that hold values of several types.
    ResolveChoice {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// What becomes of which column.
        choices: Vec<Choice>,
    },
    /// Makes the fields of structs columns, at every level.
    Flatten {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// Which columns; all structs without it.
        #[serde(default)]
        columns: Vec<String>,
        /// What stands between the names of a column and its field.
        #[serde(default = "dot")]
        separator: String,
    },
    /// Makes a row of each item of a list; the other columns are repeated.
    Explode {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// The list.
        column: String,
        /// Whether a row without items stays, with null.
        #[serde(default)]
        keep_empty: bool,
    },
    /// Turns the values of a column into columns. Rows come by `group_by`, sorted.
    Pivot {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// What makes one row.
        group_by: Vec<String>,
        /// The column whose values become columns.
        column: String,
        /// Those values, and so the columns.
        values: Vec<String>,
        /// The column whose values they get.
        value: String,
        /// How several values become one.
        #[serde(default)]
        function: Function,
    },
    /// Turns columns into rows: one for each column, with its name and its value.
    Unpivot {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// The columns.
        columns: Vec<String>,
        /// The column that gets their names.
        #[serde(default = "name")]
        name_to: String,
        /// The column that gets their values.
        #[serde(default = "value")]
        value_to: String,
    },
    /// One row for each group of rows, sorted by the group.
    Aggregate {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// What makes a group; all rows are one without it.
        #[serde(default)]
        group_by: Vec<String>,
        /// What is computed of it.
        aggregates: Vec<Aggregate>,
    },
    /// Puts rows of two nodes side by side. A column of the right that the left has too is
    /// called `right_` and its name.
    Join {
        /// Its id.
        id: String,
        /// The left rows.
        left: String,
        /// The right rows.
        right: String,
        /// Which rows stay.
        kind: JoinKind,
        /// What must be equal; null equals nothing.
        on: Vec<JoinKey>,
    },
    /// Gives each left row the latest right row of the same device that is not after it. Rows
    /// come by device and time. Columns are called as in a join, without the right's `by`.
    AsOfJoin {
        /// Its id.
        id: String,
        /// The left rows; each stays.
        left: String,
        /// The right rows.
        right: String,
        /// What makes a device, on both sides.
        by: Vec<String>,
        /// The time of a row, on both sides.
        time: String,
        /// A right row that is older than this is none.
        tolerance_seconds: u64,
    },
    /// The rows of its inputs one after another, columns by name; one that an input lacks is
    /// null there.
    Union {
        /// Its id.
        id: String,
        /// Where rows come from, in this order.
        inputs: Vec<String>,
        /// Whether the same row stays once only.
        #[serde(default)]
        distinct: bool,
    },
    /// The distinct rows of the left that the right has too; columns by place.
    Intersect {
        /// Its id.
        id: String,
        /// The left rows.
        left: String,
        /// The right rows.
        right: String,
    },
    /// The distinct rows of the left that the right has not; columns by place.
    Except {
        /// Its id.
        id: String,
        /// The left rows.
        left: String,
        /// The right rows.
        right: String,
    },
    /// The rows of `source` whose keys `staging` has not, then those of `staging`.
    Merge {
        /// Its id.
        id: String,
        /// The older rows.
        source: String,
        /// The rows that replace them.
        staging: String,
        /// What makes a row the same.
        keys: Vec<String>,
    },
    /// Two collections of columns for [`Node::SelectFromCollection`]: those named, and the rest.
    SplitFields {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// The columns of the first.
        fields: Vec<String>,
    },
    /// One collection of a [`Node::SplitFields`].
    SelectFromCollection {
        /// Its id.
        id: String,
        /// The node that split.
        input: String,
        /// 0 for the columns named there, 1 for the rest.
        index: usize,
    },
    /// About so large a share of the rows, the same ones each time.
    Sample {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// The share: above 0, at most 1.
        fraction: f64,
        /// Another seed takes other rows.
        #[serde(default)]
        seed: u64,
    },
    /// The first rows.
    Limit {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// How many.
        rows: usize,
    },
    /// A SELECT over its inputs.
    Sql {
        /// Its id.
        id: String,
        /// Table names in the query, and the nodes they mean.
        inputs: BTreeMap<String, String>,
        /// The query.
        query: String,
    },
    /// One row for each device and step of time that has readings, sorted so. Its time is the
    /// step's beginning; a reading without a time is left out.
    Resample {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// What makes a device.
        #[serde(default)]
        by: Vec<String>,
        /// The time of a row.
        time: String,
        /// The steps, as in DeepAR and pandas: `15min`, `1H`, `D`.
        freq: Frequency,
        /// What is computed of the readings of a step.
        aggregates: Vec<Aggregate>,
    },
    /// Adds a row with nulls for each step between a device's first and last row that has none.
    /// Rows come by device and time, which must lie on steps.
    FillGaps {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// What makes a device.
        #[serde(default)]
        by: Vec<String>,
        /// The time of a row.
        time: String,
        /// The steps.
        freq: Frequency,
    },
    /// Keeps one row for each device and time. Rows come by device and time; those without a
    /// time all stay.
    DropDuplicatesByTime {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// What makes a device.
        #[serde(default)]
        by: Vec<String>,
        /// The time of a row.
        time: String,
        /// Which stays, in the order of the input.
        #[serde(default)]
        keep: Keep,
    },
    /// Says of each row whether a value lies outside its range, and why.
    MarkRange {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// The ranges, in the units of their columns.
        ranges: Vec<Range>,
        /// The boolean column added.
        #[serde(default = "out_of_range")]
        mark: String,
        /// The text column added: null, or what is out of range.
        #[serde(default = "out_of_range_reason")]
        reason: String,
    },
    /// Says of each row whether a value differs from its neighbours' in time. Rows come by
    /// device and time.
    MarkOutliers {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// What makes a device.
        #[serde(default)]
        by: Vec<String>,
        /// The time of a row.
        time: String,
        /// The values.
        column: String,
        /// How they are judged.
        method: OutlierMethod,
        /// Rows of the device that are looked at, the row in their middle: odd.
        window: usize,
        /// How far is too far, in the method's unit; 3 for Hampel's and 1.5 for quartiles if
        /// absent.
        #[serde(default)]
        threshold: Option<f64>,
        /// The boolean column added.
        #[serde(default = "outlier")]
        mark: String,
        /// The text column added: null, or how far it is off.
        #[serde(default = "outlier_reason")]
        reason: String,
    },
    /// Checks its rows against rules in Glue's Data Quality Definition Language. The input is
    /// read twice.
    EvaluateDataQuality {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// `Rules = [ RowCount > 0, IsComplete "ozone" ]`
        ruleset: String,
        /// What comes out.
        #[serde(default)]
        output: QualityOutput,
        /// Whether a rule that fails ends the run, before anything is written.
        #[serde(default)]
        stop: bool,
    },
    /// Sets rows aside that break a rule: they go to the error prefix with the rule's reason
    /// and count as set aside in the run. The others go on.
    Quarantine {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// The rules; the first that a row breaks is its reason.
        rules: Vec<QuarantineRule>,
    },
    /// Files beneath a prefix, and the catalog table that has them.
    Target {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// The bucket.
        bucket: String,
        /// The table's prefix; ends with `/`.
        prefix: String,
        /// What the files are.
        #[serde(default)]
        format: TargetFormat,
        /// How they are packed.
        #[serde(default)]
        compression: TargetCompression,
        /// Columns that become folders, and leave the files.
        #[serde(default)]
        partition_keys: Vec<String>,
        /// The table's database.
        database: String,
        /// The table.
        table: String,
    },
    /// Series for DeepAR as JSON Lines, one a device, below `export=RUN/channel=train/` and
    /// `.../channel=test/`: each run makes its own export and changes none before.
    #[serde(rename = "export_deepar")]
    ExportDeepAr {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// The bucket.
        bucket: String,
        /// The prefix; ends with `/`.
        prefix: String,
        /// The catalog table of the exports: its database.
        database: String,
        /// The table.
        table: String,
        /// What makes a series; its values become `item_id`.
        by: Vec<String>,
        /// The time of a row; must lie on steps.
        time: String,
        /// The steps.
        freq: Frequency,
        /// The values; a missing step is null.
        target: String,
        /// Columns that are the same in all rows of a series: numbered from 0 in the order of
        /// their values, the values beside them as `cat_names`.
        #[serde(default)]
        cat: Vec<String>,
        /// Columns known for every step, also in the future.
        #[serde(default)]
        dynamic_feat: Vec<String>,
        /// Steps at the end of each series that only the test channel has; without it there is
        /// the train channel alone.
        #[serde(default)]
        prediction_length: Option<usize>,
    },
    /// CSV for SageMaker's built-in algorithms, target first and no header, below
    /// `export=RUN/`.
    ExportCsv {
        /// Its id.
        id: String,
        /// Where rows come from.
        input: String,
        /// The bucket.
        bucket: String,
        /// The prefix; ends with `/`.
        prefix: String,
        /// The catalog table of the exports: its database.
        database: String,
        /// The table.
        table: String,
        /// The first column.
        target: String,
        /// The other columns, in this order; all others without it.
        #[serde(default)]
        features: Vec<String>,
    },
}

fn dot() -> String {
    ".".to_owned()
}

fn name() -> String {
    "name".to_owned()
}

fn value() -> String {
    "value".to_owned()
}

fn out_of_range() -> String {
    "out_of_range".to_owned()
}

fn out_of_range_reason() -> String {
    "out_of_range_reason".to_owned()
}

fn outlier() -> String {
    "outlier".to_owned()
}

fn outlier_reason() -> String {
    "outlier_reason".to_owned()
}

/// What a column may hold in place of a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum NoValue {
    /// This text, in columns of text.
    Text(String),
    /// This number, in columns of numbers. Kept as written, since 64 bits of it may matter.
    Number(String),
}

/// What a target's files are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetFormat {
    /// Parquet.
    #[default]
    Parquet,
    /// JSON, one object a line.
    Json,
    /// CSV with a header.
    Csv,
}

/// How a target's files are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TargetCompression {
    /// Zstandard, level 3.
    #[default]
    Zstd,
    /// Snappy; Parquet only.
    Snappy,
    /// gzip; JSON and CSV only.
    Gzip,
    /// Not at all; JSON and CSV only.
    None,
}

/// What becomes of one column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// Column, or a path into structs, with dots between.
    pub from: String,
    /// Hive type it is expected to have; what differs is cast from what is found.
    pub from_type: String,
    /// Name it gets.
    pub to: String,
    /// Hive type it gets; what cannot be cast is null.
    pub to_type: String,
    /// Whether it is left out.
    #[serde(default)]
    pub drop: bool,
}

/// A column computed from others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Derived {
    /// Its name.
    pub name: String,
    /// An SQL expression over the columns.
    pub expression: String,
}

/// How a column that holds values of several types is settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// The column.
    pub column: String,
    /// What is done.
    pub action: ChoiceAction,
    /// Hive types: one for `cast` and `project`; for the others those to tell apart, and a
    /// value counts for the first that it is a value of.
    pub types: Vec<String>,
}

/// What ResolveChoice does to a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChoiceAction {
    /// Casts; what cannot be cast is null.
    Cast,
    /// Keeps the values of one type; others are null.
    Project,
    /// A column for each type, called `COLUMN_TYPE`.
    MakeCols,
    /// A struct with a field for each type.
    MakeStruct,
}

/// A value of several rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Aggregate {
    /// The column.
    pub column: String,
    /// What is computed.
    pub function: Function,
    /// The name it gets; `FUNCTION(COLUMN)` if absent, or the column's own in a resample.
    #[serde(default)]
    pub to: Option<String>,
}

/// What can be computed of a column's values. Nulls do not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Function {
    /// The mean.
    #[default]
    Avg,
    /// How many.
    Count,
    /// How many that differ.
    CountDistinct,
    /// The least.
    Min,
    /// The greatest.
    Max,
    /// The sum.
    Sum,
    /// The sum of those that differ.
    SumDistinct,
    /// The first, in the order of time or of the input.
    First,
    /// The last.
    Last,
    /// The middle one.
    Median,
    /// The standard deviation of a sample.
    StddevSamp,
    /// The standard deviation of the whole.
    StddevPop,
    /// The variance of a sample.
    VarSamp,
    /// The variance of the whole.
    VarPop,
}

impl Function {
    /// Its name in a column's, as Spark writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Function::Avg => "avg",
            Function::Count => "count",
            Function::CountDistinct => "count_distinct",
            Function::Min => "min",
            Function::Max => "max",
            Function::Sum => "sum",
            Function::SumDistinct => "sum_distinct",
            Function::First => "first",
            Function::Last => "last",
            Function::Median => "median",
            Function::StddevSamp => "stddev_samp",
            Function::StddevPop => "stddev_pop",
            Function::VarSamp => "var_samp",
            Function::VarPop => "var_pop",
        }
    }
}

/// Which rows of a join stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JoinKind {
    /// Those with a partner.
    Inner,
    /// Those, and the other left ones.
    Left,
    /// Those, and the other right ones.
    Right,
    /// All.
    Full,
    /// Left ones with a partner, without its columns.
    LeftSemi,
    /// Left ones without a partner.
    LeftAnti,
}

/// Columns that must be equal in a join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinKey {
    /// The left one.
    pub left: String,
    /// The right one.
    pub right: String,
}

/// Which of several rows stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Keep {
    /// The first.
    #[default]
    First,
    /// The last.
    Last,
}

/// Where the values of a column should lie, both ends included.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// The column.
    pub column: String,
    /// The least, in the column's unit.
    #[serde(default)]
    pub min: Option<f64>,
    /// The greatest.
    #[serde(default)]
    pub max: Option<f64>,
    /// The unit, for the reason.
    #[serde(default)]
    pub unit: Option<String>,
}

/// How outliers are found among the values of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutlierMethod {
    /// Hampel's: the distance from the window's median, in units of 1.4826 times the median
    /// absolute deviation, which is the standard deviation if the values are normal.
    Hampel,
    /// The distance beyond the window's quartiles, in units of the distance between them.
    Iqr,
}

impl OutlierMethod {
    /// How far is too far unless told otherwise.
    pub fn threshold(self) -> f64 {
        match self {
            OutlierMethod::Hampel => 3.0,
            OutlierMethod::Iqr => 1.5,
        }
    }
}

/// What comes out of a data quality node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QualityOutput {
    /// The rows that went in.
    #[default]
    Rows,
    /// A row for each rule: `Rule`, `Outcome`, `FailureReason`, `EvaluatedMetric`.
    Results,
}

/// What a row must fulfil.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuarantineRule {
    /// An SQL expression over the columns; a row for which it is false or null is set aside.
    pub condition: String,
    /// Why, in words; the condition if absent.
    #[serde(default)]
    pub reason: Option<String>,
}

impl Node {
    /// The node's id.
    pub fn id(&self) -> &str {
        match self {
            Node::Source { id, .. }
            | Node::Objects { id, .. }
            | Node::Spigot { id, .. }
            | Node::ApplyMapping { id, .. }
            | Node::SelectFields { id, .. }
            | Node::DropFields { id, .. }
            | Node::RenameField { id, .. }
            | Node::Filter { id, .. }
            | Node::DeriveColumns { id, .. }
            | Node::DropDuplicates { id, .. }
            | Node::DropNullFields { id, .. }
            | Node::ResolveChoice { id, .. }
            | Node::Flatten { id, .. }
            | Node::Explode { id, .. }
            | Node::Pivot { id, .. }
            | Node::Unpivot { id, .. }
            | Node::Aggregate { id, .. }
            | Node::Join { id, .. }
            | Node::AsOfJoin { id, .. }
            | Node::Union { id, .. }
            | Node::Intersect { id, .. }
            | Node::Except { id, .. }
            | Node::Merge { id, .. }
            | Node::SplitFields { id, .. }
            | Node::SelectFromCollection { id, .. }
            | Node::Sample { id, .. }
            | Node::Limit { id, .. }
            | Node::Sql { id, .. }
            | Node::Resample { id, .. }
            | Node::FillGaps { id, .. }
            | Node::DropDuplicatesByTime { id, .. }
            | Node::MarkRange { id, .. }
            | Node::MarkOutliers { id, .. }
            | Node::EvaluateDataQuality { id, .. }
            | Node::Quarantine { id, .. }
            | Node::Target { id, .. }
            | Node::ExportDeepAr { id, .. }
            | Node::ExportCsv { id, .. } => id,
        }
    }

    /// The ids of the nodes whose rows it takes.
    pub fn inputs(&self) -> Vec<&str> {
        match self {
            Node::Source { .. } | Node::Objects { .. } => Vec::new(),
            Node::Sql { inputs, .. } => inputs.values().map(String::as_str).collect(),
            Node::Union { inputs, .. } => inputs.iter().map(String::as_str).collect(),
            Node::Join { left, right, .. }
            | Node::AsOfJoin { left, right, .. }
            | Node::Intersect { left, right, .. }
            | Node::Except { left, right, .. } => vec![left, right],
            Node::Merge { source, staging, .. } => vec![source, staging],
            Node::ApplyMapping { input, .. }
            | Node::Spigot { input, .. }
            | Node::SelectFields { input, .. }
            | Node::DropFields { input, .. }
            | Node::RenameField { input, .. }
            | Node::Filter { input, .. }
            | Node::DeriveColumns { input, .. }
            | Node::DropDuplicates { input, .. }
            | Node::DropNullFields { input, .. }
            | Node::ResolveChoice { input, .. }
            | Node::Flatten { input, .. }
            | Node::Explode { input, .. }
            | Node::Pivot { input, .. }
            | Node::Unpivot { input, .. }
            | Node::Aggregate { input, .. }
            | Node::SplitFields { input, .. }
            | Node::SelectFromCollection { input, .. }
            | Node::Sample { input, .. }
            | Node::Limit { input, .. }
            | Node::Resample { input, .. }
            | Node::FillGaps { input, .. }
            | Node::DropDuplicatesByTime { input, .. }
            | Node::MarkRange { input, .. }
            | Node::MarkOutliers { input, .. }
            | Node::EvaluateDataQuality { input, .. }
            | Node::Quarantine { input, .. }
            | Node::Target { input, .. }
            | Node::ExportDeepAr { input, .. }
            | Node::ExportCsv { input, .. } => vec![input],
        }
    }

    /// Whether rows end here: it has none for others.
    pub fn is_target(&self) -> bool {
        matches!(self, Node::Target { .. } | Node::ExportDeepAr { .. } | Node::ExportCsv { .. })
    }
}
