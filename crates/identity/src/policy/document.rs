//! A policy document as it is written: read strictly, so that nothing in it is passed over.

use std::fmt;
use std::marker::PhantomData;

use base::{Error, Result};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::DOCUMENT_CHARS_MAX;
use super::condition::Condition;
use super::facts::Key;
use super::pattern::{Glob, Template};

/// A policy document, understood in every part.
#[derive(Clone, Debug)]
pub struct Document {
    pub(super) statements: Vec<Statement>,
}

/// One statement.
#[derive(Clone, Debug)]
pub(super) struct Statement {
    pub(super) sid: Option<String>,
    pub(super) allow: bool,
    pub(super) actions: Vec<ActionPattern>,
    /// `NotAction`: all but these.
    pub(super) not_actions: bool,
    pub(super) resources: Vec<Resource>,
    /// `NotResource`: all but these.
    pub(super) not_resources: bool,
    pub(super) conditions: Vec<Condition>,
}

/// `iot:Publish`, `iot:*`, `*`; compared without regard to case.
#[derive(Clone, Debug)]
pub(super) struct ActionPattern(Glob);

impl ActionPattern {
    pub(super) fn matches(&self, action: &str) -> bool {
        self.0.matches("", &action.to_ascii_lowercase())
    }
}

/// An ARN with wildcards and variables, or `*`.
#[derive(Clone, Debug)]
pub(super) struct Resource {
    pub(super) written: String,
    /// `None` for `*`. Five parts and the rest.
    pub(super) parts: Option<Vec<Template>>,
}

const VERSIONS: [&str; 2] = ["2012-10-17", "2008-10-17"];

impl Document {
    /// Reads a document. What it holds and we do not know is refused by name, with its place.
    pub fn parse(text: &str) -> Result<Document> {
        let malformed = |why: String| Error::invalid(format!("the policy document {why}"));
        let chars = text.chars().filter(|c| !c.is_whitespace()).count();
        if chars > DOCUMENT_CHARS_MAX {
            return Err(malformed(format!(
                "has {chars} characters without white space; at most {DOCUMENT_CHARS_MAX} are allowed"
            )));
        }
        let written: WrittenDocument = serde_json::from_str(text).map_err(|cause| {
            malformed(if cause.is_data() {
                format!("is not a policy: {cause}")
            } else {
                format!("is not JSON: {cause}")
            })
        })?;
        // Without a Version AWS takes the older one, which knows no variables.
        let Some(version) = written.version else {
            return Err(malformed(format!("has no Version; give {:?}", VERSIONS[0])));
        };
        if !VERSIONS.contains(&version.as_str()) {
            return Err(malformed(format!(
                "has Version {version:?}; {:?} and {:?} are known",
                VERSIONS[0], VERSIONS[1]
            )));
        }
        let mut statements: Vec<Statement> = Vec::new();
        for (at, written) in written.statement.0.into_iter().enumerate() {
            let statement = Statement::read(written)
                .map_err(|why| malformed(format!("is wrong in statement {}: {why}", at + 1)))?;
            let twice = |other: &Statement| other.sid.is_some() && other.sid == statement.sid;
            if statements.iter().any(twice) {
                let sid = statement.sid.unwrap_or_default();
                return Err(malformed(format!("has Sid {sid:?} twice")));
            }
            statements.push(statement);
        }
        Ok(Document { statements })
    }

    /// Whether a decision needs the certificate itself, and not only its id.
    pub(super) fn reads_certificate(&self) -> bool {
        self.statements.iter().any(|statement| {
            let templates = statement.resources.iter().flat_map(|r| r.parts.iter().flatten());
            templates.flat_map(Template::keys).any(Key::reads_certificate)
                || statement.conditions.iter().any(Condition::reads_certificate)
        })
    }
}

impl Statement {
    fn read(written: WrittenStatement) -> std::result::Result<Statement, String> {
        let allow = match written.effect.as_deref() {
            Some("Allow") => true,
            Some("Deny") => false,
            Some(other) => return Err(format!("Effect is {other:?}; give \"Allow\" or \"Deny\"")),
            None => return Err("it has no Effect; give \"Allow\" or \"Deny\"".to_owned()),
        };
        let (actions, not_actions) = one_of("Action", written.action, written.not_action)?;
        let (resources, not_resources) =
            one_of("Resource", written.resource, written.not_resource)?;
        let mut conditions = Vec::new();
        for (operator, tests) in written.condition.0 {
            for (key, values) in tests.0 {
                let values: Vec<String> = values.0.into_iter().map(|scalar| scalar.0).collect();
                let condition = Condition::parse(&operator, &key, &values);
                conditions.push(condition.map_err(|why| format!("Condition: {why}"))?);
            }
        }
        Ok(Statement {
            sid: written.sid,
            allow,
            actions: actions
                .iter()
                .map(|text| action(text))
                .collect::<std::result::Result<_, _>>()?,
            not_actions,
            resources: resources
                .iter()
                .map(|text| resource(text))
                .collect::<std::result::Result<_, _>>()?,
            not_resources,
            conditions,
        })
    }
}

