//! A published message: made by the broker or a direct put, kept by the journal, read by
//! rules and subscribers.
//!
//! ```text
//! record = version u8 (1) | flags u8 | received_at i64 | topic_len u16 | client_id_len u16
//!        | principal_len u16 | topic | client_id | principal
//!        | [packet_id u16, if flag bit 4] | [source_len u8 (4 or 16) | source, if flag bit 5]
//!        | [properties_len u32 | properties, if flag bit 3] | payload (to the end)
//! flags  = bits 0-1 QoS, bit 2 retain, bit 3 properties, bit 4 packet id, bit 5 source, others 0
//! ```
//! All integers are little-endian. The journal adds length and checksum around it.

use std::net::IpAddr;

use bytes::Bytes;

use crate::{Error, ErrorKind, Result, Timestamp};

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 16;
const RETAIN: u8 = 0b100;
const PROPERTIES: u8 = 0b1000;
const PACKET_ID: u8 = 0b1_0000;
const SOURCE: u8 = 0b10_0000;
const FLAGS: u8 = 0b11_1111;
/// A length and the longest address.
const SOURCE_BYTES_MAX: usize = 17;

/// MQTT's delivery promise of one message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QoS {
    /// Fire and forget.
    #[default]
    AtMostOnce = 0,
    /// Acknowledged, may be repeated.
    AtLeastOnce = 1,
    /// Acknowledged in four steps, never repeated.
    ExactlyOnce = 2,
}

/// One message. Cheap to clone out of the log: the payload is shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it was published.
    pub topic: String,
    /// The bytes, untouched.
    pub payload: Bytes,
    /// The MQTT client identifier, or empty for a direct put.
    pub client_id: String,
    /// Who published: the certificate id (hex SHA-256 of its DER), or `anonymous`.
    pub principal: String,
    /// When it arrived; IoT SQL's `timestamp()`.
    pub received_at: Timestamp,
    /// The publisher's quality of service.
    pub qos: QoS,
    /// Whether the publisher asked to retain it.
    pub retain: bool,
}

/// The parts of a message, borrowed, so that the broker can log without allocating.
#[derive(Clone, Copy, Debug)]
pub struct MessageRef<'a> {
    /// See [`Message::topic`].
    pub topic: &'a str,
    /// See [`Message::payload`].
    pub payload: &'a [u8],
    /// See [`Message::client_id`].
    pub client_id: &'a str,
    /// See [`Message::principal`].
    pub principal: &'a str,
    /// See [`Message::received_at`].
    pub received_at: Timestamp,
    /// See [`Message::qos`].
    pub qos: QoS,
    /// See [`Message::retain`].
    pub retain: bool,
}

/// What a record holds beside its message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extras<'a> {
    /// The properties of an MQTT 5 PUBLISH that its receivers must get unaltered, as they stood
    /// on the wire; [`Properties`](crate::Properties) reads them.
    pub properties: &'a [u8],
    /// The packet id under which it came, if it may come again under the same.
    pub packet_id: Option<u16>,
    /// The address of the device that sent it.
    pub source: Option<IpAddr>,
}

