//! Packets of every kind, whole and damaged, as we read and write them against two codecs of
//! others: `mqtt-protocol-core` and `rumqttc`'s. Where one of them takes what we refuse, or the
//! other way round, the difference is listed with its reason.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use rumqttc::mqttbytes as old;
use rumqttc::v5::mqttbytes::v5 as new;

use super::*;

/// What a client said, as any codec may have read it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Said {
    Connect {
        client_id: String,
        clean: bool,
        keep_alive: u16,
        will: Option<Wish>,
        /// Absent for MQTT 3.1.1.
        settings: Option<Asked>,
    },
    Publish {
        topic: String,
        packet_id: u16,
        qos: u8,
        dup: bool,
        retain: bool,
        alias: Option<u16>,
        about: About,
        payload: Vec<u8>,
    },
    Acknowledgement {
        kind: u8,
        packet_id: u16,
        code: u8,
    },
    Subscribe {
        packet_id: u16,
        identifier: Option<u32>,
        /// Filter and options.
        entries: Vec<(String, u8)>,
    },
    Unsubscribe {
        packet_id: u16,
        filters: Vec<String>,
    },
    Disconnect {
        code: u8,
        expiry: Option<u32>,
    },
    Ping,
}

/// A will.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wish {
    topic: String,
    payload: Vec<u8>,
    qos: u8,
    retain: bool,
    delay: u32,
    about: About,
}

/// What the properties of a CONNECT ask for, defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    expiry: u32,
    receive_maximum: u16,
    packet_bytes_max: Option<u32>,
    alias_max: u16,
    problems: bool,
    method: bool,
}

/// What properties say about a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct About {
    format: Option<u8>,
    expiry: Option<u32>,
    content: Option<String>,
    response: Option<String>,
    correlation: Option<Vec<u8>>,
    user: Vec<(String, String)>,
}

// ---- the packets as bytes, written from the standard ----

fn text(text: &str) -> Vec<u8> {
    binary(text.as_bytes())
}

fn binary(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

/// A property block with its length.
fn block(properties: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_variable(&mut out, properties.len());
    out.extend(properties);
    out
}

fn about(about: &About) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(format) = about.format {
        out.extend([1, format]);
    }
    if let Some(secs) = about.expiry {
        out.push(2);
        out.extend(secs.to_be_bytes());
    }
    if let Some(content) = &about.content {
        out.push(3);
        out.extend(text(content));
    }
    if let Some(response) = &about.response {
        out.push(8);
        out.extend(text(response));
    }
    if let Some(correlation) = &about.correlation {
        out.push(9);
        out.extend(binary(correlation));
    }
    for (name, value) in &about.user {
        out.push(38);
        out.extend(text(name));
        out.extend(text(value));
    }
    out
}

fn encode(version: Version, said: &Said) -> Vec<u8> {
    let is_new = version == Version::V5;
    let properties = |properties: &[u8]| if is_new { block(properties) } else { Vec::new() };
    let (head, body) = match said {
        Said::Connect { client_id, clean, keep_alive, will, settings } => {
            let mut flags = u8::from(*clean) << 1;
            if let Some(will) = will {
                flags |= 4 | (will.qos << 3) | (u8::from(will.retain) << 5);
            }
            let level = if is_new { 5 } else { 4 };
            let mut body = [&text("MQTT")[..], &[level, flags]].concat();
            body.extend(keep_alive.to_be_bytes());
            if let Some(asked) = settings {
                let mut wants = vec![17];
                wants.extend(asked.expiry.to_be_bytes());
                wants.push(33);
                wants.extend(asked.receive_maximum.to_be_bytes());
                if let Some(bytes) = asked.packet_bytes_max {
                    wants.push(39);
                    wants.extend(bytes.to_be_bytes());
                }
                wants.push(34);
                wants.extend(asked.alias_max.to_be_bytes());
                wants.extend([23, u8::from(asked.problems)]);
                if asked.method {
                    wants.push(21);
                    wants.extend(text("method"));
                }
                body.extend(block(&wants));
            }
            body.extend(text(client_id));
            if let Some(will) = will {
                let mut wants = about(&will.about);
                wants.push(24);
                wants.extend(will.delay.to_be_bytes());
                body.extend(properties(&wants));
                body.extend(text(&will.topic));
                body.extend(binary(&will.payload));
            }
            (0x10, body)
        }
        Said::Publish { topic, packet_id, qos, dup, retain, alias, about: says, payload } => {
            let mut body = text(topic);
            if *qos > 0 {
                body.extend(packet_id.to_be_bytes());
            }
            let mut says = about(says);
            if let Some(alias) = alias {
                says.push(35);
                says.extend(alias.to_be_bytes());
            }
            body.extend(properties(&says));
            body.extend(payload);
            (0x30 | (u8::from(*dup) << 3) | (qos << 1) | u8::from(*retain), body)
        }
        Said::Acknowledgement { kind, packet_id, code } => {
            let mut body = packet_id.to_be_bytes().to_vec();
            if *code > 0 {
                body.extend([*code, 0]);
            }
            (kind << 4 | if *kind == kind::PUBREL { 2 } else { 0 }, body)
        }
        Said::Subscribe { packet_id, identifier, entries } => {
            let mut body = packet_id.to_be_bytes().to_vec();
            let mut says = Vec::new();
            if let Some(identifier) = identifier {
                says.push(11);
                put_variable(&mut says, *identifier as usize);
            }
            body.extend(properties(&says));
            for (filter, options) in entries {
                body.extend(text(filter));
                body.push(*options);
            }
            (0x82, body)
        }
        Said::Unsubscribe { packet_id, filters } => {
            let mut body = packet_id.to_be_bytes().to_vec();
            body.extend(properties(&[]));
            filters.iter().for_each(|filter| body.extend(text(filter)));
            (0xa2, body)
        }
        Said::Disconnect { code, expiry } => {
            let mut body = Vec::new();
            if let Some(secs) = expiry {
                let secs = [&[17][..], &secs.to_be_bytes()].concat();
                body = [&[*code][..], &block(&secs)].concat();
            } else if *code > 0 {
                body = vec![*code];
            }
            (0xe0, body)
        }
        Said::Ping => (0xc0, Vec::new()),
    };
    let mut out = vec![head];
    put_variable(&mut out, body.len());
    out.extend(body);
    out
}

// ---- as we read them ----

