//! Exit codes: a contract with scripts, listed in README.

use base::{Error, ErrorKind};

/// All went well.
pub(crate) const OK: u8 = 0;
/// It failed.
pub(crate) const FAILED: u8 = 1;
/// The command line is wrong (clap uses the same number).
pub(crate) const USAGE: u8 = 2;
/// The thing named does not exist.
pub(crate) const NOT_FOUND: u8 = 3;
/// The caller may not do this.
pub(crate) const REFUSED: u8 = 4;
/// It exists already, or somebody else changed it first.
pub(crate) const CONFLICT: u8 = 5;
/// No server answers.
pub(crate) const UNREACHABLE: u8 = 6;
/// It took too long.
pub(crate) const TIMEOUT: u8 = 7;

/// Marks an error of the command line itself with the code it exits with.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Exit {
    pub(crate) code: u8,
    pub(crate) message: String,
}

impl Exit {
    /// No server answers.
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Exit { code: UNREACHABLE, message: message.into() }
    }

    /// The command was given something it cannot use.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Exit { code: USAGE, message: message.into() }
    }

    /// A wait ended without its event.
    pub(crate) fn timeout(message: impl Into<String>) -> Self {
        Exit { code: TIMEOUT, message: message.into() }
    }
}

/// The exit code and the word for JSON of any error a command ends with.
pub(crate) fn classify(error: &anyhow::Error) -> (u8, &'static str) {
    if let Some(exit) = error.downcast_ref::<Exit>() {
        let word = match exit.code {
            USAGE => "usage",
            UNREACHABLE => "unreachable",
            TIMEOUT => "timeout",
            _ => "failed",
        };
        return (exit.code, word);
    }
    match error.downcast_ref::<Error>() {
        Some(error) => (code_of(error.kind()), error.kind().as_str()),
        None => (FAILED, "failed"),
    }
}

fn code_of(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::NotFound => NOT_FOUND,
        ErrorKind::Denied => REFUSED,
        ErrorKind::AlreadyExists | ErrorKind::Conflict => CONFLICT,
        _ => FAILED,
    }
}
