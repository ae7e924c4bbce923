//! What a crawler may do, how it groups, and when it is due.

use base::{ErrorKind, Timestamp};
use lake::{
    CrawlSchedule, CrawlTarget, Crawler, Decision, DeleteBehavior, RecrawlBehavior, TableChange,
    TableGrouping, UpdateBehavior,
};

use crate::crawl::columns;
use crate::world::World;

fn crawler(change: impl FnOnce(&mut Crawler)) -> Crawler {
    let mut crawler = Crawler::new("c", ("bkt", "raw"), "air");
    change(&mut crawler);
    crawler
}

#[tokio::test]
async fn a_change_that_is_only_to_be_logged_is_left_and_said() {
    let world = World::new();
    world.put("raw/hour=1/a", "{\"n\":1,\"m\":1}").await;
    let log = crawler(|c| {
        c.policy.update = UpdateBehavior::Log;
        c.policy.delete = DeleteBehavior::Log;
    });
    world.lake.create_crawler(&log).unwrap();
    let report = world.lake.run_crawler("c").await.unwrap();
    assert_eq!(report.tables[0].change, TableChange::Created);
    world.put("raw/hour=1/a", "{\"n\":1.5,\"x\":\"y\"}").await;
    world.put("raw/hour=2/b", "{\"n\":2}").await;
    let report = world.lake.run_crawler("c").await.unwrap();
    let table = &report.tables[0];
    assert_eq!((table.change, table.partitions_added), (TableChange::Logged, 1));
    for part in ["\"n\" was int and is double", "\"x\" string is new", "\"m\" is gone"] {
        assert!(table.why.contains(part), "{}", table.why);
    }
    assert_eq!(columns(&world.table("raw").columns), "n:int m:int");
    assert_eq!(world.table("raw").version, 1);
    // What is gone stays in the catalog, too.
    for key in ["raw/hour=1/a", "raw/hour=2/b"] {
        world.lake.buckets().delete("bkt", key).await.unwrap();
    }
    let report = world.lake.run_crawler("c").await.unwrap();
    assert_eq!(report.tables[0].change, TableChange::Logged);
    assert_eq!(world.lake.catalog().list_partitions("air", "raw").unwrap().len(), 2);
    assert!(!world.table("raw").parameters.contains_key("DEPRECATED_BY_CRAWLER"));
}

#[tokio::test]
async fn new_columns_are_merged_and_tables_without_objects_deleted() {
    let world = World::new();
    world.put("raw/a", "{\"n\":1,\"m\":1}").await;
    let merge = crawler(|c| {
        c.policy.merge_new_columns = true;
        c.policy.delete = DeleteBehavior::DeleteFromDatabase;
    });
    world.lake.create_crawler(&merge).unwrap();
    world.lake.run_crawler("c").await.unwrap();
    world.put("raw/a", "{\"x\":1,\"n\":1.5}").await;
    let report = world.lake.run_crawler("c").await.unwrap();
    assert_eq!(report.tables[0].change, TableChange::Updated);
    assert!(report.tables[0].why.contains("\"x\" int is new"), "{}", report.tables[0].why);
    assert_eq!(columns(&world.table("raw").columns), "n:int m:int x:int");
    assert_eq!(world.lake.catalog().table_versions("air", "raw").unwrap().len(), 2);
    world.lake.buckets().delete("bkt", "raw/a").await.unwrap();
    // Crawls are told apart by when they began.
    world.clock.advance(std::time::Duration::from_secs(1));
    let report = world.lake.run_crawler("c").await.unwrap();
    assert_eq!(report.tables[0].change, TableChange::Deleted);
    assert!(world.lake.catalog().find_table("air", "raw").unwrap().is_none());
    let (crawl, kept) = world.lake.crawl_report("c", None).unwrap();
    assert_eq!((crawl.tables_deprecated, kept), (1, report));
}

#[tokio::test]
async fn only_new_folders_are_looked_into() {
    let world = World::new();
    world.put("raw/hour=1/a", "{\"n\":1}").await;
    let only = |c: &mut Crawler| c.policy.recrawl = RecrawlBehavior::CrawlNewFoldersOnly;
    let refused = world.lake.create_crawler(&crawler(only)).unwrap_err();
    assert!(refused.to_string().contains("LOG"), "{refused}");
    let log = crawler(|c| {
        only(c);
        c.policy.update = UpdateBehavior::Log;
        c.policy.delete = DeleteBehavior::Log;
    });
    world.lake.create_crawler(&log).unwrap();
    world.lake.run_crawler("c").await.unwrap();
    world.put("raw/hour=1/late", "{\"n\":1}").await;
    world.put("raw/hour=2/b", "{\"n\":1}").await;
    let report = world.lake.run_crawler("c").await.unwrap();
    let of = |key: &str| report.objects.iter().find(|o| o.key == key).unwrap();
    assert_eq!((report.found, report.read), (3, 1));
    assert_eq!(of("raw/hour=1/a").decision, Decision::Known);
    assert_eq!(of("raw/hour=2/b").decision, Decision::Read);
    assert_eq!(of("raw/hour=1/late").decision, Decision::LeftOut);
    assert!(of("raw/hour=1/late").why.contains("new folders"), "{}", of("raw/hour=1/late").why);
    assert_eq!(report.tables[0].partitions_added, 1);
    // It lies in the table's folder, so a query has it all the same.
    assert_eq!(world.lake.files(&world.table("raw")).await.unwrap().len(), 3);
}

