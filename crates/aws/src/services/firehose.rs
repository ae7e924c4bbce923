//! Data Firehose: delivery streams and direct puts.

use base::ErrorKind;

use crate::call::Service;
use crate::protocol::Protocol;

pub(crate) static SERVICE: Service = Service {
    name: "firehose",
    scopes: &["firehose"],
    protocol: Protocol::Json { target: "Firehose_20150804", version: "1.1" },
    codes,
    body_bytes_max: 2 * 1024 * 1024,
    operations: &[],
};

fn codes(kind: ErrorKind) -> (&'static str, u16) {
    match kind {
        ErrorKind::NotFound => ("ResourceNotFoundException", 400),
        ErrorKind::AlreadyExists => ("ResourceInUseException", 400),
        ErrorKind::Conflict => ("ConcurrentModificationException", 400),
        ErrorKind::Denied => ("AccessDeniedException", 400),
        ErrorKind::Invalid | ErrorKind::Unsupported => ("InvalidArgumentException", 400),
        ErrorKind::Exhausted | ErrorKind::Unavailable => ("ServiceUnavailable", 503),
        ErrorKind::Corrupt | ErrorKind::Internal => ("InternalFailure", 500),
    }
}
