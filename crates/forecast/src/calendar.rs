//! Wall-clock minutes and the frequencies series are sampled at.
//!
//! Series carry local times without a zone, as DeepAR's format does, so a moment is a count
//! of minutes on a proleptic Gregorian calendar and nothing here knows about zones.
//!
//! Invariants
//! * Every `i64` is a valid [`DateTime`]; arithmetic saturates and never panics.
//! * `freq.advance(freq.align(t), n)` is aligned, and advancing by `a` then `b` equals `a + b`.

use std::fmt;
use std::str::FromStr;

use base::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const MINUTES_PER_DAY: i64 = 1440;

/// A moment on the local calendar: minutes since 1970-01-01 00:00.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DateTime(pub i64);

/// A moment taken apart. Months and days count from 1, `weekday` from Monday = 0,
/// `day_of_year` from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The year, astronomical numbering.
    pub year: i64,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub day: u32,
    /// 0 to 23.
    pub hour: u32,
    /// 0 to 59.
    pub minute: u32,
    /// Monday is 0.
    pub weekday: u32,
    /// 1 to 366.
    pub day_of_year: u32,
}

impl DateTime {
    /// The moment `hour:minute` on a civil date; `None` if there is no such date.
    pub fn from_civil(year: i64, month: u32, day: u32, hour: u32, minute: u32) -> Option<Self> {
        let in_range = (1..=12).contains(&month)
            && (1..=days_in_month(year, month)).contains(&day)
            && hour < 24
            && minute < 60;
        // A million years either way is far beyond any sensor and far below overflow.
        if !in_range || year.abs() > 1_000_000 {
            return None;
        }
        let days = days_from_civil(year, month, day);
        Some(DateTime(days * MINUTES_PER_DAY + i64::from(hour) * 60 + i64::from(minute)))
    }

    /// Takes the moment apart.
    pub fn parts(self) -> Parts {
        let days = self.0.div_euclid(MINUTES_PER_DAY);
        let minutes = self.0.rem_euclid(MINUTES_PER_DAY) as u32;
        let (year, month, day) = civil_from_days(days);
        Parts {
            year,
            month,
            day,
            hour: minutes / 60,
            minute: minutes % 60,
            // 1970-01-01 was a Thursday.
            weekday: (days + 3).rem_euclid(7) as u32,
            day_of_year: (days - days_from_civil(year, 1, 1)) as u32 + 1,
        }
    }

    /// The ISO 8601 week, 1 to 53.
    pub fn iso_week(self) -> u32 {
        let days = self.0.div_euclid(MINUTES_PER_DAY);
        // The week belongs to the year its Thursday lies in.
        let thursday = days - (days + 3).rem_euclid(7) + 3;
        let (year, _, _) = civil_from_days(thursday);
        ((thursday - days_from_civil(year, 1, 1)) / 7) as u32 + 1
    }
}

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let p = self.parts();
        write!(f, "{:04}-{:02}-{:02} {:02}:{:02}:00", p.year, p.month, p.day, p.hour, p.minute)
    }
}

impl FromStr for DateTime {
    type Err = Error;

    /// Reads `YYYY-MM-DD`, optionally followed by `T` or blanks and `h[h]:mm[:ss[.fraction]]`
    /// and a `Z`. Seconds are checked and dropped: nothing is sampled below the minute.
    fn from_str(text: &str) -> Result<Self> {
        parse_date_time(text.trim()).ok_or_else(|| {
            Error::invalid(format!(
                "\"{}\" is not a time; write YYYY-MM-DD hh:mm:ss without a zone",
                shorten(text)
            ))
        })
    }
}

fn parse_date_time(text: &str) -> Option<DateTime> {
    let (date, time) = match text.find(['T', ' ']) {
        Some(at) => (&text[..at], text[at + 1..].trim()),
        None => (text, ""),
    };
    let mut fields = date.split('-');
    let year = digits(fields.next()?, 4, 4)?;
    let month = digits(fields.next()?, 1, 2)?;
    let day = digits(fields.next()?, 1, 2)?;
    if fields.next().is_some() {
        return None;
    }
    let (hour, minute) = parse_clock(time)?;
    DateTime::from_civil(i64::from(year), month, day, hour, minute)
}

