//! IoT policies on the wire: what is refused, how it is said, and what a change does at once.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use broker::{Action, Authenticator, Client, Explanation, Identity, Refusal, Rights, Settings};
use identity::policy::{self, Document, Facts, Source};

use crate::raw::{A_WHILE, Hello, Raw, publish, qos1, subscribe};
use crate::support::{World, until};

/// Anonymous clients under a document that can be changed.
struct Ruled(Mutex<String>);

#[derive(Debug)]
struct Settled(policy::Rights);

pub(crate) fn wanted(action: Action) -> policy::Action {
    match action {
        Action::Connect => policy::Action::Connect,
        Action::Publish => policy::Action::Publish,
        Action::RetainPublish => policy::Action::RetainPublish,
        Action::Subscribe => policy::Action::Subscribe,
        Action::Receive => policy::Action::Receive,
    }
}

impl Rights for Settled {
    fn allows(&self, action: Action, name: &str) -> bool {
        self.0.allows(wanted(action), name)
    }

    fn explain(&self, action: Action, name: &str) -> Explanation {
        explained(&self.0, action, name)
    }
}

pub(crate) fn explained(rights: &policy::Rights, action: Action, name: &str) -> Explanation {
    let decision = rights.decide(wanted(action), name);
    let by = decision.by.as_ref().or(decision.near.first().map(|miss| &miss.statement));
    Explanation {
        text: decision.to_string(),
        policy: by.map(|by| by.policy.clone()),
        version: by.map(|by| by.version),
        statement: by.map(|by| by.statement),
        sid: by.and_then(|by| by.sid.clone()),
        resource: decision.resource,
    }
}

impl Authenticator for Ruled {
    fn certificate(&self, _der: &[u8]) -> Result<Identity, Refusal> {
        Err(Refusal { reason: "unknown", message: "no certificates here".into() })
    }

    fn anonymous(&self) -> Result<Identity, Refusal> {
        Ok(Identity { principal: "anonymous".into(), thing_name: None })
    }

    fn rights(&self, client: &Client<'_>) -> Option<Arc<dyn Rights>> {
        let document = Document::parse(&self.0.lock().unwrap()).unwrap();
        let source =
            Source { policy: "plant".into(), version: 2, document: Arc::new(Ok(document)) };
        let facts = Facts {
            region: "us-east-1",
            account: "123456789012",
            client_id: Some(client.client_id),
            source_ip: Some(IpAddr::from([127, 0, 0, 1])),
            connect_attributes: if client.last_will { &["LastWill"] } else { &[] },
            ..Facts::default()
        };
        Some(Arc::new(Settled(policy::Rights::new(&[source], &facts))))
    }
}

/// Statements of effect, action and resource.
pub(crate) fn document(statements: &[(&str, &str, &str)]) -> String {
    let statements: Vec<_> = statements
        .iter()
        .enumerate()
        .map(|(at, (effect, action, resource))| {
            let name = action[4..].replace('*', "All");
            serde_json::json!({
                "Effect": effect, "Action": action, "Sid": format!("{name}{}", at + 1),
                "Resource": format!("arn:aws:iot:*:*:{resource}"),
            })
        })
        .collect();
    serde_json::json!({"Version": "2012-10-17", "Statement": statements}).to_string()
}

const OWN: &[(&str, &str, &str)] = &[
    ("Allow", "iot:Connect", "client/dev-*"),
    ("Allow", "iot:Publish", "topic/${iot:ClientId}/*"),
    ("Allow", "iot:Subscribe", "topicfilter/${iot:ClientId}/*"),
    ("Allow", "iot:Receive", "topic/${iot:ClientId}/*"),
    ("Deny", "iot:Publish", "topic/${iot:ClientId}/secret"),
];

async fn world() -> (World, Arc<Ruled>) {
    let ruled = Arc::new(Ruled(Mutex::new(document(OWN))));
    (World::start_with(Settings::default(), ruled.clone()).await, ruled)
}

