//! Forecasting: reads the context once a series, then draws sample paths side by side.
//!
//! * The context runs once, many series in the lanes; its last state is copied to every path.
//! * At each step of the horizon, inputs that all paths share (lags that reach behind the
//!   forecast's start, calendar, age, known features, static inputs) are projected once into
//!   the gates' starting values; per path only the lags within the horizon are left.
//! * Missing values in the context repeat the last observed one as inputs; a series without
//!   any observation is forecast from the scale typical of the training data.
//! * The members of an ensemble draw a share of the paths each, which together are the mixture
//!   of their forecasts. A calibrated model then stretches the paths of a step about their median.
//! * The draw of path p at step t depends on (seed, position of the series in the call, p, t)
//!   only. Without a seed, seed 0 is used. So whoever asks again and again for one series, as
//!   clients of an endpoint do, needs the same normal numbers each time: a thread keeps those of
//!   the first series of its last call.
//! * No path has gone its own way before the first step, which is computed for one block alone.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use base::{Error, Result};
use forecast::{Forecast, Parameters, PredictOptions, TimeSeries};

use crate::features::{Clock, Frame, Item};
use crate::kernels::{Base, Forward, LANES, Project, Zone};
use crate::likelihood::Likelihood;
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
    let mut sampler = Sampler::new(model, options);
    for (block, series) in series.chunks(SERIES_PER_BLOCK).enumerate() {
        let drawn = sampler.draw(series, (block * SERIES_PER_BLOCK) as u64);
        for (at, (series, mut drawn)) in series.iter().zip(drawn).enumerate() {
            check_numbers(&drawn.steps, series, block * SERIES_PER_BLOCK + at)?;
            model.calibration.apply(&mut drawn.steps, model.nonnegative);
            let start = model.plan.freq.advance(series.start, series.target.len() as i64);
            let (id, freq) = (series.item_id.clone(), model.plan.freq);
            let mut made = Forecast::from_steps(id, start, freq, &drawn.steps, options);
            made.parameters =
                options.want_parameters.then(|| model.parameters(&drawn.laws, options.num_samples));
            forecasts.push(made);
        }
    }
    Ok(forecasts)
}

/// What was drawn for one series.
#[derive(Clone, Default)]
struct Drawn {
    /// `[step][path]`, in the target's units.
    steps: Vec<Vec<f32>>,
    /// The law's parameters at every step, summed over the paths; empty unless wanted.
    laws: Vec<[f64; 3]>,
}

/// A model at work: every member with its share of the paths.
struct Sampler<'a> {
    model: &'a Model,
    seed: u64,
    members: Vec<Paths<'a>>,
    work: Workspace,
}

