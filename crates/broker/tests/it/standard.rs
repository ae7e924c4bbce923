//! The normative statements of MQTT 3.1.1 and 5 that concern a server, as tables: bytes in, and
//! the answer, the reason code or the end of the connection that the standard wants for them.
//!
//! Each row has a connection of its own. What a row was refused for has changed nothing: no
//! message of it is in the log, and its session is gone.

use std::sync::Arc;

use broker::Settings;
use metastore::Metastore;

use crate::raw::{Hello, Raw, ack, packet, publish, subscribe, text, varint};
use crate::support::{MemoryJournal, World};

/// What the standard wants.
#[derive(Clone, Debug)]
enum Want {
    /// The connection ends: on MQTT 5 after a DISCONNECT with this reason, on 3.1.1 without a
    /// word.
    Ends(u8),
    /// It ends because the client says so: neither side says more.
    Leaves,
    /// These packets, and the connection goes on.
    Answers(Vec<Vec<u8>>),
}

use Want::{Answers, Ends, Leaves};

struct Row {
    rule: String,
    level: u8,
    bytes: Vec<u8>,
    want: Want,
}

/// A row for MQTT 5.
fn new(rule: impl Into<String>, bytes: Vec<u8>, want: Want) -> Row {
    Row { rule: rule.into(), level: 5, bytes, want }
}

/// A row for MQTT 3.1.1.
fn old(rule: impl Into<String>, bytes: Vec<u8>, want: Want) -> Row {
    Row { rule: rule.into(), level: 4, bytes, want }
}

/// The connection goes on, and nothing is said.
fn goes_on() -> Want {
    Answers(Vec::new())
}

async fn world() -> (World, Arc<MemoryJournal>) {
    let journal = Arc::<MemoryJournal>::default();
    let store = Metastore::in_memory().unwrap();
    (World::retaining(Settings::default(), Arc::clone(&journal), &store).await, journal)
}

async fn check(rows: Vec<Row>, count_min: usize) {
    assert!(rows.len() >= count_min, "only {} rows", rows.len());
    let (world, journal) = world().await;
    for (at, Row { rule, level, bytes, want }) in rows.into_iter().enumerate() {
        let (id, before) = (format!("row-{at}"), journal.appended());
        let mut raw = Raw::join(world.address, &Hello { level, ..Hello::v4(&id) }).await;
        let mut sent = bytes.clone();
        if matches!(want, Answers(_)) {
            sent.extend([0xc0, 0]);
        }
        raw.send(&sent).await;
        match want {
            Answers(packets) => {
                // What waits for the log comes when it may; the PING shows that all was read.
                let mut found = Vec::new();
                for _ in 0..=packets.len() {
                    found.push(raw.packet().await.unwrap_or_default());
                }
                let pong = found.iter().position(|packet| *packet == [0xd0, 0]);
                assert!(pong.map(|at| found.remove(at)).is_some(), "{rule}: {found:02x?}");
                assert_eq!(found, packets, "{rule}: {bytes:02x?}");
                raw.send(&[0xe0, 0]).await;
                assert_eq!(raw.closed().await, None, "{rule}");
                continue;
            }
            Leaves => assert_eq!(raw.closed().await, None, "{rule}: {bytes:02x?}"),
            Ends(code) => {
                let last = raw.closed().await;
                let code = (level == 5).then_some((0xe0, code));
                let found = last.as_deref().map(|last| (last[0], last[2]));
                assert_eq!(found, code, "{rule}: {bytes:02x?} was answered {last:02x?}");
            }
        }
        assert_eq!(journal.appended(), before, "{rule}: something was logged");
    }
    world.until("all are gone", |w| w.broker.stats().connections == 0).await;
    assert_eq!(world.broker.stats().sessions, 0);
    world.close().await;
}

// ---- CONNECT ----

/// What a CONNECT is to be answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Met {
    /// A CONNACK with this code, of this protocol level.
    With(u8, u8),
    /// The end without a word.
    Silence,
}

use Met::{Silence, With};

/// A CONNECT with everything but its head given byte by byte.
fn connect(name: &str, level: u8, flags: u8, rest: &[u8]) -> Vec<u8> {
    packet(0x10, &[&text(name)[..], &[level, flags, 0, 60], rest].concat())
}

fn connect_4(flags: u8, payload: &[&[u8]]) -> Vec<u8> {
    connect("MQTT", 4, flags, &payload.concat())
}

fn connect_5(flags: u8, properties: &[u8], payload: &[&[u8]]) -> Vec<u8> {
    connect(
        "MQTT",
        5,
        flags,
        &[varint(properties.len()), properties.into(), payload.concat()].concat(),
    )
}

/// A CONNECT of MQTT 5 with a will.
fn willing(properties: &[u8], topic: &str) -> Vec<u8> {
    let will = [varint(properties.len()), properties.into()].concat();
    connect_5(6, &[], &[&text("dev"), &will, &text(topic), &text("gone")])
}

/// Bytes with a length in front, UTF-8 or not.
fn raw_text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes()[..], bytes].concat()
}

/// Texts that are no texts (MQTT 5, 1.5.4; 3.1.1, 1.5.3).
const NO_TEXTS: [(&str, &[u8]); 7] = [
    ("U+0000", b"a\0b"),
    ("a surrogate", b"\xed\xa0\x80"),
    ("a pair of surrogates", b"\xed\xa0\xbd\xed\xb8\x80"),
    ("an overlong form", b"\xc0\xaf"),
    ("an overlong U+0000", b"\xc0\x80"),
    ("a lone continuation", b"a\x80"),
    ("more than U+10FFFF", b"\xf4\x90\x80\x80"),
];

/// Texts that look suspicious and are in order: a non-character, a control character, a byte
/// order mark that is not to be removed, the last character of all.
const TEXTS: [(&str, &[u8]); 4] = [
    ("a non-character", b"a\xef\xbf\xbf"),
    ("a control character", b"a\x01\x7f"),
    ("a byte order mark", b"\xef\xbb\xbfa"),
    ("U+10FFFF", b"\xf4\x8f\xbf\xbf"),
];

