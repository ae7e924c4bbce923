//! Rules: IoT SQL over messages, and which rule was in force at which offset.
//!
//! ```text
//! record@offset --> RuleBook: which rules, in which version? --> Sql: Pass | NoMatch | Failed
//! ```
//!
//! * [`Sql`] reads a statement once and evaluates it: total, bounded, and a pure function of
//!   the record, its offset, the rule's version and the log's id.
//! * [`RuleBook`] keeps the rules as rows whose versions each take effect from an offset, so
//!   that an edit does not change what a replay makes of older records.
//!
//! This room does not know who acts on a rule; it names the stream, delivery fills it.

pub mod base64;
mod book;
pub mod json;
mod rule;
pub mod sql;
mod target;
pub mod value;

pub use book::{InForce, RuleBook, View, without_basic_ingest};
pub use rule::{Action, NewRule, Republishing, RuleRow, RuleState, RuleVersion};
pub use sql::{Context, Evaluated, Sql, Template, Term};
pub use target::{ErrorAction, ErrorTarget, Filled, Headers, Put, PutTarget, Republish, Target};
