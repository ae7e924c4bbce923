//! A model as files: `weights.safetensors` and `model.json`.
//!
//! Weights are stored as PyTorch names and orders them (gates i, f, g, o one after the
//! other), without the padding the kernels need, so that others can read them:
//!
//! ```text
//! lstm.weight_ih_l{k} [4C, inputs]     lstm.weight_hh_l{k} [4C, C]     lstm.bias_l{k} [4C, 1]
//! lstm.weight_static [4C, 1 + E]       embedding.{k} [size, dimension]
//! head.weight [P, C]                   head.bias [P]                  head.skip [1, lags]
//! ```
//!
//! Of an ensemble, each tensor's name begins with `member.{k}.`. `head.skip` is there if lagged
//! values reach the location past the LSTM.
//!
//! Inputs of layer 0: lags ascending, age, calendar, known features. Its static inputs, which
//! have weights of their own: ln scale, then the embeddings.
//!
//! A file is not trusted: every size in `model.json` is bounded before anything is allocated,
//! every tensor must have the shape the network declares, and no weight may be NaN or
//! infinite.

use base::{Error, ErrorKind, Result};
use forecast::TrainReport;
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use crate::calibration::Calibration;
use crate::features::{Plan, Scaling};
use crate::hyper::{Hyperparameters, ScalingMethod, TABLE};
use crate::kernels::Isa;
use crate::model::{Member, Model, Parts, Provenance};
use crate::network::Shape;

const WEIGHTS: &str = "weights.safetensors";
const DESCRIPTION: &str = "model.json";
const FORMAT: &str = "forebay-deepar";
const FORMAT_VERSION: u32 = 1;

/// The largest `model.json` read.
const DESCRIPTION_BYTES_MAX: usize = 64 << 20;

#[derive(Serialize, Deserialize)]
struct Description {
    format: String,
    format_version: u32,
    hyperparameters: Hyperparameters,
    cardinality: Vec<u32>,
    num_dynamic_feat: usize,
    nonnegative: bool,
    scaling: Scaling,
    #[serde(default)]
    calibration: Calibration,
    provenance: Provenance,
    training: TrainReport,
}

/// A tensor and where its rows lie in the flat parameters.
struct Slot {
    name: String,
    shape: Vec<usize>,
    /// First float of each row, in the tensor's order; rows are `shape.last()` long.
    rows: Vec<usize>,
}

impl Model {
    /// The files of the model, by name. The same model gives the same bytes.
    pub fn to_files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let description = Description {
            format: FORMAT.to_owned(),
            format_version: FORMAT_VERSION,
            hyperparameters: self.hyper.clone(),
            cardinality: self.shape.cardinality.clone(),
            num_dynamic_feat: self.plan.features,
            nonnegative: self.nonnegative,
            scaling: self.plan.scaling.clone(),
            calibration: self.calibration.clone(),
            provenance: self.provenance.clone(),
            training: self.report.clone(),
        };
        let text = serde_json::to_vec_pretty(&description)
            .map_err(|cause| Error::internal("describing the model").with_source(cause))?;
        let of = |(index, member): (usize, &Member)| {
            slots(&self.shape, prefix(index, self.members.len()))
                .into_iter()
                .map(|slot| {
                    let width = *slot.shape.last().unwrap_or(&0);
                    let rows =
                        slot.rows.iter().flat_map(|from| &member.params[*from..from + width]);
                    let bytes = rows.flat_map(|value| value.to_le_bytes()).collect();
                    (slot, bytes)
                })
                .collect::<Vec<_>>()
        };
        let tensors: Vec<(Slot, Vec<u8>)> = self.members.iter().enumerate().flat_map(of).collect();
        let views = tensors
            .iter()
            .map(|(slot, bytes)| {
                Ok((&slot.name, TensorView::new(Dtype::F32, slot.shape.clone(), bytes)?))
            })
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>();
        let weights = views
            .and_then(|views| safetensors::serialize(views, None))
            .map_err(|cause| Error::internal("writing the weights").with_source(cause))?;
        Ok(vec![(WEIGHTS.to_owned(), weights), (DESCRIPTION.to_owned(), text)])
    }

    /// Reads a model from its files; other files beside them are not looked at.
    pub fn from_files(files: &[(String, Vec<u8>)]) -> Result<Model> {
        let find = |name: &str| {
            let found = files.iter().find(|(found, _)| found == name);
            found.map(|(_, bytes)| &bytes[..]).ok_or_else(|| corrupt(format!("{name} is missing")))
        };
        let description = read_description(find(DESCRIPTION)?)?;
        let (plan, shape) = declared(&description)?;
        let params =
            read_weights(find(WEIGHTS)?, &shape, description.hyperparameters.ensemble_size)?;
        let parts = Parts {
            hyper: description.hyperparameters,
            shape,
            plan,
            params,
            calibration: description.calibration,
            nonnegative: description.nonnegative,
            provenance: description.provenance,
            report: description.training,
        };
        Model::new(parts, Isa::detect())
    }
}

