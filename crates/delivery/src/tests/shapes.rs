//! What becomes of records between the rule and the object: taken apart, partitioned,
//! converted, kept as they came, packed.

use std::io::{Cursor, Read};

use formats::parquet::Reader;

use super::*;
use crate::{Backup, Conversion, Deaggregation, FateState, Partitioning};

const BY_DEVICE: &str = "{device: .device, year: (.at | strftime(\"%Y\"))}";

fn conversion() -> Conversion {
    Conversion {
        database: "air".to_owned(),
        table: "readings".to_owned(),
        version: None,
        snappy: true,
        ignore_case: true,
        keys: [("at".to_owned(), "time".to_owned())].into(),
    }
}

/// Rows of a Parquet object, as text.
fn rows(bytes: &[u8]) -> Vec<String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    let mut rows = Vec::new();
    for batch in Reader::open(file.path()).unwrap().batches(None, 1024).unwrap() {
        let batch = batch.unwrap();
        for row in 0..batch.num_rows() {
            let cell = |column| arrow::util::display::array_value_to_string(column, row).unwrap();
            rows.push(batch.columns().iter().map(|c| cell(c)).collect::<Vec<_>>().join("|"));
        }
    }
    rows
}

fn errors(world: &World, prefix: &str) -> Vec<serde_json::Value> {
    world.lines(prefix).iter().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A stream that does everything at once, with 40 messages: three devices, some that no query
/// can place, some that fit no column, some that hold several records.
fn everything() -> World {
    let world = World::new();
    world.buckets.create_bucket("raw").unwrap();
    world.table.set("device string, at bigint, pm25 double");
    world.stream("s", |row| {
        let new = &mut row.settings;
        new.prefix =
            "s/device=!{partitionKeyFromQuery:device}/!{partitionKeyFromQuery:year}/".into();
        new.error_prefix = Some("bad/!{firehose:error-output-type}/".to_owned());
        new.size_bytes = 1000;
        new.deaggregation = Some(Deaggregation::Json);
        new.partitioning = Some(Partitioning { query: BY_DEVICE.to_owned() });
        new.conversion = Some(conversion());
        new.backup = Some(Backup {
            bucket: "raw".to_owned(),
            prefix: "as-they-came/".to_owned(),
            compression: Compression::Gzip,
        });
    });
    for n in 0..40 {
        let at = 1_795_406_706 + n;
        let good = |n: i64| {
            format!("{{\"device\":\"d{}\",\"time\":{at},\"at\":{at},\"PM25\":{n}}}", n % 3)
        };
        let payload = match n % 8 {
            5 => good(n) + " " + &good(n + 1),
            6 => format!("{{\"device\":null,\"at\":{at}}}"),
            7 => format!("{{\"device\":\"d1\",\"at\":{at},\"pm25\":\"many\"}}"),
            _ => good(n),
        };
        world.publish("$aws/firehose/s", payload);
    }
    world
}

#[test]
fn a_crash_after_any_step_changes_nothing_whatever_becomes_of_records() {
    let calm = everything();
    assert!(calm.run("s", None));
    let totals = calm.state("s").totals;
    add_up(&totals);
    assert_eq!((totals.matched, totals.acted, totals.records), (40, 30, 35));
    let set_aside = [
        ("DataFormatConversion.MalformedData", 5),
        ("DynamicPartitioning.MetadataExtractionFailed", 5),
    ];
    let set_aside = set_aside.map(|(code, count)| (code.to_owned(), count));
    assert_eq!(totals.set_aside, set_aside.into());
    assert!(totals.backup_objects > 1 && totals.objects > 3 * totals.backup_objects / 2);
    let expect = calm.objects("");
    let raw = |world: &World| world.runtime.block_on(world.buckets.list("raw", "")).unwrap();
    let expect_raw: Vec<_> = raw(&calm).into_iter().map(|meta| (meta.key, meta.bytes)).collect();
    for step in STEPS {
        let world = everything();
        for _ in 0..20 {
            if world.run("s", Some(step)) {
                break;
            }
            // The table changes between a decision and its replay.
            world.table.set("device string, other bigint");
            world.run_to_recovery("s");
            world.table.set("device string, at bigint, pm25 double");
        }
        assert!(world.run("s", None));
        assert_eq!(world.objects(""), expect, "{step:?}");
        let raw: Vec<_> = raw(&world).into_iter().map(|meta| (meta.key, meta.bytes)).collect();
        assert_eq!(raw, expect_raw, "{step:?}");
        assert_eq!(world.state("s").totals, totals, "{step:?}");
    }
}

#[test]
fn records_go_where_their_values_say_and_become_rows() {
    let world = everything();
    assert!(world.run("s", None));
    let mut all = Vec::new();
    for (key, bytes) in world.objects("s/") {
        assert!(key.ends_with(".parquet"), "{key}");
        let device = key.strip_prefix("s/device=").unwrap().split('/').next().unwrap();
        assert!(key.starts_with(&format!("s/device={device}/2026/s-1-2026-")), "{key}");
        let rows = rows(&bytes);
        assert!(rows.iter().all(|row| row.starts_with(&format!("{device}|17954067"))), "{rows:?}");
        all.extend(rows);
    }
    all.sort();
    assert_eq!(all.len(), 35);
    assert_eq!(all[0], "d0|1795406706|0.0");
    // What could not be placed, and what did not fit, with what was sent and why.
    let unplaced = errors(&world, "bad/dynamic-partitioning-failed/");
    assert_eq!(unplaced.len(), 5);
    assert_eq!(unplaced[0]["errorCode"], "DynamicPartitioning.MetadataExtractionFailed");
    assert_eq!(
        unplaced[0]["errorMessage"],
        "partition key \"device\" is null; it must be text, a number or a boolean"
    );
    assert_eq!(unplaced[0]["offset"], 6);
    let misfits = errors(&world, "bad/format-conversion-failed/");
    assert_eq!(misfits.len(), 5);
    assert_eq!(misfits[0]["lastErrorCode"], "DataFormatConversion.MalformedData");
    assert!(misfits[0]["lastErrorMessage"].as_str().unwrap().contains("pm25"), "{}", misfits[0]);
    assert_eq!(misfits[0]["sequenceNumber"], "7");
    assert_eq!(misfits[0]["dataCatalogTable"]["tableName"], "readings");
    let raw = base64::decode(misfits[0]["rawData"].as_str().unwrap()).unwrap();
    assert_eq!(raw, b"{\"device\":\"d1\",\"at\":1795406713,\"pm25\":\"many\"}");
    // Every record as it came, byte for byte.
    let mut backup = Vec::new();
    for meta in world.runtime.block_on(world.buckets.list("raw", "as-they-came/2026/")).unwrap() {
        assert!(meta.key.ends_with(".gz"), "{}", meta.key);
        let bytes = world.runtime.block_on(world.buckets.get("raw", &meta.key)).unwrap();
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&*bytes).read_to_end(&mut unpacked).unwrap();
        backup.push((meta.key, unpacked));
    }
    let published: usize = backup.iter().map(|(_, bytes)| bytes.len()).sum();
    let text = String::from_utf8(backup.remove(0).1).unwrap();
    assert!(text.starts_with("{\"device\":\"d0\",\"time\":1795406706,"), "{text}");
    assert!(published > 40 * 30, "{published}");
}

