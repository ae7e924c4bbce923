//! Glue: catalog, crawlers, jobs.

use base::ErrorKind;

use crate::call::Service;
use crate::protocol::Protocol;

pub(crate) static SERVICE: Service = Service {
    name: "glue",
    scopes: &["glue"],
    protocol: Protocol::Json { target: "AWSGlue", version: "1.1" },
    codes,
    body_bytes_max: 2 * 1024 * 1024,
    operations: &[],
};

fn codes(kind: ErrorKind) -> (&'static str, u16) {
    match kind {
        ErrorKind::NotFound => ("EntityNotFoundException", 400),
        ErrorKind::AlreadyExists => ("AlreadyExistsException", 400),
        ErrorKind::Conflict => ("ConcurrentModificationException", 400),
        ErrorKind::Denied => ("AccessDeniedException", 400),
        ErrorKind::Invalid | ErrorKind::Unsupported => ("InvalidInputException", 400),
        ErrorKind::Exhausted | ErrorKind::Unavailable => ("ServiceUnavailable", 503),
        ErrorKind::Corrupt | ErrorKind::Internal => ("InternalServiceException", 500),
    }
}
