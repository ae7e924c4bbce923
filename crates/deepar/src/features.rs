//! What the network sees of a series: lags, the calendar, age, known features, scale.
//!
//! The tables follow GluonTS, which is the public description of DeepAR's features.
//!
//! Invariants
//! * The inputs of step t use the target before t only.
//! * Inputs come in this order: lags ascending, then age, calendar, known features. So the
//!   inputs that differ between sample paths, the lags no longer than the path, come first.

use forecast::{DateTime, Frequency, TimeSeries, Unit};

use crate::hyper::{Hyperparameters, ScalingMethod};

/// The delays whose values are inputs, ascending, for series at `freq`.
///
/// 1 to 7, then a few steps around one, two, three... of each natural cycle: hours, days,
/// weeks, months, years, up to 1200 steps.
pub(crate) fn lags(freq: Frequency) -> Vec<usize> {
    const LAG_MAX: u64 = 1200;
    let count = u64::from(freq.count());
    let mut found: Vec<u64> = (1..=7).collect();
    // 1 to `cycles` times `units` of the frequency's unit, and `around` steps on either side.
    let mut cycle = |units: u64, cycles: u64, around: u64| {
        for k in 1..=cycles {
            let middle = k * units / count;
            let near = middle.saturating_sub(around)..=middle + around;
            found.extend(near.filter(|lag| (8..=LAG_MAX).contains(lag)));
        }
    };
    match freq.unit() {
        Unit::Minute => {
            cycle(60, 3, 2);
            cycle(1440, 7, 1);
            cycle(10_080, 4, 1);
        }
        Unit::Hour => {
            cycle(24, 7, 1);
            cycle(168, 4, 1);
            cycle(720, 1, 1);
        }
        Unit::Day => {
            cycle(7, 4, 1);
            cycle(30, 1, 1);
            cycle(28, 3, 0);
            cycle(364, 3, 1);
        }
        Unit::Week => {
            cycle(4, 3, 0);
            cycle(52, 3, 1);
        }
        Unit::Month => cycle(12, 3, 1),
    }
    found.sort_unstable();
    found.dedup();
    found.into_iter().map(|lag| lag as usize).collect()
}

/// Calendar features at a frequency.
pub(crate) fn calendar_len(freq: Frequency) -> usize {
    match freq.unit() {
        Unit::Minute => 5,
        Unit::Hour => 4,
        Unit::Day => 3,
        Unit::Week => 2,
        Unit::Month => 1,
    }
}

/// The calendar features of `time`, each from -0.5 to 0.5, into the front of `out`.
pub(crate) fn calendar(freq: Frequency, time: DateTime, out: &mut [f32; 5]) {
    let p = time.parts();
    let place = |index: u32, count: u32| index as f32 / (count - 1) as f32 - 0.5;
    let minute = place(p.minute, 60);
    let hour = place(p.hour, 24);
    let weekday = place(p.weekday, 7);
    let day = place(p.day - 1, 31);
    let day_of_year = place(p.day_of_year - 1, 366);
    *out = match freq.unit() {
        Unit::Minute => [minute, hour, weekday, day, day_of_year],
        Unit::Hour => [hour, weekday, day, day_of_year, 0.0],
        Unit::Day => [weekday, day, day_of_year, 0.0, 0.0],
        Unit::Week => [day, place(time.iso_week() - 1, 53), 0.0, 0.0, 0.0],
        Unit::Month => [place(p.month - 1, 12), 0.0, 0.0, 0.0, 0.0],
    };
}

/// How raw series become inputs; part of the model.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Scaling {
    /// Scale of a series that has no observation of its own.
    pub(crate) scale_default: f32,
    /// Mean of ln scale over the training series, and its spread (at least 0.5).
    pub(crate) log_scale_mean: f32,
    pub(crate) log_scale_spread: f32,
    /// Mean and spread of each known feature.
    pub(crate) feature_mean: Vec<f32>,
    pub(crate) feature_spread: Vec<f32>,
    /// What a window with few observations of its own is taken for, if windows are centred.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) typical: Option<Typical>,
}