impl<'a> Sampler<'a> {
    fn new(model: &'a Model, options: &PredictOptions) -> Sampler<'a> {
        let paths = |(member, share)| Paths::new(model, member, share, options.want_parameters);
        Sampler {
            model,
            seed: options.seed.unwrap_or(0),
            members: model.shares(options.num_samples).into_iter().map(paths).collect(),
            work: Workspace::default(),
        }
    }

    /// Draws for a block of series, the first of which is the `first` of the call.
    fn draw(&mut self, series: &[TimeSeries], first: u64) -> Vec<Drawn> {
        let context = Context::new(self.model, series);
        let none =
            Drawn { steps: vec![Vec::new(); self.model.hyper.prediction_length], laws: Vec::new() };
        let mut all = vec![none; series.len()];
        for paths in &mut self.members {
            context.run(self.model, paths.member, &mut self.work);
            for (lane, drawn) in all.iter_mut().enumerate() {
                let index = first + lane as u64;
                paths.draw(&context, lane, &self.work, self.seed, index, &mut drawn.steps);
                paths.add_laws(&mut drawn.laws);
            }
        }
        all
    }
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

/// Weights can be finite and what they add up to not. That must be seen: an endpoint takes a
/// model back that gives no numbers, and a zero in their place would look like a forecast.
fn check_numbers(steps: &[Vec<f32>], series: &TimeSeries, index: usize) -> Result<()> {
    let broken = |paths: &Vec<f32>| paths.iter().any(|value| value.is_nan());
    let Some(step) = steps.iter().position(broken) else { return Ok(()) };
    Err(Error::internal(format!(
        "{}: the model's network gives no number (NaN) {} steps ahead, so its weights are of no \
         use; train it again",
        series.label(index),
        step + 1
    )))
}

/// A block of series, to be read up to their end.
struct Context<'a> {
    items: Vec<Item<'a>>,
    frames: Vec<Frame>,
    lanes: usize,
}

impl<'a> Context<'a> {
    fn new(model: &Model, series: &'a [TimeSeries]) -> Context<'a> {
        let items: Vec<Item<'_>> = series.iter().map(|series| model.item(series)).collect();
        let lanes = match items.len() {
            1 => 1,
            2..=LANES => LANES,
            _ => 2 * LANES,
        };
        let frame = |item: &Item<'_>| model.plan.frame(item, item.target.len());
        Context { frames: items.iter().map(frame).collect(), items, lanes }
    }

    /// Leaves the states of the member after the context in `work`.
    fn run(&self, model: &Model, member: usize, work: &mut Workspace) {
        let context = model.hyper.context_length;
        let starts: Vec<(&Item<'_>, i64, Frame)> = self
            .items
            .iter()
            .zip(&self.frames)
            .map(|(item, frame)| (item, item.target.len() as i64 - context as i64 + 1, *frame))
            .collect();
        let zone = Zoneout::Mean(model.hyper.dropout_rate);
        model.net(member).run(work, self.lanes, context - 1, &starts, zone);
    }
}

impl Model {
    pub(crate) fn net(&self, member: usize) -> Net<'_> {
        let member = &self.members[member];
        Net {
            shape: &self.shape,
            layout: &self.layout,
            params: &member.params,
            packed: &member.packed,
            plan: &self.plan,
            isa: self.isa,
        }
    }

    /// The paths of each series as the members draw them, before any calibration.
    pub(crate) fn paths(
        &self,
        series: &[TimeSeries],
        options: &PredictOptions,
    ) -> Result<Vec<Vec<Vec<f32>>>> {
        for (index, series) in series.iter().enumerate() {
            self.check(series, index)?;
        }
        let mut sampler = Sampler::new(self, options);
        let blocks = series.chunks(SERIES_PER_BLOCK).enumerate();
        let drawn = blocks
            .flat_map(|(block, series)| sampler.draw(series, (block * SERIES_PER_BLOCK) as u64));
        Ok(drawn.map(|drawn| drawn.steps).collect())
    }

    /// The members and the range of the paths that each draws, as equal as can be.
    fn shares(&self, num_samples: usize) -> Vec<(usize, Range<usize>)> {
        let count = self.members.len();
        let bound = |member: usize| num_samples * member / count;
        let shares = (0..count).map(|member| (member, bound(member)..bound(member + 1)));
        shares.filter(|(_, share)| !share.is_empty()).collect()
    }

    /// The law's parameters, each the mean over the paths, from their sums.
    fn parameters(&self, sums: &[[f64; 3]], paths: usize) -> Parameters {
        let law = self.shape.likelihood;
        let mean = |sum: f64| ((sum / paths as f64) as f32).clamp(f32::MIN, f32::MAX);
        let of = |k: usize| sums.iter().map(|sums| mean(sums[k])).collect();
        let names = law.parameter_names().iter().enumerate();
        Parameters { law: law.name(), values: names.map(|(k, name)| (*name, of(k))).collect() }
    }

    /// The series with what the model ignores left out.
    pub(crate) fn item<'a>(&self, series: &'a TimeSeries) -> Item<'a> {
        let mut item = Item::new(series);
        item.cats.truncate(self.shape.cardinality.len());
        item.features.truncate(self.plan.features);
        item
    }
}

/// Where a draw's randomness comes from.
enum Random {
    /// The normal number that the stream would have given.
    Drawn(f64),
    /// A stream of its own.
    Fresh(Stream),
}

/// The normal numbers of one series, path by path.
#[derive(Clone, Default)]
struct Normals {
    key: u64,
    steps: usize,
    values: Rc<Vec<f64>>,
}

impl Normals {
    /// Most that a thread keeps: half a megabyte.
    const KEPT_MAX: usize = 1 << 16;

    fn none() -> Normals {
        Normals::default()
    }

