//! How requests and answers look on the wire: JSON 1.0 and 1.1, REST with JSON, and the query
//! protocol with XML.
//!
//! Reading turns whatever came into one JSON object with the members of the operation's input;
//! writing turns the members of its output back. A handler never sees a protocol.

use std::collections::BTreeMap;

use axum::body::{Body, Bytes};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value, json};

use crate::call::{Kind, Operation, Outcome, Reply, ReplyBody, Route, Service};
use crate::fault::{Code, Fault};

/// How a service is spoken to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Protocol {
    /// `X-Amz-Target: TARGET.Operation`, JSON in and out.
    Json { target: &'static str, version: &'static str },
    /// As `Json`, and as `Query` for clients of before.
    JsonOrQuery { target: &'static str, version: &'static str, namespace: &'static str },
    /// Method and path name the operation.
    RestJson,
    /// A form with `Action`; XML out.
    Query { version: &'static str, namespace: &'static str },
}

/// What the answer must look like; decided by the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    Json { version: &'static str },
    Rest,
    Query { namespace: &'static str },
}

impl Wire {
    /// How to answer a request that is for no service of ours.
    pub(crate) fn of_nobody(headers: &HeaderMap) -> Wire {
        match is_form(headers) {
            true => Wire::Query { namespace: "http://webservices.amazon.com/AWSFault/2005-15-09" },
            false => Wire::Json { version: "1.1" },
        }
    }
}

const FORM: &str = "application/x-www-form-urlencoded";

impl Protocol {
    /// How to answer a request, even one that cannot be read.
    pub(crate) fn wire(self, headers: &HeaderMap) -> Wire {
        match self {
            Protocol::Json { version, .. } => Wire::Json { version },
            Protocol::JsonOrQuery { namespace, .. } if is_form(headers) => {
                Wire::Query { namespace }
            }
            Protocol::JsonOrQuery { version, .. } => Wire::Json { version },
            Protocol::RestJson => Wire::Rest,
            Protocol::Query { namespace, .. } => Wire::Query { namespace },
        }
    }
}

pub(crate) fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| kind.starts_with(FORM))
}

/// Finds the operation of a request and reads its input.
pub(crate) fn read(
    service: &'static Service,
    parts: &Parts,
    body: &Bytes,
) -> Result<(&'static Operation, Value), Fault> {
    match service.protocol.wire(&parts.headers) {
        Wire::Json { .. } => {
            let target = parts.headers.get("x-amz-target").and_then(|value| value.to_str().ok());
            let (prefix, name) = target.and_then(|t| t.rsplit_once('.')).unwrap_or_default();
            let expected = match service.protocol {
                Protocol::Json { target, .. } | Protocol::JsonOrQuery { target, .. } => target,
                Protocol::RestJson | Protocol::Query { .. } => "",
            };
            let operation = service.operations.iter().find(|o| o.name == name);
            let operation = operation.filter(|_| prefix == expected).ok_or_else(|| {
                unknown(service, "UnknownOperationException", target.unwrap_or("no X-Amz-Target"))
            })?;
            Ok((operation, object(body)?))
        }
        Wire::Query { .. } => {
            let mut form = form(body)?;
            let name = match form.remove("Action") {
                Some(Value::String(name)) => name,
                _ => String::new(),
            };
            let version = form.remove("Version");
            let version = version.as_ref().and_then(Value::as_str);
            if let Protocol::Query { version: ours, .. } = service.protocol
                && version != Some(ours)
            {
                let given = version.unwrap_or("NO_VERSION_SPECIFIED");
                let message = format!(
                    "Could not find operation {name} for version {given}; {} has {ours}",
                    service.name
                );
                return Err(Fault::named("InvalidAction", 400, message));
            }
            let operation = service
                .operations
                .iter()
                .find(|operation| operation.name == name)
                .ok_or_else(|| unknown(service, "InvalidAction", &name))?;
            Ok((operation, Value::Object(form)))
        }
        Wire::Rest => rest(service, parts, body),
    }
}

fn unknown(service: &Service, code: &'static str, what: &str) -> Fault {
    let message = format!(
        "{what:?} is not an operation of {} that Forebay has; docs/coverage.md lists them",
        service.name
    );
    Fault::named(code, 400, message)
}

