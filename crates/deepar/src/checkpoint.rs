//! A training's state between two steps, as bytes; whoever watches the training keeps them.
//!
//! ```text
//! "forebay-deepar-checkpoint 1\n" | tag | fields, little-endian | SHA-256 of all before
//! ```
//!
//! Invariants
//! * The tag names settings, data, seed, threads, instructions and version: the state of
//!   another training is refused, however well it would fit.
//! * One list of fields ([`Fields`]) is both written and read, so the two cannot drift apart.
//! * Numbers keep their bits: a training that goes on gives the model of one that never
//!   stopped.

use base::{Error, ErrorKind, Result};
use forecast::EpochReport;
use sha2::{Digest, Sha256};

use crate::hyper::Hyperparameters;
use crate::model::ARITHMETIC;
use crate::train::TrainOptions;

const MAGIC: &[u8] = b"forebay-deepar-checkpoint 1\n";
const HASH_BYTES: usize = 32;

/// Writes the fields it is shown, or sets them.
pub(crate) trait Fields {
    /// A whole number.
    fn whole(&mut self, value: &mut u64);
    /// A real number, also infinity.
    fn real(&mut self, value: &mut f64);
    /// Numbers whose count both sides know.
    fn floats(&mut self, values: &mut [f32]);
}

/// A small whole number.
pub(crate) fn small(io: &mut dyn Fields, value: &mut u32) {
    let mut wide = u64::from(*value);
    io.whole(&mut wide);
    *value = u32::try_from(wide).unwrap_or(u32::MAX);
}

/// What the epochs so far reported.
pub(crate) fn log(io: &mut dyn Fields, log: &mut Vec<EpochReport>) {
    let mut count = log.len() as u64;
    io.whole(&mut count);
    // A checkpoint is read only after its hash fits, but a bound costs nothing.
    let none = EpochReport {
        epoch: 0,
        epochs: 0,
        loss: 0.0,
        validation_loss: None,
        learning_rate: 0.0,
        windows: 0,
    };
    log.resize(count.min(100_000) as usize, none);
    for report in log {
        small(io, &mut report.epoch);
        small(io, &mut report.epochs);
        io.real(&mut report.loss);
        // Held-back losses are finite, so NaN is free to stand for none.
        let mut held = report.validation_loss.unwrap_or(f64::NAN);
        io.real(&mut held);
        report.validation_loss = (!held.is_nan()).then_some(held);
        io.real(&mut report.learning_rate);
        io.whole(&mut report.windows);
    }
}

/// Names one training: only its own checkpoints carry this.
pub(crate) fn tag(hyper: &Hyperparameters, options: &TrainOptions, data_sha256: &str) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let named = format!("{version} {ARITHMETIC} {data_sha256} {options:?} {hyper:?}");
    Sha256::digest(named).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The state that `fields` lists, under `tag`.
pub(crate) fn write(tag: &str, fields: impl FnOnce(&mut dyn Fields)) -> Vec<u8> {
    let mut writer = Writer([MAGIC, tag.as_bytes()].concat());
    fields(&mut writer);
    let hash = Sha256::digest(&writer.0);
    writer.0.extend_from_slice(&hash);
    writer.0
}

/// Sets what `fields` lists from `bytes`. After an error the fields are of no use.
pub(crate) fn read(bytes: &[u8], tag: &str, fields: impl FnOnce(&mut dyn Fields)) -> Result<()> {
    let broken = || Error::new(ErrorKind::Corrupt, "it is damaged");
    let (body, hash) =
        bytes.split_at_checked(bytes.len().saturating_sub(HASH_BYTES)).ok_or_else(broken)?;
    if Sha256::digest(body)[..] != *hash {
        return Err(broken());
    }
    let body = body.strip_prefix(MAGIC).ok_or_else(|| {
        Error::unsupported("it was written by another version or is no checkpoint")
    })?;
    let body = body.strip_prefix(tag.as_bytes()).ok_or_else(|| {
        Error::invalid("it belongs to a training with other data, settings, seed or threads")
    })?;
    let mut reader = Reader { rest: body, short: false };
    fields(&mut reader);
    if reader.short || !reader.rest.is_empty() {
        return Err(broken());
    }
    Ok(())
}

struct Writer(Vec<u8>);

impl Fields for Writer {
    fn whole(&mut self, value: &mut u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn real(&mut self, value: &mut f64) {
        self.whole(&mut value.to_bits());
    }

    fn floats(&mut self, values: &mut [f32]) {
        self.whole(&mut (values.len() as u64));
        self.0.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    /// Whether something was missing.
    short: bool,
}

impl Fields for Reader<'_> {
    fn whole(&mut self, value: &mut u64) {
        match self.rest.split_first_chunk() {
            Some((bytes, rest)) => {
                *value = u64::from_le_bytes(*bytes);
                self.rest = rest;
            }
            None => self.short = true,
        }
    }

    fn real(&mut self, value: &mut f64) {
        let mut bits = value.to_bits();
        self.whole(&mut bits);
        *value = f64::from_bits(bits);
    }

    fn floats(&mut self, values: &mut [f32]) {
        let mut count = 0;
        self.whole(&mut count);
        let Some((bytes, rest)) = self.rest.split_at_checked(4 * values.len()) else {
            self.short = true;
            return;
        };
        self.short |= count != values.len() as u64;
        self.rest = rest;
        for (value, bytes) in values.iter_mut().zip(bytes.chunks_exact(4)) {
            *value = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, Default, PartialEq)]
    struct State {
        floats: Vec<f32>,
        best: f64,
        step: u64,
        log: Vec<EpochReport>,
    }

    impl State {
        fn fields(&mut self, io: &mut dyn Fields) {
            io.floats(&mut self.floats);
            io.real(&mut self.best);
            io.whole(&mut self.step);
            log(io, &mut self.log);
        }
    }

    fn state() -> State {
        let report = EpochReport {
            epoch: 3,
            epochs: 9,
            loss: 0.1 + 0.2,
            validation_loss: None,
            learning_rate: 1e-300,
            windows: 77,
        };
        State {
            floats: vec![1.5, -0.0, f32::MIN_POSITIVE / 2.0],
            best: f64::INFINITY,
            step: u64::MAX,
            log: vec![report, EpochReport { validation_loss: Some(-1.0), ..report }],
        }
    }

    #[test]
    fn what_is_written_reads_back_bit_by_bit() {
        let bytes = write("tag", |io| state().fields(io));
        let mut back = State { floats: vec![0.0; 3], ..State::default() };
        read(&bytes, "tag", |io| back.fields(io)).unwrap();
        assert_eq!(back, state());
        assert_eq!(back.floats[1].to_bits(), (-0.0f32).to_bits());
    }

    #[test]
    fn what_is_foreign_or_damaged_is_refused() {
        let bytes = write("tag", |io| state().fields(io));
        let refused = |bytes: &[u8], tag: &str, floats: usize| {
            let mut back = State { floats: vec![0.0; floats], ..State::default() };
            read(bytes, tag, |io| back.fields(io)).unwrap_err().to_string()
        };
        assert!(refused(&bytes, "gat", 3).contains("other data"));
        assert!(refused(&bytes, "tag", 2).contains("damaged"));
        assert!(refused(&bytes, "tag", 4).contains("damaged"));
        for len in 0..bytes.len() {
            assert!(refused(&bytes[..len], "tag", 3).contains("damaged"), "{len}");
        }
        for at in 0..bytes.len() {
            let mut bent = bytes.clone();
            bent[at] ^= 1;
            assert!(refused(&bent, "tag", 3).contains("damaged"), "{at}");
        }
    }
}
