//! Trainings that are killed: F1, F2 and F4 of the real binary; and the algorithms of our own
//! over the wire.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use e2e::aws::{Tools, User};
use e2e::volume::Volume;
use e2e::{Server, wait_for};
use serde_json::{Value, json};

/// A state is settled, or a training visibly under way, this long after a restart.
const SETTLED: Duration = Duration::from_secs(10);
/// No training here takes longer, however busy the machine.
const TRAINED: Duration = Duration::from_secs(400);

const IMAGES: &str = "522234722520.dkr.ecr.us-east-1.amazonaws.com";

/// Six series of sixty days.
fn series() -> String {
    let mut text = String::new();
    for item in 0..6u32 {
        let value = |hour: u32| {
            let day = (f64::from(hour % 24) / 24.0 * std::f64::consts::TAU).sin();
            let wobble = f64::from((hour * 37 + item * 11) % 17) / 17.0;
            format!("{:.2}", 50.0 + f64::from(item) * 10.0 + 20.0 * day + 3.0 * wobble)
        };
        let target: Vec<String> = (0..24 * 60).map(value).collect();
        let target = target.join(",");
        writeln!(text, r#"{{"item_id":"s{item}","start":"2024-01-01","target":[{target}]}}"#)
            .unwrap();
    }
    text
}

/// Long enough for several checkpoints.
const LONG: [(&str, &str); 8] = [
    ("time_freq", "H"),
    ("prediction_length", "24"),
    ("context_length", "24"),
    ("epochs", "25"),
    ("num_cells", "40"),
    ("num_layers", "2"),
    ("mini_batch_size", "64"),
    ("windows_per_epoch", "4000"),
];

fn train(folder: &Path, model: &str) -> Command {
    let mut command = Command::new(e2e::binary());
    command.current_dir(folder).args(["train", "--train", "train.json", "--model", model]);
    command.arg("--hyperparameters").args(LONG.map(|(name, value)| format!("{name}={value}")));
    command
}

fn checkpoint_of(model: &Path) -> PathBuf {
    model.with_file_name(format!("{}.checkpoint", model.file_name().unwrap().to_string_lossy()))
}

fn modified(path: &Path) -> Option<std::time::SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}

/// Waits for a checkpoint newer than `last`; false if the process ended before.
fn next_checkpoint(child: &mut Child, path: &Path, last: Option<std::time::SystemTime>) -> bool {
    let begun = Instant::now();
    while modified(path).is_none_or(|at| Some(at) == last) {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(begun.elapsed() < TRAINED, "no checkpoint of {}", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

#[test]
fn f2_a_training_killed_again_and_again_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("train.json"), series()).unwrap();
    let begun = Instant::now();
    let output = e2e::run_within(&mut train(folder, "whole.tar.gz"), TRAINED);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("uninterrupted: {:.1} s", begun.elapsed().as_secs_f64());

    let model = folder.join("killed.tar.gz");
    let checkpoint = checkpoint_of(&model);
    let mut kills = 0;
    for round in 0..3u64 {
        let mut child = train(folder, "killed.tar.gz")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let last = modified(&checkpoint);
        if next_checkpoint(&mut child, &checkpoint, last) {
            // Somewhere between two checkpoints, or in the middle of writing one.
            std::thread::sleep(Duration::from_millis(300 * round));
            drop(child.kill());
            kills += 1;
        }
        child.wait().unwrap();
        // F4: it is there whole or not at all.
        if model.exists() {
            break;
        }
    }
    assert!(kills >= 1, "it was never killed");
    let output = e2e::run_within(&mut train(folder, "killed.tar.gz"), TRAINED);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("Going on from a checkpoint") || model.exists(), "{said}");
    let bytes = |name: &str| std::fs::read(folder.join(name)).unwrap();
    assert!(bytes("whole.tar.gz") == bytes("killed.tar.gz"), "{kills} kills changed the model");
    let left: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("checkpoint") && !name.ends_with(".tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?} outlived the training");
    println!("{kills} kills, the same {} bytes", bytes("whole.tar.gz").len());
}

