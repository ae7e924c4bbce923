//! When something is due: AWS's cron expressions. Pure.
//!
//! `cron(Minutes Hours Day-of-month Month Day-of-week Year)`, in UTC, as Glue's crawlers and
//! triggers and EventBridge have them:
//!
//! | field | values | wildcards |
//! |---|---|---|
//! | minutes | 0-59 | `, - * /` |
//! | hours | 0-23 | `, - * /` |
//! | day of month | 1-31 | `, - * ? / L W` |
//! | month | 1-12 or JAN-DEC | `, - * /` |
//! | day of week | 1-7 or SUN-SAT | `, - * ? / L #` |
//! | year | 1970-2199 | `, - * /` |
//!
//! One of the two days has to be `?`, and only one. AWS refuses what is due more often than
//! every five minutes; here every minute is allowed.

use std::fmt;
use std::str::FromStr;

use base::{Error, Result, Timestamp};
use chrono::{DateTime, Datelike, Days, NaiveDate, Weekday};
use serde::{Deserialize, Serialize};

const MONTHS: [&str; 12] =
    ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"];
const WEEKDAYS: [&str; 7] = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"];
const YEARS: (u32, u32) = (1970, 2199);

/// When something is due, again and again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Schedule {
    text: String,
    minutes: Vec<u32>,
    hours: Vec<u32>,
    days: DaysOf,
    months: Vec<u32>,
    years: Vec<u32>,
}

/// The days of a month on which a schedule is due.
#[derive(Clone, Debug, PartialEq, Eq)]
enum DaysOf {
    Month(Vec<MonthDay>),
    Week(Vec<WeekDay>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MonthDay {
    /// `15`
    Nth(u32),
    /// `L`
    Last,
    /// `15W`: the weekday nearest to it, in the same month.
    NearestWeekday(u32),
    /// `LW`
    LastWeekday,
}

/// Days of the week count from 1, which is Sunday.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WeekDay {
    /// `2`
    Every(u32),
    /// `6L`: the last one of the month.
    Last(u32),
    /// `3#2`: the second one of the month.
    Nth(u32, u32),
}

impl Schedule {
    /// The expression as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first moment after `after` at which it is due; none if there is none before 2200.
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let start = DateTime::from_timestamp_millis(after.millis().max(-1))?;
        let minute_of_day = |hour: u32, minute: u32| i64::from(hour * 60 + minute);
        // Whole minutes since midnight that are already over; due is what comes after them.
        let over = after.millis().max(-1).div_euclid(60_000).rem_euclid(24 * 60);
        let mut day = start.date_naive();
        let mut first = true;
        while day.year_ce().1 <= YEARS.1 {
            let year = day.year_ce().1;
            if self.years.binary_search(&year).is_err() {
                day = NaiveDate::from_ymd_opt(day.year() + 1, 1, 1)?;
                first = false;
                continue;
            }
            if self.months.binary_search(&day.month()).is_err() {
                day = first_of_next_month(day)?;
                first = false;
                continue;
            }
            if self.days.hold(day) {
                let times = self
                    .hours
                    .iter()
                    .flat_map(|&hour| self.minutes.iter().map(move |&at| minute_of_day(hour, at)));
                if let Some(at) = { times }.find(|&at| !first || at > over) {
                    let midnight = day.and_hms_opt(0, 0, 0)?.and_utc().timestamp_millis();
                    return Some(Timestamp(midnight + at * 60_000));
                }
            }
            day = day.checked_add_days(Days::new(1))?;
            first = false;
        }
        None
    }

    /// Whether it was due after `since` and not later than `now`. What came due several times
    /// meanwhile, because nobody was there to look, is due once.
    pub fn was_due(&self, since: Timestamp, now: Timestamp) -> bool {
        self.next_after(since).is_some_and(|due| due <= now)
    }
}

impl DaysOf {
    fn hold(&self, day: NaiveDate) -> bool {
        match self {
            DaysOf::Month(days) => days.iter().any(|one| one.is(day)),
            DaysOf::Week(days) => days.iter().any(|one| one.is(day)),
        }
    }
}

impl MonthDay {
    fn is(self, day: NaiveDate) -> bool {
        let last = last_of_month(day);
        match self {
            MonthDay::Nth(nth) => day.day() == nth,
            MonthDay::Last => day.day() == last,
            // A month that has no such day has no weekday nearest to it.
            MonthDay::NearestWeekday(nth) => nth <= last && day.day() == nearest(day, nth, last),
            MonthDay::LastWeekday => day.day() == nearest(day, last, last),
        }
    }
}

