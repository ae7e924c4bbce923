//! Kills and power cuts under load: every acknowledged reading is in the table exactly once.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use e2e::account::{self, Account, BLOCK};
use e2e::mqtt::{self, Ledger};
use e2e::power::Disk;
use e2e::row::Row;
use e2e::{Random, Server};
use flate2::read::GzDecoder;

use crate::pipeline;

/// Publishers, and the PUBLISHes each keeps unacknowledged.
const WINDOWS: [usize; 4] = [100, 100, 37, 5];
/// A server that was killed is back within this.
const RESTART_LIMIT: Duration = Duration::from_secs(5);
/// One whose disk lost its power reads everything from that disk again.
const RESTART_LIMIT_COLD: Duration = Duration::from_secs(15);
/// What the server may have resident under this load. Its log takes up to 64 MiB of what waits
/// for the disk, twice; the SQL of the audit 256 MiB at most before it spills, the program itself
/// 60 MiB.
const BOUND_MIB: u64 = 448;

/// Publishes from a thread per window while `fault` runs, until the broker goes away.
fn storm(server: &mut Server, ledgers: &mut Vec<Ledger>, fault: impl FnOnce(&mut Server)) {
    let (broker, block) = (server.mqtt, ledgers.len() as u64);
    std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..)
            .zip(WINDOWS)
            .map(|(index, window)| {
                let first = (block + index) * BLOCK;
                scope.spawn(move || {
                    let (id, topic) = (format!("device-{index}"), format!("load/{index}/readings"));
                    mqtt::publish(
                        broker,
                        &id,
                        &topic,
                        first,
                        BLOCK,
                        window,
                        Duration::from_secs(30),
                    )
                })
            })
            .collect();
        fault(server);
        ledgers.extend(publishers.into_iter().map(|publisher| publisher.join().unwrap()));
    });
}

/// A flush, a crawl and a job run whose server may die under them: any exit, never a panic.
fn disturbed_lake_work(data_dir: &Path) {
    for step in [&pipeline::FLUSH[..], &pipeline::CRAWL, &pipeline::RUN] {
        let output = e2e::run(data_dir, step);
        let code = output.status.code();
        assert!(matches!(code, Some(0..=7)), "{step:?} ended with {}", output.status);
    }
}

/// Watches that whatever lies under an object's name is whole and never changes.
#[derive(Default)]
struct WholeObjects(HashMap<PathBuf, (u64, SystemTime)>);

impl WholeObjects {
    fn check(&mut self, lake: &Path) {
        for file in e2e::files_below(lake) {
            let meta = file.metadata().unwrap();
            let stamp = (meta.len(), meta.modified().unwrap());
            let known = self.0.insert(file.clone(), stamp);
            if known == Some(stamp) {
                continue;
            }
            let bytes = std::fs::read(&file).unwrap();
            let shown = file.display();
            match file.extension().and_then(OsStr::to_str) {
                Some("gz") => {
                    let mut text = String::new();
                    GzDecoder::new(&bytes[..])
                        .read_to_string(&mut text)
                        .unwrap_or_else(|e| panic!("{shown}: {e}"));
                    assert!(text.ends_with("}\n"), "{shown} ends within a record");
                }
                Some("parquet") => {
                    let framed =
                        bytes.len() > 8 && bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1");
                    assert!(framed, "{shown} is no whole Parquet file");
                    assert!(known.is_none(), "{shown} has changed");
                }
                // Not an object's name: staging of a put that was cut off.
                _ => {}
            }
        }
    }
}

/// What a run of rounds came to.
#[derive(Default)]
struct Rounds {
    ledgers: Vec<Ledger>,
    /// Rounds whose fault hit readings under way.
    hits: usize,
    slowest_restart: Duration,
    peak_kib: u64,
}

