//! Which variant answers: smooth weighted choice.
//!
//! Every turn each variant gains its weight, the richest answers and pays the sum. Shares are
//! exact over any stretch of requests to within one request a variant, without a random
//! number, so that traffic can be replayed and a test can count. Between variants, and between
//! those on trial and those they replace, the turns of every twenty are
//! [shuffled](Wheel::shuffled).

use base::{Error, Result};

/// Takes turns between weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Wheel {
    weights: Vec<f64>,
    credit: Vec<f64>,
    shuffled: Option<Shuffled>,
}

/// Turns that are dealt by the block, each in an order of its own.
#[derive(Clone, Debug, Default, PartialEq)]
struct Shuffled {
    block: Vec<usize>,
    state: u64,
}

/// Turns of a block.
const BLOCK: usize = 20;

impl Wheel {
    /// A wheel over weights that are finite, not negative and at least one of them positive.
    pub fn new(weights: Vec<f64>) -> Result<Wheel> {
        if let Some(bad) = weights.iter().find(|weight| !(weight.is_finite() && **weight >= 0.0)) {
            return Err(Error::invalid(format!("weight {bad} is not a number of at least 0")));
        }
        let sum: f64 = weights.iter().sum();
        if !(sum > 0.0 && sum.is_finite()) {
            return Err(Error::invalid(format!(
                "the weights {weights:?} leave no traffic to share"
            )));
        }
        Ok(Wheel { credit: vec![0.0; weights.len()], weights, shuffled: None })
    }

    /// The same, with the turns of every twenty in another order: clients whose requests come in
    /// a rhythm (station after station, say) must not always meet the same variant, or no
    /// comparison of the variants would be fair. Repeatable as well.
    #[must_use]
    pub fn shuffled(mut self) -> Wheel {
        self.shuffled = Some(Shuffled::default());
        self
    }

    /// The share of the requests that an index gets.
    pub fn share(&self, index: usize) -> f64 {
        let sum: f64 = self.weights.iter().sum();
        self.weights.get(index).map_or(0.0, |weight| weight / sum)
    }

    /// The index that answers next.
    pub fn turn(&mut self) -> usize {
        let Some(mut shuffled) = self.shuffled.take() else { return self.next() };
        if shuffled.block.is_empty() {
            shuffled.block.extend((0..BLOCK).map(|_| self.next()));
            for last in (1..BLOCK).rev() {
                let other = shuffled.random(last + 1);
                shuffled.block.swap(last, other);
            }
        }
        let turn = shuffled.block.pop().unwrap_or_else(|| self.next());
        self.shuffled = Some(shuffled);
        turn
    }

    /// The next in order. Ties go to the first.
    fn next(&mut self) -> usize {
        let mut best = None;
        for (k, weight) in self.weights.iter().enumerate() {
            self.credit[k] += weight;
            // A weight of zero never answers, whatever rounding did to the credits.
            if *weight > 0.0 && best.is_none_or(|best: usize| self.credit[k] > self.credit[best]) {
                best = Some(k);
            }
        }
        let best = best.expect("a wheel has a positive weight, see new");
        self.credit[best] -= self.weights.iter().sum::<f64>();
        best
    }
}

impl Shuffled {
    /// A number below `end`, by SplitMix64.
    fn random(&mut self, end: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // The bias of the remainder is nothing beside a block of twenty.
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn turns_are_spread_and_repeatable() {
        let mut wheel = Wheel::new(vec![5.0, 1.0, 1.0]).unwrap();
        let turns: Vec<usize> = (0..14).map(|_| wheel.turn()).collect();
        assert_eq!(turns, [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn shuffled_turns_keep_the_shares_and_no_rhythm() {
        let mut wheel = Wheel::new(vec![1.0, 1.0]).unwrap().shuffled();
        let turns: Vec<usize> = (0..2000).map(|_| wheel.turn()).collect();
        for block in turns.chunks(20) {
            assert_eq!(block.iter().sum::<usize>(), 10);
        }
        // A client that asks for one of a few stations in turn meets both variants with each.
        for stations in 2..=12 {
            for station in 0..stations {
                let met: Vec<usize> =
                    turns.iter().skip(station).step_by(stations).copied().collect();
                let share = met.iter().sum::<usize>() as f64 / met.len() as f64;
                assert!((0.35..0.65).contains(&share), "{station} of {stations}: {share}");
            }
        }
    }

    #[test]
    fn weights_without_traffic_are_refused() {
        for weights in [vec![], vec![0.0], vec![-1.0, 2.0], vec![f64::NAN], vec![f64::MAX; 3]] {
            assert!(Wheel::new(weights.clone()).is_err(), "{weights:?}");
        }
    }

    proptest! {
        #[test]
        fn shares_are_exact_to_one_request(weights in prop::collection::vec(0u32..50, 1..10)) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let mut wheel = Wheel::new(weights.iter().map(|w| f64::from(*w)).collect()).unwrap();
            let sum: u32 = weights.iter().sum();
            let mut counts = vec![0u32; weights.len()];
            for turn in 1..=2 * sum {
                counts[wheel.turn()] += 1;
                for (count, weight) in counts.iter().zip(&weights) {
                    let fair = f64::from(*weight) * f64::from(turn) / f64::from(sum);
                    prop_assert!((f64::from(*count) - fair).abs() <= weights.len() as f64);
                }
            }
            let fair: Vec<u32> = weights.iter().map(|weight| 2 * weight).collect();
            prop_assert_eq!(counts, fair);
        }
    }
}
