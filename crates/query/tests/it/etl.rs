//! Graphs from input files to committed tables.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray};
use base::ErrorKind;
use lake::{Format, Mapping, NoValue, Node};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::world::{World, gzip, job, shown};

/// All rows of the committed table as Parquet's own reader sees them, files by key.
async fn committed(world: &World) -> (Vec<String>, Vec<String>) {
    let table = world.lake.catalog().get_table("air", "curated").unwrap();
    let (mut columns, mut rows) = (Vec::new(), Vec::new());
    for file in world.lake.files(&table).await.unwrap() {
        let file = std::fs::File::open(&file.path).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        columns = reader.schema().fields().iter().map(|field| field.name().clone()).collect();
        for batch in reader.build().unwrap() {
            rows.extend(shown(&[batch.unwrap()]));
        }
    }
    (columns, rows)
}

fn mapping(from: &str, from_type: &str, to: &str, to_type: &str) -> Mapping {
    Mapping {
        from: from.into(),
        from_type: from_type.into(),
        to: to.into(),
        to_type: to_type.into(),
        drop: false,
    }
}

#[tokio::test]
async fn rows_go_round_with_nulls_order_and_partition_columns_last() {
    let world = World::new();
    let day = |day: u32| -> String {
        (0..2000)
            .map(|n| match n % 5 {
                0 => format!("{{\"ts\":\"t{n}\",\"PM2.5\":null,\"zz\":{n},\"aa\":true}}"),
                _ => format!("{{\"zz\":{},\"ts\":\"d{day}-{n}\",\"PM2.5\":{n}.25}}", n * day),
            })
            .collect::<Vec<_>>()
            .join(if day == 1 { "" } else { "\n" })
    };
    world.put("raw/readings/2026/11/a", gzip(&day(1))).await;
    world.put("raw/readings/2026/12/b", day(2)).await;
    world.crawl().await;

    let (run, result) = world.run(&job("readings", vec![], "source", &[])).await;
    let result = result.unwrap();
    assert_eq!((run.rows_in, result.rows_out, result.set_aside_count), (4000, 4000, 0));
    assert_eq!(result.set_aside_file, None);

    let (columns, rows) = committed(&world).await;
    // The device's key order, then the folders' columns, last.
    assert_eq!(columns, ["ts", "PM2.5", "zz", "aa", "partition_0", "partition_1"]);
    assert_eq!(rows.len(), 4000);
    assert_eq!(rows[0], "t0|-|0|true|2026|11");
    assert_eq!(rows[1], "d1-1|1.25|1|-|2026|11");
    assert_eq!(rows[1999], "d1-1999|1999.25|1999|-|2026|11");
    assert_eq!(rows[2001], "d2-1|1.25|2|-|2026|12");
    assert_eq!(
        world.rows("SELECT count(*), sum(zz), count(\"PM2.5\") FROM curated").await,
        ["4000|5598000|3200"]
    );

    // Nothing new, nothing taken; then one more file, taken once.
    assert!(world.run(&job("readings", vec![], "source", &[])).await.1.is_none());
    world.put("raw/readings/2026/12/c", "{\"zz\":7}").await;
    assert_eq!(world.run(&job("readings", vec![], "source", &[])).await.0.rows_in, 1);
    assert_eq!(world.rows("SELECT count(*) FROM curated").await, ["4001"]);
}

#[tokio::test]
async fn bad_lines_and_bad_files_are_set_aside_with_their_bytes() {
    let world = World::new();
    world.declare("t", Format::Json, "n int", "");
    world.put("raw/t/a", "{\"n\":1}\n{\"n\":\"\u{fc}\"}\n{\"n\":3}").await;
    let mut damaged = gzip("{\"n\":10}\n{\"n\":x}\n");
    damaged.truncate(damaged.len() - 5);
    world.put("raw/t/b", damaged).await;
    let (run, result) = world.run(&job("t", vec![], "source", &[])).await;
    let result = result.unwrap();
    assert_eq!((result.rows_in, result.rows_out, run.rows_in), (3, 3, 3));
    assert_eq!(result.set_aside_count, 3);
    let shown: Vec<String> = result
        .set_aside
        .iter()
        .map(|bad| format!("{} {} {}", bad.key, bad.position, bad.raw_base64))
        .collect();
    assert_eq!(shown, ["raw/t/a 8 eyJuIjoiw7wifQ==", "raw/t/b 9 eyJuIjp4fQ==", "raw/t/b 17 "]);
    assert!(result.set_aside[2].reason.contains("not read from byte 17 on"));
    assert_eq!(run.set_aside, 3);
}

