//! Hosting over a small model trained on the spot.

use std::fmt::Write as _;
use std::time::Duration;

use axum::body::Bytes;
use http::Request;
use serde_json::{Value, json};

use crate::testing::{World, named};

const IMAGE: &str = "522234722520.dkr.ecr.us-east-1.amazonaws.com/forecasting-deepar:1";
const ROLE: &str = "arn:aws:iam::123456789012:role/service-role/r";

/// A world with the bucket `lake` and a model at `model/j/output/model.tar.gz`.
async fn world() -> World {
    let world = World::new();
    let buckets = &world.rooms.buckets;
    buckets.create_bucket("lake").unwrap();
    let mut lines = String::new();
    for series in 0..4 {
        let target: Vec<u32> = (0..90).map(|hour| 10 * series + hour % 24).collect();
        writeln!(lines, "{}", json!({"start": "2021-02-05 00:00:00", "target": target})).unwrap();
    }
    buckets.put("lake", "model/train/a.json", lines.into()).await.unwrap();
    let hyper = [
        ("time_freq", "H"),
        ("context_length", "4"),
        ("prediction_length", "2"),
        ("epochs", "1"),
        ("num_cells", "4"),
        ("num_layers", "1"),
        ("mini_batch_size", "32"),
    ];
    let model = world.folder.path().join("model.tar.gz");
    let spec = training::TrainSpec {
        train: buckets.local_path("lake", "model/train/a.json").unwrap(),
        test: None,
        algorithm: training::Algorithm::DeepAr,
        hyperparameters: hyper.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        seed: Some(1),
        threads: Some(1),
        model: model.clone(),
        windows: 1,
    };
    training::job::run(&spec, &base::SystemClock, &mut |_| ()).unwrap();
    buckets.publish_file(&model, "lake", "model/j/output/model.tar.gz").await.unwrap();
    world
}

async fn made(world: &World, operation: &str, input: Value) -> Value {
    world.call("sagemaker", operation, input).await.unwrap_or_else(|e| panic!("{operation}: {e:?}"))
}

async fn refused(world: &World, operation: &str, input: Value, word: &str) {
    let (status, code, why) = world.call("sagemaker", operation, input).await.unwrap_err();
    assert_eq!((status, code.as_str()), (400, "ValidationException"), "{operation}: {why}");
    assert!(why.contains(word), "{operation}: {why}");
}

async fn model(world: &World, name: &str) {
    let container =
        json!({"Image": IMAGE, "ModelDataUrl": "s3://lake/model/j/output/model.tar.gz"});
    let input = json!({"ModelName": name, "ExecutionRoleArn": ROLE, "PrimaryContainer": container});
    made(world, "CreateModel", input).await;
}

fn variant(name: &str, model: &str, weight: f64) -> Value {
    json!({"VariantName": name, "ModelName": model, "InitialInstanceCount": 1,
        "InstanceType": "ml.m4.xlarge", "InitialVariantWeight": weight})
}

