//! Which of two forecasters is better, and how sure that is.
//!
//! A forecast loses at each step what `metrics` calls the quantile loss, averaged over the levels
//! that it holds ([`Tally`] adds that up). Two forecasters are compared by the difference of their
//! losses as a share of what was forecast, sum (loss of a - loss of b) / sum |z|, which is the
//! difference of their weighted quantile losses.
//!
//! What is compared with what, the first that most of the smaller side's steps have:
//!
//! * the same series, the same beginning, the same moment: both were asked the same;
//! * the same series at the same moment, each side by the mean of its forecasts that reach it:
//!   two that share the requests have forecast it from different beginnings;
//! * nothing: then the sides are compared as two samples ([`Pairing::Unpaired`]).
//!
//! How sure: the steps of one forecast go wrong together, so do series at one time and forecasts
//! that overlap. So steps do not count, moments do: all pairs of a block of time, as long as the
//! horizon, make one number, and the numbers of successive blocks may depend on each other. Their
//! mean is tested by the equal-weighted cosine test (Lazarus, Lewis, Stock and Watson, "HAR
//! Inference: Recommendations for Practice", JBES 36, 2018): its long-run variance comes from the
//! 0.4 n^(2/3) slowest cosines, and its statistic has Student's distribution with as many degrees
//! of freedom. The test of Diebold and Mariano with Newey and West's variance was looked at: with
//! few blocks it finds differences that are none far too often, and its critical values are in a
//! table. A sign-flip test needs blocks that do not depend on each other.
//!
//! A p-value is for one look. Whoever looks again and again until something is found asks
//! [`is_worse`], which shares its chance of a false alarm among all looks.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::calendar::DateTime;
use crate::metrics::seasonal_error;
use crate::predict::Forecast;

/// Fewest blocks that are judged.
pub const BLOCKS_MIN: usize = 8;
/// The chance of a false alarm that a verdict has.
pub const SIGNIFICANCE: f64 = 0.05;
/// The chance of finding the difference seen, that [`Comparison::blocks_more`] aims at.
const POWER_QUANTILE: f64 = 0.8416;
/// More blocks than this are never asked for: the difference is as good as none.
const BLOCKS_MORE_MAX: f64 = 10_000.0;

/// What one step of one forecast lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepLoss {
    /// The series, as the caller counts them.
    pub item: u32,
    /// When the forecast begins.
    pub start: DateTime,
    /// The moment that was forecast.
    pub at: DateTime,
    /// The loss.
    pub loss: f32,
    /// The size of the true value.
    pub size: f32,
}

/// What was compared with what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Forecasts of the same series from the same beginning.
    SameForecast,
    /// Forecasts of the same series for the same moment.
    SameMoment,
    /// Two samples that have nothing in common.
    Unpaired,
}

/// How two forecasters compare.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// What was compared with what.
    pub pairing: Pairing,
    /// Pairs of steps; of two samples, the steps of the smaller one.
    pub pairs: u64,
    /// Blocks of time that they fall into: the sample size of the test.
    pub blocks: u64,
    /// Weighted loss of the first less that of the second, over what was compared.
    pub difference: f64,
    /// Where it is with a chance of 95 %; nothing with fewer than [`BLOCKS_MIN`] blocks.
    pub interval: Option<(f64, f64)>,
    /// How often a difference at least as large is seen where there is none.
    pub p_value: Option<f64>,
    /// About how many more blocks would decide it with a chance of 80 %, if it is as large as it
    /// looks; nothing where it is decided, or looks like none at all.
    pub blocks_more: Option<u64>,
}

impl Comparison {
    /// Whether the difference is more than chance, where `comparisons` are made at once.
    pub fn is_decided(&self, comparisons: usize) -> bool {
        self.p_value.is_some_and(|p| p * (comparisons.max(1) as f64) < SIGNIFICANCE)
    }
}

