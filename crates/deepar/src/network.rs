//! The network: its shape, its parameters in one flat slice, and one pass over a block of
//! windows forward and back.
//!
//! ```text
//! x[T][I][W] ──▶ LSTM 0 ──▶ LSTM 1 ... ──▶ h[T][H][W] ──▶ head ──▶ raw[T][P] a lane
//!                  ▲ base: bias + static inputs (log scale, embeddings), once a window
//! ```
//!
//! Invariants
//! * Hidden units are padded to a multiple of 8. Padding weights are zero, their gradients
//!   come out as zero, and nothing outside this file sees them.
//! * A block's result does not depend on other blocks; a lane without a window adds nothing.

use std::ops::Range;

use base::{Error, Result};

use crate::features::{Frame, Item, Lane, Plan};
use crate::hyper::Hyperparameters;
use crate::kernels::{
    Backward, BackwardScratch, Base, Forward, Isa, LANES, Loops, PANEL, Rows, Zone,
};
use crate::likelihood::Likelihood;
use crate::rng::{Stream, Threshold, purpose};

/// Sizes, all of them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Shape {
    /// Inputs that change by step.
    pub(crate) inputs: usize,
    /// Hidden units as asked for.
    pub(crate) cells: usize,
    pub(crate) layers: usize,
    pub(crate) likelihood: Likelihood,
    /// Categories and their sizes.
    pub(crate) cardinality: Vec<u32>,
    pub(crate) embedding: usize,
    /// Lags that reach the law's location directly, past the LSTM: all or none.
    pub(crate) skip: usize,
}

impl Shape {
    /// The network that `hyper` asks for, over `plan`'s inputs.
    pub(crate) fn new(hyper: &Hyperparameters, plan: &Plan, cardinality: Vec<u32>) -> Shape {
        Shape {
            inputs: plan.inputs(),
            cells: hyper.num_cells,
            layers: hyper.num_layers,
            likelihood: hyper.likelihood,
            cardinality,
            embedding: hyper.embedding_dimension,
            skip: if hyper.autoregressive_skip { plan.lags.len() } else { 0 },
        }
    }

    /// Hidden units, padded.
    pub(crate) fn hidden(&self) -> usize {
        self.cells.div_ceil(PANEL) * PANEL
    }

    /// Inputs of layer `l` that change by step.
    pub(crate) fn layer_inputs(&self, l: usize) -> usize {
        if l == 0 { self.inputs } else { self.hidden() }
    }

    /// Floats in a row of layer `l`'s weights: `[x; h]`, rounded up to 16.
    pub(crate) fn columns(&self, l: usize) -> usize {
        (self.layer_inputs(l) + self.hidden()).div_ceil(16) * 16
    }

    /// Inputs that stay the same over a window: ln scale, then the embeddings.
    pub(crate) fn statics(&self) -> usize {
        1 + self.cardinality.len() * self.embedding
    }

    fn gates(&self) -> usize {
        4 * self.hidden()
    }

    pub(crate) fn outputs(&self) -> usize {
        self.likelihood.outputs()
    }

    /// Where each group of parameters lies in the flat slice.
    pub(crate) fn layout(&self) -> Layout {
        let mut end = 0;
        let mut take = |len: usize| {
            end += len;
            end - len..end
        };
        let layers = (0..self.layers)
            .map(|l| (take(self.gates() * self.columns(l)), take(self.gates())))
            .collect();
        let statics = take(self.gates() * self.statics());
        let embeddings =
            self.cardinality.iter().map(|size| take(*size as usize * self.embedding)).collect();
        let head = take(self.outputs() * self.hidden());
        let head_bias = take(self.outputs());
        let skip = take(self.skip);
        Layout { layers, statics, embeddings, head, head_bias, skip, len: end }
    }

    /// An upper bound of the parameters' number, without overflow; for limits.
    pub(crate) fn parameters_estimate(&self) -> u128 {
        let (h, layers) = (self.hidden() as u128, self.layers as u128);
        let inputs = (self.inputs + self.statics()) as u128;
        let tables: u128 =
            self.cardinality.iter().map(|size| u128::from(*size) * self.embedding as u128).sum();
        4 * h * (layers * (2 * h + 17) + inputs) + tables + 4 * h
    }
}

/// Parameters a network may have: 200 million are 800 MB.
const PARAMETERS_MAX: u128 = 200_000_000;

/// Memory one pass over 32 windows may take.
const WORKSPACE_BYTES_MAX: u128 = 2 << 30;

