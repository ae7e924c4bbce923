//! Times: their parts, their arithmetic, and their texts in three manners: ISO 8601, MySQL's
//! `%` patterns, and Joda's letters, which are those of rules.

use base::Timestamp;
use chrono::{DateTime, Datelike, Months, NaiveDate, NaiveDateTime, Timelike};
use rules::sql::{TimePattern, Zone};

use super::Kind::{Double, Int, Moment, Optional, Text};
use super::{Gives, Memory, Out, Outcome, Row, Value, row};

/// Milliseconds of a day.
pub(super) const DAY: i64 = 86_400_000;

pub(super) const ROWS: &[Row] = &[
    row("from_iso8601_timestamp", &[Text], Gives::Moment, from_iso8601_timestamp),
    row("from_iso8601_date", &[Text], Gives::Date, from_iso8601_date),
    row("to_iso8601", &[Moment], Gives::Text, to_iso8601),
    row("from_unixtime", &[Double, Optional, Text], Gives::Moment, from_unixtime),
    row("to_unixtime", &[Moment], Gives::Double, |_, args| {
        Ok(Some(Out::Double(args[0].int() as f64 / 1000.0)))
    }),
    row("date_parse", &[Text, Text], Gives::Moment, date_parse),
    row("date_format", &[Moment, Text], Gives::Text, date_format),
    row("parse_datetime", &[Text, Text], Gives::Moment, parse_datetime),
    row("format_datetime", &[Moment, Text], Gives::Text, format_datetime),
    row("date_add", &[Text, Int, Moment], Gives::MomentLike(2), date_add),
    row("date_diff", &[Text, Moment, Moment], Gives::Int, date_diff),
    row("at_timezone", &[Moment, Text], Gives::Moment, at_timezone),
    row("with_timezone", &[Moment, Text], Gives::Moment, with_timezone),
    row("last_day_of_month", &[Moment], Gives::Date, last_day_of_month),
    row("year", &[Moment], Gives::Int, |_, args| part(args, |at| at.year().into())),
    row("quarter", &[Moment], Gives::Int, |_, args| part(args, |at| at.quarter().into())),
    row("month", &[Moment], Gives::Int, |_, args| part(args, |at| at.month().into())),
    row("week", &[Moment], Gives::Int, |_, args| part(args, |at| at.iso_week().week().into())),
    row("week_of_year", &[Moment], Gives::Int, |_, args| {
        part(args, |at| at.iso_week().week().into())
    }),
    row("year_of_week", &[Moment], Gives::Int, |_, args| {
        part(args, |at| at.iso_week().year().into())
    }),
    row("yow", &[Moment], Gives::Int, |_, args| part(args, |at| at.iso_week().year().into())),
    row("day", &[Moment], Gives::Int, |_, args| part(args, |at| at.day().into())),
    row("day_of_month", &[Moment], Gives::Int, |_, args| part(args, |at| at.day().into())),
    row("day_of_week", &[Moment], Gives::Int, |_, args| part(args, weekday)),
    row("dow", &[Moment], Gives::Int, |_, args| part(args, weekday)),
    row("day_of_year", &[Moment], Gives::Int, |_, args| part(args, |at| at.ordinal().into())),
    row("doy", &[Moment], Gives::Int, |_, args| part(args, |at| at.ordinal().into())),
    row("hour", &[Moment], Gives::Int, |_, args| part(args, |at| at.hour().into())),
    row("minute", &[Moment], Gives::Int, |_, args| part(args, |at| at.minute().into())),
    row("second", &[Moment], Gives::Int, |_, args| part(args, |at| at.second().into())),
    row("millisecond", &[Moment], Gives::Int, |_, args| {
        part(args, |at| (at.nanosecond() / 1_000_000).into())
    }),
];

/// Monday is 1, Sunday 7.
fn weekday(at: NaiveDateTime) -> i64 {
    at.weekday().number_from_monday().into()
}

fn calendar(millis: i64) -> Result<NaiveDateTime, String> {
    DateTime::from_timestamp_millis(millis)
        .map(|at| at.naive_utc())
        .ok_or_else(|| format!("{millis} ms is outside the calendar"))
}

fn millis(at: NaiveDateTime) -> i64 {
    at.and_utc().timestamp_millis()
}

fn moment(millis: i64) -> Outcome {
    Ok(Some(Out::Int(millis)))
}