#[test]
fn what_no_key_can_hold_is_set_aside_and_the_stream_goes_on() {
    let world = World::new();
    world.stream("s", |row| {
        row.settings.prefix = "s/!{partitionKeyFromQuery:k}/".to_owned();
        row.settings.partitioning = Some(Partitioning { query: "{k: .k}".to_owned() });
        row.settings.deaggregation = Some(Deaggregation::Delimited("##".to_owned()));
        row.settings.delimiter = Some("\n".to_owned());
    });
    let deep = "[".repeat(100_000);
    for bad in
        ["{\"k\":\"..\"}", "{\"k\":\"a//b\"}", "{\"k\":\"\"}", "{\"k\":[1]}", "{}", "no", &deep]
    {
        world.publish("$aws/firehose/s", bad);
    }
    let long = format!("{{\"k\":\"{}\"}}", "x".repeat(600));
    world.publish("$aws/firehose/s", long);
    world.publish("$aws/firehose/s", "##{\"k\":1.50}##{\"k\":true}####{\"k\":\"a/b\"}");
    assert!(world.run("s", None));
    let totals = world.state("s").totals;
    add_up(&totals);
    assert_eq!((totals.matched, totals.acted, totals.set_aside_count()), (9, 1, 8));
    assert_eq!(world.lines("bad/s/dynamic-partitioning-failed/").len(), 8);
    for (folder, record) in [("1.50", "1.50"), ("true", "true"), ("a/b", "\"a/b\"")] {
        let lines = world.lines(&format!("s/{folder}/s-1-"));
        assert_eq!(lines, [format!("{{\"k\":{record}}}")]);
    }
}

#[test]
fn a_batch_ends_before_there_are_too_many_partitions() {
    let world = World::new();
    world.stream("s", |row| {
        row.settings.prefix = "s/!{partitionKeyFromQuery:k}/".to_owned();
        row.settings.partitioning = Some(Partitioning { query: "{k: .k}".to_owned() });
    });
    for n in 0..1_100 {
        world.publish("$aws/firehose/s", format!("{{\"k\":{n}}}"));
    }
    assert!(world.run("s", None));
    assert_eq!(world.state("s").totals.objects, 1_100);
    assert_eq!(world.objects("s/").len(), 1_100);
    assert_eq!(world.state("s").totals.set_aside_count(), 0);
}

