//! E1 and D2: wherever a run is killed, the table is the old or the new version, the bookmark
//! agrees with it, and whoever lists the prefix meets whole files only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lake::RunState;

use crate::world::{World, column_n, engine, job};

/// The places where a run can be killed.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Kill {
    Planned,
    Started,
    Staged,
    Prepared,
    /// After so many files were renamed.
    Publishing(usize),
    Published,
    /// Committed, but the staging folder is still there.
    Committed,
}

const KILLS: [Kill; 9] = [
    Kill::Planned,
    Kill::Started,
    Kill::Staged,
    Kill::Prepared,
    Kill::Publishing(1),
    Kill::Publishing(2),
    Kill::Publishing(3),
    Kill::Published,
    Kill::Committed,
];

async fn run_until(world: &World, kill: Kill) -> String {
    let lake = &world.lake;
    let planned = lake.start_run("j", &Default::default()).await.unwrap();
    let spec = planned.spec.unwrap();
    let run_id = spec.run_id.clone();
    if kill == Kill::Planned {
        return run_id;
    }
    lake.run_started("j", &run_id).unwrap();
    if kill == Kill::Started {
        return run_id;
    }
    let result = engine(&spec);
    assert_eq!(result.files.len(), 3);
    if kill == Kill::Staged {
        return run_id;
    }
    lake.prepare("j", &run_id, &result).await.unwrap();
    match kill {
        Kill::Publishing(count) => {
            for (index, file) in result.files.iter().enumerate().take(count) {
                let key = format!("curated/part-{run_id}-{index:05}.parquet");
                let staged = spec.staging.join(&file.path);
                lake.buckets().publish_file(&staged, "bkt", &key).await.unwrap();
            }
        }
        Kill::Published => lake.publish(&run_id).await.unwrap(),
        Kill::Committed => {
            lake.publish(&run_id).await.unwrap();
            lake.commit(&run_id).unwrap();
            std::fs::create_dir_all(&spec.staging).unwrap();
        }
        _ => {}
    }
    run_id
}

#[tokio::test]
async fn a_run_killed_anywhere_leaves_the_old_table_or_the_new() {
    for kill in KILLS {
        let mut world = World::new();
        world.lake.create_job(&job()).unwrap();
        world.readings(&["2026/a", "2026/b"]).await;
        world.run().await;
        let old = world.rows("curated").await;
        assert_eq!(old.len(), 4);

        world.readings(&["2026/c", "2026/d", "2026/e"]).await;
        let run_id = run_until(&world, kill).await;
        let before = world.rows("curated").await;
        assert!(before == old || kill == Kill::Committed, "{kill:?}: nothing shows early");

        world = world.restart();
        let recovered = world.lake.recover().await.unwrap();
        assert_eq!(world.staging_folders(), 0, "{kill:?}");
        assert!(recovered.stuck.is_empty(), "{kill:?}: {recovered:?}");
        let now = world.rows("curated").await;
        let run = world.lake.get_run("j", &run_id).unwrap();
        if kill < Kill::Prepared {
            assert_eq!(now, old, "{kill:?}");
            assert_eq!(run.state, RunState::Failed, "{kill:?}");
            assert!(run.error.unwrap().contains("server ended"), "{kill:?}");
        } else {
            assert_eq!(now.len(), 10, "{kill:?}");
            assert_eq!(run.state, RunState::Succeeded, "{kill:?}");
            assert_eq!((run.rows_out, run.files_out), (6, 3), "{kill:?}");
        }
        // A second start finds nothing to do.
        assert_eq!(world.lake.recover().await.unwrap(), Default::default(), "{kill:?}");

        // The bookmark agrees: the next run takes what is missing, and nothing twice.
        world.run().await;
        let mut expected: Vec<i64> = Vec::new();
        for key in ["2026/a", "2026/b", "2026/c", "2026/d", "2026/e"] {
            let n: i64 = key.bytes().map(i64::from).sum();
            expected.extend([n, n + 1000]);
        }
        expected.sort_unstable();
        assert_eq!(world.rows("curated").await, expected, "{kill:?}");
        // Nor does a lister find more than the catalog knows.
        let listed = world.lake.buckets().list("bkt", "curated/").await.unwrap();
        let known = world.lake.files(&world.table("curated")).await.unwrap();
        assert_eq!(listed.len(), known.len(), "{kill:?}");
    }
}

