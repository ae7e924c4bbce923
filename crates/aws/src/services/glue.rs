//! Glue: databases, crawlers and the tables they find, and jobs.
//!
//! What the lake does not know of a crawler (its role, its policies as written) is a row of
//! ours beside it.

mod graph;
mod jobs;
mod tables;

pub use jobs::{JobRuns, RunJob};

use std::sync::Arc;
use std::task::Poll;

use base::{ErrorKind, Timestamp};
use lake::{CrawlState, Crawler, Database, Format, Partition, Table};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::call::{Call, Outcome, Service, operation};
use crate::fault::Fault;
use crate::page::page;
use crate::protocol::Protocol;
use crate::rooms::{Rooms, epoch_secs};

pub(crate) static SERVICE: Service = Service {
    name: "glue",
    scopes: &["glue"],
    protocol: Protocol::Json { target: "AWSGlue", version: "1.1" },
    codes,
    body_bytes_max: 2 * 1024 * 1024,
    operations: &[
        operation!("CreateDatabase", create_database, differs: "Name and Description only"),
        operation!("GetDatabase", get_database),
        operation!("GetDatabases", get_databases),
        operation!("UpdateDatabase", update_database, differs: "Description only; no renaming"),
        operation!("DeleteDatabase", delete_database, differs: "refused while the database has tables"),
        operation!("CreateTable", tables::create_table, differs: "Parquet and JSON objects only; no views, no buckets"),
        operation!("UpdateTable", tables::update_table, differs: "Parquet and JSON objects only; no views, no buckets"),
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
        operation!("GetTables", get_tables, differs: "no Expression"),
        operation!("GetTableVersions", get_table_versions),
        operation!("DeleteTable", delete_table),
        operation!("GetPartition", get_partition),
        operation!("GetPartitions", get_partitions, differs: "no Expression"),
        operation!("CreateCrawler", create_crawler, differs: "one S3 target; no schedule, no classifiers; the default policies only"),
        operation!("GetCrawler", get_crawler),
        operation!("GetCrawlers", get_crawlers),
        operation!("ListCrawlers", list_crawlers),
        operation!("StartCrawler", start_crawler),
        operation!("DeleteCrawler", delete_crawler),
        operation!("CreateJob", jobs::create_job, differs: "runs CodeGenConfigurationNodes, not a script; one run at a time; a target that names no table is kept as forebay.BUCKET_PATH"),
        operation!("GetJob", jobs::get_job),
        operation!("GetJobs", jobs::get_jobs),
        operation!("ListJobs", jobs::list_jobs, differs: "no Tags"),
        operation!("UpdateJob", jobs::update_job, differs: "as CreateJob"),
        operation!("DeleteJob", jobs::delete_job),
        operation!("StartJobRun", jobs::start_job_run, differs: "a run takes up to 20,000 new objects and leaves more to the next; no JobRunId to retry"),
        operation!("GetJobRun", jobs::get_job_run),
        operation!("GetJobRuns", jobs::get_job_runs),
        operation!("BatchStopJobRun", jobs::batch_stop_job_run),
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

/// What a crawler is beyond what the lake acts on.
#[derive(Serialize, Deserialize)]
struct Extra {
    role: String,
    description: String,
    path: String,
    created_at: Timestamp,
}

impl metastore::Row for Extra {
    const TABLE: &'static str = "aws-glue-crawlers";
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct CreateDatabase {
    database_input: DatabaseInput,
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
struct InDatabase {
    database_name: String,
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
    let DatabaseInput { name, description } = call.input::<CreateDatabase>()?.database_input;
    rooms.lake.catalog().create_database(&name.to_lowercase(), &description)?;
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

fn storage(table: &Table, bucket: &str, prefix: &str) -> Value {
    const PARQUET: &str = "org.apache.hadoop.hive.ql.io.parquet";
    let (input, output, serde, parameters) = match table.format {
        Format::Parquet => (
            format!("{PARQUET}.MapredParquetInputFormat"),
            format!("{PARQUET}.MapredParquetOutputFormat"),
            format!("{PARQUET}.serde.ParquetHiveSerDe"),
            json!({"serialization.format": "1"}),
        ),
        Format::Json | Format::Csv => {
            let names: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
            (
                "org.apache.hadoop.mapred.TextInputFormat".to_owned(),
                "org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat".to_owned(),
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
    let input: InDatabase = call.input()?;
    let all = rooms.lake.catalog().list_tables(&input.database_name.to_lowercase())?;
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct CreateCrawler {
    name: String,
    role: String,
    database_name: String,
    #[serde(default)]
    description: String,
    targets: Targets,
    #[serde(default)]
    table_prefix: String,
    schema_change_policy: Option<ChangePolicy>,
    recrawl_policy: Option<Recrawl>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Targets {
    s3_targets: Vec<Target>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Target {
    path: String,
    #[serde(default)]
    exclusions: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct ChangePolicy {
    update_behavior: Option<String>,
    delete_behavior: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Recrawl {
    recrawl_behavior: Option<String>,
}

fn only(member: &str, given: Option<String>, supported: &str) -> Result<(), Fault> {
    match given {
        Some(given) if given != supported => {
            Err(Fault::unsupported(member, &format!("{given:?}; only {supported}")))
        }
        _ => Ok(()),
    }
}

async fn create_crawler(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: CreateCrawler = call.input()?;
    if let Some(policy) = input.schema_change_policy {
        only("UpdateBehavior", policy.update_behavior, "UPDATE_IN_DATABASE")?;
        only("DeleteBehavior", policy.delete_behavior, "DEPRECATE_IN_DATABASE")?;
    }
    let recrawl = input.recrawl_policy.and_then(|policy| policy.recrawl_behavior);
    only("RecrawlBehavior", recrawl, "CRAWL_EVERYTHING")?;
    let [target] = <[Target; 1]>::try_from(input.targets.s3_targets).map_err(|given| {
        Fault::unsupported("S3Targets", &format!("{} targets; give one", given.len()))
    })?;
    let place = target.path.strip_prefix("s3://").unwrap_or_default();
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    if bucket.is_empty() {
        return Err(Fault::invalid(format!("Path {:?} is not s3://BUCKET/PREFIX", target.path)));
    }
    let crawler = Crawler {
        exclusions: target.exclusions,
        table_prefix: input.table_prefix,
        ..Crawler::new(&input.name, (bucket, prefix), input.database_name.to_lowercase())
    };
    rooms.lake.create_crawler(&crawler)?;
    let extra = Extra {
        role: input.role,
        description: input.description,
        path: target.path,
        created_at: rooms.clock.now(),
    };
    rooms.metastore.put(&input.name, &extra)?;
    Ok(json!({}).into())
}

fn crawler(rooms: &Rooms, found: &Crawler) -> Result<Value, Fault> {
    let extra = rooms.metastore.get::<Extra>(&found.name)?;
    let path = format!("s3://{}/{}", found.bucket, found.prefix);
    let path = extra.as_ref().map_or(path, |extra| extra.path.clone());
    let mut shown = json!({
        "Name": found.name,
        "DatabaseName": found.database,
        "TablePrefix": found.table_prefix,
        "Targets": {"S3Targets": [{"Path": path, "Exclusions": found.exclusions}]},
        "Classifiers": [],
        "SchemaChangePolicy": {
            "UpdateBehavior": "UPDATE_IN_DATABASE",
            "DeleteBehavior": "DEPRECATE_IN_DATABASE",
        },
        "RecrawlPolicy": {"RecrawlBehavior": "CRAWL_EVERYTHING"},
        "State": match found.state {
            CrawlState::Ready => "READY",
            CrawlState::Running => "RUNNING",
        },
        "Version": 1,
    });
    if let Some(extra) = extra {
        shown["Role"] = json!(extra.role);
        shown["Description"] = json!(extra.description);
        shown["CreationTime"] = json!(epoch_secs(extra.created_at));
        shown["LastUpdated"] = json!(epoch_secs(extra.created_at));
    }
    if let Some(last) = &found.last {
        let status = if last.error.is_none() { "SUCCEEDED" } else { "FAILED" };
        shown["LastCrawl"] = json!({"Status": status, "StartTime": epoch_secs(last.started_at)});
        if let Some(error) = &last.error {
            shown["LastCrawl"]["ErrorMessage"] = json!(error);
        }
    }
    Ok(shown)
}

async fn get_crawler(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let name = call.input::<Named>()?.name;
    Ok(json!({"Crawler": crawler(rooms, &rooms.lake.get_crawler(&name)?)?}).into())
}

async fn get_crawlers(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Page = call.input()?;
    let all = rooms.lake.list_crawlers()?;
    let key = |found: &Crawler| found.name.clone();
    let (some, next) = page(all, key, input.next_token.as_deref(), input.max_results, 1000)?;
    let shown = some.iter().map(|found| crawler(rooms, found)).collect::<Result<_, Fault>>()?;
    listed("Crawlers", shown, next)
}

async fn list_crawlers(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Page = call.input()?;
    let all = rooms.lake.list_crawlers()?;
    let key = |found: &Crawler| found.name.clone();
    let (some, next) = page(all, key, input.next_token.as_deref(), input.max_results, 1000)?;
    listed("CrawlerNames", some.into_iter().map(|found| json!(found.name)).collect(), next)
}

fn running(error: base::Error) -> Fault {
    match error.kind() {
        ErrorKind::Conflict => Fault::named("CrawlerRunningException", 400, error.to_string()),
        _ => Fault::from(error),
    }
}

async fn start_crawler(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let name = call.input::<Named>()?.name;
    if rooms.lake.get_crawler(&name)?.state == CrawlState::Running {
        let message = format!("Crawler with name {name} has already started");
        return Err(Fault::named("CrawlerRunningException", 400, message));
    }
    let lake = rooms.lake.clone();
    let mut crawl = Box::pin(async move { lake.run_crawler(&name).await });
    // The first step takes the crawler, so that whoever asks after this answer finds it running;
    // how the crawl itself goes is told by LastCrawl.
    match futures::poll!(&mut crawl) {
        Poll::Ready(Err(error)) if error.kind() == ErrorKind::Conflict => Err(running(error)),
        Poll::Ready(_) => Ok(json!({}).into()),
        Poll::Pending => {
            tokio::spawn(async move {
                if let Err(error) = crawl.await {
                    tracing::warn!(%error, "a crawl failed");
                }
            });
            Ok(json!({}).into())
        }
    }
}

async fn delete_crawler(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let name = call.input::<Named>()?.name;
    rooms.lake.delete_crawler(&name).map_err(running)?;
    rooms.metastore.delete::<Extra>(&name)?;
    Ok(json!({}).into())
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
        scheduled["Schedule"] = json!("cron(0 * * * ? *)");
        let (_, code, message) = call("CreateCrawler", scheduled).await.unwrap_err();
        assert!(code == "InvalidInputException" && message.contains("Schedule"), "{message}");
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
        call("DeleteTable", of.clone()).await.unwrap();
        let (_, code, _) = call("GetTable", of).await.unwrap_err();
        assert_eq!(code, "EntityNotFoundException");
        call("DeleteCrawler", json!({"Name": "c"})).await.unwrap();
        call("DeleteDatabase", json!({"Name": "air"})).await.unwrap();
    }
}
