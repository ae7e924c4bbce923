//! Outputs and reports back into the log: what, once, and with an end.

use base::Properties;
use rules::{ErrorAction, Filled, Headers, Put, Republish, Republishing};
use serde_json::Value;

use super::*;
use crate::RepublishTotals;
use crate::republish::{HOPS_MAX, Lane, Republisher};

const WAIT: Duration = Duration::from_secs(5);

fn to(topic: &str) -> Republish {
    Republish { topic: topic.to_owned(), qos: 1, ..Republish::default() }
}

fn make(world: &World, name: &str, from: &str, streams: &[&str], to: Republishing) {
    let actions = streams.iter().map(|stream| Action::Firehose {
        stream: (*stream).to_owned(),
        separator: None,
        batch_mode: false,
    });
    let new = NewRule {
        name: name.to_owned(),
        description: String::new(),
        sql: format!("SELECT n, topic() AS t FROM '{from}' WHERE n > 0"),
        actions: actions.collect(),
        enabled: true,
    };
    world.rules.create_with(&new, &to, Timestamp(START), || world.log.durable()).unwrap();
}

/// Runs a worker to the end of the log as a new process would.
fn settle(world: &World) -> RepublishTotals {
    // Nothing is trimmed, so that a test sees everything.
    world.log.commit("test", Offset(0)).unwrap();
    let streams = world.streams();
    streams.start_republishing().unwrap();
    let mut before = Offset(u64::MAX);
    while before != world.log.durable() {
        before = world.log.durable();
        streams.settle_republishing(WAIT).unwrap();
    }
    streams.stop_all();
    streams.republished().unwrap()
}

/// The payloads on a topic.
fn on(world: &World, topic: &str) -> Vec<Value> {
    let inner = world.log.inner.lock().unwrap();
    let records = inner.records.iter().flatten();
    records
        .filter_map(|record| {
            let message = MessageRef::decode(record).unwrap();
            (message.topic == topic).then(|| serde_json::from_slice(message.payload).unwrap())
        })
        .collect()
}

#[test]
fn an_output_is_published_and_a_restart_repeats_nothing() {
    let world = World::new();
    assert_eq!(settle(&world), RepublishTotals::default());
    let both = Republishing { output: vec![to("x"), to("y")], ..Republishing::default() };
    make(&world, "copy", "a", &[], both);
    for n in [1, 0, 2] {
        world.publish("a", format!("{{\"n\": {n}}}"));
    }
    assert_eq!(settle(&world).outputs, 4);
    let expected: Vec<Value> = [1, 2].map(|n| serde_json::json!({"n": n, "t": "a"})).into();
    assert_eq!((on(&world, "x"), on(&world, "y")), (expected.clone(), expected.clone()));
    // As after a crash between the append and the cursor.
    let state = crate::republish::state_of(&world.streams().shared, Lane::Near);
    let mut state = state.unwrap().unwrap();
    state.next = Offset(0);
    world.store.put("republish", &state).unwrap();
    world.log.forget("republish").unwrap();
    world.publish("a", "{\"n\": 3}");
    assert_eq!(settle(&world).outputs, 6);
    assert_eq!(on(&world, "x").len(), 3);
}

#[test]
fn an_action_on_a_stream_that_is_not_there_is_reported() {
    let world = World::new();
    settle(&world);
    let report = Republishing {
        on_error: Some(ErrorAction::Republish(to("errors/rule"))),
        ..Republishing::default()
    };
    make(&world, "r", "a", &["later"], report);
    make(&world, "silent", "b", &["nowhere"], Republishing::default());
    world.publish("a", "{\"n\": 1}");
    world.publish("a", "{\"n\": 0}");
    world.publish("b", "{\"n\": 1}");
    let totals = settle(&world);
    assert_eq!((totals.failures, totals.reports), (2, 1));
    let reports = on(&world, "errors/rule");
    assert_eq!(reports.len(), 1);
    let report = &reports[0];
    assert_eq!((&report["ruleName"], &report["topic"]), (&"r".into(), &"a".into()));
    assert_eq!(report["clientId"], "dev-1");
    assert_eq!(report["cloudwatchTraceId"].as_str().unwrap().len(), 36);
    assert_eq!(report["base64OriginalPayload"], base64::encode(b"{\"n\": 1}"));
    let failure = &report["failures"][0];
    assert_eq!(failure["failedAction"], "FirehoseAction");
    assert_eq!(failure["failedResource"], "later");
    // A stream made later begins then, and nothing fails any more.
    world.stream("later", |_| {});
    world.publish("a", "{\"n\": 2}");
    assert_eq!(settle(&world).reports, 1);
    assert!(world.run("later", None));
    assert_eq!(world.streams().describe("later").unwrap().1.totals.records, 1);
}

