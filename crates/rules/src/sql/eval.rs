//! Evaluates a statement over one message.
//!
//! Total: every input has a result, Undefined where IoT SQL has none. The only failures are a
//! payload that cannot be read and the bounds below, and they carry a reason.
//!
//! Invariants
//! * Pure: the same message, offset, rule version and log give the same bytes.
//! * Bounded: an evaluation takes at most [`STEPS_MAX`] steps and makes no text longer than
//!   [`TEXT_BYTES_MAX`]; copies and texts are paid for in steps, which bounds memory as well.

use std::borrow::Cow;
use std::cell::Cell;
use std::cmp::Ordering;

use base::MessageRef;

use crate::base64;
use crate::sql::Context;
use crate::sql::ast::{Arithmetic, Cast, Compare, Expr, Item, Nested};
use crate::sql::functions::{Call, remainder};
use crate::value::{Number, Object, Value};

/// Most steps of one evaluation. The worst statements we could think of took 5 to 45 ms to get
/// there, and a quarter of a second where each step compiled a pattern from the message.
pub(crate) const STEPS_MAX: usize = 1_000_000;

/// Longest text an expression may make.
pub(crate) const TEXT_BYTES_MAX: usize = 1024 * 1024;

/// Why an evaluation gave up.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(reason: impl Into<String>) -> Failure {
        Failure(reason.into())
    }

    pub(crate) fn reason(self) -> String {
        self.0
    }
}

/// The result of a step.
pub(crate) type Evaluation<T> = Result<T, Failure>;

/// What an evaluation can look at, and what it has spent.
#[derive(Debug)]
pub(crate) struct Env<'m> {
    pub(crate) message: &'m MessageRef<'m>,
    pub(crate) context: &'m Context<'m>,
    steps: Cell<usize>,
    draws: Cell<u64>,
    /// What SET set.
    variables: Vec<Value>,
}

impl<'m> Env<'m> {
    pub(crate) fn new(message: &'m MessageRef<'m>, context: &'m Context<'m>) -> Env<'m> {
        let (steps, draws) = (Cell::new(0), Cell::new(0));
        Env { message, context, steps, draws, variables: Vec::new() }
    }

    /// Works out the variables of a statement over `root`.
    pub(crate) fn set(&mut self, variables: &[(String, Expr)], root: &Value) -> Evaluation<()> {
        for (_, expr) in variables {
            let value = {
                let result = eval(self, expr, root)?;
                self.own(result)?
            };
            self.variables.push(value);
        }
        Ok(())
    }

    /// Pays for `steps` steps.
    pub(crate) fn spend(&self, steps: usize) -> Evaluation<()> {
        let spent = self.steps.get().saturating_add(steps);
        self.steps.set(spent);
        if spent > STEPS_MAX {
            return Err(Failure(format!("the statement took more than {STEPS_MAX} steps")));
        }
        Ok(())
    }

    /// Pays for looking at or making `bytes` bytes of text.
    pub(crate) fn spend_bytes(&self, bytes: usize) -> Evaluation<()> {
        self.spend(bytes / 64)
    }

    /// Refuses a text that would be too long.
    pub(crate) fn expect_text_bytes(&self, bytes: usize) -> Evaluation<()> {
        if bytes > TEXT_BYTES_MAX {
            return Err(Failure(format!("the statement made a text over {TEXT_BYTES_MAX} bytes")));
        }
        Ok(())
    }

    /// A text that was made.
    pub(crate) fn text(&self, text: String) -> Evaluation<Value> {
        self.expect_text_bytes(text.len())?;
        self.spend_bytes(text.len())?;
        Ok(Value::String(text))
    }

    /// A paid copy.
    pub(crate) fn copy(&self, value: &Value) -> Evaluation<Value> {
        self.spend(value.node_count())?;
        Ok(value.clone())
    }

    /// Counts the calls that draw from the record's identity.
    pub(crate) fn next_draw(&self) -> u64 {
        self.draws.replace(self.draws.get() + 1)
    }

    fn own(&self, value: Cow<'_, Value>) -> Evaluation<Value> {
        match value {
            Cow::Owned(value) => Ok(value),
            Cow::Borrowed(value) => self.copy(value),
        }
    }
}

/// The output of a SELECT list over `root`.
pub(crate) fn select(
    env: &Env<'_>,
    value: bool,
    items: &[Item],
    root: &Value,
) -> Evaluation<Value> {
    if value {
        // The parser allows exactly one item after VALUE.
        return items.first().map_or(Ok(Value::Undefined), |item| {
            let result = eval(env, &item.expr, root)?;
            env.own(result)
        });
    }
    let mut output = Object::default();
    for item in items {
        let result = eval(env, &item.expr, root)?;
        if item.path.is_empty() {
            merge(env, &mut output, &result)?;
        } else {
            put(env, &mut output, &item.path, env.own(result)?)?;
        }
    }
    Ok(Value::Object(output))
}