/// A body that must be a JSON object; an empty one counts as `{}`.
fn object(body: &Bytes) -> Result<Value, Fault> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(json!({}));
    }
    match serde_json::from_slice::<Value>(body) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(Fault::named("SerializationException", 400, "the body is not a JSON object")),
        Err(cause) => Err(Fault::named(
            "SerializationException",
            400,
            format!("the body is not JSON: {cause}"),
        )),
    }
}

// ---- REST ----

fn rest(
    service: &'static Service,
    parts: &Parts,
    body: &Bytes,
) -> Result<(&'static Operation, Value), Fault> {
    let segments: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
    let mut found = None;
    for operation in service.operations {
        let Some(route) = &operation.route else { continue };
        if route.method == parts.method.as_str()
            && let Some(members) = matches(route.path, &segments)?
            // A literal segment wins over a name: `/things/{thingName}` against `/things/x`.
            && found.as_ref().is_none_or(|(_, _, before): &(_, _, Map<String, Value>)| {
                members.len() < before.len()
            })
        {
            found = Some((operation, route, members));
        }
    }
    let Some((operation, route, mut members)) = found else {
        let what = format!("{} {}", parts.method, parts.uri.path());
        return Err(unknown(service, "UnknownOperationException", &what));
    };
    read_query(route, parts.uri.query().unwrap_or_default(), &mut members)?;
    for (header, member) in route.headers {
        if let Some(value) = parts.headers.get(*header) {
            let text = String::from_utf8_lossy(value.as_bytes()).into_owned();
            members.insert((*member).to_owned(), Value::String(text));
        }
    }
    if !route.raw
        && let Value::Object(given) = object(body)?
    {
        for (name, value) in given {
            // What the address says wins: AWS names such members once.
            members.entry(name).or_insert(value);
        }
    }
    Ok((operation, Value::Object(members)))
}

/// The members that `path` takes from `segments`, or `None` where it does not match. Segments
/// are compared encoded, since an encoded slash belongs to its segment.
fn matches(path: &str, segments: &[&str]) -> Result<Option<Map<String, Value>>, Fault> {
    let pattern: Vec<&str> = path.trim_matches('/').split('/').collect();
    let greedy = pattern.last().is_some_and(|last| last.ends_with("+}"));
    if segments.len() < pattern.len() || (segments.len() > pattern.len() && !greedy) {
        return Ok(None);
    }
    let mut members = Map::new();
    for (at, wanted) in pattern.iter().enumerate() {
        // `{name+}` takes the rest of the path, slashes and all.
        let end = if at + 1 < pattern.len() { at + 1 } else { segments.len() };
        let given = segments[at..end].join("/");
        match wanted.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
            Some(name) if !given.is_empty() => {
                let name = name.strip_suffix('+').unwrap_or(name);
                members.insert(name.to_owned(), Value::String(decoded(&given)?));
            }
            Some(_) => return Ok(None),
            None if **wanted == given => {}
            None => return Ok(None),
        }
    }
    Ok(Some(members))
}

fn decoded(text: &str) -> Result<String, Fault> {
    match percent_decode_str(text).decode_utf8() {
        Ok(text) => Ok(text.into_owned()),
        Err(_) => Err(Fault::invalid(format!("{text:?} is not UTF-8 behind its percent signs"))),
    }
}

fn read_query(route: &Route, query: &str, members: &mut Map<String, Value>) -> Result<(), Fault> {
    for (name, text) in pairs(query)? {
        let Some((_, kind)) = route.query.iter().find(|(known, _)| *known == name) else {
            // A presigned request carries its signature here.
            if name.starts_with("X-Amz-") {
                continue;
            }
            return Err(Fault::input(&name, &format!("unknown field `{name}`")));
        };
        let wrong =
            || Fault::invalid(format!("query parameter {name}: {text:?} is not of its type"));
        let value = match kind {
            Kind::Text => Value::String(text),
            Kind::Integer => json!(text.parse::<i64>().map_err(|_cause| wrong())?),
            Kind::Boolean => {
                json!(text.to_ascii_lowercase().parse::<bool>().map_err(|_cause| wrong())?)
            }
        };
        members.insert(name, value);
    }
    Ok(())
}

fn pairs(text: &str) -> Result<Vec<(String, String)>, Fault> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decoded(&name.replace('+', " "))?, decoded(&value.replace('+', " "))?))
        })
        .collect()
}

// ---- Query ----

