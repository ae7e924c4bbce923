//! Crawls: what is read, what becomes a table, and what is said about the rest.

use std::io::Write;

use base::ErrorKind;
use lake::{
    ClassifierKind, Column, CrawlOutcome, CrawlState, Crawler, Decision, Format, TableChange,
};

use crate::world::{World, job};

pub(crate) fn columns(columns: &[Column]) -> String {
    let shown = |column: &Column| format!("{}:{}", column.name, column.hive_type);
    columns.iter().map(shown).collect::<Vec<_>>().join(" ")
}

fn gzip(text: &str) -> bytes::Bytes {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(text.as_bytes()).unwrap();
    packed.finish().unwrap().into()
}

#[tokio::test]
async fn a_delivery_stream_becomes_a_table() {
    let world = World::new();
    world
        .put("raw/2026/11/23/05/a", "{\"ts\":\"x\",\"ozone\":41}{\"ts\":\"y\",\"ozone\":null}")
        .await;
    let packed = gzip("{\"ts\":\"z\",\"ozone\":42,\"no2\":1.5}\n");
    world.lake.buckets().put("bkt", "raw/2026/11/23/06/b.gz", packed).await.unwrap();
    let report = world.crawl().await;
    assert_eq!((report.found, report.read, report.known, report.left_out), (2, 2, 0, 0));
    assert_eq!(report.tables[0].change, TableChange::Created);
    assert_eq!(report.tables[0].partitions_added, 2);

    let table = world.table("raw");
    assert_eq!((table.format, table.prefix.as_str()), (Format::Json, "raw/"));
    assert_eq!(columns(&table.columns), "ts:string ozone:int no2:double");
    assert_eq!(
        columns(&table.partition_keys),
        "partition_0:string partition_1:string partition_2:string partition_3:string"
    );
    assert_eq!(table.parameters["recordCount"], "3");
    assert_eq!(table.parameters["UPDATED_BY_CRAWLER"], "c");
    let files = world.lake.files(&table).await.unwrap();
    assert_eq!(files[1].partition_values, ["2026", "11", "23", "06"]);
    let partitions = world.lake.catalog().list_partitions("air", "raw").unwrap();
    assert_eq!(partitions[0].prefix, "raw/2026/11/23/05/");
}

#[tokio::test]
async fn an_object_is_read_once_and_a_change_makes_a_version() {
    let world = World::new();
    world.put("raw/1/a", "{\"n\":1}").await;
    world.crawl().await;
    let again = world.crawl().await;
    assert_eq!((again.read, again.known), (0, 1));
    assert_eq!(again.tables[0].change, TableChange::Unchanged);
    assert_eq!(again.objects[0].decision, Decision::Known);
    assert_eq!(world.table("raw").version, 1);

    world.put("raw/2/b", "{\"n\":3000000000,\"o\":true}").await;
    let third = world.crawl().await;
    assert_eq!((third.read, third.known), (1, 1));
    assert_eq!(third.tables[0].change, TableChange::Updated);
    let table = world.table("raw");
    assert_eq!((table.version, columns(&table.columns)), (2, "n:bigint o:boolean".to_owned()));
    let versions = world.lake.catalog().table_versions("air", "raw").unwrap();
    assert_eq!(columns(&versions[1].columns), "n:int");

    world.put("raw/2/b", "{\"n\":2}").await;
    assert_eq!(world.crawl().await.read, 1, "changed, so read again");
    assert_eq!(columns(&world.table("raw").columns), "n:int");
}

/// The same objects make the same table, in however many crawls they came.
#[tokio::test]
async fn the_schema_depends_on_the_objects_and_not_on_the_crawls() {
    let texts = ["{\"a\":null}", "{\"b\":1,\"a\":2}", "{\"b\":1.5}", "{\"b\":null,\"c\":[1]}"];
    let at_once = World::new();
    let one_by_one = World::new();
    for (index, text) in texts.iter().enumerate() {
        at_once.put(&format!("raw/{index}"), text).await;
        one_by_one.put(&format!("raw/{index}"), text).await;
        one_by_one.crawl().await;
    }
    at_once.crawl().await;
    assert_eq!(columns(&at_once.table("raw").columns), "a:int b:double c:array<int>");
    assert_eq!(at_once.table("raw").columns, one_by_one.table("raw").columns);
}

