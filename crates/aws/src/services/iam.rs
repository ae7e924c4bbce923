//! IAM: roles and their policies.

use base::ErrorKind;

use crate::call::Service;
use crate::protocol::Protocol;

pub(crate) static SERVICE: Service = Service {
    name: "iam",
    scopes: &["iam"],
    protocol: Protocol::Query {
        version: "2010-05-08",
        namespace: "https://iam.amazonaws.com/doc/2010-05-08/",
    },
    codes,
    body_bytes_max: 2 * 1024 * 1024,
    operations: &[],
};

fn codes(kind: ErrorKind) -> (&'static str, u16) {
    match kind {
        ErrorKind::NotFound => ("NoSuchEntity", 404),
        ErrorKind::AlreadyExists => ("EntityAlreadyExists", 409),
        ErrorKind::Conflict => ("ConcurrentModification", 409),
        ErrorKind::Denied => ("AccessDenied", 403),
        ErrorKind::Invalid | ErrorKind::Unsupported => ("ValidationError", 400),
        ErrorKind::Exhausted | ErrorKind::Unavailable => ("ServiceUnavailable", 503),
        ErrorKind::Corrupt | ErrorKind::Internal => ("ServiceFailure", 500),
    }
}
