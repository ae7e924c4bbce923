//! A refusal on its way to the wire.
//!
//! Handlers use `?` on the rooms' errors: the service's own table turns their kind into its
//! words. Where client code depends on a particular code, a handler names it.

use base::ErrorKind;

/// Why a call was refused.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// Other members that the service's error shape has.
    pub(crate) members: Vec<(&'static str, serde_json::Value)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    /// In the service's words for this kind.
    Kind(ErrorKind),
    /// This very code, with this status.
    Named(&'static str, u16),
}

impl Fault {
    /// A refusal with a code of the service's model.
    pub(crate) fn named(code: &'static str, status: u16, message: impl Into<String>) -> Fault {
        Fault { code: Code::Named(code, status), message: message.into(), members: Vec::new() }
    }

    /// The request is wrong.
    pub(crate) fn invalid(message: impl Into<String>) -> Fault {
        Fault::kind(ErrorKind::Invalid, message)
    }

    /// The thing named does not exist.
    pub(crate) fn not_found(message: impl Into<String>) -> Fault {
        Fault::kind(ErrorKind::NotFound, message)
    }

    /// A member that Forebay does not act on, with the value it was given: never accepted in
    /// silence.
    pub(crate) fn unsupported(member: &str, why: &str) -> Fault {
        Fault::invalid(format!("Forebay does not support {member}: {why}"))
    }

    pub(crate) fn kind(kind: ErrorKind, message: impl Into<String>) -> Fault {
        Fault { code: Code::Kind(kind), message: message.into(), members: Vec::new() }
    }

    /// A value that could not be read, in AWS's manner with the place.
    pub(crate) fn input(place: &str, why: &str) -> Fault {
        let place = if place.is_empty() || place == "." { "the request" } else { place };
        match why.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
            // The path of an unknown member already ends with its name.
            Some((member, _)) => Fault::invalid(format!(
                "Unknown parameter in input: {member:?} (at {place}). Forebay does not support it; remove it, or see the coverage page"
            )),
            None => Fault::invalid(format!("{place}: {why}")),
        }
    }
}

impl From<base::Error> for Fault {
    fn from(error: base::Error) -> Fault {
        if matches!(error.kind(), ErrorKind::Internal | ErrorKind::Corrupt) {
            tracing::error!(?error, "a call failed");
        }
        Fault::kind(error.kind(), error.to_string())
    }
}