async fn in_service(world: &World, name: &str) -> Value {
    for _ in 0..200 {
        let told = made(world, "DescribeEndpoint", json!({"EndpointName": name})).await;
        if told["EndpointStatus"] == "InService" {
            return told;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{name} does not come into service");
}

async fn invoke(world: &World, name: &str, headers: &[(&str, &str)]) -> (u16, Value) {
    let body = json!({"instances": [{"start": "2021-02-05 00:00:00", "target": [1, 2, 3, 4]}],
        "configuration": {"num_samples": 5, "output_types": ["mean"]}});
    let mut request = Request::post(format!("/endpoints/{name}/invocations"));
    for (header, value) in headers {
        request = request.header(*header, *value);
    }
    let request = request.body(Bytes::from(body.to_string())).unwrap();
    let (status, body) = world.send(named("sagemaker-runtime"), request).await;
    (status, serde_json::from_slice(&body).unwrap())
}

/// A configuration that captures all of its requests and answers.
async fn capturing(world: &World, name: &str, variants: &[Value]) {
    let input = json!({"EndpointConfigName": name, "ProductionVariants": variants,
        "DataCaptureConfig": {"EnableCapture": true, "InitialSamplingPercentage": 100,
            "DestinationS3Uri": "s3://lake/capture/", "CaptureOptions": [{"CaptureMode": "InputAndOutput"}]}});
    made(world, "CreateEndpointConfig", input).await;
}

/// The lines below a prefix.
async fn captured(world: &World, prefix: &str) -> Vec<Value> {
    world.rooms.trainings.flush_captures().await;
    let mut lines = Vec::new();
    for meta in world.rooms.buckets.list("lake", prefix).await.unwrap() {
        let text = world.rooms.buckets.get("lake", &meta.key).await.unwrap();
        let text = std::str::from_utf8(&text).unwrap();
        lines.extend(text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()));
    }
    lines
}

#[tokio::test]
async fn updates_move_by_steps_while_every_request_is_answered() {
    let world = world().await;
    for name in ["blue", "green"] {
        model(&world, name).await;
        let input =
            json!({"EndpointConfigName": name, "ProductionVariants": [variant(name, name, 1.0)]});
        made(&world, "CreateEndpointConfig", input).await;
    }
    made(&world, "CreateEndpoint", json!({"EndpointName": "e", "EndpointConfigName": "blue"}))
        .await;
    in_service(&world, "e").await;
    let canary = json!({"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": {
        "Type": "CANARY", "WaitIntervalInSeconds": 1,
        "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 50}}}});
    let update =
        json!({"EndpointName": "e", "EndpointConfigName": "green", "DeploymentConfig": canary});
    made(&world, "UpdateEndpoint", update.clone()).await;
    refused(&world, "UpdateEndpoint", update.clone(), "Cannot update in-progress endpoint").await;
    refused(&world, "DeleteEndpoint", json!({"EndpointName": "e"}), "in-progress").await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let told = made(&world, "DescribeEndpoint", json!({"EndpointName": "e"})).await;
    assert_eq!(told["EndpointStatus"], "Updating");
    assert_eq!(told["PendingDeploymentSummary"]["EndpointConfigName"], "green");
    for target in ["blue", "green"] {
        let (status, answer) =
            invoke(&world, "e", &[("x-amzn-sagemaker-target-variant", target)]).await;
        assert_eq!(status, 200, "{answer}");
    }
    let told = in_service(&world, "e").await;
    assert_eq!(told["EndpointConfigName"], "green");
    assert_eq!(told["LastDeploymentConfig"], canary);
    let (status, _) = invoke(&world, "e", &[("x-amzn-sagemaker-target-variant", "blue")]).await;
    assert_eq!(status, 400);

    for (pointer, value, word) in [
        (
            "/BlueGreenUpdatePolicy/TrafficRoutingConfiguration/Type",
            json!("LINEAR"),
            "LinearStepSize",
        ),
        (
            "/BlueGreenUpdatePolicy/TrafficRoutingConfiguration/CanarySize/Value",
            json!(60),
            "60 percent",
        ),
        (
            "/BlueGreenUpdatePolicy/TrafficRoutingConfiguration/WaitIntervalInSeconds",
            json!(4000),
            "4000",
        ),
    ] {
        let mut wrong = update.clone();
        *wrong["DeploymentConfig"].pointer_mut(pointer).unwrap() = value;
        refused(&world, "UpdateEndpoint", wrong, word).await;
    }
    let mut alarmed = update;
    alarmed["EndpointConfigName"] = json!("blue");
    alarmed["DeploymentConfig"]["AutoRollbackConfiguration"] =
        json!({"Alarms": [{"AlarmName": "a"}]});
    refused(&world, "UpdateEndpoint", alarmed.clone(), "does not exist").await;
    let alarm = json!({"AlarmName": "a", "Namespace": "Plant", "MetricName": "heat",
        "Statistic": "Maximum", "Period": 60, "EvaluationPeriods": 1, "Threshold": 30,
        "ComparisonOperator": "GreaterThanThreshold"});
    world.call("cloudwatch", "PutMetricAlarm", alarm).await.unwrap();
    made(&world, "UpdateEndpoint", alarmed).await;
    let rings = json!({"AlarmName": "a", "StateValue": "ALARM", "StateReason": "a test"});
    world.call("cloudwatch", "SetAlarmState", rings).await.unwrap();
    let told = in_service(&world, "e").await;
    assert_eq!(told["EndpointConfigName"], "green");
    let reason = told["FailureReason"].as_str().unwrap();
    assert!(reason.contains("alarm \"a\" is in ALARM: a test"), "{told}");
    assert_eq!(invoke(&world, "e", &[]).await.0, 200);
}

#[tokio::test]
async fn metrics_tell_the_variants_of_configurations_apart() {
    let world = world().await;
    model(&world, "m").await;
    for name in ["blue", "green"] {
        let input =
            json!({"EndpointConfigName": name, "ProductionVariants": [variant("v", "m", 1.0)]});
        made(&world, "CreateEndpointConfig", input).await;
    }
    let endpoint = json!({"EndpointName": "e", "EndpointConfigName": "blue"});
    made(&world, "CreateEndpoint", endpoint).await;
    in_service(&world, "e").await;
    let sum = async |metric: &str, config: Option<&str>| {
        let mut dimensions = vec![
            json!({"Name": "EndpointName", "Value": "e"}),
            json!({"Name": "VariantName", "Value": "v"}),
        ];
        dimensions.extend(config.map(|c| json!({"Name": "EndpointConfigName", "Value": c})));
        let now = world.rooms.clock.now().millis() / 1000;
        let ask = json!({"Namespace": "AWS/SageMaker", "MetricName": metric,
            "Dimensions": dimensions, "StartTime": now - 600, "EndTime": now + 600,
            "Period": 3600, "Statistics": ["Sum"]});
        let told = world.call("cloudwatch", "GetMetricStatistics", ask).await.unwrap();
        let points = told["Datapoints"].as_array().unwrap();
        points.iter().map(|point| point["Sum"].as_f64().unwrap()).sum::<f64>()
    };
    for _ in 0..3 {
        assert_eq!(invoke(&world, "e", &[]).await.0, 200);
    }
    assert_eq!(sum("Invocations", None).await, 3.0);
    let endpoint = json!({"EndpointName": "e", "EndpointConfigName": "green"});
    made(&world, "UpdateEndpoint", endpoint).await;
    in_service(&world, "e").await;
    for _ in 0..2 {
        assert_eq!(invoke(&world, "e", &[]).await.0, 200);
    }
    let of = [None, Some("blue"), Some("green"), Some("other")];
    for (config, expect) in of.into_iter().zip([5.0, 3.0, 2.0, 0.0]) {
        assert_eq!(sum("Invocations", config).await, expect, "{config:?}");
        assert_eq!(sum("Invocation5XXErrors", config).await, 0.0);
        assert_eq!(sum("ModelLatency", config).await > 0.0, expect > 0.0, "{config:?}");
    }
}

#[tokio::test]
async fn many_models_stand_behind_one_endpoint() {
    let world = world().await;
    let container = json!({"Image": IMAGE, "Mode": "MultiModel", "ModelDataUrl": "s3://lake/model/j/output/",
        "MultiModelConfig": {"ModelCacheSetting": "Enabled"}});
    made(&world, "CreateModel", json!({"ModelName": "m", "PrimaryContainer": container})).await;
    let input =
        json!({"EndpointConfigName": "m", "ProductionVariants": [variant("AllTraffic", "m", 1.0)]});
    made(&world, "CreateEndpointConfig", input).await;
    made(&world, "CreateEndpoint", json!({"EndpointName": "m", "EndpointConfigName": "m"})).await;
    in_service(&world, "m").await;
    let model = "x-amzn-sagemaker-target-model";
    let (status, answer) = invoke(&world, "m", &[(model, "model.tar.gz")]).await;
    assert_eq!((status, answer["predictions"][0]["mean"].as_array().unwrap().len()), (200, 2));
    for headers in [&[][..], &[(model, "none.tar.gz")], &[(model, "../output/model.tar.gz")]] {
        let (status, answer) = invoke(&world, "m", headers).await;
        assert_eq!(status, 400, "{headers:?}: {answer}");
    }
}

#[tokio::test]
async fn of_many_models_the_one_that_answered_is_captured_with_its_step() {
    let world = world().await;
    let container =
        json!({"Image": IMAGE, "Mode": "MultiModel", "ModelDataUrl": "s3://lake/model/j/output/"});
    made(&world, "CreateModel", json!({"ModelName": "m", "PrimaryContainer": container})).await;
    capturing(&world, "c", &[variant("v", "m", 1.0)]).await;
    made(&world, "CreateEndpoint", json!({"EndpointName": "e", "EndpointConfigName": "c"})).await;
    in_service(&world, "e").await;
    let target = ("x-amzn-sagemaker-target-model", "model.tar.gz");
    assert_eq!(invoke(&world, "e", &[target]).await.0, 200);
    let line = &captured(&world, "capture/e/v/").await[0];
    assert_eq!(line["eventMetadata"]["modelName"], "m/model.tar.gz", "{line}");
    assert_eq!(line["eventMetadata"]["modelArtifact"], "model.tar.gz");
    assert_eq!(line["eventMetadata"]["timeFreq"], "1H");
}

#[tokio::test]
async fn the_step_captured_is_the_answers_also_when_the_models_name_is_gone() {
    let world = world().await;
    model(&world, "m").await;
    capturing(&world, "c", &[variant("v", "m", 1.0)]).await;
    made(&world, "CreateEndpoint", json!({"EndpointName": "e", "EndpointConfigName": "c"})).await;
    in_service(&world, "e").await;
    made(&world, "DeleteModel", json!({"ModelName": "m"})).await;
    assert_eq!(invoke(&world, "e", &[]).await.0, 200);
    assert_eq!(captured(&world, "capture/e/v/").await[0]["eventMetadata"]["timeFreq"], "1H");
}

#[tokio::test]
async fn endpoints_whose_names_differ_in_letter_case_are_one() {
    let world = world().await;
    model(&world, "m").await;
    capturing(&world, "c", &[variant("v", "m", 1.0)]).await;
    let named = |name: &str| json!({"EndpointName": name, "EndpointConfigName": "c"});
    made(&world, "CreateEndpoint", named("Air")).await;
    in_service(&world, "Air").await;
    refused(&world, "CreateEndpoint", named("air"), "endpoint/Air\".").await;
    refused(&world, "DescribeEndpoint", json!({"EndpointName": "air"}), "Could not find").await;
    assert_eq!(invoke(&world, "air", &[]).await.0, 400);
    assert_eq!(invoke(&world, "Air", &[]).await.0, 200);
    assert_eq!(captured(&world, "capture/Air/").await.len(), 1);
    // Its name is free again, and the table is the next one's.
    made(&world, "DeleteEndpoint", json!({"EndpointName": "Air"})).await;
    made(&world, "CreateEndpoint", named("air")).await;
    in_service(&world, "air").await;
    assert_eq!(invoke(&world, "air", &[]).await.0, 200);
    assert_eq!(captured(&world, "capture/air/").await.len(), 1);
    let table = world.rooms.lake.catalog().get_table(crate::DATABASE, "captured_air").unwrap();
    assert_eq!(crate::captured_endpoint(&table), Some("air"));
    assert_eq!(table.prefix, "capture/air/");
}

#[tokio::test]
async fn traffic_is_captured_and_copied_to_a_shadow() {
    let world = world().await;
    model(&world, "m").await;
    let input = json!({"EndpointConfigName": "c", "ProductionVariants": [variant("prod", "m", 1.0)],
        "ShadowProductionVariants": [variant("shadow", "m", 1.0)],
        "DataCaptureConfig": {"EnableCapture": true, "InitialSamplingPercentage": 100,
            "DestinationS3Uri": "s3://lake/capture/",
            "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
            "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]}}});
    made(&world, "CreateEndpointConfig", input).await;
    made(&world, "CreateEndpoint", json!({"EndpointName": "e", "EndpointConfigName": "c"})).await;
    let told = in_service(&world, "e").await;
    assert_eq!(told["DataCaptureConfig"]["CaptureStatus"], "Started");
    assert_eq!(told["ProductionVariants"].as_array().unwrap().len(), 1);
    assert_eq!(told["ShadowProductionVariants"][0]["VariantName"], "shadow");
    let json = ("content-type", "application/json");
    let (status, _) = invoke(&world, "e", &[json, ("x-amzn-sagemaker-inference-id", "i-1")]).await;
    assert_eq!(status, 200);
    let (status, _) = invoke(&world, "e", &[("x-amzn-sagemaker-target-variant", "shadow")]).await;
    assert_eq!(status, 400);
    // The shadow answers beside, so its line may come later than the other.
    let (mut found, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        world.rooms.trainings.flush_captures().await;
        found = world.rooms.buckets.list("lake", "capture/e/prod/").await.unwrap();
        beside = world.rooms.buckets.list("lake", "capture/e/shadow/").await.unwrap();
        if !found.is_empty() && !beside.is_empty() {
            break;
        }
    }
    assert_eq!((found.len(), beside.len()), (1, 1));
    assert_eq!(world.rooms.trainings.captured(), (2, 0));
    let table = world.rooms.lake.catalog().get_table(crate::DATABASE, "captured_e").unwrap();
    assert_eq!((table.bucket.as_str(), table.prefix.as_str()), ("lake", "capture/e/"));
    let known = world.rooms.lake.catalog().list_partitions(crate::DATABASE, "captured_e").unwrap();
    let folders: Vec<&str> = known.iter().map(|partition| partition.prefix.as_str()).collect();
    assert!(found[0].key.starts_with(folders[0]) && beside[0].key.starts_with(folders[1]));
    let text = world.rooms.buckets.get("lake", &found[0].key).await.unwrap();
    let line: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(line["captureData"]["endpointInput"]["encoding"], "JSON");
    assert!(line["captureData"]["endpointOutput"]["data"].as_str().unwrap().contains("mean"));
    assert_eq!(line["eventMetadata"]["inferenceId"], "i-1");
    assert_eq!(line["eventMetadata"]["modelName"], "m");
    assert_eq!(line["eventMetadata"]["timeFreq"], "1H");
    let counters = world.rooms.host.counters();
    assert!(counters.iter().any(|one| one.variant == "shadow" && one.invocations == 1));
}

#[tokio::test]
async fn a_transform_answers_every_line() {
    let world = world().await;
    model(&world, "m").await;
    let input = json!({"TransformJobName": "t", "ModelName": "m", "BatchStrategy": "SingleRecord",
        "MaxPayloadInMB": 6, "MaxConcurrentTransforms": 1,
        "Environment": {"DEEPAR_INFERENCE_CONFIG": "{\"num_samples\": 5, \"output_types\": [\"mean\"]}"},
        "TransformInput": {"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://lake/model/train"}},
            "ContentType": "application/jsonlines", "CompressionType": "None", "SplitType": "Line"},
        "TransformOutput": {"S3OutputPath": "s3://lake/transform/", "Accept": "application/jsonlines", "AssembleWith": "Line"},
        "TransformResources": {"InstanceType": "ml.m4.xlarge", "InstanceCount": 1}});
    made(&world, "CreateTransformJob", input.clone()).await;
    let mut told = Value::Null;
    for _ in 0..200 {
        told = made(&world, "DescribeTransformJob", json!({"TransformJobName": "t"})).await;
        if told["TransformJobStatus"] != "InProgress" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(told["TransformJobStatus"], "Completed", "{told}");
    let text = world.rooms.buckets.get("lake", "transform/a.json.out").await.unwrap();
    assert_eq!(std::str::from_utf8(&text).unwrap().lines().count(), 4);
    let (_, code, _) =
        world.call("sagemaker", "CreateTransformJob", input.clone()).await.unwrap_err();
    assert_eq!(code, "ResourceInUse");
    let listed = made(&world, "ListTransformJobs", json!({"StatusEquals": "Completed"})).await;
    assert_eq!(listed["TransformJobSummaries"][0]["TransformJobName"], "t");
    refused(&world, "StopTransformJob", json!({"TransformJobName": "t"}), "Completed").await;
    refused(&world, "DescribeTransformJob", json!({"TransformJobName": "u"}), "not found").await;
    for (pointer, value, word) in [
        ("/BatchStrategy", json!("Every"), "BatchStrategy"),
        ("/MaxPayloadInMB", json!(101), "is above 100"),
        ("/MaxConcurrentTransforms", json!(17), "is above 100"),
        ("/TransformInput/CompressionType", json!("Zip"), "CompressionType"),
        ("/TransformInput/SplitType", json!("RecordIO"), "SplitType"),
        ("/TransformInput/ContentType", json!("text/csv"), "ContentType"),
        ("/Environment/DEEPAR_INFERENCE_CONFIG", json!("{"), "DEEPAR_INFERENCE_CONFIG"),
        ("/ModelName", json!("none"), "Could not find model"),
    ] {
        let mut wrong = input.clone();
        *wrong.pointer_mut(pointer).unwrap() = value;
        refused(&world, "CreateTransformJob", wrong, word).await;
    }
    let mut wrong = input;
    wrong["DataProcessing"] = json!({"InputFilter": "$[1:]"});
    refused(&world, "CreateTransformJob", wrong, "DataProcessing.InputFilter").await;
}

#[tokio::test]
async fn a_transform_takes_whole_objects_and_keeps_to_its_payload() {
    let world = world().await;
    model(&world, "m").await;
    let buckets = &world.rooms.buckets;
    let target: Vec<u32> = (0..90).map(|hour| hour % 24).collect();
    let instance = json!({"start": "2021-02-05 00:00:00", "target": target});
    let request = json!({"id": 7, "ask": {"instances": [instance, instance],
        "configuration": {"num_samples": 5, "output_types": ["mean"]}}});
    buckets.put("lake", "asks/a.json", request.to_string().into()).await.unwrap();
    let input = |name: &str, more: &Value| {
        let mut input = json!({"TransformJobName": name, "ModelName": "m",
            "TransformInput": {"DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://lake/asks/"}},
                "ContentType": "application/json"},
            "TransformOutput": {"S3OutputPath": "s3://lake/told"}, "TransformResources": {"InstanceType": "ml.m4.xlarge", "InstanceCount": 1}});
        for (member, value) in more.as_object().unwrap() {
            input[member] = value.clone();
        }
        input
    };
    let ended = async |name: &str, more: Value| {
        made(&world, "CreateTransformJob", input(name, &more)).await;
        for _ in 0..500 {
            let told =
                made(&world, "DescribeTransformJob", json!({"TransformJobName": name})).await;
            if told["TransformJobStatus"] != "InProgress" {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{name} does not end");
    };
    let ask = json!({"InputFilter": "$.ask", "JoinSource": "Input", "OutputFilter": "$['SageMakerOutput'].predictions"});
    let told = ended("whole", json!({"DataProcessing": ask})).await;
    assert_eq!(told["TransformJobStatus"], "Completed", "{told}");
    assert_eq!(told["DataProcessing"]["InputFilter"], "$.ask");
    let text = buckets.get("lake", "told/a.json.out").await.unwrap();
    let kept: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(kept.as_array().unwrap().len(), 2, "{kept}");

    let told = ended("astray", json!({"DataProcessing": {"InputFilter": "$.none"}})).await;
    assert_eq!(told["TransformJobStatus"], "Failed", "{told}");
    let why = told["FailureReason"].as_str().unwrap();
    assert!(why.starts_with("ClientError: asks/a.json: InputFilter: there is no"), "{why}");
    // A byte too much.
    let large = format!("{{\"id\": \"{}\"}}", "x".repeat(1 << 20));
    buckets.put("lake", "asks/a.json", large.into()).await.unwrap();
    let told = ended("large", json!({"MaxPayloadInMB": 1})).await;
    let why = told["FailureReason"].as_str().unwrap();
    assert!(why.contains("an object has more than the 1 MB of MaxPayloadInMB"), "{why}");
    let mut lines = input("lines", &json!({"MaxPayloadInMB": 1}));
    lines["TransformInput"]["SplitType"] = json!("Line");
    made(&world, "CreateTransformJob", lines).await;
    let mut lines = Value::Null;
    for _ in 0..500 {
        lines = made(&world, "DescribeTransformJob", json!({"TransformJobName": "lines"})).await;
        if lines["TransformJobStatus"] != "InProgress" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let why = lines["FailureReason"].as_str().unwrap();
    assert!(why.contains("line 1: a line has more than the 1 MB"), "{why}");
    let told = ended(
        "packed",
        json!({"TransformInput": {"CompressionType": "Gzip",
        "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://lake/asks/"}}}}),
    )
    .await;
    assert!(told["FailureReason"].as_str().unwrap().contains("not packed with gzip"), "{told}");
}

#[tokio::test]
async fn the_notebook_instance_has_the_role() {
    let world = World::new();
    let listed = made(&world, "ListNotebookInstances", json!({})).await;
    let name = &listed["NotebookInstances"][0]["NotebookInstanceName"];
    let told =
        made(&world, "DescribeNotebookInstance", json!({"NotebookInstanceName": name})).await;
    assert!(told["RoleArn"].as_str().unwrap().contains(":role/"), "{told}");
    let other = json!({"NotebookInstanceName": "other"});
    refused(&world, "DescribeNotebookInstance", other, "RecordNotFound").await;
}
