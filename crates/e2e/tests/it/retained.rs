//! Kills under load: what is retained is never older than what was acknowledged.
//!
//! Every topic belongs to one publisher, so its messages have an order. After a kill a new
//! subscriber must be given, of each topic, the last acknowledged state or a later one that was
//! still under way; a deletion is a state too.

use std::collections::{BTreeMap, HashMap};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use e2e::{Random, Server, mqtt};

/// Publishers, and the PUBLISHes each keeps unacknowledged.
const WINDOWS: [usize; 4] = [100, 37, 5, 1];
/// Topics of each publisher: few, so that each is replaced often.
const TOPICS: u64 = 20;

/// What a topic holds: the number of its message, or nothing.
type State = Option<u64>;

/// What became of one topic since it was last looked at.
#[derive(Debug)]
struct History {
    /// The state that was seen last, then everything handed to the socket.
    states: Vec<State>,
    /// Index of the last one that is promised.
    promised: usize,
}

impl History {
    fn from(seen: State) -> History {
        History { states: vec![seen], promised: 0 }
    }

    fn allows(&self, seen: State) -> bool {
        self.states[self.promised..].contains(&seen)
    }
}

/// Numbered, so that no two are alike; some long, so that records straddle the log's blocks.
fn payload(number: u64) -> Vec<u8> {
    let filler = if number.is_multiple_of(20) { number.wrapping_mul(7919) % 4000 } else { 0 };
    format!("{number} {}", "x".repeat(usize::try_from(filler).unwrap())).into_bytes()
}

fn number(payload: &[u8]) -> u64 {
    let text = String::from_utf8(payload.to_vec()).unwrap();
    let number = text.split(' ').next().unwrap().parse().unwrap();
    assert_eq!(payload, self::payload(number), "a retained message is not what was published");
    number
}

