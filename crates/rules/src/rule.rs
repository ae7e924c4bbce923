//! A rule as it is kept: a name and its versions, each in force from an offset on.

use base::{Error, Offset, Result, Timestamp};
use metastore::Row;
use serde::{Deserialize, Serialize};

use crate::sql::{Sql, Template};
use crate::target::{ErrorAction, Put, PutTarget, Republish, Target};

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
        /// The stream's name, which may hold substitution templates.
        stream: String,
        /// Appended to each record: a newline, a tab, a Windows newline or a comma.
        separator: Option<String>,
        /// An output that is an array becomes one record per element.
        batch_mode: bool,
    },
}

impl Action {
    fn check(&self, sql: &Sql) -> Result<()> {
        let Action::Firehose { stream, separator, .. } = self;
        Template::parse(stream, sql)?;
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

/// What a rule does with its output besides handing it to streams, and when that fails.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Republishing {
    /// Topics that get the output.
    pub output: Vec<Republish>,
    /// Where else the output is put.
    pub puts: Vec<Put>,
    /// What gets a report when an action failed.
    pub on_error: Option<ErrorAction>,
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
        let Republishing { output, puts, on_error } = republishing;
        let actions = self.actions.len() + output.len() + puts.len();
        if actions == 0 || actions > ACTIONS_MAX {
            return Err(Error::invalid(format!(
                "rule {name:?} has {actions} actions; 1 to {ACTIONS_MAX} are allowed"
            )));
        }
        let of_rule = |error: Error| error.context(format!("rule {name:?}"));
        let sql = Sql::parse(&self.sql).map_err(of_rule)?;
        for action in &self.actions {
            action.check(&sql).map_err(of_rule)?;
        }
        for republish in output {
            Target::read(republish, &sql).map_err(of_rule)?;
        }
        for put in puts {
            PutTarget::read(put, &sql).map_err(of_rule)?;
        }
        if let Some(on_error) = on_error {
            on_error.read(&sql).map_err(of_rule)?;
        }
        Ok(sql)
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
    /// Where else the output is put.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub puts: Vec<Put>,
    /// What gets a report when an action failed.
    #[serde(default)]
    pub on_error: Option<ErrorAction>,
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
