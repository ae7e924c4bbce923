//! `DeploymentConfig`: what it says, as the steps of a rollout.

use serde::Deserialize;
use serde_json::Value;
use serving::Rollout;

use crate::fault::Fault;
use crate::rooms::Rooms;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Deployment {
    blue_green_update_policy: Option<BlueGreen>,
    rolling_update_policy: Option<Rolling>,
    auto_rollback_configuration: Option<AutoRollback>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct BlueGreen {
    traffic_routing_configuration: Routing,
    #[serde(default)]
    termination_wait_in_seconds: u64,
    maximum_execution_timeout_in_seconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Routing {
    r#type: String,
    #[serde(default)]
    wait_interval_in_seconds: u64,
    canary_size: Option<Size>,
    linear_step_size: Option<Size>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Size {
    r#type: String,
    value: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Rolling {
    maximum_batch_size: Size,
    #[serde(default)]
    wait_interval_in_seconds: u64,
    maximum_execution_timeout_in_seconds: Option<u64>,
    rollback_maximum_batch_size: Option<Size>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct AutoRollback {
    #[serde(default)]
    alarms: Vec<Alarm>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Alarm {
    alarm_name: String,
}

/// The rollout that `config` asks for, where the variants have `instances` together; none
/// where nothing is asked, which is all at once without a wait.
pub(super) fn rollout(
    rooms: &Rooms,
    config: Option<&Value>,
    instances: u32,
) -> Result<Option<Rollout>, Fault> {
    let Some(config) = config.filter(|config| !super::asks_nothing(Some(config))) else {
        return Ok(None);
    };
    let config: Deployment = serde_path_to_error::deserialize(config).map_err(|error| {
        let place = format!("DeploymentConfig.{}", error.path());
        Fault::input(&place, &error.into_inner().to_string())
    })?;
    let alarms = alarms(rooms, config.auto_rollback_configuration)?;
    let made = match (config.blue_green_update_policy, config.rolling_update_policy) {
        (Some(_), Some(_)) => {
            return Err(Fault::invalid(
                "DeploymentConfig names both BlueGreenUpdatePolicy and RollingUpdatePolicy; name one",
            ));
        }
        (Some(policy), None) => blue_green(&policy, instances, alarms)?,
        (None, Some(policy)) => rolling(&policy, instances, alarms)?,
        (None, None) => {
            let shares = vec![1.0];
            Rollout { shares, wait_secs: 0, keep_secs: 0, limit_secs: None, alarms }
        }
    };
    Ok(Some(made))
}

fn alarms(rooms: &Rooms, config: Option<AutoRollback>) -> Result<Vec<String>, Fault> {
    let alarms: Vec<String> =
        config.into_iter().flat_map(|config| config.alarms).map(|one| one.alarm_name).collect();
    if alarms.len() > 10 {
        let found = alarms.len();
        return Err(Fault::invalid(format!(
            "{found} alarms in AutoRollbackConfiguration, at most 10"
        )));
    }
    if alarms.is_empty() {
        return Ok(alarms);
    }
    if !rooms.host.has_watch() {
        return Err(Fault::unsupported(
            "AutoRollbackConfiguration.Alarms",
            &format!("no alarms are watched by this server (it was given {alarms:?})"),
        ));
    }
    match rooms.host.ringing(&alarms) {
        Some(why) => Err(Fault::invalid(format!("The update was not begun: {why}"))),
        None => Ok(alarms),
    }
}

fn blue_green(policy: &BlueGreen, instances: u32, alarms: Vec<String>) -> Result<Rollout, Fault> {
    let routing = &policy.traffic_routing_configuration;
    let step = match (routing.r#type.as_str(), &routing.canary_size, &routing.linear_step_size) {
        ("ALL_AT_ONCE", None, None) => 1.0,
        ("CANARY", Some(size), None) => size.share("CanarySize", 1, 50, instances)?,
        ("LINEAR", None, Some(size)) => size.share("LinearStepSize", 10, 50, instances)?,
        (kind @ ("ALL_AT_ONCE" | "CANARY" | "LINEAR"), ..) => {
            return Err(Fault::invalid(format!(
                "TrafficRoutingConfiguration of Type {kind}: CANARY takes CanarySize, LINEAR takes LinearStepSize, ALL_AT_ONCE neither"
            )));
        }
        (other, ..) => {
            return Err(Fault::invalid(format!(
                "TrafficRoutingConfiguration.Type {other:?}: use ALL_AT_ONCE, CANARY or LINEAR"
            )));
        }
    };
    let shares = match routing.r#type.as_str() {
        "CANARY" if step < 1.0 => vec![step, 1.0],
        _ => steps(step),
    };
    let (wait, keep) = (routing.wait_interval_in_seconds, policy.termination_wait_in_seconds);
    within("WaitIntervalInSeconds", wait)?;
    within("TerminationWaitInSeconds", keep)?;
    finish(shares, wait, keep, policy.maximum_execution_timeout_in_seconds, alarms)
}

fn rolling(policy: &Rolling, instances: u32, alarms: Vec<String>) -> Result<Rollout, Fault> {
    let step = policy.maximum_batch_size.share("MaximumBatchSize", 5, 50, instances)?;
    if let Some(size) = &policy.rollback_maximum_batch_size {
        // Going back takes no time here, so that a batch of any size is kept to.
        size.share("RollbackMaximumBatchSize", 1, 100, instances)?;
    }
    let wait = policy.wait_interval_in_seconds;
    within("WaitIntervalInSeconds", wait)?;
    finish(steps(step), wait, 0, policy.maximum_execution_timeout_in_seconds, alarms)
}

fn finish(
    shares: Vec<f64>,
    wait_secs: u64,
    keep_secs: u64,
    limit_secs: Option<u64>,
    alarms: Vec<String>,
) -> Result<Rollout, Fault> {
    let waits = wait_secs.saturating_mul(shares.len() as u64).saturating_add(keep_secs);
    if let Some(limit) = limit_secs {
        if !(600..=28_800).contains(&limit) {
            return Err(Fault::invalid(format!(
                "MaximumExecutionTimeoutInSeconds {limit} is not within 600 and 28800"
            )));
        }
        if limit <= waits {
            return Err(Fault::invalid(format!(
                "MaximumExecutionTimeoutInSeconds {limit} does not exceed the {waits} s of the deployment's waits"
            )));
        }
    }
    Ok(Rollout { shares, wait_secs, keep_secs, limit_secs, alarms })
}

fn within(member: &str, seconds: u64) -> Result<(), Fault> {
    match seconds <= 3600 {
        true => Ok(()),
        false => Err(Fault::invalid(format!("{member} {seconds} is above 3600"))),
    }
}

/// Equal steps up to all.
fn steps(step: f64) -> Vec<f64> {
    let mut shares = Vec::new();
    let mut at = step;
    while at < 0.999_999 {
        shares.push(at);
        at += step;
    }
    shares.push(1.0);
    shares
}

impl Size {
    /// The part of all requests that this size stands for.
    fn share(&self, member: &str, least: u32, most: u32, instances: u32) -> Result<f64, Fault> {
        let value = self.value;
        match self.r#type.as_str() {
            "CAPACITY_PERCENT" if (least..=most).contains(&value) => Ok(f64::from(value) / 100.0),
            "CAPACITY_PERCENT" => Err(Fault::invalid(format!(
                "{member} of {value} percent is not within {least} and {most}"
            ))),
            "INSTANCE_COUNT" if value >= 1 => {
                Ok((f64::from(value) / f64::from(instances.max(1))).min(1.0))
            }
            other => Err(Fault::invalid(format!(
                "{member} of Type {other:?} and Value {value}: use INSTANCE_COUNT of at least 1 or CAPACITY_PERCENT"
            ))),
        }
    }
}
