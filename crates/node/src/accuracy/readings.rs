//! What came true, as a query gives it, and which of its series a history belongs to.
//!
//! Invariants
//! * Of several readings of a series for one moment the last counts, in the query's own order.
//! * What is kept is bounded: readings outside the time that is asked for are not kept, and beyond
//!   [`READINGS_MAX`] they are counted and left out.
//! * A history is taken for the series of the one whose readings it equals, and for none if there
//!   are two.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, SchemaRef, TimeUnit};
use base::{Error, Result};
use forecast::{DateTime, Frequency, TimeSeries};
use lake::{QueryEngine, RowSink, SqlOptions};

/// Most readings kept: about 80 MB.
const READINGS_MAX: u64 = 5_000_000;
/// Observed values by which a history is known.
const KNOWN_BY: usize = 8;
/// Observed values that are compared at most.
const COMPARED_MAX: usize = 32;
/// Of these the newest that a series is looked for by, in case its reading is still to come.
const ANCHORS: usize = 4;
/// Steps before the end of a history that are looked at.
pub(super) const HISTORY_STEPS: usize = 256;
/// Pairs of value and series that are kept for looking series up.
const INDEX_MAX: usize = 2_000_000;

/// The readings of a query.
#[derive(Debug, Default)]
pub(super) struct Readings {
    items: Vec<Vec<(i64, f32)>>,
    names: HashMap<String, u32>,
    index: HashMap<(i64, i64), Vec<(f32, u32)>>,
    index_size: usize,
    pub(super) counts: Counts,
}

/// What became of the rows of the query.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(super) struct Counts {
    /// Readings that count.
    pub(super) readings: u64,
    /// Series.
    pub(super) series: u64,
    /// Readings for a moment that has a later one.
    pub(super) duplicates: u64,
    /// Readings outside the time of the forecasts and of what was known before them.
    pub(super) elsewhere: u64,
    /// Rows without a time, a value, or a series where there are several.
    pub(super) incomplete: u64,
    /// Readings that were too many.
    pub(super) left_out: u64,
}

/// Why a history is of no series.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unknown {
    /// It has too few observed values.
    TooShort,
    /// No series has its values.
    NoSeries,
    /// More than one has.
    SeveralSeries,
}

impl Readings {
    /// Asks a query for the readings from one moment to another.
    pub(super) async fn ask(
        engine: &dyn QueryEngine,
        sql: &str,
        database: &str,
        range: (DateTime, DateTime),
    ) -> Result<Readings> {
        let gathered = Arc::new(Mutex::new(Gathering {
            range: (range.0.0, range.1.0),
            ..Gathering::default()
        }));
        let sink = Box::new(Sink(Arc::clone(&gathered)));
        engine.sql_into(sql, &SqlOptions::in_database(database), sink).await?;
        let mut gathered = std::mem::take(&mut *lock(&gathered));
        let mut counts = gathered.counts.clone();
        for points in &mut gathered.items {
            // Stable: of the same moment the last one of the query stays last.
            points.sort_by_key(|(at, _)| *at);
            let before = points.len();
            points.reverse();
            points.dedup_by_key(|(at, _)| *at);
            points.reverse();
            counts.duplicates += (before - points.len()) as u64;
            counts.readings += points.len() as u64;
        }
        counts.series = gathered.items.iter().filter(|points| !points.is_empty()).count() as u64;
        Ok(Readings { items: gathered.items, names: gathered.names, counts, ..Readings::default() })
    }

    /// The reading of a series within a step.
    fn at(&self, item: u32, from: DateTime, to: DateTime) -> Option<f32> {
        let points = self.items.get(item as usize)?;
        let end = points.partition_point(|(at, _)| *at < to.0);
        let (at, value) = points.get(end.checked_sub(1)?)?;
        (*at >= from.0).then_some(*value)
    }

    /// What came true of a series from `start` on, NaN where there is no reading.
    pub(super) fn truth(
        &self,
        item: u32,
        start: DateTime,
        freq: Frequency,
        steps: usize,
    ) -> Vec<f32> {
        let moment = |step: usize| freq.advance(start, i64::try_from(step).unwrap_or(i64::MAX));
        let value = |step| self.at(item, moment(step), moment(step + 1)).unwrap_or(f32::NAN);
        (0..steps).map(value).collect()
    }

