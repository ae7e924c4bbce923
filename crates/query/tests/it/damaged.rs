//! E3: one bad line or one bad file never fails a table.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int32Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use formats::csv::{Dialect, Header};
use formats::parquet::{Codec, Writer, WriterOptions};
use lake::{Decision, Format};
use parquet::file::metadata::{
    ColumnChunkMetaDataBuilder, ParquetMetaDataReader, ParquetMetaDataWriter,
};

use crate::world::{World, gzip, job, parse_columns};

fn lines(from: u32, count: u32) -> String {
    (from..from + count).map(|n| format!("{{\"n\":{n}}}\n")).collect()
}

fn zip(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, text) in files {
        archive.start_file(*name, zip::write::SimpleFileOptions::DEFAULT).unwrap();
        archive.write_all(text.as_bytes()).unwrap();
    }
    archive.finish().unwrap().into_inner()
}

/// Firehose's HADOOP_SNAPPY: one piece a block.
fn hadoop(text: &str) -> Vec<u8> {
    let packed = snap::raw::Encoder::new().compress_vec(text.as_bytes()).unwrap();
    let mut out = (text.len() as u32).to_be_bytes().to_vec();
    out.extend((packed.len() as u32).to_be_bytes());
    out.extend(packed);
    out
}

/// What was set aside of each object, by a run: how often, where first, and why.
fn aside(result: &lake::EtlResult, key: &str) -> (usize, u64, String) {
    let of: Vec<_> = result.set_aside.iter().filter(|record| record.key == key).collect();
    let first = of.first();
    (of.len(), first.map_or(0, |r| r.position), first.map_or(String::new(), |r| r.reason.clone()))
}

#[tokio::test]
async fn every_packing_of_json_is_read_by_queries_and_jobs() {
    let world = World::new();
    let text = |at: u32| lines(at * 100, 100);
    let framed = |text: &str| {
        let mut encoder = snap::write::FrameEncoder::new(Vec::new());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.into_inner().unwrap()
    };
    let concatenated = text(1).replace('\n', "");
    world.put("raw/readings/a.json", text(0)).await;
    world.put("raw/readings/b", concatenated).await;
    world.put("raw/readings/c.gz", gzip(&text(2))).await;
    world.put("raw/readings/d.zst", zstd::stream::encode_all(text(3).as_bytes(), 3).unwrap()).await;
    world.put("raw/readings/e.snappy", framed(&text(4))).await;
    world.put("raw/readings/f.hsnappy", hadoop(&text(5))).await;
    // As Firehose writes it, and under a name that says nothing.
    world.put("raw/readings/g.zip", zip(&[("g", &text(6))])).await;
    world.put("raw/readings/h", zip(&[("x", &text(7)), ("y", &text(8))])).await;
    world.put("raw/readings/i", hadoop(&text(9))).await;
    world.crawl().await;
    let sums = "SELECT count(*), sum(n), min(n), max(n) FROM";
    assert_eq!(world.rows(&format!("{sums} readings")).await, ["1000|499500|0|999"]);
    world.run(&job("readings", vec![], "source", &[])).await;
    assert_eq!(world.rows(&format!("{sums} curated")).await, ["1000|499500|0|999"]);
}

