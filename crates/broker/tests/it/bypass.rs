//! Ways around a policy, each tried on a live broker behind the registry.

use broker::Action;

use crate::gatehouse::{Gatehouse, Ground, Statements};
use crate::raw::{Hello, Raw, ack, packet, publish, qos1, subscribe, text};
use crate::support::until;

/// A policy as many write it: by client id, with wildcards in places.
const OWN: Statements<'static> = &[
    ("Allow", "iot:Connect", "client/*"),
    ("Allow", "iot:Publish", "topic/own/${iot:ClientId}/*"),
    ("Allow", "iot:Publish", "topic/plus/+"),
    ("Allow", "iot:Publish", "topic/one/?"),
    ("Deny", "iot:Publish", "topic/own/*/secret"),
    ("Allow", "iot:Subscribe", "topicfilter/own/${iot:ClientId}/*"),
    ("Allow", "iot:Subscribe", "topicfilter/plus/+"),
    ("Allow", "iot:Subscribe", "topicfilter/plain/a"),
    ("Allow", "iot:Receive", "topic/own/${iot:ClientId}/*"),
    ("Allow", "iot:Receive", "topic/plus/*"),
    ("Allow", "iot:Publish", "topic/site/${iot:Connection.Thing.Attributes[site]}/*"),
    ("Allow", "iot:Subscribe", "topicfilter/site/${iot:Connection.Thing.Attributes[site]}/*"),
];

const EVERYTHING: Statements<'static> = &[("Allow", "iot:*", "*")];

/// The reason code of an acknowledgement, SUBACK or CONNACK of MQTT 5.
fn code(packet: &[u8]) -> u8 {
    let behind = 2 + usize::from(packet[1] > 127);
    match packet[0] {
        0x20 => packet[behind + 1],
        0x90 => *packet.last().unwrap(),
        _ => packet.get(behind + 2).copied().unwrap_or(0),
    }
}

/// Subscribes, and whether that was granted.
async fn granted(raw: &mut Raw, filter: &str) -> bool {
    raw.send(&subscribe(5, 1, &[(filter, 1)])).await;
    match code(&raw.packet().await.unwrap()) {
        0..=2 => true,
        // Not authorised, or no filter at all.
        0x87 | 0x8f => false,
        other => panic!("{filter:?}: {other:#x}"),
    }
}

/// Publishes in QoS 1, and whether that was taken.
async fn taken(raw: &mut Raw, topic: &str) -> bool {
    raw.send(&publish(0x32, topic, 1, Some(&[]), b"x")).await;
    match code(&raw.packet().await.unwrap()) {
        0 | 0x10 => true,
        // Not authorised, or reserved.
        0x87 | 0x90 => false,
        other => panic!("{topic:?}: {other:#x}"),
    }
}

