//! `forebay rule try`: a statement on what the log holds, before and after.

use std::path::Path;
use std::process::Command;

use e2e::Server;
use e2e::mqtt::Session;
use serde_json::{Value, json};

const SQL: &str = "SELECT station, ozone FROM 'air/+/readings' WHERE ozone > 40 AND valid = true";

fn outcome<'r>(tried: &'r Value, outcome: &str) -> Vec<&'r Value> {
    let rows = tried["results"].as_array().unwrap().iter();
    rows.filter(|row| row["outcome"] == outcome).collect()
}

/// What a person sees.
fn shown(data_dir: &Path, sql: &str) -> String {
    let mut command = Command::new(e2e::binary());
    command.args(["rule", "try", "--sql", sql, "--data-dir"]).arg(data_dir);
    let output = e2e::run_command(&mut command);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_statement_is_tried_on_the_log_with_before_after_and_the_term_that_decided() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path());
    let mut session = Session::plain(server.mqtt, "roof-1").unwrap();
    let passing = r#"{"station":"roof","ozone":41.5,"valid":true,"note":"not selected"}"#;
    for payload in [
        passing,
        r#"{"station":"roof","ozone":12,"valid":true}"#,
        r#"{"station":"roof","ozone":99}"#,
        "no json \u{1b}[2J",
    ] {
        session.publish("air/roof/readings", payload.as_bytes()).unwrap();
    }
    session.publish("elsewhere", b"{}").unwrap();

    let try_it = ["rule", "try", "--sql", SQL, "--last", "5"];
    let tried = server.forebay(&try_it);
    let counts = ["tried", "passed", "no_match", "not_selected", "failed", "left_out"];
    assert_eq!(counts.map(|key| tried[key].clone()), [5, 1, 3, 1, 1, 0].map(|n| json!(n)));
    let passed = outcome(&tried, "pass");
    assert_eq!(passed[0]["payload"], passing);
    assert_eq!(passed[0]["output"], r#"{"station":"roof","ozone":41.5}"#);
    // Of AND only what was not true, each with what it looked at.
    let terms: Vec<&Value> = outcome(&tried, "no_match").iter().map(|row| &row["terms"]).collect();
    assert_eq!(terms[0][0]["term"], "ozone > 40");
    assert_eq!(terms[0][0]["value"], "false");
    assert_eq!(terms[0][0]["saw"][0], json!(["ozone", "12 (a number)"]));
    assert_eq!(terms[0].as_array().unwrap().len(), 1, "{tried}");
    assert_eq!(terms[1][0]["term"], "valid = true");
    let failed = outcome(&tried, "failed");
    assert!(failed[0]["reason"].as_str().unwrap().contains("not JSON"), "{tried}");

    // Side by side for a person, without anything that steers the terminal.
    let text = shown(folder.path(), SQL);
    assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    assert!(text.contains(r#" | {"station":"roof","ozone":41.5}"#), "{text}");
    assert!(text.contains(" | ozone > 40 was false; ozone was 12 (a number)"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert!(text.contains("1 passed") && text.contains("1 failed"), "{text}");

    // What cannot be: the place of a mistake, and a number that means nothing.
    let broken = ["rule", "try", "--sql", "SELECT ozone FRUM 'air/#'"];
    let (code, message) = e2e::refusal(folder.path(), &broken);
    assert_ne!(code, 0);
    assert!(message.contains("line 1") && message.contains("FRUM"), "no place: {message}");
    for last in ["0", "1000001"] {
        let output = e2e::run(folder.path(), &["rule", "try", "--sql", SQL, "--last", last]);
        assert!(!output.status.success(), "--last {last} was taken");
    }

    // The same without a server, on the log as it lies there.
    server.stop();
    let alone = e2e::forebay(folder.path(), &["rule", "try", "--sql", SQL]);
    assert_eq!(alone["passed"], 1, "{alone}");
    assert_eq!(outcome(&alone, "no_match").len(), 2, "{alone}");
}