/// Compares two forecasters; nothing where there is nothing of one of them, or where all true
/// values are 0. `block_minutes` is the length of a block, the horizon. The steps are sorted.
pub fn compare(a: &mut [StepLoss], b: &mut [StepLoss], block_minutes: i64) -> Option<Comparison> {
    a.sort_unstable_by(order);
    b.sort_unstable_by(order);
    let (pairing, blocks) = paired(a, b, block_minutes);
    let own = |side: &[StepLoss]| blocks_of(side, block_minutes);
    if blocks.len() < BLOCKS_MIN {
        let (alone_a, alone_b) = (own(a), own(b));
        if alone_a.len().min(alone_b.len()) >= BLOCKS_MIN || blocks.is_empty() {
            return unpaired(&alone_a, &alone_b, a.len().min(b.len()));
        }
    }
    let pairs = blocks.iter().map(|block| block.pairs).sum();
    let mean = Mean::of(&blocks)?;
    Some(concluded(pairing, pairs, blocks.len(), mean.value, mean.error, mean.freedom))
}

/// Whether the first forecaster is worse than the second, asked any number of times while their
/// steps come in: the chance that it is ever said wrongly is at most [`SIGNIFICANCE`].
///
/// Only pairs count, and only when there are 8, 16, 32 ... blocks of them, each time the oldest so
/// many; the k-th such look may err with a chance of 6 / (pi k)^2 of it.
pub fn is_worse(a: &mut [StepLoss], b: &mut [StepLoss], block_minutes: i64) -> Option<Comparison> {
    a.sort_unstable_by(order);
    b.sort_unstable_by(order);
    let (pairing, blocks) = paired(a, b, block_minutes);
    let mut count = BLOCKS_MIN;
    for look in 1_i32.. {
        let seen = blocks.get(..count)?;
        let mean = Mean::of(seen)?;
        let share = 6.0 / (std::f64::consts::PI * f64::from(look)).powi(2);
        let beyond = 1.0 - student_below(mean.value / mean.error, mean.freedom);
        if beyond < SIGNIFICANCE * share {
            let pairs = seen.iter().map(|block| block.pairs).sum();
            let Mean { value, error, freedom } = mean;
            return Some(concluded(pairing, pairs, count, value, error, freedom));
        }
        count *= 2;
    }
    None
}

fn order(a: &StepLoss, b: &StepLoss) -> Ordering {
    (a.item, a.at, a.start).cmp(&(b.item, b.at, b.start))
}

/// All of a block of time: what was lost (or lost more), of how much.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    loss: f64,
    size: f64,
    pairs: u64,
}

fn block_at(at: DateTime, block_minutes: i64) -> i64 {
    at.0.div_euclid(block_minutes.max(1))
}

fn blocks_of(steps: &[StepLoss], block_minutes: i64) -> Vec<Block> {
    let mut blocks: BTreeMap<i64, Block> = BTreeMap::new();
    for step in steps {
        let block = blocks.entry(block_at(step.at, block_minutes)).or_default();
        block.loss += f64::from(step.loss);
        block.size += f64::from(step.size);
        block.pairs += 1;
    }
    blocks.into_values().collect()
}

/// The blocks of the pairs, by the closest pairing that most of the smaller side has.
fn paired(a: &[StepLoss], b: &[StepLoss], block_minutes: i64) -> (Pairing, Vec<Block>) {
    let close = pair(a, b, block_minutes, |step| (step.item, step.at, step.start));
    let pairs: u64 = close.iter().map(|block| block.pairs).sum();
    if pairs * 2 >= a.len().min(b.len()) as u64 && close.len() >= BLOCKS_MIN {
        return (Pairing::SameForecast, close);
    }
    let wide = pair(a, b, block_minutes, |step| (step.item, step.at));
    match wide.iter().map(|block| block.pairs).sum::<u64>() > pairs {
        true => (Pairing::SameMoment, wide),
        false => (Pairing::SameForecast, close),
    }
}

