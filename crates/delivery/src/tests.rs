//! Streams at the room's border: a log in memory, real buckets, and crashes between the steps.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use base::{Error, ErrorKind, ManualClock, MessageRef, Offset, QoS, Result, Timestamp};
use bytes::Bytes;
use journal::{Appended, Batch, Bell, Journal, Records, SkipReason, Skipped};
use metastore::Metastore;
use objects::Buckets;
use rules::{Action, NewRule, RuleBook, base64};

mod hostile;
mod promises;
mod republish;
mod shapes;
mod trim;

use crate::live::Live;
use crate::shelf::{BucketShelf, Shelf};
use crate::worker::{Step, Worker};
use crate::{
    Balance, Column, Compression, NewStream, Schemas, Settings, StreamRow, StreamState, Streams,
    Tally,
};

// 2026-11-23T04:05:06Z
const START: i64 = 1_795_406_706_000;

/// A log in memory in which everything is durable at once.
#[derive(Debug, Default)]
struct MemoryLog {
    inner: Mutex<Inner>,
    grown: Condvar,
    full: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    records: Vec<Option<Bytes>>,
    first: u64,
    cursors: BTreeMap<String, Offset>,
}

impl MemoryLog {
    fn damage(&self, offsets: std::ops::Range<usize>) {
        self.inner.lock().unwrap().records[offsets].fill(None);
    }
}

impl Journal for MemoryLog {
    fn id(&self) -> &str {
        "0f0f"
    }

    fn append(&self, batch: &Batch, _: Option<&Arc<Bell>>) -> Result<Appended> {
        let mut inner = self.inner.lock().unwrap();
        let first = Offset(inner.records.len() as u64);
        inner.records.extend(batch.records().map(|record| Some(Bytes::copy_from_slice(record))));
        self.grown.notify_all();
        Ok(Appended { first, count: batch.len() as u64 })
    }

    fn durable(&self) -> Offset {
        Offset(self.inner.lock().unwrap().records.len() as u64)
    }

    fn first(&self) -> Offset {
        Offset(self.inner.lock().unwrap().first)
    }

    fn read(&self, from: Offset, _: usize) -> Result<Records> {
        let inner = self.inner.lock().unwrap();
        let mut records = Records { items: Vec::new(), next: from, skipped: Vec::new() };
        // Small reads, so that batches span several.
        while records.next.0 < inner.records.len() as u64 && records.items.len() < 7 {
            let offset = records.next;
            records.next = offset.plus(1);
            match &inner.records[offset.0 as usize] {
                Some(record) => records.items.push((offset, record.clone())),
                None => records.skipped.push(Skipped {
                    from: offset,
                    to: records.next,
                    reason: SkipReason::Corrupt,
                }),
            }
        }
        Ok(records)
    }

    fn watch(&self) -> Arc<Bell> {
        Bell::new()
    }

    fn wait_durable(&self, past: Offset, timeout: Duration) -> Offset {
        let inner = self.inner.lock().unwrap();
        let (inner, _) = self
            .grown
            .wait_timeout_while(inner, timeout, |inner| inner.records.len() as u64 <= past.0)
            .unwrap();
        Offset(inner.records.len() as u64)
    }

    fn has_room(&self) -> bool {
        !self.full.load(Ordering::SeqCst)
    }

    fn commit(&self, consumer: &str, next: Offset) -> Result<()> {
        let mut inner = self.inner.lock().unwrap();
        let cursor = inner.cursors.entry(consumer.to_owned()).or_default();
        assert!(*cursor <= next, "a cursor moves only forward");
        *cursor = next;
        Ok(())
    }

    fn committed(&self, consumer: &str) -> Result<Option<Offset>> {
        Ok(self.inner.lock().unwrap().cursors.get(consumer).copied())
    }

    fn forget(&self, consumer: &str) -> Result<()> {
        self.inner.lock().unwrap().cursors.remove(consumer);
        Ok(())
    }