#[tokio::test]
async fn a_mapping_renames_casts_reaches_into_structs_and_reorders() {
    let world = World::new();
    world.declare(
        "t",
        Format::Json,
        "a string; p struct<x:int,y:struct<z:double>>; b int",
        "day int",
    );
    world
        .put(
            "raw/t/day=7/x",
            "{\"a\":\"12\",\"p\":{\"x\":5,\"y\":{\"z\":1.5}},\"b\":3}{\"a\":\"no\"}",
        )
        .await;
    let mut unused = mapping("b", "int", "gone", "int");
    unused.drop = true;
    let map = Node::ApplyMapping {
        id: "map".into(),
        input: "source".into(),
        mappings: vec![
            mapping("p.y.z", "double", "Z", "double"),
            mapping("a", "string", "a", "bigint"),
            unused,
            mapping("p.x", "int", "x", "string"),
            mapping("day", "int", "day", "int"),
        ],
    };
    world.run(&job("t", vec![map], "map", &[])).await;
    let (columns, rows) = committed(&world).await;
    assert_eq!(columns, ["Z", "a", "x", "day"]);
    assert_eq!(rows, ["1.5|12|5|7", "-|-|-|7"]);
    let table = world.lake.catalog().get_table("air", "curated").unwrap();
    let types: Vec<&str> = table.columns.iter().map(|column| column.hive_type.as_str()).collect();
    assert_eq!(types, ["double", "bigint", "string", "int"]);
}

#[tokio::test]
async fn nodes_select_drop_rename_and_keep_first() {
    let world = World::new();
    world.declare("t", Format::Json, "k int; v string; w int", "");
    let rows: String = (0..5000)
        .map(|n| {
            format!("{{\"k\":{},\"v\":\"v{n}\",\"w\":{n}}}\n", if n % 97 == 0 { 0 } else { n % 50 })
        })
        .collect();
    world.put("raw/t/x", rows).await;
    let nodes = vec![
        Node::DropDuplicates {
            id: "once".into(),
            input: "source".into(),
            columns: vec!["k".into()],
        },
        Node::RenameField {
            id: "name".into(),
            input: "once".into(),
            from: "v".into(),
            to: "V v".into(),
        },
        Node::DropFields { id: "drop".into(), input: "name".into(), fields: vec!["w".into()] },
        Node::SelectFields {
            id: "pick".into(),
            input: "drop".into(),
            fields: vec!["V v".into(), "k".into()],
        },
    ];
    let (_, result) = world.run(&job("t", nodes, "pick", &[])).await;
    assert_eq!(result.unwrap().rows_in, 5000);
    let (columns, rows) = committed(&world).await;
    assert_eq!(columns, ["V v", "k"]);
    let expect: Vec<String> = (0..50).map(|n| format!("v{n}|{n}")).collect();
    assert_eq!(rows, expect);
}

