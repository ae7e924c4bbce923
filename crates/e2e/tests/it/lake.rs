//! The lake under faults: jobs, compaction, retention and crawls are killed or lose their power,
//! again and again, while others list, glob and query. No file is torn, no row doubled or missing,
//! no table partial, ever.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use e2e::account::{self, BLOCK};
use e2e::mqtt::{self, Ledger};
use e2e::power::Disk;
use e2e::row::Row;
use e2e::{Random, Server};
use serde_json::Value;

use crate::pipeline;

/// Readings that each of two devices sends in a round.
const READINGS: u64 = 150;
/// The first block of numbers: beyond those that fit an `int`, for the column to have one type all
/// along. Files of different types are not put together.
const FIRST: u64 = 300;
/// Server and what it may take beside its log's buffers; the work itself is done by children.
const BOUND_MIB: u64 = 448;

const WATCH: &str = include_str!("lake_watch.py");

const COMPACT_RAW: [&str; 5] = ["lake", "compact", "raw_readings", "--min-age-secs", "0"];
const COMPACT_TABLE: [&str; 5] = ["lake", "compact", "readings", "--min-age-secs", "0"];
const COMPACT_SHORT: [&str; 5] = ["lake", "compact", "short", "--min-age-secs", "0"];
const RETAIN: [&str; 5] = ["lake", "retain", "short", "--bytes", "40000"];
const RUN_SHORT: [&str; 3] = ["job", "run", "short"];
/// Long enough for whoever listed before to read.
const DROP: [&str; 4] = ["lake", "drop-retired", "--keep-secs", "90"];
const WORK: [&[&str]; 9] = [
    &pipeline::FLUSH,
    &pipeline::CRAWL,
    &pipeline::RUN,
    &COMPACT_TABLE,
    &COMPACT_RAW,
    &RUN_SHORT,
    &COMPACT_SHORT,
    &RETAIN,
    &DROP,
];

/// Another program that lists, globs and parses all the while; none without a Python.
struct Watcher(Option<(Child, ChildStdin, BufReader<ChildStdout>)>);

impl Watcher {
    fn start(server: &Server) -> Watcher {
        let Some(python) = e2e::python("listers of the lake") else { return Watcher(None) };
        let told = server.forebay(&["env"]);
        let told = told.as_object().unwrap().iter();
        let environment =
            told.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()));
        let mut child = Command::new(python)
            .arg("-c")
            .arg(WATCH)
            .arg(server.data_dir.join("lake/lake"))
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Watcher(Some((child, input, BufReader::new(output))))
    }

    fn go(&mut self) {
        if let Some((_, input, _)) = &mut self.0 {
            writeln!(input, "go").unwrap();
        }
    }

    /// Waits until it holds nothing open; what it saw so far.
    fn stop(&mut self) -> Value {
        let Some((_, input, output)) = &mut self.0 else { return Value::Null };
        drop(writeln!(input, "stop"));
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let saw: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        assert!(saw["failed"].is_null(), "a reader of the lake: {}", saw["failed"]);
        saw
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        if let Some((child, _, _)) = &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

fn prepare(server: &Server) {
    pipeline::prepare(server);
    let ledger = publish(server, FIRST, 1);
    assert_eq!(ledger.acknowledged.len(), 1);
    server.forebay(&pipeline::FLUSH);
    server.forebay(&pipeline::CRAWL);
    for (name, partitioned) in [("readings", true), ("short", false)] {
        let target = format!("lake/tables/{name}/");
        let mut create =
            vec!["job", "create", name, "--source", "raw_readings", "--target", &target];
        create.extend(["--table", name]);
        if partitioned {
            create.extend(["--partition-by", "device"]);
        }
        server.forebay(&create);
    }
    for step in WORK {
        server.forebay(step);
    }
}

/// Each block of sequence numbers has a device of two.
fn publish(server: &Server, block: u64, count: u64) -> Ledger {
    let device = format!("device-{}", block % 2);
    let topic = format!("load/{}/readings", block % 2);
    let limit = Duration::from_secs(20);
    mqtt::publish(server.mqtt, &device, &topic, block * BLOCK, count, 50, limit)
}

/// Whether a table has each row once, and no fewer than before.
fn ask(data_dir: &Path, table: &str, best: &AtomicU64) {
    let sql = format!("SELECT count(*), count(DISTINCT seq) FROM {table}");
    let output = e2e::run(data_dir, &["lake", "sql", &sql]);
    if !output.status.success() {
        return;
    }
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (rows, distinct) = (answer["rows"][0][0].as_u64(), answer["rows"][0][1].as_u64());
    assert_eq!(rows, distinct, "{table} has a row twice");
    if table != "short" {
        let before = best.fetch_max(rows.unwrap(), Ordering::SeqCst);
        assert!(rows.unwrap() >= before, "{table}: {rows:?} rows, {before} before");
    }
}

fn faults(
    what: &str,
    data_dir: &Path,
    (rounds, seed): (u64, u64),
    mut fault: impl FnMut(&mut Server),
    mut after: impl FnMut(),
) {
    let mut random = Random(seed);
    let mut server = Server::start(data_dir);
    prepare(&server);
    let mut watcher = Watcher::start(&server);
    let best = AtomicU64::new(0);
    let one = vec![FIRST * BLOCK];
    let first = Ledger { sent: one.clone(), acknowledged: one };
    let (mut ledgers, mut hits, mut peak_kib) = (vec![first], 0, 0);
    let (mut slowest, mut block) = (Duration::ZERO, FIRST + 2);
    let mut cut_off = std::collections::BTreeMap::<String, u64>::new();
    let mut done = 0;
    // A step whose disk was cut may still answer from memory; one whose server was killed cannot.
    let wanted = if what.starts_with("kill") { rounds / 4 } else { 0 };
    for round in 0..4 * rounds {
        // Most steps are quick, so that a moment may lie between two of them.
        if round >= rounds && hits >= wanted {
            break;
        }
        done += 1;
        // Not always from the start: each step is to be met.
        let (moment, from) = (Duration::from_millis(50 + random.below(1_500)), random.below(9));
        let within = Duration::from_millis(10 + random.below(60));
        let (over, begun) = (AtomicBool::new(false), AtomicU64::new(0));
        watcher.go();
        std::thread::scope(|scope| {
            let publishers: Vec<_> = [block, block + 1]
                .map(|block| {
                    let server = &server;
                    scope.spawn(move || publish(server, block, READINGS))
                })
                .into_iter()
                .collect();
            ledgers.extend(publishers.into_iter().map(|publisher| publisher.join().unwrap()));
        });
        block += 2;
        std::thread::scope(|scope| {
            let (over, begun, best) = (&over, &begun, &best);
            let work = scope.spawn(move || {
                for step in WORK.iter().cycle().skip(from as usize) {
                    begun.fetch_add(1, Ordering::SeqCst);
                    let output = e2e::run(data_dir, step);
                    let code = output.status.code();
                    assert!(matches!(code, Some(0..=7)), "{step:?} ended with {}", output.status);
                    if over.load(Ordering::SeqCst) {
                        return (code != Some(0)).then(|| step[..2].join(" "));
                    }
                }
                None
            });
            scope.spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    for table in ["readings", "raw_readings", "short"] {
                        let of = AtomicU64::new(0);
                        ask(data_dir, table, if table == "readings" { best } else { &of });
                    }
                }
            });
            std::thread::sleep(moment);
            let (before, patience) = (begun.load(Ordering::SeqCst), Instant::now());
            while begun.load(Ordering::SeqCst) == before && patience.elapsed().as_secs() < 2 {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(within);
            over.store(true, Ordering::SeqCst);
            fault(&mut server);
            if let Some(step) = work.join().unwrap() {
                hits += 1;
                *cut_off.entry(step).or_default() += 1;
            }
        });
        watcher.stop();
        peak_kib = peak_kib.max(server.peak_kib());
        after();
        let started = Instant::now();
        server.restart();
        slowest = slowest.max(started.elapsed());
        ask(data_dir, "readings", &best);
        if round % 10 == 9 {
            settled(&server, &ledgers);
        }
    }
    watcher.go();
    let account = settled(&server, &ledgers);
    std::thread::sleep(Duration::from_secs(3));
    let saw = watcher.stop();
    if !saw.is_null() {
        assert!(saw["listings"].as_u64() > Some(0) && saw["globs"].as_u64() > Some(0), "{saw}");
        for reader in ["tables/readings/", "raw/readings/", "glob"] {
            assert_eq!(saw[reader].as_u64(), Some(account.rows), "{reader}: {saw}");
        }
    }
    println!("{what}: seed {seed}, cut off {cut_off:?}, the readers saw {saw}");
    Row {
        fault: what,
        rounds: done,
        account: &account,
        peak_kib: peak_kib.max(server.peak_kib()),
        bound_mib: BOUND_MIB,
        recovered: Some(slowest),
        control: &format!("{hits} cut work off, seed {seed}"),
    }
    .settle();
    assert!(hits >= wanted, "only {hits} of {done} faults cut work off");
}