#[tokio::test]
async fn grouping_decides_what_a_table_is() {
    let world = World::new();
    world.put("raw/x/orders/a", "{\"id\":1,\"price\":2}").await;
    world.put("raw/y/people/b", "{\"name\":\"n\",\"street\":\"s\"}").await;
    world.put("raw/y/c.csv", "a,b\n1,2\n").await;
    let combine = crawler(|c| c.policy.grouping = TableGrouping::CombineCompatibleSchemas);
    world.lake.create_crawler(&combine).unwrap();
    let report = world.lake.run_crawler("c").await.unwrap();
    assert_eq!(report.tables.len(), 1);
    let table = world.table("raw");
    assert_eq!(columns(&table.columns), "id:int price:int name:string street:string");
    assert_eq!(columns(&table.partition_keys), "partition_0:string partition_1:string");
    let of = |key: &str| report.objects.iter().find(|o| o.key == key).unwrap().why.clone();
    assert!(of("raw/y/c.csv").contains("csv in a folder of json"));

    world.lake.delete_crawler("c").unwrap();
    world.lake.catalog().drop_table("air", "raw").unwrap();
    // The bucket is level 1, raw/ level 2.
    let level = |level: u32| crawler(|c| c.policy.grouping = TableGrouping::Level(level));
    let refused = world.lake.create_crawler(&level(1)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    assert!(refused.to_string().contains("level 2"), "{refused}");
    world.lake.create_crawler(&level(4)).unwrap();
    let report = world.lake.run_crawler("c").await.unwrap();
    let names: Vec<&str> = report.tables.iter().map(|table| table.table.as_str()).collect();
    assert_eq!(names, ["orders", "people"]);
    let of = |key: &str| report.objects.iter().find(|o| o.key == key).unwrap().why.clone();
    assert!(of("raw/y/c.csv").contains("above the crawler's table level"));
}

#[tokio::test]
async fn several_places_are_crawled_as_one() {
    let world = World::new();
    world.lake.buckets().create_bucket("other").unwrap();
    world.put("raw/a", "{\"n\":1}").await;
    world.put("left/out/b", "{\"n\":1}").await;
    let bytes = bytes::Bytes::from_static(b"{\"m\":1}");
    world.lake.buckets().put("other", "data/b", bytes).await.unwrap();
    let both = crawler(|c| {
        c.also.push(CrawlTarget {
            bucket: "other".into(),
            prefix: "data/".into(),
            exclusions: vec!["x/**".into()],
        });
    });
    world.lake.create_crawler(&both).unwrap();
    let report = world.lake.run_crawler("c").await.unwrap();
    assert_eq!((report.found, report.tables.len()), (2, 2));
    assert_eq!(world.table("data").bucket, "other");
    assert_eq!(world.table("data").exclusions, ["x/**"]);
    // A place that is gone fails the crawl, and no table of the others is taken for gone.
    world.lake.buckets().delete("other", "data/b").await.unwrap();
    world.lake.buckets().delete_bucket("other").await.unwrap();
    assert!(world.lake.run_crawler("c").await.is_err());
    assert!(!world.table("raw").parameters.contains_key("DEPRECATED_BY_CRAWLER"));
}

#[tokio::test]
async fn a_schedule_is_due_once_and_only_while_it_is_in_force() {
    let world = World::new();
    let from = Timestamp(1_795_392_000_000);
    let hourly =
        CrawlSchedule { expression: "cron(0 * * * ? *)".parse().unwrap(), on: true, seen: from };
    world.lake.create_crawler(&crawler(|c| c.schedule = Some(hourly.clone()))).unwrap();
    world.lake.create_crawler(&Crawler { name: "idle".into(), ..crawler(|_| {}) }).unwrap();
    let due = |hours: f64| {
        let now = Timestamp(from.millis() + (hours * 3_600_000.0) as i64);
        world.lake.take_due_crawlers(now).unwrap()
    };
    assert_eq!(due(0.0), [""; 0]);
    assert_eq!(due(1.5), ["c"]);
    assert_eq!(due(1.6), [""; 0]);
    // Three times missed, once made up for.
    assert_eq!(due(4.5), ["c"]);
    let off =
        |found: Option<CrawlSchedule>| Ok(found.map(|found| CrawlSchedule { on: false, ..found }));
    world.lake.set_crawler_schedule("c", off).unwrap();
    assert_eq!(due(9.0), [""; 0]);
    let none = world.lake.set_crawler_schedule("nobody", |_| Ok(None)).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NotFound);
}
