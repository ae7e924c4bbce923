//! Application Auto Scaling: targets of endpoint variants.
//!
//! On one machine nothing scales by itself. A registered target is kept and described, so that
//! scripts which set bounds for a cloud run here; a policy, which would have to act, is refused.

use std::sync::Arc;

use base::ErrorKind;
use metastore::Row;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::call::{Call, Outcome, Reply, Service, operation};
use crate::fault::Fault;
use crate::page::page;
use crate::protocol::Protocol;
use crate::rooms::{Rooms, epoch_secs};

pub(crate) static SERVICE: Service = Service {
    name: "application-autoscaling",
    scopes: &["application-autoscaling"],
    protocol: Protocol::Json { target: "AnyScaleFrontendService", version: "1.1" },
    codes,
    body_bytes_max: 256 * 1024,
    operations: &[
        operation!("RegisterScalableTarget", register, differs: "bounds are kept and described; nothing scales on one machine, and policies are not offered"),
        operation!("DescribeScalableTargets", describe),
        operation!("DeregisterScalableTarget", deregister),
    ],
};

fn codes(kind: ErrorKind) -> (&'static str, u16) {
    match kind {
        ErrorKind::NotFound => ("ObjectNotFoundException", 400),
        ErrorKind::Conflict => ("ConcurrentUpdateException", 400),
        ErrorKind::Denied => ("AccessDeniedException", 400),
        ErrorKind::AlreadyExists | ErrorKind::Invalid | ErrorKind::Unsupported => {
            ("ValidationException", 400)
        }
        ErrorKind::Exhausted => ("LimitExceededException", 400),
        ErrorKind::Unavailable => ("ServiceUnavailable", 503),
        ErrorKind::Corrupt | ErrorKind::Internal => ("InternalServiceException", 500),
    }
}

const NAMESPACE: &str = "sagemaker";
const DIMENSION: &str = "sagemaker:variant:DesiredInstanceCount";

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Target {
    min: u32,
    max: u32,
    role_arn: Option<String>,
    created_at: i64,
}

impl Row for Target {
    const TABLE: &'static str = "aws-autoscaling-targets";
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Register {
    service_namespace: String,
    resource_id: String,
    scalable_dimension: String,
    min_capacity: Option<u32>,
    max_capacity: Option<u32>,
    #[serde(rename = "RoleARN")]
    role_arn: Option<String>,
    suspended_state: Option<Value>,
    tags: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Deregister {
    service_namespace: String,
    resource_id: String,
    scalable_dimension: String,
}

fn check(namespace: &str, dimension: Option<&str>) -> Result<(), Fault> {
    if namespace != NAMESPACE || dimension.is_some_and(|dimension| dimension != DIMENSION) {
        let dimension = dimension.unwrap_or_default();
        return Err(Fault::invalid(format!(
            "{namespace:?} {dimension:?}: Forebay keeps targets of {NAMESPACE:?} with {DIMENSION:?}"
        )));
    }
    Ok(())
}

async fn register(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Register = call.input()?;
    check(&input.service_namespace, Some(&input.scalable_dimension))?;
    if input.suspended_state.is_some() || input.tags.is_some() {
        return Err(Fault::unsupported(
            "SuspendedState and Tags",
            "nothing scales that could be suspended",
        ));
    }
    let parts: Vec<&str> = input.resource_id.split('/').collect();
    let ["endpoint", endpoint, "variant", variant] = parts[..] else {
        let id = &input.resource_id;
        return Err(Fault::invalid(format!("ResourceId {id:?}: use endpoint/NAME/variant/NAME")));
    };
    let found = rooms.host.endpoint(endpoint).ok();
    if !found.is_some_and(|found| found.variants.iter().any(|one| one.name == variant)) {
        return Err(Fault::invalid(format!(
            "SageMaker endpoint {endpoint:?} with variant {variant:?} does not exist"
        )));
    }
    let before = rooms.metastore.get::<Target>(&input.resource_id)?.map(|seen| seen.row);
    let min = input.min_capacity.or(before.as_ref().map(|target| target.min));
    let max = input.max_capacity.or(before.as_ref().map(|target| target.max));
    let (Some(min), Some(max)) = (min, max) else {
        return Err(Fault::invalid("a new target needs MinCapacity and MaxCapacity"));
    };
    if min > max {
        return Err(Fault::invalid(format!("MinCapacity {min} is above MaxCapacity {max}")));
    }
    let created_at = before.map_or_else(|| rooms.clock.now().millis(), |target| target.created_at);
    let target = Target { min, max, role_arn: input.role_arn, created_at };
    rooms.metastore.put(&input.resource_id, &target)?;
    let arn = rooms.arn(
        "application-autoscaling",
        &call.region,
        &format!("scalable-target/{}", input.resource_id),
    );
    Ok(json!({"ScalableTargetARN": arn}).into())
}

async fn deregister(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Deregister = call.input()?;
    check(&input.service_namespace, Some(&input.scalable_dimension))?;
    match rooms.metastore.delete::<Target>(&input.resource_id)? {
        true => Ok(Reply::from(json!({}))),
        false => {
            Err(Fault::not_found(format!("No scalable target found for {:?}", input.resource_id)))
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Describe {
    service_namespace: String,
    resource_ids: Option<Vec<String>>,
    scalable_dimension: Option<String>,
    max_results: Option<usize>,
    next_token: Option<String>,
}

async fn describe(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Describe = call.input()?;
    check(&input.service_namespace, input.scalable_dimension.as_deref())?;
    let mut all = rooms.metastore.list::<Target>()?;
    all.retain(|(id, _)| input.resource_ids.as_ref().is_none_or(|ids| ids.contains(id)));
    let rows: Vec<(String, Target)> = all.into_iter().map(|(id, seen)| (id, seen.row)).collect();
    let key = |(id, _): &(String, Target)| id.clone();
    let (given, next) = page(rows, key, input.next_token.as_deref(), input.max_results, 50)?;
    let shown = |(id, target): &(String, Target)| {
        json!({
            "ServiceNamespace": NAMESPACE,
            "ResourceId": id,
            "ScalableDimension": DIMENSION,
            "MinCapacity": target.min,
            "MaxCapacity": target.max,
            "RoleARN": target.role_arn.clone().unwrap_or_else(|| rooms.keys.role_arn()),
            "CreationTime": epoch_secs(base::Timestamp(target.created_at)),
        })
    };
    let mut answer = json!({"ScalableTargets": given.iter().map(shown).collect::<Vec<_>>()});
    if let Some(next) = next {
        answer["NextToken"] = json!(next);
    }
    Ok(answer.into())
}