/// `Tags.member.1.Key=a&Tags.member.1.Value=b` as `{"Tags": [{"Key": "a", "Value": "b"}]}`.
fn form(body: &Bytes) -> Result<Map<String, Value>, Fault> {
    let text = std::str::from_utf8(body)
        .map_err(|_cause| Fault::named("MalformedInput", 400, "the form is not UTF-8"))?;
    let mut root = Tree::default();
    for (name, value) in pairs(text)? {
        let mut at = &mut root;
        for (depth, part) in name.split('.').enumerate() {
            if depth > 32 {
                return Err(Fault::named("MalformedInput", 400, format!("{name:?} is too deep")));
            }
            at = at.children.entry(part.to_owned()).or_default();
        }
        at.text = Some(value);
    }
    match root.into_value() {
        Value::Object(members) => Ok(members),
        _ => Ok(Map::new()),
    }
}

#[derive(Default)]
struct Tree {
    text: Option<String>,
    children: BTreeMap<String, Tree>,
}

impl Tree {
    fn into_value(mut self) -> Value {
        if self.children.is_empty() {
            return Value::String(self.text.unwrap_or_default());
        }
        if self.children.len() == 1
            && let Some(members) = self.children.remove("member")
        {
            let mut numbered: Vec<(u64, Tree)> = members
                .children
                .into_iter()
                .map(|(number, tree)| (number.parse().unwrap_or(u64::MAX), tree))
                .collect();
            numbered.sort_by_key(|(number, _)| *number);
            return numbered.into_iter().map(|(_, tree)| tree.into_value()).collect();
        }
        let members = self.children.into_iter().map(|(name, tree)| (name, tree.into_value()));
        Value::Object(members.collect())
    }
}

// ---- Answers ----

