//! Crawlers from outside: every member acts or is refused by name.

use std::sync::Arc;
use std::time::Duration;

use base::{ManualClock, Timestamp};
use serde_json::{Value, json};

use crate::testing::World;

async fn world() -> World {
    let world = World::with_clock(Arc::new(ManualClock::at(Timestamp(1_795_392_000_000))));
    world.rooms.buckets.create_bucket("lake").unwrap();
    world.rooms.lake.catalog().create_database("air", "").unwrap();
    for (key, text) in [
        ("raw/x/a.csv", "device;v\nd1;1\nd2;2.5\n"),
        ("raw/y/b.json", "{\"n\":1}"),
        ("more/c.json", "{\"m\":1}"),
    ] {
        world.rooms.buckets.put("lake", key, text.into()).await.unwrap();
    }
    world
}

fn crawler(name: &str) -> Value {
    json!({"Name": name, "Role": "r", "DatabaseName": "air",
        "Targets": {"S3Targets": [{"Path": "s3://lake/raw/"}]}})
}

async fn crawled(world: &World, name: &str) -> Value {
    world.call("glue", "StartCrawler", json!({"Name": name})).await.unwrap();
    for _ in 0..500 {
        let input = json!({"Name": name});
        let found = world.call("glue", "GetCrawler", input).await.unwrap()["Crawler"].take();
        if found["State"] == "READY" {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the crawl does not end");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_crawler_is_told_is_given_back_and_acted_on() {
    let world = world().await;
    let mut input = crawler("c");
    input["Targets"]["S3Targets"] = json!([
        {"Path": "s3://lake/raw/", "Exclusions": ["y/**"]},
        {"Path": "s3://lake/more"},
    ]);
    input["SchemaChangePolicy"] =
        json!({"UpdateBehavior": "LOG", "DeleteBehavior": "DELETE_FROM_DATABASE"});
    let configuration = json!({
        "Version": 1.0,
        "CrawlerOutput": {
            "Tables": {"AddOrUpdateBehavior": "MergeNewColumns"},
            "Partitions": {"AddOrUpdateBehavior": "InheritFromTable"},
        },
        "Grouping": {"TableLevelConfiguration": 2},
    });
    input["Configuration"] = json!(configuration.to_string());
    input["Schedule"] = json!("cron(0 12 ? * MON-FRI *)");
    world.call("glue", "CreateCrawler", input).await.unwrap();
    let found = crawled(&world, "c").await;
    assert_eq!(found["LastCrawl"]["Status"], "SUCCEEDED", "{found}");
    assert_eq!(found["Targets"]["S3Targets"][1]["Path"], "s3://lake/more");
    assert_eq!(found["SchemaChangePolicy"]["DeleteBehavior"], "DELETE_FROM_DATABASE");
    assert_eq!(found["Configuration"], configuration.to_string());
    let expected = json!({"ScheduleExpression": "cron(0 12 ? * MON-FRI *)", "State": "SCHEDULED"});
    assert_eq!(found["Schedule"], expected);
    let policy = world.rooms.lake.get_crawler("c").unwrap().policy;
    assert!(policy.merge_new_columns);
    assert_eq!(policy.grouping, lake::TableGrouping::Level(2));
    let tables = world.call("glue", "GetTables", json!({"DatabaseName": "air"})).await.unwrap();
    let tables = tables["TableList"].as_array().unwrap();
    let names: Vec<_> = tables.iter().map(|table| table["Name"].as_str().unwrap()).collect();
    assert_eq!(names, ["more", "raw"]);
    // A crawled CSV table, given back as it was shown, is still found by its header's names.
    let raw = &tables[1];
    assert_eq!(raw["Parameters"]["classification"], "csv");
    assert_eq!(raw["Parameters"]["delimiter"], ";");
    assert_eq!(raw["StorageDescriptor"]["Columns"][1]["Type"], "double");
    let storage = raw["StorageDescriptor"].clone();
    let given = json!({"DatabaseName": "air", "TableInput": {
        "Name": "raw", "Description": "mine", "StorageDescriptor": storage,
        "PartitionKeys": raw["PartitionKeys"], "Parameters": raw["Parameters"]}});
    let before = world.rooms.lake.catalog().get_table("air", "raw").unwrap();
    world.call("glue", "UpdateTable", given).await.unwrap();
    let after = world.rooms.lake.catalog().get_table("air", "raw").unwrap();
    assert_eq!((after.version, &after.csv), (2, &before.csv));

    let update = json!({"Name": "c", "Schedule": "", "Configuration": "",
        "RecrawlPolicy": {"RecrawlBehavior": "CRAWL_EVERYTHING"}});
    world.call("glue", "UpdateCrawler", update).await.unwrap();
    let crawler = world.rooms.lake.get_crawler("c").unwrap();
    assert_eq!((crawler.schedule, crawler.policy.merge_new_columns), (None, false));
    assert_eq!(crawler.also.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_acted_on_is_refused_by_name() {
    let world = world().await;
    for (member, value, says) in [
        ("Schedule", json!("cron(0 12 * * * *)"), "day of week"),
        ("RecrawlPolicy", json!({"RecrawlBehavior": "CRAWL_EVENT_MODE"}), "CRAWL_EVENT_MODE"),
        ("RecrawlPolicy", json!({"RecrawlBehavior": "CRAWL_NEW_FOLDERS_ONLY"}), "LOG"),
        ("SchemaChangePolicy", json!({"UpdateBehavior": "OTHER"}), "OTHER"),
        ("LineageConfiguration", json!({"CrawlerLineageSettings": "ENABLE"}), "ENABLE"),
        ("CrawlerSecurityConfiguration", json!("locked"), "locked"),
        ("LakeFormationConfiguration", json!({}), "LakeFormationConfiguration"),
        ("Targets", json!({"S3Targets": []}), "S3Targets"),
        ("Targets", json!({"S3Targets": [], "JdbcTargets": []}), "JdbcTargets"),
        ("Targets", json!({"S3Targets": [{"Path": "s3://lake/x", "SampleSize": 3}]}), "SampleSize"),
        ("Configuration", json!("{"), "Configuration"),
        ("Configuration", json!("{\"Version\":2.0}"), "Version"),
        ("Configuration", json!("{\"CreatePartitionIndex\":true}"), "CreatePartitionIndex"),
        ("Configuration", json!("{\"Grouping\":{\"TableLevelConfiguration\":1}}"), "level 1"),
        (
            "Configuration",
            json!("{\"Grouping\":{\"TableGroupingPolicy\":\"x\"}}"),
            "TableGroupingPolicy",
        ),
        (
            "Configuration",
            json!("{\"CrawlerOutput\":{\"Tables\":{\"TableThreshold\":3}}}"),
            "TableThreshold",
        ),
    ] {
        let mut input = crawler("c");
        input[member] = value;
        let (_, code, message) = world.call("glue", "CreateCrawler", input).await.unwrap_err();
        assert_eq!(code, "InvalidInputException", "{member}: {message}");
        assert!(message.contains(says), "{member}: {message}");
    }
    assert!(world.rooms.lake.list_crawlers().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn classifiers_say_what_objects_do_not_say_themselves() {
    let world = world().await;
    let ok = |operation: &'static str, input: Value| {
        let world = &world;
        async move { world.call("glue", operation, input).await.unwrap() }
    };
    let refused = |operation: &'static str, input: Value| {
        let world = &world;
        async move {
            let (_, code, message) = world.call("glue", operation, input).await.unwrap_err();
            (code, message)
        }
    };
    let of = |path: &str| json!({"JsonClassifier": {"Name": "items", "JsonPath": path}});
    ok("CreateClassifier", of("$.list[*]")).await;
    assert_eq!(refused("CreateClassifier", of("$[*]")).await.0, "AlreadyExistsException");
    ok("UpdateClassifier", of("$[*]")).await;
    let sheet = json!({"CsvClassifier": {"Name": "sheet", "Delimiter": "#", "QuoteSymbol": "'",
        "ContainsHeader": "ABSENT", "Header": ["who", "n"], "AllowSingleColumn": false}});
    ok("CreateClassifier", sheet.clone()).await;
    let found = ok("GetClassifier", json!({"Name": "items"})).await;
    let items = &found["Classifier"]["JsonClassifier"];
    assert_eq!((&items["JsonPath"], &items["Version"]), (&json!("$[*]"), &json!(2)));
    let found = ok("GetClassifiers", json!({"MaxResults": 1})).await;
    assert_eq!(found["Classifiers"].as_array().unwrap().len(), 1);
    let rest = json!({"NextToken": found["NextToken"]});
    let rest = ok("GetClassifiers", rest).await;
    for (member, value) in sheet["CsvClassifier"].as_object().unwrap() {
        assert_eq!(rest["Classifiers"][0]["CsvClassifier"][member], *value, "{member}");
    }
    for (input, says) in [
        (json!({"GrokClassifier": {"Name": "g"}}), "GrokClassifier"),
        (json!({"XMLClassifier": {"Name": "x"}}), "XMLClassifier"),
        (json!({}), "give one of"),
        (json!({"JsonClassifier": {"Name": "j", "JsonPath": "$..a"}}), "$..a"),
        (json!({"JsonClassifier": {"Name": "a/b", "JsonPath": "$[*]"}}), "a/b"),
        (json!({"CsvClassifier": {"Name": "c", "Delimiter": "||"}}), "one ASCII character"),
        (json!({"CsvClassifier": {"Name": "c", "ContainsHeader": "MAYBE"}}), "MAYBE"),
        (json!({"CsvClassifier": {"Name": "c", "Header": ["a", "a"]}}), "there twice"),
        (json!({"CsvClassifier": {"Name": "c", "CustomDatatypes": ["INT"]}}), "CustomDatatypes"),
        (json!({"CsvClassifier": {"Name": "c", "DisableValueTrimming": false}}), "Trimming"),
    ] {
        let (code, message) = refused("CreateClassifier", input).await;
        assert_eq!(code, "InvalidInputException", "{message}");
        assert!(message.contains(says), "{message}");
    }
    let mut other = crawler("c");
    other["Classifiers"] = json!(["nobody"]);
    assert_eq!(refused("CreateCrawler", other.clone()).await.0, "EntityNotFoundException");
    other["Classifiers"] = json!(["items", "sheet"]);
    ok("CreateCrawler", other).await;
    let shown = ok("GetCrawler", json!({"Name": "c"})).await;
    assert_eq!(shown["Crawler"]["Classifiers"], json!(["items", "sheet"]));
    ok("UpdateCrawler", json!({"Name": "c", "Classifiers": []})).await;
    let shown = ok("GetCrawler", json!({"Name": "c"})).await;
    assert_eq!(shown["Crawler"]["Classifiers"], json!([]));
    ok("DeleteClassifier", json!({"Name": "items"})).await;
    let gone = refused("GetClassifier", json!({"Name": "items"})).await;
    assert_eq!(gone.0, "EntityNotFoundException");
    let kind = json!({"JsonClassifier": {"Name": "sheet", "JsonPath": "$[*]"}});
    assert!(refused("UpdateClassifier", kind).await.1.contains("another kind"));
}

#[tokio::test(flavor = "multi_thread")]
async fn schedules_are_started_stopped_and_changed() {
    let world = world().await;
    world.call("glue", "CreateCrawler", crawler("c")).await.unwrap();
    let of = || json!({"CrawlerName": "c"});
    let refused = |operation: &'static str, input: Value| {
        let world = &world;
        async move { world.call("glue", operation, input).await.unwrap_err().1 }
    };
    assert_eq!(refused("StartCrawlerSchedule", of()).await, "NoScheduleException");
    let hourly = json!({"CrawlerName": "c", "Schedule": "cron(0 * * * ? *)"});
    world.call("glue", "UpdateCrawlerSchedule", hourly.clone()).await.unwrap();
    assert_eq!(refused("StartCrawlerSchedule", of()).await, "SchedulerRunningException");
    world.call("glue", "StopCrawlerSchedule", of()).await.unwrap();
    assert_eq!(refused("StopCrawlerSchedule", of()).await, "SchedulerNotRunningException");
    let found = world.call("glue", "GetCrawler", json!({"Name": "c"})).await.unwrap();
    assert_eq!(found["Crawler"]["Schedule"]["State"], "NOT_SCHEDULED");
    let now = world.rooms.clock.now();
    let later = Timestamp(now.millis() + 2 * 3_600_000);
    assert!(world.rooms.lake.take_due_crawlers(later).unwrap().is_empty());
    world.call("glue", "StartCrawlerSchedule", of()).await.unwrap();
    assert_eq!(world.rooms.lake.take_due_crawlers(later).unwrap(), ["c"]);
    super::crawl_as_scheduled(&world.rooms.lake, &world.rooms.logs, &*world.rooms.clock, "c").await;
    let crawls = world.rooms.lake.list_crawls("c").unwrap();
    assert_eq!(crawls[0].outcome, lake::CrawlOutcome::Completed);
    let nobody = json!({"CrawlerName": "nobody", "Schedule": "cron(0 * * * ? *)"});
    assert_eq!(refused("UpdateCrawlerSchedule", nobody).await, "EntityNotFoundException");
    let wrong = json!({"CrawlerName": "c", "Schedule": "hourly"});
    assert_eq!(refused("UpdateCrawlerSchedule", wrong).await, "InvalidInputException");
    world.call("glue", "UpdateCrawlerSchedule", of()).await.unwrap();
    assert_eq!(refused("StartCrawlerSchedule", of()).await, "NoScheduleException");
}
