//! Where a rule's output goes besides streams: topics, objects, log events, metrics and HTTP
//! endpoints. The fields may hold substitution templates; they are read when the rule is made
//! and filled for each message.

use base::{Error, MessageRef, Properties, QoS, Result, Timestamp, TopicName};
use serde::{Deserialize, Serialize};

use crate::base64;
use crate::sql::{Context, Sql, Template};

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

/// Puts the output, or the report of a failure, somewhere outside the log. Done again after a
/// crash: an object is replaced by the same one, an event, a measurement or a request may come
/// twice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Put {
    /// An object of its own.
    Object {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
    },
    /// An event of a log group, in a stream of the rule's name.
    LogEvent {
        /// The group, which must exist.
        group: String,
        /// An output that is an array of objects with `timestamp` and `message` becomes one
        /// event per element.
        batch_mode: bool,
    },
    /// A measurement.
    Metric {
        /// The metric's namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// A number.
        value: String,
        /// A unit of CloudWatch's.
        unit: String,
        /// Seconds since 1970; the message's arrival if it is not given.
        timestamp: Option<String>,
    },
    /// A POST to an endpoint that confirmed that it wants them.
    Http {
        /// Where to.
        url: String,
        /// Names and values; the values may hold templates.
        headers: Vec<(String, String)>,
    },
}

/// A [`Put`] for one message.
#[derive(Clone, Debug, PartialEq)]
pub enum Filled {
    /// See [`Put::Object`].
    Object {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
    },
    /// See [`Put::LogEvent`].
    LogEvent {
        /// The group.
        group: String,
    },
    /// See [`Put::Metric`].
    Metric {
        /// The namespace.
        namespace: String,
        /// The name.
        name: String,
        /// What was measured.
        value: f64,
        /// When.
        at: Timestamp,
    },
    /// See [`Put::Http`].
    Http {
        /// Where to.
        url: String,
        /// Names and values.
        headers: Vec<(String, String)>,
    },
}

/// The units of CloudWatch, which keeps them as they are given.
const UNITS: [&str; 27] = [
    "Seconds",
    "Microseconds",
    "Milliseconds",
    "Bytes",
    "Kilobytes",
    "Megabytes",
    "Gigabytes",
    "Terabytes",
    "Bits",
    "Kilobits",
    "Megabits",
    "Gigabits",
    "Terabits",
    "Percent",
    "Count",
    "Bytes/Second",
    "Kilobytes/Second",
    "Megabytes/Second",
    "Gigabytes/Second",
    "Terabytes/Second",
    "Bits/Second",
    "Kilobits/Second",
    "Megabits/Second",
    "Gigabits/Second",
    "Terabits/Second",
    "Count/Second",
    "None",
];

impl Put {
    /// AWS's name for the action.
    pub fn action(&self) -> &'static str {
        match self {
            Put::Object { .. } => "S3Action",
            Put::LogEvent { .. } => "CloudwatchLogsAction",
            Put::Metric { .. } => "CloudwatchMetricAction",
            Put::Http { .. } => "HttpAction",
        }
    }

    /// What it is put into, as it was given.
    pub fn resource(&self) -> &str {
        match self {
            Put::Object { bucket, .. } => bucket,
            Put::LogEvent { group, .. } => group,
            Put::Metric { name, .. } => name,
            Put::Http { url, .. } => url,
        }
    }

    /// Whether somebody else's machine has to answer.
    pub fn is_far(&self) -> bool {
        matches!(self, Put::Http { .. })
    }

    /// Every field, in the order of [`Filled`].
    fn fields(&self) -> Vec<&String> {
        match self {
            Put::Object { bucket, key } => vec![bucket, key],
            Put::LogEvent { group, .. } => vec![group],
            Put::Metric { namespace, name, value, unit, timestamp } => {
                [namespace, name, value, unit].into_iter().chain(timestamp).collect()
            }
            Put::Http { url, headers } => {
                std::iter::once(url).chain(headers.iter().map(|(_, value)| value)).collect()
            }
        }
    }
}

/// A [`Put`] with its templates read.
#[derive(Debug)]
pub struct PutTarget {
    /// As it was given.
    pub given: Put,
    fields: Vec<Template>,
}

