//! A stream as it is kept: what was asked for, and how far it has come.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono_tz::Tz;

use base::{Error, Offset, Result, Timestamp};
use metastore::Row;
use serde::{Deserialize, Serialize};

use crate::cut::Hints;

/// Topics of direct puts: the rest of the topic is the stream's name.
pub const DIRECT_PUT_PREFIX: &str = "$aws/firehose/";

/// Why a record counts as skipped that was read and is no message.
pub(crate) const UNDECODABLE: &str = "undecodable";

const NAME_BYTES_MAX: usize = 64;
const MIB: u64 = 1024 * 1024;
const SIZE_BYTES_MAX: u64 = 128 * MIB;
const INTERVAL_SECS_MAX: u64 = 900;
const DELIMITER_BYTES_MAX: usize = 16;
const EXTENSION_BYTES_MAX: usize = 128;

/// How objects are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compression {
    /// As they are.
    #[default]
    None,
    /// GZIP, without a time stamp inside, so that the same records give the same bytes.
    Gzip,
    /// A ZIP archive of one file.
    Zip,
    /// Snappy in its framing format.
    Snappy,
    /// Snappy in the blocks that Hadoop reads.
    HadoopSnappy,
}

impl Compression {
    /// What ends the key of an object packed so.
    pub(crate) fn extension(self) -> &'static str {
        match self {
            Compression::None => "",
            Compression::Gzip => ".gz",
            Compression::Zip => ".zip",
            Compression::Snappy => ".snappy",
            Compression::HadoopSnappy => ".hsnappy",
        }
    }
}

/// Several records within one, taken apart before they are partitioned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deaggregation {
    /// JSON values, one after another.
    Json,
    /// Whatever this stands between.
    Delimited(String),
}

/// Dynamic partitioning: values within a record decide where it goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partitioning {
    /// A jq program that makes an object of a record; its members are what
    /// `!{partitionKeyFromQuery:NAME}` stands for.
    pub query: String,
}

/// Format conversion: records as rows of Parquet objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversion {
    /// The catalog's database.
    pub database: String,
    /// Its table, whose columns the rows have.
    pub table: String,
    /// Which version of the table; the newest if none is named.
    pub version: Option<u64>,
    /// Whether pages are packed with Snappy, or left as they are.
    pub snappy: bool,
    /// Whether a key finds its column whatever the case of its letters.
    pub ignore_case: bool,
    /// Keys of columns that are not called like them.
    pub keys: BTreeMap<String, String>,
}

/// A column of a conversion, as a decision keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type as the catalog names it.
    pub hive_type: String,
}

/// Where the records lie as they came, before anything was done to them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backup {
    /// The bucket, which must exist.
    pub bucket: String,
    /// In front of every key, with the expressions of [`NewStream::prefix`].
    pub prefix: String,
    /// How its objects are packed.
    pub compression: Compression,
}

/// What a caller says to make a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewStream {
    /// 1 to 64 letters, digits, `_`, `.` and `-`.
    pub name: String,
    /// The bucket, which must exist.
    pub bucket: String,
    /// In front of every key; may hold expressions. `yyyy/MM/dd/HH/` is appended if it holds
    /// no timestamp.
    pub prefix: String,
    /// The same for records set aside. Without it they lie below the prefix, where a crawler
    /// would take them for data: better give one.
    pub error_prefix: Option<String>,
    /// A batch ends at about this many bytes, counted before compression and over all
    /// partitions together: 1 to 128 MiB.
    pub size_bytes: u64,
    /// A batch ends when its first record has waited this long: 0 to 900 s.
    pub interval_secs: u64,
    /// How objects are packed.
    pub compression: Compression,
    /// Appended to every record. Without it records stand next to each other, as Firehose
    /// leaves them; a rule's separator comes before it.
    pub delimiter: Option<String>,
    /// Ends the key instead of the compression's own extension.
    pub file_extension: Option<String>,
    /// The time zone of keys, by its name in the IANA database; UTC if none is named.
    #[serde(default)]
    pub time_zone: Option<String>,
    /// How a record that holds several is taken apart.
    #[serde(default)]
    pub deaggregation: Option<Deaggregation>,
    /// Values that decide where a record goes. Fixed when the stream is made.
    #[serde(default)]
    pub partitioning: Option<Partitioning>,
    /// Whether objects are Parquet.
    #[serde(default)]
    pub conversion: Option<Conversion>,
    /// Whether records are kept as they came, too.
    #[serde(default)]
    pub backup: Option<Backup>,
    /// Whether JSON objects say whence they come: `_log_offset`, `_device`, `_arrived_at`.
    #[serde(default)]
    pub lineage: bool,
}

