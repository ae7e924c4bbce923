//! One LSTM layer over a sequence, forward and backward, for a block of series side by side.
//!
//! Shapes, with `W` lanes (series or samples, 16 or 32, contiguous; forward also 1 or 4), `H`
//! hidden units (a multiple of 8), `I` inputs, `K = I + H`, `T` steps:
//!
//! ```text
//! x      [T][I][W]      what goes in          panels    [H/2][K][8]  weights for gates = w [x; h]
//! h, c   [T + 1][H][W]  states, 0 = before    panels_t  [K/8][4H][8] the same for [dx; dh] = w' dgates
//! gates  [T][4H][W]     rows 4u..4u+4 = i, f, g, o of unit u; backward turns them into their gradients
//! base   [4H][W]        what the gates start from: bias plus all inputs constant over the steps
//! ```
//!
//! A panel holds 8 rows of the weights, column by column, so that the innermost loop reads
//! weights in order, broadcasts them, and keeps 8 rows x 2 vectors of sums in registers. Gate
//! rows lie unit by unit, so the four gates of a unit are neighbours. Where lanes are few (1 or 4),
//! the vectors hold the rows of panels instead, and the gates lie lane by lane, `[W][4H]`; every
//! sum is of the same products in the same order, so a lane has the same bits in a block of any
//! width.
//!
//! Pointers run along instead of being computed from indices: arithmetic on integers is checked
//! for overflow in every build, and in these loops a tenth of the time went into that.
//!
//! Zoneout (Krueger et al. 2016): a unit whose bit is set keeps both its states of the step
//! before. When forecasting, states are mixed with the same probability instead.

#![expect(unsafe_code, reason = "the inner loops; slices are checked once a sequence")]

use std::ops::Range;

use super::simd::{SIGMOID, Simd, TANH, logistic, sigmoid, tanh};

/// Rows of a weight panel.
pub(crate) const PANEL: usize = 8;

/// Weights as they are trained, `[rows][stride]`, to be laid out as panels.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) from: &'a [f32],
    pub(crate) stride: usize,
    /// A multiple of 8.
    pub(crate) rows: usize,
}

impl Rows<'_> {
    /// Their columns `columns`, a multiple of 8 of them, as rows: `[columns / 8][rows][8]`.
    pub(crate) fn pack_transposed(self, columns: Range<usize>, to: &mut Vec<f32>) {
        to.resize(self.rows * columns.len(), 0.0);
        let panels = to.chunks_exact_mut(self.rows * PANEL).zip(columns.step_by(PANEL));
        for (out, column) in panels {
            for (out, row) in out.chunks_exact_mut(PANEL).zip(self.from.chunks_exact(self.stride)) {
                out.copy_from_slice(&row[column..column + PANEL]);
            }
        }
    }
}

/// The first `columns` of the rows as panels: `[rows / 8][columns][8]`.
///
/// # Safety
///
/// The instructions of `S` are there.
#[inline(always)]
pub(super) unsafe fn pack<S: Simd>(rows: Rows<'_>, columns: usize, to: &mut Vec<f32>) {
    assert!(rows.from.len() == rows.rows * rows.stride && rows.rows.is_multiple_of(PANEL));
    to.resize(rows.rows * columns, 0.0);
    let whole = columns / 8 * 8;
    let from = rows.from.chunks_exact(PANEL * rows.stride);
    for (out, from) in to.chunks_exact_mut(PANEL * columns).zip(from) {
        for column in (0..whole).step_by(8) {
            let (from, out) = (&from[column..], &mut out[column * PANEL..][..8 * PANEL]);
            assert!(from.len() >= 7 * rows.stride + 8);
            // SAFETY: eight rows, `stride` apart, have eight columns from here on, and so many
            // floats are written.
            unsafe { S::transpose8(from.as_ptr(), rows.stride, out.as_mut_ptr(), PANEL) };
        }
        for column in whole..columns {
            for (r, slot) in out[column * PANEL..][..PANEL].iter_mut().enumerate() {
                *slot = from[r * rows.stride + column];
            }
        }
    }
}

/// Steps whose weight gradient is summed in one go: their transposed inputs stay in cache, and
/// a tile of sums is loaded and stored once for so many rows of them.
fn steps_per_outer(lanes: usize) -> usize {
    64 / lanes
}

/// Which units stand still.
#[derive(Clone, Copy)]
pub(crate) enum Zone<'a> {
    /// None.
    Off,
    /// `bits[t * H + u]`: bit `lane` set keeps unit u of that lane at step t.
    Bits(&'a [u32]),
    /// Every unit by this share.
    Mean(f32),
}

/// What the gates start from.
#[derive(Clone, Copy)]
pub(crate) enum Base<'a> {
    /// `[4H][W]`
    Lanes(&'a [f32]),
    /// `[4H]`, the same for all lanes.
    Rows(&'a [f32]),
}

/// What [`forward`] works on.
pub(crate) struct Forward<'a> {
    pub(crate) lanes: usize,
    pub(crate) hidden: usize,
    pub(crate) steps: usize,
    /// Rows of `x` a step: the first so many inputs of the layer. Fewer than the layer has
    /// when the others are in `base`.
    pub(crate) inputs: usize,
    /// Inputs of the layer.
    pub(crate) inputs_packed: usize,
    pub(crate) panels: &'a [f32],
    pub(crate) base: Base<'a>,
    pub(crate) x: &'a [f32],
    /// `h` and `c` may be one state alone where there is one step: what comes after then takes the
    /// place of what was before.
    pub(crate) h: &'a mut [f32],
    pub(crate) c: &'a mut [f32],
    pub(crate) gates: &'a mut [f32],
    pub(crate) tanh_c: &'a mut [f32],
    pub(crate) zone: Zone<'a>,
}

