//! Measures durable appends: `cargo run --release -p journal --example appends -- FOLDER [SECONDS]`.
//!
//! Twenty threads each append 5 records of 250 bytes, wait until they are on stable storage,
//! and start over; then one reader goes through the whole log. Prints rates, the latency of a
//! receipt, and CPU seconds per million records, client threads included.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use base::{Error, Offset, Result};
use journal::{Batch, Bell, Journal, Options, SegmentLog};

const THREADS: usize = 20;
const RECORDS: u64 = 5;
const RECORD_BYTES: usize = 250;

struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Appends and waits until `until`; returns how many records, and how long each receipt took.
fn publish(log: &SegmentLog, until: Instant) -> Result<(u64, Vec<Duration>)> {
    let (bell, mut batch, mut count, mut waits) = (Bell::new(), Batch::new(), 0, Vec::new());
    while Instant::now() < until {
        batch.clear();
        for _ in 0..RECORDS {
            batch.push(|out| {
                out.resize(out.len() + RECORD_BYTES, b'x');
                Ok(())
            })?;
        }
        let start = Instant::now();
        let appended = log.append(&batch, Some(&bell))?;
        block_on(bell.past(appended.next()))?;
        waits.push(start.elapsed());
        count += appended.count;
    }
    Ok((count, waits))
}

/// User and system seconds of this process so far; Linux counts them in hundredths.
fn cpu_seconds() -> f64 {
    cpu_seconds_in(&std::fs::read_to_string("/proc/self/stat").unwrap_or_default())
}

/// The same of the log's own threads.
fn log_cpu_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    stats.filter(|stat| stat.contains("(journal")).map(|stat| cpu_seconds_in(&stat)).sum()
}

fn cpu_seconds_in(stat: &str) -> f64 {
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0
}

#[expect(clippy::print_stdout, reason = "a measurement prints its figures")]
fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments
        .next()
        .map(PathBuf::from)
        .ok_or_else(|| Error::invalid("name a folder for the log: appends FOLDER [SECONDS]"))?;
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(5);
    let start = Instant::now();
    let log = SegmentLog::open(&folder, Options::default())?;
    println!("opened in {:.1} ms", start.elapsed().as_secs_f64() * 1e3);

    let (start, cpu, log_cpu) = (Instant::now(), cpu_seconds(), log_cpu_seconds());
    let first = log.durable();
    let until = start + Duration::from_secs(seconds);
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| publish(&log, until))).collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let (mut count, mut waits) = (0, Vec::new());
    for outcome in outcomes {
        let published = outcome.map_err(|_panic| Error::internal("a publisher panicked"))??;
        count += published.0;
        waits.extend(published.1);
    }
    let (took, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let log_cpu = log_cpu_seconds() - log_cpu;
    waits.sort();
    let wait = |share: f64| waits[(share * (waits.len() - 1) as f64) as usize].as_secs_f64() * 1e3;
    println!(
        "{:.0} durable records/s, {:.2} CPU s per million ({:.2} in the log's threads), {:.0} records a commit, receipt p50 {:.2} ms p99 {:.2} ms p99.9 {:.2} ms",
        count as f64 / took,
        cpu / count as f64 * 1e6,
        log_cpu / count as f64 * 1e6,
        count as f64 / log.status().commits as f64,
        wait(0.5),
        wait(0.99),
        wait(0.999),
    );

    let (start, cpu, mut at) = (Instant::now(), cpu_seconds(), first);
    let mut read = 0;
    while at < log.durable() {
        let records = log.read(at, 1 << 20)?;
        read += records.items.len();
        at = records.next;
    }
    let (took, cpu) = (start.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    println!(
        "{:.0} records/s read back, {:.2} CPU s per million",
        read as f64 / took,
        cpu / read as f64 * 1e6
    );
    let at: Offset = log.durable();
    drop(log);
    let start = Instant::now();
    let log = SegmentLog::open(&folder, Options::default())?;
    println!("opened again at {at} in {:.1} ms", start.elapsed().as_secs_f64() * 1e3);
    drop(log);
    Ok(())
}
