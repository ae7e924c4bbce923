//! IoT Core: things, certificates, policies, topic rules.

use base::ErrorKind;

use crate::call::Service;
use crate::protocol::Protocol;

pub(crate) static SERVICE: Service = Service {
    name: "iot",
    scopes: &["iot"],
    protocol: Protocol::RestJson,
    codes,
    body_bytes_max: 2 * 1024 * 1024,
    operations: &[],
};

fn codes(kind: ErrorKind) -> (&'static str, u16) {
    match kind {
        ErrorKind::NotFound => ("ResourceNotFoundException", 404),
        ErrorKind::AlreadyExists => ("ResourceAlreadyExistsException", 409),
        ErrorKind::Conflict => ("VersionConflictException", 409),
        ErrorKind::Denied => ("UnauthorizedException", 401),
        ErrorKind::Invalid | ErrorKind::Unsupported => ("InvalidRequestException", 400),
        ErrorKind::Exhausted | ErrorKind::Unavailable => ("ServiceUnavailable", 503),
        ErrorKind::Corrupt | ErrorKind::Internal => ("InternalFailureException", 500),
    }
}
