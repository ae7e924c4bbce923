//! The log against a model, and against a disk that fails, fills, rots and loses its power.

use std::sync::atomic::AtomicBool;

use bytes::Bytes;

use super::*;
use crate::disk::faulty::Memory;
use crate::frame::Frame;
use crate::segment::{Head, Segment};

const SEGMENT: u64 = 16 * 1024;
const LONG: Duration = Duration::from_secs(10);

fn options(segments: u64) -> Options {
    Options { segment_bytes: SEGMENT, bytes_max: segments * SEGMENT }
}

/// Opens, and waits until it is known whether there is a next segment.
fn open(disk: &Memory, segments: u64) -> Arc<SegmentLog> {
    let log = try_open(disk, segments).unwrap();
    until("the helper has looked", || {
        log.shared.queue.is_ahead() || log.status().blocked.is_some()
    });
    log
}

fn try_open(disk: &Memory, segments: u64) -> Result<Arc<SegmentLog>> {
    SegmentLog::open_on(Arc::new(disk.clone()), options(segments), None)
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

/// Appends records one commit each, and waits until they are durable.
fn append(log: &SegmentLog, count: u64, bytes: usize) -> Offset {
    for _ in 0..count {
        let next = log.status().next;
        let appended = append_patiently(log, &batch(&[record(next.0, bytes)]));
        wait_for_all(log, appended.next());
    }
    log.durable()
}

/// Appends, trying again while the log is full.
fn append_patiently(log: &SegmentLog, batch: &Batch) -> Appended {
    let deadline = Instant::now() + LONG;
    loop {
        match log.append(batch, None) {
            Ok(appended) => return appended,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}"),
        }
        assert!(Instant::now() < deadline, "the log stays full");
        std::thread::sleep(Duration::from_micros(50));
    }
}

