//! Bytes to packets and back, for both protocol versions. No I/O, no state.
//!
//! What clients send is read here, borrowed from the socket's bytes: parsing it into the owned
//! packets of `mqtt-protocol-core` costs ten times a borrowed parse, and that crate lets pass
//! some of what the standard forbids and refuses some of what it allows. So do PUBLISH and the
//! acknowledgements that we write. The rest of what we write goes through the crate; it and
//! `rumqttc`'s codec are the oracles against which the tests compare what is read here.
//!
//! Of the crate we use the packets and not its connection, which answers a repeated QoS 2
//! message before the first is durable, and keeps copies of what is in flight where `session`
//! keeps offsets.
//!
//! Invariants
//! * Nothing is allocated from a length that a packet claims.
//! * A packet that is read was consumed to its last byte; flags and reserved bits were checked.
//! * A text that is read is UTF-8 without U+0000, wherever in a packet it stands.

use std::borrow::Cow;
use std::num::NonZeroU32;

use base::{Offset, QoS};
use mqtt_protocol_core::mqtt::packet::{
    AssignedClientIdentifier, MaximumPacketSize, Property, ReasonString, ReceiveMaximum,
    RetainAvailable, ServerKeepAlive, SessionExpiryInterval, TopicAliasMaximum, v3_1_1, v5_0,
};
use mqtt_protocol_core::mqtt::result_code::{
    ConnectReasonCode, ConnectReturnCode, DisconnectReasonCode, MqttError, SubackReasonCode,
    SubackReturnCode, UnsubackReasonCode,
};

use crate::share;
use crate::subscription::Options;

/// The protocol a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V4,
    V5,
}

/// Why a connection must end: an MQTT 5 reason code and the story for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) code: DisconnectReasonCode,
    pub(crate) why: Cow<'static, str>,
}

impl Fault {
    pub(crate) fn new(code: DisconnectReasonCode, why: impl Into<Cow<'static, str>>) -> Self {
        Fault { code, why: why.into() }
    }

    pub(crate) fn malformed(why: &'static str) -> Self {
        Fault::new(DisconnectReasonCode::MalformedPacket, why)
    }

    pub(crate) fn protocol(why: &'static str) -> Self {
        Fault::new(DisconnectReasonCode::ProtocolError, why)
    }
}

/// The packet types a server may receive, and the flags each must carry.
pub(crate) mod kind {
    pub(crate) const CONNECT: u8 = 1;
    pub(crate) const PUBLISH: u8 = 3;
    pub(crate) const PUBACK: u8 = 4;
    pub(crate) const PUBREC: u8 = 5;
    pub(crate) const PUBREL: u8 = 6;
    pub(crate) const PUBCOMP: u8 = 7;
    pub(crate) const SUBSCRIBE: u8 = 8;
    pub(crate) const UNSUBSCRIBE: u8 = 10;
    pub(crate) const PINGREQ: u8 = 12;
    pub(crate) const DISCONNECT: u8 = 14;
    pub(crate) const AUTH: u8 = 15;
}

/// One packet, still as bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) body: &'a [u8],
    /// Bytes of the whole packet, head included.
    pub(crate) bytes: usize,
}

/// The next packet of `input`, or `None` while it is not all there. `bytes_max` bounds the
/// whole packet and is checked as soon as the length is known.
pub(crate) fn frame(input: &[u8], bytes_max: usize) -> Result<Option<Frame<'_>>, Fault> {
    let Some((&first, rest)) = input.split_first() else { return Ok(None) };
    let Some((length, digits)) = variable_integer(rest)? else { return Ok(None) };
    let head = 1 + digits;
    if head + length > bytes_max {
        return Err(Fault::new(
            DisconnectReasonCode::PacketTooLarge,
            format!("packet of {} bytes; at most {bytes_max} are taken", head + length),
        ));
    }
    let (kind, flags) = (first >> 4, first & 0x0f);
    let expected = match kind {
        kind::PUBLISH => flags,
        kind::PUBREL | kind::SUBSCRIBE | kind::UNSUBSCRIBE => 0b0010,
        _ => 0,
    };
    if flags != expected {
        return Err(Fault::malformed("reserved flags are set"));
    }
    let Some(body) = rest.get(digits..digits + length) else { return Ok(None) };
    Ok(Some(Frame { kind, flags, body, bytes: head + length }))
}

/// A variable byte integer and its length in bytes, or `None` while bytes are missing.
fn variable_integer(input: &[u8]) -> Result<Option<(usize, usize)>, Fault> {
    let mut value = 0_usize;
    for (at, &byte) in input.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            // A longer form than needed is malformed (MQTT 5, 1.5.5).
            if at > 0 && byte == 0 {
                return Err(Fault::malformed("a length is not in its shortest form"));
            }
            return Ok(Some((value, at + 1)));
        }
    }
    if input.len() < 4 { Ok(None) } else { Err(Fault::malformed("a length has five digits")) }
}

/// A cursor over the body of a packet.
struct Body<'a>(&'a [u8]);

