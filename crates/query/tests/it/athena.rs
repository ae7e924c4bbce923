//! Functions and manners of Athena: expressions and what its documentation says they are.

use base::ErrorKind;
use lake::Format;

use crate::world::World;

/// Asks all expressions, each by itself, and tells of all that differ.
async fn check(cases: &[(&str, &str)]) {
    let world = World::new();
    let mut wrong = Vec::new();
    for (expression, expect) in cases {
        let found = match world.sql(&format!("SELECT {expression}")).await {
            Ok(answer) => crate::world::shown(&answer.batches).join(","),
            Err(error) => format!("{:?}: {error}", error.kind()),
        };
        if found != *expect {
            wrong.push(format!("{expression}\n    is {found}\n    not {expect}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Asks a world all statements, each by itself, and tells of all that differ: rows apart by blanks.
async fn answers(world: &World, cases: &[(&str, &str)]) {
    let mut wrong = Vec::new();
    for (sql, expect) in cases {
        let found = match world.sql(sql).await {
            Ok(answer) => crate::world::shown(&answer.batches).join(" "),
            Err(error) => format!("{:?}: {error}", error.kind()),
        };
        if found != *expect {
            wrong.push(format!("{sql}\n    is {found}\n    not {expect}"));
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// All must be refused, in words that have this part.
async fn refused(cases: &[(&str, ErrorKind, &str)]) {
    let world = World::new();
    for (expression, kind, part) in cases {
        let error = match world.sql(&format!("SELECT {expression}")).await {
            Ok(answer) => panic!("{expression} is {:?}", crate::world::shown(&answer.batches)),
            Err(error) => error,
        };
        assert!(error.to_string().contains(part), "{expression}: {error}");
        assert_eq!(error.kind(), *kind, "{expression}: {error}");
    }
}

#[tokio::test]
async fn json_functions_answer_as_documented() {
    check(&[
        ("json_extract('{\"a\":{\"b\":[1, 2]}}', '$.a.b')", "[1,2]"),
        ("json_extract('{\"a\":\"x\"}', '$.a')", "\"x\""),
        ("json_extract('{\"a\":1}', '$.z')", "-"),
        ("json_extract('no json', '$.z')", "-"),
        ("json_extract_scalar('[1, 2, 3]', '$[2]')", "3"),
        ("json_extract_scalar('{\"store\":{\"book\":[{\"author\":\"N\"}]}}', '$.store.book[0].author')", "N"),
        ("json_extract_scalar(NULL, '$.a')", "-"),
        ("json_parse('[1, 2,  {\"a\": null}]')", "[1,2,{\"a\":null}]"),
        ("json_format(json_parse('{\"a\" : 1}'))", "{\"a\":1}"),
        ("json_array_length('[1, 2, 3]')", "3"),
        ("json_array_length('{}')", "-"),
        ("json_array_get('[\"a\", [3, 9], \"c\"]', 0)", "\"a\""),
        ("json_array_get('[\"a\", [3, 9], \"c\"]', 1)", "[3,9]"),
        ("json_array_get('[\"a\", [3, 9], \"c\"]', -1)", "\"c\""),
        ("json_array_get('[]', 0)", "-"),
        ("json_array_contains('[1, 2, 3]', 2)", "true"),
        ("json_array_contains('[\"a\"]', 'b')", "false"),
        ("json_array_contains('[1.5, true]', 1.5)", "true"),
        ("json_size('{\"x\": {\"a\": 1, \"b\": 2}}', '$.x')", "2"),
        ("json_size('{\"x\": [1, 2, 3]}', '$.x')", "3"),
        ("json_size('{\"x\": {\"a\": 1}}', '$.x.a')", "0"),
        ("json_object_keys('{\"x\": 1, \"y\": 2}')", "[x, y]"),
        ("is_json_scalar('1')", "true"),
        ("is_json_scalar('[1, 2, 3]')", "false"),
        ("json_exists('{\"a\": null}', 'lax $.a')", "true"),
        ("json_value('{\"a\": 7}', 'lax $.a')", "7"),
        ("json_query('{\"a\": [7]}', 'lax $.a')", "[7]"),
        ("CAST(json_extract('{\"a\":\"x\"}', '$.a') AS varchar)", "x"),
        ("CAST(json_extract('{\"a\":21.5}', '$.a') AS double) + 1", "22.5"),
        ("CAST(json_extract('{\"a\":null}', '$.a') AS bigint)", "-"),
        ("CAST(json_parse('[1, 2]') AS array(bigint))", "[1, 2]"),
        ("CAST(json_parse('[\"a\", null]') AS array(varchar))", "[a, null]"),
    ])
    .await;
    refused(&[
        ("json_parse('[')", ErrorKind::Invalid, "cannot convert \"[\" to JSON"),
        ("json_extract('{}', '$..a')", ErrorKind::Invalid, "\"$..a\" is no JSON path"),
        ("json_extract(1, '$.a')", ErrorKind::Invalid, "argument 1 of json_extract is bigint"),
        ("json_extract('{}')", ErrorKind::Invalid, "given 1 arguments and takes 2"),
    ])
    .await;
}

#[tokio::test]
async fn times_are_read_written_and_reckoned_as_documented() {
    let ts = "TIMESTAMP '2001-08-22 03:04:05.321'";
    let cases = [
        (
            "from_iso8601_timestamp('2001-08-22T03:04:05.321Z')".to_owned(),
            "2001-08-22T03:04:05.321",
        ),
        ("from_iso8601_timestamp('2013-03-01T08:00:00+08:00')".into(), "2013-03-01T00:00:00"),
        ("from_iso8601_date('2020-05-11')".into(), "2020-05-11"),
        ("from_iso8601_date('2020-W20-1')".into(), "2020-05-11"),
        ("from_iso8601_date('2020-132')".into(), "2020-05-11"),
        (format!("to_iso8601({ts})"), "2001-08-22T03:04:05.321Z"),
        ("from_unixtime(0)".into(), "1970-01-01T00:00:00"),
        ("from_unixtime(1.5)".into(), "1970-01-01T00:00:01.500"),
        ("from_unixtime(1362096000, 'Asia/Shanghai')".into(), "2013-03-01T08:00:00"),
        ("to_unixtime(TIMESTAMP '1970-01-02 00:00:00.5')".into(), "86400.5"),
        ("date_parse('2022-10-20 05:10:00', '%Y-%m-%d %H:%i:%s')".into(), "2022-10-20T05:10:00"),
        ("date_parse('20/Oct/2022', '%d/%b/%Y')".into(), "2022-10-20T00:00:00"),
        (format!("date_format({ts}, '%Y-%m-%d at %H:%i:%s.%f')"), "2001-08-22 at 03:04:05.321000"),
        ("date_format(DATE '2022-10-20', '%m-%d-%Y %W %j')".into(), "10-20-2022 Thursday 293"),
        ("parse_datetime('2022-10-20 05:10', 'yyyy-MM-dd HH:mm')".into(), "2022-10-20T05:10:00"),
        (format!("format_datetime({ts}, 'yyyy-MM-dd''T''HH')"), "2001-08-22T03"),
        ("date_add('second', 86, TIMESTAMP '2020-03-01 00:00:00')".into(), "2020-03-01T00:01:26"),
        ("date_add('hour', 9, TIMESTAMP '2020-03-01 00:00:00')".into(), "2020-03-01T09:00:00"),
        ("date_add('month', -1, DATE '2020-03-31')".into(), "2020-02-29"),
        ("date_add('quarter', 1, DATE '2020-01-31')".into(), "2020-04-30"),
        (
            "date_diff('second', TIMESTAMP '2020-03-01 00:00:00', TIMESTAMP '2020-03-02 00:00:00')"
                .into(),
            "86400",
        ),
        (
            "date_diff('hour', TIMESTAMP '2020-03-01 00:00:00', TIMESTAMP '2020-03-02 00:59:00')"
                .into(),
            "24",
        ),
        ("date_diff('day', DATE '2020-03-01', DATE '2020-03-02')".into(), "1"),
        ("date_diff('month', DATE '2020-01-31', DATE '2020-02-29')".into(), "1"),
        ("date_diff('month', DATE '2020-02-15', DATE '2020-01-16')".into(), "0"),
        (
            "date_diff('year', TIMESTAMP '2019-06-02 00:00:00', TIMESTAMP '2020-06-01 23:00:00')"
                .into(),
            "0",
        ),
        (format!("date_trunc('second', {ts})"), "2001-08-22T03:04:05"),
        (format!("date_trunc('hour', {ts})"), "2001-08-22T03:00:00"),
        (format!("date_trunc('week', {ts})"), "2001-08-20T00:00:00"),
        (format!("date_trunc('quarter', {ts})"), "2001-07-01T00:00:00"),
        (format!("date_trunc('year', {ts})"), "2001-01-01T00:00:00"),
        (format!("year({ts}) * 10000 + month({ts}) * 100 + day({ts})"), "20010822"),
        (format!("hour({ts}) + minute({ts}) + second({ts}) + millisecond({ts})"), "333"),
        (
            format!("quarter({ts}), week({ts}), day_of_week({ts}), dow({ts}), doy({ts})"),
            "3|34|3|3|234",
        ),
        ("year_of_week(DATE '2021-01-01'), week_of_year(DATE '2021-01-01')".into(), "2020|53"),
        ("last_day_of_month(DATE '2024-02-10')".into(), "2024-02-29"),
        (
            "extract(dow FROM DATE '2026-11-29'), extract(year FROM DATE '2026-11-29')".into(),
            "7|2026",
        ),
        (
            "TIMESTAMP '2012-10-31 01:00:00' AT TIME ZONE 'America/Los_Angeles'".into(),
            "2012-10-30T18:00:00",
        ),
        (
            "with_timezone(TIMESTAMP '2021-07-01 12:00:00', 'Europe/Rome')".into(),
            "2021-07-01T10:00:00",
        ),
        ("TIMESTAMP '2012-08-08 01:00:00' + INTERVAL '29' HOUR".into(), "2012-08-09T06:00:00"),
        ("DATE '2012-08-08' + INTERVAL '2' DAY".into(), "2012-08-10"),
        ("TIMESTAMP '2012-10-31 01:00:00' - INTERVAL '1' MONTH".into(), "2012-09-30T01:00:00"),
        ("date('2020-01-02')".into(), "2020-01-02"),
        ("current_timestamp > TIMESTAMP '2020-01-01 00:00:00'".into(), "true"),
        ("localtimestamp > TIMESTAMP '2020-01-01 00:00:00'".into(), "true"),
        ("current_date > DATE '2020-01-01'".into(), "true"),
        ("CAST('2020-01-02 03:04:05' AS timestamp(3))".into(), "2020-01-02T03:04:05"),
    ];
    let cases: Vec<(&str, &str)> = cases.iter().map(|(sql, is)| (sql.as_str(), *is)).collect();
    check(&cases).await;
    refused(&[
        ("date_parse('x', '%Y')", ErrorKind::Invalid, "\"x\" does not fit the pattern \"%Y\""),
        ("date_parse('x', '%U')", ErrorKind::Invalid, "%U, which is not supported"),
        (
            "date_add('fortnight', 1, DATE '2020-01-01')",
            ErrorKind::Invalid,
            "\"fortnight\" is no unit",
        ),
        ("year('2020-01-01')", ErrorKind::Invalid, "must be a timestamp or a date"),
        ("at_timezone(now(), 'Mars/Base')", ErrorKind::Invalid, "\"Mars/Base\" is no time zone"),
        ("from_unixtime(1e300)", ErrorKind::Invalid, "outside the calendar"),
        (
            "date_add('year', 9223372036854775807, DATE '2020-01-01')",
            ErrorKind::Invalid,
            "outside the calendar",
        ),
    ])
    .await;
}

#[tokio::test]
async fn texts_are_cut_matched_and_written_as_documented() {
    check(&[
        ("regexp_like('1a 2b 14m', '\\d+b')", "true"),
        ("regexp_extract('1a 2b 14m', '\\d+')", "1"),
        ("regexp_extract('1a 2b 14m', '(\\d+)([a-z]+)', 2)", "a"),
        ("regexp_extract('abc', '\\d+')", "-"),
        ("regexp_extract_all('1a 2b 14m', '\\d+')", "[1, 2, 14]"),
        ("regexp_extract_all('1a 2b 14m', '(\\d+)([a-z]+)', 2)", "[a, b, m]"),
        ("regexp_replace('1a 2b 14m', '\\d+[ab] ')", "14m"),
        ("regexp_replace('1a 2b 14m', '(\\d+)([ab]) ', '3c$2 ')", "3ca 3cb 14m"),
        ("regexp_split('1a 2b 14m', '\\s*[a-z]+\\s*')", "[1, 2, 14, ]"),
        ("regexp_count('1a 2b 14m', '\\s*[a-z]+\\s*')", "3"),
        ("split('a,b,c', ',')", "[a, b, c]"),
        ("split('a,b,c', ',', 2)", "[a, b,c]"),
        ("split_part('a.b.c', '.', 2)", "b"),
        ("split_part('a.b.c', '.', 4)", "-"),
        ("strpos('high', 'ig')", "2"),
        ("position('ig' IN 'high')", "2"),
        ("substr('hello', 2, 3)", "ell"),
        ("substr('hello', -3)", "llo"),
        ("substring('hello' FROM 2 FOR 2)", "el"),
        ("substr('hello', 9)", ""),
        ("lpad('hi', 5, 'xy')", "xyxhi"),
        ("rpad('hello', 3, 'x')", "hel"),
        ("concat('a', 'b', 'c')", "abc"),
        ("concat('a', NULL)", "-"),
        ("'a' || NULL", "-"),
        ("concat_ws(',', 'a', NULL, 'b')", "a,b"),
        (
            "length('grüße'), lower('AB'), upper('ab'), reverse('abc'), trim('  x ')",
            "5|ab|AB|cba|x",
        ),
        (
            "replace('abcabc', 'b'), replace('abc', 'b', 'x'), replace('ab', '', '-')",
            "acac|axc|-a-b-",
        ),
        ("starts_with('hello', 'he'), levenshtein_distance('kitten', 'sitting')", "true|3"),
        ("chr(65), codepoint('A'), translate('abcd', 'a', 'z')", "A|65|zbcd"),
        ("format('%s%%', 123)", "123%"),
        ("format('%.5f', 3.14159265)", "3.14159"),
        ("format('%03d', 8)", "008"),
        ("format('%,.2f', 1234567.89)", "1,234,567.89"),
        ("format('%-7s|%7s|', 'hello', 'world')", "hello  |  world|"),
        ("format('%2$s')", "Invalid: format: \"%2$s\" has %$, which is not supported"),
        ("url_extract_host('https://user@example.com:8443/a/b?x=1&y=2#f')", "example.com"),
        (
            "url_extract_port('https://example.com:8443/'), url_extract_path('http://h/a/b?x')",
            "8443|/a/b",
        ),
        ("url_extract_parameter('http://h/?x=1&y=a%20b', 'y')", "a b"),
        ("url_extract_query('http://h/?x=1'), url_extract_fragment('http://h/#f')", "x=1|f"),
        ("url_extract_protocol('http://h'), url_extract_host('no url')", "http|-"),
        ("url_encode('a b&c'), url_decode('a+b%26c')", "a+b%26c|a b&c"),
        ("'abc' LIKE 'a_c', 'a%c' LIKE 'a\\%c' ESCAPE '\\'", "true|true"),
        ("'B' < 'a', 'a' = 'a '", "true|false"),
    ])
    .await;
    refused(&[
        ("regexp_like('a', '(?=a)')", ErrorKind::Invalid, "is not supported"),
        ("lpad('x', 2000000000, 'y')", ErrorKind::Invalid, "must be between 0 and 100000"),
        ("split_part('a', '.', 0)", ErrorKind::Invalid, "counted from 1"),
        ("repeat('x', 3)", ErrorKind::Unsupported, "repeat is not supported"),
    ])
    .await;
}

#[tokio::test]
async fn bytes_and_digests_are_those_of_the_standards() {
    check(&[
        ("to_hex(to_utf8('abc')), from_utf8(from_hex('616263'))", "616263|abc"),
        ("to_base64(to_utf8('foobar')), from_utf8(from_base64('Zm9vYmFy'))", "Zm9vYmFy|foobar"),
        ("to_base64url(from_hex('fbfffe'))", "-__-"),
        ("to_hex(md5(to_utf8('abc')))", "900150983CD24FB0D6963F7D28E17F72"),
        ("to_hex(sha1(to_utf8('abc')))", "A9993E364706816ABA3E25717850C26C9CD0D89D"),
        (
            "to_hex(sha256(to_utf8('abc')))",
            "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD",
        ),
        ("length(to_hex(sha512(to_utf8('abc'))))", "128"),
        ("crc32(to_utf8('123456789'))", "3421780262"),
    ])
    .await;
    refused(&[
        ("from_hex('6')", ErrorKind::Invalid, "\"6\" is not hexadecimal"),
        ("from_base64('a')", ErrorKind::Invalid, "\"a\" is not base64"),
    ])
    .await;
}

#[tokio::test]
async fn numbers_conditions_and_types_are_athenas() {
    check(&[
        ("7 / 2, -7 / 2, 7 % 3, 7 % 3, -7 % 3, mod(7, 3)", "3|-3|1|1|-1|1"),
        ("7 / 2.0e0, 1e0 / 0", "3.5|inf"),
        (
            "round(2.5e0), round(-2.5e0), round(3.14159e0, 2), ceiling(1.2e0), truncate(-1.7e0)",
            "3.0|-3.0|3.14|2.0|-1.0",
        ),
        (
            "sign(-3.5e0), power(2, 10), sqrt(16e0), is_nan(nan()), is_finite(1e0)",
            "-1.0|1024.0|4.0|true|true",
        ),
        ("bitwise_and(6, 3), bitwise_or(6, 3)", "2|7"),
        ("if(1 > 0, 'yes', 'no'), if(1 < 0, 'yes')", "yes|-"),
        ("coalesce(NULL, 2), nullif(1, 1)", "2|-"),
        ("greatest(1, 3, 2), least(1, 3, 2), greatest(1, NULL)", "3|1|-"),
        ("try(CAST('x' AS bigint)), try_cast('7' AS bigint)", "-|7"),
        ("try(1 / 0), coalesce(try(json_parse('[')), 'bad')", "-|bad"),
        ("try(date_parse('x', '%Y')), try(from_iso8601_timestamp('x'))", "-|-"),
        ("typeof(1), typeof('x'), typeof(1.5e0), typeof(true)", "bigint|varchar|double|boolean"),
        ("typeof(DATE '2020-01-01'), typeof(CAST(1 AS decimal(10,2)))", "date|decimal(10,2)"),
        (
            "typeof(ARRAY[1]), typeof(CAST('2020-01-01' AS timestamp(3)))",
            "array(bigint)|timestamp(3)",
        ),
        ("CAST(1 AS varchar), CAST('1.5' AS double), CAST(2.7e0 AS integer)", "1|1.5|3"),
        (
            "CAST('12.345' AS decimal(6,2)), CAST(true AS varchar), CAST('7' AS tinyint)",
            "12.35|true|7",
        ),
        ("1 IS DISTINCT FROM NULL, NULL IS NOT DISTINCT FROM NULL", "true|true"),
        ("CASE 2 WHEN 1 THEN 'a' WHEN 2 THEN 'b' ELSE 'c' END", "b"),
        ("5 BETWEEN 1 AND 5, 1 IN (1, 2), NULL IN (1)", "true|true|-"),
    ])
    .await;
}

#[tokio::test]
async fn arrays_and_maps_answer_as_documented() {
    check(&[
        ("ARRAY[10, 20, 30][2], element_at(ARRAY[10, 20], -1), element_at(ARRAY[1], 9)", "20|20|-"),
        ("element_at(MAP(ARRAY['a', 'b'], ARRAY[1, 2]), 'b')", "2"),
        ("element_at(MAP(ARRAY['a'], ARRAY[1]), 'z')", "-"),
        ("cardinality(ARRAY[1, 2, 3]), cardinality(MAP(ARRAY['a'], ARRAY[1]))", "3|1"),
        ("contains(ARRAY[1, 2], 2), contains(ARRAY['a'], 'z')", "true|false"),
        ("array_join(ARRAY['a', 'b'], '-')", "a-b"),
        (
            "array_distinct(ARRAY[1, 1, 2]), array_max(ARRAY[3, 9, 2]), array_min(ARRAY[3, 9, 2])",
            "[1, 2]|9|2",
        ),
        ("array_sort(ARRAY[3, 1, 2]), array_position(ARRAY[5, 6], 6)", "[1, 2, 3]|2"),
        ("array_union(ARRAY[1], ARRAY[2]), array_intersect(ARRAY[1, 2], ARRAY[2])", "[1, 2]|[2]"),
        ("array_except(ARRAY[1, 2], ARRAY[2]), arrays_overlap(ARRAY[1], ARRAY[1, 2])", "[1]|true"),
        ("slice(ARRAY[1, 2, 3, 4], 2, 2), flatten(ARRAY[ARRAY[1], ARRAY[2]])", "[2, 3]|[1, 2]"),
        ("ARRAY[1] || ARRAY[2], array_remove(ARRAY[1, 2, 1], 1)", "[1, 2]|[2]"),
        ("sequence(1, 5), sequence(5, 1, -2), sequence(1, 1)", "[1, 2, 3, 4, 5]|[5, 3, 1]|[1]"),
        ("map_keys(MAP(ARRAY['a'], ARRAY[1])), map_values(MAP(ARRAY['a'], ARRAY[1]))", "[a]|[1]"),
    ])
    .await;
    refused(&[
        ("sequence(1, 1000000000000)", ErrorKind::Invalid, "more than 10000 entries"),
        ("sequence(1, 5, -1)", ErrorKind::Invalid, "never ends"),
        ("element_at(ARRAY[1], 0)", ErrorKind::Invalid, "counted from 1"),
        ("transform(ARRAY[1], x -> x / 0)", ErrorKind::Invalid, "ivide"),
        ("transform(7, x -> x)", ErrorKind::Invalid, ""),
    ])
    .await;
}

#[tokio::test]
async fn functions_take_functions_of_two() {
    // The examples of Trino's documentation, and what it says in words.
    check(&[
        ("map_filter(MAP(ARRAY[], ARRAY[]), (k, v) -> true)", "{}"),
        (
            "map_filter(MAP(ARRAY[10, 20, 30], ARRAY['a', NULL, 'c']), (k, v) -> v IS NOT NULL)",
            "{10: a, 30: c}",
        ),
        (
            "map_filter(MAP(ARRAY['k1', 'k2', 'k3'], ARRAY[20, 3, 15]), (k, v) -> v > 10)",
            "{k1: 20, k3: 15}",
        ),
        ("map_filter(MAP(ARRAY[1, 2], ARRAY[NULL, 5]), (k, v) -> v > 1)", "{2: 5}"),
        ("transform_keys(MAP(ARRAY[], ARRAY[]), (k, v) -> k + 1)", "{}"),
        (
            "transform_keys(MAP(ARRAY[1, 2, 3], ARRAY['a', 'b', 'c']), (k, v) -> k + 1)",
            "{2: a, 3: b, 4: c}",
        ),
        (
            "transform_keys(MAP(ARRAY['a', 'b', 'c'], ARRAY[1, 2, 3]), (k, v) -> v * v)",
            "{1: 1, 4: 2, 9: 3}",
        ),
        (
            "transform_keys(MAP(ARRAY['a', 'b'], ARRAY[1, 2]), (k, v) -> k || CAST(v AS varchar))",
            "{a1: 1, b2: 2}",
        ),
        (
            "transform_keys(MAP(ARRAY[1, 2], ARRAY[1.0, 1.4]), \
             (k, v) -> element_at(MAP(ARRAY[1, 2], ARRAY['one', 'two']), k))",
            "{one: 1.0, two: 1.4}",
        ),
        ("transform_values(MAP(ARRAY[], ARRAY[]), (k, v) -> v + 1)", "{}"),
        (
            "transform_values(MAP(ARRAY[1, 2, 3], ARRAY[10, 20, 30]), (k, v) -> v + k)",
            "{1: 11, 2: 22, 3: 33}",
        ),
        (
            "transform_values(MAP(ARRAY[1, 2, 3], ARRAY['a', 'b', 'c']), (k, v) -> k * k)",
            "{1: 1, 2: 4, 3: 9}",
        ),
        (
            "transform_values(MAP(ARRAY['a', 'b'], ARRAY[1, 2]), \
             (k, v) -> k || CAST(v AS varchar))",
            "{a: a1, b: b2}",
        ),
        (
            "transform_values(MAP(ARRAY[1, 2], ARRAY[1.0, 1.4]), (k, v) -> \
             element_at(MAP(ARRAY[1, 2], ARRAY['one', 'two']), k) || '_' || CAST(v AS varchar))",
            "{1: one_1.0, 2: two_1.4}",
        ),
        ("zip_with(ARRAY[1, 2], ARRAY[3, 4], (x, y) -> x + y)", "[4, 6]"),
        (
            "zip_with(ARRAY['a', 'b', 'c'], ARRAY['d', 'e', 'f'], (x, y) -> concat(x, y))",
            "[ad, be, cf]",
        ),
        ("zip_with(ARRAY['a'], ARRAY['d', NULL, 'f'], (x, y) -> coalesce(x, y))", "[a, , f]"),
        ("zip_with(ARRAY[1], CAST(NULL AS array(bigint)), (x, y) -> x)", "-"),
        ("cardinality(zip_with(ARRAY[1, 3], ARRAY['a', 'b'], (x, y) -> (y, x)))", "2"),
        ("zip_with(ARRAY[ARRAY[1]], ARRAY[2], (x, y) -> transform(x, z -> z + y))", "[[3]]"),
    ])
    .await;
    refused(&[
        ("transform_keys(MAP(ARRAY[1, 2], ARRAY[3, 4]), (k, v) -> 7)", ErrorKind::Invalid, "7"),
        (
            "transform_keys(MAP(ARRAY[1], ARRAY[3]), (k, v) -> nullif(k, 1))",
            ErrorKind::Invalid,
            "null",
        ),
        ("map_filter(MAP(ARRAY[1], ARRAY[2]), (k, v) -> v)", ErrorKind::Invalid, "true or false"),
        ("map_filter(ARRAY[1], (k, v) -> true)", ErrorKind::Invalid, "takes a map"),
        ("zip_with(1, 2, (x, y) -> x)", ErrorKind::Invalid, "takes two arrays"),
    ])
    .await;
    let world = World::new();
    let columns = "n int; m map<string,bigint>; a array<bigint>; b array<bigint>";
    world.declare("t", Format::Json, columns, "");
    let rows = "{\"n\":1,\"m\":{\"x\":1,\"y\":5},\"a\":[1,2],\"b\":[3]}\n\
                {\"n\":2,\"m\":{},\"a\":[],\"b\":[]}\n{\"n\":3}\n\
                {\"n\":4,\"m\":{\"z\":9},\"a\":[7],\"b\":[8,9]}\n";
    world.put("raw/t/x", rows).await;
    for (sql, expect) in [
        ("map_filter(m, (k, v) -> v > n)", "{y: 5} {} - {z: 9}"),
        ("transform_values(m, (k, v) -> v * n)", "{x: 1, y: 5} {} - {z: 36}"),
        ("transform_keys(m, (k, v) -> k || CAST(n AS varchar))", "{x1: 1, y1: 5} {} - {z4: 9}"),
        ("zip_with(a, b, (x, y) -> coalesce(x, 0) + coalesce(y, 0) * n)", "[4, 2] [] - [39, 36]"),
    ] {
        let found = world.rows(&format!("SELECT {sql} FROM t ORDER BY n")).await;
        assert_eq!(found.join(" "), expect, "{sql}");
        // Of a part of the rows, too: what lies outside of it is no entry of theirs.
        let sql =
            format!("SELECT {sql} FROM (SELECT * FROM t ORDER BY n OFFSET 2) AS t ORDER BY n");
        let part = world.rows(&sql).await;
        assert_eq!(part[..], found[2..], "{sql}");
    }
}

#[tokio::test]
async fn functions_take_functions_of_an_arrays_items() {
    check(&[
        ("transform(ARRAY[1, 2, NULL], x -> x + 1)", "[2, 3, ]"),
        ("transform(ARRAY['a', 'b'], X -> upper(x) || 'z')", "[Az, Bz]"),
        (
            "transform(ARRAY[ARRAY[1, 2], ARRAY[3]], x -> transform(x, x -> x * 10))",
            "[[10, 20], [30]]",
        ),
        ("transform(ARRAY[1, 2], x -> CASE WHEN x = 1 THEN 'one' ELSE 'more' END)", "[one, more]"),
        ("filter(ARRAY[5, -6, NULL, 7], x -> x > 0)", "[5, 7]"),
        ("filter(ARRAY['a', 'bb'], x -> length(x) > 1 AND x LIKE 'b%')", "[bb]"),
        ("any_match(ARRAY[1, 2], x -> x > 1), any_match(ARRAY[1], x -> x > 1)", "true|false"),
        ("all_match(ARRAY[1, 2], x -> x > 0), all_match(ARRAY[1, 2], x -> x > 1)", "true|false"),
        ("none_match(ARRAY[1, 2], x -> x > 2), none_match(ARRAY[1, 3], x -> x > 2)", "true|false"),
        ("any_match(ARRAY[1, NULL], x -> x > 1), all_match(ARRAY[2, NULL], x -> x > 1)", "-|-"),
        (
            "all_match(ARRAY[1, NULL], x -> x > 1), none_match(ARRAY[2, NULL], x -> x > 1)",
            "false|false",
        ),
        ("reduce(ARRAY[5, 20, 50], 0, (s, x) -> s + x, s -> s)", "75"),
        ("reduce(ARRAY[5.5, 20], 0, (s, x) -> s + x, s -> s)", "25.5"),
        ("reduce(ARRAY[5, 20, NULL, 50], 0, (s, x) -> s + coalesce(x, 0), s -> s)", "75"),
        ("reduce(ARRAY[5, NULL], 0, (s, x) -> s + x, s -> s)", "-"),
        (
            "reduce(ARRAY[1, 2], 0, (s, x) -> x, s -> 7), reduce(ARRAY[1], 5, (s, x) -> s, s -> s)",
            "7|5",
        ),
        ("transform(ARRAY[1, 2], x -> 0)", "[0, 0]"),
        ("reduce(ARRAY['a', 'b'], '', (s, x) -> s || x, s -> s || '!')", "ab!"),
        ("reduce(slice(ARRAY[1], 1, 0), 7, (s, x) -> s + x, s -> s * 2)", "14"),
        ("reduce(CAST(NULL AS array(bigint)), 0, (s, x) -> s + x, s -> s)", "-"),
    ])
    .await;
    let world = World::new();
    let rows = "{\"X\":10,\"list\":[1,2,3],\"rows\":[{\"a\":1},{\"a\":2}]}\n\
                {\"X\":20,\"list\":[],\"rows\":[]}\n{\"X\":30}\n\
                {\"X\":40,\"list\":[4],\"rows\":[{\"a\":5}]}\n";
    world.put("raw/readings/a.json", rows).await;
    world.crawl().await;
    for (sql, expect) in [
        // A parameter hides the column of its name, and the others are those of the row.
        ("transform(list, x -> x + 1)", "[2, 3, 4] [] - [5]"),
        ("transform(list, v -> v + X)", "[11, 12, 13] [] - [44]"),
        ("transform(rows, r -> r.a * 2)", "[2, 4] [] - [10]"),
        ("filter(list, v -> v * 10 > X)", "[2, 3] [] - []"),
        ("reduce(list, X, (s, v) -> s + v, s -> s)", "16 20 - 44"),
        ("reduce(list, 0, (s, v) -> s + v * X, s -> s - X)", "50 -20 - 120"),
        ("all_match(list, v -> v < X)", "true true - true"),
    ] {
        let found = world.rows(&format!("SELECT {sql} FROM readings ORDER BY X")).await;
        assert_eq!(found.join(" "), expect, "{sql}");
    }
}

#[tokio::test]
async fn maps_are_gathered_of_rows() {
    let world = World::new();
    let rows = "{\"g\":1,\"k\":\"a\",\"n\":1}\n{\"g\":1,\"k\":\"b\",\"n\":2}\n\
                {\"g\":1,\"k\":\"a\",\"n\":3}\n{\"g\":1,\"n\":4}\n\
                {\"g\":2,\"k\":\"c\"}\n{\"g\":3}\n";
    world.put("raw/readings/a.json", rows).await;
    world.put("raw/readings/b.json", "{\"g\":2,\"k\":\"d\",\"n\":5}\n").await;
    world.crawl().await;
    for (sql, expect) in [
        ("cardinality(map_agg(k, n)), element_at(map_agg(k, n), 'b')", "2|2 2|- -|-"),
        ("element_at(histogram(k), 'a'), element_at(histogram(k), 'b')", "2|1 -|- -|-"),
        ("cardinality(element_at(multimap_agg(k, n), 'a'))", "2 - -"),
        ("array_join(array_sort(map_keys(map_agg(k, n))), ',')", "a,b c,d -"),
        ("array_join(map_keys(map_agg(k, n) FILTER (WHERE n > 1)), ',')", "b,a d -"),
    ] {
        let found = world.rows(&format!("SELECT {sql} FROM readings GROUP BY g ORDER BY g")).await;
        assert_eq!(found.join(" "), expect, "{sql}");
    }
    let total = world
        .rows("SELECT element_at(histogram(n % 2), 1), typeof(histogram(k)) FROM readings")
        .await;
    assert_eq!(total, ["3|map(varchar, bigint)"]);
}

async fn numbers() -> World {
    let world = World::new();
    world.declare("t", Format::Json, "k string; n int; x double; tags array<string>", "");
    let row = |n: u32| {
        let x = if n.is_multiple_of(4) { "null".to_owned() } else { format!("{n}.5") };
        format!("{{\"k\":\"k{}\",\"n\":{n},\"x\":{x},\"tags\":[\"a{n}\",\"b\"]}}\n", n % 2)
    };
    world.put("raw/t/x", (0..8).map(row).collect::<String>()).await;
    world
}

#[tokio::test]
async fn aggregates_and_clauses_are_athenas() {
    let world = numbers().await;
    answers(&world, &[
        ("SELECT max_by(k, n), min_by(n, x), max_by(n, x) FROM t", "k1|1|7"),
        ("SELECT count_if(x IS NULL), count_if(n > 100) FROM t", "2|0"),
        ("SELECT count_if(n > 2) FILTER (WHERE k = 'k0') FROM t", "2"),
        ("SELECT arbitrary(k) IN ('k0', 'k1'), any_value(x) IS NOT NULL FROM t", "true|true"),
        ("SELECT bool_and(n < 8), bool_or(n = 9), every(n > 0) FROM t", "true|false|false"),
        ("SELECT approx_distinct(n), approx_percentile(x, 0.5) BETWEEN 3 AND 6 FROM t", "8|true"),
        ("SELECT array_agg(n ORDER BY n DESC) FROM t WHERE n < 3", "[2, 1, 0]"),
        ("SELECT listagg(k, ',') WITHIN GROUP (ORDER BY n) FROM t WHERE n < 3", "k0,k1,k0"),
        ("SELECT cardinality(array_agg(DISTINCT k)) FROM t", "2"),
        ("SELECT k, max_by(n, x) FROM t GROUP BY k ORDER BY k", "k0|6 k1|7"),
        ("SELECT n FROM t ORDER BY x, n LIMIT 2", "1 2"),
        ("SELECT n FROM t ORDER BY x DESC, n OFFSET 5 LIMIT 2", "1 0"),
        ("SELECT n FROM t ORDER BY x NULLS FIRST, n FETCH FIRST 1 ROW ONLY", "0"),
        ("SELECT n FROM t ORDER BY n OFFSET 2 ROWS FETCH NEXT 2 ROWS ONLY", "2 3"),
        ("SELECT k, count(*) FROM t GROUP BY ROLLUP (k) ORDER BY k", "k0|4 k1|4 -|8"),
        (
            "SELECT k, grouping(k), count(*) FROM t GROUP BY GROUPING SETS ((k), ()) ORDER BY 2, 1",
            "k0|0|4 k1|0|4 -|1|8",
        ),
        (
            "SELECT n % 2, k, count(*) FROM t GROUP BY CUBE (n % 2, k) ORDER BY 3 DESC, 1, 2 LIMIT 1",
            "-|-|8",
        ),
        (
            "SELECT n, row_number() OVER (PARTITION BY k ORDER BY n DESC) FROM t ORDER BY n LIMIT 2",
            "0|4 1|4",
        ),
        (
            "SELECT n, lag(n) OVER (ORDER BY n), sum(n) OVER (ORDER BY n ROWS 1 PRECEDING) FROM t ORDER BY n LIMIT 2",
            "0|-|0 1|0|1",
        ),
        ("SELECT n FROM t QUALIFY rank() OVER (PARTITION BY k ORDER BY n) = 1 ORDER BY n", "0 1"),
        ("SELECT u.tag FROM t CROSS JOIN UNNEST(tags) AS u(tag) WHERE n = 3 ORDER BY 1", "a3 b"),
        (
            "SELECT u.tag, u.at FROM t CROSS JOIN UNNEST(tags) WITH ORDINALITY AS u(tag, at) WHERE n = 3 ORDER BY 2",
            "a3|1 b|2",
        ),
        ("SELECT v FROM UNNEST(ARRAY[3, 1]) AS u(v) ORDER BY v", "1 3"),
        ("SELECT v FROM UNNEST(sequence(1, 3)) AS u(v)", "1 2 3"),
        ("SELECT a, b FROM (VALUES (1, 'x'), (2, 'y')) AS v(a, b) ORDER BY a", "1|x 2|y"),
        ("SELECT v FROM (VALUES 1, 2 , 1 + 2) AS v(v) ORDER BY v", "1 2 3"),
        ("VALUES 'a', upper('b') ORDER BY 1 DESC", "a B"),
        ("VALUES NULL, CAST(5 AS bigint) UNION ALL VALUES (6), (7) ORDER BY 1", "5 6 7 -"),
        (
            "SELECT v FROM (VALUES 1, 2) AS v(v) WHERE v IN (SELECT x FROM (VALUES 2, 3) AS w(x))",
            "2",
        ),
        ("SELECT \"values\" FROM (VALUES ARRAY[1, 2]) v(\"values\")", "[1, 2]"),
        ("SELECT n FROM t WHERE n IN (SELECT max(n) FROM t GROUP BY k) ORDER BY n", "6 7"),
        ("SELECT count(*) FROM t a WHERE EXISTS (SELECT 1 FROM t b WHERE b.n = a.n + 1)", "7"),
        // Two columns of one name.
        (
            "SELECT t.n, b.n FROM t RIGHT JOIN t b ON t.n = b.n AND b.x > 4 WHERE t.n IS NULL ORDER BY 2",
            "-|0 -|1 -|2 -|3 -|4",
        ),
        (
            "SELECT t.n, b.n FROM t LEFT JOIN t b ON t.n = b.n AND t.x > 4 WHERE b.n IS NULL ORDER BY 1",
            "0|- 1|- 2|- 3|- 4|-",
        ),
        (
            "SELECT t.n, b.n FROM t JOIN t b ON t.k = b.k AND t.n + b.n > 2 ORDER BY t.n DESC, b.n LIMIT 2",
            "7|1 7|3",
        ),
        // What is compared is cast, and the same column ties the rows to those around them.
        ("SELECT count(*) FROM t WHERE x IN (SELECT b.n FROM t b WHERE b.n = t.n)", "0"),
        (
            "SELECT n FROM t WHERE n > 6 OR CAST(n AS bigint) NOT IN (SELECT b.n FROM t b WHERE b.n = t.n AND n > 1) ORDER BY n",
            "0 1 7",
        ),
        (
            "SELECT n FROM t WHERE n IN (SELECT DISTINCT n FROM t ORDER BY n DESC LIMIT 2) ORDER BY n",
            "6 7",
        ),
        ("SELECT n FROM t EXCEPT SELECT n FROM t WHERE n > 0", "0"),
        ("SELECT count(*) FROM t LEFT JOIN (SELECT n AS m FROM t WHERE n > 5) ON n = m", "8"),
        ("SELECT N, K AS Kk FROM T WHERE N = 1", "1|k1"),
        (
            "SELECT count(*) FROM t WHERE EXISTS (SELECT 1 FROM t b WHERE b.k = t.k GROUP BY b.k HAVING count(*) > 3)",
            "8",
        ),
        ("SELECT n FROM t WHERE n - 1 IN (SELECT count(x) FROM t b WHERE b.n = t.n)", "2"),
        ("SELECT count(*) FROM t WHERE EXISTS (SELECT sum(n) FROM t b WHERE b.n = t.n + 9)", "8"),
    ])
    .await;
}

#[tokio::test]
async fn the_object_of_a_row_is_a_hidden_column() {
    let world = World::new();
    world.declare("t", Format::Json, "n int", "day string");
    for (key, rows) in [("day=a/x", 0..2), ("day=a/y", 2..3), ("day=b/x", 3..6)] {
        let text: String = rows.map(|n| format!("{{\"n\":{n}}}\n")).collect();
        world.put(&format!("raw/t/{key}.json"), text).await;
    }
    let (_, result) = world.run(&crate::world::job("t", vec![], "source", &["day"])).await;
    assert_eq!(result.unwrap().rows_out, 6);
    let view = |name: &str, sql: &str| lake::View {
        database: "air".into(),
        name: name.into(),
        sql: sql.into(),
    };
    world.lake.put_view(&view("plain", "SELECT * FROM t"), true).unwrap();
    let from = view("told", r#"SELECT *, "$path" AS object FROM t"#);
    world.lake.put_view(&from, true).unwrap();
    answers(&world, &[
        (r#"SELECT n, "$path" FROM t WHERE n = 3"#, "3|s3://bkt/raw/t/day=b/x.json"),
        (r#"SELECT * FROM t WHERE "$path" LIKE '%/y.json'"#, "2|a"),
        (r#"SELECT *, "$path" FROM t WHERE n = 2"#, "2|a|s3://bkt/raw/t/day=a/y.json"),
        (r#"SELECT t.*, T."$path" IS NULL FROM air.t WHERE n = 5"#, "5|b|false"),
        (r#"SELECT count(*), count(DISTINCT "$path"), max(n) FROM t"#, "6|3|5"),
        (
            r#"SELECT "$path", count(*) FROM t GROUP BY 1 HAVING count(*) = 1"#,
            "s3://bkt/raw/t/day=a/y.json|1",
        ),
        (
            r#"SELECT * FROM t a JOIN t b ON a."$path" = b."$path" WHERE a.n = 0 AND b.n = 1"#,
            "0|a|1|a",
        ),
        (
            r#"SELECT a.*, b.n FROM t a, t b WHERE a."$path" = b."$path" AND a.n = 0 AND b.n = 1"#,
            "0|a|1",
        ),
        (
            r#"SELECT * FROM (SELECT n, "$path" AS p FROM t) WHERE p LIKE '%day=b%' AND n > 4"#,
            "5|s3://bkt/raw/t/day=b/x.json",
        ),
        (
            r#"WITH t AS (SELECT n, "$path" FROM air.t) SELECT * FROM t WHERE n = 2"#,
            "2|s3://bkt/raw/t/day=a/y.json",
        ),
        (
            r#"SELECT * FROM t CROSS JOIN UNNEST(ARRAY[7]) AS u(v) WHERE "$path" LIKE '%y.json'"#,
            "2|a|7",
        ),
        // Who does not ask does not meet it, beside who does.
        ("SELECT * FROM plain WHERE n = 2", "2|a"),
        (
            r#"SELECT p.*, t."$path" FROM plain p JOIN t ON p.n = t.n WHERE t.n = 2"#,
            "2|a|s3://bkt/raw/t/day=a/y.json",
        ),
        (
            "SELECT told.*, t.* FROM told JOIN t ON told.n = t.n WHERE t.n = 2",
            "2|a|s3://bkt/raw/t/day=a/y.json|2|a",
        ),
        // Of Parquet, whose objects are named by the job.
        (
            r#"SELECT count(DISTINCT "$path"), count(*) FROM curated WHERE "$path" LIKE 's3://bkt/curated/day=_/%.parquet'"#,
            "2|6",
        ),
        (r#"SELECT * FROM curated WHERE n = 4 AND "$path" > 's3'"#, "4|b"),
        (
            r#"SELECT n FROM curated WHERE "$path" = (SELECT max("$path") FROM curated) ORDER BY n DESC LIMIT 1"#,
            "5",
        ),
    ])
    .await;
    // Objects that a condition on it rules out are not read.
    let one = world.sql(r#"SELECT sum(n) FROM t WHERE "$path" LIKE '%/y.json'"#).await.unwrap();
    assert_eq!(one.bytes_scanned, "{\"n\":2}\n".len() as u64);
    for sql in [
        r#"SELECT * FROM t JOIN plain USING (n) WHERE "$path" IS NULL"#,
        r#"SELECT * FROM t, (SELECT 1) WHERE "$path" IS NULL"#,
    ] {
        let error = world.sql(sql).await.unwrap_err().to_string();
        assert!(error.contains("name the columns instead of *"), "{sql}: {error}");
    }
    let error = world.sql(r#"SELECT "$path" FROM plain"#).await.unwrap_err().to_string();
    assert!(error.contains("$path"), "{error}");
}

#[tokio::test]
async fn what_is_absent_is_refused_by_name() {
    let world = numbers().await;
    for (sql, part) in [
        ("SELECT n FROM t TABLESAMPLE BERNOULLI (10)", "TABLESAMPLE"),
        ("SELECT approx_most_frequent(2, n, 9) FROM t", "use count(*) with GROUP BY"),
        ("SELECT n FROM t FETCH FIRST 2 ROWS WITH TIES", "FETCH with TIES"),
        ("SELECT max_by(DISTINCT k, n) FROM t", "within max_by"),
        (
            "SELECT (SELECT max(n) FROM t b WHERE b.n < t.n) FROM t",
            "tied to it by columns that are equal",
        ),
        (
            "SELECT n FROM t WHERE n IN (SELECT count(*) FROM t b WHERE b.n > t.n)",
            "tied to it by columns that are equal",
        ),
        ("SELECT n FROM t WHERE EXISTS (SELECT 1 FROM t b WHERE b.n = t.n OFFSET 1)", "OFFSET"),
        ("SELECT n FROM t MATCH_RECOGNIZE (PATTERN (A) DEFINE A AS true)", ""),
    ] {
        let error = world.sql(sql).await.unwrap_err();
        assert!(error.to_string().contains(part), "{sql}: {error}");
        assert!(
            matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Invalid),
            "{sql}: {error}"
        );
    }
    // Meanings that hold their arguments twice cannot be nested without end.
    let nested = format!("SELECT {}n{} FROM t", "greatest(".repeat(30), ", 1)".repeat(30));
    assert_eq!(world.sql(&nested).await.unwrap_err().kind(), ErrorKind::Exhausted);
}

#[tokio::test]
async fn views_are_asked_like_tables_and_never_without_end() {
    let world = numbers().await;
    let put = |name: &str, sql: &str| {
        let view = lake::View { database: "air".into(), name: name.into(), sql: sql.into() };
        world.lake.put_view(&view, true)
    };
    world.lake.catalog().create_database("other", "").unwrap();
    put(
        "evens",
        "SELECT n, x AS Reading, if(n > 4, 'high', 'low') AS level FROM t WHERE n % 2 = 0",
    )
    .unwrap();
    put("high", "SELECT level, count(*) AS c FROM evens GROUP BY level").unwrap();
    assert_eq!(world.rows("SELECT n FROM evens WHERE level = 'high' ORDER BY n").await, ["6"]);
    assert_eq!(world.rows("SELECT level, c FROM high ORDER BY level").await, ["high|1", "low|3"]);
    assert_eq!(world.rows("SELECT max(reading) FROM evens").await, ["6.5"]);
    // Whatever database is in use, a view's tables are those of its own.
    let options = lake::SqlOptions::in_database("other");
    let answer =
        lake::QueryEngine::sql(&world.engine, "SELECT c FROM air.high ORDER BY c", &options);
    assert_eq!(crate::world::shown(&answer.await.unwrap().batches), ["1", "3"]);
    // A table and a view of it beside each other.
    let joined = "SELECT count(*) FROM t JOIN evens ON t.n = evens.n";
    assert_eq!(world.rows(joined).await, ["4"]);
    put("round", "SELECT * FROM round").unwrap();
    let error = world.sql("SELECT * FROM round").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    put("broken", "SELECT nothing FROM t").unwrap();
    let error = world.sql("SELECT * FROM broken").await.unwrap_err();
    assert!(error.to_string().contains("view \"broken\""), "{error}");
    assert_eq!(put("t", "SELECT 1").unwrap_err().kind(), ErrorKind::AlreadyExists);

    let tables = "SELECT table_name, table_type FROM information_schema.tables \
                  WHERE table_schema = 'air' AND table_name IN ('t', 'high') ORDER BY 1";
    assert_eq!(world.rows(tables).await, ["high|VIEW", "t|BASE TABLE"]);
    let columns = "SELECT column_name, ordinal_position, data_type FROM \
                   awsdatacatalog.information_schema.columns WHERE table_name = 't' ORDER BY 2";
    assert_eq!(
        world.rows(columns).await,
        ["k|1|varchar", "n|2|integer", "x|3|double", "tags|4|array(varchar)"]
    );
    let schemas = "SELECT schema_name FROM information_schema.schemata ORDER BY 1";
    assert_eq!(world.rows(schemas).await, ["air", "other"]);
}

#[tokio::test]
async fn columns_without_a_name_are_marked_and_called_as_written() {
    let world = numbers().await;
    let answer = world
        .sql("SELECT n, COUNT(*), max(x), max(x), if(n > 1, 1, 2) AS b FROM t GROUP BY n LIMIT 1")
        .await
        .unwrap();
    let fields = answer.schema.fields();
    let names: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["n", "COUNT(*)", "max(x)", "_col3", "b"]);
    let marked: Vec<bool> =
        fields.iter().map(|field| field.metadata().contains_key(lake::UNNAMED)).collect();
    assert_eq!(marked, [false, true, true, true, false]);
    let answer = world.sql("SELECT n + 1, t.*, k || 'x' FROM t LIMIT 1").await.unwrap();
    let marked: Vec<usize> = answer
        .schema
        .fields()
        .iter()
        .enumerate()
        .filter(|(_, field)| field.metadata().contains_key(lake::UNNAMED))
        .map(|(index, _)| index)
        .collect();
    assert_eq!(marked, [0, 5]);
}

/// A sink that wants only so many batches.
struct Counting(std::sync::Arc<std::sync::atomic::AtomicUsize>);

impl lake::RowSink for Counting {
    fn begin(&mut self, _: &arrow::datatypes::SchemaRef) -> base::Result<()> {
        Ok(())
    }

    fn rows(&mut self, batch: arrow::array::RecordBatch) -> base::Result<()> {
        self.0.fetch_add(batch.num_rows(), std::sync::atomic::Ordering::SeqCst);
        Ok(())
    }
}

#[tokio::test]
async fn an_answer_larger_than_may_be_held_goes_into_a_sink() {
    let world = World::with(|options| options.answer_bytes_max = 64 * 1024);
    world.declare("t", Format::Json, "n int", "");
    let rows = |n: u32| format!("{{\"n\":{n}}}\n");
    world.put("raw/t/x", (0..100_000).map(rows).collect::<String>()).await;
    let error = world.sql("SELECT n FROM t").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    let count = std::sync::Arc::default();
    let sink = Box::new(Counting(std::sync::Arc::clone(&count)));
    let options = lake::SqlOptions::in_database("air");
    let scanned = lake::QueryEngine::sql_into(&world.engine, "SELECT n FROM t", &options, sink);
    assert!(scanned.await.unwrap().bytes > 0);
    assert_eq!(count.load(std::sync::atomic::Ordering::SeqCst), 100_000);
}