fn wait_for_all(log: &SegmentLog, next: Offset) {
    until("what was appended is durable", || {
        log.wait_durable(Offset(next.0 - 1), Duration::from_millis(100)) >= next
    });
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + LONG;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn read_all(
    log: &SegmentLog,
    from: Offset,
    bytes_max: usize,
) -> (Vec<(Offset, Bytes)>, Vec<Skipped>) {
    let (mut at, mut items, mut skipped) = (from, Vec::new(), Vec::new());
    let end = log.durable();
    while at < end {
        let records = log.read(at, bytes_max).unwrap();
        assert!(records.next > at, "a read at {at} got nowhere");
        items.extend(records.items);
        skipped.extend(records.skipped);
        at = records.next;
    }
    (items, skipped)
}

/// Every record read is the one its offset was given to, in order and once.
fn check_records(items: &[(Offset, Bytes)]) {
    for (offset, bytes) in items {
        assert_eq!(bytes[..8], offset.0.to_le_bytes(), "at offset {offset}");
        assert!(bytes[8..].iter().all(|byte| *byte == (offset.0 % 251) as u8), "at {offset}");
    }
    assert!(items.windows(2).all(|pair| pair[0].0 < pair[1].0));
}

/// All of `from..durable` reads back, nothing skipped.
fn check_whole(log: &SegmentLog, from: Offset, bytes_max: usize) {
    let (items, skipped) = read_all(log, from, bytes_max);
    assert_eq!(skipped, [], "from {from}");
    check_records(&items);
    assert_eq!(items.len() as u64, log.durable().0 - from.0, "from {from}");
}

fn lost(skipped: &[Skipped]) -> u64 {
    skipped.iter().map(|gap| gap.to.0 - gap.from.0).sum()
}

/// The segments, oldest first.
fn segments(log: &SegmentLog) -> Vec<SharedSegment> {
    log.shared.segments().iter().cloned().collect()
}

/// Positions and heads of all frames.
fn frames(segment: &Segment) -> Vec<(u64, Frame)> {
    let (mut expected, mut position, mut found) = (segment.head.base, PAGE_BYTES, Vec::new());
    while let Some(frame) = segment.frame_at(position, expected).unwrap() {
        found.push((position, frame));
        position += u64::from(frame.span);
        expected = frame.next();
    }
    found
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
    for bytes_max in [0, 1, 1000, 1 << 20] {
        check_whole(&log, Offset(0), bytes_max);
    }
    drop(log);
    let log = open(&disk, 100);
    assert_eq!((log.durable(), log.id()), (Offset(300), id.as_str()));
    append(&log, 10, 10);
    check_whole(&log, Offset(0), 5000);
    for from in 0..310 {
        check_whole(&log, Offset(from), 100_000);
    }
    assert_eq!(log.read(Offset(310), 100).unwrap().next, Offset(310));
    assert_eq!(log.read(Offset(311), 100).unwrap_err().kind(), ErrorKind::Invalid);
}

#[test]
fn one_commit_of_many_frames_spans_segments_and_reads_back() {
    let disk = Memory::default();
    let log = open(&disk, 100);
    append(&log, 1, 10);
    for round in 0..10u64 {
        // While a sync hangs, the next commit gathers.
        disk.faults(|faults| faults.hold_syncs = true);
        let mut last = append_patiently(&log, &batch(&[record(log.status().next.0, 100)]));
        let mut refused = 0;
        while refused == 0 {
            let next = log.status().next.0;
            let records: Vec<_> = (0..1 + round).map(|i| record(next + i, 150)).collect();
            match log.append(&batch(&records), None) {
                Ok(appended) => last = appended,
                Err(_) => refused += 1,
            }
        }
        assert!(!log.has_room());
        disk.faults(|faults| faults.hold_syncs = false);
        wait_for_all(&log, last.next());
        until("there is room", || log.has_room());
    }
    check_whole(&log, Offset(0), 3000);
    let durable = log.durable();
    drop(log);
    let log = open(&disk, 100);
    assert_eq!(log.durable(), durable);
    check_whole(&log, Offset(0), 3000);
}

#[test]
fn a_long_frame_is_closed_and_the_next_begun() {
    let disk = Memory::default();
    let options = Options { segment_bytes: 1 << 20, bytes_max: 4 << 20 };
    let log = SegmentLog::open_on(Arc::new(disk.clone()), options, None).unwrap();
    disk.faults(|faults| faults.hold_syncs = true);
    for offset in 0..400 {
        log.append(&batch(&[record(offset, 1000)]), None).unwrap();
    }
    disk.faults(|faults| faults.hold_syncs = false);
    wait_for_all(&log, Offset(400));
    let found = frames(&segments(&log)[0]);
    assert!(found.len() >= 6, "{} frames", found.len());
    assert!(found.iter().all(|(_, frame)| frame.span <= 66 * 1024));
    drop(log);
    let options = Options { segment_bytes: 1 << 20, bytes_max: 4 << 20 };
    let log = SegmentLog::open_on(Arc::new(disk), options, None).unwrap();
    check_whole(&log, Offset(0), 10_000);
}

/// A thread appends and commits cursors as the seed says, until told; says what it was told.
fn live(log: &SegmentLog, seed: &mut u64, steps: u64, consumed: &mut Offset) -> Offset {
    for _ in 0..steps {
        let count = 1 + random(seed, 4);
        let next = log.status().next.0;
        let records: Vec<_> =
            (0..count).map(|i| record(next + i, random(seed, 900) as usize)).collect();
        let appended = append_patiently(log, &batch(&records));
        if random(seed, 3) == 0 {
            wait_for_all(log, appended.next());
        }
        if random(seed, 8) == 0 {
            *consumed = (*consumed).max(Offset(random(seed, log.durable().0 + 1)));
            log.commit("stream", *consumed).unwrap();
            log.trim().unwrap();
        }
    }
    log.durable()
}

#[test]
fn a1_a3_kills_and_power_cuts_lose_nothing_durable_and_give_no_offset_twice() {
    for start in 0..80u64 {
        let mut seed = start * 7919 + 1;
        let mut disk = Memory::default();
        let (mut durable, mut consumed) = (Offset(0), Offset(0));
        for round in 0..8 {
            let log = open(&disk, 1000);
            let now = log.durable();
            assert!(now >= durable, "seed {start} round {round}: {now} after {durable}");
            check_whole(&log, log.first(), 3000);
            let steps = random(&mut seed, 30);
            durable = live(&log, &mut seed, steps, &mut consumed);
            // An orderly end, a kill, a power cut, or a kill and later a power cut.
            disk = match random(&mut seed, 4) {
                0 => {
                    drop(log);
                    disk
                }
                1 => disk.after_kill(),
                2 => disk.after_power_cut(|| random(&mut seed, 2) == 0),
                _ => {
                    let killed = disk.after_kill();
                    let served = open(&killed, 1000);
                    durable = served.durable();
                    check_whole(&served, served.first(), 2000);
                    killed.after_power_cut(|| random(&mut seed, 2) == 0)
                }
            };
        }
    }
}

#[test]
fn a1_every_change_of_the_disk_may_be_the_last() {
    // One thread that waits for each commit makes the changes come in one order, up to what
    // the helper does at the side.
    let scene = |change: Option<u64>| {
        let disk = Memory::default();
        if let Some(change) = change {
            disk.copy_before(change);
        }
        let log = open(&disk, 6);
        let mut seed = 5;
        let (mut told, mut at_copy) = (Offset(0), None);
        for step in 0..60 {
            let next = log.status().next.0;
            let size = random(&mut seed, 2500) as usize;
            wait_for_all(&log, append_patiently(&log, &batch(&[record(next, size)])).next());
            if at_copy.is_none() {
                at_copy = disk.take_copy().map(|copy| (copy, told));
            }
            told = log.durable();
            if step % 7 == 6 {
                log.commit("stream", told).unwrap();
                log.trim().unwrap();
            }
        }
        drop(log);
        at_copy.or_else(|| disk.take_copy().map(|copy| (copy, told)))
    };
    let mut reached = 0;
    for change in 1..2000 {
        let Some((copy, told)) = scene(Some(change)) else { break };
        reached = change;
        for mode in 0..4u64 {
            let mut seed = change * 31 + mode;
            let disk = match mode {
                0 => copy.after_kill(),
                1 => copy.after_power_cut(|| false),
                _ => copy.after_power_cut(|| random(&mut seed, 2) == 0),
            };
            let log = open(&disk, 6);
            assert!(log.durable() >= told, "change {change}: {} after {told}", log.durable());
            check_whole(&log, log.first(), 4000);
            log.commit("stream", log.durable()).unwrap();
            log.trim().unwrap();
            append(&log, 3, 100);
            let durable = log.durable();
            check_whole(&log, log.first(), 4000);
            drop(log);
            assert_eq!(open(&disk, 6).durable(), durable);
        }
    }
    assert!(reached > 130, "only {reached} changes were cut at");
}

#[test]
fn a3_what_was_served_after_a_kill_survives_a_power_cut() {
    let disk = Memory::default();
    let log = open(&disk, 10);
    append(&log, 5, 100);
    // The sixth is written but its sync hangs when the process dies.
    disk.faults(|faults| faults.hold_syncs = true);
    log.append(&batch(&[record(5, 100)]), None).unwrap();
    let position = log.shared.position.load(Ordering::Relaxed);
    until("it is written", || segments(&log)[0].frame_at(position, Offset(5)).unwrap().is_some());
    let killed = disk.after_kill();
    disk.faults(|faults| faults.hold_syncs = false);
    let served = open(&killed, 10);
    assert_eq!(served.durable(), Offset(6));
    check_whole(&served, Offset(0), 1000);
    let cut = open(&killed.after_power_cut(|| false), 10);
    assert_eq!(cut.durable(), Offset(6));
    check_whole(&cut, Offset(0), 1000);
}

#[test]
fn a_recycled_segment_never_serves_its_earlier_records() {
    let disk = Memory::default();
    let mut log = open(&disk, 4);
    for round in 0..30 {
        let durable = append(&log, 20, 300);
        log.commit("c", durable).unwrap();
        log.trim().unwrap();
        check_whole(&log, log.first(), 4000);
        if round % 3 == 2 {
            // Old frames lie behind the end, and the power cut tears the newest.
            log = open(&disk.after_power_cut(|| false), 4);
            assert_eq!(log.durable(), durable);
            check_whole(&log, log.first(), 4000);
            log = open(&disk.after_kill(), 4);
            assert_eq!(log.durable(), durable);
            drop(std::mem::replace(&mut log, open(&disk, 4)));
        }
    }
    assert!(log.first() > Offset(400), "files were used again: first is {}", log.first());
    let names: Vec<_> = disk.list().unwrap();
    assert!(names.len() <= 4, "{names:?}");
    let trimmed = log.read(Offset(0), 100).unwrap();
    assert_eq!(trimmed.skipped[0].reason, SkipReason::Trimmed);
    assert_eq!(trimmed.skipped[0].to, log.first());
}

#[test]
fn a_torn_tail_is_cut_to_the_last_whole_batch() {
    let disk = Memory::default();
    let log = open(&disk, 10);
    append(&log, 5, 100);
    let last = segments(&log).pop().unwrap();
    let (position, frame) = frames(&last).pop().unwrap();
    let (from, to) = (position as usize, position as usize + frame.payload_end());
    // Before the log closes and marks its end.
    let killed = disk.after_kill();
    for cut in from..to {
        for filler in [0x00, 0xa5] {
            let torn = killed.after_kill();
            torn.damage(&last.name, |bytes| bytes[cut..to].fill(filler));
            let log = open(&torn, 10);
            assert_eq!(log.durable(), Offset(4), "cut at {cut}");
            append(&log, 3, 10);
            check_whole(&log, Offset(0), 1000);
            drop(log);
            let log = open(&torn, 10);
            check_whole(&log, Offset(0), 1000);
            assert_eq!((log.durable(), log.status().corrupt_records), (Offset(7), 0));
        }
    }
}

#[test]
fn a_hole_in_an_unfinished_commit_cuts_it_and_leaves_nothing_behind() {
    let disk = Memory::default();
    let options = || Options { segment_bytes: 1 << 20, bytes_max: 4 << 20 };
    let log = SegmentLog::open_on(Arc::new(disk.clone()), options(), None).unwrap();
    append(&log, 3, 100);
    disk.faults(|faults| faults.hold_syncs = true);
    let position = log.shared.position.load(Ordering::Relaxed);
    let segment = segments(&log).pop().unwrap();
    log.append(&batch(&[record(3, 1000)]), None).unwrap();
    until("the writer is under way", || segment.frame_at(position, Offset(3)).unwrap().is_some());
    for offset in 4..403 {
        log.append(&batch(&[record(offset, 1000)]), None).unwrap();
    }
    disk.faults(|faults| faults.hold_syncs = false);
    wait_for_all(&log, Offset(403));
    let all = frames(&segment);
    let newest = all.last().unwrap().1.stable;
    let commit: Vec<_> = all.into_iter().filter(|(_, frame)| frame.stable == newest).collect();
    assert!(commit.len() >= 6, "{} frames", commit.len());
    let killed = disk.after_kill();
    for (index, (position, frame)) in commit.iter().enumerate() {
        for at in [*position, position + u64::from(frame.payload_bytes)] {
            let torn = killed.after_kill();
            torn.damage(&segment.name, |bytes| bytes[at as usize] ^= 0xff);
            let log = SegmentLog::open_on(Arc::new(torn.clone()), options(), None).unwrap();
            assert_eq!(log.durable(), frame.base, "frame {index}");
            check_whole(&log, Offset(0), 1 << 20);
            append(&log, 40, 30);
            let durable = log.durable();
            drop(log);
            let log = SegmentLog::open_on(Arc::new(torn), options(), None).unwrap();
            assert_eq!(log.durable(), durable);
            check_whole(&log, Offset(0), 1 << 20);
        }
    }
    // The same damage under the mark of an orderly end, or below a cursor, is no cut.
    let middle = commit[commit.len() / 2];
    drop(log);
    for marked in [true, false] {
        let rotten = if marked { disk.after_kill() } else { killed.after_kill() };
        rotten.damage(&segment.name, |bytes| bytes[middle.0 as usize + 9] ^= 0xff);
        if !marked {
            let mut cursors = Cursors::load(&rotten).unwrap();
            cursors.set(&rotten, "c", Offset(1), Offset(403)).unwrap();
        }
        let log = SegmentLog::open_on(Arc::new(rotten), options(), None).unwrap();
        assert_eq!(log.durable(), Offset(403));
        let (items, skipped) = read_all(&log, Offset(0), 1 << 20);
        check_records(&items);
        let gap = Skipped { from: middle.1.base, to: middle.1.next(), reason: SkipReason::Corrupt };
        assert_eq!(skipped, [gap]);
        assert_eq!(log.status().corrupt_records, u64::from(middle.1.count));
    }
}

#[test]
fn a2_a_flipped_bit_anywhere_costs_one_frame_at_most() {
    let disk = Memory::default();
    let log = open(&disk, 100);
    append(&log, 200, 200);
    let names: Vec<String> = segments(&log).iter().map(|s| s.name.clone()).collect();
    drop(log);
    let mut seed = 11;
    for round in 0..400 {
        let rotten = disk.after_kill();
        let name = &names[random(&mut seed, names.len() as u64) as usize];
        let (at, bit) = (random(&mut seed, SEGMENT) as usize, random(&mut seed, 8));
        rotten.damage(name, |bytes| bytes[at] ^= 1 << bit);
        let log = open(&rotten, 100);
        assert_eq!(log.durable(), Offset(200), "round {round}: {name} at {at}");
        let (items, skipped) = read_all(&log, Offset(0), 3000);
        check_records(&items);
        assert!(lost(&skipped) <= 1, "round {round}: {name} at {at}: {skipped:?}");
        assert_eq!(items.len() as u64 + lost(&skipped), 200);
        assert_eq!(log.status().corrupt_records, lost(&skipped));
        // Reading it again counts nothing again.
        read_all(&log, Offset(0), 500);
        assert_eq!(log.status().corrupt_records, lost(&skipped));
        append(&log, 5, 10);
        assert_eq!(log.durable(), Offset(205));
    }
}

#[test]
fn lost_swapped_and_beheaded_segments_are_gaps_and_never_a_wedge() {
    let disk = Memory::default();
    let log = open(&disk, 100);
    append(&log, 200, 200);
    let names: Vec<String> = segments(&log).iter().map(|s| s.name.clone()).collect();
    let bases: Vec<u64> = segments(&log).iter().map(|s| s.head.base.0).collect();
    drop(log);
    for (index, name) in names.iter().enumerate().skip(1).take(names.len() - 2) {
        for damage in 0..3 {
            let rotten = disk.after_kill();
            match damage {
                0 => rotten.remove(name).unwrap(),
                1 => rotten.damage(name, |bytes| bytes[..4096].fill(7)),
                _ => rotten.damage(name, |bytes| bytes.clear()),
            }
            let log = open(&rotten, 100);
            let (items, skipped) = read_all(&log, Offset(0), 3000);
            check_records(&items);
            let gap = Skipped {
                from: Offset(bases[index]),
                to: Offset(bases[index + 1]),
                reason: SkipReason::Missing,
            };
            assert_eq!(skipped, [gap]);
            assert_eq!(items.len() as u64, 200 - lost(&skipped));
            assert!(log.status().corrupt_batches > 0);
        }
    }
    let swapped = disk.after_kill();
    swapped.rename(&names[1], "aside").unwrap();
    swapped.rename(&names[2], &names[1]).unwrap();
    swapped.rename("aside", &names[2]).unwrap();
    check_whole(&open(&swapped, 100), Offset(0), 3000);
}

#[test]
fn a3_a_lost_end_is_not_given_out_again() {
    let disk = Memory::default();
    let log = open(&disk, 10);
    append(&log, 10, 50);
    log.commit("c", Offset(4)).unwrap();
    let name = segments(&log).pop().unwrap().name.clone();
    drop(log);
    // The frames are gone; a cursor's file says that ten were durable.
    let emptied = disk.after_kill();
    emptied.damage(&name, |bytes| bytes[PAGE_BYTES as usize..].fill(0));
    let log = open(&emptied, 10);
    assert_eq!(log.durable(), Offset(10));
    append(&log, 3, 20);
    let (items, skipped) = read_all(&log, Offset(0), 1000);
    check_records(&items);
    assert_eq!((items.len(), lost(&skipped)), (3, 10));
    drop(log);
    assert_eq!(open(&emptied, 10).durable(), Offset(13));
    // The head is gone too: nobody knows how many there were, so none that could be.
    for gone in [true, false] {
        let headless = disk.after_kill();
        if gone {
            headless.remove(&name).unwrap();
        } else {
            headless.damage(&name, |bytes| bytes[..4096].fill(0));
        }
        let log = open(&headless, 10);
        assert!(log.durable() >= Offset(10));
        append(&log, 1, 20);
        let records = log.read(Offset(0), 1000).unwrap();
        assert_eq!(records.items.len(), 1);
    }
}

/// Whoever trims may have come before the last cursor moved, and wait for news since.
#[test]
fn a5_a_full_log_goes_on_when_the_last_cursor_moves_and_nobody_trims() {
    for forgotten in [true, false] {
        let log = open(&Memory::default(), 3);
        log.commit("behind", Offset(0)).unwrap();
        // Not only until there is no room: that may be for the moment, while a next segment is
        // on its way or a commit is not settled.
        fill(&log, 0);
        let durable = log.durable();
        log.commit("ahead", durable).unwrap();
        assert_eq!(log.trim().unwrap(), Offset(0));
        assert!(!log.has_room());
        if forgotten {
            log.forget("behind").unwrap();
        } else {
            log.commit("behind", durable).unwrap();
        }
        until("there is room", || log.has_room());
        append(&log, 1, 500);
    }
}

/// A consumer's cursor may be far behind the end of the log when it is closed.
#[test]
fn s11_the_lost_end_of_a_closed_log_is_a_gap_and_no_silence() {
    let disk = Memory::default();
    let log = open(&disk, 10);
    append(&log, 10, 50);
    log.commit("c", Offset(4)).unwrap();
    append(&log, 10, 50);
    let name = segments(&log).pop().unwrap().name.clone();
    drop(log);
    for gone in [true, false] {
        let cut = disk.after_kill();
        if gone {
            cut.remove(&name).unwrap();
        } else {
            cut.damage(&name, |bytes| bytes.truncate(2 * PAGE_BYTES as usize));
        }
        let log = open(&cut, 10);
        assert!(log.durable() >= Offset(20), "{} is given again", log.durable());
        append(&log, 1, 20);
        let (items, skipped) = read_all(&log, Offset(0), 1000);
        check_records(&items);
        assert_eq!(items.len() as u64 + lost(&skipped), log.durable().0);
        assert!(lost(&skipped) > 0);
    }
}

#[test]
fn bytes_that_look_like_a_frame_are_never_taken_for_one() {
    let disk = Memory::default();
    let log = open(&disk, 10);
    append(&log, 2, 50);
    let before = segments(&log).pop().unwrap();
    // A publisher sends frames: for a guessed seed, and one stolen from this very segment.
    let payload = [&8u32.to_le_bytes()[..], &[1; 8]].concat();
    let mut forged = Vec::new();
    for seed in [0, 1, before.seed ^ 1] {
        let frame = Frame::new(&payload, 56, 1, Offset(4), Offset(0));
        forged.extend_from_slice(&frame.encode(seed));
        forged.extend_from_slice(&payload);
        forged.resize(forged.len().next_multiple_of(8), 0);
    }
    let (position, frame) = frames(&before)[1];
    let mut stolen = vec![0; frame.span as usize];
    before.file.read_at(&mut stolen, position).unwrap();
    forged.extend_from_slice(&stolen);
    let carrier = [&[0; 4][..], &forged].concat();
    for _ in 0..2 {
        wait_for_all(
            &log,
            log.append(&batch(std::slice::from_ref(&carrier)), None).unwrap().next(),
        );
    }
    // The chain breaks right before the carrier's payload, so that it is searched.
    let (position, _) = frames(&before)[2];
    let killed = disk.after_kill();
    killed.damage(&before.name, |bytes| bytes[position as usize] ^= 1);
    let log = open(&killed, 10);
    let (items, skipped) = read_all(&log, Offset(0), 1000);
    assert_eq!(log.durable(), Offset(4));
    assert_eq!((items.len(), lost(&skipped)), (3, 1));
    assert_eq!(items[2], (Offset(3), carrier.into()));
}

#[test]
fn a4_a_failed_sync_stops_acknowledging_for_good() {
    let disk = Memory::default();
    let log = open(&disk, 10);
    append(&log, 3, 10);
    disk.faults(|faults| faults.sync_fails = true);
    let (bell, watcher) = (Bell::new(), log.watch());
    let appended = log.append(&batch(&[record(3, 10)]), Some(&bell)).unwrap();
    until("the bells fail", || bell.failed() && watcher.failed());
    disk.faults(|faults| faults.sync_fails = false);
    let refused = log.append(&batch(&[record(4, 10)]), None).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable);
    assert_eq!(log.wait_durable(appended.first, Duration::from_millis(50)), Offset(3));
    assert!(log.status().failed.unwrap().contains("input/output error"));
    log.commit("c", Offset(3)).unwrap();
    log.trim().unwrap();
    assert!(!log.has_room() && log.watch().failed());
    assert_eq!(log.read(Offset(0), 1 << 20).unwrap().items.len(), 3);
    // The fourth is in the page cache only, and the kernel holds it for clean. Once a later
    // process serves it, not even a power cut takes it away.
    assert_eq!(open(&disk.after_power_cut(|| true), 10).durable(), Offset(3));
    let later = disk.after_kill();
    let log = open(&later, 10);
    assert_eq!(log.durable(), Offset(4));
    check_whole(&log, Offset(0), 1000);
    assert_eq!(open(&later.after_power_cut(|| false), 10).durable(), Offset(4));
}

