//! Models, endpoint configurations and endpoints, over the room `serving`.
//!
//! A model's archive is linked into the data directory when the model is made, so that what is
//! later put under its key changes no endpoint.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use base::{Error, ErrorKind};
use metastore::Row;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use serving::{Endpoint, Status, Variant};

use super::tags::{self, Tag};
use super::{asked, check_image, check_name, check_role, refuse, s3_place};
use super::{capture, deploy};
use crate::call::{Call, Outcome, Reply};
use crate::fault::Fault;
use crate::page::page;
use crate::rooms::{Rooms, epoch_secs};

/// What a model was asked to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ModelRow(Value);

impl Row for ModelRow {
    const TABLE: &'static str = "aws-sagemaker-models";
}

/// What a configuration was asked to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct ConfigRow(Value);

impl Row for ConfigRow {
    const TABLE: &'static str = "aws-sagemaker-endpoint-configs";
}

/// What an endpoint's calls said beside what `serving` keeps: the capture and the shadows' labels
/// of the configurations it serves, served before or is on its way to, and its last deployment.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct EndpointRow {
    configs: BTreeMap<String, Beside>,
    deployment: Option<Value>,
}

/// What a configuration asks for beside its variants.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Beside {
    /// `DataCaptureConfig`.
    pub(crate) capture: Option<Value>,
    /// `ShadowProductionVariants`.
    shadows: Option<Value>,
}

impl Row for EndpointRow {
    const TABLE: &'static str = "aws-sagemaker-endpoints";
}

/// What endpoints do beside answering, remembered: an invocation asks for it each time.
#[derive(Debug, Default)]
pub(crate) struct Besides(RwLock<BTreeMap<String, Arc<EndpointRow>>>);

impl Besides {
    /// What an endpoint does while it serves a configuration.
    pub(crate) fn of(rooms: &Rooms, endpoint: &str, config: &str) -> base::Result<Beside> {
        let known = rooms.trainings.besides.read().get(endpoint).cloned();
        let row = match known {
            Some(row) => row,
            None => {
                // Held while the row is read: one that changes it forgets it afterwards.
                let mut all =
                    rooms.trainings.besides.0.write().unwrap_or_else(PoisonError::into_inner);
                let row = rooms.metastore.get::<EndpointRow>(endpoint)?.map(|seen| seen.row);
                let row = Arc::new(row.unwrap_or_default());
                all.insert(endpoint.to_owned(), Arc::clone(&row));
                row
            }
        };
        Ok(row.configs.get(config).cloned().unwrap_or_default())
    }

    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Arc<EndpointRow>>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, endpoint: &str) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(endpoint);
    }
}

/// Changes what is kept beside an endpoint. Who is refused afterwards has added to it at most, since
/// another call may have been first.
fn change_row(
    rooms: &Rooms,
    endpoint: &str,
    change: impl FnOnce(&mut EndpointRow),
) -> base::Result<()> {
    rooms.metastore.transact(|rows| {
        let mut row = rows.get::<EndpointRow>(endpoint)?.map(|seen| seen.row).unwrap_or_default();
        change(&mut row);
        rows.put(endpoint, &row)
    })?;
    rooms.trainings.besides.forget(endpoint);
    Ok(())
}

fn beside_of(rooms: &Rooms, config: &str) -> base::Result<Beside> {
    let Some(request) = rooms.metastore.get::<ConfigRow>(config)?.map(|seen| seen.row.0) else {
        return Ok(Beside::default());
    };
    let given = |member: &str| request.get(member).filter(|value| !value.is_null()).cloned();
    let shadows = given("ShadowProductionVariants");
    Ok(Beside { capture: given("DataCaptureConfig"), shadows })
}

/// A variable of a model's environment.
pub(super) fn environment(
    rooms: &Rooms,
    model: &str,
    variable: &str,
) -> Result<Option<String>, Fault> {
    let request = rooms.metastore.get::<ModelRow>(model)?.map(|seen| seen.row.0);
    let request = request.unwrap_or_default();
    let container = request.get("PrimaryContainer").or_else(|| request["Containers"].get(0));
    let value = container.and_then(|container| container["Environment"][variable].as_str());
    Ok(value.map(str::to_owned))
}

fn arn(rooms: &Rooms, call: &Call, kind: &str, name: &str) -> String {
    rooms.arn("sagemaker", &call.region, &format!("{kind}/{name}"))
}

/// The words that clients look for.
fn could_not_find(what: &str, arn: &str) -> Fault {
    Fault::invalid(format!("Could not find {what} \"{arn}\"."))
}

fn already(what: &str, arn: &str) -> impl Fn(Error) -> Fault {
    let message = format!("Cannot create already existing {what} \"{arn}\".");
    move |error| match error.kind() {
        ErrorKind::AlreadyExists => Fault::invalid(message.clone()),
        _ => error.into(),
    }
}

