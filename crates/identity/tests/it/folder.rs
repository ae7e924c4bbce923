//! The authority's folder: who may read it, and that it is never made anew.

use std::sync::Arc;

use base::{ErrorKind, ManualClock};
use identity::Authority;

use crate::{NOW, world};

fn open(path: &std::path::Path) -> base::Result<Arc<Authority>> {
    Authority::open(path, Arc::new(ManualClock::at(NOW)))
}

#[test]
fn a_restart_keeps_the_authority() {
    let world = world();
    let kit = world.registry.add_device("d").unwrap();
    let root = world.authority.root_pem().to_owned();
    let world = world.reopen();
    assert_eq!(world.authority.root_pem(), root);
    let found = world.registry.lookup(&crate::handshake::der(&kit)).unwrap();
    assert_eq!(found.thing_name, "d");
    assert_eq!(found.certificate_id, kit.certificate.certificate_id);
}

#[cfg(unix)]
#[test]
fn keys_are_their_owners_only() {
    use std::os::unix::fs::PermissionsExt;
    let world = world();
    drop(world.registry.server_config(&[]).unwrap());
    let mode = |name: &str| {
        let path = world.folder.path().join(name);
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode("ca"), 0o700);
    assert_eq!(mode("ca/root.private.key"), 0o600);
    assert_eq!(mode("ca/server.json"), 0o600);
    assert_eq!(mode("ca/root-CA.crt"), 0o644);
}

#[cfg(unix)]
#[test]
fn a_key_that_others_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca");
    drop(open(&path).unwrap());
    let key = path.join("root.private.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let refused = open(&path).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied);
    assert!(refused.to_string().contains("chmod 600"), "{refused}");
}

#[test]
fn an_incomplete_folder_is_an_error_and_stays_as_it_is() {
    for lost in ["root.private.key", "root-CA.crt", "root.json"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca");
        drop(open(&path).unwrap());
        std::fs::remove_file(path.join(lost)).unwrap();
        let refused = open(&path).unwrap_err();
        assert!(refused.to_string().contains(lost), "{refused}");
        assert!(!path.join(lost).exists(), "{lost} must not be made anew");
    }
}

#[test]
fn a_certificate_of_another_key_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("one"), folder.path().join("other"));
    drop((open(&one).unwrap(), open(&other).unwrap()));
    std::fs::copy(other.join("root-CA.crt"), one.join("root-CA.crt")).unwrap();
    let refused = open(&one).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
}

#[test]
fn a_crash_while_the_folder_was_made_is_overcome() {
    let folder = tempfile::tempdir().unwrap();
    let staged = folder.path().join("ca.new");
    std::fs::create_dir(&staged).unwrap();
    std::fs::write(staged.join("root.private.key"), "half a k").unwrap();
    let path = folder.path().join("ca");
    let root = open(&path).unwrap().root_pem().to_owned();
    assert_eq!(open(&path).unwrap().root_pem(), root);
    assert!(!staged.exists());
}

#[test]
fn nothing_prints_a_private_key() {
    let world = world();
    let kit = world.registry.add_device("d").unwrap();
    let shown =
        format!("{kit:?} {:?} {:?} {:#?}", world.authority, world.registry, kit.private_key_pem);
    assert!(!shown.contains("PRIVATE KEY"), "{shown}");
    assert!(shown.contains("Secret(..)"), "{shown}");
}
