//! CloudWatch: metrics and alarms.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::{ErrorKind, Timestamp};
use chrono::{DateTime, SecondsFormat};
use metastore::Row;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::call::{Call, Outcome, Reply, Service, operation};
use crate::fault::Fault;
use crate::lenient;
use crate::metrics::{Point, Series};
use crate::page::page;
use crate::protocol::{Protocol, Wire};
use crate::rooms::{Rooms, epoch_secs};

/// AWS's bounds of one GetMetricData.
const DATA_QUERIES_MAX: usize = 500;
const DATAPOINTS_MAX: i64 = 100_800;

pub(crate) static SERVICE: Service = Service {
    name: "cloudwatch",
    scopes: &["monitoring"],
    protocol: Protocol::JsonOrQuery {
        target: "GraniteServiceVersion20100801",
        version: "1.0",
        namespace: "http://monitoring.amazonaws.com/doc/2010-08-01/",
    },
    codes,
    body_bytes_max: 1024 * 1024,
    operations: &[
        operation!("PutMetricData", put_metric_data, differs: "the newest three days by the minute, until the server ends"),
        operation!("ListMetrics", list_metrics),
        operation!("GetMetricStatistics", get_metric_statistics, differs: "no extended statistics"),
        operation!("GetMetricData", get_metric_data, differs: "no Expression, no extended statistics"),
        operation!("PutMetricAlarm", put_metric_alarm, differs: "an alarm on one metric and statistic, which endpoint updates watch; it calls nobody, so actions are refused"),
        operation!("DescribeAlarms", describe_alarms, differs: "the state is computed when it is asked for"),
        operation!("SetAlarmState", set_alarm_state, differs: "holds until the metric has a newer period"),
        operation!("DeleteAlarms", delete_alarms),
    ],
};

fn codes(kind: ErrorKind) -> (&'static str, u16) {
    match kind {
        ErrorKind::NotFound => ("ResourceNotFound", 404),
        ErrorKind::AlreadyExists | ErrorKind::Invalid | ErrorKind::Unsupported => {
            ("InvalidParameterValue", 400)
        }
        ErrorKind::Conflict => ("ConcurrentModificationException", 429),
        ErrorKind::Denied => ("AccessDenied", 403),
        ErrorKind::Exhausted => ("LimitExceeded", 400),
        ErrorKind::Unavailable => ("ServiceUnavailable", 503),
        ErrorKind::Corrupt | ErrorKind::Internal => ("InternalServiceFault", 500),
    }
}

/// A moment as the caller's protocol writes it.
fn moment(call: &Call, at: Timestamp) -> Value {
    match SERVICE.protocol.wire(&call.headers) {
        Wire::Query { .. } => {
            let at = DateTime::from_timestamp_millis(at.millis()).unwrap_or_default();
            json!(at.to_rfc3339_opts(SecondsFormat::Millis, true))
        }
        _ => json!(epoch_secs(at)),
    }
}

