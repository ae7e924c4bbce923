//! What only a store with a file can do: survive, and be held by one process.

use std::process::{Command, Stdio};

use base::ErrorKind;
use metastore::Metastore;

use crate::suite::{Station, every_store, station};

#[test]
fn file() {
    let dir = tempfile::tempdir().unwrap();
    let count = std::sync::atomic::AtomicU32::new(0);
    every_store(&|| {
        let n = count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Metastore::open(&dir.path().join(format!("{n}.db"))).unwrap()
    });
}

#[test]
fn rows_and_versions_survive_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("forebay.db");
    let written = Metastore::open(&path).unwrap().put("a", &station("Beijing")).unwrap();
    let store = Metastore::open(&path).unwrap();
    let seen = store.get::<Station>("a").unwrap().unwrap();
    assert_eq!((seen.version, seen.row), (written, station("Beijing")));
    assert!(store.put("b", &station("x")).unwrap() > written);
}

#[cfg(unix)]
#[test]
fn only_its_owner_may_read_the_file() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("forebay.db");
    drop(Metastore::open(&path).unwrap());
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_foreign_file_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("forebay.db");
    let text = "not a database, but somebody's notes\n".repeat(400);
    std::fs::write(&path, &text).unwrap();
    let refused = Metastore::open(&path).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn the_same_process_cannot_open_it_twice() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("forebay.db");
    let _held = Metastore::open(&path).unwrap();
    assert_eq!(Metastore::open(&path).unwrap_err().kind(), ErrorKind::Conflict);
}

/// The test binary runs itself again as the second process, told so by the environment.
#[test]
#[expect(clippy::disallowed_methods, reason = "how the first process hands over the path")]
fn another_process_is_refused_with_a_clear_message() {
    if let Ok(path) = std::env::var("METASTORE_TEST_PATH") {
        match Metastore::open(path.as_ref()) {
            Ok(_) => println!("opened"),
            Err(refused) => println!("{refused}"),
        }
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("forebay.db");
    let held = Metastore::open(&path).unwrap();
    let said = second_process(&path);
    assert!(said.contains("held by another running process"), "{said}");
    drop(held);
    let said = second_process(&path);
    assert!(said.contains("opened"), "{said}");
}

fn second_process(path: &std::path::Path) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "file::another_process_is_refused_with_a_clear_message", "--nocapture"])
        .env("METASTORE_TEST_PATH", path)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}
