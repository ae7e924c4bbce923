//! E1, E2 and D2 of compaction, retention and AS OF: whatever is asked of a table while its files
//! give way to others, and wherever that is killed, the rows are the same.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::ErrorKind;
use formats::parquet::Reader;
use lake::{AsOf, CommitKind, CompactOptions, Retention, RunState, compact};

use crate::world::{World, column_n, engine, job, rows_of};

/// Everything is small and old enough.
fn all() -> CompactOptions {
    CompactOptions { files_min: 2, age_ms_min: i64::MIN / 2, ..CompactOptions::default() }
}

fn idle(_: &str, _: &str) -> bool {
    false
}

async fn table_of(keys: &[&[&str]]) -> World {
    let world = World::new();
    world.lake.create_job(&job()).unwrap();
    for keys in keys {
        world.readings(keys).await;
        world.run().await;
    }
    world
}

/// The rows that whoever lists the prefix reads.
async fn listed(world: &World, prefix: &str) -> Vec<i64> {
    let buckets = world.lake.buckets();
    let mut rows = Vec::new();
    for object in buckets.list("bkt", prefix).await.unwrap() {
        rows.extend(column_n(&buckets.local_path("bkt", &object.key).unwrap()));
    }
    rows.sort_unstable();
    rows
}

/// The values of `n` in the raw objects that are listed.
async fn raw(world: &World) -> Vec<i64> {
    let mut rows = Vec::new();
    for file in world.lake.files(&world.table("raw")).await.unwrap() {
        let text = std::fs::read_to_string(&file.path).unwrap();
        for line in text.lines() {
            rows.push(line["{\"n\":".len()..line.len() - 1].parse().unwrap());
        }
    }
    rows.sort_unstable();
    rows
}

async fn count(world: &World, prefix: &str) -> usize {
    world.lake.buckets().list("bkt", prefix).await.unwrap().len()
}

#[tokio::test]
async fn e2_compaction_changes_no_answer_of_now_or_of_then() {
    let world = table_of(&[&["a", "b"], &["c"], &["d", "e"]]).await;
    let table = world.table("curated");
    let (rows, planned) = (world.rows("curated").await, world.lake.files(&table).await.unwrap());
    assert_eq!((rows.len(), planned.len()), (10, 5));
    let done = world.lake.compact_here(&table, &all()).await.unwrap();
    assert_eq!(done.len(), 1);
    assert_eq!((done[0].files_before, done[0].files_after, done[0].rows), (5, 1, 10));
    assert_eq!(world.rows("curated").await, rows);
    assert_eq!(listed(&world, "curated/").await, rows);
    assert_eq!(count(&world, "curated/").await, 1);
    // A query that was planned before finds the files it knew.
    let mut late = Vec::new();
    for file in &planned {
        assert!(!file.path.exists());
        late.extend(column_n(&world.lake.moved_to(&file.path).unwrap()));
    }
    late.sort_unstable();
    assert_eq!(late, rows);
    // History.
    let commits = world.lake.commits(&table).unwrap();
    let kinds: Vec<CommitKind> = commits.iter().map(|commit| commit.kind).collect();
    use CommitKind::{Append, Compact};
    assert_eq!(kinds, [Append, Append, Append, Compact]);
    assert_eq!(
        (commits[3].files_removed, commits[3].rows_removed, commits[3].rows_added),
        (5, 10, 10)
    );
    for (number, expect) in [(1, 4), (2, 6), (3, 10), (4, 10)] {
        let (_, files) = world.lake.files_as_of(&table, AsOf::Version(number)).await.unwrap();
        let rows: Vec<i64> = files.iter().flat_map(|file| column_n(&file.path)).collect();
        assert_eq!(rows.len(), expect, "{number}");
    }
    // Once what was retired is deleted, earlier commits are refused by name; the present is not.
    assert_eq!(world.lake.drop_retired_files(Duration::from_secs(60)).await.unwrap(), 0);
    world.clock.advance(Duration::from_secs(61));
    assert_eq!(world.lake.drop_retired_files(Duration::from_secs(60)).await.unwrap(), 5);
    let refused = world.lake.files_as_of(&table, AsOf::Version(3)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound);
    assert!(refused.to_string().contains("the oldest that can be read is 4"), "{refused}");
    assert_eq!(world.lake.files_as_of(&table, AsOf::Version(4)).await.unwrap().1.len(), 1);
    assert!(world.lake.files_as_of(&table, AsOf::Version(5)).await.is_err());
    assert_eq!(world.rows("curated").await, rows);
    let at = commits[3].at;
    assert_eq!(world.lake.files_as_of(&table, AsOf::Timestamp(at)).await.unwrap().1.len(), 1);
}

