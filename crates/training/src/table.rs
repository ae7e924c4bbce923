//! Makes series from readings in any order, and splits series in time.
//!
//! Invariants
//! * A series is a regular grid from an item's first step to its last; a step without a
//!   reading is missing (NaN), never filled.
//! * Two readings of one step are a duplicate: the last one added stands, and it is counted.
//!   Devices send again what was not acknowledged, so this is no error.
//! * Readings that keep to another step than the one asked for are refused: most of them would
//!   be thrown away, or most steps be missing.
//! * A split is by time only: nothing after the cut is in the training part.

use std::collections::BTreeMap;

use base::{Error, Result};
use forecast::{Dataset, DateTime, Frequency, TimeSeries};

/// The longest series made. One stray stamp from 1970 must not cost a machine's memory.
pub const POINTS_MAX: usize = 50_000_000;

/// Takes readings and hands out series.
#[derive(Clone, Debug)]
pub struct Collector {
    freq: Frequency,
    items: BTreeMap<String, Vec<(DateTime, f32)>>,
}

impl Collector {
    /// Collects series of one step.
    pub fn new(freq: Frequency) -> Self {
        Collector { freq, items: BTreeMap::new() }
    }

    /// Adds one reading; NaN is a reading whose value is missing.
    pub fn add(&mut self, item_id: &str, time: DateTime, value: f32) {
        let reading = (time, value);
        match self.items.get_mut(item_id) {
            Some(readings) => readings.push(reading),
            None => {
                self.items.insert(item_id.to_owned(), vec![reading]);
            }
        }
    }

    /// The series by item id, and how many readings were duplicates.
    pub fn finish(self) -> Result<(Dataset, u64)> {
        let mut dataset = Dataset { freq: self.freq, series: Vec::with_capacity(self.items.len()) };
        let mut duplicates = 0;
        for (item_id, readings) in self.items {
            let (start, target, doubled) = grid(self.freq, readings)
                .map_err(|error| error.context(format_args!("item \"{item_id}\"")))?;
            duplicates += doubled;
            let (item_id, target) = (Some(item_id), target.into());
            dataset.series.push(TimeSeries { item_id, start, target, ..TimeSeries::default() });
        }
        dataset.validate()?;
        Ok((dataset, duplicates))
    }
}

fn grid(freq: Frequency, mut readings: Vec<(DateTime, f32)>) -> Result<(DateTime, Vec<f32>, u64)> {
    // Stable: of one step's readings the last added stays last.
    readings.sort_by_key(|(time, _)| *time);
    check_step(freq, &readings)?;
    for (time, _) in &mut readings {
        *time = freq.align(*time);
    }
    let (Some((start, _)), Some((end, _))) = (readings.first(), readings.last()) else {
        return Err(Error::internal("an item without readings"));
    };
    let (start, end) = (*start, *end);
    let points = freq.steps_between(start, end).saturating_add(1);
    let points =
        usize::try_from(points).ok().filter(|points| *points <= POINTS_MAX).ok_or_else(|| {
            Error::invalid(format!(
                "readings from {start} to {end} make {points} steps of {freq}, at most {POINTS_MAX}"
            ))
        })?;
    let mut target = vec![f32::NAN; points];
    let (mut duplicates, mut last) = (0, None);
    for (time, value) in readings {
        let step = usize::try_from(freq.steps_between(start, time)).unwrap_or(0);
        duplicates += u64::from(last.replace(step) == Some(step));
        if let Some(slot) = target.get_mut(step) {
            *slot = value;
        }
    }
    Ok((start, target, duplicates))
}

/// Refuses readings of another frequency, given in the order of their times.
fn check_step(freq: Frequency, readings: &[(DateTime, f32)]) -> Result<()> {
    /// Fewer gaps show no habit.
    const GAPS_MIN: usize = 8;
    let apart = |pair: &[(DateTime, f32)]| pair[1].0.0.saturating_sub(pair[0].0.0);
    let mut gaps: Vec<i64> = readings.windows(2).map(apart).filter(|gap| *gap > 0).collect();
    if gaps.len() < GAPS_MIN {
        return Ok(());
    }
    gaps.sort_unstable();
    let median = gaps[gaps.len() / 2];
    let first = readings[0].0;
    // The shortest month is what two monthly readings are at least apart.
    let step = match freq.unit() {
        forecast::Unit::Month => i64::from(freq.count()) * 28 * 1440,
        _ => freq.advance(first, 1).0 - first.0,
    };
    let regular = 10 * gaps.iter().filter(|gap| **gap == median).count() >= 9 * gaps.len();
    let finer = 2 * median <= step;
    if finer || (regular && median >= 2 * step) {
        let what = if finer { "average them to that step" } else { "leave it at their own step" };
        return Err(Error::invalid(format!(
            "its readings from {first} on are {} apart, time_freq is {freq}; {what}, or set time_freq to fit them",
            words(median)
        )));
    }
    Ok(())
}

fn words(minutes: i64) -> String {
    let units = [(1440, "days"), (60, "hours"), (1, "minutes")];
    let (size, unit) =
        units.into_iter().find(|(size, _)| minutes % size == 0).unwrap_or((1, "minutes"));
    format!("{} {unit}", minutes / size)
}

