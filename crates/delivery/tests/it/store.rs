//! Delivery to a store elsewhere: whatever happens on the way, every acknowledged record lies in
//! one object, and only there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aws_s3::Patience;
use base::Timestamp;
use delivery::{Backup, Compression, NewStream, Settings, StreamStatus};
use journal::Journal;
use objects::{Buckets, Remote};
use rules::base64;
use tokio::runtime::Runtime;

use crate::faulty::{Fault, Store, Way, bucket_at, hasty};
use crate::{Node, WAIT, reading, rule};

/// Everything that can happen to one request and passes by itself.
const PASSING: [Fault; 11] = [
    Fault::Failed,
    Fault::SlowDown,
    Fault::TooMany,
    Fault::Refused,
    Fault::ResetInBody,
    Fault::Cut,
    Fault::StoredThenFailed,
    Fault::StoredThenSilent,
    Fault::StoredThenReset,
    Fault::StoredThenTorn,
    Fault::Silent,
];

/// A store, the way to it, and the folder of a node whose bucket `far` lies there.
struct World {
    runtime: Runtime,
    dir: tempfile::TempDir,
    store: Store,
    way: Way,
    patience: Patience,
    secret: &'static str,
    log_bytes_max: Option<u64>,
}

impl World {
    fn new(seed: u64) -> World {
        let runtime = Runtime::new().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let store = Store::start(&dir.path().join("store"), &runtime);
        let way = Way::start(&store, seed);
        let (patience, secret) = (hasty(), "secret");
        World { runtime, dir, store, way, patience, secret, log_bytes_max: None }
    }

    fn open(&self) -> Node {
        let far = bucket_at(self.way.addr, self.patience, self.secret);
        let settings = Settings {
            retry_first: Duration::from_millis(5),
            retry_max: Duration::from_millis(100),
            ..Settings::default()
        };
        let remotes = BTreeMap::from([("far".to_owned(), far)]);
        let data = self.dir.path().join("data");
        Node::open_with(&data, &self.runtime, remotes, settings, self.log_bytes_max)
    }

    /// A node with a stream `readings` to the bucket `far`, in batches of about a megabyte.
    fn begin(&self, change: impl FnOnce(&mut NewStream)) -> Node {
        std::fs::create_dir_all(self.dir.path().join("data")).unwrap();
        let node = self.open();
        let mut new = NewStream::new("readings", "far");
        new.prefix = "air/".to_owned();
        new.error_prefix = Some("errors/".to_owned());
        new.size_bytes = 1024 * 1024;
        new.interval_secs = 900;
        new.delimiter = Some("\n".to_owned());
        change(&mut new);
        node.streams.create(&new).unwrap();
        let rule = rule("all", "readings");
        node.rules.create(&rule, Timestamp(0), || node.log.durable()).unwrap();
        node.streams.start_all().unwrap();
        node
    }

    /// What lies in the store below a prefix of the bucket, read from its folder.
    fn objects(&self, prefix: &str) -> BTreeMap<String, Vec<u8>> {
        let prefix = format!("from/forebay/{prefix}");
        let listed = self.runtime.block_on(self.store.buckets.list("there", &prefix)).unwrap();
        let read = |key: &str| self.runtime.block_on(self.store.buckets.get("there", key));
        listed.into_iter().map(|m| (m.key.clone(), read(&m.key).unwrap().to_vec())).collect()
    }

    /// How often each reading lies in objects below a prefix.
    fn numbers(&self, prefix: &str) -> BTreeMap<u64, u64> {
        let mut found = BTreeMap::new();
        for (key, bytes) in self.objects(prefix) {
            for n in numbers_of(&key, &bytes) {
                *found.entry(n).or_default() += 1;
            }
        }
        found
    }

    fn assert_each_once(&self, prefix: &str, expect: impl Iterator<Item = u64>) {
        let found = self.numbers(prefix);
        let doubled: Vec<_> = found.iter().filter(|(_, times)| **times != 1).take(5).collect();
        assert!(doubled.is_empty(), "{prefix}: {doubled:?} of {}", found.len());
        let (found, expect): (BTreeSet<u64>, BTreeSet<u64>) =
            (found.into_keys().collect(), expect.collect());
        let lost: Vec<_> = expect.difference(&found).take(5).collect();
        let invented: Vec<_> = found.difference(&expect).take(5).collect();
        assert!(lost.is_empty() && invented.is_empty(), "{prefix}: lost {lost:?}, {invented:?}");
    }

    fn fail_until(&self, node: &Node, what: &str) -> StreamStatus {
        let mut status = node.streams.status("readings").unwrap();
        e2e::wait_for(what, WAIT, || {
            status = node.streams.status("readings").unwrap();
            status.retrying.as_deref().is_some_and(|why| why.contains(what))
        });
        status
    }
}

