//! One connected client: moves bytes between its socket, the journal and its feed.
//!
//! One poll function, called by its shard, so that an idle connection is a few hundred bytes: it
//! waits with no buffer, reads into a buffer of the thread, and keeps only what is unfinished.
//!
//! Invariants
//! * An acknowledgement leaves only when the journal's bell says that its record is durable;
//!   acknowledgements leave in the order of the messages they answer.
//! * All messages of one read are handed to the journal at once. Waiting for them does not stop
//!   the reading, up to the receive maximum.
//! * When the journal is full the socket is not read, and nothing that was read is dropped.
//! * When the journal failed, nothing more is acknowledged and the connection ends.
//! * The session goes back to the registry exactly once, also after a panic.

mod deliver;
mod receive;
mod stable;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::mem;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use base::{Error, Offset, QoS, Timestamp, TopicFilter};
use bytes::Bytes;
use journal::{Batch, Bell};
use mqtt_protocol_core::mqtt::result_code::DisconnectReasonCode as Code;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::task::JoinHandle;
use tokio::time::{sleep_until, timeout};
use tracing::{debug, error, info};

use crate::auth::Explanation;
use crate::codec::{self, Fault, Frame, Version, Will, ack, kind};
use crate::events::Presence;
use crate::feed::Feed;
use crate::hub::Delivery;
use crate::rate::Rate;
use crate::rights::Held;
use crate::session::{InFlight, Origin, Session};
use crate::sessions::{Departed, Kick, Link};
use crate::share::Share;
use crate::{Broker, Concern, subscription};
use deliver::Aliases;
use stable::{Promise, Stable};

/// A socket, plain or encrypted.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Transport for T {}

/// Bytes read at once, into a buffer shared by all connections of a thread.
const READ_BYTES: usize = 64 * 1024;

/// Bytes that may wait for a peer that does not read; beyond, it is neither read nor fed.
const BACKLOG_BYTES_MAX: usize = 64 * 1024;

/// How often a full journal is asked again.
const RETRY: Duration = Duration::from_millis(20);

/// Turns of the poll function before other connections get theirs.
const TURNS_MAX: usize = 16;

/// Retained messages that a session remembers for a client that went before it got them: well
/// below the number of packet ids.
const OWED_MAX: usize = 32 * 1024;

/// How long a last DISCONNECT may take to leave.
const GOODBYE_TIME_MAX: Duration = Duration::from_secs(1);

pub(crate) struct Connection {
    pub(crate) broker: Arc<Broker>,
    stream: Box<dyn Transport>,
    pub(crate) version: Version,
    pub(crate) link: Arc<Link>,
    pub(crate) session: Session,
    feed: Feed,
    // What an idle client does not need is behind a pointer, here and below.
    pub(crate) will: Option<Box<Will>>,
    pub(crate) rights: Held,
    /// What is said with the acknowledgements of `due` that say why they refuse, in their order.
    #[expect(clippy::box_collection, reason = "a pointer while there is none")]
    reasons: Option<Box<VecDeque<String>>>,
    /// Whether acknowledgements may say why they refuse.
    says_why: bool,
    /// Largest packet the client takes.
    packet_bytes_max: usize,
    /// QoS 1 and 2 messages that may be on their way to the client.
    window: usize,
    keep_alive: Duration,
    heard_at: Instant,
    /// When it was last sent something.
    answered_at: Instant,
    /// When it wants to be polled though nothing happened.
    deadline: Instant,
    /// Rung when our records are durable; made with the first message.
    bell: Option<Arc<Bell>>,
    /// Acknowledgements that wait for durability, in the order they must leave.
    due: VecDeque<Due>,
    /// How many of `due` are PUBACKs.
    due_pubacks: usize,
    /// Set while `due` holds an offset that was logged by an earlier connection, for which our
    /// bell does not ring.
    due_of_others: bool,
    /// A batch that the full journal did not take.
    held: Option<Box<Work>>,
    /// Set while the socket is not read because the journal has no room.
    held_back: bool,
    /// Bytes read and not used: the start of a packet, or packets that must wait.
    partial: Vec<u8>,
    /// Whether `partial` holds packets that may be processed without reading more.
    unread: bool,
    out: Vec<u8>,
    out_at: usize,
    unflushed: bool,
    #[expect(clippy::box_collection, reason = "a pointer while there is none")]
    aliases: Option<Box<Vec<Option<Arc<str>>>>>,
    /// Topics that have an alias towards the client; `None` if it takes none.
    aliases_out: Option<Box<Aliases>>,
    presence: Presence,
    /// `None`: it may publish as fast as it likes.
    rate: Option<Box<Rate>>,
    /// Whether any of its subscriptions has an identifier.
    identified: bool,
    /// Bytes of all its filters.
    filter_bytes: usize,
    /// `None`: the session ends with the connection.
    stable: Option<Box<Stable>>,
    /// Which of its shared subscriptions is looked at first for the next message.
    share_turn: usize,
    /// What the client gets before anything new.
    owed: Option<Box<Owed>>,
    /// Set at shutdown: what is due goes out, nothing else happens.
    closing: bool,
    released: bool,
}