/// Writes an outcome as the caller expects it.
pub(crate) fn write(
    service: &Service,
    operation: Option<&Operation>,
    wire: Wire,
    request_id: &str,
    outcome: Outcome,
) -> Response<Body> {
    let (status, headers, content_type, body) = match outcome {
        Ok(Reply { status, headers, body }) => {
            let (content_type, body) = success(operation, wire, request_id, body);
            (status, headers, content_type, body)
        }
        Err(fault) => failure(service, wire, request_id, fault),
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let into = response.headers_mut();
    if let Some(content_type) = content_type {
        put(into, "content-type", &content_type);
    }
    put(into, "x-amzn-requestid", request_id);
    for (name, value) in headers {
        put(into, name, &value);
    }
    response
}

fn put(headers: &mut HeaderMap, name: &'static str, value: &str) {
    // A value that no header can carry is left out rather than the whole answer.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn json_type(wire: Wire) -> String {
    match wire {
        Wire::Json { version } => format!("application/x-amz-json-{version}"),
        Wire::Rest | Wire::Query { .. } => "application/json".to_owned(),
    }
}

fn success(
    operation: Option<&Operation>,
    wire: Wire,
    request_id: &str,
    body: ReplyBody,
) -> (Option<String>, Bytes) {
    match (body, wire) {
        (ReplyBody::Raw(bytes, content_type), _) => (Some(content_type), bytes),
        (ReplyBody::Empty, Wire::Query { namespace }) => {
            xml_answer(operation, namespace, request_id, &Value::Null)
        }
        (ReplyBody::Value(value), Wire::Query { namespace }) => {
            xml_answer(operation, namespace, request_id, &value)
        }
        (ReplyBody::Empty, wire) => (Some(json_type(wire)), Bytes::new()),
        (ReplyBody::Value(value), wire) => (Some(json_type(wire)), Bytes::from(value.to_string())),
    }
}

fn xml_answer(
    operation: Option<&Operation>,
    namespace: &str,
    request_id: &str,
    value: &Value,
) -> (Option<String>, Bytes) {
    let name = operation.map_or("", |operation| operation.name);
    let mut out = format!("<{name}Response xmlns=\"{namespace}\">");
    if !value.is_null() {
        write_xml(&format!("{name}Result"), value, &mut out);
    }
    out.push_str(&format!(
        "<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{name}Response>"
    ));
    (Some("text/xml".to_owned()), Bytes::from(out))
}

/// An object's members become elements, a list's entries `<member>` elements.
fn write_xml(name: &str, value: &Value, out: &mut String) {
    let inside = |out: &mut String| match value {
        Value::Null => {}
        Value::Bool(_) | Value::Number(_) => out.push_str(&value.to_string()),
        Value::String(text) => escape_xml(text, out),
        Value::Array(entries) => entries.iter().for_each(|entry| write_xml("member", entry, out)),
        Value::Object(members) => {
            members.iter().for_each(|(name, value)| write_xml(name, value, out));
        }
    };
    out.push_str(&format!("<{name}>"));
    inside(out);
    out.push_str(&format!("</{name}>"));
}

fn escape_xml(text: &str, out: &mut String) {
    for character in text.chars() {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\t' | '\n' | '\r' => out.push_str(&format!("&#{};", u32::from(character))),
            // XML 1.0 has no way to write the other control characters.
            control if control.is_control() => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
}

type Written = (u16, Vec<(&'static str, String)>, Option<String>, Bytes);

fn failure(service: &Service, wire: Wire, request_id: &str, fault: Fault) -> Written {
    let Fault { code, message, members } = fault;
    let (code, status) = match code {
        Code::Named(code, status) => (code, status),
        Code::Kind(kind) => (service.codes)(kind),
    };
    if let Wire::Query { namespace } = wire {
        let side = if status < 500 { "Sender" } else { "Receiver" };
        let mut text = String::new();
        escape_xml(&message, &mut text);
        let body = format!(
            "<ErrorResponse xmlns=\"{namespace}\"><Error><Type>{side}</Type><Code>{code}</Code>\
             <Message>{text}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
        );
        return (status, Vec::new(), Some("text/xml".to_owned()), Bytes::from(body));
    }
    let mut body = json!({"__type": code, "message": message});
    for (name, value) in members {
        body[name] = value;
    }
    let mut headers = vec![("x-amzn-errortype", code.to_owned())];
    if matches!(service.protocol, Protocol::JsonOrQuery { .. }) {
        let side = if status < 500 { "Sender" } else { "Receiver" };
        headers.push(("x-amzn-query-error", format!("{code};{side}")));
    }
    (status, headers, Some(json_type(wire)), Bytes::from(body.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_becomes_the_members_it_names() {
        let body = Bytes::from_static(
            b"Action=X&Tags.member.2.Key=b&Tags.member.1.Key=a&Tags.member.1.Value=1+2%263&N=7",
        );
        let read = Value::Object(form(&body).unwrap());
        let expected = json!({
            "Action": "X",
            "Tags": [{"Key": "a", "Value": "1 2&3"}, {"Key": "b"}],
            "N": "7",
        });
        assert_eq!(read, expected);
    }

    #[test]
    fn an_encoded_slash_stays_in_its_segment() {
        let segments = ["topics", "pollution%2Fdata"];
        let members = matches("/topics/{topic}", &segments).unwrap().unwrap();
        assert_eq!(members["topic"], "pollution/data");
        assert!(matches("/topics/{topic}", &["topics", "a", "b"]).unwrap().is_none());
        assert!(matches("/topics/{topic}", &["topics", "%ff"]).is_err());
    }

    #[test]
    fn a_greedy_label_takes_the_rest() {
        let members = matches("/a/{id}/{arn+}", &["a", "7", "x", "y%2Fz"]).unwrap().unwrap();
        assert_eq!((&members["id"], &members["arn"]), (&json!("7"), &json!("x/y/z")));
        for segments in [&["a", "7"][..], &["a", "7", ""], &["b", "7", "x"], &["a", "", "x"]] {
            assert!(matches("/a/{id}/{arn+}", segments).unwrap().is_none(), "{segments:?}");
        }
    }

    #[test]
    fn text_cannot_break_out_of_xml() {
        let mut out = String::new();
        write_xml("A", &json!({"B": "<x a=\"1\">&\u{1}", "C": [1, true]}), &mut out);
        assert_eq!(
            out,
            "<A><B>&lt;x a=&quot;1&quot;&gt;&amp;\u{fffd}</B><C><member>1</member><member>true</member></C></A>"
        );
    }

    #[test]
    fn a_deep_body_is_refused_and_not_followed() {
        let deep = Bytes::from(format!("{}{}", "{\"a\":".repeat(100_000), "}".repeat(100_000)));
        let fault = object(&deep).unwrap_err();
        assert_eq!(fault.code, Code::Named("SerializationException", 400));
    }
}
