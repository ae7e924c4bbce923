//! The messages for one subscriber, in log order, wherever they come from.
//!
//! A feed is a cursor into the log. While its owner keeps up, the hub puts records into its
//! mailbox; when the mailbox overflows, or after a pause, it reads the log itself from where
//! it stands, filters by its own subscriptions, and goes live again once it has caught up.
//!
//! Invariants
//! * Each record that matches is given out once, in offset order, whatever the path.
//! * Memory is one mailbox, or one read of the log.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use base::{Error, MessageRef, Offset, QoS, Result};
use bytes::Bytes;
use journal::Journal;
use tokio::task::JoinHandle;
use tracing::{error, warn};

use crate::hub::{Delivery, Hub, Mailbox, MemberId, Post};
use crate::subscription::{self, NONE, Options, Subscription, Subscriptions, select};

/// Bytes of log a feed reads at once; with the mailbox, the memory of a slow subscriber.
const READ_BYTES: usize = 64 * 1024;

pub(crate) struct Feed {
    hub: Arc<Hub>,
    mailbox: Arc<Mailbox>,
    client_id: Arc<str>,
    /// QoS 0 messages before this offset are not given out: nobody was there to hear them.
    quiet_until: Offset,
    /// A pointer until the first subscription: most clients have none.
    active: Option<Box<Active>>,
}

struct Active {
    subscriptions: Subscriptions,
    pending: VecDeque<Delivery>,
    mode: Mode,
}

enum Mode {
    /// No subscriptions any more.
    Idle,
    /// The mailbox is fed by the hub.
    Live(MemberId),
    /// The log is to be read from here.
    Behind(MemberId, Offset),
    /// It is being read.
    Reading(MemberId, Offset, JoinHandle<Result<Found>>),
}

/// What a read of the log brought.
struct Found {
    deliveries: VecDeque<Delivery>,
    next: Offset,
    /// The subscriptions it was filtered by.
    subscriptions: Subscriptions,
}

impl Feed {
    /// A feed that stands at `cursor`; QoS 0 messages before `quiet_until` are left out.
    pub(crate) fn open(
        hub: Arc<Hub>,
        mailbox: Arc<Mailbox>,
        client_id: Arc<str>,
        subscriptions: Subscriptions,
        cursor: Offset,
        quiet_until: Offset,
    ) -> Feed {
        let mut feed = Feed { hub, mailbox, client_id, quiet_until, active: None };
        if !subscriptions.is_empty() {
            let id = feed.hub.join(Arc::clone(&feed.mailbox), Arc::clone(&feed.client_id));
            for subscription in subscriptions.iter() {
                feed.hub.subscribe(id, subscription.filter.as_str(), subscription.options);
            }
            let (pending, mode) = (VecDeque::new(), Mode::Behind(id, cursor));
            feed.active = Some(Box::new(Active { subscriptions, pending, mode }));
        }
        feed
    }

    /// What is subscribed.
    pub(crate) fn subscriptions(&self) -> &Subscriptions {
        self.active.as_ref().map_or(&NONE, |active| &active.subscriptions)
    }

    /// Adds a subscription, or replaces the one to the same filter.
    pub(crate) fn subscribe(&mut self, subscription: Subscription) {
        let Feed { hub, mailbox, client_id, active, .. } = self;
        let active = active.get_or_insert_with(|| {
            let (subscriptions, pending) = (subscription::none(), VecDeque::new());
            Box::new(Active { subscriptions, pending, mode: Mode::Idle })
        });
        let id = match active.mode {
            Mode::Idle => {
                let id = hub.join(Arc::clone(mailbox), Arc::clone(client_id));
                active.mode = Mode::Behind(id, subscription.options.from);
                id
            }
            Mode::Live(id) | Mode::Behind(id, _) | Mode::Reading(id, ..) => id,
        };
        let list = Arc::make_mut(&mut active.subscriptions);
        match list.iter_mut().find(|other| other.filter == subscription.filter) {
            Some(other) => {
                // A renewed subscription keeps what it has not yet delivered.
                let from = other.options.from;
                other.options = Options { from, ..subscription.options };
                self.hub.subscribe(id, other.filter.as_str(), other.options);
            }
            None => {
                self.hub.subscribe(id, subscription.filter.as_str(), subscription.options);
                list.push(subscription);
            }
        }
    }

    /// Removes a subscription; false if there was none.
    pub(crate) fn unsubscribe(&mut self, filter: &str) -> bool {
        let Some(active) = &mut self.active else { return false };
        let Some(at) = active.subscriptions.iter().position(|s| s.filter.as_str() == filter) else {
            return false;
        };
        Arc::make_mut(&mut active.subscriptions).swap_remove(at);
        match active.mode {
            Mode::Idle => {}
            Mode::Live(id) | Mode::Behind(id, _) | Mode::Reading(id, ..) => {
                self.hub.unsubscribe(id, filter);
                if active.subscriptions.is_empty() {
                    self.hub.leave(id, std::iter::empty());
                    active.mode = Mode::Idle;
                }
            }
        }
        true
    }