/// The training series' mean and deviation, averaged over them.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Typical {
    pub(crate) mean: f32,
    pub(crate) deviation: f32,
    /// Deviation as a share of the mean absolute value.
    pub(crate) share: f32,
}

/// How the values of a window become inputs and targets of the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// As they are.
    Raw,
    /// Divided by the mean absolute value of the context.
    Mean,
    /// Less the mean, divided by the mean absolute deviation from it, both over a stretch that
    /// may be longer than the context.
    Standard,
}

impl Framing {
    /// How `hyper` wants windows framed.
    pub(crate) fn of(hyper: &Hyperparameters) -> Framing {
        match hyper.scaling {
            _ if !hyper.likelihood.is_scaled() => Framing::Raw,
            ScalingMethod::Mean => Framing::Mean,
            ScalingMethod::Standard => Framing::Standard,
        }
    }
}

/// Of one window: the network sees `(z - shift) / scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Frame {
    pub(crate) shift: f32,
    pub(crate) scale: f32,
}

impl Frame {
    /// Into the network's units.
    pub(crate) fn enter(self, z: f32) -> f64 {
        (f64::from(z) - f64::from(self.shift)) / f64::from(self.scale)
    }

    /// Back into the target's units, kept finite.
    pub(crate) fn leave(self, y: f32) -> f32 {
        (y * self.scale + self.shift).clamp(f32::MIN, f32::MAX)
    }
}

/// Scales stay in this range, so that neither they nor their inverse overflow.
const SCALE_RANGE: (f32, f32) = (1e-30, 1e30);

/// A window never counts as smaller than this share of its series: a stretch of zeros would
/// otherwise have scale 0 and an unbounded loss.
const SCALE_FLOOR: f32 = 0.01;

/// The same for deviations: a sensor that stood still for a week moves on at its own pace.
const DEVIATION_FLOOR: f32 = 0.1;

/// The typical deviation counts as much as so many observations of the window's own.
const DEVIATION_PRIOR: f64 = 2.0;

/// A series ready for the network. Its values stay where they are.
#[derive(Clone, Debug)]
pub(crate) struct Item<'a> {
    pub(crate) start: DateTime,
    /// NaN where missing.
    pub(crate) target: &'a [f32],
    pub(crate) features: Vec<&'a [f32]>,
    pub(crate) cats: Vec<u32>,
    /// Mean |z| over all observations, if there are any that are not zero.
    pub(crate) mean_abs: Option<f32>,
    /// Mean and mean absolute deviation of all observations, if there are any.
    pub(crate) moments: Option<(f32, f32)>,
    /// What was observed last before each stretch of [`CARRY`] points; NaN before the first.
    carried: Vec<f32>,
}

/// Points after which the value carried on is noted, so that looking back through a gap is short
/// however long the gap.
const CARRY: usize = 4096;

