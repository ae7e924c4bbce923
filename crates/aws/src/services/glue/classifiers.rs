//! Classifiers as clients describe them.

use std::sync::Arc;

use lake::{Classifier, ClassifierKind};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Named, Page, listed};
use crate::call::{Call, Outcome};
use crate::fault::Fault;
use crate::page::page;
use crate::rooms::{Rooms, epoch_secs};

/// One of the kinds, for a new classifier or a changed one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Given {
    json_classifier: Option<Json>,
    csv_classifier: Option<Csv>,
    grok_classifier: Option<Value>,
    #[serde(rename = "XMLClassifier")]
    xml_classifier: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Json {
    name: String,
    json_path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Csv {
    name: String,
    delimiter: Option<String>,
    quote_symbol: Option<String>,
    contains_header: Option<String>,
    #[serde(default)]
    header: Vec<String>,
    disable_value_trimming: Option<bool>,
    allow_single_column: Option<bool>,
    custom_datatype_configured: Option<bool>,
    custom_datatypes: Option<Vec<String>>,
    serde: Option<String>,
}

impl Given {
    fn read(self) -> Result<(String, ClassifierKind), Fault> {
        if self.grok_classifier.is_some() {
            let why = "lines are not taken apart by patterns; JSON and CSV classifiers are there";
            return Err(Fault::unsupported("GrokClassifier", why));
        }
        if self.xml_classifier.is_some() {
            let why = "XML is not read; JSON and CSV classifiers are there";
            return Err(Fault::unsupported("XMLClassifier", why));
        }
        match (self.json_classifier, self.csv_classifier) {
            (Some(given), None) => Ok((given.name, ClassifierKind::Json { path: given.json_path })),
            (None, Some(given)) => given.read(),
            _ => Err(Fault::invalid("give one of JsonClassifier and CsvClassifier")),
        }
    }
}

fn byte(member: &str, text: &str) -> Result<u8, Fault> {
    match text.as_bytes() {
        [byte] => Ok(*byte),
        _ => Err(Fault::unsupported(member, &format!("{text:?}; give one ASCII character"))),
    }
}

impl Csv {
    fn read(self) -> Result<(String, ClassifierKind), Fault> {
        if self.custom_datatype_configured == Some(true)
            || self.custom_datatypes.is_some_and(|given| !given.is_empty())
        {
            let why = "types are told by the values; change the table afterwards";
            return Err(Fault::unsupported("CustomDatatypes", why));
        }
        if self.disable_value_trimming == Some(false) {
            let why = "a text's white space belongs to it; give true or leave it out";
            return Err(Fault::unsupported("DisableValueTrimming", why));
        }
        let delimiter = self.delimiter.map(|text| byte("Delimiter", &text)).transpose()?;
        let quote = self.quote_symbol.map(|text| byte("QuoteSymbol", &text)).transpose()?;
        let quote = match self.serde.as_deref() {
            None | Some("None" | "OpenCSVSerDe") => Some(quote.unwrap_or(b'"')),
            Some("LazySimpleSerDe") => quote,
            Some(other) => {
                return Err(Fault::invalid(format!(
                    "Serde {other:?} is not OpenCSVSerDe, LazySimpleSerDe or None"
                )));
            }
        };
        let header = match self.contains_header.as_deref() {
            None | Some("UNKNOWN") => None,
            Some("PRESENT") => Some(true),
            Some("ABSENT") => Some(false),
            Some(other) => {
                return Err(Fault::invalid(format!(
                    "ContainsHeader {other:?} is not UNKNOWN, PRESENT or ABSENT"
                )));
            }
        };
        let kind = ClassifierKind::Csv {
            delimiter,
            quote,
            header,
            names: self.header,
            single_column: self.allow_single_column.unwrap_or(false),
        };
        Ok((self.name, kind))
    }
}

pub(super) async fn create_classifier(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let (name, kind) = call.input::<Given>()?.read()?;
    rooms.lake.create_classifier(&name, kind)?;
    Ok(json!({}).into())
}

pub(super) async fn update_classifier(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let (name, kind) = call.input::<Given>()?.read()?;
    rooms.lake.update_classifier(&name, kind)?;
    Ok(json!({}).into())
}

pub(super) async fn delete_classifier(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    rooms.lake.delete_classifier(&call.input::<Named>()?.name)?;
    Ok(json!({}).into())
}

fn shown(found: &Classifier) -> Value {
    let mut classifier = json!({
        "Name": found.name,
        "CreationTime": epoch_secs(found.created_at),
        "LastUpdated": epoch_secs(found.updated_at),
        "Version": found.version,
    });
    let text = |byte: u8| json!(char::from(byte).to_string());
    let member = match &found.kind {
        ClassifierKind::Json { path } => {
            classifier["JsonPath"] = json!(path);
            "JsonClassifier"
        }
        ClassifierKind::Csv { delimiter, quote, header, names, single_column } => {
            if let Some(delimiter) = delimiter {
                classifier["Delimiter"] = text(*delimiter);
            }
            match quote {
                Some(quote) => classifier["QuoteSymbol"] = text(*quote),
                None => classifier["Serde"] = json!("LazySimpleSerDe"),
            }
            classifier["ContainsHeader"] = json!(match header {
                None => "UNKNOWN",
                Some(true) => "PRESENT",
                Some(false) => "ABSENT",
            });
            if !names.is_empty() {
                classifier["Header"] = json!(names);
            }
            classifier["DisableValueTrimming"] = json!(true);
            classifier["AllowSingleColumn"] = json!(single_column);
            "CsvClassifier"
        }
    };
    json!({member: classifier})
}

pub(super) async fn get_classifier(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let found = rooms.lake.get_classifier(&call.input::<Named>()?.name)?;
    Ok(json!({"Classifier": shown(&found)}).into())
}

pub(super) async fn get_classifiers(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Page = call.input()?;
    let all = rooms.lake.list_classifiers()?;
    let key = |found: &Classifier| found.name.clone();
    let (some, next) = page(all, key, input.next_token.as_deref(), input.max_results, 1000)?;
    listed("Classifiers", some.iter().map(shown).collect(), next)
}
