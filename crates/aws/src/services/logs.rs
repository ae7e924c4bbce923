//! CloudWatch Logs.

use base::ErrorKind;

use crate::call::Service;
use crate::protocol::Protocol;

pub(crate) static SERVICE: Service = Service {
    name: "logs",
    scopes: &["logs"],
    protocol: Protocol::Json { target: "Logs_20140328", version: "1.1" },
    codes,
    body_bytes_max: 2 * 1024 * 1024,
    operations: &[],
};

fn codes(kind: ErrorKind) -> (&'static str, u16) {
    match kind {
        ErrorKind::NotFound => ("ResourceNotFoundException", 400),
        ErrorKind::AlreadyExists => ("ResourceAlreadyExistsException", 400),
        ErrorKind::Conflict => ("OperationAbortedException", 400),
        ErrorKind::Denied => ("AccessDeniedException", 400),
        ErrorKind::Invalid | ErrorKind::Unsupported => ("InvalidParameterException", 400),
        ErrorKind::Exhausted | ErrorKind::Unavailable => ("ServiceUnavailable", 503),
        ErrorKind::Corrupt | ErrorKind::Internal => ("InternalFailure", 500),
    }
}