fn ours(version: Version, bytes: &[u8]) -> Result<Said, Fault> {
    let frame = frame(bytes, usize::MAX)?.ok_or(Fault::malformed("more is to come"))?;
    if frame.bytes < bytes.len() {
        return Err(Fault::malformed("another packet follows"));
    }
    Ok(match frame.kind {
        kind::CONNECT => {
            let connect = connect(&frame).map_err(|error| match error {
                ConnectError::Fault(_, fault) => fault,
                ConnectError::Level(_) => Fault::malformed("another protocol level"),
                ConnectError::Noise(why) => Fault::malformed(why),
            })?;
            if connect.version != version {
                return Err(Fault::malformed("the other version"));
            }
            let most = u32::try_from(connect.packet_bytes_max).ok();
            Said::Connect {
                client_id: connect.client_id,
                clean: connect.clean_start,
                keep_alive: connect.keep_alive_secs,
                will: connect.will.map(|will| Wish {
                    topic: will.topic,
                    payload: will.payload,
                    qos: will.qos as u8,
                    retain: will.retain,
                    delay: will.delay_secs,
                    about: our_about(&will.properties),
                }),
                settings: (version == Version::V5).then_some(Asked {
                    expiry: connect.session_expiry_secs,
                    receive_maximum: connect.receive_maximum,
                    packet_bytes_max: most.filter(|_| connect.packet_bytes_max < usize::MAX),
                    alias_max: connect.topic_alias_max,
                    problems: connect.problem_information,
                    method: connect.wants_authentication,
                }),
            }
        }
        kind::PUBLISH => {
            let found = publish(version, &frame)?;
            let mut rest = Vec::new();
            forwarded_properties(found.properties, &mut rest);
            Said::Publish {
                topic: found.topic.to_owned(),
                packet_id: found.packet_id,
                qos: found.qos as u8,
                dup: found.dup,
                retain: found.retain,
                alias: found.alias,
                about: our_about(&rest),
                payload: found.payload.to_owned(),
            }
        }
        kind @ (kind::PUBACK | kind::PUBREC | kind::PUBREL | kind::PUBCOMP) => {
            let (packet_id, code) = acknowledgement(version, &frame)?;
            Said::Acknowledgement { kind, packet_id, code }
        }
        kind::SUBSCRIBE => {
            let (packet_id, wanted) = subscribe(version, &frame)?;
            let options = |wanted: &Wanted| {
                wanted.qos as u8
                    | (u8::from(wanted.no_local) << 2)
                    | (u8::from(wanted.retain_as_published) << 3)
                    | (wanted.retain_handling << 4)
            };
            Said::Subscribe {
                packet_id,
                identifier: wanted[0].identifier.map(NonZeroU32::get),
                entries: wanted.iter().map(|w| (w.filter.clone(), options(w))).collect(),
            }
        }
        kind::UNSUBSCRIBE => {
            let (packet_id, filters) = unsubscribe(version, &frame)?;
            Said::Unsubscribe { packet_id, filters }
        }
        kind::DISCONNECT => {
            let leave = disconnect(version, &frame)?;
            Said::Disconnect { code: leave.code, expiry: leave.session_expiry_secs }
        }
        kind::PINGREQ if frame.body.is_empty() => Said::Ping,
        _ => return Err(Fault::malformed("not of a client")),
    })
}

fn our_about(block: &[u8]) -> About {
    let mut about = About::default();
    let words = |value: &[u8]| String::from_utf8(value[2..].to_owned()).unwrap();
    for property in Properties(block) {
        let (id, value) = property.unwrap();
        match id {
            1 => about.format = Some(value[0]),
            2 => about.expiry = Some(number(value)),
            3 => about.content = Some(words(value)),
            8 => about.response = Some(words(value)),
            9 => about.correlation = Some(value[2..].to_owned()),
            38 => {
                let (name, value) = value.split_at(2 + number(&value[..2]) as usize);
                about.user.push((words(name), words(value)));
            }
            other => panic!("property {other}"),
        }
    }
    about
}

// ---- as mqtt-protocol-core reads them, and writes them again ----

fn core_about<'a>(properties: impl IntoIterator<Item = &'a Property>) -> (About, Option<u16>) {
    let (mut about, mut alias) = (About::default(), None);
    for property in properties {
        match property {
            Property::PayloadFormatIndicator(p) => about.format = Some(p.val()),
            Property::MessageExpiryInterval(p) => about.expiry = Some(p.val()),
            Property::ContentType(p) => about.content = Some(p.val().to_owned()),
            Property::ResponseTopic(p) => about.response = Some(p.val().to_owned()),
            Property::CorrelationData(p) => about.correlation = Some(p.val().to_owned()),
            Property::UserProperty(p) => about.user.push((p.key().into(), p.val().into())),
            Property::TopicAlias(p) => alias = Some(p.val()),
            _ => {}
        }
    }
    (about, alias)
}

/// What the crate reads, and the bytes it writes for it.
fn core(version: Version, bytes: &[u8]) -> Result<(Said, Vec<u8>), String> {
    let frame = frame(bytes, usize::MAX).map_err(|fault| fault.why)?.ok_or("more is to come")?;
    let (body, wrong) = (frame.body, |error: MqttError| error.to_string());
    let (said, again, used) = match (frame.kind, version) {
        (kind::CONNECT, Version::V4) => {
            let (packet, used) = v3_1_1::Connect::parse(body).map_err(wrong)?;
            let will = packet.will_flag().then(|| Wish {
                topic: packet.will_topic().unwrap_or_default().into(),
                payload: packet.will_payload().unwrap_or_default().into(),
                qos: packet.will_qos() as u8,
                retain: packet.will_retain(),
                delay: 0,
                about: About::default(),
            });
            let said = Said::Connect {
                client_id: packet.client_id().into(),
                clean: packet.clean_session(),
                keep_alive: packet.keep_alive(),
                will,
                settings: None,
            };
            (said, packet.to_continuous_buffer(), used)
        }
        (kind::CONNECT, Version::V5) => {
            let (packet, used) = v5_0::Connect::parse(body).map_err(wrong)?;
            let mut asked = Asked {
                expiry: 0,
                receive_maximum: u16::MAX,
                packet_bytes_max: None,
                alias_max: 0,
                problems: true,
                method: false,
            };
            for property in packet.props() {
                match property {
                    Property::SessionExpiryInterval(p) => asked.expiry = p.val(),
                    Property::ReceiveMaximum(p) => asked.receive_maximum = p.val(),
                    Property::MaximumPacketSize(p) => asked.packet_bytes_max = Some(p.val()),
                    Property::TopicAliasMaximum(p) => asked.alias_max = p.val(),
                    Property::RequestProblemInformation(p) => asked.problems = p.val() > 0,
                    Property::AuthenticationMethod(_) => asked.method = true,
                    _ => {}
                }
            }
            let delay = packet.will_props().iter().find_map(|property| match property {
                Property::WillDelayInterval(p) => Some(p.val()),
                _ => None,
            });
            let will = packet.will_flag().then(|| Wish {
                topic: packet.will_topic().unwrap_or_default().into(),
                payload: packet.will_payload().unwrap_or_default().into(),
                qos: packet.will_qos() as u8,
                retain: packet.will_retain(),
                delay: delay.unwrap_or_default(),
                about: core_about(packet.will_props()).0,
            });
            let said = Said::Connect {
                client_id: packet.client_id().into(),
                clean: packet.clean_start(),
                keep_alive: packet.keep_alive(),
                will,
                settings: Some(asked),
            };
            (said, packet.to_continuous_buffer(), used)
        }
        (kind::PUBLISH, Version::V4) => {
            let (packet, used) = v3_1_1::Publish::parse(frame.flags, body.into()).map_err(wrong)?;
            let said = Said::Publish {
                topic: packet.topic_name().into(),
                packet_id: packet.packet_id().unwrap_or_default(),
                qos: packet.qos() as u8,
                dup: packet.dup(),
                retain: packet.retain(),
                alias: None,
                about: About::default(),
                payload: packet.payload().as_slice().into(),
            };
            (said, packet.to_continuous_buffer(), used)
        }
        (kind::PUBLISH, Version::V5) => {
            let body: Arc<[u8]> = body.into();
            let (packet, used) = v5_0::Publish::parse(frame.flags, body).map_err(wrong)?;
            let (about, alias) = core_about(packet.props());
            let said = Said::Publish {
                topic: packet.topic_name().into(),
                packet_id: packet.packet_id().unwrap_or_default(),
                qos: packet.qos() as u8,
                dup: packet.dup(),
                retain: packet.retain(),
                alias,
                about,
                payload: packet.payload().as_slice().into(),
            };
            (said, packet.to_continuous_buffer(), used)
        }
        (kind @ (kind::PUBACK | kind::PUBREC | kind::PUBREL | kind::PUBCOMP), version) => {
            macro_rules! acknowledgement {
                ($packet:ty) => {{
                    let (packet, used) = <$packet>::parse(body).map_err(wrong)?;
                    (packet.packet_id(), 0, packet.to_continuous_buffer(), used)
                }};
                ($packet:ty, code) => {{
                    let (packet, used) = <$packet>::parse(body).map_err(wrong)?;
                    let code = packet.reason_code().map_or(0, |code| code as u8);
                    (packet.packet_id(), code, packet.to_continuous_buffer(), used)
                }};
            }
            let (packet_id, code, again, used) = match (kind, version) {
                (kind::PUBACK, Version::V4) => acknowledgement!(v3_1_1::Puback),
                (kind::PUBREC, Version::V4) => acknowledgement!(v3_1_1::Pubrec),
                (kind::PUBREL, Version::V4) => acknowledgement!(v3_1_1::Pubrel),
                (_, Version::V4) => acknowledgement!(v3_1_1::Pubcomp),
                (kind::PUBACK, Version::V5) => acknowledgement!(v5_0::Puback, code),
                (kind::PUBREC, Version::V5) => acknowledgement!(v5_0::Pubrec, code),
                (kind::PUBREL, Version::V5) => acknowledgement!(v5_0::Pubrel, code),
                (_, Version::V5) => acknowledgement!(v5_0::Pubcomp, code),
            };
            (Said::Acknowledgement { kind, packet_id, code }, again, used)
        }
        (kind::SUBSCRIBE, Version::V4) => {
            let (packet, used) = v3_1_1::Subscribe::parse(body).map_err(wrong)?;
            let entries = packet.entries().iter();
            let said = Said::Subscribe {
                packet_id: packet.packet_id(),
                identifier: None,
                entries: entries
                    .map(|e| (e.topic_filter().into(), e.sub_opts().to_buffer()[0]))
                    .collect(),
            };
            (said, packet.to_continuous_buffer(), used)
        }
        (kind::SUBSCRIBE, Version::V5) => {
            let (packet, used) = v5_0::Subscribe::parse(body).map_err(wrong)?;
            let identifier = packet.props().iter().find_map(|property| match property {
                Property::SubscriptionIdentifier(p) => Some(p.val()),
                _ => None,
            });
            let entries = packet.entries().iter();
            let said = Said::Subscribe {
                packet_id: packet.packet_id(),
                identifier,
                entries: entries
                    .map(|e| (e.topic_filter().into(), e.sub_opts().to_buffer()[0]))
                    .collect(),
            };
            (said, packet.to_continuous_buffer(), used)
        }
        (kind::UNSUBSCRIBE, Version::V4) => {
            let (packet, used) = v3_1_1::Unsubscribe::parse(body).map_err(wrong)?;
            let filters = packet.entries().iter().map(|filter| filter.as_str().into()).collect();
            let said = Said::Unsubscribe { packet_id: packet.packet_id(), filters };
            (said, packet.to_continuous_buffer(), used)
        }
        (kind::UNSUBSCRIBE, Version::V5) => {
            let (packet, used) = v5_0::Unsubscribe::parse(body).map_err(wrong)?;
            let filters = packet.entries().iter().map(|filter| filter.as_str().into()).collect();
            let said = Said::Unsubscribe { packet_id: packet.packet_id(), filters };
            (said, packet.to_continuous_buffer(), used)
        }
        (kind::DISCONNECT, Version::V4) if body.is_empty() => {
            (Said::Disconnect { code: 0, expiry: None }, bytes.to_vec(), 0)
        }
        (kind::DISCONNECT, Version::V5) => {
            let (packet, used) = v5_0::Disconnect::parse(body).map_err(wrong)?;
            let expiry = packet.props().iter().flatten().find_map(|property| match property {
                Property::SessionExpiryInterval(p) => Some(p.val()),
                _ => None,
            });
            let code = packet.reason_code().map_or(0, |code| code as u8);
            (Said::Disconnect { code, expiry }, packet.to_continuous_buffer(), used)
        }
        (kind::PINGREQ, _) if body.is_empty() => (Said::Ping, bytes.to_vec(), 0),
        _ => return Err("not of a client".into()),
    };
    if used != body.len() || frame.bytes != bytes.len() {
        return Err("bytes are left over".into());
    }
    Ok((said, again))
}

