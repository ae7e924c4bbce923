//! What becomes of every reading that a rule matches, by count and by set, and what one bad
//! reading does to the others.

use std::time::Instant;

use rules::{ErrorAction, Republish, Republishing};
use serde_json::Value;

use super::*;

const WAIT: Duration = Duration::from_secs(60);

/// What happens to the reading with this number, decided by the number alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// Another topic.
    Elsewhere,
    /// WHERE is not true.
    NotMatched,
    Acted,
    /// No JSON.
    Unreadable,
    /// SELECT VALUE has no value for it.
    Valueless,
    /// What it makes is too long.
    TooLong,
}

fn fate(n: u64) -> Fate {
    [
        Fate::Acted,
        Fate::Elsewhere,
        Fate::Unreadable,
        Fate::Acted,
        Fate::NotMatched,
        Fate::Valueless,
        Fate::Acted,
        Fate::TooLong,
    ][(n.wrapping_mul(2_654_435_761) >> 7) as usize % 8]
}

const SQL: &str = "SELECT VALUE CASE kind WHEN 'none' THEN missing \
                   ELSE {'n': n, 'x': regexp_replace(t, 'x', t)} END \
                   FROM 'plant/#' WHERE NOT (kind = 'skip')";

fn reading(n: u64) -> (&'static str, Vec<u8>) {
    let json = |kind: &str, t: &str| format!("{{\"n\":{n},\"kind\":\"{kind}\",\"t\":\"{t}\"}}");
    let payload = match fate(n) {
        Fate::Elsewhere | Fate::Acted => json("good", "ab"),
        Fate::NotMatched => json("skip", "ab"),
        Fate::Valueless => json("none", "ab"),
        Fate::TooLong => json("good", &"x".repeat(2_000)),
        Fate::Unreadable => format!("{{\"n\":{n},"),
    };
    let topic = if fate(n) == Fate::Elsewhere { "other/1" } else { "plant/1" };
    (topic, payload.into_bytes())
}

/// The number of a reading, also of one that is no JSON.
fn number(payload: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(payload);
    let digits = text.trim_start_matches("{\"n\":").chars().take_while(char::is_ascii_digit);
    digits.collect::<String>().parse().unwrap()
}

fn numbers(found: impl IntoIterator<Item = u64>) -> BTreeSet<u64> {
    let found: Vec<u64> = found.into_iter().collect();
    let set: BTreeSet<u64> = found.iter().copied().collect();
    assert_eq!(set.len(), found.len(), "some came twice: {found:?}");
    set
}

fn raw(line: &str, member: &str) -> Vec<u8> {
    let error: Value = serde_json::from_str(line).unwrap();
    base64::decode(error[member].as_str().unwrap()).unwrap()
}

/// Messages on a topic of the log, as they are.
fn payloads(world: &World, topic: &str) -> Vec<Vec<u8>> {
    let inner = world.log.inner.lock().unwrap();
    let records = inner.records.iter().flatten();
    records
        .filter_map(|record| {
            let message = MessageRef::decode(record).unwrap();
            (message.topic == topic).then(|| message.payload.to_vec())
        })
        .collect()
}

fn to(topic: &str) -> Republish {
    Republish { topic: topic.to_owned(), qos: 1, ..Republish::default() }
}