impl<'a> Item<'a> {
    pub(crate) fn new(series: &'a TimeSeries) -> Item<'a> {
        let target = series.target.as_slice();
        let mut last = f32::NAN;
        let carry = |stretch: &[f32]| {
            let before = last;
            last = last_observed(stretch).unwrap_or(last);
            before
        };
        Item {
            start: series.start,
            carried: target.chunks(CARRY).map(carry).collect(),
            target,
            features: series.feat_dynamic_real.iter().map(|feature| feature.as_slice()).collect(),
            cats: series.feat_static_cat.clone(),
            mean_abs: mean_abs(target).filter(|mean| *mean > 0.0),
            moments: moments(target).map(|(mean, deviation, _)| (mean as f32, deviation as f32)),
        }
    }

    /// The value of step `at` as an input: where it is missing the last one observed before, NaN
    /// if there is none.
    pub(crate) fn filled(&self, at: usize) -> f32 {
        let stretch = &self.target[at / CARRY * CARRY..=at];
        last_observed(stretch).unwrap_or_else(|| self.carried[at / CARRY])
    }

    /// [`Item::filled`] of the steps from `first` on, NaN before the series and after it.
    fn fill(&self, first: i64, out: &mut [f32]) {
        let before = usize::try_from(-first).unwrap_or(0).min(out.len());
        let from = usize::try_from(first).unwrap_or(0).min(self.target.len());
        let (front, rest) = out.split_at_mut(before);
        let there = rest.len().min(self.target.len() - from);
        let (middle, back) = rest.split_at_mut(there);
        front.fill(f32::NAN);
        back.fill(f32::NAN);
        middle.copy_from_slice(&self.target[from..from + there]);
        // Most windows have no gap.
        if middle.iter().fold(false, |gap, value| gap | value.is_nan()) {
            let mut last = self.filled(from);
            for value in middle {
                last = if value.is_nan() { last } else { *value };
                *value = last;
            }
        }
    }

    /// The scale of the window whose context is `range` of the target: its mean absolute value.
    fn scale(&self, range: std::ops::Range<usize>, scaling: &Scaling) -> f32 {
        let own = mean_abs(&self.target[range]);
        let typical = self.mean_abs.unwrap_or(scaling.scale_default);
        own.unwrap_or(typical).max(typical * SCALE_FLOOR).clamp(SCALE_RANGE.0, SCALE_RANGE.1)
    }

    /// Mean and deviation of `range`. Where little was observed, what is typical of the series
    /// and of the training data stands in.
    fn standard(&self, range: std::ops::Range<usize>, scaling: &Scaling) -> Frame {
        let typical = scaling.typical.unwrap_or(Typical { mean: 0.0, deviation: 1.0, share: 1.0 });
        let (own_mean, own_deviation) = self.moments.unwrap_or((typical.mean, 0.0));
        let expected = match self.moments {
            Some(_) => self.mean_abs.unwrap_or(scaling.scale_default) * typical.share,
            None => typical.deviation,
        };
        let (mean, deviation, count) = moments(&self.target[range])
            .unwrap_or_else(|| (f64::from(own_mean), f64::from(own_deviation.max(expected)), 0.0));
        let spread = match count > 0.0 {
            true => {
                (count * deviation + DEVIATION_PRIOR * f64::from(expected))
                    / (count + DEVIATION_PRIOR)
            }
            false => deviation,
        };
        let scale = (spread as f32).max(own_deviation * DEVIATION_FLOOR);
        Frame { shift: mean as f32, scale: scale.clamp(SCALE_RANGE.0, SCALE_RANGE.1) }
    }
}

/// Mean, mean absolute deviation from it, and number of the observed values.
fn moments(values: &[f32]) -> Option<(f64, f64, f64)> {
    let seen = || values.iter().filter(|value| !value.is_nan()).map(|value| f64::from(*value));
    let count = seen().count() as f64;
    let mean = seen().sum::<f64>() / count;
    let deviation = seen().map(|value| (value - mean).abs()).sum::<f64>() / count;
    (count > 0.0).then_some((mean, deviation, count))
}

fn last_observed(values: &[f32]) -> Option<f32> {
    values.iter().rev().find(|value| !value.is_nan()).copied()
}

fn mean_abs(values: &[f32]) -> Option<f32> {
    let (mut sum, mut count) = (0.0f64, 0u64);
    for value in values.iter().filter(|value| !value.is_nan()) {
        sum += f64::from(value.abs());
        count += 1;
    }
    (count > 0).then(|| (sum / count as f64) as f32)
}

impl Scaling {
    /// Learns the scaling from training series.
    pub(crate) fn fit(items: &[Item<'_>], framing: Framing) -> Scaling {
        let scales = || items.iter().filter_map(|item| item.mean_abs).map(f64::from);
        let mean_of = |values: &mut dyn Iterator<Item = f64>| {
            let (sum, count) = values.fold((0.0, 0u64), |(sum, count), x| (sum + x, count + 1));
            sum / count.max(1) as f64
        };
        let default = mean_of(&mut scales());
        let deviations = || {
            let moments = items.iter().filter_map(|item| item.moments);
            moments.map(|(_, deviation)| f64::from(deviation)).filter(|deviation| *deviation > 0.0)
        };
        let typical = (framing == Framing::Standard).then(|| {
            let means = items.iter().filter_map(|item| item.moments);
            let shares = items.iter().filter_map(|item| Some((item.mean_abs?, item.moments?.1)));
            let deviation = mean_of(&mut deviations());
            let share = mean_of(&mut shares.map(|(abs, dev)| f64::from(dev) / f64::from(abs)));
            let or_one = |x: f64| if x > 0.0 { x as f32 } else { 1.0 };
            Typical {
                mean: mean_of(&mut means.map(|(mean, _)| f64::from(mean))) as f32,
                deviation: or_one(deviation),
                share: or_one(share),
            }
        });
        let logs = || {
            let of: Vec<f64> = match typical {
                Some(_) => deviations().collect(),
                None => scales().collect(),
            };
            of.into_iter().map(f64::ln)
        };
        let count = logs().count().max(1) as f64;
        let mean = logs().sum::<f64>() / count;
        let spread = (logs().map(|log| (log - mean).powi(2)).sum::<f64>() / count).sqrt();
        let features = items.first().map_or(0, |item| item.features.len());
        let (feature_mean, feature_spread) =
            (0..features).map(|k| feature_moments(items, k)).unzip();
        Scaling {
            // Nothing but zeros: any scale will do.
            scale_default: if default > 0.0 { default as f32 } else { 1.0 },
            log_scale_mean: mean as f32,
            log_scale_spread: spread.max(0.5) as f32,
            feature_mean,
            feature_spread,
            typical,
        }
    }

    /// Whether every number can be computed with.
    pub(crate) fn is_sound(&self, features: usize) -> bool {
        let positive = |x: f32| x.is_finite() && x > 0.0;
        positive(self.scale_default)
            && positive(self.log_scale_spread)
            && self.log_scale_mean.is_finite()
            && self.feature_mean.len() == features
            && self.feature_spread.len() == features
            && self.feature_mean.iter().all(|x| x.is_finite())
            && self.feature_spread.iter().all(|x| positive(*x))
            && self.typical.is_none_or(|typical| {
                typical.mean.is_finite() && positive(typical.deviation) && positive(typical.share)
            })
    }

    /// The static input for a scale.
    pub(crate) fn log_scale(&self, scale: f32) -> f32 {
        (scale.ln() - self.log_scale_mean) / self.log_scale_spread
    }
}

fn feature_moments(items: &[Item<'_>], k: usize) -> (f32, f32) {
    let values = || items.iter().flat_map(|item| item.features[k]).map(|x| f64::from(*x));
    let count = values().count().max(1) as f64;
    let mean = values().sum::<f64>() / count;
    let spread = (values().map(|x| (x - mean).powi(2)).sum::<f64>() / count).sqrt();
    // A constant feature is passed as 0 rather than as noise.
    (mean as f32, if spread > 1e-12 { spread as f32 } else { 1.0 })
}

/// The shape of a window.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) freq: Frequency,
    pub(crate) lags: Vec<usize>,
    pub(crate) features: usize,
    pub(crate) scaling: Scaling,
    pub(crate) framing: Framing,
    /// Steps before the horizon that decide a window's frame; at least the context.
    pub(crate) frame_length: usize,
}

impl Plan {
    /// The windows that `hyper` asks for.
    pub(crate) fn new(hyper: &Hyperparameters, features: usize, scaling: Scaling) -> Plan {
        Plan {
            freq: hyper.time_freq,
            lags: lags(hyper.time_freq),
            features,
            scaling,
            framing: Framing::of(hyper),
            frame_length: hyper.scaling_length.max(hyper.context_length),
        }
    }