fn pair<K: Ord>(
    a: &[StepLoss],
    b: &[StepLoss],
    block_minutes: i64,
    key: impl Fn(&StepLoss) -> K,
) -> Vec<Block> {
    let groups = |side| <[StepLoss]>::chunk_by(side, |x, y| key(x) == key(y)).peekable();
    let (mut of_a, mut of_b) = (groups(a), groups(b));
    let mean = |group: &[StepLoss]| {
        group.iter().map(|step| f64::from(step.loss)).sum::<f64>() / group.len() as f64
    };
    let mut blocks: BTreeMap<i64, Block> = BTreeMap::new();
    while let (Some(left), Some(right)) = (of_a.peek(), of_b.peek()) {
        match key(&left[0]).cmp(&key(&right[0])) {
            Ordering::Less => {
                of_a.next();
            }
            Ordering::Greater => {
                of_b.next();
            }
            Ordering::Equal => {
                let block = blocks.entry(block_at(left[0].at, block_minutes)).or_default();
                block.loss += mean(left) - mean(right);
                block.size += f64::from(left[0].size);
                block.pairs += 1;
                of_a.next();
                of_b.next();
            }
        }
    }
    blocks.into_values().collect()
}

/// The loss of blocks over their size, and how far it may be off.
#[derive(Clone, Copy, Debug)]
struct Mean {
    value: f64,
    error: f64,
    /// Degrees of freedom; 0 with too few blocks.
    freedom: f64,
}

impl Mean {
    fn of(blocks: &[Block]) -> Option<Mean> {
        let count = blocks.len() as f64;
        let size = blocks.iter().map(|block| block.size).sum::<f64>();
        let value = blocks.iter().map(|block| block.loss).sum::<f64>() / size;
        if !value.is_finite() {
            return None;
        }
        if blocks.len() < BLOCKS_MIN {
            return Some(Mean { value, error: f64::NAN, freedom: 0.0 });
        }
        // What each block adds to the ratio beside its value, linearly.
        let beside = |block: &Block| (block.loss - value * block.size) * count / size;
        let freedom = (0.4 * count.powf(2.0 / 3.0)).floor().max(1.0);
        let mut variance = 0.0;
        for cosine in 1..=freedom as usize {
            let turn = std::f64::consts::PI * cosine as f64 / count;
            let weights = (0..blocks.len()).map(|at| (turn * (at as f64 + 0.5)).cos());
            let sum: f64 = blocks.iter().zip(weights).map(|(block, w)| beside(block) * w).sum();
            variance += 2.0 / count * sum * sum / freedom;
        }
        Some(Mean { value, error: (variance / count).sqrt(), freedom })
    }
}

fn unpaired(a: &[Block], b: &[Block], steps: usize) -> Option<Comparison> {
    let (of_a, of_b) = (Mean::of(a)?, Mean::of(b)?);
    let squares = (of_a.error.powi(2), of_b.error.powi(2));
    let error = (squares.0 + squares.1).sqrt();
    // Welch and Satterthwaite.
    let freedom = (squares.0 + squares.1).powi(2)
        / (squares.0.powi(2) / of_a.freedom + squares.1.powi(2) / of_b.freedom);
    let blocks = a.len().min(b.len());
    let difference = of_a.value - of_b.value;
    Some(concluded(Pairing::Unpaired, steps as u64, blocks, difference, error, freedom))
}

fn concluded(
    pairing: Pairing,
    pairs: u64,
    blocks: usize,
    difference: f64,
    error: f64,
    freedom: f64,
) -> Comparison {
    let blocks_now = blocks as f64;
    let mut made = Comparison {
        pairing,
        pairs,
        blocks: blocks as u64,
        difference,
        interval: None,
        p_value: None,
        blocks_more: None,
    };
    if blocks < BLOCKS_MIN {
        made.blocks_more = Some((BLOCKS_MIN - blocks) as u64);
        return made;
    }
    if error == 0.0 {
        // They answered the same wherever they were compared, or differed always alike.
        made.interval = Some((difference, difference));
        made.p_value = Some(if difference == 0.0 { 1.0 } else { 0.0 });
        return made;
    }
    if !(error.is_finite() && freedom >= 1.0) {
        return made;
    }
    let reach = student_quantile(1.0 - SIGNIFICANCE / 2.0, freedom);
    made.interval = Some((difference - reach * error, difference + reach * error));
    let statistic = (difference / error).abs();
    let p_value = 2.0 * (1.0 - student_below(statistic, freedom));
    made.p_value = Some(p_value);
    if p_value >= SIGNIFICANCE {
        made.blocks_more = more(statistic, blocks_now);
    }
    made
}

