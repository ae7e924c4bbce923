//! Functions that cost much, asked once for each run of equal values.
//!
//! Readings come by time, so what is cut to its hour is the same for thousands of rows, and
//! writing it out as text costs more than all else that is done with a row.

use std::sync::Arc;

use arrow::array::{ArrayRef, UInt32Array};
use arrow::compute::{partition, take};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::DataFusionError;
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature,
};

type Result<T, E = DataFusionError> = std::result::Result<T, E>;

/// Fewer values a run than this, and looking for runs is not worth it.
const RUN_MIN: usize = 8;

/// Functions that [`OnRuns`] is put around: pure, of one column and of constants.
pub(crate) const DEAR: &[&str] = &["to_char"];

/// A function of the same name and meaning.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct OnRuns(Arc<ScalarUDF>);

impl OnRuns {
    pub(crate) fn around(function: Arc<ScalarUDF>) -> ScalarUDF {
        ScalarUDF::from(OnRuns(function))
    }
}

impl ScalarUDFImpl for OnRuns {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn aliases(&self) -> &[String] {
        self.0.aliases()
    }

    fn signature(&self) -> &Signature {
        self.0.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.0.return_type(arguments)
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.0.return_field_from_args(arguments)
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.0.coerce_types(arguments)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.0.documentation()
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let Some((at, runs)) = runs(&args)? else { return self.0.invoke_with_args(args) };
        args.args[at] = ColumnarValue::Array(runs.values);
        args.number_rows = runs.lengths.len();
        match self.0.invoke_with_args(args)? {
            ColumnarValue::Array(answers) => {
                let mut of_rows = Vec::with_capacity(rows);
                for (run, length) in runs.lengths.iter().enumerate() {
                    of_rows.resize(of_rows.len() + length, run as u32);
                }
                Ok(ColumnarValue::Array(take(&answers, &UInt32Array::from(of_rows), None)?))
            }
            constant => Ok(constant),
        }
    }
}

struct Runs {
    values: ArrayRef,
    lengths: Vec<usize>,
}

/// The runs of the only argument that is no constant, if they are long.
fn runs(args: &ScalarFunctionArgs) -> Result<Option<(usize, Runs)>> {
    let columns = args.args.iter().enumerate().filter_map(|(at, arg)| match arg {
        ColumnarValue::Array(array) => Some((at, array)),
        ColumnarValue::Scalar(_) => None,
    });
    let columns: Vec<(usize, &ArrayRef)> = columns.collect();
    let [(at, array)] = columns[..] else { return Ok(None) };
    if array.len() != args.number_rows || array.len() < RUN_MIN {
        return Ok(None);
    }
    let ranges = partition(std::slice::from_ref(array))?.ranges();
    if ranges.len() * RUN_MIN > array.len() {
        return Ok(None);
    }
    let starts: UInt32Array = ranges.iter().map(|range| range.start as u32).collect();
    let lengths = ranges.iter().map(ExactSizeIterator::len).collect();
    Ok(Some((at, Runs { values: take(array, &starts, None)?, lengths })))
}
