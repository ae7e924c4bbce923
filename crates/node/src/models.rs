//! Models behind endpoints: the serving room, reached from HTTP and the command line.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::body::Bytes;
use base::{Clock, Error, ErrorKind, Result};
use metastore::Metastore;
use serde::Deserialize;
use serde_json::{Value, json};
use serving::{Host, Invocation, Status, Variant};

use crate::admin::{Named, blocking};
use crate::{Node, Settings};

/// SageMaker's name for the variant of an endpoint that has one.
const ONLY_VARIANT: &str = "AllTraffic";

/// Endpoints, and the folder their artifacts are kept in.
pub struct Models {
    pub(crate) host: Arc<Host>,
    folder: PathBuf,
    clock: Arc<dyn Clock>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Create {
    name: String,
    model: PathBuf,
}

impl Models {
    pub(crate) fn open(
        metastore: &Metastore,
        data_dir: &Path,
        settings: &Settings,
        clock: Arc<dyn Clock>,
    ) -> Result<Models> {
        let folder = data_dir.join("models");
        std::fs::create_dir_all(&folder)
            .map_err(|e| Error::io(format!("make folder {}", folder.display()), e))?;
        let loader: serving::Loader = Arc::new(training::load);
        let threads =
            serving::Settings { threads: settings.serving.threads, ..serving::Settings::default() };
        let host = Arc::new(Host::open(metastore.clone(), clock.clone(), loader, threads)?);
        Ok(Models { host, folder, clock })
    }

    pub(crate) fn list(&self) -> Result<Value> {
        Ok(json!({"endpoints": self.host.endpoints()?}))
    }

    /// Deploys a model file under a name, or puts it in the place of the one there. The file is
    /// copied into the data directory first, since nothing lies elsewhere.
    pub(crate) async fn create(&self, create: Create) -> Result<Value> {
        let Create { name, model } = create;
        let version = format!("{name}-{}", self.clock.now().millis());
        let target = self.folder.join(format!("{version}.tar.gz"));
        let kept = target.clone();
        blocking(move || copy_durably(&model, &kept)).await?;
        self.host.create_model(&version, &target)?;
        let variant =
            Variant { name: ONLY_VARIANT.to_owned(), model: version.clone(), weight: 1.0 };
        self.host.create_config(&version, vec![variant])?;
        match self.host.create_endpoint(&name, &version) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                self.host.update_endpoint(&name, &version)?;
            }
            made => drop(made?),
        }
        let endpoint = self.host.settled(&name).await?;
        if endpoint.status != Status::InService || endpoint.config != version {
            let why = endpoint.failure_reason.unwrap_or_else(|| "no reason was given".to_owned());
            return Err(Error::invalid(format!(
                "endpoint {name:?} cannot serve this model: {why}"
            )));
        }
        serde_json::to_value(endpoint).map_err(|e| Error::internal(e.to_string()))
    }

    pub(crate) fn delete(&self, named: Named) -> Result<Value> {
        self.host.delete_endpoint(&named.name)?;
        Ok(json!({"name": named.name, "deleted": true}))
    }
}

fn copy_durably(from: &Path, to: &Path) -> Result<()> {
    let staged = to.with_extension("new");
    std::fs::copy(from, &staged)
        .and_then(|_| std::fs::File::open(&staged)?.sync_all())
        .and_then(|()| std::fs::rename(&staged, to))
        .map_err(|e| Error::io(format!("copy {}", from.display()), e))
}

impl Node {
    /// Asks an endpoint. `target_variant` names one of its variants; else weights decide.
    pub async fn invoke(
        &self,
        name: &str,
        target_variant: Option<String>,
        content_type: Option<String>,
        accept: Option<String>,
        body: Bytes,
    ) -> Result<serving::Answer> {
        let endpoint = name.to_owned();
        let invocation =
            Invocation { endpoint, body, content_type, accept, target_variant, target_model: None };
        self.models.host.invoke(invocation).await
    }
}