fn parse_clock(time: &str) -> Option<(u32, u32)> {
    if time.is_empty() {
        return Some((0, 0));
    }
    let time =
        time.strip_suffix(['Z', 'z']).or_else(|| time.strip_suffix("+00:00")).unwrap_or(time);
    let mut fields = time.split(':');
    let hour = digits(fields.next()?, 1, 2)?;
    let minute = digits(fields.next()?, 1, 2)?;
    if let Some(seconds) = fields.next() {
        let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
        // 60 is a leap second.
        if digits(whole, 1, 2)? > 60 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
    }
    fields.next().is_none().then_some((hour, minute))
}

fn digits(text: &str, min: usize, max: usize) -> Option<u32> {
    let plain = (min..=max).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok())?
}

pub(crate) fn shorten(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if is_leap(year) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970-01-01, on years that start in March so that the leap day comes last and a
/// month's first day is a linear formula; 400 years are 146,097 days.
fn days_from_civil(year: i64, month: u32, day: u32) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (i64::from(month) + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month as u32, day as u32)
}

/// What one step of a frequency is a multiple of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// `min`
    Minute,
    /// `H`
    Hour,
    /// `D`
    Day,
    /// `W`, weeks start on Monday
    Week,
    /// `M`
    Month,
}

/// How often a series is sampled: a multiple of a unit, for example `15min` or `1H`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Frequency {
    count: u32,
    unit: Unit,
}

/// The largest multiple accepted; a hundred years in hours fits.
const COUNT_MAX: u32 = 1_000_000;

impl Frequency {
    /// Once an hour.
    pub const HOURLY: Frequency = Frequency { count: 1, unit: Unit::Hour };
    /// Once a day.
    pub const DAILY: Frequency = Frequency { count: 1, unit: Unit::Day };

    /// Every `count` units; `count` is 1 to 1,000,000.
    pub fn new(count: u32, unit: Unit) -> Result<Self> {
        if !(1..=COUNT_MAX).contains(&count) {
            return Err(Error::invalid(format!(
                "a frequency of {count} units is outside 1..={COUNT_MAX}"
            )));
        }
        Ok(Frequency { count, unit })
    }

    /// How many units one step spans.
    pub fn count(self) -> u32 {
        self.count
    }

    /// The unit one step is a multiple of.
    pub fn unit(self) -> Unit {
        self.unit
    }

    /// The moment `steps` after `start` (before it, if negative), calendar-correct: a month
    /// later is the same day of the next month, or its last day.
    pub fn advance(self, start: DateTime, steps: i64) -> DateTime {
        let units = steps.saturating_mul(i64::from(self.count));
        let minutes = match self.unit {
            Unit::Minute => 1,
            Unit::Hour => 60,
            Unit::Day => MINUTES_PER_DAY,
            Unit::Week => 7 * MINUTES_PER_DAY,
            Unit::Month => return add_months(start, units),
        };
        DateTime(start.0.saturating_add(units.saturating_mul(minutes)))
    }

    /// The start of the unit `time` lies in: the minute, the hour, midnight, Monday, the 1st.
    pub fn align(self, time: DateTime) -> DateTime {
        let floor = |minutes: i64| DateTime(time.0 - time.0.rem_euclid(minutes));
        match self.unit {
            Unit::Minute => time,
            Unit::Hour => floor(60),
            Unit::Day => floor(MINUTES_PER_DAY),
            Unit::Week => DateTime(
                floor(MINUTES_PER_DAY).0 - i64::from(time.parts().weekday) * MINUTES_PER_DAY,
            ),
            Unit::Month => DateTime(
                floor(MINUTES_PER_DAY).0 - i64::from(time.parts().day - 1) * MINUTES_PER_DAY,
            ),
        }
    }

