//! A useful part of Glue's Data Quality Definition Language, read into rules.
//!
//! ```text
//! Rules = [
//!     RowCount between 1 and 1000000,
//!     ColumnCount = 5,
//!     ColumnExists "ozone",
//!     IsComplete "device",
//!     Completeness "ozone" > 0.95,
//!     IsUnique "id",
//!     Uniqueness "id" > 0.99,
//!     ColumnValues "ozone" between 0 and 500,
//!     ColumnValues "state" in ["on", "off"],
//!     ColumnValues "device" matches "plant-[0-9]+",
//!     Mean "ozone" < 100
//! ]
//! ```
//!
//! `between` leaves its ends out, as Glue's does. Other rule types are refused by name.

use base::{Error, Result};

/// One rule, and how it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// Its text.
    pub text: String,
    /// What it asks for.
    pub check: Check,
}

/// What a rule asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    /// A number that is computed of the rows lies where it should.
    Measure(Measure, Bound),
    /// There is such a column.
    ColumnExists(String),
    /// Every value of a column that is not null fulfils this.
    ColumnValues(String, Bound),
}

/// A number computed of the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Measure {
    /// How many rows.
    RowCount,
    /// How many columns.
    ColumnCount,
    /// The share of a column's values that are not null.
    Completeness(String),
    /// The share of rows whose value in a column no other row has.
    Uniqueness(String),
    /// How many values of a column differ.
    DistinctValuesCount(String),
    /// The mean of a column.
    Mean(String),
    /// The sum of a column.
    Sum(String),
    /// The standard deviation of a column.
    StandardDeviation(String),
}

/// Where a value should lie.
#[derive(Clone, Debug, PartialEq)]
pub enum Bound {
    /// Equal.
    Equal(Literal),
    /// Not equal.
    NotEqual(Literal),
    /// Less.
    Less(f64),
    /// Less or equal.
    AtMost(f64),
    /// More.
    More(f64),
    /// More or equal.
    AtLeast(f64),
    /// Between both, without them.
    Between(f64, f64),
    /// One of these.
    In(Vec<Literal>),
    /// A regular expression that the whole text matches.
    Matches(String),
}

/// A value in a rule.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// A number.
    Number(f64),
    /// Text in quotes.
    Text(String),
}

impl Bound {
    /// Whether a number fulfils it; a bound on text is fulfilled by none.
    pub fn holds(&self, value: f64) -> bool {
        let is = |literal: &Literal| matches!(literal, Literal::Number(number) if *number == value);
        match self {
            Bound::Equal(literal) => is(literal),
            Bound::NotEqual(literal) => !is(literal),
            Bound::Less(bound) => value < *bound,
            Bound::AtMost(bound) => value <= *bound,
            Bound::More(bound) => value > *bound,
            Bound::AtLeast(bound) => value >= *bound,
            Bound::Between(low, high) => value > *low && value < *high,
            Bound::In(literals) => literals.iter().any(is),
            Bound::Matches(_) => false,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Number(f64),
    Sign(&'static str),
}

impl Token {
    fn shown(&self) -> String {
        match self {
            Token::Word(word) => word.clone(),
            Token::Text(text) => format!("{text:?}"),
            Token::Number(number) => number.to_string(),
            Token::Sign(sign) => (*sign).to_owned(),
        }
    }
}

/// Rules of a ruleset at most.
const RULES_MAX: usize = 200;

const SIGNS: [&str; 10] = ["!=", "<=", ">=", "=", "<", ">", "[", "]", ",", "{"];

/// Reads a ruleset; refuses what this part of the language has not.
pub fn parse(ruleset: &str) -> Result<Vec<Rule>> {
    let tokens = tokens(ruleset)?;
    let mut reader = Reader { tokens: &tokens, at: 0 };
    match reader.next() {
        Some(Token::Word(word)) if word.eq_ignore_ascii_case("rules") => {}
        _ => return Err(bad("a ruleset begins with Rules = [")),
    }
    reader.expect("=")?;
    reader.expect("[")?;
    let mut rules = Vec::new();
    loop {
        let begin = reader.at;
        let check = reader.rule()?;
        let text = tokens[begin..reader.at].iter().map(Token::shown).collect::<Vec<_>>().join(" ");
        rules.push(Rule { text, check });
        if rules.len() > RULES_MAX {
            return Err(bad(&format!("a ruleset has at most {RULES_MAX} rules")));
        }
        match reader.next() {
            Some(Token::Sign(",")) => {}
            Some(Token::Sign("]")) if reader.at == tokens.len() => return Ok(rules),
            Some(other) => {
                let shown = other.shown();
                return Err(bad(&format!(
                    "{shown:?} after a rule; rules stand one by one, with commas between"
                )));
            }
            None => return Err(bad("the ruleset ends without ]")),
        }
    }
}

fn bad(why: &str) -> Error {
    Error::invalid(format!("ruleset: {why}"))
}

fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let taken = if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            tokens.push(Token::Sign(sign));
            sign.len()
        } else if first == '"' {
            let end = rest[1..].find('"').ok_or_else(|| bad("a quote is not closed"))?;
            tokens.push(Token::Text(rest[1..=end].to_owned()));
            end + 2
        } else if first.is_ascii_digit() || first == '-' || first == '.' {
            let number = |c: char| c.is_ascii_digit() || "+-.eE".contains(c);
            let end = rest.find(|c| !number(c)).unwrap_or(rest.len());
            let parsed: Option<f64> = rest[..end].parse().ok().filter(|n: &f64| n.is_finite());
            let parsed =
                parsed.ok_or_else(|| bad(&format!("{:?} is not a number", &rest[..end])))?;
            tokens.push(Token::Number(parsed));
            end
        } else if first.is_alphabetic() {
            let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            end
        } else {
            return Err(bad(&format!("{first:?} is not understood")));
        };
        rest = rest[taken..].trim_start();
    }
    Ok(tokens)
}

