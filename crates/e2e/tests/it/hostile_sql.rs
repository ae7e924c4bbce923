//! E4: a query stays inside its memory, time, file-count and recursion budget and is
//! cancellable; the process never dies of one.

use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::Server;
use e2e::aws::{Tools, User};

use crate::pipeline;

/// Resident memory of the server at most, in MiB: what its queries may use together is 256, an
/// answer 128, and it serves all the while.
const MIB_MAX: u64 = 1024;

fn prepared(folder: &std::path::Path) -> Server {
    let server = Server::start(&folder.join("data"));
    pipeline::prepare(&server);
    let limit = Duration::from_secs(60);
    e2e::mqtt::publish(server.mqtt, "roof", "load/roof/readings", 0, 20_000, 500, limit);
    server.forebay(&pipeline::FLUSH);
    server.forebay(&pipeline::CRAWL);
    server
}

/// Statements that read what they must not, or are no reading.
const FORBIDDEN: &[&str] = &[
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM \"/etc/passwd\"",
    "SELECT * FROM 'file:///etc/passwd'",
    "SELECT * FROM 'https://127.0.0.1:1/x.parquet'",
    "SELECT * FROM \"http://169.254.169.254/latest/meta-data\"",
    "SELECT * FROM 's3://lake/raw/readings/'",
    "SELECT * FROM \"../../metastore\"",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM read_parquet('/etc/passwd')",
    "SELECT * FROM parquet_metadata('/etc/passwd')",
    "SELECT * FROM metadata_cache()",
    "SELECT * FROM generate_series(1, 1000000000000)",
    "SELECT * FROM range(1, 1000000000000)",
    "SELECT * FROM information_schema.df_settings",
    "SELECT * FROM information_schema.routines",
    "SELECT * FROM pg_catalog.pg_tables",
    "SELECT * FROM other.database.raw_readings",
    "SELECT * FROM a.b.c.d",
    "COPY raw_readings TO '/tmp/x.csv'",
    "COPY (SELECT 1) TO 's3://lake/raw/readings/x.parquet'",
    "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'",
    "CREATE EXTERNAL CATALOG x",
    "CREATE TABLE x AS SELECT 1",
    "CREATE VIEW x AS SELECT 1",
    "CREATE FUNCTION f() RETURNS int RETURN 1",
    "CREATE SCHEMA x",
    "DROP TABLE raw_readings",
    "DROP SCHEMA forebay CASCADE",
    "ALTER TABLE raw_readings ADD COLUMN x int",
    "INSERT INTO raw_readings VALUES (1)",
    "INSERT INTO raw_readings SELECT * FROM raw_readings",
    "UPDATE raw_readings SET seq = 0",
    "DELETE FROM raw_readings",
    "MERGE INTO raw_readings USING x ON true WHEN MATCHED THEN DELETE",
    "TRUNCATE TABLE raw_readings",
    "SET datafusion.execution.batch_size = 1",
    "SET datafusion.catalog.location = '/etc'",
    "RESET datafusion.execution.batch_size",
    "SHOW ALL",
    "SHOW datafusion.execution.time_zone",
    "PREPARE p AS SELECT 1",
    "EXECUTE p",
    "DEALLOCATE p",
    "BEGIN",
    "COMMIT",
    "USE forebay",
    "CALL f()",
    "GRANT ALL ON raw_readings TO x",
    "LOAD 'x'",
    "ATTACH 'x.db'",
    "KILL 1",
    "EXPLAIN INSERT INTO raw_readings VALUES (1)",
    "EXPLAIN COPY (SELECT 1) TO 'x'",
    "SELECT 1; DROP TABLE raw_readings",
    "SELECT 1; SELECT 2",
    "SELECT 1 /* ; */; SELECT 2",
    "SELECT 1 -- ; \n; SELECT 2",
    "SELECT 1 /* not closed",
    "SELECT 'not closed",
    "SELECT * INTO x FROM raw_readings",
    "SELECT * FROM raw_readings FOR UPDATE",
    "SELECT * FROM raw_readings TABLESAMPLE SYSTEM (1)",
    "WITH x AS (INSERT INTO raw_readings VALUES (1)) SELECT * FROM x",
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT * FROM r",
    "SELECT \u{201c}seq\u{201d} FROM raw_readings",
    "SELECT \u{2018}seq\u{2019} FROM raw_readings",
    "SELECT seq\u{ff1b} DROP TABLE raw_readings",
    "SELECT \u{202e}qes FROM raw_readings",
    "SELECT * FROM \"raw\"\"readings\"",
    "SELECT * FROM \"raw.readings\"",
    "SELECT * FROM \"raw_readings$nothing\"",
    "SELECT generate_series(1, 1000000000000)",
    "SELECT range(1, 1000000000000)",
    "SELECT sequence(1, 1000000000000)",
    "SELECT repeat('x', 2000000000)",
    "SELECT lpad('x', 2000000000, 'y')",
    "SELECT rpad('x', 2000000000, 'y')",
    "SELECT array_repeat(1, 1000000000)",
    "SELECT array_resize(ARRAY[1], 1000000000)",
    "SELECT format('%1000000000d', 1)",
    "SELECT regexp_like('x', '(x{1000}){1000}')",
    "SELECT 1/0",
    "SELECT CAST('x' AS bigint)",
    "SELECT from_iso8601_timestamp('\u{0}')",
];

