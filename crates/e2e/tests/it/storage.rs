//! Volumes that run full or turn read-only under load: acknowledgements stop where they must,
//! nothing is lost or doubled, and everything goes on by itself once there is space again.

use std::path::Path;
use std::time::{Duration, Instant};

use e2e::account::{self, Account, BLOCK};
use e2e::mqtt::{Carried, Ends, Load, Session, Told};
use e2e::row::Row;
use e2e::volume::Volume;
use e2e::{Server, http_get, wait_for};

use crate::pipeline;

/// PUBLISHes that each publisher keeps unacknowledged.
const WINDOWS: [usize; 3] = [100, 37, 5];

/// Segments small enough that a few megabytes are several.
const SMALL_SEGMENTS: [&str; 2] = ["--set", "journal.segment_bytes=1048576"];

/// How long nothing is acknowledged before acknowledgements count as stopped, and how long the
/// fault then goes on.
const STILL: Duration = Duration::from_secs(1);

/// When all is as before at the latest. A stream that tries again does so within 30 seconds.
const RECOVERY_LIMIT: Duration = Duration::from_secs(60);

/// What any of these servers may have resident: the program 48 MiB, the rows' cache 16 MiB, and
/// of each publisher what it sends in a window; the log takes half a segment at once. Whatever
/// comes during the fault stays outside.
const BOUND_MIB: u64 = 96;

/// Load from before the fault until after it.
struct Under<'a> {
    server: &'a Server,
    told: [Told; WINDOWS.len()],
}

impl Under<'_> {
    fn acknowledged(&self) -> u64 {
        self.told.iter().map(Told::acknowledged).sum()
    }

    /// Waits until so many more are acknowledged.
    fn flows(&self, what: &str, more: u64) {
        let before = self.acknowledged();
        wait_for(what, RECOVERY_LIMIT, || self.acknowledged() >= before + more);
    }

    /// Waits, doing `meanwhile`, until nothing was acknowledged for a while.
    fn stops(&self, mut meanwhile: impl FnMut()) {
        let (mut count, mut since) = (self.acknowledged(), Instant::now());
        wait_for("acknowledgements to stop", RECOVERY_LIMIT, || {
            meanwhile();
            let now = self.acknowledged();
            if now != count {
                (count, since) = (now, Instant::now());
            }
            since.elapsed() >= STILL
        });
    }

    fn problems(&self) -> String {
        http_get(self.server.http, "/healthz").unwrap().1
    }
}

