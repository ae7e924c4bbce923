//! Athena: SQL over the catalog.

use base::ErrorKind;

use crate::call::Service;
use crate::protocol::Protocol;

pub(crate) static SERVICE: Service = Service {
    name: "athena",
    scopes: &["athena"],
    protocol: Protocol::Json { target: "AmazonAthena", version: "1.1" },
    codes,
    body_bytes_max: 2 * 1024 * 1024,
    operations: &[],
};

fn codes(kind: ErrorKind) -> (&'static str, u16) {
    match kind {
        ErrorKind::NotFound => ("InvalidRequestException", 400),
        ErrorKind::AlreadyExists => ("InvalidRequestException", 400),
        ErrorKind::Conflict => ("InvalidRequestException", 400),
        ErrorKind::Denied => ("InvalidRequestException", 400),
        ErrorKind::Invalid | ErrorKind::Unsupported => ("InvalidRequestException", 400),
        ErrorKind::Exhausted | ErrorKind::Unavailable => ("ServiceUnavailable", 503),
        ErrorKind::Corrupt | ErrorKind::Internal => ("InternalServerException", 500),
    }
}