impl MessageRef<'_> {
    /// Bytes that [`encode_into`](Self::encode_into) appends.
    pub fn encoded_bytes(&self) -> usize {
        HEAD_BYTES
            + self.topic.len()
            + self.client_id.len()
            + self.principal.len()
            + self.payload.len()
    }

    /// Appends the record to `out`. Strings longer than 65,535 bytes are refused.
    pub fn encode_into(&self, out: &mut Vec<u8>) -> Result<()> {
        self.encode_with(&Extras::default(), out)
    }

    /// Appends the record together with what only the broker reads.
    pub fn encode_with(&self, extras: &Extras<'_>, out: &mut Vec<u8>) -> Result<()> {
        let Extras { properties, packet_id, source } = *extras;
        let properties_len = u32::try_from(properties.len()).map_err(|_too_long| {
            Error::invalid(format!("properties are {} bytes long", properties.len()))
        })?;
        let len = |what: &str, text: &str| {
            u16::try_from(text.len()).map_err(|_too_long| {
                Error::invalid(format!("{what} is {} bytes long; at most 65535 fit", text.len()))
            })
        };
        let topic_len = len("topic", self.topic)?;
        let client_id_len = len("client id", self.client_id)?;
        let principal_len = len("principal", self.principal)?;
        let extra = properties.len() + size_of::<u32>() + size_of::<u16>() + SOURCE_BYTES_MAX;
        out.reserve(self.encoded_bytes() + extra);
        out.push(VERSION);
        let retain = if self.retain { RETAIN } else { 0 };
        let has_properties = if properties.is_empty() { 0 } else { PROPERTIES };
        let has_packet_id = if packet_id.is_some() { PACKET_ID } else { 0 };
        let has_source = if source.is_some() { SOURCE } else { 0 };
        out.push(self.qos as u8 | retain | has_properties | has_packet_id | has_source);
        out.extend_from_slice(&self.received_at.0.to_le_bytes());
        out.extend_from_slice(&topic_len.to_le_bytes());
        out.extend_from_slice(&client_id_len.to_le_bytes());
        out.extend_from_slice(&principal_len.to_le_bytes());
        out.extend_from_slice(self.topic.as_bytes());
        out.extend_from_slice(self.client_id.as_bytes());
        out.extend_from_slice(self.principal.as_bytes());
        if let Some(packet_id) = packet_id {
            out.extend_from_slice(&packet_id.to_le_bytes());
        }
        match source {
            Some(IpAddr::V4(address)) => {
                out.push(4);
                out.extend_from_slice(&address.octets());
            }
            Some(IpAddr::V6(address)) => {
                out.push(16);
                out.extend_from_slice(&address.octets());
            }
            None => {}
        }
        if has_properties != 0 {
            out.extend_from_slice(&properties_len.to_le_bytes());
            out.extend_from_slice(properties);
        }
        out.extend_from_slice(self.payload);
        Ok(())
    }
}

impl<'a> MessageRef<'a> {
    /// Reads a record back without copying. The journal has checked the checksum; a record
    /// that does not parse is [`ErrorKind::Corrupt`].
    pub fn decode(record: &'a [u8]) -> Result<Self> {
        Ok(Self::decode_with(record)?.0)
    }

    /// Reads a record back together with what only the broker reads.
    pub fn decode_with(record: &'a [u8]) -> Result<(Self, Extras<'a>)> {
        let corrupt = |why: &str| Error::new(ErrorKind::Corrupt, format!("log record: {why}"));
        let (head, rest) = record
            .split_first_chunk::<HEAD_BYTES>()
            .ok_or_else(|| corrupt("shorter than its head"))?;
        if head[0] != VERSION {
            return Err(corrupt(&format!("version {} is not known", head[0])));
        }
        if head[1] & !FLAGS != 0 {
            return Err(corrupt(&format!("flags {:#010b} are not known", head[1])));
        }
        let qos = match head[1] & 0b11 {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            2 => QoS::ExactlyOnce,
            _ => return Err(corrupt("quality of service 3")),
        };
        let mut stamp = [0; 8];
        stamp.copy_from_slice(&head[2..10]);
        let u16_at = |at: usize| usize::from(u16::from_le_bytes([head[at], head[at + 1]]));
        let mut rest = rest;
        let mut text = |bytes: usize| {
            let (text, tail) =
                rest.split_at_checked(bytes).ok_or_else(|| corrupt("ends inside a string"))?;
            rest = tail;
            std::str::from_utf8(text).map_err(|_not_utf8| corrupt("a string is not UTF-8"))
        };
        let topic = text(u16_at(10))?;
        let client_id = text(u16_at(12))?;
        let principal = text(u16_at(14))?;
        let mut extras = Extras::default();
        if head[1] & PACKET_ID != 0 {
            let (id, tail) =
                rest.split_first_chunk().ok_or_else(|| corrupt("ends inside its packet id"))?;
            extras.packet_id = Some(u16::from_le_bytes(*id));
            rest = tail;
        }
        if head[1] & SOURCE != 0 {
            let (source, tail) = source(rest).ok_or_else(|| corrupt("its source is no address"))?;
            extras.source = Some(source);
            rest = tail;
        }
        if head[1] & PROPERTIES != 0 {
            let cut = || corrupt("ends inside its properties");
            let (len, tail) = rest.split_first_chunk().ok_or_else(cut)?;
            let bytes = usize::try_from(u32::from_le_bytes(*len)).map_err(|_too_long| cut())?;
            (extras.properties, rest) = tail.split_at_checked(bytes).ok_or_else(cut)?;
        }
        let message = MessageRef {
            topic,
            payload: rest,
            client_id,
            principal,
            received_at: Timestamp(i64::from_le_bytes(stamp)),
            qos,
            retain: head[1] & RETAIN != 0,
        };
        Ok((message, extras))
    }
}

