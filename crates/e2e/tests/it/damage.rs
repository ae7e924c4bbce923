//! A stopped log is damaged: what lies outside the damage is delivered, what lies inside is
//! counted and said aloud, and nothing is ever missing in silence.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use e2e::account::{self, BLOCK};
use e2e::mqtt::{self, Ledger};
use e2e::row::Row;
use e2e::{Random, Server};

use crate::peers::newcomer;

/// A frame takes batches until it is 64 KiB long, and a batch is at most one read of as many
/// bytes: damage to one byte may cost that much around it, and the sector that follows.
const AROUND: u64 = 132 * 1024;

const SEGMENT_BYTES: u64 = 512 * 1024;
const SEGMENTS: [&str; 2] = ["--set", "journal.segment_bytes=524288"];
/// As for full volumes.
const BOUND_MIB: u64 = 128;

const KINDS: [&str; 7] = [
    "a flipped bit",
    "a zeroed sector",
    "a truncated tail",
    "a duplicated block",
    "a deleted file",
    "two swapped files",
    "a stale file put back",
];

/// What was done to a log.
struct Damage {
    what: String,
    /// Per file, what may be unreadable.
    ranges: Vec<(PathBuf, Range<u64>)>,
}

/// Where each reading's record lies.
type Places = BTreeMap<u64, (PathBuf, u64)>;

/// Segments as they were in earlier rounds.
type Stale = Vec<(PathBuf, Vec<u8>)>;

fn segments(journal: &Path) -> Vec<PathBuf> {
    let mut files = e2e::files_below(journal);
    files.retain(|file| file.file_name().unwrap().to_string_lossy().starts_with("segment-"));
    files
}

/// Finds the readings of a device in the segments' bytes, by their text.
fn places(journal: &Path, device: &str) -> Places {
    let mark = format!("{{\"device\":\"{device}\",\"seq\":").into_bytes();
    let mut places = Places::new();
    for file in segments(journal) {
        let bytes = std::fs::read(&file).unwrap();
        let mut at = 0;
        while let Some(found) = find(&bytes[at..], &mark) {
            let start = at + found + mark.len();
            let digits = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            let seq = String::from_utf8_lossy(&bytes[start..start + digits]).parse().unwrap();
            places.insert(seq, (file.clone(), (at + found) as u64));
            at = start;
        }
    }
    places
}

fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    let first = mark[0];
    let mut at = 0;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == first)?;
        if bytes[at..].starts_with(mark) {
            return Some(at);
        }
        at += 1;
    }
}

/// Damages the log at a random place among the readings of this round.
fn damage(kind: &str, places: &Places, stale: &Stale, random: &mut Random) -> Damage {
    let mut used: BTreeMap<&Path, Range<u64>> = BTreeMap::new();
    for (file, at) in places.values() {
        let range = used.entry(file).or_insert(*at..*at);
        *range = range.start.min(*at)..range.end.max(*at + 100);
    }
    let files: Vec<(&Path, Range<u64>)> = used.into_iter().collect();
    let mut pick = || files[random.below(files.len() as u64) as usize].clone();
    let (file, range) = pick();
    let (other, other_range) = pick();
    let mut bytes = std::fs::read(file).unwrap();
    let mut place = |range: &Range<u64>| range.start + random.below(range.end - range.start);
    let at = place(&range);
    let name = |file: &Path| file.file_name().unwrap().to_string_lossy().into_owned();
    let what = format!("{kind} at byte {at} of {} (and {})", name(file), name(other));
    let hit = |range: Range<u64>| vec![(file.to_owned(), range)];
    let ranges = match kind {
        "a flipped bit" => {
            bytes[at as usize] ^= 1 << (at % 8);
            hit(at..at + 1)
        }
        "a zeroed sector" => {
            let start = at / 512 * 512;
            let end = (start + 512).min(bytes.len() as u64);
            bytes[start as usize..end as usize].fill(0);
            hit(start..end)
        }
        "a truncated tail" => {
            bytes.truncate(at as usize);
            hit(at..SEGMENT_BYTES)
        }
        "a duplicated block" => {
            let from = place(&other_range) / 4096 * 4096;
            let start = at / 4096 * 4096;
            let source = std::fs::read(other).unwrap();
            let block = &source[from as usize..(from as usize + 4096).min(source.len())];
            bytes[start as usize..start as usize + block.len()].copy_from_slice(block);
            hit(start..start + 4096)
        }
        "a deleted file" => {
            std::fs::remove_file(file).unwrap();
            return Damage { what, ranges: hit(0..SEGMENT_BYTES) };
        }
        // The heads tell who they are, whatever the names say.
        "two swapped files" => {
            let aside = file.with_extension("aside");
            std::fs::rename(file, &aside).unwrap();
            if other != file {
                std::fs::rename(other, file).unwrap();
            }
            std::fs::rename(&aside, other).unwrap();
            return Damage { what, ranges: Vec::new() };
        }
        // It was trimmed since; its generation is an old one.
        "a stale file put back" => {
            let (file, bytes) = stale.iter().find(|(file, _)| !file.exists()).unwrap();
            std::fs::write(file, bytes).unwrap();
            return Damage { what, ranges: Vec::new() };
        }
        other => panic!("{other}"),
    };
    std::fs::write(file, bytes).unwrap();
    Damage { what, ranges }
}

