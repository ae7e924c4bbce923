//! The log against a model, and against a disk that fails, fills, rots and loses its power.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::disk::faulty::Memory;

const SEGMENT: u64 = 16 * 1024;

fn options(segments: u64) -> Options {
    Options { segment_bytes: SEGMENT, bytes_max: segments * SEGMENT }
}

fn open(disk: &Memory, segments: u64) -> Arc<SegmentLog> {
    SegmentLog::open_on(Box::new(disk.clone()), options(segments), None).unwrap()
}

fn batch(records: &[Vec<u8>]) -> Batch {
    let mut batch = Batch::new();
    for record in records {
        batch
            .push(|out| {
                out.extend_from_slice(record);
                Ok(())
            })
            .unwrap();
    }
    batch
}

/// A record that says which offset it should have.
fn record(offset: u64, bytes: usize) -> Vec<u8> {
    let mut out = offset.to_le_bytes().to_vec();
    out.resize(8 + bytes, (offset % 251) as u8);
    out
}

/// Appends `count` records and waits until they are durable.
fn append(log: &SegmentLog, count: u64, bytes: usize) -> Offset {
    for _ in 0..count {
        let next = log.status().next;
        let appended = log.append(&batch(&[record(next.0, bytes)]), None).unwrap();
        log.wait_durable(appended.first, Duration::from_secs(5));
        assert!(log.durable() >= appended.next());
    }
    log.durable()
}

fn read_all(
    log: &SegmentLog,
    from: Offset,
    bytes_max: usize,
) -> (Vec<(Offset, Bytes)>, Vec<Skipped>) {
    let (mut at, mut items, mut skipped) = (from, Vec::new(), Vec::new());
    while at < log.durable() {
        let records = log.read(at, bytes_max).unwrap();
        assert!(records.next > at, "a read at {at} got nowhere");
        items.extend(records.items);
        skipped.extend(records.skipped);
        at = records.next;
    }
    (items, skipped)
}

/// Every record read is the one its offset was given to.
fn check_records(items: &[(Offset, Bytes)]) {
    for (offset, bytes) in items {
        assert_eq!(bytes[..8], offset.0.to_le_bytes(), "at offset {offset}");
        assert!(bytes[8..].iter().all(|byte| *byte == (offset.0 % 251) as u8), "at {offset}");
    }
}

fn random(seed: &mut u64, bound: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % bound
}

#[test]
fn what_is_appended_is_read_back_across_segments_and_openings() {
    let disk = Memory::default();
    let log = open(&disk, 100);
    let id = log.id().to_owned();
    append(&log, 300, 200);
    assert!(log.status().segments > 3);
    for bytes_max in [1, 1000, 1 << 20] {
        let (items, skipped) = read_all(&log, Offset(0), bytes_max);
        assert_eq!((items.len(), skipped.len()), (300, 0));
        check_records(&items);
    }
    drop(log);
    let log = open(&disk, 100);
    assert_eq!((log.durable(), log.id()), (Offset(300), id.as_str()));
    append(&log, 10, 10);
    let (items, skipped) = read_all(&log, Offset(0), 5000);
    assert_eq!((items.len(), skipped.len()), (310, 0));
    check_records(&items);
}

#[test]
fn a1_a_power_cut_loses_nothing_durable_and_a3_gives_no_offset_twice() {
    for start in 0..60u64 {
        let mut seed = start * 7919 + 1;
        let mut disk = Memory::default();
        let (mut durable, mut consumed) = (Offset(0), Offset(0));
        for _round in 0..6 {
            let log = open(&disk, 1000);
            assert!(log.durable() >= durable, "seed {start}: {} after {durable}", log.durable());
            let (items, skipped) = read_all(&log, Offset(0), 3000);
            assert!(skipped.is_empty(), "seed {start}: {skipped:?}");
            check_records(&items);
            assert_eq!(items.len() as u64, log.durable().0);
            for _ in 0..random(&mut seed, 30) {
                let count = 1 + random(&mut seed, 4);
                let next = log.status().next.0;
                let records: Vec<_> =
                    (0..count).map(|i| record(next + i, random(&mut seed, 900) as usize)).collect();
                while let Err(full) = log.append(&batch(&records), None) {
                    assert_eq!(full.kind(), ErrorKind::Exhausted);
                    std::thread::sleep(Duration::from_micros(50));
                }
                if random(&mut seed, 3) == 0 {
                    log.wait_durable(Offset(next), Duration::from_secs(5));
                }
            }
            durable = log.durable();
            consumed = consumed.max(Offset(random(&mut seed, durable.0 + 1)));
            log.commit("stream", consumed).unwrap();
            // Some unsynced blocks reach the disk, some do not.
            disk = disk.after_power_cut(|| random(&mut seed, 2) == 0);
        }
    }
}

