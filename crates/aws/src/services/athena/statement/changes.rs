//! Statements that change what is there: rows put into a table or a place, views, columns and
//! partitions; and those that wait for values.

use base::{Error, Result};

use super::{Kind, Name, Output, Reader, Statement, output, tokens};

/// `INSERT INTO ... SELECT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Insert {
    pub(crate) name: Name,
    /// The columns that the rows are for, if it says.
    pub(crate) columns: Vec<String>,
    pub(crate) query: String,
}

/// `UNLOAD (SELECT ...) TO 's3://...'`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unload {
    pub(crate) query: String,
    pub(crate) location: String,
    pub(crate) output: Output,
}

/// A view's definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CreateView {
    pub(crate) name: Name,
    pub(crate) replace: bool,
    pub(crate) query: String,
}

/// A partition: its keys with their values, and where it is said to lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewPartition {
    pub(crate) values: Vec<(String, String)>,
    pub(crate) location: Option<String>,
}

impl Reader<'_> {
    /// One of these, if the statement begins so.
    pub(super) fn change(&mut self) -> Result<Option<Statement>> {
        Ok(Some(if self.take("insert into") {
            self.insert()?
        } else if self.take("unload") {
            self.unload()?
        } else if self.take("create or replace view") {
            self.create_view(true)?
        } else if self.take("create view") {
            self.create_view(false)?
        } else if self.take("drop view") {
            let if_exists = self.take("if exists");
            Statement::DropView { name: self.table()?, if_exists }
        } else if self.take("show views") {
            let database = match self.take("in") || self.take("from") {
                true => Some(self.identifier()?.to_lowercase()),
                false => None,
            };
            _ = self.take("like");
            Statement::ShowViews { database, like: self.optional_text() }
        } else if self.take("show create table") {
            Statement::ShowCreateTable(self.table()?)
        } else if self.take("show create view") {
            Statement::ShowCreateView(self.table()?)
        } else if self.take("show tblproperties") {
            Statement::ShowProperties(self.table()?)
        } else if self.take("alter table") {
            self.alter()?
        } else if self.take("prepare") {
            let name = self.identifier()?;
            self.need("from")?;
            Statement::Prepare { name, sql: self.rest() }
        } else if self.take("deallocate prepare") {
            Statement::Deallocate(self.identifier()?)
        } else {
            return Ok(None);
        }))
    }

    fn insert(&mut self) -> Result<Statement> {
        let name = self.table()?;
        let mut columns = Vec::new();
        // A bracket may also begin the query.
        let lists = self.all.get(self.at + 1).is_some_and(|token| {
            !["select", "with", "values"].iter().any(|word| token.is(word))
                && token.kind != Kind::Mark('(')
        });
        if lists && self.take_mark('(') {
            loop {
                columns.push(self.identifier()?.to_lowercase());
                if !self.take_mark(',') {
                    self.need_mark(')')?;
                    break;
                }
            }
        }
        let query = self.rest();
        if query.is_empty() {
            return Err(Error::invalid("INSERT INTO needs a SELECT or VALUES"));
        }
        Ok(Statement::Insert(Insert { name, columns, query }))
    }

    fn unload(&mut self) -> Result<Statement> {
        let from = self.at;
        self.need_mark('(')?;
        let mut depth = 1_usize;
        while depth > 0 {
            match self.peek().map(|token| token.kind.clone()) {
                None => return Err(self.expected("')'")),
                Some(Kind::Mark('(')) => depth += 1,
                Some(Kind::Mark(')')) => depth -= 1,
                Some(_) => {}
            }
            self.at += 1;
        }
        let query = self.text_between(from + 1, self.at - 1);
        self.need("to")?;
        let location = self.text()?;
        self.need("with")?;
        self.need_mark('(')?;
        let mut options = output::Options::default();
        loop {
            let name = self.identifier()?.to_lowercase();
            self.need_mark('=')?;
            if !self.output_option(&name, "UNLOAD", &mut options)? {
                return Err(Error::unsupported(format!(
                    "{name} of UNLOAD: it is not supported; leave it out"
                )));
            }
            if !self.take_mark(',') {
                self.need_mark(')')?;
                break;
            }
        }
        if !options.have_format() {
            return Err(Error::invalid(
                "UNLOAD needs WITH (format = 'PARQUET'), 'JSON' or 'TEXTFILE'",
            ));
        }
        Ok(Statement::Unload(Unload { query, location, output: options.output("UNLOAD")? }))
    }

    fn create_view(&mut self, replace: bool) -> Result<Statement> {
        let name = self.table()?;
        self.need("as")?;
        Ok(Statement::CreateView(CreateView { name, replace, query: self.rest() }))
    }

    fn alter(&mut self) -> Result<Statement> {
        let name = self.table()?;
        if self.take("add columns") {
            return Ok(Statement::AddColumns { name, columns: self.columns()? });
        }
        if self.take("add") {
            let if_not_exists = self.if_not_exists();
            let mut partitions = Vec::new();
            while self.take("partition") {
                let values = self.partition_values()?;
                let location = if self.take("location") { Some(self.text()?) } else { None };
                partitions.push(NewPartition { values, location });
            }
            if partitions.is_empty() {
                return Err(self.expected("COLUMNS or PARTITION"));
            }
            return Ok(Statement::AddPartitions { name, if_not_exists, partitions });
        }
        if self.take("drop") {
            let if_exists = self.take("if exists");
            let mut partitions = Vec::new();
            loop {
                self.need("partition")?;
                partitions.push(self.partition_values()?);
                if !self.take_mark(',') {
                    break;
                }
            }
            return Ok(Statement::DropPartitions { name, if_exists, partitions });
        }
        Err(Error::unsupported(
            "ALTER TABLE is supported with ADD COLUMNS, ADD PARTITION and DROP PARTITION only",
        ))
    }

    /// `(key = 'value', ...)`.
    fn partition_values(&mut self) -> Result<Vec<(String, String)>> {
        self.need_mark('(')?;
        let mut values: Vec<(String, String)> = Vec::new();
        loop {
            let key = self.identifier()?.to_lowercase();
            self.need_mark('=')?;
            let value = match self.peek().map(|token| (&token.kind, token.text)) {
                Some((Kind::Word, word)) => {
                    let word = word.to_owned();
                    self.at += 1;
                    word
                }
                _ => self.text()?,
            };
            values.push((key, value));
            if !self.take_mark(',') {
                self.need_mark(')')?;
                return Ok(values);
            }
        }
    }

    /// The text of the tokens `from..to`.
    fn text_between(&self, from: usize, to: usize) -> String {
        match (self.all.get(from), self.all[..to].last()) {
            (Some(first), Some(last)) if from < to => self.sql[first.start..last.end()].to_owned(),
            _ => String::new(),
        }
    }
}

