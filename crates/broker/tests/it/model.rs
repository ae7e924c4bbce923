//! Programs of two clients at random, against a small model of a broker written from the
//! standard: what the model delivers is delivered, and nothing else.
//!
//! After each step everybody waits for a message that was published behind it, so that what has
//! not come by then does not come: a subscriber gets its messages in the order of the log.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use base::TopicFilter;
use broker::Settings;
use metastore::Metastore;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio::time::timeout;

use crate::raw::{Hello, Raw, SOON, ack, packet, publish, text, varint};
use crate::support::{MemoryJournal, World};

const NAMES: [&str; 2] = ["ann", "bob"];
const TOPICS: [&str; 5] = ["a", "a/b", "a/b/c", "b", "a/"];
const FILTERS: [&str; 7] = ["a", "a/#", "a/+", "+/b", "+", "b", "a/b/c"];
/// The topic of the shared subscription; no other filter selects it.
const SHARED: &str = "shared/x/y/z";
const SHARE: &str = "$share/g/shared/x/y/z";
const FENCE: &str = "fence/of/the/step";

#[derive(Clone, Debug)]
struct Will {
    topic: usize,
    qos: u8,
    retain: bool,
}

#[derive(Clone, Debug)]
enum Step {
    /// Also while connected: the newer connection takes over.
    Connect {
        who: usize,
        new: bool,
        clean: bool,
        kept: bool,
        will: Option<Will>,
    },
    /// Says DISCONNECT, on MQTT 5 perhaps so that the will is published.
    Leave {
        who: usize,
        with_will: bool,
    },
    /// Is gone without a word.
    Vanish {
        who: usize,
    },
    Subscribe {
        who: usize,
        filter: usize,
        qos: u8,
        no_local: bool,
        as_published: bool,
        handling: u8,
    },
    Unsubscribe {
        who: usize,
        filter: usize,
    },
    Publish {
        who: usize,
        topic: usize,
        qos: u8,
        retain: bool,
        empty: bool,
    },
    Share {
        who: usize,
        join: bool,
    },
    PublishShared {
        who: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let will = (0..TOPICS.len(), 0..=2_u8, any::<bool>()).prop_map(|(topic, qos, retain)| Will {
        topic,
        qos,
        retain,
    });
    let connect = (0..2_usize, any::<bool>(), any::<bool>(), any::<bool>(), prop::option::of(will))
        .prop_map(|(who, new, clean, kept, will)| Step::Connect { who, new, clean, kept, will });
    let subscribe =
        (0..2_usize, 0..FILTERS.len(), 0..=2_u8, any::<bool>(), any::<bool>(), 0..=2_u8).prop_map(
            |(who, filter, qos, no_local, as_published, handling)| Step::Subscribe {
                who,
                filter,
                qos,
                no_local,
                as_published,
                handling,
            },
        );
    let publish =
        (0..2_usize, 0..TOPICS.len(), 0..=2_u8, any::<bool>(), prop::bool::weighted(0.15))
            .prop_map(|(who, topic, qos, retain, empty)| Step::Publish {
                who,
                topic,
                qos,
                retain,
                empty,
            });
    prop_oneof![
        4 => connect,
        1 => (0..2_usize, any::<bool>()).prop_map(|(who, with_will)| Step::Leave { who, with_will }),
        1 => (0..2_usize).prop_map(|who| Step::Vanish { who }),
        4 => subscribe,
        1 => (0..2_usize, 0..FILTERS.len()).prop_map(|(who, filter)| Step::Unsubscribe { who, filter }),
        6 => publish,
        1 => (0..2_usize, prop::bool::weighted(0.8)).prop_map(|(who, join)| Step::Share { who, join }),
        2 => (0..2_usize).prop_map(|who| Step::PublishShared { who }),
    ]
}

// ---- the model ----

/// What a client gets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Got {
    topic: String,
    payload: String,
    qos: u8,
    retain: bool,
}

#[derive(Clone, Debug)]
struct Subscription {
    qos: u8,
    no_local: bool,
    as_published: bool,
}

