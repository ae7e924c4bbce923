//! Randomness by counter: every number is a function of (seed, purpose, index, position).
//!
//! Nothing is carried from step to step, so the draw for a window does not depend on which
//! thread makes it or what was drawn before, and a run can be repeated from its seed.

/// What a stream is for; keeps uses of one seed apart.
pub(crate) mod purpose {
    pub(crate) const INIT: u64 = 1;
    pub(crate) const WINDOWS: u64 = 2;
    pub(crate) const ZONEOUT: u64 = 3;
    pub(crate) const SAMPLES: u64 = 4;
    pub(crate) const MEMBERS: u64 = 5;
    pub(crate) const APART: u64 = 6;
}

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finaliser of SplitMix64 (Steele et al. 2014): every input bit reaches every output bit.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// One sequence of random numbers.
#[derive(Clone, Debug)]
pub(crate) struct Stream(u64);

impl Stream {
    /// The stream of `seed` for `purpose` at `index`.
    pub(crate) fn new(seed: u64, purpose: u64, index: u64) -> Self {
        let keyed = mix(seed.wrapping_add(GAMMA)) ^ purpose.wrapping_mul(GAMMA);
        Stream(mix(mix(keyed) ^ index.wrapping_mul(GAMMA)))
    }

    #[inline(always)]
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        mix(self.0)
    }

    /// Uniform in (0, 1), never an end.
    pub(crate) fn uniform(&mut self) -> f64 {
        ((self.next_u64() >> 12) as f64 + 0.5) / (1u64 << 52) as f64
    }

    /// Uniform in `0..bound`; `bound` > 0. The bias is below bound / 2^64.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Normal with mean 0 and variance 1 (Box and Muller).
    pub(crate) fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Student's t with `nu` degrees of freedom, by Bailey's form of Box and Muller (1994).
    pub(crate) fn student_t(&mut self, nu: f64) -> f64 {
        let radius = (nu * (-2.0 / nu * self.uniform().ln()).exp_m1()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Gamma with `shape` > 0 and scale 1 (Marsaglia and Tsang 2000).
    pub(crate) fn gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            // Gamma(a) = Gamma(a + 1) U^(1/a).
            let boost = self.uniform().powf(1.0 / shape);
            return self.gamma(shape + 1.0) * boost;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && self.uniform().ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v;
            }
        }
    }

    /// Poisson with `mean` >= 0: by inversion below 30, else by Hoermann's transformed
    /// rejection (PTRS, 1993).
    pub(crate) fn poisson(&mut self, mean: f64) -> f64 {
        if mean < 30.0 {
            let (mut k, mut p) = (0.0, (-mean).exp());
            let mut left = self.uniform() - p;
            while left > 0.0 && k < 1000.0 {
                k += 1.0;
                p *= mean / k;
                left -= p;
            }
            return k;
        }
        let b = 0.931 + 2.53 * mean.sqrt();
        let a = -0.059 + 0.02483 * b;
        let v_r = 0.9277 - 3.6224 / (b - 2.0);
        let inverse_alpha = 1.1239 + 1.1328 / (b - 3.4);
        loop {
            let u = self.uniform() - 0.5;
            let v = self.uniform();
            let us = 0.5 - u.abs();
            let k = ((2.0 * a / us + b) * u + mean + 0.43).floor();
            if us >= 0.07 && v <= v_r {
                return k;
            }
            if k < 0.0 || (us < 0.013 && v > us) {
                continue;
            }
            let accept = (v * inverse_alpha / (a / (us * us) + b)).ln();
            if accept <= k * mean.ln() - mean - crate::likelihood::ln_gamma(k + 1.0) {
                return k;
            }
        }
    }

    /// The next `N` numbers, side by side so that compilers make vectors of them.
    #[inline(always)]
    fn next_words<const N: usize>(&mut self) -> [u64; N] {
        let words = std::array::from_fn(|k| {
            mix(self.0.wrapping_add(GAMMA.wrapping_mul((k as u64).wrapping_add(1))))
        });
        self.0 = self.0.wrapping_add(GAMMA.wrapping_mul(N as u64));
        words
    }

    /// 512 independent bits, each set with `probability`: compares 512 uniform numbers with it
    /// bit by bit from the highest, until each is decided.
    #[inline(always)]
    pub(crate) fn bits(&mut self, probability: Threshold) -> [u64; 8] {
        let (mut below, mut undecided) = ([0; 8], [u64::MAX; 8]);
        let mut digits = probability.0;
        while digits != 0 && undecided.iter().fold(0, |all, word| all | word) != 0 {
            let random = self.next_words::<8>();
            let set = digits >> 31 == 1;
            for ((below, undecided), random) in below.iter_mut().zip(&mut undecided).zip(random) {
                *below |= if set { *undecided & !random } else { 0 };
                *undecided &= if set { random } else { !random };
            }
            digits <<= 1;
        }
        below
    }
}

