//! SageMaker: training jobs, models, endpoints.
//!
//! What a job or a model was asked to be is kept as it was asked, and given back by Describe;
//! what it is comes from the rooms `training` and `serving`.

pub(crate) mod capture;
mod deploy;
pub(crate) mod hosting;
mod reshape;
mod tags;
mod training;
mod transform;

#[cfg(test)]
mod tests;

use base::ErrorKind;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::call::{Call, Service, operation};
use crate::fault::Fault;
use crate::protocol::Protocol;
use crate::rooms::Rooms;

pub use capture::{capture_table, captured_endpoint};
pub use training::Trainings;

pub(crate) static SERVICE: Service = Service {
    name: "sagemaker",
    scopes: &["sagemaker"],
    protocol: Protocol::Json { target: "SageMaker", version: "1.1" },
    codes,
    body_bytes_max: 2 * 1024 * 1024,
    operations: &[
        operation!("CreateTrainingJob", training::create, differs: "algorithms forecasting-deepar and, of our own, forecasting-deepar-plus, forecasting-seasonal-naive and forecasting-ets (docs/forecasting.md); one instance; debugger and profiler settings are kept and have no rules to run"),
        operation!("DescribeTrainingJob", training::describe),
        operation!("ListTrainingJobs", training::list),
        operation!("StopTrainingJob", training::stop),
        operation!("DeleteTrainingJob", training::delete),
        operation!("CreateTransformJob", transform::create, differs: "JSON Lines, one series a line, or whole objects; filters are $ with members"),
        operation!("DescribeTransformJob", transform::describe),
        operation!("ListTransformJobs", transform::list),
        operation!("StopTransformJob", transform::stop),
        operation!("CreateModel", hosting::create_model, differs: "archives of the algorithms of CreateTrainingJob, also many below a prefix; no VPC"),
        operation!("DescribeModel", hosting::describe_model),
        operation!("ListModels", hosting::list_models),
        operation!("DeleteModel", hosting::delete_model),
        operation!("CreateEndpointConfig", hosting::create_config, differs: "no asynchronous or serverless inference; any number of shadow variants up to ten, beside any number of production variants"),
        operation!("DescribeEndpointConfig", hosting::describe_config),
        operation!("ListEndpointConfigs", hosting::list_configs),
        operation!("DeleteEndpointConfig", hosting::delete_config),
        operation!("CreateEndpoint", hosting::create_endpoint),
        operation!("DescribeEndpoint", hosting::describe_endpoint),
        operation!("ListEndpoints", hosting::list_endpoints),
        operation!("UpdateEndpoint", hosting::update_endpoint, differs: "canary, linear and rolling steps move shares of the requests, not instances; undone by itself where the new variants fail what the old ones answer, see docs/endpoints.md"),
        operation!("UpdateEndpointWeightsAndCapacities", hosting::update_weights, differs: "weights; instance counts are labels"),
        operation!("DeleteEndpoint", hosting::delete_endpoint),
        operation!("DescribeNotebookInstance", hosting::describe_notebook, differs: "the one that `forebay notebook` stands for"),
        operation!("ListNotebookInstances", hosting::list_notebooks, differs: "the one that `forebay notebook` stands for"),
        operation!("AddTags", tags::add),
        operation!("ListTags", tags::list),
        operation!("DeleteTags", tags::delete),
    ],
};

fn codes(kind: ErrorKind) -> (&'static str, u16) {
    match kind {
        ErrorKind::NotFound
        | ErrorKind::AlreadyExists
        | ErrorKind::Invalid
        | ErrorKind::Conflict
        | ErrorKind::Unsupported => ("ValidationException", 400),
        ErrorKind::Denied => ("AccessDeniedException", 400),
        ErrorKind::Exhausted => ("ResourceLimitExceeded", 400),
        ErrorKind::Unavailable => ("ServiceUnavailable", 503),
        ErrorKind::Corrupt | ErrorKind::Internal => ("InternalFailure", 500),
    }
}

/// Reads a request, and keeps it as it came for Describe.
fn asked<T: DeserializeOwned>(call: &Call) -> Result<(T, Value), Fault> {
    Ok((call.input()?, call.input.clone()))
}

/// Letters, digits and inner hyphens, at most 63: SageMaker's rule for names.
fn check_name(member: &str, name: &str) -> Result<(), Fault> {
    let good = (1..=63).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-');
    if good {
        return Ok(());
    }
    Err(Fault::invalid(format!(
        "1 validation error detected: Value '{name:.100}' at '{member}' failed to satisfy constraint: Member must satisfy regular expression pattern: ^[a-zA-Z0-9](-*[a-zA-Z0-9]){{0,62}}"
    )))
}

/// A role's ARN is a label here, but one that AWS would take.
fn check_role(arn: &str) -> Result<(), Fault> {
    let good = arn.starts_with("arn:aws") && arn.contains(":iam::") && arn.contains(":role/");
    if good {
        return Ok(());
    }
    Err(Fault::invalid(format!(
        "RoleArn {arn:?} is not a role's ARN: arn:aws:iam::ACCOUNT:role/NAME"
    )))
}

/// `s3://BUCKET/KEY` in its parts.
fn s3_place(member: &str, uri: &str) -> Result<(String, String), Fault> {
    let place = uri.strip_prefix("s3://").and_then(|rest| {
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        (!bucket.is_empty()).then(|| (bucket.to_owned(), key.to_owned()))
    });
    place.ok_or_else(|| {
        Fault::invalid(format!("{member} {uri:?} is not of the form s3://BUCKET/KEY"))
    })
}

/// The algorithm of a container image. Every account and region is taken: the name decides.
fn check_image(rooms: &Rooms, image: &str) -> Result<::training::Algorithm, Fault> {
    let (repository, tag) = match image.rsplit_once('/') {
        Some((_, name)) => name.split_once(':').unwrap_or((name, "latest")),
        None => (image, ""),
    };
    let named = |algorithm: &::training::Algorithm| algorithm.name() == repository;
    if let Some(algorithm) = ::training::Algorithm::ALL.into_iter().find(named)
        && matches!(tag, "1" | "latest")
    {
        return Ok(algorithm);
    }
    let region = &rooms.settings.region;
    let names = ::training::Algorithm::ALL.map(::training::Algorithm::name).join(":1, ");
    Err(Fault::invalid(format!(
        "image {image:?}: Forebay runs {names}:1, for instance 522234722520.dkr.ecr.{region}.amazonaws.com/forecasting-deepar:1"
    )))
}

/// Whether a member asks for nothing: absent, null, false, or an empty list or object.
fn asks_nothing(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => true,
        Some(Value::Array(entries)) => entries.is_empty(),
        Some(Value::Object(members)) => members.is_empty(),
        Some(_) => false,
    }
}

/// Refuses members that are not acted on, unless they ask for nothing.
fn refuse(input: &Value, members: &[(&str, &str)]) -> Result<(), Fault> {
    for (member, why) in members {
        if !asks_nothing(input.get(*member)) {
            return Err(Fault::unsupported(member, why));
        }
    }
    Ok(())
}
