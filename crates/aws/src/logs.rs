//! Log groups and streams as files: what trainings and jobs say, and what users put.
//!
//! ```text
//! <data>/logs/<group>/<stream>.jsonl   one event a line: {"t": ms, "i": ms of arrival, "m": text}
//! <data>/logs/<group>/<stream>.old     the half before, once a stream has outgrown its room
//! ```
//!
//! Names are percent-encoded, so that none reaches outside its folder. A stream keeps at most
//! [`STREAM_BYTES_MAX`]: the older half goes. A line that a crash cut is passed over.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind as Io, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use base::{Error, ErrorKind, Result};
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Deserialize, Serialize};

/// Most bytes of one stream.
pub const STREAM_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Most streams of all groups together.
const STREAMS_MAX: usize = 20_000;
/// Most bytes of an event's text; longer ones are cut.
const EVENT_BYTES_MAX: usize = 256 * 1024;

/// One event of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Event {
    /// When it happened, milliseconds since 1970.
    #[serde(rename = "t")]
    pub(crate) at: i64,
    /// When it arrived.
    #[serde(rename = "i")]
    pub(crate) arrived_at: i64,
    /// What was said.
    #[serde(rename = "m")]
    pub(crate) message: String,
}

/// An event as a rule's output may give it.
#[derive(Deserialize)]
struct RuleEvent {
    timestamp: i64,
    message: String,
}

/// All groups of a node.
#[derive(Debug)]
pub struct LogStore {
    root: PathBuf,
    /// Appends to one stream must not interleave.
    writing: Mutex<()>,
}

impl LogStore {
    /// Opens the store below `data_dir`.
    pub fn open(data_dir: &Path) -> Result<LogStore> {
        let root = data_dir.join("logs");
        fs::create_dir_all(&root).map_err(|e| Error::io("make the folder of logs", e))?;
        Ok(LogStore { root, writing: Mutex::new(()) })
    }

    /// Appends one event, making group and stream.
    pub fn append(
        &self,
        group: &str,
        stream: &str,
        at: base::Timestamp,
        message: &str,
    ) -> Result<()> {
        self.append_all(group, stream, &[(at.millis(), message.to_owned())], at.millis())
    }

    /// Appends what a rule says to a group that exists. A record that is an object with
    /// `timestamp` and `message` gives both; any other is the message.
    pub fn put(
        &self,
        group: &str,
        stream: &str,
        records: &[&[u8]],
        at: base::Timestamp,
    ) -> Result<()> {
        if !self.has_group(group) {
            return Err(Error::not_found(format!("there is no log group {group:?}")));
        }
        let events: Vec<(i64, String)> = records
            .iter()
            .map(|record| match serde_json::from_slice::<RuleEvent>(record) {
                Ok(event) => (event.timestamp, event.message),
                Err(_other) => (at.millis(), String::from_utf8_lossy(record).into_owned()),
            })
            .collect();
        self.append_all(group, stream, &events, at.millis())
    }