fn part(args: &[Value<'_>], of: impl Fn(NaiveDateTime) -> i64) -> Outcome {
    Ok(Some(Out::Int(of(calendar(args[0].int())?))))
}

fn from_iso8601_timestamp(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let text = args[0].text();
    arrow::compute::kernels::cast_utils::string_to_datetime(&chrono::Utc, text)
        .map(|moment| Some(Out::Int(moment.timestamp_millis())))
        .map_err(|cause| format!("{text:?} is no ISO 8601 timestamp: {cause}"))
}

/// `2020-05-11`, `2020-W20-1` and `2020-132`.
fn from_iso8601_date(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let text = args[0].text();
    let date = ["%Y-%m-%d", "%G-W%V-%u", "%Y-%j"]
        .iter()
        .find_map(|pattern| NaiveDate::parse_from_str(text, pattern).ok())
        .ok_or_else(|| format!("{text:?} is no ISO 8601 date"))?;
    moment(millis(date.into()))
}

fn to_iso8601(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let at = calendar(args[0].int())?;
    Ok(Some(Out::Text(at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())))
}

fn from_unixtime(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let millis = (args[0].double() * 1000.0).round();
    // What a timestamp holds at most, and what fits the calendar, is far below 2^53.
    if !millis.is_finite() || millis.abs() > 8.0e15 {
        return Err(format!("{} s is outside the calendar", args[0].double()));
    }
    match args.get(1) {
        None => moment(millis as i64),
        Some(zone) => local(millis as i64, zone.text()),
    }
}

fn zone(name: &str) -> Result<Zone, String> {
    Zone::parse(name).ok_or_else(|| {
        format!("{name:?} is no time zone; write UTC, +02:00 or a name such as Europe/Rome")
    })
}

/// What a clock in a zone shows at a moment.
fn local(at: i64, name: &str) -> Outcome {
    let shown = zone(name)?.wall_clock(Timestamp(at));
    shown.map(|at| Some(Out::Int(at.millis()))).ok_or_else(|| outside(at))
}

fn outside(at: i64) -> String {
    format!("{at} ms is outside the calendar")
}

fn at_timezone(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    local(args[0].int(), args[1].text())
}

/// The moment at which a clock in a zone shows a time.
fn with_timezone(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let shown = args[0].int();
    let at = zone(args[1].text())?.moment_of(Timestamp(shown));
    at.map(|at| Some(Out::Int(at.millis()))).ok_or_else(|| outside(shown))
}

fn last_day_of_month(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let at = calendar(args[0].int())?.date();
    let next = at.with_day(1).and_then(|first| first.checked_add_months(Months::new(1)));
    let last = next.and_then(|next| next.pred_opt()).ok_or_else(|| outside(args[0].int()))?;
    moment(millis(last.into()))
}

/// A pattern as it was written, read once.
fn pattern<'m>(
    memory: &'m mut Memory,
    text: &str,
    read: fn(&str) -> Result<TimePattern, String>,
) -> Result<&'m TimePattern, String> {
    if memory.pattern.as_ref().is_none_or(|(known, _)| known != text) {
        memory.pattern = Some((text.to_owned(), read(text)?));
    }
    memory.pattern.as_ref().map(|(_, pattern)| pattern).ok_or_else(|| "no pattern".into())
}

fn written(pattern: &TimePattern, at: i64) -> Outcome {
    let text = pattern.format(Timestamp(at), 0).ok_or_else(|| outside(at))?;
    Ok(Some(Out::Text(text)))
}

fn read(pattern: &TimePattern, text: &str, wanted: &str) -> Outcome {
    match pattern.read(text) {
        Some(at) => moment(at.millis()),
        None => Err(format!("{text:?} does not fit the pattern {wanted:?}")),
    }
}

