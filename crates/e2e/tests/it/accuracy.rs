//! Captured forecasts and what they turned out to be worth: H1, and `endpoint ab`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use e2e::aws::{Sdk, Tools, User};
use e2e::volume::Volume;
use e2e::{Random, Server, wait_for};
use serde_json::{Value, json};

/// Captured lines are written this long after their answer, however busy the machine.
const WRITTEN: Duration = Duration::from_secs(30);
/// Stations, hours of readings, and hours of history in a request.
const STATIONS: u64 = 5;
const HOURS: usize = 24 * 60;
const HISTORY: usize = 24 * 7;

const IMAGE: &str = "522234722520.dkr.ecr.us-east-1.amazonaws.com/forecasting-seasonal-naive:1";

/// A server, a bucket, and a user with AWS's command line.
struct Place {
    server: Server,
    user: User,
    folder: tempfile::TempDir,
}

impl Place {
    fn new(why: &str) -> Option<Place> {
        let folder = tempfile::tempdir().unwrap();
        Place::within(why, folder)
    }

    fn within(why: &str, folder: tempfile::TempDir) -> Option<Place> {
        Place::with(why, folder, &[])
    }

    fn with(why: &str, folder: tempfile::TempDir, flags: &[&str]) -> Option<Place> {
        let tools = Tools::find(why)?;
        let server = Server::start_with(&folder.path().join("data"), flags, &[]);
        let user = User::new(&tools, &server, &folder.path().join("user"));
        user.aws(&["s3", "mb", "s3://plant"]);
        Some(Place { server, user, folder })
    }

    fn ask(&self, operation: &str, input: &Value) -> Value {
        let said = self.user.aws(&["sagemaker", operation, "--cli-input-json", &input.to_string()]);
        serde_json::from_str(&said).unwrap_or_default()
    }

    /// Trains a seasonal naive of a season, and makes a model of it.
    fn model(&self, name: &str, season: u32) {
        let folder = &self.user.folder;
        let mut lines = String::new();
        for values in stations() {
            writeln!(lines, "{}", json!({"start": "2024-01-01", "target": values[..HISTORY]}))
                .unwrap();
        }
        std::fs::write(folder.join("train.json"), lines).unwrap();
        let file = format!("{name}.tar.gz");
        let mut train = Command::new(e2e::binary());
        train.current_dir(folder).args(["train", "--train", "train.json", "--model", &file]);
        train.args(["--algorithm", "seasonal-naive", "--hyperparameters", "time_freq=H"]);
        train.args(["prediction_length=24", &format!("season={season}")]);
        let output = e2e::run_command(&mut train);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let to = format!("s3://plant/models/{file}");
        self.user.aws(&["s3", "cp", &file, &to, "--quiet"]);
        self.ask(
            "create-model",
            &json!({"ModelName": name,
            "PrimaryContainer": {"Image": IMAGE, "ModelDataUrl": to},
            "ExecutionRoleArn": "arn:aws:iam::123456789012:role/r"}),
        );
    }

