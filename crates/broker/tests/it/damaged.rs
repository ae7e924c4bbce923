//! Packets of every kind, cut, stretched and with every bit flipped, over connections in memory.
//!
//! What is to become of each is said by a reader of packets that was written from the standard
//! for this test alone: answered with a reason code it allows and closed, or taken. What is
//! refused leaves nothing behind.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use broker::Broker;
use metastore::Metastore;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::time::timeout;

use crate::hostile::{count_panics, damaged, samples};
use crate::raw::{Hello, ack, packet, publish, subscribe, text, varint};
use crate::support::{MemoryJournal, World};

/// What the standard has become of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    /// It is taken; true if the log gets a message.
    Taken(bool),
    /// The connection ends with one of these.
    Ends(&'static [u8]),
    /// The client leaves.
    Leaves,
}

/// Malformed, or against the protocol: the standard is not always clear which.
const BAD: Fate = Fate::Ends(&[0x81, 0x82]);

/// The same of a PUBLISH, whose alias may be the first of several faults.
const BAD_PUBLISH: Fate = Fate::Ends(&[0x81, 0x82, 0x94]);

/// Takes `bytes` apart from the left; `None` once they do not hold what is asked for.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self, bytes: usize) -> Option<usize> {
        Some(self.take(bytes)?.iter().fold(0, |n, byte| (n << 8) | usize::from(*byte)))
    }

    fn binary(&mut self) -> Option<&'a [u8]> {
        let count = self.number(2)?;
        self.take(count)
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.binary()?).ok().filter(|text| !text.contains('\0'))
    }

    /// A variable byte integer in its shortest form.
    fn length(&mut self) -> Option<usize> {
        let mut length = 0;
        for digit in 0..4 {
            let byte = self.number(1)?;
            length |= (byte & 127) << (7 * digit);
            if byte < 128 {
                return (digit == 0 || byte > 0).then_some(length);
            }
        }
        None
    }

    fn id(&mut self) -> Option<usize> {
        self.number(2).filter(|id| *id > 0)
    }

    /// The properties, all of `allowed` and none twice: identifier and value as a number.
    fn properties(&mut self, allowed: &[u8]) -> Option<Vec<(u8, usize)>> {
        let length = self.length()?;
        let mut block = Reader(self.take(length)?);
        let mut found: Vec<(u8, usize)> = Vec::new();
        while !block.0.is_empty() {
            let id = block.number(1)? as u8;
            let twice = id != 38 && found.iter().any(|(other, _)| *other == id);
            if !allowed.contains(&id) || twice {
                return None;
            }
            let value = match id {
                1 => block.number(1).filter(|format| *format < 2)?,
                2 | 17 => block.number(4)?,
                35 => block.number(2)?,
                11 => block.length().filter(|id| *id > 0)?,
                9 => block.binary().map(|_| 0)?,
                8 => block.text().filter(|topic| !topic.contains(['#', '+'])).map(|_| 0)?,
                38 => block.text().and_then(|_| block.text()).map(|_| 0)?,
                _ => block.text().map(|_| 0)?,
            };
            found.push((id, value));
        }
        Some(found)
    }
}

