//! Glue Studio's nodes that name a path of S3: sources of the objects below it, and Spigot.

use lake::{Format, Node, ObjectsAt};
use serde::Deserialize;
use serde_json::Value;

use super::Given;
use crate::fault::Fault;

/// What sources of all formats are told. How files are read together is Spark's affair, and a
/// schema of the output is for the editor: whatever is said of these is all the same here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Source {
    #[serde(rename = "Name")]
    _name: String,
    paths: Vec<String>,
    compression_type: Option<String>,
    #[serde(default)]
    exclusions: Vec<String>,
    #[serde(rename = "GroupSize")]
    _group_size: Option<String>,
    #[serde(rename = "GroupFiles")]
    _group_files: Option<String>,
    recurse: Option<bool>,
    #[serde(rename = "MaxBand")]
    _max_band: Option<u64>,
    #[serde(rename = "MaxFilesInBand")]
    _max_files_in_band: Option<u64>,
    additional_options: Option<Bounds>,
    #[serde(rename = "OutputSchemas")]
    _output_schemas: Option<Value>,
    // Of JSON.
    json_path: Option<String>,
    // Of JSON and CSV.
    multiline: Option<bool>,
    // Of CSV.
    separator: Option<String>,
    escaper: Option<String>,
    quote_char: Option<String>,
    with_header: Option<bool>,
    #[serde(rename = "WriteHeader")]
    _write_header: Option<bool>,
    skip_first: Option<bool>,
    #[serde(rename = "OptimizePerformance")]
    _optimize_performance: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Bounds {
    bounded_size: Option<u64>,
    bounded_files: Option<u64>,
    #[serde(rename = "EnableSamplePath")]
    _enable_sample_path: Option<bool>,
    #[serde(rename = "SamplePath")]
    _sample_path: Option<String>,
}

/// The objects below a path.
pub(super) fn source(given: &Given<'_>, body: &Value, format: Format) -> Result<Node, Fault> {
    let source: Source = given.read(body)?;
    let refused = |member: &str, why: &str| Err(Fault::unsupported(&given.place(member), why));
    let [path] = source.paths.as_slice() else {
        let why =
            format!("{} of them; make a node for each and join them by Union", source.paths.len());
        return refused("Paths", &why);
    };
    let (bucket, prefix) = place(given, "Paths", path)?;
    let bounds = source.additional_options.as_ref();
    if bounds.is_some_and(|it| it.bounded_size.is_some() || it.bounded_files.is_some()) {
        return refused("AdditionalOptions", "a run reads what is new; bounds are not supported");
    }
    if source.compression_type.as_deref() == Some("bzip2") {
        return refused("CompressionType", "bzip2; there is gzip, and what the bytes say");
    }
    let mut at = ObjectsAt::new(bucket, prefix, format);
    at.exclusions = source.exclusions;
    // As Spark does where nothing is said.
    at.recurse = source.recurse.unwrap_or(true);
    at.records = source.json_path.filter(|path| !path.is_empty());
    if format == Format::Csv {
        if source.multiline == Some(true) {
            return refused("Multiline", "a record of CSV is a line here");
        }
        if source.skip_first == Some(true) {
            return refused("SkipFirst", "leave the row out by a Filter or by SparkSQL");
        }
        if source.escaper.as_deref().is_some_and(|escaper| !escaper.is_empty()) {
            return refused("Escaper", "make a table with OpenCSVSerde and its escapeChar");
        }
        at.delimiter = Some(match source.separator.as_deref() {
            None | Some("comma") => ',',
            Some("ctrla") => '\u{1}',
            Some("pipe") => '|',
            Some("semicolon") => ';',
            Some("tab") => '\t',
            Some(other) => {
                let known = ["comma", "ctrla", "pipe", "semicolon", "tab"];
                return Err(given.one_of("Separator", other, &known));
            }
        });
        at.quote = Some(
            match source.quote_char.as_deref() {
                None | Some("quote") => "\"",
                Some("single_quote") => "'",
                Some("disabled") => "",
                Some(other) => {
                    let known = ["quote", "single_quote", "disabled"];
                    return Err(given.one_of("QuoteChar", other, &known));
                }
            }
            .to_owned(),
        );
        at.header = Some(source.with_header.unwrap_or(false));
    }
    Ok(Node::Objects { id: given.id.to_owned(), at, lineage: false })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Spigot {
    #[serde(rename = "Name")]
    _name: String,
    inputs: Vec<String>,
    path: String,
    topk: Option<u32>,
    prob: Option<f64>,
}

/// Rows handed on, some of them written down.
pub(super) fn spigot(given: &Given<'_>, body: &Value) -> Result<Node, Fault> {
    let spigot: Spigot = given.read(body)?;
    let (bucket, mut prefix) = place(given, "Path", &spigot.path)?;
    if !prefix.ends_with('/') {
        prefix.push('/');
    }
    // Glue lets out all rows if told of neither.
    let fraction = spigot.prob.or(if spigot.topk.is_none() { Some(1.0) } else { None });
    let input = given.only_input(spigot.inputs)?;
    let (id, rows) = (given.id.to_owned(), spigot.topk);
    Ok(Node::Spigot { id, input, bucket, prefix, rows, fraction })
}

fn place(given: &Given<'_>, member: &str, path: &str) -> Result<(String, String), Fault> {
    let place = path.strip_prefix("s3://").and_then(|place| place.split_once('/'));
    let Some((bucket, prefix)) =
        place.filter(|(bucket, prefix)| !bucket.is_empty() && !prefix.trim_matches('/').is_empty())
    else {
        return Err(Fault::invalid(format!(
            "{}: {path:?} is not s3://BUCKET/FOLDER/",
            given.place(member)
        )));
    };
    Ok((bucket.to_owned(), prefix.to_owned()))
}