fn connects() -> Vec<(String, Vec<u8>, Met)> {
    let id = text("dev");
    let id = id.as_slice();
    let mut rows = vec![
        ("3.1.2-1 a protocol name of another case", connect("MQTt", 4, 2, id), Silence),
        ("3.1.2-1 another protocol name", connect("HTTP", 5, 2, id), Silence),
        ("3.1.2-1 a longer protocol name", connect("MQTTX", 4, 2, id), Silence),
        ("3.1.2-2 MQTT 3.1", connect("MQIsdp", 3, 2, id), With(4, 1)),
        ("3.1.2-2 level 0", connect("MQTT", 0, 2, id), With(4, 1)),
        ("3.1.2-2 level 3", connect("MQTT", 3, 2, id), With(4, 1)),
        ("3.1.2-2 level 6", connect("MQTT", 6, 2, id), With(5, 0x84)),
        ("3.1.2-2 the level of a bridge", connect("MQTT", 0x84, 2, id), With(5, 0x84)),
        ("3.1.2-2 level 255", connect("MQTT", 255, 2, id), With(5, 0x84)),
        ("3.1.2-3 the reserved flag", connect_4(3, &[id]), Silence),
        ("3.1.2-3 the reserved flag", connect_5(3, &[], &[id]), With(5, 0x81)),
        ("3.1.2-11 will QoS without a will", connect_4(0x0a, &[id]), Silence),
        ("3.1.2-11 will QoS without a will", connect_5(0x0a, &[], &[id]), With(5, 0x81)),
        ("3.1.2-13 will retain without a will", connect_4(0x22, &[id]), Silence),
        ("3.1.2-13 will retain without a will", connect_5(0x22, &[], &[id]), With(5, 0x81)),
        ("3.1.2-12 will QoS 3", connect_4(0x1e, &[id, id, id]), Silence),
        ("3.1.2-12 will QoS 3", connect_5(0x1e, &[], &[id, &[0], id, id]), With(5, 0x81)),
        ("3.1.2-22 a password without a user", connect_4(0x42, &[id, id]), Silence),
        ("3.1.2.9 a password without a user", connect_5(0x42, &[], &[id, id]), With(5, 0)),
        ("a user and a password", connect_4(0xc2, &[id, id, &raw_text(b"\0\xff")]), With(4, 0)),
        ("a user and a password", connect_5(0xc2, &[], &[id, id, id]), With(5, 0)),
        ("a user without a password", connect_4(0x82, &[id, id]), With(4, 0)),
        ("3.1.2-17 a user flag without a user", connect_4(0x82, &[id]), Silence),
        ("3.1.2-17 a user flag without a user", connect_5(0x82, &[], &[id]), With(5, 0x81)),
        ("3.1.2-19 a password flag and none", connect_4(0xc2, &[id, id]), Silence),
        ("3.1.2-16 a user without its flag", connect_4(2, &[id, id]), Silence),
        ("3.1.2-16 a user without its flag", connect_5(2, &[], &[id, id]), With(5, 0x81)),
        ("3.1.2-9 a will flag without a will", connect_4(6, &[id]), Silence),
        ("3.1.2-9 a will without a message", connect_4(6, &[id, id]), Silence),
        ("3.1.2-9 a will without a message", connect_5(6, &[], &[id, &[0], id]), With(5, 0x81)),
        ("3.1.3-3 no client id", connect_4(2, &[]), Silence),
        ("3.1.3-3 no client id", connect_5(2, &[], &[]), With(5, 0x81)),
        ("a will, a user and a password", connect_4(0xf6, &[id, id, id, id, id]), With(4, 0)),
        ("3.1.3-8 an empty id to be kept", connect_4(0, &[&[0, 0]]), With(4, 2)),
        ("3.1.3-6 an empty id", connect_4(2, &[&[0, 0]]), With(4, 0)),
        ("3.1.3-6 an empty id", connect_5(2, &[], &[&[0, 0]]), With(5, 0)),
        ("3.1.3-6 an empty id to be kept", connect_5(0, &[], &[&[0, 0]]), With(5, 0)),
        ("3.1.3-5 23 letters", connect_4(2, &[&text("abcdefghijklmnopqrstuvw")]), With(4, 0)),
        ("a client id of 128 bytes", connect_5(2, &[], &[&text(&"x".repeat(128))]), With(5, 0)),
        ("a client id of 129", connect_5(2, &[], &[&text(&"x".repeat(129))]), With(5, 0x85)),
        ("a client id of 129", connect_4(2, &[&text(&"x".repeat(129))]), With(4, 2)),
        ("no property length", connect("MQTT", 5, 2, &[]), With(5, 0x81)),
        (
            "a property length too long",
            connect("MQTT", 5, 2, &[9, 17, 0, 0, 0, 1, 0, 0]),
            With(5, 0x81),
        ),
        ("1.5.5-1 a length in two digits", connect("MQTT", 5, 2, &[0x80, 0, 0, 0]), With(5, 0x81)),
        (
            "1.5.5 a length in five digits",
            connect("MQTT", 5, 2, &[255, 255, 255, 255, 1]),
            With(5, 0x81),
        ),
        ("3.1.2.11.3 receive maximum 0", connect_5(2, &[33, 0, 0], &[id]), With(5, 0x82)),
        ("3.1.2.11.4 maximum packet size 0", connect_5(2, &[39, 0, 0, 0, 0], &[id]), With(5, 0x82)),
        ("3.1.2.11.6 response information 2", connect_5(2, &[25, 2], &[id]), With(5, 0x82)),
        ("3.1.2.11.7 problem information 2", connect_5(2, &[23, 2], &[id]), With(5, 0x82)),
        ("3.1.2.11.9 a method", connect_5(2, &[21, 0, 1, b'm'], &[id]), With(5, 0x8c)),
        ("3.1.2.11.10 data without a method", connect_5(2, &[22, 0, 1, 1], &[id]), With(5, 0x82)),
        ("session expiry for ever", connect_5(2, &[17, 255, 255, 255, 255], &[id]), With(5, 0)),
        ("3.1.2-24 a CONNACK too large", connect_5(2, &[39, 0, 0, 0, 9], &[id]), With(5, 0x95)),
        ("3.1.2-24 any CONNACK too large", connect_5(2, &[39, 0, 0, 0, 4], &[id]), Silence),
        ("3.1.3.2.3 a will's format 2", willing(&[1, 2], "w"), With(5, 0x82)),
        ("3.1.3.2.6 a will's wild response", willing(&[8, 0, 1, b'#'], "w"), With(5, 0x82)),
        ("a will with everything", willing(&WILL, "w"), With(5, 0)),
        ("3.1.3-11 a will to a filter", willing(&[], "w/+"), With(5, 0x90)),
        ("4.7.3-1 a will to nothing", willing(&[], ""), With(5, 0x90)),
        ("4.7.2 a will to a $ topic", willing(&[], "$SYS/w"), With(5, 0x90)),
        ("a will to a control topic", willing(&[], "$CONTROL/x"), With(5, 0x90)),
    ]
    .into_iter()
    .map(|(rule, bytes, met)| (rule.to_owned(), bytes, met))
    .collect::<Vec<_>>();
    // A will to a filter cannot be said to a client of 3.1.1.
    rows.push(("a will to a filter".into(), connect_4(6, &[id, &text("w/#"), id]), Silence));
    for (what, bytes) in NO_TEXTS {
        let bad = raw_text(bytes);
        let user = [&[38][..], &bad, &text("v")].concat();
        let value = [&[38][..], &text("k"), &bad].concat();
        rows.extend([
            (format!("1.5.4 {what} in a client id"), connect_4(2, &[&bad]), Silence),
            (format!("1.5.4 {what} in a client id"), connect_5(2, &[], &[&bad]), With(5, 0x81)),
            (format!("1.5.4 {what} in a user name"), connect_4(0x82, &[id, &bad]), Silence),
            (
                format!("1.5.4 {what} in a user name"),
                connect_5(0x82, &[], &[id, &bad]),
                With(5, 0x81),
            ),
            (format!("1.5.4 {what} in a will's topic"), connect_4(6, &[id, &bad, id]), Silence),
            (
                format!("1.5.4 {what} in a will's topic"),
                connect_5(6, &[], &[id, &[0], &bad, id]),
                With(5, 0x81),
            ),
            (format!("1.5.4 {what} in a user property"), connect_5(2, &user, &[id]), With(5, 0x81)),
            (
                format!("1.5.4 {what} in a property's value"),
                connect_5(2, &value, &[id]),
                With(5, 0x81),
            ),
            (format!("1.5.4 {what} in a will's property"), willing(&user, "w"), With(5, 0x81)),
            (format!("{what} in a password"), connect_4(0xc2, &[id, id, &bad]), With(4, 0)),
        ]);
    }
    for (what, bytes) in TEXTS {
        let good = raw_text(bytes);
        rows.push((format!("{what} in a client id"), connect_4(2, &[&good]), With(4, 0)));
        rows.push((format!("{what} in a client id"), connect_5(2, &[], &[&good]), With(5, 0)));
    }
    for flag in 1..16 {
        let mut bytes = connect_4(2, &[id]);
        bytes[0] |= flag;
        rows.push((format!("2.2.2-2 flags {flag:04b}"), bytes, Silence));
    }
    rows
}