#[derive(Clone, Debug, Default)]
struct Session {
    subscriptions: BTreeMap<usize, Subscription>,
    in_group: bool,
    /// Kept for its client while it is away.
    queue: Vec<Got>,
}

#[derive(Clone, Debug, Default)]
struct Client {
    /// `None`: there is no session.
    session: Option<Session>,
    connected: bool,
    /// The session outlives the connection.
    kept: bool,
    will: Option<Will>,
}

#[derive(Debug, Default)]
struct Model {
    clients: [Client; 2],
    /// By topic: payload, quality of service and who published.
    retained: BTreeMap<String, (String, u8, usize)>,
    /// Records that the log must have.
    logged: usize,
    /// What each is to get in this step.
    due: [Vec<Got>; 2],
    /// Shared messages, due to anybody who is connected.
    shared: Vec<String>,
}

impl Model {
    fn publish(&mut self, who: usize, topic: &str, payload: &str, qos: u8, retain: bool) {
        self.logged += 1;
        if retain && payload.is_empty() {
            self.retained.remove(topic);
        } else if retain {
            self.retained.insert(topic.into(), (payload.into(), qos, who));
        }
        for (at, client) in self.clients.iter_mut().enumerate() {
            let Some(session) = &mut client.session else { continue };
            let selecting: Vec<_> = session
                .subscriptions
                .iter()
                .filter(|(filter, s)| {
                    selects(FILTERS[**filter], topic) && !(s.no_local && at == who)
                })
                .map(|(_, s)| s.clone())
                .collect();
            // Once for all of them, at the highest quality of service (3.3.4).
            let Some(qos) = selecting.iter().map(|s| s.qos.min(qos)).max() else { continue };
            let retain = retain && selecting.iter().any(|s| s.as_published);
            let got = Got { topic: topic.into(), payload: payload.into(), qos, retain };
            if client.connected {
                self.due[at].push(got);
            } else if qos > 0 {
                session.queue.push(got);
            }
        }
    }

    fn end(&mut self, who: usize, will: bool) {
        let client = &mut self.clients[who];
        client.connected = false;
        if !client.kept {
            client.session = None;
        }
        self.drop_share();
        if let Some(will) = self.clients[who].will.take().filter(|_| will) {
            self.publish(who, TOPICS[will.topic], &format!("will of {who}"), will.qos, will.retain);
        }
    }

    /// A group without members is over, and what waited for it is gone.
    fn drop_share(&mut self) {
        let members = self.clients.iter().filter_map(|client| client.session.as_ref());
        if !members.into_iter().any(|session| session.in_group) {
            self.shared.clear();
        }
    }

    /// Whether somebody is there to take shared messages.
    fn attended(&self) -> bool {
        let here = self.clients.iter().filter(|client| client.connected);
        here.filter_map(|client| client.session.as_ref()).any(|session| session.in_group)
    }
}

fn selects(filter: &str, topic: &str) -> bool {
    TopicFilter::parse(filter).unwrap().matches(topic)
}

// ---- the system ----

/// One connection, its acknowledgements given at once.
struct Line {
    raw: Raw,
    new: bool,
    got: Vec<Got>,
    /// QoS 2 messages not yet released.
    open: HashSet<u16>,
}

impl Line {
    async fn take(&mut self) -> Option<Vec<u8>> {
        let packet = self.raw.packet().await?;
        match packet[0] >> 4 {
            3 => {
                let (got, id) = read(self.new, &packet);
                match got.qos {
                    1 => self.raw.send(&ack(0x40, id)).await,
                    2 => {
                        self.open.insert(id);
                        self.raw.send(&ack(0x50, id)).await;
                    }
                    _ => {}
                }
                self.got.push(got);
            }
            6 => {
                let id = u16::from_be_bytes([packet[2], packet[3]]);
                self.open.remove(&id);
                self.raw.send(&ack(0x70, id)).await;
            }
            _ => {}
        }
        Some(packet)
    }

    /// Takes packets until one begins like this.
    async fn until(&mut self, head: u8) -> Vec<u8> {
        loop {
            let packet = self.take().await.expect("closed");
            if packet[0] == head {
                return packet;
            }
        }
    }

