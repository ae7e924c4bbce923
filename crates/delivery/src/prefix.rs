//! Where objects lie: prefixes with expressions, and the names below them.
//!
//! Pure and deterministic: a key follows from the stream, the log's id, the range of offsets,
//! the values of partition keys and the arrival of the oldest record.
//!
//! | expression | becomes |
//! |---|---|
//! | `!{timestamp:PATTERN}` | the arrival of the oldest record, in the stream's time zone |
//! | `!{partitionKeyFromQuery:NAME}` | what the stream's query gave for the records |
//! | `!{firehose:random-string}` | 11 characters drawn from the object's identity |
//! | `!{firehose:error-output-type}` | what failed; in the error prefix only |
//!
//! With neither `yyyy/MM/dd/HH/` is appended, as Firehose does.

use base::{Error, Offset, Result, Timestamp};
use chrono::{Offset as _, TimeZone};
use chrono_tz::Tz;
use rules::sql::TimePattern;
use uuid::Uuid;

use crate::stream::StreamRow;

/// Longest prefix once its expressions are evaluated (Firehose's bound).
const EVALUATED_BYTES_MAX: usize = 512;

/// Longest prefix as given (Firehose's bound).
const PREFIX_BYTES_MAX: usize = 1024;

/// Forebay's namespace for the names of objects (RFC 9562 section 5.5); drawn once at random.
const NAMESPACE: Uuid = Uuid::from_u128(0x0c5e_54f7_93d1_4c0e_8b57_64a1_de2f_7b3c);

/// A prefix whose expressions have been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prefix(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Time(TimePattern),
    Random,
    ErrorType,
    /// The partition key of this number.
    Key(usize),
}

/// Which of a batch's objects, in the order in which they are uploaded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Records of one partition: the values of its keys.
    Records(Vec<String>),
    /// Records set aside.
    Errors(Failure),
    /// Records as they came.
    Backup,
}

impl Kind {
    /// Tells the objects of one batch apart, also in a later run.
    pub(crate) fn identity(&self) -> String {
        match self {
            Kind::Records(values) if values.is_empty() => "records".to_owned(),
            // A unit separator, which tells `a`, `b/c` from `a/b`, `c`.
            Kind::Records(values) => format!("records\u{1f}{}", values.join("\u{1f}")),
            Kind::Errors(Failure::Processing) => "errors".to_owned(),
            Kind::Errors(failure) => format!("errors\u{1f}{}", failure.as_str()),
            Kind::Backup => "backup".to_owned(),
        }
    }
}

/// What failed, as far as the error prefix tells it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    Processing,
    Partitioning,
    Conversion,
}

impl Failure {
    /// What stands for `!{firehose:error-output-type}`.
    fn as_str(self) -> &'static str {
        match self {
            Failure::Processing => "processing-failed",
            Failure::Partitioning => "dynamic-partitioning-failed",
            Failure::Conversion => "format-conversion-failed",
        }
    }
}

/// The prefixes of a stream, read.
#[derive(Clone, Debug)]
pub(crate) struct Prefixes {
    records: Prefix,
    errors: Prefix,
    backup: Option<Prefix>,
    keys: Vec<String>,
    zone: Tz,
}