/// Takes everything into the table; then it has what was sent, and no run finds anything new.
fn settled(server: &Server, ledgers: &[Ledger]) -> account::Account {
    let said = WORK.map(|step| server.forebay(step));
    let run = server.forebay(&pipeline::RUN);
    assert_eq!(run["inputs"], 0, "the bookmark has forgotten something: {run}");
    let account = account::audit(server, "readings", ledgers);
    account.assert_clean("the table");
    let raw =
        server.forebay(&["lake", "sql", "SELECT count(*), count(DISTINCT seq) FROM raw_readings"]);
    assert_eq!(raw["rows"][0][0].as_u64(), Some(account.rows), "the raw objects");
    assert_eq!(raw["rows"][0][1].as_u64(), Some(account.rows), "the raw objects");
    // Compaction has done its work: each device's partition is one file.
    let files = server.forebay(&["lake", "sql", "SELECT count(*) FROM \"readings$files\""]);
    assert!(files["rows"][0][0].as_u64() <= Some(2), "{files}, where {said:?} was done");
    account
}

fn kills(rounds: u64) {
    let folder = tempfile::tempdir().unwrap();
    let what = "kill -9 during jobs, compaction, retention and crawls";
    let run = (rounds, e2e::seed(11));
    faults(what, &folder.path().join("data"), run, Server::kill, || ());
}

#[test]
fn e1_e2_d2_kill_9_at_any_moment_of_the_lakes_work_harms_no_row() {
    kills(8);
}

#[test]
#[ignore = "long: 200 rounds"]
fn e1_e2_d2_long_200_kills() {
    kills(200);
}

fn power_cuts(rounds: u64) {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::new(folder.path(), 4096) else { return };
    let data_dir = disk.path().join("data");
    let disk = std::cell::RefCell::new(disk);
    let cut = |server: &mut Server| {
        disk.borrow().cut();
        server.kill();
    };
    let what = "power cut during jobs, compaction, retention and crawls";
    let replug = || disk.borrow_mut().replug();
    faults(what, &data_dir, (rounds, e2e::seed(12)), cut, replug);
}

#[test]
fn e1_e2_d2_a_power_cut_at_any_moment_of_the_lakes_work_harms_no_row() {
    power_cuts(3);
}

#[test]
#[ignore = "long: 20 rounds"]
fn e1_e2_d2_long_20_power_cuts() {
    power_cuts(20);
}
