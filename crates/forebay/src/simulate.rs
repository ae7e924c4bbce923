//! Simulated air-quality stations: the demo's default input.
//!
//! Each station is a pure function of (seed, station, hour), so a run can be repeated and
//! any hour can be asked for, in any order. Ozone follows the sun and yesterday's weather;
//! nitrogen dioxide and carbon monoxide follow traffic, with its week-ends; particles
//! follow the wind. Real sensors fail: some hours are missing, some sensors stick, some
//! spike. The values are invented; their shapes are those of city stations.

use std::f64::consts::TAU;

use chrono::{DateTime, Datelike, Duration, Timelike, Utc};
use serde_json::{Map, Value, json};

/// One station.
#[derive(Clone, Debug)]
pub(crate) struct Station {
    pub(crate) name: String,
    index: u64,
    seed: u64,
    longitude: f64,
    latitude: f64,
    /// How much more or less than the city's mean this place gets.
    level: f64,
    traffic: f64,
}

/// Hours over which the weather forgets its past.
const WEATHER_MEMORY_HOURS: i64 = 36;
/// One hour in so many is lost before it is sent.
const GAP_ONE_IN: u64 = 120;
/// One field in so many is null.
const NULL_ONE_IN: u64 = 60;
/// One hour in so many starts a stuck spell of [`STUCK_HOURS`].
const STUCK_ONE_IN: u64 = 900;
const STUCK_HOURS: i64 = 6;
/// One value in so many is a spike.
const SPIKE_ONE_IN: u64 = 1500;

/// `count` stations of one city.
pub(crate) fn stations(seed: u64, count: u32) -> Vec<Station> {
    (0..u64::from(count))
        .map(|index| {
            let spread = |salt| noise(seed, index, 0, salt);
            Station {
                name: format!("station-{:02}", index + 1),
                index,
                seed,
                longitude: round(10.2 + 0.15 * spread(1), 5),
                latitude: round(56.15 + 0.1 * spread(2), 5),
                level: 1.0 + 0.15 * spread(3),
                traffic: 1.0 + 0.35 * spread(4),
            }
        })
        .collect()
}

impl Station {
    /// The reading at `time` (a whole hour), or `None` where the station was silent.
    pub(crate) fn reading(&self, time: DateTime<Utc>) -> Option<Map<String, Value>> {
        let hour = time.timestamp().div_euclid(3600);
        if self.chance(hour, 10, GAP_ONE_IN) {
            return None;
        }
        // A stuck sensor repeats the value it had when it stuck.
        let stuck = (0..STUCK_HOURS).rev().find(|back| self.chance(hour - back, 11, STUCK_ONE_IN));
        let ozone_time = stuck.map_or(time, |back| time - Duration::hours(back));
        let weather = self.weather(hour);
        let mut reading = Map::new();
        reading.insert("device".into(), json!(self.name));
        reading.insert("timestamp".into(), json!(time.format("%Y-%m-%dT%H:%M:%SZ").to_string()));
        let mut field = |name: &str, salt: u64, value: f64| {
            let value =
                if self.chance(hour, salt + 100, SPIKE_ONE_IN) { value * 6.0 } else { value };
            let shown = if self.chance(hour, salt, NULL_ONE_IN) {
                Value::Null
            } else {
                json!(round(value.max(0.0), 1))
            };
            reading.insert(name.into(), shown);
        };
        field("ozone", 20, self.ozone(ozone_time));
        field(
            "particulate_matter",
            21,
            22.0 * (1.4 - 0.6 * weather) * self.level + 4.0 * self.jitter(hour, 41),
        );
        field(
            "carbon_monoxide",
            22,
            300.0 * self.rush(time) * self.traffic + 25.0 * self.jitter(hour, 42),
        );
        field(
            "sulfur_dioxide",
            23,
            5.0 * (1.2 - 0.4 * weather) * self.level + 0.8 * self.jitter(hour, 43),
        );
        field(
            "nitrogen_dioxide",
            24,
            28.0 * self.rush(time) * self.traffic * (1.2 - 0.4 * weather)
                + 3.0 * self.jitter(hour, 44),
        );
        field("temperature", 25, temperature(time) + 4.0 * weather + 0.4 * self.jitter(hour, 45));
        reading.insert("longitude".into(), json!(self.longitude));
        reading.insert("latitude".into(), json!(self.latitude));
        Some(reading)
    }