#[tokio::test]
async fn the_first_run_of_a_job_makes_the_table_or_no_trace_of_it() {
    for kill in KILLS {
        let mut world = World::new();
        world.lake.create_job(&job()).unwrap();
        world.readings(&["a", "b", "c"]).await;
        run_until(&world, kill).await;
        world = world.restart();
        world.lake.recover().await.unwrap();
        let there = world.lake.catalog().find_table("air", "curated").unwrap().is_some();
        assert_eq!(there, kill >= Kill::Prepared, "{kill:?}");
        if !there {
            assert!(world.lake.buckets().list("bkt", "curated/").await.unwrap().is_empty());
        }
        world.run().await;
        assert_eq!(world.rows("curated").await.len(), 6, "{kill:?}");
    }
}

#[tokio::test]
async fn recovery_may_itself_be_killed() {
    let mut world = World::new();
    world.lake.create_job(&job()).unwrap();
    world.readings(&["a", "b", "c"]).await;
    let run_id = run_until(&world, Kill::Publishing(1)).await;
    for _ in 0..3 {
        world = world.restart();
        world.lake.publish(&run_id).await.unwrap();
    }
    world = world.restart();
    assert_eq!(world.lake.recover().await.unwrap().finished.len(), 1);
    assert_eq!(world.rows("curated").await.len(), 6);
}

#[tokio::test]
async fn a_prepared_run_cannot_be_failed_stopped_or_overtaken() {
    let world = World::new();
    world.lake.create_job(&job()).unwrap();
    world.readings(&["a", "b", "c"]).await;
    let run_id = run_until(&world, Kill::Prepared).await;
    let conflict = base::ErrorKind::Conflict;
    assert_eq!(world.lake.fail_run("j", &run_id, "no").unwrap_err().kind(), conflict);
    assert_eq!(world.lake.stop_run("j", &run_id).unwrap_err().kind(), conflict);
    let other = world.lake.start_run("j", &Default::default()).await.unwrap_err();
    assert_eq!(other.kind(), conflict);
    assert_eq!(world.lake.delete_job("j").unwrap_err().kind(), conflict);
    // Nobody may take the table's name for another place while the run is on its way there.
    let table = lake::Table::new(("air", "curated"), ("bkt", "other/"), lake::Format::Json);
    assert_eq!(world.lake.catalog().create_table(table).unwrap_err().kind(), conflict);
    assert_eq!(world.lake.catalog().drop_database("air").unwrap_err().kind(), conflict);
    world.lake.resume(&run_id).await.unwrap();
    assert_eq!(world.rows("curated").await.len(), 6);
}

/// The disk lost a file of a prepared run: said loudly, at every start, and without keeping
/// the rest of the lake from starting.
#[tokio::test]
async fn a_run_that_cannot_be_finished_is_kept_and_reported() {
    let mut world = World::new();
    world.lake.create_job(&job()).unwrap();
    world.readings(&["a", "b", "c"]).await;
    let run_id = run_until(&world, Kill::Prepared).await;
    let staging = world.lake.run_folder(&run_id).join("staging");
    let kept = std::fs::read(staging.join("1.parquet")).unwrap();
    std::fs::remove_file(staging.join("1.parquet")).unwrap();
    for _ in 0..2 {
        world = world.restart();
        let recovered = world.lake.recover().await.unwrap();
        assert_eq!(recovered.stuck.len(), 1);
        assert!(recovered.stuck[0].1.contains("neither staged nor whole"), "{recovered:?}");
        assert!(world.rows("curated").await.is_empty());
    }
    // Put back by hand, it goes on.
    std::fs::write(staging.join("1.parquet"), kept).unwrap();
    world = world.restart();
    assert_eq!(world.lake.recover().await.unwrap().finished.len(), 1);
    assert_eq!(world.rows("curated").await.len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lister_racing_publishes_reads_whole_files_only() {
    let world = Arc::new(World::new());
    world.lake.create_job(&job()).unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let lister = tokio::spawn({
        let (world, done) = (Arc::clone(&world), Arc::clone(&done));
        async move {
            let mut files = 0;
            while !done.load(Ordering::SeqCst) {
                for object in world.lake.buckets().list("bkt", "curated/").await.unwrap() {
                    assert!(object.key.ends_with(".parquet"), "{}", object.key);
                    let path = world.lake.buckets().local_path("bkt", &object.key).unwrap();
                    assert_eq!(column_n(&path).len(), 2);
                    files += 1;
                }
            }
            files
        }
    });
    for round in 0..8 {
        let keys: Vec<String> = (0..5).map(|n| format!("{round}/{n}")).collect();
        world.readings(&keys.iter().map(String::as_str).collect::<Vec<_>>()).await;
        world.run().await;
    }
    done.store(true, Ordering::SeqCst);
    assert!(lister.await.unwrap() > 0);
    assert_eq!(world.rows("curated").await.len(), 80);
}