#[test]
fn every_packing_gives_the_bytes_back() {
    let text: Vec<u8> = (0..40_000).flat_map(|n| format!("{{\"n\":{n}}}\n").into_bytes()).collect();
    let packed = |how| {
        let world = World::new();
        world.stream("s", |row| row.settings.compression = how);
        for chunk in text.chunks(100_000) {
            world.publish("$aws/firehose/s", chunk);
        }
        assert!(world.run("s", None));
        world.shelf.puts.lock().unwrap().remove(0)
    };
    let (key, zip) = packed(Compression::Zip);
    let mut archive = zip::ZipArchive::new(Cursor::new(zip)).unwrap();
    let mut unpacked = Vec::new();
    let mut file = archive.by_index(0).unwrap();
    let name = key.rsplit('/').next().unwrap();
    assert_eq!(format!("{}.zip", file.name()), name);
    file.read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, text);

    let (key, snappy) = packed(Compression::Snappy);
    assert!(key.ends_with(".snappy") && snappy.len() < text.len() / 2, "{key}");
    unpacked.clear();
    formats::decode(&*snappy).unwrap().read_to_end(&mut unpacked).unwrap();
    assert_eq!(unpacked, text);

    // Hadoop's blocks: plain length, packed length, bytes.
    let (key, hadoop) = packed(Compression::HadoopSnappy);
    assert!(key.ends_with(".hsnappy"), "{key}");
    let (mut rest, mut unpacked) = (&*hadoop, Vec::new());
    let length = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap()) as usize;
    while !rest.is_empty() {
        let (plain, size) = (length(&rest[..4]), length(&rest[4..8]));
        let block = snap::raw::Decoder::new().decompress_vec(&rest[8..8 + size]).unwrap();
        assert_eq!(block.len(), plain);
        unpacked.extend(block);
        rest = &rest[8 + size..];
    }
    assert_eq!(unpacked, text);
}

#[test]
fn shapes_that_cannot_be_are_refused() {
    let world = World::new();
    world.table.set("device string");
    let streams = world.streams();
    let check = |change: &dyn Fn(&mut NewStream), part: &str| {
        let mut new = NewStream::new("s", "lake");
        new.prefix = "!{partitionKeyFromQuery:k}/".to_owned();
        new.error_prefix = Some("bad/".to_owned());
        new.partitioning = Some(Partitioning { query: "{k: .k}".to_owned() });
        change(&mut new);
        let Err(error) = streams.create(&new) else { panic!("{part}: was taken") };
        assert!(error.to_string().contains(part), "{error}");
    };
    let query = |query: &str, part: &str| {
        let set = |new: &mut NewStream| {
            new.partitioning = Some(Partitioning { query: query.to_owned() });
        };
        check(&set, part);
    };
    query("{k: .k", "\"{\" is not closed");
    query("{k: nope(.k)}", "nope is unknown");
    query("{k: now}", "now may answer otherwise");
    query("{k: (.k | debug)}", "debug may answer otherwise");
    query("", "expected term at its end");
    check(&|new| new.prefix = "k/".to_owned(), "give both or neither");
    check(&|new| new.partitioning = None, "give both or neither");
    check(&|new| new.error_prefix = None, "an error prefix must be given");
    check(&|new| new.time_zone = Some("Moon".to_owned()), "\"Moon\" is unknown");
    check(
        &|new| new.deaggregation = Some(Deaggregation::Delimited(String::new())),
        "the delimiter is empty",
    );
    let backup = |bucket: &str, prefix: &str| Backup {
        bucket: bucket.to_owned(),
        prefix: prefix.to_owned(),
        compression: Compression::None,
    };
    check(&|new| new.backup = Some(backup("nowhere", "")), "\"nowhere\" does not exist");
    check(&|new| new.backup = Some(backup("lake", "a//")), "a component is empty");
    let with = |change: &dyn Fn(&mut Conversion)| {
        let mut conversion = conversion();
        conversion.keys.clear();
        change(&mut conversion);
        Some(conversion)
    };
    check(&|new| new.conversion = with(&|c| c.table = "gone".into()), "no table air.gone");
    let key = |c: &mut Conversion| drop(c.keys.insert("x".into(), "y".into()));
    check(&|new| new.conversion = with(&key), "no column \"x\"");
    let packed = |new: &mut NewStream| {
        new.conversion = with(&|_| {});
        new.compression = Compression::Gzip;
    };
    check(&packed, "leave the objects uncompressed");
    world.table.set("device uniontype<int>");
    check(&|new| new.conversion = with(&|_| {}), "uniontype");
    // Partitioning is for good.
    let plain = streams.create(&NewStream::new("s", "lake")).unwrap().settings;
    let partitioned = NewStream {
        prefix: "!{partitionKeyFromQuery:k}/".to_owned(),
        error_prefix: Some("bad/".to_owned()),
        partitioning: Some(Partitioning { query: "{k: .k}".to_owned() }),
        ..plain
    };
    let error = streams.update(1, &partitioned).unwrap_err().to_string();
    assert!(error.contains("make another stream"), "{error}");
}