/// Blocks that are still missing where `statistic` was reached with `blocks`: it grows with their
/// root, and what it must reach shrinks as the degrees of freedom grow.
fn more(statistic: f64, blocks: f64) -> Option<u64> {
    let mut count = blocks;
    while count < blocks + BLOCKS_MORE_MAX {
        count = (count * 1.05).ceil();
        let freedom = (0.4 * count.powf(2.0 / 3.0)).floor().max(1.0);
        let needed = student_quantile(1.0 - SIGNIFICANCE / 2.0, freedom) + POWER_QUANTILE;
        if statistic * (count / blocks).sqrt() >= needed {
            return Some((count - blocks) as u64);
        }
    }
    None
}

/// Adds up how good the forecasts of one forecaster were.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Forecasts with at least one true value.
    pub forecasts: u64,
    /// Steps with one.
    pub points: u64,
    loss: f64,
    size: f64,
    banded: u64,
    within: u64,
    mase: f64,
    mase_forecasts: u64,
}

impl Tally {
    /// Adds a forecast that met `truth` (NaN where missing, maybe shorter than the forecast) after
    /// `history`; what each step lost, NaN where there is no truth or no forecast.
    ///
    /// `levels` are the levels of `made` that count; without any the mean counts as the median.
    pub fn add(
        &mut self,
        made: &Forecast,
        levels: &[(f64, Vec<f32>)],
        history: &[f32],
        truth: &[f32],
    ) -> Vec<f32> {
        let of_level = |wanted: f64| levels.iter().find(|(q, _)| (q - wanted).abs() < 1e-9);
        let band = of_level(0.1).zip(of_level(0.9));
        let middle = of_level(0.5).map_or(&made.mean, |(_, values)| values);
        let as_median = [(0.5, made.mean.clone())];
        let levels = if levels.is_empty() { &as_median[..] } else { levels };
        let (mut points, mut off, mut off_points) = (0_u64, 0.0, 0_u64);
        let mut losses = vec![f32::NAN; truth.len()];
        for (at, z) in truth.iter().enumerate().filter(|(_, z)| z.is_finite()) {
            let value = |values: &Vec<f32>| values.get(at).copied().filter(|v| v.is_finite());
            let Some(loss) = levels
                .iter()
                .map(|(q, values)| {
                    Some(quantile_loss(f64::from(*z), f64::from(value(values)?), *q))
                })
                .sum::<Option<f64>>()
            else {
                continue;
            };
            let loss = loss / levels.len() as f64;
            losses[at] = loss as f32;
            points += 1;
            self.loss += loss;
            self.size += f64::from(z.abs());
            if let Some((low, high)) = band
                && let (Some(low), Some(high)) = (value(&low.1), value(&high.1))
            {
                self.banded += 1;
                self.within += u64::from(low <= *z && *z <= high);
            }
            if let Some(middle) = value(middle) {
                off += f64::from((z - middle).abs());
                off_points += 1;
            }
        }
        if points > 0 {
            self.points += points;
            self.forecasts += 1;
        }
        let scaled = off / off_points as f64 / seasonal_error(history, made.freq.season());
        if scaled.is_finite() {
            self.mase += scaled;
            self.mase_forecasts += 1;
        }
        losses
    }

    /// Mean weighted quantile loss; NaN if nothing was measured.
    pub fn mean_w_quantile_loss(&self) -> f64 {
        self.loss / self.size
    }

    /// The share of true values from the 0.1 to the 0.9 quantile, of the steps that had both.
    pub fn coverage(&self) -> f64 {
        self.within as f64 / self.banded as f64
    }

    /// Mean absolute error of the middle, in units of the seasonal naive's in the history.
    pub fn mase(&self) -> f64 {
        self.mase / self.mase_forecasts as f64
    }
}

