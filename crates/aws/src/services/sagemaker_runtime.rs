//! SageMaker's runtime: invocations.

use std::sync::Arc;

use axum::body::Bytes;
use base::ErrorKind;
use serde::Deserialize;
use serde_json::{Value, json};
use serving::Invocation;

use crate::call::{Call, Outcome, Reply, Service, operation, route};
use crate::fault::Fault;
use crate::protocol::Protocol;
use crate::rooms::Rooms;
use crate::services::sagemaker::capture;
use crate::services::sagemaker::hosting::Besides;

/// Most bytes of a request's body (AWS: 6 MB).
const BODY_BYTES_MAX: usize = 6 * 1024 * 1024;

pub(crate) static SERVICE: Service = Service {
    name: "sagemaker-runtime",
    scopes: &["sagemaker"],
    protocol: Protocol::RestJson,
    codes,
    body_bytes_max: BODY_BYTES_MAX,
    operations: &[operation!(
        "InvokeEndpoint",
        invoke,
        route!(
            "POST",
            "/endpoints/{EndpointName}/invocations",
            headers: [
                ("x-amzn-sagemaker-target-variant", "TargetVariant"),
                ("x-amzn-sagemaker-target-model", "TargetModel"),
                ("x-amzn-sagemaker-target-container-hostname", "TargetContainerHostname"),
                ("x-amzn-sagemaker-inference-component", "InferenceComponentName"),
                ("x-amzn-sagemaker-enable-explanations", "EnableExplanations"),
                ("x-amzn-sagemaker-session-id", "SessionId"),
                ("x-amzn-sagemaker-custom-attributes", "CustomAttributes"),
                ("x-amzn-sagemaker-inference-id", "InferenceId"),
            ],
            raw: true
        ),
        differs: "a body without a content type, or of application/octet-stream, is read as JSON"
    )],
};

