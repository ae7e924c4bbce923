//! Streams over the real log, the real store and real buckets, stopped and opened again, and
//! with a store elsewhere that fails in every way we know of.

#![expect(clippy::unwrap_used, reason = "a failed step fails the test")]
#![expect(clippy::print_stdout, reason = "figures of a run are read by people")]

mod faulty;
mod store;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base::{ErrorKind, MessageRef, QoS, SystemClock, Timestamp};
use delivery::{Compression, NewStream, Settings, Streams};
use journal::{Batch, Journal, Options, SegmentLog};
use metastore::Metastore;
use objects::{Buckets, Remote};
use rules::{Action, NewRule, RuleBook};
use tokio::runtime::Runtime;

const WAIT: Duration = Duration::from_secs(60);

/// How long a log may stay full before a publisher gives up.
const ROOM_WAIT: Duration = Duration::from_secs(3);

/// One start of the rooms on a folder. Dropping it is an orderly stop.
struct Node {
    streams: Streams,
    log: Arc<SegmentLog>,
    rules: Arc<RuleBook>,
    buckets: Buckets,
}

impl Node {
    fn open(dir: &Path, runtime: &Runtime) -> Node {
        Node::open_with(dir, runtime, BTreeMap::new(), Settings::default(), None)
    }

    /// A node with buckets elsewhere and a bound on its log.
    fn open_with(
        dir: &Path,
        runtime: &Runtime,
        remotes: BTreeMap<String, Remote>,
        settings: Settings,
        log_bytes_max: Option<u64>,
    ) -> Node {
        let store = Metastore::open(&dir.join("forebay.db")).unwrap();
        let mut options = Options { segment_bytes: 1024 * 1024, ..Options::default() };
        options.bytes_max = log_bytes_max.unwrap_or(options.bytes_max);
        let log = SegmentLog::open(&dir.join("journal"), options).unwrap();
        let buckets = Buckets::open_with(&dir.join("lake"), remotes).unwrap();
        let rules = Arc::new(RuleBook::open(store.clone()).unwrap());
        let streams = Streams::new(
            store,
            log.clone(),
            buckets.clone(),
            Arc::clone(&rules),
            Arc::new(SystemClock),
            runtime.handle().clone(),
            settings,
        );
        Node { streams, log, rules, buckets }
    }

    /// Appends readings `numbers` and waits until they are durable.
    fn publish(&self, numbers: std::ops::Range<u64>) {
        self.try_publish(numbers, reading).unwrap();
    }

    /// As [`publish`](Self::publish), of other payloads, a few at a time; refused when the log
    /// stays full.
    fn try_publish(
        &self,
        numbers: std::ops::Range<u64>,
        payload: impl Fn(u64) -> String,
    ) -> base::Result<()> {
        let mut batch = Batch::new();
        let (last, mut bytes) = (numbers.end.saturating_sub(1), 0);
        for n in numbers {
            let payload = payload(n);
            bytes += payload.len();
            let message = MessageRef {
                topic: "plant/1",
                payload: payload.as_bytes(),
                client_id: "dev-1",
                principal: "ab12",
                received_at: Timestamp(1_795_406_706_000 + i64::try_from(n).unwrap()),
                qos: QoS::AtLeastOnce,
                retain: false,
            };
            batch.push(|out| message.encode_into(out)).unwrap();
            if bytes > 100_000 || n == last {
                self.append(&std::mem::replace(&mut batch, Batch::new()))?;
                bytes = 0;
            }
        }
        Ok(())
    }

    /// Appends a batch, waiting for room as a publisher's connection does, and then until it is
    /// durable.
    fn append(&self, batch: &Batch) -> base::Result<()> {
        let deadline = Instant::now() + ROOM_WAIT;
        let appended = loop {
            match self.log.append(batch, None) {
                Ok(appended) => break appended,
                Err(error) if error.kind() != ErrorKind::Exhausted => return Err(error),
                Err(error) if Instant::now() > deadline => return Err(error),
                Err(_full) => std::thread::yield_now(),
            }
        };
        while self.log.durable() < appended.next() {
            self.log.wait_durable(self.log.durable(), WAIT);
        }
        Ok(())
    }
}

/// The payload of reading `n`.
fn reading(n: u64) -> String {
    format!("{{\"n\":{n},\"text\":\"{}\"}}", "x".repeat(400))
}

/// A rule that gives everything on `plant/#` to a stream.
fn rule(name: &str, stream: &str) -> NewRule {
    NewRule {
        name: name.to_owned(),
        description: String::new(),
        sql: "SELECT *, topic(2) AS station FROM 'plant/#'".to_owned(),
        actions: vec![Action::Firehose {
            stream: stream.to_owned(),
            separator: None,
            batch_mode: false,
        }],
        enabled: true,
    }
}

#[test]
fn d1_readings_lie_in_the_lake_once_across_restarts_and_the_log_forgets_them() {
    let runtime = Runtime::new().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let node = Node::open(dir.path(), &runtime);
    node.buckets.create_bucket("lake").unwrap();
    let mut new = NewStream::new("readings", "lake");
    new.prefix = "air/".to_owned();
    new.error_prefix = Some("errors/".to_owned());
    new.size_bytes = 1024 * 1024;
    new.interval_secs = 900;
    new.compression = Compression::Gzip;
    new.delimiter = Some("\n".to_owned());
    node.streams.create(&new).unwrap();
    node.rules.create(&rule("all", "readings"), Timestamp(0), || node.log.durable()).unwrap();
    drop(node);

    // Each round opens everything anew, adds readings, and stops at another moment: before a
    // worker ran, while it runs, or after it came to the end.
    let (rounds, each) = (9, 1_000);
    for round in 0..rounds {
        let node = Node::open(dir.path(), &runtime);
        if round % 3 > 0 {
            node.streams.start_all().unwrap();
        }
        node.publish(round * each..(round + 1) * each);
        if round % 3 == 2 {
            node.streams.flush("readings", WAIT).unwrap();
        }
    }

    let node = Node::open(dir.path(), &runtime);
    node.streams.start_all().unwrap();
    node.streams.flush("readings", WAIT).unwrap();
    let mut found: BTreeMap<u64, u64> = BTreeMap::new();
    let all = runtime.block_on(node.buckets.list("lake", "")).unwrap();
    for object in &all {
        assert!(
            object.key.starts_with("air/2026/11/23/04/readings-1-2026-11-23-04-05-"),
            "{object:?}"
        );
        let packed = runtime.block_on(node.buckets.get("lake", &object.key)).unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&*packed), &mut text)
            .unwrap();
        for line in text.lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(value["station"], "1");
            *found.entry(value["n"].as_u64().unwrap()).or_default() += 1;
        }
    }
    assert_eq!(found.len() as u64, rounds * each);
    assert!(found.values().all(|times| *times == 1));
    assert!(all.len() >= 5, "{}", all.len());
    let status = node.streams.status("readings").unwrap();
    assert_eq!((status.lag, status.totals.records), (0, rounds * each));
    assert_eq!(status.totals.objects, all.len() as u64);
    // Several segments were filled, and what is delivered need not be kept.
    assert!(node.log.first().0 > 0, "{:?}", node.log.status());
}