/// Whether `filter` selects `root`: only if it is true.
pub(crate) fn selects(env: &Env<'_>, filter: Option<&Expr>, root: &Value) -> Evaluation<bool> {
    match filter {
        None => Ok(true),
        Some(filter) => Ok(eval(env, filter, root)?.to_bool() == Some(true)),
    }
}

/// Adds the members of `*` to the output.
fn merge(env: &Env<'_>, output: &mut Object, star: &Value) -> Evaluation<()> {
    let Value::Object(members) = star else {
        return Err(Failure(format!(
            "SELECT * with other items needs an object, the payload is {}",
            star.kind()
        )));
    };
    if output.is_empty() {
        env.spend(star.node_count())?;
        *output = members.clone();
        return Ok(());
    }
    for (key, value) in members.iter() {
        env.spend(output.len())?;
        output.insert(key, env.copy(value)?);
    }
    Ok(())
}

/// Puts `value` at `path`, making the objects on the way.
fn put(env: &Env<'_>, output: &mut Object, path: &[String], value: Value) -> Evaluation<()> {
    let Some((last, parents)) = path.split_last() else {
        return Ok(());
    };
    if value == Value::Undefined {
        return Ok(());
    }
    env.spend(output.len())?;
    let mut inside = output;
    for parent in parents {
        let slot = inside.entry(parent);
        if *slot == Value::Undefined {
            *slot = Value::Object(Object::default());
        }
        let kind = slot.kind();
        let Value::Object(object) = slot else {
            return Err(Failure(format!(
                "cannot write {:?}: {parent:?} is already {kind}",
                path.join(".")
            )));
        };
        inside = object;
    }
    inside.insert(last, value);
    Ok(())
}

/// The value of `expr` where `*` is `root`.
pub(crate) fn eval<'v>(
    env: &'v Env<'_>,
    expr: &'v Expr,
    root: &'v Value,
) -> Evaluation<Cow<'v, Value>> {
    env.spend(1)?;
    let truth = |bool: Option<bool>| bool.map_or(Value::Undefined, Value::Bool);
    let computed = match expr {
        Expr::Literal(value) => return Ok(Cow::Borrowed(value)),
        Expr::Variable(index, _) => {
            return Ok(Cow::Borrowed(env.variables.get(*index).unwrap_or(&Value::Undefined)));
        }
        Expr::Star => return Ok(Cow::Borrowed(root)),
        Expr::Path(names) => return walk(env, root, names).map(Cow::Borrowed),
        Expr::Member(inner, names) => match eval(env, inner, root)? {
            Cow::Borrowed(value) => return walk(env, value, names).map(Cow::Borrowed),
            Cow::Owned(value) => env.copy(walk(env, &value, names)?)?,
        },
        Expr::Not(inner) => truth(eval(env, inner, root)?.to_bool().map(|bool| !bool)),
        Expr::Negate(inner) => match eval(env, inner, root)?.to_number() {
            None => Value::Undefined,
            Some(Number::Int(int)) => {
                int.checked_neg().map_or_else(|| Value::decimal(-(int as f64)), Value::Int)
            }
            Some(Number::Decimal(decimal)) => Value::decimal(-decimal),
        },
        Expr::And(all) => truth(fold(env, all, root, true, |a, b| a && b)?),
        Expr::Or(all) => truth(fold(env, all, root, false, |a, b| a || b)?),
        Expr::Compare(op, a, b) => {
            let (a, b) = (eval(env, a, root)?, eval(env, b, root)?);
            truth(compare(env, *op, &a, &b)?)
        }
        Expr::Arithmetic(first, rest) => arithmetic(env, first, rest, root)?,
        Expr::In(item, list) => {
            let (item, list) = (eval(env, item, root)?, eval(env, list, root)?);
            truth(is_in(env, &item, &list)?)
        }
        Expr::Exists(inner) => match eval(env, inner, root)?.as_ref() {
            Value::Array(items) => Value::Bool(!items.is_empty()),
            Value::Object(object) => Value::Bool(!object.is_empty()),
            _ => Value::Bool(false),
        },
        Expr::Case { subject, arms, otherwise } => {
            return case(env, subject, arms, otherwise.as_deref(), root);
        }
        Expr::Cast(inner, cast) => {
            let value = eval(env, inner, root)?;
            convert(env, &value, *cast)?
        }
        Expr::EncodePayload => {
            env.expect_text_bytes(env.message.payload.len().saturating_mul(4) / 3)?;
            env.text(base64::encode(env.message.payload))?
        }
        Expr::Call { function, args, prepared } => {
            let args: Vec<_> =
                args.iter().map(|arg| eval(env, arg, root)).collect::<Result<_, _>>()?;
            (function.run)(&Call { env, args: &args, prepared })?
        }
        Expr::Array(all) => {
            let mut items = Vec::with_capacity(all.len());
            for expr in all {
                let item = env.own(eval(env, expr, root)?)?;
                if item != Value::Undefined {
                    items.push(item);
                }
            }
            Value::Array(items)
        }
        Expr::Object(members) => {
            let mut object = Object::default();
            for (key, expr) in members {
                object.insert(key, env.own(eval(env, expr, root)?)?);
            }
            Value::Object(object)
        }
        Expr::Select(select) => nested(env, select, root)?,
    };
    Ok(Cow::Owned(computed))
}

