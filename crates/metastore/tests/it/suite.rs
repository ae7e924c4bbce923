//! What every store must do, whatever it keeps its rows in: a future implementation is one more
//! call of [`every_store`].

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use base::{Error, ErrorKind};
use metastore::{KEY_BYTES_MAX, Metastore, Row};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Station {
    pub(crate) city: String,
    pub(crate) readings: u64,
}

impl Row for Station {
    const TABLE: &'static str = "stations";
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Sensor {
    model: String,
}

impl Row for Sensor {
    const TABLE: &'static str = "sensors";
}

pub(crate) fn station(city: &str) -> Station {
    Station { city: city.to_owned(), readings: 0 }
}

/// Runs the whole suite; `make` answers a fresh, empty store each time.
pub(crate) fn every_store(make: &dyn Fn() -> Metastore) {
    rows_come_back(&make());
    conditions_are_kept(&make());
    lists_are_sorted_and_bounded_by_the_prefix(&make());
    a_failed_transaction_leaves_no_trace(&make());
    a_transaction_sees_its_own_writes(&make());
    versions_are_never_reused(&make());
    hundred_creators_make_one_row(&make());
    hundred_writers_lose_no_update(&make());
    nesting_is_refused(&make());
    keys_are_bounded(&make());
}

#[test]
fn memory() {
    every_store(&|| Metastore::in_memory().unwrap());
}

fn rows_come_back(store: &Metastore) {
    assert_eq!(store.get::<Station>("a").unwrap(), None);
    assert_eq!(store.list::<Station>().unwrap(), vec![]);
    let first = store.put("a", &station("Beijing")).unwrap();
    let seen = store.get::<Station>("a").unwrap().unwrap();
    assert_eq!((seen.version, seen.row.clone()), (first, station("Beijing")));
    assert_eq!(seen.city, "Beijing");
    assert!(store.put("a", &station("Tianjin")).unwrap() > first);
    assert_eq!(store.get::<Sensor>("a").unwrap(), None, "tables are apart");
    assert!(store.delete::<Station>("a").unwrap());
    assert!(!store.delete::<Station>("a").unwrap());
    assert_eq!(store.get::<Station>("a").unwrap(), None);
}

fn conditions_are_kept(store: &Metastore) {
    let version = store.create("a", &station("Beijing")).unwrap();
    assert_eq!(kind(store.create("a", &station("X"))), ErrorKind::AlreadyExists);
    assert_eq!(kind(store.replace("b", version, &station("X"))), ErrorKind::NotFound);
    assert_eq!(kind(store.replace("a", version + 1, &station("X"))), ErrorKind::Conflict);
    let next = store.replace("a", version, &station("Tianjin")).unwrap();
    assert_eq!(kind(store.replace("a", version, &station("X"))), ErrorKind::Conflict);
    let seen = store.get::<Station>("a").unwrap().unwrap();
    assert_eq!((seen.version, seen.row), (next, station("Tianjin")));
}

fn lists_are_sorted_and_bounded_by_the_prefix(store: &Metastore) {
    for key in ["b/2", "b/10", "a", "b/1", "b", "c", "\u{10FFFF}", "ü"] {
        store.put(key, &station(key)).unwrap();
    }
    let keys = |prefix: &str| -> Vec<String> {
        store.list_prefix::<Station>(prefix).unwrap().into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(keys(""), ["a", "b", "b/1", "b/10", "b/2", "c", "ü", "\u{10FFFF}"]);
    assert_eq!(keys("b/"), ["b/1", "b/10", "b/2"]);
    assert_eq!(keys("b/1"), ["b/1", "b/10"]);
    assert_eq!(keys("d"), [""; 0]);
    let all = store.transact(|transaction| transaction.list_prefix::<Station>("b/")).unwrap();
    assert_eq!(all.len(), 3);
}

fn a_failed_transaction_leaves_no_trace(store: &Metastore) {
    let version = store.put("kept", &station("Beijing")).unwrap();
    let failed = store.transact(|transaction| {
        transaction.put("kept", &station("changed"))?;
        transaction.put("new", &station("new"))?;
        transaction.delete::<Station>("kept")?;
        transaction.put("other table", &Sensor { model: "m".into() })?;
        Err::<(), _>(Error::invalid("on second thoughts"))
    });
    assert_eq!(kind(failed), ErrorKind::Invalid);
    let kept = store.get::<Station>("kept").unwrap().unwrap();
    assert_eq!((kept.version, kept.row), (version, station("Beijing")));
    assert_eq!(store.get::<Station>("new").unwrap(), None);
    assert_eq!(store.list::<Sensor>().unwrap(), vec![]);
}

fn a_transaction_sees_its_own_writes(store: &Metastore) {
    let seen = store
        .transact(|transaction| {
            let version = transaction.create("a", &station("Beijing"))?;
            transaction.replace("a", version, &station("Tianjin"))?;
            transaction.put("b", &Sensor { model: "m".into() })?;
            assert!(transaction.delete::<Sensor>("b")?);
            assert_eq!(transaction.list::<Station>()?.len(), 1);
            transaction.get::<Station>("a")
        })
        .unwrap();
    assert_eq!(seen.unwrap().row, station("Tianjin"));
    assert_eq!(store.get::<Sensor>("b").unwrap(), None);
}

fn versions_are_never_reused(store: &Metastore) {
    let old = store.create("a", &station("old")).unwrap();
    store.delete::<Station>("a").unwrap();
    let new = store.create("a", &station("new")).unwrap();
    assert!(new > old);
    assert_eq!(kind(store.replace("a", old, &station("stale"))), ErrorKind::Conflict);
}

fn hundred_creators_make_one_row(store: &Metastore) {
    let made = AtomicU64::new(0);
    let start = Barrier::new(100);
    std::thread::scope(|scope| {
        for n in 0..100 {
            let (made, start) = (&made, &start);
            scope.spawn(move || {
                start.wait();
                match store.create("a", &Station { city: "x".into(), readings: n }) {
                    Ok(_) => drop(made.fetch_add(1, Ordering::SeqCst)),
                    Err(failed) => assert_eq!(failed.kind(), ErrorKind::AlreadyExists),
                }
            });
        }
    });
    assert_eq!(made.load(Ordering::SeqCst), 1);
}

fn hundred_writers_lose_no_update(store: &Metastore) {
    store.create("a", &station("Beijing")).unwrap();
    let conflicts = AtomicU64::new(0);
    let start = Barrier::new(100);
    std::thread::scope(|scope| {
        for _ in 0..100 {
            let (conflicts, start) = (&conflicts, &start);
            scope.spawn(move || {
                // All read the same version once, so that all but one must meet a conflict.
                let mut seen = store.get::<Station>("a").unwrap().unwrap();
                start.wait();
                loop {
                    seen.row.readings += 1;
                    match store.replace("a", seen.version, &seen.row) {
                        Ok(_) => return,
                        Err(failed) => assert_eq!(failed.kind(), ErrorKind::Conflict),
                    }
                    conflicts.fetch_add(1, Ordering::SeqCst);
                    seen = store.get::<Station>("a").unwrap().unwrap();
                }
            });
        }
    });
    assert_eq!(store.get::<Station>("a").unwrap().unwrap().readings, 100);
    assert!(conflicts.load(Ordering::SeqCst) >= 99);
}

fn nesting_is_refused(store: &Metastore) {
    let inner = store.transact(|_| Ok(store.put("a", &station("x")).unwrap_err().kind()));
    assert_eq!(inner.unwrap(), ErrorKind::Internal);
    store.put("a", &station("x")).unwrap();
}

fn keys_are_bounded(store: &Metastore) {
    assert_eq!(kind(store.put("", &station("x"))), ErrorKind::Invalid);
    let longest = "k".repeat(KEY_BYTES_MAX);
    store.put(&longest, &station("x")).unwrap();
    assert_eq!(kind(store.put(&format!("{longest}k"), &station("x"))), ErrorKind::Invalid);
    let huge = station(&"x".repeat(metastore::ROW_BYTES_MAX));
    assert_eq!(kind(store.put("a", &huge)), ErrorKind::Exhausted);
}

fn kind<T: std::fmt::Debug>(answer: base::Result<T>) -> ErrorKind {
    answer.unwrap_err().kind()
}