impl Prefixes {
    /// Reads and checks the prefixes of `row`.
    pub(crate) fn of(row: &StreamRow) -> Result<Prefixes> {
        let row = &row.settings;
        let mut keys = Vec::new();
        let records = Prefix::parse("prefix", &row.prefix, Some(&mut keys))?;
        if records.0.contains(&Part::ErrorType) {
            return Err(Error::invalid(format!(
                "prefix {:?}: !{{firehose:error-output-type}} belongs in the error prefix",
                row.prefix
            )));
        }
        if keys.is_empty() == row.partitioning.is_some() {
            return Err(Error::invalid(format!(
                "prefix {:?}: partition keys, !{{partitionKeyFromQuery:NAME}}, and dynamic \
                 partitioning with a query go together; give both or neither",
                row.prefix
            )));
        }
        let errors = match &row.error_prefix {
            None if records.has_expressions() => {
                return Err(Error::invalid(format!(
                    "prefix {:?} has expressions, so an error prefix must be given too",
                    row.prefix
                )));
            }
            None => records.with_error_type(),
            Some(text) => {
                let errors = Prefix::parse("error prefix", text, None)?;
                if !errors.has_expressions() {
                    errors.with_error_type()
                } else if errors.0.contains(&Part::ErrorType) {
                    errors
                } else {
                    return Err(Error::invalid(format!(
                        "error prefix {text:?} has expressions but not \
                         !{{firehose:error-output-type}}"
                    )));
                }
            }
        };
        let backup = match &row.backup {
            Some(backup) => Some(Prefix::parse("backup prefix", &backup.prefix, None)?),
            None => None,
        };
        let records = if keys.is_empty() { records.with_time()? } else { records };
        let prefixes = Prefixes {
            records,
            errors: errors.with_time()?,
            backup: backup.map(Prefix::with_time).transpose()?,
            zone: row.zone()?,
            keys,
        };
        // Values are as long as a record has them; each folder is checked when it comes.
        prefixes.folder(&Kind::Records(vec!["x".to_owned(); prefixes.keys.len()]))?;
        prefixes.folder(&Kind::Errors(Failure::Partitioning))?;
        prefixes.folder(&Kind::Backup)?;
        Ok(prefixes)
    }

    /// The names of the partition keys, in the order of their values.
    pub(crate) fn keys(&self) -> &[String] {
        &self.keys
    }

    /// Whether objects of any kind may lie below this prefix.
    pub(crate) fn may_reach(&self, below: &str) -> bool {
        let reaches = |prefix: &Prefix| {
            let head = prefix.head();
            head.starts_with(below) || below.starts_with(&head)
        };
        reaches(&self.records) || reaches(&self.errors) || self.backup.as_ref().is_some_and(reaches)
    }

    /// The prefix of objects of this kind, evaluated for some moment: refused if it is too long
    /// in any.
    pub(crate) fn folder(&self, kind: &Kind) -> Result<String> {
        let folder = self.evaluate(kind, Timestamp(0), Uuid::nil());
        if folder.len() <= EVALUATED_BYTES_MAX {
            return Ok(folder);
        }
        Err(Error::invalid(format!(
            "{} is {} bytes long once evaluated; at most {EVALUATED_BYTES_MAX} are allowed",
            match kind {
                Kind::Records(_) => "prefix",
                Kind::Errors(_) => "error prefix",
                Kind::Backup => "backup prefix",
            },
            folder.len()
        )))
    }

    /// The key of the object that holds what `first..next` gave, whose oldest record arrived
    /// at `oldest`.
    pub(crate) fn key(
        &self,
        row: &StreamRow,
        log_id: &str,
        kind: &Kind,
        range: (Offset, Offset),
        oldest: Timestamp,
    ) -> String {
        let what = kind.identity();
        let extension = match (kind, &row.settings.backup) {
            (Kind::Records(_), _) => row.settings.extension(),
            (Kind::Backup, Some(backup)) => backup.compression.extension(),
            (Kind::Errors(_) | Kind::Backup, _) => "",
        };
        let (first, next) = range;
        let identity =
            format!("{what}/{log_id}/{}/{}/{first}/{next}", row.name(), row.created_from);
        let id = Uuid::new_v5(&NAMESPACE, identity.as_bytes());
        let oldest = in_calendar(oldest);
        let stamp = chrono::DateTime::from_timestamp_millis(oldest.millis())
            .unwrap_or_default()
            .with_timezone(&self.zone)
            .format("%Y-%m-%d-%H-%M-%S");
        let folder = self.evaluate(kind, oldest, id);
        format!("{folder}{}-{}-{stamp}-{id}{extension}", row.name(), row.version)
    }