    /// Ready once [`front`](Self::front) has something.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Feed { hub, mailbox, client_id, quiet_until, active } = self;
        let Some(active) = active else { return Poll::Pending };
        while active.pending.is_empty() {
            match &mut active.mode {
                Mode::Idle => return Poll::Pending,
                Mode::Live(id) => match mailbox.take(&mut active.pending) {
                    Post::Some => {}
                    Post::Nothing => return Poll::Pending,
                    Post::Behind(from) => active.mode = Mode::Behind(*id, from),
                },
                Mode::Behind(id, from) => {
                    let (id, from) = (*id, *from);
                    active.mode = active.catch_up(hub, client_id, *quiet_until, id, from);
                }
                Mode::Reading(id, from, read) => {
                    let (id, from) = (*id, *from);
                    let Poll::Ready(found) = Pin::new(read).poll(cx) else {
                        return Poll::Pending;
                    };
                    let found = found.unwrap_or_else(|cause| {
                        Err(Error::internal(format!("a read died: {cause}")))
                    });
                    active.mode = active.found(hub, id, from, found);
                }
            }
        }
        Poll::Ready(())
    }

    /// The next message, after [`poll`](Self::poll) was ready.
    pub(crate) fn front(&self) -> Option<&Delivery> {
        self.active.as_ref()?.pending.front()
    }

    /// Removes the next message.
    pub(crate) fn pop(&mut self) -> Option<Delivery> {
        let pending = &mut self.active.as_mut()?.pending;
        let delivery = pending.pop_front();
        if pending.is_empty() && pending.capacity() > 64 {
            // The queues of mailbox and feed are swapped back and forth; an idle one is freed.
            pending.shrink_to(0);
        }
        delivery
    }

    /// The first offset that was not given out.
    pub(crate) fn position(&self) -> Offset {
        let first = self.front().map(|delivery| delivery.offset);
        first.unwrap_or_else(|| match self.active.as_ref().map(|active| &active.mode) {
            None | Some(Mode::Idle) => self.hub.journal.durable(),
            Some(Mode::Live(id)) => self.hub.position(*id),
            Some(Mode::Behind(_, from) | Mode::Reading(_, from, _)) => *from,
        })
    }

    /// Leaves the hub; gives the first offset that was not given out.
    pub(crate) fn close(&mut self) -> Offset {
        let first = self.front().map(|delivery| delivery.offset);
        let next = self.active.take().and_then(|active| {
            let filters = active.subscriptions.iter().map(|s| s.filter.as_str());
            match active.mode {
                Mode::Idle => None,
                Mode::Live(id) => self.hub.leave(id, filters),
                Mode::Behind(id, from) | Mode::Reading(id, from, _) => {
                    self.hub.leave(id, filters);
                    Some(from)
                }
            }
        });
        first.or(next).unwrap_or_else(|| self.hub.journal.durable())
    }
}

impl Active {
    /// Goes live if nothing is left to read, else starts a read.
    fn catch_up(
        &self,
        hub: &Arc<Hub>,
        client_id: &Arc<str>,
        quiet_until: Offset,
        id: MemberId,
        from: Offset,
    ) -> Mode {
        if from >= hub.journal.durable() && hub.go_live(id, from) {
            return Mode::Live(id);
        }
        let (hub, client_id) = (Arc::clone(hub), Arc::clone(client_id));
        let subscriptions = Arc::clone(&self.subscriptions);
        // Reading the log may touch the disk: not on the threads that serve sockets.
        let read = tokio::task::spawn_blocking(move || {
            read_log(&hub, from, subscriptions, &client_id, quiet_until)
        });
        Mode::Reading(id, from, read)
    }

    fn found(&mut self, hub: &Hub, id: MemberId, from: Offset, found: Result<Found>) -> Mode {
        match found {
            // Somebody subscribed meanwhile: what was read may lack a match.
            Ok(found) if !Arc::ptr_eq(&found.subscriptions, &self.subscriptions) => {
                Mode::Behind(id, from)
            }
            Ok(found) => {
                self.pending = found.deliveries;
                Mode::Behind(id, found.next)
            }
            Err(cause) => {
                // The journal retries nothing and neither do we: it is told apart by its own
                // alarm. The subscriber goes on with what comes.
                let next = hub.journal.durable();
                error!(%cause, %from, to = %next, "failed to read the log for a subscriber");
                hub.counters.undelivered_corrupt.add(next.0.saturating_sub(from.0));
                Mode::Behind(id, next.max(from))
            }
        }
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.close();
    }
}

/// The record at `offset`, in memory of its own; `None` if it left the log. Blocks on the disk.
pub(crate) fn read_one(journal: &dyn Journal, offset: Offset) -> Option<Bytes> {
    let records = journal.read(offset, 1).ok()?;
    let (found, record) = records.items.into_iter().next()?;
    (found == offset).then(|| Bytes::copy_from_slice(&record))
}

fn read_log(
    hub: &Hub,
    from: Offset,
    subscriptions: Subscriptions,
    client_id: &str,
    quiet_until: Offset,
) -> Result<Found> {
    let records = hub.journal.read(from, READ_BYTES)?;
    for skipped in &records.skipped {
        warn!(client_id, from = %skipped.from, to = %skipped.to, "the log was trimmed past a subscriber");
        hub.counters.undelivered_trimmed.add(skipped.to.0 - skipped.from.0);
    }
    let mut deliveries = VecDeque::new();
    for (offset, record) in records.items {
        let Ok(message) = MessageRef::decode(&record) else {
            error!(%offset, "a log record is not a message; a subscriber misses it");
            hub.counters.undelivered_corrupt.one();
            continue;
        };
        let Some(qos) = select(&subscriptions, offset, &message, client_id) else { continue };
        if qos == QoS::AtMostOnce && offset < quiet_until {
            continue;
        }
        // A copy: a slice would keep the whole commit it came with.
        deliveries.push_back(Delivery { offset, qos, record: Bytes::copy_from_slice(&record) });
    }
    Ok(Found { deliveries, next: records.next, subscriptions })
}
