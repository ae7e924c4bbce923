//! Device shadows: what a thing should be and what it says it is, kept for whoever asks.
//!
//! A request over MQTT is a message of the log like any other. One thread takes the requests in
//! the log's order, says the answers into the log and then writes the shadows, many in one
//! transaction. Requests over HTTP take the same turn.
//!
//! ```text
//! $aws/things/THING/shadow[/name/NAME]/{get,update,delete}            from clients
//! $aws/things/THING/shadow[/name/NAME]/{..}/{accepted,rejected}       answers
//! $aws/things/THING/shadow[/name/NAME]/update/{delta,documents}       news
//! ```
//!
//! Invariants
//! * An acknowledged request changes its shadow once, whatever happens: a shadow knows the last
//!   request in it, and the cursor stays behind what is not written.
//! * What is made of a request depends on the shadow and the message alone. So answers that were
//!   said before a kill may be said again after it, and then they are the same.
//! * Whoever appends requests holds the queue meanwhile: with the queue empty, every request below
//!   the durable offset has been taken.

mod document;

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use base::{Clock, Error, ErrorKind, Message, MessageRef, Offset, QoS, Result, Timestamp};
use journal::{Batch, Journal};
use metastore::{Metastore, Row};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tracing::{error, warn};

use crate::Broker;
use crate::counters::Counters;
use crate::hub::lock;
pub use document::ShadowRefusal;
use document::{Document, Request};

/// Below it lie the shadows' topics; clients may subscribe to them.
pub(crate) const THINGS: &str = "$aws/things/";

/// Our name among the log's readers.
const CONSUMER: &str = "broker-shadows";

/// Who the log says published the answers.
const PRINCIPAL: &str = "aws-iot";

/// AWS's bounds on names.
const THING_BYTES_MAX: usize = 128;
const NAME_BYTES_MAX: usize = 64;

/// Bytes of log read at once.
const READ_BYTES: usize = 256 * 1024;

/// Ranges of the log that may wait; beyond, the last one grows.
const RANGES_MAX: usize = 1024;

/// How often the thread looks up from waiting, and how often it moves its cursor: a sync.
const LOOK_UP: Duration = Duration::from_millis(250);
const MOVE: Duration = Duration::from_secs(5);

/// How long the version number of a deleted shadow is remembered, as on AWS.
const REMEMBERED_MS: i64 = 48 * 3600 * 1000;

/// Which shadow of which thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ShadowName<'a> {
    /// The thing. It need not be registered.
    pub thing: &'a str,
    /// `None` for the classic one.
    pub name: Option<&'a str>,
}

impl ShadowName<'_> {
    /// Refuses names that AWS would.
    pub fn check(&self) -> std::result::Result<(), ShadowRefusal> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '-');
        let ShadowName { thing, name } = *self;
        if thing.is_empty() || thing.len() > THING_BYTES_MAX || !thing.chars().all(plain) {
            return Err(ShadowRefusal::new(400, format!("{thing:?} is not a thing name")));
        }
        let wrong = |name: &&str| {
            let fits = (1..=NAME_BYTES_MAX).contains(&name.len());
            !fits || !name.chars().all(|c| plain(c) || c == '$')
        };
        if let Some(name) = name.filter(wrong) {
            let why = format!(
                "{name:?} is not a shadow name; use 1 to {NAME_BYTES_MAX} letters, digits, ':', \
                 '_', '-' and '$'"
            );
            return Err(ShadowRefusal::new(400, why));
        }
        Ok(())
    }

    /// The key of its row. No name holds a slash.
    fn key(&self) -> String {
        format!("{}/{}", self.thing, self.name.unwrap_or_default())
    }

    fn topic(&self, rest: &str) -> String {
        match self.name {
            None => format!("{THINGS}{}/shadow/{rest}", self.thing),
            Some(name) => format!("{THINGS}{}/shadow/name/{name}/{rest}", self.thing),
        }
    }
}

/// As AWS names a shadow in refusals.
impl fmt::Display for ShadowName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name {
            None => f.write_str(self.thing),
            Some(name) => write!(f, "{}~{name}", self.thing),
        }
    }
}

