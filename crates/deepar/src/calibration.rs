//! Bands that hold as often as they say.
//!
//! A network that is taught one step at a time and then forecasts many from its own samples is
//! too sure of itself on most data, and an ensemble is too unsure on some. How far, windows show
//! that training never saw: the distance of the truth from the median, as a share of the
//! distance of the quantile at 0.1 (below) or 0.9 (above). The paths of a step are stretched
//! about their median by the share that a tenth of the truths exceeds, which is split conformal
//! prediction (Vovk et al. 2005; Romano et al. 2019) with one factor a side.

use serde::{Deserialize, Serialize};

/// Truths that one factor is read from, at least.
const POINTS_PER_FACTOR: usize = 2000;

/// Stretches of the horizon with factors of their own, at most: uncertainty grows along it.
const PARTS_MAX: usize = 4;

/// Factors stay in this range: a few odd windows must not blow a model up.
const FACTOR_RANGE: (f32, f32) = (0.5, 3.0);

/// How far paths are stretched below and above their median, by part of the horizon; nothing
/// for a model that is not calibrated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Calibration {
    factors: Vec<[f32; 2]>,
}

/// The shares that truths were off by, step by step: below and above the median.
pub(crate) struct Misses(Vec<[Vec<f32>; 2]>);

impl Misses {
    pub(crate) fn new(steps: usize) -> Misses {
        Misses((0..steps).map(|_| [Vec::new(), Vec::new()]).collect())
    }

    /// Counts one window in: its paths, `[step][path]`, and what came true, NaN where missing.
    pub(crate) fn add(&mut self, paths: &mut [Vec<f32>], truth: &[f32]) {
        for ((of, paths), z) in self.0.iter_mut().zip(paths).zip(truth) {
            paths.sort_unstable_by(f32::total_cmp);
            let at = |q: f64| paths.get(rank(paths.len(), q));
            let (Some(low), Some(median), Some(high)) = (at(0.1), at(0.5), at(0.9)) else {
                continue;
            };
            let sides = [(median - low, median - z), (high - median, z - median)];
            for (of, (distance, miss)) in of.iter_mut().zip(sides) {
                let share = miss / distance;
                if share.is_finite() {
                    of.push(share);
                }
            }
        }
    }

    /// The factors that would have been right.
    pub(crate) fn calibration(self) -> Calibration {
        let points: usize = self.0.iter().map(|[below, _]| below.len()).sum();
        let steps = self.0.len();
        let parts = (points / POINTS_PER_FACTOR).clamp(1, PARTS_MAX).min(steps.max(1));
        let mut pooled = vec![[Vec::new(), Vec::new()]; parts];
        for (step, sides) in self.0.into_iter().enumerate() {
            for (pool, side) in pooled[part_of(step, steps, parts)].iter_mut().zip(sides) {
                pool.extend(side);
            }
        }
        Calibration {
            factors: pooled.into_iter().map(|sides| sides.map(exceeded_by_a_tenth)).collect(),
        }
    }
}

/// Where the quantile of sorted paths stands, as forecasts have it: the nearest rank.
fn rank(count: usize, q: f64) -> usize {
    (count.saturating_sub(1) as f64 * q).round_ties_even() as usize
}

/// The part of the horizon that `step` of `steps` lies in.
fn part_of(step: usize, steps: usize, parts: usize) -> usize {
    step * parts / steps
}

fn exceeded_by_a_tenth(mut shares: Vec<f32>) -> f32 {
    shares.sort_unstable_by(f32::total_cmp);
    // The rank of split conformal prediction, which counts the point still to come.
    let rank = ((shares.len() + 1) as f64 * 0.9).ceil() as usize;
    let found = shares.get(rank.saturating_sub(1)).or(shares.last());
    // With too few to say, paths stay as they are.
    let found = if shares.len() < 10 { None } else { found };
    found.copied().unwrap_or(1.0).clamp(FACTOR_RANGE.0, FACTOR_RANGE.1)
}