// ---- as rumqttc reads and writes them ----

fn old_qos(qos: u8) -> old::QoS {
    old::qos(qos).unwrap()
}

fn new_qos(qos: u8) -> rumqttc::v5::mqttbytes::QoS {
    rumqttc::v5::mqttbytes::qos(qos).unwrap()
}

fn rumqttc(version: Version, bytes: &[u8]) -> Result<Said, String> {
    let mut input = BytesMut::from(bytes);
    match version {
        Version::V4 => {
            let packet = old::v4::Packet::read(&mut input, usize::MAX);
            said_by_old(packet.map_err(|error| error.to_string())?)
        }
        Version::V5 => {
            let packet = new::Packet::read(&mut input, None);
            said_by_new(packet.map_err(|error| error.to_string())?)
        }
    }
    .filter(|_| input.is_empty())
    .ok_or_else(|| "not one packet of a client".into())
}

fn said_by_old(packet: old::v4::Packet) -> Option<Said> {
    use old::v4::Packet;
    let acknowledgement = |kind, packet_id| Said::Acknowledgement { kind, packet_id, code: 0 };
    Some(match packet {
        Packet::Connect(connect) => Said::Connect {
            client_id: connect.client_id,
            clean: connect.clean_session,
            keep_alive: connect.keep_alive,
            will: connect.last_will.map(|will| Wish {
                topic: will.topic,
                payload: will.message.to_vec(),
                qos: will.qos as u8,
                retain: will.retain,
                delay: 0,
                about: About::default(),
            }),
            settings: None,
        },
        Packet::Publish(publish) => Said::Publish {
            topic: publish.topic,
            packet_id: publish.pkid,
            qos: publish.qos as u8,
            dup: publish.dup,
            retain: publish.retain,
            alias: None,
            about: About::default(),
            payload: publish.payload.to_vec(),
        },
        Packet::PubAck(ack) => acknowledgement(kind::PUBACK, ack.pkid),
        Packet::PubRec(ack) => acknowledgement(kind::PUBREC, ack.pkid),
        Packet::PubRel(ack) => acknowledgement(kind::PUBREL, ack.pkid),
        Packet::PubComp(ack) => acknowledgement(kind::PUBCOMP, ack.pkid),
        Packet::Subscribe(subscribe) => Said::Subscribe {
            packet_id: subscribe.pkid,
            identifier: None,
            entries: subscribe.filters.into_iter().map(|f| (f.path, f.qos as u8)).collect(),
        },
        Packet::Unsubscribe(unsubscribe) => {
            Said::Unsubscribe { packet_id: unsubscribe.pkid, filters: unsubscribe.topics }
        }
        Packet::Disconnect => Said::Disconnect { code: 0, expiry: None },
        Packet::PingReq => Said::Ping,
        _ => return None,
    })
}