/// The weekday nearest to the `nth` of the month of `day`, not leaving the month.
fn nearest(day: NaiveDate, nth: u32, last: u32) -> u32 {
    match day.with_day(nth).map(|at| at.weekday()) {
        Some(Weekday::Sat) if nth == 1 => 3,
        Some(Weekday::Sat) => nth - 1,
        Some(Weekday::Sun) if nth == last => nth - 2,
        Some(Weekday::Sun) => nth + 1,
        _ => nth,
    }
}

impl WeekDay {
    fn is(self, day: NaiveDate) -> bool {
        let weekday = day.weekday().number_from_sunday();
        match self {
            WeekDay::Every(wanted) => weekday == wanted,
            WeekDay::Last(wanted) => weekday == wanted && day.day() + 7 > last_of_month(day),
            WeekDay::Nth(wanted, nth) => weekday == wanted && day.day().div_ceil(7) == nth,
        }
    }
}

fn first_of_next_month(day: NaiveDate) -> Option<NaiveDate> {
    match day.month() {
        12 => NaiveDate::from_ymd_opt(day.year() + 1, 1, 1),
        month => NaiveDate::from_ymd_opt(day.year(), month + 1, 1),
    }
}

fn last_of_month(day: NaiveDate) -> u32 {
    let last = first_of_next_month(day).and_then(|first| first.pred_opt());
    last.map_or(31, |last| last.day())
}

impl FromStr for Schedule {
    type Err = Error;

    /// Reads `cron(...)`; [`base::ErrorKind::Invalid`] says which field is wrong and why.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::invalid(format!(
                "{text:?} is not a schedule: {why}; write cron(Minutes Hours Day-of-month Month \
                 Day-of-week Year), for example cron(15 12 * * ? *)"
            ))
        };
        if text.starts_with("rate(") || text.starts_with("at(") {
            return Err(bad("only cron expressions are"));
        }
        let inner = text.strip_prefix("cron(").and_then(|rest| rest.strip_suffix(')'));
        let inner = inner.ok_or_else(|| bad("it is not cron(...)"))?;
        let fields: Vec<&str> = inner.split_ascii_whitespace().collect();
        let [minutes, hours, month_days, months, week_days, years] = fields[..] else {
            return Err(bad(&format!("it has {} fields, not six", fields.len())));
        };
        let read = |field: &str, name: &str, range, names: &[&str]| {
            values(field, range, names).map_err(|why| bad(&format!("{name} {field:?}: {why}")))
        };
        let days = match (month_days, week_days) {
            ("?", "?") => return Err(bad("day of month and day of week are both \"?\"")),
            (field, "?") => DaysOf::Month(
                each(field, month_day)
                    .map_err(|why| bad(&format!("day of month {field:?}: {why}")))?,
            ),
            ("?", field) => DaysOf::Week(
                each(field, week_day)
                    .map_err(|why| bad(&format!("day of week {field:?}: {why}")))?,
            ),
            _ => return Err(bad("one of day of month and day of week has to be \"?\"")),
        };
        let schedule = Schedule {
            text: text.to_owned(),
            minutes: read(minutes, "minutes", (0, 59), &[])?,
            hours: read(hours, "hours", (0, 23), &[])?,
            days,
            months: read(months, "month", (1, 12), &MONTHS)?,
            years: read(years, "year", YEARS, &[])?,
        };
        if schedule.next_after(Timestamp(-1)).is_none() {
            return Err(bad("no day is one of these"));
        }
        Ok(schedule)
    }
}

