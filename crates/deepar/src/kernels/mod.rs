//! The arithmetic: one LSTM layer over a sequence, and the elementwise loops around it.
//!
//! Chosen once by what the processor has, so one binary runs everywhere at its best. Sums are
//! ordered the same way on every call, so a path gives the same bits for the same input;
//! different paths differ by rounding, and each is tested against the portable one.

#![expect(unsafe_code, reason = "calls into code compiled for instructions just detected")]

pub mod limit;
mod lstm;
mod simd;

use std::fmt;

pub(crate) use lstm::{Backward, BackwardScratch, Base, Forward, PANEL, Project, Rows, Zone};

/// Lanes come in blocks of this many: one AVX-512 vector.
pub(crate) const LANES: usize = 16;

/// A set of vector instructions this processor has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Isa(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

impl Isa {
    /// The best this processor has.
    pub fn detect() -> Isa {
        Isa::available().first().copied().unwrap_or(Isa(Kind::Portable))
    }

    /// All that this processor has, the best first.
    pub fn available() -> Vec<Isa> {
        let mut found = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
                found.push(Isa(Kind::Avx512));
            }
            if avx2 {
                found.push(Isa(Kind::Avx2));
            }
        }
        found.push(Isa(Kind::Portable));
        found
    }

    /// Runs one layer over a sequence.
    pub(crate) fn forward(self, a: &mut Forward<'_>) {
        a.check();
        // SAFETY: an `Isa` is only made by `available`, after detection; `check` has passed.
        unsafe {
            match (self.0, a.lanes) {
                #[cfg(target_arch = "x86_64")]
                (Kind::Avx512, 1) => forward_avx512_1(a),
                #[cfg(target_arch = "x86_64")]
                (Kind::Avx512, 4) => forward_avx512_4(a),
                #[cfg(target_arch = "x86_64")]
                (Kind::Avx512, 16) => forward_avx512_16(a),
                #[cfg(target_arch = "x86_64")]
                (Kind::Avx512, _) => forward_avx512(a),
                #[cfg(target_arch = "x86_64")]
                (Kind::Avx2, 1) => forward_avx2_few::<1>(a),
                #[cfg(target_arch = "x86_64")]
                (Kind::Avx2, 4) => forward_avx2_few::<4>(a),
                #[cfg(target_arch = "x86_64")]
                (Kind::Avx2, _) => forward_avx2(a),
                (Kind::Portable, 1) => lstm::forward_few::<simd::Portable, simd::Portable, 1>(a),
                (Kind::Portable, 4) => lstm::forward_few::<simd::Portable, simd::Portable, 4>(a),
                (Kind::Portable, _) => lstm::forward::<simd::Portable, 4, 1>(a),
            }
        }
    }

    /// Lays the first `columns` of some weights out as panels.
    pub(crate) fn pack(self, rows: Rows<'_>, columns: usize, to: &mut Vec<f32>) {
        // SAFETY: as `forward`; it checks the lengths itself.
        unsafe {
            match self.0 {
                #[cfg(target_arch = "x86_64")]
                Kind::Avx512 | Kind::Avx2 => pack_avx2(rows, columns, to),
                Kind::Portable => lstm::pack::<simd::Portable>(rows, columns, to),
            }
        }
    }

    /// Adds to a layer's gates what some of its inputs come to.
    pub(crate) fn project(self, a: &mut Project<'_>) {
        a.check();
        // SAFETY: as `forward`.
        unsafe {
            match self.0 {
                #[cfg(target_arch = "x86_64")]
                Kind::Avx512 | Kind::Avx2 => project_avx2(a),
                Kind::Portable => lstm::project::<simd::Portable>(a),
            }
        }
    }

    /// Backpropagates through one layer.
    pub(crate) fn backward(self, a: &mut Backward<'_>) {
        a.check();
        // SAFETY: as `forward`.
        unsafe {
            match (self.0, a.lanes) {
                #[cfg(target_arch = "x86_64")]
                (Kind::Avx512, 16) => backward_avx512_16(a),
                #[cfg(target_arch = "x86_64")]
                (Kind::Avx512, _) => backward_avx512(a),
                #[cfg(target_arch = "x86_64")]
                (Kind::Avx2, _) => backward_avx2(a),
                (Kind::Portable, _) => lstm::backward::<simd::Portable, 4, 1, 1>(a),
            }
        }
    }

    /// Runs `loops` compiled for this set. For loops the compiler vectorises by itself; they
    /// must be `inline(always)`.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(unused_unsafe, reason = "the portable path alone calls nothing unsafe")
    )]
    pub(crate) fn run<L: Loops>(self, loops: L) -> L::Output {
        // SAFETY: as `forward`.
        unsafe {
            match self.0 {
                #[cfg(target_arch = "x86_64")]
                Kind::Avx512 => run_avx512(loops),
                #[cfg(target_arch = "x86_64")]
                Kind::Avx2 => run_avx2(loops),
                Kind::Portable => loops.run(),
            }
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2 => "avx2",
            Kind::Portable => "portable",
        })
    }
}

