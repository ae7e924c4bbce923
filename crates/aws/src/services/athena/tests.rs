//! Athena from outside, over an engine that knows its answers.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Float64Array, Int64Array, ListArray,
    RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type};
use async_trait::async_trait;
use base::{Error, Result};
use lake::{EtlResult, EtlSpec, QueryEngine, QueryResult, SqlOptions};
use serde_json::{Value, json};

use super::statement::{self, Statement};
use crate::testing::World;

/// `SELECT sleep` never ends, `SELECT wrong` fails, all else answers one batch.
#[derive(Debug)]
struct Canned;

fn batch() -> RecordBatch {
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>([
        Some(vec![Some(1), None]),
        None,
        Some(vec![]),
    ]);
    let field = Arc::new(Field::new("a", DataType::Int64, true));
    let inner: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let columns: [(&str, ArrayRef); 8] = [
        ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]))),
        ("x", Arc::new(Float64Array::from(vec![Some(21.5), Some(1e7), None]))),
        ("s", Arc::new(StringArray::from(vec![Some("a \"b\""), Some(""), None]))),
        ("ok", Arc::new(BooleanArray::from(vec![true, false, true]))),
        ("at", Arc::new(TimestampMicrosecondArray::from(vec![0, 1_500_000, -1]))),
        ("day", Arc::new(Date32Array::from(vec![0, 1, 20_000]))),
        ("list", Arc::new(list)),
        ("row", Arc::new(StructArray::from(vec![(field, inner)]))),
    ];
    let bytes: ArrayRef = Arc::new(BinaryArray::from_vec(vec![b"\x01\xff", b"", b"z"]));
    let all = columns.into_iter().chain([("raw", bytes)]);
    RecordBatch::try_from_iter_with_nullable(all.map(|(name, column)| (name, column, true)))
        .unwrap()
}

#[async_trait]
impl QueryEngine for Canned {
    async fn sql(&self, sql: &str, options: &SqlOptions) -> Result<QueryResult> {
        assert!(!sql.to_lowercase().contains("awsdatacatalog"), "{sql}");
        assert_eq!(options.database, "factory");
        if sql.contains("sleep") {
            std::future::pending::<()>().await;
        }
        if sql.contains("wrong") {
            return Err(Error::invalid("COLUMN_NOT_FOUND: wrong"));
        }
        if let Some(bytes_max) = options.bytes_scanned_max
            && sql.contains("a lot")
        {
            let bytes = bytes_max + 1;
            return Err(Error::new(base::ErrorKind::Exhausted, "too many bytes")
                .with_source(lake::BytesCutoff { bytes }));
        }
        let mut batch = batch();
        if sql.contains("plain") {
            batch = batch.project(&[0, 1, 2, 3, 4, 5]).unwrap();
        }
        let (schema, batches) = (batch.schema(), vec![batch]);
        Ok(QueryResult { schema, batches, bytes_scanned: 1234, set_aside: 0 })
    }

    async fn etl(&self, _spec: &EtlSpec) -> Result<EtlResult> {
        Err(Error::unsupported("no jobs"))
    }
}

fn world() -> World {
    let world = World::with_engine(Arc::new(Canned));
    world.rooms.buckets.create_bucket("results").unwrap();
    world.rooms.lake.catalog().create_database("factory", "what it makes").unwrap();
    world
}

async fn ok(world: &World, operation: &str, input: Value) -> Value {
    world.call("athena", operation, input).await.unwrap()
}

async fn refused(world: &World, operation: &str, input: Value) -> (String, String) {
    let (_, code, message) = world.call("athena", operation, input).await.unwrap_err();
    (code, message)
}

async fn start(world: &World, sql: &str) -> String {
    let input = json!({
        "QueryString": sql,
        "QueryExecutionContext": {"Database": "factory", "Catalog": "AwsDataCatalog"},
        "ResultConfiguration": {"OutputLocation": "s3://results/athena"},
    });
    ok(world, "StartQueryExecution", input).await["QueryExecutionId"].as_str().unwrap().to_owned()
}

async fn get(world: &World, id: &str) -> Value {
    ok(world, "GetQueryExecution", json!({"QueryExecutionId": id})).await["QueryExecution"].clone()
}