    fn trim(&self) -> Result<Offset> {
        let mut inner = self.inner.lock().unwrap();
        let passed = inner.cursors.values().min().copied().unwrap_or_default();
        // What is trimmed cannot be read again: a delivery that needs it would show.
        let gone = passed.0 as usize;
        inner.records[..gone].fill(None);
        inner.first = passed.0;
        Ok(passed)
    }

    fn status(&self) -> journal::Status {
        unreachable!("no stream asks for the log's status")
    }
}

/// Real buckets that fail when told to.
#[derive(Debug)]
struct Shaky {
    inner: BucketShelf,
    /// So many puts fail before they do anything.
    refuse: AtomicUsize,
    /// So many puts succeed and answer with a failure.
    lie: AtomicUsize,
    puts: Mutex<Vec<(String, Bytes)>>,
}

fn take_one(count: &AtomicUsize) -> bool {
    count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

impl Shelf for Shaky {
    fn put(&self, bucket: &str, key: &str, bytes: Bytes) -> Result<()> {
        let down = || Error::new(ErrorKind::Unavailable, "the store is down");
        if take_one(&self.refuse) {
            return Err(down());
        }
        self.inner.put(bucket, key, bytes.clone())?;
        self.puts.lock().unwrap().push((key.to_owned(), bytes));
        if take_one(&self.lie) { Err(down()) } else { Ok(()) }
    }

    fn size(&self, bucket: &str, key: &str) -> Result<Option<u64>> {
        self.inner.size(bucket, key)
    }
}

/// One node's folder and log; streams are opened on it as often as a test restarts.
struct World {
    runtime: tokio::runtime::Runtime,
    _dir: tempfile::TempDir,
    store: Metastore,
    log: Arc<MemoryLog>,
    buckets: Buckets,
    shelf: Arc<Shaky>,
    rules: Arc<RuleBook>,
    table: Arc<Table>,
}

/// The one table of the catalog.
#[derive(Debug, Default)]
struct Table(Mutex<Vec<Column>>);

impl Table {
    fn set(&self, columns: &str) {
        let column = |text: &str| {
            let (name, hive_type) = text.split_once(' ').unwrap();
            Column { name: name.to_owned(), hive_type: hive_type.to_owned() }
        };
        *self.0.lock().unwrap() = columns.split(", ").map(column).collect();
    }
}

impl Schemas for Table {
    fn columns(&self, database: &str, table: &str, _: Option<u64>) -> Result<Vec<Column>> {
        if (database, table) != ("air", "readings") {
            return Err(Error::not_found(format!("there is no table {database}.{table}")));
        }
        Ok(self.0.lock().unwrap().clone())
    }
}

impl World {
    fn new() -> World {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let buckets = Buckets::open(dir.path()).unwrap();
        buckets.create_bucket("lake").unwrap();
        let store = Metastore::in_memory().unwrap();
        let shelf = Shaky {
            inner: BucketShelf { buckets: buckets.clone(), runtime: runtime.handle().clone() },
            refuse: AtomicUsize::new(0),
            lie: AtomicUsize::new(0),
            puts: Mutex::default(),
        };
        World {
            runtime,
            _dir: dir,
            log: Arc::default(),
            rules: Arc::new(RuleBook::open(store.clone()).unwrap()),
            store,
            buckets,
            shelf: Arc::new(shelf),
            table: Arc::default(),
        }
    }

    fn streams(&self) -> Streams {
        let settings = Settings {
            account_id: "123456789012".to_owned(),
            schemas: Some(Arc::clone(&self.table) as Arc<dyn Schemas>),
            retry_first: Duration::from_millis(1),
            retry_max: Duration::from_millis(2),
        };
        let clock = Arc::new(ManualClock::at(Timestamp(START)));
        Streams::with_shelf(
            self.store.clone(),
            self.log.clone(),
            self.buckets.clone(),
            self.shelf.clone(),
            self.rules.clone(),
            clock,
            settings,
        )
    }

    /// A stream `name` with small batches that wait for ever.
    fn stream(&self, name: &str, change: impl FnOnce(&mut StreamRow)) -> StreamRow {
        let mut new = NewStream::new(name, "lake");
        new.prefix = format!("{name}/");
        new.error_prefix = Some(format!("bad/{name}/"));
        new.interval_secs = 900;
        let mut row = StreamRow::new(&new, Timestamp(START), self.log.durable());
        change(&mut row);
        self.streams().insert(&row).unwrap()
    }

    fn rule(&self, name: &str, sql: &str, actions: &[(&str, Option<&str>, bool)]) -> NewRule {
        let action =
            |(stream, separator, batch_mode): &(&str, Option<&str>, bool)| Action::Firehose {
                stream: (*stream).to_owned(),
                separator: separator.map(str::to_owned),
                batch_mode: *batch_mode,
            };
        let new = NewRule {
            name: name.to_owned(),
            description: String::new(),
            sql: sql.to_owned(),
            actions: actions.iter().map(action).collect(),
            enabled: true,
        };
        self.rules.create(&new, Timestamp(START), || self.log.durable()).unwrap();
        new
    }

    fn publish(&self, topic: &str, payload: impl AsRef<[u8]>) {
        let at = START + self.log.durable().0 as i64 * 1_000;
        let message = MessageRef {
            topic,
            payload: payload.as_ref(),
            client_id: "dev-1",
            principal: "ab12",
            received_at: Timestamp(at),
            qos: QoS::AtLeastOnce,
            retain: false,
        };
        let mut batch = Batch::new();
        batch.push(|out| message.encode_into(out)).unwrap();
        self.log.append(&batch, None).unwrap();
    }

    /// Runs a worker as a new process would, until there is nothing more to read, and flushes;
    /// stops after `crash_after` if that step is reached. Says whether it came to the end.
    fn run(&self, name: &str, crash_after: Option<Step>) -> bool {
        let streams = self.streams();
        *streams.shared.crash_after.lock().unwrap() = crash_after;
        let live = Arc::new(Live::default());
        let mut worker = Worker::new(Arc::clone(&streams.shared), Arc::clone(&live), name).unwrap();
        live.lock().flush_to = self.log.durable();
        let mut work = || {
            worker.recover()?;
            while worker.turn()? {}
            worker.turn()
        };
        work().is_ok()
    }

    fn state(&self, name: &str) -> StreamState {
        self.store.get::<StreamState>(name).unwrap().unwrap().row
    }

    /// Every object of the bucket below `prefix`, unpacked.
    fn objects(&self, prefix: &str) -> BTreeMap<String, Vec<u8>> {
        let all = self.runtime.block_on(self.buckets.list("lake", prefix)).unwrap();
        all.into_iter()
            .map(|meta| {
                let bytes = self.runtime.block_on(self.buckets.get("lake", &meta.key)).unwrap();
                let mut unpacked = Vec::new();
                if meta.key.ends_with(".gz") {
                    flate2::read::GzDecoder::new(&*bytes).read_to_end(&mut unpacked).unwrap();
                } else {
                    unpacked = bytes.to_vec();
                }
                (meta.key, unpacked)
            })
            .collect()
    }

    /// All records or errors below `prefix`, by key and then in order, split at newlines.
    fn lines(&self, prefix: &str) -> Vec<String> {
        let all: Vec<u8> = self.objects(prefix).into_values().flatten().collect();
        String::from_utf8(all).unwrap().lines().map(str::to_owned).collect()
    }
}

fn add_up(tally: &Tally) {
    assert_eq!(tally.matched, tally.acted + tally.set_aside_count(), "{tally:?}");
}

const STEPS: [Step; 5] =
    [Step::Decided, Step::Uploaded, Step::ErrorsUploaded, Step::Advanced, Step::Committed];

/// A stream with a rule and 60 messages, every fifth of them unreadable.
fn sixty(compression: Compression) -> World {
    let world = World::new();
    world.stream("s", |row| {
        row.settings.size_bytes = 600;
        row.settings.compression = compression;
        row.settings.delimiter = Some("\n".to_owned());
    });
    world.rule("r", "SELECT *, newuuid() AS id FROM 'plant/#'", &[("s", None, false)]);
    for n in 0..60 {
        world.publish("other/1", "{}");
        if n % 5 == 4 {
            world.publish("plant/1", format!("{{\"n\":{n}"));
        } else {
            world.publish("plant/1", format!("{{\"n\":{n}}}"));
        }
    }
    world
}

#[test]
fn d1_d6_a_crash_after_any_step_changes_neither_keys_nor_bytes_nor_counts() {
    for compression in [Compression::None, Compression::Gzip] {
        let calm = sixty(compression);
        assert!(calm.run("s", None));
        let expect = calm.objects("");
        assert!(expect.len() >= 8, "several batches: {:?}", expect.keys());
        let numbers: Vec<u64> = calm
            .lines("s/")
            .iter()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["n"].as_u64().unwrap()
            })
            .collect();
        let sent: BTreeSet<u64> = (0..60).filter(|n| n % 5 != 4).collect();
        assert_eq!(numbers.len(), sent.len(), "each once");
        assert_eq!(numbers.into_iter().collect::<BTreeSet<u64>>(), sent);
        assert_eq!(calm.lines("bad/s/").len(), 12);
        for step in STEPS {
            let world = sixty(compression);
            // Crash at every delivery: each run gets one further at most.
            let mut runs = 0;
            while world.state("s").next < world.log.durable() {
                assert!(!world.run("s", Some(step)), "{step:?} was not reached");
                runs += 1;
                assert!(runs < 100, "{step:?}: no progress at {}", world.state("s").next);
                if matches!(step, Step::Decided | Step::Uploaded | Step::ErrorsUploaded) {
                    // Such a crash leaves the decision; carrying it out passes the later steps.
                    let pending = world.state("s").pending.unwrap();
                    assert!(world.run_to_recovery("s"));
                    assert_eq!(world.state("s").next, pending.next);
                }
            }
            assert!(world.run("s", None), "nothing is left to do");
            assert_eq!(world.objects(""), expect, "{step:?} {compression:?}");
            let (mut ours, theirs) = (world.state("s"), calm.state("s"));
            add_up(&ours.totals);
            assert_eq!(ours.totals.skipped, BTreeMap::new());
            assert_eq!(ours.balance(Offset(0)), Balance::default());
            ours.pending = theirs.pending.clone();
            assert_eq!(ours, theirs, "{step:?}");
            assert_eq!(world.log.committed("stream/s").unwrap(), Some(ours.next));
        }
    }
}

