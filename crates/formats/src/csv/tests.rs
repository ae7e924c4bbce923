use std::io::Cursor;

use arrow::datatypes::{DataType, Field};
use arrow::util::display::array_value_to_string;
use proptest::prelude::*;

use super::*;

fn schema(columns: &str) -> Schema {
    let field = |column: &str| {
        let (name, hive) = column.split_once(' ').unwrap();
        Field::new(name, crate::hive::to_arrow(hive).unwrap(), true)
    };
    Schema::new(columns.split(';').map(|c| field(c.trim())).collect::<Vec<_>>())
}

/// Rows as `1|x`, nulls as `-`, and what was set aside as `line: reason`.
fn read(columns: &str, dialect: &Dialect, text: &[u8]) -> (Vec<String>, Vec<String>) {
    let options = ScanOptions { batch_rows: 3, record_bytes_max: 200, ..ScanOptions::default() };
    let mut scan = Scan::new(&schema(columns), None, Cursor::new(text), dialect, options).unwrap();
    let (mut rows, mut bad) = (Vec::new(), Vec::new());
    loop {
        let batch = scan.next_batch(&mut |record| {
            let at = record.position as usize;
            assert!(text[at..].starts_with(&record.raw), "{record:?}");
            bad.push(format!("{}: {}", record.line, record.reason));
        });
        let Some(batch) = batch.unwrap() else { break };
        for row in 0..batch.num_rows() {
            let cell = |column: &arrow::array::ArrayRef| match column.is_null(row) {
                true => "-".to_owned(),
                false => array_value_to_string(column, row).unwrap(),
            };
            rows.push(batch.columns().iter().map(cell).collect::<Vec<_>>().join("|"));
        }
    }
    assert_eq!((scan.good(), scan.bad()), (rows.len() as u64, bad.len() as u64));
    assert_eq!(scan.bytes(), text.len() as u64);
    (rows, bad)
}

#[test]
fn values_are_typed_and_empty_is_null_but_in_text() {
    let columns = "n int; x double; b boolean; t timestamp; s string";
    let text =
        b"1,2.5,true,2013-03-01T00:00:00Z,a\r\n\n,,,, \r\n-7, 1e3 ,FALSE,2013-03-01,\"a,\"\"b\"\n";
    let (rows, bad) = read(columns, &Dialect::new(b','), text);
    assert_eq!(
        rows,
        [
            "1|2.5|true|2013-03-01T00:00:00|a",
            "-|-|-|-| ",
            "-7|1000.0|false|2013-03-01T00:00:00|a,\"b",
        ]
    );
    assert_eq!(bad, [""; 0]);
}

#[test]
fn a_bad_line_is_set_aside_alone() {
    let long = "x".repeat(300);
    let text = format!(
        "1,a\n2\n3,c,d\nfour,d\n5,\"e\n6,f\n99999999999,g\n7,{long}\n8,h\n\u{feff}9,i\n10,\"j\"\n"
    );
    let mut text = text.into_bytes();
    text.extend(b"11,\xff\n12,k");
    let (rows, bad) = read("n int; s string", &Dialect::new(b','), &text);
    assert_eq!(rows, ["1|a", "6|f", "8|h", "10|j", "12|k"]);
    assert_eq!(
        bad,
        [
            "2: the line has 1 fields, its file has 2",
            "3: the line has 3 fields, its file has 2",
            "4: column \"n\" is int and cannot hold \"four\"",
            "5: a quote is not closed",
            "7: column \"n\" is int and cannot hold \"99999999999\"",
            "8: the line is longer than 200 bytes; only its first are kept",
            "10: column \"n\" is int and cannot hold \"\\u{feff}9\"",
            "12: column \"s\" is string and cannot hold \"\u{fffd}\"",
        ]
    );
}

#[test]
fn columns_are_found_by_the_header_or_by_their_place() {
    let named = Dialect { header: Header::Names, ..Dialect::new(b';') };
    let (rows, bad) = read("a int; b int; c int", &named, b"\xef\xbb\xbfB;other;a\n1;x;2\n3;y;4\n");
    assert_eq!((rows, bad.len()), (vec!["2|1|-".to_owned(), "4|3|-".to_owned()], 0));
    let skipped = Dialect { header: Header::Skip(2), ..Dialect::new(b'\t') };
    let (rows, _) = read("a int; b string", &skipped, b"title\nx\ty\n1\tone\n2\t\t\n3\tthree\n");
    assert_eq!(rows, ["1|one", "3|three"]);
    // A file from before a column was added, and one with a column more.
    let plain = Dialect::new(b',');
    assert_eq!(read("a int; b int; c int", &plain, b"1,2\n3,4\n").0, ["1|2|-", "3|4|-"]);
    assert_eq!(read("a int", &plain, b"1,2\n3,4\n").0, ["1", "3"]);
    for text in [&b""[..], b"\n\n", b"a;b\n"] {
        assert!(read("a int; b int", &named, text).0.is_empty());
    }
    let schema = schema("a int; b int");
    let foreign = &b"a,b\n1,2\n"[..];
    let mut scan = Scan::new(&schema, None, foreign, &named, ScanOptions::default()).unwrap();
    let error = scan.next_batch(&mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("names no column of the table"), "{error}");
    let text = &b"a;b;c\n1;2\n3;4\n"[..];
    let mut scan = Scan::new(&schema, None, text, &named, ScanOptions::default()).unwrap();
    let error = scan.next_batch(&mut |_| {}).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("names 3 columns but most lines have 2"), "{error}");
}