/// What is asked of a shadow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShadowAction {
    /// To tell it.
    Get,
    /// To change it, or make it.
    Update,
    /// To forget it.
    Delete,
}

impl ShadowAction {
    fn word(self) -> &'static str {
        match self {
            ShadowAction::Get => "get",
            ShadowAction::Update => "update",
            ShadowAction::Delete => "delete",
        }
    }
}

/// What a topic asks of which shadow; `None` if it is not for clients to publish to.
pub(crate) fn request(topic: &str) -> Option<(ShadowName<'_>, ShadowAction)> {
    let (thing, rest) = topic.strip_prefix(THINGS)?.split_once("/shadow/")?;
    let (name, word) = match rest.strip_prefix("name/") {
        Some(rest) => rest.split_once('/').map(|(name, word)| (Some(name), word))?,
        None => (None, rest),
    };
    let action = match word {
        "get" => ShadowAction::Get,
        "update" => ShadowAction::Update,
        "delete" => ShadowAction::Delete,
        _ => return None,
    };
    let shadow = ShadowName { thing, name };
    shadow.check().is_ok().then_some((shadow, action))
}

/// A shadow as it is kept.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct ShadowRow {
    document: Document,
    /// When it was deleted; its version number is remembered for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deleted_at: Option<Timestamp>,
    /// The log, and how far into it every request is in the document.
    log: String,
    next: u64,
}

impl Row for ShadowRow {
    const TABLE: &'static str = "broker-shadows";
}

/// Requests in the log that have not been taken.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    ranges: VecDeque<(Offset, Offset)>,
}

impl Queue {
    pub(crate) fn push(&mut self, from: Offset, to: Offset) {
        let full = self.ranges.len() >= RANGES_MAX;
        match self.ranges.back_mut() {
            Some(last) if last.1 == from || full => last.1 = to,
            _ => self.ranges.push_back((from, to)),
        }
    }
}

pub(crate) struct Shadows {
    store: Metastore,
    journal: Arc<dyn Journal>,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    bytes_max: usize,
    queue: Mutex<Queue>,
    arrived: Condvar,
    /// Held from reading shadows to writing them.
    turn: Mutex<()>,
    stopping: AtomicBool,
}

impl fmt::Debug for Shadows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shadows").finish_non_exhaustive()
    }
}

/// Shadows as one turn finds and changes them, and what it has to say.
#[derive(Default)]
struct Turn {
    rows: HashMap<String, (ShadowRow, bool)>,
    said: Vec<(String, Value)>,
}

impl Shadows {
    pub(crate) fn open(
        store: Metastore,
        journal: Arc<dyn Journal>,
        clock: Arc<dyn Clock>,
        counters: Arc<Counters>,
        bytes_max: usize,
    ) -> Result<Arc<Shadows>> {
        let durable = journal.durable();
        let mut queue = Queue::default();
        match journal.committed(CONSUMER)? {
            Some(at) if at < durable => queue.push(at, durable),
            Some(_) => {}
            // Logs of before hold no requests: they were refused.
            None => journal.commit(CONSUMER, durable)?,
        }
        Ok(Arc::new(Shadows {
            store,
            journal,
            clock,
            counters,
            bytes_max,
            queue: Mutex::new(queue),
            arrived: Condvar::new(),
            turn: Mutex::new(()),
            stopping: AtomicBool::new(false),
        }))
    }