/// Every property a will may have.
const WILL: [u8; 29] =
    [24, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 9, 3, 0, 1, b'c', 8, 0, 1, b'r', 9, 0, 1, 7, 38, 0, 0, 0, 0];

#[tokio::test]
async fn n4_connects_are_answered_as_the_standard_says() {
    let (world, journal) = world().await;
    let rows = connects();
    assert!(rows.len() > 150, "only {} rows", rows.len());
    for (rule, bytes, met) in rows {
        let mut raw = Raw::open(world.address).await;
        raw.send(&bytes).await;
        let found = match (met, raw.packet().await) {
            (_, None) => Silence,
            (With(4, _), Some(connack)) if connack.len() == 4 => With(4, connack[3]),
            (_, Some(connack)) => With(5, connack[3]),
        };
        assert_eq!(found, met, "{rule}: {bytes:02x?}");
        if let With(_, code) = met
            && code > 0
        {
            // MQTT 5, 3.2.2-7.
            assert_eq!(raw.closed().await, None, "{rule}");
        }
        if matches!(met, With(_, 0)) {
            raw.send(&[0xe0, 0]).await;
            assert_eq!(raw.closed().await, None, "{rule}");
        }
        // An earlier packet than CONNACK is none of the client's: nothing was logged.
        assert_eq!(journal.appended(), 0, "{rule}");
    }
    world.until("all are gone", |w| w.broker.stats().connections == 0).await;
    assert_eq!(world.broker.stats().sessions, 0);
}

// ---- everything after CONNECT ----

fn puts(head: u8, topic: &str, id: u16, properties: &[u8]) -> Vec<u8> {
    publish(head, topic, id, Some(properties), b"x")
}

/// An acknowledgement of MQTT 5 with reason code and properties.
fn acknowledges(head: u8, id: u16, code: u8, properties: &[u8]) -> Vec<u8> {
    let start = [&id.to_be_bytes()[..], &[code], &varint(properties.len())].concat();
    packet(head, &[&start[..], properties].concat())
}

fn subscribes(properties: &[u8], filter: &str, options: u8) -> Vec<u8> {
    let start = [&[0, 1][..], &varint(properties.len()), properties].concat();
    packet(0x82, &[&start[..], &text(filter), &[options]].concat())
}

fn unsubscribes(properties: &[u8], filters: &[&str]) -> Vec<u8> {
    let mut body = [&[0, 1][..], &varint(properties.len()), properties].concat();
    filters.iter().for_each(|filter| body.extend(text(filter)));
    packet(0xa2, &body)
}

/// The answer to [`subscribes`].
fn granted(code: u8) -> Want {
    Answers(vec![packet(0x90, &[0, 1, 0, code])])
}