impl World {
    /// Only carries out what an earlier run decided.
    fn run_to_recovery(&self, name: &str) -> bool {
        let streams = self.streams();
        let live = Arc::new(Live::default());
        Worker::new(Arc::clone(&streams.shared), live, name).unwrap().recover().is_ok()
    }
}

#[test]
fn d6_a_replay_uploads_the_same_bytes_again() {
    let world = sixty(Compression::Gzip);
    assert!(!world.run("s", Some(Step::Uploaded)));
    let first = world.shelf.puts.lock().unwrap().clone();
    assert_eq!(first.len(), 1);
    assert!(world.run_to_recovery("s"));
    let puts = world.shelf.puts.lock().unwrap().clone();
    assert_eq!(puts[1], first[0]);
    // A GZIP header without a time: the same bytes on another day.
    assert_eq!(&puts[1].1[4..8], &[0; 4]);
}

#[test]
fn d6_a_store_that_fails_or_lies_is_tried_again_and_gets_each_object_once() {
    let calm = sixty(Compression::None);
    assert!(calm.run("s", None));
    let world = sixty(Compression::None);
    world.shelf.refuse.store(9, Ordering::SeqCst);
    world.shelf.lie.store(5, Ordering::SeqCst);
    assert!(world.run("s", None));
    assert_eq!(world.shelf.lie.load(Ordering::SeqCst), 0);
    assert_eq!(world.objects(""), calm.objects(""));
    assert_eq!(world.state("s").totals, calm.state("s").totals);
}