#[tokio::test]
async fn columns_without_a_value_are_dropped() {
    let world = World::new();
    world.declare("t", Format::Json, "a int; gone int; blank string; minus double; w string", "");
    let rows =
        "{\"a\":1,\"blank\":\"\",\"minus\":-1,\"w\":\"null\"}\n{\"minus\":-1.0,\"blank\":\"\"}\n";
    world.put("raw/t/x", rows).await;
    let drop = |also: Vec<NoValue>| Node::DropNullFields {
        id: "drop".into(),
        input: "source".into(),
        also,
    };
    let text = |text: &str| NoValue::Text(text.into());
    let all = vec![text(""), text("null"), NoValue::Number("-1".into())];
    for (number, also, left) in [
        (0, vec![], vec!["a", "blank", "minus", "w"]),
        (1, vec![text("")], vec!["a", "minus", "w"]),
        (2, all, vec!["a"]),
    ] {
        let mut job = job("t", vec![drop(also)], "drop", &[]);
        job.name = format!("job{number}");
        let Some(Node::Target { prefix, table, .. }) = job.nodes.last_mut() else { panic!() };
        *prefix = format!("out{number}/");
        *table = format!("out{number}");
        let (_, result) = world.run(&job).await;
        assert_eq!(result.unwrap().rows_in, 2, "each row counts once");
        let table = world.lake.catalog().get_table("air", &format!("out{number}")).unwrap();
        let names: Vec<&str> = table.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, left);
    }
}

#[tokio::test]
async fn a_query_joins_inputs_and_its_order_is_kept() {
    let world = World::new();
    world.declare("t", Format::Json, "Device string; n int", "");
    world.declare("u", Format::Json, "Device string; City string", "");
    let rows: String = (0..20_000)
        .map(|n| format!("{{\"Device\":\"d{}\",\"n\":{}}}\n", n % 3, (n * 7919) % 20_000))
        .collect();
    world.put("raw/t/x", rows).await;
    world
        .put(
            "raw/u/x",
            "{\"Device\":\"d1\",\"City\":\"Graz\"}{\"Device\":\"d2\",\"City\":\"Wien\"}",
        )
        .await;
    let nodes = vec![
        Node::Source {
            id: "cities".into(),
            database: "air".into(),
            table: "u".into(),
            lineage: false,
        },
        Node::Sql {
            id: "sql".into(),
            inputs: BTreeMap::from([
                ("myDataSource".to_owned(), "source".to_owned()),
                ("cities".to_owned(), "cities".to_owned()),
            ]),
            query: "SELECT n, city FROM myDataSource r JOIN cities c ON r.device = c.device \
                    ORDER BY n DESC"
                .into(),
        },
    ];
    let (run, result) = world.run(&job("t", nodes, "sql", &[])).await;
    assert_eq!((run.rows_in, result.unwrap().rows_out), (20_002, 13_333));
    let (columns, rows) = committed(&world).await;
    assert_eq!(columns, ["n", "City"]);
    let numbers: Vec<i64> =
        rows.iter().map(|row| row.split('|').next().unwrap().parse().unwrap()).collect();
    assert!(numbers.is_sorted_by(|a, b| a > b));
}

#[tokio::test]
async fn partitions_become_folders_and_come_back_as_columns() {
    let world = World::new();
    world.declare("t", Format::Json, "site string; n int; day string", "");
    let rows: String = (0..30_000)
        .map(|n| match n % 300 {
            0 => format!("{{\"n\":{n},\"day\":\"d/1\"}}\n"),
            1 => format!("{{\"site\":\"\",\"n\":{n},\"day\":\"d/1\"}}\n"),
            _ => format!("{{\"site\":\"s{}\",\"n\":{n},\"day\":\"d {}\"}}\n", n % 200, n % 2),
        })
        .collect();
    world.put("raw/t/x", rows).await;
    let (_, result) = world.run(&job("t", vec![], "source", &["day", "site"])).await;
    let result = result.unwrap();
    let keys: Vec<&str> = result.partition_keys.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(keys, ["day", "site"]);
    assert_eq!(result.columns.len(), 1);
    let partitions: std::collections::BTreeSet<_> =
        result.files.iter().map(|file| &file.partition_values).collect();
    // More partitions than files may be open, so some have more files than one.
    assert_eq!(partitions.len(), 201);
    assert!(result.files.len() > 201);
    assert_eq!(result.files.iter().map(|file| file.rows).sum::<u64>(), 30_000);
    assert_eq!(world.rows("SELECT count(*), sum(n) FROM curated").await, ["30000|449985000"]);
    assert_eq!(
        world.rows("SELECT count(*), count(site) FROM curated WHERE day = 'd/1'").await,
        ["200|0"]
    );
    assert_eq!(
        world.rows("SELECT n FROM curated WHERE site = 's5' AND n < 700 ORDER BY n").await,
        ["5", "205", "405", "605"]
    );
}

