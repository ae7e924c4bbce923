//! Firehose at its border.

use std::time::Duration;

use serde_json::{Value, json};

use crate::testing::World;

fn stream(change: Value) -> Value {
    let mut input = json!({"DeliveryStreamName": "s", "ExtendedS3DestinationConfiguration": {
        "RoleARN": "arn:aws:iam::123456789012:role/r", "BucketARN": "arn:aws:s3:::lake",
        "Prefix": "raw/",
    }});
    for (member, value) in change.as_object().unwrap() {
        input["ExtendedS3DestinationConfiguration"][member] = value.clone();
    }
    input
}

fn world() -> World {
    let world = World::new();
    world.rooms.buckets.create_bucket("lake").unwrap();
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_is_delivered_and_a_change_holds_from_then_on() {
    let world = world();
    let call = |operation: &'static str, input| world.call("firehose", operation, input);
    let append = |delimiter: &str| {
        json!({"Enabled": true, "Processors": [{"Type": "AppendDelimiterToRecord", "Parameters": [
        {"ParameterName": "Delimiter", "ParameterValue": delimiter}]}]})
    };
    let made = call(
        "CreateDeliveryStream",
        stream(json!({"ProcessingConfiguration": append("\\n"), "CompressionFormat": "GZIP"})),
    );
    let made = made.await.unwrap();
    let arn = "arn:aws:firehose:us-east-1:123456789012:deliverystream/s";
    assert_eq!(made["DeliveryStreamARN"], arn);
    let (_, code, _) = call("CreateDeliveryStream", stream(json!({}))).await.unwrap_err();
    assert_eq!(code, "ResourceInUseException");

    let put = json!({"DeliveryStreamName": "s", "Record": {"Data": "YQ=="}});
    let put = call("PutRecord", put).await.unwrap();
    assert!(!put["RecordId"].as_str().unwrap().is_empty());
    let records = json!([{"Data": "Yg=="}, {"Data": "Yw=="}]);
    let batch = json!({"DeliveryStreamName": "s", "Records": records});
    let batch = call("PutRecordBatch", batch).await.unwrap();
    assert_eq!(batch["FailedPutCount"], 0);
    assert_eq!(batch["RequestResponses"].as_array().unwrap().len(), 2);

    let change = json!({"DeliveryStreamName": "s", "CurrentDeliveryStreamVersionId": "1",
        "DestinationId": "destinationId-000000000001",
        "ExtendedS3DestinationUpdate": {"ProcessingConfiguration": append("|"),
            "CompressionFormat": "UNCOMPRESSED"}});
    call("UpdateDestination", change.clone()).await.unwrap();
    let (_, code, _) = call("UpdateDestination", change).await.unwrap_err();
    assert_eq!(code, "ConcurrentModificationException");
    let described =
        call("DescribeDeliveryStream", json!({"DeliveryStreamName": "s"})).await.unwrap();
    let described = &described["DeliveryStreamDescription"];
    assert_eq!(described["VersionId"], "2");
    assert_eq!(described["DeliveryStreamStatus"], "ACTIVE");
    let destination = &described["Destinations"][0];
    assert_eq!(destination["ExtendedS3DestinationDescription"]["Prefix"], "raw/");
    assert_eq!(destination["S3DestinationDescription"]["BufferingHints"]["SizeInMBs"], 5);

    let streams = world.rooms.streams.clone();
    let flush = move || streams.flush("s", Duration::from_secs(5));
    tokio::task::spawn_blocking(flush).await.unwrap().unwrap();
    let objects = world.rooms.buckets.list("lake", "raw/").await.unwrap();
    assert_eq!(objects.len(), 1);
    assert_eq!(world.rooms.buckets.get("lake", &objects[0].key).await.unwrap(), "a|b|c|");

    call("DeleteDeliveryStream", json!({"DeliveryStreamName": "s"})).await.unwrap();
    let (_, code, _) =
        call("DescribeDeliveryStream", json!({"DeliveryStreamName": "s"})).await.unwrap_err();
    assert_eq!(code, "ResourceNotFoundException");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_tags_are_bounded() {
    let world = world();
    let call = |operation: &'static str, input| world.call("firehose", operation, input);
    for name in ["a", "b"] {
        let mut input = stream(json!({}));
        input["DeliveryStreamName"] = json!(name);
        call("CreateDeliveryStream", input).await.unwrap();
    }
    let page = call("ListDeliveryStreams", json!({"Limit": 1})).await.unwrap();
    assert_eq!(page, json!({"DeliveryStreamNames": ["a"], "HasMoreDeliveryStreams": true}));
    let page = json!({"ExclusiveStartDeliveryStreamName": "a"});
    let page = call("ListDeliveryStreams", page).await.unwrap();
    assert_eq!(page, json!({"DeliveryStreamNames": ["b"], "HasMoreDeliveryStreams": false}));
    let tags = json!({"DeliveryStreamName": "a", "Tags": [{"Key": "k", "Value": "v"}]});
    call("TagDeliveryStream", tags).await.unwrap();
    let many: Vec<Value> = (0..50).map(|n| json!({"Key": n.to_string()})).collect();
    let many = json!({"DeliveryStreamName": "a", "Tags": many});
    let (_, code, _) = call("TagDeliveryStream", many).await.unwrap_err();
    assert_eq!(code, "LimitExceededException");
    let all = call("ListTagsForDeliveryStream", json!({"DeliveryStreamName": "a"})).await.unwrap();
    assert_eq!(all, json!({"Tags": [{"Key": "k", "Value": "v"}], "HasMoreTags": false}));
    let untag = json!({"DeliveryStreamName": "a", "TagKeys": ["k"]});
    call("UntagDeliveryStream", untag).await.unwrap();
    let all = call("ListTagsForDeliveryStream", json!({"DeliveryStreamName": "a"})).await.unwrap();
    assert_eq!(all["Tags"], json!([]));
}

fn processor(kind: &str, parameters: &[(&str, &str)]) -> Value {
    let parameter =
        |(name, value): &(&str, &str)| json!({"ParameterName": name, "ParameterValue": value});
    let parameters: Vec<Value> = parameters.iter().map(parameter).collect();
    let processors = json!([{"Type": kind, "Parameters": parameters}]);
    json!({"ProcessingConfiguration": {"Enabled": true, "Processors": processors}})
}

fn convert(schema: Value) -> Value {
    let mut full = json!({"DatabaseName": "air", "TableName": "t"});
    for (member, value) in schema.as_object().unwrap() {
        full[member] = value.clone();
    }
    json!({"DataFormatConversionConfiguration": {
        "SchemaConfiguration": full,
        "InputFormatConfiguration": {"Deserializer": {"OpenXJsonSerDe": {}}},
        "OutputFormatConfiguration": {"Serializer": {"ParquetSerDe": {}}},
    }})
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_acted_on_is_refused_by_name() {
    let world = world();
    let cases = [
        (json!({"CompressionFormat": "LZ4"}), "HADOOP_SNAPPY"),
        (json!({"BufferingHints": {"SizeInMBs": 5}}), "both"),
        (json!({"BufferingHints": {"SizeInMBs": 129, "IntervalInSeconds": 60}}), "128 MiB"),
        (json!({"S3BackupMode": "Enabled"}), "S3BackupConfiguration"),
        (json!({"S3BackupMode": "AllEvents"}), "AllEvents"),
        (json!({"DynamicPartitioningConfiguration": {"Enabled": true}}), "MetadataExtraction"),
        (
            processor("MetadataExtraction", &[("MetadataExtractionQuery", "{a: .a}")]),
            "to be enabled",
        ),
        (processor("MetadataExtraction", &[("JsonParsingEngine", "JQ-1.7")]), "JQ-1.6"),
        (processor("RecordDeAggregation", &[("SubRecordType", "CSV")]), "JSON or DELIMITED"),
        (
            processor("RecordDeAggregation", &[("SubRecordType", "DELIMITED"), ("Delimiter", "#")]),
            "base64",
        ),
        (processor("RecordDeAggregation", &[("SubRecordType", "JSON")]), "only where they are"),
        (processor("AppendDelimiterToRecord", &[("Colour", "red")]), "\"Colour\" of"),
        (json!({"CustomTimeZone": "Europe/Atlantis"}), "Europe/Atlantis"),
        (convert(json!({"TableName": null})), "TableName"),
        (convert(json!({"TableName": "nowhere"})), "nowhere"),
        (convert(json!({"VersionId": "first"})), "VersionId \"first\""),
        (convert(json!({"CatalogId": "999999999999"})), "another account"),
        (json!({"BucketARN": "arn:aws:s3:::nowhere"}), "nowhere"),
        (json!({"BucketARN": "lake"}), "arn:aws:s3:::BUCKET"),
        (json!({"Colour": "red"}), "Colour"),
        (
            json!({"ProcessingConfiguration": {"Enabled": true, "Processors": [{"Type": "Lambda"}]}}),
            "Lambda",
        ),
    ];
    for (change, part) in cases {
        let refused = world.call("firehose", "CreateDeliveryStream", stream(change));
        let (status, code, message) = refused.await.unwrap_err();
        assert_eq!((status, code.as_str()), (400, "InvalidArgumentException"), "{message}");
        assert!(message.contains(part), "{message}");
    }
    let put = json!({"DeliveryStreamName": "nope", "Record": {"Data": "YQ=="}});
    let (_, code, _) = world.call("firehose", "PutRecord", put).await.unwrap_err();
    assert_eq!(code, "ResourceNotFoundException");
}