#[test]
fn topics_and_streams_are_filled_from_the_message() {
    let world = World::new();
    settle(&world);
    for stream in ["odd", "even"] {
        world.stream(stream, |_| {});
    }
    let by_name = Republish {
        headers: Headers {
            content_type: Some("application/json".into()),
            message_expiry: Some("${n * 10}".into()),
            user_properties: vec![("from".into(), "${clientid()}".into())],
            ..Headers::default()
        },
        ..to("copy/${topic(1)}/${get_or_default(p, n)}")
    };
    let all = Republishing {
        output: vec![by_name],
        on_error: Some(ErrorAction::Republish(to("errors/${topic(1)}"))),
        ..Republishing::default()
    };
    make(&world, "r", "a", &["${stream}"], all);
    for (n, stream) in [(1, "odd"), (2, "even"), (3, "neither"), (4, "even")] {
        world.publish("a", format!("{{\"n\": {n}, \"stream\": \"{stream}\"}}"));
    }
    // No stream, a topic with a wildcard, an expiry that is no number.
    world.publish("a", "{\"n\": 5}");
    world.publish("a", "{\"n\": 6, \"p\": \"+\", \"stream\": \"odd\"}");
    world.publish("a", "{\"n\": 0.25, \"stream\": \"odd\"}");
    let totals = settle(&world);
    for (stream, records) in [("odd", 3), ("even", 2)] {
        assert!(world.run(stream, None));
        let tally = world.streams().describe(stream).unwrap().1.totals;
        assert_eq!((tally.records, tally.matched), (records, records), "{stream}");
    }
    for n in [1, 2, 3, 4, 5] {
        assert_eq!(on(&world, &format!("copy/a/{n}")).len(), 1, "{n}");
    }
    let record = world.log.inner.lock().unwrap().records.iter().flatten().find_map(|record| {
        let (message, extras) = MessageRef::decode_with(record).unwrap();
        (message.topic == "copy/a/2").then(|| Properties::decode(extras.properties).unwrap())
    });
    let expected = Properties {
        content_type: Some("application/json".into()),
        expiry_secs: Some(20),
        user: vec![("from".into(), "dev-1".into())],
        ..Properties::default()
    };
    assert_eq!(record, Some(expected));
    let why: Vec<String> = on(&world, "errors/a")
        .iter()
        .map(|report| report["failures"][0]["errorMessage"].as_str().unwrap().to_owned())
        .collect();
    let words = ["neither does not exist", "${stream} has no value", "wildcard", "\"2.5\""];
    assert_eq!(why.len(), words.len(), "{why:?}");
    for (why, word) in why.iter().zip(words) {
        assert!(why.contains(word), "{why}");
    }
    assert_eq!((totals.outputs, totals.failures, totals.reports), (5, 4, 4));
}

/// What stands for log groups and metrics.
#[derive(Debug, Default)]
struct Elsewhere {
    log: Mutex<Option<Arc<MemoryLog>>>,
    put: Mutex<Vec<(String, Filled, Vec<String>)>>,
}

impl crate::Publisher for Elsewhere {
    fn refuses(&self, _topic: &str) -> Option<String> {
        None
    }

    fn append(&self, batch: &Batch) -> Result<Appended> {
        self.log.lock().unwrap().as_ref().unwrap().append(batch, None)
    }

    fn put(&self, rule: &str, to: &Filled, records: &[&[u8]], _at: Timestamp) -> Result<()> {
        let records = records.iter().map(|r| String::from_utf8_lossy(r).into_owned());
        self.put.lock().unwrap().push((rule.to_owned(), to.clone(), records.collect()));
        Ok(())
    }
}

