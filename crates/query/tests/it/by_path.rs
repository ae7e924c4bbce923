//! Sources that name a path instead of a table, and rows that are let out on their way.

use std::io::Read;

use base::ErrorKind;
use lake::{Cause, Job, QueryEngine};
use serde_json::{Value, json};

use crate::world::{World, gzip};

fn job(name: &str, at: Value, more: Value, bookmark: bool) -> Job {
    let mut nodes = vec![json!({"node": "objects", "id": "in", "at": at})];
    nodes.extend(more.as_array().unwrap().clone());
    let last = nodes.last().unwrap()["id"].clone();
    nodes.push(json!({"node": "target", "id": "target", "input": last, "bucket": "bkt",
        "prefix": "curated/", "database": "air", "table": "curated"}));
    let job = json!({"name": name, "nodes": nodes, "bookmark": bookmark});
    serde_json::from_value(job).unwrap()
}

fn at(more: Value) -> Value {
    let mut at = json!({"bucket": "bkt", "prefix": "in/", "format": "json"});
    at.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    at
}

/// What a preview of the source shows: its columns, and its rows.
async fn shown(world: &World, at: &Value) -> base::Result<(String, Vec<String>)> {
    let job = job("job", at.clone(), json!([]), true);
    let spec = world.lake.plan_preview(&job).await?;
    let answer = world.engine.preview(&spec, "in", 50).await?;
    let names: Vec<&str> = answer.schema.fields().iter().map(|f| f.name().as_str()).collect();
    Ok((names.join(" "), crate::world::shown(&answer.batches)))
}

#[tokio::test]
async fn objects_below_a_path_are_read_without_a_table() {
    let world = World::new();
    world.put("in/a.json", "{\"a\":1,\"b\":\"x\"}\n").await;
    world.put("in/day=2/b.json.gz", gzip("{\"a\":2.5}\n")).await;
    world.put("in/_hidden.json", "{\"z\":1}\n").await;
    world.put("in/skip.tmp", "{\"z\":1}\n").await;
    world.put("int/c.json", "{\"z\":1}\n").await;
    world.put("documents/d.json", "{\"list\":[{\"a\":1},{\"a\":2}]}").await;
    world.put("text/e.csv", "a;b\n1;'x;y'\n2;z\n").await;
    world.put("text/f.csv", "a;b\n3;w\n").await;
    world.put("plain/g.csv", "1,x\n2,y\n").await;
    world.put("dated/2026/11/h.json", "{\"a\":7}\n").await;
    let csv = json!({"prefix": "text/", "format": "csv", "delimiter": ";", "quote": "'",
        "header": true});
    for (given, columns, rows) in [
        // A number becomes wide enough for all, and a folder gives a column.
        (json!({"exclusions": ["*.tmp"]}), "a b day", "1.0|x|- 2.5|-|2"),
        (json!({"exclusions": ["*.tmp"], "recurse": false}), "a b", "1|x"),
        (json!({"prefix": "in", "exclusions": ["*.tmp", "day*/**"]}), "a b", "1|x"),
        (json!({"prefix": "in/a.json"}), "a b", "1|x"),
        (json!({"prefix": "documents/", "records": "$.list[*]"}), "a", "1 2"),
        (csv.clone(), "a b", "1|x;y 2|z 3|w"),
        (json!({"prefix": "plain/", "format": "csv", "header": false}), "col0 col1", "1|x 2|y"),
        // Folders that do not say what they are called give none.
        (json!({"prefix": "dated/"}), "a", "7"),
    ] {
        let found = shown(&world, &at(given.clone())).await.unwrap();
        assert_eq!((found.0.as_str(), found.1.join(" ")), (columns, rows.to_owned()), "{given}");
    }
    // One that is no JSON is found out.
    let error = shown(&world, &at(json!({"prefix": "text/"}))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    let told = error.to_string();
    assert!(told.contains("s3://bkt/text/") && told.contains("json"), "{told}");
}

#[tokio::test]
async fn parquet_below_a_path_is_read_with_its_own_columns() {
    let world = World::new();
    world.put("in/a.json", "{\"a\":1,\"b\":\"x\"}\n{\"a\":2}\n").await;
    world.run(&job("make", at(json!({})), json!([]), false)).await;
    let found = shown(&world, &at(json!({"prefix": "curated/", "format": "parquet"}))).await;
    assert_eq!(found.unwrap(), ("a b".to_owned(), vec!["1|x".to_owned(), "2|-".to_owned()]));
}

#[tokio::test]
async fn an_object_below_a_path_is_read_once() {
    let world = World::new();
    let job = job("job", at(json!({})), json!([]), true);
    world.lake.create_job(&job).unwrap();
    // Nothing there is nothing new.
    assert!(!world.lake.has_new_data("job").await.unwrap());
    assert!(world.run(&job).await.1.is_none());
    world.put("in/a.json", "{\"a\":1}\n").await;
    assert!(world.lake.has_new_data("job").await.unwrap());
    assert_eq!(world.run(&job).await.0.rows_in, 1);
    assert!(!world.lake.has_new_data("job").await.unwrap());
    // Only the new one is read, and its column is known beside those of the other.
    world.put("in/b.json", "{\"a\":2,\"c\":true}\n").await;
    let (run, _) = world.run(&job).await;
    assert_eq!((run.rows_in, run.files_in), (1, 1));
    world.put("in/a.json", "{\"a\":10}\n").await;
    assert_eq!(world.run(&job).await.0.rows_in, 1);
    let rows = world.rows("SELECT a, c FROM curated ORDER BY a").await;
    assert_eq!(rows, ["1|-", "2|true", "10|-"]);
    // What cannot be read is set aside, as from a table.
    world.put("in/c.json", "{\"a\":4}\nnonsense\n").await;
    world.put("in/d.json", "no,json\nat,all\n").await;
    let (run, _) = world.run(&job).await;
    assert_eq!((run.rows_in, run.set_aside), (1, 3));
}

#[tokio::test]
async fn a_crawlers_table_is_not_disturbed_by_who_reads_its_objects_otherwise() {
    let world = World::new();
    world.put("raw/readings/a.csv", "a,b;c\n1,2;3\n").await;
    world.crawl().await;
    let before = world.rows("SELECT * FROM readings").await;
    let given = json!({"prefix": "raw/readings/", "format": "csv", "delimiter": ";",
        "header": true});
    let found = shown(&world, &at(given)).await.unwrap();
    assert_eq!(found, ("a,b c".to_owned(), vec!["1,2|3".to_owned()]));
    assert_eq!(world.rows("SELECT * FROM readings").await, before);
    world.crawl().await;
    assert_eq!(world.rows("SELECT * FROM readings").await, before);
}

#[tokio::test]
async fn a_job_does_not_read_what_it_writes() {
    let world = World::new();
    world.put("in/a.json", "{\"a\":1}\n").await;
    let spigot = |prefix: &str| {
        json!([{"node": "spigot", "id": "some", "input": "in", "bucket": "bkt",
            "prefix": prefix, "rows": 1}])
    };
    for (name, job, part) in [
        ("a", job("a", at(json!({"prefix": "curated/"})), json!([]), true), "curated/"),
        ("b", job("b", at(json!({})), spigot("in/samples/"), true), "in/samples/"),
        ("c", job("c", at(json!({})), spigot("curated/samples/"), true), "spigot"),
    ] {
        world.lake.create_job(&job).unwrap();
        let error = world.lake.start_run_for(name, &Default::default(), &Cause::Asked).await;
        let error = error.unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.to_string().contains(part), "{error}");
    }
}