#[test]
fn f4_a_model_appears_whole_or_not_at_all_on_a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("train.json"), series()).unwrap();
    let Some(volume) = Volume::new(&folder.join("small"), 16) else { return };
    let mut begun = train(folder, "small/m.tar.gz").stderr(Stdio::null()).spawn().unwrap();
    assert!(next_checkpoint(&mut begun, &folder.join("small/m.tar.gz.checkpoint"), None));
    // From here on nothing finds room: neither the next checkpoints nor the model.
    volume.fill();
    let ended = begun.wait().unwrap();
    assert_eq!(ended.code(), Some(1));
    let left = || -> Vec<String> {
        let entries = std::fs::read_dir(folder.join("small")).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.starts_with("m.tar.gz"));
        names
    };
    assert!(left().is_empty(), "{:?} is left of a model that was not written", left());

    let mut full = train(folder, "small/m.tar.gz");
    let output = e2e::run_within(&mut full, TRAINED);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("A checkpoint was not written; training goes on"), "{said}");
    assert!(said.contains("No space left"), "{said}");
    assert!(left().is_empty(), "{:?}", left());
    volume.free();
    let output = e2e::run_within(&mut train(folder, "small/m.tar.gz"), TRAINED);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(left(), ["m.tar.gz"]);
}

/// A server with a bucket, the series in it, and a user with AWS's command line.
struct Place {
    folder: tempfile::TempDir,
    server: Server,
    user: User,
}

impl Place {
    fn new(why: &str) -> Option<Place> {
        let tools = Tools::find(why)?;
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(&folder.path().join("data"));
        let user = User::new(&tools, &server, &folder.path().join("user"));
        std::fs::write(user.folder.join("train.json"), series()).unwrap();
        user.aws(&["s3", "mb", "s3://plant"]);
        user.aws(&["s3", "cp", "train.json", "s3://plant/train/", "--quiet"]);
        Some(Place { folder, server, user })
    }

    fn ask(&self, operation: &str, input: &Value) -> Value {
        let input = input.to_string();
        let said = self.user.aws(&["sagemaker", operation, "--cli-input-json", &input]);
        serde_json::from_str(&said).unwrap_or_default()
    }

    fn begin(&self, name: &str, image: &str, hyper: &[(&str, &str)]) {
        let hyper: serde_json::Map<String, Value> =
            hyper.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let source =
            json!({"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": "s3://plant/train/"}});
        self.ask("create-training-job", &json!({
            "TrainingJobName": name,
            "RoleArn": "arn:aws:iam::123456789012:role/r",
            "AlgorithmSpecification": {
                "TrainingImage": format!("{IMAGES}/{image}:1"), "TrainingInputMode": "File"},
            "HyperParameters": hyper,
            "InputDataConfig": [{"ChannelName": "train", "DataSource": source}],
            "OutputDataConfig": {"S3OutputPath": "s3://plant/models"},
            "ResourceConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 1},
            "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
        }));
    }

    fn job(&self, name: &str) -> Value {
        self.ask("describe-training-job", &json!({ "TrainingJobName": name }))
    }

    fn ended(&self, name: &str) -> Value {
        let mut told = Value::Null;
        wait_for(&format!("{name} to end"), TRAINED, || {
            told = self.job(name);
            told["TrainingJobStatus"] != "InProgress"
        });
        told
    }

    fn checkpoint(&self, name: &str) -> PathBuf {
        self.server.data_dir.join("training").join(name).join("model.tar.gz.checkpoint")
    }

    /// The process that trains the job.
    fn worker(&self, name: &str) -> Option<u32> {
        let spec = self.server.data_dir.join("training").join(name).join("spec.json");
        let spec = spec.to_string_lossy().into_owned();
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.find(|pid: &u32| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).into_owned();
            words.contains(&spec) && words.contains("worker")
        })
    }
}