#[tokio::test]
async fn n4_packets_out_of_order_or_out_of_shape_are_answered_as_the_standard_says() {
    let mut rows = vec![
        new("3.1.0-2 a second CONNECT", Hello::v5("again").bytes(), Ends(0x82)),
        old("3.1.0-2 a second CONNECT", Hello::v4("again").bytes(), Ends(0)),
        new("4.12.0 AUTH without a method", packet(0xf0, &[0x18, 0]), Ends(0x82)),
        new("4.12.0 AUTH without anything", packet(0xf0, &[]), Ends(0x82)),
        old("AUTH, which 3.1.1 does not have", packet(0xf0, &[]), Ends(0)),
        new("3.3.1-4 QoS 3", puts(0x36, "a", 1, &[]), Ends(0x81)),
        old("3.3.1-4 QoS 3", publish(0x36, "a", 1, None, b""), Ends(0)),
        new("3.3.1-2 DUP on QoS 0", puts(0x38, "a", 1, &[]), Ends(0x81)),
        old("3.3.1-2 DUP on QoS 0", publish(0x38, "a", 1, None, b""), Ends(0)),
        new("2.2.1-3 packet id 0 at QoS 1", puts(0x32, "a", 0, &[]), Ends(0x81)),
        new("2.2.1-3 packet id 0 at QoS 2", puts(0x34, "a", 0, &[]), Ends(0x81)),
        old("2.3.1-1 packet id 0 at QoS 1", publish(0x32, "a", 0, None, b""), Ends(0)),
        old("2.3.1-1 packet id 0 at QoS 2", publish(0x34, "a", 0, None, b""), Ends(0)),
        new("2.2.1-3 packet id 0 of SUBSCRIBE", subscribe(5, 0, &[("a", 0)]), Ends(0x81)),
        old("2.3.1-1 packet id 0 of SUBSCRIBE", subscribe(4, 0, &[("a", 0)]), Ends(0)),
        new("2.2.1-3 packet id 0 of UNSUBSCRIBE", packet(0xa2, &[0, 0, 0, 0, 1, 97]), Ends(0x81)),
        old("2.3.1-1 packet id 0 of UNSUBSCRIBE", packet(0xa2, &[0, 0, 0, 1, 97]), Ends(0)),
        new("3.3.2-2 a wildcard in a topic", puts(0x30, "a/+", 0, &[]), Ends(0x90)),
        new("3.3.2-2 a wildcard in a topic", puts(0x32, "#", 1, &[]), Ends(0x90)),
        old("3.3.2-2 a wildcard in a topic", publish(0x32, "a+", 1, None, b""), Ends(0)),
        new("4.7.3-1 an empty topic", puts(0x30, "", 0, &[]), Ends(0x82)),
        old("4.7.3-1 an empty topic", publish(0x30, "", 0, None, b""), Ends(0)),
        new("a topic longer than the packet", packet(0x30, &[0, 9, b'a', 0]), Ends(0x81)),
        old("a topic longer than the packet", packet(0x30, &[0, 9, b'a']), Ends(0)),
        new("a PUBLISH without a topic", packet(0x30, &[]), Ends(0x81)),
        old("a PUBLISH without a topic", packet(0x30, &[]), Ends(0)),
        new("half a packet id", packet(0x32, &[0, 1, b'a', 0]), Ends(0x81)),
        new("a PUBLISH without property length", packet(0x30, &[0, 1, b'a']), Ends(0x81)),
        new("3.8.3-2 SUBSCRIBE without filters", packet(0x82, &[0, 1, 0]), Ends(0x82)),
        old("3.8.3-3 SUBSCRIBE without filters", packet(0x82, &[0, 1]), Ends(0)),
        new("SUBSCRIBE without anything", packet(0x82, &[]), Ends(0x81)),
        new("a filter without options", packet(0x82, &[0, 1, 0, 0, 1, 97]), Ends(0x81)),
        old("a filter without options", packet(0x82, &[0, 1, 0, 1, 97]), Ends(0)),
        new("3.10.3-2 UNSUBSCRIBE without filters", packet(0xa2, &[0, 1, 0]), Ends(0x82)),
        old("3.10.3-2 UNSUBSCRIBE without filters", packet(0xa2, &[0, 1]), Ends(0)),
        new("3.8.3-5 option bit 6", subscribes(&[], "a", 0x40), Ends(0x81)),
        new("3.8.3-5 option bit 7", subscribes(&[], "a", 0x80), Ends(0x81)),
        new("3.8.3.1 QoS 3", subscribes(&[], "a", 3), Ends(0x82)),
        new("3.8.3.1 retain handling 3", subscribes(&[], "a", 0x30), Ends(0x82)),
        new("3.8.3-4 no local on a share", subscribes(&[], "$share/g/a", 4), Ends(0x82)),
        new("no local", subscribes(&[], "a", 4), granted(0)),
        new("every option", subscribes(&[], "a", 0x2e), granted(2)),
        old("3.8.3-4 QoS 3", subscribe(4, 1, &[("a", 3)]), Ends(0)),
        new("an unknown PUBACK", ack(0x40, 7), goes_on()),
        old("an unknown PUBACK", ack(0x40, 7), goes_on()),
        new("an unknown PUBREC", ack(0x50, 7), Answers(vec![packet(0x62, &[0, 7, 0x92])])),
        old("an unknown PUBREC", ack(0x50, 7), Answers(vec![ack(0x62, 7)])),
        new("an unknown PUBREL", ack(0x62, 7), Answers(vec![packet(0x70, &[0, 7, 0x92])])),
        old("4.3.3-2 an unknown PUBREL", ack(0x62, 7), Answers(vec![ack(0x70, 7)])),
        new("an unknown PUBCOMP", ack(0x70, 7), goes_on()),
        old("an unknown PUBCOMP", ack(0x70, 7), goes_on()),
        new("a PUBREC that refuses", acknowledges(0x50, 7, 0x97, &[]), goes_on()),
        new("PINGREQ with a body", packet(0xc0, &[0]), Ends(0x81)),
        old("PINGREQ with a body", packet(0xc0, &[0]), Ends(0)),
        new("3.14.0 DISCONNECT", packet(0xe0, &[]), Leaves),
        new("3.14.2.1 DISCONNECT with a code", packet(0xe0, &[0]), Leaves),
        new("3.14.2.1 DISCONNECT with an error", packet(0xe0, &[0x81]), Leaves),
        new("DISCONNECT without properties", packet(0xe0, &[4, 0]), Leaves),
        new("3.14.2-1 an unknown code", packet(0xe0, &[1, 0]), Ends(0x81)),
        new("3.14.2-1 the code of a CONNACK", packet(0xe0, &[0x85, 0]), Ends(0x81)),
        new(
            "3.14.2.2.2 an expiry out of nothing",
            packet(0xe0, &[0, 5, 17, 0, 0, 0, 9]),
            Ends(0x82),
        ),
        new("3.14.2.2.2 no expiry, again", packet(0xe0, &[0, 5, 17, 0, 0, 0, 0]), Leaves),
        new("DISCONNECT with something behind", packet(0xe0, &[0, 0, 0]), Ends(0x81)),
        old("3.14.0 DISCONNECT", packet(0xe0, &[]), Leaves),
        old("DISCONNECT with a body", packet(0xe0, &[0]), Ends(0)),
        new(
            "nothing is heard after DISCONNECT",
            [packet(0xe0, &[]), ack(0x62, 1)].concat(),
            Leaves,
        ),
        new("1.5.5 a length in five digits", vec![0x30, 255, 255, 255, 255, 1], Ends(0x81)),
        new("1.5.5-1 a length in two digits", vec![0xc0, 0x80, 0], Ends(0x81)),
        new("an empty payload", publish(0x32, "a", 1, Some(&[]), b""), Answers(vec![ack(0x40, 1)])),
        new(
            "a packet id used at once again",
            [puts(0x32, "a", 1, &[]), puts(0x32, "b", 1, &[])].concat(),
            Answers(vec![ack(0x40, 1), ack(0x40, 1)]),
        ),
        new(
            "3.3.1-5 an empty retained message",
            publish(0x33, "a", 1, Some(&[]), b""),
            Answers(vec![ack(0x40, 1)]),
        ),
        new(
            "3.11.3 UNSUBACK says what it found",
            unsubscribes(&[], &["a", "b"]),
            Answers(vec![packet(0xb0, &[0, 1, 0, 0x11, 0x11])]),
        ),
    ];
    // What only a server sends, and what nobody does.
    for head in [0x00, 0x20, 0x90, 0xb0, 0xd0] {
        rows.push(new(format!("{head:#04x} from a client"), packet(head, &[0, 1]), Ends(0x81)));
        rows.push(old(format!("{head:#04x} from a client"), packet(head, &[0, 1]), Ends(0)));
    }
    // Each packet with each wrong flag (2.1.3).
    for (good, body) in [
        (0x40, vec![0, 1]),
        (0x50, vec![0, 1]),
        (0x62, vec![0, 1]),
        (0x70, vec![0, 1]),
        (0x82, vec![0, 1, 0, 1, b'a', 0]),
        (0xa2, vec![0, 1, 0, 1, b'a']),
        (0xc0, vec![]),
        (0xe0, vec![]),
    ] {
        for head in (good & 0xf0..=good | 0x0f).filter(|head| *head != good) {
            rows.push(new(format!("2.1.3-1 head {head:#04x}"), packet(head, &body), Ends(0x81)));
            rows.push(old(format!("2.2.2-2 head {head:#04x}"), packet(head, &body), Ends(0)));
        }
    }
    for head in [0x40, 0x50, 0x62, 0x70] {
        let name = format!("acknowledgement {head:#04x}");
        rows.extend([
            new(format!("{name} of packet id 0"), ack(head, 0), Ends(0x81)),
            old(format!("{name} of packet id 0"), ack(head, 0), Ends(0)),
            new(format!("{name} of half a packet id"), packet(head, &[1]), Ends(0x81)),
            old(format!("{name} of half a packet id"), packet(head, &[1]), Ends(0)),
            new(format!("{name} of nothing"), packet(head, &[]), Ends(0x81)),
            old(format!("{name} of nothing"), packet(head, &[]), Ends(0)),
            old(format!("{name} with a code"), packet(head, &[0, 1, 0]), Ends(0)),
            new(format!("{name} with an unknown code"), packet(head, &[0, 1, 1]), Ends(0x81)),
            new(format!("{name} with a code of others"), packet(head, &[0, 1, 0x85]), Ends(0x81)),
            new(
                format!("{name} with something behind"),
                packet(head, &[0, 1, 0, 0, 0]),
                Ends(0x81),
            ),
            new(
                format!("{name} with properties cut off"),
                packet(head, &[0, 1, 0, 5, 31, 0]),
                Ends(0x81),
            ),
        ]);
    }
    // Filters (4.7.1, 4.8.2) by their own code; each version has its way to refuse one.
    for (filter, bad) in [
        ("#", false),
        ("+", false),
        ("/", false),
        ("//", false),
        ("+/+", false),
        ("/+", false),
        ("a/#", false),
        ("a/+/b", false),
        ("+/#", false),
        (" ", false),
        ("a b/ü", false),
        ("$share/g/a", false),
        ("$share/g/#", false),
        ("$share/g//", false),
        ("$sharedness", true),
        ("", true),
        ("a#", true),
        ("a/#/b", true),
        ("#/", true),
        ("##", true),
        ("a+", true),
        ("+a", true),
        ("a/+b", true),
        ("++", true),
        ("+#", true),
        ("$share", true),
        ("$share/", true),
        ("$share/g", true),
        ("$share/g/", true),
        ("$share//a", true),
        ("$share/+/a", true),
        ("$share/g#/a", true),
        ("$share/g/a#", true),
    ] {
        let reserved = filter.starts_with("$share") && !filter.starts_with("$share/");
        let refused = if reserved { 0x87 } else { 0x8f };
        let rule = format!("4.7.1 filter {filter:?}");
        let code = if bad { refused } else { 0 };
        if reserved {
            // With a reason in words.
            continue;
        }
        rows.push(new(rule.clone(), subscribes(&[], filter, 0), granted(code)));
        let code = if bad { 0x80 } else { 0 };
        rows.push(old(
            rule,
            subscribe(4, 1, &[(filter, 0)]),
            Answers(vec![packet(0x90, &[0, 1, code])]),
        ));
    }
    for (what, bytes) in NO_TEXTS {
        let bad = raw_text(bytes);
        let both = |head: u8, new_body: Vec<u8>, old_body: Vec<u8>, place: &str| {
            let rule = format!("1.5.4 {what} in {place}");
            [
                new(rule.clone(), packet(head, &new_body), Ends(0x81)),
                old(rule, packet(head, &old_body), Ends(0)),
            ]
        };
        rows.extend(both(0x30, [&bad[..], &[0]].concat(), bad.clone(), "a topic"));
        rows.extend(both(
            0x82,
            [&[0, 1, 0][..], &bad, &[0]].concat(),
            [&[0, 1][..], &bad, &[0]].concat(),
            "a filter",
        ));
        rows.extend(both(
            0xa2,
            [&[0, 1, 0][..], &bad].concat(),
            [&[0, 1][..], &bad].concat(),
            "a filter to leave",
        ));
        for id in [3, 8] {
            let property = [&[id][..], &bad].concat();
            rows.push(new(
                format!("1.5.4 {what} in property {id}"),
                puts(0x30, "a", 0, &property),
                Ends(0x81),
            ));
        }
        let reason = [&[31][..], &bad].concat();
        rows.push(new(
            format!("1.5.4 {what} in a reason"),
            acknowledges(0x40, 1, 0, &reason),
            Ends(0x81),
        ));
    }
    for (what, bytes) in TEXTS {
        let topic = raw_text(bytes);
        let body = [&topic[..], &[0, 1, 0]].concat();
        let rule = format!("{what} in a topic");
        rows.push(new(rule, packet(0x32, &body), Answers(vec![ack(0x40, 1)])));
    }
    check(rows, 300).await;
}

