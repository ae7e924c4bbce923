//! Turns the database's errors into ours, by what the caller can do.

use base::{Error, ErrorKind};

use crate::watched::disk_full;

/// What a full disk means.
const FULL: &str = "the disk is full; nothing is stored until there is space again";

/// Says that the disk is full.
pub(crate) fn full() -> Error {
    Error::new(ErrorKind::Exhausted, FULL)
}

/// Says what `doing` ran into. Everything that reaches the disk may be latched by the
/// database, which then refuses further work rather than retry a failed sync.
pub(crate) fn error(doing: impl std::fmt::Display, cause: impl Into<redb::Error>) -> Error {
    let cause = cause.into();
    let (kind, why) = match &cause {
        redb::Error::Io(failed) if disk_full(failed) => (ErrorKind::Exhausted, FULL.to_owned()),
        redb::Error::Io(failed) => (
            ErrorKind::Unavailable,
            format!("the disk failed ({failed}); nothing more is stored until a restart"),
        ),
        redb::Error::PreviousIo => (
            ErrorKind::Unavailable,
            "the disk failed earlier; nothing more is stored until a restart".to_owned(),
        ),
        redb::Error::Backend(failed) => (
            ErrorKind::Unavailable,
            format!("the disk failed ({failed}); nothing more is stored until a restart"),
        ),
        redb::Error::Corrupted(what) => (
            ErrorKind::Corrupt,
            format!("the metastore file is damaged ({what}); restore a backup"),
        ),
        redb::Error::ValueTooLarge(bytes) => {
            (ErrorKind::Invalid, format!("a value of {bytes} bytes is too large"))
        }
        other => (ErrorKind::Internal, other.to_string()),
    };
    Error::new(kind, format!("{doing}: {why}")).with_source(cause)
}
