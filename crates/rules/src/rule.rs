//! A rule as it is kept: a name and its versions, each in force from an offset on.

use base::{Error, Offset, QoS, Result, Timestamp, TopicName};
use metastore::Row;
use serde::{Deserialize, Serialize};

use crate::sql::Sql;

/// Longest name of a rule.
const NAME_BYTES_MAX: usize = 128;

/// Most actions of a rule (AWS's bound).
const ACTIONS_MAX: usize = 10;

/// Separators that AWS allows between records.
const SEPARATORS: [&str; 4] = ["\n", "\t", "\r\n", ","];

/// What a rule does with its output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Hands the output to a delivery stream.
    Firehose {
        /// The stream's name.
        stream: String,
        /// Appended to each record: a newline, a tab, a Windows newline or a comma.
        separator: Option<String>,
        /// An output that is an array becomes one record per element.
        batch_mode: bool,
    },
}

impl Action {
    fn check(&self) -> Result<()> {
        let Action::Firehose { stream, separator, .. } = self;
        if stream.contains("${") {
            return Err(Error::unsupported(format!(
                "a substitution template in the stream name {stream:?} is not supported yet"
            )));
        }
        if let Some(separator) = separator
            && !SEPARATORS.contains(&separator.as_str())
        {
            return Err(Error::invalid(format!(
                "separator {separator:?} is not one of \"\\n\", \"\\t\", \"\\r\\n\" and \",\""
            )));
        }
        Ok(())
    }
}

/// Publishes the output, or the report of a failure, on a topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Republish {
    /// The topic; not a reserved one.
    pub topic: String,
    /// 0 or 1.
    pub qos: u8,
}

impl Republish {
    fn check(&self) -> Result<()> {
        let topic = &self.topic;
        if topic.contains("${") {
            return Err(Error::unsupported(format!(
                "a substitution template in the topic {topic:?} is not supported yet"
            )));
        }
        if topic.starts_with('$') {
            return Err(Error::unsupported(format!(
                "republishing on the reserved topic {topic:?} is not supported"
            )));
        }
        TopicName::parse(topic)?;
        if self.qos > 1 {
            return Err(Error::invalid(format!("qos {} is neither 0 nor 1", self.qos)));
        }
        Ok(())
    }

    /// The quality of service.
    pub fn qos(&self) -> QoS {
        if self.qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce }
    }
}

/// What a rule does with its output besides handing it to streams, and when that fails.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Republishing {
    /// Topics that get the output.
    pub output: Vec<Republish>,
    /// The topic that gets a report when an action failed.
    pub on_error: Option<Republish>,
}

/// What a caller says to make or replace a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRule {
    /// Letters, digits and underscores, at most 128.
    pub name: String,
    /// For people.
    pub description: String,
    /// The statement.
    pub sql: String,
    /// What is done with the output.
    pub actions: Vec<Action>,
    /// Whether it is in force at once.
    pub enabled: bool,
}

impl NewRule {
    /// Checks everything that can be wrong with a rule, and reads its statement.
    pub fn check(&self) -> Result<Sql> {
        self.check_with(&Republishing::default())
    }

    /// As [`NewRule::check`], for a rule that republishes.
    pub fn check_with(&self, republishing: &Republishing) -> Result<Sql> {
        let name = &self.name;
        let name_ok = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !name_ok || name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(Error::invalid(format!(
                "rule name {name:?} must be 1 to {NAME_BYTES_MAX} letters, digits and underscores"
            )));
        }
        let actions = self.actions.len() + republishing.output.len();
        if actions == 0 || actions > ACTIONS_MAX {
            return Err(Error::invalid(format!(
                "rule {name:?} has {actions} actions; 1 to {ACTIONS_MAX} are allowed"
            )));
        }
        let of_rule = |error: Error| error.context(format!("rule {name:?}"));
        for action in &self.actions {
            action.check().map_err(of_rule)?;
        }
        for republish in republishing.output.iter().chain(&republishing.on_error) {
            republish.check().map_err(of_rule)?;
        }
        Sql::parse(&self.sql).map_err(of_rule)
    }
}

/// Whether a version acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleState {
    /// It acts on what it matches.
    Enabled,
    /// It is kept and does nothing.
    Disabled,
    /// It is gone for everybody but a replay of older records.
    Deleted,
}

/// One version of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleVersion {
    /// Counts up from 1, also across deleting and making the rule anew.
    pub version: u64,
    /// The first offset it applies to.
    pub from_offset: Offset,
    /// Whether it acts.
    pub state: RuleState,
    /// The statement.
    pub sql: String,
    /// What is done with the output.
    pub actions: Vec<Action>,
    /// Topics that get the output.
    #[serde(default)]
    pub republish: Vec<Republish>,
    /// The topic that gets a report when an action failed.
    #[serde(default)]
    pub on_error: Option<Republish>,
    /// When it was made.
    pub changed_at: Timestamp,
}

/// A rule. Made by [`RuleBook`](crate::RuleBook), read by whoever lists rules.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRow {
    /// The name, which is also the row's key.
    pub name: String,
    /// For people.
    pub description: String,
    /// When a rule of this name was last made.
    pub created_at: Timestamp,
    /// The versions, oldest first; each ends where the next begins. Never empty.
    pub versions: Vec<RuleVersion>,
}

impl RuleRow {
    /// The newest version, unless the rule was deleted.
    pub fn current(&self) -> Option<&RuleVersion> {
        self.versions.last().filter(|version| version.state != RuleState::Deleted)
    }

    /// Adds a version. One that would apply to no offset any more is dropped for it.
    pub(crate) fn push(&mut self, mut version: RuleVersion) {
        if let Some(last) = self.versions.last() {
            version.version = last.version + 1;
            version.from_offset = version.from_offset.max(last.from_offset);
        }
        self.versions.retain(|older| older.from_offset < version.from_offset);
        self.versions.push(version);
    }
}

impl Row for RuleRow {
    const TABLE: &'static str = "rules";
}
