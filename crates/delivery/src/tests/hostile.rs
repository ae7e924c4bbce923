//! Payloads that were made to hurt: each becomes a record or a line of errors with its very
//! bytes, and none of them both or neither.

use std::collections::BTreeMap;

use super::*;

/// What ends a record here, as no JSON would.
const END: &str = "<end>\n";

fn corpus(seed: u64) -> Vec<Vec<u8>> {
    let deep = |n: usize| format!("{}1{}", "[".repeat(n), "]".repeat(n));
    let many_keys = |n: usize| {
        let keys: Vec<String> = (0..n).map(|k| format!("\"k{k}\":{k}")).collect();
        format!("{{{}}}", keys.join(","))
    };
    let mut all: Vec<Vec<u8>> = [
        "{}",
        "[]",
        "null",
        "true",
        "0",
        "\"\"",
        "\"text\"",
        "-0",
        "-0.0",
        "1e1",
        "1E+2",
        "0.1",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775809",
        "1e308",
        "1e309",
        "1e400",
        "-1e999",
        "1e-400",
        "1.7976931348623157e308",
        "NaN",
        "Infinity",
        "-Infinity",
        "{\"a\":NaN}",
        "01",
        "1.",
        ".5",
        "+1",
        "0x10",
        "1_000",
        "--1",
        "1e",
        "1e+",
        "- 1",
        "''",
        "nul",
        "True",
        "{\"a\":1,\"a\":2}",
        "{\"a\":1,\"\\u0061\":2}",
        "{a:1}",
        "{'a':1}",
        "{\"a\":1,}",
        "[1,]",
        "[,1]",
        "{\"a\"}",
        "{\"a\":}",
        "{:1}",
        "{\"a\":1",
        "{\"a\":1}}",
        "[1]]",
        "]",
        "}",
        "{",
        "[",
        "\"",
        "\"\\",
        "\"\\u",
        "\"\\u12",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\ud800\"",
        "\"\\ud83d\\ude00\"",
        "\"\\x41\"",
        "\"\\'\"",
        "\"a\tb\"",
        "\"a\nb\"",
        "\"\\u0000\"",
        "{\"\":0}",
        "{\"\\u0000\":0}",
        "\u{feff}{}",
        "{}\u{feff}",
        " {} ",
        "\r\n{}\r\n",
        "{}{}",
        "{}\n{}",
        "{} x",
        "/* c */{}",
        "{}// c",
        "#",
        "<xml/>",
        "a,b,c",
        "\u{0}",
        "{\"a\":\u{0}}",
        "\u{2028}",
        "{\"\u{1f600}\":\"\u{1f600}\"}",
        "\"<end>\"",
        "{\"__proto__\":{}}",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect();
    all.extend([
        Vec::new(),
        vec![0xff, 0xfe, 0x00],
        b"{\"a\":\"\xc3\x28\"}".to_vec(),
        b"{\"a\":\"\xed\xa0\x80\"}".to_vec(),
        b"\"\xf4\x90\x80\x80\"".to_vec(),
        b"\"\xc0\xaf\"".to_vec(),
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff".to_vec(),
        "9".repeat(400).into_bytes(),
        format!("0.{}", "3".repeat(400)).into_bytes(),
        format!("{{\"a\":{}}}", "1".repeat(5_000)).into_bytes(),
        format!("\"{}\"", "s".repeat(120_000)).into_bytes(),
        many_keys(5_000).into_bytes(),
        deep(10).into_bytes(),
        deep(64).into_bytes(),
        deep(65).into_bytes(),
        deep(100_000).into_bytes(),
        "[".repeat(100_000).into_bytes(),
        "{\"a\":".repeat(50_000).into_bytes(),
    ]);
    // Good payloads with a few bytes changed, put in, taken out or cut off.
    let good = [
        "{\"device\":\"d1\",\"pm25\":12.5,\"ok\":true,\"at\":\"2026-11-23T04:05:06Z\"}",
        "{\"a\":[1,2.5,-3e2,null,{\"b\":\"\\u00e9\\n\"}],\"c\":{\"d\":{}}}",
        "[{\"x\":1},{\"x\":2}]",
    ];
    let mut random = e2e::Random(seed);
    for _ in 0..600 {
        let mut bytes = good[random.below(3) as usize].as_bytes().to_vec();
        for _ in 0..=random.below(2) {
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(5) {
                0 => bytes[at] = random.below(256) as u8,
                1 => bytes.insert(at, random.below(256) as u8),
                2 => drop(bytes.remove(at)),
                3 => bytes.truncate(at.max(1)),
                _ => bytes[at] ^= 1 << random.below(8),
            }
            if bytes.is_empty() {
                break;
            }
        }
        all.push(bytes);
    }
    all
}

#[test]
fn d4_good_and_set_aside_are_what_was_received_over_a_hostile_corpus() {
    let seed = e2e::seed(7);
    let world = World::new();
    world.stream("s", |row| {
        row.settings.delimiter = Some(END.to_owned());
        row.settings.size_bytes = 64 * 1024;
    });
    world.rule("r", "SELECT * FROM 'plant/#'", &[("s", None, false)]);
    let sent = corpus(seed);
    for payload in &sent {
        world.publish("plant/1", payload);
    }
    assert!(world.run("s", None));

    // Errors, by the offset they tell.
    let mut errors: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
    for line in world.lines("bad/s/") {
        let error: serde_json::Value = serde_json::from_str(&line).unwrap();
        let offset = error["offset"].as_u64().unwrap() as usize;
        assert!(!error["errorMessage"].as_str().unwrap().is_empty(), "{line}");
        assert_eq!(error["errorCode"], "Rule.EvaluationFailed");
        assert_eq!(error["arrivalTimestamp"], START + 1_000 * offset as i64);
        let raw = base64::decode(error["rawData"].as_str().unwrap()).unwrap();
        assert_eq!(raw, sent[offset], "not the bytes that came at {offset}, seed {seed}");
        assert!(errors.insert(offset, raw).is_none(), "offset {offset} was set aside twice");
    }
    // Records, in the order of those that were not set aside.
    let whole: Vec<u8> = world.objects("s/").into_values().flatten().collect();
    let text = String::from_utf8(whole).unwrap();
    let records: Vec<&str> = text.split_terminator(END).collect();
    let good: Vec<&Vec<u8>> = sent
        .iter()
        .enumerate()
        .filter(|(offset, _)| !errors.contains_key(offset))
        .map(|(_, payload)| payload)
        .collect();
    let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).chars().take(80).collect::<String>();
    assert_eq!(records.len() + errors.len(), sent.len(), "good + error = received, seed {seed}");
    // Somebody else's parser decides what was good, and what it meant.
    for (record, payload) in records.iter().zip(good) {
        let meant: serde_json::Value = serde_json::from_slice(payload.trim_ascii())
            .unwrap_or_else(|why| panic!("{:?} is no JSON ({why}), seed {seed}", shown(payload)));
        let came: serde_json::Value = serde_json::from_str(record).unwrap();
        assert_eq!(came, meant, "{:?}, seed {seed}", shown(payload));
    }
    let totals = world.state("s").totals;
    add_up(&totals);
    assert_eq!(totals.matched, sent.len() as u64);
    assert_eq!(
        (totals.records, totals.set_aside_count()),
        (records.len() as u64, errors.len() as u64)
    );
    println!(
        "{} payloads: {} records, {} set aside, seed {seed}",
        sent.len(),
        records.len(),
        errors.len()
    );
    assert!(
        records.len() > 50 && errors.len() > 300,
        "one-sided: {} {}",
        records.len(),
        errors.len()
    );
}
