//! `forebay bench delivery` and `forebay bench etl`: figures are of work that was done.

use std::time::Duration;

const LOADS: [&str; 4] = ["json", "gzip", "parquet", "partitioned"];

fn run(flags: &[&str], limit: Duration) -> serde_json::Value {
    let mut command = std::process::Command::new(e2e::binary());
    command.args(["bench", "delivery", "--json"]).args(flags);
    let output = e2e::run_within(&mut command, limit);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text).unwrap()
}

#[test]
fn the_bench_of_delivery_measures_every_load() {
    let figures = run(&["--seconds", "3", "--size-mb", "1"], Duration::from_secs(180));
    for load in LOADS {
        let of = |member: &str| figures[load][member].as_f64().unwrap();
        for member in ["seconds", "payload_bytes", "records", "objects", "object_bytes"] {
            assert!(of(member) > 0.0, "{load} {member}: {figures}");
        }
        let rate = of("payload_bytes") / 1e6 / of("cpu_seconds").max(0.01);
        assert!((of("payload_mb_per_cpu_second") - rate).abs() < rate / 100.0, "{load}: {figures}");
        assert!(of("rss_bytes_max") >= of("rss_bytes_end"), "{load}: {figures}");
    }
    let packed = |load: &str| {
        let of = |member: &str| figures[load][member].as_f64().unwrap();
        of("object_bytes") / of("payload_bytes")
    };
    // A line each, and a batch in which little is missing at either end.
    assert!((0.7..1.5).contains(&packed("json")), "{figures}");
    assert!(packed("gzip") < 0.6 && packed("parquet") < 0.8, "{figures}");
}

#[test]
fn a_bench_whose_records_do_not_arrive_is_no_bench() {
    let mut command = std::process::Command::new(e2e::binary());
    let sql = "SELECT * FROM 'air/+/readings' WHERE seq < 0";
    command.args(["bench", "delivery", "--json", "--seconds", "2", "--load", "json", "--sql", sql]);
    let output = e2e::run_command(&mut command);
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
#[ignore = "long: ten minutes of each of two loads"]
fn d1_long_delivery_keeps_its_memory_flat_over_ten_minutes() {
    for load in ["json", "parquet"] {
        let flags = ["--seconds", "600", "--load", load];
        let figures = run(&flags, Duration::from_secs(900));
        println!("{load} over ten minutes: {figures}");
        let of = |member: &str| figures[load][member].as_f64().unwrap();
        let mebibyte = f64::from(1 << 20);
        assert!(of("rss_bytes_end") < of("rss_bytes_start") + 8.0 * mebibyte, "{figures}");
        assert!(of("rss_bytes_per_minute") < mebibyte, "{figures}");
    }
}

#[test]
fn the_bench_of_etl_converts_asks_and_agrees_with_duckdb() {
    let mut command = std::process::Command::new(e2e::binary());
    command.args(["bench", "etl", "--json", "--bytes", "5000000", "--rounds", "1"]);
    command.args(["--repetitions", "2", "--without", "polars", "--without", "pyspark"]);
    let python = e2e::python("the bench of ETL beside DuckDB");
    let peers = python.as_ref().map(|python| python.to_str().unwrap());
    command.env_remove("FOREBAY_TEST_TOOLS");
    command.args(peers.iter().flat_map(|python| ["--peers", python]));
    let output = e2e::run_within(&mut command, Duration::from_secs(180));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let figures: serde_json::Value = serde_json::from_str(&text).unwrap();
    let bytes = figures["readings"]["bytes"].as_f64().unwrap();
    assert!((4e6..6e6).contains(&bytes), "{figures}");
    let tools = if peers.is_some() { &["forebay", "duckdb"][..] } else { &["forebay"] };
    for tool in tools {
        let of = |member: &str| figures["convert"][tool][member].as_f64().unwrap();
        for member in ["cpu_seconds", "mb_per_cpu_second", "out_bytes", "peak_rss_bytes"] {
            assert!(of(member) > 0.0, "{tool} {member}: {figures}");
        }
        assert!((24.0..=25.0).contains(&of("files")), "{figures}");
        assert!(of("start_cpu_seconds") < of("cpu_seconds") + 0.02, "{figures}");
        assert!(of("out_bytes") < bytes / 5.0, "{figures}");
    }
    let queries = figures["queries"].as_object().unwrap();
    assert_eq!(queries.len(), 5);
    for (name, query) in queries {
        assert!(query["rows"].as_f64().unwrap() > 0.0, "{name}: {figures}");
        assert_eq!(query["ratio"].is_null(), peers.is_none(), "{name}: {figures}");
    }
    if peers.is_none() {
        let why = figures["convert"]["duckdb"]["absent"].as_str().unwrap();
        assert!(why.contains("--peers"), "{why}");
    }
}

#[test]
fn the_bench_of_the_lake_measures_every_step() {
    let mut command = std::process::Command::new(e2e::binary());
    command.args(["bench", "lake", "--json", "--objects", "300", "--bytes", "3000000"]);
    command.env_remove("FOREBAY_DATA_DIR");
    let output = e2e::run_within(&mut command, Duration::from_secs(120));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let figures: serde_json::Value = serde_json::from_str(&text).unwrap();
    for step in ["crawl", "crawl_again", "query_raw", "convert", "query_parquet"] {
        assert!(figures["steps"][step]["rss_bytes_max"].as_f64().unwrap() > 0.0, "{step}: {text}");
    }
    assert!(figures["records"].as_u64().unwrap() > 10_000, "{text}");
    let scanned = |step: &str| figures["steps"][step]["bytes_scanned"].as_u64().unwrap();
    assert_eq!(scanned("query_raw"), figures["bytes"].as_u64().unwrap());
    assert!(scanned("query_raw_hour") < scanned("query_raw") / 2, "{text}");
    assert!(scanned("query_parquet") < scanned("query_raw") / 2, "{text}");
}

/// Beside a set made for it and without the peer: that every part measures, not how fast.
#[test]
fn the_bench_of_training_measures_every_part() {
    let mut command = std::process::Command::new(e2e::binary());
    command.args(["bench", "train", "--json", "--without-peers", "--seeds", "1,2"]);
    command.args(["--epochs", "1", "--rounds", "1", "--windows", "2"]);
    command.args(["--requests", "5", "--bulk", "30"]);
    let output = e2e::run_within(&mut command, Duration::from_secs(240));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let figures: serde_json::Value = serde_json::from_str(&text).unwrap();
    let positive = |part: &serde_json::Value, members: &[&str]| {
        for member in members {
            assert!(part[member].as_f64().unwrap_or(0.0) > 0.0, "{member}: {figures}");
        }
    };
    positive(&figures["core"], &["fma_gflops", "gemm_gflops", "two_threads_fma"]);
    let ours = &figures["training"]["forebay"];
    positive(ours, &["windows_per_cpu_second", "share_of_fma", "share_of_gemm", "cpu_seconds"]);
    positive(ours, &["peak_rss_bytes"]);
    positive(&ours["two_threads"], &["speed_up", "windows_per_cpu_second"]);
    for tool in ["forebay", "seasonal_naive"] {
        positive(&figures["accuracy"][tool]["mean"], &["mean_w_quantile_loss", "mase"]);
    }
    assert_eq!(figures["accuracy"]["forebay"]["seeds"].as_array().unwrap().len(), 2);
    // 47 steps of three layers of 40 cells over 45 inputs.
    assert_eq!(figures["flops_per_window"].as_f64(), Some(10_377_600.0));
    let inference = &figures["inference"]["forebay"];
    positive(inference, &["cold_wall_ms", "series_per_cpu_second"]);
    positive(&inference["one"], &["p50_ms"]);
    assert_eq!(inference["series"], 30);
    for part in [&figures["training"]["gluonts"], &figures["inference"]["gluonts"]] {
        assert!(part["absent"].as_str().unwrap().contains("--without-peers"), "{figures}");
    }
    let bars = figures["bars"].as_array().unwrap();
    let unmeasured: Vec<_> = bars.iter().filter(|bar| bar["met"].is_null()).collect();
    assert_eq!((bars.len(), unmeasured.len()), (7, 1), "{figures}");
}

#[test]
fn the_bench_of_inference_asks_a_model_that_is_named_or_made() {
    let run = |args: &[&str]| {
        let mut command = std::process::Command::new(e2e::binary());
        command.args(["bench", "infer", "--json", "--requests", "5"]).args(args);
        let output = e2e::run_within(&mut command, Duration::from_secs(120));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), serde_json::from_str(&text).unwrap_or_default(), said)
    };
    let (ok, figures, said): (_, serde_json::Value, _) =
        run(&["--without-peers", "--bulk", "20", "--num-samples", "10"]);
    assert!(ok && figures["forebay"]["one"]["p50_ms"].as_f64() > Some(0.0), "{figures} {said}");
    assert_eq!(figures["bars"].as_array().unwrap().len(), 3);
    let (ok, refused, _) = run(&["--model", "m.tar.gz"]);
    assert!(!ok && refused["error"]["message"].to_string().contains("--input"), "{refused}");
}