#[test]
fn a4_a_write_that_breaks_off_is_a_failure_and_its_rest_is_cut() {
    for stop in [0, 1, 39, 40, 41, 100, 512, 600] {
        let disk = Memory::default();
        let log = open(&disk, 10);
        append(&log, 3, 10);
        disk.faults(|faults| faults.write_stops_after = Some(stop));
        let bell = Bell::new();
        log.append(&batch(&[record(3, 700)]), Some(&bell)).unwrap();
        until("the bell fails", || bell.failed());
        drop(log);
        let log = open(&disk, 10);
        assert_eq!(log.durable(), Offset(3), "stopped after {stop}");
        append(&log, 2, 10);
        check_whole(&log, Offset(0), 1000);
    }
}

#[test]
fn a_sync_that_fails_while_opening_refuses_to_open() {
    let disk = Memory::default();
    append(&open(&disk, 10), 3, 10);
    disk.faults(|faults| faults.sync_fails = true);
    assert_eq!(try_open(&disk, 10).unwrap_err().kind(), ErrorKind::Unavailable);
}

/// Appends records of 500 bytes until the log is full for a reason; says how many it took.
fn fill(log: &SegmentLog, from: u64) -> u64 {
    let mut next = from;
    until("the log is full", || {
        next = fill_up(log, next);
        // Otherwise the next segment is only on its way.
        log.status().blocked.is_some()
    });
    next
}

