//! Time patterns, as Joda-Time and Java's DateTimeFormatter write them: `yyyy-MM-dd'T'HH:mm:ss`.
//!
//! One reading of a pattern serves `parse_time`, `time_to_epoch` and the prefixes of delivery
//! streams. Letters that the two libraries mean differently, or that need a locale, are refused.
//! Zones with names are those of the database that the program was built with.
//!
//! | letter | meaning | letter | meaning |
//! |---|---|---|---|
//! | `y` `u` | year | `s` | second |
//! | `M` | month, as text from three letters on | `S` | fraction of a second |
//! | `d` | day of month | `a` | AM or PM |
//! | `D` | day of year | `E` | day of week |
//! | `H` `k` | hour 0-23, 1-24 | `Z` `X` `z` `VV` | zone |
//! | `K` `h` | hour 0-11, 1-12 | `'` | quotes literal text |
//! | `m` | minute | `G` | era (AD) |

use base::Timestamp;
use chrono::{
    DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeDelta, TimeZone, Timelike,
};
use chrono_tz::{OffsetName, Tz};

/// Longest pattern.
const PATTERN_BYTES_MAX: usize = 256;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

/// A pattern, read once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimePattern(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    /// A letter and how often it stands in a row.
    Field(char, usize),
}

impl TimePattern {
    /// Reads `pattern`; the error says which letter is not known.
    pub fn parse(pattern: &str) -> Result<TimePattern, String> {
        if pattern.len() > PATTERN_BYTES_MAX {
            return Err(format!(
                "a time pattern has at most {PATTERN_BYTES_MAX} bytes, this one {}",
                pattern.len()
            ));
        }
        let mut pieces = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            if c == '\'' {
                push_literal(&mut pieces, &quoted(&mut chars, pattern)?);
            } else if c.is_ascii_alphabetic() {
                let mut count = 1;
                while chars.next_if_eq(&c).is_some() {
                    count += 1;
                }
                let known = "yuMdDHkKhmsSaEZXzGV".contains(c) && count <= count_max(c);
                let known = known && (c != 'V' || count == 2);
                if !known {
                    let letters = c.to_string().repeat(count);
                    return Err(format!("time pattern '{pattern}': '{letters}' is not supported"));
                }
                pieces.push(Piece::Field(c, count));
            } else {
                push_literal(&mut pieces, &c.to_string());
            }
        }
        Ok(TimePattern(pieces))
    }

    /// Writes the moment `at` as a clock `zone_secs` east of UTC shows it; `None` outside the
    /// calendar.
    pub fn format(&self, at: Timestamp, zone_secs: i32) -> Option<String> {
        self.format_in(at, Zone(Place::East(zone_secs)))
    }

    /// Writes the moment `at` as a clock in `zone` shows it; `None` outside the calendar.
    pub fn format_in(&self, at: Timestamp, zone: Zone) -> Option<String> {
        let utc = DateTime::from_timestamp_millis(at.millis())?.naive_utc();
        let (zone_secs, called) = zone.at(utc);
        let local = utc.checked_add_signed(TimeDelta::seconds(zone_secs.into()))?;
        let mut out = String::new();
        for piece in &self.0 {
            match (piece, zone.0) {
                (Piece::Literal(text), _) => out.push_str(text),
                (Piece::Field('z', _), Place::Named(_)) => out.push_str(&called),
                (Piece::Field('V', _), Place::Named(zone)) => out.push_str(zone.name()),
                (Piece::Field(letter, count), _) => {
                    out.push_str(&format_field(*letter, *count, local, zone_secs));
                }
            }
        }
        Some(out)
    }

    /// Reads `text`, taking UTC where it names no zone; `None` if it does not fit the pattern
    /// or is no date.
    pub fn read(&self, text: &str) -> Option<Timestamp> {
        let mut read = Read::default();
        let mut rest = text;
        for (index, piece) in self.0.iter().enumerate() {
            let next_is_digits = matches!(self.0.get(index + 1), Some(Piece::Field(letter, count)) if numeric(*letter, *count));
            rest = match piece {
                Piece::Literal(literal) => rest.strip_prefix(literal.as_str())?,
                Piece::Field(letter, count) => read.field(*letter, *count, next_is_digits, rest)?,
            };
        }
        if rest.is_empty() { read.finish() } else { None }
    }
}

