//! Plain types for what leaves the engine: strings are `Utf8` and integers have signs,
//! whatever an operator made.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::record_batch::RecordBatchOptions;
use base::{Error, Result};

/// The schema with plain types.
pub(crate) fn schema(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(fields(schema.fields())))
}

fn fields(fields: &Fields) -> Fields {
    fields.iter().map(field).collect()
}

fn field(field: &Arc<Field>) -> Field {
    Field::new(field.name(), plain(field.data_type()), true)
}

fn plain(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 | DataType::Null => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        // SQL has no unsigned numbers; what counts is a bigint.
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Dictionary(_, value) => plain(value),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            DataType::List(Arc::new(field(item)))
        }
        DataType::Struct(of) => DataType::Struct(fields(of)),
        other => other.clone(),
    }
}

/// The batch in the columns of a schema that [`schema`] made of its own.
pub(crate) fn batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let arrays: Result<Vec<_>, _> = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(array, field)| {
            if array.data_type() == field.data_type() {
                Ok(Arc::clone(array))
            } else {
                cast(array, field.data_type())
            }
        })
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    arrays
        .and_then(|arrays| RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options))
        .map_err(|cause| Error::internal(format!("an answer has no plain form: {cause}")))
}