/// Rounds of load, a fault at a random moment, and a restart. Each third round the lake is at
/// work when the fault comes; each fifth it does its work in peace, so that later runs start
/// from a bookmark.
fn rounds(
    data_dir: &Path,
    count: usize,
    random: &mut Random,
    mut fault: impl FnMut(&mut Server),
    mut after: impl FnMut(),
) -> (Server, Rounds) {
    let mut server = Server::start(data_dir);
    pipeline::prepare(&server);
    let mut done = Rounds::default();
    let (mut job_exists, mut whole) = (false, WholeObjects::default());
    for round in 0..count {
        let moment = Duration::from_millis(50 + random.below(750));
        let lake_at_work = round % 3 == 2;
        storm(&mut server, &mut done.ledgers, |server| {
            std::thread::scope(|scope| {
                if lake_at_work {
                    scope.spawn(|| disturbed_lake_work(data_dir));
                }
                std::thread::sleep(moment);
                fault(server);
            });
        });
        let of_round = done.ledgers.iter().rev().take(WINDOWS.len());
        done.hits += usize::from(
            of_round.into_iter().any(|ledger| ledger.sent.len() > ledger.acknowledged.len()),
        );
        done.peak_kib = done.peak_kib.max(server.peak_kib());
        drop(server);
        after();
        whole.check(&data_dir.join("lake"));
        let started = Instant::now();
        server = Server::start(data_dir);
        done.slowest_restart = done.slowest_restart.max(started.elapsed());
        if round % 5 == 1 {
            pipeline::to_table_or_create(&server, &mut job_exists);
        }
    }
    pipeline::to_table_or_create(&server, &mut job_exists);
    (server, done)
}

fn settle(what: &str, seed: u64, count: usize, server: &Server, done: &Rounds, limit: Duration) {
    let account = account::audit(server, "readings", &done.ledgers);
    println!(
        "{what}: {count} rounds, {} hit readings under way, sent {}, acknowledged {}, rows {}, lost {}, doubled {}, \
         slowest restart {} ms, seed {seed}",
        done.hits,
        account.sent,
        account.acknowledged,
        account.rows,
        account.lost.len(),
        account.doubled.len(),
        done.slowest_restart.as_millis()
    );
    Row {
        fault: what,
        rounds: count as u64,
        account: &account,
        peak_kib: done.peak_kib.max(server.peak_kib()),
        bound_mib: BOUND_MIB,
        recovered: Some(done.slowest_restart),
        control: &format!("{} hit readings under way, seed {seed}", done.hits),
    }
    .settle();
    let objects = e2e::files_below(&server.data_dir.join("lake/lake/raw/readings")).len();
    assert!(objects > count, "{objects} objects: no delivery was under way at any fault");
    assert!(
        done.hits * 10 >= count * 8,
        "only {} of {count} faults hit readings under way",
        done.hits
    );
    assert!(done.slowest_restart < limit, "a restart took {:?}", done.slowest_restart);
}

fn kills(count: usize) {
    let seed = e2e::seed(1);
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let (server, done) = rounds(&data_dir, count, &mut Random(seed), Server::kill, || ());
    settle("kill -9", seed, count, &server, &done, RESTART_LIMIT);
}

#[test]
fn a1_d1_kill_9_under_load_keeps_every_acknowledged_reading_exactly_once() {
    kills(10);
}

#[test]
#[ignore = "long: 100 rounds"]
fn a1_d1_long_100_kills() {
    kills(100);
}

fn power_cuts(count: usize) {
    let seed = e2e::seed(2);
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = Disk::new(folder.path(), 8192) else { return };
    let data_dir = disk.path().join("data");
    let disk = std::cell::RefCell::new(disk);
    let cut = |server: &mut Server| {
        disk.borrow().cut();
        server.kill();
    };
    let replug = || disk.borrow_mut().replug();
    let (server, done) = rounds(&data_dir, count, &mut Random(seed), cut, replug);
    settle("power cuts", seed, count, &server, &done, RESTART_LIMIT_COLD);
}

#[test]
fn s4_power_cuts_lose_nothing_acknowledged() {
    power_cuts(3);
}

#[test]
#[ignore = "long: 100 rounds"]
fn s4_long_100_power_cuts() {
    power_cuts(100);
}

