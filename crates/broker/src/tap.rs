//! A subscriber inside the process, for `forebay topic tail`.

use std::sync::Arc;

use base::{Message, Offset, QoS, TopicFilter};
use tracing::error;

use crate::Broker;
use crate::feed::Feed;
use crate::hub::Mailbox;
use crate::subscription::{Options, Subscription};

/// A message seen by a tap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tapped {
    /// Its place in the log.
    pub offset: Offset,
    /// The message.
    pub message: Message,
}

/// Every durable message that a filter selects, from the moment it was made. A tap that is not
/// read costs one mailbox and goes on from the log.
pub struct Tap {
    broker: Arc<Broker>,
    mailbox: Arc<Mailbox>,
    feed: Feed,
}

impl Tap {
    pub(crate) fn open(broker: Arc<Broker>, filter: TopicFilter) -> Tap {
        let mailbox = Arc::<Mailbox>::default();
        let from = broker.journal.durable();
        let mut feed = Feed::open(
            Arc::clone(&broker.hub),
            Arc::clone(&mailbox),
            "".into(),
            Arc::default(),
            from,
            from,
        );
        let options = Options::plain(QoS::ExactlyOnce, from);
        feed.subscribe(Subscription { filter, options });
        Tap { broker, mailbox, feed }
    }

    /// The next message. Waits for ever if none comes.
    pub async fn next(&mut self) -> Tapped {
        loop {
            std::future::poll_fn(|cx| {
                self.mailbox.waker.register(cx.waker());
                self.feed.poll(cx)
            })
            .await;
            let Some(delivery) = self.feed.pop() else { continue };
            match Message::decode(&delivery.record) {
                Ok(message) => return Tapped { offset: delivery.offset, message },
                Err(cause) => error!(%cause, offset = %delivery.offset, "a record is unreadable"),
            }
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.broker.tap_closed();
    }
}