#[tokio::test]
async fn e3_one_bad_line_or_one_bad_object_never_fails_a_table() {
    let world = World::new();
    world.declare("readings", Format::Json, "n int", "");
    let put = |name: &str, bytes: Vec<u8>| {
        let key = format!("raw/readings/{name}");
        let world = &world;
        async move { world.put(&key, bytes).await }
    };
    put("a-good", lines(0, 1000).into_bytes()).await;
    put("b-line", format!("{}not json\n{}", lines(0, 10), lines(10, 10)).into_bytes()).await;
    put("c-type", format!("{}{{\"n\":\"ten\"}}\n", lines(0, 10)).into_bytes()).await;
    let whole = gzip(&lines(0, 50_000));
    put("d-torn.gz", whole[..whole.len() / 2].to_vec()).await;
    let mut flipped = gzip(&lines(0, 50_000));
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x55;
    put("z-flipped.gz", flipped).await;
    let mut archive = zip(&[("x", &lines(0, 1000))]);
    archive.truncate(archive.len() - 30);
    put("f-torn.zip", archive).await;
    let blocks = hadoop(&lines(0, 1000));
    put("g-torn.hsnappy", blocks[..blocks.len() - 9].to_vec()).await;
    put("h-noise", (0..5000_u32).map(|n| (n * 7919 % 251) as u8).collect()).await;
    // A quarter of a gigabyte of blanks, in a few kilobytes.
    let blanks = std::io::repeat(b' ');
    let mut bomb = Vec::new();
    let bounded = std::io::Read::take(blanks, 256 << 20);
    zstd::stream::copy_encode(bounded, &mut bomb, 1).unwrap();
    put("i-bomb.zst", bomb).await;

    let answer = world.sql("SELECT count(*), sum(n) FROM readings WHERE n < 10").await.unwrap();
    assert!(answer.set_aside >= 6, "{}", answer.set_aside);
    let (_, result) = world.run(&job("readings", vec![], "source", &[])).await;
    let result = result.unwrap();
    assert_eq!(result.set_aside_count, answer.set_aside);
    let whole = world.rows("SELECT count(*) FROM readings").await;
    assert_eq!(world.rows("SELECT count(*) FROM curated").await, whole);
    let of = |name: &str| aside(&result, &format!("raw/readings/{name}"));
    assert_eq!(of("a-good").0, 0);
    let line = of("b-line");
    assert_eq!((line.0, line.1), (1, lines(0, 10).len() as u64), "{line:?}");
    assert!(of("c-type").2.contains("cannot hold"), "{:?}", of("c-type"));
    for name in ["d-torn.gz", "z-flipped.gz", "f-torn.zip", "g-torn.hsnappy"] {
        let (count, position, why) = of(name);
        assert!(count >= 1, "{name}: {why}");
        assert!(position > 0 || !name.contains("gz"), "{name}: {position} {why}");
        assert!(!why.is_empty(), "{name}");
    }
    assert!(of("h-noise").0 >= 1);
}

#[tokio::test]
async fn e3_damaged_csv_is_set_aside_by_the_line() {
    let world = World::new();
    let mut table = world.declare("sheet", Format::Csv, "n int; v double; s string", "");
    table.csv = Some(Dialect { header: Header::Skip(1), ..Dialect::new(b';') });
    world.lake.catalog().update_table(table).unwrap();
    let mut text = "n;v;s\n".to_owned();
    for n in 0..1000 {
        text += &format!("{n};{}.5;\"a;{n}\"\n", n % 10);
    }
    text += "1;2\n1;2;3;4\nx;1.5;a\n7;1,5;a\n8;1.5;\"open\n9;1.5;\"closed\"\n";
    world.put("raw/sheet/a.csv", text.clone()).await;
    world.put("raw/sheet/b.csv.gz", gzip(&text)).await;
    let mut noise = text.clone().into_bytes();
    for at in (10..noise.len()).step_by(97) {
        noise[at] ^= 0x80;
    }
    world.put("raw/sheet/c.csv", noise).await;
    let clean = "SELECT count(*), sum(n), sum(v) FROM sheet WHERE s LIKE 'a;%' AND n >= 0";
    let answer = world.sql(clean).await.unwrap();
    assert!(answer.set_aside > 10, "{}", answer.set_aside);
    let (_, result) = world.run(&job("sheet", vec![], "source", &[])).await;
    let result = result.unwrap();
    assert_eq!(result.set_aside_count, answer.set_aside);
    let (count, first, why) = aside(&result, "raw/sheet/a.csv");
    assert_eq!(count, 5);
    assert_eq!(&text[first as usize..][..4], "1;2\n");
    assert!(why.contains("2 fields, its file has 3"), "{why}");
    let per_file = "SELECT n, count(*) FROM sheet WHERE n = 9 AND s = 'closed' GROUP BY n";
    let rows = world.rows(per_file).await;
    assert!(rows == ["9|3"] || rows == ["9|2"], "{rows:?}");
}

