//! The variants of a configuration, loaded; and one request on its way through one of them.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base::{Error, ErrorKind, Result};
use bytes::Bytes;
use forecast::{Forecast, Frequency, Predictor, TimeSeries};
use tokio::sync::oneshot;

use crate::counters::Counters;
use crate::media::Media;
use crate::pool::Pool;
use crate::request::{Configuration, Request, Shape};
use crate::route::Wheel;
use crate::shelf::Folder;
use crate::{answer, batch};

/// Where a variant's models come from.
pub(crate) enum Source {
    One(Arc<dyn Predictor>),
    Many(Folder),
}

/// A variant in memory.
pub(crate) struct LiveVariant {
    pub(crate) name: String,
    /// The model's name, and the name of its file, which no other model ever has.
    pub(crate) model: String,
    pub(crate) artifact: String,
    pub(crate) source: Source,
    pub(crate) counters: Arc<Counters>,
}

impl std::fmt::Debug for LiveVariant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LiveVariant").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A variant that gets copies, and the turns at which it does.
#[derive(Debug)]
pub(crate) struct Shadow {
    pub(crate) variant: Arc<LiveVariant>,
    share: Mutex<Wheel>,
}

/// All variants of a configuration, loaded.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) config: String,
    pub(crate) variants: Vec<Arc<LiveVariant>>,
    pub(crate) shadows: Vec<Shadow>,
    wheel: Mutex<Wheel>,
    memory: Mutex<Memory>,
}

/// Costs that are remembered.
const COSTS: usize = 256;
/// Requests that are remembered, and the largest of them.
const REQUESTS: usize = 8;
const REQUEST_BYTES_MAX: usize = 64 * 1024;

/// What a fleet did of late: what those who are to take its place are measured by.
#[derive(Debug, Default)]
struct Memory {
    costs: VecDeque<Duration>,
    requests: VecDeque<Asked>,
}

/// The lock, whatever became of those who had it: every change under one is whole.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Fleet {
    /// `shadows` come with the share of the requests that is copied to them.
    pub(crate) fn new(
        config: &str,
        variants: Vec<Arc<LiveVariant>>,
        wheel: Wheel,
        shadows: Vec<(Arc<LiveVariant>, f64)>,
    ) -> Result<Fleet> {
        let shadow = |(variant, share): (Arc<LiveVariant>, f64)| {
            let share = Mutex::new(Wheel::new(vec![1.0 - share, share])?.shuffled());
            Ok(Shadow { variant, share })
        };
        Ok(Fleet {
            config: config.to_owned(),
            variants,
            shadows: shadows.into_iter().map(shadow).collect::<Result<_>>()?,
            wheel: Mutex::new(wheel),
            memory: Mutex::default(),
        })
    }

    /// The variant whose turn it is.
    pub(crate) fn turn(&self) -> &Arc<LiveVariant> {
        &self.variants[locked(&self.wheel).turn()]
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Arc<LiveVariant>> {
        self.variants.iter().find(|variant| variant.name == name)
    }

    /// The shadows that get a copy of this request.
    pub(crate) fn shadows_due(&self) -> impl Iterator<Item = &Shadow> {
        self.shadows.iter().filter(|shadow| locked(&shadow.share).turn() == 1)
    }

    pub(crate) fn share_by(&self, wheel: Wheel) {
        *locked(&self.wheel) = wheel;
    }

    /// Remembers a request that was answered well.
    pub(crate) fn remember(&self, asked: &Asked, made: &Made) {
        let mut memory = locked(&self.memory);
        keep(&mut memory.costs, made.cost(), COSTS);
        if asked.body.len() <= REQUEST_BYTES_MAX {
            keep(&mut memory.requests, asked.clone(), REQUESTS);
        }
    }

    /// The middle one of the remembered costs, where there are enough of them.
    pub(crate) fn usual_cost(&self) -> Option<Duration> {
        median(&locked(&self.memory).costs)
    }

    /// Requests of late.
    pub(crate) fn requests(&self) -> Vec<Asked> {
        locked(&self.memory).requests.iter().cloned().collect()
    }
}

/// Costs it takes for their median to mean something.
const COSTS_MIN: usize = 20;

/// The middle one, if there are enough.
pub(crate) fn median(costs: &VecDeque<Duration>) -> Option<Duration> {
    let mut sorted: Vec<Duration> = costs.iter().copied().collect();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().filter(|_| sorted.len() >= COSTS_MIN)
}

/// Adds to what is kept, of which the oldest gives way.
pub(crate) fn keep<T>(kept: &mut VecDeque<T>, one: T, most: usize) {
    if kept.len() >= most {
        kept.pop_front();
    }
    kept.push_back(one);
}

