//! The packets read and written here, against the same packets in `mqtt-protocol-core`.

use std::sync::Arc;

use mqtt_protocol_core::mqtt::packet::{Properties as TheirProperties, PropertiesParse};
use proptest::prelude::*;

use super::*;

const NO_LIMIT: usize = usize::MAX;

/// The parts of a PUBLISH, as either side sees them.
#[derive(Debug, PartialEq, Eq)]
struct Parts {
    topic: String,
    packet_id: u16,
    qos: QoS,
    dup: bool,
    retain: bool,
    properties: Vec<u8>,
    payload: Vec<u8>,
}

fn ours(version: Version, bytes: &[u8]) -> Result<Option<Parts>, Fault> {
    let Some(frame) = frame(bytes, NO_LIMIT)? else { return Ok(None) };
    let found = publish(version, &frame)?;
    Ok(Some(Parts {
        topic: found.topic.to_owned(),
        packet_id: found.packet_id,
        qos: found.qos,
        dup: found.dup,
        retain: found.retain,
        properties: found.properties.to_owned(),
        payload: found.payload.to_owned(),
    }))
}

fn theirs(version: Version, frame: &Frame<'_>) -> Option<Parts> {
    let body: Arc<[u8]> = frame.body.into();
    match version {
        Version::V4 => {
            let (packet, _) = v3_1_1::Publish::parse(frame.flags, body).ok()?;
            Some(Parts {
                topic: packet.topic_name().to_owned(),
                packet_id: packet.packet_id().unwrap_or_default(),
                qos: qos(packet.qos() as u8).unwrap(),
                dup: packet.dup(),
                retain: packet.retain(),
                properties: Vec::new(),
                payload: packet.payload().as_slice().to_owned(),
            })
        }
        Version::V5 => {
            let (packet, _) = v5_0::Publish::parse(frame.flags, body).ok()?;
            let properties =
                packet.props().iter().flat_map(Property::to_continuous_buffer).collect();
            Some(Parts {
                topic: packet.topic_name().to_owned(),
                packet_id: packet.packet_id().unwrap_or_default(),
                qos: qos(packet.qos() as u8).unwrap(),
                dup: packet.dup(),
                retain: packet.retain(),
                properties,
                payload: packet.payload().as_slice().to_owned(),
            })
        }
    }
}

/// What the standard forbids and the other codec lets pass.
fn only_we_refuse(version: Version, parts: &Parts, body: &[u8]) -> bool {
    let has = |id: u8| Properties(&parts.properties).flatten().any(|(found, _)| found == id);
    parts.topic.contains('\0')
        || (parts.qos != QoS::AtMostOnce && parts.packet_id == 0)
        || (parts.dup && parts.qos == QoS::AtMostOnce)
        || (parts.topic.is_empty() && !has(id::TOPIC_ALIAS))
        || (version == Version::V5
            && (parts.properties.contains(&0)
                || parts.properties.contains(&id::SUBSCRIPTION_ID)
                || parts.properties.contains(&b'#')
                || parts.properties.contains(&b'+')
                // No property length at all.
                || body.len() == parts.topic.len() + if parts.packet_id == 0 { 2 } else { 4 }
                // A property length in more digits than needed.
                || body.windows(2).any(|two| two[0] >= 0x80 && two[1] == 0)))
}

fn property() -> impl Strategy<Value = Vec<u8>> {
    let text = "[a-z/]{0,6}".prop_map(|text: String| {
        let mut out = vec![0, text.len() as u8];
        out.extend(text.bytes());
        out
    });
    prop_oneof![
        (0..=1_u8).prop_map(|format| vec![1, format]),
        any::<[u8; 4]>().prop_map(|secs| [&[2][..], &secs].concat()),
        text.clone().prop_map(|text| [vec![3], text].concat()),
        text.clone().prop_map(|text| [vec![8], text].concat()),
        text.clone().prop_map(|data| [vec![9], data].concat()),
        // 0 is no alias: one in 65,536 would meet it too seldom.
        prop_oneof![1 => Just([0, 0]), 7 => any::<[u8; 2]>()]
            .prop_map(|alias| [&[35][..], &alias].concat()),
        (text.clone(), text).prop_map(|(key, value)| [vec![38], key, value].concat()),
    ]
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V4), Just(Version::V5)]
}

prop_compose! {
    fn packet()(
        version in version(),
        head in 0x30..=0x3f_u8,
        topic in "[a-z/$+]{0,12}",
        id in any::<u16>(),
        properties in prop::collection::vec(property(), 0..4),
        payload in prop::collection::vec(any::<u8>(), 0..200),
    ) -> (Version, Vec<u8>) {
        let mut body = vec![0, topic.len() as u8];
        body.extend(topic.bytes());
        if head & 0b110 != 0 {
            body.extend(id.to_be_bytes());
        }
        if version == Version::V5 {
            let properties = properties.concat();
            put_variable(&mut body, properties.len());
            body.extend(properties);
        }
        body.extend(payload);
        let mut bytes = vec![head];
        put_variable(&mut bytes, body.len());
        bytes.extend(body);
        (version, bytes)
    }
}