    /// An endpoint that captures everything, with these variants and shadows.
    fn endpoint(&self, name: &str, variants: &[(&str, &str)], shadows: &[(&str, &str)]) {
        let shown = |all: &[(&str, &str)]| -> Vec<Value> {
            let one = |(variant, model): &(&str, &str)| {
                json!({"VariantName": variant, "ModelName": model, "InitialVariantWeight": 1.0,
                    "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"})
            };
            all.iter().map(one).collect()
        };
        let mut config = json!({"EndpointConfigName": name, "ProductionVariants": shown(variants),
            "DataCaptureConfig": {"EnableCapture": true, "InitialSamplingPercentage": 100,
                "DestinationS3Uri": "s3://plant/capture",
                "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
                "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]}}});
        if !shadows.is_empty() {
            config["ShadowProductionVariants"] = json!(shown(shadows));
        }
        self.ask("create-endpoint-config", &config);
        self.ask("create-endpoint", &json!({"EndpointName": name, "EndpointConfigName": name}));
        wait_for("the endpoint", Duration::from_secs(60), || {
            let told = self.ask("describe-endpoint", &json!({ "EndpointName": name }));
            told["EndpointStatus"] == "InService"
        });
    }

    /// Sends requests, one a line; the time each took in milliseconds.
    fn invoke(&self, endpoint: &str, requests: &str) -> Vec<f64> {
        self.invoke_with(endpoint, requests, &[])
    }

    /// As [`Place::invoke`], of one of many models.
    fn invoke_model(&self, endpoint: &str, requests: &str, model: &str) {
        self.invoke_with(endpoint, requests, &["0", model]);
    }

    fn invoke_with(&self, endpoint: &str, requests: &str, more: &[&str]) -> Vec<f64> {
        std::fs::write(self.user.folder.join("requests.jsonl"), requests).unwrap();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/py/invocations.py");
        let args = [&["requests.jsonl", endpoint], more].concat();
        let said = self.user.python(Sdk::Today, &program, &args);
        let told: Value = serde_json::from_str(&said).unwrap();
        told["took"].as_array().unwrap().iter().map(|took| took.as_f64().unwrap()).collect()
    }

    /// The captured lines of an endpoint, as they lie on disk, with their variant.
    fn lines(&self, endpoint: &str) -> Vec<(String, Value)> {
        let folder = self.server.data_dir.join("lake/plant/capture").join(endpoint);
        let mut lines = Vec::new();
        for file in e2e::files_below(&folder) {
            let below = file.strip_prefix(&folder).unwrap();
            let parts: Vec<_> =
                below.iter().map(|part| part.to_string_lossy().into_owned()).collect();
            assert_eq!(parts.len(), 6, "{parts:?} is not VARIANT/yyyy/mm/dd/hh/FILE");
            let text = std::fs::read_to_string(&file).unwrap();
            assert!(text.ends_with('\n'), "{} is not whole", file.display());
            for line in text.lines() {
                lines.push((parts[0].clone(), serde_json::from_str(line).unwrap()));
            }
        }
        lines
    }

    fn sql(&self, sql: &str) -> Value {
        self.server.forebay(&["lake", "sql", sql])["rows"].clone()
    }
}

/// What the stations measure: a day's course, a level that drifts, and noise.
fn stations() -> Vec<Vec<f64>> {
    let mut random = Random(11);
    let mut noise = || (0..4).map(|_| random.below(1000) as f64 / 500.0 - 1.0).sum::<f64>();
    (0..STATIONS)
        .map(|station| {
            let mut level = 50.0 + 10.0 * station as f64;
            (0..HOURS)
                .map(|hour| {
                    level += 0.2 * noise();
                    let day = (hour as f64 / 24.0 * std::f64::consts::TAU).sin();
                    ((level + 15.0 * day + 2.0 * noise()) * 100.0).round() / 100.0
                })
                .collect()
        })
        .collect()
}

fn moment(hour: usize) -> String {
    let (day, hour) = (hour / 24, hour % 24);
    let (month, day) = if day < 31 { (1, day + 1) } else { (2, day - 30) };
    format!("2024-{month:02}-{day:02} {hour:02}:00:00")
}

/// A request for each station every twelve hours. Every other one says whose series it is; the
/// others are known by their values.
fn requests(hours: std::ops::Range<usize>) -> String {
    let all = stations();
    let mut text = String::new();
    for begin in hours.step_by(12) {
        for (station, values) in all.iter().enumerate() {
            let mut instance =
                json!({"start": moment(begin - HISTORY), "target": values[begin - HISTORY..begin]});
            if (station + begin / 12) % 2 == 0 {
                instance["item_id"] = json!(format!("station-{station}"));
            }
            let request = json!({"instances": [instance], "configuration": {"num_samples": 50,
                "output_types": ["mean", "quantiles"], "quantiles": ["0.1", "0.5", "0.9"]}});
            writeln!(text, "{request}").unwrap();
        }
    }
    text
}

/// Readings as a stream delivers them.
fn readings(hours: std::ops::Range<usize>) -> String {
    let mut text = String::new();
    for (station, values) in stations().iter().enumerate() {
        for hour in hours.clone() {
            let at = moment(hour).replace(' ', "T") + "Z";
            let row =
                json!({"station": format!("station-{station}"), "at": at, "value": values[hour]});
            writeln!(text, "{row}").unwrap();
        }
    }
    text
}

const ACTUALS: &str = "SELECT from_iso8601_timestamp(at) AS timestamp, value, station AS item_id \
                       FROM readings";

#[test]
fn g3_an_update_that_forecasts_worse_is_undone_by_the_readings() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--set", "serving.accuracy_secs=1"];
    let Some(place) = Place::with("an update that forecasts worse", folder, &flags) else { return };
    place.model("good", 24);
    place.model("worse", 7);
    let file = "all.json";
    std::fs::write(place.user.folder.join(file), readings(0..HOURS)).unwrap();
    place.user.aws(&["s3", "cp", file, "s3://plant/readings/all.json", "--quiet"]);
    place.server.forebay(&["lake", "crawl", "plant/readings"]);
    // An endpoint of its own makes the configuration that the other is to be updated to.
    place.endpoint("worse", &[("v", "worse")], &[]);
    place.endpoint("air", &[("v", "good")], &[]);
    place.server.forebay(&["endpoint", "actuals", "air", "--sql", ACTUALS]);
    place.ask(
        "update-endpoint",
        &json!({"EndpointName": "air", "EndpointConfigName": "worse",
            "DeploymentConfig": {"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": {
                "Type": "CANARY", "WaitIntervalInSeconds": 3600,
                "CanarySize": {"Type": "CAPACITY_PERCENT", "Value": 50}}}}}),
    );
    place.invoke("air", &requests(HISTORY..HOURS - 24));
    let mut told = Value::Null;
    wait_for("the readings' verdict", Duration::from_secs(60), || {
        told = place.ask("describe-endpoint", &json!({"EndpointName": "air"}));
        told["EndpointStatus"] == "InService"
    });
    assert_eq!(told["EndpointConfigName"], "air", "{told}");
    let why = told["FailureReason"].as_str().unwrap();
    println!("{why}");
    assert!(why.starts_with("update to \"worse\" undone: the new variants' forecasts"), "{why}");
}

#[test]
fn h1_captured_forecasts_say_which_variant_is_better() {
    let Some(place) = Place::new("captured forecasts") else { return };
    place.model("good", 24);
    place.model("worse", 7);
    place.endpoint("ab", &[("a", "worse"), ("b", "good")], &[]);
    place.endpoint("aa", &[("a", "good")], &[("copy", "good")]);
    place.endpoint("shadowed", &[("now", "worse")], &[("next", "good")]);
    let server = &place.server;
    let put = |name: &str, hours| {
        std::fs::write(place.user.folder.join(name), readings(hours)).unwrap();
        let to = format!("s3://plant/readings/{name}");
        place.user.aws(&["s3", "cp", name, &to, "--quiet"]);
    };
    put("early.json", 0..HISTORY + 24 * 3);
    server.forebay(&["lake", "crawl", "plant/readings"]);
    let refused = |args: &[&str], word: &str| {
        let (code, said) = e2e::refusal(&server.data_dir, args);
        assert!(code != 0 && said.contains(word), "{said}");
    };
    refused(&["endpoint", "actuals", "ab"], "no query of actuals");
    refused(&["endpoint", "actuals", "none", "--sql", ACTUALS], "none");
    refused(
        &["endpoint", "actuals", "ab", "--sql", "SELECT station FROM readings"],
        "\"timestamp\"",
    );
    refused(&["endpoint", "ab", "ab"], "no query of actuals");
    for name in ["ab", "aa", "shadowed"] {
        server.forebay(&["endpoint", "actuals", name, "--sql", ACTUALS]);
    }
    refused(&["endpoint", "ab", "ab"], "nothing was captured");
    assert_eq!(server.forebay(&["endpoint", "actuals", "ab"])["sql"], ACTUALS);

    let asked = requests(HISTORY..HOURS - 24);
    let count = asked.lines().count();
    for name in ["ab", "aa", "shadowed"] {
        assert_eq!(place.invoke(name, &asked).len(), count);
    }
    // Most readings are still to come; whose history it is can only be said by name.
    let told = server.forebay(&["endpoint", "ab", "ab"]);
    let waiting: u64 = of_variants(&told, "waiting").values().map(|n| n.as_u64().unwrap()).sum();
    assert!(waiting > count as u64 / 3, "{told}");
    assert_eq!((&told["decided"], &told["captured"]["forecasts"]), (&json!(false), &json!(count)));

    // They come late, and a part of them twice.
    put("late.json", HISTORY + 24 * 3..HOURS);
    put("again.json", HISTORY..HISTORY + 24);
    let told = server.forebay(&["endpoint", "ab", "ab"]);
    println!("{}", told["verdict"].as_str().unwrap());
    assert_eq!(told["leader"], json!({"variant": "b", "model": "good"}), "{told}");
    assert_eq!(told["decided"], true, "{told}");
    assert_eq!(told["actuals"]["duplicates"], 24 * STATIONS);
    assert_eq!(told["actuals"]["series"], STATIONS);
    // Each forecast is scored once, by all of its steps.
    let scored: u64 = of_variants(&told, "forecasts").values().map(|n| n.as_u64().unwrap()).sum();
    let points: u64 = of_variants(&told, "points").values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!((scored, points), (count as u64, 24 * count as u64), "{told}");
    assert_eq!(of_variants(&told, "waiting").values().filter(|n| **n != json!(0)).count(), 0);
    let compared = &told["comparisons"][0];
    assert!(compared["p_value"].as_f64().unwrap() < 0.05, "{told}");
    assert!(compared["difference"].as_f64().unwrap() < 0.0, "{told}");
    assert_eq!(compared["paired_by"], "the same series and moment");
    for (variant, coverage) in of_variants(&told, "coverage_80") {
        assert!((0.0..=1.0).contains(&coverage.as_f64().unwrap()), "{variant}: {told}");
    }
    assert!(of_variants(&told, "mase")["b"].as_f64() < of_variants(&told, "mase")["a"].as_f64());
    // Nothing is kept: asked again it is the same.
    assert_eq!(server.forebay(&["endpoint", "ab", "ab"]), told);
    let none = server.forebay(&["endpoint", "ab", "ab", "--since", "2100-01-01T00:00:00Z"]);
    assert_eq!((&none["leader"], &none["captured"]["requests"]), (&Value::Null, &json!(0)));

    // A shadow gets the same requests, so its forecasts pair with what was answered.
    let told = server.forebay(&["endpoint", "ab", "shadowed"]);
    println!("{}", told["verdict"].as_str().unwrap());
    assert_eq!(
        (&told["leader"]["variant"], &told["decided"]),
        (&json!("next"), &json!(true)),
        "{told}"
    );
    assert_eq!(told["comparisons"][0]["paired_by"], "the same series and beginning");
    assert!(told["comparisons"][0]["p_value"].as_f64().unwrap() < 0.05, "{told}");

    // Two that are the same are not told apart.
    let told = server.forebay(&["endpoint", "ab", "aa"]);
    println!("{}", told["verdict"].as_str().unwrap());
    assert_eq!(told["decided"], false, "{told}");
    assert!(told["comparisons"][0]["p_value"].as_f64().unwrap() >= 0.05, "{told}");

    // SQL asks the same lines.
    let rows = place.sql("SELECT count(*), count(DISTINCT eventMetadata.eventId) FROM captured_ab");
    assert_eq!(rows, json!([[count, count]]));
    let rows = place.sql(
        "SELECT variant, model, count(*) FROM captured_ab_calls WHERE request LIKE '{\"instances\"%' \
         AND json_extract_scalar(answer, '$.predictions[0].mean[0]') IS NOT NULL \
         GROUP BY variant, model ORDER BY variant",
    );
    assert_eq!(rows, json!([["a", "worse", count / 2], ["b", "good", count / 2]]));
    let tables = server.forebay(&["lake", "ls", "--tables"]);
    let named: BTreeSet<&str> = tables["tables"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|table| table["name"].as_str())
        .collect();
    assert!(
        named.is_superset(&["captured_ab", "captured_aa", "captured_shadowed"].into()),
        "{named:?}"
    );
    let partitions = place.user.aws(&[
        "glue",
        "get-partitions",
        "--database-name",
        "forebay",
        "--table-name",
        "captured_ab",
        "--query",
        "Partitions[].Values[0]",
        "--output",
        "text",
    ]);
    let partitions: BTreeSet<&str> = partitions.split_whitespace().collect();
    assert_eq!(partitions, ["a", "b"].into());

    server.forebay(&["endpoint", "actuals", "ab", "--clear"]);
    refused(&["endpoint", "ab", "ab"], "no query of actuals");
}

#[test]
fn h1_the_models_of_one_endpoint_are_scored_each() {
    let Some(place) = Place::new("the models of one endpoint") else { return };
    // Their archives lie below one prefix.
    place.model("good", 24);
    place.model("worse", 7);
    place.ask(
        "create-model",
        &json!({"ModelName": "many", "ExecutionRoleArn": "arn:aws:iam::123456789012:role/r",
            "PrimaryContainer": {"Image": IMAGE, "Mode": "MultiModel",
                "ModelDataUrl": "s3://plant/models/"}}),
    );
    place.endpoint("air", &[("v", "many")], &[]);
    std::fs::write(place.user.folder.join("all.json"), readings(0..HOURS)).unwrap();
    place.user.aws(&["s3", "cp", "all.json", "s3://plant/readings/all.json", "--quiet"]);
    place.server.forebay(&["lake", "crawl", "plant/readings"]);
    place.server.forebay(&["endpoint", "actuals", "air", "--sql", ACTUALS]);
    let asked = requests(HISTORY..HOURS - 24);
    for model in ["good.tar.gz", "worse.tar.gz"] {
        place.invoke_model("air", &asked, model);
    }
    let told = place.server.forebay(&["endpoint", "ab", "air"]);
    println!("{}", told["verdict"].as_str().unwrap());
    assert_eq!(told["captured"]["not_scorable"], json!({}), "{told}");
    let found: Vec<_> = told["variants"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["model"].as_str().unwrap(), one["forecasts"].as_u64().unwrap()))
        .collect();
    let count = asked.lines().count() as u64;
    assert_eq!(found, [("many/good.tar.gz", count), ("many/worse.tar.gz", count)], "{told}");
    assert_eq!(told["leader"], json!({"variant": "v", "model": "many/good.tar.gz"}), "{told}");
    assert_eq!(told["decided"], true, "{told}");
    assert_eq!(told["comparisons"][0]["paired_by"], "the same series and beginning");
}