impl<'a> Body<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) =
            self.0.split_at_checked(bytes).ok_or(Fault::malformed("a packet ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, Fault> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, Fault> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn binary(&mut self) -> Result<&'a [u8], Fault> {
        let bytes = usize::from(self.u16()?);
        self.take(bytes)
    }

    fn text(&mut self) -> Result<&'a str, Fault> {
        let bytes = self.binary()?;
        let text = std::str::from_utf8(bytes)
            .map_err(|_not_utf8| Fault::malformed("a string is not UTF-8"))?;
        if bytes.contains(&0) {
            return Err(Fault::malformed("a string holds U+0000"));
        }
        Ok(text)
    }

    fn packet_id(&mut self) -> Result<u16, Fault> {
        match self.u16()? {
            0 => Err(Fault::malformed("packet id 0")),
            id => Ok(id),
        }
    }

    /// Takes a property block, and each property that is one of `allowed` through `each`: its
    /// identifier and its value as sent. Gives the block without its length.
    fn properties(
        &mut self,
        allowed: u64,
        mut each: impl FnMut(u8, &'a [u8]) -> Result<(), Fault>,
    ) -> Result<&'a [u8], Fault> {
        let (length, digits) =
            variable_integer(self.0)?.ok_or(Fault::malformed("a packet ends too early"))?;
        self.take(digits)?;
        let block = self.take(length)?;
        let mut seen = 0_u64;
        for property in Properties(block) {
            let (id, value) = property?;
            let bit = 1 << id;
            if allowed & bit == 0 {
                // MQTT 5, 2.2.2.2.
                return Err(Fault::malformed("a property that this packet does not have"));
            }
            if id != id::USER_PROPERTY && seen & bit != 0 {
                return Err(Fault::protocol("a property is given twice"));
            }
            seen |= bit;
            check_value(id, value)?;
            each(id, value)?;
        }
        Ok(block)
    }

    /// The end, as which nothing may be left.
    fn end(&self) -> Result<(), Fault> {
        match self.0 {
            [] => Ok(()),
            _ => Err(Fault::malformed("bytes are left over at the end of a packet")),
        }
    }
}

/// What the standard says of a property's value in every packet that may carry it.
fn check_value(id: u8, value: &[u8]) -> Result<(), Fault> {
    match id {
        id::PAYLOAD_FORMAT if value[0] > 1 => {
            Err(Fault::protocol("a payload format other than 0 and 1"))
        }
        id::REQUEST_PROBLEM_INFORMATION | id::REQUEST_RESPONSE_INFORMATION if value[0] > 1 => {
            Err(Fault::protocol("a request for information other than 0 and 1"))
        }
        id::RESPONSE_TOPIC if value[2..].iter().any(|byte| matches!(byte, b'+' | b'#')) => {
            Err(Fault::protocol("a response topic with a wildcard"))
        }
        _ => Ok(()),
    }
}

/// The number that a property of a byte, or of two or four, holds.
fn number(value: &[u8]) -> u32 {
    value.iter().fold(0, |number, byte| (number << 8) | u32::from(*byte))
}

/// A PUBLISH, borrowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Publish<'a> {
    pub(crate) dup: bool,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// Empty when `alias` stands for it.
    pub(crate) topic: &'a str,
    /// 0 for QoS 0.
    pub(crate) packet_id: u16,
    pub(crate) alias: Option<u16>,
    /// The property block as sent, without its length.
    pub(crate) properties: &'a [u8],
    pub(crate) payload: &'a [u8],
}

/// Reads a PUBLISH.
pub(crate) fn publish<'a>(version: Version, frame: &Frame<'a>) -> Result<Publish<'a>, Fault> {
    let mut body = Body(frame.body);
    let qos = qos(frame.flags >> 1).ok_or(Fault::malformed("quality of service 3"))?;
    let dup = frame.flags & 0b1000 != 0;
    if dup && qos == QoS::AtMostOnce {
        return Err(Fault::malformed("DUP on quality of service 0"));
    }
    let topic = body.text()?;
    let packet_id = if qos == QoS::AtMostOnce { 0 } else { body.packet_id()? };
    let (properties, alias) = match version {
        Version::V4 => (&[][..], None),
        Version::V5 => publish_properties(&mut body)?,
    };
    if topic.is_empty() && alias.is_none() {
        return Err(match version {
            Version::V4 => Fault::malformed("an empty topic"),
            Version::V5 => Fault::protocol("neither topic nor alias"),
        });
    }
    let retain = frame.flags & 1 != 0;
    Ok(Publish { dup, qos, retain, topic, packet_id, alias, properties, payload: body.0 })
}

fn publish_properties<'a>(body: &mut Body<'a>) -> Result<(&'a [u8], Option<u16>), Fault> {
    let mut alias = None;
    let block = body.properties(id::OF_PUBLISH, |id, value| match id {
        id::TOPIC_ALIAS => match u16::from_be_bytes([value[0], value[1]]) {
            0 => {
                let why = "topic alias 0, which MQTT does not have";
                Err(Fault::new(DisconnectReasonCode::TopicAliasInvalid, why))
            }
            given => {
                alias = Some(given);
                Ok(())
            }
        },
        // MQTT 5, 3.3.4.
        id::SUBSCRIPTION_ID => {
            Err(Fault::protocol("a client may not send subscription identifiers"))
        }
        _ => Ok(()),
    })?;
    Ok((block, alias))
}