impl NewStream {
    /// The defaults: 5 MiB, 5 seconds (AWS waits 300), no compression, no delimiter.
    pub fn new(name: impl Into<String>, bucket: impl Into<String>) -> NewStream {
        NewStream {
            name: name.into(),
            bucket: bucket.into(),
            prefix: String::new(),
            error_prefix: None,
            size_bytes: 5 * MIB,
            interval_secs: 5,
            compression: Compression::None,
            delimiter: None,
            file_extension: None,
            time_zone: None,
            deaggregation: None,
            partitioning: None,
            conversion: None,
            backup: None,
            lineage: false,
        }
    }

    /// The zone of keys.
    pub(crate) fn zone(&self) -> Result<Tz> {
        let name = self.time_zone.as_deref().unwrap_or("UTC");
        name.parse().map_err(|_unknown| {
            Error::invalid(format!(
                "stream {:?}: time zone {name:?} is unknown; use a name such as Europe/Rome",
                self.name
            ))
        })
    }

    /// What ends the key of an object of records.
    pub(crate) fn extension(&self) -> &str {
        match (&self.file_extension, &self.conversion) {
            (Some(extension), _) => extension,
            (None, Some(_)) => ".parquet",
            (None, None) => self.compression.extension(),
        }
    }

    /// The hints as the cut wants them.
    pub(crate) fn hints(&self) -> Hints {
        Hints { size_bytes: self.size_bytes, age: Duration::from_secs(self.interval_secs) }
    }

    /// Checks everything that can be checked without looking at the buckets.
    pub(crate) fn check(&self) -> Result<()> {
        let name = &self.name;
        let name_ok =
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        if !name_ok || name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(Error::invalid(format!(
                "stream name {name:?} must be 1 to {NAME_BYTES_MAX} letters, digits, '_', '.' and '-'"
            )));
        }
        if !(MIB..=SIZE_BYTES_MAX).contains(&self.size_bytes) {
            return Err(Error::invalid(format!(
                "stream {name:?}: a size hint of {} bytes is not between 1 and 128 MiB",
                self.size_bytes
            )));
        }
        if self.interval_secs > INTERVAL_SECS_MAX {
            return Err(Error::invalid(format!(
                "stream {name:?}: an interval of {} s is not between 0 and {INTERVAL_SECS_MAX}",
                self.interval_secs
            )));
        }
        if let Some(delimiter) = &self.delimiter
            && (delimiter.is_empty() || delimiter.len() > DELIMITER_BYTES_MAX)
        {
            return Err(Error::invalid(format!(
                "stream {name:?}: delimiter {delimiter:?} must be 1 to {DELIMITER_BYTES_MAX} bytes"
            )));
        }
        if let Some(extension) = &self.file_extension {
            let allowed = |byte: u8| {
                byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"!-_.*'()".contains(&byte)
            };
            let good = extension.starts_with('.')
                && (2..=EXTENSION_BYTES_MAX).contains(&extension.len())
                && extension.bytes().all(allowed);
            if !good {
                return Err(Error::invalid(format!(
                    "stream {name:?}: file extension {extension:?} must be a dot followed by \
                     lower-case letters, digits or !-_.*'()"
                )));
            }
        }
        self.zone()?;
        if self.conversion.is_some() && self.compression != Compression::None {
            return Err(Error::invalid(format!(
                "stream {name:?}: Parquet is packed inside; leave the objects uncompressed"
            )));
        }
        if self.deaggregation.is_some() && self.partitioning.is_none() {
            return Err(Error::invalid(format!(
                "stream {name:?}: records are taken apart only where they are partitioned"
            )));
        }
        if self.deaggregation == Some(Deaggregation::Delimited(String::new())) {
            return Err(Error::invalid(format!("stream {name:?}: the delimiter is empty")));
        }
        Ok(())
    }
}

