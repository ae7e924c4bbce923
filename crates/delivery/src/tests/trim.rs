//! The log forgets what is delivered only when the objects and the cursor are on the disk: the
//! power is cut between every two steps of a delivery, on a file system of our own.

use std::collections::BTreeMap;
use std::path::Path;

use base::SystemClock;
use e2e::power::Disk;
use journal::{Options, SegmentLog};

use super::*;

const READINGS: u64 = 6_000;

/// The rooms on a disk, as a process has them.
struct Node {
    store: Metastore,
    log: Arc<SegmentLog>,
    buckets: Buckets,
    streams: Streams,
    rules: Arc<RuleBook>,
}

/// Buckets whose objects are written and not synced: what a store does that answers too early.
#[derive(Debug)]
struct Hasty(std::path::PathBuf);

impl Shelf for Hasty {
    fn put(&self, bucket: &str, key: &str, bytes: Bytes) -> Result<()> {
        let path = self.0.join(bucket).join(key);
        let written = std::fs::create_dir_all(path.parent().unwrap())
            .and_then(|()| std::fs::write(&path, bytes));
        written.map_err(|cause| Error::io("write in haste", cause))
    }

    fn size(&self, bucket: &str, key: &str) -> Result<Option<u64>> {
        Ok(std::fs::metadata(self.0.join(bucket).join(key)).ok().map(|meta| meta.len()))
    }
}

impl Node {
    fn open(disk: &Path, runtime: &tokio::runtime::Runtime, is_hasty: bool) -> Node {
        let store = Metastore::open(&disk.join("forebay.db")).unwrap();
        let options = Options { segment_bytes: 1024 * 1024, ..Options::default() };
        let log = SegmentLog::open(&disk.join("journal"), options).unwrap();
        let lake = disk.join("lake");
        let buckets = Buckets::open(&lake).unwrap();
        let rules = Arc::new(RuleBook::open(store.clone()).unwrap());
        let honest = BucketShelf { buckets: buckets.clone(), runtime: runtime.handle().clone() };
        let shelf: Arc<dyn Shelf> = if is_hasty { Arc::new(Hasty(lake)) } else { Arc::new(honest) };
        let settings = Settings {
            retry_first: Duration::from_millis(1),
            retry_max: Duration::from_millis(2),
            ..Settings::default()
        };
        let streams = Streams::with_shelf(
            store.clone(),
            log.clone(),
            buckets.clone(),
            shelf,
            Arc::clone(&rules),
            Arc::new(SystemClock),
            settings,
        );
        Node { store, log, buckets, streams, rules }
    }

    /// A stream with a rule, and readings in the log that fill several of its segments; every
    /// hundredth is cut off.
    fn begin(&self) {
        self.buckets.create_bucket("lake").unwrap();
        let mut new = NewStream::new("s", "lake");
        new.prefix = "s/".to_owned();
        new.error_prefix = Some("bad/".to_owned());
        new.size_bytes = 1024 * 1024;
        new.interval_secs = 900;
        new.delimiter = Some("\n".to_owned());
        self.streams.create(&new).unwrap();
        let rule = NewRule {
            name: "r".to_owned(),
            description: String::new(),
            sql: "SELECT * FROM '#'".to_owned(),
            actions: vec![Action::Firehose {
                stream: "s".to_owned(),
                separator: None,
                batch_mode: false,
            }],
            enabled: true,
        };
        self.rules.create(&rule, Timestamp(0), || self.log.durable()).unwrap();
        for from in (0..READINGS).step_by(200) {
            let mut batch = Batch::new();
            for n in from..from + 200 {
                let text = format!("{{\"n\":{n},\"text\":\"{}\"}}", "x".repeat(400));
                let cut = if n % 100 == 99 { 12 } else { text.len() };
                let message = MessageRef {
                    topic: "plant/1",
                    payload: &text.as_bytes()[..cut],
                    client_id: "dev-1",
                    principal: "ab12",
                    received_at: Timestamp(START + n as i64),
                    qos: QoS::AtLeastOnce,
                    retain: false,
                };
                batch.push(|out| message.encode_into(out)).unwrap();
            }
            let appended = loop {
                match self.log.append(&batch, None) {
                    Ok(appended) => break appended,
                    Err(full) => assert_eq!(full.kind(), ErrorKind::Exhausted, "{full}"),
                }
            };
            while self.log.durable() < appended.next() {
                self.log.wait_durable(self.log.durable(), Duration::from_secs(30));
            }
        }
    }

