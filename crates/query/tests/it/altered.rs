//! Objects whose bytes are not those that were stored.

use std::os::unix::fs::FileExt;
use std::path::Path;

use base::ErrorKind;
use lake::Decision;

use crate::world::{World, job};

const OBJECTS: u32 = 1_000;
const EACH: u32 = 10;

/// The readings of an object: `v` is 5 in all of them.
fn readings(object: u32) -> String {
    let row = |n: u32| format!("{{\"object\":{object},\"n\":{n},\"v\":5}}\n");
    (0..EACH).map(row).collect()
}

fn key(object: u32) -> String {
    format!("raw/readings/{object:04}.json")
}

/// Turns the lowest bit of a byte round, as a disk does: no time of the file tells of it.
fn flip(path: &Path, at: u64) {
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.set_modified(modified).unwrap();
}

#[tokio::test]
async fn d7_one_flipped_bit_in_one_of_a_thousand_objects_is_noticed_and_not_averaged_in() {
    let world = World::new();
    for object in 0..OBJECTS {
        world.put(&key(object), readings(object)).await;
    }
    world.crawl().await;
    let question = "SELECT count(*), sum(v), avg(v) FROM readings";
    let all = OBJECTS * EACH;
    let right = format!("{all}|{}|5.0", all * 5);
    // The control: unharmed, the set gives the right answer.
    assert_eq!(world.rows(question).await, [right.as_str()]);
    assert_eq!(world.lake.buckets().sum_totals().altered, 0);

    // A 5 becomes a 4: still JSON, still a number, and nothing else would ever tell.
    let hit = 517;
    let path = world.lake.buckets().local_path("bkt", &key(hit)).unwrap();
    let at = readings(hit).find("\"v\":5").unwrap() + 4;
    flip(&path, at as u64);
    let now = std::fs::read_to_string(&path).unwrap();
    assert_eq!(now.len(), readings(hit).len());
    assert!(now.contains("\"v\":4") && now.lines().all(|line| line.ends_with('}')), "{now}");

    // A query that would read it fails and names it; one that does not goes on.
    let named = format!("object bkt/{} was altered", key(hit));
    for _ in 0..2 {
        let error = world.sql(question).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(&named), "{error}");
    }
    // A crawl says so, and does not make the table smaller behind the reader's back.
    let report = world.lake.run_crawler("c").await.unwrap();
    let said = report.objects.iter().find(|object| object.key == key(hit)).unwrap();
    // The crawl before looked at it when it was sound, and nothing about the file has changed.
    assert_eq!(said.decision, Decision::Known);
    std::fs::File::open(&path).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let report = world.lake.run_crawler("c").await.unwrap();
    let said = report.objects.iter().find(|object| object.key == key(hit)).unwrap();
    assert_eq!((said.decision, report.altered, report.left_out), (Decision::Altered, 1, 1));
    assert!(said.why.contains(&named), "{}", said.why);
    assert!(world.sql(question).await.unwrap_err().to_string().contains(&named));

    // A run leaves it out by name; what it writes has no row of it.
    let (run, _) = world.run(&job("readings", vec![], "source", &[])).await;
    assert_eq!((run.files_in, run.files_altered), (u64::from(OBJECTS - 1), 1));
    assert_eq!(run.altered, [format!("bkt/{}", key(hit))]);
    let curated = "SELECT count(*), sum(v), avg(v) FROM curated";
    let less = all - EACH;
    assert_eq!(world.rows(curated).await, [format!("{less}|{}|5.0", less * 5)]);
    assert!(world.lake.buckets().sum_totals().altered >= 1);

    // Put again, it is what it was, for queries and for the next run.
    world.put(&key(hit), readings(hit)).await;
    assert_eq!(world.rows(question).await, [right.as_str()]);
    let (run, _) = world.run(&job("readings", vec![], "source", &[])).await;
    assert_eq!((run.files_in, run.files_altered), (1, 0));
    assert_eq!(world.rows(curated).await, [right.as_str()]);
}

#[tokio::test]
async fn d7_a_flipped_bit_in_a_jobs_parquet_fails_the_query_by_name() {
    let world = World::new();
    let row = |n: u32| format!("{{\"n\":{n},\"v\":{}}}\n", n * 7_919 % 1_000);
    world.put("raw/readings/a.json", (0..5_000).map(row).collect::<String>()).await;
    world.crawl().await;
    world.run(&job("readings", vec![], "source", &[])).await;
    let question = "SELECT count(*), sum(v) FROM curated";
    let right = world.rows(question).await;
    let table = world.lake.catalog().get_table("air", "curated").unwrap();
    let files = world.lake.files(&table).await.unwrap();
    let (mut caught, tries) = (0, 40);
    for step in 0..tries {
        let file = &files[0];
        let at = file.bytes * step / tries;
        flip(&file.path, at);
        let error = world.sql(question).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains(&format!("object bkt/{}", file.key)), "{error}");
        caught += 1;
        flip(&file.path, at);
        assert_eq!(world.rows(question).await, right);
    }
    assert_eq!(caught, tries);
}
