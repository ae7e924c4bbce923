//! The scan and the inference at their border: text in, rows and reasons out.

use std::io::Read;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, Schema};
use arrow::util::display::array_value_to_string;
use base::{ErrorKind, Result};
use proptest::prelude::*;

use super::*;
use crate::hive;

/// `a int, b string` as a schema.
fn schema(columns: &str) -> Schema {
    let field = |column: &str| {
        let (name, hive_type) = column.trim().split_once(' ').unwrap();
        Field::new(name, hive::to_arrow(hive_type).unwrap(), true)
    };
    Schema::new(columns.split(';').map(field).collect::<Vec<_>>())
}

struct Read1<'a> {
    bytes: &'a [u8],
    chunk: usize,
}

impl Read for Read1<'_> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.chunk.min(self.bytes.len()).min(out.len());
        out[..count].copy_from_slice(&self.bytes[..count]);
        self.bytes = &self.bytes[count..];
        Ok(count)
    }
}

fn scan_with(
    schema: &Schema,
    input: impl Read,
    options: ScanOptions,
) -> (RecordBatch, Vec<BadRecord>) {
    let mut scan = Scan::new(schema, None, input, options).unwrap();
    let (mut batches, mut bad) = (Vec::new(), Vec::new());
    while let Some(batch) = scan.next_batch(&mut |record| bad.push(record)).unwrap() {
        batches.push(batch);
    }
    let all = concat_batches(&scan.schema(), &batches).unwrap();
    assert_eq!(scan.good(), all.num_rows() as u64);
    assert_eq!(scan.bad(), bad.len() as u64);
    (all, bad)
}

fn scan(schema: &Schema, text: &[u8]) -> (RecordBatch, Vec<BadRecord>) {
    scan_with(schema, text, ScanOptions::default())
}

/// Rows as `1|x`, nulls as `-`.
fn rows(batch: &RecordBatch) -> Vec<String> {
    (0..batch.num_rows())
        .map(|row| {
            let cell = |column: &arrow::array::ArrayRef| {
                if column.is_null(row) {
                    "-".to_owned()
                } else {
                    array_value_to_string(column, row).unwrap()
                }
            };
            batch.columns().iter().map(cell).collect::<Vec<_>>().join("|")
        })
        .collect()
}

#[track_caller]
fn check(columns: &str, text: &str, expect_rows: &[&str], expect_bad: &[&str]) {
    let (batch, bad) = scan(&schema(columns), text.as_bytes());
    assert_eq!(rows(&batch), expect_rows);
    let shown: Vec<String> = bad
        .iter()
        .map(|bad| {
            assert_eq!(text.as_bytes()[bad.position as usize..][..bad.raw.len()], bad.raw[..]);
            format!("{}: {}: {}", bad.line, String::from_utf8_lossy(&bad.raw), bad.reason)
        })
        .collect();
    assert_eq!(shown, expect_bad);
}

#[test]
fn every_way_to_lay_out_records_reads_alike() {
    for text in [
        "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n",
        "{\"a\":1}{\"a\":2}{\"a\":3}",
        "{\"a\":1}\r\n\r\n  {\"a\":2}\t{\"a\":3}",
        "\u{feff}{\"a\":1}\n{ \"a\" : 2 }\n{\n  \"a\":\n 3\n}\n\n",
    ] {
        check("a int", text, &["1", "2", "3"], &[]);
    }
    check("a int", "", &[], &[]);
    check("a int", " \r\n\t\n", &[], &[]);
    check("a int", "\u{feff}", &[], &[]);
}

#[test]
fn values_fit_as_documented() {
    check(
        "a int; b double; c string; d boolean",
        r#"{"a":1,"b":2,"c":"x","d":true}
           {"d":false,"c":null,"b":1.5e1,"a":null}
           {}
           {"a":3.0,"b":-0.25,"c":"\u00e9\n","other":[{"a":"ignored"}]}
           {"a":30e-1,"b":12345678901234567890,"c":7.50}
           {"c":{"k": [1, true]}}
           {"c":false}"#,
        &[
            "1|2.0|x|true",
            "-|15.0|-|false",
            "-|-|-|-",
            "3|-0.25|é\n|-",
            "3|1.2345678901234567e19|7.50|-",
            "-|-|{\"k\": [1, true]}|-",
            "-|-|false|-",
        ],
        &[],
    );
    check(
        "t timestamp; d date; f float; s smallint",
        r#"{"t":"2013-03-01T00:00:00.25Z","d":"2013-03-01","f":0.5,"s":-32768}"#,
        &["2013-03-01T00:00:00.250|2013-03-01|0.5|-32768"],
        &[],
    );
}