    /// Works as a new process would until everything is delivered, or until the step is reached.
    fn run(&self, crash_after: Option<Step>) -> bool {
        *self.streams.shared.crash_after.lock().unwrap() = crash_after;
        let live = Arc::new(Live::default());
        let shared = Arc::clone(&self.streams.shared);
        let mut worker = Worker::new(shared, Arc::clone(&live), "s").unwrap();
        live.lock().flush_to = self.log.durable();
        let mut work = || {
            worker.recover()?;
            while worker.turn()? {}
            worker.turn()
        };
        work().is_ok()
    }

    /// How often each reading lies in the lake, as a record or set aside.
    fn account(&self, lake: &Path) -> BTreeMap<u64, u64> {
        let mut found = BTreeMap::new();
        for path in e2e::files_below(&lake.join("lake")) {
            let text = std::fs::read_to_string(&path).unwrap();
            for line in text.lines() {
                let value: serde_json::Value = serde_json::from_str(line)
                    .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                let n = match (value["n"].as_u64(), value["offset"].as_u64()) {
                    (Some(n), _) | (None, Some(n)) => n,
                    _ => panic!("{line}"),
                };
                *found.entry(n).or_default() += 1;
            }
        }
        found
    }
}

/// Cuts the power at a step, lets the machine come up again and everything be delivered; gives
/// how many readings are lost then.
fn cut_at(step: Step, deliveries: u32, is_hasty: bool) -> Option<u64> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut disk = Disk::new(folder.path(), 256)?;
    let path = disk.path().to_owned();
    let node = Node::open(&path, &runtime, is_hasty);
    node.begin();
    for _ in 0..deliveries {
        assert!(!node.run(Some(step)), "{step:?} was not reached");
    }
    disk.cut();
    drop(node);
    disk.replug();

    let node = Node::open(&path, &runtime, is_hasty);
    let state = node.store.get::<StreamState>("s").unwrap().unwrap().row;
    let committed = node.log.committed("stream/s").unwrap().unwrap();
    assert!(node.log.first() <= committed, "{step:?}: forgotten before it was passed");
    assert!(committed <= state.next, "{step:?}: {committed} of {}", state.next);
    if !is_hasty {
        // What was forgotten is there, before anything else is done.
        let found = node.account(&path.join("lake"));
        let missing = (0..node.log.first().0).find(|offset| !found.contains_key(offset));
        assert_eq!(missing, None, "{step:?}: the log forgot what is in no object");
    }
    assert!(node.run(None));
    let found = node.account(&path.join("lake"));
    let state = node.store.get::<StreamState>("s").unwrap().unwrap().row;
    add_up(&state.totals);
    let doubled: Vec<_> = found.iter().filter(|(_, times)| **times > 1).take(5).collect();
    assert!(doubled.is_empty(), "{step:?}: {doubled:?}");
    assert_eq!(state.next, Offset(READINGS));
    let lost = READINGS - found.len() as u64;
    println!(
        "power cut after {step:?} of delivery {deliveries}: {} of {READINGS} in the lake, the log \
         begins at {}",
        found.len(),
        node.log.first()
    );
    drop(node);
    Some(lost)
}

#[test]
fn d3_the_log_is_trimmed_only_after_objects_and_cursor_are_stable() {
    for step in STEPS {
        let Some(lost) = cut_at(step, 1, false) else { return };
        assert_eq!(lost, 0, "{step:?}");
    }
    // Once more where the log has forgotten several segments already.
    for step in [Step::Advanced, Step::Committed] {
        assert_eq!(cut_at(step, 2, false), Some(0), "{step:?}");
    }
}

/// The control: a store that answers before its bytes are on the disk. If this loses nothing,
/// the test above sees nothing.
#[test]
fn d3_a_store_that_answers_too_early_is_caught() {
    let mut lost = 0;
    for _ in 0..3 {
        let Some(found) = cut_at(Step::Committed, 2, true) else { return };
        lost += found;
    }
    assert!(lost > 0, "three power cuts under a hasty store lost nothing: the test is blind");
}
