//! Retention: files of a table beyond an age or a size are taken out of it, oldest first.
//!
//! A folder's time is what its partition says (`year`, `month`, `day`, `hour`, or one value that
//! is a date); where it says nothing, a file's time is that of its object. Whole partitions go
//! where the partition says the time, so that no day is left with half of its readings.

use std::collections::BTreeMap;

use base::{Error, ErrorKind, Result, Timestamp};
use metastore::Row;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::catalog::table_key;
use crate::commits::{CommitKind, TableCommit};
use crate::compact::{ID_START, modified_at};
use crate::swap::{Gone, PreparedSwap};
use crate::{Lake, Table, TableFile};

/// Parameters of a table that say what is kept, where [`Lake::set_retention`] did not: AWS's
/// clients set parameters.
const DAYS: &str = "forebay.retention.days";
const BYTES: &str = "forebay.retention.bytes";
const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
/// Longest age that can be asked for: a hundred years.
const DAYS_MAX: u64 = 36_525;

/// What of a table is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Files older than this go.
    pub days: Option<u64>,
    /// The oldest go until the rest is no more than this.
    pub bytes: Option<u64>,
}

/// A folder whose files were taken out, or left with why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Expired {
    /// The folder.
    pub folder: String,
    /// Files taken out.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Why they were, or were not.
    pub why: String,
    /// The commit, for a table that has commits.
    pub commit: Option<TableCommit>,
}

impl Row for Retention {
    const TABLE: &'static str = "table_retentions";
}

impl Retention {
    fn check(self, table: &Table) -> Result<Retention> {
        let bad = |why: String| {
            Err(Error::invalid(format!("retention of table {:?}: {why}", table.name)))
        };
        match self {
            Retention { days: Some(days), .. } if days == 0 || days > DAYS_MAX => {
                bad(format!("{days} days; use 1 to {DAYS_MAX}"))
            }
            Retention { bytes: Some(0), .. } => bad("0 bytes; use 1 or more".into()),
            fine => Ok(fine),
        }
    }

    fn of_parameters(table: &Table) -> Result<Retention> {
        let number = |name: &str| match table.parameters.get(name) {
            None => Ok(None),
            Some(text) => match text.parse::<u64>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(Error::invalid(format!(
                    "table {:?}: parameter {name} is {text:?}; use a number",
                    table.name
                ))),
            },
        };
        Ok(Retention { days: number(DAYS)?, bytes: number(BYTES)? })
    }
}

impl Lake {
    /// Says what of a table is kept. Nothing is removed before [`Lake::retain`].
    pub fn set_retention(&self, table: &Table, retention: Retention) -> Result<()> {
        retention.check(table)?;
        // In a row of its own, since a crawl writes a table's parameters anew.
        self.store().put(&table_key(&table.database, &table.name), &retention).map(drop)
    }

    /// What of a table is kept; everything by default.
    pub fn retention(&self, table: &Table) -> Result<Retention> {
        match self.store().get::<Retention>(&table_key(&table.database, &table.name))? {
            Some(found) => Ok(found.row),
            None => Retention::of_parameters(table)?.check(table),
        }
    }