    /// The series that a request's instance is of: the one it names, else the one whose readings
    /// its newest observed values are.
    pub(super) fn series_of(
        &mut self,
        instance: &TimeSeries,
        freq: Frequency,
    ) -> Result<u32, Unknown> {
        if let Some(item) = instance.item_id.as_ref().and_then(|name| self.names.get(name)) {
            return Ok(*item);
        }
        let length = instance.target.len();
        let moment =
            |at: usize| freq.advance(instance.start, i64::try_from(at).unwrap_or(i64::MAX));
        let newest: Vec<(DateTime, DateTime, f32)> = (length.saturating_sub(HISTORY_STEPS)..length)
            .rev()
            .filter(|at| !instance.target[*at].is_nan())
            .take(COMPARED_MAX)
            .map(|at| (moment(at), moment(at + 1), instance.target[at]))
            .collect();
        if newest.len() < KNOWN_BY {
            return Err(Unknown::TooShort);
        }
        for (from, to, value) in newest.iter().take(ANCHORS) {
            let alike: Vec<u32> = self.alike(*from, *to, *value);
            let mut fitting = alike.into_iter().filter(|item| self.fits(*item, &newest));
            match (fitting.next(), fitting.next()) {
                (Some(item), None) => return Ok(item),
                (Some(_), Some(_)) => return Err(Unknown::SeveralSeries),
                (None, _) => {}
            }
        }
        Err(Unknown::NoSeries)
    }

    /// The series that have this reading within a step.
    fn alike(&mut self, from: DateTime, to: DateTime, value: f32) -> Vec<u32> {
        let key = (from.0, to.0);
        if !self.index.contains_key(&key) {
            let items = 0..u32::try_from(self.items.len()).unwrap_or(u32::MAX);
            let mut values: Vec<(f32, u32)> =
                items.filter_map(|item| Some((self.at(item, from, to)?, item))).collect();
            values.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
            if self.index_size + values.len() > INDEX_MAX {
                self.index.clear();
                self.index_size = 0;
            }
            self.index_size += values.len();
            self.index.insert(key, values);
        }
        let Some(values) = self.index.get(&key) else { return Vec::new() };
        let near = reach(value);
        let begin = values.partition_point(|(have, _)| *have < value - near);
        values[begin..]
            .iter()
            .take_while(|(have, _)| *have <= value + near)
            .map(|(_, item)| *item)
            .collect()
    }

    /// Whether a series' readings are these values, wherever there is one.
    fn fits(&self, item: u32, values: &[(DateTime, DateTime, f32)]) -> bool {
        let mut same = 0;
        for (from, to, value) in values {
            match self.at(item, *from, *to) {
                Some(have) if (have - value).abs() <= reach(*value) => same += 1,
                Some(_) => return false,
                None => {}
            }
        }
        same >= KNOWN_BY
    }
}

/// How far a value may be off and still be the same: it may have been rounded to five digits.
fn reach(value: f32) -> f32 {
    value.abs() * 1e-5 + 1e-9
}

#[derive(Debug, Default)]
struct Gathering {
    range: (i64, i64),
    columns: Option<(usize, usize, Option<usize>)>,
    items: Vec<Vec<(i64, f32)>>,
    names: HashMap<String, u32>,
    kept: u64,
    counts: Counts,
}

struct Sink(Arc<Mutex<Gathering>>);

fn lock(gathering: &Mutex<Gathering>) -> MutexGuard<'_, Gathering> {
    gathering.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RowSink for Sink {
    fn begin(&mut self, schema: &SchemaRef) -> Result<()> {
        let mut gathering = lock(&self.0);
        *gathering = Gathering { range: gathering.range, ..Gathering::default() };
        gathering.columns = Some(columns(schema)?);
        Ok(())
    }

    fn rows(&mut self, batch: RecordBatch) -> Result<()> {
        lock(&self.0).take(&batch)
    }
}

/// Where the time, the value and the series' name are; refuses a query that does not give them.
pub(super) fn columns(schema: &SchemaRef) -> Result<(usize, usize, Option<usize>)> {
    let find = |name: &str| {
        schema.fields().iter().position(|field| field.name().eq_ignore_ascii_case(name))
    };
    let needed = |name: &str| {
        find(name).ok_or_else(|| {
            Error::invalid(format!(
                "the query of actuals gives no column {name:?}; write SELECT ... AS timestamp, \
                 ... AS value, and ... AS item_id where there are several series"
            ))
        })
    };
    let (time, value) = (needed("timestamp")?, needed("value")?);
    let kind = |at: usize| schema.field(at).data_type();
    let is_text =
        |kind: &DataType| matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let is_time = matches!(kind(time), DataType::Timestamp(..) | DataType::Date32);
    if !is_time && !is_text(kind(time)) {
        return Err(Error::invalid(format!(
            "the column \"timestamp\" of the query of actuals is {}; make a timestamp of it, as with \
             from_unixtime",
            kind(time)
        )));
    }
    if !kind(value).is_numeric() {
        return Err(Error::invalid(format!(
            "the column \"value\" of the query of actuals is {}, not a number; CAST(... AS double) \
             makes one",
            kind(value)
        )));
    }
    Ok((time, value, find("item_id")))
}