fn codes(kind: ErrorKind) -> (&'static str, u16) {
    match kind {
        ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::Invalid
        | ErrorKind::Conflict
        | ErrorKind::Unsupported => ("ValidationError", 400),
        ErrorKind::Denied => ("AccessDeniedException", 403),
        ErrorKind::Exhausted => ("ThrottlingException", 429),
        ErrorKind::Unavailable => ("ServiceUnavailable", 503),
        ErrorKind::Corrupt | ErrorKind::Internal => ("InternalFailure", 500),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Invoke {
    endpoint_name: String,
    target_variant: Option<String>,
    target_model: Option<String>,
    target_container_hostname: Option<String>,
    inference_component_name: Option<String>,
    enable_explanations: Option<String>,
    session_id: Option<String>,
    custom_attributes: Option<String>,
    /// Names the request for data capture.
    inference_id: Option<String>,
}

/// Sends a copy of a request to a shadow variant, whose answer nobody gets: it is captured.
fn copy(rooms: &Arc<Rooms>, invocation: Invocation, shadow: String, capturing: Option<Capturing>) {
    let rooms = Arc::clone(rooms);
    tokio::spawn(async move {
        let body = invocation.body.clone();
        match (rooms.host.copy(invocation, &shadow).await, capturing) {
            (Ok(answer), Some(capturing)) => capturing.capture(&rooms, &body, &answer),
            (Ok(_), None) => {}
            (Err(error), _) => tracing::debug!(shadow, %error, "a shadow variant did not answer"),
        }
    });
}

/// What is captured beside a request and its answer.
#[derive(Clone)]
struct Capturing {
    config: Value,
    endpoint: String,
    content_type: String,
    inference_id: Option<String>,
    custom_attributes: Option<String>,
}

impl Capturing {
    fn capture(&self, rooms: &Rooms, body: &Bytes, answer: &serving::Answer) {
        let exchange = capture::Exchange {
            endpoint: &self.endpoint,
            input: (body, &self.content_type),
            answer,
            inference_id: self.inference_id.as_deref(),
            custom_attributes: self.custom_attributes.as_deref(),
        };
        capture::capture(rooms, &self.config, &exchange);
    }
}

/// What came beside a request, to be captured with it.
#[derive(Clone, Debug, Default)]
pub struct InvocationLabels {
    /// What its sender calls it.
    pub inference_id: Option<String>,
    /// What its sender says of it.
    pub custom_attributes: Option<String>,
}

/// Answers one request, by whichever route it came: shadow variants get their copies of it, and
/// what is to be captured is.
pub async fn answer_invocation(
    rooms: &Arc<Rooms>,
    invocation: Invocation,
    labels: InvocationLabels,
) -> base::Result<serving::Answer> {
    let endpoint = invocation.endpoint.clone();
    let Some(config) = rooms.host.config_of(&endpoint)? else {
        // Which says that there is none.
        return rooms.host.invoke(invocation).await;
    };
    let InvocationLabels { inference_id, custom_attributes } = labels;
    let content_type = invocation.content_type.as_deref().unwrap_or("application/json");
    let capturing = Besides::of(rooms, &endpoint, &config)?.capture.map(|config| Capturing {
        config,
        endpoint: endpoint.clone(),
        content_type: content_type.to_owned(),
        inference_id,
        custom_attributes,
    });
    if invocation.target_variant.is_none() {
        for shadow in rooms.host.shadows_due(&endpoint) {
            copy(rooms, invocation.clone(), shadow, capturing.clone());
        }
    }
    let body = invocation.body.clone();
    let answer = rooms.host.invoke(invocation).await?;
    if let Some(capturing) = capturing {
        capturing.capture(rooms, &body, &answer);
    }
    Ok(answer)
}

async fn invoke(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Invoke = call.input()?;
    let refused = [
        ("TargetContainerHostname", &input.target_container_hostname, "a model has one container"),
        ("InferenceComponentName", &input.inference_component_name, "there are no components"),
        ("EnableExplanations", &input.enable_explanations, "there is no explainer"),
        ("SessionId", &input.session_id, "DeepAR keeps no session"),
    ];
    for (member, value, why) in refused {
        if value.is_some() {
            return Err(Fault::unsupported(member, why));
        }
    }
    if let Some(attributes) = &input.custom_attributes
        && (attributes.len() > 1024 || attributes.bytes().any(|byte| !(0x20..0x7f).contains(&byte)))
    {
        return Err(Fault::invalid("CustomAttributes has at most 1024 visible ASCII characters"));
    }
    let account = &rooms.settings.account_id;
    let endpoint = &input.endpoint_name;
    if rooms.host.config_of(endpoint)?.is_none() {
        return Err(Fault::invalid(format!("Endpoint {endpoint} of account {account} not found.")));
    }
    let invocation = Invocation {
        endpoint: endpoint.clone(),
        body: call.body.clone(),
        content_type: call.header("content-type").map(str::to_owned),
        accept: call.header("accept").map(str::to_owned),
        target_variant: input.target_variant,
        target_model: input.target_model,
    };
    let labels = InvocationLabels {
        inference_id: input.inference_id,
        custom_attributes: input.custom_attributes,
    };
    let invoked = answer_invocation(rooms, invocation, labels).await;
    let answer = invoked.map_err(|error| {
        let original = match error.kind() {
            ErrorKind::Invalid => 400,
            ErrorKind::Unsupported => 415,
            ErrorKind::Internal => 500,
            _ => return error.into(),
        };
        let message = error.to_string();
        let mut fault = Fault::named(
            "ModelError",
            424,
            format!("Received client error ({original}) from primary with message \"{message}\"."),
        );
        fault.members =
            vec![("OriginalStatusCode", json!(original)), ("OriginalMessage", json!(message))];
        fault
    })?;
    Ok(Reply::raw(answer.body, answer.content_type)
        .header("x-amzn-invoked-production-variant", answer.variant))
}
