//! What IoT policy documents permit, and why. Pure: no I/O, no clock.
//!
//! ```text
//! text ──Document::parse──▶ Document ──Rights::new(documents, facts)──▶ Rights ──allows──▶ bool
//!                                                                          └──decide──▶ Decision
//! ```
//!
//! Nothing that a decision depends on changes while a client is connected but the topic, so
//! everything else (variables, conditions, region, account) is settled once, when [`Rights`] are
//! made. [`Rights::allows`] then only compares bytes and allocates nothing.
//!
//! Invariants
//! * An explicit Deny wins; what no statement allows is refused.
//! * The value of a variable stands for itself: a client called `*` widens nothing. Nor does one
//!   called `+`: what allows a subscription takes no `+` or `#` from a variable. That is stricter
//!   than a comparison of texts, which would give such a client everybody's topics.
//! * A resource with a variable that has no value, or an empty one, matches nothing, in Allow and
//!   in Deny; as does a `NotResource` list that holds one, and a condition compared with one.
//! * `*` matches any run of characters, `/` too, `?` one character; `+` and `#` are themselves.
//!   Neither crosses the colons between the first five parts of an ARN.
//! * A document that cannot be read refuses everything: it may have held a Deny.

mod condition;
mod document;
mod explain;
mod facts;
mod pattern;
mod rights;

#[cfg(test)]
mod tests;

pub use document::Document;
pub use explain::{Decision, NearMiss, StatementRef, Verdict};
pub use facts::{Facts, ThingFacts};
pub use rights::{Rights, Source};

/// Longest document without its white space, AWS's bound.
pub const DOCUMENT_CHARS_MAX: usize = 2_048;

/// What a device may want to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Connect under a client id.
    Connect,
    /// Publish to a topic.
    Publish,
    /// Have a message retained.
    RetainPublish,
    /// Subscribe to a topic filter.
    Subscribe,
    /// Be sent a message.
    Receive,
    /// Read a retained message.
    GetRetainedMessage,
    /// List the retained messages.
    ListRetainedMessages,
}

impl Action {
    pub(crate) const ALL: [Action; 7] = [
        Action::Connect,
        Action::Publish,
        Action::RetainPublish,
        Action::Subscribe,
        Action::Receive,
        Action::GetRetainedMessage,
        Action::ListRetainedMessages,
    ];

    /// Its name in a policy.
    pub fn name(self) -> &'static str {
        match self {
            Action::Connect => "iot:Connect",
            Action::Publish => "iot:Publish",
            Action::RetainPublish => "iot:RetainPublish",
            Action::Subscribe => "iot:Subscribe",
            Action::Receive => "iot:Receive",
            Action::GetRetainedMessage => "iot:GetRetainedMessage",
            Action::ListRetainedMessages => "iot:ListRetainedMessages",
        }
    }

    /// What stands before the name in the last part of the ARN.
    pub(crate) fn resource_type(self) -> &'static str {
        match self {
            Action::Connect => "client/",
            Action::Subscribe => "topicfilter/",
            Action::ListRetainedMessages => "",
            _ => "topic/",
        }
    }
}

/// Whether a request is permitted by `sources`, and why: [`Rights::decide`] for one question.
pub fn evaluate(sources: &[Source], facts: &Facts<'_>, action: Action, name: &str) -> Decision {
    Rights::new(sources, facts).decide(action, name)
}