fn change(world: &World, ruled: &Ruled, statements: &[(&str, &str, &str)]) {
    *ruled.0.lock().unwrap() = document(statements);
    world.broker.rights_changed(Some(&["anonymous".to_owned()]));
}

fn holds(packet: &[u8], words: &str) -> bool {
    String::from_utf8_lossy(packet).contains(words)
}

/// The code of a CONNACK, whose length may take two bytes.
fn reason(connack: &[u8]) -> u8 {
    connack[3 + usize::from(connack[1] > 127)]
}

#[tokio::test]
async fn b7_connect_is_refused_with_the_reason() {
    let (world, _) = world().await;
    let (_, connack) = Raw::hello(world.address, &Hello::v4("other")).await;
    assert_eq!(connack, [0x20, 2, 0, 5]);
    let (_, connack) = Raw::hello(world.address, &Hello::v5("other")).await;
    assert_eq!(reason(&connack), 0x87);
    assert!(holds(&connack, "no statement allows iot:Connect"), "{connack:02x?}");
    assert!(holds(&connack, "client/dev-*"));
    let (_, refusals) = world.broker.why("other");
    assert_eq!(refusals.counts, [("policy", 2)]);
    let refused = &refusals.refused[0];
    assert_eq!((refused.action, refused.times), (Some(Action::Connect), 2));
    assert_eq!((refused.why.policy.as_deref(), refused.why.version), (Some("plant"), Some(2)));
    assert_eq!(world.broker.stats().refused_connect_policy, 2);
    // A will that may not be published.
    for (hello, code) in [(Hello::v4("dev-1"), 5), (Hello::v5("dev-1"), 0x87)] {
        let will = Hello { will: Some(("elsewhere", "gone", 0)), ..hello.clone() };
        assert_eq!(reason(&Raw::hello(world.address, &will).await.1), code);
        let will = Hello { will: Some(("dev-1/gone", "gone", 0)), ..hello };
        Raw::join(world.address, &will).await;
    }
    assert!(world.broker.why("dev-1").1.accepted_at.is_some());
}

#[tokio::test]
async fn b4_a_client_that_may_not_connect_does_not_displace_one_that_may() {
    let (world, ruled) = world().await;
    let mut first = Raw::join(world.address, &Hello::v4("dev-1")).await;
    // Only the stored text changes: the live connection was not told yet.
    *ruled.0.lock().unwrap() = document(&[]);
    assert_eq!(Raw::hello(world.address, &Hello::v4("dev-1")).await.1[3], 5);
    first.ping().await;
}

#[tokio::test]
async fn b3_publish_is_refused_as_each_version_can_say() {
    let (world, _) = world().await;
    let mut old = Raw::join(world.address, &Hello::v4("dev-1")).await;
    old.send(&qos1("dev-1/a", 1, "x")).await;
    old.expect(&[0x40, 2, 0, 1]).await;
    old.send(&qos1("dev-1/secret", 2, "x")).await;
    assert_eq!(old.closed().await, None);
    let mut new = Raw::join(world.address, &Hello::v5("dev-2")).await;
    world.journal.hold();
    // In order: the refusal waits for the receipt before it.
    new.send(&publish(0x32, "dev-2/a", 1, Some(&[]), b"x")).await;
    new.send(&publish(0x32, "dev-2/secret", 2, Some(&[]), b"x")).await;
    new.send(&publish(0x34, "dev-1/a", 3, Some(&[]), b"x")).await;
    new.silence().await;
    world.journal.release();
    new.expect(&[0x40, 2, 0, 1]).await;
    let puback = new.packet().await.unwrap();
    assert_eq!(
        (puback[0], &puback[2 + usize::from(puback[1] > 127)..][..3]),
        (0x40, &[0, 2, 0x87][..])
    );
    assert!(holds(&puback, "denied by statement 5 (Publish"), "{puback:02x?}");
    let pubrec = new.packet().await.unwrap();
    assert_eq!(pubrec[0], 0x50);
    assert!(holds(&pubrec, "topic/dev-2/*"), "{pubrec:02x?}");
    new.send(&publish(0x30, "dev-1/a", 0, Some(&[]), b"x")).await;
    let last = new.closed().await.unwrap();
    assert_eq!(last[0], 0xe0);
    assert!(last.contains(&0x87) && holds(&last, "no statement allows iot:Publish"));
    assert_eq!(world.journal.appended(), 2);
    assert_eq!(world.broker.stats().refused_policy, 4);
    assert_eq!(world.broker.stats().closed_policy, 2);
    assert_eq!(world.broker.why("dev-2").1.counts, [("policy", 3)]);
}

