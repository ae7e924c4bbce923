//! What a device needs to connect, as the folder AWS hands out.

use std::path::Path;

use base::{Error, ErrorKind, Result};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;

use crate::authority::{Issued, ROOT_CERTIFICATE, provider};
use crate::files::{self, Access};
use crate::server::{broken, certificate, private_key};
use crate::things::uuid;
use crate::{Certificate, Secret};

/// The port that clients assume.
const DEFAULT_PORT: u16 = 8883;

/// Where a device finds us, and the names AWS policies speak of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host name or address; one the server's certificate covers.
    pub host: String,
    /// Port of MQTT over mutual TLS.
    pub port: u16,
    /// Region in the policy's resource names.
    pub region: String,
    /// Account number in the policy's resource names.
    pub account: String,
}

impl Endpoint {
    /// An endpoint with the region and account that Forebay answers with by default.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Endpoint {
            host: host.into(),
            port,
            region: "us-east-1".to_owned(),
            account: "000000000000".to_owned(),
        }
    }
}

/// A device's credentials. The only copy of its private key: write it, or lose it.
#[derive(Clone, Debug)]
pub struct Kit {
    /// The thing's name, which is the certificate's common name and starts each file's name.
    pub thing: String,
    /// What was registered.
    pub certificate: Certificate,
    /// The device's private key, PKCS#8 PEM.
    pub private_key_pem: Secret,
    /// The device's public key, PEM.
    pub public_key_pem: String,
    /// Our root certificate, PEM.
    pub root_pem: String,
    /// The document in force of the policy attached to the certificate.
    pub policy: String,
}

/// One file of a kit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KitFile {
    /// Name within the folder.
    pub name: String,
    /// Its text; a secret, since one of the files is the private key.
    pub text: Secret,
    /// What kind of file it is decides its mode.
    pub kind: KitFileKind,
}

/// Decides a file's mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KitFileKind {
    /// The private key: 0600, and never overwritten.
    PrivateKey,
    /// Anybody may read it: 0644.
    Public,
    /// A program: 0755.
    Program,
}

impl Kit {
    pub(crate) fn new(
        thing: &str,
        issued: Issued,
        certificate: Certificate,
        root_pem: &str,
        policy: String,
    ) -> Self {
        Kit {
            thing: thing.to_owned(),
            certificate,
            policy,
            private_key_pem: issued.private_key_pem,
            public_key_pem: issued.public_key_pem,
            root_pem: root_pem.to_owned(),
        }
    }

    /// The files of the kit for a device that connects to `endpoint`.
    pub fn files(&self, endpoint: &Endpoint) -> Result<Vec<KitFile>> {
        use KitFileKind::{PrivateKey, Program, Public};
        let thing = &self.thing;
        let file = |name: String, text: &str, kind| KitFile { name, text: Secret::new(text), kind };
        Ok(vec![
            file(format!("{thing}.private.key"), self.private_key_pem.expose(), PrivateKey),
            file(format!("{thing}.cert.pem"), &self.certificate.pem, Public),
            file(format!("{thing}.public.key"), &self.public_key_pem, Public),
            file(ROOT_CERTIFICATE.to_owned(), &self.root_pem, Public),
            file(policy_name(thing), &self.policy, Public),
            file("sample.js".to_owned(), SAMPLE, Public),
            file("start.sh".to_owned(), &start_script(thing, endpoint)?, Program),
        ])
    }

    /// Writes the kit into `folder`, making it if needed. Refuses to overwrite a private key.
    pub fn write(&self, folder: &Path, endpoint: &Endpoint) -> Result<()> {
        write_files(folder, &self.files(endpoint)?)
    }

    /// What a client in this process connects with, for tests and the demo. Offers `alpn` if
    /// any.
    pub fn client_config(&self, alpn: &[&str]) -> Result<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate(&self.root_pem)?).map_err(broken("the root certificate"))?;
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(broken("the TLS versions"))?
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![certificate(&self.certificate.pem)?],
                private_key(self.private_key_pem.expose())?,
            )
            .map_err(broken("the device certificate"))?;
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(config)
    }
}

/// Writes the files of a kit into `folder`, making it if needed. The private key is written
/// first, so that nothing is written where one exists.
pub fn write_files(folder: &Path, kit: &[KitFile]) -> Result<()> {
    std::fs::create_dir_all(folder)
        .map_err(|cause| Error::io(format_args!("failed to make {}", folder.display()), cause))?;
    for file in kit {
        if file.name.is_empty() || file.name.contains(['/', '\\', '\0']) || file.name == ".." {
            return Err(Error::invalid(format!("{:?} is not a file name", file.name)));
        }
    }
    let is_key = |file: &&KitFile| file.kind == KitFileKind::PrivateKey;
    for file in kit.iter().filter(is_key) {
        let path = folder.join(&file.name);
        files::create(&path, file.text.expose(), Access::Owner).map_err(|failed| {
            match failed.kind() {
                ErrorKind::AlreadyExists => Error::new(
                    ErrorKind::AlreadyExists,
                    format!(
                        "{} exists already and is not overwritten; choose another folder",
                        path.display()
                    ),
                ),
                _ => failed,
            }
        })?;
    }
    for file in kit.iter().filter(|file| !is_key(file)) {
        let access = match file.kind {
            KitFileKind::Program => Access::Program,
            KitFileKind::Public | KitFileKind::PrivateKey => Access::Everybody,
        };
        files::replace(&folder.join(&file.name), file.text.expose(), access)?;
    }
    files::sync_folder(folder)
}