impl Forward<'_> {
    /// Asserts what the raw pointers below rely on.
    pub(super) fn check(&self) {
        let (w, h, t) = (self.lanes, self.hidden, self.steps);
        assert!([1, 4, 16, 32].contains(&w) && h.is_multiple_of(PANEL) && h > 0);
        assert!(self.inputs <= self.inputs_packed);
        assert!(self.panels.len() == h / 2 * (self.inputs_packed + h) * PANEL);
        match self.base {
            Base::Lanes(base) => assert!(base.len() == 4 * h * w && w != 4),
            Base::Rows(base) => assert!(base.len() == 4 * h),
        }
        assert!(self.x.len() >= t * self.inputs * w);
        let states = if self.replaces() { 1 } else { t + 1 };
        assert!(self.h.len() == states * h * w && self.c.len() == states * h * w);
        assert!(self.gates.len() == t * 4 * h * w && self.tanh_c.len() == t * h * w);
        if let Zone::Bits(bits) = self.zone {
            assert!(bits.len() == t * h);
        }
    }

    /// Whether a step's states take the place of those before it.
    fn replaces(&self) -> bool {
        self.steps == 1 && self.h.len() == self.hidden * self.lanes
    }

    /// Where the states before and after step `t` begin.
    fn states(&self, t: usize) -> (usize, usize) {
        let state = self.hidden * self.lanes;
        if self.replaces() { (0, 0) } else { (t * state, (t + 1) * state) }
    }
}

/// Runs the layer. `R` rows (4 or 8) and `C` vectors of sums are kept in registers.
///
/// The gates of a step are summed first and the cells updated after, in a loop of its own:
/// the constants of the activations would otherwise take the registers that hold the sums.
///
/// # Safety
///
/// The instructions of `S` are there, `a.check()` holds, `C * S::N` divides `a.lanes`.
#[inline(always)]
pub(super) unsafe fn forward<S: Simd, const R: usize, const C: usize>(a: &mut Forward<'_>) {
    for t in 0..a.steps {
        // SAFETY: the caller's.
        unsafe {
            sum_gates::<S, R, C>(a, t);
            update_cells::<S>(a, t);
        }
    }
}

/// `gates[t] = base + w [x[t]; h[t]]`
#[inline(always)]
unsafe fn sum_gates<S: Simd, const R: usize, const C: usize>(a: &mut Forward<'_>, t: usize) {
    let panels = a.hidden / 2;
    let mut panel = 0;
    while panel < panels {
        // SAFETY: the caller's; so many panels are left.
        panel += unsafe {
            match at_once::<S, R, C>(panels - panel) {
                3 => sum_panels::<S, R, C, 3>(a, t, panel),
                2 => sum_panels::<S, R, C, 2>(a, t, panel),
                _ => sum_panels::<S, R, C, 1>(a, t, panel),
            }
        };
    }
}

/// Sums the gates of `P` panels from the one at `panel`, and returns `P`.
#[inline(always)]
unsafe fn sum_panels<S: Simd, const R: usize, const C: usize, const P: usize>(
    a: &mut Forward<'_>,
    t: usize,
    panel: usize,
) -> usize {
    let (w, hidden) = (a.lanes, a.hidden);
    let panel_len = (a.inputs_packed + hidden) * PANEL;
    // SAFETY: offsets stay below the lengths `check` has established.
    unsafe {
        let x = a.x.as_ptr().add(t * a.inputs * w);
        let h = a.h.as_ptr().add(a.states(t).0);
        let gates = a.gates.as_mut_ptr().add(t * 4 * hidden * w);
        for part in 0..PANEL / R {
            let row = panel * PANEL + part * R;
            let w_x = a.panels.as_ptr().add(panel * panel_len + part * R);
            let w_h = w_x.add(a.inputs_packed * PANEL);
            let mut lane = 0;
            while lane < w {
                let mut sums = start_tiles::<S, R, C, P>(a.base, row, lane, w);
                multiply::<S, R, C, P>(&mut sums, w_x, panel_len, x.add(lane), w, a.inputs);
                multiply::<S, R, C, P>(&mut sums, w_h, panel_len, h.add(lane), w, hidden);
                store_tiles::<S, R, C, P>(&sums, gates.add(row * w + lane), w);
                lane += C * S::N;
            }
        }
    }
    P
}

/// How many of `left` panels are taken at once. Where a block is one vector wide, the 8 sums of one
/// panel would just cover a multiply-add's latency, and each takes a load: so up to three, which
/// share the loads of the block. Five go as three and two.
#[inline(always)]
fn at_once<S: Simd, const R: usize, const C: usize>(left: usize) -> usize {
    if S::N == 16 && R == PANEL && C == 1 { left.div_ceil(left.div_ceil(3)) } else { 1 }
}

