//! Which variant answers: smooth weighted choice.
//!
//! Every turn each variant gains its weight, the richest answers and pays the sum. Shares are
//! exact over any stretch of requests to within one request a variant, without a random
//! number, so that traffic can be replayed and a test can count.

use base::{Error, Result};

/// Takes turns between weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Wheel {
    weights: Vec<f64>,
    credit: Vec<f64>,
}

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
        Ok(Wheel { credit: vec![0.0; weights.len()], weights })
    }

    /// The share of the requests that an index gets.
    pub fn share(&self, index: usize) -> f64 {
        let sum: f64 = self.weights.iter().sum();
        self.weights.get(index).map_or(0.0, |weight| weight / sum)
    }

    /// The index that answers next. Ties go to the first.
    pub fn turn(&mut self) -> usize {
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