    /// Takes everything up to the fence with this payload, and what QoS 2 still has to say.
    async fn settle(&mut self, fence: &str) {
        while !self.got.iter().any(|got| got.topic == FENCE && got.payload == fence) {
            self.take().await.expect("closed before the fence");
        }
        self.got.retain(|got| got.topic != FENCE);
        while !self.open.is_empty() {
            self.take().await.expect("closed in the middle of QoS 2");
        }
        self.raw.send(&[0xc0, 0]).await;
        self.until(0xd0).await;
    }
}

fn read(new: bool, packet: &[u8]) -> (Got, u16) {
    assert_eq!(packet[0] & 8, 0, "nothing is sent twice here: {packet:02x?}");
    let qos = (packet[0] >> 1) & 3;
    let body = &packet[2..];
    let (topic, mut rest) = body[2..].split_at(usize::from(body[1]));
    let mut id = 0;
    if qos > 0 {
        id = u16::from_be_bytes([rest[0], rest[1]]);
        rest = &rest[2..];
    }
    if new {
        rest = &rest[1 + usize::from(rest[0])..];
    }
    let words = |bytes: &[u8]| String::from_utf8(bytes.to_owned()).unwrap();
    let got = Got { topic: words(topic), payload: words(rest), qos, retain: packet[0] & 1 > 0 };
    (got, id)
}

struct System {
    world: World,
    journal: Arc<MemoryJournal>,
    lines: [Option<Line>; 2],
    fencer: Raw,
    fences: usize,
    payloads: usize,
}

impl System {
    async fn start() -> System {
        let journal = Arc::<MemoryJournal>::default();
        let store = Metastore::in_memory().unwrap();
        let world = World::retaining(Settings::default(), Arc::clone(&journal), &store).await;
        let fencer = Raw::join(world.address, &Hello::v4("fencer")).await;
        System { world, journal, lines: [None, None], fencer, fences: 0, payloads: 0 }
    }

    fn payload(&mut self) -> String {
        self.payloads += 1;
        self.payloads.to_string()
    }

    async fn step(&mut self, step: &Step, model: &mut Model) {
        match step {
            Step::Connect { who, new, clean, kept, will } => {
                self.connect(model, *who, *new, *clean, *kept, will.as_ref()).await;
            }
            Step::Leave { who, with_will } => {
                let Some(mut line) = self.lines[*who].take() else { return };
                let with_will = *with_will && line.new;
                let leave = if with_will { packet(0xe0, &[4, 0]) } else { packet(0xe0, &[]) };
                line.raw.send(&leave).await;
                assert_eq!(line.raw.closed().await, None);
                model.end(*who, with_will);
            }
            Step::Vanish { who } => {
                if self.lines[*who].take().is_some() {
                    let gone = |w: &World| {
                        let sessions = w.broker.sessions();
                        !sessions.iter().any(|s| s.client_id == NAMES[*who] && s.connected)
                    };
                    self.world.until("the broker has noticed", gone).await;
                    model.end(*who, true);
                }
            }
            Step::Subscribe { who, filter, qos, no_local, as_published, handling } => {
                let Some(line) = &mut self.lines[*who] else { return };
                // MQTT 3.1.1 has none of the options.
                let (no_local, as_published, handling) = if line.new {
                    (*no_local, *as_published, *handling)
                } else {
                    (false, false, 0)
                };
                let options = qos
                    | (u8::from(no_local) << 2)
                    | (u8::from(as_published) << 3)
                    | (handling << 4);
                subscribe(line, FILTERS[*filter], options).await;
                let session = model.clients[*who].session.as_mut().unwrap();
                let subscription = Subscription { qos: *qos, no_local, as_published };
                let known = session.subscriptions.insert(*filter, subscription).is_some();
                if handling == 2 || (handling == 1 && known) {
                    return;
                }
                for (topic, (payload, published, publisher)) in &model.retained {
                    if selects(FILTERS[*filter], topic) && !(no_local && publisher == who) {
                        let qos = *published.min(qos);
                        let (topic, payload) = (topic.clone(), payload.clone());
                        model.due[*who].push(Got { topic, payload, qos, retain: true });
                    }
                }
            }
            Step::Unsubscribe { who, filter } => {
                let Some(line) = &mut self.lines[*who] else { return };
                let session = model.clients[*who].session.as_mut().unwrap();
                let known = session.subscriptions.remove(filter).is_some();
                unsubscribe(line, FILTERS[*filter], known).await;
            }
            Step::Publish { who, topic, qos, retain, empty } => {
                let payload = if *empty { String::new() } else { self.payload() };
                let Some(line) = &mut self.lines[*who] else { return };
                send(line, TOPICS[*topic], &payload, *qos, *retain).await;
                model.publish(*who, TOPICS[*topic], &payload, *qos, *retain);
            }
            Step::Share { who, join } => {
                let Some(line) = &mut self.lines[*who] else { return };
                let session = model.clients[*who].session.as_mut().unwrap();
                let known = std::mem::replace(&mut session.in_group, *join);
                if *join {
                    subscribe(line, SHARE, 1).await;
                } else {
                    unsubscribe(line, SHARE, known).await;
                }
                model.drop_share();
            }
            Step::PublishShared { who } => {
                let payload = self.payload();
                let Some(line) = &mut self.lines[*who] else { return };
                send(line, SHARED, &payload, 1, false).await;
                model.logged += 1;
                let members = model.clients.iter().filter_map(|client| client.session.as_ref());
                if members.into_iter().any(|session| session.in_group) {
                    model.shared.push(payload);
                }
            }
        }
    }