impl Gathering {
    fn take(&mut self, batch: &RecordBatch) -> Result<()> {
        let Some((time, value, item)) = self.columns else {
            return Err(Error::internal("rows without columns"));
        };
        let times = minutes(batch.column(time))?;
        let values = as_kind(batch.column(value), &DataType::Float64)?;
        let values = values.as_primitive::<Float64Type>();
        let names = item.map(|at| as_kind(batch.column(at), &DataType::Utf8)).transpose()?;
        let names = names.as_ref().map(|names| names.as_string::<i32>());
        for (row, at) in times.into_iter().enumerate() {
            let value = values.is_valid(row).then(|| values.value(row) as f32);
            let name = match names {
                None => Some(""),
                Some(names) => names.is_valid(row).then(|| names.value(row)),
            };
            let (Some(at), Some(value), Some(name)) =
                (at, value.filter(|value| value.is_finite()), name)
            else {
                self.counts.incomplete += 1;
                continue;
            };
            if at < self.range.0 || at >= self.range.1 {
                self.counts.elsewhere += 1;
                continue;
            }
            if self.kept >= READINGS_MAX {
                self.counts.left_out += 1;
                continue;
            }
            let item = match self.names.get(name) {
                Some(item) => *item,
                None => {
                    let item = u32::try_from(self.items.len())
                        .map_err(|_many| Error::internal("more series than can be counted"))?;
                    self.names.insert(name.to_owned(), item);
                    self.items.push(Vec::new());
                    item
                }
            };
            self.items[item as usize].push((at, value));
            self.kept += 1;
        }
        Ok(())
    }
}

fn as_kind(column: &ArrayRef, kind: &DataType) -> Result<ArrayRef> {
    cast(column, kind).map_err(|cause| Error::invalid(format!("the query of actuals: {cause}")))
}

