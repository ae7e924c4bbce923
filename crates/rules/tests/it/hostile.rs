//! Input made to hurt: no statement and no payload may panic, run away or eat the memory.

use std::time::Instant;

use proptest::prelude::*;
use rules::{Evaluated, Sql};

use crate::{context, evaluate, message};

#[test]
fn ten_thousand_of_anything_is_refused_or_read_without_a_deep_stack() {
    let n = 10_000;
    let nested = |open: &str, inner: &str, close: &str| {
        format!("SELECT {}{inner}{} AS x FROM 'a'", open.repeat(n), close.repeat(n))
    };
    for sql in [
        nested("(", "1", ")"),
        nested("NOT ", "a", ""),
        nested("- ", "1", ""),
        nested("EXISTS ", "a", ""),
        nested("abs(", "1", ")"),
        nested("[", "1", "]"),
        nested("{'a':", "1", "}"),
        nested("(SELECT VALUE * FROM ", "a", ")"),
        nested("CASE ", "a", " WHEN 1 THEN 1 END"),
        nested("cast(", "a", " AS Int)"),
    ] {
        let error = Sql::parse(&sql).unwrap_err().to_string();
        assert!(
            error.contains("nested deeper than 64 levels") || error.contains("at most 65536"),
            "{error}"
        );
    }
    for (op, terms) in
        [(" OR ", 5_000), (" AND ", 5_000), (" + ", 10_000), (" * ", 10_000), (".", 20_000)]
    {
        let sql = format!("SELECT {} AS x FROM 'a'", vec!["a"; terms].join(op));
        assert!(matches!(evaluate(&sql, b"{\"a\":1}"), Evaluated::Pass(_)), "{op}");
    }
    assert!(Sql::parse(&"(".repeat(1_000_000)).is_err());
}

#[test]
fn an_evaluation_is_bounded_in_time_and_memory() {
    let big =
        format!("{{\"a\":[{}],\"t\":\"{}\"}}", vec!["1"; 30_000].join(","), "x".repeat(50_000));
    let copies: Vec<String> = (0..3_000).map(|i| format!("* AS c{i}")).collect();
    let growing = "concat(".repeat(20) + "a" + &", a)".repeat(20);
    for sql in [
        format!("SELECT {} FROM 'a'", copies.join(", ")),
        "SELECT replace(t, 'x', t) AS x FROM 'a'".to_owned(),
        "SELECT regexp_replace(t, 'x', t) AS x FROM 'a'".to_owned(),
        "SELECT (SELECT VALUE regexp_matches(*, concat(*, '+', *)) FROM a) AS x FROM 'a'"
            .to_owned(),
        format!("SELECT {} AS x FROM 'a'", vec!["a = a"; 2_000].join(" AND ")),
        format!("SELECT {growing} AS x FROM 'a'"),
        format!("SELECT {} AS x FROM 'a'", vec!["t"; 3_000].join(" + ")),
    ] {
        let started = Instant::now();
        let Evaluated::Failed { reason } = evaluate(&sql, big.as_bytes()) else {
            panic!("not bounded: {}", &sql[..80.min(sql.len())]);
        };
        assert!(reason.starts_with("the statement "), "{reason}");
        assert!(started.elapsed().as_secs() < 20, "{reason}");
    }
}

/// Pieces that make statements which are often nearly right.
fn piece() -> impl Strategy<Value = String> {
    let words = vec![
        "SELECT", "FROM", "WHERE", "AS", "VALUE", "*", ",", ".", "(", ")", "[", "]", "{", "}", ":",
        "a", "b", "'a/#'", "'x'", "1", "-2.5", "1e308", "=", "<>", "<", ">=", "+", "-", "/", "%",
        "AND", "OR", "NOT", "IN", "EXISTS", "CASE", "WHEN", "THEN", "ELSE", "END", "cast(", "Int",
        "String", "true", "null", "\u{e9}", "'", "\n",
    ];
    let names: Vec<String> = rules::sql::function_names().map(|name| format!("{name}(")).collect();
    prop_oneof![
        4 => proptest::sample::select(words).prop_map(str::to_owned),
        1 => proptest::sample::select(names),
        1 => ".{0,3}",
    ]
}

