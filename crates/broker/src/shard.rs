//! The threads that serve connections.
//!
//! A connection is not a task of the runtime but a seat at a shard: a thread with a poll set of
//! its own, which polls whoever has something to do, in turn. A seat costs a few words where a
//! task and a socket of the runtime cost half a kilobyte, and all that is ready is read before
//! the log is told, so that it syncs once for all of it.
//!
//! Where messages come one by one from many devices, each would cost a wake-up and a sync of its
//! own. Then sockets are looked at only every [`GATHER`]; acknowledgements and deliveries leave
//! at once all the same. Whoever waits for an answer before it goes on would only be slowed down,
//! so this ends as soon as somebody does ([`Pace`]).
//!
//! Invariants
//! * A seat is polled by its shard's thread only, once per round; whatever wakes it, from any
//!   thread, gets it into a later round.
//! * A ready socket stays marked until it was read short or would block, so no edge is lost.
//! * Handshakes, which cost a hundred times what a message does, take turns with everybody else:
//!   a few a round.
//! * A panic in one seat ends that seat.
//! * Lock order: an inbox is locked last, and for moments.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, Read, Write};
use std::mem;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use base::{Error, Result};
use journal::Journal;
use mio::event::Event;
use mio::{Events, Interest, Token};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tracing::{error, warn};

use crate::Broker;
use crate::connection::Connection;
use crate::hub::lock;
use crate::listen::{Entrance, begin};

/// How long sockets are left alone where messages come one by one.
const GATHER: Duration = Duration::from_millis(5);

/// Whoever sends this soon after it was answered had waited for the answer.
pub(crate) const EAGER: Duration = Duration::from_millis(12);

/// A read of so many bytes is no single message.
pub(crate) const BULK_BYTES: usize = 4096;

/// How long the pace is watched before it is judged.
const WINDOW: Duration = Duration::from_millis(64);

/// Reads within a window from where on it pays to gather: two for each time.
const CALM_MIN: u32 = 2 * (WINDOW.as_millis() / GATHER.as_millis()) as u32;

/// Of them, how many may be of those who wait: one that is gathered sends about ten.
const EAGER_MAX: u32 = 4;

/// Events taken from the poll set at once.
const EVENTS_MAX: usize = 1024;

/// Handshakes polled in one round.
const HANDSHAKES_PER_ROUND: usize = 4;

/// Deadlines are looked through this often at most.
const LOOK: Duration = Duration::from_millis(10);

/// How long a shard may take to end.
const END_TIME_MAX: Duration = Duration::from_secs(1);

/// The token of the alarm; seats have the others.
const ALARM: Token = Token(usize::MAX);

const READABLE: u8 = 1;
const WRITABLE: u8 = 2;
/// The peer closed, or the socket failed: reading says so for ever.
const ENDED: u8 = 4;

/// What a listener knows of its connections.
#[derive(Debug, Default)]
pub(crate) struct Listening {
    /// Whoever gets in now is shown out.
    stopping: AtomicBool,
    open: AtomicUsize,
    gone: Notify,
}

impl Listening {
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Resolves once no connection is left.
    pub(crate) async fn all_gone(&self) {
        loop {
            let gone = self.gone.notified();
            tokio::pin!(gone);
            gone.as_mut().enable();
            if self.open() == 0 {
                return;
            }
            gone.await;
        }
    }
}

/// One place at the broker's table; free again when dropped.
pub(crate) struct Seat {
    broker: Arc<Broker>,
    listening: Arc<Listening>,
}

impl Seat {
    /// `None`: `connections_max` is reached.
    pub(crate) fn take(broker: &Arc<Broker>, listening: &Arc<Listening>) -> Option<Seat> {
        let counters = &broker.counters;
        counters.connections.one();
        listening.open.fetch_add(1, Ordering::SeqCst);
        let seat = Seat { broker: Arc::clone(broker), listening: Arc::clone(listening) };
        // Counted first, so that two racing for the last seat cannot both get it.
        if counters.connections.get() > broker.settings.connections_max as u64 {
            counters.refused_limit.one();
            return None;
        }
        counters.connections_total.one();
        Some(seat)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.broker.counters.connections.less();
        if self.listening.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.listening.gone.notify_waiters();
        }
    }
}