    /// Inputs that change from step to step.
    pub(crate) fn inputs(&self) -> usize {
        self.lags.len() + 1 + calendar_len(self.freq) + self.features
    }

    /// The frame of the window whose horizon begins at `split`.
    pub(crate) fn frame(&self, item: &Item<'_>, split: usize) -> Frame {
        let range = split.saturating_sub(self.frame_length)..split;
        match self.framing {
            Framing::Raw => Frame { shift: 0.0, scale: 1.0 },
            Framing::Mean => Frame { shift: 0.0, scale: item.scale(range, &self.scaling) },
            Framing::Standard => item.standard(range, &self.scaling),
        }
    }

    /// Fills a lane with the inputs of `steps` steps from `first`, which may lie before the
    /// series begins.
    pub(crate) fn fill(
        &self,
        item: &Item<'_>,
        first: i64,
        steps: usize,
        frame: Frame,
        into: Lane<'_>,
    ) {
        let Lane { x, lanes, lane } = into;
        // A context of one step is over before it begins.
        if steps == 0 {
            return;
        }
        let stride = self.inputs() * lanes;
        let inverse = 1.0 / frame.scale;
        // Lags overlap, so the values are filled once, from the longest lag on.
        let longest = self.lags.iter().copied().max().unwrap_or(0);
        let mut filled = vec![0.0; longest + steps];
        item.fill(first - longest as i64, &mut filled);
        for value in &mut filled {
            *value = (*value - frame.shift) * inverse;
            // Before the first observation.
            *value = if value.is_nan() { 0.0 } else { *value };
        }
        for (k, lag) in self.lags.iter().enumerate() {
            let slots = x[k * lanes + lane..].iter_mut().step_by(stride);
            for (slot, value) in slots.zip(&filled[longest - lag..][..steps]) {
                *slot = *value;
            }
        }
        let mut clock = Clock::new(self.freq, item.start);
        let mut shared = vec![0.0; self.inputs() - self.lags.len()];
        for t in 0..steps {
            self.shared(item, &mut clock, first + t as i64, &mut shared);
            let row = t * stride + self.lags.len() * lanes + lane;
            for (k, value) in shared.iter().enumerate() {
                x[row + k * lanes] = *value;
            }
        }
    }

