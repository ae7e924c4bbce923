//! What a revocation, or a change of policy, does to whoever is connected or was: within a
//! second, and to everything that waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use broker::{Action, Settings};
use identity::Status;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::gatehouse::{Device, Gatehouse, Ground, Statements};
use crate::raw::{A_WHILE, Hello, Raw, ack, publish, qos1, qos2, subscribe};
use crate::support::{quiet, until};

const SECOND: Duration = Duration::from_secs(1);

/// What most devices here may do.
const ALL: Statements<'static> = &[
    ("Allow", "iot:Connect", "client/${iot:Connection.Thing.ThingName}"),
    ("Allow", "iot:Publish", "topic/*"),
    ("Allow", "iot:RetainPublish", "topic/*"),
    ("Allow", "iot:Subscribe", "topicfilter/*"),
    ("Allow", "iot:Receive", "topic/*"),
];

/// `ALL` without what is said of one action.
fn without(action: &str) -> Vec<(&'static str, &'static str, &'static str)> {
    ALL.iter().copied().filter(|statement| statement.1 != action).collect()
}

fn and_deny(
    action: &'static str,
    resource: &'static str,
) -> Vec<(&'static str, &'static str, &'static str)> {
    [ALL, &[("Deny", action, resource)]].concat()
}

/// A change that must take effect.
type Change = fn(&Gatehouse, &Device);

/// A device that publishes a message every few milliseconds until it is stopped.
struct Pump {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Pump {
    async fn start(gatehouse: &Gatehouse, topic: &'static str) -> Pump {
        let device = gatehouse.device("pump", ALL);
        let mut raw = gatehouse.join(&device, &Hello::v4("pump")).await;
        let (stop, sent) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (stopped, counted) = (stop.clone(), sent.clone());
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::SeqCst) {
                raw.send(&qos1(topic, 1, "x")).await;
                raw.expect(&ack(0x40, 1)).await;
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        });
        Pump { stop, sent, task }
    }

    /// Waits until so many more were sent.
    async fn more(&self, count: usize) {
        let enough = self.sent.load(Ordering::SeqCst) + count;
        until("the pump goes on", || self.sent.load(Ordering::SeqCst) >= enough).await;
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.task.await.unwrap();
    }
}