/// A socket that was accepted, on its way to a shard.
pub(crate) struct Arrival {
    pub(crate) seat: Seat,
    pub(crate) stream: std::net::TcpStream,
    pub(crate) address: SocketAddr,
    pub(crate) entrance: Entrance,
}

/// All shards of a broker.
#[derive(Debug)]
pub(crate) struct Shards {
    shards: Vec<Arc<Shard>>,
    next: AtomicUsize,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

/// The outside of one shard.
#[derive(Debug)]
pub(crate) struct Shard {
    inbox: Mutex<Inbox>,
    /// Ends a nap.
    nap: Condvar,
    /// Ends a wait for sockets.
    alarm: mio::Waker,
}

#[derive(Default)]
struct Inbox {
    woken: Vec<usize>,
    arrivals: Vec<Arrival>,
    orders: Vec<Order>,
    rest: Rest,
}

impl std::fmt::Debug for Inbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbox").field("rest", &self.rest).finish_non_exhaustive()
    }
}

/// What a shard's thread is doing, as far as whoever wants its attention must know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Rest {
    /// It looks into the inbox before it rests.
    #[default]
    Awake,
    /// It left the sockets alone for a moment.
    Napping,
    /// It waits for sockets.
    Polling,
    /// It has ended.
    Gone,
}

enum Order {
    /// Ends the handshakes of a listener.
    EndHandshakes(Arc<Listening>),
    /// Ends every connection of a listener.
    EndAll(Arc<Listening>),
    /// Ends the thread.
    Stop,
}

impl Shards {
    /// Starts the threads. Within a tokio runtime, whose timers and blocking threads the
    /// connections use.
    pub(crate) fn start(count: usize, journal: &Arc<dyn Journal>) -> Result<Shards> {
        let failed = |cause| Error::io("failed to start a thread for connections", cause);
        let runtime = Handle::current();
        let (mut shards, mut threads) = (Vec::new(), Vec::new());
        for number in 0..count {
            let poll = mio::Poll::new().map_err(failed)?;
            let alarm = mio::Waker::new(poll.registry(), ALARM).map_err(failed)?;
            let shard = Arc::new(Shard { inbox: Mutex::default(), nap: Condvar::new(), alarm });
            let (outside, journal) = (Arc::clone(&shard), Arc::clone(journal));
            let runtime = runtime.clone();
            let thread = std::thread::Builder::new()
                .name(format!("broker-{number}"))
                .spawn(move || {
                    let _entered = runtime.enter();
                    Inside::new(outside, poll, journal).run();
                })
                .map_err(failed)?;
            shards.push(shard);
            threads.push(thread);
        }
        Ok(Shards { shards, next: AtomicUsize::new(0), threads: Mutex::new(threads) })
    }

    /// Hands a socket to the next shard.
    pub(crate) fn seat(&self, arrival: Arrival) {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.shards.len();
        self.shards[at].tell(|inbox| inbox.arrivals.push(arrival));
    }

    /// Ends the handshakes of a listener; connections go on.
    pub(crate) fn end_handshakes(&self, listening: &Arc<Listening>) {
        for shard in &self.shards {
            shard.tell(|inbox| inbox.orders.push(Order::EndHandshakes(Arc::clone(listening))));
        }
    }

    /// Ends every connection of a listener, without a word.
    pub(crate) fn end_all(&self, listening: &Arc<Listening>) {
        for shard in &self.shards {
            shard.tell(|inbox| inbox.orders.push(Order::EndAll(Arc::clone(listening))));
        }
    }

    /// Ends the threads, and with them whatever connection is left. Does not wait: it may be
    /// called by one of them.
    pub(crate) fn stop(&self) {
        for shard in &self.shards {
            shard.tell(|inbox| inbox.orders.push(Order::Stop));
        }
    }

    /// The threads, to be waited for after [`stop`](Self::stop).
    pub(crate) fn take_threads(&self) -> Vec<std::thread::JoinHandle<()>> {
        mem::take(&mut *lock(&self.threads))
    }
}

/// Ends the shards when it is dropped, and waits for that. Held by a task of the runtime: it drops
/// its tasks before it ends its timers, which handshakes and goodbyes use.
pub(crate) struct Lease(pub(crate) Arc<Shards>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.stop();
        self.0.shards.iter().for_each(|shard| shard.wait_gone());
    }
}