#[test]
fn d4_what_is_set_aside_comes_back_to_the_byte_with_its_reason() {
    let world = World::new();
    world.stream("s", |_| {});
    world.rule("r", "SELECT * FROM 'plant/#'", &[("s", None, false)]);
    let bad: [(&[u8], &str); 6] = [
        (b"{\"a\":NaN}", "\"NaN\" at byte 5 is not a JSON value"),
        (b"{\"a\":1e400}", "number \"1e400\" at byte 5 is outside the range of a double"),
        (b"{\"a\":1,\"a\":2}", "duplicate key \"a\" at byte 7"),
        (b"\xff\xfe\x00", "invalid UTF-8 at byte 0"),
        (
            b"{\"a\":1",
            "the payload ends at byte 6 where a comma or the end of the object should be",
        ),
        (b"", "the payload ends at byte 0 where a JSON value should be"),
    ];
    for (payload, _) in bad {
        world.publish("plant/1", payload);
        world.publish("plant/1", b"{\"good\":1}");
    }
    assert!(world.run("s", None));
    assert_eq!(world.objects("s/").values().next().unwrap(), "{\"good\":1}".repeat(6).as_bytes());
    let lines = world.lines("bad/s/processing-failed/2026/11/23/04/");
    assert_eq!(lines.len(), bad.len());
    for (index, (line, (payload, why))) in lines.iter().zip(bad).enumerate() {
        let error: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(base64::decode(error["rawData"].as_str().unwrap()).unwrap(), payload);
        assert_eq!(error["errorMessage"], format!("the payload is not JSON: {why}"));
        assert_eq!(error["errorCode"], "Rule.EvaluationFailed");
        assert_eq!(error["attemptsMade"], 1);
        assert_eq!(error["offset"], 2 * index);
        assert_eq!(error["arrivalTimestamp"], START + 2_000 * index as i64);
        assert_eq!((&error["rule"], &error["ruleVersion"]), (&"r".into(), &1.into()));
        assert_eq!((&error["topic"], &error["clientId"]), (&"plant/1".into(), &"dev-1".into()));
    }
    let totals = world.state("s").totals;
    add_up(&totals);
    assert_eq!((totals.read, totals.matched, totals.acted, totals.records), (12, 12, 6, 6));
    assert_eq!(totals.set_aside, [("Rule.EvaluationFailed".to_owned(), 6)].into());
    assert_eq!((totals.objects, totals.error_objects), (1, 1));
    assert_eq!(totals.record_bytes, 60);
}