async fn ended(world: &World, id: &str) -> Value {
    for _ in 0..500 {
        let found = get(world, id).await;
        if !["QUEUED", "RUNNING"].contains(&found["Status"]["State"].as_str().unwrap()) {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("the query does not end");
}

/// Runs a statement to SUCCEEDED; answers its id and its lines of text.
async fn lines(world: &World, sql: &str) -> Vec<String> {
    let id = start(world, sql).await;
    let found = ended(world, &id).await;
    assert_eq!(found["Status"]["State"], "SUCCEEDED", "{sql}: {found}");
    let results = ok(world, "GetQueryResults", json!({"QueryExecutionId": id})).await;
    let rows = results["ResultSet"]["Rows"].as_array().unwrap().clone();
    rows.iter().map(|row| row["Data"][0]["VarCharValue"].as_str().unwrap().to_owned()).collect()
}

/// Runs a statement to FAILED; answers why.
async fn failure(world: &World, sql: &str) -> String {
    let found = ended(world, &start(world, sql).await).await;
    assert_eq!(found["Status"]["State"], "FAILED", "{sql}: {found}");
    assert_eq!(found["Status"]["AthenaError"]["ErrorCategory"], 2);
    found["Status"]["StateChangeReason"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_select_is_answered_by_page_and_kept_as_csv() {
    let world = world();
    let id = start(&world, "SELECT * FROM \"AwsDataCatalog\".\"factory\".\"t\";").await;
    let found = ended(&world, &id).await;
    assert_eq!(found["Status"]["State"], "SUCCEEDED", "{found}");
    assert_eq!(found["StatementType"], "DML");
    assert_eq!(found["Statistics"]["DataScannedInBytes"], 1234);
    let output = format!("s3://results/athena/{id}.csv");
    assert_eq!(found["ResultConfiguration"]["OutputLocation"], output.as_str());
    let csv = world.rooms.buckets.get("results", &format!("athena/{id}.csv")).await.unwrap();
    assert_eq!(
        String::from_utf8_lossy(&csv).lines().collect::<Vec<_>>(),
        [
            r#""n","x","s","ok","at","day","list","row","raw""#,
            r#""1","21.5","a ""b""","true","1970-01-01 00:00:00.000","1970-01-01","[1, null]","{a=1}","01 ff""#,
            r#","1.0E7","","false","1970-01-01 00:00:01.500","1970-01-02",,"{a=2}","""#,
            r#""3",,,"true","1969-12-31 23:59:59.999","2024-10-04","[]","{a=3}","7a""#,
        ]
    );

    let (mut token, mut rows, mut pages) = (None::<String>, Vec::new(), 0);
    loop {
        let mut input = json!({"QueryExecutionId": id, "MaxResults": 2});
        if let Some(token) = &token {
            input["NextToken"] = json!(token);
        }
        let page = ok(&world, "GetQueryResults", input).await;
        let types = page["ResultSet"]["ResultSetMetadata"]["ColumnInfo"].as_array().unwrap();
        let types: Vec<_> = types.iter().map(|column| column["Type"].as_str().unwrap()).collect();
        assert_eq!(
            types,
            [
                "bigint",
                "double",
                "varchar",
                "boolean",
                "timestamp",
                "date",
                "array",
                "row",
                "varbinary"
            ]
        );
        rows.extend(page["ResultSet"]["Rows"].as_array().unwrap().clone());
        pages += 1;
        token = page["NextToken"].as_str().map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    assert_eq!((pages, rows.len()), (2, 4));
    assert_eq!(rows[0]["Data"][0], json!({"VarCharValue": "n"}));
    assert_eq!(rows[2]["Data"][0], json!({}));
    assert_eq!(rows[2]["Data"][2], json!({"VarCharValue": ""}));

    for (input, part) in [
        (json!({"QueryExecutionId": id, "MaxResults": 1001}), "1001"),
        (json!({"QueryExecutionId": id, "NextToken": "eA=="}), "NextToken"),
        (json!({"QueryExecutionId": "nobody"}), "nobody"),
    ] {
        let (code, message) = refused(&world, "GetQueryResults", input).await;
        assert_eq!(code, "InvalidRequestException");
        assert!(message.contains(part), "{message}");
    }
}

#[tokio::test]
async fn a_query_is_stopped_and_others_wait_their_turn() {
    let world = world();
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(start(&world, "SELECT sleep").await);
    }
    tokio::time::sleep(Duration::from_millis(20)).await;
    let states = |all: &Value| -> Vec<String> {
        let all = all["QueryExecutions"].as_array().unwrap();
        all.iter().map(|e| e["Status"]["State"].as_str().unwrap().to_owned()).collect()
    };
    let all = ok(&world, "BatchGetQueryExecution", json!({"QueryExecutionIds": ids})).await;
    assert_eq!(states(&all), ["RUNNING", "RUNNING", "RUNNING", "RUNNING", "QUEUED"]);
    let (_, message) =
        refused(&world, "GetQueryResults", json!({"QueryExecutionId": ids[4]})).await;
    assert!(message.contains("Current state: QUEUED"), "{message}");

    ok(&world, "StopQueryExecution", json!({"QueryExecutionId": ids[0]})).await;
    assert_eq!(get(&world, &ids[0]).await["Status"]["State"], "CANCELLED");
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(get(&world, &ids[4]).await["Status"]["State"], "RUNNING");
    // Stopping what has ended is no error.
    ok(&world, "StopQueryExecution", json!({"QueryExecutionId": ids[0]})).await;

    let listed = ok(&world, "ListQueryExecutions", json!({"MaxResults": 3})).await;
    assert_eq!(listed["QueryExecutionIds"].as_array().unwrap().len(), 3);
    let rest = json!({"NextToken": listed["NextToken"], "WorkGroup": "primary"});
    let rest = ok(&world, "ListQueryExecutions", rest).await;
    assert_eq!(rest["QueryExecutionIds"].as_array().unwrap().len(), 2);

    // What a restart leaves: a row that nobody runs.
    world.rooms.athena.running().clear();
    let lost = get(&world, &ids[1]).await;
    assert_eq!(lost["Status"]["State"], "FAILED");
    assert!(lost["Status"]["StateChangeReason"].as_str().unwrap().contains("restarted"));
}

#[tokio::test]
async fn what_a_query_may_not_ask_is_refused_and_what_goes_wrong_is_told() {
    let world = world();
    let base = || {
        json!({
            "QueryString": "SELECT 1",
            "QueryExecutionContext": {"Database": "factory"},
            "ResultConfiguration": {"OutputLocation": "s3://results/"},
        })
    };
    for (member, value, part) in [
        ("ResultConfiguration", json!({}), "No output location"),
        ("ResultConfiguration", json!({"OutputLocation": "/tmp"}), "s3://bucket"),
        (
            "ResultConfiguration",
            json!({"OutputLocation": "s3://results/", "EncryptionConfiguration": {"EncryptionOption": "SSE_S3"}}),
            "EncryptionConfiguration",
        ),
        ("QueryString", json!(" "), "QueryString"),
        ("WorkGroup", json!("nobody"), "nobody"),
        ("ClientRequestToken", json!("short"), "32 to 128"),
        ("QueryExecutionContext", json!({"Catalog": "other"}), "other"),
        ("Wish", json!(1), "Wish"),
    ] {
        let mut input = base();
        input[member] = value;
        let (code, message) = refused(&world, "StartQueryExecution", input).await;
        assert_eq!(code, "InvalidRequestException", "{message}");
        assert!(message.contains(part), "{message}");
    }

    let mut input = base();
    input["ClientRequestToken"] = json!("0123456789012345678901234567890123456789");
    let first = ok(&world, "StartQueryExecution", input.clone()).await;
    assert_eq!(ok(&world, "StartQueryExecution", input.clone()).await, first);
    input["QueryString"] = json!("SELECT 2");
    assert!(refused(&world, "StartQueryExecution", input).await.1.contains("Idempotent"));

    let mut input = base();
    input["ResultConfiguration"]["OutputLocation"] = json!("s3://nobucket/x/");
    let id = ok(&world, "StartQueryExecution", input).await;
    let found = ended(&world, id["QueryExecutionId"].as_str().unwrap()).await;
    assert!(found["Status"]["StateChangeReason"].as_str().unwrap().contains("nobucket"));

    for (sql, part) in [
        ("SELECT wrong", "COLUMN_NOT_FOUND"),
        ("UNLOAD (SELECT 1) TO 's3://results/x'", "WITH"),
        ("UNLOAD (SELECT 1) TO 's3://results/x' WITH (format='ORC')", "\"ORC\" is not written"),
        ("UNLOAD (SELECT 1) TO 's3://results/x' WITH (compression='GZIP')", "format = 'PARQUET'"),
        ("UNLOAD (SELECT 1) TO 's3://results/x' WITH (format='JSON', wish='x')", "wish of UNLOAD"),
        ("insert into t values (1)", "\"t\""),
        ("merge into t using u", "MERGE INTO is not supported"),
        ("ALTER TABLE t SET LOCATION 'x'", "ADD COLUMNS, ADD PARTITION and DROP PARTITION only"),
        ("EXECUTE nobody", "PreparedStatement nobody was not found"),
        ("DEALLOCATE PREPARE nobody", "PreparedStatement nobody was not found"),
        ("SELECT ?", "expected 1 but found 0"),
        ("CREATE VIEW v AS SELECT wrong", "COLUMN_NOT_FOUND"),
        ("DROP VIEW nothing", "there is no view \"nothing\""),
        ("SELECT 1; SELECT 2", "Only one sql statement"),
        ("DROP TABLE", "the statement ends"),
        ("DROP TABLE a.b.c.d", "a.b.c.d"),
        ("DROP TABLE nothing", "nothing"),
        ("DESCRIBE nothing", "nothing"),
        ("CREATE EXTERNAL TABLE t (a int) STORED AS ORC LOCATION 's3://results/t/'", "ORC"),
        ("CREATE EXTERNAL TABLE t (a array<int>) LOCATION 's3://results/t/'", "not read from CSV"),
        (
            "CREATE EXTERNAL TABLE t (a int) ROW FORMAT DELIMITED FIELDS TERMINATED BY '||' \
             LOCATION 's3://results/t/'",
            "one ASCII character",
        ),
        ("CREATE EXTERNAL TABLE t (a int) STORED AS PARQUET", "LOCATION"),
        ("CREATE EXTERNAL TABLE t (a what) STORED AS PARQUET LOCATION 's3://results/t/'", "what"),
        (
            "CREATE EXTERNAL TABLE t (a int) STORED AS PARQUET LOCATION 's3://results/t/' \
             TBLPROPERTIES ('projection.enabled'='true')",
            "projection.enabled",
        ),
        ("CREATE TABLE t WITH (format='ORC') AS SELECT 1", "ORC"),
        ("CREATE TABLE t WITH (format='AVRO') AS SELECT 1", "\"AVRO\" is not written"),
        ("CREATE TABLE t WITH (format='what') AS SELECT 1", "\"WHAT\" is not known"),
        ("CREATE TABLE t WITH (partitioned_by=ARRAY['a']) AS SELECT 1", "COLUMN_ORDER_MISMATCH"),
        ("CREATE TABLE t WITH (partitioned_by=ARRAY[]) AS SELECT 1", "a column's name"),
        ("CREATE TABLE t WITH (partitioned_by='a') AS SELECT 1", "Expecting: ARRAY"),
        ("CREATE TABLE t WITH (bucketed_by=ARRAY['a'], bucket_count=2) AS SELECT 1", "no buckets"),
        ("CREATE TABLE t WITH (write_compression='LZ4') AS SELECT 1", "\"LZ4\" is not supported"),
        ("CREATE TABLE t WITH (field_delimiter=',') AS SELECT 1", "only format = 'TEXTFILE'"),
        (
            "CREATE TABLE t WITH (format='JSON', write_compression='SNAPPY') AS SELECT 1",
            "is for Parquet",
        ),
        (
            "CREATE TABLE t WITH (format='TEXTFILE', field_delimiter='||') AS SELECT 1",
            "one ASCII character",
        ),
        ("CREATE TABLE t WITH (format='TEXTFILE') AS SELECT 1", "no form in delimited text"),
        ("CREATE TABLE t WITH (format='PARQUET') AS SELECT wrong", "COLUMN_NOT_FOUND"),
    ] {
        let why = failure(&world, sql).await;
        assert!(why.contains(part), "{sql}: {why}");
    }
}

#[tokio::test]
async fn definitions_change_the_catalog_and_questions_show_it() {
    let world = world();
    let none: [String; 0] = [];
    assert_eq!(lines(&world, "create database IF NOT EXISTS Other COMMENT 'x'").await, none);
    assert_eq!(lines(&world, "CREATE SCHEMA if not exists other").await, none);
    assert!(failure(&world, "CREATE DATABASE other").await.contains("ALREADY_EXISTS"));
    assert_eq!(lines(&world, "SHOW DATABASES").await, ["factory", "other"]);
    assert_eq!(lines(&world, "SHOW SCHEMAS LIKE 'o*'").await, ["other"]);
    let definition = "-- readings\nCREATE EXTERNAL TABLE IF NOT EXISTS `factory`.`readings` (\n  \
         `deviceId` string COMMENT 'who, and (where)',\n  tags array<struct<a:int, b : \
         decimal(10, 2)>>,\n  t double)\nPARTITIONED BY (year string, month string)\nROW FORMAT SERDE \
         'org.openx.data.jsonserde.JsonSerDe' WITH SERDEPROPERTIES ('ignore.malformed.json'='true')\n\
         LOCATION 's3://results/raw' TBLPROPERTIES ('classification'='json', 'note'='it''s');";
    assert_eq!(lines(&world, definition).await, none);
    assert_eq!(lines(&world, definition).await, none);
    assert_eq!(lines(&world, "SHOW TABLES IN factory").await, ["readings"]);
    assert_eq!(lines(&world, "show tables 'x*|y*'").await, none);
    let columns = ["deviceId", "tags", "t", "year", "month"];
    assert_eq!(lines(&world, "SHOW COLUMNS IN readings").await, columns);
    let described = lines(&world, "DESCRIBE awsdatacatalog.factory.readings").await;
    assert_eq!(
        described[0].split('\t').map(str::trim).collect::<Vec<_>>(),
        ["deviceId", "string", "who, and (where)"]
    );
    assert!(described[1].contains("array<struct<a:int,b:decimal(10,2)>>"), "{described:?}");
    assert_eq!(described.len(), 11);
    for key in ["raw/year=2024/month=01/a.json", "raw/year=2024/month=02/b.json", "raw/c.json"] {
        world.rooms.buckets.put("results", key, "{}".into()).await.unwrap();
    }
    let repaired = "Repair: Added partition to metastore readings:year=2024/month=";
    assert_eq!(
        lines(&world, "MSCK REPAIR TABLE readings").await,
        [format!("{repaired}01"), format!("{repaired}02")]
    );
    assert_eq!(lines(&world, "MSCK REPAIR TABLE readings").await, none);
    let shown = lines(&world, "SHOW PARTITIONS readings").await;
    assert_eq!(shown[..2], ["year=2024/month=01", "year=2024/month=02"]);
    assert!(failure(&world, "DROP DATABASE factory").await.contains("still has table"));
    let metadata = ok(
        &world,
        "GetTableMetadata",
        json!({"CatalogName": "awsdatacatalog", "DatabaseName": "factory", "TableName": "READINGS"}),
    )
    .await;
    let parameters = &metadata["TableMetadata"]["Parameters"];
    assert_eq!(
        (&parameters["note"], &parameters["location"]),
        (&json!("it's"), &json!("s3://results/raw/"))
    );
    assert_eq!(lines(&world, "DROP TABLE IF EXISTS factory.readings").await, none);
    assert_eq!(lines(&world, "DROP TABLE IF EXISTS factory.readings").await, none);
    assert_eq!(lines(&world, "DROP DATABASE IF EXISTS factory CASCADE").await, none);
    assert_eq!(lines(&world, "DROP DATABASE IF EXISTS factory").await, none);
}

#[tokio::test]
async fn a_table_is_made_from_a_select() {
    let world = world();
    let sql = "CREATE TABLE \"factory\".\"copy\" WITH (external_location = 's3://results/copy', \
               format = 'PARQUET', write_compression = 'ZSTD') AS SELECT * FROM t";
    let id = start(&world, sql).await;
    let found = ended(&world, &id).await;
    assert_eq!(found["Status"]["State"], "SUCCEEDED", "{found}");
    assert_eq!(found["StatementType"], "DDL");
    let results = ok(&world, "GetQueryResults", json!({"QueryExecutionId": id})).await;
    assert_eq!((&results["UpdateCount"], &results["ResultSet"]["Rows"]), (&json!(3), &json!([])));

    let table = world.rooms.lake.catalog().get_table("factory", "copy").unwrap();
    let files = world.rooms.lake.files(&table).await.unwrap();
    assert_eq!(files.len(), 1);
    let reader = formats::parquet::Reader::open(&files[0].path).unwrap();
    assert_eq!((reader.rows(), reader.schema()), (3, batch().schema()));
    let types: Vec<&str> = table.columns.iter().map(|c| c.hive_type.as_str()).collect();
    assert_eq!(
        types,
        [
            "bigint",
            "double",
            "string",
            "boolean",
            "timestamp",
            "date",
            "array<bigint>",
            "struct<a:bigint>",
            "binary"
        ]
    );
    let manifest =
        world.rooms.buckets.get("results", &format!("athena/{id}-manifest.csv")).await.unwrap();
    assert_eq!(manifest, format!("s3://results/{}\n", files[0].key).as_bytes());
    let told = found["Statistics"]["DataManifestLocation"].as_str().unwrap();
    assert_eq!(told, format!("s3://results/athena/{id}-manifest.csv"));
    assert!(!world.folder.path().join("athena").join(&id).exists());

    assert!(failure(&world, sql).await.contains("ALREADY_EXISTS"));
    let taken = sql.replace("\"copy\"", "copy2");
    assert!(failure(&world, &taken).await.contains("not empty"));
    // Without a place of its own it lies beneath the results; without data it has no files.
    let id = start(&world, "CREATE TABLE bare AS SELECT * FROM t WITH NO DATA").await;
    assert_eq!(ended(&world, &id).await["Status"]["State"], "SUCCEEDED");
    let bare = world.rooms.lake.catalog().get_table("factory", "bare").unwrap();
    assert_eq!(bare.prefix, format!("athena/tables/{id}/"));
    assert!(world.rooms.lake.files(&bare).await.unwrap().is_empty());
    // A stop before the rows are there leaves nothing.
    let id = start(&world, "CREATE TABLE never AS SELECT sleep").await;
    tokio::time::sleep(Duration::from_millis(10)).await;
    ok(&world, "StopQueryExecution", json!({"QueryExecutionId": id})).await;
    assert_eq!(get(&world, &id).await["Status"]["State"], "CANCELLED");
    assert!(world.rooms.lake.catalog().find_table("factory", "never").unwrap().is_none());
}

/// As the canned answer.
const NINE: &str = "n bigint, x double, s string, ok boolean, at timestamp, day date, \
                    list array<bigint>, `row` struct<a:bigint>, raw binary";

#[tokio::test]
async fn rows_are_put_into_a_table_and_unloaded_to_a_place() {
    let world = world();
    let none: [String; 0] = [];
    let create =
        format!("CREATE EXTERNAL TABLE t ({NINE}) STORED AS PARQUET LOCATION 's3://results/t/'");
    assert_eq!(lines(&world, &create).await, none);
    for at in 1..=2 {
        let id = start(&world, "INSERT INTO t SELECT * FROM u").await;
        let found = ended(&world, &id).await;
        assert_eq!(found["Status"]["State"], "SUCCEEDED", "{found}");
        assert_eq!(found["StatementType"], "DML");
        let results = ok(&world, "GetQueryResults", json!({"QueryExecutionId": id})).await;
        assert_eq!(results["UpdateCount"], 3);
        let table = world.rooms.lake.catalog().get_table("factory", "t").unwrap();
        let files = world.rooms.lake.files(&table).await.unwrap();
        let rows =
            |file: &lake::TableFile| formats::parquet::Reader::open(&file.path).unwrap().rows();
        assert_eq!((files.len(), files.iter().map(rows).sum::<u64>()), (at, at as u64 * 3));
    }
    let narrow =
        "CREATE EXTERNAL TABLE few (n bigint) STORED AS PARQUET LOCATION 's3://results/f/'";
    assert_eq!(lines(&world, narrow).await, none);
    let why = failure(&world, "INSERT INTO few SELECT * FROM u").await;
    assert!(why.contains("has 1 columns, partition keys included, and the rows have 9"), "{why}");
    let json = "CREATE EXTERNAL TABLE j (n bigint) ROW FORMAT SERDE \
                'org.openx.data.jsonserde.JsonSerDe' LOCATION 's3://results/j/'";
    assert_eq!(lines(&world, json).await, none);
    assert!(failure(&world, "INSERT INTO j VALUES (1)").await.contains("has 1 columns"));
    let text = "CREATE EXTERNAL TABLE h (n bigint, x double, s string, ok boolean, at timestamp, \
                day date) ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.OpenCSVSerde' \
                LOCATION 's3://results/h/' TBLPROPERTIES ('skip.header.line.count'='1', \
                'write.compression'='NONE')";
    assert_eq!(lines(&world, text).await, none);
    let id = start(&world, "INSERT INTO h SELECT plain").await;
    assert_eq!(ended(&world, &id).await["Status"]["State"], "SUCCEEDED");
    let keys = world.rooms.buckets.list("results", "h/").await.unwrap();
    let written = world.rooms.buckets.get("results", &keys[0].key).await.unwrap();
    assert_eq!(
        String::from_utf8_lossy(&written).lines().collect::<Vec<_>>(),
        [
            "n,x,s,ok,at,day",
            "1,21.5,\"a \"\"b\"\"\",true,1970-01-01T00:00:00,1970-01-01",
            ",10000000.0,,false,1970-01-01T00:00:01.500,1970-01-02",
            "3,,,true,1969-12-31T23:59:59.999999,2024-10-04",
        ]
    );
    let wide = "CREATE EXTERNAL TABLE w (a int) LOCATION 's3://results/w/' \
                TBLPROPERTIES ('skip.header.line.count'='2')";
    assert_eq!(lines(&world, wide).await, none);
    assert!(failure(&world, "INSERT INTO w SELECT plain").await.contains("has 1 columns"));
    assert!(failure(&world, "INSERT INTO t (x) VALUES (1)").await.contains("name all columns"));

    let unload = "UNLOAD (SELECT (1) AS n) TO 's3://results/out' \
                  WITH (format = 'PARQUET', compression = 'ZSTD')";
    let id = start(&world, unload).await;
    let found = ended(&world, &id).await;
    assert_eq!(found["Status"]["State"], "SUCCEEDED", "{found}");
    let told = found["Statistics"]["DataManifestLocation"].as_str().unwrap();
    let manifest = told.strip_prefix("s3://results/").unwrap();
    let manifest = world.rooms.buckets.get("results", manifest).await.unwrap();
    let keys = world.rooms.buckets.list("results", "out/").await.unwrap();
    assert_eq!(manifest, format!("s3://results/{}\n", keys[0].key).as_bytes());
    assert!(failure(&world, unload).await.contains("not empty"));
}

/// What a crash leaves: a statement that was RUNNING, and its write at one of its steps.
#[tokio::test]
async fn a_statement_that_was_killed_while_it_wrote_is_told_as_it_ended() {
    let world = world();
    let create =
        format!("CREATE EXTERNAL TABLE t ({NINE}) STORED AS PARQUET LOCATION 's3://results/t/'");
    lines(&world, &create).await;
    let table = world.rooms.lake.catalog().get_table("factory", "t").unwrap();
    for (step, state) in [(0, "FAILED"), (1, "FAILED"), (2, "SUCCEEDED"), (3, "SUCCEEDED")] {
        let id = start(&world, "INSERT INTO t SELECT sleep").await;
        let lake = &world.rooms.lake;
        let write = lake::write_id(&id);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(get(&world, &id).await["Status"]["State"], "RUNNING");
        let file = |name: &str, key: String, bytes: u64| lake::WriteFile {
            staged: name.into(),
            bucket: "results".into(),
            key,
            bytes,
            rows: 7,
            partition_values: Vec::new(),
        };
        std::fs::write(lake.write_staging(&write).unwrap().join("a"), "PAR1").unwrap();
        let write_of = lake::Write {
            id: write.clone(),
            into: lake::WriteInto::Table(Box::new(table.clone())),
            files: vec![file("a", format!("t/{id}.parquet"), 4)],
            beside: Vec::new(),
            bytes_scanned: 9,
        };
        if step > 0 {
            lake.prepare_write(write_of).await.unwrap();
        }
        if step == 2 {
            assert!(lake.recover().await.unwrap().writes.contains(&write));
        } else if step == 3 {
            lake.publish_write(&write).await.unwrap();
            lake.commit_write(&write).unwrap();
        }
        world.rooms.athena.running().remove(&id);
        let found = get(&world, &id).await;
        assert_eq!(found["Status"]["State"], state, "{step}: {found}");
        let seen = lake.files(&table).await.unwrap().iter().any(|file| file.key.contains(&id));
        assert_eq!(seen, state == "SUCCEEDED", "{step}");
        if state == "SUCCEEDED" {
            let results = ok(&world, "GetQueryResults", json!({"QueryExecutionId": id})).await;
            assert_eq!(results["UpdateCount"], 7);
            assert_eq!(found["Statistics"]["DataScannedInBytes"], 9);
            assert_eq!(lake.finished_write(&write).unwrap(), None);
        } else if step == 1 {
            let why = found["Status"]["StateChangeReason"].as_str().unwrap();
            assert!(why.contains("do not run the statement again"), "{why}");
        }
    }
}

#[tokio::test]
async fn a_query_that_reads_more_than_its_workgroup_allows_is_cancelled() {
    let world = world();
    let limit = |bytes: u64| json!({"BytesScannedCutoffPerQuery": bytes});
    let (code, message) =
        refused(&world, "CreateWorkGroup", json!({"Name": "x", "Configuration": limit(1)})).await;
    assert_eq!(code, "InvalidRequestException");
    assert!(message.contains("10000000"), "{message}");
    let create = json!({"Name": "thrifty", "Configuration": limit(10_000_000)});
    ok(&world, "CreateWorkGroup", create).await;
    let cutoff = || async {
        let found = ok(&world, "GetWorkGroup", json!({"WorkGroup": "thrifty"})).await;
        found["WorkGroup"]["Configuration"]["BytesScannedCutoffPerQuery"].clone()
    };
    assert_eq!(cutoff().await, json!(10_000_000));
    let run = |sql: &'static str| {
        let world = &world;
        async move {
            let input = json!({
                "QueryString": sql,
                "WorkGroup": "thrifty",
                "QueryExecutionContext": {"Database": "factory"},
                "ResultConfiguration": {"OutputLocation": "s3://results/"},
            });
            let id = ok(world, "StartQueryExecution", input).await;
            ended(world, id["QueryExecutionId"].as_str().unwrap()).await
        }
    };
    assert_eq!(run("SELECT little").await["Status"]["State"], "SUCCEEDED");
    for sql in ["SELECT a lot", "UNLOAD (SELECT a lot) TO 's3://results/o' WITH (format='JSON')"] {
        let found = run(sql).await;
        assert_eq!(found["Status"]["State"], "CANCELLED", "{found}");
        assert_eq!(found["Status"]["StateChangeReason"], "Bytes scanned limit was exceeded");
        assert_eq!(found["Statistics"]["DataScannedInBytes"], 10_000_001);
    }
    let remove = json!({"RemoveBytesScannedCutoffPerQuery": true});
    let update = json!({"WorkGroup": "thrifty", "ConfigurationUpdates": remove});
    ok(&world, "UpdateWorkGroup", update).await;
    assert_eq!(cutoff().await, Value::Null);
    assert_eq!(run("SELECT a lot").await["Status"]["State"], "SUCCEEDED");
}

#[tokio::test]
async fn tables_are_changed_and_shown_as_they_are() {
    let world = world();
    let none: [String; 0] = [];
    let create = "CREATE EXTERNAL TABLE p (a int) PARTITIONED BY (day string) STORED AS PARQUET \
                  LOCATION 's3://results/p/' TBLPROPERTIES ('note'='it''s')";
    assert_eq!(lines(&world, create).await, none);
    assert_eq!(lines(&world, "ALTER TABLE p ADD COLUMNS (b string COMMENT 'new')").await, none);
    assert_eq!(lines(&world, "SHOW COLUMNS IN p").await, ["a", "b", "day"]);
    let add = "ALTER TABLE p ADD IF NOT EXISTS PARTITION (day = '2026-01-01') \
               LOCATION 's3://results/p/day=2026-01-01/' PARTITION (day = '2026-01-02')";
    assert_eq!(lines(&world, add).await, none);
    assert_eq!(lines(&world, add).await, none);
    assert_eq!(lines(&world, "SHOW PARTITIONS p").await, ["day=2026-01-01", "day=2026-01-02"]);
    for (sql, part) in [
        ("ALTER TABLE p ADD PARTITION (day = '2026-01-01')", "exists already"),
        ("ALTER TABLE p ADD PARTITION (hour = '1')", "each of its keys: day"),
        ("ALTER TABLE p ADD PARTITION (day='x') LOCATION 's3://results/q/'", "leave LOCATION out"),
        ("ALTER TABLE p DROP PARTITION (day = 'never')", "has no partition"),
    ] {
        let why = failure(&world, sql).await;
        assert!(why.contains(part), "{sql}: {why}");
    }
    assert_eq!(lines(&world, "ALTER TABLE p DROP PARTITION (day = '2026-01-02')").await, none);
    world.rooms.buckets.put("results", "p/day=2026-01-01/x.parquet", "x".into()).await.unwrap();
    let why = failure(&world, "ALTER TABLE p DROP PARTITION (day = '2026-01-01')").await;
    assert!(why.contains("a query would still read"), "{why}");
    let properties = lines(&world, "SHOW TBLPROPERTIES p").await;
    assert!(properties.contains(&"note\tit's".to_owned()), "{properties:?}");
    // The statement makes the same table.
    let made = lines(&world, "SHOW CREATE TABLE p").await.join("\n");
    let Statement::CreateTable(again) = statement::parse(&made).unwrap() else { panic!("{made}") };
    assert_eq!((again.name.table.as_str(), again.columns.len()), ("p", 2), "{made}");
    assert_eq!(again.location, "s3://results/p/");
    assert!(again.properties.contains(&("note".into(), "it's".into())), "{made}");
}

#[tokio::test]
async fn views_and_prepared_statements_are_kept_by_name() {
    let world = world();
    let none: [String; 0] = [];
    assert_eq!(lines(&world, "CREATE VIEW factory.seen AS SELECT 1 AS one").await, none);
    assert!(failure(&world, "CREATE VIEW seen AS SELECT 2").await.contains("exists"));
    assert_eq!(lines(&world, "CREATE OR REPLACE VIEW seen AS SELECT 2 AS two").await, none);
    assert_eq!(lines(&world, "SHOW VIEWS LIKE 's*'").await, ["seen"]);
    let shown = lines(&world, "SHOW CREATE VIEW seen").await;
    assert_eq!(shown, ["CREATE VIEW factory.seen AS", "SELECT 2 AS two"]);
    assert_eq!(lines(&world, "DROP VIEW seen").await, none);
    assert_eq!(lines(&world, "DROP VIEW IF EXISTS seen").await, none);

    assert_eq!(lines(&world, "PREPARE one FROM SELECT * FROM t WHERE a = ?").await, none);
    let one = json!({"StatementName": "one", "WorkGroup": "primary"});
    let found = ok(&world, "GetPreparedStatement", one.clone()).await;
    let sql = &found["PreparedStatement"]["QueryStatement"];
    assert_eq!(sql, "SELECT * FROM t WHERE a = ?");
    for sql in [
        "EXECUTE one USING 'it''s'",
        "EXECUTE one USING -1.5",
        "EXECUTE one USING DATE '2026-01-01'",
    ] {
        let id = start(&world, sql).await;
        assert_eq!(ended(&world, &id).await["Status"]["State"], "SUCCEEDED", "{sql}");
    }
    for (sql, part) in [
        ("EXECUTE one", "expected 1 but found 0"),
        ("EXECUTE one USING 1, 2", "expected 1 but found 2"),
        ("EXECUTE one USING 1; DROP TABLE t", "is no value"),
        ("EXECUTE one USING (SELECT 1)", "is no value"),
        ("EXECUTE one USING '' OR true", "is no value"),
    ] {
        let why = failure(&world, sql).await;
        assert!(why.contains(part), "{sql}: {why}");
    }
    let input = json!({
        "QueryString": "SELECT * FROM t WHERE a = ? AND s = '?' AND b = ?",
        "ExecutionParameters": ["1", "'x'"],
        "QueryExecutionContext": {"Database": "factory"},
        "ResultConfiguration": {"OutputLocation": "s3://results/"},
    });
    let id = ok(&world, "StartQueryExecution", input).await;
    let found = ended(&world, id["QueryExecutionId"].as_str().unwrap()).await;
    assert_eq!(found["Status"]["State"], "SUCCEEDED", "{found}");
    assert_eq!(
        statement::bound("SELECT ? /* ? */ || '?', \"?\" = ?", &["1".into(), "'x'".into()])
            .unwrap(),
        "SELECT 1 /* ? */ || '?', \"?\" = 'x'"
    );
    let put = json!({"StatementName": "two", "WorkGroup": "primary", "QueryStatement": "SELECT 1"});
    ok(&world, "CreatePreparedStatement", put.clone()).await;
    assert!(refused(&world, "CreatePreparedStatement", put.clone()).await.1.contains("exists"));
    ok(&world, "UpdatePreparedStatement", put).await;
    let listed = ok(&world, "ListPreparedStatements", json!({"WorkGroup": "primary"})).await;
    let names: Vec<_> = listed["PreparedStatements"].as_array().unwrap().iter().collect();
    assert_eq!(names.len(), 2, "{listed}");
    ok(&world, "DeletePreparedStatement", one.clone()).await;
    assert_eq!(refused(&world, "GetPreparedStatement", one).await.0, "ResourceNotFoundException");
}

#[tokio::test]
async fn workgroups_say_where_results_go() {
    let world = world();
    let create = json!({
        "Name": "team",
        "Description": "ours",
        "Configuration": {"ResultConfiguration": {"OutputLocation": "s3://results/team/"}},
        "Tags": [{"Key": "a", "Value": "1"}],
    });
    ok(&world, "CreateWorkGroup", create.clone()).await;
    assert!(refused(&world, "CreateWorkGroup", create).await.1.contains("already created"));
    let run = || async {
        let input = json!({
            "QueryString": "SHOW DATABASES",
            "WorkGroup": "team",
            "ResultConfiguration": {"OutputLocation": "s3://results/own/"},
        });
        let id = ok(&world, "StartQueryExecution", input).await;
        let found = ended(&world, id["QueryExecutionId"].as_str().unwrap()).await;
        found["ResultConfiguration"]["OutputLocation"].as_str().unwrap().to_owned()
    };
    assert!(run().await.starts_with("s3://results/team/"));
    let update = json!({
        "WorkGroup": "team",
        "ConfigurationUpdates": {
            "EnforceWorkGroupConfiguration": false,
            "ResultConfigurationUpdates": {"RemoveOutputLocation": true},
        },
    });
    ok(&world, "UpdateWorkGroup", update).await;
    assert!(run().await.starts_with("s3://results/own/"));
    let found = ok(&world, "GetWorkGroup", json!({"WorkGroup": "team"})).await;
    assert_eq!(found["WorkGroup"]["Configuration"]["ResultConfiguration"], json!({}));
    let arn = "arn:aws:athena:us-east-1:123456789012:workgroup/team";
    let more = json!({"ResourceARN": arn, "Tags": [{"Key": "b", "Value": "2"}]});
    ok(&world, "TagResource", more).await;
    ok(&world, "UntagResource", json!({"ResourceARN": arn, "TagKeys": ["a"]})).await;
    let tags = ok(&world, "ListTagsForResource", json!({"ResourceARN": arn})).await;
    assert_eq!(tags["Tags"], json!([{"Key": "b", "Value": "2"}]));
    ok(&world, "UpdateWorkGroup", json!({"WorkGroup": "team", "State": "DISABLED"})).await;
    let input = json!({"QueryString": "SELECT 1", "WorkGroup": "team"});
    assert!(refused(&world, "StartQueryExecution", input).await.1.contains("disabled"));
    let listed = ok(&world, "ListWorkGroups", json!({})).await;
    let names: Vec<_> =
        listed["WorkGroups"].as_array().unwrap().iter().map(|g| g["Name"].clone()).collect();
    assert_eq!(names, ["primary", "team"]);
    for (operation, input, part) in [
        ("DeleteWorkGroup", json!({"WorkGroup": "team"}), "not empty"),
        ("DeleteWorkGroup", json!({"WorkGroup": "primary"}), "primary"),
        ("GetWorkGroup", json!({"WorkGroup": "nobody"}), "WorkGroup nobody is not found"),
        ("CreateWorkGroup", json!({"Name": "a b"}), "a b"),
    ] {
        let (code, message) = refused(&world, operation, input).await;
        assert_eq!(code, "InvalidRequestException");
        assert!(message.contains(part), "{message}");
    }
    let delete = json!({"WorkGroup": "team", "RecursiveDeleteOption": true});
    ok(&world, "DeleteWorkGroup", delete).await;
    assert_eq!(
        refused(&world, "GetWorkGroup", json!({"WorkGroup": "team"})).await.0,
        "InvalidRequestException"
    );
}

#[tokio::test]
async fn the_catalog_is_shown_as_athena_does() {
    let world = world();
    let catalogs = ok(&world, "ListDataCatalogs", json!({})).await;
    assert_eq!(catalogs["DataCatalogsSummary"][0]["CatalogName"], "AwsDataCatalog");
    let found = ok(&world, "GetDataCatalog", json!({"Name": "AwsDataCatalog"})).await;
    assert_eq!(found["DataCatalog"]["Type"], "GLUE");
    let input = json!({"CatalogName": "AwsDataCatalog"});
    let databases = ok(&world, "ListDatabases", input).await;
    assert_eq!(databases["DatabaseList"][0]["Description"], "what it makes");
    let mut input = json!({"CatalogName": "AwsDataCatalog", "DatabaseName": "factory"});
    assert_eq!(ok(&world, "GetDatabase", input.clone()).await["Database"]["Name"], "factory");
    assert_eq!(
        ok(&world, "ListTableMetadata", input.clone()).await,
        json!({"TableMetadataList": []})
    );
    input["TableName"] = json!("nothing");
    let (word, why) = refused(&world, "GetTableMetadata", input).await;
    assert_eq!(word, "MetadataException");
    assert!(why.contains("\"nothing\"") && why.contains("Code: EntityNotFoundException;"), "{why}");
    let other = json!({"CatalogName": "other"});
    assert_eq!(refused(&world, "ListDatabases", other).await.0, "InvalidRequestException");
}

#[test]
fn queries_reach_the_engine_as_written_but_for_the_catalog() {
    for (sql, expect) in [
        ("select 1;", "select 1"),
        (" WITH a AS (SELECT 1) SELECT * FROM a ; ", "WITH a AS (SELECT 1) SELECT * FROM a"),
        ("(SELECT ';' AS \"x;y\")", "(SELECT ';' AS \"x;y\")"),
        ("SELECT * FROM AwsDataCatalog.a.b", "SELECT * FROM a.b"),
        (
            "SELECT 'awsdatacatalog.x' FROM \"awsdatacatalog\" . \"a\".b",
            "SELECT 'awsdatacatalog.x' FROM  \"a\".b",
        ),
        ("/* ; */ VALUES (1) -- ;", "VALUES (1)"),
    ] {
        assert_eq!(statement::parse(sql).unwrap(), Statement::Query(expect.into()), "{sql}");
    }
    for sql in ["", ";", "SELECT 'open", "/* open", "SHOW", "DESCRIBE t u", "é"] {
        assert!(statement::parse(sql).is_err(), "{sql}");
    }
}

#[tokio::test]
async fn tables_of_delimited_text_are_declared_as_athenas_users_do() {
    let world = world();
    let at = "LOCATION 's3://results/sheets/'";
    for (name, rest) in [
        ("plain", at.to_owned()),
        (
            "tabs",
            format!("ROW FORMAT DELIMITED FIELDS TERMINATED BY '\\t' STORED AS TEXTFILE {at}"),
        ),
        (
            "escaped",
            format!(
                "ROW FORMAT DELIMITED FIELDS TERMINATED BY ',' ESCAPED BY '\\\\' LINES TERMINATED \
                 BY '\\n' NULL DEFINED AS 'NA' {at} TBLPROPERTIES ('skip.header.line.count'='1')"
            ),
        ),
        (
            "quoted",
            format!(
                "ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.OpenCSVSerde' WITH \
                 SERDEPROPERTIES ('separatorChar' = ';', 'quoteChar' = '\"') STORED AS TEXTFILE \
                 {at} TBLPROPERTIES ('classification'='csv', 'skip.header.line.count'='2')"
            ),
        ),
        (
            "lazy",
            format!(
                "ROW FORMAT SERDE 'org.apache.hadoop.hive.serde2.lazy.LazySimpleSerDe' WITH \
                 SERDEPROPERTIES ('field.delim' = '|', 'serialization.format' = '|') \
                 STORED AS INPUTFORMAT 'org.apache.hadoop.mapred.TextInputFormat' OUTPUTFORMAT \
                 'org.apache.hadoop.hive.ql.io.HiveIgnoreKeyTextOutputFormat' {at}"
            ),
        ),
    ] {
        lines(&world, &format!("CREATE EXTERNAL TABLE {name} (a int, b string) {rest}")).await;
    }
    let csv = |name: &str| {
        let table = world.rooms.lake.catalog().get_table("factory", name).unwrap();
        assert_eq!(table.format, lake::Format::Csv);
        table.csv.unwrap()
    };
    assert_eq!((csv("plain").delimiter, csv("plain").quote), (1, None));
    assert_eq!((csv("tabs").delimiter, csv("tabs").null.as_deref()), (b'\t', Some("\\N")));
    let escaped = csv("escaped");
    assert_eq!((escaped.escape, escaped.null.as_deref()), (Some(b'\\'), Some("NA")));
    assert_eq!(escaped.header, formats::csv::Header::Skip(1));
    let quoted = csv("quoted");
    assert_eq!((quoted.delimiter, quoted.quote, quoted.escape), (b';', Some(b'"'), Some(b'\\')));
    assert_eq!(quoted.header, formats::csv::Header::Skip(2));
    assert_eq!(csv("lazy").delimiter, b'|');
    let shown =
        json!({"CatalogName": "AwsDataCatalog", "DatabaseName": "factory", "TableName": "quoted"});
    let shown = ok(&world, "GetTableMetadata", shown).await;
    let serde = &shown["TableMetadata"]["Parameters"]["serde.serialization.lib"];
    assert_eq!(*serde, "org.apache.hadoop.hive.serde2.OpenCSVSerde");
    let why = failure(
        &world,
        &format!(
            "CREATE EXTERNAL TABLE x (a int) ROW FORMAT SERDE \
             'org.apache.hadoop.hive.serde2.OpenCSVSerde' WITH SERDEPROPERTIES ('x' = 'y') {at}"
        ),
    )
    .await;
    assert!(why.contains("\"x\" = \"y\""), "{why}");
}