#[tokio::test]
async fn e1_a_swap_killed_at_any_step_leaves_the_rows_and_the_bookmark_as_they_were() {
    for (name, prefix) in [("curated", "curated/"), ("raw", "raw/")] {
        for step in 0..6 {
            let what = format!("{name} killed after step {step}");
            let mut world = table_of(&[&["a", "b"], &["c"]]).await;
            let (rows, raws) = (world.rows("curated").await, raw(&world).await);
            let table = world.table(name);
            let mut plan = world.lake.plan_compaction(&table, &all(), &idle).await.unwrap();
            assert_eq!((plan.specs.len(), plan.left.len()), (1, 0), "{what}");
            let spec = plan.specs.remove(0);
            if step >= 1 {
                let result = compact(&spec).unwrap();
                let swap = world.lake.compaction(&spec, &result).unwrap().unwrap();
                if step >= 2 {
                    world.lake.prepare_swap(swap).await.unwrap();
                }
                if step >= 3 {
                    world.lake.exchange_swap(&spec.id).await.unwrap();
                    assert_eq!(count(&world, prefix).await, 1, "{what}");
                }
                if step >= 4 {
                    world.lake.exchange_swap(&spec.id).await.unwrap();
                }
                if step >= 5 {
                    world.lake.commit_swap(&spec.id).unwrap();
                    std::fs::create_dir_all(&spec.staging).unwrap();
                }
            }
            assert_eq!(world.rows("curated").await, rows, "{what}");
            assert_eq!(raw(&world).await, raws, "{what}");
            for again in 0..2 {
                world = world.restart();
                let recovered = world.lake.recover().await.unwrap();
                let finished = u64::from(again == 0 && (2..5).contains(&step));
                assert_eq!(recovered.swaps.finished, finished, "{what}: {recovered:?}");
                assert_eq!(world.staging_folders(), 0, "{what}");
                assert_eq!(count(&world, prefix).await, if step < 2 { 3 } else { 1 }, "{what}");
                assert_eq!(world.rows("curated").await, rows, "{what}");
                assert_eq!(listed(&world, "curated/").await, rows, "{what}");
                assert_eq!(raw(&world).await, raws, "{what}");
            }
            // Nothing is read twice, and what is new is read once, also by a crawl between.
            world.crawl().await;
            assert_eq!(world.run().await.files_in, 0, "{what}");
            world.readings(&["d"]).await;
            assert_eq!(world.run().await.rows_out, 2, "{what}");
            assert_eq!(world.rows("curated").await.len(), 8, "{what}");
            world.clock.advance(Duration::from_secs(10));
            world.lake.drop_retired_files(Duration::from_secs(1)).await.unwrap();
            world = world.restart();
            assert_eq!(world.lake.recover().await.unwrap(), Default::default(), "{what}");
            assert_eq!(world.rows("curated").await.len(), 8, "{what}");
            assert_eq!(world.run().await.files_in, 0, "{what}");
        }
    }
}

#[tokio::test]
async fn objects_that_jobs_have_read_and_others_are_never_joined() {
    let world = table_of(&[&["a", "b"]]).await;
    world.readings(&["c", "d"]).await;
    let table = world.table("raw");
    let done = world.lake.compact_here(&table, &all()).await.unwrap();
    assert_eq!((done.len(), done[0].files_before, done[0].files_after), (1, 4, 2));
    let run = world.run().await;
    assert_eq!((run.files_in, run.rows_out), (1, 4));
    assert_eq!(world.rows("curated").await.len(), 8);
    assert_eq!(world.run().await.files_in, 0);
    let into = world.lake.joined_into("bkt", "raw/a").unwrap().unwrap();
    assert!(into.starts_with("raw/part-sw_"), "{into}");
    // Forgetting the bookmark makes all of it new.
    world.lake.reset_bookmark("j").unwrap();
    assert_eq!(world.run().await.rows_out, 8);
}