impl TryFrom<String> for Schedule {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Schedule> for String {
    fn from(schedule: Schedule) -> String {
        schedule.text
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

type Why = String;

fn each<T>(
    field: &str,
    read: impl Fn(&str) -> std::result::Result<Vec<T>, Why>,
) -> std::result::Result<Vec<T>, Why> {
    let mut all = Vec::new();
    for part in field.split(',') {
        all.extend(read(part)?);
    }
    Ok(all)
}

fn month_day(part: &str) -> std::result::Result<Vec<MonthDay>, Why> {
    const RANGE: (u32, u32) = (1, 31);
    Ok(match part.to_ascii_uppercase().as_str() {
        "L" => vec![MonthDay::Last],
        "LW" => vec![MonthDay::LastWeekday],
        upper => match upper.strip_suffix('W') {
            Some(day) => vec![MonthDay::NearestWeekday(one(day, RANGE, &[])?)],
            None => values(part, RANGE, &[])?.into_iter().map(MonthDay::Nth).collect(),
        },
    })
}

fn week_day(part: &str) -> std::result::Result<Vec<WeekDay>, Why> {
    const RANGE: (u32, u32) = (1, 7);
    let upper = part.to_ascii_uppercase();
    if let Some((day, nth)) = upper.split_once('#') {
        return Ok(vec![WeekDay::Nth(one(day, RANGE, &WEEKDAYS)?, one(nth, (1, 5), &[])?)]);
    }
    Ok(match upper.strip_suffix('L') {
        // The last day of the week.
        Some("") => vec![WeekDay::Every(7)],
        Some(day) => vec![WeekDay::Last(one(day, RANGE, &WEEKDAYS)?)],
        None => values(part, RANGE, &WEEKDAYS)?.into_iter().map(WeekDay::Every).collect(),
    })
}

/// The values of a field of numbers, sorted: `*`, `5`, `1,2`, `1-5`, `0/15`, `*/2`, `1-9/2`.
fn values(field: &str, range: (u32, u32), names: &[&str]) -> std::result::Result<Vec<u32>, Why> {
    let mut all = Vec::new();
    for part in field.split(',') {
        let (span, step) = match part.split_once('/') {
            None => (part, None),
            Some((span, step)) => match step.parse::<u32>() {
                Ok(step @ 1..) => (span, Some(step)),
                _ => return Err(format!("{step:?} is not a step")),
            },
        };
        let (from, to) = match (span, span.split_once('-')) {
            ("*", _) => range,
            // What starts somewhere and has a step goes on to the end.
            (start, None) if step.is_some() => (one(start, range, names)?, range.1),
            (single, None) => {
                let single = one(single, range, names)?;
                (single, single)
            }
            (_, Some((from, to))) => (one(from, range, names)?, one(to, range, names)?),
        };
        let step = step.unwrap_or(1);
        let width = range.1 - range.0 + 1;
        // FRI-MON and 22-2 go around; years do not.
        let end = match from <= to {
            true => to,
            false if range == YEARS => return Err(format!("{from} comes after {to}")),
            false => to + width,
        };
        all.extend(
            (from..=end).step_by(step as usize).map(
                |at| {
                    if at > range.1 { at - width } else { at }
                },
            ),
        );
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

fn one(text: &str, (from, to): (u32, u32), names: &[&str]) -> std::result::Result<u32, Why> {
    if let Some(index) = names.iter().position(|name| name.eq_ignore_ascii_case(text)) {
        return Ok(from + u32::try_from(index).unwrap_or(0));
    }
    match text.parse::<u32>() {
        Ok(value) if (from..=to).contains(&value) && !text.starts_with('+') => Ok(value),
        _ => Err(format!("{text:?} is not one of {from} to {to}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp(DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis())
    }

    fn next(cron: &str, after: &str, count: usize) -> Vec<String> {
        let schedule: Schedule = cron.parse().unwrap();
        let mut now = at(after);
        let mut all = Vec::new();
        for _ in 0..count {
            let Some(due) = schedule.next_after(now) else { break };
            now = due;
            let text = DateTime::from_timestamp_millis(due.millis()).unwrap();
            all.push(text.format("%Y-%m-%dT%H:%M").to_string());
        }
        all
    }

    #[test]
    fn the_examples_of_glues_guide_are_due_when_it_says() {
        let start = "2024-01-31T10:00:30Z";
        for (cron, due) in [
            ("cron(0 10 * * ? *)", vec!["2024-02-01T10:00", "2024-02-02T10:00"]),
            ("cron(15 12 * * ? *)", vec!["2024-01-31T12:15", "2024-02-01T12:15"]),
            ("cron(0 18 ? * MON-FRI *)", vec!["2024-01-31T18:00", "2024-02-01T18:00"]),
            ("cron(0 8 1 * ? *)", vec!["2024-02-01T08:00", "2024-03-01T08:00"]),
            ("cron(0/15 * * * ? *)", vec!["2024-01-31T10:15", "2024-01-31T10:30"]),
            ("cron(0/10 * ? * MON-FRI *)", vec!["2024-01-31T10:10", "2024-01-31T10:20"]),
            ("cron(0/5 8-17 ? * MON-FRI *)", vec!["2024-01-31T10:05", "2024-01-31T10:10"]),
        ] {
            assert_eq!(next(cron, start, 2), due, "{cron}");
        }
    }

    #[test]
    fn last_nearest_and_nth_days_follow_the_calendar() {
        let start = "2024-01-01T00:00:00Z";
        for (cron, due) in [
            ("cron(0 0 L * ? *)", vec!["2024-01-31T00:00", "2024-02-29T00:00"]),
            // The 31st of March 2024 was a Sunday.
            ("cron(0 0 LW 3 ? *)", vec!["2024-03-29T00:00", "2025-03-31T00:00"]),
            // The 1st of June 2024 was a Saturday: the nearest weekday in June is the 3rd.
            ("cron(0 0 1W 6 ? *)", vec!["2024-06-03T00:00", "2025-06-02T00:00"]),
            ("cron(0 0 15W 6 ? *)", vec!["2024-06-14T00:00", "2025-06-16T00:00"]),
            // No 31st, no weekday near it.
            ("cron(0 0 31W 4,5 ? *)", vec!["2024-05-31T00:00", "2025-05-30T00:00"]),
            ("cron(0 0 ? * 6L *)", vec!["2024-01-26T00:00", "2024-02-23T00:00"]),
            ("cron(0 0 ? * FRIL *)", vec!["2024-01-26T00:00", "2024-02-23T00:00"]),
            ("cron(0 0 ? * 3#2 *)", vec!["2024-01-09T00:00", "2024-02-13T00:00"]),
            ("cron(0 0 ? * MON#5 *)", vec!["2024-01-29T00:00", "2024-04-29T00:00"]),
            ("cron(0 0 ? * L *)", vec!["2024-01-06T00:00", "2024-01-13T00:00"]),
            ("cron(0 0 29 2 ? *)", vec!["2024-02-29T00:00", "2028-02-29T00:00"]),
            ("cron(30 23 31 DEC ? 2199)", vec!["2199-12-31T23:30"]),
            ("cron(0 22-1/2 1 1 ? *)", vec!["2024-01-01T22:00", "2025-01-01T00:00"]),
            ("cron(0 0 ? * FRI-MON *)", vec!["2024-01-05T00:00", "2024-01-06T00:00"]),
            ("cron(7,3 4 10-12/2 */6 ? 2025/2)", vec!["2025-01-10T04:03", "2025-01-10T04:07"]),
        ] {
            assert_eq!(next(cron, start, 2), due, "{cron}");
        }
        assert_eq!(next("cron(0 0 1 1 ? 2020)", start, 1), [""; 0]);
    }

    #[test]
    fn a_moment_at_which_it_is_due_is_not_after_itself() {
        let minutely: Schedule = "cron(* * * * ? *)".parse().unwrap();
        let noon = at("2024-01-01T12:00:00Z");
        assert_eq!(minutely.next_after(noon), Some(at("2024-01-01T12:01:00Z")));
        assert_eq!(minutely.next_after(Timestamp(noon.0 - 1)), Some(noon));
        assert!(minutely.was_due(Timestamp(noon.0 - 1), noon));
        assert!(!minutely.was_due(noon, Timestamp(noon.0 + 59_999)));
        // Missed ten times: due.
        assert!(minutely.was_due(noon, Timestamp(noon.0 + 600_000)));
        assert_eq!(minutely.next_after(Timestamp(i64::MIN)), Some(Timestamp(0)));
        assert_eq!(minutely.next_after(Timestamp(i64::MAX)), None);
    }

    #[test]
    fn what_is_no_schedule_is_refused_by_name() {
        for (text, why) in [
            ("rate(5 minutes)", "only cron expressions are"),
            ("0 12 * * ? *", "it is not cron(...)"),
            ("cron(0 12 * * ?)", "it has 5 fields, not six"),
            ("cron(0 12 * * * *)", "one of day of month and day of week has to be \"?\""),
            ("cron(0 12 ? * ? *)", "day of month and day of week are both \"?\""),
            ("cron(60 12 * * ? *)", "minutes \"60\": \"60\" is not one of 0 to 59"),
            ("cron(0 24 * * ? *)", "hours \"24\""),
            ("cron(0 0 32W * ? *)", "day of month \"32W\""),
            ("cron(0 0 ? * 1#6 *)", "day of week \"1#6\""),
            ("cron(0 0 ? * XYZ *)", "\"XYZ\" is not one of 1 to 7"),
            ("cron(0 0 1 FOO ? *)", "month \"FOO\""),
            ("cron(0/0 0 1 * ? *)", "\"0\" is not a step"),
            ("cron(0 0 1 1 ? 2030-2020)", "2030 comes after 2020"),
            ("cron(0 0 31 2 ? *)", "no day is one of these"),
            ("cron(, 0 1 2 ? *)", "minutes \",\""),
        ] {
            let refused = text.parse::<Schedule>().unwrap_err().to_string();
            assert!(refused.contains(why), "{text}: {refused}");
        }
    }

    #[test]
    fn it_is_kept_as_it_was_written() {
        let schedule: Schedule = "cron(0 12 ? * mon-fri *)".parse().unwrap();
        let json = serde_json::to_string(&schedule).unwrap();
        assert_eq!(json, "\"cron(0 12 ? * mon-fri *)\"");
        assert_eq!(serde_json::from_str::<Schedule>(&json).unwrap(), schedule);
    }
}