pub(super) fn missing(what: &str, arn: &str) -> impl Fn(Error) -> Fault {
    let (what, arn) = (what.to_owned(), arn.to_owned());
    move |error| match error.kind() {
        ErrorKind::NotFound => could_not_find(&what, &arn),
        _ => error.into(),
    }
}

// ---- models ----

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct CreateModel {
    model_name: String,
    execution_role_arn: Option<String>,
    primary_container: Option<Container>,
    containers: Option<Vec<Container>>,
    #[serde(default)]
    tags: Vec<Tag>,
    #[expect(dead_code, reason = "refused unless empty")]
    vpc_config: Option<Value>,
    #[expect(dead_code, reason = "a model reaches no network")]
    enable_network_isolation: Option<bool>,
    #[expect(dead_code, reason = "refused unless empty")]
    inference_execution_config: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Container {
    image: Option<String>,
    mode: Option<String>,
    model_data_url: Option<String>,
    model_data_source: Option<ModelDataSource>,
    environment: Option<Value>,
    #[expect(dead_code, reason = "kept with the request")]
    container_hostname: Option<String>,
    multi_model_config: Option<Value>,
    image_config: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ModelDataSource {
    s3_data_source: S3ModelData,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct S3ModelData {
    #[serde(rename = "S3Uri")]
    uri: String,
    #[serde(rename = "S3DataType")]
    data_type: String,
    #[serde(rename = "CompressionType")]
    compression: String,
}

/// The folder that a prefix names. A model's archives lie in it under their own names.
fn folder_key(prefix: &str) -> Result<String, Fault> {
    let folder = prefix.trim_end_matches('/');
    match folder.is_empty() {
        true => Err(Fault::unsupported(
            "ModelDataUrl of a whole bucket",
            "put the archives below a prefix: s3://BUCKET/PREFIX/",
        )),
        false => Ok(folder.to_owned()),
    }
}

impl Container {
    /// Whether the container holds many models, and if so, whether they stay loaded.
    fn many(&self) -> Result<Option<bool>, Fault> {
        let config = self.multi_model_config.as_ref();
        let setting = config.and_then(|config| config.get("ModelCacheSetting"));
        match self.mode.as_deref() {
            Some("MultiModel") => match setting.and_then(Value::as_str) {
                None | Some("Enabled") => Ok(Some(true)),
                Some("Disabled") => Ok(Some(false)),
                Some(other) => Err(Fault::invalid(format!(
                    "ModelCacheSetting {other:?}: use Enabled or Disabled"
                ))),
            },
            None | Some("SingleModel") if super::asks_nothing(config) => Ok(None),
            None | Some("SingleModel") => {
                Err(Fault::invalid("MultiModelConfig is for Mode MultiModel"))
            }
            Some(other) => {
                Err(Fault::invalid(format!("Mode {other:?}: use SingleModel or MultiModel")))
            }
        }
    }

    /// Where the archive lies.
    fn archive(&self) -> Result<&str, Fault> {
        match (&self.model_data_url, &self.model_data_source) {
            (Some(url), None) => Ok(url),
            (None, Some(source)) => {
                let source = &source.s3_data_source;
                if source.data_type != "S3Object" || source.compression != "Gzip" {
                    let given = format!("{} with {}", source.data_type, source.compression);
                    return Err(Fault::unsupported(
                        &format!("ModelDataSource of {given}"),
                        "a DeepAR model is one archive: S3Object with Gzip",
                    ));
                }
                Ok(&source.uri)
            }
            _ => Err(Fault::invalid("name the archive by one of ModelDataUrl and ModelDataSource")),
        }
    }
}

pub(super) async fn create_model(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let (input, request) = asked::<CreateModel>(call)?;
    refuse(
        &request,
        &[
            ("VpcConfig", "everything is on one machine"),
            ("InferenceExecutionConfig", "a model has one container"),
        ],
    )?;
    check_name("modelName", &input.model_name)?;
    if let Some(role) = &input.execution_role_arn {
        check_role(role)?;
    }
    let container = match (input.primary_container, input.containers) {
        (Some(one), None) => one,
        (None, Some(mut several)) if several.len() == 1 => several.remove(0),
        (None, Some(_)) => {
            return Err(Fault::unsupported(
                "Containers with more than one",
                "a model has one container",
            ));
        }
        _ => return Err(Fault::invalid("name one of PrimaryContainer and Containers")),
    };
    let image =
        container.image.as_deref().ok_or_else(|| Fault::invalid("the container has no Image"))?;
    check_image(rooms, image)?;
    let keep = container.many()?;
    if !super::asks_nothing(container.image_config.as_ref()) {
        return Err(Fault::unsupported("ImageConfig", "no image is pulled"));
    }
    let environment = container.environment.as_ref();
    let unknown = environment.and_then(Value::as_object).and_then(|names| {
        names.keys().find(|name| {
            !matches!(
                name.as_str(),
                "DEEPAR_INFERENCE_CONFIG"
                    | "MODEL_SERVER_WORKERS"
                    | "SAGEMAKER_SUBMIT_DIRECTORY"
                    | "SAGEMAKER_REGION"
                    | "SAGEMAKER_PROGRAM"
                    | "SAGEMAKER_CONTAINER_LOG_LEVEL"
            )
        })
    });
    if let Some(name) = unknown {
        return Err(Fault::unsupported(
            &format!("Environment {name:?}"),
            "DeepAR's container does not read it",
        ));
    }
    let uri = container.archive()?.to_owned();
    let (bucket, key) = s3_place("ModelDataUrl", &uri)?;
    let arn = arn(rooms, call, "model", &input.model_name);
    let exists = rooms.host.model(&input.model_name).is_ok();
    if exists {
        return Err(Fault::invalid(format!("Cannot create already existing model \"{arn}\".")));
    }
    if let Some(keep) = keep {
        let folder = rooms.buckets.local_path(&bucket, &folder_key(&key)?)?;
        rooms.host.create_many(&input.model_name, &folder, keep).map_err(already("model", &arn))?;
        rooms.metastore.put(&input.model_name, &ModelRow(request))?;
        tags::put(rooms, &arn, &input.tags)?;
        return Ok(json!({"ModelArn": arn}).into());
    }
    let archive =
        keep_archive(rooms, &input.model_name, &bucket, &key).await.map_err(|error| match error
            .kind()
        {
            ErrorKind::NotFound | ErrorKind::Invalid => {
                Fault::invalid(format!("Could not find model data at {uri}."))
            }
            _ => error.into(),
        })?;
    rooms.host.create_model(&input.model_name, &archive).map_err(already("model", &arn))?;
    rooms.metastore.put(&input.model_name, &ModelRow(request))?;
    tags::put(rooms, &arn, &input.tags)?;
    Ok(json!({"ModelArn": arn}).into())
}

/// Links an object into the data directory under the model's name.
async fn keep_archive(rooms: &Rooms, name: &str, bucket: &str, key: &str) -> base::Result<PathBuf> {
    rooms.buckets.head(bucket, key).await?;
    let from = rooms.buckets.verify(bucket, key)?.path;
    let folder = rooms.data_dir.join("models");
    let target = folder.join(format!("{name}-{}.tar.gz", rooms.clock.now().millis()));
    let linked = std::fs::create_dir_all(&folder).and_then(|()| {
        std::fs::hard_link(&from, &target).or_else(|_| std::fs::copy(&from, &target).map(drop))
    });
    linked
        .and_then(|()| std::fs::File::open(&folder)?.sync_all())
        .map_err(|e| Error::io(format!("keep the archive of model {name:?}"), e))?;
    Ok(target)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ModelNamed {
    model_name: String,
}

pub(super) async fn describe_model(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ModelNamed = call.input()?;
    let arn = arn(rooms, call, "model", &input.model_name);
    let model = rooms.host.model(&input.model_name).map_err(missing("model", &arn))?;
    // A model that the command line deployed has no request.
    let row = rooms.metastore.get::<ModelRow>(&model.name)?;
    let mut answer = row.map_or_else(|| json!({}), |seen| seen.row.0);
    if let Some(members) = answer.as_object_mut() {
        members.remove("Tags");
    }
    answer["ModelName"] = json!(model.name);
    answer["ModelArn"] = json!(arn);
    answer["CreationTime"] = json!(epoch_secs(model.created_at));
    if answer.get("EnableNetworkIsolation").is_none() {
        answer["EnableNetworkIsolation"] = json!(false);
    }
    Ok(answer.into())
}

pub(super) async fn delete_model(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ModelNamed = call.input()?;
    let arn = arn(rooms, call, "model", &input.model_name);
    let model = rooms.host.model(&input.model_name).map_err(missing("model", &arn))?;
    rooms.host.delete_model(&model.name).map_err(missing("model", &arn))?;
    rooms.metastore.delete::<ModelRow>(&model.name)?;
    // An endpoint that serves it, or may go back to it, needs the file when the server starts
    // again; housekeeping takes it away afterwards.
    let own = model.holding == serving::Holding::One;
    if own && !rooms.host.endpoints()?.iter().any(|one| one.needs(&model.artifact)) {
        drop(std::fs::remove_file(&model.artifact));
    }
    tags::forget(rooms, &arn)?;
    Ok(Reply::empty())
}

/// What every list of hosting may be asked.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
pub(super) struct List {
    name_contains: Option<String>,
    status_equals: Option<String>,
    creation_time_after: Option<f64>,
    creation_time_before: Option<f64>,
    last_modified_time_after: Option<f64>,
    last_modified_time_before: Option<f64>,
    sort_by: Option<String>,
    sort_order: Option<String>,
    max_results: Option<usize>,
    next_token: Option<String>,
}

/// What a list sorts and filters by.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) created_at: base::Timestamp,
    pub(super) modified_at: base::Timestamp,
    pub(super) status: Option<&'static str>,
    pub(super) shown: Value,
}

pub(super) fn listed(input: List, mut entries: Vec<Entry>, member: &str) -> Outcome {
    let within = |at: base::Timestamp, after: Option<f64>, before: Option<f64>| {
        let at = epoch_secs(at);
        after.is_none_or(|after| at > after) && before.is_none_or(|before| at < before)
    };
    entries.retain(|entry| {
        input.name_contains.as_ref().is_none_or(|text| entry.name.contains(text))
            && input.status_equals.as_ref().is_none_or(|status| entry.status == Some(status))
            && within(entry.created_at, input.creation_time_after, input.creation_time_before)
            && within(
                entry.modified_at,
                input.last_modified_time_after,
                input.last_modified_time_before,
            )
    });
    match input.sort_by.as_deref() {
        None | Some("CreationTime") => {
            entries.sort_by(|a, b| (a.created_at, &a.name).cmp(&(b.created_at, &b.name)));
        }
        Some("Name") => entries.sort_by(|a, b| a.name.cmp(&b.name)),
        Some("Status") => entries.sort_by(|a, b| (a.status, &a.name).cmp(&(b.status, &b.name))),
        Some(other) => {
            return Err(Fault::invalid(format!(
                "SortBy {other:?}: use Name, CreationTime or Status"
            )));
        }
    }
    if input.sort_order.as_deref() != Some("Ascending") {
        entries.reverse();
    }
    let numbered: Vec<(usize, Entry)> = entries.into_iter().enumerate().collect();
    let key = |(at, _): &(usize, Entry)| format!("{at:08}");
    let (given, next) = page(numbered, key, input.next_token.as_deref(), input.max_results, 100)?;
    let shown: Vec<Value> = given.into_iter().map(|(_, entry)| entry.shown).collect();
    let mut answer = json!({member: shown});
    if let Some(next) = next {
        answer["NextToken"] = json!(next);
    }
    Ok(answer.into())
}

pub(super) async fn list_models(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: List = call.input()?;
    let one = |model: serving::Model| Entry {
        created_at: model.created_at,
        modified_at: model.created_at,
        status: None,
        shown: json!({
            "ModelName": model.name,
            "ModelArn": arn(rooms, call, "model", &model.name),
            "CreationTime": epoch_secs(model.created_at),
        }),
        name: model.name,
    };
    listed(input, rooms.host.models()?.into_iter().map(one).collect(), "Models")
}

// ---- endpoint configurations ----

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct CreateConfig {
    endpoint_config_name: String,
    production_variants: Vec<ProductionVariant>,
    #[serde(default)]
    shadow_production_variants: Vec<ProductionVariant>,
    #[serde(default)]
    tags: Vec<Tag>,
    data_capture_config: Option<Value>,
    #[expect(dead_code, reason = "refused unless empty")]
    async_inference_config: Option<Value>,
    #[expect(dead_code, reason = "refused unless empty")]
    explainer_config: Option<Value>,
    #[expect(dead_code, reason = "refused unless empty")]
    vpc_config: Option<Value>,
    #[expect(dead_code, reason = "refused unless empty")]
    metrics_config: Option<Value>,
    kms_key_id: Option<String>,
    #[expect(dead_code, reason = "a label")]
    execution_role_arn: Option<String>,
    #[expect(dead_code, reason = "a model reaches no network")]
    enable_network_isolation: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ProductionVariant {
    variant_name: String,
    model_name: String,
    initial_variant_weight: Option<f64>,
    initial_instance_count: Option<u32>,
    #[expect(dead_code, reason = "a label")]
    instance_type: Option<String>,
    serverless_config: Option<Value>,
    accelerator_type: Option<String>,
    managed_instance_scaling: Option<Value>,
    core_dump_config: Option<Value>,
    routing_config: Option<Value>,
    #[expect(dead_code, reason = "a label")]
    #[serde(rename = "VolumeSizeInGB")]
    volume_size: Option<u32>,
    #[expect(dead_code, reason = "an archive of ours is local and loads in milliseconds")]
    model_data_download_timeout_in_seconds: Option<u32>,
    #[expect(dead_code, reason = "an archive of ours is local and loads in milliseconds")]
    container_startup_health_check_timeout_in_seconds: Option<u32>,
}

pub(super) async fn create_config(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let (input, request) = asked::<CreateConfig>(call)?;
    let name = &input.endpoint_config_name;
    check_name("endpointConfigName", name)?;
    if let Some(capture) = &input.data_capture_config {
        capture::check(capture)?;
    }
    let shadows = &input.shadow_production_variants;
    refuse(
        &request,
        &[
            ("AsyncInferenceConfig", "invocations are answered at once"),
            ("ExplainerConfig", "there is no explainer"),
            ("VpcConfig", "everything is on one machine"),
            ("MetricsConfig", "metrics are at /metrics"),
        ],
    )?;
    if input.kms_key_id.as_deref().is_some_and(|key| !key.is_empty()) {
        return Err(Fault::unsupported("KmsKeyId", "nothing is encrypted at rest; leave it out"));
    }
    let mut variants = Vec::new();
    let production = input.production_variants.len();
    let weight = |variant: &ProductionVariant| variant.initial_variant_weight.unwrap_or(1.0);
    let whole: f64 = input.production_variants.iter().map(weight).sum();
    for (at, variant) in input.production_variants.iter().chain(shadows).enumerate() {
        check_name("productionVariants.variantName", &variant.variant_name)?;
        let unsupported = [
            ("ServerlessConfig", super::asks_nothing(variant.serverless_config.as_ref())),
            (
                "ManagedInstanceScaling",
                super::asks_nothing(variant.managed_instance_scaling.as_ref()),
            ),
            ("CoreDumpConfig", super::asks_nothing(variant.core_dump_config.as_ref())),
            ("RoutingConfig", super::asks_nothing(variant.routing_config.as_ref())),
            ("AcceleratorType", variant.accelerator_type.is_none()),
        ];
        if let Some((member, _)) = unsupported.iter().find(|(_, nothing)| !nothing) {
            return Err(Fault::unsupported(member, "a variant answers on this machine's threads"));
        }
        if variant.initial_instance_count == Some(0) {
            return Err(Fault::invalid("InitialInstanceCount is 0; it is at least 1"));
        }
        let model_arn = arn(rooms, call, "model", &variant.model_name);
        rooms.host.model(&variant.model_name).map_err(missing("model", &model_arn))?;
        variants.push(Variant {
            name: variant.variant_name.clone(),
            model: variant.model_name.clone(),
            weight: if at < production { weight(variant) } else { 0.0 },
            // A shadow has no turn of its own: it gets copies, as many as its weight is of the
            // production variants' weight.
            shadow: match at < production {
                true => None,
                false => Some((weight(variant) / whole).clamp(0.0, 1.0)),
            },
        });
    }
    let arn = arn(rooms, call, "endpoint-config", name);
    rooms.host.create_config(name, variants).map_err(already("endpoint configuration", &arn))?;
    rooms.metastore.put(name, &ConfigRow(request))?;
    tags::put(rooms, &arn, &input.tags)?;
    Ok(json!({"EndpointConfigArn": arn}).into())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct ConfigNamed {
    endpoint_config_name: String,
}

fn config_arn(rooms: &Rooms, call: &Call, name: &str) -> String {
    arn(rooms, call, "endpoint-config", name)
}

pub(super) async fn describe_config(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ConfigNamed = call.input()?;
    let arn = config_arn(rooms, call, &input.endpoint_config_name);
    let found = rooms.host.config(&input.endpoint_config_name);
    let config = found.map_err(missing("endpoint configuration", &arn))?;
    let row = rooms.metastore.get::<ConfigRow>(&config.name)?;
    let mut answer = row.map_or_else(|| json!({}), |seen| seen.row.0);
    if let Some(members) = answer.as_object_mut() {
        members.remove("Tags");
    }
    if answer.get("ProductionVariants").is_none() {
        let shown = |variant: &Variant| json!({"VariantName": variant.name, "ModelName": variant.model, "InitialVariantWeight": variant.weight});
        answer["ProductionVariants"] = config.variants.iter().map(shown).collect();
    }
    if let Some(variants) = answer["ProductionVariants"].as_array_mut() {
        for variant in variants {
            if variant.get("InitialVariantWeight").is_none() {
                variant["InitialVariantWeight"] = json!(1.0);
            }
        }
    }
    answer["EndpointConfigName"] = json!(config.name);
    answer["EndpointConfigArn"] = json!(arn);
    answer["CreationTime"] = json!(epoch_secs(config.created_at));
    Ok(answer.into())
}

pub(super) async fn list_configs(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: List = call.input()?;
    let one = |config: serving::EndpointConfig| Entry {
        created_at: config.created_at,
        modified_at: config.created_at,
        status: None,
        shown: json!({
            "EndpointConfigName": config.name,
            "EndpointConfigArn": config_arn(rooms, call, &config.name),
            "CreationTime": epoch_secs(config.created_at),
        }),
        name: config.name,
    };
    listed(input, rooms.host.configs()?.into_iter().map(one).collect(), "EndpointConfigs")
}

pub(super) async fn delete_config(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: ConfigNamed = call.input()?;
    let name = &input.endpoint_config_name;
    let arn = config_arn(rooms, call, name);
    rooms.host.delete_config(name).map_err(missing("endpoint configuration", &arn))?;
    rooms.metastore.delete::<ConfigRow>(name)?;
    tags::forget(rooms, &arn)?;
    Ok(Reply::empty())
}

// ---- endpoints ----

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct CreateEndpoint {
    endpoint_name: String,
    endpoint_config_name: String,
    #[serde(default)]
    tags: Vec<Tag>,
    deployment_config: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct UpdateEndpoint {
    endpoint_name: String,
    endpoint_config_name: String,
    retain_all_variant_properties: Option<bool>,
    exclude_retained_variant_properties: Option<Vec<Excluded>>,
    deployment_config: Option<Value>,
    retain_deployment_config: Option<bool>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Excluded {
    variant_property_type: String,
}

/// What an endpoint keeps through an update.
struct Kept {
    weights: bool,
    capture: bool,
}

impl UpdateEndpoint {
    fn kept(&self) -> Result<Kept, Fault> {
        let all = self.retain_all_variant_properties == Some(true);
        let mut kept = Kept { weights: all, capture: all };
        for excluded in self.exclude_retained_variant_properties.iter().flatten() {
            match excluded.variant_property_type.as_str() {
                "DesiredWeight" => kept.weights = false,
                "DataCaptureConfig" => kept.capture = false,
                // A label, which is always the configuration's.
                "DesiredInstanceCount" => {}
                other => {
                    return Err(Fault::invalid(format!(
                        "VariantPropertyType {other:?}: use DesiredInstanceCount, DesiredWeight or DataCaptureConfig"
                    )));
                }
            }
        }
        Ok(kept)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct EndpointNamed {
    endpoint_name: String,
}

fn endpoint_arn(rooms: &Rooms, call: &Call, name: &str) -> String {
    arn(rooms, call, "endpoint", name)
}

/// Instances that the variants of a configuration are labelled with.
fn instances(rooms: &Rooms, config: &str) -> base::Result<u32> {
    let request = rooms.metastore.get::<ConfigRow>(config)?.map(|seen| seen.row.0);
    let request = request.unwrap_or_default();
    let variants = request["ProductionVariants"].as_array().cloned().unwrap_or_default();
    let count = |one: &Value| one["InitialInstanceCount"].as_u64().unwrap_or(1);
    Ok(u32::try_from(variants.iter().map(count).sum::<u64>()).unwrap_or(u32::MAX))
}

pub(super) async fn create_endpoint(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: CreateEndpoint = call.input()?;
    check_name("endpointName", &input.endpoint_name)?;
    let config_arn = config_arn(rooms, call, &input.endpoint_config_name);
    rooms
        .host
        .config(&input.endpoint_config_name)
        .map_err(missing("endpoint configuration", &config_arn))?;
    // There is nothing to move traffic from yet; it must be right all the same.
    deploy::rollout(
        rooms,
        input.deployment_config.as_ref(),
        instances(rooms, &input.endpoint_config_name)?,
    )?;
    let arn = endpoint_arn(rooms, call, &input.endpoint_name);
    // Letter case makes no other name here, whereas whoever invokes must match it.
    if let Some(other) = rooms.host.endpoint_like(&input.endpoint_name)? {
        let arn = endpoint_arn(rooms, call, &other.name);
        return Err(Fault::invalid(format!("Cannot create already existing endpoint \"{arn}\".")));
    }
    let config = input.endpoint_config_name.clone();
    let beside = beside_of(rooms, &config)?;
    change_row(rooms, &input.endpoint_name, |row| {
        row.configs.insert(config, beside);
        row.deployment.clone_from(&input.deployment_config);
    })?;
    rooms
        .host
        .create_endpoint(&input.endpoint_name, &input.endpoint_config_name)
        .map_err(already("endpoint", &arn))?;
    tags::put(rooms, &arn, &input.tags)?;
    Ok(json!({"EndpointArn": arn}).into())
}

/// An endpoint in the middle of a change, in the words clients wait for.
fn in_progress(doing: &str, arn: &str) -> impl Fn(Error) -> Fault {
    let (doing, arn) = (doing.to_owned(), arn.to_owned());
    move |error| match error.kind() {
        ErrorKind::NotFound => could_not_find("endpoint", &arn),
        ErrorKind::Conflict => {
            Fault::invalid(format!("Cannot {doing} in-progress endpoint \"{arn}\"."))
        }
        _ => error.into(),
    }
}

pub(super) async fn update_endpoint(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: UpdateEndpoint = call.input()?;
    let arn = endpoint_arn(rooms, call, &input.endpoint_name);
    let before = rooms.host.endpoint(&input.endpoint_name).map_err(missing("endpoint", &arn))?;
    let config_arn = config_arn(rooms, call, &input.endpoint_config_name);
    rooms
        .host
        .config(&input.endpoint_config_name)
        .map_err(missing("endpoint configuration", &config_arn))?;
    if !matches!(before.status, Status::InService | Status::Failed) {
        return Err(Fault::invalid(format!("Cannot update in-progress endpoint \"{arn}\".")));
    }
    let config = &input.endpoint_config_name;
    let old = rooms.metastore.get::<EndpointRow>(&before.name)?.map(|seen| seen.row);
    let mut row = old.unwrap_or_default();
    let retained = row.deployment.take().filter(|_| input.retain_deployment_config == Some(true));
    let deployment = input.deployment_config.clone().or(retained);
    let rollout = deploy::rollout(rooms, deployment.as_ref(), instances(rooms, config)?)?;
    let kept = input.kept()?;
    let served = row.configs.remove(&before.config).unwrap_or_default();
    let mut next = beside_of(rooms, config)?;
    if kept.capture {
        next.capture.clone_from(&served.capture);
    }
    // Before it serves the first request by it, so that none goes by uncaptured.
    change_row(rooms, &before.name, |row| drop(row.configs.insert(config.clone(), next)))?;
    let weights: Vec<(String, f64)> = match kept.weights {
        true => before.variants.iter().map(|one| (one.name.clone(), one.weight)).collect(),
        false => Vec::new(),
    };
    rooms
        .host
        .update_endpoint_by(&before.name, config, rollout, &weights)
        .map_err(in_progress("update", &arn))?;
    change_row(rooms, &before.name, |row| {
        row.configs.retain(|name, _| *name == before.config || name == config);
        row.deployment = deployment;
    })?;
    Ok(json!({"EndpointArn": arn}).into())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Weights {
    endpoint_name: String,
    desired_weights_and_capacities: Vec<Weight>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Weight {
    variant_name: String,
    desired_weight: Option<f64>,
    desired_instance_count: Option<u32>,
    serverless_update_config: Option<Value>,
}

pub(super) async fn update_weights(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Weights = call.input()?;
    let mut weights = Vec::new();
    for one in input.desired_weights_and_capacities {
        if !super::asks_nothing(one.serverless_update_config.as_ref()) {
            return Err(Fault::unsupported(
                "ServerlessUpdateConfig",
                "there are no serverless variants",
            ));
        }
        if one.desired_instance_count.is_some_and(|count| count != 1) {
            return Err(Fault::unsupported(
                "DesiredInstanceCount other than 1",
                "a variant answers on this machine's threads",
            ));
        }
        if let Some(weight) = one.desired_weight {
            weights.push((one.variant_name, weight));
        }
    }
    let arn = endpoint_arn(rooms, call, &input.endpoint_name);
    rooms.host.endpoint(&input.endpoint_name).map_err(missing("endpoint", &arn))?;
    rooms.host.update_weights(&input.endpoint_name, &weights).map_err(|error| {
        match error.kind() {
            ErrorKind::Conflict => in_progress("update", &arn)(error),
            _ => error.into(),
        }
    })?;
    Ok(json!({"EndpointArn": arn}).into())
}

pub(super) async fn describe_endpoint(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: EndpointNamed = call.input()?;
    let arn = endpoint_arn(rooms, call, &input.endpoint_name);
    let endpoint = rooms.host.endpoint(&input.endpoint_name).map_err(missing("endpoint", &arn))?;
    let mut answer = json!({
        "EndpointName": endpoint.name,
        "EndpointArn": arn,
        "EndpointConfigName": endpoint.config,
        "EndpointStatus": endpoint.status.as_str(),
        "CreationTime": epoch_secs(endpoint.created_at),
        "LastModifiedTime": epoch_secs(endpoint.modified_at),
    });
    if let Some(reason) = &endpoint.failure_reason {
        answer["FailureReason"] = json!(reason);
    }
    let row = rooms.metastore.get::<EndpointRow>(&endpoint.name)?.map(|seen| seen.row);
    let row = row.unwrap_or_default();
    let beside = row.configs.get(&endpoint.config).cloned().unwrap_or_default();
    if endpoint.status != Status::Creating {
        answer["ProductionVariants"] = variants(rooms, &endpoint.config, &endpoint.variants, None)?;
    }
    if let Some(capture) = &beside.capture {
        let on = capture["EnableCapture"] == json!(true);
        answer["DataCaptureConfig"] = json!({
            "EnableCapture": on,
            "CaptureStatus": if on { "Started" } else { "Stopped" },
            "CurrentSamplingPercentage": capture["InitialSamplingPercentage"],
            "DestinationS3Uri": capture["DestinationS3Uri"],
            "KmsKeyId": "",
        });
    }
    if let Some(shadows) = beside.shadows.as_ref().and_then(Value::as_array) {
        let shown = |one: &Value| {
            let weight = one["InitialVariantWeight"].as_f64().unwrap_or(1.0);
            let count = one["InitialInstanceCount"].as_u64().unwrap_or(1);
            json!({"VariantName": one["VariantName"], "CurrentWeight": weight, "DesiredWeight": weight,
                "CurrentInstanceCount": count, "DesiredInstanceCount": count})
        };
        answer["ShadowProductionVariants"] = shadows.iter().map(shown).collect();
    }
    if let Some(deployment) = row.deployment.as_ref().filter(|_| endpoint.pending.is_none()) {
        answer["LastDeploymentConfig"] = deployment.clone();
    }
    if let Some(pending) = &endpoint.pending {
        let trial = rooms.host.on_trial(&endpoint.name).filter(|trial| trial.0 == pending.config);
        let state = match trial {
            None => "Creating",
            Some((_, share)) if share > 0.0 => "Baking",
            Some(_) => "ActivatingTraffic",
        };
        answer["PendingDeploymentSummary"] = json!({
            "EndpointConfigName": pending.config,
            "ProductionVariants":
                variants(rooms, &pending.config, &pending.variants, Some(state))?,
            "StartTime": epoch_secs(endpoint.modified_at),
        });
    }
    Ok(answer.into())
}

/// Variants as Describe shows them, with the labels that their configuration was given.
fn variants(
    rooms: &Rooms,
    config: &str,
    deployed: &[serving::Deployed],
    state: Option<&str>,
) -> Result<Value, Fault> {
    let row = rooms.metastore.get::<ConfigRow>(config)?;
    let request = row.map_or(Value::Null, |seen| seen.row.0);
    let mut shown = Vec::new();
    for variant in deployed.iter().filter(|variant| variant.shadow.is_none()) {
        let asked = request["ProductionVariants"]
            .as_array()
            .and_then(|all| all.iter().find(|one| one["VariantName"] == json!(variant.name)));
        let count = asked.map_or(&Value::Null, |one| &one["InitialInstanceCount"]);
        let count = count.as_u64().unwrap_or(1);
        let mut one = json!({
            "VariantName": variant.name,
            "CurrentWeight": variant.weight,
            "DesiredWeight": variant.weight,
            "CurrentInstanceCount": count,
            "DesiredInstanceCount": count,
        });
        if let Some(state) = state {
            one["VariantStatus"] = json!([{"Status": state}]);
        }
        if let Some(model) = rooms.metastore.get::<ModelRow>(&variant.model)? {
            let request = model.row.0;
            let container =
                request.get("PrimaryContainer").or_else(|| request["Containers"].get(0));
            if let Some(image) = container.and_then(|container| container.get("Image")) {
                one["DeployedImages"] = json!([{"SpecifiedImage": image, "ResolvedImage": image}]);
            }
        }
        shown.push(one);
    }
    Ok(json!(shown))
}

pub(super) async fn list_endpoints(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: List = call.input()?;
    let one = |endpoint: Endpoint| Entry {
        created_at: endpoint.created_at,
        modified_at: endpoint.modified_at,
        status: Some(endpoint.status.as_str()),
        shown: json!({
            "EndpointName": endpoint.name,
            "EndpointArn": endpoint_arn(rooms, call, &endpoint.name),
            "CreationTime": epoch_secs(endpoint.created_at),
            "LastModifiedTime": epoch_secs(endpoint.modified_at),
            "EndpointStatus": endpoint.status.as_str(),
        }),
        name: endpoint.name,
    };
    listed(input, rooms.host.endpoints()?.into_iter().map(one).collect(), "Endpoints")
}

pub(super) async fn delete_endpoint(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: EndpointNamed = call.input()?;
    let arn = endpoint_arn(rooms, call, &input.endpoint_name);
    rooms.host.delete_endpoint(&input.endpoint_name).map_err(in_progress("delete", &arn))?;
    rooms.metastore.delete::<EndpointRow>(&input.endpoint_name)?;
    rooms.trainings.besides.forget(&input.endpoint_name);
    tags::forget(rooms, &arn)?;
    Ok(Reply::empty())
}

// ---- the notebook ----

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct NotebookNamed {
    notebook_instance_name: String,
}

/// The name in the files that `forebay notebook` writes.
const NOTEBOOK: &str = "forebay";

pub(super) async fn describe_notebook(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: NotebookNamed = call.input()?;
    if input.notebook_instance_name != NOTEBOOK {
        return Err(Fault::invalid("RecordNotFound"));
    }
    let mut answer = notebook(rooms, call);
    answer["RoleArn"] = json!(rooms.keys.role_arn());
    Ok(answer.into())
}

fn notebook(rooms: &Rooms, call: &Call) -> Value {
    json!({
        "NotebookInstanceName": NOTEBOOK,
        "NotebookInstanceArn": arn(rooms, call, "notebook-instance", NOTEBOOK),
        "NotebookInstanceStatus": "InService",
    })
}

pub(super) async fn list_notebooks(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: List = call.input()?;
    let entry = Entry {
        name: NOTEBOOK.to_owned(),
        created_at: base::Timestamp(0),
        modified_at: base::Timestamp(0),
        status: Some("InService"),
        shown: notebook(rooms, call),
    };
    listed(input, vec![entry], "NotebookInstances")
}
