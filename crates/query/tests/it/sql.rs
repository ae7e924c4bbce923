//! Questions and their answers.

use base::ErrorKind;
use lake::{Format, QueryEngine};

use crate::world::{World, gzip, job};

/// Rows `from..to` of a table of readings, one object a line.
fn readings(from: u32, to: u32, between: &str) -> String {
    let row = |n: u32| {
        let ozone = if n.is_multiple_of(10) { "null".to_owned() } else { format!("{}.5", n % 7) };
        format!(r#"{{"Device":"d{}","n":{n},"O3":{ozone},"ok":{}}}"#, n % 3, n.is_multiple_of(2))
    };
    (from..to).map(row).collect::<Vec<_>>().join(between)
}

async fn three_ways_to_lie() -> World {
    let world = World::new();
    world.put("raw/readings/a.json", readings(0, 1000, "\n")).await;
    world.put("raw/readings/b.gz", gzip(&readings(1000, 2000, "\n"))).await;
    world.put("raw/readings/c", gzip(&readings(2000, 3000, ""))).await;
    world.crawl().await;
    world
}

#[tokio::test]
async fn aggregates_over_json_are_exact() {
    let world = three_ways_to_lie().await;
    assert_eq!(
        world.rows("SELECT count(*), sum(n), count(O3) FROM readings").await,
        ["3000|4498500|2700"]
    );
    let by_device = "SELECT device, count(*) AS c, max(n) FROM air.readings WHERE OK GROUP BY device ORDER BY 1";
    assert_eq!(world.rows(by_device).await, ["d0|500|2994", "d1|500|2998", "d2|500|2996"]);
    // Names are found however they are written, and quoted ones as they stand.
    assert_eq!(world.rows("SELECT max(o3) AS O3 FROM Readings ORDER BY o3").await, ["6.5"]);
    assert_eq!(world.rows("SELECT max(r.\"O3\") FROM readings r WHERE r.N < 5").await, ["4.5"]);
    assert!(world.sql("SELECT \"o3\" FROM readings").await.is_err());
}

#[tokio::test]
async fn bytes_and_schema_are_told() {
    let world = three_ways_to_lie().await;
    let table = world.lake.catalog().get_table("air", "readings").unwrap();
    let bytes: u64 = world.lake.files(&table).await.unwrap().iter().map(|file| file.bytes).sum();
    let answer = world.sql("SELECT Device, O3 FROM readings LIMIT 3000").await.unwrap();
    assert_eq!(answer.bytes_scanned, bytes);
    assert_eq!(answer.set_aside, 0);
    assert_eq!(answer.schema.field(0).name(), "Device");
    assert_eq!(answer.schema.field(1).data_type(), &arrow::datatypes::DataType::Float64);
}

#[tokio::test]
async fn bad_records_and_bad_files_are_left_out_and_counted() {
    let world = World::new();
    world.declare("t", Format::Json, "n int; s string", "");
    world
        .put("raw/t/1", "{\"n\":1}\n{\"n\":\"x\"}\n{\"n\":2,\"n\":3}\nnonsense\n{\"n\":4}\n")
        .await;
    let mut damaged = gzip(&"{\"n\":10}\n".repeat(100));
    damaged.truncate(damaged.len() - 4);
    world.put("raw/t/2", damaged).await;
    world.put("raw/t/3", "{\"n\":1000,\"s\":5}").await;
    world.put("raw/t/4", &b"BZh91AY&SY not read"[..]).await;
    for sql in ["SELECT count(*), sum(n) FROM t", "SELECT count(*), sum(t.n) FROM t WHERE n > 0"] {
        let answer = world.sql(sql).await.unwrap();
        assert_eq!(crate::world::shown(&answer.batches), ["103|2005"], "{sql}");
        assert_eq!(answer.set_aside, 5, "{sql}");
    }
    // A table that is read twice has the same bad records once.
    let twice = "SELECT count(*) FROM t a JOIN t b ON a.n = b.n AND a.n = 1000";
    assert_eq!(world.sql(twice).await.unwrap().set_aside, 5);
}

#[tokio::test]
async fn partitions_are_columns_and_rule_files_out() {
    let world = World::new();
    world.declare("t", Format::Json, "n int", "day date; site string");
    for (day, site, n) in [
        ("2026-11-22", "north", 1),
        ("2026-11-23", "north", 2),
        ("2026-11-23", "s%C3%BCd", 4),
        ("2026-11-24", "__HIVE_DEFAULT_PARTITION__", 8),
    ] {
        world.put(&format!("raw/t/day={day}/site={site}/x"), format!("{{\"n\":{n}}}")).await;
    }
    assert_eq!(
        world.rows("SELECT * FROM t ORDER BY n").await,
        ["1|2026-11-22|north", "2|2026-11-23|north", "4|2026-11-23|süd", "8|2026-11-24|-",]
    );
    for (condition, sum, files) in [
        ("day = DATE '2026-11-23'", "6", 2),
        ("day > DATE '2026-11-22' AND site LIKE 'n%'", "2", 1),
        ("site IS NULL", "8", 1),
        ("site = 'north' AND n > 1", "2", 2),
        ("day = DATE '2027-01-01'", "-", 0),
        ("site = 'north' OR n = 8", "11", 4),
    ] {
        let answer = world.sql(&format!("SELECT sum(n) FROM t WHERE {condition}")).await.unwrap();
        assert_eq!(crate::world::shown(&answer.batches), [sum], "{condition}");
        assert_eq!(answer.bytes_scanned, files * 7, "{condition}");
    }
    assert_eq!(
        world.rows("SELECT site, day FROM t WHERE site = 'north' ORDER BY day DESC LIMIT 1").await,
        ["north|2026-11-23"]
    );
    assert_eq!(world.rows("SELECT count(*) FROM t").await, ["4"]);
}

#[tokio::test]
async fn json_and_parquet_join_and_group() {
    let world = three_ways_to_lie().await;
    let (run, _) = world.run(&job("readings", vec![], "source", &["Device"])).await;
    assert_eq!(run.rows_in, 3000);
    world.declare("sites", Format::Json, "device string; city string", "");
    world.put(
        "raw/sites/x",
        r#"{"device":"d0","city":"Wien"}{"device":"d1","city":"Graz"}{"device":"d9","city":"Linz"}"#,
    )
    .await;
    let sql = "SELECT s.city, count(*), sum(c.n) FROM sites s JOIN curated c ON c.device = s.device \
               GROUP BY s.city ORDER BY s.city";
    assert_eq!(world.rows(sql).await, ["Graz|1000|1499500", "Wien|1000|1498500"]);
    // The same rows in both forms.
    let differ = "SELECT count(*) FROM (SELECT n, \"O3\", ok, \"Device\" FROM readings EXCEPT \
                  SELECT n, \"O3\", ok, \"Device\" FROM curated)";
    assert_eq!(world.rows(differ).await, ["0"]);
    let answer = world.sql("SELECT sum(n) FROM curated WHERE device = 'd1'").await.unwrap();
    assert_eq!(crate::world::shown(&answer.batches), ["1499500"]);
    assert!(answer.bytes_scanned > 0);
}

#[tokio::test]
async fn a_damaged_parquet_file_fails_its_query_and_no_other() {
    let world = three_ways_to_lie().await;
    world.run(&job("readings", vec![], "source", &[])).await;
    let table = world.lake.catalog().get_table("air", "curated").unwrap();
    let file = world.lake.files(&table).await.unwrap().remove(0);
    let good = std::fs::read(&file.path).unwrap();
    let mut failed = 0;
    for at in (0..good.len()).step_by(good.len() / 300) {
        let mut bytes = good.clone();
        bytes[at] ^= 0xff;
        std::fs::write(&file.path, &bytes).unwrap();
        match world.sql("SELECT count(*), sum(n), max(device), sum(o3) FROM curated").await {
            Ok(_) => {}
            Err(error) => {
                assert_ne!(error.kind(), ErrorKind::NotFound, "{error}");
                failed += 1;
            }
        }
    }
    assert!(failed > 10, "{failed}");
    std::fs::write(&file.path, &good).unwrap();
    assert_eq!(world.rows("SELECT count(*) FROM curated").await, ["3000"]);
}

#[tokio::test]
async fn the_catalog_answers_questions() {
    let world = World::new();
    world.lake.catalog().create_database("other", "").unwrap();
    world.declare("t", Format::Json, "n int; s struct<a:int>", "day string");
    world.put("raw/t/day=1/x", "{\"n\":1}").await;
    assert_eq!(world.rows("SHOW DATABASES").await, ["air", "other"]);
    assert_eq!(world.rows("SHOW TABLES").await, ["t"]);
    assert_eq!(world.rows("SHOW TABLES IN other").await, [""; 0]);
    let columns = ["n|int", "s|struct<a:int>", "day|string"];
    assert_eq!(world.rows("SHOW COLUMNS IN t").await, columns);
    assert_eq!(world.rows("DESCRIBE air.t").await, columns);
    assert_eq!(world.sql("SHOW TABLES IN nowhere").await.unwrap_err().kind(), ErrorKind::NotFound);
    let plan = world.rows("EXPLAIN SELECT count(*) FROM t").await;
    assert!(plan.iter().any(|row| row.contains("StreamingTableExec")), "{plan:?}");
}

#[tokio::test]
async fn fields_within_columns_are_found_in_any_case() {
    let world = World::new();
    let nested = "Meta struct<eventId:string,Inner:struct<modelName:string>>; id int";
    world.declare("t", Format::Json, nested, "");
    let line = r#"{"Meta":{"eventId":"e","Inner":{"modelName":"m"}},"id":7}"#;
    world.put("raw/t/x", line).await;
    for sql in [
        "SELECT meta.eventid, meta.inner.modelname, id FROM t",
        "SELECT t.META.eventId, META.Inner.ModelName, ID FROM t",
        "SELECT x.meta.\"eventId\", x.meta.inner.modelname, x.id FROM t AS x",
    ] {
        assert_eq!(world.rows(sql).await, ["e|m|7"], "{sql}");
    }
}

#[tokio::test]
async fn what_people_bring_from_athena_works() {
    let world = World::new();
    world.declare("t", Format::Json, "at string; doc string", "");
    world
        .put(
            "raw/t/x",
            r#"{"at":"2013-03-01T08:00:00+08:00","doc":{"a":{"b":[1,"two"]}}}
           {"at":null,"doc":"{\"a\":{\"b\":[null,true]}}"}
           {"at":"2013-03-01","doc":"no json"}"#,
        )
        .await;
    assert_eq!(
        world
            .rows("SELECT from_iso8601_timestamp(at), json_extract_scalar(doc, '$.a.b[1]') FROM t")
            .await,
        ["2013-03-01T00:00:00|two", "-|true", "2013-03-01T00:00:00|-"]
    );
    let later = "SELECT count(*) FROM t \
                 WHERE from_iso8601_timestamp(at) >= TIMESTAMP '2013-03-01 00:00:00'";
    assert_eq!(world.rows(later).await, ["2"]);
    let bad = world.sql("SELECT from_iso8601_timestamp('yesterday')").await.unwrap_err();
    assert!(bad.to_string().contains("\"yesterday\" is no ISO 8601 timestamp"), "{bad}");
    let hourly = "SELECT date_trunc('hour', from_iso8601_timestamp('2013-03-01T08:31:00Z'))";
    assert_eq!(world.rows(hourly).await, ["2013-03-01T08:00:00"]);
}

#[tokio::test]
async fn errors_name_what_is_wrong() {
    let world = World::new();
    world.declare("t", Format::Json, "Ozone int", "");
    world.declare("raw", Format::Json, "n binary", "");
    world.put("raw/raw/x", "{}").await;
    for (sql, kind, part) in [
        ("SELECT * FROM raw", ErrorKind::Unsupported, "column \"n\""),
        ("SELECT * FROM nowhere", ErrorKind::NotFound, "\"nowhere\""),
        ("SELECT * FROM other.t", ErrorKind::NotFound, "\"other\""),
        ("SELECT ozzone FROM t", ErrorKind::Invalid, "ozzone"),
        ("SELECT nonsense(1)", ErrorKind::Invalid, "nonsense"),
        ("SELEC 1", ErrorKind::Invalid, "SELEC"),
        ("SELECT 1 FROM t WHERE", ErrorKind::Invalid, ""),
        ("SELECT sum(n) FROM (SELECT 1/0 AS n)", ErrorKind::Invalid, "zero"),
        ("SELECT ozone IN (SELECT ozone FROM t) FROM t", ErrorKind::Unsupported, "elsewhere join"),
    ] {
        let error = world.sql(sql).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{sql}: {error}");
        assert!(error.to_string().contains(part), "{sql}: {error}");
        assert!(!error.to_string().contains("backtrace"), "{error}");
    }
}

#[tokio::test]
async fn a_query_that_reads_more_than_it_may_ends() {
    let world = World::new();
    let line = "{\"a\":1,\"b\":\"some text to be read and counted\"}\n";
    for number in 0..8 {
        world.put(&format!("raw/readings/{number}.json"), line.repeat(20_000)).await;
    }
    world.crawl().await;
    let all = world.sql("SELECT count(*), max(b) FROM readings").await.unwrap();
    assert!(all.bytes_scanned > 5_000_000, "{}", all.bytes_scanned);
    for (sql, bytes_max, ends) in [
        ("SELECT count(*), max(b) FROM readings", all.bytes_scanned, false),
        ("SELECT count(*), max(b) FROM readings", 1_000_000, true),
        ("SELECT b FROM readings ORDER BY b", 1_000_000, true),
    ] {
        let options = lake::SqlOptions {
            bytes_scanned_max: Some(bytes_max),
            ..lake::SqlOptions::in_database("air")
        };
        let answer = world.engine.sql(sql, &options).await;
        assert_eq!(answer.is_err(), ends, "{sql} {bytes_max}");
        if let Err(error) = answer {
            let cause = std::error::Error::source(&error).unwrap();
            let cutoff = cause.downcast_ref::<lake::BytesCutoff>().unwrap();
            assert!(cutoff.bytes > bytes_max, "{cutoff}");
        }
    }
}

#[tokio::test]
async fn a_document_is_read_as_the_records_that_lie_in_it() {
    let world = World::new();
    world
        .put("raw/lists/a.json", "[{\"n\":1,\"s\":\"x\"},\n {\"n\":\n2}, {\"n\":\"bad\"}, 7]")
        .await;
    world.put("raw/lists/b.gz", gzip("[{\"n\":3},{\"n\":4}]")).await;
    let mut table = lake::Table::new(("air", "lists"), ("bkt", "raw/lists/"), Format::Json);
    table.columns = vec![lake::Column::new("n", "int"), lake::Column::new("s", "string")];
    table.parameters.insert(lake::RECORDS_PATH.into(), "$[*]".into());
    world.lake.catalog().create_table(table.clone()).unwrap();
    assert_eq!(world.rows("SELECT n, s FROM lists ORDER BY n").await, ["1|x", "2|-", "3|-", "4|-"]);
    assert_eq!(world.sql("SELECT count(*) FROM lists").await.unwrap().set_aside, 2);
    table.name = "wrong".into();
    table.parameters.insert(lake::RECORDS_PATH.into(), "$..n".into());
    let refused = world.lake.catalog().create_table(table).unwrap_err();
    assert!(refused.to_string().contains("$..n"), "{refused}");
}

/// What DuckDB answers. Hours have a gap, values are missing, and some are equal.
#[tokio::test]
async fn windows_that_move_are_right_behind_gaps_and_over_nothing() {
    let world = World::new();
    world.declare("t", Format::Json, "d string; h int; v double", "");
    let rows = [
        ("a", 1, "1.0"),
        ("a", 2, "10.0"),
        ("a", 3, "null"),
        ("a", 20, "1000.0"),
        ("a", 21, "null"),
        ("a", 22, "100000.0"),
        ("b", 1, "7.0"),
        ("b", 2, "7.0"),
        ("b", 9, "7.0"),
    ];
    let line = |(d, h, v): (&str, i32, &str)| format!("{{\"d\":\"{d}\",\"h\":{h},\"v\":{v}}}\n");
    world.put("raw/t/x", rows.into_iter().map(line).collect::<String>()).await;
    for (frame, answers) in [
        (
            "RANGE BETWEEN 2 PRECEDING AND 1 PRECEDING",
            [
                "a|1|0|-|-|0|-|-|-",
                "a|2|1|1.0|1.0|0|1.0|1.0|0.0",
                "a|3|2|11.0|1.0|1|1.0|11.0|20.25",
                "a|20|0|-|-|0|-|-|-",
                "a|21|1|1000.0|1000.0|1|1000.0|1000.0|0.0",
                "a|22|2|1000.0|1000.0|1|1000.0|1000.0|0.0",
                "b|1|0|-|-|0|-|-|-",
                "b|2|1|7.0|7.0|1|7.0|7.0|0.0",
                "b|9|0|-|-|0|-|-|-",
            ],
        ),
        (
            "RANGE BETWEEN 1 FOLLOWING AND 3 FOLLOWING",
            [
                "a|1|2|10.0|10.0|1|-|10.0|0.0",
                "a|2|1|-|-|0|-|-|-",
                "a|3|0|-|-|0|-|-|-",
                "a|20|2|100000.0|100000.0|1|100000.0|100000.0|0.0",
                "a|21|1|100000.0|100000.0|1|100000.0|100000.0|0.0",
                "a|22|0|-|-|0|-|-|-",
                "b|1|1|7.0|7.0|1|-|7.0|0.0",
                "b|2|0|-|-|0|-|-|-",
                "b|9|0|-|-|0|-|-|-",
            ],
        ),
        (
            "ROWS BETWEEN 1 PRECEDING AND 1 FOLLOWING",
            [
                "a|1|2|11.0|1.0|1|1.0|11.0|20.25",
                "a|2|3|11.0|1.0|1|1.0|11.0|20.25",
                "a|3|3|1010.0|10.0|2|1000.0|1010.0|245025.0",
                "a|20|3|1000.0|1000.0|1|1000.0|1000.0|0.0",
                "a|21|3|101000.0|1000.0|2|101000.0|101000.0|2450250000.0",
                "a|22|2|100000.0|100000.0|1|100000.0|100000.0|0.0",
                "b|1|2|14.0|7.0|2|7.0|7.0|0.0",
                "b|2|3|21.0|7.0|3|14.0|7.0|0.0",
                "b|9|2|14.0|7.0|2|7.0|7.0|0.0",
            ],
        ),
        (
            "GROUPS BETWEEN 2 PRECEDING AND 1 PRECEDING",
            [
                "a|1|0|-|-|0|-|-|-",
                "a|2|1|1.0|1.0|0|1.0|1.0|0.0",
                "a|3|2|11.0|1.0|1|1.0|11.0|20.25",
                "a|20|2|10.0|10.0|1|-|10.0|0.0",
                "a|21|2|1000.0|1000.0|1|1000.0|1000.0|0.0",
                "a|22|2|1000.0|1000.0|1|1000.0|1000.0|0.0",
                "b|1|0|-|-|0|-|-|-",
                "b|2|1|7.0|7.0|1|7.0|7.0|0.0",
                "b|9|2|14.0|7.0|2|7.0|7.0|0.0",
            ],
        ),
    ] {
        let over = format!("OVER (PARTITION BY d ORDER BY h {frame})");
        let sql = format!(
            "SELECT d, h, count(*) {over}, sum(v) {over}, min(v) {over}, \
             count(*) FILTER (WHERE v > 5) {over}, sum(v) FILTER (WHERE h <> 2) {over}, \
             sum(DISTINCT v) {over}, var_pop(v) {over} FROM t ORDER BY d, h"
        );
        assert_eq!(world.rows(&sql).await, answers, "{frame}");
    }
}

/// A join without equal keys whose left side does not fit: DataFusion would spill it and then tell
/// of rows without a match once for each partition of the right side.
#[tokio::test]
async fn a_left_side_that_does_not_fit_is_an_error_and_not_spilled() {
    let world = World::with(|options| {
        options.memory_bytes = 16 * 1024 * 1024;
        options.partitions = 4;
    });
    world.declare("t", Format::Json, "n int; s string", "");
    for file in 0..4 {
        let row = |n: u32| format!("{{\"n\":{},\"s\":\"{}\"}}\n", n * 4 + file, "x".repeat(400));
        world.put(&format!("raw/t/{file}"), (0..10_000).map(row).collect::<String>()).await;
    }
    let question = "SELECT count(*) FROM (SELECT a.n, length(a.s) FROM t a \
                    LEFT JOIN t b ON a.n + 40000 < b.n AND length(a.s) > length(b.s))";
    let error = world.sql(question).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
}

/// What DuckDB answers, of rows with nulls on both sides.
#[tokio::test]
async fn what_is_unknown_is_neither_true_nor_false() {
    let world = World::new();
    world.declare("t", Format::Json, "id int; k int; f boolean; s string", "");
    world.declare("u", Format::Json, "k int; s string", "");
    let t = r#"{"id":1,"k":1,"f":false,"s":"a"}
               {"id":2,"k":2,"f":false,"s":"b"}
               {"id":3,"k":null,"f":false,"s":"b"}
               {"id":4,"k":4,"f":true,"s":"c"}
               {"id":5,"k":5,"f":null,"s":null}"#;
    world.put("raw/t/x", t).await;
    let u = r#"{"k":1,"s":"a"} {"k":2,"s":"a"} {"k":null,"s":"b"} {"k":4,"s":"c"}"#;
    world.put("raw/u/x", u).await;
    for (condition, ids) in [
        ("f OR k NOT IN (SELECT k FROM u WHERE k IS NOT NULL)", "4,5"),
        ("f OR k NOT IN (SELECT k FROM u)", "4"),
        ("f OR k NOT IN (SELECT k FROM u WHERE k > 9)", "1,2,3,4,5"),
        ("NOT (f OR k IN (SELECT max(k) FROM u GROUP BY s))", ""),
        ("NOT (f OR k IN (SELECT min(k) FROM u WHERE k IS NOT NULL GROUP BY s))", "2"),
        ("(k IN (SELECT k FROM u)) IS NULL", "3,5"),
        ("t.k NOT IN (SELECT u.k FROM u WHERE u.s = t.s)", "5"),
        ("NOT (t.k IN (SELECT u.k FROM u WHERE u.s = t.s)) AND t.id < 5", ""),
        ("t.f OR t.k NOT IN (SELECT u.k FROM u WHERE u.s = t.s)", "4,5"),
        ("k >= 1 AND k NOT IN (SELECT k FROM u)", ""),
        ("k >= 1 AND k NOT IN (SELECT k FROM u WHERE s < 'b')", "4,5"),
        ("k IN (SELECT k FROM u) AND NOT f", "1,2"),
        ("k IS DISTINCT FROM 1 AND s = 'b'", "2,3"),
        ("f IS NOT DISTINCT FROM f AND k = 2 OR id = 1", "1,2"),
    ] {
        let sql = format!(
            "SELECT listagg(CAST(id AS varchar), ',') WITHIN GROUP (ORDER BY id) \
                           FROM t WHERE {condition}"
        );
        let found = world.rows(&sql).await;
        assert_eq!(found, [if ids.is_empty() { "-" } else { ids }], "{condition}");
    }
    let grouped =
        "SELECT s, max_by(id, id) FILTER (WHERE k > 1) AS most FROM t GROUP BY s ORDER BY s";
    assert_eq!(world.rows(grouped).await, ["a|-", "b|2", "c|4", "-|5"]);
    // An aggregate of the rows around cannot be asked twice.
    let error = world
        .sql("SELECT id FROM t WHERE f OR t.k NOT IN (SELECT max(u.k) FROM u WHERE u.s = t.s)")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
}
