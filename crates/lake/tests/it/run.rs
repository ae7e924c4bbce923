//! Runs: planning, bookmarks, records set aside, refusals.

use std::io::Write;

use base::ErrorKind;
use lake::{Column, FileSource, Job, Node, RunState};
use serde_json::Value;

use crate::world::{World, engine, job, move_set_aside_to_file};

async fn ready() -> World {
    let world = World::new();
    world.lake.create_job(&job()).unwrap();
    world.readings(&["2026/a", "2026/b"]).await;
    world
}

#[tokio::test]
async fn each_object_is_taken_once() {
    let world = ready().await;
    let first = world.run().await;
    assert_eq!((first.state, first.files_in, first.rows_out), (RunState::Succeeded, 2, 4));
    let second = world.run().await;
    assert_eq!((second.state, second.files_in, second.files_out), (RunState::Succeeded, 0, 0));
    assert!(second.finished_at.is_some());
    world.readings(&["2026/c"]).await;
    assert_eq!(world.run().await.files_in, 1);
    assert_eq!(world.rows("curated").await.len(), 6);
    assert_eq!(world.lake.list_runs("j").unwrap().len(), 3);
    assert_eq!(world.staging_folders(), 0);
}

#[tokio::test]
async fn the_table_knows_what_was_written() {
    let world = ready().await;
    world.run().await;
    let table = world.table("curated");
    assert_eq!(table.source, FileSource::Committed);
    assert_eq!(table.columns, [Column::new("n", "int"),]);
    assert_eq!(table.version, 1);
    let files = world.lake.files(&table).await.unwrap();
    assert!(files.iter().all(|file| file.key.starts_with("curated/part-jr_")), "{files:?}");
    // A file that somebody drops beneath the prefix is not in the table.
    world.put("curated/stray.parquet", "not parquet").await;
    assert_eq!(world.lake.files(&table).await.unwrap(), files);
    // An equal run changes no schema, so the version stays.
    world.readings(&["2026/c"]).await;
    world.run().await;
    assert_eq!(world.table("curated").version, 1);
}

/// A folder restored from a backup has new etags; that must not double the table.
#[tokio::test]
async fn a_restored_copy_of_an_object_is_not_taken_again_and_a_changed_one_is() {
    let world = ready().await;
    world.run().await;
    let text = world.lake.buckets().get("bkt", "raw/2026/a").await.unwrap();
    let etag = |world: &World| {
        let lake = world.lake.clone();
        async move { lake.buckets().head("bkt", "raw/2026/a").await.unwrap().etag }
    };
    let before = etag(&world).await;
    world.lake.buckets().put("bkt", "raw/2026/a", text).await.unwrap();
    assert!(etag(&world).await != before);
    assert_eq!(world.run().await.files_in, 0);
    world.put("raw/2026/a", "{\"n\":5}\n").await;
    assert_eq!(world.run().await.files_in, 1);
    assert!(world.rows("curated").await.contains(&5));
}

#[tokio::test]
async fn without_a_bookmark_everything_is_read_each_time() {
    let world = ready().await;
    world.lake.update_job(&Job { bookmark: false, ..job() }).unwrap();
    world.run().await;
    world.run().await;
    assert_eq!(world.rows("curated").await.len(), 8);
}

#[tokio::test]
async fn a_reset_bookmark_reads_everything_again() {
    let world = ready().await;
    world.run().await;
    world.lake.reset_bookmark("j").unwrap();
    assert_eq!(world.run().await.files_in, 2);
}

#[tokio::test]
async fn a_failed_or_stopped_run_leaves_no_trace_and_its_inputs_to_the_next() {
    let world = ready().await;
    for stop in [false, true] {
        let planned = world.lake.start_run("j", &Default::default()).await.unwrap();
        let spec = planned.spec.unwrap();
        assert_eq!(planned.run.state, RunState::Starting);
        world.lake.run_started("j", &spec.run_id).unwrap();
        drop(engine(&spec));
        let run = match stop {
            true => world.lake.stop_run("j", &spec.run_id).unwrap(),
            false => world.lake.fail_run("j", &spec.run_id, "out of memory").unwrap(),
        };
        let expected = if stop { RunState::Stopped } else { RunState::Failed };
        assert_eq!(run.state, expected);
        assert_eq!(world.staging_folders(), 0);
        assert!(world.rows("curated").await.is_empty());
        let late = world.lake.run_started("j", &spec.run_id).unwrap_err();
        assert_eq!(late.kind(), ErrorKind::Conflict);
    }
    assert_eq!(world.run().await.files_in, 2);
}