    pub(crate) fn append_all(
        &self,
        group: &str,
        stream: &str,
        events: &[(i64, String)],
        arrived_at: i64,
    ) -> Result<()> {
        let path = self.path(group, stream);
        let mut text = String::new();
        for (at, message) in events {
            let mut message = message.clone();
            if message.len() > EVENT_BYTES_MAX {
                let cut = (0..=EVENT_BYTES_MAX).rev().find(|at| message.is_char_boundary(*at));
                message.truncate(cut.unwrap_or_default());
            }
            let event = Event { at: *at, arrived_at, message };
            let line = serde_json::to_string(&event).map_err(|e| Error::internal(e.to_string()))?;
            text.push_str(&line);
            text.push('\n');
        }
        let failed = |e| Error::io(format!("write to log stream {stream:?}"), e);
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if !path.exists() && self.count()? >= STREAMS_MAX {
            let message = format!("there are {STREAMS_MAX} log streams; delete some groups");
            return Err(Error::new(ErrorKind::Exhausted, message));
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        if fs::metadata(&path).is_ok_and(|meta| meta.len() >= STREAM_BYTES_MAX / 2) {
            fs::rename(&path, path.with_extension("old")).map_err(failed)?;
        }
        let mut file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
        file.write_all(text.as_bytes()).map_err(failed)
    }

    /// Makes a group; whether it was new.
    pub(crate) fn create_group(&self, group: &str) -> Result<bool> {
        let folder = self.folder(group);
        match fs::create_dir(&folder) {
            Ok(()) => Ok(true),
            Err(cause) if cause.kind() == Io::AlreadyExists => Ok(false),
            Err(cause) => Err(Error::io(format!("make log group {group:?}"), cause)),
        }
    }

    pub(crate) fn has_group(&self, group: &str) -> bool {
        self.folder(group).is_dir()
    }

    /// Removes a group with its streams; whether there was one.
    pub(crate) fn delete_group(&self, group: &str) -> Result<bool> {
        match fs::remove_dir_all(self.folder(group)) {
            Ok(()) => Ok(true),
            Err(cause) if cause.kind() == Io::NotFound => Ok(false),
            Err(cause) => Err(Error::io(format!("remove log group {group:?}"), cause)),
        }
    }

    /// Removes a stream; whether there was one.
    pub(crate) fn delete_stream(&self, group: &str, stream: &str) -> Result<bool> {
        let path = self.path(group, stream);
        drop(fs::remove_file(path.with_extension("old")));
        match fs::remove_file(path) {
            Ok(()) => Ok(true),
            Err(cause) if cause.kind() == Io::NotFound => Ok(false),
            Err(cause) => Err(Error::io(format!("remove log stream {stream:?}"), cause)),
        }
    }

    /// All groups by name.
    pub(crate) fn groups(&self) -> Result<Vec<String>> {
        names(&self.root, None)
    }

    /// All streams of a group by name.
    pub(crate) fn streams(&self, group: &str) -> Result<Vec<String>> {
        names(&self.folder(group), Some("jsonl"))
    }

    /// When a group or stream was made, in milliseconds.
    pub(crate) fn created_at(&self, group: &str, stream: Option<&str>) -> i64 {
        let path = stream.map_or_else(|| self.folder(group), |stream| self.path(group, stream));
        let made = fs::metadata(path).and_then(|meta| meta.created().or_else(|_| meta.modified()));
        let since = made.ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
        since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// Makes an empty stream; whether it was new.
    pub(crate) fn create_stream(&self, group: &str, stream: &str) -> Result<bool> {
        let path = self.path(group, stream);
        if path.exists() {
            return Ok(false);
        }
        self.append_all(group, stream, &[], 0).map(|()| true)
    }

    /// The events of a stream in the order they came; `None` where there is no such stream.
    pub(crate) fn events(&self, group: &str, stream: &str) -> Result<Option<Vec<Event>>> {
        let path = self.path(group, stream);
        let mut events = Vec::new();
        let mut found = false;
        for path in [path.with_extension("old"), path] {
            let file = match fs::File::open(&path) {
                Ok(file) => file,
                Err(cause) if cause.kind() == Io::NotFound => continue,
                Err(cause) => return Err(Error::io(format!("read log stream {stream:?}"), cause)),
            };
            found = true;
            for line in BufReader::new(file).lines() {
                let line = line.map_err(|e| Error::io(format!("read log stream {stream:?}"), e))?;
                events.extend(serde_json::from_str::<Event>(&line));
            }
        }
        Ok(found.then_some(events))
    }

    fn folder(&self, group: &str) -> PathBuf {
        self.root.join(encoded(group))
    }

    fn path(&self, group: &str, stream: &str) -> PathBuf {
        self.folder(group).join(format!("{}.jsonl", encoded(stream)))
    }

    fn count(&self) -> Result<usize> {
        let mut count = 0;
        for group in self.groups()? {
            count += self.streams(&group)?.len();
        }
        Ok(count)
    }
}

/// Every character that a path could take for something is encoded.
fn encoded(name: &str) -> String {
    utf8_percent_encode(name, NON_ALPHANUMERIC).to_string()
}

fn names(folder: &Path, extension: Option<&str>) -> Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(cause) if cause.kind() == Io::NotFound => return Ok(Vec::new()),
        Err(cause) => return Err(Error::io("list logs", cause)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| Error::io("list logs", e))?.path();
        if path.extension().and_then(|e| e.to_str()) != extension {
            continue;
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        names.push(percent_decode_str(stem).decode_utf8_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
