//! Things, their attachments, and rows of before.

use std::collections::BTreeMap;
use std::time::Duration;

use base::ErrorKind;
use identity::{NewAttributes, Registry, Status, ThingUpdate};
use metastore::{Metastore, Row};
use serde_json::{Value, json};

use crate::world;

fn attributes(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn a_thing_is_made_once_and_updated_by_version() {
    let world = world();
    let registry = &world.registry;
    let made = registry.create_thing("t", attributes(&[("a", "1")]), None).unwrap();
    let again = registry.create_thing("t", attributes(&[("a", "1")]), None).unwrap();
    assert_eq!(made.id, again.id);
    let other = registry.create_thing("t", attributes(&[]), None).unwrap_err();
    assert_eq!(other.kind(), ErrorKind::AlreadyExists);
    let four = attributes(&[("a", "1"), ("b", "1"), ("c", "1"), ("d", "1")]);
    assert_eq!(
        registry.create_thing("u", four.clone(), None).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    assert_eq!(
        registry.create_thing("u", four.clone(), Some("sensor")).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    registry.create_thing_type("sensor", None, vec!["site".into()]).unwrap();
    registry.create_thing("u", four, Some("sensor")).unwrap();

    let merge = |values, merge| ThingUpdate {
        attributes: Some(NewAttributes { values: attributes(values), merge }),
        ..ThingUpdate::default()
    };
    registry.update_thing("t", &merge(&[("b", "2")], true)).unwrap();
    let updated = registry.update_thing("t", &merge(&[("a", "")], true)).unwrap();
    assert_eq!((updated.attributes.clone(), updated.version), (attributes(&[("b", "2")]), 3));
    let stale = ThingUpdate { expected_version: Some(1), ..ThingUpdate::default() };
    assert_eq!(registry.update_thing("t", &stale).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(registry.delete_thing("t", Some(1)).unwrap_err().kind(), ErrorKind::Conflict);
    let world = world.reopen();
    assert_eq!(world.registry.thing("t").unwrap().attributes, attributes(&[("b", "2")]));
    world.registry.delete_thing("t", Some(3)).unwrap();
    world.registry.delete_thing("t", None).unwrap();
    assert_eq!(world.registry.thing("t").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_type_in_use_or_not_deprecated_stays() {
    let world = world();
    let registry = &world.registry;
    registry.create_thing_type("sensor", None, vec![]).unwrap();
    registry.create_thing("t", attributes(&[]), Some("sensor")).unwrap();
    let delete = || registry.delete_thing_type("sensor", Duration::from_secs(300));
    assert_eq!(delete().unwrap_err().kind(), ErrorKind::Invalid);
    registry.deprecate_thing_type("sensor", false).unwrap();
    let refused = registry.create_thing("u", attributes(&[]), Some("sensor")).unwrap_err();
    assert!(refused.to_string().contains("deprecated"), "{refused}");
    assert!(delete().unwrap_err().to_string().contains("300 s"));
    world.clock.advance(Duration::from_secs(300));
    assert!(delete().unwrap_err().to_string().contains("\"t\""));
    let bare = ThingUpdate { remove_thing_type: true, ..ThingUpdate::default() };
    registry.update_thing("t", &bare).unwrap();
    delete().unwrap();
    assert!(registry.thing_type("sensor").is_err());
}

#[test]
fn certificates_and_things_are_many_to_many() {
    let world = world();
    let registry = &world.registry;
    let (issued, certificate) = registry.create_certificate("any", Status::Inactive).unwrap();
    let id = certificate.certificate_id;
    let der = crate::handshake::pem_to_der(&issued.certificate_pem);
    assert_eq!(registry.lookup(&der).unwrap_err().kind(), ErrorKind::Denied);
    registry.set_status(&id, Status::Active).unwrap();
    assert_eq!(registry.lookup(&der).unwrap().thing_name, id, "it has no thing");
    for thing in ["b", "a"] {
        registry.create_thing(thing, attributes(&[]), None).unwrap();
        registry.attach(thing, &id).unwrap();
        registry.attach(thing, &id).unwrap();
        assert!(registry.is_attached(&id, thing));
    }
    assert_eq!(registry.lookup(&der).unwrap().things, ["b", "a"]);
    assert_eq!(registry.certificates_of("a"), std::slice::from_ref(&id));
    assert_eq!(registry.delete_thing("a", None).unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(registry.attach("nobody", &id).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(registry.attach("a", "00").unwrap_err().kind(), ErrorKind::NotFound);

    assert_eq!(registry.delete_certificate(&id, true).unwrap_err().kind(), ErrorKind::Invalid);
    registry.set_status(&id, Status::Inactive).unwrap();
    assert_eq!(registry.delete_certificate(&id, false).unwrap_err().kind(), ErrorKind::Conflict);
    registry.detach("a", &id).unwrap();
    assert_eq!(registry.detach("a", &id).unwrap_err().kind(), ErrorKind::NotFound);
    registry.policies().create("p", r#"{"Version": "2012-10-17", "Statement": []}"#).unwrap();
    registry.policies().attach("p", &id).unwrap();
    registry.delete_certificate(&id, true).unwrap();
    assert!(registry.policies().targets("p").unwrap().is_empty());
    assert!(registry.certificates_of("b").is_empty());
    assert_eq!(registry.certificate(&id).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_signing_request_gives_its_subject_and_nothing_else() {
    let world = world();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["evil.example".into()]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, "station-9");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let request = params.serialize_request(&key).unwrap().pem().unwrap();
    let made = world.registry.create_certificate_from_request(&request, Status::Active).unwrap();
    let der = crate::handshake::pem_to_der(&made.pem);
    assert_eq!(world.registry.lookup(&der).unwrap().certificate_id, made.certificate_id);
    let holds = |text: &[u8]| der.windows(text.len()).any(|window| window == text);
    assert!(holds(b"station-9") && holds(key.public_key_raw()));
    assert!(!holds(b"evil.example"));
    // BasicConstraints with cA TRUE: SEQUENCE { BOOLEAN TRUE }.
    assert!(!holds(&[0x30, 0x03, 0x01, 0x01, 0xff]));
    let tampered = request.replacen("MI", "MJ", 1);
    for bad in ["", "no pem", tampered.as_str(), made.pem.as_str()] {
        let refused =
            world.registry.create_certificate_from_request(bad, Status::Active).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{bad}");
    }
}

#[test]
fn groups_hold_things_and_go_without_them() {
    let world = world();
    let registry = &world.registry;
    registry.create_thing("t", attributes(&[]), None).unwrap();
    registry.create_thing_group("plant", None, attributes(&[("a", "1")]), None).unwrap();
    let orphan = registry.create_thing_group("x", None, attributes(&[]), Some("no".into()));
    assert_eq!(orphan.unwrap_err().kind(), ErrorKind::NotFound);
    registry.create_thing_group("hall", None, attributes(&[]), Some("plant".into())).unwrap();
    assert!(registry.delete_thing_group("plant", None).unwrap_err().to_string().contains("hall"));
    registry.set_membership("t", "hall", true).unwrap();
    assert!(registry.thing("t").unwrap().groups.contains("hall"));
    assert_eq!(registry.thing("t").unwrap().version, 1);
    assert_eq!(registry.update_thing_group("hall", Some("d".into()), None, Some(1)).unwrap(), 2);
    let stale = registry.update_thing_group("hall", None, None, Some(1)).unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::Conflict);
    registry.delete_thing_group("hall", None).unwrap();
    assert!(registry.thing("t").unwrap().groups.is_empty());
}

/// Rows as the first release wrote them.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
struct OldThing(Value);

impl Row for OldThing {
    const TABLE: &'static str = "things";
}

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
struct OldCertificate(Value);

impl Row for OldCertificate {
    const TABLE: &'static str = "certificates";
}

#[test]
fn rows_of_the_first_release_gain_an_id_and_a_policy() {
    let world = world();
    let issued = world.authority.issue_device("old").unwrap();
    let store = Metastore::in_memory().unwrap();
    store
        .put("old", &OldThing(json!({"name": "old", "created_at": 1_700_000_000_000_i64})))
        .unwrap();
    let row = json!({
        "certificate_id": issued.certificate_id, "thing": "old", "status": "ACTIVE",
        "created_at": 1_700_000_000_000_i64, "not_after": issued.not_after,
        "pem": issued.certificate_pem,
    });
    store.put(&issued.certificate_id, &OldCertificate(row)).unwrap();
    let open =
        || Registry::open(store.clone(), world.authority.clone(), world.clock.clone()).unwrap();
    let registry = open();
    let der = crate::handshake::pem_to_der(&issued.certificate_pem);
    assert_eq!(registry.lookup(&der).unwrap().things, ["old"]);
    assert_eq!(registry.policies().attached_to(&issued.certificate_id), ["old-Policy"]);
    let id = registry.thing("old").unwrap().id.clone();
    assert_eq!(id.len(), 36);
    registry.detach("old", &issued.certificate_id).unwrap();
    registry.policies().detach("old-Policy", &issued.certificate_id).unwrap();
    let again = open();
    assert_eq!(again.thing("old").unwrap().id, id);
    assert!(again.policies().attached_to(&issued.certificate_id).is_empty(), "once only");
    assert!(again.lookup(&der).unwrap().things.is_empty());
}