/// Activates the gates of step `t` and moves the states on: first all cells, then all outputs,
/// so that no loop has one activation wait for another.
#[inline(always)]
unsafe fn update_cells<S: Simd>(a: &mut Forward<'_>, t: usize) {
    let (w, hidden, zone) = (a.lanes, a.hidden, a.zone);
    let (state, vectors) = (hidden * w, w / S::N);
    let (before, after) = a.states(t);
    // SAFETY: `check` has established the lengths that the pointers run through, all of a state's
    // or of four, in order; a state is read at a place before it is written there.
    unsafe {
        let zone = zone.of_step(t * hidden);
        let gates = a.gates.as_mut_ptr().add(t * 4 * state);
        let tanh_c = a.tanh_c.as_mut_ptr().add(t * state);
        let [mut gate, mut cell] = [gates, tanh_c];
        let (mut old, mut new) = (a.c.as_ptr().add(before), a.c.as_mut_ptr().add(after));
        for unit in 0..hidden {
            for v in 0..vectors {
                let rows = [gate, gate.add(w), gate.add(2 * w), gate.add(3 * w)];
                let i = sigmoid::<S>(S::load(rows[0]));
                let f = sigmoid::<S>(S::load(rows[1]));
                let g = tanh::<S>(S::load(rows[2]));
                let o = sigmoid::<S>(S::load(rows[3]));
                for (row, value) in rows.into_iter().zip([i, f, g, o]) {
                    S::store(row, value);
                }
                let c_old = S::load(old);
                let c = S::fma(f, c_old, S::mul(i, g));
                S::store(cell, c);
                S::store(new, hold::<S>(zone, (unit, v), c_old, c));
                [gate, cell, new] = [gate.add(S::N), cell.add(S::N), new.add(S::N)];
                old = old.add(S::N);
            }
            gate = gate.add(3 * w);
        }
        let (mut output, mut cell) = (gates.add(3 * w), tanh_c);
        let (mut old, mut new) = (a.h.as_ptr().add(before), a.h.as_mut_ptr().add(after));
        for unit in 0..hidden {
            for v in 0..vectors {
                let tc = tanh::<S>(S::load(cell));
                S::store(cell, tc);
                let h = S::mul(S::load(output), tc);
                S::store(new, hold::<S>(zone, (unit, v), S::load(old), h));
                [output, cell, new] = [output.add(S::N), cell.add(S::N), new.add(S::N)];
                old = old.add(S::N);
            }
            output = output.add(3 * w);
        }
    }
}

/// What a state becomes where units may stand still, in vector `v` of a unit's.
#[inline(always)]
unsafe fn hold<S: Simd>(zone: Zone<'_>, (unit, v): (usize, usize), old: S::V, new: S::V) -> S::V {
    // SAFETY: the caller has the instructions, and the bits are those of a step.
    unsafe {
        match zone {
            Zone::Off => new,
            Zone::Bits(bits) => S::select(*bits.as_ptr().add(unit) >> (v * S::N), old, new),
            Zone::Mean(share) => S::fma(S::splat(share), S::sub(old, new), new),
        }
    }
}

impl Zone<'_> {
    /// Those of the step whose bits begin at `from`.
    fn of_step(self, from: usize) -> Self {
        match self {
            Zone::Bits(bits) => Zone::Bits(&bits[from..]),
            other => other,
        }
    }
}

/// [`forward`] for `L` lanes, few. `T` has the 8 floats of a panel's column or those of two, `S`
/// activates; of one lane `T` is of 8.
///
/// # Safety
///
/// The instructions of `S` and `T` are there, `a.check()` holds, and `L` is `a.lanes`.
#[inline(always)]
pub(super) unsafe fn forward_few<S: Simd, T: Simd, const L: usize>(a: &mut Forward<'_>) {
    const { assert!(L > 1 || T::N == PANEL) };
    let vectors = 4 * a.hidden / T::N;
    for t in 0..a.steps {
        // SAFETY: the caller's; units are a multiple of 8, so that vectors are even in number, and
        // those of 8 a multiple of 4.
        unsafe {
            let mut at = 0;
            while at < vectors {
                // Eight sums under way cover a multiply-add's latency, twelve fit into registers.
                at += match vectors - at {
                    _ if L > 1 => sum_rows::<T, 2, L>(a, t, at),
                    12 | 20.. => sum_rows::<T, 12, L>(a, t, at),
                    8.. => sum_rows::<T, 8, L>(a, t, at),
                    _ => sum_rows::<T, 4, L>(a, t, at),
                };
            }
            update_units::<S, L>(a, t);
        }
    }
}

/// Sums `P` vectors of gates from the one `at`, and returns `P`.
#[inline(always)]
unsafe fn sum_rows<T: Simd, const P: usize, const L: usize>(
    a: &mut Forward<'_>,
    t: usize,
    at: usize,
) -> usize {
    let hidden = a.hidden;
    let panel_len = (a.inputs_packed + hidden) * PANEL;
    // Of one lane they lie the same.
    let (Base::Lanes(base) | Base::Rows(base)) = a.base;
    // SAFETY: offsets stay below the lengths `check` has established, with L lanes.
    unsafe {
        let row = at * T::N;
        let weights = a.panels.as_ptr().add(row / PANEL * panel_len);
        let w_h = weights.add(a.inputs_packed * PANEL);
        let x = a.x.as_ptr().add(t * a.inputs * L);
        let h = a.h.as_ptr().add(a.states(t).0);
        let start = load_tile::<T, P, 1>(base.as_ptr().add(row), T::N);
        let mut sums = [[T::splat(0.0); L]; P];
        for (sums, [start]) in sums.iter_mut().zip(start) {
            *sums = [start; L];
        }
        multiply_rows::<T, P, L>(&mut sums, weights, panel_len, x, a.inputs);
        multiply_rows::<T, P, L>(&mut sums, w_h, panel_len, h, hidden);
        let mut gates = a.gates.as_mut_ptr().add(t * 4 * hidden * L + row);
        for lane in 0..L {
            for (p, sums) in sums.iter().enumerate() {
                T::store(gates.add(p * T::N), sums[lane]);
            }
            gates = gates.wrapping_add(4 * hidden);
        }
    }
    P
}