/// The readings in an object, which must be whole.
fn numbers_of(key: &str, bytes: &[u8]) -> Vec<u64> {
    let mut text = String::new();
    let plain: &[u8] = match key.ends_with(".gz") {
        true => {
            std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(bytes), &mut text)
                .unwrap_or_else(|cause| panic!("{key} is torn: {cause}"));
            text.as_bytes()
        }
        false => bytes,
    };
    assert!(plain.ends_with(b"\n"), "{key} ends within a record");
    let lines = plain.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let number = |line: &[u8]| {
        let value: serde_json::Value =
            serde_json::from_slice(line).unwrap_or_else(|cause| panic!("{key}: {cause}"));
        value["n"].as_u64().unwrap()
    };
    lines.map(number).collect()
}

/// Lists and reads the bucket by the straight way while something else goes on; gives how many
/// objects it saw. What was there stays there and stays as it was.
struct Reader {
    over: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<usize>,
}

impl Reader {
    fn start(remote: Remote, dir: &Path) -> Reader {
        let over = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&over);
        let folder = dir.join("reader");
        let thread = std::thread::spawn(move || {
            let runtime = Runtime::new().unwrap();
            let remotes = BTreeMap::from([("far".to_owned(), remote)]);
            let buckets = Buckets::open_with(&folder, remotes).unwrap();
            let mut known: BTreeMap<String, String> = BTreeMap::new();
            let mut last = false;
            while !last {
                last = stop.load(Ordering::SeqCst);
                let listed = runtime.block_on(buckets.list("far", "air/")).unwrap();
                let now: BTreeSet<&String> = listed.iter().map(|object| &object.key).collect();
                assert!(known.keys().all(|key| now.contains(key)), "an object is gone");
                for object in &listed {
                    if let Some(before) = known.get(&object.key) {
                        assert_eq!(before, &object.etag, "{} was written anew", object.key);
                        continue;
                    }
                    let bytes = runtime.block_on(buckets.get("far", &object.key)).unwrap();
                    assert_eq!(bytes.len() as u64, object.bytes, "{}", object.key);
                    assert!(!numbers_of(&object.key, &bytes).is_empty());
                    known.insert(object.key.clone(), object.etag.clone());
                }
            }
            known.len()
        });
        Reader { over, thread }
    }

    fn end(self) -> usize {
        self.over.store(true, Ordering::SeqCst);
        self.thread.join().unwrap()
    }
}

/// Rounds of readings, good and bad, over a way with every fault that passes, with restarts
/// among them.
fn battery(rounds: u64, seed: u64) {
    let world = World::new(seed);
    let backup = |new: &mut NewStream| {
        new.compression = Compression::Gzip;
        new.backup = Some(Backup {
            bucket: "far".to_owned(),
            prefix: "kept/".to_owned(),
            compression: Compression::None,
        });
    };
    let mut node = world.begin(backup);
    let reader = Reader::start(world.store.straight(), world.dir.path());
    let each = 3_000;
    // Every thousandth reading is cut off in the middle.
    let payload = |n: u64| match n % 1_000 {
        7 => reading(n)[..20].to_owned(),
        _ => reading(n),
    };
    world.way.deal(&PASSING, PASSING.len());
    for round in 0..rounds {
        for part in 0..3 {
            let from = round * each + part * 1_000;
            node.try_publish(from..from + 1_000, payload).unwrap();
        }
        if round % 4 == 3 {
            drop(node);
            node = world.open();
            node.streams.start_all().unwrap();
        }
    }
    let all = rounds * each;
    let begun = Instant::now();
    node.streams.flush("readings", Duration::from_secs(300)).unwrap();
    let fired = world.way.fired();
    let seen = reader.end();
    let status = node.streams.status("readings").unwrap();
    println!(
        "a faulty store: {rounds} rounds, {all} records, caught up in {} ms, {} objects, reader \
         saw {seen}, faults {fired:?}, seed {seed}",
        begun.elapsed().as_millis(),
        status.totals.objects,
    );
    for fault in PASSING {
        assert!(fired.get(&fault).is_some_and(|times| *times > 0), "{fault:?} never happened");
    }
    let good = |n: &u64| n % 1_000 != 7;
    world.assert_each_once("air/", (0..all).filter(good));
    let bad: BTreeSet<Vec<u8>> = world
        .objects("errors/")
        .values()
        .flat_map(|bytes| bytes.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect::<Vec<_>>())
        .filter(|line| !line.is_empty())
        .map(|line| {
            let error: serde_json::Value = serde_json::from_slice(&line).unwrap();
            base64::decode(error["rawData"].as_str().unwrap()).unwrap()
        })
        .collect();
    let expect = (0..all).filter(|n| !good(n)).map(|n| payload(n).into_bytes()).collect();
    assert_eq!(bad, expect);
    // Not an object more than was counted, and nothing beside them.
    let totals = &status.totals;
    let air = world.objects("air/").len() as u64;
    let errors = world.objects("errors/").len() as u64;
    let kept = world.objects("kept/").len() as u64;
    assert_eq!((air, errors, kept), (totals.objects, totals.error_objects, totals.backup_objects));
    assert_eq!(world.objects("").len() as u64, air + errors + kept);
    assert_eq!(seen as u64, air);
    assert_eq!((status.lag, status.retrying), (0, None));
    assert_eq!(totals.records, all - rounds * 3);
}