fn walk<'v>(env: &Env<'_>, root: &'v Value, names: &[String]) -> Evaluation<&'v Value> {
    let mut at = root;
    for name in names {
        if let Value::Object(object) = at {
            env.spend(object.len() / 16)?;
        }
        at = at.member(name).unwrap_or(&Value::Undefined);
    }
    Ok(at)
}

/// AND or OR. IoT SQL knows no third truth value: one operand that is not boolean makes the
/// whole undefined, also where the others would decide.
fn fold(
    env: &Env<'_>,
    all: &[Expr],
    root: &Value,
    start: bool,
    join: fn(bool, bool) -> bool,
) -> Evaluation<Option<bool>> {
    let mut joined = Some(start);
    for expr in all {
        let operand = eval(env, expr, root)?.to_bool();
        joined = joined.zip(operand).map(|(a, b)| join(a, b));
    }
    Ok(joined)
}

fn arithmetic(
    env: &Env<'_>,
    first: &Expr,
    rest: &[(Arithmetic, Expr)],
    root: &Value,
) -> Evaluation<Value> {
    let mut total = eval(env, first, root)?;
    for (op, expr) in rest {
        let operand = eval(env, expr, root)?;
        total = Cow::Owned(apply(env, *op, &total, &operand)?);
    }
    env.own(total)
}

fn apply(env: &Env<'_>, op: Arithmetic, a: &Value, b: &Value) -> Evaluation<Value> {
    let is_text = |value: &Value| matches!(value, Value::String(_));
    if op == Arithmetic::Add && (is_text(a) || is_text(b)) {
        let (Some(a), Some(b)) = (a.to_text(), b.to_text()) else {
            return Ok(Value::Undefined);
        };
        env.expect_text_bytes(a.len() + b.len())?;
        return env.text(format!("{a}{b}"));
    }
    let (Some(a), Some(b)) = (a.to_number(), b.to_number()) else {
        return Ok(Value::Undefined);
    };
    if let (Number::Int(a), Number::Int(b)) = (a, b) {
        let exact = match op {
            Arithmetic::Add => a.checked_add(b),
            Arithmetic::Subtract => a.checked_sub(b),
            Arithmetic::Multiply => a.checked_mul(b),
            Arithmetic::Divide if b != 0 && a.checked_rem(b) == Some(0) => a.checked_div(b),
            Arithmetic::Divide | Arithmetic::Modulo => None,
        };
        if let Some(exact) = exact {
            return Ok(Value::Int(exact));
        }
    }
    let (x, y) = (a.as_f64(), b.as_f64());
    Ok(match op {
        Arithmetic::Add => Value::decimal(x + y),
        Arithmetic::Subtract => Value::decimal(x - y),
        Arithmetic::Multiply => Value::decimal(x * y),
        Arithmetic::Divide => Value::decimal(x / y),
        Arithmetic::Modulo => remainder(a, b),
    })
}

/// `None` where the operands cannot be compared.
fn compare(env: &Env<'_>, op: Compare, a: &Value, b: &Value) -> Evaluation<Option<bool>> {
    env.spend(match (a, b) {
        (Value::String(a), Value::String(b)) => a.len().min(b.len()) / 64,
        (Value::Array(_), Value::Array(_)) | (Value::Object(_), Value::Object(_)) => {
            a.node_count().saturating_add(b.node_count())
        }
        _ => 0,
    })?;
    Ok(match op {
        Compare::Equal => equal(a, b),
        Compare::NotEqual => equal(a, b).map(|equal| !equal),
        Compare::Less => order(a, b).map(Ordering::is_lt),
        Compare::LessOrEqual => order(a, b).map(Ordering::is_le),
        Compare::Greater => order(a, b).map(Ordering::is_gt),
        Compare::GreaterOrEqual => order(a, b).map(Ordering::is_ge),
    })
}

