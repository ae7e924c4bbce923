//! A bucket that lies on another Forebay: readings cross over S3 while that one is killed.

use std::collections::BTreeMap;
use std::time::Duration;

use e2e::{Server, mqtt};

const COUNT: u64 = 20_000;

#[test]
fn d1_d5_a_stream_delivers_to_another_forebay_that_is_killed_in_the_middle() {
    let folder = tempfile::tempdir().unwrap();
    let mut there = Server::start(&folder.path().join("there"));
    // A stream makes its bucket.
    there.forebay(&["stream", "create", "unused", "--bucket", "archive"]);
    let told = there.forebay(&["env"]);
    let word = |name: &str| told[name].as_str().unwrap().to_owned();
    let keys = folder.path().join("keys");
    let text = format!(
        "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
        word("AWS_ACCESS_KEY_ID"),
        word("AWS_SECRET_ACCESS_KEY")
    );
    std::fs::write(&keys, text).unwrap();
    let settings = [
        format!("objects.remote.far.endpoint=http://{}", there.http),
        "objects.remote.far.allow_http=true".to_owned(),
        "objects.remote.far.bucket=archive".to_owned(),
        "objects.remote.far.prefix=plant-7".to_owned(),
        format!("objects.remote.far.credentials_file={}", keys.display()),
        "objects.remote.far.region=us-east-1".to_owned(),
    ];
    let flags: Vec<&str> = settings.iter().flat_map(|set| ["--set", set.as_str()]).collect();
    let here = Server::start_with(&folder.path().join("here"), &flags, &[]);
    let create = ["stream", "create", "readings", "--bucket", "far", "--prefix", "raw/"];
    let small = ["--interval-secs", "1", "--size-mb", "1", "--error-prefix", "errors/"];
    here.forebay(&[&create[..], &small[..]].concat());
    let sql = "SELECT * FROM 'load/+/readings'";
    here.forebay(&["rule", "create", "readings", "--sql", sql, "--stream", "readings"]);

    let publish = |first: u64| {
        let limit = Duration::from_secs(60);
        let ledger =
            mqtt::publish(here.mqtt, "device-0", "load/0/readings", first, COUNT, 100, limit);
        assert_eq!(ledger.acknowledged.len() as u64, COUNT);
    };
    publish(0);
    there.kill();
    publish(COUNT);
    let failing = || here.metric("delivery_attempts_failed_total") > 0.0;
    e2e::wait_for("a failed attempt", Duration::from_secs(30), failing);
    let streams = here.forebay(&["stream", "list"]);
    let stream = &streams["streams"][0];
    assert!(stream["attempts"].as_u64().unwrap() > 0, "{streams}");
    assert!(stream["retrying_since"].as_i64().unwrap() > 0, "{streams}");
    there.restart();
    here.forebay(&["stream", "flush", "readings"]);

    let mut found: BTreeMap<u64, u64> = BTreeMap::new();
    let archive = there.data_dir.join("lake/archive");
    for path in e2e::files_below(&archive) {
        assert!(path.starts_with(archive.join("plant-7/raw")), "{}", path.display());
        let text = std::fs::read_to_string(&path).unwrap();
        // Without a delimiter records stand next to each other.
        for value in serde_json::Deserializer::from_str(&text).into_iter::<serde_json::Value>() {
            *found.entry(value.unwrap()["seq"].as_u64().unwrap()).or_default() += 1;
        }
    }
    assert_eq!(found.len() as u64, 2 * COUNT, "lost");
    assert!(found.values().all(|times| *times == 1), "doubled");
    assert_eq!(here.metric("delivery_lag_records"), 0.0);

    // What needs files says so by name.
    let (code, why) = e2e::refusal(&here.data_dir, &["lake", "crawl", "far/raw/"]);
    assert!(why.contains("bucket \"far\" lies at http://"), "{code}: {why}");
}
