//! Why WHERE was not true: the terms that decided, as one would write them, with what they saw.

use std::fmt::{self, Display, Formatter};

use serde::Serialize;

use crate::sql::ast::{Arithmetic, Cast, Compare, Expr, Item, Nested};
use crate::sql::eval::{Env, eval};
use crate::value::Value;

/// Longest text of a value that is shown.
const SHOWN_CHARS_MAX: usize = 200;

/// A term of WHERE that was not true.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Term {
    /// The term.
    pub term: String,
    /// What it was: `false`, or why it has no truth value.
    pub value: String,
    /// What it looked at, and what was there.
    pub saw: Vec<(String, String)>,
}

/// The terms that kept `filter` from being true.
pub(crate) fn blame(env: &Env<'_>, filter: &Expr, root: &Value) -> Vec<Term> {
    let mut terms = Vec::new();
    collect(env, filter, root, &mut terms);
    terms
}

fn collect(env: &Env<'_>, expr: &Expr, root: &Value, terms: &mut Vec<Term>) {
    let is_true =
        |expr: &Expr| eval(env, expr, root).is_ok_and(|value| value.to_bool() == Some(true));
    match expr {
        // Of AND those that are not true, of OR, which is not true, all.
        Expr::And(all) => {
            for expr in all.iter().filter(|expr| !is_true(expr)) {
                collect(env, expr, root, terms);
            }
        }
        Expr::Or(all) => all.iter().for_each(|expr| collect(env, expr, root, terms)),
        expr => {
            let mut saw = Vec::new();
            looked_at(env, expr, root, &mut saw);
            let value = match eval(env, expr, root) {
                Ok(value) => match value.to_bool() {
                    Some(bool) => bool.to_string(),
                    None => format!("{}, which is no truth value", shown(&value)),
                },
                Err(failure) => failure.reason(),
            };
            terms.push(Term { term: expr.to_string(), value, saw });
        }
    }
}

/// The values of what is not written in the term itself.
fn looked_at(env: &Env<'_>, expr: &Expr, root: &Value, saw: &mut Vec<(String, String)>) {
    match expr {
        Expr::Literal(_) => {}
        Expr::Not(inner) | Expr::Negate(inner) | Expr::Exists(inner) => {
            looked_at(env, inner, root, saw);
        }
        Expr::And(all) | Expr::Or(all) => {
            all.iter().for_each(|expr| looked_at(env, expr, root, saw));
        }
        Expr::Compare(_, a, b) | Expr::In(a, b) => {
            looked_at(env, a, root, saw);
            looked_at(env, b, root, saw);
        }
        Expr::Array(all) if all.iter().all(|item| matches!(item, Expr::Literal(_))) => {}
        expr => {
            let name = expr.to_string();
            let value = match eval(env, expr, root) {
                Ok(value) => format!("{} ({})", shown(&value), value.kind()),
                Err(failure) => failure.reason(),
            };
            if !saw.iter().any(|(seen, _)| *seen == name) {
                saw.push((name, value));
            }
        }
    }
}

fn shown(value: &Value) -> String {
    if *value == Value::Undefined {
        return "undefined".to_owned();
    }
    let mut json = String::new();
    value.write_json(&mut json);
    match json.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &json[..end]),
        None => json,
    }
}

