//! `DataProcessing` of a transform: which part of a record the model gets, and what of the record
//! and its answer is kept.
//!
//! A filter is `$` followed by members, `$.a.b` or `$['a']`. What it picks is the text as it was
//! written: nothing is reordered or rounded on the way.

use std::borrow::Cow;
use std::collections::HashMap;

use base::{Error, Result};
use forecast::jsonl::without_bare_nan;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::fault::Fault;

/// SageMaker's bound on the length of a filter.
const FILTER_CHARS_MAX: usize = 63;
/// Where the answer is put in the record.
const OUTPUT: &str = "SageMakerOutput";
/// Where a record is put that is no object.
const INPUT: &str = "SageMakerInput";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct DataProcessing {
    input_filter: Option<String>,
    output_filter: Option<String>,
    join_source: Option<String>,
}

/// What is done to a record and to its answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Reshape {
    input: Filter,
    output: Filter,
    join: bool,
}

impl Reshape {
    pub(super) fn new(asked: Option<&DataProcessing>) -> std::result::Result<Reshape, Fault> {
        let Some(asked) = asked else { return Ok(Reshape::default()) };
        let join = match asked.join_source.as_deref() {
            None | Some("None") => false,
            Some("Input") => true,
            Some(other) => {
                return Err(Fault::invalid(format!(
                    "DataProcessing.JoinSource {other:?}: use Input or None"
                )));
            }
        };
        let filter = |member: &str, text: &Option<String>| match text.as_deref() {
            None | Some("") => Ok(Filter::default()),
            Some(text) => Filter::parse(member, text),
        };
        Ok(Reshape {
            input: filter("InputFilter", &asked.input_filter)?,
            output: filter("OutputFilter", &asked.output_filter)?,
            join,
        })
    }

    /// The part of a record that the model gets.
    pub(super) fn before<'a>(&self, record: &'a str) -> Result<Cow<'a, str>> {
        self.input.pick(record).map_err(|error| error.context("InputFilter"))
    }

    /// What is kept of a record and its answer.
    pub(super) fn after<'a>(&self, record: &str, answer: &'a str) -> Result<Cow<'a, str>> {
        let picked = |text: &str| -> Result<String> {
            let picked = self.output.pick(text).map_err(|error| error.context("OutputFilter"))?;
            Ok(picked.into_owned())
        };
        match (self.join, self.output.is_all()) {
            (false, true) => Ok(Cow::Borrowed(answer)),
            (false, false) => picked(answer).map(Cow::Owned),
            (true, true) => joined(record, answer).map(Cow::Owned),
            (true, false) => picked(&joined(record, answer)?).map(Cow::Owned),
        }
    }
}

/// A record with its answer beside its own members.
fn joined(record: &str, answer: &str) -> Result<String> {
    let record = without_bare_nan(record.trim());
    let broken = |cause| Error::invalid(format!("a record to join is no JSON: {cause}"));
    let Some(body) = record.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
        let _whole: &RawValue = serde_json::from_str(&record).map_err(broken)?;
        return Ok(format!("{{\"{INPUT}\":{record},\"{OUTPUT}\":{answer}}}"));
    };
    if body.contains(OUTPUT) {
        // It may have such a member itself, of a transform before this one.
        let mut members: Map<String, Value> = serde_json::from_str(&record).map_err(broken)?;
        let answer = serde_json::from_str(answer)
            .map_err(|cause| Error::internal(format!("an answer is no JSON: {cause}")))?;
        members.insert(OUTPUT.to_owned(), answer);
        return Ok(Value::Object(members).to_string());
    }
    let comma = if body.trim().is_empty() { "" } else { "," };
    Ok(format!("{{{body}{comma}\"{OUTPUT}\":{answer}}}"))
}

/// The members to go down by, from the top.
#[derive(Clone, Debug, Default, PartialEq)]
struct Filter(Vec<String>);

impl Filter {
    fn parse(member: &str, text: &str) -> std::result::Result<Filter, Fault> {
        let refuse = || {
            Fault::unsupported(
                &format!("DataProcessing.{member} {text:.100?}"),
                "use $ followed by members, as $.a.b or $['a']",
            )
        };
        let mut rest = text.strip_prefix('$').filter(|_| text.len() <= FILTER_CHARS_MAX);
        let mut members = Vec::new();
        while let Some(left) = rest.filter(|left| !left.is_empty()) {
            let (name, after) = if let Some(dotted) = left.strip_prefix('.') {
                dotted.split_at(dotted.find(['.', '[']).unwrap_or(dotted.len()))
            } else {
                let quoted = |quote: char| {
                    let inner = left.strip_prefix('[')?.strip_prefix(quote)?;
                    let (name, after) = inner.split_once(quote)?;
                    Some((name, after.strip_prefix(']')?))
                };
                quoted('\'').or_else(|| quoted('"')).ok_or_else(refuse)?
            };
            let odd = |sign: char| "*?@()$,:'\"".contains(sign) || sign.is_whitespace();
            if name.is_empty() || (left.starts_with('.') && name.contains(odd)) {
                return Err(refuse());
            }
            members.push(name.to_owned());
            rest = Some(after);
        }
        rest.map(|_| Filter(members)).ok_or_else(refuse)
    }