fn date_format(memory: &mut Memory, args: &[Value<'_>]) -> Outcome {
    written(pattern(memory, args[1].text(), mysql)?, args[0].int())
}

fn date_parse(memory: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let wanted = args[1].text();
    read(pattern(memory, wanted, mysql)?, args[0].text(), wanted)
}

fn format_datetime(memory: &mut Memory, args: &[Value<'_>]) -> Outcome {
    written(pattern(memory, args[1].text(), TimePattern::parse)?, args[0].int())
}

fn parse_datetime(memory: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let wanted = args[1].text();
    read(pattern(memory, wanted, TimePattern::parse)?, args[0].text(), wanted)
}

/// A pattern of MySQL in Joda's letters.
fn mysql(text: &str) -> Result<TimePattern, String> {
    let mut letters = String::new();
    let mut chars = text.chars();
    while let Some(letter) = chars.next() {
        if letter != '%' {
            quote(&mut letters, letter);
            continue;
        }
        letters.push_str(match chars.next() {
            Some('Y') => "yyyy",
            Some('y') => "yy",
            Some('m') => "MM",
            Some('c') => "M",
            Some('b') => "MMM",
            Some('M') => "MMMM",
            Some('d') => "dd",
            Some('e') => "d",
            Some('j') => "DDD",
            Some('a') => "EEE",
            Some('W') => "EEEE",
            Some('H') => "HH",
            Some('k') => "H",
            Some('h' | 'I') => "hh",
            Some('l') => "h",
            Some('i') => "mm",
            Some('s' | 'S') => "ss",
            Some('f') => "SSSSSS",
            Some('p') => "a",
            Some('T') => "HH:mm:ss",
            Some('r') => "hh:mm:ss a",
            Some('%') => "%",
            other => {
                let other = other.map(String::from).unwrap_or_default();
                return Err(format!("the pattern {text:?} has %{other}, which is not supported"));
            }
        });
    }
    TimePattern::parse(&letters)
}

/// A letter that stands for itself, within the quotes of those before it if there are any.
fn quote(letters: &mut String, letter: char) {
    match letter {
        '\'' => letters.push_str("''"),
        letter if letter.is_ascii_alphabetic() => {
            // What ends with a quote so far ends a quoted text, as no pattern does.
            if letters.ends_with('\'') && !letters.ends_with("''") {
                letters.pop();
            } else {
                letters.push('\'');
            }
            letters.push(letter);
            letters.push('\'');
        }
        letter => letters.push(letter),
    }
}

/// A unit of time: so many milliseconds, or so many months.
enum Unit {
    Millis(i64),
    Months(i64),
}

fn unit(name: &str) -> Result<Unit, String> {
    Ok(match name.to_ascii_lowercase().as_str() {
        "millisecond" => Unit::Millis(1),
        "second" => Unit::Millis(1_000),
        "minute" => Unit::Millis(60_000),
        "hour" => Unit::Millis(3_600_000),
        "day" => Unit::Millis(DAY),
        "week" => Unit::Millis(7 * DAY),
        "month" => Unit::Months(1),
        "quarter" => Unit::Months(3),
        "year" => Unit::Months(12),
        _ => {
            return Err(format!(
                "{name:?} is no unit; use millisecond, second, minute, hour, day, week, month, \
                 quarter or year"
            ));
        }
    })
}

fn date_add(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let (count, at) = (args[1].int(), args[2].int());
    let sum = match unit(args[0].text())? {
        Unit::Millis(millis) => millis.checked_mul(count).and_then(|more| at.checked_add(more)),
        Unit::Months(months) => months
            .checked_mul(count)
            .and_then(|months| shifted(calendar(at).ok()?, months))
            .map(millis),
    };
    sum.map(|at| Some(Out::Int(at))).ok_or_else(|| format!("{count} more is outside the calendar"))
}

/// Months later or earlier; where the month is shorter, its last day.
fn shifted(at: NaiveDateTime, months: i64) -> Option<NaiveDateTime> {
    let by = Months::new(u32::try_from(months.unsigned_abs()).ok()?);
    if months < 0 { at.checked_sub_months(by) } else { at.checked_add_months(by) }
}

/// Whole units from the first moment to the second.
fn date_diff(_: &mut Memory, args: &[Value<'_>]) -> Outcome {
    let (from, to) = (args[1].int(), args[2].int());
    let whole = match unit(args[0].text())? {
        Unit::Millis(millis) => to.checked_sub(from).ok_or_else(|| outside(to))? / millis,
        Unit::Months(months) => {
            let (first, last) = (calendar(from)?, calendar(to)?);
            let years = i64::from(last.year()) - i64::from(first.year());
            let mut count = years * 12 + i64::from(last.month()) - i64::from(first.month());
            // The last month does not count until its day and time have come.
            let reached = shifted(first, count).ok_or_else(|| outside(to))?;
            if count > 0 && reached > last {
                count -= 1;
            } else if count < 0 && reached < last {
                count += 1;
            }
            count / months
        }
    };
    moment(whole)
}