/// The fate of one packet after CONNECT, on a connection without a session to be kept.
fn judge(new: bool, head: u8, body: &[u8]) -> Option<Fate> {
    let (kind, flags, mut body) = (head >> 4, head & 15, Reader(body));
    let taken = Some(Fate::Taken(false));
    match (kind, flags) {
        (3, _) => {
            let (dup, qos) = (flags & 8 > 0, (flags >> 1) & 3);
            let topic = body.text()?;
            if qos == 3 || (dup && qos == 0) {
                return None;
            }
            if qos > 0 {
                body.id()?;
            }
            let mut alias = None;
            if new {
                let found = body.properties(&[1, 2, 3, 8, 9, 35, 38])?;
                alias = found.into_iter().find(|(id, _)| *id == 35).map(|(_, alias)| alias);
            }
            Some(match alias {
                Some(0 | 17..) => Fate::Ends(&[0x94]),
                Some(_) if topic.is_empty() => Fate::Ends(&[0x94]),
                None if topic.is_empty() => return None,
                _ if topic.contains(['#', '+']) => Fate::Ends(&[0x90]),
                _ => Fate::Taken(true),
            })
        }
        (4 | 5 | 7, 0) | (6, 2) => {
            body.id()?;
            if !body.0.is_empty() && new {
                let code = body.number(1)?;
                let known: &[usize] = match kind {
                    4 | 5 => &[0, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
                    _ => &[0, 0x92],
                };
                if !known.contains(&code) {
                    return None;
                }
                if !body.0.is_empty() {
                    body.properties(&[31, 38])?;
                }
            }
            taken.filter(|_| body.0.is_empty())
        }
        (8, 2) => {
            body.id()?;
            if new {
                body.properties(&[11, 38])?;
            }
            let mut count = 0;
            while !body.0.is_empty() {
                let filter = body.text()?;
                let options = body.number(1)?;
                let reserved = if new { 0xc0 } else { 0xfc };
                let shared = filter.starts_with("$share/") && options & 4 > 0;
                if options & reserved > 0 || options & 3 == 3 || options & 0x30 == 0x30 || shared {
                    return None;
                }
                count += 1;
            }
            taken.filter(|_| count > 0)
        }
        (10, 2) => {
            body.id()?;
            if new {
                body.properties(&[38])?;
            }
            let mut count = 0;
            while !body.0.is_empty() {
                body.text()?;
                count += 1;
            }
            taken.filter(|_| count > 0)
        }
        (12, 0) => taken.filter(|_| body.0.is_empty()),
        (14, 0) if body.0.is_empty() => Some(Fate::Leaves),
        (14, 0) if new => {
            let code = body.number(1)?;
            let known = matches!(code, 0 | 4 | 0x80..=0x83 | 0x87 | 0x89 | 0x8b | 0x8d..=0x90
                | 0x93..=0xa2);
            if !known {
                return None;
            }
            let mut expiry = 0;
            if !body.0.is_empty() {
                let found = body.properties(&[17, 28, 31, 38])?;
                expiry = found.into_iter().map(|(id, v)| if id == 17 { v } else { 0 }).sum();
            }
            Some(Fate::Leaves).filter(|_| body.0.is_empty() && expiry == 0)
        }
        _ => None,
    }
}

/// What becomes of all packets in `bytes`, and how many messages the log gets.
fn judge_all(new: bool, mut bytes: &[u8]) -> (Fate, usize) {
    /// The largest packet with the default settings.
    const PACKET_BYTES_MAX: usize = 128 * 1024 + 80 * 1024;
    let mut logged = 0;
    while let Some((head, rest)) = bytes.split_first() {
        let mut rest = Reader(rest);
        let digits = rest.0.iter().take(4).take_while(|byte| **byte > 127).count();
        if digits == rest.0.len() && digits < 4 {
            break;
        }
        let Some(length) = rest.length() else { return (BAD, logged) };
        if bytes.len() - rest.0.len() + length > PACKET_BYTES_MAX {
            return (Fate::Ends(&[0x95]), logged);
        }
        // Reserved flags are seen before the body is there.
        let flags = match head >> 4 {
            3 => head & 15,
            6 | 8 | 10 => 2,
            _ => 0,
        };
        if head & 15 != flags {
            return (BAD, logged);
        }
        let Some(body) = rest.take(length) else { break };
        let bad = if head >> 4 == 3 { BAD_PUBLISH } else { BAD };
        match judge(new, *head, body).unwrap_or(bad) {
            Fate::Taken(logs) => logged += usize::from(logs),
            end => return (end, logged),
        }
        bytes = rest.0;
    }
    (Fate::Taken(false), logged)
}

const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9);