    /// Age, calendar and known features of step `index`: what needs no target.
    pub(crate) fn shared(&self, item: &Item<'_>, clock: &mut Clock, index: i64, out: &mut [f32]) {
        out[0] = (2.0 + index.max(0) as f32).log10();
        let calendar = calendar_len(self.freq);
        out[1..=calendar].copy_from_slice(&clock.at(index)[..calendar]);
        for (k, feature) in item.features.iter().enumerate() {
            let value = usize::try_from(index).ok().and_then(|index| feature.get(index));
            let (mean, spread) = (self.scaling.feature_mean[k], self.scaling.feature_spread[k]);
            out[1 + calendar + k] = value.map_or(0.0, |value| (value - mean) / spread);
        }
    }
}

/// One lane of `x[steps][inputs][lanes]`.
pub(crate) struct Lane<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) lanes: usize,
    pub(crate) lane: usize,
}

/// Calendar features step by step. Within a day of an hourly series only the hour moves, so
/// the date is taken apart once a day.
pub(crate) struct Clock {
    freq: Frequency,
    start: DateTime,
    day: i64,
    values: [f32; 5],
}

impl Clock {
    pub(crate) fn new(freq: Frequency, start: DateTime) -> Clock {
        Clock { freq, start, day: i64::MIN, values: [0.0; 5] }
    }

