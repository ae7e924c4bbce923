//! Workgroups: where results go, and who may say otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::Timestamp;
use metastore::Row;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::execution::{Listed, ResultConfiguration, check_owner, forget, refuse};
use super::folder;
use crate::call::{Call, Outcome};
use crate::fault::Fault;
use crate::lenient;
use crate::page::page;
use crate::rooms::{Rooms, epoch_secs};

const PRIMARY: &str = "primary";
const ENGINE: &str = "Athena engine version 3";
/// Least bytes that a query may be allowed, AWS's own bound.
const CUTOFF_BYTES_MIN: u64 = 10_000_000;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct WorkGroup {
    pub(super) name: String,
    pub(super) state: String,
    description: String,
    pub(super) output_location: Option<String>,
    /// Whether the workgroup's settings win over a query's.
    pub(super) enforced: bool,
    engine: String,
    created_at: Timestamp,
    tags: BTreeMap<String, String>,
    /// Bytes that a query may read; one that reads more is cancelled.
    #[serde(default)]
    pub(super) bytes_scanned_max: Option<u64>,
}

impl Row for WorkGroup {
    const TABLE: &'static str = "aws-athena-workgroups";
}

pub(super) fn engine_version(selected: &str) -> Value {
    json!({"SelectedEngineVersion": selected, "EffectiveEngineVersion": ENGINE})
}

impl WorkGroup {
    /// The one that is always there.
    fn primary() -> WorkGroup {
        WorkGroup {
            name: PRIMARY.into(),
            state: "ENABLED".into(),
            description: String::new(),
            output_location: None,
            enforced: false,
            engine: "AUTO".into(),
            created_at: Timestamp(0),
            tags: BTreeMap::new(),
            bytes_scanned_max: None,
        }
    }

    fn shown(&self) -> Value {
        let mut results = json!({});
        if let Some(uri) = &self.output_location {
            results["OutputLocation"] = json!(uri);
        }
        let mut configuration = json!({
            "ResultConfiguration": results,
            "EnforceWorkGroupConfiguration": self.enforced,
            "PublishCloudWatchMetricsEnabled": false,
            "RequesterPaysEnabled": false,
            "EngineVersion": engine_version(&self.engine),
        });
        if let Some(bytes) = self.bytes_scanned_max {
            configuration["BytesScannedCutoffPerQuery"] = json!(bytes);
        }
        json!({
            "Name": self.name,
            "State": self.state,
            "Description": self.description,
            "CreationTime": epoch_secs(self.created_at),
            "Configuration": configuration,
        })
    }

    fn summary(&self) -> Value {
        json!({
            "Name": self.name,
            "State": self.state,
            "Description": self.description,
            "CreationTime": epoch_secs(self.created_at),
            "EngineVersion": engine_version(&self.engine),
        })
    }
}