#[tokio::test]
async fn every_object_is_accounted_for_and_none_fails_the_crawl() {
    let world = World::new();
    world.put("raw/good", "{\"n\":1}\nnoise\n{\"n\":2}\n").await;
    world.put("raw/_SUCCESS", "x").await;
    world.put("raw/.hidden/x", "{\"n\":1}").await;
    world.put("raw/empty", "").await;
    world.put("raw/blank", "  \n ").await;
    world.put("raw/list", "[{\"n\":1}]").await;
    world.put("raw/text", "hello, world").await;
    world.put("raw/csv", "a,b\n1,2\n").await;
    world.put("raw/prose", "a { b }\nc { d }\n").await;
    world.put("raw/half.gz", "\u{1f}").await;
    let mut torn = gzip(&"{\"n\":1}".repeat(1000)).to_vec();
    torn.truncate(20);
    world.lake.buckets().put("bkt", "raw/torn.gz", torn.into()).await.unwrap();
    world.put("raw/fake.parquet", "PAR1 but no more of it").await;
    let report = world.crawl().await;
    assert_eq!(report.found, 12);
    assert_eq!(report.left_out, 10);
    assert_eq!(report.objects.len(), 12);
    let why = |key: &str| {
        let object = report.objects.iter().find(|object| object.key == key).unwrap();
        (object.decision, object.why.as_str())
    };
    assert_eq!(why("raw/good").0, Decision::Read);
    for (key, expected) in [
        ("raw/_SUCCESS", "starts with '_' or '.'"),
        ("raw/.hidden/x", "starts with '_' or '.'"),
        ("raw/empty", "it is empty"),
        ("raw/blank", "white space"),
        ("raw/list", "one JSON array; give the crawler a classifier with the JSON path $[*]"),
        ("raw/text", "neither JSON objects nor delimited text nor Parquet"),
        ("raw/csv", "it is csv in a folder of json"),
        ("raw/prose", "no"),
        ("raw/half.gz", "its name promises Gzip"),
        ("raw/fake.parquet", "cannot be read"),
    ] {
        let (decision, why) = why(key);
        assert_eq!(decision, Decision::LeftOut, "{key}: {why}");
        assert!(why.contains(expected), "{key}: {why}");
    }
    // What comes before the damage is in the table.
    assert_eq!(why("raw/torn.gz").0, Decision::Read);
    assert!(why("raw/torn.gz").1.contains("as far as it is sound"), "{}", why("raw/torn.gz").1);
    // What was left out is no part of the table either.
    let files = world.lake.files(&world.table("raw")).await.unwrap();
    assert_eq!(
        files.iter().map(|file| file.key.as_str()).collect::<Vec<_>>(),
        ["raw/good", "raw/torn.gz"]
    );
    assert_eq!(columns(&world.table("raw").columns), "n:int");
}

#[tokio::test]
async fn exclusions_are_no_part_of_the_table() {
    let world = World::new();
    world.put("raw/1/a", "{\"n\":1}").await;
    world.put("raw/errors/e", "{\"rawData\":\"\"}").await;
    let mut crawler = Crawler::new("c", ("bkt", "raw"), "air");
    crawler.exclusions = vec!["errors/**".into()];
    world.lake.create_crawler(&crawler).unwrap();
    let report = world.crawl().await;
    assert_eq!(report.left_out, 1);
    assert_eq!(world.lake.files(&world.table("raw")).await.unwrap().len(), 1);
    world.put("raw/errors/f", "{\"rawData\":\"\"}").await;
    assert_eq!(world.lake.files(&world.table("raw")).await.unwrap().len(), 1);
}

