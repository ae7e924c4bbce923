//! DataFusion's errors in our words.

use std::error::Error as _;

use base::{Error, ErrorKind};
use datafusion::common::DataFusionError;

/// Wraps one of our errors for its way through DataFusion.
pub(crate) fn wrap(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// What DataFusion's error means for the caller. One of ours, on its way through, comes out
/// as it went in.
pub(crate) fn explain(error: DataFusionError) -> Error {
    let root = error.find_root();
    if let DataFusionError::External(inner) = root
        && let Some(ours) = inner.downcast_ref::<Error>()
    {
        return Error::new(ours.kind(), ours.to_string());
    }
    let kind = kind_of(root);
    let said = match root {
        DataFusionError::Plan(text)
        | DataFusionError::NotImplemented(text)
        | DataFusionError::Execution(text)
        | DataFusionError::ResourcesExhausted(text) => text.clone(),
        DataFusionError::SQL(cause, _) => cause.to_string(),
        other => other.to_string(),
    };
    // Backtraces and hints at DataFusion's issue tracker are for its authors.
    let ends = ["\n\n", "\nThis issue was likely caused by a bug in DataFusion", "\nbacktrace:"];
    let said = ends.iter().fold(said.as_str(), |said, end| said.split(end).next().unwrap_or(said));
    let said = said.trim();
    let message = match kind {
        ErrorKind::Unsupported if is_unplanned(said, &["InSubquery(", "Exists("]) => {
            "IN (SELECT ...) and EXISTS stand in WHERE and HAVING: elsewhere join, or count, as \
             (SELECT count(*) FROM u WHERE u.k = t.k) > 0. There, a sub-query that names a table around \
             it has no UNION, and with IN no LIMIT"
                .to_owned()
        }
        ErrorKind::Unsupported if is_unplanned(said, &["ScalarSubquery("]) => {
            "a sub-query that stands for a value and names a table around it is tied to it by columns \
             that are equal (u.k = t.k), and has no UNION, LIMIT or window: otherwise join"
                .to_owned()
        }
        ErrorKind::Exhausted => format!("the query needs more memory than it may use: {said}"),
        ErrorKind::Corrupt => format!("a file cannot be read: {said}"),
        _ => said.to_owned(),
    };
    // Not as its source: what that says is said already.
    tracing::debug!(%error, "DataFusion");
    Error::new(kind, message)
}

/// Whether one of these sub-queries stands where DataFusion plans none.
fn is_unplanned(said: &str, subqueries: &[&str]) -> bool {
    said.starts_with("Physical plan does not support logical expression")
        && subqueries.iter().any(|subquery| said.contains(subquery))
}

fn kind_of(root: &DataFusionError) -> ErrorKind {
    match root {
        DataFusionError::ResourcesExhausted(_) => ErrorKind::Exhausted,
        DataFusionError::NotImplemented(_) => ErrorKind::Unsupported,
        DataFusionError::SQL(_, _)
        | DataFusionError::Plan(_)
        | DataFusionError::SchemaError(_, _)
        | DataFusionError::Configuration(_)
        | DataFusionError::Execution(_) => ErrorKind::Invalid,
        DataFusionError::ParquetError(_) => ErrorKind::Corrupt,
        DataFusionError::ArrowError(cause, _) => match **cause {
            arrow::error::ArrowError::ParquetError(_) => ErrorKind::Corrupt,
            arrow::error::ArrowError::NotYetImplemented(_) => ErrorKind::Unsupported,
            _ if cause.source().is_some_and(|source| source.is::<std::io::Error>()) => {
                ErrorKind::Unavailable
            }
            _ => ErrorKind::Invalid,
        },
        DataFusionError::ObjectStore(_) | DataFusionError::IoError(_) => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}