    async fn connect(
        &mut self,
        model: &mut Model,
        who: usize,
        new: bool,
        clean: bool,
        kept: bool,
        will: Option<&Will>,
    ) {
        let level = if new { 5 } else { 4 };
        // On 3.1.1 one flag says both.
        let kept = if new { kept } else { !clean };
        let message = format!("will of {who}");
        let hello = Hello {
            clean,
            properties: if kept { vec![17, 0, 0, 1, 0] } else { Vec::new() },
            ..Hello { level, ..Hello::v4(NAMES[who]) }
        };
        let mut bytes = hello.bytes();
        if let Some(will) = will {
            bytes = with_will(&hello, TOPICS[will.topic], &message, will);
        }
        let mut raw = Raw::open(self.world.address).await;
        raw.send(&bytes).await;
        let connack = raw.packet().await.expect("no CONNACK");
        if model.clients[who].connected {
            model.end(who, true);
        }
        let client = &mut model.clients[who];
        let session = client.session.take().filter(|_| !clean);
        assert_eq!(connack[2] == 1, session.is_some(), "session present: {connack:02x?}");
        let is_new = session.is_none();
        let mut session = session.unwrap_or_default();
        model.due[who].append(&mut session.queue);
        *client = Client { session: Some(session), connected: true, kept, will: will.cloned() };
        model.drop_share();
        let mut line = Line { raw, new, got: Vec::new(), open: HashSet::new() };
        if is_new {
            subscribe(&mut line, FENCE, 0).await;
        }
        self.lines[who] = Some(line);
    }