#[test]
fn delimiters_separators_and_direct_puts() {
    let check = |delimiter: Option<&str>, separator: Option<&str>, expect: &str| {
        let world = World::new();
        world.stream("s", |row| row.settings.delimiter = delimiter.map(str::to_owned));
        world.stream("t", |_| {});
        world.rule("r", "SELECT * FROM 'a'", &[("s", separator, false)]);
        world.publish("a", "1");
        world.publish("$aws/firehose/s", "not json");
        world.publish("$aws/firehose/t", "elsewhere");
        world.publish("a", "2");
        assert!(world.run("s", None));
        let objects = world.objects("s/");
        assert_eq!(objects.len(), 1);
        assert_eq!(objects.values().next().unwrap(), expect.as_bytes());
        let totals = world.state("s").totals;
        add_up(&totals);
        assert_eq!((totals.matched, totals.record_bytes), (3, expect.len() as u64));
    };
    check(None, None, "1not json2");
    check(Some("\n"), None, "1\nnot json\n2\n");
    check(None, Some(","), "1,not json2,");
    check(Some("\n"), Some(","), "1,\nnot json\n2,\n");
}

#[test]
fn rules_act_from_their_offsets_also_when_read_late() {
    let world = World::new();
    world.stream("s", |row| row.settings.delimiter = Some("\n".to_owned()));
    let publish = |n: u32| world.publish("a", format!("{{\"n\":{n}}}"));
    publish(0);
    let rule = world.rule("r", "SELECT n FROM 'a'", &[("s", None, false)]);
    publish(1);
    let changed = NewRule { sql: "SELECT n, 'new' AS v FROM 'a'".to_owned(), ..rule };
    world.rules.replace(&changed, Timestamp(START), || world.log.durable()).unwrap();
    publish(2);
    world.rules.set_enabled("r", false, Timestamp(START), || world.log.durable()).unwrap();
    publish(3);
    world.rules.set_enabled("r", true, Timestamp(START), || world.log.durable()).unwrap();
    // Two rules, and one rule twice, give a record each.
    world.rule(
        "second",
        "SELECT VALUE n FROM '#' WHERE n = 4",
        &[("s", None, false), ("s", None, false)],
    );
    publish(4);
    publish(5);
    world.rules.delete("r", Timestamp(START), || world.log.durable()).unwrap();
    publish(6);
    assert!(world.run("s", None));
    assert_eq!(
        world.lines("s/"),
        [
            "{\"n\":1}",
            "{\"n\":2,\"v\":\"new\"}",
            "{\"n\":4,\"v\":\"new\"}",
            "4",
            "4",
            "{\"n\":5,\"v\":\"new\"}"
        ]
    );
    let totals = world.state("s").totals;
    add_up(&totals);
    assert_eq!((totals.read, totals.matched, totals.records), (7, 6, 6));
    let streams = world.streams();
    assert!(streams.prune_rules().unwrap() > 0);
    assert_eq!(streams.prune_rules().unwrap(), 0);
}

