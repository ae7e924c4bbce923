//! Forecasting: reads the context once a series, then draws sample paths side by side.
//!
//! * The context runs once, many series in the lanes; its last state is copied to every path.
//! * At each step of the horizon, inputs that all paths share (lags that reach behind the
//!   forecast's start, calendar, age, known features, static inputs) are projected once into
//!   the gates' starting values; per path only the lags within the horizon are left.
//! * Missing values in the context repeat the last observed one as inputs; a series without
//!   any observation is forecast from the scale typical of the training data.
//! * The draw of path p at step t depends on (seed, position of the series in the call, p, t)
//!   only. Without a seed, seed 0 is used.

use base::{Error, Result};
use forecast::{Forecast, Parameters, PredictOptions, TimeSeries};

use crate::features::{Clock, Item};
use crate::kernels::{Forward, LANES, Zone};
use crate::model::Model;
use crate::network::{Net, Workspace, Zoneout};
use crate::rng::{Stream, purpose};

/// Series whose contexts run together.
const SERIES_PER_BLOCK: usize = 2 * LANES;

/// Samples are kept within this many scales of zero: heavy tails, fed back over a long
/// horizon, must not reach infinity.
const SAMPLE_MAX: f64 = 1e6;

pub(crate) fn predict(
    model: &Model,
    series: &[TimeSeries],
    options: &PredictOptions,
) -> Result<Vec<Forecast>> {
    options.validate()?;
    check_size(model, options)?;
    for (index, series) in series.iter().enumerate() {
        model.check(series, index)?;
    }
    let mut forecasts = Vec::with_capacity(series.len());
    let mut work = Workspace::default();
    let mut paths = Paths::new(model, options.num_samples);
    paths.wants_laws = options.want_parameters;
    for (block, series) in series.chunks(SERIES_PER_BLOCK).enumerate() {
        let context = Context::run(model, series, &mut work);
        for (lane, series) in series.iter().enumerate() {
            let index = (block * SERIES_PER_BLOCK + lane) as u64;
            let steps = paths.draw(&context, lane, &work, options.seed.unwrap_or(0), index);
            let start = model.plan.freq.advance(series.start, series.target.len() as i64);
            let id = series.item_id.clone();
            let mut made = Forecast::from_steps(id, start, model.plan.freq, &steps, options);
            made.parameters = options.want_parameters.then(|| paths.parameters());
            forecasts.push(made);
        }
    }
    Ok(forecasts)
}

/// Paths are held until a series is done; 20 million values are 80 MB.
fn check_size(model: &Model, options: &PredictOptions) -> Result<()> {
    const VALUES_MAX: usize = 20_000_000;
    let (samples, steps) = (options.num_samples, model.hyper.prediction_length);
    if samples.saturating_mul(steps) > VALUES_MAX {
        return Err(Error::invalid(format!(
            "{samples} samples of {steps} steps are more than {VALUES_MAX} values; ask for fewer samples"
        )));
    }
    Ok(())
}

/// A block of series read up to their end.
struct Context<'a> {
    items: Vec<Item<'a>>,
    scales: Vec<f32>,
    lanes: usize,
}

impl<'a> Context<'a> {
    fn run(model: &Model, series: &'a [TimeSeries], work: &mut Workspace) -> Context<'a> {
        let items: Vec<Item<'_>> = series.iter().map(|series| model.item(series)).collect();
        let context = model.hyper.context_length;
        let lanes = if items.len() > LANES { 2 * LANES } else { LANES };
        let scale = |item: &Item<'_>| {
            let len = item.target.len();
            model.plan.scale(item, len.saturating_sub(context)..len)
        };
        let scales: Vec<f32> = items.iter().map(scale).collect();
        let starts: Vec<(&Item<'_>, i64, f32)> = items
            .iter()
            .zip(&scales)
            .map(|(item, scale)| (item, item.target.len() as i64 - context as i64 + 1, *scale))
            .collect();
        let zone = Zoneout::Mean(model.hyper.dropout_rate);
        model.net().run(work, lanes, context - 1, &starts, zone);
        Context { items, scales, lanes }
    }
}

impl Model {
    pub(crate) fn net(&self) -> Net<'_> {
        Net {
            shape: &self.shape,
            layout: &self.layout,
            params: &self.params,
            packed: &self.packed,
            plan: &self.plan,
            isa: self.isa,
        }
    }

    /// The series with what the model ignores left out.
    pub(crate) fn item<'a>(&self, series: &'a TimeSeries) -> Item<'a> {
        let mut item = Item::new(series);
        item.cats.truncate(self.shape.cardinality.len());
        item.features.truncate(self.plan.features);
        item
    }
}