/// Splits in time: the training part is every series without its last `points`, the test part
/// every series whole, to be scored on those points. A series with no more than `points` is
/// left out of training.
pub fn split(dataset: &Dataset, points: usize) -> (Dataset, Dataset) {
    let kept = dataset.series.iter().filter(|series| series.target.len() > points);
    let series = kept.map(|series| series.prefix(series.target.len() - points, 0)).collect();
    (Dataset { freq: dataset.freq, series }, dataset.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hour: i64) -> DateTime {
        DateTime(hour * 60)
    }

    #[test]
    fn readings_in_any_order_become_a_grid_with_gaps() {
        let mut made = Collector::new(Frequency::HOURLY);
        made.add("b", at(10), 1.0);
        for (hour, value) in [(5, 5.0), (2, 2.0), (3, 3.0), (5, 50.0), (2, 20.0)] {
            made.add("a", DateTime(at(hour).0 + 7), value);
        }
        let (data, duplicates) = made.finish().unwrap();
        assert_eq!(duplicates, 2);
        assert_eq!(data.series[0].item_id.as_deref(), Some("a"));
        assert_eq!(data.series[0].start, at(2));
        assert_eq!(data.series[0].target[..2], [20.0, 3.0]);
        assert!(data.series[0].target[2].is_nan());
        assert_eq!(data.series[0].target[3..], [50.0]);
        assert_eq!(data.series[1].target, [1.0]);
    }

    #[test]
    fn months_and_multiples_have_their_own_grid() {
        let mut made = Collector::new("1M".parse().unwrap());
        for month in ["2021-03-31", "2021-01-15", "2021-02-01"] {
            made.add("a", month.parse().unwrap(), 1.0);
        }
        assert_eq!(made.finish().unwrap().0.series[0].target, [1.0; 3]);
        let mut made = Collector::new("5min".parse().unwrap());
        for (minute, value) in [(0, 1.0), (4, 2.0), (5, 3.0), (14, 4.0)] {
            made.add("a", DateTime(minute), value);
        }
        let (data, duplicates) = made.finish().unwrap();
        assert_eq!((data.series[0].target.as_slice(), duplicates), (&[2.0, 3.0, 4.0][..], 1));
    }

    #[test]
    fn readings_of_another_frequency_are_refused_by_item_and_step() {
        let error = |freq: &str, apart: i64| {
            let mut made = Collector::new(freq.parse().unwrap());
            (0..20).for_each(|k| made.add("pump", DateTime(k * apart), 1.0));
            made.finish().err().map(|error| error.to_string()).unwrap_or_default()
        };
        let text = error("H", 10);
        assert!(text.starts_with("item \"pump\": its readings from 1970-01-01"), "{text}");
        assert!(text.contains("10 minutes apart, time_freq is 1H; average them"), "{text}");
        assert!(error("H", 1440).contains("1 days apart, time_freq is 1H; leave it"));
        assert!(error("5min", 1).contains("1 minutes apart"));
        assert!(error("M", 1440).contains("1 days apart"));
        for (freq, apart) in [("H", 60), ("10min", 10), ("D", 1440), ("H", 45), ("M", 43_200)] {
            assert_eq!(error(freq, apart), "", "{freq} {apart}");
        }
        // Sent twice, out of order and with gaps, they are still hourly.
        let mut made = Collector::new(Frequency::HOURLY);
        for hour in [9, 3, 3, 4, 5, 9, 7, 8, 6, 20, 21, 22, 23, 24, 24, 2] {
            made.add("a", DateTime(at(hour).0 + hour % 3), hour as f32);
        }
        let (data, duplicates) = made.finish().unwrap();
        assert_eq!((data.series[0].target.len(), duplicates), (23, 3));
        // A few readings show no habit, and an irregular device is no regular one.
        let mut made = Collector::new(Frequency::HOURLY);
        for hour in [0, 2, 7, 9, 30, 31, 33, 50, 60, 61, 70, 74] {
            made.add("door", at(hour), 1.0);
        }
        assert_eq!(made.finish().unwrap().0.series[0].target.len(), 75);
    }

    #[test]
    fn a_stray_stamp_and_an_infinite_value_are_refused_by_name() {
        let mut made = Collector::new("1min".parse().unwrap());
        made.add("far", DateTime(-60_000_000), 1.0);
        made.add("far", DateTime(60_000_000), 1.0);
        assert!(made.finish().unwrap_err().to_string().contains("far"));
        let mut made = Collector::new(Frequency::HOURLY);
        made.add("hot", at(0), f32::INFINITY);
        assert!(made.finish().unwrap_err().to_string().contains("hot"));
        assert!(Collector::new(Frequency::HOURLY).finish().unwrap().0.series.is_empty());
    }

    #[test]
    fn a_split_is_by_time() {
        let mut made = Collector::new(Frequency::HOURLY);
        for hour in 0..10 {
            made.add("long", at(hour), hour as f32);
        }
        made.add("short", at(9), 9.0);
        let (data, _) = made.finish().unwrap();
        let (train, test) = split(&data, 3);
        assert_eq!(train.series.len(), 1);
        assert_eq!(train.series[0].target, (0..7).map(|v| v as f32).collect::<Vec<_>>());
        assert_eq!(test, data);
    }
}
