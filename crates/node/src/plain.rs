//! Forecasts as plain JSON, for programs that know neither SageMaker nor its signatures.
//!
//! `POST /v1/endpoints/{name}/forecast`, opened by an API key. What it takes and answers is said
//! by `/openapi.json`, see [`crate::openapi`]. Series are not read here: the body becomes the
//! request that `serving` reads, and what it answers is passed on piece by piece, as it is.
//!
//! Errors are problems as RFC 9457 has them; their `detail` says what to do.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::marker::PhantomData;
use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base::{Error, ErrorKind};
use identity::{ApiKey, ApiKeyRefusal};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use serving::{Answer, Invocation, Media};

use crate::Node;

/// The beginning of every path here.
pub(crate) const PREFIX: &str = "/v1/endpoints/";

/// Quantiles where none are asked for.
const QUANTILES: &str = "[0.1,0.5,0.9]";

/// Lets in whoever brings an API key, and says which it is.
pub(crate) async fn admit(node: &Node, mut request: Request, next: Next) -> Response {
    match admitted(node, request.headers()) {
        Ok(key) => {
            request.extensions_mut().insert(key);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

fn admitted(node: &Node, headers: &HeaderMap) -> Result<ApiKey, Problem> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    // The scheme's name is the same in any case: RFC 9110, 11.1.
    let bearer = text("authorization").and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    let Some(presented) = bearer.or_else(|| text("x-api-key").map(str::trim)) else {
        let detail = "this route needs an API key, as \"Authorization: Bearer KEY\" or \
                      \"x-api-key: KEY\"; `forebay key create NAME` makes one";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, detail));
    };
    node.api_keys.admit(presented).map_err(|refusal| {
        let detail = match refusal {
            ApiKeyRefusal::Unknown => "there is no such API key; `forebay key list` shows those \
                                       there are, `forebay key create NAME` makes one"
                .to_owned(),
            ApiKeyRefusal::Expired(name) => {
                format!("the API key {name:?} has expired; `forebay key create NAME` makes another")
            }
        };
        Problem::new(StatusCode::UNAUTHORIZED, detail)
    })
}

/// What is asked, taken apart as far as is needed to ask it in other words.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked<'a> {
    #[serde(borrow)]
    series: Vec<Series<'a>>,
    #[serde(borrow)]
    quantiles: Option<&'a RawValue>,
    #[serde(borrow)]
    num_samples: Option<&'a RawValue>,
    variant: Option<String>,
    model: Option<String>,
}

/// A series, whose members but the first `serving` reads.
struct Series<'a>(SeriesMembers<'a>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SeriesMembers<'a> {
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    start: Option<&'a RawValue>,
    #[serde(borrow)]
    target: Option<&'a RawValue>,
    #[serde(borrow)]
    cat: Option<&'a RawValue>,
    #[serde(borrow)]
    dynamic_feat: Option<&'a RawValue>,
}

impl<'de: 'a, 'a> Deserialize<'de> for Series<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object<'a>(PhantomData<&'a ()>);
        impl<'de: 'a, 'a> Visitor<'de> for Object<'a> {
            type Value = Series<'a>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a series as a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Series<'a>, A::Error> {
                SeriesMembers::deserialize(MapAccessDeserializer::new(map)).map(Series)
            }
        }
        // serde would take an array as the members in their order.
        deserializer.deserialize_map(Object(PhantomData))
    }
}