fn compare(version: Version, bytes: &[u8]) -> Result<(), TestCaseError> {
    let Ok(Some(frame)) = frame(bytes, NO_LIMIT) else { return Ok(()) };
    if frame.kind != kind::PUBLISH {
        return Ok(());
    }
    match (ours(version, bytes), theirs(version, &frame)) {
        (Ok(ours), theirs) => prop_assert_eq!(ours, theirs),
        (Err(_), None) => {}
        (Err(fault), Some(parts)) => prop_assert!(
            only_we_refuse(version, &parts, frame.body),
            "we refuse {:?} for {:?}",
            parts,
            fault
        ),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn publishes_are_read_as_the_other_codec_reads_them((version, bytes) in packet()) {
        compare(version, &bytes)?;
        // And nothing that is in order is refused.
        let frame = frame(&bytes, NO_LIMIT).unwrap().unwrap();
        if let Some(parts) = theirs(version, &frame) {
            let in_order = parts.qos == QoS::AtMostOnce || parts.packet_id != 0;
            if in_order && !parts.topic.is_empty() && !(parts.dup && parts.packet_id == 0) {
                prop_assert_eq!(ours(version, &bytes), Ok(Some(parts)));
            }
        }
    }

    #[test]
    fn damaged_publishes_are_read_as_the_other_codec_reads_them(
        (version, mut bytes) in packet(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        compare(version, &bytes)?;
    }

    #[test]
    fn publishes_are_written_as_the_other_codec_reads_them(
        version in version(),
        topic in "[a-z/]{1,20}",
        qos_level in 0..=2_u8,
        dup in any::<bool>(),
        packet_id in 1..=u16::MAX,
        properties in prop::collection::vec(property(), 0..3),
        payload in prop::collection::vec(any::<u8>(), 0..2_000),
    ) {
        let quality = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce][usize::from(qos_level)];
        let block = properties.concat();
        prop_assume!(publish_properties(&mut Body(&[&[block.len() as u8][..], &block].concat())).is_ok());
        let dup = dup && quality != QoS::AtMostOnce;
        let outgoing = Outgoing {
            retain: false,
            alias: None,
            identifiers: &[],
            topic: &topic, payload: &payload, properties: &block, qos: quality, dup, packet_id,
        };
        let mut out = b"before".to_vec();
        prop_assert!(put_publish(&mut out, version, &outgoing, NO_LIMIT));
        let bytes = out.split_off(6);
        let frame = frame(&bytes, NO_LIMIT).unwrap().unwrap();
        prop_assert_eq!(frame.bytes, bytes.len());
        let expect = Parts {
            topic: topic.clone(),
            packet_id: if quality == QoS::AtMostOnce { 0 } else { packet_id },
            qos: quality,
            dup,
            retain: false,
            properties: if version == Version::V5 { block.clone() } else { Vec::new() },
            payload: payload.clone(),
        };
        prop_assert_eq!(theirs(version, &frame), Some(expect));
        // The bound is exact.
        let mut none = Vec::new();
        prop_assert!(!put_publish(&mut none, version, &outgoing, bytes.len() - 1));
        prop_assert!(none.is_empty());
        prop_assert!(put_publish(&mut none, version, &outgoing, bytes.len()));
    }

    #[test]
    fn acknowledgements_are_read_as_the_other_codec_reads_them(
        body in prop::collection::vec(any::<u8>(), 0..8),
        kind in prop::sample::select(vec![kind::PUBACK, kind::PUBREC, kind::PUBREL, kind::PUBCOMP]),
    ) {
        let frame = Frame { kind, flags: 0, body: &body, bytes: body.len() + 2 };
        let theirs = match kind {
            kind::PUBACK => v5_0::Puback::parse(&body).map(|(p, used)| (p.packet_id(), used)),
            kind::PUBREC => v5_0::Pubrec::parse(&body).map(|(p, used)| (p.packet_id(), used)),
            kind::PUBREL => v5_0::Pubrel::parse(&body).map(|(p, used)| (p.packet_id(), used)),
            _ => v5_0::Pubcomp::parse(&body).map(|(p, used)| (p.packet_id(), used)),
        };
        let theirs = theirs.ok().filter(|(_, used)| *used == body.len()).map(|(id, _)| id);
        prop_assert_eq!(acknowledgement(Version::V5, &frame).ok().map(|(id, _)| id), theirs);
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        for version in [Version::V4, Version::V5] {
            if let Ok(Some(frame)) = frame(&bytes, 40) {
                prop_assert!(frame.bytes <= 40 && frame.bytes <= bytes.len());
                let everything = Frame { kind: frame.kind, ..frame };
                drop(publish(version, &everything));
                drop(acknowledgement(version, &everything));
                drop(subscribe(version, &everything));
                drop(unsubscribe(version, &everything));
                drop(disconnect(version, &everything));
                drop(connect(&everything));
            }
        }
    }
}

#[test]
fn forwarded_properties_leave_the_alias_and_expiry_is_taken_out() {
    let block = [35, 0, 1, 1, 1, 2, 0, 0, 0, 9, 38, 0, 1, b'k', 0, 1, b'v'];
    let mut forwarded = Vec::new();
    forwarded_properties(&block, &mut forwarded);
    assert_eq!(forwarded, block[3..]);
    let mut rest = Vec::new();
    assert_eq!(without_expiry(&forwarded, &mut rest), Some(9));
    assert_eq!(rest, [&block[3..5], &block[10..]].concat());
    assert!(TheirProperties::parse(&[&[rest.len() as u8][..], &rest].concat()).is_ok());
}

#[test]
fn lengths_end_at_four_digits_and_the_limit_is_exact() {
    assert!(frame(&[0x30, 0xff, 0xff, 0xff], NO_LIMIT).unwrap().is_none());
    assert!(frame(&[0x30, 0xff, 0xff, 0xff, 0xff], NO_LIMIT).is_err());
    let two = [0xc0, 0];
    assert!(frame(&two, 2).unwrap().is_some());
    assert_eq!(frame(&two, 1).unwrap_err().code, DisconnectReasonCode::PacketTooLarge);
    for length in [0, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455] {
        let mut out = Vec::new();
        put_variable(&mut out, length);
        assert_eq!(out.len(), digits(length));
        assert_eq!(variable_integer(&out).unwrap(), Some((length, out.len())));
    }
}
