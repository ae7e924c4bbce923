//! What belongs to the installation: its endpoint and its registration code.

use std::sync::Arc;

use metastore::Row;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::call::{Call, Outcome};
use crate::fault::Fault;
use crate::rooms::Rooms;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DescribeEndpoint {
    #[serde(rename = "endpointType")]
    kind: Option<String>,
}

/// All data endpoints are the one listener that devices connect to.
pub(super) async fn describe_endpoint(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: DescribeEndpoint = call.input()?;
    match input.kind.as_deref().unwrap_or("iot:Data") {
        "iot:Data" | "iot:Data-ATS" | "iot:Data-Beta" => {
            Ok(json!({ "endpointAddress": rooms.settings.endpoint_host }).into())
        }
        kind @ ("iot:CredentialProvider" | "iot:Jobs") => Err(Fault::unsupported(
            "endpointType",
            &format!("there is no endpoint for {kind}; iot:Data-ATS is the one for MQTT"),
        )),
        other => Err(Fault::invalid(format!(
            "endpointType {other:?} is not one of iot:Data, iot:Data-ATS, iot:Data-Beta, \
             iot:CredentialProvider and iot:Jobs"
        ))),
    }
}

#[derive(Serialize, Deserialize)]
struct RegistrationCode {
    code: String,
}

/// The key of the one row.
const CODE: &str = "code";

impl Row for RegistrationCode {
    const TABLE: &'static str = "aws-iot-registration-code";
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

pub(super) async fn get_registration_code(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let Nothing {} = call.input()?;
    Ok(json!({ "registrationCode": registration_code(rooms)? }).into())
}

/// Random, made at the first question and the same until it is deleted.
pub(super) fn registration_code(rooms: &Rooms) -> Result<String, Fault> {
    let random =
        format!("{}{}", uuid::Uuid::new_v4().as_simple(), uuid::Uuid::new_v4().as_simple());
    let code = rooms.metastore.transact(|transaction| {
        if let Some(found) = transaction.get::<RegistrationCode>(CODE)? {
            return Ok(found.row.code);
        }
        transaction.put(CODE, &RegistrationCode { code: random.clone() })?;
        Ok(random)
    })?;
    Ok(code)
}

pub(super) async fn delete_registration_code(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let Nothing {} = call.input()?;
    if !rooms.metastore.delete::<RegistrationCode>(CODE)? {
        return Err(Fault::not_found("there is no registration code"));
    }
    Ok(json!({}).into())
}