fn corrupt(rounds: u64) {
    let seed = e2e::seed(11);
    let mut random = Random(seed);
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let journal = data_dir.join("journal");
    let mut server = Server::start_with(&data_dir, &SEGMENTS, &[]);
    // Delivers when it is told to, so that the log holds the whole round when it is damaged.
    let late = ["--interval-secs", "900", "--size-mb", "128", "--gzip"];
    server.forebay(&[&["stream", "create", "readings", "--prefix", "raw/"], &late[..]].concat());
    let sql = "SELECT * FROM 'load/+/readings'";
    server.forebay(&["rule", "create", "readings", "--sql", sql, "--stream", "readings"]);
    let (mut whole, mut found) = (Ledger::default(), HashMap::<u64, u64>::new());
    let (mut read, mut kinds) = (HashSet::new(), BTreeMap::new());
    let (mut inside, mut counted, mut noticed, mut seen) = (0, 0, 0, 0);
    let (mut peak_kib, mut slowest, mut stale) = (0, Duration::ZERO, Stale::new());
    for round in 0..rounds {
        let kind = KINDS[(round % KINDS.len() as u64) as usize];
        if kind == "a stale file put back" {
            // Once everybody has passed them, old segments go; a delivery says when to look.
            let first = server.metric("journal_first_offset");
            e2e::wait_for("the log to be trimmed", Duration::from_secs(60), || {
                newcomer(&server);
                server.forebay(&["stream", "flush", "readings"]);
                server.metric("journal_first_offset") > first
            });
        }
        let device = format!("device-{round}");
        let count = 8_000 + random.below(8_000);
        let limit = Duration::from_secs(30);
        let first = round * BLOCK;
        let topic = "load/0/readings";
        let ledger = mqtt::publish(server.mqtt, &device, topic, first, count, 200, limit);
        assert_eq!(ledger.acknowledged.len() as u64, count, "round {round}");
        server.stop();
        peak_kib = peak_kib.max(server.peak_kib());
        drop(server);
        let places = places(&journal, &device);
        assert_eq!(places.len() as u64, count, "round {round}: not all of it is in the log");
        *kinds.entry(kind).or_insert(0) += 1;
        let done = damage(kind, &places, &stale, &mut random);
        let oldest = segments(&journal).into_iter().take(1);
        stale.extend(oldest.map(|file| (file.clone(), std::fs::read(&file).unwrap())));
        stale.truncate(8);
        let what = format!(
            "round {round}: {}, seed {seed} (replay with FOREBAY_TEST_SEED={seed})",
            done.what
        );
        let started = Instant::now();
        server = Server::try_start(&data_dir, &SEGMENTS, &[])
            .unwrap_or_else(|said| panic!("{what}: {said}"));
        slowest = slowest.max(started.elapsed());
        server.forebay(&["stream", "flush", "readings"]);
        let lost_before = counted;
        counted = server.metric("delivery_records_lost_total") as u64;
        // What lies there does not change: each object is read once.
        let mut fresh = e2e::files_below(&data_dir.join("lake"));
        fresh.retain(|file| read.insert(file.clone()));
        let lake = account::delivered_in(fresh);
        for ((_, seq), times) in &lake {
            *found.entry(*seq).or_default() += times;
        }
        let missing: Vec<u64> = (first..first + count)
            .filter(|seq| !lake.contains_key(&(device.clone(), *seq)))
            .collect();
        let lost = counted - lost_before;
        // Never a silent gap: whatever is missing was counted, and said.
        assert!(missing.len() as u64 <= lost, "{what}: {} missing, {lost} counted", missing.len());
        if lost > 0 {
            let log = server.log();
            assert!(log.contains("log records are lost to this stream"), "{what}: {log}");
            noticed += 1;
        }
        seen += u64::from(!missing.is_empty());
        for seq in &missing {
            let (file, at) = &places[seq];
            let near = done.ranges.iter().any(|(hit, range)| {
                hit == file && (range.start.saturating_sub(AROUND)..range.end + AROUND).contains(at)
            });
            assert!(near, "{what}: {seq} at {at} of {} is far from it", file.display());
        }
        inside += missing.len();
        let missing: HashSet<u64> = missing.into_iter().collect();
        whole.sent.extend(&ledger.sent);
        whole.acknowledged.extend(ledger.acknowledged.iter().filter(|seq| !missing.contains(seq)));
        for seq in first..first + count {
            let times = lake.get(&(device.clone(), seq)).copied().unwrap_or(0);
            assert!(times <= 1, "{what}: {seq} is there {times} times");
        }
    }
    println!("damages: {kinds:?}");
    // Not every damage hits what a reader needs: swapped names never do, padding does not.
    assert!(seen * 2 >= rounds, "only {seen} of {rounds} damages cost anything: too tame");
    let mut account = account::Account::default();
    account.compare(&whole, &found);
    Row {
        fault: "corrupt segment",
        rounds,
        account: &account,
        peak_kib: peak_kib.max(server.peak_kib()),
        bound_mib: BOUND_MIB,
        recovered: Some(slowest),
        control: &format!(
            "{seen} damages cost {inside} readings in the damaged places, {counted} counted, \
             {noticed} times said"
        ),
    }
    .settle();
}

#[test]
fn s11_a_damaged_log_gives_all_that_lies_outside_the_damage_and_counts_the_rest() {
    corrupt(21);
}

#[test]
#[ignore = "long: 200 rounds"]
fn s11_long_200_damages() {
    corrupt(200);
}
