//! Glue's triggers: definitions as AWS has them; when they fire is the lake's.
//!
//! AWS's EVENT triggers wait for EventBridge. Here such a trigger looks for objects that its
//! jobs have not read, every `BatchWindow` seconds.

use std::collections::BTreeMap;
use std::sync::Arc;

use base::ErrorKind;
use lake::{Condition, CrawlOutcome, RunState, Trigger, TriggerAction, When};
use metastore::Row;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::tags;
use crate::call::{Call, Outcome};
use crate::fault::Fault;
use crate::page::page;
use crate::rooms::Rooms;
use crate::tags::Tags;

/// Seconds between two looks for new data where nothing else is said: AWS's longest window.
const WINDOW_SECS: u64 = 900;

/// What a trigger is beyond when it fires.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Words {
    description: String,
    /// Whether it was ever put in force.
    started: bool,
}

impl Row for Words {
    const TABLE: &'static str = "aws-glue-triggers";
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct CreateTrigger {
    name: String,
    r#type: Type,
    schedule: Option<String>,
    predicate: Option<Predicate>,
    actions: Vec<Action>,
    #[serde(default)]
    description: String,
    #[serde(default)]
    start_on_creation: bool,
    event_batching_condition: Option<Batching>,
    #[serde(default)]
    tags: Tags,
    workflow_name: Option<String>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum Type {
    Scheduled,
    Conditional,
    OnDemand,
    Event,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Predicate {
    logical: Option<Logical>,
    conditions: Vec<OneCondition>,
}

#[derive(Clone, Copy, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
enum Logical {
    And,
    Any,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct OneCondition {
    logical_operator: Option<String>,
    job_name: Option<String>,
    state: Option<String>,
    crawler_name: Option<String>,
    crawl_state: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Action {
    job_name: Option<String>,
    #[serde(default)]
    arguments: BTreeMap<String, String>,
    timeout: Option<u64>,
    crawler_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Batching {
    batch_size: u64,
    batch_window: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct UpdateTrigger {
    name: String,
    trigger_update: TriggerUpdate,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct TriggerUpdate {
    name: Option<String>,
    description: Option<String>,
    schedule: Option<String>,
    actions: Option<Vec<Action>>,
    predicate: Option<Predicate>,
    event_batching_condition: Option<Batching>,
}

fn when(
    kind: Type,
    schedule: Option<String>,
    predicate: Option<Predicate>,
    batching: Option<Batching>,
) -> Result<When, Fault> {
    let only = |member: &str, fits: Type, given: bool| match given && kind != fits {
        true => Err(Fault::invalid(format!("{member} does not fit the Type of the trigger"))),
        false => Ok(()),
    };
    only("Schedule", Type::Scheduled, schedule.is_some())?;
    only("Predicate", Type::Conditional, predicate.is_some())?;
    only("EventBatchingCondition", Type::Event, batching.is_some())?;
    Ok(match kind {
        Type::OnDemand => When::OnDemand,
        Type::Scheduled => {
            let text = schedule.ok_or_else(|| Fault::invalid("Schedule is missing"))?;
            When::Scheduled(text.parse()?)
        }
        Type::Event => {
            let batching = batching.unwrap_or(Batching { batch_size: 1, batch_window: None });
            if batching.batch_size != 1 {
                let why = format!("{}; give 1", batching.batch_size);
                return Err(Fault::unsupported("EventBatchingCondition.BatchSize", &why));
            }
            When::NewData { every_secs: batching.batch_window.unwrap_or(WINDOW_SECS) }
        }
        Type::Conditional => {
            let predicate = predicate.ok_or_else(|| Fault::invalid("Predicate is missing"))?;
            let all = predicate.logical != Some(Logical::Any);
            let conditions = predicate.conditions.into_iter().map(condition);
            When::Conditional { all, conditions: conditions.collect::<Result<_, Fault>>()? }
        }
    })
}

fn condition(given: OneCondition) -> Result<Condition, Fault> {
    if let Some(operator) = given.logical_operator.filter(|operator| operator != "EQUALS") {
        let why = format!("{operator:?}; there is EQUALS");
        return Err(Fault::unsupported("Predicate.Conditions.LogicalOperator", &why));
    }
    let of = |member: &str, state: &str| {
        let why = format!("{state:?}; there are SUCCEEDED, FAILED and what was stopped");
        Fault::unsupported(&format!("Predicate.Conditions.{member}"), &why)
    };
    match (given.job_name, given.state, given.crawler_name, given.crawl_state) {
        (Some(job), Some(state), None, None) => {
            let state = match state.as_str() {
                "SUCCEEDED" => RunState::Succeeded,
                "FAILED" => RunState::Failed,
                "STOPPED" => RunState::Stopped,
                other => return Err(of("State", other)),
            };
            Ok(Condition::Job { job, state })
        }
        (None, None, Some(crawler), Some(state)) => {
            let outcome = match state.as_str() {
                "SUCCEEDED" => CrawlOutcome::Completed,
                "FAILED" => CrawlOutcome::Failed,
                "CANCELLED" => CrawlOutcome::Stopped,
                other => return Err(of("CrawlState", other)),
            };
            Ok(Condition::Crawler { crawler, outcome })
        }
        _ => Err(Fault::invalid(
            "Predicate.Conditions: give JobName and State, or CrawlerName and CrawlState",
        )),
    }
}

fn actions(given: Vec<Action>) -> Result<Vec<TriggerAction>, Fault> {
    given
        .into_iter()
        .map(|one| match (one.job_name, one.crawler_name) {
            (Some(job), None) => {
                if one.timeout == Some(0) {
                    return Err(Fault::invalid("Actions.Timeout is 0; give minutes from 1"));
                }
                let (arguments, timeout_minutes) = (one.arguments, one.timeout);
                Ok(TriggerAction::Job { job, arguments, timeout_minutes })
            }
            (None, Some(crawler)) => Ok(TriggerAction::Crawler { crawler }),
            _ => Err(Fault::invalid("Actions: give JobName or CrawlerName")),
        })
        .collect()
}

fn words(rooms: &Rooms, name: &str) -> Result<Words, Fault> {
    Ok(rooms.metastore.get::<Words>(name)?.map(|seen| seen.row).unwrap_or_default())
}

fn shown(rooms: &Rooms, trigger: &Trigger) -> Result<Value, Fault> {
    let words = words(rooms, &trigger.name)?;
    let state = match (&trigger.when, trigger.active) {
        (When::OnDemand, _) => "CREATED",
        (_, true) => "ACTIVATED",
        (_, false) if words.started => "DEACTIVATED",
        (_, false) => "CREATED",
    };
    let actions: Vec<Value> = trigger
        .actions
        .iter()
        .map(|one| match one {
            TriggerAction::Crawler { crawler } => json!({"CrawlerName": crawler}),
            TriggerAction::Job { job, arguments, timeout_minutes } => {
                let mut shown = json!({"JobName": job});
                if !arguments.is_empty() {
                    shown["Arguments"] = json!(arguments);
                }
                if let Some(minutes) = timeout_minutes {
                    shown["Timeout"] = json!(minutes);
                }
                shown
            }
        })
        .collect();
    let mut shown = json!({"Name": trigger.name, "State": state, "Actions": actions});
    if !words.description.is_empty() {
        shown["Description"] = json!(words.description);
    }
    match &trigger.when {
        When::OnDemand => shown["Type"] = json!("ON_DEMAND"),
        When::Scheduled(schedule) => {
            shown["Type"] = json!("SCHEDULED");
            shown["Schedule"] = json!(schedule.as_str());
        }
        When::NewData { every_secs } => {
            shown["Type"] = json!("EVENT");
            shown["EventBatchingCondition"] = json!({"BatchSize": 1, "BatchWindow": every_secs});
        }
        When::Conditional { all, conditions } => {
            shown["Type"] = json!("CONDITIONAL");
            let conditions: Vec<Value> = conditions.iter().map(condition_shown).collect();
            let logical = if *all { "AND" } else { "ANY" };
            shown["Predicate"] = json!({"Logical": logical, "Conditions": conditions});
        }
    }
    Ok(shown)
}

fn condition_shown(condition: &Condition) -> Value {
    match condition {
        Condition::Job { job, state } => {
            json!({"LogicalOperator": "EQUALS", "JobName": job, "State": state})
        }
        Condition::Crawler { crawler, outcome } => {
            let state = match outcome {
                CrawlOutcome::Completed => "SUCCEEDED",
                CrawlOutcome::Failed => "FAILED",
                CrawlOutcome::Stopped => "CANCELLED",
                CrawlOutcome::Running => "RUNNING",
            };
            json!({"LogicalOperator": "EQUALS", "CrawlerName": crawler, "CrawlState": state})
        }
    }
}

pub(super) async fn create_trigger(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: CreateTrigger = call.input()?;
    if let Some(workflow) = input.workflow_name {
        let why = format!("{workflow:?}; there are no workflows");
        return Err(Fault::unsupported("WorkflowName", &why));
    }
    let on_demand = input.r#type == Type::OnDemand;
    if input.start_on_creation && on_demand {
        return Err(Fault::invalid("StartOnCreation does not fit an ON_DEMAND trigger"));
    }
    let trigger = Trigger {
        name: input.name,
        when: when(input.r#type, input.schedule, input.predicate, input.event_batching_condition)?,
        actions: actions(input.actions)?,
        active: input.start_on_creation,
    };
    rooms.lake.create_trigger(&trigger)?;
    let words = Words { description: input.description, started: trigger.active };
    rooms.metastore.put(&trigger.name, &words)?;
    tags::add(rooms, "trigger", &trigger.name, input.tags)?;
    Ok(json!({"Name": trigger.name}).into())
}

pub(super) async fn update_trigger(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let UpdateTrigger { name, trigger_update: update } = call.input()?;
    if let Some(new) = update.name.filter(|new| *new != name) {
        let why = format!("{new:?}; trigger {name:?} cannot be renamed");
        return Err(Fault::unsupported("TriggerUpdate.Name", &why));
    }
    let before = rooms.lake.get_trigger(&name)?;
    let kind = match &before.when {
        When::OnDemand => Type::OnDemand,
        When::Scheduled(_) => Type::Scheduled,
        When::Conditional { .. } => Type::Conditional,
        When::NewData { .. } => Type::Event,
    };
    let (schedule, predicate) = (update.schedule, update.predicate);
    let batching = update.event_batching_condition;
    let changes = schedule.is_some() || predicate.is_some() || batching.is_some();
    let trigger = Trigger {
        when: if changes { when(kind, schedule, predicate, batching)? } else { before.when },
        actions: update.actions.map_or(Ok(before.actions), actions)?,
        ..Trigger {
            name: before.name,
            active: before.active,
            when: When::OnDemand,
            actions: vec![],
        }
    };
    rooms.lake.update_trigger(&trigger)?;
    if let Some(description) = update.description {
        let words = Words { description, ..words(rooms, &name)? };
        rooms.metastore.put(&name, &words)?;
    }
    Ok(json!({"Trigger": shown(rooms, &trigger)?}).into())
}

pub(super) async fn get_trigger(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let trigger = rooms.lake.get_trigger(&call.input::<super::Named>()?.name)?;
    Ok(json!({"Trigger": shown(rooms, &trigger)?}).into())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct Triggers {
    next_token: Option<String>,
    max_results: Option<usize>,
    dependent_job_name: Option<String>,
    #[serde(default)]
    tags: Tags,
}

/// Triggers by name: all, or those that start a job.
fn listed(rooms: &Rooms, job: Option<&str>) -> Result<Vec<Trigger>, Fault> {
    let mut all = rooms.lake.list_triggers()?;
    if let Some(wanted) = job {
        rooms.lake.get_job(wanted)?;
        let starts =
            |one: &TriggerAction| matches!(one, TriggerAction::Job { job, .. } if job == wanted);
        all.retain(|trigger| trigger.actions.iter().any(starts));
    }
    Ok(all)
}

pub(super) async fn get_triggers(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Triggers = call.input()?;
    let all = listed(rooms, input.dependent_job_name.as_deref())?;
    let key = |trigger: &Trigger| trigger.name.clone();
    let (some, next) = page(all, key, input.next_token.as_deref(), input.max_results, 200)?;
    let shown = some.iter().map(|trigger| shown(rooms, trigger)).collect::<Result<_, Fault>>()?;
    super::listed("Triggers", shown, next)
}

pub(super) async fn list_triggers(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let input: Triggers = call.input()?;
    let all = listed(rooms, input.dependent_job_name.as_deref())?;
    let mut names: Vec<String> = all.into_iter().map(|trigger| trigger.name).collect();
    tags::keep_tagged(rooms, "trigger", &input.tags, &mut names)?;
    let token = input.next_token.as_deref();
    let (some, next) = page(names, Clone::clone, token, input.max_results, 200)?;
    super::listed("TriggerNames", some.into_iter().map(Value::from).collect(), next)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "PascalCase")]
struct BatchGetTriggers {
    trigger_names: Vec<String>,
}

pub(super) async fn batch_get_triggers(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let (mut found, mut missing) = (Vec::new(), Vec::new());
    for name in call.input::<BatchGetTriggers>()?.trigger_names {
        match rooms.lake.get_trigger(&name) {
            Ok(trigger) => found.push(shown(rooms, &trigger)?),
            Err(error) if error.kind() == ErrorKind::NotFound => missing.push(name),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(json!({"Triggers": found, "TriggersNotFound": missing}).into())
}

pub(super) async fn delete_trigger(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let name = call.input::<super::Named>()?.name;
    // As on AWS, it is no error to delete a trigger that is not there.
    rooms.lake.delete_trigger(&name)?;
    rooms.metastore.delete::<Words>(&name)?;
    tags::forget(rooms, "trigger", &name)?;
    Ok(json!({"Name": name}).into())
}

pub(super) async fn start_trigger(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let name = call.input::<super::Named>()?.name;
    match rooms.lake.get_trigger(&name)?.when {
        When::OnDemand => rooms.lake.fire_trigger(&name)?,
        _ => rooms.lake.set_trigger_active(&name, true)?,
    }
    let words = Words { started: true, ..words(rooms, &name)? };
    rooms.metastore.put(&name, &words)?;
    Ok(json!({"Name": name}).into())
}

pub(super) async fn stop_trigger(rooms: &Arc<Rooms>, call: &Call) -> Outcome {
    let name = call.input::<super::Named>()?.name;
    if rooms.lake.get_trigger(&name)?.when == When::OnDemand {
        return Err(Fault::invalid(format!(
            "trigger {name:?} is ON_DEMAND and fires only when it is started"
        )));
    }
    rooms.lake.set_trigger_active(&name, false)?;
    Ok(json!({"Name": name}).into())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::World;

    async fn world() -> World {
        let world = World::new();
        world.rooms.buckets.create_bucket("lake").unwrap();
        let nodes = json!({
            "in": {"CatalogSource": {"Name": "in", "Database": "air", "Table": "raw"}},
            "out": {"S3GlueParquetTarget": {"Name": "out", "Inputs": ["in"], "Path": "s3://lake/out/"}},
        });
        for name in ["one", "two"] {
            let job = json!({"Name": name, "Role": "r", "Command": {"Name": "glueetl"},
                "DefaultArguments": {"--job-bookmark-option": "job-bookmark-enable"},
                "MaxRetries": 3, "CodeGenConfigurationNodes": nodes});
            world.call("glue", "CreateJob", job).await.unwrap();
        }
        world
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn triggers_come_back_as_they_were_given_and_change_state() {
        let world = world().await;
        let call = |operation: &'static str, input: Value| world.call("glue", operation, input);
        let kinds = [
            json!({"Type": "SCHEDULED", "Schedule": "cron(15 12 * * ? *)"}),
            json!({"Type": "EVENT", "EventBatchingCondition": {"BatchSize": 1, "BatchWindow": 60}}),
            json!({"Type": "CONDITIONAL", "Predicate": {"Logical": "ANY", "Conditions": [
                {"LogicalOperator": "EQUALS", "JobName": "two", "State": "FAILED"}]}}),
        ];
        for (index, kind) in kinds.into_iter().enumerate() {
            let name = format!("t{index}");
            let mut given = kind.clone();
            given["Name"] = json!(name);
            given["Description"] = json!("why");
            given["Actions"] = json!([{"JobName": "one", "Arguments": {"--k": "v"}, "Timeout": 5}]);
            call("CreateTrigger", given.clone()).await.unwrap();
            let code = call("CreateTrigger", given.clone()).await.unwrap_err().1;
            assert_eq!(code, "AlreadyExistsException");
            let of = json!({"Name": name});
            let state = async || {
                let mut found = call("GetTrigger", of.clone()).await.unwrap()["Trigger"].take();
                let state = found.as_object_mut().unwrap().remove("State").unwrap();
                assert_eq!(found, given);
                state
            };
            assert_eq!(state().await, "CREATED");
            call("StartTrigger", of.clone()).await.unwrap();
            assert_eq!(state().await, "ACTIVATED");
            call("StopTrigger", of.clone()).await.unwrap();
            assert_eq!(state().await, "DEACTIVATED");
        }
        let of_two = json!({"DependentJobName": "two"});
        assert_eq!(call("ListTriggers", of_two).await.unwrap()["TriggerNames"], json!([]));
        let of_one = json!({"DependentJobName": "one", "MaxResults": 2});
        let found = call("GetTriggers", of_one).await.unwrap();
        assert_eq!(found["Triggers"].as_array().unwrap().len(), 2);
        assert!(found["NextToken"].is_string());
        let update = json!({"Name": "t0", "TriggerUpdate": {"Schedule": "cron(0 1 * * ? *)"}});
        let updated = call("UpdateTrigger", update).await.unwrap();
        assert_eq!(updated["Trigger"]["Schedule"], "cron(0 1 * * ? *)");
        assert_eq!(updated["Trigger"]["Actions"][0]["JobName"], "one");
        let some = json!({"TriggerNames": ["t1", "no"]});
        let found = call("BatchGetTriggers", some).await.unwrap();
        assert_eq!(found["TriggersNotFound"], json!(["no"]));
        for _ in 0..2 {
            call("DeleteTrigger", json!({"Name": "t0"})).await.unwrap();
        }
        let code = call("GetTrigger", json!({"Name": "t0"})).await.unwrap_err().1;
        assert_eq!(code, "EntityNotFoundException");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn triggers_that_cannot_be_are_refused_by_name() {
        let world = world().await;
        let one = json!([{"JobName": "one"}]);
        for (given, says) in [
            (json!({"Type": "SCHEDULED", "Actions": one}), "Schedule"),
            (json!({"Type": "SCHEDULED", "Schedule": "rate(1 day)", "Actions": one}), "cron"),
            (
                json!({"Type": "ON_DEMAND", "Schedule": "cron(0 1 * * ? *)", "Actions": one}),
                "Schedule",
            ),
            (json!({"Type": "ON_DEMAND", "Actions": []}), "actions"),
            (json!({"Type": "ON_DEMAND", "Actions": [{"JobName": "no"}]}), "\"no\""),
            (json!({"Type": "ON_DEMAND", "Actions": one, "WorkflowName": "w"}), "WorkflowName"),
            (
                json!({"Type": "EVENT", "Actions": one, "EventBatchingCondition": {"BatchSize": 5}}),
                "BatchSize",
            ),
            (
                json!({"Type": "CONDITIONAL", "Actions": one, "Predicate": {"Conditions": [
                {"JobName": "two", "State": "TIMEOUT"}]}}),
                "TIMEOUT",
            ),
        ] {
            let mut given = given;
            given["Name"] = json!("t");
            let (_, code, message) = world.call("glue", "CreateTrigger", given).await.unwrap_err();
            assert!(code == "InvalidInputException" || code == "EntityNotFoundException", "{code}");
            assert!(message.contains(says), "{says}: {message}");
        }
    }
}
