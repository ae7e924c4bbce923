//! The command line's contract: exit codes, errors as JSON, and commands about live traffic.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use e2e::Server;
use e2e::mqtt::Session;
use serde_json::Value;

#[test]
fn exit_codes_and_messages_are_those_of_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let refused = |args: &[&str]| e2e::refusal(&data, args);

    assert_eq!(refused(&["fly"]).0, 2);
    assert_eq!(refused(&["demo", "--devices", "many"]).0, 2);
    let (code, message) = refused(&["serve", "--console", "127.0.0.1:0"]);
    assert!(code == 1 && message.contains("not supported yet"), "{message}");
    let (code, message) = refused(&["endpoint", "traffic", "air", "a=many"]);
    assert!(code == 2 && message.contains("a=many"), "{message}");
    for args in [
        &["job", "run", "nowhere"][..],
        &["stream", "flush", "nowhere"],
        &["rule", "disable", "nowhere"],
        &["device", "revoke", "nobody"],
        &["endpoint", "delete", "nowhere"],
        &["endpoint", "traffic", "nowhere", "a=90", "b=10"],
        &["endpoint", "rollback", "nowhere"],
    ] {
        let (code, message) = refused(args);
        assert_eq!(code, 3, "{args:?}: {message}");
    }
    let kit = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    e2e::forebay(&data, &["device", "add", "roof-1", "--kit", &kit("a")]);
    let (code, message) = refused(&["device", "add", "roof-1", "--kit", &kit("b")]);
    assert_eq!(code, 5, "{message}");
    assert!(message.contains("roof-1"), "{message}");
    assert!(!folder.path().join("b").exists(), "a refused device left a kit");
    let (code, message) = refused(&["topic", "publish", "a/b", "{}"]);
    assert_eq!(code, 6, "{message}");
    assert!(message.contains("forebay serve"), "no way out is named: {message}");
}

#[test]
fn a_bad_rule_is_refused_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    e2e::forebay(folder.path(), &["stream", "create", "s"]);
    for (sql, place) in [
        ("SELECT * FROM 'a' WHERE nonsense(1) = 2", "nonsense"),
        ("SELECT ozone, FROM 'a'", "column"),
        ("SELECT * FROM a", "column"),
        ("", ""),
    ] {
        let (code, message) =
            e2e::refusal(folder.path(), &["rule", "create", "r", "--sql", sql, "--stream", "s"]);
        assert_eq!(code, 1, "{sql}: {message}");
        assert!(message.contains(place), "{sql}: {message}");
    }
    let (code, _) = e2e::refusal(
        folder.path(),
        &["rule", "create", "r", "--sql", "SELECT * FROM 'a'", "--stream", "no"],
    );
    assert_eq!(code, 3);
    assert_eq!(e2e::forebay(folder.path(), &["rule", "list"])["rules"], Value::Array(Vec::new()));
}