/// A figure of each variant.
fn of_variants(told: &Value, figure: &str) -> BTreeMap<String, Value> {
    let all = told["variants"].as_array().unwrap().iter();
    all.map(|one| (one["variant"].as_str().unwrap().to_owned(), one[figure].clone())).collect()
}

#[test]
fn h1_a_full_disk_under_the_capture_neither_slows_nor_fails_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("data")).unwrap();
    // Buckets on a volume of their own: what is full is the capture's place, not the log.
    let Some(volume) = Volume::new(&folder.path().join("data/lake"), 192) else { return };
    let Some(mut place) = Place::within("capture on a full disk", folder) else { return };
    place.model("m", 24);
    place.endpoint("e", &[("v", "m")], &[]);
    // Large enough that what waits comes to its bound.
    let target: Vec<u32> = (0..60_000).map(|hour| hour % 24 * 1000).collect();
    let request = json!({"instances": [{"start": "2017-01-01 00:00:00", "target": target}],
        "configuration": {"num_samples": 10, "output_types": ["mean"]}});
    let request = format!("{request}\n");
    let rounds = (48 << 20) / request.len();
    let before = place.invoke("e", &request.repeat(20));
    let written = |server: &Server| server.metric("serving_capture_written_total") as usize;
    wait_for("captured lines", WRITTEN, || written(&place.server) == 20);

    volume.fill();
    let during = place.invoke("e", &request.repeat(rounds));
    let median = |took: &[f64]| {
        let mut took = took.to_vec();
        took.sort_by(f64::total_cmp);
        took[took.len() / 2]
    };
    println!(
        "{rounds} requests of {} kB on a full disk: median {:.1} ms, before {:.1} ms",
        request.len() / 1000,
        median(&during),
        median(&before)
    );
    assert!(median(&during) < 2.0 * median(&before) + 20.0, "answers were slowed");
    let dropped = |server: &Server| server.metric("serving_capture_dropped_total") as usize;
    wait_for("what does not fit to be dropped", WRITTEN, || dropped(&place.server) > 0);
    // The bound may be met while the first of it is still being written.
    wait_for("the full disk to be said", WRITTEN, || {
        place.server.log().contains("cannot be written")
    });
    assert_eq!(written(&place.server), 20);

    volume.free();
    wait_for("what was held to be written", WRITTEN, || {
        written(&place.server) + dropped(&place.server) == 20 + rounds
    });
    assert!(written(&place.server) > 20, "nothing was held");
    // Everything answered is captured once, or was counted as dropped.
    let once = |place: &Place| {
        let lines = place.lines("e");
        let text =
            |line: &Value, key: &str| line["eventMetadata"][key].as_str().unwrap().to_owned();
        let ids: BTreeSet<String> = lines.iter().map(|(_, line)| text(line, "eventId")).collect();
        assert_eq!(ids.len(), lines.len(), "a request was captured twice");
        for (variant, line) in &lines {
            assert_eq!((variant.as_str(), text(line, "modelName").as_str()), ("v", "m"));
            let input = &line["captureData"]["endpointInput"];
            assert_eq!(input["data"].as_str().unwrap(), request.trim(), "not the request");
            let output = line["captureData"]["endpointOutput"]["data"].as_str().unwrap();
            assert!(serde_json::from_str::<Value>(output).is_ok(), "{output}");
        }
        lines.len()
    };
    assert_eq!(once(&place), written(&place.server));

    // The model behind a line leads to its archive, and that to the data it was made of.
    let told = place.ask("describe-model", &json!({"ModelName": "m"}));
    let archive = told["PrimaryContainer"]["ModelDataUrl"].as_str().unwrap();
    place.user.aws(&["s3", "cp", archive, "archive.tar.gz", "--quiet"]);
    let mut again = Command::new(e2e::binary());
    again.current_dir(&place.user.folder).args(["train", "--reproduce", "archive.tar.gz"]);
    let output = e2e::run_command(again.args(["--train", "train.json", "--json"]));
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(made["identical"], true, "{made}");

    // What was answered just before the end is on disk after it.
    let so_far = written(&place.server);
    place.invoke("e", &request.repeat(3));
    place.server.stop();
    assert_eq!(once(&place), so_far + 3);
    let Place { server, folder, .. } = place;
    drop(server);
    drop(volume);
    drop(folder);
}