async fn sample(world: &World, key: &str) -> Option<String> {
    world.lake.buckets().head("bkt", key).await.ok()?;
    let path = world.lake.buckets().readable_path("bkt", key).unwrap();
    let mut text = String::new();
    std::fs::File::open(path).unwrap().read_to_string(&mut text).unwrap();
    Some(text)
}

#[tokio::test]
async fn a_spigot_lets_rows_out_and_hands_all_on() {
    let world = World::new();
    let rows: String = (0..5000).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    world.put("in/a.json", rows).await;
    let spigot = |more: Value| {
        let mut node = json!({"node": "spigot", "id": "a few", "input": "in", "bucket": "bkt",
            "prefix": "samples/"});
        node.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        // Its rows are read twice: to find the columns without a value, and to write them.
        json!([node, {"node": "drop_null_fields", "id": "full", "input": "a few"}])
    };
    let mut sizes = Vec::new();
    for (name, more) in [
        ("first", json!({"rows": 3})),
        ("share", json!({"fraction": 0.1})),
        ("again", json!({"fraction": 0.1})),
        ("both", json!({"fraction": 0.1, "rows": 2})),
        ("all", json!({"fraction": 1.0})),
    ] {
        let (run, result) = world.run(&job(name, at(json!({})), spigot(more), false)).await;
        assert_eq!(result.unwrap().rows_out, 5000, "{name}");
        let key = format!("samples/a few-{}.jsonl", run.run_id);
        sizes.push(sample(&world, &key).await.unwrap_or_else(|| panic!("no {key}")));
    }
    assert_eq!(sizes[0], "{\"n\":0}\n{\"n\":1}\n{\"n\":2}\n");
    let count = |at: usize| sizes[at].lines().count();
    assert!((400..600).contains(&count(1)), "{}", count(1));
    assert_eq!(sizes[1], sizes[2], "another sample of the same rows");
    let both: Vec<&str> = sizes[1].lines().take(2).collect();
    assert_eq!(sizes[3].lines().collect::<Vec<_>>(), both);
    assert_eq!(count(4), 5000);
    // A preview and a run that fails leave nothing there.
    let listed = || async { world.lake.buckets().list("bkt", "samples/").await.unwrap().len() };
    assert_eq!(listed().await, 5);
    let last = job("all", at(json!({})), spigot(json!({"rows": 1})), false);
    let spec = world.lake.plan_preview(&last).await.unwrap();
    assert_eq!(world.engine.preview(&spec, "full", 5).await.unwrap().batches[0].num_rows(), 5);
    let planned = world.lake.start_run("all", &Default::default()).await.unwrap();
    let spec = planned.spec.unwrap();
    world.engine.etl(&spec).await.unwrap();
    world.lake.fail_run("all", &spec.run_id, "it was stopped").unwrap();
    assert_eq!(listed().await, 5);
}