impl Shape {
    /// Refuses a network that would not fit into memory, over windows of `steps` steps.
    pub(crate) fn check_size(&self, steps: usize) -> Result<()> {
        let parameters = self.parameters_estimate();
        if parameters > PARAMETERS_MAX {
            return Err(Error::invalid(format!(
                "the network would have {parameters} parameters, at most {PARAMETERS_MAX}; lower num_cells, \
                 num_layers, embedding_dimension or cardinality"
            )));
        }
        let a_step = self.inputs + self.hidden() * (7 * self.layers + 1) + self.outputs();
        let bytes = a_step as u128 * steps as u128 * 32 * 4;
        if bytes > WORKSPACE_BYTES_MAX {
            return Err(Error::invalid(format!(
                "32 windows of {steps} steps would take {} MiB, at most {}; lower context_length, \
                 prediction_length, num_cells or num_layers",
                bytes >> 20,
                WORKSPACE_BYTES_MAX >> 20
            )));
        }
        Ok(())
    }
}

/// Ranges of the flat parameter slice.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Weights `[4H][columns]` and bias `[4H]` of each layer, gate rows unit by unit.
    pub(crate) layers: Vec<(Range<usize>, Range<usize>)>,
    /// `[4H][statics]`, into the first layer.
    pub(crate) statics: Range<usize>,
    /// `[size][embedding]` a category.
    pub(crate) embeddings: Vec<Range<usize>>,
    /// `[P][H]`
    pub(crate) head: Range<usize>,
    /// `[P]`
    pub(crate) head_bias: Range<usize>,
    /// `[lags]`, from the lagged values to the location.
    pub(crate) skip: Range<usize>,
    pub(crate) len: usize,
}

/// Fresh parameters: uniform within 1 / sqrt(cells) as PyTorch's LSTM has them, forget gates
/// biased by 1 so that memory is kept until the network learns otherwise.
pub(crate) fn init(shape: &Shape, seed: u64) -> Vec<f32> {
    let layout = shape.layout();
    let mut random = Stream::new(seed, purpose::INIT, 0);
    let mut params = vec![0.0; layout.len];
    let bound = 1.0 / (shape.cells as f64).sqrt();
    let mut draw = |size: f64| ((random.uniform() * 2.0 - 1.0) * size) as f32;
    for (l, (weights, bias)) in layout.layers.iter().enumerate() {
        let (columns, inputs) = (shape.columns(l), shape.layer_inputs(l));
        for unit in 0..shape.cells {
            for gate in 0..4 {
                let row = 4 * unit + gate;
                let weights = &mut params[weights.clone()][row * columns..];
                let inputs = if l == 0 { inputs } else { shape.cells };
                weights[..inputs].iter_mut().for_each(|w| *w = draw(bound));
                let from = shape.layer_inputs(l);
                weights[from..from + shape.cells].iter_mut().for_each(|w| *w = draw(bound));
                params[bias.clone()][row] = draw(bound) + if gate == 1 { 1.0 } else { 0.0 };
            }
        }
    }
    let statics = shape.statics();
    params[layout.statics.clone()][..4 * shape.cells * statics]
        .iter_mut()
        .for_each(|w| *w = draw(bound));
    for table in &layout.embeddings {
        params[table.clone()].iter_mut().for_each(|w| *w = draw(1.0));
    }
    for row in params[layout.head.clone()].chunks_mut(shape.hidden()) {
        row[..shape.cells].iter_mut().for_each(|w| *w = draw(bound));
    }
    params
}

/// The weights as the kernels read them; made once a step.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packed {
    forward: Vec<Vec<f32>>,
    hidden: Vec<Vec<f32>>,
    inputs: Vec<Vec<f32>>,
}

impl Packed {
    /// How many numbers it holds.
    pub(crate) fn numbers(&self) -> usize {
        [&self.forward, &self.hidden, &self.inputs].into_iter().flatten().map(Vec::len).sum()
    }

    /// For forecasting alone.
    pub(crate) fn new(isa: Isa, shape: &Shape, layout: &Layout, params: &[f32]) -> Packed {
        let mut packed = Packed::default();
        packed.pack(isa, shape, layout, params, false);
        packed
    }

    /// Packs other parameters of the same network; `backward` adds what only training needs.
    pub(crate) fn pack(
        &mut self,
        isa: Isa,
        shape: &Shape,
        layout: &Layout,
        params: &[f32],
        backward: bool,
    ) {
        for weights in [&mut self.forward, &mut self.hidden, &mut self.inputs] {
            weights.resize_with(shape.layers, Vec::new);
        }
        for l in 0..shape.layers {
            let from = &params[layout.layers[l].0.clone()];
            let (stride, inputs, hidden) =
                (shape.columns(l), shape.layer_inputs(l), shape.hidden());
            let rows = Rows { from, stride, rows: shape.gates() };
            isa.pack(rows, inputs + hidden, &mut self.forward[l]);
            if backward {
                rows.pack_transposed(inputs..inputs + hidden, &mut self.hidden[l]);
                let wanted = if l == 0 { 0 } else { inputs };
                rows.pack_transposed(0..wanted, &mut self.inputs[l]);
            }
        }
    }

    pub(crate) fn layer(&self, l: usize) -> &[f32] {
        &self.forward[l]
    }
}

/// One training window: a series and the step at which its horizon begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Window {
    pub(crate) item: usize,
    pub(crate) split: usize,
}

