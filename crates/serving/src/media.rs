//! Which text an invocation speaks.
//!
//! Notebooks send DeepAR's JSON as `application/octet-stream` with `Accept: */*`, so a type
//! that says nothing is taken for JSON; a type that says something else is refused.

use base::{Error, Result};

/// A text form of requests and answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// One object for all instances.
    Json,
    /// One object a line.
    JsonLines,
}

impl Media {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::JsonLines => "application/jsonlines",
        }
    }

    /// Reads a request's `Content-Type`.
    pub fn of_request(content_type: Option<&str>) -> Result<Media> {
        let name = content_type.unwrap_or_default();
        match essence(name).as_str() {
            ""
            | "application/json"
            | "application/octet-stream"
            | "binary/octet-stream"
            | "text/json"
            | "application/x-www-form-urlencoded"
            | "*/*" => Ok(Media::Json),
            lines if is_lines(lines) => Ok(Media::JsonLines),
            other => Err(Error::unsupported(format!(
                "content type \"{}\" is not supported; send application/json or application/jsonlines",
                shown(other)
            ))),
        }
    }

    /// Chooses the answer's form from `Accept`; what the request came in, if it may be anything.
    pub fn of_answer(accept: Option<&str>, request: Media) -> Result<Media> {
        let accept = accept.unwrap_or_default();
        let mut accepted =
            accept.split(',').map(essence).filter(|name| !name.is_empty()).peekable();
        if accepted.peek().is_none() {
            return Ok(request);
        }
        let chosen = accepted.find_map(|name| match name.as_str() {
            "*/*" | "application/*" | "application/octet-stream" | "binary/octet-stream" => {
                Some(request)
            }
            "application/json" => Some(Media::Json),
            lines if is_lines(lines) => Some(Media::JsonLines),
            _ => None,
        });
        chosen.ok_or_else(|| {
            Error::unsupported(format!(
                "accepted type \"{}\" is not supported; accept application/json or application/jsonlines",
                shown(accept)
            ))
        })
    }
}

fn is_lines(name: &str) -> bool {
    matches!(
        name,
        "application/jsonlines"
            | "application/x-jsonlines"
            | "application/jsonl"
            | "application/x-ndjson"
            | "application/json-lines"
    )
}

/// The type without parameters, in lower case.
fn essence(name: &str) -> String {
    name.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn shown(text: &str) -> String {
    text.chars().filter(|sign| !sign.is_control()).take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_nothing_is_json() {
        for name in [
            None,
            Some(""),
            Some("application/octet-stream"),
            Some("Application/JSON; charset=utf-8"),
        ] {
            assert_eq!(Media::of_request(name).unwrap(), Media::Json, "{name:?}");
        }
        assert_eq!(Media::of_request(Some("application/jsonlines")).unwrap(), Media::JsonLines);
        let error = Media::of_request(Some("text/csv")).unwrap_err();
        assert_eq!(error.kind(), base::ErrorKind::Unsupported);
        assert!(error.to_string().contains("text/csv"), "{error}");
    }

    #[test]
    fn the_answer_follows_what_is_accepted() {
        for (accept, request, expect) in [
            (None, Media::Json, Media::Json),
            (Some("*/*"), Media::JsonLines, Media::JsonLines),
            (Some("application/json"), Media::JsonLines, Media::Json),
            (Some("text/html, application/jsonlines;q=0.5, */*"), Media::Json, Media::JsonLines),
        ] {
            assert_eq!(Media::of_answer(accept, request).unwrap(), expect, "{accept:?}");
        }
        assert!(Media::of_answer(Some("text/csv"), Media::Json).is_err());
    }
}