#[test]
fn o1_o2_o8_d6_whatever_the_store_does_each_record_lies_in_one_object() {
    battery(8, e2e::seed(11));
}

#[test]
#[ignore = "long: 20 seeds"]
fn o1_o2_o8_d6_long_whatever_the_store_does_each_record_lies_in_one_object() {
    for seed in 0..20 {
        battery(16, e2e::seed(100) + seed);
    }
}

/// The account above is only as good as its eyes.
#[test]
fn a_planted_loss_double_and_torn_object_are_seen() {
    let world = World::new(8);
    let node = world.begin(|_| {});
    node.publish(0..100);
    node.streams.flush("readings", WAIT).unwrap();
    world.assert_each_once("air/", 0..100);
    let objects = world.objects("air/");
    let (key, bytes) = objects.first_key_value().unwrap();
    let put = |key: &str, bytes: &[u8]| {
        let bytes = bytes.to_vec().into();
        world.runtime.block_on(world.store.buckets.put("there", key, bytes)).unwrap();
    };
    let is_seen = |expect: u64| {
        let check = std::panic::AssertUnwindSafe(|| world.assert_each_once("air/", 0..expect));
        assert!(std::panic::catch_unwind(check).is_err());
    };
    is_seen(101);
    put(&format!("{key}-again"), bytes);
    is_seen(100);
    world.runtime.block_on(world.store.buckets.delete("there", &format!("{key}-again"))).unwrap();
    world.assert_each_once("air/", 0..100);
    put(key, &bytes[..bytes.len() - 3]);
    is_seen(100);
}

#[test]
fn d6_a_store_that_takes_no_conditions_gets_each_object_once_all_the_same() {
    let world = World::new(3);
    let node = world.begin(|_| {});
    let faults = [Fault::NoConditions, Fault::StoredThenFailed, Fault::StoredThenReset];
    world.way.deal(&faults, 0);
    for part in 0..6 {
        node.publish(part * 1_000..(part + 1) * 1_000);
    }
    e2e::wait_for("an object", WAIT, || !world.objects("air/").is_empty());
    world.way.deal(&faults, 3);
    node.streams.flush("readings", Duration::from_secs(120)).unwrap();
    let fired = world.way.fired();
    assert!(fired[&Fault::NoConditions] > 0 && fired[&Fault::StoredThenFailed] > 0, "{fired:?}");
    world.assert_each_once("air/", 0..6_000);
    let totals = node.streams.status("readings").unwrap().totals;
    assert_eq!(world.objects("").len() as u64, totals.objects);
}

#[test]
fn o4_a_store_that_stalls_is_given_up_in_time_and_other_streams_go_on() {
    for fault in [Fault::Trickle, Fault::Silent] {
        let world = World::new(4);
        let node = world.begin(|new| new.size_bytes = 24 * 1024 * 1024);
        node.buckets.create_bucket("near").unwrap();
        let mut near = NewStream::new("near", "near");
        near.interval_secs = 900;
        node.streams.create(&near).unwrap();
        node.streams.start("near").unwrap();
        node.rules.create(&rule("near", "near"), Timestamp(0), || node.log.durable()).unwrap();
        world.way.deal(&[fault], 0);
        // More than the sockets on the way can hold, so that a peer that does not read shows.
        let long = |n: u64| format!("{{\"n\":{n},\"text\":\"{}\"}}", "y".repeat(40_000));
        for part in 0..8 {
            node.try_publish(part * 50..(part + 1) * 50, long).unwrap();
        }
        let begun = Instant::now();
        let flushed = std::thread::scope(|scope| {
            let far = scope.spawn(|| node.streams.flush("readings", Duration::from_secs(40)));
            node.streams.flush("near", Duration::from_secs(30)).unwrap();
            let status = world.fail_until(&node, "failed to upload an object");
            println!("{fault:?}: given up after {:?}: {:?}", begun.elapsed(), status.retrying);
            assert!(status.attempts > 0 && status.retrying_since.is_some(), "{status:?}");
            assert!(begun.elapsed() < Duration::from_secs(30));
            world.way.deal(&[], 0);
            far.join().unwrap()
        });
        flushed.unwrap();
        assert!(world.way.fired()[&fault] > 0);
        world.assert_each_once("air/", 0..400);
        assert_eq!(world.objects("").len(), 1);
    }
}