/// T4: what filter gets which client, by text and not by what MQTT makes of it.
#[tokio::test]
async fn b5_filters_are_what_the_policy_says_and_not_what_they_match() {
    let gatehouse = Gatehouse::start().await;
    let device = gatehouse.device("dev-1", OWN);
    let cases: [(&str, &[(&str, bool)]); 7] = [
        (
            "dev-1",
            &[
                ("own/dev-1/a", true),
                ("own/dev-1/#", true),
                ("own/dev-1/+", true),
                ("own/dev-1/", true),
                ("own/dev-1", false),
                ("own/+/a", false),
                ("own/+/#", false),
                ("own/#", false),
                ("#", false),
                ("+", false),
                ("+/#", false),
                ("+/dev-1/a", false),
                ("/own/dev-1/a", false),
                ("own//a", false),
                ("own/dev-2/a", false),
                ("own/DEV-1/a", false),
                ("Own/dev-1/a", false),
                ("own/dev-1\u{301}/a", false),
                ("own/dev\u{2010}1/a", false),
                ("own/*/a", false),
                ("own/${iot:ClientId}/a", false),
                ("plus/+", true),
                ("plus/#", false),
                ("plus/x", false),
                ("plain/a", true),
                ("plain/a/", false),
                ("plain/+", false),
                ("plain/a/#", false),
                ("$share/g/own/dev-1/a", true),
                ("$share/g/own/#", false),
                ("$share/g/#", false),
                ("$share/own/dev-1/a", false),
                ("$share/g/$share/h/own/dev-1/a", false),
                ("$share/g/$aws/events/#", false),
                ("$share/g/$SYS/#", false),
                ("$aws/events/presence/connected/+", false),
                ("$aws/rules/r/#", false),
                ("$aws/things/dev-1/shadow/update/accepted", false),
                ("$SYS/#", false),
                ("$/#", false),
                // No thing attribute, no topic.
                ("site//a", false),
                ("site/+/a", false),
            ],
        ),
        ("*", &[("own/*/a", true), ("own/dev-1/a", false), ("own/#", false), ("own/+/a", false)]),
        ("?", &[("own/?/a", true), ("own/x/a", false)]),
        ("+", &[("own/+/a", false), ("own/+/#", false), ("own/dev-1/a", false)]),
        ("#", &[("own/#", false), ("own/dev-1/a", false)]),
        ("dev-1/+", &[("own/dev-1/+/a", false), ("own/dev-1/x", false)]),
        ("$aws", &[("own/$aws/a", true), ("$aws/a", false), ("#", false)]),
    ];
    let mut count = 0;
    for (id, filters) in cases {
        let mut raw = gatehouse.join(&device, &Hello::v5(id)).await;
        for (filter, expect) in filters {
            assert_eq!(granted(&mut raw, filter).await, *expect, "{id:?} to {filter:?}");
            count += 1;
        }
    }
    assert_eq!(count, 58);
    // What is no filter at all ends the connection.
    for filter in ["$share/+/own/dev-1/a", "$share/g", "$share//own/dev-1/a", "own/#/a", "own/a+"] {
        let mut raw = gatehouse.join(&device, &Hello::v5("dev-1")).await;
        raw.send(&subscribe(5, 1, &[(filter, 1)])).await;
        let last = raw.packet().await.unwrap();
        assert!(last[0] == 0xe0 || code(&last) == 0x8f, "{filter}: {last:02x?}");
    }
}

/// T4: the same for topics.
#[tokio::test]
async fn b5_topics_are_what_the_policy_says() {
    let gatehouse = Gatehouse::start().await;
    let device = gatehouse.device("dev-1", OWN);
    let cases: [(&str, &[(&str, bool)]); 6] = [
        (
            "dev-1",
            &[
                ("own/dev-1/a", true),
                ("own/dev-1/", true),
                ("own/dev-1/a/b", true),
                ("own/dev-1", false),
                ("own//a", false),
                ("own/dev-2/a", false),
                ("own/Dev-1/a", false),
                ("/own/dev-1/a", false),
                ("own/dev-1/secret", false),
                ("own/dev-1/deep/secret", false),
                ("own/dev-1/secret/", true),
                ("own/dev-1/SECRET", true),
                ("plus/x", false),
                ("one/x", true),
                ("one/\u{e9}", true),
                ("one/\u{1f600}", true),
                ("one/xy", false),
                ("one/", false),
                ("site//a", false),
                ("$aws/rules/r", false),
                ("$aws/rules/r/own/dev-1/a", false),
                ("$aws/rules//own/dev-1/a", false),
                ("$aws/things/dev-1/shadow/update", false),
                ("$aws/events/presence/connected/dev-1", false),
                ("$SYS/broker", false),
                ("$share/g/own/dev-1/a", false),
            ],
        ),
        ("*", &[("own/*/a", true), ("own/dev-1/a", false)]),
        ("?", &[("own/?/a", true), ("own/x/a", false)]),
        ("a/b", &[("own/a/b/c", true), ("own/a/x", false)]),
        ("$aws", &[("own/$aws/a", true), ("$aws/a", false)]),
        ("${iot:ClientId}", &[("own/dev-1/a", false), ("own/${iot:ClientId}/a", true)]),
    ];
    let mut logged = 0;
    for (id, topics) in cases {
        let mut raw = gatehouse.join(&device, &Hello::v5(id)).await;
        for (topic, expect) in topics {
            assert_eq!(taken(&mut raw, topic).await, *expect, "{id:?} to {topic:?}");
            logged += usize::from(*expect);
        }
    }
    // Wildcards, U+0000, a byte that is no UTF-8, an overlong slash and a surrogate are no topics.
    let surrogate = [b"one/".as_slice(), &[0xed, 0xa0, 0x80]].concat();
    let overlong = [b"own/dev-1".as_slice(), &[0xc0, 0xaf], b"a"].concat();
    for topic in
        [b"plus/+".as_slice(), b"own/#", b"own/dev-1/\0", b"one/\xff", &surrogate, &overlong]
    {
        let mut raw = gatehouse.join(&device, &Hello::v5("dev-1")).await;
        let length = u16::try_from(topic.len()).unwrap().to_be_bytes();
        raw.send(&packet(0x32, &[&length[..], topic, &[0, 1, 0], b"x"].concat())).await;
        assert_eq!(raw.closed().await.expect("a DISCONNECT")[0], 0xe0, "{topic:02x?}");
    }
    assert_eq!(gatehouse.journal.appended(), logged);
}