impl<'a> Asked<'a> {
    fn read(body: &'a [u8]) -> Result<Asked<'a>, Problem> {
        let text = std::str::from_utf8(body).map_err(|cause| {
            Problem::bad(format!("the body is not UTF-8 text at byte {}", cause.valid_up_to()))
        })?;
        if !text.trim_start().starts_with('{') {
            return Err(Problem::bad(
                "the body is not a JSON object; send {\"series\": [{\"start\": .., \"target\": \
                 [..]}]}, /openapi.json has all of it",
            ));
        }
        let asked: Asked<'a> = serde_json::from_str(text).map_err(|cause| {
            let cause = culprit(text).unwrap_or_else(|| cause.to_string());
            Problem::bad(format!("the body is no request: {cause}; /openapi.json says what one is"))
        })?;
        match asked.series.is_empty() {
            true => Err(Problem::bad("\"series\" is empty; send at least one")),
            false => Ok(asked),
        }
    }

    fn ids(self) -> Vec<Option<Cow<'a, str>>> {
        self.series.into_iter().map(|series| series.0.id).collect()
    }

    /// The same request in SageMaker's words.
    fn body(&self) -> Bytes {
        let members = |series: &Series<'a>| {
            let SeriesMembers { id: _, start, target, cat, dynamic_feat } = series.0;
            let named = [
                ("\"start\":", start),
                ("\"target\":", target),
                ("\"cat\":", cat),
                ("\"dynamic_feat\":", dynamic_feat),
            ];
            named.into_iter().filter_map(|(name, raw)| Some((name, raw?.get())))
        };
        let length: usize =
            self.series.iter().flat_map(members).map(|(_, raw)| raw.len() + 20).sum();
        let mut out = String::with_capacity(length + 200);
        out.push_str("{\"instances\":[");
        for (k, series) in self.series.iter().enumerate() {
            out.push_str(if k > 0 { ",{" } else { "{" });
            for (k, (name, raw)) in members(series).enumerate() {
                out.extend([if k > 0 { "," } else { "" }, name, raw]);
            }
            out.push('}');
        }
        out.push_str("],\"configuration\":{\"output_types\":[\"mean\",\"quantiles\",\"time\"]");
        let quantiles = self.quantiles.map_or(QUANTILES, RawValue::get);
        out.extend([",\"quantiles\":", quantiles]);
        if let Some(raw) = self.num_samples {
            out.extend([",\"num_samples\":", raw.get()]);
        }
        out.push_str("}}");
        out.into()
    }
}

/// Which series is none, and why, in a body that is no request.
fn culprit(text: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Outline<'a> {
        #[serde(borrow)]
        series: Vec<&'a RawValue>,
    }
    let outline: Outline<'_> = serde_json::from_str(text).ok()?;
    outline.series.iter().enumerate().find_map(|(k, raw)| {
        let cause = serde_json::from_str::<Series<'_>>(raw.get()).err()?;
        Some(format!("series[{k}]: {cause}"))
    })
}

/// What `serving` answers to [`Asked::body`].
#[derive(Deserialize)]
struct Predictions<'a> {
    #[serde(borrow)]
    predictions: Vec<Prediction<'a>>,
}

#[derive(Deserialize)]
struct Prediction<'a> {
    #[serde(borrow)]
    mean: &'a RawValue,
    #[serde(borrow)]
    quantiles: &'a RawValue,
    #[serde(borrow)]
    freq: &'a RawValue,
    #[serde(borrow)]
    timestamps: &'a RawValue,
}

/// Forecasts every series of the body.
pub(crate) async fn forecast(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    Extension(key): Extension<ApiKey>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    if !key.opens(&name) {
        let detail = format!(
            "the API key {:?} is bound to other endpoints than {name:.80?}; `forebay key create \
             NAME --endpoint {name:.80}` makes one for it",
            key.name
        );
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    if !matches!(Media::of_request(content_type), Ok(Media::Json)) {
        let shown = content_type.unwrap_or_default();
        let detail = format!("content type {shown:.80?} is not read here; send application/json");
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let body = body.map_err(|rejected| match rejected.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let most = node.settings.http.body_bytes_max;
            let detail = format!(
                "the body has more than {most} bytes (http.body_bytes_max); send fewer series at \
                 a time, or less of their past"
            );
            Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
        }
        _ => Problem::bad(format!("the body could not be read: {rejected}")),
    })?;
    let asked = Asked::read(&body)?;
    let invocation = Invocation {
        endpoint: name.clone(),
        body: asked.body(),
        content_type: None,
        accept: None,
        target_variant: asked.variant.clone(),
        target_model: asked.model.clone(),
    };
    let ids = asked.ids();
    let answer = node.ask(invocation, aws::InvocationLabels::default()).await?;
    let text = written(&name, &ids, &answer)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
}

