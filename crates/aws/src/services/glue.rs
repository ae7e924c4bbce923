//! Glue: databases and their tables here, crawlers, jobs and the rest in files of their own.

mod classifiers;
mod crawlers;
mod expression;
mod graph;
mod jobs;
mod tables;
mod tags;
mod triggers;

pub use crawlers::crawl_as_scheduled;
pub use jobs::{JobRuns, RunJob, start_for};

use std::sync::Arc;

use base::ErrorKind;
use lake::{Database, Format, Partition, Table};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::call::{Call, Outcome, Service, operation};
use crate::fault::Fault;
use crate::page::page;
use crate::protocol::Protocol;
use crate::rooms::{Rooms, epoch_secs};
use crate::services::text_serde;
use crate::tags::Tags;

pub(crate) static SERVICE: Service = Service {
    name: "glue",
    scopes: &["glue"],
    protocol: Protocol::Json { target: "AWSGlue", version: "1.1" },
    codes,
    body_bytes_max: 2 * 1024 * 1024,
    operations: &[
        operation!("CreateDatabase", create_database, differs: "Name, Description and Tags only"),
        operation!("GetDatabase", get_database),
        operation!("GetDatabases", get_databases),
        operation!("UpdateDatabase", update_database, differs: "Description only; no renaming"),
        operation!("DeleteDatabase", delete_database, differs: "refused while the database has tables"),
        operation!("CreateTable", tables::create_table, differs: "Parquet, JSON and CSV objects only (CSV by LazySimpleSerDe or OpenCSVSerde, values typed alike); no views, no buckets"),
        operation!("UpdateTable", tables::update_table, differs: "Parquet, JSON and CSV objects only; no views, no buckets"),
        operation!("GetTableVersion", tables::get_table_version),
        operation!("DeleteTableVersion", tables::delete_table_version),
        operation!("BatchDeleteTable", tables::batch_delete_table),
        operation!("CreatePartition", tables::create_partition, differs: "its location is the folder of its values below the table's"),
        operation!("BatchCreatePartition", tables::batch_create_partition, differs: "a location is the folder of the values below the table's"),
        operation!("BatchGetPartition", tables::batch_get_partition),
        operation!("UpdatePartition", tables::update_partition, differs: "its location is the folder of its values below the table's"),
        operation!("DeletePartition", tables::delete_partition, differs: "queries still read the folder while it has objects"),
        operation!("BatchDeletePartition", tables::batch_delete_partition, differs: "queries still read the folders while they have objects"),
        operation!("GetTable", get_table),
        operation!("GetTables", get_tables),
        operation!("GetTableVersions", get_table_versions),
        operation!("DeleteTable", delete_table),
        operation!("GetPartition", get_partition),
        operation!("GetPartitions", get_partitions, differs: "Expression as documented, without functions"),
        operation!("CreateCrawler", crawlers::create_crawler, differs: "S3 targets only; of Configuration AddOrUpdateBehavior, TableGroupingPolicy and TableLevelConfiguration; no CRAWL_EVENT_MODE; a schedule may be due every minute"),
        operation!("GetCrawler", crawlers::get_crawler),
        operation!("GetCrawlers", crawlers::get_crawlers),
        operation!("ListCrawlers", crawlers::list_crawlers),
        operation!("StartCrawler", crawlers::start_crawler),
        operation!("StopCrawler", crawlers::stop_crawler),
        operation!("UpdateCrawler", crawlers::update_crawler, differs: "as CreateCrawler"),
        operation!("StartCrawlerSchedule", crawlers::start_crawler_schedule),
        operation!("StopCrawlerSchedule", crawlers::stop_crawler_schedule),
        operation!("UpdateCrawlerSchedule", crawlers::update_crawler_schedule),
        operation!("DeleteCrawler", crawlers::delete_crawler),
        operation!("BatchGetCrawlers", crawlers::batch_get_crawlers),
        operation!("CreateClassifier", classifiers::create_classifier, differs: "JsonClassifier, whose path has keys and [*]; CsvClassifier without CustomDatatypes, values are never trimmed; no Grok, no XML"),
        operation!("GetClassifier", classifiers::get_classifier),
        operation!("GetClassifiers", classifiers::get_classifiers),
        operation!("UpdateClassifier", classifiers::update_classifier, differs: "as CreateClassifier; what is left out is as for a new one"),
        operation!("DeleteClassifier", classifiers::delete_classifier, differs: "a crawler that still names it fails until it is changed"),
        operation!("ListCrawls", crawlers::list_crawls, differs: "the last hundred"),
        operation!("GetCrawlerMetrics", crawlers::get_crawler_metrics, differs: "counts the crawls that ListCrawls has"),
        operation!("TagResource", tags::tag_resource, differs: "databases, crawlers, jobs and triggers"),
        operation!("UntagResource", tags::untag_resource, differs: "databases, crawlers, jobs and triggers"),
        operation!("GetTags", tags::get_tags, differs: "databases, crawlers, jobs and triggers"),
        operation!("CreateJob", jobs::create_job, differs: "runs CodeGenConfigurationNodes, not a script; one run at a time; a target that names no table is kept as forebay.BUCKET_PATH"),
        operation!("GetJob", jobs::get_job),
        operation!("GetJobs", jobs::get_jobs),
        operation!("ListJobs", jobs::list_jobs),
        operation!("BatchGetJobs", jobs::batch_get_jobs),
        operation!("UpdateJob", jobs::update_job, differs: "as CreateJob"),
        operation!("DeleteJob", jobs::delete_job),
        operation!("StartJobRun", jobs::start_job_run, differs: "a run takes up to 20,000 new objects and leaves more to the next; no JobRunId to retry"),
        operation!("GetJobRun", jobs::get_job_run),
        operation!("GetJobRuns", jobs::get_job_runs),
        operation!("BatchStopJobRun", jobs::batch_stop_job_run),
        operation!("CreateTrigger", triggers::create_trigger, differs: "EVENT looks for objects that its jobs have not read, every BatchWindow seconds; no workflows; no condition on TIMEOUT"),
        operation!("GetTrigger", triggers::get_trigger),
        operation!("GetTriggers", triggers::get_triggers),
        operation!("ListTriggers", triggers::list_triggers),
        operation!("BatchGetTriggers", triggers::batch_get_triggers),
        operation!("UpdateTrigger", triggers::update_trigger, differs: "as CreateTrigger"),
        operation!("DeleteTrigger", triggers::delete_trigger),
        operation!("StartTrigger", triggers::start_trigger),
        operation!("StopTrigger", triggers::stop_trigger),
        operation!("GetJobBookmark", jobs::get_job_bookmark, differs: "without the JobBookmark text"),
        operation!("ResetJobBookmark", jobs::reset_job_bookmark, differs: "no RunId to go back to"),
    ],
};