#[test]
fn outputs_are_put_elsewhere_and_failures_into_a_stream() {
    let world = World::new();
    settle(&world);
    world.stream("failed", |_| {});
    let object = |bucket: &str| Put::Object {
        bucket: bucket.to_owned(),
        key: "single/${topic()}/${n}.json".to_owned(),
    };
    let metric = |value: &str| Put::Metric {
        namespace: "plant".into(),
        name: "${topic(1)}".into(),
        value: value.to_owned(),
        unit: "Count".into(),
        timestamp: Some("${n}".into()),
    };
    let group = Put::LogEvent { group: "g".into(), batch_mode: false };
    let into = ErrorAction::Firehose { stream: "failed".into(), separator: Some("\n".into()) };
    let all = Republishing {
        puts: vec![object("lake"), object("nowhere"), metric("${n}"), metric("${w}"), group],
        on_error: Some(into),
        ..Republishing::default()
    };
    make(&world, "r", "a/+", &[], all);
    let elsewhere = Arc::new(Elsewhere::default());
    *elsewhere.log.lock().unwrap() = Some(Arc::clone(&world.log));
    world.publish("a/x", "{\"n\": 1, \"w\": \"much\"}");
    // The object store is away for a while: that passes.
    world.shelf.refuse.store(2, Ordering::SeqCst);
    let streams = world.streams();
    streams.publish_through(elsewhere.clone());
    streams.start_republishing().unwrap();
    streams.settle_republishing(WAIT).unwrap();
    streams.stop_all();
    let put = world.shelf.puts.lock().unwrap().clone();
    assert_eq!(put.len(), 1, "{put:?}");
    assert_eq!(
        (put[0].0.as_str(), &put[0].1[..]),
        ("single/a/x/1.json", &b"{\"n\":1,\"t\":\"a/x\"}"[..])
    );
    let at = Timestamp(1000);
    let measured = Filled::Metric { namespace: "plant".into(), name: "a".into(), value: 1.0, at };
    let output = vec!["{\"n\":1,\"t\":\"a/x\"}".to_owned()];
    let expected = [
        ("r".to_owned(), measured, output.clone()),
        ("r".to_owned(), Filled::LogEvent { group: "g".into() }, output),
    ];
    assert_eq!(*elsewhere.put.lock().unwrap(), expected);

    // The report of the two that failed is a record of the stream.
    assert!(world.run("failed", None));
    let put = world.shelf.puts.lock().unwrap().clone();
    let report: Value = serde_json::from_slice(&put[1].1).unwrap();
    let failures = report["failures"].as_array().unwrap();
    let of = |index: usize| (&failures[index]["failedAction"], &failures[index]["failedResource"]);
    assert_eq!(of(0), (&"S3Action".into(), &"nowhere".into()));
    assert_eq!(of(1), (&"CloudwatchMetricAction".into(), &"${topic(1)}".into()));
    assert!(failures[1]["errorMessage"].as_str().unwrap().contains("\"much\" is not a number"));
    assert_eq!(failures.len(), 2, "{report}");
    let totals = world.streams().republished().unwrap();
    assert_eq!((totals.outputs, totals.failures, totals.reports), (3, 2, 1));
}

#[test]
fn what_cannot_be_republished_is_refused_when_the_rule_is_made() {
    let world = World::new();
    let refused = |target: Republish| {
        let new = NewRule {
            name: "r".into(),
            description: String::new(),
            sql: "SELECT * FROM 'a'".into(),
            actions: Vec::new(),
            enabled: true,
        };
        let to = Republishing { output: vec![target], ..Republishing::default() };
        let now = Timestamp(START);
        world.rules.create_with(&new, &to, now, || Offset(0)).unwrap_err().to_string()
    };
    let with = |headers: Headers| Republish { headers, ..to("a") };
    let some = |text: &str| Some(text.to_owned());
    for (target, word) in [
        (to("$$aws/events/x"), "reserved"),
        (to("$SYS/x"), "reserved"),
        (to("a/#"), "wildcards"),
        (to("a/${topic("), "does not end"),
        (Republish { qos: 2, ..to("a") }, "qos 2"),
        (with(Headers { message_expiry: some("soon"), ..Headers::default() }), "messageExpiry"),
        (with(Headers { correlation_data: some("?"), ..Headers::default() }), "base64"),
        (with(Headers { response_topic: some("+"), ..Headers::default() }), "response topic"),
        (
            with(Headers { payload_format_indicator: some("UTF"), ..Headers::default() }),
            "UTF8_DATA",
        ),
    ] {
        let why = refused(target);
        assert!(why.contains(word), "{why}");
    }
}

