//! Things, certificates and their changes.

use std::sync::{Arc, Mutex};

use base::ErrorKind;
use identity::{Change, Status};

use crate::handshake::der;
use crate::world;

#[test]
fn a_change_is_stored_then_believed_then_told() {
    let world = world();
    let kit = world.registry.add_device("d").unwrap();
    let id = kit.certificate.certificate_id.clone();
    let told = Arc::new(Mutex::new(Vec::new()));
    let (registry, der, heard) = (Arc::downgrade(&world.registry), der(&kit), Arc::clone(&told));
    world.registry.on_change(move |change: &Change| {
        let registry = registry.upgrade().unwrap();
        let admits = registry.lookup(&der).is_ok();
        let stored = registry.list().unwrap()[0].1[0].status;
        heard.lock().unwrap().push((change.clone(), admits, stored));
    });
    for status in [Status::Inactive, Status::Inactive, Status::Active, Status::Revoked] {
        world.registry.set_status(&id, status).unwrap();
    }
    let change = |status| Change { certificate_id: id.clone(), thing_name: "d".into(), status };
    assert_eq!(
        *told.lock().unwrap(),
        [
            (change(Status::Inactive), false, Status::Inactive),
            (change(Status::Active), true, Status::Active),
            (change(Status::Revoked), false, Status::Revoked),
        ],
        "once each; setting what it is already tells nobody"
    );
}

#[test]
fn revoked_is_for_good_and_survives_a_restart() {
    let world = world();
    let kit = world.registry.add_device("d").unwrap();
    let id = &kit.certificate.certificate_id;
    world.registry.set_status(id, Status::Revoked).unwrap();
    let refused = world.registry.set_status(id, Status::Active).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let world = world.reopen();
    assert_eq!(world.registry.lookup(&der(&kit)).unwrap_err().kind(), ErrorKind::Denied);
    assert!(!world.registry.is_active(id));
}

#[test]
fn revoking_a_thing_revokes_all_its_certificates_and_no_other() {
    let world = world();
    let first = world.registry.add_device("d").unwrap();
    let second = world.registry.add_certificate("d").unwrap();
    let other = world.registry.add_device("e").unwrap();
    let mut revoked = world.registry.revoke("d").unwrap();
    revoked.sort();
    let mut expected = vec![first.certificate.certificate_id, second.certificate.certificate_id];
    expected.sort();
    assert_eq!(revoked, expected);
    assert!(!world.registry.is_active(&expected[0]) && !world.registry.is_active(&expected[1]));
    assert!(world.registry.is_active(&other.certificate.certificate_id));
    assert_eq!(world.registry.revoke("nobody").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn names_are_checked_and_taken_once() {
    let world = world();
    world.registry.add_device("d").unwrap();
    let twice = world.registry.add_device("d").unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::AlreadyExists);
    assert_eq!(world.registry.list().unwrap()[0].1.len(), 1, "nor a second certificate");
    let long = "x".repeat(129);
    for name in ["", "a b", "../etc", "a/b", "-rf", "a.b", "ü", "a\nb", &long] {
        let refused = world.registry.add_device(name).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{name:?}");
    }
    world.registry.add_device(&"x".repeat(128)).unwrap();
    assert_eq!(world.registry.add_certificate("new").unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn unknown_certificates_are_denied_or_not_found() {
    let world = world();
    assert_eq!(world.registry.lookup(b"noise").unwrap_err().kind(), ErrorKind::Denied);
    let absent = world.registry.set_status("00ff", Status::Active).unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);
    assert!(!world.registry.is_active("00ff"));
}

#[test]
fn serials_are_random_and_fingerprints_differ() {
    let world = world();
    let first = world.registry.add_device("a").unwrap();
    let second = world.registry.add_device("b").unwrap();
    // The serial follows the version in the certificate: SEQUENCE, SEQUENCE, [0], INTEGER.
    let serial = |der: &[u8]| {
        let at = der.windows(2).position(|w| w[0] == 0x02 && (15..=17).contains(&w[1])).unwrap();
        der[at + 2..at + 2 + usize::from(der[at + 1])].to_vec()
    };
    let (one, other) = (serial(&der(&first)), serial(&der(&second)));
    assert!(one.len() >= 16 && other.len() >= 16, "128 bits");
    assert!(one[0] < 0x80 && other[0] < 0x80, "positive");
    assert!(one != other);
    assert!(first.certificate.certificate_id != second.certificate.certificate_id);
    assert_eq!(first.certificate.certificate_id.len(), 64);
}