/// The properties (MQTT 5, 2.2.2.2), and which of them the packets of a client may carry.
mod id {
    pub(super) const PAYLOAD_FORMAT: u8 = 1;
    pub(super) const MESSAGE_EXPIRY: u8 = 2;
    pub(super) const CONTENT_TYPE: u8 = 3;
    pub(super) const RESPONSE_TOPIC: u8 = 8;
    pub(super) const CORRELATION_DATA: u8 = 9;
    pub(super) const SUBSCRIPTION_ID: u8 = 11;
    pub(super) const SESSION_EXPIRY: u8 = 17;
    pub(super) const ASSIGNED_CLIENT_ID: u8 = 18;
    pub(super) const SERVER_KEEP_ALIVE: u8 = 19;
    pub(super) const AUTHENTICATION_METHOD: u8 = 21;
    pub(super) const AUTHENTICATION_DATA: u8 = 22;
    pub(super) const REQUEST_PROBLEM_INFORMATION: u8 = 23;
    pub(super) const WILL_DELAY: u8 = 24;
    pub(super) const REQUEST_RESPONSE_INFORMATION: u8 = 25;
    pub(super) const RESPONSE_INFORMATION: u8 = 26;
    pub(super) const SERVER_REFERENCE: u8 = 28;
    pub(super) const REASON_STRING: u8 = 31;
    pub(super) const RECEIVE_MAXIMUM: u8 = 33;
    pub(super) const TOPIC_ALIAS_MAXIMUM: u8 = 34;
    pub(super) const TOPIC_ALIAS: u8 = 35;
    pub(super) const MAXIMUM_QOS: u8 = 36;
    pub(super) const RETAIN_AVAILABLE: u8 = 37;
    pub(super) const USER_PROPERTY: u8 = 38;
    pub(super) const MAXIMUM_PACKET_SIZE: u8 = 39;
    pub(super) const WILDCARDS_AVAILABLE: u8 = 40;
    pub(super) const SUBSCRIPTION_IDS_AVAILABLE: u8 = 41;
    pub(super) const SHARES_AVAILABLE: u8 = 42;

    /// A set of identifiers; all are below 64.
    const fn set(ids: &[u8]) -> u64 {
        let (mut set, mut at) = (0, 0);
        while at < ids.len() {
            set |= 1 << ids[at];
            at += 1;
        }
        set
    }

    pub(super) const OF_CONNECT: u64 = set(&[
        SESSION_EXPIRY,
        AUTHENTICATION_METHOD,
        AUTHENTICATION_DATA,
        REQUEST_PROBLEM_INFORMATION,
        REQUEST_RESPONSE_INFORMATION,
        RECEIVE_MAXIMUM,
        TOPIC_ALIAS_MAXIMUM,
        USER_PROPERTY,
        MAXIMUM_PACKET_SIZE,
    ]);
    pub(super) const OF_WILL: u64 = set(&[
        PAYLOAD_FORMAT,
        MESSAGE_EXPIRY,
        CONTENT_TYPE,
        RESPONSE_TOPIC,
        CORRELATION_DATA,
        WILL_DELAY,
        USER_PROPERTY,
    ]);
    /// With the subscription identifier, which a PUBLISH may have and that of a client may not.
    pub(super) const OF_PUBLISH: u64 = set(&[
        PAYLOAD_FORMAT,
        MESSAGE_EXPIRY,
        CONTENT_TYPE,
        RESPONSE_TOPIC,
        CORRELATION_DATA,
        SUBSCRIPTION_ID,
        TOPIC_ALIAS,
        USER_PROPERTY,
    ]);
    pub(super) const OF_ACKNOWLEDGEMENT: u64 = set(&[REASON_STRING, USER_PROPERTY]);
    pub(super) const OF_SUBSCRIBE: u64 = set(&[SUBSCRIPTION_ID, USER_PROPERTY]);
    pub(super) const OF_UNSUBSCRIBE: u64 = set(&[USER_PROPERTY]);
    pub(super) const OF_DISCONNECT: u64 =
        set(&[SESSION_EXPIRY, SERVER_REFERENCE, REASON_STRING, USER_PROPERTY]);
}

/// Walks a property block: identifier and raw value of each.
struct Properties<'a>(&'a [u8]);

impl<'a> Iterator for Properties<'a> {
    type Item = Result<(u8, &'a [u8]), Fault>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let property = self.read();
        if property.is_err() {
            self.0 = &[];
        }
        Some(property)
    }
}

impl<'a> Properties<'a> {
    fn read(&mut self) -> Result<(u8, &'a [u8]), Fault> {
        let mut body = Body(self.0);
        let id = body.byte()?;
        let start = body.0;
        match id {
            id::PAYLOAD_FORMAT
            | id::REQUEST_PROBLEM_INFORMATION
            | id::REQUEST_RESPONSE_INFORMATION
            | id::MAXIMUM_QOS
            | id::RETAIN_AVAILABLE
            | id::WILDCARDS_AVAILABLE
            | id::SUBSCRIPTION_IDS_AVAILABLE
            | id::SHARES_AVAILABLE => {
                body.take(1)?;
            }
            id::TOPIC_ALIAS
            | id::RECEIVE_MAXIMUM
            | id::TOPIC_ALIAS_MAXIMUM
            | id::SERVER_KEEP_ALIVE => {
                body.take(2)?;
            }
            id::MESSAGE_EXPIRY | id::SESSION_EXPIRY | id::WILL_DELAY | id::MAXIMUM_PACKET_SIZE => {
                body.take(4)?;
            }
            id::SUBSCRIPTION_ID => {
                let (_, digits) =
                    variable_integer(body.0)?.ok_or(Fault::malformed("a packet ends too early"))?;
                body.take(digits)?;
            }
            id::CONTENT_TYPE
            | id::RESPONSE_TOPIC
            | id::ASSIGNED_CLIENT_ID
            | id::AUTHENTICATION_METHOD
            | id::RESPONSE_INFORMATION
            | id::SERVER_REFERENCE
            | id::REASON_STRING => {
                body.text()?;
            }
            id::CORRELATION_DATA | id::AUTHENTICATION_DATA => {
                body.binary()?;
            }
            id::USER_PROPERTY => {
                body.text()?;
                body.text()?;
            }
            _ => return Err(Fault::malformed("a property that MQTT does not have")),
        }
        self.0 = body.0;
        Ok((id, &start[..start.len() - body.0.len()]))
    }
}

