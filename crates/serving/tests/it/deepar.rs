//! A DeepAR model, trained here and packed as in production, behind an endpoint.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{ErrorKind, SystemClock};
use deepar::{DeepAr, Hyperparameters, TrainOptions};
use forecast::{Dataset, DateTime, Estimator, Frequency, Silent, TimeSeries};
use metastore::Metastore;
use serde_json::{Value, json};
use serving::{Host, Invocation, Settings, Status, Variant};

const HORIZON: usize = 6;

fn wave(site: u32, hours: usize) -> Vec<f32> {
    let at = |hour: usize| {
        let phase = std::f32::consts::TAU * (hour % 24) as f32 / 24.0;
        30.0 + 10.0 * site as f32 + 8.0 * phase.sin() + ((hour * 7) % 5) as f32
    };
    (0..hours).map(at).collect()
}

/// Trains on two sites with a category and a known feature each; the model's file.
fn train(folder: &Path) -> PathBuf {
    let series = |site: u32| TimeSeries {
        start: DateTime(0),
        target: wave(site, 24 * 10).into(),
        feat_static_cat: vec![site],
        feat_dynamic_real: vec![(0..24 * 10).map(|hour| (hour % 24) as f32).collect()],
        ..TimeSeries::default()
    };
    let data = Dataset { freq: Frequency::HOURLY, series: vec![series(0), series(1)] };
    let hyper: BTreeMap<String, String> = [
        ("time_freq", "H"),
        ("context_length", "12"),
        ("prediction_length", "6"),
        ("epochs", "2"),
        ("num_cells", "8"),
        ("num_layers", "1"),
        ("mini_batch_size", "32"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into();
    let options = TrainOptions { seed: 3, threads: 1, ..TrainOptions::default() };
    let estimator = DeepAr { hyper: Hyperparameters::parse(&hyper).unwrap(), options };
    let trained = estimator.train(&data, &mut Silent).unwrap();
    let path = folder.join("model.tar.gz");
    training::artifact::write(&path, &trained.files).unwrap();
    path
}

async fn serve(model: &Path) -> Host {
    let store = Metastore::in_memory().unwrap();
    let loader = Arc::new(|path: &Path| training::load(path));
    let host = Host::open(store, Arc::new(SystemClock), loader, Settings::default()).unwrap();
    host.create_model("m", model).unwrap();
    let variant =
        Variant { name: "AllTraffic".into(), model: "m".into(), weight: 1.0, shadow: None };
    host.create_config("c", vec![variant]).unwrap();
    host.create_endpoint("e", "c").unwrap();
    let row = host.settled("e").await.unwrap();
    assert_eq!(row.status, Status::InService, "{:?}", row.failure_reason);
    host
}

fn instance(site: u32, hours: usize) -> Value {
    let feature: Vec<usize> = (0..hours + HORIZON).map(|hour| hour % 24).collect();
    json!({
        "start": "1970-01-01 00:00:00",
        "target": wave(site, hours),
        "cat": [site],
        "dynamic_feat": [feature],
    })
}

async fn invoke(host: &Host, body: &Value) -> base::Result<Value> {
    let body = body.to_string().into();
    let asked = Invocation { endpoint: "e".into(), body, ..Invocation::default() };
    let answer = host.invoke(asked).await?;
    Ok(serde_json::from_slice(&answer.body).unwrap())
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trained_model_answers_in_the_words_of_sagemaker() {
    let folder = tempfile::tempdir().unwrap();
    let model = train(folder.path());
    let host = serve(&model).await;
    let asked = json!({
        "instances": [instance(0, 100), instance(1, 30), instance(1, 0)],
        "configuration": {
            "num_samples": 40,
            "output_types": ["mean", "quantiles", "samples"],
            "quantiles": ["0.1", "0.5", 0.9],
        },
    });
    let answer = invoke(&host, &asked).await.unwrap();
    let predictions = answer["predictions"].as_array().unwrap();
    assert_eq!(predictions.len(), 3);
    for prediction in predictions {
        let level = |key: &str| numbers(&prediction["quantiles"][key]);
        let (low, mid, high) = (level("0.1"), level("0.5"), level("0.9"));
        let mean = numbers(&prediction["mean"]);
        assert_eq!((mean.len(), low.len()), (HORIZON, HORIZON));
        assert!((0..HORIZON).all(|t| low[t] <= mid[t] && mid[t] <= high[t]), "{prediction}");
        let samples = prediction["samples"].as_array().unwrap();
        assert_eq!(samples.len(), 40);
        let first: f64 = samples.iter().map(|path| numbers(path)[0]).sum::<f64>() / 40.0;
        assert!((first - mean[0]).abs() < 1e-3 * mean[0].abs().max(1.0), "{first} {mean:?}");
    }
    // The second site lies ten above the first; a model that learnt anything knows its scale.
    assert!(numbers(&predictions[0]["mean"])[0] > 10.0);
    assert_eq!(invoke(&host, &asked).await.unwrap(), answer, "the same request, another answer");
    // And from another process' point of view: a host of its own, the same file.
    assert_eq!(invoke(&serve(&model).await, &asked).await.unwrap(), answer);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_model_refuses_names_the_instance_and_the_field() {
    let folder = tempfile::tempdir().unwrap();
    let host = serve(&train(folder.path())).await;
    let good = instance(0, 30);
    let with = |field: &str, value: Value| {
        let mut bad = good.clone();
        bad[field] = value;
        bad
    };
    for (bad, expect) in [
        (with("cat", json!([7])), "instances[1]: cat[0] is 7, the model knows 0 to 1"),
        (with("cat", Value::Null), "instances[1]: has 0 values in cat"),
        (with("dynamic_feat", Value::Null), "instances[1]: has 0 dynamic_feat"),
        (with("dynamic_feat", json!([[1, 2]])), "instances[1]: dynamic_feat[0] has 2 values"),
    ] {
        let error = invoke(&host, &json!({"instances": [good, bad]})).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().starts_with(expect), "{error}");
    }
}

#[tokio::test]
async fn a_damaged_file_never_serves() {
    let folder = tempfile::tempdir().unwrap();
    let path = train(folder.path());
    let whole = std::fs::read(&path).unwrap();
    let store = Metastore::in_memory().unwrap();
    let loader = Arc::new(|path: &Path| training::load(path));
    let host = Host::open(store, Arc::new(SystemClock), loader, Settings::default()).unwrap();
    for (k, cut) in [0, 20, whole.len() / 2, whole.len() - 1].into_iter().enumerate() {
        let (name, path) = (format!("cut-{k}"), folder.path().join(format!("cut-{k}")));
        std::fs::write(&path, &whole[..cut]).unwrap();
        host.create_model(&name, &path).unwrap();
        let variant = Variant { name: "v".into(), model: name.clone(), weight: 1.0, shadow: None };
        host.create_config(&name, vec![variant]).unwrap();
        host.create_endpoint(&name, &name).unwrap();
        let row = host.settled(&name).await.unwrap();
        assert_eq!(row.status, Status::Failed, "cut at {cut}");
        assert!(row.failure_reason.unwrap().starts_with(&format!("model \"{name}\": ")));
    }
}
