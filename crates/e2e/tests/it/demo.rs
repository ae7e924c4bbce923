//! The main job from outside: `forebay demo` in an empty folder, on real readings, and what other
//! people's readers find in the lake afterwards.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The device's keys in the order in which the simulator sends them.
const KEYS: [&str; 10] = [
    "device",
    "timestamp",
    "ozone",
    "particulate_matter",
    "carbon_monoxide",
    "sulfur_dioxide",
    "nitrogen_dioxide",
    "temperature",
    "longitude",
    "latitude",
];

/// Runs a demo to its end in `folder`; exit code 0 and a balanced account, or the test fails.
fn demo(folder: &Path, args: &[&str]) -> Value {
    let output = e2e::run_command(
        Command::new(e2e::binary())
            .args(["demo", "--exit", "--json"])
            .args(args)
            .current_dir(folder),
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{}: {text} {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_balances(&report);
    assert_contract(&report);
    report
}

fn assert_balances(report: &Value) {
    assert!(report["sent"].as_u64().unwrap() > 0);
    assert_eq!(report["acknowledged"], report["sent"]);
    assert_eq!(report["in_lake"], report["sent"]);
    assert_eq!(report["lost"], 0);
    assert_eq!(report["doubled"], 0);
}

/// The keys that others read, and forecasts that can be true.
fn assert_contract(report: &Value) {
    for key in ["peak_rss_bytes", "mean_wQuantileLoss", "seasonal_naive_mean_wQuantileLoss"] {
        assert!(report[key].as_f64().is_some_and(|value| value > 0.0), "{key}: {}", report[key]);
    }
    let stages = report["stages"].as_array().unwrap();
    assert!(stages.len() >= 7, "{stages:?}");
    for stage in stages {
        assert!(stage["name"].is_string(), "{stage}");
        for key in ["seconds", "cpu_seconds", "bytes"] {
            assert!(stage[key].as_f64().is_some_and(|value| value >= 0.0), "{key}: {stage}");
        }
    }
    for station in report["stations"].as_array().unwrap() {
        let quantile = |level: &str| numbers(&station["forecast"]["quantiles"][level]);
        let (low, middle, high) = (quantile("0.1"), quantile("0.5"), quantile("0.9"));
        assert_eq!([low.len(), middle.len(), high.len()], [24; 3], "{station}");
        for at in 0..24 {
            let ordered = low[at] <= middle[at] && middle[at] <= high[at];
            assert!(ordered && low[at].is_finite() && high[at].is_finite(), "step {at}: {station}");
        }
        assert!(
            low.iter().zip(&high).any(|(low, high)| low < high),
            "a forecast without any doubt: {station}"
        );
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

fn sql(data_dir: &Path, statement: &str) -> Value {
    e2e::forebay(data_dir, &["lake", "sql", statement])["rows"].clone()
}

/// What pandas, PyArrow and DuckDB find in the Parquet files of a table.
const READERS: &str = include_str!("readers.py");

fn read_with_others(data_dir: &Path, table: &str) -> Option<Value> {
    let python = e2e::python("other readers of the lake")?;
    let folder = data_dir.join("lake/lake/tables").join(table);
    let answer = e2e::run_python(&python, READERS, &[&folder.to_string_lossy()]);
    Some(serde_json::from_str(&answer).unwrap())
}

#[test]
fn a_demo_in_an_empty_folder_balances_and_others_can_read_its_lake() {
    let folder = tempfile::tempdir().unwrap();
    let first = demo(folder.path(), &["--devices", "4", "--days", "30"]);
    assert_eq!(first["stations"].as_array().unwrap().len(), 4);
    let data_dir = folder.path().join("forebay-data");
    let top: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(top, ["forebay-data"], "something lies outside the data directory");

    // Afterwards, without a server.
    assert_eq!(sql(&data_dir, "SELECT count(*) FROM readings")[0][0], first["sent"]);
    let per_device = sql(
        &data_dir,
        "SELECT device, count(*), count(ozone) FROM readings GROUP BY device ORDER BY device",
    );
    assert_eq!(per_device.as_array().unwrap().len(), 4);
    let ozone: u64 =
        per_device.as_array().unwrap().iter().map(|row| row[2].as_u64().unwrap()).sum();

    if let Some(found) = read_with_others(&data_dir, "readings") {
        for reader in ["pandas", "pyarrow", "duckdb"] {
            assert_eq!(found[reader], first["sent"], "{reader}: {found}");
        }
        let nulls = found["nulls"]["ozone"].as_u64().unwrap();
        assert!(nulls > 0, "the simulator's nulls are gone");
        assert_eq!(nulls + ozone, first["sent"].as_u64().unwrap(), "nulls of ozone: {found}");
        let columns: Vec<&str> =
            found["columns"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
        assert_eq!(columns[..KEYS.len()], KEYS, "the device's key order");
        assert!(
            columns[KEYS.len()..].iter().all(|column| column.starts_with("partition_")),
            "{columns:?}"
        );
    }

    // A second run on the same data is an account of its own, and leaves the first alone.
    let second = demo(folder.path(), &["--devices", "2", "--days", "14", "--seed", "7"]);
    assert_ne!(second["table"], first["table"]);
    assert_eq!(sql(&data_dir, "SELECT count(*) FROM readings")[0][0], first["sent"]);
    println!("demo: {} and {} readings, in {} s", first["sent"], second["sent"], seconds(&first));
}

/// Three weeks of three stations, every seventh value of `ozone` missing.
struct Sample {
    csv: String,
    lines: String,
    rows: u64,
    nulls: u64,
}

fn sample() -> Sample {
    let mut sample = Sample {
        csv: "station,time,ozone,humidity\n".to_owned(),
        lines: String::new(),
        rows: 0,
        nulls: 0,
    };
    for hour in 0..21 * 24u32 {
        for station in ["north", "south yard", "west"] {
            let time = format!("2024-03-{:02}T{:02}:00:00Z", 1 + hour / 24, hour % 24);
            let ozone = 40.0
                + 30.0 * (f64::from(hour % 24) / 24.0 * std::f64::consts::TAU).sin()
                + station.len() as f64;
            let missing = sample.rows % 7 == 3;
            let shown = if missing { String::new() } else { format!("{ozone:.1}") };
            writeln!(sample.csv, "{station},{time},{shown},{}", hour % 60).unwrap();
            let shown = if missing { "null" } else { &shown };
            writeln!(
                sample.lines,
                r#"{{"station":"{station}","time":"{time}","ozone":{shown},"humidity":{}}}"#,
                hour % 60
            )
            .unwrap();
            sample.rows += 1;
            sample.nulls += u64::from(missing);
        }
    }
    sample
}

#[test]
fn a_demo_takes_readings_from_csv_and_json_lines() {
    let folder = tempfile::tempdir().unwrap();
    let sample = sample();
    for (name, text) in [("readings.csv", &sample.csv), ("readings.jsonl", &sample.lines)] {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        let data_dir = folder.path().join(format!("data-{name}"));
        let report = demo(
            folder.path(),
            &["--from", &file.to_string_lossy(), "--data-dir", &data_dir.to_string_lossy()],
        );
        assert_eq!(report["sent"], sample.rows, "{name}");
        let counts =
            sql(&data_dir, "SELECT count(*), count(ozone), count(DISTINCT station) FROM readings");
        assert_eq!(counts[0][0], sample.rows, "{name}");
        assert_eq!(counts[0][1], sample.rows - sample.nulls, "{name}: nulls");
        assert_eq!(counts[0][2], 3, "{name}");
        println!("demo --from {name}: {} s", seconds(&report));
    }
    let nothing = folder.path().join("nothing.csv");
    let arg = nothing.to_string_lossy();
    let (code, message) =
        e2e::refusal(&folder.path().join("data"), &["demo", "--exit", "--from", &arg]);
    assert_eq!(code, 3, "{message}");
}

#[test]
#[ignore = "long: 420,768 real readings"]
fn the_real_readings_of_beijing_are_all_there_and_beat_seasonal_naive() {
    let Some(file) = e2e::shared_data("air_beijing_raw/readings.parquet") else {
        return e2e::skip("the real readings: air_beijing_raw is not there");
    };
    let folder = tempfile::tempdir().unwrap();
    let report = demo(folder.path(), &["--from", &file.to_string_lossy()]);
    println!(
        "real readings: {} in {} s, peak {} bytes",
        report["sent"],
        seconds(&report),
        report["peak_rss_bytes"]
    );
    assert_eq!(report["sent"], 420_768);
    let stations = report["stations"].as_array().unwrap();
    assert_eq!(stations.len(), 12);
    for station in stations {
        println!(
            "{}: {} against {}",
            station["device"],
            station["mean_wQuantileLoss"],
            station["seasonal_naive_mean_wQuantileLoss"]
        );
    }
    let loss = |name: &str| report[name].as_f64().unwrap();
    assert!(loss("mean_wQuantileLoss") < loss("seasonal_naive_mean_wQuantileLoss"));
    assert!(seconds(&report) < 360.0, "{} s", seconds(&report));
    assert!(
        report["peak_rss_bytes"].as_u64().unwrap() < 600_000_000,
        "{}",
        report["peak_rss_bytes"]
    );
    let data_dir = folder.path().join("forebay-data");
    assert_eq!(sql(&data_dir, "SELECT count(*) FROM readings")[0][0], 420_768);
    for station in stations {
        let (model, naive) =
            (&station["mean_wQuantileLoss"], &station["seasonal_naive_mean_wQuantileLoss"]);
        assert!(
            model.as_f64() < naive.as_f64(),
            "{} does not beat seasonal naive: {model} {naive}",
            station["device"]
        );
    }
}

fn seconds(report: &Value) -> f64 {
    let stages = report["stages"].as_array().unwrap();
    (stages.iter().map(|stage| stage["seconds"].as_f64().unwrap()).sum::<f64>() * 10.0).round()
        / 10.0
}