#[test]
fn nested_values_are_typed_too() {
    check(
        "p struct<x:int,y:array<double>>; m map<string,int>",
        r#"{"p":{"y":[1,2.5,null],"x":1},"m":{"a":1,"b":null}}
           {"p":{"z":0,"y":[]},"m":{}}
           {"p":null,"m":null}
           {"p":{"x":"no"}}
           {"p":{"x":1,"x":2}}
           {"m":{"a":1,"\u0061":2}}
           {"p":{"x":7},"m":{"c":3}}"#,
        &["{x: 1, y: [1.0, 2.5, ]}|{a: 1, b: }", "{x: , y: []}|{}", "-|-", "{x: 7, y: }|{c: 3}"],
        &[
            r#"4: {"p":{"x":"no"}}: column "p.x" is int and cannot hold "no""#,
            r#"5: {"p":{"x":1,"x":2}}: key "x" comes twice"#,
            r#"6: {"m":{"a":1,"\u0061":2}}: key "a" comes twice"#,
        ],
    );
}

#[test]
fn a_record_that_does_not_fit_is_set_aside_whole() {
    check(
        "a int; b double; d boolean; t timestamp",
        r#"{"a":1}
{"a":"1"}
{"b":1,"a":3.5}
{"b":[1]}
{"a":2147483648}
{"b":1e400}
{"zz":1e400}
{"d":0}
{"t":1362096000}
{"t":"yesterday"}
{"a":1,"a":1}
{"zz":1,"zz":2}
{"a":1,"\u0061":1}
{"b":"\ud800"}
{"a":2}"#,
        &["1|-|-|-", "2|-|-|-"],
        &[
            r#"2: {"a":"1"}: column "a" is int and cannot hold "1""#,
            r#"3: {"b":1,"a":3.5}: column "a" is int and cannot hold 3.5"#,
            r#"4: {"b":[1]}: column "b" is double and cannot hold [1]"#,
            r#"5: {"a":2147483648}: column "a" is int and cannot hold 2147483648"#,
            r#"6: {"b":1e400}: number 1e400 is beyond a double"#,
            r#"7: {"zz":1e400}: number 1e400 is beyond a double"#,
            r#"8: {"d":0}: column "d" is boolean and cannot hold 0"#,
            r#"9: {"t":1362096000}: column "t" is timestamp and cannot hold 1362096000"#,
            r#"10: {"t":"yesterday"}: column "t" is timestamp and cannot hold "yesterday""#,
            r#"11: {"a":1,"a":1}: key "a" comes twice"#,
            r#"12: {"zz":1,"zz":2}: key "zz" comes twice"#,
            r#"13: {"a":1,"\u0061":1}: key "a" comes twice"#,
            r#"14: {"b":"\ud800"}: a string holds half of a surrogate pair"#,
        ],
    );
}

#[test]
fn reading_goes_on_after_what_is_no_json() {
    check(
        "a int",
        "{\"a\":1}\nhello\n{\"a\":NaN}\n{\"a\":2\n{\"a\":\"x\n{\"a\":3}\n[1]\n{\"a\":04}\n7\n{\"a\":5",
        &["1", "3"],
        &[
            "2: hello: expected an object at byte 0",
            "3: {\"a\":NaN}: expected a value at byte 5",
            "4: {\"a\":2: expected ',' or '}' at byte 7",
            "5: {\"a\":\"x: expected no control character in a string at byte 7",
            "7: [1]: expected an object at byte 0",
            "8: {\"a\":04}: expected no digit after a leading zero at byte 6",
            "9: 7: expected an object at byte 0",
            "10: {\"a\":5: the record is cut off",
        ],
    );
    check(
        "a int",
        "{\"a\":1}{\"a\":x}{\"a\":2}{\"a\":3{\"a\":4} }{\"a\":5}",
        &["1", "2", "4", "5"],
        &[
            "1: {\"a\":x}: expected a value at byte 5",
            "1: {\"a\":3: expected ',' or '}' at byte 6",
            "1: }: expected an object at byte 0",
        ],
    );
}