fn corrupt(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Corrupt, format!("not a DeepAR model: {}", message.into()))
}

fn read_description(bytes: &[u8]) -> Result<Description> {
    #[derive(Deserialize)]
    struct Head {
        format: String,
        format_version: u32,
    }
    if bytes.len() > DESCRIPTION_BYTES_MAX {
        return Err(corrupt(format!("{DESCRIPTION} has {} bytes", bytes.len())));
    }
    let broken =
        |cause: serde_json::Error| corrupt(format!("{DESCRIPTION}: {cause}")).with_source(cause);
    let head: Head = serde_json::from_slice(bytes).map_err(broken)?;
    if head.format != FORMAT {
        return Err(corrupt(format!("{DESCRIPTION} is of another format")));
    }
    if head.format_version != FORMAT_VERSION {
        return Err(Error::unsupported(format!(
            "model format {} was written by another version; this one reads {FORMAT_VERSION}",
            head.format_version
        )));
    }
    serde_json::from_slice(bytes).map_err(broken)
}

/// Plan and shape as declared, once every number is known to be in range.
fn declared(description: &Description) -> Result<(Plan, Shape)> {
    let hyper = &description.hyperparameters;
    check_ranges(hyper)?;
    let features = description.num_dynamic_feat;
    if features > 1000 || description.cardinality.len() > 100 {
        return Err(corrupt("too many features or categories"));
    }
    if description.cardinality.iter().any(|size| !(1..=1_000_000).contains(size)) {
        return Err(corrupt("a category's size is out of range"));
    }
    if !description.scaling.is_sound(features) {
        return Err(corrupt("scaling does not fit"));
    }
    if !description.calibration.is_sound() {
        return Err(corrupt("calibration is out of range"));
    }
    let plan = Plan::new(hyper, features, description.scaling.clone());
    let shape = Shape::new(hyper, &plan, description.cardinality.clone());
    let steps = hyper.context_length + hyper.prediction_length;
    shape.check_size(steps).map_err(|error| corrupt(error.to_string()))?;
    Ok((plan, shape))
}

/// Sends the numbers that decide sizes through the same table as a user's.
fn check_ranges(hyper: &Hyperparameters) -> Result<()> {
    let scaling = match hyper.scaling {
        ScalingMethod::Mean => "mean",
        ScalingMethod::Standard => "standard",
    };
    let given = [
        ("time_freq", hyper.time_freq.to_string()),
        ("context_length", hyper.context_length.to_string()),
        ("prediction_length", hyper.prediction_length.to_string()),
        ("epochs", hyper.epochs.to_string()),
        ("num_cells", hyper.num_cells.to_string()),
        ("num_layers", hyper.num_layers.to_string()),
        ("dropout_rate", hyper.dropout_rate.to_string()),
        ("embedding_dimension", hyper.embedding_dimension.to_string()),
        ("mini_batch_size", hyper.mini_batch_size.to_string()),
        ("num_eval_samples", hyper.num_eval_samples.to_string()),
        ("likelihood", hyper.likelihood.name().to_owned()),
        ("scaling", scaling.to_owned()),
        // Models of before it was a setting have 0: the context.
        ("scaling_length", hyper.scaling_length.max(1).to_string()),
        ("autoregressive_skip", hyper.autoregressive_skip.to_string()),
        ("ensemble_size", hyper.ensemble_size.to_string()),
    ];
    debug_assert!(given.iter().all(|(name, _)| TABLE.iter().any(|(known, ..)| known == name)));
    Hyperparameters::parse(given).map_err(|error| corrupt(error.to_string()))?;
    forecast::check_quantiles(&hyper.test_quantiles).map_err(|error| corrupt(error.to_string()))
}