fn said_by_new(packet: new::Packet) -> Option<Said> {
    use new::Packet;
    let utf8 = |bytes: Bytes| String::from_utf8(bytes.to_vec()).ok();
    Some(match packet {
        Packet::Connect(connect, will, _) => {
            let wants = connect.properties;
            let wants = wants.as_ref();
            Said::Connect {
                client_id: connect.client_id,
                clean: connect.clean_start,
                keep_alive: connect.keep_alive,
                will: match will {
                    None => None,
                    Some(will) => Some(Wish {
                        topic: utf8(will.topic)?,
                        payload: will.message.to_vec(),
                        qos: will.qos as u8,
                        retain: will.retain,
                        delay: will
                            .properties
                            .as_ref()
                            .and_then(|p| p.delay_interval)
                            .unwrap_or_default(),
                        about: will.properties.map_or_else(About::default, |p| About {
                            format: p.payload_format_indicator,
                            expiry: p.message_expiry_interval,
                            content: p.content_type,
                            response: p.response_topic,
                            correlation: p.correlation_data.map(|data| data.to_vec()),
                            user: p.user_properties,
                        }),
                    }),
                },
                settings: Some(Asked {
                    expiry: wants.and_then(|p| p.session_expiry_interval).unwrap_or_default(),
                    receive_maximum: wants.and_then(|p| p.receive_maximum).unwrap_or(u16::MAX),
                    packet_bytes_max: wants.and_then(|p| p.max_packet_size),
                    alias_max: wants.and_then(|p| p.topic_alias_max).unwrap_or_default(),
                    problems: wants.and_then(|p| p.request_problem_info) != Some(0),
                    method: wants.is_some_and(|p| p.authentication_method.is_some()),
                }),
            }
        }
        Packet::Publish(publish) => {
            let about = publish.properties.unwrap_or_default();
            Said::Publish {
                topic: utf8(publish.topic)?,
                packet_id: publish.pkid,
                qos: publish.qos as u8,
                dup: publish.dup,
                retain: publish.retain,
                alias: about.topic_alias,
                about: About {
                    format: about.payload_format_indicator,
                    expiry: about.message_expiry_interval,
                    content: about.content_type,
                    response: about.response_topic,
                    correlation: about.correlation_data.map(|data| data.to_vec()),
                    user: about.user_properties,
                },
                payload: publish.payload.to_vec(),
            }
        }
        Packet::PubAck(ack) => {
            let code = match ack.reason {
                new::PubAckReason::Success => 0,
                new::PubAckReason::NoMatchingSubscribers => 0x10,
                new::PubAckReason::UnspecifiedError => 0x80,
                new::PubAckReason::ImplementationSpecificError => 0x83,
                new::PubAckReason::NotAuthorized => 0x87,
                new::PubAckReason::TopicNameInvalid => 0x90,
                new::PubAckReason::PacketIdentifierInUse => 0x91,
                new::PubAckReason::QuotaExceeded => 0x97,
                new::PubAckReason::PayloadFormatInvalid => 0x99,
            };
            Said::Acknowledgement { kind: kind::PUBACK, packet_id: ack.pkid, code }
        }
        Packet::PubRec(ack) => {
            let code = match ack.reason {
                new::PubRecReason::Success => 0,
                new::PubRecReason::NoMatchingSubscribers => 0x10,
                new::PubRecReason::UnspecifiedError => 0x80,
                new::PubRecReason::ImplementationSpecificError => 0x83,
                new::PubRecReason::NotAuthorized => 0x87,
                new::PubRecReason::TopicNameInvalid => 0x90,
                new::PubRecReason::PacketIdentifierInUse => 0x91,
                new::PubRecReason::QuotaExceeded => 0x97,
                new::PubRecReason::PayloadFormatInvalid => 0x99,
            };
            Said::Acknowledgement { kind: kind::PUBREC, packet_id: ack.pkid, code }
        }
        Packet::PubRel(ack) => {
            let code = if ack.reason == new::PubRelReason::Success { 0 } else { 0x92 };
            Said::Acknowledgement { kind: kind::PUBREL, packet_id: ack.pkid, code }
        }
        Packet::PubComp(ack) => {
            let code = if ack.reason == new::PubCompReason::Success { 0 } else { 0x92 };
            Said::Acknowledgement { kind: kind::PUBCOMP, packet_id: ack.pkid, code }
        }
        Packet::Subscribe(subscribe) => {
            let options = |f: &new::Filter| {
                let handling = match f.retain_forward_rule {
                    new::RetainForwardRule::OnEverySubscribe => 0,
                    new::RetainForwardRule::OnNewSubscribe => 1,
                    new::RetainForwardRule::Never => 2,
                };
                f.qos as u8
                    | (u8::from(f.nolocal) << 2)
                    | (u8::from(f.preserve_retain) << 3)
                    | (handling << 4)
            };
            Said::Subscribe {
                packet_id: subscribe.pkid,
                identifier: subscribe.properties.and_then(|p| p.id).map(|id| id as u32),
                entries: subscribe.filters.iter().map(|f| (f.path.clone(), options(f))).collect(),
            }
        }
        Packet::Unsubscribe(unsubscribe) => {
            Said::Unsubscribe { packet_id: unsubscribe.pkid, filters: unsubscribe.filters }
        }
        Packet::Disconnect(disconnect) => Said::Disconnect {
            code: disconnect.reason_code as u8,
            expiry: disconnect.properties.and_then(|p| p.session_expiry_interval),
        },
        Packet::PingReq(_) => Said::Ping,
        _ => return None,
    })
}

/// The packet as `rumqttc` writes it, where it can.
fn written_by_rumqttc(version: Version, said: &Said) -> Option<Vec<u8>> {
    let mut out = BytesMut::new();
    let written = match version {
        Version::V4 => old_packet(said)?.write(&mut out, usize::MAX).is_ok(),
        Version::V5 => new_packet(said)?.write(&mut out, None).is_ok(),
    };
    written.then(|| out.to_vec())
}

fn old_packet(said: &Said) -> Option<old::v4::Packet> {
    use old::v4;
    Some(match said.clone() {
        Said::Connect { client_id, clean, keep_alive, will, .. } => {
            let mut connect = v4::Connect::new(client_id);
            connect.clean_session = clean;
            connect.keep_alive = keep_alive;
            connect.last_will =
                will.map(|w| v4::LastWill::new(w.topic, w.payload, old_qos(w.qos), w.retain));
            v4::Packet::Connect(connect)
        }
        Said::Publish { topic, packet_id, qos, dup, retain, payload, .. } => {
            let mut publish = v4::Publish::new(topic, old_qos(qos), payload);
            (publish.pkid, publish.dup, publish.retain) = (packet_id, dup, retain);
            v4::Packet::Publish(publish)
        }
        Said::Acknowledgement { kind, packet_id, .. } => match kind {
            kind::PUBACK => v4::Packet::PubAck(v4::PubAck::new(packet_id)),
            kind::PUBREC => v4::Packet::PubRec(v4::PubRec::new(packet_id)),
            kind::PUBREL => v4::Packet::PubRel(v4::PubRel::new(packet_id)),
            _ => v4::Packet::PubComp(v4::PubComp::new(packet_id)),
        },
        Said::Subscribe { packet_id, entries, .. } => {
            let filter = |(path, qos)| v4::SubscribeFilter { path, qos: old_qos(qos) };
            let mut subscribe = v4::Subscribe::new_many(entries.into_iter().map(filter));
            subscribe.pkid = packet_id;
            v4::Packet::Subscribe(subscribe)
        }
        Said::Unsubscribe { packet_id, filters } => {
            v4::Packet::Unsubscribe(v4::Unsubscribe { pkid: packet_id, topics: filters })
        }
        Said::Disconnect { .. } => v4::Packet::Disconnect,
        Said::Ping => v4::Packet::PingReq,
    })
}