#[test]
fn bytes_that_are_no_utf8_set_the_record_aside() {
    let text = b"{\"a\":\"ok\"}\n{\"a\":\"\xff\"}\n{\"\xfe\":1}\n{\"a\":{\"b\":\"\x80\"}}\n{\"a\":\"\xc3\xa9\"}\xff\n";
    let (batch, bad) = scan(&schema("a string"), text);
    assert_eq!(rows(&batch), ["ok", "é"]);
    let reasons: Vec<&str> = bad.iter().map(|bad| bad.reason.as_str()).collect();
    let utf8 = "a string is not valid UTF-8";
    assert_eq!(reasons, [utf8, utf8, utf8, "expected an object at byte 0"]);
    assert_eq!(bad[0].raw[..], b"{\"a\":\"\xff\"}"[..]);
    assert_eq!(bad[3].raw[..], b"\xff"[..]);
}

#[test]
fn keys_find_their_columns_whatever_their_case_when_asked_to() {
    let options = ScanOptions { ignore_case: true, ..ScanOptions::default() };
    let text = b"{\"PM25\":\"1\"}{\"pm25\":\"2\"}{\"Pm25\":\"3\",\"pM25\":\"4\"}";
    let (batch, bad) = scan_with(&schema("pm25 string"), &text[..], options);
    assert_eq!(rows(&batch), ["1", "2"]);
    assert_eq!(bad.len(), 1);
    let (batch, _) = scan(&schema("pm25 string"), &text[..]);
    assert_eq!(rows(&batch), ["-", "2", "-"]);
}

#[test]
fn depth_is_bounded_without_recursion() {
    let nested = |levels: usize| {
        format!("{{\"a\":{}1{}}}\n", "[".repeat(levels - 1), "]".repeat(levels - 1))
    };
    let text = [nested(64), nested(65), nested(100_000), "{\"a\":1}".into()].concat();
    let (batch, bad) = scan(&schema("a string"), text.as_bytes());
    assert_eq!(batch.num_rows(), 2);
    assert_eq!(bad.len(), 2);
    assert_eq!(bad[1].reason, "nested deeper than 64 levels");
    let objects = [r#"{"a":"#.repeat(100_000), "\n{\"a\":2}".into()].concat();
    let (batch, bad) = scan(&schema("a string"), objects.as_bytes());
    assert_eq!((batch.num_rows(), bad.len()), (1, 1));
}

#[test]
fn a_record_too_long_is_set_aside_and_memory_stays_bounded() {
    let options = ScanOptions { record_bytes_max: 1000, ..ScanOptions::default() };
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(100_000));
    for between in ["\n", ""] {
        let text = ["{\"a\":\"1\"}", &long, "{\"a\":\"2\"}"].join(between);
        let (batch, bad) = scan_with(&schema("a string"), text.as_bytes(), options);
        assert_eq!(rows(&batch), ["1", "2"]);
        assert_eq!(bad.len(), 1);
        assert_eq!(bad[0].raw.len(), 1000);
        assert_eq!(
            bad[0].reason,
            "the record is longer than 1000 bytes; only its first 1000 bytes are kept"
        );
    }
    let fits = format!("{{\"a\":\"{}\"}}", "x".repeat(991));
    let (batch, bad) = scan_with(&schema("a string"), fits.as_bytes(), options);
    assert_eq!((fits.len(), batch.num_rows(), bad.len()), (999, 1, 0));
}

#[test]
fn many_keys_and_many_repeats_stay_quick() {
    let keys: Vec<String> = (0..200_000).map(|key| format!("\"k{key}\":1")).collect();
    let text = format!("{{{}}}\n{{{},\"k7\":2}}", keys.join(","), keys.join(","));
    let (batch, bad) = scan(&schema("k1 int"), text.as_bytes());
    assert_eq!(batch.num_rows(), 1);
    assert_eq!(bad[0].reason, "key \"k7\" comes twice");
    let open = "{\"a\":[\n".repeat(20_000);
    let (batch, bad) = scan(&schema("a string"), open.as_bytes());
    assert_eq!((batch.num_rows(), bad.len()), (0, 20_000));
}

