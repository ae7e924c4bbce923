//! Glue's nodes as the lake's, one by one.

use serde_json::json;

use super::*;

fn find(database: &str, table: &str) -> base::Result<Table> {
    match table {
        "lines" => Ok(Table::new((database, table), ("lake", "lines/"), Format::Json)),
        other => Err(base::Error::not_found(format!("there is no table {other:?}"))),
    }
}

fn read(kind: &str, mut body: Value) -> Result<Node, Fault> {
    body["Name"] = json!("n");
    let given = BTreeMap::from([("n".to_owned(), json!({kind: body}))]);
    nodes(&given, &find).map(|mut nodes| nodes.remove(0))
}

#[test]
fn nodes_of_glue_studio_are_the_lakes() {
    for (kind, body, expect) in [
        (
            "Filter",
            json!({"Inputs": ["a"], "LogicalOperator": "AND", "Filters": [
                {"Operation": "GT", "Values": [
                    {"Type": "COLUMNEXTRACTED", "Value": ["v"]},
                    {"Type": "CONSTANT", "Value": ["3"]}]}]}),
            json!({"node": "filter", "input": "a", "condition": "(\"v\" > 3)"}),
        ),
        (
            "Join",
            json!({"Inputs": ["a", "b"], "JoinType": "outer", "Columns": [
                {"From": "b", "Keys": [["k"], ["m"]]}, {"From": "a", "Keys": [["x"], ["y"]]}]}),
            json!({"node": "join", "left": "a", "right": "b", "kind": "full", "on": [
                {"left": "x", "right": "k"}, {"left": "y", "right": "m"}]}),
        ),
        (
            "Union",
            json!({"Inputs": ["a", "b"], "UnionType": "DISTINCT"}),
            json!({"node": "union", "inputs": ["a", "b"], "distinct": true}),
        ),
        (
            "SplitFields",
            json!({"Inputs": ["a"], "Paths": [["x"]]}),
            json!({"node": "split_fields", "input": "a", "fields": ["x"]}),
        ),
        (
            "SelectFromCollection",
            json!({"Inputs": ["a"], "Index": 1}),
            json!({"node": "select_from_collection", "input": "a", "index": 1}),
        ),
        (
            "Merge",
            json!({"Inputs": ["new", "old"], "Source": "old", "PrimaryKeys": [["id"]]}),
            json!({"node": "merge", "source": "old", "staging": "new", "keys": ["id"]}),
        ),
        (
            "Aggregate",
            json!({"Inputs": ["a"], "Groups": [["g"]], "Aggs": [
                {"Column": ["v"], "AggFunc": "countDistinct"}]}),
            json!({"node": "aggregate", "input": "a", "group_by": ["g"], "aggregates": [
                {"column": "v", "function": "count_distinct", "to": "countDistinct(v)"}]}),
        ),
        (
            "EvaluateDataQuality",
            json!({"Inputs": ["a"], "Ruleset": "Rules = [ RowCount > 0 ]",
                "Output": "EvaluationResults",
                "StopJobOnFailureOptions": {"StopJobOnFailureTiming": "Immediate"}}),
            json!({"node": "evaluate_data_quality", "input": "a", "stop": true,
                "ruleset": "Rules = [ RowCount > 0 ]", "output": "results"}),
        ),
        (
            "S3CsvSource",
            json!({"Paths": ["s3://lake/in"], "Separator": "semicolon", "QuoteChar": "disabled",
                "WithHeader": true, "WriteHeader": true, "Exclusions": ["**.tmp"],
                "GroupFiles": "none", "Recurse": false, "OptimizePerformance": true,
                "OutputSchemas": [{"Columns": [{"Name": "a", "Type": "string"}]}]}),
            json!({"node": "objects", "lineage": false, "at": {"bucket": "lake", "prefix": "in",
                "format": "csv", "exclusions": ["**.tmp"], "recurse": false, "records": null,
                "delimiter": ";", "quote": "", "header": true}}),
        ),
        (
            "S3JsonSource",
            json!({"Paths": ["s3://lake/in/"], "JsonPath": "$.records[*]", "Multiline": true}),
            json!({"node": "objects", "lineage": false, "at": {"bucket": "lake", "prefix": "in/",
                "format": "json", "exclusions": [], "recurse": true, "records": "$.records[*]",
                "delimiter": null, "quote": null, "header": null}}),
        ),
        (
            "S3ParquetSource",
            json!({"Paths": ["s3://lake/in/"], "CompressionType": "snappy"}),
            json!({"node": "objects", "lineage": false, "at": {"bucket": "lake", "prefix": "in/",
                "format": "parquet", "exclusions": [], "recurse": true, "records": null,
                "delimiter": null, "quote": null, "header": null}}),
        ),
        (
            "Spigot",
            json!({"Inputs": ["a"], "Path": "s3://lake/samples", "Topk": 10, "Prob": 0.5}),
            json!({"node": "spigot", "input": "a", "bucket": "lake", "prefix": "samples/",
                "rows": 10, "fraction": 0.5}),
        ),
        (
            "S3DirectTarget",
            json!({"Inputs": ["a"], "Path": "s3://lake/out", "Format": "json",
                "Compression": "gzip", "PartitionKeys": [["d"]]}),
            json!({"node": "target", "input": "a", "bucket": "lake", "prefix": "out/",
                "format": "json", "compression": "gzip", "partition_keys": ["d"],
                "database": "forebay", "table": "lake_out"}),
        ),
        (
            "S3CatalogTarget",
            json!({"Inputs": ["a"], "Database": "Air", "Table": "Lines"}),
            json!({"node": "target", "input": "a", "bucket": "lake", "prefix": "lines/",
                "format": "json", "compression": "none", "partition_keys": [],
                "database": "air", "table": "lines"}),
        ),
    ] {
        let mut expect = expect;
        expect["id"] = json!("n");
        let node = read(kind, body).unwrap_or_else(|fault| panic!("{kind}: {}", fault.message));
        let found = serde_json::to_value(&node).expect("a node is JSON");
        assert_eq!(found, expect, "{kind}");
    }
}