#[tokio::test]
async fn n4_a_qos_2_id_used_twice_at_once_is_logged_once_and_released_once() {
    for level in [4, 5] {
        let world = World::new().await;
        let mut raw = Raw::join(world.address, &Hello { level, ..Hello::v4("dev") }).await;
        let properties = (level == 5).then_some(&[][..]);
        let one = |head| publish(head, "a", 9, properties, b"x");
        // In one piece, and without DUP, which the receiver must not rely on (4.3.3).
        raw.send(&[one(0x34), one(0x34), one(0x3c)].concat()).await;
        raw.expect(&ack(0x50, 9)).await;
        raw.ping().await;
        raw.send(&one(0x34)).await;
        raw.expect(&ack(0x50, 9)).await;
        raw.send(&ack(0x62, 9)).await;
        raw.expect(&ack(0x70, 9)).await;
        raw.send(&ack(0x62, 9)).await;
        let again = raw.packet().await.unwrap();
        let unknown = if level == 5 { packet(0x70, &[0, 9, 0x92]) } else { ack(0x70, 9) };
        assert_eq!(again, unknown);
        assert_eq!(world.journal.appended(), 1);
        // And then it is free again.
        raw.send(&one(0x34)).await;
        raw.expect(&ack(0x50, 9)).await;
        assert_eq!(world.journal.appended(), 2);
    }
}

