//! Publishing from inside the program: for HTTP, and for the commands of an operator.

use base::{Error, ErrorKind, Extras, MessageRef, Offset, QoS, Result, TopicName};
use journal::{Batch, Bell};

use crate::{Broker, Concern, shadows};

/// Topics below it go to the rule they name.
const BASIC_INGEST: &str = "$aws/rules/";

/// A message of a publisher that has no MQTT connection.
#[derive(Clone, Debug, Default)]
pub struct Outside<'a> {
    /// The topic; of the reserved ones only `$aws/rules/NAME/...` and the requests to shadows are
    /// allowed.
    pub topic: &'a str,
    /// The bytes.
    pub payload: &'a [u8],
    /// Who publishes.
    pub principal: &'a str,
    /// The quality of service that subscribers may get.
    pub qos: QoS,
    /// Whether it is kept for those who subscribe later; empty, it ends that.
    pub retain: bool,
    /// What MQTT 5 says about the message.
    pub properties: Properties,
}

/// The properties of MQTT 5 that receivers get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties {
    /// Whether the payload is said to be UTF-8.
    pub utf8: Option<bool>,
    /// How long the message is worth something, in seconds.
    pub expiry_secs: Option<u32>,
    /// What the payload is.
    pub content_type: Option<String>,
    /// Where an answer is expected.
    pub response_topic: Option<String>,
    /// What the answer should carry.
    pub correlation_data: Option<Vec<u8>>,
    /// Names and values of the user's own.
    pub user: Vec<(String, String)>,
}

impl Properties {
    /// As they stand on the wire (MQTT 5, 2.2.2.2), without their length.
    fn encode(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        if let Some(utf8) = self.utf8 {
            out.extend([0x01, u8::from(utf8)]);
        }
        if let Some(secs) = self.expiry_secs {
            out.push(0x02);
            out.extend(secs.to_be_bytes());
        }
        if let Some(text) = &self.content_type {
            out.push(0x03);
            put("content type", text.as_bytes(), &mut out)?;
        }
        if let Some(topic) = &self.response_topic {
            TopicName::parse(topic).map_err(|error| error.context("response topic"))?;
            out.push(0x08);
            put("response topic", topic.as_bytes(), &mut out)?;
        }
        if let Some(bytes) = &self.correlation_data {
            out.push(0x09);
            put("correlation data", bytes, &mut out)?;
        }
        for (name, value) in &self.user {
            out.push(0x26);
            put("name of a user property", name.as_bytes(), &mut out)?;
            put("value of a user property", value.as_bytes(), &mut out)?;
        }
        Ok(out)
    }
}

fn put(what: &str, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
    let len = u16::try_from(bytes.len()).map_err(|_too_long| {
        Error::invalid(format!("{what} is {} bytes long; at most 65535 fit", bytes.len()))
    })?;
    out.extend(len.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

/// Whether a topic hands its message to one rule and to nobody else.
pub(crate) fn is_basic_ingest(topic: &str) -> bool {
    topic.strip_prefix(BASIC_INGEST).is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
}

impl Broker {
    /// Publishes a message and answers with its offset when it is on stable storage, as a
    /// PUBACK would.
    pub async fn publish_outside(&self, message: &Outside<'_>) -> Result<Offset> {
        let topic = TopicName::parse(message.topic)?;
        let topic = topic.as_str();
        let for_shadow = self.shadows.is_some() && shadows::request(topic).is_some();
        if topic.starts_with('$') && !is_basic_ingest(topic) && !for_shadow {
            return Err(Error::invalid(format!(
                "topic {topic:?}: topics that start with $ are reserved, but for \
                 {BASIC_INGEST}NAME and the requests to shadows"
            )));
        }
        let (bytes, limit) = (message.payload.len(), self.settings.payload_bytes_max);
        if bytes > limit {
            return Err(Error::invalid(format!(
                "payload of {bytes} bytes; at most {limit} are allowed"
            )));
        }
        if message.retain {
            let Some(retained) = &self.retained else {
                return Err(Error::unsupported("retained messages are not kept here"));
            };
            if let Some(why) = retained.refuses(topic, message.payload) {
                return Err(Error::new(ErrorKind::Exhausted, why));
            }
        }
        let properties = message.properties.encode()?;
        let record = MessageRef {
            topic,
            payload: message.payload,
            client_id: "",
            principal: message.principal,
            received_at: self.clock.now(),
            qos: message.qos,
            retain: message.retain,
        };
        let mut batch = Batch::new();
        batch.push(|out| {
            record.encode_with(&Extras { properties: &properties, ..Extras::default() }, out)
        })?;
        let bell = Bell::new();
        let concern = Concern { retained: message.retain, shadows: for_shadow };
        let appended = self.append(&batch, Some(&bell), concern)?;
        bell.past(appended.next()).await?;
        self.counters.logged.one();
        Ok(appended.first)
    }
}
