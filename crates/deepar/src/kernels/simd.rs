//! Vectors of `f32` in three widths: AVX-512, AVX2 with FMA, and plain arrays.
//!
//! The kernels in [`super::lstm`] are written once over [`Simd`] and compiled three times,
//! each inside a function that enables the instructions it needs. Everything here is
//! `inline(always)`, because a call across such a border would lose them.
//!
//! Invariants
//! * A method of `Avx512` or `Avx2` runs only where [`super::Isa`] has detected the set.
//! * Comparisons keep NaN: a broken weight shows as a NaN loss, not as a saturated gate.

#![expect(unsafe_code, reason = "intrinsics; every path is tested against the portable one")]

/// A vector of `N` floats and what the kernels do with it.
///
/// # Safety
///
/// Callers of every method make sure that the processor has the instructions and that
/// pointers are valid for `N` floats.
pub(super) trait Simd {
    type V: Copy;
    const N: usize;

    unsafe fn load(from: *const f32) -> Self::V;
    /// Eights of floats, each `apart` after the one before.
    #[inline(always)]
    unsafe fn load_eights(from: *const f32, _apart: usize) -> Self::V {
        const { assert!(Self::N == 8) };
        // SAFETY: the caller's.
        unsafe { Self::load(from) }
    }
    unsafe fn store(to: *mut f32, v: Self::V);
    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    /// `a b + c`
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `c - a b`
    unsafe fn fnma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `x` kept within `-bound..=bound`; NaN stays NaN.
    unsafe fn clamp(x: Self::V, bound: f32) -> Self::V;
    /// `y`, |y| < 126, as a part `r` from 0 to 1 and something that [`Simd::scale`] takes for
    /// `y - r`, which is integral.
    unsafe fn split(y: Self::V) -> (Self::V, Self::V);
    /// `p 2^n` for the `n` of [`Simd::split`].
    unsafe fn scale(p: Self::V, n: Self::V) -> Self::V;
    /// `1 / x` for normal `x`, relative error below 2^-22.
    unsafe fn recip(x: Self::V) -> Self::V;
    /// Lane i is `a` where bit i of `bits` is set, else `b`.
    unsafe fn select(bits: u32, a: Self::V, b: Self::V) -> Self::V;
    /// Transposes an 8 x 8 tile: row i of `from` (stride `from_stride`) becomes column i of
    /// `to` (stride `to_stride`).
    unsafe fn transpose8(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize);
}

const LOG2_E: f32 = std::f32::consts::LOG2_E;

/// `2^y` for |y| <= 100; relative error below 3e-7.
///
/// y = n + r with 0 <= r <= 1, and 2^r by the polynomial of the fifth degree through (0, 1) whose
/// largest relative error there is least (8.3e-8, found by Lawson's iteration).
#[inline(always)]
pub(super) unsafe fn exp2<S: Simd>(y: S::V) -> S::V {
    // SAFETY: the caller has the instructions; no pointers are involved.
    unsafe {
        let (r, n) = S::split(y);
        let mut p = S::splat(0.001_867_13);
        for coefficient in [0.009_017_031, 0.055_799_913, 0.240_164_44, 0.693_151_3, 1.0] {
            p = S::fma(p, r, S::splat(coefficient));
        }
        S::scale(p, n)
    }
}

/// `1 / (1 + 2^(factor x))`: what both activations are made of.
#[inline(always)]
pub(super) unsafe fn logistic<S: Simd>(x: S::V, factor: S::V) -> S::V {
    // SAFETY: as `exp2`. 2^58 is beyond where the sum's 1 can be seen.
    unsafe {
        let y = S::clamp(S::mul(x, factor), 58.0);
        S::recip(S::add(S::splat(1.0), exp2::<S>(y)))
    }
}

/// The factor that makes [`logistic`] the sigmoid, and the hyperbolic tangent's.
pub(super) const SIGMOID: f32 = -LOG2_E;
pub(super) const TANH: f32 = -2.0 * LOG2_E;

/// `1 / (1 + e^-x)`; absolute error below 3e-7.
#[inline(always)]
pub(super) unsafe fn sigmoid<S: Simd>(x: S::V) -> S::V {
    // SAFETY: as `exp2`.
    unsafe { logistic::<S>(x, S::splat(SIGMOID)) }
}

/// The hyperbolic tangent; absolute error below 6e-7.
#[inline(always)]
pub(super) unsafe fn tanh<S: Simd>(x: S::V) -> S::V {
    // SAFETY: as `exp2`.
    unsafe { S::fma(S::splat(2.0), logistic::<S>(x, S::splat(TANH)), S::splat(-1.0)) }
}

/// Arrays of eight, which compilers turn into whatever the target has.
pub(super) struct Portable;

impl Portable {
    #[inline(always)]
    fn each(f: impl Fn(usize) -> f32) -> [f32; 8] {
        std::array::from_fn(f)
    }
}