    /// Sun, temperature and weather make ozone; traffic's nitric oxide eats it at night.
    fn ozone(&self, time: DateTime<Utc>) -> f64 {
        let hour = time.timestamp().div_euclid(3600);
        let sun = (TAU * (f64::from(time.hour()) - 8.0) / 24.0).sin().max(0.0);
        let season = 1.0 + 0.35 * (TAU * (f64::from(time.ordinal()) - 80.0) / 365.25).sin();
        let weather = self.weather(hour);
        let base = 28.0 + 62.0 * sun * season * (1.0 + 0.45 * weather);
        let eaten = 9.0 * self.rush(time) * self.traffic;
        (base - eaten) * self.level + 3.5 * self.jitter(hour, 40)
    }

    /// City weather shared by all stations, between about -1.5 and 1.5: noise that remembers.
    fn weather(&self, hour: i64) -> f64 {
        let (mut sum, mut weights) = (0.0, 0.0f64);
        for back in 0..WEATHER_MEMORY_HOURS {
            let weight = (-(back as f64) / 12.0).exp();
            sum += weight * noise(self.seed, u64::MAX, (hour - back).cast_unsigned(), 7);
            weights += weight * weight;
        }
        0.6 * sum / weights.sqrt()
    }

    /// Traffic through the day: two rushes on workdays, one soft hump on week-ends.
    fn rush(&self, time: DateTime<Utc>) -> f64 {
        let hour = f64::from(time.hour());
        let hump = |center: f64, width: f64| (-((hour - center) / width).powi(2)).exp();
        if time.weekday().number_from_monday() >= 6 {
            0.45 + 0.5 * hump(14.0, 5.0)
        } else {
            0.45 + 0.95 * hump(8.0, 2.2) + 0.85 * hump(17.5, 2.8)
        }
    }

    fn jitter(&self, hour: i64, salt: u64) -> f64 {
        noise(self.seed, self.index, hour.cast_unsigned(), salt)
    }

    fn chance(&self, hour: i64, salt: u64, one_in: u64) -> bool {
        hash(self.seed, self.index, hour.cast_unsigned(), salt).is_multiple_of(one_in)
    }
}

fn temperature(time: DateTime<Utc>) -> f64 {
    9.0 - 9.0 * (TAU * (f64::from(time.ordinal()) + 10.0) / 365.25).cos()
        + 4.0 * (TAU * (f64::from(time.hour()) - 9.0) / 24.0).sin()
}

/// About normal, mean 0 and deviation 1: the sum of four uniform numbers.
fn noise(seed: u64, station: u64, hour: u64, salt: u64) -> f64 {
    let mut sum = 0.0;
    for part in 0..4 {
        let bits = hash(seed, station, hour, salt.wrapping_mul(31).wrapping_add(part)) >> 11;
        sum += bits as f64 / (1u64 << 53) as f64 - 0.5;
    }
    sum * 1.732
}

/// The SplitMix64 finaliser over the four words.
fn hash(seed: u64, station: u64, hour: u64, salt: u64) -> u64 {
    let mut state = seed;
    for word in [station, hour, salt] {
        state = state.wrapping_add(word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^= state >> 31;
    }
    state
}

fn round(value: f64, digits: i32) -> f64 {
    let unit = 10f64.powi(digits);
    (value * unit).round() / unit
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeZone;

    fn hours(count: i64) -> impl Iterator<Item = DateTime<Utc>> {
        let start = Utc.with_ymd_and_hms(2025, 5, 1, 0, 0, 0).unwrap();
        (0..count).map(move |hour| start + Duration::hours(hour))
    }

    #[test]
    fn the_same_seed_gives_the_same_readings_and_another_gives_others() {
        let all = |seed| -> Vec<_> {
            stations(seed, 3)
                .iter()
                .flat_map(|s| hours(100).map(|t| s.reading(t)).collect::<Vec<_>>())
                .collect()
        };
        assert_eq!(all(1), all(1));
        assert_ne!(all(1), all(2));
    }

    #[test]
    fn days_have_a_shape_and_sensors_fail_sometimes() {
        let station = &stations(1, 1)[0];
        let readings: Vec<_> = hours(24 * 90).map(|t| (t, station.reading(t))).collect();
        let missing = readings.iter().filter(|(_, r)| r.is_none()).count();
        assert!((5..60).contains(&missing), "{missing} silent hours");
        let mean_at = |hour: u32| {
            let values: Vec<f64> = readings
                .iter()
                .filter(|(t, _)| t.hour() == hour)
                .filter_map(|(_, r)| r.as_ref()?["ozone"].as_f64())
                .collect();
            values.iter().sum::<f64>() / values.len() as f64
        };
        assert!(mean_at(14) > 1.5 * mean_at(4), "{} at noon, {} at night", mean_at(14), mean_at(4));
        let nulls = readings
            .iter()
            .filter_map(|(_, r)| r.as_ref())
            .filter(|r| r["ozone"].is_null())
            .count();
        assert!(nulls > 5, "{nulls} null values");
    }
}