#[test]
fn a_recycled_segment_never_serves_its_earlier_records() {
    let disk = Memory::default();
    let log = open(&disk, 4);
    log.commit("c", Offset(0)).unwrap();
    for _ in 0..20 {
        let durable = append(&log, 40, 300);
        log.commit("c", durable).unwrap();
        log.trim().unwrap();
        let log_first = log.first();
        let (items, skipped) = read_all(&log, log_first, 4000);
        assert!(skipped.is_empty());
        check_records(&items);
    }
    let durable = log.durable();
    drop(log);
    let log = open(&disk, 4);
    assert_eq!(log.durable(), durable);
    assert!(log.first() > Offset(600), "files were used again: first is {}", log.first());
    let (items, skipped) = read_all(&log, log.first(), 4000);
    assert!(skipped.is_empty());
    check_records(&items);
    let trimmed = log.read(Offset(0), 100).unwrap();
    assert_eq!(trimmed.skipped[0].reason, SkipReason::Trimmed);
}

#[test]
fn a_torn_tail_is_cut_to_the_last_whole_batch() {
    let disk = Memory::default();
    let log = open(&disk, 10);
    append(&log, 5, 100);
    let end = lock(&log.shared.files).current().contents.end as usize;
    let name = lock(&log.shared.files).current().name.clone();
    drop(log);
    let batch_bytes = BATCH_HEAD_BYTES + PREFIX_BYTES + 108;
    for cut in end - batch_bytes..end {
        let torn = disk.after_power_cut(|| false);
        torn.damage(&name, |bytes| bytes[cut..].fill(0));
        let log = open(&torn, 10);
        // The last bytes of the record may be zero already; then nothing was torn.
        assert_eq!(log.durable(), Offset(4), "cut at {cut}");
        append(&log, 3, 10);
        let (items, skipped) = read_all(&log, Offset(0), 1000);
        assert_eq!((items.len(), skipped.len()), (7, 0));
        check_records(&items);
    }
}

#[test]
fn damage_in_the_middle_is_skipped_counted_and_never_a_wedge() {
    let disk = Memory::default();
    let log = open(&disk, 100);
    append(&log, 200, 200);
    let names: Vec<String> =
        lock(&log.shared.files).segments.iter().map(|s| s.name.clone()).collect();
    drop(log);
    for (index, name) in names.iter().enumerate().take(names.len() - 1) {
        let rotten = disk.after_power_cut(|| false);
        rotten.damage(name, |bytes| bytes[5000] ^= 0x10);
        let log = open(&rotten, 100);
        assert_eq!(log.durable(), Offset(200), "segment {index}");
        let (items, skipped) = read_all(&log, Offset(0), 3000);
        check_records(&items);
        let lost: u64 = skipped.iter().map(|gap| gap.to.0 - gap.from.0).sum();
        assert_eq!(lost, 1, "segment {index}: {skipped:?}");
        assert_eq!(items.len() as u64 + lost, 200);
        assert!(log.status().corrupt_records >= 1);
    }
    // A whole segment lost, and one with a damaged head.
    for damage in [true, false] {
        let rotten = disk.after_power_cut(|| false);
        if damage {
            rotten.damage(&names[1], |bytes| bytes[3] ^= 1);
        } else {
            rotten.remove(&names[1]).unwrap();
        }
        let log = open(&rotten, 100);
        let (items, skipped) = read_all(&log, Offset(0), 3000);
        check_records(&items);
        assert_eq!(skipped.len(), 1);
        assert_eq!(skipped[0].reason, SkipReason::Missing);
        assert_eq!(items.len() as u64 + skipped[0].to.0 - skipped[0].from.0, 200);
    }
}

#[test]
fn a_lost_tail_that_a_consumer_has_seen_is_not_given_out_again() {
    let disk = Memory::default();
    let log = open(&disk, 10);
    append(&log, 10, 50);
    log.commit("c", Offset(10)).unwrap();
    let name = lock(&log.shared.files).current().name.clone();
    drop(log);
    disk.damage(&name, |bytes| bytes[HEAD_BYTES as usize..].fill(0));
    let log = open(&disk, 10);
    let appended = log.append(&batch(&[record(10, 1)]), None).unwrap();
    assert_eq!(appended.first, Offset(10));
    log.wait_durable(Offset(10), Duration::from_secs(5));
    let (items, skipped) = read_all(&log, Offset(0), 1000);
    assert_eq!(items.len(), 1);
    check_records(&items);
    assert_eq!(skipped.iter().map(|gap| gap.to.0 - gap.from.0).sum::<u64>(), 10);
}

#[test]
fn a4_a_failed_sync_stops_acknowledging_for_good() {
    let disk = Memory::default();
    let log = open(&disk, 10);
    append(&log, 3, 10);
    disk.faults(|faults| faults.sync_fails = true);
    let bell = Bell::new();
    let watcher = log.watch();
    let appended = log.append(&batch(&[record(3, 10)]), Some(&bell)).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while !bell.failed() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(bell.failed() && watcher.failed());
    disk.faults(|faults| faults.sync_fails = false);
    assert_eq!(
        log.append(&batch(&[record(4, 10)]), None).unwrap_err().kind(),
        ErrorKind::Unavailable
    );
    assert_eq!(log.wait_durable(appended.first, Duration::from_millis(50)), Offset(3));
    assert!(log.status().failed.is_some() && !log.has_room());
    assert_eq!(log.read(Offset(0), 1 << 20).unwrap().items.len(), 3);
}