/// The answer in this route's words.
fn written(
    endpoint: &str,
    ids: &[Option<Cow<'_, str>>],
    answer: &Answer,
) -> Result<String, Problem> {
    let broken = || Error::internal("the forecasts and the series asked for do not agree");
    let made: Predictions<'_> =
        serde_json::from_slice(&answer.body).map_err(|cause| broken().with_source(cause))?;
    if made.predictions.len() != ids.len() {
        return Err(broken().into());
    }
    let quoted = |text: &str| Value::from(text).to_string();
    let mut out = String::with_capacity(answer.body.len() + 64 * ids.len() + 200);
    let (name, variant, model) = (quoted(endpoint), quoted(&answer.variant), quoted(&answer.model));
    push(&mut out, format_args!("{{\"endpoint\":{name},\"variant\":{variant},\"model\":{model}"));
    out.push_str(",\"forecasts\":[");
    for (k, (id, one)) in ids.iter().zip(&made.predictions).enumerate() {
        out.push_str(if k > 0 { ",{" } else { "{" });
        if let Some(id) = id {
            push(&mut out, format_args!("\"id\":{},", quoted(id)));
        }
        let Prediction { mean, quantiles, freq, timestamps } = one;
        // The first of a list of plain strings.
        let start = timestamps.get().split('"').nth(1).unwrap_or_default();
        push(&mut out, format_args!("\"start\":\"{start}\",\"freq\":{freq}"));
        push(&mut out, format_args!(",\"timestamps\":{timestamps}"));
        push(&mut out, format_args!(",\"mean\":{mean},\"quantiles\":{quantiles}}}"));
    }
    out.push_str("]}");
    Ok(out)
}

fn push(out: &mut String, text: fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a String cannot fail");
}

/// Any other path, for who was let in.
pub(crate) async fn no_route() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "there is no such route; /openapi.json has those here")
}

/// Another method than POST.
pub(crate) async fn no_method() -> Response {
    let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this route is asked by POST");
    ([(header::ALLOW, "POST")], problem).into_response()
}

/// A refusal on the wire.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
}

impl Problem {
    fn new(status: StatusCode, detail: impl Into<String>) -> Problem {
        Problem { status, detail: detail.into() }
    }

    fn bad(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, detail)
    }
}

