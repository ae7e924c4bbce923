//! Which graphs may be stored, as data.

use base::ErrorKind;
use lake::Job;
use serde_json::{Value, json};

use crate::world::World;

fn parse(nodes: Value) -> Result<Job, serde_json::Error> {
    serde_json::from_value(json!({ "name": "j", "nodes": nodes, "bookmark": true }))
}

fn source(id: &str) -> Value {
    json!({ "node": "source", "id": id, "database": "air", "table": "raw" })
}

fn target(id: &str, input: &str) -> Value {
    json!({
        "node": "target", "id": id, "input": input, "bucket": "bkt", "prefix": "curated/",
        "compression": "zstd", "database": "air", "table": "curated"
    })
}

fn select(id: &str, input: &str) -> Value {
    json!({ "node": "select_fields", "id": id, "input": input, "fields": ["n"] })
}

#[test]
fn nodes_come_in_the_order_rows_flow() {
    let job = parse(json!([
        target("t", "q"),
        { "node": "sql", "id": "q", "inputs": { "a": "s", "b": "x" }, "query": "SELECT 1" },
        select("x", "s"),
        source("s"),
    ]))
    .unwrap();
    let ids: Vec<&str> = job.check().unwrap().iter().map(|node| node.id()).collect();
    assert_eq!(ids, ["s", "x", "q", "t"]);
    let again: Job = serde_json::from_str(&serde_json::to_string(&job).unwrap()).unwrap();
    assert_eq!(again, job);
}

#[test]
fn a_graph_that_cannot_run_is_refused_with_the_reason() {
    let mapping = |to: &str, to_type: &str| {
        json!([{ "node": "apply_mapping", "id": "m", "input": "s", "mappings": [
            { "from": "n", "from_type": "int", "to": to, "to_type": to_type },
            { "from": "o", "from_type": "int", "to": "o", "to_type": "int" },
        ]}, source("s"), target("t", "m")])
    };
    let prefix = |prefix: &str| {
        let mut target = target("t", "s");
        target["prefix"] = json!(prefix);
        json!([source("s"), target])
    };
    let cases = [
        (json!([source("s")]), "has no target"),
        (json!([target("t", "s")]), "takes rows from \"s\", which is no node"),
        (json!([source("s"), source("s"), target("t", "s")]), "two nodes have the id \"s\""),
        (json!([source("s"), target("t", "s"), source("u")]), "rows of node \"u\" go nowhere"),
        (json!([source("s"), target("t", "s"), target("u", "s")]), "2 targets"),
        (json!([source("s"), target("t", "s"), select("x", "t")]), "a target has none"),
        (
            json!([select("a", "b"), select("b", "a"), target("t", "a")]),
            "[\"a\", \"b\", \"t\"] take rows in a circle",
        ),
        (json!([select("a", "a"), target("t", "a")]), "in a circle"),
        (mapping("o", "int"), "mappings: \"o\" is named twice"),
        (mapping("p", "integer!"), "not a Hive type"),
        (prefix(""), "must name a folder"),
        (prefix("/"), "must name a folder"),
        (prefix("/a/"), "must name a folder"),
        (prefix("a"), "must name a folder"),
        (prefix("a/_b/"), "hidden"),
        (
            json!([{ "node": "sql", "id": "q", "inputs": {}, "query": "SELECT 1" }, target("t", "q")]),
            "no input",
        ),
        (
            json!([{ "node": "source", "id": "a/b", "database": "d", "table": "t" }]),
            "not a node id",
        ),
    ];
    let world = World::new();
    for (nodes, expected) in cases {
        let refused = world.lake.create_job(&parse(nodes).unwrap()).unwrap_err();
        assert!(refused.to_string().contains(expected), "{refused} should say {expected}");
        assert!(matches!(refused.kind(), ErrorKind::Invalid | ErrorKind::Unsupported), "{refused}");
    }
    assert!(world.lake.list_jobs().unwrap().is_empty());
}

#[test]
fn an_unknown_node_or_field_is_no_graph() {
    assert!(parse(json!([{ "node": "teleport", "id": "x" }])).is_err());
    let mut odd = source("s");
    odd["predicate"] = json!("n > 1");
    assert!(parse(json!([odd])).unwrap_err().to_string().contains("predicate"));
}

#[test]
fn job_names_are_checked_and_taken_once() {
    let world = World::new();
    let job = crate::world::job();
    world.lake.create_job(&job).unwrap();
    assert_eq!(world.lake.create_job(&job).unwrap_err().kind(), ErrorKind::AlreadyExists);
    for name in ["", "a/b", "../x", "a\nb", ".a", &"x".repeat(256)] {
        let refused = world.lake.create_job(&Job { name: name.into(), ..job.clone() });
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid, "{name:?}");
    }
    world.lake.delete_job("j").unwrap();
    assert_eq!(world.lake.get_job("j").unwrap_err().kind(), ErrorKind::NotFound);
}