#[tokio::test]
async fn a_crawl_finds_csv_and_says_what_it_made_of_each_object() {
    let world = World::new();
    let first = "device,at,v\nd1,2026-01-01,1.5\nd2,2026-01-01,2\n";
    world.put("raw/readings/day=1/a.csv", first).await;
    let second = "v,device,at,note\n3,d3,x,\"a,b\"\n4,d4\n5,d5,y,\n6,d6,z,\n";
    world.put("raw/readings/day=2/b.csv.gz", gzip(second)).await;
    world.put("raw/readings/day=2/c.csv", "device;at;v\nd1;x;1\nd2;y;2\n").await;
    let crawler = lake::Crawler::new("c", ("bkt", "raw/readings"), "air");
    world.lake.create_crawler(&crawler).unwrap();
    let report = world.lake.run_crawler("c").await.unwrap();
    let table = world.lake.catalog().get_table("air", "readings").unwrap();
    let found: Vec<String> =
        table.columns.iter().map(|c| format!("{} {}", c.name, c.hive_type)).collect();
    assert_eq!(found, ["device string", "at string", "v double", "note string"]);
    assert_eq!(table.parameters["classification"], "csv");
    assert_eq!(table.csv, Some(Dialect { header: Header::Names, ..Dialect::new(b',') }));
    let of = |key: &str| report.objects.iter().find(|o| o.key.ends_with(key)).unwrap();
    assert_eq!(of("a.csv").decision, Decision::Read);
    assert!(of("b.csv.gz").why.contains("1 of its 4 records"), "{}", of("b.csv.gz").why);
    assert_eq!(of("c.csv").decision, Decision::LeftOut);
    assert!(of("c.csv").why.contains("delimiter or header"), "{}", of("c.csv").why);
    let rows = world.rows("SELECT device, v, note, day FROM readings ORDER BY device").await;
    assert_eq!(rows, ["d1|1.5|-|1", "d2|2.0|-|1", "d3|3.0|a,b|2", "d5|5.0||2", "d6|6.0||2"]);
    let one = world.sql("SELECT sum(v) FROM readings WHERE day = '1'").await.unwrap();
    assert_eq!(
        (one.set_aside, one.bytes_scanned),
        (0, first.len() as u64),
        "only the day's object is opened"
    );
    // The report is kept with the crawl.
    let (crawl, kept) = world.lake.crawl_report("c", None).unwrap();
    assert_eq!(kept, report);
    assert_eq!(world.lake.crawl_report("c", Some(&crawl.id)).unwrap().1, report);
    assert!(world.lake.crawl_report("c", Some("other")).is_err());
}

fn batch(from: i32, rows: i32) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("n", DataType::Int32, true),
        Field::new("device", DataType::Utf8, true),
        Field::new("v", DataType::Float64, true),
    ]);
    let n: Int32Array = (from..from + rows).map(|n| (n % 5 > 0).then_some(n)).collect();
    let device: StringArray = (from..from + rows).map(|n| Some(format!("d{}", n % 7))).collect();
    let v: Float64Array = (from..from + rows).map(|n| Some(f64::from(n) / 3.0)).collect();
    let columns: Vec<ArrayRef> = vec![Arc::new(n), Arc::new(device), Arc::new(v)];
    RecordBatch::try_new(Arc::new(schema), columns).unwrap()
}

fn parquet(codec: Codec) -> Vec<u8> {
    let options = WriterOptions { codec, row_group_rows: 400, ..Default::default() };
    let mut writer = Writer::in_memory(batch(0, 1).schema(), &options).unwrap();
    writer.write(&batch(0, 1200)).unwrap();
    writer.into_bytes().unwrap()
}