/// The same until it is refused for the first time.
fn fill_up(log: &SegmentLog, from: u64) -> u64 {
    let mut next = from;
    loop {
        match log.append(&batch(&[record(next, 500)]), None) {
            Ok(appended) => {
                next += 1;
                // Waits for its own records only, so that the refusal is never for slowness.
                wait_for_all(log, appended.next());
            }
            Err(full) => {
                assert_eq!(full.kind(), ErrorKind::Exhausted);
                assert!(full.to_string().contains("full"), "{full}");
                return next;
            }
        }
        assert!(next < 10_000);
    }
}

#[test]
fn a5_a_full_log_refuses_keeps_everything_and_goes_on_after_trim() {
    let disk = Memory::default();
    let log = open(&disk, 3);
    log.commit("c", Offset(0)).unwrap();
    let mut next = 0;
    for round in 0..5 {
        next = fill(&log, next);
        // Everything taken is durable although the log is full.
        assert_eq!((log.durable(), log.status().next), (Offset(next), Offset(next)));
        assert!(!log.has_room() && log.status().blocked.is_some(), "round {round}");
        assert!(log.status().bytes <= 3 * SEGMENT);
        assert!(disk.list().unwrap().len() <= 3);
        check_whole(&log, log.first(), 1 << 20);
        log.commit("c", Offset(next)).unwrap();
        log.trim().unwrap();
        until("there is room", || log.has_room());
        assert_eq!(log.status().blocked, None);
    }
    // Three segments hold 35 at first; each trim frees two of them.
    assert!(next > 120, "only {next} went through");
}