/// A workgroup by its name.
pub(super) fn find(rooms: &Rooms, name: &str) -> Result<WorkGroup, Fault> {
    match rooms.metastore.get::<WorkGroup>(name)? {
        Some(found) => Ok(found.row),
        None if name == PRIMARY => Ok(WorkGroup::primary()),
        None => Err(Fault::invalid(format!("WorkGroup {name} is not found."))),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct EngineVersion {
    selected_engine_version: Option<String>,
    #[serde(rename = "EffectiveEngineVersion")]
    _effective: Option<String>,
}

/// Settings of a new workgroup, or changes of one.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Configuration {
    result_configuration: Option<ResultConfiguration>,
    result_configuration_updates: Option<ResultUpdates>,
    #[serde(default, deserialize_with = "lenient::boolean")]
    enforce_work_group_configuration: Option<bool>,
    #[serde(default, deserialize_with = "lenient::boolean")]
    publish_cloud_watch_metrics_enabled: Option<bool>,
    bytes_scanned_cutoff_per_query: Option<u64>,
    #[serde(default, deserialize_with = "lenient::boolean")]
    remove_bytes_scanned_cutoff_per_query: Option<bool>,
    #[serde(default, deserialize_with = "lenient::boolean")]
    requester_pays_enabled: Option<bool>,
    engine_version: Option<EngineVersion>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct ResultUpdates {
    output_location: Option<String>,
    #[serde(default, deserialize_with = "lenient::boolean")]
    remove_output_location: Option<bool>,
    encryption_configuration: Option<Value>,
    #[serde(rename = "RemoveEncryptionConfiguration")]
    _remove_encryption: Option<Value>,
    expected_bucket_owner: Option<String>,
    #[serde(rename = "RemoveExpectedBucketOwner")]
    _remove_owner: Option<Value>,
    acl_configuration: Option<Value>,
    #[serde(rename = "RemoveAclConfiguration")]
    _remove_acl: Option<Value>,
}

impl Configuration {
    fn apply(self, rooms: &Rooms, group: &mut WorkGroup) -> Result<(), Fault> {
        if self.publish_cloud_watch_metrics_enabled == Some(true) {
            return Err(Fault::unsupported(
                "PublishCloudWatchMetricsEnabled",
                "queries publish no metrics; give false",
            ));
        }
        if self.requester_pays_enabled == Some(true) {
            return Err(Fault::unsupported("RequesterPaysEnabled", "nobody pays here; give false"));
        }
        if self.remove_bytes_scanned_cutoff_per_query == Some(true) {
            group.bytes_scanned_max = None;
        }
        if let Some(bytes) = self.bytes_scanned_cutoff_per_query {
            if bytes < CUTOFF_BYTES_MIN {
                return Err(Fault::invalid(format!(
                    "BytesScannedCutoffPerQuery {bytes} is less than {CUTOFF_BYTES_MIN}"
                )));
            }
            group.bytes_scanned_max = Some(bytes);
        }
        if let Some(engine) = self.engine_version.and_then(|e| e.selected_engine_version) {
            if engine != "AUTO" && engine != ENGINE {
                return Err(Fault::invalid(format!(
                    "SelectedEngineVersion {engine:?} is not available; give \"AUTO\" or {ENGINE:?}"
                )));
            }
            group.engine = engine;
        }
        if let Some(results) = self.result_configuration {
            group.output_location = results.checked(rooms)?;
        }
        if let Some(updates) = self.result_configuration_updates {
            refuse(
                &updates.encryption_configuration,
                "EncryptionConfiguration",
                "results are kept plain",
            )?;
            refuse(
                &updates.acl_configuration,
                "AclConfiguration",
                "objects have no lists of their own",
            )?;
            check_owner(rooms, updates.expected_bucket_owner)?;
            if updates.remove_output_location == Some(true) {
                group.output_location = None;
            }
            if let Some(uri) = updates.output_location {
                group.output_location = Some(folder(&uri)?);
            }
        }
        if let Some(enforced) = self.enforce_work_group_configuration {
            group.enforced = enforced;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Create {
    name: String,
    configuration: Option<Configuration>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    tags: Vec<Tag>,
}

/// CreateWorkGroup.
pub(super) async fn create(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Create = call.input()?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if input.name.is_empty() || input.name.len() > 128 || !input.name.chars().all(allowed) {
        return Err(Fault::invalid(format!(
            "{:?} is not a workgroup name; use 1 to 128 letters, digits, '.', '_' and '-'",
            input.name
        )));
    }
    let exists = || Fault::invalid(format!("WorkGroup {} is already created", input.name));
    if input.name == PRIMARY {
        return Err(exists());
    }
    let mut group = WorkGroup {
        name: input.name.clone(),
        description: input.description,
        // As AWS has it for all but the primary one.
        enforced: true,
        created_at: rooms.clock.now(),
        tags: input.tags.into_iter().map(|tag| (tag.key, tag.value)).collect(),
        ..WorkGroup::primary()
    };
    input.configuration.unwrap_or_default().apply(rooms, &mut group)?;
    match rooms.metastore.create(&group.name, &group) {
        Err(error) if error.kind() == base::ErrorKind::AlreadyExists => Err(exists()),
        other => {
            other?;
            Ok(json!({}).into())
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Named {
    work_group: String,
}

/// GetWorkGroup.
pub(super) async fn get(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let found = find(rooms, &call.input::<Named>()?.work_group)?;
    Ok(json!({"WorkGroup": found.shown()}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct List {
    next_token: Option<String>,
    max_results: Option<usize>,
}

/// ListWorkGroups.
pub(super) async fn list(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: List = call.input()?;
    let mut all = BTreeMap::from([(PRIMARY.to_owned(), WorkGroup::primary())]);
    all.extend(rooms.metastore.list::<WorkGroup>()?.into_iter().map(|(name, g)| (name, g.row)));
    let all: Vec<WorkGroup> = all.into_values().collect();
    let key = |group: &WorkGroup| group.name.clone();
    let (some, next) = page(all, key, input.next_token.as_deref(), input.max_results, 50)?;
    let groups: Vec<Value> = some.iter().map(WorkGroup::summary).collect();
    let mut answer = json!({"WorkGroups": groups});
    if let Some(next) = next {
        answer["NextToken"] = json!(next);
    }
    Ok(answer.into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Update {
    work_group: String,
    description: Option<String>,
    configuration_updates: Option<Configuration>,
    state: Option<String>,
}

/// UpdateWorkGroup.
pub(super) async fn update(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Update = call.input()?;
    let mut group = find(rooms, &input.work_group)?;
    if let Some(description) = input.description {
        group.description = description;
    }
    if let Some(state) = input.state {
        if state != "ENABLED" && state != "DISABLED" {
            return Err(Fault::invalid(format!("State {state:?}: give ENABLED or DISABLED")));
        }
        group.state = state;
    }
    if let Some(updates) = input.configuration_updates {
        if updates.result_configuration.is_some() {
            return Err(Fault::invalid(
                "Unknown parameter in ConfigurationUpdates: \"ResultConfiguration\"; the member is \
                 ResultConfigurationUpdates",
            ));
        }
        updates.apply(rooms, &mut group)?;
    }
    rooms.metastore.put(&group.name, &group)?;
    Ok(json!({}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Delete {
    work_group: String,
    #[serde(default, deserialize_with = "lenient::boolean")]
    recursive_delete_option: Option<bool>,
}

/// DeleteWorkGroup.
pub(super) async fn delete(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Delete = call.input()?;
    let group = find(rooms, &input.work_group)?;
    if group.name == PRIMARY {
        return Err(Fault::invalid("The primary WorkGroup cannot be deleted"));
    }
    let recursive = input.recursive_delete_option == Some(true);
    rooms.metastore.transact(|rows| {
        let used = !rows.list_prefix::<Listed>(&format!("{}/", group.name))?.is_empty();
        if used && !recursive {
            return Err(base::Error::invalid(format!(
                "WorkGroup {} is not empty: it has query executions; set RecursiveDeleteOption to \
                 forget them",
                group.name
            )));
        }
        forget(rows, &group.name)?;
        rows.delete::<WorkGroup>(&group.name)
    })?;
    Ok(json!({}).into())
}

/// The workgroup that an ARN names.
fn by_arn(rooms: &Rooms, arn: &str) -> Result<WorkGroup, Fault> {
    let name = arn
        .strip_prefix("arn:aws:athena:")
        .and_then(|rest| rest.splitn(3, ':').nth(2))
        .and_then(|resource| resource.strip_prefix("workgroup/"));
    let missing = || {
        let message =
            format!("{arn:?} is no workgroup; give arn:aws:athena:region:account:workgroup/name");
        Fault::named("ResourceNotFoundException", 400, message)
    };
    find(rooms, name.ok_or_else(missing)?).map_err(|_missing| missing())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TagInput {
    #[serde(rename = "ResourceARN")]
    arn: String,
    #[serde(rename = "Tags")]
    tags: Vec<Tag>,
}

/// TagResource.
pub(super) async fn tag(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: TagInput = call.input()?;
    let mut group = by_arn(rooms, &input.arn)?;
    group.tags.extend(input.tags.into_iter().map(|tag| (tag.key, tag.value)));
    rooms.metastore.put(&group.name, &group)?;
    Ok(json!({}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UntagInput {
    #[serde(rename = "ResourceARN")]
    arn: String,
    #[serde(rename = "TagKeys")]
    keys: Vec<String>,
}

/// UntagResource.
pub(super) async fn untag(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: UntagInput = call.input()?;
    let mut group = by_arn(rooms, &input.arn)?;
    group.tags.retain(|key, _| !input.keys.contains(key));
    rooms.metastore.put(&group.name, &group)?;
    Ok(json!({}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TagsInput {
    #[serde(rename = "ResourceARN")]
    arn: String,
    #[serde(rename = "NextToken")]
    token: Option<String>,
    #[serde(rename = "MaxResults")]
    wish: Option<usize>,
}

/// ListTagsForResource.
pub(super) async fn list_tags(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: TagsInput = call.input()?;
    let tags: Vec<(String, String)> = by_arn(rooms, &input.arn)?.tags.into_iter().collect();
    let (some, next) = page(tags, |tag| tag.0.clone(), input.token.as_deref(), input.wish, 1000)?;
    let tag = |(key, value): (String, String)| json!({"Key": key, "Value": value});
    let mut answer = json!({"Tags": some.into_iter().map(tag).collect::<Vec<_>>()});
    if let Some(next) = next {
        answer["NextToken"] = json!(next);
    }
    Ok(answer.into())
}