#[tokio::test]
async fn an_object_that_came_after_the_crawl_is_in_the_table() {
    let world = World::new();
    world.put("raw/1/a", "{\"n\":1}").await;
    world.crawl().await;
    world.put("raw/1/b", "{\"n\":2}").await;
    assert_eq!(world.lake.files(&world.table("raw")).await.unwrap().len(), 2);
}

#[tokio::test]
async fn folders_with_different_things_are_tables_of_their_own_and_names_do_not_clash() {
    let world = World::new();
    world.put("raw/x/orders/a", "{\"id\":1,\"price\":2}").await;
    world.put("raw/y/people/b", "{\"name\":\"n\",\"street\":\"s\"}").await;
    world.put("raw/z/x/c", "{\"k\":1}").await;
    let report = world.crawl().await;
    let names: Vec<&str> = report.tables.iter().map(|table| table.table.as_str()).collect();
    assert_eq!(names, ["x", "y", "z"]);
    // A table of that name elsewhere: told apart by a suffix, which stays.
    let mut other = Crawler::new("other", ("bkt", "raw/z/x"), "air");
    other.table_prefix = String::new();
    world.lake.create_crawler(&other).unwrap();
    let report = world.lake.run_crawler("other").await.unwrap();
    let name = report.tables[0].table.clone();
    assert!(name.starts_with("x_") && name.len() == 10, "{name}");
    let again = world.lake.run_crawler("other").await.unwrap();
    assert_eq!(again.tables[0].table, name);
    assert_eq!(again.tables[0].change, TableChange::Unchanged);
}

#[tokio::test]
async fn partitions_and_tables_whose_objects_are_gone_are_noticed() {
    let world = World::new();
    world.put("raw/hour=1/a", "{\"n\":1}").await;
    world.put("raw/hour=2/b", "{\"n\":1}").await;
    world.crawl().await;
    assert_eq!(columns(&world.table("raw").partition_keys), "hour:string");
    world.lake.buckets().delete("bkt", "raw/hour=1/a").await.unwrap();
    let report = world.crawl().await;
    assert_eq!(report.tables[0].partitions_removed, 1);
    world.lake.buckets().delete("bkt", "raw/hour=2/b").await.unwrap();
    let report = world.crawl().await;
    assert_eq!(report.tables[0].change, TableChange::Deprecated);
    assert!(world.table("raw").parameters.contains_key("DEPRECATED_BY_CRAWLER"));
    assert!(world.crawl().await.tables.is_empty(), "said once");
    world.put("raw/hour=3/c", "{\"n\":1}").await;
    world.crawl().await;
    assert!(!world.table("raw").parameters.contains_key("DEPRECATED_BY_CRAWLER"));
}

#[tokio::test]
async fn what_a_job_writes_is_left_alone() {
    let world = World::new();
    world.lake.create_job(&job()).unwrap();
    world.readings(&["a", "b"]).await;
    world.run().await;
    world.lake.create_crawler(&Crawler::new("c2", ("bkt", "curated"), "air")).unwrap();
    let before = world.table("curated");
    let report = world.lake.run_crawler("c2").await.unwrap();
    assert_eq!(report.tables[0].change, TableChange::LeftAlone);
    assert_eq!(world.table("curated"), before);
}

#[tokio::test]
async fn parquet_is_known_by_its_bytes() {
    let world = World::new();
    world.lake.create_job(&job()).unwrap();
    world.readings(&["a", "b"]).await;
    world.run().await;
    let written = world.lake.files(&world.table("curated")).await.unwrap();
    let bytes = world.lake.buckets().get("bkt", &written[0].key).await.unwrap();
    world.lake.buckets().put("bkt", "given/day=1/no-ending", bytes).await.unwrap();
    world.put("given/day=1/new", "{\"n\":1}").await;
    world.put("given/day=1/other", "{\"n\":1}").await;
    world.lake.buckets().delete("bkt", "given/day=1/new").await.unwrap();
    world.lake.buckets().delete("bkt", "given/day=1/other").await.unwrap();
    world.lake.create_crawler(&Crawler::new("g", ("bkt", "given"), "air")).unwrap();
    world.lake.run_crawler("g").await.unwrap();
    let table = world.table("given");
    assert_eq!((table.format, columns(&table.columns)), (Format::Parquet, "n:int".to_owned()));
    assert_eq!(table.parameters["recordCount"], "2");
    // JSON that came since is not handed to a reader of Parquet.
    world.put("given/day=1/late", "{\"n\":1}").await;
    assert_eq!(world.lake.files(&table).await.unwrap().len(), 1);
}