/// Appends to `out` the properties of `block` that a receiver must get: all but the alias.
pub(crate) fn forwarded_properties(block: &[u8], out: &mut Vec<u8>) {
    for (id, value) in Properties(block).flatten() {
        if id != id::TOPIC_ALIAS {
            out.push(id);
            out.extend_from_slice(value);
        }
    }
}

/// Appends a property block without its message expiry; gives the expiry in seconds.
pub(crate) fn without_expiry(block: &[u8], out: &mut Vec<u8>) -> Option<u32> {
    let mut expiry = None;
    for (id, value) in Properties(block).flatten() {
        match (id, <[u8; 4]>::try_from(value)) {
            (id::MESSAGE_EXPIRY, Ok(secs)) => expiry = Some(u32::from_be_bytes(secs)),
            _ => {
                out.push(id);
                out.extend_from_slice(value);
            }
        }
    }
    expiry
}

/// The packet id and reason code of PUBACK, PUBREC, PUBREL or PUBCOMP.
pub(crate) fn acknowledgement(version: Version, frame: &Frame<'_>) -> Result<(u16, u8), Fault> {
    let mut body = Body(frame.body);
    let id = body.packet_id()?;
    if body.0.is_empty() {
        return Ok((id, 0));
    }
    if version == Version::V4 {
        return Err(Fault::malformed("an acknowledgement is not two bytes long"));
    }
    let code = body.byte()?;
    let known = match frame.kind {
        kind::PUBACK | kind::PUBREC => {
            matches!(code, 0 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
        }
        _ => matches!(code, 0 | 0x92),
    };
    if !known {
        return Err(Fault::malformed("a reason code that this acknowledgement does not have"));
    }
    if !body.0.is_empty() {
        // Being for the log only, they are checked and dropped.
        body.properties(id::OF_ACKNOWLEDGEMENT, |_, _| Ok(()))?;
    }
    body.end()?;
    Ok((id, code))
}

/// A will: published when its client goes without saying so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// The property block its receivers get.
    pub(crate) properties: Vec<u8>,
    pub(crate) delay_secs: u32,
}

/// A CONNECT, both versions alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connect {
    pub(crate) version: Version,
    pub(crate) client_id: String,
    pub(crate) clean_start: bool,
    pub(crate) keep_alive_secs: u16,
    pub(crate) will: Option<Will>,
    /// Seconds the session outlives the connection; `u32::MAX` for ever.
    pub(crate) session_expiry_secs: u32,
    /// How many QoS 1 and 2 messages the client takes unacknowledged.
    pub(crate) receive_maximum: u16,
    /// Largest packet the client takes.
    pub(crate) packet_bytes_max: usize,
    /// Topic aliases that may be used towards the client.
    pub(crate) topic_alias_max: u16,
    /// Whether it may be told reasons in words beside CONNACK and DISCONNECT.
    pub(crate) problem_information: bool,
    /// Whether it wants an authentication exchange, which we do not do.
    pub(crate) wants_authentication: bool,
}

/// A CONNECT that cannot be taken, and how to say so.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// The protocol level is neither 4 nor 5; the answer depends on it.
    Level(u8),
    /// Malformed in a known version.
    Fault(Version, Fault),
    /// Not MQTT at all: no answer is due.
    Noise(&'static str),
}

/// Reads a CONNECT.
pub(crate) fn connect(frame: &Frame<'_>) -> Result<Connect, ConnectError> {
    let body = frame.body;
    if body.get(..9) == Some(b"\x00\x06MQIsdp\x03".as_slice()) {
        return Err(ConnectError::Level(3));
    }
    let (Some(name), Some(&level), Some(&flags)) = (body.get(..6), body.get(6), body.get(7)) else {
        return Err(ConnectError::Noise("a CONNECT too short to be one"));
    };
    if name != b"\x00\x04MQTT" {
        return Err(ConnectError::Noise("a protocol name other than MQTT"));
    }
    let version = match level {
        4 => Version::V4,
        5 => Version::V5,
        other => return Err(ConnectError::Level(other)),
    };
    let malformed = |why| Err(ConnectError::Fault(version, Fault::malformed(why)));
    let (will, will_qos, will_retain) = (flags & 4 != 0, (flags >> 3) & 3, flags & 0x20 != 0);
    if flags & 1 != 0 {
        return malformed("the reserved flag of CONNECT is set");
    }
    if will_qos == 3 || (!will && (will_qos != 0 || will_retain)) {
        return malformed("the will flags of CONNECT contradict each other");
    }
    read_connect(version, flags, Body(&body[8..]))
        .map_err(|fault| ConnectError::Fault(version, fault))
}

