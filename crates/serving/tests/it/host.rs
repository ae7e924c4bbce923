//! A host over real rows and files; the models are small predictors whose answers tell which
//! file they came from.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base::{Clock, Error, ErrorKind, ManualClock, Result, Timestamp};
use forecast::{
    DateTime, Forecast, Frequency, PredictOptions, Predictor, SeasonalNaive, TimeSeries,
};
use metastore::Metastore;
use serde_json::Value;
use serving::{Host, Invocation, Loader, Settings, Status, Variant};

/// Forecasts the number its file holds; the words `panic` and `wrong` misbehave.
struct Constant(f32);

impl Predictor for Constant {
    fn freq(&self) -> Frequency {
        Frequency::HOURLY
    }

    fn prediction_length(&self) -> usize {
        2
    }

    fn predict(&self, series: &[TimeSeries], options: &PredictOptions) -> Result<Vec<Forecast>> {
        assert!(self.0 >= 0.0, "a negative constant panics");
        if self.0 > 1e6 {
            return Err(Error::new(ErrorKind::Corrupt, "weights out of range"));
        }
        let one = |_: &TimeSeries| Forecast {
            item_id: None,
            start: DateTime(0),
            freq: Frequency::HOURLY,
            mean: vec![self.0; 2],
            quantiles: options.quantiles.iter().map(|q| (*q, vec![self.0; 2])).collect(),
            samples: None,
            parameters: None,
        };
        Ok(series.iter().map(one).collect())
    }
}

fn load(path: &Path) -> Result<Box<dyn Predictor>> {
    let text = std::fs::read_to_string(path).map_err(|cause| Error::io("read", cause))?;
    match text.trim() {
        "naive" => Ok(Box::new(SeasonalNaive::for_freq(Frequency::HOURLY, 2)?)),
        "explode" => panic!("told to"),
        number => {
            let bad = |cause| Error::new(ErrorKind::Corrupt, "no model in it").with_source(cause);
            Ok(Box::new(Constant(number.parse().map_err(bad)?)))
        }
    }
}

pub(crate) struct World {
    dir: tempfile::TempDir,
    pub(crate) store: Metastore,
    pub(crate) loader: Loader,
    pub(crate) settings: Settings,
}

impl World {
    pub(crate) fn new() -> World {
        World {
            dir: tempfile::tempdir().unwrap(),
            store: Metastore::in_memory().unwrap(),
            loader: Arc::new(load),
            settings: Settings::default(),
        }
    }

    pub(crate) fn start(&self) -> Arc<Host> {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(Timestamp(7)));
        let loader = Arc::clone(&self.loader);
        Arc::new(Host::open(self.store.clone(), clock, loader, self.settings).unwrap())
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// A configuration of variants (name, content of the model file, weight).
    pub(crate) fn config(&self, host: &Host, config: &str, variants: &[(&str, &str, f64)]) {
        let make = |(name, text, weight): &(&str, &str, f64)| {
            let model = format!("{config}-{name}");
            host.create_model(&model, &self.file(&model, text)).unwrap();
            Variant { name: (*name).into(), model, weight: *weight, shadow: None }
        };
        host.create_config(config, variants.iter().map(make).collect()).unwrap();
    }
}

pub(crate) fn ask(endpoint: &str) -> Invocation {
    let body = r#"{"instances": [{"start": "2021-02-05", "target": [5]}],
                   "configuration": {"output_types": ["mean"]}}"#;
    Invocation { endpoint: endpoint.into(), body: body.into(), ..Invocation::default() }
}

pub(crate) async fn mean(host: &Host, endpoint: &str) -> Result<f64> {
    let answer = host.invoke(ask(endpoint)).await?;
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    Ok(body["predictions"][0]["mean"][0].as_f64().unwrap())
}