/// Where the packet id of a PUBLISH in MQTT 3.1.1 stands, and what it is.
fn packet_id(packet: &[u8]) -> u16 {
    let at = 4 + usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

async fn subscribed(raw: &mut Raw, filter: &str, qos: u8) {
    raw.send(&subscribe(4, 1, &[(filter, qos)])).await;
    raw.expect(&[0x90, 3, 0, 1, qos]).await;
}

/// T3: a live subscriber.
#[tokio::test]
async fn b2_a_live_subscriber_hears_nothing_a_second_after_its_right_ended() {
    let gatehouse = Gatehouse::start().await;
    let pump = Pump::start(&gatehouse, "air/x").await;
    let control = gatehouse.device("control", ALL);
    let mut control = gatehouse.join(&control, &Hello::v4("control")).await;
    subscribed(&mut control, "air/#", 0).await;
    let changes: [(&str, bool, Change); 8] = [
        ("revoked", true, |g, d| g.set_status(d, Status::Revoked)),
        ("inactive", true, |g, d| g.set_status(d, Status::Inactive)),
        ("detached", true, |g, d| g.detach(d)),
        ("no-connect", true, |g, d| g.change(d, &without("iot:Connect"))),
        ("no-subscribe", false, |g, d| g.change(d, &without("iot:Subscribe"))),
        ("no-receive", false, |g, d| g.change(d, &without("iot:Receive"))),
        ("deny-receive", false, |g, d| g.change(d, &and_deny("iot:Receive", "topic/air/*"))),
        ("deny-subscribe", false, |g, d| {
            g.change(d, &and_deny("iot:Subscribe", "topicfilter/air/#"))
        }),
    ];
    for (name, closes, change) in changes {
        let device = gatehouse.device(name, ALL);
        let mut raw = gatehouse.join(&device, &Hello::v4(name)).await;
        subscribed(&mut raw, "air/#", 1).await;
        for _ in 0..3 {
            let packet = raw.packet().await.unwrap();
            raw.send(&ack(0x40, packet_id(&packet))).await;
        }
        let started = Instant::now();
        change(&gatehouse, &device);
        let (mut last, mut closed) = (Duration::ZERO, false);
        while let Ok(packet) = timeout(A_WHILE, raw.packet()).await {
            let Some(packet) = packet else {
                closed = true;
                break;
            };
            last = started.elapsed();
            raw.try_send(&ack(0x40, packet_id(&packet))).await;
        }
        assert!(last < SECOND, "{name}: a delivery after {last:?}");
        assert!(started.elapsed() < 3 * SECOND, "{name}: {:?}", started.elapsed());
        assert_eq!(closed, closes, "{name}");
        if !closed {
            // A subscription that may not be is gone; one without the right to receive waits.
            let session = gatehouse.broker.why(name).0.unwrap();
            let left: &[&str] = if name.ends_with("receive") { &["air/#"] } else { &[] };
            assert_eq!(session.subscriptions, left, "{name}");
        }
        // The messages went on, to whoever may have them.
        pump.more(3).await;
        assert_eq!(control.packet().await.unwrap()[0], 0x30);
    }
    pump.stop().await;
    let refused = gatehouse.broker.why("no-subscribe").1.refused;
    assert_eq!((refused[0].action, refused[0].name.as_str()), (Some(Action::Subscribe), "air/#"));
}

/// T3: a live publisher.
#[tokio::test]
async fn b2_a_live_publisher_is_not_logged_a_second_after_its_right_ended() {
    let gatehouse = Gatehouse::start().await;
    let changes: [(&str, Change); 5] = [
        ("revoked", |g, d| g.set_status(d, Status::Revoked)),
        ("inactive", |g, d| g.set_status(d, Status::Inactive)),
        ("detached", |g, d| g.detach(d)),
        ("no-publish", |g, d| g.change(d, &without("iot:Publish"))),
        ("deny-publish", |g, d| g.change(d, &and_deny("iot:Publish", "topic/air/?"))),
    ];
    for (name, change) in changes {
        let device = gatehouse.device(name, ALL);
        let mut raw = gatehouse.join(&device, &Hello::v4(name)).await;
        for id in 1..4 {
            raw.send(&qos1("air/x", id, "x")).await;
            raw.expect(&ack(0x40, id)).await;
        }
        let logged = || {
            let messages = gatehouse.journal.messages();
            messages.iter().filter(|message| message.client_id == name).count()
        };
        let started = Instant::now();
        change(&gatehouse, &device);
        let mut last = Duration::ZERO;
        let mut acknowledged = 3;
        for id in 4.. {
            raw.try_send(&qos1("air/x", id, "x")).await;
            let Some(packet) = raw.packet().await else { break };
            assert_eq!(packet, ack(0x40, id));
            (last, acknowledged) = (started.elapsed(), acknowledged + 1);
        }
        assert!(last < SECOND, "{name}: acknowledged after {last:?}");
        assert_eq!(logged(), acknowledged, "{name}");
    }
}

/// T3: a will that is pending, and what was cut off rather than kicked.
#[tokio::test]
async fn b2_a_pending_will_is_not_published_without_the_right() {
    let gatehouse = Gatehouse::start().await;
    let changes: [(&str, Change); 6] = [
        ("revoked", |g, d| g.set_status(d, Status::Revoked)),
        ("inactive", |g, d| g.set_status(d, Status::Inactive)),
        ("detached", |g, d| g.detach(d)),
        ("no-publish", |g, d| g.change(d, &without("iot:Publish"))),
        ("deny-will", |g, d| g.change(d, &and_deny("iot:Publish", "topic/gone/*"))),
        ("kept", |_, _| {}),
    ];
    for (name, change) in changes {
        let device = gatehouse.device(name, ALL);
        let topic = format!("gone/{name}");
        let hello = Hello { will: Some((&topic, "gone", 1)), ..Hello::v4(name) };
        let mut raw = gatehouse.join(&device, &hello).await;
        raw.ping().await;
        change(&gatehouse, &device);
        drop(raw);
        until("the session is over", || gatehouse.broker.why(name).0.is_none()).await;
    }
    until("the last one's will", || gatehouse.broker.stats().wills > 0).await;
    let topics: Vec<_> =
        gatehouse.journal.messages().iter().map(|message| message.topic.to_string()).collect();
    assert_eq!(topics, ["gone/kept"]);
}

fn delayed<'a>(name: &'a str, topic: &'a str, secs: u8) -> Hello<'a> {
    let will_properties = vec![0x18, 0, 0, 0, secs];
    Hello { will: Some((topic, "gone", 1)), will_properties, ..Hello::v5(name).kept() }
}

/// T3: a will that waits for its delay while its client is away.
#[tokio::test]
async fn b2_a_delayed_will_is_not_published_without_the_right() {
    let ground = Ground::new();
    let gatehouse = ground.open(quiet()).await;
    let changes: [(&str, Change); 5] = [
        ("revoked", |g, d| g.set_status(d, Status::Revoked)),
        ("inactive", |g, d| g.set_status(d, Status::Inactive)),
        ("detached", |g, d| g.detach(d)),
        ("no-publish", |g, d| g.change(d, &without("iot:Publish"))),
        ("no-connect", |g, d| g.change(d, &without("iot:Connect"))),
    ];
    for (name, change) in changes {
        let device = gatehouse.device(name, ALL);
        let topic = format!("gone/{name}");
        drop(gatehouse.join(&device, &delayed(name, &topic, 1)).await);
        until("it is away", || !gatehouse.broker.why(name).0.unwrap().connected).await;
        change(&gatehouse, &device);
    }
    // The last one to go is the first whose will may be said: the others' time was over before.
    let control = gatehouse.device("control", ALL);
    drop(gatehouse.join(&control, &delayed("control", "gone/control", 1)).await);
    until("the control's will", || gatehouse.broker.stats().wills == 1).await;
    let topics: Vec<_> = ground.journal.messages().iter().map(|m| m.topic.to_string()).collect();
    assert_eq!(topics, ["gone/control"]);
    let why = gatehouse.broker.why("no-publish").1;
    assert_eq!(why.refused[0].name, "gone/no-publish", "{why:?}");
}

/// T3: the same over a restart in which nobody could tell the broker of the change.
#[tokio::test]
async fn b2_a_will_of_before_the_restart_needs_the_right_of_after() {
    let ground = Ground::new();
    let gatehouse = ground.open(quiet()).await;
    let (kept, narrowed) = (gatehouse.device("kept", ALL), gatehouse.device("narrowed", ALL));
    for (device, name, topic) in
        [(&kept, "kept", "gone/kept"), (&narrowed, "narrowed", "gone/narrowed")]
    {
        drop(gatehouse.join(device, &delayed(name, topic, 60)).await);
        until("it is away", || !gatehouse.broker.why(name).0.unwrap().connected).await;
    }
    let revoked = gatehouse.device("revoked", ALL);
    drop(gatehouse.join(&revoked, &delayed("revoked", "gone/revoked", 60)).await);
    until("it is away", || !gatehouse.broker.why("revoked").0.unwrap().connected).await;
    gatehouse.close().await;
    // As the command line does while the server is down.
    let authority = ground.authority();
    let registry =
        identity::Registry::open(ground.store.clone(), authority, ground.clock.clone()).unwrap();
    let policy = registry.policies().attached_to(&narrowed.id).remove(0);
    let document = crate::policy::document(&without("iot:Publish"));
    registry.policies().create_version(&policy, &document, true).unwrap();
    registry.set_status(&revoked.id, Status::Revoked).unwrap();
    drop(registry);
    ground.clock.advance(Duration::from_secs(61));
    let before = ground.journal.appended();
    let gatehouse = ground.open(quiet()).await;
    until("a will is due", || ground.journal.appended() > before).await;
    for name in ["narrowed", "revoked"] {
        until("the others are refused", || !gatehouse.broker.why(name).1.refused.is_empty()).await;
    }
    let wills: Vec<_> = ground.journal.messages()[before..]
        .iter()
        .map(|message| message.topic.to_string())
        .collect();
    assert_eq!(wills, ["gone/kept"]);
}

/// T3: what it retained is the operator's by now; it adds nothing and takes nothing back.
#[tokio::test]
async fn b2_a_revoked_device_cannot_change_what_it_retained() {
    let gatehouse = Gatehouse::start().await;
    let device = gatehouse.device("dev", ALL);
    let mut raw = gatehouse.join(&device, &Hello::v4("dev")).await;
    raw.send(&publish(0x33, "state/dev", 1, None, b"good")).await;
    raw.expect(&ack(0x40, 1)).await;
    gatehouse.set_status(&device, Status::Revoked);
    // All of it was on its way, or is, when the connection ends.
    for id in 2..10 {
        let payload: &[u8] = if id % 2 == 0 { b"bad" } else { b"" };
        raw.try_send(&publish(0x33, "state/dev", id, None, payload)).await;
    }
    while raw.packet().await.is_some() {}
    let (retained, _) = gatehouse.broker.retained_get("state/dev").unwrap();
    assert_eq!(&*retained.payload, b"good");
    let other = gatehouse.device("other", ALL);
    let mut other = gatehouse.join(&other, &Hello::v4("other")).await;
    subscribed(&mut other, "state/#", 0).await;
    other.expect(&publish(0x31, "state/dev", 0, None, b"good")).await;
    // Nor does one that may publish but not retain.
    let narrow = gatehouse.device("narrow", ALL);
    let mut raw = gatehouse.join(&narrow, &Hello::v5("narrow")).await;
    gatehouse.change(&narrow, &without("iot:RetainPublish"));
    raw.send(&publish(0x33, "state/dev", 1, Some(&[]), b"bad")).await;
    let puback = raw.packet().await.unwrap();
    assert_eq!(puback[4 + usize::from(puback[1] > 127)], 0x87, "{puback:02x?}");
    assert_eq!(&*gatehouse.broker.retained_get("state/dev").unwrap().0.payload, b"good");
}

/// T3: messages queued for a session that is away, and the session itself.
#[tokio::test]
async fn b2_what_waits_for_an_absent_session_is_checked_when_it_comes_back() {
    let ground = Ground::new();
    let gatehouse = ground.open(quiet()).await;
    let publisher = gatehouse.device("pub", ALL);
    let mut publisher = gatehouse.join(&publisher, &Hello::v4("pub")).await;
    // Name, change, whether it may come back, what it gets of `air/x` and `open/x`.
    let changes: [(&str, Change, bool, &[&str]); 6] = [
        ("kept", |_, _| {}, true, &["air/x", "open/x"]),
        (
            "no-receive",
            |g, d| g.change(d, &and_deny("iot:Receive", "topic/air/*")),
            true,
            &["open/x"],
        ),
        (
            "no-subscribe",
            |g, d| g.change(d, &and_deny("iot:Subscribe", "topicfilter/air/+")),
            true,
            &["open/x"],
        ),
        ("detached", |g, d| g.detach(d), false, &[]),
        ("inactive", |g, d| g.set_status(d, Status::Inactive), false, &[]),
        ("revoked", |g, d| g.set_status(d, Status::Revoked), false, &[]),
    ];
    let mut devices = Vec::new();
    for (name, ..) in changes {
        let device = gatehouse.device(name, ALL);
        let mut raw = gatehouse.join(&device, &Hello::v4(name).kept()).await;
        subscribed(&mut raw, "air/+", 1).await;
        subscribed(&mut raw, "open/+", 1).await;
        raw.send(&[0xe0, 0]).await;
        assert_eq!(raw.closed().await, None);
        devices.push(device);
    }
    for (id, topic) in [(1, "air/x"), (2, "open/x")] {
        publisher.send(&qos1(topic, id, "x")).await;
        publisher.expect(&ack(0x40, id)).await;
    }
    for ((name, change, comes_back, gets), device) in changes.into_iter().zip(&devices) {
        change(&gatehouse, device);
        let mut raw = gatehouse.open(device).await;
        raw.try_send(&Hello::v4(name).kept().bytes()).await;
        let connack = raw.packet().await;
        if !comes_back {
            assert!(connack.is_none_or(|connack| connack == [0x20, 2, 0, 5]), "{name}");
            assert_eq!(raw.packet().await, None, "{name}");
            continue;
        }
        assert_eq!(connack, Some(vec![0x20, 2, 1, 0]), "{name}");
        let mut topics = Vec::new();
        while let Ok(Some(packet)) = timeout(A_WHILE, raw.packet()).await {
            let end = 4 + usize::from(packet[3]);
            topics.push(String::from_utf8_lossy(&packet[4..end]).into_owned());
            raw.send(&ack(0x40, packet_id(&packet))).await;
        }
        assert_eq!(topics, gets, "{name}");
        drop(raw);
    }
    // A subscription that ended is not there after a restart either.
    until("away", || !gatehouse.broker.why("no-subscribe").0.unwrap().connected).await;
    gatehouse.close().await;
    let gatehouse = ground.open(quiet()).await;
    let session = gatehouse.broker.why("no-subscribe").0.unwrap();
    assert_eq!(session.subscriptions, ["open/+"]);
}

/// T3: a message half handed over in QoS 2, in both directions.
#[tokio::test]
async fn b2_qos_2_midway_is_checked_again() {
    let gatehouse = Gatehouse::start().await;
    let device = gatehouse.device("dev", ALL);
    let mut raw = gatehouse.join(&device, &Hello::v5("dev").kept()).await;
    raw.send(&publish(0x34, "air/x", 7, Some(&[]), b"one")).await;
    raw.expect(&ack(0x50, 7)).await;
    gatehouse.change(&device, &without("iot:Publish"));
    // What was allowed is in the log and may be released; the same again may not be sent.
    raw.send(&publish(0x3c, "air/x", 7, Some(&[]), b"one")).await;
    let pubrec = raw.packet().await.unwrap();
    assert_eq!(
        (pubrec[0], pubrec[4 + usize::from(pubrec[1] > 127)]),
        (0x50, 0x87),
        "{pubrec:02x?}"
    );
    raw.send(&ack(0x62, 7)).await;
    raw.expect(&ack(0x70, 7)).await;
    raw.send(&publish(0x34, "air/x", 8, Some(&[]), b"two")).await;
    assert_eq!(raw.packet().await.unwrap()[0], 0x50);
    assert_eq!(gatehouse.journal.appended(), 1);

    // To a subscriber: the first is on its way, the second waits.
    let publisher = gatehouse.device("pub", ALL);
    let mut publisher = gatehouse.join(&publisher, &Hello::v4("pub")).await;
    let sub = gatehouse.device("sub", ALL);
    let mut raw = gatehouse.join(&sub, &Hello::v4("sub").kept()).await;
    subscribed(&mut raw, "air/+", 2).await;
    for (id, payload) in [(1, "one"), (2, "two")] {
        publisher.send(&qos2("air/x", id, payload)).await;
        publisher.expect(&ack(0x50, id)).await;
        publisher.send(&ack(0x62, id)).await;
        publisher.expect(&ack(0x70, id)).await;
    }
    assert_eq!(packet_id(&raw.packet().await.unwrap()), 1);
    assert_eq!(packet_id(&raw.packet().await.unwrap()), 2);
    raw.send(&ack(0x50, 1)).await;
    raw.expect(&ack(0x62, 1)).await;
    drop(raw);
    until("away", || !gatehouse.broker.why("sub").0.unwrap().connected).await;
    gatehouse.change(&sub, &without("iot:Receive"));
    let mut raw = gatehouse.join(&sub, &Hello::v4("sub").kept()).await;
    // The release of what it has; of what it has not, nothing.
    raw.expect(&ack(0x62, 1)).await;
    raw.send(&ack(0x70, 1)).await;
    raw.silence().await;
    assert_eq!(gatehouse.broker.stats().undelivered_policy, 1);
}

/// T3: a member of a shared subscription.
#[tokio::test]
async fn b2_a_revoked_member_leaves_its_share_to_the_others() {
    let gatehouse = Gatehouse::start().await;
    let publisher = gatehouse.device("pub", ALL);
    let mut publisher = gatehouse.join(&publisher, &Hello::v4("pub")).await;
    let changes: [(&str, Change); 3] = [
        ("revoked", |g, d| g.set_status(d, Status::Revoked)),
        ("detached", |g, d| g.detach(d)),
        ("no-subscribe", |g, d| g.change(d, &and_deny("iot:Subscribe", "topicfilter/air/*"))),
    ];
    let stays = gatehouse.device("stays", ALL);
    let mut stays = gatehouse.join(&stays, &Hello::v4("stays")).await;
    subscribed(&mut stays, "$share/g/air/+", 1).await;
    for (name, change) in changes {
        let device = gatehouse.device(name, ALL);
        let mut raw = gatehouse.join(&device, &Hello::v4(name)).await;
        subscribed(&mut raw, "$share/g/air/+", 1).await;
        let send = async |publisher: &mut Raw, count: u16| {
            for id in 1..=count {
                publisher.send(&qos1("air/x", id, name)).await;
                publisher.expect(&ack(0x40, id)).await;
            }
        };
        send(&mut publisher, 2).await;
        // One each, and its own is not acknowledged.
        assert_eq!(raw.packet().await.unwrap()[0], 0x32, "{name}");
        let mut heard = 0;
        let started = Instant::now();
        change(&gatehouse, &device);
        until("its subscription is over", || {
            gatehouse.broker.why(name).0.is_none_or(|session| session.subscriptions.is_empty())
        })
        .await;
        assert!(started.elapsed() < SECOND, "{name}: {:?}", started.elapsed());
        send(&mut publisher, 4).await;
        while let Ok(Some(packet)) = timeout(A_WHILE, stays.packet()).await {
            heard += 1;
            stays.send(&ack(0x40, packet_id(&packet))).await;
        }
        // Its own first, all four since, and what the other left unacknowledged if it is over.
        let left = usize::from(name != "no-subscribe");
        assert_eq!(heard, 5 + left, "{name}");
        if let Ok(Some(packet)) = timeout(A_WHILE, raw.packet()).await {
            panic!("{name} got {packet:02x?}");
        }
    }
}

/// T3: retained messages that wait for room in the client's window.
#[tokio::test]
async fn b2_a_retained_replay_stops_where_the_right_does() {
    let gatehouse = Gatehouse::start().await;
    let publisher = gatehouse.device("pub", ALL);
    let mut publisher = gatehouse.join(&publisher, &Hello::v4("pub")).await;
    for id in 1..=5 {
        publisher.send(&publish(0x33, &format!("state/{id}"), id, None, b"x")).await;
        publisher.expect(&ack(0x40, id)).await;
    }
    for (name, action) in [("no-receive", "iot:Receive"), ("no-subscribe", "iot:Subscribe")] {
        let device = gatehouse.device(name, ALL);
        // One message at a time.
        let hello = Hello { properties: vec![0x21, 0, 1], ..Hello::v5(name) };
        let mut raw = gatehouse.join(&device, &hello).await;
        raw.send(&subscribe(5, 1, &[("state/+", 1)])).await;
        raw.expect(&[0x90, 4, 0, 1, 0, 1]).await;
        let first = raw.packet().await.unwrap();
        assert_eq!(first[0], 0x33);
        gatehouse.change(&device, &without(action));
        raw.ping().await;
        raw.send(&ack(0x40, packet_id(&first))).await;
        raw.silence().await;
    }
}

/// The time from the end of the call to the last byte, over many sessions at once.
#[tokio::test]
async fn b2_a_policy_of_a_hundred_devices_changes_within_a_second() {
    let gatehouse = Ground::new().open(Settings { connections_max: 500, ..quiet() }).await;
    let mut devices = Vec::new();
    let first = gatehouse.device("dev-0", ALL);
    let policies = gatehouse.registry.policies();
    let policy = policies.attached_to(&first.id).remove(0);
    for at in 0..100 {
        let name = format!("dev-{at}");
        let device = if at == 0 { first.clone() } else { gatehouse.device(&name, ALL) };
        if at > 0 {
            gatehouse.detach(&device);
            policies.attach(&policy, &device.id).unwrap();
        }
        let mut raw = gatehouse.join(&device, &Hello::v4(&name)).await;
        raw.ping().await;
        devices.push(raw);
    }
    let started = Instant::now();
    gatehouse.change(&first, &ALL[1..]);
    for raw in &mut devices {
        assert_eq!(raw.closed().await, None);
    }
    let took = started.elapsed();
    println!("100 sessions ended {took:?} after the call");
    assert!(took < SECOND, "{took:?}");
}