/// States of all layers for 16 or 32 paths.
struct Block {
    lanes: usize,
    h: Vec<Vec<f32>>,
    c: Vec<Vec<f32>>,
}

/// The paths of one series and the room to advance them.
struct Paths<'a> {
    model: &'a Model,
    num_samples: usize,
    blocks: Vec<Block>,
    base: Vec<f32>,
    x: Vec<f32>,
    gates: Vec<f32>,
    tanh_c: Vec<f32>,
    raw: Vec<f32>,
    wants_laws: bool,
    /// The law's parameters at every step, summed over the paths; empty unless wanted.
    laws: Vec<[f64; 3]>,
}

impl<'a> Paths<'a> {
    fn new(model: &'a Model, num_samples: usize) -> Paths<'a> {
        let hidden = model.shape.hidden();
        let block = |left: usize| {
            let lanes = if left > LANES { 2 * LANES } else { LANES };
            let states = || vec![vec![0.0; 2 * hidden * lanes]; model.shape.layers];
            Block { lanes, h: states(), c: states() }
        };
        Paths {
            model,
            num_samples,
            blocks: (0..num_samples)
                .step_by(2 * LANES)
                .map(|done| block(num_samples - done))
                .collect(),
            base: Vec::new(),
            x: Vec::new(),
            gates: Vec::new(),
            tanh_c: Vec::new(),
            raw: Vec::new(),
            wants_laws: false,
            laws: Vec::new(),
        }
    }

    /// Draws all paths of one series: `[step][path]` in the target's units.
    fn draw(
        &mut self,
        context: &Context<'_>,
        lane: usize,
        work: &Workspace,
        seed: u64,
        index: u64,
    ) -> Vec<Vec<f32>> {
        let model = self.model;
        let (item, scale) = (&context.items[lane], context.scales[lane]);
        self.start(context, lane, work);
        let mut clock = Clock::new(model.plan.freq, item.start);
        let mut statics = vec![0.0; model.shape.statics()];
        model.net().statics_of(item, scale, &mut statics);
        // Scaled values of every path, step by step, rows as wide as all blocks.
        let width: usize = self.blocks.iter().map(|block| block.lanes).sum();
        let mut scaled: Vec<Vec<f32>> = Vec::with_capacity(model.hyper.prediction_length);
        self.laws.clear();
        if self.wants_laws {
            self.laws.resize(model.hyper.prediction_length, [0.0; 3]);
        }
        for step in 0..model.hyper.prediction_length {
            let own = model.plan.lags.iter().take_while(|lag| **lag <= step).count();
            let row = model.shared_base(item, scale, step, own, &mut clock, &statics);
            let mut drawn = vec![0.0; width];
            let mut from = 0;
            for block in 0..self.blocks.len() {
                let lanes = self.blocks[block].lanes;
                self.x.clear();
                for lag in &model.plan.lags[..own] {
                    self.x.extend_from_slice(&scaled[step - lag][from..from + lanes]);
                }
                self.advance(block, own, &row);
                let key = Stream::new(seed, purpose::SAMPLES, index).next_u64();
                for lane in 0..lanes.min(self.num_samples.saturating_sub(from)) {
                    let path = (from + lane) as u64;
                    let mut random = Stream::new(key, step as u64, path);
                    drawn[from + lane] = self.sample(step, lane, lanes, scale, &mut random);
                }
                from += lanes;
            }
            scaled.push(drawn);
        }
        for row in &mut scaled {
            row.truncate(self.num_samples);
            row.iter_mut().for_each(|y| *y = (*y * scale).clamp(f32::MIN, f32::MAX));
        }
        scaled
    }

    /// Copies the state at the end of the context to every path.
    fn start(&mut self, context: &Context<'_>, lane: usize, work: &Workspace) {
        let net = self.model.net();
        for l in 0..self.model.shape.layers {
            let (h, c) = net.last_state(work, l, context.lanes);
            for block in &mut self.blocks {
                for (to, from) in [(&mut block.h[l], h), (&mut block.c[l], c)] {
                    let rows =
                        to.chunks_exact_mut(block.lanes).zip(from.chunks_exact(context.lanes));
                    rows.for_each(|(to, from)| to.fill(from[lane]));
                }
            }
        }
    }

    /// One step of one block, up to the raw outputs in `self.raw`.
    fn advance(&mut self, block: usize, own: usize, shared: &[f32]) {
        let model = self.model;
        let block = &mut self.blocks[block];
        let (hidden, lanes) = (model.shape.hidden(), block.lanes);
        let state = hidden * lanes;
        self.gates.resize(4 * state, 0.0);
        self.tanh_c.resize(state, 0.0);
        self.base.resize(4 * state, 0.0);
        for l in 0..model.shape.layers {
            let bias = &model.params[model.layout.layers[l].1.clone()];
            let rows = if l == 0 { shared } else { bias };
            for (slots, value) in self.base.chunks_exact_mut(lanes).zip(rows) {
                slots.fill(*value);
            }
            let (below, rest) = block.h.split_at_mut(l);
            let x = below.last().map_or(&self.x[..], |below| &below[..state]);
            model.isa.forward(&mut Forward {
                lanes,
                hidden,
                steps: 1,
                inputs: if l == 0 { own } else { hidden },
                inputs_packed: model.shape.layer_inputs(l),
                panels: model.packed.layer(l),
                base: &self.base,
                x,
                h: &mut rest[0],
                c: &mut block.c[l],
                gates: &mut self.gates,
                tanh_c: &mut self.tanh_c,
                zone: match model.hyper.dropout_rate {
                    rate if rate > 0.0 => Zone::Mean(rate as f32),
                    _ => Zone::Off,
                },
            });
            // What came after is what was before, from the next step's view.
            rest[0].copy_within(state.., 0);
            block.c[l].copy_within(state.., 0);
        }
        self.raw.resize(model.shape.outputs() * lanes, 0.0);
        let top = &block.h[model.shape.layers - 1][..state];
        model.net().head(top, lanes, &mut self.raw);
    }

    /// Draws from the law of one path, and counts its parameters in.
    fn sample(
        &mut self,
        step: usize,
        lane: usize,
        lanes: usize,
        scale: f32,
        random: &mut Stream,
    ) -> f32 {
        let outputs = self.model.shape.outputs();
        let raw = std::array::from_fn(|k| match k < outputs {
            true => f64::from(self.raw[k * lanes + lane]),
            false => 0.0,
        });
        let (law, scale) = (self.model.shape.likelihood, f64::from(scale));
        if let Some(sums) = self.laws.get_mut(step) {
            for (sum, value) in sums.iter_mut().zip(law.parameters(&raw, scale)) {
                *sum += value;
            }
        }
        let y = law.sample(&raw, scale, random);
        let floor = if self.model.nonnegative { 0.0 } else { -SAMPLE_MAX };
        y.clamp(floor, SAMPLE_MAX) as f32
    }

    /// The parameters of the paths drawn last, each the mean over the paths.
    fn parameters(&self) -> Parameters {
        let law = self.model.shape.likelihood;
        let count = self.num_samples as f64;
        let mean = |sum: f64| ((sum / count) as f32).clamp(f32::MIN, f32::MAX);
        let of = |k: usize| self.laws.iter().map(|sums| mean(sums[k])).collect();
        let names = law.parameter_names().iter().enumerate();
        Parameters { law: law.name(), values: names.map(|(k, name)| (*name, of(k))).collect() }
    }
}

impl Model {
    /// What the first layer's gates start from at `step` of the horizon: bias, static inputs
    /// and all inputs but the `own` first lags.
    fn shared_base(
        &self,
        item: &Item<'_>,
        scale: f32,
        step: usize,
        own: usize,
        clock: &mut Clock,
        statics: &[f32],
    ) -> Vec<f32> {
        let plan = &self.plan;
        let len = item.target.len();
        let mut inputs = vec![0.0; self.shape.inputs];
        for (slot, lag) in inputs.iter_mut().zip(&plan.lags).skip(own) {
            // lag > step here, so this lies before the forecast's start, or before the series.
            let at = (len + step).checked_sub(*lag);
            *slot = at.map_or(0.0, |at| item.filled(at) / scale);
        }
        plan.shared(item, clock, (len + step) as i64, &mut inputs[plan.lags.len()..]);
        let columns = self.shape.columns(0);
        let (weights, bias) = self.layout.layers[0].clone();
        let static_weights = &self.params[self.layout.statics.clone()];
        self.params[weights]
            .chunks_exact(columns)
            .zip(&self.params[bias])
            .zip(static_weights.chunks_exact(self.shape.statics()))
            .map(|((row, bias), static_row)| {
                bias + dot(&row[own..inputs.len()], &inputs[own..]) + dot(static_row, statics)
            })
            .collect()
    }
}

/// In eight partial sums, so that it vectorises.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 8];
    let (a_chunks, b_chunks) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + tail
}
