//! Which kind of statement a text is, and the parts of those that the query engine does not
//! answer itself: definitions, and questions about the catalog.
//!
//! A text is cut into tokens that remember their place, so that types and the SELECT of a
//! CREATE TABLE AS are taken over as they were written.

mod changes;
mod output;

use std::collections::BTreeMap;

use base::{Error, Result};
use formats::csv::Dialect;

use crate::services::text_serde;

pub(crate) use self::changes::{CreateView, Insert, NewPartition, Unload, bound, executed};
pub(crate) use self::output::{Output, Packing, Stored};

/// A statement, as far as it must be understood here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Statement {
    /// Rows: the text is the engine's to read.
    Query(String),
    /// `EXPLAIN`: also the engine's, but no data.
    Explain(String),
    CreateDatabase {
        name: String,
        if_not_exists: bool,
        comment: String,
    },
    DropDatabase {
        name: String,
        if_exists: bool,
        cascade: bool,
    },
    ShowDatabases {
        like: Option<String>,
    },
    ShowTables {
        database: Option<String>,
        like: Option<String>,
    },
    ShowColumns(Name),
    ShowPartitions(Name),
    Describe(Name),
    DropTable {
        name: Name,
        if_exists: bool,
    },
    CreateTable(Box<CreateTable>),
    CreateTableAs(Box<CreateTableAs>),
    Repair(Name),
    Insert(Insert),
    Unload(Unload),
    CreateView(CreateView),
    DropView {
        name: Name,
        if_exists: bool,
    },
    ShowViews {
        database: Option<String>,
        like: Option<String>,
    },
    ShowCreateTable(Name),
    ShowCreateView(Name),
    ShowProperties(Name),
    AddColumns {
        name: Name,
        columns: Vec<Column>,
    },
    AddPartitions {
        name: Name,
        if_not_exists: bool,
        partitions: Vec<NewPartition>,
    },
    DropPartitions {
        name: Name,
        if_exists: bool,
        partitions: Vec<Vec<(String, String)>>,
    },
    Prepare {
        name: String,
        sql: String,
    },
    Deallocate(String),
}

/// A table as a statement names it, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) database: Option<String>,
    pub(crate) table: String,
}

/// A column of a definition: name, type as written, comment.
pub(crate) type Column = (String, String, Option<String>);

/// What the objects of a table hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Parquet,
    Csv(Dialect),
}

/// `CREATE EXTERNAL TABLE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CreateTable {
    pub(crate) name: Name,
    pub(crate) if_not_exists: bool,
    pub(crate) columns: Vec<Column>,
    pub(crate) partition_keys: Vec<Column>,
    pub(crate) comment: Option<String>,
    pub(crate) format: Format,
    pub(crate) location: String,
    pub(crate) properties: Vec<(String, String)>,
}

/// `CREATE TABLE ... AS SELECT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CreateTableAs {
    pub(crate) name: Name,
    pub(crate) if_not_exists: bool,
    /// Where its files go; beneath the query's results when the statement does not say.
    pub(crate) location: Option<String>,
    pub(crate) output: Output,
    pub(crate) with_data: bool,
    pub(crate) query: String,
}

impl Statement {
    /// Athena's word for the kind.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Statement::Query(_) | Statement::Insert(_) | Statement::Unload(_) => "DML",
            Statement::Explain(_)
            | Statement::ShowDatabases { .. }
            | Statement::ShowTables { .. }
            | Statement::ShowColumns(_)
            | Statement::ShowPartitions(_)
            | Statement::Describe(_)
            | Statement::ShowViews { .. }
            | Statement::ShowCreateTable(_)
            | Statement::ShowCreateView(_)
            | Statement::ShowProperties(_) => "UTILITY",
            _ => "DDL",
        }
    }

    /// What follows the query's id in the name of its result.
    pub(crate) fn extension(&self) -> &'static str {
        match self {
            Statement::Query(_) | Statement::Explain(_) => ".csv",
            Statement::CreateTableAs(_) | Statement::Insert(_) | Statement::Unload(_) => "",
            _ => ".txt",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// A bare word: letters, digits, `_`, `$`.
    Word,
    /// `"..."` or `` `...` ``, without its quotes.
    Quoted(String),
    /// `'...'`, without its quotes.
    Text(String),
    /// Anything else, one character.
    Mark(char),
}