#[tokio::test]
async fn what_a_run_reads_is_left_alone_and_what_is_swapped_is_not_begun_with() {
    let world = table_of(&[&["a"]]).await;
    world.readings(&["b", "c"]).await;
    let table = world.table("raw");
    // Planned first: the run has its inputs when the swap is to be prepared.
    let spec = world.lake.plan_compaction(&table, &all(), &idle).await.unwrap().specs.remove(0);
    let result = compact(&spec).unwrap();
    let run = world.lake.start_run("j", &Default::default()).await.unwrap().spec.unwrap();
    let refused = world.lake.finish_compaction(&spec, &result, &idle).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert!(refused.to_string().contains(&run.run_id), "{refused}");
    let done = world.lake.finish_run("j", &run.run_id, &engine(&run)).await.unwrap();
    assert_eq!((done.state, done.rows_out), (RunState::Succeeded, 4));

    // The other way round: a run that meets a prepared swap waits until it is done.
    world.readings(&["d", "e"]).await;
    let spec = world.lake.plan_compaction(&table, &all(), &idle).await.unwrap().specs.remove(0);
    let result = compact(&spec).unwrap();
    let swap = world.lake.compaction(&spec, &result).unwrap().unwrap();
    world.lake.prepare_swap(swap).await.unwrap();
    let (planned, ()) = tokio::join!(world.run(), async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.lake.exchange_swap(&spec.id).await.unwrap();
        world.lake.commit_swap(&spec.id).unwrap();
    });
    assert_eq!((planned.files_in, planned.rows_out), (1, 4));
    assert_eq!(world.rows("curated").await.len(), 10);
}

#[tokio::test]
async fn busy_young_damaged_and_foreign_objects_are_left_alone() {
    let world = World::new();
    world.put("raw/a", "{\"n\":1}").await;
    world.put("raw/b", "{\"n\":2}").await;
    world.put("raw/c", "{\"n\":3} {\"n\":").await;
    world.crawl().await;
    let table = world.table("raw");
    let young = CompactOptions { age_ms_min: i64::MAX / 2, ..all() };
    let plan = world.lake.plan_compaction(&table, &young, &idle).await.unwrap();
    assert_eq!((plan.specs.len(), plan.left.len()), (0, 1));
    let busy = |_: &str, key: &str| key != "raw/c";
    let plan = world.lake.plan_compaction(&table, &all(), &busy).await.unwrap();
    assert_eq!((plan.specs.len(), plan.left.len()), (0, 1));
    let spec = world.lake.plan_compaction(&table, &all(), &idle).await.unwrap().specs.remove(0);
    let result = compact(&spec).unwrap();
    assert_eq!(result.left.len(), 1, "{result:?}");
    assert_eq!(result.left[0].0, "c");
    let refused = world.lake.finish_compaction(&spec, &result, &busy).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    // An object that was altered keeps the checksum that tells so.
    world.put("raw/e", "{\"n\":4}").await;
    let path = world.lake.buckets().local_path("bkt", "raw/e").unwrap();
    std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all(b"{\"n\":5}").unwrap();
    let plan = world.lake.plan_compaction(&table, &all(), &idle).await.unwrap();
    assert!(plan.left[0].1.contains("raw/e was altered"), "{:?}", plan.left);
    assert!(plan.specs[0].merges.iter().flatten().all(|input| input.name != "e"));
    world.lake.buckets().delete("bkt", "raw/e").await.unwrap();
    let spec = world.lake.plan_compaction(&table, &all(), &idle).await.unwrap().specs.remove(0);
    let done = world.lake.finish_compaction(&spec, &compact(&spec).unwrap(), &idle).await.unwrap();
    assert_eq!(done.unwrap().files_before, 2);
    assert_eq!(count(&world, "raw/").await, 2);
    let joined = world.lake.joined_into("bkt", "raw/b").unwrap().unwrap();
    let text = world.lake.buckets().get("bkt", &joined).await.unwrap();
    assert_eq!(&text[..], b"{\"n\":1}\n{\"n\":2}\n");
}

