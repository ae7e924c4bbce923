//! Questions to the lake: the same answers as DuckDB's, and readings that can be asked about at
//! once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use e2e::Server;
use e2e::aws::{Sdk, Tools, User};
use e2e::mqtt::{Ends, Load, Told};
use serde_json::Value;

use crate::pipeline;

const BEIJING: &str = include_str!("beijing.py");

/// Publishes readings, takes them to a table of JSON and one of Parquet, and asks both and
/// DuckDB every question of `beijing.sql`.
fn answers_are_duckdbs(source: &str, expect: Option<&str>) {
    let Some(python) = e2e::python("DuckDB") else { return };
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    let create = ["stream", "create", "readings", "--prefix", "raw/readings/"];
    server.forebay(&[&create[..], &["--error-prefix", "errors/", "--gzip"]].concat());
    let sql = "SELECT * FROM 'air/+/readings'";
    server.forebay(&["rule", "create", "readings", "--sql", sql, "--stream", "readings"]);
    let lines = path_in(folder.path(), "readings.jsonl");
    let port = server.mqtt.port().to_string();
    let sent = e2e::run_python(&python, BEIJING, &["publish", &port, source, &lines]);
    if let Some(expect) = expect {
        assert_eq!(sent.trim(), expect);
    }
    server.forebay(&pipeline::FLUSH);
    server.forebay(&pipeline::CRAWL);
    pipeline::create_job(&server);
    let run = server.forebay(&pipeline::RUN);
    assert_eq!(run["rows_out"].to_string(), sent.trim(), "{run}");
    less_is_read_of_parquet(&server, sent.trim());
    let questions: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/beijing.sql");
    let said = e2e::run_python(
        &python,
        BEIJING,
        &[
            "compare",
            &e2e::binary().to_string_lossy(),
            &server.data_dir.to_string_lossy(),
            &questions.to_string_lossy(),
            &lines,
            "raw_readings",
            "readings",
        ],
    );
    let said: Value = serde_json::from_str(&said).unwrap();
    println!(
        "{} readings, {} questions, {} answers",
        sent.trim(),
        said["questions"],
        said["asked"]
    );
    let wrong: Vec<&str> =
        said["wrong"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(said["questions"].as_u64() >= Some(30), "{said}");
}

/// `lake compare` reads all rows in each format, and of a column no more than the format makes
/// it read.
fn less_is_read_of_parquet(server: &Server, rows: &str) {
    let compared = server.forebay(&["lake", "compare", "raw_readings", "--max-mb", "1024"]);
    assert_eq!(
        (compared["rows"].to_string().as_str(), &compared["whole"]),
        (rows, &Value::Bool(true))
    );
    let number = |format: usize, name: &str| compared["formats"][format][name].as_f64().unwrap();
    for (format, name) in ["json", "csv", "parquet"].iter().enumerate() {
        assert_eq!(compared["formats"][format]["format"], *name);
        let cpu = number(format, "load_cpu_seconds");
        println!(
            "{name}: {} bytes, loaded in {cpu:.3} s of processor, {} bytes read for {}",
            number(format, "bytes"),
            number(format, "query_bytes"),
            compared["column"]
        );
    }
    // Text is read whole whatever is asked.
    for format in [0, 1] {
        let (all, read) = (number(format, "bytes"), number(format, "query_bytes"));
        assert!((read - all).abs() <= all / 100.0 + 4096.0, "{compared}");
    }
    assert!(number(1, "bytes") < number(0, "bytes"), "{compared}");
    assert!(number(2, "bytes") < number(1, "bytes"), "{compared}");
    assert!(number(2, "query_bytes") < number(2, "bytes") / 2.0, "{compared}");
    let few = server.forebay(&["lake", "compare", "forebay.readings", "--max-mb", "1"]);
    assert!(few["rows"].as_u64() > Some(0), "{few}");
    let (code, said) = e2e::refusal(&server.data_dir, &["lake", "compare", "nothing"]);
    assert_eq!(code, 3, "{said}");
}

fn path_in(folder: &Path, name: &str) -> String {
    folder.join(name).to_string_lossy().into_owned()
}

#[test]
fn answers_about_made_up_readings_are_duckdbs() {
    answers_are_duckdbs("300", Some("3600"));
}

#[test]
#[ignore = "long: 420,768 real readings"]
fn answers_about_the_real_readings_of_beijing_are_duckdbs() {
    let Some(file) = e2e::shared_data("air_beijing_raw/readings.parquet") else {
        return e2e::skip("questions about the real readings: air_beijing_raw is not there");
    };
    answers_are_duckdbs(&file.to_string_lossy(), Some("420768"));
}

/// Statements of a random grammar over tables full of nulls, asked of Athena's API over Parquet and
/// JSON, and of DuckDB.
fn random_answers_are_duckdbs(seed: u32, statements: u32) {
    let Some(tools) = Tools::find("random questions") else { return };
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    let user = User::new(&tools, &server, &folder.path().join("user"));
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/py/random_questions.py");
    let args = [seed.to_string(), statements.to_string()];
    let said = user.python(Sdk::Today, &program, &[&args[0], &args[1]]);
    println!("{}", said.trim());
    assert!(said.contains("ALL ANSWERS ARE DUCKDB'S"), "{said}");
}

#[test]
fn answers_to_random_questions_are_duckdbs() {
    random_answers_are_duckdbs(1, 250);
}

#[test]
#[ignore = "long: 10,000 statements"]
fn answers_to_ten_thousand_random_questions_are_duckdbs() {
    random_answers_are_duckdbs(2, 10_000);
}

/// Asks while one device publishes and the stream delivers; at every moment the answer holds
/// every reading up to some number, each once.
#[test]
fn live_readings_are_there_at_once_each_once_while_they_are_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    pipeline::prepare(&server);
    let load = |first, told: &Told| {
        let (client_id, topic) = ("roof", "load/roof/readings");
        let rate = Some(800);
        let broker = server.mqtt;
        Load { broker, client_id, topic, first, qos: 1, window: 200, rate, bytes: 0 }.carry(told)
    };
    // The table is there once something was delivered and crawled.
    let told = Told::default();
    let before = std::thread::scope(|scope| {
        let carrying = scope.spawn(|| load(0, &told));
        let _ends = Ends(&told);
        e2e::wait_for("the first readings", Duration::from_secs(30), || told.acknowledged() > 50);
        told.stop();
        carrying.join().unwrap()
    });
    assert!(before.ended.is_none(), "{:?}", before.ended);
    let first = before.ledger.sent.len() as u64;
    server.forebay(&pipeline::FLUSH);
    server.forebay(&pipeline::CRAWL);

    let sql = "SELECT count(*), count(DISTINCT seq), max(seq), count(partition_0) \
               FROM \"raw_readings$live\"";
    let ask = || {
        let rows = server.forebay(&["lake", "sql", sql])["rows"].clone();
        let row: Vec<u64> =
            rows[0].as_array().unwrap().iter().map(|cell| cell.as_u64().unwrap()).collect();
        let [count, distinct, last, placed] = row[..] else { panic!("{rows}") };
        assert_eq!((count, distinct, placed), (last + 1, last + 1, last + 1), "{rows}");
        count
    };
    let stored = || {
        let rows =
            server.forebay(&["lake", "sql", "SELECT count(*) FROM raw_readings"])["rows"].clone();
        rows[0][0].as_u64().unwrap()
    };
    let told = Told::default();
    let (asked, ahead, carried) = std::thread::scope(|scope| {
        let carrying = scope.spawn(|| load(first, &told));
        let _ends = Ends(&told);
        let (mut asked, mut ahead) = (0, 0);
        while told.acknowledged() < 8_000 {
            let acknowledged = first + told.acknowledged();
            let count = ask();
            assert!(count >= acknowledged, "{count} of {acknowledged} acknowledged");
            asked += 1;
            ahead += u64::from(count > stored());
            // In between somebody wants what there is, as well as the clock.
            if asked % 7 == 0 {
                server.forebay(&pipeline::FLUSH);
            }
        }
        told.stop();
        (asked, ahead, carrying.join().unwrap())
    });
    assert!(carried.ended.is_none(), "{:?}", carried.ended);
    let sent = first + carried.ledger.sent.len() as u64;
    assert_eq!(ask(), sent);
    server.forebay(&pipeline::FLUSH);
    assert_eq!((ask(), stored()), (sent, sent));
    println!("{asked} questions over {sent} readings, {ahead} ahead of the lake");
    assert!(asked > 10, "{asked}");
    assert!(ahead > 0, "the log never had more than the lake");
}

/// A table that jobs write has no tail, and says so.
#[test]
fn live_is_refused_where_no_stream_writes() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    pipeline::prepare(&server);
    let limit = Duration::from_secs(20);
    e2e::mqtt::publish(server.mqtt, "roof", "load/roof/readings", 0, 20, 20, limit);
    server.forebay(&pipeline::FLUSH);
    server.forebay(&pipeline::CRAWL);
    pipeline::create_job(&server);
    server.forebay(&pipeline::RUN);
    let (_, said) =
        e2e::refusal(&server.data_dir, &["lake", "sql", "SELECT count(*) FROM \"readings$live\""]);
    assert!(said.contains("written by jobs"), "{said}");
}