/// What a client gets before anything new.
#[derive(Default)]
struct Owed {
    /// Messages in flight from an earlier connection, to be sent again or at last.
    resend: VecDeque<InFlight>,
    /// The one that is being read from the log.
    resending: Option<(InFlight, JoinHandle<Option<Bytes>>)>,
    /// Retained messages due to new subscriptions, a few of them.
    welcome: VecDeque<(Delivery, Origin)>,
    /// Whence the others come.
    greetings: VecDeque<Greeting>,
}

/// A new subscription whose retained messages are not all lined up: there may be many, and a client
/// may ask for them many times over.
struct Greeting {
    filter: TopicFilter,
    qos: QoS,
    no_local: bool,
    identifier: Option<NonZeroU32>,
    /// What is retained from here on is sent as it is published.
    until: Offset,
    /// The last topic that was lined up.
    after: Option<String>,
}

/// An acknowledgement that waits until everything below `next` is durable.
#[derive(Clone, Copy, Debug)]
struct Due {
    next: Offset,
    packet_id: u16,
    head: u8,
    code: u8,
    says: Says,
}

/// What an acknowledgement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Says {
    /// The message is on stable storage.
    Logged,
    /// It is not taken, or PUBCOMP: there was nothing to log.
    Nothing,
    /// It is not taken, for the next of the reasons.
    Why,
}

/// A message in the batch that is being collected.
#[derive(Clone, Copy, Debug)]
struct Staged {
    packet_id: u16,
    qos: QoS,
    fingerprint: Option<u64>,
}

/// The messages of one read on their way to the journal.
#[derive(Default)]
pub(crate) struct Work {
    batch: Option<Batch>,
    staged: Vec<Staged>,
    /// How many of `staged` want an acknowledgement, and how many of these are of QoS 2.
    acknowledged: usize,
    exact: usize,
    /// Whom `staged` concerns.
    concern: Concern,
    properties: Vec<u8>,
    /// When the read arrived.
    now: Timestamp,
    /// How long it was.
    bytes: usize,
}

impl Work {
    fn clear(&mut self) {
        if let Some(batch) = &mut self.batch {
            batch.clear();
        }
        self.staged.clear();
        self.acknowledged = 0;
        self.exact = 0;
        self.concern = Concern::default();
    }
}

/// What all connections of a thread share.
struct Scratch {
    input: Vec<u8>,
    work: Work,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        RefCell::new(Scratch { input: vec![0; READ_BYTES], work: Work::default() });
}

