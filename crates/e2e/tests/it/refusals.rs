//! What an endpoint refuses, by AWS's own client: each in the words of the service, while the
//! endpoint goes on.

use std::process::Command;

use e2e::Server;
use e2e::aws::{Sdk, Tools, User, repository};

#[test]
fn an_endpoint_refuses_what_is_wrong_and_goes_on() {
    let Some(tools) = Tools::find("what an endpoint refuses") else { return };
    let folder = tempfile::tempdir().unwrap();
    let target: Vec<String> = (0..480).map(|hour| (hour % 24).to_string()).collect();
    let series = format!("{{\"start\":\"2024-01-01\",\"target\":[{}]}}\n", target.join(","));
    std::fs::write(folder.path().join("train.json"), series).unwrap();
    let trained = e2e::run_command(
        Command::new(e2e::binary())
            .current_dir(folder.path())
            .args(["train", "--train", "train.json", "--model", "model.tar.gz"])
            .args(["--algorithm", "seasonal-naive", "--hyperparameters"])
            .args(["time_freq=H", "prediction_length=24"]),
    );
    assert!(trained.status.success(), "{}", String::from_utf8_lossy(&trained.stderr));
    let server = Server::start(&folder.path().join("plant"));
    let user = User::new(&tools, &server, &folder.path().join("user"));
    let program = repository().join("crates/e2e/tests/py/endpoint_refusals.py");
    let archive = folder.path().join("model.tar.gz");
    let output = user.python(Sdk::Today, &program, &[&archive.to_string_lossy()]);
    assert!(output.contains("the endpoint went on"), "{output}");
}