    fn evaluate(&self, kind: &Kind, at: Timestamp, id: Uuid) -> String {
        let nothing = Prefix(Vec::new());
        let (prefix, values, failed) = match kind {
            Kind::Records(values) => (&self.records, values.as_slice(), ""),
            Kind::Errors(failure) => (&self.errors, [].as_slice(), failure.as_str()),
            Kind::Backup => (self.backup.as_ref().unwrap_or(&nothing), [].as_slice(), ""),
        };
        let utc = chrono::DateTime::from_timestamp_millis(at.millis()).unwrap_or_default();
        let zone_secs =
            self.zone.offset_from_utc_datetime(&utc.naive_utc()).fix().local_minus_utc();
        let mut text = String::new();
        for (index, part) in prefix.0.iter().enumerate() {
            match part {
                Part::Literal(literal) => text.push_str(literal),
                Part::Time(pattern) => {
                    text.push_str(&pattern.format(at, zone_secs).unwrap_or_default());
                }
                Part::Random => text.push_str(&random_string(id, index)),
                Part::ErrorType => text.push_str(failed),
                Part::Key(key) => text.push_str(values.get(*key).map_or("", String::as_str)),
            }
        }
        text
    }
}

impl Prefix {
    /// Reads a prefix; names of partition keys are collected, or refused where there is no
    /// place for them.
    fn parse(what: &str, text: &str, mut keys: Option<&mut Vec<String>>) -> Result<Prefix> {
        let bad = |why: String| Error::invalid(format!("{what} {text:?}: {why}"));
        if text.len() > PREFIX_BYTES_MAX {
            return Err(bad(format!("longer than {PREFIX_BYTES_MAX} bytes")));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((literal, tail)) = rest.split_once("!{") {
            push_literal(&mut parts, literal);
            let (expression, tail) = tail
                .split_once('}')
                .ok_or_else(|| bad("an expression that starts with !{ does not end".to_owned()))?;
            parts.push(match expression.split_once(':') {
                Some(("timestamp", pattern)) => {
                    Part::Time(TimePattern::parse(pattern).map_err(bad)?)
                }
                Some(("firehose", "random-string")) => Part::Random,
                Some(("firehose", "error-output-type")) => Part::ErrorType,
                Some(("partitionKeyFromQuery", name)) => {
                    let Some(keys) = &mut keys else {
                        return Err(bad(
                            "partition keys belong in the prefix of records".to_owned()
                        ));
                    };
                    let known = keys.iter().position(|key| key == name);
                    Part::Key(known.unwrap_or_else(|| {
                        keys.push(name.to_owned());
                        keys.len() - 1
                    }))
                }
                Some(("partitionKeyFromLambda", _)) => {
                    return Err(Error::unsupported(format!(
                        "{what} {text:?}: there is no Lambda here; use partitionKeyFromQuery"
                    )));
                }
                _ => return Err(bad(format!("unknown expression !{{{expression}}}"))),
            });
            rest = tail;
        }
        push_literal(&mut parts, rest);
        Ok(Prefix(parts))
    }

    /// What stands before the first expression.
    fn head(&self) -> String {
        let literal = |part: &Part| match part {
            Part::Literal(text) => Some(text.clone()),
            _ => None,
        };
        self.0.iter().map_while(literal).collect()
    }

    fn has_expressions(&self) -> bool {
        self.0.iter().any(|part| !matches!(part, Part::Literal(_)))
    }

    fn with_error_type(&self) -> Prefix {
        let mut parts = self.0.clone();
        parts.push(Part::ErrorType);
        parts.push(Part::Literal("/".to_owned()));
        Prefix(parts)
    }

    fn with_time(mut self) -> Result<Prefix> {
        if !self.0.iter().any(|part| matches!(part, Part::Time(_))) {
            let hourly = TimePattern::parse("yyyy/MM/dd/HH/").map_err(Error::internal)?;
            self.0.push(Part::Time(hourly));
        }
        Ok(self)
    }
}

fn push_literal(parts: &mut Vec<Part>, literal: &str) {
    if !literal.is_empty() {
        parts.push(Part::Literal(literal.to_owned()));
    }
}

/// Eleven characters, another eleven for each use, the same for the same object.
fn random_string(id: Uuid, index: usize) -> String {
    const ALPHABET: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";
    let drawn = Uuid::new_v5(&id, &index.to_le_bytes());
    drawn
        .as_bytes()
        .iter()
        .take(11)
        .map(|byte| char::from(ALPHABET[usize::from(byte & 63)]))
        .collect()
}

/// A clock may have said anything; what no calendar knows is filed under its first hour.
fn in_calendar(at: Timestamp) -> Timestamp {
    const YEAR_9999: i64 = 253_402_300_799_999;
    if (0..=YEAR_9999).contains(&at.millis()) { at } else { Timestamp(0) }
}

#[cfg(test)]
mod tests {
    use base::ErrorKind;