#[tokio::test]
async fn one_run_of_a_job_at_a_time() {
    let world = ready().await;
    let first = world.lake.start_run("j", &Default::default()).await.unwrap();
    let second = world.lake.start_run("j", &Default::default()).await.unwrap_err();
    assert_eq!(second.kind(), ErrorKind::Conflict);
    assert!(second.to_string().contains(&first.run.run_id), "{second}");
    assert_eq!(world.lake.reset_bookmark("j").unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test]
async fn records_set_aside_are_published_with_their_place() {
    for through_file in [false, true] {
        let world = ready().await;
        world.put("raw/2026/x", "{\"n\":1}\n{\"n\":}\n{\"n\":2}\nnoise\n").await;
        let planned = world.lake.start_run("j", &Default::default()).await.unwrap();
        let spec = planned.spec.unwrap();
        let mut result = engine(&spec);
        assert_eq!(result.set_aside_count, 2);
        if through_file {
            move_set_aside_to_file(&spec, &mut result);
        }
        let run = world.lake.finish_run("j", &spec.run_id, &result).await.unwrap();
        assert_eq!((run.rows_out, run.set_aside), (6, 2));
        let key = run.set_aside_key.unwrap();
        assert_eq!(key, format!("errors/j/{}.jsonl", run.run_id));
        let lines = world.lake.buckets().get("bkt", &key).await.unwrap();
        let lines: Vec<Value> = lines
            .split_inclusive(|b| *b == b'\n')
            .map(|l| serde_json::from_slice(l).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["key"], "raw/2026/x");
        assert_eq!(lines[0]["bucket"], "bkt");
        assert_eq!(lines[0]["position"], 8);
        assert_eq!(lines[0]["runId"], run.run_id);
        assert!(lines[0]["reason"].as_str().unwrap().len() > 3);
        assert!(lines[0]["rawData"].is_string());
    }
}

#[tokio::test]
async fn a_result_that_does_not_add_up_fails_the_run() {
    let world = ready().await;
    type Break = fn(&mut lake::EtlResult);
    let breaks: [(&str, Break); 7] = [
        ("rows", |result| result.rows_out += 1),
        ("bytes", |result| result.files[0].bytes += 1),
        ("escape", |result| result.files[0].path = "../../../forebay.db".into()),
        ("absolute", |result| result.files[0].path = "/etc/passwd".into()),
        ("absent", |result| result.files[0].path = "9.parquet".into()),
        ("keys", |result| result.partition_keys.push(Column::new("k", "string"))),
        ("aside", |result| result.set_aside_count = 3),
    ];
    for (name, breaks) in breaks {
        let planned = world.lake.start_run("j", &Default::default()).await.unwrap();
        let spec = planned.spec.unwrap();
        let mut result = engine(&spec);
        breaks(&mut result);
        world.lake.finish_run("j", &spec.run_id, &result).await.unwrap_err();
        let run = world.lake.get_run("j", &spec.run_id).unwrap();
        assert_eq!(run.state, RunState::Failed, "{name}");
        assert!(world.rows("curated").await.is_empty(), "{name}");
    }
    assert_eq!(world.run().await.rows_out, 4);
}

#[tokio::test]
async fn an_input_that_changes_during_the_run_fails_it() {
    let world = ready().await;
    let spec = world.lake.start_run("j", &Default::default()).await.unwrap().spec.unwrap();
    let result = engine(&spec);
    world.put("raw/2026/a", "{\"n\":7}\n").await;
    let failed = world.lake.finish_run("j", &spec.run_id, &result).await.unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Conflict, "{failed}");
    world.run().await;
    assert!(world.rows("curated").await.contains(&7));
    assert_eq!(world.rows("curated").await.len(), 3);
}

