//! SageMaker: training jobs, models, endpoints, transform jobs.

use base::ErrorKind;

use crate::call::Service;
use crate::protocol::Protocol;

pub(crate) static SERVICE: Service = Service {
    name: "sagemaker",
    scopes: &["sagemaker"],
    protocol: Protocol::Json { target: "SageMaker", version: "1.1" },
    codes,
    body_bytes_max: 2 * 1024 * 1024,
    operations: &[],
};

fn codes(kind: ErrorKind) -> (&'static str, u16) {
    match kind {
        ErrorKind::NotFound => ("ValidationException", 400),
        ErrorKind::AlreadyExists => ("ValidationException", 400),
        ErrorKind::Conflict => ("ConflictException", 400),
        ErrorKind::Denied => ("AccessDeniedException", 400),
        ErrorKind::Invalid | ErrorKind::Unsupported => ("ValidationException", 400),
        ErrorKind::Exhausted | ErrorKind::Unavailable => ("ServiceUnavailable", 503),
        ErrorKind::Corrupt | ErrorKind::Internal => ("InternalFailure", 500),
    }
}
