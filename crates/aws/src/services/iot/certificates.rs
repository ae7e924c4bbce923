//! Certificates.

use std::sync::Arc;

use base::{Error, ErrorKind};
use identity::{Certificate, Status};
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

pub(super) async fn describe_certificate(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let CertificateId { id } = call.input()?;
    let found = rooms.registry.certificate(&id)?;
    Ok(json!({ "certificateDescription": {
        "certificateArn": certificate_arn(rooms, call, &id),
        "certificateId": id,
        "status": found.status,
        "certificatePem": found.pem,
        "ownedBy": rooms.settings.account_id,
        "creationDate": epoch_secs(found.created_at),
        "lastModifiedDate": epoch_secs(found.modified_at),
        "customerVersion": 1,
        "generationId": generation(&found),
        "validity": {
            "notBefore": epoch_secs(found.not_before),
            "notAfter": epoch_secs(found.not_after),
        },
        "certificateMode": "DEFAULT",
    }})
    .into())
}

/// Another one after every change of the certificate.
fn generation(certificate: &Certificate) -> String {
    let named = format!("{}/{}", certificate.certificate_id, certificate.modified_at.millis());
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
        .map(|row| {
            json!({
                "certificateArn": certificate_arn(rooms, call, &row.certificate_id),
                "certificateId": row.certificate_id,
                "status": row.status,
                "certificateMode": "DEFAULT",
                "creationDate": epoch_secs(row.created_at),
            })
        })
        .collect();
    Ok(compact(json!({ "certificates": certificates, "nextMarker": next })).into())
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