fn read_connect(version: Version, flags: u8, mut body: Body<'_>) -> Result<Connect, Fault> {
    let clean_start = flags & 2 != 0;
    let mut connect = Connect {
        version,
        client_id: String::new(),
        clean_start,
        keep_alive_secs: body.u16()?,
        will: None,
        session_expiry_secs: match version {
            Version::V4 if !clean_start => u32::MAX,
            _ => 0,
        },
        receive_maximum: u16::MAX,
        packet_bytes_max: usize::MAX,
        topic_alias_max: 0,
        problem_information: true,
        wants_authentication: false,
    };
    if version == Version::V5 {
        connect_properties(&mut connect, &mut body)?;
    }
    body.text()?.clone_into(&mut connect.client_id);
    if flags & 4 != 0 {
        connect.will = Some(will(version, flags, &mut body)?);
    }
    let (user_name, password) = (flags & 0x80 != 0, flags & 0x40 != 0);
    if version == Version::V4 && password && !user_name {
        return Err(Fault::malformed("a password without a user name"));
    }
    // Whoever connects is known by a certificate or a signature, or is anonymous.
    if user_name {
        body.text()?;
    }
    if password {
        body.binary()?;
    }
    body.end()?;
    Ok(connect)
}

fn connect_properties(connect: &mut Connect, body: &mut Body<'_>) -> Result<(), Fault> {
    let (mut method, mut data) = (false, false);
    body.properties(id::OF_CONNECT, |id, value| {
        match id {
            id::SESSION_EXPIRY => connect.session_expiry_secs = number(value),
            id::RECEIVE_MAXIMUM => match u16::from_be_bytes([value[0], value[1]]) {
                0 => return Err(Fault::protocol("receive maximum 0")),
                count => connect.receive_maximum = count,
            },
            id::MAXIMUM_PACKET_SIZE => match number(value) {
                0 => return Err(Fault::protocol("maximum packet size 0")),
                bytes => connect.packet_bytes_max = usize::try_from(bytes).unwrap_or(usize::MAX),
            },
            id::TOPIC_ALIAS_MAXIMUM => {
                connect.topic_alias_max = u16::from_be_bytes([value[0], value[1]]);
            }
            id::REQUEST_PROBLEM_INFORMATION => connect.problem_information = value[0] != 0,
            id::AUTHENTICATION_METHOD => method = true,
            id::AUTHENTICATION_DATA => data = true,
            // Response information is an offer we need not take (3.1.2.11.6).
            _ => {}
        }
        Ok(())
    })?;
    if data && !method {
        return Err(Fault::protocol("authentication data without a method"));
    }
    connect.wants_authentication = method;
    Ok(())
}

fn will(version: Version, flags: u8, body: &mut Body<'_>) -> Result<Will, Fault> {
    let (mut properties, mut delay_secs) = (Vec::new(), 0);
    if version == Version::V5 {
        body.properties(id::OF_WILL, |id, value| {
            if id == id::WILL_DELAY {
                delay_secs = number(value);
            } else {
                properties.push(id);
                properties.extend_from_slice(value);
            }
            Ok(())
        })?;
    }
    Ok(Will {
        topic: body.text()?.to_owned(),
        payload: body.binary()?.to_owned(),
        qos: qos(flags >> 3).ok_or(Fault::malformed("quality of service 3 of a will"))?,
        retain: flags & 0x20 != 0,
        properties,
        delay_secs,
    })
}

/// One entry of a SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) filter: String,
    pub(crate) qos: QoS,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    /// 0: send retained messages; 1: only for a new subscription; 2: never.
    pub(crate) retain_handling: u8,
    /// What its messages are to be marked with.
    pub(crate) identifier: Option<NonZeroU32>,
}

impl Wanted {
    /// As a subscription to everything in the log.
    pub(crate) fn options(&self) -> Options {
        Options {
            no_local: self.no_local,
            retain_as_published: self.retain_as_published,
            identifier: self.identifier,
            ..Options::plain(self.qos, Offset::default())
        }
    }
}

/// The packet id and entries of a SUBSCRIBE.
pub(crate) fn subscribe(version: Version, frame: &Frame<'_>) -> Result<(u16, Vec<Wanted>), Fault> {
    let mut body = Body(frame.body);
    let id = body.packet_id()?;
    let mut identifier = None;
    if version == Version::V5 {
        body.properties(id::OF_SUBSCRIBE, |id, value| {
            if id == id::SUBSCRIPTION_ID {
                let (found, _) = variable_integer(value)?.unwrap_or_default();
                identifier = u32::try_from(found).ok().and_then(NonZeroU32::new);
                if identifier.is_none() {
                    return Err(Fault::protocol("subscription identifier 0"));
                }
            }
            Ok(())
        })?;
    }
    let mut entries = Vec::new();
    while !body.0.is_empty() {
        entries.push(wanted(version, &mut body, identifier)?);
    }
    if entries.is_empty() {
        return Err(Fault::protocol("a SUBSCRIBE without filters"));
    }
    Ok((id, entries))
}

