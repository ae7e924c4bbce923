//! Decisions with their reasons, for people.

use std::fmt;

/// How a request is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A statement allows it and none denies it.
    Allowed,
    /// A statement denies it.
    Denied,
    /// No statement allows it.
    NotAllowed,
}

/// Where a statement stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatementRef {
    /// The policy's name.
    pub policy: String,
    /// Its version.
    pub version: u32,
    /// Which statement, counted from 1.
    pub statement: usize,
    /// Its `Sid`.
    pub sid: Option<String>,
}

impl fmt::Display for StatementRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "statement {}", self.statement)?;
        if let Some(sid) = &self.sid {
            write!(f, " ({sid})")?;
        }
        write!(f, " of policy {} version {}", self.policy, self.version)
    }
}

/// A statement that allows the action and yet not this request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// Which.
    pub statement: StatementRef,
    /// What does not fit.
    pub why: String,
}

/// A decision and what it rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// How it ends.
    pub verdict: Verdict,
    /// The action, `iot:Publish`.
    pub action: &'static str,
    /// The ARN of what it is about.
    pub resource: String,
    /// The statement that allows or denies it.
    pub by: Option<StatementRef>,
    /// For what no statement allows: those that come nearest.
    pub near: Vec<NearMiss>,
    /// What else there is to say, for instance that no policy is attached.
    pub note: Option<String>,
}

impl Decision {
    /// Whether it is permitted.
    pub fn is_allowed(&self) -> bool {
        self.verdict == Verdict::Allowed
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Decision { action, resource, .. } = self;
        match (self.verdict, &self.by) {
            (Verdict::Allowed, Some(by)) => write!(f, "{action} on {resource} is allowed by {by}"),
            (Verdict::Allowed, None) => write!(f, "{action} on {resource} is allowed"),
            (Verdict::Denied, Some(by)) => write!(f, "{action} on {resource} is denied by {by}"),
            (Verdict::Denied, None) => write!(f, "{action} on {resource} is denied"),
            (Verdict::NotAllowed, _) => write!(f, "no statement allows {action} on {resource}"),
        }?;
        if let Some(note) = &self.note {
            write!(f, ": {note}")?;
        }
        if let Some(miss) = self.near.first() {
            write!(f, "; nearest is {}, {}", miss.statement, miss.why)?;
        }
        Ok(())
    }
}
