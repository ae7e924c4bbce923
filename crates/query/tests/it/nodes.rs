//! Each node by a table: rows in, rows out; and what it refuses.

use base::{Error, Result};
use lake::{Format, Job};
use serde_json::{Value, json};

use crate::world::{World, shown};

/// Readings of two devices, out of order.
const READINGS: &str = concat!(
    "{\"d\":\"b\",\"ts\":\"2026-11-01T00:20:00Z\",\"v\":5.0,\"n\":1,\"s\":\"x\"}\n",
    "{\"d\":\"a\",\"ts\":\"2026-11-01T00:10:00Z\",\"v\":1.0,\"n\":2,\"s\":\"7\"}\n",
    "{\"d\":\"a\",\"ts\":\"2026-11-01T03:00:00Z\",\"v\":4.0,\"n\":3}\n",
    "{\"d\":\"a\",\"ts\":\"2026-11-01T00:50:00Z\",\"v\":3.0,\"n\":4,\"s\":\"1.5\"}\n",
    "{\"d\":\"b\",\"ts\":\"2026-11-01T01:00:00Z\",\"n\":5,\"s\":\"x\"}\n",
    "{\"d\":\"a\",\"ts\":\"2026-11-01T00:10:00Z\",\"v\":2.0,\"n\":6,\"s\":\"7\"}\n",
);

const COLUMNS: &str = "d string; ts timestamp; v double; n bigint; s string";

async fn world(tables: &[(&str, &str, &str)]) -> World {
    let world = World::new();
    for (name, columns, rows) in tables {
        world.declare(name, Format::Json, columns, "");
        world.put(&format!("raw/{name}/x"), *rows).await;
    }
    world
}

/// The graph `source, nodes..., target`; a node `out` is the last.
fn graph(tables: &[(&str, &str, &str)], nodes: Value) -> Result<Job> {
    let mut all: Vec<Value> = tables
        .iter()
        .map(|(name, _, _)| json!({"node": "source", "id": name, "database": "air", "table": name}))
        .collect();
    all.extend(nodes.as_array().unwrap().clone());
    all.push(json!({"node": "target", "id": "target", "input": "out", "bucket": "bkt",
        "prefix": "curated/", "database": "air", "table": "curated"}));
    let job = json!({"name": "job", "nodes": all, "bookmark": true});
    let job: Job =
        serde_json::from_value(job).map_err(|cause| Error::invalid(cause.to_string()))?;
    job.check()?;
    Ok(job)
}

async fn rows(tables: &[(&str, &str, &str)], nodes: Value) -> Result<(Vec<String>, Vec<String>)> {
    let world = world(tables).await;
    let spec = world.lake.plan_preview(&graph(tables, nodes)?).await?;
    let answer = world.engine.preview(&spec, "target", 50).await?;
    let columns = answer.schema.fields().iter().map(|field| field.name().clone()).collect();
    Ok((columns, shown(&answer.batches)))
}

/// Checks what the nodes make of the readings `t` and the other tables.
async fn check(more: &[(&str, &str, &str)], nodes: Value, columns: &str, expect: &[&str]) {
    let mut tables = vec![("t", COLUMNS, READINGS)];
    tables.extend(more);
    let (found, rows) =
        rows(&tables, nodes.clone()).await.unwrap_or_else(|error| panic!("{nodes}: {error}"));
    assert_eq!(found.join(" "), columns, "{nodes}");
    assert_eq!(rows, expect, "{nodes}");
}

/// Checks that the nodes are refused, with all of `says` in the message.
async fn refused(nodes: Value, says: &[&str]) {
    let tables = [("t", COLUMNS, READINGS)];
    let Err(error) = rows(&tables, nodes.clone()).await else { panic!("{nodes} was not refused") };
    for word in says {
        assert!(error.to_string().contains(word), "{nodes}: {error}\nlacks {word:?}");
    }
    assert_ne!(error.kind(), base::ErrorKind::Internal, "{nodes}: {error}");
}

/// A node over `t`, called `out`.
fn one(node: &str, mut members: Value) -> Value {
    members["node"] = json!(node);
    members["id"] = json!("out");
    members["input"] = json!("t");
    json!([members])
}

