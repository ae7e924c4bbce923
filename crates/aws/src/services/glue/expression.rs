//! The filters of GetPartitions and GetTables.
//!
//! A partition is kept where SQL's WHERE over its keys is true; a key that has no value (Hive's
//! default partition) makes a comparison unknown, as null does in SQL.

use std::cmp::Ordering;

use chrono::{NaiveDate, NaiveDateTime};
use lake::{Column, NULL_PARTITION};
use regex::{Regex, RegexBuilder};
use sqlparser::ast::{BinaryOperator, Expr, UnaryOperator, Value};
use sqlparser::dialect::GenericDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::Token;

use crate::fault::Fault;

/// Longest expression, Glue's bound. It also bounds how deep one can be.
const CHARS_MAX: usize = 2048;
/// Most bytes of a compiled pattern.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// A filter on the values of partition keys.
#[derive(Debug)]
pub(super) struct Filter(Test);

#[derive(Debug)]
enum Test {
    All(Box<Test>, Box<Test>),
    Any(Box<Test>, Box<Test>),
    Not(Box<Test>),
    IsNull(usize),
    /// The key at this place is so ordered to the literal.
    Compare(usize, BinaryOperator, Literal),
    In(usize, Vec<Literal>),
    Like(usize, Regex),
}

/// A value of a key's type.
#[derive(Debug, PartialEq, PartialOrd)]
enum Literal {
    Text(String),
    Whole(i128),
    Number(f64),
    Day(NaiveDate),
    Moment(NaiveDateTime),
}

/// Reads text as a value of a Hive type; `None` where it is none.
fn read(hive_type: &str, text: &str) -> Option<Literal> {
    let base = hive_type.split('(').next().unwrap_or_default().trim().to_lowercase();
    match base.as_str() {
        "tinyint" | "smallint" | "int" | "integer" | "bigint" | "long" => {
            text.trim().parse().ok().map(Literal::Whole)
        }
        "float" | "double" | "decimal" => {
            text.trim().parse::<f64>().ok().filter(|n| !n.is_nan()).map(Literal::Number)
        }
        "date" => NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().map(Literal::Day),
        "timestamp" => {
            let moment = |format| NaiveDateTime::parse_from_str(text, format).ok();
            let day = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
            moment("%Y-%m-%d %H:%M:%S%.f")
                .or_else(|| moment("%Y-%m-%dT%H:%M:%S%.f"))
                .or_else(day)
                .map(Literal::Moment)
        }
        _ => Some(Literal::Text(text.to_owned())),
    }
}

fn odd(expression: &Expr) -> Fault {
    Fault::invalid(format!(
        "Expression: {expression} cannot be read; compare a partition key with a literal by =, \
         <>, <, <=, >, >=, LIKE, IN, BETWEEN or IS NULL, and join by AND, OR, NOT"
    ))
}

impl Filter {
    /// Reads an expression over these keys.
    pub(super) fn parse(text: &str, keys: &[Column]) -> Result<Filter, Fault> {
        if text.chars().count() > CHARS_MAX {
            return Err(Fault::invalid(format!(
                "Expression has {} characters; at most {CHARS_MAX} are allowed",
                text.chars().count()
            )));
        }
        let unread = |error: String| Fault::invalid(format!("Expression {text:?}: {error}"));
        let mut parser = Parser::new(&GenericDialect {})
            .try_with_sql(text)
            .map_err(|error| unread(error.to_string()))?;
        let expression = parser.parse_expr().map_err(|error| unread(error.to_string()))?;
        match parser.peek_token().token {
            Token::EOF => Ok(Filter(Keys(keys).test(&expression)?)),
            more => Err(unread(format!("{more} is unexpected"))),
        }
    }

    /// Whether a partition with these values is kept.
    pub(super) fn keeps(&self, keys: &[Column], values: &[String]) -> bool {
        let of = |at: usize| {
            let (key, text) = (keys.get(at)?, values.get(at)?);
            if text == NULL_PARTITION { None } else { read(&key.hive_type, text) }
        };
        self.0.holds(&of) == Some(true)
    }
}

impl Test {
    /// What SQL says; `None` is unknown.
    fn holds(&self, of: &dyn Fn(usize) -> Option<Literal>) -> Option<bool> {
        match self {
            Test::All(left, right) => match (left.holds(of), right.holds(of)) {
                (Some(false), _) | (_, Some(false)) => Some(false),
                (left, right) => Some(left? && right?),
            },
            Test::Any(left, right) => match (left.holds(of), right.holds(of)) {
                (Some(true), _) | (_, Some(true)) => Some(true),
                (left, right) => Some(left? || right?),
            },
            Test::Not(inner) => inner.holds(of).map(|holds| !holds),
            Test::IsNull(at) => Some(of(*at).is_none()),
            Test::Compare(at, operator, literal) => {
                let order = of(*at)?.partial_cmp(literal)?;
                Some(match operator {
                    BinaryOperator::Eq => order == Ordering::Equal,
                    BinaryOperator::NotEq => order != Ordering::Equal,
                    BinaryOperator::Lt => order == Ordering::Less,
                    BinaryOperator::LtEq => order != Ordering::Greater,
                    BinaryOperator::Gt => order == Ordering::Greater,
                    _ => order != Ordering::Less,
                })
            }
            Test::In(at, literals) => of(*at).map(|value| literals.contains(&value)),
            Test::Like(at, pattern) => match of(*at)? {
                Literal::Text(text) => Some(pattern.is_match(&text)),
                _ => None,
            },
        }
    }
}