    /// Waits until everything of this step is through, and compares.
    async fn compare(&mut self, model: &mut Model) {
        let what = "the log has what the model has";
        self.world.until(what, |w| w.journal.appended() >= model.logged).await;
        self.fences += 1;
        let fence = self.fences.to_string();
        self.fencer.send(&publish(0x32, FENCE, 1, None, fence.as_bytes())).await;
        self.fencer.expect(&ack(0x40, 1)).await;
        model.logged += 1;
        assert_eq!(self.journal.appended(), model.logged, "records in the log");
        let mut shared = Vec::new();
        for (at, line) in self.lines.iter_mut().enumerate() {
            let Some(line) = line else { continue };
            line.settle(&fence).await;
            let (of_group, mut got): (Vec<_>, Vec<_>) =
                std::mem::take(&mut line.got).into_iter().partition(|got| got.topic == SHARED);
            shared.extend(of_group.into_iter().map(|got| got.payload));
            let mut due = std::mem::take(&mut model.due[at]);
            // Retained messages come in any order.
            got.sort();
            due.sort();
            assert_eq!(got, due, "what {} got, and what it should have", NAMES[at]);
        }
        if !model.attended() {
            assert!(shared.is_empty(), "shared messages to nobody: {shared:?}");
            return;
        }
        // A group has a task of its own, which the fence does not stand behind.
        let deadline = tokio::time::Instant::now() + SOON;
        while shared.len() < model.shared.len() {
            assert!(tokio::time::Instant::now() < deadline, "{shared:?} of {:?}", model.shared);
            for line in self.lines.iter_mut().flatten() {
                while let Ok(Some(_)) = timeout(Duration::from_millis(5), line.take()).await {}
                shared.extend(line.got.drain(..).map(|got| got.payload));
            }
        }
        let (got, due): (BTreeSet<_>, BTreeSet<_>) =
            (shared.iter().cloned().collect(), model.shared.drain(..).collect());
        assert_eq!(shared.len(), got.len(), "a shared message came twice: {shared:?}");
        assert_eq!(got, due, "shared messages");
    }
}

fn with_will(hello: &Hello<'_>, topic: &str, message: &str, will: &Will) -> Vec<u8> {
    let flags = 4 | (will.qos << 3) | (u8::from(will.retain) << 5) | u8::from(hello.clean) << 1;
    let mut body = [&text("MQTT")[..], &[hello.level, flags, 0, 60]].concat();
    if hello.level == 5 {
        body.extend(varint(hello.properties.len()));
        body.extend(&hello.properties);
    }
    body.extend(text(hello.id));
    if hello.level == 5 {
        body.push(0);
    }
    body.extend([text(topic), text(message)].concat());
    packet(0x10, &body)
}

async fn subscribe(line: &mut Line, filter: &str, options: u8) {
    line.raw
        .send(&crate::raw::subscribe(if line.new { 5 } else { 4 }, 7, &[(filter, options)]))
        .await;
    let suback = line.until(0x90).await;
    assert_eq!(suback.last(), Some(&(options & 3)), "{filter}: {suback:02x?}");
}

async fn unsubscribe(line: &mut Line, filter: &str, known: bool) {
    let body = [if line.new { &[0, 7, 0][..] } else { &[0, 7] }, &text(filter)].concat();
    line.raw.send(&packet(0xa2, &body)).await;
    let unsuback = line.until(0xb0).await;
    if line.new {
        assert_eq!(unsuback.last(), Some(&if known { 0 } else { 0x11 }), "{filter}");
    }
}

async fn send(line: &mut Line, topic: &str, payload: &str, qos: u8, retain: bool) {
    let head = 0x30 | (qos << 1) | u8::from(retain);
    let properties = line.new.then_some(&[][..]);
    line.raw.send(&publish(head, topic, 7, properties, payload.as_bytes())).await;
    match qos {
        0 => {}
        1 => drop(line.until(0x40).await),
        _ => {
            line.until(0x50).await;
            line.raw.send(&ack(0x62, 7)).await;
            line.until(0x70).await;
        }
    }
}

fn programs(count: u32) {
    let config = ProptestConfig { cases: count, failure_persistence: None, ..Default::default() };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let steps = prop::collection::vec(step(), 1..25);
    TestRunner::new(config)
        .run(&steps, |steps| {
            runtime.block_on(async {
                let (mut system, mut model) = (System::start().await, Model::default());
                for step in &steps {
                    system.step(step, &mut model).await;
                    system.compare(&mut model).await;
                }
                // Whoever is still there would be waited for.
                let System { mut world, lines, fencer, .. } = system;
                drop((lines, fencer));
                world.stop().await.unwrap();
            });
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn n7_what_two_clients_get_is_what_a_model_of_the_standard_delivers() {
    programs(200);
}

#[test]
#[ignore = "long"]
fn n7_long_what_two_clients_get_is_what_a_model_of_the_standard_delivers() {
    programs(2_000);
}