impl From<Error> for Problem {
    /// What `serving` refused, in the words of this route.
    fn from(error: Error) -> Problem {
        let status = match error.kind() {
            ErrorKind::Invalid
            | ErrorKind::Unsupported
            | ErrorKind::Conflict
            | ErrorKind::AlreadyExists => StatusCode::BAD_REQUEST,
            ErrorKind::Denied => StatusCode::FORBIDDEN,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Exhausted => StatusCode::TOO_MANY_REQUESTS,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Corrupt | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(?error, "a forecast failed");
        }
        let detail = error.to_string();
        let detail = match detail.strip_prefix("instances[") {
            Some(rest) => format!("series[{rest}"),
            None => detail.strip_prefix("configuration: ").unwrap_or(&detail).to_owned(),
        };
        Problem { status, detail }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let body = json!({
            "type": "about:blank",
            "title": title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let head = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (self.status, head, body.to_string()).into_response();
        let more = match self.status {
            StatusCode::UNAUTHORIZED => Some((header::WWW_AUTHENTICATE, "Bearer")),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Some((header::RETRY_AFTER, "1"))
            }
            _ => None,
        };
        if let Some((name, value)) = more {
            response.headers_mut().insert(name, header::HeaderValue::from_static(value));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SERIES: &str = r#"{"id":"a \"b\"","start":"2024-01-01","target":[1,null]}"#;

    #[test]
    fn a_request_is_asked_in_sagemakers_words() {
        let text = format!("{{\"series\":[{SERIES}],\"quantiles\":[0.50],\"num_samples\":7}}");
        let asked = Asked::read(text.as_bytes()).unwrap();
        let body: Value = serde_json::from_slice(&asked.body()).unwrap();
        assert_eq!(body["instances"], json!([{"start": "2024-01-01", "target": [1, null]}]));
        let wanted = json!({
            "output_types": ["mean", "quantiles", "time"], "quantiles": [0.5], "num_samples": 7,
        });
        assert_eq!(body["configuration"], wanted);
        assert_eq!(asked.ids(), [Some(Cow::Borrowed("a \"b\""))]);
        let text = format!("{{\"series\":[{SERIES}]}}");
        let asked = Asked::read(text.as_bytes()).unwrap().body();
        let request = serving::Request::parse(
            &asked,
            serving::Shape { freq: "1H".parse().unwrap(), prediction_length: 2 },
        );
        let keys: Vec<String> =
            request.unwrap().configuration.quantiles.unwrap().into_iter().map(|l| l.key).collect();
        assert_eq!(keys, ["0.1", "0.5", "0.9"]);
    }

    #[test]
    fn what_is_no_request_is_refused_by_its_place() {
        let refusal = |text: &str| Asked::read(text.as_bytes()).err().unwrap().detail;
        for (text, expect) in [
            ("", "not a JSON object"),
            ("[1]", "not a JSON object"),
            ("{\"series\":", "the body is no request"),
            ("{}", "missing field `series`"),
            ("{\"series\":[]}", "\"series\" is empty"),
            ("{\"series\":[NaN]}", "the body is no request"),
            ("{\"series\":[1]}", "series[0]: invalid type"),
            ("{\"series\":[[\"a\",\"2024-01-01\",[1],[],[]]]}", "series[0]: invalid type"),
            ("{\"series\":[{\"id\":1}]}", "series[0]: invalid type"),
            ("{\"series\":[{},{\"item_id\":\"x\"}]}", "series[1]: unknown field `item_id`"),
            ("{\"series\":[{}],\"samples\":3}", "unknown field `samples`"),
            ("{\"series\":[{}],\"variant\":3}", "invalid type"),
        ] {
            assert!(refusal(text).contains(expect), "{text}: {}", refusal(text));
        }
        assert!(Asked::read(&[b'{', 0xff]).err().unwrap().detail.contains("UTF-8"));
    }

    #[test]
    fn an_answer_is_passed_on_as_it_is() {
        let answer = Answer {
            body: br#"{"predictions":[{"mean":[1.0],"quantiles":{"0.10":[null]},"freq":"1H","timestamps":["2024-01-01 00:00:00"]}]}"#.to_vec(),
            content_type: "application/json",
            variant: "new".to_owned(),
            model: "m-1".to_owned(),
            artifact: "ozone-1.tar.gz".to_owned(),
            target_model: None,
            freq: forecast::Frequency::HOURLY,
            latency: Duration::ZERO,
        };
        let text = written("e", &[Some("x\n".into())], &answer).unwrap();
        let expect = json!({"endpoint": "e", "variant": "new", "model": "m-1", "forecasts": [{
            "id": "x\n", "start": "2024-01-01 00:00:00", "freq": "1H",
            "timestamps": ["2024-01-01 00:00:00"], "mean": [1.0], "quantiles": {"0.10": [null]},
        }]});
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expect);
        assert!(!written("e", &[None], &answer).unwrap().contains("\"id\""));
        assert!(written("e", &[None, None], &answer).is_err());
    }

    #[test]
    fn refusals_of_the_model_name_what_was_sent() {
        let detail = |text: &str| Problem::from(Error::invalid(text)).detail;
        assert_eq!(detail("instances[3]: \"start\" is missing"), "series[3]: \"start\" is missing");
        assert_eq!(detail("configuration: quantiles[0]: 7"), "quantiles[0]: 7");
        let full = Problem::from(Error::new(ErrorKind::Exhausted, "64 wait")).into_response();
        assert_eq!(full.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(full.headers()[header::RETRY_AFTER], "1");
    }
}
