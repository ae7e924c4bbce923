//! Publishing from inside the program: for HTTP, and for the commands of an operator.

use base::{Error, ErrorKind, Extras, MessageRef, Offset, Properties, QoS, Result, TopicName};
use journal::{Appended, Batch, Bell};

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

/// Whether a topic hands its message to one rule and to nobody else.
pub(crate) fn is_basic_ingest(topic: &str) -> bool {
    topic.strip_prefix(BASIC_INGEST).is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'))
}

impl Broker {
    /// Why nobody but the broker may publish on a topic.
    pub fn refuses_topic(&self, topic: &str) -> Option<String> {
        let for_shadow = self.shadows.is_some() && shadows::request(topic).is_some();
        (topic.starts_with('$') && !for_shadow).then(|| {
            format!(
                "topic {topic:?}: topics that start with $ are reserved, but for \
                 {BASIC_INGEST}NAME and the requests to shadows"
            )
        })
    }

    /// Appends messages that somebody else made to the log, where their topics are not refused.
    pub fn append_outside(&self, batch: &Batch) -> Result<Appended> {
        let asks = |record: &[u8]| {
            MessageRef::decode(record)
                .is_ok_and(|message| shadows::request(message.topic).is_some())
        };
        let concern = Concern { retained: false, shadows: batch.records().any(asks) };
        self.append(batch, None, concern)
    }

    /// Publishes a message and answers with its offset when it is on stable storage, as a
    /// PUBACK would.
    pub async fn publish_outside(&self, message: &Outside<'_>) -> Result<Offset> {
        let topic = TopicName::parse(message.topic)?;
        let topic = topic.as_str();
        if let Some(why) = self.refuses_topic(topic).filter(|_| !is_basic_ingest(topic)) {
            return Err(Error::invalid(why));
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
        let shadows = shadows::request(topic).is_some();
        let concern = Concern { retained: message.retain, shadows };
        let appended = self.append(&batch, Some(&bell), concern)?;
        bell.past(appended.next()).await?;
        self.counters.logged.one();
        Ok(appended.first)
    }
}
