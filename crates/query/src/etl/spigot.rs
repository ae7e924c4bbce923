//! Rows that are let out beside the target, to be looked at.
//!
//! A node's rows may be read more than once in a run: by two nodes behind it, or by one that looks
//! twice. The sample is of the first time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use base::Result;
use datafusion::dataframe::DataFrame;
use formats::Compression;
use formats::text::Lines;
use lake::{EtlSpec, StagedSample};

use super::lower::Graph;
use super::series::{arrow, schema_of};
use super::shape::share;
use super::text::Staged;
use crate::operator::{Input, Operator, Step};
use crate::settle;

/// Makes the same rows be picked each time.
const SEED: u64 = 0;

/// Which rows are let out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Picked {
    pub(super) rows: Option<u32>,
    pub(super) fraction: Option<f64>,
}

/// The file of a spigot, until the run has ended.
#[derive(Clone)]
pub(super) struct Sample {
    node: String,
    file: Arc<Mutex<Option<Staged>>>,
}

impl Sample {
    /// Begins the file of the run's `index`-th spigot.
    pub(super) fn create(spec: &EtlSpec, node: &str, index: usize) -> Result<Sample> {
        let file = Staged::create(spec, &format!("spigot-{index}.jsonl"), Compression::None)?;
        Ok(Sample { node: node.to_owned(), file: Arc::new(Mutex::new(Some(file))) })
    }

    fn write(&self, text: &[u8], rows: usize) -> Result<()> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.as_mut().map_or(Ok(()), |file| file.write(text, rows))
    }

    /// Ends the file; none if nothing was let out.
    pub(super) fn close(self) -> Result<Option<StagedSample>> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(file) = file.filter(|file| file.rows() > 0) else { return Ok(None) };
        let staged = file.close(Vec::new())?;
        let (path, rows, bytes) = (staged.path, staged.rows, staged.bytes);
        Ok(Some(StagedSample { node: self.node, path, rows, bytes }))
    }
}

impl Graph<'_> {
    /// All rows of the input; those that are picked are written to `sample` on their way.
    pub(super) fn spigot(
        &self,
        rows: DataFrame,
        picked: Picked,
        sample: &Sample,
    ) -> Result<DataFrame> {
        let schema = settle::schema(&schema_of(&rows));
        Lines::Json.check(&schema)?;
        let input = Input { plan: rows.into_parts().1, sorted_by: Vec::new() };
        let (sample, began) = (sample.clone(), AtomicBool::new(false));
        self.table(Operator::sieve("Spigot", input, move |_pool| Spigot {
            sample: (!began.swap(true, Ordering::Relaxed)).then(|| sample.clone()),
            schema: Arc::clone(&schema),
            picked,
            next: 0,
        }))
    }
}

struct Spigot {
    /// None where the rows are read again.
    sample: Option<Sample>,
    schema: SchemaRef,
    /// What is still to be let out.
    picked: Picked,
    /// The place of the next row.
    next: u64,
}

impl Step for Spigot {
    fn batch(&mut self, batch: RecordBatch) -> Result<Vec<RecordBatch>> {
        if let Some(sample) = self.sample.clone() {
            let some = self.some(&batch)?;
            if some.num_rows() > 0 {
                let some = settle::batch(&some, &self.schema)?;
                sample.write(&Lines::Json.of(&some)?, some.num_rows())?;
            }
        }
        Ok(vec![batch])
    }
}

impl Spigot {
    fn some(&mut self, batch: &RecordBatch) -> Result<RecordBatch> {
        let places = self.next..self.next + batch.num_rows() as u64;
        self.next = places.end;
        let Picked { rows, fraction } = &mut self.picked;
        let picked: BooleanArray = places
            .map(|place| {
                let is_drawn = fraction.is_none_or(|fraction| share(SEED, place) < fraction);
                Some(match rows {
                    _ if !is_drawn => false,
                    Some(0) => false,
                    Some(left) => {
                        *left -= 1;
                        true
                    }
                    None => true,
                })
            })
            .collect();
        filter_record_batch(batch, &picked).map_err(arrow)
    }
}