    /// Whole steps from `from` to `to`, negative when `to` is earlier.
    pub fn steps_between(self, from: DateTime, to: DateTime) -> i64 {
        let per_step = i64::from(self.count);
        match self.unit {
            Unit::Month => {
                let (a, b) = (from.parts(), to.parts());
                let months = |p: Parts| p.year * 12 + i64::from(p.month);
                (months(b) - months(a)).div_euclid(per_step)
            }
            _ => {
                let step = self.advance(DateTime(0), 1).0;
                to.0.saturating_sub(from.0).div_euclid(step)
            }
        }
    }

    /// The season that MASE and seasonal naive use, in steps: a day of minutes or hours, a
    /// year of months, else 1. GluonTS's table, so that figures can be compared; a multiple
    /// that does not divide the cycle has no season.
    pub fn season(self) -> usize {
        let cycle: u32 = match self.unit {
            Unit::Minute => 1440,
            Unit::Hour => 24,
            Unit::Day | Unit::Week => 1,
            Unit::Month => 12,
        };
        if cycle.is_multiple_of(self.count) { (cycle / self.count) as usize } else { 1 }
    }
}

fn add_months(start: DateTime, months: i64) -> DateTime {
    let p = start.parts();
    let index = p.year.saturating_mul(12).saturating_add(i64::from(p.month) - 1);
    let index = index.saturating_add(months).clamp(-12_000_000, 12_000_000);
    let (year, month) = (index.div_euclid(12), index.rem_euclid(12) as u32 + 1);
    let day = p.day.min(days_in_month(year, month));
    let minutes = i64::from(p.hour) * 60 + i64::from(p.minute);
    DateTime(days_from_civil(year, month, day) * MINUTES_PER_DAY + minutes)
}

impl fmt::Display for Frequency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.unit {
            Unit::Minute => "min",
            Unit::Hour => "H",
            Unit::Day => "D",
            Unit::Week => "W",
            Unit::Month => "M",
        };
        write!(f, "{}{unit}", self.count)
    }
}

impl FromStr for Frequency {
    type Err = Error;

    /// Reads `[n]min`, `[n]H`, `[n]D`, `[n]W`, `[n]M`; pandas' spellings `T`, `h`, `d`, `w`,
    /// `ME` and `MS` are taken too. A lone `m` is refused: it could be either.
    fn from_str(text: &str) -> Result<Self> {
        let trimmed = text.trim();
        let refuse = || {
            Error::invalid(format!(
                "frequency \"{}\" is not one of [n]min, [n]H, [n]D, [n]W, [n]M, for example 1H or 15min",
                shorten(text)
            ))
        };
        let digits_end = trimmed.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = trimmed.split_at(digits_end);
        let unit = match unit.trim() {
            "min" | "Min" | "MIN" | "T" => Unit::Minute,
            "H" | "h" => Unit::Hour,
            "D" | "d" => Unit::Day,
            "W" | "w" => Unit::Week,
            "M" | "ME" | "MS" => Unit::Month,
            _ => return Err(refuse()),
        };
        let count = if number.is_empty() { 1 } else { number.parse().ok().ok_or_else(refuse)? };
        Frequency::new(count, unit).map_err(|cause| refuse().with_source(cause))
    }
}