fn one_of(
    name: &str,
    these: Option<Several<String>>,
    others: Option<Several<String>>,
) -> std::result::Result<(Vec<String>, bool), String> {
    let (list, not) = match (these, others) {
        (Some(these), None) => (these.0, false),
        (None, Some(others)) => (others.0, true),
        (None, None) => return Err(format!("it has no {name}")),
        (Some(_), Some(_)) => return Err(format!("it has both {name} and Not{name}")),
    };
    if list.is_empty() {
        let not = if not { "Not" } else { "" };
        return Err(format!("{not}{name} is an empty list"));
    }
    Ok((list, not))
}

fn action(text: &str) -> std::result::Result<ActionPattern, String> {
    let letters = |text: &str, more: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
    };
    let known = match text.split_once(':') {
        Some((service, name)) => letters(service, "-") && letters(name, "*?"),
        None => text == "*",
    };
    if !known {
        return Err(format!("Action {text:?} is not of the form iot:Publish, iot:* or *"));
    }
    Ok(ActionPattern(Glob::of(&text.to_ascii_lowercase())))
}

fn resource(text: &str) -> std::result::Result<Resource, String> {
    let template = Template::parse(text).map_err(|why| format!("Resource: {why}"))?;
    if text == "*" {
        return Ok(Resource { written: text.to_owned(), parts: None });
    }
    let parts = template.split(6);
    if parts.len() < 6 || parts[0].written() != "arn" {
        return Err(format!(
            "Resource {text:?} is neither * nor an ARN such as arn:aws:iot:us-east-1:123456789012:topic/NAME"
        ));
    }
    Ok(Resource { written: text.to_owned(), parts: Some(parts) })
}

// ---- the JSON ----

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct WrittenDocument {
    version: Option<String>,
    /// A label, as AWS takes it.
    #[serde(rename = "Id")]
    _id: Option<String>,
    statement: Several<WrittenStatement>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct WrittenStatement {
    sid: Option<String>,
    effect: Option<String>,
    action: Option<Several<String>>,
    not_action: Option<Several<String>>,
    resource: Option<Several<String>>,
    not_resource: Option<Several<String>>,
    #[serde(default)]
    condition: Pairs<Pairs<Several<Scalar>>>,
}

/// One, or a list of them.
struct Several<T>(Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Several<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        from.deserialize_any(SeveralVisitor(PhantomData))
    }
}

struct SeveralVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for SeveralVisitor<T> {
    type Value = Several<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("one value or a list")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<Several<T>, E> {
        Ok(Several(vec![T::deserialize(StrDeserializer::new(text))?]))
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> std::result::Result<Several<T>, E> {
        let value = serde::de::value::BoolDeserializer::new(value);
        Ok(Several(vec![T::deserialize(value)?]))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> std::result::Result<Several<T>, E> {
        let value = serde::de::value::I64Deserializer::new(value);
        Ok(Several(vec![T::deserialize(value)?]))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> std::result::Result<Several<T>, E> {
        let value = serde::de::value::U64Deserializer::new(value);
        Ok(Several(vec![T::deserialize(value)?]))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> std::result::Result<Several<T>, E> {
        let value = serde::de::value::F64Deserializer::new(value);
        Ok(Several(vec![T::deserialize(value)?]))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Several<T>, A::Error> {
        Ok(Several(vec![T::deserialize(MapAccessDeserializer::new(map))?]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> std::result::Result<Several<T>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = seq.next_element()? {
            list.push(item);
        }
        Ok(Several(list))
    }
}

/// A text, a truth or a number, as text.
struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        match serde_json::Value::deserialize(from)? {
            serde_json::Value::String(text) => Ok(Scalar(text)),
            value @ (serde_json::Value::Bool(_) | serde_json::Value::Number(_)) => {
                Ok(Scalar(value.to_string()))
            }
            other => Err(D::Error::custom(format!("a condition compares with {other}"))),
        }
    }
}

/// An object whose names are data; none may come twice.
struct Pairs<T>(Vec<(String, T)>);

impl<T> Default for Pairs<T> {
    fn default() -> Self {
        Pairs(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Pairs<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        from.deserialize_map(PairsVisitor(PhantomData))
    }
}

struct PairsVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for PairsVisitor<T> {
    type Value = Pairs<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Pairs<T>, A::Error> {
        let mut pairs: Vec<(String, T)> = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, T>()? {
            if pairs.iter().any(|(known, _)| *known == name) {
                return Err(A::Error::custom(format!("{name:?} is given twice")));
            }
            pairs.push((name, value));
        }
        Ok(Pairs(pairs))
    }
}
