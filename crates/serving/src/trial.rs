//! Variants on trial: an update proves itself before the variants it replaces may go.
//!
//! From the first request that new variants answer until well after they answer all, the old
//! ones stay loaded. Whatever a new one fails, an old one answers in its stead, so that nobody
//! who asked is hurt by a bad model; and that the old one could is what condemns the new one.
//! No alarm need be declared for it:
//!
//! | condemned by | when |
//! |---|---|
//! | failures | one request on which it failed, panicked, or gave a number that is not finite or beyond all sense, and which an old variant answered |
//! | silence | three requests that an old variant answered while it took a multiple of the old one's time, and a second more |
//! | slowness | the median cost of its answers is a multiple of the old ones' median |
//! | a rehearsal | before any traffic, a request of late (or a made-up one, where there was none) on which one of the above happens |
//!
//! Whoever knows the actual values may condemn it too, and so may a person.
//!
//! Invariants
//! * A new variant runs on threads of its own: one that loops or waits takes none from others.
//! * From the moment it is condemned it gets no request.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base::{Error, ErrorKind, Result};
use bytes::Bytes;
use forecast::{Frequency, Predictor};
use tokio::sync::oneshot::Receiver;

use crate::fleet::{Asked, Fleet, LiveVariant, Made, Source, keep, locked, median};
use crate::media::Media;
use crate::pool::{Pool, Work};
use crate::route::Wheel;

/// How new variants are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Whether they are at all. Without it only declared alarms undo an update.
    pub on: bool,
    /// How long the old variants are kept, and the new ones judged, after an update has ended.
    pub probation: Duration,
    /// Many times the old variants' cost is too slow.
    pub latency_factor: u32,
    /// How long a new variant may take until an old one is asked as well.
    pub patience: Duration,
    /// How often it is asked whether the new variants' forecasts turned out worse.
    pub accuracy_every: Duration,
}

impl Default for Guard {
    fn default() -> Self {
        Guard {
            on: true,
            probation: Duration::from_secs(600),
            latency_factor: 5,
            patience: Duration::from_secs(1),
            accuracy_every: Duration::from_secs(60),
        }
    }
}

/// Answers that may be that late.
const LATE_MAX: u32 = 3;
/// Costs of a new variant that are looked at.
const COSTS: usize = 64;
/// A median below this is never too slow: a network may well follow a rule that takes next to
/// nothing.
const COST_MIN: Duration = Duration::from_millis(10);
/// How long a rehearsed request may take.
const REHEARSAL_MAX: Duration = Duration::from_secs(10);

/// What an update brings, beside what it replaces.
#[derive(Debug)]
pub(crate) struct Trial {
    pub(crate) new: Arc<Fleet>,
    pub(crate) old: Arc<Fleet>,
    pub(crate) guard: Guard,
    /// The new variants' threads.
    pub(crate) lane: Pool,
    /// Turns between old and new.
    split: Mutex<Wheel>,
    case: Mutex<Case>,
    condemned: Condvar,
}

#[derive(Debug, Default)]
struct Case {
    verdict: Option<String>,
    late: u32,
    costs: VecDeque<Duration>,
}

impl Trial {
    /// A trial in which the new variants get nothing yet.
    pub(crate) fn new(
        new: Arc<Fleet>,
        old: Arc<Fleet>,
        guard: Guard,
        threads: usize,
        queue: usize,
    ) -> Result<Trial> {
        Ok(Trial {
            new,
            old,
            guard,
            lane: Pool::new("trial", Work::Doubtful, threads, queue)?,
            split: Mutex::new(Wheel::new(vec![1.0, 0.0])?),
            case: Mutex::default(),
            condemned: Condvar::new(),
        })
    }