/// The name and the values of an EXECUTE; nothing for another statement.
pub(crate) fn executed(sql: &str) -> Result<Option<(String, Vec<String>)>> {
    let mut all = tokens(sql)?;
    while all.last().is_some_and(|token| token.kind == Kind::Mark(';')) {
        all.pop();
    }
    let mut reader = Reader { sql, all, at: 0 };
    if !reader.take("execute") {
        return Ok(None);
    }
    let name = reader.identifier()?;
    let mut values = Vec::new();
    if reader.take("using") {
        let mut from = reader.at;
        while reader.peek().is_some() {
            if reader.peek().is_some_and(|token| token.kind == Kind::Mark(',')) {
                values.push(reader.text_between(from, reader.at));
                from = reader.at + 1;
            }
            reader.at += 1;
        }
        values.push(reader.text_between(from, reader.at));
    } else if reader.peek().is_some() {
        return Err(reader.expected("USING"));
    }
    Ok(Some((name, values)))
}

/// A statement with values in the place of its `?`.
pub(crate) fn bound(sql: &str, values: &[String]) -> Result<String> {
    let all = tokens(sql)?;
    let places: Vec<usize> =
        all.iter().filter(|token| token.kind == Kind::Mark('?')).map(|token| token.start).collect();
    if places.len() != values.len() {
        return Err(Error::invalid(format!(
            "Incorrect number of parameters: expected {} but found {}",
            places.len(),
            values.len()
        )));
    }
    let (mut out, mut from) = (String::new(), 0);
    for (place, value) in places.into_iter().zip(values) {
        check_literal(value)?;
        out.push_str(&sql[from..place]);
        out.push_str(value.trim());
        from = place + 1;
    }
    out.push_str(&sql[from..]);
    Ok(out)
}

/// A value may be nothing but one.
fn check_literal(value: &str) -> Result<()> {
    let all = tokens(value)?;
    let kinds: Vec<&Kind> = all.iter().map(|token| &token.kind).collect();
    let is_number = |at: usize| {
        all.get(at).is_some_and(|token| token.text.starts_with(|c: char| c.is_ascii_digit()))
    };
    let unsigned = usize::from(matches!(kinds.first(), Some(Kind::Mark('-' | '+'))));
    let fits = match kinds[unsigned..] {
        [Kind::Text(_)] => unsigned == 0,
        [Kind::Word] => {
            is_number(unsigned) || ["true", "false", "null"].iter().any(|word| all[0].is(word))
        }
        [Kind::Word, Kind::Mark('.'), Kind::Word] => is_number(unsigned) && is_number(unsigned + 2),
        [Kind::Word, Kind::Text(_)] => {
            ["date", "timestamp", "time", "decimal"].iter().any(|word| all[0].is(word))
        }
        _ => false,
    };
    match fits {
        true => Ok(()),
        false => Err(Error::invalid(format!(
            "{value:?} is no value; write a number, a text in single quotes, true, false, null, \
             DATE '...' or TIMESTAMP '...'"
        ))),
    }
}
