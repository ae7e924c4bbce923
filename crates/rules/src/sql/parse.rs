//! Reads a statement.
//!
//! ```text
//! statement  = [SET @name = expr {, @name = expr}]
//!              SELECT [VALUE] item {, item} [FROM 'filter'] [WHERE expr]
//! item       = * | expr [AS name {. name}]
//! expr       = and {OR and}          and = not {AND not}          not = NOT not | comparison
//! comparison = sum [(= <> < <= > >= IN) sum]
//! sum        = product {(+ -) product}           product = unary {(* / %) unary}
//! unary      = - unary | primary {. name}
//! primary    = literal | * | @name | name | name(args) | (expr) | (nested SELECT) | CASE | EXISTS
//!            | [exprs] | {'key': expr}
//! ```
//! Invariants
//! * Recursion is bounded by [`DEPTH_MAX`] before it happens; chains of one operator become
//!   one node, so neither the tree nor its evaluation is deeper than the text is nested.
//! * Every refusal names line, column and the offending word.

use base::{Result, TopicFilter};
use regex::RegexBuilder;

use crate::sql::ast::{Arithmetic, Cast, Compare, Expr, Item, Nested, Prepared, Select, Statement};
use crate::sql::functions::{self, Function, Prepare};
use crate::sql::lex::{Kind, Place, Token, tokens};
use crate::sql::time::{self, TimePattern};
use crate::value::Value;

/// Deepest nesting of parentheses, calls, NOT and unary minus.
pub(crate) const DEPTH_MAX: usize = 64;

/// Longest statement.
pub(crate) const STATEMENT_BYTES_MAX: usize = 64 * 1024;

/// Most variables of a statement.
const VARIABLES_MAX: usize = 64;

/// Largest compiled regular expression.
pub(crate) const REGEX_BYTES_MAX: usize = 1024 * 1024;

/// Words that cannot be member names where an expression starts.
const RESERVED: [&str; 14] = [
    "select", "from", "where", "as", "and", "or", "not", "case", "when", "then", "else", "end",
    "in", "exists",
];

/// Reads `text` as the statement of a rule.
pub(crate) fn statement(text: &str) -> Result<Statement> {
    if text.len() > STATEMENT_BYTES_MAX {
        return Err(base::Error::invalid(format!(
            "the SQL is {} bytes long; at most {STATEMENT_BYTES_MAX} are allowed",
            text.len()
        )));
    }
    let mut parser = Parser::new(text)?;
    let statement = parser.statement()?;
    parser.end_of_statement()?;
    Ok(statement)
}

/// Reads `text` as one expression that may use the variables of a statement.
pub(crate) fn expression(text: &str, statement: &Statement) -> Result<Expr> {
    let mut parser = Parser::new(text)?;
    parser.variables = statement.variables.iter().map(|(name, _)| name.clone()).collect();
    let expr = parser.expr()?;
    parser.end_of_statement()?;
    Ok(expr)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
    /// Those that are set so far.
    variables: Vec<String>,
}

impl Parser {
    fn new(text: &str) -> Result<Parser> {
        Ok(Parser { tokens: tokens(text)?, at: 0, depth: 0, variables: Vec::new() })
    }

    // Tokens.

    fn kind(&self, ahead: usize) -> &Kind {
        let last = self.tokens.len() - 1;
        &self.tokens[(self.at + ahead).min(last)].kind
    }

    fn place(&self) -> Place {
        self.tokens[self.at].place
    }