#[tokio::test]
async fn parquet_can_be_a_source_and_a_damaged_file_is_set_aside() {
    let world = World::new();
    world.declare("t", Format::Json, "n int", "");
    world.put("raw/t/x", (0..1000).map(|n| format!("{{\"n\":{n}}}")).collect::<String>()).await;
    world.run(&job("t", vec![], "source", &[])).await;
    let table = world.lake.catalog().get_table("air", "curated").unwrap();
    let good = std::fs::read(&world.lake.files(&table).await.unwrap()[0].path).unwrap();

    // The file as another table's, beside one that lacks a column and one that is damaged.
    world.declare("p", Format::Parquet, "n bigint; extra string", "");
    world.put("raw/p/a.parquet", good.clone()).await;
    world.put("raw/p/b.parquet", good[..good.len() - 9].to_vec()).await;
    let mut again = job("p", vec![], "source", &[]);
    again.name = "again".into();
    let Some(Node::Target { prefix, table, .. }) = again.nodes.last_mut() else { panic!() };
    *prefix = "second/".into();
    *table = "second".into();
    let (_, result) = world.run(&again).await;
    let result = result.unwrap();
    assert_eq!((result.rows_out, result.set_aside_count), (1000, 1));
    assert_eq!(result.set_aside[0].key, "raw/p/b.parquet");
    assert_eq!(world.rows("SELECT sum(n), count(extra) FROM second").await, ["499500|0"]);
    let column = &world.lake.catalog().get_table("air", "second").unwrap().columns[0];
    assert_eq!(column.hive_type, "bigint");
}

#[tokio::test]
async fn a_graph_that_names_what_is_not_there_fails_with_the_node() {
    let world = World::new();
    world.declare("t", Format::Json, "n int; s struct<a:int>", "");
    world.put("raw/t/x", "{\"n\":1}").await;
    let select = |field: &str| Node::SelectFields {
        id: "pick".into(),
        input: "source".into(),
        fields: vec![field.into()],
    };
    let sql = |query: &str| Node::Sql {
        id: "pick".into(),
        inputs: BTreeMap::from([("t".to_owned(), "source".to_owned())]),
        query: query.into(),
    };
    let cast = Node::ApplyMapping {
        id: "pick".into(),
        input: "source".into(),
        mappings: vec![mapping("s", "struct<a:int>", "s", "int")],
    };
    for (number, (node, part)) in [
        (select("m"), "no column \"m\""),
        (cast, "cannot become int"),
        (sql("DROP TABLE t"), "not supported"),
        (sql("EXPLAIN SELECT 1"), "must be a SELECT"),
        (sql("SELECT * FROM u"), "u"),
        (sql("SELECT * FROM t TABLESAMPLE SYSTEM (1)"), "TABLESAMPLE"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut job = job("t", vec![node], "pick", &[]);
        job.name = format!("job{number}");
        world.lake.create_job(&job).unwrap();
        let planned = world.lake.start_run(&job.name, &Default::default()).await.unwrap();
        let error = query::run_etl(&planned.spec.unwrap()).await.unwrap_err();
        assert!(error.to_string().contains("node \"pick\""), "{error}");
        assert!(error.to_string().contains(part), "{error}");
        assert_ne!(error.kind(), ErrorKind::Internal, "{error}");
        world.lake.fail_run(&job.name, &planned.run.run_id, &error.to_string()).unwrap();
    }
}

#[tokio::test]
async fn memory_is_bounded_and_a_sort_spills() {
    let world = World::new();
    world.declare("t", Format::Json, "n int; s string", "");
    let rows: String = (0..200_000u64)
        .map(|n| format!("{{\"n\":{n},\"s\":\"{:0>120}\"}}\n", (n * 7919) % 1_000_003))
        .collect();
    world.put("raw/t/x", gzip(&rows)).await;
    let sort = Node::Sql {
        id: "sort".into(),
        inputs: BTreeMap::from([("t".to_owned(), "source".to_owned())]),
        query: "SELECT s, n FROM t ORDER BY s".into(),
    };
    let job = job("t", vec![sort], "sort", &[]);
    world.lake.create_job(&job).unwrap();
    let planned = world.lake.start_run("job", &Default::default()).await.unwrap();
    let mut spec = planned.spec.unwrap();
    spec.memory_bytes = 12 * 1024 * 1024;
    let result = query::run_etl(&spec).await.unwrap();
    assert_eq!(result.rows_out, 200_000);
    assert!(!spec.staging.join("spill").exists());
    world.lake.finish_run("job", &spec.run_id, &result).await.unwrap();
    let (_, rows) = committed(&world).await;
    assert!(rows.is_sorted());
    assert_eq!(rows.len(), 200_000);
}

/// Rows by partition and sort keys that often agree, with nulls; `n` is the place.
fn unsorted(rows: u64) -> String {
    let mut state = 7_u64;
    let mut random = move |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (state >> 33) % bound
    };
    (0..rows)
        .map(|n| {
            let day = match random(40) {
                0 => String::new(),
                1 => "\"day\":\"\",".to_owned(),
                // One partition is far larger than the others.
                2..8 => format!("\"day\":\"d{}\",", random(20)),
                _ => "\"day\":\"large\",".to_owned(),
            };
            let site = match random(9) {
                0 => String::new(),
                site => format!("\"site\":\"site {}\",", site % 4),
            };
            format!("{{{day}{site}\"v\":{},\"n\":{n}}}\n", random(5))
        })
        .collect()
}