impl Calibration {
    /// Stretches paths, `[step][path]`; none falls below zero if `nonnegative`.
    pub(crate) fn apply(&self, steps: &mut [Vec<f32>], nonnegative: bool) {
        let (count, parts) = (steps.len(), self.factors.len());
        let mut sorted = Vec::new();
        for (step, paths) in steps.iter_mut().enumerate() {
            if parts > 0 {
                let [below, above] = self.factors[part_of(step, count, parts)];
                sorted.clear();
                sorted.extend_from_slice(paths);
                let middle = rank(sorted.len(), 0.5);
                if sorted.is_empty() {
                    continue;
                }
                let (_, median, _) = sorted.select_nth_unstable_by(middle, f32::total_cmp);
                for z in paths.iter_mut() {
                    let factor = if *z < *median { below } else { above };
                    *z = (*median + (*z - *median) * factor).clamp(f32::MIN, f32::MAX);
                }
            }
            if nonnegative {
                // Not `max`, which would make a zero of NaN.
                paths.iter_mut().filter(|z| **z < 0.0).for_each(|z| *z = 0.0);
            }
        }
    }

    /// Whether every factor can be computed with.
    pub(crate) fn is_sound(&self) -> bool {
        let sound = |factor: &f32| (FACTOR_RANGE.0..=FACTOR_RANGE.1).contains(factor);
        self.factors.len() <= PARTS_MAX && self.factors.iter().flatten().all(sound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    fn normal(spread: f64, count: usize, random: &mut Stream) -> Vec<f32> {
        (0..count).map(|_| (10.0 + spread * random.normal()) as f32).collect()
    }

    #[test]
    fn bands_of_an_overconfident_model_hold_afterwards() {
        let mut random = Stream::new(6, 6, 6);
        // The truth spreads twice as far as the paths at first, and half as far at the end.
        let truth = |step: usize, random: &mut Stream| {
            let spread = if step < 6 { 2.0 } else { 0.5 };
            normal(spread, 1, random)[0]
        };
        let mut misses = Misses::new(12);
        for _ in 0..800 {
            let mut paths: Vec<_> = (0..12).map(|_| normal(1.0, 200, &mut random)).collect();
            let truth: Vec<f32> = (0..12).map(|step| truth(step, &mut random)).collect();
            misses.add(&mut paths, &truth);
        }
        let calibration = misses.calibration();
        assert!(calibration.is_sound());
        assert_eq!(calibration.factors.len(), 4);
        for (part, [below, above]) in calibration.factors.iter().enumerate() {
            let expect = if part < 2 { 2.0 } else { 0.5 };
            assert!((below / expect - 1.0).abs() < 0.1, "{part}: {below}");
            assert!((above / expect - 1.0).abs() < 0.1, "{part}: {above}");
        }
        let mut paths: Vec<_> = (0..12).map(|_| normal(1.0, 4001, &mut random)).collect();
        calibration.apply(&mut paths, false);
        let below = paths[0].iter().filter(|z| **z < 10.0 - 2.0 * 1.2816).count();
        assert!((below as f64 / 4001.0 - 0.1).abs() < 0.02, "{below}");
    }

    #[test]
    fn little_evidence_and_degenerate_paths_change_nothing() {
        let mut misses = Misses::new(3);
        misses.add(&mut [vec![1.0; 5], vec![], vec![f32::NAN; 4]], &[2.0, 1.0, f32::NAN]);
        let calibration = misses.calibration();
        assert_eq!(calibration.factors, [[1.0, 1.0]]);
        let mut paths = vec![vec![1.0, -3.0, 5.0], vec![], vec![f32::MAX, f32::MIN]];
        calibration.apply(&mut paths, true);
        assert_eq!(paths[0], [1.0, 0.0, 5.0]);
        assert_eq!(paths[2], [f32::MAX, 0.0]);
        let mut same = vec![vec![3.0, -1.0]];
        Calibration::default().apply(&mut same, false);
        assert_eq!(same, [[3.0, -1.0]]);
    }
}