fn quantile_loss(z: f64, zq: f64, q: f64) -> f64 {
    let indicator = if z <= zq { 1.0 } else { 0.0 };
    2.0 * ((z - zq) * (indicator - q)).abs()
}

/// The chance that Student's t with so many degrees of freedom is below `t`.
fn student_below(t: f64, freedom: f64) -> f64 {
    if t.is_nan() {
        return 0.5;
    }
    let tail = 0.5 * incomplete_beta(freedom / 2.0, 0.5, freedom / (freedom + t * t));
    if t > 0.0 { 1.0 - tail } else { tail }
}

/// Where Student's t is below with a chance of `p`, which is above a half.
fn student_quantile(p: f64, freedom: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    while student_below(high, freedom) < p && high < 1e9 {
        high *= 2.0;
    }
    for _ in 0..80 {
        let middle = (low + high) / 2.0;
        if student_below(middle, freedom) < p { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// The regularised incomplete beta function, by its continued fraction (DLMF 8.17.22) in Lentz's
/// way.
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    // The fraction converges quickly on this side of the middle.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(b, a, 1.0 - x);
    }
    let front =
        (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (1.0 - x).ln()).exp() / a;
    let away_from_zero = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let (mut c, mut d) = (1.0, 1.0 / away_from_zero(1.0 - (a + b) * x / (a + 1.0)));
    let mut fraction = d;
    for m in 1..300 {
        let m = f64::from(m);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut change = 1.0;
        for term in [even, odd] {
            d = 1.0 / away_from_zero(1.0 + term * d);
            c = away_from_zero(1.0 + term / c);
            change = c * d;
            fraction *= change;
        }
        if (change - 1.0).abs() < 1e-14 {
            break;
        }
    }
    front * fraction
}

/// The logarithm of the gamma function for positive numbers, by Stirling's series (DLMF 5.11.1)
/// from 16 on.
fn ln_gamma(x: f64) -> f64 {
    let (mut x, mut shift) = (x, 0.0);
    while x < 16.0 {
        shift -= x.ln();
        x += 1.0;
    }
    let square = 1.0 / (x * x);
    let series =
        (1.0 / 12.0 - square * (1.0 / 360.0 - square * (1.0 / 1260.0 - square / 1680.0))) / x;
    shift + (x - 0.5) * x.ln() - x + 0.5 * (2.0 * std::f64::consts::PI).ln() + series
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::Frequency;

    const DAY: i64 = 24 * 60;

    /// A small seeded generator of what is nearly normal.
    struct Random(u64);

    impl Random {
        fn uniform(&mut self) -> f64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
        }

        fn normal(&mut self) -> f64 {
            (0..12).map(|_| self.uniform()).sum::<f64>() - 6.0
        }
    }

    /// How the requests of a replay are shared.
    #[derive(Clone, Copy, PartialEq)]
    enum Sharing {
        /// Both get all.
        Shadow,
        /// Each request goes to one of them.
        Draw,
        /// The second gets what comes after the first.
        After,
    }

    /// Hourly forecasts of a day ahead for four stations, a new one every twelve hours. What both get
    /// wrong has parts that all stations share and parts that last for days. The second is worse by
    /// the share `worse`.
    fn replay(
        seed: u64,
        days: i64,
        worse: f64,
        sharing: Sharing,
    ) -> (Vec<StepLoss>, Vec<StepLoss>) {
        let mut random = Random(seed.wrapping_mul(0x5851_f42d_4c95_7f2d));
        let hours = usize::try_from(days).unwrap() * 24 + 24;
        // The loss of each model at each hour: its own weather, and its own at each station.
        let mut series = || {
            let (mut slow, mut own) = (0.0, [0.0; 4]);
            let mut out = Vec::new();
            for _ in 0..hours {
                slow = 0.97 * slow + 0.24 * random.normal();
                let at = own.each_mut().map(|own| {
                    *own = 0.8 * *own + 0.6 * random.normal();
                    (0.5 * (slow + *own)).exp()
                });
                out.push(at);
            }
            out
        };
        let (weather, of_a, of_b) = (series(), series(), series());
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for begin in (0..days * 24).step_by(12) {
            for item in 0..4_u32 {
                let to_a = match sharing {
                    Sharing::Shadow => None,
                    Sharing::Draw => Some(random.uniform() < 0.5),
                    Sharing::After => Some(begin < days * 12),
                };
                for lead in 0..24 {
                    let hour = begin + lead;
                    let at = usize::try_from(hour).unwrap();
                    let common = weather[at][item as usize];
                    let step = |own: &[[f64; 4]], times: f64| StepLoss {
                        item,
                        start: DateTime(begin * 60),
                        at: DateTime(hour * 60),
                        loss: (times * (common + own[at][item as usize])) as f32,
                        size: 10.0,
                    };
                    if to_a != Some(false) {
                        a.push(step(&of_a, 1.0));
                    }
                    if to_a != Some(true) {
                        b.push(step(&of_b, 1.0 + worse));
                    }
                }
            }
        }
        (a, b)
    }

    fn share(rounds: u64, of: impl Fn(u64) -> bool) -> f64 {
        (0..rounds).filter(|seed| of(*seed)).count() as f64 / rounds as f64
    }

    fn decided(seed: u64, days: i64, worse: f64, sharing: Sharing) -> bool {
        let (mut a, mut b) = replay(seed, days, worse, sharing);
        compare(&mut a, &mut b, DAY).unwrap().is_decided(1)
    }

    #[test]
    fn equal_forecasters_are_told_apart_as_seldom_as_is_said() {
        for (sharing, days) in [
            (Sharing::Shadow, 20),
            (Sharing::Shadow, 60),
            (Sharing::Draw, 40),
            (Sharing::After, 80),
        ] {
            let alarms = share(250, |seed| decided(seed, days, 0.0, sharing));
            // 250 rounds at 5 %: three standard deviations are 4.1 %.
            assert!(alarms <= 0.09, "{alarms} of {days} days");
        }
        // Steps counted one by one would be wrong: the same losses, as if all were independent.
        let naive = share(200, |seed| {
            let (a, b) = replay(seed, 40, 0.0, Sharing::Shadow);
            let apart: Vec<f64> =
                a.iter().zip(&b).map(|(a, b)| f64::from(a.loss - b.loss)).collect();
            let count = apart.len() as f64;
            let mean = apart.iter().sum::<f64>() / count;
            let variance = apart.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / (count - 1.0);
            mean.abs() / (variance / count).sqrt() > 1.96
        });
        assert!(naive > 0.3, "{naive}: the replay does not show what the test is for");
    }

    #[test]
    fn a_real_difference_is_found() {
        for (sharing, days) in [(Sharing::Shadow, 40), (Sharing::Draw, 40), (Sharing::After, 120)] {
            let found = share(60, |seed| decided(seed, days, 0.5, sharing));
            assert!(found > 0.85, "{found} of {days} days");
        }
        let (mut a, mut b) = replay(7, 40, 0.5, Sharing::Shadow);
        let told = compare(&mut a, &mut b, DAY).unwrap();
        assert_eq!(told.pairing, Pairing::SameForecast);
        assert!(told.difference < 0.0 && told.interval.unwrap().1 < 0.0, "{told:?}");
        let back = compare(&mut b, &mut a, DAY).unwrap();
        assert!((back.difference + told.difference).abs() < 1e-12);
        assert_eq!(back.p_value, told.p_value);
    }

    #[test]
    fn what_is_compared_is_the_closest_there_is() {
        let pairing = |sharing| {
            let (mut a, mut b) = replay(3, 30, 0.0, sharing);
            let told = compare(&mut a, &mut b, DAY).unwrap();
            (told.pairing, told.blocks)
        };
        assert_eq!(pairing(Sharing::Shadow), (Pairing::SameForecast, 31));
        assert_eq!(pairing(Sharing::Draw).0, Pairing::SameMoment);
        assert_eq!(pairing(Sharing::After).0, Pairing::Unpaired);
    }

    #[test]
    fn looking_again_and_again_raises_no_more_alarms() {
        let ever = |seed, worse| {
            let (a, b) = replay(seed, 66, worse, Sharing::Shadow);
            (8..=66).step_by(4).any(|days| {
                let until = |all: &[StepLoss]| -> Vec<StepLoss> {
                    all.iter().filter(|step| step.at.0 < days * DAY).copied().collect()
                };
                // Whether the second is worse.
                is_worse(&mut until(&b), &mut until(&a), DAY).is_some()
            })
        };
        let alarms = share(80, |seed| ever(seed, 0.0));
        assert!(alarms <= 0.10, "{alarms}");
        let found = share(40, |seed| ever(seed, 0.5));
        assert!(found > 0.85, "{found}");
    }

    #[test]
    fn too_little_is_not_decided_and_says_how_much_is_missing() {
        let (mut a, mut b) = replay(1, 4, 0.5, Sharing::Shadow);
        let told = compare(&mut a, &mut b, DAY).unwrap();
        assert_eq!((told.p_value, told.blocks, told.blocks_more), (None, 5, Some(3)));
        assert!(!told.is_decided(1));
        assert_eq!(compare(&mut a, &mut [], DAY), None);
        // Both answer the same: no difference, however long.
        let (mut a, _) = replay(1, 30, 0.0, Sharing::Shadow);
        let told = compare(&mut a.clone(), &mut a, DAY).unwrap();
        assert_eq!((told.difference, told.p_value, told.blocks_more), (0.0, Some(1.0), None));
        let (mut a, mut b) = replay(2, 20, 0.1, Sharing::Shadow);
        let told = compare(&mut a, &mut b, DAY).unwrap();
        assert!(!told.is_decided(1) && told.blocks_more.is_none_or(|more| more > 0), "{told:?}");
    }

    #[test]
    fn students_distribution_is_the_one_of_the_tables() {
        for (p, freedom, expect) in [
            (0.975, 1.0, 12.7062),
            (0.975, 2.0, 4.3027),
            (0.975, 6.0, 2.4469),
            (0.95, 10.0, 1.8125),
            (0.975, 30.0, 2.0423),
            (0.995, 120.0, 2.6174),
        ] {
            let found = student_quantile(p, freedom);
            assert!((found - expect).abs() < 1e-4, "{p} {freedom}: {found}");
            assert!((student_below(-found, freedom) - (1.0 - p)).abs() < 1e-9);
        }
        assert_eq!(student_below(0.0, 3.0), 0.5);
        assert!((ln_gamma(0.5) - std::f64::consts::PI.sqrt().ln()).abs() < 1e-12);
    }

    #[test]
    fn a_tally_is_the_scorers_sums() {
        let levels: Vec<(f64, Vec<f32>)> = vec![
            (0.1, vec![4.5, 9.0, -3.0]),
            (0.5, vec![5.0, 9.0, -1.0]),
            (0.9, vec![6.0, 9.0, 0.0]),
        ];
        let made = Forecast {
            item_id: None,
            start: DateTime(0),
            freq: Frequency::HOURLY,
            mean: vec![5.0, 9.0, -1.0],
            quantiles: levels.clone(),
            samples: None,
            parameters: None,
        };
        let history: Vec<f32> = (0..60).map(|t| ((t * 7) % 5) as f32).collect();
        let truth = [4.0, f32::NAN, -2.0];
        let mut tally = Tally::default();
        let losses = tally.add(&made, &levels, &history, &truth);
        let mut scorer = crate::Scorer::new(&[0.1, 0.5, 0.9], 24).unwrap();
        scorer.add(&history, &truth, &made).unwrap();
        let scores = scorer.finish();
        assert!((tally.mean_w_quantile_loss() - scores.mean_w_quantile_loss).abs() < 1e-12);
        assert!((tally.mase() - scores.mase).abs() < 1e-12);
        assert_eq!((tally.forecasts, tally.points, tally.coverage()), (1, 2, 0.5));
        assert!(losses[1].is_nan() && losses[0] > 0.0);
        // A mean alone is scored as a median; nothing says how wide it is.
        let mut tally = Tally::default();
        assert_eq!(tally.add(&made, &[], &history, &truth)[0], 1.0);
        assert!(tally.coverage().is_nan());
    }
}
