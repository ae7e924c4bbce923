//! Transform jobs whose server is killed: they go on, and give what an undisturbed job gives.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use e2e::aws::{Tools, User};
use e2e::{Server, wait_for};
use serde_json::{Value, json};

/// No job here takes longer, however busy the machine.
const ENDED: Duration = Duration::from_secs(300);
const OBJECTS: usize = 30;
const LINES: usize = 6;

const IMAGE: &str = "522234722520.dkr.ecr.us-east-1.amazonaws.com/forecasting-deepar:1";

fn series(item: usize, hours: usize) -> Value {
    let value = |hour: usize| {
        let day = ((hour % 24) as f64 / 24.0 * std::f64::consts::TAU).sin();
        let wobble = ((hour * 37 + item * 11) % 17) as f64 / 17.0;
        ((50.0 + item as f64 + 20.0 * day + 3.0 * wobble) * 100.0).round() / 100.0
    };
    let target: Vec<f64> = (0..hours).map(value).collect();
    json!({"id": format!("s{item}"), "series": {"start": "2024-01-01 00:00:00", "target": target}})
}

struct Place {
    server: Server,
    user: User,
    folder: tempfile::TempDir,
}

impl Place {
    /// A server with a DeepAR model `m` and objects below `input/`, some of them packed.
    fn new(why: &str) -> Option<Place> {
        let tools = Tools::find(why)?;
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(&folder.path().join("data"));
        let user = User::new(&tools, &server, &folder.path().join("user"));
        user.aws(&["s3", "mb", "s3://plant"]);
        let mut lines = String::new();
        for item in 0..4 {
            writeln!(lines, "{}", series(item, 24 * 14)["series"]).unwrap();
        }
        std::fs::write(user.folder.join("train.json"), lines).unwrap();
        let mut train = Command::new(e2e::binary());
        train.current_dir(&user.folder).args([
            "train",
            "--train",
            "train.json",
            "--model",
            "m.tar.gz",
        ]);
        train.args([
            "--hyperparameters",
            "time_freq=H",
            "prediction_length=24",
            "context_length=24",
        ]);
        train.args(["epochs=1", "num_cells=40", "num_layers=2"]);
        let output = e2e::run_command(&mut train);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        user.aws(&["s3", "cp", "m.tar.gz", "s3://plant/models/m.tar.gz", "--quiet"]);
        let input = user.folder.join("input");
        std::fs::create_dir_all(input.join("later")).unwrap();
        for object in 0..OBJECTS {
            let mut lines = String::new();
            for line in 0..LINES {
                writeln!(lines, "{}", series(object * LINES + line, 24 * 7)).unwrap();
            }
            let file = std::fs::File::create(input.join(match object % 5 {
                0 => format!("later/{object:02}.jsonl.gz"),
                _ => format!("{object:02}.jsonl.gz"),
            }));
            let mut packed =
                flate2::write::GzEncoder::new(file.unwrap(), flate2::Compression::fast());
            packed.write_all(lines.as_bytes()).unwrap();
            packed.finish().unwrap();
        }
        user.aws(&["s3", "sync", "input", "s3://plant/input/", "--quiet"]);
        let place = Place { server, user, folder };
        place.ask(
            "create-model",
            &json!({"ModelName": "m",
            "PrimaryContainer": {"Image": IMAGE, "ModelDataUrl": "s3://plant/models/m.tar.gz"},
            "ExecutionRoleArn": "arn:aws:iam::123456789012:role/r"}),
        );
        Some(place)
    }

    fn ask(&self, operation: &str, input: &Value) -> Value {
        let said = self.user.aws(&["sagemaker", operation, "--cli-input-json", &input.to_string()]);
        serde_json::from_str(&said).unwrap_or_default()
    }