    fn advance(&mut self) -> Token {
        let token = self.tokens[self.at].clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn is_word(&self, ahead: usize, word: &str) -> bool {
        matches!(self.kind(ahead), Kind::Word(found) if found.eq_ignore_ascii_case(word))
    }

    fn is_symbol(&self, ahead: usize, symbol: &str) -> bool {
        matches!(self.kind(ahead), Kind::Symbol(found) if *found == symbol)
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.is_word(0, word);
        if found {
            self.advance();
        }
        found
    }

    fn take_symbol(&mut self, symbol: &str) -> bool {
        let found = self.is_symbol(0, symbol);
        if found {
            self.advance();
        }
        found
    }

    fn unexpected(&self, expected: &str) -> base::Error {
        self.place().refuse(format!("expected {expected}, found {}", self.kind(0)))
    }

    fn expect_word(&mut self, word: &str) -> Result<()> {
        if self.take_word(word) { Ok(()) } else { Err(self.unexpected(&word.to_uppercase())) }
    }

    fn expect_symbol(&mut self, symbol: &str) -> Result<()> {
        if self.take_symbol(symbol) {
            Ok(())
        } else {
            Err(self.unexpected(&format!("\"{symbol}\"")))
        }
    }

    fn name(&mut self, expected: &str) -> Result<String> {
        match self.kind(0) {
            Kind::Word(word) => {
                let word = word.clone();
                self.advance();
                Ok(word)
            }
            _ => Err(self.unexpected(expected)),
        }
    }

    fn end_of_statement(&self) -> Result<()> {
        if *self.kind(0) == Kind::End {
            return Ok(());
        }
        for clause in ["group", "order", "having", "limit", "join", "union"] {
            if self.is_word(0, clause) {
                return Err(self.place().refuse(format!("IoT SQL has no {}", self.kind(0))));
            }
        }
        Err(self.unexpected("the end of the statement"))
    }

    /// Runs `read` one level deeper, or refuses if that is too deep.
    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.depth == DEPTH_MAX {
            return Err(self.place().refuse(format!("nested deeper than {DEPTH_MAX} levels")));
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    // Clauses.

    fn statement(&mut self) -> Result<Statement> {
        let variables = if self.take_word("set") { self.variables()? } else { Vec::new() };
        let (value, items) = self.select_list()?;
        let from = if self.take_word("from") { Some(self.topic_filter()?) } else { None };
        let filter = self.filter()?;
        Ok(Statement { variables, select: Select { value, items, from, filter } })
    }

    fn variables(&mut self) -> Result<Vec<(String, Expr)>> {
        let mut set = Vec::new();
        loop {
            let token = self.advance();
            let Kind::Variable(name) = token.kind else {
                let found = token.kind;
                return Err(token.place.refuse(format!("expected a variable, found {found}")));
            };
            if self.variables.contains(&name) {
                return Err(token.place.refuse(format!("@{name} is set already")));
            }
            if set.len() == VARIABLES_MAX {
                let why = format!("more than {VARIABLES_MAX} variables");
                return Err(token.place.refuse(why));
            }
            self.expect_symbol("=")?;
            let expr = self.expr()?;
            self.variables.push(name.clone());
            set.push((name, expr));
            if !self.take_symbol(",") {
                return Ok(set);
            }
        }
    }

    fn nested(&mut self) -> Result<Nested> {
        let (value, items) = self.select_list()?;
        self.expect_word("from")?;
        let place = self.place();
        let from = self.unary()?;
        let source = match &from {
            Expr::Member(inner, _) => inner,
            source => source,
        };
        let is_path = matches!(from, Expr::Path(_) | Expr::Star);
        if !is_path && !matches!(source, Expr::Variable(..)) {
            return Err(place.unsupported("a nested SELECT from anything but a path"));
        }
        let filter = self.filter()?;
        Ok(Select { value, items, from, filter })
    }

    fn filter(&mut self) -> Result<Option<Expr>> {
        if self.take_word("where") { self.expr().map(Some) } else { Ok(None) }
    }

    fn topic_filter(&mut self) -> Result<TopicFilter> {
        let token = self.advance();
        let Kind::Text(filter) = &token.kind else {
            return Err(token.place.refuse(format!(
                "expected a topic filter in single quotes after FROM, found {}",
                token.kind
            )));
        };
        TopicFilter::parse(filter).map_err(|bad| token.place.refuse(bad))
    }

    fn select_list(&mut self) -> Result<(bool, Vec<Item>)> {
        self.expect_word("select")?;
        let value = self.is_select_value();
        if value {
            self.advance();
        }
        let mut items: Vec<Item> = Vec::new();
        loop {
            let place = self.place();
            let item = self.item(value)?;
            if let Some(clash) = items.iter().find(|other| clashes(&other.path, &item.path)) {
                return Err(place.refuse(match clash.path.as_slice() {
                    [] => "* is given twice".to_owned(),
                    path => format!("the output already has {:?}", path.join(".")),
                }));
            }
            items.push(item);
            if !self.is_symbol(0, ",") {
                return Ok((value, items));
            }
            if value {
                return Err(self.place().refuse("SELECT VALUE takes one expression"));
            }
            self.advance();
        }
    }

    /// Whether the word here is the key word VALUE rather than a member named `value`: if
    /// something follows that can only start an expression.
    fn is_select_value(&self) -> bool {
        if !self.is_word(0, "value") {
            return false;
        }
        match self.kind(1) {
            Kind::Word(word) => {
                let goes_on = ["from", "as", "where", "and", "or", "in"];
                !goes_on.iter().any(|other| word.eq_ignore_ascii_case(other))
            }
            Kind::Number(_) | Kind::Text(_) | Kind::Variable(_) => true,
            Kind::Symbol("*") => self.is_word(2, "from") || *self.kind(2) == Kind::End,
            Kind::Symbol(symbol) => ["(", "[", "{"].contains(symbol),
            Kind::End => false,
        }
    }

    fn item(&mut self, value: bool) -> Result<Item> {
        let place = self.place();
        let expr = self.expr()?;
        if value {
            if self.is_word(0, "as") {
                return Err(self.place().refuse("SELECT VALUE takes no alias"));
            }
            return Ok(Item { expr, path: Vec::new() });
        }
        if self.take_word("as") {
            let mut path = vec![self.name("a name after AS")?];
            while self.take_symbol(".") {
                path.push(self.name("a name after the dot")?);
            }
            return Ok(Item { expr, path });
        }
        let path = match &expr {
            Expr::Star => Vec::new(),
            Expr::Path(path) | Expr::Member(_, path) => path[path.len() - 1..].to_vec(),
            Expr::Call { function, .. } => vec![function.name.to_owned()],
            Expr::EncodePayload => vec!["encode".to_owned()],
            Expr::Cast(..) => vec!["cast".to_owned()],
            _ => return Err(place.refuse("this expression needs a name: add AS and one")),
        };
        Ok(Item { expr, path })
    }

    // Expressions, loosest first.

    fn expr(&mut self) -> Result<Expr> {
        self.deeper(|parser| {
            let mut all = vec![parser.conjunction()?];
            while parser.take_word("or") {
                all.push(parser.conjunction()?);
            }
            Ok(single(all).unwrap_or_else(Expr::Or))
        })
    }

    fn conjunction(&mut self) -> Result<Expr> {
        let mut all = vec![self.negation()?];
        while self.take_word("and") {
            all.push(self.negation()?);
        }
        Ok(single(all).unwrap_or_else(Expr::And))
    }

    fn negation(&mut self) -> Result<Expr> {
        if self.take_word("not") {
            return self.deeper(|parser| Ok(Expr::Not(Box::new(parser.negation()?))));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expr> {
        let left = self.sum()?;
        let compared = if self.take_word("in") {
            Expr::In(Box::new(left), Box::new(self.sum()?))
        } else if let Some(compare) = self.compare() {
            self.advance();
            Expr::Compare(compare, Box::new(left), Box::new(self.sum()?))
        } else {
            return Ok(left);
        };
        if self.compare().is_some() || self.is_word(0, "in") {
            return Err(self.place().refuse("comparisons do not chain; use parentheses and AND"));
        }
        for word in ["like", "between", "is"] {
            if self.is_word(0, word) {
                return Err(self.unexpected("AND, OR or the end of the expression"));
            }
        }
        Ok(compared)
    }

    fn compare(&self) -> Option<Compare> {
        match self.kind(0) {
            Kind::Symbol("=") => Some(Compare::Equal),
            Kind::Symbol("<>") => Some(Compare::NotEqual),
            Kind::Symbol("<") => Some(Compare::Less),
            Kind::Symbol("<=") => Some(Compare::LessOrEqual),
            Kind::Symbol(">") => Some(Compare::Greater),
            Kind::Symbol(">=") => Some(Compare::GreaterOrEqual),
            _ => None,
        }
    }

    fn sum(&mut self) -> Result<Expr> {
        let first = self.product()?;
        let mut rest = Vec::new();
        loop {
            let operator = match self.kind(0) {
                Kind::Symbol("+") => Arithmetic::Add,
                Kind::Symbol("-") => Arithmetic::Subtract,
                _ => return Ok(chain(first, rest)),
            };
            self.advance();
            rest.push((operator, self.product()?));
        }
    }

    fn product(&mut self) -> Result<Expr> {
        let first = self.unary()?;
        let mut rest = Vec::new();
        loop {
            let operator = match self.kind(0) {
                Kind::Symbol("*") => Arithmetic::Multiply,
                Kind::Symbol("/") => Arithmetic::Divide,
                Kind::Symbol("%") => Arithmetic::Modulo,
                _ => return Ok(chain(first, rest)),
            };
            self.advance();
            rest.push((operator, self.unary()?));
        }
    }

    fn unary(&mut self) -> Result<Expr> {
        if self.take_symbol("-") {
            return self.deeper(|parser| Ok(Expr::Negate(Box::new(parser.unary()?))));
        }
        let primary = self.primary()?;
        let mut names = Vec::new();
        while self.take_symbol(".") {
            names.push(self.name("a member's name after the dot; for other names use get()")?);
        }
        if self.is_symbol(0, "[") {
            return Err(self.place().refuse("IoT SQL has no [index]; use get(array, index)"));
        }
        Ok(match (primary, names.is_empty()) {
            (primary, true) => primary,
            (Expr::Path(mut path), false) => {
                path.append(&mut names);
                Expr::Path(path)
            }
            (Expr::Star, false) => Expr::Path(names),
            (primary, false) => Expr::Member(Box::new(primary), names),
        })
    }

    fn primary(&mut self) -> Result<Expr> {
        match self.kind(0).clone() {
            Kind::Number(number) => {
                self.advance();
                Ok(Expr::Literal(number))
            }
            Kind::Text(text) => {
                self.advance();
                Ok(Expr::Literal(Value::String(text)))
            }
            Kind::Symbol("*") => {
                self.advance();
                Ok(Expr::Star)
            }
            Kind::Symbol("(") if self.is_word(1, "select") => {
                self.advance();
                let nested = self.deeper(Self::nested)?;
                self.expect_symbol(")")?;
                Ok(Expr::Select(Box::new(nested)))
            }
            Kind::Symbol("(") => {
                self.advance();
                let inner = self.expr()?;
                self.expect_symbol(")")?;
                Ok(inner)
            }
            Kind::Symbol("[") => {
                self.advance();
                Ok(Expr::Array(self.list("]")?))
            }
            Kind::Symbol("{") => self.object(),
            Kind::Word(word) => self.word(&word),
            Kind::Variable(name) => match self.variables.iter().position(|set| *set == name) {
                Some(index) => {
                    self.advance();
                    Ok(Expr::Variable(index, name))
                }
                None => Err(self.place().refuse(format!("@{name} is not set before"))),
            },
            Kind::Symbol(_) | Kind::End => Err(self.unexpected("an expression")),
        }
    }

    fn word(&mut self, word: &str) -> Result<Expr> {
        let place = self.place();
        if self.is_symbol(1, "(") && !RESERVED.contains(&word.to_lowercase().as_str()) {
            self.at += 2;
            return if word.eq_ignore_ascii_case("cast") {
                self.cast()
            } else {
                self.call(place, word)
            };
        }
        let lower = word.to_lowercase();
        match lower.as_str() {
            "case" => self.case(),
            "exists" => {
                self.advance();
                self.deeper(|parser| Ok(Expr::Exists(Box::new(parser.unary()?))))
            }
            "select" => Err(place.refuse("a nested SELECT stands in parentheses")),
            reserved if RESERVED.contains(&reserved) => Err(self.unexpected("an expression")),
            _ => {
                self.advance();
                Ok(match lower.as_str() {
                    "true" => Expr::Literal(Value::Bool(true)),
                    "false" => Expr::Literal(Value::Bool(false)),
                    "null" => Expr::Literal(Value::Null),
                    _ => Expr::Path(vec![word.to_owned()]),
                })
            }
        }
    }

    /// Reads expressions up to `close`, which is consumed.
    fn list(&mut self, close: &str) -> Result<Vec<Expr>> {
        let mut all = Vec::new();
        if self.take_symbol(close) {
            return Ok(all);
        }
        loop {
            all.push(self.expr()?);
            if self.take_symbol(close) {
                return Ok(all);
            }
            if !self.take_symbol(",") {
                return Err(self.unexpected(&format!("\",\" or \"{close}\"")));
            }
        }
    }

    fn object(&mut self) -> Result<Expr> {
        self.expect_symbol("{")?;
        let mut members: Vec<(String, Expr)> = Vec::new();
        if self.take_symbol("}") {
            return Ok(Expr::Object(members));
        }
        loop {
            let token = self.advance();
            let Kind::Text(key) = token.kind else {
                return Err(token
                    .place
                    .refuse(format!("expected a key in quotes, found {}", token.kind)));
            };
            if members.iter().any(|(other, _)| *other == key) {
                return Err(token.place.refuse(format!("the object already has {key:?}")));
            }
            self.expect_symbol(":")?;
            members.push((key, self.expr()?));
            if self.take_symbol("}") {
                return Ok(Expr::Object(members));
            }
            self.expect_symbol(",")?;
        }
    }

    fn case(&mut self) -> Result<Expr> {
        self.advance();
        if self.is_word(0, "when") {
            return Err(self.unexpected("a value: IoT SQL has only CASE value WHEN value THEN ..."));
        }
        let subject = Box::new(self.expr()?);
        let mut arms = Vec::new();
        self.expect_word("when")?;
        loop {
            let when = self.expr()?;
            self.expect_word("then")?;
            arms.push((when, self.expr()?));
            if !self.take_word("when") {
                break;
            }
        }
        let otherwise = if self.take_word("else") { Some(Box::new(self.expr()?)) } else { None };
        self.expect_word("end")?;
        Ok(Expr::Case { subject, arms, otherwise })
    }

    fn cast(&mut self) -> Result<Expr> {
        let inner = self.expr()?;
        self.expect_word("as")?;
        let token = self.advance();
        let cast = match &token.kind {
            Kind::Word(word) => match word.to_lowercase().as_str() {
                "string" | "nvarchar" | "text" | "ntext" | "varchar" => Some(Cast::String),
                "int" | "integer" => Some(Cast::Int),
                "decimal" | "double" => Some(Cast::Decimal),
                "bool" | "boolean" => Some(Cast::Bool),
                _ => None,
            },
            _ => None,
        };
        let cast = cast.ok_or_else(|| {
            token.place.refuse(format!(
                "{} is not a type; cast to String, Int, Decimal or Boolean",
                token.kind
            ))
        })?;
        self.expect_symbol(")")?;
        Ok(Expr::Cast(Box::new(inner), cast))
    }

    fn call(&mut self, place: Place, name: &str) -> Result<Expr> {
        let function = functions::find(name).map_err(|missing| match missing {
            functions::Missing::Unknown(why) => place.refuse(why),
            functions::Missing::Unsupported(why) => place.never(format!("{name}() {why}")),
        })?;
        let args = self.list(")")?;
        if args.len() > 2 && function.prepare == Prepare::Scheme {
            check_scheme(place, function, &args)?;
        }
        if args.len() < function.args_min || args.len() > function.args_max {
            return Err(place.refuse(format!(
                "{}() takes {}, {} given",
                function.name,
                function.arity(),
                args.len()
            )));
        }
        if function.name == "encode" && matches!(args[0], Expr::Star) {
            check_scheme(place, function, &args)?;
            return Ok(Expr::EncodePayload);
        }
        let prepared = prepare(place, function, &args)?;
        Ok(Expr::Call { function, args, prepared })
    }
}

/// The only element of `all`, or all of them.
fn single(mut all: Vec<Expr>) -> Result<Expr, Vec<Expr>> {
    match all.pop() {
        Some(only) if all.is_empty() => Ok(only),
        Some(last) => {
            all.push(last);
            Err(all)
        }
        None => Err(all),
    }
}

fn chain(first: Expr, rest: Vec<(Arithmetic, Expr)>) -> Expr {
    if rest.is_empty() { first } else { Expr::Arithmetic(Box::new(first), rest) }
}

/// Whether two items write to the same place, or one into the other.
fn clashes(a: &[String], b: &[String]) -> bool {
    match (a.is_empty(), b.is_empty()) {
        (false, false) => a.starts_with(b) || b.starts_with(a),
        (a_merges, b_merges) => a_merges && b_merges,
    }
}

/// Works out what the constant arguments of a call allow, and refuses those that cannot work.
fn prepare(place: Place, function: &'static Function, args: &[Expr]) -> Result<Prepared> {
    let constant = |index: usize| match args.get(index) {
        Some(Expr::Literal(Value::String(text))) => Some(text.as_str()),
        _ => None,
    };
    match function.prepare {
        Prepare::Nothing => Ok(Prepared::Nothing),
        Prepare::Scheme => check_scheme(place, function, args).map(|()| Prepared::Nothing),
        Prepare::Regex => match constant(1) {
            None => Ok(Prepared::Nothing),
            Some(pattern) => match RegexBuilder::new(pattern).size_limit(REGEX_BYTES_MAX).build() {
                Ok(regex) => Ok(Prepared::Regex(regex)),
                Err(bad) => Err(place.refuse(format!(
                    "{}() cannot use the regular expression '{pattern}': {}",
                    function.name,
                    last_line(&bad.to_string())
                ))),
            },
        },
        Prepare::Time(index) => {
            if let Some(zone) = constant(2)
                && time::Zone::parse(zone).is_none()
            {
                return Err(place.refuse(format!(
                    "parse_time() does not know the time zone '{zone}'; \
                     UTC, +02:00 and Europe/Rome are such"
                )));
            }
            match constant(index).map(TimePattern::parse) {
                None => Ok(Prepared::Nothing),
                Some(Ok(pattern)) => Ok(Prepared::Time(pattern)),
                Some(Err(why)) => Err(place.refuse(format!("{}(): {why}", function.name))),
            }
        }
    }
}

fn check_scheme(place: Place, function: &Function, args: &[Expr]) -> Result<()> {
    match args.get(1) {
        Some(Expr::Literal(Value::String(scheme))) if scheme == "base64" => Ok(()),
        Some(Expr::Literal(Value::String(scheme))) if scheme == "proto" => {
            Err(place.never(format!(
                "{}() with 'proto' needs a descriptor from a bucket, which is not read here; \
                 send JSON, or keep the bytes with encode(*, 'base64')",
                function.name
            )))
        }
        Some(Expr::Literal(Value::String(scheme))) => {
            Err(place.unsupported(format!("{}() with scheme '{scheme}'", function.name)))
        }
        _ => Err(place.refuse(format!("the second argument of {}() is 'base64'", function.name))),
    }
}

/// The regex library draws the pattern over several lines and says why in the last.
fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or(text).trim_start_matches("error: ")
}