/// T4: `$`-topics are nobody's that a leading wildcard could reach, whatever the policy allows.
#[tokio::test]
async fn b5_no_wildcard_reaches_a_dollar_topic() {
    // The broker says who comes and goes, under `$aws/events`.
    let gatehouse = Ground::new().open(broker::Settings::default()).await;
    let device = gatehouse.device("dev-1", EVERYTHING);
    let mut raw = gatehouse.join(&device, &Hello::v5("dev-1")).await;
    for filter in ["#", "+/#", "+/events/#", "$share/g/#", "$share/g/+/#"] {
        assert!(granted(&mut raw, filter).await, "{filter}");
    }
    for filter in ["$SYS/#", "$aws/rules/#", "$aws/#", "$other/a", "$share/g/$aws/#"] {
        assert!(!granted(&mut raw, filter).await, "{filter}");
    }
    let other = gatehouse.device("other", EVERYTHING);
    let mut other = gatehouse.join(&other, &Hello::v4("other")).await;
    // An event and basic ingest, both in the log.
    other.send(&qos1("$aws/rules/r/a", 1, "x")).await;
    other.expect(&ack(0x40, 1)).await;
    for topic in ["$aws/events/presence/connected/x", "$aws/x", "$SYS/x", "$x", "$aws/rules/"] {
        assert!(!taken(&mut raw, topic).await, "{topic}");
    }
    let dollar = |journal: &crate::support::MemoryJournal| {
        journal.messages().iter().filter(|message| message.topic.starts_with('$')).count()
    };
    assert!(dollar(&gatehouse.journal) >= 3, "nothing was there to be heard");
    raw.silence().await;
}

/// T4: an alias means what it meant last, and is looked at after it was resolved.
#[tokio::test]
async fn b3_a_topic_alias_does_not_pass_a_topic_by() {
    let gatehouse = Gatehouse::start().await;
    let device = gatehouse.device("dev-1", OWN);
    let mut raw = gatehouse.join(&device, &Hello::v5("dev-1")).await;
    let alias = [0x23, 0, 1];
    let send = async |raw: &mut Raw, topic: &str| {
        raw.send(&publish(0x32, topic, 1, Some(&alias), b"x")).await;
        code(&raw.packet().await.unwrap())
    };
    assert_eq!(send(&mut raw, "own/dev-1/a").await, 0);
    assert_eq!(send(&mut raw, "").await, 0);
    // Bound again, to what it may not say.
    assert_eq!(send(&mut raw, "own/dev-2/a").await, 0x87);
    assert_eq!(send(&mut raw, "").await, 0x87);
    assert_eq!(send(&mut raw, "$aws/rules/r").await, 0x87);
    assert_eq!(send(&mut raw, "").await, 0x87);
    assert_eq!(send(&mut raw, "own/dev-1/b").await, 0);
    gatehouse.change(&device, &OWN[..1]);
    assert_eq!(send(&mut raw, "").await, 0x87);
    let topics: Vec<_> =
        gatehouse.journal.messages().iter().map(|message| message.topic.to_string()).collect();
    assert_eq!(topics, ["own/dev-1/a", "own/dev-1/a", "own/dev-1/b"]);
}

