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
    for args in [
        &["why", "message", "1"][..],
        &["endpoint", "traffic", "air", "a=90", "b=10"],
        &["endpoint", "rollback", "air"],
        &["bench", "delivery"],
        &["bench", "etl"],
        &["bench", "train"],
        &["serve", "--console", "127.0.0.1:0"],
    ] {
        let (code, message) = refused(args);
        assert_eq!(code, 1, "{args:?}: {message}");
        assert!(message.contains("not supported yet"), "{args:?}: {message}");
    }
    for args in [
        &["job", "run", "nowhere"][..],
        &["stream", "flush", "nowhere"],
        &["rule", "disable", "nowhere"],
        &["device", "revoke", "nobody"],
        &["endpoint", "delete", "nowhere"],
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