/// Plays `bytes` to the broker as one connection; gives all that it answers.
async fn play(broker: &Arc<Broker>, bytes: &[u8]) -> Vec<u8> {
    let (mut ours, theirs) = duplex(1 << 20);
    let client = async {
        // It may have gone in the middle of it.
        drop(ours.write_all(bytes).await);
        drop(ours.shutdown().await);
        let mut answer = Vec::new();
        drop(ours.read_to_end(&mut answer).await);
        answer
    };
    let both = async { tokio::join!(broker.serve_stream(theirs, ADDRESS), client).1 };
    timeout(Duration::from_secs(20), both).await.expect("neither answered nor closed")
}

/// More packets than a client sends in a day: what `hostile` knows, and longer ones.
fn sources(level: u8) -> Vec<Vec<u8>> {
    let new = level == 5;
    let mut all = samples(level);
    let user = [&[38][..], &text("key"), &text("value of it")].concat();
    let about = [
        &[1, 1, 2, 0, 0, 1, 0, 3][..],
        &text("text/plain"),
        &[8],
        &text("answers/to/me"),
        &[9],
        &text("correlation"),
        &user,
        &user,
        &[35, 0, 3],
    ]
    .concat();
    let properties = new.then_some(&about[..]);
    for head in [0x31, 0x33, 0x35, 0x3b, 0x3d] {
        all.push(publish(head, "plant/1/line/2/cell/3", 300, properties, b"{\"t\": 21.5}"));
    }
    let filters = [
        ("plant/+/line/#", 2),
        ("a", 1),
        ("$share/group/plant/#", 0),
        ("+/+/+", if new { 0x2d } else { 1 }),
    ];
    all.push(subscribe(level, 4_000, &filters));
    let mut leaves = [&[0, 9][..], if new { &[0] } else { &[] }].concat();
    for filter in ["plant/+/line/#", "a", "never"] {
        leaves.extend(text(filter));
    }
    all.push(packet(0xa2, &leaves));
    // Several packets in one piece.
    all.push(
        [ack(0x62, 3), publish(0x32, "x", 1, new.then_some(&[]), b"y"), packet(0xc0, &[])].concat(),
    );
    if new {
        let marked =
            [&[0, 2][..], &varint(2 + user.len()), &[11, 9], &user, &text("m/+"), &[1]].concat();
        all.push(packet(0x82, &marked));
        let reason = [&[31][..], &text("the reason why"), &user].concat();
        for (head, code) in [(0x40, 0x97), (0x50, 0x10), (0x62, 0), (0x70, 0x92)] {
            let body = [&[1, 0, code][..], &varint(reason.len()), &reason].concat();
            all.push(packet(head, &body));
        }
        let body = [&[4][..], &varint(reason.len() + 5), &[17, 0, 0, 0, 0], &reason].concat();
        all.push(packet(0xe0, &body));
    }
    all
}

/// Two changes at once, of the kinds that one change alone does not reach.
fn damaged_twice(sample: &[u8]) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for first in 0..sample.len() {
        for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
            let mut changed = sample.to_vec();
            changed[first] = value;
            all.push(changed.clone());
            for step in [1, 3, 7, 13, 31] {
                let mut twice = changed.clone();
                let second = (first * step + usize::from(value) + 1) % sample.len();
                twice[second] ^= 1 << (first % 8);
                all.push(twice);
            }
        }
    }
    all
}

async fn n3(stride: usize) -> usize {
    let journal = Arc::<MemoryJournal>::default();
    let store = Metastore::in_memory().unwrap();
    let world = World::retaining(Default::default(), Arc::clone(&journal), &store).await;
    let panics = count_panics();
    let mut count = 0;
    for level in [4, 5] {
        let new = level == 5;
        let hello = Hello { level, ..Hello::v4("damaged") }.bytes();
        let damage = |sample: &Vec<u8>| [damaged(sample), damaged_twice(sample)].concat();
        let all = sources(level).iter().flat_map(damage).collect::<Vec<_>>();
        for bytes in all.iter().step_by(stride) {
            count += 1;
            let before = journal.appended();
            let answer = play(&world.broker, &[&hello[..], bytes].concat()).await;
            let (fate, logged) = judge_all(new, bytes);
            assert_eq!(journal.appended() - before, logged, "messages logged of {bytes:02x?}");
            // The last packet, if it is a DISCONNECT: the code is behind its length.
            let end = split(&answer).last().filter(|last| last[0] == 0xe0).map(|last| last[2]);
            match fate {
                Fate::Ends(codes) if new => {
                    let code = end.unwrap_or_else(|| panic!("{bytes:02x?} ends without a word"));
                    assert!(
                        codes.contains(&code),
                        "{bytes:02x?} ends with {code:#x}: {codes:02x?}"
                    );
                }
                _ => assert_eq!(end, None, "{bytes:02x?} is in order"),
            }
        }
    }
    assert_eq!(panics.load(std::sync::atomic::Ordering::SeqCst), 0);
    // Nothing is left of anybody.
    assert_eq!(world.broker.stats().sessions, 0);
    world.close().await;
    count
}