/// As one would write it; parentheses stand wherever an operand is no single word.
impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Expr::Literal(Value::String(text)) => write!(f, "'{}'", text.replace('\'', "''")),
            Expr::Literal(value) => f.write_str(&shown(value)),
            Expr::Variable(_, name) => write!(f, "@{name}"),
            Expr::Star => f.write_str("*"),
            Expr::Path(names) => f.write_str(&names.join(".")),
            Expr::Member(inner, names) => write!(f, "{}.{}", Operand(inner), names.join(".")),
            Expr::Not(inner) => write!(f, "NOT {}", Operand(inner)),
            Expr::Negate(inner) => write!(f, "-{}", Operand(inner)),
            Expr::And(all) => joined(f, all.iter().map(Operand), " AND "),
            Expr::Or(all) => joined(f, all.iter().map(Operand), " OR "),
            Expr::Compare(op, a, b) => write!(f, "{} {} {}", Operand(a), op.sign(), Operand(b)),
            Expr::Arithmetic(first, rest) => {
                write!(f, "{}", Operand(first))?;
                rest.iter().try_for_each(|(op, expr)| write!(f, " {} {}", op.sign(), Operand(expr)))
            }
            Expr::In(item, list) => write!(f, "{} IN {}", Operand(item), Operand(list)),
            Expr::Exists(inner) => write!(f, "EXISTS {}", Operand(inner)),
            Expr::Case { subject, arms, otherwise } => {
                write!(f, "CASE {}", Operand(subject))?;
                for (when, then) in arms {
                    write!(f, " WHEN {} THEN {}", Operand(when), Operand(then))?;
                }
                if let Some(expr) = otherwise {
                    write!(f, " ELSE {}", Operand(expr))?;
                }
                f.write_str(" END")
            }
            Expr::Cast(inner, cast) => write!(f, "cast({inner} AS {})", cast.name()),
            Expr::EncodePayload => f.write_str("encode(*, 'base64')"),
            Expr::Call { function, args, .. } => {
                write!(f, "{}(", function.name)?;
                joined(f, args.iter(), ", ")?;
                f.write_str(")")
            }
            Expr::Array(all) => {
                f.write_str("[")?;
                joined(f, all.iter(), ", ")?;
                f.write_str("]")
            }
            Expr::Object(members) => {
                f.write_str("{")?;
                for (index, (key, expr)) in members.iter().enumerate() {
                    write!(f, "{}'{key}': {expr}", if index > 0 { ", " } else { "" })?;
                }
                f.write_str("}")
            }
            Expr::Select(nested) => write!(f, "({nested})"),
        }
    }
}

impl Display for Nested {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(if self.value { "SELECT VALUE " } else { "SELECT " })?;
        joined(f, self.items.iter(), ", ")?;
        write!(f, " FROM {}", self.from)?;
        self.filter.as_ref().map_or(Ok(()), |filter| write!(f, " WHERE {filter}"))
    }
}

impl Display for Item {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.expr {
            Expr::Path(names) if *names == self.path => write!(f, "{}", self.expr),
            expr if self.path.is_empty() => write!(f, "{expr}"),
            expr => write!(f, "{expr} AS {}", self.path.join(".")),
        }
    }
}

/// An operand of something else.
struct Operand<'e>(&'e Expr);

impl Display for Operand<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            Expr::Not(_)
            | Expr::And(_)
            | Expr::Or(_)
            | Expr::Compare(..)
            | Expr::Arithmetic(..)
            | Expr::In(..)
            | Expr::Exists(_) => write!(f, "({})", self.0),
            expr => write!(f, "{expr}"),
        }
    }
}

fn joined(
    f: &mut Formatter<'_>,
    all: impl Iterator<Item = impl Display>,
    between: &str,
) -> fmt::Result {
    for (index, one) in all.enumerate() {
        write!(f, "{}{one}", if index > 0 { between } else { "" })?;
    }
    Ok(())
}

impl Compare {
    fn sign(self) -> &'static str {
        match self {
            Compare::Equal => "=",
            Compare::NotEqual => "<>",
            Compare::Less => "<",
            Compare::LessOrEqual => "<=",
            Compare::Greater => ">",
            Compare::GreaterOrEqual => ">=",
        }
    }
}

impl Arithmetic {
    fn sign(self) -> &'static str {
        match self {
            Arithmetic::Add => "+",
            Arithmetic::Subtract => "-",
            Arithmetic::Multiply => "*",
            Arithmetic::Divide => "/",
            Arithmetic::Modulo => "%",
        }
    }
}

impl Cast {
    fn name(self) -> &'static str {
        match self {
            Cast::String => "String",
            Cast::Int => "Int",
            Cast::Decimal => "Decimal",
            Cast::Bool => "Boolean",
        }
    }
}
