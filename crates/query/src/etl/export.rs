//! Exports for training: series for DeepAR, CSV for SageMaker's built-in algorithms.
//!
//! An export is a folder of its run, `export=RUN/`, and is never added to: what a model was
//! trained on stays what it was.

use std::collections::HashMap;
use std::fmt::Write as _;

use arrow::array::{Array, AsArray, Float64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Float64Type, Schema};
use base::{Error, ErrorKind, Result};
use datafusion::dataframe::DataFrame;
use datafusion::execution::SendableRecordBatchStream;
use forecast::{DateTime, Frequency};
use formats::Compression;
use futures::StreamExt;
use lake::{Column, EtlResult, EtlSpec, Node};

use super::lower::{Graph, column, column_of, names};
use super::series::{Keys, arrow, millis, on_step, places, schema_of};
use super::text::{Staged, as_csv, columns_of};
use crate::error::explain;

/// Steps of a series at most: it is held in memory until it is written.
const STEPS_MAX: usize = 10_000_000;
/// Values of a category at most.
const CATEGORIES_MAX: usize = 1_000_000;

fn text(array: &dyn Array) -> Result<StringArray> {
    Ok(cast(array, &DataType::Utf8).map_err(arrow)?.as_string::<i32>().clone())
}

/// A column of numbers, or why it is none.
fn number_column(rows: &DataFrame, name: &str) -> Result<usize> {
    let place = places(rows, &[name.to_owned()])?[0];
    let kind = rows.schema().field(place).data_type();
    match kind.is_numeric() || *kind == DataType::Boolean {
        true => Ok(place),
        false => Err(Error::invalid(format!("column {name:?} is {kind} and no number"))),
    }
}

fn key(name: &str) -> Column {
    Column::new(name, "string")
}

pub(super) async fn csv(graph: &Graph<'_>, spec: &EtlSpec, node: &Node) -> Result<EtlResult> {
    let Node::ExportCsv { input, target, features, .. } = node else {
        return Err(Error::internal("an export of CSV is another node"));
    };
    let rows = graph.rows(input)?;
    let mut picked = vec![target.clone()];
    match features.is_empty() {
        true => picked.extend(names(&rows).filter(|name| name != target)),
        false => picked.extend(features.iter().cloned()),
    }
    for name in &picked {
        number_column(&rows, name)
            .map_err(|error| error.context("SageMaker's CSV has numbers only"))?;
    }
    let rows = rows.select(picked.iter().map(column).collect::<Vec<_>>()).map_err(explain)?;
    let schema = schema_of(&rows);
    let mut stream = rows.execute_stream().await.map_err(explain)?;
    let mut staged = Staged::create(spec, "export.csv", Compression::None)?;
    while let Some(batch) = stream.next().await {
        let batch = numbers(&batch.map_err(explain)?)?;
        staged.write(&as_csv(&batch, false)?, batch.num_rows())?;
    }
    let columns = columns_of(&schema)?;
    let mut result =
        EtlResult { columns, partition_keys: vec![key("export")], ..EtlResult::default() };
    result.rows_out = staged.rows();
    if result.rows_out > 0 {
        result.files.push(staged.close(vec![spec.run_id.clone()])?);
    }
    Ok(result)
}

/// Truth as 0 and 1.
fn numbers(batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = batch.columns().iter().map(|column| match column.data_type() {
        DataType::Boolean => cast(column, &DataType::Int8).map_err(arrow),
        _ => Ok(column.clone()),
    });
    let columns = columns.collect::<Result<Vec<_>>>()?;
    let fields: Vec<Field> = columns
        .iter()
        .zip(batch.schema_ref().fields())
        .map(|(column, field)| Field::new(field.name(), column.data_type().clone(), true))
        .collect();
    RecordBatch::try_new(std::sync::Arc::new(Schema::new(fields)), columns).map_err(arrow)
}