/// An address and what follows it.
fn source(record: &[u8]) -> Option<(IpAddr, &[u8])> {
    let (&len, rest) = record.split_first()?;
    match len {
        4 => rest.split_first_chunk::<4>().map(|(octets, tail)| (IpAddr::from(*octets), tail)),
        16 => rest.split_first_chunk::<16>().map(|(octets, tail)| (IpAddr::from(*octets), tail)),
        _ => None,
    }
}

impl Message {
    /// Borrows all parts.
    pub fn as_ref(&self) -> MessageRef<'_> {
        MessageRef {
            topic: &self.topic,
            payload: &self.payload,
            client_id: &self.client_id,
            principal: &self.principal,
            received_at: self.received_at,
            qos: self.qos,
            retain: self.retain,
        }
    }

    /// Reads a record of the log; the payload shares `record`'s memory.
    pub fn decode(record: &Bytes) -> Result<Self> {
        let parts = MessageRef::decode(record)?;
        Ok(Message {
            topic: parts.topic.to_owned(),
            payload: record.slice(record.len() - parts.payload.len()..),
            client_id: parts.client_id.to_owned(),
            principal: parts.principal.to_owned(),
            received_at: parts.received_at,
            qos: parts.qos,
            retain: parts.retain,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Message {
        Message {
            topic: "plant/1".into(),
            payload: Bytes::from_static(b"{\"ozone\":1}"),
            client_id: "dev-1".into(),
            principal: "ab12".into(),
            received_at: Timestamp(1_700_000_000_123),
            qos: QoS::AtLeastOnce,
            retain: true,
        }
    }

    #[test]
    fn a_record_reads_back_as_written() {
        let mut record = Vec::new();
        sample().as_ref().encode_into(&mut record).unwrap();
        assert_eq!(Message::decode(&record.into()).unwrap(), sample());
    }

    #[test]
    fn extras_travel_beside_the_payload() {
        let packet_ids = [None, Some(0x0102)];
        let sources = [None, Some("192.0.2.7"), Some("2001:db8::7")];
        let pairs = || packet_ids.iter().flat_map(|id| sources.map(|source| (*id, source)));
        for properties in [&b""[..], b"\x01\x01"] {
            for (packet_id, source) in pairs() {
                let source = source.map(|text| text.parse().unwrap());
                let extras = Extras { properties, packet_id, source };
                let mut record = Vec::new();
                sample().as_ref().encode_with(&extras, &mut record).unwrap();
                assert_eq!(Message::decode(&record.clone().into()).unwrap(), sample());
                assert_eq!(MessageRef::decode_with(&record).unwrap().1, extras);
                let payload_at = record.len() - sample().payload.len();
                for cut in 0..payload_at {
                    let error = MessageRef::decode(&record[..cut]).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Corrupt, "cut at {cut}");
                }
            }
        }
    }

    #[test]
    fn unknown_flags_are_corrupt() {
        let mut record = Vec::new();
        sample().as_ref().encode_into(&mut record).unwrap();
        record[1] |= 0b100_0000;
        let error = MessageRef::decode(&record).unwrap_err();
        assert!(error.to_string().contains("flags 0b01000101"), "{error}");
    }

    #[test]
    fn every_truncation_of_the_head_and_strings_is_corrupt_and_never_panics() {
        let mut record = Vec::new();
        sample().as_ref().encode_into(&mut record).unwrap();
        let strings_end = record.len() - sample().payload.len();
        for cut in 0..strings_end {
            let error = MessageRef::decode(&record[..cut]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "cut at {cut}");
        }
    }
}