#[test]
fn batch_mode_splits_arrays_as_they_are_written() {
    let world = World::new();
    world.stream("s", |row| row.settings.delimiter = Some("|".to_owned()));
    world.rule("r", "SELECT * FROM 'a'", &[("s", None, true)]);
    let many = format!("[{}]", vec!["1"; 501].join(","));
    for payload in ["[1.0, {\"a\":[2,3]}]", "[]", "{\"a\":1}", &many] {
        world.publish("a", payload);
    }
    assert!(world.run("s", None));
    assert_eq!(world.objects("s/").values().next().unwrap(), b"1.0|{\"a\":[2,3]}|");
    let totals = world.state("s").totals;
    add_up(&totals);
    assert_eq!((totals.matched, totals.acted, totals.records), (4, 2, 2));
    let reasons: Vec<&str> = totals.set_aside.keys().map(String::as_str).collect();
    assert_eq!(reasons, ["Rule.BatchNotAnArray", "Rule.BatchTooLarge"]);
}

#[test]
fn damage_in_the_log_is_counted_and_passed() {
    let world = sixty(Compression::None);
    world.log.damage(10..14);
    world.log.damage(119..120);
    assert!(world.run("s", None));
    let totals = world.state("s").totals;
    add_up(&totals);
    assert_eq!(totals.skipped, [("corrupt".to_owned(), 5)].into());
    assert_eq!(totals.read, 115);
    assert_eq!(world.state("s").next, Offset(120));
    // What is known to be gone is not missing without a word.
    assert_eq!(world.state("s").balance(Offset(0)), Balance::default());
}

#[test]
fn damage_after_the_decision_does_not_replace_a_good_object() {
    let calm = sixty(Compression::None);
    assert!(calm.run("s", None));
    // The object is there: it stays.
    let world = sixty(Compression::None);
    assert!(!world.run("s", Some(Step::ErrorsUploaded)));
    world.log.damage(1..2);
    assert!(world.run("s", None));
    assert_eq!(world.objects(""), calm.objects(""));
    assert_eq!(world.state("s").totals, calm.state("s").totals);
    // It is not: what the log still gives is uploaded, and the loss is counted.
    let world = sixty(Compression::None);
    assert!(!world.run("s", Some(Step::Decided)));
    world.log.damage(1..2);
    assert!(world.run("s", None));
    assert_eq!(world.lines("s/"), calm.lines("s/")[1..]);
    assert_eq!(world.state("s").totals.skipped, [("corrupt".to_owned(), 1)].into());
}

#[test]
fn a_record_that_is_no_message_is_counted_and_passed() {
    let world = World::new();
    world.stream("s", |_| {});
    world.rule("r", "SELECT * FROM '#'", &[("s", None, false)]);
    let mut batch = Batch::new();
    batch
        .push(|out| {
            out.extend_from_slice(b"junk");
            Ok(())
        })
        .unwrap();
    world.log.append(&batch, None).unwrap();
    world.publish("a", "1");
    assert!(world.run("s", None));
    assert_eq!(world.state("s").totals.skipped, [("undecodable".to_owned(), 1)].into());
    assert_eq!(world.state("s").balance(Offset(0)), Balance::default());
    assert_eq!(world.lines("s/"), ["1"]);
}