/// A probability as 32 binary digits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Threshold(u32);

impl Threshold {
    /// `probability` in [0, 1), to 2^-32.
    pub(crate) fn new(probability: f64) -> Self {
        Threshold((probability * 4_294_967_296.0) as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: usize = 200_000;

    fn moments(mut draw: impl FnMut(&mut Stream) -> f64) -> (f64, f64) {
        let mut stream = Stream::new(1, 99, 5);
        let values: Vec<f64> = (0..N).map(|_| draw(&mut stream)).collect();
        let mean = values.iter().sum::<f64>() / N as f64;
        (mean, values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / N as f64)
    }

    #[track_caller]
    fn near((mean, variance): (f64, f64), expect: (f64, f64)) {
        let tolerance = 5.0 * (expect.1 / N as f64).sqrt();
        assert!((mean - expect.0).abs() < tolerance, "mean {mean}, not {}", expect.0);
        assert!((variance / expect.1 - 1.0).abs() < 0.05, "variance {variance}, not {}", expect.1);
    }

    #[test]
    fn laws_have_their_moments() {
        near(moments(Stream::uniform), (0.5, 1.0 / 12.0));
        near(moments(Stream::normal), (0.0, 1.0));
        near(moments(|s| s.student_t(8.0)), (0.0, 8.0 / 6.0));
        near(moments(|s| s.gamma(0.5)), (0.5, 0.5));
        near(moments(|s| s.gamma(7.5)), (7.5, 7.5));
        near(moments(|s| s.poisson(3.3)), (3.3, 3.3));
        near(moments(|s| s.poisson(120.0)), (120.0, 120.0));
        near(moments(|s| s.below(10) as f64), (4.5, 8.25));
    }

    #[test]
    fn bits_are_set_with_their_probability() {
        for p in [0.0, 0.05, 0.1, 0.5, 0.75] {
            let mut stream = Stream::new(4, 4, 4);
            let threshold = Threshold::new(p);
            let words: Vec<u64> = (0..500).flat_map(|_| stream.bits(threshold)).collect();
            let share_of = |bits: &mut dyn Iterator<Item = u64>| {
                let (set, of) =
                    bits.fold((0, 0), |(set, of), word| (set + word.count_ones(), of + 64));
                f64::from(set) / f64::from(of)
            };
            let share = share_of(&mut words.iter().copied());
            assert!((share - p).abs() < 0.005, "{share} for {p}");
            // Neighbours in one word, in words side by side and in calls after each other know
            // nothing of each other.
            for apart in [1, 8] {
                let pairs = words.iter().zip(&words[apart..]).map(|(a, b)| a & b);
                let both = share_of(&mut pairs.into_iter());
                assert!((both - p * p).abs() < 0.007, "{both} for {p}, {apart} apart");
            }
            let both = share_of(&mut words.iter().map(|word| word & word.rotate_left(1)));
            assert!((both - p * p).abs() < 0.007, "{both} for {p}");
        }
    }

    #[test]
    fn streams_differ_by_each_key() {
        let first = |seed, purpose, index| Stream::new(seed, purpose, index).next_u64();
        let all = [first(0, 0, 0), first(1, 0, 0), first(0, 1, 0), first(0, 0, 1), first(1, 1, 1)];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b));
        }
    }
}