fn new_packet(said: &Said) -> Option<new::Packet> {
    Some(match said.clone() {
        Said::Connect { client_id, clean, keep_alive, will, settings } => {
            let asked = settings?;
            let properties = new::ConnectProperties {
                session_expiry_interval: Some(asked.expiry),
                receive_maximum: Some(asked.receive_maximum),
                max_packet_size: asked.packet_bytes_max,
                topic_alias_max: Some(asked.alias_max),
                request_response_info: None,
                request_problem_info: Some(u8::from(asked.problems)),
                user_properties: Vec::new(),
                authentication_method: asked.method.then(|| "method".into()),
                authentication_data: None,
            };
            let connect = new::Connect {
                keep_alive,
                client_id,
                clean_start: clean,
                properties: Some(properties),
            };
            let will = will.map(|will| new::LastWill {
                topic: will.topic.into(),
                message: will.payload.into(),
                qos: new_qos(will.qos),
                retain: will.retain,
                properties: Some(new::LastWillProperties {
                    delay_interval: Some(will.delay),
                    payload_format_indicator: will.about.format,
                    message_expiry_interval: will.about.expiry,
                    content_type: will.about.content,
                    response_topic: will.about.response,
                    correlation_data: will.about.correlation.map(Bytes::from),
                    user_properties: will.about.user,
                }),
            });
            new::Packet::Connect(connect, will, None)
        }
        Said::Publish { topic, packet_id, qos, dup, retain, alias, about, payload } => {
            let properties = new::PublishProperties {
                payload_format_indicator: about.format,
                message_expiry_interval: about.expiry,
                topic_alias: alias,
                response_topic: about.response,
                correlation_data: about.correlation.map(Bytes::from),
                user_properties: about.user,
                subscription_identifiers: Vec::new(),
                content_type: about.content,
            };
            let (qos, properties) = (new_qos(qos), Some(properties));
            let mut publish = new::Publish::new(topic, qos, payload, properties);
            (publish.pkid, publish.dup, publish.retain) = (packet_id, dup, retain);
            new::Packet::Publish(publish)
        }
        Said::Acknowledgement { kind, packet_id, code: 0 } => match kind {
            kind::PUBACK => new::Packet::PubAck(new::PubAck::new(packet_id, None)),
            kind::PUBREC => new::Packet::PubRec(new::PubRec::new(packet_id, None)),
            kind::PUBREL => new::Packet::PubRel(new::PubRel::new(packet_id, None)),
            _ => new::Packet::PubComp(new::PubComp::new(packet_id, None)),
        },
        Said::Acknowledgement { .. } => return None,
        Said::Subscribe { packet_id, identifier, entries } => {
            let filter = |(path, options): (String, u8)| new::Filter {
                path,
                qos: new_qos(options & 3),
                nolocal: options & 4 != 0,
                preserve_retain: options & 8 != 0,
                retain_forward_rule: match options >> 4 {
                    0 => new::RetainForwardRule::OnEverySubscribe,
                    1 => new::RetainForwardRule::OnNewSubscribe,
                    _ => new::RetainForwardRule::Never,
                },
            };
            new::Packet::Subscribe(new::Subscribe {
                pkid: packet_id,
                filters: entries.into_iter().map(filter).collect(),
                properties: identifier.map(|id| new::SubscribeProperties {
                    id: Some(id as usize),
                    user_properties: Vec::new(),
                }),
            })
        }
        Said::Unsubscribe { packet_id, filters } => new::Packet::Unsubscribe(new::Unsubscribe {
            pkid: packet_id,
            filters,
            properties: None,
        }),
        // It takes its reason code by name, and only ever says the first.
        Said::Disconnect { code: 0, expiry: None } => new::Packet::Disconnect(
            new::Disconnect::new(new::DisconnectReasonCode::NormalDisconnection),
        ),
        Said::Disconnect { .. } => return None,
        Said::Ping => new::Packet::PingReq(new::PingReq),
    })
}

// ---- packets at random ----

fn words() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[a-z/ü]{0,8}", 1 => "[\u{1}-\u{7f}]{0,4}", 1 => "\\PC{0,8}"]
        .prop_filter("no wildcard, no U+0000", |text: &String| !text.contains(['#', '+', '\0']))
}

fn topic() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,4}(/[a-zü]{0,4}){0,3}", "/{1,3}"]
}

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..most)
}

prop_compose! {
    fn abouts()(
        format in prop::option::of(0..=1_u8),
        expiry in prop::option::of(any::<u32>()),
        content in prop::option::of(words()),
        response in prop::option::of(topic()),
        correlation in prop::option::of(bytes(20)),
        user in prop::collection::vec((words(), words()), 0..3),
    ) -> About {
        About { format, expiry, content, response, correlation, user }
    }
}