/// Who does not want words gets none (MQTT 5, 3.1.2.11.7), nor does anybody where the operator
/// keeps them to himself; the record has them.
#[tokio::test]
async fn b7_reasons_are_kept_from_those_who_must_not_get_them() {
    let (world, _) = world().await;
    let plain = Hello { properties: vec![23, 0], ..Hello::v5("dev-1") };
    let mut plain = Raw::join(world.address, &plain).await;
    plain.send(&publish(0x32, "elsewhere", 1, Some(&[]), b"x")).await;
    plain.expect(&[0x40, 3, 0, 1, 0x87]).await;
    plain.send(&subscribe(5, 2, &[("#", 1)])).await;
    plain.expect(&[0x90, 4, 0, 2, 0, 0x87]).await;

    let ruled = Arc::new(Ruled(Mutex::new(document(OWN))));
    let settings = Settings { refusals_explained: false, ..Settings::default() };
    let world = World::start_with(settings, ruled).await;
    let mut dev = Raw::join(world.address, &Hello::v5("dev-1")).await;
    world.journal.hold();
    dev.send(&publish(0x32, "dev-1/a", 1, Some(&[]), b"x")).await;
    dev.send(&publish(0x32, "elsewhere", 2, Some(&[]), b"x")).await;
    dev.silence().await;
    world.journal.release();
    dev.expect(&[0x40, 2, 0, 1]).await;
    dev.expect(&[0x40, 3, 0, 2, 0x80]).await;
    dev.send(&subscribe(5, 3, &[("#", 1), ("dev-1/a", 1)])).await;
    dev.expect(&[0x90, 5, 0, 3, 0, 0x80, 1]).await;
    dev.send(&publish(0x30, "elsewhere", 0, Some(&[]), b"x")).await;
    assert_eq!(dev.closed().await, Some(vec![0xe0, 1, 0x87]));
    let (_, connack) = Raw::hello(world.address, &Hello::v5("other")).await;
    assert_eq!(connack, [0x20, 3, 0, 0x87, 0]);
    let why = world.broker.why("dev-1").1;
    assert!(why.refused[0].why.text.contains("no statement allows"), "{why:?}");
}

/// `$share/NAME/FILTER` is decided as FILTER.
#[tokio::test]
async fn b5_a_shared_subscription_needs_the_right_to_its_filter() {
    let (world, _) = world().await;
    let mut dev = Raw::join(world.address, &Hello::v5("dev-1")).await;
    let filters = [("$share/g/dev-1/#", 1), ("$share/g/dev-2/#", 1), ("$share/dev-1/#", 1)];
    dev.send(&subscribe(5, 1, &filters)).await;
    let suback = dev.packet().await.unwrap();
    assert!(suback.ends_with(&[1, 0x87, 0x87]), "{suback:02x?}");
    let mut publisher = Raw::join(world.address, &Hello::v5("dev-2")).await;
    publisher.send(&publish(0x32, "dev-2/a", 1, Some(&[]), b"x")).await;
    publisher.packet().await;
    dev.silence().await;
}

/// Members of one group, each with messages of its own that the others may not receive.
async fn members<const COUNT: usize>(world: &World, qos: u8) -> [Raw; COUNT] {
    let mut members = Vec::new();
    for number in 1..=COUNT {
        let id = format!("dev-{number}");
        let mut raw = Raw::join(world.address, &Hello::v4(&id)).await;
        raw.send(&subscribe(4, 1, &[("$share/g/#", qos)])).await;
        raw.expect(&[0x90, 3, 0, 1, qos]).await;
        members.push(raw);
    }
    members.try_into().unwrap_or_else(|_| unreachable!())
}