/// A kill leaves records that exist in the page cache only. The restarted server delivers them,
/// and then the power fails: were they not made stable when the log was opened, their offsets
/// would be given again, to other readings.
fn cuts_after_kills(count: usize) {
    let seed = e2e::seed(6);
    let mut random = Random(seed);
    let folder = tempfile::tempdir().unwrap();
    let Some(mut disk) = Disk::new(folder.path(), 8192) else { return };
    let data_dir = disk.path().join("data");
    let mut server = Server::start(&data_dir);
    pipeline::prepare(&server);
    let (mut done, mut job_exists) = (Rounds::default(), false);
    let mut whole = WholeObjects::default();
    let under_way = |ledgers: &[Ledger]| {
        let of_storm = ledgers.iter().rev().take(WINDOWS.len());
        of_storm.into_iter().any(|ledger| ledger.sent.len() > ledger.acknowledged.len())
    };
    for round in 0..count {
        let moment = Duration::from_millis(50 + random.below(500));
        storm(&mut server, &mut done.ledgers, |server| {
            std::thread::sleep(moment);
            server.kill();
        });
        let killed = under_way(&done.ledgers);
        done.peak_kib = done.peak_kib.max(server.peak_kib());
        drop(server);
        server = Server::start(&data_dir);
        // Each other time what the kill left is in the lake when the power fails.
        if round % 2 == 0 {
            server.forebay(&pipeline::FLUSH);
        }
        let moment = Duration::from_millis(random.below(300));
        storm(&mut server, &mut done.ledgers, |server| {
            std::thread::sleep(moment);
            disk.cut();
            server.kill();
        });
        done.hits += usize::from(killed && under_way(&done.ledgers));
        done.peak_kib = done.peak_kib.max(server.peak_kib());
        drop(server);
        disk.replug();
        whole.check(&data_dir.join("lake"));
        let started = Instant::now();
        server = Server::start(&data_dir);
        done.slowest_restart = done.slowest_restart.max(started.elapsed());
        if round % 5 == 1 {
            pipeline::to_table_or_create(&server, &mut job_exists);
        }
    }
    pipeline::to_table_or_create(&server, &mut job_exists);
    let what = "power cut after kill -9 and restart";
    settle(what, seed, count, &server, &done, RESTART_LIMIT_COLD);
}

#[test]
fn s5_a_power_cut_after_a_kill_and_a_restart_loses_and_doubles_nothing() {
    cuts_after_kills(3);
}

#[test]
#[ignore = "long: 25 rounds"]
fn s5_long_25_power_cuts_after_kills() {
    cuts_after_kills(25);
}

/// The control: the same cut under a server whose fsync does nothing. If this loses nothing,
/// the test above sees nothing.
#[test]
fn s6_a_lying_disk_is_caught() {
    let Some(liar) = lying_library() else {
        return e2e::skip("the lying disk: libeatmydata is not installed");
    };
    let folder = tempfile::tempdir().unwrap();
    let Some(mut disk) = Disk::new(folder.path(), 8192) else { return };
    let data_dir = disk.path().join("data");
    let mut server = Server::start(&data_dir);
    pipeline::prepare(&server);
    let honest = mqtt::publish(
        server.mqtt,
        "device-0",
        "load/0/readings",
        0,
        100,
        100,
        Duration::from_secs(30),
    );
    assert_eq!(honest.acknowledged.len(), 100);
    let mut ledgers = vec![honest];
    let caught = |rounds: u64, account: &Account, peak_kib: u64, control: &str| {
        let fault = "power cut under a lying fsync";
        Row { fault, rounds, account, peak_kib, bound_mib: BOUND_MIB, recovered: None, control }
            .say();
    };
    pipeline::to_table_or_create(&server, &mut false);
    server.stop();
    assert!(Command::new("sync").status().unwrap().success());
    for round in 1..=5 {
        let mut server = Server::start_with(&data_dir, &[], &[("LD_PRELOAD", &liar)]);
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", server.pid())).unwrap();
        assert!(maps.contains("libeatmydata"), "the server's fsync does not lie: {}", server.log());
        storm(&mut server, &mut ledgers, |server| {
            std::thread::sleep(Duration::from_millis(700));
            disk.cut();
            server.kill();
        });
        let peak_kib = server.peak_kib();
        drop(server);
        disk.replug();
        let acknowledged: usize = ledgers.iter().map(|ledger| ledger.acknowledged.len()).sum();
        assert!(acknowledged > 100, "the lying server acknowledged nothing");
        let server = match Server::try_start(&data_dir, &[], &[]) {
            Ok(server) => server,
            Err(said) => {
                println!(
                    "lying disk: {acknowledged} acknowledged, and after round {round} it does not start: {said}"
                );
                let (acknowledged, lost) =
                    (acknowledged as u64, (0..acknowledged as u64).collect());
                let account = Account { acknowledged, lost, ..Account::default() };
                return caught(round, &account, peak_kib, "this is the control: nothing is left");
            }
        };
        pipeline::to_table(&server);
        let account = account::audit(&server, "readings", &ledgers);
        println!(
            "lying disk: round {round}, {acknowledged} acknowledged, {} lost",
            account.lost.len()
        );
        if !account.lost.is_empty() {
            return caught(round, &account, peak_kib, "this is the control: it must lose");
        }
    }
    panic!("five power cuts under a lying disk lost nothing: the power cut test is blind");
}

