//! Rows that statements write: whole or not at all, whenever the server is killed; and the files
//! they are written to, as Athena's clients ask for them.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use e2e::aws::{Sdk, Tools, User, repository};
use e2e::{Random, Server};

const ROUNDS: usize = 5;

#[test]
fn a_statement_killed_at_any_moment_has_written_all_of_its_files_or_none() {
    let Some(tools) = Tools::find("statements that write") else { return };
    let Some(interpreter) = e2e::python("statements that write") else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(&folder.path().join("plant"));
    let user = User::new(&tools, &server, &folder.path().join("user"));
    let program = repository().join("crates/e2e/tests/py/inserts.py");
    let python = |args: &[&str]| user.python(Sdk::Today, Path::new(&program), args);
    python(&["prepare"]);
    let output = python(&["formats"]);
    assert!(output.contains("FORMATS OK"), "{output}");

    let seed = e2e::seed(0x1a5e_47ed);
    println!("seed {seed}");
    let mut random = Random(seed);
    let (mut started, mut succeeded) = (0, 0);
    for table in ["to_parquet", "to_json", "to_csv"] {
        let mut ids: Vec<String> = Vec::new();
        for _ in 0..ROUNDS {
            let mut client = user.command(&interpreter.to_string_lossy());
            client.arg(&program).args(["start", table]).stdout(Stdio::piped());
            let mut client = client.spawn().unwrap();
            let mut id = String::new();
            BufReader::new(client.stdout.take().unwrap()).read_line(&mut id).unwrap();
            std::thread::sleep(Duration::from_millis(random.below(1500)));
            server.kill();
            client.wait().unwrap();
            ids.push(id.trim().to_owned());
            server.restart();
        }
        let mut check = vec!["check", table];
        check.extend(ids.iter().map(String::as_str));
        let told: serde_json::Value =
            serde_json::from_str(python(&check).trim().lines().last().unwrap()).unwrap();
        started += ids.len();
        succeeded += told["succeeded"].as_u64().unwrap();
    }
    println!("{succeeded} of {started} statements that were killed have written their rows");
}