impl Shard {
    fn wait_gone(&self) {
        let deadline = Instant::now() + END_TIME_MAX;
        let mut inbox = lock(&self.inbox);
        while inbox.rest != Rest::Gone {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                error!("a thread that serves connections does not end");
                return;
            }
            let waited = self.nap.wait_timeout(inbox, left);
            inbox = waited.unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
    }

    fn tell(&self, what: impl FnOnce(&mut Inbox)) {
        let mut inbox = lock(&self.inbox);
        if inbox.rest == Rest::Gone {
            return;
        }
        what(&mut inbox);
        // Whoever comes next finds it awake and need not call again.
        let rest = mem::take(&mut inbox.rest);
        drop(inbox);
        match rest {
            Rest::Awake | Rest::Gone => {}
            Rest::Napping => self.nap.notify_one(),
            Rest::Polling => {
                if let Err(cause) = self.alarm.wake() {
                    error!(%cause, "failed to wake a thread that serves connections");
                }
            }
        }
    }
}

thread_local! {
    /// What the sockets and wakers of this thread's seats share with its loop.
    static HERE: Here = const { Here::new() };
}

struct Here {
    /// The shard whose thread this is, by address.
    shard: Cell<*const Shard>,
    /// Seats to be polled in the next round.
    ready: RefCell<Vec<usize>>,
    /// By seat: what its socket is ready for.
    sockets: RefCell<Vec<u8>>,
    calm: Cell<u32>,
    eager: Cell<u32>,
}

impl Here {
    const fn new() -> Here {
        Here {
            shard: Cell::new(std::ptr::null()),
            ready: RefCell::new(Vec::new()),
            sockets: RefCell::new(Vec::new()),
            calm: Cell::new(0),
            eager: Cell::new(0),
        }
    }

    fn is_ready(&self, seat: usize, what: u8) -> bool {
        self.sockets.borrow().get(seat).is_some_and(|flags| flags & what != 0)
    }

    fn mark(&self, seat: usize, flags: u8) {
        if let Some(known) = self.sockets.borrow_mut().get_mut(seat) {
            *known |= flags;
        }
    }

    fn unmark(&self, seat: usize, flags: u8) {
        if let Some(known) = self.sockets.borrow_mut().get_mut(seat) {
            *known &= !flags;
        }
    }
}

/// Notes a read with messages: whether its client had waited for us, or has many.
pub(crate) fn note_pace(eager: bool) {
    HERE.with(|here| {
        let count = if eager { &here.eager } else { &here.calm };
        count.set(count.get().saturating_add(1));
    });
}

/// Wakes one seat.
struct SeatWaker {
    shard: Arc<Shard>,
    seat: usize,
    /// Whether it is among those to be polled already.
    queued: AtomicBool,
}

impl Wake for SeatWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::SeqCst) {
            return;
        }
        let is_here = HERE.try_with(|here| {
            let is_here = std::ptr::eq(here.shard.get(), Arc::as_ptr(&self.shard));
            if is_here {
                here.ready.borrow_mut().push(self.seat);
            }
            is_here
        });
        if !is_here.unwrap_or(false) {
            self.shard.tell(|inbox| inbox.woken.push(self.seat));
        }
    }
}

/// A TCP socket in a shard's poll set. Used by its shard's thread only.
pub(crate) struct Socket {
    inner: mio::net::TcpStream,
    seat: usize,
}