/// As [`multiply`] for `L` lanes and `P` vectors of panels that lie `apart` floats after each other.
#[inline(always)]
unsafe fn multiply_rows<T: Simd, const P: usize, const L: usize>(
    sums: &mut [[T::V; L]; P],
    mut weights: *const f32,
    apart: usize,
    mut values: *const f32,
    depth: usize,
) {
    let mut tile = *sums;
    for _ in 0..depth {
        // SAFETY: the caller vouches for `depth` columns of the panels and L values.
        unsafe {
            let mut row = [T::splat(0.0); L];
            for (lane, value) in row.iter_mut().enumerate() {
                *value = T::splat(*values.add(lane));
            }
            let mut column = weights;
            for sums in &mut tile {
                let weight = T::load_eights(column, apart);
                for (sum, value) in sums.iter_mut().zip(row) {
                    *sum = T::fma(weight, value, *sum);
                }
                column = column.wrapping_add(T::N / PANEL * apart);
            }
            (weights, values) = (weights.add(PANEL), values.add(L));
        }
    }
    *sums = tile;
}

/// [`update_cells`] for few lanes: the vectors hold units.
#[inline(always)]
unsafe fn update_units<S: Simd, const L: usize>(a: &mut Forward<'_>, t: usize) {
    // Input, forget and output gates are sigmoids, the third is a tangent: 2 s - 1.
    const FACTOR: [f32; 16] = gates_of(SIGMOID, TANH);
    const TWICE: [f32; 16] = gates_of(1.0, 2.0);
    const LESS: [f32; 16] = gates_of(0.0, -1.0);
    let (hidden, zone) = (a.hidden, a.zone);
    let state = hidden * L;
    let (before, after) = a.states(t);
    let gates = &mut a.gates[t * 4 * state..][..4 * state];
    let tanh_c = &mut a.tanh_c[t * state..][..state];
    // SAFETY: rows are a multiple of 16; a state has four gates, and as many states as a vector
    // holds are copied into arrays of 16 and back.
    unsafe {
        for rows in gates.chunks_exact_mut(S::N) {
            let slot = rows.as_mut_ptr();
            let s = logistic::<S>(S::load(slot), S::load(FACTOR.as_ptr()));
            S::store(slot, S::fma(S::load(TWICE.as_ptr()), s, S::load(LESS.as_ptr())));
        }
        // A vector holds states as they lie, the lanes of a unit side by side.
        for first in (0..state).step_by(S::N) {
            let count = S::N.min(state - first);
            // Input, forget, cell and output gate, old cell, old output.
            let mut from = [[0.0f32; 16]; 6];
            let mut kept = [0];
            for at in 0..count {
                let (unit, lane) = ((first + at) / L, (first + at) % L);
                let gate = gates.as_ptr().add(4 * (lane * hidden + unit));
                for (g, from) in from[..4].iter_mut().enumerate() {
                    from[at] = *gate.add(g);
                }
                if let Zone::Bits(bits) = zone {
                    kept[0] |= (bits[t * hidden + unit] >> lane & 1) << at;
                }
            }
            let zone = match zone {
                Zone::Bits(_) => Zone::Bits(&kept),
                other => other,
            };
            let [old_at, new_at] = [before + first, after + first];
            from[4][..count].copy_from_slice(&a.c[old_at..][..count]);
            from[5][..count].copy_from_slice(&a.h[old_at..][..count]);
            let (i, f) = (S::load(from[0].as_ptr()), S::load(from[1].as_ptr()));
            let (g, o) = (S::load(from[2].as_ptr()), S::load(from[3].as_ptr()));
            let (c_old, h_old) = (S::load(from[4].as_ptr()), S::load(from[5].as_ptr()));
            let c = S::fma(f, c_old, S::mul(i, g));
            let tc = tanh::<S>(c);
            let mut to = [[0.0f32; 16]; 3];
            S::store(to[0].as_mut_ptr(), hold::<S>(zone, (0, 0), c_old, c));
            S::store(to[1].as_mut_ptr(), hold::<S>(zone, (0, 0), h_old, S::mul(o, tc)));
            S::store(to[2].as_mut_ptr(), tc);
            a.c[new_at..][..count].copy_from_slice(&to[0][..count]);
            a.h[new_at..][..count].copy_from_slice(&to[1][..count]);
            tanh_c[first..][..count].copy_from_slice(&to[2][..count]);
        }
    }
}

/// A value for each of four gates, unit by unit.
const fn gates_of(sigmoid: f32, tangent: f32) -> [f32; 16] {
    let [a, b] = [sigmoid, tangent];
    [a, a, b, a, a, a, b, a, a, a, b, a, a, a, b, a]
}

/// Some columns of a layer's weights times what they all have in common.
pub(crate) struct Project<'a> {
    pub(crate) panels: &'a [f32],
    /// Columns of the panels, and the first of those that are taken.
    pub(crate) columns: usize,
    pub(crate) first: usize,
    pub(crate) values: &'a [f32],
    /// `[4H]`: added to.
    pub(crate) rows: &'a mut [f32],
}