#[tokio::test]
async fn from_a_model_to_an_answer_and_back_again_after_a_restart() {
    let world = World::new();
    let host = world.start();
    world.config(&host, "c", &[("all", "naive", 1.0)]);
    assert_eq!(host.create_endpoint("e", "c").unwrap().status, Status::Creating);
    assert_eq!(host.settled("e").await.unwrap().status, Status::InService);
    let answer = host
        .invoke(Invocation {
            content_type: Some("application/octet-stream".into()),
            accept: Some("*/*".into()),
            ..ask("e")
        })
        .await
        .unwrap();
    assert_eq!(answer.content_type, "application/json");
    assert_eq!(answer.variant, "all");
    assert_eq!((answer.model.as_str(), answer.artifact.as_str()), ("c-all", "c-all"));
    assert_eq!(answer.body, br#"{"predictions":[{"mean":[5.0,5.0]}]}"#);
    // What it serves is its own: the names it was made of may go.
    host.delete_config("c").unwrap();
    host.delete_model("c-all").unwrap();
    drop(host);
    let host = world.start();
    assert_eq!(host.endpoint("e").unwrap().status, Status::InService);
    assert_eq!(mean(&host, "e").await.unwrap(), 5.0);
    host.delete_endpoint("e").unwrap();
    assert_eq!(mean(&host, "e").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(host.endpoints().unwrap().is_empty());
}

#[tokio::test]
async fn a_model_that_does_not_load_fails_the_endpoint_with_its_reason() {
    let world = World::new();
    let host = world.start();
    world.config(&host, "half", &[("good", "1", 1.0), ("bad", "junk", 1.0)]);
    world.config(&host, "boom", &[("bad", "explode", 1.0)]);
    for (name, reason) in
        [("half", "model \"half-bad\": no model in it"), ("boom", "model \"boom-bad\": loading")]
    {
        host.create_endpoint(name, name).unwrap();
        let row = host.settled(name).await.unwrap();
        assert_eq!(row.status, Status::Failed);
        assert!(row.failure_reason.as_deref().unwrap().starts_with(reason), "{row:?}");
        let error = mean(&host, name).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains(reason), "{error}");
    }
    // The file is repaired, and the next start finds it.
    world.file("half-bad", "2");
    drop(host);
    let host = world.start();
    assert_eq!(host.endpoint("half").unwrap().status, Status::InService);
    assert_eq!(host.endpoint("boom").unwrap().status, Status::Failed);
    // A file that goes missing is a failure, not an answer from nowhere.
    std::fs::remove_file(world.dir.path().join("half-good")).unwrap();
    drop(host);
    let host = world.start();
    assert_eq!(host.endpoint("half").unwrap().status, Status::Failed);
    assert!(mean(&host, "half").await.is_err());
}

#[tokio::test]
async fn a_name_is_taken_by_one_that_differs_in_letter_case() {
    let world = World::new();
    let host = world.start();
    world.config(&host, "c", &[("a", "1", 1.0)]);
    host.create_endpoint("Air", "c").unwrap();
    let error = host.create_endpoint("aIR", "c").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert!(error.to_string().contains("\"Air\" in letter case only"), "{error}");
    assert_eq!(host.create_endpoint("Air", "c").unwrap_err().kind(), ErrorKind::AlreadyExists);
    host.settled("Air").await.unwrap();
    assert_eq!(host.endpoint_like("aIR").unwrap().unwrap().name, "Air");
    assert_eq!(mean(&host, "aIR").await.unwrap_err().kind(), ErrorKind::NotFound);
    host.delete_endpoint("Air").unwrap();
    host.create_endpoint("aIR", "c").unwrap();
}

#[tokio::test]
async fn weights_share_traffic_exactly_and_a_target_overrides_them() {
    let world = World::new();
    let host = world.start();
    world.config(&host, "c", &[("a", "1", 3.0), ("b", "2", 1.0), ("idle", "3", 0.0)]);
    host.create_endpoint("e", "c").unwrap();
    host.settled("e").await.unwrap();
    let mut answered = [0; 4];
    for _ in 0..40 {
        answered[mean(&host, "e").await.unwrap() as usize] += 1;
    }
    assert_eq!(answered, [0, 30, 10, 0]);
    let to = |variant: &str| Invocation { target_variant: Some(variant.into()), ..ask("e") };
    assert_eq!(host.invoke(to("idle")).await.unwrap().variant, "idle");
    let error = host.invoke(to("nobody")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    host.update_weights("e", &[("a".into(), 0.0)]).unwrap();
    for _ in 0..5 {
        assert_eq!(mean(&host, "e").await.unwrap(), 2.0);
    }
    for bad in [("b", 0.0), ("b", f64::NAN), ("nobody", 1.0)] {
        assert!(host.update_weights("e", &[(bad.0.into(), bad.1)]).is_err(), "{bad:?}");
    }
    let counts = host.counters();
    let of = |name: &str| counts.iter().find(|count| count.variant == name).unwrap();
    assert_eq!((of("a").invocations, of("b").invocations, of("idle").invocations), (30, 15, 1));
    assert_eq!((of("b").series, of("b").client_errors), (15, 0));
}

#[tokio::test]
async fn ten_thousand_requests_are_shared_as_the_weights_say_also_when_they_change() {
    let world = World::new();
    let host = world.start();
    world.config(&host, "c", &[("a", "1", 0.9), ("b", "2", 0.1)]);
    host.create_endpoint("e", "c").unwrap();
    host.settled("e").await.unwrap();
    for share in [0.1, 0.35, 0.0] {
        host.update_weights("e", &[("a".into(), 1.0 - share), ("b".into(), share)]).unwrap();
        let mut of_b = 0.0;
        for _ in 0..10_000 {
            of_b += mean(&host, "e").await.unwrap() - 1.0;
        }
        assert!((of_b / 10_000.0 - share).abs() < 0.0002, "{of_b} of 10000 for {share}");
    }
}

#[tokio::test]
async fn a_hundred_updates_under_load_drop_no_request() {
    let world = World::new();
    let host = world.start();
    world.config(&host, "one", &[("v", "1", 1.0)]);
    world.config(&host, "two", &[("v", "2", 1.0), ("w", "3", 1.0)]);
    world.config(&host, "bad", &[("v", "junk", 1.0)]);
    host.create_endpoint("e", "one").unwrap();
    host.settled("e").await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let load = {
        let (host, stop) = (Arc::clone(&host), Arc::clone(&stop));
        tokio::spawn(async move {
            let mut seen = [0usize; 4];
            while !stop.load(Ordering::Relaxed) {
                seen[mean(&host, "e").await.unwrap() as usize] += 1;
                tokio::task::yield_now().await;
            }
            seen
        })
    };
    for round in 0..100 {
        let config = ["two", "bad", "one"][round % 3];
        host.update_endpoint("e", config).unwrap();
        let row = host.settled("e").await.unwrap();
        assert_eq!(row.status, Status::InService);
        if config == "bad" {
            assert_eq!(row.config, "two");
            let reason = row.failure_reason.unwrap();
            assert!(reason.starts_with("update to \"bad\" undone: model \"bad-v\""), "{reason}");
        } else {
            assert_eq!((row.config.as_str(), row.failure_reason), (config, None));
        }
        mean(&host, "e").await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    let seen = load.await.unwrap();
    assert!(seen[1] > 0 && seen[2] > 0 && seen[3] > 0, "{seen:?}");
}

#[tokio::test]
async fn control_calls_refuse_what_would_break_a_promise() {
    let world = World::new();
    let host = world.start();
    world.config(&host, "c", &[("v", "1", 1.0)]);
    let kind = |result: Result<()>| result.unwrap_err().kind();
    let file = world.file("x", "1");
    let variant = |model: &str| {
        vec![Variant { name: "v".into(), model: model.into(), weight: 1.0, shadow: None }]
    };
    for (result, expect) in [
        (host.create_model("c-v", &file).map(drop), ErrorKind::AlreadyExists),
        (host.create_model("a b", &file).map(drop), ErrorKind::Invalid),
        (host.create_model("new", Path::new("/none")).map(drop), ErrorKind::NotFound),
        (host.create_config("d", variant("none")).map(drop), ErrorKind::NotFound),
        (host.create_config("c", variant("c-v")).map(drop), ErrorKind::AlreadyExists),
        (host.create_endpoint("e", "none").map(drop), ErrorKind::NotFound),
        (host.update_endpoint("e", "c").map(drop), ErrorKind::NotFound),
        (host.delete_endpoint("e"), ErrorKind::NotFound),
        (host.delete_model("none"), ErrorKind::NotFound),
        (host.endpoint("e").map(drop), ErrorKind::NotFound),
    ] {
        assert_eq!(kind(result), expect);
    }
}

/// A loader that waits for a word before it returns.
fn held() -> (Loader, Sender<()>) {
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let loader = move |path: &Path| {
        wait.lock().unwrap().recv().unwrap();
        load(path)
    };
    (Arc::new(loader), go)
}

#[tokio::test]
async fn an_endpoint_in_progress_is_left_alone() {
    let mut world = World::new();
    let (loader, go) = held();
    world.loader = loader;
    let host = world.start();
    world.config(&host, "c", &[("v", "1", 1.0)]);
    host.create_endpoint("e", "c").unwrap();
    assert_eq!(host.delete_endpoint("e").unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(host.update_endpoint("e", "c").unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(mean(&host, "e").await.unwrap_err().kind(), ErrorKind::Unavailable);
    go.send(()).unwrap();
    assert_eq!(host.settled("e").await.unwrap().status, Status::InService);
    assert_eq!(mean(&host, "e").await.unwrap(), 1.0);
}

#[tokio::test]
async fn a_restart_in_the_middle_of_creation_or_update_carries_on() {
    let world = World::new();
    let host = world.start();
    world.config(&host, "one", &[("v", "1", 1.0)]);
    world.config(&host, "two", &[("v", "2", 1.0)]);
    world.config(&host, "bad", &[("v", "junk", 1.0)]);
    for name in ["created", "updated", "undone"] {
        host.create_endpoint(name, "one").unwrap();
        host.settled(name).await.unwrap();
    }
    let pending = |config: &str| {
        let variants = host.config(config).unwrap().variants;
        let variants = variants.into_iter().map(|variant| serving::Deployed {
            artifact: host.model(&variant.model).unwrap().artifact,
            holding: serving::Holding::One,
            name: variant.name,
            model: variant.model,
            weight: variant.weight,
            shadow: None,
        });
        let variants = variants.collect();
        serving::Pending { config: config.into(), variants, rollout: None, starts: 1 }
    };
    // The rows as a kill leaves them: written before the work, which never happened.
    for (name, next, status) in [
        ("created", None, Status::Creating),
        ("updated", Some(pending("two")), Status::Updating),
        ("undone", Some(pending("bad")), Status::Updating),
    ] {
        let mut row = host.endpoint(name).unwrap();
        (row.pending, row.status) = (next, status);
        world.store.put(name, &row).unwrap();
    }
    drop(host);
    let host = world.start();
    for (name, config, value) in
        [("created", "one", 1.0), ("updated", "two", 2.0), ("undone", "one", 1.0)]
    {
        let row = host.settled(name).await.unwrap();
        assert_eq!((row.status, row.config.as_str()), (Status::InService, config), "{name}");
        assert_eq!(row.failure_reason.is_some(), name == "undone");
        assert_eq!(mean(&host, name).await.unwrap(), value);
    }
}

/// A predictor that says when it was asked and answers when told to.
struct Gate {
    asked: Arc<AtomicUsize>,
    go: Mutex<Receiver<()>>,
}

impl Predictor for Gate {
    fn freq(&self) -> Frequency {
        Frequency::HOURLY
    }

    fn prediction_length(&self) -> usize {
        2
    }

    fn predict(&self, series: &[TimeSeries], options: &PredictOptions) -> Result<Vec<Forecast>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.go.lock().unwrap().recv().unwrap();
        Constant(1.0).predict(series, options)
    }
}

fn gated(world: &mut World) -> (Arc<AtomicUsize>, Sender<()>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let (go, wait) = channel();
    let (counted, wait) = (Arc::clone(&asked), Mutex::new(Some(wait)));
    world.loader = Arc::new(move |_: &Path| {
        let go = Mutex::new(wait.lock().unwrap().take().unwrap());
        Ok(Box::new(Gate { asked: Arc::clone(&counted), go }) as Box<dyn Predictor>)
    });
    (asked, go)
}

async fn until(asked: &AtomicUsize, count: usize) {
    while asked.load(Ordering::SeqCst) < count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn overload_is_refused_at_once_and_what_was_accepted_is_answered() {
    let mut world = World::new();
    world.settings = Settings { threads: 1, queue: 2, ..Settings::default() };
    let (asked, go) = gated(&mut world);
    let host = world.start();
    world.config(&host, "c", &[("v", "", 1.0)]);
    host.create_endpoint("e", "c").unwrap();
    host.settled("e").await.unwrap();
    let spawn = || {
        let host = Arc::clone(&host);
        tokio::spawn(async move { host.invoke(ask("e")).await })
    };
    let mut accepted = vec![spawn()];
    until(&asked, 1).await;
    accepted.extend([spawn(), spawn()]);
    tokio::task::yield_now().await;
    for _ in 0..20 {
        let error = host.invoke(ask("e")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exhausted, "{error}");
    }
    for _ in 0..3 {
        go.send(()).unwrap();
    }
    for answer in accepted {
        answer.await.unwrap().unwrap();
    }
    let counts = &host.counters()[0];
    assert_eq!((counts.invocations, counts.refused, counts.series), (23, 20, 3));
}

#[tokio::test]
async fn a_request_nobody_waits_for_never_reaches_the_model() {
    let mut world = World::new();
    world.settings = Settings {
        threads: 1,
        queue: 4,
        timeout: Duration::from_millis(20),
        ..Settings::default()
    };
    let (asked, go) = gated(&mut world);
    let host = world.start();
    world.config(&host, "c", &[("v", "", 1.0)]);
    host.create_endpoint("e", "c").unwrap();
    host.settled("e").await.unwrap();
    for _ in 0..3 {
        let error = host.invoke(ask("e")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    go.send(()).unwrap();
    go.send(()).unwrap();
    // The two that waited behind the slow one are dropped unasked; the next is asked.
    host.invoke(ask("e")).await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert_eq!(host.counters()[0].timed_out, 3);
}

#[tokio::test]
async fn faults_of_a_model_and_of_a_request_are_told_apart() {
    let world = World::new();
    let host = world.start();
    world.config(&host, "panics", &[("v", "-1", 1.0)]);
    world.config(&host, "corrupt", &[("v", "2e6", 1.0)]);
    world.config(&host, "good", &[("v", "naive", 1.0)]);
    for name in ["panics", "corrupt", "good"] {
        host.create_endpoint(name, name).unwrap();
        host.settled(name).await.unwrap();
    }
    for _ in 0..5 {
        let error = mean(&host, "panics").await.unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (ErrorKind::Internal, "the model panicked")
        );
    }
    let error = mean(&host, "corrupt").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal);
    let body = r#"{"instances": [{"start": "2021-02-05", "target": [5]},
                                 {"start": "2021-02-05", "target": [null]}]}"#;
    let error = host.invoke(Invocation { body: body.into(), ..ask("good") }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(error.to_string(), "instances[1]: no observed point");
    let csv = Invocation { content_type: Some("text/csv".into()), ..ask("good") };
    assert_eq!(host.invoke(csv).await.unwrap_err().kind(), ErrorKind::Unsupported);
    let lines = Invocation {
        body: "{\"start\": \"2021-02-05\", \"target\": [5]}\n".repeat(2).into(),
        content_type: Some("application/jsonlines".into()),
        ..ask("good")
    };
    let answer = host.invoke(lines).await.unwrap();
    assert_eq!(answer.content_type, "application/jsonlines");
    assert_eq!(answer.body.iter().filter(|byte| **byte == b'\n').count(), 2);
    // Nothing of this hurt anybody.
    assert_eq!(mean(&host, "good").await.unwrap(), 5.0);
}

#[tokio::test]
async fn a_rollout_moves_shares_of_the_requests_and_an_alarm_undoes_it() {
    let world = World::new();
    let host = world.start();
    world.config(&host, "old", &[("all", "naive", 1.0)]);
    world.config(&host, "new", &[("other", "naive", 1.0)]);
    host.create_endpoint("e", "old").unwrap();
    host.settled("e").await.unwrap();
    let rings = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&rings);
    host.watch_with(Arc::new(move |_: &[String]| {
        seen.load(Ordering::SeqCst).then(|| "it rings".to_owned())
    }));
    let rollout = |wait_secs| serving::Rollout {
        shares: vec![0.25, 1.0],
        wait_secs,
        keep_secs: 0,
        limit_secs: None,
        alarms: vec!["a".to_owned()],
    };
    host.update_endpoint_by("e", "new", Some(rollout(3600)), &[]).unwrap();
    // The first answer by the new variant says that the first step is made.
    while host.invoke(ask("e")).await.unwrap().variant != "other" {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut new = 0;
    for _ in 0..40 {
        new += u32::from(host.invoke(ask("e")).await.unwrap().variant == "other");
    }
    // Ten, but for the turns of a block that began before or ends after.
    assert!((7..=13).contains(&new), "{new}");
    assert_eq!(host.delete_endpoint("e").unwrap_err().kind(), ErrorKind::Conflict);
    rings.store(true, Ordering::SeqCst);
    let undone = host.settled("e").await.unwrap();
    assert_eq!((undone.status, undone.config.as_str()), (Status::InService, "old"));
    assert!(undone.failure_reason.unwrap().contains("it rings"));
    assert_eq!(host.invoke(ask("e")).await.unwrap().variant, "all");

    rings.store(false, Ordering::SeqCst);
    host.update_endpoint_by("e", "new", Some(rollout(0)), &[]).unwrap();
    let done = host.settled("e").await.unwrap();
    assert_eq!((done.config.as_str(), done.failure_reason), ("new", None));
    assert_eq!(host.invoke(ask("e")).await.unwrap().variant, "other");
    let falling = serving::Rollout { shares: vec![0.5, 0.4], ..rollout(0) };
    assert!(host.update_endpoint_by("e", "old", Some(falling), &[]).is_err());
}