#[test]
fn publishers_are_held_back_before_anything_is_refused() {
    let disk = Memory::default();
    let log = open(&disk, 3);
    let mut room_after = 0;
    until("there is neither room nor a next segment", || {
        if log.has_room() {
            append(&log, 1, 500);
        }
        !log.has_room() && log.status().blocked.is_some()
    });
    while log.append(&batch(&[record(log.status().next.0, 500)]), None).is_ok() {
        room_after += 1;
        wait_for_all(&log, log.status().next);
    }
    assert!(room_after >= 2, "{room_after} records fitted after publishers were held back");
}

#[test]
fn k5_a_full_disk_holds_back_and_recovers_without_restart() {
    let disk = Memory::default();
    let log = open(&disk, 100);
    append(&log, 1, 500);
    disk.faults(|faults| faults.disk_full = true);
    let next = fill(&log, 1);
    assert_eq!(log.durable(), Offset(next));
    assert!(log.status().blocked.unwrap().contains("no new segment"));
    assert!(!log.has_room());
    check_whole(&log, Offset(0), 1000);
    // A log on a full disk opens, too, and reads.
    let full = disk.after_kill();
    full.faults(|faults| faults.disk_full = true);
    let opened = try_open(&full, 100).unwrap();
    assert_eq!(opened.durable(), Offset(next));
    check_whole(&opened, Offset(0), 1000);
    // What it takes, it also makes durable: nobody waits for an answer that cannot come.
    let taken = fill(&opened, next);
    assert_eq!((opened.durable(), opened.status().next), (Offset(taken), Offset(taken)));
    disk.faults(|faults| faults.disk_full = false);
    until("there is room", || log.has_room());
    append(&log, 50, 500);
    check_whole(&log, Offset(0), 1000);
}