/// A moment as either protocol sends it, in seconds.
fn seconds(member: &str, value: &Value) -> Result<i64, Fault> {
    let wrong = || Fault::invalid(format!("{member} {value} is not a moment"));
    match value {
        #[expect(clippy::cast_possible_truncation, reason = "seconds of this age")]
        Value::Number(number) => number.as_f64().map(|at| at.floor() as i64).ok_or_else(wrong),
        Value::String(text) => DateTime::parse_from_rfc3339(text)
            .map(|at| at.timestamp())
            .or_else(|_| text.parse::<f64>().map(|at| at.floor() as i64))
            .map_err(|_cause| wrong()),
        _ => Err(wrong()),
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Dimension {
    name: String,
    value: String,
}

fn series(namespace: &str, name: &str, dimensions: &[Dimension]) -> Result<Series, Fault> {
    let good = |text: &str| (1..=255).contains(&text.len());
    let named =
        dimensions.iter().all(|one| good(&one.name) && (1..=1024).contains(&one.value.len()));
    if !good(namespace) || !good(name) || dimensions.len() > 30 || !named {
        return Err(Fault::invalid(format!(
            "metric {namespace:?} {name:?}: names have 1 to 255 characters, dimensions at most 30 with values of 1 to 1024"
        )));
    }
    let dimensions = dimensions.iter().map(|one| (one.name.clone(), one.value.clone())).collect();
    Ok(Series { namespace: namespace.to_owned(), name: name.to_owned(), dimensions })
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct PutMetricData {
    namespace: String,
    metric_data: Vec<Datum>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Datum {
    metric_name: String,
    #[serde(default)]
    dimensions: Vec<Dimension>,
    timestamp: Option<Value>,
    #[serde(default, deserialize_with = "lenient::number")]
    value: Option<f64>,
    values: Option<Vec<Value>>,
    counts: Option<Vec<Value>>,
    statistic_values: Option<StatisticValues>,
    #[expect(dead_code, reason = "a label that no statistic uses")]
    unit: Option<String>,
    #[serde(default, deserialize_with = "lenient::integer")]
    storage_resolution: Option<i64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct StatisticValues {
    #[serde(deserialize_with = "lenient::number")]
    sample_count: Option<f64>,
    #[serde(deserialize_with = "lenient::number")]
    sum: Option<f64>,
    #[serde(deserialize_with = "lenient::number")]
    minimum: Option<f64>,
    #[serde(deserialize_with = "lenient::number")]
    maximum: Option<f64>,
}

fn number(value: &Value) -> Result<f64, Fault> {
    let found = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    found
        .filter(|number| number.is_finite())
        .ok_or_else(|| Fault::invalid(format!("{value} is not a finite number")))
}

impl Datum {
    fn points(&self) -> Result<Vec<Point>, Fault> {
        if self.storage_resolution.is_some_and(|resolution| resolution != 60) {
            return Err(Fault::unsupported(
                "StorageResolution other than 60",
                "metrics are kept by the minute",
            ));
        }
        match (&self.value, &self.values, &self.statistic_values) {
            (Some(value), None, None) => Ok(vec![Point::of(number(&json!(value))?, 1.0)]),
            (None, Some(values), None) => {
                let counts = self.counts.clone().unwrap_or_else(|| vec![json!(1); values.len()]);
                if counts.len() != values.len() {
                    return Err(Fault::invalid("Values and Counts have different lengths"));
                }
                values
                    .iter()
                    .zip(&counts)
                    .map(|(v, c)| Ok(Point::of(number(v)?, number(c)?)))
                    .collect()
            }
            (None, None, Some(given)) => {
                let all = [given.sum, given.minimum, given.maximum, given.sample_count];
                let [Some(sum), Some(minimum), Some(maximum), Some(count)] = all else {
                    return Err(Fault::invalid(
                        "StatisticValues needs SampleCount, Sum, Minimum and Maximum",
                    ));
                };
                Ok(vec![Point { sum, minimum, maximum, count }])
            }
            _ => Err(Fault::invalid(format!(
                "metric {:?}: give one of Value, Values and StatisticValues",
                self.metric_name
            ))),
        }
    }
}

async fn put_metric_data(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: PutMetricData = call.input()?;
    if input.namespace.starts_with("AWS/") {
        return Err(Fault::invalid(
            "The value AWS/ for parameter Namespace is invalid: it is reserved",
        ));
    }
    if input.metric_data.len() > 1000 {
        return Err(Fault::invalid("MetricData has more than 1000 entries"));
    }
    let mut ready = Vec::new();
    for datum in &input.metric_data {
        let series = series(&input.namespace, &datum.metric_name, &datum.dimensions)?;
        let at = match &datum.timestamp {
            Some(value) => Timestamp(seconds("Timestamp", value)? * 1000),
            None => rooms.clock.now(),
        };
        for point in datum.points()? {
            ready.push((series.clone(), at, point));
        }
    }
    for (series, at, point) in ready {
        rooms.metrics.put(series, at, point)?;
    }
    Ok(Reply::empty())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ListMetrics {
    namespace: Option<String>,
    metric_name: Option<String>,
    #[serde(default)]
    dimensions: Vec<DimensionFilter>,
    next_token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct DimensionFilter {
    name: String,
    value: Option<String>,
}

async fn list_metrics(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ListMetrics = call.input()?;
    rooms.metrics.look_at(&rooms.host, rooms.clock.now());
    let mut all = rooms.metrics.list();
    all.retain(|series| {
        input.namespace.as_ref().is_none_or(|namespace| *namespace == series.namespace)
            && input.metric_name.as_ref().is_none_or(|name| *name == series.name)
            && input.dimensions.iter().all(|filter| {
                let found = series.dimensions.get(&filter.name);
                found.is_some_and(|have| filter.value.as_ref().is_none_or(|value| value == have))
            })
    });
    let numbered: Vec<_> = all.into_iter().enumerate().collect();
    let key = |(at, _): &(usize, Series)| format!("{at:08}");
    let (given, next) = page(numbered, key, input.next_token.as_deref(), None, 500)?;
    let shown = |(_, series): &(usize, Series)| {
        json!({
            "Namespace": series.namespace,
            "MetricName": series.name,
            "Dimensions": dimensions_of(&series.dimensions),
        })
    };
    let mut answer = json!({"Metrics": given.iter().map(shown).collect::<Vec<_>>()});
    if let Some(next) = next {
        answer["NextToken"] = json!(next);
    }
    Ok(answer.into())
}

fn dimensions_of(dimensions: &BTreeMap<String, String>) -> Vec<Value> {
    dimensions.iter().map(|(name, value)| json!({"Name": name, "Value": value})).collect()
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct GetStatistics {
    namespace: String,
    metric_name: String,
    #[serde(default)]
    dimensions: Vec<Dimension>,
    start_time: Value,
    end_time: Value,
    #[serde(deserialize_with = "lenient::integer")]
    period: Option<i64>,
    #[serde(default)]
    statistics: Vec<String>,
}

async fn get_metric_statistics(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: GetStatistics = call.input()?;
    rooms.metrics.look_at(&rooms.host, rooms.clock.now());
    let series = series(&input.namespace, &input.metric_name, &input.dimensions)?;
    let period = check_period(input.period)?;
    if input.statistics.is_empty() {
        return Err(Fault::invalid("name at least one of Statistics"));
    }
    let (from, to) =
        (seconds("StartTime", &input.start_time)?, seconds("EndTime", &input.end_time)?);
    if from >= to {
        return Err(Fault::invalid("StartTime must be before EndTime"));
    }
    let mut points = Vec::new();
    for (start, point) in rooms.metrics.periods(&series, from, to, period) {
        let mut one = json!({"Timestamp": moment(call, Timestamp(start * 1000)), "Unit": "None"});
        for name in &input.statistics {
            let value = point.statistic(name).ok_or_else(|| unknown_statistic(name))?;
            one[name] = json!(value);
        }
        points.push(one);
    }
    Ok(json!({"Label": input.metric_name, "Datapoints": points}).into())
}

fn unknown_statistic(name: &str) -> Fault {
    Fault::invalid(format!("statistic {name:?}: use Sum, Average, Minimum, Maximum or SampleCount"))
}

fn check_period(period: Option<i64>) -> Result<i64, Fault> {
    let period = period.unwrap_or(60);
    if period <= 0 || period % 60 != 0 {
        return Err(Fault::invalid(format!("Period {period}: use a multiple of 60 seconds")));
    }
    Ok(period)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct GetData {
    metric_data_queries: Vec<DataQuery>,
    start_time: Value,
    end_time: Value,
    next_token: Option<String>,
    scan_by: Option<ScanBy>,
    #[serde(default, deserialize_with = "lenient::integer")]
    max_datapoints: Option<i64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
enum ScanBy {
    TimestampDescending,
    TimestampAscending,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct DataQuery {
    id: String,
    metric_stat: Option<MetricStat>,
    expression: Option<String>,
    label: Option<String>,
    #[serde(default, deserialize_with = "lenient::boolean")]
    return_data: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct MetricStat {
    metric: OneMetric,
    #[serde(deserialize_with = "lenient::integer")]
    period: Option<i64>,
    stat: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct OneMetric {
    namespace: String,
    metric_name: String,
    #[serde(default)]
    dimensions: Vec<Dimension>,
}

async fn get_metric_data(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: GetData = call.input()?;
    rooms.metrics.look_at(&rooms.host, rooms.clock.now());
    let (from, to) =
        (seconds("StartTime", &input.start_time)?, seconds("EndTime", &input.end_time)?);
    if from >= to {
        return Err(Fault::invalid("StartTime must be before EndTime"));
    }
    let queries = input.metric_data_queries.len();
    if !(1..=DATA_QUERIES_MAX).contains(&queries) {
        return Err(Fault::invalid(format!(
            "MetricDataQueries has {queries} entries; 1 to {DATA_QUERIES_MAX}"
        )));
    }
    let most = input.max_datapoints.unwrap_or(DATAPOINTS_MAX);
    if !(1..=DATAPOINTS_MAX).contains(&most) {
        return Err(Fault::invalid(format!("MaxDatapoints {most}: use 1 to {DATAPOINTS_MAX}")));
    }
    // The token is how many points were given before; they are counted through all queries.
    let given_before = match &input.next_token {
        None => 0,
        Some(token) => token.parse::<i64>().map_err(|_not_ours| {
            Fault::named("InvalidNextToken", 400, format!("NextToken {token:?} is not one of ours"))
        })?,
    };
    let (mut at, end) = (0, given_before.saturating_add(most));
    let mut results = Vec::new();
    for query in &input.metric_data_queries {
        let points = data_of(rooms, query, (from, to), input.scan_by)?;
        if query.return_data == Some(false) {
            continue;
        }
        let (mut timestamps, mut values) = (Vec::new(), Vec::new());
        let before = at;
        for (start, value) in &points {
            if (given_before..end).contains(&at) {
                timestamps.push(moment(call, Timestamp(start * 1000)));
                values.push(json!(value));
            }
            at += 1;
        }
        let (first, last) = (before >= given_before, at <= end);
        if values.is_empty() && !(first && last) {
            continue;
        }
        let metric = query.metric_stat.as_ref().map(|stat| &stat.metric.metric_name);
        results.push(json!({
            "Id": query.id,
            "Label": query.label.as_ref().or(metric),
            "Timestamps": timestamps,
            "Values": values,
            "StatusCode": if last { "Complete" } else { "PartialData" },
        }));
    }
    let mut answer = json!({"MetricDataResults": results, "Messages": []});
    if at > end {
        answer["NextToken"] = json!(end.to_string());
    }
    Ok(answer.into())
}

/// The points of one query, in the order they were asked for.
fn data_of(
    rooms: &Rooms,
    query: &DataQuery,
    (from, to): (i64, i64),
    scan_by: Option<ScanBy>,
) -> Result<Vec<(i64, f64)>, Fault> {
    if let Some(expression) = &query.expression {
        let why = format!("{expression:?}; ask for the metrics and compute with what comes");
        return Err(Fault::unsupported("MetricDataQueries.Expression", &why));
    }
    let Some(stat) = &query.metric_stat else {
        return Err(Fault::invalid(format!("query {:?} has no MetricStat", query.id)));
    };
    let metric = &stat.metric;
    let series = series(&metric.namespace, &metric.metric_name, &metric.dimensions)?;
    let period = check_period(stat.period)?;
    let mut points = Vec::new();
    for (start, point) in rooms.metrics.periods(&series, from, to, period) {
        let value = point.statistic(&stat.stat).ok_or_else(|| unknown_statistic(&stat.stat))?;
        points.push((start, value));
    }
    if scan_by != Some(ScanBy::TimestampAscending) {
        points.reverse();
    }
    Ok(points)
}

// ---- alarms ----

/// An alarm as it was asked for, and a state that somebody set.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Alarm {
    request: PutAlarm,
    updated_at: i64,
    set: Option<SetState>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SetState {
    value: String,
    reason: String,
    /// The period, in seconds, in which it was set: a later one computes the state again.
    until_after: i64,
    at: i64,
}

impl Row for Alarm {
    const TABLE: &'static str = "aws-cloudwatch-alarms";
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct PutAlarm {
    alarm_name: String,
    alarm_description: Option<String>,
    metric_name: String,
    namespace: String,
    statistic: String,
    #[serde(default)]
    dimensions: Vec<Dimension>,
    #[serde(default, deserialize_with = "lenient::integer")]
    period: Option<i64>,
    #[serde(default, deserialize_with = "lenient::integer")]
    evaluation_periods: Option<i64>,
    #[serde(default, deserialize_with = "lenient::integer")]
    datapoints_to_alarm: Option<i64>,
    #[serde(default, deserialize_with = "lenient::number")]
    threshold: Option<f64>,
    comparison_operator: String,
    treat_missing_data: Option<String>,
    #[serde(default, deserialize_with = "lenient::boolean")]
    actions_enabled: Option<bool>,
    #[serde(default)]
    alarm_actions: Vec<String>,
    #[serde(default, rename = "OKActions")]
    ok_actions: Vec<String>,
    #[serde(default)]
    insufficient_data_actions: Vec<String>,
    unit: Option<String>,
}

impl PutAlarm {
    fn check(&self) -> Result<(), Fault> {
        let actions = [&self.alarm_actions, &self.ok_actions, &self.insufficient_data_actions];
        if actions.iter().any(|actions| !actions.is_empty()) {
            return Err(Fault::unsupported(
                "actions of an alarm",
                "Forebay calls nobody; an endpoint's update names the alarms it watches",
            ));
        }
        if Point::of(0.0, 1.0).statistic(&self.statistic).is_none() {
            return Err(unknown_statistic(&self.statistic));
        }
        check_period(self.period)?;
        if self.threshold.is_none() {
            return Err(Fault::invalid("the alarm has no Threshold"));
        }
        self.over(0.0, 0.0)?;
        let (periods, points) = (self.periods(), self.points());
        if !(1..=1440).contains(&periods) || !(1..=periods).contains(&points) {
            return Err(Fault::invalid(format!(
                "EvaluationPeriods {periods} and DatapointsToAlarm {points}: use 1 to 1440, and no more points than periods"
            )));
        }
        let missing = self.treat_missing_data.as_deref().unwrap_or("missing");
        if !["missing", "ignore", "breaching", "notBreaching"].contains(&missing) {
            return Err(Fault::invalid(format!(
                "TreatMissingData {missing:?}: use missing, ignore, breaching or notBreaching"
            )));
        }
        Ok(())
    }

    fn periods(&self) -> i64 {
        self.evaluation_periods.unwrap_or(1)
    }

    fn points(&self) -> i64 {
        self.datapoints_to_alarm.unwrap_or_else(|| self.periods())
    }

    fn over(&self, value: f64, threshold: f64) -> Result<bool, Fault> {
        match self.comparison_operator.as_str() {
            "GreaterThanThreshold" => Ok(value > threshold),
            "GreaterThanOrEqualToThreshold" => Ok(value >= threshold),
            "LessThanThreshold" => Ok(value < threshold),
            "LessThanOrEqualToThreshold" => Ok(value <= threshold),
            other => Err(Fault::invalid(format!(
                "ComparisonOperator {other:?}: use GreaterThanThreshold, GreaterThanOrEqualToThreshold, LessThanThreshold or LessThanOrEqualToThreshold"
            ))),
        }
    }
}

/// An alarm's state and why.
fn state(rooms: &Rooms, alarm: &Alarm) -> Result<(String, String), Fault> {
    let asked = &alarm.request;
    let period = check_period(asked.period)?;
    let now = rooms.clock.now().millis().div_euclid(1000);
    let current = now.div_euclid(period) * period;
    let series = series(&asked.namespace, &asked.metric_name, &asked.dimensions)?;
    let from = current - period * (asked.periods() - 1);
    let points = rooms.metrics.periods(&series, from, current + period, period);
    let newer = points
        .last()
        .is_some_and(|(start, _)| alarm.set.as_ref().is_some_and(|set| *start > set.until_after));
    if let Some(set) = alarm.set.as_ref().filter(|_| !newer) {
        return Ok((set.value.clone(), set.reason.clone()));
    }
    let threshold = asked.threshold.unwrap_or_default();
    let mut over = 0;
    for (_, point) in &points {
        let value = point.statistic(&asked.statistic).unwrap_or_default();
        if asked.over(value, threshold)? {
            over += 1;
        }
    }
    let missing = asked.periods() - i64::try_from(points.len()).unwrap_or_default();
    if asked.treat_missing_data.as_deref() == Some("breaching") {
        over += missing;
    }
    let counted = format!("{over} of {} periods beyond the threshold {threshold}", asked.periods());
    if over >= asked.points() {
        return Ok(("ALARM".to_owned(), format!("Threshold Crossed: {counted}")));
    }
    let treated = asked.treat_missing_data.as_deref().unwrap_or("missing");
    if points.is_empty() && matches!(treated, "missing" | "ignore") {
        return Ok((
            "INSUFFICIENT_DATA".to_owned(),
            "Insufficient Data: no data points".to_owned(),
        ));
    }
    Ok(("OK".to_owned(), format!("Threshold not crossed: {counted}")))
}

/// Which of these alarms rings, for an endpoint's update. One that does not exist rings too: an
/// update that cannot be watched must not go on.
pub(crate) fn ringing(rooms: &Rooms, names: &[String]) -> Option<String> {
    rooms.metrics.look_at(&rooms.host, rooms.clock.now());
    names.iter().find_map(|name| {
        let found = rooms.metastore.get::<Alarm>(name).ok().flatten();
        match found.map(|seen| state(rooms, &seen.row)) {
            Some(Ok((value, _))) if value != "ALARM" => None,
            Some(Ok((_, reason))) => Some(format!("alarm {name:?} is in ALARM: {reason}")),
            Some(Err(fault)) => {
                Some(format!("alarm {name:?} cannot be evaluated: {}", fault.message))
            }
            None => Some(format!("alarm {name:?} does not exist")),
        }
    })
}

async fn put_metric_alarm(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let request: PutAlarm = call.input()?;
    request.check()?;
    series(&request.namespace, &request.metric_name, &request.dimensions)?;
    let name = request.alarm_name.clone();
    if !(1..=255).contains(&name.len()) {
        return Err(Fault::invalid("AlarmName has 1 to 255 characters"));
    }
    let alarm = Alarm { request, updated_at: rooms.clock.now().millis(), set: None };
    rooms.metastore.put(&name, &alarm)?;
    Ok(Reply::empty())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Describe {
    alarm_names: Option<Vec<String>>,
    alarm_name_prefix: Option<String>,
    alarm_types: Option<Vec<String>>,
    state_value: Option<String>,
    #[serde(default, deserialize_with = "lenient::integer")]
    max_records: Option<i64>,
    next_token: Option<String>,
}

async fn describe_alarms(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Describe = call.input()?;
    rooms.metrics.look_at(&rooms.host, rooms.clock.now());
    let prefix = input.alarm_name_prefix.unwrap_or_default();
    let wanted =
        input.alarm_types.as_ref().is_none_or(|kinds| kinds.iter().any(|k| k == "MetricAlarm"));
    let mut shown = Vec::new();
    for (name, seen) in rooms.metastore.list::<Alarm>()? {
        let named = input.alarm_names.as_ref().is_none_or(|names| names.contains(&name));
        if !wanted || !named || !name.starts_with(&prefix) {
            continue;
        }
        let alarm = seen.row;
        let (value, reason) = state(rooms, &alarm)?;
        if input.state_value.as_ref().is_some_and(|wanted| *wanted != value) {
            continue;
        }
        shown.push((name, describe(rooms, call, &alarm, &value, &reason)));
    }
    let wish = input.max_records.map(|most| usize::try_from(most).unwrap_or_default());
    let key = |(name, _): &(String, Value)| name.clone();
    let (given, next) = page(shown, key, input.next_token.as_deref(), wish, 100)?;
    let alarms: Vec<Value> = given.into_iter().map(|(_, alarm)| alarm).collect();
    let mut answer = json!({"MetricAlarms": alarms, "CompositeAlarms": []});
    if let Some(next) = next {
        answer["NextToken"] = json!(next);
    }
    Ok(answer.into())
}

fn describe(rooms: &Rooms, call: &Call, alarm: &Alarm, value: &str, reason: &str) -> Value {
    let asked = &alarm.request;
    let at = alarm.set.as_ref().map_or(alarm.updated_at, |set| set.at);
    let mut one = json!({
        "AlarmName": asked.alarm_name,
        "AlarmArn": rooms.arn("cloudwatch", &call.region, &format!("alarm:{}", asked.alarm_name)),
        "AlarmConfigurationUpdatedTimestamp": moment(call, Timestamp(alarm.updated_at)),
        "ActionsEnabled": asked.actions_enabled.unwrap_or(true),
        "OKActions": [],
        "AlarmActions": [],
        "InsufficientDataActions": [],
        "StateValue": value,
        "StateReason": reason,
        "StateUpdatedTimestamp": moment(call, Timestamp(at)),
        "MetricName": asked.metric_name,
        "Namespace": asked.namespace,
        "Statistic": asked.statistic,
        "Dimensions": asked.dimensions,
        "Period": asked.period.unwrap_or(60),
        "EvaluationPeriods": asked.periods(),
        "Threshold": asked.threshold,
        "ComparisonOperator": asked.comparison_operator,
    });
    let kept = [
        ("AlarmDescription", &asked.alarm_description),
        ("TreatMissingData", &asked.treat_missing_data),
        ("Unit", &asked.unit),
    ];
    for (member, value) in kept {
        if let Some(value) = value {
            one[member] = json!(value);
        }
    }
    if let Some(points) = asked.datapoints_to_alarm {
        one["DatapointsToAlarm"] = json!(points);
    }
    one
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct SetAlarmState {
    alarm_name: String,
    state_value: String,
    state_reason: String,
    #[expect(dead_code, reason = "for machines that read what they wrote")]
    state_reason_data: Option<String>,
}

async fn set_alarm_state(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: SetAlarmState = call.input()?;
    if !["OK", "ALARM", "INSUFFICIENT_DATA"].contains(&input.state_value.as_str()) {
        return Err(Fault::invalid(format!(
            "StateValue {:?}: use OK, ALARM or INSUFFICIENT_DATA",
            input.state_value
        )));
    }
    let now = rooms.clock.now().millis();
    rooms.metastore.transact(|rows| {
        let seen = rows.get::<Alarm>(&input.alarm_name)?;
        let mut alarm = seen
            .ok_or_else(|| {
                base::Error::not_found(format!("there is no alarm {:?}", input.alarm_name))
            })?
            .row;
        let period = alarm.request.period.unwrap_or(60);
        alarm.set = Some(SetState {
            value: input.state_value.clone(),
            reason: input.state_reason.clone(),
            until_after: now.div_euclid(1000).div_euclid(period) * period,
            at: now,
        });
        rows.put(&input.alarm_name, &alarm).map(drop)
    })?;
    Ok(Reply::empty())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct DeleteAlarms {
    alarm_names: Vec<String>,
}

async fn delete_alarms(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: DeleteAlarms = call.input()?;
    for name in &input.alarm_names {
        if rooms.metastore.get::<Alarm>(name)?.is_none() {
            return Err(Fault::not_found(format!("there is no alarm {name:?}")));
        }
    }
    for name in &input.alarm_names {
        rooms.metastore.delete::<Alarm>(name)?;
    }
    Ok(Reply::empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::World;

    #[tokio::test]
    async fn an_alarm_follows_its_metric_and_a_state_that_is_set() {
        let world = World::new();
        let call = |operation: &'static str, input| world.call("cloudwatch", operation, input);
        let alarm = json!({"AlarmName": "hot", "Namespace": "Plant", "MetricName": "heat", "Statistic": "Maximum", "Period": 60, "EvaluationPeriods": 2, "DatapointsToAlarm": 1, "Threshold": 30, "ComparisonOperator": "GreaterThanThreshold"});
        call("PutMetricAlarm", alarm.clone()).await.unwrap();
        let state = || async {
            let seen = call("DescribeAlarms", json!({"AlarmNames": ["hot"]})).await.unwrap();
            seen["MetricAlarms"][0]["StateValue"].as_str().unwrap().to_owned()
        };
        assert_eq!(state().await, "INSUFFICIENT_DATA");
        let put = |value: f64| json!({"Namespace": "Plant", "MetricData": [{"MetricName": "heat", "Value": value}]});
        call("PutMetricData", put(20.0)).await.unwrap();
        assert_eq!(state().await, "OK");
        call("PutMetricData", put(31.0)).await.unwrap();
        assert_eq!(state().await, "ALARM");
        let set = json!({"AlarmName": "hot", "StateValue": "OK", "StateReason": "a test"});
        call("SetAlarmState", set).await.unwrap();
        assert_eq!(state().await, "OK");
        let mut calling = alarm;
        calling["AlarmActions"] = json!(["arn:aws:sns:us-east-1:1:x"]);
        assert!(call("PutMetricAlarm", calling).await.is_err());
        call("DeleteAlarms", json!({"AlarmNames": ["hot"]})).await.unwrap();
        let gone = call("DeleteAlarms", json!({"AlarmNames": ["hot"]})).await.unwrap_err();
        assert_eq!(gone.1, "ResourceNotFound");
    }

    #[tokio::test]
    async fn data_comes_by_query_and_page() {
        let world = World::new();
        let now = world.rooms.clock.now().millis() / 60_000 * 60;
        for (minute, value) in [(0, 1.0), (1, 2.0), (2, 4.0)] {
            let data = json!({"Namespace": "Plant", "MetricData": [{"MetricName": "heat", "Value": value, "Timestamp": now - minute * 60}]});
            world.call("cloudwatch", "PutMetricData", data).await.unwrap();
        }
        let query = |id: &str, stat: &str| json!({"Id": id, "MetricStat": {"Metric": {"Namespace": "Plant", "MetricName": "heat"}, "Period": 60, "Stat": stat}});
        let ask = |queries, more: &str, most| {
            let mut ask = json!({"MetricDataQueries": queries, "StartTime": now - 600, "EndTime": now + 60, "MaxDatapoints": most});
            if !more.is_empty() {
                ask["NextToken"] = json!(more);
            }
            world.call("cloudwatch", "GetMetricData", ask)
        };
        let two = json!([query("a", "Sum"), query("b", "Maximum")]);
        let all = ask(two.clone(), "", 100).await.unwrap();
        assert_eq!(all["MetricDataResults"][0]["Values"], json!([1.0, 2.0, 4.0]));
        assert_eq!(all["MetricDataResults"][1]["Label"], "heat");
        assert!(all["NextToken"].is_null());
        let first = ask(two.clone(), "", 4).await.unwrap();
        assert_eq!(first["MetricDataResults"][1]["Values"], json!([1.0]));
        assert_eq!(first["MetricDataResults"][1]["StatusCode"], "PartialData");
        let rest = ask(two, first["NextToken"].as_str().unwrap(), 4).await.unwrap();
        assert_eq!(rest["MetricDataResults"][0]["Values"], json!([2.0, 4.0]), "{rest}");
        assert_eq!(rest["MetricDataResults"][0]["StatusCode"], "Complete");
        let refused = ask(json!([query("a", "p90")]), "", 4).await.unwrap_err();
        assert!(refused.2.contains("p90"), "{refused:?}");
        let refused = ask(json!([{"Id": "e", "Expression": "a + b"}]), "", 4).await.unwrap_err();
        assert!(refused.2.contains("a + b"), "{refused:?}");
    }

    #[tokio::test]
    async fn statistics_are_of_what_was_put() {
        let world = World::new();
        let now = world.rooms.clock.now().millis() / 1000;
        let data = json!({"Namespace": "Plant", "MetricData": [{"MetricName": "heat", "Values": [1, 3], "Counts": [2, 1], "Timestamp": now}]});
        world.call("cloudwatch", "PutMetricData", data).await.unwrap();
        let ask = json!({"Namespace": "Plant", "MetricName": "heat", "StartTime": now - 300, "EndTime": now + 300, "Period": 3600, "Statistics": ["Sum", "Average", "SampleCount", "Maximum"]});
        let seen = world.call("cloudwatch", "GetMetricStatistics", ask).await.unwrap();
        let point = &seen["Datapoints"][0];
        assert_eq!(point["Sum"], 5.0);
        assert_eq!(point["SampleCount"], 3.0);
        assert_eq!(point["Maximum"], 3.0);
        let reserved = json!({"Namespace": "AWS/SageMaker", "MetricData": []});
        assert!(world.call("cloudwatch", "PutMetricData", reserved).await.is_err());
    }
}
