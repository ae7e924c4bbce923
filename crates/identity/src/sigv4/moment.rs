//! `YYYYMMDDTHHMMSSZ` to and from seconds since 1970.

use base::Timestamp;

const DAY_SECS: i64 = 24 * 3600;

/// A moment as `X-Amz-Date` has it.
pub fn amz_date(at: Timestamp) -> String {
    let secs = at.millis().div_euclid(1000);
    let (year, month, day) = civil(secs.div_euclid(DAY_SECS));
    let of_day = secs.rem_euclid(DAY_SECS);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// Seconds since 1970; `None` unless `text` is exactly such a moment.
pub(super) fn read(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() != 16 || bytes[8] != b'T' || bytes[15] != b'Z' {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<i64> {
        bytes[from..to].iter().try_fold(0, |number, digit| {
            digit.is_ascii_digit().then(|| number * 10 + i64::from(digit - b'0'))
        })
    };
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let (hour, minute, second) = (number(9, 11)?, number(11, 13)?, number(13, 15)?);
    let days = days(year, month, day);
    if civil(days) != (year, month, day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Some(days * DAY_SECS + hour * 3600 + minute * 60 + second)
}

/// Days since 1970 of a day of the Gregorian calendar. Years begin in March here, so that the
/// day that not every year has is the last one.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_comes_back() {
        for day in (-20_000..40_000).step_by(7) {
            let at = day * DAY_SECS + 86_399;
            assert_eq!(read(&amz_date(Timestamp(at * 1000))), Some(at));
        }
        assert_eq!(read("20150830T123600Z"), Some(1_440_938_160));
        assert_eq!(read("20240229T000000Z"), Some(1_709_164_800));
        for wrong in
            ["", "20230229T000000Z", "20240101T240000Z", "20240101 000000Z", "2024é101T00000Z"]
        {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