const QUESTION: &str = "SELECT k, count(*), count(n), sum(n), count(DISTINCT device), \
                        max(v) FROM p WHERE k IS NOT NULL GROUP BY k ORDER BY k";

const SOME: &str = "SELECT k, count(*) FROM p WHERE v >= 10 GROUP BY k ORDER BY k";

/// Asks about a sound file and a damaged one, which must never fail nor touch the sound one.
/// Whether anything was set aside.
async fn ask(world: &World, bytes: Vec<u8>, what: &str) -> bool {
    world.put("raw/p/k=2/bad.parquet", bytes).await;
    let answer = world.sql(QUESTION).await.unwrap_or_else(|error| panic!("{what}: {error}"));
    let rows = crate::world::shown(&answer.batches);
    assert_eq!(rows[0], "1|1200|960|576000|7|399.6666666666667", "{what}");
    // A condition has the index of pages looked at.
    let some = world.sql(SOME).await.unwrap_or_else(|error| panic!("{what}, some: {error}"));
    assert_eq!(crate::world::shown(&some.batches)[0], "1|1170", "{what}");
    answer.set_aside > 0
}

async fn parquet_world() -> World {
    let world = World::new();
    let mut table =
        world.declare("p", Format::Parquet, "n int; device string; v double", "k string");
    table.columns = parse_columns("n int; device string; v double");
    world.put("raw/p/k=1/good.parquet", parquet(Codec::Zstd)).await;
    assert!(!ask(&world, parquet(Codec::Zstd), "a sound file").await);
    world
}

async fn flip(count: usize) {
    let world = parquet_world().await;
    let mut noticed = 0;
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    for step in 0..count {
        let codec = [Codec::Zstd, Codec::None, Codec::Snappy][step % 3];
        let mut bytes = parquet(codec);
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Every other flip hits the footer, which is a small part of the file.
        let footer = bytes.len().min(1500);
        let at = match step % 2 {
            0 => (seed >> 20) as usize % bytes.len(),
            _ => bytes.len() - 1 - (seed >> 20) as usize % footer,
        };
        let bits = ((seed >> 8) as u8).max(1);
        bytes[at] ^= bits;
        let what = format!("{codec:?}, byte {at} of {} by {bits:#x}", bytes.len());
        noticed += usize::from(ask(&world, bytes, &what).await);
    }
    assert!(noticed * 10 > count, "{noticed} of {count}");
}

#[tokio::test]
async fn e3_a_flipped_byte_in_parquet_never_fails_the_table() {
    flip(200).await;
}

#[tokio::test]
#[ignore = "long: 2,000 flips"]
async fn e3_long_two_thousand_flipped_bytes_in_parquet_never_fail_the_table() {
    flip(2_000).await;
}

#[tokio::test]
async fn e3_torn_parquet_and_footers_that_lie_are_set_aside() {
    let world = parquet_world().await;
    let good = parquet(Codec::Zstd);
    for part in 0..40 {
        let cut = good[..good.len() * part / 40].to_vec();
        let empty = cut.is_empty();
        // What is empty is no object of the table.
        assert!(ask(&world, cut, &format!("{part}/40 of it")).await || empty);
    }
    let end = good.len();
    for (what, length) in [("no footer", 0), ("all", end as u32), ("gigabytes", 0x7fff_ffff)] {
        let mut lie = good.clone();
        lie[end - 8..end - 4].copy_from_slice(&length.to_le_bytes());
        assert!(ask(&world, lie, &format!("a footer of {what}")).await);
    }
    assert!(ask(&world, b"PAR1PAR1".to_vec(), "two magics").await);
    assert!(ask(&world, b"{\"n\":1}\n".to_vec(), "JSON").await);
    // Rows before the damage are read, in queries as in jobs.
    let mut middle = good.clone();
    let at = good.len() / 2;
    middle[at..at + 64].fill(0xff);
    assert!(ask(&world, middle, "a hole").await);
    let question = "SELECT count(*) FROM p WHERE k = '2' AND v >= 0";
    let kept = world.rows(question).await;
    let (run, result) = world.run(&job("p", vec![], "source", &[])).await;
    assert_eq!(run.set_aside, 1);
    let aside = &result.unwrap().set_aside[0];
    assert_eq!(aside.key, "raw/p/k=2/bad.parquet");
    assert!(aside.reason.contains("is not read from row"), "{}", aside.reason);
    assert_eq!(world.rows("SELECT count(*) FROM curated WHERE k = '2' AND v >= 0").await, kept);
}

