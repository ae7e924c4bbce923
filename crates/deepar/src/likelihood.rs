//! The laws a target can follow: their negative log-likelihood with its gradient, and how to
//! draw from them.
//!
//! Everything is in scaled space, y = z / v. The network gives raw numbers o; each law says
//! how they become parameters. A loss in the units of z is the one here plus ln v for the
//! continuous laws.
//!
//! | law | parameters |
//! | --- | --- |
//! | gaussian | mean o1, sigma = softplus(o2) |
//! | student-T | nu = 2 + softplus(o1), location o2, scale = softplus(o3) |
//! | negative-binomial | mean = softplus(o1) v, shape alpha = softplus(o2) / sqrt(v); variance = mean + alpha mean^2 (Salinas et al.) |
//! | beta | a, b = softplus(o); not scaled, targets in (0, 1) |
//! | deterministic-L1 | one number, absolute error; every sample is it |

use base::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::rng::Stream;

/// The law of the target. For a window of scale v and the network's raw outputs o:
///
/// | law | parameters |
/// | --- | --- |
/// | gaussian | mean o1 v, standard deviation softplus(o2) v |
/// | student-T | degrees of freedom 2 + softplus(o1), location o2 v, scale softplus(o3) v (GluonTS) |
/// | negative-binomial | mean softplus(o1) v, shape softplus(o2) / sqrt(v), variance mean + shape mean² (Salinas et al.) |
/// | beta | a = softplus(o1), b = softplus(o2); values from 0 to 1, not scaled |
/// | deterministic-L1 | every path is o1 v; learnt by absolute error (SageMaker) |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Likelihood {
    /// For real-valued data.
    #[serde(rename = "gaussian")]
    Gaussian,
    /// For real-valued data with bursts; the default.
    #[serde(rename = "student-T")]
    StudentT,
    /// For counts.
    #[serde(rename = "negative-binomial")]
    NegativeBinomial,
    /// For shares strictly between 0 and 1.
    #[serde(rename = "beta")]
    Beta,
    /// No law: a point forecast.
    #[serde(rename = "deterministic-L1")]
    DeterministicL1,
}

/// Scales of laws stay above this share of the series' own scale: a constant stretch would
/// otherwise drive the likelihood to infinity.
const SCALE_MIN: f64 = 1e-4;

impl Likelihood {
    /// All of them.
    pub const ALL: [Likelihood; 5] = [
        Likelihood::StudentT,
        Likelihood::Gaussian,
        Likelihood::NegativeBinomial,
        Likelihood::Beta,
        Likelihood::DeterministicL1,
    ];

