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
    let mut found = Vec::new();
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        found = world.rooms.buckets.list("lake", "capture/e/prod/").await.unwrap();
        if !found.is_empty() {
            break;
        }
    }
    let text = world.rooms.buckets.get("lake", &found[0].key).await.unwrap();
    let line: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(line["captureData"]["endpointInput"]["encoding"], "JSON");
    assert!(line["captureData"]["endpointOutput"]["data"].as_str().unwrap().contains("mean"));
    assert_eq!(line["eventMetadata"]["inferenceId"], "i-1");
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
        ("/BatchStrategy", json!("MultiRecord"), "BatchStrategy"),
        ("/TransformInput/SplitType", json!("RecordIO"), "SplitType"),
        ("/TransformInput/ContentType", json!("text/csv"), "ContentType"),
        ("/Environment/DEEPAR_INFERENCE_CONFIG", json!("{"), "DEEPAR_INFERENCE_CONFIG"),
        ("/ModelName", json!("none"), "Could not find model"),
    ] {
        let mut wrong = input.clone();
        *wrong.pointer_mut(pointer).unwrap() = value;
        refused(&world, "CreateTransformJob", wrong, word).await;
    }
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