/// A time zone: an offset from UTC, or a place whose clocks change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone(Place);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// So many seconds east of UTC.
    East(i32),
    Named(Tz),
}

impl Zone {
    /// Where the clocks show UTC.
    pub const UTC: Zone = Zone(Place::East(0));

    /// Reads `UTC`, `+02:00`, `UTC+02:00` or a name such as `Europe/Rome`.
    pub fn parse(text: &str) -> Option<Zone> {
        let behind = ["UTC", "GMT", "UT"].iter().find_map(|utc| text.strip_prefix(utc));
        let offset = behind.filter(|rest| rest.starts_with(['+', '-'])).unwrap_or(text);
        let named = || text.parse().ok().map(Place::Named);
        zone_offset_secs(offset).map(Place::East).or_else(named).map(Zone)
    }

    /// What its clocks show at a moment, as if that were UTC; `None` outside the calendar.
    pub fn wall_clock(self, at: Timestamp) -> Option<Timestamp> {
        let utc = DateTime::from_timestamp_millis(at.millis())?.naive_utc();
        Some(Timestamp(at.millis().checked_add(i64::from(self.at(utc).0) * 1000)?))
    }

    /// The moment at which its clocks show what `shown` is in UTC, the first of two; `None`
    /// outside the calendar.
    pub fn moment_of(self, shown: Timestamp) -> Option<Timestamp> {
        let local = DateTime::from_timestamp_millis(shown.millis())?.naive_utc();
        Some(Timestamp(self.utc(local)?.and_utc().timestamp_millis()))
    }

    /// How far its clocks are east of UTC at a moment, and how they are called then.
    fn at(self, utc: NaiveDateTime) -> (i32, String) {
        match self.0 {
            Place::East(secs) => (secs, String::new()),
            Place::Named(zone) => {
                let offset = zone.offset_from_utc_datetime(&utc);
                let called = offset.abbreviation().unwrap_or_default().to_owned();
                (offset.fix().local_minus_utc(), called)
            }
        }
    }

    /// The moment at which its clocks show `local`: the first of two; where they skip it, as much
    /// later as they skip.
    fn utc(self, local: NaiveDateTime) -> Option<NaiveDateTime> {
        let secs = match self.0 {
            Place::East(secs) => secs,
            Place::Named(zone) => match zone.offset_from_local_datetime(&local).earliest() {
                Some(offset) => offset.fix().local_minus_utc(),
                None => self.at(local.checked_sub_signed(TimeDelta::days(1))?).0,
            },
        };
        local.checked_sub_signed(TimeDelta::seconds(secs.into()))
    }
}

/// Seconds east of UTC of a zone: `UTC`, `GMT`, `Z`, or an offset such as `+02:00`.
fn zone_offset_secs(zone: &str) -> Option<i32> {
    if ["UTC", "GMT", "Z"].iter().any(|utc| zone.eq_ignore_ascii_case(utc)) {
        return Some(0);
    }
    let (sign, digits) = match zone.as_bytes().first()? {
        b'+' => (1, &zone[1..]),
        b'-' => (-1, &zone[1..]),
        _ => return None,
    };
    let (hours, minutes) = match digits.len() {
        2 => (digits, "00"),
        4 => digits.split_at_checked(2)?,
        5 => digits.split_once(':')?,
        _ => return None,
    };
    if hours.len() != 2 || !digits.bytes().all(|b| b.is_ascii_digit() || b == b':') {
        return None;
    }
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours <= 18 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

fn count_max(letter: char) -> usize {
    match letter {
        'y' | 'u' => 6,
        'S' => 9,
        'M' | 'E' => 4,
        'D' | 'X' => 3,
        'Z' | 'd' | 'H' | 'k' | 'K' | 'h' | 'm' | 's' | 'V' => 2,
        _ => 1,
    }
}

fn numeric(letter: char, count: usize) -> bool {
    match letter {
        'M' => count <= 2,
        _ => "yudDHkKhmsS".contains(letter),
    }
}

/// Reads quoted text after its opening quote; two quotes are one.
fn quoted(
    chars: &mut std::iter::Peekable<std::str::Chars<'_>>,
    pattern: &str,
) -> Result<String, String> {
    let mut text = String::new();
    if chars.next_if_eq(&'\'').is_some() {
        return Ok("'".to_owned());
    }
    loop {
        match chars.next() {
            None => return Err(format!("time pattern '{pattern}': a quote is not closed")),
            Some('\'') if chars.next_if_eq(&'\'').is_some() => text.push('\''),
            Some('\'') => return Ok(text),
            Some(c) => text.push(c),
        }
    }
}

fn push_literal(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        Some(Piece::Literal(last)) => last.push_str(text),
        _ => pieces.push(Piece::Literal(text.to_owned())),
    }
}