fn connects(version: Version) -> impl Strategy<Value = Said> {
    let is_new = version == Version::V5;
    let will = (topic(), bytes(30), 0..=2_u8, any::<bool>(), any::<u32>(), abouts()).prop_map(
        move |(topic, payload, qos, retain, delay, about)| Wish {
            topic,
            payload,
            qos,
            retain,
            delay: if is_new { delay } else { 0 },
            about: if is_new { about } else { About::default() },
        },
    );
    let asked = (
        any::<u32>(),
        1..=u16::MAX,
        prop::option::of(1..=u32::MAX),
        any::<u16>(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(
            |(expiry, receive_maximum, packet_bytes_max, alias_max, problems, method)| Asked {
                expiry,
                receive_maximum,
                packet_bytes_max,
                alias_max,
                problems,
                method,
            },
        );
    (words(), any::<bool>(), any::<u16>(), prop::option::of(will), asked).prop_map(
        move |(client_id, clean, keep_alive, will, asked)| Said::Connect {
            client_id,
            clean,
            keep_alive,
            will,
            settings: is_new.then_some(asked),
        },
    )
}

fn publishes(version: Version) -> impl Strategy<Value = Said> {
    let is_new = version == Version::V5;
    (
        topic(),
        1..=u16::MAX,
        0..=2_u8,
        any::<bool>(),
        any::<bool>(),
        prop::option::of(1..=u16::MAX),
        abouts(),
        bytes(200),
    )
        .prop_map(move |(topic, packet_id, qos, dup, retain, alias, about, payload)| {
            Said::Publish {
                topic,
                packet_id: if qos == 0 { 0 } else { packet_id },
                qos,
                dup: dup && qos > 0,
                retain,
                alias: alias.filter(|_| is_new),
                about: if is_new { about } else { About::default() },
                payload,
            }
        })
}

fn packets(version: Version) -> BoxedStrategy<Said> {
    let is_new = version == Version::V5;
    let codes = move |kind: u8| match kind {
        _ if !is_new => vec![0],
        kind::PUBACK | kind::PUBREC => vec![0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
        _ => vec![0, 0x92],
    };
    let kinds = vec![kind::PUBACK, kind::PUBREC, kind::PUBREL, kind::PUBCOMP];
    let acknowledgements = prop::sample::select(kinds)
        .prop_flat_map(move |kind| (Just(kind), 1..=u16::MAX, prop::sample::select(codes(kind))))
        .prop_map(|(kind, packet_id, code)| Said::Acknowledgement { kind, packet_id, code });
    let options = (0..=2_u8, any::<bool>(), any::<bool>(), 0..=2_u8).prop_map(
        move |(qos, no_local, as_published, handling)| match is_new {
            true => qos | (u8::from(no_local) << 2) | (u8::from(as_published) << 3) | handling << 4,
            false => qos,
        },
    );
    let filter =
        || prop_oneof![topic(), Just("#".into()), Just("a/+/b".into()), Just("+/#".into())];
    let subscribes = (
        1..=u16::MAX,
        prop::option::of(1..=268_435_455_u32),
        prop::collection::vec((filter(), options), 1..4),
    )
        .prop_map(move |(packet_id, identifier, entries)| Said::Subscribe {
            packet_id,
            identifier: identifier.filter(|_| is_new),
            entries,
        });
    let unsubscribes = (1..=u16::MAX, prop::collection::vec(filter(), 1..4))
        .prop_map(|(packet_id, filters)| Said::Unsubscribe { packet_id, filters });
    let codes = if is_new { vec![0, 4, 0x80, 0x81, 0x82, 0x93, 0x99] } else { vec![0] };
    let disconnects = (prop::sample::select(codes), prop::option::of(any::<u32>())).prop_map(
        move |(code, expiry)| Said::Disconnect { code, expiry: expiry.filter(|_| is_new) },
    );
    prop_oneof![
        3 => connects(version),
        4 => publishes(version),
        2 => acknowledgements,
        2 => subscribes,
        1 => unsubscribes,
        1 => disconnects,
        1 => Just(Said::Ping),
    ]
    .boxed()
}

fn said() -> impl Strategy<Value = (Version, Said)> {
    prop_oneof![Just(Version::V4), Just(Version::V5)]
        .prop_flat_map(|version| (Just(version), packets(version)))
}

// ---- the differences ----

/// Faults for which `mqtt-protocol-core` takes a packet. Its connection checks some of them
/// later; the standard forbids them all.
const CORE_TAKES: &[(&str, &str)] = &[
    ("a string holds U+0000", "1.5.4-2: a null character must not be sent"),
    ("a packet ends too early", "3.3.2.3.1: it reads a PUBLISH without property length"),
    ("packet id 0", "2.2.1-3: of SUBSCRIBE and UNSUBSCRIBE too"),
    ("an acknowledgement is not two bytes long", "3.4.2 of 3.1.1: it reads a reason code there"),
    ("DUP on quality of service 0", "3.3.1-2"),
    ("neither topic nor alias", "4.7.3-1"),
    ("an empty topic", "4.7.3-1"),
    ("a client may not send subscription identifiers", "3.3.4-6"),
    ("a response topic with a wildcard", "3.3.2-14"),
    ("authentication data without a method", "3.1.2.11.10"),
    ("the reserved flag of CONNECT is set", "3.1.2-3"),
    ("the will flags of CONNECT contradict each other", "3.1.2-11 to 13"),
    ("a length is not in its shortest form", "1.5.5-1: it reads longer forms of property lengths"),
    ("reserved subscription options are set", "3.8.3-4 of 3.1.1: it reads those of MQTT 5 there"),
    ("no local on a shared subscription", "3.8.3-4"),
    ("a property is given twice", "2.2.2.2: it lets two identifiers of a SUBSCRIBE pass"),
];

/// Faults for which `rumqttc`, which has to read what a broker sends, takes a packet.
const RUMQTTC_TAKES: &[(&str, &str)] = &[
    ("reserved flags are set", "2.1.3-1: it looks at the flags of PUBLISH alone"),
    ("a string holds U+0000", "1.5.4-2"),
    ("packet id 0", "2.2.1-3: of all but PUBLISH"),
    ("DUP on quality of service 0", "3.3.1-2"),
    ("neither topic nor alias", "4.7.3-1"),
    ("an empty topic", "4.7.3-1"),
    ("a client may not send subscription identifiers", "3.3.4-6: it is what brokers send it"),
    ("a property is given twice", "2.2.2.2"),
    ("a payload format other than 0 and 1", "3.3.2.3.2"),
    ("a request for information other than 0 and 1", "3.1.2.11.6 and 7"),
    ("a response topic with a wildcard", "3.3.2-14"),
    ("topic alias 0, which MQTT does not have", "3.3.2-8"),
    ("receive maximum 0", "3.1.2.11.3"),
    ("maximum packet size 0", "3.1.2.11.4"),
    ("authentication data without a method", "3.1.2.11.10"),
    ("the reserved flag of CONNECT is set", "3.1.2-3"),
    ("a password without a user name", "3.1.2-22 of 3.1.1"),
    ("a length is not in its shortest form", "1.5.5-1"),
    ("reserved subscription options are set", "3.8.3-5"),
    ("no local on a shared subscription", "3.8.3-4"),
    ("subscription identifier 0", "3.8.2.1.2"),
    ("bytes are left over at the end of a packet", "4.13: it drops them"),
    ("a packet ends too early", "it reads property lengths that overlap what follows"),
    ("a DISCONNECT with a body", "3.14.0 of 3.1.1"),
    ("an acknowledgement is not two bytes long", "3.4.2 of 3.1.1: it drops the rest"),
    ("not of a client", "3.12: a PINGREQ with a body"),
    ("an UNSUBSCRIBE without filters", "3.10.3-2"),
    ("a property that MQTT does not have", "2.2.2.2: it reads on behind the end of the block"),
];

/// Where and with which errors `rumqttc` refuses what is in order.
const RUMQTTC_REFUSES: &[(u8, &str, &str)] = &[
    (kind::CONNECT, "not UTF-8", "3.1.3-11 of 3.1.1: a password is binary data"),
    (kind::CONNECT, "not utf-8", "3.1.3.6: a password is binary data"),
    (kind::DISCONNECT, "Payload", "3.14.2.1: the reason code may be left out"),
    (kind::DISCONNECT, "Insufficient", "3.14.2.2.1: the properties may be left out"),
];

/// Where and with which errors `mqtt-protocol-core` refuses what is in order.
const CORE_REFUSES: &[(u8, &str, &str)] = &[
    (kind::CONNECT, "ProtocolError", "3.1.2.9: a password without a user name"),
    (kind::SUBSCRIBE, "MalformedPacket", "3.9.3: a bad share is answered in SUBACK"),
    (kind::UNSUBSCRIBE, "MalformedPacket", "3.11.3: a bad share is answered in UNSUBACK"),
];

fn takes(list: &[(&str, &str)], fault: &Fault) -> bool {
    list.iter().any(|(why, _)| fault.why == *why)
}

fn refuses(list: &[(u8, &str, &str)], bytes: &[u8], error: &str) -> bool {
    list.iter().any(|(kind, what, _)| bytes[0] >> 4 == *kind && error.contains(what))
}

fn compare(version: Version, bytes: &[u8]) -> Result<(), TestCaseError> {
    let we = ours(version, bytes);
    let others = [
        (core(version, bytes).map(|(said, _)| said), CORE_TAKES, CORE_REFUSES),
        (rumqttc(version, bytes), RUMQTTC_TAKES, RUMQTTC_REFUSES),
    ];
    for (they, they_take, they_refuse) in others {
        match (&we, they) {
            (Ok(we), Ok(they)) => prop_assert_eq!(we, &they, "{:02x?}", bytes),
            (Err(_), Err(_)) => {}
            (Err(fault), Ok(they)) => prop_assert!(
                takes(they_take, fault),
                "we refuse {bytes:02x?} for {fault:?}, they read {they:?}"
            ),
            (Ok(we), Err(error)) => prop_assert!(
                refuses(they_refuse, bytes, &error),
                "they refuse {bytes:02x?} for {error:?}, we read {we:?}"
            ),
        }
    }
    Ok(())
}

/// Differences that packets at random seldom show.
#[test]
fn rare_differences_are_listed_too() {
    let subscribe = |properties: &[u8], filter: &str, options: u8| {
        let body = [&[0, 1][..], &block(properties), &text(filter), &[options]].concat();
        [&[0x82, body.len() as u8][..], &body].concat()
    };
    let publish = |topic: &[u8], properties: &[u8]| {
        let body = [binary(topic), block(properties)].concat();
        [&[0x30, body.len() as u8][..], &body].concat()
    };
    for bytes in [
        subscribe(&[], "$share/g/a", 4),
        subscribe(&[], "$share/g", 0),
        subscribe(&[], "$share//a", 0),
        subscribe(&[11, 0], "a", 0),
        subscribe(&[11, 1, 11, 2], "a", 0),
        subscribe(&[11, 0x81, 0], "a", 0),
        subscribe(&[1, 0], "a", 0),
        subscribe(&[31, 0, 1, b'w'], "a", 0),
        subscribe(&[], "a", 0x30),
        subscribe(&[], "a", 3),
        publish(b"a", &[11, 1]),
        publish(b"a", &[35, 0, 0]),
        publish(b"a", &[1, 2]),
        publish(b"a", &[8, 0, 1, b'#']),
        publish(b"\xff", &[]),
        publish(b"a\0", &[]),
        publish(b"#", &[]),
        publish(b"a", &[17, 0, 0, 0, 0]),
        vec![0x82, 7, 0, 1, 0x80, 0, 0, 1, b'a', 0],
        vec![0xa2, 5, 0, 0, 0, 0, 1, b'a'],
        vec![0xa2, 13, 0, 1, 0, 0, 8, b'$', b's', b'h', b'a', b'r', b'e', b'/', b'g'],
        vec![0x40, 3, 0, 1, 1],
        vec![0x62, 3, 0, 1, 0x80],
        vec![0x40, 4, 0, 0, 0, 0],
        vec![0x50, 7, 0, 1, 0, 3, 17, 0, 0],
        vec![0xe0, 1, 1],
        vec![0xe0, 2, 0, 9],
    ] {
        for version in [Version::V4, Version::V5] {
            compare(version, &bytes).unwrap_or_else(|difference| panic!("{difference}"));
        }
    }
}

// ---- what we write ----

/// What `rumqttc` reads of one packet of ours, to its last byte.
fn read_old(bytes: &[u8]) -> old::v4::Packet {
    let mut input = BytesMut::from(bytes);
    let packet = old::v4::Packet::read(&mut input, usize::MAX).unwrap();
    assert!(input.is_empty(), "{bytes:02x?}");
    packet
}

fn read_new(bytes: &[u8]) -> new::Packet {
    let mut input = BytesMut::from(bytes);
    let packet = new::Packet::read(&mut input, None).unwrap();
    assert!(input.is_empty(), "{bytes:02x?}");
    packet
}

/// The body of a packet of ours, and that the frame around it is whole.
fn body(bytes: &[u8]) -> &[u8] {
    let frame = frame(bytes, usize::MAX).unwrap().unwrap();
    assert_eq!(frame.bytes, bytes.len());
    frame.body
}

const SUBACKS: [SubackReasonCode; 6] = [
    SubackReasonCode::GrantedQos0,
    SubackReasonCode::GrantedQos1,
    SubackReasonCode::GrantedQos2,
    SubackReasonCode::NotAuthorized,
    SubackReasonCode::TopicFilterInvalid,
    SubackReasonCode::QuotaExceeded,
];

proptest! {
    #[test]
    fn every_connack_is_read_by_others_as_it_was_meant(
        session_present in any::<bool>(),
        receive_maximum in 1..=u16::MAX,
        packet_bytes_max in 1..=u32::MAX,
        topic_alias_max in any::<u16>(),
        retain_available in any::<bool>(),
        assigned_client_id in prop::option::of("[a-z]{1,20}"),
        keep_alive_secs in prop::option::of(any::<u16>()),
        session_expiry_secs in prop::option::of(any::<u32>()),
    ) {
        let says = Welcome {
            session_present,
            receive_maximum,
            packet_bytes_max: packet_bytes_max as usize,
            topic_alias_max,
            retain_available,
            assigned_client_id: assigned_client_id.clone(),
            keep_alive_secs,
            session_expiry_secs,
        };
        let bytes = welcome(Version::V4, &says).unwrap();
        let code = old::v4::ConnectReturnCode::Success;
        let expect = old::v4::ConnAck { session_present, code };
        prop_assert_eq!(read_old(&bytes), old::v4::Packet::ConnAck(expect));
        let bytes = welcome(Version::V5, &says).unwrap();
        let new::Packet::ConnAck(connack) = read_new(&bytes) else { panic!("{bytes:02x?}") };
        let properties = connack.properties.unwrap();
        prop_assert_eq!(connack.session_present, session_present);
        prop_assert_eq!(properties.receive_max, Some(receive_maximum));
        prop_assert_eq!(properties.max_packet_size, Some(packet_bytes_max));
        // What is absent has its default.
        prop_assert_eq!(properties.topic_alias_max.unwrap_or(0), topic_alias_max);
        prop_assert_eq!(properties.retain_available != Some(0), retain_available);
        prop_assert_eq!(properties.assigned_client_identifier, assigned_client_id);
        prop_assert_eq!(properties.server_keep_alive, keep_alive_secs);
        prop_assert_eq!(properties.session_expiry_interval, session_expiry_secs);
    }

    #[test]
    fn every_other_answer_is_read_by_others_as_it_was_meant(
        packet_id in 1..=u16::MAX,
        codes in prop::collection::vec(prop::sample::select(SUBACKS.to_vec()), 1..300),
        found in prop::collection::vec(any::<bool>(), 1..300),
        why in "[a-z ü]{0,200}",
        bytes_max in prop_oneof![Just(usize::MAX), 1..300_usize],
    ) {
        // SUBACK: never larger than allowed for the sake of its words.
        let bytes = suback(Version::V5, packet_id, &codes, Some(&why), bytes_max).unwrap();
        let plain = suback(Version::V5, packet_id, &codes, None, bytes_max).unwrap();
        prop_assert!(bytes == plain || bytes.len() <= bytes_max);
        for bytes in [&bytes, &plain] {
            let (packet, used) = v5_0::Suback::parse(body(bytes)).unwrap();
            prop_assert_eq!(used, body(bytes).len());
            prop_assert_eq!((packet.packet_id(), &packet.reason_codes()), (packet_id, &codes));
            let new::Packet::SubAck(ack) = read_new(bytes) else { panic!("{bytes:02x?}") };
            prop_assert_eq!((ack.pkid, ack.return_codes.len()), (packet_id, codes.len()));
        }
        let bytes = suback(Version::V4, packet_id, &codes, Some(&why), bytes_max).unwrap();
        let old::v4::Packet::SubAck(ack) = read_old(&bytes) else { panic!("{bytes:02x?}") };
        let granted = |code: &SubackReasonCode| match qos(*code as u8) {
            Some(qos) if (*code as u8) < 3 => {
                old::v4::SubscribeReasonCode::Success(old_qos(qos as u8))
            }
            _ => old::v4::SubscribeReasonCode::Failure,
        };
        prop_assert_eq!(ack.return_codes, codes.iter().map(granted).collect::<Vec<_>>());
        // UNSUBACK.
        let bytes = unsuback(Version::V5, packet_id, &found).unwrap();
        let new::Packet::UnsubAck(ack) = read_new(&bytes) else { panic!("{bytes:02x?}") };
        let reasons = found.iter().map(|found| match found {
            true => new::UnsubAckReason::Success,
            false => new::UnsubAckReason::NoSubscriptionExisted,
        });
        prop_assert_eq!((ack.pkid, ack.reasons), (packet_id, reasons.collect::<Vec<_>>()));
        let bytes = unsuback(Version::V4, packet_id, &found).unwrap();
        let expect = old::v4::UnsubAck::new(packet_id);
        prop_assert_eq!(read_old(&bytes), old::v4::Packet::UnsubAck(expect));
        // A refusal in words, and without where there is no room.
        for (head, code) in [(ack::PUBACK, 0x87), (ack::PUBREC, 0x97)] {
            let mut bytes = Vec::new();
            put_refusal(&mut bytes, (head, packet_id, code), &why, bytes_max);
            prop_assert!(bytes.len() <= bytes_max.max(5));
            let read = match read_new(&bytes) {
                new::Packet::PubAck(ack) => {
                    prop_assert_eq!(ack.reason, new::PubAckReason::NotAuthorized);
                    (ack.pkid, ack.properties.and_then(|p| p.reason_string))
                }
                new::Packet::PubRec(ack) => {
                    prop_assert_eq!(ack.reason, new::PubRecReason::QuotaExceeded);
                    (ack.pkid, ack.properties.and_then(|p| p.reason_string))
                }
                other => panic!("{other:?}"),
            };
            let told = (bytes.len() > 5).then(|| why.clone());
            prop_assert_eq!(read, (packet_id, told));
        }
        // DISCONNECT.
        let bytes = goodbye(DisconnectReasonCode::QuotaExceeded, &why, bytes_max);
        prop_assert!(bytes.len() <= bytes_max.max(3));
        let (packet, used) = v5_0::Disconnect::parse(body(&bytes)).unwrap();
        prop_assert_eq!(used, body(&bytes).len());
        prop_assert_eq!(packet.reason_code(), Some(DisconnectReasonCode::QuotaExceeded));
        let told = packet.props().iter().flatten().find_map(|property| match property {
            Property::ReasonString(words) => Some(words.val().to_owned()),
            _ => None,
        });
        prop_assert_eq!(told, (bytes.len() > 3).then(|| why.clone()));
        // A refused CONNECT.
        let code = ConnectReasonCode::NotAuthorized;
        let bytes = farewell_because(Version::V5, code, &why, bytes_max);
        prop_assert!(bytes.len() <= bytes_max.max(5));
        let new::Packet::ConnAck(connack) = read_new(&bytes) else { panic!("{bytes:02x?}") };
        prop_assert_eq!(connack.code, new::ConnectReturnCode::NotAuthorized);
        let bytes = farewell_because(Version::V4, code, &why, bytes_max);
        let code = old::v4::ConnectReturnCode::NotAuthorized;
        let expect = old::v4::ConnAck { session_present: false, code };
        prop_assert_eq!(read_old(&bytes), old::v4::Packet::ConnAck(expect));
    }

    #[test]
    fn every_publish_is_read_by_others_as_it_was_meant(
        version in prop_oneof![Just(Version::V4), Just(Version::V5)],
        said in publishes(Version::V5),
        identifiers in prop::collection::vec(1..=268_435_455_u32, 0..4),
    ) {
        let Said::Publish { topic, packet_id, qos: level, dup, retain, alias, about: says, payload }
            = said
        else { unreachable!() };
        let identifiers: Vec<_> = identifiers.into_iter().filter_map(NonZeroU32::new).collect();
        let (quality, block) = (qos(level).unwrap(), about(&says));
        let outgoing = Outgoing {
            topic: &topic,
            alias: alias.filter(|_| version == Version::V5),
            identifiers: &identifiers,
            payload: &payload,
            properties: &block,
            qos: quality,
            dup,
            retain,
            packet_id,
        };
        let is_new = version == Version::V5;
        let expect = Said::Publish {
            topic: topic.clone(),
            packet_id,
            qos: level,
            dup,
            retain,
            alias: alias.filter(|_| is_new),
            about: if is_new { says } else { About::default() },
            payload: payload.clone(),
        };
        let mut bytes = Vec::new();
        prop_assert!(put_publish(&mut bytes, version, &outgoing, usize::MAX));
        prop_assert_eq!(core(version, &bytes).map(|(said, _)| said), Ok(expect.clone()));
        if is_new {
            let (packet, _) = v5_0::Publish::parse(bytes[0] & 15, body(&bytes).into()).unwrap();
            let read = packet.props().iter().filter_map(|property| match property {
                Property::SubscriptionIdentifier(id) => NonZeroU32::new(id.val()),
                _ => None,
            });
            prop_assert_eq!(read.collect::<Vec<_>>(), identifiers.clone());
        }
        // The other counts a byte of an identifier twice and takes the rest for payload.
        bytes.clear();
        let outgoing = Outgoing { identifiers: &[], ..outgoing };
        prop_assert!(put_publish(&mut bytes, version, &outgoing, usize::MAX));
        prop_assert_eq!(rumqttc(version, &bytes), Ok(expect));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn what_others_write_is_read_here_and_by_each_other((version, said) in said()) {
        let bytes = encode(version, &said);
        prop_assert_eq!(ours(version, &bytes), Ok(said.clone()));
        // The one reads it and writes the same bytes again.
        let (they, again) = core(version, &bytes).map_err(TestCaseError::fail)?;
        prop_assert_eq!(&they, &said);
        prop_assert_eq!(&again, &bytes);
        // The other writes it in its own order of properties, and reads ours.
        if let Some(theirs) = written_by_rumqttc(version, &said) {
            prop_assert_eq!(ours(version, &theirs), Ok(said.clone()), "{:02x?}", theirs);
        }
        match rumqttc(version, &bytes) {
            Ok(they) => prop_assert_eq!(they, said),
            Err(error) => prop_assert!(refuses(RUMQTTC_REFUSES, &bytes, &error), "{error}: {said:?}"),
        }
    }

    #[test]
    fn damaged_packets_are_refused_by_all_or_for_a_listed_reason(
        (version, said) in said(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u8), 0..2),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = encode(version, &said);
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for (at, bit) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        if let Some(cut) = cut {
            // With a length that agrees, else nothing but the length is looked at.
            let body = cut.index(bytes.len() - 1);
            let mut short = vec![bytes[0]];
            put_variable(&mut short, body.min(bytes.len() - 2));
            short.extend(&bytes[2..2 + body.min(bytes.len() - 2)]);
            bytes = short;
        }
        compare(version, &bytes)?;
    }

    #[test]
    fn short_packets_of_any_kind_are_read_alike_or_differ_for_a_listed_reason(
        is_new in any::<bool>(),
        head in prop::sample::select(vec![
            0x30, 0x31, 0x32, 0x34, 0x38, 0x3a, 0x40, 0x50, 0x62, 0x70, 0x82, 0xa2, 0xc0, 0xe0,
        ]),
        body in prop::collection::vec(
            prop_oneof![
                6 => prop::sample::select(vec![0, 1, 2, 3, b'a', b'/', b'#', b'+', b'$']),
                3 => prop::sample::select(vec![8, 9, 11, 17, 21, 24, 31, 33, 35, 38, 39]),
                1 => any::<u8>(),
            ],
            0..12,
        ),
    ) {
        let version = if is_new { Version::V5 } else { Version::V4 };
        compare(version, &[&[head, body.len() as u8][..], &body].concat())?;
    }

    #[test]
    fn connects_of_any_flags_and_properties_are_read_alike_or_differ_for_a_listed_reason(
        is_new in any::<bool>(),
        flags in any::<u8>(),
        properties in prop::collection::vec(
            prop_oneof![
                prop::sample::select(vec![
                    vec![17, 0, 0, 0, 9],
                    vec![33, 0, 9],
                    vec![33, 0, 0],
                    vec![39, 0, 0, 0, 9],
                    vec![39, 0, 0, 0, 0],
                    vec![34, 0, 9],
                    vec![25, 1],
                    vec![23, 0],
                    vec![23, 2],
                    vec![21, 0, 1, b'm'],
                    vec![22, 0, 1, 0],
                    vec![38, 0, 1, b'k', 0, 0],
                    vec![1, 1],
                    vec![24, 0, 0, 0, 9],
                    vec![8, 0, 1, b'#'],
                ]),
                prop::collection::vec(any::<u8>(), 1..4),
            ],
            0..3,
        ),
        fields in prop::collection::vec(
            prop_oneof![
                3 => "[a-z/]{0,4}".prop_map(|words| text(&words)),
                1 => Just(vec![0]),
                1 => bytes(4).prop_map(|bytes| binary(&bytes)),
            ],
            0..6,
        ),
    ) {
        let (version, level) = if is_new { (Version::V5, 5) } else { (Version::V4, 4) };
        let mut body = [&text("MQTT")[..], &[level, flags, 0, 9]].concat();
        if is_new {
            body.extend(block(&properties.concat()));
        }
        body.extend(fields.concat());
        let mut packet = vec![0x10];
        put_variable(&mut packet, body.len());
        packet.extend(body);
        compare(version, &packet)?;
    }
}