    fn case(&self) -> MutexGuard<'_, Case> {
        locked(&self.case)
    }

    fn split(&self) -> MutexGuard<'_, Wheel> {
        locked(&self.split)
    }

    /// Gives the new variants this share of the requests, unless they are condemned.
    pub(crate) fn shift(&self, share: f64) -> Result<()> {
        let case = self.case();
        if case.verdict.is_none() {
            *self.split() = Wheel::new(vec![1.0 - share, share])?.shuffled();
        }
        Ok(())
    }

    /// The fleet whose turn it is, and the other one.
    pub(crate) fn turn(&self) -> (&Arc<Fleet>, &Arc<Fleet>) {
        match self.split().turn() {
            0 => (&self.old, &self.new),
            _ => (&self.new, &self.old),
        }
    }

    /// The share of the requests that the new variants get.
    pub(crate) fn share(&self) -> f64 {
        self.split().share(1)
    }

    /// Condemns the new variants, for the first reason there is.
    pub(crate) fn condemn(&self, why: impl Into<String>) {
        let mut case = self.case();
        if case.verdict.is_some() {
            return;
        }
        case.verdict = Some(why.into());
        if let Ok(wheel) = Wheel::new(vec![1.0, 0.0]) {
            *self.split() = wheel;
        }
        drop(case);
        self.condemned.notify_all();
    }

    pub(crate) fn verdict(&self) -> Option<String> {
        self.case().verdict.clone()
    }

    /// Waits for a verdict, at most so long.
    pub(crate) fn wait(&self, at_most: Duration) -> Option<String> {
        let waited =
            self.condemned.wait_timeout_while(self.case(), at_most, |case| case.verdict.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.verdict.clone()
    }

    /// The old variant that answers in a new one's stead: that of the same name, or whose turn
    /// it is unless the request asked for one by name.
    pub(crate) fn stand_in(
        &self,
        for_whom: &LiveVariant,
        named: bool,
    ) -> Option<&Arc<LiveVariant>> {
        if !self.guard.on {
            return None;
        }
        let found = match self.old.named(&for_whom.name) {
            Some(same) => same,
            None if named => return None,
            None => self.old.turn(),
        };
        Some(found).filter(|found| found.has_many() == for_whom.has_many())
    }

    /// A new variant answered as it should; whether in time is seen here.
    pub(crate) fn answered(&self, variant: &LiveVariant, made: &Made) {
        if !self.guard.on {
            return;
        }
        let mut case = self.case();
        keep(&mut case.costs, made.cost(), COSTS);
        let (Some(new), Some(old)) = (median(&case.costs), self.old.usual_cost()) else { return };
        drop(case);
        if new > COST_MIN && new > old * self.guard.latency_factor {
            self.condemn(format!(
                "variant \"{}\" takes {} ms a series at the median, the variants before took {} ms; if that may be, raise serving.latency_factor",
                variant.name,
                millis(new),
                millis(old)
            ));
        }
    }

    /// A new variant failed on what an old one answered.
    pub(crate) fn failed(&self, variant: &LiveVariant, how: &str) {
        variant.counters.was_stood_in_for();
        self.condemn(format!(
            "variant \"{}\" failed on a request that the variants before answered: {how}",
            variant.name
        ));
    }

    /// A new variant had not answered after `so_far` what an old one answered within `took`.
    pub(crate) fn was_late(&self, variant: &LiveVariant, so_far: Duration, took: Duration) {
        variant.counters.was_stood_in_for();
        if so_far < took * self.guard.latency_factor + self.guard.patience {
            return;
        }
        let mut case = self.case();
        case.late += 1;
        let late = case.late;
        drop(case);
        if late >= LATE_MAX {
            self.condemn(format!(
                "variant \"{}\" left {late} requests unanswered; the last one for {} ms, which the variants before answered within {} ms",
                variant.name,
                millis(so_far),
                millis(took)
            ));
        }
    }

    /// Has every new variant answer what the old ones were asked of late, before anybody
    /// depends on it. Where nothing was asked yet, a made-up series will do.
    pub(crate) fn rehearse(&self) -> Result<()> {
        if !self.guard.on {
            return Ok(());
        }
        let real = self.old.requests();
        for variant in &self.new.variants {
            let Source::One(predictor) = &variant.source else { continue };
            // What the old variants' requests name a model for is not for this one.
            let fit = real.iter().filter(|asked| asked.target_model.is_none());
            let mut parts: Vec<(Asked, bool)> = fit.map(|asked| (asked.clone(), true)).collect();
            if parts.is_empty() {
                parts.push((made_up(&**predictor), false));
            }
            for (asked, real) in parts {
                self.rehearsed(variant, &asked, real).map_err(|error| {
                    error.context(format_args!("variant \"{}\" in rehearsal", variant.name))
                })?;
            }
        }
        Ok(())
    }

    fn rehearsed(&self, variant: &Arc<LiveVariant>, asked: &Asked, real: bool) -> Result<()> {
        let asked = Asked { arrived: Instant::now(), ..asked.clone() };
        // Not counted: nobody asked.
        let quiet = Arc::new(LiveVariant {
            name: variant.name.clone(),
            model: variant.model.clone(),
            artifact: variant.artifact.clone(),
            source: match &variant.source {
                Source::One(predictor) => Source::One(Arc::clone(predictor)),
                Source::Many(_) => return Ok(()),
            },
            counters: Arc::default(),
        });
        match waited(quiet.send(&self.lane, &asked)?) {
            Ok(made) => made.unsound.map_or(Ok(()), |how| Err(Error::internal(how))),
            // What is made up may lack what the model needs, a category for instance.
            Err(error) if !real && error.kind() == ErrorKind::Invalid => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

fn waited(mut answer: Receiver<Result<Made>>) -> Result<Made> {
    let until = Instant::now() + REHEARSAL_MAX;
    loop {
        match answer.try_recv() {
            Ok(made) => return made,
            Err(tokio::sync::oneshot::error::TryRecvError::Closed) => {
                return Err(Error::internal("the thread that answers ended"));
            }
            Err(tokio::sync::oneshot::error::TryRecvError::Empty) if Instant::now() > until => {
                let secs = REHEARSAL_MAX.as_secs();
                return Err(Error::internal(format!("it did not answer within {secs} s")));
            }
            Err(_) => std::thread::sleep(Duration::from_micros(200)),
        }
    }
}

/// A wave over two weeks of steps, or two hundred of them.
fn made_up(predictor: &dyn Predictor) -> Asked {
    let steps = if predictor.freq() == Frequency::HOURLY { 336 } else { 200 };
    let values: Vec<String> =
        (0..steps).map(|k| format!("{:.3}", 20.0 + 10.0 * (f64::from(k) / 4.0).sin())).collect();
    let series = format!(r#"{{"start":"2024-01-01 00:00:00","target":[{}]}}"#, values.join(","));
    Asked {
        body: Bytes::from(format!(r#"{{"instances":[{series}]}}"#)),
        request_media: Media::Json,
        answer_media: Media::Json,
        target_model: None,
        arrived: Instant::now(),
    }
}
