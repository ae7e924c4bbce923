//! Application Auto Scaling: targets of endpoint variants.

use base::ErrorKind;

use crate::call::Service;
use crate::protocol::Protocol;

pub(crate) static SERVICE: Service = Service {
    name: "application-autoscaling",
    scopes: &["application-autoscaling"],
    protocol: Protocol::Json { target: "AnyScaleFrontendService", version: "1.1" },
    codes,
    body_bytes_max: 2 * 1024 * 1024,
    operations: &[],
};

fn codes(kind: ErrorKind) -> (&'static str, u16) {
    match kind {
        ErrorKind::NotFound => ("ObjectNotFoundException", 400),
        ErrorKind::AlreadyExists => ("ValidationException", 400),
        ErrorKind::Conflict => ("ConcurrentUpdateException", 400),
        ErrorKind::Denied => ("AccessDeniedException", 400),
        ErrorKind::Invalid | ErrorKind::Unsupported => ("ValidationException", 400),
        ErrorKind::Exhausted | ErrorKind::Unavailable => ("ServiceUnavailable", 503),
        ErrorKind::Corrupt | ErrorKind::Internal => ("InternalServiceException", 500),
    }
}
