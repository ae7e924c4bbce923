//! Which rows of a batch go to which folder of a target.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use base::{Error, Result};
use lake::NULL_PARTITION;

/// The rows of each combination of values in the columns `keys`.
pub(super) fn split(
    batch: &RecordBatch,
    keys: &[usize],
) -> Result<BTreeMap<Vec<String>, Vec<u32>>> {
    let texts: Vec<StringArray> = keys
        .iter()
        .map(|&key| {
            let text = cast(batch.column(key), &DataType::Utf8).map_err(|cause| {
                let name = batch.schema_ref().field(key).name();
                Error::invalid(format!("column {name:?} cannot be a folder: {cause}"))
            })?;
            Ok(text.as_string::<i32>().clone())
        })
        .collect::<Result<_>>()?;
    let mut parts: BTreeMap<Vec<String>, Vec<u32>> = BTreeMap::new();
    for row in 0..batch.num_rows() {
        let value = |text: &StringArray| match text.is_null(row) || text.value(row).is_empty() {
            true => NULL_PARTITION.to_owned(),
            false => text.value(row).to_owned(),
        };
        let at = u32::try_from(row)
            .map_err(|_too_many| Error::internal("a batch of more than 2^32 rows"))?;
        parts.entry(texts.iter().map(value).collect()).or_default().push(at);
    }
    Ok(parts)
}