#[tokio::test]
async fn rows_are_filtered_derived_sampled_and_limited() {
    check(
        &[],
        one("filter", json!({"condition": "v >= 3 or v is null"})),
        "d ts v n s",
        &[
            "b|2026-11-01T00:20:00|5.0|1|x",
            "a|2026-11-01T03:00:00|4.0|3|-",
            "a|2026-11-01T00:50:00|3.0|4|1.5",
            "b|2026-11-01T01:00:00|-|5|x",
        ],
    )
    .await;
    let derive = json!({"columns": [
        {"name": "n", "expression": "n * 10"}, {"name": "D v", "expression": "upper(d) || '!'"}]});
    let derive = json!([{"node": "derive_columns", "id": "x", "input": "t", "columns": derive["columns"]},
        {"node": "select_fields", "id": "y", "input": "x", "fields": ["n", "D v"]},
        {"node": "limit", "id": "out", "input": "y", "rows": 2}]);
    check(&[], derive, "n D v", &["10|B!", "20|A!"]).await;
    let all = one("sample", json!({"fraction": 1.0}));
    let (_, every) = rows(&[("t", COLUMNS, READINGS)], all).await.unwrap();
    assert_eq!(every.len(), 6);
    let many: String = (0..4000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    let table = [("t", "n int", many.as_str())];
    let nodes = json!([{"node": "sample", "id": "some", "input": "t", "fraction": 0.25, "seed": 7},
        {"node": "aggregate", "id": "out", "input": "some", "aggregates": [
            {"column": "n", "function": "count", "to": "rows"}, {"column": "n", "function": "sum"}]}]);
    let first = rows(&table, nodes.clone()).await.unwrap();
    assert_eq!(first, rows(&table, nodes).await.unwrap(), "the same rows each time");
    let count: u32 = first.1[0].split('|').next().unwrap().parse().unwrap();
    assert!((900..1100).contains(&count), "{count}");

    refused(one("filter", json!({"condition": "w > 1"})), &["out", "w", "ts"]).await;
    refused(one("filter", json!({"condition": "v > 1) or (true"})), &["expression"]).await;
    refused(one("filter", json!({"condition": " "})), &["out", "condition"]).await;
    refused(
        one("derive_columns", json!({"columns": [{"name": "x", "expression": "v +"}]})),
        &["v +"],
    )
    .await;
    refused(one("sample", json!({"fraction": 0.0})), &["out", "fraction"]).await;
    refused(one("limit", json!({"rows": 0})), &["out", "rows"]).await;
    let sql = json!([{"node": "sql", "id": "out", "inputs": {"a": "t"},
        "query": "SELECT * FROM a TABLESAMPLE BERNOULLI (10)"}]);
    refused(sql, &["out", "TABLESAMPLE"]).await;
    refused(one("filter", json!({"condition": "v > 1", "colour": 1})), &["colour"]).await;
}

#[tokio::test]
async fn columns_are_resolved_flattened_exploded_turned_and_split() {
    let choose = |action: &str, types: &[&str]| {
        json!([{"node": "resolve_choice", "id": "x", "input": "t", "choices": [
            {"column": "s", "action": action, "types": types}]},
            {"node": "drop_fields", "id": "y", "input": "x", "fields": ["d", "ts", "v", "n"]},
            {"node": "limit", "id": "out", "input": "y", "rows": 4}])
    };
    check(&[], choose("cast", &["double"]), "s", &["-", "7.0", "-", "1.5"]).await;
    check(&[], choose("project", &["bigint"]), "s", &["-", "7", "-", "-"]).await;
    let types = ["bigint", "double", "string"];
    check(
        &[],
        choose("make_cols", &types),
        "s_bigint s_double s_string",
        &["-|-|x", "7|-|-", "-|-|-", "-|1.5|-"],
    )
    .await;
    check(
        &[],
        choose("make_struct", &["double", "string"]),
        "s",
        &[
            "{double: , string: x}",
            "{double: 7.0, string: }",
            "{double: , string: }",
            "{double: 1.5, string: }",
        ],
    )
    .await;

    let nested = [(
        "u",
        "k int; p struct<x:int,q:struct<z:string>>; l array<int>",
        concat!(
            "{\"k\":1,\"p\":{\"x\":5,\"q\":{\"z\":\"w\"}},\"l\":[1,2]}",
            "{\"k\":2,\"l\":[]}{\"k\":3,\"p\":{},\"l\":[3]}"
        ),
    )];
    let over = |node: &str, mut members: Value| {
        members["node"] = json!(node);
        members["id"] = json!("x");
        members["input"] = json!("u");
        json!([members, {"node": "filter", "id": "some", "input": "t", "condition": "false"},
            {"node": "sql", "id": "out", "inputs": {"x": "x", "some": "some"}, "query": "SELECT * FROM x"}])
    };
    check(
        &nested,
        over("flatten", json!({"separator": "_"})),
        "k p_x p_q_z l",
        &["1|5|w|[1, 2]", "2|-|-|[]", "3|-|-|[3]"],
    )
    .await;
    let fields = json!({"column": "l", "keep_empty": true});
    check(
        &nested,
        over("explode", fields),
        "k p l",
        &["1|{x: 5, q: {z: w}}|1", "1|{x: 5, q: {z: w}}|2", "2|-|-", "3|{x: , q: }|3"],
    )
    .await;

    let pivot = json!({"group_by": ["d"], "column": "s", "values": ["x", "7"], "value": "n",
        "function": "sum"});
    check(&[], one("pivot", pivot), "d x 7", &["a|-|8", "b|6|-"]).await;
    let unpivot = json!([{"node": "unpivot", "id": "x", "input": "t", "columns": ["v", "n"]},
        {"node": "drop_fields", "id": "y", "input": "x", "fields": ["ts", "s"]},
        {"node": "limit", "id": "out", "input": "y", "rows": 3}]);
    check(&[], unpivot, "d name value", &["b|v|5.0", "b|n|1.0", "a|v|1.0"]).await;
    let split = |index: usize| {
        json!([{"node": "split_fields", "id": "x", "input": "t", "fields": ["n", "d"]},
            {"node": "select_from_collection", "id": "y", "input": "x", "index": index},
            {"node": "limit", "id": "out", "input": "y", "rows": 1}])
    };
    check(&[], split(0), "n d", &["1|b"]).await;
    check(&[], split(1), "ts v s", &["2026-11-01T00:20:00|5.0|x"]).await;

    refused(one("flatten", json!({"columns": ["d"]})), &["out", "\"d\"", "struct"]).await;
    refused(one("explode", json!({"column": "d"})), &["out", "\"d\"", "list"]).await;
    refused(one("explode", json!({"column": "no"})), &["out", "\"no\"", "d, ts, v, n, s"]).await;
    refused(one("unpivot", json!({"columns": ["v", "ts"]})), &["out", "ts"]).await;
    refused(
        one("pivot", json!({"group_by": ["d"], "column": "s", "values": [], "value": "n"})),
        &["values"],
    )
    .await;
    let bad = json!({"choices": [{"column": "s", "action": "cast", "types": ["int", "string"]}]});
    refused(one("resolve_choice", bad), &["\"s\"", "one type"]).await;
    refused(
        json!([{"node": "select_from_collection", "id": "out", "input": "t", "index": 0}]),
        &["split_fields"],
    )
    .await;
}

#[tokio::test]
async fn rows_of_two_nodes_are_joined_united_and_compared() {
    let names = (
        "m",
        "d string; n bigint; who string",
        r#"{"d":"a","n":2,"who":"Ada"}{"d":"c","n":9,"who":"Cy"}"#,
    );
    let join = |kind: &str| {
        json!([{"node": "join", "id": "x", "left": "t", "right": "m", "kind": kind,
            "on": [{"left": "d", "right": "d"}, {"left": "n", "right": "n"}]},
            {"node": "sql", "id": "out", "inputs": {"x": "x"}, "query": "SELECT * FROM x ORDER BY n, right_n"}])
    };
    check(
        &[names],
        join("inner"),
        "d ts v n s right_d right_n who",
        &["a|2026-11-01T00:10:00|1.0|2|7|a|2|Ada"],
    )
    .await;
    let anti = json!([{"node": "join", "id": "x", "left": "t", "right": "m", "kind": "left_anti",
        "on": [{"left": "d", "right": "d"}]},
        {"node": "select_fields", "id": "out", "input": "x", "fields": ["d", "n"]}]);
    check(&[names], anti, "d n", &["b|1", "b|5"]).await;
    let united = json!([{"node": "select_fields", "id": "x", "input": "t", "fields": ["n", "d"]},
        {"node": "filter", "id": "y", "input": "x", "condition": "n < 3"},
        {"node": "union", "id": "out", "inputs": ["y", "m"]}]);
    check(&[names], united, "n d who", &["1|b|-", "2|a|-", "2|a|Ada", "9|c|Cy"]).await;
    let distinct = json!([{"node": "select_fields", "id": "x", "input": "t", "fields": ["d"]},
        {"node": "select_fields", "id": "y", "input": "m", "fields": ["d"]},
        {"node": "union", "id": "out", "inputs": ["x", "y"], "distinct": true}]);
    check(&[names], distinct, "d", &["b", "a", "c"]).await;
    for (node, expect) in [("intersect", &["a"][..]), ("except", &["b"][..])] {
        let nodes = json!([{"node": "select_fields", "id": "x", "input": "t", "fields": ["d"]},
            {"node": "select_fields", "id": "y", "input": "m", "fields": ["d"]},
            {"node": node, "id": "out", "left": "x", "right": "y"}]);
        check(&[names], nodes, "d", expect).await;
    }
    let merged = json!([{"node": "select_fields", "id": "x", "input": "t", "fields": ["d", "n"]},
        {"node": "merge", "id": "out", "source": "x", "staging": "m", "keys": ["d"]}]);
    check(&[names], merged, "d n who", &["b|1|-", "b|5|-", "a|2|Ada", "c|9|Cy"]).await;

    let readings = (
        "w",
        "d string; ts timestamp; wind double",
        concat!(
            "{\"d\":\"a\",\"ts\":\"2026-11-01T00:00:00Z\",\"wind\":1}",
            "{\"d\":\"a\",\"ts\":\"2026-11-01T00:45:00Z\",\"wind\":2}",
            "{\"d\":\"b\",\"ts\":\"2026-11-01T00:30:00Z\",\"wind\":3}"
        ),
    );
    let asof = json!([{"node": "as_of_join", "id": "x", "left": "t", "right": "w", "by": ["d"],
        "time": "ts", "tolerance_seconds": 3600},
        {"node": "drop_fields", "id": "out", "input": "x", "fields": ["v", "s"]}]);
    check(
        &[readings],
        asof,
        "d ts n right_ts wind",
        &[
            "a|2026-11-01T00:10:00|2|2026-11-01T00:00:00|1.0",
            "a|2026-11-01T00:10:00|6|2026-11-01T00:00:00|1.0",
            "a|2026-11-01T00:50:00|4|2026-11-01T00:45:00|2.0",
            "a|2026-11-01T03:00:00|3|-|-",
            "b|2026-11-01T00:20:00|1|-|-",
            "b|2026-11-01T01:00:00|5|2026-11-01T00:30:00|3.0",
        ],
    )
    .await;

    let bad = json!([{"node": "limit", "id": "m", "input": "t", "rows": 1},
        {"node": "join", "id": "out", "left": "t", "right": "m", "kind": "inner",
        "on": [{"left": "d", "right": "nope"}]}]);
    refused(bad, &["out", "right", "nope", "d, ts"]).await;
    let twice = json!([{"node": "join", "id": "out", "left": "t", "right": "t", "kind": "inner",
        "on": [{"left": "d", "right": "d"}]}]);
    refused(twice, &["out", "both sides"]).await;
    let types = json!([{"node": "derive_columns", "id": "x", "input": "t",
        "columns": [{"name": "d", "expression": "ts"}]},
        {"node": "as_of_join", "id": "out", "left": "t", "right": "x", "by": ["d"], "time": "ts",
        "tolerance_seconds": 1}]);
    refused(types, &["out", "\"d\""]).await;
    let late = json!([{"node": "limit", "id": "x", "input": "t", "rows": 1},
        {"node": "as_of_join", "id": "out", "left": "t", "right": "x", "by": ["d"], "time": "s",
        "tolerance_seconds": 1}]);
    refused(late, &["out", "\"s\"", "timestamp"]).await;
}

#[tokio::test]
async fn series_are_resampled_filled_and_freed_of_doubles() {
    let resample = json!({"by": ["d"], "time": "ts", "freq": "1H", "aggregates": [
        {"column": "v", "function": "avg"}, {"column": "n", "function": "last", "to": "latest"},
        {"column": "s", "function": "first"}]});
    let hours = [
        "a|2026-11-01T00:00:00|2.0|4|7",
        "a|2026-11-01T03:00:00|4.0|3|-",
        "b|2026-11-01T00:00:00|5.0|1|x",
        "b|2026-11-01T01:00:00|-|5|x",
    ];
    check(&[], one("resample", resample.clone()), "d ts v latest s", &hours).await;
    let mut nodes = one("resample", resample);
    nodes[0]["id"] = json!("x");
    nodes.as_array_mut().unwrap().push(json!({"node": "fill_gaps", "id": "out", "input": "x",
        "by": ["d"], "time": "ts", "freq": "1H"}));
    check(
        &[],
        nodes,
        "d ts v latest s",
        &[
            hours[0],
            "a|2026-11-01T01:00:00|-|-|-",
            "a|2026-11-01T02:00:00|-|-|-",
            hours[1],
            hours[2],
            hours[3],
        ],
    )
    .await;
    for (keep, expect) in [("first", "1.0|2"), ("last", "2.0|6")] {
        let nodes = json!([{"node": "drop_duplicates_by_time", "id": "x", "input": "t",
            "by": ["d"], "time": "ts", "keep": keep},
            {"node": "select_fields", "id": "out", "input": "x", "fields": ["d", "v", "n"]}]);
        let first = format!("a|{expect}");
        let rest = ["a|3.0|4", "a|4.0|3", "b|5.0|1", "b|-|5"];
        let expect: Vec<&str> = [first.as_str()].into_iter().chain(rest).collect();
        check(&[], nodes, "d v n", &expect).await;
    }

    let fill = json!({"by": ["d"], "time": "ts", "freq": "1H"});
    refused(one("fill_gaps", fill), &["out", "00:10:00", "resample"]).await;
    let freq =
        json!({"time": "ts", "freq": "1m", "aggregates": [{"column": "v", "function": "avg"}]});
    refused(one("resample", freq), &["1m", "15min"]).await;
    let text =
        json!({"time": "ts", "freq": "1H", "aggregates": [{"column": "s", "function": "avg"}]});
    refused(one("resample", text), &["out", "\"s\"", "string"]).await;
    let late =
        json!({"time": "n", "freq": "1H", "aggregates": [{"column": "v", "function": "avg"}]});
    refused(one("resample", late), &["out", "\"n\"", "bigint", "timestamp"]).await;
    refused(
        one("drop_duplicates_by_time", json!({"by": ["x"], "time": "ts"})),
        &["\"x\"", "d, ts"],
    )
    .await;
}

#[tokio::test]
async fn suspect_values_are_marked_with_why() {
    let ranges = json!([{"node": "mark_range", "id": "x", "input": "t", "ranges": [
        {"column": "v", "min": 2.0, "unit": "ppb"}, {"column": "n", "max": 5}]},
        {"node": "drop_fields", "id": "out", "input": "x", "fields": ["d", "ts", "s"]}]);
    check(
        &[],
        ranges,
        "v n out_of_range out_of_range_reason",
        &[
            "5.0|1|false|-",
            "1.0|2|true|v 1 ppb is below 2 ppb",
            "4.0|3|false|-",
            "3.0|4|false|-",
            "-|5|false|-",
            "2.0|6|true|n 6 is above 5",
        ],
    )
    .await;
    // Against a spike in one device; the other's values are far off and never its neighbours.
    let readings: String = (0..40)
        .map(|n| {
            let v = if n == 20 { 90.0 } else { f64::from(n % 3) };
            format!(
                "{{\"d\":\"a\",\"m\":{n},\"v\":{v}}}\n{{\"d\":\"b\",\"m\":{n},\"v\":{}}}\n",
                1000 + n % 4
            )
        })
        .collect();
    let table = [("t", "d string; m int; v double", readings.as_str())];
    for method in ["hampel", "iqr"] {
        let nodes = json!([{"node": "derive_columns", "id": "x", "input": "t", "columns": [
                {"name": "ts", "expression": "to_timestamp_millis(m * 60000)"}]},
            {"node": "mark_outliers", "id": "y", "input": "x", "by": ["d"], "time": "ts",
                "column": "v", "method": method, "window": 7},
            {"node": "sql", "id": "out", "inputs": {"y": "y"},
                "query": "SELECT d, m, v, outlier_reason FROM y WHERE outlier"}]);
        let (_, found) = rows(&table, nodes).await.unwrap();
        assert_eq!(found.len(), 1, "{method}: {found:?}");
        assert!(found[0].starts_with("a|20|90.0|v 90 is "), "{method}: {found:?}");
    }
    let mark = json!({"time": "ts", "column": "v", "method": "hampel", "window": 4});
    refused(one("mark_outliers", mark), &["out", "window", "odd"]).await;
    let mark = json!({"time": "ts", "column": "d", "method": "iqr", "window": 5});
    refused(one("mark_outliers", mark), &["out", "\"d\"", "number"]).await;
    let range = json!({"ranges": [{"column": "v", "min": 3, "max": 2}]});
    refused(one("mark_range", range), &["out", "\"v\"", "above max"]).await;
    let range = json!({"ranges": [{"column": "v", "min": 3}], "mark": "d"});
    refused(one("mark_range", range), &["out", "\"d\"", "already"]).await;
}

#[tokio::test]
async fn quality_is_judged_by_dqdl() {
    let rules = "Rules = [ RowCount = 6, ColumnCount = 5, IsComplete \"d\", IsComplete \"v\", \
        IsUnique \"n\", Uniqueness \"d\" > 0.5, ColumnValues \"n\" between 0 and 6, \
        ColumnValues \"d\" in [\"a\", \"b\"], ColumnValues \"s\" matches \"[0-9.x]+\", \
        Completeness \"v\" > 0.8, Mean \"v\" = 3, ColumnExists \"zz\" ]";
    let results = json!([{"node": "evaluate_data_quality", "id": "x", "input": "t", "ruleset": rules,
        "output": "results"},
        {"node": "select_fields", "id": "out", "input": "x", "fields": ["Rule", "Outcome"]}]);
    check(
        &[],
        results,
        "Rule Outcome",
        &[
            "RowCount = 6|Passed",
            "ColumnCount = 5|Passed",
            "IsComplete \"d\"|Passed",
            "IsComplete \"v\"|Failed",
            "IsUnique \"n\"|Passed",
            "Uniqueness \"d\" > 0.5|Failed",
            "ColumnValues \"n\" between 0 and 6|Failed",
            "ColumnValues \"d\" in [ \"a\" , \"b\" ]|Passed",
            "ColumnValues \"s\" matches \"[0-9.x]+\"|Passed",
            "Completeness \"v\" > 0.8|Passed",
            "Mean \"v\" = 3|Passed",
            "ColumnExists \"zz\"|Failed",
        ],
    )
    .await;
    let stop = |rules: &str| json!({"ruleset": rules, "stop": true});
    refused(
        one("evaluate_data_quality", stop("Rules = [ RowCount > 100 ]")),
        &["out", "RowCount > 100", "it is 6", "nothing is written"],
    )
    .await;
    for (rules, says) in [
        ("RowCount > 1", "Rules ="),
        ("Rules = [ Freshness \"ts\" < 1 ]", "Freshness"),
        ("Rules = [ IsComplete d ]", "quotes"),
        ("Rules = [ RowCount > 1 and RowCount < 2 ]", "commas"),
        ("Rules = [ RowCount > \"x\" ]", "not a number"),
        ("Rules = [ IsComplete \"zz\" ]", "d, ts, v"),
    ] {
        refused(one("evaluate_data_quality", stop(rules)), &["out", says]).await;
    }
}