    /// The name DeepAR gives it.
    pub fn name(self) -> &'static str {
        match self {
            Likelihood::Gaussian => "gaussian",
            Likelihood::StudentT => "student-T",
            Likelihood::NegativeBinomial => "negative-binomial",
            Likelihood::Beta => "beta",
            Likelihood::DeterministicL1 => "deterministic-L1",
        }
    }

    /// What its parameters are called, in the order of [`Likelihood::parameters`].
    pub fn parameter_names(self) -> &'static [&'static str] {
        match self {
            Likelihood::Gaussian => &["mean", "sigma"],
            Likelihood::StudentT => &["nu", "location", "scale"],
            Likelihood::NegativeBinomial => &["mean", "alpha"],
            Likelihood::Beta => &["a", "b"],
            Likelihood::DeterministicL1 => &["value"],
        }
    }

    /// The parameters in the units of the target; as many count as there are names.
    pub(crate) fn parameters(self, o: &[f64; 3], v: f64) -> [f64; 3] {
        match self {
            Likelihood::Gaussian => [o[0] * v, sigma(o[1]) * v, 0.0],
            Likelihood::StudentT => [2.0 + softplus(o[0]), o[1] * v, sigma(o[2]) * v],
            Likelihood::NegativeBinomial => [count_mean(o, v), count_alpha(o, v), 0.0],
            Likelihood::Beta => [beta_shape(o[0]), beta_shape(o[1]), 0.0],
            Likelihood::DeterministicL1 => [o[0] * v, 0.0, 0.0],
        }
    }

    /// Numbers the network gives for it.
    pub(crate) fn outputs(self) -> usize {
        match self {
            Likelihood::StudentT => 3,
            Likelihood::DeterministicL1 => 1,
            _ => 2,
        }
    }

    /// Which of the outputs is the law's location in scaled space, for laws that have one.
    pub(crate) fn location(self) -> Option<usize> {
        match self {
            Likelihood::Gaussian | Likelihood::DeterministicL1 => Some(0),
            Likelihood::StudentT => Some(1),
            Likelihood::NegativeBinomial | Likelihood::Beta => None,
        }
    }

    /// Whether targets are divided by the scale of their window.
    pub(crate) fn is_scaled(self) -> bool {
        self != Likelihood::Beta
    }

    /// Whether the loss in the units of the target is the scaled one plus ln v.
    pub(crate) fn is_density_in_z(self) -> bool {
        matches!(self, Likelihood::Gaussian | Likelihood::StudentT)
    }

    /// Refuses a target outside the law's support.
    pub(crate) fn check(self, z: f32) -> Result<()> {
        let supported = match self {
            Likelihood::Beta => (0.0..=1.0).contains(&z),
            Likelihood::NegativeBinomial => z >= 0.0 && z.fract() == 0.0,
            _ => true,
        };
        let expected = match self {
            Likelihood::Beta => "values from 0 to 1",
            _ => "counts: whole numbers from 0",
        };
        if supported {
            return Ok(());
        }
        let name = self.name();
        Err(Error::invalid(format!(
            "target {z} does not suit likelihood {name}, which takes {expected}"
        )))
    }

    /// The negative log-likelihood of `y` (of z = y v for counts) under raw outputs `o`, and
    /// its derivatives by them in `d`.
    pub(crate) fn loss(self, o: &[f64; 3], y: f64, v: f64, d: &mut [f64; 3]) -> f64 {
        match self {
            Likelihood::Gaussian => gaussian(o, y, d),
            Likelihood::StudentT => student_t(o, y, d),
            Likelihood::NegativeBinomial => negative_binomial(o, y * v, v, d),
            Likelihood::Beta => beta(o, y, d),
            Likelihood::DeterministicL1 => {
                d[0] = (o[0] - y).signum();
                (o[0] - y).abs()
            }
        }
    }

    /// The draw of the gaussian law that a normal number makes.
    pub(crate) fn sample_gaussian(o: &[f64; 3], normal: f64) -> f64 {
        o[0] + sigma(o[1]) * normal
    }

    /// One draw, scaled. The outputs are finite, or rejection would try for ever.
    pub(crate) fn sample(self, o: &[f64; 3], v: f64, random: &mut Stream) -> f64 {
        match self {
            Likelihood::Gaussian => Likelihood::sample_gaussian(o, random.normal()),
            Likelihood::StudentT => o[1] + sigma(o[2]) * random.student_t(2.0 + softplus(o[0])),
            Likelihood::NegativeBinomial => {
                let (mean, alpha) = (count_mean(o, v), count_alpha(o, v));
                // A Poisson law whose mean follows a gamma law of mean `mean` and shape 1/alpha.
                let rate = random.gamma(1.0 / alpha) * alpha * mean;
                random.poisson(rate.min(1e15)) / v
            }
            Likelihood::Beta => {
                let a = random.gamma(beta_shape(o[0]));
                let b = random.gamma(beta_shape(o[1]));
                // Both shapes tiny can give 0 / 0.
                if a + b > 0.0 { a / (a + b) } else { 0.5 }
            }
            Likelihood::DeterministicL1 => o[0],
        }
    }
}