impl Project<'_> {
    /// Asserts what the raw pointers below rely on.
    pub(super) fn check(&self) {
        assert!(self.rows.len().is_multiple_of(4 * PANEL));
        assert!(self.panels.len() == self.rows.len() * self.columns);
        assert!(self.first + self.values.len() <= self.columns);
    }
}

/// # Safety
///
/// The instructions of `T`, of 8 floats, are there, and `a.check()` holds.
#[inline(always)]
pub(super) unsafe fn project<T: Simd>(a: &mut Project<'_>) {
    const P: usize = 4;
    let panel_len = a.columns * PANEL;
    for panel in (0..a.rows.len() / PANEL).step_by(P) {
        // SAFETY: offsets stay below the lengths `check` has established.
        unsafe {
            let weights = a.panels.as_ptr().add(panel * panel_len + a.first * PANEL);
            let rows = a.rows.as_mut_ptr().add(panel * PANEL);
            let mut sums = load_tile::<T, P, 1>(rows, PANEL);
            let (values, depth) = (a.values.as_ptr(), a.values.len());
            multiply_rows::<T, P, 1>(&mut sums, weights, panel_len, values, depth);
            store_tile::<T, P, 1>(&sums, rows, PANEL);
        }
    }
}

/// What [`backward`] works on. States and gates are those [`forward`] left.
pub(crate) struct Backward<'a> {
    pub(crate) lanes: usize,
    pub(crate) hidden: usize,
    pub(crate) steps: usize,
    pub(crate) inputs: usize,
    /// Columns of `grad`: `K` rounded up to 16.
    pub(crate) columns: usize,
    /// Panels of the hidden columns: `[H/8][4H][8]`.
    pub(crate) panels_h: &'a [f32],
    /// Panels of the input columns; empty if nobody asks for `dx`.
    pub(crate) panels_x: &'a [f32],
    pub(crate) x: &'a [f32],
    pub(crate) h: &'a [f32],
    pub(crate) c: &'a [f32],
    pub(crate) gates: &'a mut [f32],
    pub(crate) tanh_c: &'a [f32],
    pub(crate) zone: Zone<'a>,
    /// `[T][H][W]`: in, the gradient of h from above; out, that of x if `panels_x` is given
    /// (`I` = `H` then).
    pub(crate) dh: &'a mut [f32],
    /// `[4H][W]`: receives the sum over steps of the gates' gradients.
    pub(crate) dbase: &'a mut [f32],
    /// `[4H][columns]`: the weights' gradient is added.
    pub(crate) grad: &'a mut [f32],
    pub(crate) scratch: &'a mut BackwardScratch,
}

/// Room that [`backward`] needs; kept between calls.
#[derive(Default)]
pub(crate) struct BackwardScratch {
    dc: Vec<f32>,
    dh_next: Vec<f32>,
    dh_kept: Vec<f32>,
    transposed: Vec<f32>,
}

impl BackwardScratch {
    fn prepare(&mut self, state: usize, transposed: usize) {
        for buffer in [&mut self.dc, &mut self.dh_next, &mut self.dh_kept] {
            buffer.clear();
            buffer.resize(state, 0.0);
        }
        self.transposed.clear();
        self.transposed.resize(transposed, 0.0);
    }
}

impl Backward<'_> {
    /// Asserts what the raw pointers below rely on, and makes room.
    pub(super) fn check(&mut self) {
        let (w, h, t) = (self.lanes, self.hidden, self.steps);
        assert!((w == 16 || w == 32) && h.is_multiple_of(PANEL) && h > 0);
        assert!(self.columns.is_multiple_of(16) && self.columns >= self.inputs + h);
        assert!(self.panels_h.len() == 4 * h * h && self.x.len() >= t * self.inputs * w);
        let dx = !self.panels_x.is_empty();
        assert!(!dx || (self.inputs == h && self.panels_x.len() == 4 * h * h));
        assert!(self.h.len() == (t + 1) * h * w && self.c.len() == (t + 1) * h * w);
        assert!(self.gates.len() == t * 4 * h * w && self.tanh_c.len() == t * h * w);
        assert!(self.dh.len() == t * h * w && self.dbase.len() == 4 * h * w);
        assert!(self.grad.len() == 4 * h * self.columns);
        if let Zone::Bits(bits) = self.zone {
            assert!(bits.len() == t * h);
        }
        self.scratch.prepare(h * w, steps_per_outer(w) * w * self.columns);
        self.dbase.fill(0.0);
    }
}

/// Backpropagates through the layer. `R` and `C` as in [`forward`], `G` vectors across the
/// columns of the weight gradient.
///
/// # Safety
///
/// As [`forward`], with `a.check()` just called.
#[inline(always)]
pub(super) unsafe fn backward<S: Simd, const R: usize, const C: usize, const G: usize>(
    a: &mut Backward<'_>,
) {
    let mut t_end = a.steps;
    while t_end > 0 {
        let t_start = t_end.saturating_sub(steps_per_outer(a.lanes));
        for t in (t_start..t_end).rev() {
            // SAFETY: offsets stay below the lengths `check` has established. `dh` of step t
            // has been read before its slot is reused for dx.
            unsafe {
                gate_gradients::<S>(a, t);
                carry_back::<S, R, C>(a, t);
            }
        }
        // SAFETY: as above; the scratch holds that many transposed steps.
        unsafe {
            for t in t_start..t_end {
                transpose_inputs::<S>(a, t, t - t_start);
            }
            weight_gradient::<S, G>(a, t_start, t_end - t_start);
        }
        t_end = t_start;
    }
}

