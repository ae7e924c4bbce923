//! One error for all rooms: a kind, what was being done, and the cause.
//!
//! The kind tells the caller what to do. It is the interface; the cause is for the log.
//! Rooms share one type because a second one would only be converted into this one at
//! every border, and the kinds are the same everywhere.

use std::fmt;

/// What went wrong, in the sense of what the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The request itself is wrong; sending it again will not help.
    Invalid,
    /// The thing named does not exist.
    NotFound,
    /// The thing named exists already.
    AlreadyExists,
    /// Somebody else changed it first; read again and retry.
    Conflict,
    /// The caller may not do this.
    Denied,
    /// A bound is reached: a full disk, a full log, a full queue.
    Exhausted,
    /// Not now; retrying later may help.
    Unavailable,
    /// Forebay does not do this (yet).
    Unsupported,
    /// Stored bytes are not what was written.
    Corrupt,
    /// A bug of ours.
    Internal,
}

impl ErrorKind {
    /// The word printed in JSON errors.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorKind::Invalid => "invalid",
            ErrorKind::NotFound => "not_found",
            ErrorKind::AlreadyExists => "already_exists",
            ErrorKind::Conflict => "conflict",
            ErrorKind::Denied => "denied",
            ErrorKind::Exhausted => "exhausted",
            ErrorKind::Unavailable => "unavailable",
            ErrorKind::Unsupported => "unsupported",
            ErrorKind::Corrupt => "corrupt",
            ErrorKind::Internal => "internal",
        }
    }
}

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A failure: its kind, a message that completes "failed to ..." or states the refusal,
/// and the cause if another library reported one.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Source>,
}

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of `kind`.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), source: None }
    }

    /// The request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Invalid, message)
    }

    /// The thing named is absent.
    pub fn not_found(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::NotFound, message)
    }

    /// Forebay does not do this.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Unsupported, message)
    }

    /// A bug of ours.
    pub fn internal(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Internal, message)
    }

    /// Names the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Says what we were doing, keeping the kind: `context: message`.
    #[must_use]
    pub fn context(mut self, doing: impl fmt::Display) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// An I/O failure while doing `doing`; a full disk is [`ErrorKind::Exhausted`].
    pub fn io(doing: impl fmt::Display, cause: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match cause.kind() {
            Io::NotFound => ErrorKind::NotFound,
            Io::AlreadyExists => ErrorKind::AlreadyExists,
            Io::PermissionDenied => ErrorKind::Denied,
            Io::StorageFull | Io::QuotaExceeded => ErrorKind::Exhausted,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, format!("{doing}: {cause}")).with_source(cause)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}
