//! Foreign MQTT clients: paho (3.1.1 and 5) and mosquitto's own, in all qualities of service.

use std::process::Command;

use e2e::Server;

/// Publishes in each quality of service from one client to another that subscribes in each,
/// and checks payloads, order, the lower of the two qualities, and wildcards. Prints the count.
const PAHO: &str = include_str!("paho.py");

fn paho(version: &str) {
    let Some(python) = e2e::python("paho") else { return };
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let port = server.mqtt.port().to_string();
    assert_eq!(e2e::run_python(&python, PAHO, &[&port, version]).trim(), "60");
}

#[test]
fn paho_3_1_1_publishes_and_subscribes_in_every_quality() {
    paho("3.1.1");
}

#[test]
fn paho_5_publishes_and_subscribes_in_every_quality() {
    paho("5");
}

/// The files of a kit are enough for a client that knows nothing of Forebay.
#[test]
fn mosquitto_clients_work_plain_and_with_a_kit() {
    let found = |program: &str| Command::new(program).arg("--help").output().is_ok();
    if !found("mosquitto_pub") || !found("mosquitto_sub") {
        return e2e::skip("mosquitto's clients are not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("data"));
    let kit = folder.path().join("kit");
    let port = server.mqtts.port().to_string();
    server.forebay(&["device", "add", "roof-1", "--kit", &kit.to_string_lossy(), "--port", &port]);
    let file = |ending: &str| e2e::mqtt::file_ending(&kit, ending).to_string_lossy().into_owned();
    let secure = [
        "-h".to_owned(),
        "localhost".to_owned(),
        "-p".to_owned(),
        port,
        "--cafile".to_owned(),
        file("root-CA.crt"),
        "--cert".to_owned(),
        file(".cert.pem"),
        "--key".to_owned(),
        file(".private.key"),
    ];
    let plain =
        ["-h".to_owned(), "127.0.0.1".to_owned(), "-p".to_owned(), server.mqtt.port().to_string()];
    for version in ["mqttv311", "mqttv5"] {
        for qos in ["0", "1", "2"] {
            let topic = format!("air/{version}/{qos}");
            let mut subscriber = Command::new("mosquitto_sub")
                .args(&plain)
                .args([
                    "-V", version, "-q", qos, "-t", &topic, "-C", "1", "-W", "15", "-F", "%q %p",
                ])
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            e2e::wait_for(
                "the subscriber to get its message",
                std::time::Duration::from_secs(15),
                || {
                    let sent = Command::new("mosquitto_pub")
                        .args(&secure)
                        .args([
                            "-V", version, "-i", "roof-1", "-q", qos, "-t", &topic, "-m", "hello",
                        ])
                        .output()
                        .unwrap();
                    assert!(
                        sent.status.success(),
                        "{version} {qos}: {}",
                        String::from_utf8_lossy(&sent.stderr)
                    );
                    subscriber.try_wait().unwrap().is_some()
                },
            );
            let output = subscriber.wait_with_output().unwrap();
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), format!("{qos} hello"));
        }
    }
}