#[test]
fn a_record_is_followed_to_its_objects() {
    let world = everything();
    let streams = world.streams();
    let view = |world: &World| world.rules.view(|| world.log.durable());
    let records: Vec<Bytes> =
        world.log.inner.lock().unwrap().records.iter().map(|r| r.clone().unwrap()).collect();
    let fate = |offset: u64| {
        let record = &records[offset as usize];
        streams.fate("s", Offset(offset), record, &view(&world)).unwrap().unwrap()
    };
    assert_eq!((fate(0).state, fate(0).objects.len()), (FateState::Waiting, 0));
    assert!(!world.run("s", Some(Step::Decided)));
    assert_eq!((fate(0).state, fate(39).state), (FateState::Decided, FateState::Waiting));
    assert_eq!(fate(0).objects.len(), 2, "a row and the copy: {:?}", fate(0).objects);
    assert!(world.run("s", None));
    let good = fate(4);
    assert_eq!((good.state, good.records, good.matched), (FateState::Delivered, 1, 1));
    assert!(good.set_aside.is_empty());
    let [row, copy] = good.objects.as_slice() else { panic!("{:?}", good.objects) };
    assert!(copy.starts_with("s3://raw/as-they-came/2026/"), "{copy}");
    let key = row.strip_prefix("s3://lake/").unwrap();
    let objects = world.objects("s/device=d1/");
    assert!(rows(&objects[key]).contains(&"d1|1795406710|4.0".to_owned()), "{key}");
    let bad = fate(7);
    assert_eq!(bad.records, 0);
    assert!(bad.set_aside[0].starts_with("DataFormatConversion.MalformedData: "), "{bad:?}");
    assert!(bad.objects[0].contains("/bad/format-conversion-failed/"), "{bad:?}");
    // What no stream takes, and what is remembered no longer than it is bounded.
    world.publish("elsewhere", "1");
    let other = world.log.inner.lock().unwrap().records[40].clone().unwrap();
    assert_eq!(streams.fate("s", Offset(40), &other, &view(&world)).unwrap(), None);
    for n in 0..300 {
        world.publish("$aws/firehose/s", format!("{{\"device\":\"d\",\"at\":{n}}}"));
        assert!(world.run("s", None));
    }
    assert!(streams.objects_around("s", Offset(4)).unwrap().is_empty());
    assert_eq!(streams.objects_around("s", Offset(340)).unwrap().len(), 2);
    assert_eq!(streams.objects_around("s", Offset(90)).unwrap().len(), 2);
    assert_eq!(streams.objects_around("s", Offset(80)).unwrap().len(), 0);
    streams.delete("s").unwrap();
    assert!(streams.objects_around("s", Offset(340)).unwrap().is_empty());
}

#[test]
fn lineage_is_written_and_is_the_same_after_a_crash_at_any_step() {
    let make = || {
        let world = World::new();
        world.stream("s", |row| {
            row.settings.lineage = true;
            row.settings.delimiter = Some("\n".to_owned());
            row.settings.size_bytes = 300;
        });
        for n in 0..12 {
            world.publish("$aws/firehose/s", format!("{{\"n\":{n}}}"));
        }
        world.publish("$aws/firehose/s", "no json");
        world
    };
    let calm = make();
    let first = calm.log.durable().0 - 13;
    assert!(calm.run("s", None));
    let expect = calm.objects("");
    assert!(expect.len() > 2, "several batches");
    let mut lines = calm.lines("s/");
    assert_eq!(lines.pop().unwrap(), "no json");
    for (n, line) in lines.iter().enumerate() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(line["_log_offset"], first + n as u64);
        assert_eq!((&line["_device"], &line["n"]), (&"dev-1".into(), &n.into()));
        assert!(line["_arrived_at"].as_str().unwrap().ends_with('Z'), "{line}");
    }
    for step in STEPS {
        let world = make();
        for _ in 0..20 {
            if world.run("s", Some(step)) {
                break;
            }
            world.run_to_recovery("s");
        }
        assert!(world.run("s", None));
        assert_eq!(world.objects(""), expect, "{step:?}");
    }
}