#[test]
fn k5_nothing_is_taken_after_a_roll_before_the_next_segment_is_there() {
    let disk = Memory::default();
    let log = open(&disk, 100);
    // A helper that gets no processor, or a disk that takes long to say that it is full.
    disk.faults(|faults| (faults.hold_creates, faults.disk_full) = (true, true));
    // The log cannot be dropped before: a failure would hang.
    let released = Released(&disk);
    let next = fill_up(&log, 0);
    assert!(segments(&log).len() > 1, "{next} records fitted into the first segment");
    assert_eq!((log.durable(), log.status().next), (Offset(next), Offset(next)));
    assert!(!log.has_room());
    // Nobody knows yet that there is no room.
    assert_eq!(log.status().blocked, None);
    drop(released);
    until("there is room", || log.has_room());
    append(&log, 50, 500);
    check_whole(&log, Offset(0), 1000);
}

/// Lets a disk go on when it is dropped.
struct Released<'a>(&'a Memory);

impl Drop for Released<'_> {
    fn drop(&mut self) {
        self.0.faults(|faults| (faults.hold_creates, faults.disk_full) = (false, false));
    }
}

#[test]
fn k5_a_disk_that_takes_no_bytes_at_all_is_waited_for() {
    let disk = Memory::default();
    let log = open(&disk, 10);
    append(&log, 2, 100);
    disk.faults(|faults| faults.write_full = true);
    let appended = log.append(&batch(&[record(2, 100)]), None).unwrap();
    until("the log says so", || log.status().blocked.is_some());
    assert!(!log.has_room() && log.durable() == Offset(2));
    let refused = log.append(&batch(&[record(3, 100)]), None).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Exhausted);
    disk.faults(|faults| faults.write_full = false);
    wait_for_all(&log, appended.next());
    append(&log, 2, 100);
    check_whole(&log, Offset(0), 1000);
}