/// Says a last word and closes, all within a second. A peer that may still be sending is
/// listened to until it has closed too: closing on unread bytes resets the connection, and the
/// last word could be lost with it.
pub(crate) async fn part(stream: &mut dyn Transport, last_word: &[u8], linger: bool) {
    let goodbye = async {
        stream.write_all(last_word).await?;
        stream.shutdown().await?;
        let mut ignored = [0; 512];
        while linger && stream.read(&mut ignored).await? > 0 {
            // A peer that never stops sending is always ready to be read: without a turn for
            // others it would keep the shard, and time would not be looked at.
            tokio::task::yield_now().await;
        }
        Ok::<_, std::io::Error>(())
    };
    match timeout(GOODBYE_TIME_MAX, goodbye).await {
        Ok(Ok(())) => {}
        Ok(Err(cause)) => debug!(%cause, "the peer was gone before its goodbye"),
        Err(_elapsed) => debug!("the peer did not take its goodbye in time"),
    }
}

/// Why a connection ends.
#[derive(Debug)]
pub(crate) enum Ending {
    /// The client said so; with its will or without.
    Left {
        will: bool,
    },
    /// The socket is gone.
    Lost,
    /// The client broke the protocol or a limit.
    Fault(Fault),
    KeepAlive,
    Kicked(Kick),
    /// The journal failed.
    Journal(Error),
    /// The session cannot be written any more.
    Unkept(Error),
}

impl From<Fault> for Ending {
    fn from(fault: Fault) -> Self {
        Ending::Fault(fault)
    }
}

/// What a CONNECT settled.
pub(crate) struct Opening {
    pub(crate) stream: Box<dyn Transport>,
    pub(crate) version: Version,
    pub(crate) link: Arc<Link>,
    pub(crate) session: Session,
    pub(crate) will: Option<Will>,
    pub(crate) rights: Held,
    pub(crate) packet_bytes_max: usize,
    pub(crate) topic_alias_max: u16,
    pub(crate) problem_information: bool,
    pub(crate) receive_maximum: u16,
    pub(crate) keep_alive: Duration,
    /// Bytes that came behind the CONNECT.
    pub(crate) rest: Vec<u8>,
    /// The CONNACK.
    pub(crate) connack: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(broker: Arc<Broker>, opening: Opening) -> Box<Connection> {
        let Opening { stream, version, link, mut session, will, rights, rest, .. } = opening;
        let subscriptions = mem::replace(&mut session.subscriptions, subscription::none());
        session.shares.iter().for_each(|share| share.attend(&link.mailbox));
        let feed = Feed::open(
            Arc::clone(&broker.hub),
            Arc::clone(&link.mailbox),
            Arc::clone(&link.client_id),
            subscriptions,
            session.cursor,
            broker.journal.durable(),
        );
        let now = Instant::now();
        let resend: VecDeque<_> = session.outgoing.iter().copied().collect();
        let keeps = session.kept_for.is_some() && broker.keeper.is_some();
        let aliases_max = opening.topic_alias_max.min(broker.settings.topic_alias_max);
        let mut connection = Box::new(Connection {
            says_why: opening.problem_information && broker.settings.refusals_explained,
            aliases_out: (aliases_max > 0).then(|| Box::new(Aliases::new(aliases_max))),
            presence: broker.presence(),
            rate: Rate::new(broker.settings.rate(), now).map(Box::new),
            identified: false,
            filter_bytes: 0,
            stable: keeps.then(|| Box::new(Stable::new())),
            share_turn: 0,
            window: usize::from(opening.receive_maximum.min(broker.settings.in_flight_max)),
            broker,
            stream,
            version,
            link,
            session,
            feed,
            will: will.map(Box::new),
            rights,
            reasons: None,
            packet_bytes_max: opening.packet_bytes_max,
            keep_alive: opening.keep_alive,
            heard_at: now,
            answered_at: now,
            deadline: now + opening.keep_alive,
            bell: None,
            due: VecDeque::new(),
            due_pubacks: 0,
            due_of_others: false,
            held: None,
            held_back: false,
            unread: !rest.is_empty(),
            partial: if rest.is_empty() { Vec::new() } else { rest },
            out: opening.connack,
            out_at: 0,
            unflushed: false,
            aliases: None,
            owed: (!resend.is_empty()).then(|| Box::new(Owed { resend, ..Owed::default() })),
            closing: false,
            released: false,
        });
        connection.publish_subscriptions();
        connection
    }