    use super::*;
    use crate::stream::{Compression, NewStream, Partitioning};

    // 2026-11-23T04:05:06.789Z
    const AT: Timestamp = Timestamp(1_795_406_706_789);

    fn row(prefix: &str, error_prefix: Option<&str>) -> StreamRow {
        let mut new = NewStream::new("readings", "lake");
        new.prefix = prefix.to_owned();
        new.error_prefix = error_prefix.map(str::to_owned);
        new.compression = Compression::Gzip;
        new.partitioning = prefix
            .contains("partitionKeyFromQuery")
            .then(|| Partitioning { query: "{}".to_owned() });
        StreamRow::new(&new, Timestamp(0), Offset(3))
    }

    fn keys(prefix: &str, error_prefix: Option<&str>) -> Result<[String; 2]> {
        let row = row(prefix, error_prefix);
        let prefixes = Prefixes::of(&row)?;
        let range = (Offset(3), Offset(9));
        let key = |kind| prefixes.key(&row, "0f", &kind, range, AT);
        let values = (1..=prefixes.keys().len()).map(|n| format!("v{n}")).collect();
        Ok([key(Kind::Records(values)), key(Kind::Errors(Failure::Processing))])
    }

    #[test]
    fn keys_lie_where_firehose_puts_them() {
        let check = |prefix: &str, error_prefix: Option<&str>, folders: [&str; 2]| {
            let keys = keys(prefix, error_prefix).unwrap();
            for (key, folder) in keys.iter().zip(folders) {
                let name = key.strip_prefix(folder).unwrap_or_else(|| panic!("{key} in {folder}"));
                assert!(name.starts_with("readings-1-2026-11-23-04-05-06-"), "{name}");
                assert_eq!(
                    name.len(),
                    "readings-1-2026-11-23-04-05-06-".len()
                        + 36
                        + if *key == keys[0] { 3 } else { 0 },
                    "{name}"
                );
            }
            assert!(keys[0].ends_with(".gz") && !keys[1].contains(".gz"));
        };
        check("", None, ["2026/11/23/04/", "processing-failed/2026/11/23/04/"]);
        check("air/", None, ["air/2026/11/23/04/", "air/processing-failed/2026/11/23/04/"]);
        check("air", Some("bad/"), ["air2026/11/23/04/", "bad/processing-failed/2026/11/23/04/"]);
        check(
            "air/day=!{timestamp:yyyy-MM-dd}/",
            Some("bad/!{firehose:error-output-type}/!{timestamp:yyyy'!'}/"),
            ["air/day=2026-11-23/", "bad/processing-failed/2026!/"],
        );
        check(
            "d=!{partitionKeyFromQuery:d}/!{partitionKeyFromQuery:e}-!{partitionKeyFromQuery:d}/",
            Some("bad/"),
            ["d=v1/v2-v1/", "bad/processing-failed/2026/11/23/04/"],
        );
    }