fn format_field(letter: char, count: usize, local: NaiveDateTime, zone_secs: i32) -> String {
    let hour = local.hour();
    let hour12 = hour % 12;
    let padded = |number: u32| format!("{number:0count$}");
    match letter {
        'y' | 'u' if count == 2 => format!("{:02}", local.year().rem_euclid(100)),
        'y' | 'u' => format!("{:0count$}", local.year()),
        'M' if count > 2 => name(MONTHS[local.month0() as usize], count),
        'M' => padded(local.month()),
        'd' => padded(local.day()),
        'D' => padded(local.ordinal()),
        'E' => name(DAYS[local.weekday().num_days_from_monday() as usize], count),
        'H' => padded(hour),
        'k' => padded(if hour == 0 { 24 } else { hour }),
        'K' => padded(hour12),
        'h' => padded(if hour12 == 0 { 12 } else { hour12 }),
        'm' => padded(local.minute()),
        's' => padded(local.second()),
        'S' => format!("{:09}", local.nanosecond()).chars().take(count).collect(),
        'a' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
        'G' => "AD".to_owned(),
        'z' | 'V' if zone_secs == 0 => "UTC".to_owned(),
        'X' if zone_secs == 0 => "Z".to_owned(),
        _ => format_zone(letter, count, zone_secs),
    }
}

fn name(whole: &str, count: usize) -> String {
    if count >= 4 { whole } else { &whole[..3] }.to_owned()
}

fn format_zone(letter: char, count: usize, zone_secs: i32) -> String {
    let sign = if zone_secs < 0 { '-' } else { '+' };
    let (hours, minutes) = (zone_secs.abs() / 3600, zone_secs.abs() / 60 % 60);
    match (letter, count) {
        ('X', 1) if minutes == 0 => format!("{sign}{hours:02}"),
        ('X', 1 | 2) | ('Z', 1) => format!("{sign}{hours:02}{minutes:02}"),
        _ => format!("{sign}{hours:02}:{minutes:02}"),
    }
}

/// What has been read of a text so far.
#[derive(Default)]
struct Read {
    year: Option<i32>,
    month: Option<u32>,
    day: Option<u32>,
    day_of_year: Option<u32>,
    weekday: Option<usize>,
    hour: Option<u32>,
    hour12: Option<u32>,
    afternoon: Option<bool>,
    minute: u32,
    second: u32,
    nanos: u32,
    zone: Option<Zone>,
}