/// What a request asks, whoever answers it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) body: Bytes,
    pub(crate) request_media: Media,
    pub(crate) answer_media: Media,
    pub(crate) target_model: Option<String>,
    pub(crate) arrived: Instant,
}

/// A number so many times larger than any in the history is no forecast.
const BEYOND: f32 = 10_000.0;

fn unsound(series: &[TimeSeries], forecasts: &[Forecast]) -> Option<&'static str> {
    if !forecasts.iter().all(Forecast::is_finite) {
        return Some("it gave a number that is not finite");
    }
    let absurd = |(series, forecast): (&TimeSeries, &Forecast)| {
        let seen = series.target.iter().fold(0.0, |most: f32, value| most.max(value.abs()));
        let quantiles = forecast.quantiles.iter().flat_map(|(_, values)| values);
        seen > 0.0 && forecast.mean.iter().chain(quantiles).any(|v| v.abs() / BEYOND > seen)
    };
    let absurd = series.iter().zip(forecasts).any(absurd);
    absurd.then_some("it gave a number ten thousand times larger than any in the history")
}

/// What a variant made of a request.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) body: Vec<u8>,
    pub(crate) series: usize,
    /// The step of the model that made it.
    pub(crate) freq: Frequency,
    num_samples: usize,
    /// What is wrong with its numbers, if anything is.
    pub(crate) unsound: Option<&'static str>,
    /// What the model took, with reading the request and writing the answer.
    pub(crate) took: Duration,
}

impl Made {
    /// What it took for each series and a hundred samples: comparable between requests.
    pub(crate) fn cost(&self) -> Duration {
        let hundreds = self.series.max(1) as f64 * (self.num_samples as f64 / 100.0).max(1.0);
        self.took.div_f64(hundreds)
    }
}

impl LiveVariant {
    /// Sends a request to a thread of `pool`. Whoever drops the receiver calls it off.
    pub(crate) fn send(
        self: &Arc<Self>,
        pool: &Pool,
        asked: &Asked,
    ) -> Result<oneshot::Receiver<Result<Made>>> {
        self.counters.arrived();
        let (reply, answer) = oneshot::channel();
        let (variant, asked) = (Arc::clone(self), asked.clone());
        match pool.submit(move || variant.run(&asked, reply)) {
            Ok(()) => Ok(answer),
            Err(error) => {
                self.counters.failed(error.kind());
                Err(error)
            }
        }
    }

    fn run(&self, asked: &Asked, reply: oneshot::Sender<Result<Made>>) {
        if reply.is_closed() {
            return self.counters.failed(ErrorKind::Unavailable);
        }
        let started = Instant::now();
        let made = self.guarded(asked, || !reply.is_closed()).map(|mut made| {
            made.took = started.elapsed();
            made
        });
        if reply.is_closed() {
            return self.counters.failed(ErrorKind::Unavailable);
        }
        match &made {
            Ok(made) => self.counters.answered(made.series, asked.arrived.elapsed(), made.took),
            Err(error) => self.counters.failed(error.kind()),
        }
        if made.as_ref().is_ok_and(|made| made.unsound.is_some()) {
            self.counters.was_unsound();
        }
        if reply.send(made).is_err() {
            tracing::debug!("the client left while its answer was on the way");
        }
    }

    /// As [`LiveVariant::answer`]; a panic is an error.
    fn guarded(&self, asked: &Asked, go_on: impl Fn() -> bool) -> Result<Made> {
        catch_unwind(AssertUnwindSafe(|| self.answer(asked, go_on)))
            .unwrap_or_else(|_| Err(Error::internal("the model panicked")))
    }

    fn answer(&self, asked: &Asked, go_on: impl Fn() -> bool) -> Result<Made> {
        let named;
        let predictor = match &self.source {
            Source::One(predictor) => &**predictor,
            Source::Many(folder) => {
                let name = asked.target_model.as_deref().unwrap_or_default();
                named = folder.get(name, &self.counters)?;
                &*named
            }
        };
        let shape = Shape::of(predictor);
        let request = match asked.request_media {
            Media::Json => Request::parse(&asked.body, shape)?,
            Media::JsonLines => Request::parse_lines(&asked.body, Configuration::default(), shape)?,
        };
        let place = |k: usize| format!("instances[{k}]");
        let options = request.configuration.options();
        let forecasts = batch::predict(predictor, &request.series, &options, place, go_on)?;
        Ok(Made {
            body: answer::write(&forecasts, &request.configuration, asked.answer_media)?,
            series: forecasts.len(),
            freq: shape.freq,
            num_samples: options.num_samples,
            unsound: unsound(&request.series, &forecasts),
            took: Duration::ZERO,
        })
    }

    /// Whether it has many models, of which a request must name one.
    pub(crate) fn has_many(&self) -> bool {
        matches!(self.source, Source::Many(_))
    }
}
