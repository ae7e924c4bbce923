//! Exponential smoothing that chooses itself (Hyndman, Koehler, Ord, Snyder 2008): level,
//! trend (none, additive, damped) and season (none, additive) with additive errors.
//!
//! ```text
//! y_t = l + phi b + s_{t-m} + e_t     l += phi b + alpha e     b = phi b + beta e     s += gamma e
//! ```
//!
//! * A series is fitted when it is forecast: nothing is shared between series.
//! * The six models' smoothing parameters minimise the squared one-step errors (Nelder-Mead,
//!   which needs no randomness); their first states are read off the first seasons. The model
//!   of the least AICc forecasts.
//! * The law of every step is normal and known in closed form; quantiles are the law's own,
//!   samples are simulated paths.
//! * A missing value corrects nothing and counts nothing. At the end of the history it is one
//!   more step ahead.
//! * Where no value was below zero, no forecast is.
//!
//! On M4 hourly it scores as the published AutoETS does. On hourly readings whose deviations
//! fade within a day the seasonal naive is often better: a level that moves stays moved.

use base::{Error, Result};

use crate::baseline::{Noise, normal_quantile};
use crate::calendar::Frequency;
use crate::predict::{Forecast, Parameters, PredictOptions, Predictor};
use crate::series::TimeSeries;

/// The most recent points that are fitted to: ten seasons, at least this many, so that a
/// request with years of minutes costs milliseconds.
const POINTS_MIN: usize = 1000;
const SEASONS: usize = 10;

/// Seasons the first states are read off.
const FIRST_SEASONS: usize = 4;

/// Errors below this share of the largest value are rounding.
const ERROR_MIN: f64 = 1e-9;

/// Automatic exponential smoothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ets {
    freq: Frequency,
    season: usize,
    prediction_length: usize,
}

impl Ets {
    /// Forecasts `prediction_length` steps; a season of 1 is none.
    pub fn new(freq: Frequency, season: usize, prediction_length: usize) -> Result<Ets> {
        if season == 0 || prediction_length == 0 {
            return Err(Error::invalid(format!(
                "exponential smoothing with a season of {season} and a horizon of {prediction_length} steps"
            )));
        }
        Ok(Ets { freq, season, prediction_length })
    }

    fn forecast(
        &self,
        series: &TimeSeries,
        index: usize,
        options: &PredictOptions,
    ) -> Result<Forecast> {
        let recent = POINTS_MIN.max(self.season.saturating_mul(SEASONS));
        let target = &series.target[series.target.len().saturating_sub(recent)..];
        let fitted = Fitted::new(target, self.season)
            .ok_or_else(|| Error::invalid(format!("{}: no observed point", series.label(index))))?;
        let nonnegative = target.iter().all(|z| z.is_nan() || *z >= 0.0);
        let bound = |z: f64| {
            let z = if nonnegative { z.max(0.0) } else { z };
            z.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32
        };
        let laws = fitted.laws(self.prediction_length);
        let at = |z: f64| laws.iter().map(|(mean, sigma)| bound(mean + z * sigma)).collect();
        let samples = options.want_samples.then(|| {
            let mut noise = Noise(options.seed.unwrap_or(0) ^ index as u64);
            let path = |_| fitted.path(self.prediction_length, &mut noise);
            let paths = (0..options.num_samples).map(path);
            paths.map(|path| path.into_iter().map(bound).collect()).collect()
        });
        let parameters = || Parameters {
            law: "gaussian",
            values: vec![
                ("mean", laws.iter().map(|(mean, _)| *mean as f32).collect()),
                ("sigma", laws.iter().map(|(_, sigma)| *sigma as f32).collect()),
            ],
        };
        Ok(Forecast {
            item_id: series.item_id.clone(),
            start: self.freq.advance(series.start, series.target.len() as i64),
            freq: self.freq,
            mean: at(0.0),
            quantiles: options.quantiles.iter().map(|q| (*q, at(normal_quantile(*q)))).collect(),
            samples,
            parameters: options.want_parameters.then(parameters),
        })
    }
}

impl Predictor for Ets {
    fn freq(&self) -> Frequency {
        self.freq
    }

    fn prediction_length(&self) -> usize {
        self.prediction_length
    }