#[tokio::test]
async fn crawlers_are_rows_with_a_state() {
    let world = World::new();
    let crawler = Crawler::new("c", ("bkt", "raw"), "air");
    world.lake.create_crawler(&crawler).unwrap();
    let twice = world.lake.create_crawler(&crawler).unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::AlreadyExists);
    let bad = |change: fn(&mut Crawler)| {
        let mut crawler = Crawler::new("d", ("bkt", "raw"), "air");
        change(&mut crawler);
        world.lake.create_crawler(&crawler).unwrap_err().kind()
    };
    assert_eq!(bad(|c| c.name = "a/b".into()), ErrorKind::Invalid);
    assert_eq!(bad(|c| c.prefix = "../x".into()), ErrorKind::Invalid);
    assert_eq!(bad(|c| c.exclusions = vec!["[".into()]), ErrorKind::Invalid);
    let mut nowhere = crawler.clone();
    nowhere.database = "nowhere".into();
    world.lake.update_crawler(&nowhere).unwrap();
    assert_eq!(world.lake.run_crawler("c").await.unwrap_err().kind(), ErrorKind::NotFound);
    let last = world.lake.get_crawler("c").unwrap().last.unwrap();
    assert!(last.error.unwrap().contains("nowhere"));
    world.lake.update_crawler(&crawler).unwrap();
    world.lake.run_crawler("c").await.unwrap();
    assert_eq!(world.lake.get_crawler("c").unwrap().last.unwrap().error, None);
    world.lake.delete_crawler("c").unwrap();
    assert_eq!(world.lake.run_crawler("c").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_crawl_that_is_stopped_changes_nothing_and_is_remembered() {
    let world = World::new();
    world.put("raw/a", "{\"n\":1}").await;
    world.lake.create_crawler(&Crawler::new("c", ("bkt", "raw"), "air")).unwrap();
    let idle = world.lake.stop_crawler("c").unwrap_err();
    assert_eq!(idle.kind(), ErrorKind::Conflict);
    let mut crawl = Box::pin(world.lake.run_crawler("c"));
    assert!(futures::poll!(&mut crawl).is_pending());
    assert_eq!(world.lake.list_crawls("c").unwrap()[0].outcome, CrawlOutcome::Running);
    world.lake.stop_crawler("c").unwrap();
    assert_eq!(world.lake.get_crawler("c").unwrap().state, CrawlState::Stopping);
    assert_eq!(world.lake.delete_crawler("c").unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(crawl.await.unwrap_err().kind(), ErrorKind::Conflict);
    let last = world.lake.get_crawler("c").unwrap();
    assert_eq!(last.state, CrawlState::Ready);
    let last = last.last.unwrap();
    assert_eq!((last.stopped, last.error), (true, None));
    assert!(world.lake.catalog().list_tables("air").unwrap().is_empty());

    world.lake.run_crawler("c").await.unwrap();
    let crawls = world.lake.list_crawls("c").unwrap();
    let outcomes: Vec<CrawlOutcome> = crawls.iter().map(|crawl| crawl.outcome).collect();
    assert_eq!(outcomes.len(), 2);
    assert!(outcomes.contains(&CrawlOutcome::Stopped));
    let done = crawls.iter().find(|crawl| crawl.outcome == CrawlOutcome::Completed).unwrap();
    assert_eq!((done.tables_created, done.tables_updated), (1, 0));
    world.lake.delete_crawler("c").unwrap();
    assert_eq!(world.lake.list_crawls("c").unwrap_err().kind(), ErrorKind::NotFound);
}

fn csv(delimiter: u8, header: Option<bool>, names: &[&str]) -> ClassifierKind {
    ClassifierKind::Csv {
        delimiter: Some(delimiter),
        quote: Some(b'"'),
        header,
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        single_column: false,
    }
}

#[tokio::test]
async fn classifiers_decide_before_the_bytes_do() {
    let world = World::new();
    let lake = &world.lake;
    let path = |path: &str| ClassifierKind::Json { path: path.to_owned() };
    lake.create_classifier("items", path("$[*]")).unwrap();
    lake.create_classifier("deep", path("$.records")).unwrap();
    lake.create_classifier("named", csv(b'#', Some(false), &["who", "n"])).unwrap();
    lake.create_classifier("headed", csv(b'%', Some(true), &["a", "b"])).unwrap();
    world.put("raw/list/1", "[{\"n\":1,\"s\":\"x\"},\n{\"n\":2}]").await;
    let packed = gzip("[\n  {\"n\": 3}\n]\n");
    lake.buckets().put("bkt", "raw/list/2.gz", packed).await.unwrap();
    world.put("raw/list/3", "{\"n\":4}\n").await;
    world.put("raw/deep/1", "{\"meta\":1,\"records\":[{\"v\":1.5},{\"v\":2}]}").await;
    world.put("raw/named/1", "ann#1\nbob#2\n").await;
    world.put("raw/headed/1", "x%y\n1%2\n").await;
    world.put("raw/plain/1", "{\"a\":1}\n").await;

    let mut crawler = Crawler::new("c", ("bkt", "raw"), "air");
    lake.create_crawler(&crawler).unwrap();
    let report = lake.run_crawler("c").await.unwrap();
    let left = report.objects.iter().find(|object| object.key == "raw/list/1").unwrap();
    assert!(left.why.contains("a classifier with the JSON path $[*]"), "{}", left.why);

    crawler.classifiers = ["items", "deep", "named", "headed"].map(String::from).to_vec();
    crawler.policy.grouping = lake::TableGrouping::Level(3);
    lake.update_crawler(&crawler).unwrap();
    let report = lake.run_crawler("c").await.unwrap();
    assert_eq!(report.read, 7, "what was looked at without them is looked at again");
    let list = world.table("list");
    assert_eq!(columns(&list.columns), "n:int s:string");
    assert_eq!(list.records_path(), Some("$[*]"));
    assert_eq!(list.parameters["recordCount"], "3");
    let files = lake.files(&list).await.unwrap();
    let keys: Vec<&str> = files.iter().map(|file| file.key.as_str()).collect();
    assert_eq!(keys, ["raw/list/1", "raw/list/2.gz"], "records lie elsewhere in the third");
    assert_eq!(world.table("deep").records_path(), Some("$['records']"));
    assert_eq!(columns(&world.table("deep").columns), "v:double");
    let named = world.table("named");
    assert_eq!(columns(&named.columns), "who:string n:bigint");
    assert_eq!(named.csv.unwrap().header, formats::csv::Header::None);
    let headed = world.table("headed");
    assert_eq!(columns(&headed.columns), "a:bigint b:bigint");
    assert_eq!(headed.csv.unwrap().header, formats::csv::Header::Skip(1));
    assert_eq!(world.table("plain").records_path(), None);

    assert_eq!(lake.run_crawler("c").await.unwrap().read, 0);
    lake.update_classifier("named", csv(b'#', Some(false), &["name", "count"])).unwrap();
    assert_eq!(lake.run_crawler("c").await.unwrap().read, 7);
    assert_eq!(columns(&world.table("named").columns), "name:string count:bigint");
    lake.delete_classifier("deep").unwrap();
    let gone = lake.run_crawler("c").await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound);
    assert!(gone.to_string().contains("\"deep\""), "{gone}");
    assert_eq!(
        lake.update_classifier("items", csv(b',', None, &[])).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    assert!(lake.create_classifier("odd", path("$[0]")).is_err());
}