/// Turns the gates of step `t` into their gradients, and carries dc one step back.
#[inline(always)]
unsafe fn gate_gradients<S: Simd>(a: &mut Backward<'_>, t: usize) {
    let (w, hidden, zone) = (a.lanes, a.hidden, a.zone);
    let (state, vectors) = (hidden * w, w / S::N);
    // SAFETY: every buffer here has `state` or `4 state` floats at t, which the pointers run
    // through in order.
    unsafe {
        let zone = zone.of_step(t * hidden);
        let (mut gate, mut dbase) = (a.gates.as_mut_ptr().add(t * 4 * state), a.dbase.as_mut_ptr());
        let mut dh_above = a.dh.as_ptr().add(t * state);
        let mut c_before = a.c.as_ptr().add(t * state);
        let mut tanh_c = a.tanh_c.as_ptr().add(t * state);
        let mut dc_at = a.scratch.dc.as_mut_ptr();
        let mut dh_next = a.scratch.dh_next.as_ptr();
        let mut dh_kept = a.scratch.dh_kept.as_mut_ptr();
        let (zero, one) = (S::splat(0.0), S::splat(1.0));
        for unit in 0..hidden {
            for v in 0..vectors {
                let rows = [gate, gate.add(w), gate.add(2 * w), gate.add(3 * w)];
                let (i, f) = (S::load(rows[0]), S::load(rows[1]));
                let (g, o) = (S::load(rows[2]), S::load(rows[3]));
                let tc = S::load(tanh_c);
                let mut dh = S::add(S::load(dh_above), S::load(dh_next));
                let mut dc = S::load(dc_at);
                let (mut kept_h, mut kept_c) = (zero, zero);
                if let Zone::Bits(bits) = zone {
                    let kept = *bits.as_ptr().add(unit) >> (v * S::N);
                    kept_h = S::select(kept, dh, zero);
                    kept_c = S::select(kept, dc, zero);
                    dh = S::select(kept, zero, dh);
                    dc = S::select(kept, zero, dc);
                }
                let through = S::mul(dh, o);
                let dc_new = S::add(dc, S::fnma(S::mul(through, tc), tc, through));
                let slope = |s: S::V| S::fnma(s, s, s);
                let gradients = [
                    S::mul(S::mul(dc_new, g), slope(i)),
                    S::mul(S::mul(dc_new, S::load(c_before)), slope(f)),
                    S::mul(S::mul(dc_new, i), S::fnma(g, g, one)),
                    S::mul(S::mul(dh, tc), slope(o)),
                ];
                let sums = [dbase, dbase.add(w), dbase.add(2 * w), dbase.add(3 * w)];
                for ((row, sum), gradient) in rows.into_iter().zip(sums).zip(gradients) {
                    S::store(row, gradient);
                    S::store(sum, S::add(S::load(sum), gradient));
                }
                S::store(dc_at, S::fma(dc_new, f, kept_c));
                S::store(dh_kept, kept_h);
                [gate, dbase] = [gate.add(S::N), dbase.add(S::N)];
                [dh_above, c_before] = [dh_above.add(S::N), c_before.add(S::N)];
                [tanh_c, dh_next] = [tanh_c.add(S::N), dh_next.add(S::N)];
                [dc_at, dh_kept] = [dc_at.add(S::N), dh_kept.add(S::N)];
            }
            [gate, dbase] = [gate.add(3 * w), dbase.add(3 * w)];
        }
    }
}

/// The products of [`forward`] alone, for `super::limit`.
///
/// # Safety
///
/// As [`forward`].
#[inline(always)]
pub(super) unsafe fn forward_products<S: Simd, const R: usize, const C: usize>(
    a: &mut Forward<'_>,
) {
    for t in 0..a.steps {
        // SAFETY: the caller's.
        unsafe { sum_gates::<S, R, C>(a, t) };
    }
}

/// The products of [`backward`] alone, for `super::limit`.
///
/// # Safety
///
/// As [`backward`].
#[inline(always)]
pub(super) unsafe fn backward_products<S: Simd, const R: usize, const C: usize, const G: usize>(
    a: &mut Backward<'_>,
) {
    let mut t_end = a.steps;
    while t_end > 0 {
        let t_start = t_end.saturating_sub(steps_per_outer(a.lanes));
        // SAFETY: as in `backward`.
        unsafe {
            for t in (t_start..t_end).rev() {
                carry_back::<S, R, C>(a, t);
            }
            weight_gradient::<S, G>(a, t_start, t_end - t_start);
        }
        t_end = t_start;
    }
}

/// From the gates' gradients of step `t` to those of the state before it and of the inputs.
#[inline(always)]
unsafe fn carry_back<S: Simd, const R: usize, const C: usize>(a: &mut Backward<'_>, t: usize) {
    let (w, hidden) = (a.lanes, a.hidden);
    let state = hidden * w;
    // SAFETY: offsets stay below the lengths `check` has established.
    unsafe {
        let gates = a.gates.as_ptr().add(t * 4 * state);
        let kept = a.scratch.dh_kept.as_ptr();
        let dh_next = a.scratch.dh_next.as_mut_ptr();
        let (rows, depth) = (hidden, 4 * hidden);
        let of = Product {
            panels: a.panels_h,
            rows,
            depth,
            b: gates,
            w,
            init: Some(kept),
            out: dh_next,
        };
        product::<S, R, C>(&of);
        if !a.panels_x.is_empty() {
            let dx = a.dh.as_mut_ptr().add(t * state);
            product::<S, R, C>(&Product { panels: a.panels_x, init: None, out: dx, ..of });
        }
    }
}

