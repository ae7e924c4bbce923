//! Models behind endpoints: the serving room, reached from HTTP and the command line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use base::{Clock, Error, ErrorKind, Result, Timestamp};
use metastore::Metastore;
use serde::Deserialize;
use serde_json::{Value, json};
use serving::{Deployed, Endpoint, Host, Invocation, Status, Variant};

use crate::admin::{Named, blocking};
use crate::{Node, Settings};

/// SageMaker's name for the variant of an endpoint that has one.
const ONLY_VARIANT: &str = "AllTraffic";

/// How long a model file may lie here before something names it.
const UNNAMED_MAX: Duration = Duration::from_secs(60 * 60);

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Traffic {
    name: String,
    #[serde(default)]
    weights: BTreeMap<String, f64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rollback {
    name: String,
    why: Option<String>,
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
        let asked = settings.serving.of_host();
        let host = Arc::new(Host::open(metastore.clone(), clock.clone(), loader, asked)?);
        Ok(Models { host, folder, clock })
    }

    pub(crate) fn list(&self) -> Result<Value> {
        let endpoints = self.host.endpoints()?;
        let shown = endpoints.iter().map(|endpoint| self.shown(endpoint)).collect::<Vec<_>>();
        Ok(json!({"endpoints": shown}))
    }

    /// An endpoint, with what is asked of it and what it serves apart.
    fn shown(&self, endpoint: &Endpoint) -> Value {
        let trial = self.host.on_trial(&endpoint.name);
        let trial = trial.map(|(config, share)| json!({"config": config, "share": share}));
        let mut shown = json!({
            "name": endpoint.name,
            "status": endpoint.status.as_str(),
            "config": endpoint.config,
            "wanted": endpoint.wanted,
            "variants": variants(&endpoint.variants),
            "on_trial": trial,
            "previous": endpoint.previous.as_ref().map(|previous| &previous.config),
            "failure_reason": endpoint.failure_reason,
            "created_at": endpoint.created_at,
            "modified_at": endpoint.modified_at,
        });
        if let Some(pending) = &endpoint.pending {
            let (config, variants) = (&pending.config, variants(&pending.variants));
            shown["pending"] = json!({"config": config, "variants": variants});
        }
        shown
    }

    /// Changes weights, or where none are given shows what they are.
    pub(crate) fn traffic(&self, traffic: Traffic) -> Result<Value> {
        let Traffic { name, weights } = traffic;
        let endpoint = match weights.is_empty() {
            true => self.host.endpoint(&name)?,
            false => self.host.update_weights(&name, &Vec::from_iter(weights))?,
        };
        Ok(self.shown(&endpoint))
    }

    /// Goes back to the configuration before the last update, or calls off the one under way.
    pub(crate) async fn rollback(&self, rollback: Rollback) -> Result<Value> {
        let Rollback { name, why } = rollback;
        let why = why.unwrap_or_else(|| "rolled back by hand".to_owned());
        let (host, own) = (Arc::clone(&self.host), name.clone());
        blocking(move || host.rollback(&own, &why)).await?;
        Ok(self.shown(&self.host.settled(&name).await?))
    }

    /// Takes away model files that nothing needs any more: the names they were made under are
    /// deleted, and no endpoint serves them or may go back to them.
    pub(crate) fn sweep(&self) -> Result<()> {
        let endpoints = self.host.endpoints()?;
        let models = self.host.models()?;
        let entries = std::fs::read_dir(&self.folder)
            .map_err(|e| Error::io(format!("read folder {}", self.folder.display()), e))?;
        for entry in entries.filter_map(std::result::Result::ok) {
            let path = entry.path();
            let known = models.iter().any(|model| model.artifact == path)
                || endpoints.iter().any(|endpoint| endpoint.needs(&path));
            // A file comes before the row that names it.
            let age = made_at(&path).map(|made| self.clock.now().since(made));
            if !known && age.is_some_and(|age| age > UNNAMED_MAX) {
                tracing::info!(path = %path.display(), "a model file that nothing needs is deleted");
                std::fs::remove_file(&path)
                    .map_err(|e| Error::io(format!("delete {}", path.display()), e))?;
            }
        }
        Ok(())
    }

    /// Deploys a model file under a name, or puts it in the place of the one there. The file is
    /// copied into the data directory first, since nothing lies elsewhere.
    pub(crate) async fn create(&self, create: Create) -> Result<Value> {
        let Create { name, model } = create;
        if let Some(other) = self.host.endpoint_like(&name)?.filter(|other| other.name != name) {
            let other = other.name;
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!(
                    "endpoint {name:?} differs from endpoint {other:?} in letter case only; write \
                     {other:?} to update that one, or choose another name"
                ),
            ));
        }
        let version = format!("{name}-{}", self.clock.now().millis());
        let target = self.folder.join(format!("{version}.tar.gz"));
        let kept = target.clone();
        blocking(move || copy_durably(&model, &kept)).await?;
        self.host.create_model(&version, &target)?;
        let variant = Variant {
            name: ONLY_VARIANT.to_owned(),
            model: version.clone(),
            weight: 1.0,
            shadow: None,
        };
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
        Ok(self.shown(&endpoint))
    }

    pub(crate) fn delete(&self, named: Named) -> Result<Value> {
        self.host.delete_endpoint(&named.name)?;
        Ok(json!({"name": named.name, "deleted": true}))
    }
}

/// Variants with the part of the requests that each answers.
fn variants(deployed: &[Deployed]) -> Value {
    let whole: f64 = deployed.iter().filter(|one| one.shadow.is_none()).map(|one| one.weight).sum();
    let shown = |one: &Deployed| {
        let share = if whole > 0.0 { one.weight / whole } else { 0.0 };
        let share = one.shadow.unwrap_or(share);
        let (name, model, weight) = (&one.name, &one.model, one.weight);
        let shadow = one.shadow.is_some();
        json!({"name": name, "model": model, "weight": weight, "share": share, "shadow": shadow})
    };
    deployed.iter().map(shown).collect()
}

/// When a model file was put here: its name says it, since the file may be a link to an older
/// one.
fn made_at(path: &Path) -> Option<Timestamp> {
    let name = path.file_name()?.to_str()?.strip_suffix(".tar.gz")?;
    name.rsplit_once('-')?.1.parse().ok().map(Timestamp)
}

fn copy_durably(from: &Path, to: &Path) -> Result<()> {
    let staged = to.with_extension("new");
    std::fs::copy(from, &staged)
        .and_then(|_| std::fs::File::open(&staged)?.sync_all())
        .and_then(|()| std::fs::rename(&staged, to))
        .map_err(|e| Error::io(format!("copy {}", from.display()), e))
}

impl Node {
    /// Asks an endpoint as AWS's clients do: its shadow variants are asked as well, and what is to
    /// be captured is, where this node serves.
    pub(crate) async fn ask(
        &self,
        invocation: Invocation,
        labels: aws::InvocationLabels,
    ) -> Result<serving::Answer> {
        match self.serving_rooms() {
            Some(rooms) => aws::answer_invocation(&rooms, invocation, labels).await,
            None => self.models.host.invoke(invocation).await,
        }
    }

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