fn wanted(
    version: Version,
    body: &mut Body<'_>,
    identifier: Option<NonZeroU32>,
) -> Result<Wanted, Fault> {
    let filter = body.text()?;
    let options = body.byte()?;
    let reserved = match version {
        Version::V4 => 0b1111_1100,
        Version::V5 => 0b1100_0000,
    };
    if options & reserved != 0 {
        return Err(Fault::malformed("reserved subscription options are set"));
    }
    let (no_local, retain_handling) = (options & 0b100 != 0, (options >> 4) & 0b11);
    if retain_handling == 3 {
        return Err(Fault::protocol("retain handling 3"));
    }
    if no_local && filter.starts_with(share::PREFIX) {
        // MQTT 5, 3.8.3.1.
        return Err(Fault::protocol("no local on a shared subscription"));
    }
    Ok(Wanted {
        filter: filter.to_owned(),
        qos: qos(options).ok_or(Fault::protocol("quality of service 3 of a subscription"))?,
        no_local,
        retain_as_published: options & 0b1000 != 0,
        retain_handling,
        identifier,
    })
}

/// The packet id and filters of an UNSUBSCRIBE.
pub(crate) fn unsubscribe(
    version: Version,
    frame: &Frame<'_>,
) -> Result<(u16, Vec<String>), Fault> {
    let mut body = Body(frame.body);
    let id = body.packet_id()?;
    if version == Version::V5 {
        body.properties(id::OF_UNSUBSCRIBE, |_, _| Ok(()))?;
    }
    let mut filters = Vec::new();
    while !body.0.is_empty() {
        filters.push(body.text()?.to_owned());
    }
    if filters.is_empty() {
        return Err(Fault::protocol("an UNSUBSCRIBE without filters"));
    }
    Ok((id, filters))
}

/// How a client takes its leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leave {
    /// 0x00: the will is forgotten. Anything else: it is published.
    pub(crate) code: u8,
    /// A new expiry of the session.
    pub(crate) session_expiry_secs: Option<u32>,
}

/// Reads a DISCONNECT.
pub(crate) fn disconnect(version: Version, frame: &Frame<'_>) -> Result<Leave, Fault> {
    if frame.body.is_empty() {
        return Ok(Leave { code: 0, session_expiry_secs: None });
    }
    if version == Version::V4 {
        return Err(Fault::malformed("a DISCONNECT with a body"));
    }
    let mut body = Body(frame.body);
    let code = body.byte()?;
    if DisconnectReasonCode::try_from(code).is_err() {
        return Err(Fault::malformed("a reason code that DISCONNECT does not have"));
    }
    let mut session_expiry_secs = None;
    if !body.0.is_empty() {
        body.properties(id::OF_DISCONNECT, |id, value| {
            if id == id::SESSION_EXPIRY {
                session_expiry_secs = Some(number(value));
            }
            Ok(())
        })?;
    }
    body.end()?;
    Ok(Leave { code, session_expiry_secs })
}

/// The quality of service in the lowest two bits; there is no 3.
fn qos(bits: u8) -> Option<QoS> {
    match bits & 0b11 {
        0 => Some(QoS::AtMostOnce),
        1 => Some(QoS::AtLeastOnce),
        2 => Some(QoS::ExactlyOnce),
        _ => None,
    }
}

fn fault(error: MqttError) -> Fault {
    let code = u8::try_from(error as u16).ok().and_then(|code| code.try_into().ok());
    Fault::new(code.unwrap_or(DisconnectReasonCode::MalformedPacket), error.to_string())
}

// ---- what we send ----

/// The four-byte acknowledgements.
pub(crate) mod ack {
    pub(crate) const PUBACK: u8 = 0x40;
    pub(crate) const PUBREC: u8 = 0x50;
    pub(crate) const PUBREL: u8 = 0x62;
    pub(crate) const PUBCOMP: u8 = 0x70;
}

/// Appends an acknowledgement; `code` other than 0 is only for MQTT 5.
pub(crate) fn put_ack(out: &mut Vec<u8>, head: u8, packet_id: u16, code: u8) {
    let [high, low] = packet_id.to_be_bytes();
    if code == 0 {
        out.extend_from_slice(&[head, 2, high, low]);
    } else {
        out.extend_from_slice(&[head, 3, high, low, code]);
    }
}

/// Appends an MQTT 5 acknowledgement that refuses, with the reason in words if the client takes
/// so large a packet.
pub(crate) fn put_refusal(
    out: &mut Vec<u8>,
    (head, packet_id, code): (u8, u16, u8),
    why: &str,
    bytes_max: usize,
) {
    let properties = 3 + why.len();
    let length = 3 + digits(properties) + properties;
    if 1 + digits(length) + length > bytes_max {
        return put_ack(out, head, packet_id, code);
    }
    out.push(head);
    put_variable(out, length);
    out.extend_from_slice(&packet_id.to_be_bytes());
    out.push(code);
    put_variable(out, properties);
    out.push(id::REASON_STRING);
    put_u16(out, why.len());
    out.extend_from_slice(why.as_bytes());
}

/// Appends a PINGRESP.
pub(crate) fn put_pong(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0xd0, 0]);
}

