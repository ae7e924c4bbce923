//! What statements write, killed at every step: all of it, or nothing.

use base::ErrorKind;
use lake::{Column, FileSource, Format, Lake, Table, Write, WriteFile, WriteInto, write_id};

use crate::world::World;

/// Up to where a write comes before it is killed.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
enum Kill {
    Staged,
    Prepared,
    Publishing,
    Published,
    Committed,
}

const KILLS: [Kill; 5] =
    [Kill::Staged, Kill::Prepared, Kill::Publishing, Kill::Published, Kill::Committed];

fn table(name: &str, source: FileSource) -> Table {
    let mut table = Table::new(("air", name), ("bkt", format!("{name}/")), Format::Json);
    table.columns = vec![Column::new("n", "bigint")];
    table.partition_keys = vec![Column::new("day", "string")];
    table.source = source;
    table
}

/// Three files in two partitions, and one beside them.
fn write(lake: &Lake, statement: &str, into: WriteInto) -> Write {
    let id = write_id(statement);
    let staging = lake.write_staging(&id).unwrap();
    let prefix = match &into {
        WriteInto::Table(table) | WriteInto::New(table) => table.prefix.clone(),
        WriteInto::Place => "place/".to_owned(),
    };
    let file = |name: &str, key: String, rows: u64| {
        let text = "{\"n\":1}\n".repeat(rows as usize);
        std::fs::write(staging.join(name), &text).unwrap();
        WriteFile {
            staged: name.to_owned(),
            bucket: "bkt".to_owned(),
            key,
            bytes: text.len() as u64,
            rows,
            partition_values: Vec::new(),
        }
    };
    let files = [("a", "1"), ("b", "1"), ("c", "2")].map(|(name, day)| WriteFile {
        partition_values: vec![day.to_owned()],
        ..file(name, format!("{prefix}day={day}/{statement}-{name}.json"), 2)
    });
    let beside = vec![file("list", format!("lists/{statement}"), 0)];
    Write { id, into, files: files.into(), beside, bytes_scanned: 5 }
}

/// Brings a write so far.
async fn carry(world: &World, write: Write, kill: Kill) {
    let (lake, id) = (&world.lake, write.id.clone());
    let first = write.files[0].clone();
    if kill >= Kill::Prepared {
        lake.prepare_write(write).await.unwrap();
    }
    if kill == Kill::Publishing {
        let staged = lake.write_staging(&id).unwrap().join(&first.staged);
        lake.buckets().publish_file(&staged, "bkt", &first.key).await.unwrap();
    }
    if kill >= Kill::Published {
        lake.publish_write(&id).await.unwrap();
    }
    if kill >= Kill::Committed {
        lake.commit_write(&id).unwrap();
    }
}

async fn files(world: &World, name: &str) -> usize {
    match world.lake.catalog().find_table("air", name).unwrap() {
        Some(table) => world.lake.files(&table).await.unwrap().len(),
        None => 0,
    }
}

fn partitions(world: &World, name: &str) -> usize {
    world.lake.catalog().list_partitions("air", name).unwrap().len()
}

#[tokio::test]
async fn a_write_killed_anywhere_is_there_whole_or_not_at_all() {
    for source in [FileSource::Listed, FileSource::Committed] {
        for kill in KILLS {
            let mut world = World::new();
            let table = world.lake.catalog().create_table(table("t", source)).unwrap();
            let into = WriteInto::Table(Box::new(table.clone()));
            carry(&world, write(&world.lake, "one", into.clone()), Kill::Committed).await;
            assert_eq!((files(&world, "t").await, partitions(&world, "t")), (3, 2));

            carry(&world, write(&world.lake, "two", into), kill).await;
            let early = if kill == Kill::Committed { 6 } else { 3 };
            assert_eq!(files(&world, "t").await, early, "{kill:?}: nothing shows early");

            world = world.restart();
            let recovered = world.lake.recover().await.unwrap();
            assert!(recovered.stuck.is_empty(), "{kill:?}: {recovered:?}");
            assert_eq!(world.staging_folders(), 0, "{kill:?}");
            let whole = kill >= Kill::Prepared;
            let finished = world.lake.finished_write(&write_id("two")).unwrap();
            assert_eq!(
                finished.map(|done| (done.rows, done.bytes_scanned)),
                whole.then_some((6, 5))
            );
            assert_eq!(files(&world, "t").await, if whole { 6 } else { 3 }, "{kill:?}");
            let listed = world.lake.buckets().list("bkt", "").await.unwrap().len();
            assert_eq!(listed, if whole { 8 } else { 4 }, "{kill:?}");
            let commits = world.lake.commits(&table).unwrap().len();
            let commits_expected =
                if source == FileSource::Listed { 0 } else { 1 + usize::from(whole) };
            assert_eq!(commits, commits_expected, "{kill:?}");
            world.lake.forget_write(&write_id("two")).unwrap();
            assert_eq!(world.lake.finished_write(&write_id("two")).unwrap(), None);
        }
    }
}