#[tokio::test]
async fn a_sort_by_partition_is_the_sort_of_all_and_keeps_ties_whatever_is_spilled() {
    let mut of_all_memories = Vec::new();
    for memory in [256, 8, 5] {
        let world = World::new();
        world.declare("t", Format::Json, "day string; site string; v int; n bigint", "");
        world.put("raw/t/x", unsorted(150_000)).await;
        let sort = Node::Sql {
            id: "sort".into(),
            inputs: BTreeMap::from([("t".to_owned(), "source".to_owned())]),
            query: "SELECT n, day, site, v FROM t ORDER BY day DESC, site, v DESC NULLS LAST"
                .into(),
        };
        let job = job("t", vec![sort], "sort", &["day"]);
        world.lake.create_job(&job).unwrap();
        let planned = world.lake.start_run("job", &Default::default()).await.unwrap();
        let mut spec = planned.spec.unwrap();
        spec.memory_bytes = memory << 20;
        let result = query::run_etl(&spec).await.unwrap();
        assert_eq!(result.rows_out, 150_000);
        let mut order = Vec::new();
        for file in &result.files {
            let path = spec.staging.join(&file.path);
            let reader = formats::parquet::Reader::open(&path).unwrap();
            let mut last = None;
            for batch in reader.batches(None, 8192).unwrap() {
                let batch = batch.unwrap();
                let (n, site, v) = (batch.column(0), batch.column(1), batch.column(2));
                for row in 0..batch.num_rows() {
                    let site = site.as_string::<i32>();
                    let site = (!site.is_null(row)).then(|| site.value(row).to_owned());
                    let v = v.as_primitive::<arrow::datatypes::Int32Type>().value(row);
                    let n = n.as_primitive::<arrow::datatypes::Int64Type>().value(row);
                    // Nulls come last where SQL's default puts them.
                    let key = (site.is_none(), site, -v, n);
                    assert!(last.as_ref() < Some(&key), "{last:?} before {key:?}");
                    order.push((file.partition_values[0].clone(), n));
                    last = Some(key);
                }
            }
        }
        assert!(!spec.staging.join("spill").exists());
        of_all_memories.push(order);
        world.lake.finish_run("job", &spec.run_id, &result).await.unwrap();
        let sums = "SELECT count(*), sum(n), count(DISTINCT day) FROM curated";
        assert_eq!(world.rows(sums).await, ["150000|11249925000|21"]);
    }
    assert!(of_all_memories.windows(2).all(|two| two[0] == two[1]), "memory changes the rows");
}
