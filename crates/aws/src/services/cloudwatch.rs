//! CloudWatch: metrics and alarms.

use base::ErrorKind;

use crate::call::Service;
use crate::protocol::Protocol;

pub(crate) static SERVICE: Service = Service {
    name: "cloudwatch",
    scopes: &["monitoring"],
    protocol: Protocol::JsonOrQuery {
        target: "GraniteServiceVersion20100801",
        version: "1.0",
        namespace: "http://monitoring.amazonaws.com/doc/2010-08-01/",
    },
    codes,
    body_bytes_max: 2 * 1024 * 1024,
    operations: &[],
};

fn codes(kind: ErrorKind) -> (&'static str, u16) {
    match kind {
        ErrorKind::NotFound => ("ResourceNotFound", 404),
        ErrorKind::AlreadyExists => ("InvalidParameterValue", 400),
        ErrorKind::Conflict => ("ConcurrentModificationException", 429),
        ErrorKind::Denied => ("AccessDenied", 403),
        ErrorKind::Invalid | ErrorKind::Unsupported => ("InvalidParameterValue", 400),
        ErrorKind::Exhausted | ErrorKind::Unavailable => ("ServiceUnavailable", 503),
        ErrorKind::Corrupt | ErrorKind::Internal => ("InternalServiceFault", 500),
    }
}
