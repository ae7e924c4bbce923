//! IoT SQL: a statement is read once, when a rule is made, and evaluated for every message that
//! its topic filter selects.
//!
//! What AWS leaves to chance or to a clock is derived from the record, see
//! [`Context`]; what its 34-digit decimals do is done with doubles and 128-bit integers.

mod ast;
mod eval;
mod explain;
mod functions;
mod lex;
mod parse;
mod template;
mod time;

use base::{MessageRef, Offset, Result, TopicFilter};
use bytes::Bytes;

pub use explain::Term;
pub use functions::{names as function_names, trace_id_of as trace_id};
pub use template::Template;
pub use time::{TimePattern, Zone};

use crate::json;
use crate::value::Value;
use ast::{Expr, Statement};
use eval::{Env, Evaluation};

/// A statement that has been read and checked.
#[derive(Debug)]
pub struct Sql {
    text: String,
    statement: Statement,
    /// The whole list is `*`: the payload passes as it is.
    passes: bool,
    /// SET or WHERE does.
    filter_reads_json: bool,
    list_reads_json: bool,
}

/// Where a record stands and which rule looks at it. Evaluation is a function of this and of
/// the record alone, so that a replay makes the same bytes.
#[derive(Clone, Copy, Debug)]
pub struct Context<'c> {
    /// The record's offset.
    pub offset: Offset,
    /// The log's id.
    pub log_id: &'c str,
    /// The rule's name.
    pub rule_name: &'c str,
    /// The version of the rule in force at the offset.
    pub rule_version: u64,
    /// The account, for `accountid()`.
    pub account_id: &'c str,
    /// The properties of MQTT 5 that came with the message, as they stand in its record.
    pub properties: &'c [u8],
    /// The address of the device that sent it.
    pub source: Option<std::net::IpAddr>,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evaluated {
    /// The output, to be handed to the rule's actions.
    Pass(Bytes),
    /// WHERE was not true.
    NoMatch,
    /// The message could not be evaluated; it belongs in the error prefix with this reason.
    Failed {
        /// Why, for people.
        reason: String,
    },
}

impl Sql {
    /// Reads a statement. The error names line, column and the offending word.
    pub fn parse(text: &str) -> Result<Sql> {
        let statement = parse::statement(text)?;
        let reads_json = |expr: &Expr| expr.reads_json();
        let select = &statement.select;
        let passes = matches!(
            select.items.as_slice(),
            [ast::Item { expr: Expr::Star, path }] if path.is_empty()
        );
        Ok(Sql {
            text: text.to_owned(),
            passes,
            filter_reads_json: select.filter.as_ref().is_some_and(reads_json)
                || statement.variables.iter().any(|(_, expr)| reads_json(expr)),
            list_reads_json: select.items.iter().any(|item| reads_json(&item.expr)),
            statement,
        })
    }

    /// The statement as it was given.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The topics of FROM. Without FROM the rule is for basic ingest only.
    pub fn topic_filter(&self) -> Option<&TopicFilter> {
        self.statement.select.from.as_ref()
    }

    /// Evaluates a message that the topic filter selects.
    ///
    /// A statement that looks at the payload needs it to be JSON; one that does not, such as
    /// `SELECT encode(*, 'base64') AS data`, takes any bytes. `SELECT *` passes valid JSON as
    /// it is, to the byte.
    pub fn evaluate(&self, message: &MessageRef<'_>, context: &Context<'_>) -> Evaluated {
        match self.run(message, context) {
            Ok(Some(output)) => Evaluated::Pass(output),
            Ok(None) => Evaluated::NoMatch,
            Err(failure) => Evaluated::Failed { reason: failure.reason() },
        }
    }

    /// The terms of WHERE that kept a message from matching; none where it was not WHERE.
    pub fn blame(&self, message: &MessageRef<'_>, context: &Context<'_>) -> Vec<Term> {
        let Some(filter) = &self.statement.select.filter else { return Vec::new() };
        let root = if self.filter_reads_json {
            json::parse(message.payload)
        } else {
            Ok(Value::Undefined)
        };
        let Ok(root) = root else { return Vec::new() };
        let mut env = Env::new(message, context);
        match env.set(&self.statement.variables, &root) {
            Ok(()) => explain::blame(&env, filter, &root),
            Err(_failed) => Vec::new(),
        }
    }

    fn run(&self, message: &MessageRef<'_>, context: &Context<'_>) -> Evaluation<Option<Bytes>> {
        let mut env = Env::new(message, context);
        let select = &self.statement.select;
        let not_json = |why: String| eval::Failure::new(format!("the payload is not JSON: {why}"));
        let mut root = Value::Undefined;
        if self.filter_reads_json {
            root = json::parse(message.payload).map_err(not_json)?;
        }
        env.set(&self.statement.variables, &root)?;
        if !eval::selects(&env, select.filter.as_ref(), &root)? {
            return Ok(None);
        }
        if self.passes {
            if !self.filter_reads_json {
                json::check(message.payload).map_err(not_json)?;
            }
            return Ok(Some(Bytes::copy_from_slice(message.payload)));
        }
        if self.list_reads_json && !self.filter_reads_json {
            root = json::parse(message.payload).map_err(not_json)?;
        }
        let output = eval::select(&env, select.value, &select.items, &root)?;
        if output == Value::Undefined {
            return Err(eval::Failure::new("SELECT VALUE gave no value for this message"));
        }
        let mut json = String::new();
        output.write_json(&mut json);
        Ok(Some(Bytes::from(json)))
    }
}