    /// To be held while requests are appended, and told where they are.
    pub(crate) fn hold(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    pub(crate) fn wake(&self) {
        self.arrived.notify_one();
    }

    /// Takes requests from the log until [`stop`](Self::stop). Runs on a thread of its own.
    pub(crate) fn run(&self) {
        let mut moved = Instant::now();
        while !self.stopping() {
            let taken = self.next();
            let done = match taken {
                Some((from, to)) => self.take(from, to).then_some(to),
                // The end of the log may be further by now, but not with a request in between.
                None => {
                    let queue = self.hold();
                    queue.ranges.is_empty().then(|| self.journal.durable())
                }
            };
            let Some(done) = done.filter(|_| moved.elapsed() >= MOVE) else { continue };
            moved = Instant::now();
            let committed = self.journal.committed(CONSUMER);
            let result = match committed {
                Ok(Some(at)) if at >= done => Ok(()),
                Ok(_) => self.journal.commit(CONSUMER, done),
                Err(cause) => Err(cause),
            };
            if let Err(cause) = result {
                error!(%cause, "the log is kept longer than shadows need it");
            }
        }
    }

    /// Ends [`run`](Self::run) when the turn at hand is over.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        drop(self.hold());
        self.arrived.notify_all();
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn next(&self) -> Option<(Offset, Offset)> {
        let mut queue = self.hold();
        if queue.ranges.is_empty() {
            let waited = self.arrived.wait_timeout(queue, LOOK_UP);
            queue = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
        queue.ranges.pop_front()
    }

    /// Takes the requests of a part of the log; false when it could not, as the process ends.
    fn take(&self, from: Offset, to: Offset) -> bool {
        let mut at = from;
        while at < to {
            if self.stopping() {
                return false;
            }
            if self.journal.wait_durable(at, LOOK_UP) <= at {
                if self.journal.status().failed.is_some() {
                    std::thread::sleep(LOOK_UP);
                }
                continue;
            }
            let records = match self.journal.read(at, READ_BYTES) {
                Ok(records) => records,
                Err(cause) => {
                    error!(%cause, offset = %at, "failed to read the log for shadows");
                    std::thread::sleep(LOOK_UP);
                    continue;
                }
            };
            for skipped in &records.skipped {
                warn!(from = %skipped.from, to = %skipped.to, "the log has a gap; shadows miss it");
            }
            let is_request = |message: &MessageRef<'_>| request(message.topic).is_some();
            let asked: Vec<(Offset, Message)> = records
                .items
                .iter()
                .filter(|(offset, record)| {
                    *offset < to && MessageRef::decode(record).is_ok_and(|m| is_request(&m))
                })
                .filter_map(|(offset, record)| Some((*offset, Message::decode(record).ok()?)))
                .collect();
            if !asked.is_empty() && !self.take_all(&asked) {
                return false;
            }
            at = records.next;
        }
        true
    }

    /// One turn: the answers into the log, then the shadows into the store.
    fn take_all(&self, asked: &[(Offset, Message)]) -> bool {
        let _turn = lock(&self.turn);
        let mut turn = Turn::default();
        let made = self.insist("read shadows", || {
            turn = Turn::default();
            asked.iter().try_for_each(|(offset, message)| {
                let Some((shadow, action)) = request(&message.topic) else { return Ok(()) };
                let row = self.row(&mut turn, &shadow)?;
                if row.log == self.journal.id() && row.next > offset.0 {
                    return Ok(());
                }
                let at = Some((*offset, message.received_at));
                let (Ok(_) | Err(_)) =
                    self.act(&mut turn, &shadow, action, &message.payload, at)?;
                Ok(())
            })
        });
        made && self.insist("answer for shadows", || self.say(&turn.said))
            && self.insist("write shadows", || self.write(&turn))
    }

    /// Tries until it works; false when the process ends before.
    fn insist(&self, what: &str, mut attempt: impl FnMut() -> Result<()>) -> bool {
        loop {
            let Err(cause) = attempt() else { return true };
            if self.stopping() {
                return false;
            }
            error!(%cause, "failed to {what}; trying again");
            std::thread::sleep(LOOK_UP);
        }
    }

    fn row<'t>(&self, turn: &'t mut Turn, shadow: &ShadowName<'_>) -> Result<&'t mut ShadowRow> {
        let key = shadow.key();
        if !turn.rows.contains_key(&key) {
            let row = self.store.get::<ShadowRow>(&key)?.map(|found| found.row);
            turn.rows.insert(key.clone(), (row.unwrap_or_default(), false));
        }
        let row = turn.rows.get_mut(&key).map(|(row, _)| row);
        row.ok_or_else(|| Error::internal("a shadow just read is gone"))
    }

    /// What is made of one request, and what is said. `at` is where and when it was logged; with
    /// none it came over HTTP, which is told a refusal and an answer to get directly.
    fn act(
        &self,
        turn: &mut Turn,
        shadow: &ShadowName<'_>,
        action: ShadowAction,
        payload: &[u8],
        at: Option<(Offset, Timestamp)>,
    ) -> Result<std::result::Result<Value, ShadowRefusal>> {
        let now = at.map_or_else(|| self.clock.now(), |(_, received_at)| received_at);
        let now_secs = now.millis().div_euclid(1000);
        let row = self.row(turn, shadow)?;
        let (token, outcome) = apply(row, shadow, action, payload, now, self.bytes_max);
        let changed = outcome.is_ok() && action != ShadowAction::Get;
        if let (Some((offset, _)), true) = (at, changed) {
            (row.log, row.next) = (self.journal.id().to_owned(), offset.0 + 1);
        }
        if let Some((_, dirty)) = turn.rows.get_mut(&shadow.key()) {
            *dirty |= changed;
        }
        let word = action.word();
        let mut said = Vec::new();
        let answer = match outcome {
            Ok(Outcome { accepted, delta, documents }) => {
                self.counters.shadows_accepted.one();
                said.push((format!("{word}/accepted"), accepted.clone()));
                said.extend(delta.map(|delta| ("update/delta".to_owned(), delta)));
                said.extend(documents.map(|all| ("update/documents".to_owned(), all)));
                Ok(accepted)
            }
            Err(refusal) => {
                self.counters.shadows_rejected.one();
                let mut rejected = json!({
                    "code": refusal.code,
                    "message": refusal.message,
                    "timestamp": now_secs,
                });
                if let Some(token) = token {
                    rejected["clientToken"] = json!(token);
                }
                said.push((format!("{word}/rejected"), rejected));
                Err(refusal)
            }
        };
        if at.is_some() || changed {
            turn.said.extend(said.into_iter().map(|(rest, value)| (shadow.topic(&rest), value)));
        }
        Ok(answer)
    }

    /// Answers, on stable storage when it returns.
    fn say(&self, said: &[(String, Value)]) -> Result<()> {
        let mut batch = Batch::new();
        for (topic, value) in said {
            let payload = value.to_string();
            let message = MessageRef {
                topic,
                payload: payload.as_bytes(),
                client_id: "",
                principal: PRINCIPAL,
                received_at: self.clock.now(),
                qos: QoS::AtLeastOnce,
                retain: false,
            };
            if let Err(cause) = batch.push(|out| message.encode_into(out)) {
                error!(%cause, topic, "a message about a shadow is left out");
            }
        }
        if batch.is_empty() {
            return Ok(());
        }
        let appended = loop {
            match self.journal.append(&batch, None) {
                // A full log is not news, and publishers are told.
                Err(full) if full.kind() == ErrorKind::Exhausted && !self.stopping() => {
                    std::thread::sleep(LOOK_UP);
                }
                appended => break appended?,
            }
        };
        let last = Offset(appended.next().0 - 1);
        while self.journal.wait_durable(last, LOOK_UP) <= last {
            if self.journal.status().failed.is_some() {
                return Err(Error::new(ErrorKind::Unavailable, "the log failed"));
            }
        }
        self.counters.shadows_said.add(said.len() as u64);
        Ok(())
    }

    fn write(&self, turn: &Turn) -> Result<()> {
        let dirty = || turn.rows.iter().filter(|(_, (_, dirty))| *dirty);
        if dirty().next().is_none() {
            return Ok(());
        }
        self.store.transact(|transaction| {
            dirty().try_for_each(|(key, (row, _))| transaction.put(key, row).map(drop))
        })
    }

    /// A request over HTTP. Blocks on the disk.
    fn ask(
        &self,
        shadow: &ShadowName<'_>,
        action: ShadowAction,
        payload: &[u8],
    ) -> Result<std::result::Result<Value, ShadowRefusal>> {
        if action != ShadowAction::Get && !self.journal.has_room() {
            let why = "the log is full, and the news of the change would be lost";
            return Err(Error::new(ErrorKind::Exhausted, why));
        }
        let _turn = lock(&self.turn);
        let mut turn = Turn::default();
        let answer = self.act(&mut turn, shadow, action, payload, None)?;
        // The shadow first: whoever hears of a change must not find the old one.
        self.write(&turn)?;
        self.say(&turn.said)?;
        Ok(answer)
    }

    /// The names of a thing's named shadows, in order.
    fn names(&self, thing: &str) -> Result<Vec<String>> {
        let prefix = format!("{thing}/");
        let rows = self.store.list_prefix::<ShadowRow>(&prefix)?;
        let alive = rows.into_iter().filter(|(_, found)| found.row.is_alive());
        let names = alive.map(|(key, _)| key[prefix.len()..].to_owned());
        Ok(names.filter(|name| !name.is_empty()).collect())
    }
}

impl ShadowRow {
    fn is_alive(&self) -> bool {
        self.deleted_at.is_none() && self.document.version > 0
    }
}

/// What an accepted request says.
struct Outcome {
    accepted: Value,
    delta: Option<Value>,
    documents: Option<Value>,
}

/// Changes a row as a request wants it; gives the client's token, too.
fn apply(
    row: &mut ShadowRow,
    shadow: &ShadowName<'_>,
    action: ShadowAction,
    payload: &[u8],
    now: Timestamp,
    bytes_max: usize,
) -> (Option<String>, std::result::Result<Outcome, ShadowRefusal>) {
    let now_secs = now.millis().div_euclid(1000);
    let plain = |accepted| Outcome { accepted, delta: None, documents: None };
    if action == ShadowAction::Update {
        let request = match Request::update(payload) {
            Ok(request) => request,
            Err((token, refusal)) => return (token, Err(refusal)),
        };
        let forgotten = |at: Timestamp| now.millis() - at.millis() > REMEMBERED_MS;
        if row.deleted_at.is_some_and(forgotten) {
            row.document = Document::default();
        }
        let updated = row.document.update(&request, now_secs, bytes_max);
        let outcome = updated.map(|updated| {
            row.document = updated.document;
            row.deleted_at = None;
            let (accepted, delta) = (updated.accepted, updated.delta);
            Outcome { accepted, delta, documents: Some(updated.documents) }
        });
        return (request.token, outcome);
    }
    let request = match Request::bare(payload) {
        Ok(request) => request,
        Err(refusal) => return (None, Err(refusal)),
    };
    if !row.is_alive() {
        let why = format!("No shadow exists with name: '{shadow}'");
        return (request.token, Err(ShadowRefusal::new(404, why)));
    }
    if action == ShadowAction::Get {
        let answer = row.document.answer(&request, now_secs);
        return (request.token, Ok(plain(answer)));
    }
    let farewell = row.document.farewell(&request, now_secs);
    row.document = row.document.emptied(now_secs);
    row.deleted_at = Some(now);
    (request.token, Ok(plain(farewell)))
}

impl Broker {
    /// Whether shadows are kept here.
    pub fn keeps_shadows(&self) -> bool {
        self.shadows.is_some()
    }

    /// Asks something of a shadow from outside, as over HTTP: answers with the document that
    /// `accepted` carries, when it is on stable storage.
    pub async fn shadow(
        &self,
        shadow: ShadowName<'_>,
        action: ShadowAction,
        payload: &[u8],
    ) -> Result<std::result::Result<Value, ShadowRefusal>> {
        if let Err(refusal) = shadow.check() {
            return Ok(Err(refusal));
        }
        let shadows = self.kept_shadows()?;
        let (thing, name) = (shadow.thing.to_owned(), shadow.name.map(str::to_owned));
        let payload = payload.to_vec();
        blocking(move || {
            let shadow = ShadowName { thing: &thing, name: name.as_deref() };
            shadows.ask(&shadow, action, &payload)
        })
        .await
    }

    /// The names of a thing's named shadows, in order.
    pub async fn shadow_names(&self, thing: &str) -> Result<Vec<String>> {
        let shadows = self.kept_shadows()?;
        let thing = thing.to_owned();
        blocking(move || shadows.names(&thing)).await
    }

    fn kept_shadows(&self) -> Result<Arc<Shadows>> {
        let none = || Error::unsupported("device shadows are not kept here");
        self.shadows.clone().ok_or_else(none)
    }
}

async fn blocking<T: Send + 'static>(f: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let joined = tokio::task::spawn_blocking(f).await;
    joined.map_err(|_cause| Error::internal("a request for a shadow panicked"))?
}