#[tokio::test]
async fn retention_takes_the_oldest_out_and_keeps_what_is_not_read() {
    let mut world = table_of(&[&["2020/01/01/a"], &["2020/01/02/b"], &["2999/01/01/c"]]).await;
    let raw_table = world.table("raw");
    let days = Retention { days: Some(30), bytes: None };
    world.lake.set_retention(&raw_table, days).unwrap();
    let report = world.lake.retain(&raw_table, &idle).await.unwrap();
    assert_eq!(report.len(), 2, "{report:?}");
    assert!(report.iter().all(|gone| gone.files == 1 && gone.why.contains("30 days")));
    assert_eq!(raw(&world).await.len(), 2);
    assert_eq!(count(&world, "raw/").await, 1);
    // An object that the job has not read stays.
    world.readings(&["2020/01/03/d"]).await;
    let raw_table = world.table("raw");
    let report = world.lake.retain(&raw_table, &idle).await.unwrap();
    assert_eq!((report.len(), report[0].files), (1, 0), "{report:?}");
    assert!(report[0].why.contains("not read by every job"), "{report:?}");

    // By size, as a commit; killed between its steps it is finished.
    let curated = world.table("curated");
    let bytes = world.lake.files(&curated).await.unwrap()[0].bytes;
    let size = Retention { days: None, bytes: Some(bytes + bytes / 2) };
    world.lake.set_retention(&curated, size).unwrap();
    let mut plan = world.lake.plan_retention(&curated, &idle).await.unwrap();
    let (expired, swap) = plan.remove(0);
    assert_eq!(expired.files, 2);
    let swap = swap.unwrap();
    let id = swap.id().to_owned();
    world.lake.prepare_swap(swap).await.unwrap();
    world.lake.exchange_swap(&id).await.unwrap();
    assert_eq!(world.rows("curated").await.len(), 6);
    world = world.restart();
    assert_eq!(world.lake.recover().await.unwrap().swaps.finished, 1);
    assert_eq!(world.rows("curated").await.len(), 2);
    let commits = world.lake.commits(&curated).unwrap();
    let last = commits.last().unwrap();
    assert_eq!((last.kind, last.rows_removed), (CommitKind::Expire, 4));
    let before = AsOf::Version(last.number - 1);
    assert_eq!(world.lake.files_as_of(&curated, before).await.unwrap().1.len(), 3);
}

#[tokio::test]
async fn a_table_dropped_while_it_is_swapped_comes_to_no_harm() {
    let world = table_of(&[&["a", "b"]]).await;
    let table = world.table("curated");
    let spec = world.lake.plan_compaction(&table, &all(), &idle).await.unwrap().specs.remove(0);
    let swap = world.lake.compaction(&spec, &compact(&spec).unwrap()).unwrap().unwrap();
    world.lake.prepare_swap(swap).await.unwrap();
    world.lake.catalog().drop_table("air", "curated").unwrap();
    world.lake.exchange_swap(&spec.id).await.unwrap();
    assert_eq!(world.lake.commit_swap(&spec.id).unwrap(), None);
    assert_eq!(listed(&world, "curated/").await.len(), 4);
}

/// A lister, a globber and a reader by the catalog, while runs append and files are compacted.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn e2_d2_readers_racing_compaction_count_each_row_once() {
    let world = Arc::new(World::new());
    world.lake.create_job(&job()).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let reader = tokio::spawn({
        let (world, done) = (Arc::clone(&world), Arc::clone(&done));
        async move {
            let (mut by_catalog, mut by_listing, mut rounds) = (0, 0, 0);
            // A swap may come between looking and opening, so a file is opened where it is or,
            // failing that, where it went; GET of S3 does the same.
            let open = |path: &Path| {
                let moved = || Reader::open(&world.lake.moved_to(path).unwrap());
                Reader::open(path).or_else(|_gone| moved()).unwrap()
            };
            while !done.load(Ordering::SeqCst) {
                let buckets = world.lake.buckets();
                let mut rows = Vec::new();
                for object in buckets.list("bkt", "curated/").await.unwrap() {
                    let path = buckets.verify("bkt", &object.key).unwrap().path;
                    rows.extend(rows_of(&open(&path)));
                }
                let mut known = rows.clone();
                known.sort_unstable();
                known.dedup();
                assert_eq!(known.len(), rows.len(), "a lister met a row twice");
                assert!(rows.len() >= by_listing, "a lister missed rows");
                by_listing = rows.len();
                if let Some(table) = world.lake.catalog().find_table("air", "curated").unwrap() {
                    let files = world.lake.files(&table).await.unwrap();
                    let read = |file: &lake::TableFile| rows_of(&open(&file.path)).len();
                    let rows: usize = files.iter().map(read).sum();
                    assert!(rows >= by_catalog, "a query missed rows");
                    by_catalog = rows;
                }
                rounds += 1;
            }
            rounds
        }
    });
    for round in 0..10 {
        let keys: Vec<String> =
            (0..4).map(|n| format!("{:x<width$}", n, width = round * 4 + n + 1)).collect();
        world.readings(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
        world.run().await;
        for name in ["raw", "curated"] {
            world.lake.compact_here(&world.table(name), &all()).await.unwrap();
        }
    }
    done.store(true, Ordering::SeqCst);
    assert!(reader.await.unwrap() > 0);
    let rows = world.rows("curated").await;
    assert_eq!(rows.len(), 80);
    assert_eq!(listed(&world, "curated/").await, rows);
}
