//! The properties of an MQTT 5 PUBLISH that its receivers get.

use crate::{Error, ErrorKind, Result, TopicName};

/// Their identifiers (MQTT 5, 2.2.2.2).
mod id {
    pub(super) const PAYLOAD_FORMAT: u8 = 0x01;
    pub(super) const MESSAGE_EXPIRY: u8 = 0x02;
    pub(super) const CONTENT_TYPE: u8 = 0x03;
    pub(super) const RESPONSE_TOPIC: u8 = 0x08;
    pub(super) const CORRELATION_DATA: u8 = 0x09;
    pub(super) const USER_PROPERTY: u8 = 0x26;
}

/// The properties of a message that go to whoever gets it.
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
    /// As they stand on the wire, without their length.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        if let Some(utf8) = self.utf8 {
            out.extend([id::PAYLOAD_FORMAT, u8::from(utf8)]);
        }
        if let Some(secs) = self.expiry_secs {
            out.push(id::MESSAGE_EXPIRY);
            out.extend(secs.to_be_bytes());
        }
        if let Some(text) = &self.content_type {
            out.push(id::CONTENT_TYPE);
            put("content type", text.as_bytes(), &mut out)?;
        }
        if let Some(topic) = &self.response_topic {
            TopicName::parse(topic).map_err(|error| error.context("response topic"))?;
            out.push(id::RESPONSE_TOPIC);
            put("response topic", topic.as_bytes(), &mut out)?;
        }
        if let Some(bytes) = &self.correlation_data {
            out.push(id::CORRELATION_DATA);
            put("correlation data", bytes, &mut out)?;
        }
        for (name, value) in &self.user {
            out.push(id::USER_PROPERTY);
            put("name of a user property", name.as_bytes(), &mut out)?;
            put("value of a user property", value.as_bytes(), &mut out)?;
        }
        Ok(out)
    }

    /// Reads what [`encode`](Self::encode) wrote, or what a client sent and the broker checked.
    pub fn decode(mut wire: &[u8]) -> Result<Properties> {
        let mut properties = Properties::default();
        while let Some((id, rest)) = wire.split_first() {
            wire = rest;
            match *id {
                id::PAYLOAD_FORMAT => properties.utf8 = Some(take(&mut wire, 1)? == [1]),
                id::MESSAGE_EXPIRY => {
                    let secs = <[u8; 4]>::try_from(take(&mut wire, 4)?);
                    properties.expiry_secs = secs.ok().map(u32::from_be_bytes);
                }
                id::CONTENT_TYPE => properties.content_type = Some(text(&mut wire)?),
                id::RESPONSE_TOPIC => properties.response_topic = Some(text(&mut wire)?),
                id::CORRELATION_DATA => {
                    properties.correlation_data = Some(bytes(&mut wire)?.to_vec());
                }
                id::USER_PROPERTY => {
                    properties.user.push((text(&mut wire)?, text(&mut wire)?));
                }
                _ => return Err(corrupt()),
            }
        }
        Ok(properties)
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

fn corrupt() -> Error {
    Error::new(ErrorKind::Corrupt, "the properties of a message cannot be read")
}

fn take<'a>(wire: &mut &'a [u8], count: usize) -> Result<&'a [u8]> {
    let (taken, rest) = wire.split_at_checked(count).ok_or_else(corrupt)?;
    *wire = rest;
    Ok(taken)
}

fn bytes<'a>(wire: &mut &'a [u8]) -> Result<&'a [u8]> {
    let count = take(wire, 2)?;
    take(wire, usize::from(u16::from_be_bytes([count[0], count[1]])))
}

fn text(wire: &mut &[u8]) -> Result<String> {
    let text = std::str::from_utf8(bytes(wire)?).map_err(|_not_text| corrupt())?;
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back_and_cut_short_is_corrupt() {
        let all = Properties {
            utf8: Some(true),
            expiry_secs: Some(70_000),
            content_type: Some("application/json".into()),
            response_topic: Some("a/b".into()),
            correlation_data: Some(vec![0, 255]),
            user: vec![("k".into(), "v".into()), ("k".into(), "w\u{e9}".into())],
        };
        let wire = all.encode().unwrap();
        assert_eq!(Properties::decode(&wire).unwrap(), all);
        assert_eq!(Properties::decode(&[]).unwrap(), Properties::default());
        let whole_at: Vec<usize> =
            (0..wire.len()).filter(|cut| Properties::decode(&wire[..*cut]).is_ok()).collect();
        // Between properties only.
        assert_eq!(whole_at.len(), 7, "{whole_at:?}");
        assert!(Properties::decode(&[0x7f]).is_err());
        let bad = Properties { response_topic: Some("a/#".into()), ..Properties::default() };
        assert!(bad.encode().unwrap_err().to_string().contains("response topic"));
    }
}