/// Times as minutes since 1970.
fn minutes(column: &ArrayRef) -> Result<Vec<Option<i64>>> {
    let seconds = match column.data_type() {
        DataType::Timestamp(_, zone) => {
            as_kind(column, &DataType::Timestamp(TimeUnit::Second, zone.clone()))?
        }
        DataType::Date32 => as_kind(column, &DataType::Timestamp(TimeUnit::Second, None))?,
        _text => {
            let texts = as_kind(column, &DataType::Utf8)?;
            let texts = texts.as_string::<i32>();
            let minute = |text: Option<&str>| Some(text?.parse::<DateTime>().ok()?.0);
            return Ok(texts.iter().map(minute).collect());
        }
    };
    let seconds = as_kind(&seconds, &DataType::Int64)?;
    let seconds = seconds.as_primitive::<Int64Type>();
    Ok(seconds.iter().map(|second| Some(second?.div_euclid(60))).collect())
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, StringArray, TimestampMillisecondArray};
    use arrow::datatypes::{Field, Schema};

    use super::*;

    const HOUR: i64 = 60;

    /// Three series of two days: a rising one, its double, and a constant one twice.
    fn readings() -> Readings {
        let mut readings = Readings::default();
        for (name, value) in [
            ("a", (|hour| hour as f32) as fn(i64) -> f32),
            ("b", |hour| 2.0 * hour as f32),
            ("c", |_| 7.0),
            ("d", |_| 7.0),
        ] {
            let item = readings.items.len() as u32;
            readings.names.insert(name.to_owned(), item);
            readings.items.push((0..48).map(|hour| (hour * HOUR + 5, value(hour))).collect());
        }
        readings
    }

    fn instance(item_id: Option<&str>, start: i64, target: &[f32]) -> TimeSeries {
        TimeSeries {
            item_id: item_id.map(str::to_owned),
            start: DateTime(start * HOUR),
            target: target.to_vec().into(),
            ..TimeSeries::default()
        }
    }

    #[test]
    fn a_history_is_known_by_its_values() {
        let mut all = readings();
        let mut of = |instance: &TimeSeries| all.series_of(instance, Frequency::HOURLY);
        let rising: Vec<f32> = (4..20).map(|hour| hour as f32).collect();
        let doubled: Vec<f32> = rising.iter().map(|value| 2.0 * value + 1e-5).collect();
        assert_eq!(of(&instance(None, 4, &rising)), Ok(0));
        assert_eq!(of(&instance(None, 4, &doubled)), Ok(1));
        assert_eq!(of(&instance(Some("d"), 4, &[7.0; 9])), Ok(3));
        assert_eq!(of(&instance(None, 4, &[7.0; 9])), Err(Unknown::SeveralSeries));
        assert_eq!(of(&instance(None, 5, &rising)), Err(Unknown::NoSeries));
        assert_eq!(of(&instance(Some("z"), 4, &rising[..7])), Err(Unknown::TooShort));
        // A name that no reading has says nothing; the values do.
        assert_eq!(of(&instance(Some("z"), 4, &rising)), Ok(0));
        let mut gaps = rising.clone();
        gaps[3] = f32::NAN;
        gaps[15] = f32::NAN;
        assert_eq!(of(&instance(None, 4, &gaps)), Ok(0));
        // Its newest values have no readings yet.
        let late: Vec<f32> = (30..51).map(|hour| hour as f32).collect();
        assert_eq!(of(&instance(None, 30, &late)), Ok(0));
        let mut wrong = rising;
        wrong[2] = 99.0;
        assert_eq!(of(&instance(None, 4, &wrong)), Err(Unknown::NoSeries));
    }

    #[test]
    fn truth_is_what_lies_within_each_step() {
        let mut all = readings();
        all.items[0].retain(|(at, _)| *at != 47 * HOUR + 5);
        let truth = all.truth(0, DateTime(45 * HOUR), Frequency::HOURLY, 4);
        assert_eq!(&truth[..2], [45.0, 46.0]);
        assert!(truth[2].is_nan() && truth[3].is_nan());
    }

    #[test]
    fn rows_are_gathered_whatever_their_types() {
        let fields = vec![
            Field::new("Timestamp", DataType::Timestamp(TimeUnit::Millisecond, None), true),
            Field::new("value", DataType::Float64, true),
            Field::new("item_id", DataType::Utf8, true),
        ];
        let schema = Arc::new(Schema::new(fields));
        let minute = |minute: i64| Some(minute * 60_000 + 30_000);
        let batch = RecordBatch::try_new(
            Arc::clone(&schema),
            vec![
                Arc::new(TimestampMillisecondArray::from(vec![
                    minute(10),
                    minute(10),
                    minute(11),
                    None,
                    minute(500),
                    minute(12),
                ])),
                Arc::new(Float64Array::from(vec![
                    Some(1.0),
                    Some(2.0),
                    Some(f64::NAN),
                    Some(1.0),
                    Some(1.0),
                    Some(3.0),
                ])),
                Arc::new(StringArray::from(vec![
                    Some("a"),
                    Some("a"),
                    Some("a"),
                    Some("a"),
                    Some("a"),
                    None,
                ])),
            ],
        )
        .unwrap();
        let gathering = Arc::new(Mutex::new(Gathering { range: (0, 100), ..Gathering::default() }));
        let mut sink = Sink(Arc::clone(&gathering));
        for _again in 0..2 {
            sink.begin(&schema).unwrap();
            sink.rows(batch.clone()).unwrap();
        }
        let found = lock(&gathering);
        assert_eq!(found.items, [vec![(10, 1.0), (10, 2.0)]]);
        assert_eq!((found.counts.incomplete, found.counts.elsewhere), (3, 1));
        let texts: ArrayRef =
            Arc::new(StringArray::from(vec![Some("2021-02-05T10:00:00Z"), Some("noon"), None]));
        let noon: DateTime = "2021-02-05 10:00:00".parse().unwrap();
        assert_eq!(minutes(&texts).unwrap(), [Some(noon.0), None, None]);
    }

    #[test]
    fn a_query_that_gives_something_else_is_refused() {
        let of = |fields: Vec<(&str, DataType)>| {
            let fields: Vec<Field> =
                fields.into_iter().map(|(name, kind)| Field::new(name, kind, true)).collect();
            columns(&Arc::new(Schema::new(fields)))
        };
        let time = DataType::Timestamp(TimeUnit::Second, None);
        assert_eq!(
            of(vec![("value", DataType::Int32), ("TIMESTAMP", time.clone())]).unwrap(),
            (1, 0, None)
        );
        for (fields, word) in [
            (vec![("value", DataType::Int32)], "no column \"timestamp\""),
            (vec![("timestamp", time.clone())], "no column \"value\""),
            (vec![("timestamp", DataType::Int64), ("value", DataType::Int32)], "from_unixtime"),
            (vec![("timestamp", time), ("value", DataType::Utf8)], "not a number"),
        ] {
            let error = of(fields).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