    /// Those of `paths` paths over `steps` steps; none where they are too many to be kept.
    fn of(key: u64, paths: usize, steps: usize) -> Normals {
        thread_local! {
            static KEPT: RefCell<Normals> = RefCell::new(Normals::none());
        }
        if paths.saturating_mul(steps) > Normals::KEPT_MAX {
            return Normals::none();
        }
        KEPT.with_borrow_mut(|kept| {
            if (kept.key, kept.steps) != (key, steps) || kept.values.len() < paths * steps {
                let all = (0..paths).flat_map(|path| (0..steps).map(move |step| (path, step)));
                let draw = |(path, step): (usize, usize)| {
                    Stream::new(key, step as u64, path as u64).normal()
                };
                *kept = Normals { key, steps, values: Rc::new(all.map(draw).collect()) };
            }
            kept.clone()
        })
    }

    fn get(&self, (path, step): (usize, usize)) -> Option<f64> {
        self.values.get(path * self.steps + step).copied()
    }
}

/// States of all layers for 1, 4, 16 or 32 paths.
struct Block {
    lanes: usize,
    h: Vec<Vec<f32>>,
    c: Vec<Vec<f32>>,
}

/// The blocks that so many paths are advanced in. A few that are left over cost less in blocks of
/// their own kind, which fill four lanes. The narrowest is the first, which takes the first step
/// for all.
fn widths(paths: usize) -> Vec<usize> {
    const FEW: usize = 4;
    let mut widths = match paths % (2 * LANES) {
        1 => vec![1],
        left @ 0..=8 => vec![FEW; left.div_ceil(FEW)],
        left if left <= LANES => vec![LANES],
        _ => vec![2 * LANES],
    };
    widths.resize(widths.len() + paths / (2 * LANES), 2 * LANES);
    widths
}

/// The paths that one member draws of one series, and the room to advance them.
struct Paths<'a> {
    model: &'a Model,
    member: usize,
    /// Which of the series' paths they are.
    share: Range<usize>,
    blocks: Vec<Block>,
    x: Vec<f32>,
    gates: Vec<f32>,
    tanh_c: Vec<f32>,
    raw: Vec<f32>,
    wants_laws: bool,
    /// The law's parameters at every step, summed over the paths; empty unless wanted.
    laws: Vec<[f64; 3]>,
}