/// A message on its way to a subscriber.
pub(crate) struct Outgoing<'a> {
    /// Empty if `alias` stands for it.
    pub(crate) topic: &'a str,
    pub(crate) alias: Option<u16>,
    /// Of the subscriptions it is sent for; only MQTT 5 subscribers have them.
    pub(crate) identifiers: &'a [NonZeroU32],
    pub(crate) payload: &'a [u8],
    /// As logged; only MQTT 5 subscribers get them.
    pub(crate) properties: &'a [u8],
    pub(crate) qos: QoS,
    pub(crate) dup: bool,
    pub(crate) retain: bool,
    /// Ignored for QoS 0.
    pub(crate) packet_id: u16,
}

/// Appends a PUBLISH; false, and nothing appended, if it would be larger than `bytes_max`.
pub(crate) fn put_publish(
    out: &mut Vec<u8>,
    version: Version,
    message: &Outgoing<'_>,
    bytes_max: usize,
) -> bool {
    let mut length = 2 + message.topic.len() + message.payload.len();
    if message.qos != QoS::AtMostOnce {
        length += 2;
    }
    let identifier_bytes = |id: &NonZeroU32| 1 + digits(id.get() as usize);
    let properties = message.properties.len()
        + message.alias.map_or(0, |_| 3)
        + message.identifiers.iter().map(identifier_bytes).sum::<usize>();
    if version == Version::V5 {
        length += digits(properties) + properties;
    }
    let bytes = 1 + digits(length) + length;
    if bytes > bytes_max {
        return false;
    }
    out.reserve(bytes);
    let dup = if message.dup { 0b1000 } else { 0 };
    out.push(0x30 | ((message.qos as u8) << 1) | dup | u8::from(message.retain));
    put_variable(out, length);
    put_u16(out, message.topic.len());
    out.extend_from_slice(message.topic.as_bytes());
    if message.qos != QoS::AtMostOnce {
        out.extend_from_slice(&message.packet_id.to_be_bytes());
    }
    if version == Version::V5 {
        put_variable(out, properties);
        if let Some(alias) = message.alias {
            out.push(id::TOPIC_ALIAS);
            out.extend_from_slice(&alias.to_be_bytes());
        }
        for identifier in message.identifiers {
            out.push(id::SUBSCRIPTION_ID);
            put_variable(out, identifier.get() as usize);
        }
        out.extend_from_slice(message.properties);
    }
    out.extend_from_slice(message.payload);
    true
}

