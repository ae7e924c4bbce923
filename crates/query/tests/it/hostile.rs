//! Statements that mean harm, or do it by accident.

use std::time::Duration;

use base::ErrorKind;
use lake::Format;

use crate::world::World;

async fn world() -> World {
    let world = World::with(|options| {
        options.memory_bytes = 64 * 1024 * 1024;
        options.answer_bytes_max = 8 * 1024 * 1024;
        options.spill_bytes_max = 64 * 1024 * 1024;
        options.time_max = Duration::from_secs(20);
    });
    world.declare("t", Format::Json, "n int; s string", "");
    let rows = |n: u32| format!("{{\"n\":{n},\"s\":\"{}\"}}\n", "x".repeat(50));
    world.put("raw/t/x", (0..5000).map(rows).collect::<String>()).await;
    world
}

#[tokio::test]
async fn nothing_but_tables_can_be_read() {
    let world = world().await;
    std::fs::write(world.folder.path().join("secret.csv"), "a\n1\n").unwrap();
    let path = world.folder.path().join("secret.csv");
    for sql in [
        format!("SELECT * FROM '{}'", path.display()),
        format!("SELECT * FROM \"{}\"", path.display()),
        "SELECT * FROM 'https://example.com/x.parquet'".into(),
        "SELECT * FROM information_schema.nothing".into(),
        "SELECT * FROM information_schema.df_settings".into(),
        "SELECT * FROM read_csv('/etc/passwd')".into(),
        "SHOW ALL".into(),
        format!("COPY t TO '{}'", path.display()),
        format!("COPY (SELECT 1) TO '{}'", path.display()),
        format!("CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '{}'", path.display()),
        "CREATE TABLE x AS SELECT 1".into(),
        "DROP TABLE t".into(),
        "INSERT INTO t VALUES (1, 'x')".into(),
        "DELETE FROM t".into(),
        "UPDATE t SET n = 0".into(),
        "TRUNCATE TABLE t".into(),
        "SET datafusion.execution.batch_size = 1".into(),
        "SELECT 1; DROP TABLE t".into(),
        "SELECT 1 /* ; */; SELECT 2".into(),
        "SELECT * FROM t TABLESAMPLE SYSTEM (1)".into(),
        "SELECT \u{201c}n\u{201d} FROM t".into(),
        "SELECT * FROM t\0".into(),
        "SELECT * FROM \"../../etc\"".into(),
    ] {
        let error = world.sql(&sql).await.map(|_| ()).unwrap_err();
        let kind = error.kind();
        assert!(
            matches!(kind, ErrorKind::Invalid | ErrorKind::Unsupported | ErrorKind::NotFound),
            "{sql}: {kind:?}: {error}"
        );
    }
    assert_eq!(world.rows("SELECT count(*) FROM t").await, ["5000"]);
}

#[tokio::test]
async fn harm_stays_within_its_bounds() {
    let world = world().await;
    for sql in [
        "SELECT generate_series(1, 1000000000000)".to_owned(),
        "SELECT count(*) FROM generate_series(1, 1000000000000)".into(),
        "SELECT repeat('x', 2000000000)".into(),
        "SELECT lpad('x', 2000000000, 'y')".into(),
        "SELECT array_repeat(1, 1000000000)".into(),
        // Gigabytes of one text.
        "SELECT length(regexp_replace(rpad('', 90000, 'x'), '', rpad('', 90000, 'y')))".into(),
        "SELECT length(replace(rpad('', 90000, 'x'), 'x', rpad('', 90000, 'y')))".into(),
        "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT * FROM r".into(),
        format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000)),
        format!("SELECT 1{}", " + 1".repeat(50_000)),
        format!("SELECT 1{}", " UNION ALL SELECT 1".repeat(5_000)),
        // Answers, joins and sorts beyond what may be held.
        "SELECT a.s, b.s FROM t a CROSS JOIN t b".into(),
        "SELECT array_agg(a.s || b.s) FROM t a CROSS JOIN t b".into(),
        "SELECT count(DISTINCT a.s || b.n || a.n) FROM t a CROSS JOIN t b".into(),
        "SELECT a.s FROM t a CROSS JOIN t b ORDER BY a.s || b.n || a.n".into(),
        // Much work and a small answer: ends by the clock.
        "SELECT count(*) FROM t a CROSS JOIN t b CROSS JOIN t c WHERE a.n + b.n + c.n = 7".into(),
    ] {
        let error = world.sql(&sql).await.map(|_| ()).unwrap_err();
        assert_ne!(error.kind(), ErrorKind::Internal, "{}: {error}", &sql[..60.min(sql.len())]);
    }
    assert_eq!(world.rows("SELECT count(*) FROM t").await, ["5000"]);
}

#[tokio::test]
async fn the_largest_statements_let_in_are_planned_and_run() {
    let world = world().await;
    // 1,000 operators one within the other, over a column so that nothing folds.
    let chain = format!("SELECT max(n{}) FROM t", " + 1".repeat(996));
    assert_eq!(world.rows(&chain).await, ["5995"]);
    let conditions = format!("SELECT count(*) FROM t WHERE n = 0{}", " OR n = 1".repeat(450));
    assert_eq!(world.rows(&conditions).await, ["2"]);
    let strings = format!("SELECT max(length(s{})) FROM t", " || 'x'".repeat(990));
    assert_eq!(world.rows(&strings).await, ["1040"]);
    let unions = format!(
        "SELECT count(*) FROM (SELECT n FROM t{})",
        " UNION ALL SELECT n FROM t".repeat(90)
    );
    assert_eq!(world.rows(&unions).await, ["455000"]);
    let joins: String = (1..12).map(|at| format!(" JOIN t t{at} ON t0.n = t{at}.n")).collect();
    assert_eq!(world.rows(&format!("SELECT count(*) FROM t t0{joins}")).await, ["5000"]);
    let list: Vec<String> = (0..20_000).map(|n| (n * 2).to_string()).collect();
    let among = format!("SELECT count(*) FROM t WHERE n IN ({})", list.join(","));
    assert_eq!(world.rows(&among).await, ["2500"]);
    let cases = format!("SELECT count(CASE {} END) FROM t", "WHEN n = 1 THEN 1 ".repeat(300));
    assert_eq!(world.rows(&cases).await, ["1"]);
    let nested = format!("SELECT {}n{} FROM t LIMIT 1", "abs(".repeat(40), ")".repeat(40));
    assert_eq!(world.rows(&nested).await, ["0"]);
}

#[tokio::test]
async fn a_query_nobody_waits_for_stops() {
    let world = world().await;
    let endless = "SELECT max(length(regexp_replace(a.s || b.s, '(x+x+)+y', ''))) \
                   FROM t a CROSS JOIN t b";
    let dropped = tokio::time::timeout(Duration::from_millis(300), world.sql(endless)).await;
    assert!(dropped.is_err(), "{dropped:?}");
    // Its turn is free again: as many as may run at a time can, and quickly.
    for _ in 0..8 {
        let dropped = tokio::time::timeout(Duration::from_millis(50), world.sql(endless)).await;
        assert!(dropped.is_err());
    }
    let answer =
        tokio::time::timeout(Duration::from_secs(20), world.rows("SELECT count(*) FROM t"));
    assert_eq!(answer.await.unwrap(), ["5000"]);
}