const GROUP: &[(&str, &str, &str)] = &[
    ("Allow", "iot:Connect", "client/*"),
    ("Allow", "iot:Publish", "topic/*"),
    ("Allow", "iot:Subscribe", "topicfilter/*"),
    ("Allow", "iot:Receive", "topic/${iot:ClientId}/*"),
    ("Allow", "iot:Receive", "topic/all/*"),
];

/// Publishes in each of the three qualities of service, and waits for the receipts.
async fn publish_thrice(raw: &mut Raw, topic: &str) {
    raw.send(&publish(0x30, topic, 0, None, b"zero")).await;
    raw.send(&qos1(topic, 1, "one")).await;
    raw.expect(&[0x40, 2, 0, 1]).await;
    raw.send(&publish(0x34, topic, 2, None, b"two")).await;
    raw.expect(&[0x50, 2, 0, 2]).await;
    raw.send(&[0x62, 2, 0, 2]).await;
    raw.expect(&[0x70, 2, 0, 2]).await;
}

/// What comes within a while, acknowledged: topic and payload.
async fn heard(raw: &mut Raw) -> Vec<String> {
    let mut found = Vec::new();
    while let Ok(Some(packet)) = tokio::time::timeout(A_WHILE, raw.packet()).await {
        let topic = 4 + usize::from(packet[3]);
        let qos = (packet[0] >> 1) & 3;
        let payload = if qos == 0 { topic } else { topic + 2 };
        match (packet[0] >> 4, qos) {
            (3, 1) => raw.send(&[0x40, 2, packet[topic], packet[topic + 1]]).await,
            (3, 2) => raw.send(&[0x50, 2, packet[topic], packet[topic + 1]]).await,
            (6, _) => {
                raw.send(&[0x70, 2, packet[2], packet[3]]).await;
                continue;
            }
            _ => {}
        }
        found.push(
            String::from_utf8_lossy(&[&packet[4..topic], &packet[payload..]].join(&b':')).into(),
        );
    }
    found
}

#[tokio::test]
async fn a_share_that_a_member_may_not_receive_is_another_members() {
    let (world, ruled) = world().await;
    change(&world, &ruled, GROUP);
    let mut publisher = Raw::join(world.address, &Hello::v4("pub")).await;
    let [mut one, mut two, mut three] = members(&world, 2).await;
    let mut expected = Vec::new();
    // Whoever's turn it is.
    for _ in 0..5 {
        publish_thrice(&mut publisher, "dev-2/a").await;
        expected.extend(["dev-2/a:zero", "dev-2/a:one", "dev-2/a:two"]);
    }
    // In any order: what was turned down comes later.
    let mut got = heard(&mut two).await;
    got.sort_unstable();
    expected.sort_unstable();
    assert_eq!(got, expected);
    assert_eq!(world.broker.stats().undelivered_policy, 0);
    // What nobody may receive is dropped, counted once, and holds nothing up.
    publish_thrice(&mut publisher, "dev-9/a").await;
    until("three dropped", || world.broker.stats().undelivered_policy == 3).await;
    // What all may receive is dealt out in turn.
    for _ in 0..3 {
        publish_thrice(&mut publisher, "all/a").await;
    }
    for raw in [&mut one, &mut two, &mut three] {
        assert_eq!(heard(raw).await.len(), 3);
    }
}

