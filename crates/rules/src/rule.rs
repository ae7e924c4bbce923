//! A rule as it is kept: a name and its versions, each in force from an offset on.

use base::{Error, MessageRef, Offset, Properties, QoS, Result, Timestamp, TopicName};
use metastore::Row;
use serde::{Deserialize, Serialize};

use crate::base64;
use crate::sql::{Context, Sql, Template};

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

/// Publishes the output, or the report of a failure, on a topic.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Republish {
    /// The topic, which may hold substitution templates. Of the reserved ones only requests to
    /// shadows are allowed; they begin with `$$`, since one `$` begins a template.
    pub topic: String,
    /// 0 or 1.
    pub qos: u8,
    /// What goes along.
    #[serde(default, skip_serializing_if = "Headers::is_empty")]
    pub headers: Headers,
}

/// Properties of MQTT 5 for a message that is republished; each may hold substitution templates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Headers {
    /// `UNSPECIFIED_BYTES` or `UTF8_DATA`.
    pub payload_format_indicator: Option<String>,
    /// What the payload is.
    pub content_type: Option<String>,
    /// Where an answer is expected.
    pub response_topic: Option<String>,
    /// What the answer should carry, in base64.
    pub correlation_data: Option<String>,
    /// How long the message is worth something, in seconds.
    pub message_expiry: Option<String>,
    /// Names and values of the user's own.
    pub user_properties: Vec<(String, String)>,
}

impl Headers {
    /// Whether nothing is to go along.
    pub fn is_empty(&self) -> bool {
        *self == Headers::default()
    }
}

/// A republishing with its templates read.
#[derive(Debug)]
pub struct Target {
    /// As it was given.
    pub given: Republish,
    topic: Template,
    payload_format_indicator: Option<Template>,
    content_type: Option<Template>,
    response_topic: Option<Template>,
    correlation_data: Option<Template>,
    message_expiry: Option<Template>,
    user_properties: Vec<(Template, Template)>,
}

impl Target {
    /// Reads the templates. What is the same for every message is checked now.
    pub(crate) fn read(given: &Republish, sql: &Sql) -> Result<Target> {
        if given.qos > 1 {
            return Err(Error::invalid(format!("qos {} is neither 0 nor 1", given.qos)));
        }
        let template = |text: &String| Template::parse(text, sql);
        let optional = |text: &Option<String>| text.as_ref().map(template).transpose();
        let Headers {
            payload_format_indicator,
            content_type,
            response_topic,
            correlation_data,
            message_expiry,
            user_properties,
        } = &given.headers;
        let user = user_properties.iter();
        let target = Target {
            given: given.clone(),
            topic: template(&given.topic)?,
            payload_format_indicator: optional(payload_format_indicator)?,
            content_type: optional(content_type)?,
            response_topic: optional(response_topic)?,
            correlation_data: optional(correlation_data)?,
            message_expiry: optional(message_expiry)?,
            user_properties: user
                .map(|(name, value)| Ok((template(name)?, template(value)?)))
                .collect::<Result<_>>()?,
        };
        target.check().map_err(Error::invalid)?;
        Ok(target)
    }

    /// Checks what does not depend on a message.
    fn check(&self) -> std::result::Result<(), String> {
        if let Some(topic) = self.topic.constant() {
            check_topic(topic)?;
        }
        let constant = |template: &Option<Template>| -> Option<String> {
            template.as_ref()?.constant().map(str::to_owned)
        };
        let properties = Properties {
            utf8: constant(&self.payload_format_indicator).map(|text| utf8(&text)).transpose()?,
            expiry_secs: constant(&self.message_expiry).map(|text| secs(&text)).transpose()?,
            response_topic: constant(&self.response_topic),
            ..Properties::default()
        };
        constant(&self.correlation_data).map(|text| binary(&text)).transpose()?;
        properties.encode().map(drop).map_err(|error| error.to_string())
    }

    /// Topic and properties for a message; the error says for people why there are none.
    pub fn fill(
        &self,
        sql: &Sql,
        message: &MessageRef<'_>,
        context: &Context<'_>,
    ) -> std::result::Result<(String, Properties), String> {
        let fill = |template: &Template| template.fill(sql, message, context);
        let optional = |template: &Option<Template>| template.as_ref().map(fill).transpose();
        let topic = fill(&self.topic)?;
        check_topic(&topic)?;
        let properties = Properties {
            utf8: optional(&self.payload_format_indicator)?.map(|text| utf8(&text)).transpose()?,
            expiry_secs: optional(&self.message_expiry)?.map(|text| secs(&text)).transpose()?,
            content_type: optional(&self.content_type)?,
            response_topic: optional(&self.response_topic)?,
            correlation_data: optional(&self.correlation_data)?
                .map(|text| binary(&text))
                .transpose()?,
            user: self
                .user_properties
                .iter()
                .map(|(name, value)| Ok((fill(name)?, fill(value)?)))
                .collect::<std::result::Result<_, String>>()?,
        };
        Ok((topic, properties))
    }
}

fn check_topic(topic: &str) -> std::result::Result<(), String> {
    if topic.starts_with('$') && !topic.starts_with("$aws/things/") {
        return Err(format!(
            "{topic:?} is a reserved topic; of those only $aws/things/... can be republished on"
        ));
    }
    TopicName::parse(topic).map(drop).map_err(|error| error.to_string())
}

fn utf8(text: &str) -> std::result::Result<bool, String> {
    match text {
        "UTF8_DATA" => Ok(true),
        "UNSPECIFIED_BYTES" => Ok(false),
        _ => Err(format!(
            "payloadFormatIndicator {text:?} is neither UNSPECIFIED_BYTES nor UTF8_DATA"
        )),
    }
}

fn secs(text: &str) -> std::result::Result<u32, String> {
    text.parse()
        .map_err(|_not_a_number| format!("messageExpiry {text:?} is not a whole number of seconds"))
}

fn binary(text: &str) -> std::result::Result<Vec<u8>, String> {
    base64::decode(text).ok_or_else(|| format!("correlationData {text:?} is not base64"))
}

impl Republish {
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
        let sql = Sql::parse(&self.sql).map_err(of_rule)?;
        for action in &self.actions {
            action.check(&sql).map_err(of_rule)?;
        }
        for republish in republishing.output.iter().chain(&republishing.on_error) {
            Target::read(republish, &sql).map_err(of_rule)?;
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