    /// Asks it to end as soon as what is due has left.
    pub(crate) fn shut_down(&self) {
        self.link.kick(Kick::Shutdown);
    }

    /// Says that the client is here.
    pub(crate) fn begin(&self) {
        self.broker.say_connected(&self.link, self.presence);
    }

    /// Serves the client; ready when it goes or must go.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ending> {
        self.link.mailbox.waker.register(cx.waker());
        for _ in 0..TURNS_MAX {
            match self.turn(cx) {
                Ok(true) => {}
                Ok(false) => return Poll::Pending,
                Err(ending) => return Poll::Ready(ending),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Serves the client on the caller's task, as a shard would.
    pub(crate) async fn run(mut self: Box<Self>) {
        self.begin();
        let mut timer = std::pin::pin!(sleep_until(self.deadline.into()));
        let ending = std::future::poll_fn(|cx| {
            loop {
                let polled = self.poll(cx);
                self.broker.journal.nudge();
                if polled.is_ready() {
                    return polled;
                }
                timer.as_mut().reset(self.deadline.into());
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        });
        let ending = ending.await;
        Box::pin(self.finish(ending)).await;
    }

    /// When it wants to be polled though nothing happened.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// One round of everything; false when nothing moved and all wakers are set.
    fn turn(&mut self, cx: &mut Context<'_>) -> Result<bool, Ending> {
        self.obey_kick()?;
        self.refresh_rights()?;
        let mut moved = self.poll_due(cx)?;
        moved |= self.poll_read(cx)?;
        moved |= self.poll_deliver(cx)?;
        moved |= self.poll_stable()?;
        moved |= self.poll_write(cx)?;
        if self.closing && self.due.is_empty() && self.out.is_empty() && self.held.is_none() {
            return Err(Ending::Kicked(Kick::Shutdown));
        }
        if !moved {
            self.look_at_clock()?;
        }
        Ok(moved)
    }

    fn obey_kick(&mut self) -> Result<(), Ending> {
        match self.link.kicked() {
            None => Ok(()),
            Some(Kick::Shutdown) => {
                self.closing = true;
                Ok(())
            }
            Some(kick) => Err(Ending::Kicked(kick)),
        }
    }

    // ---- acknowledgements ----

    /// Moves every acknowledgement whose record is durable into the output.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Result<bool, Ending> {
        let Some(front) = self.due.front() else { return Ok(false) };
        let mut durable = Offset::default();
        if let Some(bell) = &self.bell {
            match bell.poll_past(front.next, cx) {
                Poll::Ready(rung) => durable = rung.map_err(Ending::Journal)?,
                Poll::Pending => {}
            }
        }
        if self.due_of_others {
            durable = durable.max(self.broker.journal.durable());
        }
        let mut sent = 0;
        let mut moved = false;
        while let Some(due) = self.due.front().filter(|due| due.next <= durable) {
            if due.says == Says::Why
                && let Some(why) = self.reasons.as_mut().and_then(|reasons| reasons.pop_front())
            {
                let head = (due.head, due.packet_id, due.code);
                codec::put_refusal(&mut self.out, head, &why, self.packet_bytes_max);
            } else {
                codec::put_ack(&mut self.out, due.head, due.packet_id, due.code);
            }
            self.due_pubacks -= usize::from(due.head == ack::PUBACK);
            sent += u64::from(due.says == Says::Logged);
            self.due.pop_front();
            moved = true;
        }
        if self.due.is_empty() {
            self.due_of_others = false;
            self.reasons = None;
            self.due.shrink_to(0);
        }
        self.broker.counters.acknowledged.add(sent);
        Ok(moved)
    }

    /// Answers in order: at once if nothing is due before it.
    fn answer(&mut self, head: u8, packet_id: u16, code: u8) {
        match self.due.back() {
            Some(last) => {
                let next = last.next;
                self.push_due(Due { next, packet_id, head, code, says: Says::Nothing });
            }
            None => codec::put_ack(&mut self.out, head, packet_id, code),
        }
    }

    /// Refuses a message in order, with the reason if the client may be told.
    pub(crate) fn refuse_with(&mut self, head: u8, packet_id: u16, code: u8, why: String) {
        if !self.says_why {
            return self.answer(head, packet_id, code);
        }
        match self.due.back() {
            Some(last) => {
                let next = last.next;
                self.reasons.get_or_insert_default().push_back(why);
                self.push_due(Due { next, packet_id, head, code, says: Says::Why });
            }
            None => {
                let head = (head, packet_id, code);
                codec::put_refusal(&mut self.out, head, &why, self.packet_bytes_max);
            }
        }
    }

    /// Answers once everything below `next`, logged by whomever, is durable.
    fn answer_after(&mut self, next: Offset, head: u8, packet_id: u16) {
        let next = self.due.back().map_or(next, |last| last.next.max(next));
        self.due_of_others = true;
        let says = if head == ack::PUBCOMP { Says::Nothing } else { Says::Logged };
        self.push_due(Due { next, packet_id, head, code: 0, says });
    }

    fn push_due(&mut self, due: Due) {
        self.due_pubacks += usize::from(due.head == ack::PUBACK);
        self.due.push_back(due);
    }

    // ---- reading ----

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Result<bool, Ending> {
        if let Some(held) = self.held.take() {
            return self.retry(*held);
        }
        let waits = self.backlog() > BACKLOG_BYTES_MAX || self.window_is_full(0);
        if self.closing || waits || self.must_wait() > Duration::ZERO {
            return Ok(false);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            if self.unread {
                return self.process_partial(&mut scratch.work);
            }
            if !self.broker.journal.has_room() {
                if !mem::replace(&mut self.held_back, true) {
                    self.broker.counters.held_back.one();
                }
                return Ok(false);
            }
            self.held_back = false;
            self.read(scratch, cx)
        })
    }

    fn read(&mut self, scratch: &mut Scratch, cx: &mut Context<'_>) -> Result<bool, Ending> {
        let Scratch { input, work } = scratch;
        // The start of a packet goes in front of what is read, unless it is a large packet,
        // which is collected where it is.
        let start = if self.partial.len() < READ_BYTES / 4 { self.partial.len() } else { 0 };
        input[..start].copy_from_slice(&self.partial[..start]);
        let mut buffer = ReadBuf::new(&mut input[start..]);
        let bytes = match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
            Poll::Pending => return Ok(false),
            Poll::Ready(Err(cause)) => {
                debug!(client_id = %self.link.client_id, %cause, "socket failed");
                return Err(Ending::Lost);
            }
            Poll::Ready(Ok(())) => buffer.filled().len(),
        };
        if bytes == 0 {
            return Err(Ending::Lost);
        }
        self.heard_at = Instant::now();
        self.broker.counters.bytes_in.add(bytes as u64);
        if start == self.partial.len() {
            self.partial.clear();
            let used = self.process(&input[..start + bytes], work)?;
            self.partial.extend_from_slice(&input[used..start + bytes]);
            if self.partial.is_empty() {
                self.partial = Vec::new();
            }
            return Ok(true);
        }
        self.partial.extend_from_slice(&input[..bytes]);
        self.process_partial(work)
    }