/// One that reads nothing holds up what is its alone, and only so much of that.
#[tokio::test]
async fn a_share_that_only_a_stuck_member_may_receive_waits_and_the_others_go_on() {
    let (world, ruled) = world().await;
    change(&world, &ruled, GROUP);
    let mut publisher = Raw::join(world.address, &Hello::v4("pub")).await;
    let mut stuck = Hello::v5("dev-1");
    stuck.properties.extend([33, 0, 1]);
    let mut stuck = Raw::join(world.address, &stuck).await;
    stuck.send(&subscribe(5, 1, &[("$share/g/#", 1)])).await;
    assert_eq!(stuck.packet().await.unwrap().last(), Some(&1));
    let mut other = Raw::join(world.address, &Hello::v4("dev-2")).await;
    other.send(&subscribe(4, 1, &[("$share/g/#", 1)])).await;
    other.expect(&[0x90, 3, 0, 1, 1]).await;
    let mut send = async |topic: &str, count: u16| {
        for id in 1..=count {
            publisher.send(&qos1(topic, id, "x")).await;
            publisher.expect(&[0x40, 2, (id >> 8) as u8, id as u8]).await;
        }
    };
    // One in flight, 16 in its inbox, the rest turned down by the other.
    send("dev-1/a", 60).await;
    send("dev-2/a", 10).await;
    assert_eq!(heard(&mut other).await.len(), 10);
    send("dev-1/a", 200).await;
    send("dev-2/a", 10).await;
    assert_eq!(heard(&mut other).await, Vec::<String>::new(), "more is kept than is bounded");
    // It goes on: nothing is lost, and nobody else got it.
    let mut got = 0;
    while let Ok(Some(packet)) = tokio::time::timeout(A_WHILE * 4, stuck.packet()).await {
        let topic = 4 + usize::from(packet[3]);
        assert_eq!(packet[4..topic], *b"dev-1/a");
        stuck.send(&[0x40, 2, packet[topic], packet[topic + 1]]).await;
        got += 1;
    }
    assert_eq!(got, 260);
    assert_eq!(heard(&mut other).await.len(), 10);
    assert_eq!(world.broker.stats().undelivered_policy, 0);
    // When it goes, the others' word stands: what is left for it is dropped.
    send("dev-1/a", 5).await;
    drop(stuck);
    until("five dropped", || world.broker.stats().undelivered_policy == 5).await;
}

/// What it was sent and may no longer receive when it is back.
#[tokio::test]
async fn what_a_kept_member_may_no_longer_receive_goes_to_another() {
    let (world, ruled) = world().await;
    let mut all = GROUP.to_vec();
    all.push(("Allow", "iot:Receive", "topic/*"));
    change(&world, &ruled, &all);
    let mut publisher = Raw::join(world.address, &Hello::v4("pub")).await;
    let kept = Hello::v4("dev-1").kept();
    let mut one = Raw::join(world.address, &kept).await;
    one.send(&subscribe(4, 1, &[("$share/g/#", 1)])).await;
    one.expect(&[0x90, 3, 0, 1, 1]).await;
    publisher.send(&qos1("dev-2/a", 1, "x")).await;
    publisher.expect(&[0x40, 2, 0, 1]).await;
    one.expect(&qos1("dev-2/a", 1, "x")).await;
    drop(one);
    world.until("it is away", |w| w.broker.sessions().iter().any(|s| !s.connected)).await;
    change(&world, &ruled, GROUP);
    let mut two = Raw::join(world.address, &Hello::v4("dev-2")).await;
    two.send(&subscribe(4, 1, &[("$share/g/#", 1)])).await;
    two.expect(&[0x90, 3, 0, 1, 1]).await;
    // It is the first one's until that cannot have it.
    two.silence().await;
    let (mut one, connack) = Raw::hello(world.address, &kept).await;
    assert_eq!(connack, [0x20, 2, 1, 0]);
    assert_eq!(heard(&mut two).await, ["dev-2/a:x"]);
    one.silence().await;
}