/// Expressions that are always right.
fn expression() -> impl Strategy<Value = String> {
    let leaf = proptest::sample::select(
        [
            "a",
            "b.c",
            "*",
            "1",
            "0",
            "-7",
            "2.5",
            "1e300",
            "'x'",
            "''",
            "'10'",
            "'true'",
            "null",
            "true",
            "'\u{1f600}\u{e9}'",
            "170141183460469231731687303715884105727",
            "missing",
            "[]",
            "{}",
        ]
        .as_slice(),
    )
    .prop_map(str::to_owned);
    leaf.prop_recursive(4, 24, 3, |inner| {
        let op = proptest::sample::select(
            ["+", "-", "*", "/", "%", "=", "<>", "<", "<=", ">", ">=", "AND", "OR", "IN"]
                .as_slice(),
        );
        let call = proptest::sample::select(rules::sql::function_names().collect::<Vec<_>>());
        prop_oneof![
            (inner.clone(), op, inner.clone()).prop_map(|(a, op, b)| format!("(({a}) {op} ({b}))")),
            (call, proptest::collection::vec(inner.clone(), 0..4))
                .prop_map(|(name, args)| format!("{name}({})", args.join(","))),
            inner.clone().prop_map(|a| format!("NOT ({a})")),
            inner.clone().prop_map(|a| format!("-({a})")),
            inner.clone().prop_map(|a| format!("cast({a} AS Int)")),
            inner.clone().prop_map(|a| format!("cast({a} AS String)")),
            inner.clone().prop_map(|a| format!("[{a}, {a}]")),
            inner.clone().prop_map(|a| format!("(SELECT VALUE {a} FROM a)")),
            (inner.clone(), inner)
                .prop_map(|(a, b)| format!("CASE {a} WHEN {b} THEN 1 ELSE {a} END")),
        ]
    })
}

/// JSON values as text.
fn json() -> impl Strategy<Value = String> {
    let leaf = proptest::sample::select(
        [
            "1",
            "-0.0",
            "2.5",
            "1e308",
            "1e400",
            "NaN",
            "\"x\"",
            "\"\\ud83d\"",
            "\"10\"",
            "null",
            "true",
            "99999999999999999999999999999999999999999999",
            "\"\u{e9}\"",
        ]
        .as_slice(),
    )
    .prop_map(str::to_owned);
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4)
                .prop_map(|all| format!("[{}]", all.join(","))),
            proptest::collection::vec(inner, 0..3).prop_map(|all| {
                let members = ["a", "b", "a"].iter().zip(all).map(|(k, v)| format!("\"{k}\":{v}"));
                format!("{{{}}}", members.collect::<Vec<_>>().join(","))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn any_statement_is_read_or_refused_with_its_place(pieces in proptest::collection::vec(piece(), 0..20)) {
        let text = pieces.join(" ");
        if let Err(error) = Sql::parse(&text) {
            let error = error.to_string();
            prop_assert!(error.starts_with("SQL line "), "{}", error);
        }
    }

    #[test]
    fn any_expression_over_any_payload_has_an_outcome(expr in expression(), payload in json()) {
        let text = format!("SELECT {expr} AS x FROM 'a'");
        // Calls with a wrong number of arguments are refused; the rest must evaluate.
        if let Ok(sql) = Sql::parse(&text) {
            let first = sql.evaluate(&message("a", payload.as_bytes()), &context());
            let second = sql.evaluate(&message("a", payload.as_bytes()), &context());
            prop_assert_eq!(&first, &second);
            if let Evaluated::Pass(bytes) = &first {
                prop_assert!(rules::json::check(bytes).is_ok(), "{:?}", bytes);
            }
        }
    }

    #[test]
    fn any_bytes_have_an_outcome(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
        for sql in ["SELECT * FROM 'a'", "SELECT *, get(*, 'a') AS x FROM 'a' WHERE NOT isNull(b)"] {
            let strict = rules::json::check(&payload).is_ok();
            if let Evaluated::Failed { reason } = evaluate(sql, &payload) {
                prop_assert!(!strict || reason.starts_with("SELECT *"), "{}", reason);
            }
        }
    }

    #[test]
    fn json_is_accepted_only_where_another_reader_accepts_it(payload in json()) {
        let theirs: Result<serde_json::Value, _> = serde_json::from_str(&payload);
        if rules::json::check(payload.as_bytes()).is_ok() {
            prop_assert!(theirs.is_ok(), "{}", payload);
        }
    }
}
