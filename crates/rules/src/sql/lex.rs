//! Cuts a statement into tokens, each with its place.

use std::fmt;

use base::{Error, ErrorKind, Result};

use crate::value::Value;

/// Where something stands in a statement, counted from 1, columns in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    line: usize,
    column: usize,
}

impl Place {
    /// A refusal of what stands here.
    pub(crate) fn refuse(self, why: impl fmt::Display) -> Error {
        Error::invalid(self.say(why))
    }

    /// A refusal of something that IoT SQL has and Forebay has not.
    /// What is not supported, and said why.
    pub(crate) fn never(self, why: impl fmt::Display) -> Error {
        Error::new(ErrorKind::Unsupported, self.say(why))
    }

    pub(crate) fn unsupported(self, what: impl fmt::Display) -> Error {
        Error::new(ErrorKind::Unsupported, self.say(format!("{what} is not supported yet")))
    }

    fn say(self, what: impl fmt::Display) -> String {
        format!("SQL line {}, column {}: {what}", self.line, self.column)
    }
}

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    /// A key word or name.
    Word(String),
    /// `@name`, what SET has set.
    Variable(String),
    /// A number.
    Number(Value),
    /// Text in single or double quotes.
    Text(String),
    /// Punctuation.
    Symbol(&'static str),
    /// After the last token.
    End,
}

/// A token and where it starts.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) place: Place,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Word(word) => write!(f, "{word:?}"),
            Kind::Variable(name) => write!(f, "\"@{name}\""),
            Kind::Number(number) => {
                write!(f, "the number {}", number.to_text().unwrap_or_default())
            }
            Kind::Text(text) => write!(f, "the text '{text}'"),
            Kind::Symbol(symbol) => write!(f, "\"{symbol}\""),
            Kind::End => f.write_str("the end of the statement"),
        }
    }
}

/// Longest name of a variable, AWS's bound.
const VARIABLE_CHARS_MAX: usize = 64;

/// Longer symbols first, so that `<=` is not read as `<`.
const SYMBOLS: [&str; 20] = [
    "<>", "<=", ">=", "=", "<", ">", "+", "-", "*", "/", "%", "(", ")", ",", ".", "[", "]", "{",
    "}", ":",
];

/// Cuts `text` into tokens; the last one is [`Kind::End`].
pub(crate) fn tokens(text: &str) -> Result<Vec<Token>> {
    let mut lexer = Lexer { rest: text, place: Place { line: 1, column: 1 } };
    let mut found = Vec::new();
    loop {
        lexer.skip_space();
        let place = lexer.place;
        let kind = lexer.next()?;
        let end = kind == Kind::End;
        found.push(Token { kind, place });
        if end {
            return Ok(found);
        }
    }
}

struct Lexer<'s> {
    rest: &'s str,
    place: Place,
}

impl<'s> Lexer<'s> {
    /// Moves over `bytes` bytes and returns them.
    fn take(&mut self, bytes: usize) -> &'s str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        for c in taken.chars() {
            if c == '\n' {
                self.place = Place { line: self.place.line + 1, column: 1 };
            } else {
                self.place.column += 1;
            }
        }
        taken
    }

    fn skip_space(&mut self) {
        self.take(self.rest.len() - self.rest.trim_start().len());
    }

    fn next(&mut self) -> Result<Kind> {
        let Some(first) = self.rest.chars().next() else {
            return Ok(Kind::End);
        };
        if first == '\'' || first == '"' {
            return self.text(first);
        }
        if first.is_ascii_digit() {
            return self.number();
        }
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        if first.is_alphabetic() || first == '_' {
            let end = self.rest.find(|c| !is_name(c)).unwrap_or(self.rest.len());
            return Ok(Kind::Word(self.take(end).to_owned()));
        }
        if first == '@' {
            let end = self.rest[1..].find(|c| !is_name(c)).map_or(self.rest.len(), |end| end + 1);
            if !(2..=1 + VARIABLE_CHARS_MAX).contains(&self.rest[..end].chars().count()) {
                return Err(self.place.refuse(format!(
                    "a variable is @ and 1 to {VARIABLE_CHARS_MAX} letters, digits and underscores"
                )));
            }
            return Ok(Kind::Variable(self.take(end)[1..].to_owned()));
        }
        if ["--", "/*", "//"].iter().any(|comment| self.rest.starts_with(comment)) {
            return Err(self.place.refuse("IoT SQL has no comments"));
        }
        if ["!=", "=="].iter().any(|other| self.rest.starts_with(other)) {
            return Err(self.place.refuse("write = for equal and <> for not equal"));
        }
        match SYMBOLS.iter().find(|symbol| self.rest.starts_with(**symbol)) {
            Some(symbol) => {
                self.take(symbol.len());
                Ok(Kind::Symbol(symbol))
            }
            None => Err(self.place.refuse(format!("unexpected character {first:?}"))),
        }
    }

    /// Reads text in quotes; a doubled quote stands for itself, a backslash is a backslash.
    fn text(&mut self, quote: char) -> Result<Kind> {
        let place = self.place;
        self.take(1);
        let mut text = String::new();
        loop {
            let Some(end) = self.rest.find(quote) else {
                return Err(place.refuse(format!("text that starts with {quote} does not end")));
            };
            text.push_str(&self.rest[..end]);
            self.take(end + 1);
            if !self.rest.starts_with(quote) {
                return Ok(Kind::Text(text));
            }
            text.push(quote);
            self.take(1);
        }
    }

    fn number(&mut self) -> Result<Kind> {
        let place = self.place;
        let bytes = self.rest.as_bytes();
        let digits = |from: usize| {
            bytes
                .get(from..)
                .map_or(0, |rest| rest.iter().take_while(|b| b.is_ascii_digit()).count())
        };
        let mut end = digits(0);
        if bytes.get(end) == Some(&b'.') && digits(end + 1) > 0 {
            end += 1 + digits(end + 1);
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            let exponent = digits(end + 1 + sign);
            end += if exponent > 0 { 1 + sign + exponent } else { 0 };
        }
        let follows = self.rest[end..].chars().next();
        if follows.is_some_and(|c| c.is_alphanumeric() || c == '_') {
            return Err(place.refuse("a name cannot start with a digit; use get(*, 'name')"));
        }
        let text = self.take(end);
        let value = match text.parse::<i128>() {
            Ok(int) => Value::Int(int),
            Err(_not_whole) => Value::decimal(text.parse().unwrap_or(f64::INFINITY)),
        };
        if value == Value::Undefined {
            return Err(place.refuse(format!("number {text} is outside the range of a double")));
        }
        Ok(Kind::Number(value))
    }
}
