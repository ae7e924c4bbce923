//! A load at a fixed rate, whatever the server does: every request is due at a moment of its own
//! and timed from it, so that a server that stalls is charged for all that it kept waiting.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::signed::{Answer, Connection};

/// What one request came to.
#[derive(Clone, Debug)]
pub struct Done {
    /// When it was due, from the load's beginning.
    pub due: Duration,
    /// From then to the last byte of its answer.
    pub latency: Duration,
    /// What was answered, or why nothing was.
    pub outcome: Result<Seen, String>,
}

/// An answer, as its judge saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// 200 and so on.
    pub status: u16,
    /// Who answered, in the judge's words; what was wrong where it was no valid answer.
    pub by: Result<String, String>,
}

/// Makes the n-th request.
type Make = dyn Fn(u64) -> Vec<u8> + Send + Sync;
/// Says who made the answer to the n-th, or why it is none.
type Judge = dyn Fn(u64, &Answer) -> Result<String, String> + Send + Sync;

/// A load that is running.
pub struct Load {
    began: Instant,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    address: SocketAddr,
    rate: f64,
    make: Box<Make>,
    judge: Box<Judge>,
    next: AtomicU64,
    stop: AtomicBool,
    done: Mutex<Vec<Done>>,
}

impl Load {
    /// Begins to send `rate` requests a second, on as many connections as are needed but at most
    /// `connections`: with all of them waiting for answers, further requests are late.
    pub fn start(
        address: SocketAddr,
        rate: f64,
        connections: usize,
        make: impl Fn(u64) -> Vec<u8> + Send + Sync + 'static,
        judge: impl Fn(u64, &Answer) -> Result<String, String> + Send + Sync + 'static,
    ) -> Load {
        let shared = Arc::new(Shared {
            address,
            rate,
            make: Box::new(make),
            judge: Box::new(judge),
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            done: Mutex::default(),
        });
        let began = Instant::now();
        let client = |_| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.send(began))
        };
        let threads = (0..connections).map(client).collect();
        Load { began, shared, threads }
    }

    /// How long it has been running.
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Lets it run for a while.
    pub fn run_for(&self, lasting: Duration) -> (Duration, Duration) {
        let from = self.now();
        std::thread::sleep(lasting);
        (from, self.now())
    }

    /// What came back so far.
    pub fn report(&self) -> Report {
        Report(self.shared.done.lock().unwrap().clone())
    }

    /// Sends no more, waits for what is under way, and tells what everything came to.
    pub fn finish(self) -> Report {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        let mut done = std::mem::take(&mut *self.shared.done.lock().unwrap());
        done.sort_by_key(|one| one.due);
        Report(done)
    }
}

impl Shared {
    fn send(&self, began: Instant) {
        let mut kept: Option<Connection> = None;
        loop {
            let turn = self.next.fetch_add(1, Ordering::SeqCst);
            let due = Duration::from_secs_f64(turn as f64 / self.rate);
            std::thread::sleep(due.saturating_sub(began.elapsed()));
            if self.stop.load(Ordering::SeqCst) {
                return;
            }
            let asked = kept.take().map_or_else(|| Connection::open(self.address), Ok);
            let answered = asked.and_then(|mut connection| {
                let answer = connection.ask(&(self.make)(turn))?;
                kept = Some(connection);
                Ok(answer)
            });
            let latency = began.elapsed().saturating_sub(due);
            let outcome = match answered {
                Ok(answer) => Ok(Seen { status: answer.status, by: (self.judge)(turn, &answer) }),
                Err(error) => Err(error.to_string()),
            };
            self.done.lock().unwrap().push(Done { due, latency, outcome });
        }
    }
}

/// What a load came to, in the order in which its requests were due.
#[derive(Clone, Debug)]
pub struct Report(pub Vec<Done>);

impl Report {
    /// Those due within a time.
    #[must_use]
    pub fn within(&self, (from, to): (Duration, Duration)) -> Report {
        let inside = self.0.iter().filter(|one| (from..to).contains(&one.due));
        Report(inside.cloned().collect())
    }

    /// Those that were answered with one of these.
    #[must_use]
    pub fn with_status(&self, statuses: &[u16]) -> Report {
        let has =
            |one: &&Done| one.outcome.as_ref().is_ok_and(|seen| statuses.contains(&seen.status));
        Report(self.0.iter().filter(has).cloned().collect())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What went wrong, and how often.
    pub fn failures(&self) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for one in &self.0 {
            let wrong = match &one.outcome {
                Ok(Seen { by: Ok(_), .. }) => continue,
                Ok(Seen { status, by: Err(why) }) => format!("{status}: {why}"),
                Err(why) => why.clone(),
            };
            *found.entry(wrong).or_default() += 1;
        }
        found
    }

    /// Who answered how often.
    pub fn by(&self) -> BTreeMap<String, usize> {
        let mut found = BTreeMap::new();
        for one in &self.0 {
            if let Ok(Seen { by: Ok(name), .. }) = &one.outcome {
                *found.entry(name.clone()).or_default() += 1;
            }
        }
        found
    }

    /// The latency that a share of them stayed below.
    pub fn latency(&self, share: f64) -> Duration {
        let mut all: Vec<Duration> = self.0.iter().map(|one| one.latency).collect();
        all.sort_unstable();
        let last = all.len().saturating_sub(1);
        all.get((last as f64 * share) as usize).copied().unwrap_or_default()
    }

    /// Panics unless every request got a valid answer.
    #[track_caller]
    pub fn assert_all_answered(&self, what: &str) {
        let failures = self.failures();
        assert!(!self.is_empty(), "{what}: nothing was asked");
        assert!(failures.is_empty(), "{what}: of {} requests {failures:?}", self.len());
    }

    /// Panics unless `name` answered a share that a fair draw would give it in all but one of
    /// some ten thousand cases: four standard deviations of the binomial distribution.
    #[track_caller]
    pub fn assert_share(&self, name: &str, share: f64) {
        let by = self.by();
        let (found, all) = (by.get(name).copied().unwrap_or(0) as f64, self.len() as f64);
        assert!(all >= 100.0, "{all} requests are too few to tell a share");
        let most = 4.0 * (all * share * (1.0 - share)).sqrt();
        assert!(
            (found - all * share).abs() <= most,
            "{name} answered {found} of {all}, not {share} of them: {by:?}"
        );
    }
}