/// The sum of losses and how many points it is over.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Loss {
    pub(crate) sum: f64,
    pub(crate) count: u64,
}

impl Loss {
    pub(crate) fn add(&mut self, other: Loss) {
        self.sum += other.sum;
        self.count += other.count;
    }

    pub(crate) fn mean(self) -> f64 {
        self.sum / self.count.max(1) as f64
    }
}

/// States of one layer.
#[derive(Clone, Debug, Default)]
struct LayerState {
    h: Vec<f32>,
    c: Vec<f32>,
    gates: Vec<f32>,
    tanh_c: Vec<f32>,
    base: Vec<f32>,
    dbase: Vec<f32>,
    zone: Vec<u32>,
}

/// Everything a pass needs, kept between passes.
#[derive(Default)]
pub(crate) struct Workspace {
    x: Vec<f32>,
    statics: Vec<f32>,
    layers: Vec<LayerState>,
    dh: Vec<f32>,
    raw: Vec<f32>,
    scratch: BackwardScratch,
}

/// The network with its parameters, as passes read it.
#[derive(Clone, Copy)]
pub(crate) struct Net<'a> {
    pub(crate) shape: &'a Shape,
    pub(crate) layout: &'a Layout,
    pub(crate) params: &'a [f32],
    pub(crate) packed: &'a Packed,
    pub(crate) plan: &'a Plan,
    pub(crate) isa: Isa,
}

/// How units stand still in a pass.
#[derive(Clone, Copy)]
pub(crate) enum Zoneout {
    /// By chance.
    Random(Chance),
    /// By their share.
    Mean(f64),
}

/// What decides which units stand still: the same for a window whichever block it is in.
#[derive(Clone, Copy)]
pub(crate) struct Chance {
    pub(crate) rate: f64,
    pub(crate) seed: u64,
    pub(crate) step: u64,
    /// The block's first window within the batch: a multiple of 32, or of 16 if the block has
    /// 16 lanes.
    pub(crate) first: usize,
}

fn reset(buffer: &mut Vec<f32>, len: usize) {
    if buffer.len() != len {
        buffer.clear();
        buffer.resize(len, 0.0);
    }
}