impl Socket {
    /// Waits for the first bytes, or the end.
    pub(crate) async fn readable(&self) {
        std::future::poll_fn(|_| {
            let ready = HERE.with(|here| here.is_ready(self.seat, READABLE | ENDED));
            if ready { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// The first byte, which stays to be read. `None`: the peer closed.
    pub(crate) async fn first_byte(&self) -> io::Result<Option<u8>> {
        std::future::poll_fn(|_| {
            if !HERE.with(|here| here.is_ready(self.seat, READABLE | ENDED)) {
                return Poll::Pending;
            }
            let mut first = [0];
            match self.inner.peek(&mut first) {
                Ok(0) => Poll::Ready(Ok(None)),
                Ok(_) => Poll::Ready(Ok(Some(first[0]))),
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                    HERE.with(|here| here.unmark(self.seat, READABLE));
                    Poll::Pending
                }
                Err(cause) => Poll::Ready(Err(cause)),
            }
        })
        .await
    }

    /// Tries what the poll set says can be done. Whoever is told to wait is polled again when
    /// the socket is ready, whatever it waits for.
    fn attempt<T>(
        &self,
        what: u8,
        mut act: impl FnMut(&mio::net::TcpStream) -> io::Result<T>,
    ) -> Poll<io::Result<T>> {
        if !HERE.with(|here| here.is_ready(self.seat, what | ENDED)) {
            return Poll::Pending;
        }
        loop {
            match act(&self.inner) {
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) if cause.kind() == io::ErrorKind::WouldBlock => {
                    HERE.with(|here| here.unmark(self.seat, what));
                    return Poll::Pending;
                }
                outcome => return Poll::Ready(outcome),
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buffer.initialize_unfilled();
        let most = room.len();
        let read = self.attempt(READABLE, |mut socket| socket.read(room));
        read.map_ok(|bytes| {
            buffer.advance(bytes);
            if bytes < most {
                // It is empty; the next byte, or the end, is an edge of its own.
                HERE.with(|here| here.unmark(self.seat, READABLE));
            }
        })
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = self.attempt(WRITABLE, |mut socket| socket.write(bytes));
        wrote.map_ok(|count| {
            if count < bytes.len() {
                HERE.with(|here| here.unmark(self.seat, WRITABLE));
            }
            count
        })
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.attempt(WRITABLE, |mut socket| socket.write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.inner.shutdown(std::net::Shutdown::Write))
    }
}

/// What a seat is about.
enum Stage {
    /// TLS, WebSocket, CONNECT.
    Arriving(Pin<Box<dyn Future<Output = Option<Box<Connection>>>>>),
    Connected(Box<Connection>),
    /// The last word.
    Leaving(Pin<Box<dyn Future<Output = ()>>>),
}

struct Seated {
    stage: Stage,
    waker: Arc<SeatWaker>,
    seat: Seat,
}

/// When nothing is due.
const NEVER: u64 = u64::MAX;

/// The inside of a shard: what its thread owns.
struct Inside {
    shard: Arc<Shard>,
    poll: mio::Poll,
    journal: Arc<dyn Journal>,
    seats: Vec<Option<Seated>>,
    free: Vec<usize>,
    /// By seat: in which millisecond since `epoch` its connection wants to be polled anyway.
    deadlines: Vec<u64>,
    /// No deadline is earlier.
    next_deadline: u64,
    looked_at: u64,
    epoch: Instant,
    pace: Pace,
    stopping: bool,
}

/// Whether sockets are looked at only now and then.
#[derive(Debug)]
struct Pace {
    since: Instant,
    gathers: bool,
}

impl Pace {
    /// Judges the window that is over.
    fn judge(&mut self, now: Instant, calm: u32, eager: u32) -> bool {
        if now.duration_since(self.since) < WINDOW {
            // Somebody who waits need not wait for the end of the window.
            self.gathers &= eager <= EAGER_MAX;
            return false;
        }
        // A window that nobody looked at the end of is as long as it was quiet.
        let quiet = now.duration_since(self.since) > 2 * WINDOW;
        self.gathers = !quiet && eager <= EAGER_MAX && calm >= CALM_MIN;
        self.since = now;
        true
    }
}

impl Inside {
    fn new(shard: Arc<Shard>, poll: mio::Poll, journal: Arc<dyn Journal>) -> Inside {
        let now = Instant::now();
        Inside {
            shard,
            poll,
            journal,
            seats: Vec::new(),
            free: Vec::new(),
            deadlines: Vec::new(),
            next_deadline: NEVER,
            looked_at: 0,
            epoch: now,
            pace: Pace { since: now, gathers: false },
            stopping: false,
        }
    }

    /// The thread's life.
    fn run(mut self) {
        HERE.with(|here| here.shard.set(Arc::as_ptr(&self.shard)));
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut round = Vec::new();
        let mut polled_at = Instant::now();
        loop {
            self.open_inbox();
            if self.stopping {
                break;
            }
            self.look_at_deadlines();
            HERE.with(|here| mem::swap(&mut *here.ready.borrow_mut(), &mut round));
            if !round.is_empty() {
                self.poll_round(&mut round);
            }
            let busy = HERE.with(|here| !here.ready.borrow().is_empty());
            if !busy {
                // The pass is over: what it appended is one commit.
                self.journal.nudge();
                if self.naps_until(polled_at) {
                    continue;
                }
            }
            let wait = if busy { Some(Duration::ZERO) } else { self.rest() };
            if let Err(cause) = self.poll.poll(&mut events, wait)
                && cause.kind() != io::ErrorKind::Interrupted
            {
                error!(%cause, "failed to wait for sockets");
                std::thread::sleep(LOOK);
            }
            lock(&self.shard.inbox).rest = Rest::Awake;
            polled_at = Instant::now();
            events.iter().for_each(|event| self.note(event));
        }
        // Connections give their sessions back before the thread goes.
        (0..self.seats.len()).for_each(|at| self.free(at));
        let last = mem::replace(
            &mut *lock(&self.shard.inbox),
            Inbox { rest: Rest::Gone, ..Inbox::default() },
        );
        // Only now, for a seat that is given up may lock the inbox again.
        drop(last);
        self.shard.nap.notify_all();
    }

    /// Sleeps as long as sockets are left alone; false if they are to be looked at. True also
    /// when something is in the inbox.
    fn naps_until(&mut self, polled_at: Instant) -> bool {
        let now = Instant::now();
        HERE.with(|here| {
            if self.pace.judge(now, here.calm.get(), here.eager.get()) {
                here.calm.set(0);
                here.eager.set(0);
            }
        });
        let left = (polled_at + GATHER).saturating_duration_since(now);
        if !self.pace.gathers || left.is_zero() {
            return false;
        }
        let mut inbox = lock(&self.shard.inbox);
        if inbox.is_empty() {
            inbox.rest = Rest::Napping;
            let woken = self.shard.nap.wait_timeout(inbox, left);
            let (mut inbox, _) = woken.unwrap_or_else(|poisoned| poisoned.into_inner());
            inbox.rest = Rest::Awake;
            return !inbox.is_empty();
        }
        true
    }

    /// Says that sockets are waited for, unless something came in; gives how long.
    fn rest(&self) -> Option<Duration> {
        let mut inbox = lock(&self.shard.inbox);
        if !inbox.is_empty() {
            return Some(Duration::ZERO);
        }
        inbox.rest = Rest::Polling;
        drop(inbox);
        let due = self.next_deadline.max(self.looked_at + LOOK.as_millis() as u64);
        let due = (self.next_deadline != NEVER).then_some(due)?;
        // One more: what is left of the millisecond at hand.
        Some(Duration::from_millis(due.saturating_sub(self.now()) + 1))
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(NEVER - 1)
    }

    fn note(&mut self, event: &Event) {
        let Token(seat) = event.token();
        let Some(Some(seated)) = self.seats.get(seat) else { return };
        let mut flags = 0;
        if event.is_readable() {
            flags |= READABLE;
        }
        if event.is_writable() {
            flags |= WRITABLE;
        }
        if event.is_read_closed() || event.is_write_closed() || event.is_error() {
            flags |= ENDED;
        }
        HERE.with(|here| here.mark(seat, flags));
        seated.waker.wake_by_ref();
    }

    fn open_inbox(&mut self) {
        let (arrivals, orders) = {
            let mut inbox = lock(&self.shard.inbox);
            if inbox.is_empty() {
                return;
            }
            let Inbox { woken, arrivals, orders, .. } = &mut *inbox;
            HERE.with(|here| here.ready.borrow_mut().append(woken));
            (mem::take(arrivals), mem::take(orders))
        };
        arrivals.into_iter().for_each(|arrival| self.sit_down(arrival));
        orders.into_iter().for_each(|order| self.obey(order));
    }

    fn sit_down(&mut self, arrival: Arrival) {
        let Arrival { seat, stream, address, entrance } = arrival;
        let at = self.free.pop().unwrap_or(self.seats.len());
        let mut inner = mio::net::TcpStream::from_std(stream);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(cause) = self.poll.registry().register(&mut inner, Token(at), interest) {
            warn!(peer = %address, %cause, "a socket cannot be waited for");
            self.free.push(at);
            return;
        }
        let socket = Socket { inner, seat: at };
        let broker = Arc::clone(&seat.broker);
        let arriving = async move { begin(&broker, socket, address, entrance).await };
        let stage = Stage::Arriving(Box::pin(arriving));
        let shard = Arc::clone(&self.shard);
        let waker = Arc::new(SeatWaker { shard, seat: at, queued: AtomicBool::new(true) });
        let seated = Some(Seated { stage, waker, seat });
        HERE.with(|here| {
            let mut sockets = here.sockets.borrow_mut();
            if at == self.seats.len() {
                self.seats.push(seated);
                self.deadlines.push(NEVER);
                sockets.push(0);
            } else {
                self.seats[at] = seated;
                self.deadlines[at] = NEVER;
                sockets[at] = 0;
            }
            here.ready.borrow_mut().push(at);
        });
    }

    fn obey(&mut self, order: Order) {
        let ends = |seated: &Seated| match &order {
            Order::EndHandshakes(listening) => {
                matches!(seated.stage, Stage::Arriving(_))
                    && Arc::ptr_eq(&seated.seat.listening, listening)
            }
            Order::EndAll(listening) => Arc::ptr_eq(&seated.seat.listening, listening),
            Order::Stop => false,
        };
        self.stopping |= matches!(order, Order::Stop);
        let ending: Vec<usize> =
            (0..self.seats.len()).filter(|at| self.seats[*at].as_ref().is_some_and(ends)).collect();
        ending.into_iter().for_each(|at| self.free(at));
    }

    /// Ends a seat.
    fn free(&mut self, at: usize) {
        let seated = self.seats[at].take();
        self.deadlines[at] = NEVER;
        self.free.push(at);
        // What it does on its way out may panic as well.
        if catch_unwind(AssertUnwindSafe(|| drop(seated))).is_err() {
            error!("a connection panicked at its end; the others go on");
        }
    }

    fn poll_round(&mut self, round: &mut Vec<usize>) {
        let mut handshakes = 0;
        for at in round.drain(..) {
            let Some(seated) = self.seats.get_mut(at).and_then(Option::as_mut) else { continue };
            if matches!(seated.stage, Stage::Arriving(_)) {
                handshakes += 1;
                if handshakes > HANDSHAKES_PER_ROUND {
                    HERE.with(|here| here.ready.borrow_mut().push(at));
                    continue;
                }
            }
            // Before it is polled: what comes while it is must not be missed.
            seated.waker.queued.store(false, Ordering::SeqCst);
            let waker = Waker::from(Arc::clone(&seated.waker));
            let mut cx = Context::from_waker(&waker);
            match catch_unwind(AssertUnwindSafe(|| seated.poll(&mut cx))) {
                Ok(Poll::Pending) => {
                    let Stage::Connected(connection) = &seated.stage else { continue };
                    let due = connection.deadline().saturating_duration_since(self.epoch);
                    let due = u64::try_from(due.as_millis()).unwrap_or(NEVER - 1) + 1;
                    self.deadlines[at] = due;
                    self.next_deadline = self.next_deadline.min(due);
                }
                Ok(Poll::Ready(())) => self.free(at),
                Err(_panic) => {
                    error!("a connection panicked; the others go on");
                    self.free(at);
                }
            }
        }
    }

    /// Wakes those whose time has come.
    fn look_at_deadlines(&mut self) {
        let now = self.now();
        if self.next_deadline > now || now < self.looked_at + LOOK.as_millis() as u64 {
            return;
        }
        self.looked_at = now;
        self.next_deadline = NEVER;
        for (deadline, seated) in self.deadlines.iter_mut().zip(&self.seats) {
            if *deadline > now {
                self.next_deadline = self.next_deadline.min(*deadline);
            } else if let Some(seated) = seated {
                *deadline = NEVER;
                seated.waker.wake_by_ref();
            }
        }
    }
}

impl Inbox {
    fn is_empty(&self) -> bool {
        self.woken.is_empty() && self.arrivals.is_empty() && self.orders.is_empty()
    }
}

impl Seated {
    /// Ready when the seat is free again.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.stage {
                Stage::Arriving(arriving) => match arriving.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(None) => return Poll::Ready(()),
                    Poll::Ready(Some(connection)) => {
                        if self.seat.listening.stopping.load(Ordering::SeqCst) {
                            connection.shut_down();
                        }
                        connection.begin();
                        self.stage = Stage::Connected(connection);
                    }
                },
                Stage::Connected(connection) => {
                    let Poll::Ready(ending) = connection.poll(cx) else { return Poll::Pending };
                    let nobody = Stage::Leaving(Box::pin(std::future::ready(())));
                    if let Stage::Connected(leaving) = mem::replace(&mut self.stage, nobody) {
                        self.stage = Stage::Leaving(Box::pin(leaving.finish(ending)));
                    }
                }
                Stage::Leaving(leaving) => return leaving.as_mut().poll(cx),
            }
        }
    }
}