#[test]
fn closing_a_log_that_cannot_write_ends() {
    let disk = Memory::default();
    let log = open(&disk, 10);
    append(&log, 1, 100);
    disk.faults(|faults| faults.hold_syncs = true);
    let bell = Bell::new();
    let mut next = 1;
    while log.append(&batch(&[record(next, 900)]), Some(&bell)).is_ok() {
        next += 1;
    }
    disk.faults(|faults| {
        faults.disk_full = true;
        faults.write_full = true;
        faults.hold_syncs = false;
    });
    drop(log);
    assert!(bell.failed() || bell.durable() == Offset(next));
    disk.faults(|faults| (faults.disk_full, faults.write_full) = (false, false));
    check_whole(&open(&disk, 10), Offset(0), 1000);
}

#[test]
fn a_batch_that_no_segment_holds_is_refused_and_the_longest_is_taken() {
    let disk = Memory::default();
    let log = open(&disk, 10);
    let longest = (0..SEGMENT as usize)
        .rev()
        .find(|bytes| log.append(&batch(&[record(0, *bytes)]), None).is_ok())
        .unwrap();
    assert!(longest > SEGMENT as usize / 4);
    wait_for_all(&log, Offset(1));
    let refused = log.append(&batch(&[record(1, longest + 1)]), None).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    append(&log, 9, longest);
    check_whole(&log, Offset(0), 1000);
}

#[test]
fn a_lost_id_is_found_again_and_a_foreign_segment_is_refused() {
    let disk = Memory::default();
    let log = open(&disk, 10);
    append(&log, 50, 200);
    let id = log.id().to_owned();
    drop(log);
    disk.write_small("log.json", b"{").unwrap();
    let log = open(&disk, 10);
    assert_eq!(log.id(), id);
    check_whole(&log, Offset(0), 1000);
    drop(log);
    let head =
        Head { generation: 900, salt: 1, base: Offset(900), bytes: SEGMENT, log_id: [9; 16] };
    disk.create("segment-0000000000000900.log", SEGMENT)
        .unwrap()
        .write_at(&head.encode(), 0)
        .unwrap();
    assert_eq!(try_open(&disk, 10).unwrap_err().kind(), ErrorKind::Conflict);
}

