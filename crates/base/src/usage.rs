//! What this process costs: CPU seconds and resident memory, read from `/proc`.
//!
//! Elsewhere than on Linux the figures are zero, which every caller shows as unknown.

/// Ticks a second in `/proc/*/stat`: fixed at 100 by Linux's user interface.
const TICKS_PER_SECOND: f64 = 100.0;

/// User and system seconds of this process.
pub fn cpu_seconds() -> f64 {
    stat_fields("/proc/self/stat").map_or(0.0, |fields| ticks(&fields, 11..13))
}

/// User and system seconds of this process, of the children it has waited for, and of those
/// still running.
pub fn cpu_seconds_with_children() -> f64 {
    let own = stat_fields("/proc/self/stat").map_or(0.0, |fields| ticks(&fields, 11..15));
    own + children().map(|child| ticks(&child.fields, 11..15)).sum::<f64>()
}

/// User and system seconds of another process, `None` when it is gone.
pub fn cpu_seconds_of(pid: u32) -> Option<f64> {
    stat_fields(&format!("/proc/{pid}/stat")).map(|fields| ticks(&fields, 11..13))
}

/// User and system seconds of this process's living threads with one of these names. Linux keeps
/// 15 bytes of a name.
pub fn cpu_seconds_of_threads(names: &[&str]) -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of = |task: std::fs::DirEntry| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        names.contains(&name.trim_end()).then_some(())?;
        // Nanoseconds on a processor come first.
        let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        stat.split_whitespace().next()?.parse::<f64>().ok()
    };
    tasks.filter_map(of).sum::<f64>() / 1e9
}

/// The most resident memory this process ever had.
pub fn peak_rss_bytes() -> u64 {
    status_bytes("/proc/self/status", "VmHWM:")
}

/// Resident memory of this process now.
pub fn rss_bytes() -> u64 {
    status_bytes("/proc/self/status", "VmRSS:")
}

/// Resident memory of another process now, zero when it is gone.
pub fn rss_bytes_of(pid: u32) -> u64 {
    status_bytes(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// The most resident memory another process ever had, zero once it has ended.
pub fn peak_rss_bytes_of(pid: u32) -> u64 {
    status_bytes(&format!("/proc/{pid}/status"), "VmHWM:")
}

/// Whether another process has ended. Until its parent waits for it, its CPU seconds can be
/// read, and are all that it took.
pub fn has_ended(pid: u32) -> bool {
    let state = stat_fields(&format!("/proc/{pid}/stat"));
    state.is_none_or(|fields| matches!(fields.first().map(String::as_str), Some("Z" | "X")))
}

/// Resident memory of this process and its children now.
pub fn rss_bytes_with_children() -> u64 {
    rss_bytes() + children().map(|child| rss_bytes_of(child.pid)).sum::<u64>()
}

struct Child {
    pid: u32,
    fields: Vec<String>,
}

/// Direct children, found by their parent's id.
fn children() -> impl Iterator<Item = Child> {
    let own = std::process::id().to_string();
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter_map(|pid| Some(Child { pid, fields: stat_fields(&format!("/proc/{pid}/stat"))? }))
        .filter(move |child| child.fields.get(1).is_some_and(|parent| *parent == own))
}

/// The fields after the command's name, which may itself hold spaces and brackets.
fn stat_fields(path: &str) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(path).ok()?;
    let (_name, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(str::to_owned).collect())
}

fn ticks(fields: &[String], range: std::ops::Range<usize>) -> f64 {
    let ticks: u64 =
        fields.get(range).into_iter().flatten().filter_map(|f| f.parse::<u64>().ok()).sum();
    ticks as f64 / TICKS_PER_SECOND
}

fn status_bytes(path: &str, field: &str) -> u64 {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    let kib: u64 = line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
    kib * 1024
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn work_shows_by_the_name_of_its_thread() {
        let work = || {
            let mut sum = 1_u64;
            for round in 0..30_000_000_u64 {
                sum = std::hint::black_box(sum.wrapping_mul(31) ^ round);
            }
            let seen = ["usage-worker", "usage-other"].map(|name| cpu_seconds_of_threads(&[name]));
            (seen, sum)
        };
        let thread = std::thread::Builder::new().name("usage-worker".to_owned()).spawn(work);
        let ([worker, other], _) = thread.unwrap().join().unwrap();
        assert!(worker > 0.001, "{worker} s");
        assert!(other.abs() < f64::EPSILON, "{other} s of a thread that is not there");
    }

    #[test]
    fn work_and_memory_show() {
        let before = cpu_seconds();
        let mut held = vec![1u8; 64 << 20];
        for round in 0..40u8 {
            held.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(31).wrapping_add(round));
        }
        assert!(cpu_seconds() > before, "no CPU time seen");
        assert!(peak_rss_bytes() >= 64 << 20, "{} bytes", peak_rss_bytes());
        assert!(rss_bytes_with_children() >= rss_bytes() / 2);
        assert_ne!(held[7], 0x55);
    }
}