fn softplus(x: f64) -> f64 {
    // ln(1 + e^x) without overflow.
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn logistic(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn sigma(raw: f64) -> f64 {
    SCALE_MIN + softplus(raw)
}

fn gaussian(o: &[f64; 3], y: f64, d: &mut [f64; 3]) -> f64 {
    const HALF_LN_TAU: f64 = 0.918_938_533_204_672_8;
    let s = sigma(o[1]);
    let r = (y - o[0]) / s;
    d[0] = -r / s;
    d[1] = (1.0 - r * r) / s * logistic(o[1]);
    0.5 * r * r + s.ln() + HALF_LN_TAU
}

fn student_t(o: &[f64; 3], y: f64, d: &mut [f64; 3]) -> f64 {
    let nu = 2.0 + softplus(o[0]);
    let s = sigma(o[2]);
    let r = (y - o[1]) / s;
    let tail = nu + r * r;
    let log_tail = (r * r / nu).ln_1p();
    let (log_ratio, log_ratio_slope) = half_step(nu / 2.0);
    let d_nu =
        -0.5 * log_ratio_slope + 0.5 / nu + 0.5 * log_tail - (nu + 1.0) * r * r / (2.0 * nu * tail);
    d[0] = d_nu * logistic(o[0]);
    d[1] = -(nu + 1.0) * r / (s * tail);
    d[2] = (1.0 - (nu + 1.0) * r * r / tail) / s * logistic(o[2]);
    -log_ratio + 0.5 * (nu * std::f64::consts::PI).ln() + s.ln() + 0.5 * (nu + 1.0) * log_tail
}

/// ln(G(x + 1/2) / G(x)) and its derivative, for x >= 1: lifted to x + 5 by the recurrence,
/// there by the asymptotic series; error below 1e-9.
fn half_step(x: f64) -> (f64, f64) {
    let (mut ratio, mut slope) = (1.0, 0.0);
    for k in 0..5 {
        let (low, high) = (x + f64::from(k), x + f64::from(k) + 0.5);
        ratio *= low / high;
        slope += 1.0 / low - 1.0 / high;
    }
    let i = 1.0 / (x + 5.0);
    let i2 = i * i;
    let series = i * (-1.0 / 8.0 + i2 * (1.0 / 192.0 + i2 * (-1.0 / 640.0 + i2 * 17.0 / 14_336.0)));
    let series_slope =
        i * (0.5 + i * (1.0 / 8.0 + i2 * (-1.0 / 64.0 + i2 * (1.0 / 128.0 - i2 * 17.0 / 2048.0))));
    ((ratio / i.sqrt()).ln() + series, slope + series_slope)
}

fn count_mean(o: &[f64; 3], v: f64) -> f64 {
    (softplus(o[0]) + 1e-9) * v
}

fn count_alpha(o: &[f64; 3], v: f64) -> f64 {
    (softplus(o[1]) / v.sqrt()).max(1e-6)
}

fn negative_binomial(o: &[f64; 3], z: f64, v: f64, d: &mut [f64; 3]) -> f64 {
    let (mean, alpha) = (count_mean(o, v), count_alpha(o, v));
    let shape = 1.0 / alpha;
    let spread = (alpha * mean).ln_1p();
    let d_mean = (mean - z) / (mean * (1.0 + alpha * mean));
    let d_alpha = shape * shape * (digamma(z + shape) - digamma(shape) - spread)
        + (mean * (1.0 + alpha * z)) / (alpha * (1.0 + alpha * mean))
        - z * shape;
    d[0] = d_mean * v * logistic(o[0]);
    // At the floor of alpha the slope is left as it is, so that training can leave it.
    d[1] = d_alpha / v.sqrt() * logistic(o[1]);
    ln_gamma(shape) + ln_gamma(z + 1.0) - ln_gamma(z + shape) + (shape + z) * spread
        - z * (alpha * mean).ln()
}

fn beta_shape(raw: f64) -> f64 {
    1e-3 + softplus(raw)
}

fn beta(o: &[f64; 3], y: f64, d: &mut [f64; 3]) -> f64 {
    let (a, b) = (beta_shape(o[0]), beta_shape(o[1]));
    // The ends have no density; sensors report them all the same.
    let y = y.clamp(1e-4, 1.0 - 1e-4);
    let both = digamma(a + b);
    d[0] = (digamma(a) - both - y.ln()) * logistic(o[0]);
    d[1] = (digamma(b) - both - (-y).ln_1p()) * logistic(o[1]);
    ln_gamma(a) + ln_gamma(b) - ln_gamma(a + b) - (a - 1.0) * y.ln() - (b - 1.0) * (-y).ln_1p()
}

/// ln G(x) for x > 0: lifted above 8 by the recurrence, there Stirling's series; relative
/// error below 1e-12.
pub(crate) fn ln_gamma(x: f64) -> f64 {
    const HALF_LN_TAU: f64 = 0.918_938_533_204_672_8;
    let (mut x, mut product) = (x, 1.0);
    while x < 8.0 {
        product *= x;
        x += 1.0;
    }
    let i = 1.0 / x;
    let i2 = i * i;
    let series = i
        * (1.0 / 12.0
            - i2 * (1.0 / 360.0 - i2 * (1.0 / 1260.0 - i2 * (1.0 / 1680.0 - i2 / 1188.0))));
    (x - 0.5) * x.ln() - x + HALF_LN_TAU + series - product.ln()
}

/// The derivative of [`ln_gamma`], error below 1e-10.
fn digamma(x: f64) -> f64 {
    let (mut x, mut sum) = (x, 0.0);
    while x < 8.0 {
        sum += 1.0 / x;
        x += 1.0;
    }
    let i2 = 1.0 / (x * x);
    let series = i2
        * (1.0 / 12.0 - i2 * (1.0 / 120.0 - i2 * (1.0 / 252.0 - i2 * (1.0 / 240.0 - i2 / 132.0))));
    x.ln() - 0.5 / x - series - sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_match_scipy() {
        // scipy.stats: -norm.logpdf, -t.logpdf, -nbinom.logpmf, -beta.logpdf.
        let mut d = [0.0; 3];
        let raw = |value: f64| value.exp_m1().ln();
        let loss = Likelihood::Gaussian.loss(&[0.3, raw(0.7 - SCALE_MIN), 0.0], 1.1, 1.0, &mut d);
        assert!((loss - 1.215_324_813_7).abs() < 1e-8, "{loss}");
        let loss =
            Likelihood::StudentT.loss(&[raw(3.0), 0.3, raw(0.7 - SCALE_MIN)], 1.9, 1.0, &mut d);
        let r: f64 = 1.6 / 0.7;
        let expect = -(ln_gamma(3.0)
            - ln_gamma(2.5)
            - 0.5 * (5.0 * std::f64::consts::PI).ln()
            - 0.7f64.ln()
            - 3.0 * (1.0 + r * r / 5.0).ln());
        assert!((loss - expect).abs() < 1e-8, "{loss} {expect}");
        // nbinom.logpmf(3, 2, 0.4): n = 1 / alpha = 2, mean = 3.
        let loss =
            Likelihood::NegativeBinomial.loss(&[raw(3.0 - 1e-9), raw(0.5), 0.0], 3.0, 1.0, &mut d);
        let expect = -(4.0f64 * 0.16 * 0.216).ln();
        assert!((loss - expect).abs() < 1e-7, "{loss} {expect}");
        // beta(2, 3).pdf(0.25) = 12 * 0.25 * 0.75^2.
        let loss = Likelihood::Beta.loss(&[raw(1.999), raw(2.999), 0.0], 0.25, 1.0, &mut d);
        assert!((loss + (12.0f64 * 0.25 * 0.5625).ln()).abs() < 1e-8, "{loss}");
    }

    #[test]
    fn gamma_functions() {
        assert!((ln_gamma(0.5) - std::f64::consts::PI.sqrt().ln()).abs() < 1e-11);
        assert!((ln_gamma(11.0) - 3_628_800f64.ln()).abs() < 1e-11);
        assert!((digamma(1.0) + 0.577_215_664_901_532_9).abs() < 1e-10);
        for x in [1.0, 1.3, 2.0, 9.0, 400.0] {
            let (value, slope) = half_step(x);
            assert!((value - (ln_gamma(x + 0.5) - ln_gamma(x))).abs() < 1e-9, "{x}");
            assert!((slope - (digamma(x + 0.5) - digamma(x))).abs() < 1e-8, "{x}");
        }
    }

    #[test]
    fn gradients_match_finite_differences() {
        let mut stream = Stream::new(2, 2, 2);
        for law in Likelihood::ALL {
            for _ in 0..300 {
                let o: [f64; 3] = std::array::from_fn(|_| stream.uniform() * 6.0 - 3.0);
                let v = 0.5 + stream.uniform() * 20.0;
                let y = match law {
                    Likelihood::Beta => stream.uniform(),
                    Likelihood::NegativeBinomial => stream.poisson(3.0) / v,
                    _ => stream.uniform() * 8.0 - 4.0,
                };
                let (mut d, mut unused) = ([0.0; 3], [0.0; 3]);
                law.loss(&o, y, v, &mut d);
                for k in 0..law.outputs() {
                    let mut at = |step: f64| {
                        let mut moved = o;
                        moved[k] += step;
                        law.loss(&moved, y, v, &mut unused)
                    };
                    let slope = (at(1e-5) - at(-1e-5)) / 2e-5;
                    let tolerance = 1e-5 * (1.0 + slope.abs());
                    assert!((d[k] - slope).abs() < tolerance, "{law:?} {k}: {} {slope}", d[k]);
                }
            }
        }
    }

    #[test]
    fn samples_follow_the_law_they_are_scored_by() {
        // E[d loss / d o] over draws is zero at the true parameters.
        for law in [
            Likelihood::Gaussian,
            Likelihood::StudentT,
            Likelihood::NegativeBinomial,
            Likelihood::Beta,
        ] {
            let (o, v) = ([0.4, 0.8, -0.5], 6.0);
            let mut stream = Stream::new(8, 8, 8);
            let mut sums = [0.0; 3];
            let n = 200_000;
            for _ in 0..n {
                let y = law.sample(&o, v, &mut stream);
                let mut d = [0.0; 3];
                law.loss(&o, y, v, &mut d);
                (0..3).for_each(|k| sums[k] += d[k]);
            }
            for (k, sum) in sums.iter().enumerate() {
                assert!((sum / f64::from(n)).abs() < 0.02, "{law:?} {k}: {}", sum / f64::from(n));
            }
        }
    }

    #[test]
    fn parameters_are_those_the_samples_follow() {
        // A large nu, so that the variance of the draws settles.
        let (o, v, n) = ([8.0, 0.8, -0.5], 6.0, 200_000);
        for law in Likelihood::ALL {
            let [first, second, third] = law.parameters(&o, v);
            let expect = match law {
                Likelihood::Gaussian | Likelihood::NegativeBinomial => first,
                Likelihood::StudentT => second,
                Likelihood::Beta => first / (first + second),
                Likelihood::DeterministicL1 => first,
            };
            let variance = match law {
                Likelihood::Gaussian => second * second,
                Likelihood::StudentT => third * third * first / (first - 2.0),
                Likelihood::NegativeBinomial => first + second * first * first,
                Likelihood::Beta => expect * (1.0 - expect) / (first + second + 1.0),
                Likelihood::DeterministicL1 => 0.0,
            };
            let unit = if law.is_scaled() { v } else { 1.0 };
            let mut stream = Stream::new(4, 4, 4);
            let draws: Vec<f64> = (0..n).map(|_| unit * law.sample(&o, v, &mut stream)).collect();
            let mean = draws.iter().sum::<f64>() / f64::from(n);
            let spread = draws.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / f64::from(n);
            assert!(
                (mean - expect).abs() < 0.05 * (1.0 + expect.abs()),
                "{law:?}: {mean} {expect}"
            );
            assert!(
                (spread - variance).abs() < 0.1 * (0.01 + variance),
                "{law:?}: {spread} {variance}"
            );
        }
    }

    #[test]
    fn extreme_outputs_stay_finite() {
        let mut stream = Stream::new(8, 8, 8);
        for law in Likelihood::ALL {
            for extreme in [-60.0, 60.0, -700.0, 700.0] {
                for y in [0.0, 0.5, 1.0] {
                    let mut d = [0.0; 3];
                    let o = [extreme; 3];
                    let loss = law.loss(&o, y, 2.0, &mut d);
                    assert!(
                        loss.is_finite() && d.iter().all(|x| x.is_finite()),
                        "{law:?} {extreme}"
                    );
                    assert!(law.sample(&o, 2.0, &mut stream).is_finite(), "{law:?} {extreme}");
                }
            }
        }
    }
}