/// The keys that an expression may name.
struct Keys<'a>(&'a [Column]);

impl Keys<'_> {
    fn test(&self, expression: &Expr) -> Result<Test, Fault> {
        let boxed = |expression| self.test(expression).map(Box::new);
        let negated = |test, negated| match negated {
            true => Test::Not(Box::new(test)),
            false => test,
        };
        Ok(match expression {
            Expr::Nested(inner) => self.test(inner)?,
            Expr::UnaryOp { op: UnaryOperator::Not, expr } => Test::Not(boxed(expr)?),
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                Test::All(boxed(left)?, boxed(right)?)
            }
            Expr::BinaryOp { left, op: BinaryOperator::Or, right } => {
                Test::Any(boxed(left)?, boxed(right)?)
            }
            Expr::BinaryOp { left, op, right } => {
                let turned = match op {
                    BinaryOperator::Eq | BinaryOperator::NotEq => op.clone(),
                    BinaryOperator::Lt => BinaryOperator::Gt,
                    BinaryOperator::LtEq => BinaryOperator::GtEq,
                    BinaryOperator::Gt => BinaryOperator::Lt,
                    BinaryOperator::GtEq => BinaryOperator::LtEq,
                    _ => return Err(odd(expression)),
                };
                // `5 < month` says what `month > 5` says.
                let (key, op, literal) = match name(left) {
                    Some(_) => (left, op.clone(), right),
                    None => (right, turned, left),
                };
                let at = self.place(key)?;
                Test::Compare(at, op, self.literal(at, literal)?)
            }
            Expr::IsNull(key) => Test::IsNull(self.place(key)?),
            Expr::IsNotNull(key) => Test::Not(Box::new(Test::IsNull(self.place(key)?))),
            Expr::InList { expr, list, negated: not } => {
                let at = self.place(expr)?;
                let list: Result<_, Fault> = list.iter().map(|one| self.literal(at, one)).collect();
                negated(Test::In(at, list?), *not)
            }
            Expr::Between { expr, negated: not, low, high } => {
                let at = self.place(expr)?;
                let from = Test::Compare(at, BinaryOperator::GtEq, self.literal(at, low)?);
                let to = Test::Compare(at, BinaryOperator::LtEq, self.literal(at, high)?);
                negated(Test::All(Box::new(from), Box::new(to)), *not)
            }
            Expr::Like { negated: not, any: false, expr, pattern, escape_char: None } => {
                let at = self.place(expr)?;
                let key = &self.0[at];
                let (Some(text), Some(Literal::Text(_))) =
                    (literal_text(pattern), read(&key.hive_type, ""))
                else {
                    return Err(Fault::invalid(format!(
                        "Expression: LIKE compares keys of type string with a text, not {} of \
                         type {}",
                        key.name, key.hive_type
                    )));
                };
                negated(Test::Like(at, like(&text)?), *not)
            }
            _ => return Err(odd(expression)),
        })
    }

    fn place(&self, expression: &Expr) -> Result<usize, Fault> {
        let name = name(expression).ok_or_else(|| odd(expression))?;
        self.0.iter().position(|key| key.name.eq_ignore_ascii_case(&name)).ok_or_else(|| {
            let keys: Vec<&str> = self.0.iter().map(|key| key.name.as_str()).collect();
            Fault::invalid(format!(
                "Expression: {name:?} is not a partition key; there are [{}]",
                keys.join(", ")
            ))
        })
    }

    fn literal(&self, at: usize, expression: &Expr) -> Result<Literal, Fault> {
        let key = &self.0[at];
        let text = literal_text(expression).ok_or_else(|| odd(expression))?;
        read(&key.hive_type, &text).ok_or_else(|| {
            Fault::invalid(format!(
                "Expression: {text:?} is not a value of partition key {} of type {}",
                key.name, key.hive_type
            ))
        })
    }
}

fn name(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Identifier(name) => Some(name.value.clone()),
        Expr::Nested(inner) => name(inner),
        _ => None,
    }
}