#[test]
fn c4_a_rule_that_feeds_itself_ends() {
    let world = World::new();
    settle(&world);
    make(
        &world,
        "loop",
        "a",
        &[],
        Republishing { output: vec![to("a")], ..Republishing::default() },
    );
    world.publish("a", "{\"n\": 1}");
    let totals = settle(&world);
    assert_eq!((totals.outputs, totals.looped), (u64::from(HOPS_MAX), 1));
}

/// C4: two that feed each other, one that doubles, and an error action that feeds its own rule.
#[test]
fn c4_no_circle_of_rules_goes_on_for_ever() {
    let world = World::new();
    settle(&world);
    let output = |topics: &[&str]| Republishing {
        output: topics.iter().map(|topic| to(topic)).collect(),
        ..Republishing::default()
    };
    make(&world, "ping", "a", &[], output(&["b"]));
    make(&world, "pong", "b", &[], output(&["a"]));
    world.publish("a", "{\"n\": 1}");
    let totals = settle(&world);
    assert_eq!((totals.outputs, totals.looped), (u64::from(HOPS_MAX), 1));
    // Each message makes two: a tree of a bounded depth, not a flood without end.
    make(&world, "double", "tree", &[], output(&["tree", "tree"]));
    world.publish("tree", "{\"n\": 1}");
    let leaves = 2_u64.pow(HOPS_MAX);
    let totals = settle(&world);
    assert_eq!(totals.outputs, u64::from(HOPS_MAX) + 2 * (leaves - 1));
    assert_eq!(totals.looped, 1 + leaves);
    // What is reported comes back as a message of the rule whose failure it is.
    let report = Republishing {
        on_error: Some(ErrorAction::Republish(to("sick"))),
        ..Republishing::default()
    };
    let new = NewRule {
        name: "sick".to_owned(),
        description: String::new(),
        sql: "SELECT * FROM 'sick'".to_owned(),
        actions: vec![Action::Firehose {
            stream: "nowhere".to_owned(),
            separator: None,
            batch_mode: false,
        }],
        enabled: true,
    };
    world.rules.create_with(&new, &report, Timestamp(START), || world.log.durable()).unwrap();
    let before = world.log.durable().0;
    world.publish("sick", "{}");
    let totals = settle(&world);
    assert!(totals.reports > 0 && totals.reports <= u64::from(HOPS_MAX), "{totals:?}");
    assert!(world.log.durable().0 - before <= 1 + u64::from(HOPS_MAX));
}

#[test]
fn the_log_is_held_only_while_a_rule_asks() {
    let world = World::new();
    settle(&world);
    let cursor = || world.log.committed("republish").unwrap();
    world.publish("a", "{\"n\": 1}");
    settle(&world);
    assert_eq!(cursor(), None);
    make(
        &world,
        "copy",
        "a",
        &[],
        Republishing { output: vec![to("x")], ..Republishing::default() },
    );
    world.publish("a", "{\"n\": 1}");
    settle(&world);
    assert!(cursor().is_some());
    world.rules.delete("copy", Timestamp(START), || world.log.durable()).unwrap();
    world.publish("a", "{\"n\": 1}");
    settle(&world);
    world.streams().prune_rules().unwrap();
    world.publish("a", "{\"n\": 1}");
    settle(&world);
    assert_eq!(cursor(), None);
    let live = Arc::new(Live::default());
    assert!(Republisher::new(Lane::Near, Arc::clone(&world.streams().shared), live).is_ok());
}

