//! What a core can do: work without waiting, to be timed by whoever asks how close a training
//! comes to it.
//!
//! [`fma_loop`] is the ceiling: multiply-adds on registers alone, nothing loaded, nothing stored.
//! [`gemm_loop`] is what the matrix products of a training step come to on their own: the same
//! kernels at the same sizes, without activations, input features and the optimiser.
//!
//! Both do a fixed amount of work and return it, because there is no clock in this crate.

#![expect(unsafe_code, reason = "calls the kernels, whose slices are checked before")]

use std::hint::black_box;
use std::marker::PhantomData;

#[cfg(target_arch = "x86_64")]
use super::simd::{Avx2, Avx512};
use super::simd::{Portable, Simd};
use super::{Backward, BackwardScratch, Base, Forward, Isa, Kind, Loops, PANEL, Zone, lstm};

/// Does `rounds` rounds of multiply-adds on registers with the instructions of `isa`, and
/// returns how many floating-point operations that were (a multiply-add is two).
///
/// ```
/// let started = std::time::Instant::now();
/// let done = deepar::limit::fma_loop(deepar::Isa::detect(), 100_000);
/// let gflops = done / started.elapsed().as_secs_f64() / 1e9;
/// assert!(gflops > 0.0);
/// ```
pub fn fma_loop(isa: Isa, rounds: u64) -> f64 {
    match isa.0 {
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512 => isa.run(Fma::<Avx512, 12>(rounds, PhantomData)),
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2 => isa.run(Fma::<Avx2, 12>(rounds, PhantomData)),
        // Two of SSE's or NEON's registers a sum.
        Kind::Portable => isa.run(Fma::<Portable, 5>(rounds, PhantomData)),
    }
}

/// Two units of four cycles' latency need 8 sums under way; 12 leave room and fit into the 16
/// registers of AVX2 with both factors.
struct Fma<S, const SUMS: usize>(u64, PhantomData<S>);

impl<S: Simd, const SUMS: usize> Loops for Fma<S, SUMS> {
    type Output = f64;

    #[inline(always)]
    fn run(self) -> f64 {
        const REPEATS: usize = 8;
        // SAFETY: `Isa` has detected the instructions; `out` holds a vector of every set.
        unsafe {
            let (a, b) = (S::splat(black_box(0.999)), S::splat(black_box(0.001)));
            let mut sums = [S::splat(0.5); SUMS];
            for _ in 0..self.0 {
                for _ in 0..REPEATS {
                    for sum in &mut sums {
                        *sum = S::fma(*sum, a, b);
                    }
                }
            }
            let mut out = [0.0f32; 16];
            for sum in sums {
                S::store(out.as_mut_ptr(), sum);
                black_box(&mut out);
            }
        }
        self.0 as f64 * (SUMS * REPEATS * S::N * 2) as f64
    }
}

/// The sizes of one layer's products.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerSize {
    /// Series side by side: 16 or 32.
    pub lanes: usize,
    /// Hidden units; rounded up to a multiple of 8, as the network does.
    pub cells: usize,
    /// Inputs that change by step. Where they are as many as the hidden units this is an upper
    /// layer, and the product that carries the gradient down is among the work.
    pub inputs: usize,
    /// Steps of a window.
    pub steps: usize,
}

/// Does the matrix products of one training pass over one layer `rounds` times, forward and back,
/// and returns how many floating-point operations that were.
///
/// # Panics
///
/// If `size.lanes` is neither 16 nor 32, or another size is 0.
pub fn gemm_loop(isa: Isa, size: LayerSize, rounds: u64) -> f64 {
    let LayerSize { lanes, cells, inputs, steps } = size;
    assert!(cells > 0 && inputs > 0 && steps > 0, "a layer without a size: {size:?}");
    let hidden = cells.div_ceil(PANEL) * PANEL;
    let columns = (inputs + hidden).div_ceil(16) * 16;
    let state = hidden * lanes;
    let noise = |len: usize| -> Vec<f32> {
        (0..len).map(|at| ((at * 7919 % 1009) as f32 / 1009.0 - 0.5) * 0.1).collect()
    };
    let (panels, base, x) =
        (noise(4 * hidden * (inputs + hidden)), noise(4 * state), noise(steps * inputs * lanes));
    let (mut h, mut c) = (noise((steps + 1) * state), noise((steps + 1) * state));
    let (mut gates, mut tanh_c) = (noise(steps * 4 * state), noise(steps * state));
    let mut forward = Forward {
        lanes,
        hidden,
        steps,
        inputs,
        inputs_packed: inputs,
        panels: &panels,
        base: Base::Lanes(&base),
        x: &x,
        h: &mut h,
        c: &mut c,
        gates: &mut gates,
        tanh_c: &mut tanh_c,
        zone: Zone::Off,
    };
    forward.check();
    isa.run(ByIsa { isa, work: Half::Forward(&mut forward), rounds });
    let upper = inputs == hidden;
    let panels_h = noise(4 * hidden * hidden);
    let panels_x = if upper { panels_h.clone() } else { Vec::new() };
    let (mut dh, mut dbase) = (noise(steps * state), noise(4 * state));
    let mut grad = noise(4 * hidden * columns);
    let mut scratch = BackwardScratch::default();
    let mut backward = Backward {
        lanes,
        hidden,
        steps,
        inputs,
        columns,
        panels_h: &panels_h,
        panels_x: &panels_x,
        x: &x,
        h: &h,
        c: &c,
        gates: &mut gates,
        tanh_c: &tanh_c,
        zone: Zone::Off,
        dh: &mut dh,
        dbase: &mut dbase,
        grad: &mut grad,
        scratch: &mut scratch,
    };
    backward.check();
    isa.run(ByIsa { isa, work: Half::Backward(&mut backward), rounds });
    black_box(&grad);
    black_box(&dh);
    rounds as f64 * layer_flops(inputs, hidden, upper) * (steps * lanes) as f64
}