#[derive(Clone, Debug)]
struct Token<'a> {
    kind: Kind,
    text: &'a str,
    start: usize,
}

impl Token<'_> {
    fn end(&self) -> usize {
        self.start + self.text.len()
    }

    fn is(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text.eq_ignore_ascii_case(word)
    }
}

/// Cuts a text; comments and spaces go.
fn tokens(sql: &str) -> Result<Vec<Token<'_>>> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(letter) = sql[at..].chars().next() {
        let rest = &sql[at..];
        let (kind, length) = if letter.is_whitespace() {
            at += letter.len_utf8();
            continue;
        } else if rest.starts_with("--") {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        } else if rest.starts_with("/*") {
            let end = rest.find("*/").ok_or_else(|| Error::invalid("a comment is not closed"))?;
            at += end + 2;
            continue;
        } else if matches!(letter, '"' | '`' | '\'') {
            let (value, length) = quoted(rest, letter)?;
            let kind = if letter == '\'' { Kind::Text(value) } else { Kind::Quoted(value) };
            (kind, length)
        } else if is_word(letter) {
            (Kind::Word, rest.find(|c| !is_word(c)).unwrap_or(rest.len()))
        } else {
            (Kind::Mark(letter), letter.len_utf8())
        };
        found.push(Token { kind, text: &rest[..length], start: at });
        at += length;
    }
    Ok(found)
}

fn is_word(letter: char) -> bool {
    letter.is_alphanumeric() || matches!(letter, '_' | '$')
}

/// The value of a quoted text, in which a doubled quote is one, and its length with quotes.
fn quoted(rest: &str, quote: char) -> Result<(String, usize)> {
    let mut value = String::new();
    let mut letters = rest.char_indices().skip(1).peekable();
    while let Some((index, letter)) = letters.next() {
        if letter != quote {
            value.push(letter);
        } else if letters.next_if(|(_, next)| *next == quote).is_some() {
            value.push(quote);
        } else {
            return Ok((value, index + 1));
        }
    }
    Err(Error::invalid(format!("a quote {quote} is not closed")))
}

/// Understands a statement.
pub(crate) fn parse(sql: &str) -> Result<Statement> {
    let mut all = tokens(sql)?;
    while all.last().is_some_and(|token| token.kind == Kind::Mark(';')) {
        all.pop();
    }
    if all.iter().any(|token| token.kind == Kind::Mark(';')) {
        return Err(Error::invalid("Only one sql statement is allowed"));
    }
    let mut reader = Reader { sql, all, at: 0 };
    let found = reader.statement()?;
    match reader.peek() {
        None => Ok(found),
        Some(_) => Err(reader.expected("the end of the statement")),
    }
}