#[test]
fn d5_o5_an_outage_delays_and_loses_nothing_and_a_full_log_holds_publishers_back() {
    let mut world = World::new(5);
    world.log_bytes_max = Some(12 * 1024 * 1024);
    let mut node = world.begin(|_| {});
    node.publish(0..1_000);
    node.streams.flush("readings", WAIT).unwrap();

    // Within the budget: publishers notice nothing.
    world.way.set_down(true);
    for part in 1..6 {
        node.publish(part * 1_000..(part + 1) * 1_000);
    }
    world.fail_until(&node, "failed to upload an object");
    assert!(node.log.has_room());
    // A restart in the middle of it changes nothing.
    drop(node);
    node = world.open();
    node.streams.start_all().unwrap();

    // Past it: what is refused was never acknowledged, and nothing that was is dropped.
    let mut acknowledged = 6_000;
    let refused = loop {
        // So few that they are one append: all of them are acknowledged, or none.
        match node.try_publish(acknowledged..acknowledged + 200, reading) {
            Ok(()) => acknowledged += 200,
            Err(error) => break error,
        }
        assert!(acknowledged < 100_000, "the log has no bound");
    };
    assert_eq!(refused.kind(), base::ErrorKind::Exhausted, "{refused}");
    assert!(!node.log.has_room());
    let status = world.fail_until(&node, "failed to upload an object");
    assert!(status.retrying_since.is_some() && status.lag >= 5_000, "{status:?}");
    let (first, down) = (node.log.first(), world.way.fired()[&Fault::Refused]);
    assert!(first <= status.next, "the log forgot what is not delivered");

    // The store is back: everything catches up without a hand, and publishers go on.
    world.way.set_down(false);
    let begun = Instant::now();
    e2e::wait_for("room in the log", WAIT, || node.log.has_room());
    node.publish(acknowledged..acknowledged + 1_000);
    node.streams.flush("readings", Duration::from_secs(120)).unwrap();
    println!(
        "an outage: {acknowledged} acknowledged, {down} attempts, refused with {refused}, caught \
         up in {} ms",
        begun.elapsed().as_millis()
    );
    world.assert_each_once("air/", 0..acknowledged + 1_000);
    let status = node.streams.status("readings").unwrap();
    assert_eq!((status.lag, status.retrying, status.attempts), (0, None, 0));
    assert_eq!(world.objects("").len() as u64, status.totals.objects);
    assert!(status.totals.skipped.is_empty());
    assert!(node.log.first() > first, "what is delivered need not be kept");
}

#[test]
fn o6_a_refusal_is_said_as_such_and_nothing_is_trimmed() {
    let mut world = World::new(6);
    let mut node = world.begin(|_| {});
    let mut sent = 0;
    let mut publish = |node: &Node| {
        node.publish(sent..sent + 3_000);
        sent += 3_000;
        node.log.first()
    };
    // 403 from somebody on the way.
    world.way.deal(&[Fault::Forbidden], 0);
    let first = publish(&node);
    let status = world.fail_until(&node, "403 AccessDenied");
    assert!(status.lag >= 3_000);
    world.way.deal(&[], 0);
    node.streams.flush("readings", WAIT).unwrap();

    // The bucket is gone, and comes back empty.
    let there = world.store.folder.join("there");
    std::fs::rename(&there, world.store.folder.join(".aside")).unwrap();
    let before = publish(&node);
    assert!(before >= first);
    world.fail_until(&node, "NoSuchBucket");
    std::fs::create_dir(&there).unwrap();
    node.streams.flush("readings", WAIT).unwrap();
    world.assert_each_once("air/", 3_000..6_000);

    // The store knows another secret now; nothing arrives until we do, too.
    world.store.rotate("another");
    publish(&node);
    let status = world.fail_until(&node, "403 SignatureDoesNotMatch");
    assert!(node.log.first() <= status.next);
    drop(node);
    world.secret = "another";
    node = world.open();
    node.streams.start_all().unwrap();
    node.streams.flush("readings", WAIT).unwrap();
    world.assert_each_once("air/", 3_000..9_000);
    assert!(node.streams.status("readings").unwrap().totals.skipped.is_empty());
}

#[test]
fn a_bucket_elsewhere_is_refused_where_its_keys_would_be_impossible() {
    let world = World::new(7);
    let node = world.begin(|_| {});
    let mut new = NewStream::new("bad", "far");
    new.prefix = "/x".to_owned();
    let error = node.streams.create(&new).unwrap_err().to_string();
    assert!(error.contains("a component is empty"), "{error}");
    new.bucket = "nowhere".to_owned();
    let error = node.streams.create(&new).unwrap_err().to_string();
    assert!(error.contains("\"nowhere\" does not exist"), "{error}");
}
