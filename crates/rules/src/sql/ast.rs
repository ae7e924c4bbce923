//! What a statement is once it has been read.

use base::TopicFilter;
use regex::Regex;

use crate::sql::functions::Function;
use crate::sql::time::TimePattern;
use crate::value::Value;

/// The statement of a rule.
#[derive(Debug)]
pub(crate) struct Statement {
    /// What SET sets, with the names, in order; each may use those before it.
    pub(crate) variables: Vec<(String, Expr)>,
    /// Without FROM it is for basic ingest only.
    pub(crate) select: Select<Option<TopicFilter>>,
}

/// A SELECT, the statement's own or a nested one.
#[derive(Debug)]
pub(crate) struct Select<F> {
    /// `SELECT VALUE`: the result is the one item itself, not an object of items.
    pub(crate) value: bool,
    pub(crate) items: Vec<Item>,
    pub(crate) from: F,
    pub(crate) filter: Option<Expr>,
}

/// `(SELECT ... FROM arrayOrObject ...)`: its source is a path.
pub(crate) type Nested = Select<Expr>;

/// One item of a SELECT list.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) expr: Expr,
    /// Where the result goes in the output; empty for `*`, whose members are merged.
    pub(crate) path: Vec<String>,
}

/// An expression.
#[derive(Debug)]
pub(crate) enum Expr {
    Literal(Value),
    /// What SET set, by its place there and its name.
    Variable(usize, String),
    /// The payload, or within a nested SELECT the element.
    Star,
    /// `a.b.c` from the payload or element.
    Path(Vec<String>),
    /// `.b.c` of a computed value.
    Member(Box<Expr>, Vec<String>),
    Not(Box<Expr>),
    Negate(Box<Expr>),
    /// All of them: one node however long the chain, so that depth stays bounded.
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Compare(Compare, Box<Expr>, Box<Expr>),
    /// `a + b - c`, or `a * b / c`: a first operand and what is done to it, in order.
    Arithmetic(Box<Expr>, Vec<(Arithmetic, Expr)>),
    In(Box<Expr>, Box<Expr>),
    Exists(Box<Expr>),
    Case {
        subject: Box<Expr>,
        arms: Vec<(Expr, Expr)>,
        otherwise: Option<Box<Expr>>,
    },
    Cast(Box<Expr>, Cast),
    /// `encode(*, 'base64')`: the payload's bytes, JSON or not.
    EncodePayload,
    Call {
        function: &'static Function,
        args: Vec<Expr>,
        prepared: Prepared,
    },
    Array(Vec<Expr>),
    Object(Vec<(String, Expr)>),
    Select(Box<Nested>),
}

/// What could be worked out from constant arguments when the rule was made.
#[derive(Debug)]
pub(crate) enum Prepared {
    Nothing,
    Regex(Regex),
    Time(TimePattern),
}

/// A comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// An arithmetic operator; `Add` also joins text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

/// The target of a `cast`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cast {
    String,
    Int,
    Decimal,
    Bool,
}

impl Expr {
    /// Whether evaluating this looks at the payload as JSON. Nested statements look at
    /// elements, so their source decides.
    pub(crate) fn reads_json(&self) -> bool {
        match self {
            Expr::Star | Expr::Path(_) => true,
            // A variable was worked out before.
            Expr::Literal(_) | Expr::EncodePayload | Expr::Variable(..) => false,
            Expr::Member(inner, _)
            | Expr::Not(inner)
            | Expr::Negate(inner)
            | Expr::Exists(inner)
            | Expr::Cast(inner, _) => inner.reads_json(),
            Expr::And(all) | Expr::Or(all) | Expr::Array(all) => all.iter().any(Expr::reads_json),
            Expr::Compare(_, a, b) | Expr::In(a, b) => a.reads_json() || b.reads_json(),
            Expr::Arithmetic(first, rest) => {
                first.reads_json() || rest.iter().any(|(_, expr)| expr.reads_json())
            }
            Expr::Case { subject, arms, otherwise } => {
                subject.reads_json()
                    || arms.iter().any(|(when, then)| when.reads_json() || then.reads_json())
                    || otherwise.as_ref().is_some_and(|expr| expr.reads_json())
            }
            Expr::Call { args, .. } => args.iter().any(Expr::reads_json),
            Expr::Object(members) => members.iter().any(|(_, expr)| expr.reads_json()),
            Expr::Select(nested) => nested.from.reads_json(),
        }
    }
}