struct Reader<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<Token> {
        let token = self.tokens.get(self.at).cloned();
        self.at += usize::from(token.is_some());
        token
    }

    fn expect(&mut self, sign: &str) -> Result<()> {
        match self.next() {
            Some(Token::Sign(found)) if found == sign => Ok(()),
            found => {
                let found = found.map_or("its end".to_owned(), |token| token.shown());
                Err(bad(&format!("expected {sign:?}, not {found}")))
            }
        }
    }

    fn column(&mut self, rule: &str) -> Result<String> {
        match self.next() {
            Some(Token::Text(column)) if !column.is_empty() => Ok(column),
            _ => Err(bad(&format!("{rule} needs a column in quotes"))),
        }
    }

    fn rule(&mut self) -> Result<Check> {
        let Some(Token::Word(rule)) = self.next() else {
            return Err(bad("a rule begins with its type, as in IsComplete \"ozone\""));
        };
        let measure = match rule.as_str() {
            "RowCount" => Measure::RowCount,
            "ColumnCount" => Measure::ColumnCount,
            "IsComplete" => {
                let measure = Measure::Completeness(self.column(&rule)?);
                return Ok(Check::Measure(measure, Bound::AtLeast(1.0)));
            }
            "IsUnique" => {
                let measure = Measure::Uniqueness(self.column(&rule)?);
                return Ok(Check::Measure(measure, Bound::AtLeast(1.0)));
            }
            "ColumnExists" => return Ok(Check::ColumnExists(self.column(&rule)?)),
            "ColumnValues" => {
                let column = self.column(&rule)?;
                return Ok(Check::ColumnValues(column, self.bound(&rule)?));
            }
            "Completeness" => Measure::Completeness(self.column(&rule)?),
            "Uniqueness" => Measure::Uniqueness(self.column(&rule)?),
            "DistinctValuesCount" => Measure::DistinctValuesCount(self.column(&rule)?),
            "Mean" => Measure::Mean(self.column(&rule)?),
            "Sum" => Measure::Sum(self.column(&rule)?),
            "StandardDeviation" => Measure::StandardDeviation(self.column(&rule)?),
            other => {
                return Err(Error::unsupported(format!(
                    "ruleset: rule type {other:?}; there are RowCount, ColumnCount, ColumnExists, \
                     IsComplete, Completeness, IsUnique, Uniqueness, DistinctValuesCount, \
                     ColumnValues, Mean, Sum and StandardDeviation"
                )));
            }
        };
        let bound = self.bound(&rule)?;
        let on_numbers = match &bound {
            Bound::Equal(literal) | Bound::NotEqual(literal) => {
                matches!(literal, Literal::Number(_))
            }
            Bound::In(literals) => literals.iter().all(|one| matches!(one, Literal::Number(_))),
            Bound::Matches(_) => false,
            _ => true,
        };
        match on_numbers {
            true => Ok(Check::Measure(measure, bound)),
            false => Err(bad(&format!("{rule} is a number and is compared with one"))),
        }
    }

    fn bound(&mut self, rule: &str) -> Result<Bound> {
        Ok(match self.next() {
            Some(Token::Sign("=")) => Bound::Equal(self.literal(rule)?),
            Some(Token::Sign("!=")) => Bound::NotEqual(self.literal(rule)?),
            Some(Token::Sign("<")) => Bound::Less(self.number(rule)?),
            Some(Token::Sign("<=")) => Bound::AtMost(self.number(rule)?),
            Some(Token::Sign(">")) => Bound::More(self.number(rule)?),
            Some(Token::Sign(">=")) => Bound::AtLeast(self.number(rule)?),
            Some(Token::Word(word)) if word == "between" => {
                let low = self.number(rule)?;
                match self.next() {
                    Some(Token::Word(and)) if and == "and" => {
                        Bound::Between(low, self.number(rule)?)
                    }
                    _ => return Err(bad(&format!("{rule}: write between LOW and HIGH"))),
                }
            }
            Some(Token::Word(word)) if word == "in" => {
                self.expect("[")?;
                let mut literals = vec![self.literal(rule)?];
                loop {
                    match self.next() {
                        Some(Token::Sign(",")) => literals.push(self.literal(rule)?),
                        Some(Token::Sign("]")) => break Bound::In(literals),
                        _ => return Err(bad(&format!("{rule}: write in [A, B]"))),
                    }
                }
            }
            Some(Token::Word(word)) if word == "matches" => match self.next() {
                Some(Token::Text(pattern)) => Bound::Matches(pattern),
                _ => return Err(bad(&format!("{rule}: write matches \"PATTERN\""))),
            },
            other => {
                let other = other.map_or("nothing".to_owned(), |token| token.shown());
                return Err(bad(&format!(
                    "{rule}: expected =, !=, <, <=, >, >=, between, in or matches, not {other}"
                )));
            }
        })
    }

    fn number(&mut self, rule: &str) -> Result<f64> {
        match self.literal(rule)? {
            Literal::Number(number) => Ok(number),
            Literal::Text(text) => Err(bad(&format!("{rule}: {text:?} is not a number"))),
        }
    }

    fn literal(&mut self, rule: &str) -> Result<Literal> {
        match self.next() {
            Some(Token::Number(number)) => Ok(Literal::Number(number)),
            Some(Token::Text(text)) => Ok(Literal::Text(text)),
            _ => Err(bad(&format!("{rule}: a number or text in quotes is missing"))),
        }
    }
}