fn literal_text(expression: &Expr) -> Option<String> {
    match expression {
        Expr::Nested(inner) => literal_text(inner),
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match literal_text(expr) {
            Some(number) if !number.starts_with('-') => Some(format!("-{number}")),
            _ => None,
        },
        Expr::Value(value) => match &value.value {
            Value::Number(text, _) => Some(text.clone()),
            Value::SingleQuotedString(text) => Some(text.clone()),
            _ => None,
        },
        // DATE '2026-01-31'
        Expr::TypedString(typed) => match &typed.value.value {
            Value::SingleQuotedString(text) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    }
}

fn compiled(pattern: &str) -> Result<Regex, Fault> {
    RegexBuilder::new(pattern)
        .size_limit(PATTERN_BYTES_MAX)
        .dot_matches_new_line(true)
        .build()
        .map_err(|error| Fault::invalid(format!("Expression: {error}")))
}

/// LIKE: `%` is any text, `_` any character.
fn like(text: &str) -> Result<Regex, Fault> {
    let part = |c: char| match c {
        '%' => ".*".to_owned(),
        '_' => ".".to_owned(),
        c => regex::escape(c.encode_utf8(&mut [0; 4])),
    };
    compiled(&format!("^{}$", text.chars().map(part).collect::<String>()))
}

/// The names that GetTables keeps: a regular expression for the whole name in which, as in
/// Hive's patterns, a `*` that repeats nothing is any text.
pub(super) fn names(text: &str) -> Result<Regex, Fault> {
    if text.chars().count() > CHARS_MAX {
        return Err(Fault::invalid(format!("Expression is longer than {CHARS_MAX} characters")));
    }
    let mut pattern = String::with_capacity(text.len() + 8);
    let mut before = None;
    for c in text.chars() {
        let repeats = matches!(before, Some('.' | ')' | ']' | '}' | '\\'));
        if c == '*' && !repeats {
            pattern.push('.');
        }
        pattern.push(c);
        before = Some(c);
    }
    compiled(&format!("^(?i:{pattern})$"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(text: &str, values: [&str; 3]) -> Result<bool, String> {
        let key = |name: &str, hive_type: &str| Column {
            name: name.into(),
            hive_type: hive_type.into(),
            comment: None,
        };
        let keys = [key("year", "int"), key("site", "string"), key("day", "date")];
        let filter = Filter::parse(text, &keys).map_err(|fault| fault.message)?;
        Ok(filter.keeps(&keys, &values.map(str::to_owned)))
    }

    #[test]
    fn partitions_are_kept_as_sql_says() {
        let values = ["2026", "Graz", "2026-01-31"];
        for (text, expect) in [
            ("year = 2026", true),
            ("YEAR='2026'", true),
            ("year > 999", true),
            ("999 < year", true),
            ("year <> 2026", false),
            ("year != 2025 AND site = 'Graz'", true),
            ("year between 2025 and 2026", true),
            ("year not between 2025 and 2026", false),
            ("site in ('Wien', 'Graz')", true),
            ("site not in ('Wien')", true),
            ("site like 'G%' and site like '_raz'", true),
            ("site like 'g%'", false),
            ("site like 'Gr.z'", false),
            ("day >= '2026-01-09'", true),
            ("day < date '2026-02-01'", true),
            ("(year = 1 or (site = 'Graz')) and not day = '2026-01-30'", true),
            ("year > -5", true),
            ("site is null", false),
            ("site is not null", true),
        ] {
            assert_eq!(kept(text, values), Ok(expect), "{text}");
        }
        let nowhere = ["2026", NULL_PARTITION, "2026-01-31"];
        assert_eq!(kept("site = 'Graz'", nowhere), Ok(false));
        assert_eq!(kept("not site = 'Graz'", nowhere), Ok(false), "unknown stays unknown");
        assert_eq!(kept("site = 'Graz' or year = 2026", nowhere), Ok(true));
        assert_eq!(kept("site is null", nowhere), Ok(true));
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        let values = ["2026", "Graz", "2026-01-31"];
        for (text, part) in [
            ("hour = 1", "\"hour\" is not a partition key; there are [year, site, day]"),
            ("year = 'x'", "\"x\" is not a value of partition key year of type int"),
            ("year like '2%'", "LIKE"),
            ("year", "cannot be read"),
            ("upper(site) = 'X'", "cannot be read"),
            ("year = 1 garbage", "unexpected"),
            ("", "Expression"),
            ("year = (select 1)", "cannot be read"),
        ] {
            let message = kept(text, values).expect_err(text);
            assert!(message.contains(part), "{text}: {message}");
        }
        assert!(kept(&"(".repeat(2000), values).is_err());
        let long = vec!["year=1"; 200].join(" or ");
        assert_eq!(kept(&long, values), Ok(false));
        assert!(kept(&vec!["year=1"; 2000].join(" or "), values).is_err());
    }

    #[test]
    fn names_are_matched_whole() {
        let fits = |text: &str, name: &str| names(text).unwrap().is_match(name);
        assert!(fits("t_*", "t_raw") && fits("*raw*", "t_raw") && fits("T_RAW", "t_raw"));
        assert!(fits("t_.*", "t_raw") && fits("t_(raw|x)*", "t_rawraw") && fits("a|b", "b"));
        assert!(!fits("raw", "t_raw") && !fits("t_", "t_raw"));
        assert!(names("(").is_err());
    }
}