// ---- properties ----

/// The packets of a client that have properties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    Connect,
    Will,
    Publish,
    Puback,
    Pubrec,
    Pubrel,
    Pubcomp,
    Subscribe,
    Unsubscribe,
    Disconnect,
}

use Carrier::{
    Connect, Disconnect, Puback, Pubcomp, Publish, Pubrec, Pubrel, Subscribe, Unsubscribe, Will,
};

const CARRIERS: [Carrier; 10] =
    [Connect, Will, Publish, Puback, Pubrec, Pubrel, Pubcomp, Subscribe, Unsubscribe, Disconnect];

/// Table 2-4 of the standard, for what a client sends: identifier, a good value, and where the
/// property may stand.
fn properties() -> Vec<(u8, Vec<u8>, Vec<Carrier>)> {
    let text = || text("x");
    vec![
        (1, vec![1], vec![Publish, Will]),
        (2, vec![0, 0, 0, 9], vec![Publish, Will]),
        (3, text(), vec![Publish, Will]),
        (8, text(), vec![Publish, Will]),
        (9, vec![0, 2, 0, 255], vec![Publish, Will]),
        (11, vec![1], vec![Subscribe]),
        (17, vec![0, 0, 0, 0], vec![Connect, Disconnect]),
        (18, text(), vec![]),
        (19, vec![0, 9], vec![]),
        (21, text(), vec![Connect]),
        (22, text(), vec![Connect]),
        (23, vec![1], vec![Connect]),
        (24, vec![0, 0, 0, 0], vec![Will]),
        (25, vec![1], vec![Connect]),
        (26, text(), vec![]),
        (28, text(), vec![Disconnect]),
        (31, text(), vec![Puback, Pubrec, Pubrel, Pubcomp, Disconnect]),
        (33, vec![0, 9], vec![Connect]),
        (34, vec![0, 9], vec![Connect]),
        (35, vec![0, 9], vec![Publish]),
        (36, vec![1], vec![]),
        (37, vec![1], vec![]),
        (38, [text(), text()].concat(), CARRIERS.to_vec()),
        (39, vec![0, 0, 1, 0], vec![Connect]),
        (40, vec![1], vec![]),
        (41, vec![1], vec![]),
        (42, vec![1], vec![]),
    ]
}

/// A packet with these properties, and the answer to it if they are in order.
fn carry(carrier: Carrier, properties: &[u8]) -> (Vec<u8>, Want) {
    match carrier {
        Connect => (connect_5(2, properties, &[&text("dev")]), goes_on()),
        Will => (willing(properties, "w"), goes_on()),
        Publish => (puts(0x32, "a", 1, properties), Answers(vec![ack(0x40, 1)])),
        Puback => (acknowledges(0x40, 1, 0, properties), goes_on()),
        Pubrec => {
            (acknowledges(0x50, 1, 0, properties), Answers(vec![packet(0x62, &[0, 1, 0x92])]))
        }
        Pubrel => {
            (acknowledges(0x62, 1, 0, properties), Answers(vec![packet(0x70, &[0, 1, 0x92])]))
        }
        Pubcomp => (acknowledges(0x70, 1, 0, properties), goes_on()),
        Subscribe => (subscribes(properties, "a", 0), granted(0)),
        Unsubscribe => {
            (unsubscribes(properties, &["a"]), Answers(vec![packet(0xb0, &[0, 1, 0, 0x11])]))
        }
        Disconnect => {
            let block = [varint(properties.len()), properties.to_vec()].concat();
            (packet(0xe0, &[&[0][..], &block].concat()), Leaves)
        }
    }
}