/// What an export of series is made of, by place in the sorted rows.
struct Plan<'a> {
    by: Vec<usize>,
    time: usize,
    freq: Frequency,
    target: usize,
    cat: Vec<(&'a str, usize, HashMap<String, usize>)>,
    dynamic: Vec<(&'a str, usize)>,
    prediction_length: Option<usize>,
}

/// A series while its rows come.
struct Series {
    key: Vec<u8>,
    item: String,
    start: DateTime,
    last: DateTime,
    target: Vec<Option<f64>>,
    cat: Vec<String>,
    dynamic: Vec<Vec<Option<f64>>>,
}

pub(super) async fn deepar(graph: &Graph<'_>, spec: &EtlSpec, node: &Node) -> Result<EtlResult> {
    let Node::ExportDeepAr {
        input,
        by,
        time,
        freq,
        target,
        cat,
        dynamic_feat,
        prediction_length,
        ..
    } = node
    else {
        return Err(Error::internal("an export of series is another node"));
    };
    let rows = graph.rows(input)?;
    let mut categories = Vec::new();
    for name in cat {
        let place = places(&rows, std::slice::from_ref(name))?[0];
        let values = values_of(&rows, name).await?.into_iter();
        let numbered = values.enumerate().map(|(number, value)| (value, number)).collect();
        categories.push((name.as_str(), place, numbered));
    }
    let dynamic: Result<Vec<_>> =
        dynamic_feat.iter().map(|name| Ok((name.as_str(), number_column(&rows, name)?))).collect();
    let plan = Plan {
        by: places(&rows, by)?,
        time: places(&rows, std::slice::from_ref(time))?[0],
        freq: *freq,
        target: number_column(&rows, target)?,
        cat: categories,
        dynamic: dynamic?,
        prediction_length: *prediction_length,
    };
    let schema = schema_of(&rows);
    let sorted = graph.sorted_by_time(rows, by, time)?;
    let stream = sorted.execute_stream().await.map_err(explain)?;
    let keys = Keys::new(&schema, plan.by.clone())?;
    write_series(spec, &plan, &keys, stream).await
}

/// The values of a category in their order.
async fn values_of(rows: &DataFrame, name: &str) -> Result<Vec<String>> {
    let value = column_of(rows, name)?;
    let distinct = rows.clone().aggregate(vec![value], Vec::new()).map_err(explain)?;
    let distinct = distinct.limit(0, Some(CATEGORIES_MAX + 1)).map_err(explain)?;
    let sorted = distinct.sort(vec![column(name).sort(true, true)]).map_err(explain)?;
    let mut values = Vec::new();
    for batch in sorted.collect().await.map_err(explain)? {
        let texts = text(batch.column(0))?;
        for value in texts.iter() {
            let value = value.ok_or_else(|| {
                Error::invalid(format!("column {name:?} is null in a row; a category has a value"))
            })?;
            values.push(value.to_owned());
        }
    }
    match values.len() > CATEGORIES_MAX {
        true => Err(Error::new(
            ErrorKind::Exhausted,
            format!("column {name:?} has more than {CATEGORIES_MAX} values"),
        )),
        false => Ok(values),
    }
}

async fn write_series(
    spec: &EtlSpec,
    plan: &Plan<'_>,
    keys: &Keys,
    mut stream: SendableRecordBatchStream,
) -> Result<EtlResult> {
    let mut train = Staged::create(spec, "train.jsonl", Compression::None)?;
    let mut test = Staged::create(spec, "test.jsonl", Compression::None)?;
    let mut series: Option<Series> = None;
    while let Some(batch) = stream.next().await {
        let batch = batch.map_err(explain)?;
        let of = keys.of(&batch)?;
        let times = millis(batch.column(plan.time))?;
        let number = |place: usize| -> Result<Float64Array> {
            let cast = cast(batch.column(place), &DataType::Float64).map_err(arrow)?;
            Ok(cast.as_primitive::<Float64Type>().clone())
        };
        let target = number(plan.target)?;
        let dynamic: Vec<Float64Array> =
            plan.dynamic.iter().map(|(_, place)| number(*place)).collect::<Result<_>>()?;
        let by: Vec<StringArray> =
            plan.by.iter().map(|&at| text(batch.column(at))).collect::<Result<_>>()?;
        let cat: Vec<StringArray> =
            plan.cat.iter().map(|(_, at, _)| text(batch.column(*at))).collect::<Result<_>>()?;
        for row in 0..batch.num_rows() {
            let item = || {
                let part = |text: &StringArray| match text.is_null(row) {
                    true => "null".to_owned(),
                    false => text.value(row).to_owned(),
                };
                by.iter().map(part).collect::<Vec<_>>().join("/")
            };
            let in_series = |error: Error| error.context(format!("series {:?}", item()));
            if times.is_null(row) {
                return Err(in_series(Error::invalid("a row has no time; filter it out before")));
            }
            let at = on_step(times.value(row), plan.freq).map_err(in_series)?;
            let cats: Vec<String> = cat.iter().map(|text| text.value(row).to_owned()).collect();
            if series.as_ref().is_none_or(|series| series.key.as_slice() != of.get(row)) {
                if let Some(ended) = series.take() {
                    ended.write(plan, &mut train, &mut test)?;
                }
                series = Some(Series::begin(of.get(row), item(), at, cats.clone(), plan));
            }
            let Some(series) = &mut series else { continue };
            series.push_to(at, plan).map_err(in_series)?;
            if let Some(index) = (0..cats.len()).find(|&index| series.cat[index] != cats[index]) {
                let name = plan.cat[index].0;
                return Err(in_series(Error::invalid(format!(
                    "column {name:?} is {:?} and {:?}; a category is the same in the whole series",
                    series.cat[index], cats[index]
                ))));
            }
            let valid = |values: &Float64Array| {
                values.is_valid(row).then(|| values.value(row)).filter(|value| value.is_finite())
            };
            series.target.push(valid(&target));
            for (feature, values) in series.dynamic.iter_mut().zip(&dynamic) {
                feature.push(valid(values));
            }
        }
    }
    if let Some(ended) = series {
        ended.write(plan, &mut train, &mut test)?;
    }
    let result = EtlResult {
        columns: series_columns(plan),
        partition_keys: vec![key("export"), key("channel")],
        ..EtlResult::default()
    };
    [(train, "train"), (test, "test")].into_iter().try_fold(
        result,
        |mut result, (file, channel)| {
            result.rows_out += file.rows();
            let file = file.close(vec![spec.run_id.clone(), channel.to_owned()])?;
            if file.rows > 0 {
                result.files.push(file);
            }
            Ok(result)
        },
    )
}

fn series_columns(plan: &Plan<'_>) -> Vec<Column> {
    let mut columns = vec![key("item_id"), key("start"), Column::new("target", "array<double>")];
    if !plan.cat.is_empty() {
        columns.push(Column::new("cat", "array<int>"));
        columns.push(Column::new("cat_names", "array<string>"));
    }
    if !plan.dynamic.is_empty() {
        columns.push(Column::new("dynamic_feat", "array<array<double>>"));
    }
    columns
}

impl Series {
    fn begin(key: &[u8], item: String, start: DateTime, cat: Vec<String>, plan: &Plan<'_>) -> Self {
        Series {
            key: key.to_vec(),
            item,
            start,
            last: plan.freq.advance(start, -1),
            target: Vec::new(),
            cat,
            dynamic: vec![Vec::new(); plan.dynamic.len()],
        }
    }

    /// Goes on to the step of a row: those between have no value.
    fn push_to(&mut self, at: DateTime, plan: &Plan<'_>) -> Result<()> {
        let steps = plan.freq.steps_between(self.last, at);
        if steps < 1 {
            return Err(Error::invalid(format!(
                "two rows are at {at}; drop duplicates by time before"
            )));
        }
        let missing = usize::try_from(steps - 1).unwrap_or(usize::MAX);
        if self.target.len().saturating_add(missing) >= STEPS_MAX {
            return Err(Error::new(
                ErrorKind::Exhausted,
                format!("it would have more than {STEPS_MAX} steps"),
            ));
        }
        self.target.extend(std::iter::repeat_n(None, missing));
        for feature in &mut self.dynamic {
            feature.extend(std::iter::repeat_n(None, missing));
        }
        self.last = at;
        Ok(())
    }

    fn write(self, plan: &Plan<'_>, train: &mut Staged, test: &mut Staged) -> Result<()> {
        for ((name, _), feature) in plan.dynamic.iter().zip(&self.dynamic) {
            if let Some(step) = feature.iter().position(Option::is_none) {
                let at = plan.freq.advance(self.start, step as i64);
                return Err(Error::invalid(format!(
                    "series {:?}: column {name:?} has no value at {at}; a dynamic feature is \
                     known at every step",
                    self.item
                )));
            }
        }
        let all = self.target.len();
        let Some(held_back) = plan.prediction_length else {
            return train.write(self.line(plan, all)?.as_bytes(), 1);
        };
        test.write(self.line(plan, all)?.as_bytes(), 1)?;
        // A series of the test alone teaches nothing.
        match all.saturating_sub(held_back) {
            0 => Ok(()),
            left => train.write(self.line(plan, left)?.as_bytes(), 1),
        }
    }

    /// The first steps as a line of DeepAR's format.
    fn line(&self, plan: &Plan<'_>, steps: usize) -> Result<String> {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut line = String::new();
        let wrote = (|| {
            let start = self.start.to_string();
            write!(
                line,
                "{{\"item_id\":{},\"start\":{},\"target\":",
                quoted(&self.item),
                quoted(&start)
            )?;
            write_numbers(&mut line, &self.target[..steps])?;
            if !self.cat.is_empty() {
                let numbers: Vec<usize> = self
                    .cat
                    .iter()
                    .zip(&plan.cat)
                    .map(|(value, (_, _, numbers))| numbers.get(value).copied().unwrap_or(0))
                    .collect();
                let named: Vec<String> = self.cat.iter().map(|value| quoted(value)).collect();
                write!(line, ",\"cat\":{numbers:?},\"cat_names\":[{}]", named.join(","))?;
            }
            for (index, feature) in self.dynamic.iter().enumerate() {
                line.push_str(if index == 0 { ",\"dynamic_feat\":[" } else { "," });
                write_numbers(&mut line, &feature[..steps])?;
            }
            if !self.dynamic.is_empty() {
                line.push(']');
            }
            line.push_str("}\n");
            Ok::<(), std::fmt::Error>(())
        })();
        wrote.map_err(|_cause| Error::internal("a line cannot be written"))?;
        Ok(line)
    }
}

fn write_numbers(line: &mut String, values: &[Option<f64>]) -> std::fmt::Result {
    line.push('[');
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            line.push(',');
        }
        match value {
            Some(value) => write!(line, "{value:?}")?,
            None => line.push_str("null"),
        }
    }
    line.push(']');
    Ok(())
}