struct Reader<'a> {
    sql: &'a str,
    all: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<&Token<'a>> {
        self.all.get(self.at)
    }

    fn expected(&self, what: &str) -> Error {
        match self.peek() {
            None => Error::invalid(format!("the statement ends where {what} is expected")),
            Some(token) => {
                let before = &self.sql[..token.start];
                let line = before.matches('\n').count() + 1;
                let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
                Error::invalid(format!(
                    "line {line}:{column}: mismatched input '{}'. Expecting: {what}",
                    token.text
                ))
            }
        }
    }

    /// Takes these words if they are next.
    fn take(&mut self, words: &str) -> bool {
        let words: Vec<&str> = words.split(' ').collect();
        let next = &self.all[self.at..];
        let fits =
            next.len() >= words.len() && next.iter().zip(&words).all(|(token, w)| token.is(w));
        if fits {
            self.at += words.len();
        }
        fits
    }

    fn take_mark(&mut self, mark: char) -> bool {
        let fits = self.peek().is_some_and(|token| token.kind == Kind::Mark(mark));
        self.at += usize::from(fits);
        fits
    }

    fn need(&mut self, words: &str) -> Result<()> {
        if self.take(words) { Ok(()) } else { Err(self.expected(&words.to_uppercase())) }
    }

    fn need_mark(&mut self, mark: char) -> Result<()> {
        if self.take_mark(mark) { Ok(()) } else { Err(self.expected(&format!("'{mark}'"))) }
    }

    /// A name as it is spelled.
    fn identifier(&mut self) -> Result<String> {
        let name = match self.peek().map(|token| (&token.kind, token.text)) {
            Some((Kind::Word, text)) => text.to_owned(),
            Some((Kind::Quoted(value), _)) => value.clone(),
            _ => return Err(self.expected("a name")),
        };
        self.at += 1;
        Ok(name)
    }

    fn text(&mut self) -> Result<String> {
        let Some(Kind::Text(value)) = self.peek().map(|token| token.kind.clone()) else {
            return Err(self.expected("a text in single quotes"));
        };
        self.at += 1;
        Ok(value)
    }

    fn optional_text(&mut self) -> Option<String> {
        self.text().ok()
    }

    /// `name`, `database.name` or `awsdatacatalog.database.name`; or `"database.name"`.
    fn table(&mut self) -> Result<Name> {
        let mut parts = vec![self.identifier()?.to_lowercase()];
        while self.take_mark('.') {
            parts.push(self.identifier()?.to_lowercase());
        }
        if parts.len() == 3 && parts[0] == CATALOG {
            parts.remove(0);
        }
        let written = parts.join(".");
        match (parts.pop(), parts.pop(), parts.is_empty()) {
            (Some(table), database, true) => Ok(Name { database, table }),
            _ => Err(Error::invalid(format!(
                "{written:?} is no table of AwsDataCatalog: write it as database.table"
            ))),
        }
    }

    fn if_not_exists(&mut self) -> bool {
        self.take("if not exists")
    }

    fn statement(&mut self) -> Result<Statement> {
        let starts = |word: &str| self.peek().is_some_and(|token| token.is(word));
        let bracket = self.peek().is_some_and(|token| token.kind == Kind::Mark('('));
        if bracket || starts("select") || starts("with") || starts("values") || starts("table") {
            return Ok(Statement::Query(self.rest()));
        }
        if starts("explain") {
            return Ok(Statement::Explain(self.rest()));
        }
        if self.take("create database") || self.take("create schema") {
            return self.create_database();
        }
        if self.take("drop database") || self.take("drop schema") {
            let if_exists = self.take("if exists");
            let name = self.identifier()?.to_lowercase();
            let cascade = self.take("cascade");
            _ = !cascade && self.take("restrict");
            return Ok(Statement::DropDatabase { name, if_exists, cascade });
        }
        if self.take("show databases") || self.take("show schemas") {
            _ = self.take("like");
            return Ok(Statement::ShowDatabases { like: self.optional_text() });
        }
        if self.take("show tables") {
            let database = match self.take("in") || self.take("from") {
                true => Some(self.identifier()?.to_lowercase()),
                false => None,
            };
            _ = self.take("like");
            return Ok(Statement::ShowTables { database, like: self.optional_text() });
        }
        if self.take("show columns") {
            if !self.take("in") {
                self.need("from")?;
            }
            let mut name = self.table()?;
            if self.take("in") || self.take("from") {
                name.database = Some(self.identifier()?.to_lowercase());
            }
            return Ok(Statement::ShowColumns(name));
        }
        if self.take("show partitions") {
            return Ok(Statement::ShowPartitions(self.table()?));
        }
        if self.take("describe") || self.take("desc") {
            if self.take("extended") || self.take("formatted") {
                return Err(Error::unsupported(
                    "DESCRIBE EXTENDED and FORMATTED are not supported; use DESCRIBE table",
                ));
            }
            return Ok(Statement::Describe(self.table()?));
        }
        if self.take("drop table") {
            let if_exists = self.take("if exists");
            return Ok(Statement::DropTable { name: self.table()?, if_exists });
        }
        if self.take("create external table") {
            return self.create_table();
        }
        if self.take("create table") {
            return self.create_table_as();
        }
        if self.take("msck repair table") {
            return Ok(Statement::Repair(self.table()?));
        }
        match self.change()? {
            Some(found) => Ok(found),
            None => Err(self.refused()),
        }
    }

    fn refused(&self) -> Error {
        let first: Vec<String> =
            self.all.iter().take(2).map(|token| token.text.to_uppercase()).collect();
        match first.is_empty() {
            true => Error::invalid("the statement is empty"),
            false => Error::unsupported(format!(
                "{} is not supported. Forebay answers SELECT, WITH, VALUES and EXPLAIN; CREATE and \
                 DROP DATABASE; CREATE EXTERNAL TABLE, CREATE TABLE AS and DROP TABLE; INSERT INTO \
                 and UNLOAD; CREATE and DROP VIEW; ALTER TABLE ADD COLUMNS, ADD and DROP \
                 PARTITION; MSCK REPAIR TABLE; PREPARE, EXECUTE and DEALLOCATE; SHOW DATABASES, \
                 TABLES, VIEWS, COLUMNS, PARTITIONS, TBLPROPERTIES, CREATE TABLE and CREATE VIEW; \
                 DESCRIBE",
                first.join(" ")
            )),
        }
    }

    /// Everything that is left, for the engine: without the catalog's name, which the engine
    /// knows in lower case only.
    fn rest(&mut self) -> String {
        let left = &self.all[self.at..];
        let mut out = String::new();
        let mut from = left.first().map_or(self.sql.len(), |token| token.start);
        for pair in left.windows(2) {
            let names_catalog = match &pair[0].kind {
                Kind::Word => pair[0].text.eq_ignore_ascii_case(CATALOG),
                Kind::Quoted(value) => value.eq_ignore_ascii_case(CATALOG),
                _ => false,
            };
            if names_catalog && pair[1].kind == Kind::Mark('.') {
                out.push_str(&self.sql[from..pair[0].start]);
                from = pair[1].end();
            }
        }
        let end = left.last().map_or(self.sql.len(), Token::end);
        out.push_str(self.sql.get(from..end).unwrap_or_default());
        self.at = self.all.len();
        out
    }

    fn create_database(&mut self) -> Result<Statement> {
        let if_not_exists = self.if_not_exists();
        let name = self.identifier()?.to_lowercase();
        let comment = if self.take("comment") { self.text()? } else { String::new() };
        if self.take("location") || self.take("with dbproperties") {
            return Err(Error::unsupported(
                "LOCATION and DBPROPERTIES of a database are not supported; give each table its \
                 LOCATION",
            ));
        }
        Ok(Statement::CreateDatabase { name, if_not_exists, comment })
    }

    fn create_table(&mut self) -> Result<Statement> {
        let if_not_exists = self.if_not_exists();
        let name = self.table()?;
        let columns = self.columns()?;
        let mut table = CreateTable {
            name,
            if_not_exists,
            columns,
            partition_keys: Vec::new(),
            comment: None,
            format: Format::Csv(text_serde::hive()),
            location: String::new(),
            properties: Vec::new(),
        };
        let mut format = None;
        while self.peek().is_some() {
            self.clause(&mut table, &mut format)?;
        }
        // Who says nothing has delimited text, as in Hive.
        table.format = format.unwrap_or_else(|| Format::Csv(text_serde::hive()));
        if table.location.is_empty() {
            return Err(Error::invalid(
                "CREATE EXTERNAL TABLE needs LOCATION 's3://bucket/prefix/'",
            ));
        }
        Ok(Statement::CreateTable(Box::new(table)))
    }

    fn clause(&mut self, table: &mut CreateTable, format: &mut Option<Format>) -> Result<()> {
        if self.take("comment") {
            table.comment = Some(self.text()?);
        } else if self.take("partitioned by") {
            table.partition_keys = self.columns()?;
        } else if self.take("row format serde") {
            let library = self.text()?;
            let with = self.take("with serdeproperties");
            let properties = if with { self.properties()? } else { Vec::new() };
            let known: BTreeMap<String, String> = properties.iter().cloned().collect();
            let text = text_serde::dialect(&library, &known, &BTreeMap::new())?;
            *format = Some(match text {
                Some(dialect) => Format::Csv(dialect),
                None => {
                    let found = format_of(&library)?;
                    properties.iter().try_for_each(check_serde_property)?;
                    found
                }
            });
        } else if self.take("row format delimited") {
            *format = Some(Format::Csv(self.delimited()?));
        } else if self.take("stored as inputformat") {
            let input = self.text()?;
            self.need("outputformat")?;
            drop(self.text()?);
            check_input_format(&input, format.as_ref())?;
        } else if self.take("stored as") {
            let stored = self.identifier()?;
            match (stored.to_ascii_uppercase().as_str(), &*format) {
                ("PARQUET", _) => *format = Some(Format::Parquet),
                // Lines of text: what they hold is said by the ROW FORMAT.
                ("TEXTFILE", Some(Format::Json | Format::Csv(_)) | None) => {}
                ("JSON" | "JSONFILE", _) => *format = Some(Format::Json),
                _ => {
                    return Err(Error::unsupported(format!(
                        "STORED AS {stored} is not supported here; use PARQUET, or TEXTFILE with a \
                         ROW FORMAT"
                    )));
                }
            }
        } else if self.take("location") {
            table.location = self.text()?;
        } else if self.take("tblproperties") {
            table.properties = self.properties()?;
        } else {
            return Err(self.expected(
                "COMMENT, PARTITIONED BY, ROW FORMAT, STORED AS, LOCATION or TBLPROPERTIES",
            ));
        }
        Ok(())
    }

    /// What follows ROW FORMAT DELIMITED.
    fn delimited(&mut self) -> Result<Dialect> {
        let mut properties = BTreeMap::new();
        loop {
            let name = if self.take("fields terminated by") {
                "field.delim"
            } else if self.take("escaped by") {
                "escape.delim"
            } else if self.take("collection items terminated by") {
                "collection.delim"
            } else if self.take("map keys terminated by") {
                "mapkey.delim"
            } else if self.take("lines terminated by") {
                "line.delim"
            } else if self.take("null defined as") {
                "serialization.null.format"
            } else {
                break;
            };
            let mut value = self.text()?;
            if name == "line.delim" && value == "\\n" {
                value = "\n".into();
            }
            properties.insert(name.to_owned(), value);
        }
        let dialect = text_serde::dialect(text_serde::LAZY, &properties, &BTreeMap::new())?;
        dialect.ok_or_else(|| Error::internal("Hive's SerDe is not known"))
    }

    /// `(name type [COMMENT 'text'], ...)`.
    fn columns(&mut self) -> Result<Vec<Column>> {
        self.need_mark('(')?;
        let mut columns = Vec::new();
        loop {
            let name = self.identifier()?;
            let hive_type = self.column_type()?;
            let comment = if self.take("comment") { Some(self.text()?) } else { None };
            columns.push((name, hive_type, comment));
            if !self.take_mark(',') {
                self.need_mark(')')?;
                return Ok(columns);
            }
        }
    }

    /// A type as it is written, up to what ends a column.
    fn column_type(&mut self) -> Result<String> {
        let mut depth = 0_usize;
        let from = self.at;
        while let Some(token) = self.peek() {
            match token.kind {
                Kind::Mark('(' | '<') => depth += 1,
                Kind::Mark(',' | ')') if depth == 0 => break,
                Kind::Mark(')' | '>') => depth = depth.saturating_sub(1),
                Kind::Word if depth == 0 && token.is("comment") => break,
                _ => {}
            }
            self.at += 1;
        }
        let Some((first, last)) =
            self.all[from..self.at].first().zip(self.all[from..self.at].last())
        else {
            return Err(self.expected("a column's type"));
        };
        let written = &self.sql[first.start..last.end()];
        Ok(written.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_lowercase())
    }

    /// `('name'='value', ...)`.
    fn properties(&mut self) -> Result<Vec<(String, String)>> {
        self.need_mark('(')?;
        let mut found = Vec::new();
        loop {
            let name = self.text()?;
            self.need_mark('=')?;
            found.push((name, self.text()?));
            if !self.take_mark(',') {
                self.need_mark(')')?;
                return Ok(found);
            }
        }
    }

    fn create_table_as(&mut self) -> Result<Statement> {
        let if_not_exists = self.if_not_exists();
        let name = self.table()?;
        let mut table = CreateTableAs {
            name,
            if_not_exists,
            location: None,
            output: Output::default(),
            with_data: true,
            query: String::new(),
        };
        if self.peek().is_some_and(|token| token.kind == Kind::Mark('(')) {
            return Err(Error::unsupported(
                "CREATE TABLE with columns makes an Iceberg table, which is not supported; use \
                 CREATE EXTERNAL TABLE or CREATE TABLE ... AS SELECT",
            ));
        }
        if self.take("with") {
            self.need_mark('(')?;
            let mut options = output::Options::default();
            loop {
                self.option(&mut table, &mut options)?;
                if !self.take_mark(',') {
                    self.need_mark(')')?;
                    break;
                }
            }
            table.output = options.output(CREATE_AS)?;
        }
        self.need("as")?;
        self.cut_with_no_data(&mut table);
        table.query = self.rest();
        if table.query.is_empty() {
            return Err(Error::invalid("CREATE TABLE ... AS needs a SELECT"));
        }
        Ok(Statement::CreateTableAs(Box::new(table)))
    }

    /// `WITH [NO] DATA` at the very end.
    fn cut_with_no_data(&mut self, table: &mut CreateTableAs) {
        let ends = |words: &[&str]| {
            let from = self.all.len().saturating_sub(words.len());
            from > self.at && self.all[from..].iter().zip(words).all(|(token, w)| token.is(w))
        };
        if ends(&["with", "no", "data"]) {
            table.with_data = false;
            self.all.truncate(self.all.len() - 3);
        } else if ends(&["with", "data"]) {
            self.all.truncate(self.all.len() - 2);
        }
    }

    fn option(&mut self, table: &mut CreateTableAs, options: &mut output::Options) -> Result<()> {
        let name = self.identifier()?.to_lowercase();
        self.need_mark('=')?;
        if self.output_option(&name, CREATE_AS, options)? {
            return Ok(());
        }
        let refused = |why: &str| Err(Error::unsupported(format!("{name} of {CREATE_AS}: {why}")));
        match name.as_str() {
            "external_location" => {
                table.location = Some(self.text()?);
                Ok(())
            }
            "table_type" => match self.text()?.to_ascii_uppercase().as_str() {
                "HIVE" => Ok(()),
                other => refused(&format!("{other:?} is not supported; use 'HIVE'")),
            },
            "is_external" if self.take("true") => Ok(()),
            _ => refused("it is not supported; leave it out"),
        }
    }
}