impl<'a> Paths<'a> {
    fn new(model: &'a Model, member: usize, share: Range<usize>, wants_laws: bool) -> Paths<'a> {
        let hidden = model.shape.hidden();
        let block = |lanes: usize| {
            let states = || vec![vec![0.0; hidden * lanes]; model.shape.layers];
            Block { lanes, h: states(), c: states() }
        };
        Paths {
            model,
            member,
            blocks: widths(share.len()).into_iter().map(block).collect(),
            share,
            x: Vec::new(),
            gates: Vec::new(),
            tanh_c: Vec::new(),
            raw: Vec::new(),
            wants_laws,
            laws: Vec::new(),
        }
    }

    /// Draws its paths of one series and appends them to `drawn`, `[step][path]` in the target's
    /// units.
    fn draw(
        &mut self,
        context: &Context<'_>,
        lane: usize,
        work: &Workspace,
        seed: u64,
        index: u64,
        drawn: &mut [Vec<f32>],
    ) {
        let model = self.model;
        let (item, frame) = (&context.items[lane], context.frames[lane]);
        self.start(context, lane, work);
        let mut clock = Clock::new(model.plan.freq, item.start);
        let start = self.start_of(item, frame);
        let key = Stream::new(seed, purpose::SAMPLES, index).next_u64();
        let normals = match index == 0 && model.shape.likelihood == Likelihood::Gaussian {
            true => Normals::of(key, self.share.end, drawn.len()),
            false => Normals::none(),
        };
        // Scaled values of every path, step by step, rows as wide as all blocks.
        let width: usize = self.blocks.iter().map(|block| block.lanes).sum();
        let mut scaled: Vec<Vec<f32>> = Vec::with_capacity(model.hyper.prediction_length);
        self.laws.clear();
        if self.wants_laws {
            self.laws.resize(model.hyper.prediction_length, [0.0; 3]);
        }
        for (step, out) in drawn.iter_mut().enumerate() {
            let own = model.plan.lags.iter().take_while(|lag| **lag <= step).count();
            let shared = self.shared(item, frame, step, own, &mut clock, &start);
            let mut row = vec![0.0; width];
            let mut from = 0;
            for block in 0..self.blocks.len() {
                let lanes = self.blocks[block].lanes;
                if step == 0 && block > 0 {
                    self.repeat_first(block);
                } else {
                    self.x.clear();
                    for lag in &model.plan.lags[..own] {
                        self.x.extend_from_slice(&scaled[step - lag][from..from + lanes]);
                    }
                    self.advance(block, own, &shared);
                }
                for lane in 0..lanes.min(self.share.len().saturating_sub(from)) {
                    let path = (self.share.start + from + lane) as u64;
                    let mut random = match normals.get((path as usize, step)) {
                        Some(normal) => Random::Drawn(normal),
                        None => Random::Fresh(Stream::new(key, step as u64, path)),
                    };
                    row[from + lane] = self.sample(step, lane, lanes, frame, &mut random);
                }
                from += lanes;
            }
            out.extend(row[..self.share.len()].iter().map(|y| frame.leave(*y)));
            scaled.push(row);
        }
    }

    /// Copies the state at the end of the context to every path.
    fn start(&mut self, context: &Context<'_>, lane: usize, work: &Workspace) {
        let net = self.model.net(self.member);
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
    fn advance(&mut self, block: usize, own: usize, shared: &Shared) {
        let model = self.model;
        let member = &model.members[self.member];
        let block = &mut self.blocks[block];
        let (hidden, lanes) = (model.shape.hidden(), block.lanes);
        let state = hidden * lanes;
        self.gates.resize(4 * state, 0.0);
        self.tanh_c.resize(state, 0.0);
        for l in 0..model.shape.layers {
            let bias = &member.params[model.layout.layers[l].1.clone()];
            let (below, rest) = block.h.split_at_mut(l);
            let x = below.last().unwrap_or(&self.x);
            model.isa.forward(&mut Forward {
                lanes,
                hidden,
                steps: 1,
                inputs: if l == 0 { own } else { hidden },
                inputs_packed: model.shape.layer_inputs(l),
                panels: member.packed.layer(l),
                base: Base::Rows(if l == 0 { &shared.base } else { bias }),
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
        }
        self.raw.resize(model.shape.outputs() * lanes, 0.0);
        let top = &block.h[model.shape.layers - 1];
        let net = model.net(self.member);
        net.head(top, lanes, &mut self.raw);
        if let Some(at) = model.shape.likelihood.location().filter(|_| model.shape.skip > 0) {
            self.raw[at * lanes..][..lanes].iter_mut().for_each(|o| *o += shared.skip);
            net.skip(&self.x, lanes, &mut self.raw);
        }
    }

    /// Brings a block to where the first one is after the first step, which saw the same.
    fn repeat_first(&mut self, block: usize) {
        let (before, rest) = self.blocks.split_at_mut(block);
        let (first, block) = (&before[0], &mut rest[0]);
        for (to, from) in [(&mut block.h, &first.h), (&mut block.c, &first.c)] {
            for (to, from) in to.iter_mut().zip(from) {
                let rows = to.chunks_exact_mut(block.lanes).zip(from.chunks_exact(first.lanes));
                rows.for_each(|(to, from)| to.fill(from[0]));
            }
        }
        // The outputs lie in rows as wide as the block that was advanced last.
        let outputs = self.model.shape.outputs();
        let wide = self.raw.len() / outputs;
        let raw: Vec<f32> = self.raw.iter().step_by(wide).copied().collect();
        self.raw.clear();
        for output in raw {
            self.raw.resize(self.raw.len() + block.lanes, output);
        }
    }

    /// Draws from the law of one path, and counts its parameters in.
    fn sample(
        &mut self,
        step: usize,
        lane: usize,
        lanes: usize,
        frame: Frame,
        random: &mut Random,
    ) -> f32 {
        let outputs = self.model.shape.outputs();
        let raw: [f64; 3] = std::array::from_fn(|k| match k < outputs {
            true => f64::from(self.raw[k * lanes + lane]),
            false => 0.0,
        });
        if raw.iter().any(|raw| !raw.is_finite()) {
            return f32::NAN;
        }
        let (law, scale) = (self.model.shape.likelihood, f64::from(frame.scale));
        if let Some(sums) = self.laws.get_mut(step) {
            let mut values = law.parameters(&raw, scale);
            if let Some(at) = law.location() {
                values[at] += f64::from(frame.shift);
            }
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += value;
            }
        }
        let y = match random {
            Random::Drawn(normal) => Likelihood::sample_gaussian(&raw, *normal),
            Random::Fresh(stream) => law.sample(&raw, scale, stream),
        };
        let floor = match self.model.nonnegative {
            true => frame.enter(0.0).max(-SAMPLE_MAX),
            false => -SAMPLE_MAX,
        };
        y.clamp(floor.min(SAMPLE_MAX), SAMPLE_MAX) as f32
    }

    /// Adds the parameters of the paths drawn last to those of other members.
    fn add_laws(&self, sums: &mut Vec<[f64; 3]>) {
        sums.resize(self.laws.len(), [0.0; 3]);
        for (sums, own) in sums.iter_mut().zip(&self.laws) {
            sums.iter_mut().zip(own).for_each(|(sum, own)| *sum += own);
        }
    }

    /// What the first layer's gates start from at every step: bias and static inputs.
    fn start_of(&self, item: &Item<'_>, frame: Frame) -> Vec<f32> {
        let (shape, layout) = (&self.model.shape, &self.model.layout);
        let params = &self.model.members[self.member].params;
        let mut statics = vec![0.0; shape.statics()];
        self.model.net(self.member).statics_of(item, frame.scale, &mut statics);
        let weights = params[layout.statics.clone()].chunks_exact(shape.statics());
        let bias = &params[layout.layers[0].1.clone()];
        bias.iter().zip(weights).map(|(bias, weights)| bias + dot(weights, &statics)).collect()
    }

    /// What all paths share at `step` of the horizon.
    fn shared(
        &self,
        item: &Item<'_>,
        frame: Frame,
        step: usize,
        own: usize,
        clock: &mut Clock,
        start: &[f32],
    ) -> Shared {
        let (shape, plan, layout) = (&self.model.shape, &self.model.plan, &self.model.layout);
        let params = &self.model.members[self.member].params;
        let len = item.target.len();
        let mut inputs = vec![0.0; shape.inputs];
        for (slot, lag) in inputs.iter_mut().zip(&plan.lags).skip(own) {
            // lag > step here, so this lies before the forecast's start, or before the series.
            let known = (len + step).checked_sub(*lag).map(|at| item.filled(at));
            *slot = known.filter(|z| !z.is_nan()).map_or(0.0, |z| frame.enter(z) as f32);
        }
        plan.shared(item, clock, (len + step) as i64, &mut inputs[plan.lags.len()..]);
        let mut base = start.to_vec();
        self.model.isa.project(&mut Project {
            panels: self.model.members[self.member].packed.layer(0),
            columns: shape.layer_inputs(0) + shape.hidden(),
            first: own,
            values: &inputs[own..],
            rows: &mut base,
        });
        let skip = match shape.skip {
            0 => 0.0,
            lags => dot(&params[layout.skip.clone()][own..], &inputs[own..lags]),
        };
        Shared { base, skip }
    }
}

/// What the known inputs of a step come to, the same for all paths.
struct Shared {
    /// What the first layer's gates start from: bias, static inputs and all inputs but the lags
    /// that reach into the horizon.
    base: Vec<f32>,
    /// What those lags add to the location past the LSTM.
    skip: f32,
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use forecast::{Dataset, Frequency, Silent};

    use super::*;
    use crate::{Hyperparameters, TrainOptions};

    /// What a thread keeps of its last call changes no path, and neither does the first step that
    /// blocks share: a path is the same alone, in a narrower block, and in another thread.
    #[test]
    fn what_is_kept_or_shared_changes_no_path() {
        let day = |t: usize| 10.0 + (t as f32 / 24.0 * std::f32::consts::TAU).sin();
        let series: Vec<TimeSeries> = (0..3)
            .map(|k| TimeSeries {
                target: (0..400).map(|t| day(t + k) * (k + 1) as f32).collect(),
                ..TimeSeries::default()
            })
            .collect();
        let data = Dataset { freq: Frequency::HOURLY, series };
        for likelihood in ["gaussian", "student-T"] {
            let hyper = Hyperparameters::parse([
                ("time_freq", "H"),
                ("context_length", "12"),
                ("prediction_length", "30"),
                ("epochs", "2"),
                ("num_cells", "10"),
                ("likelihood", likelihood),
            ])
            .unwrap();
            let model = crate::train(&hyper, &data, &TrainOptions::default(), &mut Silent).unwrap();
            let ask = |seed: u64, num_samples: usize| {
                let seed = Some(seed);
                let options = PredictOptions { num_samples, seed, ..Default::default() };
                model.paths(&data.series, &options).unwrap()
            };
            let whole = ask(4, 100);
            // In turn with other seeds and numbers of paths, so that what is kept must change.
            for (seed, count) in [(5, 100), (4, 7), (4, 16), (4, 40), (5, 3), (4, 100), (4, 100)] {
                let found = ask(seed, count);
                let same = |(found, whole): (&Vec<Vec<f32>>, &Vec<Vec<f32>>)| {
                    found.iter().zip(whole).all(|(found, whole)| found[..] == whole[..count])
                };
                let agrees = found.iter().zip(&whole).all(same);
                assert_eq!(agrees, seed == 4, "{likelihood}, seed {seed}, {count} paths");
            }
            // Alone, the context of a series is read in one lane, beside others in sixteen.
            let options = PredictOptions { seed: Some(4), ..Default::default() };
            assert_eq!(model.paths(&data.series[..1], &options).unwrap()[..], whole[..1]);
            let elsewhere = std::thread::scope(|scope| scope.spawn(|| ask(4, 100)).join().unwrap());
            assert_eq!(elsewhere, whole);
            // The first step's paths differ by what they draw alone, and they do.
            assert!(whole[0][0].windows(2).any(|two| two[0].to_bits() != two[1].to_bits()));
        }
    }

    /// Sums that overflow are no forecast, whatever law would make of them.
    #[test]
    fn a_network_without_numbers_is_an_error_and_no_zero() {
        let broken = [f32::INFINITY, f32::NAN];
        for (likelihood, broken) in Likelihood::ALL.into_iter().zip(broken.into_iter().cycle()) {
            let share = |t: usize| 0.5 + 0.4 * (t as f32 / 4.0).sin();
            let value = |t: usize| match likelihood {
                Likelihood::NegativeBinomial => (10.0 * share(t)).round(),
                _ => share(t),
            };
            let series = TimeSeries {
                item_id: Some("ozone".into()),
                target: (0..400).map(value).collect(),
                ..TimeSeries::default()
            };
            let data = Dataset { freq: Frequency::HOURLY, series: vec![series] };
            let hyper = Hyperparameters::parse([
                ("time_freq", "H"),
                ("context_length", "12"),
                ("prediction_length", "6"),
                ("epochs", "1"),
                ("num_cells", "10"),
                ("likelihood", likelihood.name()),
            ])
            .unwrap();
            let mut model =
                crate::train(&hyper, &data, &TrainOptions::default(), &mut Silent).unwrap();
            assert!(model.nonnegative);
            let options = PredictOptions::default();
            predict(&model, &data.series, &options).unwrap();
            // What an overflow comes to, before infinities of both signs meet and after.
            let bias = model.layout.head_bias.clone();
            model.members[0].params[bias].fill(broken);
            let error =
                predict(&model, &data.series, &options).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("ozone") && error.contains("1 steps ahead"), "{error}");
        }
    }

    /// A path is a function of seed, series, step and its number: a member draws what a model of
    /// it alone would have drawn there.
    #[test]
    fn a_member_draws_the_paths_it_would_draw_alone() {
        let day = |t: usize| 10.0 + (t as f32 / 24.0 * std::f32::consts::TAU).sin();
        let series: Vec<TimeSeries> = (0..20)
            .map(|k| TimeSeries {
                target: (0..400).map(|t| day(t + k) * (k + 1) as f32).collect(),
                ..TimeSeries::default()
            })
            .collect();
        let data = Dataset { freq: Frequency::HOURLY, series };
        let hyper = Hyperparameters::parse([
            ("time_freq", "H"),
            ("context_length", "12"),
            ("prediction_length", "30"),
            ("epochs", "2"),
            ("num_cells", "10"),
            ("recipe", "deepar-plus"),
            ("ensemble_size", "3"),
            ("calibrate", "false"),
        ])
        .unwrap();
        let model = crate::train(&hyper, &data, &TrainOptions::default(), &mut Silent).unwrap();
        let options = PredictOptions { num_samples: 100, seed: Some(4), ..Default::default() };
        let together = model.paths(&data.series, &options).unwrap();
        for (member, share) in model.shares(100) {
            let mut alone = model.clone();
            alone.members = vec![model.members[member].clone()];
            let alone = alone.paths(&data.series, &options).unwrap();
            for (series, (together, alone)) in together.iter().zip(&alone).enumerate() {
                for (step, (together, alone)) in together.iter().zip(alone).enumerate() {
                    assert_eq!(
                        together[share.clone()],
                        alone[share.clone()],
                        "member {member}, series {series}, step {step}"
                    );
                }
            }
        }
    }
}
