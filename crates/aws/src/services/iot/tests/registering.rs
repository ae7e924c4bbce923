//! Certificates made elsewhere, with and without a CA that answers for them.

use axum::body::Bytes;
use http::Request;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};

use super::super::SERVICE;
use super::{Answer, call, encoded, refused};
use crate::testing::World;

type Ca = CertifiedIssuer<'static, KeyPair>;

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn ca(name: &str) -> Ca {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn by(ca: &Ca, name: &str) -> String {
    params(name).signed_by(&KeyPair::generate().unwrap(), ca).unwrap().pem()
}

fn self_signed(name: &str) -> String {
    params(name).self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

async fn post(world: &World, path: &str, body: Value) -> Answer {
    call(world, "POST", path, body).await
}

async fn without_ca(world: &World, body: Value) -> Answer {
    post(world, "/certificate/register-no-ca", body).await
}

/// The whole answer, also of a refusal.
async fn shown(world: &World, path: &str, body: Value) -> Value {
    let request = Request::post(path).body(Bytes::from(body.to_string())).unwrap();
    let (_status, body) = world.send(&SERVICE, request).await;
    serde_json::from_slice(&body).unwrap()
}

async fn describe(world: &World, id: &str) -> Value {
    let seen = call(world, "GET", &format!("/certificates/{id}"), Value::Null).await.unwrap();
    seen["certificateDescription"].clone()
}

#[tokio::test]
async fn a_certificate_is_registered_without_a_ca_once() {
    let world = World::new();
    let w = &world;
    for (status, kept) in
        [(None, "INACTIVE"), (Some("ACTIVE"), "ACTIVE"), (Some("REVOKED"), "REVOKED")]
    {
        let pem = self_signed("device");
        let mut body = json!({ "certificatePem": pem });
        if let Some(status) = status {
            body["status"] = json!(status);
        }
        let made = without_ca(w, body.clone()).await.unwrap();
        let id = made["certificateId"].as_str().unwrap();
        let arn = format!("arn:aws:iot:us-east-1:123456789012:cert/{id}");
        assert_eq!((id.len(), &made["certificateArn"]), (64, &json!(arn)));
        let seen = describe(w, id).await;
        assert_eq!((&seen["status"], &seen["certificatePem"]), (&json!(kept), &json!(pem)));
        assert_eq!(seen["certificateMode"], "SNI_ONLY");
        assert_eq!(seen.get("caCertificateId"), None);
        refused(without_ca(w, body.clone()).await, 409, "ResourceAlreadyExistsException");
        let again = shown(w, "/certificate/register-no-ca", body).await;
        assert_eq!((&again["resourceId"], &again["resourceArn"]), (&json!(id), &json!(arn)));
    }
    let page = call(w, "GET", "/certificates", Value::Null).await.unwrap();
    let modes: Vec<&Value> =
        page["certificates"].as_array().unwrap().iter().map(|c| &c["certificateMode"]).collect();
    assert_eq!(modes, ["SNI_ONLY"; 3]);
}

#[tokio::test]
async fn what_cannot_be_registered_is_refused_by_name() {
    let world = World::new();
    let w = &world;
    let pem = self_signed("device");
    for (body, code, part) in [
        (json!({ "certificatePem": "nonsense" }), "CertificateValidationException", "PEM"),
        (json!({}), "InvalidRequestException", "certificatePem"),
        (
            json!({ "certificatePem": pem, "status": "PENDING_ACTIVATION" }),
            "InvalidRequestException",
            "PENDING_ACTIVATION",
        ),
        (
            json!({ "certificatePem": pem, "caCertificatePem": pem }),
            "InvalidRequestException",
            "caCertificatePem",
        ),
    ] {
        let message = refused(without_ca(w, body).await, 400, code);
        assert!(message.contains(part), "{message}");
    }
    let path = "/certificate/register-no-ca?setAsActive=true";
    let message = refused(
        post(w, path, json!({ "certificatePem": pem })).await,
        400,
        "InvalidRequestException",
    );
    assert!(message.contains("setAsActive"), "{message}");
}

async fn register_ca(world: &World, ca: &Ca, query: &str) -> Answer {
    let code = call(world, "GET", "/registrationcode", Value::Null).await.unwrap();
    let proof = by(ca, code["registrationCode"].as_str().unwrap());
    let body = json!({ "caCertificate": ca.pem(), "verificationCertificate": proof });
    post(world, &format!("/cacertificate{query}"), body).await
}

#[tokio::test]
async fn a_ca_answers_for_the_certificates_it_signed() {
    let world = World::new();
    let w = &world;
    let ca = ca("factory");
    let pem = by(&ca, "device");
    let register = |query: &'static str, body: Value| async move {
        post(w, &format!("/certificate/register{query}"), body).await
    };
    let plain = json!({ "certificatePem": pem });
    let named = json!({ "certificatePem": pem, "caCertificatePem": ca.pem() });
    for body in [&plain, &named] {
        refused(register("", body.clone()).await, 400, "CertificateValidationException");
    }
    let made = register_ca(w, &ca, "").await.unwrap();
    let ca_id = made["certificateId"].as_str().unwrap();
    let ca_arn = format!("arn:aws:iot:us-east-1:123456789012:cacert/{ca_id}");
    assert_eq!(made["certificateArn"], ca_arn);
    refused(register_ca(w, &ca, "").await, 409, "ResourceAlreadyExistsException");
    for body in [&plain, &named] {
        refused(register("", body.clone()).await, 406, "CertificateStateException");
    }
    let one = format!("/cacertificate/{ca_id}");
    call(w, "PUT", &format!("{one}?newStatus=ACTIVE"), json!({})).await.unwrap();
    let seen = call(w, "GET", &one, Value::Null).await.unwrap()["certificateDescription"].clone();
    assert_eq!(
        (&seen["status"], &seen["certificateMode"], &seen["autoRegistrationStatus"]),
        (&json!("ACTIVE"), &json!("DEFAULT"), &json!("DISABLE"))
    );
    assert_eq!(
        (&seen["certificatePem"], &seen["certificateArn"]),
        (&json!(ca.pem()), &json!(ca_arn))
    );
    let listed = call(w, "GET", "/cacertificates", Value::Null).await.unwrap();
    assert_eq!(listed["certificates"][0]["certificateId"], ca_id);

    let made = register("?setAsActive=true", named.clone()).await.unwrap();
    let id = made["certificateId"].as_str().unwrap();
    let seen = describe(w, id).await;
    assert_eq!(
        (&seen["status"], &seen["certificateMode"], &seen["caCertificateId"]),
        (&json!("ACTIVE"), &json!("DEFAULT"), &json!(ca_id))
    );
    refused(register("", plain).await, 409, "ResourceAlreadyExistsException");
    let other = json!({ "certificatePem": by(&ca, "other"), "status": "ACTIVE" });
    let contradiction = register("?setAsActive=false", other.clone()).await;
    refused(contradiction, 400, "InvalidRequestException");
    register("", other).await.unwrap();
    let path = format!("/certificates-by-ca/{ca_id}?pageSize=1");
    let page = call(w, "GET", &path, Value::Null).await.unwrap();
    assert_eq!(page["certificates"].as_array().unwrap().len(), 1);
    assert!(page["nextMarker"].is_string());
    without_ca(w, json!({ "certificatePem": by(&ca, "alone") })).await.unwrap();
    let path = format!("/certificates-by-ca/{ca_id}");
    let page = call(w, "GET", &path, Value::Null).await.unwrap();
    assert_eq!(page["certificates"].as_array().unwrap().len(), 2, "of one nobody answered for");

    refused(call(w, "DELETE", &one, Value::Null).await, 406, "CertificateStateException");
    call(w, "PUT", &format!("{one}?newStatus=INACTIVE"), json!({})).await.unwrap();
    call(w, "DELETE", &one, Value::Null).await.unwrap();
    for (method, path) in [("GET", one.clone()), ("DELETE", one.clone()), ("PUT", one)] {
        refused(call(w, method, &path, Value::Null).await, 404, "ResourceNotFoundException");
    }
    assert_eq!(describe(w, id).await["status"], "ACTIVE", "it needs its CA no more");
}

#[tokio::test]
async fn of_two_cas_with_one_key_the_caller_says_which() {
    let world = World::new();
    let w = &world;
    let one = ca("factory");
    let key = KeyPair::from_pem(&one.key().serialize_pem()).unwrap();
    let mut params = params("factory");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    let two: Ca = CertifiedIssuer::self_signed(params, key).unwrap();
    for ca in [&one, &two] {
        register_ca(w, ca, "?setAsActive=true").await.unwrap();
    }
    let mut body = json!({ "certificatePem": by(&one, "device") });
    let path = "/certificate/register";
    refused(post(w, path, body.clone()).await, 409, "CertificateConflictException");
    body["caCertificatePem"] = json!(two.pem());
    post(w, path, body).await.unwrap();
}

#[tokio::test]
async fn a_ca_is_registered_by_who_holds_its_key() {
    let world = World::new();
    let w = &world;
    let ca = ca("factory");
    let code = call(w, "GET", "/registrationcode", Value::Null).await.unwrap();
    let code = code["registrationCode"].as_str().unwrap();
    let proof = by(&ca, code);
    let cases = [
        (json!({ "caCertificate": ca.pem() }), "InvalidRequestException", "missing"),
        (
            json!({ "caCertificate": ca.pem(), "verificationCertificate": by(&self::ca("factory"), code) }),
            "CertificateValidationException",
            "not signed",
        ),
        (
            json!({ "caCertificate": ca.pem(), "verificationCertificate": "nonsense" }),
            "CertificateValidationException",
            "verificationCertificate",
        ),
        (
            json!({ "caCertificate": ca.pem(), "verificationCertificate": by(&ca, "another") }),
            "RegistrationCodeValidationException",
            "GetRegistrationCode",
        ),
        (
            json!({ "caCertificate": self_signed("leaf"), "verificationCertificate": proof }),
            "CertificateValidationException",
            "CA:TRUE",
        ),
        (
            json!({ "caCertificate": ca.pem(), "verificationCertificate": proof,
                "certificateMode": "SNI_ONLY" }),
            "InvalidRequestException",
            "must be empty",
        ),
        (
            json!({ "caCertificate": ca.pem(), "verificationCertificate": proof,
                "registrationConfig": { "templateName": "t" } }),
            "InvalidRequestException",
            "registrationConfig",
        ),
        (
            json!({ "caCertificate": ca.pem(), "verificationCertificate": proof,
                "certificateMode": "OTHER" }),
            "InvalidRequestException",
            "certificateMode",
        ),
    ];
    for (body, error, part) in cases {
        let message = refused(post(w, "/cacertificate", body).await, 400, error);
        assert!(message.contains(part), "{message}");
    }
    let good = json!({ "caCertificate": ca.pem(), "verificationCertificate": proof });
    let path = "/cacertificate?allowAutoRegistration=true";
    let message = refused(post(w, path, good.clone()).await, 400, "InvalidRequestException");
    assert!(message.contains("allowAutoRegistration"), "{message}");
    // A code that was deleted shows nothing any more.
    call(w, "DELETE", "/registrationcode", Value::Null).await.unwrap();
    let gone = call(w, "DELETE", "/registrationcode", Value::Null).await;
    refused(gone, 404, "ResourceNotFoundException");
    let late = post(w, "/cacertificate", good).await;
    refused(late, 400, "RegistrationCodeValidationException");
    let listed = call(w, "GET", "/cacertificates", Value::Null).await.unwrap();
    assert_eq!(listed["certificates"], json!([]));
}

#[tokio::test]
async fn a_ca_without_proof_gives_its_mode_on_and_may_have_tags() {
    let world = World::new();
    let w = &world;
    let ca = ca("factory");
    let body = json!({ "caCertificate": ca.pem(), "certificateMode": "SNI_ONLY",
        "tags": [{ "Key": "site", "Value": "a" }] });
    let path = "/cacertificate?setAsActive=true&allowAutoRegistration=false";
    let made = post(w, path, body).await.unwrap();
    let (id, arn) =
        (made["certificateId"].as_str().unwrap(), made["certificateArn"].as_str().unwrap());
    let path = format!("/tags?resourceArn={}", encoded(arn));
    let tags = call(w, "GET", &path, Value::Null).await.unwrap();
    assert_eq!(tags["tags"], json!([{ "Key": "site", "Value": "a" }]));
    let device = json!({ "certificatePem": by(&ca, "device"), "status": "INACTIVE" });
    let made = post(w, "/certificate/register", device).await.unwrap();
    let seen = describe(w, made["certificateId"].as_str().unwrap()).await;
    assert_eq!(
        (&seen["certificateMode"], &seen["status"]),
        (&json!("SNI_ONLY"), &json!("INACTIVE"))
    );
    let one = format!("/cacertificate/{id}");
    for (query, body, part) in [
        ("?newStatus=REVOKED", json!({}), "REVOKED"),
        ("?newAutoRegistrationStatus=ENABLE", json!({}), "ENABLE"),
        ("?newAutoRegistrationStatus=x", json!({}), "DISABLE"),
        ("", json!({ "registrationConfig": { "roleArn": "r" } }), "registrationConfig"),
    ] {
        let answer = call(w, "PUT", &format!("{one}{query}"), body).await;
        let message = refused(answer, 400, "InvalidRequestException");
        assert!(message.contains(part), "{message}");
    }
    let query = "?newStatus=INACTIVE&newAutoRegistrationStatus=DISABLE";
    let removing = json!({ "removeAutoRegistration": true });
    call(w, "PUT", &format!("{one}{query}"), removing).await.unwrap();
    call(w, "DELETE", &one, Value::Null).await.unwrap();
    let tags = call(w, "GET", &path, Value::Null).await;
    refused(tags, 404, "ResourceNotFoundException");
}