fn lying_library() -> Option<String> {
    let folders = std::fs::read_dir("/usr/lib").ok()?;
    let candidates =
        folders.map_while(Result::ok).map(|entry| entry.path().join("libeatmydata.so"));
    let found = candidates.into_iter().find(|path| path.exists())?;
    Some(found.to_string_lossy().into_owned())
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let [http, mqtt, mqtts, ws] = e2e::free_ports().map(|addr| addr.to_string());
    let (code, message) = e2e::refusal(
        folder.path(),
        &["serve", "--http", &http, "--mqtt", &mqtt, "--mqtts", &mqtts, "--mqtt-ws", &ws],
    );
    assert_eq!(code, 5, "{message}");
    assert!(message.contains("another running process"), "the message does not say why: {message}");
    assert!(server.is_running(), "the first server must not mind");
    assert_eq!(e2e::http_get(server.http, "/healthz").unwrap().0, 200);
}

#[test]
fn a_killed_server_is_back_within_five_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    // Delivers late, so that the log is long when the kill comes.
    server.forebay(&["stream", "create", "late", "--interval-secs", "900", "--size-mb", "128"]);
    server.forebay(&[
        "rule",
        "create",
        "late",
        "--sql",
        "SELECT * FROM 'load/#'",
        "--stream",
        "late",
    ]);
    let mut ledgers = Vec::new();
    storm(&mut server, &mut ledgers, |server| {
        std::thread::sleep(Duration::from_secs(3));
        server.kill();
    });
    drop(server);
    let started = Instant::now();
    let server = Server::start(folder.path());
    let took = started.elapsed();
    let acknowledged: usize = ledgers.iter().map(|ledger| ledger.acknowledged.len()).sum();
    let durable = server.metric("journal_durable_offset");
    println!(
        "restart after kill -9: {} ms with {acknowledged} acknowledged, {durable} in the log",
        took.as_millis()
    );
    assert!(durable >= acknowledged as f64);
    assert!(took < RESTART_LIMIT, "{took:?}");
}

#[test]
fn a_job_does_not_outlive_a_killed_server() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    pipeline::prepare(&server);
    let count = 200_000;
    let limit = Duration::from_secs(60);
    let ledger = mqtt::publish(server.mqtt, "device-0", "load/0/readings", 0, count, 100, limit);
    assert_eq!(ledger.acknowledged.len() as u64, count);
    server.forebay(&pipeline::FLUSH);
    server.forebay(&pipeline::CRAWL);
    pipeline::create_job(&server);
    let worker = std::thread::scope(|scope| {
        scope.spawn(|| disturbed_lake_work(folder.path()));
        let mut worker = None;
        e2e::wait_for("the job's process", Duration::from_secs(20), || {
            worker = child_of(server.pid());
            worker.is_some()
        });
        // Held still, so that it cannot finish before the server is gone.
        e2e::signal("STOP", worker.unwrap());
        server.kill();
        worker.unwrap()
    });
    e2e::signal("CONT", worker);
    let process = PathBuf::from(format!("/proc/{worker}"));
    e2e::wait_for("the job's process to end", Duration::from_secs(20), || !process.exists());
    let left = e2e::files_below(&folder.path().join("jobs"));
    assert!(!left.is_empty(), "the job had not begun");
    let finished = left.iter().any(|path| path.ends_with("result.json"));
    assert!(!finished, "the job went on without its server: {left:?}");
    drop(server);
    let server = Server::start(folder.path());
    pipeline::to_table(&server);
    account::audit(&server, "readings", &[ledger]).assert_clean("after a job was cut off");
}

/// A running child of a process.
fn child_of(parent: u32) -> Option<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().map_while(Result::ok);
    let mut ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.find(|id| {
        // The fields after the name, which stands in brackets: state, parent, ...
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        after_name.split_whitespace().nth(1) == Some(&parent.to_string())
    })
}