/// Endpoints that take their time, and one that is down.
#[derive(Debug)]
struct Endpoints {
    log: Arc<MemoryLog>,
    pause: Duration,
    taken: Mutex<Vec<(String, String)>>,
}

impl crate::Publisher for Endpoints {
    fn refuses(&self, _topic: &str) -> Option<String> {
        None
    }

    fn append(&self, batch: &Batch) -> Result<Appended> {
        self.log.append(batch, None)
    }

    fn put(&self, _rule: &str, to: &Filled, records: &[&[u8]], _at: Timestamp) -> Result<()> {
        let Filled::Http { url, headers } = to else { panic!("{to:?}") };
        assert_eq!(headers, &[("x-n".to_owned(), url.rsplit('/').next().unwrap().to_owned())]);
        std::thread::sleep(self.pause);
        if url.contains("down") {
            return Err(Error::new(ErrorKind::Unavailable, "nobody answers"));
        }
        let payload = String::from_utf8_lossy(records[0]).into_owned();
        self.taken.lock().unwrap().push((url.clone(), payload));
        Ok(())
    }
}

/// C1, C2: every match is posted or reported, and what waits for an endpoint holds up nothing
/// that this machine does alone.
#[test]
fn c2_a_slow_endpoint_delays_no_other_rule() {
    let world = World::new();
    settle(&world);
    let post = |host: &str| Put::Http {
        url: format!("https://{host}/${{n}}"),
        headers: vec![("x-n".into(), "${n}".into())],
    };
    let posts = Republishing {
        puts: vec![post("up"), post("down")],
        on_error: Some(ErrorAction::Republish(to("errors/http"))),
        ..Republishing::default()
    };
    make(&world, "posts", "a", &[], posts);
    make(
        &world,
        "copies",
        "a",
        &[],
        Republishing { output: vec![to("copy")], ..Republishing::default() },
    );
    const N: usize = 200;
    for n in 1..=N {
        world.publish("a", format!("{{\"n\": {n}}}"));
    }
    world.log.commit("test", Offset(0)).unwrap();
    let endpoints = Arc::new(Endpoints {
        log: Arc::clone(&world.log),
        pause: Duration::from_millis(20),
        taken: Mutex::default(),
    });
    let streams = world.streams();
    streams.publish_through(endpoints.clone());
    let started = std::time::Instant::now();
    streams.start_republishing().unwrap();
    while on(&world, "copy").len() < N {
        assert!(started.elapsed() < WAIT, "the copies wait for the endpoint");
        std::thread::sleep(Duration::from_millis(2));
    }
    let posted = endpoints.taken.lock().unwrap().len();
    assert!(posted < N, "{posted} requests were done before the copies");
    streams.settle_republishing(WAIT).unwrap();
    // Two requests a record one after the other would take 8 s.
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    let taken: BTreeSet<_> = endpoints.taken.lock().unwrap().iter().cloned().collect();
    let expected =
        (1..=N).map(|n| (format!("https://up/{n}"), format!("{{\"n\":{n},\"t\":\"a\"}}")));
    assert_eq!(taken, expected.collect());
    let reports = on(&world, "errors/http");
    assert_eq!(reports.len(), N);
    assert_eq!(reports[0]["failures"][0]["failedAction"], "HttpAction");
    assert_eq!(reports[0]["failures"].as_array().unwrap().len(), 1);
    let totals = streams.republished().unwrap();
    let n = N as u64;
    assert_eq!((totals.outputs, totals.failures, totals.reports), (2 * n, n, n));
    streams.stop_all();
}

#[test]
fn records_that_the_log_lost_are_counted_by_the_worker_that_came_to_them() {
    let world = World::new();
    settle(&world);
    let copy = Republishing { output: vec![to("x")], ..Republishing::default() };
    make(&world, "copy", "a", &[], copy);
    for n in 1..=6 {
        world.publish("a", format!("{{\"n\": {n}}}"));
    }
    world.log.damage(1..3);
    let totals = settle(&world);
    assert_eq!((totals.outputs, totals.lost), (4, 2));
    // Coming back to life counts nothing again.
    assert_eq!(settle(&world).lost, 2);
}