/// A stream as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamRow {
    /// What was asked for; the name is also the row's key.
    #[serde(flatten)]
    pub settings: NewStream,
    /// Stands in every key; 1 at first, one more with each change of the settings.
    pub version: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// The first offset it looks at.
    pub created_from: Offset,
}

impl StreamRow {
    /// The row of a stream that looks at offsets from `from` on.
    pub(crate) fn new(settings: &NewStream, now: Timestamp, from: Offset) -> StreamRow {
        let settings = settings.clone();
        StreamRow { settings, version: 1, created_at: now, created_from: from }
    }

    /// The row with other settings, as its next version.
    pub(crate) fn changed(&self, new: &NewStream) -> StreamRow {
        StreamRow {
            version: self.version + 1,
            ..StreamRow::new(new, self.created_at, self.created_from)
        }
    }

    /// The stream's name.
    pub fn name(&self) -> &str {
        &self.settings.name
    }
}

impl Row for StreamRow {
    const TABLE: &'static str = "streams";
}

/// What a range of offsets gave. `matched = acted + sum(set_aside)`, always.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Log records looked at, whether or not a rule matched.
    pub read: u64,
    /// Times that a rule's action on this stream, or a direct put, took a log record.
    pub matched: u64,
    /// Of these, how often records came of it.
    pub acted: u64,
    /// Records handed to objects: more than `acted` where a rule splits arrays.
    pub records: u64,
    /// Their bytes, delimiters included, before compression.
    pub record_bytes: u64,
    /// Of `matched`, those in the error prefix, by reason.
    pub set_aside: BTreeMap<String, u64>,
    /// Log records that could not be read any more, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Objects of records.
    pub objects: u64,
    /// Their bytes as stored.
    pub object_bytes: u64,
    /// Objects of errors.
    pub error_objects: u64,
    /// Objects of records as they came.
    #[serde(default)]
    pub backup_objects: u64,
}

impl Tally {
    /// All that was set aside.
    pub fn set_aside_count(&self) -> u64 {
        self.set_aside.values().sum()
    }

    /// Adds what another range gave.
    pub(crate) fn add(&mut self, other: &Tally) {
        self.read += other.read;
        self.matched += other.matched;
        self.acted += other.acted;
        self.records += other.records;
        self.record_bytes += other.record_bytes;
        self.objects += other.objects;
        self.object_bytes += other.object_bytes;
        self.error_objects += other.error_objects;
        self.backup_objects += other.backup_objects;
        for (reason, count) in &other.set_aside {
            *self.set_aside.entry(reason.clone()).or_default() += count;
        }
        for (reason, count) in &other.skipped {
            *self.skipped.entry(reason.clone()).or_default() += count;
        }
    }
}

/// An object that a decision calls for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectPlan {
    /// Which of the batch's objects.
    pub what: String,
    /// Its bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// Its bytes as stored.
    pub bytes: u64,
    /// CRC-32 of these bytes: a replay must make the same.
    pub crc32: u32,
}

/// A batch that has ended: recorded before its objects are uploaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// The first offset it covers.
    pub first: Offset,
    /// The first offset after it.
    pub next: Offset,
    /// Its objects: records by partition, records set aside, records as they came.
    #[serde(default)]
    pub objects: Vec<ObjectPlan>,
    /// The columns that records were converted to.
    #[serde(default)]
    pub columns: Option<Vec<Column>>,
    /// What the range gave.
    pub tally: Tally,
    /// When it was decided.
    pub decided_at: Timestamp,
}