#[test]
fn the_bench_of_endpoints_asks_by_every_route() {
    let mut command = std::process::Command::new(e2e::binary());
    command.args(["bench", "serve", "--json", "--without-peers", "--seconds", "1"]);
    command.args(["--clients", "1,4", "--points", "1000", "--num-samples", "20"]);
    let output = e2e::run_within(&mut command, Duration::from_secs(240));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let figures: serde_json::Value = serde_json::from_str(&text).unwrap();
    for route in ["aws", "token", "plain"] {
        for clients in ["1", "4"] {
            let found = &figures["forebay"][route]["loads"][clients];
            let of = |member: &str| found[member].as_f64().unwrap();
            assert!(of("requests") > 10.0 && of("per_second") > 10.0, "{route}: {found}");
            assert!(of("p50_ms") > 0.0 && of("p50_ms") <= of("p99_ms"), "{route}: {found}");
            let rate = of("requests") / of("cpu_seconds").max(0.01);
            assert!((of("per_cpu_second") - rate).abs() < rate / 100.0, "{route}: {found}");
        }
        assert!(figures["overhead"][route]["p50_ms"].is_number(), "{figures}");
    }
    assert!(figures["overhead"]["bare_p50_ms"].as_f64().unwrap() > 0.0, "{figures}");
    assert!(figures["forebay"]["peak_rss_bytes"].as_u64().unwrap() > 10_000_000, "{figures}");
    assert!(figures["gluonts"]["absent"].is_string(), "{figures}");
    // Nothing is said to be met that was not measured.
    let bars = figures["bars"].as_array().unwrap();
    let ratios = bars.iter().filter(|bar| bar["name"].as_str().unwrap().contains("GluonTS"));
    assert_eq!(ratios.filter(|bar| bar["met"].is_null()).count(), 4, "{figures}");
}
