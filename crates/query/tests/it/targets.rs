//! What targets and exports write, read back from the committed objects.

use std::io::Read;

use lake::{EtlResult, Format, Job, JobRun, Node};
use serde_json::{Value, json};

use crate::world::World;

const READINGS: &str = concat!(
    "{\"d\":\"b\",\"ts\":\"2026-11-01T01:00:00Z\",\"v\":5.5,\"n\":1,\"ok\":true}\n",
    "{\"d\":\"a\",\"ts\":\"2026-11-01T00:00:00Z\",\"v\":1.25,\"n\":2,\"ok\":false}\n",
    "{\"d\":\"a\",\"ts\":\"2026-11-01T03:00:00Z\",\"n\":3,\"ok\":true}\n",
    "{\"d\":\"a\",\"ts\":\"2026-11-01T02:00:00Z\",\"v\":3.0,\"n\":4}\n",
);

async fn world() -> World {
    let world = World::new();
    world.declare("t", Format::Json, "d string; ts timestamp; v double; n bigint; ok boolean", "");
    world.put("raw/t/x", READINGS).await;
    world
}

fn job(nodes: Value) -> Job {
    let mut all = vec![json!({"node": "source", "id": "t", "database": "air", "table": "t"})];
    all.extend(nodes.as_array().unwrap().clone());
    serde_json::from_value(json!({"name": "job", "nodes": all, "bookmark": false})).unwrap()
}

async fn run(world: &World, nodes: Value) -> (JobRun, EtlResult) {
    let (run, result) = world.run(&job(nodes)).await;
    (run, result.unwrap())
}

/// The objects of the table `out` as `(key after the prefix, text)`.
async fn objects(world: &World) -> Vec<(String, String)> {
    let table = world.lake.catalog().get_table("air", "out").unwrap();
    let mut objects = Vec::new();
    for file in world.lake.files(&table).await.unwrap() {
        let bytes = std::fs::File::open(&file.path).unwrap();
        let mut text = String::new();
        formats::decode(bytes).unwrap().read_to_string(&mut text).unwrap();
        objects.push((file.key["out/".len()..].to_owned(), text));
    }
    objects
}

fn target(mut more: Value) -> Value {
    for (member, value) in [
        ("id", "target"),
        ("input", "t"),
        ("bucket", "bkt"),
        ("prefix", "out/"),
        ("database", "air"),
        ("table", "out"),
    ] {
        if more.get(member).is_none() {
            more[member] = json!(value);
        }
    }
    more
}

#[tokio::test]
async fn a_target_writes_json_lines_and_csv_with_folders() {
    for (format, compression, ending) in
        [("json", "gzip", ".jsonl.gz"), ("json", "none", ".jsonl"), ("csv", "zstd", ".csv.zst")]
    {
        let world = world().await;
        let node = json!({"node": "target", "format": format, "compression": compression,
            "partition_keys": ["d"]});
        let (run, result) = run(&world, json!([target(node)])).await;
        assert_eq!((run.rows_out, result.rows_out), (4, 4));
        let objects = objects(&world).await;
        assert_eq!(objects.len(), 2);
        let (key, text) = &objects[0];
        assert!(key.starts_with("d=a/part-") && key.ends_with(ending), "{key}");
        let expect = match format {
            "json" => concat!(
                "{\"ts\":\"2026-11-01T00:00:00\",\"v\":1.25,\"n\":2,\"ok\":false}\n",
                "{\"ts\":\"2026-11-01T03:00:00\",\"n\":3,\"ok\":true}\n",
                "{\"ts\":\"2026-11-01T02:00:00\",\"v\":3.0,\"n\":4}\n",
            ),
            _ => concat!(
                "ts,v,n,ok\n",
                "2026-11-01T00:00:00,1.25,2,false\n",
                "2026-11-01T03:00:00,,3,true\n",
                "2026-11-01T02:00:00,3.0,4,\n",
            ),
        };
        assert_eq!(text, expect, "{format}");
        if format == "json" {
            let sql = "SELECT d, ts, v, n, ok FROM out ORDER BY n";
            let rows = world.rows(sql).await;
            assert_eq!(rows[1], "a|2026-11-01T00:00:00|1.25|2|false");
        }
        let table = world.lake.catalog().get_table("air", "out").unwrap();
        assert_eq!(table.parameters["classification"], format);
    }
}