fn codes(kind: ErrorKind) -> (&'static str, u16) {
    match kind {
        ErrorKind::NotFound => ("EntityNotFoundException", 400),
        ErrorKind::AlreadyExists => ("AlreadyExistsException", 400),
        ErrorKind::Conflict => ("ConcurrentModificationException", 400),
        ErrorKind::Denied => ("AccessDeniedException", 400),
        ErrorKind::Invalid | ErrorKind::Unsupported => ("InvalidInputException", 400),
        ErrorKind::Exhausted | ErrorKind::Unavailable => ("ServiceUnavailable", 503),
        ErrorKind::Corrupt | ErrorKind::Internal => ("InternalServiceException", 500),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct CreateDatabase {
    database_input: DatabaseInput,
    #[serde(default)]
    tags: Tags,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct UpdateDatabase {
    name: String,
    database_input: DatabaseInput,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct DatabaseInput {
    name: String,
    #[serde(default)]
    description: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Named {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Page {
    next_token: Option<String>,
    max_results: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct GetTables {
    database_name: String,
    expression: Option<String>,
    next_token: Option<String>,
    max_results: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct OneTable {
    database_name: String,
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct OfTable {
    database_name: String,
    table_name: String,
    next_token: Option<String>,
    max_results: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct OnePartition {
    database_name: String,
    table_name: String,
    partition_values: Vec<String>,
}

fn listed(member: &str, list: Vec<Value>, next: Option<String>) -> Outcome {
    let mut answer = json!({member: list});
    if let Some(next) = next {
        answer["NextToken"] = json!(next);
    }
    Ok(answer.into())
}

fn database(found: &Database) -> Value {
    json!({
        "Name": found.name,
        "Description": found.description,
        "CreateTime": epoch_secs(found.created_at),
    })
}

async fn create_database(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let CreateDatabase { database_input, tags: given } = call.input()?;
    let name = database_input.name.to_lowercase();
    rooms.lake.catalog().create_database(&name, &database_input.description)?;
    tags::add(rooms, "database", &name, given)?;
    Ok(json!({}).into())
}

async fn get_database(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let name = call.input::<Named>()?.name.to_lowercase();
    Ok(json!({"Database": database(&rooms.lake.catalog().get_database(&name)?)}).into())
}

async fn get_databases(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Page = call.input()?;
    let all = rooms.lake.catalog().list_databases()?;
    let key = |found: &Database| found.name.clone();
    let (some, next) = page(all, key, input.next_token.as_deref(), input.max_results, 100)?;
    listed("DatabaseList", some.iter().map(database).collect(), next)
}

async fn update_database(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let UpdateDatabase { name, database_input } = call.input()?;
    let (name, new_name) = (name.to_lowercase(), database_input.name.to_lowercase());
    if new_name != name {
        let why = format!("{new_name:?}; database {name:?} cannot be renamed");
        return Err(Fault::unsupported("DatabaseInput.Name", &why));
    }
    rooms.lake.catalog().describe_database(&name, &database_input.description)?;
    Ok(json!({}).into())
}

async fn delete_database(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let name = call.input::<Named>()?.name.to_lowercase();
    rooms.lake.catalog().drop_database(&name)?;
    tags::forget(rooms, "database", &name)?;
    Ok(json!({}).into())
}

fn columns(columns: &[lake::Column]) -> Vec<Value> {
    let column = |column: &lake::Column| {
        let mut shown = json!({"Name": column.name, "Type": column.hive_type});
        if let Some(comment) = &column.comment {
            shown["Comment"] = json!(comment);
        }
        shown
    };
    columns.iter().map(column).collect()
}

const TEXT_INPUT: &str = "org.apache.hadoop.mapred.TextInputFormat";
const TEXT_OUTPUT: &str = "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat";

fn storage(table: &Table, bucket: &str, prefix: &str) -> Value {
    const PARQUET: &str = "org.apache.hadoop.hive.ql.io.parquet";
    let (input, output, serde, parameters) = match table.format {
        Format::Parquet => (
            format!("{PARQUET}.MapredParquetInputFormat"),
            format!("{PARQUET}.MapredParquetOutputFormat"),
            format!("{PARQUET}.serde.ParquetHiveSerDe"),
            json!({"serialization.format": "1"}),
        ),
        Format::Csv => {
            let dialect = table.csv.clone().unwrap_or_else(text_serde::hive);
            let (library, properties) = text_serde::of(&dialect);
            (TEXT_INPUT.to_owned(), TEXT_OUTPUT.to_owned(), library.to_owned(), json!(properties))
        }
        Format::Json => {
            let names: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
            (
                TEXT_INPUT.to_owned(),
                TEXT_OUTPUT.to_owned(),
                "org.openx.data.jsonserde.JsonSerDe".to_owned(),
                json!({"paths": names.join(",")}),
            )
        }
    };
    json!({
        "Columns": columns(&table.columns),
        "Location": format!("s3://{bucket}/{prefix}"),
        "InputFormat": input,
        "OutputFormat": output,
        "Compressed": false,
        "NumberOfBuckets": -1,
        "SerdeInfo": {"SerializationLibrary": serde, "Parameters": parameters},
        "BucketColumns": [],
        "SortColumns": [],
        "Parameters": table.parameters,
        "StoredAsSubDirectories": false,
    })
}

fn shown(rooms: &Rooms, table: &Table) -> Result<Value, Fault> {
    let mut shown = json!({
        "Name": table.name,
        "DatabaseName": table.database,
        "CreateTime": epoch_secs(table.created_at),
        "UpdateTime": epoch_secs(table.updated_at),
        "Retention": 0,
        "StorageDescriptor": storage(table, &table.bucket, &table.prefix),
        "PartitionKeys": columns(&table.partition_keys),
        "TableType": "EXTERNAL_TABLE",
        "Parameters": table.parameters,
        "IsRegisteredWithLakeFormation": false,
        "VersionId": table.version.to_string(),
    });
    tables::add_words(rooms, table, &mut shown)?;
    Ok(shown)
}

async fn get_table(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let OneTable { database_name, name } = call.input()?;
    let found =
        rooms.lake.catalog().get_table(&database_name.to_lowercase(), &name.to_lowercase())?;
    Ok(json!({"Table": shown(rooms, &found)?}).into())
}

async fn get_tables(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: GetTables = call.input()?;
    let mut all = rooms.lake.catalog().list_tables(&input.database_name.to_lowercase())?;
    if let Some(text) = input.expression {
        let fitting = expression::names(&text)?;
        all.retain(|table| fitting.is_match(&table.name));
    }
    let key = |table: &Table| table.name.clone();
    let (some, next) = page(all, key, input.next_token.as_deref(), input.max_results, 100)?;
    let shown = some.iter().map(|table| shown(rooms, table)).collect::<Result<_, Fault>>()?;
    listed("TableList", shown, next)
}

async fn get_table_versions(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: OfTable = call.input()?;
    let (database, name) = (input.database_name.to_lowercase(), input.table_name.to_lowercase());
    let all = rooms.lake.catalog().table_versions(&database, &name)?;
    // Newest first, so the keys of the pages count downwards.
    let key = |table: &Table| format!("{:020}", u64::MAX - table.version);
    let (some, next) = page(all, key, input.next_token.as_deref(), input.max_results, 100)?;
    let version = |table: &Table| {
        let version = table.version.to_string();
        Ok(json!({"Table": shown(rooms, table)?, "VersionId": version}))
    };
    listed("TableVersions", some.iter().map(version).collect::<Result<_, Fault>>()?, next)
}

async fn delete_table(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let OneTable { database_name, name } = call.input()?;
    let (database, name) = (database_name.to_lowercase(), name.to_lowercase());
    rooms.lake.catalog().drop_table(&database, &name)?;
    tables::forget(rooms, &database, &name)?;
    Ok(json!({}).into())
}

fn partition(rooms: &Rooms, table: &Table, found: &Partition) -> Result<Value, Fault> {
    let mut shown = json!({
        "Values": found.values,
        "DatabaseName": table.database,
        "TableName": table.name,
        "CreationTime": epoch_secs(found.created_at),
        "StorageDescriptor": storage(table, &found.bucket, &found.prefix),
        "Parameters": {},
    });
    tables::add_partition_words(rooms, (table, found), &mut shown)?;
    Ok(shown)
}

async fn get_partition(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: OnePartition = call.input()?;
    let catalog = rooms.lake.catalog();
    let (database, name) = (input.database_name.to_lowercase(), input.table_name.to_lowercase());
    let table = catalog.get_table(&database, &name)?;
    let found = catalog.get_partition(&database, &name, &input.partition_values)?;
    Ok(json!({"Partition": partition(rooms, &table, &found)?}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct GetPartitions {
    database_name: String,
    table_name: String,
    expression: Option<String>,
    next_token: Option<String>,
    max_results: Option<usize>,
    segment: Option<Segment>,
    #[serde(default)]
    exclude_column_schema: bool,
}

/// One of the parts that a client asks for side by side.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Segment {
    segment_number: usize,
    total_segments: usize,
}

async fn get_partitions(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: GetPartitions = call.input()?;
    let catalog = rooms.lake.catalog();
    let (database, name) = (input.database_name.to_lowercase(), input.table_name.to_lowercase());
    let table = catalog.get_table(&database, &name)?;
    let mut all = catalog.list_partitions(&database, &name)?;
    // An empty text is no filter, as awswrangler sends it.
    if let Some(text) = input.expression.filter(|text| !text.trim().is_empty()) {
        let keys = &table.partition_keys;
        let filter = expression::Filter::parse(&text, keys)?;
        all.retain(|found| filter.keeps(keys, &found.values));
    }
    let key = |found: &Partition| found.values.join("\u{1}");
    all.sort_by_key(key);
    if let Some(Segment { segment_number, total_segments }) = input.segment {
        if segment_number >= total_segments || total_segments > 10 {
            return Err(Fault::invalid(format!(
                "Segment {segment_number} of {total_segments}: there are 1 to 10, counted from 0"
            )));
        }
        // By what a partition is and not by its place in the list, so that its segment stays
        // its own while others come and go.
        let of =
            |found: &Partition| crc32c::crc32c(key(found).as_bytes()) as usize % total_segments;
        all.retain(|found| of(found) == segment_number);
    }
    let (some, next) = page(all, key, input.next_token.as_deref(), input.max_results, 1000)?;
    let mut shown = some
        .iter()
        .map(|found| partition(rooms, &table, found))
        .collect::<Result<Vec<Value>, Fault>>()?;
    if input.exclude_column_schema {
        for storage in shown.iter_mut().filter_map(|found| found.get_mut("StorageDescriptor")) {
            storage["Columns"] = json!([]);
        }
    }
    listed("Partitions", shown, next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_crawl_makes_the_table_that_clients_expect() {
        let world = World::new();
        let buckets = &world.rooms.buckets;
        buckets.create_bucket("lake").unwrap();
        buckets
            .put("lake", "raw/2026/01/02/03/x", "{\"ozone\":1}{\"ozone\":2}".into())
            .await
            .unwrap();
        let call = |operation: &'static str, input| world.call("glue", operation, input);
        call("CreateDatabase", json!({"DatabaseInput": {"Name": "air"}})).await.unwrap();
        let (_, code, _) =
            call("CreateDatabase", json!({"DatabaseInput": {"Name": "air"}})).await.unwrap_err();
        assert_eq!(code, "AlreadyExistsException");
        let update = |name: &str, new: &str| json!({"Name": name, "DatabaseInput": {"Name": new, "Description": "fresh"}});
        call("UpdateDatabase", update("air", "air")).await.unwrap();
        let found = call("GetDatabase", json!({"Name": "air"})).await.unwrap();
        assert_eq!(found["Database"]["Description"], "fresh");
        assert_eq!(
            call("UpdateDatabase", update("air", "b")).await.unwrap_err().1,
            "InvalidInputException"
        );
        assert_eq!(
            call("UpdateDatabase", update("b", "b")).await.unwrap_err().1,
            "EntityNotFoundException"
        );
        let input = json!({"Name": "c", "Role": "r", "DatabaseName": "air", "TablePrefix": "t_",
            "Targets": {"S3Targets": [{"Path": "s3://lake/raw/"}]},
            "RecrawlPolicy": {"RecrawlBehavior": "CRAWL_EVERYTHING"}});
        call("CreateCrawler", input.clone()).await.unwrap();
        let mut scheduled = input;
        scheduled["Schedule"] = json!("rate(5 minutes)");
        let (_, code, message) = call("CreateCrawler", scheduled).await.unwrap_err();
        assert!(
            code == "InvalidInputException" && message.contains("rate(5 minutes)"),
            "{message}"
        );
        call("StartCrawler", json!({"Name": "c"})).await.unwrap();
        let mut crawler = Value::Null;
        for _ in 0..500 {
            crawler = call("GetCrawler", json!({"Name": "c"})).await.unwrap()["Crawler"].take();
            if crawler["State"] == "READY" {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(crawler["LastCrawl"]["Status"], "SUCCEEDED");
        let of = json!({"DatabaseName": "air", "Name": "t_raw"});
        let table = call("GetTable", of.clone()).await.unwrap()["Table"].take();
        assert_eq!(table["StorageDescriptor"]["Location"], "s3://lake/raw/");
        assert_eq!(table["PartitionKeys"].as_array().unwrap().len(), 4);
        let of_table = json!({"DatabaseName": "air", "TableName": "t_raw"});
        let found = call("GetPartitions", of_table).await.unwrap();
        assert_eq!(found["Partitions"][0]["Values"], json!(["2026", "01", "02", "03"]));
        let of_hours = |expression: &str| json!({"DatabaseName": "air", "TableName": "t_raw", "Expression": expression});
        let hours = "partition_0 = '2026' and partition_3 > '02'";
        let found = call("GetPartitions", of_hours(hours)).await.unwrap();
        assert_eq!(found["Partitions"].as_array().unwrap().len(), 1);
        let found = call("GetPartitions", of_hours("partition_0 = '2027'")).await.unwrap();
        assert_eq!(found["Partitions"], json!([]));
        let (_, code, _) = call("GetPartitions", of_hours("ozone = 1")).await.unwrap_err();
        assert_eq!(code, "InvalidInputException");
        let tables = |expression: &str| json!({"DatabaseName": "air", "Expression": expression});
        let found = call("GetTables", tables("*raw*")).await.unwrap();
        assert_eq!(found["TableList"].as_array().unwrap().len(), 1);
        assert_eq!(call("GetTables", tables("raw")).await.unwrap()["TableList"], json!([]));
        call("DeleteTable", of.clone()).await.unwrap();
        let (_, code, _) = call("GetTable", of).await.unwrap_err();
        assert_eq!(code, "EntityNotFoundException");
        call("DeleteCrawler", json!({"Name": "c"})).await.unwrap();
        call("DeleteDatabase", json!({"Name": "air"})).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn crawlers_are_changed_counted_tagged_and_told_to_stop() {
        let world = World::new();
        world.rooms.buckets.create_bucket("lake").unwrap();
        let call = |operation: &'static str, input| world.call("glue", operation, input);
        call("CreateDatabase", json!({"DatabaseInput": {"Name": "air"}, "Tags": {"a": "b"}}))
            .await
            .unwrap();
        let create = |name: &str, tags| {
            json!({"Name": name, "Role": "r", "DatabaseName": "air", "Tags": tags,
                "Targets": {"S3Targets": [{"Path": "s3://lake/raw/"}]}})
        };
        call("CreateCrawler", create("c", json!({"team": "air"}))).await.unwrap();
        call("CreateCrawler", create("d", json!({}))).await.unwrap();
        let listed = call("ListCrawlers", json!({"Tags": {"team": "air"}})).await.unwrap();
        assert_eq!(listed["CrawlerNames"], json!(["c"]));
        let update = json!({"Name": "c", "TablePrefix": "t_", "Description": "new",
            "Targets": {"S3Targets": [{"Path": "s3://lake/other", "Exclusions": ["x/**"]}]}});
        call("UpdateCrawler", update).await.unwrap();
        let both = json!({"CrawlerNames": ["c", "nobody"]});
        let found = call("BatchGetCrawlers", both).await.unwrap();
        assert_eq!(found["CrawlersNotFound"], json!(["nobody"]));
        let crawler = &found["Crawlers"][0];
        assert_eq!((&crawler["Version"], &crawler["Role"]), (&json!(2), &json!("r")));
        assert_eq!(
            crawler["Targets"]["S3Targets"],
            json!([{"Path": "s3://lake/other", "Exclusions": ["x/**"]}])
        );
        let (_, code, _) = call("StopCrawler", json!({"Name": "c"})).await.unwrap_err();
        assert_eq!(code, "CrawlerNotRunningException");
        let (_, code, _) = call("StopCrawler", json!({"Name": "nobody"})).await.unwrap_err();
        assert_eq!(code, "EntityNotFoundException");

        world.rooms.buckets.put("lake", "other/x", "{\"ozone\":1}".into()).await.unwrap();
        call("StartCrawler", json!({"Name": "c"})).await.unwrap();
        let crawls = loop {
            let crawls = call("ListCrawls", json!({"CrawlerName": "c"})).await.unwrap();
            if crawls["Crawls"][0]["State"] != "RUNNING" {
                break crawls;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        };
        assert_eq!(crawls["Crawls"][0]["State"], "COMPLETED", "{crawls}");
        let none = json!({"CrawlerName": "c", "Filters": [
            {"FieldName": "STATE", "FilterOperator": "EQ", "FieldValue": "FAILED"}]});
        assert_eq!(call("ListCrawls", none).await.unwrap()["Crawls"], json!([]));
        let all = call("GetCrawlerMetrics", json!({})).await.unwrap();
        assert_eq!(all["CrawlerMetricsList"].as_array().unwrap().len(), 2);
        let one = json!({"CrawlerNameList": ["c"]});
        let metrics = call("GetCrawlerMetrics", one).await.unwrap();
        assert_eq!(metrics["CrawlerMetricsList"][0]["TablesCreated"], 1);

        let arn = "arn:aws:glue:eu-west-1:123456789012:crawler/c";
        let add = json!({"ResourceArn": arn, "TagsToAdd": {"x": "y"}});
        call("TagResource", add).await.unwrap();
        let remove = json!({"ResourceArn": arn, "TagsToRemove": ["team"]});
        call("UntagResource", remove).await.unwrap();
        let tags = call("GetTags", json!({"ResourceArn": arn})).await.unwrap();
        assert_eq!(tags["Tags"], json!({"x": "y"}));
        call("DeleteCrawler", json!({"Name": "c"})).await.unwrap();
        let (_, code, _) = call("GetTags", json!({"ResourceArn": arn})).await.unwrap_err();
        assert_eq!(code, "EntityNotFoundException");
        let database = json!({"ResourceArn": "arn:aws:glue:eu-west-1:123456789012:database/air"});
        assert_eq!(call("GetTags", database).await.unwrap()["Tags"], json!({"a": "b"}));
    }
}