#[test]
fn records_of_others_move_the_cursor_without_a_write_each() {
    let world = World::new();
    world.stream("s", |_| {});
    for _ in 0..100 {
        world.publish("other", "{}");
    }
    let streams = world.streams();
    let live = Arc::new(Live::default());
    let mut worker = Worker::new(Arc::clone(&streams.shared), Arc::clone(&live), "s").unwrap();
    let version = || world.store.get::<StreamState>("s").unwrap().unwrap().version;
    let before = version();
    while worker.turn().unwrap() {}
    assert_eq!(live.lock().position, Offset(100));
    assert_eq!((version(), world.state("s").next), (before, Offset(0)));
    // A full log wants to know at once, so that it can forget.
    world.log.full.store(true, Ordering::SeqCst);
    worker.turn().unwrap();
    assert_eq!(world.state("s").next, Offset(100));
    assert_eq!(world.log.first(), Offset(100));
    world.log.full.store(false, Ordering::SeqCst);
    // So does a stop.
    world.publish("other", "{}");
    worker.turn().unwrap();
    live.lock().stop = true;
    assert!(worker.turn().is_err());
    assert_eq!(world.state("s").next, Offset(101));
    assert!(world.objects("").is_empty());
}

#[test]
fn age_ends_a_batch_and_a_stop_leaves_it_in_the_log() {
    let world = World::new();
    world.stream("now", |row| row.settings.interval_secs = 0);
    world.stream("late", |_| {});
    world.rule("r", "SELECT * FROM '#'", &[("now", None, false), ("late", None, false)]);
    world.publish("a", "1");
    let turn = |name| {
        let streams = world.streams();
        let live = Arc::new(Live::default());
        let mut worker = Worker::new(Arc::clone(&streams.shared), Arc::clone(&live), name).unwrap();
        worker.turn().unwrap();
        live.lock().stop = true;
        assert!(worker.turn().is_err());
    };
    turn("now");
    turn("late");
    assert_eq!((world.lines("now/").len(), world.lines("late/").len()), (1, 0));
    assert_eq!(world.state("late").next, Offset(0));
    assert!(world.run("late", None));
    assert_eq!(world.lines("late/"), ["1"]);
}

#[test]
fn a_log_that_was_replaced_is_refused() {
    let mut world = World::new();
    world.publish("a", "1");
    world.stream("s", |_| {});
    world.log = Arc::default();
    let error = world.streams().start("s").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("stands at offset 1"), "{error}");
}

#[test]
fn workers_on_their_threads_flush_fail_apart_and_stop() {
    let world = World::new();
    let streams = world.streams();
    for name in ["a", "b"] {
        let mut new = NewStream::new(name, "lake");
        new.prefix = format!("{name}/");
        new.interval_secs = 900;
        streams.create(&new).unwrap();
        world.rule(
            &format!("r{name}"),
            &format!("SELECT * FROM '{name}'"),
            &[(name, Some("\n"), false)],
        );
    }
    assert_eq!(streams.flush("a", Duration::ZERO).unwrap_err().kind(), ErrorKind::Unavailable);
    streams.start_all().unwrap();
    streams.start("a").unwrap();
    for n in 0..100 {
        world.publish("a", n.to_string());
        world.publish("b", n.to_string());
    }
    // While the store is down, a flush says so and what it waits for stays where it is.
    world.shelf.refuse.store(usize::MAX, Ordering::SeqCst);
    let error = streams.flush("a", Duration::from_millis(200)).unwrap_err();
    assert!(error.to_string().contains("failed to upload an object: the store is down"), "{error}");
    let status = streams.status("a").unwrap();
    assert!(status.running && status.lag == 200 && status.retrying.is_some(), "{status:?}");
    world.shelf.refuse.store(0, Ordering::SeqCst);
    for name in ["a", "b"] {
        assert_eq!(streams.flush(name, Duration::from_secs(20)).unwrap(), Offset(200));
        let status = streams.status(name).unwrap();
        assert_eq!((status.lag, status.retrying, status.held_bytes), (0, None, 0));
        assert_eq!(world.lines(&format!("{name}/")).len(), 100);
    }
    // Deleting: not while a rule needs it.
    let error = streams.delete("a").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("\"ra\""), "{error}");
    world.rules.delete("ra", Timestamp(START), || world.log.durable()).unwrap();
    streams.delete("a").unwrap();
    assert_eq!(streams.describe("a").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(world.log.committed("stream/a").unwrap(), None);
    assert_eq!(streams.list().unwrap().len(), 1);
    streams.stop_all();
    assert!(!streams.status("b").unwrap().running);
}