#[tokio::test]
async fn n5_each_property_is_taken_where_it_belongs_once_and_nowhere_else() {
    let (mut connects, mut rows) = (Vec::new(), Vec::new());
    let mut row = |carrier: Carrier, rule: String, properties: &[u8], code: u8| {
        let (bytes, good) = carry(carrier, properties);
        match carrier {
            Connect | Will => connects.push((rule, bytes, code)),
            _ => rows.push(new(rule, bytes, if code == 0 { good } else { Ends(code) })),
        }
    };
    for (id, value, places) in properties() {
        let one = [&[id][..], &value].concat();
        for carrier in CARRIERS {
            let code = match (id, carrier) {
                // Enhanced authentication is not supported; its data need the method.
                (21, Connect) => 0x8c,
                (22, Connect) => 0x82,
                // 3.3.4-6.
                (11, Publish) => 0x82,
                _ if places.contains(&carrier) => 0,
                _ => 0x81,
            };
            row(carrier, format!("2.2.2 property {id} in {carrier:?}"), &one, code);
            if !places.contains(&carrier) {
                continue;
            }
            let (twice, code) = ([&one[..], &one].concat(), if id == 38 { 0 } else { 0x82 });
            row(carrier, format!("property {id} twice in {carrier:?}"), &twice, code);
            for cut in 1..one.len() {
                let rule = format!("property {id} of {cut} bytes in {carrier:?}");
                row(carrier, rule, &one[..cut], 0x81);
            }
        }
    }
    for id in (0..=255).filter(|id| !properties().iter().any(|(known, ..)| known == id)) {
        let carrier = CARRIERS[usize::from(id) % CARRIERS.len()];
        row(carrier, format!("property {id}, unknown, in {carrier:?}"), &[id, 0, 0, 0, 0], 0x81);
    }
    for (rule, properties, code) in [
        ("3.3.2.3.2 payload format 2", &[1, 2][..], 0x82),
        ("3.3.2-8 topic alias 0", &[35, 0, 0], 0x94),
        ("3.3.2-9 a topic alias beyond the maximum", &[35, 0, 17], 0x94),
        ("the highest topic alias", &[35, 0, 16], 0),
        ("3.3.2-14 a response topic with a wildcard", &[8, 0, 3, b'a', b'/', b'+'], 0x82),
        ("a message expiry of 0", &[2, 0, 0, 0, 0], 0),
        ("a message expiry of 136 years", &[2, 255, 255, 255, 255], 0),
        ("correlation data of nothing", &[9, 0, 0], 0),
        ("a user property without name or value", &[38, 0, 0, 0, 0], 0),
        // The payload is not looked into (3.3.2.3.2 leaves it to the receiver).
        ("a payload that is said to be text", &[1, 1], 0),
    ] {
        row(Publish, rule.into(), properties, code);
    }
    row(Subscribe, "3.8.2.1.2 subscription identifier 0".into(), &[11, 0], 0x82);
    row(Subscribe, "the highest identifier".into(), &[11, 255, 255, 255, 127], 0);
    row(Subscribe, "an identifier of five digits".into(), &[11, 255, 255, 255, 255, 1], 0x81);
    row(Subscribe, "1.5.5-1 an identifier in two digits".into(), &[11, 0x81, 0], 0x81);
    assert!(connects.len() > 150, "only {} rows", connects.len());
    let (world, _) = world().await;
    for (rule, bytes, code) in connects {
        let mut raw = Raw::open(world.address).await;
        raw.send(&bytes).await;
        let connack = raw.packet().await.unwrap_or_else(|| panic!("{rule}: closed"));
        assert_eq!((connack[0], connack[3]), (0x20, code), "{rule}: {bytes:02x?}");
    }
    check(rows, 500).await;
}

#[tokio::test]
async fn n5_an_alias_is_set_anew_and_ends_with_its_connection() {
    let world = World::new().await;
    let mut raw = Raw::join(world.address, &Hello::v5("dev")).await;
    for (topic, alias) in [("a", 1), ("", 1), ("b", 1), ("", 1), ("c", 16), ("", 16), ("", 1)] {
        raw.send(&puts(0x30, topic, 0, &[35, 0, alias])).await;
    }
    raw.ping().await;
    let topics: Vec<_> = world.journal.messages().into_iter().map(|m| m.topic).collect();
    assert_eq!(topics, ["a", "a", "b", "b", "c", "c", "b"]);
    drop(raw);
    // MQTT 5, 3.3.2-7.
    let mut raw = Raw::join(world.address, &Hello::v5("dev")).await;
    raw.send(&puts(0x30, "", 0, &[35, 0, 1])).await;
    raw.disconnected(0x94).await;
}

#[tokio::test]
async fn n5_ten_thousand_user_properties_cost_no_more_than_their_bytes() {
    let world = World::new().await;
    let mut raw = Raw::join(world.address, &Hello::v5("dev")).await;
    let one = [&[38][..], &text("k"), &text("v")].concat();
    let many = one.repeat(11_000);
    let mut sub = Raw::join(world.address, &Hello::v5("sub")).await;
    sub.send(&subscribe(5, 1, &[("a", 1)])).await;
    sub.packet().await;
    let before = std::time::Instant::now();
    raw.send(&puts(0x32, "a", 1, &many)).await;
    raw.expect(&ack(0x40, 1)).await;
    // They arrive, in their order.
    let found = sub.packet().await.unwrap();
    assert!(found.windows(many.len()).any(|part| part == many));
    assert!(before.elapsed().as_secs() < 5, "{:?}", before.elapsed());
    // In a CONNECT there is room for a thousand.
    let hello = Hello { properties: one.repeat(1_000), ..Hello::v5("much") };
    Raw::join(world.address, &hello).await;
    let mut raw = Raw::open(world.address).await;
    raw.send(&Hello { properties: one.repeat(10_000), ..hello }.bytes()).await;
    assert_eq!(raw.closed().await, None);
}