/// Runs publishers around `fault`; what they came to.
fn carry(server: &Server, fault: impl FnOnce(&Under<'_>)) -> Vec<Carried> {
    let under = Under { server, told: Default::default() };
    std::thread::scope(|scope| {
        let publishers: Vec<_> = (0..)
            .zip(WINDOWS)
            .zip(&under.told)
            .map(|((index, window), told)| {
                scope.spawn(move || {
                    let load = Load {
                        broker: server.mqtt,
                        client_id: &format!("device-{index}"),
                        topic: &format!("load/{index}/readings"),
                        first: index * BLOCK,
                        qos: 1,
                        window,
                        rate: Some(1000),
                        bytes: 0,
                    };
                    load.carry(told)
                })
            })
            .collect();
        let ends = under.told.each_ref().map(Ends);
        fault(&under);
        drop(ends);
        publishers.into_iter().map(|publisher| publisher.join().unwrap()).collect()
    })
}

/// Everything acknowledged is in the objects once, and the publishers were never cut off.
fn audit(server: &Server, carried: &[Carried]) -> Account {
    let flush = |_: ()| e2e::run(&server.data_dir, &pipeline::FLUSH).status.success();
    wait_for("the stream to deliver all of it", RECOVERY_LIMIT, || flush(()));
    let names: Vec<String> = (0..carried.len()).map(|index| format!("device-{index}")).collect();
    for (name, carried) in names.iter().zip(carried) {
        assert!(carried.ended.is_none(), "{name} was cut off: {:?}", carried.ended);
        let Carried { ledger, .. } = carried;
        assert_eq!(ledger.sent.len(), ledger.acknowledged.len(), "{name} is still owed PUBACKs");
    }
    let ledgers = names.iter().map(String::as_str).zip(carried.iter().map(|c| &c.ledger));
    account::of_objects(&server.data_dir.join("lake"), ledgers)
}

/// The lake takes nothing and the log is at its bound: publishers are held back until it does.
fn lake_out(data_dir: &Path, volume: &Volume, fault: &str, out: &str, rounds: u64) {
    let (out_for, back): (&dyn Fn(), &dyn Fn()) = match out {
        "read-only" => (&|| volume.read_only(), &|| volume.writable()),
        _ => (&|| assert!(volume.fill() > 0), &|| volume.free()),
    };
    let bound = ["--journal-max-bytes", "6291456", SMALL_SEGMENTS[0], SMALL_SEGMENTS[1]];
    let server = Server::start_with(data_dir, &bound, &[]);
    pipeline::prepare(&server);
    let mut slowest = Duration::ZERO;
    let mut said = String::new();
    let carried = carry(&server, |under| {
        for _ in 0..rounds {
            under.flows("acknowledgements before the fault", 500);
            out_for();
            // The log takes what comes until it is full.
            under.stops(|| {
                if out == "full" {
                    volume.fill();
                }
            });
            said = under.problems();
            assert!(said.contains("publishers are held back"), "{said}");
            assert!(said.contains("tries again"), "{said}");
            std::thread::sleep(STILL);
            let ended = Instant::now();
            back();
            under.flows("acknowledgements after the fault", 500);
            wait_for("the stream to be well", RECOVERY_LIMIT, || {
                !under.problems().contains("tries again")
            });
            slowest = slowest.max(ended.elapsed());
        }
    });
    let held_back = server.metric("broker_connections_held_back_total");
    assert!(held_back >= 1.0, "no socket was held back");
    let account = audit(&server, &carried);
    let control = format!("publishers held back {held_back} times");
    Row {
        fault,
        rounds,
        account: &account,
        peak_kib: server.peak_kib(),
        bound_mib: BOUND_MIB,
        recovered: Some(slowest),
        control: &control,
    }
    .settle();
}

fn lake_read_only(rounds: u64) {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let Some(volume) = Volume::new(&data_dir.join("lake"), 64) else { return };
    lake_out(&data_dir, &volume, "lake read-only until the log is full", "read-only", rounds);
}

fn lake_full(rounds: u64) {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let Some(volume) = Volume::new(&data_dir.join("lake"), 256) else { return };
    lake_out(&data_dir, &volume, "lake volume full until the log is full", "full", rounds);
}

#[test]
fn a5_d5_a_lake_that_turns_read_only_holds_publishers_back_and_loses_nothing() {
    lake_read_only(1);
}

#[test]
#[ignore = "long: 10 rounds"]
fn a5_d5_long_read_only_lake() {
    lake_read_only(10);
}

#[test]
fn a5_d5_a_full_lake_holds_publishers_back_and_loses_nothing() {
    lake_full(1);
}

#[test]
#[ignore = "long: 10 rounds"]
fn a5_d5_long_full_lake() {
    lake_full(10);
}

/// A lake that is out for a while is nothing to publishers as long as the log holds.
fn lake_out_below_the_bound(out_for: Duration) {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let Some(volume) = Volume::new(&data_dir.join("lake"), 256) else { return };
    let server = Server::start(&data_dir);
    pipeline::prepare(&server);
    let mut recovered = Duration::ZERO;
    let mut meanwhile = 0;
    let carried = carry(&server, |under| {
        under.flows("acknowledgements before the fault", 500);
        volume.read_only();
        let (before, until) = (under.acknowledged(), Instant::now() + out_for);
        while Instant::now() < until {
            under.flows("acknowledgements during the fault", 100);
        }
        meanwhile = under.acknowledged() - before;
        assert!(under.problems().contains("tries again"), "{}", under.problems());
        let ended = Instant::now();
        volume.writable();
        wait_for("the stream to be well", RECOVERY_LIMIT, || {
            !under.problems().contains("tries again")
        });
        recovered = ended.elapsed();
    });
    let account = audit(&server, &carried);
    Row {
        fault: "lake read-only, the log takes it",
        rounds: 1,
        account: &account,
        peak_kib: server.peak_kib(),
        bound_mib: BOUND_MIB,
        recovered: Some(recovered),
        control: &format!("{meanwhile} acknowledged in {} s without a lake", out_for.as_secs()),
    }
    .settle();
}

#[test]
fn d5_acknowledgements_go_on_while_the_lake_is_out() {
    lake_out_below_the_bound(Duration::from_secs(4));
}

#[test]
#[ignore = "long: ten minutes without a lake"]
fn d5_long_ten_minutes_without_a_lake() {
    lake_out_below_the_bound(Duration::from_secs(600));
}

/// No volume has a byte left: neither the log nor the lake can grow.
fn full(fault: &str, mounts: &[(&str, u32)], rounds: u64) {
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let mut volumes = Vec::new();
    for (mount, megabytes) in mounts {
        let Some(volume) = Volume::new(&data_dir.join(mount), *megabytes) else { return };
        volumes.push(volume);
    }
    let server = Server::start_with(&data_dir, &SMALL_SEGMENTS, &[]);
    pipeline::prepare(&server);
    let fill = || volumes.iter().map(Volume::fill).sum::<u64>();
    let (mut slowest, mut taken) = (Duration::ZERO, 0);
    let carried = carry(&server, |under| {
        for _ in 0..rounds {
            under.flows("acknowledgements before the fault", 500);
            taken += fill();
            // What is trimmed or removed is taken at once, as a neighbour on the volume would.
            under.stops(|| taken += fill());
            let said = under.problems();
            assert!(said.contains("held back"), "{said}");
            std::thread::sleep(STILL);
            let ended = Instant::now();
            volumes.iter().for_each(Volume::free);
            under.flows("acknowledgements after the fault", 500);
            wait_for("the stream to be well", RECOVERY_LIMIT, || {
                !under.problems().contains("tries again")
            });
            slowest = slowest.max(ended.elapsed());
        }
    });
    let held_back = server.metric("broker_connections_held_back_total");
    assert!(held_back >= 1.0, "no socket was held back");
    let account = audit(&server, &carried);
    let control = format!("{} MiB taken, publishers held back {held_back} times", taken >> 20);
    Row {
        fault,
        rounds,
        account: &account,
        peak_kib: server.peak_kib(),
        bound_mib: BOUND_MIB,
        recovered: Some(slowest),
        control: &control,
    }
    .settle();
}

#[test]
fn k5_full_log_and_lake_volumes_stop_acknowledgements_and_nothing_else() {
    full("log and lake volumes full", &[("journal", 24), ("lake", 64)], 1);
}

#[test]
#[ignore = "long: 10 rounds"]
fn k5_long_full_volumes() {
    full("log and lake volumes full", &[("journal", 24), ("lake", 128)], 10);
}

/// The rows' file is on it, too.
#[test]
fn k5_a_full_disk_under_everything_is_survived_without_a_restart() {
    full("the whole disk full", &[("", 96)], 1);
}

#[test]
#[ignore = "long: 10 rounds"]
fn k5_long_full_disk() {
    full("the whole disk full", &[("", 192)], 10);
}

/// QoS 0 promises nothing, but what is dropped is counted: what came is in the lake or in the
/// counter.
#[test]
fn a5_dropped_messages_of_qos_0_are_counted() {
    /// Clients that flood; their names, and how often they come.
    const FLOODS: [&str; 12] = [
        "flood-a", "flood-b", "flood-c", "flood-d", "flood-e", "flood-f", "flood-g", "flood-h",
        "flood-i", "flood-j", "flood-k", "flood-l",
    ];
    const ROUNDS_MAX: u64 = 8;
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let Some(volume) = Volume::new(&data_dir.join("lake"), 64) else { return };
    // So short that the log does not take two reads at once, and clients have some in hand that
    // they hold for it.
    let bound = ["--journal-max-bytes", "6291456", "--set", "journal.segment_bytes=196608"];
    let server = Server::start_with(&data_dir, &bound, &[]);
    pipeline::prepare(&server);
    let dropped = || server.metric_of("broker_messages_refused_total", "reason=\"journal\"");
    let (mut floods, mut rounds, mut recovered) = (Vec::new(), 0, Duration::ZERO);
    let carried = carry(&server, |under| {
        while dropped() == 0.0 {
            assert!(rounds < ROUNDS_MAX, "nothing was dropped");
            under.flows("acknowledgements before the fault", 500);
            volume.read_only();
            let told = Told::default();
            std::thread::scope(|scope| {
                let told = &told;
                let running: Vec<_> = FLOODS
                    .iter()
                    .map(|name| {
                        let load = Load {
                            broker: server.mqtt,
                            client_id: name,
                            topic: "load/flood/readings",
                            first: rounds * BLOCK,
                            qos: 0,
                            window: usize::MAX,
                            rate: None,
                            bytes: 0,
                        };
                        scope.spawn(move || load.carry(told))
                    })
                    .collect();
                let _ends = Ends(told);
                under.stops(|| ());
                // Whoever comes under the name of one that is held back ends it, and with it
                // what it had in hand.
                for name in FLOODS {
                    drop(Session::plain(server.mqtt, name).unwrap());
                }
                let ended = running.into_iter().map(|flood| flood.join().unwrap().ledger);
                floods.extend(FLOODS.into_iter().zip(ended));
            });
            rounds += 1;
            let ended = Instant::now();
            volume.writable();
            under.flows("acknowledgements after the fault", 500);
            recovered = recovered.max(ended.elapsed());
        }
    });
    let account = {
        // The floods' readings are promised to nobody.
        let names: Vec<String> = (0..carried.len()).map(|i| format!("device-{i}")).collect();
        let others = names.iter().map(String::as_str).zip(carried.iter().map(|c| &c.ledger));
        server.forebay(&pipeline::FLUSH);
        let floods = floods.iter().map(|(name, ledger)| (*name, ledger));
        account::of_objects(&data_dir.join("lake"), floods.chain(others))
    };
    let received = server.metric_of("broker_messages_received_total", "qos=\"0\"");
    let lake = account::delivered(&data_dir.join("lake"));
    let arrived = lake.keys().filter(|(device, _)| device.starts_with("flood")).count();
    let sent: usize = floods.iter().map(|(_, ledger)| ledger.sent.len()).sum();
    let dropped = dropped();
    assert_eq!(received, arrived as f64 + dropped, "of {sent} sent");
    Row {
        fault: "QoS 0 floods into a full log",
        rounds,
        account: &account,
        peak_kib: server.peak_kib(),
        bound_mib: BOUND_MIB,
        recovered: Some(recovered),
        control: &format!(
            "QoS 0: {sent} sent, {received} received = {arrived} in the lake + {dropped} counted"
        ),
    }
    .settle();
}