#[test]
fn what_there_is_not_is_refused_by_its_name_with_what_to_do() {
    for (kind, body, says) in [
        (
            "Spigot",
            json!({"Inputs": ["a"], "Path": "lake/samples"}),
            vec!["Spigot.Path", "s3://BUCKET/FOLDER/"],
        ),
        ("FillMissingValues", json!({"Inputs": ["a"]}), vec!["FillMissingValues", "SparkSQL"]),
        ("CustomCode", json!({"Inputs": ["a"]}), vec!["CustomCode", "SparkSQL"]),
        ("S3CsvSource", json!({}), vec!["S3CsvSource", "Paths"]),
        (
            "S3CsvSource",
            json!({"Paths": ["s3://lake/a/", "s3://lake/b/"]}),
            vec!["Paths", "2", "Union"],
        ),
        (
            "S3CsvSource",
            json!({"Paths": ["s3://lake/a/"], "Separator": "colon"}),
            vec!["Separator", "colon", "semicolon"],
        ),
        (
            "S3CsvSource",
            json!({"Paths": ["s3://lake/a/"], "SkipFirst": true}),
            vec!["SkipFirst", "Filter"],
        ),
        (
            "S3JsonSource",
            json!({"Paths": ["s3://lake/a/"], "AdditionalOptions": {"BoundedFiles": 3}}),
            vec!["AdditionalOptions", "bounds"],
        ),
        ("S3ParquetSource", json!({"Paths": ["s3://lake"]}), vec!["Paths", "s3://BUCKET/FOLDER/"]),
        ("Nonsense", json!({}), vec!["Nonsense", "Aggregate"]),
        (
            "Aggregate",
            json!({"Inputs": ["a"], "Aggs": [{"Column": ["v"], "AggFunc": "kurtosis"}]}),
            vec!["AggFunc", "kurtosis", "stddev_samp"],
        ),
        (
            "Join",
            json!({"Inputs": ["a", "b"], "JoinType": "cross", "Columns": []}),
            vec!["JoinType", "cross", "equijoin"],
        ),
        (
            "Join",
            json!({"Inputs": ["a", "b"], "JoinType": "left", "Columns": [
                {"From": "a", "Keys": [["x"]]}, {"From": "b", "Keys": []}]}),
            vec!["Keys", "1 on the left and 0 on the right"],
        ),
        (
            "Merge",
            json!({"Inputs": ["a", "b"], "Source": "c", "PrimaryKeys": [["x"]]}),
            vec!["Source", "\"c\""],
        ),
        (
            "EvaluateDataQuality",
            json!({"Inputs": ["a"], "Ruleset": "Rules = [ RowCount > 0 ]",
                "StopJobOnFailureOptions": {"StopJobOnFailureTiming": "AfterDataLoad"}}),
            vec!["AfterDataLoad", "Immediate"],
        ),
        (
            "S3DirectTarget",
            json!({"Inputs": ["a"], "Path": "s3://lake/out", "Format": "orc"}),
            vec!["Format", "orc", "csv"],
        ),
        (
            "S3CatalogTarget",
            json!({"Inputs": ["a"], "Database": "air", "Table": "none"}),
            vec!["\"none\""],
        ),
    ] {
        let Err(fault) = read(kind, body) else { panic!("{kind} was not refused") };
        for word in says {
            assert!(fault.message.contains(word), "{kind}: {} lacks {word:?}", fault.message);
        }
    }
}