/// T4: what a message asks others to do gives no rights.
#[tokio::test]
async fn b3_a_response_topic_gives_no_right() {
    let gatehouse = Gatehouse::start().await;
    let (asks, answers) = (gatehouse.device("asks", OWN), gatehouse.device("answers", EVERYTHING));
    let mut answers = gatehouse.join(&answers, &Hello::v5("answers")).await;
    assert!(granted(&mut answers, "own/asks/#").await);
    let mut asks = gatehouse.join(&asks, &Hello::v5("asks")).await;
    let property = [&[0x08][..], &text("own/other/answer")].concat();
    asks.send(&publish(0x32, "own/asks/a", 1, Some(&property), b"x")).await;
    assert_eq!(code(&asks.packet().await.unwrap()), 0);
    // It is handed on as it is, and opens nothing.
    let got = answers.packet().await.unwrap();
    assert!(String::from_utf8_lossy(&got).contains("own/other/answer"), "{got:02x?}");
    assert!(!granted(&mut asks, "own/other/answer").await);
    assert!(!taken(&mut asks, "own/other/answer").await);
    assert!(taken(&mut answers, "own/other/answer").await);
    asks.silence().await;
}

/// T4: the right to subscribe is not the right to receive, on every way to a subscriber.
#[tokio::test]
async fn b3_nothing_is_received_without_the_right_whichever_way_it_comes() {
    let gatehouse = Gatehouse::start().await;
    let publisher = gatehouse.device("pub", EVERYTHING);
    let mut publisher = gatehouse.join(&publisher, &Hello::v4("pub")).await;
    publisher.send(&publish(0x33, "air/retained", 1, None, b"x")).await;
    publisher.expect(&ack(0x40, 1)).await;
    let deaf: Statements<'_> = &[
        ("Allow", "iot:Connect", "client/*"),
        ("Allow", "iot:Subscribe", "topicfilter/*"),
        ("Allow", "iot:Publish", "topic/*"),
        ("Allow", "iot:Receive", "topic/open"),
    ];
    let device = gatehouse.device("dev", deaf);
    // Live, retained, shared, one's own, and kept for a session that is away.
    let mut raw = gatehouse.join(&device, &Hello::v5("dev").kept()).await;
    for filter in ["air/#", "$share/g/air/+", "#"] {
        assert!(granted(&mut raw, filter).await, "{filter}");
    }
    assert!(taken(&mut raw, "air/own").await);
    publisher.send(&qos1("air/live", 2, "x")).await;
    publisher.expect(&ack(0x40, 2)).await;
    // Of each message one copy, of the live ones one more for the group.
    until("all are withheld", || gatehouse.broker.stats().undelivered_policy >= 5).await;
    raw.silence().await;
    drop(raw);
    until("away", || !gatehouse.broker.why("dev").0.unwrap().connected).await;
    publisher.send(&qos1("air/later", 3, "x")).await;
    publisher.expect(&ack(0x40, 3)).await;
    let mut raw = gatehouse.join(&device, &Hello::v5("dev").kept()).await;
    raw.silence().await;
    // It is listening all the same.
    publisher.send(&qos1("open", 4, "x")).await;
    publisher.expect(&ack(0x40, 4)).await;
    assert_eq!(raw.packet().await.unwrap()[0], 0x32);
    let refused = gatehouse.broker.why("dev").1.refused;
    assert!(refused.iter().all(|refused| refused.action == Some(Action::Receive)), "{refused:?}");
}

/// T4: a will is a message, from CONNECT on.
#[tokio::test]
async fn b3_a_will_needs_the_right_to_publish_when_it_is_left() {
    let gatehouse = Gatehouse::start().await;
    let device = gatehouse.device("dev-1", OWN);
    for (topic, enters) in [
        ("own/dev-1/gone", true),
        ("own/dev-2/gone", false),
        ("own/dev-1/secret", false),
        ("plus/x", false),
        ("$aws/rules/r", false),
        ("$SYS/x", false),
        ("own/+/gone", false),
    ] {
        let hello = Hello { will: Some((topic, "x", 1)), ..Hello::v5("dev-1") };
        let (_raw, connack) = gatehouse.hello(&device, &hello).await;
        assert_eq!(code(&connack.unwrap()) == 0, enters, "{topic}");
    }
}