    /// Takes out of a table what its retention does not keep. The objects are no longer listed,
    /// and deleted for good with [`Lake::drop_retired_files`].
    ///
    /// Objects that a job with a bookmark has not read yet stay, and so do those that a run reads
    /// or that `busy` names.
    pub async fn retain(
        &self,
        table: &Table,
        busy: &(dyn Fn(&str, &str) -> bool + Send + Sync),
    ) -> Result<Vec<Expired>> {
        if self.retention(table)? == Retention::default() {
            return Ok(Vec::new());
        }
        let mut report = Vec::new();
        for (mut expired, swap) in self.plan_retention(table, busy).await? {
            if let Some(swap) = swap {
                match self.carry_out(swap).await {
                    Ok(commit) => expired.commit = commit,
                    Err(error)
                        if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::Unsupported) =>
                    {
                        let (folder, why) = (expired.folder, error.to_string());
                        expired = Expired { folder, files: 0, bytes: 0, why, commit: None };
                    }
                    Err(error) => return Err(error),
                }
            }
            tracing::info!(
                database = table.database,
                table = table.name,
                folder = expired.folder,
                files = expired.files,
                why = expired.why,
                "retention"
            );
            report.push(expired);
        }
        Ok(report)
    }

    /// The folders of which retention takes files, each with the swap that does, or with why
    /// nothing is taken.
    pub async fn plan_retention(
        &self,
        table: &Table,
        busy: &(dyn Fn(&str, &str) -> bool + Send + Sync),
    ) -> Result<Vec<(Expired, Option<PreparedSwap>)>> {
        let retention = self.retention(table)?;
        let files = self.files(table).await?;
        let all_readers = crate::job::Readers::all(self.store())?;
        let mut plan = Vec::new();
        for (folder, going) in beyond(table, files, retention, self.clock().now()) {
            let (mut removed, mut bytes, mut why) = (Vec::new(), 0, String::new());
            let mut kept = String::new();
            let mut partition_values = Vec::new();
            for (file, reason) in going {
                if busy(&file.bucket, &file.key) {
                    kept = format!("{} may be put again", file.key);
                    continue;
                }
                let readers = all_readers.of(table, &file.bucket, &file.key);
                let read = self.read_by(&readers, &file.bucket, &file.key, &file.etag)?;
                if read.is_none_or(|read| read.len() < readers.len()) {
                    kept = format!("{} was not read by every job of the table yet", file.key);
                    continue;
                }
                why = reason;
                bytes += file.bytes;
                removed.push(Gone { name: file.key[folder.len()..].to_owned(), etag: file.etag });
                partition_values = file.partition_values;
            }
            let mut expired = Expired {
                folder: folder.clone(),
                files: removed.len() as u64,
                bytes,
                why: why.clone(),
                commit: None,
            };
            if removed.is_empty() {
                expired.why = format!("nothing is taken: {kept}");
                plan.push((expired, None));
                continue;
            }
            let swap = PreparedSwap {
                id: format!("{ID_START}{}", Uuid::new_v4().simple()),
                kind: CommitKind::Expire,
                why,
                database: table.database.clone(),
                table: table.name.clone(),
                source: table.source,
                table_created_at: table.created_at,
                bucket: table.bucket.clone(),
                folder,
                partition_values,
                removed,
                added: Vec::new(),
                etags: Vec::new(),
                readers: Vec::new(),
            };
            plan.push((expired, Some(swap)));
        }
        Ok(plan)
    }
}

/// The files that are not kept, by folder, each with why.
fn beyond(
    table: &Table,
    files: Vec<TableFile>,
    retention: Retention,
    now: Timestamp,
) -> BTreeMap<String, Vec<(TableFile, String)>> {
    let mut timed: Vec<(i64, TableFile)> = files
        .into_iter()
        .map(|file| {
            let of_partition = partition_end(table, &file.partition_values);
            let at = of_partition.or_else(|| modified_at(&file.path)).unwrap_or(i64::MAX);
            (at, file)
        })
        .collect();
    timed.sort_by(|(a, first), (b, second)| (a, &first.key).cmp(&(b, &second.key)));
    let mut total: u64 = timed.iter().map(|(_, file)| file.bytes).sum();
    let cutoff = retention
        .days
        .map(|days| now.millis() - i64::try_from(days.min(DAYS_MAX)).unwrap_or(0) * DAY_MS);
    let mut going: BTreeMap<String, Vec<(TableFile, String)>> = BTreeMap::new();
    let mut last_partition: Option<(i64, Vec<String>)> = None;
    for (at, file) in timed {
        let of_last = last_partition
            .as_ref()
            .is_some_and(|(of, values)| *of == at && *values == file.partition_values)
            && partition_end(table, &file.partition_values).is_some();
        let old = cutoff.is_some_and(|cutoff| at < cutoff);
        let large = retention.bytes.is_some_and(|bytes| total > bytes);
        if !(old || large || of_last) {
            continue;
        }
        total -= file.bytes;
        let why = match (old, retention.days, retention.bytes) {
            (true, Some(days), _) => format!("older than {days} days"),
            (_, _, Some(bytes)) => format!("the table is larger than {bytes} bytes"),
            _ => "beyond the table's retention".to_owned(),
        };
        last_partition = Some((at, file.partition_values.clone()));
        let folder = file.key.rfind('/').map_or("", |end| &file.key[..=end]).to_owned();
        going.entry(folder).or_default().push((file, why));
    }
    going
}

