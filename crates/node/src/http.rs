//! The routes of our own: health, metrics, forecasts as plain JSON, invocations for the command
//! line, and its calls.
//!
//! One middleware stands in front of every route and denies by default. Public are
//! `/healthz`, `/readyz`, `/metrics`, `/openapi.json`, and the links by which endpoints of HTTP
//! actions confirm that they want what a rule posts; such a link holds a token. Below
//! `/v1/endpoints/` an API key opens. Everything else needs the token that lies, readable by its
//! owner only, in the data directory. What is signed for AWS never comes here.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base::{Error, ErrorKind};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use serving::Invocation;

use crate::{Node, admin, metrics, openapi, plain};

/// All routes.
pub(crate) fn router(node: Arc<Node>, destinations: Arc<aws::Destinations>) -> Router {
    let body_bytes_max = node.settings.http.body_bytes_max;
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_page))
        .route("/confirmdestination/{token}", get(confirm).with_state(destinations))
        .route("/endpoints/{name}/invocations", post(invoke))
        .route("/forebay/call/{operation}", post(call))
        .route("/forebay/tail", get(tail))
        .route("/openapi.json", get(openapi_document))
        .route("/v1/endpoints/{name}/forecast", post(plain::forecast).fallback(plain::no_method))
        .fallback(plain::no_route)
        .layer(middleware::from_fn_with_state(node.clone(), authorize))
        .layer(DefaultBodyLimit::max(body_bytes_max))
        .with_state(node)
}

/// Whether a path is one of ours. A bucket may have such a name: its requests are signed.
pub(crate) fn is_route(path: &str) -> bool {
    is_open(path)
        || path.starts_with("/forebay/")
        || (path.starts_with("/endpoints/") && path.ends_with("/invocations"))
}

/// Whether a route is open to everybody.
fn is_public(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz" | "/metrics" | "/openapi.json")
        || path.starts_with("/confirmdestination/")
}

/// Whether a route is open to others than this machine's owner: everybody, or who has a key.
pub(crate) fn is_open(path: &str) -> bool {
    is_public(path) || path.starts_with(plain::PREFIX)
}

async fn authorize(State(node): State<Arc<Node>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if path.starts_with(plain::PREFIX) {
        return plain::admit(&node, request, next).await;
    }
    if is_public(path) || node.token.opens(bearer(request.headers())) {
        return next.run(request).await;
    }
    let refused = Error::new(
        ErrorKind::Denied,
        "this route needs the token in the data directory's admin-token file",
    );
    Failure(refused).into_response()
}

fn bearer(headers: &HeaderMap) -> &str {
    let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    value.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default()
}

async fn healthz(State(node): State<Arc<Node>>) -> Response {
    let health = node.health();
    let status = if health.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({"ok": health.ok, "problems": health.problems}))).into_response()
}

async fn readyz(State(node): State<Arc<Node>>) -> Response {
    if node.is_ready() {
        (StatusCode::OK, Json(json!({"ready": true}))).into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, Json(json!({"ready": false}))).into_response()
    }
}

async fn metrics_page(State(node): State<Arc<Node>>) -> Result<Response, Failure> {
    // Reads rows, the log and the disk.
    let page = admin::blocking(move || Ok(metrics::render(&node))).await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page).into_response())
}

async fn openapi_document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi::DOCUMENT.as_str()).into_response()
}

/// What the `enableUrl` of a confirmation leads to.
async fn confirm(
    State(destinations): State<Arc<aws::Destinations>>,
    Path(token): Path<String>,
) -> Result<Json<Value>, Failure> {
    destinations.confirm(&token)?;
    Ok(Json(json!({"confirmed": true})))
}

/// InvokeEndpoint as the SDKs send it: the body is the model's request, headers steer.
async fn invoke(
    State(node): State<Arc<Node>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let text =
        |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let invocation = Invocation {
        endpoint: name,
        body,
        content_type: text("content-type"),
        accept: text("accept"),
        target_variant: text("x-amzn-sagemaker-target-variant"),
        target_model: text("x-amzn-sagemaker-target-model"),
    };
    let labels = aws::InvocationLabels {
        inference_id: text("x-amzn-sagemaker-inference-id"),
        custom_attributes: text("x-amzn-sagemaker-custom-attributes"),
    };
    let answer = node.ask(invocation, labels).await?;
    let head = [
        (header::CONTENT_TYPE.as_str(), answer.content_type.to_owned()),
        ("x-amzn-invoked-production-variant", answer.variant),
    ];
    Ok((head, answer.body).into_response())
}

async fn call(
    State(node): State<Arc<Node>>,
    Path(operation): Path<String>,
    Json(input): Json<Value>,
) -> Result<Json<Value>, Failure> {
    Ok(Json(admin::call(&node, &operation, input).await?))
}

#[derive(Deserialize)]
struct Tail {
    filter: String,
}

/// Messages as JSON lines, until the caller goes away.
async fn tail(
    State(node): State<Arc<Node>>,
    Query(tail): Query<Tail>,
) -> Result<Response, Failure> {
    let lines = node.tail(&tail.filter)?;
    let lines = lines.map(|line| Ok::<_, std::convert::Infallible>(format!("{line}\n")));
    let head = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((head, Body::from_stream(lines)).into_response())
}

/// An error on the wire: its kind as status and word, its message, never its cause.
pub(crate) struct Failure(Error);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.0.kind() {
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::AlreadyExists | ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Denied => StatusCode::FORBIDDEN,
            ErrorKind::Exhausted => StatusCode::TOO_MANY_REQUESTS,
            ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorKind::Unsupported => StatusCode::NOT_IMPLEMENTED,
            ErrorKind::Corrupt | ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if status.is_server_error() {
            tracing::error!(error = ?self.0, "request failed");
        }
        let body =
            json!({"error": {"kind": self.0.kind().as_str(), "message": self.0.to_string()}});
        (status, Json(body)).into_response()
    }
}
