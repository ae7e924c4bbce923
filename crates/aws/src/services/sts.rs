//! STS: who am I, and credentials that end.

use base::ErrorKind;

use crate::call::Service;
use crate::protocol::Protocol;

pub(crate) static SERVICE: Service = Service {
    name: "sts",
    scopes: &["sts"],
    protocol: Protocol::Query {
        version: "2011-06-15",
        namespace: "https://sts.amazonaws.com/doc/2011-06-15/",
    },
    codes,
    body_bytes_max: 2 * 1024 * 1024,
    operations: &[],
};

fn codes(kind: ErrorKind) -> (&'static str, u16) {
    match kind {
        ErrorKind::NotFound => ("ValidationError", 400),
        ErrorKind::AlreadyExists => ("ValidationError", 400),
        ErrorKind::Conflict => ("ValidationError", 400),
        ErrorKind::Denied => ("AccessDenied", 403),
        ErrorKind::Invalid | ErrorKind::Unsupported => ("ValidationError", 400),
        ErrorKind::Exhausted | ErrorKind::Unavailable => ("ServiceUnavailable", 503),
        ErrorKind::Corrupt | ErrorKind::Internal => ("InternalFailure", 500),
    }
}
