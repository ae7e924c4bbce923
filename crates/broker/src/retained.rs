//! The last retained message of each topic.
//!
//! A retained message is a record of the log first; this is an index over it, in memory, with
//! rows in the metastore that follow it. The log is not trimmed past what the rows lack, and is
//! read from there when the broker opens, so that an acknowledged message is retained whatever
//! happens.
//!
//! Invariants
//! * Whoever appends retained records holds the index meanwhile: who holds it sees every retained
//!   record below the durable offset.
//! * A row is written only for what is durable, and the cursor stays behind what is not written.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use base::{Error, Message, MessageRef, Offset, Properties, QoS, Result, Timestamp, TopicFilter};
use bytes::Bytes;
use journal::Journal;
use metastore::{Metastore, Row};
use serde::{Deserialize, Serialize};

use crate::codec;
use crate::hub::lock;
use crate::settings::Settings;

/// Our name among the log's readers.
const CONSUMER: &str = "broker-retained";

/// Longest topic under which a message is retained: it is the key of a row.
const TOPIC_BYTES_MAX: usize = 1_024;

/// Bytes of log read at once when the broker opens.
const READ_BYTES: usize = 1024 * 1024;

/// While nothing is retained the cursor moves with every so many calls of `save`: each move is a
/// sync, and the log is not trimmed past the cursor.
const CALLS_PER_MOVE: u32 = 4;

/// One retained message as a row; the key is its topic.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct RetainedRow {
    offset: u64,
    /// The log's record, in hex.
    record: String,
}

impl Row for RetainedRow {
    const TABLE: &'static str = "broker-retained";
}

/// A message that is retained.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) offset: Offset,
    pub(crate) record: Bytes,
    expires_at: Option<Timestamp>,
}

/// A change not yet written.
#[derive(Clone, Copy, Debug)]
struct Dirty {
    first: Offset,
    last: Offset,
}

/// The index.
#[derive(Debug, Default)]
pub(crate) struct Index {
    topics: BTreeMap<String, Entry>,
    bytes: usize,
    dirty: BTreeMap<String, Dirty>,
}

/// What a list of retained messages says of each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RetainedSummary {
    /// Its topic.
    pub topic: String,
    /// Bytes of its payload.
    pub payload_bytes: usize,
    /// The publisher's quality of service.
    #[serde(skip)]
    pub qos: QoS,
    /// When it arrived.
    pub modified_at: Timestamp,
}

#[derive(Debug)]
pub(crate) struct Retained {
    store: Metastore,
    journal: Arc<dyn Journal>,
    index: Mutex<Index>,
    count_max: usize,
    bytes_max: usize,
    calls: AtomicU32,
}

impl Retained {
    pub(crate) fn open(
        store: Metastore,
        journal: Arc<dyn Journal>,
        settings: &Settings,
    ) -> Result<Retained> {
        let durable = journal.durable();
        let mut index = Index::default();
        for (topic, row) in store.list::<RetainedRow>()? {
            let record = unhex(&row.row.record).ok_or_else(|| {
                Error::new(base::ErrorKind::Corrupt, format!("retained message of {topic:?}"))
            })?;
            // An offset of another log would never be reached in this one.
            let offset = Offset(row.row.offset);
            let offset = if offset < durable { offset } else { Offset::default() };
            index.put(topic, offset, Bytes::from(record));
        }
        // Logs of before hold nothing retained: it was refused.
        let mut at = match journal.committed(CONSUMER)? {
            Some(at) => at,
            None => {
                journal.commit(CONSUMER, durable)?;
                durable
            }
        };
        while at < durable {
            let records = journal.read(at, READ_BYTES)?;
            for (offset, record) in &records.items {
                index.note(*offset, record);
            }
            if records.next <= at {
                break;
            }
            at = records.next;
        }
        Ok(Retained {
            store,
            journal,
            index: Mutex::new(index),
            count_max: settings.retained_count_max,
            bytes_max: settings.retained_bytes_max,
            calls: AtomicU32::new(0),
        })
    }