#[test]
fn a5_a_full_log_refuses_keeps_everything_and_goes_on_after_trim() {
    let disk = Memory::default();
    let log = open(&disk, 3);
    log.commit("c", Offset(0)).unwrap();
    let mut accepted = 0;
    let refused = loop {
        match log.append(&batch(&[record(accepted, 500)]), None) {
            Ok(_) => accepted += 1,
            Err(error) => break error,
        }
        if accepted % 3 == 0 {
            std::thread::sleep(Duration::from_micros(200));
        }
        assert!(accepted < 10_000);
    };
    assert_eq!(refused.kind(), ErrorKind::Exhausted);
    assert!(accepted > 40, "only {accepted} fitted");
    std::thread::sleep(Duration::from_millis(150));
    let durable = log.durable();
    let (items, _) = read_all(&log, Offset(0), 1 << 20);
    check_records(&items);
    log.commit("c", durable).unwrap();
    log.trim().unwrap();
    log.wait_durable(Offset(accepted - 1), Duration::from_secs(5));
    assert_eq!(log.durable(), Offset(accepted));
    log.commit("c", log.durable()).unwrap();
    log.trim().unwrap();
    assert!(log.has_room());
    append(&log, 5, 100);
}

#[test]
fn a_full_disk_holds_back_and_recovers_without_restart() {
    let disk = Memory::default();
    let log = open(&disk, 100);
    disk.faults(|faults| faults.disk_full = true);
    let mut accepted = 0;
    while log.append(&batch(&[record(accepted, 500)]), None).is_ok() {
        accepted += 1;
        if accepted % 4 == 0 {
            std::thread::sleep(Duration::from_micros(300));
        }
        assert!(accepted < 10_000);
    }
    assert!(log.status().blocked.unwrap().contains("no space"));
    assert!(!log.has_room() && log.durable() < Offset(accepted));
    disk.faults(|faults| faults.disk_full = false);
    log.wait_durable(Offset(accepted - 1), Duration::from_secs(5));
    assert_eq!(log.durable(), Offset(accepted));
    let (items, skipped) = read_all(&log, Offset(0), 1 << 20);
    assert_eq!((items.len() as u64, skipped.len()), (accepted, 0));
    check_records(&items);
}

#[test]
fn appenders_and_readers_at_once_keep_every_order() {
    let disk = Memory::default();
    let log = open(&disk, 2000);
    let (threads, each) = (8u64, 200u64);
    let done = AtomicUsize::new(0);
    let seen = std::thread::scope(|scope| {
        for thread in 0..threads {
            let (log, done) = (&log, &done);
            scope.spawn(move || {
                let bell = Bell::new();
                for number in 0..each {
                    let body = [thread.to_le_bytes(), number.to_le_bytes()].concat();
                    let appended = log.append(&batch(&[body]), Some(&bell)).unwrap();
                    if number % 50 == 0 {
                        log.wait_durable(appended.first, Duration::from_secs(5));
                    }
                }
                done.fetch_add(1, Ordering::SeqCst);
            });
        }
        let reader = scope.spawn(|| {
            let (mut at, mut items) = (Offset(0), Vec::new());
            while at.0 < threads * each {
                log.wait_durable(at, Duration::from_millis(100));
                let records = log.read(at, 700).unwrap();
                items.extend(records.items);
                at = records.next;
            }
            items
        });
        reader.join().unwrap()
    });
    let mut last = vec![None; threads as usize];
    for (index, (offset, bytes)) in seen.iter().enumerate() {
        assert_eq!(offset.0, index as u64);
        let thread = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let number = u64::from_le_bytes(bytes[8..].try_into().unwrap());
        assert_eq!(number, last[thread].map_or(0, |n: u64| n + 1));
        last[thread] = Some(number);
    }
}

#[test]
fn a_real_folder_keeps_its_word_and_admits_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let log = SegmentLog::open(folder.path(), options(50)).unwrap();
    let second = SegmentLog::open(folder.path(), options(50)).unwrap_err();
    assert_eq!(second.kind(), ErrorKind::Conflict);
    append(&log, 100, 300);
    log.commit("c", Offset(60)).unwrap();
    assert_eq!(log.commit("c", Offset(50)).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(log.commit("d", Offset(101)).unwrap_err().kind(), ErrorKind::Invalid);
    log.trim().unwrap();
    drop(log);
    let log = SegmentLog::open(folder.path(), options(50)).unwrap();
    assert_eq!(log.committed("c").unwrap(), Some(Offset(60)));
    let (items, skipped) = read_all(&log, log.first(), 2000);
    assert!(skipped.is_empty() && log.first() > Offset(0) && log.first() <= Offset(60));
    check_records(&items);
    log.forget("c").unwrap();
    assert_eq!(log.committed("c").unwrap(), None);
}