/// Statements too large to plan, or whose answers are too large to hold.
fn excessive() -> Vec<String> {
    let wide = |joiner: &str, count: usize| format!("SELECT 1{}", joiner.repeat(count));
    vec![
        format!("SELECT {}1{}", "(".repeat(10_000), ")".repeat(10_000)),
        format!("SELECT {}1{}", "abs(".repeat(5_000), ")".repeat(5_000)),
        format!("SELECT {}1{}", "greatest(1, ".repeat(45), ")".repeat(45)),
        format!("SELECT {} true", "NOT ".repeat(10_000)),
        format!("SELECT {}1", "- ".repeat(10_000)),
        format!("{}SELECT 1{}", "SELECT * FROM (".repeat(1_000), ")".repeat(1_000)),
        format!("SELECT {}", "CASE WHEN true THEN ".repeat(2_000)),
        // The parser reads what fails within these twice, at each level.
        format!("SELECT {}@@", "CASE WHEN true THEN ".repeat(45)),
        format!("SELECT {}@@", "CAST(".repeat(45)),
        format!("SELECT {}@@", "POSITION(".repeat(45)),
        format!("SELECT {}@@", "ARRAY[".repeat(45)),
        format!("SELECT {}@@", "INTERVAL ".repeat(45)),
        format!("SELECT CAST(1 AS {}int{})", "array(".repeat(5_000), ")".repeat(5_000)),
        format!("SELECT 1 FROM raw_readings{}", ", raw_readings".repeat(4_000)),
        wide(" UNION ALL SELECT 1", 5_000),
        wide(" + 1", 40_000),
        wide(" OR 1 = 1", 8_000),
        format!("SELECT '{}' LIKE '{}'", "x".repeat(40_000), "%x".repeat(20_000)),
        format!("SELECT ARRAY[{}1]", "[".repeat(5_000)),
        "SELECT a.note, b.note FROM raw_readings a CROSS JOIN raw_readings b".into(),
        "SELECT array_agg(a.note || b.note) FROM raw_readings a CROSS JOIN raw_readings b".into(),
        "SELECT rpad(a.note, 100000, 'x') FROM raw_readings a, raw_readings b".into(),
    ]
}