    fn at(&mut self, index: i64) -> &[f32; 5] {
        let time = self.freq.advance(self.start, index);
        let day = time.0.div_euclid(1440);
        if self.day != day {
            self.day = day;
            calendar(self.freq, time, &mut self.values);
        } else {
            let minutes = time.0.rem_euclid(1440) as f32;
            let hour = (minutes / 60.0).floor();
            match self.freq.unit() {
                Unit::Minute => {
                    self.values[0] = (minutes - hour * 60.0) / 59.0 - 0.5;
                    self.values[1] = hour / 23.0 - 0.5;
                }
                Unit::Hour => self.values[0] = hour / 23.0 - 0.5,
                _ => {}
            }
        }
        &self.values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(freq: &str) -> Vec<usize> {
        lags(freq.parse().unwrap())
    }

    fn ranges(parts: &[std::ops::RangeInclusive<usize>]) -> Vec<usize> {
        parts.iter().cloned().flatten().collect()
    }

    #[test]
    fn lags_are_those_of_gluonts() {
        let hourly = [
            1..=7,
            23..=25,
            47..=49,
            71..=73,
            95..=97,
            119..=121,
            143..=145,
            167..=169,
            335..=337,
            503..=505,
            671..=673,
            719..=721,
        ];
        assert_eq!(of("H"), ranges(&hourly));
        assert_eq!(of("H").len(), 40);
        let quarter =
            [1..=14, 95..=97, 191..=193, 287..=289, 383..=385, 479..=481, 575..=577, 671..=673];
        assert_eq!(of("15min"), ranges(&quarter));
        let five = [1..=7, 10..=14, 22..=26, 34..=38, 287..=289, 575..=577, 863..=865, 1151..=1153];
        assert_eq!(of("5min"), ranges(&five));
        assert_eq!(of("min"), ranges(&[1..=7, 58..=62, 118..=122, 178..=182]));
        let daily =
            [1..=8, 13..=15, 20..=22, 27..=31, 56..=56, 84..=84, 363..=365, 727..=729, 1091..=1093];
        assert_eq!(of("D"), ranges(&daily));
        assert_eq!(of("W"), ranges(&[1..=8, 12..=12, 51..=53, 103..=105, 155..=157]));
        assert_eq!(of("M"), ranges(&[1..=7, 11..=13, 23..=25, 35..=37]));
    }

    #[test]
    fn the_clock_agrees_with_the_calendar() {
        for freq in ["H", "7min", "15min", "D", "W", "M", "3H"] {
            let freq: Frequency = freq.parse().unwrap();
            let start = "2019-12-30 22:10:00".parse().unwrap();
            let mut clock = Clock::new(freq, start);
            for index in -300..600 {
                let mut expect = [0.0; 5];
                calendar(freq, freq.advance(start, index), &mut expect);
                for (ours, theirs) in clock.at(index).iter().zip(expect) {
                    assert!((ours - theirs).abs() < 1e-6, "{freq} {index}");
                    assert!((-0.5..=0.5).contains(&theirs));
                }
            }
        }
    }

    #[test]
    fn scales_survive_gaps_and_zeros() {
        let whole = [vec![0.0, 0.0, f32::NAN, -8.0, 8.0], vec![f32::NAN]]
            .map(|target| TimeSeries { target: target.into(), ..TimeSeries::default() });
        let series = whole.each_ref().map(Item::new);
        let scaling = Scaling::fit(&series, Framing::Mean);
        assert_eq!(scaling.scale_default, 4.0);
        assert_eq!(series[0].scale(3..5, &scaling), 8.0);
        assert_eq!(series[0].scale(0..2, &scaling), 0.04);
        assert_eq!(series[0].scale(2..3, &scaling), 4.0);
        assert_eq!(series[1].scale(0..1, &scaling), 4.0);
        assert_eq!(Scaling::fit(&[], Framing::Mean).scale_default, 1.0);
        assert_eq!([0, 1, 2, 3, 4].map(|at| series[0].filled(at)), [0.0, 0.0, 0.0, -8.0, 8.0]);
        assert!(series[1].filled(0).is_nan());
    }

    #[test]
    fn a_centred_window_leans_on_what_is_typical_where_little_was_observed() {
        let whole =
            [vec![9.0, 11.0, f32::NAN, 9.0, 11.0, 10.0, 10.0, 10.0, 10.0], vec![f32::NAN; 3]]
                .map(|target| TimeSeries { target: target.into(), ..TimeSeries::default() });
        let series = whole.each_ref().map(Item::new);
        let scaling = Scaling::fit(&series, Framing::Standard);
        assert_eq!(scaling.typical.unwrap(), Typical { mean: 10.0, deviation: 0.5, share: 0.05 });
        // Four observations of deviation 1 and a prior of 2 of deviation 0.5.
        let frame = series[0].standard(0..5, &scaling);
        assert_eq!(frame.shift, 10.0);
        assert!((frame.scale - 5.0 / 6.0).abs() < 1e-6, "{frame:?}");
        // It stood still, which says little.
        assert!((series[0].standard(5..9, &scaling).scale - 1.0 / 6.0).abs() < 1e-6);
        assert_eq!(series[0].standard(2..3, &scaling), Frame { shift: 10.0, scale: 0.5 });
        assert_eq!(series[1].standard(0..3, &scaling), Frame { shift: 10.0, scale: 0.5 });
        assert_eq!(frame.leave(frame.enter(12.0) as f32), 12.0);
    }

    #[test]
    fn gaps_carry_the_last_value_however_long_they_are() {
        let mut target = vec![f32::NAN; 3 * CARRY + 5];
        for (at, value) in [(9, 3.0), (10, 4.0), (CARRY - 1, 5.0), (3 * CARRY, 6.0)] {
            target[at] = value;
        }
        let mut last = f32::NAN;
        let expect: Vec<f32> = target
            .iter()
            .map(|value| {
                last = if value.is_nan() { last } else { *value };
                last
            })
            .collect();
        let series = TimeSeries { target: target.into(), ..TimeSeries::default() };
        let item = Item::new(&series);
        let same = |a: f32, b: f32| a == b || (a.is_nan() && b.is_nan());
        assert!((0..expect.len()).all(|at| same(item.filled(at), expect[at])));
        for first in [-7, 0, 8, 4090, 4096, 8000, 12_280] {
            let mut out = vec![9.0; 40];
            item.fill(first, &mut out);
            for (k, value) in out.iter().enumerate() {
                let at = usize::try_from(first + k as i64).ok();
                let there = at.and_then(|at| expect.get(at)).copied().unwrap_or(f32::NAN);
                assert!(same(*value, there), "{k} from {first}: {value} {there}");
            }
        }
    }

    #[test]
    fn windows_see_the_past_only() {
        let plan = Plan {
            freq: Frequency::HOURLY,
            lags: vec![1, 3],
            features: 0,
            scaling: Scaling::fit(&[], Framing::Mean),
            framing: Framing::Mean,
            frame_length: 1,
        };
        let series =
            TimeSeries { target: vec![2.0, 4.0, 6.0, 8.0].into(), ..TimeSeries::default() };
        let item = Item::new(&series);
        let (steps, lanes) = (4, 2);
        let mut x = vec![9.0; steps * plan.inputs() * lanes];
        plan.fill(
            &item,
            1,
            steps,
            Frame { shift: 0.0, scale: 2.0 },
            Lane { x: &mut x, lanes, lane: 1 },
        );
        let row = |t: usize, k: usize| x[(t * plan.inputs() + k) * lanes + 1];
        assert_eq!([0, 1, 2, 3].map(|t| row(t, 0)), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!([0, 1, 2, 3].map(|t| row(t, 1)), [0.0, 0.0, 1.0, 2.0]);
        assert!((row(0, 2) - 3f32.log10()).abs() < 1e-6);
        assert_eq!(x[0], 9.0, "the other lane is untouched");
    }
}