    fn begin(&self, name: &str) {
        let inference = r#"{"num_samples": 1500, "output_types": ["mean", "quantiles"], "quantiles": ["0.1", "0.9"]}"#;
        self.ask("create-transform-job", &json!({
            "TransformJobName": name, "ModelName": "m", "BatchStrategy": "MultiRecord",
            "MaxConcurrentTransforms": 2, "MaxPayloadInMB": 6,
            "Environment": {"DEEPAR_INFERENCE_CONFIG": inference},
            "TransformInput": {"ContentType": "application/jsonlines", "CompressionType": "Gzip", "SplitType": "Line",
                "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://plant/input/"}}},
            "TransformOutput": {"S3OutputPath": format!("s3://plant/{name}/"), "Accept": "application/jsonlines", "AssembleWith": "Line"},
            "TransformResources": {"InstanceType": "ml.m5.large", "InstanceCount": 1},
            "DataProcessing": {"InputFilter": "$.series", "JoinSource": "Input"},
        }));
    }

    fn job(&self, name: &str) -> Value {
        self.ask("describe-transform-job", &json!({ "TransformJobName": name }))
    }

    fn ended(&self, name: &str) -> Value {
        let mut told = Value::Null;
        wait_for(&format!("{name} to end"), ENDED, || {
            told = self.job(name);
            !matches!(told["TransformJobStatus"].as_str(), Some("InProgress" | "Stopping"))
        });
        told
    }

    /// The outputs of a job as they lie on disk, by their name.
    fn outputs(&self, name: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let folder = self.server.data_dir.join("lake/plant").join(name);
        let files = e2e::files_below(&folder).into_iter();
        files
            .map(|file| {
                (file.strip_prefix(&folder).unwrap().to_owned(), std::fs::read(&file).unwrap())
            })
            .collect()
    }
}

#[test]
fn a_transform_whose_server_is_killed_goes_on_and_gives_the_same_bytes() {
    let Some(mut place) = Place::new("transforms") else { return };
    place.begin("whole");
    let told = place.ended("whole");
    assert_eq!(told["TransformJobStatus"], "Completed", "{told}");
    let whole = place.outputs("whole");
    assert_eq!(whole.len(), OBJECTS);
    for (name, bytes) in &whole {
        let text = std::str::from_utf8(bytes).unwrap();
        assert_eq!(text.lines().count(), LINES, "{}", name.display());
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            assert!(line["id"].is_string() && line["series"]["target"].is_array(), "{line}");
            let answer = &line["SageMakerOutput"];
            assert_eq!(answer["mean"].as_array().unwrap().len(), 24, "{line}");
            assert_eq!(answer["quantiles"]["0.9"].as_array().unwrap().len(), 24, "{line}");
        }
    }

    place.begin("killed");
    let mut kills = Vec::new();
    for wanted in [2, OBJECTS / 2] {
        wait_for("some outputs", ENDED, || place.outputs("killed").len() >= wanted);
        place.server.kill();
        kills.push(place.outputs("killed").len());
        // What is there is whole.
        for (name, bytes) in place.outputs("killed") {
            assert!(whole.get(&name) == Some(&bytes), "{} is not whole", name.display());
        }
        place.server.restart();
        let told = place.job("killed");
        assert!(told["FailureReason"].is_null(), "{told}");
    }
    let told = place.ended("killed");
    assert_eq!(told["TransformJobStatus"], "Completed", "{told}");
    assert!(kills[0] < OBJECTS, "it was never killed in the middle: {kills:?}");
    println!("killed with {kills:?} of {OBJECTS} outputs");
    assert!(place.outputs("killed") == whole, "the kills changed the outputs");
    let left = place.server.data_dir.join("transform");
    assert_eq!(e2e::files_below(&left), Vec::<PathBuf>::new(), "something is left behind");

    // One that is to stop stops, also by a server that did not begin it.
    place.begin("stopped");
    wait_for("an output", ENDED, || !place.outputs("stopped").is_empty());
    place.server.kill();
    place.server.restart();
    place.ask("stop-transform-job", &json!({"TransformJobName": "stopped"}));
    let told = place.ended("stopped");
    assert_eq!(told["TransformJobStatus"], "Stopped", "{told}");
    let stopped = place.outputs("stopped");
    assert!(stopped.len() < OBJECTS, "it went on to its end");
    for (name, bytes) in stopped {
        assert!(whole.get(&name) == Some(&bytes), "{} is not whole", name.display());
    }
    drop(place.folder);
}