/// B4: by the policy of a kit a client id is the thing's name; and whoever has one keeps it.
#[tokio::test]
async fn b4_a_client_id_is_the_things_and_is_not_taken_over_by_another() {
    let gatehouse = Gatehouse::start().await;
    // As `forebay device add` makes them.
    let kit = |name: &str| {
        let kit = gatehouse.registry.add_device(name).unwrap();
        crate::gatehouse::Device { id: kit.certificate.certificate_id.clone(), kit }
    };
    let (one, two) = (kit("one"), kit("two"));
    let mut first = gatehouse.join(&one, &Hello::v4("one")).await;
    let (_, connack) = gatehouse.hello(&two, &Hello::v4("one")).await;
    assert_eq!(connack.unwrap(), [0x20, 2, 0, 5]);
    first.ping().await;
    let (_, connack) = gatehouse.hello(&one, &Hello::v4("two")).await;
    assert_eq!(connack.unwrap(), [0x20, 2, 0, 5]);

    // Where the policy lets two have the same id, it is the first one's: live and away.
    let (mine, yours) =
        (gatehouse.device("mine", EVERYTHING), gatehouse.device("yours", EVERYTHING));
    let hello = Hello::v5("shared-id").kept();
    let mut live = gatehouse.join(&mine, &hello).await;
    let refused = async |what: &str| {
        let (_, connack) = gatehouse.hello(&yours, &Hello::v5("shared-id")).await;
        let connack = connack.unwrap();
        assert_eq!(code(&connack), 0x87, "{what}");
        // Whose it is, is nobody's business.
        let said = String::from_utf8_lossy(&connack).into_owned();
        assert!(!said.contains("mine") && !said.contains(&mine.id), "{said}");
    };
    refused("live").await;
    live.ping().await;
    drop(live);
    until("away", || !gatehouse.broker.why("shared-id").0.unwrap().connected).await;
    refused("away").await;
    // A renewed certificate of the same thing goes on with the session.
    let renewed = gatehouse.registry.add_certificate("mine").unwrap();
    let id = renewed.certificate.certificate_id.clone();
    gatehouse
        .registry
        .policies()
        .attach(&gatehouse.registry.policies().attached_to(&mine.id)[0], &id)
        .unwrap();
    let renewed = crate::gatehouse::Device { kit: renewed, id };
    let (_raw, connack) = gatehouse.hello(&renewed, &hello).await;
    let connack = connack.unwrap();
    assert_eq!((connack[2 + usize::from(connack[1] > 127)], code(&connack)), (1, 0));
    let reported = gatehouse.broker.why("shared-id").1;
    let taken = reported.refused.iter().find(|refused| refused.reason == "taken").unwrap();
    assert_eq!((taken.times, taken.principal.as_deref()), (2, Some(yours.id.as_str())));
}

/// B7: what a client is told is about itself.
#[tokio::test]
async fn b7_no_refusal_names_another_tenant() {
    let gatehouse = Gatehouse::start().await;
    let secret: Statements<'_> = &[
        ("Allow", "iot:Connect", "client/neighbour*"),
        ("Allow", "iot:*", "topic/neighbourhood/*"),
    ];
    let neighbour = gatehouse.device("neighbour", secret);
    let _live = gatehouse.join(&neighbour, &Hello::v5("neighbour")).await;
    let device = gatehouse.device("dev-1", OWN);
    let mut said = Vec::new();
    let (_, connack) = gatehouse.hello(&device, &Hello::v5("neighbour")).await;
    said.extend(connack.unwrap());
    let mut raw = gatehouse.join(&device, &Hello::v5("dev-1")).await;
    let before = said.len();
    for topic in ["elsewhere/x", "own/dev-1/secret"] {
        raw.send(&publish(0x32, topic, 1, Some(&[]), b"x")).await;
        said.extend(raw.packet().await.unwrap());
    }
    raw.send(&subscribe(5, 2, &[("#", 1)])).await;
    said.extend(raw.packet().await.unwrap());
    raw.send(&publish(0x30, "elsewhere/x", 0, Some(&[]), b"x")).await;
    said.extend(raw.closed().await.unwrap());
    let said = String::from_utf8_lossy(&said).into_owned();
    // It is told a statement of its own, and nothing of the other's.
    assert!(said.contains("statement") && said.len() > before + 100, "{said}");
    let policy = &gatehouse.registry.policies().attached_to(&neighbour.id)[0];
    for name in ["neighbourhood", "neighbour*", policy, &neighbour.id] {
        assert!(!said.contains(name), "{name} in {said}");
    }
    // On record each has its event.
    let events = gatehouse.broker.why("dev-1").1.refused;
    assert_eq!(events.len(), 4, "{events:?}");
    assert!(events.iter().all(|event| event.principal.as_deref() == Some(device.id.as_str())));
    assert_eq!(events[2].why.statement, Some(5), "the Deny: {events:?}");
}
