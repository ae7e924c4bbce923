//! Certificates.

use std::sync::Arc;

use base::{Error, ErrorKind, Timestamp};
use identity::{Certificate, Foreign, Issuer, Mode, Status};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::inputs::CertificateId;
use super::{Marked, arn, by_creation, compact};
use crate::call::{Call, Outcome, Reply};
use crate::fault::Fault;
use crate::rooms::{Rooms, epoch_secs};

/// The subject of certificates that are made without a request, as on AWS.
const COMMON_NAME: &str = "AWS IoT Certificate";

pub(super) fn certificate_arn(rooms: &Rooms, call: &Call, id: &str) -> String {
    arn(rooms, call, &format!("cert/{id}"))
}

fn initial(active: Option<bool>) -> Status {
    if active == Some(true) { Status::Active } else { Status::Inactive }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CreateKeys {
    set_as_active: Option<bool>,
}

/// The only answer that ever shows the private key.
pub(super) async fn create_keys_and_certificate(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: CreateKeys = call.input()?;
    let status = initial(input.set_as_active);
    let (issued, made) = rooms.registry.create_certificate(COMMON_NAME, status)?;
    Ok(json!({
        "certificateArn": certificate_arn(rooms, call, &made.certificate_id),
        "certificateId": made.certificate_id,
        "certificatePem": made.pem,
        "keyPair": {
            "PublicKey": issued.public_key_pem,
            "PrivateKey": issued.private_key_pem.expose(),
        },
    })
    .into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct CreateFromCsr {
    certificate_signing_request: String,
    set_as_active: Option<bool>,
}

pub(super) async fn create_certificate_from_csr(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: CreateFromCsr = call.input()?;
    let status = initial(input.set_as_active);
    let request = &input.certificate_signing_request;
    let made = rooms.registry.create_certificate_from_request(request, status)?;
    Ok(json!({
        "certificateArn": certificate_arn(rooms, call, &made.certificate_id),
        "certificateId": made.certificate_id,
        "certificatePem": made.pem,
    })
    .into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Register {
    certificate_pem: String,
    ca_certificate_pem: Option<String>,
    set_as_active: Option<bool>,
    status: Option<String>,
}

/// A certificate that a registered CA answers for: the one named, or the only one that signed it.
pub(super) async fn register_certificate(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Register = call.input()?;
    let status = asked_status(input.status.as_deref(), input.set_as_active)?;
    let now = rooms.clock.now();
    let device = Foreign::device(&input.certificate_pem, now).map_err(validation_fault)?;
    let given = input.ca_certificate_pem.map(|pem| Foreign::authority(&pem, now)).transpose();
    let given = given.map_err(|error| validation_fault(error.context("caCertificatePem")))?;
    let issuer = rooms.registry.issuer_of(&device, given.as_ref()).map_err(validation_fault)?;
    register(rooms, call, &device, status, Some(&issuer))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RegisterWithoutCa {
    certificate_pem: String,
    status: Option<String>,
}

/// A certificate of anybody, on the word of the caller.
pub(super) async fn register_certificate_without_ca(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: RegisterWithoutCa = call.input()?;
    let status = asked_status(input.status.as_deref(), None)?;
    let now = rooms.clock.now();
    let device = Foreign::device(&input.certificate_pem, now).map_err(validation_fault)?;
    register(rooms, call, &device, status, None)
}

fn register(
    rooms: &Rooms,
    call: &Call,
    device: &Foreign,
    status: Status,
    issuer: Option<&Issuer>,
) -> Outcome {
    let (id, arn) = (&device.certificate_id, certificate_arn(rooms, call, &device.certificate_id));
    rooms.registry.register_certificate(device, status, issuer).map_err(|error| {
        match error.kind() {
            ErrorKind::AlreadyExists => already(error, id, &arn),
            _ => validation_fault(error),
        }
    })?;
    Ok(json!({ "certificateArn": arn, "certificateId": id }).into())
}

/// `setAsActive` is the older way to say it.
fn asked_status(status: Option<&str>, active: Option<bool>) -> Result<Status, Fault> {
    let status = match status {
        None => return Ok(initial(active)),
        Some("ACTIVE") => Status::Active,
        Some("INACTIVE") => Status::Inactive,
        Some("REVOKED") => Status::Revoked,
        Some(other) => {
            return Err(Fault::invalid(format!(
                "status {other:?} cannot be set; use ACTIVE, INACTIVE or REVOKED"
            )));
        }
    };
    match active {
        Some(active) if active != (status == Status::Active) => Err(Fault::invalid(format!(
            "setAsActive {active} contradicts status {status}; leave setAsActive out"
        ))),
        _ => Ok(status),
    }
}

/// What is wrong with a certificate or with who answers for it.
pub(super) fn validation_fault(error: Error) -> Fault {
    let (code, status) = match error.kind() {
        ErrorKind::Invalid | ErrorKind::NotFound => ("CertificateValidationException", 400),
        ErrorKind::Denied => ("CertificateStateException", 406),
        ErrorKind::Conflict => ("CertificateConflictException", 409),
        _ => return error.into(),
    };
    Fault::named(code, status, error.to_string())
}

/// With what there is already, for clients that go on with it.
pub(super) fn already(error: Error, id: &str, arn: &str) -> Fault {
    let taken = error.kind() == ErrorKind::AlreadyExists;
    let mut fault = Fault::from(error);
    if taken {
        fault.message = format!("certificate {id} is already registered");
        fault.members.push(("resourceId", json!(id)));
        fault.members.push(("resourceArn", json!(arn)));
    }
    fault
}

pub(super) async fn describe_certificate(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let CertificateId { id } = call.input()?;
    let found = rooms.registry.certificate(&id)?;
    let issuer = found.registered.as_ref().and_then(|how| how.issuer.as_deref());
    Ok(compact(json!({ "certificateDescription": {
        "certificateArn": certificate_arn(rooms, call, &id),
        "certificateId": id,
        "caCertificateId": issuer,
        "status": found.status,
        "certificatePem": found.pem,
        "ownedBy": rooms.settings.account_id,
        "creationDate": epoch_secs(found.created_at),
        "lastModifiedDate": epoch_secs(found.modified_at),
        "customerVersion": 1,
        "generationId": generation(&found.certificate_id, found.modified_at),
        "validity": {
            "notBefore": epoch_secs(found.not_before),
            "notAfter": epoch_secs(found.not_after),
        },
        "certificateMode": mode(&found),
    }}))
    .into())
}

/// What we sign ourselves counts as registered by a CA.
fn mode(certificate: &Certificate) -> Mode {
    certificate.registered.as_ref().map_or(Mode::Default, |how| how.mode)
}

/// Another one after every change of the certificate.
pub(super) fn generation(id: &str, modified_at: Timestamp) -> String {
    let named = format!("{id}/{}", modified_at.millis());
    let digest = Sha256::digest(named);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

pub(super) async fn list_certificates(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let marked: Marked = call.input()?;
    let all = rooms.registry.certificates()?;
    let created = |row: &Certificate| (row.created_at, row.certificate_id.clone());
    let (rows, next) = by_creation(all, created, &marked)?;
    let certificates: Vec<Value> = rows
        .iter()
        .map(|row| listed(row, &certificate_arn(rooms, call, &row.certificate_id)))
        .collect();
    Ok(compact(json!({ "certificates": certificates, "nextMarker": next })).into())
}

/// A certificate as lists show it.
pub(super) fn listed(row: &Certificate, arn: &str) -> Value {
    json!({
        "certificateArn": arn,
        "certificateId": row.certificate_id,
        "status": row.status,
        "certificateMode": mode(row),
        "creationDate": epoch_secs(row.created_at),
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct UpdateCertificate {
    certificate_id: String,
    new_status: String,
}

/// Live sessions of a certificate that is no longer ACTIVE end.
pub(super) async fn update_certificate(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: UpdateCertificate = call.input()?;
    let status = match input.new_status.as_str() {
        "ACTIVE" => Status::Active,
        "INACTIVE" => Status::Inactive,
        "REVOKED" => Status::Revoked,
        other => {
            return Err(Fault::invalid(format!(
                "newStatus {other:?} cannot be set; use ACTIVE, INACTIVE or REVOKED"
            )));
        }
    };
    rooms.registry.set_status(&input.certificate_id, status).map_err(state_fault)?;
    Ok(Reply::empty())
}

fn state_fault(error: Error) -> Fault {
    match error.kind() {
        ErrorKind::Invalid => Fault::named("CertificateStateException", 406, error.to_string()),
        ErrorKind::Conflict => Fault::named("DeleteConflictException", 409, error.to_string()),
        _ => error.into(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct DeleteCertificate {
    certificate_id: String,
    #[serde(default)]
    force_delete: bool,
}

pub(super) async fn delete_certificate(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: DeleteCertificate = call.input()?;
    let deleted = rooms.registry.delete_certificate(&input.certificate_id, input.force_delete);
    deleted.map_err(state_fault)?;
    Ok(Reply::empty())
}