    fn is_all(&self) -> bool {
        self.0.is_empty()
    }

    fn pick<'a>(&self, text: &'a str) -> Result<Cow<'a, str>> {
        if self.is_all() {
            return Ok(Cow::Borrowed(text));
        }
        match without_bare_nan(text) {
            Cow::Borrowed(text) => self.descend(text).map(Cow::Borrowed),
            Cow::Owned(text) => self.descend(&text).map(|found| Cow::Owned(found.to_owned())),
        }
    }

    fn descend<'a>(&self, text: &'a str) -> Result<&'a str> {
        let mut at = text;
        for name in &self.0 {
            let members: HashMap<Cow<'_, str>, &'a RawValue> =
                serde_json::from_str(at).map_err(|cause| {
                    Error::invalid(format!("{name:?} is looked for in no object: {cause}"))
                })?;
            let found = members.get(name.as_str());
            at = found.ok_or_else(|| Error::invalid(format!("there is no {name:?}")))?.get();
        }
        Ok(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reshape(input: &str, output: &str, join: &str) -> Reshape {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let asked = DataProcessing {
            input_filter: some(input),
            output_filter: some(output),
            join_source: some(join),
        };
        Reshape::new(Some(&asked)).unwrap_or_else(|fault| panic!("{}", fault.message))
    }

    #[test]
    fn filters_pick_the_text_as_it_stands() {
        let record = r#"{"id":"s\"1", "a b":{"start": 1.50, "x":[1,  NaN]}}"#;
        for (filter, expect) in [
            ("", record),
            ("$", record),
            ("$.id", r#""s\"1""#),
            ("$['a b']", r#"{"start": 1.50, "x":[1,  null]}"#),
            ("$[\"a b\"].start", "1.50"),
            ("$['a b']['x']", "[1,  null]"),
        ] {
            assert_eq!(reshape(filter, "", "").before(record).unwrap(), expect, "{filter}");
        }
        for (filter, word) in [("$.none", "there is no \"none\""), ("$.id.x", "in no object")] {
            let error = reshape(filter, "", "").before(record).unwrap_err().to_string();
            assert!(error.starts_with("InputFilter") && error.contains(word), "{error}");
        }
    }

    #[test]
    fn what_is_not_followed_is_refused() {
        let long = format!("$.{}", "x".repeat(80));
        for filter in
            ["a", "$a", "$[0]", "$[1:]", "$.*", "$..a", "$.a[", "$.", "$['a'", "$.a[?(@.b)]", &long]
        {
            let Err(fault) = Filter::parse("InputFilter", filter) else { panic!("{filter}") };
            assert!(fault.message.contains("InputFilter"), "{}", fault.message);
        }
        let asked = DataProcessing {
            input_filter: None,
            output_filter: None,
            join_source: Some("Out".into()),
        };
        assert!(Reshape::new(Some(&asked)).is_err());
    }

    #[test]
    fn an_answer_is_joined_to_its_record() {
        let answer = r#"{"mean":[1.0]}"#;
        for (record, output, expect) in [
            (r#"{"id":1}"#, "", r#"{"id":1,"SageMakerOutput":{"mean":[1.0]}}"#),
            ("{ }", "", r#"{ "SageMakerOutput":{"mean":[1.0]}}"#),
            ("[1, 2]", "", r#"{"SageMakerInput":[1, 2],"SageMakerOutput":{"mean":[1.0]}}"#),
            (r#"{"id":1,"SageMakerOutput":2}"#, "", r#"{"id":1,"SageMakerOutput":{"mean":[1.0]}}"#),
            (r#"{"id":1,"t":[NaN]}"#, "$.SageMakerOutput.mean", "[1.0]"),
            (r#"{"id":1}"#, "$.id", "1"),
        ] {
            assert_eq!(reshape("", output, "Input").after(record, answer).unwrap(), expect);
        }
        assert_eq!(reshape("", "$.mean", "None").after("{}", answer).unwrap(), "[1.0]");
        assert_eq!(reshape("", "", "").after("{}", answer).unwrap(), answer);
        assert!(reshape("", "", "Input").after("no json", answer).is_err());
    }
}
