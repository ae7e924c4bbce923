//! Trainings on more values than they may have memory: the kernel refuses what goes beyond.

use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

/// Writes `series` hourly series of a million values with their day, and a gap each; returns the
/// bytes that the values have as floats.
fn write(path: &Path, series: usize) -> usize {
    const POINTS: usize = 1_000_000;
    let mut day = String::new();
    for hour in 0..24 {
        let missing = if hour == 13 { "null".to_owned() } else { (hour * 3 % 17).to_string() };
        day.push_str(&missing);
        day.push(',');
    }
    let mut out = BufWriter::new(std::fs::File::create(path).unwrap());
    for k in 0..series {
        write!(out, "{{\"start\":\"1990-01-01\",\"item_id\":\"{k}\",\"target\":[").unwrap();
        for _ in 0..POINTS / 24 {
            out.write_all(day.as_bytes()).unwrap();
        }
        writeln!(out, "{k}]}}").unwrap();
    }
    out.flush().unwrap();
    series * POINTS * 4
}

/// Trains and scores on `series` million values in `kib` of private memory that can be written
/// to (RLIMIT_DATA: heap, stacks, anonymous mappings; a mapped file is none of them).
fn train(folder: &Path, series: usize, kib: usize, limit: Duration) -> Value {
    let data = folder.join("data.jsonl");
    let bytes = write(&data, series);
    assert!(bytes / 1024 > kib, "{bytes} bytes would fit into {kib} KiB");
    let mut command = Command::new("sh");
    let limited = format!("ulimit -d {kib} && exec \"$@\"");
    command.args(["-c", &limited, "sh"]).arg(e2e::binary()).args(["train", "--json"]);
    command.arg("--train").arg(&data).arg("--test").arg(&data);
    command.arg("--model").arg(folder.join("out/model.tar.gz"));
    command.args(["--seed", "1", "--threads", "2", "--hyperparameters"]);
    command.args(["time_freq=H", "context_length=24", "prediction_length=24", "epochs=2"]);
    command.args(["windows_per_epoch=1600", "mini_batch_size=32", "num_cells=16"]);
    command.args(["num_eval_samples=20"]);
    let output = e2e::run_within(&mut command, limit);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    // Nothing is left beside the model.
    assert_eq!(std::fs::read_dir(folder.join("out")).unwrap().count(), 1);
    serde_json::from_str(&text).unwrap()
}

#[test]
fn a_training_on_more_values_than_memory_trains_and_scores() {
    let folder = tempfile::tempdir().unwrap();
    // 160 MB of values for either channel.
    let result = train(folder.path(), 40, 150_000, Duration::from_secs(240));
    assert_eq!(result["test"]["model"]["windows"], 40, "{result}");
    assert_eq!(result["windows"], 3200, "{result}");
}

#[test]
#[ignore = "long: 1 GB of values for either channel"]
fn e1_long_a_gigabyte_of_values_trains_in_200_megabytes() {
    let folder = tempfile::tempdir().unwrap();
    let result = train(folder.path(), 250, 195_000, Duration::from_secs(1200));
    println!("1 GB of values in 200 MB: {result}");
    assert_eq!(result["test"]["model"]["windows"], 250, "{result}");
}