impl Net<'_> {
    /// Runs the steps `first..first + steps` of each item in its lane, from a zero state.
    /// `starts[lane]` = (item, first, frame).
    pub(crate) fn run(
        &self,
        work: &mut Workspace,
        lanes: usize,
        steps: usize,
        starts: &[(&Item<'_>, i64, Frame)],
        zone: Zoneout,
    ) {
        let inputs = self.shape.inputs;
        reset(&mut work.x, steps * inputs * lanes);
        if starts.len() < lanes {
            work.x.fill(0.0);
        }
        for (lane, (item, first, frame)) in starts.iter().enumerate() {
            let into = Lane { x: &mut work.x, lanes, lane };
            self.plan.fill(item, *first, steps, *frame, into);
        }
        self.fill_statics(work, lanes, starts);
        work.layers.resize_with(self.shape.layers, LayerState::default);
        let state = self.shape.hidden() * lanes;
        for l in 0..self.shape.layers {
            let (below, rest) = work.layers.split_at_mut(l);
            let layer = &mut rest[0];
            reset(&mut layer.h, (steps + 1) * state);
            reset(&mut layer.c, (steps + 1) * state);
            layer.h[..state].fill(0.0);
            layer.c[..state].fill(0.0);
            reset(&mut layer.gates, steps * 4 * state);
            reset(&mut layer.tanh_c, steps * state);
            reset(&mut layer.base, 4 * state);
            self.base(l, &work.statics, lanes, &mut layer.base);
            draw_zone(self.isa, &mut layer.zone, zone, l, steps * self.shape.hidden(), lanes);
            let x = match below.last() {
                Some(below) => &below.h[state..],
                None => &work.x[..],
            };
            self.isa.forward(&mut Forward {
                lanes,
                hidden: self.shape.hidden(),
                steps,
                inputs: self.shape.layer_inputs(l),
                inputs_packed: self.shape.layer_inputs(l),
                panels: &self.packed.forward[l],
                base: Base::Lanes(&layer.base),
                x,
                h: &mut layer.h,
                c: &mut layer.c,
                gates: &mut layer.gates,
                tanh_c: &mut layer.tanh_c,
                zone: zone_of(zone, &layer.zone),
            });
        }
    }

    /// The states of layer `l` after the last step of [`Net::run`]: `[H][lanes]` each.
    pub(crate) fn last_state<'w>(
        &self,
        work: &'w Workspace,
        l: usize,
        lanes: usize,
    ) -> (&'w [f32], &'w [f32]) {
        let state = self.shape.hidden() * lanes;
        let layer = &work.layers[l];
        (&layer.h[layer.h.len() - state..], &layer.c[layer.c.len() - state..])
    }

    fn fill_statics(&self, work: &mut Workspace, lanes: usize, starts: &[(&Item<'_>, i64, Frame)]) {
        work.statics.clear();
        work.statics.resize(self.shape.statics() * lanes, 0.0);
        let mut column = vec![0.0; self.shape.statics()];
        for (lane, (item, _, frame)) in starts.iter().enumerate() {
            self.statics_of(item, frame.scale, &mut column);
            for (k, value) in column.iter().enumerate() {
                work.statics[k * lanes + lane] = *value;
            }
        }
    }

    /// Log scale and embeddings of one item.
    pub(crate) fn statics_of(&self, item: &Item<'_>, scale: f32, out: &mut [f32]) {
        out[0] = self.plan.scaling.log_scale(scale);
        let width = self.shape.embedding;
        for ((table, cat), out) in
            self.layout.embeddings.iter().zip(&item.cats).zip(out[1..].chunks_mut(width))
        {
            out.copy_from_slice(&self.params[table.clone()][*cat as usize * width..][..width]);
        }
    }

    /// Bias, and for the first layer the static inputs' share.
    fn base(&self, l: usize, statics: &[f32], lanes: usize, base: &mut [f32]) {
        let bias = &self.params[self.layout.layers[l].1.clone()];
        let width = self.shape.statics();
        let weights = &self.params[self.layout.statics.clone()];
        for (row, (out, bias)) in base.chunks_exact_mut(lanes).zip(bias).enumerate() {
            out.fill(*bias);
            if l == 0 {
                let weights = &weights[row * width..][..width];
                self.isa.run(Combine { weights, rows: statics, out });
            }
        }
    }

    /// The raw outputs of step `t` of the top layer, `[P][lanes]`.
    pub(crate) fn head(&self, h: &[f32], lanes: usize, raw: &mut [f32]) {
        let weights = &self.params[self.layout.head.clone()];
        let bias = &self.params[self.layout.head_bias.clone()];
        for (k, out) in raw.chunks_exact_mut(lanes).enumerate() {
            out.fill(bias[k]);
            let weights = &weights[k * self.shape.hidden()..][..self.shape.hidden()];
            self.isa.run(Combine { weights, rows: h, out });
        }
    }

    /// Adds what the first `rows` lags, `[rows][lanes]`, say of the location past the LSTM.
    pub(crate) fn skip(&self, rows: &[f32], lanes: usize, raw: &mut [f32]) {
        let weights = &self.params[self.layout.skip.clone()];
        let Some(at) = self.shape.likelihood.location().filter(|_| !weights.is_empty()) else {
            return;
        };
        let count = (rows.len() / lanes).min(weights.len());
        let (weights, rows) = (&weights[..count], &rows[..count * lanes]);
        self.isa.run(Combine { weights, rows, out: &mut raw[at * lanes..][..lanes] });
    }

    /// One pass over up to `lanes` windows: the loss and, with `grad`, its gradient added.
    ///
    /// The loss of a window is that of every step of context and horizon but the first; the
    /// inputs are the true values (teacher forcing).
    pub(crate) fn pass(
        &self,
        work: &mut Workspace,
        lanes: usize,
        lengths: (usize, usize),
        windows: &[(&Item<'_>, Window)],
        zone: Zoneout,
        grad: Option<&mut [f32]>,
    ) -> Loss {
        let (context, horizon) = lengths;
        let steps = context - 1 + horizon;
        let starts: Vec<(&Item<'_>, i64, Frame)> = windows
            .iter()
            .map(|(item, window)| {
                let frame = self.plan.frame(item, window.split);
                (*item, window.split as i64 - context as i64 + 1, frame)
            })
            .collect();
        self.run(work, lanes, steps, &starts, zone);
        let loss = self.loss(work, lanes, steps, &starts);
        if let Some(grad) = grad {
            self.backward(work, lanes, steps, &starts, zone, grad);
        }
        loss
    }

    /// Scores the outputs; leaves the gradient by the raw outputs in `work.raw`.
    fn loss(
        &self,
        work: &mut Workspace,
        lanes: usize,
        steps: usize,
        starts: &[(&Item<'_>, i64, Frame)],
    ) -> Loss {
        let outputs = self.shape.outputs();
        let law = self.shape.likelihood;
        let state = self.shape.hidden() * lanes;
        reset(&mut work.raw, steps * outputs * lanes);
        let top = &work.layers[self.shape.layers - 1].h;
        let mut total = Loss::default();
        for t in 0..steps {
            let raw = &mut work.raw[t * outputs * lanes..][..outputs * lanes];
            self.head(&top[(t + 1) * state..(t + 2) * state], lanes, raw);
            self.skip(
                &work.x[t * self.shape.inputs * lanes..][..self.shape.skip * lanes],
                lanes,
                raw,
            );
            for lane in 0..lanes {
                let mut d = [0.0; 3];
                let known = starts.get(lane).and_then(|(item, first, frame)| {
                    let at = usize::try_from(first + t as i64).ok()?;
                    let z = *item.target.get(at)?;
                    (!z.is_nan()).then_some((frame.enter(z), f64::from(frame.scale)))
                });
                if let Some((y, scale)) = known {
                    let o = std::array::from_fn(|k| {
                        if k < outputs { f64::from(raw[k * lanes + lane]) } else { 0.0 }
                    });
                    total.sum += law.loss(&o, y, scale, &mut d);
                    total.sum += if law.is_density_in_z() { scale.ln() } else { 0.0 };
                    total.count += 1;
                }
                for k in 0..outputs {
                    raw[k * lanes + lane] = d[k] as f32;
                }
            }
        }
        total
    }

    fn backward(
        &self,
        work: &mut Workspace,
        lanes: usize,
        steps: usize,
        starts: &[(&Item<'_>, i64, Frame)],
        zone: Zoneout,
        grad: &mut [f32],
    ) {
        let hidden = self.shape.hidden();
        let state = hidden * lanes;
        reset(&mut work.dh, steps * state);
        if let Some(at) = self.shape.likelihood.location().filter(|_| self.shape.skip > 0) {
            self.isa.run(SkipBackward {
                x: &work.x,
                draw: &work.raw,
                grad: &mut grad[self.layout.skip.clone()],
                lanes,
                steps,
                inputs: self.shape.inputs,
                outputs: self.shape.outputs(),
                at,
            });
        }
        self.isa.run(HeadBackward {
            h: &work.layers[self.shape.layers - 1].h[state..],
            draw: &work.raw,
            weights: &self.params[self.layout.head.clone()],
            dh: &mut work.dh,
            grad: &mut grad[self.layout.head.start..self.layout.head_bias.end],
            hidden,
            lanes,
            steps,
            outputs: self.shape.outputs(),
        });
        for l in (0..self.shape.layers).rev() {
            let (below, rest) = work.layers.split_at_mut(l);
            let layer = &mut rest[0];
            reset(&mut layer.dbase, 4 * state);
            let x = match below.last() {
                Some(below) => &below.h[state..],
                None => &work.x[..],
            };
            let (weights, bias) = self.layout.layers[l].clone();
            self.isa.backward(&mut Backward {
                lanes,
                hidden,
                steps,
                inputs: self.shape.layer_inputs(l),
                columns: self.shape.columns(l),
                panels_h: &self.packed.hidden[l],
                panels_x: &self.packed.inputs[l],
                x,
                h: &layer.h,
                c: &layer.c,
                gates: &mut layer.gates,
                tanh_c: &layer.tanh_c,
                zone: zone_of(zone, &layer.zone),
                dh: &mut work.dh,
                dbase: &mut layer.dbase,
                grad: &mut grad[weights],
                scratch: &mut work.scratch,
            });
            for (slot, row) in grad[bias].iter_mut().zip(layer.dbase.chunks_exact(lanes)) {
                *slot += row.iter().sum::<f32>();
            }
        }
        self.statics_backward(work, lanes, starts, grad);
    }

    /// Weights of the static inputs, and the embeddings.
    fn statics_backward(
        &self,
        work: &Workspace,
        lanes: usize,
        starts: &[(&Item<'_>, i64, Frame)],
        grad: &mut [f32],
    ) {
        let width = self.shape.statics();
        let dbase = &work.layers[0].dbase;
        let mut dstatics = vec![0.0; width * lanes];
        self.isa.run(StaticsBackward {
            dbase,
            statics: &work.statics,
            weights: &self.params[self.layout.statics.clone()],
            grad: &mut grad[self.layout.statics.clone()],
            dstatics: &mut dstatics,
            lanes,
            width,
        });
        let embedding = self.shape.embedding;
        for (k, table) in self.layout.embeddings.iter().enumerate() {
            for (lane, (item, ..)) in starts.iter().enumerate() {
                let row =
                    &mut grad[table.clone()][item.cats[k] as usize * embedding..][..embedding];
                for (j, slot) in row.iter_mut().enumerate() {
                    *slot += dstatics[(1 + k * embedding + j) * lanes + lane];
                }
            }
        }
    }
}

fn zone_of(zone: Zoneout, bits: &[u32]) -> Zone<'_> {
    match zone {
        Zoneout::Random(chance) if chance.rate > 0.0 => Zone::Bits(bits),
        Zoneout::Mean(rate) if rate > 0.0 => Zone::Mean(rate as f32),
        _ => Zone::Off,
    }
}

fn draw_zone(isa: Isa, bits: &mut Vec<u32>, zone: Zoneout, layer: usize, len: usize, lanes: usize) {
    let Zoneout::Random(Chance { rate, seed, step, first }) = zone else { return };
    if rate <= 0.0 {
        return;
    }
    bits.clear();
    bits.resize(len, 0);
    let key = Stream::new(seed, purpose::ZONEOUT, step).next_u64();
    for block in (0..lanes).step_by(LANES) {
        let random = Stream::new(key, layer as u64, ((first + block) / LANES) as u64);
        isa.run(DrawBits { bits, random, chance: Threshold::new(rate), lane: block });
    }
}

/// Draws for [`LANES`] lanes from `lane` on, a block of them from a stream of its own.
struct DrawBits<'a> {
    bits: &'a mut [u32],
    random: Stream,
    chance: Threshold,
    lane: usize,
}

impl Loops for DrawBits<'_> {
    type Output = ();

    #[inline(always)]
    fn run(mut self) {
        for bits in self.bits.chunks_mut(512 / LANES) {
            let words = self.random.bits(self.chance);
            for (quarter, bits) in bits.chunks_mut(8).enumerate() {
                for (slot, word) in bits.iter_mut().zip(words) {
                    *slot |= u32::from((word >> (LANES * quarter)) as u16) << self.lane;
                }
            }
        }
    }
}

/// `out += sum of weights[k] rows[k]`
struct Combine<'a> {
    weights: &'a [f32],
    rows: &'a [f32],
    out: &'a mut [f32],
}

impl Loops for Combine<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let lanes = self.out.len();
        for (out, start) in self.out.chunks_exact_mut(16).zip((0..lanes).step_by(16)) {
            let mut sum = [0.0f32; 16];
            sum.copy_from_slice(out);
            for (weight, row) in self.weights.iter().zip(self.rows.chunks_exact(lanes)) {
                let row = &row[start..start + 16];
                for i in 0..16 {
                    sum[i] += weight * row[i];
                }
            }
            out.copy_from_slice(&sum);
        }
        for lane in lanes / 16 * 16..lanes {
            let mut sum = self.out[lane];
            for (weight, row) in self.weights.iter().zip(self.rows.chunks_exact(lanes)) {
                sum += weight * row[lane];
            }
            self.out[lane] = sum;
        }
    }
}

/// From the raw outputs' gradient to the head's and to dh of the top layer.
struct HeadBackward<'a> {
    h: &'a [f32],
    draw: &'a [f32],
    weights: &'a [f32],
    dh: &'a mut [f32],
    /// Weights, then bias.
    grad: &'a mut [f32],
    hidden: usize,
    lanes: usize,
    steps: usize,
    outputs: usize,
}

impl Loops for HeadBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (lanes, hidden, outputs) = (self.lanes, self.hidden, self.outputs);
        self.dh.fill(0.0);
        // Lane-wise sums first; one sum across lanes at the end.
        let mut sums = vec![0.0f32; outputs * hidden * 16];
        for t in 0..self.steps {
            for k in 0..outputs {
                let draw = &self.draw[(t * outputs + k) * lanes..][..lanes];
                self.grad[outputs * hidden + k] += draw.iter().sum::<f32>();
                for unit in 0..hidden {
                    let at = (t * hidden + unit) * lanes;
                    let weight = self.weights[k * hidden + unit];
                    let sum = &mut sums[(k * hidden + unit) * 16..][..16];
                    let (h, dh) = (&self.h[at..at + lanes], &mut self.dh[at..at + lanes]);
                    for ((h, dh), draw) in
                        h.chunks_exact(16).zip(dh.chunks_exact_mut(16)).zip(draw.chunks_exact(16))
                    {
                        for i in 0..16 {
                            dh[i] += weight * draw[i];
                            sum[i] += h[i] * draw[i];
                        }
                    }
                }
            }
        }
        for (slot, sum) in self.grad[..outputs * hidden].iter_mut().zip(sums.chunks_exact(16)) {
            *slot += sum.iter().sum::<f32>();
        }
    }
}

/// `grad += sum over steps of x[lags] . draw[location]'`
struct SkipBackward<'a> {
    x: &'a [f32],
    draw: &'a [f32],
    grad: &'a mut [f32],
    lanes: usize,
    steps: usize,
    inputs: usize,
    outputs: usize,
    at: usize,
}

impl Loops for SkipBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let lanes = self.lanes;
        for t in 0..self.steps {
            let draw = &self.draw[(t * self.outputs + self.at) * lanes..][..lanes];
            let x = &self.x[t * self.inputs * lanes..];
            for (grad, x) in self.grad.iter_mut().zip(x.chunks_exact(lanes)) {
                let mut sums = [0.0f32; 16];
                for (x, draw) in x.chunks_exact(16).zip(draw.chunks_exact(16)) {
                    for i in 0..16 {
                        sums[i] += x[i] * draw[i];
                    }
                }
                *grad += sums.iter().sum::<f32>();
            }
        }
    }
}