#[tokio::test]
async fn series_are_exported_for_deepar_and_each_export_stays() {
    let world = world().await;
    let nodes = |more: Value| {
        let mut node = target(json!({"node": "export_deepar", "by": ["d"], "time": "ts",
            "freq": "1H", "target": "v", "cat": ["d"], "dynamic_feat": ["h"],
            "prediction_length": 2, "input": "hours"}));
        node.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!([
            {"node": "fill_gaps", "id": "full", "input": "t", "by": ["d"], "time": "ts", "freq": "1H"},
            {"node": "derive_columns", "id": "hours", "input": "full", "columns": [
                {"name": "h", "expression": "date_part('hour', ts)"},
                {"name": "one", "expression": "'x'"}]},
            node])
    };
    let (first, result) = run(&world, nodes(json!({}))).await;
    assert_eq!(result.rows_out, 3, "b is too short to teach anything");
    let objects_of = |run: &JobRun| {
        let folder = format!("export={}/", run.run_id);
        let world = &world;
        async move {
            let all = objects(world).await.into_iter();
            let own =
                all.filter_map(|(key, text)| Some((key.strip_prefix(&folder)?.to_owned(), text)));
            own.collect::<Vec<_>>()
        }
    };
    let a = |target: &str, hours: &str| {
        format!(
            "{{\"item_id\":\"a\",\"start\":\"2026-11-01 00:00:00\",\"target\":[{target}],\
             \"cat\":[0],\"cat_names\":[\"a\"],\"dynamic_feat\":[[{hours}]]}}\n"
        )
    };
    let b = "{\"item_id\":\"b\",\"start\":\"2026-11-01 01:00:00\",\"target\":[5.5],\
             \"cat\":[1],\"cat_names\":[\"b\"],\"dynamic_feat\":[[1.0]]}\n";
    let made = objects_of(&first).await;
    assert!(made[0].0.starts_with("channel=test/part-") && made[0].0.ends_with(".jsonl"));
    assert_eq!(made[0].1, a("1.25,null,3.0,null", "0.0,1.0,2.0,3.0") + b);
    assert_eq!(made[1].1, a("1.25,null", "0.0,1.0"));
    // Our own reader of DeepAR's format takes it.
    let read = forecast::jsonl::read(made[0].1.as_bytes(), forecast::Frequency::HOURLY).unwrap();
    assert_eq!(read.series[0].observed(), 2);

    let (second, _) = run(&world, nodes(json!({}))).await;
    assert_eq!(objects_of(&first).await, made, "an export is never added to");
    assert_eq!(objects_of(&second).await.len(), 2);
    let sql = format!(
        "SELECT item_id, target FROM out WHERE channel = 'train' AND export = '{}'",
        first.run_id
    );
    assert_eq!(world.rows(&sql).await, ["a|[1.25, ]"]);

    for (bad, says) in [
        (json!({"cat": ["n"]}), vec!["\"n\"", "null"]),
        (json!({"cat": ["h"]}), vec!["\"h\"", "same in the whole series"]),
        (json!({"dynamic_feat": ["v"]}), vec!["series \"a\"", "\"v\"", "01:00"]),
        (json!({"target": "d"}), vec!["\"d\"", "number"]),
        (json!({"freq": "1D"}), vec!["01:00:00", "resample"]),
        (json!({"by": ["one"], "cat": []}), vec!["2026-11-01 01:00:00", "drop duplicates"]),
        (json!({"target": "w"}), vec!["target", "\"w\"", "d, ts, v"]),
    ] {
        let planned = world.lake.plan_preview(&job(nodes(bad.clone()))).await.unwrap();
        let staging = tempfile::tempdir().unwrap();
        let spec = lake::EtlSpec { staging: staging.path().to_owned(), ..planned };
        let error = query::run_etl(&spec).await.unwrap_err().to_string();
        let named = says.iter().all(|word| error.contains(word));
        assert!(named, "{bad}: {error} lacks one of {says:?}");
    }
}

#[tokio::test]
async fn csv_for_sagemaker_has_the_target_first_and_no_header() {
    let world = world().await;
    let node = target(json!({"node": "export_csv", "target": "v", "features": ["n", "ok"]}));
    let (run, _) = run(&world, json!([node])).await;
    let objects = objects(&world).await;
    assert_eq!(objects.len(), 1);
    assert!(objects[0].0.starts_with(&format!("export={}/part-", run.run_id)));
    assert_eq!(objects[0].1, "5.5,1,1\n1.25,2,0\n,3,1\n3.0,4,\n");
    let text = target(json!({"node": "export_csv", "target": "v", "features": ["d"]}));
    let spec = world.lake.plan_preview(&job(json!([text]))).await.unwrap();
    let staging = tempfile::tempdir().unwrap();
    let spec = lake::EtlSpec { staging: staging.path().to_owned(), ..spec };
    let error = query::run_etl(&spec).await.unwrap_err().to_string();
    assert!(error.contains("\"d\"") && error.contains("numbers only"), "{error}");
}