/// The parameters of each member.
fn read_weights(bytes: &[u8], shape: &Shape, members: u32) -> Result<Vec<Vec<f32>>> {
    // Weights that are not in the file cannot be asked for: this bounds every allocation by
    // the file's own size (padding at most doubles it twice for the smallest networks).
    let wanted = shape.parameters_estimate() * u128::from(members);
    if wanted > 64 * (bytes.len() as u128 + 1024) {
        return Err(corrupt(format!("{WEIGHTS} is too small for the network declared")));
    }
    let tensors = SafeTensors::deserialize(bytes)
        .map_err(|cause| corrupt(format!("{WEIGHTS}: {cause}")).with_source(cause))?;
    let members = members as usize;
    let declared = members * slots(shape, String::new()).len();
    if tensors.len() != declared {
        return Err(corrupt(format!("{} tensors where {declared} are declared", tensors.len())));
    }
    (0..members).map(|index| read_member(&tensors, shape, prefix(index, members))).collect()
}

fn read_member(tensors: &SafeTensors<'_>, shape: &Shape, prefix: String) -> Result<Vec<f32>> {
    let mut params = vec![0.0; shape.layout().len];
    for slot in slots(shape, prefix) {
        let tensor = tensors.tensor(&slot.name).map_err(|cause| {
            corrupt(format!("tensor {} is missing", slot.name)).with_source(cause)
        })?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != slot.shape {
            return Err(corrupt(format!(
                "tensor {} is {:?} {:?}, declared is F32 {:?}",
                slot.name,
                tensor.dtype(),
                tensor.shape(),
                slot.shape
            )));
        }
        let width = *slot.shape.last().unwrap_or(&0);
        for (from, row) in slot.rows.iter().zip(tensor.data().chunks_exact(4 * width)) {
            for (param, bytes) in params[*from..from + width].iter_mut().zip(row.chunks_exact(4)) {
                *param = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                if !param.is_finite() {
                    return Err(corrupt(format!("tensor {} holds {param}", slot.name)));
                }
            }
        }
    }
    Ok(params)
}

/// What the names of a member's tensors begin with; nothing if it is the only one.
fn prefix(member: usize, members: usize) -> String {
    if members > 1 { format!("member.{member}.") } else { String::new() }
}

/// All tensors, in the order they are written.
fn slots(shape: &Shape, prefix: String) -> Vec<Slot> {
    let layout = shape.layout();
    let cells = shape.cells;
    // PyTorch's row g * C + u is ours at 4 u + g.
    let gate_rows = |start: usize, stride: usize| -> Vec<usize> {
        (0..4)
            .flat_map(|gate| (0..cells).map(move |unit| start + (4 * unit + gate) * stride))
            .collect()
    };
    let mut slots = Vec::new();
    let mut slot = |name: String, shape: Vec<usize>, rows| {
        slots.push(Slot { name: format!("{prefix}{name}"), shape, rows });
    };
    for (l, (weights, bias)) in layout.layers.iter().enumerate() {
        let (columns, from) = (shape.columns(l), shape.layer_inputs(l));
        let inputs = if l == 0 { shape.inputs } else { cells };
        let rows = |offset: usize| gate_rows(weights.start + offset, columns);
        slot(format!("lstm.weight_ih_l{l}"), vec![4 * cells, inputs], rows(0));
        slot(format!("lstm.weight_hh_l{l}"), vec![4 * cells, cells], rows(from));
        slot(format!("lstm.bias_l{l}"), vec![4 * cells, 1], gate_rows(bias.start, 1));
    }
    let statics = shape.statics();
    let rows = gate_rows(layout.statics.start, statics);
    slot("lstm.weight_static".to_owned(), vec![4 * cells, statics], rows);
    for (k, (table, size)) in layout.embeddings.iter().zip(&shape.cardinality).enumerate() {
        let rows = (0..*size as usize).map(|row| table.start + row * shape.embedding).collect();
        slot(format!("embedding.{k}"), vec![*size as usize, shape.embedding], rows);
    }
    let outputs = shape.outputs();
    let rows = (0..outputs).map(|k| layout.head.start + k * shape.hidden()).collect();
    slot("head.weight".to_owned(), vec![outputs, cells], rows);
    slot("head.bias".to_owned(), vec![outputs], vec![layout.head_bias.start]);
    if shape.skip > 0 {
        slot("head.skip".to_owned(), vec![1, shape.skip], vec![layout.skip.start]);
    }
    slots
}