#[test]
fn streams_that_cannot_be_are_refused() {
    let world = World::new();
    let streams = world.streams();
    let check = |change: fn(&mut NewStream), kind: ErrorKind, part: &str| {
        let mut new = NewStream::new("s", "lake");
        change(&mut new);
        let error = streams.create(&new).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert!(streams.list().unwrap().is_empty());
    };
    check(
        |new| new.bucket = "nowhere".to_owned(),
        ErrorKind::NotFound,
        "\"nowhere\" does not exist",
    );
    check(|new| new.prefix = "/x".to_owned(), ErrorKind::Invalid, "a component is empty");
    check(|new| new.prefix = "a/../".to_owned(), ErrorKind::Invalid, "'..'");
    check(|new| new.error_prefix = Some("//".to_owned()), ErrorKind::Invalid, "empty");
    check(|new| new.size_bytes = 1, ErrorKind::Invalid, "1 bytes");
    streams.create(&NewStream::new("s", "lake")).unwrap();
    let again = streams.create(&NewStream::new("s", "lake")).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    for n in 1..50 {
        streams.create(&NewStream::new(format!("s{n}"), "lake")).unwrap();
    }
    let full = streams.create(&NewStream::new("one-more", "lake")).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Exhausted);
}

#[test]
fn new_settings_hold_for_what_is_not_decided_and_for_nothing_else() {
    let world = World::new();
    let row = world.stream("s", |row| row.settings.delimiter = Some("\n".to_owned()));
    world.rule("r", "SELECT * FROM 'plant/#'", &[("s", None, false)]);
    for n in 0..5 {
        world.publish("plant/1", n.to_string());
    }
    // Decided and not uploaded; then the settings change twice, the second time after records
    // that no decision covers.
    assert!(!world.run("s", Some(Step::Decided)));
    let streams = world.streams();
    let to = |delimiter: &str, prefix: &str| NewStream {
        delimiter: Some(delimiter.to_owned()),
        prefix: prefix.to_owned(),
        ..row.settings.clone()
    };
    assert_eq!(streams.update(1, &to("|", "new/")).unwrap().version, 2);
    for n in 5..9 {
        world.publish("plant/1", n.to_string());
    }
    assert_eq!(streams.update(2, &to("+", "newer/")).unwrap().version, 3);
    let error = streams.update(2, &to("-", "s/")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(world.run("s", None));
    assert!(world.objects("new/").is_empty());
    let text = |prefix: &str| {
        let bytes: Vec<u8> = world.objects(prefix).into_values().flatten().collect();
        String::from_utf8(bytes).unwrap()
    };
    assert_eq!(text("s/"), "0\n1\n2\n3\n4\n");
    assert_eq!(text("newer/"), "5+6+7+8+");
    let state = world.state("s");
    assert_eq!((state.totals.records, state.pending_under), (9, None));
    let gone = streams.update(3, &NewStream { name: "t".to_owned(), ..row.settings.clone() });
    assert_eq!(gone.unwrap_err().kind(), ErrorKind::NotFound);
    let nowhere = NewStream { bucket: "nowhere".to_owned(), ..row.settings.clone() };
    assert_eq!(streams.update(3, &nowhere).unwrap_err().kind(), ErrorKind::NotFound);
}
