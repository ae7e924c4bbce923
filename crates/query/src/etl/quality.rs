//! Nodes that judge rows: a data quality ruleset over all, and the quarantine of single ones.

use std::sync::Arc;

use arrow::array::{Array, AsArray, Float64Array, RecordBatch, StringArray};
use arrow::compute::{cast, filter_record_batch, is_null};
use arrow::datatypes::{DataType, Field, Float64Type, Schema, SchemaRef};
use base::{Error, Result};
use datafusion::dataframe::DataFrame;
use datafusion::functions::regex::expr_fn::regexp_like;
use datafusion::functions_aggregate::expr_fn::{avg, count, stddev, sum};
use datafusion::logical_expr::{Expr, ExprFunctionExt, cast as cast_expr, lit, when};
use lake::quality::{Bound, Check, Literal, Measure, Rule};
use lake::{QualityOutput, QuarantineRule};

use super::lower::{Graph, column, column_of, expression, names, quoted};
use super::series::{arrow, schema_of};
use crate::error::explain;
use crate::meter::Meter;
use crate::operator::{Input, Operator, Step};

/// What became of a rule.
struct Verdict {
    text: String,
    failure: Option<String>,
    metric: Option<f64>,
}

/// The reason of a row that is set aside, while rows are told apart.
const WHY: &str = "__forebay_why";

impl Graph<'_> {
    /// Checks the rows; they go on, or the verdicts do.
    pub(super) async fn evaluate_quality(
        &self,
        rows: DataFrame,
        ruleset: &str,
        output: QualityOutput,
        stop: bool,
    ) -> Result<DataFrame> {
        let mut verdicts = Vec::new();
        for rule in lake::quality::parse(ruleset)? {
            verdicts.push(verdict(&rows, rule).await?);
        }
        let failed: Vec<String> = verdicts
            .iter()
            .filter_map(|one| Some(format!("{}: {}", one.text, one.failure.as_ref()?)))
            .collect();
        if stop && !failed.is_empty() {
            return Err(Error::invalid(format!(
                "the data breaks {} of {} rules, so nothing is written: {}",
                failed.len(),
                verdicts.len(),
                failed.join("; ")
            )));
        }
        for failure in &failed {
            tracing::warn!(job = self.job(), failure, "a data quality rule failed");
        }
        match output {
            QualityOutput::Rows => Ok(rows),
            QualityOutput::Results => {
                self.session()?.read_batch(results(&verdicts)?).map_err(explain)
            }
        }
    }

    /// The rows that fulfil all rules; the others are set aside.
    pub(super) async fn quarantine(
        &self,
        id: &str,
        input: &str,
        rules: &[QuarantineRule],
    ) -> Result<DataFrame> {
        let schema = schema_of(&self.rows(input)?);
        let mut why = String::from("CASE");
        for rule in rules {
            let condition = expression(&rule.condition)?;
            let reason = rule.reason.as_deref().unwrap_or(&rule.condition);
            let reason = reason.replace('\'', "''");
            why.push_str(&format!(" WHEN ({condition}) IS NOT TRUE THEN '{reason}'"));
        }
        why.push_str(" END");
        let all: Vec<String> = names(&self.rows(input)?).map(|name| quoted(&name)).collect();
        let query = format!("SELECT {}, {why} AS {} FROM input", all.join(", "), quoted(WHY));
        let judged = self.query_over(input, &query).await?;
        let meter = Arc::clone(self.meter());
        let node = id.to_owned();
        let input = Input { plan: judged.into_parts().1, sorted_by: Vec::new() };
        self.table(Operator::step("Quarantine", input, schema, move || Quarantine {
            node: node.clone(),
            meter: Arc::clone(&meter),
            next: 0,
        }))
    }
}

fn results(verdicts: &[Verdict]) -> Result<RecordBatch> {
    let schema: SchemaRef = Arc::new(Schema::new(vec![
        Field::new("Rule", DataType::Utf8, true),
        Field::new("Outcome", DataType::Utf8, true),
        Field::new("FailureReason", DataType::Utf8, true),
        Field::new("EvaluatedMetric", DataType::Float64, true),
    ]));
    let outcome = |one: &Verdict| if one.failure.is_some() { "Failed" } else { "Passed" };
    let rules: StringArray = verdicts.iter().map(|one| Some(one.text.as_str())).collect();
    let outcomes: StringArray = verdicts.iter().map(|one| Some(outcome(one))).collect();
    let failures: StringArray = verdicts.iter().map(|one| one.failure.as_deref()).collect();
    let metrics: Float64Array = verdicts.iter().map(|one| one.metric).collect();
    let columns: Vec<arrow::array::ArrayRef> =
        vec![Arc::new(rules), Arc::new(outcomes), Arc::new(failures), Arc::new(metrics)];
    RecordBatch::try_new(schema, columns).map_err(arrow)
}

