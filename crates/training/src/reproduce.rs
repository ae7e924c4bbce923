//! Makes a model again from what it says of itself, and compares every byte.
//!
//! What would make the attempt pointless (other data, instructions that this machine lacks) is
//! found before anything is trained. Otherwise the training runs with the settings, seed and
//! threads that the model names, and whatever then differs is named by its place.

use std::path::Path;

use base::{Clock, Error, Result};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::engine::{Engine, Made};
use crate::job::{self, Files, Log, TrainSpec};
use crate::{artifact, channel};

/// Most differences named.
const CHANGES_MAX: usize = 20;

/// Whether a model came out again.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reproduction {
    /// Whether everything that was compared is equal, byte by byte.
    pub identical: bool,
    /// SHA-256 of the model file.
    pub model_sha256: String,
    /// SHA-256 of the model made again; absent where none was made or its card not compared.
    pub made_sha256: Option<String>,
    /// The files inside the model that were compared.
    pub compared: Vec<String>,
    /// What was not compared, and why.
    pub not_compared: Vec<String>,
    /// What changed.
    pub changes: Vec<Change>,
}

/// One thing that is not as it was.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// What.
    pub what: String,
    /// In the model.
    pub model: String,
    /// Here and now.
    pub now: String,
}

impl Change {
    fn new(what: impl Into<String>, model: impl Into<String>, now: impl Into<String>) -> Change {
        Change { what: what.into(), model: model.into(), now: now.into() }
    }
}

/// Trains the model at `model` again on `train`, and scores it on `test` if it was scored.
pub fn reproduce(
    model: &Path,
    train: &Path,
    test: Option<&Path>,
    clock: &dyn Clock,
    log: &mut dyn FnMut(&str),
) -> Result<Reproduction> {
    let old = artifact::read(model)?;
    let bytes = std::fs::read(model).map_err(|cause| Error::io(model.display(), cause))?;
    let mut made = Engine::of_model(&old).map_err(|error| error.context(model.display()))?;
    let card = find(&old, artifact::CARD).and_then(|card| serde_json::from_slice(card).ok());
    let card: Value = card.unwrap_or_default();
    if made.deepar.is_none() {
        // A rule draws nothing; its card keeps the seed that it was called with.
        made.engine.seed = card["seed"].as_u64().unwrap_or(0);
    }
    let mut told = Reproduction {
        identical: false,
        model_sha256: sha256(&bytes),
        made_sha256: None,
        compared: Vec::new(),
        not_compared: Vec::new(),
        changes: Vec::new(),
    };
    told.changes = hindrances(&made, train)?;
    if !told.changes.is_empty() {
        return Ok(told);
    }

    let was_scored = card["test"].is_object();
    let spec = TrainSpec {
        train: train.to_owned(),
        test: test.filter(|_| was_scored).map(Path::to_owned),
        algorithm: made.engine.algorithm,
        hyperparameters: std::collections::BTreeMap::new(),
        seed: Some(made.engine.seed),
        threads: None,
        model: model.to_owned(),
        windows: card["windows"].as_u64().map_or(1, |windows| windows.max(1) as usize),
    };
    let mut log = Log { clock, sink: log, checkpoint: None };
    let (_, _, new) = job::learn(&made.engine, &spec, &mut log)?;
    if test.is_some() && !was_scored {
        told.not_compared.push("the test channel: the model was made without one".to_owned());
    }
    // The weights first: what differs there explains the rest.
    for name in [artifact::WEIGHTS, artifact::MODEL, artifact::CARD] {
        let Some(bytes) = find(&old, name) else { continue };
        if name == artifact::CARD && was_scored && test.is_none() {
            let why = "it holds scores on a test channel; give it as --test";
            told.not_compared.push(format!("{name}: {why}"));
            continue;
        }
        told.compared.push(name.to_owned());
        compare(name, bytes, find(&new, name), &mut told.changes);
    }
    told.changes.truncate(CHANGES_MAX);
    told.identical = told.changes.is_empty();
    if told.compared.len() == old.len() {
        let again = artifact::pack(&new)?;
        told.made_sha256 = Some(sha256(&again));
        if told.identical && again != bytes {
            // Packed by another program, or by another version of the compressor.
            told.not_compared
                .push("how the archive is compressed: its files are the same".to_owned());
        }
    }
    Ok(told)
}

/// What makes equal bytes impossible, before training.
fn hindrances(made: &Made, train: &Path) -> Result<Vec<Change>> {
    let Some((provenance, has_instructions)) = &made.deepar else { return Ok(Vec::new()) };
    let mut changes = Vec::new();
    if provenance.arithmetic != deepar::ARITHMETIC {
        let was = provenance.arithmetic.to_string();
        let now = format!("{}; what a training comes to has changed since", deepar::ARITHMETIC);
        changes.push(Change::new("the program's arithmetic", was, now));
    }
    let data = channel::read(train, made.engine.time_freq)
        .map_err(|error| error.context("channel train"))?;
    let found = deepar::data_sha256(&data);
    if found != provenance.data_sha256 {
        changes.push(Change::new("data (SHA-256 of the values)", &provenance.data_sha256, found));
        let observed = data.summary().observed;
        if observed != provenance.observations {
            let (then, now) = (provenance.observations.to_string(), observed.to_string());
            changes.push(Change::new("observed points", then, now));
        }
    }
    if !has_instructions {
        let has = deepar::Isa::available();
        let has: Vec<String> = has.iter().map(ToString::to_string).collect();
        let now = format!("not available: this machine has {}", has.join(", "));
        changes.push(Change::new("vector instructions", &provenance.instructions, now));
    }
    Ok(changes)
}