/// Carries out what rules ask for beside streams, to the end of the log.
fn settle(world: &World) -> crate::RepublishTotals {
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

/// C1, with a crash after every step: into a stream, and beside one.
#[test]
fn c1_every_match_is_handed_over_or_set_aside_by_count_and_by_set() {
    const N: u64 = 500;
    let of =
        |wanted: &[Fate]| (0..N).filter(|n| wanted.contains(&fate(*n))).collect::<BTreeSet<_>>();
    let acted = of(&[Fate::Acted]);
    let failed = of(&[Fate::Unreadable, Fate::Valueless, Fate::TooLong]);
    // Every kind is there.
    assert!(acted.len() > 100 && failed.len() > 100, "{} and {}", acted.len(), failed.len());
    assert!(of(&[Fate::NotMatched]).len() > 30 && of(&[Fate::Elsewhere]).len() > 30);
    for crash in [None, Some(Step::Decided), Some(Step::Uploaded), Some(Step::Advanced)] {
        let world = World::new();
        world.stream("s", |row| {
            row.settings.size_bytes = 600;
            row.settings.delimiter = Some("\n".to_owned());
        });
        settle(&world);
        let new = NewRule {
            name: "r".to_owned(),
            description: String::new(),
            sql: SQL.to_owned(),
            actions: vec![Action::Firehose {
                stream: "s".to_owned(),
                separator: None,
                batch_mode: false,
            }],
            enabled: true,
        };
        let create = |new: &NewRule, to: &Republishing| {
            world.rules.create_with(new, to, Timestamp(START), || world.log.durable()).unwrap();
        };
        create(&new, &Republishing::default());
        // The same beside a stream. The first topic has no value: that action fails for each.
        let beside = NewRule { name: "beside".to_owned(), actions: Vec::new(), ..new };
        let outputs = Republishing {
            output: vec![to("copy/${get((n % 7), 0)}"), to("copies")],
            on_error: Some(ErrorAction::Republish(to("errors/r"))),
            ..Republishing::default()
        };
        create(&beside, &outputs);
        for n in 0..N {
            let (topic, payload) = reading(n);
            world.publish(topic, payload);
        }
        if let Some(step) = crash {
            let mut runs = 0;
            while !world.run("s", Some(step)) {
                // The crash of this run; the next one gets further.
                assert!(world.run_to_recovery("s"));
                runs += 1;
                assert!(runs < 500, "{step:?}");
            }
            assert!(runs > 5, "{step:?} was reached {runs} times");
        } else {
            assert!(world.run("s", None));
        }
        let handed = numbers(world.lines("s/").iter().map(|line| number(line.as_bytes())));
        let errors: Vec<String> = world.lines("bad/s/");
        let aside = numbers(errors.iter().map(|line| number(&raw(line, "rawData"))));
        assert_eq!(handed, acted, "{crash:?}");
        assert_eq!(aside, failed, "{crash:?}");
        // Each error says whose it is, where it lies in the log, and why.
        for line in &errors {
            let error: Value = serde_json::from_str(line).unwrap();
            let offset = Offset(error["offset"].as_u64().unwrap());
            let record = world.log.read(offset, 1).unwrap().items.remove(0).1;
            assert_eq!(MessageRef::decode(&record).unwrap().payload, raw(line, "rawData"));
            assert_eq!(error["rule"], "r");
            assert!(!error["errorMessage"].as_str().unwrap().is_empty());
        }
        let totals = world.state("s").totals;
        add_up(&totals);
        assert_eq!(totals.matched, (acted.len() + failed.len()) as u64, "{crash:?}");
        assert_eq!(totals.acted, acted.len() as u64, "{crash:?}");
        assert_eq!(totals.set_aside_count(), failed.len() as u64, "{crash:?}");
        if crash.is_some() {
            continue;
        }
        let totals = settle(&world);
        let copies = numbers(payloads(&world, "copies").iter().map(|payload| number(payload)));
        assert_eq!(copies, acted, "republished");
        let reports: Vec<Value> = payloads(&world, "errors/r")
            .iter()
            .map(|payload| serde_json::from_slice(payload).unwrap())
            .collect();
        let reported = numbers(reports.iter().map(|report| {
            number(&base64::decode(report["base64OriginalPayload"].as_str().unwrap()).unwrap())
        }));
        assert!(acted.is_subset(&reported), "an action's failure that nobody reports");
        assert!(failed.is_subset(&reported), "an evaluation's failure that nobody reports");
        assert_eq!(reported.len(), acted.len() + failed.len());
        for report in &reports {
            assert_eq!(report["ruleName"], "beside");
            let failure = &report["failures"][0];
            let evaluation = failure["failedAction"] == "RuleEvaluation";
            let n =
                number(&base64::decode(report["base64OriginalPayload"].as_str().unwrap()).unwrap());
            assert_eq!(evaluation, failed.contains(&n), "{report}");
            assert!(!failure["errorMessage"].as_str().unwrap().is_empty(), "{report}");
        }
        assert_eq!(totals.failures, reported.len() as u64);
        assert_eq!(totals.outputs, acted.len() as u64);
        assert_eq!(totals.reports, reported.len() as u64);
    }
}

/// C2: readings that no rule can stomach, among ten thousand, for two rules on one stream, one on
/// another, and one that republishes.
#[test]
fn c2_a_poison_reading_among_ten_thousand_delays_and_fails_nobody_else() {
    const N: u64 = 10_000;
    let deep = format!("{{\"n\":1,\"a\":{}1{}}}", "[".repeat(50_000), "]".repeat(50_000));
    let digits = format!("{{\"n\":1,\"a\":{}}}", "9".repeat(4_000));
    let long = format!("{{\"n\":5003,\"t\":\"{}\",\"p\":\"x\"}}", "x".repeat(100_000));
    let slow = format!(
        "{{\"n\":5004,\"t\":\"{}\",\"p\":\"(x+x+)+y|(a|x)*b\",\"list\":[{}]}}",
        "x".repeat(60_000),
        vec!["1"; 30_000].join(",")
    );
    // At this number instead of the usual reading; whether the plain rule can read it.
    let poison: [(u64, &[u8], bool); 8] = [
        (5_000, b"\xff\xfe\x00", false),
        (5_001, deep.as_bytes(), false),
        (5_002, digits.as_bytes(), false),
        (5_003, long.as_bytes(), true),
        (5_004, slow.as_bytes(), true),
        (5_005, b"", false),
        (5_006, b"{\"n\":5006,\"n\":5006}", false),
        (9_999, b"{\"n\":NaN}", false),
    ];
    let run = |poisoned: bool| {
        let world = World::new();
        for name in ["both", "plain"] {
            world.stream(name, |row| row.settings.delimiter = Some("\n".to_owned()));
        }
        settle(&world);
        // Every way in which a message can cost: a pattern of its own, a text that grows, a list.
        let heavy = "SET @t = t, @p = p SELECT n, regexp_replace(@t, @p, @t) AS x, \
                     (SELECT VALUE regexp_matches(@t, concat('', *, @p)) FROM list) AS y FROM 'a'";
        world.rule("heavy", heavy, &[("both", None, false)]);
        world.rule("light", "SELECT n FROM 'a'", &[("both", None, false), ("plain", None, false)]);
        let copies = NewRule {
            name: "copies".to_owned(),
            description: String::new(),
            sql: "SELECT n FROM 'a'".to_owned(),
            actions: Vec::new(),
            enabled: true,
        };
        let output = Republishing { output: vec![to("copy")], ..Republishing::default() };
        world
            .rules
            .create_with(&copies, &output, Timestamp(START), || world.log.durable())
            .unwrap();
        for n in 0..N {
            match poison.iter().find(|(at, ..)| poisoned && *at == n) {
                Some((_, payload, _)) => world.publish("a", payload),
                None => world
                    .publish("a", format!("{{\"n\":{n},\"t\":\"ab\",\"p\":\"b\",\"list\":[1]}}")),
            }
        }
        let started = Instant::now();
        assert!(world.run("both", None) && world.run("plain", None));
        settle(&world);
        (world, started.elapsed())
    };
    let (calm, usual) = run(false);
    let (world, took) = run(true);
    let bad: BTreeSet<u64> = poison.iter().filter(|(.., reads)| !reads).map(|(n, ..)| *n).collect();
    let good: BTreeSet<u64> = (0..N).filter(|n| !bad.contains(n)).collect();
    assert_eq!(calm.lines("plain/").len() as u64, N);
    // The plain rules lose nothing but what nobody can read.
    let plain = numbers(world.lines("plain/").iter().map(|line| number(line.as_bytes())));
    assert_eq!(plain, good);
    let copied = numbers(payloads(&world, "copy").iter().map(|payload| number(payload)));
    assert_eq!(copied, good);
    // On the shared stream the light rule's records stand beside the heavy one's.
    let mut times: BTreeMap<u64, usize> = BTreeMap::new();
    for line in world.lines("both/") {
        *times.entry(number(line.as_bytes())).or_default() += 1;
    }
    for n in &good {
        let expect = if [5_003, 5_004].contains(n) { 1 } else { 2 };
        assert_eq!(times.get(n), Some(&expect), "{n}");
    }
    let totals = world.state("both").totals;
    add_up(&totals);
    assert_eq!(totals.matched, 2 * N);
    // Each of the unreadable ones twice, and the two that only the heavy rule fails on.
    assert_eq!(totals.set_aside_count(), 2 * bad.len() as u64 + 2, "{:?}", totals.set_aside);
    println!("10000 readings took {usual:?}, with {} poisoned ones {took:?}", poison.len());
    let extra = took.saturating_sub(usual);
    assert!(extra < Duration::from_secs(8) + usual, "{usual:?} without, {took:?} with");
}