/// What [`product`] works on.
struct Product<'a> {
    /// `rows / 8` of them, `[depth][8]` each.
    panels: &'a [f32],
    rows: usize,
    depth: usize,
    /// `[depth][W]`
    b: *const f32,
    w: usize,
    /// `[rows][W]` both.
    init: Option<*const f32>,
    out: *mut f32,
}

/// `out = init + panels . b`, `rows` a multiple of 8.
#[inline(always)]
unsafe fn product<S: Simd, const R: usize, const C: usize>(a: &Product<'_>) {
    let panels = a.rows / PANEL;
    let mut panel = 0;
    while panel < panels {
        // SAFETY: the caller's; so many panels are left.
        panel += unsafe {
            match at_once::<S, R, C>(panels - panel) {
                3 => product_of::<S, R, C, 3>(a, panel),
                2 => product_of::<S, R, C, 2>(a, panel),
                _ => product_of::<S, R, C, 1>(a, panel),
            }
        };
    }
}

/// That of `P` panels from the one at `panel`; returns `P`.
#[inline(always)]
unsafe fn product_of<S: Simd, const R: usize, const C: usize, const P: usize>(
    a: &Product<'_>,
    panel: usize,
) -> usize {
    let (w, panel_len) = (a.w, a.depth * PANEL);
    for part in 0..PANEL / R {
        let row = panel * PANEL + part * R;
        let mut lane = 0;
        while lane < w {
            // SAFETY: the caller vouches for the shapes; C vectors from `lane` stay inside a row.
            unsafe {
                let at = row * w + lane;
                let mut sums = match a.init {
                    Some(init) => load_tiles::<S, R, C, P>(init.add(at), w),
                    None => [[[S::splat(0.0); C]; R]; P],
                };
                let weights = a.panels.as_ptr().add(panel * panel_len + part * R);
                let b = a.b.add(lane);
                multiply::<S, R, C, P>(&mut sums, weights, panel_len, b, w, a.depth);
                store_tiles::<S, R, C, P>(&sums, a.out.add(at), w);
            }
            lane += C * S::N;
        }
    }
    P
}

/// Tiles of consecutive panels.
#[inline(always)]
unsafe fn load_tiles<S: Simd, const R: usize, const C: usize, const P: usize>(
    mut from: *const f32,
    stride: usize,
) -> [[[S::V; C]; R]; P] {
    // SAFETY: the caller vouches for P times R rows of C vectors.
    unsafe {
        let mut tiles = [[[S::splat(0.0); C]; R]; P];
        for tile in &mut tiles {
            *tile = load_tile::<S, R, C>(from, stride);
            from = from.wrapping_add(R * stride);
        }
        tiles
    }
}

#[inline(always)]
unsafe fn store_tiles<S: Simd, const R: usize, const C: usize, const P: usize>(
    tiles: &[[[S::V; C]; R]; P],
    mut to: *mut f32,
    stride: usize,
) {
    for tile in tiles {
        // SAFETY: the caller vouches for P times R rows of C vectors.
        unsafe { store_tile::<S, R, C>(tile, to, stride) };
        to = to.wrapping_add(R * stride);
    }
}

/// The sums of the rows of `P` panels from `row` on before anything is added.
#[inline(always)]
unsafe fn start_tiles<S: Simd, const R: usize, const C: usize, const P: usize>(
    base: Base<'_>,
    row: usize,
    lane: usize,
    w: usize,
) -> [[[S::V; C]; R]; P] {
    // SAFETY: the caller vouches for P times R rows of C vectors.
    unsafe {
        match base {
            Base::Lanes(base) => load_tiles::<S, R, C, P>(base.as_ptr().add(row * w + lane), w),
            Base::Rows(base) => {
                let mut tiles = [[[S::splat(0.0); C]; R]; P];
                let mut from = base.as_ptr().add(row);
                for line in tiles.iter_mut().flatten() {
                    *line = [S::splat(*from); C];
                    from = from.wrapping_add(1);
                }
                tiles
            }
        }
    }
}

#[inline(always)]
unsafe fn load_tile<S: Simd, const R: usize, const C: usize>(
    mut from: *const f32,
    stride: usize,
) -> [[S::V; C]; R] {
    // SAFETY: the caller vouches for R rows of C vectors.
    unsafe {
        let mut tile = [[S::splat(0.0); C]; R];
        for line in &mut tile {
            for (v, sum) in line.iter_mut().enumerate() {
                *sum = S::load(from.add(v * S::N));
            }
            from = from.wrapping_add(stride);
        }
        tile
    }
}

#[inline(always)]
unsafe fn store_tile<S: Simd, const R: usize, const C: usize>(
    tile: &[[S::V; C]; R],
    mut to: *mut f32,
    stride: usize,
) {
    // SAFETY: the caller vouches for R rows of C vectors; what is one row further is not touched.
    unsafe {
        for line in tile {
            for (v, sum) in line.iter().enumerate() {
                S::store(to.add(v * S::N), *sum);
            }
            to = to.wrapping_add(stride);
        }
    }
}

