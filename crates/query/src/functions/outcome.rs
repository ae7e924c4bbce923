//! The answers of a function, gathered into a column.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Date32Builder, Float64Builder, Int64Builder,
    ListBuilder, StringBuilder, TimestampMillisecondBuilder,
};
use arrow::datatypes::DataType;
use datafusion::common::DataFusionError;

use super::{Out, time};

/// Bytes that the answers for one batch of rows may have: operators are told of memory only
/// once an array is whole.
const BYTES_MAX: usize = 64 * 1024 * 1024;

pub(super) enum Column {
    Text(StringBuilder, usize),
    Int(Int64Builder),
    Double(Float64Builder),
    Truth(BooleanBuilder),
    Bytes(BinaryBuilder, usize),
    Moment(TimestampMillisecondBuilder),
    Date(Date32Builder),
    Texts(ListBuilder<StringBuilder>, usize),
}

impl Column {
    pub(super) fn of(data_type: &DataType) -> Column {
        match data_type {
            DataType::Int64 => Column::Int(Int64Builder::new()),
            DataType::Float64 => Column::Double(Float64Builder::new()),
            DataType::Boolean => Column::Truth(BooleanBuilder::new()),
            DataType::Binary => Column::Bytes(BinaryBuilder::new(), 0),
            DataType::Timestamp(_, _) => Column::Moment(TimestampMillisecondBuilder::new()),
            DataType::Date32 => Column::Date(Date32Builder::new()),
            DataType::List(_) => Column::Texts(ListBuilder::new(StringBuilder::new()), 0),
            _ => Column::Text(StringBuilder::new(), 0),
        }
    }

    pub(super) fn push(&mut self, out: Option<Out>) -> Result<(), DataFusionError> {
        match (self, out) {
            (Column::Text(column, bytes), Some(Out::Text(text))) => {
                held(bytes, text.len())?;
                column.append_value(text);
            }
            (Column::Int(column), Some(Out::Int(int))) => column.append_value(int),
            (Column::Double(column), Some(Out::Double(double))) => column.append_value(double),
            (Column::Truth(column), Some(Out::Truth(truth))) => column.append_value(truth),
            (Column::Bytes(column, bytes), Some(Out::Bytes(out))) => {
                held(bytes, out.len())?;
                column.append_value(out);
            }
            (Column::Moment(column), Some(Out::Int(millis))) => column.append_value(millis),
            (Column::Date(column), Some(Out::Int(millis))) => {
                let day = i32::try_from(millis.div_euclid(time::DAY));
                column.append_value(day.map_err(|_far| {
                    DataFusionError::Execution("a date is outside the calendar".into())
                })?);
            }
            (Column::Texts(column, bytes), Some(Out::Texts(texts))) => {
                held(bytes, texts.iter().map(|text| text.len() + 4).sum())?;
                texts.iter().for_each(|text| column.values().append_value(text));
                column.append(true);
            }
            (column, None) => column.push_null(),
            (_, Some(out)) => {
                return Err(DataFusionError::Internal(format!(
                    "a function answers {out:?}, which it does not say it does"
                )));
            }
        }
        Ok(())
    }

    fn push_null(&mut self) {
        match self {
            Column::Text(column, _) => column.append_null(),
            Column::Int(column) => column.append_null(),
            Column::Double(column) => column.append_null(),
            Column::Truth(column) => column.append_null(),
            Column::Bytes(column, _) => column.append_null(),
            Column::Moment(column) => column.append_null(),
            Column::Date(column) => column.append_null(),
            Column::Texts(column, _) => column.append(false),
        }
    }

    pub(super) fn finish(self) -> ArrayRef {
        match self {
            Column::Text(mut column, _) => Arc::new(column.finish()),
            Column::Int(mut column) => Arc::new(column.finish()),
            Column::Double(mut column) => Arc::new(column.finish()),
            Column::Truth(mut column) => Arc::new(column.finish()),
            Column::Bytes(mut column, _) => Arc::new(column.finish()),
            Column::Moment(mut column) => Arc::new(column.finish()),
            Column::Date(mut column) => Arc::new(column.finish()),
            Column::Texts(mut column, _) => Arc::new(column.finish()),
        }
    }
}

fn held(bytes: &mut usize, more: usize) -> Result<(), DataFusionError> {
    *bytes = bytes.saturating_add(more);
    match *bytes <= BYTES_MAX {
        true => Ok(()),
        false => Err(DataFusionError::ResourcesExhausted(format!(
            "a function makes more than {BYTES_MAX} bytes of one batch of rows"
        ))),
    }
}