    fn process_partial(&mut self, work: &mut Work) -> Result<bool, Ending> {
        self.unread = false;
        let mut input = mem::take(&mut self.partial);
        let used = self.process(&input, work)?;
        if used < input.len() {
            input.drain(..used);
            self.partial = input;
        }
        Ok(true)
    }

    /// Takes every whole packet of `input`, as far as the windows allow; gives the bytes used.
    fn process(&mut self, input: &[u8], work: &mut Work) -> Result<usize, Ending> {
        let packet_bytes_max = self.broker.settings.packet_bytes_max();
        // Empty unless the task of another connection died here.
        work.clear();
        work.now = self.broker.clock.now();
        work.bytes = input.len();
        let mut used = 0;
        let result = loop {
            let stop = self.held.is_some()
                || self.backlog() > BACKLOG_BYTES_MAX
                || self.window_is_full(work.acknowledged)
                || self.must_wait() > Duration::ZERO;
            if stop {
                self.unread = used < input.len();
                break Ok(());
            }
            let frame = match codec::frame(&input[used..], packet_bytes_max) {
                Ok(Some(frame)) => frame,
                Ok(None) => break Ok(()),
                Err(fault) => break Err(fault.into()),
            };
            used += frame.bytes;
            if let Err(ending) = self.take(&frame, work) {
                break Err(ending);
            }
        };
        // Also after a fault: what came before it was in order.
        self.flush(work)?;
        result.map(|()| used)
    }