    #[test]
    fn keys_tell_the_time_of_their_zone() {
        let mut row = row("air/!{timestamp:yyyy-MM-dd'T'HHZ}/", Some("bad/"));
        let mut key = |zone: &str| {
            row.settings.time_zone = Some(zone.to_owned());
            let range = (Offset(3), Offset(9));
            let key = Prefixes::of(&row)?.key(&row, "0f", &Kind::Records(Vec::new()), range, AT);
            Ok::<_, Error>(key[..key.len() - 39].to_owned())
        };
        assert_eq!(
            key("Asia/Tokyo").unwrap(),
            "air/2026-11-23T13+0900/readings-1-2026-11-23-13-05-06-"
        );
        assert_eq!(
            key("America/New_York").unwrap(),
            "air/2026-11-22T23-0500/readings-1-2026-11-22-23-05-06-"
        );
        let error = key("Mars/Olympus").unwrap_err().to_string();
        assert!(error.contains("\"Mars/Olympus\" is unknown"), "{error}");
    }

    #[test]
    fn a_key_depends_on_everything_that_tells_objects_apart_and_on_nothing_else() {
        let base = keys("air/!{firehose:random-string}/", Some("bad!{firehose:error-output-type}"))
            .unwrap();
        assert_eq!(
            base,
            keys("air/!{firehose:random-string}/", Some("bad!{firehose:error-output-type}"))
                .unwrap()
        );
        let row = row("air/", None);
        let prefixes = Prefixes::of(&row).unwrap();
        let range = (Offset(3), Offset(9));
        let key = |log: &str, kind, range| prefixes.key(&row, log, &kind, range, AT);
        let records = |values: &[&str]| Kind::Records(values.iter().map(|v| (*v).into()).collect());
        let all = [
            key("0f", records(&[]), range),
            key("1f", records(&[]), range),
            key("0f", Kind::Errors(Failure::Processing), range),
            key("0f", Kind::Errors(Failure::Conversion), range),
            key("0f", Kind::Backup, range),
            key("0f", records(&[]), (Offset(3), Offset(8))),
            key("0f", records(&[]), (Offset(4), Offset(9))),
            key("0f", records(&["a", "b/c"]), range),
            key("0f", records(&["a/b", "c"]), range),
        ];
        let distinct: std::collections::BTreeSet<&str> =
            all.iter().map(|key| key.rsplit_once("-06-").unwrap().1).collect();
        assert_eq!(distinct.len(), all.len());
        // A clock gone mad still gives a key.
        for at in [i64::MIN, -1, i64::MAX] {
            let key = prefixes.key(&row, "0f", &Kind::Records(Vec::new()), range, Timestamp(at));
            assert!(key.starts_with("air/1970/01/01/00/"), "{key}");
        }
    }

    #[test]
    fn bad_prefixes_are_refused_with_the_way_out() {
        let check = |prefix: &str, error_prefix: Option<&str>, kind: ErrorKind, part: &str| {
            let error = keys(prefix, error_prefix).unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(part), "{error}");
        };
        check("a/!{timestamp:yyyy}/", None, ErrorKind::Invalid, "an error prefix must be given");
        check("a/", Some("b/!{timestamp:yyyy}"), ErrorKind::Invalid, "error-output-type");
        check("a/!{firehose:error-output-type}", None, ErrorKind::Invalid, "belongs in the error");
        check("a/!{timestamp:YYYY}/", Some("b"), ErrorKind::Invalid, "'YYYY' is not supported");
        check("a/!{timestamp:yyyy", Some("b"), ErrorKind::Invalid, "does not end");
        check("a/!{nope}/", Some("b"), ErrorKind::Invalid, "unknown expression !{nope}");
        check("a/!{partitionKeyFromLambda:k}/", Some("b"), ErrorKind::Unsupported, "no Lambda");
        check("a/!{partitionKeyFromQuery:k}/", None, ErrorKind::Invalid, "error prefix must");
        let misplaced = "b/!{partitionKeyFromQuery:k}";
        check("a", Some(misplaced), ErrorKind::Invalid, "belong in the prefix of records");
        check(&"a".repeat(600), None, ErrorKind::Invalid, "at most 512");
        check(&"a".repeat(2_000), None, ErrorKind::Invalid, "longer than 1024");
    }
}