async fn verdict(rows: &DataFrame, rule: Rule) -> Result<Verdict> {
    let Rule { text, check } = rule;
    let (failure, metric) = match check {
        Check::ColumnExists(name) => {
            let missing = column_of(rows, &name).err().map(|error| error.to_string());
            (missing, None)
        }
        Check::Measure(measure, bound) => {
            let value = measured(rows, &measure).await?;
            let holds = value.is_some_and(|value| bound.holds(value));
            let failure = (!holds).then(|| match value {
                Some(value) => format!("it is {value}"),
                None => "there is no value to compute it of".to_owned(),
            });
            (failure, value)
        }
        Check::ColumnValues(name, bound) => {
            let value = column_of(rows, &name)?;
            let broken = count(lit(1))
                .filter(fulfils(value, &bound).is_not_true())
                .build()
                .map_err(explain)?;
            let there = rows.clone().filter(column(&name).is_not_null()).map_err(explain)?;
            let broken = number_of(there, broken).await?.unwrap_or(0.0);
            let failure = (broken > 0.0).then(|| format!("{broken} values break it"));
            (failure, Some(broken))
        }
    };
    Ok(Verdict { text, failure, metric })
}

/// A bound as a condition on a column.
fn fulfils(value: Expr, bound: &Bound) -> Expr {
    let number = |value: &Expr| cast_expr(value.clone(), DataType::Float64);
    let text = |value: &Expr| cast_expr(value.clone(), DataType::Utf8);
    let is = |value: &Expr, literal: &Literal| match literal {
        Literal::Number(of) => number(value).eq(lit(*of)),
        Literal::Text(of) => text(value).eq(lit(of.as_str())),
    };
    match bound {
        Bound::Equal(literal) => is(&value, literal),
        Bound::NotEqual(literal) => !is(&value, literal),
        Bound::Less(bound) => number(&value).lt(lit(*bound)),
        Bound::AtMost(bound) => number(&value).lt_eq(lit(*bound)),
        Bound::More(bound) => number(&value).gt(lit(*bound)),
        Bound::AtLeast(bound) => number(&value).gt_eq(lit(*bound)),
        Bound::Between(low, high) => {
            number(&value).gt(lit(*low)).and(number(&value).lt(lit(*high)))
        }
        Bound::In(literals) => {
            literals.iter().fold(lit(false), |any, literal| any.or(is(&value, literal)))
        }
        Bound::Matches(pattern) => regexp_like(text(&value), lit(format!("^(?:{pattern})$")), None),
    }
}

async fn measured(rows: &DataFrame, measure: &Measure) -> Result<Option<f64>> {
    let all = || count(lit(1));
    let of = |name: &String| column_of(rows, name);
    let expr = match measure {
        Measure::ColumnCount => return Ok(Some(names(rows).count() as f64)),
        Measure::RowCount => all(),
        Measure::Completeness(name) => cast_expr(count(of(name)?), DataType::Float64) / all(),
        Measure::Mean(name) => avg(of(name)?),
        Measure::Sum(name) => sum(of(name)?),
        Measure::StandardDeviation(name) => stddev(of(name)?),
        Measure::DistinctValuesCount(name) => {
            datafusion::functions_aggregate::expr_fn::count_distinct(of(name)?)
        }
        Measure::Uniqueness(name) => {
            let each = vec![all().alias("__times")];
            let by = rows.clone().aggregate(vec![of(name)?], each).map_err(explain)?;
            let alone = when(column("__times").eq(lit(1_i64)), lit(1.0)).otherwise(lit(0.0));
            let share = sum(alone.map_err(explain)?) / sum(column("__times"));
            return number_of(by, share).await;
        }
    };
    number_of(rows.clone(), expr).await
}

/// The one number that an aggregate of all rows is.
async fn number_of(rows: DataFrame, expr: Expr) -> Result<Option<f64>> {
    let made = rows.aggregate(Vec::new(), vec![expr.alias("__number")]).map_err(explain)?;
    let batches = made.collect().await.map_err(explain)?;
    let Some(batch) = batches.iter().find(|batch| batch.num_rows() > 0) else { return Ok(None) };
    let number = cast(batch.column(0), &DataType::Float64).map_err(arrow)?;
    let number = number.as_primitive::<Float64Type>();
    Ok(number.is_valid(0).then(|| number.value(0)))
}

/// Sends rows with a reason to the meter and lets the others pass.
struct Quarantine {
    node: String,
    meter: Arc<Meter>,
    next: u64,
}

impl Step for Quarantine {
    fn batch(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>> {
        let last = batch.num_columns() - 1;
        let why = cast(batch.column(last), &DataType::Utf8).map_err(arrow)?;
        let why = why.as_string::<i32>();
        let rows: Vec<usize> = (0..last).collect();
        let rows = batch.project(&rows).map_err(arrow)?;
        for row in (0..rows.num_rows()).filter(|&row| why.is_valid(row)) {
            let reason = format!("node {:?}: {}", self.node, why.value(row));
            let line = as_json(&rows.slice(row, 1))?;
            self.meter.quarantine(&self.node, self.next + row as u64, &reason, &line)?;
        }
        self.next += rows.num_rows() as u64;
        let keep = is_null(why).map_err(arrow)?;
        Ok(vec![filter_record_batch(&rows, &keep).map_err(arrow)?])
    }
}

/// A row as a JSON object.
fn as_json(row: &RecordBatch) -> Result<Vec<u8>> {
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    writer.write(row).and_then(|()| writer.finish()).map_err(arrow)?;
    let mut line = writer.into_inner();
    line.truncate(line.trim_ascii_end().len());
    Ok(line)
}