/// The policy that comes with a device, as AWS's wizard names it.
pub(crate) fn policy_name(thing: &str) -> String {
    format!("{thing}-Policy")
}

/// The policy of a kit. The device connects under its own name, as the SDKs' samples do, and
/// as `NAME-...`; it may use every topic but the reserved ones below `$aws/`, since devices
/// choose their topics and a user's own script must run unchanged. A narrower document may be
/// given instead.
pub(crate) fn policy(thing: &str) -> String {
    let arn = |resource: &str| format!("arn:aws:iot:*:*:{resource}");
    let named = format!("client/{thing}");
    let family = format!("client/{thing}-*");
    let clients = [
        "client/${iot:Connection.Thing.ThingName}",
        &named,
        &family,
        "client/sdk-nodejs-*",
        "client/sdk-java",
        "client/basicPubSub",
    ]
    .map(arn);
    let document = json!({
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["iot:Connect"],
                "Resource": clients,
            },
            {
                "Effect": "Allow",
                "Action": ["iot:Publish", "iot:Receive", "iot:RetainPublish"],
                "Resource": [arn("topic/*")],
            },
            {
                "Effect": "Allow",
                "Action": ["iot:Subscribe"],
                "Resource": [arn("topicfilter/*")],
            },
            {
                "Effect": "Deny",
                "Action": ["iot:Publish", "iot:Receive", "iot:RetainPublish", "iot:Subscribe"],
                "Resource": [arn("topic/$aws/*"), arn("topicfilter/$aws/*")],
            },
        ],
    });
    format!("{document:#}\n")
}

/// Runs the example of AWS's device SDK for Node.js, as the script of AWS's kit does. Ours
/// never fetches a root certificate: the one that matters lies in the folder.
fn start_script(thing: &str, endpoint: &Endpoint) -> Result<String> {
    let Endpoint { host, port, .. } = endpoint;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '_');
    if host.is_empty() || host.starts_with('-') || !host.chars().all(plain) {
        return Err(Error::invalid(format!("{host:?} is not a host name or address")));
    }
    let port = match *port {
        DEFAULT_PORT => String::new(),
        port => format!(" --port={port}"),
    };
    let client_id = format!("sdk-nodejs-{}", uuid()?);
    Ok(format!(
        r#"#!/usr/bin/env bash
# Connects {thing} with the AWS IoT device SDK for Node.js. Needs node and npm.
set -e
cd "$(dirname "$0")"

if [ ! -f ./root-CA.crt ]; then
  echo "root-CA.crt is missing; it came with this kit and cannot be downloaded" >&2
  exit 1
fi

if [ ! -d ./node_modules/aws-iot-device-sdk ]; then
  npm install aws-iot-device-sdk
fi

node node_modules/aws-iot-device-sdk/examples/device-example.js --host-name={host}{port} --private-key={thing}.private.key --client-certificate={thing}.cert.pem --ca-certificate=root-CA.crt --client-id={client_id}
"#
    ))
}

/// A device's program, to begin with: publishes a reading every five seconds.
const SAMPLE: &str = r#"// Publishes a reading every five seconds with AWS's device SDK for Node.js (version 1).
// Run it with the options that start.sh gives to the SDK's own example:
//   node sample.js --host-name=HOST --private-key=NAME.private.key \
//     --client-certificate=NAME.cert.pem --ca-certificate=root-CA.crt --client-id=NAME
const awsIot = require('aws-iot-device-sdk');

const args = {};
for (const arg of process.argv.slice(2)) {
  const [, name, value] = /^--([^=]+)=(.*)$/.exec(arg) || [];
  if (!name) throw new Error(`expected --name=value, got ${arg}`);
  args[name] = value;
}

const device = awsIot.device({
  host: args['host-name'],
  port: Number(args.port || 8883),
  keyPath: args['private-key'],
  certPath: args['client-certificate'],
  caPath: args['ca-certificate'],
  clientId: args['client-id'],
});
const topic = args.topic || `${args['client-id']}/readings`;

device.on('connect', () => console.log(`connected; publishing to ${topic}`));
device.on('error', (error) => console.error('error:', error.message));
device.on('offline', () => console.log('offline; connecting again'));
setInterval(() => {
  const reading = { time: new Date(), temperature: 20 + 5 * Math.random() };
  device.publish(topic, JSON.stringify(reading), { qos: 1 });
}, 5000);
"#;