impl Serialize for Frequency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Frequency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime {
        text.parse().unwrap()
    }

    #[test]
    fn reads_the_spellings_people_send() {
        for text in [
            "2021-02-05 00:00:00",
            "2021-02-05 0:00:00",
            "2021-02-05",
            "2021-02-05T00:00:00",
            "2021-02-05T00:00:00.123456",
            "2021-02-05 00:00",
            "2021-02-05T00:00:00Z",
            " 2021-2-5  0:00:59 ",
        ] {
            assert_eq!(at(text).to_string(), "2021-02-05 00:00:00", "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_time() {
        for text in [
            "",
            "yesterday",
            "2021-02-30",
            "2021-13-01",
            "2021-02-05 24:00:00",
            "21-02-05",
            "2021-02-05 00:00:00+02:00",
            "2021-02-05 1:2:3:4",
            "2021-02-05 00:00:00.x",
            "é-é-é é",
            "2021-02-05-07",
            "99999999999-01-01",
        ] {
            let error = text.parse::<DateTime>().unwrap_err().to_string();
            assert!(error.contains("is not a time"), "{text}: {error}");
        }
    }

    #[test]
    fn agrees_with_chrono_on_every_day_of_five_centuries() {
        use chrono::{Datelike, NaiveDate};
        let epoch = NaiveDate::from_ymd_opt(1970, 1, 1).unwrap();
        let mut date = NaiveDate::from_ymd_opt(1750, 1, 1).unwrap();
        while date.year() < 2250 {
            let moment = DateTime((date - epoch).num_days() * MINUTES_PER_DAY + 61);
            let p = moment.parts();
            let ours = (p.year, p.month, p.day, p.weekday, p.day_of_year, moment.iso_week());
            let theirs = (
                i64::from(date.year()),
                date.month(),
                date.day(),
                date.weekday().num_days_from_monday(),
                date.ordinal(),
                date.iso_week().week(),
            );
            assert_eq!(ours, theirs);
            assert_eq!(DateTime::from_civil(p.year, p.month, p.day, 1, 1), Some(moment));
            date = date.succ_opt().unwrap();
        }
    }

    #[test]
    fn frequencies_parse_print_and_refuse() {
        for (text, printed) in [
            ("H", "1H"),
            ("1H", "1H"),
            ("h", "1H"),
            ("15min", "15min"),
            ("min", "1min"),
            ("5T", "5min"),
            ("D", "1D"),
            ("2W", "2W"),
            ("M", "1M"),
            ("ME", "1M"),
            (" 2 H ", "2H"),
        ] {
            assert_eq!(text.parse::<Frequency>().unwrap().to_string(), printed);
        }
        for text in ["", "m", "0H", "-1H", "1.5H", "Q", "99999999999H", "H1", "hour"] {
            assert!(text.parse::<Frequency>().is_err(), "{text}");
        }
    }

    #[test]
    fn steps_follow_the_calendar() {
        for (freq, from, steps, to) in [
            ("M", "2020-01-31", 1, "2020-02-29"),
            ("M", "2020-01-31", 13, "2021-02-28"),
            ("3M", "2020-01-01", -1, "2019-10-01"),
            ("W", "2020-02-24", 1, "2020-03-02"),
            ("15min", "2020-02-28 23:50", 2, "2020-02-29 00:20"),
            ("H", "2020-12-31 23:00", 1, "2021-01-01"),
            ("D", "2020-03-01", -1, "2020-02-29"),
        ] {
            let freq: Frequency = freq.parse().unwrap();
            assert_eq!(freq.advance(at(from), steps), at(to), "{freq} {from}");
            assert_eq!(freq.steps_between(at(from), at(to)), steps);
        }
        let freq: Frequency = "M".parse().unwrap();
        for steps in [i64::MAX, i64::MIN] {
            let _ = freq.advance(DateTime(0), steps).0;
            let _ = Frequency::HOURLY.advance(DateTime(i64::MAX), steps).0;
        }
    }

    #[test]
    fn starts_align_down() {
        for (freq, from, to) in [
            ("H", "2021-02-05 07:31", "2021-02-05 07:00"),
            ("D", "2021-02-05 07:31", "2021-02-05"),
            ("W", "2021-02-05 07:31", "2021-02-01"),
            ("M", "2021-02-05 07:31", "2021-02-01"),
            ("5min", "2021-02-05 07:31", "2021-02-05 07:31"),
        ] {
            assert_eq!(freq.parse::<Frequency>().unwrap().align(at(from)), at(to));
        }
    }

    #[test]
    fn seasons_are_those_of_gluonts() {
        for (freq, season) in
            [("H", 24), ("2H", 12), ("5H", 1), ("15min", 96), ("D", 1), ("W", 1), ("M", 12)]
        {
            assert_eq!(freq.parse::<Frequency>().unwrap().season(), season);
        }
    }
}
