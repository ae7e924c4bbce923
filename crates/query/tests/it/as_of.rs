//! E2 in SQL: a query keeps the snapshot and the schema it began with, and the past can be asked.

use std::time::Duration;

use base::ErrorKind;
use lake::{CompactOptions, Format};

use crate::world::{World, job};

fn all() -> CompactOptions {
    CompactOptions { files_min: 2, age_ms_min: i64::MIN / 2, ..CompactOptions::default() }
}

/// Three commits of ten rows each, of `readings`.
async fn three_commits() -> World {
    let world = World::new();
    for commit in 0..3 {
        let rows: Vec<String> = (0..10)
            .map(|n| format!(r#"{{"device":"d{}","n":{}}}"#, n % 2, commit * 10 + n))
            .collect();
        world.put(&format!("raw/readings/{commit}.json"), rows.join("\n")).await;
        world.crawl().await;
        world.run(&job("readings", vec![], "source", &["device"])).await;
        world.clock.advance(Duration::from_secs(3600));
    }
    world
}

#[tokio::test]
async fn e2_a_table_is_read_as_of_a_commit_or_a_time_before_and_after_compaction() {
    let world = three_commits().await;
    for compacted in [false, true] {
        if compacted {
            let table = world.lake.catalog().get_table("air", "curated").unwrap();
            assert_eq!(world.lake.compact_here(&table, &all()).await.unwrap().len(), 2);
        }
        for (sql, expect) in [
            ("SELECT count(*), sum(n) FROM curated", "30|435"),
            ("SELECT count(*), sum(n) FROM curated FOR VERSION AS OF 1", "10|45"),
            ("SELECT count(*), sum(c.n) FROM air.Curated FOR VERSION AS OF 2 AS c", "20|190"),
            ("SELECT sum(curated.n) FROM curated FOR VERSION AS OF 3", "435"),
            // The clock began at 2026-11-23 00:00:00 and went on an hour after each.
            (
                "SELECT count(*) FROM curated FOR TIMESTAMP AS OF timestamp '2026-11-23 00:30:00'",
                "10",
            ),
            (
                "SELECT count(*) FROM curated FOR TIMESTAMP AS OF timestamp '2026-11-23 01:00:00 UTC' WHERE device = 'd1'",
                "10",
            ),
            (
                "SELECT count(*) FROM curated FOR TIMESTAMP AS OF (timestamp '2026-11-24 00:00:00' - interval '22' hour)",
                "30",
            ),
            // Then and now in one query.
            (
                "SELECT count(*), count(old.n) FROM curated now LEFT JOIN curated FOR VERSION AS OF 1 old ON old.n = now.n",
                "30|10",
            ),
            (
                "SELECT count(*) FROM (SELECT n FROM curated FOR VERSION AS OF 2 EXCEPT SELECT n FROM curated FOR VERSION AS OF 1)",
                "10",
            ),
        ] {
            assert_eq!(world.rows(sql).await, [expect], "{sql} ({compacted})");
        }
    }
    let history = "SELECT snapshot_id, parent_id, is_current_ancestor FROM \"curated$history\" ORDER BY 1 LIMIT 2";
    assert_eq!(world.rows(history).await, ["1|-|true", "2|1|true"]);
    let snapshots = "SELECT operation, count(*), sum(added_records), sum(deleted_records) FROM air.\"curated$snapshots\" GROUP BY 1 ORDER BY 1";
    assert_eq!(world.rows(snapshots).await, ["append|3|30|0", "replace|2|30|30"]);
    let files = "SELECT partition, record_count, file_format FROM \"curated$files\" ORDER BY 1";
    assert_eq!(world.rows(files).await, ["device=d0|15|PARQUET", "device=d1|15|PARQUET"]);
    let partitions =
        "SELECT device, file_count, record_count FROM \"curated$partitions\" ORDER BY 1";
    assert_eq!(world.rows(partitions).await, ["d0|1|15", "d1|1|15"]);
    for (sql, kind, said) in [
        ("SELECT * FROM curated FOR VERSION AS OF 9", ErrorKind::NotFound, "newest is 5"),
        ("SELECT * FROM curated FOR VERSION AS OF 0", ErrorKind::NotFound, "oldest that can be"),
        ("SELECT * FROM readings FOR VERSION AS OF 1", ErrorKind::Unsupported, "by listing"),
        ("SELECT * FROM \"readings$history\"", ErrorKind::Unsupported, "by listing"),
        ("SELECT * FROM \"curated$manifests\"", ErrorKind::Unsupported, "$partitions"),
        (
            "SELECT * FROM curated FOR TIMESTAMP AS OF timestamp '2020-01-01 00:00:00'",
            ErrorKind::NotFound,
            "no commit as early",
        ),
        ("SELECT * FROM curated FOR TIMESTAMP AS OF 'soon'", ErrorKind::Invalid, "AS OF 'soon'"),
        (
            "SELECT * FROM curated FOR TIMESTAMP AS OF (SELECT max(n) FROM curated)",
            ErrorKind::Invalid,
            "must not read tables",
        ),
    ] {
        let error = world.sql(sql).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{sql}: {error}");
        assert!(error.to_string().contains(said), "{sql}: {error}");
    }
}

#[tokio::test]
async fn e2_as_of_has_the_columns_of_its_commit() {
    let world = three_commits().await;
    world.put("raw/readings/new.json", r#"{"device":"d0","n":99,"extra":1}"#).await;
    world.crawl().await;
    world.run(&job("readings", vec![], "source", &["device"])).await;
    assert_eq!(world.rows("SELECT count(extra) FROM curated").await, ["1"]);
    let width = |sql: &'static str| {
        let world = &world;
        async move { world.sql(sql).await.unwrap().schema.fields().len() }
    };
    assert_eq!(width("SELECT * FROM curated").await, 3);
    assert_eq!(width("SELECT * FROM curated FOR VERSION AS OF 3").await, 2);
}

/// Queries of JSON and of Parquet run in a loop while files are compacted and retired ones moved
/// away under them.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn e2_queries_racing_compaction_have_one_answer() {
    let world = std::sync::Arc::new(World::new());
    world.declare("t", Format::Json, "n int", "");
    for n in 0..40 {
        world.put(&format!("raw/t/{n:02}"), format!("{{\"n\":{n}}}\n").repeat(50)).await;
        if n % 10 == 9 {
            world.run(&job("t", vec![], "source", &[])).await;
        }
    }
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let order = std::sync::atomic::Ordering::SeqCst;
    let asking = tokio::spawn({
        let (world, stop) = (world.clone(), stop.clone());
        async move {
            let mut asked = 0;
            while !stop.load(order) {
                let sql = "SELECT count(*), sum(n), count(DISTINCT n) FROM";
                for table in ["t", "curated"] {
                    let rows = world.rows(&format!("{sql} {table}")).await;
                    assert_eq!(rows, ["2000|39000|40"], "{table}");
                }
                asked += 1;
            }
            asked
        }
    });
    let mut swaps = 0;
    for round in 0..12 {
        for name in ["t", "curated"] {
            let table = world.lake.catalog().get_table("air", name).unwrap();
            let files = world.lake.files(&table).await.unwrap().len();
            // A few files at a time, so that there is something left for the next round.
            let bytes = world.lake.files(&table).await.unwrap()[0].bytes;
            let options = CompactOptions { target_file_bytes: bytes * 2 + bytes / 2, ..all() };
            let options = match round % 2 {
                0 if files > 4 => options,
                _ => all(),
            };
            swaps += world.lake.compact_here(&table, &options).await.unwrap().len();
        }
    }
    stop.store(true, order);
    assert!(asking.await.unwrap() > 0);
    assert!(swaps >= 3, "{swaps} swaps");
}