#[test]
fn f1_f2_a_job_whose_server_and_worker_are_killed_completes_with_the_same_bytes() {
    let Some(mut place) = Place::new("killed trainings") else { return };
    place.begin("long", "forecasting-deepar", &LONG);
    // In a place of its own, so that it is Starting when the server goes.
    place.begin("second", "forecasting-deepar", &LONG);
    place.begin(
        "waiting",
        "forecasting-seasonal-naive",
        &[("time_freq", "H"), ("prediction_length", "24")],
    );
    let checkpoint = place.checkpoint("long");
    wait_for("a checkpoint", TRAINED, || checkpoint.exists());
    place.server.kill();
    wait_for("the worker to go with its server", SETTLED, || place.worker("long").is_none());
    assert!(checkpoint.exists(), "the checkpoint went with the server");

    place.server.restart();
    let begun = Instant::now();
    let status = place.job("long")["TrainingJobStatus"].clone();
    assert!(status == "InProgress" || status == "Completed", "{status}");
    wait_for("the job to be settled or run again", SETTLED, || {
        place.worker("long").is_some() || place.job("long")["TrainingJobStatus"] != "InProgress"
    });
    println!("under way again after {:.1} s", begun.elapsed().as_secs_f64());

    // kill -9 of the worker alone: it goes on, too.
    let last = modified(&checkpoint);
    let mut kills = 0;
    wait_for("another checkpoint or the end", TRAINED, || {
        if let Some(pid) = place.worker("long")
            && modified(&checkpoint).is_some_and(|at| Some(at) != last)
        {
            e2e::signal("KILL", pid);
            kills += 1;
            return true;
        }
        place.job("long")["TrainingJobStatus"] != "InProgress"
    });
    let told = place.ended("long");
    assert_eq!(told["TrainingJobStatus"], "Completed", "{told}");
    assert!(!checkpoint.exists(), "a checkpoint outlived its job");
    println!("{kills} kills of the worker");
    let log = std::fs::read_to_string(checkpoint.with_file_name("log.txt")).unwrap();
    assert!(log.contains("Going on from a checkpoint"), "{log}");
    for name in ["second", "waiting"] {
        let told = place.ended(name);
        assert_eq!(told["TrainingJobStatus"], "Completed", "{told}");
    }

    let folder = place.user.folder.clone();
    place.user.aws(&[
        "s3",
        "cp",
        "s3://plant/models/long/output/model.tar.gz",
        "killed.tar.gz",
        "--quiet",
    ]);
    let output = e2e::run_within(&mut train(&folder, "whole.tar.gz"), TRAINED);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bytes = |name: &str| std::fs::read(folder.join(name)).unwrap();
    assert!(bytes("whole.tar.gz") == bytes("killed.tar.gz"), "the kills changed the model");
    drop(place.folder);
}