impl PutTarget {
    pub(crate) fn read(given: &Put, sql: &Sql) -> Result<PutTarget> {
        let fields = given.fields().into_iter().map(|text| Template::parse(text, sql));
        let target = PutTarget { given: given.clone(), fields: fields.collect::<Result<_>>()? };
        let constants: Option<Vec<String>> =
            target.fields.iter().map(|field| field.constant().map(str::to_owned)).collect();
        // What is the same for every message is checked now.
        if let Some(constants) = constants {
            target.filled(&constants, Timestamp(0)).map_err(Error::invalid)?;
        }
        Ok(target)
    }

    /// What is put where for a message; the error says for people why that cannot be.
    pub fn fill(
        &self,
        sql: &Sql,
        message: &MessageRef<'_>,
        context: &Context<'_>,
    ) -> std::result::Result<Filled, String> {
        let fields = self.fields.iter().map(|field| field.fill(sql, message, context));
        let fields: Vec<String> = fields.collect::<std::result::Result<_, _>>()?;
        self.filled(&fields, message.received_at)
    }

    fn filled(&self, fields: &[String], now: Timestamp) -> std::result::Result<Filled, String> {
        let field = |index: usize| fields.get(index).cloned().unwrap_or_default();
        Ok(match &self.given {
            Put::Object { .. } => Filled::Object { bucket: field(0), key: field(1) },
            Put::LogEvent { .. } => Filled::LogEvent { group: field(0) },
            Put::Http { headers, .. } => {
                let names = headers.iter().enumerate();
                let headers = names.map(|(at, (name, _))| (name.clone(), field(at + 1))).collect();
                Filled::Http { url: field(0), headers }
            }
            Put::Metric { timestamp, .. } => {
                let value: Option<f64> =
                    field(2).parse().ok().filter(|value: &f64| value.is_finite());
                let value =
                    value.ok_or_else(|| format!("metricValue {:?} is not a number", field(2)))?;
                if !UNITS.contains(&field(3).as_str()) {
                    return Err(format!(
                        "metricUnit {:?} is not one of CloudWatch's units",
                        field(3)
                    ));
                }
                let at = match timestamp {
                    None => now,
                    Some(_) => {
                        let secs: Option<i64> = field(4).parse().ok();
                        let millis = secs.and_then(|secs| secs.checked_mul(1000));
                        Timestamp(millis.ok_or_else(|| {
                            format!("metricTimestamp {:?} is not a time in seconds", field(4))
                        })?)
                    }
                };
                Filled::Metric { namespace: field(0), name: field(1), value, at }
            }
        })
    }
}

/// What gets a report when an action of a rule failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ErrorAction {
    /// A topic.
    Republish(Republish),
    /// A delivery stream.
    Firehose {
        /// The stream's name.
        stream: String,
        /// Appended to each report.
        separator: Option<String>,
    },
    /// Something outside the log.
    Put(Put),
}

/// An [`ErrorAction`] with its templates read.
#[derive(Debug)]
pub enum ErrorTarget {
    /// See [`ErrorAction::Republish`].
    Republish(Box<Target>),
    /// See [`ErrorAction::Firehose`].
    Firehose {
        /// The stream's name.
        stream: Template,
        /// Appended to each report.
        separator: Option<String>,
    },
    /// See [`ErrorAction::Put`].
    Put(PutTarget),
}

impl ErrorAction {
    pub(crate) fn read(&self, sql: &Sql) -> Result<ErrorTarget> {
        Ok(match self {
            ErrorAction::Republish(republish) => {
                ErrorTarget::Republish(Box::new(Target::read(republish, sql)?))
            }
            ErrorAction::Firehose { stream, separator } => ErrorTarget::Firehose {
                stream: Template::parse(stream, sql)?,
                separator: separator.clone(),
            },
            ErrorAction::Put(put) if put.is_far() => {
                return Err(Error::unsupported(
                    "an error action cannot be http; republish the reports on a topic with a rule \
                     of its own that has an http action, or send them to a delivery stream",
                ));
            }
            ErrorAction::Put(put) => ErrorTarget::Put(PutTarget::read(put, sql)?),
        })
    }
}
