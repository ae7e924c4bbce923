//! Policies: versions, attachments, and what listeners hear.

use std::sync::{Arc, Mutex};

use base::ErrorKind;
use identity::policies::VERSIONS_MAX;

use crate::world;

const DOCUMENT: &str = r#"{"Version": "2012-10-17", "Statement": []}"#;

#[test]
fn the_default_version_counts_and_listeners_hear_of_it() {
    let world = world();
    let kit = world.registry.add_device("d").unwrap();
    let id = &kit.certificate.certificate_id;
    let policies = world.registry.policies();
    let told = Arc::new(Mutex::new(0));
    let heard = Arc::clone(&told);
    let before = policies.attached_documents(id).len();
    policies.create("p", DOCUMENT).unwrap();
    policies.on_change(move |change| *heard.lock().unwrap() += change.certificates.len());
    policies.attach("p", id).unwrap();
    policies.attach("p", id).unwrap();
    assert_eq!(*told.lock().unwrap(), 1, "attached once");
    let of_p = || {
        let attached = policies.attached_documents(id);
        assert_eq!(attached.len(), before + 1);
        attached.into_iter().find(|attached| &*attached.policy == "p").unwrap()
    };
    let first = of_p();
    policies.create_version("p", r#"{"Version": "2008-10-17", "Statement": []}"#, false).unwrap();
    assert!(Arc::ptr_eq(&first.document, &of_p().document), "still the first");
    assert_eq!(*told.lock().unwrap(), 1, "nothing in force changed");
    policies.set_default("p", 2).unwrap();
    assert_eq!(
        (of_p().version, &*of_p().document),
        (2, r#"{"Version": "2008-10-17", "Statement": []}"#)
    );
    assert_eq!(*told.lock().unwrap(), 2);
    let (document, id) = (of_p(), id.clone());
    let world = world.reopen();
    let policies = world.registry.policies();
    assert!(policies.attached_documents(&id).contains(&document), "survives a restart");
    policies.detach("p", &id).unwrap();
    assert_eq!(policies.attached_documents(&id).len(), before);
}

#[test]
fn versions_and_attachments_protect_each_other() {
    let world = world();
    let kit = world.registry.add_device("d").unwrap();
    let id = &kit.certificate.certificate_id;
    let policies = world.registry.policies();
    policies.create("p", DOCUMENT).unwrap();
    assert_eq!(policies.create("p", DOCUMENT).unwrap_err().kind(), ErrorKind::AlreadyExists);
    for _ in 1..VERSIONS_MAX {
        policies.create_version("p", DOCUMENT, false).unwrap();
    }
    let full = policies.create_version("p", DOCUMENT, true).unwrap_err();
    assert_eq!(full.kind(), ErrorKind::Exhausted);
    assert_eq!(policies.delete_version("p", 1).unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(policies.delete_version("p", 9).unwrap_err().kind(), ErrorKind::NotFound);
    for version in 2..=5 {
        policies.delete_version("p", version).unwrap();
    }
    assert_eq!(policies.create_version("p", DOCUMENT, false).unwrap().1, 6, "never used twice");
    policies.delete_version("p", 6).unwrap();
    policies.attach("p", id).unwrap();
    assert_eq!(policies.targets("p").unwrap(), std::slice::from_ref(id));
    assert_eq!(policies.delete("p").unwrap_err().kind(), ErrorKind::Conflict);
    policies.detach("p", id).unwrap();
    policies.delete("p").unwrap();
    assert_eq!(policies.attach("p", id).unwrap_err().kind(), ErrorKind::NotFound);
    for (name, document) in [("", DOCUMENT), ("a/b", DOCUMENT), ("q", "nonsense"), ("q", "[]")] {
        let refused = policies.create(name, document).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{name:?} {document:?}");
    }
    let long = format!("{{\"a\": \"{}\"}}", "x".repeat(2_048));
    assert_eq!(policies.create("q", &long).unwrap_err().kind(), ErrorKind::Invalid);
}