/// `grad += dbase . statics'`, `dstatics = weights' . dbase`
struct StaticsBackward<'a> {
    dbase: &'a [f32],
    statics: &'a [f32],
    weights: &'a [f32],
    grad: &'a mut [f32],
    dstatics: &'a mut [f32],
    lanes: usize,
    width: usize,
}

impl Loops for StaticsBackward<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let (lanes, width) = (self.lanes, self.width);
        for (row, gradient) in self.dbase.chunks_exact(lanes).enumerate() {
            for k in 0..width {
                let weight = self.weights[row * width + k];
                let statics = self.statics[k * lanes..][..lanes].chunks_exact(16);
                let dstatics = self.dstatics[k * lanes..][..lanes].chunks_exact_mut(16);
                let mut sum = [0.0f32; 16];
                for ((gradient, statics), dstatics) in
                    gradient.chunks_exact(16).zip(statics).zip(dstatics)
                {
                    for i in 0..16 {
                        sum[i] += gradient[i] * statics[i];
                        dstatics[i] += weight * gradient[i];
                    }
                }
                self.grad[row * width + k] += sum.iter().sum::<f32>();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use forecast::{Frequency, TimeSeries};

    use super::*;
    use crate::features::{Framing, Scaling, lags};

    fn chance(rate: f64) -> Zoneout {
        Zoneout::Random(Chance { rate, seed: 3, step: 7, first: 0 })
    }

    struct Bench {
        shape: Shape,
        plan: Plan,
        items: Vec<Item<'static>>,
        windows: Vec<Window>,
        params: Vec<f32>,
    }

    impl Bench {
        fn new(likelihood: Likelihood) -> Bench {
            Bench::framed(likelihood, Framing::Mean, false)
        }

        fn framed(likelihood: Likelihood, framing: Framing, skips: bool) -> Bench {
            let framing = if likelihood.is_scaled() { framing } else { Framing::Raw };
            let mut random = Stream::new(5, 5, 5);
            let series = |k: u32, random: &mut Stream| TimeSeries {
                target: (0..60)
                    .map(|_| match (likelihood, random.uniform()) {
                        (_, u) if u < 0.1 => f32::NAN,
                        (Likelihood::Beta, u) => u as f32,
                        (Likelihood::NegativeBinomial, _) => random.poisson(4.0) as f32,
                        _ => random.normal() as f32 + 2.0,
                    })
                    .collect(),
                feat_static_cat: vec![k % 3, k % 2],
                feat_dynamic_real: vec![(0..60).map(|_| random.uniform() as f32).collect()],
                ..TimeSeries::default()
            };
            // A test's series may stay for its process.
            let items: Vec<Item<'static>> =
                (0..5).map(|k| Item::new(Box::leak(Box::new(series(k, &mut random))))).collect();
            let plan = Plan {
                freq: Frequency::HOURLY,
                lags: lags(Frequency::HOURLY)[..12].to_vec(),
                features: 1,
                scaling: Scaling::fit(&items, framing),
                framing,
                frame_length: 9,
            };
            let shape = Shape {
                inputs: plan.inputs(),
                cells: 11,
                layers: 3,
                likelihood,
                cardinality: vec![3, 2],
                embedding: 2,
                skip: if skips { 12 } else { 0 },
            };
            let mut params = init(&shape, 1);
            params.iter_mut().filter(|p| **p != 0.0).for_each(|p| *p *= 1.5);
            let windows = (0..19).map(|k| Window { item: k % 5, split: 2 + 5 * k % 50 }).collect();
            Bench { shape, plan, items, windows, params }
        }

        fn pass(&self, isa: Isa, params: &[f32], zone: Zoneout, grad: Option<&mut [f32]>) -> Loss {
            let layout = self.shape.layout();
            let mut packed = Packed::default();
            packed.pack(isa, &self.shape, &layout, params, true);
            let net = Net {
                shape: &self.shape,
                layout: &layout,
                params,
                packed: &packed,
                plan: &self.plan,
                isa,
            };
            let windows: Vec<(&Item<'_>, Window)> =
                self.windows.iter().map(|window| (&self.items[window.item], *window)).collect();
            net.pass(&mut Workspace::default(), 32, (6, 5), &windows, zone, grad)
        }

        fn groups(&self) -> Vec<(String, Range<usize>)> {
            let layout = self.shape.layout();
            let mut groups = Vec::new();
            for (l, (weights, bias)) in layout.layers.iter().enumerate() {
                groups.push((format!("weights {l}"), weights.clone()));
                groups.push((format!("bias {l}"), bias.clone()));
            }
            groups.push(("statics".into(), layout.statics.clone()));
            groups
                .extend(layout.embeddings.iter().map(|range| ("embedding".into(), range.clone())));
            groups.push(("head".into(), layout.head.clone()));
            groups.push(("head bias".into(), layout.head_bias.clone()));
            if self.shape.skip > 0 {
                groups.push(("skip".into(), layout.skip.clone()));
            }
            groups
        }
    }

    #[test]
    fn gradients_match_finite_differences_for_every_group_law_and_path() {
        let plain = Likelihood::ALL.into_iter().map(Bench::new);
        let plus = Likelihood::ALL
            .into_iter()
            .filter(|law| law.location().is_some())
            .map(|law| Bench::framed(law, Framing::Standard, true));
        for bench in plain.chain(plus) {
            for isa in Isa::available() {
                for zone in [chance(0.0), chance(0.2)] {
                    let mut grad = vec![0.0; bench.params.len()];
                    bench.pass(isa, &bench.params, zone, Some(&mut grad));
                    for (name, range) in bench.groups() {
                        check_group(&bench, isa, zone, &grad, &name, range);
                    }
                }
            }
        }
    }

    /// Moves the group along its own gradient, where the slope is steepest and rounding
    /// matters least, and along a random direction.
    fn check_group(
        bench: &Bench,
        isa: Isa,
        zone: Zoneout,
        grad: &[f32],
        name: &str,
        range: Range<usize>,
    ) {
        let mut random = Stream::new(9, 9, range.start as u64);
        let noise: Vec<f64> = range
            .clone()
            .map(|at| match bench.params[at] == 0.0 && grad[at] == 0.0 {
                true => 0.0,
                false => random.normal(),
            })
            .collect();
        let own: Vec<f64> = grad[range.clone()].iter().map(|g| f64::from(*g)).collect();
        for direction in [own, noise] {
            let length = direction.iter().map(|d| d * d).sum::<f64>().sqrt();
            assert!(length > 1e-3, "{name} of {:?} has no gradient", bench.shape.likelihood);
            let at = |step: f64| {
                let mut moved = bench.params.clone();
                for (p, d) in moved[range.clone()].iter_mut().zip(&direction) {
                    *p += (step * d / length) as f32;
                }
                bench.pass(isa, &moved, zone, None).sum
            };
            let h = 4e-3;
            // Richardson: two central differences, the error of the first order removed.
            let slope = (8.0 * (at(h / 2.0) - at(-h / 2.0)) - (at(h) - at(-h))) / (6.0 * h);
            let expect: f64 = grad[range.clone()]
                .iter()
                .zip(&direction)
                .map(|(g, d)| f64::from(*g) * d / length)
                .sum();
            let size =
                grad[range.clone()].iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
            let tolerance = 0.004 * size + 0.03;
            assert!(
                (slope - expect).abs() < tolerance,
                "{name} of {:?} on {isa}: {slope} by differences, {expect} by backpropagation",
                bench.shape.likelihood
            );
        }
    }

    #[test]
    fn padding_has_no_gradient() {
        let bench = Bench::new(Likelihood::Gaussian);
        let mut grad = vec![0.0; bench.params.len()];
        bench.pass(Isa::detect(), &bench.params, chance(0.1), Some(&mut grad));
        let layout = bench.shape.layout();
        let columns = bench.shape.columns(1);
        for (row, line) in grad[layout.layers[1].0.clone()].chunks(columns).enumerate() {
            for (column, value) in line.iter().enumerate() {
                let padded = row >= 44 || column % 16 >= 11 || column >= 32;
                assert!(!padded || *value == 0.0, "row {row}, column {column}: {value}");
            }
        }
    }

    /// Which thread takes a window, and in how wide a block, decides nothing.
    #[test]
    fn units_stand_still_alike_in_blocks_of_either_width_on_every_path() {
        let draw = |isa, first, lanes, len| {
            let chance = Chance { rate: 0.3, seed: 3, step: 7, first };
            let mut bits = vec![u32::MAX; 5];
            draw_zone(isa, &mut bits, Zoneout::Random(chance), 1, len, lanes);
            bits
        };
        for len in [1, 8, 33, 200] {
            let whole = draw(Isa::detect(), 32, 32, len);
            for isa in Isa::available() {
                assert_eq!(draw(isa, 32, 32, len), whole);
                let halves = [draw(isa, 32, 16, len), draw(isa, 48, 16, len)];
                let joined = halves[0].iter().zip(&halves[1]).map(|(low, high)| low | high << 16);
                assert_eq!(joined.collect::<Vec<u32>>(), whole, "{len}");
            }
        }
        let whole = draw(Isa::detect(), 32, 32, 200);
        let set: u32 = whole.iter().map(|bits| bits.count_ones()).sum();
        assert!((f64::from(set) / 6400.0 - 0.3).abs() < 0.03, "{set} of 6400");
        assert_ne!(whole, draw(Isa::detect(), 0, 32, 200));
    }

    #[test]
    fn lanes_do_not_touch_each_other() {
        let bench = Bench::new(Likelihood::StudentT);
        let zone = chance(0.0);
        let all = bench.pass(Isa::detect(), &bench.params, zone, None);
        let mut apart = Loss::default();
        for window in &bench.windows {
            let single = Bench { windows: vec![*window], ..Bench::new(Likelihood::StudentT) };
            apart.add(single.pass(Isa::detect(), &bench.params, zone, None));
        }
        assert_eq!(all.count, apart.count);
        assert!((all.sum - apart.sum).abs() < 1e-9 * all.sum.abs());
    }
}
