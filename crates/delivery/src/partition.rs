//! Dynamic partitioning: what within a record decides where it goes.
//!
//! Firehose asks jq for an object and puts its members into the prefix. The query runs on every
//! record, again after a crash, so it must give the same again: what reads a clock, the
//! environment or the machine's time zone is not part of the language here.

use std::panic::{AssertUnwindSafe, catch_unwind};

use base::{Error, Result};
use jaq_core::load::{Arena, File, Loader, lex, parse};
use jaq_core::{Compiler, Ctx, Filter, Vars, data, unwrap_valr};
use jaq_json::{Num, Val, read};
use jaq_std::ValT;
use rules::json;
use serde_json::value::RawValue;

use crate::stream::Deaggregation;

/// Filters of jq that another run could answer otherwise, that write to the server's own
/// output, or that end the process.
const NOT_HERE: [&str; 10] = [
    "now",
    "env",
    "localtime",
    "strflocaltime",
    "debug",
    "stderr",
    "halt",
    "halt_error",
    "debug_empty",
    "stderr_empty",
];

/// Longest query that is compiled.
const QUERY_BYTES_MAX: usize = 5 * 1024;

/// A compiled query, asked for the values of a prefix.
pub(crate) struct Query {
    filter: Filter<data::JustLut<Val>>,
    names: Vec<String>,
}

impl std::fmt::Debug for Query {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Query").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Query {
    /// Compiles `query`, which is to give a value for each of `names`.
    pub(crate) fn compile(query: &str, names: Vec<String>) -> Result<Query> {
        let bad = |why: String| Error::invalid(format!("jq query {query:?}: {why}"));
        if query.len() > QUERY_BYTES_MAX {
            return Err(bad(format!("longer than {QUERY_BYTES_MAX} bytes")));
        }
        let definitions = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
        let definitions = definitions.filter(|definition| !NOT_HERE.contains(&definition.name));
        let arena = Arena::default();
        let loaded = Loader::new(definitions).load(&arena, File { code: query, path: () });
        let modules = loaded.map_err(|errors| {
            let first = errors.into_iter().next().map(|(_, error)| unreadable(&error));
            bad(first.unwrap_or_else(|| "it is not jq".to_owned()))
        })?;
        let native = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
        let native = native.filter(|(name, ..)| !NOT_HERE.contains(name));
        let filter = Compiler::default().with_funs(native).compile(modules).map_err(|errors| {
            let first = errors.into_iter().flat_map(|(_, undefined)| undefined).next();
            bad(match first {
                Some((name, _)) if NOT_HERE.contains(&name) => format!(
                    "{name} may answer otherwise when a batch is made again, so it is not allowed"
                ),
                Some((name, _)) => format!("{name} is unknown"),
                None => "it is not jq".to_owned(),
            })
        })?;
        Ok(Query { filter, names })
    }

    /// The values for a record, in the order of the names; or what is wrong, for the person
    /// who finds the record in the error prefix.
    pub(crate) fn values(&self, record: &[u8]) -> std::result::Result<Vec<String>, String> {
        // Bounds the nesting before a parser descends.
        json::check(record)?;
        // A library's panic costs this record its place, and nobody else.
        catch_unwind(AssertUnwindSafe(|| self.ask(record)))
            .unwrap_or_else(|_panic| Err("the query broke off".to_owned()))
    }

    fn ask(&self, record: &[u8]) -> std::result::Result<Vec<String>, String> {
        let record = read::parse_single(record).map_err(|error| error.to_string())?;
        let context = Ctx::<data::JustLut<Val>>::new(&self.filter.lut, Vars::new([]));
        let mut answers = self.filter.id.run((context, record)).map(unwrap_valr);
        let answer = match answers.next() {
            Some(Ok(answer)) => answer,
            Some(Err(error)) => return Err(format!("the query failed: {error}")),
            None => return Err("the query gave nothing".to_owned()),
        };
        let Val::Obj(members) = &answer else {
            return Err(format!("the query gave {answer}, which is no object"));
        };
        let value = |name: &String| match members.get(&Val::from(name.clone())) {
            Some(value) => text_of(value).ok_or_else(|| {
                format!("partition key {name:?} is {value}; it must be text, a number or a boolean")
            }),
            None => Err(format!("the query gave no {name:?}")),
        };
        self.names.iter().map(value).collect()
    }
}

/// What a scalar looks like in a key; nothing for what is empty or has members.
fn text_of(value: &Val) -> Option<String> {
    match value {
        Val::Bool(value) => Some(value.to_string()),
        Val::Num(Num::Dec(written)) => Some(written.to_string()),
        Val::Num(number) => Some(number.to_string()),
        Val::TStr(_) => match String::from_utf8(value.as_bytes().unwrap_or_default().to_vec()) {
            Ok(text) if !text.is_empty() => Some(text),
            _ => None,
        },
        _ => None,
    }
}

fn unreadable(error: &jaq_core::load::Error<&str>) -> String {
    let near = |rest: &str| match rest.chars().take(20).collect::<String>() {
        rest if rest.is_empty() => "at its end".to_owned(),
        rest => format!("at {rest:?}"),
    };
    match error {
        jaq_core::load::Error::Io(_) => "modules cannot be included".to_owned(),
        jaq_core::load::Error::Lex(errors) => match errors.first() {
            Some((lex::Expect::Delim(open), rest)) => {
                format!("{open:?} is not closed {}", near(rest))
            }
            Some((expected, rest)) => format!("expected {} {}", expected.as_str(), near(rest)),
            None => "it is not jq".to_owned(),
        },
        jaq_core::load::Error::Parse(errors) => match errors.first() {
            Some(error) => {
                let (expected, token): &parse::Error<&str, _> = error;
                format!("expected {} {}", expected.as_str(), near(token))
            }
            None => "it is not jq".to_owned(),
        },
    }
}

/// The records within `record`.
pub(crate) fn apart<'r>(
    how: Option<&Deaggregation>,
    record: &'r [u8],
) -> std::result::Result<Vec<&'r [u8]>, String> {
    match how {
        None => Ok(vec![record]),
        Some(Deaggregation::Json) => json_values(record),
        Some(Deaggregation::Delimited(delimiter)) => {
            let mut pieces = Vec::new();
            let (mut from, mut at) = (0, 0);
            while at + delimiter.len() <= record.len() {
                if record[at..].starts_with(delimiter.as_bytes()) {
                    pieces.push(&record[from..at]);
                    at += delimiter.len();
                    from = at;
                } else {
                    at += 1;
                }
            }
            pieces.push(&record[from..]);
            pieces.retain(|piece| !piece.is_empty());
            Ok(pieces)
        }
    }
}

/// JSON values that stand one after another, with white space between them or nothing.
pub(crate) fn json_values(record: &[u8]) -> std::result::Result<Vec<&[u8]>, String> {
    let mut values = Vec::new();
    for value in serde_json::Deserializer::from_slice(record).into_iter::<&RawValue>() {
        let value = value.map_err(|error| error.to_string())?.get().as_bytes();
        json::check(value)?;
        values.push(value);
    }
    if values.is_empty() {
        return Err("there is no JSON value in it".to_owned());
    }
    Ok(values)
}