#[test]
fn reference_algorithms_train_and_answer_over_the_wire() {
    let Some(place) = Place::new("reference algorithms") else { return };
    let settings = [("time_freq", "H"), ("prediction_length", "24")];
    for image in ["forecasting-seasonal-naive", "forecasting-ets"] {
        place.begin(image, image, &settings);
    }
    place.begin("typo", "forecasting-ets", &[("time_freq", "H"), ("prediction_lenght", "24")]);
    let told = place.ended("typo");
    assert_eq!(told["TrainingJobStatus"], "Failed", "{told}");
    let reason = told["FailureReason"].as_str().unwrap();
    assert!(
        reason.starts_with("ClientError: unknown hyperparameter prediction_lenght"),
        "{reason}"
    );

    for image in ["forecasting-seasonal-naive", "forecasting-ets"] {
        let told = place.ended(image);
        assert_eq!(told["TrainingJobStatus"], "Completed", "{told}");
        let data = told["ModelArtifacts"]["S3ModelArtifacts"].as_str().unwrap();
        let container = json!({"Image": format!("{IMAGES}/{image}:1"), "ModelDataUrl": data});
        place.ask(
            "create-model",
            &json!({"ModelName": image, "PrimaryContainer": container,
            "ExecutionRoleArn": "arn:aws:iam::123456789012:role/r"}),
        );
        place.ask("create-endpoint-config", &json!({"EndpointConfigName": image, "ProductionVariants": [
            {"VariantName": "v", "ModelName": image, "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}]}));
        place.ask("create-endpoint", &json!({"EndpointName": image, "EndpointConfigName": image}));
        wait_for("the endpoint", Duration::from_secs(60), || {
            place.ask("describe-endpoint", &json!({ "EndpointName": image }))["EndpointStatus"]
                == "InService"
        });
        let target: Vec<u32> = (0..24 * 20).map(|hour| 10 + hour % 24).collect();
        let body = json!({
            "instances": [{"start": "2024-01-01 00:00:00", "target": target}],
            "configuration": {"num_samples": 20, "quantiles": ["0.1", "0.9"],
                "output_types": ["mean", "quantiles", "samples", "parameters"]},
        });
        std::fs::write(place.user.folder.join("body.json"), body.to_string()).unwrap();
        place.user.aws(&[
            "sagemaker-runtime",
            "invoke-endpoint",
            "--endpoint-name",
            image,
            "--content-type",
            "application/json",
            "--body",
            "fileb://body.json",
            "answer.json",
        ]);
        let answer = std::fs::read(place.user.folder.join("answer.json")).unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        let made = &answer["predictions"][0];
        assert_eq!(made["samples"].as_array().unwrap().len(), 20, "{answer}");
        assert_eq!(made["parameters"]["distribution"], "gaussian", "{answer}");
        for hour in 0..24 {
            let at = |list: &Value| list[hour].as_f64().unwrap();
            let expect = f64::from(10 + hour as u32);
            assert!((at(&made["mean"]) - expect).abs() < 0.5, "{image}, {hour}: {answer}");
            assert!(at(&made["quantiles"]["0.1"]) <= at(&made["quantiles"]["0.9"]));
            assert!(at(&made["parameters"]["sigma"]) >= 0.0);
        }
    }
}

#[test]
fn a_model_is_made_again_or_what_changed_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("train.json"), series()).unwrap();
    std::fs::write(folder.join("other.json"), series().replacen("50.", "51.", 1)).unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(e2e::binary());
        command.current_dir(folder).arg("train").args(args).arg("--json");
        let output = e2e::run_within(&mut command, TRAINED);
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), serde_json::from_str::<Value>(&text).unwrap_or_default())
    };
    let quick =
        ["time_freq=H", "prediction_length=24", "context_length=24", "epochs=2", "num_cells=8"];
    let data = ["--train", "train.json", "--test", "train.json"];
    for algorithm in ["deepar", "seasonal-naive", "ets"] {
        let settings = if algorithm == "deepar" { &quick[..] } else { &quick[..2] };
        let model = format!("{algorithm}.tar.gz");
        let begin = [
            "--model",
            &model,
            "--seed",
            "9",
            "--threads",
            "2",
            "--algorithm",
            algorithm,
            "--hyperparameters",
        ];
        let (code, made) = run(&[&data[..], &begin, settings].concat());
        assert_eq!(code, Some(0), "{made}");
        assert!(made["test"]["seasonal_naive"].is_object(), "{made}");
        let (code, told) = run(&[&["--reproduce", &model][..], &data].concat());
        assert_eq!((code, &told["identical"]), (Some(0), &json!(true)), "{told}");
        assert_eq!(told["made_sha256"], made["model_sha256"]);
    }
    let (code, told) = run(&["--reproduce", "deepar.tar.gz", "--train", "other.json"]);
    assert_eq!((code, &told["identical"]), (Some(1), &json!(false)), "{told}");
    assert!(told["changes"][0]["what"].as_str().unwrap().starts_with("data"), "{told}");
    assert_eq!(run(&["--reproduce", "none.tar.gz", "--train", "train.json"]).0, Some(3));
    assert_eq!(run(&["--train", "train.json"]).0, Some(2));
    let both = ["--reproduce", "deepar.tar.gz", "--train", "train.json", "--seed", "1"];
    assert_eq!(run(&both).0, Some(2));
}