/// Safe loops to be compiled once per set of instructions.
pub(crate) trait Loops {
    type Output;
    /// The loops; mark it `inline(always)`.
    fn run(self) -> Self::Output;
}

/// # Safety: the processor has AVX-512 F and DQ.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
unsafe fn run_avx512<L: Loops>(loops: L) -> L::Output {
    loops.run()
}

/// # Safety: the processor has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn run_avx2<L: Loops>(loops: L) -> L::Output {
    loops.run()
}

/// # Safety: AVX-512 F and DQ, and `a.check()` has passed, for 32 lanes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
unsafe fn forward_avx512(a: &mut Forward<'_>) {
    // SAFETY: the function's own contract.
    unsafe { lstm::forward::<simd::Avx512, 8, 2>(a) }
}

/// # Safety: AVX-512 F and DQ, and `a.check()` has passed.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
unsafe fn forward_avx512_16(a: &mut Forward<'_>) {
    // SAFETY: the function's own contract.
    unsafe { lstm::forward::<simd::Avx512, 8, 1>(a) }
}

/// # Safety: AVX-512 F and DQ, and `a.check()` has passed, for one lane.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
unsafe fn forward_avx512_1(a: &mut Forward<'_>) {
    // Of one lane, vectors of eight leave enough sums to be under way at once; wider ones do not.
    // SAFETY: the function's own contract.
    unsafe { lstm::forward_few::<simd::Avx512, simd::Avx2, 1>(a) }
}

/// # Safety: AVX-512 F and DQ, and `a.check()` has passed, for four lanes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
unsafe fn forward_avx512_4(a: &mut Forward<'_>) {
    // SAFETY: the function's own contract.
    unsafe { lstm::forward_few::<simd::Avx512, simd::Avx512, 4>(a) }
}

/// # Safety: AVX2 and FMA, and `a.check()` has passed, for L lanes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn forward_avx2_few<const L: usize>(a: &mut Forward<'_>) {
    // SAFETY: the function's own contract.
    unsafe { lstm::forward_few::<simd::Avx2, simd::Avx2, L>(a) }
}

/// # Safety: AVX2 and FMA, and `a.check()` has passed.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn forward_avx2(a: &mut Forward<'_>) {
    // SAFETY: the function's own contract.
    unsafe { lstm::forward::<simd::Avx2, 4, 2>(a) }
}

/// # Safety: AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn pack_avx2(rows: Rows<'_>, columns: usize, to: &mut Vec<f32>) {
    // SAFETY: the function's own contract.
    unsafe { lstm::pack::<simd::Avx2>(rows, columns, to) }
}

/// # Safety: AVX2 and FMA, and `a.check()` has passed.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn project_avx2(a: &mut Project<'_>) {
    // SAFETY: the function's own contract.
    unsafe { lstm::project::<simd::Avx2>(a) }
}

/// # Safety: AVX-512 F and DQ, and `a.check()` has passed, for 32 lanes.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
unsafe fn backward_avx512(a: &mut Backward<'_>) {
    // SAFETY: the function's own contract.
    unsafe { lstm::backward::<simd::Avx512, 8, 2, 6>(a) }
}

/// # Safety: AVX-512 F and DQ, and `a.check()` has passed.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
unsafe fn backward_avx512_16(a: &mut Backward<'_>) {
    // SAFETY: the function's own contract.
    unsafe { lstm::backward::<simd::Avx512, 8, 1, 6>(a) }
}

/// # Safety: AVX2 and FMA, and `a.check()` has passed.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn backward_avx2(a: &mut Backward<'_>) {
    // SAFETY: the function's own contract.
    unsafe { lstm::backward::<simd::Avx2, 4, 2, 3>(a) }
}

#[cfg(test)]
mod tests;