// ---- packets that are too large for the client ----

#[tokio::test]
async fn answers_larger_than_the_client_takes_are_not_sent() {
    let world = World::new().await;
    let hello = Hello { properties: vec![39, 0, 0, 0, 32], ..Hello::v5("small") };
    let mut raw = Raw::join(world.address, &hello).await;
    let filters: Vec<_> = (0..40).map(|at| format!("f/{at}")).collect();
    let filters: Vec<_> = filters.iter().map(|filter| (filter.as_str(), 0)).collect();
    // A SUBACK of 45 bytes; what it would have said holds all the same (MQTT 5, 3.1.2-25).
    raw.send(&subscribe(5, 1, &filters)).await;
    raw.ping().await;
    raw.send(&puts(0x30, "f/39", 0, &[])).await;
    raw.expect(&puts(0x30, "f/39", 0, &[])).await;
    let names: Vec<_> = filters.iter().map(|(filter, _)| *filter).collect();
    raw.send(&unsubscribes(&[], &names)).await;
    raw.ping().await;
    raw.send(&puts(0x30, "f/39", 0, &[])).await;
    raw.ping().await;
}

// ---- topics and payloads at their limits ----

#[tokio::test]
async fn n9_topics_and_filters_have_exact_limits() {
    let world = World::new().await;
    let levels = |count: usize| vec!["x"; count].join("/");
    let mut raw = Raw::join(world.address, &Hello::v5("dev")).await;
    // A topic may be as long as its length field, and as deep.
    for topic in ["t".repeat(65_535), levels(1_000), levels(32_768)] {
        raw.send(&puts(0x32, &topic, 1, &[])).await;
        raw.expect(&ack(0x40, 1)).await;
        assert_eq!(world.journal.messages().last().unwrap().topic, topic);
    }
    // A filter may not: matching goes down its levels.
    for (count, code) in [(128, 0), (129, 0x97), (1_000, 0x97), (32_768, 0x97)] {
        raw.send(&subscribes(&[], &levels(count), 0)).await;
        raw.expect(&packet(0x90, &[0, 1, 0, code])).await;
    }
    raw.send(&subscribes(&[], &"f".repeat(65_535), 0)).await;
    raw.expect(&packet(0x90, &[0, 1, 0, 0])).await;
    // What none of them could be is not one either.
    for filter in ["a/#/#", "+/#/+", "/#/", "a//+b"] {
        raw.send(&subscribes(&[], filter, 0)).await;
        raw.expect(&packet(0x90, &[0, 1, 0, 0x8f])).await;
    }
    raw.ping().await;
}

#[tokio::test]
async fn n9_a_hundred_thousand_subscriptions_and_topics_find_each_other() {
    const CLIENTS: usize = 100;
    const EACH: usize = 1_000;
    let world = World::new().await;
    let mut clients = Vec::new();
    for client in 0..CLIENTS {
        let mut raw = Raw::join(world.address, &Hello::v4(&format!("c{client}"))).await;
        let filters: Vec<_> = (0..EACH).map(|at| format!("n/{client}/{at}/+")).collect();
        let filters: Vec<_> = filters.iter().map(|filter| (filter.as_str(), 0)).collect();
        raw.send(&subscribe(4, 1, &filters)).await;
        let suback = raw.packet().await.unwrap();
        assert_eq!(suback.len(), 3 + 2 + EACH);
        assert!(suback[5..].iter().all(|code| *code == 0));
        clients.push(raw);
    }
    // One more is one too many.
    clients[0].send(&subscribe(4, 2, &[("one/more", 0)])).await;
    clients[0].expect(&[0x90, 3, 0, 2, 0x80]).await;
    // A hundred thousand topics; every hundredth of them has its one subscriber.
    let mut publisher = Raw::join(world.address, &Hello::v4("publisher")).await;
    let started = std::time::Instant::now();
    for at in 0..EACH {
        let mut all = Vec::new();
        for client in 0..CLIENTS {
            let topic = match client == at % CLIENTS {
                true => format!("n/{client}/{at}/x"),
                false => format!("n/{client}/{at}"),
            };
            all.extend(publish(0x30, &topic, 0, None, b"x"));
        }
        publisher.send(&all).await;
    }
    publisher.ping().await;
    for (client, raw) in clients.iter_mut().enumerate() {
        for at in (client..EACH).step_by(CLIENTS) {
            raw.expect(&publish(0x30, &format!("n/{client}/{at}/x"), 0, None, b"x")).await;
        }
        raw.ping().await;
    }
    // A walk through all subscriptions would take minutes.
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}

#[tokio::test]
async fn n10_payloads_have_an_exact_limit_and_each_version_its_way_to_say_so() {
    const LIMIT: usize = 128 * 1024;
    let world = World::new().await;
    let mut raw = Raw::join(world.address, &Hello::v5("dev")).await;
    for bytes in [0, 1, LIMIT - 1, LIMIT] {
        raw.send(&publish(0x32, "a", 1, Some(&[]), &vec![7; bytes])).await;
        raw.expect(&ack(0x40, 1)).await;
        assert_eq!(world.journal.messages().last().unwrap().payload.len(), bytes);
    }
    let logged = world.journal.appended();
    for qos in [0_u8, 1, 2] {
        let head = 0x30 | (qos << 1);
        for bytes in [LIMIT + 1, 2 * LIMIT] {
            let mut new = Raw::join(world.address, &Hello::v5("new")).await;
            new.send(&publish(head, "a", 1, Some(&[]), &vec![7; bytes])).await;
            new.disconnected(0x95).await;
            let mut old = Raw::join(world.address, &Hello::v4("old")).await;
            old.send(&publish(head, "a", 1, None, &vec![7; bytes])).await;
            assert_eq!(old.closed().await, None);
        }
        // A length that promises too much is refused before the payload is sent.
        let mut new = Raw::join(world.address, &Hello::v5("new")).await;
        new.send(&[&[head][..], &varint(268_435_455)].concat()).await;
        new.disconnected(0x95).await;
    }
    assert_eq!(world.journal.appended(), logged);
    raw.ping().await;
}