#[test]
fn appenders_and_readers_at_once_keep_every_order() {
    let disk = Memory::default();
    let log = open(&disk, 40);
    log.commit("reader", Offset(0)).unwrap();
    let (threads, each) = (8u64, 300u64);
    let seen = std::thread::scope(|scope| {
        for thread in 0..threads {
            let log = &log;
            scope.spawn(move || {
                for number in 0..each {
                    let body = [thread.to_le_bytes(), number.to_le_bytes(), [7; 8]].concat();
                    let appended = append_patiently(log, &batch(&[body]));
                    if number % 50 == 0 {
                        wait_for_all(log, appended.next());
                    }
                }
            });
        }
        let reader = scope.spawn(|| {
            let (mut at, mut items) = (Offset(0), Vec::new());
            while at.0 < threads * each {
                log.wait_durable(at, Duration::from_millis(100));
                let records = log.read(at, 700).unwrap();
                assert_eq!(records.skipped, []);
                items.extend(records.items);
                at = records.next;
                log.commit("reader", at).unwrap();
                log.trim().unwrap();
            }
            items
        });
        reader.join().unwrap()
    });
    let mut last = vec![None; threads as usize];
    for (index, (offset, bytes)) in seen.iter().enumerate() {
        assert_eq!(offset.0, index as u64);
        let thread = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let number = u64::from_le_bytes(bytes[8..16].try_into().unwrap());
        assert_eq!(number, last[thread].map_or(0, |n: u64| n + 1));
        last[thread] = Some(number);
    }
    assert!(log.first() > Offset(0));
}

#[test]
fn readers_far_behind_are_not_disturbed_by_trims_and_reuse() {
    let disk = Memory::default();
    let log = open(&disk, 8);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let records = log.read(log.first(), 2000).unwrap();
                    check_records(&records.items);
                    let damaged =
                        records.skipped.iter().any(|gap| gap.reason != SkipReason::Trimmed);
                    assert!(!damaged, "{:?}", records.skipped);
                }
            });
        }
        for _ in 0..60 {
            let durable = append(&log, 10, 400);
            log.commit("c", Offset(durable.0.saturating_sub(100))).unwrap();
            log.trim().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(log.status().corrupt_records, 0);
}

#[test]
fn a_watcher_hears_every_commit_and_an_append_its_own() {
    let disk = Memory::default();
    let log = open(&disk, 10);
    let (watcher, bell) = (log.watch(), Bell::new());
    for offset in 0..20 {
        let appended = log.append(&batch(&[record(offset, 10)]), Some(&bell)).unwrap();
        until("both are rung", || {
            bell.durable() >= appended.next() && watcher.durable() >= appended.next()
        });
    }
    assert!(log.append(&Batch::new(), Some(&bell)).unwrap().count == 0);
    drop(watcher);
    append(&log, 1, 10);
    let _second = log.watch();
    assert_eq!(lock(&log.shared.watchers).len(), 1);
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
    assert!(log.first() > Offset(0) && log.first() <= Offset(60));
    check_whole(&log, log.first(), 2000);
    log.forget("c").unwrap();
    assert_eq!(log.committed("c").unwrap(), None);
    let first = log.first();
    append(&log, 100, 300);
    assert_eq!(log.trim().unwrap(), first, "without consumers nothing is dropped");
}

#[test]
fn layouts_that_cannot_work_are_refused() {
    let disk = Memory::default();
    for (segment_bytes, bytes_max) in
        [(0, 1 << 30), (8192, 1 << 30), (16_385, 1 << 30), (2 << 30, 1 << 40), (16_384, 32_767)]
    {
        let options = Options { segment_bytes, bytes_max };
        let refused = SegmentLog::open_on(Arc::new(disk.clone()), options, None).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{segment_bytes} {bytes_max}");
    }
}

#[test]
fn every_record_counts_once_among_the_receipts() {
    let log = open(&Memory::default(), 8);
    append(&log, 3, 100);
    let appended = append_patiently(&log, &batch(&[record(3, 9), record(4, 9)]));
    wait_for_all(&log, appended.next());
    let receipts = log.receipts();
    assert_eq!(receipts.records, 5);
    assert!(receipts.waited > Duration::ZERO, "nothing waited at all");
    assert!(receipts.buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{receipts:?}");
    // Opened anew, it counts from zero.
    let disk = Memory::default();
    append(&open(&disk, 8), 2, 100);
    assert_eq!(open(&disk, 8).receipts().records, 0);
}

#[test]
fn the_bytes_before_a_reader_shrink_to_nothing_as_it_moves_on() {
    let log = open(&Memory::default(), 8);
    let end = append(&log, 100, 300);
    assert!(segments(&log).len() > 2, "the log has one segment");
    let all = log.bytes_from(Offset(0));
    // A sector of 512 bytes for each, and perhaps the unused ends of segments.
    assert!((100 * 512..=100 * 512 + 4 * 1024).contains(&all), "{all} bytes");
    let mut before = all;
    for at in 1..end.0 {
        let left = log.bytes_from(Offset(at));
        assert!(left < before, "{left} bytes from {at}, {before} from the one before");
        assert!(left >= (end.0 - at) * 512, "{left} bytes from {at}");
        before = left;
    }
    assert_eq!(log.bytes_from(end), 0);
    assert_eq!(log.bytes_from(Offset(end.0 + 7)), 0);
}