#[test]
fn batches_are_cut_by_rows_and_by_bytes() {
    let text: String = (0..1000).map(|row| format!("{{\"a\":\"{row:0>100}\"}}\n")).collect();
    let sizes = |options: ScanOptions| {
        let mut scan = Scan::new(&schema("a string"), None, text.as_bytes(), options).unwrap();
        let mut sizes = Vec::new();
        while let Some(batch) = scan.next_batch(&mut |_| panic!("no record is bad")).unwrap() {
            sizes.push(batch.num_rows());
        }
        sizes
    };
    let default = ScanOptions::default();
    assert_eq!(sizes(ScanOptions { batch_rows: 400, ..default }), [400, 400, 200]);
    let by_bytes = sizes(ScanOptions { batch_bytes: 20_000, ..default });
    assert!(by_bytes.len() > 4 && by_bytes.iter().sum::<usize>() == 1000, "{by_bytes:?}");
}

#[test]
fn a_projection_changes_columns_and_never_rows() {
    let text = b"{\"a\":1,\"b\":2}\n{\"a\":1,\"b\":\"x\"}\n{\"b\":3}\n";
    for (picked, expect) in
        [(vec![0], vec!["1", "-"]), (vec![1, 0], vec!["2|1", "3|-"]), (vec![], vec!["", ""])]
    {
        let mut scan =
            Scan::new(&schema("a int; b int"), Some(&picked), &text[..], ScanOptions::default())
                .unwrap();
        let batch = scan.next_batch(&mut |_| {}).unwrap().unwrap();
        assert_eq!(rows(&batch), expect);
        assert_eq!(scan.bad(), 1);
    }
}

#[test]
fn a_stream_that_breaks_off_gives_what_came_before() {
    let text: String = (0..5000).map(|row| format!("{{\"a\":{row}}}\n")).collect();
    let whole = zstd::stream::encode_all(text.as_bytes(), 3).unwrap();
    let mut gzip = flate2::read::GzEncoder::new(text.as_bytes(), flate2::Compression::fast());
    let mut gzipped = Vec::new();
    gzip.read_to_end(&mut gzipped).unwrap();
    let mut flipped = gzipped.clone();
    let crc = flipped.len() - 6;
    flipped[crc] ^= 1;
    for bytes in [&gzipped[..gzipped.len() / 2], &whole[..whole.len() / 2], &flipped] {
        let input = crate::decode(bytes).unwrap();
        let mut scan = Scan::new(&schema("a int"), None, input, ScanOptions::default()).unwrap();
        let failed = loop {
            match scan.next_batch(&mut |_| {}) {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a damaged stream ended well"),
                Err(failed) => break failed,
            }
        };
        assert_eq!(failed.kind(), ErrorKind::Corrupt, "{failed}");
        assert!(scan.good() <= 5000);
        assert!(scan.next_batch(&mut |_| {}).unwrap().is_none());
    }
}

#[test]
fn what_cannot_be_scanned_is_refused_before_the_first_byte() {
    let refuse = |schema: &Schema| {
        Scan::new(schema, None, &b""[..], ScanOptions::default()).unwrap_err().to_string()
    };
    assert!(refuse(&schema("a binary")).contains("column \"a\""));
    assert!(refuse(&schema("a int; a int")).contains("twice"));
    let strict = Schema::new(vec![Field::new("a", arrow::datatypes::DataType::Int32, false)]);
    assert!(refuse(&strict).contains("null"));
}

fn infer_text(text: &[u8]) -> Result<(String, u64, u64)> {
    let inferred = infer(text, &InferOptions::default())?;
    let columns: Vec<String> = inferred
        .schema
        .fields()
        .iter()
        .map(|f| format!("{} {}", f.name(), hive::from_arrow(f.data_type()).unwrap()))
        .collect();
    Ok((columns.join("; "), inferred.records, inferred.bad))
}