#[tokio::test]
async fn a_table_that_comes_with_its_rows_comes_with_all_of_them() {
    for kill in KILLS {
        let mut world = World::new();
        let into = WriteInto::New(Box::new(table("new", FileSource::Listed)));
        carry(&world, write(&world.lake, "one", into), kill).await;
        world = world.restart();
        world.lake.recover().await.unwrap();
        let whole = kill >= Kill::Prepared;
        let there = world.lake.catalog().find_table("air", "new").unwrap().is_some();
        assert_eq!((there, files(&world, "new").await), (whole, if whole { 3 } else { 0 }));
        assert_eq!(
            world.lake.buckets().list("bkt", "").await.unwrap().len(),
            if whole { 4 } else { 0 }
        );
    }
}

#[tokio::test]
async fn what_a_write_stands_on_does_not_change_under_it() {
    let mut world = World::new();
    let made = world.lake.catalog().create_table(table("t", FileSource::Listed)).unwrap();
    let into = || WriteInto::Table(Box::new(made.clone()));
    let changed = world.lake.catalog().update_table(made.clone()).unwrap();
    let refused = world.lake.write(write(&world.lake, "one", into())).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    assert_eq!(world.staging_folders(), 0);

    let into = || WriteInto::Table(Box::new(changed.clone()));
    carry(&world, write(&world.lake, "two", into()), Kill::Prepared).await;
    carry(
        &world,
        write(&world.lake, "three", WriteInto::New(Box::new(table("n", FileSource::Listed)))),
        Kill::Prepared,
    )
    .await;
    let catalog = world.lake.catalog();
    for refused in [
        catalog.update_table(changed.clone()).unwrap_err(),
        catalog.create_table(table("n", FileSource::Listed)).unwrap_err(),
        catalog.drop_database("air").unwrap_err(),
    ] {
        assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    }
    // Nor is what lies staged taken away.
    world.lake.drop_write(&write_id("two"));
    // A table that is dropped meanwhile is dropped with the rows.
    catalog.drop_table("air", "t").unwrap();
    world = world.restart();
    assert_eq!(world.lake.recover().await.unwrap().writes.len(), 2);
    assert!(world.lake.catalog().find_table("air", "t").unwrap().is_none());
    assert_eq!(files(&world, "n").await, 3);
}

/// A listing that goes on while statements write sees each of them whole or not at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_lists_meanwhile_sees_no_half_of_a_statement() {
    let world = World::new();
    let table = world.lake.catalog().create_table(table("t", FileSource::Listed)).unwrap();
    let listing = {
        let (lake, table) = (world.lake.clone(), table.clone());
        tokio::spawn(async move {
            let (mut last, mut looks) = (0, 0_u64);
            while last < 60 * 3 {
                let found = lake.files(&table).await.unwrap().len();
                assert_eq!(found % 3, 0, "a part of a statement");
                assert!(found >= last);
                (last, looks) = (found, looks + 1);
            }
            looks
        })
    };
    for number in 0..60 {
        let into = WriteInto::Table(Box::new(table.clone()));
        let write = write(&world.lake, &format!("s{number}"), into);
        assert_eq!(world.lake.write(write).await.unwrap().rows, 6);
    }
    assert!(listing.await.unwrap() > 0);
}

#[tokio::test]
async fn a_place_is_filled_without_a_table_and_a_bad_key_is_found_out_early() {
    let world = World::new();
    let filled = write(&world.lake, "one", WriteInto::Place);
    assert_eq!(world.lake.write(filled).await.unwrap().rows, 6);
    assert_eq!(world.lake.buckets().list("bkt", "place/").await.unwrap().len(), 3);
    let mut bad = write(&world.lake, "two", WriteInto::Place);
    bad.files[2].bucket = "nobucket".into();
    assert!(world.lake.write(bad).await.is_err());
    assert_eq!(world.lake.buckets().list("bkt", "place/").await.unwrap().len(), 3);
    assert_eq!(world.staging_folders(), 0);
}