fn compare(name: &str, old: &[u8], new: Option<&[u8]>, changes: &mut Vec<Change>) {
    let Some(new) = new else {
        changes.push(Change::new(name, "there", "absent"));
        return;
    };
    if old == new {
        return;
    }
    let before = changes.len();
    let read = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).ok();
    if let (Some(old), Some(new)) = (read(old), read(new)) {
        differences(name, &old, &new, changes);
    }
    if changes.len() == before {
        changes.push(Change::new(format!("bytes of {name}"), sha256(old), sha256(new)));
    }
}

/// Names what differs by its path.
fn differences(path: &str, old: &Value, new: &Value, changes: &mut Vec<Change>) {
    if changes.len() > CHANGES_MAX || old == new {
        return;
    }
    match (old, new) {
        (Value::Object(olds), Value::Object(news)) => {
            let names = olds.keys().chain(news.keys().filter(|name| !olds.contains_key(*name)));
            for name in names {
                let (old, new) = (&old[name.as_str()], &new[name.as_str()]);
                differences(&format!("{path}: {name}"), old, new, changes);
            }
        }
        (Value::Array(olds), Value::Array(news)) if olds.len() == news.len() => {
            for (k, (old, new)) in olds.iter().zip(news).enumerate() {
                differences(&format!("{path}[{k}]"), old, new, changes);
            }
        }
        _ => changes.push(Change::new(path, old.to_string(), new.to_string())),
    }
}

fn find<'a>(files: &'a Files, name: &str) -> Option<&'a [u8]> {
    files.iter().find(|(found, _)| found == name).map(|(_, bytes)| bytes.as_slice())
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use base::SystemClock;

    use super::*;
    use crate::Algorithm;

    fn again(spec: &TrainSpec, test: bool) -> Reproduction {
        let test = spec.test.as_deref().filter(|_| test);
        reproduce(&spec.model, &spec.train, test, &SystemClock, &mut |_| ()).unwrap()
    }

    #[test]
    fn a_model_of_every_algorithm_comes_out_again() {
        for algorithm in Algorithm::ALL {
            let folder = tempfile::tempdir().unwrap();
            let spec = job::tests::small_of(algorithm, folder.path());
            job::run(&spec, &SystemClock, &mut |_| ()).unwrap();
            let told = again(&spec, true);
            assert!(told.identical, "{algorithm:?}: {told:?}");
            assert_eq!(told.made_sha256.as_ref(), Some(&told.model_sha256));
            assert!(told.not_compared.is_empty());
            let told = again(&spec, false);
            assert!(told.identical && told.made_sha256.is_none(), "{told:?}");
            assert!(told.not_compared[0].contains("--test"));
        }
    }

    #[test]
    fn what_changed_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let spec = job::tests::small(folder.path());
        job::run(&spec, &SystemClock, &mut |_| ()).unwrap();
        let files = artifact::read(&spec.model).unwrap();
        let named = |from: &str, to: &str| {
            let mut files = files.clone();
            let (_, text) = files.iter_mut().find(|(name, _)| name == artifact::MODEL).unwrap();
            let old = String::from_utf8(text.clone()).unwrap();
            let new = old.replacen(from, to, 1);
            assert_ne!(old, new, "{from}");
            *text = new.into_bytes();
            artifact::write(&spec.model, &files).unwrap();
            let told = again(&spec, true);
            assert!(!told.identical);
            told.changes.iter().map(|change| change.what.clone()).collect::<Vec<_>>().join("\n")
        };
        let version = format!("\"code_version\": \"{}\"", env!("CARGO_PKG_VERSION"));
        assert_eq!(
            named(&version, "\"code_version\": \"0.0.9\""),
            "model.json: provenance: code_version"
        );
        assert!(named("\"seed\": 7", "\"seed\": 8").contains("bytes of weights.safetensors"));
        assert!(
            named("\"learning_rate\": 0.001", "\"learning_rate\": 0.002")
                .contains("training: log[0]: loss")
        );
        let arithmetic = format!("\"arithmetic\": {}", deepar::ARITHMETIC);
        assert_eq!(named(&arithmetic, "\"arithmetic\": 9"), "the program's arithmetic");
        assert_eq!(named(&format!("{arithmetic},"), ""), "the program's arithmetic");
        let isa = deepar::Isa::detect().to_string();
        let instructions = format!("\"instructions\": \"{isa}\"");
        assert_eq!(named(&instructions, "\"instructions\": \"sve9\""), "vector instructions");

        artifact::write(&spec.model, &files).unwrap();
        let data = spec.train.join("data.json");
        let text = std::fs::read_to_string(&data).unwrap();
        std::fs::write(&data, text.replacen("\"target\":[", "\"target\":[1.5,", 1)).unwrap();
        let told = again(&spec, true);
        let what: Vec<&str> = told.changes.iter().map(|change| change.what.as_str()).collect();
        assert_eq!(what, ["data (SHA-256 of the values)", "observed points"]);
        assert!(told.compared.is_empty() && told.made_sha256.is_none());
    }
}