fn split(mut answer: &[u8]) -> Vec<&[u8]> {
    let mut packets = Vec::new();
    while answer.len() > 1 {
        let mut rest = Reader(&answer[1..]);
        let length = rest.length().unwrap();
        let (packet, rest) = answer.split_at(answer.len() - rest.0.len() + length);
        packets.push(packet);
        answer = rest;
    }
    packets
}

#[tokio::test]
async fn n3_damaged_packets_are_answered_as_the_standard_says_and_change_nothing() {
    let count = n3(9).await;
    assert!(count > 6_000, "{count}");
}

#[tokio::test]
#[ignore = "long"]
async fn n3_long_every_damaged_packet_is_answered_as_the_standard_says() {
    let count = n3(1).await;
    println!("{count} damaged packets");
    assert!(count > 60_000, "{count}");
}

// ---- mutation ----

/// A xorshift generator: the same packets in every run of a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }
}

/// What a fuzzer does to its corpus: flips, stretches, cuts, doubles, splices.
fn mutate(dice: &mut Dice, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[dice.roll(corpus.len())].clone();
    for _ in 0..=dice.roll(4) {
        if bytes.is_empty() {
            break;
        }
        let at = dice.roll(bytes.len());
        match dice.roll(7) {
            0 => bytes[at] ^= 1 << dice.roll(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][dice.roll(5)],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, dice.roll(256) as u8),
            4 => drop(bytes.remove(at)),
            5 => {
                let piece = bytes[at..(at + 1 + dice.roll(16)).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => {
                let other = &corpus[dice.roll(corpus.len())];
                bytes.extend_from_slice(&other[dice.roll(other.len())..]);
            }
        }
    }
    bytes
}

#[tokio::test]
async fn n6_mutated_conversations_neither_panic_nor_linger() {
    const SEED: u64 = 0x5eed_0001;
    let world = World::new().await;
    let panics = count_panics();
    let mut corpus = Vec::new();
    for level in [4, 5] {
        let plain = Hello { level, ..Hello::v4("fuzz") };
        let kept = plain.clone().kept();
        let willing = Hello { will: Some(("w", "gone", 1)), ..plain.clone() };
        for hello in [plain, kept, willing] {
            for source in sources(level) {
                corpus.push([hello.bytes(), source].concat());
            }
            let all =
                sources(level).into_iter().filter(|packet| packet[0] != 0xe0).collect::<Vec<_>>();
            corpus.push([hello.bytes(), all.concat()].concat());
        }
    }
    let (mut dice, started, mut count) = (Dice(SEED), Instant::now(), 0_u32);
    while started.elapsed() < Duration::from_secs(4) {
        let bytes = mutate(&mut dice, &corpus);
        let from = Instant::now();
        play(&world.broker, &bytes).await;
        let took = from.elapsed();
        assert!(
            took < Duration::from_secs(1),
            "{took:?} for {bytes:02x?} (seed {SEED:#x}, {count})"
        );
        count += 1;
    }
    assert_eq!(panics.load(std::sync::atomic::Ordering::SeqCst), 0);
    assert!(count > 2_000, "only {count}");
    println!("{count} mutated conversations");
}