/// Values of one type compare as they are. A number and a text compare as numbers, a boolean
/// and a text as booleans, if the text converts.
fn equal(a: &Value, b: &Value) -> Option<bool> {
    match (a, b) {
        (Value::Undefined, _) | (_, Value::Undefined) => None,
        (Value::String(_), other) | (other, Value::String(_)) if other.is_number() => {
            Some(compare_numbers(a.to_number()?, b.to_number()?)?.is_eq())
        }
        (Value::String(_), Value::Bool(_)) | (Value::Bool(_), Value::String(_)) => {
            Some(a.to_bool()? == b.to_bool()?)
        }
        _ if a.is_number() && b.is_number() => {
            Some(compare_numbers(a.to_number()?, b.to_number()?)?.is_eq())
        }
        _ if std::mem::discriminant(a) == std::mem::discriminant(b) => Some(a == b),
        _ => None,
    }
}

/// Numbers, and texts that read as numbers, compare as numbers; other texts as text.
fn order(a: &Value, b: &Value) -> Option<Ordering> {
    match (a.to_number(), b.to_number(), a, b) {
        (Some(a), Some(b), _, _) => compare_numbers(a, b),
        (_, _, Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

fn compare_numbers(a: Number, b: Number) -> Option<Ordering> {
    match (a, b) {
        (Number::Int(a), Number::Int(b)) => Some(a.cmp(&b)),
        (a, b) => a.as_f64().partial_cmp(&b.as_f64()),
    }
}

fn is_in(env: &Env<'_>, item: &Value, list: &Value) -> Evaluation<Option<bool>> {
    let Value::Array(items) = list else {
        return Ok(None);
    };
    if *item == Value::Undefined {
        return Ok(None);
    }
    for other in items {
        env.spend(1)?;
        if compare(env, Compare::Equal, item, other)? == Some(true) {
            return Ok(Some(true));
        }
    }
    Ok(Some(false))
}

fn case<'v>(
    env: &'v Env<'_>,
    subject: &'v Expr,
    arms: &'v [(Expr, Expr)],
    otherwise: Option<&'v Expr>,
    root: &'v Value,
) -> Evaluation<Cow<'v, Value>> {
    let subject = eval(env, subject, root)?;
    if *subject == Value::Undefined {
        return Ok(Cow::Owned(Value::Undefined));
    }
    for (when, then) in arms {
        let when = eval(env, when, root)?;
        if compare(env, Compare::Equal, &subject, &when)? == Some(true) {
            return eval(env, then, root);
        }
    }
    otherwise.map_or(Ok(Cow::Owned(Value::Undefined)), |expr| eval(env, expr, root))
}

fn convert(env: &Env<'_>, value: &Value, cast: Cast) -> Evaluation<Value> {
    let bit = |bool: bool| Value::Int(bool.into());
    let int = |int: Option<i128>| int.map_or(Value::Undefined, Value::Int);
    Ok(match (cast, value) {
        (Cast::String, value) => match value.to_text() {
            None => Value::Undefined,
            Some(text) => env.text(text.into_owned())?,
        },
        (Cast::Int | Cast::Decimal, Value::Null) => Value::Null,
        (Cast::Int | Cast::Decimal, Value::Bool(bool)) => bit(*bool),
        (Cast::Int, Value::String(_)) => int(value.to_number().and_then(Number::trunc)),
        (Cast::Int, value) => int(value.to_number().and_then(Number::round)),
        (Cast::Decimal, value) => value.to_number().map_or(Value::Undefined, Value::from),
        (Cast::Bool, Value::Int(int)) => Value::Bool(*int != 0),
        // A decimal that is zero is an Int.
        (Cast::Bool, Value::Decimal(_)) => Value::Bool(true),
        (Cast::Bool, value) => value.to_bool().map_or(Value::Undefined, Value::Bool),
    })
}

/// A nested SELECT: of an array, an array with one element for each element that its WHERE
/// selects; of an object what is selected itself, as the guide's third example of `transform`
/// shows.
fn nested(env: &Env<'_>, select_: &Nested, root: &Value) -> Evaluation<Value> {
    let source = eval(env, &select_.from, root)?;
    let of_one = |element: &Value| {
        if selects(env, select_.filter.as_ref(), element)? {
            select(env, select_.value, &select_.items, element)
        } else {
            Ok(Value::Undefined)
        }
    };
    let elements = match source.as_ref() {
        Value::Array(items) => items,
        object @ Value::Object(_) => return of_one(object),
        _ => return Ok(Value::Undefined),
    };
    let mut found = Vec::new();
    for element in elements {
        let result = of_one(element)?;
        if result != Value::Undefined {
            found.push(result);
        }
    }
    Ok(Value::Array(found))
}