/// Replaces and deletes what is retained under its topics until the broker goes away.
fn keep_publishing(
    broker: SocketAddr,
    publisher: u64,
    window: usize,
    random: &mut Random,
    next: &mut u64,
    topics: &mut BTreeMap<String, History>,
) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(broker)?;
    stream.set_nodelay(true)?;
    stream.write_all(&mqtt::connect(&format!("keeper-{publisher}")))?;
    let mut connack = [0; 4];
    stream.read_exact(&mut connack)?;
    assert_eq!(connack, [0x20, 2, 0, 0]);
    stream.set_read_timeout(Some(Duration::from_millis(2)))?;
    let (mut packet_id, mut in_flight, mut input) = (0u16, HashMap::new(), Vec::new());
    loop {
        let mut burst = Vec::new();
        while in_flight.len() < window {
            packet_id = packet_id.checked_add(1).unwrap_or(1);
            let topic = format!("kept/{publisher}/{}", random.below(TOPICS));
            let state = (random.below(4) > 0).then_some(*next);
            *next += 1;
            let payload = state.map(payload).unwrap_or_default();
            burst.extend(mqtt::retain_packet(&topic, packet_id, &payload));
            let history = topics.entry(topic.clone()).or_insert_with(|| History::from(None));
            history.states.push(state);
            in_flight.insert(packet_id, (topic, history.states.len() - 1));
        }
        stream.write_all(&burst)?;
        let mut bytes = [0; 4096];
        match stream.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(count) => input.extend_from_slice(&bytes[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
        while let [0x40, 2, high, low, ..] = input[..] {
            let (topic, index) = in_flight.remove(&u16::from_be_bytes([high, low])).unwrap();
            let history = topics.get_mut(&topic).unwrap();
            history.promised = history.promised.max(index);
            input.drain(..4);
        }
    }
}

/// What one publisher knows, from round to round.
struct Keeper {
    publisher: u64,
    random: Random,
    next: u64,
    topics: BTreeMap<String, History>,
}

#[derive(Debug, Default)]
struct Counts {
    sent: usize,
    acknowledged: usize,
    /// Topics whose last acknowledged state is a deletion.
    deleted: usize,
    /// Topics that hold something newer than the last acknowledged state.
    newer: usize,
    hits: usize,
}

/// Compares what a new subscriber is given with what the publishers know, and goes on from there.
fn settle(server: &Server, keepers: &mut [Keeper], counts: &mut Counts, what: &str) {
    let given = mqtt::retained(server.mqtt, "newcomer", "kept/#").unwrap();
    let mut seen: HashMap<String, u64> = HashMap::new();
    for (topic, payload) in given {
        let twice = seen.insert(topic.clone(), number(&payload));
        assert_eq!(twice, None, "{what}: {topic} came twice");
    }
    let mut under_way = 0;
    for (topic, history) in keepers.iter_mut().flat_map(|keeper| &mut keeper.topics) {
        let state = seen.remove(topic);
        assert!(
            history.allows(state),
            "{what}: {topic} holds {state:?}; promised was {:?}, still under way {:?}",
            history.states[history.promised],
            &history.states[history.promised + 1..]
        );
        counts.sent += history.states.len() - 1;
        counts.acknowledged += history.promised;
        counts.deleted += usize::from(history.states[history.promised].is_none());
        counts.newer += usize::from(history.states[history.promised] != state);
        under_way += history.states.len() - 1 - history.promised;
        // What was shown once is promised as well: it may not be taken back by the next kill.
        *history = History::from(state);
    }
    counts.hits += usize::from(under_way > 0);
    assert!(seen.is_empty(), "{what}: retained, and nobody published it: {seen:?}");
}

fn kills(count: u64) {
    let seed = e2e::seed(3);
    let mut random = Random(seed);
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let mut keepers: Vec<Keeper> = (0..WINDOWS.len() as u64)
        .map(|publisher| Keeper {
            publisher,
            random: Random(seed ^ (publisher + 1)),
            next: 0,
            topics: BTreeMap::new(),
        })
        .collect();
    let mut counts = Counts::default();
    let mut server = Server::start(&data_dir);
    for round in 0..count {
        // Rows are written every half second: before the first time, and around later ones.
        let moment = Duration::from_millis(50 + random.below(700) + round % 2 * 700);
        let broker = server.mqtt;
        std::thread::scope(|scope| {
            for (keeper, window) in keepers.iter_mut().zip(WINDOWS) {
                scope.spawn(move || {
                    let Keeper { publisher, random, next, topics } = keeper;
                    // It ends with the broker.
                    drop(keep_publishing(broker, *publisher, window, random, next, topics));
                });
            }
            std::thread::sleep(moment);
            server.kill();
        });
        drop(server);
        server = Server::start(&data_dir);
        let what = format!("round {round}, seed {seed} (replay with FOREBAY_TEST_SEED={seed})");
        settle(&server, &mut keepers, &mut counts, &what);
    }
    println!("retained under kill -9: {count} rounds, {counts:?}, seed {seed}");
    assert!(counts.acknowledged > 1_000, "hardly anything was under load: {counts:?}");
    assert!(counts.deleted > 0 && counts.newer > 0, "too tame: {counts:?}");
    assert!(counts.hits as u64 * 10 >= count * 8, "few kills hit messages under way: {counts:?}");
}

#[test]
fn what_is_older_than_the_promise_is_noticed() {
    let mut history = History::from(Some(1));
    history.states.extend([Some(2), None, Some(3)]);
    let allowed = |history: &History| [Some(1), Some(2), None, Some(3)].map(|s| history.allows(s));
    assert_eq!(allowed(&history), [true, true, true, true]);
    history.promised = 2;
    assert_eq!(allowed(&history), [false, false, true, true]);
    history.promised = 3;
    assert_eq!(allowed(&history), [false, false, false, true]);
}

#[test]
fn a6_kill_9_under_load_keeps_the_last_acknowledged_retained_message() {
    kills(5);
}

#[test]
#[ignore = "long: 60 rounds"]
fn a6_long_60_kills_keep_retained_messages() {
    kills(60);
}