/// What messages call it.
const CREATE_AS: &str = "CREATE TABLE AS";

/// The only catalog, in lower case.
pub(crate) const CATALOG: &str = "awsdatacatalog";

fn format_of(serde: &str) -> Result<Format> {
    match serde {
        "org.openx.data.jsonserde.JsonSerDe"
        | "org.apache.hive.hcatalog.data.JsonSerDe"
        | "org.apache.hadoop.hive.serde2.JsonSerDe" => Ok(Format::Json),
        "org.apache.hadoop.hive.ql.io.parquet.serde.ParquetHiveSerDe" => Ok(Format::Parquet),
        other => Err(Error::unsupported(format!(
            "SERDE {other:?} is not supported; use org.openx.data.jsonserde.JsonSerDe, {}, {} \
             or STORED AS PARQUET",
            text_serde::LAZY,
            text_serde::OPEN
        ))),
    }
}

/// Only what the readers do anyway: bad records are set aside, keys are found in any case.
fn check_serde_property((name, value): &(String, String)) -> Result<()> {
    let fits = match name.as_str() {
        "serialization.format" => value == "1",
        "ignore.malformed.json" | "case.insensitive" => value.eq_ignore_ascii_case("true"),
        "dots.in.keys" => value.eq_ignore_ascii_case("false"),
        // The keys that the columns name anyway.
        "paths" => true,
        _ => false,
    };
    match fits {
        true => Ok(()),
        false => Err(Error::unsupported(format!(
            "SERDEPROPERTIES {name:?} = {value:?} is not supported; leave it out"
        ))),
    }
}

fn check_input_format(input: &str, format: Option<&Format>) -> Result<()> {
    let fits = match format {
        Some(Format::Parquet) => input.ends_with("MapredParquetInputFormat"),
        Some(Format::Json | Format::Csv(_)) => input == "org.apache.hadoop.mapred.TextInputFormat",
        None => false,
    };
    match fits {
        true => Ok(()),
        false => Err(Error::unsupported(format!(
            "INPUTFORMAT {input:?} is not supported here; it must fit the ROW FORMAT SERDE before it"
        ))),
    }
}

/// Whether a name fits a pattern of SHOW: `*` is anything, `|` means or.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    pattern.split('|').any(|choice| fits(&choice.to_lowercase(), name))
}

fn fits(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}