/// Floating-point operations of one layer's products for one step of one window, forward and
/// back: `[4H][I + H]` times a vector, three times (the gates, their gradient carried back, the
/// weights' gradient), less the gradient of the inputs where nobody asks for it.
pub(crate) fn layer_flops(inputs: usize, hidden: usize, upper: bool) -> f64 {
    let of = |columns: usize| (2 * 4 * hidden * columns) as f64;
    3.0 * of(inputs + hidden) - if upper { 0.0 } else { of(inputs) }
}

enum Half<'a, 'b> {
    Forward(&'a mut Forward<'b>),
    Backward(&'a mut Backward<'b>),
}

/// The products of one half, with the tiles that [`Isa`] chooses for the set.
struct ByIsa<'a, 'b> {
    isa: Isa,
    work: Half<'a, 'b>,
    rounds: u64,
}

impl Loops for ByIsa<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run(mut self) {
        for _ in 0..self.rounds {
            // SAFETY: `Isa::run` compiles this for the set that `Isa` has detected; `check` has
            // passed for either half.
            unsafe {
                match (self.isa.0, &mut self.work) {
                    #[cfg(target_arch = "x86_64")]
                    (Kind::Avx512, Half::Forward(a)) if a.lanes == 16 => {
                        lstm::forward_products::<Avx512, 8, 1>(a);
                    }
                    #[cfg(target_arch = "x86_64")]
                    (Kind::Avx512, Half::Backward(a)) if a.lanes == 16 => {
                        lstm::backward_products::<Avx512, 8, 1, 6>(a);
                    }
                    #[cfg(target_arch = "x86_64")]
                    (Kind::Avx512, Half::Forward(a)) => {
                        lstm::forward_products::<Avx512, 8, 2>(a);
                    }
                    #[cfg(target_arch = "x86_64")]
                    (Kind::Avx512, Half::Backward(a)) => {
                        lstm::backward_products::<Avx512, 8, 2, 6>(a);
                    }
                    #[cfg(target_arch = "x86_64")]
                    (Kind::Avx2, Half::Forward(a)) => lstm::forward_products::<Avx2, 4, 2>(a),
                    #[cfg(target_arch = "x86_64")]
                    (Kind::Avx2, Half::Backward(a)) => {
                        lstm::backward_products::<Avx2, 4, 2, 3>(a);
                    }
                    (Kind::Portable, Half::Forward(a)) => {
                        lstm::forward_products::<Portable, 4, 1>(a);
                    }
                    (Kind::Portable, Half::Backward(a)) => {
                        lstm::backward_products::<Portable, 4, 1, 1>(a);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_counted_by_the_shape() {
        // Three layers of 40 over 45 inputs: the article's shape, 47 steps.
        let window = 47.0
            * (layer_flops(45, 40, false) + layer_flops(40, 40, true) + layer_flops(40, 40, true));
        assert_eq!(window, 10_377_600.0);
        for isa in Isa::available() {
            let size = LayerSize { lanes: 16, cells: 39, inputs: 40, steps: 3 };
            assert_eq!(gemm_loop(isa, size, 2), 2.0 * layer_flops(40, 40, true) * 48.0);
            let size = LayerSize { lanes: 32, cells: 8, inputs: 3, steps: 1 };
            assert_eq!(gemm_loop(isa, size, 1), layer_flops(3, 8, false) * 32.0);
            assert!(fma_loop(isa, 10) > 0.0);
        }
    }
}