fn digits(length: usize) -> usize {
    match length {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

pub(crate) fn put_variable(out: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        out.push(if value == 0 { low } else { low | 0x80 });
        if value == 0 {
            return;
        }
    }
}

/// Appends a length that was checked to fit, for instance that of a logged topic.
fn put_u16(out: &mut Vec<u8>, value: usize) {
    let value = u16::try_from(value).unwrap_or(u16::MAX);
    out.extend_from_slice(&value.to_be_bytes());
}

/// Appends a message expiry property.
pub(crate) fn put_expiry(out: &mut Vec<u8>, secs: u32) {
    out.push(id::MESSAGE_EXPIRY);
    out.extend_from_slice(&secs.to_be_bytes());
}

/// What a successful MQTT 5 CONNACK tells the client.
pub(crate) struct Welcome {
    pub(crate) session_present: bool,
    pub(crate) receive_maximum: u16,
    pub(crate) packet_bytes_max: usize,
    pub(crate) topic_alias_max: u16,
    pub(crate) retain_available: bool,
    pub(crate) assigned_client_id: Option<String>,
    /// Set when the server's keep-alive overrides the client's.
    pub(crate) keep_alive_secs: Option<u16>,
    /// Set when the session will be kept for less than the client asked.
    pub(crate) session_expiry_secs: Option<u32>,
}

/// The CONNACK of an accepted connection.
pub(crate) fn welcome(version: Version, welcome: &Welcome) -> Result<Vec<u8>, Fault> {
    if version == Version::V4 {
        let packet = v3_1_1::Connack::builder()
            .session_present(welcome.session_present)
            .return_code(ConnectReturnCode::Accepted)
            .build()
            .map_err(fault)?;
        return Ok(packet.to_continuous_buffer());
    }
    let packet_bytes_max = u32::try_from(welcome.packet_bytes_max).unwrap_or(u32::MAX);
    let mut properties = vec![
        Property::ReceiveMaximum(ReceiveMaximum::new(welcome.receive_maximum).map_err(fault)?),
        Property::MaximumPacketSize(MaximumPacketSize::new(packet_bytes_max).map_err(fault)?),
    ];
    // Of these, no and yes are what a client takes them for that does not hear of them.
    if welcome.topic_alias_max > 0 {
        properties.push(TopicAliasMaximum::new(welcome.topic_alias_max).map_err(fault)?.into());
    }
    if !welcome.retain_available {
        properties.push(RetainAvailable::new(0).map_err(fault)?.into());
    }
    if let Some(id) = &welcome.assigned_client_id {
        properties.push(AssignedClientIdentifier::new(id).map_err(fault)?.into());
    }
    if let Some(secs) = welcome.keep_alive_secs {
        properties.push(ServerKeepAlive::new(secs).map_err(fault)?.into());
    }
    if let Some(secs) = welcome.session_expiry_secs {
        properties.push(SessionExpiryInterval::new(secs).map_err(fault)?.into());
    }
    let packet = v5_0::Connack::builder()
        .session_present(welcome.session_present)
        .reason_code(ConnectReasonCode::Success)
        .props(properties)
        .build()
        .map_err(fault)?;
    Ok(packet.to_continuous_buffer())
}

/// The CONNACK of a refused connection with the reason in words, if the client takes so large a
/// packet.
pub(crate) fn farewell_because(
    version: Version,
    code: ConnectReasonCode,
    why: &str,
    bytes_max: usize,
) -> Vec<u8> {
    let wordy = || {
        let reason = ReasonString::new(why).ok().filter(|_| !why.is_empty())?;
        let builder = v5_0::Connack::builder().session_present(false).reason_code(code);
        let packet = builder.props(vec![reason.into()]).build().ok()?.to_continuous_buffer();
        (version == Version::V5 && packet.len() <= bytes_max).then_some(packet)
    };
    wordy().unwrap_or_else(|| farewell(version, code))
}

/// The CONNACK of a refused connection; MQTT 3.1.1 has fewer words for it.
pub(crate) fn farewell(version: Version, code: ConnectReasonCode) -> Vec<u8> {
    match version {
        Version::V5 => vec![0x20, 3, 0, code as u8, 0],
        Version::V4 => {
            let code = match code {
                ConnectReasonCode::UnsupportedProtocolVersion => {
                    ConnectReturnCode::UnacceptableProtocolVersion
                }
                ConnectReasonCode::ClientIdentifierNotValid => {
                    ConnectReturnCode::IdentifierRejected
                }
                ConnectReasonCode::BadUserNameOrPassword => {
                    ConnectReturnCode::BadUserNameOrPassword
                }
                ConnectReasonCode::NotAuthorized => ConnectReturnCode::NotAuthorized,
                ConnectReasonCode::ServerUnavailable
                | ConnectReasonCode::ServerBusy
                | ConnectReasonCode::QuotaExceeded => ConnectReturnCode::ServerUnavailable,
                // For a malformed CONNECT the standard wants no answer at all.
                _ => return Vec::new(),
            };
            vec![0x20, 2, 0, code as u8]
        }
    }
}

/// A SUBACK, for MQTT 5 with `why` something was refused if the client takes so large a packet.
/// In MQTT 3.1.1 every refusal is 0x80.
pub(crate) fn suback(
    version: Version,
    packet_id: u16,
    codes: &[SubackReasonCode],
    why: Option<&str>,
    bytes_max: usize,
) -> Result<Vec<u8>, Fault> {
    match version {
        Version::V5 => {
            let builder =
                || v5_0::Suback::builder().packet_id(packet_id).reason_codes(codes.to_vec());
            if let Some(reason) = why.and_then(|why| ReasonString::new(why).ok()) {
                let packet = builder().props(vec![reason.into()]).build().map_err(fault)?;
                let packet = packet.to_continuous_buffer();
                if packet.len() <= bytes_max {
                    return Ok(packet);
                }
            }
            Ok(builder().build().map_err(fault)?.to_continuous_buffer())
        }
        Version::V4 => {
            let codes = codes.iter().map(|code| match code {
                SubackReasonCode::GrantedQos0 => SubackReturnCode::SuccessMaximumQos0,
                SubackReasonCode::GrantedQos1 => SubackReturnCode::SuccessMaximumQos1,
                SubackReasonCode::GrantedQos2 => SubackReturnCode::SuccessMaximumQos2,
                _ => SubackReturnCode::Failure,
            });
            Ok(v3_1_1::Suback::builder()
                .packet_id(packet_id)
                .return_codes(codes.collect())
                .build()
                .map_err(fault)?
                .to_continuous_buffer())
        }
    }
}

/// An UNSUBACK; `found` says for each filter whether it was subscribed.
pub(crate) fn unsuback(version: Version, packet_id: u16, found: &[bool]) -> Result<Vec<u8>, Fault> {
    match version {
        Version::V4 => Ok(v3_1_1::Unsuback::builder()
            .packet_id(packet_id)
            .build()
            .map_err(fault)?
            .to_continuous_buffer()),
        Version::V5 => {
            let codes = found.iter().map(|found| match found {
                true => UnsubackReasonCode::Success,
                false => UnsubackReasonCode::NoSubscriptionExisted,
            });
            Ok(v5_0::Unsuback::builder()
                .packet_id(packet_id)
                .reason_codes(codes.collect())
                .build()
                .map_err(fault)?
                .to_continuous_buffer())
        }
    }
}

/// A DISCONNECT for an MQTT 5 client, with the reason in words, if there are any and it takes
/// so large a packet.
pub(crate) fn goodbye(code: DisconnectReasonCode, why: &str, bytes_max: usize) -> Vec<u8> {
    let wordy = || {
        let reason = ReasonString::new(why).ok().filter(|_| !why.is_empty())?;
        let builder = v5_0::Disconnect::builder().reason_code(code).props(vec![reason.into()]);
        let packet = builder.build().ok()?.to_continuous_buffer();
        (packet.len() <= bytes_max).then_some(packet)
    };
    wordy().unwrap_or_else(|| vec![0xe0, 1, code as u8])
}

#[cfg(test)]
#[path = "codec_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "codec_oracles.rs"]
mod oracles;
