//! Substitution templates: `plant/${topic(2)}/copy` in the fields of actions.
//!
//! An expression between `${` and `}` is worked out on the message as it came, not on the rule's
//! output; it may use the variables that SET has set. `$$` stands for one `$`.

use base::{Error, MessageRef, Result};

use crate::json;
use crate::sql::ast::Expr;
use crate::sql::eval::{self, Env};
use crate::sql::{Context, Sql, parse};
use crate::value::Value;

/// A field that has been read.
#[derive(Debug)]
pub struct Template {
    parts: Vec<Part>,
    reads_json: bool,
}

#[derive(Debug)]
enum Part {
    Text(String),
    /// With its text, for people.
    Expr(Expr, String),
}

impl Template {
    /// Reads a field of an action of the rule whose statement is `sql`.
    pub fn parse(text: &str, sql: &Sql) -> Result<Template> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            let (before, after) = (&rest[..at], &rest[at + 1..]);
            plain.push_str(before);
            if let Some(escaped) = after.strip_prefix('$') {
                plain.push('$');
                rest = escaped;
                continue;
            }
            let Some(inner) = after.strip_prefix('{') else {
                plain.push('$');
                rest = after;
                continue;
            };
            let end = end_of(inner).ok_or_else(|| {
                Error::invalid(format!(
                    "the substitution template in {text:?} does not end with }}"
                ))
            })?;
            let expr = parse::expression(&inner[..end], &sql.statement)
                .map_err(|error| error.context(format!("the substitution template in {text:?}")))?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Expr(expr, inner[..end].to_owned()));
            rest = &inner[end + 1..];
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        let reads_json = parts.iter().any(|part| match part {
            Part::Text(_) => false,
            Part::Expr(expr, _) => expr.reads_json(),
        });
        Ok(Template { parts, reads_json })
    }

    /// The text, if it is the same for every message.
    pub fn constant(&self) -> Option<&str> {
        match self.parts.as_slice() {
            [] => Some(""),
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text for a message; the error says for people why there is none.
    pub fn fill(
        &self,
        sql: &Sql,
        message: &MessageRef<'_>,
        context: &Context<'_>,
    ) -> std::result::Result<String, String> {
        if let Some(constant) = self.constant() {
            return Ok(constant.to_owned());
        }
        let mut env = Env::new(message, context);
        let set = &sql.statement.variables;
        let reads_json = self.reads_json || set.iter().any(|(_, expr)| expr.reads_json());
        let root = match reads_json {
            true => json::parse(message.payload)
                .map_err(|why| format!("the payload is not JSON: {why}"))?,
            false => Value::Undefined,
        };
        env.set(set, &root).map_err(eval::Failure::reason)?;
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Expr(expr, source) => {
                    let value = eval::eval(&env, expr, &root).map_err(eval::Failure::reason)?;
                    match value.to_text() {
                        Some(value) => text.push_str(&value),
                        None => return Err(format!("${{{source}}} has no value")),
                    }
                }
            }
            env.expect_text_bytes(text.len()).map_err(eval::Failure::reason)?;
        }
        Ok(text)
    }
}

/// Where the brace that closes an expression stands: braces of objects and those within quotes
/// do not count.
fn end_of(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0_usize, None);
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '{') => depth += 1,
            (None, '}') if depth == 0 => return Some(at),
            (None, '}') => depth -= 1,
            (None, _) => {}
        }
    }
    None
}