/// `sums[R][C] += weights[.., R] . b[depth][C]` for each of `P` panels, `apart` floats after each
/// other; a column of weights every PANEL floats.
#[inline(always)]
unsafe fn multiply<S: Simd, const R: usize, const C: usize, const P: usize>(
    sums: &mut [[[S::V; C]; R]; P],
    mut weights: *const f32,
    apart: usize,
    mut b: *const f32,
    stride: usize,
    depth: usize,
) {
    // A copy, so that the sums live in registers.
    let mut tiles = *sums;
    for _ in 0..depth {
        // SAFETY: the caller vouches for `depth` columns of the panels and rows of `b`.
        unsafe {
            let mut row = [S::splat(0.0); C];
            for (v, value) in row.iter_mut().enumerate() {
                *value = S::load(b.add(v * S::N));
            }
            let mut column = weights;
            for tile in &mut tiles {
                for (r, line) in tile.iter_mut().enumerate() {
                    let weight = S::splat(*column.add(r));
                    for (sum, value) in line.iter_mut().zip(row) {
                        *sum = S::fma(weight, value, *sum);
                    }
                }
                column = column.wrapping_add(apart);
            }
            weights = weights.add(PANEL);
            b = b.add(stride);
        }
    }
    *sums = tiles;
}

/// Writes `[x; h]` of step `t` as `[W][columns]` into slot `slot` of the scratch.
#[inline(always)]
unsafe fn transpose_inputs<S: Simd>(a: &mut Backward<'_>, t: usize, slot: usize) {
    let (w, columns) = (a.lanes, a.columns);
    // SAFETY: slot < steps_per_outer(w), and inputs + hidden <= columns; rows past the last full
    // eight of x are copied one by one.
    unsafe {
        let to = a.scratch.transposed.as_mut_ptr().add(slot * w * columns);
        let x = a.x.as_ptr().add(t * a.inputs * w);
        transpose::<S>(x, a.inputs, w, to, columns);
        let h = a.h.as_ptr().add(t * a.hidden * w);
        transpose::<S>(h, a.hidden, w, to.add(a.inputs), columns);
    }
}

#[inline(always)]
unsafe fn transpose<S: Simd>(
    from: *const f32,
    rows: usize,
    w: usize,
    to: *mut f32,
    columns: usize,
) {
    let whole = rows / 8 * 8;
    // SAFETY: `from` has rows x w floats, `to` w x columns with columns >= rows; w is a
    // multiple of 16.
    unsafe {
        for row in (0..whole).step_by(8) {
            for lane in (0..w).step_by(8) {
                S::transpose8(from.add(row * w + lane), w, to.add(lane * columns + row), columns);
            }
        }
        for row in whole..rows {
            for lane in 0..w {
                *to.add(lane * columns + row) = *from.add(row * w + lane);
            }
        }
    }
}

/// Adds the weight gradient of `steps` steps from `t_start`: `grad += dgates . [x; h]'`.
#[inline(always)]
unsafe fn weight_gradient<S: Simd, const G: usize>(
    a: &mut Backward<'_>,
    t_start: usize,
    steps: usize,
) {
    let vectors = a.columns / S::N;
    let mut done = 0;
    while done < vectors {
        let left = vectors - done;
        // Tiles of nearly equal width: seven vectors go as four and three, not six and one.
        let width = left.div_ceil(left.div_ceil(G));
        let column = done * S::N;
        // SAFETY: `width` is at most G, and column + width vectors stay inside a row.
        unsafe {
            match width {
                1 => outer::<S, 1>(a, t_start, steps, column),
                2 => outer::<S, 2>(a, t_start, steps, column),
                3 => outer::<S, 3>(a, t_start, steps, column),
                4 => outer::<S, 4>(a, t_start, steps, column),
                5 => outer::<S, 5>(a, t_start, steps, column),
                _ => outer::<S, 6>(a, t_start, steps, column),
            }
        }
        done += width;
    }
}

#[inline(always)]
unsafe fn outer<S: Simd, const V: usize>(
    a: &mut Backward<'_>,
    t_start: usize,
    steps: usize,
    column: usize,
) {
    const ROWS: usize = 4;
    let (w, columns) = (a.lanes, a.columns);
    let state4 = 4 * a.hidden * w;
    for row in (0..4 * a.hidden).step_by(ROWS) {
        // SAFETY: rows are a multiple of 4; V vectors from `column` stay inside a row of
        // `grad` and of the transposed inputs; gates of `steps` steps exist from t_start.
        unsafe {
            let grad = a.grad.as_mut_ptr().add(row * columns + column);
            let mut sums = load_tile::<S, ROWS, V>(grad, columns);
            for slot in 0..steps {
                let mut gates = a.gates.as_ptr().add((t_start + slot) * state4 + row * w);
                let mut input = a.scratch.transposed.as_ptr().add(slot * w * columns + column);
                for _ in 0..w {
                    let mut values = [S::splat(0.0); V];
                    for (v, value) in values.iter_mut().enumerate() {
                        *value = S::load(input.add(v * S::N));
                    }
                    for (r, line) in sums.iter_mut().enumerate() {
                        let gate = S::splat(*gates.add(r * w));
                        for (sum, value) in line.iter_mut().zip(values) {
                            *sum = S::fma(gate, value, *sum);
                        }
                    }
                    gates = gates.add(1);
                    input = input.add(columns);
                }
            }
            store_tile::<S, ROWS, V>(&sums, grad, columns);
        }
    }
}