// SAFETY (of the impl): needs no instructions beyond the target's own.
impl Simd for Portable {
    type V = [f32; 8];
    const N: usize = 8;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller vouches for 8 floats; arrays have their alignment.
        unsafe { from.cast::<[f32; 8]>().read() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: Self::V) {
        // SAFETY: the caller vouches for 8 floats.
        unsafe { to.cast::<[f32; 8]>().write(v) }
    }
    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; 8]
    }
    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        Self::each(|i| a[i] + b[i])
    }
    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        Self::each(|i| a[i] - b[i])
    }
    #[inline(always)]
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V {
        Self::each(|i| a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        // Not `mul_add`: without the instruction that is a slow library call.
        Self::each(|i| a[i] * b[i] + c[i])
    }
    #[inline(always)]
    unsafe fn fnma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        Self::each(|i| c[i] - a[i] * b[i])
    }
    #[inline(always)]
    unsafe fn clamp(x: Self::V, bound: f32) -> Self::V {
        Self::each(|i| x[i].clamp(-bound, bound))
    }
    #[inline(always)]
    unsafe fn split(y: Self::V) -> (Self::V, Self::V) {
        // Adding and taking away 1.5 * 2^23 leaves no room for a fraction. Less a half, the
        // nearest integer is one that is not above y.
        const MAGIC: f32 = 12_582_912.0;
        let n = Self::each(|i| ((y[i] - 0.5) + MAGIC) - MAGIC);
        (Self::each(|i| y[i] - n[i]), n)
    }
    #[inline(always)]
    unsafe fn scale(p: Self::V, n: Self::V) -> Self::V {
        Self::each(|i| p[i] * f32::from_bits(((n[i] as i32).wrapping_add(127) as u32) << 23))
    }
    #[inline(always)]
    unsafe fn recip(x: Self::V) -> Self::V {
        Self::each(|i| 1.0 / x[i])
    }
    #[inline(always)]
    unsafe fn select(bits: u32, a: Self::V, b: Self::V) -> Self::V {
        Self::each(|i| if bits >> i & 1 == 1 { a[i] } else { b[i] })
    }
    #[inline(always)]
    unsafe fn transpose8(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        for row in 0..8 {
            for column in 0..8 {
                // SAFETY: the caller vouches for the 8 x 8 tile on both sides.
                unsafe {
                    *to.add(column * to_stride + row) = *from.add(row * from_stride + column)
                };
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Simd;

    /// 256-bit vectors.
    pub(in super::super) struct Avx2;

    // SAFETY (of every block below): the trait's contract. The caller has detected AVX2 and
    // FMA and vouches for the pointers; unaligned loads and stores are used throughout.
    impl Simd for Avx2 {
        type V = __m256;
        const N: usize = 8;

        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m256 {
            // SAFETY: see the impl.
            unsafe { _mm256_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m256) {
            // SAFETY: see the impl.
            unsafe { _mm256_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> __m256 {
            // SAFETY: see the impl.
            unsafe { _mm256_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn add(a: __m256, b: __m256) -> __m256 {
            // SAFETY: see the impl.
            unsafe { _mm256_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m256, b: __m256) -> __m256 {
            // SAFETY: see the impl.
            unsafe { _mm256_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m256, b: __m256) -> __m256 {
            // SAFETY: see the impl.
            unsafe { _mm256_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: see the impl.
            unsafe { _mm256_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn fnma(a: __m256, b: __m256, c: __m256) -> __m256 {
            // SAFETY: see the impl.
            unsafe { _mm256_fnmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn clamp(x: __m256, bound: f32) -> __m256 {
            // SAFETY: see the impl. With a NaN among them, min and max give their second operand.
            unsafe {
                _mm256_min_ps(_mm256_set1_ps(bound), _mm256_max_ps(_mm256_set1_ps(-bound), x))
            }
        }
        #[inline(always)]
        unsafe fn split(y: __m256) -> (__m256, __m256) {
            // SAFETY: see the impl.
            unsafe {
                let n = _mm256_floor_ps(y);
                (_mm256_sub_ps(y, n), n)
            }
        }
        #[inline(always)]
        unsafe fn scale(p: __m256, n: __m256) -> __m256 {
            // SAFETY: see the impl.
            unsafe {
                let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
                _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
            }
        }
        #[inline(always)]
        unsafe fn recip(x: __m256) -> __m256 {
            // SAFETY: see the impl.
            unsafe { _mm256_div_ps(_mm256_set1_ps(1.0), x) }
        }
        #[inline(always)]
        unsafe fn select(bits: u32, a: __m256, b: __m256) -> __m256 {
            // SAFETY: see the impl.
            unsafe {
                let lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
                let set = _mm256_and_si256(_mm256_set1_epi32(bits as i32), lanes);
                let mask = _mm256_cmpeq_epi32(set, lanes);
                _mm256_blendv_ps(b, a, _mm256_castsi256_ps(mask))
            }
        }
        #[inline(always)]
        unsafe fn transpose8(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
            // SAFETY: see the impl; the caller vouches for the tile on both sides.
            unsafe { transpose8(from, from_stride, to, to_stride) }
        }
    }

    /// 512-bit vectors.
    pub(in super::super) struct Avx512;

    // SAFETY (of every block below): as for Avx2, with AVX-512 F and DQ detected.
    impl Simd for Avx512 {
        type V = __m512;
        const N: usize = 16;

        #[inline(always)]
        unsafe fn load(from: *const f32) -> __m512 {
            // SAFETY: see the impl.
            unsafe { _mm512_loadu_ps(from) }
        }
        #[inline(always)]
        unsafe fn load_eights(from: *const f32, apart: usize) -> __m512 {
            // SAFETY: see the impl; eight floats lie at either place.
            unsafe {
                let low = _mm512_castps256_ps512(_mm256_loadu_ps(from));
                _mm512_insertf32x8::<1>(low, _mm256_loadu_ps(from.add(apart)))
            }
        }
        #[inline(always)]
        unsafe fn store(to: *mut f32, v: __m512) {
            // SAFETY: see the impl.
            unsafe { _mm512_storeu_ps(to, v) }
        }
        #[inline(always)]
        unsafe fn splat(x: f32) -> __m512 {
            // SAFETY: see the impl.
            unsafe { _mm512_set1_ps(x) }
        }
        #[inline(always)]
        unsafe fn add(a: __m512, b: __m512) -> __m512 {
            // SAFETY: see the impl.
            unsafe { _mm512_add_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn sub(a: __m512, b: __m512) -> __m512 {
            // SAFETY: see the impl.
            unsafe { _mm512_sub_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn mul(a: __m512, b: __m512) -> __m512 {
            // SAFETY: see the impl.
            unsafe { _mm512_mul_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn fma(a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: see the impl.
            unsafe { _mm512_fmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn fnma(a: __m512, b: __m512, c: __m512) -> __m512 {
            // SAFETY: see the impl.
            unsafe { _mm512_fnmadd_ps(a, b, c) }
        }
        #[inline(always)]
        unsafe fn clamp(x: __m512, bound: f32) -> __m512 {
            // SAFETY: see the impl. With a NaN among them, min and max give their second operand.
            unsafe {
                _mm512_min_ps(_mm512_set1_ps(bound), _mm512_max_ps(_mm512_set1_ps(-bound), x))
            }
        }
        #[inline(always)]
        unsafe fn split(y: __m512) -> (__m512, __m512) {
            // SAFETY: see the impl. What is taken away is y rounded down, to no binary places, and
            // scaling rounds its exponent down as well.
            unsafe {
                const DOWN: i32 = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
                (_mm512_reduce_ps::<DOWN>(y), y)
            }
        }
        #[inline(always)]
        unsafe fn scale(p: __m512, n: __m512) -> __m512 {
            // SAFETY: see the impl.
            unsafe { _mm512_scalef_ps(p, n) }
        }
        #[inline(always)]
        unsafe fn recip(x: __m512) -> __m512 {
            // SAFETY: see the impl. One Newton step doubles the 14 bits of the estimate.
            unsafe {
                let y = _mm512_rcp14_ps(x);
                let error = _mm512_fnmadd_ps(x, y, _mm512_set1_ps(1.0));
                _mm512_fmadd_ps(y, error, y)
            }
        }
        #[inline(always)]
        unsafe fn select(bits: u32, a: __m512, b: __m512) -> __m512 {
            // SAFETY: see the impl.
            unsafe { _mm512_mask_blend_ps(bits as __mmask16, b, a) }
        }
        #[inline(always)]
        unsafe fn transpose8(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
            // SAFETY: AVX-512 F implies AVX2; the caller vouches for the tile on both sides.
            unsafe { transpose8(from, from_stride, to, to_stride) }
        }
    }

    /// In three rounds: pairs of rows, pairs of pairs, halves.
    #[inline(always)]
    unsafe fn transpose8(from: *const f32, from_stride: usize, to: *mut f32, to_stride: usize) {
        // SAFETY: the caller has AVX and vouches for the 8 x 8 tile on both sides.
        unsafe {
            let row = |i: usize| _mm256_loadu_ps(from.add(i * from_stride));
            let pairs = |a: usize, b: usize| {
                (_mm256_unpacklo_ps(row(a), row(b)), _mm256_unpackhi_ps(row(a), row(b)))
            };
            let quads = |a: (__m256, __m256), b: (__m256, __m256)| {
                [
                    _mm256_shuffle_ps::<0x44>(a.0, b.0),
                    _mm256_shuffle_ps::<0xee>(a.0, b.0),
                    _mm256_shuffle_ps::<0x44>(a.1, b.1),
                    _mm256_shuffle_ps::<0xee>(a.1, b.1),
                ]
            };
            let upper = quads(pairs(0, 1), pairs(2, 3));
            let lower = quads(pairs(4, 5), pairs(6, 7));
            for i in 0..4 {
                let low = _mm256_permute2f128_ps::<0x20>(upper[i], lower[i]);
                let high = _mm256_permute2f128_ps::<0x31>(upper[i], lower[i]);
                _mm256_storeu_ps(to.add(i * to_stride), low);
                _mm256_storeu_ps(to.add((i + 4) * to_stride), high);
            }
        }
    }
}
