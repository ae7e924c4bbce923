//! Endpoints under a load of their own while they change, fail, are killed and are asked for too
//! much: the promises G1 to G4 and G6, each a test of its name; and the other ways to an
//! endpoint: plain JSON with a key, AWS's guardrails by its own clients.
//!
//! The models are seasonal naives of different seasons over a series that tells each of them: who
//! answered is known by the answer itself, whatever its labels say.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use e2e::aws::{Sdk, Tools, User, repository};
use e2e::load::{Load, Report};
use e2e::signed::{Answer, Connection, Signer};
use e2e::{Server, wait_for};
use serde_json::{Value, json};

const IMAGES: &str = "522234722520.dkr.ecr.us-east-1.amazonaws.com";
const ENDPOINT: &str = "plant";
const STEPS: u64 = 24;

/// Requests a second, of both ways of asking together.
const RATE: f64 = 200.0;
/// Connections of each load: enough for every request that is under way at a time.
const CONNECTIONS: usize = 24;
/// No update here takes longer to settle, beyond its own waits, however busy the machine.
const SETTLED: Duration = Duration::from_secs(30);

fn value(hour: u64) -> f64 {
    10.0 + (hour % 24) as f64
}

/// Ten days whose every hour has a value of its own.
fn target() -> Vec<f64> {
    (0..240).map(value).collect()
}

/// The season of the naive model that made these means, if one did.
fn season(mean: &Value) -> Option<u64> {
    let mean: Vec<f64> = mean.as_array()?.iter().map(Value::as_f64).collect::<Option<_>>()?;
    let made = |season: &u64| {
        let expect = |step: u64| value(240 - season + step % season);
        mean.len() == STEPS as usize
            && (0..STEPS).zip(&mean).all(|(step, found)| (expect(step) - found).abs() < 1e-3)
    };
    (1..=24).find(made)
}

/// A load that asks by InvokeEndpoint. Who answered is `VARIANT/SEASON`.
fn signed_load(aws: &Signer, endpoint: &str, rate: f64, models: u64) -> Load {
    let body = json!({
        "instances": [{"start": "2024-01-01 00:00:00", "target": target()}],
        "configuration": {"num_samples": 20, "output_types": ["mean", "quantiles"], "quantiles": ["0.1", "0.9"]},
    });
    let (aws, body) = (aws.clone(), body.to_string());
    let address = aws.address;
    let path = format!("/endpoints/{endpoint}/invocations");
    let asked = move |turn: u64| turn * 7 % models.max(1) + 1;
    let make = move |turn: u64| {
        let model = format!("season-{}.tar.gz", asked(turn));
        let mut headers = vec![("content-type", "application/json")];
        if models > 0 {
            headers.push(("x-amzn-sagemaker-target-model", &model));
        }
        aws.request("sagemaker", ("POST", &path), &headers, body.as_bytes())
    };
    let judge = move |turn: u64, answer: &Answer| {
        let found = answer.json();
        let made = &found["predictions"];
        if answer.status != 200 || made.as_array().map(Vec::len) != Some(1) {
            return Err(String::from_utf8_lossy(&answer.body).chars().take(300).collect());
        }
        let season = season(&made[0]["mean"]).ok_or(format!("no model's means: {made}"))?;
        if models > 0 && season != asked(turn) {
            return Err(format!("model {} was asked, {season} answered", asked(turn)));
        }
        match answer.header("x-amzn-invoked-production-variant").as_slice() {
            [variant] => Ok(format!("{variant}/{season}")),
            other => Err(format!("variants {other:?}")),
        }
    };
    Load::start(address, rate, CONNECTIONS, make, judge)
}