#[tokio::test]
async fn b3_subscribe_is_refused_filter_by_filter() {
    let (world, _) = world().await;
    let mut old = Raw::join(world.address, &Hello::v4("dev-1")).await;
    old.send(&subscribe(4, 1, &[("dev-1/#", 1), ("#", 1)])).await;
    old.expect(&[0x90, 4, 0, 1, 1, 0x80]).await;
    let mut new = Raw::join(world.address, &Hello::v5("dev-2")).await;
    new.send(&subscribe(5, 1, &[("dev-2/+", 1), ("dev-1/+", 1)])).await;
    let suback = new.packet().await.unwrap();
    assert_eq!((suback[0], &suback[suback.len() - 2..]), (0x90, &[1, 0x87][..]));
    assert!(holds(&suback, "topicfilter/dev-2/*"), "{suback:02x?}");
    assert_eq!(world.broker.stats().refused_subscribe, 2);
    // A small packet keeps the code and drops the words.
    let small = Hello { properties: vec![0x27, 0, 0, 0, 40], ..Hello::v5("dev-3") };
    let mut small = Raw::join(world.address, &small).await;
    small.send(&subscribe(5, 1, &[("#", 1)])).await;
    small.expect(&[0x90, 4, 0, 1, 0, 0x87]).await;
    small.send(&publish(0x32, "x", 2, Some(&[]), b"x")).await;
    small.expect(&[0x40, 3, 0, 2, 0x87]).await;
}

#[tokio::test]
async fn b3_a_client_called_like_a_wildcard_gets_nothing_more() {
    let (world, ruled) = world().await;
    let mut all = OWN.to_vec();
    all.push(("Allow", "iot:Connect", "client/*"));
    change(&world, &ruled, &all);
    for id in ["*", "+", "#", "${iot:ClientId}"] {
        let mut raw = Raw::join(world.address, &Hello::v4(id)).await;
        raw.send(&subscribe(4, 1, &[("dev-1/#", 0)])).await;
        raw.expect(&[0x90, 3, 0, 1, 0x80]).await;
    }
}

#[tokio::test]
async fn b2_taking_receive_away_stops_a_live_subscription_and_giving_it_back_resumes_it() {
    let (world, ruled) = world().await;
    let mut sub = Raw::join(world.address, &Hello::v4("dev-1")).await;
    sub.send(&subscribe(4, 1, &[("dev-1/#", 0)])).await;
    sub.expect(&[0x90, 3, 0, 1, 0]).await;
    sub.send(&qos1("dev-1/a", 1, "one")).await;
    let mut got = [sub.packet().await.unwrap()[0], sub.packet().await.unwrap()[0]];
    got.sort_unstable();
    assert_eq!(got, [0x30, 0x40]);
    let less: Vec<_> = OWN.iter().copied().filter(|s| s.1 != "iot:Receive").collect();
    change(&world, &ruled, &less);
    for id in 2..5 {
        sub.send(&qos1("dev-1/a", id, "two")).await;
        sub.expect(&[0x40, 2, 0, id as u8]).await;
    }
    until("three withheld", || world.broker.stats().undelivered_policy == 3).await;
    sub.silence().await;
    let refused = world.broker.why("dev-1").1.refused;
    assert_eq!((refused.len(), refused[0].action), (1, Some(Action::Receive)));
    change(&world, &ruled, OWN);
    sub.send(&qos1("dev-1/b", 9, "three")).await;
    let mut got = [sub.packet().await.unwrap()[0], sub.packet().await.unwrap()[0]];
    got.sort_unstable();
    assert_eq!(got, [0x30, 0x40]);
}

#[tokio::test]
async fn b2_a_change_reaches_live_connections() {
    let (world, ruled) = world().await;
    let mut old = Raw::join(world.address, &Hello::v4("dev-1")).await;
    old.send(&qos1("dev-1/a", 1, "x")).await;
    old.expect(&[0x40, 2, 0, 1]).await;
    let less: Vec<_> = OWN.iter().copied().filter(|s| s.1 != "iot:Publish").collect();
    change(&world, &ruled, &less);
    old.send(&qos1("dev-1/a", 2, "x")).await;
    assert_eq!(old.closed().await, None);
    // Whoever may no longer connect is closed, without a word of theirs, and leaves no will.
    change(&world, &ruled, OWN);
    let with_will = Hello { will: Some(("dev-2/gone", "gone", 1)), ..Hello::v5("dev-2") };
    let mut new = Raw::join(world.address, &with_will).await;
    new.ping().await;
    change(&world, &ruled, &[]);
    new.disconnected(0x87).await;
    assert_eq!(world.journal.appended(), 1);
    assert_eq!(world.broker.stats().wills, 0);
}