    fn predict(&self, series: &[TimeSeries], options: &PredictOptions) -> Result<Vec<Forecast>> {
        options.validate()?;
        let each = series.iter().enumerate();
        each.map(|(index, series)| self.forecast(series, index, options)).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trend {
    None,
    Additive,
    Damped,
}

/// One of the six models.
#[derive(Clone, Copy, Debug)]
struct Form {
    trend: Trend,
    /// Steps of the season; 1 for none.
    season: usize,
}

/// Smoothing parameters.
#[derive(Clone, Copy, Debug)]
struct Smoothing {
    alpha: f64,
    beta: f64,
    gamma: f64,
    phi: f64,
}

impl Form {
    /// Numbers that are searched for.
    fn free(self) -> usize {
        let trend = match self.trend {
            Trend::None => 0,
            Trend::Additive => 1,
            Trend::Damped => 2,
        };
        1 + trend + usize::from(self.season > 1)
    }

    /// All that AICc counts: what is searched for, the first states and the errors' variance.
    fn parameters(self) -> usize {
        let season = if self.season > 1 { self.season } else { 0 };
        self.free() + 1 + usize::from(self.trend != Trend::None) + season + 1
    }

    /// Any point of the search as parameters within the usual bounds: 0 < beta < alpha < 1,
    /// 0 < gamma < 1 - alpha, 0.8 < phi < 0.98.
    fn smoothing(self, point: &[f64]) -> Smoothing {
        let mut shares = point.iter().map(|x| 1.0 / (1.0 + (-x).exp()));
        let mut next = || shares.next().unwrap_or(0.0);
        let alpha = next();
        let beta = if self.trend == Trend::None { 0.0 } else { alpha * next() };
        let phi = match self.trend {
            Trend::None => 0.0,
            Trend::Additive => 1.0,
            Trend::Damped => 0.8 + 0.18 * next(),
        };
        let gamma = if self.season > 1 { (1.0 - alpha) * next() } else { 0.0 };
        Smoothing { alpha, beta, gamma, phi }
    }
}

/// Level, trend and season after a step.
#[derive(Clone, Debug)]
struct State {
    level: f64,
    trend: f64,
    season: Vec<f64>,
    /// Where in the season the next step lies.
    phase: usize,
}

impl State {
    fn ahead(&self, smoothing: Smoothing) -> f64 {
        self.level + smoothing.phi * self.trend + self.season[self.phase]
    }

    /// Moves on by a step whose value was `error` off.
    fn step(&mut self, smoothing: Smoothing, error: f64) {
        self.level += smoothing.phi * self.trend + smoothing.alpha * error;
        self.trend = smoothing.phi * self.trend + smoothing.beta * error;
        self.season[self.phase] += smoothing.gamma * error;
        self.phase += 1;
        if self.phase == self.season.len() {
            self.phase = 0;
        }
    }

    /// Runs over `values`; the sum of the squared errors.
    fn run(&mut self, smoothing: Smoothing, values: &[f64]) -> f64 {
        let mut sum = 0.0;
        for value in values {
            let error = value - self.ahead(smoothing);
            let error = if error.is_nan() { 0.0 } else { error };
            sum += error * error;
            self.step(smoothing, error);
        }
        sum
    }

    /// The state before the first of `values`.
    fn first(form: Form, values: &[f64]) -> State {
        let m = form.season;
        let line = if m > 1 { seasons_line(values, m) } else { first_line(values) };
        let (mut level, mut trend) = line;
        let mut season = vec![0.0; m];
        if m > 1 {
            let first = &values[..values.len().min(m * FIRST_SEASONS)];
            for (k, slot) in season.iter_mut().enumerate() {
                let rest = |(j, value): (usize, &f64)| {
                    let t = (k + j * m + 1) as f64;
                    value - level - trend * t
                };
                *slot = mean(first[k..].iter().step_by(m).enumerate().map(rest)).unwrap_or(0.0);
            }
        }
        if form.trend == Trend::None {
            // The level of the first stretch, not of the time before it.
            level += trend * (m.min(values.len()) as f64 + 1.0) / 2.0;
            trend = 0.0;
        }
        State { level, trend, season, phase: 0 }
    }
}

/// Level before the first step and slope, from the means of the first seasons.
fn seasons_line(values: &[f64], m: usize) -> (f64, f64) {
    let seasons = values.chunks_exact(m).take(FIRST_SEASONS);
    let means: Vec<(f64, f64)> = seasons
        .enumerate()
        .filter_map(|(j, season)| {
            let middle = (j * m) as f64 + (m as f64 + 1.0) / 2.0;
            Some((middle, mean(season.iter().copied())?))
        })
        .collect();
    line(&means)
}

/// The same from the first ten points.
fn first_line(values: &[f64]) -> (f64, f64) {
    let observed = values.iter().enumerate().filter(|(_, value)| !value.is_nan());
    let points: Vec<(f64, f64)> =
        observed.take(10).map(|(t, value)| (t as f64 + 1.0, *value)).collect();
    line(&points)
}

/// Least squares: value at 0 and slope.
fn line(points: &[(f64, f64)]) -> (f64, f64) {
    let x_mean = mean(points.iter().map(|(x, _)| *x)).unwrap_or(0.0);
    let y_mean = mean(points.iter().map(|(_, y)| *y)).unwrap_or(0.0);
    let (mut xy, mut xx) = (0.0, 0.0);
    for (x, y) in points {
        xy += (x - x_mean) * (y - y_mean);
        xx += (x - x_mean).powi(2);
    }
    let slope = if xx > 0.0 { xy / xx } else { 0.0 };
    (y_mean - slope * x_mean, slope)
}

/// The mean of what is there.
fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let there = values.filter(|value| !value.is_nan());
    let (sum, count) = there.fold((0.0, 0u32), |(sum, count), value| (sum + value, count + 1));
    (count > 0).then(|| sum / f64::from(count))
}

/// The chosen model at the end of a history.
#[derive(Clone, Debug)]
struct Fitted {
    smoothing: Smoothing,
    /// After the last observed point.
    state: State,
    /// Standard deviation of one step's error, in units of `scale`.
    sigma: f64,
    scale: f64,
    /// Missing steps after the last observed point.
    gap: usize,
}

impl Fitted {
    /// `None` if nothing was observed.
    fn new(target: &[f32], season: usize) -> Option<Fitted> {
        let first = target.iter().position(|z| !z.is_nan())?;
        let last = target.iter().rposition(|z| !z.is_nan())?;
        let largest = target.iter().filter(|z| !z.is_nan()).map(|z| f64::from(z.abs()));
        let largest = largest.fold(0.0, f64::max);
        let scale = if largest > 0.0 { largest } else { 1.0 };
        let values: Vec<f64> = target[first..=last].iter().map(|z| f64::from(*z) / scale).collect();
        let observed = values.iter().filter(|value| !value.is_nan()).count();
        let seasons: &[usize] =
            if season > 1 && values.len() >= 2 * season { &[1, season] } else { &[1] };
        let mut best: Option<(f64, Form, Smoothing, f64)> = None;
        for season in seasons {
            for trend in [Trend::None, Trend::Additive, Trend::Damped] {
                let form = Form { trend, season: *season };
                if observed <= form.parameters() + 1 {
                    continue;
                }
                let (smoothing, sum) = search(form, &values);
                let aicc = aicc(form, sum, observed);
                if best.as_ref().is_none_or(|(least, ..)| aicc < *least) {
                    best = Some((aicc, form, smoothing, sum));
                }
            }
        }
        let (form, smoothing, sum, free) = match best {
            Some((_, form, smoothing, sum)) => (form, smoothing, sum, form.parameters()),
            // Too short for any: the last value goes on.
            None => {
                let form = Form { trend: Trend::None, season: 1 };
                let smoothing = Smoothing { alpha: 1.0, beta: 0.0, gamma: 0.0, phi: 0.0 };
                let mut state = State::first(form, &values);
                state.level = values[0];
                (form, smoothing, state.run(smoothing, &values), 1)
            }
        };
        let mut state = State::first(form, &values);
        state.run(smoothing, &values);
        let sigma = (sum / observed.saturating_sub(free).max(1) as f64).sqrt();
        Some(Fitted { smoothing, state, sigma, scale, gap: target.len() - 1 - last })
    }

