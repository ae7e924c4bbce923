//! Opens what an earlier process left, however it ended.
//!
//! Opening is a durability event. After a crash of the process, or a failed sync, the page
//! cache may show bytes that never reached the disk and that no later sync would write,
//! because the kernel holds them for clean. Served and then lost with the power, their
//! offsets would be given twice. So the frames that may be in that state are written again,
//! in place, and synced before anything is served. They are the frames of the last commit:
//! every frame says what was stable when it was written, the writer makes one commit at a
//! time, and after a failed sync it writes no more. Writing the same bytes to the same place
//! needs no space, so a log opens on a full disk too.
//!
//! A last commit with a hole was cut short by a crash and never acknowledged: it is cut to
//! its last whole frame, and what is behind the cut is blanked. If a later frame, the mark of
//! an orderly end or the cursors' file prove that it was acknowledged, the hole is damage
//! instead: the rest is kept and the hole is reported when it is read.
//!
//! Only the last segment is walked here; the others are when they are read.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use base::{Error, ErrorKind, Offset, Result};

use crate::Options;
use crate::batch::PREFIX_BYTES;
use crate::disk::Disk;
use crate::frame::{Frame, align_up};
use crate::log::random;
use crate::segment::{Head, PAGE_BYTES, Segment, SharedSegment};
use crate::supply::{Blank, FIRST_BYTES, segment_name, spare_name};

const META_FILE: &str = "log.json";
/// Bytes written again at a time.
const COPY_BYTES: usize = 1024 * 1024;

/// A log as found, repaired.
pub(crate) struct Recovered {
    pub(crate) log_id: [u8; 16],
    pub(crate) segments: VecDeque<SharedSegment>,
    pub(crate) spares: Vec<Blank>,
    /// The offset the next record gets.
    pub(crate) next: Offset,
    /// Where the next frame goes in the last segment; its length if it takes no more.
    pub(crate) position: u64,
    /// The next number for a file.
    pub(crate) number: u64,
    /// Segments that could not be used.
    pub(crate) corrupt: u64,
}

/// What a walk over the last segment found.
struct Tail {
    next: Offset,
    position: u64,
}

/// The files of a folder, by kind.
#[derive(Default)]
struct Found {
    segments: Vec<Segment>,
    spares: Vec<Blank>,
    headless: Vec<Headless>,
    number: u64,
}

/// A segment that has lost both copies of its head.
struct Headless {
    name: String,
    number: u64,
    bytes: u64,
}

/// Reads the folder and repairs the tail. Offsets below `promised` are not given again.
pub(crate) fn recover(disk: &dyn Disk, options: &Options, promised: Offset) -> Result<Recovered> {
    let failed = |e: io::Error| Error::io("open the journal", e);
    let mut found = find_files(disk, options).map_err(failed)?;
    let log_id = load_id(disk, &found)?;
    if let Some(foreign) = found.segments.iter().find(|segment| segment.head.log_id != log_id) {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("journal/{} belongs to another log; move it away", foreign.name),
        ));
    }
    found.segments.sort_by_key(|segment| (segment.head.base, segment.head.generation));
    set_aside(disk, &found.headless).map_err(failed)?;
    let mut segments: VecDeque<_> = found.segments.into_iter().map(Arc::new).collect();
    // What a lost last segment held was given out, and each record took at least its length.
    let newest = segments.back().map_or(0, |segment| segment.head.generation);
    let behind = found.headless.iter().filter(|lost| lost.number > newest);
    let lost_max: u64 = behind.map(|lost| lost.bytes / PREFIX_BYTES as u64).sum();
    let (next, position);
    if let Some(last) = segments.back() {
        let tail = repair(last, promised).map_err(failed)?;
        next = tail.next.plus(lost_max).max(promised);
        // Offsets in a segment have no gaps, so after lost ones the next segment starts.
        position = if next == tail.next { tail.position } else { last.bytes };
        if next > tail.next {
            let (from, to) = (tail.next.0, next.0);
            tracing::error!(from, to, "the end of the journal is lost; its offsets are not reused");
        }
    } else {
        (next, position) = (promised.plus(lost_max), PAGE_BYTES);
        let bytes = FIRST_BYTES.min(options.segment_bytes);
        let first = first_segment(disk, &mut found.number, log_id, next, bytes).map_err(failed)?;
        segments.push_back(Arc::new(first));
    }
    Ok(Recovered {
        log_id,
        segments,
        spares: found.spares,
        next,
        position,
        number: found.number,
        corrupt: found.headless.len() as u64,
    })
}

fn find_files(disk: &dyn Disk, options: &Options) -> io::Result<Found> {
    let mut found = Found::default();
    let mut names = disk.list()?;
    names.sort();
    for name in names {
        let Some((kind, number)) = parse_name(&name) else { continue };
        found.number = found.number.max(number + 1);
        let file = disk.open(&name)?;
        let bytes = file.len()?;
        match kind {
            "spare" if bytes == options.segment_bytes => {
                found.spares.push(Blank { name, bytes, file });
            }
            "spare" => disk.remove(&name)?,
            _ => {
                let mut page = vec![0; PAGE_BYTES.min(bytes) as usize];
                file.read_at(&mut page, 0)?;
                match Head::decode(&page) {
                    Some(head) => {
                        found.number = found.number.max(head.generation + 1);
                        let bytes = bytes / PAGE_BYTES * PAGE_BYTES;
                        found.segments.push(Segment::new(name, head, bytes, file));
                    }
                    None => found.headless.push(Headless { name, number, bytes }),
                }
            }
        }
    }
    Ok(found)
}