#[test]
fn hives_delimited_text_has_escapes_and_a_null() {
    let hive = Dialect {
        quote: None,
        escape: Some(b'\\'),
        null: Some("\\N".into()),
        ..Dialect::new(b'|')
    };
    let (rows, _) = read("a string; b int", &hive, b"x\\|y|1\n\\N|\\N\n\"q\"|2\nback\\\\|3\n");
    assert_eq!(rows, ["x|y|1", "-|-", "\"q\"|2", "back\\|3"]);
    let open = Dialect { escape: Some(b'\\'), null: Some("NULL".into()), ..Dialect::new(b',') };
    let (rows, _) = read("a string; b string", &open, b"\"a\\\"b\",NULL\n\"NULL\",\"x,y\"\n");
    assert_eq!(rows, ["a\"b|-", "NULL|x,y"]);
}

#[test]
fn what_means_nothing_is_refused() {
    let refused = |dialect: Dialect, columns: &str| {
        let options = ScanOptions::default();
        Scan::new(&schema(columns), None, &b""[..], &dialect, options).unwrap_err().to_string()
    };
    assert!(refused(Dialect::new(b'\n'), "a int").contains("no line end"));
    assert!(refused(Dialect::new(b'"'), "a int").contains("the delimiter and more"));
    assert!(refused(Dialect::new(b','), "a array<int>").contains("not read from CSV"));
}

fn inferred(text: &str) -> Option<String> {
    let found = infer(text.as_bytes(), &InferOptions::default()).unwrap()?;
    let column = |field: &Arc<Field>| {
        format!("{} {}", field.name(), crate::hive::from_arrow(field.data_type()).unwrap())
    };
    let columns: Vec<String> = found.schema.fields().iter().map(column).collect();
    let (delimiter, header) = (char::from(found.dialect.delimiter), found.dialect.header);
    Some(format!(
        "{delimiter:?} {header:?} {} +{} -{}",
        columns.join(", "),
        found.records,
        found.bad
    ))
}

#[test]
fn a_text_is_told_as_glue_tells_it() {
    for (text, expect) in [
        ("a,b\n1,2\n", Some("',' Names a bigint, b bigint +1 -0")),
        ("1,x\n2,y\n", Some("',' None col0 bigint, col1 string +2 -0")),
        // All text: nothing tells a header from a record.
        ("device,site\nd1,rome\n", Some("',' None col0 string, col1 string +2 -0")),
        (
            "d;t;v\nx;2013-03-01;1,5\ny;2013-03-02;2\n",
            Some("';' None col0 string, col1 string, col2 string +3 -0"),
        ),
        (
            "a|b|c\n1|2.5|true\n2|3|false\n3||\n",
            Some("'|' Names a bigint, b double, c boolean +3 -0"),
        ),
        ("a\tb\n1\t2\n3\t4\n", Some("'\\t' Names a bigint, b bigint +2 -0")),
        ("a,b\n1,\"x,y\"\n2,z\n3\n4,w\n5,v\n", Some("',' Names a bigint, b string +4 -1")),
        ("a,a\n1,2\n", Some("',' None col0 string, col1 string +2 -0")),
        ("1,9223372036854775808\n2,3\n", Some("',' None col0 bigint, col1 double +2 -0")),
        ("a,b\n1,\n2,\n", Some("',' Names a bigint, b string +2 -0")),
        ("hello\nworld\n", None),
        ("one line, only", None),
        ("a,b,c\nd\ne\nf\n", None),
        ("", None),
        ("a,\0\nb,\0\n", None),
    ] {
        assert_eq!(inferred(text).as_deref(), expect, "{text:?}");
    }
    let options = InferOptions { delimiter: Some(b':'), header: Some(true), ..Default::default() };
    let found = infer(&b":b:b\nx:y:z\n"[..], &options).unwrap().unwrap();
    let names: Vec<&str> = found.schema.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!((names, found.records), (vec!["col0", "b", "b_"], 1));
    assert_eq!(*found.schema.field(1).data_type(), DataType::Utf8);
}

proptest! {
    /// Whatever the bytes are: every line that is not blank is a row or set aside, in bounds.
    #[test]
    fn any_bytes_are_rows_or_set_aside(text in "[\\x00-\\x7f]{0,400}|[ab,;\"\\\\\r\n1]{0,400}") {
        for dialect in [
            Dialect::new(b','),
            Dialect { quote: None, escape: Some(b'\\'), ..Dialect::new(b',') },
            Dialect { header: Header::Names, escape: Some(b'\\'), ..Dialect::new(b';') },
        ] {
            let options = ScanOptions { record_bytes_max: 50, batch_rows: 5, ..Default::default() };
            let schema = schema("a string; b int");
            let mut scan = Scan::new(&schema, None, text.as_bytes(), &dialect, options).unwrap();
            let mut seen = 0;
            loop {
                match scan.next_batch(&mut |_| seen += 1) {
                    Ok(Some(batch)) => seen += batch.num_rows(),
                    Ok(None) => break,
                    Err(error) => { prop_assert_eq!(error.kind(), ErrorKind::Corrupt); return Ok(()); }
                }
            }
            prop_assert_eq!(seen as u64, scan.good() + scan.bad());
            if dialect.header == Header::None {
                prop_assert_eq!(seen, lines::whole(text.as_bytes()).count());
            }
            drop(infer(text.as_bytes(), &InferOptions::default()).unwrap());
        }
    }
}
