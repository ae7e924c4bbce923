//! A stream as it is kept: what was asked for, and how far it has come.

use std::collections::BTreeMap;
use std::time::Duration;

use base::{Error, Offset, Result, Timestamp};
use metastore::Row;
use serde::{Deserialize, Serialize};

use crate::cut::Hints;

/// Topics of direct puts: the rest of the topic is the stream's name.
pub const DIRECT_PUT_PREFIX: &str = "$aws/firehose/";

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
}

/// What a caller says to make a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// A batch ends at about this many bytes, counted before compression: 1 to 128 MiB.
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
        }
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
        Ok(())
    }
}

/// A stream's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamRow {
    /// The name, which is also the row's key.
    pub name: String,
    /// See [`NewStream::bucket`].
    pub bucket: String,
    /// See [`NewStream::prefix`].
    pub prefix: String,
    /// See [`NewStream::error_prefix`].
    pub error_prefix: Option<String>,
    /// See [`NewStream::size_bytes`].
    pub size_bytes: u64,
    /// See [`NewStream::interval_secs`].
    pub interval_secs: u64,
    /// See [`NewStream::compression`].
    pub compression: Compression,
    /// See [`NewStream::delimiter`].
    pub delimiter: Option<String>,
    /// See [`NewStream::file_extension`].
    pub file_extension: Option<String>,
    /// Stands in every key; 1 at first, one more with each change of the settings.
    pub version: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// The first offset it looks at.
    pub created_from: Offset,
}

impl StreamRow {
    /// The row of a stream that looks at offsets from `from` on.
    pub(crate) fn new(new: &NewStream, now: Timestamp, from: Offset) -> StreamRow {
        let new = new.clone();
        StreamRow {
            name: new.name,
            bucket: new.bucket,
            prefix: new.prefix,
            error_prefix: new.error_prefix,
            size_bytes: new.size_bytes,
            interval_secs: new.interval_secs,
            compression: new.compression,
            delimiter: new.delimiter,
            file_extension: new.file_extension,
            version: 1,
            created_at: now,
            created_from: from,
        }
    }

    /// The row with other settings, as its next version.
    pub(crate) fn changed(&self, new: &NewStream) -> StreamRow {
        StreamRow {
            version: self.version + 1,
            ..StreamRow::new(new, self.created_at, self.created_from)
        }
    }

    /// The settings as a caller would say them, to change some of them.
    pub fn settings(&self) -> NewStream {
        let row = self.clone();
        NewStream {
            name: row.name,
            bucket: row.bucket,
            prefix: row.prefix,
            error_prefix: row.error_prefix,
            size_bytes: row.size_bytes,
            interval_secs: row.interval_secs,
            compression: row.compression,
            delimiter: row.delimiter,
            file_extension: row.file_extension,
        }
    }

    /// The hints as the cut wants them.
    pub(crate) fn hints(&self) -> Hints {
        Hints { size_bytes: self.size_bytes, age: Duration::from_secs(self.interval_secs) }
    }

    /// What ends the key of an object of records.
    pub(crate) fn extension(&self) -> &str {
        match (&self.file_extension, self.compression) {
            (Some(extension), _) => extension,
            (None, Compression::Gzip) => ".gz",
            (None, Compression::None) => "",
        }
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
    /// The object of records, if there are any.
    pub object: Option<ObjectPlan>,
    /// The object of records set aside, if there are any.
    pub error_object: Option<ObjectPlan>,
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