    /// Mean and standard deviation of each of the next `steps`.
    fn laws(&self, steps: usize) -> Vec<(f64, f64)> {
        let mut state = self.state.clone();
        let (mut variance, mut damped, mut power) = (1.0, 0.0, 1.0);
        let mut laws = Vec::with_capacity(self.gap + steps);
        for ahead in 1..=self.gap + steps {
            let mean = state.ahead(self.smoothing);
            state.step(self.smoothing, 0.0);
            laws.push((mean * self.scale, self.sigma * self.scale * f64::sqrt(variance)));
            // What an error of now adds to the value `ahead` steps later.
            power *= self.smoothing.phi;
            damped += power;
            let seasonal = ahead % self.state.season.len() == 0;
            let weight = self.smoothing.alpha
                + self.smoothing.beta * damped
                + if seasonal { self.smoothing.gamma } else { 0.0 };
            variance += weight * weight;
        }
        laws.split_off(self.gap)
    }

    /// One simulated future.
    fn path(&self, steps: usize, noise: &mut Noise) -> Vec<f64> {
        let mut state = self.state.clone();
        let mut path = Vec::with_capacity(self.gap + steps);
        for _ in 0..self.gap + steps {
            let error = self.sigma * noise.normal();
            path.push((state.ahead(self.smoothing) + error) * self.scale);
            state.step(self.smoothing, error);
        }
        path.split_off(self.gap)
    }
}

/// Akaike's criterion with the correction for short series; `sum` of squared errors.
fn aicc(form: Form, sum: f64, observed: usize) -> f64 {
    let (n, k) = (observed as f64, form.parameters() as f64);
    let variance = (sum / n).max(ERROR_MIN * ERROR_MIN);
    n * variance.ln() + 2.0 * k + 2.0 * k * (k + 1.0) / (n - k - 1.0)
}

/// The smoothing of least squared errors, by Nelder and Mead's simplex.
fn search(form: Form, values: &[f64]) -> (Smoothing, f64) {
    const STEPS: usize = 120;
    let first = State::first(form, values);
    let cost = |point: &[f64]| {
        let sum = first.clone().run(form.smoothing(point), values);
        if sum.is_finite() { sum } else { f64::MAX }
    };
    // alpha 0.3, and a tenth of what is allowed for the others, is where hand tuning begins.
    let mut start = vec![-2.2; form.free()];
    start[0] = -0.85;
    let mut simplex: Vec<(f64, Vec<f64>)> = vec![(cost(&start), start.clone())];
    for k in 0..start.len() {
        let mut corner = start.clone();
        corner[k] += 1.5;
        simplex.push((cost(&corner), corner));
    }
    for _ in 0..STEPS {
        simplex.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (best, worst) = (simplex[0].0, simplex[simplex.len() - 1].clone());
        if worst.0 - best <= 1e-9 * best.abs() + ERROR_MIN * ERROR_MIN {
            break;
        }
        let others = &simplex[..simplex.len() - 1];
        let centre: Vec<f64> = (0..start.len())
            .map(|k| others.iter().map(|(_, point)| point[k]).sum::<f64>() / others.len() as f64)
            .collect();
        let along = |by: f64| -> (f64, Vec<f64>) {
            // Beyond 12 the shares are 0 or 1 to five digits.
            let point: Vec<f64> = centre
                .iter()
                .zip(&worst.1)
                .map(|(centre, worst)| (centre + by * (centre - worst)).clamp(-12.0, 12.0))
                .collect();
            (cost(&point), point)
        };
        let second_worst = others[others.len() - 1].0;
        let mirrored = along(1.0);
        let next = if mirrored.0 < best {
            let further = along(2.0);
            if further.0 < mirrored.0 { Some(further) } else { Some(mirrored) }
        } else if mirrored.0 < second_worst {
            Some(mirrored)
        } else {
            let inner = along(if mirrored.0 < worst.0 { 0.5 } else { -0.5 });
            (inner.0 < worst.0.min(mirrored.0)).then_some(inner)
        };
        match next {
            Some(next) => {
                let last = simplex.len() - 1;
                simplex[last] = next;
            }
            None => {
                let best = simplex[0].1.clone();
                for (value, point) in &mut simplex[1..] {
                    point.iter_mut().zip(&best).for_each(|(x, best)| *x = (*x + best) / 2.0);
                    *value = cost(point);
                }
            }
        }
    }
    simplex.sort_by(|a, b| a.0.total_cmp(&b.0));
    (form.smoothing(&simplex[0].1), simplex[0].0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ets(season: usize, horizon: usize) -> Ets {
        Ets::new(Frequency::HOURLY, season, horizon).unwrap()
    }

    fn series(target: Vec<f32>) -> TimeSeries {
        TimeSeries { target: target.into(), ..TimeSeries::default() }
    }

    fn made(ets: &Ets, target: Vec<f32>) -> Forecast {
        let options = PredictOptions { want_parameters: true, ..PredictOptions::default() };
        ets.predict(&[series(target)], &options).unwrap().remove(0)
    }

    /// Noise of unit spread, the same on every machine.
    fn noisy(len: usize, value: impl Fn(f64) -> f64, spread: f64) -> Vec<f32> {
        let mut noise = Noise(3);
        (0..len).map(|t| (value(t as f64) + spread * noise.normal()) as f32).collect()
    }

    fn close(ours: &[f32], expect: impl Fn(f64) -> f64, first: usize, within: f64) {
        for (t, z) in ours.iter().enumerate() {
            let expect = expect((first + t) as f64);
            assert!((f64::from(*z) - expect).abs() < within, "step {t}: {z} for {expect}");
        }
    }

    #[test]
    fn a_line_goes_on_and_a_season_repeats() {
        let line = |t: f64| 5.0 + 0.5 * t;
        close(&made(&ets(1, 12), noisy(200, line, 0.1)).mean, line, 200, 0.5);
        let season = |t: f64| 20.0 + 0.02 * t + 8.0 * (t / 24.0 * std::f64::consts::TAU).sin();
        close(&made(&ets(24, 48), noisy(400, season, 0.2)).mean, season, 400, 1.0);
        // Where there is neither, the level stays.
        close(&made(&ets(24, 48), noisy(400, |_| 7.0, 1.0)).mean, |_| 7.0, 400, 0.6);
    }

    #[test]
    fn gaps_are_bridged_and_widen_the_law() {
        let season = |t: f64| 20.0 + 8.0 * (t / 24.0 * std::f64::consts::TAU).sin();
        let mut target = noisy(400, season, 0.5);
        (100..150).chain((200..400).step_by(3)).for_each(|t| target[t] = f32::NAN);
        close(&made(&ets(24, 6), target.clone()).mean, season, 400, 2.0);
        target[390..].fill(f32::NAN);
        close(&made(&ets(24, 6), target).mean, season, 400, 2.0);
        let sigma =
            |target: &[f32]| made(&ets(1, 1), target.to_vec()).parameters.unwrap().values[1].1[0];
        let mut walk = walk();
        let whole = sigma(&walk);
        walk[592..].fill(f32::NAN);
        assert!((2.0..4.0).contains(&(sigma(&walk) / whole)), "{} {whole}", sigma(&walk));
    }

    /// A random walk of unit steps.
    fn walk() -> Vec<f32> {
        let (mut noise, mut level) = (Noise(9), 100.0);
        let step = |_| {
            level += noise.normal();
            level as f32
        };
        (0..600).map(step).collect()
    }

    #[test]
    fn the_law_covers_what_it_says_and_paths_follow_it() {
        // A random walk: sigma grows with the root of the steps.
        let options = PredictOptions {
            want_samples: true,
            want_parameters: true,
            num_samples: 4000,
            ..PredictOptions::default()
        };
        let forecast = ets(1, 16).predict(&[series(walk())], &options).unwrap().remove(0);
        let sigma = &forecast.parameters.as_ref().unwrap().values[1].1;
        assert!((0.8..1.2).contains(&sigma[0]), "{sigma:?}");
        assert!((3.0..5.0).contains(&(sigma[15] / sigma[0])), "{sigma:?}");
        let paths = forecast.samples.as_ref().unwrap();
        for step in [0, 15] {
            let (mean, high) = (forecast.mean[step], forecast.quantiles[8].1[step]);
            assert!((high - mean - 1.2816 * sigma[step]).abs() < 0.01);
            let below = paths.iter().filter(|path| path[step] < high).count();
            assert!((3500..3700).contains(&below), "{below}");
        }
    }

    #[test]
    fn odd_histories_give_finite_forecasts() {
        for target in [
            vec![7.0],
            vec![f32::NAN, 7.0, f32::NAN],
            vec![0.0; 100],
            vec![5.0; 100],
            vec![1.0, 2.0, 3.0],
            vec![1e20; 60],
            vec![1e-30; 60],
            vec![f32::MAX; 60],
            (0..100).map(|t| if t == 50 { 1e30 } else { 1.0 }).collect(),
            (0..100).map(|t| if t % 2 == 0 { 1e-20 } else { 1e20 }).collect(),
        ] {
            for season in [1, 24] {
                let forecast = made(&ets(season, 30), target.clone());
                let all = forecast.quantiles.iter().flat_map(|(_, values)| values);
                assert!(
                    all.chain(&forecast.mean).all(|z| z.is_finite() && *z >= 0.0),
                    "{target:?}"
                );
            }
        }
        assert_eq!(made(&ets(1, 2), vec![7.0]).mean, [7.0, 7.0]);
        let error = ets(1, 2).predict(&[series(vec![f32::NAN])], &PredictOptions::default());
        assert!(error.unwrap_err().to_string().contains("series 0: no observed point"));
        assert!(Ets::new(Frequency::HOURLY, 0, 1).is_err());
    }
}
