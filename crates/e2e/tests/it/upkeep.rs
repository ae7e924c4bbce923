//! The worker that looks after tables unasked.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use e2e::Server;

use crate::pipeline;

const OBJECTS: u64 = 120;
const ROWS: u64 = 20;
const SETTINGS: [&str; 8] = [
    "--set",
    "lake.upkeep_secs=1",
    "--set",
    "lake.compact_load_max=100000",
    "--set",
    "lake.compact_age_secs_min=0",
    "--set",
    "lake.compact_files_min=8",
];

/// Puts an object whole under its name, as S3 would.
fn put(server: &Server, number: u64) {
    let folder = server.data_dir.join("lake/lake/raw/readings");
    std::fs::create_dir_all(&folder).unwrap();
    let line = |row: u64| format!("{{\"seq\":{},\"device\":\"d\"}}\n", number * ROWS + row);
    let aside = server.data_dir.join("object-aside");
    std::fs::write(&aside, (0..ROWS).map(line).collect::<String>()).unwrap();
    std::fs::rename(&aside, folder.join(format!("{number:05}.json"))).unwrap();
}

#[test]
fn the_worker_joins_many_small_files_while_queries_see_every_row_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start_with(folder.path(), &SETTINGS, &[]);
    pipeline::prepare(&server);
    for number in 0..OBJECTS {
        put(&server, number);
    }
    server.forebay(&pipeline::CRAWL);
    pipeline::create_job(&server);
    let (asked, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let files =
        |below: &str| e2e::files_below(&server.data_dir.join("lake/lake").join(below)).len();
    let count = |table: &str| {
        let sql = format!("SELECT count(*), count(DISTINCT seq) FROM {table}");
        let answer = server.forebay(&["lake", "sql", &sql])["rows"][0].clone();
        (answer[0].as_u64().unwrap(), answer[1].as_u64().unwrap())
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                assert_eq!(count("raw_readings"), (OBJECTS * ROWS, OBJECTS * ROWS));
                asked.fetch_add(1, Ordering::SeqCst);
            }
        });
        let few = || files("raw/readings") < 8;
        e2e::wait_for("few objects of what was put", Duration::from_secs(120), few);
        over.store(true, Ordering::SeqCst);
    });
    assert!(asked.load(Ordering::SeqCst) > 0, "no query ran meanwhile");

    // A table that a job writes, file by file.
    let mut expected = OBJECTS * ROWS;
    server.forebay(&pipeline::RUN);
    assert_eq!(count("readings"), (expected, expected));
    for number in OBJECTS..OBJECTS + 12 {
        put(&server, number);
        server.forebay(&pipeline::CRAWL);
        server.forebay(&pipeline::RUN);
        expected += ROWS;
        assert_eq!(count("readings"), (expected, expected));
    }
    let few = || files("tables/readings") < 8;
    e2e::wait_for("few files of the table", Duration::from_secs(120), few);
    assert_eq!(count("readings"), (expected, expected));
    assert_eq!(count("raw_readings"), (expected, expected));
    server.kill();
    server.restart();
    assert_eq!(count_after(&server, "readings"), expected);
    assert_eq!(count_after(&server, "raw_readings"), expected);
}

fn count_after(server: &Server, table: &str) -> u64 {
    let sql = format!("SELECT count(*) FROM {table}");
    server.forebay(&["lake", "sql", &sql])["rows"][0][0].as_u64().unwrap()
}
