//! Dates and ISO 8601 timestamps, as numbers since 1970.

use arrow::datatypes::TimeUnit;

/// Days since 1970-01-01 of `2013-03-01`.
pub(super) fn date(text: &[u8]) -> Option<i64> {
    let (days, rest) = day(text)?;
    rest.is_empty().then_some(days)
}

/// Units since 1970 of `2013-03-01T10:00[:00[.123456]][Z|+08:00|+0800]`; a blank may stand
/// for the `T`, and a date alone is its midnight. Without a zone it is UTC; finer digits than
/// the unit holds are cut.
pub(super) fn timestamp(text: &[u8], unit: TimeUnit) -> Option<i64> {
    let (days, rest) = day(text)?;
    let (seconds, nanos) = match rest {
        [] => (0, 0),
        [b'T' | b't' | b' ', clock @ ..] => time_of_day(clock)?,
        _ => return None,
    };
    let seconds = days * 86_400 + seconds;
    let (per_second, nanos_each) = match unit {
        TimeUnit::Second => (1, 1_000_000_000),
        TimeUnit::Millisecond => (1_000, 1_000_000),
        TimeUnit::Microsecond => (1_000_000, 1_000),
        TimeUnit::Nanosecond => (1_000_000_000, 1),
    };
    seconds.checked_mul(per_second)?.checked_add(nanos / nanos_each)
}

fn day(text: &[u8]) -> Option<(i64, &[u8])> {
    let (year, rest) = digits(text, 4)?;
    let (month, rest) = digits(rest.strip_prefix(b"-")?, 2)?;
    let (day, rest) = digits(rest.strip_prefix(b"-")?, 2)?;
    let valid = (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
    valid.then(|| (days_since_epoch(year, month, day), rest))
}

fn digits(text: &[u8], count: usize) -> Option<(i64, &[u8])> {
    let (digits, rest) = text.split_at_checked(count)?;
    let mut value = 0;
    for digit in digits {
        value = value * 10 + i64::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?);
    }
    Some((value, rest))
}

fn days_in(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Counts days with the year starting in March, so that a leap day comes last.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month < 3);
    let month = (month + 9) % 12;
    let day_of_year = (month * 153 + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year
        - 719_468
}

/// Seconds of the day less the zone's offset, and nanoseconds.
fn time_of_day(text: &[u8]) -> Option<(i64, i64)> {
    let (hour, rest) = digits(text, 2)?;
    let (minute, mut rest) = digits(rest.strip_prefix(b":")?, 2)?;
    let (mut second, mut nanos) = (0, 0);
    if let Some(seconds) = rest.strip_prefix(b":") {
        (second, rest) = digits(seconds, 2)?;
        if let Some(fraction) = rest.strip_prefix(b".") {
            (nanos, rest) = nanoseconds(fraction)?;
        }
    }
    // A leap second is the first moment of the next minute, as POSIX time has it.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some((hour * 3600 + minute * 60 + second - zone(rest)?, nanos))
}

fn nanoseconds(text: &[u8]) -> Option<(i64, &[u8])> {
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 {
        return None;
    }
    let nanos = (0..9).fold(0, |nanos, place| {
        nanos * 10 + if place < count { i64::from(text[place] - b'0') } else { 0 }
    });
    Some((nanos, &text[count..]))
}

fn zone(text: &[u8]) -> Option<i64> {
    let (sign, clock) = match text {
        [] | [b'Z' | b'z'] => return Some(0),
        [b'+', clock @ ..] => (1, clock),
        [b'-', clock @ ..] => (-1, clock),
        _ => return None,
    };
    let (hours, rest) = digits(clock, 2)?;
    let minutes = match rest.strip_prefix(b":").unwrap_or(rest) {
        [] => 0,
        minutes => digits(minutes, 2).filter(|(_, rest)| rest.is_empty())?.0,
    };
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_read_as_the_calendar_says() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("1970-01-01", Some(0)),
            ("2013-03-01 00:00:00", Some(1_362_096_000_000)),
            ("2016-02-29T23:59:59.9996Z", Some(1_456_790_399_999)),
            ("2013-03-01T08:00+08:00", Some(1_362_096_000_000)),
            ("2013-02-28T19:30:00-0430", Some(1_362_096_000_000)),
            ("1969-12-31T23:59:59.5Z", Some(-500)),
            ("0000-03-01T00:00:00Z", Some(-62_162_035_200_000)),
            ("2015-02-29", None),
            ("2013-13-01", None),
            ("2013-03-01T24:00:00", None),
            ("2013-03-01T10", None),
            ("2013-03-01T10:00:00.Z", None),
            ("2013-03-01T10:00:00 Z", None),
            ("13-03-01", None),
            ("", None),
        ] {
            assert_eq!(timestamp(text.as_bytes(), TimeUnit::Millisecond), millis, "{text}");
        }
        assert_eq!(date(b"2000-03-01"), Some(11_017));
        assert_eq!(date(b"2000-03-01T00:00"), None);
        // Beyond what nanoseconds of an i64 reach.
        assert_eq!(timestamp(b"2300-01-01", TimeUnit::Nanosecond), None);
    }
}