#[test]
fn inference_widens_and_keeps_the_order_of_first_appearance() {
    for (text, expect) in [
        (r#"{"z":1,"a":"x"}{"m":true,"a":null}"#, "z int; a string; m boolean"),
        (r#"{"a":1}{"a":2147483648}"#, "a bigint"),
        (r#"{"a":2147483648}{"a":0.5}{"a":1}"#, "a double"),
        (r#"{"a":9223372036854775808}"#, "a double"),
        (r#"{"a":1}{"a":"x"}"#, "a string"),
        (r#"{"a":true}{"a":1}"#, "a string"),
        (r#"{"a":null}{"b":[]}{"c":{}}"#, "a string; b array<string>; c string"),
        (r#"{"a":null}{"a":[null]}{"a":[1]}{"a":[2.5]}"#, "a array<double>"),
        (r#"{"a":{"y":1}}{"a":{"x":"s","y":1e1}}"#, "a struct<y:double,x:string>"),
        (r#"{"a":{"y":1}}{"a":[1]}"#, "a string"),
        (r#"{"t":"2013-03-01T00:00:00Z"}"#, "t string"),
        ("{\"a\":1}\n{\"a\":\"x\"\n{\"b\":1,\"b\":2}\n{\"c\":NaN}", "a int"),
    ] {
        assert_eq!(infer_text(text.as_bytes()).unwrap().0, expect, "{text}");
    }
    let (_, good, bad) =
        infer_text(b"{\"a\":1}\n{\"a\":\"x\"\n{\"b\":1,\"b\":2}\n{\"c\":NaN}").unwrap();
    assert_eq!((good, bad), (1, 3));
}

#[test]
fn a_record_with_too_many_fields_leaves_no_trace() {
    let wide: Vec<String> = (0..50).map(|key| format!("\"k{key}\":1")).collect();
    let text = format!("{{\"a\":1}}{{\"a\":\"x\",{}}}{{\"b\":2}}", wide.join(","));
    let options = InferOptions { fields_max: 10, ..InferOptions::default() };
    let inferred = infer(text.as_bytes(), &options).unwrap();
    let names: Vec<&String> = inferred.schema.fields().iter().map(|f| f.name()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(*inferred.schema.field(0).data_type(), arrow::datatypes::DataType::Int32);
    assert_eq!((inferred.records, inferred.bad), (2, 1));
    let some = InferOptions { bytes_max: Some(5), ..InferOptions::default() };
    assert_eq!(infer(text.as_bytes(), &some).unwrap().records, 1);
}

#[test]
fn schemas_of_two_files_merge_as_if_they_were_one() {
    let files = [
        r#"{"a":null,"n":{"x":1},"l":[1]}"#,
        r#"{"b":1,"a":5,"n":{"y":true},"l":[0.5]}"#,
        r#"{"b":5000000000,"l":[]}"#,
        r#"{"b":"x"}"#,
    ];
    let inferred = |text: &str| infer(text.as_bytes(), &InferOptions::default()).unwrap().schema;
    let merged = files.iter().skip(1).fold(inferred(files[0]), |all, f| merge(&all, &inferred(f)));
    assert_eq!(merged, inferred(&files.concat()));
}

/// Values of all sorts, as JSON text.
fn any_value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        any::<i32>().prop_map(|value| value.to_string()),
        any::<i64>().prop_map(|value| value.to_string()),
        (-1e6f64..1e6).prop_map(|value| value.to_string()),
        any::<f64>()
            .prop_filter("finite", |value| value.is_finite())
            .prop_map(|value| format!("{value:e}")),
        "[a-zé\"\\\\\n😀]{0,12}".prop_map(|text| serde_json::to_string(&text).unwrap()),
        Just(r#""\u00e9\ud83d\ude00""#.to_owned()),
        Just("1e999".to_owned()),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3)
                .prop_map(|items| format!("[{}]", items.join(", "))),
            prop::collection::vec(("[xyz]", inner), 0..3).prop_map(|fields| {
                let fields: Vec<String> =
                    fields.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
                format!("{{{}}}", fields.join(","))
            }),
        ]
    })
}

fn any_record() -> impl Strategy<Value = String> {
    let field = ("[abcdefg]", prop_oneof![Just(":"), Just(":"), Just(" : ")], any_value());
    prop::collection::vec(field, 0..6).prop_map(|fields| {
        let fields: Vec<String> =
            fields.iter().map(|(key, colon, value)| format!("\"{key}\"{colon}{value}")).collect();
        format!("{{{}}}", fields.join(","))
    })
}

const COLUMNS: &str = "a int; b double; c string; d boolean; e array<int>; \
                       f struct<x:double,y:string>; g bigint";

proptest! {
    #[test]
    fn by_shape_and_by_key_agree(
        kinds in prop::collection::vec(any_record(), 1..6),
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..40),
        newline in any::<bool>(),
    ) {
        let schema = schema(COLUMNS);
        let records: Vec<&str> = order.iter().map(|at| at.get(&kinds).as_str()).collect();
        let text = records.join(if newline { "\n" } else { "" });
        let (fast, fast_bad) = scan(&schema, text.as_bytes());
        // A fresh scan knows no shape, so each record alone is read key by key.
        let (mut slow, mut slow_bad) = (Vec::new(), Vec::new());
        for record in &records {
            let (batch, bad) = scan(&schema, record.as_bytes());
            prop_assert_eq!(batch.num_rows() + bad.len(), 1);
            slow.push(batch);
            slow_bad.extend(bad.into_iter().map(|bad| (bad.raw, bad.reason)));
        }
        prop_assert_eq!(&fast, &concat_batches(&fast.schema(), &slow).unwrap());
        let fast_bad: Vec<_> = fast_bad.into_iter().map(|bad| (bad.raw, bad.reason)).collect();
        prop_assert_eq!(fast_bad, slow_bad);
    }

    #[test]
    fn a_reader_that_gives_little_at_a_time_changes_nothing(
        records in prop::collection::vec(any_record(), 1..20),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        chunk in 1usize..40,
        newline in any::<bool>(),
    ) {
        let schema = schema(COLUMNS);
        let mut text = records.join(if newline { "\n" } else { "" }).into_bytes();
        for (place, byte) in damage {
            let place = place.index(text.len());
            text[place] = byte;
        }
        let whole = scan(&schema, &text);
        let options = ScanOptions { batch_rows: 3, ..ScanOptions::default() };
        let parts = scan_with(&schema, Read1 { bytes: &text, chunk }, options);
        prop_assert_eq!(&whole, &parts);
        // Nothing is skipped unseen: what is neither a row nor set aside is white space.
        let mut rest = text.clone();
        for bad in &whole.1 {
            let start = bad.position as usize;
            rest[start..start + bad.raw.len()].fill(b' ');
        }
        let (again, none_bad) = scan(&schema, &rest);
        prop_assert_eq!(&again, &whole.0);
        prop_assert!(none_bad.is_empty(), "{:?}", none_bad);
        let inferred = infer(&text[..], &InferOptions::default()).unwrap();
        prop_assert!(inferred.records >= whole.0.num_rows() as u64);
    }

    #[test]
    fn good_means_what_another_parser_says(
        record in any_record(),
        damage in prop::option::of((any::<prop::sample::Index>(), b' '..=0xff)),
    ) {
        let mut text = record.into_bytes();
        if let Some((place, byte)) = damage {
            let place = place.index(text.len());
            text[place] = byte;
        }
        let known = serde_json::from_slice::<serde_json::Value>(&text);
        let inferred = infer(&text[..], &InferOptions::default()).unwrap();
        match known {
            Ok(serde_json::Value::Object(_)) => {
                // The other parser lets a key come twice.
                let (_, bad) = scan(&schema("zz string"), &text);
                let once = bad.is_empty();
                prop_assert!(once || bad[0].reason.ends_with("comes twice"), "{:?}", bad);
                prop_assert_eq!(inferred.records, u64::from(once));
            }
            _ => prop_assert!(inferred.bad > 0, "{}", String::from_utf8_lossy(&text)),
        }
    }

    #[test]
    fn values_read_are_the_values_written(
        ints in prop::collection::vec(any::<i64>(), 1..20),
        reals in prop::collection::vec(any::<f64>().prop_filter("finite", |v| v.is_finite()), 20),
        texts in prop::collection::vec(any::<String>(), 20),
    ) {
        let mut text = Vec::new();
        for (row, int) in ints.iter().enumerate() {
            let record = serde_json::json!({"i": int, "r": reals[row], "s": texts[row]});
            serde_json::to_writer(&mut text, &record).unwrap();
        }
        let (batch, bad) = scan(&schema("i bigint; r double; s string"), &text);
        prop_assert!(bad.is_empty(), "{:?}", bad);
        use arrow::array::AsArray;
        use arrow::datatypes::{Float64Type, Int64Type};
        prop_assert_eq!(batch.column(0).as_primitive::<Int64Type>().values().to_vec(), ints);
        for row in 0..batch.num_rows() {
            let real = batch.column(1).as_primitive::<Float64Type>().value(row);
            prop_assert_eq!(real.to_bits(), reals[row].to_bits());
            prop_assert_eq!(batch.column(2).as_string::<i32>().value(row), &texts[row]);
        }
    }
}