impl Read {
    /// Reads one field off the front of `text` and returns the rest.
    fn field<'t>(
        &mut self,
        letter: char,
        count: usize,
        next_is_digits: bool,
        text: &'t str,
    ) -> Option<&'t str> {
        if !numeric(letter, count) {
            return self.word(letter, count, text);
        }
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        // A lone letter takes what there is, unless other digits follow.
        let width = match count {
            1 if !next_is_digits && "yu".contains(letter) => digits.min(6),
            1 if !next_is_digits => digits.min(if letter == 'D' { 3 } else { 2 }),
            _ => count,
        };
        if width == 0 || digits < width {
            return None;
        }
        let (field, rest) = text.split_at(width);
        let number: u32 = field.parse().ok()?;
        match letter {
            'y' | 'u' if count == 2 => self.year = Some(2000 + number as i32),
            'y' | 'u' => self.year = Some(i32::try_from(number).ok()?),
            'M' => self.month = Some(number),
            'd' => self.day = Some(number),
            'D' => self.day_of_year = Some(number),
            'H' => self.hour = Some(number),
            'k' => self.hour = Some(if number == 24 { 0 } else { number }),
            'h' | 'K' if number <= 12 => self.hour12 = Some(number % 12),
            'm' => self.minute = number,
            's' => self.second = number,
            'S' => self.nanos = number.checked_mul(10_u32.pow(9_u32.checked_sub(width as u32)?))?,
            _ => return None,
        }
        Some(rest)
    }

    fn word<'t>(&mut self, letter: char, count: usize, text: &'t str) -> Option<&'t str> {
        let strip = |word: &str| {
            let (start, rest) = text.split_at_checked(word.len())?;
            start.eq_ignore_ascii_case(word).then_some(rest)
        };
        let find = |names: &[&str]| {
            names.iter().enumerate().find_map(|(i, whole)| Some((i, strip(&name(whole, count))?)))
        };
        match letter {
            'M' => {
                let (index, rest) = find(&MONTHS)?;
                self.month = Some(index as u32 + 1);
                Some(rest)
            }
            'E' => {
                let (index, rest) = find(&DAYS)?;
                self.weekday = Some(index);
                Some(rest)
            }
            'a' => {
                self.afternoon = Some(strip("PM").is_some());
                strip("PM").or_else(|| strip("AM"))
            }
            'G' => strip("AD"),
            _ => {
                let is_zone = |c: char| c.is_ascii_alphanumeric() || "+-:/_".contains(c);
                let end = text.find(|c| !is_zone(c)).unwrap_or(text.len());
                self.zone = Some(Zone::parse(&text[..end])?);
                Some(&text[end..])
            }
        }
    }

    fn finish(self) -> Option<Timestamp> {
        let date = match (self.month, self.day_of_year) {
            (None, Some(day)) => NaiveDate::from_yo_opt(self.year?, day)?,
            (month, _) => {
                NaiveDate::from_ymd_opt(self.year?, month.unwrap_or(1), self.day.unwrap_or(1))?
            }
        };
        let weekday = date.weekday().num_days_from_monday() as usize;
        if self.weekday.is_some_and(|named| named != weekday) {
            return None;
        }
        let hour = match (self.hour, self.hour12) {
            (Some(hour), _) => hour,
            (None, Some(hour)) => hour + if self.afternoon? { 12 } else { 0 },
            (None, None) => 0,
        };
        let time = NaiveTime::from_hms_nano_opt(hour, self.minute, self.second, self.nanos)?;
        let at = self.zone.unwrap_or(Zone::UTC).utc(NaiveDateTime::new(date, time))?;
        Some(Timestamp(at.and_utc().timestamp_millis()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // 2016-12-09T22:19:00.123Z, a Friday.
    const AT: Timestamp = Timestamp(1_481_321_940_123);

    #[test]
    fn moments_are_written_as_the_pattern_says() {
        let check = |pattern: &str, zone: i32, expect: &str| {
            let pattern = TimePattern::parse(pattern).unwrap();
            assert_eq!(pattern.format(AT, zone).unwrap(), expect);
        };
        check("yyyy-MM-dd HH:mm:ss", 0, "2016-12-09 22:19:00");
        check("yyyy.MM.dd G 'at' HH:mm:ss z", 0, "2016.12.09 AD at 22:19:00 UTC");
        check("yyyy-MM-dd'T'HH:mm:ss.SSSZ", 7200, "2016-12-10T00:19:00.123+0200");
        check("yyyy-MM-dd'T'HH:mm:ssXXX", -12_600, "2016-12-09T18:49:00-03:30");
        check("EEE, d MMM yy h:mm a", 0, "Fri, 9 Dec 16 10:19 PM");
        check("EEEE MMMM D k K", 0, "Friday December 344 22 10");
        check("yyyy'year'''''", 0, "2016year''");
        check("ssX", 0, "00Z");
    }

    #[test]
    fn clocks_of_places_change_with_the_season() {
        let check = |pattern: &str, zone: &str, text: &str, reads: &str| {
            let (pattern, zone) =
                (TimePattern::parse(pattern).unwrap(), Zone::parse(zone).unwrap());
            let at = pattern.read(text).unwrap();
            assert_eq!(pattern.format_in(at, zone).unwrap(), reads);
        };
        let pattern = "yyyy-MM-dd HH:mm VV";
        check(pattern, "Europe/Rome", "2026-01-01 12:00 UTC", "2026-01-01 13:00 Europe/Rome");
        check(pattern, "Europe/Rome", "2026-07-01 12:00 Z", "2026-07-01 14:00 Europe/Rome");
        check(pattern, "UTC", "2026-07-01 14:00 Europe/Rome", "2026-07-01 12:00 UTC");
        check(pattern, "UTC+02:00", "2026-07-01 14:00 GMT-01:00", "2026-07-01 17:00 +02:00");
        // 02:30 comes twice on the one day and not at all on the other.
        check(pattern, "UTC", "2026-10-25 02:30 Europe/Rome", "2026-10-25 00:30 UTC");
        check(pattern, "UTC", "2026-03-29 02:30 Europe/Rome", "2026-03-29 01:30 UTC");
        check("yyyy HH:mm z", "America/Belize", "2026 12:00 UTC", "2026 06:00 CST");
    }

    #[test]
    fn texts_are_read_as_the_pattern_says() {
        let check = |pattern: &str, text: &str, expect: Option<i64>| {
            let read = TimePattern::parse(pattern).unwrap().read(text);
            assert_eq!(read.map(Timestamp::millis), expect, "{text} by {pattern}");
        };
        check("yyyy-MM-dd HH:mm:ss", "2016-12-09 22:19:00", Some(1_481_321_940_000));
        check(
            "yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
            "2016-12-10T00:19:00.123+02:00",
            Some(1_481_321_940_123),
        );
        check("yyyyMMddHHmmss", "20161209221900", Some(1_481_321_940_000));
        check("EEE, d MMM yyyy h:mm a z", "Fri, 9 Dec 2016 10:19 PM UTC", Some(1_481_321_940_000));
        check("EEE, d MMM yyyy", "Mon, 9 Dec 2016", None);
        check("yyyy-MM-dd", "2016-12-09", Some(1_481_241_600_000));
        check("yyyy-D", "2016-344", Some(1_481_241_600_000));
        check("yyyy-MM-dd", "2016-02-30", None);
        check("yyyy-MM-dd", "2016-12-09x", None);
        check("yyyy-MM-dd", "2016-12-", None);
        check("yyyy-MM-dd", "", None);
        check("HH:mm", "22:19", None);
        check("yyyy é", "2016 é", Some(1_451_606_400_000));
    }

    #[test]
    fn unknown_letters_open_quotes_and_odd_zones_are_refused() {
        for pattern in
            ["yyyy-ww", "YYYY", "V", "VVV", "'open", "SSSSSSSSSS", "nn", &"y".repeat(300)]
        {
            assert!(TimePattern::parse(pattern).is_err(), "{pattern}");
        }
        assert_eq!(zone_offset_secs("+05:30"), Some(19_800));
        assert_eq!(zone_offset_secs("-0800"), Some(-28_800));
        for zone in ["Europe/Nowhere", "UTC+", "UTC1", "europe/rome"] {
            assert_eq!(Zone::parse(zone), None, "{zone}");
        }
        for zone in ["Europe/Berlin", "+", "+1", "+25:00", "+01:60", "+é", "+1:000", "+0a:00"] {
            assert_eq!(zone_offset_secs(zone), None, "{zone}");
        }
    }
}
