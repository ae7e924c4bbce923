//! `train`, `forecast` and `backtest` on files, no server: DeepAR's formats in and out.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

const HOURS: u32 = 24 * 14;

/// Four seasonal series of two weeks, some points missing, as DeepAR JSON Lines.
fn series(hours: u32) -> String {
    let mut text = String::new();
    for item in 0..4u32 {
        let target: Vec<String> = (0..hours)
            .map(|hour| {
                let day = (f64::from(hour % 24) / 24.0 * std::f64::consts::TAU).sin();
                let wobble = f64::from((hour * 37 + item * 11) % 17) / 17.0;
                let value = 50.0 + f64::from(item) * 10.0 + 20.0 * day + 3.0 * wobble;
                if (hour + item) % 53 == 7 { "null".to_owned() } else { format!("{value:.2}") }
            })
            .collect();
        let target = target.join(",");
        writeln!(
            text,
            r#"{{"item_id":"s{item}","start":"2024-01-01 00:00:00","target":[{target}]}}"#
        )
        .unwrap();
    }
    text
}

/// Runs a command in `folder`; its stdout, which must be all JSON lines.
fn run(folder: &Path, args: &[&str]) -> Vec<Value> {
    let output =
        e2e::run_command(Command::new(e2e::binary()).args(args).arg("--json").current_dir(folder));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{args:?}: {text} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn train(folder: &Path, model: &str, seed: &str) -> Value {
    let hyperparameters = [
        "time_freq=H",
        "prediction_length=24",
        "context_length=24",
        "epochs=3",
        "num_cells=30",
        "num_layers=1",
        "mini_batch_size=32",
        "learning_rate=0.005",
    ];
    let mut args = vec![
        "train",
        "--train",
        "train.json",
        "--test",
        "test.json",
        "--seed",
        seed,
        "--threads",
        "2",
    ];
    args.extend(["--model", model, "--hyperparameters"]);
    args.extend(hyperparameters);
    run(folder, &args).pop().unwrap()
}

#[test]
fn training_forecasting_and_scoring_work_on_files() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("train.json"), series(HOURS - 24)).unwrap();
    std::fs::write(folder.join("test.json"), series(HOURS)).unwrap();

    let report = train(folder, "a.tar.gz", "11");
    for key in ["windows", "cpu_seconds", "wall_seconds", "peak_rss_bytes", "final_loss"] {
        assert!(report[key].is_number(), "{key}: {report}");
    }
    println!("train: {} windows in {} s", report["windows"], report["wall_seconds"]);
    train(folder, "b.tar.gz", "11");
    train(folder, "c.tar.gz", "12");
    let bytes = |name: &str| std::fs::read(folder.join(name)).unwrap();
    assert!(bytes("a.tar.gz") == bytes("b.tar.gz"), "the same seed gave two models");
    assert!(bytes("a.tar.gz") != bytes("c.tar.gz"), "the seed changes nothing");

    let args = [
        "forecast",
        "--model",
        "a.tar.gz",
        "--input",
        "train.json",
        "--quantiles",
        "0.05,0.5,0.95",
    ];
    let forecasts = run(folder, &[&args[..], &["--seed", "3"]].concat());
    assert_eq!(forecasts.len(), 4);
    for (index, forecast) in forecasts.iter().enumerate() {
        assert_eq!(forecast["item_id"], format!("s{index}"));
        assert!(forecast["start"].as_str().unwrap().starts_with("2024-01-14"), "{forecast}");
        let list = |value: &Value| -> Vec<f64> {
            value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
        };
        let mean = list(&forecast["mean"]);
        let [low, middle, high] =
            ["0.05", "0.5", "0.95"].map(|level| list(&forecast["quantiles"][level]));
        assert_eq!([mean.len(), low.len(), middle.len(), high.len()], [24; 4]);
        for at in 0..24 {
            assert!(
                mean[at].is_finite() && low[at] <= middle[at] && middle[at] <= high[at],
                "step {at}: {forecast}"
            );
        }
        assert_eq!(forecast["quantiles"].as_object().unwrap().len(), 3);
    }
    assert_eq!(
        run(folder, &[&args[..], &["--seed", "3"]].concat()),
        forecasts,
        "the same seed, another forecast"
    );

    let scores = run(
        folder,
        &[
            "backtest",
            "--model",
            "a.tar.gz",
            "--test",
            "test.json",
            "--windows",
            "2",
            "--seed",
            "5",
        ],
    );
    let scores = &scores[0];
    for scores in [scores, &scores["seasonal_naive"]] {
        for key in ["mean_wQuantileLoss", "MASE", "ND", "sMAPE", "RMSE"] {
            assert!(
                scores[key].as_f64().is_some_and(|v| v.is_finite() && v >= 0.0),
                "{key}: {scores}"
            );
        }
        let low = scores["coverage"]["0.1"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&low), "{scores}");
    }
    println!(
        "backtest: {} against {}",
        scores["mean_wQuantileLoss"], scores["seasonal_naive"]["mean_wQuantileLoss"]
    );
}

#[test]
fn bad_training_input_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    std::fs::write(folder.join("good.json"), series(HOURS)).unwrap();
    std::fs::write(
        folder.join("bad.json"),
        "{\"start\":\"2024-01-01 00:00:00\",\"target\":[1,2,\"x\"]}\n",
    )
    .unwrap();
    let refused = |args: &[&str]| {
        let output = e2e::run_command(
            Command::new(e2e::binary()).args(args).arg("--json").current_dir(folder),
        );
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(value["error"]["exit_code"], output.status.code().unwrap());
        (output.status.code().unwrap(), value["error"]["message"].as_str().unwrap().to_owned())
    };
    let base = [
        "train",
        "--model",
        "m.tar.gz",
        "--hyperparameters",
        "time_freq=H",
        "prediction_length=24",
        "context_length=24",
        "epochs=1",
    ];
    let with = |file: &'static str, more: &[&'static str]| {
        let args = [&base[..], more, &["--train", file]].concat();
        refused(&args)
    };
    let (code, message) = with("absent.json", &[]);
    assert_eq!(code, 3, "{message}");
    let (code, message) = with("bad.json", &[]);
    assert!(code == 1 && message.contains("bad.json"), "{message}");
    let (code, message) = with("good.json", &["epochs=many"]);
    assert!(code == 1 && message.contains("epochs"), "{message}");
    let (code, message) = with("good.json", &["epohcs=3"]);
    assert!(code == 1 && message.contains("epohcs"), "{message}");
    let (code, message) = with("good.json", &["nonsense"]);
    assert!(code == 2 && message.contains("nonsense"), "{message}");
    assert!(!folder.join("m.tar.gz").exists(), "a refused training left a model");
    let (code, message) = refused(&["forecast", "--model", "good.json", "--input", "good.json"]);
    assert!(code == 1 && message.contains("good.json"), "{message}");
}