    /// Whether an MQTT 3.1.1 client must wait for acknowledgements before it is read on. One of
    /// MQTT 5 was told the receive maximum and is held to it instead.
    fn window_is_full(&self, staged: usize) -> bool {
        self.version == Version::V4
            && self.due.len() + staged >= usize::from(self.broker.settings.receive_maximum)
    }

    /// How long it is not read because it publishes faster than it may.
    fn must_wait(&mut self) -> Duration {
        let wait = self.rate.as_mut().map(|rate| rate.wait(Instant::now()));
        wait.unwrap_or_default()
    }

    fn backlog(&self) -> usize {
        self.out.len() - self.out_at
    }

    fn take(&mut self, frame: &Frame<'_>, work: &mut Work) -> Result<(), Ending> {
        match frame.kind {
            kind::PUBLISH => {
                let publish = codec::publish(self.version, frame)?;
                if let Some(rate) = &mut self.rate {
                    rate.spend(frame.bytes);
                }
                self.receive(&publish, work)
            }
            kind::PUBACK | kind::PUBREC | kind::PUBREL | kind::PUBCOMP => {
                let (packet_id, code) = codec::acknowledgement(self.version, frame)?;
                self.acknowledged(frame.kind, packet_id, code, work)
            }
            kind::SUBSCRIBE => {
                let (packet_id, wanted) = codec::subscribe(self.version, frame)?;
                self.flush(work)?;
                self.subscribe(packet_id, wanted)
            }
            kind::UNSUBSCRIBE => {
                let (packet_id, filters) = codec::unsubscribe(self.version, frame)?;
                let found: Vec<_> = filters.iter().map(|f| self.unsubscribe(f)).collect();
                self.broker.say_subscribed(&self.link, self.presence, "unsubscribed", &filters);
                self.publish_subscriptions();
                let unsuback = codec::unsuback(self.version, packet_id, &found)?;
                self.promise(Promise::Packet(unsuback));
                Ok(())
            }
            kind::PINGREQ if frame.body.is_empty() => {
                codec::put_pong(&mut self.out);
                Ok(())
            }
            kind::PINGREQ => Err(Fault::malformed("a PINGREQ with a body").into()),
            kind::DISCONNECT => {
                let leave = codec::disconnect(self.version, frame)?;
                self.flush(work)?;
                self.leave(leave)
            }
            kind::CONNECT => Err(Fault::protocol("a second CONNECT").into()),
            kind::AUTH if self.version == Version::V5 => {
                Err(Fault::protocol("AUTH without an authentication method").into())
            }
            _ => Err(Fault::malformed("a packet type that clients do not send").into()),
        }
    }

    fn leave(&mut self, leave: codec::Leave) -> Result<(), Ending> {
        if let Some(secs) = leave.session_expiry_secs {
            if self.session.kept_for.is_none() && secs > 0 {
                return Err(Fault::protocol("a session expiry for a session without one").into());
            }
            self.session.kept_for = self.broker.kept_for(secs);
        }
        Err(Ending::Left { will: leave.code != 0 })
    }