    pub(crate) fn hold(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    /// Why a message cannot be retained. One of several that come at the same time may go a
    /// little beyond a bound.
    pub(crate) fn refuses(&self, topic: &str, payload: &[u8]) -> Option<String> {
        if topic.len() > TOPIC_BYTES_MAX {
            let bytes = topic.len();
            return Some(format!(
                "a topic of {bytes} bytes; messages are retained under at most {TOPIC_BYTES_MAX}"
            ));
        }
        let index = self.hold();
        let known = index.topics.get(topic).map_or(0, |entry| entry.record.len());
        if payload.is_empty() {
            return None;
        }
        if known == 0 && index.topics.len() >= self.count_max {
            return Some(format!("{} messages are retained, the most allowed", self.count_max));
        }
        if index.bytes - known + payload.len() > self.bytes_max {
            return Some(format!("retained messages may have {} bytes together", self.bytes_max));
        }
        None
    }

    pub(crate) fn get(&self, topic: &str, now: Timestamp) -> Option<Entry> {
        let index = self.hold();
        index.topics.get(topic).filter(|entry| entry.lives(now)).cloned()
    }

    /// The record at an offset that has left the log.
    pub(crate) fn at(&self, offset: Offset) -> Option<Bytes> {
        let index = self.hold();
        index.topics.values().find(|e| e.offset == offset).map(|e| e.record.clone())
    }

    pub(crate) fn list(&self, now: Timestamp) -> Vec<RetainedSummary> {
        let index = self.hold();
        let living = index.topics.values().filter(|entry| entry.lives(now));
        let messages = living.filter_map(|entry| MessageRef::decode(&entry.record).ok());
        messages
            .map(|message| RetainedSummary {
                topic: message.topic.to_owned(),
                payload_bytes: message.payload.len(),
                qos: message.qos,
                modified_at: message.received_at,
            })
            .collect()
    }

    /// Drops what has expired, writes what changed and moves the cursor. Waits for the disk.
    pub(crate) fn save(&self, now: Timestamp) -> Result<()> {
        let (changes, cursor) = {
            let mut index = self.hold();
            let durable = self.journal.durable();
            index.expire(now);
            let ready: Vec<(String, Dirty)> = index
                .dirty
                .iter()
                .filter(|(_, dirty)| dirty.last < durable)
                .map(|(topic, dirty)| (topic.clone(), *dirty))
                .collect();
            let waiting = index.dirty.values().filter(|dirty| dirty.last >= durable);
            let cursor = waiting.map(|dirty| dirty.first).min().unwrap_or(durable).min(durable);
            let changes: Vec<_> = ready
                .into_iter()
                .map(|(topic, dirty)| {
                    let row = index.topics.get(&topic).map(|entry| RetainedRow {
                        offset: entry.offset.0,
                        record: hex(&entry.record),
                    });
                    (topic, dirty, row)
                })
                .collect();
            (changes, cursor)
        };
        let committed = self.journal.committed(CONSUMER)?.unwrap_or_default();
        let calls = self.calls.fetch_add(1, Ordering::Relaxed);
        if changes.is_empty() && !calls.is_multiple_of(CALLS_PER_MOVE) {
            return Ok(());
        }
        if !changes.is_empty() {
            self.store.transact(|transaction| {
                for (topic, _, row) in &changes {
                    match row {
                        Some(row) => transaction.put(topic, row).map(drop)?,
                        None => transaction.delete::<RetainedRow>(topic).map(drop)?,
                    }
                }
                Ok(())
            })?;
        }
        let mut index = self.hold();
        for (topic, written, _) in &changes {
            // What changed again meanwhile stays to be written.
            if index.dirty.get(topic).is_some_and(|dirty| dirty.last == written.last) {
                index.dirty.remove(topic);
            }
        }
        drop(index);
        if cursor > committed { self.journal.commit(CONSUMER, cursor) } else { Ok(()) }
    }
}

impl Entry {
    fn lives(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|at| now < at)
    }
}

impl Index {
    /// Takes a record just appended, if it is to be retained.
    pub(crate) fn note(&mut self, offset: Offset, record: &[u8]) {
        let Ok(message) = MessageRef::decode(record) else { return };
        let older = self.topics.get(message.topic).is_some_and(|entry| entry.offset > offset);
        if !message.retain || older {
            return;
        }
        if message.payload.is_empty() {
            self.remove(message.topic);
        } else {
            self.put(message.topic.to_owned(), offset, Bytes::copy_from_slice(record));
        }
        let dirty = self.dirty.entry(message.topic.to_owned());
        dirty.or_insert(Dirty { first: offset, last: offset }).last = offset;
    }

    fn put(&mut self, topic: String, offset: Offset, record: Bytes) {
        self.remove(&topic);
        self.bytes += record.len();
        let expires_at = expires_at(&record);
        self.topics.insert(topic, Entry { offset, record, expires_at });
    }

    fn remove(&mut self, topic: &str) {
        if let Some(entry) = self.topics.remove(topic) {
            self.bytes -= entry.record.len();
        }
    }

    fn expire(&mut self, now: Timestamp) {
        let over = self.topics.iter().filter(|(_, entry)| !entry.lives(now));
        let over: Vec<(String, Offset)> = over.map(|(t, e)| (t.clone(), e.offset)).collect();
        for (topic, offset) in over {
            self.remove(&topic);
            let dirty = self.dirty.entry(topic);
            dirty.or_insert(Dirty { first: offset, last: offset });
        }
    }

    /// The messages before `until` that a filter selects, by topic, from behind `after` on.
    pub(crate) fn matching<'i>(
        &'i self,
        filter: &'i TopicFilter,
        until: Offset,
        now: Timestamp,
        after: Option<&str>,
    ) -> impl Iterator<Item = (&'i str, &'i Entry)> {
        let text = filter.as_str();
        let wild = text.find(['+', '#']);
        // `a/#` selects `a` as well.
        let prefix = wild.map_or(text, |wild| text[..wild].trim_end_matches('/'));
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        // Without wildcards there is one topic at most, and it comes first.
        let most = if wild.is_some() { usize::MAX } else { 1 };
        self.topics
            .range::<str, _>((from, Bound::Unbounded))
            .take(most)
            .take_while(move |(topic, _)| topic.starts_with(prefix))
            .filter(move |(topic, entry)| {
                filter.matches(topic) && entry.offset < until && entry.lives(now)
            })
            .map(|(topic, entry)| (topic.as_str(), entry))
    }
}

/// The message of a record, for those who ask for it by topic.
pub(crate) fn message(entry: &Entry) -> Option<(Message, Properties)> {
    let (_, extras) = MessageRef::decode_with(&entry.record).ok()?;
    let properties = Properties::decode(extras.properties).unwrap_or_default();
    Some((Message::decode(&entry.record).ok()?, properties))
}

fn expires_at(record: &[u8]) -> Option<Timestamp> {
    let (message, extras) = MessageRef::decode_with(record).ok()?;
    let secs = codec::without_expiry(extras.properties, &mut Vec::new())?;
    Some(Timestamp(message.received_at.0.saturating_add(i64::from(secs) * 1000)))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |at: u8| char::from(DIGITS[usize::from(at)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some((digit(*pair.first()?)? << 4) | digit(*pair.get(1)?)?)).collect()
}
