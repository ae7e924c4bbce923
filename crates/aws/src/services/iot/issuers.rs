//! CA certificates: authorities of others, which answer for devices' certificates.

use std::sync::Arc;

use base::{ErrorKind, Timestamp};
use identity::{Certificate, Foreign, Issuer, Mode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::account::registration_code;
use super::certificates::{already, certificate_arn, generation, listed, validation_fault};
use super::inputs::CertificateId;
use super::tags::{self, Tag};
use super::{Marked, arn, by_creation, compact, refuse, yes};
use crate::call::{Call, Outcome, Reply};
use crate::fault::Fault;
use crate::rooms::{Rooms, epoch_secs};

const NO_AUTO_REGISTRATION: &str =
    "a device's certificate is registered by a call, never by its first connection";

fn issuer_arn(rooms: &Rooms, call: &Call, id: &str) -> String {
    arn(rooms, call, &format!("cacert/{id}"))
}

fn status(issuer: &Issuer) -> &'static str {
    if issuer.active { "ACTIVE" } else { "INACTIVE" }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RegisterCa {
    ca_certificate: String,
    verification_certificate: Option<String>,
    #[serde(default)]
    set_as_active: bool,
    #[serde(default)]
    allow_auto_registration: bool,
    registration_config: Option<Value>,
    #[serde(default)]
    tags: Vec<Tag>,
    certificate_mode: Option<Mode>,
}

/// In mode DEFAULT whoever registers shows that they hold the CA's key: by a certificate that it
/// signed and whose common name is our registration code.
pub(super) async fn register_ca_certificate(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: RegisterCa = call.input()?;
    refuse(
        "allowAutoRegistration",
        input.allow_auto_registration.then_some(&()),
        NO_AUTO_REGISTRATION,
    )?;
    check_registration_config(input.registration_config.as_ref())?;
    tags::check(&input.tags)?;
    let now = rooms.clock.now();
    let ca = Foreign::authority(&input.ca_certificate, now).map_err(validation_fault)?;
    let mode = input.certificate_mode.unwrap_or(Mode::Default);
    let proof = input.verification_certificate.as_deref().filter(|pem| !pem.is_empty());
    match (mode, proof) {
        (Mode::Default, Some(proof)) => check_proof(rooms, &ca, proof, now)?,
        (Mode::SniOnly, None) => {}
        (Mode::Default, None) => {
            return Err(Fault::invalid(
                "verificationCertificate is missing: in certificateMode DEFAULT it shows that you \
                 hold the key of caCertificate",
            ));
        }
        (Mode::SniOnly, Some(_)) => {
            return Err(Fault::invalid(
                "verificationCertificate must be empty in certificateMode SNI_ONLY",
            ));
        }
    }
    let made = rooms.registry.register_issuer(&ca, input.set_as_active, mode);
    let (id, arn) = (ca.certificate_id.as_str(), issuer_arn(rooms, call, &ca.certificate_id));
    made.map_err(|error| already(error, id, &arn))?;
    tags::put(rooms, &format!("cacert/{id}"), &input.tags)?;
    Ok(json!({ "certificateArn": arn, "certificateId": id }).into())
}

fn check_proof(rooms: &Rooms, ca: &Foreign, proof: &str, now: Timestamp) -> Result<(), Fault> {
    let proof = Foreign::proof(proof, now)
        .map_err(|error| validation_fault(error.context("verificationCertificate")))?;
    if !proof.is_signed_by(ca) {
        return Err(Fault::named(
            "CertificateValidationException",
            400,
            "verificationCertificate is not signed by caCertificate",
        ));
    }
    if proof.common_name() != Some(registration_code(rooms)?) {
        return Err(Fault::named(
            "RegistrationCodeValidationException",
            400,
            "the common name of verificationCertificate is not the code that GetRegistrationCode \
             gives",
        ));
    }
    Ok(())
}

fn check_registration_config(config: Option<&Value>) -> Result<(), Fault> {
    let asks = config.filter(|config| config.as_object().is_none_or(|config| !config.is_empty()));
    refuse("registrationConfig", asks, "there is no provisioning by template")
}

pub(super) async fn describe_ca_certificate(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let CertificateId { id } = call.input()?;
    let found = rooms.registry.issuer(&id)?;
    Ok(json!({ "certificateDescription": {
        "certificateArn": issuer_arn(rooms, call, &id),
        "certificateId": id,
        "status": status(&found),
        "certificatePem": found.pem,
        "ownedBy": rooms.settings.account_id,
        "creationDate": epoch_secs(found.created_at),
        "lastModifiedDate": epoch_secs(found.modified_at),
        "autoRegistrationStatus": "DISABLE",
        "customerVersion": 1,
        "generationId": generation(&found.certificate_id, found.modified_at),
        "validity": {
            "notBefore": epoch_secs(found.not_before),
            "notAfter": epoch_secs(found.not_after),
        },
        "certificateMode": found.mode,
    }})
    .into())
}

pub(super) async fn list_ca_certificates(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let marked: Marked = call.input()?;
    let created = |row: &Issuer| (row.created_at, row.certificate_id.clone());
    let (rows, next) = by_creation(rooms.registry.issuers()?, created, &marked)?;
    let certificates: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "certificateArn": issuer_arn(rooms, call, &row.certificate_id),
                "certificateId": row.certificate_id,
                "status": status(row),
                "creationDate": epoch_secs(row.created_at),
            })
        })
        .collect();
    Ok(compact(json!({ "certificates": certificates, "nextMarker": next })).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ListByCa {
    ca_certificate_id: String,
    marker: Option<String>,
    page_size: Option<usize>,
    #[serde(default = "yes")]
    is_ascending_order: bool,
}

pub(super) async fn list_certificates_by_ca(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ListByCa = call.input()?;
    let asked = Some(input.ca_certificate_id);
    let mut rows = rooms.registry.certificates()?;
    rows.retain(|row| row.registered.as_ref().is_some_and(|how| how.issuer == asked));
    let created = |row: &Certificate| (row.created_at, row.certificate_id.clone());
    let marked =
        Marked { marker: input.marker, size: input.page_size, ascending: input.is_ascending_order };
    let (rows, next) = by_creation(rows, created, &marked)?;
    let certificates: Vec<Value> = rows
        .iter()
        .map(|row| listed(row, &certificate_arn(rooms, call, &row.certificate_id)))
        .collect();
    Ok(compact(json!({ "certificates": certificates, "nextMarker": next })).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct UpdateCa {
    certificate_id: String,
    new_status: Option<String>,
    new_auto_registration_status: Option<String>,
    registration_config: Option<Value>,
    /// There is none to remove.
    #[serde(rename = "removeAutoRegistration")]
    _remove_auto_registration: Option<bool>,
}

/// Certificates that are registered stay as they are.
pub(super) async fn update_ca_certificate(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: UpdateCa = call.input()?;
    check_registration_config(input.registration_config.as_ref())?;
    match input.new_auto_registration_status.as_deref() {
        None | Some("DISABLE") => {}
        Some("ENABLE") => {
            let member = "newAutoRegistrationStatus ENABLE";
            return Err(Fault::unsupported(member, NO_AUTO_REGISTRATION));
        }
        Some(other) => {
            return Err(Fault::invalid(format!(
                "newAutoRegistrationStatus {other:?} is neither ENABLE nor DISABLE"
            )));
        }
    }
    let id = &input.certificate_id;
    match input.new_status.as_deref() {
        None => drop(rooms.registry.issuer(id)?),
        Some("ACTIVE") => rooms.registry.set_issuer_active(id, true)?,
        Some("INACTIVE") => rooms.registry.set_issuer_active(id, false)?,
        Some(other) => {
            return Err(Fault::invalid(format!(
                "newStatus {other:?} is neither ACTIVE nor INACTIVE"
            )));
        }
    }
    Ok(Reply::empty())
}

pub(super) async fn delete_ca_certificate(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let CertificateId { id } = call.input()?;
    rooms.registry.delete_issuer(&id).map_err(|error| match error.kind() {
        ErrorKind::Denied => Fault::named("CertificateStateException", 406, error.to_string()),
        _ => error.into(),
    })?;
    tags::forget(rooms, &format!("cacert/{id}"))?;
    Ok(json!({}).into())
}