/// The file with another footer, whose parts are as `lie` makes them.
fn with_footer(
    file: &[u8],
    lie: impl Fn(ColumnChunkMetaDataBuilder) -> ColumnChunkMetaDataBuilder,
    rows: i64,
) -> Vec<u8> {
    let end = file.len() - 8;
    let length = u32::from_le_bytes(file[end..end + 4].try_into().unwrap()) as usize;
    let bytes = bytes::Bytes::copy_from_slice(file);
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&bytes).unwrap();
    let groups = metadata.row_groups().iter().map(|group| {
        let columns = group.columns().iter();
        let columns = columns.map(|column| lie(column.clone().into_builder()).build().unwrap());
        group.clone().into_builder().set_column_metadata(columns.collect()).set_num_rows(rows)
    });
    let groups = groups.map(|group| group.build().unwrap()).collect();
    let metadata = metadata.clone().into_builder().set_row_groups(groups).build();
    let mut lying = file[..end - length].to_vec();
    ParquetMetaDataWriter::new(&mut lying, &metadata).finish().unwrap();
    lying
}

#[tokio::test]
async fn e3_footers_that_lie_about_their_columns_take_no_memory_and_fail_no_table() {
    let world = parquet_world().await;
    let good = parquet(Codec::Zstd);
    assert!(!ask(&world, with_footer(&good, |column| column, 400), "the same footer").await);
    for huge in [1 << 31, 1 << 40, 1 << 60] {
        let lies: [(&str, Vec<u8>); 5] = [
            ("packed", with_footer(&good, |it| it.set_total_compressed_size(huge), 400)),
            ("unpacked", with_footer(&good, |it| it.set_total_uncompressed_size(huge), 400)),
            ("values", with_footer(&good, |it| it.set_num_values(huge), 400)),
            ("place", with_footer(&good, |it| it.set_data_page_offset(huge), 400)),
            ("rows", with_footer(&good, |it| it, huge)),
        ];
        for (what, bytes) in lies {
            ask(&world, bytes, &format!("{what}: {huge}")).await;
            let (run, _) = world.run(&job("p", vec![], "source", &[])).await;
            assert!(run.set_aside <= 1, "{what}: {huge}");
        }
    }
}

#[tokio::test]
async fn e3_a_file_of_other_types_is_set_aside_and_a_statements_own_fault_is_not() {
    let world = parquet_world().await;
    let schema = Schema::new(vec![Field::new("n", DataType::Utf8, true)]);
    let text: ArrayRef = Arc::new(StringArray::from(vec!["1", "two"]));
    let batch = RecordBatch::try_new(Arc::new(schema), vec![text]).unwrap();
    let mut writer = Writer::in_memory(batch.schema(), &WriterOptions::default()).unwrap();
    writer.write(&batch).unwrap();
    let bytes = writer.into_bytes().unwrap();
    assert!(ask(&world, bytes, "text in a column of numbers").await);
    let error = world.sql("SELECT sum(CAST(device AS int)) FROM p WHERE k = '1'").await;
    assert_eq!(error.unwrap_err().kind(), base::ErrorKind::Invalid);
}