fn parse_name(name: &str) -> Option<(&str, u64)> {
    let (kind, number) = name.strip_suffix(".log")?.split_once('-')?;
    matches!(kind, "segment" | "spare").then_some(())?;
    Some((kind, number.parse().ok()?))
}

/// Renames segments that have lost both copies of their head: without it no frame can be told
/// from an old one. Their records show as a gap.
fn set_aside(disk: &dyn Disk, headless: &[Headless]) -> io::Result<()> {
    for Headless { name, bytes, .. } in headless {
        tracing::error!(%name, bytes, "a segment of the journal lost its head; it is set aside");
        disk.rename(name, &format!("damaged-{name}"))?;
    }
    Ok(())
}

fn first_segment(
    disk: &dyn Disk,
    number: &mut u64,
    log_id: [u8; 16],
    base: Offset,
    bytes: u64,
) -> io::Result<Segment> {
    let (spare, generation) = (spare_name(*number), *number + 1);
    *number += 2;
    let file = disk.create(&spare, bytes)?;
    let head = Head { generation, salt: random(), base, bytes, log_id };
    file.write_at(&head.encode(), 0)?;
    file.sync()?;
    let name = segment_name(generation);
    disk.rename(&spare, &name)?;
    Ok(Segment::new(name, head, bytes, file))
}

/// Finds the end of the last segment, and makes the last commit stable or cuts it.
fn repair(segment: &Segment, promised: Offset) -> io::Result<Tail> {
    let (mut expected, mut position) = (segment.head.base, PAGE_BYTES);
    // The frames of the last commit, and the first hole among them.
    let mut commit: Vec<(u64, Frame)> = Vec::new();
    let mut hole: Option<(u64, Offset)> = None;
    let mut commit_start = (position, expected);
    loop {
        let step = match segment.frame_at(position, expected)? {
            Some(frame) => Some((position, frame)),
            None => segment.search(position, expected, Offset(u64::MAX))?,
        };
        let Some((at, frame)) = step else { break };
        if commit.first().is_none_or(|(_, first)| frame.stable > first.stable) {
            commit.clear();
            hole = None;
            commit_start = (position, expected);
        }
        // A hole below what this frame, or a consumer, knew to be stable is damage.
        if at != position && expected >= frame.stable.max(promised) && hole.is_none() {
            hole = Some((position, expected));
        }
        segment.note(frame.base, at);
        commit.push((at, frame));
        position = at + u64::from(frame.span);
        expected = frame.next();
    }
    let seen_end = position;
    for (at, frame) in &commit {
        if hole.is_some_and(|(hole, _)| hole <= *at) {
            break;
        }
        if frame.base >= frame.stable.max(promised) && !segment.is_whole(*at, frame)? {
            hole = Some((*at, frame.base));
        }
    }
    let (end, next) = hole.unwrap_or((position, expected));
    if let Some((at, offset)) = hole {
        tracing::warn!(%offset, position = at, "an unfinished commit is cut off");
    }
    rewrite(segment, commit_start.0, end)?;
    blank(segment, end, seen_end)?;
    segment.file.sync()?;
    Ok(Tail { next, position: end })
}

/// Writes the bytes from `start` to `end` again, as they are.
fn rewrite(segment: &Segment, start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut at = start;
    while at < end {
        let length = (end - at).min(COPY_BYTES as u64) as usize;
        let bytes = &mut buffer[..length];
        segment.file.read_at(bytes, at)?;
        segment.file.write_at(bytes, at)?;
        at += length as u64;
    }
    Ok(())
}

/// Writes zeros from `end` over what was seen behind it, to the end of the page at least.
fn blank(segment: &Segment, end: u64, seen_end: u64) -> io::Result<()> {
    let until = align_up(seen_end.max(end), PAGE_BYTES).min(segment.bytes);
    let zeros = vec![0; COPY_BYTES];
    let mut at = end;
    while at < until {
        let length = (until - at).min(COPY_BYTES as u64) as usize;
        segment.file.write_at(&zeros[..length], at)?;
        at += length as u64;
    }
    Ok(())
}

/// The log's id, made at random when the log is. Every segment holds it too, so a lost file
/// is written again.
fn load_id(disk: &dyn Disk, found: &Found) -> Result<[u8; 16]> {
    let failed = |e: io::Error| Error::io(format!("open the journal's {META_FILE}"), e);
    let stored = disk.read_small(META_FILE).map_err(failed)?;
    let read = stored.as_deref().and_then(|bytes| {
        let value: serde_json::Value = serde_json::from_slice(bytes).ok()?;
        unhex(value.get("id")?.as_str()?)
    });
    if let Some(id) = read {
        return Ok(id);
    }
    let kept = found.segments.last().map(|segment| segment.head.log_id);
    if kept.is_none() && stored.is_some() {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("journal/{META_FILE} is not readable, and no segment tells the log's id"),
        ));
    }
    let id = kept.unwrap_or_else(|| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&random().to_le_bytes());
        id[8..].copy_from_slice(&random().to_le_bytes());
        id
    });
    let meta = serde_json::json!({"id": hex(&id), "format": 2});
    disk.write_small(META_FILE, meta.to_string().as_bytes()).map_err(failed)?;
    Ok(id)
}

pub(crate) fn hex(id: &[u8; 16]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    let mut id = [0; 16];
    for (at, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(id)
}