    // ---- writing ----

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Result<bool, Ending> {
        let mut moved = false;
        while self.out_at < self.out.len() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.out[self.out_at..]) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(Ok(bytes)) if bytes > 0 => {
                    self.out_at += bytes;
                    self.unflushed = true;
                    self.answered_at = Instant::now();
                    self.broker.counters.bytes_out.add(bytes as u64);
                    moved = true;
                }
                Poll::Ready(_) => return Err(Ending::Lost),
            }
        }
        self.out_at = 0;
        if self.out.capacity() > 0 {
            // An idle connection owns no buffer.
            self.out = Vec::new();
        }
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(_)) => return Err(Ending::Lost),
            }
        }
        Ok(moved)
    }

    // ---- time ----

    /// Ends a connection that is silent for too long, and says when to look again.
    fn look_at_clock(&mut self) -> Result<(), Ending> {
        let retrying = self.held.is_some() || self.held_back || self.due_of_others;
        let now = Instant::now();
        let wait = self.must_wait();
        let waits = wait > Duration::ZERO;
        if retrying || waits || (self.window_is_full(0) && !self.due.is_empty()) {
            // It is us who do not listen.
            self.heard_at = now;
        }
        let silent_until = self.heard_at + self.keep_alive;
        if now >= silent_until {
            return Err(Ending::KeepAlive);
        }
        let deadline = if retrying { now + RETRY } else { silent_until };
        let deadline = if waits { deadline.min(now + wait) } else { deadline };
        self.deadline = self.save_by().map_or(deadline, |save_by| save_by.min(deadline));
        Ok(())
    }

    // ---- the end ----

    /// The last word to a client, and what its going means to others.
    pub(crate) async fn finish(mut self: Box<Self>, ending: Ending) {
        let counters = &self.broker.counters;
        let client_id = &self.link.client_id;
        let (code, why, keeps_will) = match &ending {
            Ending::Left { will } => (None, String::new(), *will),
            Ending::Lost => (None, String::new(), true),
            Ending::Fault(fault) => {
                if fault.code == Code::NotAuthorized {
                    counters.closed_policy.one();
                } else {
                    counters.closed_protocol.one();
                    let why = Explanation { text: fault.why.to_string(), ..Explanation::default() };
                    let principal = Some(self.link.identity.principal.as_str());
                    self.broker.note_refusal(client_id, principal, "protocol", (None, ""), why);
                }
                info!(%client_id, code = fault.code as u8, why = %fault.why, "closing a connection");
                (Some(fault.code), fault.why.to_string(), true)
            }
            Ending::KeepAlive => {
                counters.closed_keep_alive.one();
                debug!(%client_id, "keep-alive is over");
                (Some(Code::KeepAliveTimeout), "nothing was heard in time".to_owned(), true)
            }
            Ending::Kicked(kick) => {
                let (code, why) = match kick {
                    Kick::TakenOver => (Code::SessionTakenOver, "the client id connected again"),
                    Kick::Revoked => {
                        (Code::NotAuthorized, "the certificate is not active, or has run out")
                    }
                    Kick::NotAllowed => {
                        (Code::NotAuthorized, "a policy no longer allows iot:Connect")
                    }
                    Kick::Administrative => (Code::AdministrativeAction, "closed by an operator"),
                    Kick::Shutdown => (Code::ServerShuttingDown, "the server shuts down"),
                };
                match kick {
                    Kick::TakenOver => counters.closed_taken_over.one(),
                    Kick::Revoked => counters.closed_revoked.one(),
                    Kick::NotAllowed => counters.closed_policy.one(),
                    Kick::Administrative | Kick::Shutdown => {}
                }
                // A device that lost its right to speak does not speak from the grave.
                (Some(code), why.to_owned(), !matches!(kick, Kick::Revoked | Kick::NotAllowed))
            }
            Ending::Journal(cause) => {
                counters.closed_journal.one();
                self.broker.note_failure();
                error!(%client_id, %cause, "closing a connection: its messages cannot be logged");
                let why = "the journal failed; nothing is acknowledged any more";
                (Some(Code::ImplementationSpecificError), why.to_owned(), true)
            }
            Ending::Unkept(cause) => {
                counters.closed_journal.one();
                error!(%client_id, %cause, "closing a connection: its session cannot be kept");
                let why = "sessions cannot be kept any more; connect with a clean one";
                (Some(Code::ImplementationSpecificError), why.to_owned(), true)
            }
        };
        if !keeps_will {
            self.will = None;
        }
        self.break_promises();
        self.broker.say_disconnected(&self.link, self.presence, &ending);
        let mid_packet = self.out_at > 0;
        if matches!(ending, Ending::Kicked(Kick::Revoked | Kick::NotAllowed)) {
            // Nothing that waits may reach it any more.
            self.out.clear();
            self.out_at = 0;
        }
        self.release();
        if self.version == Version::V5
            && let Some(code) = code
            && !(mid_packet && self.out.is_empty())
        {
            let silent = code == Code::NotAuthorized && !self.broker.settings.refusals_explained;
            let why = if silent { "" } else { &why };
            self.out.extend(codec::goodbye(code, why, self.packet_bytes_max));
        }
        let rest = mem::take(&mut self.out);
        let linger = !matches!(ending, Ending::Lost | Ending::Left { .. });
        part(&mut *self.stream, &rest[self.out_at..], linger).await;
    }

    /// Gives the session back and publishes the will, once.
    fn release(&mut self) {
        if mem::replace(&mut self.released, true) {
            return;
        }
        if let Some(held) = self.held.take() {
            let lost = held.staged.iter().filter(|s| s.qos == QoS::AtMostOnce).count();
            self.broker.counters.refused_journal.add(lost as u64);
            self.broker.counters.unanswered.add(held.acknowledged as u64);
        }
        let unanswered = self.due.iter().filter(|due| due.says == Says::Logged).count();
        self.broker.counters.unanswered.add(unanswered as u64);
        let link = &self.link;
        let empty = Session::new(Arc::clone(&link.identity));
        let mut session = mem::replace(&mut self.session, empty);
        session.shares.iter().for_each(Share::pause);
        session.subscriptions = Arc::clone(self.feed.subscriptions());
        session.cursor = self.feed.close();
        let owed = self.owed.take().filter(|_| session.kept_for.is_some());
        if let Some(mut owed) = owed {
            let mut seen = 0;
            while seen < OWED_MAX && !owed.lines_up_nothing(&self.broker, link) {
                seen += owed.welcome.len();
                for (delivery, origin) in owed.welcome.drain(..) {
                    // The cursor is beyond what was retained: in flight is where it is remembered.
                    if delivery.qos != QoS::AtMostOnce && session.outgoing.len() < OWED_MAX {
                        let (offset, qos) = (delivery.offset, delivery.qos);
                        let packet_id = session.outgoing.send(offset, qos, origin);
                        session.outgoing.note_unsent(packet_id, true);
                    }
                }
            }
        }
        let now = self.broker.clock.now();
        let (will, silence) = (self.will.take().map(|will| *will), self.keep_alive);
        let departed = Departed::of(&link.client_id, &session);
        let will = self.broker.sessions.release(link, Some(session), will, silence, now);
        if let Some(will) = will {
            self.broker.publish_will(departed, will);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What an idle client costs is measured by `forebay bench ingest`; this only notices when
    /// it grows.
    #[test]
    fn an_idle_connection_is_small() {
        let bytes = [
            ("connection", size_of::<Connection>()),
            ("session", size_of::<Session>()),
            ("feed", size_of::<Feed>()),
            ("link", size_of::<Link>()),
            ("mailbox", size_of::<crate::hub::Mailbox>()),
        ];
        println!("{bytes:?}");
        assert!(bytes[0].1 <= 512, "{bytes:?}");
    }
}
