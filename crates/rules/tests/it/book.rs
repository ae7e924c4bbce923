//! Rules over time: what is in force at which offset, and that it stays so.

use base::{ErrorKind, Offset, Timestamp};
use metastore::Metastore;
use rules::{Action, NewRule, RuleBook, RuleState};

const NOW: Timestamp = Timestamp(1_000);

fn rule(name: &str, sql: &str) -> NewRule {
    NewRule {
        name: name.to_owned(),
        description: "for the test".to_owned(),
        sql: sql.to_owned(),
        actions: vec![Action::Firehose {
            stream: "readings".to_owned(),
            separator: None,
            batch_mode: false,
        }],
        enabled: true,
    }
}

/// The rules in force at `offset`, as `name@version`.
fn matching(book: &RuleBook, topic: &str, offset: u64) -> Vec<String> {
    let view = book.view(|| Offset(u64::MAX));
    let found = view.matching(topic, Offset(offset));
    found.iter().map(|rule| format!("{}@{}", rule.rule, rule.version)).collect()
}

#[test]
fn an_edit_takes_effect_from_its_offset_and_older_offsets_keep_theirs() {
    let store = Metastore::in_memory().unwrap();
    let book = RuleBook::open(store.clone()).unwrap();
    let at = |offset| move || Offset(offset);
    book.create(&rule("r", "SELECT * FROM 'a'"), NOW, at(10)).unwrap();
    book.replace(&rule("r", "SELECT b FROM 'a'"), NOW, at(20)).unwrap();
    book.set_enabled("r", false, NOW, at(30)).unwrap();
    book.set_enabled("r", false, NOW, at(35)).unwrap();
    book.set_enabled("r", true, NOW, at(40)).unwrap();
    book.delete("r", NOW, at(50)).unwrap();
    assert_eq!(book.get("r").unwrap_err().kind(), ErrorKind::NotFound);
    book.create(&rule("r", "SELECT c FROM 'a'"), NOW, at(60)).unwrap();
    let reopened = RuleBook::open(store).unwrap();
    for book in [&book, &reopened] {
        for (offset, expect) in [
            (9, None),
            (10, Some(1)),
            (19, Some(1)),
            (20, Some(2)),
            (29, Some(2)),
            (30, None),
            (39, None),
            (40, Some(4)),
            (49, Some(4)),
            (50, None),
            (59, None),
            (60, Some(6)),
        ] {
            let expect: Vec<String> = expect.iter().map(|version| format!("r@{version}")).collect();
            assert_eq!(matching(book, "a", offset), expect, "offset {offset}");
        }
    }
    // Below 45 nothing is asked any more.
    assert_eq!(reopened.prune(Offset(45)).unwrap(), 3);
    assert_eq!(matching(&reopened, "a", 45), ["r@4"]);
    assert_eq!(reopened.get("r").unwrap().versions.len(), 3);
    assert_eq!(reopened.prune(Offset(45)).unwrap(), 0);
}

#[test]
fn two_changes_at_one_offset_leave_the_later() {
    let book = RuleBook::open(Metastore::in_memory().unwrap()).unwrap();
    book.create(&rule("r", "SELECT * FROM 'a'"), NOW, || Offset(5)).unwrap();
    let row = book.replace(&rule("r", "SELECT b FROM 'a'"), NOW, || Offset(5)).unwrap();
    assert_eq!(row.versions.len(), 1);
    assert_eq!(matching(&book, "a", 5), ["r@2"]);
    assert_eq!(row.current().map(|version| version.state), Some(RuleState::Enabled));
}

#[test]
fn the_index_finds_what_the_filters_select_in_the_order_of_names() {
    let book = RuleBook::open(Metastore::in_memory().unwrap()).unwrap();
    for (name, sql) in [
        ("z_all", "SELECT * FROM '#'"),
        ("plant", "SELECT * FROM 'plant/#'"),
        ("any", "SELECT * FROM '+/1'"),
        ("direct", "SELECT *"),
        ("shadow", "SELECT * FROM '$aws/things/+/shadow/update'"),
    ] {
        book.create(&rule(name, sql), NOW, || Offset(0)).unwrap();
    }
    assert_eq!(matching(&book, "plant/1", 3), ["any@1", "plant@1", "z_all@1"]);
    assert_eq!(matching(&book, "plant", 3), ["plant@1", "z_all@1"]);
    assert_eq!(matching(&book, "$aws/rules/direct/plant/1", 3), ["direct@1"]);
    assert_eq!(matching(&book, "$aws/rules/plant/x", 3), ["plant@1"], "whatever its filter");
    assert!(matching(&book, "$aws/rules/nobody/x", 3).is_empty());
    assert!(matching(&book, "$aws/firehose/readings", 3).is_empty());
    assert_eq!(matching(&book, "$aws/things/t/shadow/update", 3), ["shadow@1"]);
    assert_eq!(book.naming_stream("readings").len(), 5);
    assert!(book.naming_stream("other").is_empty());
}

#[test]
fn bad_rules_are_refused_and_leave_nothing() {
    let book = RuleBook::open(Metastore::in_memory().unwrap()).unwrap();
    let check = |new: NewRule, kind: ErrorKind, part: &str| {
        let error = book.create(&new, NOW, || Offset(0)).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert!(book.list().is_empty());
    };
    let sql = "SELECT * FROM 'a'";
    for name in ["", "a-b", "a b", "é", &"x".repeat(129)] {
        check(rule(name, sql), ErrorKind::Invalid, "rule name");
    }
    check(rule("r", "SELECT nope(1) FROM 'a'"), ErrorKind::Invalid, "line 1, column 8");
    check(NewRule { actions: vec![], ..rule("r", sql) }, ErrorKind::Invalid, "0 actions");
    let action = |stream: &str, separator: &str| NewRule {
        actions: vec![Action::Firehose {
            stream: stream.to_owned(),
            separator: Some(separator.to_owned()),
            batch_mode: false,
        }],
        ..rule("r", sql)
    };
    check(action("s", ";"), ErrorKind::Invalid, "separator \";\"");
    check(action("${topic(}", "\n"), ErrorKind::Invalid, "substitution");
    book.create(&action("s", "\r\n"), NOW, || Offset(0)).unwrap();
    let again = book.create(&rule("r", sql), NOW, || Offset(0)).unwrap_err();
    assert_eq!(again.kind(), ErrorKind::AlreadyExists);
    for missing in [
        book.replace(&rule("q", sql), NOW, || Offset(0)).unwrap_err(),
        book.set_enabled("q", true, NOW, || Offset(0)).unwrap_err(),
        book.delete("q", NOW, || Offset(0)).unwrap_err(),
    ] {
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }
}
