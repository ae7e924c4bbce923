//! Functions that people bring from Athena and that DataFusion does not have.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringBuilder, TimestampMillisecondArray};
use arrow::compute::cast;
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::DataFusionError;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use serde_json::Value;

/// All of them.
pub(crate) fn all() -> Vec<ScalarUDF> {
    vec![
        ScalarUDF::from(Function::new("from_iso8601_timestamp", 1, iso8601, TIMESTAMP)),
        ScalarUDF::from(Function::new("json_extract_scalar", 2, extract, DataType::Utf8)),
    ]
}

/// Without a zone: literals such as `TIMESTAMP '2013-03-01 00:00:00'` then compare as they are.
const TIMESTAMP: DataType = DataType::Timestamp(TimeUnit::Millisecond, None);

type Body = fn(&[ArrayRef]) -> Result<ArrayRef, DataFusionError>;

/// A function of strings.
#[derive(Debug)]
struct Function {
    name: &'static str,
    signature: Signature,
    body: Body,
    answers: DataType,
}

impl Function {
    fn new(name: &'static str, arguments: usize, body: Body, answers: DataType) -> Self {
        let signature = Signature::string(arguments, Volatility::Immutable);
        Function { name, signature, body, answers }
    }
}

// A name stands for one function.
impl PartialEq for Function {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Function {}

impl std::hash::Hash for Function {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(self.answers.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let arrays: Vec<ArrayRef> = ColumnarValue::values_to_arrays(&args.args)?
            .iter()
            .map(|array| cast(array, &DataType::Utf8))
            .collect::<Result<_, _>>()?;
        let answer = (self.body)(&arrays)?;
        if constant && answer.len() == 1 {
            let value = datafusion::common::ScalarValue::try_from_array(&answer, 0)?;
            return Ok(ColumnarValue::Scalar(value));
        }
        Ok(ColumnarValue::Array(answer))
    }
}

fn iso8601(arrays: &[ArrayRef]) -> Result<ArrayRef, DataFusionError> {
    let millis = |text: Option<&str>| match text {
        None => Ok(None),
        Some(text) => string_to_datetime(&chrono::Utc, text)
            .map(|moment| Some(moment.timestamp_millis()))
            .map_err(|cause| {
                DataFusionError::Execution(format!("{text:?} is no ISO 8601 timestamp: {cause}"))
            }),
    };
    let moments: TimestampMillisecondArray =
        arrays[0].as_string::<i32>().iter().map(millis).collect::<Result<_, _>>()?;
    Ok(Arc::new(moments))
}

fn extract(arrays: &[ArrayRef]) -> Result<ArrayRef, DataFusionError> {
    let (documents, paths) = (arrays[0].as_string::<i32>(), arrays[1].as_string::<i32>());
    let mut found = StringBuilder::new();
    let mut parsed: Option<(String, Vec<Step>)> = None;
    for (document, path) in documents.iter().zip(paths) {
        let (Some(document), Some(path)) = (document, path) else {
            found.append_null();
            continue;
        };
        // The path is nearly always the same literal.
        if parsed.as_ref().is_none_or(|(known, _)| known != path) {
            let steps = steps(path).ok_or_else(|| {
                DataFusionError::Execution(format!(
                    "{path:?} is no JSON path that is understood: write it as \
                     $.key.other[0] or $[\"key\"]"
                ))
            })?;
            parsed = Some((path.to_owned(), steps));
        }
        let steps = parsed.as_ref().map_or(&[][..], |(_, steps)| steps);
        // As in Athena, text that is no JSON has nothing at any path.
        let value = serde_json::from_str::<Value>(document).ok();
        found.append_option(value.as_ref().and_then(|value| walk(value, steps)).and_then(scalar));
    }
    Ok(Arc::new(found.finish()))
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

/// Reads `$.a.b[0]["c d"]`; `None` for anything else.
fn steps(path: &str) -> Option<Vec<Step>> {
    let mut rest = path.trim().strip_prefix('$')?;
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let end = after.find(['.', '[']).unwrap_or(after.len());
            let (key, others) = after.split_at(end);
            if key.is_empty() || key.contains(['*', '?', '(', '"']) {
                return None;
            }
            steps.push(Step::Key(key.to_owned()));
            rest = others;
        } else {
            let after = rest.strip_prefix('[')?;
            if let Some(quoted) = after.strip_prefix('"') {
                let (key, others) = quoted.split_once("\"]")?;
                steps.push(Step::Key(key.to_owned()));
                rest = others;
            } else {
                let (index, others) = after.split_once(']')?;
                steps.push(Step::Index(index.trim().parse().ok()?));
                rest = others;
            }
        }
    }
    Some(steps)
}

fn walk<'a>(value: &'a Value, steps: &[Step]) -> Option<&'a Value> {
    steps.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get(key),
        Step::Index(index) => value.get(index),
    })
}

/// The text of a string, number or boolean; nothing for null, arrays and objects.
fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_scalars() {
        let document = r#"{"a":{"b":[10,{"c d":"x","e":null}]},"t":true,"n":1.50}"#;
        for (path, expect) in [
            ("$.a.b[0]", Some("10")),
            (r#"$.a.b[1]["c d"]"#, Some("x")),
            ("$.t", Some("true")),
            ("$.n", Some("1.5")),
            ("$.a", None),
            ("$.a.b[1].e", None),
            ("$.zz.y", None),
            ("$.a.b[9]", None),
        ] {
            let value: Value = serde_json::from_str(document).unwrap();
            let found = walk(&value, &steps(path).unwrap()).and_then(scalar);
            assert_eq!(found.as_deref(), expect, "{path}");
        }
        for bad in ["", "a", "$.", "$..a", "$.*", "$[", "$[x]", "$[?(@.a)]", "$a"] {
            assert_eq!(steps(bad), None, "{bad}");
        }
    }
}