#[tokio::test]
async fn rows_that_break_a_rule_are_quarantined_with_why_and_counted() {
    let world = world().await;
    let nodes = json!([
        {"node": "quarantine", "id": "good", "input": "t", "rules": [
            {"condition": "v < 5", "reason": "it's too much ozone"},
            {"condition": "n <> 4"}]},
        // Reads its input twice; a row is set aside once all the same.
        {"node": "drop_null_fields", "id": "full", "input": "good"},
        target(json!({"node": "target", "input": "full", "compression": "zstd"}))]);
    let (run, result) = run(&world, nodes).await;
    assert_eq!((run.rows_in, run.rows_out, run.set_aside), (4, 1, 3));
    assert_eq!(result.set_aside_count, 3);
    let key = run.set_aside_key.unwrap();
    assert_eq!(key, format!("errors/job/{}.jsonl", run.run_id));
    let text = std::fs::read_to_string(world.lake.buckets().local_path("bkt", &key).unwrap());
    let lines: Vec<Value> =
        text.unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shown: Vec<String> = lines
        .iter()
        .map(|line| format!("{} {} {}", line["key"], line["position"], line["reason"]))
        .collect();
    assert_eq!(
        shown,
        [
            "\"good\" 0 \"node \\\"good\\\": it's too much ozone\"",
            "\"good\" 2 \"node \\\"good\\\": it's too much ozone\"",
            "\"good\" 3 \"node \\\"good\\\": n <> 4\"",
        ]
    );
    // {"d":"b",...
    assert!(lines[0]["rawData"].as_str().unwrap().starts_with("eyJkIjoiYiIs"));
}

#[tokio::test]
async fn a_source_says_which_object_a_row_comes_from() {
    let world = world().await;
    world.put("raw/t/y", "{\"d\":\"c\",\"n\":9,\"_log_offset\":4}").await;
    let nodes = |id: &str| {
        json!([
        {"node": "source", "id": id, "database": "air", "table": "t", "lineage": true},
        {"node": "filter", "id": "some", "input": id, "condition": "n IN (2, 9)"},
        {"node": "union", "id": "both", "inputs": ["t", "some"]},
        {"node": "filter", "id": "out", "input": "both", "condition": "_object IS NOT NULL"},
        target(json!({"node": "target", "input": "out", "compression": "zstd"}))])
    };
    let spec = world.lake.plan_preview(&job(nodes("named"))).await.unwrap();
    let answer = world.engine.preview(&spec, "out", 50).await.unwrap();
    let rows = crate::world::shown(&answer.batches);
    assert!(
        rows[0].ends_with("|s3://bkt/raw/t/x") && rows[1].ends_with("|s3://bkt/raw/t/y"),
        "{rows:?}"
    );
    assert_eq!(rows.len(), 2);
}

#[tokio::test]
async fn a_preview_of_a_large_table_reads_only_its_beginning() {
    let world = World::new();
    world.declare("t", Format::Json, "n int; v double", "");
    let lines: String = (0..20_000).map(|n| format!("{{\"n\":{n},\"v\":{n}.5}}\n")).collect();
    for file in 0..40 {
        world.put(&format!("raw/t/{file:03}"), lines.clone()).await;
    }
    let all = 40 * lines.len() as u64;
    let nodes = json!([
        {"node": "filter", "id": "some", "input": "t", "condition": "n % 3 = 0"},
        {"node": "aggregate", "id": "sum", "input": "some", "aggregates": [
            {"column": "n", "function": "count", "to": "rows"}]},
        target(json!({"node": "target", "input": "sum", "compression": "zstd"}))]);
    let job = job(nodes);
    for (node, rows) in [("t", 50), ("some", 50), ("sum", 1), ("target", 1)] {
        let spec = world.lake.plan_preview(&job).await.unwrap();
        let answer = world.engine.preview(&spec, node, 50).await.unwrap();
        let found: usize = answer.batches.iter().map(|batch| batch.num_rows()).sum();
        assert_eq!(found, rows, "{node}");
        assert!(answer.bytes_scanned < all / 10, "{node} read {} of {all}", answer.bytes_scanned);
    }
    let spec = world.lake.plan_preview(&job).await.unwrap();
    let sum = world.engine.preview(&spec, "sum", 50).await.unwrap();
    assert_eq!(crate::world::shown(&sum.batches), ["3334"], "of the first 10,000 rows");
    let missing = world.engine.preview(&spec, "x", 50).await.unwrap_err();
    assert_eq!(missing.kind(), base::ErrorKind::NotFound);
    assert!(missing.to_string().contains("t, some, sum, target"), "{missing}");
    assert!(matches!(job.nodes[0], Node::Source { .. }));
}