#[tokio::test]
async fn a_new_column_widens_the_table() {
    let world = ready().await;
    world.run().await;
    world.put("raw/2026/z", "{\"n\":1,\"o\":1.5}\n").await;
    world.crawl().await;
    world.run().await;
    let table = world.table("curated");
    assert_eq!(table.columns, [Column::new("n", "int"), Column::new("o", "double")]);
    assert_eq!(table.version, 2);
    let versions = world.lake.catalog().table_versions("air", "curated").unwrap();
    assert_eq!(versions.iter().map(|table| table.version).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(versions[1].columns, [Column::new("n", "int")]);
}

fn with_target(
    change: impl FnOnce(&mut String, &mut String, &mut String, &mut Vec<String>),
) -> Job {
    let mut job = job();
    if let Node::Target { bucket, prefix, table, partition_keys, .. } = &mut job.nodes[0] {
        change(bucket, prefix, table, partition_keys);
    }
    job
}

#[tokio::test]
async fn a_target_that_cannot_be_written_is_refused_before_any_work() {
    let world = ready().await;
    world.run().await;
    let cases: [(&str, Job, ErrorKind); 6] = [
        (
            "no bucket",
            with_target(|bucket, _, _, _| *bucket = "nobody".into()),
            ErrorKind::NotFound,
        ),
        (
            "reads itself",
            with_target(|_, p, t, _| (*p, *t) = ("raw/x/".into(), "new".into())),
            ErrorKind::Invalid,
        ),
        (
            "crawled table",
            with_target(|_, p, t, _| (*p, *t) = ("x/".into(), "raw".into())),
            ErrorKind::Conflict,
        ),
        ("another place", with_target(|_, p, _, _| *p = "elsewhere/".into()), ErrorKind::Conflict),
        ("other keys", with_target(|_, _, _, k| k.push("n".into())), ErrorKind::Conflict),
        (
            "errors within",
            Job { error_prefix: Some("curated/e/".into()), ..job() },
            ErrorKind::Invalid,
        ),
    ];
    for (name, job, kind) in cases {
        world.lake.update_job(&job).unwrap();
        let refused = world.lake.start_run("j", &Default::default()).await.unwrap_err();
        assert_eq!(refused.kind(), kind, "{name}: {refused}");
        let run = &world.lake.list_runs("j").unwrap();
        assert!(run.iter().any(|run| run.state == RunState::Failed), "{name}");
    }
    world.lake.update_job(&job()).unwrap();
    assert_eq!(world.run().await.state, RunState::Succeeded, "the job is free again");
}

#[tokio::test]
async fn partitions_become_folders_and_rows_of_the_catalog() {
    let world = ready().await;
    world.lake.update_job(&with_target(|_, _, _, keys| keys.push("city".into()))).unwrap();
    let spec = world.lake.start_run("j", &Default::default()).await.unwrap().spec.unwrap();
    let mut result = engine(&spec);
    result.partition_keys = vec![Column::new("city", "string")];
    for (file, city) in result.files.iter_mut().zip(["a/b", lake::NULL_PARTITION]) {
        file.partition_values = vec![city.to_owned()];
    }
    world.lake.finish_run("j", &spec.run_id, &result).await.unwrap();
    let partitions = world.lake.catalog().list_partitions("air", "curated").unwrap();
    let shown: Vec<(&str, &str)> =
        partitions.iter().map(|p| (p.values[0].as_str(), p.prefix.as_str())).collect();
    assert!(shown.contains(&("a/b", "curated/city=a%2Fb/")), "{shown:?}");
    assert!(
        shown.contains(&(lake::NULL_PARTITION, "curated/city=__HIVE_DEFAULT_PARTITION__/")),
        "{shown:?}"
    );
    assert_eq!(world.rows("curated").await.len(), 4);
}

#[tokio::test]
async fn gzip_objects_are_read_like_plain_ones() {
    let world = ready().await;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(b"{\"n\":70}{\"n\":71}").unwrap();
    let packed = packed.finish().unwrap().into();
    world.lake.buckets().put("bkt", "raw/2026/p", packed).await.unwrap();
    world.crawl().await;
    assert_eq!(world.run().await.rows_out, 6);
}