/// The request of the plain route, as bytes.
fn plain_request(server: &Server, key: &str, endpoint: &str, body: &Value) -> Vec<u8> {
    let (host, body) = (server.http, body.to_string());
    let length = body.len();
    format!(
        "POST /v1/endpoints/{endpoint}/forecast HTTP/1.1\r\nhost: {host}\r\n\
         authorization: Bearer {key}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

fn plain_body() -> Value {
    json!({"series": [{"id": "roof", "start": "2024-01-01 00:00:00", "target": target()}]})
}

/// A load that asks by the plain route. Who answered is `VARIANT/SEASON`.
fn plain_load(place: &Place, endpoint: &str, rate: f64) -> Load {
    let request = plain_request(&place.server, &place.key, endpoint, &plain_body());
    let judge = |_, answer: &Answer| {
        let found = answer.json();
        let made = &found["forecasts"][0];
        match (answer.status, season(&made["mean"]), found["variant"].as_str()) {
            (200, Some(season), Some(variant)) => Ok(format!("{variant}/{season}")),
            _ => Err(String::from_utf8_lossy(&answer.body).chars().take(300).collect()),
        }
    };
    Load::start(place.server.http, rate, CONNECTIONS, move |_| request.clone(), judge)
}

/// A model of forty days whose values are higher by `shift` than those asked with.
fn train(folder: &Path, name: &str, algorithm: &str, settings: &[&str], shift: f64) -> PathBuf {
    let target: Vec<f64> = (0..960).map(|hour| value(hour) + shift).collect();
    let series = json!({"start": "2024-01-01 00:00:00", "target": target});
    std::fs::write(folder.join("train.json"), format!("{series}\n")).unwrap();
    let model = folder.join(format!("{name}.tar.gz"));
    let mut command = Command::new(e2e::binary());
    command.current_dir(folder).args(["train", "--train", "train.json", "--algorithm", algorithm]);
    command.arg("--model").arg(&model).args(["--threads", "1", "--seed", "1"]);
    command.args(["--hyperparameters", "time_freq=H", "prediction_length=24"]).args(settings);
    let output = e2e::run_command(&mut command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    model
}

/// A naive model of a season.
fn naive(folder: &Path, season: u64) -> PathBuf {
    let name = format!("season-{season}");
    train(folder, &name, "seasonal-naive", &[&format!("season={season}")], 0.0)
}

/// A DeepAR of a few cells and two batches.
fn small_deepar(folder: &Path, name: &str, more: &[&str], shift: f64) -> PathBuf {
    let quick = ["context_length=24", "epochs=1", "mini_batch_size=32", "windows_per_epoch=64"];
    train(folder, name, "deepar", &[&quick[..], more].concat(), shift)
}

/// A DeepAR whose weights are finite and whose forecasts are not.
fn overflowing(folder: &Path) -> PathBuf {
    // Of values below zero as well: what knows none answers zero where it has no number.
    let sound = small_deepar(folder, "sound", &["num_cells=4", "num_layers=1"], -20.0);
    let unpacked = folder.join("unpacked");
    std::fs::create_dir_all(&unpacked).unwrap();
    let tar = |args: &[&str], archive: &Path| {
        let mut command = Command::new("tar");
        command.arg("-C").arg(&unpacked).arg(args[0]).arg(archive).args(&args[1..]);
        assert!(e2e::run_command(&mut command).status.success(), "tar {args:?}");
    };
    tar(&["-xzf"], &sound);
    let weights = unpacked.join("weights.safetensors");
    let mut bytes = std::fs::read(&weights).unwrap();
    // A header of JSON behind its length, then the tensors where it says.
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let tensors: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    // Every unit says one, and the head makes of so many ones more than a float holds: a mean and a
    // spread without end, of which half of the draws are no number.
    for (name, value) in [("lstm.bias_l0", 1e3f32), ("head.weight", 3e38), ("head.bias", 3e38)] {
        let place = &tensors[name]["data_offsets"];
        let at = |end: usize| 8 + header + place[end].as_u64().unwrap() as usize;
        for weight in bytes[at(0)..at(1)].chunks_exact_mut(4) {
            weight.copy_from_slice(&value.to_le_bytes());
        }
    }
    std::fs::write(&weights, bytes).unwrap();
    let bad = folder.join("overflowing.tar.gz");
    let names: Vec<String> = e2e::files_below(&unpacked)
        .iter()
        .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    tar(&[&["-czf"][..], &names].concat(), &bad);
    bad
}

/// A server with two models, `day` (season 24) and `flat` (season 1), and a key.
struct Place {
    folder: tempfile::TempDir,
    server: Server,
    aws: Signer,
    key: String,
}

impl Place {
    fn new() -> Place {
        Place::with(&[])
    }

    fn with(flags: &[&str]) -> Place {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start_with(&folder.path().join("data"), flags, &[]);
        let aws = Signer::of(&server);
        let key = server.forebay(&["key", "create", "load"])["key"].as_str().unwrap().to_owned();
        let place = Place { folder, server, aws, key };
        place.aws.put("/models", b"");
        place.model("day", &naive(place.path(), 24), "forecasting-seasonal-naive");
        place.model("flat", &naive(place.path(), 1), "forecasting-seasonal-naive");
        place
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    #[track_caller]
    fn ask(&self, operation: &str, input: &Value) -> Value {
        self.aws.sagemaker(operation, input).unwrap_or_else(|why| panic!("{operation}: {why}"))
    }

    fn model(&self, name: &str, archive: &Path, image: &str) {
        let key = format!("/models/{name}/model.tar.gz");
        self.aws.put(&key, &std::fs::read(archive).unwrap());
        let container =
            json!({"Image": format!("{IMAGES}/{image}:1"), "ModelDataUrl": format!("s3:/{key}")});
        self.create_model(name, container);
    }

    fn create_model(&self, name: &str, container: Value) {
        self.ask(
            "CreateModel",
            &json!({"ModelName": name, "PrimaryContainer": container,
            "ExecutionRoleArn": "arn:aws:iam::123456789012:role/r"}),
        );
    }

    /// A configuration of variants `(name, model, weight)`.
    fn config(&self, name: &str, variants: &[(&str, &str, f64)]) {
        let variant = |(name, model, weight): &(&str, &str, f64)| {
            json!({"VariantName": name, "ModelName": model, "InitialInstanceCount": 1,
                "InstanceType": "ml.m5.large", "InitialVariantWeight": weight})
        };
        let variants: Vec<Value> = variants.iter().map(variant).collect();
        self.ask(
            "CreateEndpointConfig",
            &json!({"EndpointConfigName": name, "ProductionVariants": variants}),
        );
    }

    fn endpoint(&self, name: &str, config: &str) {
        self.ask("CreateEndpoint", &json!({"EndpointName": name, "EndpointConfigName": config}));
        self.settled_on(name, config, SETTLED);
    }

    fn begin_update(&self, config: &str, deployment: Option<Value>) {
        let mut input = json!({"EndpointName": ENDPOINT, "EndpointConfigName": config});
        if let Some(deployment) = deployment {
            input["DeploymentConfig"] = deployment;
        }
        self.ask("UpdateEndpoint", &input);
    }

    fn weights(&self, weights: &[(&str, f64)]) {
        let one =
            |(name, weight): &(&str, f64)| json!({"VariantName": name, "DesiredWeight": weight});
        let weights: Vec<Value> = weights.iter().map(one).collect();
        self.ask(
            "UpdateEndpointWeightsAndCapacities",
            &json!({"EndpointName": ENDPOINT, "DesiredWeightsAndCapacities": weights}),
        );
        self.settled(ENDPOINT, SETTLED);
    }

    fn state(&self, name: &str) -> Value {
        self.ask("DescribeEndpoint", &json!({"EndpointName": name}))
    }

    /// Waits until the endpoint rests, and tells how.
    #[track_caller]
    fn settled(&self, name: &str, limit: Duration) -> Value {
        let mut state = Value::Null;
        wait_for(&format!("{name} to rest"), limit, || {
            state = self.state(name);
            matches!(state["EndpointStatus"].as_str(), Some("InService" | "Failed"))
        });
        state
    }

    #[track_caller]
    fn settled_on(&self, name: &str, config: &str, limit: Duration) {
        let state = self.settled(name, limit);
        assert_eq!(
            (state["EndpointStatus"].as_str(), state["EndpointConfigName"].as_str()),
            (Some("InService"), Some(config)),
            "{state}"
        );
    }

    /// Both ways of asking at once.
    fn load(&self, rate: f64) -> [Load; 2] {
        [signed_load(&self.aws, ENDPOINT, rate / 2.0, 0), plain_load(self, ENDPOINT, rate / 2.0)]
    }

    /// An endpoint of a folder of models, season 1 to `count`, behind the name `many`.
    fn many(&self, count: u64) {
        for season in 1..=count {
            let model = naive(self.path(), season);
            self.aws.put(
                &format!("/models/many/season-{season}.tar.gz"),
                &std::fs::read(model).unwrap(),
            );
        }
        let image = format!("{IMAGES}/forecasting-seasonal-naive:1");
        self.create_model(
            "many",
            json!({"Image": image, "Mode": "MultiModel", "ModelDataUrl": "s3://models/many/"}),
        );
        self.config("many", &[("all", "many", 1.0)]);
        self.endpoint("many", "many");
    }
}

/// Blue/green in the steps of a routing.
fn routing(kind: &str, percent: u32, wait: u32) -> Value {
    let size = json!({"Type": "CAPACITY_PERCENT", "Value": percent});
    let mut routing = json!({"Type": kind, "WaitIntervalInSeconds": wait});
    match kind {
        "CANARY" => routing["CanarySize"] = size,
        "LINEAR" => routing["LinearStepSize"] = size,
        _ => {}
    }
    json!({"BlueGreenUpdatePolicy": {"TrafficRoutingConfiguration": routing}})
}

fn said(what: &str, report: &Report) {
    println!(
        "{what}: {} requests, p50 {:.1} ms, p99 {:.1} ms, worst {:.1} ms, by {:?}",
        report.len(),
        report.latency(0.5).as_secs_f64() * 1e3,
        report.latency(0.99).as_secs_f64() * 1e3,
        report.latency(1.0).as_secs_f64() * 1e3,
        report.by()
    );
}

/// Whoever of the two answered, it was asked at once and answered; none of the others did.
fn finish(what: &str, loads: [Load; 2]) -> [Report; 2] {
    let reports = loads.map(Load::finish);
    for report in &reports {
        said(what, report);
        report.assert_all_answered(what);
    }
    reports
}

#[test]
fn g1_an_update_a_change_of_weights_and_a_deletion_lose_no_request() {
    let place = Place::new();
    place.config("day", &[("v", "day", 1.0)]);
    place.config("flat", &[("v", "flat", 1.0)]);
    place.config("both", &[("v", "day", 1.0), ("w", "flat", 1.0)]);
    place.endpoint(ENDPOINT, "day");
    let loads = place.load(RATE);
    loads[0].run_for(Duration::from_secs(1));

    // All at once, twice: forth and back.
    for config in ["flat", "day"] {
        place.begin_update(config, None);
        place.settled_on(ENDPOINT, config, SETTLED);
        loads[0].run_for(Duration::from_millis(300));
    }
    place.begin_update("both", None);
    place.settled_on(ENDPOINT, "both", SETTLED);
    for (v, w) in [(1.0, 3.0), (0.0, 1.0), (1.0, 0.0), (5.0, 1.0)] {
        place.weights(&[("v", v), ("w", w)]);
        loads[0].run_for(Duration::from_millis(300));
    }
    // In steps, and every model that is no longer served is deleted meanwhile.
    place.begin_update("flat", Some(routing("LINEAR", 50, 1)));
    place.settled_on(ENDPOINT, "flat", SETTLED);
    for config in ["day", "both"] {
        place.ask("DeleteEndpointConfig", &json!({"EndpointConfigName": config}));
    }
    place.ask("DeleteModel", &json!({"ModelName": "day"}));
    let rest = loads[0].run_for(Duration::from_secs(1));

    for report in finish("updates", loads) {
        let by = report.by();
        for name in ["v/24", "v/1", "w/1"] {
            assert!(by.contains_key(name), "{name} never answered: {by:?}");
        }
        // What the deletion left.
        assert_eq!(report.within(rest).by().into_keys().collect::<Vec<_>>(), ["v/1"]);
    }
}

#[test]
fn g1_models_that_come_and_go_behind_one_endpoint_lose_no_request() {
    let place = Place::new();
    place.many(20);
    // More models than stay loaded: every request finds its own, most of them just put away.
    let load = signed_load(&place.aws, "many", RATE, 20);
    load.run_for(Duration::from_secs(4));
    // One is replaced and one is deleted by who no longer asks for it, under the load of others.
    place.aws.put("/models/many/season-24.tar.gz", b"not an archive");
    load.run_for(Duration::from_secs(1));
    let report = load.finish();
    said("many models", &report);
    report.assert_all_answered("many models");
    assert_eq!(report.by().len(), 20, "{:?}", report.by());
}

#[test]
fn g2_a_step_gets_its_share_and_weights_are_kept() {
    let place = Place::new();
    place.config("day", &[("v", "day", 1.0)]);
    place.config("flat", &[("v", "flat", 1.0)]);
    place.config("both", &[("v", "day", 1.0), ("w", "flat", 3.0)]);
    place.endpoint(ENDPOINT, "day");
    let [signed, plain] = place.load(2.0 * RATE);
    signed.run_for(Duration::from_millis(500));

    // Long enough that the two seconds looked at end before it does, however late they begin.
    place.begin_update("flat", Some(routing("CANARY", 10, 6)));
    wait_for("the canary", SETTLED, || signed.report().by().contains_key("v/1"));
    std::thread::sleep(Duration::from_millis(100));
    let canary = signed.run_for(Duration::from_secs(2));
    assert_eq!(place.state(ENDPOINT)["EndpointStatus"], "Updating");
    place.settled_on(ENDPOINT, "flat", SETTLED);
    let after = signed.run_for(Duration::from_secs(1));
    place.begin_update("both", None);
    place.settled_on(ENDPOINT, "both", SETTLED);
    let both = signed.run_for(Duration::from_secs(1));
    place.weights(&[("v", 4.0), ("w", 1.0)]);
    let changed = signed.run_for(Duration::from_secs(1));

    // The two loads began within a millisecond of each other. Turns are dealt, not drawn: two
    // clients in step may each get other cards, so both hands are counted together.
    let [mut report, plain] = finish("shares", [signed, plain]);
    report.0.extend(plain.0);
    report.within(canary).assert_share("v/1", 0.1);
    assert_eq!(report.within(after).by().into_keys().collect::<Vec<_>>(), ["v/1"]);
    report.within(both).assert_share("w/1", 0.75);
    report.within(changed).assert_share("w/1", 0.2);
}

#[test]
fn g3_a_bad_model_is_rolled_back_without_an_alarm_and_nobody_notices() {
    let place = Place::new();
    let folder = place.path();
    place.model("overflowing", &overflowing(folder), "forecasting-deepar");
    let broken = folder.join("broken.tar.gz");
    let whole = std::fs::read(naive(folder, 24)).unwrap();
    std::fs::write(&broken, &whole[..whole.len() / 2]).unwrap();
    place.model("broken", &broken, "forecasting-seasonal-naive");
    place.config("day", &[("v", "day", 1.0)]);
    for name in ["overflowing", "broken"] {
        place.config(name, &[("v", name, 1.0)]);
    }
    place.endpoint(ENDPOINT, "day");
    let loads = place.load(RATE);
    let mut after = Vec::new();
    for (config, deployment) in [
        ("broken", Some(routing("CANARY", 10, 2))),
        ("overflowing", Some(routing("CANARY", 10, 2))),
        ("overflowing", Some(routing("LINEAR", 20, 1))),
        ("overflowing", Some(routing("ALL_AT_ONCE", 0, 2))),
        ("overflowing", None),
    ] {
        let began = Instant::now();
        place.begin_update(config, deployment.clone());
        let state = place.settled(ENDPOINT, SETTLED);
        assert_eq!(state["EndpointConfigName"], "day", "{config} {deployment:?}: {state}");
        let why = state["FailureReason"].as_str().unwrap_or_default();
        println!("{config} rolled back after {:.2} s: {why}", began.elapsed().as_secs_f64());
        assert!(!why.is_empty(), "{state}");
        // Well before its waits were over.
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        after.push(loads[0].run_for(Duration::from_millis(500)));
    }
    // G1 holds all the while, and G2: nothing of a bad model after its rollback.
    for report in finish("rollbacks", loads) {
        assert_eq!(report.by().into_keys().collect::<Vec<_>>(), ["v/24"]);
    }
}

/// When the process is killed, from the beginning of an update of three steps of a second.
const KILLS: [u64; 5] = [0, 300, 1300, 2300, 3300];

#[test]
fn g4_an_endpoint_is_back_within_two_seconds_of_a_kill_at_any_step() {
    let mut place = Place::new();
    place.config("day", &[("v", "day", 1.0)]);
    place.config("flat", &[("v", "flat", 1.0)]);
    place.endpoint(ENDPOINT, "day");
    let mut from = "day";
    for millis in KILLS {
        let to = if from == "day" { "flat" } else { "day" };
        let began = Instant::now();
        place.begin_update(to, Some(routing("LINEAR", 34, 1)));
        std::thread::sleep(Duration::from_millis(millis).saturating_sub(began.elapsed()));
        place.server.kill();
        let started = Instant::now();
        place.server.restart();
        let body = plain_body();
        let request = plain_request(&place.server, &place.key, ENDPOINT, &body);
        let answer = Connection::open(place.server.http).unwrap().ask(&request).unwrap();
        let back = started.elapsed();
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        let found = answer.json();
        let by = season(&found["forecasts"][0]["mean"]);
        assert!(matches!(by, Some(24 | 1)), "{found}");
        assert_eq!(found["variant"], "v");
        assert!(back < Duration::from_secs(2), "back after {back:?}");
        // It goes on or goes back by itself, to one of the two and nothing else, under load.
        let loads = place.load(RATE);
        let state = place.settled(ENDPOINT, SETTLED);
        from = if state["EndpointConfigName"] == to { to } else { from };
        assert_eq!(state["EndpointConfigName"], from, "{state}");
        assert_eq!(state["EndpointStatus"], "InService", "{state}");
        let rest = loads[0].run_for(Duration::from_millis(300));
        let only = if from == "day" { "v/24" } else { "v/1" };
        println!(
            "killed {millis} ms into the update: back after {:.2} s, rests on {from}",
            back.as_secs_f64()
        );
        for report in finish("after a kill", loads) {
            assert_eq!(report.within(rest).by().into_keys().collect::<Vec<_>>(), [only]);
        }
    }
}

#[test]
fn g6_five_times_too_many_are_refused_at_once_and_the_others_answered() {
    let place = Place::new();
    let deepar = small_deepar(place.path(), "deepar", &["num_cells=40", "num_layers=3"], 0.0);
    place.model("deepar", &deepar, "forecasting-deepar");
    place.config("deepar", &[("v", "deepar", 1.0)]);
    place.endpoint(ENDPOINT, "deepar");
    // As much work for each as takes some ten milliseconds.
    let mut samples = 200;
    let mut connection = Connection::open(place.server.http).unwrap();
    let mut body = plain_body();
    let (request, alone) = loop {
        body["num_samples"] = json!(samples);
        let request = plain_request(&place.server, &place.key, ENDPOINT, &body);
        let mut took: Vec<Duration> = (0..20)
            .map(|_| {
                let began = Instant::now();
                assert_eq!(connection.ask(&request).unwrap().status, 200);
                began.elapsed()
            })
            .collect();
        took.sort();
        if took[10] > Duration::from_millis(10) || samples > 5000 {
            break (request, took[10]);
        }
        samples *= 2;
    };
    let request = Arc::new(request);
    let load = |rate: f64, connections: usize| {
        let request = request.clone();
        let judge = |_, answer: &Answer| match answer.status {
            200 if answer.json()["forecasts"][0]["mean"].as_array().is_some() => Ok("ok".into()),
            429 | 503 if answer.json()["detail"].is_string() => Ok("refused".into()),
            _ => Err(String::from_utf8_lossy(&answer.body).chars().take(300).collect()),
        };
        Load::start(place.server.http, rate, connections, move |_| request.to_vec(), judge)
    };
    // Two threads of two cores, which the load's own clients want something of.
    let capacity = 2.0 / alone.as_secs_f64();
    println!("alone {:.1} ms: {capacity:.0} a second at most", alone.as_secs_f64() * 1e3);
    let usual = load(capacity / 4.0, 16);
    usual.run_for(Duration::from_secs(2));
    let usual = usual.finish();
    said("usual", &usual);
    usual.assert_all_answered("usual");

    let too_much = load(5.0 * capacity, 200);
    let (_, end) = too_much.run_for(Duration::from_secs(5));
    let report = too_much.finish();
    let (answered, refused) = (report.with_status(&[200]), report.with_status(&[429, 503]));
    said("answered", &answered);
    said("refused", &refused);
    report.assert_all_answered("too much");
    // Most of what it can do it did, and the others know at once.
    assert!(answered.len() as f64 > 0.4 * capacity * end.as_secs_f64(), "{}", answered.len());
    assert!(refused.len() > answered.len(), "{}", refused.len());
    assert!(refused.latency(0.5) < Duration::from_millis(30), "{:?}", refused.latency(0.5));
    assert!(refused.latency(0.99) < Duration::from_millis(300), "{:?}", refused.latency(0.99));
    // Two wait for each thread once the queue has been full; the first 64 waited for each other.
    let few = 12 * alone + Duration::from_millis(50);
    assert!(answered.latency(0.5) < few, "{:?}", answered.latency(0.5));
    let queue = 70 * alone + Duration::from_millis(500);
    assert!(answered.latency(0.99) < queue, "{:?}", answered.latency(0.99));

    let after = load(capacity / 4.0, 16);
    let (from, to) = after.run_for(Duration::from_secs(3));
    let after = after.finish();
    after.assert_all_answered("after");
    let after = after.within((from + Duration::from_secs(1), to));
    said("after", &after);
    assert_eq!(after.by().into_keys().collect::<Vec<_>>(), ["ok"]);
    assert!(
        after.latency(0.5) < 3 * usual.latency(0.5) + Duration::from_millis(20),
        "{:?} after {:?}",
        after.latency(0.5),
        usual.latency(0.5)
    );
}

#[test]
#[ignore = "long: two minutes of updates"]
fn g1_long_a_hundred_updates_lose_no_request() {
    let place = Place::new();
    place.config("day", &[("v", "day", 1.0)]);
    place.config("flat", &[("v", "flat", 1.0)]);
    place.config("both", &[("v", "day", 1.0), ("w", "flat", 1.0)]);
    place.model("overflowing", &overflowing(place.path()), "forecasting-deepar");
    place.config("overflowing", &[("v", "overflowing", 1.0)]);
    place.many(20);
    place.endpoint(ENDPOINT, "day");
    let loads = place.load(RATE);
    let many = signed_load(&place.aws, "many", RATE / 4.0, 20);
    let began = Instant::now();
    let mut updates = 0;
    while updates < 100 || began.elapsed() < Duration::from_secs(120) {
        let fresh = format!("flat-{updates}");
        match updates % 8 {
            0 => place.begin_update("flat", None),
            1 => place.begin_update("both", None),
            2 => place.weights(&[("v", 1.0), ("w", 4.0)]),
            3 => place.weights(&[("v", 0.0), ("w", 1.0)]),
            4 => place.begin_update("day", Some(routing("LINEAR", 50, 1))),
            5 => place.begin_update("flat", Some(routing("CANARY", 20, 1))),
            6 => place.begin_update("overflowing", Some(routing("CANARY", 20, 2))),
            _ => {
                // A model of its own, deleted as soon as another one serves.
                place.model(
                    &fresh,
                    &place.path().join("season-1.tar.gz"),
                    "forecasting-seasonal-naive",
                );
                place.config(&fresh, &[("v", &fresh, 1.0)]);
                place.begin_update(&fresh, None);
                place.settled_on(ENDPOINT, &fresh, SETTLED);
                place.begin_update("day", None);
                place.settled_on(ENDPOINT, "day", SETTLED);
                place.ask("DeleteEndpointConfig", &json!({"EndpointConfigName": fresh}));
                place.ask("DeleteModel", &json!({"ModelName": fresh}));
                updates += 1;
            }
        }
        let state = place.settled(ENDPOINT, SETTLED);
        assert_eq!(state["EndpointStatus"], "InService", "{state}");
        assert_ne!(state["EndpointConfigName"], "overflowing", "{state}");
        updates += 1;
    }
    println!("{updates} updates in {:.0} s", began.elapsed().as_secs_f64());
    finish("a hundred updates", loads);
    let many = many.finish();
    said("many models", &many);
    many.assert_all_answered("many models");
}

/// Keys and the plain route: what opens, what is answered, what is refused and how.
#[test]
fn plain_json_is_answered_to_who_has_a_key() {
    let place = Place::new();
    place.config("both", &[("v", "day", 1.0), ("w", "flat", 0.0)]);
    place.endpoint(ENDPOINT, "both");
    let mut connection = Connection::open(place.server.http).unwrap();
    let mut ask = |key: &str, endpoint: &str, body: &Value| {
        let request = plain_request(&place.server, key, endpoint, body);
        let answer = connection.ask(&request).unwrap();
        let found = answer.json();
        if answer.status != 200 {
            assert_eq!(answer.header("content-type"), ["application/problem+json"]);
            assert_eq!(found["status"], answer.status, "{found}");
        }
        (answer.status, found)
    };

    let key = &place.key;
    let mut body = plain_body();
    let (status, found) = ask(key, ENDPOINT, &body);
    assert_eq!((status, &found["variant"], &found["model"]), (200, &json!("v"), &json!("day")));
    let made = &found["forecasts"][0];
    assert_eq!(made["id"], "roof");
    assert_eq!((&made["start"], &made["freq"]), (&json!("2024-01-11 00:00:00"), &json!("1H")));
    assert_eq!(made["timestamps"][23], "2024-01-11 23:00:00");
    assert_eq!(season(&made["mean"]), Some(24));
    let levels: Vec<&String> = made["quantiles"].as_object().unwrap().keys().collect();
    assert_eq!(levels, ["0.1", "0.5", "0.9"]);
    body["variant"] = json!("w");
    body["quantiles"] = json!([0.25]);
    body["num_samples"] = json!(10);
    let (status, found) = ask(key, ENDPOINT, &body);
    assert_eq!((status, season(&found["forecasts"][0]["mean"])), (200, Some(1)), "{found}");
    assert!(found["forecasts"][0]["quantiles"]["0.25"].is_array(), "{found}");

    let refused = |(status, found): (u16, Value), expect: u16, words: &str| {
        let detail = found["detail"].as_str().unwrap();
        assert!(status == expect && detail.contains(words), "{status} {found}");
    };
    refused(ask(key, "nobody", &plain_body()), 404, "nobody");
    body["variant"] = json!("x");
    refused(ask(key, ENDPOINT, &body), 404, "no variant \"x\"");
    let bad = json!({"series": [{"start": "noon", "target": [1]}]});
    refused(ask(key, ENDPOINT, &bad), 400, "series[0]: start");
    let bad = json!({"series": [{"start": "2024-01-01", "target": [1]}], "quantiles": [2]});
    refused(ask(key, ENDPOINT, &bad), 400, "quantiles[0]");
    let mut bad = plain_body();
    bad["model"] = json!("season-1.tar.gz");
    refused(ask(key, ENDPOINT, &bad), 400, "not a multi-model endpoint");
    refused(ask("forebay_00", ENDPOINT, &plain_body()), 401, "no such API key");

    let bound = ["key", "create", "shop", "--endpoint", "shop", "--expires-days", "2"];
    let bound = place.server.forebay(&bound)["key"].as_str().unwrap().to_owned();
    refused(ask(&bound, ENDPOINT, &plain_body()), 403, "--endpoint plant");
    refused(ask(&bound, "shop", &plain_body()), 404, "shop");
    let (code, message) = e2e::refusal(&place.server.data_dir, &["key", "create", "shop"]);
    assert!(code != 0 && message.contains("delete it first"), "{message}");
    let listed = place.server.forebay(&["key", "list"]);
    assert_eq!(listed["keys"][1]["endpoints"], json!(["shop"]), "{listed}");
    assert!(!listed.to_string().contains(&bound[8..]), "{listed}");
    place.server.forebay(&["key", "delete", "shop"]);
    refused(ask(&bound, "shop", &plain_body()), 401, "no such API key");
    assert_eq!(e2e::refusal(&place.server.data_dir, &["key", "delete", "shop"]).0, 3);

    // Other methods, other places, other types, none at all; the owner's token is no key.
    let raw = |request: String| {
        Connection::open(place.server.http).unwrap().ask(request.as_bytes()).unwrap()
    };
    let path = format!("/v1/endpoints/{ENDPOINT}/forecast");
    let head = format!("HTTP/1.1\r\nhost: x\r\nx-api-key: {key}\r\n");
    let got = raw(format!("GET {path} {head}\r\n"));
    assert_eq!((got.status, got.header("allow")), (405, vec!["POST"]));
    assert_eq!(raw(format!("POST /v1/endpoints/x/y {head}content-length: 0\r\n\r\n")).status, 404);
    let typed = format!("POST {path} {head}content-type: text/csv\r\ncontent-length: 0\r\n\r\n");
    assert_eq!(raw(typed).status, 415);
    let none = raw(format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"));
    assert_eq!((none.status, none.header("www-authenticate")), (401, vec!["Bearer"]));
    let token = std::fs::read_to_string(place.server.data_dir.join("admin-token")).unwrap();
    assert_eq!(ask(token.trim(), ENDPOINT, &plain_body()).0, 401);
    // And a key opens nothing else.
    let owner = format!("POST /forebay/call/status {head}authorization: Bearer {key}\r\n");
    let owner = format!("{owner}content-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}");
    assert_eq!(raw(owner).status, 403);
}

/// What is asked in plain JSON is copied to shadow variants and captured like any other request.
#[test]
fn h1_plain_json_is_captured_with_its_shadow() {
    let place = Place::new();
    let variant = |name: &str, model: &str| json!([{"VariantName": name, "ModelName": model, "InitialInstanceCount": 1, "InstanceType": "ml.m5.large"}]);
    let capture = json!({"EnableCapture": true, "InitialSamplingPercentage": 100,
        "DestinationS3Uri": "s3://models/captured", "CaptureOptions": [{"CaptureMode": "InputAndOutput"}],
        "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]}});
    place.ask("CreateEndpointConfig", &json!({"EndpointConfigName": "c", "DataCaptureConfig": capture,
        "ProductionVariants": variant("v", "day"), "ShadowProductionVariants": variant("s", "flat")}));
    place.endpoint(ENDPOINT, "c");
    let request = plain_request(&place.server, &place.key, ENDPOINT, &plain_body());
    let answer = Connection::open(place.server.http).unwrap().ask(&request).unwrap();
    assert_eq!((answer.status, &answer.json()["variant"]), (200, &json!("v")));
    let folder = place.server.data_dir.join("lake/models/captured").join(ENDPOINT);
    let captured = |variant: &str| -> Vec<Value> {
        let files = e2e::files_below(&folder.join(variant));
        let text: String = files.iter().map(|f| std::fs::read_to_string(f).unwrap()).collect();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    for (variant, made) in [("v", 24), ("s", 1)] {
        wait_for("captured lines", Duration::from_secs(20), || !captured(variant).is_empty());
        let lines = captured(variant);
        assert_eq!(lines.len(), 1, "{lines:?}");
        let data = &lines[0]["captureData"];
        let read = |side: &str| -> Value {
            serde_json::from_str(data[side]["data"].as_str().unwrap()).unwrap()
        };
        assert_eq!(season(&read("endpointOutput")["predictions"][0]["mean"]), Some(made));
        assert_eq!(read("endpointInput")["instances"][0]["target"], json!(target()));
    }
}

/// A body beyond the limit, and a series of every kind of mistake, never end in a 500.
#[test]
fn plain_json_says_what_is_too_large() {
    let place = Place::with(&["--set", "http.body_bytes_max=100000"]);
    place.config("day", &[("v", "day", 1.0)]);
    place.endpoint(ENDPOINT, "day");
    let series = json!({"start": "2024-01-01", "target": vec![1; 60_000]});
    let request = plain_request(&place.server, &place.key, ENDPOINT, &json!({"series": [series]}));
    let answer = Connection::open(place.server.http).unwrap().ask(&request).unwrap();
    assert_eq!(answer.status, 413, "{}", answer.head);
    assert!(answer.json()["detail"].as_str().unwrap().contains("http.body_bytes_max"));
}

/// The document is valid for its version's own validator, and what is really asked and answered
/// is what it says.
#[test]
fn the_openapi_document_is_valid_and_true() {
    let Some(python) = e2e::python("the OpenAPI document") else { return };
    let place = Place::new();
    place.config("day", &[("v", "day", 1.0)]);
    place.endpoint(ENDPOINT, "day");
    let program = std::fs::read_to_string(repository().join("crates/e2e/tests/py/openapi.py"));
    let url = format!("http://{}", place.server.http);
    let said = e2e::run_python(&python, &program.unwrap(), &[&url, &place.key, ENDPOINT]);
    println!("{said}");
    assert!(said.contains("OPENAPI OK"), "{said}");
}

/// The deployment guardrails of AWS's guide by boto3 and the SageMaker SDK.
#[test]
fn deployment_guardrails_by_boto3_and_the_sdk() {
    let Some(tools) = Tools::find("deployment guardrails") else { return };
    let place = Place::new();
    let user = User::new(&tools, &place.server, &place.path().join("user"));
    let program = repository().join("crates/e2e/tests/py/deployments.py");
    let said = user.python(Sdk::Today, &program, &[]);
    println!("{said}");
    assert!(said.contains("DEPLOYMENTS OK"), "{said}");
}