/// How far a stream has come. One transaction moves the cursor and counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamState {
    /// The log that the offsets belong to.
    pub log_id: String,
    /// Everything below is delivered.
    pub next: Offset,
    /// Decided and perhaps not yet carried out.
    pub pending: Option<Decision>,
    /// The settings that `pending` was decided under, if they were changed since: the same
    /// records must give the same objects.
    #[serde(default)]
    pub pending_under: Option<StreamRow>,
    /// What all ranges so far gave.
    pub totals: Tally,
}

/// How the offsets that a stream's cursor passed compare with what its batches counted, one
/// by one as they looked at them. Both grow in one transaction and come from different places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// Offsets that the cursor passed and that no batch looked at or found gone.
    pub lost: u64,
    /// Offsets that batches looked at beyond those that the cursor passed.
    pub doubled: u64,
}

impl StreamState {
    /// The balance of a stream that began at `from`. Both sides of it must be 0.
    pub fn balance(&self, from: Offset) -> Balance {
        let passed = self.next.0.saturating_sub(from.0);
        // An undecodable record was read as well.
        let gone = self.totals.skipped.iter().filter(|(reason, _)| *reason != UNDECODABLE);
        let looked_at = self.totals.read + gone.map(|(_, count)| count).sum::<u64>();
        Balance {
            lost: passed.saturating_sub(looked_at),
            doubled: looked_at.saturating_sub(passed),
        }
    }
}

impl Row for StreamState {
    const TABLE: &'static str = "stream_states";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_refused_by_name() {
        let check = |change: fn(&mut NewStream), part: &str| {
            let mut new = NewStream::new("readings", "lake");
            new.check().unwrap();
            change(&mut new);
            let error = new.check().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        };
        check(|new| new.name = String::new(), "stream name \"\"");
        check(|new| new.name = "a/b".to_owned(), "stream name \"a/b\"");
        check(|new| new.name = "x".repeat(65), "1 to 64");
        check(|new| new.size_bytes = MIB - 1, "1048575 bytes");
        check(|new| new.size_bytes = SIZE_BYTES_MAX + 1, "between 1 and 128 MiB");
        check(|new| new.interval_secs = 901, "901 s");
        check(|new| new.delimiter = Some(String::new()), "delimiter \"\"");
        check(|new| new.delimiter = Some("x".repeat(17)), "1 to 16 bytes");
        check(|new| new.file_extension = Some("json".to_owned()), "extension \"json\"");
        check(|new| new.file_extension = Some(".JSON".to_owned()), "extension \".JSON\"");
    }

    #[test]
    fn an_offset_passed_unseen_is_lost_and_one_seen_twice_doubled() {
        let check = |read, gone: &[(&str, u64)], expect| {
            let skipped = gone.iter().map(|(reason, count)| ((*reason).to_owned(), *count));
            let totals = Tally { read, skipped: skipped.collect(), ..Tally::default() };
            let state = StreamState { next: Offset(17), totals, ..StreamState::default() };
            let Balance { lost, doubled } = state.balance(Offset(7));
            assert_eq!((lost, doubled), expect, "{read} read, {gone:?}");
        };
        check(10, &[], (0, 0));
        check(7, &[("trimmed", 1), ("corrupt", 2)], (0, 0));
        check(10, &[("undecodable", 4)], (0, 0));
        check(9, &[], (1, 0));
        check(10, &[("missing", 2)], (0, 2));
    }

    #[test]
    fn tallies_add_up_by_reason() {
        let one = |reason: &str| Tally {
            matched: 2,
            acted: 1,
            set_aside: [(reason.to_owned(), 1)].into(),
            ..Tally::default()
        };
        let mut sum = one("a");
        sum.add(&one("a"));
        sum.add(&one("b"));
        assert_eq!(sum.set_aside, [("a".to_owned(), 2), ("b".to_owned(), 1)].into());
        assert_eq!(sum.matched, sum.acted + sum.set_aside_count());
    }
}