/// The moment after a partition's last one, if its values tell a time.
fn partition_end(table: &Table, values: &[String]) -> Option<i64> {
    let names: Vec<&str> = table.partition_keys.iter().map(|key| key.name.as_str()).collect();
    let by_name = |name: &str| {
        let at = names.iter().position(|known| known.eq_ignore_ascii_case(name))?;
        values.get(at)
    };
    if let Some(year) = by_name("year") {
        return end_of(&[Some(year), by_name("month"), by_name("day"), by_name("hour")]);
    }
    // Bare folders of a delivery stream: YYYY/MM/DD/HH.
    let bare = names.first().is_some_and(|name| name.starts_with("partition_"));
    if bare && values.first().is_some_and(|value| value.len() == 4) {
        return end_of(&[values.first(), values.get(1), values.get(2), values.get(3)]);
    }
    let date = values.iter().find(|value| {
        value.len() >= 10 && value.is_char_boundary(10) && value[..10].split('-').count() == 3
    })?;
    let mut parts: Vec<String> = date[..10].split('-').map(str::to_owned).collect();
    // `2026-11-29T21` and `2026-11-29-21` name an hour.
    if date.len() >= 13 && date.is_char_boundary(13) {
        parts.push(date[11..13].to_owned());
    }
    end_of(&[parts.first(), parts.get(1), parts.get(2), parts.get(3)])
}

/// The end of a year, month, day or hour.
fn end_of(parts: &[Option<&String>; 4]) -> Option<i64> {
    let number = |part: Option<&String>| part.map(|text| text.parse::<i64>().ok());
    let year = number(parts[0])??;
    let (month, day, hour) = (number(parts[1]), number(parts[2]), number(parts[3]));
    if !(1970..=9999).contains(&year) {
        return None;
    }
    let (next_year, next_month) = match month {
        None => return Some(days_of(year + 1, 1, 1) * DAY_MS),
        Some(month) => {
            let month = month.filter(|month| (1..=12).contains(month))?;
            if month == 12 { (year + 1, 1) } else { (year, month + 1) }
        }
    };
    let Some(day) = day else { return Some(days_of(next_year, next_month, 1) * DAY_MS) };
    let day = day.filter(|day| (1..=31).contains(day))?;
    let begin = days_of(year, month??, day);
    let Some(hour) = hour else { return Some((begin + 1) * DAY_MS) };
    let hour = hour.filter(|hour| (0..=23).contains(hour))?;
    Some(begin * DAY_MS + (hour + 1) * 60 * 60 * 1_000)
}

/// Days from 1970 to a date of the Gregorian calendar, by the count of days that a year which
/// begins in March has.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Column, Format};

    #[test]
    fn a_partition_ends_when_its_last_moment_is_over() {
        let end = |names: &[&str], values: &[&str]| {
            let mut table = Table::new(("d", "t"), ("bkt", "t/"), Format::Parquet);
            table.partition_keys = names.iter().map(|name| Column::new(*name, "string")).collect();
            let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
            partition_end(&table, &values)
        };
        let of = |days: i64, hours: i64| Some(days * DAY_MS + hours * 3_600_000);
        assert_eq!(days_of(1970, 1, 1), 0);
        assert_eq!(days_of(2026, 11, 29), 20_786);
        assert_eq!(end(&["year"], &["1970"]), of(365, 0));
        assert_eq!(end(&["year", "month"], &["1970", "12"]), of(365, 0));
        assert_eq!(
            end(&["site", "year", "month", "day"], &["x", "2026", "11", "29"]),
            of(20_787, 0)
        );
        assert_eq!(end(&["hour"], &["2026-11-29T21"]), of(20_786, 22));
        assert_eq!(end(&["dt"], &["2026-11-29"]), of(20_787, 0));
        let bare = ["partition_0", "partition_1", "partition_2", "partition_3"];
        assert_eq!(end(&bare, &["2026", "11", "29", "21"]), of(20_786, 22));
        for (names, values) in [
            (&["device"][..], &["seven"][..]),
            (&["year"], &["soon"]),
            (&["year", "month"], &["2026", "13"]),
            (&["dt"], &["2026-aa-29"]),
            (&["partition_0"], &["1234x"]),
        ] {
            assert_eq!(end(names, values), None, "{values:?}");
        }
    }
}
