//! Points the AWS SDKs here: `forebay env` for a shell, `forebay notebook` for SageMaker's SDK.
//!
//! SageMaker's Python SDK asks STS at a fixed address who it is, unless it finds the metadata
//! file of a notebook instance. `forebay notebook DIR` writes both ways out: that file, and an
//! environment in which the fixed address is reached through our port as a proxy.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use base::Error;
use serde::Deserialize;
use serde_json::json;

use crate::args::Global;
use crate::control::{self, Control};
use crate::output::Printer;

/// Where SageMaker's SDK looks for the metadata of its notebook instance.
const METADATA_PATH: &str = "/opt/ml/metadata/resource-metadata.json";
const METADATA: &str = "resource-metadata.json";
const CONFIG: &str = "sagemaker-config.yaml";
const ROOT: &str = "root-CA.crt";

/// What the node says of itself.
#[derive(Deserialize)]
struct Sdk {
    access_key_id: String,
    secret_access_key: String,
    region: String,
    notebook_arn: String,
    notebook_name: String,
    role_arn: String,
    root_pem: String,
}

struct Target {
    sdk: Sdk,
    endpoint: String,
}

impl Target {
    async fn of(global: &Global) -> Result<Target> {
        let control = Control::connect_or_make(global).await?;
        let address = match &control {
            Control::Server { addresses, .. } => addresses.http,
            Control::Here(_) => control::settings(global, &[])?.http.addr,
        };
        let answer = control.call("sdk", json!({})).await;
        control.close().await;
        let endpoint = format!("http://{address}");
        Ok(Target { sdk: serde_json::from_value(answer?)?, endpoint })
    }

    fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL", self.endpoint.clone()),
            ("AWS_ACCESS_KEY_ID", self.sdk.access_key_id.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.sdk.secret_access_key.clone()),
            ("AWS_DEFAULT_REGION", self.sdk.region.clone()),
            ("AWS_REGION", self.sdk.region.clone()),
        ]
    }
}

/// Prints the variables for `eval`.
pub(crate) async fn env(global: &Global, printer: Printer) -> Result<()> {
    let target = Target::of(global).await?;
    let variables = target.variables();
    let object: serde_json::Map<_, _> =
        variables.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    printer.answer(&object.into(), || exports(&variables));
    Ok(())
}

/// Writes the files of a notebook instance into `folder`.
pub(crate) async fn notebook(global: &Global, folder: &Path, printer: Printer) -> Result<()> {
    let target = Target::of(global).await?;
    fs::create_dir_all(folder).with_context(|| format!("make folder {}", folder.display()))?;
    let folder = fs::canonicalize(folder).with_context(|| folder.display().to_string())?;
    let path = |name: &str| folder.join(name).display().to_string();
    let metadata = json!({
        "ResourceArn": target.sdk.notebook_arn,
        "ResourceName": target.sdk.notebook_name,
        "ExecutionRoleArn": target.sdk.role_arn,
    });
    write(&folder.join(METADATA), &format!("{metadata:#}\n"))?;
    // Its telemetry would look for a host that only AWS has.
    let config = "SchemaVersion: '1.0'\nSageMaker:\n  PythonSDK:\n    Modules:\n      TelemetryOptOut: true\n";
    write(&folder.join(CONFIG), config)?;
    write(&folder.join(ROOT), &target.sdk.root_pem)?;
    let mut variables = target.variables();
    variables.extend([
        ("HTTPS_PROXY", target.endpoint.clone()),
        ("NO_PROXY", "127.0.0.1,localhost".to_owned()),
        ("AWS_CA_BUNDLE", path(ROOT)),
        ("SAGEMAKER_USER_CONFIG_OVERRIDE", path(CONFIG)),
    ]);
    write(&folder.join("env"), &format!("{}\n", exports(&variables)))?;
    let answer = json!({
        "folder": folder,
        "files": [METADATA, CONFIG, ROOT, "env"],
        "metadata_path": METADATA_PATH,
        "role_arn": target.sdk.role_arn,
    });
    printer.answer(&answer, || {
        format!(
            "Either load the environment before the notebook starts:\n  . {}\nor, where this \
             machine is the notebook's own, let the SDK find the metadata file:\n  sudo mkdir -p \
             /opt/ml/metadata && sudo cp {} {METADATA_PATH}\n  eval \"$(forebay env)\"",
            path("env"),
            path(METADATA)
        )
    });
    Ok(())
}

fn exports(variables: &[(&str, String)]) -> String {
    let line = |(name, value): &(&str, String)| format!("export {name}='{value}'");
    variables.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Writes a file that only its owner may read: `env` holds a secret.
fn write(path: &Path, text: &str) -> Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(|cause| Error::io(format!("write {}", path.display()), cause))?;
    file.write_all(text.as_bytes())
        .map_err(|cause| Error::io(format!("write {}", path.display()), cause))?;
    Ok(())
}
