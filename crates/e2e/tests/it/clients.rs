//! Foreign MQTT clients: paho (3.1.1 and 5) and mosquitto's own, in all qualities of service.

use std::process::Command;

use e2e::Server;

/// Publishes in each quality of service from one client to another that subscribes in each,
/// and checks payloads, order, the lower of the two qualities, and wildcards. Prints the count.
const PAHO: &str = include_str!("paho.py");

fn paho(version: &str, transport: &str) {
    let Some(python) = e2e::python("paho") else { return };
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(folder.path());
    let address = if transport == "websockets" { server.mqtt_ws } else { server.mqtt };
    let port = address.port().to_string();
    assert_eq!(e2e::run_python(&python, PAHO, &[&port, version, transport]).trim(), "60");
}

#[test]
fn paho_3_1_1_publishes_and_subscribes_in_every_quality() {
    paho("3.1.1", "tcp");
}

#[test]
fn paho_5_publishes_and_subscribes_in_every_quality() {
    paho("5", "tcp");
}

#[test]
fn paho_publishes_and_subscribes_over_websocket() {
    paho("3.1.1", "websockets");
    paho("5", "websockets");
}

/// Over TLS, with the certificate of a kit or with none: prints the CONNACK's reason code, and
/// the PUBACK's.
const SECURE: &str = r#"
import sys, threading
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
port, root, name, *kit = sys.argv[1:]
c = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5, transport="websockets")
c.tls_set(root, *kit)
said, done = [], threading.Event()
c.on_connect = lambda c, u, flags, reason, p: (said.append(reason.value), done.set())
c.on_publish = lambda c, u, mid, reason, p: (said.append(reason.value), done.set())
c.on_connect_fail = lambda *a: (said.append("closed"), done.set())
kept = Properties(PacketTypes.CONNECT)
kept.SessionExpiryInterval = 300
c.connect("localhost", int(port), keepalive=30, properties=kept)
c.loop_start()
assert done.wait(10), "no answer"
if said == [0]:
    done.clear()
    c.publish("air/roof-1", b"{}", qos=1)
    assert done.wait(10), "no PUBACK"
print(*said)
"#;

#[test]
fn paho_over_secure_websocket_is_known_by_its_certificate() {
    let Some(python) = e2e::python("paho") else { return };
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--mqtt-anonymous-policy", "none"];
    let server = Server::start_with(&folder.path().join("data"), &flags, &[]);
    let kit = folder.path().join("kit");
    let port = server.mqtt_ws.port().to_string();
    server.forebay(&["device", "add", "roof-1", "--kit", &kit.to_string_lossy()]);
    let file = |ending: &str| e2e::mqtt::file_ending(&kit, ending).to_string_lossy().into_owned();
    let (root, certificate, key) = (file("root-CA.crt"), file(".cert.pem"), file(".private.key"));
    let with_kit = [&port, &root, "roof-1", &certificate, &key];
    assert_eq!(e2e::run_python(&python, SECURE, &with_kit).trim(), "0 0");
    let told = server.forebay(&["why", "client", "roof-1"]);
    let principal = told["session"]["principal"].as_str().unwrap_or_default().to_owned();
    assert_eq!(principal.len(), 64, "known by its certificate: {told}");
    // Whoever shows none is anonymous, and here nobody may be.
    let without = [port.as_str(), &root, "roof-2"];
    assert_eq!(e2e::run_python(&python, SECURE, &without).trim(), "135");
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
