//! The folder a device gets.

use base::ErrorKind;
use identity::Endpoint;
use serde_json::Value;

use crate::world;

#[test]
fn the_kit_is_the_folder_that_aws_hands_out() {
    let world = world();
    let kit = world.registry.add_device("station-1").unwrap();
    let folder = world.folder.path().join("kits/station-1");
    kit.write(&folder, &Endpoint::new("forebay.example", 8883)).unwrap();

    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(
        names,
        [
            "root-CA.crt",
            "sample.js",
            "start.sh",
            "station-1-Policy",
            "station-1.cert.pem",
            "station-1.private.key",
            "station-1.public.key",
        ]
    );
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    assert_eq!(read("root-CA.crt"), world.authority.root_pem());
    assert_eq!(read("station-1.cert.pem"), kit.certificate.pem);
    assert!(read("station-1.private.key").starts_with("-----BEGIN PRIVATE KEY-----"));
    assert!(read("station-1.public.key").starts_with("-----BEGIN PUBLIC KEY-----"));

    let script = read("start.sh");
    let command = script.lines().last().unwrap();
    let start = "node node_modules/aws-iot-device-sdk/examples/device-example.js \
                 --host-name=forebay.example --private-key=station-1.private.key \
                 --client-certificate=station-1.cert.pem --ca-certificate=root-CA.crt \
                 --client-id=sdk-nodejs-";
    assert!(command.starts_with(start), "{command}");
    assert_eq!(command.len(), start.len() + 36, "a uuid ends it");
}

#[test]
fn another_port_is_named() {
    let world = world();
    let kit = world.registry.add_device("d").unwrap();
    let files = kit.files(&Endpoint::new("127.0.0.1", 18883)).unwrap();
    let script = files.iter().find(|file| file.name == "start.sh").unwrap();
    assert!(script.text.expose().contains("--host-name=127.0.0.1 --port=18883 "));
}

#[test]
fn the_policy_is_attached_and_allows_the_devices_client_ids_and_topics() {
    let world = world();
    let kit = world.registry.add_device("d7").unwrap();
    let files = kit.files(&Endpoint::new("localhost", 8883)).unwrap();
    let text = files.iter().find(|file| file.name == "d7-Policy").unwrap().text.expose().to_owned();
    let attached = world.registry.policies().attached_documents(&kit.certificate.certificate_id);
    assert_eq!((&*attached[0].policy, &*attached[0].document), ("d7-Policy", text.as_str()));
    let policy: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(policy["Version"], "2012-10-17");
    let says = |effect: &str, action: &str, resource: &str| {
        policy["Statement"].as_array().unwrap().iter().any(|statement| {
            let has = |key: &str, what: &str| {
                statement[key].as_array().unwrap().iter().any(|entry| entry == what)
            };
            statement["Effect"] == effect
                && has("Action", action)
                && has("Resource", &format!("arn:aws:iot:*:*:{resource}"))
        })
    };
    for client in ["d7", "d7-*", "sdk-nodejs-*", "${iot:Connection.Thing.ThingName}"] {
        assert!(says("Allow", "iot:Connect", &format!("client/{client}")), "{client}");
    }
    assert!(says("Allow", "iot:Publish", "topic/*"));
    assert!(says("Allow", "iot:Receive", "topic/*"));
    assert!(says("Allow", "iot:Subscribe", "topicfilter/*"));
    assert!(says("Deny", "iot:Publish", "topic/$aws/*"));
    assert!(says("Deny", "iot:Subscribe", "topicfilter/$aws/*"));
    let compact = serde_json::to_string(&policy).unwrap();
    assert!(compact.len() <= 2048, "{}", compact.len());

    let narrow = r#"{"Version": "2012-10-17", "Statement": []}"#;
    let kit = world.registry.add_device_with("d8", Some(narrow)).unwrap();
    assert_eq!(kit.policy, narrow);
    assert!(world.registry.add_device_with("d9", Some("nonsense")).is_err());
    assert!(world.registry.thing("d9").is_err(), "nothing was made");
}

#[cfg(unix)]
#[test]
fn modes_are_right() {
    use std::os::unix::fs::PermissionsExt;
    let world = world();
    let kit = world.registry.add_device("d").unwrap();
    let folder = world.folder.path().join("kit");
    kit.write(&folder, &Endpoint::new("localhost", 8883)).unwrap();
    let mode =
        |name: &str| std::fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode("d.private.key"), 0o600);
    assert_eq!(mode("d.cert.pem"), 0o644);
    assert_eq!(mode("start.sh"), 0o755);
}

#[test]
fn an_existing_key_is_never_overwritten() {
    let world = world();
    let folder = world.folder.path().join("kit");
    let endpoint = Endpoint::new("localhost", 8883);
    let first = world.registry.add_device("d").unwrap();
    first.write(&folder, &endpoint).unwrap();
    let second = world.registry.add_certificate("d").unwrap();
    let refused = second.write(&folder, &endpoint).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
    assert!(refused.to_string().contains("d.private.key"), "{refused}");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    assert_eq!(read("d.private.key"), first.private_key_pem.expose());
    assert_eq!(read("d.cert.pem"), first.certificate.pem, "nothing else was touched either");
}

#[test]
fn a_host_that_would_be_shell_is_refused() {
    let world = world();
    let kit = world.registry.add_device("d").unwrap();
    for host in ["", "a b", "$(reboot)", "x;y", "-x", "a\nb", "`id`"] {
        let refused = kit.files(&Endpoint::new(host, 8883)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{host:?}");
    }
}
