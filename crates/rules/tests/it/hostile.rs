//! Input made to hurt: no statement and no payload may panic, run away or eat the memory.

use std::time::Instant;

use proptest::prelude::*;
use rules::{Evaluated, Sql};

use crate::{context, evaluate, message};

#[test]
fn c3_ten_thousand_of_anything_is_refused_or_read_without_a_deep_stack() {
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
fn c3_an_evaluation_is_bounded_in_time_and_memory() {
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

/// T7: each odd payload has one meaning, which is stated here: what it evaluates to where it is
/// read, and that it passes to the byte or is set aside where it is not.
#[test]
fn c3_odd_payloads_have_one_meaning() {
    let digits = "7".repeat(400);
    let (whole, fraction) = (format!("{{\"a\":{digits}}}"), format!("{{\"a\":0.{digits}}}"));
    let tiny = format!("{{\"a\":1e-{digits}}}");
    let at_depth = |depth: usize| {
        format!("{{\"a\":{}1{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1)).into_bytes()
    };
    let keys: Vec<String> = (0..20_000).map(|n| format!("\"k{n}\":{n}")).collect();
    let many = format!("{{{},\"a\":1}}", keys.join(","));
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(256 * 1024));
    // The payload, and `SELECT a + 1 AS x` of it: `-` for undefined, or a word of the refusal.
    let cases: Vec<(&[u8], Result<&str, &str>)> = vec![
        (br#"{"a":9223372036854775807}"#, Ok("9223372036854775808")),
        (br#"{"a":9223372036854775808}"#, Ok("9223372036854775809")),
        (br#"{"a":18446744073709551616}"#, Ok("18446744073709551617")),
        (br#"{"a":-9223372036854775809}"#, Ok("-9223372036854775808")),
        (br#"{"a":170141183460469231731687303715884105727}"#, Ok("1.7014118346046923e38")),
        // A double's range, rounded; beyond it nothing is invented.
        (whole.as_bytes(), Err("outside the range of a double")),
        (fraction.as_bytes(), Ok("1.7777777777777777")),
        (tiny.as_bytes(), Ok("1")),
        (br#"{"a":1e308}"#, Ok("1e308")),
        (br#"{"a":1.7976931348623157e308}"#, Ok("1.7976931348623157e308")),
        (br#"{"a":1e309}"#, Err("outside the range of a double")),
        (br#"{"a":-1e999}"#, Err("outside the range of a double")),
        (br#"{"a":5e-324}"#, Ok("1")),
        (br#"{"a":-0}"#, Ok("1")),
        (br#"{"a":-0.0}"#, Ok("1")),
        (br#"{"a":1E+2}"#, Ok("101")),
        (br#"{"a":NaN}"#, Err("NaN")),
        (br#"{"a":Infinity}"#, Err("Infinity")),
        (br#"{"a":-Infinity}"#, Err("-")),
        (br#"{"a":+1}"#, Err("+1")),
        (br#"{"a":01}"#, Err("1")),
        (br#"{"a":.5}"#, Err(".5")),
        (br#"{"a":1.}"#, Err("1.")),
        (br#"{"a":0x10}"#, Err("x10")),
        (br#"{"a":1,"a":2}"#, Err("duplicate key \"a\"")),
        (br#"{"a":1,"\u0061":2}"#, Err("duplicate key \"a\"")),
        (br#"{"A":1,"a":2}"#, Ok("3")),
        (br#"{"a":"\ud83d"}"#, Err("lone surrogate")),
        (br#"{"a":"\ude00\ud83d"}"#, Err("lone surrogate")),
        (br#"{"a":"\ud83d\ude00"}"#, Ok("\"\u{1f600}1\"")),
        (br#"{"a":"\u0000"}"#, Ok("\"\\u00001\"")),
        (b"{\"a\":\"\x00\"}", Err("byte 6")),
        (b"\xef\xbb\xbf{\"a\":1}", Err("byte 0")),
        (b"\xff\xfe{\x00", Err("invalid UTF-8 at byte 0")),
        (b"{\"a\":\"\xc0\xaf\"}", Err("invalid UTF-8 at byte 6")),
        (b"{\"a\":\"\xed\xa0\x80\"}", Err("invalid UTF-8 at byte 6")),
        (b"{\"a\":1}{\"a\":2}", Err("follows the JSON value")),
        (b"{\"a\":1}\n{\"a\":2}", Err("follows the JSON value")),
        (b"{\"a\":1},", Err("follows the JSON value")),
        (b"\r\n {\"a\" :\t1\r\n} \r\n", Ok("2")),
        (b"{\"a\":1,}", Err("byte 7")),
        (b"{'a':1}", Err("byte 1")),
        (b"{a:1}", Err("byte 1")),
        (b"// x\n{\"a\":1}", Err("byte 0")),
        (b"", Err("ends at byte 0")),
        (b" ", Err("ends at byte 1")),
        (b"\x1f\x8b\x08\x00", Err("invalid UTF-8 at byte 1")),
        (b"1", Ok("-")),
        (b"null", Ok("-")),
        (b"[{\"a\":1}]", Ok("-")),
        (br#"{"a":null}"#, Ok("-")),
        (br#"{"a":true}"#, Ok("-")),
        (br#"{"a":[1]}"#, Ok("-")),
        (br#"{"a":"1"}"#, Ok("\"11\"")),
        (many.as_bytes(), Ok("2")),
    ];
    let count = cases.len();
    let mut wrong = Vec::new();
    for (payload, expect) in cases {
        let shown = String::from_utf8_lossy(&payload[..payload.len().min(60)]).into_owned();
        let found = evaluate("SELECT a + 1 AS x FROM 'a'", payload);
        let passed = evaluate("SELECT * FROM 'a'", payload);
        let right = match (expect, &found) {
            (Ok(expect), Evaluated::Pass(bytes)) => {
                let text = String::from_utf8_lossy(bytes);
                let one = if expect == "-" { "{}".into() } else { format!("{{\"x\":{expect}}}") };
                text == one && passed == Evaluated::Pass(payload.to_vec().into())
            }
            (Err(word), Evaluated::Failed { reason }) => {
                reason.starts_with("the payload is not JSON: ")
                    && reason.contains(word)
                    && passed == found
            }
            _ => false,
        };
        if !right {
            wrong.push(format!("{shown}: wanted {expect:?}, found {found:?}"));
        }
        // Whatever it is, it can be taken as bytes.
        let encoded = evaluate("SELECT encode(*, 'base64') AS x FROM 'a'", payload);
        assert!(matches!(encoded, Evaluated::Pass(_)), "{shown}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count >= 50);
    // A text of 256 KiB is one text; nesting is read to the bound and no deeper, however deep.
    assert!(matches!(evaluate("SELECT length(a) AS x FROM 'a'", long.as_bytes()),
        Evaluated::Pass(x) if *x == *b"{\"x\":262144}"));
    for (depth, reads) in [(63, true), (64, true), (65, false), (100_000, false)] {
        let found = evaluate("SELECT isUndefined(a) AS x FROM 'a'", &at_depth(depth));
        assert_eq!(matches!(found, Evaluated::Pass(_)), reads, "{depth}: {found:?}");
    }
}

/// T7: arithmetic at its edges.
#[test]
fn c3_arithmetic_has_a_result_at_every_edge() {
    let most = "170141183460469231731687303715884105727";
    let mut wrong = Vec::new();
    for (expr, expect) in [
        ("1 / 0", "{}".to_owned()),
        ("0 / 0", "{}".to_owned()),
        ("1 % 0", "{}".to_owned()),
        ("1.5 % 0", "{}".to_owned()),
        ("-1 / 0.0", "{}".to_owned()),
        ("mod(1, 0)", "{}".to_owned()),
        ("sqrt(-1)", "{}".to_owned()),
        ("ln(0)", "{}".to_owned()),
        ("power(0, -1)", "{}".to_owned()),
        ("power(10, 400)", "{}".to_owned()),
        ("exp(710)", "{}".to_owned()),
        ("1e308 + 1e308", "{}".to_owned()),
        ("1e308 * 10 - 1e308 * 10", "{}".to_owned()),
        ("9223372036854775807 + 1", "{\"x\":9223372036854775808}".to_owned()),
        (
            "9223372036854775807 * 9223372036854775807",
            "{\"x\":85070591730234615847396907784232501249}".to_owned(),
        ),
        (&*format!("{most} + 1"), "{\"x\":1.7014118346046923e38}".to_owned()),
        (&*format!("-{most} - 1"), format!("{{\"x\":-{}8}}", &most[..38])),
        (&*format!("-(-{most} - 1)"), "{\"x\":1.7014118346046923e38}".to_owned()),
        (&*format!("abs(-{most} - 1)"), "{}".to_owned()),
        (&*format!("(-{most} - 1) / -1"), "{\"x\":1.7014118346046923e38}".to_owned()),
        (&*format!("(-{most} - 1) % -1"), "{\"x\":0}".to_owned()),
        (&*format!("cast({most}0 AS Int)"), "{}".to_owned()),
        (&*format!("bitnot({most})"), format!("{{\"x\":-{}8}}", &most[..38])),
        ("chr(1114112)", "{}".to_owned()),
        ("chr(-1)", "{}".to_owned()),
        ("get('abc', 1e300)", "{}".to_owned()),
        ("substring('abc', -1e300, 1e300)", "{\"x\":\"abc\"}".to_owned()),
        ("parse_time('yyyy', -9223372036854775808)", "{}".to_owned()),
        ("topic(1e300)", "{}".to_owned()),
    ] {
        let found = evaluate(&format!("SELECT {expr} AS x FROM 'a'"), b"{}");
        if found != Evaluated::Pass(expect.clone().into()) {
            wrong.push(format!("{expr}: wanted {expect}, found {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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
    fn c3_any_statement_is_read_or_refused_with_its_place(pieces in proptest::collection::vec(piece(), 0..20)) {
        let text = pieces.join(" ");
        if let Err(error) = Sql::parse(&text) {
            let error = error.to_string();
            prop_assert!(error.starts_with("SQL line "), "{}", error);
        }
    }

    #[test]
    fn c3_any_expression_over_any_payload_has_an_outcome(expr in expression(), payload in json()) {
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
    fn c3_any_bytes_are_no_panic_for_the_parser(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let text = String::from_utf8_lossy(&bytes);
        for sql in [text.clone().into_owned(), format!("SELECT {text} FROM 'a'"), format!("SELECT '{text}")] {
            if let Ok(sql) = Sql::parse(&sql) {
                drop(sql.evaluate(&message("a", b"{\"a\":1}"), &context()));
            }
            drop(rules::sql::TimePattern::parse(&sql));
            if let Some(zone) = rules::sql::Zone::parse(&sql) {
                prop_assert!(sql.len() < 64, "{:?} is {:?}", sql, zone);
            }
        }
    }

    #[test]
    fn c3_every_outcome_is_bounded(expr in expression(), payload in json()) {
        if let Ok(sql) = Sql::parse(&format!("SELECT {expr} AS x FROM 'a'")) {
            let started = Instant::now();
            let outcome = sql.evaluate(&message("a", payload.as_bytes()), &context());
            prop_assert!(started.elapsed().as_secs() < 5, "{} took {:?}", expr, started.elapsed());
            if let Evaluated::Pass(bytes) = outcome {
                prop_assert!(bytes.len() < 4 << 20, "{} made {} bytes", expr, bytes.len());
            }
        }
    }

    #[test]
    fn c3_any_bytes_have_an_outcome(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
        for sql in ["SELECT * FROM 'a'", "SELECT *, get(*, 'a') AS x FROM 'a' WHERE NOT isNull(b)"] {
            let strict = rules::json::check(&payload).is_ok();
            if let Evaluated::Failed { reason } = evaluate(sql, &payload) {
                prop_assert!(!strict || reason.starts_with("SELECT *"), "{}", reason);
            }
        }
    }

    #[test]
    fn c3_json_is_accepted_only_where_another_reader_accepts_it(payload in json()) {
        let theirs: Result<serde_json::Value, _> = serde_json::from_str(&payload);
        if rules::json::check(payload.as_bytes()).is_ok() {
            prop_assert!(theirs.is_ok(), "{}", payload);
        }
    }
}

/// The same for as long as it is let: statements nearly right, expressions right, any bytes.
#[test]
#[ignore = "half a million statements take minutes"]
fn c3_long_half_a_million_statements_have_an_outcome() {
    let cases = 500_000;
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let payload = prop_oneof![
        3 => json().prop_map(String::into_bytes),
        1 => proptest::collection::vec(any::<u8>(), 0..100),
    ];
    let nearly = proptest::collection::vec(piece(), 0..20).prop_map(|pieces| pieces.join(" "));
    let statement = prop_oneof![
        2 => expression().prop_map(|expr| format!("SELECT {expr} AS x FROM 'a'")),
        1 => expression().prop_map(|expr| format!("SELECT *, 1 AS one FROM 'a' WHERE {expr}")),
        1 => nearly,
    ];
    let (mut longest, mut outcomes) = (std::time::Duration::ZERO, [0_u64; 4]);
    let seen = std::cell::RefCell::new((&mut longest, &mut outcomes));
    runner
        .run(&(statement, payload), |(text, payload)| {
            let started = Instant::now();
            let outcome =
                Sql::parse(&text).ok().map(|sql| sql.evaluate(&message("a", &payload), &context()));
            let took = started.elapsed();
            prop_assert!(took.as_secs() < 5, "{} took {:?}", text, took);
            let mut seen = seen.borrow_mut();
            *seen.0 = took.max(*seen.0);
            seen.1[match outcome {
                None => 0,
                Some(Evaluated::Pass(_)) => 1,
                Some(Evaluated::NoMatch) => 2,
                Some(Evaluated::Failed { .. }) => 3,
            }] += 1;
            Ok(())
        })
        .unwrap();
    let [refused, passed, unmatched, failed] = outcomes;
    println!(
        "{cases} statements: {refused} refused, {passed} passed, {unmatched} not matched, \
         {failed} failed; the longest took {longest:?}"
    );
    assert!(refused > 1000 && passed > 1000 && unmatched > 1000 && failed > 1000);
}