#[test]
fn without_json_data_is_on_stdout_and_errors_on_stderr() {
    let folder = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| {
        e2e::run_command(
            Command::new(e2e::binary()).args(args).arg("--data-dir").arg(folder.path()),
        )
    };
    let output = run(&["job", "run", "nowhere"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(
        output.stdout.is_empty() && String::from_utf8_lossy(&output.stderr).contains("nowhere")
    );
    let output = run(&["stream", "create", "s"]);
    assert!(
        output.status.success() && output.stderr.is_empty() && !output.stdout.is_empty(),
        "{output:?}"
    );
}

#[test]
fn published_messages_are_tailed_tried_and_ruled() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let mut tail = Command::new(e2e::binary())
        .args(["topic", "tail", "air/+/readings", "-n", "2", "--json", "--data-dir"])
        .arg(folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    // The tail is attached at some moment; readings go on until it has seen its two.
    let mut session = Session::plain(server.mqtt, "roof-1").unwrap();
    let mut sent = 0;
    e2e::wait_for("the tail's two messages", Duration::from_secs(20), || {
        session.publish("other/topic", b"{}").unwrap();
        session.publish("air/roof-1/readings", format!(r#"{{"seq":{sent}}}"#).as_bytes()).unwrap();
        sent += 1;
        tail.try_wait().unwrap().is_some()
    });
    assert!(tail.wait().unwrap().success());
    let lines: Vec<String> =
        BufReader::new(tail.stdout.take().unwrap()).lines().map(Result::unwrap).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in lines {
        let message: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(message["topic"], "air/roof-1/readings");
        assert_eq!(message["client_id"], "roof-1");
        assert!(message["payload"].as_str().unwrap().starts_with(r#"{"seq":"#));
    }

    // Beside the readings the log has the event of the session's connecting.
    let before = server.metric("journal_durable_offset") as u64;
    assert!(before >= 2 * sent, "{before} messages in the log, {} published", 2 * sent);
    let answer = server.forebay(&["topic", "publish", "air/roof-2/readings", r#"{"seq":1000}"#]);
    assert_eq!(answer["offset"], before, "the offset is the message's place in the log");
    server.forebay(&["topic", "publish", "air/roof-2/readings", "no json"]);
    let sql = "SELECT seq FROM 'air/+/readings' WHERE seq >= 1000";
    let tried = server.forebay(&["rule", "try", "--sql", sql, "--last", "100000"]);
    assert_eq!(tried["passed"], 1, "{tried}");
    assert_eq!(tried["failed"], 1, "{tried}");
    assert_eq!(tried["no_match"], before, "{tried}");
    let passed =
        tried["results"].as_array().unwrap().iter().find(|row| row["outcome"] == "pass").unwrap();
    assert_eq!(passed["output"], r#"{"seq":1000}"#);
}

#[test]
fn a_disabled_rule_stops_delivery_and_an_enabled_one_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    server.forebay(&["stream", "create", "s", "--prefix", "raw/s/", "--interval-secs", "1"]);
    server.forebay(&["rule", "create", "r", "--sql", "SELECT * FROM 'air/#'", "--stream", "s"]);
    let mut session = Session::plain(server.mqtt, "roof-1").unwrap();
    let mut publish =
        |seq: u64| session.publish("air/1", format!(r#"{{"seq":{seq}}}"#).as_bytes()).unwrap();
    publish(1);
    server.forebay(&["rule", "disable", "r"]);
    publish(2);
    server.forebay(&["rule", "enable", "r"]);
    publish(3);
    server.forebay(&["rule", "delete", "r"]);
    publish(4);
    server.forebay(&["stream", "flush", "s"]);
    let files = e2e::files_below(&folder.path().join("lake/lake/raw/s"));
    let delivered: String =
        files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect();
    assert_eq!(delivered, "{\"seq\":1}\n{\"seq\":3}\n");
}

#[test]
fn why_message_tells_every_stage_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let server = Server::start(&data);
    server.forebay(&["stream", "create", "air", "--error-prefix", "bad/", "--interval-secs", "1"]);
    let rule = |name: &str, sql: &str| {
        server.forebay(&["rule", "create", name, "--sql", sql, "--stream", "air"]);
    };
    rule("high", "SELECT station, ozone * 2 AS twice FROM 'air/+' WHERE ozone > 100 AND ok");
    rule("water", "SELECT * FROM 'water/#'");
    rule("off", "SELECT * FROM 'air/#'");
    server.forebay(&["rule", "disable", "off"]);
    let ours = [
        "{\"station\":\"a\",\"ozone\":42,\"ok\":true}",
        "{\"station\":\"b\",\"ozone\":142,\"ok\":true}",
        "{\"station\":",
    ];
    let publish = |payload| server.forebay(&["topic", "publish", "air/roof", payload]);
    let ours = ours.map(|payload| publish(payload)["offset"].to_string());
    server.forebay(&["stream", "flush", "air"]);
    let why = |offset: &str| server.forebay(&["why", "message", offset]);
    let found = |why: &Value, rule: &str| {
        let mut rules = why["rules"].as_array().unwrap().iter();
        rules.find(|found| found["rule"] == rule).unwrap_or_else(|| panic!("{why}")).clone()
    };
    let low = why(&ours[0]);
    let high = found(&low, "high");
    assert_eq!(high["decision"], "where_not_true", "{low}");
    assert_eq!(high["terms"][0]["term"], "ozone > 100");
    assert_eq!(high["terms"][0]["saw"][0][1], "42 (a number)");
    assert_eq!(high["terms"].as_array().unwrap().len(), 1);
    assert_eq!(found(&low, "water")["why"], "topic \"air/roof\" does not match FROM \"water/#\"");
    assert_eq!(found(&low, "off")["decision"], "disabled");
    assert_eq!(low["streams"], serde_json::json!([]));
    let taken = why(&ours[1]);
    assert_eq!(found(&taken, "high")["output"], "{\"station\":\"b\",\"twice\":284}");
    let stream = &taken["streams"][0];
    assert_eq!((&stream["state"], &stream["records"]), (&"delivered".into(), &1.into()), "{taken}");
    let object = stream["objects"][0].as_str().unwrap();
    let path = data.join(object.replace("s3:/", "lake"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|_| panic!("{object}"));
    assert!(text.contains("\"twice\":284"), "{object}: {text}");
    let broken = why(&ours[2]);
    assert_eq!(found(&broken, "high")["decision"], "failed");
    let stream = &broken["streams"][0];
    let why_aside = stream["set_aside"][0].as_str().unwrap();
    assert!(why_aside.starts_with("Rule.EvaluationFailed: the payload is not JSON"), "{broken}");
    assert!(stream["objects"][0].as_str().unwrap().contains("/bad/processing-failed/"), "{broken}");
    // As people read it.
    let mut command = Command::new(e2e::binary());
    command.args(["why", "message", &ours[0], "--data-dir"]).arg(&data);
    let text = e2e::run_command(&mut command);
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    let line = "  ozone > 100 was false; ozone was 42 (a number)";
    assert!(text.contains(line) && text.ends_with("no stream took it\n"), "{text}");
    let (code, message) = e2e::refusal(&data, &["why", "message", "999999"]);
    assert_eq!(code, 3, "{message}");
    assert!(message.contains("the next one will be message"), "{message}");
    let (_, message) = e2e::refusal(&data, &["why", "message", "soon"]);
    assert!(message.contains("give its offset"), "{message}");
}