#[test]
fn e4_hostile_statements_end_in_bounds_and_the_server_answers_on() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = prepared(folder.path());
    let started = server.peak_kib();
    let excessive = excessive();
    let all: Vec<&str> =
        FORBIDDEN.iter().copied().chain(excessive.iter().map(String::as_str)).collect();
    for sql in &all {
        // A NUL ends an argument: what has one comes by another way.
        let sql = sql.replace('\0', "\\u{0}");
        let start: String = sql.chars().take(80).collect();
        // Longer than one argument of a command may be.
        if sql.len() > 120_000 {
            continue;
        }
        let arguments = ["lake", "sql", &sql];
        if sql.contains("LIKE") && e2e::run(&server.data_dir, &arguments).status.success() {
            continue;
        }
        let (code, said) = e2e::refusal(&server.data_dir, &arguments);
        assert!(code != 6 && code != 7, "{start}: {code} {said}");
        let ours = ["gave up", "was built wrongly", "Internal error", "internal error"];
        assert!(!ours.iter().any(|word| said.contains(word)), "{start}: {said}");
    }
    // The longest that is let in, and names with everything in them.
    for sql in [
        format!("SELECT 1 IN ({}1)", "1, ".repeat(20_000)),
        "SELECT 1 AS \"a\"\"b.c\u{202e}\u{201c}\"".to_owned(),
        "SELECT '\u{201c}; DROP TABLE raw_readings; --'".to_owned(),
    ] {
        server.forebay(&["lake", "sql", &sql]);
    }
    let rows = server.forebay(&["lake", "sql", "SELECT count(*) FROM raw_readings"]);
    assert_eq!(rows["rows"][0][0], 20_000);
    assert!(server.is_running());
    let peak = server.peak_kib() / 1024;
    println!("{} statements, peak {peak} MiB, {} MiB before", all.len(), started / 1024);
    assert!(all.len() >= 80, "{}", all.len());
    assert!(peak < MIB_MAX, "{peak} MiB resident");
}

/// Work that would go on for hours.
const ENDLESS: &[&str] = &[
    "SELECT count(*) FROM raw_readings a CROSS JOIN raw_readings b CROSS JOIN raw_readings c \
     WHERE a.seq + b.seq + c.seq = 7",
    "SELECT max(length(regexp_replace(a.note || b.note, '(x+x+)+y', ''))) \
     FROM raw_readings a CROSS JOIN raw_readings b",
    "SELECT count(*) FROM raw_readings a, raw_readings b, raw_readings c \
     WHERE json_extract_scalar(a.note || b.note || c.note, '$.a') = 'x'",
];

/// The server uses less than a second of processor more, and then next to none. On a machine
/// that is busy otherwise a second of processor may take several.
fn expect_rest(server: &Server, after_what: &str) {
    let ended = server.cpu_time();
    let mut before = ended;
    e2e::wait_for("the server to rest", Duration::from_secs(30), || {
        std::thread::sleep(Duration::from_secs(1));
        let used = server.cpu_time() - before;
        before += used;
        used < Duration::from_millis(100)
    });
    let used = server.cpu_time() - ended;
    println!("{used:?} of processor until it rests, from the end of: {after_what}");
    assert!(used < Duration::from_secs(1), "{used:?} after the end of: {after_what}");
}

#[test]
fn e4_a_query_that_is_stopped_over_the_api_uses_no_processor() {
    let Some(tools) = Tools::find("StopQueryExecution") else { return };
    let folder = tempfile::tempdir().unwrap();
    let server = prepared(folder.path());
    let user = User::new(&tools, &server, &folder.path().join("user"));
    for sql in ENDLESS {
        let started = user.aws(&[
            "athena",
            "start-query-execution",
            "--query-string",
            sql,
            "--query-execution-context",
            "Database=forebay",
            "--result-configuration",
            "OutputLocation=s3://lake/answers/",
            "--output",
            "text",
        ]);
        let id = started.trim();
        let before = server.cpu_time();
        e2e::wait_for("the query to work", Duration::from_secs(30), || {
            server.cpu_time() - before > Duration::from_millis(500)
        });
        user.aws(&["athena", "stop-query-execution", "--query-execution-id", id]);
        expect_rest(&server, sql);
        let told = user.aws(&["athena", "get-query-execution", "--query-execution-id", id]);
        assert!(told.contains("CANCELLED"), "{told}");
    }
}

#[test]
fn e4_a_query_nobody_waits_for_any_more_uses_no_processor() {
    let folder = tempfile::tempdir().unwrap();
    let server = prepared(folder.path());
    for sql in ENDLESS {
        let mut client = Command::new(e2e::binary())
            .args(["lake", "sql", sql, "--json", "--data-dir"])
            .arg(&server.data_dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let before = server.cpu_time();
        e2e::wait_for("the query to work", Duration::from_secs(30), || {
            server.cpu_time() - before > Duration::from_millis(500)
        });
        client.kill().unwrap();
        client.wait().unwrap();
        expect_rest(&server, sql);
    }
    let rows = server.forebay(&["lake", "sql", "SELECT count(*) FROM raw_readings"]);
    assert_eq!(rows["rows"][0][0], 20_000);
}
